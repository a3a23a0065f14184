/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A stream without connections: the test calls take and done itself, step by step. It stands in for stream_attach
 * and stream_kick, so a program that includes it must use nothing else of stream.h. */
#ifndef XMOTION_TESTS_FAKE_STREAM_H
#define XMOTION_TESTS_FAKE_STREAM_H

#include "transport/stream.h"

#include "unit.h"

#include <string.h>

#define FAKE_WORKERS 4u

static struct {
    const struct stream_source_ops *ops;
    void *source;
    unsigned int kicks;
    enum compress_mode compress;
} fake;

int stream_attach(struct stream *s, const struct stream_source_ops *ops, void *source, struct err *err)
{
    (void)s, (void)err;
    fake.ops = ops;
    fake.source = source;
    return 0;
}

void stream_kick(struct stream *s)
{
    (void)s;
    fake.kicks++;
}

/* One worker's turn: its record, put together from buffer and payload. */
struct fake_work {
    struct stream_work work;
    uint8_t body[WIRE_DATA_MAX];
    uint32_t length;
};

static inline int fake_take(struct fake_work *w, struct err *err)
{
    static uint8_t buffer[WIRE_DATA_MAX] __attribute__((aligned(4096)));
    static uint8_t scratch[WIRE_DATA_MAX] __attribute__((aligned(4096)));
    struct compress_choice choice;
    struct stream_work work = {.buffer = buffer, .scratch = scratch, .choice = &choice};
    int r;

    compress_choice_init(&choice, fake.compress);
    r = fake.ops->take(fake.source, &work, err);
    if (r < 0)
        return r;
    w->work = work;
    w->length = w->work.length + w->work.payload_length;
    ck_assert_uint_le(w->length, WIRE_DATA_MAX);
    memcpy(w->body, buffer, w->work.length);
    if (w->work.payload_length)
        memcpy(w->body + w->work.length, w->work.payload, w->work.payload_length);
    /* The buffers hold something else by now. */
    memset(buffer, 0xdb, sizeof(buffer));
    memset(scratch, 0xdb, sizeof(scratch));
    w->work.buffer = w->work.scratch = NULL;
    w->work.payload = NULL;
    return 0;
}

static inline int fake_need(const struct fake_work *w, uint32_t block, struct err *err)
{
    struct wire_need need = {0};

    wire_need_set(&need, block);
    return fake.ops->need(fake.source, &w->work, &need, err);
}

static inline void fake_done(const struct fake_work *w, int error)
{
    fake.ops->done(fake.source, &w->work, error);
}

#endif
