/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What sysfs says of a block device: its class, where it lies on its disk, and the kernel's own
 * counts of what went to it. */
#ifndef XMOTION_MIRROR_BPF_BLOCK_SYSFS_H
#define XMOTION_MIRROR_BPF_BLOCK_SYSFS_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct block_place {
    unsigned int major; /* of the device, which may be a partition */
    unsigned int minor;
    unsigned int disk_major; /* of the whole disk */
    unsigned int disk_minor;
    bool partition;
    bool request_based; /* blk-mq; else bio-based */
    uint64_t start;     /* sectors of 512 octets on the whole disk */
    uint64_t size;      /* octets */
};

/* Sectors of 512 octets since the device exists. */
struct block_figures {
    uint64_t read;
    uint64_t written; /* write-zeroes and secure erases count here */
    uint64_t discarded;
};

/* Looks up the open block device `fd`. -ENOTSUP for one that cannot be tracked: no block device,
 * empty, zoned, or told to keep no counters. */
int block_place_find(struct block_place *ret, int fd, struct err *err);

/* A partition's figures have only what was submitted through the partition. */
int block_figures_read(const struct block_place *place, struct block_figures *ret, struct err *err);

/* Writes (discards and all else that changes data too) that the driver has not finished. */
int block_writes_in_flight(const struct block_place *place, uint64_t *ret_count, struct err *err);

#endif
