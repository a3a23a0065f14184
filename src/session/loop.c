/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/loop.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <ev.h>
#include <stdlib.h>

#define LOOP_SIGNALS 4

struct loop {
    struct ev_loop *ev;
    ev_timer timer;
    ev_async wake;
    ev_io io[LOOP_FDS];
    ev_signal signals[LOOP_SIGNALS];
    unsigned int signal_watchers;
    unsigned int signal_count;
};

static void io_event(EV_P_ ev_io *w, int events)
{
    (void)w, (void)events;
    ev_break(EV_A_ EVBREAK_ONE);
}

static void timer_event(EV_P_ ev_timer *w, int events)
{
    (void)w, (void)events;
    ev_break(EV_A_ EVBREAK_ONE);
}

static void wake_event(EV_P_ ev_async *w, int events)
{
    (void)w, (void)events;
    ev_break(EV_A_ EVBREAK_ONE);
}

static void signal_event(EV_P_ ev_signal *w, int events)
{
    struct loop *l = w->data;

    (void)events;
    l->signal_count++;
    ev_break(EV_A_ EVBREAK_ONE);
}

int loop_create(struct loop **ret, struct err *err)
{
    struct loop *l = calloc(1, sizeof(*l));

    if (!l)
        return err_set(err, -ENOMEM, "out of memory");
    l->ev = ev_loop_new(EVFLAG_AUTO); /* never the default loop: it reaps every child of the process */
    if (!l->ev) {
        free(l);
        return err_set(err, -EMFILE, "no event loop can be made");
    }
    ev_timer_init(&l->timer, timer_event, 0., 0.);
    ev_async_init(&l->wake, wake_event);
    ev_async_start(l->ev, &l->wake);
    for (unsigned int i = 0; i < LOOP_FDS; i++)
        ev_io_init(&l->io[i], io_event, -1, EV_READ);
    *ret = l;
    return 0;
}

void loop_destroy(struct loop *l)
{
    if (!l)
        return;
    for (unsigned int i = 0; i < LOOP_FDS; i++)
        ev_io_stop(l->ev, &l->io[i]);
    for (unsigned int i = 0; i < l->signal_watchers; i++)
        ev_signal_stop(l->ev, &l->signals[i]);
    ev_async_stop(l->ev, &l->wake);
    ev_timer_stop(l->ev, &l->timer);
    ev_loop_destroy(l->ev);
    free(l);
}

int loop_watch(struct loop *l, int fd, struct err *err)
{
    for (unsigned int i = 0; i < LOOP_FDS; i++) {
        if (ev_is_active(&l->io[i]))
            continue;
        ev_io_set(&l->io[i], fd, EV_READ);
        ev_io_start(l->ev, &l->io[i]);
        return 0;
    }
    return err_set(err, -ENOSPC, "the event loop watches %d descriptors already", LOOP_FDS);
}

void loop_unwatch(struct loop *l, int fd)
{
    for (unsigned int i = 0; i < LOOP_FDS; i++) {
        if (ev_is_active(&l->io[i]) && l->io[i].fd == fd)
            ev_io_stop(l->ev, &l->io[i]);
    }
}

int loop_watch_signal(struct loop *l, int signo, struct err *err)
{
    ev_signal *w;

    if (l->signal_watchers == LOOP_SIGNALS)
        return err_set(err, -ENOSPC, "the event loop watches %d signals already", LOOP_SIGNALS);
    w = &l->signals[l->signal_watchers++];
    ev_signal_init(w, signal_event, signo);
    w->data = l;
    ev_signal_start(l->ev, w);
    return 0;
}

unsigned int loop_signals(const struct loop *l)
{
    return l->signal_count;
}

void loop_wake(struct loop *l)
{
    ev_async_send(l->ev, &l->wake);
}

void loop_turn(struct loop *l, uint64_t ns)
{
    ev_now_update(l->ev);
    ev_timer_set(&l->timer, (double)ns / (double)NS_PER_SEC, 0.);
    ev_timer_start(l->ev, &l->timer);
    (void)ev_run(l->ev, 0);
    ev_timer_stop(l->ev, &l->timer);
}
