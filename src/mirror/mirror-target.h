/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One disk from there to here: the target's half. */
#ifndef XMOTION_MIRROR_TARGET_H
#define XMOTION_MIRROR_TARGET_H

#include "mirror/blockdev.h"
#include "transport/wire.h"

struct mirror_target;

/* `dev` reads as zeroes all over (volume.h sees to it). It is taken over, also on failure. */
int mirror_target_create(struct mirror_target **ret, struct blockdev *dev, struct err *err);
void mirror_target_destroy(struct mirror_target *m);

/* Takes one DISK_DATA body that wire_check_disk_data accepted: decodes, checks every checksum before anything is
 * written, writes. Several threads at once. -EBADMSG: a checksum differs. */
int mirror_target_write(struct mirror_target *m, const struct wire_disk_head *head, const uint8_t *blocks,
                        const uint8_t *payload, struct err *err);

int mirror_target_flush(struct mirror_target *m, struct err *err);
uint64_t mirror_target_digest(struct mirror_target *m);
uint64_t mirror_target_written(struct mirror_target *m); /* octets of data */

#endif
