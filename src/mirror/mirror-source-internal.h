/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What mirror-source.c (passes) and mirror-record.c (what a record carries) share. */
#ifndef XMOTION_MIRROR_MIRROR_SOURCE_INTERNAL_H
#define XMOTION_MIRROR_MIRROR_SOURCE_INTERNAL_H

#include "mirror/chain.h"
#include "mirror/hot-blocks.h"
#include "mirror/mirror-source.h"
#include "mirror/regions.h"

#include <pthread.h>

#define MIRROR_CHUNK ((uint64_t)WIRE_DISK_BLOCK_MAX)

/* What the blocks of a pass are sent as. */
enum mirror_pass {
    MIRROR_BULK,  /* the target reads as zeroes: zeroes are left out */
    MIRROR_OFFER, /* every chunk by its checksum; refused ones are for later */
    MIRROR_DIRTY, /* what was marked, zeroes as ZERO blocks */
};

struct mirror_source {
    struct mirror_source_config config;
    struct blockdev *dev;
    struct tracker *tracker;
    struct chain chain;  /* of what was acknowledged */

    pthread_mutex_t lock;
    struct bitmap todo;       /* blocks of this pass that were not claimed yet */
    uint64_t cursor;          /* first block that may still be in todo */
    uint64_t in_flight;       /* records claimed and not acknowledged */
    bool active;              /* a pass is under way */
    enum mirror_pass kind;
    bool alone;               /* the guest stands still: it does not wait for its disk */
    bool postponing;          /* the pass goes past busy regions */
    bool postponed;           /* it went past some, which are its last part */
    struct regions regions;
    uint64_t absorb_ns;       /* the next time for it */
    struct bitmap later;      /* blocks for the next pass: written when they had been read, or offered and refused */
    bool has_later;
    uint64_t later_octets;    /* about */
    struct hot_blocks hot;    /* what is put off, touched between passes only */
    uint64_t put_off_most;    /* octets */
    bool forgotten;           /* begun once, and to be begun again */
    int restarts;             /* copies from the beginning because marks may have been lost */
    uint64_t extent_from;     /* bulk and offer: this extent is known */
    uint64_t extent_end;
    bool extent_zero;
    struct mirror_source_stats stats;
};

/* mirror-record.c: the stream's calls. */
extern const struct stream_source_ops mirror_source_ops;

#endif
