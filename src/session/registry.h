/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The migrations that a receiver has under way, as the threads of its connections find them. All thread-safe. */
#ifndef XMOTION_SESSION_REGISTRY_H
#define XMOTION_SESSION_REGISTRY_H

#include "session/target.h"

#include <pthread.h>

#define REGISTRY_TARGETS_MAX 256u /* with those that were not begun, and those whose senders are lost */
#define REGISTRY_PEER_MAX    96u  /* of one sender */

struct registry {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct {
        struct target *t;
        unsigned int users; /* other threads that have it from registry_find */
    } targets[REGISTRY_TARGETS_MAX];
    bool closed;
};

void registry_init(struct registry *g);
void registry_finish(struct registry *g); /* empty by now */

/* -EBUSY: there are as many as there may be. -EEXIST: one of that session. -ECANCELED: closed. */
int registry_enroll(struct registry *g, struct target *t, struct err *err);
/* Nobody has it from registry_find any more when it returns. */
void registry_withdraw(struct registry *g, struct target *t);

/* The migration of that session, if the peer of that fingerprint began it; given back by registry_put. NULL: none. */
struct target *registry_find(struct registry *g, const char *session, const char *fingerprint);
void registry_put(struct registry *g, struct target *t);

/* Waits until the migration is not there any more. False: it still is after `timeout_ns`. */
bool registry_wait_gone(struct registry *g, const char *session, uint64_t timeout_ns);

/* No more are taken; those that are there are cancelled. */
void registry_close(struct registry *g);

#endif
