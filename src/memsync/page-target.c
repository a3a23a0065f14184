/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memsync/page-target.h"

#include "base/bitmap.h"
#include "base/bytes.h"
#include "base/checksum.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "memsync/libxc-stream.h"
#include "memsync/page-cache.h"
#include "transport/compress.h"
#include "transport/wire.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define SCRIPT_MAX MIB(160) /* octets of records that may wait: a QEMU state and more */

struct step {
    struct step *next;
    enum wire_type type;
    uint64_t epoch;
    uint64_t records;
    uint32_t length;
    uint8_t octets[];
};

struct page_target {
    struct page_target_config config;
    pthread_t thread;
    bool thread_runs;
    pthread_mutex_t lock;
    pthread_cond_t changed;   /* anything below */
    struct step *head;
    struct step *tail;
    uint64_t queued;          /* octets */
    bool ended;               /* no step comes any more */
    bool cancelled;
    bool open;                /* pages of `epoch` are taken now */
    uint64_t epoch;
    uint64_t taken;           /* records of it that were written */

    /* Control thread only: the order of the script. */
    uint64_t next_epoch;
    bool script_open;

    pthread_mutex_t write_lock; /* stream: one record after another */
    struct bitmap written;      /* mapped: pages that may be other than zero */
    struct page_cache *cache;   /* NULL: nothing was granted */
};

/* -- the script, control thread -- */

static int check_step(struct page_target *p, const struct record *record, struct err *err)
{
    uint64_t epoch = record->length >= 8 ? get_be64(record->body) : 0;
    uint32_t expected = record->type == WIRE_EPOCH_BEGIN ? 8 : 16;

    if (record->type == WIRE_MEMORY_RECORD && p->script_open)
        return err_set(err, -EPROTO, "memory script: a stream record inside of epoch %llu",
                       (unsigned long long)p->next_epoch);
    if (record->type == WIRE_MEMORY_RECORD)
        return 0;
    if (record->length != expected)
        return err_set(err, -EPROTO, "memory script: %s of %u octets, expected %u", wire_type_name((uint16_t)record->type),
                       record->length, expected);
    if (epoch != p->next_epoch || p->script_open != (record->type == WIRE_EPOCH_END))
        return err_set(err, -EPROTO, "memory script: %s %llu out of order, at epoch %llu",
                       wire_type_name((uint16_t)record->type), (unsigned long long)epoch,
                       (unsigned long long)p->next_epoch);
    p->script_open = record->type == WIRE_EPOCH_BEGIN;
    p->next_epoch += record->type == WIRE_EPOCH_END;
    return 0;
}

int page_target_script(struct page_target *p, const struct record *record, struct err *err)
{
    bool stream_record = record->type == WIRE_MEMORY_RECORD;
    struct step *s;
    int r = check_step(p, record, err);

    if (r < 0)
        return r;
    if (stream_record && p->config.fd < 0)
        return err_set(err, -EPROTO, "memory script: a stream record for a guest that has no stream");
    s = calloc(1, sizeof(*s) + (stream_record ? record->length : 0));
    if (!s)
        return err_set(err, -ENOMEM, "out of memory");
    s->type = record->type;
    if (stream_record) {
        s->length = record->length;
        memcpy(s->octets, record->body, record->length);
    } else {
        s->epoch = get_be64(record->body);
        s->records = record->type == WIRE_EPOCH_END ? get_be64(record->body + 8) : 0;
    }
    pthread_mutex_lock(&p->lock);
    p->queued += s->length + sizeof(*s);
    if (p->queued > SCRIPT_MAX)
        r = err_set(err, -EPROTO, "memory script: over %llu MiB wait for pages that do not come",
                    (unsigned long long)(SCRIPT_MAX >> 20));
    if (p->tail)
        p->tail->next = s;
    else
        p->head = s;
    p->tail = s;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return r;
}

void page_target_end(struct page_target *p)
{
    pthread_mutex_lock(&p->lock);
    p->ended = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

void page_target_cancel(struct page_target *p)
{
    pthread_mutex_lock(&p->lock);
    p->cancelled = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

/* -- the script, own thread -- */

/* NULL: the end, or cancelled. */
static struct step *next_step(struct page_target *p)
{
    struct step *s = NULL;

    pthread_mutex_lock(&p->lock);
    while (!p->head && !p->ended && !p->cancelled)
        pthread_cond_wait(&p->changed, &p->lock);
    if (!p->cancelled && p->head) {
        s = p->head;
        p->head = s->next;
        if (!p->head)
            p->tail = NULL;
        p->queued -= s->length + sizeof(*s);
    }
    pthread_mutex_unlock(&p->lock);
    return s;
}

static int wait_epoch(struct page_target *p, uint64_t records, struct err *err)
{
    int r = 0;

    pthread_mutex_lock(&p->lock);
    while (p->taken < records && !p->cancelled)
        pthread_cond_wait(&p->changed, &p->lock);
    p->open = false;
    if (p->taken > records)
        r = err_set(err, -EPROTO, "memory epoch %llu has %llu records, %llu were announced",
                    (unsigned long long)p->epoch, (unsigned long long)p->taken, (unsigned long long)records);
    pthread_mutex_unlock(&p->lock);
    return r;
}

static int carry_out(struct page_target *p, const struct step *s, struct err *err)
{
    int r;

    if (s->type == WIRE_MEMORY_RECORD) {
        r = fd_write_full(p->config.fd, s->octets, s->length);
        return r < 0 ? err_errno(err, r, "giving the guest's stream to its restore") : 0;
    }
    if (s->type == WIRE_EPOCH_END)
        return wait_epoch(p, s->records, err);
    pthread_mutex_lock(&p->lock);
    p->open = true;
    p->epoch = s->epoch;
    p->taken = 0;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return 0;
}

static void *script_thread(void *data)
{
    struct page_target *p = data;
    struct err err = {0};
    struct step *s;
    int r = 0;

    while (r == 0 && (s = next_step(p))) {
        r = carry_out(p, s, &err);
        free(s);
    }
    if (r == 0 && __atomic_load_n(&p->cancelled, __ATOMIC_ACQUIRE))
        (void)err_set(&err, -ECANCELED, "cancelled");
    if (err.code)
        page_target_cancel(p);
    p->config.script_done(p->config.data, &err);
    return NULL;
}

/* -- pages, data threads -- */

static int enter_epoch(struct page_target *p, uint64_t epoch, struct err *err)
{
    int r = 0;

    pthread_mutex_lock(&p->lock);
    while (!p->cancelled && !(p->open && p->epoch == epoch)) {
        if (p->epoch > epoch || (p->epoch == epoch && p->taken)) {
            r = err_set(err, -EPROTO, "pages of memory epoch %llu, which is over", (unsigned long long)epoch);
            break;
        }
        pthread_cond_wait(&p->changed, &p->lock);
    }
    if (p->cancelled)
        r = err_set(err, -ECANCELED, "cancelled");
    pthread_mutex_unlock(&p->lock);
    return r;
}

static void leave_epoch(struct page_target *p)
{
    pthread_mutex_lock(&p->lock);
    p->taken++;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
}

static int write_mapped(struct page_target *p, const uint64_t *entries, uint32_t count, const uint8_t *pages,
                        struct err *err)
{
    for (uint32_t i = 0; i < count; i++) {
        uint64_t pfn = entries[i] & WIRE_PFN_MASK;
        uint8_t *to = p->config.ram + pfn * WIRE_PAGE_SIZE;

        if (entries[i] & WIRE_PFN_TYPE_MASK)
            return err_set(err, -EPROTO, "page frame %#llx has a type, which an embedded guest's do not",
                           (unsigned long long)pfn);
        if (wire_pfn_has_data(entries[i])) {
            bitmap_set(&p->written, pfn);
            memcpy(to, pages, WIRE_PAGE_SIZE);
            pages += WIRE_PAGE_SIZE;
        } else if (bitmap_test(&p->written, pfn)) {
            memset(to, 0, WIRE_PAGE_SIZE);
        }
    }
    return 0;
}

static int write_stream(struct page_target *p, const uint64_t *entries, uint32_t count, const uint8_t *pages,
                        struct err *err)
{
    int r;

    pthread_mutex_lock(&p->write_lock);
    r = libxc_write_pages(p->config.fd, entries, count, pages, err);
    pthread_mutex_unlock(&p->write_lock);
    return r;
}

/* Does what the entries' flags say, and takes these off: deltas become pages, what is to be kept is. */
static int take_kept(struct page_target *p, uint64_t epoch, uint64_t *entries, uint32_t count, uint8_t *pages, struct err *err)
{
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < count; i++) {
        if (entries[i] & WIRE_PFN_KEPT && !p->cache)
            return err_set(err, -EPROTO, "page frame %#llx is to be kept, but that was not granted",
                           (unsigned long long)(entries[i] & WIRE_PFN_MASK));
        if (entries[i] & WIRE_PFN_KEPT)
            r = page_cache_take(p->cache, epoch, entries[i], pages, err);
        entries[i] &= ~(WIRE_PFN_KEPT | WIRE_PFN_DELTA);
        pages += wire_pfn_has_data(entries[i]) ? WIRE_PAGE_SIZE : 0;
    }
    return r;
}

/* `raw` has room for the payload, where it may be changed. */
static int unpack(const struct wire_pages_head *head, const uint8_t *payload, uint8_t *raw, struct err *err)
{
    if (head->encoding == WIRE_ZSTD)
        return compress_decode(raw, head->raw_length, payload, head->encoded_length, err);
    memcpy(raw, payload, head->raw_length);
    return 0;
}

static bool any_kept(const uint64_t *entries, uint32_t count)
{
    uint64_t flags = 0;

    for (uint32_t i = 0; i < count; i++)
        flags |= entries[i];
    return flags & WIRE_PFN_KEPT;
}

/* The epoch has begun: what deltas refer to is there. The checksum is of the pages that they become, so that ends whose kept pages
 * differ are found out. */
static int take_pages(struct page_target *p, const struct wire_pages_head *head, uint64_t *entries, const uint8_t *payload,
                      uint8_t *raw, struct err *err)
{
    int r = raw ? take_kept(p, head->epoch, entries, head->page_count, raw, err) : 0;

    if (r < 0)
        return r;
    if (raw)
        payload = raw;
    if (checksum(payload, head->raw_length) != head->checksum)
        return err_set(err, -EBADMSG, "pages of memory epoch %llu are not what was read at the source (checksum)",
                       (unsigned long long)head->epoch);
    return p->config.fd >= 0 ? write_stream(p, entries, head->page_count, payload, err)
                             : write_mapped(p, entries, head->page_count, payload, err);
}

int page_target_take(struct page_target *p, const struct record *record, struct err *err)
{
    uint64_t entries[WIRE_PAGES_MAX];
    CLEANUP_FREE uint8_t *raw = NULL;
    struct wire_pages_head head;
    const uint8_t *payload;
    int r = wire_check_pages(record->body, record->length, p->config.max_pfn, &head, &payload, err);

    if (r < 0)
        return r;
    for (uint32_t i = 0; i < head.page_count; i++)
        entries[i] = get_be64(record->body + WIRE_PAGES_HEAD_SIZE + 8 * i);
    /* Plain pages that nobody keeps are written from where they are. */
    if (head.encoding == WIRE_ZSTD || any_kept(entries, head.page_count)) {
        raw = malloc(MAX(head.raw_length, 1u));
        if (!raw)
            return err_set(err, -ENOMEM, "out of memory");
        r = unpack(&head, payload, raw, err);
    }
    if (r == 0)
        r = enter_epoch(p, head.epoch, err);
    if (r == 0)
        r = take_pages(p, &head, entries, payload, raw, err);
    if (r == 0)
        leave_epoch(p);
    return r;
}

/* -- life -- */

int page_target_create(struct page_target **ret, const struct page_target_config *config, struct err *err)
{
    struct page_target *p = calloc(1, sizeof(*p));

    if (!p) {
        if (config->fd >= 0)
            (void)close(config->fd);
        return err_set(err, -ENOMEM, "out of memory");
    }
    p->config = *config;
    pthread_mutex_init(&p->lock, NULL);
    pthread_mutex_init(&p->write_lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    if (config->fd < 0 && bitmap_init(&p->written, config->max_pfn + 1) < 0)
        goto no_memory;
    if (config->kept_pages && page_cache_create(&p->cache, config->kept_pages, err) < 0)
        p->config.kept_pages = 0;
    if (pthread_create(&p->thread, NULL, script_thread, p))
        goto no_memory;
    p->thread_runs = true;
    *ret = p;
    return 0;

no_memory:
    page_target_destroy(p);
    return err_set(err, -ENOMEM, "out of memory");
}

uint64_t page_target_kept_pages(const struct page_target *p)
{
    return p->config.kept_pages;
}

void page_target_destroy(struct page_target *p)
{
    if (!p)
        return;
    page_target_cancel(p);
    if (p->thread_runs)
        (void)pthread_join(p->thread, NULL);
    while (p->head) {
        struct step *s = p->head;

        p->head = s->next;
        free(s);
    }
    if (p->config.fd >= 0)
        (void)close(p->config.fd);
    bitmap_finish(&p->written);
    page_cache_destroy(p->cache);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->write_lock);
    pthread_mutex_destroy(&p->lock);
    free(p);
}
