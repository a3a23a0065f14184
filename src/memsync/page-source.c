/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memsync/page-source.h"

#include "base/bytes.h"
#include "base/checksum.h"
#include "base/clock.h"
#include "base/zero.h"
#include "memsync/page-cache.h"
#include "transport/wire.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>

#define BATCH      WIRE_PAGES_MAX
#define SLOTS      16u /* batches that wait for a worker: 16 MiB */

/* One batch that was read from the stream and waits for a worker. */
struct slot {
    struct slot *next;
    uint64_t epoch;
    uint32_t count;
    uint64_t entries[BATCH];
    uint8_t *pages;
};

struct page_source {
    struct page_source_config config;
    pthread_mutex_t lock;
    pthread_cond_t slot_freed;
    struct slot slots[SLOTS];
    struct slot *unused;
    struct slot *head; /* queue, oldest first */
    struct slot *tail;
    bool cancelled;
    uint64_t in_flight;

    bool epoch_open;
    uint64_t epoch;         /* the open one, or the next */
    uint64_t epoch_records; /* given out in the open one */
    struct bitmap seen;     /* PFNs of the open epoch (stream) */

    struct bitmap *round; /* mapped: pages of the round; NULL none under way */
    uint64_t round_cursor;
    const uint8_t *ram;

    struct page_cache *cache; /* NULL: the target keeps nothing */
    struct bitmap sent;       /* with a cache: PFNs that were sent before */

    struct page_source_stats stats;
};

/* What a worker is to send: entries, and where the data of each is. */
struct batch {
    uint64_t epoch;
    uint32_t count;
    uint64_t entries[BATCH];
    const uint8_t *pages[BATCH];
};

static int script_epoch(struct page_source *p, enum wire_type type, uint64_t epoch, uint64_t records, struct err *err)
{
    uint8_t body[16];

    put_be64(body, epoch);
    put_be64(body + 8, records);
    return p->config.script(p->config.data, type, body, type == WIRE_EPOCH_BEGIN ? 8 : 16, err);
}

static int open_epoch(struct page_source *p, struct err *err)
{
    if (p->epoch_open)
        return 0;
    p->epoch_open = true;
    p->epoch_records = 0;
    bitmap_clear_run(&p->seen, 0, p->seen.bits);
    pthread_mutex_lock(&p->lock);
    p->stats.epochs++;
    pthread_mutex_unlock(&p->lock);
    return script_epoch(p, WIRE_EPOCH_BEGIN, p->epoch, 0, err);
}

static int end_epoch(struct page_source *p, struct err *err)
{
    if (!p->epoch_open)
        return 0;
    p->epoch_open = false;
    return script_epoch(p, WIRE_EPOCH_END, p->epoch++, p->epoch_records, err);
}

int page_source_octets(struct page_source *p, const uint8_t *octets, size_t len, struct err *err)
{
    int r = end_epoch(p, err);

    while (r == 0 && len) {
        uint32_t n = (uint32_t)MIN(len, (size_t)WIRE_CONTROL_MAX);

        r = p->config.script(p->config.data, WIRE_MEMORY_RECORD, octets, n, err);
        octets += n;
        len -= n;
    }
    return r;
}

static struct slot *slot_get(struct page_source *p)
{
    struct slot *s;

    pthread_mutex_lock(&p->lock);
    while (!p->unused && !p->cancelled)
        pthread_cond_wait(&p->slot_freed, &p->lock);
    s = p->cancelled ? NULL : p->unused;
    if (s)
        p->unused = s->next;
    pthread_mutex_unlock(&p->lock);
    return s;
}

static void slot_queue(struct page_source *p, struct slot *s)
{
    pthread_mutex_lock(&p->lock);
    s->next = NULL;
    if (p->tail)
        p->tail->next = s;
    else
        p->head = s;
    p->tail = s;
    p->stats.pages += s->count;
    pthread_mutex_unlock(&p->lock);
    stream_kick(p->config.stream);
}

/* How many of the entries name different page frames: an epoch holds each once. */
static uint32_t distinct(const uint64_t *entries, uint32_t count)
{
    uint64_t highest = entries[0] & WIRE_PFN_MASK;

    for (uint32_t n = 1; n < count; n++) {
        uint64_t pfn = entries[n] & WIRE_PFN_MASK;

        /* A stream's frames nearly always rise: what is above all of them is new. */
        for (uint32_t i = 0; pfn <= highest && i < n; i++) {
            if ((entries[i] & WIRE_PFN_MASK) == pfn)
                return n;
        }
        highest = MAX(highest, pfn);
    }
    return count;
}

static bool any_seen(const struct page_source *p, const uint64_t *entries, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (bitmap_test(&p->seen, entries[i] & WIRE_PFN_MASK))
            return true;
    }
    return false;
}

static int check_pfns(const struct page_source *p, const uint64_t *entries, uint32_t count, struct err *err)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t pfn = entries[i] & WIRE_PFN_MASK;

        if (pfn >= p->seen.bits)
            return err_set(err, -EPROTO, "the guest's stream names page frame %#llx, its largest should be %#llx",
                           (unsigned long long)pfn, (unsigned long long)p->seen.bits - 1);
    }
    return 0;
}

static int queue_piece(struct page_source *p, const uint64_t *entries, uint32_t count, const uint8_t **pages,
                       struct err *err)
{
    struct slot *s;
    size_t used = 0;
    int r = any_seen(p, entries, count) ? end_epoch(p, err) : 0;

    if (r == 0)
        r = open_epoch(p, err);
    if (r < 0)
        return r;
    s = slot_get(p);
    if (!s)
        return err_set(err, -ECANCELED, "cancelled");
    s->epoch = p->epoch;
    s->count = count;
    for (uint32_t i = 0; i < count; i++) {
        s->entries[i] = entries[i];
        bitmap_set(&p->seen, entries[i] & WIRE_PFN_MASK);
        if (wire_pfn_has_data(entries[i]))
            used += WIRE_PAGE_SIZE;
    }
    memcpy(s->pages, *pages, used);
    *pages += used;
    p->epoch_records++;
    slot_queue(p, s);
    return 0;
}

int page_source_pages(struct page_source *p, const uint64_t *entries, uint32_t count, const uint8_t *pages,
                      struct err *err)
{
    int r = check_pfns(p, entries, count, err);

    for (uint32_t i = 0, n; r == 0 && i < count; i += n) {
        n = distinct(entries + i, MIN(BATCH, count - i));
        r = queue_piece(p, entries + i, n, &pages, err);
    }
    return r;
}

int page_source_finish(struct page_source *p, struct err *err)
{
    return end_epoch(p, err);
}

int page_source_begin_round(struct page_source *p, struct bitmap *pages, const uint8_t *ram, struct err *err)
{
    int r;

    assert(!p->round && pages->bits <= p->config.max_pfn + 1);
    r = open_epoch(p, err);
    if (r < 0)
        return r;
    pthread_mutex_lock(&p->lock);
    p->ram = ram;
    p->round_cursor = 0;
    p->round = pages;
    pthread_mutex_unlock(&p->lock);
    stream_kick(p->config.stream);
    return 0;
}

void page_source_cancel(struct page_source *p)
{
    pthread_mutex_lock(&p->lock);
    p->cancelled = true;
    pthread_cond_broadcast(&p->slot_freed);
    pthread_mutex_unlock(&p->lock);
}

/* Called with the lock held. */
static bool batch_from_round(struct page_source *p, struct batch *b)
{
    uint64_t first;
    uint64_t n;

    b->count = 0;
    while (b->count < BATCH && (n = bitmap_next_run(p->round, p->round_cursor, BATCH - b->count, &first))) {
        bitmap_clear_run(p->round, first, n);
        for (uint64_t pfn = first; pfn < first + n; pfn++) {
            b->entries[b->count] = pfn;
            b->pages[b->count++] = p->ram + pfn * WIRE_PAGE_SIZE;
        }
        p->round_cursor = first + n;
    }
    b->epoch = p->epoch;
    p->stats.pages += b->count;
    p->epoch_records += b->count != 0;
    return b->count != 0;
}

static void batch_from_slot(const struct slot *s, struct batch *b)
{
    const uint8_t *page = s->pages;

    b->epoch = s->epoch;
    b->count = s->count;
    for (uint32_t i = 0; i < s->count; i++) {
        b->entries[i] = s->entries[i];
        b->pages[i] = page;
        if (wire_pfn_has_data(s->entries[i]))
            page += WIRE_PAGE_SIZE;
    }
}

static struct slot *slot_take(struct page_source *p)
{
    struct slot *s = p->head;

    if (!s)
        return NULL;
    p->head = s->next;
    if (!p->head)
        p->tail = NULL;
    return s;
}

static void slot_free(struct page_source *p, struct slot *s)
{
    pthread_mutex_lock(&p->lock);
    s->next = p->unused;
    p->unused = s;
    pthread_cond_signal(&p->slot_freed);
    pthread_mutex_unlock(&p->lock);
}

/* Copies the pages that have data into `to`, for mapped RAM changes under us: what is tested for zero, summed and sent
 * must be one and the same. Returns the octets; zero pages are flagged in the entries. */
static uint32_t copy_pages(struct batch *b, uint8_t *to, uint32_t *ret_zeroes)
{
    uint8_t *at = to;

    *ret_zeroes = 0;
    for (uint32_t i = 0; i < b->count; i++) {
        if (!wire_pfn_has_data(b->entries[i]))
            continue;
        memcpy(at, b->pages[i], WIRE_PAGE_SIZE);
        if (is_zero(at, WIRE_PAGE_SIZE)) {
            b->entries[i] |= WIRE_PFN_ZERO;
            (*ret_zeroes)++;
        } else {
            at += WIRE_PAGE_SIZE;
        }
    }
    return (uint32_t)(at - to);
}

/* A page that is sent again is likely to be sent once more: both ends keep it, and what changed in those that they have is sent. All of
 * RAM, as it goes at first, would only drive these out; and without compression a difference is as long as the page. The pages are in
 * `scratch`. Returns the number of deltas. */
static uint32_t keep_pages(struct page_source *p, struct stream_work *work, struct batch *b)
{
    bool compressed = compress_choice_level(work->choice) != 0;
    uint64_t begin = p->cache && compressed ? clock_thread() : 0;
    uint8_t *page = work->scratch;
    uint32_t deltas = 0;

    for (uint32_t i = 0; p->cache && i < b->count; i++) {
        uint64_t pfn = b->entries[i] & WIRE_PFN_MASK;
        bool again = bitmap_test(&p->sent, pfn);

        if (!again)
            bitmap_set(&p->sent, pfn);
        if (!wire_pfn_has_data(b->entries[i]))
            continue;
        if (again && compressed)
            b->entries[i] |= page_cache_put(p->cache, b->epoch, pfn, page);
        deltas += (b->entries[i] & WIRE_PFN_DELTA) != 0;
        page += WIRE_PAGE_SIZE;
    }
    work->prepare_ns = begin ? clock_thread() - begin : 0; /* so that compression is not chosen for gains that this costs */
    return deltas;
}

static void put_record(struct page_source *p, struct stream_work *work, struct batch *b, uint32_t raw)
{
    struct wire_pages_head head = {.epoch = b->epoch,
                                   .page_count = b->count,
                                   .raw_length = raw,
                                   .checksum = checksum(work->scratch, raw)};

    work->type = WIRE_MEMORY_PAGES;
    work->cookie[2] = keep_pages(p, work, b); /* the checksum is of the pages before that */
    head.encoding = (uint16_t)stream_work_payload(work, wire_pages_overhead(b->count), raw, &head.encoded_length);
    wire_put_pages_head(work->buffer, &head);
    for (uint32_t i = 0; i < b->count; i++)
        put_be64(work->buffer + WIRE_PAGES_HEAD_SIZE + 8 * i, b->entries[i]);
}

/* Worker: the round's pages are all claimed and acknowledged. */
static void end_round_if_done(struct page_source *p)
{
    bool done = false;
    uint64_t first;

    pthread_mutex_lock(&p->lock);
    if (p->round && !p->cancelled && p->in_flight == 0 && !bitmap_next_run(p->round, p->round_cursor, 1, &first)) {
        p->round = NULL;
        done = true;
    }
    pthread_mutex_unlock(&p->lock);
    if (!done)
        return;
    (void)end_epoch(p, NULL); /* a script that fails ends the migration by itself */
    p->config.round_done(p->config.data);
}

static int source_take(void *source, struct stream_work *work, struct err *err)
{
    struct page_source *p = source;
    struct slot *s = NULL;
    struct batch b;
    uint32_t zeroes;
    uint32_t raw;
    bool found;

    (void)err;
    pthread_mutex_lock(&p->lock);
    if (p->cancelled) {
        found = false;
    } else if (p->round) {
        found = batch_from_round(p, &b);
    } else {
        s = slot_take(p);
        found = s != NULL;
    }
    p->in_flight += found;
    pthread_mutex_unlock(&p->lock);
    if (!found) {
        end_round_if_done(p);
        return -EAGAIN;
    }
    if (s)
        batch_from_slot(s, &b);
    raw = copy_pages(&b, work->scratch, &zeroes);
    if (s)
        slot_free(p, s);
    put_record(p, work, &b, raw);
    work->cookie[0] = raw / WIRE_PAGE_SIZE;
    work->cookie[1] = zeroes;
    return 0;
}

static void source_done(void *source, const struct stream_work *work, int error)
{
    struct page_source *p = source;

    pthread_mutex_lock(&p->lock);
    assert(p->in_flight > 0);
    p->in_flight--;
    if (!error) {
        p->stats.sent_pages += work->cookie[0];
        p->stats.zero_pages += work->cookie[1];
        p->stats.delta_pages += work->cookie[2];
    }
    pthread_mutex_unlock(&p->lock);
    if (!error)
        end_round_if_done(p);
}

static const struct stream_source_ops source_ops = {
    .name = "memory",
    .take = source_take,
    .done = source_done,
};

int page_source_create(struct page_source **ret, const struct page_source_config *config, struct err *err)
{
    struct page_source *p = calloc(1, sizeof(*p));

    if (!p)
        return err_set(err, -ENOMEM, "out of memory");
    p->config = *config;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->slot_freed, NULL);
    if (bitmap_init(&p->seen, config->max_pfn + 1) < 0)
        goto no_memory;
    /* Without memory for it pages go as they are. */
    if (config->kept_pages && bitmap_init(&p->sent, config->max_pfn + 1) == 0)
        (void)page_cache_create(&p->cache, config->kept_pages, NULL);
    for (unsigned int i = 0; i < SLOTS; i++) {
        p->slots[i].pages = malloc((size_t)BATCH * WIRE_PAGE_SIZE);
        if (!p->slots[i].pages)
            goto no_memory;
        p->slots[i].next = p->unused;
        p->unused = &p->slots[i];
    }
    *ret = p;
    return stream_attach(config->stream, &source_ops, p, err);

no_memory:
    page_source_destroy(p);
    return err_set(err, -ENOMEM, "out of memory");
}

void page_source_destroy(struct page_source *p)
{
    if (!p)
        return;
    for (unsigned int i = 0; i < SLOTS; i++)
        free(p->slots[i].pages);
    bitmap_finish(&p->seen);
    bitmap_finish(&p->sent);
    page_cache_destroy(p->cache);
    pthread_cond_destroy(&p->slot_freed);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

bool page_source_idle(struct page_source *p)
{
    bool idle;

    pthread_mutex_lock(&p->lock);
    idle = !p->head && !p->round && p->in_flight == 0;
    pthread_mutex_unlock(&p->lock);
    return idle;
}

void page_source_stats(struct page_source *p, struct page_source_stats *ret)
{
    pthread_mutex_lock(&p->lock);
    *ret = p->stats;
    pthread_mutex_unlock(&p->lock);
}
