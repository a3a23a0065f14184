/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Slowing a guest down by its scheduler's cap. The cap that was there before is kept in the xenstore, in the folder that libxl
 * removes with the domain and that no guest can write to: whoever comes after a crash puts it back. */
#include "hv/xen/xen-agent.h"

#include "base/cleanup.h"
#include "hv/xen/xen-libxl.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void note_path(const struct agent *a, char path[64])
{
    (void)snprintf(path, 64, "/libxl/%u/xmotion-cap", a->domid);
}

/* False: the cap was never changed. */
static bool read_note(struct agent *a, int *ret_cap)
{
    CLEANUP_FREE char *value = NULL;
    unsigned int length;
    char path[64];

    note_path(a, path);
    value = xs_read(a->xs, XBT_NULL, path, &length);
    *ret_cap = value ? atoi(value) : 0;
    return value;
}

static int write_note(struct agent *a, int cap, struct err *err)
{
    char path[64], text[16];

    note_path(a, path);
    (void)snprintf(text, sizeof(text), "%d", cap);
    if (!xs_write(a->xs, XBT_NULL, path, text, (unsigned int)strlen(text)))
        return err_errno(err, -errno, "noting the guest's cap in the xenstore");
    return 0;
}

static void remove_note(struct agent *a)
{
    char path[64];

    note_path(a, path);
    (void)xs_rm(a->xs, XBT_NULL, path);
}

static int set_cap(struct agent *a, libxl_domain_sched_params *params, int cap, struct err *err)
{
    int rc;

    params->cap = cap;
    libxl_complaint_clear();
    rc = libxl_domain_sched_params_set(a->ctx, a->domid, params);
    if (rc)
        return err_libxl(err, -EIO, rc, "changing the cap of the guest's processors");
    log_line("domain %u, %s: its cap is %d%%%s now", a->domid, a->name, cap, cap ? "" : " (none)");
    return 0;
}

static int get_params(struct agent *a, libxl_domain_sched_params *ret, struct err *err)
{
    int rc;

    libxl_domain_sched_params_init(ret);
    libxl_complaint_clear();
    rc = libxl_domain_sched_params_get(a->ctx, a->domid, ret);
    if (rc)
        return err_libxl(err, -EIO, rc, "reading the guest's scheduler parameters");
    if (ret->sched != LIBXL_SCHEDULER_CREDIT && ret->sched != LIBXL_SCHEDULER_CREDIT2)
        return err_set(err, -ENOTSUP, "the scheduler %s has no cap: a guest can be slowed down only with credit or credit2",
                       libxl_scheduler_to_string(ret->sched));
    return 0;
}

/* A cap is percent of one processor; none is all of the guest's. */
static int cap_for(unsigned int percent, int original, unsigned int vcpus)
{
    unsigned int all = original ? (unsigned int)original : vcpus * 100;
    unsigned int cap = all * percent / 100;

    return (int)(cap ? cap : 1);
}

static int put_back(struct agent *a, struct err *err)
{
    libxl_domain_sched_params params;
    int original, rc;

    if (!read_note(a, &original))
        return 0;
    rc = get_params(a, &params, err);
    if (!rc)
        rc = set_cap(a, &params, original, err);
    libxl_domain_sched_params_dispose(&params);
    if (!rc)
        remove_note(a);
    return rc;
}

static int slow_down(struct agent *a, unsigned int percent, struct err *err)
{
    libxl_domain_sched_params params;
    libxl_dominfo info;
    int original, rc = xen_domain_info(a, &info, err);

    if (rc)
        return rc;
    rc = get_params(a, &params, err);
    if (!rc && !read_note(a, &original)) {
        original = params.cap;
        rc = write_note(a, original, err);
    }
    if (!rc)
        rc = set_cap(a, &params, cap_for(percent, original, info.vcpu_online), err);
    libxl_domain_sched_params_dispose(&params);
    libxl_dominfo_dispose(&info);
    return rc;
}

int xen_throttle(struct agent *a, unsigned int percent, struct err *err)
{
    if (percent < 1 || percent > 100)
        return err_set(err, -EINVAL, "a guest cannot have %u%% of its processors", percent);
    return percent == 100 ? put_back(a, err) : slow_down(a, percent, err);
}

void xen_unthrottle(struct agent *a)
{
    struct err err;

    if (put_back(a, &err))
        log_line("%s", err.text);
}
