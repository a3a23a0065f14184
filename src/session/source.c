/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One migration as the sender sees it, in the order of time. Whatever ends it early, the switchover table says whose the
 * guest is, and one place (undo) brings it back. */
#include "session/source-priv.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "session/recover.h"
#include "transport/wire.h"

#include <assert.h>
#include <signal.h>
#include <string.h>
#include <sys/random.h>

#define AREA           "session.source"
#define VOLUMES_MS_MAX 1e9 /* a peer's word: more is no time */

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
    log_debug(AREA, "phase %s", phase);
    if (e && s->config->event)
        s->config->event(s->config->data, e);
    json_decref(e);
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

/* Durable before the target makes anything. */
static int note_begun(struct source *s, struct err *err)
{
    struct journal_entry *e = &s->journal.entry;
    int r = journal_open(&s->journal, s->config->state_dir, JOURNAL_OUTGOING, s->id, err);

    if (r < 0)
        return r;
    (void)snprintf(e->name, sizeof(e->name), "%s", s->guest->name);
    (void)snprintf(e->kind, sizeof(e->kind), "%s", s->guest->kind);
    (void)snprintf(e->uuid, sizeof(e->uuid), "%s", s->guest->uuid);
    e->guest = hv_guest_to_json(s->guest);
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        e->volumes[i] = (struct volume){.kind = VOLUME_EXISTING, .size = s->guest->disks[i].size};
        (void)snprintf(e->volumes[i].path, sizeof(e->volumes[i].path), "%s", s->guest->disks[i].label);
    }
    e->volume_count = s->guest->disk_count;
    r = conn_canonical_address(s->config->address, e->peer, err);
    return r == 0 ? journal_write(&s->journal, err) : r;
}

/* A tracker may take its time to settle: it does beside all that the target has to do. */
static int begin(struct source *s, struct err *err)
{
    int r = open_guest(s, err);

    if (r == 0)
        r = loop_watch(s->loop, s->hv->ops->fd(s->hv), err);
    if (r < 0)
        return r;
    s->guest = s->hv->ops->guest(s->hv);
    r = recover_before(s->config->state_dir, s->config->identity, s->guest->kind, s->guest->uuid, err);
    if (r == 0)
        r = s->hv->ops->check(s->hv, err);
    if (r == 0)
        r = job_create(&s->job, s->loop, s->id, status_of, s, err);
    if (r == 0)
        r = source_disks_open(s, err);
    if (r == 0)
        r = source_care_begin(s, err);
    if (r == 0)
        r = source_connect(s, err);
    return r;
}

/* A disk that cannot be opened or tracked is mostly found out at once, and then the target has nothing to undo. */
static int ask_to_prepare(struct source *s, struct err *err)
{
    int r = source_disks_opened(s) ? source_disks_open_result(s, err) : 0;

    if (r == 0)
        r = note_begun(s, err);
    return r == 0 ? control_send(&s->control, WIRE_PREPARE, source_prepare_message(s), err) : r;
}

static bool prepared_or_refused(struct source *s)
{
    struct err ignored;

    return prepared(s) || (source_disks_opened(s) && source_disks_open_result(s, &ignored) < 0);
}

/* Both ends at once: the target makes its volumes, and here the disks are opened. */
static int wait_for_disks(struct source *s, struct err *err)
{
    double volumes_ms;
    int r = source_wait(s, prepared_or_refused, err);

    if (r == 0)
        r = source_wait(s, source_disks_opened, err);
    if (r == 0)
        r = source_disks_open_result(s, err);
    if (r < 0)
        return r;
    volumes_ms = MAX(json_number_value(json_object_get(s->reply, "volumes_ms")), 0.0);
    s->times.prepare_disks = MAX(s->opening.ns, (uint64_t)(MIN(volumes_ms, VOLUMES_MS_MAX) * (double)NS_PER_MS));
    source_drop_reply(s);
    return 0;
}

static int prepare(struct source *s, struct err *err)
{
    int r;

    source_set_phase(s, "prepare");
    r = ask_to_prepare(s, err);
    if (r == 0)
        r = wait_for_disks(s, err);
    if (r < 0)
        return r;
    (void)source_feed(s, SW_EV_PREPARED);
    r = fault_point("source.prepared", err);
    if (r == 0)
        r = source_make_stream(s, err);
    if (r == 0)
        r = source_disks_create(s, err);
    return r == 0 ? source_data_open(s, err) : r;
}

/* Storage first: memory converges faster, and is not sent twice for having waited for the disks. */
static bool disks_converged(struct source *s)
{
    const struct precopy_limits *l = &s->config->limits;
    struct precopy_stats st = {.dirty_pages = -1, .elapsed_ns = clock_now() - s->times.begin};

    if (!source_disks_bulk_done(s))
        return false;
    st.disk_tail_ns = source_disks_tail_ns(s);
    if (st.disk_tail_ns <= l->downtime_ns / 2)
        return true;
    if (!l->timeout_ns || st.elapsed_ns < l->timeout_ns)
        return false;
    return l->on_timeout != PRECOPY_TIMEOUT_THROTTLE || source_throttle(s, &st) == PRECOPY_ABORT;
}

static int copy_disks(struct source *s, struct err *err)
{
    int r;

    source_set_phase(s, "disks");
    s->times.disks_begin = clock_now();
    if (!s->disks_begun)
        source_care_baseline(s);
    r = s->disks_begun ? 0 : source_disks_begin(s, err);
    s->disks_begun = true;
    if (r == 0)
        r = fault_point("source.disks", err);
    if (r == 0)
        r = source_wait(s, disks_converged, err);
    s->predicted_tail_ns = source_disks_tail_ns(s);
    if (r == 0 && s->predicted_tail_ns > s->config->limits.downtime_ns &&
        s->config->limits.on_timeout != PRECOPY_TIMEOUT_STOP)
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
            r = fault_point("source.memory", err);
        if (r == 0)
            r = source_memory_converge(s, err);
    }
    return r;
}

/* The guest stands still. Its disks and what is left of its memory go out together. */
static int last_passes(struct source *s, struct err *err)
{
    int r = fault_point("source.suspended", err);

    (void)source_feed(s, SW_EV_SUSPENDED);
    s->disks_final = true;
    if (r == 0)
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
        r = fault_point("source.final", err);
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
    return r == 0 ? fault_point("source.ready", err) : r;
}

/*
 * ---- POINT OF NO RETURN ----
 * Until GO is sent every failure leaves the guest here. From the first octet of GO on, the guest is the
 * target's: it is resumed here only if the target says that it has destroyed its copy.
 */
static int go(struct source *s, struct err *err)
{
    int r;

    job_work(s->job);
    loop_turn(s->loop, 0);
    r = source_check_cancelled(s, err); /* the last moment for it */
    if (r < 0)
        return r;
    job_refuse(s->job, "it is too late to cancel: the guest is being handed over");
    r = journal_advance(&s->journal, OUTGOING_COMMIT, err);
    if (r == 0)
        r = fault_point("source.commit", err);
    if (r == 0)
        r = s->hv->ops->set_aside(s->hv, err);
    if (r == 0)
        r = fault_point("source.aside", err);
    if (r < 0)
        return r;
    (void)source_feed(s, SW_EV_GO);
    s->times.go = clock_now();
    r = control_send(&s->control, WIRE_GO, json_object(), err);
    if (r == 0)
        r = fault_point("source.go", err);
    if (r == 0)
        r = source_wait(s, running, err);
    if (r < 0)
        return r;
    s->times.running = clock_now();
    (void)source_feed(s, SW_EV_RUNNING);
    return fault_point("source.running", err);
}

static int copy_and_switch(struct source *s, struct err *err)
{
    int r = copy_disks(s, err);

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

static int migrate(struct source *s, struct err *err)
{
    int r = prepare(s, err);

    if (r == 0)
        r = copy_and_switch(s, err);
    while (r < 0 && source_may_reconnect(s, r)) {
        r = source_reconnect(s, err);
        if (r == 0)
            r = copy_and_switch(s, err);
    }
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
    s->journal.lock = -1;
    s->throttled = 100;
    s->phase = "start";
    s->times.begin = clock_now();
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->greeting_changed, NULL);
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
    source_disks_open_end(s);
    source_data_greet(s, GREETING_NEVER);
    source_data_end(s);
    source_memory_cancel(s);
    if (s->stream)
        stream_halt(s->stream); /* its workers read the memory that the hypervisor's side maps */
    if (s->hv) {
        loop_unwatch(s->loop, s->hv->ops->fd(s->hv));
        s->hv->ops->close(s->hv);
    }
    source_memory_finish(s);
    stream_destroy(s->stream);
    page_source_destroy(s->pages);
    source_disks_finish(s);
    source_care_finish(s);
    if (s->connected)
        control_finish(&s->control);
    journal_close(&s->journal);
    json_decref(s->reply);
    json_decref(s->ready);
    loop_destroy(s->loop);
    pthread_cond_destroy(&s->greeting_changed);
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
        r = source_connect_to_check(&s, err);
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
