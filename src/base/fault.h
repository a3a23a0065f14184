/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Places where a test build can be told to fail, to wait or to die (meson option fault_points, HACKING.md). In any other build
 * all of this is nothing.
 *
 * The environment says what happens: XMOTION_FAULT="NAME[@N[+]][/OTHER]=ACTION[,NAME[@N[+]][/OTHER]=ACTION...]"
 *   N       at the Nth passing of NAME in this process (1); "N+": at that one and every later
 *   OTHER   another point: passings count from when that one was passed
 *   kill    SIGKILL for itself          stop      SIGSTOP for itself
 *   sleep:MS                            fail:EIO  any name of an errno: fault_point returns it
 *   short   disk.write and journal.write only: fault_point returns FAULT_SHORT
 * A specification that is none of this ends the process with code 2 and one sentence. */
#ifndef XMOTION_BASE_FAULT_H
#define XMOTION_BASE_FAULT_H

#include "base/err.h"

/* Whoever passes disk.write or journal.write: write the first half, then fail with -EIO. */
#define FAULT_SHORT 1

#ifdef XMOTION_FAULT_POINTS

/* Reads XMOTION_FAULT now, so that a bad one is refused at once; else the first fault_point does. Thread-safe. */
void fault_init(void);

/* `name` is one of the names in fault.c. 0: go on. Negative errno: fail with it. FAULT_SHORT. Thread-safe. What it does is
 * logged (warn) before it is done. */
int fault_point(const char *name, struct err *err);

#else

static inline void fault_init(void)
{
}

static inline int fault_point(const char *name, struct err *err)
{
    (void)name, (void)err;
    return 0;
}

#endif

#endif
