/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest's memory: rounds run by the hypervisor's helper (stream) or by us (mapped), one decision about the stop. */
#include "session/source-priv.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "memsync/libxc-stream.h"

#include <assert.h>
#include <string.h>

#define AREA       "session.memory"
#define WAIT_STEP  (20 * NS_PER_MS)

static int post_script(void *data, enum wire_type type, const void *body, uint32_t length, struct err *err)
{
    struct source *s = data;

    return control_post(&s->control, type, body, length, err);
}

static void round_done(void *data)
{
    struct source *s = data;

    pthread_mutex_lock(&s->lock);
    s->round_done = true;
    pthread_mutex_unlock(&s->lock);
    loop_wake(s->loop);
}

/* -- reading the hypervisor's stream, own thread -- */

static int reader_pages(void *data, const uint64_t *entries, uint32_t count, const uint8_t *pages, struct err *err)
{
    struct source *s = data;

    return page_source_pages(s->pages, entries, count, pages, err);
}

static int reader_octets(void *data, const uint8_t *octets, size_t len, struct err *err)
{
    struct source *s = data;

    return page_source_octets(s->pages, octets, len, err);
}

static void *reader_thread(void *data)
{
    static const struct libxc_reader_ops ops = {.pages = reader_pages, .octets = reader_octets};
    struct source *s = data;
    struct err err = {0};
    int r = libxc_stream_read(s->stream_fd, false, &ops, s, &err);

    if (r == 0)
        r = page_source_finish(s->pages, &err);
    /* Whoever writes to a stream that is read no more must not wait for ever. */
    if (r < 0)
        (void)close(take_fd(&s->stream_fd));
    pthread_mutex_lock(&s->lock);
    s->reader_done = true;
    pthread_mutex_unlock(&s->lock);
    if (r < 0)
        source_fail(s, &err);
    loop_wake(s->loop);
    return NULL;
}

static int begin_stream(struct source *s, struct err *err)
{
    const uint8_t *none;
    int r = s->hv->ops->memory_begin(s->hv, &s->stream_fd, &none, err);

    if (r < 0)
        return r;
    if (pthread_create(&s->reader, NULL, reader_thread, s))
        return err_set(err, -EAGAIN, "no thread for the guest's stream");
    s->reader_runs = true;
    return 0;
}

static bool memory_ready(struct source *s)
{
    return s->reply && s->reply_type == WIRE_MEMORY_READY;
}

/* Pages that both ends would keep. Deltas gain only where they are compressed. */
static uint64_t pages_to_keep(const struct source *s)
{
    return s->compress == COMPRESS_NONE ? 0 : MIN(s->config->delta_cache / WIRE_PAGE_SIZE, s->guest->max_pfn + 1);
}

/* An older receiver grants nothing. */
static int read_grant(const struct source *s, uint64_t asked, uint64_t *ret, struct err *err)
{
    const json_t *granted = json_object_get(s->reply, "kept_pages");
    json_int_t n = json_integer_value(granted);

    if (granted && (!json_is_integer(granted) || n < 0 || (uint64_t)n > asked))
        return err_set(err, -EPROTO, "%s grants %lld kept pages, %llu were asked for", s->config->address, (long long)n,
                       (unsigned long long)asked);
    *ret = (uint64_t)n;
    return 0;
}

static int ask_for_memory(struct source *s, uint64_t *ret_kept, struct err *err)
{
    uint64_t asked = pages_to_keep(s);
    int r = control_send(&s->control, WIRE_MEMORY_BEGIN, json_pack("{s:I}", "kept_pages", (json_int_t)asked), err);

    if (r == 0)
        r = source_wait(s, memory_ready, err);
    if (r == 0)
        r = read_grant(s, asked, ret_kept, err);
    source_drop_reply(s);
    return r;
}

int source_memory_begin(struct source *s, struct err *err)
{
    struct page_source_config c = {.stream = s->stream,
                                   .max_pfn = s->guest->max_pfn,
                                   .script = post_script,
                                   .round_done = round_done,
                                   .data = s};
    int r = ask_for_memory(s, &c.kept_pages, err);

    if (r == 0)
        r = page_source_create(&s->pages, &c, err);
    if (r < 0)
        return r;
    s->times.memory_begin = clock_now();
    (void)source_feed(s, SW_EV_MEMORY);
    return s->hv->ops->memory_kind == HV_MEMORY_STREAM ? begin_stream(s, err) : 0;
}

/* -- the decision -- */

static enum precopy_decision decide(struct source *s, int64_t dirty_pages)
{
    struct precopy_stats st = {.round = s->rounds,
                               .dirty_pages = dirty_pages,
                               .pages_per_second = s->pages_per_second,
                               .dirtied_per_second = s->dirtied_per_second,
                               .disk_tail_ns = source_disks_tail_ns(s),
                               .elapsed_ns = clock_now() - s->times.begin};
    enum precopy_decision d = precopy_decide(&st, &s->config->limits, &s->predicted_tail_ns);

    if ((d == PRECOPY_CONTINUE || d == PRECOPY_WAIT) && source_throttle(s, &st) == PRECOPY_ABORT)
        d = PRECOPY_ABORT;

    log_debug(AREA, "round %u: %lld pages dirty, %llu/s dirtied, %llu/s carried, disks %llu us, tail %llu us: %s",
              s->rounds, (long long)dirty_pages, (unsigned long long)s->dirtied_per_second,
              (unsigned long long)s->pages_per_second, (unsigned long long)st.disk_tail_ns / 1000,
              (unsigned long long)s->predicted_tail_ns / 1000, precopy_decision_name(d));
    return d;
}

/* Dirty bits were taken just now: what rate do they stand for? */
static void note_dirty(struct source *s, uint64_t pages)
{
    uint64_t now = clock_now();
    uint64_t ns = now - s->dirty_taken_ns;

    if (s->dirty_taken_ns && ns)
        s->dirtied_per_second = (uint64_t)((double)pages * (double)NS_PER_SEC / (double)ns);
    s->dirty_taken_ns = now;
}

static void note_round_begun(struct source *s, uint64_t pages)
{
    struct page_source_stats st;

    page_source_stats(s->pages, &st);
    s->pages_at_round = st.sent_pages + st.zero_pages;
    s->round_pages = pages;
    s->round_begun_ns = clock_now();
    s->rounds++;
}

static void note_round_sent(struct source *s)
{
    uint64_t ns = clock_now() - s->round_begun_ns;
    struct page_source_stats st;
    uint64_t carried;

    page_source_stats(s->pages, &st);
    carried = st.sent_pages + st.zero_pages - s->pages_at_round;
    /* Few pages say more about waiting than about the link. */
    if (ns && (carried > 256 || !s->pages_per_second))
        s->pages_per_second = (uint64_t)((double)carried * (double)NS_PER_SEC / (double)ns) + 1;
}

static int late(struct source *s, struct err *err)
{
    return err_set(err, -ETIMEDOUT,
                   "the guest writes faster than it can be copied: the stop would still take %llu ms after %llu s, the downtime is set to %llu ms (see --downtime, --on-timeout=stop)",
                   (unsigned long long)(s->predicted_tail_ns / NS_PER_MS),
                   (unsigned long long)((clock_now() - s->times.begin) / NS_PER_SEC),
                   (unsigned long long)(s->config->limits.downtime_ns / NS_PER_MS));
}

/* -- stream: the helper asks -- */

static void note_question(struct source *s)
{
    if (s->policy.before_round) {
        if (s->policy.iteration > 0)
            note_dirty(s, (uint64_t)s->policy.dirty_pages);
        else
            s->dirty_taken_ns = clock_now();
        note_round_begun(s, (uint64_t)s->policy.dirty_pages);
        /* Round 0 sends all: no dirty count says anything yet. */
        s->rounds = s->policy.iteration;
    } else {
        note_round_sent(s);
    }
}

/* After a round was sent there is nothing to decide, but a round for a handful of pages would only pause the guest for
 * its bitmap: hold the helper while the disks are not ready. */
static bool hold(struct source *s)
{
    return !s->policy.before_round && s->round_pages < 1024 && s->policy.iteration > 1 &&
           source_disks_tail_ns(s) > s->config->limits.downtime_ns;
}

int source_memory_policy(struct source *s, struct err *err)
{
    enum precopy_decision d;
    enum hv_policy answer = HV_CONTINUE;

    if (s->policy.kind != HV_POLICY)
        return 0;
    if (s->policy.text[0] == '\0') {
        note_question(s);
        s->policy.text[0] = 'n'; /* noted: a question may be looked at several times before it is answered */
    }
    d = decide(s, s->policy.before_round ? s->policy.dirty_pages : -1);
    if (d == PRECOPY_ABORT)
        return late(s, err);
    if (d == PRECOPY_STOP) {
        answer = HV_STOP;
        s->times.suspend_begin = clock_now();
        source_set_phase(s, "switchover");
    } else if (d == PRECOPY_CONTINUE && hold(s)) {
        return 0;
    }
    s->policy.kind = HV_NOTHING;
    return s->hv->ops->policy_answer(s->hv, answer, err);
}

/* -- mapped: our own rounds -- */

static bool round_is_done(struct source *s)
{
    bool done;

    pthread_mutex_lock(&s->lock);
    done = s->round_done;
    pthread_mutex_unlock(&s->lock);
    return done;
}

static int send_round(struct source *s, struct bitmap *dirty, const uint8_t *ram, uint64_t pages, struct err *err)
{
    int r;

    pthread_mutex_lock(&s->lock);
    s->round_done = false;
    pthread_mutex_unlock(&s->lock);
    note_round_begun(s, pages);
    r = page_source_begin_round(s->pages, dirty, ram, err);
    if (r == 0)
        r = source_wait(s, round_is_done, err);
    if (r == 0)
        note_round_sent(s);
    return r;
}

static bool a_moment_later(struct source *s)
{
    return clock_now() - s->dirty_taken_ns >= WAIT_STEP;
}

static int converge_mapped(struct source *s, struct bitmap *dirty, const uint8_t *ram, struct err *err)
{
    uint64_t pages;
    int r;

    bitmap_set_all(dirty);
    s->dirty_taken_ns = clock_now();
    r = send_round(s, dirty, ram, dirty->bits, err);
    while (r == 0) {
        enum precopy_decision d;

        r = s->hv->ops->log_dirty_take(s->hv, dirty, &pages, err);
        if (r < 0)
            return r;
        note_dirty(s, pages);
        pages = bitmap_count(dirty);
        d = decide(s, (int64_t)pages);
        if (d == PRECOPY_ABORT)
            return late(s, err);
        /* What was predicted is the stop after this round, so it is sent while the guest runs, as libxenguest does. */
        if (d == PRECOPY_STOP)
            return pages ? send_round(s, dirty, ram, pages, err) : 0;
        r = d == PRECOPY_WAIT ? source_wait(s, a_moment_later, err) : send_round(s, dirty, ram, pages, err);
    }
    return r;
}

/* The last round is sent while the disks have their last pass: it is begun here, source_memory_final waits for it. */
static int stop_mapped(struct source *s, struct bitmap *dirty, const uint8_t *ram, struct err *err)
{
    uint64_t pages;
    int r;

    source_set_phase(s, "switchover");
    s->times.suspend_begin = clock_now();
    r = s->hv->ops->suspend(s->hv, err);
    if (r == 0)
        r = source_wait(s, source_is_suspended, err);
    if (r == 0)
        r = s->hv->ops->log_dirty_take(s->hv, dirty, &pages, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&s->lock);
    s->round_done = false;
    pthread_mutex_unlock(&s->lock);
    note_round_begun(s, bitmap_count(dirty));
    return page_source_begin_round(s->pages, dirty, ram, err);
}

int source_memory_converge(struct source *s, struct err *err)
{
    const uint8_t *ram;
    int no_fd;
    int r;

    if (s->hv->ops->memory_kind == HV_MEMORY_STREAM)
        return source_wait(s, source_is_suspended, err);
    assert(s->hv->ops->memory_kind == HV_MEMORY_MAPPED);
    r = bitmap_init(&s->dirty, s->guest->max_pfn + 1);
    if (r < 0)
        return err_set(err, r, "out of memory");
    r = s->hv->ops->memory_begin(s->hv, &no_fd, &ram, err);
    if (r == 0)
        r = converge_mapped(s, &s->dirty, ram, err);
    if (r == 0)
        r = stop_mapped(s, &s->dirty, ram, err);
    return r;
}

bool source_memory_done(struct source *s)
{
    bool done;

    if (!s->pages)
        return true;
    pthread_mutex_lock(&s->lock);
    done = s->hv->ops->memory_kind == HV_MEMORY_STREAM ? s->reader_done && s->saved_seen : s->round_done;
    pthread_mutex_unlock(&s->lock);
    done = done && page_source_idle(s->pages);
    if (done && !s->times.memory_done)
        s->times.memory_done = clock_now();
    return done;
}

int source_memory_final(struct source *s, struct err *err)
{
    return source_wait(s, source_memory_done, err);
}

void source_memory_cancel(struct source *s)
{
    if (s->pages)
        page_source_cancel(s->pages);
}

void source_memory_finish(struct source *s)
{
    source_memory_cancel(s);
    if (s->reader_runs)
        (void)pthread_join(s->reader, NULL);
    s->reader_runs = false;
    if (s->stream_fd >= 0)
        (void)close(take_fd(&s->stream_fd));
    bitmap_finish(&s->dirty);
}
