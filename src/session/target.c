/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One migration as the receiver sees it, in the order of time. */
#include "session/target-priv.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "hv/hv-recover.h"
#include "session/recover.h"
#include "session/released.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define AREA           "session.target"
#define TURN           (50 * NS_PER_MS)
#define SETTLE_TIMEOUT (10 * NS_PER_SEC)
#define FORGET_WAIT    (20 * NS_PER_SEC) /* the sender destroys its half first */

enum switchover_action target_feed(struct target *t, enum switchover_event event)
{
    struct switchover_step step = switchover_next(SWITCHOVER_TARGET, t->state, event);

    log_debug(AREA, "%s: event %d -> %s", switchover_state_name(t->state), (int)event,
              switchover_state_name(step.next));
    __atomic_store_n(&t->state, step.next, __ATOMIC_SEQ_CST); /* who asks whose the guest is reads it too */
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
    return t->journal.entry.session;
}

const char *target_fingerprint(const struct target *t)
{
    return t->fingerprint;
}

const char *target_guest(const struct target *t)
{
    return t->guest_parsed ? t->guest.name : "";
}

enum switchover_state target_state(struct target *t)
{
    return __atomic_load_n(&t->state, __ATOMIC_SEQ_CST);
}

void target_cancel(struct target *t)
{
    pthread_mutex_lock(&t->lock);
    t->told_to_end = true;
    pthread_mutex_unlock(&t->lock);
    loop_wake(t->loop);
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

int target_run_task(struct target *t, int (*work)(struct target *t, struct err *err), struct err *err)
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

int target_serve_hv(struct target *t, struct err *err)
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

int target_look_at_failures(struct target *t, struct err *err)
{
    struct err failure;
    bool back;
    bool dissolve;
    bool told_to_end;

    pthread_mutex_lock(&t->lock);
    told_to_end = t->told_to_end;
    failure = t->failure;
    back = t->resumed != NULL;
    dissolve = t->dissolve;
    pthread_mutex_unlock(&t->lock);
    if (told_to_end)
        return err_set(err, -ECANCELED, "the receiver was told to end");
    if (dissolve)
        return err_set(err, -ECANCELED, "the sender asked for an end of it");
    if (failure.code) {
        *err = failure;
        return failure.code;
    }
    if (back) {
        t->control.broken = -ECONNRESET;
        return err_set(err, -ECONNRESET, "the sender came back on another connection");
    }
    return job_cancelled(t->job) ? err_set(err, -ECANCELED, "cancelled at the target") : 0;
}

/* Serves what comes by itself, and returns with the next record of the control connection. */
static int next_record(struct target *t, struct record *ret, struct err *err)
{
    for (;;) {
        int r = target_serve_hv(t, err);

        job_work(t->job);
        if (r == 0)
            r = control_work(&t->control, err);
        if (r == 0)
            r = control_next(&t->control, ret, err);
        if (r == 0 && ret->type == WIRE_ABORT) /* why the data connections ended */
            return 0;
        if (r == 0 || r == -EAGAIN) {
            struct err failure;
            int f = target_look_at_failures(t, &failure);

            if (f < 0) {
                *err = failure;
                return f;
            }
        }
        if (r != -EAGAIN)
            return r;
        loop_turn(t->loop, TURN);
    }
}

static bool is_forgotten(struct target *t)
{
    return __atomic_load_n(&t->forget, __ATOMIC_SEQ_CST);
}

void target_forget(struct target *t)
{
    __atomic_store_n(&t->forget, true, __ATOMIC_SEQ_CST);
    loop_wake(t->loop);
}

/* The sender has noted for good that the guest is here: nobody will ask about it any more. */
static void wait_for_forget(struct target *t)
{
    uint64_t give_up = clock_now() + FORGET_WAIT;
    struct record record;
    struct err late;
    int r;

    while ((r = control_next(&t->control, &record, NULL)) == -EAGAIN && clock_now() < give_up && !is_forgotten(t)) {
        loop_turn(t->loop, TURN);
        (void)control_work(&t->control, NULL);
    }
    if (!is_forgotten(t) && (r < 0 || record.type != WIRE_FORGET)) {
        log_warn(AREA, "guest %s runs here; its sender has not said that it knows", t->guest.name);
        return;
    }
    if (journal_remove(&t->journal, &late) < 0) { /* it is said again, and answered when nothing is left */
        log_warn(AREA, "%s", late.text);
        return;
    }
    released_unmark(target_session(t));
    (void)control_send(&t->control, WIRE_ANSWER, json_pack("{s:s}", "guest", "here"), NULL);
}

/* Only a guest that certainly never ran may be undone. When whoever runs it dies on the way, what is found tells. */
static int run(struct target *t, uint64_t *ret_ns, struct err *err)
{
    struct hv_found found = {0};
    char mark[RELEASED_PATH_MAX];
    struct err look;
    int r = released_path(mark, target_session(t), err);

    if (r == 0)
        r = t->hv->ops->run(t->hv, mark, ret_ns, err);
    if (r == 0 || !conn_error_is_drop(r))
        return r;
    if (hv_recover_find(&found, t->guest.kind, t->guest.name, t->guest.uuid, &look) == 0 && found.running)
        return 0;
    t->left_to_recovery = true;
    return err_prefix(err, r, "whoever ran the guest died over it; xmotion recover brings it to its end");
}

/* From here on the guest is ours: the journal says so before it runs. */
static int go(struct target *t, struct err *err)
{
    uint64_t run_ns = 0;
    uint64_t settle_ns = 0;
    struct err late;
    int r = fault_point("target.go", err);

    if (r < 0)
        return r;
    if (target_feed(t, SW_EV_GO) != SW_RUN)
        return err_set(err, -EPROTO, "GO out of turn");
    r = journal_advance(&t->journal, INCOMING_GO, err);
    if (r == 0)
        r = fault_point("target.go-noted", err);
    if (r == 0)
        r = run(t, &run_ns, err);
    if (r < 0)
        return r;
    (void)target_feed(t, SW_EV_RUNNING);
    (void)fault_point("target.run", &late); /* the guest runs: nothing can fail any more */
    if (journal_advance(&t->journal, INCOMING_RUN, &late) < 0)
        log_error(AREA, "guest %s runs here: %s", t->guest.name, late.text);
    (void)fault_point("target.run-noted", &late);
    /* The sender may be gone: then it asks, or a person does. The guest runs. */
    if (control_send(&t->control, WIRE_RUNNING, json_pack("{s:f}", "run_ms", (double)run_ns / 1e6), &late) < 0)
        log_warn(AREA, "guest %s runs here, but its sender could not be told: %s", t->guest.name, late.text);
    recover_unmark_disks(&t->journal.entry);
    if (t->hv->ops->settle(t->hv, SETTLE_TIMEOUT, &settle_ns, &late) < 0)
        log_warn(AREA, "guest %s: %s", t->guest.name, late.text);
    (void)control_send(&t->control, WIRE_SETTLED, json_pack("{s:f}", "settle_ms", (double)settle_ns / 1e6), NULL);
    (void)fault_point("target.running", &late);
    wait_for_forget(t);
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
        r = control_parse(record, &message, err);
        if (r == 0) {
            r = target_begin_memory(t, message, err);
            json_decref(message);
        }
        return r;
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
            r = target_final(t, message, err);
            json_decref(message);
        }
        return r;
    default:
        return err_set(err, -EPROTO, "%s out of turn", wire_type_name((uint16_t)record->type));
    }
}

static int make_disks(struct target *t, struct err *err)
{
    uint64_t begin = clock_now();
    int r = target_run_task(t, target_make_volumes, err);

    if (r == 0)
        r = target_open_disks(t, err);
    t->volumes_ns = clock_now() - begin;
    return r;
}

/* Who hears HELLO may open data connections: only now that they find their session. */
static int greet(struct target *t, enum wire_type wanted, json_t **ret, struct err *err)
{
    int r = control_answer_hello(t->control.conn, err);

    return r == 0 ? control_expect(&t->control, wanted, ret, err) : r;
}

static int prepare(struct target *t, struct err *err)
{
    json_t *message;
    int r = greet(t, WIRE_PREPARE, &message, err);

    if (r < 0)
        return r;
    r = target_parse_prepare(t, message, err);
    json_decref(message);
    if (r == 0)
        r = target_take_place(t, TARGET_BEGINS, err);
    if (r == 0)
        r = target_run_task(t, target_check, err);
    if (r == 0)
        r = make_disks(t, err);
    if (r < 0)
        return r;
    (void)target_feed(t, SW_EV_PREPARED);
    r = target_start_flusher(t, err);
    if (r < 0)
        return r;
    target_accept_data(t);
    r = control_send(&t->control, WIRE_PREPARED, json_pack("{s:f}", "volumes_ms", (double)t->volumes_ns / 1e6), err);
    return r == 0 ? fault_point("target.prepared", err) : r;
}

/* Everything that exists here because of this migration ceases to. An error: something is left, which recovery will see to. */
static int undo(struct target *t, struct err *err)
{
    int r = t->journal.written ? journal_advance(&t->journal, INCOMING_PREPARE, err) : 0;

    target_stop_flusher(t);
    if (t->hv && t->hv->ops->destroy(t->hv, r == 0 ? err : NULL) < 0 && r == 0)
        r = err_prefix(err, -EBUSY, "the half-made guest %s could not be destroyed", t->guest.name);
    target_end_data(t);
    page_target_destroy(t->pages);
    t->pages = NULL;
    for (unsigned int i = 0; i < HV_DISKS_MAX; i++) {
        mirror_target_destroy(t->disks[i]);
        t->disks[i] = NULL;
    }
    if (r == 0)
        r = target_remove_volumes(t, err);
    released_unmark(target_session(t));
    return r;
}

static void give_up(struct target *t, const struct err *why)
{
    bool aborted = why->code == -ECANCELED;
    enum switchover_action action = target_feed(t, SW_EV_FAILED);
    struct err left;

    assert(action == SW_UNDO);
    if (t->left_to_recovery) {
        target_end_data(t); /* recovery waits until nobody is at it any more */
        return;
    }
    if (t->pages)
        page_target_cancel(t->pages);
    if (undo(t, &left) < 0) { /* what is not undone is not said to be: the sender asks, or recovery does */
        log_error(AREA, "%s", left.text);
        return;
    }
    /* Only now: what the sender reads as FAILED or ABORTED is done. */
    (void)control_send(&t->control, aborted ? WIRE_ABORTED : WIRE_FAILED, control_failure(why), NULL);
}

void target_refuse(struct target *t, const struct err *why)
{
    (void)control_send(&t->control, WIRE_FAILED, control_failure(why), NULL);
}

int target_run(struct target *t, struct err *err)
{
    struct record record;
    int r;

    if (t->fresh)
        (void)target_take_place(t, TARGET_RETURNS, NULL);
    r = t->fresh ? target_say_resumed(t, err) : prepare(t, err);
    while (t->state != SW_DONE) {
        if (r == 0)
            r = next_record(t, &record, err);
        if (r == 0)
            r = handle(t, &record, err);
        if (r < 0 && (!target_may_park(t, r) || (r = target_park(t, err)) < 0))
            break;
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
    int r = greet(t, WIRE_CHECK, &message, err);

    if (r == 0) {
        r = target_parse_prepare(t, message, err);
        json_decref(message);
    }
    if (r == 0)
        r = target_run_task(t, target_check, err);
    if (r < 0)
        json_array_append_new(problems, json_string(err->text));
    return control_send(&t->control, WIRE_CHECKED, json_pack("{s:o}", "problems", problems), err);
}

/* -- life -- */

void target_set_admission(struct target *t, int (*admit)(void *data, enum target_place what, struct err *err), void *data)
{
    t->admit = admit;
    t->admit_data = data;
}

int target_take_place(struct target *t, enum target_place what, struct err *err)
{
    return t->admit ? t->admit(t->admit_data, what, err) : 0;
}

static json_t *status(void *data)
{
    struct target *t = data;

    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", t->journal.entry.session, "role", "target", "guest",
                     t->guest_parsed ? t->guest.name : "?", "peer", t->peer, "phase",
                     t->parked ? "waiting" : switchover_state_name(t->state));
}

static int create(struct target **ret, const struct server_config *config, const char *session, struct conn *control,
                  struct err *err)
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
    pthread_cond_init(&t->data_changed, NULL);
    (void)snprintf(t->fingerprint, sizeof(t->fingerprint), "%s", conn_peer_fingerprint(control));
    (void)snprintf(t->peer, sizeof(t->peer), "%s", conn_peer(control));
    (void)snprintf(job, sizeof(job), "%s.in", session);
    r = journal_open(&t->journal, config->state_dir, JOURNAL_INCOMING, session, err);
    if (r == 0)
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

int target_create(struct target **ret, const struct server_config *config, const char *session,
                  struct conn *control, struct err *err)
{
    return create(ret, config, session, control, err);
}

int target_find_again(const char *state_dir, const char *session, const char *fingerprint, struct err *err)
{
    struct journal_entry e;
    int r = journal_load(state_dir, JOURNAL_INCOMING, session, &e, err);

    if (r == 0 && (e.phase != INCOMING_PREPARED || strcmp(e.peer, fingerprint) != 0))
        r = err_set(err, -ENOENT, "nothing of this migration is here that could be gone on with");
    if (r == 0)
        journal_entry_finish(&e);
    return r;
}

int target_create_again(struct target **ret, const struct server_config *config, const char *session,
                        struct conn *control, unsigned int drops, struct err *err)
{
    struct target *t;
    int r = create(&t, config, session, control, err);

    if (r < 0)
        return r;
    /* Only now that its lock is ours it is nobody else's. */
    r = journal_load(config->state_dir, JOURNAL_INCOMING, session, &t->journal.entry, err);
    t->journal.written = r == 0;
    t->fresh = true;
    t->drops = drops;
    if (r == 0 && t->journal.entry.phase != INCOMING_PREPARED)
        r = err_set(err, -ENOENT, "nothing of this migration is here that could be gone on with");
    journal_boot(t->journal.entry.boot);
    if (r == 0)
        r = journal_write(&t->journal, err);
    if (r == 0)
        r = target_reopen(t, err);
    if (r < 0) {
        target_refuse(t, err);
        target_destroy(t);
        return r;
    }
    (void)target_feed(t, SW_EV_PREPARED);
    *ret = t;
    return 0;
}

void target_destroy(struct target *t)
{
    if (!t)
        return;
    target_stop_flusher(t);
    journal_close(&t->journal);
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
    if (t->resumed)
        conn_destroy(t->resumed);
    loop_destroy(t->loop);
    pthread_cond_destroy(&t->data_changed);
    pthread_mutex_destroy(&t->lock);
    free(t);
}
