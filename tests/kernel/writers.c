/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "writers.h"
#include "base/bytes.h"
#include "uring.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#define SECTOR      512u
#define WRITE_MAX   MIB(4)
#define URING_DEPTH 16
#define URING_MAX   KIB(512)

enum { QUEUED, PLAIN, SPECIAL }; /* the threads; those above only discard */

struct thread {
    struct writers *w;
    unsigned int number;
    uint64_t random;
    int direct;   /* O_DIRECT */
    int dsync;    /* O_DIRECT and O_DSYNC: FUA, or a write and a flush */
    int buffered; /* by way of the page cache */
    uint8_t *buffer;
};

/* What one operation touches, and whether the tracker had been opened when it began. */
struct op {
    uint64_t offset;
    uint64_t length;
    bool tracked;
};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Small writes are many and large ones few: the size's magnitude is drawn, then the size. */
static uint64_t random_length(struct thread *t, uint64_t most)
{
    unsigned int magnitude = (unsigned int)(next_random(&t->random) % 14); /* 2^13 sectors: 4 MiB */
    uint64_t sectors;

    if (magnitude > 7 && next_random(&t->random) % 4)
        magnitude = 3;
    sectors = 1 + next_random(&t->random) % (UINT64_C(1) << magnitude);
    return MIN(sectors * SECTOR, most);
}

/* The last window is the special thread's alone: where direct writes of others meet pages of the
 * cache, the kernel reports an I/O error for what is only disorder. That thread goes everywhere
 * else too, with all but its buffered writes. */
static uint64_t random_window(struct thread *t, bool buffered)
{
    unsigned int last = WRITERS_WINDOWS - 1;

    if (buffered)
        return t->w->windows[last];
    return t->w->windows[next_random(&t->random) % (t->number == SPECIAL ? last + 1 : last)];
}

static struct op random_op(struct thread *t, uint64_t most, bool buffered)
{
    struct writers *w = t->w;
    uint64_t window = random_window(t, buffered);
    struct op op = {.length = random_length(t, MIN(most, w->window_len))};

    op.offset =
        window + next_random(&t->random) % ((w->window_len - op.length) / SECTOR + 1) * SECTOR;
    op.tracked = __atomic_load_n(&w->tracked, __ATOMIC_SEQ_CST);
    bitmap_set_run(&w->attempted, op.offset / BLOCK,
                   (op.offset + op.length - 1) / BLOCK - op.offset / BLOCK + 1);
    return op;
}

/* Each sector becomes unlike any other, at little cost. */
static void fill(struct thread *t, uint8_t *buffer, uint64_t length)
{
    for (uint64_t at = 0; at < length; at += SECTOR)
        put_le64(buffer + at, next_random(&t->random));
}

static void op_done(struct thread *t, const struct op *op, bool ok, bool discard)
{
    struct writers *w = t->w;

    __atomic_fetch_add(&w->ops, 1, __ATOMIC_RELAXED);
    if (!ok && discard && errno == EOPNOTSUPP)
        __atomic_fetch_add(&w->unsupported, 1, __ATOMIC_RELAXED);
    else if (!ok)
        __atomic_fetch_add(&w->errors, 1, __ATOMIC_RELAXED);
    else if (op->tracked && !discard)
        bitmap_set_run(&w->written, op->offset / BLOCK,
                       (op->offset + op->length - 1) / BLOCK - op->offset / BLOCK + 1);
}

static void write_once(struct thread *t, int fd, uint64_t most, int flags, bool flush)
{
    struct op op = random_op(t, most, fd == t->buffered);
    struct iovec iov = {.iov_base = t->buffer, .iov_len = op.length};
    bool ok;

    fill(t, t->buffer, op.length);
    ok = pwritev2(fd, &iov, 1, (off_t)op.offset, flags) == (ssize_t)op.length;
    if (ok && flush)
        ok = fdatasync(fd) == 0;
    op_done(t, &op, ok, false);
}

static void control_once(struct thread *t, unsigned long request, uint64_t most, bool discard)
{
    struct op op = random_op(t, most, false);
    uint64_t range[2] = {op.offset, op.length};

    op_done(t, &op, ioctl(t->direct, request, range) == 0, discard);
}

/* Whatever is neither plain nor queued deep. */
static void write_special(struct thread *t)
{
    switch (next_random(&t->random) % 8) {
    case 0:
        write_once(t, t->dsync, WRITE_MAX, 0, false);
        break;
    case 1:
        write_once(t, t->direct, KIB(64), RWF_DSYNC, false);
        break;
    case 2:
        write_once(t, t->direct, KIB(64), 0, true);
        break;
    case 3:
        write_once(t, t->buffered, KIB(256), 0, true);
        break;
    case 4:
    case 5:
        control_once(t, BLKDISCARD, WRITE_MAX, true);
        break;
    default:
        control_once(t, BLKZEROOUT, WRITE_MAX, false);
        break;
    }
}

static bool stopping(const struct thread *t)
{
    return __atomic_load_n(&t->w->stop, __ATOMIC_RELAXED);
}

static void end_one(struct thread *t, struct uring *u, const struct op *ops, unsigned int *ret_tag)
{
    int result;
    int r = uring_wait(u, ret_tag, &result);

    if (r < 0)
        errx(2, "io_uring: %s", strerror(-r));
    op_done(t, &ops[*ret_tag], result == (int)ops[*ret_tag].length, false);
}

/* Keeps URING_DEPTH writes under way. */
static void write_queued(struct thread *t)
{
    struct op ops[URING_DEPTH];
    unsigned int tag = 0;
    unsigned int begun = 0;
    struct uring u;
    int r = uring_init(&u, URING_DEPTH);

    for (; r == 0 && !stopping(t); begun++) {
        uint8_t *buffer;

        if (begun < URING_DEPTH)
            tag = begun;
        else
            end_one(t, &u, ops, &tag);
        buffer = t->buffer + tag * URING_MAX;
        ops[tag] = random_op(t, URING_MAX, false);
        fill(t, buffer, ops[tag].length);
        r = uring_write(&u, t->direct, buffer, ops[tag].length, ops[tag].offset, tag);
    }
    if (r < 0)
        errx(2, "io_uring: %s", strerror(-r));
    for (begun = MIN(begun, URING_DEPTH); begun > 0; begun--)
        end_one(t, &u, ops, &tag);
    uring_finish(&u);
}

static int open_or_die(const char *device, int flags)
{
    int fd = open(device, O_RDWR | O_CLOEXEC | flags);

    if (fd < 0)
        err(2, "%s", device);
    return fd;
}

static void thread_open(struct thread *t, uint64_t buffer_len)
{
    t->direct = open_or_die(t->w->device, O_DIRECT);
    t->dsync = open_or_die(t->w->device, O_DIRECT | O_DSYNC);
    t->buffered = open_or_die(t->w->device, 0);
    t->buffer = aligned_alloc(BLOCK, buffer_len);
    if (!t->buffer)
        err(2, "memory");
    memset(t->buffer, 0, buffer_len);
}

static void thread_close(struct thread *t)
{
    if (fsync(t->buffered) < 0)
        __atomic_fetch_add(&t->w->errors, 1, __ATOMIC_RELAXED);
    (void)close(t->direct);
    (void)close(t->dsync);
    (void)close(t->buffered);
    free(t->buffer);
    free(t);
}

static void *thread_run(void *arg)
{
    struct thread *t = arg;

    thread_open(t, MAX(WRITE_MAX, URING_DEPTH * URING_MAX));
    if (t->number == QUEUED)
        write_queued(t);
    while (!stopping(t)) {
        if (t->number == PLAIN)
            write_once(t, t->direct, WRITE_MAX, 0, false);
        else if (t->number == SPECIAL)
            write_special(t);
        else
            control_once(t, BLKDISCARD, KIB(16), true);
    }
    thread_close(t);
    return NULL;
}

uint64_t device_size(int fd, const char *device)
{
    uint64_t size;

    if (ioctl(fd, BLKGETSIZE64, &size) < 0)
        err(2, "%s", device);
    return size;
}

static void choose_windows(struct writers *w)
{
    uint64_t state = w->seed;

    w->window_len = w->size / 8 / SECTOR * SECTOR;
    for (unsigned int i = 0; i < WRITERS_WINDOWS; i++) { /* one in each third */
        uint64_t third = w->size / WRITERS_WINDOWS / BLOCK * BLOCK;

        w->windows[i] =
            i * third + next_random(&state) % ((third - w->window_len) / SECTOR) * SECTOR;
    }
}

static void thread_start(struct writers *w, unsigned int number)
{
    struct thread *t = calloc(1, sizeof(*t));

    if (!t)
        err(2, "memory");
    t->w = w;
    t->number = number;
    t->random = w->seed * (number + 3);
    if (pthread_create(&w->threads[number], NULL, thread_run, t) != 0)
        errx(2, "cannot start a thread");
}

void writers_start(struct writers *w, const char *device, uint64_t seed, unsigned int discarders)
{
    int fd = open_or_die(device, 0);

    memset(w, 0, sizeof(*w));
    w->device = device;
    w->seed = seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    w->size = device_size(fd, device);
    (void)close(fd);
    if (bitmap_init(&w->attempted, DIV_ROUND_UP(w->size, BLOCK)) < 0 ||
        bitmap_init(&w->written, DIV_ROUND_UP(w->size, BLOCK)) < 0)
        errx(2, "memory");
    choose_windows(w);
    w->thread_count = MIN(WRITERS + discarders, WRITERS_MAX);
    for (unsigned int i = 0; i < w->thread_count; i++)
        thread_start(w, i);
}

void writers_stop(struct writers *w)
{
    __atomic_store_n(&w->stop, true, __ATOMIC_RELAXED);
    for (unsigned int i = 0; i < w->thread_count; i++)
        (void)pthread_join(w->threads[i], NULL);
}

void writers_finish(struct writers *w)
{
    bitmap_finish(&w->attempted);
    bitmap_finish(&w->written);
}
