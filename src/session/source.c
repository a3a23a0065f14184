/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One migration as the sender sees it, in the order of time. Whatever ends it early, the switchover table says whose the
 * guest is, and one place (undo) brings it back. */
#include "session/source-priv.h"

#include "base/clock.h"
#include "base/log.h"
#include "transport/wire.h"

#include <assert.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>

#define AREA           "session.source"
#define TURN           (50 * NS_PER_MS)
#define PROGRESS_EVERY (200 * NS_PER_MS)

enum switchover_action source_feed(struct source *s, enum switchover_event event)
{
    struct switchover_step step = switchover_next(SWITCHOVER_SOURCE, s->state, event);

    log_debug(AREA, "%s: event %d -> %s", switchover_state_name(s->state), (int)event,
              switchover_state_name(step.next));
    assert(step.action != SW_REFUSE);
    s->state = step.next;
    return step.action;
}

void source_set_phase(struct source *s, const char *phase)
{
    json_t *e = json_pack("{s:s, s:s, s:s}", "event", "phase", "phase", phase, "guest", s->config->guest);

    s->phase = phase;
    if (e && s->config->event)
        s->config->event(s->config->data, e);
    json_decref(e);
}

void source_fail(struct source *s, const struct err *failure)
{
    pthread_mutex_lock(&s->lock);
    if (!s->failure.code)
        s->failure = *failure;
    pthread_mutex_unlock(&s->lock);
    loop_wake(s->loop);
}

static void stream_failed(void *data, const struct err *failure)
{
    source_fail(data, failure);
}

/* -- what comes by itself -- */

static int serve_hv(struct source *s, struct err *err)
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
        if (record.type == WIRE_FAILED) {
            r = peer_failed(s, message, err);
            json_decref(message);
            return r;
        }
        s->reply = message;
        s->reply_type = record.type;
    }
    return r == -EAGAIN ? 0 : r;
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
    if (loop_signals(s->loop) || (s->job && job_cancelled(s->job)))
        return err_set(err, -ECANCELED, "cancelled");
    return 0;
}

static int serve(struct source *s, struct err *err)
{
    int r;

    if (s->job)
        job_work(s->job);
    r = s->hv && s->state != SW_GO ? serve_hv(s, err) : 0; /* after GO it is not ours to look at */
    if (r == 0)
        r = serve_control(s, err);
    if (r == 0)
        r = look_at_failures(s, err);
    if (r == 0 && s->stream)
        r = source_disks_drive(s, err);
    if (r == 0)
        r = source_memory_policy(s, err);
    return r;
}

int source_wait(struct source *s, bool (*done)(struct source *s), struct err *err)
{
    for (;;) {
        int r = serve(s, err);

        if (r < 0)
            return r;
        if (done(s))
            return 0;
        if (clock_now() - s->last_progress_ns > PROGRESS_EVERY) {
            s->last_progress_ns = clock_now();
            source_report_progress(s);
        }
        loop_turn(s->loop, TURN);
    }
}

static bool prepared(struct source *s)
{
    return s->reply && s->reply_type == WIRE_PREPARED;
}

static bool ready(struct source *s)
{
    return s->reply && s->reply_type == WIRE_READY;
}

static bool running(struct source *s)
{
    return s->reply && s->reply_type == WIRE_RUNNING;
}

void source_drop_reply(struct source *s)
{
    json_decref(s->reply);
    s->reply = NULL;
}

/* -- in order of time -- */

static int open_guest(struct source *s, struct err *err)
{
    static const char prefix[] = "disk:";
    const char *path = s->config->guest + sizeof(prefix) - 1;
    struct blockdev *dev;
    uint64_t size = 0;

    if (strncmp(s->config->guest, prefix, sizeof(prefix) - 1) != 0)
        return hv_source_open(&s->hv, s->config->guest, err);
    if (blockdev_is_uri(path)) {
        int r = blockdev_open(&dev, path, 0, err);

        if (r < 0)
            return r;
        size = dev->size;
        blockdev_close(dev);
    }
    return hv_source_open_none(&s->hv, path, s->config->stop_command, size, err);
}

static json_t *status_of(void *source)
{
    return source_status(source);
}

static int begin(struct source *s, struct err *err)
{
    int r = open_guest(s, err);

    if (r == 0)
        r = loop_watch(s->loop, s->hv->ops->fd(s->hv), err);
    if (r < 0)
        return r;
    s->guest = s->hv->ops->guest(s->hv);
    r = s->hv->ops->check(s->hv, err);
    if (r == 0)
        r = job_create(&s->job, s->loop, s->id, status_of, s, err);
    if (r == 0)
        r = source_connect(s, "control", err);
    return r;
}

static int prepare(struct source *s, struct err *err)
{
    struct stream_config c = {.failed = stream_failed, .data = s};
    int r;

    source_set_phase(s, "prepare");
    r = control_send(&s->control, WIRE_PREPARE, source_prepare_message(s), err);
    if (r == 0)
        r = source_wait(s, prepared, err);
    if (r < 0)
        return r;
    source_drop_reply(s);
    (void)source_feed(s, SW_EV_PREPARED);
    r = stream_create(&s->stream, &c, err);
    if (r == 0)
        r = source_disks_open(s, err);
    if (r == 0)
        r = source_open_data(s, err);
    return r;
}

/* Storage first: memory converges faster, and is not sent twice for having waited for the disks. */
static bool disks_converged(struct source *s)
{
    const struct precopy_limits *l = &s->config->limits;

    if (!source_disks_bulk_done(s))
        return false;
    if (source_disks_tail_ns(s) <= l->downtime_ns / 2)
        return true;
    return l->timeout_ns && clock_now() - s->times.begin >= l->timeout_ns;
}

static int copy_disks(struct source *s, struct err *err)
{
    int r;

    source_set_phase(s, "disks");
    r = source_disks_begin(s, err);
    if (r == 0)
        r = source_wait(s, disks_converged, err);
    s->predicted_tail_ns = source_disks_tail_ns(s);
    if (r == 0 && s->predicted_tail_ns > s->config->limits.downtime_ns &&
        s->config->limits.on_timeout == PRECOPY_TIMEOUT_ABORT)
        r = err_set(err, -ETIMEDOUT,
                    "the disks are written faster than they can be copied: the last pass would still take %llu ms, the downtime is set to %llu ms (see --downtime, --on-timeout=stop)",
                    (unsigned long long)(s->predicted_tail_ns / NS_PER_MS),
                    (unsigned long long)(s->config->limits.downtime_ns / NS_PER_MS));
    return r;
}

bool source_is_suspended(struct source *s)
{
    return s->suspended_seen;
}

static int stop_guest(struct source *s, struct err *err)
{
    int r;

    if (s->hv->ops->memory_kind == HV_MEMORY_NONE) {
        source_set_phase(s, "switchover");
        s->times.suspend_begin = clock_now();
        r = s->hv->ops->suspend(s->hv, err);
        if (r == 0)
            r = source_wait(s, source_is_suspended, err);
    } else {
        source_set_phase(s, "memory");
        r = source_memory_begin(s, err);
        if (r == 0)
            r = source_memory_converge(s, err);
    }
    return r;
}

/* The guest stands still. Its disks and what is left of its memory go out together. */
static int last_passes(struct source *s, struct err *err)
{
    int r;

    (void)source_feed(s, SW_EV_SUSPENDED);
    s->disks_final = true;
    r = source_disks_drain(s, err);
    s->times.drained = clock_now();
    if (r == 0)
        r = source_disks_final(s, err);
    s->times.disks_done = clock_now();
    if (r == 0)
        r = source_memory_final(s, err);
    return r;
}

/* Both ends must believe the same of every disk. */
static int compare_digests(struct source *s, const json_t *theirs, struct err *err)
{
    json_t *ours = source_disks_digests(s);
    bool equal = json_equal(ours, json_object_get(theirs, "disks"));

    json_decref(ours);
    return equal ? 0 : err_set(err, -EBADMSG, "the disks at %s are not what was read here (digests differ)", s->config->address);
}

static int final(struct source *s, struct err *err)
{
    int r = control_work(&s->control, err); /* the end of the memory script goes before FINAL */

    if (r == 0)
        r = control_send(&s->control, WIRE_FINAL, json_pack("{s:o}", "disks", source_disks_digests(s)), err);
    s->times.final_sent = clock_now();
    if (r == 0)
        r = source_wait(s, ready, err);
    if (r < 0)
        return r;
    s->times.ready = clock_now();
    s->ready = s->reply;
    s->reply = NULL;
    r = compare_digests(s, s->ready, err);
    if (r == 0)
        (void)source_feed(s, SW_EV_READY);
    return r;
}

/*
 * ---- POINT OF NO RETURN ----
 * Until GO is sent every failure leaves the guest here. From the first octet of GO on, the guest is the
 * target's: it is resumed here only if the target says that it has destroyed its copy.
 */
static int go(struct source *s, struct err *err)
{
    int r = s->hv->ops->set_aside(s->hv, err);

    if (r < 0)
        return r;
    (void)source_feed(s, SW_EV_GO);
    s->times.go = clock_now();
    r = control_send(&s->control, WIRE_GO, json_object(), err);
    if (r == 0)
        r = source_wait(s, running, err);
    if (r < 0)
        return r;
    s->times.running = clock_now();
    (void)source_feed(s, SW_EV_RUNNING);
    return 0;
}

static int migrate(struct source *s, struct err *err)
{
    int r = prepare(s, err);

    if (r == 0)
        r = copy_disks(s, err);
    if (r == 0)
        r = stop_guest(s, err);
    if (r == 0)
        r = last_passes(s, err);
    if (r == 0)
        r = final(s, err);
    if (r == 0)
        r = go(s, err);
    return r;
}

static int new_id(char *ret, struct err *err)
{
    uint8_t random[SESSION_ID_LEN / 2];

    if (getrandom(random, sizeof(random), 0) != sizeof(random))
        return err_errno(err, -errno, "asking for random octets");
    for (unsigned int i = 0; i < sizeof(random); i++)
        (void)snprintf(ret + 2 * i, 3, "%02x", random[i]);
    return 0;
}

static int source_init(struct source *s, const struct source_config *config, struct err *err)
{
    int r;

    memset(s, 0, sizeof(*s));
    s->config = config;
    s->connections = config->connections;
    s->stream_fd = -1;
    s->phase = "start";
    s->times.begin = clock_now();
    pthread_mutex_init(&s->lock, NULL);
    r = new_id(s->id, err);
    if (r == 0)
        r = loop_create(&s->loop, err);
    if (r == 0)
        r = loop_watch_signal(s->loop, SIGINT, err);
    if (r == 0)
        r = loop_watch_signal(s->loop, SIGTERM, err);
    return r;
}

static void source_finish(struct source *s)
{
    job_destroy(s->job);
    source_memory_cancel(s);
    if (s->hv) {
        loop_unwatch(s->loop, s->hv->ops->fd(s->hv));
        s->hv->ops->close(s->hv);
    }
    source_memory_finish(s);
    stream_destroy(s->stream);
    page_source_destroy(s->pages);
    for (unsigned int i = 0; i < HV_DISKS_MAX; i++)
        mirror_source_destroy(s->disks[i]);
    if (s->connected)
        control_finish(&s->control);
    json_decref(s->reply);
    json_decref(s->ready);
    loop_destroy(s->loop);
    pthread_mutex_destroy(&s->lock);
}

enum source_outcome source_run(const struct source_config *config, struct err *err)
{
    enum source_outcome outcome;
    struct source s;
    int r = source_init(&s, config, err);

    if (r == 0)
        r = begin(&s, err);
    if (r == 0)
        r = migrate(&s, err);
    outcome = source_conclude(&s, r, err);
    source_report_result(&s, outcome, err);
    source_finish(&s);
    return outcome;
}

static bool checked(struct source *s)
{
    return s->reply && s->reply_type == WIRE_CHECKED;
}

enum source_outcome source_check(const struct source_config *config, json_t **ret_report, struct err *err)
{
    enum source_outcome outcome = SOURCE_REFUSED;
    struct source s;
    int r = source_init(&s, config, err);

    if (r == 0)
        r = open_guest(&s, err);
    if (r == 0)
        r = loop_watch(s.loop, s.hv->ops->fd(s.hv), err);
    if (r == 0) {
        s.guest = s.hv->ops->guest(s.hv);
        r = s.hv->ops->check(s.hv, err);
    }
    if (r == 0)
        r = source_connect(&s, "check", err);
    if (r == 0)
        r = control_send(&s.control, WIRE_CHECK, source_prepare_message(&s), err);
    if (r == 0)
        r = source_wait(&s, checked, err);
    if (r == 0) {
        *ret_report = json_incref(s.reply);
        outcome = SOURCE_MOVED;
    }
    source_finish(&s);
    return outcome;
}
