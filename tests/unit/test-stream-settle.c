/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* After a drop: what the receiver took is done, what it did not is not, and nobody is told twice. */
#include "numbers.h"

static struct numbers n;
static struct sink sinks[STREAMS];
static struct stream *s;
static struct pair p;
static struct err err;

static void begin(unsigned int limit, unsigned int hold_after)
{
    struct stream_config config = {.failed = numbers_failed, .data = &n};

    memset(&n, 0, sizeof(n));
    memset(&err, 0, sizeof(err));
    memset(sinks, 0, sizeof(sinks));
    n.shift = 10;
    n.limit = limit;
    n.hold_after = hold_after;
    n.held = true;
    pair_make(&p);
    streams_start(&p, &s, &config, &n, sinks, STREAMS);
}

static void await(atomic_uint *counter, unsigned int value)
{
    while (atomic_load(counter) < value)
        clock_sleep(NS_PER_MS);
}

/* The receiver's threads end, each with the count of what it took. */
static void end_sinks(void)
{
    atomic_store(&n.held, false);
    sinks_join(sinks, STREAMS);
}

static void check_once(void)
{
    ck_assert_uint_eq(n.done_ok + n.done_error, n.next);
    for (unsigned int i = 0; i < n.next; i++)
        ck_assert_uint_eq(n.done[i], 1);
}

static void check_settled(void)
{
    unsigned int lost = 0;

    for (unsigned int i = 0; i < STREAMS; i++)
        ck_assert_msg(stream_settle(s, i, sinks[i].taken, &err) == 0, "%s", err.text);
    check_once();
    for (unsigned int i = 0; i < n.next; i++) {
        ck_assert_int_eq(n.error[i], n.received[i] ? 0 : -ECONNRESET);
        lost += !n.received[i];
    }
    ck_assert_uint_eq(lost, n.done_error);
    stream_destroy(s);
    check_once();
    pair_remove(&p);
}

START_TEST(settled_by_what_was_taken)
{
    unsigned int done;

    begin(RECORDS, 300);
    await(&n.taken, 300);
    conn_shutdown(sinks[1].conn);
    await(&n.failed, 1);
    stream_halt(s);
    /* All sinks hold something that they took and did not acknowledge. */
    done = n.done_ok;
    ck_assert_uint_eq(n.done_error, 0);
    end_sinks();
    ck_assert_uint_eq(n.done_ok, done);
    ck_assert_uint_gt(n.next, done);
    check_settled();
    ck_assert_uint_gt(n.done_ok, done);
    ck_assert_uint_eq(n.failed, 1);
}
END_TEST

START_TEST(halt_is_no_failure)
{
    begin(RECORDS, 100);
    await(&n.taken, 100);
    stream_halt(s);
    stream_halt(s);
    ck_assert_uint_eq(n.failed, 0);
    ck_assert_uint_eq(n.done_error, 0);
    end_sinks();
    check_settled();
    ck_assert_uint_eq(n.failed, 0);
}
END_TEST

/* Records of a failed stream wait for their settling; destroying it is the other way. */
START_TEST(unsettled_are_cancelled)
{
    begin(RECORDS, 300);
    await(&n.taken, 300);
    conn_shutdown(sinks[0].conn);
    await(&n.failed, 1);
    clock_sleep(20 * NS_PER_MS);
    ck_assert_uint_eq(n.done_error, 0);
    stream_halt(s);
    end_sinks();
    ck_assert_int_eq(stream_settle(s, 2, sinks[2].taken, &err), 0);
    stream_destroy(s);
    check_once();
    for (unsigned int i = 0; i < n.next; i++)
        ck_assert(n.error[i] == 0 || n.error[i] == -ECANCELED || n.error[i] == -ECONNRESET);
    pair_remove(&p);
}
END_TEST

/* ---- a receiver by hand ---- */

static struct conn *server;

static void begin_one(unsigned int limit, bool asks, uint64_t rate)
{
    struct conn *client;

    memset(&n, 0, sizeof(n));
    memset(&err, 0, sizeof(err));
    n.shift = 10;
    n.limit = limit;
    n.asks = asks;
    pair_make(&p);
    ck_assert_int_eq(stream_create(&s, &(struct stream_config){.failed = numbers_failed, .data = &n}, &err), 0);
    stream_set_rate(s, rate);
    ck_assert_int_eq(stream_attach(s, &numbers_ops, &n, &err), 0);
    pair_connect(&p, &client, &server);
    conn_set_max_body(server, WIRE_DATA_MAX);
    ck_assert_int_eq(stream_add(s, client, &err), 0);
}

static void end_one(void)
{
    stream_destroy(s);
    conn_destroy(server);
    pair_remove(&p);
    check_once();
}

static void receive(unsigned int count)
{
    struct record record;

    for (unsigned int i = 0; i < count; i++)
        ck_assert_int_eq(conn_recv(server, &record, &err), 0);
}

static void acknowledge(uint64_t count)
{
    uint8_t body[8];

    put_be64(body, count);
    ck_assert_int_eq(conn_send(server, WIRE_ACK, &(struct iovec){body, 8}, 1, &err), 0);
}

static void need(uint64_t record, uint32_t block)
{
    struct wire_need what = {.record = record};
    uint8_t body[WIRE_NEED_SIZE];

    wire_need_set(&what, block);
    wire_put_need(body, &what);
    ck_assert_int_eq(conn_send(server, WIRE_NEED, &(struct iovec){body, sizeof(body)}, 1, &err), 0);
}

START_TEST(false_counts_are_refused)
{
    begin_one(5, false, 0);
    receive(5);
    acknowledge(2);
    await(&n.done_ok, 2);
    stream_halt(s);
    ck_assert_int_eq(stream_settle(s, 0, 1, &err), -EPROTO);
    ck_assert_int_eq(stream_settle(s, 0, 6, &err), -EPROTO);
    ck_assert_int_eq(stream_settle(s, 0, UINT64_MAX, &err), -EPROTO);
    ck_assert_uint_eq(n.done_ok + n.done_error, 2);
    ck_assert_int_eq(stream_settle(s, 0, 4, &err), 0);
    ck_assert_uint_eq(n.done_ok, 4);
    ck_assert_int_eq(n.error[4], -ECONNRESET);
    end_one();
}
END_TEST

/* Number 1 is made, and waits for the rate: nobody can have taken it. */
START_TEST(what_never_went_out_was_not_taken)
{
    begin_one(2, false, 1);
    receive(1);
    await(&n.next, 2);
    stream_halt(s);
    ck_assert_int_eq(stream_settle(s, 0, 2, &err), -EPROTO);
    ck_assert_int_eq(stream_settle(s, 0, 1, &err), 0);
    ck_assert_int_eq(n.error[1], -ECONNRESET);
    end_one();
}
END_TEST

/* The connection stands, and nothing comes: a drop like any other. With nothing in flight it may be silent. */
START_TEST(silence_is_a_drop)
{
    struct stream_config config = {.answer_timeout_ns = 200 * NS_PER_MS, .failed = numbers_failed, .data = &n};
    struct conn *client;

    memset(&n, 0, sizeof(n));
    n.shift = 10;
    pair_make(&p);
    ck_assert_int_eq(stream_create(&s, &config, &err), 0);
    ck_assert_int_eq(stream_attach(s, &numbers_ops, &n, &err), 0);
    pair_connect(&p, &client, &server);
    conn_set_max_body(server, WIRE_DATA_MAX);
    ck_assert_int_eq(stream_add(s, client, &err), 0);
    clock_sleep(400 * NS_PER_MS);
    ck_assert_uint_eq(n.failed, 0);
    atomic_store(&n.limit, 3);
    stream_kick(s);
    receive(3);
    acknowledge(1);
    await(&n.failed, 1);
    ck_assert_uint_eq(n.done_ok, 1);
    ck_assert_msg(n.err.code == -ETIMEDOUT && strstr(n.err.text, "2 records wait"), "%d: %s", n.err.code, n.err.text);
    stream_halt(s);
    ck_assert_int_eq(stream_settle(s, 0, 2, &err), 0);
    ck_assert_uint_eq(n.done_ok, 2);
    end_one();
}
END_TEST

START_TEST(answers_reach_their_record)
{
    begin_one(3, true, 0);
    receive(3);
    need(1, 1);
    acknowledge(3);
    await(&n.done_ok, 3);
    ck_assert_uint_eq(n.needs, 1);
    end_one();
}
END_TEST

static void check_bad_need(bool asks, uint64_t acknowledged, uint64_t record, uint32_t block)
{
    begin_one(3, asks, 0);
    receive(3);
    if (acknowledged)
        acknowledge(acknowledged);
    need(record, block);
    await(&n.failed, 1);
    ck_assert_msg(n.err.code == -EPROTO, "%d: %s", n.err.code, n.err.text);
    end_one();
}

START_TEST(answers_to_nothing_are_refused)
{
    check_bad_need(false, 0, 0, 0);         /* a record that does not ask */
    check_bad_need(true, 1, 0, 0);          /* acknowledged */
    check_bad_need(true, 0, 3, 3);          /* not sent */
    check_bad_need(true, 0, UINT64_MAX, 0); /* never */
    check_bad_need(true, 0, 1, 2);          /* the source's own refusal */
}
END_TEST

/* Its answer may have been lost with the connection. */
START_TEST(record_that_asked_is_not_taken_unheard)
{
    begin_one(3, true, 0);
    receive(3);
    acknowledge(1);
    await(&n.done_ok, 1);
    need(1, 1);
    await(&n.needs, 1);
    stream_halt(s);
    ck_assert_int_eq(stream_settle(s, 0, 3, &err), 0);
    ck_assert_int_eq(n.error[0], 0);
    ck_assert_int_eq(n.error[1], -ECONNRESET);
    ck_assert_int_eq(n.error[2], -ECONNRESET);
    end_one();
}
END_TEST

UNIT_MAIN("stream-settle", settled_by_what_was_taken, halt_is_no_failure, unsettled_are_cancelled, false_counts_are_refused,
          what_never_went_out_was_not_taken, silence_is_a_drop, answers_reach_their_record, answers_to_nothing_are_refused,
          record_that_asked_is_not_taken_unheard)
