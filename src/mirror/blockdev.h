/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk as the mirror sees it: a file, a block device, an NBD export, memory, or another blockdev with faults.
 * All calls but open and close may be made by several threads at once, on ranges that do not overlap. */
#ifndef XMOTION_MIRROR_BLOCKDEV_H
#define XMOTION_MIRROR_BLOCKDEV_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct blockdev;

/* Buffers, offsets and lengths of direct I/O are multiples of this. */
#define BLOCKDEV_ALIGN 4096u

enum blockdev_flags {
    BLOCKDEV_WRITE = 1 << 0,     /* else read only */
    BLOCKDEV_EXCLUSIVE = 1 << 1, /* fails with -EBUSY when the device is mounted or in use, or somebody has the file open */
    BLOCKDEV_DIRECT = 1 << 2,    /* O_DIRECT where it is possible (always for block devices) */
};

struct blockdev_read {
    void *buf;
    size_t len;
    uint64_t offset;
};

struct blockdev_write {
    const void *buf;
    size_t len;
    uint64_t offset;
};

/* Who reads; NULL: somebody who does not mind. */
struct blockdev_reader {
    /* What reads cost, told by the calling thread as they end: of some of them, how many, their octets, and the sum of the times that
     * each of them took, which is more than what passed when they were under way together. */
    void (*ended)(void *data, uint32_t reads, uint64_t octets, uint64_t ns);
    void *data;
    bool alone; /* nobody else waits for this disk now */
};

static inline void blockdev_reads_ended(const struct blockdev_reader *reader, uint32_t reads, uint64_t octets, uint64_t ns)
{
    if (reader)
        reader->ended(reader->data, reads, octets, ns);
}

struct blockdev_ops {
    const char *name;
    /* Reads exactly len octets: past the end is a bug of the caller. */
    int (*pread)(struct blockdev *b, void *buf, size_t len, uint64_t offset, struct err *err);
    /* All of them, in any order and at once where that is faster; none is under way any more when it returns, with an error too.
     * NULL: one after another. */
    int (*pread_many)(struct blockdev *b, const struct blockdev_read *reads, uint32_t count, const struct blockdev_reader *reader,
                      struct err *err);
    int (*pwrite)(struct blockdev *b, const void *buf, size_t len, uint64_t offset, struct err *err);
    /* The same for writes that do not overlap. With an error some of the others may be written. NULL: one after another. */
    int (*pwrite_many)(struct blockdev *b, const struct blockdev_write *writes, uint32_t count, struct err *err);
    /* Makes the range read as zeroes, unallocated where that is possible. */
    int (*zero)(struct blockdev *b, uint64_t len, uint64_t offset, struct err *err);
    /* Everything written so far survives a power cut when it returns 0. */
    int (*flush)(struct blockdev *b, struct err *err);
    /* The status of the run that begins at `offset`: its length (>= 1, to the end at most) and whether it is known to
     * read as zeroes without being read. Unknown counts as data. */
    int (*extent)(struct blockdev *b, uint64_t offset, uint64_t *ret_length, bool *ret_zero, struct err *err);
    void (*close)(struct blockdev *b);
};

/* Embedded first in every implementation. */
struct blockdev {
    const struct blockdev_ops *ops;
    uint64_t size;        /* octets, exact */
    uint32_t sector_size; /* logical, 512 or 4096 */
};

/* A regular file or a block device. */
int blockdev_open_file(struct blockdev **ret, const char *path, unsigned int flags, struct err *err);

/* "nbd://", "nbds://" or "nbd+unix://" URI. `connections` handles are opened so that as many threads can work at
 * once. (blockdev-nbd.c; -ENOTSUP with a sentence when built without libnbd.) */
int blockdev_open_nbd(struct blockdev **ret, const char *uri, unsigned int flags, unsigned int connections,
                      struct err *err);

/* True for the URIs that blockdev_open_nbd takes. */
bool blockdev_is_uri(const char *name);

/* URI or path. */
int blockdev_open(struct blockdev **ret, const char *name, unsigned int flags, struct err *err);

int blockdev_pread_many(struct blockdev *b, const struct blockdev_read *reads, uint32_t count, const struct blockdev_reader *reader,
                        struct err *err);
int blockdev_pwrite_many(struct blockdev *b, const struct blockdev_write *writes, uint32_t count, struct err *err);

static inline void blockdev_close(struct blockdev *b)
{
    if (b)
        b->ops->close(b);
}

#endif
