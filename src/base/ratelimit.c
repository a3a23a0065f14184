/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/ratelimit.h"

#include "base/bytes.h"
#include "base/clock.h"

/* Tokens that were not asked for are kept for this part of a second: who sleeps a little too long loses nothing, and a long
 * pause is no licence for a burst. */
#define SAVED_PART 20

static uint64_t muldiv(uint64_t a, uint64_t b, uint64_t c)
{
    unsigned __int128 n = (unsigned __int128)a * b / c;

    return n > INT64_MAX / 2 ? INT64_MAX / 2 : (uint64_t)n;
}

static void count(struct ratelimit *l, uint64_t now)
{
    int64_t most = (int64_t)MIN(MAX(l->rate / SAVED_PART, 1), INT64_MAX / 2);
    uint64_t earned;

    if (!l->rate || now <= l->at)
        return;
    earned = muldiv(now - l->at, l->rate, NS_PER_SEC);
    /* What is left of an octet's time stays to be counted. */
    l->at += MIN(muldiv(earned, NS_PER_SEC, l->rate), now - l->at);
    l->tokens = MIN(l->tokens + (int64_t)earned, most);
}

void ratelimit_set(struct ratelimit *l, uint64_t rate, uint64_t now)
{
    count(l, now);
    if (!l->rate || !rate)
        l->tokens = 0;
    l->rate = MIN(rate, (uint64_t)INT64_MAX / 2);
    l->at = now;
}

uint64_t ratelimit_take(struct ratelimit *l, uint64_t octets, uint64_t now)
{
    if (!l->rate)
        return 0;
    count(l, now);
    if (l->tokens < 0)
        return muldiv((uint64_t)-l->tokens, NS_PER_SEC, l->rate) + 1;
    l->tokens -= (int64_t)MIN(octets, (uint64_t)INT64_MAX / 4);
    return 0;
}
