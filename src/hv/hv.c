/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which hypervisor a guest belongs to. */
#include "hv/hv.h"
#include "hv/hv-recover-priv.h"

#include "config.h"

#include <string.h>

#define PROC_PREFIX "proc:"

#if !HAVE_NBD
/* The embedded guest's disks are NBD exports. */
int hv_source_open_proc(struct hv_source **ret, const char *name, struct err *err)
{
    return err_set(err, -ENOTSUP, "this xmotion was built without libnbd: no embedded guests (%s)",
                   name);
}

int hv_target_open_proc(struct hv_target **ret, const struct hv_guest *guest, struct err *err)
{
    return err_set(err, -ENOTSUP, "this xmotion was built without libnbd: no embedded guests (%s)",
                   guest->name);
}

static int no_find(struct hv_found *ret, const char *name, const char *uuid, struct err *err)
{
    (void)ret, (void)uuid;
    return hv_source_open_proc(NULL, name, err);
}

static int no_act(const char *name, const char *uuid, struct err *err)
{
    (void)uuid;
    return hv_source_open_proc(NULL, name, err);
}

static int no_destroy(const char *name, struct err *err)
{
    return hv_source_open_proc(NULL, name, err);
}

static int no_start(const char *name, const json_t *config, const char *const *disk_paths,
                    unsigned int disk_count, struct err *err)
{
    (void)config, (void)disk_paths, (void)disk_count;
    return hv_source_open_proc(NULL, name, err);
}

const struct hv_recover_ops hv_recover_proc = {no_find, no_act, no_act, no_destroy, no_start, no_act};
#endif

int hv_source_open(struct hv_source **ret, const char *guest, struct err *err)
{
    if (strncmp(guest, PROC_PREFIX, strlen(PROC_PREFIX)) == 0)
        return hv_source_open_proc(ret, guest + strlen(PROC_PREFIX), err);
    return hv_source_open_xen(ret, guest, err);
}

int hv_target_open(struct hv_target **ret, const struct hv_guest *guest, struct err *err)
{
    if (strcmp(guest->kind, "proc") == 0)
        return hv_target_open_proc(ret, guest, err);
    if (strcmp(guest->kind, "none") == 0)
        return hv_target_open_none(ret, guest, err);
    if (strncmp(guest->kind, "xen-", 4) == 0)
        return hv_target_open_xen(ret, guest, err);
    return err_set(err, -ENOTSUP, "a guest of kind '%s' is not known here", guest->kind);
}
