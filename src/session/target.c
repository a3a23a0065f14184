/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One migration as the receiver sees it, in the order of time. */
#include "session/target-priv.h"

#include "base/clock.h"
#include "base/log.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define AREA "session.target"
#define TURN (50 * NS_PER_MS)
#define SETTLE_TIMEOUT (10 * NS_PER_SEC)

static enum switchover_action feed(struct target *t, enum switchover_event event)
{
    struct switchover_step step = switchover_next(SWITCHOVER_TARGET, t->state, event);

    log_debug(AREA, "%s: event %d -> %s", switchover_state_name(t->state), (int)event,
              switchover_state_name(step.next));
    t->state = step.next;
    return step.action;
}

void target_fail(struct target *t, const struct err *failure)
{
    pthread_mutex_lock(&t->lock);
    if (!t->failure.code)
        t->failure = *failure;
    pthread_mutex_unlock(&t->lock);
    loop_wake(t->loop);
}

const char *target_session(const struct target *t)
{
    return t->journal.session;
}

const char *target_fingerprint(const struct target *t)
{
    return t->fingerprint;
}

const char *target_guest(const struct target *t)
{
    return t->guest_parsed ? t->guest.name : "";
}

void target_cancel(struct target *t)
{
    struct err err;

    (void)err_set(&err, -ECANCELED, "the receiver was told to end");
    target_fail(t, &err);
}

/* -- work that takes long, while the control connection stays alive -- */

struct task {
    struct target *t;
    int (*work)(struct target *t, struct err *err);
    struct err err;
    int result;
    int done; /* atomic */
};

static void *task_thread(void *data)
{
    struct task *k = data;

    k->result = k->work(k->t, &k->err);
    __atomic_store_n(&k->done, 1, __ATOMIC_RELEASE);
    loop_wake(k->t->loop);
    return NULL;
}

static int run_task(struct target *t, int (*work)(struct target *t, struct err *err), struct err *err)
{
    struct task k = {.t = t, .work = work};
    struct err ignored;
    pthread_t thread;

    if (pthread_create(&thread, NULL, task_thread, &k))
        return err_set(err, -EAGAIN, "no thread");
    while (!__atomic_load_n(&k.done, __ATOMIC_ACQUIRE)) {
        job_work(t->job);
        (void)control_tell_alive(&t->control, &ignored);
        loop_turn(t->loop, NS_PER_SEC);
    }
    (void)pthread_join(thread, NULL);
    control_heard(&t->control);
    *err = k.err;
    return k.result;
}

/* -- in order of time -- */

static int serve_hv(struct target *t, struct err *err)
{
    struct hv_event e;
    int r;

    if (!t->hv || t->state < SW_MEMORY)
        return 0;
    while ((r = t->hv->ops->next_event(t->hv, &e, err)) == 0) {
        if (e.kind == HV_BUILT) {
            t->built = true;
            t->build_ns = e.duration_ns;
        } else if (e.kind == HV_FAILED || e.kind == HV_GONE) {
            return err_set(err, -EIO, "building the guest at the target failed: %s", e.text);
        }
    }
    return r == -EAGAIN ? 0 : r;
}

static int look_at_failures(struct target *t, struct err *err)
{
    struct err failure;

    pthread_mutex_lock(&t->lock);
    failure = t->failure;
    pthread_mutex_unlock(&t->lock);
    if (failure.code) {
        *err = failure;
        return failure.code;
    }
    return job_cancelled(t->job) ? err_set(err, -ECANCELED, "cancelled at the target") : 0;
}

/* Serves what comes by itself, and returns with the next record of the control connection. */
static int next_record(struct target *t, struct record *ret, struct err *err)
{
    for (;;) {
        int r = serve_hv(t, err);

        job_work(t->job);
        if (r == 0)
            r = look_at_failures(t, err);
        if (r == 0)
            r = control_work(&t->control, err);
        if (r == 0)
            r = control_next(&t->control, ret, err);
        if (r != -EAGAIN)
            return r;
        loop_turn(t->loop, TURN);
    }
}

static void script_done(void *data, const struct err *err)
{
    struct target *t = data;

    if (err->code && err->code != -ECANCELED)
        target_fail(t, err);
    pthread_mutex_lock(&t->lock);
    t->script_done = err->code == 0;
    pthread_mutex_unlock(&t->lock);
    loop_wake(t->loop);
}

/* May take long: dom0 gives memory up for the guest. */
static int start_building(struct target *t, struct err *err)
{
    const char *paths[HV_DISKS_MAX];

    for (unsigned int i = 0; i < t->guest.disk_count; i++)
        paths[i] = t->journal.volumes[i].path;
    return t->hv->ops->memory_begin(t->hv, paths, &t->memory_fd, &t->memory_ram, err);
}

static int begin_memory(struct target *t, struct err *err)
{
    struct page_target_config c = {.max_pfn = t->guest.max_pfn, .script_done = script_done, .data = t};
    struct page_target *pages;
    int r;

    if (t->hv->ops->memory_kind == HV_MEMORY_NONE || feed(t, SW_EV_MEMORY) == SW_REFUSE)
        return err_set(err, -EPROTO, "MEMORY_BEGIN out of turn");
    t->memory_fd = -1;
    r = run_task(t, start_building, err);
    c.fd = t->memory_fd;
    c.ram = t->memory_ram;
    if (r == 0)
        r = loop_watch(t->loop, t->hv->ops->fd(t->hv), err);
    if (r == 0)
        r = page_target_create(&pages, &c, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&t->lock);
    t->pages = pages;
    pthread_mutex_unlock(&t->lock);
    return control_send(&t->control, WIRE_MEMORY_READY, json_object(), err);
}

static json_t *digests(struct target *t)
{
    json_t *all = json_array();

    for (unsigned int i = 0; i < t->guest.disk_count; i++) {
        char hex[17];

        (void)snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)mirror_target_digest(t->disks[i]));
        json_array_append_new(all, json_pack("{s:s, s:s}", "vbd", t->guest.disks[i].vbd, "digest", hex));
    }
    return all;
}

static int flush(struct target *t, struct err *err)
{
    for (unsigned int i = 0; i < t->guest.disk_count; i++) {
        int r = mirror_target_flush(t->disks[i], err);

        if (r < 0)
            return err_prefix(err, r, "disk %s", t->guest.disks[i].vbd);
    }
    return 0;
}

/* While the disks are copied: what is flushed now need not be flushed while the guest stands still. */
static void *flusher_thread(void *data)
{
    struct target *t = data;
    struct err err;

    pthread_mutex_lock(&t->lock);
    while (!t->flusher_stop) {
        struct timespec until;

        pthread_mutex_unlock(&t->lock);
        (void)flush(t, &err); /* an error comes again at the last flush */
        (void)clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec++;
        pthread_mutex_lock(&t->lock);
        if (!t->flusher_stop)
            (void)pthread_cond_timedwait(&t->left, &t->lock, &until);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void stop_flusher(struct target *t)
{
    if (!t->flusher_runs)
        return;
    pthread_mutex_lock(&t->lock);
    t->flusher_stop = true;
    pthread_cond_broadcast(&t->left);
    pthread_mutex_unlock(&t->lock);
    (void)pthread_join(t->flusher, NULL);
    t->flusher_runs = false;
}

/* Waits until the guest is complete: its whole stream taken, devices connected. A record that comes meanwhile is an ABORT. */
static int wait_built(struct target *t, struct err *err)
{
    struct record record;
    bool completed = false;

    if (!t->pages)
        return 0;
    page_target_end(t->pages);
    while (!t->built) {
        bool done;
        int r;

        pthread_mutex_lock(&t->lock);
        done = t->script_done;
        pthread_mutex_unlock(&t->lock);
        r = done && !completed ? t->hv->ops->memory_complete(t->hv, err) : 0;
        completed = completed || done;
        if (r == 0)
            r = serve_hv(t, err);
        if (r == 0)
            r = look_at_failures(t, err);
        if (r == 0)
            r = control_work(&t->control, err);
        if (r == 0)
            r = control_next(&t->control, &record, err);
        if (r == 0)
            return err_set(err, -ECANCELED, "the sender sent %s", wire_type_name((uint16_t)record.type));
        if (r != -EAGAIN)
            return r;
        if (!t->built)
            loop_turn(t->loop, TURN);
    }
    return 0;
}

static int final(struct target *t, const json_t *message, struct err *err)
{
    uint64_t begun = clock_now();
    json_t *ours;
    int r;

    if (t->state != SW_MEMORY && (t->state != SW_PREPARED || t->hv->ops->memory_kind != HV_MEMORY_NONE))
        return err_set(err, -EPROTO, "FINAL out of turn");
    ours = digests(t);
    if (!json_equal(ours, json_object_get(message, "disks"))) {
        json_decref(ours);
        return err_set(err, -EBADMSG, "what was written here is not what the source read (the disks' digests differ)");
    }
    stop_flusher(t);
    r = run_task(t, flush, err);
    t->flush_ns = clock_now() - begun;
    if (r == 0)
        r = wait_built(t, err);
    if (r < 0 || feed(t, SW_EV_READY) == SW_REFUSE) {
        json_decref(ours);
        return r < 0 ? r : err_set(err, -EPROTO, "FINAL out of turn");
    }
    return control_send(&t->control, WIRE_READY,
                        json_pack("{s:o, s:f, s:f}", "disks", ours, "flush_ms", (double)t->flush_ns / 1e6, "build_ms",
                                  (double)t->build_ns / 1e6),
                        err);
}

/* From here on the guest is ours: the journal says so before it runs. */
static int go(struct target *t, struct err *err)
{
    uint64_t run_ns = 0;
    uint64_t settle_ns = 0;
    struct err late;
    int r;

    if (feed(t, SW_EV_GO) != SW_RUN)
        return err_set(err, -EPROTO, "GO out of turn");
    t->journal.go = true;
    r = journal_write(t->config->state_dir, &t->journal, err);
    if (r == 0)
        r = t->hv->ops->run(t->hv, &run_ns, err);
    if (r < 0)
        return r;
    (void)feed(t, SW_EV_RUNNING);
    /* The sender may be gone: then it asks, or a person does. The guest runs. */
    if (control_send(&t->control, WIRE_RUNNING, json_pack("{s:f}", "run_ms", (double)run_ns / 1e6), &late) < 0)
        log_warn(AREA, "guest %s runs here, but its sender could not be told: %s", t->guest.name, late.text);
    if (journal_remove(t->config->state_dir, t->journal.session, &late) < 0)
        log_warn(AREA, "%s", late.text);
    if (t->hv->ops->settle(t->hv, SETTLE_TIMEOUT, &settle_ns, &late) < 0)
        log_warn(AREA, "guest %s: %s", t->guest.name, late.text);
    (void)control_send(&t->control, WIRE_SETTLED, json_pack("{s:f}", "settle_ms", (double)settle_ns / 1e6), NULL);
    return 0;
}

static int handle(struct target *t, const struct record *record, struct err *err)
{
    json_t *message;
    int r;

    switch (record->type) {
    case WIRE_MEMORY_RECORD:
    case WIRE_EPOCH_BEGIN:
    case WIRE_EPOCH_END:
        return t->pages ? page_target_script(t->pages, record, err)
                        : err_set(err, -EPROTO, "a memory script before the memory was begun");
    case WIRE_MEMORY_BEGIN:
        return begin_memory(t, err);
    case WIRE_GO:
        return go(t, err);
    case WIRE_ABORT:
        r = control_parse(record, &message, err);
        if (r == 0) {
            const char *text = json_string_value(json_object_get(message, "text"));

            r = err_set(err, -ECANCELED, "the sender gave up: %.400s", text ? text : "no reason given");
            json_decref(message);
        }
        return r;
    case WIRE_FINAL:
        r = control_parse(record, &message, err);
        if (r == 0) {
            r = final(t, message, err);
            json_decref(message);
        }
        return r;
    default:
        return err_set(err, -EPROTO, "%s out of turn", wire_type_name((uint16_t)record->type));
    }
}

static int prepare(struct target *t, struct err *err)
{
    json_t *message;
    int r = control_expect(&t->control, WIRE_PREPARE, &message, err);

    if (r < 0)
        return r;
    r = target_parse_prepare(t, message, err);
    json_decref(message);
    if (r == 0)
        r = run_task(t, target_check, err);
    if (r == 0)
        r = run_task(t, target_make_volumes, err);
    if (r == 0)
        r = target_open_disks(t, err);
    if (r < 0)
        return r;
    (void)feed(t, SW_EV_PREPARED);
    if (pthread_create(&t->flusher, NULL, flusher_thread, t))
        return err_set(err, -EAGAIN, "no thread");
    t->flusher_runs = true;
    pthread_mutex_lock(&t->lock);
    t->accepting = true;
    pthread_mutex_unlock(&t->lock);
    return control_send(&t->control, WIRE_PREPARED, json_object(), err);
}

/* Everything that exists here because of this migration ceases to. */
static void undo(struct target *t)
{
    struct err err;

    stop_flusher(t);
    if (t->hv && t->hv->ops->destroy(t->hv, &err) < 0)
        log_error(AREA, "the half-made guest %s could not be destroyed: %s", t->guest.name, err.text);
    target_end_data(t);
    page_target_destroy(t->pages);
    t->pages = NULL;
    for (unsigned int i = 0; i < HV_DISKS_MAX; i++) {
        mirror_target_destroy(t->disks[i]);
        t->disks[i] = NULL;
    }
    target_remove_volumes(t);
}

static void give_up(struct target *t, const struct err *why)
{
    bool aborted = why->code == -ECANCELED;
    enum switchover_action action = feed(t, SW_EV_FAILED);

    assert(action == SW_UNDO);
    if (t->pages)
        page_target_cancel(t->pages);
    undo(t);
    /* Only now: what the sender reads as FAILED or ABORTED is done. */
    (void)control_send(&t->control, aborted ? WIRE_ABORTED : WIRE_FAILED,
                       json_pack("{s:i, s:s, s:s}", "errno", -why->code, "text", why->text, "guest", "destroyed"), NULL);
}

int target_run(struct target *t, struct err *err)
{
    struct record record;
    int r = prepare(t, err);

    while (r == 0 && t->state != SW_DONE) {
        r = next_record(t, &record, err);
        if (r == 0)
            r = handle(t, &record, err);
    }
    if (r < 0)
        give_up(t, err);
    else
        target_end_data(t);
    return r;
}

int target_check_only(struct target *t, struct err *err)
{
    json_t *message;
    json_t *problems = json_array();
    int r = control_expect(&t->control, WIRE_CHECK, &message, err);

    if (r == 0) {
        r = target_parse_prepare(t, message, err);
        json_decref(message);
    }
    if (r == 0)
        r = run_task(t, target_check, err);
    if (r < 0)
        json_array_append_new(problems, json_string(err->text));
    return control_send(&t->control, WIRE_CHECKED, json_pack("{s:o}", "problems", problems), err);
}

/* -- life -- */

static json_t *status(void *data)
{
    struct target *t = data;

    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", t->journal.session, "role", "target", "guest",
                     t->guest_parsed ? t->guest.name : "?", "peer", conn_peer(t->control.conn), "phase",
                     switchover_state_name(t->state));
}

int target_create(struct target **ret, const struct server_config *config, const char *session,
                  struct conn *control, struct err *err)
{
    struct target *t = calloc(1, sizeof(*t));
    char job[64];
    int r;

    if (!t) {
        conn_destroy(control);
        return err_set(err, -ENOMEM, "out of memory");
    }
    t->config = config;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->left, NULL);
    (void)snprintf(t->journal.session, sizeof(t->journal.session), "%s", session);
    (void)snprintf(t->fingerprint, sizeof(t->fingerprint), "%s", conn_peer_fingerprint(control));
    (void)snprintf(job, sizeof(job), "%s.in", session);
    r = loop_create(&t->loop, err);
    if (r < 0)
        conn_destroy(control);
    else
        r = control_init(&t->control, control, t->loop, err);
    if (r == 0)
        r = job_create(&t->job, t->loop, job, status, t, err);
    if (r < 0) {
        target_destroy(t);
        return r;
    }
    *ret = t;
    return 0;
}

void target_destroy(struct target *t)
{
    if (!t)
        return;
    stop_flusher(t);
    job_destroy(t->job);
    if (t->hv) {
        if (t->hv->ops->fd(t->hv) >= 0)
            loop_unwatch(t->loop, t->hv->ops->fd(t->hv));
        t->hv->ops->close(t->hv);
    }
    page_target_destroy(t->pages);
    for (unsigned int i = 0; i < HV_DISKS_MAX; i++)
        mirror_target_destroy(t->disks[i]);
    if (t->guest_parsed)
        hv_guest_finish(&t->guest);
    json_decref(t->prepare);
    control_finish(&t->control);
    loop_destroy(t->loop);
    pthread_cond_destroy(&t->left);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
