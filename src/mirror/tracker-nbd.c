/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads the bitmap that nbdkit-xmotion-plugin.so keeps (nbd-bitmap.h). */
#include "mirror/tracker.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "mirror/nbd-bitmap.h"

#include <assert.h>
#include <fcntl.h>
#include <libnbd.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define RESET_TRIES 1000

struct tracker_nbd {
    struct tracker base;
    struct nbd_bitmap_layout layout;
    struct nbd_bitmap_header *header;
    uint64_t *summary;
    uint64_t *bits;
    int fd;
};

static_assert(NBD_BITMAP_GRANULARITY == TRACKER_GRANULARITY, "one bit means the same");

static struct tracker_nbd *nbd_of(struct tracker *t)
{
    return (struct tracker_nbd *)t; /* base comes first */
}

static uint64_t counter(const uint64_t *p)
{
    return __atomic_load_n(p, __ATOMIC_SEQ_CST);
}

/* Marks may be lost when the server is gone: another one may serve the disk by now. */
static int check_alive(struct tracker_nbd *n, struct err *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};

    if (fcntl(n->fd, F_OFD_GETLK, &lock) < 0)
        return err_errno(err, -errno, "asking for the NBD server's lock");
    if (lock.l_type == F_UNLCK)
        return err_set(err, -EIO,
                       "the NBD server that kept the bitmap of written blocks (pid %llu) is gone",
                       (unsigned long long)n->header->server_pid);
    return 0;
}

/* Words of one page of the bitmap; the last page has fewer. */
static uint64_t page_words(const struct tracker_nbd *n, uint64_t page)
{
    uint64_t words = bitmap_words(n->layout.bits) - page * NBD_BITMAP_PAGE_WORDS;

    return words < NBD_BITMAP_PAGE_WORDS ? words : NBD_BITMAP_PAGE_WORDS;
}

static uint64_t page_take(struct tracker_nbd *n, uint64_t page, struct bitmap *dirty)
{
    uint64_t first = page * NBD_BITMAP_PAGE_WORDS;
    struct bitmap part = {dirty->words + first, page_words(n, page) * 64};
    uint64_t taken = bitmap_take(&part, n->bits + first);

    (void)__atomic_fetch_add(&n->header->taken, taken, __ATOMIC_SEQ_CST);
    return taken;
}

static uint64_t page_count(struct tracker_nbd *n, uint64_t page)
{
    struct bitmap part = {n->bits + page * NBD_BITMAP_PAGE_WORDS, page_words(n, page) * 64};

    return bitmap_count(&part);
}

/* Takes all marks into `dirty`, or counts them when it is NULL. */
static uint64_t walk(struct tracker_nbd *n, struct bitmap *dirty)
{
    uint64_t words = bitmap_words(n->layout.pages);
    uint64_t blocks = 0;

    for (uint64_t i = 0; i < words; i++) {
        uint64_t pages = counter(&n->summary[i]);

        if (pages && dirty) /* clear first: what is marked from here on shows again */
            pages = __atomic_exchange_n(&n->summary[i], 0, __ATOMIC_SEQ_CST);
        for (; pages; pages &= pages - 1) {
            uint64_t page = i * 64 + (uint64_t)__builtin_ctzll(pages);

            if (page < n->layout.pages)
                blocks += dirty ? page_take(n, page, dirty) : page_count(n, page);
        }
    }
    return blocks;
}

static int nbd_collect(struct tracker *t, struct bitmap *dirty, uint64_t *ret_blocks,
                       struct err *err)
{
    struct tracker_nbd *n = nbd_of(t);
    int r;

    assert(dirty->bits == t->blocks);
    r = check_alive(n, err);
    if (r < 0)
        return r;
    *ret_blocks = walk(n, dirty);
    return 0;
}

static uint64_t nbd_count(struct tracker *t)
{
    return walk(nbd_of(t), NULL);
}

/* The counters agree at all times but while a tracker dies in the middle of a collect; then `taken`
 * is set right, at a moment when nothing is marked meanwhile. */
static int nbd_reset(struct tracker *t, struct err *err)
{
    struct tracker_nbd *n = nbd_of(t);
    int r;

    r = check_alive(n, err);
    if (r < 0)
        return r;
    for (int i = 0; i < RESET_TRIES; i++) {
        uint64_t set = counter(&n->header->set);
        uint64_t present = walk(n, NULL);

        if (counter(&n->header->set) == set && counter(&n->header->in_flight) == 0) {
            __atomic_store_n(&n->header->taken, set - present, __ATOMIC_SEQ_CST);
            (void)__atomic_fetch_add(&n->header->generation, 1, __ATOMIC_SEQ_CST);
            return 0;
        }
        if (counter(&n->header->taken) + present == set)
            return 0;
        clock_sleep(NS_PER_MS);
    }
    return err_set(err, -EBUSY, "the NBD disk is written without a pause: its counters stay wrong");
}

static int nbd_drain(struct tracker *t, uint64_t timeout_ns, struct err *err)
{
    struct tracker_nbd *n = nbd_of(t);
    uint64_t end = clock_now() + timeout_ns;
    uint64_t in_flight;

    while ((in_flight = counter(&n->header->in_flight)) != 0) {
        if (clock_now() >= end)
            return err_set(err, -ETIMEDOUT, "%llu requests are still in flight at the NBD server",
                           (unsigned long long)in_flight);
        clock_sleep(20 * NS_PER_US);
    }
    return check_alive(n, err);
}

static int nbd_audit(struct tracker *t, struct err *err)
{
    struct tracker_nbd *n = nbd_of(t);
    const struct nbd_bitmap_header *h = n->header;
    uint64_t started = counter(&h->started);
    uint64_t completed = counter(&h->completed);
    uint64_t marked = counter(&h->marked);
    uint64_t taken = counter(&h->taken);
    uint64_t present = walk(n, NULL);
    uint64_t set = counter(&h->set);
    int r;

    r = check_alive(n, err);
    if (r < 0)
        return r;
    if (counter(&h->in_flight) != 0 || started != completed || completed != marked)
        return err_set(
            err, -EIO, "the NBD server counts %llu octets of writes begun, %llu done, %llu marked",
            (unsigned long long)started, (unsigned long long)completed, (unsigned long long)marked);
    if (set != taken + present)
        return err_set(
            err, -EIO, "the NBD server set %llu marks, but %llu were taken and %llu are there",
            (unsigned long long)set, (unsigned long long)taken, (unsigned long long)present);
    return 0;
}

/* A filter of nbdkit stands between the export and the file: it may show something else, or hold writes back. */
static bool has_filter(uint64_t pid)
{
    char path[64];
    char line[4096];
    CLEANUP_CLOSE int fd = -1;
    ssize_t n;

    (void)snprintf(path, sizeof(path), "/proc/%llu/cmdline", (unsigned long long)pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : read(fd, line, sizeof(line) - 1);
    if (n <= 0 || (size_t)n == sizeof(line) - 1) /* nobody knows */
        return true;
    line[n] = '\0';
    for (const char *p = line; p < line + n; p += strlen(p) + 1) {
        if (strncmp(p, "--fi", 4) == 0)
            return true;
    }
    return false;
}

/* The server's own descriptor of the file, by /proc: it is the same file, whatever its path means here. */
static int nbd_backing(struct tracker *t, char *ret, size_t size, struct err *err)
{
    struct tracker_nbd *n = nbd_of(t);
    const struct nbd_bitmap_header *h = n->header;
    struct stat st;

    (void)snprintf(ret, size, "/proc/%llu/fd/%u", (unsigned long long)h->server_pid, h->file_fd_1 - 1);
    if (!h->file_fd_1 || has_filter(h->server_pid) || stat(ret, &st) < 0 || st.st_ino != h->file_inode ||
        (uint32_t)st.st_dev != h->file_device)
        return err_set(err, -ENOTSUP, "the file of the NBD server cannot be read directly");
    return check_alive(n, err);
}

static void nbd_destroy(struct tracker *t)
{
    struct tracker_nbd *n = nbd_of(t);

    if (n->header)
        (void)munmap(n->header, n->layout.total);
    if (n->fd >= 0)
        (void)close(n->fd);
    free(n);
}

static const struct tracker_ops nbd_ops = {
    .name = "nbd",
    .collect = nbd_collect,
    .count = nbd_count,
    .reset = nbd_reset,
    .drain = nbd_drain,
    .audit = nbd_audit,
    .backing = nbd_backing,
    .destroy = nbd_destroy,
};

/* "xmotion bitmap=PATH id=HEX"; the path may hold blanks. */
static int parse_description(const char *text, char *ret_path, uint64_t *ret_id, struct err *err)
{
    size_t prefix = strlen(NBD_BITMAP_DESCRIPTION);
    const char *id = NULL;

    if (text && strncmp(text, NBD_BITMAP_DESCRIPTION, prefix) == 0)
        for (const char *p = text; (p = strstr(p, NBD_BITMAP_ID)); p++)
            id = p;
    if (!id || (size_t)(id - text) - prefix >= PATH_MAX)
        return err_set(err, -ENOTSUP,
                       "this NBD server does not tell what is written: serve the disk by "
                       "\"nbdkit nbdkit-xmotion-plugin.so file=PATH\"");
    memcpy(ret_path, text + prefix, (size_t)(id - text) - prefix);
    ret_path[(size_t)(id - text) - prefix] = '\0';
    *ret_id = strtoull(id + strlen(NBD_BITMAP_ID), NULL, 16);
    return 0;
}

static int find_bitmap(const char *uri, char *ret_path, uint64_t *ret_id, uint64_t *ret_size,
                       struct err *err)
{
    struct nbd_handle *h = nbd_create();
    char *text = NULL;
    int64_t size;
    int r;

    if (!h)
        return err_set(err, -ENOMEM, "NBD: %s", nbd_get_error());
    if (nbd_set_full_info(h, true) < 0 || nbd_connect_uri(h, uri) < 0 ||
        (size = nbd_get_size(h)) < 0) {
        r = nbd_get_errno() ? -nbd_get_errno() : -EIO;
        (void)err_set(err, r, "%s: %s", uri, nbd_get_error());
    } else {
        text = nbd_get_export_description(h);
        *ret_size = (uint64_t)size;
        r = parse_description(text, ret_path, ret_id, err);
    }
    free(text);
    (void)nbd_shutdown(h, 0);
    nbd_close(h);
    return r;
}

/* Maps the file; everything in it is checked before it is believed, its length first. */
static int map_bitmap(struct tracker_nbd *n, const char *path, uint64_t id, uint64_t size,
                      struct err *err)
{
    struct stat st;
    uint8_t *map;

    n->layout = nbd_bitmap_layout(size);
    n->base.blocks = n->layout.bits;
    n->fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (n->fd < 0 || fstat(n->fd, &st) < 0)
        return err_errno(err, -errno, "bitmap of the NBD server, %s", path);
    if (!S_ISREG(st.st_mode) || st.st_size < 0 || (uint64_t)st.st_size != n->layout.total)
        return err_set(err, -EPROTO, "%s is not the bitmap of a disk of %llu octets", path,
                       (unsigned long long)size);
    map = mmap(NULL, n->layout.total, PROT_READ | PROT_WRITE, MAP_SHARED, n->fd, 0);
    if (map == MAP_FAILED)
        return err_errno(err, -errno, "mapping %s", path);
    n->header = (struct nbd_bitmap_header *)(void *)map;
    n->summary = (uint64_t *)(void *)(map + n->layout.summary);
    n->bits = (uint64_t *)(void *)(map + n->layout.bitmap);
    if (n->header->magic != NBD_BITMAP_MAGIC || n->header->version != NBD_BITMAP_VERSION ||
        n->header->granularity != NBD_BITMAP_GRANULARITY || n->header->size != size ||
        n->header->id != id)
        return err_set(err, -EPROTO, "%s is the bitmap of another server or another version", path);
    return check_alive(n, err);
}

int tracker_open_nbd(struct tracker **ret, const char *uri, struct err *err)
{
    char path[PATH_MAX];
    struct tracker_nbd *n;
    uint64_t id = 0, size = 0;
    int r;

    r = find_bitmap(uri, path, &id, &size, err);
    if (r < 0)
        return r;
    n = calloc(1, sizeof(*n));
    if (!n)
        return err_set(err, -ENOMEM, "out of memory");
    n->base.ops = &nbd_ops;
    n->fd = -1;
    r = map_bitmap(n, path, id, size, err);
    if (r < 0) {
        nbd_destroy(&n->base);
        return r;
    }
    *ret = &n->base;
    return 0;
}
