/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control connection and its loop: what is expected and what comes, order, keep-alive. */
#include "session/control.h"
#include "session/loop.h"

#include "transport-pair.h"

#include <signal.h>

#define PATIENT_TURN (50 * NS_PER_SEC) /* longer than any test: a turn that ends was ended */

static struct pair pair;
static struct loop *loop;
static struct control control;
static struct conn *peer;
static struct err err;

static void control_make(void)
{
    struct conn *conn;

    pair_make(&pair);
    pair_connect(&pair, &peer, &conn);
    ck_assert_int_eq(loop_create(&loop, &err), 0);
    ck_assert_int_eq(control_init(&control, conn, loop, &err), 0);
}

static void control_remove(void)
{
    control_finish(&control);
    control_finish(&control); /* once more does nothing */
    loop_destroy(loop);
    conn_destroy(peer);
    pair_remove(&pair);
}

static void peer_sends(enum wire_type type, const char *text)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)text, .iov_len = strlen(text)};

    ck_assert_int_eq(conn_send(peer, type, &part, part.iov_len ? 1 : 0, &err), 0);
}

static void peer_gets(enum wire_type type, const char *text)
{
    struct record record;

    ck_assert_msg(conn_recv(peer, &record, &err) == 0, "%s", err.text);
    ck_assert_str_eq(wire_type_name((uint16_t)record.type), wire_type_name((uint16_t)type));
    ck_assert_uint_eq(record.length, strlen(text));
    if (record.length)
        ck_assert_mem_eq(record.body, text, record.length);
}

static void peer_gets_nothing(void)
{
    struct record record;

    ck_assert_int_eq(conn_try_recv(peer, &record, &err), -EAGAIN);
}

static void post(enum wire_type type, const char *text)
{
    ck_assert_int_eq(control_post(&control, type, text, (uint32_t)strlen(text), &err), 0);
}

/* ---- expect ---- */

START_TEST(expected_record_comes)
{
    json_t *j = NULL;

    control_make();
    peer_sends(WIRE_READY, "{\"n\":5}");
    ck_assert_int_eq(control_expect(&control, WIRE_READY, &j, &err), 0);
    ck_assert_int_eq(json_integer_value(json_object_get(j, "n")), 5);
    json_decref(j);
    control_remove();
}
END_TEST

START_TEST(failed_is_the_peers_error)
{
    json_t *j = NULL;

    control_make();
    peer_sends(WIRE_FAILED, "{\"errno\":28,\"text\":\"no room for it\"}");
    ck_assert_int_eq(control_expect(&control, WIRE_READY, &j, &err), -EREMOTEIO);
    ck_assert_str_eq(err.text, "no room for it");
    control_remove();
}
END_TEST

START_TEST(failed_without_a_reason)
{
    static const char *const bodies[] = {"{}", "{\"text\":5}", "{\"text\":null}"};
    json_t *j = NULL;

    control_make();
    for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
        peer_sends(WIRE_FAILED, bodies[i]);
        ck_assert_int_eq(control_expect(&control, WIRE_READY, &j, &err), -EREMOTEIO);
        ck_assert_ptr_nonnull(strstr(err.text, "gave no reason"));
    }
    control_remove();
}
END_TEST

START_TEST(wrong_type_is_named)
{
    json_t *j = NULL;

    control_make();
    peer_sends(WIRE_RUNNING, "{}");
    ck_assert_int_eq(control_expect(&control, WIRE_READY, &j, &err), -EPROTO);
    ck_assert_ptr_nonnull(strstr(err.text, "sent RUNNING, expected READY"));
    control_remove();
}
END_TEST

START_TEST(body_must_be_an_object)
{
    static const char *const bodies[] = {"",  "x",   "5",  "[]", "\"a\"",
                                         "{", "{}x", "{\"a\":1,\"a\":2}", "{\"a\":\"\xff\"}"};
    json_t *j = NULL;

    control_make();
    for (size_t i = 0; i < ARRAY_SIZE(bodies); i++) {
        peer_sends(WIRE_READY, bodies[i]);
        ck_assert_msg(control_expect(&control, WIRE_READY, &j, &err) == -EPROTO, "%s", bodies[i]);
        ck_assert_ptr_nonnull(strstr(err.text, "READY is not "));
    }
    control_remove();
}
END_TEST

/* As the peer would write it: `head`, `part` so many times, `tail`. */
static int parse_many(const char *head, const char *part, size_t times, const char *tail)
{
    size_t n = strlen(part);
    char *text = malloc(strlen(head) + n * times + strlen(tail) + 1);
    struct record record = {.type = WIRE_PREPARE, .body = (uint8_t *)text};
    json_t *j = NULL;
    char *p = stpcpy(text, head);
    int r;

    for (size_t i = 0; i < times; i++)
        p = stpcpy(p, part);
    record.length = (uint32_t)(stpcpy(p, tail) - text);
    r = control_parse(&record, &j, &err);
    json_decref(j);
    free(text);
    return r;
}

START_TEST(a_body_has_so_many_values)
{
    ck_assert_int_eq(parse_many("{\"a\":[0", ",0", 16000, "]}"), 0);
    ck_assert_int_eq(parse_many("{\"a\":[0", ",0", 17000, "]}"), -EPROTO);
    ck_assert_int_eq(parse_many("{\"a\":[{}", ",{}", 300000, "]}"), -EPROTO);
    ck_assert_str_eq(err.text, "PREPARE has more than 16384 values");
    /* What stands in a text is one value. */
    ck_assert_int_eq(parse_many("{\"a\":\"", ",[{", 300000, "\"}"), 0);
    ck_assert_int_eq(parse_many("{\"a\":\"\\\"", ",[{\\\"\\\\", 100000, "\"}"), 0);
}
END_TEST

START_TEST(a_body_has_a_depth)
{
    ck_assert_int_eq(parse_many("{\"a\":", "[", 100, ""), -EPROTO);
    ck_assert_int_eq(parse_many("{\"a\":", "[", 10000, ""), -EPROTO);
    ck_assert_int_eq(parse_many("", "{\"a\":", 10000, ""), -EPROTO);
}
END_TEST

START_TEST(lost_peer_ends_the_wait)
{
    json_t *j = NULL;

    control_make();
    conn_shutdown(peer);
    ck_assert_int_eq(control_expect(&control, WIRE_READY, &j, &err), -ECONNRESET);
    control_remove();
}
END_TEST

/* ---- order ---- */

START_TEST(posted_records_keep_their_order)
{
    control_make();
    post(WIRE_MEMORY_RECORD, "one");
    post(WIRE_MEMORY_RECORD, "two");
    post(WIRE_MEMORY_RECORD, "");
    peer_gets_nothing();
    ck_assert_int_eq(control_work(&control, &err), 0);
    ck_assert_int_eq(control_send(&control, WIRE_FINAL, json_object(), &err), 0);
    post(WIRE_MEMORY_RECORD, "three");
    ck_assert_int_eq(control_work(&control, &err), 0);
    peer_gets(WIRE_MEMORY_RECORD, "one");
    peer_gets(WIRE_MEMORY_RECORD, "two");
    peer_gets(WIRE_MEMORY_RECORD, "");
    peer_gets(WIRE_FINAL, "{}");
    peer_gets(WIRE_MEMORY_RECORD, "three");
    peer_gets_nothing();
    control_remove();
}
END_TEST

#define POSTS 200u

static void *post_many(void *data)
{
    for (unsigned int i = 0; i < POSTS; i++) {
        uint8_t body[4];

        put_be32(body, i);
        ck_assert_int_eq(control_post(&control, WIRE_MEMORY_RECORD, body, sizeof(body), NULL), 0);
    }
    return data;
}

/* Another thread posts; the turns end by its wake-ups, and the order is its own. */
START_TEST(posts_of_another_thread_wake_the_loop)
{
    struct record record;
    pthread_t thread;

    control_make();
    ck_assert_int_eq(pthread_create(&thread, NULL, post_many, NULL), 0);
    for (unsigned int i = 0; i < POSTS;) {
        int r;

        ck_assert_int_eq(control_work(&control, &err), 0);
        while ((r = conn_try_recv(peer, &record, &err)) == 0)
            ck_assert_uint_eq(get_be32(record.body), i++);
        ck_assert_int_eq(r, -EAGAIN);
        if (i < POSTS)
            loop_turn(loop, PATIENT_TURN); /* a wake-up that came before ends it at once */
    }
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    control_remove();
}
END_TEST

START_TEST(posts_left_behind_are_freed)
{
    control_make();
    post(WIRE_MEMORY_RECORD, "never sent");
    control_remove(); /* the leak checker looks */
}
END_TEST

/* ---- keep-alive ---- */

START_TEST(ping_is_answered_while_waiting)
{
    json_t *j = NULL;

    control_make();
    peer_sends(WIRE_PING, "");
    peer_sends(WIRE_PONG, "");
    peer_sends(WIRE_PING, "");
    peer_sends(WIRE_READY, "{}");
    ck_assert_int_eq(control_expect(&control, WIRE_READY, &j, &err), 0);
    json_decref(j);
    peer_gets(WIRE_PONG, "");
    peer_gets(WIRE_PONG, "");
    peer_gets_nothing();
    control_remove();
}
END_TEST

START_TEST(silent_peer_is_pinged)
{
    control_make();
    ck_assert_int_eq(control_work(&control, &err), 0);
    peer_gets_nothing();
    control.heard_ns = clock_now() - 11 * NS_PER_SEC;
    ck_assert_int_eq(control_work(&control, &err), 0);
    ck_assert_int_eq(control_work(&control, &err), 0); /* not again at once */
    peer_gets(WIRE_PING, "");
    peer_gets_nothing();
    control.pinged_ns -= 6 * NS_PER_SEC;
    ck_assert_int_eq(control_work(&control, &err), 0);
    peer_gets(WIRE_PING, "");
    control_remove();
}
END_TEST

START_TEST(whatever_comes_is_a_sign_of_life)
{
    struct record record;
    uint64_t before;

    control_make();
    peer_sends(WIRE_PONG, "");
    control.heard_ns = before = clock_now() - 29 * NS_PER_SEC;
    while (control.heard_ns == before) {
        ck_assert_int_eq(control_next(&control, &record, &err), -EAGAIN);
        if (control.heard_ns == before)
            loop_turn(loop, PATIENT_TURN);
    }
    ck_assert_int_eq(control_work(&control, &err), 0);
    peer_gets_nothing();
    control_remove();
}
END_TEST

START_TEST(peer_is_given_up_after_30_s)
{
    json_t *j = NULL;

    control_make();
    control.heard_ns = clock_now() - 31 * NS_PER_SEC;
    ck_assert_int_eq(control_expect(&control, WIRE_READY, &j, &err), -ETIMEDOUT);
    ck_assert_ptr_nonnull(strstr(err.text, "has been silent for 31 s"));
    control_remove();
}
END_TEST

/* ---- the loop ---- */

START_TEST(wake_ends_the_next_turn)
{
    uint64_t begin = clock_now();

    ck_assert_int_eq(loop_create(&loop, &err), 0);
    loop_wake(loop);
    loop_turn(loop, PATIENT_TURN);
    ck_assert_uint_lt(clock_now() - begin, PATIENT_TURN);
    loop_destroy(loop);
}
END_TEST

static void *wake_it(void *data)
{
    loop_wake(data);
    return NULL;
}

START_TEST(wake_of_another_thread_ends_the_turn)
{
    pthread_t thread;

    ck_assert_int_eq(loop_create(&loop, &err), 0);
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(pthread_create(&thread, NULL, wake_it, loop), 0);
        loop_turn(loop, PATIENT_TURN);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
    }
    loop_destroy(loop);
}
END_TEST

START_TEST(turn_ends_by_itself)
{
    uint64_t begin = clock_now();

    ck_assert_int_eq(loop_create(&loop, &err), 0);
    loop_turn(loop, 20 * NS_PER_MS);
    ck_assert_uint_ge(clock_now() - begin, 19 * NS_PER_MS);
    loop_turn(loop, 0);
    loop_destroy(loop);
}
END_TEST

START_TEST(loop_watches_so_many_descriptors)
{
    int fds[2];

    ck_assert_int_eq(loop_create(&loop, &err), 0);
    ck_assert_int_eq(pipe(fds), 0);
    for (int i = 0; i < LOOP_FDS; i++)
        ck_assert_int_eq(loop_watch(loop, fds[0], &err), 0);
    ck_assert_int_eq(loop_watch(loop, fds[0], &err), -ENOSPC);
    loop_unwatch(loop, fds[0]);
    ck_assert_int_eq(loop_watch(loop, fds[0], &err), 0);
    ck_assert_int_eq(write(fds[1], "x", 1), 1);
    loop_turn(loop, PATIENT_TURN);
    loop_destroy(loop);
    (void)close(fds[0]);
    (void)close(fds[1]);
}
END_TEST

START_TEST(signals_are_counted)
{
    ck_assert_int_eq(loop_create(&loop, &err), 0);
    ck_assert_int_eq(loop_watch_signal(loop, SIGUSR1, &err), 0);
    ck_assert_uint_eq(loop_signals(loop), 0);
    for (unsigned int n = 1; n <= 2; n++) {
        ck_assert_int_eq(raise(SIGUSR1), 0);
        while (loop_signals(loop) < n)
            loop_turn(loop, PATIENT_TURN);
    }
    ck_assert_uint_eq(loop_signals(loop), 2);
    loop_destroy(loop);
}
END_TEST

UNIT_MAIN("session-control", expected_record_comes, failed_is_the_peers_error, failed_without_a_reason,
          wrong_type_is_named, body_must_be_an_object, a_body_has_so_many_values, a_body_has_a_depth, lost_peer_ends_the_wait, posted_records_keep_their_order,
          posts_of_another_thread_wake_the_loop, posts_left_behind_are_freed, ping_is_answered_while_waiting,
          silent_peer_is_pinged, whatever_comes_is_a_sign_of_life, peer_is_given_up_after_30_s,
          wake_ends_the_next_turn, wake_of_another_thread_ends_the_turn, turn_ends_by_itself,
          loop_watches_so_many_descriptors, signals_are_counted)
