/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The connections broke before anything was decided. The disks and what is known of them are kept, and the sender may come
 * back for as long as it said; a guest that was being built is undone, since memory begins anew. */
#include "session/target-priv.h"

#include "base/clock.h"
#include "base/log.h"

#define AREA "session.target"
#define TURN (50 * NS_PER_MS)

bool target_may_park(struct target *t, int code)
{
    bool lost;

    pthread_mutex_lock(&t->lock);
    lost = (t->data_dropped || t->control.broken) && !t->dissolve && !t->told_to_end;
    pthread_mutex_unlock(&t->lock);
    return lost && conn_error_is_drop(code) && t->state >= SW_PREPARED && t->state < SW_GO && t->journal.entry.reconnect_s;
}

static int undo_guest(struct target *t, struct err *err)
{
    int r;

    if (t->pages)
        page_target_cancel(t->pages);
    r = t->hv->ops->destroy(t->hv, err);
    target_end_data(t);
    page_target_destroy(t->pages);
    t->pages = NULL;
    if (t->hv->ops->fd(t->hv) >= 0)
        loop_unwatch(t->loop, t->hv->ops->fd(t->hv));
    t->hv->ops->close(t->hv);
    t->hv = NULL;
    return r;
}

static void forget_failures(struct target *t)
{
    pthread_mutex_lock(&t->lock);
    t->failure.code = 0;
    t->data_dropped = false;
    t->script_done = false;
    pthread_mutex_unlock(&t->lock);
    t->built = false;
}

static struct conn *take_resumed(struct target *t)
{
    struct conn *c;

    pthread_mutex_lock(&t->lock);
    c = t->resumed;
    t->resumed = NULL;
    pthread_mutex_unlock(&t->lock);
    return c;
}

static int wait_for_sender(struct target *t, const struct err *why, struct conn **ret, struct err *err)
{
    uint64_t give_up = clock_now() + t->journal.entry.reconnect_s * NS_PER_SEC;

    while (!(*ret = take_resumed(t))) {
        struct err failure;

        job_work(t->job);
        /* Failures now are a cancellation, or an end of the receiver: connections there are none. */
        if (target_look_at_failures(t, &failure) < 0 && failure.code == -ECANCELED) {
            *err = failure;
            return failure.code;
        }
        if (clock_now() > give_up)
            return err_set(err, -ETIMEDOUT, "%.300s; and the sender has not come back for %llu s", why->text,
                           (unsigned long long)t->journal.entry.reconnect_s);
        loop_turn(t->loop, TURN);
    }
    return 0;
}

/* May be said again, should the connection break before the sender hears it: see target-data.c. */
int target_say_resumed(struct target *t, struct err *err)
{
    json_t *taken = json_array();
    bool fresh;
    int r;

    pthread_mutex_lock(&t->lock);
    for (unsigned int i = 0; i < TARGET_CONNECTIONS_MAX; i++)
        (void)json_array_append_new(taken, json_integer((json_int_t)t->taken[i]));
    fresh = t->fresh;
    t->unheard = true;
    pthread_mutex_unlock(&t->lock);
    target_accept_data(t);
    r = control_send(&t->control, WIRE_RESUMED, json_pack("{s:b, s:o}", "fresh", (int)fresh, "taken", taken), err);
    if (r == 0 && !t->flusher_runs)
        r = target_start_flusher(t, err);
    return r;
}

int target_park(struct target *t, struct err *err)
{
    struct err why = *err;
    struct conn *c = NULL;
    int r;

    log_warn(AREA, "guest %s: %s; its disks are kept for %llu s", t->guest.name, why.text,
             (unsigned long long)t->journal.entry.reconnect_s);
    (void)target_feed(t, SW_EV_DROPPED);
    r = undo_guest(t, err);
    target_stop_flusher(t);
    control_finish(&t->control); /* the sender sees that nothing more will be said here */
    if (r == 0)
        r = hv_target_open(&t->hv, &t->guest, err);
    forget_failures(t);
    t->parked = true;
    (void)target_take_place(t, TARGET_PARKS, NULL);
    if (r == 0)
        r = wait_for_sender(t, &why, &c, err);
    (void)target_take_place(t, TARGET_RETURNS, NULL);
    t->parked = false;
    if (r < 0)
        return r;
    r = control_init(&t->control, c, t->loop, err);
    if (r == 0)
        r = target_say_resumed(t, err);
    return r;
}

void target_resume(struct target *t, struct conn *control, unsigned int drops)
{
    struct conn *before;

    pthread_mutex_lock(&t->lock);
    t->drops = drops;
    before = t->resumed;
    t->resumed = control;
    pthread_mutex_unlock(&t->lock);
    if (before)
        conn_destroy(before);
    loop_wake(t->loop);
}

void target_dissolve(struct target *t)
{
    pthread_mutex_lock(&t->lock);
    t->dissolve = true;
    pthread_mutex_unlock(&t->lock);
    loop_wake(t->loop);
}
