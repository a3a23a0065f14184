/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disks that a guest left behind when it moved away: each bears the guest's uuid, so that when that guest comes back its old
 * copy may be reused (--reuse), and nobody else's. */
#ifndef XMOTION_MIRROR_VOLUME_LEFT_H
#define XMOTION_MIRROR_VOLUME_LEFT_H

#include "base/err.h"

#include <stdbool.h>

/* Marks a file (an attribute) or an LV (a tag). -ENOTSUP: a disk of another kind, or a file system without attributes: it cannot
 * be reused later but by name. */
int volume_left_mark(const char *path, const char *uuid, struct err *err);

/* Takes the mark away: the guest is back. Nothing is said about one that has none. */
void volume_left_unmark(const char *path);

/* Whether it was left here by the guest of that uuid. */
bool volume_left_by(const char *path, const char *uuid);

#endif
