/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One record of a disk: which blocks it claims, how they are read and described, and what its end means for them. */
#include "base/bytes.h"
#include "base/checksum.h"
#include "base/zero.h"
#include "mirror/mirror-source-internal.h"
#include "transport/wire.h"

#include <assert.h>
#include <stdlib.h>

#define CHUNK_BITS      (MIRROR_CHUNK / TRACKER_GRANULARITY)
#define RECORD_CHUNKS   4u /* chunks of a record while they are whole: 256 KiB reads */
#define RECORD_SPARSE   32u /* and at most this many when little of each is dirty */
#define RUNS_MAX        (RECORD_SPARSE * CHUNK_BITS / 2)
#define OFFER_CHUNKS    16u /* of a record that are read, and that the target may have to read */
#define OFFER_HOLES     64u /* of one, with known holes */
#define OFFER_READ      KIB(256) /* at once, to be still in the processor's cache when it is summed */

_Static_assert(RUNS_MAX <= WIRE_DISK_BLOCKS_MAX, "a record can hold all runs of its chunks");

/* What one record is to carry: runs of dirty octets, each inside one chunk. */
struct claim {
    struct {
        uint64_t offset;
        uint32_t length;
        bool hole; /* offers: known to be zeroes without being read */
    } runs[RUNS_MAX];
    uint32_t count;
    uint64_t octets;
};

/* The extent around `offset`. Called with the lock held. */
static int know_extent(struct mirror_source *m, uint64_t offset, struct err *err)
{
    uint64_t length;
    int r;

    if (offset >= m->extent_from && offset < m->extent_end)
        return 0;
    r = m->dev->ops->extent(m->dev, offset, &length, &m->extent_zero, err);
    if (r < 0)
        return r;
    m->extent_from = offset;
    m->extent_end = offset + length;
    return 0;
}

/* The blocks from `first` on that lie in one extent; those of a hole are neither read nor sent. *ret_end: the block behind them.
 * Called with the lock held. */
static int pass_extent(struct mirror_source *m, uint64_t first, uint64_t *ret_end, bool *ret_hole, struct err *err)
{
    uint64_t length;
    int r = know_extent(m, first * TRACKER_GRANULARITY, err);

    if (r < 0)
        return r;
    *ret_end = m->extent_end == m->dev->size ? m->todo.bits : m->extent_end / TRACKER_GRANULARITY;
    *ret_hole = m->extent_zero && *ret_end > first;
    if (!*ret_hole) {
        *ret_end = DIV_ROUND_UP(m->extent_end, TRACKER_GRANULARITY);
        return 0;
    }
    /* Not what was looked at before. */
    for (uint64_t at = first, n; at < *ret_end && (n = bitmap_next_run(&m->todo, at, *ret_end - at, &at)) && at < *ret_end; at += n) {
        n = MIN(n, *ret_end - at);
        bitmap_clear_run(&m->todo, at, n);
        length = MIN((at + n) * TRACKER_GRANULARITY, m->dev->size) - at * TRACKER_GRANULARITY;
        m->stats.zeroes += length;
        m->stats.pass_done += length;
    }
    return 0;
}

/* Bulk: the cursor goes past known holes. Called with the lock held. */
static int skip_holes(struct mirror_source *m, struct err *err)
{
    while (m->kind == MIRROR_BULK && m->cursor < m->todo.bits) {
        bool hole;
        uint64_t end;
        int r = pass_extent(m, m->cursor, &end, &hole, err);

        if (r < 0 || !hole)
            return r;
        m->cursor = end;
    }
    return 0;
}

/* Moves the cursor to the next block of the pass; busy regions are its end. False: there is none. Called with the lock held. */
static bool next_block(struct mirror_source *m)
{
    for (;;) {
        uint64_t first;

        if (!bitmap_next_run(&m->todo, m->cursor, 1, &first)) {
            if (!m->postponed)
                return false;
            m->postponing = m->postponed = false;
            m->cursor = 0;
        } else if (m->postponing && regions_is_busy(&m->regions, first)) {
            m->postponed = true;
            m->cursor = regions_end(&m->regions, first);
        } else {
            m->cursor = first;
            return true;
        }
    }
}

/* The same, past known holes. -EAGAIN: there is none. */
static int next_to_read(struct mirror_source *m, struct err *err)
{
    uint64_t first;
    int r;

    do {
        if (!next_block(m))
            return -EAGAIN;
        first = m->cursor;
        r = skip_holes(m, err);
    } while (r == 0 && m->cursor != first);
    return r;
}

/* Claims all set bits of the cursor's chunk, but known holes of a bulk pass. Called with the lock held. */
static int claim_chunk(struct mirror_source *m, struct claim *c, struct err *err)
{
    uint64_t end = MIN((m->cursor / CHUNK_BITS + 1) * CHUNK_BITS, m->todo.bits);
    uint64_t at = m->cursor;
    uint64_t first;
    uint64_t n;
    bool hole;
    int r;

    while (m->kind == MIRROR_BULK && at < end) {
        r = pass_extent(m, at, &at, &hole, err);
        if (r < 0)
            return r;
    }
    at = m->cursor;
    while (at < end && (n = bitmap_next_run(&m->todo, at, end - at, &first)) && first < end) {
        uint64_t offset = first * TRACKER_GRANULARITY;

        n = MIN(n, end - first);
        bitmap_clear_run(&m->todo, first, n);
        c->runs[c->count].offset = offset;
        c->runs[c->count].hole = false;
        c->runs[c->count].length = (uint32_t)(MIN(offset + n * TRACKER_GRANULARITY, m->dev->size) - offset);
        c->octets += c->runs[c->count].length;
        c->count++;
        at = first + n;
    }
    m->cursor = end;
    return 0;
}

/* Claims whole chunks. Called with the lock held. */
static int claim_offers(struct mirror_source *m, struct claim *c, struct err *err)
{
    unsigned int to_read = 0;

    while (c->count < OFFER_HOLES && to_read < OFFER_CHUNKS && next_block(m)) {
        uint64_t offset = m->cursor / CHUNK_BITS * MIRROR_CHUNK;
        uint32_t length = (uint32_t)MIN(MIRROR_CHUNK, m->dev->size - offset);
        uint64_t end = MIN((m->cursor / CHUNK_BITS + 1) * CHUNK_BITS, m->todo.bits);
        int r = know_extent(m, offset, err);

        if (r < 0)
            return r;
        c->runs[c->count].offset = offset;
        c->runs[c->count].length = length;
        c->runs[c->count].hole = m->extent_zero && m->extent_end >= offset + length;
        to_read += !c->runs[c->count].hole;
        c->octets += length;
        c->count++;
        bitmap_clear_run(&m->todo, offset / TRACKER_GRANULARITY, end - offset / TRACKER_GRANULARITY);
        m->cursor = end;
    }
    return c->count ? 0 : -EAGAIN;
}

/* Claims the next chunks of the pass for one record. -EAGAIN: there is none. */
static int claim_record(struct mirror_source *m, struct claim *c, struct err *err)
{
    int r = 0;

    c->count = 0;
    c->octets = 0;
    if (m->kind == MIRROR_OFFER)
        return claim_offers(m, c, err);
    for (unsigned int chunks = 0; chunks < RECORD_SPARSE && c->octets < RECORD_CHUNKS * MIRROR_CHUNK; chunks++) {
        r = next_to_read(m, err);
        if (r == 0)
            r = claim_chunk(m, c, err);
        if (r < 0)
            break;
    }
    if (r < 0 && r != -EAGAIN)
        return r;
    return c->count ? 0 : -EAGAIN;
}

/* What our reads cost is told apart from what the guest's own do (care.h): as soon as they end, since the device's figures have them
 * then. */
static void reads_ended(void *data, uint32_t reads, uint64_t octets, uint64_t ns)
{
    struct mirror_source *m = data;

    pthread_mutex_lock(&m->lock);
    m->stats.reads += reads;
    m->stats.read_octets += octets;
    m->stats.read_ns += ns;
    pthread_mutex_unlock(&m->lock);
}

static int read_all(struct mirror_source *m, const struct blockdev_read *reads, uint32_t count, struct err *err)
{
    const struct blockdev_reader reader = {.ended = reads_ended, .data = m, .alone = m->alone};

    return blockdev_pread_many(m->dev, reads, count, &reader, err);
}

/* From run `i` on, neighbours that are read at once: `most` octets at most, but for one that is longer. Returns the first run behind. */
static uint32_t join_runs(const struct claim *c, uint32_t i, uint64_t most, uint8_t *to, struct blockdev_read *ret)
{
    uint64_t end = c->runs[i].offset + c->runs[i].length;

    *ret = (struct blockdev_read){.buf = to, .len = c->runs[i].length, .offset = c->runs[i].offset};
    for (i++; i < c->count && c->runs[i].offset == end && !c->runs[i].hole && ret->len + c->runs[i].length <= most; i++) {
        ret->len += c->runs[i].length;
        end += c->runs[i].length;
    }
    return i;
}

static int read_runs(struct mirror_source *m, const struct claim *c, uint8_t *to, struct err *err)
{
    struct blockdev_read reads[RUNS_MAX];
    uint32_t count = 0;

    for (uint32_t i = 0; i < c->count; count++) {
        i = join_runs(c, i, UINT64_MAX, to, &reads[count]);
        to += reads[count].len;
    }
    return read_all(m, reads, count, err);
}

/* A record in the making: blocks described, payload closed up in place where zeroes left it. */
struct draft {
    uint8_t *blocks;
    uint32_t count;
    uint8_t *payload_end;
    uint64_t left_out; /* octets of zeroes that are not described */
    uint64_t zeroes;   /* these, and the ones that are */
    bool offer;
};

static void describe(const struct mirror_source *m, struct draft *d, const uint8_t *from, uint64_t offset, uint32_t length,
                     bool zero)
{
    struct wire_disk_block b = {.offset = offset, .length = length};

    if (zero) {
        d->zeroes += length;
        if (m->kind == MIRROR_BULK) {
            d->left_out += length;
            return;
        }
        b.kind = WIRE_BLOCK_ZERO;
    } else {
        b.kind = WIRE_BLOCK_DATA;
        b.checksum = checksum(from, length);
        if (d->payload_end != from)
            memmove(d->payload_end, from, length);
        d->payload_end += length;
    }
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
static void describe_runs(const struct mirror_source *m, const struct claim *c, const uint8_t *from, struct draft *d)
{
    for (uint32_t i = 0; i < c->count; i++) {
        uint64_t offset = c->runs[i].offset;
        uint32_t left = c->runs[i].length;

        while (left) {
            bool zero;
            uint32_t n = m->kind == MIRROR_BULK ? same_kind(from, left, &zero) : left;

            if (m->kind != MIRROR_BULK)
                zero = is_zero(from, left);
            describe(m, d, from, offset, n, zero);
            from += n;
            offset += n;
            left -= n;
        }
    }
}

static void describe_offer(struct draft *d, uint64_t offset, uint32_t length, uint64_t sum)
{
    struct wire_disk_block b = {.offset = offset, .length = length, .kind = WIRE_BLOCK_KEEP, .checksum = sum};

    wire_put_disk_block(d->blocks + d->count * WIRE_DISK_BLOCK_SIZE, &b);
    d->count++;
}

/* Reads and sums; nothing that was read is kept. */
static int describe_offers(struct mirror_source *m, const struct claim *c, uint8_t *buffer, struct draft *d, struct err *err)
{
    uint32_t i = 0;

    while (i < c->count) {
        const uint8_t *from = buffer;
        struct blockdev_read piece;
        uint32_t end;
        int r;

        if (c->runs[i].hole) {
            describe_offer(d, c->runs[i].offset, c->runs[i].length, chain_zeroes(&m->chain, c->runs[i].length));
            i++;
            continue;
        }
        end = join_runs(c, i, OFFER_READ, buffer, &piece);
        r = read_all(m, &piece, 1, err);
        if (r < 0)
            return r;
        for (; i < end; from += c->runs[i++].length)
            describe_offer(d, c->runs[i].offset, c->runs[i].length, checksum(from, c->runs[i].length));
    }
    return 0;
}

/* A record that was given out: what its end means for the chains and the marks. Its blocks as on the wire. */
struct flight {
    uint64_t octets;   /* claimed */
    uint64_t left_out; /* of them: zeroes that the target has already */
    uint64_t zeroes;   /* of them: those, and the ones that are sent as such */
    bool offer;
    struct wire_need refused;
    uint32_t count;
    uint8_t blocks[];
};

static struct flight *flight_new(const struct claim *c, const struct draft *d)
{
    size_t size = (size_t)d->count * WIRE_DISK_BLOCK_SIZE;
    struct flight *f = malloc(sizeof(*f) + size);

    if (!f)
        return NULL;
    *f = (struct flight){.octets = c->octets, .left_out = d->left_out, .zeroes = d->zeroes, .offer = d->offer, .count = d->count};
    memcpy(f->blocks, d->blocks, size);
    return f;
}

static struct wire_disk_block flight_block(const struct flight *f, uint32_t i)
{
    struct wire_disk_block b;

    wire_get_disk_block(f->blocks + (size_t)i * WIRE_DISK_BLOCK_SIZE, &b);
    return b;
}

/* Called with the lock held. */
static void mark_again(struct mirror_source *m, uint64_t offset, uint32_t length)
{
    uint64_t first = offset / TRACKER_GRANULARITY;

    bitmap_set_run(&m->todo, first, DIV_ROUND_UP(offset + length, TRACKER_GRANULARITY) - first);
    m->cursor = MIN(m->cursor, first);
}

/* A record less is in flight, and so many octets of the pass are done with. Called with the lock, which it gives up. */
static void one_less(struct mirror_source *m, uint64_t octets)
{
    bool pass_done;

    assert(m->in_flight > 0);
    m->in_flight--;
    m->stats.pass_done += octets;
    pass_done = m->active && m->in_flight == 0 && !next_block(m);
    if (pass_done)
        m->active = false;
    pthread_mutex_unlock(&m->lock);
    if (pass_done)
        m->config.pass_done(m->config.data);
}

static void claim_failed(struct mirror_source *m, const struct claim *c)
{
    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < c->count; i++)
        mark_again(m, c->runs[i].offset, c->runs[i].length);
    one_less(m, 0);
}

static void put_record(struct mirror_source *m, struct stream_work *work, uint32_t blocks, uint32_t raw)
{
    struct wire_disk_head head = {.disk = m->config.index, .block_count = blocks, .raw_length = raw};

    work->type = WIRE_DISK_DATA;
    head.encoding = (uint16_t)stream_work_payload(work, WIRE_DISK_HEAD_SIZE + blocks * WIRE_DISK_BLOCK_SIZE, raw,
                                                  &head.encoded_length);
    wire_put_disk_head(work->buffer, &head);
}

/* -EAGAIN: nothing to claim, and then the pass may be at its end. */
static int claim_next(struct mirror_source *m, struct claim *c, struct err *err)
{
    bool ended;
    int r;

    pthread_mutex_lock(&m->lock);
    r = m->active ? claim_record(m, c, err) : -EAGAIN;
    if (r == 0)
        m->in_flight++;
    ended = r == -EAGAIN && m->active && m->in_flight == 0;
    if (ended)
        m->active = false;
    pthread_mutex_unlock(&m->lock);
    if (ended)
        m->config.pass_done(m->config.data);
    return r;
}

/* Reads and describes what was claimed. d->count 0: nothing but zeroes, which need not be sent. */
static int make_record(struct mirror_source *m, struct stream_work *work, const struct claim *c, struct draft *d,
                       struct err *err)
{
    struct flight *f;
    int r;

    *d = (struct draft){
        .blocks = work->buffer + WIRE_DISK_HEAD_SIZE, .payload_end = work->scratch, .offer = m->kind == MIRROR_OFFER};
    r = d->offer ? describe_offers(m, c, work->scratch, d, err) : read_runs(m, c, work->scratch, err);
    if (r < 0)
        return r;
    if (!d->offer)
        describe_runs(m, c, work->scratch, d);
    if (!d->count)
        return 0;
    f = flight_new(c, d);
    if (!f)
        return err_set(err, -ENOMEM, "out of memory");
    put_record(m, work, d->count, (uint32_t)(d->payload_end - work->scratch));
    work->cookie[0] = (uintptr_t)f;
    work->asks = d->offer;
    return 0;
}

static int source_take(void *source, struct stream_work *work, struct err *err)
{
    struct mirror_source *m = source;
    struct claim c;
    struct draft d;
    int r;

    for (;;) {
        r = claim_next(m, &c, err);
        if (r < 0)
            return r;
        r = make_record(m, work, &c, &d, err);
        if (r < 0) {
            claim_failed(m, &c);
            return r;
        }
        if (d.count)
            return 0;
        pthread_mutex_lock(&m->lock);
        m->stats.zeroes += c.octets;
        one_less(m, c.octets);
    }
}

static int source_need(void *source, const struct stream_work *work, const struct wire_need *need, struct err *err)
{
    struct flight *f = (struct flight *)(uintptr_t)work->cookie[0];

    (void)source;
    if (!wire_need_empty(&f->refused))
        return err_set(err, -EPROTO, "a second NEED for one record");
    for (uint32_t i = f->count; i < WIRE_DISK_BLOCKS_MAX; i++) {
        if (wire_need_block(need, i))
            return err_set(err, -EPROTO, "NEED names block %u of a record of %u", i, f->count);
    }
    f->refused = *need;
    return 0;
}

/* Called with the lock held. */
static void refuse(struct mirror_source *m, const struct wire_disk_block *b)
{
    uint64_t first = b->offset / TRACKER_GRANULARITY;

    chain_clear(&m->chain, b->offset);
    bitmap_set_run(&m->later, first, DIV_ROUND_UP(b->offset + b->length, TRACKER_GRANULARITY) - first);
    m->has_later = true;
    m->later_octets += b->length;
}

/* What was acknowledged is folded: nothing else of these chunks is in flight. Called with the lock held. */
static void settle_block(struct mirror_source *m, const struct flight *f, uint32_t i, int error)
{
    struct wire_disk_block b = flight_block(f, i);

    if (error)
        mark_again(m, b.offset, b.length);
    else if (wire_need_block(&f->refused, i))
        refuse(m, &b);
    else
        chain_fold(&m->chain, &b);
    if (!error && f->offer && !wire_need_block(&f->refused, i))
        m->stats.kept += b.length;
}

static void source_done(void *source, const struct stream_work *work, int error)
{
    struct mirror_source *m = source;
    struct flight *f = (struct flight *)(uintptr_t)work->cookie[0];

    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < f->count; i++)
        settle_block(m, f, i, error);
    m->stats.zeroes += error ? f->left_out : f->zeroes;
    if (!error && !f->offer)
        m->stats.sent += f->octets - f->zeroes;
    one_less(m, error ? f->left_out : f->octets);
    free(f);
}

const struct stream_source_ops mirror_source_ops = {
    .name = "disk",
    .take = source_take,
    .need = source_need,
    .done = source_done,
};
