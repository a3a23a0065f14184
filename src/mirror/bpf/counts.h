/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the programs in the kernel share with tracker-bpf.c: both map these structs. The includer
 * brings the types __u32 and __u64 (kern.h there, linux/types.h here). */
#ifndef XMOTION_MIRROR_BPF_COUNTS_H
#define XMOTION_MIRROR_BPF_COUNTS_H

/* Why marks may have been lost; bits of tracker_counts.poison. */
enum tracker_poison {
    POISON_OVERFLOW = 1 << 0,    /* a bio was not remembered: the map of those in flight is full */
    POISON_BUSY = 1 << 1,        /* ... or its bucket was in use below an interrupt */
    POISON_PASSTHROUGH = 1 << 2, /* a driver's own command, which may write anywhere */
    POISON_DISCARD = 1 << 3,     /* a discard of more ranges than are walked */
    POISON_GREW = 1 << 4,        /* a write past the end: the disk is larger than it was */
    POISON_RANGE = 1 << 5,       /* a mark outside the bitmap: our own bug */
};

/* Set before the programs are loaded, constant then (the verifier drops what they switch off). */
struct tracker_target {
    __u64 start; /* what is tracked, in sectors of the whole disk */
    __u64 end;
    __u32 disk_major; /* of the whole disk */
    __u32 disk_minor;
    __u32 part_dev;        /* the kernel's number of the partition, 0: the whole disk is tracked */
    __u32 test_miss;       /* tests: every n-th write is not seen at all, 0: none */
    __u32 test_submission; /* tests: mark when a write begins, which loses data */
    __u32 padding;
};

/* As the kernel's own counters have it: all that changes data but discards is a write. */
struct tracker_sectors {
    __u64 written;
    __u64 discarded;
};

struct tracker_counts {
    struct tracker_sectors begun; /* request-based: both are one */
    struct tracker_sectors done;  /* bio-based only */
    __u64 unknown;                /* writes that completed and were never seen to begin */
    __u64 pending;                /* writes in the map of those in flight */
    __u64 reads;                  /* completed, counted while `probing` is set */
    __u32 poison;
    __u32 probing;
};

#endif
