/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/hot-blocks.h"

#include <string.h>

#define PASSES_HOT 3

void hot_blocks_give_back(struct hot_blocks *h, struct bitmap *todo)
{
    for (size_t i = 0; i < h->count; i++) {
        if (h->known[i].put_off)
            bitmap_set(todo, h->known[i].block);
    }
    h->count = 0;
    h->put_off = 0;
}

/* The lowest set bit from `from` on; `todo->bits`: there is none. */
static uint64_t next_marked(const struct bitmap *todo, uint64_t from)
{
    uint64_t first;

    return from < todo->bits && bitmap_next_run(todo, from, 1, &first) ? first : todo->bits;
}

/* What is known of a block that is marked now, or was before, or both. */
static struct hot_block judge(const struct hot_block *known, uint64_t block, bool once_more, bool room)
{
    struct hot_block b = known ? *known : (struct hot_block){.block = block};

    b.passes = once_more ? b.passes + 1 : 0;
    b.put_off = b.put_off || (room && b.passes >= PASSES_HOT);
    return b;
}

/* Merges what is known with what is marked. False: these are too many. *ret_left: marked, and not put off. */
static bool list_next(struct hot_blocks *h, const struct bitmap *todo, uint64_t most, size_t *ret_count, uint64_t *ret_left)
{
    uint64_t marked = next_marked(todo, 0);
    size_t count = 0;
    size_t i = 0;

    *ret_left = 0;
    while (i < h->count || marked < todo->bits) {
        bool is_known = i < h->count && h->known[i].block <= marked;
        bool is_marked = !is_known || h->known[i].block == marked;
        struct hot_block b = judge(is_known ? &h->known[i] : NULL, marked, is_marked, h->put_off < most);

        h->put_off += b.put_off && !(is_known && h->known[i].put_off);
        *ret_left += is_marked && !b.put_off;
        i += is_known;
        if (is_marked)
            marked = next_marked(todo, marked + 1);
        if (!b.put_off && !b.passes)
            continue;
        if (count == HOT_BLOCKS_MAX)
            return false;
        h->next[count++] = b;
    }
    *ret_count = count;
    return true;
}

uint64_t hot_blocks_sift(struct hot_blocks *h, struct bitmap *todo, uint64_t most)
{
    uint64_t left;
    size_t count;

    if (h->put_off > most || !list_next(h, todo, most, &count, &left)) {
        hot_blocks_give_back(h, todo);
        return bitmap_count(todo);
    }
    memcpy(h->known, h->next, count * sizeof(*h->known));
    h->count = count;
    for (size_t i = 0; i < count; i++) {
        if (h->known[i].put_off)
            bitmap_clear(todo, h->known[i].block);
    }
    return left;
}
