/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where a migration's disks are put at the target: new volumes in an SR (an LVM volume group or a folder), or existing ones that
 * were named. Whatever way, the volume has exactly the size asked for and reads as zeroes, unless an old copy is to be kept. */
#ifndef XMOTION_MIRROR_VOLUME_H
#define XMOTION_MIRROR_VOLUME_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define VOLUME_PATH_MAX 1024
#define VOLUME_NAME_MAX 120

enum volume_kind { VOLUME_LVM, VOLUME_FILE, VOLUME_EXISTING };

struct volume_sr {
    enum volume_kind kind;      /* LVM or FILE */
    char place[VOLUME_PATH_MAX]; /* volume group, or absolute path of the folder */
};

struct volume {
    enum volume_kind kind;
    char path[VOLUME_PATH_MAX];
    uint64_t size;
};

/* "lvm:VG" or "dir:/PATH". -EINVAL with what is expected. Whether it exists is not looked at. */
int volume_sr_parse(struct volume_sr *ret, const char *spec, struct err *err);

/* The SR exists and has `bytes` free. -ENOSPC with both figures. */
int volume_sr_check(const struct volume_sr *sr, uint64_t bytes, struct err *err);

/* A name that is safe as a file's or LV's: made of the last component of `label`, [A-Za-z0-9._+-] only, never
 * empty, not beginning with '-' or '.'. */
void volume_safe_name(char *ret, const char *label);

/* What volume_create would make, without making it: for the journal, which is written first. */
int volume_plan(struct volume *ret, const struct volume_sr *sr, const char *name, uint64_t size, struct err *err);

/* Makes it, zeroed, marked as made by migration `session`. -EEXIST: there is one of that name. -EINVAL: the SR cannot
 * make exactly that size. */
int volume_create(const struct volume *v, const struct volume_sr *sr, const char *session, struct err *err);

/* An existing device or file as a target: exact size, in nobody's use (-EBUSY), zeroed here. `keep`: not zeroed, what it holds is
 * compared with what the source offers. */
int volume_adopt(struct volume *ret, const char *path, uint64_t size, bool keep, struct err *err);
int volume_adopt_check(const char *path, uint64_t size, struct err *err);

/* One that volume_create made for `session` earlier, or that was adopted, is still there, and can be gone on with: nothing is
 * changed. -ENOENT: it is gone; -EEXIST: another stands there, without the session's mark; -EINVAL: its size has changed;
 * -EBUSY (adopted ones): somebody uses it. */
int volume_reopen(const struct volume *v, const char *session, struct err *err);

/* Removes what volume_create made for `session`; one that is not there, or is another's, is left alone (0). An existing one stays. */
int volume_remove(const struct volume *v, const char *session, struct err *err);

/* LVM half, volume-lvm.c. */
/* What LVM's tools call it: "/dev/vg0/x" is "vg0/x". Points into `path`. */
const char *volume_lvm_name(const char *path);
int volume_lvm_check(const char *vg, uint64_t bytes, struct err *err);
int volume_lvm_create(const struct volume *v, const char *vg, const char *session, struct err *err);
int volume_lvm_reopen(const struct volume *v, const char *session, struct err *err);
int volume_lvm_remove(const char *path, const char *session, struct err *err);

#endif
