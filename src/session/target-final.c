/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest's memory and the last steps before READY, at the target. */
#include "session/target-priv.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/fault.h"

#define TURN (50 * NS_PER_MS)

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
        paths[i] = t->journal.entry.volumes[i].path;
    return t->hv->ops->memory_begin(t->hv, paths, &t->memory_fd, &t->memory_ram, err);
}

/* Of what the sender asks for, as much as this end gives, and no more than the guest has. An older sender asks for nothing. */
static int grant_pages(const struct target *t, const json_t *message, uint64_t *ret, struct err *err)
{
    const json_t *asked = json_object_get(message, "kept_pages");
    json_int_t n = json_integer_value(asked);

    if (asked && (!json_is_integer(asked) || n < 0))
        return err_set(err, -EPROTO, "MEMORY_BEGIN: kept_pages is no number of pages");
    *ret = MIN((uint64_t)n, MIN(t->config->delta_cache / WIRE_PAGE_SIZE, t->guest.max_pfn + 1));
    return 0;
}

int target_begin_memory(struct target *t, const json_t *message, struct err *err)
{
    struct page_target_config c = {.max_pfn = t->guest.max_pfn, .script_done = script_done, .data = t};
    struct page_target *pages;
    int r;

    if (t->hv->ops->memory_kind == HV_MEMORY_NONE || target_feed(t, SW_EV_MEMORY) == SW_REFUSE)
        return err_set(err, -EPROTO, "MEMORY_BEGIN out of turn");
    t->memory_fd = -1;
    r = fault_point("target.memory", err);
    if (r == 0)
        r = grant_pages(t, message, &c.kept_pages, err);
    if (r == 0)
        r = target_run_task(t, start_building, err);
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
    return control_send(&t->control, WIRE_MEMORY_READY, json_pack("{s:I}", "kept_pages", (json_int_t)page_target_kept_pages(pages)), err);
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
        uint64_t until;

        pthread_mutex_unlock(&t->lock);
        if (flush(t, &err) < 0 && !t->flush_failure.code) /* the kernel says it once: it must not be lost */
            t->flush_failure = err;
        until = clock_now() + NS_PER_SEC;
        pthread_mutex_lock(&t->lock);
        if (!t->flusher_stop)
            (void)clock_cond_wait(&t->data_changed, &t->lock, until);
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

int target_start_flusher(struct target *t, struct err *err)
{
    t->flusher_stop = false;
    if (pthread_create(&t->flusher, NULL, flusher_thread, t))
        return err_set(err, -EAGAIN, "no thread");
    t->flusher_runs = true;
    return 0;
}

void target_stop_flusher(struct target *t)
{
    if (!t->flusher_runs)
        return;
    pthread_mutex_lock(&t->lock);
    t->flusher_stop = true;
    pthread_cond_broadcast(&t->data_changed);
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
            r = target_serve_hv(t, err);
        if (r == 0)
            r = target_look_at_failures(t, err);
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

/* What a reused disk held stays only where the sender knows it: nobody gets at what was left there by naming it. */
static int check_reused(struct target *t, struct err *err)
{
    for (unsigned int i = 0; i < t->guest.disk_count; i++) {
        uint64_t gaps = t->reused[i] ? mirror_target_gaps(t->disks[i]) : 0;

        if (gaps)
            return err_set(err, -EPROTO, "disk %s: %llu of the 64 KiB of the old copy were neither sent nor compared",
                           t->guest.disks[i].vbd, (unsigned long long)gaps);
    }
    return 0;
}

int target_final(struct target *t, const json_t *message, struct err *err)
{
    uint64_t begun = clock_now();
    json_t *ours;
    int r;

    if (t->state != SW_MEMORY && (t->state != SW_PREPARED || t->hv->ops->memory_kind != HV_MEMORY_NONE))
        return err_set(err, -EPROTO, "FINAL out of turn");
    r = fault_point("target.final", err);
    if (r < 0)
        return r;
    r = check_reused(t, err);
    if (r < 0)
        return r;
    ours = digests(t);
    if (!json_equal(ours, json_object_get(message, "disks"))) {
        json_decref(ours);
        return err_set(err, -EBADMSG, "what was written here is not what the source read (the disks' digests differ)");
    }
    target_stop_flusher(t);
    if (t->flush_failure.code) {
        json_decref(ours);
        *err = t->flush_failure;
        return err->code;
    }
    r = target_run_task(t, flush, err);
    t->flush_ns = clock_now() - begun;
    if (r == 0)
        r = wait_built(t, err);
    if (r < 0 || target_feed(t, SW_EV_READY) == SW_REFUSE) {
        json_decref(ours);
        return r < 0 ? r : err_set(err, -EPROTO, "FINAL out of turn");
    }
    r = control_send(&t->control, WIRE_READY,
                     json_pack("{s:o, s:f, s:f}", "disks", ours, "flush_ms", (double)t->flush_ns / 1e6, "build_ms",
                               (double)t->build_ns / 1e6),
                     err);
    return r == 0 ? fault_point("target.ready", err) : r;
}

