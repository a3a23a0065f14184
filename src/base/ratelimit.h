/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A token bucket that may go into debt: whoever finds it not empty takes what he needs, and the next wait until that is paid.
 * So the rate holds over any time longer than one taking, whatever the sizes. Pure: the clock and the lock are the caller's. */
#ifndef XMOTION_BASE_RATELIMIT_H
#define XMOTION_BASE_RATELIMIT_H

#include <stdint.h>

struct ratelimit {
    uint64_t rate;  /* octets a second, 0: no limit */
    int64_t tokens; /* octets that may go now; below 0: a debt */
    uint64_t at;    /* time up to which tokens were counted */
};

/* From `now` (clock_now) on. A debt stays, and is paid at the new rate. */
void ratelimit_set(struct ratelimit *l, uint64_t rate, uint64_t now);

/* 0: `octets` may go, and are counted. Else nanoseconds after which to ask again. */
uint64_t ratelimit_take(struct ratelimit *l, uint64_t octets, uint64_t now);

#endif
