/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a connection says when the network, not the peer, ends it. */
#include "relay.h"

static struct pair pair;
static struct relay relay;
static struct conn *client, *server;
static struct err err;

static void begin(void)
{
    memset(&err, 0, sizeof(err));
    relay_connect(&relay, &pair, &client, &server);
    conn_set_timeout(server, PATIENCE);
    conn_set_timeout(client, PATIENCE);
}

static void end(void)
{
    conn_destroy(client);
    conn_destroy(server);
    relay_end(&relay);
}

static int send_octets(size_t length)
{
    static uint8_t octets[70000];

    return conn_send(client, WIRE_HELLO, &(struct iovec){octets, length}, 1, &err);
}

/* Octet `at` of the next TLS record is changed. A longer length waits for octets: more are sent until it has them. */
static void check_damage(int at)
{
    struct record record;
    int r;

    begin();
    atomic_store(&relay.damage, at);
    ck_assert_int_eq(send_octets(2), 0);
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(send_octets(60000), 0);
    r = conn_recv(server, &record, &err);
    ck_assert_msg(r == -ECONNABORTED, "octet %d: %d: %s", at, r, err.text);
    ck_assert_ptr_nonnull(strstr(err.text, "damaged on its way"));
    ck_assert(conn_error_is_drop(r));
    /* The other end hears so by an alert, or finds the connection gone. */
    conn_destroy(server);
    server = NULL;
    r = conn_recv(client, &record, &err);
    ck_assert_msg(conn_error_is_drop(r), "octet %d: %d: %s", at, r, err.text);
    end();
}

START_TEST(damage_is_no_word_of_the_peer)
{
    /* Of the TLS record: type, version, length, content, tag. */
    static const int octets[] = {0, 1, 2, 3, 4, 5, 12, 38};

    pair_make(&pair);
    for (size_t i = 0; i < ARRAY_SIZE(octets); i++)
        check_damage(octets[i]);
    pair_remove(&pair);
}
END_TEST

START_TEST(alert_of_damage_is_a_drop)
{
    struct record record;
    int r;

    pair_make(&pair);
    begin();
    atomic_store(&relay.damage, 10);
    ck_assert_int_eq(send_octets(2), 0);
    ck_assert_int_eq(conn_recv(server, &record, &err), -ECONNABORTED);
    r = conn_recv(client, &record, &err); /* the server has not closed: this is its alert */
    ck_assert_msg(r == -ECONNABORTED, "%d: %s", r, err.text);
    ck_assert_ptr_nonnull(strstr(err.text, "damaged on its way"));
    end();
    pair_remove(&pair);
}
END_TEST

/* An octet of the client's part of the handshake is changed. False: it said nothing so far. */
static bool check_handshake(int at)
{
    struct record record;
    struct acceptor a;
    int r;

    relay_start(&relay, &pair);
    atomic_store(&relay.damage, at);
    acceptor_start(&a, pair.listener, pair.receiver.id);
    r = conn_connect(&client, pair.sender.id, relay.address, PATIENCE, &err);
    if (acceptor_join(&a) == 0) {
        conn_destroy(client);
        conn_destroy(a.conn);
        relay_end(&relay);
        return false;
    }
    ck_assert_msg(a.result == -ECONNABORTED, "octet %d: %d: %s", at, a.result, a.err.text);
    if (r == 0) { /* the client's end was satisfied before the server had seen its certificate */
        r = conn_recv(client, &record, &err);
        conn_destroy(client);
    }
    ck_assert_msg(conn_error_is_drop(r), "octet %d: %d: %s", at, r, err.text);
    relay_end(&relay);
    return true;
}

/* A handshake that fails so is worth another try. */
START_TEST(damaged_handshake_is_a_drop)
{
    unsigned int found = 0;

    pair_make(&pair);
    for (int at = 20; at < 900; at += 37)
        found += check_handshake(at);
    ck_assert_uint_gt(found, 5);
    pair_remove(&pair);
}
END_TEST

static void check_cut(int octets)
{
    struct record record;
    int r;

    begin();
    atomic_store(&relay.cut, octets);
    ck_assert_int_eq(send_octets(3), 0);
    r = conn_recv(server, &record, &err);
    /* A whole record may have passed before. */
    if (r == 0)
        r = conn_recv(server, &record, &err);
    ck_assert_msg(r == -ECONNRESET, "cut after %d: %d: %s", octets, r, err.text);
    r = conn_recv(client, &record, &err);
    ck_assert_msg(r == -ECONNRESET, "cut after %d: %d: %s", octets, r, err.text);
    end();
}

START_TEST(end_without_goodbye)
{
    pair_make(&pair);
    check_cut(0);
    check_cut(3);
    check_cut(30);
    check_cut(16 + 3 + 5 + 17);
    pair_remove(&pair);
}
END_TEST

START_TEST(codes_of_a_drop)
{
    static const int drops[] = {ECONNRESET, EPIPE, ETIMEDOUT, EHOSTUNREACH, ENETUNREACH, ENETDOWN, ECONNABORTED, ECONNREFUSED,
                                ENOTCONN};
    static const int others[] = {0, EPROTO, EACCES, EIO, ECANCELED, EREMOTEIO, EBADMSG, ENOMEM};

    for (size_t i = 0; i < ARRAY_SIZE(drops); i++) {
        ck_assert(conn_error_is_drop(-drops[i]));
        ck_assert(!conn_error_is_drop(drops[i]));
    }
    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        ck_assert(!conn_error_is_drop(-others[i]));
}
END_TEST

UNIT_MAIN("transport-damage", damage_is_no_word_of_the_peer, alert_of_damage_is_a_drop, damaged_handshake_is_a_drop,
          end_without_goodbye, codes_of_a_drop)
