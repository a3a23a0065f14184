/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* hv-recover.h for one kind of guests; the contracts are there. */
#ifndef XMOTION_HV_HV_RECOVER_PRIV_H
#define XMOTION_HV_HV_RECOVER_PRIV_H

#include "hv/hv-recover.h"

struct hv_recover_ops {
    int (*find)(struct hv_found *ret, const char *name, const char *uuid, struct err *err);
    int (*resume)(const char *name, const char *uuid, struct err *err);
    int (*destroy_aside)(const char *name, const char *uuid, struct err *err);
    int (*destroy_incoming)(const char *name, const char *uuid, struct err *err);
    int (*start)(const char *name, const json_t *config, const char *const *disk_paths, unsigned int disk_count,
                 struct err *err);
    int (*unthrottle)(const char *name, const char *uuid, struct err *err);
};

extern const struct hv_recover_ops hv_recover_xen;
extern const struct hv_recover_ops hv_recover_proc;

#endif
