/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The receiver's door: sockets from accept to HELLO, held to what gate.h decides. A peer that has not said a whole ClientHello has no
 * thread and no memory but its entry, and the time for handshake and HELLO is counted whole, whatever drips in meanwhile. */
#ifndef XMOTION_SESSION_DOOR_H
#define XMOTION_SESSION_DOOR_H

#include "session/gate.h"

struct door;

struct door_config {
    unsigned int migrations; /* at a time */
    /* Takes `fd` over in a thread of its own; the thread calls door_leave(entry) last. False: it could not, and `fd` is still ours. */
    bool (*begin)(void *data, int fd, int entry);
    void *data;
};

int door_create(struct door **ret, const struct door_config *config, struct err *err);
/* Nobody is inside any more. */
void door_destroy(struct door *d);

/* The receiver's own thread. door_fd is readable when there is work; door_work does it, and returns after how many nanoseconds at the
 * latest there is again. */
int door_fd(const struct door *d);
uint64_t door_work(struct door *d);

/* The same thread: accepts from a non-blocking listener. False: nobody waits there. */
bool door_accept(struct door *d, int listener);

/* Whoever has said no HELLO yet has to go, and nobody comes in any more. */
void door_close(struct door *d);

/* The connection's thread: its handshake is done; its HELLO came; it ends. -EBUSY with a sentence: it has to end now. */
int door_authorized(struct door *d, int entry, const char *fingerprint, struct err *err);
int door_greeted(struct door *d, int entry, bool control, struct err *err);
void door_leave(struct door *d, int entry);

/* Whether a stranger's mistake is worth a line of the log now: a few are, then they are only counted. */
bool door_may_log(struct door *d);

#endif
