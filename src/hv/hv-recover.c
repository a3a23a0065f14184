/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hv/hv-recover-priv.h"

#include <string.h>

/* Disks without a guest: there is nothing that runs, and nothing to do. */

static int none_find(struct hv_found *ret, const char *name, const char *uuid, struct err *err)
{
    (void)ret, (void)name, (void)uuid, (void)err;
    return 0;
}

static int none_act(const char *name, const char *uuid, struct err *err)
{
    (void)name, (void)uuid, (void)err;
    return 0;
}

static int none_destroy_incoming(const char *name, const char *uuid, struct err *err)
{
    (void)name, (void)uuid, (void)err;
    return 0;
}

static int none_start(const char *name, const json_t *config, const char *const *disk_paths,
                      unsigned int disk_count, struct err *err)
{
    (void)name, (void)config, (void)disk_paths, (void)disk_count, (void)err;
    return 0;
}

static const struct hv_recover_ops recover_none = {
    .find = none_find,
    .resume = none_act,
    .destroy_aside = none_act,
    .destroy_incoming = none_destroy_incoming,
    .start = none_start,
    .unthrottle = none_act,
};

static int ops_of(const char *kind, const struct hv_recover_ops **ret, struct err *err)
{
    if (strncmp(kind, "xen-", 4) == 0)
        *ret = &hv_recover_xen;
    else if (strcmp(kind, "proc") == 0)
        *ret = &hv_recover_proc;
    else if (strcmp(kind, "none") == 0)
        *ret = &recover_none;
    else
        return err_set(err, -ENOTSUP, "a guest of kind '%s' is not known here", kind);
    return 0;
}

int hv_recover_find(struct hv_found *ret, const char *kind, const char *name, const char *uuid,
                    struct err *err)
{
    const struct hv_recover_ops *ops;
    int r = ops_of(kind, &ops, err);

    *ret = (struct hv_found){0};
    return r < 0 ? r : ops->find(ret, name, uuid, err);
}

int hv_recover_resume(const char *kind, const char *name, const char *uuid, struct err *err)
{
    const struct hv_recover_ops *ops;
    int r = ops_of(kind, &ops, err);

    return r < 0 ? r : ops->resume(name, uuid, err);
}

int hv_recover_destroy_aside(const char *kind, const char *name, const char *uuid, struct err *err)
{
    const struct hv_recover_ops *ops;
    int r = ops_of(kind, &ops, err);

    return r < 0 ? r : ops->destroy_aside(name, uuid, err);
}

int hv_recover_destroy_incoming(const char *kind, const char *name, const char *uuid, struct err *err)
{
    const struct hv_recover_ops *ops;
    int r = ops_of(kind, &ops, err);

    return r < 0 ? r : ops->destroy_incoming(name, uuid, err);
}

int hv_recover_start(const char *kind, const char *name, const json_t *config,
                     const char *const *disk_paths, unsigned int disk_count, struct err *err)
{
    const struct hv_recover_ops *ops;
    int r = ops_of(kind, &ops, err);

    return r < 0 ? r : ops->start(name, config, disk_paths, disk_count, err);
}

int hv_recover_unthrottle(const char *kind, const char *name, const char *uuid, struct err *err)
{
    const struct hv_recover_ops *ops;
    int r = ops_of(kind, &ops, err);

    return r < 0 ? r : ops->unthrottle(name, uuid, err);
}
