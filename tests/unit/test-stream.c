/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Streams over loopback: every record is done with once, whatever happens to its connection. */
#include "numbers.h"

START_TEST(streams_deliver_once)
{
    static struct numbers n = {.limit = 0, .shift = 10, .hold_after = RECORDS + 1};
    struct sink sinks[STREAMS] = {0};
    struct stream *s;
    struct pair p;

    pair_make(&p);
    streams_start(
        &p, &s, &(struct stream_config){.window_records = 8, .failed = numbers_failed, .data = &n},
        &n, sinks, STREAMS);
    /* In portions, so that workers run dry and are kicked. */
    for (unsigned int limit = 0; limit <= RECORDS; limit += 100) {
        atomic_store(&n.limit, limit);
        stream_kick(s);
        if (limit % 1000 == 0)
            clock_sleep(5 * NS_PER_MS);
    }
    while (atomic_load(&n.done_ok) < RECORDS && !atomic_load(&n.failed))
        clock_sleep(NS_PER_MS);
    ck_assert_uint_gt(stream_bytes_sent(s), RECORDS * 16);
    stream_destroy(s);
    for (unsigned int i = 0; i < STREAMS; i++) {
        ck_assert_int_eq(pthread_join(sinks[i].thread, NULL), 0);
        ck_assert_msg(sinks[i].result == 0, "%s", sinks[i].err.text);
        conn_destroy(sinks[i].conn);
    }
    for (unsigned int i = 0; i < RECORDS; i++) {
        ck_assert_uint_eq(n.done[i], 1);
        ck_assert_uint_eq(n.received[i], 1);
    }
    ck_assert_uint_eq(n.done_error, 0);
    ck_assert_uint_eq(n.failed, 0);
    ck_assert_uint_le(n.most_in_flight, STREAMS * 8);
    pair_remove(&p);
}
END_TEST

/* The peer holds: what is in flight stops at the window, by records or by octets. */
static void check_window(const struct stream_config *window, unsigned int shift, unsigned int least,
                         unsigned int most)
{
    static struct numbers n;
    struct stream_config config = *window;
    struct sink sink = {0};
    struct stream *s;
    struct pair p;

    memset(&n, 0, sizeof(n));
    n.shift = shift;
    n.limit = 200;
    n.hold_after = 1;
    n.held = true;
    config.failed = numbers_failed;
    config.data = &n;
    pair_make(&p);
    streams_start(&p, &s, &config, &n, &sink, 1);
    clock_sleep(200 * NS_PER_MS);
    ck_assert_uint_ge(n.most_in_flight, least);
    ck_assert_uint_le(n.most_in_flight, most);
    atomic_store(&n.held, false);
    while (atomic_load(&n.done_ok) < 200 && !atomic_load(&n.failed))
        clock_sleep(NS_PER_MS);
    stream_destroy(s);
    sinks_join(&sink, 1);
    ck_assert_uint_eq(n.done_ok, 200);
    pair_remove(&p);
}

START_TEST(windows_hold)
{
    check_window(&(struct stream_config){.window_records = 5}, 10, 5, 5);
    check_window(&(struct stream_config){.window_records = 100, .window_bytes = 1}, 10, 1, 2);
}
END_TEST

/* Records are in flight when the connection dies: each is done with once, and the failure told
 * once. */
START_TEST(killed_connection)
{
    static struct numbers n = {.limit = 2000, .shift = 10, .hold_after = 300, .held = true};
    struct sink sinks[STREAMS] = {0};
    struct stream *s;
    struct pair p;
    unsigned int made;

    pair_make(&p);
    streams_start(&p, &s, &(struct stream_config){.failed = numbers_failed, .data = &n}, &n, sinks,
                  STREAMS);
    while (atomic_load(&n.taken) < 300)
        clock_sleep(NS_PER_MS);
    conn_shutdown(sinks[1].conn);
    while (!atomic_load(&n.failed))
        clock_sleep(NS_PER_MS);
    atomic_store(&n.held, false);
    stream_destroy(s);
    sinks_join(sinks, STREAMS);
    made = atomic_load(&n.next);
    ck_assert_uint_eq(n.failed, 1);
    ck_assert_msg(n.err.code == -ECONNRESET || n.err.code == -EPIPE, "%d: %s", n.err.code,
                  n.err.text);
    ck_assert_uint_gt(n.done_error, 0);
    ck_assert_uint_eq(n.done_ok + n.done_error, made);
    for (unsigned int i = 0; i < made; i++)
        ck_assert_uint_eq(n.done[i], 1);
    pair_remove(&p);
}
END_TEST

/* A stream with one connection, which has taken one record from `n`. */
static void stream_one(struct pair *p, const struct stream_config *config, struct numbers *n, struct stream **ret, struct conn **ret_server)
{
    struct record record;
    struct conn *client;
    struct err err;

    pair_make(p);
    ck_assert_int_eq(stream_create(ret, config, &err), 0);
    ck_assert_int_eq(stream_attach(*ret, &numbers_ops, n, &err), 0);
    pair_connect(p, &client, ret_server);
    ck_assert_int_eq(stream_add(*ret, client, &err), 0);
    ck_assert_int_eq(conn_recv(*ret_server, &record, &err), 0);
}

/* An acknowledgement of what was never sent. */
START_TEST(false_ack)
{
    static struct numbers n = {.limit = 1, .shift = 10};
    struct conn *server;
    struct stream *s;
    struct pair p;
    struct err err;

    stream_one(&p, &(struct stream_config){.failed = numbers_failed, .data = &n}, &n, &s, &server);
    ck_assert_int_eq(
        conn_send(server, WIRE_ACK, &(struct iovec){(void *)"\0\0\0\0\0\0\0\2", 8}, 1, &err), 0);
    while (!atomic_load(&n.failed))
        clock_sleep(NS_PER_MS);
    ck_assert_int_eq(n.err.code, -EPROTO);
    ck_assert_int_eq(stream_add(s, server, &err), -EPROTO);
    ck_assert_str_eq(err.text, n.err.text);
    stream_halt(s);
    stream_destroy(s);
    ck_assert_uint_eq(n.done_error, 1);
    conn_destroy(server);
    pair_remove(&p);
}
END_TEST

static int takes_hello(void *data, struct conn *c, const struct record *record, struct err *err)
{
    (void)data;
    return record->type == WIRE_HELLO ? 0 : err_set(err, -EREMOTEIO, "%s says: %.*s", conn_peer(c), (int)record->length, (char *)record->body);
}

/* Sends one record before HELLO was answered; then the answer is `type`. Returns the stream's failure; 0: the record was acknowledged. */
static int answered_late(struct numbers *n, enum wire_type type)
{
    struct conn *server;
    struct stream *s;
    struct pair p;
    struct err err;

    stream_one(&p, &(struct stream_config){.greeted = takes_hello, .failed = numbers_failed, .data = n}, n, &s, &server);
    ck_assert_int_eq(conn_send(server, type, &(struct iovec){(void *)"{\"a\":\"longer than any acknowledgement may be\"}", 47}, 1, &err), 0);
    (void)conn_send(server, WIRE_ACK, &(struct iovec){(void *)"\0\0\0\0\0\0\0\1", 8}, 1, &err);
    while (!atomic_load(&n->failed) && !atomic_load(&n->done_ok))
        clock_sleep(NS_PER_MS);
    stream_destroy(s);
    conn_destroy(server);
    pair_remove(&p);
    return n->failed ? n->err.code : 0;
}

START_TEST(late_greeting)
{
    static struct numbers good = {.limit = 1, .shift = 10}, bad = {.limit = 1, .shift = 10};

    ck_assert_int_eq(answered_late(&good, WIRE_HELLO), 0);
    ck_assert_int_eq(answered_late(&bad, WIRE_FAILED), -EREMOTEIO);
    ck_assert_ptr_nonnull(strstr(bad.err.text, "longer than any"));
    ck_assert_uint_eq(bad.done_ok, 0);
}
END_TEST

UNIT_MAIN("stream", streams_deliver_once, windows_hold, killed_connection, false_ack, late_greeting)
