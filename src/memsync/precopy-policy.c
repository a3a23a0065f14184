/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memsync/precopy-policy.h"

#include "base/clock.h"

/* A round over fewer pages than this is not worth its log-dirty clean, which pauses the guest (hazard 12). */
#define FEW_PAGES 64

static const char *const names[] = {
    [PRECOPY_CONTINUE] = "continue", [PRECOPY_STOP] = "stop", [PRECOPY_ABORT] = "abort", [PRECOPY_WAIT] = "wait"};

const char *precopy_decision_name(enum precopy_decision d)
{
    return names[d];
}

static uint64_t add(uint64_t a, uint64_t b)
{
    return a > UINT64_MAX - b ? UINT64_MAX : a + b;
}

static uint64_t time_for(uint64_t pages, uint64_t pages_per_second)
{
    double ns = (double)pages / (double)pages_per_second * (double)NS_PER_SEC;

    return ns < (double)UINT64_MAX ? (uint64_t)ns : UINT64_MAX;
}

/* The pages that will be dirty once this round has been sent: what is dirtied meanwhile. A hot set is written over and over,
 * so it is never taken to be more than was dirty before this round when this round is no longer. */
static uint64_t pages_after_round(const struct precopy_stats *s)
{
    double seconds = (double)s->dirty_pages / (double)s->pages_per_second;
    double dirtied = seconds * (double)s->dirtied_per_second;

    if (!s->dirtied_per_second || dirtied > (double)s->dirty_pages)
        return (uint64_t)s->dirty_pages;
    return (uint64_t)dirtied;
}

static uint64_t memory_tail(const struct precopy_stats *s)
{
    if (s->round == 0)
        return UINT64_MAX;
    if (s->dirty_pages == 0)
        return 0;
    if (s->dirty_pages < 0 || !s->pages_per_second)
        return UINT64_MAX;
    return time_for(pages_after_round(s), s->pages_per_second);
}

enum precopy_decision precopy_decide(const struct precopy_stats *s, const struct precopy_limits *l,
                                     uint64_t *ret_tail_ns)
{
    uint64_t memory = memory_tail(s);
    /* Last disk pass and last memory pass share the link, so their times add up. */
    uint64_t tail = add(add(memory, s->disk_tail_ns), s->overhead_ns);
    bool late = l->timeout_ns && s->elapsed_ns >= l->timeout_ns;

    *ret_tail_ns = tail;
    if (tail <= l->downtime_ns)
        return PRECOPY_STOP;
    if (late && l->on_timeout == PRECOPY_TIMEOUT_ABORT)
        return PRECOPY_ABORT;
    if (late && l->on_timeout == PRECOPY_TIMEOUT_STOP && s->disk_tail_ns != UINT64_MAX && s->round > 0)
        return PRECOPY_STOP;
    if (s->round > 0 && s->dirty_pages >= 0 && s->dirty_pages < FEW_PAGES)
        return PRECOPY_WAIT;
    return PRECOPY_CONTINUE;
}

/* A step shows in the second round after it; where rounds are long, or held up by the disks, time must do. */
#define STEP_TIME       (5 * NS_PER_SEC)
#define STEP_ROUNDS     2
#define STEP_TIME_MOST  (30 * NS_PER_SEC)
#define LEAST_TIME      (60 * NS_PER_SEC)

static const unsigned int steps[] = {80, 60, 40, 20, PRECOPY_THROTTLE_LEAST};

static bool had_its_time(const struct precopy_stats *s, const struct precopy_throttle *t)
{
    uint64_t time = s->elapsed_ns - t->since_ns;

    if (!t->percent)
        return true;
    return time >= STEP_TIME_MOST ||
           (time >= STEP_TIME && (s->round == 0 || s->round - t->since_round >= STEP_ROUNDS));
}

static unsigned int next_step(unsigned int percent)
{
    for (unsigned int i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
        if (!percent || steps[i] < percent)
            return steps[i];
    return 0;
}

enum precopy_decision precopy_throttle(const struct precopy_stats *s, const struct precopy_limits *l,
                                       struct precopy_throttle *t)
{
    if (l->on_timeout != PRECOPY_TIMEOUT_THROTTLE || !l->timeout_ns || s->elapsed_ns < l->timeout_ns)
        return PRECOPY_CONTINUE;
    if (s->disk_tail_ns == UINT64_MAX) /* in bulk: it is the link that takes its time, not the guest */
        return PRECOPY_CONTINUE;
    if (t->percent == PRECOPY_THROTTLE_LEAST)
        return s->elapsed_ns - t->since_ns >= LEAST_TIME ? PRECOPY_ABORT : PRECOPY_CONTINUE;
    if (had_its_time(s, t))
        *t = (struct precopy_throttle){next_step(t->percent), s->elapsed_ns, s->round};
    return PRECOPY_CONTINUE;
}
