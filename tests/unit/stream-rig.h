/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A stream whose connections end in sinks of this process, and a place to wait for what happens there. */
#ifndef XMOTION_TESTS_STREAM_RIG_H
#define XMOTION_TESTS_STREAM_RIG_H

#include "transport/stream.h"

#include "transport-pair.h"

#include <signal.h>

#define RIG_CONNS_MAX 4u

struct rig;

struct rig_sink {
    struct rig *rig;
    unsigned int number;
    struct conn *conn;
    int result;
    uint64_t taken;
    struct err err;
    pthread_t thread;
};

struct rig {
    enum compress_mode compress;
    struct pair pair;
    struct stream *stream;
    struct rig_sink sinks[RIG_CONNS_MAX];
    unsigned int count;
    int (*take)(struct rig_sink *sink, const struct record *record, struct wire_need *need, struct err *err);
    void *data;
    pthread_mutex_t lock; /* of the counters that tests wait for */
    pthread_cond_t changed;
    unsigned int failures;
    struct err failure;
};

static inline void rig_count(struct rig *r, unsigned int *counter)
{
    pthread_mutex_lock(&r->lock);
    (*counter)++;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

/* Waits until a counter has a value; false: the stream failed before. */
static inline bool rig_await(struct rig *r, const unsigned int *counter, unsigned int value)
{
    bool reached;

    pthread_mutex_lock(&r->lock);
    while (*counter < value && !r->failures)
        pthread_cond_wait(&r->changed, &r->lock);
    reached = *counter >= value;
    pthread_mutex_unlock(&r->lock);
    return reached;
}

static inline void rig_await_failure(struct rig *r)
{
    pthread_mutex_lock(&r->lock);
    while (!r->failures)
        pthread_cond_wait(&r->changed, &r->lock);
    pthread_mutex_unlock(&r->lock);
}

static inline void rig_failed(void *data, const struct err *err)
{
    struct rig *r = data;

    r->failure = *err;
    rig_count(r, &r->failures);
}

static inline int rig_take(void *data, const struct record *record, struct wire_need *need, struct err *err)
{
    struct rig_sink *s = data;

    return s->rig->take(s, record, need, err);
}

/* A sink that fails closes its connection, as a receiver does. */
static inline void *rig_sink_main(void *data)
{
    struct rig_sink *s = data;

    s->result = stream_receive(s->conn, rig_take, s, &s->taken, &s->err);
    if (s->result < 0)
        conn_shutdown(s->conn);
    return NULL;
}

/* A stream, the first or the next. */
static inline void rig_stream(struct rig *r)
{
    struct err err = {0};

    r->failures = 0;
    ck_assert_int_eq(
        stream_create(&r->stream, &(struct stream_config){.compress = r->compress, .failed = rig_failed, .data = r}, &err), 0);
}

static inline void rig_make(struct rig *r, enum compress_mode compress,
                            int (*take)(struct rig_sink *sink, const struct record *record, struct wire_need *need, struct err *err),
                            void *data)
{
    memset(r, 0, sizeof(*r));
    r->compress = compress;
    r->take = take;
    r->data = data;
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    pair_make(&r->pair);
    rig_stream(r);
}

static inline void rig_connect(struct rig *r, unsigned int count)
{
    struct err err = {0};

    ck_assert_uint_le(count, RIG_CONNS_MAX);
    for (unsigned int i = 0; i < count; i++) {
        struct rig_sink *s = &r->sinks[i];
        struct conn *client;

        s->rig = r;
        s->number = i;
        pair_connect(&r->pair, &client, &s->conn);
        ck_assert_int_eq(pthread_create(&s->thread, NULL, rig_sink_main, s), 0);
        ck_assert_msg(stream_add(r->stream, client, &err) == 0, "%s", err.text);
    }
    r->count = count;
}

/* Ends the stream and joins the sinks: nothing moves any more. */
static inline void rig_close(struct rig *r)
{
    stream_destroy(r->stream);
    for (unsigned int i = 0; i < r->count; i++)
        ck_assert_int_eq(pthread_join(r->sinks[i].thread, NULL), 0);
    for (unsigned int i = 0; i < r->count; i++)
        conn_destroy(r->sinks[i].conn);
}

static inline void rig_remove(struct rig *r)
{
    pair_remove(&r->pair);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
}

#endif
