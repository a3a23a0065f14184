/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an NBD server tells of its bitmap: the export's description, a text up to the first NUL, and the file that it names,
 * of which the rest of the input is the beginning. Its length and what stands in it are checked before they are believed.
 * The first octet: 1 the file has the right length, 2 and the right head; then the numbers in it are the fuzzer's.
 * fuzz: -max_len=6200 */
#include "fuzz.h"

#include "base/clock.h"
#include "mirror/tracker.h"

#include <fcntl.h>
#include <libnbd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define DISK_SIZE (UINT64_C(200) << 20)

static uint8_t file[1u << 20]; /* larger than the bitmap of DISK_SIZE, so that ASan's page behind it is the map's */
static size_t file_length;

static int fake_stat(struct stat *st);
#define open(path, flags)        10
#define fstat(fd, st)            fake_stat(st)
#define fcntl(fd, command, lock) ((lock)->l_type = F_WRLCK, 0)
#define mmap(at, length, protection, flags, fd, from) ((void *)file)
#define munmap(at, length)       0
#define close(fd)                ((void)(fd))
#define clock_sleep(ns)          (((struct nbd_bitmap_header *)(void *)file)->in_flight = 0) /* sooner or later */
#include "mirror/tracker-nbd.c"
#undef close

static int fake_stat(struct stat *st)
{
    memset(st, 0, sizeof(*st));
    st->st_mode = S_IFREG;
    st->st_size = (off_t)file_length;
    return 0;
}

static void fill(struct input *in, uint8_t choice, uint64_t id)
{
    const struct nbd_bitmap_layout l = nbd_bitmap_layout(DISK_SIZE);
    struct nbd_bitmap_header *h = (void *)file;
    size_t n = in->left < l.total ? in->left : l.total;

    memset(file, 0, l.total);
    memcpy(file + (choice & 2 ? offsetof(struct nbd_bitmap_header, server_pid) : 0), in->at, n < 4000 ? n : 4000);
    if (n > 4000) { /* the summary and the bits */
        memcpy(file + l.summary, in->at + 4000, n - 4000 < 64 ? n - 4000 : 64);
        memcpy(file + l.bitmap, in->at + 4000, n - 4000);
    } else if (n) {
        memset(file + l.summary, in->at[n - 1], 64);
        memcpy(file + l.bitmap + 4 * n, in->at, n);
    }
    if (choice & 2) {
        h->magic = NBD_BITMAP_MAGIC;
        h->version = NBD_BITMAP_VERSION;
        h->granularity = NBD_BITMAP_GRANULARITY;
        h->size = DISK_SIZE;
        h->id = id;
        h->in_flight &= 0xff; /* nbd_drain would wait for the others in vain */
    }
    file_length = choice & 1 ? l.total : n;
}

static void use(struct tracker *t)
{
    struct err err = {0};
    struct bitmap dirty;
    uint64_t blocks, count = nbd_count(t);

    CHECK(bitmap_init(&dirty, t->blocks) == 0);
    CHECK(nbd_reset(t, &err) == 0 || err.code == -EBUSY);
    (void)nbd_audit(t, &err);
    CHECK(nbd_collect(t, &dirty, &blocks, &err) == 0 && blocks <= count);
    CHECK(nbd_count(t) == 0);
    bitmap_finish(&dirty);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t choice = take_u8(&in);
    char *text = take_text(&in, 6000, -1), path[PATH_MAX];
    struct tracker_nbd n = {.base.ops = &nbd_ops, .fd = -1};
    struct err err = {0};
    uint64_t id = 0;

    memset(path, 'x', sizeof(path));
    if (parse_description(text, path, &id, &err) == 0) {
        CHECK(strnlen(path, sizeof(path)) < sizeof(path) && strstr(text, path));
    } else {
        CHECK(err.code == -ENOTSUP);
        (void)strcpy(path, "/dev/null");
    }
    fill(&in, choice, id);
    if (map_bitmap(&n, path, id, DISK_SIZE, &err) == 0) {
        CHECK(file_length == n.layout.total && n.header->size == DISK_SIZE);
        use(&n.base);
    }
    free(text);
    return 0;
}
