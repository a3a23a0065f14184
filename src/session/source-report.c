/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the sender tells about itself: progress, status and the result, as JSON of documented form. */
#include "session/source-priv.h"

#include "base/bytes.h"
#include "base/clock.h"

static double ms_between(uint64_t from, uint64_t to)
{
    return from && to > from ? (double)((to - from) / NS_PER_US) / 1000.0 : 0.0;
}

static json_t *disk_progress(struct source *s, unsigned int i)
{
    struct mirror_source_stats st = {.size = s->guest->disks[i].size};

    if (s->disks[i])
        mirror_source_stats(s->disks[i], &st);
    return json_pack("{s:s, s:I, s:i, s:I, s:I, s:I, s:I}", "vbd", s->guest->disks[i].vbd, "size",
                     (json_int_t)st.size, "pass", (int)st.passes, "pass_total", (json_int_t)st.pass_total,
                     "pass_done", (json_int_t)MIN(st.pass_done, st.pass_total), "sent", (json_int_t)st.sent, "dirty",
                     (json_int_t)(s->disks[i] && s->disk_bulk_done[i] ? mirror_source_dirty(s->disks[i]) : 0));
}

static json_t *memory_progress(struct source *s)
{
    struct page_source_stats st = {0};
    uint64_t done;

    if (s->pages)
        page_source_stats(s->pages, &st);
    done = st.sent_pages + st.zero_pages - s->pages_at_round;
    return json_pack("{s:I, s:i, s:I, s:I, s:I, s:I, s:I}", "pages", (json_int_t)(s->guest->memory / 4096), "round",
                     (int)s->rounds, "round_total", (json_int_t)s->round_pages, "round_done",
                     (json_int_t)MIN(done, s->round_pages), "sent_pages", (json_int_t)st.sent_pages,
                     "delta_pages", (json_int_t)st.delta_pages, "dirtied_per_second", (json_int_t)s->dirtied_per_second);
}

static uint64_t wire_bytes(struct source *s)
{
    uint64_t n = s->wire_bytes_before + (s->stream ? stream_bytes_sent(s->stream) : 0);

    return s->connected ? n + conn_bytes_sent(s->control.conn) : n;
}

json_t *source_status(struct source *s)
{
    json_t *disks = json_array();
    json_t *status;

    for (unsigned int i = 0; s->guest && i < s->guest->disk_count; i++)
        json_array_append_new(disks, disk_progress(s, i));
    status = json_pack("{s:s, s:s, s:s, s:s, s:s, s:f, s:I, s:o}", "id", s->id, "role", "source", "guest",
                       s->guest ? s->guest->name : s->config->guest, "peer", s->config->address, "phase", s->phase,
                       "elapsed_ms", ms_between(s->times.begin, clock_now()), "wire_bytes",
                       (json_int_t)wire_bytes(s), "disks", disks);
    if (status && s->throttled != 100)
        json_object_set_new(status, "throttled_percent", json_integer(s->throttled));
    if (status && s->rate != CARE_NO_LIMIT && s->rate)
        json_object_set_new(status, "rate_limit", json_integer((json_int_t)s->rate));
    if (status && s->guest && s->guest->memory)
        json_object_set_new(status, "memory", memory_progress(s));
    return status;
}

void source_report_progress(struct source *s)
{
    json_t *e;

    if (!s->config->event)
        return;
    e = source_status(s);
    if (!e)
        return;
    json_object_set_new(e, "event", json_string("progress"));
    s->config->event(s->config->data, e);
    json_decref(e);
}

/* While the guest ran. A move without a phase has 0 for it. */
static json_t *phases(const struct source *s)
{
    const struct source_times *t = &s->times;

    return json_pack("{s:f, s:f, s:f, s:f}", "prepare_ms", ms_between(t->begin, t->disks_begin), "of_prepare_disks_ms",
                     (double)t->prepare_disks / 1e6, "disks_ms",
                     ms_between(t->disks_begin, t->memory_begin ? t->memory_begin : t->suspend_begin), "memory_ms",
                     ms_between(t->memory_begin, t->suspend_begin));
}

static json_t *downtime_parts(const struct source *s)
{
    const struct source_times *t = &s->times;
    json_t *parts = json_object();

    json_object_set_new(parts, "suspend_ms", json_real(ms_between(t->suspend_begin, t->suspended)));
    json_object_set_new(parts, "drain_ms", json_real(ms_between(t->suspended, t->drained)));
    json_object_set_new(parts, "last_disk_pass_ms", json_real(ms_between(t->drained, t->disks_done)));
    json_object_set_new(parts, "last_memory_ms", json_real(ms_between(t->disks_done, t->memory_done)));
    json_object_set_new(parts, "ready_ms", json_real(ms_between(MAX(t->disks_done, t->memory_done), t->ready)));
    /* Of ready: what the target says of its last flush and of building the guest. */
    json_object_set_new(parts, "of_ready_flush_ms", json_real(json_number_value(json_object_get(s->ready, "flush_ms"))));
    json_object_set_new(parts, "of_ready_build_ms", json_real(json_number_value(json_object_get(s->ready, "build_ms"))));
    json_object_set_new(parts, "go_ms", json_real(ms_between(t->ready, t->running)));
    json_object_set_new(parts, "settle_ms", json_real(ms_between(t->running, t->settled)));
    return parts;
}

static json_t *disk_results(struct source *s, bool verified)
{
    json_t *all = json_array();

    for (unsigned int i = 0; s->guest && i < s->guest->disk_count; i++) {
        struct mirror_source_stats st = {.size = s->guest->disks[i].size};

        if (s->disks[i])
            mirror_source_stats(s->disks[i], &st);
        else if (s->disk_results[i].size)
            st = s->disk_results[i];
        json_array_append_new(all, json_pack("{s:s, s:I, s:I, s:I, s:i, s:b}", "vbd", s->guest->disks[i].vbd, "size",
                                             (json_int_t)st.size, "sent", (json_int_t)st.sent, "kept", (json_int_t)st.kept, "passes",
                                             (int)st.passes, "verified", verified));
    }
    return all;
}

static json_t *memory_result(struct source *s)
{
    struct page_source_stats st = {0};

    if (s->pages)
        page_source_stats(s->pages, &st);
    return json_pack("{s:I, s:I, s:I, s:I, s:i}", "pages", (json_int_t)(s->guest ? s->guest->memory / 4096 : 0), "sent_pages",
                     (json_int_t)st.sent_pages, "delta_pages", (json_int_t)st.delta_pages, "zero_pages", (json_int_t)st.zero_pages, "rounds", (int)s->rounds);
}

static const char *where_is_guest(enum source_outcome o)
{
    switch (o) {
    case SOURCE_MOVED:
    case SOURCE_MOVED_UNCLEAN:
        return "target";
    case SOURCE_UNKNOWN:
        return "unknown";
    case SOURCE_GUEST_LOST:
        return "ended";
    default:
        return "source";
    }
}

static const char *outcome_name(enum source_outcome o)
{
    switch (o) {
    case SOURCE_MOVED:
    case SOURCE_MOVED_UNCLEAN:
        return "moved";
    case SOURCE_CANCELLED:
        return "cancelled";
    default:
        return "failed";
    }
}

static json_t *care_result(struct source *s)
{
    struct care_stats st;

    care_stats(s->care, &st);
    return json_pack("{s:i, s:f, s:f, s:f}", "disks_watched", (int)st.watched, "braked_ms", (double)st.braked_ns / 1e6,
                     "guest_latency_before_ms", (double)st.before_ns / 1e6, "guest_latency_during_ms", (double)st.during_ns / 1e6);
}

void source_report_result(struct source *s, enum source_outcome outcome, const struct err *err)
{
    bool moved = outcome == SOURCE_MOVED || outcome == SOURCE_MOVED_UNCLEAN;
    const struct source_times *t = &s->times;
    json_t *e;

    if (!s->config->event)
        return;
    e = json_pack("{s:s, s:s, s:s, s:s, s:s, s:f, s:f, s:f, s:o, s:o, s:o, s:o, s:I}", "event", "result", "outcome",
                  outcome_name(outcome), "guest", s->guest ? s->guest->name : s->config->guest, "target",
                  s->config->address, "guest_is_at", where_is_guest(outcome), "total_ms",
                  ms_between(t->begin, t->running ? t->running : clock_now()), "downtime_ms",
                  moved ? ms_between(t->suspend_begin, t->settled) : 0.0, "predicted_tail_ms",
                  (double)(s->predicted_tail_ns == UINT64_MAX ? 0 : s->predicted_tail_ns / NS_PER_US) / 1000.0,
                  "phases", phases(s), "downtime_parts", downtime_parts(s), "disks", disk_results(s, moved), "memory", memory_result(s),
                  "wire_bytes", (json_int_t)wire_bytes(s));
    if (!e)
        return;
    if (s->drops)
        json_object_set_new(e, "reconnected", json_integer(s->drops));
    if (s->care)
        json_object_set_new(e, "care", care_result(s));
    json_object_set_new(e, "error", outcome == SOURCE_MOVED ? json_null() : json_string(err->text));
    s->config->event(s->config->data, e);
    json_decref(e);
}
