/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* After a crash: what is here of a guest, and what brings it to an end (hv-recover.h). Whoever asks knows from a journal whose the
 * guest is; here it is only made sure that nobody else works on it, and that it is the one which is meant. */
#include "hv/xen/xen-agent.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "hv/xen/xen-libxl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An agent whose controller died ends within seconds, if the guest follows its request to suspend; libxl waits two minutes for one
 * that does not, and then the next call finds it. */
#define WAIT_FOR_OTHERS_MS 60000
/* How long a guest that was asked to suspend by a process that died may take to do so. */
#define LATE_SUSPEND_MS 1000

enum at { AT_NAME, AT_ASIDE, AT_INCOMING, AT_COUNT };

static const char *const suffixes[AT_COUNT] = {"", MOVED_SUFFIX, INCOMING_SUFFIX};

struct request {
    const char *uuid; /* NULL: any */
};

static int read_request(struct agent *a, const json_t *json, struct request *ret, struct err *err)
{
    const char *name = json_string_value(json_object_get(json, "name"));
    int rc = name ? xen_name_check(name, err) : err_set(err, -EINVAL, "no guest is named");

    if (rc)
        return rc;
    (void)snprintf(a->name, sizeof(a->name), "%s", name);
    ret->uuid = json_string_value(json_object_get(json, "uuid"));
    return xen_lock_take(a, WAIT_FOR_OTHERS_MS, err);
}

static bool is_uuid(const libxl_uuid *uuid, const char *text)
{
    libxl_uuid wanted;

    return !text || (!libxl_uuid_from_string(&wanted, text) && !libxl_uuid_compare(&wanted, uuid));
}

/* The domain of the guest under its name with this suffix. -ENOENT: none, or another guest's. */
static int look(struct agent *a, const struct request *q, enum at at, uint32_t *ret_domid, libxl_dominfo *ret)
{
    char name[200];

    (void)snprintf(name, sizeof(name), "%s%s", a->name, suffixes[at]);
    if (libxl_name_to_domid(a->ctx, name, ret_domid))
        return -ENOENT;
    libxl_dominfo_init(ret);
    if (!libxl_domain_info(a->ctx, ret, *ret_domid) && is_uuid(&ret->uuid, q->uuid) && !ret->dying)
        return 0;
    libxl_dominfo_dispose(ret);
    return -ENOENT;
}

static bool is_suspended(const libxl_dominfo *info)
{
    return info->shutdown && info->shutdown_reason == LIBXL_SHUTDOWN_REASON_SUSPEND;
}

/* Built at the target and given its name; its receiver died before it was started. */
static bool never_ran(const libxl_dominfo *info)
{
    return info->paused && !info->shutdown && !info->cpu_time;
}

/* xl and libvirt save and migrate too: they hold the guest as long as they live. */
static int wait_for_savers(struct agent *a, uint32_t domid, struct err *err)
{
    uint64_t end = clock_now() + WAIT_FOR_OTHERS_MS * NS_PER_MS;
    int pid;

    while ((pid = xen_saver_of(a->name, domid)) && clock_now() < end)
        clock_sleep(200 * NS_PER_MS);
    return pid ? err_set(err, -EBUSY, "process %d saves or migrates the guest %s (domain %u)", pid, a->name, domid) : 0;
}

static int find_at(struct agent *a, const struct request *q, enum at at, json_t *reply, struct err *err)
{
    uint32_t domid;
    libxl_dominfo info;
    bool still;
    int rc;

    if (look(a, q, at, &domid, &info))
        return 0;
    still = at == AT_NAME && (is_suspended(&info) || never_ran(&info));
    libxl_dominfo_dispose(&info);
    if (still) { /* unless somebody is at it, who may end meanwhile */
        rc = wait_for_savers(a, domid, err);
        if (rc)
            return rc;
        if (look(a, q, at, &domid, &info))
            return 0;
        still = is_suspended(&info) || never_ran(&info);
        libxl_dominfo_dispose(&info);
    }
    json_object_set_new(reply, at == AT_ASIDE ? "aside" : at == AT_INCOMING ? "incoming" : still ? "still" : "running",
                        json_true());
    return 0;
}

int xen_recover_find(struct agent *a, const json_t *request, json_t *reply, struct err *err)
{
    struct request q;
    int rc = read_request(a, request, &q, err);

    for (enum at at = AT_NAME; at < AT_COUNT && !rc; at++)
        rc = find_at(a, &q, at, reply, err);
    xen_lock_drop(a);
    return rc;
}

/* Somebody asked the guest to suspend and died. Either the request is taken back, or the guest has taken it and will stand still
 * soon, with nobody to wake it. */
static int settle_request(struct agent *a, libxl_dominfo *info)
{
    uint64_t end = clock_now() + LATE_SUSPEND_MS * NS_PER_MS;
    CLEANUP_FREE char *value = NULL;
    unsigned int length;
    char path[64];
    int rc = 0;

    (void)snprintf(path, sizeof(path), "/local/domain/%u/control/shutdown", a->domid);
    value = xs_read(a->xs, XBT_NULL, path, &length);
    if (value && !strcmp(value, "suspend"))
        (void)xs_write(a->xs, XBT_NULL, path, "", 0);
    while (!rc && !info->shutdown && clock_now() < end) {
        clock_sleep(100 * NS_PER_MS);
        libxl_dominfo_dispose(info);
        rc = xen_domain_info(a, info, NULL);
    }
    return rc;
}

/* Lets the domain a->domid, which has its own name, run; what is known of it is disposed of. */
static int let_run(struct agent *a, libxl_dominfo *info, struct err *err)
{
    bool started = !never_ran(info), runs = started && !info->shutdown && !info->paused, ended;
    int rc = wait_for_savers(a, a->domid, err);

    if (!rc && runs && settle_request(a, info))
        return err_set(err, -ENOENT, "the guest %s has just ended", a->name); /* nothing to dispose of */
    ended = info->shutdown && !is_suspended(info);
    libxl_dominfo_dispose(info);
    if (rc || ended)
        return rc;
    agent_log_open(a->name);
    xen_unthrottle(a);
    xen_stop_log_dirty(a); /* a helper that was killed left it on */
    if (started)
        return xen_run_on(a, err);
    libxl_complaint_clear();
    rc = libxl_domain_unpause(a->ctx, a->domid, NULL);
    if (rc)
        return err_libxl(err, -EIO, rc, "the guest cannot be started");
    xen_scripts_restore(a);
    log_line("domain %u, %s, which was ready to run, runs here", a->domid, a->name);
    return 0;
}

static int resume_at(struct agent *a, const struct request *q, enum at at, struct err *err)
{
    libxl_dominfo info;
    int rc = look(a, q, at, &a->domid, &info);

    if (rc) {
        a->domid = (uint32_t)INVALID_DOMID;
        return rc;
    }
    a->aside = at == AT_ASIDE;
    rc = a->aside ? xen_take_name_back(a, err) : 0;
    if (!rc)
        return let_run(a, &info, err);
    libxl_dominfo_dispose(&info);
    return rc;
}

/* This agent stays as the guest's monitor if it has none: xl's ends when its guest is suspended. */
int xen_recover_resume(struct agent *a, const json_t *request, struct err *err)
{
    struct request q;
    int rc = read_request(a, request, &q, err);

    if (rc)
        return rc;
    rc = resume_at(a, &q, AT_NAME, err);
    if (!domid_set(a))
        rc = resume_at(a, &q, AT_ASIDE, err);
    if (!domid_set(a))
        rc = err_set(err, -ENOENT, "the guest %s is not at this host", a->name);
    xen_lock_drop(a);
    a->left_alone = rc;
    a->recovered = !rc;
    return rc;
}

int xen_recover_destroy_aside(struct agent *a, const json_t *request, struct err *err)
{
    libxl_dominfo info;
    struct request q;
    uint32_t domid;
    bool suspended;
    int rc = read_request(a, request, &q, err);

    if (rc || look(a, &q, AT_ASIDE, &domid, &info))
        goto out;
    suspended = is_suspended(&info);
    libxl_dominfo_dispose(&info);
    agent_log_open(a->name);
    libxl_complaint_clear();
    if (!suspended)
        rc = err_set(err, -EBUSY, "domain %u, %s" MOVED_SUFFIX ", does not stand still: it is not destroyed", domid, a->name);
    else if ((rc = libxl_domain_destroy(a->ctx, domid, NULL)) && rc != ERROR_DOMAIN_NOTFOUND)
        rc = err_libxl(err, -EIO, rc, "the guest's old domain cannot be destroyed");
    else
        rc = 0;
    if (!rc)
        log_line("domain %u, %s" MOVED_SUFFIX ", is destroyed", domid, a->name);
out:
    xen_lock_drop(a);
    return rc;
}

static int destroy_built(struct agent *a, const struct request *q, enum at at, struct err *err)
{
    libxl_dominfo info;
    bool built;

    if (look(a, q, at, &a->domid, &info))
        return 0;
    built = at == AT_INCOMING || never_ran(&info);
    libxl_dominfo_dispose(&info);
    if (!built)
        return 0;
    agent_log_open(a->name);
    return xen_target_destroy(a, err);
}

int xen_recover_destroy_incoming(struct agent *a, const json_t *request, struct err *err)
{
    struct request q;
    int rc = read_request(a, request, &q, err);

    if (!rc)
        rc = destroy_built(a, &q, AT_INCOMING, err);
    if (!rc && q.uuid) /* one that took its name, and was not let go */
        rc = destroy_built(a, &q, AT_NAME, err);
    a->domid = (uint32_t)INVALID_DOMID;
    xen_lock_drop(a);
    return rc;
}

static int check_absent(struct agent *a, struct err *err)
{
    struct request any = {0};
    libxl_dominfo info;
    uint32_t domid;

    for (enum at at = AT_NAME; at < AT_COUNT; at++) {
        if (look(a, &any, at, &domid, &info))
            continue;
        libxl_dominfo_dispose(&info);
        return err_set(err, -EEXIST, "there is a domain %s%s here (domain %u)", a->name, suffixes[at], domid);
    }
    return xen_check_uuid(a, &a->config.c_info.uuid, err);
}

/* As "xl create" would; what the guest was doing is lost, what it has written is not. */
int xen_recover_start(struct agent *a, const json_t *request, struct err *err)
{
    struct request q;
    int rc = read_request(a, request, &q, err);

    if (!rc)
        rc = xen_adopt_config(a, request, false, err);
    if (!rc)
        rc = check_absent(a, err);
    if (!rc) {
        agent_log_open(a->name);
        rc = xen_memory_free(a, &a->config, err);
    }
    if (!rc) {
        libxl_complaint_clear();
        rc = libxl_domain_create_new(a->ctx, &a->config, &a->domid, NULL, NULL);
        if (!rc)
            rc = libxl_domain_unpause(a->ctx, a->domid, NULL);
        if (rc)
            rc = err_libxl(err, -EIO, rc, "the guest cannot be started anew");
    }
    a->ran = !rc;
    if (!rc)
        log_line("domain %u, %s, is started anew from its disks", a->domid, a->name);
    xen_lock_drop(a);
    return rc;
}

int xen_recover_unthrottle(struct agent *a, const json_t *request, struct err *err)
{
    libxl_dominfo info;
    struct request q;
    int rc = read_request(a, request, &q, err);

    if (rc)
        return rc;
    if (look(a, &q, AT_NAME, &a->domid, &info) && look(a, &q, AT_ASIDE, &a->domid, &info)) {
        rc = err_set(err, -ENOENT, "the guest %s is not at this host", a->name);
    } else {
        libxl_dominfo_dispose(&info);
        agent_log_open(a->name);
        rc = xen_throttle(a, 100, err);
    }
    a->domid = (uint32_t)INVALID_DOMID;
    xen_lock_drop(a);
    return rc;
}
