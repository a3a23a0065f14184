/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When to stop the guest: one decision for RAM and disks together, a pure function of statistics. */
#ifndef XMOTION_MEMSYNC_PRECOPY_POLICY_H
#define XMOTION_MEMSYNC_PRECOPY_POLICY_H

#include <stdbool.h>
#include <stdint.h>

enum precopy_on_timeout { PRECOPY_TIMEOUT_ABORT, PRECOPY_TIMEOUT_STOP, PRECOPY_TIMEOUT_THROTTLE };

struct precopy_stats {
    unsigned int round;           /* rounds that were begun */
    int64_t dirty_pages;          /* to be sent in the round at hand; -1 unknown (it was just sent) */
    uint64_t pages_per_second;    /* what the stream carries; 0 not measured yet */
    uint64_t dirtied_per_second;  /* pages the guest dirties; 0 not measured yet */
    uint64_t disk_tail_ns;        /* predicted time of the last disk pass; UINT64_MAX: bulk copy not done */
    uint64_t overhead_ns;         /* suspend, restore's end, unpause: what it takes besides the last passes */
    uint64_t elapsed_ns;          /* since the migration began */
};

struct precopy_limits {
    uint64_t downtime_ns;
    uint64_t timeout_ns; /* 0: none */
    enum precopy_on_timeout on_timeout;
};

enum precopy_decision {
    PRECOPY_CONTINUE,
    PRECOPY_STOP,
    PRECOPY_ABORT,
    PRECOPY_WAIT, /* disks are not ready, and another round of memory would be for nothing: ask again soon */
};

const char *precopy_decision_name(enum precopy_decision d);

/* *ret_tail_ns: the predicted stop (never more than UINT64_MAX), whatever is decided. */
enum precopy_decision precopy_decide(const struct precopy_stats *s, const struct precopy_limits *l,
                                     uint64_t *ret_tail_ns);

/* PRECOPY_TIMEOUT_THROTTLE: late, the guest gets less and less processor time until the stop fits. Who asked for this wants the move
 * and the downtime, and a slow guest for a while; so when the least share does not help the migration is given up, and the guest
 * gets all back: a stop longer than was allowed is what PRECOPY_TIMEOUT_STOP is for. */
struct precopy_throttle {
    unsigned int percent; /* of its processor time the guest has now; 0: all, nothing was done yet */
    uint64_t since_ns;    /* elapsed_ns of the last step */
    unsigned int since_round;
};

#define PRECOPY_THROTTLE_LEAST 10u /* percent */

/* To be asked whenever precopy_decide says CONTINUE or WAIT (also while only disks are copied: round 0). Changes *t when it is time
 * for the next step: the caller gives the guest t->percent then. PRECOPY_ABORT: the least share has not helped for a minute. */
enum precopy_decision precopy_throttle(const struct precopy_stats *s, const struct precopy_limits *l,
                                       struct precopy_throttle *t);

#endif
