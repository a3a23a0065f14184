/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Monotonic time in nanoseconds: a wall clock that jumps changes nothing. */
#ifndef XMOTION_BASE_CLOCK_H
#define XMOTION_BASE_CLOCK_H

#include <pthread.h>
#include <stdint.h>
#include <time.h>

#define NS_PER_SEC UINT64_C(1000000000)
#define NS_PER_MS  UINT64_C(1000000)
#define NS_PER_US  UINT64_C(1000)

static inline uint64_t clock_now(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

/* Processor time of the calling thread. */
static inline uint64_t clock_thread(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

static inline struct timespec clock_timespec(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_SEC), .tv_nsec = (long)(ns % NS_PER_SEC)};
}

/* pthread_cond_wait until clock_now() is `until_ns`: ETIMEDOUT then. */
static inline int clock_cond_wait(pthread_cond_t *cond, pthread_mutex_t *mutex, uint64_t until_ns)
{
    struct timespec until = clock_timespec(until_ns);

    return pthread_cond_clockwait(cond, mutex, CLOCK_MONOTONIC, &until);
}

static inline void clock_sleep(uint64_t ns)
{
    struct timespec ts = clock_timespec(ns);

    (void)nanosleep(&ts, NULL);
}

#endif
