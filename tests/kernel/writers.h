/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Threads that write to a disk in every way a guest may, and remember where. */
#ifndef XMOTION_TESTS_KERNEL_WRITERS_H
#define XMOTION_TESTS_KERNEL_WRITERS_H

#include "base/bitmap.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define WRITERS         3
#define WRITERS_MAX     11 /* with those that only discard */
#define WRITERS_WINDOWS 3
#define BLOCK           4096u

struct writers {
    const char *device;
    uint64_t size;
    uint64_t windows[WRITERS_WINDOWS]; /* where they write: most of the disk stays as it was */
    uint64_t window_len;
    struct bitmap attempted; /* every block that any write was sent to */
    struct bitmap written; /* ... that ended well, and began while `tracked` was set; no discards */
    bool tracked;
    bool stop;
    uint64_t seed;
    uint64_t ops;
    uint64_t errors;
    uint64_t unsupported; /* discards on a disk that has none */
    unsigned int thread_count;
    pthread_t threads[WRITERS_MAX];
};

/* `discarders` more threads do nothing but discard. Ends the program when the device cannot be
 * opened. writers_finish frees. */
void writers_start(struct writers *w, const char *device, uint64_t seed, unsigned int discarders);
/* Waits for every thread; all that was written is on the disk then. */
void writers_stop(struct writers *w);
void writers_finish(struct writers *w);

/* An atomic read of one of the counters, while they run. */
static inline uint64_t writers_read(const uint64_t *counter)
{
    return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

/* The size of a block device; ends the program when there is none. */
uint64_t device_size(int fd, const char *device);

#endif
