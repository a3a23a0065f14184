/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/care-brake.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <assert.h>
#include <string.h>

/* A guest notices neither less than this, nor that what takes long takes twice as long. */
#define SLACK         (2 * NS_PER_MS)
#define TIMES         2
#define OVER_SAMPLES  2
/* Samples that lie further apart are not running. */
#define RUNNING       (3 * NS_PER_SEC)
/* Below this part of the bound there is room for more; above, and up to it, the limit stays as it is: no sawtooth. */
#define ROOM          0.7
#define LESS_MOST     0.3
#define LESS_LEAST    0.8
#define MORE          1.15
#define NEAR          0.8  /* of what was too much: up to there quickly */
#define CREEP         0.02 /* and from there by this part of it, */
#define CREEP_LEAST   0.0025 /* halved down to this one each time it was too much again */
#define CREEP_GROWS   1.1 /* while what was too much is not any more */
#define SAME          0.25 /* rates that differ by less of each other */
#define BINDS         0.7  /* a limit of which less is used says nothing of more */
#define OFF           1.25 /* of the highest rate without a limit: it is none any more */
#define FLOOR_PART    20
#define FLOOR_LEAST   MIB(4)
#define FLOOR_WORST   KIB(512)
/* A latency that is this much of the one before helped little. */
#define HELPED        0.75
/* We read less than this: the latency is not by us. */
#define NOT_US        MIB(1)
#define CALM_STEPS    2
#define PAUSE_SETTLE  (500 * NS_PER_MS)
#define PAUSE_ENOUGH  (1500 * NS_PER_MS)
#define PAUSE_MOST    (3 * NS_PER_SEC)
#define PAUSE_AGAIN   (30 * NS_PER_SEC)
#define PAUSE_SELDOM  (240 * NS_PER_SEC)
/* A raised baseline comes down by this part of the way, each sample: to what is seen, and to what it was before. */
#define BASELINE_FALL 16
#define BASELINE_FADE 128

void care_brake_init(struct care_brake *b, struct care_stream *streams, unsigned int count)
{
    memset(b, 0, sizeof(*b));
    b->streams = streams;
    b->count = count;
    b->state = CARE_QUIET;
    b->limit = b->given = CARE_NO_LIMIT;
    b->pause_interval_ns = PAUSE_AGAIN;
    b->creep = CREEP;
}

static void learn(struct care_stream *s, uint64_t latency_ns)
{
    s->before_ns = s->baseline_ns = MAX(latency_ns, 1);
    s->over = 0;
}

void care_brake_baseline(struct care_brake *b, const struct care_sample *samples)
{
    for (unsigned int i = 0; i < b->count; i++) {
        if (samples[i].news == CARE_LATENCY && samples[i].ios)
            learn(&b->streams[i], samples[i].latency_ns);
    }
}

uint64_t care_brake_bound(const struct care_stream *s)
{
    return s->before_ns ? MAX(TIMES * s->baseline_ns, s->baseline_ns + SLACK) : UINT64_MAX;
}

uint64_t care_brake_floor(const struct care_brake *b, uint64_t written_per_second)
{
    uint64_t half = b->peak ? b->peak / 2 : UINT64_MAX;
    uint64_t least = MAX(MIN(FLOOR_LEAST, half / 2), b->peak / FLOOR_PART);
    /* What the guest writes meanwhile is copied once more: slower than that, the copy has no end. */
    uint64_t gain = b->peak ? MIN(written_per_second + written_per_second / 4, half) : 0;

    return MAX(MAX(least, gain), FLOOR_WORST);
}

/* -- what a step brings -- */

/* A bound that rose comes down to what is seen, which is never less than what the guest would take alone; and, as the copy is
 * let to come near the bound, by itself. When the guest's own load lasts, the next pause says so. */
static void let_baseline_fall(struct care_stream *s)
{
    uint64_t to = MAX(s->before_ns, s->latency_ns);

    if (to < s->baseline_ns)
        s->baseline_ns -= DIV_ROUND_UP(s->baseline_ns - to, BASELINE_FALL);
    s->baseline_ns -= (s->baseline_ns - s->before_ns) / BASELINE_FADE;
}

static void note_latency(struct care_brake *b, struct care_stream *s, const struct care_sample *sample, uint64_t now_ns)
{
    bool running = s->over && now_ns - s->seen_ns <= RUNNING;

    s->active = s->fresh = true;
    s->latency_ns = sample->latency_ns;
    s->seen_ns = now_ns;
    s->ios += sample->ios;
    s->ns += sample->ios * sample->latency_ns;
    if (b->state == CARE_PROBING) {
        if (b->pause_measures) {
            s->pause_ios += sample->ios;
            s->pause_ns += sample->ios * sample->latency_ns;
        }
        return;
    }
    if (b->calm >= CALM_STEPS && !s->before_ns && sample->ios)
        learn(s, sample->latency_ns);
    if (s->latency_ns <= care_brake_bound(s) || b->calm)
        s->over = 0;
    else
        s->over = running ? s->over + 1 : 1;
    let_baseline_fall(s);
}

static void note_samples(struct care_brake *b, const struct care_brake_input *in)
{
    for (unsigned int i = 0; i < b->count; i++) {
        struct care_stream *s = &b->streams[i];

        s->fresh = false;
        if (in->samples[i].news == CARE_LATENCY) {
            note_latency(b, s, &in->samples[i], in->now_ns);
        } else if (in->samples[i].news == CARE_NO_IO) {
            s->active = false;
            s->over = 0;
        }
    }
}

static void note_rates(struct care_brake *b, const struct care_brake_input *in)
{
    uint64_t elapsed = in->now_ns - b->last_ns;
    uint64_t carried = in->paced - MIN(in->paced, b->last_paced);

    b->rate = (uint64_t)((double)carried * (double)NS_PER_SEC / (double)elapsed);
    b->calm = in->read_per_second < NOT_US ? b->calm + 1 : 0;
    b->elsewhere = b->calm >= CALM_STEPS && in->read_per_second < b->rate / 4;
    if (b->given != CARE_NO_LIMIT)
        b->braked_ns += elapsed;
    else if (!b->calm)
        b->peak = MAX(b->peak, b->rate);
    b->last_ns = in->now_ns;
    b->last_paced = in->paced;
}

/* -- what is done about it -- */

static double excess(const struct care_stream *s)
{
    return (double)s->latency_ns / (double)care_brake_bound(s);
}

/* The stream that is furthest over its bound, of those that are so for long enough; NULL: none is. */
static struct care_stream *worst_over(struct care_brake *b)
{
    struct care_stream *worst = NULL;

    for (unsigned int i = 0; i < b->count; i++) {
        struct care_stream *s = &b->streams[i];

        if (s->over < OVER_SAMPLES || (worst && excess(s) <= excess(worst)))
            continue;
        worst = s;
        b->worst = i;
    }
    return worst;
}

/* The guest waits longer than one overlooks, and nobody knows how long it does by itself. */
static bool pause_needed(struct care_brake *b)
{
    for (unsigned int i = 0; i < b->count; i++) {
        const struct care_stream *s = &b->streams[i];

        if (s->fresh && !s->before_ns && s->latency_ns > SLACK && !b->calm) {
            b->worst = i;
            return true;
        }
    }
    return false;
}

static void pause_begin(struct care_brake *b)
{
    for (unsigned int i = 0; i < b->count; i++)
        b->streams[i].pause_ios = b->streams[i].pause_ns = 0;
    b->pause_begin_ns = b->last_ns;
    b->pause_measures = false;
    b->state = CARE_PROBING;
}

/* Returns whether anything came out. */
static bool pause_result(struct care_stream *s)
{
    uint64_t bound = care_brake_bound(s);
    uint64_t latency;

    s->over = 0;
    s->decreased_at_ns = 0;
    if (!s->pause_ios)
        return false;
    latency = s->pause_ns / s->pause_ios;
    if (!s->before_ns) {
        learn(s, latency);
        return true;
    }
    if (latency <= s->baseline_ns)
        return false;
    s->baseline_ns = latency;
    return latency > bound;
}

static void pause_end(struct care_brake *b)
{
    bool learnt = false;

    for (unsigned int i = 0; i < b->count; i++)
        learnt |= pause_result(&b->streams[i]);
    b->pause_interval_ns = learnt ? PAUSE_AGAIN : MIN(2 * b->pause_interval_ns, PAUSE_SELDOM);
    b->next_pause_ns = b->last_ns + b->pause_interval_ns;
    b->state = b->limit == CARE_NO_LIMIT ? CARE_FREE : CARE_BRAKED;
    b->restart = true;
}

/* Every stream that has requests was measured. */
static bool pause_complete(const struct care_brake *b)
{
    for (unsigned int i = 0; i < b->count; i++) {
        if (b->streams[i].active && !b->streams[i].pause_ios)
            return false;
    }
    return true;
}

static void pause_go_on(struct care_brake *b)
{
    uint64_t elapsed = b->last_ns - b->pause_begin_ns;

    if (!b->pause_measures && elapsed >= PAUSE_SETTLE)
        b->pause_measures = b->restart = true;
    else if ((elapsed >= PAUSE_ENOUGH && pause_complete(b)) || elapsed >= PAUSE_MOST)
        pause_end(b);
}

/* Lower limits have not helped this stream, so it may not be us. */
static bool futile(const struct care_brake *b, const struct care_stream *s, uint64_t floor)
{
    if (b->limit <= floor)
        return true;
    return s->decreased_at_ns && b->last_ns - b->decreased_ns <= RUNNING &&
           (double)s->latency_ns > HELPED * (double)s->decreased_at_ns;
}

static void less(struct care_brake *b, struct care_stream *worst, uint64_t floor)
{
    uint64_t from = MIN(b->limit, MAX(b->rate, floor));
    double factor = MIN(MAX(1 / excess(worst), LESS_MOST), LESS_LEAST);

    if ((double)from > (1 - SAME) * (double)b->too_much && (double)from < (1 + SAME) * (double)b->too_much)
        b->creep = MAX(b->creep / 2, CREEP_LEAST);
    b->too_much = from;
    b->limit = MAX((uint64_t)((double)from * factor), floor);
    b->decreased_ns = b->last_ns;
    b->reason_ns = worst->latency_ns;
    for (unsigned int i = 0; i < b->count; i++) {
        b->streams[i].decreased_at_ns = b->streams[i].over ? b->streams[i].latency_ns : 0;
        b->streams[i].over = 0;
    }
}

/* Something was said in this step, all of it well below its bound. */
static bool has_room(const struct care_brake *b)
{
    bool any = false;

    for (unsigned int i = 0; i < b->count; i++) {
        const struct care_stream *s = &b->streams[i];

        if (s->active && s->before_ns && (s->over || excess(s) > ROOM))
            return false;
        any |= s->fresh;
    }
    return any;
}

static void more(struct care_brake *b)
{
    if (b->limit == CARE_NO_LIMIT || b->elsewhere || (double)b->rate < BINDS * (double)b->limit)
        return;
    if ((double)b->limit < NEAR * (double)b->too_much)
        b->limit = (uint64_t)((double)b->limit * MORE);
    else
        b->limit += (uint64_t)((double)b->too_much * b->creep) + 1;
    if (b->limit > b->too_much)
        b->creep = MIN(b->creep * CREEP_GROWS, CREEP);
    if ((double)b->limit > (1 + SAME) * (double)b->too_much) /* the guest has become another */
        b->too_much = 2 * b->limit;
    if ((double)b->limit > OFF * (double)b->peak)
        b->limit = CARE_NO_LIMIT;
}

static bool any_active(const struct care_brake *b)
{
    for (unsigned int i = 0; i < b->count; i++) {
        if (b->streams[i].active)
            return true;
    }
    return false;
}

static void decide(struct care_brake *b, uint64_t written_per_second)
{
    uint64_t floor = care_brake_floor(b, written_per_second);
    struct care_stream *worst = worst_over(b);
    bool may_pause = b->last_ns >= b->next_pause_ns;

    if (b->limit != CARE_NO_LIMIT)
        b->limit = MAX(b->limit, floor);
    if ((worst && may_pause && futile(b, worst, floor)) || (!worst && may_pause && pause_needed(b))) {
        pause_begin(b);
        return;
    }
    if (worst)
        less(b, worst, floor);
    else if (has_room(b))
        more(b);
    if (!any_active(b))
        b->state = CARE_QUIET;
    else if (b->limit == CARE_NO_LIMIT || b->elsewhere)
        b->state = CARE_FREE;
    else
        b->state = b->limit <= floor ? CARE_FLOOR : CARE_BRAKED;
}

uint64_t care_brake_step(struct care_brake *b, const struct care_brake_input *in)
{
    b->restart = false;
    if (!b->last_ns || in->now_ns < b->last_ns) {
        b->last_ns = in->now_ns;
        b->last_paced = in->paced;
    }
    if (in->now_ns == b->last_ns)
        return b->given;
    note_rates(b, in);
    note_samples(b, in);
    if (b->state == CARE_PROBING)
        pause_go_on(b);
    else
        decide(b, in->written_per_second);
    if (b->state == CARE_PROBING)
        b->given = MIN(CARE_PAUSE_RATE, b->limit);
    else
        b->given = b->state == CARE_QUIET || b->state == CARE_FREE ? CARE_NO_LIMIT : b->limit;
    return b->given;
}
