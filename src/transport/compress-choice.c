/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "transport/compress-choice.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <assert.h>

/* Steps that differ enough to be worth a step. */
static const int levels[COMPRESS_LEVELS] = {0, -5, 1, 3, 6};
/* What is sampled in turn: mostly the level that is chosen first. The last two only where the wire is so slow that they may pay. */
static const unsigned int turns[] = {2, 1, 2, 3, 2, 4};

#define ALWAYS        2   /* of levels */
#define WEIGHT        0.25 /* of what is new in the means */
#define MARGIN        0.9  /* another level must promise to take less than this part of the time */
#define STRONG_PAYS   0.5  /* level 1 must promise this before stronger ones are looked at */
/* A window is long enough not to measure how much fits into the socket's buffer. */
#define WINDOW_NS     (100 * NS_PER_MS)
#define WINDOW_OCTETS MIB(1)
/* While we compress, the wire takes what is in the buffer. Only when compressing is most of the time is it the wire's time that was short. */
#define BOUND_BY_CPU  0.5

void compress_choice_init(struct compress_choice *c, enum compress_mode mode)
{
    *c = (struct compress_choice){.mode = mode, .chosen = mode == COMPRESS_ALWAYS ? ALWAYS : 0, .sample_due = mode == COMPRESS_AUTO};
    c->tried[0].ratio = 1;
    c->tried[0].known = true;
}

int compress_choice_level(const struct compress_choice *c)
{
    return levels[c->chosen];
}

/* ns that a raw octet takes at that level, as it looks now. Processor time counts in full: others want it too. */
static double time_at(const struct compress_choice *c, unsigned int i)
{
    return c->wire * c->tried[i].ratio + c->tried[i].cost;
}

bool compress_choice_sample(struct compress_choice *c, int *ret_level)
{
    unsigned int turn;

    if (!c->sample_due)
        return false;
    c->sample_due = false;
    turn = turns[c->samples++ % ARRAY_SIZE(turns)];
    if (turn > ALWAYS && time_at(c, ALWAYS) > STRONG_PAYS * c->wire)
        turn = ALWAYS;
    *ret_level = levels[turn];
    return true;
}

static void choose(struct compress_choice *c)
{
    unsigned int best = c->chosen;

    if (c->mode != COMPRESS_AUTO || c->wire <= 0)
        return;
    for (unsigned int i = 0; i < COMPRESS_LEVELS; i++) {
        if (c->tried[i].known && time_at(c, i) < time_at(c, best))
            best = i;
    }
    if (time_at(c, best) < MARGIN * time_at(c, c->chosen))
        c->chosen = best;
}

static double mean(double old, double new)
{
    return old + WEIGHT * (new - old);
}

void compress_choice_tried(struct compress_choice *c, int level, uint64_t raw, uint64_t encoded, uint64_t ns)
{
    double ratio = (double)encoded / (double)raw;
    double cost = (double)ns / (double)raw;
    unsigned int i = 0;

    while (i < COMPRESS_LEVELS && levels[i] != level)
        i++;
    assert(i > 0 && i < COMPRESS_LEVELS && raw > 0);
    c->compress_ns += ns;
    c->tried[i].ratio = c->tried[i].known ? mean(c->tried[i].ratio, ratio) : ratio;
    c->tried[i].cost = c->tried[i].known ? mean(c->tried[i].cost, cost) : cost;
    c->tried[i].known = true;
    choose(c);
}

void compress_choice_busy(struct compress_choice *c, uint64_t now_ns)
{
    c->begin_ns = now_ns;
    c->acked = c->compress_ns = c->away_ns = 0;
}

void compress_choice_away(struct compress_choice *c, uint64_t ns, uint64_t compress_ns)
{
    c->away_ns += ns - MIN(ns, compress_ns);
}

void compress_choice_acked(struct compress_choice *c, uint64_t octets, bool idle, uint64_t now_ns)
{
    uint64_t elapsed = now_ns - c->begin_ns;
    double wire;

    c->acked += octets;
    if (c->begin_ns && elapsed >= WINDOW_NS && c->acked >= WINDOW_OCTETS) {
        elapsed -= MIN(elapsed, c->away_ns);
        if ((double)c->compress_ns > BOUND_BY_CPU * (double)elapsed)
            elapsed -= MIN(elapsed, c->compress_ns);
        wire = (double)elapsed / (double)c->acked;
        c->wire = c->wire > 0 ? mean(c->wire, wire) : wire;
        choose(c);
        c->sample_due = c->mode == COMPRESS_AUTO; /* a sample a window: what it costs is small beside it */
        compress_choice_busy(c, now_ns);
    }
    if (idle)
        c->begin_ns = 0;
}
