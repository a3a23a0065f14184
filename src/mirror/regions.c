/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/regions.h"

#include "base/bytes.h"

#include <string.h>

#define BLOCKS_LEAST 256u /* of a region: reads stay large */
#define BUSY_SHARE   128u /* a region is busy when this part of its blocks was written */

void regions_note(struct regions *r, const struct bitmap *written)
{
    for (uint64_t i = 0, first = 0; first < written->bits; i++, first += r->blocks) {
        struct bitmap part = {written->words + first / 64, MIN(r->blocks, written->bits - first)};

        (void)__atomic_fetch_add(&r->marks[i], bitmap_count(&part), __ATOMIC_RELAXED);
    }
}

bool regions_is_busy(const struct regions *r, uint64_t block)
{
    return __atomic_load_n(&r->marks[block / r->blocks], __ATOMIC_RELAXED) >= r->blocks / BUSY_SHARE;
}

uint64_t regions_end(const struct regions *r, uint64_t block)
{
    return (block / r->blocks + 1) * r->blocks;
}

/* A server can have kept marks for days: where nearly all is marked they do not say where the guest writes now. */
static bool says_nothing(const struct regions *r, uint64_t blocks)
{
    uint64_t busy = 0;

    for (uint64_t first = 0; first < blocks; first += r->blocks)
        busy += regions_is_busy(r, first);
    return busy * r->blocks > blocks / 8 * 7;
}

void regions_init(struct regions *r, const struct bitmap *written)
{
    uint64_t each = DIV_ROUND_UP(written->bits, REGIONS_MAX);

    *r = (struct regions){.blocks = DIV_ROUND_UP(MAX(each, BLOCKS_LEAST), 64) * 64};
    regions_note(r, written);
    if (says_nothing(r, written->bits))
        memset(r->marks, 0, sizeof(r->marks));
}
