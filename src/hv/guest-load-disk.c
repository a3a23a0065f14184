/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The writers. What a block must hold is known exactly: its table entry counts its writes, and the
 * operation that is under way stands in the writer's state from before it begins until after the
 * table says it is done. */
#include "guest-load-priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FLUSH_EVERY  256u /* writes */
#define ZERO_ONE_IN  16u
#define OPS_A_SECOND 32u /* at least, also at low rates: there writes are smaller */

/* One writer's view of its disk. */
struct writer {
    struct guest_load *load;
    unsigned int disk;
    struct load_writer *state;
    uint32_t *table;
    uint64_t blocks;
    uint64_t rate;
    const struct guest_load_disk *dev;
    uint8_t *buf; /* LOAD_WRITE_MAX blocks */
};

static int writer_init(struct writer *w, const struct guest_load *load, unsigned int disk)
{
    w->load = (struct guest_load *)load;
    w->disk = disk;
    w->state = load_writer_state(load, disk);
    w->table = load_table(load, disk);
    w->blocks = load->header->disks[disk].blocks;
    w->rate = load->config.write_rate / (load->config.disk_count ? load->config.disk_count : 1);
    w->dev = &load->config.disks[disk];
    w->buf = aligned_alloc(LOAD_PAGE, (size_t)LOAD_WRITE_MAX * LOAD_PAGE);
    return w->buf ? 0 : -ENOMEM;
}

static uint32_t next_entry(uint32_t entry, bool zero)
{
    uint32_t number = (entry & ~LOAD_ENTRY_ZERO) + 1;

    if (number & LOAD_ENTRY_ZERO)
        number = 1; /* after two thousand million writes of one block */
    return zero ? number | LOAD_ENTRY_ZERO : number;
}

static struct load_stamp stamp_of(const struct writer *w, uint64_t block, uint32_t entry)
{
    return (struct load_stamp){w->load->header->id, 1 + w->disk, block, entry & ~LOAD_ENTRY_ZERO};
}

/* Chooses the next operation. Its random numbers come from the count of writes, so that they too
 * travel in RAM. */
static void choose(struct writer *w)
{
    uint64_t seed = w->load->header->id + ((uint64_t)w->disk << 56) + w->state->writes * 2;
    uint64_t r1 = load_mix(seed);
    uint64_t r2 = load_mix(seed + 1);
    uint64_t most = w->rate / OPS_A_SECOND / LOAD_PAGE;
    uint64_t count = UINT64_C(1) << (r1 & 0xff) % 7; /* 4 KiB to 256 KiB */

    if (count > most)
        count = most ? most : 1;
    assert(count <= LOAD_WRITE_MAX && count <= w->blocks);
    w->state->pending_first = r2 % (w->blocks - count + 1);
    w->state->pending_zero = (r1 >> 8) % ZERO_ONE_IN == 0;
    w->state->pending_count = count;
}

static int write_stamped(struct writer *w, uint64_t first, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++) {
        struct load_stamp stamp = stamp_of(w, first + i, next_entry(w->table[first + i], false));

        load_stamp_fill(w->buf + i * LOAD_PAGE, &stamp);
    }
    return w->dev->ops->pwrite(w->dev->disk, w->buf, (size_t)count * LOAD_PAGE, first * LOAD_PAGE);
}

static int write_zeroes(struct writer *w, uint64_t first, uint64_t count)
{
    size_t len = (size_t)count * LOAD_PAGE;

    if (w->dev->ops->zero)
        return w->dev->ops->zero(w->dev->disk, len, first * LOAD_PAGE);
    memset(w->buf, 0, len);
    return w->dev->ops->pwrite(w->dev->disk, w->buf, len, first * LOAD_PAGE);
}

/* Does what is pending. After a failure it stays pending: its blocks may hold the old or the new,
 * and it is done again when the load starts anew. */
static int perform(struct writer *w)
{
    struct load_writer *s = w->state;
    int r;

    r = s->pending_zero ? write_zeroes(w, s->pending_first, s->pending_count)
                        : write_stamped(w, s->pending_first, s->pending_count);
    if (r < 0)
        return r;
    for (uint64_t i = 0; i < s->pending_count; i++)
        w->table[s->pending_first + i] =
            next_entry(w->table[s->pending_first + i], s->pending_zero);
    load_put(&s->writes, s->writes + 1);
    load_put(&s->bytes, s->bytes + s->pending_count * LOAD_PAGE);
    s->pending_count = 0;
    return s->writes % FLUSH_EVERY ? 0 : w->dev->ops->flush(w->dev->disk);
}

static void report_error(struct guest_load *load, int code)
{
    int none = 0;

    (void)__atomic_compare_exchange_n(&load->error, &none, code, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED);
}

void *load_writer_run(void *thread)
{
    struct load_thread *t = thread;
    struct load_pace pace;
    struct writer w;
    int r;

    r = writer_init(&w, t->load, t->disk);
    load_pace_start(&pace, w.rate ? w.rate : 1);
    while (r == 0 && load_pace_wait(t->load, &pace)) {
        if (!w.state->pending_count)
            choose(&w);
        load_pace_done(&pace, w.state->pending_count * LOAD_PAGE);
        r = perform(&w);
    }
    if (r < 0)
        report_error(t->load, r);
    free(w.buf);
    return NULL;
}

/* Verifying */

static bool holds(const struct writer *w, const void *data, uint64_t block, uint32_t entry)
{
    struct load_stamp stamp = stamp_of(w, block, entry);
    struct load_stamp found;

    if (!entry) /* never written: any content but our own */
        return !load_stamp_read(data, &found) || found.id != stamp.id;
    return entry & LOAD_ENTRY_ZERO ? load_page_is_zero(data) : load_stamp_matches(data, &stamp);
}

static bool is_pending(const struct writer *w, uint64_t block)
{
    return block >= w->state->pending_first &&
           block - w->state->pending_first < w->state->pending_count;
}

static int block_verify(const struct writer *w, const void *data, uint64_t block, char *ret_text,
                        size_t text_size)
{
    uint32_t entry = w->table[block];
    struct load_stamp stamp = stamp_of(w, block, entry);
    char found[120];

    if (holds(w, data, block, entry))
        return 0;
    if (is_pending(w, block) && holds(w, data, block, next_entry(entry, w->state->pending_zero)))
        return 0;
    load_stamp_describe(data, &stamp, found, sizeof(found));
    (void)snprintf(ret_text, text_size,
                   "disk %u block %llu (offset %llu) %s, must hold number %llu%s", w->disk,
                   (unsigned long long)block, (unsigned long long)block * LOAD_PAGE, found,
                   (unsigned long long)stamp.number,
                   !entry                    ? " (never written)"
                   : entry & LOAD_ENTRY_ZERO ? ", which is zero"
                                             : "");
    return -EBADMSG;
}

static bool was_written(const struct writer *w, uint64_t first, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (w->table[first + i] || is_pending(w, first + i))
            return true;
    return false;
}

static int chunk_verify(const struct writer *w, uint64_t first, uint64_t count, char *ret_text,
                        size_t text_size)
{
    int r;

    r = w->dev->ops->pread(w->dev->disk, w->buf, (size_t)count * LOAD_PAGE, first * LOAD_PAGE);
    if (r < 0) {
        (void)snprintf(ret_text, text_size, "disk %u cannot be read at offset %llu", w->disk,
                       (unsigned long long)first * LOAD_PAGE);
        return -EIO;
    }
    for (uint64_t i = 0; r == 0 && i < count; i++)
        r = block_verify(w, w->buf + i * LOAD_PAGE, first + i, ret_text, text_size);
    return r;
}

/* Parts that were never written are not read: of a large disk they are the most. */
int load_disk_verify(const struct guest_load *load, unsigned int disk, char *ret_text,
                     size_t text_size)
{
    struct writer w;
    int r;

    r = writer_init(&w, load, disk);
    for (uint64_t first = 0; r == 0 && first < w.blocks; first += LOAD_WRITE_MAX) {
        uint64_t count = w.blocks - first < LOAD_WRITE_MAX ? w.blocks - first : LOAD_WRITE_MAX;

        if (was_written(&w, first, count))
            r = chunk_verify(&w, first, count, ret_text, text_size);
    }
    free(w.buf);
    return r;
}
