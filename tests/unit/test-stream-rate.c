/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The rate of a stream: by a clock of the test's own, then on real connections. */
#include "base/ratelimit.h"

#include "numbers.h"

/* ---- the bucket ---- */

/* Takes pieces for so many seconds, waiting as it is told; returns the octets. */
static uint64_t run(struct ratelimit *l, uint64_t *now, uint64_t seconds, uint64_t piece)
{
    uint64_t end = *now + seconds * NS_PER_SEC, octets = 0;

    while (*now < end) {
        uint64_t ns = ratelimit_take(l, piece, *now);

        if (ns == 0)
            octets += piece;
        *now += ns ? ns : NS_PER_US;
    }
    return octets;
}

START_TEST(rate_holds_for_every_size)
{
    static const uint64_t rates[] = {1000, 1000000, 125000000, UINT64_C(12500000000)};
    static const uint64_t pieces[] = {17, 4096, 1 << 20};

    for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(pieces); j++) {
            struct ratelimit l = {0};
            uint64_t now = 12345, octets;

            if (rates[i] / pieces[j] > 1000000)
                continue; /* millions of steps that show nothing new */
            ratelimit_set(&l, rates[i], now);
            octets = run(&l, &now, 10, pieces[j]);
            ck_assert_uint_le(octets, 10 * rates[i] + rates[i] / 20 + pieces[j]);
            if (10 * rates[i] > 100 * pieces[j])
                ck_assert_uint_ge(octets, 10 * rates[i] - rates[i] / 20 - 2 * pieces[j]);
        }
    }
}
END_TEST

START_TEST(pause_is_no_licence)
{
    struct ratelimit l = {0};
    uint64_t now = 0, octets = 0;

    ratelimit_set(&l, 1000000, now);
    now += 3600 * NS_PER_SEC;
    while (ratelimit_take(&l, 1000, now) == 0)
        octets += 1000;
    ck_assert_uint_le(octets, 51000);
}
END_TEST

START_TEST(change_of_rate_counts_at_once)
{
    struct ratelimit l = {0};
    uint64_t now = 0;

    ck_assert_uint_eq(ratelimit_take(&l, UINT64_C(1) << 40, now), 0);
    ratelimit_set(&l, 1000, now);
    ck_assert_uint_eq(ratelimit_take(&l, 1000000, now), 0);
    ck_assert_uint_gt(ratelimit_take(&l, 1, now), 900 * NS_PER_SEC);
    ratelimit_set(&l, 1000000, now);
    ck_assert_uint_le(ratelimit_take(&l, 1, now), NS_PER_SEC + 1);
    ratelimit_set(&l, 0, now);
    ck_assert_uint_eq(ratelimit_take(&l, 1, now), 0);
    ratelimit_set(&l, 1000, now); /* nothing is owed from before */
    ck_assert_uint_eq(ratelimit_take(&l, 1, now), 0);
}
END_TEST

/* Time that is told to wait is enough, and nothing is lost by clocks that tick within an octet's time. */
START_TEST(waits_are_enough)
{
    struct ratelimit l = {0};
    uint64_t now = 0, octets = 0;

    ratelimit_set(&l, 1000, now);
    while (now < 100 * NS_PER_SEC) {
        uint64_t ns = ratelimit_take(&l, 10, now);

        if (ns) {
            ck_assert_uint_gt(ratelimit_take(&l, 10, now + ns / 2), 0);
            now += ns;
            ck_assert_uint_eq(ratelimit_take(&l, 10, now), 0);
        }
        octets += 10;
    }
    ck_assert_uint_ge(octets, 99900);
    ck_assert_uint_le(octets, 100100);
}
END_TEST

/* ---- the stream ---- */

static struct numbers n;
static struct sink sinks[STREAMS];
static struct stream *s;
static struct pair p;

static void begin(unsigned int limit, uint64_t rate)
{
    struct stream_config config = {.failed = numbers_failed, .data = &n};

    memset(&n, 0, sizeof(n));
    memset(sinks, 0, sizeof(sinks));
    n.shift = 10;
    n.hold_after = RECORDS + 1;
    pair_make(&p);
    streams_start(&p, &s, &config, &n, sinks, STREAMS);
    stream_set_rate(s, rate);
    atomic_store(&n.limit, limit);
    stream_kick(s);
}

static void end(void)
{
    stream_destroy(s);
    sinks_join(sinks, STREAMS);
    pair_remove(&p);
}

/* The time is measured, and only the upper bound of octets is asserted: a slow machine sends less. */
START_TEST(all_connections_share_the_rate)
{
    const uint64_t rate = MIB(4);
    uint64_t start = clock_now(), elapsed;

    begin(RECORDS, rate);
    clock_sleep(500 * NS_PER_MS);
    stream_halt(s);
    elapsed = clock_now() - start;
    ck_assert_uint_gt(stream_bytes_sent(s), 0);
    ck_assert_uint_le(stream_bytes_sent(s), rate / 20 + 2 * WIRE_DATA_MAX + (uint64_t)((double)rate * (double)elapsed / 1e9));
    end();
}
END_TEST

/* At this rate the first records owe hours: only lifting it lets the others go. */
START_TEST(lifting_frees_who_waits)
{
    begin(200, 1);
    while (atomic_load(&n.next) < 1 + STREAMS)
        clock_sleep(NS_PER_MS);
    clock_sleep(20 * NS_PER_MS);
    ck_assert_uint_le(atomic_load(&n.done_ok), 1); /* and its acknowledgement is taken by a worker that waits */
    stream_set_rate(s, 0);
    while (atomic_load(&n.done_ok) < 200 && !atomic_load(&n.failed))
        clock_sleep(NS_PER_MS);
    ck_assert_uint_eq(n.failed, 0);
    end();
}
END_TEST

START_TEST(acknowledgements_are_taken_meanwhile)
{
    begin(RECORDS, 1);
    while (atomic_load(&n.done_ok) < 1 && !atomic_load(&n.failed))
        clock_sleep(NS_PER_MS);
    ck_assert_uint_eq(n.failed, 0);
    end();
    ck_assert_uint_eq(n.done_ok + n.done_error, n.next);
}
END_TEST

UNIT_MAIN("stream-rate", rate_holds_for_every_size, pause_is_no_licence, change_of_rate_counts_at_once, waits_are_enough,
          all_connections_share_the_rate, lifting_frees_who_waits, acknowledgements_are_taken_meanwhile)
