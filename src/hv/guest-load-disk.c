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
    return (struct load_stamp){w->load->header->id, 1 + w->disk, block, entry & ~LOAD_ENTRY_ZERO, 0};
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
        load_pace_done(t->load, &pace, w.state->pending_count * LOAD_PAGE);
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

/* Adopting: which write a disk is at. Writes are a function of their count, so they are gone through from the first one on, until
 * one is found after which the table says what the disk holds. */

#define FOUND_ZERO  UINT32_C(0)
#define FOUND_OTHER UINT32_MAX       /* nothing that a load wrote */
#define FOUND_TORN  (UINT32_MAX - 1) /* our stamp, but not what belongs to it */
#define REPLAY_MAX  (UINT64_C(1) << 26)

struct replay {
    struct writer w;
    uint32_t *found; /* of each block: one of the above, or its number */
    uint64_t stamped;
    uint64_t wrong;  /* blocks that do not hold what the table says */
    uint64_t late;   /* of these, those that hold less: they never will */
    uint64_t best;   /* UINT64_MAX: none */
};

static bool is_number(uint32_t found)
{
    return found != FOUND_ZERO && found < FOUND_TORN;
}

static bool block_matches(const struct replay *r, uint64_t block, uint32_t entry)
{
    uint32_t found = r->found[block];

    if (!entry)
        return found == FOUND_ZERO || found == FOUND_OTHER;
    return entry & LOAD_ENTRY_ZERO ? found == FOUND_ZERO : found == entry;
}

static bool block_is_late(const struct replay *r, uint64_t block, uint32_t entry)
{
    uint32_t found = r->found[block];

    return found == FOUND_TORN || (found == FOUND_OTHER && entry) ||
           (is_number(found) && (entry & ~LOAD_ENTRY_ZERO) > found);
}

/* Takes the blocks of the operation at hand out of the counts or puts them in. */
static void count_blocks(struct replay *r, int sign)
{
    const struct load_writer *s = r->w.state;

    for (uint64_t b = s->pending_first; b < s->pending_first + s->pending_count; b++) {
        uint32_t entry = r->w.table[b];

        if (!block_matches(r, b, entry))
            r->wrong += (uint64_t)(int64_t)sign;
        if (block_is_late(r, b, entry))
            r->late += (uint64_t)(int64_t)sign;
    }
}

static void advance(struct replay *r)
{
    struct load_writer *s = r->w.state;

    for (uint64_t b = s->pending_first; b < s->pending_first + s->pending_count; b++)
        r->w.table[b] = next_entry(r->w.table[b], s->pending_zero);
    s->writes++;
    s->bytes += s->pending_count * LOAD_PAGE;
}

/* Its blocks may hold the old or the new. */
static bool pending_matches(const struct replay *r)
{
    const struct load_writer *s = r->w.state;

    for (uint64_t b = s->pending_first; b < s->pending_first + s->pending_count; b++) {
        uint32_t entry = r->w.table[b];

        if (!block_matches(r, b, entry) && !block_matches(r, b, next_entry(entry, s->pending_zero)))
            return false;
    }
    return true;
}

static void replay_start(struct replay *r)
{
    memset(r->w.table, 0, r->w.blocks * sizeof(uint32_t));
    memset(r->w.state, 0, sizeof(*r->w.state));
    r->wrong = r->late = 0;
    for (uint64_t b = 0; b < r->w.blocks; b++) {
        r->wrong += !block_matches(r, b, 0);
        r->late += block_is_late(r, b, 0);
    }
}

/* The last write after which all is right: with the next one not begun, under way or done. */
static void replay_search(struct replay *r)
{
    replay_start(r);
    r->best = r->stamped ? UINT64_MAX : 0;
    while (r->stamped && r->w.rate && r->w.state->writes < REPLAY_MAX) {
        choose(&r->w);
        count_blocks(r, -1);
        if (r->wrong == 0 && pending_matches(r))
            r->best = r->w.state->writes;
        if (r->late)
            return;
        advance(r);
        count_blocks(r, 1);
    }
}

static void replay_to(struct replay *r, uint64_t writes)
{
    replay_start(r);
    while (r->w.state->writes < writes) {
        choose(&r->w);
        advance(r);
    }
    r->w.state->pending_count = 0;
    if (r->stamped)
        choose(&r->w);
}

static uint32_t classify(const struct writer *w, const void *data, uint64_t block)
{
    struct load_stamp found;

    if (load_page_is_zero(data))
        return FOUND_ZERO;
    if (!load_stamp_read(data, &found) || found.id != w->load->header->id)
        return FOUND_OTHER;
    return found.space == 1 + w->disk && found.index == block && load_stamp_matches(data, &found) &&
                   found.number < FOUND_TORN
               ? (uint32_t)found.number
               : FOUND_TORN;
}

/* Calls `each` with every block of the disk until it returns something else than 0. */
static int scan(const struct writer *w, int (*each)(void *data, const void *page, uint64_t block), void *data)
{
    int r = 0;

    for (uint64_t first = 0; r == 0 && first < w->blocks; first += LOAD_WRITE_MAX) {
        uint64_t count = w->blocks - first < LOAD_WRITE_MAX ? w->blocks - first : LOAD_WRITE_MAX;

        r = w->dev->ops->pread(w->dev->disk, w->buf, (size_t)count * LOAD_PAGE, first * LOAD_PAGE);
        if (r < 0)
            r = -EIO;
        for (uint64_t i = 0; r == 0 && i < count; i++)
            r = each(data, w->buf + i * LOAD_PAGE, first + i);
    }
    return r;
}

static int note_found(void *data, const void *page, uint64_t block)
{
    struct replay *r = data;

    r->found[block] = classify(&r->w, page, block);
    r->stamped += is_number(r->found[block]) || r->found[block] == FOUND_TORN;
    return 0;
}

static int note_id(void *data, const void *page, uint64_t block)
{
    struct load_stamp found;

    (void)block;
    if (!load_stamp_read(page, &found) || !found.space)
        return 0;
    *(uint64_t *)data = found.id;
    return 1;
}

int load_disk_id(const struct guest_load *load, unsigned int disk, uint64_t *ret_id)
{
    struct writer w;
    int r = writer_init(&w, load, disk);

    if (r == 0)
        r = scan(&w, note_id, ret_id);
    free(w.buf);
    return r < 0 ? r : 0;
}

int load_disk_adopt(const struct guest_load *load, unsigned int disk, char *ret_text, size_t text_size)
{
    struct replay p = {0};
    int r = writer_init(&p.w, load, disk);

    p.found = r == 0 ? calloc(p.w.blocks, sizeof(*p.found)) : NULL;
    if (r == 0)
        r = p.found ? scan(&p.w, note_found, &p) : -ENOMEM;
    if (r == 0)
        replay_search(&p);
    if (r == -EIO)
        (void)snprintf(ret_text, text_size, "disk %u cannot be read", disk);
    if (r == 0 && p.best == UINT64_MAX) {
        (void)snprintf(ret_text, text_size,
                       "disk %u holds %llu blocks of this guest, but not as they were after any of its writes (looked at %llu)",
                       disk, (unsigned long long)p.stamped, (unsigned long long)p.w.state->writes);
        r = -EBADMSG;
    } else if (r == 0) {
        replay_to(&p, p.best);
        (void)snprintf(ret_text, text_size, "disk %u goes on after write %llu", disk, (unsigned long long)p.best);
    }
    free(p.found);
    free(p.w.buf);
    return r;
}
