/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sender's connections: made, and made anew after they broke while nothing was decided yet. What the target has
 * acknowledged is not sent again; memory begins anew, since the guest has run on. */
#include "session/source-priv.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"

#include <limits.h>
#include <string.h>

#define AREA            "session.source"
/* Of one attempt: whoever cancels waits for it, so the first ones are short; a slow peer needs more. */
#define RETRY_TIMEOUT         (900 * NS_PER_MS)
#define RETRY_TIMEOUT_LONGEST (10 * NS_PER_SEC)
#define RETRY_FIRST     (100 * NS_PER_MS)
#define RETRY_LONGEST   (2 * NS_PER_SEC)
#define LAST_WORD       (30 * NS_PER_SEC) /* a target that failed says so when it has undone everything */
#define TURN            (50 * NS_PER_MS)

int source_capture(const struct source *s, struct conn *c, const char *name, struct err *err)
{
    char path[PATH_MAX];
    int r;

    if (!s->config->capture)
        return 0;
    r = dir_make(s->config->capture);
    if (r < 0)
        return err_errno(err, r, "making %s", s->config->capture);
    if (s->drops)
        (void)snprintf(path, sizeof(path), "%s/%s.%u.xmc", s->config->capture, name, s->drops);
    else
        (void)snprintf(path, sizeof(path), "%s/%s.xmc", s->config->capture, name);
    return conn_capture(c, path, err);
}

static bool names_feature(const json_t *hello_answer, const char *feature)
{
    const json_t *features = json_object_get(hello_answer, "features");
    size_t i;
    json_t *f;

    json_array_foreach(features, i, f)
    {
        if (json_is_string(f) && strcmp(json_string_value(f), feature) == 0)
            return true;
    }
    return false;
}

static int check_hello(struct source *s, const json_t *answer, struct err *err)
{
    json_int_t protocol = json_integer_value(json_object_get(answer, "protocol"));

    if (protocol < 1)
        return err_set(err, -EPROTO, "%s names no protocol version in HELLO", s->config->address);
    s->compress = names_feature(answer, "zstd") ? s->config->compress : COMPRESS_NONE;
    return 0;
}

static int connect_within(struct source *s, uint64_t timeout_ns, struct err *err)
{
    struct conn *c;
    int r = conn_connect(&c, s->config->identity, s->config->address, timeout_ns, err);

    if (r < 0)
        return r;
    r = control_init(&s->control, c, s->loop, err);
    s->connected = true;
    return r == 0 ? source_capture(s, c, "control", err) : r;
}

static int greet(struct source *s, const char *role, struct err *err)
{
    json_t *answer = NULL;
    int r = control_say_hello(s->control.conn, role, s->id, -1, s->drops, err);

    if (r == 0)
        r = control_expect(&s->control, WIRE_HELLO, &answer, err);
    if (r == 0)
        r = check_hello(s, answer, err);
    json_decref(answer);
    return r;
}

int source_connect_to_check(struct source *s, struct err *err)
{
    int r = connect_within(s, SOURCE_CONNECT_TIMEOUT, err);

    return r == 0 ? greet(s, "check", err) : r;
}

int source_connect(struct source *s, struct err *err)
{
    int r = connect_within(s, SOURCE_CONNECT_TIMEOUT, err);

    if (r == 0)
        r = source_data_begin(s, err);
    if (r == 0)
        r = greet(s, "control", err);
    if (r == 0)
        source_data_greet(s, GREETING_HEARD);
    return r;
}

void source_disconnect(struct source *s)
{
    if (s->connected)
        control_finish(&s->control);
    s->connected = false;
}

int source_make_stream(struct source *s, struct err *err)
{
    struct stream_config c = {.compress = s->compress, .greeted = s->drops ? NULL : source_data_greeted, .failed = source_stream_failed, .data = s};

    s->connections_opened = 0;
    source_care_new_stream(s);
    return stream_create(&s->stream, &c, err);
}

/* -- after a drop -- */

bool source_may_reconnect(struct source *s, int code)
{
    /* Who stopped the writers of a disk without a guest hears of it once, at the end (--go-command). */
    bool stopped = s->hv && s->hv->ops->memory_kind == HV_MEMORY_NONE && s->times.suspend_begin;

    return s->stream && !s->resume_failed && s->state >= SW_PREPARED && s->state < SW_GO && s->config->reconnect_ns && !stopped &&
           code != -ECANCELED && code != -EREMOTEIO && code != -ESRCH && source_link_is_lost(s);
}

/* The guest first: nobody waits for a network while it stands still. */
static int bring_guest_back(struct source *s, struct err *err)
{
    int r = 0;

    source_memory_cancel(s);
    source_unthrottle(s);
    if (s->state != SW_PREPARED || s->suspended_seen || s->times.suspend_begin)
        r = s->hv->ops->resume(s->hv, err);
    s->resume_failed = r < 0;
    (void)source_feed(s, SW_EV_DROPPED);
    stream_halt(s->stream); /* its workers read the round's bitmap */
    source_memory_finish(s);
    s->disks_final = false;
    s->suspended_seen = s->saved_seen = false;
    s->policy.kind = HV_NOTHING; /* a question of the save that has ended */
    s->rounds = 0;
    memset(s->disk_pass_begun_ns, 0, sizeof(s->disk_pass_begun_ns)); /* what it takes is no measure any more */
    s->dirty_taken_ns = 0;
    s->times = (struct source_times){.begin = s->times.begin, .prepare_disks = s->times.prepare_disks};
    json_decref(s->ready);
    s->ready = NULL;
    return r;
}

/* Data connections may have broken because the target failed, which says so on the control connection as soon as it has
 * undone its side. One that closes it instead waits for us to come back. */
static int hear_last_word(struct source *s, struct err *err)
{
    uint64_t give_up = clock_now() + LAST_WORD;
    struct record record;
    json_t *message;

    while (s->connected && !s->control.broken && clock_now() < give_up) {
        int r = control_next(&s->control, &record, err);

        if (r == -EAGAIN) {
            r = source_check_cancelled(s, err);
            if (r < 0)
                return r;
            loop_turn(s->loop, TURN);
            continue;
        }
        if (r < 0)
            return conn_error_is_drop(r) ? 0 : r;
        if (record.type != WIRE_FAILED)
            continue;
        r = control_parse(&record, &message, err);
        if (r == 0) {
            r = control_peer_error(message, err);
            json_decref(message);
        }
        return r;
    }
    return 0;
}

static void clear_failures(struct source *s)
{
    pthread_mutex_lock(&s->lock);
    s->failure.code = 0;
    s->data_dropped = false;
    s->round_done = s->reader_done = false;
    pthread_mutex_unlock(&s->lock);
    source_drop_reply(s);
}

/* Waits, while the guest and whoever cancels are served. */
static int pause_for(struct source *s, uint64_t ns, struct err *err)
{
    uint64_t until = clock_now() + ns;

    while (clock_now() < until) {
        int r;

        if (s->job)
            job_work(s->job);
        r = source_check_cancelled(s, err);
        if (r == 0)
            r = source_serve_hv(s, err);
        if (r < 0)
            return r;
        source_tell_progress(s);
        loop_turn(s->loop, MIN(until - clock_now(), TURN));
    }
    return 0;
}

/* *ret: what RESUMED says. */
static int try_resume(struct source *s, uint64_t timeout_ns, json_t **ret, struct err *err)
{
    int r = connect_within(s, timeout_ns, err);

    if (r == 0)
        r = greet(s, "resume", err);
    if (r == 0)
        r = control_expect(&s->control, WIRE_RESUMED, ret, err);
    if (r < 0)
        source_disconnect(s);
    return r;
}

static int keep_trying(struct source *s, json_t **ret, const struct err *why, struct err *err)
{
    uint64_t give_up = clock_now() + s->config->reconnect_ns;
    uint64_t wait = RETRY_FIRST;
    uint64_t timeout = RETRY_TIMEOUT;

    for (;;) {
        int r = try_resume(s, timeout, ret, err);

        if (r == 0 || !conn_error_is_drop(r))
            return r;
        if (clock_now() > give_up)
            return err_set(err, r, "%.300s; and it has not come back within %llu s (--reconnect-for)", why->text,
                           (unsigned long long)(s->config->reconnect_ns / NS_PER_SEC));
        r = pause_for(s, MIN(wait, give_up > clock_now() ? give_up - clock_now() : 1), err);
        if (r < 0)
            return r;
        wait = MIN(wait * 2, RETRY_LONGEST);
        timeout = MIN(timeout * 3 / 2, RETRY_TIMEOUT_LONGEST);
    }
}

/* What the target has of each old connection is done, all else is marked again; then the disks go on, on a new stream. */
static int carry_over(struct source *s, const json_t *resumed, struct err *err)
{
    const json_t *taken = json_object_get(resumed, "taken");
    bool fresh = json_is_true(json_object_get(resumed, "fresh"));
    int r = 0;

    for (unsigned int i = 0; r == 0 && !fresh && i < MIN(s->connections_opened, json_array_size(taken)); i++)
        r = stream_settle(s->stream, i, (uint64_t)json_integer_value(json_array_get(taken, i)), err);
    if (r < 0)
        return r;
    s->wire_bytes_before += stream_bytes_sent(s->stream);
    stream_destroy(s->stream);
    s->stream = NULL;
    page_source_destroy(s->pages); /* the old stream answered it to the last */
    s->pages = NULL;
    r = source_make_stream(s, err);
    for (unsigned int i = 0; r == 0 && i < s->guest->disk_count; i++) {
        if (fresh) {
            mirror_source_forget(s->disks[i]);
            s->disk_bulk_done[i] = false;
        }
        r = mirror_source_attach(s->disks[i], s->stream, err);
    }
    return r;
}

int source_reconnect(struct source *s, struct err *err)
{
    struct err why = *err;
    json_t *resumed = NULL;
    int r;

    log_warn(AREA, "%s: the disks that were copied are kept, reconnecting", why.text);
    s->drops++;
    r = bring_guest_back(s, err);
    if (r == 0 && s->connections_opened == s->connections) /* else the target does not know yet that one is missing */
        r = hear_last_word(s, err);
    source_set_phase(s, "reconnect");
    if (r < 0)
        return r;
    if (s->connected)
        s->wire_bytes_before += conn_bytes_sent(s->control.conn);
    source_disconnect(s);
    clear_failures(s);
    r = keep_trying(s, &resumed, &why, err);
    if (r == 0)
        r = carry_over(s, resumed, err);
    json_decref(resumed);
    if (r == 0)
        r = source_data_open(s, err);
    return r;
}
