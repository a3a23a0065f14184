/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The automatic brake: the copy reads the guest's disks no faster than the guest's own latency bears. What the guest waits for
 * its disks is taken from the kernel's block statistics, our own reads taken out; one limit for the whole migration comes out.
 * Disks without such figures (files, NBD exports) are not cared for. Not thread-safe. */
#ifndef XMOTION_MIRROR_CARE_H
#define XMOTION_MIRROR_CARE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* No limit: the brake is off. */
#define CARE_NO_LIMIT UINT64_MAX

struct care;

/* What the mirror has read of one disk since it began. All grow together when a read has ended. */
struct care_own_reads {
    uint64_t reads;  /* single ones, also of those that were asked for at once */
    uint64_t octets; /* of them */
    uint64_t ns;     /* sum of the times that each of them took, as the device's own figures are: twice over what two took together */
};

enum care_state {
    CARE_BLIND,   /* no disk has figures: never a limit */
    CARE_QUIET,   /* the guest does not wait for its disks: no limit */
    CARE_FREE,    /* its latency is near what it was: no limit */
    CARE_BRAKED,  /* limited */
    CARE_FLOOR,   /* limited to the least that still ends the copy */
    CARE_PROBING, /* the copy pauses for a moment, to see what the guest's latency is without it */
    CARE_STATE_COUNT,
};

const char *care_state_name(enum care_state state);

struct care_stats {
    enum care_state state;
    uint64_t limit;     /* octets per second, CARE_NO_LIMIT: none */
    uint64_t braked_ns; /* how long there was one */
    unsigned int watched; /* disks that have figures */
    /* Mean time of the guest's reads and writes while it is copied, and what the same mix of them took without the copy;
     * 0: not known. A disk or kind of request of which only one of the two is known counts in neither. */
    uint64_t before_ns;
    uint64_t during_ns;
    char why[240]; /* one sentence about the state, no newline */
};

/* Begins to watch the disks at these paths, `n` of them. A disk without figures is no error: care_stats says so. -ENOMEM. */
int care_create(struct care **ret, const char *const *paths, unsigned int n, uint64_t now_ns, struct err *err);
void care_destroy(struct care *c);

/* The same for folders that hold `stat` and `inflight` as a device's folder in sysfs does: for tests. */
int care_create_at(struct care **ret, const char *const *folders, unsigned int n, uint64_t now_ns, struct err *err);

/* Just before the first read of ours: what the guest did since care_create is its latency without the copy. May be left out,
 * and the guest may have been idle: then it is found later, in a pause of a second and a half. Never waits. */
void care_baseline(struct care *c, uint64_t now_ns);

/* Every 500 ms or so (what comes within 250 ms changes nothing) while the guest runs (not while it stands still). `own`: of each disk, in the order of `paths`.
 * `paced`: octets that were held to the limit so far. Both may begin anew at 0. Returns the limit, octets per second. */
uint64_t care_step(struct care *c, uint64_t now_ns, const struct care_own_reads *own, uint64_t paced);

void care_stats(const struct care *c, struct care_stats *ret);

#endif
