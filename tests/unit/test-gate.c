/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who is let in, who has to make room, and when time is over. No sockets: those are in test-door.c. */
#include "base/bytes.h"
#include "base/clock.h"
#include "session/gate.h"

#include "unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#define SEC NS_PER_SEC
#define T0  (1000 * SEC)

static const struct gate_limits small = {
    .knocking = 8,
    .shaking = 4,
    .greeting = 6,
    .served = 12,
    .peer_greeting = 3,
    .peer_control = 2,
    .peer_data = 5,
    .rate = 1000,
    .handshake_ns = 10 * SEC,
    .hello_ns = 5 * SEC,
};

static struct gate g;
static int victim;
static struct err err;

static void setup_with(const struct gate_limits *limits)
{
    ck_assert_int_eq(gate_init(&g, limits, 42, T0), 0);
}

static int enter(uint64_t origin, uint64_t now)
{
    return gate_enter(&g, origin, now, &victim);
}

/* The stage of an entry, as the tests read it. */
static enum gate_stage stage(int entry)
{
    return g.entries[entry].stage;
}

static int shake(uint64_t origin, uint64_t now)
{
    int entry = enter(origin, now);

    ck_assert_int_ge(entry, 0);
    gate_heard(&g, entry);
    ck_assert_int_eq(gate_begin(&g, now, &victim), entry);
    return entry;
}

static int greet(const char *fingerprint, uint64_t now)
{
    int entry = shake(1, now);

    return gate_authorized(&g, entry, fingerprint, now, &victim, &err) < 0 ? -1 : entry;
}

/* -- knocking -- */

START_TEST(the_oldest_makes_room)
{
    int first, entry;

    setup_with(&small);
    first = enter(1, T0);
    for (unsigned int i = 1; i < small.knocking; i++) {
        ck_assert_int_ge(enter(1, T0 + i), 0);
        ck_assert_int_eq(victim, -1);
    }
    entry = enter(1, T0 + 100);
    ck_assert_int_ge(entry, 0);
    ck_assert_int_eq(victim, first);
    /* Its entry may be used again at once: whoever gets -1 has nobody to look after. */
    ck_assert_int_eq(stage(entry), GATE_KNOCKING);
    gate_finish(&g);
}
END_TEST

START_TEST(who_floods_drops_himself)
{
    int quiet;

    setup_with(&small);
    quiet = enter(7, T0); /* the oldest of all */
    for (unsigned int i = 0; i < 1000; i++) {
        ck_assert_int_ge(enter(1, T0 + 1 + i), 0);
        ck_assert_int_ne(victim, quiet);
    }
    ck_assert_int_eq(stage(quiet), GATE_KNOCKING);
    gate_finish(&g);
}
END_TEST

START_TEST(who_said_hello_stays_longer)
{
    int ready;

    setup_with(&small);
    ready = enter(1, T0);
    gate_heard(&g, ready);
    for (unsigned int i = 0; i < 100; i++) {
        ck_assert_int_ge(enter(1, T0 + 1 + i), 0);
        ck_assert_int_ne(victim, ready);
    }
    ck_assert_int_eq(stage(ready), GATE_READY);
    gate_finish(&g);
}
END_TEST

/* Room is not made at the cost of smaller crowds. */
START_TEST(a_crowd_does_not_push_others_out)
{
    setup_with(&small);
    for (unsigned int i = 0; i < small.shaking; i++)
        (void)shake(1, T0);
    for (unsigned int i = 0; i < small.knocking; i++)
        ck_assert_int_ge(enter(100 + i, T0), 0);
    ck_assert_int_eq(enter(1, T0 + 1), -1);
    ck_assert_int_eq(victim, -1);
    ck_assert_int_ge(enter(50, T0 + 1), 0);
    ck_assert_int_ge(victim, 0);
    gate_finish(&g);
}
END_TEST

/* -- handshakes -- */

START_TEST(handshakes_are_bounded)
{
    int first = -1;
    int next;

    setup_with(&small);
    for (unsigned int i = 0; i < small.shaking; i++) {
        int entry = shake(1, T0 + i);

        first = first < 0 ? entry : first;
    }
    next = enter(1, T0 + 10);
    gate_heard(&g, next);
    ck_assert_int_eq(gate_begin(&g, T0 + 10, &victim), -1);
    ck_assert_int_eq(victim, first); /* told to go; until it has gone nobody begins */
    ck_assert_int_eq(gate_begin(&g, T0 + 11, &victim), -1);
    ck_assert_int_eq(victim, -1);
    ck_assert_int_eq(g.stages[GATE_SHAKING].count, small.shaking);
    gate_leave(&g, first);
    ck_assert_int_eq(gate_begin(&g, T0 + 12, &victim), next);
    gate_finish(&g);
}
END_TEST

START_TEST(a_handshake_under_way_yields_to_smaller_crowds_only)
{
    int honest[4], flood;

    setup_with(&small);
    for (unsigned int i = 0; i < small.shaking; i++)
        honest[i] = shake(10 + i, T0);
    (void)honest;
    flood = enter(1, T0);
    (void)enter(1, T0);
    gate_heard(&g, flood);
    ck_assert_int_eq(gate_begin(&g, T0 + 1, &victim), -1);
    ck_assert_int_eq(victim, -1);
    gate_finish(&g);
}
END_TEST

START_TEST(small_crowds_begin_first)
{
    int quiet;

    setup_with(&small);
    for (unsigned int i = 0; i < 5; i++)
        gate_heard(&g, enter(1, T0));
    quiet = enter(2, T0 + 1);
    gate_heard(&g, quiet);
    ck_assert_int_eq(gate_begin(&g, T0 + 2, &victim), quiet);
    gate_finish(&g);
}
END_TEST

/* A flood that has said its ClientHellos before is no queue to wait in. */
START_TEST(the_youngest_begins_first)
{
    int last = -1;

    setup_with(&small);
    for (unsigned int i = 0; i < small.knocking; i++) {
        last = enter(1, T0 + i);
        gate_heard(&g, last);
    }
    ck_assert_int_eq(gate_begin(&g, T0 + 100, &victim), last);
    gate_finish(&g);
}
END_TEST

START_TEST(handshakes_have_a_rate)
{
    struct gate_limits l = small;
    unsigned int begun = 0;

    l.rate = 10;
    l.knocking = 64;
    l.shaking = 128;
    l.served = 64;
    setup_with(&l);
    for (unsigned int i = 0; i < 60; i++)
        gate_heard(&g, enter(1, T0));
    while (gate_begin(&g, T0, &victim) >= 0)
        begun++;
    ck_assert_uint_eq(begun, 20); /* at once */
    ck_assert_uint_eq(gate_patience(&g, T0, SEC), SEC / 10);
    for (unsigned int ms = 1; ms <= 3000; ms++)
        while (gate_begin(&g, T0 + ms * NS_PER_MS, &victim) >= 0)
            begun++;
    ck_assert_uint_eq(begun, 50);
    /* What is not used is not saved up for ever. */
    for (unsigned int i = 0; i < 30; i++)
        gate_heard(&g, enter(1, T0 + 1000 * SEC));
    while (gate_begin(&g, T0 + 1000 * SEC, &victim) >= 0)
        begun++;
    ck_assert_uint_eq(begun, 70);
    gate_finish(&g);
}
END_TEST

/* Who says HELLO does not count. */
START_TEST(honest_peers_have_no_rate)
{
    struct gate_limits l = small;

    l.rate = 1;
    setup_with(&l);
    for (unsigned int i = 0; i < 100; i++) {
        int entry = greet("SHA256:a", T0);

        ck_assert_int_ge(entry, 0);
        ck_assert_int_eq(gate_greeted(&g, entry, true, &err), 0);
        gate_leave(&g, entry);
    }
    gate_leave(&g, shake(1, T0));
    gate_leave(&g, shake(1, T0));
    gate_heard(&g, enter(1, T0));
    ck_assert_int_eq(gate_begin(&g, T0, &victim), -1);
    gate_finish(&g);
}
END_TEST

/* -- time -- */

START_TEST(time_is_counted_whole)
{
    int knocks, ready, shakes;

    setup_with(&small);
    knocks = enter(1, T0);
    shakes = enter(2, T0);
    gate_heard(&g, shakes);
    ck_assert_int_eq(gate_begin(&g, T0 + 9 * SEC, &victim), shakes);
    ready = enter(3, T0 + SEC);
    gate_heard(&g, ready);
    ck_assert_int_eq(gate_overdue(&g, T0 + 10 * SEC - 1), -1);
    ck_assert_uint_eq(gate_patience(&g, T0 + 9 * SEC, 5 * SEC), SEC);
    /* Neither being heard nor being begun late gives more. */
    ck_assert_int_eq(gate_overdue(&g, T0 + 10 * SEC), knocks);
    ck_assert_int_eq(gate_overdue(&g, T0 + 10 * SEC), shakes);
    ck_assert_int_eq(gate_overdue(&g, T0 + 10 * SEC), -1);
    ck_assert_int_eq(gate_overdue(&g, T0 + 11 * SEC), ready);
    gate_finish(&g);
}
END_TEST

START_TEST(hello_has_a_time)
{
    int entry, other;

    setup_with(&small);
    entry = greet("SHA256:a", T0);
    other = greet("SHA256:a", T0);
    ck_assert_int_eq(gate_greeted(&g, other, true, &err), 0);
    ck_assert_int_eq(gate_overdue(&g, T0 + 5 * SEC - 1), -1);
    ck_assert_int_eq(gate_overdue(&g, T0 + 5 * SEC), entry);
    ck_assert_int_eq(gate_overdue(&g, T0 + 5000 * SEC), -1); /* who is served has no such time */
    gate_finish(&g);
}
END_TEST

/* -- authorized peers -- */

START_TEST(silent_peers_drop_their_own)
{
    int first, other;

    setup_with(&small);
    other = greet("SHA256:other", T0);
    first = greet("SHA256:a", T0 + 1);
    for (unsigned int i = 1; i < small.peer_greeting; i++) {
        ck_assert_int_ge(greet("SHA256:a", T0 + 2), 0);
        ck_assert_int_eq(victim, -1);
    }
    ck_assert_int_ge(greet("SHA256:a", T0 + 3), 0);
    ck_assert_int_eq(victim, first);
    ck_assert_int_eq(stage(other), GATE_GREETING);
    ck_assert(!g.entries[other].dropped);
    gate_finish(&g);
}
END_TEST

START_TEST(greetings_are_bounded)
{
    setup_with(&small);
    for (unsigned int i = 0; i < small.greeting; i++) {
        char name[16];

        (void)snprintf(name, sizeof(name), "SHA256:%u", i);
        ck_assert_int_ge(greet(name, T0), 0);
    }
    ck_assert_int_eq(greet("SHA256:more", T0), -1);
    ck_assert_int_eq(err.code, -EBUSY);
    gate_finish(&g);
}
END_TEST

/* How many of this kind are served for a certificate until it is refused. */
static unsigned int serve(const char *fingerprint, bool control)
{
    for (unsigned int n = 0;; n++) {
        int entry = greet(fingerprint, T0);
        int r = gate_greeted(&g, entry, control, &err);

        if (r == 0)
            continue;
        ck_assert_int_eq(r, -EBUSY);
        gate_leave(&g, entry);
        return n;
    }
}

START_TEST(a_peer_has_its_share)
{
    setup_with(&small);
    ck_assert_uint_eq(serve("SHA256:a", true), small.peer_control);
    ck_assert_uint_eq(serve("SHA256:a", false), small.peer_data);
    ck_assert_uint_eq(serve("SHA256:b", false), 5);
    ck_assert_uint_eq(serve("SHA256:b", true), 0); /* 12 are served in all */
    ck_assert_uint_eq(g.stages[GATE_SERVED].count, small.served);
    gate_leave(&g, gate_oldest(&g, GATE_SERVED));
    ck_assert_uint_eq(serve("SHA256:c", true), 1);
    gate_finish(&g);
}
END_TEST

/* -- nothing is lost -- */

static uint32_t random_state = 1;

static uint32_t any(uint32_t below)
{
    random_state = random_state * 1664525 + 1013904223;
    return (random_state >> 8) % below;
}

static int any_of(enum gate_stage s)
{
    int entry = gate_oldest(&g, s);

    for (uint32_t skip = any(8); entry >= 0 && skip && g.entries[entry].younger >= 0; skip--)
        entry = g.entries[entry].younger;
    return entry;
}

static void check_sums(const struct gate_limits *l)
{
    unsigned int sum = 0;
    uint32_t strangers = 0;

    for (unsigned int s = 0; s < GATE_STAGE_COUNT; s++)
        sum += g.stages[s].count;
    ck_assert_uint_eq(sum, l->knocking + l->shaking + l->greeting + l->served);
    ck_assert_uint_le(g.stages[GATE_KNOCKING].count + g.stages[GATE_READY].count, l->knocking);
    ck_assert_uint_le(g.stages[GATE_SHAKING].count, l->shaking);
    ck_assert_uint_le(g.stages[GATE_GREETING].count, l->greeting);
    ck_assert_uint_le(g.stages[GATE_SERVED].count, l->served);
    for (unsigned int i = 0; i < GATE_CROWDS; i++)
        strangers += g.crowds[i];
    ck_assert_uint_eq(strangers, g.stages[GATE_KNOCKING].count + g.stages[GATE_READY].count + g.stages[GATE_SHAKING].count);
}

/* Whatever happens in whatever order: no limit is passed, and every entry is in one stage. */
START_TEST(any_order_keeps_the_limits)
{
    setup_with(&small);
    for (unsigned int step = 0; step < 200000; step++) {
        uint64_t now = T0 + step * 10 * NS_PER_MS;
        char name[16];
        int entry;

        (void)snprintf(name, sizeof(name), "SHA256:%u", any(3));
        switch (any(7)) {
        case 0:
        case 1:
            (void)enter(any(6), now);
            break;
        case 2:
            entry = any_of(GATE_KNOCKING);
            if (entry >= 0)
                gate_heard(&g, entry);
            break;
        case 3:
            (void)gate_begin(&g, now, &victim);
            break;
        case 4:
            entry = any_of(GATE_SHAKING);
            if (entry >= 0 && gate_authorized(&g, entry, name, now, &victim, &err) < 0)
                gate_leave(&g, entry);
            break;
        case 5:
            entry = any_of(GATE_GREETING);
            if (entry >= 0 && gate_greeted(&g, entry, any(2), &err) < 0)
                gate_leave(&g, entry);
            break;
        default:
            entry = any(2) ? gate_overdue(&g, now) : any_of((enum gate_stage)any(GATE_SERVED + 1));
            if (entry >= 0)
                gate_leave(&g, entry);
        }
        check_sums(&small);
    }
    gate_finish(&g);
}
END_TEST

/* -- pure looks -- */

START_TEST(origins)
{
    struct sockaddr_storage a = {0}, b = {0};
    struct sockaddr_in *v4 = (struct sockaddr_in *)&a;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&b;

    v4->sin_family = AF_INET;
    v6->sin6_family = AF_INET6;
    ck_assert_int_eq(inet_pton(AF_INET, "192.0.2.1", &v4->sin_addr), 1);
    ck_assert_int_eq(inet_pton(AF_INET6, "::ffff:192.0.2.1", &v6->sin6_addr), 1);
    ck_assert(gate_origin(&a) == gate_origin(&b)); /* a listener for both families sees v4 so */
    v4->sin_port = 99;
    ck_assert(gate_origin(&a) == gate_origin(&b));
    ck_assert_int_eq(inet_pton(AF_INET, "192.0.2.2", &v4->sin_addr), 1);
    ck_assert(gate_origin(&a) != gate_origin(&b));

    a.ss_family = AF_INET6;
    ck_assert_int_eq(inet_pton(AF_INET6, "2001:db8:0:1::1", &((struct sockaddr_in6 *)&a)->sin6_addr), 1);
    ck_assert_int_eq(inet_pton(AF_INET6, "2001:db8:0:1:ffff::7", &v6->sin6_addr), 1);
    ck_assert(gate_origin(&a) == gate_origin(&b));
    ck_assert_int_eq(inet_pton(AF_INET6, "2001:db8:0:2::1", &v6->sin6_addr), 1);
    ck_assert(gate_origin(&a) != gate_origin(&b));
    a.ss_family = AF_UNIX;
    ck_assert_uint_eq(gate_origin(&a), 0);
}
END_TEST

START_TEST(client_hellos)
{
    static const struct {
        uint8_t octets[GATE_LOOK];
        size_t have;
        int result;
    } table[] = {
        {{0}, 0, 0},
        {{22}, 1, 0},
        {{22, 3, 1, 1, 0}, 5, 0},
        {{22, 3, 1, 1, 0, 1}, 6, 261},
        {{22, 3, 3, 0x40, 0, 1}, 6, 16389},
        {{22, 3, 3, 0, 4, 1}, 6, 9},
        {{22, 3, 3, 0, 3, 1}, 6, -EPROTO},       /* no room for a message */
        {{22, 3, 3, 0x40, 1, 1}, 5, -EPROTO},    /* longer than a TLS record may be */
        {{22, 3, 3, 0xff, 0xff, 1}, 5, -EPROTO},
        {{22, 3, 3, 1, 0, 2}, 6, -EPROTO},       /* a ServerHello */
        {{23, 3, 3, 1, 0, 1}, 1, -EPROTO},       /* application data */
        {{21, 3, 3, 0, 2, 1}, 1, -EPROTO},       /* an alert */
        {{22, 2, 0, 1, 0, 1}, 2, -EPROTO},
        {{22, 3, 9, 1, 0, 1}, 3, -EPROTO},
        {{'G', 'E', 'T', ' ', '/', ' '}, 6, -EPROTO},
        {{'X', 'M', 0, 1, 0, 0}, 1, -EPROTO},    /* our own records in clear */
        {{0x80, 0x2e, 1, 0, 2, 0}, 1, -EPROTO},  /* SSL 2 */
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        ck_assert_msg(gate_look(table[i].octets, table[i].have) == table[i].result, "row %zu", i);
}
END_TEST

UNIT_MAIN("gate", the_oldest_makes_room, who_floods_drops_himself, who_said_hello_stays_longer, a_crowd_does_not_push_others_out,
          handshakes_are_bounded, a_handshake_under_way_yields_to_smaller_crowds_only, small_crowds_begin_first, the_youngest_begins_first,
          handshakes_have_a_rate, honest_peers_have_no_rate, time_is_counted_whole, hello_has_a_time, silent_peers_drop_their_own, greetings_are_bounded,
          a_peer_has_its_share, any_order_keeps_the_limits, origins, client_hellos)
