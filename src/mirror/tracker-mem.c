/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A tracker without a disk: tests set the marks. */
#include "mirror/tracker.h"

#include <assert.h>
#include <stdlib.h>

struct tracker_mem {
    struct tracker tracker;
    struct bitmap marks;
};

static struct tracker_mem *self(struct tracker *t)
{
    return (struct tracker_mem *)t;
}

static int mem_collect(struct tracker *t, struct bitmap *dirty, uint64_t *ret_blocks,
                       struct err *err)
{
    (void)err;
    assert(dirty->bits == t->blocks);
    *ret_blocks = bitmap_take(dirty, self(t)->marks.words);
    return 0;
}

static uint64_t mem_count(struct tracker *t)
{
    return bitmap_count(&self(t)->marks);
}

static int mem_reset(struct tracker *t, struct err *err)
{
    (void)t;
    (void)err;
    return 0;
}

/* A mark is set when the write is done: none is ever in flight. */
static int mem_drain(struct tracker *t, uint64_t timeout_ns, struct err *err)
{
    (void)t;
    (void)timeout_ns;
    (void)err;
    return 0;
}

static int mem_audit(struct tracker *t, struct err *err)
{
    (void)t;
    (void)err;
    return 0;
}

static void mem_destroy(struct tracker *t)
{
    bitmap_finish(&self(t)->marks);
    free(t);
}

static const struct tracker_ops mem_ops = {
    .name = "mem",
    .collect = mem_collect,
    .count = mem_count,
    .reset = mem_reset,
    .drain = mem_drain,
    .audit = mem_audit,
    .destroy = mem_destroy,
};

int tracker_open_mem(struct tracker **ret, uint64_t size, struct err *err)
{
    struct tracker_mem *t = calloc(1, sizeof(*t));
    int r = -ENOMEM;

    if (t) {
        t->tracker.ops = &mem_ops;
        t->tracker.blocks = size / TRACKER_GRANULARITY + (size % TRACKER_GRANULARITY != 0);
        r = bitmap_init(&t->marks, t->tracker.blocks);
    }
    if (r < 0) {
        free(t);
        return err_set(err, r, "no memory to track %llu octets", (unsigned long long)size);
    }
    *ret = &t->tracker;
    return 0;
}

void tracker_mem_mark(struct tracker *t, uint64_t offset, uint64_t length)
{
    uint64_t first = offset / TRACKER_GRANULARITY;
    uint64_t last;

    assert(t->ops == &mem_ops);
    if (length == 0)
        return;
    last = (offset + length - 1) / TRACKER_GRANULARITY;
    assert(last < t->blocks);
    bitmap_set_run(&self(t)->marks, first, last - first + 1);
}
