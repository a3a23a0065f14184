/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How fast the blocks of a dirty pass come from a disk, or go to it, past the page cache: one after another, as many at once as the
 * mirror asks for, and the same through io_uring; and how fast large pieces, which a bulk copy reads. Several threads, as workers; the
 * ways take turns, and the median of what each reached is told. */
#include "../kernel/uring.h"
#include "base/bytes.h"
#include "base/clock.h"
#include "mirror/direct-io.h"

#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define THREADS_MAX 8u
#define RUNS_MAX    128u
#define ROUNDS      7u

enum way { ONE_BY_ONE, AT_ONCE, URING, WAY_COUNT };

static const char *const way_names[WAY_COUNT] = {"one by one", "at once", "io_uring"};

struct shape {
    uint32_t runs; /* of a record */
    uint32_t octets; /* of a run */
};

static const struct shape shapes[] = {{RUNS_MAX, KIB(4)}, {4, KIB(256)}};

struct bench {
    struct blockdev *dev;
    int fd; /* the same disk, for io_uring */
    bool writes;
    enum way way;
    struct shape shape;
    uint64_t until_ns;
};

struct worker {
    pthread_t thread;
    const struct bench *bench;
    unsigned int seed;
    uint64_t records;
    uint8_t *memory;
    struct uring ring;
};

static void check(int r, const struct err *why)
{
    if (r < 0)
        errx(1, "%s", why->text);
}

/* Blocks that were written in one region, none twice. */
static void scatter(struct worker *w, struct blockdev_read *ret)
{
    const struct shape *s = &w->bench->shape;
    uint64_t units = w->bench->dev->size / s->octets;
    uint64_t reach = MIN(s->runs * UINT64_C(8), units);
    uint64_t begin = (uint64_t)rand_r(&w->seed) % (units - reach + 1);

    for (uint32_t i = 0; i < s->runs; i++) {
        uint64_t unit = begin + i * (reach / s->runs) + (uint64_t)rand_r(&w->seed) % (reach / s->runs);

        ret[i] = (struct blockdev_read){.buf = w->memory + (size_t)i * s->octets, .len = s->octets, .offset = unit * s->octets};
    }
}

static void one_by_one(struct worker *w, const struct blockdev_read *runs)
{
    struct blockdev *dev = w->bench->dev;
    struct err why = {0};

    for (uint32_t i = 0; i < w->bench->shape.runs; i++) {
        const struct blockdev_read *r = &runs[i];

        check(w->bench->writes ? dev->ops->pwrite(dev, r->buf, r->len, r->offset, &why)
                               : dev->ops->pread(dev, r->buf, r->len, r->offset, &why),
              &why);
    }
}

static void at_once(struct worker *w, const struct blockdev_read *runs)
{
    struct blockdev_write writes[RUNS_MAX];
    uint32_t count = w->bench->shape.runs;
    struct err why = {0};

    for (uint32_t i = 0; i < count; i++)
        writes[i] = (struct blockdev_write){.buf = runs[i].buf, .len = runs[i].len, .offset = runs[i].offset};
    check(w->bench->writes ? blockdev_pwrite_many(w->bench->dev, writes, count, &why)
                           : blockdev_pread_many(w->bench->dev, runs, count, NULL, &why),
          &why);
}

static void by_uring(struct worker *w, const struct blockdev_read *runs)
{
    uint32_t count = w->bench->shape.runs, begun = 0;

    for (uint32_t ended = 0; ended < count; ended++) {
        unsigned int tag;
        int result, r;

        for (; begun < count && begun - ended < DIRECT_IO_DEPTH; begun++)
            uring_prepare(&w->ring, w->bench->fd, w->bench->writes, runs[begun].buf, runs[begun].len, runs[begun].offset, begun);
        r = uring_wait(&w->ring, &tag, &result);
        if (r < 0 || (size_t)result != runs[tag].len)
            errx(1, "io_uring: %s", strerror(r < 0 ? -r : -result));
    }
}

static void *work(void *data)
{
    static void (*const ways[WAY_COUNT])(struct worker *, const struct blockdev_read *) = {one_by_one, at_once, by_uring};
    struct worker *w = data;
    struct blockdev_read runs[RUNS_MAX];

    while (clock_now() < w->bench->until_ns) {
        scatter(w, runs);
        ways[w->bench->way](w, runs);
        w->records++;
    }
    return NULL;
}

static double processor_seconds(void)
{
    struct rusage use;

    (void)getrusage(RUSAGE_SELF, &use);
    return (double)(use.ru_utime.tv_sec + use.ru_stime.tv_sec) + (double)(use.ru_utime.tv_usec + use.ru_stime.tv_usec) / 1e6;
}

static void begin(struct worker *w, const struct bench *b, unsigned int seed)
{
    size_t size = (size_t)b->shape.runs * b->shape.octets;

    *w = (struct worker){.bench = b, .seed = seed, .memory = aligned_alloc(BLOCKDEV_ALIGN, size)};
    if (!w->memory)
        errx(1, "out of memory");
    memset(w->memory, (int)seed, size);
    if (b->way == URING && uring_init(&w->ring, DIRECT_IO_DEPTH) < 0)
        errx(1, "no io_uring here");
    if (pthread_create(&w->thread, NULL, work, w))
        errx(1, "no thread");
}

struct result {
    double rates[ROUNDS]; /* runs a second */
    double busy;          /* seconds of processor */
    uint64_t runs;
};

static void run(struct bench *b, unsigned int threads, double seconds, unsigned int round, struct result *ret)
{
    struct worker workers[THREADS_MAX];
    double busy = processor_seconds();
    uint64_t begun = clock_now();
    uint64_t runs = 0;

    b->until_ns = begun + (uint64_t)(seconds * 1e9);
    for (unsigned int i = 0; i < threads; i++)
        begin(&workers[i], b, i + 1);
    for (unsigned int i = 0; i < threads; i++) {
        (void)pthread_join(workers[i].thread, NULL);
        runs += workers[i].records * b->shape.runs;
        if (b->way == URING)
            uring_finish(&workers[i].ring);
        free(workers[i].memory);
    }
    ret->rates[round] = (double)runs * 1e9 / (double)(clock_now() - begun);
    ret->busy += processor_seconds() - busy;
    ret->runs += runs;
}

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static void run_all(struct bench *b, unsigned int threads, double seconds)
{
    struct result results[WAY_COUNT] = {{.runs = 0}};

    for (unsigned int round = 0; round < ROUNDS; round++) {
        for (b->way = 0; b->way < WAY_COUNT; b->way++)
            run(b, threads, seconds, round, &results[b->way]);
    }
    for (unsigned int way = 0; way < WAY_COUNT; way++) {
        struct result *r = &results[way];

        qsort(r->rates, ROUNDS, sizeof(r->rates[0]), compare);
        printf("%s %3u x %3u KiB, %u threads, %-10s %8.1f MiB/s %7.0f/s (%.0f to %.0f), %5.1f us of processor each\n",
               b->writes ? "write" : "read", b->shape.runs, b->shape.octets / 1024, threads, way_names[way],
               r->rates[ROUNDS / 2] * b->shape.octets / 1048576, r->rates[ROUNDS / 2], r->rates[0], r->rates[ROUNDS - 1],
               r->busy * 1e6 / (double)MAX(r->runs, 1));
    }
    (void)fflush(stdout);
}

int main(int argc, char **argv)
{
    static const unsigned int threads[] = {1, 2, 4, 8};
    struct bench b = {.writes = false};
    double seconds = 0.2;
    struct err why = {0};
    int opt;

    while ((opt = getopt(argc, argv, "t:w")) != -1) {
        if (opt == 't')
            seconds = strtod(optarg, NULL);
        else if (opt == 'w')
            b.writes = true;
        else
            optind = argc;
    }
    if (optind != argc - 1)
        errx(2, "usage: scattered [-t SECONDS] [-w] DISK      -w: WRITES TO IT");
    check(blockdev_open(&b.dev, argv[optind], BLOCKDEV_DIRECT | (b.writes ? BLOCKDEV_WRITE : 0), &why), &why);
    b.fd = open(argv[optind], O_DIRECT | O_CLOEXEC | (b.writes ? O_RDWR : O_RDONLY));
    if (b.fd < 0)
        err(1, "%s", argv[optind]);
    for (size_t shape = 0; shape < ARRAY_SIZE(shapes); shape++) {
        b.shape = shapes[shape];
        if (b.dev->size < (uint64_t)b.shape.runs * b.shape.octets * 8)
            errx(1, "%s is too small", argv[optind]);
        for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
            run_all(&b, threads[i], seconds);
    }
    (void)close(b.fd);
    blockdev_close(b.dev);
    return 0;
}
