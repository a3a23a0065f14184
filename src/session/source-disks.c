/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All disks of the guest at once: the bulk copy, then passes over what the trackers marked, begun where they are due. */
#include "session/source-priv.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <string.h>

/* A pass costs a look at the whole bitmap and a record for every few blocks: a disk has none before what is marked would take this part
 * of the downtime, nor before so much time has gone by since its last one, so that a block that is written over and over is sent that
 * much less often. */
#define PASS_SHARE     4
#define PASS_INTERVAL  (50 * NS_PER_MS)
/* With more than this the guest is not stopped. Whatever it writes between two passes would only add to it: there is no rest then. */
#define STOP_SHARE     2
#define DRAIN_TIMEOUT  (30 * NS_PER_SEC)
/* Of a pass, besides its data and a turn to the target and back. */
#define PASS_OVERHEAD  (2 * NS_PER_MS)
#define FINAL_PASSES   8
/* Blocks that are written over and over are left to the last pass, as long as they take no more than this part of the downtime. */
#define PUT_OFF_SHARE  8
#define FADE           0.5 /* of what is remembered of passes, with each new one */

static void pass_done(void *data)
{
    struct source *s = data;

    loop_wake(s->loop);
}

/* Past its server, when that is of this host: one copy of every octet less, and the server has time for the guest. The page cache is the
 * server's too, so that a plain file is read through it. */
static bool open_past_server(struct mirror_source_config *c, uint64_t size)
{
    struct blockdev *dev;
    char path[64];

    if (!c->tracker || !c->tracker->ops->backing || c->tracker->ops->backing(c->tracker, path, sizeof(path), NULL) < 0 ||
        blockdev_open(&dev, path, 0, NULL) < 0)
        return false;
    if (dev->size != size) {
        blockdev_close(dev);
        return false;
    }
    c->dev = dev;
    return true;
}

static int open_disk(struct source *s, unsigned int i, struct err *err)
{
    const struct hv_disk *d = &s->guest->disks[i];
    struct mirror_source_config *c = &s->opened[i];
    int r = d->read_only ? 0 : tracker_open(&c->tracker, d->path, err);

    if (r == 0 && !open_past_server(c, d->size))
        r = blockdev_open(&c->dev, d->path, BLOCKDEV_DIRECT, err);
    if (r < 0)
        return r;
    if (c->dev->size != d->size)
        return err_set(err, -EIO, "%s has %llu octets now, it had %llu", d->label, (unsigned long long)c->dev->size,
                       (unsigned long long)d->size);
    return 0;
}

static int open_disks(struct source *s, struct err *err)
{
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        int r = open_disk(s, i, err);

        if (r < 0)
            return err_prefix(err, r, "disk %s", s->guest->disks[i].vbd);
    }
    return 0;
}

static void *open_thread(void *data)
{
    struct source *s = data;
    uint64_t begin = clock_now();

    s->opening.result = open_disks(s, &s->opening.err);
    s->opening.ns = clock_now() - begin;
    atomic_store(&s->opening.done, true);
    loop_wake(s->loop);
    return NULL;
}

int source_disks_open(struct source *s, struct err *err)
{
    if (pthread_create(&s->opening.thread, NULL, open_thread, s))
        return err_set(err, -EAGAIN, "no thread to open the disks");
    s->opening.runs = true;
    return 0;
}

bool source_disks_opened(struct source *s)
{
    return atomic_load(&s->opening.done);
}

int source_disks_open_result(struct source *s, struct err *err)
{
    if (s->opening.result < 0)
        *err = s->opening.err;
    return s->opening.result;
}

int source_disks_create(struct source *s, struct err *err)
{
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        struct mirror_source_config c = s->opened[i];
        int r;

        c.index = (uint16_t)i;
        c.reuse = source_reuses(s, i);
        c.stream = s->stream;
        c.pass_done = pass_done;
        c.data = s;
        s->opened[i] = (struct mirror_source_config){0}; /* taken over, also on failure */
        r = mirror_source_create(&s->disks[i], &c, err);
        if (r < 0)
            return err_prefix(err, r, "disk %s", s->guest->disks[i].vbd);
    }
    return 0;
}

void source_disks_open_end(struct source *s)
{
    if (s->opening.runs)
        (void)pthread_join(s->opening.thread, NULL);
    s->opening.runs = false;
}

void source_disks_finish(struct source *s)
{
    for (unsigned int i = 0; i < HV_DISKS_MAX; i++) {
        mirror_source_destroy(s->disks[i]);
        tracker_destroy(s->opened[i].tracker);
        blockdev_close(s->opened[i].dev);
    }
}

int source_disks_begin(struct source *s, struct err *err)
{
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        int r = mirror_source_begin_bulk(s->disks[i], err);

        if (r < 0)
            return err_prefix(err, r, "disk %s", s->guest->disks[i].vbd);
    }
    return 0;
}

/* The mean rate since the beginning, for a disk that had no pass yet: waiting is in it, so it promises too little rather than too much. */
static double mean_ns_per_octet(const struct source *s)
{
    uint64_t carried = s->wire_bytes_before + (s->stream ? stream_bytes_sent(s->stream) : 0);

    return (double)(clock_now() - s->times.begin) / (double)MAX(carried, MIB(1));
}

static uint64_t pass_overhead(const struct source *s)
{
    return PASS_OVERHEAD + s->round_trip_ns;
}

/* A small pass takes mostly its overhead, of which at most half is taken for that: what it says of large ones is too much, until there is
 * one. */
static double ns_per_octet(const struct source *s, unsigned int i)
{
    return s->disk_passes[i].octets > 0 ? s->disk_passes[i].ns / s->disk_passes[i].octets : mean_ns_per_octet(s);
}

/* What is marked, or under way, and what is put off, which may be marked too. */
static uint64_t dirty_ns(struct source *s, unsigned int i)
{
    uint64_t left = mirror_source_dirty(s->disks[i]);
    struct mirror_source_stats st;

    mirror_source_stats(s->disks[i], &st);
    if (!mirror_source_idle(s->disks[i]))
        left += st.pass_total - MIN(st.pass_total, st.pass_done);
    return (uint64_t)((double)left * ns_per_octet(s, i));
}

/* A pass over marks has ended: what an octet of it took. Marked blocks are small and scattered, so the bulk copy says nothing of that. */
static void learn_from_pass(struct source *s, unsigned int i, uint64_t now)
{
    uint64_t took = now - s->disk_pass_begun_ns[i];
    struct mirror_source_stats st;

    if (!s->disk_pass_begun_ns[i])
        return;
    mirror_source_stats(s->disks[i], &st);
    s->disk_pass_ended_ns[i] = now;
    s->disk_passes[i].ns = FADE * s->disk_passes[i].ns + (double)(took - MIN(took / 2, pass_overhead(s)));
    s->disk_passes[i].octets = FADE * s->disk_passes[i].octets + (double)st.pass_total;
    s->disk_pass_begun_ns[i] = 0;
}

static void put_off(struct source *s, unsigned int i)
{
    double ns = (double)(s->config->limits.downtime_ns / PUT_OFF_SHARE) / s->guest->disk_count;

    mirror_source_put_off(s->disks[i], (uint64_t)MIN(ns / ns_per_octet(s, i), (double)s->guest->disks[i].size));
}

/* Between two turns its pass may have gone on, or ended. */
static int look_at_disk(struct source *s, unsigned int i, uint64_t now, struct err *err)
{
    int r = mirror_source_check(s->disks[i], err);

    if (r < 0)
        return r;
    mirror_source_absorb(s->disks[i]);
    if (!mirror_source_idle(s->disks[i]))
        return 0;
    if (!s->disk_bulk_done[i]) {
        s->disk_bulk_done[i] = true;
        s->disk_pass_ended_ns[i] = now;
    }
    learn_from_pass(s, i, now);
    return 0;
}

static int begin_pass(struct source *s, unsigned int i, uint64_t now, struct err *err)
{
    uint64_t blocks;
    int r;

    put_off(s, i);
    /* A guest that was told to stop does not wait for a disk that is copied anew. */
    r = mirror_source_begin_pass(s->disks[i], s->times.suspend_begin != 0, &blocks, err);
    if (r < 0)
        return r;
    s->disk_pass_ended_ns[i] = now; /* if there was nothing to send */
    if (blocks)
        s->disk_pass_begun_ns[i] = now;
    return 0;
}

/* Of this part of the downtime, what each disk may take: they share one link. */
static uint64_t share_ns(const struct source *s, unsigned int part)
{
    uint64_t ns = s->config->limits.downtime_ns / part;

    return (ns - MIN(ns, pass_overhead(s))) / s->guest->disk_count;
}

/* What each disk's marks would take, and all of it. UINT64_MAX while the bulk copy of a disk is under way: nothing is known of it yet. */
static uint64_t tail_ns(struct source *s, uint64_t ret_each[HV_DISKS_MAX])
{
    uint64_t sum = s->guest->disk_count ? pass_overhead(s) : 0;

    if (!source_disks_bulk_done(s))
        return UINT64_MAX;
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        ret_each[i] = dirty_ns(s, i);
        sum += ret_each[i];
    }
    return sum;
}

/* `ns`: what its marks would take. What is put off makes no pass due that rests. */
static bool is_due(const struct source *s, unsigned int i, uint64_t ns, uint64_t tail, uint64_t now)
{
    bool rested = now - s->disk_pass_ended_ns[i] >= PASS_INTERVAL;
    uint64_t put_off_ns = (uint64_t)((double)mirror_source_is_put_off(s->disks[i]) * ns_per_octet(s, i));

    if (tail == UINT64_MAX)
        return rested;
    if (tail > s->config->limits.downtime_ns / STOP_SHARE && ns > share_ns(s, STOP_SHARE))
        return true;
    return rested && ns - MIN(ns, put_off_ns) > share_ns(s, PASS_SHARE);
}

int source_disks_drive(struct source *s, struct err *err)
{
    uint64_t now = clock_now();
    uint64_t each[HV_DISKS_MAX] = {0};
    uint64_t tail;
    int r;

    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        r = s->disks[i] ? look_at_disk(s, i, now, err) : 0;
        if (r < 0)
            return err_prefix(err, r, "disk %s", s->guest->disks[i].vbd);
    }
    if (s->disks_final)
        return 0;
    tail = tail_ns(s, each);
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        if (!s->disks[i] || !mirror_source_idle(s->disks[i]) || !is_due(s, i, each[i], tail, now))
            continue;
        r = begin_pass(s, i, now, err);
        if (r < 0)
            return err_prefix(err, r, "disk %s", s->guest->disks[i].vbd);
    }
    return 0;
}

bool source_disks_bulk_done(struct source *s)
{
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        if (!s->disk_bulk_done[i])
            return false;
    }
    return true;
}

bool source_disks_idle(struct source *s)
{
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        if (!mirror_source_idle(s->disks[i]))
            return false;
    }
    return true;
}

uint64_t source_disks_tail_ns(struct source *s)
{
    uint64_t each[HV_DISKS_MAX];

    return tail_ns(s, each);
}

int source_disks_drain(struct source *s, struct err *err)
{
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        int r = mirror_source_drain(s->disks[i], DRAIN_TIMEOUT, err);

        if (r < 0)
            return err_prefix(err, r, "disk %s", s->guest->disks[i].vbd);
    }
    return 0;
}

/* Begins a pass on every disk that has marks. *ret_blocks: of all. */
static int begin_all(struct source *s, uint64_t *ret_blocks, struct err *err)
{
    *ret_blocks = 0;
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        uint64_t blocks;
        int r = mirror_source_begin_pass(s->disks[i], true, &blocks, err);

        if (r < 0)
            return err_prefix(err, r, "disk %s", s->guest->disks[i].vbd);
        *ret_blocks += blocks;
    }
    return 0;
}

int source_disks_final(struct source *s, struct err *err)
{
    uint64_t blocks = 0;
    int r;

    for (unsigned int pass = 0; pass < FINAL_PASSES; pass++) {
        r = source_wait(s, source_disks_idle, err);
        if (r == 0)
            r = begin_all(s, &blocks, err);
        if (r < 0)
            return r;
        if (blocks == 0 && source_disks_idle(s))
            break;
    }
    if (blocks)
        return err_set(err, -EIO, "the guest stands still, but its disks are still written to by somebody else");
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        r = mirror_source_audit(s->disks[i], err);
        if (r < 0)
            return err_prefix(err, r, "disk %s", s->guest->disks[i].vbd);
    }
    return 0;
}

json_t *source_disks_digests(struct source *s)
{
    json_t *all = json_array();

    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        char hex[17];

        (void)snprintf(hex, sizeof(hex), "%016llx", (unsigned long long)mirror_source_digest(s->disks[i]));
        json_array_append_new(all, json_pack("{s:s, s:s}", "vbd", s->guest->disks[i].vbd, "digest", hex));
    }
    return all;
}
