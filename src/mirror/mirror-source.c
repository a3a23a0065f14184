/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The passes of one disk: when they begin, and what they are over. What their records carry: mirror-record.c. */
#include "mirror/mirror-source.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "mirror/mirror-source-internal.h"

#include <assert.h>
#include <stdlib.h>

#define AREA         "mirror.source"
#define RESTARTS_MAX 3
/* Marks are absorbed as often as a disk's size allows: a look through them takes 10 ms for each TiB. */
#define ABSORB_INTERVAL (50 * NS_PER_MS)
#define ABSORB_SHARE    32

int mirror_source_create(struct mirror_source **ret, const struct mirror_source_config *config, struct err *err)
{
    struct mirror_source *m = calloc(1, sizeof(*m));

    if (!m) {
        tracker_destroy(config->tracker);
        blockdev_close(config->dev);
        return err_set(err, -ENOMEM, "out of memory");
    }
    m->config = *config;
    m->dev = config->dev;
    m->tracker = config->tracker;
    m->stats.size = m->dev->size;
    pthread_mutex_init(&m->lock, NULL);
    if (bitmap_init(&m->todo, DIV_ROUND_UP(m->dev->size, TRACKER_GRANULARITY)) < 0 ||
        bitmap_init(&m->later, DIV_ROUND_UP(m->dev->size, TRACKER_GRANULARITY)) < 0 || chain_init(&m->chain, m->dev->size) < 0) {
        mirror_source_destroy(m);
        return err_set(err, -ENOMEM, "out of memory for the bitmaps of a disk of %llu octets",
                       (unsigned long long)config->dev->size);
    }
    *ret = m;
    return stream_attach(config->stream, &mirror_source_ops, m, err);
}

void mirror_source_destroy(struct mirror_source *m)
{
    if (!m)
        return;
    tracker_destroy(m->tracker);
    blockdev_close(m->dev);
    bitmap_finish(&m->todo);
    bitmap_finish(&m->later);
    chain_finish(&m->chain);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static void begin(struct mirror_source *m, enum mirror_pass kind, uint64_t octets)
{
    m->cursor = 0;
    m->postponing = kind != MIRROR_DIRTY;
    m->postponed = false;
    m->extent_from = m->extent_end = 0;
    m->kind = kind;
    m->active = true;
    m->stats.passes++;
    m->stats.pass_total = MIN(octets, m->dev->size);
    m->stats.pass_done = 0;
    pthread_mutex_unlock(&m->lock);
    stream_kick(m->config.stream);
}

int mirror_source_begin_bulk(struct mirror_source *m, struct err *err)
{
    uint64_t blocks;
    int r;

    if (m->stats.passes && !m->forgotten)
        return 0;
    if (m->tracker) {
        r = m->tracker->ops->collect(m->tracker, &m->todo, &blocks, err);
        if (r == -EIO) /* what may be lost so far is read now anyhow */
            r = m->tracker->ops->reset(m->tracker, err);
        if (r < 0)
            return r;
    }
    pthread_mutex_lock(&m->lock);
    assert(!m->active && m->in_flight == 0);
    m->forgotten = false;
    hot_blocks_give_back(&m->hot, &m->todo);
    m->alone = false;
    regions_init(&m->regions, &m->todo);
    bitmap_set_all(&m->todo);
    m->absorb_ns = clock_now() + ABSORB_INTERVAL;
    begin(m, m->config.reuse ? MIRROR_OFFER : MIRROR_BULK, m->dev->size);
    return 0;
}

/* Marks may have been lost: nothing of the disk is known any more. */
static int start_anew(struct mirror_source *m, uint64_t *ret_blocks, struct err *err)
{
    struct err why = *err;
    int r;

    if (m->restarts == RESTARTS_MAX)
        return err_prefix(err, -EIO, "after %d copies from the beginning", RESTARTS_MAX);
    m->restarts++;
    log_warn(AREA, "disk %u is copied anew: %s", m->config.index, why.text);
    r = m->tracker->ops->reset(m->tracker, err);
    if (r < 0)
        return r;
    bitmap_set_all(&m->todo);
    *ret_blocks = m->todo.bits;
    return 0;
}

static bool reads_all(struct mirror_source *m)
{
    bool all;

    pthread_mutex_lock(&m->lock);
    all = m->active && m->kind != MIRROR_DIRTY;
    pthread_mutex_unlock(&m->lock);
    return all;
}

/* Marks were taken into `later`: those of blocks that are still to be read are dropped. */
static void drop_ahead(struct mirror_source *m)
{
    uint64_t blocks;

    /* A hole that was known before may have been written to. */
    pthread_mutex_lock(&m->lock);
    m->extent_from = m->extent_end = 0;
    m->has_later = true;
    pthread_mutex_unlock(&m->lock);
    /* Workers go on meanwhile: a block that is still in todo is claimed after its mark was taken, and read after that. */
    regions_note(&m->regions, &m->later);
    blocks = bitmap_subtract(&m->later, &m->todo);
    pthread_mutex_lock(&m->lock);
    m->later_octets = blocks * TRACKER_GRANULARITY;
    pthread_mutex_unlock(&m->lock);
}

void mirror_source_absorb(struct mirror_source *m)
{
    uint64_t begin = clock_now();
    struct err ignored; /* what is wrong with the marks is told when the next pass takes them */
    uint64_t blocks;

    if (!m->tracker || begin < m->absorb_ns || !reads_all(m) || m->tracker->ops->collect(m->tracker, &m->later, &blocks, &ignored) < 0)
        return;
    if (blocks)
        drop_ahead(m);
    m->absorb_ns = clock_now() + MAX(ABSORB_INTERVAL, (clock_now() - begin) * ABSORB_SHARE);
}

/* What was left for later joins the pass. *ret_blocks: of the whole pass. */
static void take_later(struct mirror_source *m, uint64_t *ret_blocks)
{
    pthread_mutex_lock(&m->lock);
    if (m->has_later) {
        (void)bitmap_take(&m->todo, m->later.words);
        m->has_later = false;
        m->later_octets = 0;
        *ret_blocks = bitmap_count(&m->todo);
    }
    pthread_mutex_unlock(&m->lock);
}

/* The last pass has all that was put off. */
static void sift(struct mirror_source *m, bool last, uint64_t *ret_blocks)
{
    if (last) {
        *ret_blocks += m->hot.put_off;
        hot_blocks_give_back(&m->hot, &m->todo);
    } else if (m->put_off_most || m->hot.count) {
        *ret_blocks = hot_blocks_sift(&m->hot, &m->todo, m->put_off_most / TRACKER_GRANULARITY);
    }
}

void mirror_source_put_off(struct mirror_source *m, uint64_t most)
{
    m->put_off_most = most;
}

uint64_t mirror_source_is_put_off(const struct mirror_source *m)
{
    return m->hot.put_off * TRACKER_GRANULARITY;
}

int mirror_source_begin_pass(struct mirror_source *m, bool last, uint64_t *ret_blocks, struct err *err)
{
    uint64_t first;
    int r = 0;

    *ret_blocks = 0;
    assert(mirror_source_idle(m) && !m->forgotten);
    if (m->tracker)
        r = m->tracker->ops->collect(m->tracker, &m->todo, ret_blocks, err);
    if (r == -EIO && !last)
        r = start_anew(m, ret_blocks, err);
    if (r < 0)
        return r;
    take_later(m, ret_blocks);
    sift(m, last, ret_blocks);
    if (*ret_blocks == 0 && !bitmap_next_run(&m->todo, 0, 1, &first))
        return 0;
    log_debug(AREA, "disk %u: pass over %llu blocks", m->config.index, (unsigned long long)*ret_blocks);
    pthread_mutex_lock(&m->lock);
    assert(!m->active && m->in_flight == 0);
    m->alone = last;
    begin(m, MIRROR_DIRTY, *ret_blocks * TRACKER_GRANULARITY);
    return 0;
}

int mirror_source_attach(struct mirror_source *m, struct stream *stream, struct err *err)
{
    int r = 0;

    assert(m->in_flight == 0);
    m->config.stream = stream;
    m->alone = false; /* the guest went on meanwhile */
    if (m->forgotten)
        r = mirror_source_begin_bulk(m, err);
    return r < 0 ? r : stream_attach(stream, &mirror_source_ops, m, err);
}

void mirror_source_forget(struct mirror_source *m)
{
    assert(m->in_flight == 0);
    m->active = false;
    m->forgotten = m->stats.passes != 0;
    m->config.reuse = true;
    chain_reset(&m->chain);
    bitmap_clear_run(&m->later, 0, m->later.bits);
    m->has_later = false;
    m->later_octets = 0;
}

int mirror_source_check(struct mirror_source *m, struct err *err)
{
    return m->tracker && m->tracker->ops->check ? m->tracker->ops->check(m->tracker, err) : 0;
}

bool mirror_source_idle(struct mirror_source *m)
{
    bool idle;

    pthread_mutex_lock(&m->lock);
    idle = !m->active;
    pthread_mutex_unlock(&m->lock);
    return idle;
}

uint64_t mirror_source_dirty(struct mirror_source *m)
{
    uint64_t octets = m->tracker ? m->tracker->ops->count(m->tracker) * TRACKER_GRANULARITY : 0;

    pthread_mutex_lock(&m->lock);
    octets += m->later_octets + mirror_source_is_put_off(m);
    pthread_mutex_unlock(&m->lock);
    return octets;
}

int mirror_source_drain(struct mirror_source *m, uint64_t timeout_ns, struct err *err)
{
    return m->tracker ? m->tracker->ops->drain(m->tracker, timeout_ns, err) : 0;
}

int mirror_source_audit(struct mirror_source *m, struct err *err)
{
    return m->tracker ? m->tracker->ops->audit(m->tracker, err) : 0;
}

uint64_t mirror_source_digest(struct mirror_source *m)
{
    assert(mirror_source_idle(m) && !m->hot.put_off);
    return chain_digest(&m->chain);
}

void mirror_source_stats(struct mirror_source *m, struct mirror_source_stats *ret)
{
    pthread_mutex_lock(&m->lock);
    *ret = m->stats;
    pthread_mutex_unlock(&m->lock);
}
