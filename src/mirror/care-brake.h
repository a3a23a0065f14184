/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* From the guest's latencies to a limit: a state machine without clock or I/O, tested with tables and simulated disks.
 *
 * A stream is one kind of request on one disk. Its bound is what it took without the copy, doubled, and at least 2 ms more.
 *  - Over its bound in two samples running: less, by as much as it is over; not below the floor.
 *  - Well below it: more, quickly up to near the rate that was too much last, slowly from there, and the slower the more often
 *    it was too much; in between: as it is.
 *  - Not known what it took without the copy, or less of the copy does not help: a pause tells. What the guest takes in the
 *    pause is its own doing; a bound that rose by it comes down again slowly.
 *  - No requests of the guest, or something else than its disks is carried: no limit, and the one it had when they come back. */
#ifndef XMOTION_MIRROR_CARE_BRAKE_H
#define XMOTION_MIRROR_CARE_BRAKE_H

#include "mirror/care-meter.h"

/* Octets per second while it pauses: not 0, so that what is asked for comes in the end. */
#define CARE_PAUSE_RATE (UINT64_C(256) << 10)

struct care_stream {
    uint64_t before_ns;    /* without the copy; 0 not known yet */
    uint64_t baseline_ns;  /* the same, or more where the guest does worse by itself */
    uint64_t latency_ns;   /* the last one */
    uint64_t seen_ns;      /* when */
    uint64_t decreased_at_ns; /* the latency for which the limit was last lowered */
    unsigned int over;     /* samples above the bound, running */
    bool active;           /* the guest makes such requests */
    bool fresh;            /* this step brought a latency */
    uint64_t pause_ios;    /* in the pause */
    uint64_t pause_ns;
    uint64_t ios; /* sums of all samples during the copy */
    uint64_t ns;
};

struct care_brake_input {
    uint64_t now_ns;
    uint64_t paced;              /* octets held to the limit so far */
    uint64_t read_per_second;    /* octets that we read of all disks now */
    uint64_t written_per_second; /* octets that the guest writes */
    const struct care_sample *samples; /* as many as there are streams */
};

struct care_brake {
    struct care_stream *streams; /* the caller's */
    unsigned int count;
    enum care_state state;
    uint64_t limit;  /* to be held when the guest is active */
    uint64_t given;  /* what the last step returned */
    uint64_t peak;   /* highest rate without a limit; 0 not known yet */
    uint64_t rate;   /* of the last step */
    uint64_t too_much; /* the rate that was lowered last */
    double creep;      /* steps beyond it, a part of it */
    uint64_t last_ns;
    uint64_t last_paced;
    uint64_t decreased_ns;
    uint64_t pause_begin_ns;
    uint64_t next_pause_ns;
    uint64_t pause_interval_ns;
    uint64_t braked_ns;
    unsigned int calm;  /* steps in which we read next to nothing, running */
    bool elsewhere;     /* what is carried is hardly of these disks: the guest's memory, say */
    unsigned int worst; /* the stream that decided */
    uint64_t reason_ns; /* its latency then */
    bool pause_measures; /* what was under way at its begin is over */
    bool restart;        /* out: meters are to forget what has gathered */
};

/* `streams`: zeroed, `count` of them, kept by the caller as long as the brake. */
void care_brake_init(struct care_brake *b, struct care_stream *streams, unsigned int count);

/* What streams take without the copy. */
void care_brake_baseline(struct care_brake *b, const struct care_sample *samples);

uint64_t care_brake_bound(const struct care_stream *s); /* UINT64_MAX: none yet */
uint64_t care_brake_floor(const struct care_brake *b, uint64_t written_per_second);

/* Returns the limit. */
uint64_t care_brake_step(struct care_brake *b, const struct care_brake_input *in);

#endif
