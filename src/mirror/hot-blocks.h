/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Blocks that are written over and over are put off to the last pass: what was marked in each of three passes running will be marked again
 * before its copy is of any use. Passes over many blocks say nothing of that and are not remembered, so that memory is bounded
 * whatever the disk's size. No locks: one thread at a time. */
#ifndef XMOTION_MIRROR_HOT_BLOCKS_H
#define XMOTION_MIRROR_HOT_BLOCKS_H

#include "base/bitmap.h"

#include <stdbool.h>
#include <stddef.h>

#define HOT_BLOCKS_MAX 4096u /* of a pass that is remembered */

struct hot_block {
    uint64_t block;
    uint32_t passes; /* running in which it was marked */
    bool put_off;    /* then it is kept, marked or not */
};

/* Zeroed at the beginning. */
struct hot_blocks {
    struct hot_block known[HOT_BLOCKS_MAX]; /* marked in the last pass, or put off; by rising number */
    struct hot_block next[HOT_BLOCKS_MAX];  /* for the next list in the making */
    size_t count;
    uint64_t put_off; /* how many of them are */
};

/* A new pass is over the blocks of `todo`: takes out of it what is put off, at most `most` blocks in all. Returns how many are left in it. */
uint64_t hot_blocks_sift(struct hot_blocks *h, struct bitmap *todo, uint64_t most);

/* What is put off goes back into `todo`, and nothing is remembered. */
void hot_blocks_give_back(struct hot_blocks *h, struct bitmap *todo);

#endif
