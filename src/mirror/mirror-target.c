/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/mirror-target.h"

#include "base/bytes.h"
#include "base/checksum.h"
#include "base/log.h"
#include "base/zero.h"
#include "mirror/chain.h"
#include "transport/compress.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#define AREA "mirror.target"
/* Octets that are read at once, to be compared while they are in the processor's cache. */
#define READ_STEP KIB(256)
/* Threads beyond these take memory of their own for each record. */
#define SPARE_BUFFERS 16
#define BUFFER_SIZE   (WIRE_DATA_MAX + 2 * BLOCKDEV_ALIGN)

struct mirror_target {
    struct blockdev *dev;
    struct blockdev *back;
    struct chain chain;
    bool reused;
    _Atomic uint64_t written, kept, verified, repaired;
};

/* Of all targets of this process, BUFFER_SIZE each: memory that is taken anew for each record costs more than what is done with it. */
static struct {
    pthread_mutex_t lock;
    uint8_t *buffers[SPARE_BUFFERS];
    unsigned int count;
} spare = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* One record under work. */
struct taking {
    struct mirror_target *m;
    const uint8_t *blocks;
    uint32_t count;
    struct wire_need *need;
    uint8_t *buffer; /* when something is read; ours */
};

/* Neighbouring blocks of one kind. */
struct run {
    uint32_t first, count;
    enum wire_block_kind kind;
    uint64_t offset, length;
    const uint8_t *payload; /* DATA */
};

int mirror_target_create(struct mirror_target **ret, const struct mirror_target_config *config, struct err *err)
{
    struct mirror_target *m = calloc(1, sizeof(*m));

    if (!m || chain_init(&m->chain, config->dev->size) < 0) {
        blockdev_close(config->dev);
        blockdev_close(config->back);
        free(m);
        return err_set(err, -ENOMEM, "out of memory");
    }
    assert(!config->back || config->back->size == config->dev->size);
    m->dev = config->dev;
    m->back = config->back;
    m->reused = config->reused;
    *ret = m;
    return 0;
}

void mirror_target_destroy(struct mirror_target *m)
{
    if (!m)
        return;
    blockdev_close(m->dev);
    blockdev_close(m->back);
    chain_finish(&m->chain);
    free(m);
}

/* NULL: no memory. */
static uint8_t *take_buffer(void)
{
    void *buffer = NULL;

    pthread_mutex_lock(&spare.lock);
    if (spare.count)
        buffer = spare.buffers[--spare.count];
    pthread_mutex_unlock(&spare.lock);
    if (!buffer && posix_memalign(&buffer, BLOCKDEV_ALIGN, BUFFER_SIZE))
        return NULL;
    return buffer;
}

static void give_buffer(uint8_t *buffer)
{
    pthread_mutex_lock(&spare.lock);
    if (buffer && spare.count < SPARE_BUFFERS) {
        spare.buffers[spare.count++] = buffer;
        buffer = NULL;
    }
    pthread_mutex_unlock(&spare.lock);
    free(buffer);
}

static struct wire_disk_block block_at(const struct taking *t, uint32_t i)
{
    struct wire_disk_block b;

    wire_get_disk_block(t->blocks + (size_t)i * WIRE_DISK_BLOCK_SIZE, &b);
    return b;
}

/* Its 64 KiB in full, or what is left of the disk. */
static bool is_whole(const struct taking *t, const struct wire_disk_block *b)
{
    return b->offset % WIRE_DISK_BLOCK_MAX == 0 && b->length == MIN(WIRE_DISK_BLOCK_MAX, t->m->dev->size - b->offset);
}

static int check_blocks(const struct taking *t, const uint8_t *payload, struct err *err)
{
    for (uint32_t i = 0; i < t->count; i++) {
        struct wire_disk_block b = block_at(t, i);

        if (t->m->reused && b.kind != WIRE_BLOCK_KEEP && !is_whole(t, &b) && chain_is_empty(&t->m->chain, b.offset))
            return err_set(err, -EPROTO, "%u octets at %llu of an old copy, of which the rest was neither compared nor sent",
                           b.length, (unsigned long long)b.offset);
        if (b.kind != WIRE_BLOCK_DATA)
            continue;
        if (checksum(payload, b.length) != b.checksum)
            return err_set(err, -EBADMSG,
                           "the block of %u octets at %llu is not what was read at the source (checksum)",
                           b.length, (unsigned long long)b.offset);
        payload += b.length;
    }
    return 0;
}

/* The run that begins with block i, `most` octets long at most (more when its first block is). */
static struct run run_at(const struct taking *t, uint32_t i, uint64_t most, const uint8_t *payload)
{
    struct wire_disk_block b = block_at(t, i);
    struct run run = {.first = i, .count = 1, .kind = b.kind, .offset = b.offset, .length = b.length, .payload = payload};

    while (++i < t->count) {
        b = block_at(t, i);
        if (b.kind != run.kind || b.offset != run.offset + run.length || run.length + b.length > most)
            break;
        run.length += b.length;
        run.count++;
    }
    return run;
}

/* Reads from the medium, where there is a way to it. Direct reads want whole blocks of BLOCKDEV_ALIGN: *ret is within the buffer. */
static int read_back(struct taking *t, uint64_t offset, uint64_t length, const uint8_t **ret, struct err *err)
{
    struct blockdev *from = t->m->back ? t->m->back : t->m->dev;
    uint64_t start = offset - offset % BLOCKDEV_ALIGN;
    uint64_t end = MIN(DIV_ROUND_UP(offset + length, BLOCKDEV_ALIGN) * BLOCKDEV_ALIGN, from->size);

    assert(length <= READ_STEP);
    if (!t->buffer)
        t->buffer = take_buffer();
    if (!t->buffer)
        return err_set(err, -ENOMEM, "out of memory");
    *ret = t->buffer + (offset - start);
    return from->ops->pread(from, t->buffer, end - start, start, err);
}

/* ---- offers ---- */

/* `content` NULL: zeroes, which nobody has to read. */
static void compare_offers(struct taking *t, const struct run *run, const uint8_t *content)
{
    for (uint32_t i = run->first; i < run->first + run->count; i++) {
        struct wire_disk_block b = block_at(t, i);

        if ((content ? checksum(content, b.length) : chain_zeroes(&t->m->chain, b.length)) != b.checksum)
            wire_need_set(t->need, i);
        else
            t->m->kept += b.length;
        if (content)
            content += b.length;
    }
}

/* The blocks from `i` on that lie in one extent: wholly in a hole, or beginning in data. */
static int offers_at(struct taking *t, uint32_t i, uint32_t end, struct run *ret, bool *ret_zero, struct err *err)
{
    struct blockdev *dev = t->m->dev;
    struct wire_disk_block b = block_at(t, i);
    uint64_t known;
    int r = dev->ops->extent(dev, b.offset, &known, ret_zero, err);

    if (r < 0)
        return r;
    *ret = (struct run){.first = i, .count = 1, .kind = WIRE_BLOCK_KEEP, .offset = b.offset, .length = b.length};
    *ret_zero = *ret_zero && known >= b.length;
    while (++i < end) {
        b = block_at(t, i);
        if (*ret_zero ? ret->length + b.length > known : ret->length >= known)
            break;
        ret->length += b.length;
        ret->count++;
    }
    return 0;
}

static int take_offers(struct taking *t, const struct run *run, struct err *err)
{
    uint32_t i = run->first;

    while (i < run->first + run->count) {
        const uint8_t *content = NULL;
        struct run part;
        bool zero;
        int r = offers_at(t, i, run->first + run->count, &part, &zero, err);

        if (r == 0 && !zero)
            r = read_back(t, part.offset, part.length, &content, err);
        if (r < 0)
            return r;
        compare_offers(t, &part, content);
        i += part.count;
    }
    return 0;
}

/* ---- what is sent ---- */

/* A medium that cannot be read differs too. */
static bool reads_back(struct taking *t, const struct run *run, struct err *err)
{
    const uint8_t *content;

    if (read_back(t, run->offset, run->length, &content, err) < 0)
        return false;
    if (run->kind == WIRE_BLOCK_ZERO ? is_zero(content, run->length) : memcmp(content, run->payload, run->length) == 0)
        return true;
    (void)err_set(err, -EIO, "other octets were read back than were written");
    return false;
}

static const uint8_t zeroes[WIRE_DISK_BLOCK_MAX] __attribute__((aligned(BLOCKDEV_ALIGN)));

static int repair(struct taking *t, const struct run *block, struct err *err)
{
    struct mirror_target *m = t->m;
    struct err why = *err;
    int r;

    log_warn(AREA, "the block of %llu octets at %llu is written again: %s", (unsigned long long)block->length,
             (unsigned long long)block->offset, why.text);
    /* In full this time, whatever the disk's own way of zeroing is worth. */
    r = m->dev->ops->pwrite(m->dev, block->payload ? block->payload : zeroes, block->length, block->offset, err);
    if (r < 0)
        return r;
    if (!reads_back(t, block, &why))
        return err_set(err, -EIO,
                       "the target's disk is bad: its %llu octets at %llu were written twice and do not read back (%.200s): replace it, or choose another --sr or --disk",
                       (unsigned long long)block->length, (unsigned long long)block->offset, why.text);
    m->repaired++;
    return 0;
}

/* The whole run first; block by block only when it differs. */
static int verify_run(struct taking *t, const struct run *run, struct err *err)
{
    const uint8_t *payload = run->payload;
    struct err why = {0};
    int r = 0;

    if (!reads_back(t, run, &why)) {
        for (uint32_t i = run->first; r == 0 && i < run->first + run->count; i++) {
            struct run block = run_at(t, i, 0, payload);

            if (payload)
                payload += block.length;
            if (!reads_back(t, &block, &why)) {
                *err = why;
                r = repair(t, &block, err);
            }
        }
    }
    if (r == 0)
        t->m->verified += run->length;
    return r;
}

/* Of any kind but DATA. */
static int take_run(struct taking *t, const struct run *run, struct err *err)
{
    int r;

    if (run->kind == WIRE_BLOCK_KEEP)
        return take_offers(t, run, err);
    r = t->m->dev->ops->zero(t->m->dev, run->length, run->offset, err);
    return r == 0 && t->m->back ? verify_run(t, run, err) : r;
}

/* DATA that waits to be written at once. */
struct waiting {
    struct run runs[WIRE_DISK_BLOCKS_MAX];
    uint32_t count;
    uint64_t end; /* of what was seen since the last time, of any kind */
};

static int write_waiting(struct taking *t, struct waiting *w, struct err *err)
{
    struct blockdev_write writes[WIRE_DISK_BLOCKS_MAX];
    int r;

    for (uint32_t i = 0; i < w->count; i++)
        writes[i] = (struct blockdev_write){.buf = w->runs[i].payload, .len = w->runs[i].length, .offset = w->runs[i].offset};
    r = blockdev_pwrite_many(t->m->dev, writes, w->count, err);
    for (uint32_t i = 0; r == 0 && t->m->back && i < w->count; i++)
        r = verify_run(t, &w->runs[i], err);
    w->count = 0;
    w->end = 0;
    return r;
}

/* What goes back to where something may wait comes after it: blocks that lie upon one another are written in their order. */
static int take_in_turn(struct taking *t, struct waiting *w, const struct run *run, struct err *err)
{
    int r = run->offset < w->end ? write_waiting(t, w, err) : 0;

    if (r < 0)
        return r;
    w->end = run->offset + run->length;
    if (run->kind != WIRE_BLOCK_DATA)
        return take_run(t, run, err);
    w->runs[w->count++] = *run;
    return 0;
}

static int take_blocks(struct taking *t, const uint8_t *payload, struct err *err)
{
    struct waiting w = {.count = 0};
    uint32_t i = 0;
    int r = 0;

    while (r == 0 && i < t->count) {
        struct run run = run_at(t, i, READ_STEP, payload);

        if (run.kind != WIRE_BLOCK_DATA)
            run.payload = NULL;
        else
            payload += run.length;
        r = take_in_turn(t, &w, &run, err);
        i += run.count;
    }
    return r < 0 ? r : write_waiting(t, &w, err);
}

static void fold(struct taking *t)
{
    for (uint32_t i = 0; i < t->count; i++) {
        struct wire_disk_block b = block_at(t, i);

        if (wire_need_block(t->need, i))
            chain_clear(&t->m->chain, b.offset);
        else
            chain_fold(&t->m->chain, &b);
    }
}

static int take_record(struct taking *t, const uint8_t *payload, struct err *err)
{
    int r = check_blocks(t, payload, err);

    return r < 0 ? r : take_blocks(t, payload, err);
}

int mirror_target_write(struct mirror_target *m, const struct wire_disk_head *head, const uint8_t *blocks,
                        const uint8_t *payload, struct wire_need *need, struct err *err)
{
    struct taking t = {.m = m, .blocks = blocks, .count = head->block_count, .need = need};
    uint8_t *raw = NULL;
    int r = 0;

    if (head->encoding == WIRE_ZSTD) {
        raw = take_buffer();
        r = raw ? compress_decode(raw, head->raw_length, payload, head->encoded_length, err) : err_set(err, -ENOMEM, "out of memory");
        payload = raw;
    }
    if (r == 0)
        r = take_record(&t, payload, err);
    give_buffer(t.buffer);
    give_buffer(raw);
    if (r < 0)
        return r;
    fold(&t);
    m->written += head->raw_length;
    return 0;
}

int mirror_target_flush(struct mirror_target *m, struct err *err)
{
    return m->dev->ops->flush(m->dev, err);
}

uint64_t mirror_target_gaps(const struct mirror_target *m)
{
    return chain_gaps(&m->chain);
}

uint64_t mirror_target_digest(struct mirror_target *m)
{
    return chain_digest(&m->chain);
}

void mirror_target_stats(const struct mirror_target *m, struct mirror_target_stats *ret)
{
    *ret = (struct mirror_target_stats){
        .written = m->written, .kept = m->kept, .verified = m->verified, .repaired = m->repaired};
}
