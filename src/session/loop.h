/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The event loop of one session: descriptors, signals and a wake-up from other threads. The session's code reads in time
 * order: it takes turns until what it waits for has happened. One loop belongs to one thread. */
#ifndef XMOTION_SESSION_LOOP_H
#define XMOTION_SESSION_LOOP_H

#include "base/err.h"

#include <stdint.h>

struct loop;

int loop_create(struct loop **ret, struct err *err);
void loop_destroy(struct loop *l);

/* A turn ends when `fd` is readable. At most LOOP_FDS. */
#define LOOP_FDS 8
int loop_watch(struct loop *l, int fd, struct err *err);
void loop_unwatch(struct loop *l, int fd);

/* A signal is watched by one loop of the process. Counts them; loop_signals returns how many of `signo` came so far. */
int loop_watch_signal(struct loop *l, int signo, struct err *err);
unsigned int loop_signals(const struct loop *l);

/* Any thread: ends the turn under way, or the next one at once. */
void loop_wake(struct loop *l);

/* Sleeps until something happens, at most `ns`. */
void loop_turn(struct loop *l, uint64_t ns);

#endif
