/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who notices what the guest writes to a disk while it is copied. A pass is: collect (take and clear), THEN read and
 * send what was taken; on any failure set the bits again (docs/design.md, hazards 1 and 2). */
#ifndef XMOTION_MIRROR_TRACKER_H
#define XMOTION_MIRROR_TRACKER_H

#include "base/bitmap.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRACKER_GRANULARITY 4096u /* octets a bit, of every tracker */

struct tracker;

struct tracker_ops {
    const char *name;
    /* Moves all marks into `dirty` (bits it had stay set); what completes afterwards is marked anew. Returns the
     * number of blocks taken in *ret_blocks. Checks poison first: -EIO with the reason means that marks may have been lost; the
     * caller then treats the whole disk as dirty after tracker_reset, or gives up. */
    int (*collect)(struct tracker *t, struct bitmap *dirty, uint64_t *ret_blocks, struct err *err);
    /* Blocks marked now, without taking them, for rates and predictions; all of them when marks may have been lost. */
    uint64_t (*count)(struct tracker *t);
    /* Clears poison and counters, so that a copy begun after it may be trusted again. */
    int (*reset)(struct tracker *t, struct err *err);
    /* The guest is suspended: waits at most `timeout_ns` until no write is in flight on the disk. -ETIMEDOUT. */
    int (*drain)(struct tracker *t, uint64_t timeout_ns, struct err *err);
    /* The disk is quiet: compares what was seen with an independent count of the kernel (or the server). 0, or
     * -EIO with both figures: a switchover must not follow. */
    int (*audit)(struct tracker *t, struct err *err);
    /* NULL, or: cheap enough to be asked many times a second, in the middle of a pass too. -EIO: the copy has become worthless. */
    int (*check)(struct tracker *t, struct err *err);
    /* NULL, or: where this host can read what the disk holds without its server, into `ret`. -ENOTSUP: nowhere. */
    int (*backing)(struct tracker *t, char *ret, size_t size, struct err *err);
    /* Stops tracking. */
    void (*destroy)(struct tracker *t);
};

/* Embedded first in every implementation. */
struct tracker {
    const struct tracker_ops *ops;
    uint64_t blocks; /* of TRACKER_GRANULARITY, the last may reach past the end of the disk */
};

/* Attaches to a block device of this host (path of the device itself; partitions, LVs, loop...), proves by a probe
 * read that the programs run (self-test), and waits until writes that were under way at attach are done: when it returns 0
 * every write that completes from now on is marked before its submitter hears of it. Needs root and BPF:
 * -EPERM, -ENOSYS (no BPF, no BTF), -ENOTSUP (a class of device that cannot be tracked) with one sentence each.
 * (tracker-bpf.c; -ENOTSUP when built without bpf.) */
int tracker_open_bpf(struct tracker **ret, const char *device, struct err *err);

/* Test options for tracker_open_bpf, read from the environment variable XMOTION_TEST_TRACKER by the tests' build of
 * the tracker only: "submission" marks at submission, "overflow=N" limits the in-flight map, "audit" spoils the count. */

/* The shared bitmap of the nbdkit plugin behind an NBD URI on this host. (tracker-nbd.c) -ENOTSUP: that server is
 * not nbdkit with the xmotion plugin: say what to start instead. */
int tracker_open_nbd(struct tracker **ret, const char *uri, struct err *err);

/* A plain file that nobody has open for writing, and that is kept so by a lease of the kernel: whoever opens it to write makes
 * collect, drain and audit fail. -EBUSY: somebody has it open now. */
int tracker_open_lease(struct tracker **ret, const char *path, struct err *err);

/* A bitmap in this process, for tests: marks are set by tracker_mem_mark. */
int tracker_open_mem(struct tracker **ret, uint64_t size, struct err *err);
void tracker_mem_mark(struct tracker *t, uint64_t offset, uint64_t length);

/* By name: an NBD URI, a device, or a plain file. */
int tracker_open(struct tracker **ret, const char *name, struct err *err);

static inline void tracker_destroy(struct tracker *t)
{
    if (t)
        t->ops->destroy(t);
}

#endif
