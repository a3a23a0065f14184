/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A connection in the small: data of some kind, a link, a processor, and what is chosen for them. */
#include "base/bytes.h"
#include "base/clock.h"
#include "transport/compress-choice.h"
#include "unit.h"

#define RECORD KIB(256)

/* What a level does to some data: ns a raw octet, and what is left of it. As measured, but for the names. */
struct data {
    struct {
        double cost, ratio;
    } at[COMPRESS_LEVELS];
};

static const int levels[COMPRESS_LEVELS] = {0, -5, 1, 3, 6};
static const struct data files = {{{0, 1}, {1.5, 0.58}, {2.4, 0.42}, {3.6, 0.40}, {11, 0.37}}};
static const struct data random_octets = {{{0, 1}, {0.1, 1}, {0.13, 1}, {0.2, 1}, {0.3, 1}}};

struct link {
    struct compress_choice choice;
    uint64_t now;
    uint64_t on_the_way; /* octets that the link has not carried yet */
    double ns;           /* an octet */
    uint64_t raw, wire, cpu;
};

static unsigned int index_of(int level)
{
    unsigned int i = 0;

    while (levels[i] != level)
        i++;
    return i;
}

/* The worker's part: compresses or samples; while it does, the link goes on. */
static uint64_t encode(struct link *l, const struct data *d)
{
    int level = compress_choice_level(&l->choice);
    unsigned int i = index_of(level);
    uint64_t encoded = (uint64_t)(RECORD * d->at[i].ratio);
    uint64_t ns = (uint64_t)(RECORD * d->at[i].cost);
    int sample;

    if (level) {
        compress_choice_tried(&l->choice, level, RECORD, encoded, ns);
    } else if (compress_choice_sample(&l->choice, &sample)) {
        i = index_of(sample);
        ns = (uint64_t)(COMPRESS_SAMPLE * d->at[i].cost);
        compress_choice_tried(&l->choice, sample, COMPRESS_SAMPLE, (uint64_t)(COMPRESS_SAMPLE * d->at[i].ratio), ns);
    }
    l->cpu += ns;
    l->now += ns;
    l->on_the_way -= MIN(l->on_the_way, (uint64_t)((double)ns / l->ns));
    return encoded;
}

/* Sends so much data. The socket takes 2 MiB before it makes the sender wait. */
static void send_data(struct link *l, const struct data *d, uint64_t octets)
{
    for (uint64_t done = 0; done < octets; done += RECORD) {
        uint64_t encoded = encode(l, d);
        uint64_t over;

        if (!l->choice.begin_ns)
            compress_choice_busy(&l->choice, l->now);
        l->on_the_way += encoded;
        over = l->on_the_way > MIB(2) ? l->on_the_way - MIB(2) : 0;
        l->now += (uint64_t)((double)over * l->ns) + 1000;
        l->on_the_way -= over;
        compress_choice_acked(&l->choice, encoded, false, l->now);
        l->raw += RECORD;
        l->wire += encoded;
    }
}

static struct link link_of(double mib_per_second, enum compress_mode mode)
{
    struct link l = {.now = NS_PER_SEC, .ns = 1e9 / (mib_per_second * 1048576)};

    compress_choice_init(&l.choice, mode);
    return l;
}

START_TEST(fast_link_is_left_alone)
{
    struct link l = link_of(600, COMPRESS_AUTO);

    send_data(&l, &files, GIB(2));
    ck_assert_uint_eq(l.wire, l.raw);
    ck_assert_uint_lt(l.cpu * 100, l.now - NS_PER_SEC); /* of samples: less than a hundredth */
}
END_TEST

START_TEST(slow_link_is_helped)
{
    struct link l = link_of(59, COMPRESS_AUTO); /* half of 1 Gbit/s */

    send_data(&l, &files, GIB(1));
    ck_assert_uint_lt(l.wire * 100, l.raw * 48);
    ck_assert_int_ge(compress_choice_level(&l.choice), 1);
}
END_TEST

START_TEST(very_slow_link_is_helped_more)
{
    struct link l = link_of(4, COMPRESS_AUTO);

    send_data(&l, &files, MIB(512));
    ck_assert_int_ge(compress_choice_level(&l.choice), 1);
    ck_assert_uint_lt(l.wire * 100, l.raw * 48);
}
END_TEST

START_TEST(random_octets_cost_little)
{
    struct link l = link_of(59, COMPRESS_AUTO);

    send_data(&l, &random_octets, GIB(1));
    ck_assert_uint_eq(l.wire, l.raw);
    ck_assert_uint_lt(l.cpu * 50, l.now - NS_PER_SEC);
    send_data(&l, &files, GIB(1)); /* and what follows is noticed */
    ck_assert_uint_lt(l.wire * 100, l.raw * 75);
}
END_TEST

START_TEST(link_that_changes_is_followed)
{
    struct link l = link_of(59, COMPRESS_AUTO);

    send_data(&l, &files, MIB(512));
    ck_assert_int_ne(compress_choice_level(&l.choice), 0);
    l.ns /= 20;
    send_data(&l, &files, GIB(1));
    ck_assert_int_eq(compress_choice_level(&l.choice), 0);
    l.ns *= 20;
    send_data(&l, &files, GIB(1));
    ck_assert_int_ne(compress_choice_level(&l.choice), 0);
}
END_TEST

/* Where the disk is what is waited for, compressing gains nothing. */
START_TEST(slow_disk_is_no_slow_link)
{
    struct link l = link_of(1000, COMPRESS_AUTO);

    for (int i = 0; i < 1000; i++) {
        l.now += 2 * NS_PER_MS;
        compress_choice_away(&l.choice, 2 * NS_PER_MS, 0);
        send_data(&l, &files, RECORD);
    }
    ck_assert_uint_eq(l.wire, l.raw);
}
END_TEST

/* What trickles says nothing of the link. */
START_TEST(short_bursts_decide_nothing)
{
    struct link l = link_of(1, COMPRESS_AUTO);

    for (int i = 0; i < 1000; i++) {
        compress_choice_busy(&l.choice, l.now);
        l.now += 10 * NS_PER_MS;
        compress_choice_acked(&l.choice, RECORD, true, l.now);
    }
    ck_assert(l.choice.wire == 0);
    ck_assert_int_eq(compress_choice_level(&l.choice), 0);
}
END_TEST

START_TEST(modes_are_obeyed)
{
    struct link never = link_of(4, COMPRESS_NONE);
    struct link always = link_of(4000, COMPRESS_ALWAYS);

    send_data(&never, &files, MIB(256));
    send_data(&always, &files, MIB(256));
    ck_assert_uint_eq(never.wire, never.raw);
    ck_assert_uint_eq(never.cpu, 0);
    ck_assert_uint_lt(always.wire * 2, always.raw);
    ck_assert_int_eq(compress_choice_level(&always.choice), 1);
}
END_TEST

UNIT_MAIN("compress-choice", fast_link_is_left_alone, slow_link_is_helped, very_slow_link_is_helped_more, random_octets_cost_little,
          link_that_changes_is_followed, slow_disk_is_no_slow_link, short_bursts_decide_nothing, modes_are_obeyed)
