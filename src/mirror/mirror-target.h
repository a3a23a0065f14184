/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One disk from there to here: the target's half. */
#ifndef XMOTION_MIRROR_MIRROR_TARGET_H
#define XMOTION_MIRROR_MIRROR_TARGET_H

#include "mirror/blockdev.h"
#include "transport/wire.h"

struct mirror_target;

struct mirror_target_config {
    /* Reads as zeroes all over (volume.h sees to it), unless the source offers every block (KEEP). Taken over, also on failure. */
    struct blockdev *dev;
    /* The same disk, opened for direct reads: every block that is written is read back from it and compared, and written once
     * more when it differs. Taken over, also on failure. NULL: not verified. */
    struct blockdev *back;
    /* What it holds is somebody's, and stays only where the source knows it: the first that comes of each 64 KiB is an offer, or all of it. */
    bool reused;
};

struct mirror_target_stats {
    uint64_t written;  /* octets of data */
    uint64_t kept;     /* octets that were offered, and were here already */
    uint64_t verified; /* octets of data and zeroes that were read back */
    uint64_t repaired; /* blocks that differed, and did not when they had been written again */
};

int mirror_target_create(struct mirror_target **ret, const struct mirror_target_config *config, struct err *err);
void mirror_target_destroy(struct mirror_target *m);

/* Takes one DISK_DATA body that wire_check_disk_data accepted: decodes, checks every checksum before anything is written, writes,
 * reads back; KEEP blocks that differ from what is here are set in `need`. Several threads at once. -EBADMSG: a checksum
 * differs. -EIO: the disk does not hold what was written to it twice. */
int mirror_target_write(struct mirror_target *m, const struct wire_disk_head *head, const uint8_t *blocks,
                        const uint8_t *payload, struct wire_need *need, struct err *err);

int mirror_target_flush(struct mirror_target *m, struct err *err);
/* How many 64 KiB were neither sent nor kept so far. */
uint64_t mirror_target_gaps(const struct mirror_target *m);
uint64_t mirror_target_digest(struct mirror_target *m);
void mirror_target_stats(const struct mirror_target *m, struct mirror_target_stats *ret);

#endif
