/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What comes to the sender by itself: the hypervisor's events, the receiver's messages, failures, requests of other
 * processes. Whoever waits for something serves all of it meanwhile. */
#include "session/source-priv.h"

#include "base/clock.h"
#include "transport/wire.h"

#include <string.h>

#define TURN           (50 * NS_PER_MS)
#define PROGRESS_EVERY (200 * NS_PER_MS)

void source_fail(struct source *s, const struct err *failure)
{
    pthread_mutex_lock(&s->lock);
    if (!s->failure.code)
        s->failure = *failure;
    pthread_mutex_unlock(&s->lock);
    loop_wake(s->loop);
}

void source_stream_failed(void *data, const struct err *failure)
{
    struct source *s = data;

    pthread_mutex_lock(&s->lock);
    s->data_dropped = s->data_dropped || conn_error_is_drop(failure->code);
    pthread_mutex_unlock(&s->lock);
    source_fail(s, failure);
}

bool source_link_is_lost(struct source *s)
{
    bool lost;

    pthread_mutex_lock(&s->lock);
    lost = s->data_dropped || (s->connected && s->control.broken);
    pthread_mutex_unlock(&s->lock);
    return lost;
}

int source_serve_hv(struct source *s, struct err *err)
{
    struct hv_event e;
    int r;

    while ((r = s->hv->ops->next_event(s->hv, &e, err)) == 0) {
        switch (e.kind) {
        case HV_POLICY:
            s->policy = e;
            s->policy.text[0] = '\0';
            break;
        case HV_SUSPENDED:
            s->suspended_seen = true;
            s->times.suspended = clock_now();
            if (s->times.suspended - s->times.suspend_begin > e.duration_ns && e.duration_ns)
                s->times.suspend_begin = s->times.suspended - e.duration_ns;
            break;
        case HV_SAVED:
            s->saved_seen = true;
            break;
        case HV_GONE:
            return err_set(err, -ESRCH, "the guest ended by itself: %s", e.text);
        case HV_FAILED:
            return err_set(err, -EIO, "%s", e.text);
        case HV_BUILT:
        case HV_NOTHING:
            break;
        }
    }
    return r == -EAGAIN ? 0 : r;
}

/* Before GO the peer has undone its side, or will. After GO its word counts only if it says that its copy is gone. */
static int peer_failed(const struct source *s, const json_t *message, struct err *err)
{
    const char *guest = json_string_value(json_object_get(message, "guest"));
    int r = control_peer_error(message, err);

    if (s->state == SW_GO && !(guest && strcmp(guest, "destroyed") == 0))
        return err_prefix(err, -ECONNRESET, "after GO");
    return r;
}

/* A reply is kept for whoever waits for it, and nothing is read past it: the peer may close when it has answered. */
static int serve_control(struct source *s, struct err *err)
{
    struct record record;
    json_t *message;
    int r = control_work(&s->control, err);

    while (r == 0 && !s->reply) {
        r = control_next(&s->control, &record, err);
        if (r < 0)
            break;
        r = control_parse(&record, &message, err);
        if (r < 0)
            break;
        if (record.type == WIRE_FAILED || record.type == WIRE_ABORTED) {
            r = peer_failed(s, message, err);
            json_decref(message);
            return r;
        }
        s->reply = message;
        s->reply_type = record.type;
    }
    return r == -EAGAIN ? 0 : r;
}

bool source_cancelled(const struct source *s)
{
    return loop_signals(s->loop) || (s->job && job_cancelled(s->job));
}

int source_check_cancelled(const struct source *s, struct err *err)
{
    return source_cancelled(s) ? err_set(err, -ECANCELED, "cancelled: the guest goes on here") : 0;
}

static int look_at_failures(struct source *s, struct err *err)
{
    struct err failure;

    /* After GO only the control connection counts: the target may close data connections before RUNNING gets here. */
    if (s->state == SW_GO)
        return 0;
    pthread_mutex_lock(&s->lock);
    failure = s->failure;
    pthread_mutex_unlock(&s->lock);
    if (failure.code) {
        *err = failure;
        return failure.code;
    }
    return source_check_cancelled(s, err);
}

static int serve(struct source *s, struct err *err)
{
    int r;

    if (s->job)
        job_work(s->job);
    r = s->hv && s->state != SW_GO ? source_serve_hv(s, err) : 0; /* after GO it is not ours to look at */
    if (r == 0)
        r = serve_control(s, err);
    if (r == 0)
        r = look_at_failures(s, err);
    if (r == 0 && s->stream)
        r = source_disks_drive(s, err);
    if (r == 0)
        r = source_memory_policy(s, err);
    if (r == 0 && s->state != SW_GO)
        r = source_care_turn(s, err);
    return r;
}

void source_tell_progress(struct source *s)
{
    if (clock_now() - s->last_progress_ns <= PROGRESS_EVERY)
        return;
    s->last_progress_ns = clock_now();
    source_report_progress(s);
}

int source_wait(struct source *s, bool (*done)(struct source *s), struct err *err)
{
    for (;;) {
        int r = serve(s, err);

        if (r < 0)
            return r;
        if (done(s))
            return 0;
        source_tell_progress(s);
        loop_turn(s->loop, TURN);
    }
}

void source_drop_reply(struct source *s)
{
    json_decref(s->reply);
    s->reply = NULL;
}
