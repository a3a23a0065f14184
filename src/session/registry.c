/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/registry.h"

#include "base/clock.h"

#include <errno.h>
#include <string.h>
#include <time.h>

void registry_init(struct registry *g)
{
    memset(g, 0, sizeof(*g));
    (void)pthread_mutex_init(&g->lock, NULL);
    (void)pthread_cond_init(&g->changed, NULL);
}

void registry_finish(struct registry *g)
{
    (void)pthread_cond_destroy(&g->changed);
    (void)pthread_mutex_destroy(&g->lock);
}

/* Under the lock. */
static int place_for(struct registry *g, const struct target *t, unsigned int *ret, struct err *err)
{
    unsigned int of_peer = 0;

    *ret = REGISTRY_TARGETS_MAX;
    if (g->closed)
        return err_set(err, -ECANCELED, "the receiver is ending");
    for (unsigned int i = 0; i < REGISTRY_TARGETS_MAX; i++) {
        if (!g->targets[i].t)
            *ret = *ret == REGISTRY_TARGETS_MAX ? i : *ret;
        else if (strcmp(target_session(g->targets[i].t), target_session(t)) == 0)
            return err_set(err, -EEXIST, "there is a migration with this session's number already");
        else
            of_peer += strcmp(target_fingerprint(g->targets[i].t), target_fingerprint(t)) == 0;
    }
    if (of_peer >= REGISTRY_PEER_MAX)
        return err_set(err, -EBUSY, "this sender has %u migrations here already, lost ones among them", of_peer);
    if (*ret == REGISTRY_TARGETS_MAX)
        return err_set(err, -EBUSY, "this receiver serves %u migrations already", REGISTRY_TARGETS_MAX);
    return 0;
}

int registry_enroll(struct registry *g, struct target *t, struct err *err)
{
    unsigned int place;
    int r;

    pthread_mutex_lock(&g->lock);
    r = place_for(g, t, &place, err);
    if (r == 0) {
        g->targets[place].t = t;
        g->targets[place].users = 0;
    }
    pthread_mutex_unlock(&g->lock);
    return r;
}

void registry_withdraw(struct registry *g, struct target *t)
{
    pthread_mutex_lock(&g->lock);
    for (unsigned int i = 0; i < REGISTRY_TARGETS_MAX; i++) {
        if (g->targets[i].t != t)
            continue;
        while (g->targets[i].users)
            pthread_cond_wait(&g->changed, &g->lock);
        g->targets[i].t = NULL;
    }
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

struct target *registry_find(struct registry *g, const char *session, const char *fingerprint)
{
    struct target *found = NULL;

    pthread_mutex_lock(&g->lock);
    for (unsigned int i = 0; i < REGISTRY_TARGETS_MAX && !found; i++) {
        struct target *t = g->targets[i].t;

        if (t && strcmp(target_session(t), session) == 0 && strcmp(target_fingerprint(t), fingerprint) == 0) {
            g->targets[i].users++;
            found = t;
        }
    }
    pthread_mutex_unlock(&g->lock);
    return found;
}

void registry_put(struct registry *g, struct target *t)
{
    pthread_mutex_lock(&g->lock);
    for (unsigned int i = 0; i < REGISTRY_TARGETS_MAX; i++) {
        if (g->targets[i].t == t)
            g->targets[i].users--;
    }
    pthread_cond_broadcast(&g->changed);
    pthread_mutex_unlock(&g->lock);
}

/* Under the lock. */
static bool is_here(const struct registry *g, const char *session)
{
    for (unsigned int i = 0; i < REGISTRY_TARGETS_MAX; i++) {
        if (g->targets[i].t && strcmp(target_session(g->targets[i].t), session) == 0)
            return true;
    }
    return false;
}

bool registry_wait_gone(struct registry *g, const char *session, uint64_t timeout_ns)
{
    uint64_t until = clock_now() + timeout_ns;
    bool here;

    pthread_mutex_lock(&g->lock);
    while ((here = is_here(g, session)) && clock_cond_wait(&g->changed, &g->lock, until) != ETIMEDOUT)
        ;
    pthread_mutex_unlock(&g->lock);
    return !here;
}

void registry_close(struct registry *g)
{
    pthread_mutex_lock(&g->lock);
    g->closed = true;
    for (unsigned int i = 0; i < REGISTRY_TARGETS_MAX; i++) {
        if (g->targets[i].t)
            target_cancel(g->targets[i].t);
    }
    pthread_mutex_unlock(&g->lock);
}
