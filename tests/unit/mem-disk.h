/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A blockdev in memory that counts, fails and calls back when it is told to. The memory belongs to the test and
 * outlives the close of whoever took the blockdev over. */
#ifndef XMOTION_TESTS_MEM_DISK_H
#define XMOTION_TESTS_MEM_DISK_H

#include "base/bytes.h"
#include "base/zero.h"
#include "mirror/blockdev.h"

#include "unit.h"

#include <pthread.h>

struct mem_disk {
    struct blockdev base;
    pthread_mutex_t lock; /* everything below, and the content */
    uint8_t *data;
    struct mem_disk *of; /* a view: reads the content of this one */
    bool tells_holes; /* runs of zero sectors are holes; else all is data */
    uint64_t octets_read;
    unsigned int reads, writes, zeroes, flushes, closes;
    int fail_read, fail_write, fail_extent, fail_flush; /* errno to fail with from now on */
    /* So many of the next writes (and zeroings) that cover octet spoil_at leave it changed. */
    unsigned int spoil;
    uint64_t spoil_at;
    void (*on_read)(struct mem_disk *d, uint64_t offset, size_t len, void *hook_data); /* before the content is taken */
    void *hook_data;
};

static inline struct mem_disk *mem_disk_of(struct blockdev *b)
{
    return (struct mem_disk *)b;
}

static inline void mem_disk_write(struct mem_disk *d, uint64_t offset, const void *from, size_t len)
{
    pthread_mutex_lock(&d->lock);
    memcpy(d->data + offset, from, len);
    pthread_mutex_unlock(&d->lock);
}

static inline int mem_disk_pread(struct blockdev *b, void *buf, size_t len, uint64_t offset, struct err *err)
{
    struct mem_disk *d = mem_disk_of(b), *from = d->of ? d->of : d;
    int r = 0;

    ck_assert(offset <= b->size && len <= b->size - offset && len > 0);
    if (d->on_read)
        d->on_read(d, offset, len, d->hook_data);
    pthread_mutex_lock(&from->lock);
    d->reads++;
    d->octets_read += len;
    if (d->fail_read)
        r = err_set(err, -d->fail_read, "a read that fails");
    else
        memcpy(buf, from->data + offset, len);
    pthread_mutex_unlock(&from->lock);
    return r;
}

static inline void mem_disk_spoil(struct mem_disk *d, uint64_t offset, uint64_t len)
{
    if (!d->spoil || d->spoil_at < offset || d->spoil_at - offset >= len)
        return;
    d->spoil--;
    d->data[d->spoil_at] ^= 1;
}

static inline int mem_disk_pwrite(struct blockdev *b, const void *buf, size_t len, uint64_t offset, struct err *err)
{
    struct mem_disk *d = mem_disk_of(b);
    int r = 0;

    ck_assert(offset <= b->size && len <= b->size - offset && len > 0);
    pthread_mutex_lock(&d->lock);
    d->writes++;
    if (d->fail_write)
        r = err_set(err, -d->fail_write, "a write that fails");
    else
        memcpy(d->data + offset, buf, len);
    mem_disk_spoil(d, offset, len);
    pthread_mutex_unlock(&d->lock);
    return r;
}

/* Any order is right, so the unlikely one. */
static inline int mem_disk_pwrite_many(struct blockdev *b, const struct blockdev_write *writes, uint32_t count, struct err *err)
{
    int r = 0;

    for (uint32_t i = count; r == 0 && i-- > 0;) {
        for (uint32_t k = 0; k < i; k++)
            ck_assert(writes[k].offset + writes[k].len <= writes[i].offset || writes[i].offset + writes[i].len <= writes[k].offset);
        r = mem_disk_pwrite(b, writes[i].buf, writes[i].len, writes[i].offset, err);
    }
    return r;
}

static inline int mem_disk_zero(struct blockdev *b, uint64_t len, uint64_t offset, struct err *err)
{
    struct mem_disk *d = mem_disk_of(b);

    (void)err;
    ck_assert(offset <= b->size && len <= b->size - offset && len > 0);
    pthread_mutex_lock(&d->lock);
    d->zeroes++;
    memset(d->data + offset, 0, len);
    mem_disk_spoil(d, offset, len);
    pthread_mutex_unlock(&d->lock);
    return 0;
}

static inline int mem_disk_flush(struct blockdev *b, struct err *err)
{
    struct mem_disk *d = mem_disk_of(b);

    d->flushes++;
    return d->fail_flush ? err_set(err, -d->fail_flush, "a flush that fails") : 0;
}

static inline int mem_disk_extent(struct blockdev *b, uint64_t offset, uint64_t *ret_length, bool *ret_zero,
                                  struct err *err)
{
    struct mem_disk *d = mem_disk_of(b);
    uint64_t at = offset;

    ck_assert_uint_lt(offset, b->size);
    pthread_mutex_lock(&d->lock);
    *ret_zero = d->tells_holes && is_zero(d->data + offset, 512);
    while (at < b->size && (!d->tells_holes || is_zero(d->data + at, 512) == *ret_zero))
        at += 512;
    pthread_mutex_unlock(&d->lock);
    *ret_length = at - offset;
    return d->fail_extent ? err_set(err, -d->fail_extent, "an extent that fails") : 0;
}

static inline void mem_disk_close(struct blockdev *b)
{
    mem_disk_of(b)->closes++;
}

static inline const struct blockdev_ops *mem_disk_ops(void)
{
    static const struct blockdev_ops ops = {
        .name = "mem",
        .pread = mem_disk_pread,
        .pwrite = mem_disk_pwrite,
        .pwrite_many = mem_disk_pwrite_many,
        .zero = mem_disk_zero,
        .flush = mem_disk_flush,
        .extent = mem_disk_extent,
        .close = mem_disk_close,
    };

    return &ops;
}

/* Reads what another holds; nothing to remove. */
static inline void mem_disk_view(struct mem_disk *d, struct mem_disk *of)
{
    memset(d, 0, sizeof(*d));
    d->base = (struct blockdev){.ops = mem_disk_ops(), .size = of->base.size, .sector_size = 512};
    d->of = of;
}

static inline void mem_disk_make(struct mem_disk *d, uint64_t size)
{
    memset(d, 0, sizeof(*d));
    d->base = (struct blockdev){.ops = mem_disk_ops(), .size = size, .sector_size = 512};
    pthread_mutex_init(&d->lock, NULL);
    d->data = calloc(1, size);
    ck_assert_ptr_nonnull(d->data);
}

/* Whoever took it over has closed it, once. */
static inline void mem_disk_remove(struct mem_disk *d)
{
    ck_assert_uint_eq(d->closes, 1);
    pthread_mutex_destroy(&d->lock);
    free(d->data);
}

/* ---- content, the same in every run ---- */

static inline uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline void fill_random(void *to, size_t len, uint64_t *state)
{
    for (uint8_t *at = to; len; at += MIN(len, 8), len -= MIN(len, 8)) {
        uint64_t n = next_random(state) | 1;

        memcpy(at, &n, MIN(len, 8));
    }
}

#endif
