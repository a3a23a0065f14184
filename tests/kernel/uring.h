/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* As much of io_uring as a writer (and tests/bench/scattered) needs, by its system calls: the tests then need no liburing. */
#ifndef XMOTION_TESTS_KERNEL_URING_H
#define XMOTION_TESTS_KERNEL_URING_H

#include <linux/io_uring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uring {
    int fd;
    struct io_uring_params params;
    uint8_t *rings; /* both, one mapping (5.4 and later) */
    size_t rings_len;
    struct io_uring_sqe *entries;
    unsigned int prepared; /* and not yet begun */
};

/* 0 or a negative errno, as all of these. uring_finish also after a failure. */
int uring_init(struct uring *u, unsigned int depth);
void uring_finish(struct uring *u);

/* Starts a read or a write with the next one that is begun or waited for. */
void uring_prepare(struct uring *u, int fd, bool write, void *buf, size_t len, uint64_t offset, unsigned int tag);

/* Starts a write; `tag` comes back from uring_wait. Not more than `depth` may be under way. */
int uring_write(struct uring *u, int fd, const void *buf, size_t len, uint64_t offset,
                unsigned int tag);

/* Waits for one to end: its result as of pwrite(2), or -errno, in *ret_result. */
int uring_wait(struct uring *u, unsigned int *ret_tag, int *ret_result);

#endif
