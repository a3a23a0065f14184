/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Room for a guest that comes. Restoring claims no memory beforehand, so without it Xen would fail
 * in mid-stream. Where dom0 was not given a fixed size at boot it holds all memory and gives some
 * away, as "xl create" lets it. */
#include "hv/xen/xen-agent.h"

#include "base/clock.h"
#include "hv/xen/xen-libxl.h"

#include <string.h>

#define KEEP_FOR_DOM0_KB (UINT64_C(512) << 10)
#define BALLOON_SECONDS  20

static int ask_memory(struct agent *a, libxl_domain_config *config, uint64_t *ret_need,
                      uint64_t *ret_free, struct err *err)
{
    int rc;

    libxl_complaint_clear();
    rc = libxl_domain_need_memory(a->ctx, config, (uint32_t)INVALID_DOMID, ret_need);
    if (!rc)
        rc = libxl_get_free_memory(a->ctx, ret_free);
    return rc ? err_libxl(err, -EIO, rc, "asking for this host's free memory") : 0;
}

/* What dom0 can give, in KiB. With dom0_mem= on Xen's command line the administrator has decided:
 * nothing. */
static uint64_t dom0_spare(struct agent *a)
{
    const libxl_version_info *version = libxl_get_version_info(a->ctx);
    uint64_t target = 0;

    if (!version || !version->commandline || strstr(version->commandline, "dom0_mem="))
        return 0;
    if (libxl_get_memory_target(a->ctx, 0, &target) || target < KEEP_FOR_DOM0_KB)
        return 0;
    return target - KEEP_FOR_DOM0_KB;
}

int xen_memory_check(struct agent *a, libxl_domain_config *config, struct err *err)
{
    uint64_t need = 0, available = 0;
    int rc = ask_memory(a, config, &need, &available, err);

    if (rc)
        return rc;
    if (available < need)
        available += dom0_spare(a);
    if (available >= need)
        return 0;
    return err_set(err, -ENOMEM,
                   "the guest needs %llu MiB and Xen has %llu MiB free here: take some from dom0 "
                   "(xl mem-set 0 ...) or from "
                   "another guest",
                   (unsigned long long)((need + 1023) / 1024),
                   (unsigned long long)(available / 1024));
}

int xen_memory_free(struct agent *a, libxl_domain_config *config, struct err *err)
{
    uint64_t need = 0, available = 0, end = clock_now() + BALLOON_SECONDS * NS_PER_SEC;
    int rc = xen_memory_check(a, config, err);

    if (!rc)
        rc = ask_memory(a, config, &need, &available, err);
    if (rc || available >= need)
        return rc;
    log_line("dom0 gives %llu KiB to the guest", (unsigned long long)(need - available));
    if (libxl_set_memory_target(a->ctx, 0, -(int64_t)(need - available), 1, 0))
        return err_set(err, -ENOMEM, "dom0 does not give the memory that the guest needs: %s",
                       libxl_complaint());
    while (available < need && clock_now() < end) {
        clock_sleep(100 * NS_PER_MS);
        rc = ask_memory(a, config, &need, &available, err);
        if (rc)
            return rc;
    }
    return available >= need ? 0
                             : err_set(err, -ENOMEM, "dom0 did not give memory back within %d s",
                                       BALLOON_SECONDS);
}
