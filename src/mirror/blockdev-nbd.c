/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk behind NBD. A handle of libnbd is used by one thread at a time: calls borrow one from a
 * pool. */
#include "mirror/blockdev.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/fault.h"

#include <assert.h>
#include <libnbd.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CONNECTIONS_MAX 16u
#define REQUEST_MAX     MIB(1)   /* of data */
#define IN_FLIGHT   32u      /* reads at a server at once, of one call */
#define RANGE_MAX       MIB(512) /* of zeroes and of extents: no data goes over the wire */

struct blockdev_nbd {
    struct blockdev base;
    pthread_mutex_t lock;
    pthread_cond_t returned;
    struct nbd_handle *idle[CONNECTIONS_MAX];
    unsigned int idle_count;
    unsigned int count;
    size_t request_max;
    bool has_zero;
    bool has_flush;
    bool has_extents;
};

static struct blockdev_nbd *nbd_of(struct blockdev *b)
{
    return (struct blockdev_nbd *)b; /* base comes first */
}

static int nbd_failed(struct err *err, const char *what)
{
    int code = nbd_get_errno();

    /* A server that is gone is a broken disk, not a lost peer of the migration. */
    if (code == ENOTCONN || code == EPIPE || code == ECONNRESET || code == ESHUTDOWN)
        code = EIO;
    return err_set(err, code ? -code : -EIO, "%s: %s", what, nbd_get_error());
}

static struct nbd_handle *borrow(struct blockdev_nbd *n)
{
    struct nbd_handle *h;

    (void)pthread_mutex_lock(&n->lock);
    while (!n->idle_count)
        (void)pthread_cond_wait(&n->returned, &n->lock);
    h = n->idle[--n->idle_count];
    (void)pthread_mutex_unlock(&n->lock);
    return h;
}

static void give_back(struct blockdev_nbd *n, struct nbd_handle *h)
{
    (void)pthread_mutex_lock(&n->lock);
    assert(n->idle_count < n->count);
    n->idle[n->idle_count++] = h;
    (void)pthread_cond_signal(&n->returned);
    (void)pthread_mutex_unlock(&n->lock);
}

static int nbd_dev_pread(struct blockdev *b, void *buf, size_t len, uint64_t offset,
                         struct err *err)
{
    struct blockdev_nbd *n = nbd_of(b);
    struct nbd_handle *h = borrow(n);
    uint8_t *p = buf;
    int r = fault_point("disk.read", err);

    assert(offset <= b->size && len <= b->size - offset);
    while (r == 0 && len) {
        size_t part = MIN(len, n->request_max);

        if (nbd_pread(h, p, part, offset, 0) < 0)
            r = nbd_failed(err, "NBD read");
        p += part;
        offset += part;
        len -= part;
    }
    give_back(n, h);
    return r;
}

/* Takes answers until so many requests are left. An error does not end the waiting: until its answer is there a request may write to
 * its buffer. A connection that has broken has none. */
static int wait_for_reads(struct nbd_handle *h, int left, struct err *err)
{
    int r = 0;

    for (;;) {
        int64_t cookie;

        while ((cookie = nbd_aio_peek_command_completed(h)) > 0) {
            if (nbd_aio_command_completed(h, (uint64_t)cookie) < 0 && r == 0)
                r = nbd_failed(err, "NBD read");
        }
        if (nbd_aio_in_flight(h) <= left)
            return r;
        if (nbd_poll(h, -1) < 0) {
            r = r < 0 ? r : nbd_failed(err, "NBD read");
            (void)nbd_shutdown(h, LIBNBD_SHUTDOWN_ABANDON_PENDING); /* nothing is written to the buffers any more */
            return r;
        }
    }
}

static int begin_read(struct blockdev_nbd *n, struct nbd_handle *h, const struct blockdev_read *read, struct err *err)
{
    int r = 0;

    for (size_t done = 0; r == 0 && done < read->len; done += n->request_max) {
        r = wait_for_reads(h, IN_FLIGHT - 1, err);
        if (r == 0 && nbd_aio_pread(h, (uint8_t *)read->buf + done, MIN(read->len - done, n->request_max), read->offset + done,
                                    NBD_NULL_COMPLETION, 0) < 0)
            r = nbd_failed(err, "NBD read");
    }
    return r;
}

static int read_many(struct blockdev_nbd *n, struct nbd_handle *h, const struct blockdev_read *reads, uint32_t count, struct err *err)
{
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = begin_read(n, h, &reads[i], err);
    if (r < 0)
        (void)wait_for_reads(h, 0, NULL);
    else
        r = wait_for_reads(h, 0, err);
    return r;
}

/* Each counts as if it had taken as long as all: nobody measures an NBD disk closer (care.h). */
static void tell_all(const struct blockdev_reader *reader, const struct blockdev_read *reads, uint32_t count, uint64_t ns)
{
    uint64_t octets = 0;

    for (uint32_t i = 0; i < count; i++)
        octets += reads[i].len;
    blockdev_reads_ended(reader, count, octets, ns * count);
}

static int nbd_dev_pread_many(struct blockdev *b, const struct blockdev_read *reads, uint32_t count,
                              const struct blockdev_reader *reader, struct err *err)
{
    struct blockdev_nbd *n = nbd_of(b);
    struct nbd_handle *h = borrow(n);
    uint64_t begin = clock_now();
    int r = fault_point("disk.read", err);

    if (r == 0)
        r = read_many(n, h, reads, count, err);
    give_back(n, h);
    tell_all(reader, reads, count, clock_now() - begin);
    return r;
}

static int write_parts(struct blockdev_nbd *n, struct nbd_handle *h, const uint8_t *p, size_t len,
                       uint64_t offset, struct err *err)
{
    while (len) {
        size_t part = MIN(len, n->request_max);

        if (nbd_pwrite(h, p, part, offset, 0) < 0)
            return nbd_failed(err, "NBD write");
        p += part;
        offset += part;
        len -= part;
    }
    return 0;
}

static int nbd_dev_pwrite(struct blockdev *b, const void *buf, size_t len, uint64_t offset,
                          struct err *err)
{
    struct blockdev_nbd *n = nbd_of(b);
    struct nbd_handle *h = borrow(n);
    int r;

    assert(offset <= b->size && len <= b->size - offset);
    r = write_parts(n, h, buf, len, offset, err);
    give_back(n, h);
    return r;
}

/* For servers that cannot zero. */
static int write_zeroes(struct blockdev_nbd *n, struct nbd_handle *h, uint64_t len, uint64_t offset,
                        struct err *err)
{
    uint8_t *zeroes = calloc(1, MIN(len, n->request_max));
    int r = zeroes ? 0 : err_set(err, -ENOMEM, "out of memory");

    while (r == 0 && len) {
        size_t part = MIN(len, n->request_max);

        r = write_parts(n, h, zeroes, part, offset, err);
        offset += part;
        len -= part;
    }
    free(zeroes);
    return r;
}

static int nbd_dev_zero(struct blockdev *b, uint64_t len, uint64_t offset, struct err *err)
{
    struct blockdev_nbd *n = nbd_of(b);
    struct nbd_handle *h = borrow(n);
    int r = 0;

    assert(offset <= b->size && len <= b->size - offset);
    if (!n->has_zero)
        r = write_zeroes(n, h, len, offset, err);
    while (n->has_zero && r == 0 && len) {
        uint64_t part = MIN(len, RANGE_MAX);

        if (nbd_zero(h, part, offset, 0) < 0)
            r = nbd_failed(err, "NBD zero");
        offset += part;
        len -= part;
    }
    give_back(n, h);
    return r;
}

/* One flush is enough for all connections: more than one are opened only to a server that promises
 * it. */
static int nbd_dev_flush(struct blockdev *b, struct err *err)
{
    struct blockdev_nbd *n = nbd_of(b);
    struct nbd_handle *h;
    int r = 0;

    if (!n->has_flush)
        return 0;
    h = borrow(n);
    if (nbd_flush(h, 0) < 0)
        r = nbd_failed(err, "NBD flush");
    give_back(n, h);
    return r;
}

struct first_extent {
    uint64_t length; /* 0: none came */
    bool zero;
};

static int extent_done(void *user, const char *context, uint64_t offset, uint32_t *entries,
                       size_t count, int *error)
{
    struct first_extent *first = user;

    if (count < 2 || strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
        return 0;
    first->length = entries[0];
    first->zero = entries[1] & LIBNBD_STATE_ZERO;
    return 0;
}

/* Each call asks the server: an answer kept from before a block was written would lose that write,
 * as a pass clears marks first and asks then. */
static int nbd_dev_extent(struct blockdev *b, uint64_t offset, uint64_t *ret_length, bool *ret_zero,
                          struct err *err)
{
    struct blockdev_nbd *n = nbd_of(b);
    struct first_extent first = {0, false};
    struct nbd_handle *h;
    int r = 0;

    assert(offset < b->size);
    *ret_length = b->size - offset;
    *ret_zero = false;
    if (!n->has_extents)
        return 0;
    h = borrow(n);
    if (nbd_block_status(h, MIN(b->size - offset, RANGE_MAX), offset,
                         (nbd_extent_callback){.callback = extent_done, .user_data = &first},
                         LIBNBD_CMD_FLAG_REQ_ONE) < 0)
        r = nbd_failed(err, "NBD block status");
    give_back(n, h);
    if (r < 0)
        return r;
    if (first.length)
        *ret_length = MIN(first.length, b->size - offset);
    *ret_zero = first.length && first.zero;
    return 0;
}

static void nbd_dev_close(struct blockdev *b)
{
    struct blockdev_nbd *n = nbd_of(b);

    assert(n->idle_count == n->count); /* no call is under way */
    for (unsigned int i = 0; i < n->count; i++) {
        (void)nbd_shutdown(n->idle[i], 0);
        nbd_close(n->idle[i]);
    }
    (void)pthread_cond_destroy(&n->returned);
    (void)pthread_mutex_destroy(&n->lock);
    free(n);
}

static const struct blockdev_ops nbd_ops = {
    .name = "nbd",
    .pread = nbd_dev_pread,
    .pread_many = nbd_dev_pread_many,
    .pwrite = nbd_dev_pwrite,
    .zero = nbd_dev_zero,
    .flush = nbd_dev_flush,
    .extent = nbd_dev_extent,
    .close = nbd_dev_close,
};

static int add_connection(struct blockdev_nbd *n, const char *uri, struct err *err)
{
    struct nbd_handle *h = nbd_create();

    if (!h)
        return nbd_failed(err, "NBD");
    if (nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) < 0 ||
        nbd_connect_uri(h, uri) < 0) {
        int r = nbd_failed(err, uri);

        nbd_close(h);
        return r;
    }
    n->idle[n->idle_count++] = h;
    n->count++;
    return 0;
}

/* What the server can do, as its first connection tells. */
static int learn(struct blockdev_nbd *n, const char *uri, unsigned int flags, struct err *err)
{
    struct nbd_handle *h = n->idle[0];
    int64_t size = nbd_get_size(h);
    int64_t smallest = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM);
    int64_t largest = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);

    if (size < 0)
        return nbd_failed(err, uri);
    if (flags & BLOCKDEV_WRITE && nbd_is_read_only(h))
        return err_set(err, -EROFS, "%s cannot be written", uri);
    n->base.size = (uint64_t)size;
    n->base.sector_size = smallest > 512 ? BLOCKDEV_ALIGN : 512;
    n->request_max = largest > 0 ? MIN((size_t)largest, REQUEST_MAX) : REQUEST_MAX;
    n->has_zero = nbd_can_zero(h) > 0;
    n->has_flush = nbd_can_flush(h) > 0;
    n->has_extents = nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
    return 0;
}

int blockdev_open_nbd(struct blockdev **ret, const char *uri, unsigned int flags,
                      unsigned int connections, struct err *err)
{
    struct blockdev_nbd *n = calloc(1, sizeof(*n));
    int r;

    if (!n)
        return err_set(err, -ENOMEM, "out of memory");
    n->base.ops = &nbd_ops;
    (void)pthread_mutex_init(&n->lock, NULL);
    (void)pthread_cond_init(&n->returned, NULL);
    r = add_connection(n, uri, err);
    if (r == 0)
        r = learn(n, uri, flags, err);
    if (r == 0 && nbd_can_multi_conn(n->idle[0]) <= 0)
        connections = 1;
    while (r == 0 && n->count < MIN(connections, CONNECTIONS_MAX))
        r = add_connection(n, uri, err);
    if (r < 0) {
        nbd_dev_close(&n->base);
        return r;
    }
    *ret = &n->base;
    return 0;
}
