/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where on a disk the guest writes while it is copied. What is written a lot is copied last: whatever was written before it was read
 * need not be sent again. */
#ifndef XMOTION_MIRROR_REGIONS_H
#define XMOTION_MIRROR_REGIONS_H

#include "base/bitmap.h"

#include <stdbool.h>
#include <stdint.h>

#define REGIONS_MAX 1024u

struct regions {
    uint64_t blocks; /* of a region: whole words of a bitmap */
    uint64_t marks[REGIONS_MAX]; /* seen so far, a block each time; one thread notes them while others ask */
};

/* Of a disk as large as `written`, of which these blocks were written before. */
void regions_init(struct regions *r, const struct bitmap *written);

/* These blocks were written since. */
void regions_note(struct regions *r, const struct bitmap *written);

/* The region of `block` is one that is written a lot. */
bool regions_is_busy(const struct regions *r, uint64_t block);

/* The first block behind the region of `block`, which may be behind the disk. */
uint64_t regions_end(const struct regions *r, uint64_t block);

#endif
