/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A dirty bitmap: one bit per block (or page). Words are atomic, so that one thread may set bits
 * while another takes them; nothing else is locked. */
#ifndef XMOTION_BASE_BITMAP_H
#define XMOTION_BASE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct bitmap {
    uint64_t *words;
    uint64_t bits;
};

/* All bits clear. Returns 0 or -ENOMEM. bitmap_finish takes a zeroed struct. */
int bitmap_init(struct bitmap *b, uint64_t bits);
void bitmap_finish(struct bitmap *b);

static inline uint64_t bitmap_words(uint64_t bits)
{
    return (bits + 63) / 64;
}

bool bitmap_test(const struct bitmap *b, uint64_t bit);
void bitmap_set(struct bitmap *b, uint64_t bit);
void bitmap_clear(struct bitmap *b, uint64_t bit);

/* Runs may be empty; they must lie inside the bitmap. */
void bitmap_set_run(struct bitmap *b, uint64_t first, uint64_t count);
void bitmap_clear_run(struct bitmap *b, uint64_t first, uint64_t count);
void bitmap_set_all(struct bitmap *b);

uint64_t bitmap_count(const struct bitmap *b);

/* Finds the first run of set bits at or after `from`, at most `most` bits long. Returns its length,
 * 0 when there is none. */
uint64_t bitmap_next_run(const struct bitmap *b, uint64_t from, uint64_t most, uint64_t *ret_first);

/* Moves every bit of the `words` at `from` into `b` (atomic exchange with 0, then OR): what is set
 * afterwards in `from` came later. Returns the number of bits that were taken. `from` holds
 * bitmap_words(b->bits) words and may be shared with the kernel or another process. */
uint64_t bitmap_take(struct bitmap *b, uint64_t *from);

/* Clears every bit that is set in `other`, which is as large. Returns the number of bits that are left. */
uint64_t bitmap_subtract(struct bitmap *b, const struct bitmap *other);

#endif
