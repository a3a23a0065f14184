/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How many reads or writes at once a disk is asked for, against disks in simulated time. */
#include "base/bytes.h"
#include "base/clock.h"
#include "mirror/direct-io.h"

#include "unit.h"

static unsigned int seed = 1;

/* A simulated disk with as many arms, each of which takes `took_ns` for one; `threads` have their reads under way. Where the depth ends,
 * as a mean of the last half. */
static double settled_depth(struct direct_io_pace *p, unsigned int arms, uint64_t took_ns, unsigned int threads, unsigned int reads)
{
    uint64_t free_ns[16] = {0}, now = NS_PER_SEC;
    uint64_t begun[64], ends[64];
    unsigned int n = 0;
    double sum = 0;

    for (unsigned int i = 0; i < reads; i++) {
        unsigned int first = 0;

        for (; n < MAX(p->depth, 1) * threads; n++) {
            unsigned int arm = 0;

            for (unsigned int a = 1; a < arms; a++)
                arm = free_ns[a] < free_ns[arm] ? a : arm;
            begun[n] = now;
            ends[n] = free_ns[arm] = MAX(free_ns[arm], now) + took_ns / 2 + (uint64_t)rand_r(&seed) % took_ns;
        }
        for (unsigned int k = 1; k < n; k++)
            first = ends[k] < ends[first] ? k : first;
        now = MAX(now, ends[first]);
        direct_io_pace_ended(p, begun[first], now, false);
        n--;
        begun[first] = begun[n];
        ends[first] = ends[n];
        sum += i >= reads / 2 ? p->depth : 0;
    }
    return sum / (reads - reads / 2);
}

START_TEST(a_disk_gets_what_it_bears)
{
    static const struct {
        unsigned int arms;
        uint64_t took_ns;
        unsigned int threads;
        double least, most;
    } cases[] = {
        {16, 100 * NS_PER_US, 1, 15, 16}, /* solid state */
        {16, 20 * NS_PER_US, 2, 15, 16},
        {16, 5 * NS_PER_MS, 1, 15, 16},   /* far away, and several at a time */
        {4, 8 * NS_PER_MS, 1, 2.5, 8},
        {1, 4 * NS_PER_MS, 1, 1, 1.2},    /* a disk with one arm: as if one after another */
        {1, 4 * NS_PER_MS, 2, 1, 1.2},
        {1, 8 * NS_PER_MS, 2, 1, 1.2},
        {1, 8 * NS_PER_MS, 1, 1, 1.2},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct direct_io_pace p = {.depth = 0};
        double depth = settled_depth(&p, cases[i].arms, cases[i].took_ns, cases[i].threads, 8000);

        ck_assert_msg(depth >= cases[i].least && depth <= cases[i].most, "case %zu: %.1f", i, depth);
    }
}
END_TEST

/* What was learned of a disk is forgotten when it changes its ways, and one slow read is no change. */
START_TEST(pace_follows)
{
    struct direct_io_pace p = {.depth = 0};

    ck_assert_double_gt(settled_depth(&p, 16, 100 * NS_PER_US, 1, 4000), 15);
    direct_io_pace_ended(&p, NS_PER_SEC * 100, NS_PER_SEC * 101, false);
    ck_assert_uint_eq(p.depth, DIRECT_IO_DEPTH);
    for (unsigned int i = 0; i < 20; i++) /* what was asked for before it was lowered waited for the same */
        direct_io_pace_ended(&p, NS_PER_SEC * 100, NS_PER_SEC * 101, false);
    ck_assert_uint_eq(p.depth, DIRECT_IO_DEPTH / 2);
    p.lowered_ns = 0;
    ck_assert_double_lt(settled_depth(&p, 1, 4 * NS_PER_MS, 1, 4000), 1.5);
    p.lowered_ns = 0;
    ck_assert_double_gt(settled_depth(&p, 16, 100 * NS_PER_US, 1, 20000), 15);
}
END_TEST

/* A thread that gets no processor finds them all ended when it comes. */
START_TEST(late_threads_say_nothing)
{
    struct direct_io_pace p = {.depth = 0};
    uint64_t now = NS_PER_SEC;

    ck_assert_double_gt(settled_depth(&p, 16, 100 * NS_PER_US, 1, 4000), 15);
    for (unsigned int i = 0; i < 1000; i++, now += 50 * NS_PER_MS)
        direct_io_pace_ended(&p, now, now + 20 * NS_PER_MS, true);
    ck_assert_uint_eq(p.depth, DIRECT_IO_DEPTH);
    for (unsigned int i = 0; i < 40; i++, now += 50 * NS_PER_MS)
        direct_io_pace_ended(&p, now, now + 20 * NS_PER_MS, false);
    ck_assert_uint_le(p.depth, 2);
}
END_TEST

UNIT_MAIN("direct-io-pace", a_disk_gets_what_it_bears, pace_follows, late_threads_say_nothing)
