/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/mirror-source.h"

#include "base/bytes.h"
#include "base/log.h"
#include "base/zero.h"
#include "mirror/chain.h"
#include "transport/wire.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <xxhash.h>

#define AREA            "mirror.source"
#define CHUNK           ((uint64_t)WIRE_DISK_BLOCK_MAX)
#define CHUNK_BITS      (CHUNK / TRACKER_GRANULARITY)
#define RECORD_CHUNKS   4u /* chunks of a record while they are whole: 256 KiB reads */
#define RECORD_SPARSE   32u /* and at most this many when little of each is dirty */
#define RUNS_MAX        (RECORD_SPARSE * CHUNK_BITS / 2)
#define RESTARTS_MAX    3

_Static_assert(RUNS_MAX <= WIRE_DISK_BLOCKS_MAX, "a record can hold all runs of its chunks");

struct mirror_source {
    struct mirror_source_config config;
    struct blockdev *dev;
    struct tracker *tracker;
    struct chain chain;

    pthread_mutex_t lock;
    struct bitmap todo;       /* blocks of this pass that were not claimed yet */
    uint64_t cursor;          /* first block that may still be in todo */
    uint64_t in_flight;       /* records claimed and not acknowledged */
    bool active;              /* a pass is under way */
    bool bulk;                /* zeroes need not be sent */
    int restarts;             /* copies from the beginning because marks may have been lost */
    uint64_t hole_end;        /* bulk: extents are known up to this octet */
    struct mirror_source_stats stats;
};

/* What one record is to carry: runs of dirty octets, each inside one chunk. */
struct claim {
    struct {
        uint64_t offset;
        uint32_t length;
    } runs[RUNS_MAX];
    uint32_t count;
    uint64_t octets;
    uint64_t first_block;
    uint64_t end_block;
};

/* Bulk: clears todo over known holes, so that they are neither read nor sent. Called with the lock held. */
static int skip_holes(struct mirror_source *m, struct err *err)
{
    while (m->bulk && m->cursor * TRACKER_GRANULARITY < m->dev->size) {
        uint64_t offset = MAX(m->cursor * TRACKER_GRANULARITY, m->hole_end);
        uint64_t length;
        uint64_t from;
        uint64_t to;
        bool zero;
        int r;

        if (m->hole_end > m->cursor * TRACKER_GRANULARITY || offset >= m->dev->size)
            return 0;
        r = m->dev->ops->extent(m->dev, offset, &length, &zero, err);
        if (r < 0)
            return r;
        m->hole_end = offset + length;
        if (!zero)
            return 0;
        from = DIV_ROUND_UP(offset, TRACKER_GRANULARITY);
        to = m->hole_end == m->dev->size ? m->todo.bits : m->hole_end / TRACKER_GRANULARITY;
        if (to <= from)
            return 0;
        bitmap_clear_run(&m->todo, from, to - from);
        length = MIN(to * TRACKER_GRANULARITY, m->dev->size) - from * TRACKER_GRANULARITY; /* whole blocks of it */
        m->stats.zeroes += length;
        m->stats.pass_done += length;
        m->cursor = to;
    }
    return 0;
}

/* Claims all set bits of one chunk. */
static void claim_chunk(struct mirror_source *m, struct claim *c, uint64_t chunk)
{
    uint64_t end = MIN((chunk + 1) * CHUNK_BITS, m->todo.bits);
    uint64_t at = chunk * CHUNK_BITS;
    uint64_t first;
    uint64_t n;

    while (at < end && (n = bitmap_next_run(&m->todo, at, end - at, &first)) && first < end) {
        uint64_t offset = first * TRACKER_GRANULARITY;

        n = MIN(n, end - first);
        bitmap_clear_run(&m->todo, first, n);
        c->runs[c->count].offset = offset;
        c->runs[c->count].length = (uint32_t)(MIN(offset + n * TRACKER_GRANULARITY, m->dev->size) - offset);
        c->octets += c->runs[c->count].length;
        c->count++;
        at = first + n;
    }
    c->end_block = end;
    m->cursor = end;
}

/* Claims the next chunks of the pass for one record. -EAGAIN: there is none. */
static int claim_record(struct mirror_source *m, struct claim *c, struct err *err)
{
    uint64_t first;
    int r;

    c->count = 0;
    c->octets = 0;
    for (unsigned int chunks = 0; chunks < RECORD_SPARSE && c->octets < RECORD_CHUNKS * CHUNK; chunks++) {
        r = skip_holes(m, err);
        if (r < 0)
            return r;
        if (!bitmap_next_run(&m->todo, m->cursor, 1, &first))
            break;
        /* Only neighbours share a bulk record: large reads, and a hole ends the record. */
        if (m->bulk && c->count && first != c->end_block)
            break;
        if (!c->count)
            c->first_block = first;
        claim_chunk(m, c, first / CHUNK_BITS);
    }
    return c->count ? 0 : -EAGAIN;
}

static int read_runs(struct mirror_source *m, const struct claim *c, uint8_t *to, struct err *err)
{
    uint32_t i = 0;

    while (i < c->count) {
        uint64_t offset = c->runs[i].offset;
        uint64_t length = 0;
        int r;

        for (; i < c->count && c->runs[i].offset == offset + length; i++)
            length += c->runs[i].length;
        r = m->dev->ops->pread(m->dev, to, length, offset, err);
        if (r < 0)
            return r;
        to += length;
    }
    return 0;
}

/* A record in the making: blocks described, payload closed up in place where zeroes left it. */
struct draft {
    uint8_t *blocks;
    uint32_t count;
    uint8_t *payload_end;
    uint64_t zeroes;
};

static void describe(struct mirror_source *m, struct draft *d, const uint8_t *from, uint64_t offset, uint32_t length,
                     bool zero)
{
    struct wire_disk_block b = {.offset = offset, .length = length};

    if (zero) {
        d->zeroes += length;
        if (m->bulk)
            return;
        b.kind = WIRE_BLOCK_ZERO;
    } else {
        b.kind = WIRE_BLOCK_DATA;
        b.checksum = XXH3_64bits(from, length);
        if (d->payload_end != from)
            memmove(d->payload_end, from, length);
        d->payload_end += length;
    }
    chain_fold(&m->chain, &b);
    wire_put_disk_block(d->blocks + d->count * WIRE_DISK_BLOCK_SIZE, &b);
    d->count++;
}

/* Octets of `from` that are all zero, or all in tracker blocks that are not. */
static uint32_t same_kind(const uint8_t *from, uint32_t length, bool *ret_zero)
{
    uint32_t n = MIN(length, TRACKER_GRANULARITY);

    *ret_zero = is_zero(from, n);
    while (n < length) {
        uint32_t step = MIN(length - n, TRACKER_GRANULARITY);

        if (is_zero(from + n, step) != *ret_zero)
            break;
        n += step;
    }
    return n;
}

/* Describes each run with its checksum. In the bulk pass runs are whole chunks, few of them, and are taken apart, so that the
 * zeroes of a chunk are not written; a later pass has many small runs, each of them one block. */
static void describe_runs(struct mirror_source *m, const struct claim *c, const uint8_t *from, struct draft *d)
{
    for (uint32_t i = 0; i < c->count; i++) {
        uint64_t offset = c->runs[i].offset;
        uint32_t left = c->runs[i].length;

        while (left) {
            bool zero;
            uint32_t n = m->bulk ? same_kind(from, left, &zero) : left;

            if (!m->bulk)
                zero = is_zero(from, left);
            describe(m, d, from, offset, n, zero);
            from += n;
            offset += n;
            left -= n;
        }
    }
}

static void claim_finished(struct mirror_source *m, uint64_t octets, uint64_t zeroes, bool sent)
{
    bool pass_done;
    uint64_t first;

    pthread_mutex_lock(&m->lock);
    assert(m->in_flight > 0);
    m->in_flight--;
    if (sent) {
        m->stats.sent += octets - zeroes;
        m->stats.zeroes += zeroes;
        m->stats.pass_done += octets;
    }
    pass_done = m->active && m->in_flight == 0 && !bitmap_next_run(&m->todo, m->cursor, 1, &first);
    if (pass_done)
        m->active = false;
    pthread_mutex_unlock(&m->lock);
    if (pass_done)
        m->config.pass_done(m->config.data);
}

/* More than the record held may be marked: harmless. */
static void mark_again(struct mirror_source *m, uint64_t first, uint64_t end)
{
    pthread_mutex_lock(&m->lock);
    bitmap_set_run(&m->todo, first, end - first);
    m->cursor = MIN(m->cursor, first);
    pthread_mutex_unlock(&m->lock);
}

static void put_record(struct mirror_source *m, struct stream_work *work, uint32_t blocks, uint32_t raw)
{
    struct wire_disk_head head = {.disk = m->config.index, .block_count = blocks, .raw_length = raw};

    work->type = WIRE_DISK_DATA;
    head.encoding = (uint16_t)stream_work_payload(work, WIRE_DISK_HEAD_SIZE + blocks * WIRE_DISK_BLOCK_SIZE, raw,
                                                  m->config.zstd, &head.encoded_length);
    wire_put_disk_head(work->buffer, &head);
}

static int source_take(void *source, struct stream_work *work, struct err *err)
{
    struct mirror_source *m = source;
    struct claim c;
    struct draft d;
    int r;

    for (;;) {
        bool ended;

        pthread_mutex_lock(&m->lock);
        r = m->active ? claim_record(m, &c, err) : -EAGAIN;
        if (r == 0)
            m->in_flight++;
        ended = r == -EAGAIN && m->active && m->in_flight == 0;
        if (ended)
            m->active = false;
        pthread_mutex_unlock(&m->lock);
        if (ended)
            m->config.pass_done(m->config.data);
        if (r < 0)
            return r;
        r = read_runs(m, &c, work->scratch, err);
        if (r < 0) {
            mark_again(m, c.first_block, c.end_block);
            claim_finished(m, 0, 0, false);
            return r;
        }
        d = (struct draft){.blocks = work->buffer + WIRE_DISK_HEAD_SIZE, .payload_end = work->scratch};
        describe_runs(m, &c, work->scratch, &d);
        if (d.count)
            break;
        claim_finished(m, c.octets, c.octets, true); /* bulk, nothing but zeroes */
    }
    put_record(m, work, d.count, (uint32_t)(d.payload_end - work->scratch));
    work->cookie[0] = c.first_block;
    work->cookie[1] = c.end_block;
    work->cookie[2] = c.octets;
    work->cookie[3] = d.zeroes;
    return 0;
}

static void source_done(void *source, const struct stream_work *work, int error)
{
    struct mirror_source *m = source;

    if (error)
        mark_again(m, work->cookie[0], work->cookie[1]);
    claim_finished(m, work->cookie[2], work->cookie[3], error == 0);
}

static const struct stream_source_ops source_ops = {
    .name = "disk",
    .take = source_take,
    .done = source_done,
};

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
        chain_init(&m->chain, m->dev->size) < 0) {
        mirror_source_destroy(m);
        return err_set(err, -ENOMEM, "out of memory for the bitmaps of a disk of %llu octets",
                       (unsigned long long)config->dev->size);
    }
    *ret = m;
    return stream_attach(config->stream, &source_ops, m, err);
}

void mirror_source_destroy(struct mirror_source *m)
{
    if (!m)
        return;
    tracker_destroy(m->tracker);
    blockdev_close(m->dev);
    bitmap_finish(&m->todo);
    chain_finish(&m->chain);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

static void begin(struct mirror_source *m, bool bulk, uint64_t octets)
{
    m->cursor = 0;
    m->hole_end = 0;
    m->bulk = bulk;
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

    if (m->tracker) {
        r = m->tracker->ops->collect(m->tracker, &m->todo, &blocks, err);
        if (r == -EIO) /* what may be lost so far is read now anyhow */
            r = m->tracker->ops->reset(m->tracker, err);
        if (r < 0)
            return r;
    }
    pthread_mutex_lock(&m->lock);
    assert(!m->active && m->in_flight == 0 && m->stats.passes == 0);
    bitmap_set_all(&m->todo);
    begin(m, true, m->dev->size);
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

int mirror_source_begin_pass(struct mirror_source *m, bool last, uint64_t *ret_blocks, struct err *err)
{
    uint64_t first;
    int r;

    *ret_blocks = 0;
    if (!m->tracker)
        return 0;
    assert(mirror_source_idle(m));
    r = m->tracker->ops->collect(m->tracker, &m->todo, ret_blocks, err);
    if (r == -EIO && !last)
        r = start_anew(m, ret_blocks, err);
    if (r < 0)
        return r;
    if (*ret_blocks == 0 && !bitmap_next_run(&m->todo, 0, 1, &first))
        return 0;
    log_debug(AREA, "disk %u: pass over %llu blocks", m->config.index, (unsigned long long)*ret_blocks);
    pthread_mutex_lock(&m->lock);
    assert(!m->active && m->in_flight == 0);
    begin(m, false, *ret_blocks * TRACKER_GRANULARITY);
    return 0;
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
    return m->tracker ? m->tracker->ops->count(m->tracker) * TRACKER_GRANULARITY : 0;
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
    assert(mirror_source_idle(m));
    return chain_digest(&m->chain);
}

void mirror_source_stats(struct mirror_source *m, struct mirror_source_stats *ret)
{
    pthread_mutex_lock(&m->lock);
    *ret = m->stats;
    pthread_mutex_unlock(&m->lock);
}
