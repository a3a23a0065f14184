/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A whole copy in one process: a source's half, a stream whose connections can be cut, a target's half. */
#ifndef XMOTION_TESTS_COPY_H
#define XMOTION_TESTS_COPY_H

#include "base/bitmap.h"
#include "mirror/mirror-source.h"
#include "mirror/mirror-target.h"

#include "mem-disk.h"
#include "stream-rig.h"

#define CHUNK ((uint64_t)WIRE_DISK_BLOCK_MAX)

struct copy {
    struct rig rig;
    struct mem_disk from, to;
    struct mem_disk back; /* reads `to`, when verify */
    bool reuse, verify;   /* set between copy_make and copy_connect */
    struct tracker *tracker;
    struct mirror_source *source;
    struct mirror_target *target;
    unsigned int passes_done;

    pthread_mutex_t lock; /* what the sinks note */
    struct bitmap chunks; /* that came in this pass */
    unsigned int chunks_twice;
    unsigned int records;
    unsigned int zero_blocks, offers, refusals;
    uint64_t octets; /* of data blocks that were taken */
    unsigned int cut_at; /* the connection is cut in the middle of taking this record, from 1; 0: never */

    bool spoil; /* the sink flips a bit of every record */
    unsigned int arrived, let_go;
    bool hold; /* the sink waits for let_go */

    /* The writer. */
    pthread_t thread;
    unsigned int written;
    bool writes;
    bool stop;
};

static struct copy copy;

static inline void pass_done(void *data)
{
    struct copy *c = data;

    rig_count(&c->rig, &c->passes_done);
}

/* Under the lock, when a record was taken. One record holds all blocks of a chunk: a chunk that comes in two records of a pass
 * would be in flight twice, or would be sent again though it was taken. */
static inline void note_blocks(struct copy *c, const struct wire_disk_head *head, const uint8_t *blocks,
                               const struct wire_need *need)
{
    uint64_t last = UINT64_MAX;

    for (uint32_t i = 0; i < head->block_count; i++) {
        struct wire_disk_block b;
        uint64_t chunk;

        wire_get_disk_block(blocks + i * WIRE_DISK_BLOCK_SIZE, &b);
        c->zero_blocks += b.kind == WIRE_BLOCK_ZERO;
        c->offers += b.kind == WIRE_BLOCK_KEEP;
        c->refusals += wire_need_block(need, i);
        chunk = b.offset / CHUNK;
        c->chunks_twice += b.kind != WIRE_BLOCK_KEEP && chunk != last && bitmap_test(&c->chunks, chunk);
        if (b.kind != WIRE_BLOCK_KEEP)
            bitmap_set(&c->chunks, chunk);
        last = chunk;
    }
    c->octets += head->raw_length;
}

/* While the writer runs, every read and every answer to a record waits for one more write. */
static inline void let_the_writer_write(struct copy *c)
{
    unsigned int before;

    pthread_mutex_lock(&c->rig.lock);
    before = c->written;
    while (c->writes && !c->stop && c->written == before)
        pthread_cond_wait(&c->rig.changed, &c->rig.lock);
    pthread_mutex_unlock(&c->rig.lock);
}

static inline void writer_is_done(struct copy *c)
{
    pthread_mutex_lock(&c->rig.lock);
    c->stop = true;
    pthread_cond_broadcast(&c->rig.changed);
    pthread_mutex_unlock(&c->rig.lock);
}

static inline void write_before_the_read(struct mem_disk *d, uint64_t offset, size_t len, void *data)
{
    (void)d, (void)offset, (void)len;
    let_the_writer_write(data);
}

static inline int copy_take(struct rig_sink *sink, const struct record *record, struct wire_need *need, struct err *err)
{
    struct copy *c = sink->rig->data;
    struct wire_disk_head head;
    const uint8_t *payload;
    int r = wire_check_disk_data(record->body, record->length, &c->to.base.size, 1, &head, &payload, err);

    if (r < 0)
        return r;
    rig_count(&c->rig, &c->arrived);
    if (c->hold)
        (void)rig_await(&c->rig, &c->let_go, 1);
    let_the_writer_write(c);
    if (c->spoil)
        record->body[record->length - 1] ^= 1;
    pthread_mutex_lock(&c->lock);
    if (++c->records == c->cut_at)
        conn_shutdown(sink->conn);
    pthread_mutex_unlock(&c->lock);
    r = mirror_target_write(c->target, &head, record->body + WIRE_DISK_HEAD_SIZE, payload, need, err);
    pthread_mutex_lock(&c->lock);
    if (r == 0)
        note_blocks(c, &head, record->body + WIRE_DISK_HEAD_SIZE, need);
    pthread_mutex_unlock(&c->lock);
    return r;
}

static inline void copy_make(struct copy *c, uint64_t size)
{
    memset(c, 0, sizeof(*c));
    pthread_mutex_init(&c->lock, NULL);
    mem_disk_make(&c->from, size);
    mem_disk_make(&c->to, size);
    ck_assert_int_eq(bitmap_init(&c->chunks, DIV_ROUND_UP(size, CHUNK)), 0);
}

static inline void copy_make_target(struct copy *c)
{
    struct mirror_target_config config = {.dev = &c->to.base};
    struct err err = {0};

    if (c->verify) {
        mem_disk_view(&c->back, &c->to);
        config.back = &c->back.base;
    }
    ck_assert_int_eq(mirror_target_create(&c->target, &config, &err), 0);
}

static inline void copy_connect(struct copy *c, unsigned int connections, bool zstd)
{
    struct mirror_source_config config = {
        .dev = &c->from.base, .reuse = c->reuse, .pass_done = pass_done, .data = c};
    struct err err = {0};

    rig_make(&c->rig, zstd ? COMPRESS_ALWAYS : COMPRESS_NONE, copy_take, c);
    ck_assert_int_eq(tracker_open_mem(&c->tracker, c->from.base.size, &err), 0);
    config.tracker = c->tracker;
    config.stream = c->rig.stream;
    copy_make_target(c);
    ck_assert_int_eq(mirror_source_create(&c->source, &config, &err), 0);
    rig_connect(&c->rig, connections);
}

/* The stream has failed: both ends agree on what was taken. */
static inline void copy_settle(struct copy *c)
{
    struct err err = {0};

    stream_halt(c->rig.stream);
    for (unsigned int i = 0; i < c->rig.count; i++)
        ck_assert_int_eq(pthread_join(c->rig.sinks[i].thread, NULL), 0);
    for (unsigned int i = 0; i < c->rig.count; i++) {
        ck_assert_msg(stream_settle(c->rig.stream, i, c->rig.sinks[i].taken, &err) == 0, "%s", err.text);
        conn_destroy(c->rig.sinks[i].conn);
    }
    stream_destroy(c->rig.stream);
    c->rig.stream = NULL;
    c->rig.count = 0;
}

static inline void copy_reconnect(struct copy *c, unsigned int connections)
{
    struct err err = {0};

    rig_stream(&c->rig);
    rig_connect(&c->rig, connections);
    ck_assert_msg(mirror_source_attach(c->source, c->rig.stream, &err) == 0, "%s", err.text);
}

/* The receiver was started anew: the disk is there, what was known of it is not. */
static inline void copy_lose_target(struct copy *c)
{
    mirror_target_destroy(c->target);
    c->to.closes--;
    copy_make_target(c);
    mirror_source_forget(c->source);
}

static inline void copy_end(struct copy *c)
{
    rig_close(&c->rig);
    mirror_source_destroy(c->source);
    mirror_target_destroy(c->target);
    rig_remove(&c->rig);
    mem_disk_remove(&c->from);
    mem_disk_remove(&c->to);
    bitmap_finish(&c->chunks);
    pthread_mutex_destroy(&c->lock);
}

static inline struct mirror_target_stats target_stats(const struct copy *c)
{
    struct mirror_target_stats stats;

    mirror_target_stats(c->target, &stats);
    return stats;
}

static inline struct mirror_source_stats source_stats(const struct copy *c)
{
    struct mirror_source_stats stats;

    mirror_source_stats(c->source, &stats);
    return stats;
}

static inline void pass_wait(struct copy *c, unsigned int number)
{
    ck_assert_msg(rig_await(&c->rig, &c->passes_done, number), "%s", c->rig.failure.text);
    ck_assert(mirror_source_idle(c->source));
    ck_assert_uint_eq(c->passes_done, number);
    bitmap_clear_run(&c->chunks, 0, c->chunks.bits);
}

static inline void bulk(struct copy *c)
{
    struct err err = {0};

    ck_assert_int_eq(mirror_source_begin_bulk(c->source, &err), 0);
    pass_wait(c, 1);
}

/* Returns the blocks that the pass was over; 0: none was begun. */
static inline uint64_t pass(struct copy *c)
{
    struct err err = {0};
    unsigned int before = c->passes_done;
    uint64_t blocks;

    ck_assert_int_eq(mirror_source_begin_pass(c->source, false, &blocks, &err), 0);
    if (blocks)
        pass_wait(c, before + 1);
    return blocks;
}

static inline void write_marked(struct copy *c, uint64_t offset, const void *from, size_t len)
{
    mem_disk_write(&c->from, offset, from, len);
    tracker_mem_mark(c->tracker, offset, len);
}

static inline bool same_content(const struct copy *c)
{
    return memcmp(c->from.data, c->to.data, c->from.base.size) == 0;
}

static inline void check_equal(const struct copy *c)
{
    ck_assert(same_content(c));
    ck_assert_uint_eq(mirror_source_digest(c->source), mirror_target_digest(c->target));
    ck_assert_uint_eq(c->chunks_twice, 0);
}

/* Data, with every third chunk left out and a zero block within the data. */
static inline void fill_with_holes(struct copy *c)
{
    uint64_t random = 7, size = c->from.base.size;

    for (uint64_t at = 0; at < size; at += CHUNK) {
        if (at / CHUNK % 3 != 1)
            fill_random(c->from.data + at, MIN(CHUNK, size - at), &random);
    }
    if (size > 8192)
        memset(c->from.data + 4096, 0, 4096);
}

#endif
