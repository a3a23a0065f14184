/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A source of numbered records and sinks that note them: whether each is done with once. */
#ifndef XMOTION_TESTS_NUMBERS_H
#define XMOTION_TESTS_NUMBERS_H

#include "transport/stream.h"

#include "transport-pair.h"

#include <stdatomic.h>

#define RECORDS 10000u
#define STREAMS 4u

/* Gives numbered records of pseudo-random length; counts what is done with each. */
struct numbers {
    atomic_uint next, limit, done_ok, done_error, failed, taken, most_in_flight, in_flight;
    atomic_uchar done[RECORDS];
    atomic_uchar received[RECORDS];
    atomic_int error[RECORDS]; /* that each was done with */
    atomic_bool asks;          /* every record may be answered */
    atomic_uint needs;
    unsigned int shift;      /* of the lengths: 10 is up to 64 KiB */
    unsigned int hold_after; /* the sink stops there until it is let go */
    atomic_bool held;
    struct err err;
};

static inline int numbers_take(void *source, struct stream_work *work, struct err *err)
{
    struct numbers *n = source;
    unsigned int i = atomic_load(&n->next);

    do {
        if (i >= atomic_load(&n->limit))
            return -EAGAIN;
    } while (!atomic_compare_exchange_weak(&n->next, &i, i + 1));
    work->type = WIRE_DISK_DATA;
    work->length = 4 + (i * 2654435761u >> n->shift) % (n->shift == 10 ? 65536 : 4000000);
    work->length = MIN(work->length, WIRE_DATA_MAX);
    work->cookie[0] = i;
    work->asks = atomic_load(&n->asks);
    put_be32(work->buffer, i);
    i = atomic_fetch_add(&n->in_flight, 1) + 1;
    if (i > atomic_load(&n->most_in_flight))
        atomic_store(&n->most_in_flight, i);
    return 0;
}

static inline void numbers_done(void *source, const struct stream_work *work, int error)
{
    struct numbers *n = source;

    atomic_fetch_sub(&n->in_flight, 1);
    atomic_fetch_add(&n->done[work->cookie[0]], 1);
    atomic_store(&n->error[work->cookie[0]], error);
    atomic_fetch_add(error ? &n->done_error : &n->done_ok, 1);
}

/* Block i is asked for by record i. */
static inline int numbers_need(void *source, const struct stream_work *work, const struct wire_need *need, struct err *err)
{
    struct numbers *n = source;

    atomic_fetch_add(&n->needs, 1);
    return wire_need_block(need, (uint32_t)work->cookie[0] % 256) ? 0 : err_set(err, -EPROTO, "not of this record");
}

static const struct stream_source_ops numbers_ops = {
    .name = "numbers", .take = numbers_take, .need = numbers_need, .done = numbers_done};

static inline void numbers_failed(void *data, const struct err *err)
{
    struct numbers *n = data;

    n->err = *err;
    atomic_fetch_add(&n->failed, 1);
}

static inline int sink_take(void *data, const struct record *record, struct wire_need *need, struct err *err)
{
    struct numbers *n = data;
    uint32_t i = get_be32(record->body);

    (void)need;
    if (i >= RECORDS)
        return err_set(err, -EPROTO, "number %u", i);
    atomic_fetch_add(&n->received[i], 1);
    if (i % 64 == 0)
        clock_sleep((i * 40503u % 1000) * NS_PER_US);
    atomic_fetch_add(&n->taken, 1);
    if (atomic_load(&n->taken) >= n->hold_after)
        while (atomic_load(&n->held))
            clock_sleep(NS_PER_MS);
    return 0;
}

struct sink {
    struct conn *conn;
    struct numbers *numbers;
    int result;
    uint64_t taken;
    struct err err;
    pthread_t thread;
};

static inline void *sink_main(void *data)
{
    struct sink *s = data;

    s->result = stream_receive(s->conn, sink_take, s->numbers, &s->taken, &s->err);
    return NULL;
}

static inline void streams_start(struct pair *p, struct stream **s, const struct stream_config *config,
                          struct numbers *n, struct sink *sinks, unsigned int count)
{
    struct err err = {0};

    ck_assert_int_eq(stream_create(s, config, &err), 0);
    ck_assert_int_eq(stream_attach(*s, &numbers_ops, n, &err), 0);
    for (unsigned int i = 0; i < count; i++) {
        struct conn *client;

        sinks[i].numbers = n;
        pair_connect(p, &client, &sinks[i].conn);
        ck_assert_int_eq(pthread_create(&sinks[i].thread, NULL, sink_main, &sinks[i]), 0);
        ck_assert_int_eq(stream_add(*s, client, &err), 0);
    }
}

static inline void sinks_join(struct sink *sinks, unsigned int count)
{
    for (unsigned int i = 0; i < count; i++) {
        ck_assert_int_eq(pthread_join(sinks[i].thread, NULL), 0);
        conn_destroy(sinks[i].conn);
    }
}

#endif
