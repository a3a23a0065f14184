/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads a block device as a migration does, with the automatic brake or without: threads that read 256 KiB each, in one piece or (-b)
 * as blocks of a dirty pass, past the page cache, all under one limit. Nothing is sent anywhere. The last line is what came of it. */
#include "base/bytes.h"
#include "base/clock.h"
#include "mirror/blockdev.h"
#include "mirror/care.h"

#include <err.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define READ        KIB(256)
#define BLOCK       KIB(4)
#define BLOCKS      (READ / BLOCK)
#define GAP         (16 * BLOCK) /* from one to the next, when they are scattered */
#define THREADS_MAX 16u
#define STEP        (500 * NS_PER_MS)

struct copy {
    struct blockdev *dev;
    uint64_t next;  /* offset */
    uint64_t limit; /* octets per second */
    uint64_t link;  /* what the network takes; never more */
    uint64_t due_ns;
    struct care_own_reads own;
    bool blocks;
    bool stop;
    pthread_mutex_t lock;
};

/* Waits for the limit, in steps short enough to notice that it has changed. Returns the offset. */
static uint64_t take_turn(struct copy *c, bool *ret_stop)
{
    uint64_t offset = 0;

    pthread_mutex_lock(&c->lock);
    for (;;) {
        uint64_t now = clock_now();
        uint64_t rate = MIN(c->limit, c->link);

        *ret_stop = c->stop;
        if (c->stop)
            break;
        if (rate == CARE_NO_LIMIT || c->due_ns <= now) {
            offset = c->next;
            c->next += c->blocks ? BLOCKS * GAP : READ;
            if (c->next + BLOCKS * GAP > c->dev->size)
                c->next = 0;
            if (rate != CARE_NO_LIMIT)
                c->due_ns = MAX(c->due_ns, now - 10 * NS_PER_MS) + (uint64_t)((double)READ / (double)rate * 1e9);
            break;
        }
        pthread_mutex_unlock(&c->lock);
        clock_sleep(MIN(c->due_ns - now, 5 * NS_PER_MS));
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return offset;
}

static void ended(void *data, uint32_t reads, uint64_t octets, uint64_t ns)
{
    struct copy *c = data;

    pthread_mutex_lock(&c->lock);
    c->own.reads += reads;
    c->own.octets += octets;
    c->own.ns += ns;
    pthread_mutex_unlock(&c->lock);
}

static int read_next(struct copy *c, uint8_t *buffer, uint64_t offset, struct err *err)
{
    const struct blockdev_reader who = {.ended = ended, .data = c};
    struct blockdev_read reads[BLOCKS];

    if (!c->blocks)
        return blockdev_pread_many(c->dev, &(struct blockdev_read){.buf = buffer, .len = READ, .offset = offset}, 1, &who, err);
    for (uint32_t i = 0; i < BLOCKS; i++)
        reads[i] = (struct blockdev_read){.buf = buffer + i * BLOCK, .len = BLOCK, .offset = offset + i * GAP};
    return blockdev_pread_many(c->dev, reads, BLOCKS, &who, err);
}

static void *reader(void *data)
{
    struct copy *c = data;
    uint8_t *buffer = aligned_alloc(BLOCKDEV_ALIGN, READ);
    struct err err = {0};

    if (!buffer)
        errx(1, "out of memory");
    for (;;) {
        bool stop;
        uint64_t offset = take_turn(c, &stop);

        if (stop)
            break;
        if (read_next(c, buffer, offset, &err) < 0)
            errx(1, "%s", err.text);
    }
    free(buffer);
    return NULL;
}

static void set_limit(struct copy *c, uint64_t limit)
{
    if (limit != c->limit)
        c->due_ns = clock_now();
    c->limit = limit;
}

static double mib(uint64_t octets)
{
    return (double)octets / 1048576;
}

/* Steps until the time is over. */
static void drive(struct copy *c, struct care *care, bool brake, uint64_t until_ns, bool show)
{
    uint64_t octets = 0;

    while (clock_now() < until_ns) {
        struct care_own_reads own;
        struct care_stats st;
        uint64_t limit;

        clock_sleep(STEP);
        pthread_mutex_lock(&c->lock);
        own = c->own;
        pthread_mutex_unlock(&c->lock);
        limit = care_step(care, clock_now(), &own, own.octets);
        care_stats(care, &st);
        if (show)
            printf("%7.1f MiB/s, %-7s limit %7.1f MiB/s: %s\n", 2 * mib(own.octets - octets), care_state_name(st.state),
                   limit == CARE_NO_LIMIT ? 0 : mib(limit), st.why);
        octets = own.octets;
        pthread_mutex_lock(&c->lock);
        if (brake)
            set_limit(c, limit);
        pthread_mutex_unlock(&c->lock);
    }
}

static void run(struct copy *c, const char *path, unsigned int threads, uint64_t seconds, bool brake, bool show)
{
    pthread_t ids[THREADS_MAX];
    struct care_stats st;
    struct err err = {0};
    struct care *care;
    uint64_t begin;
    double took;

    if (care_create(&care, &path, 1, clock_now(), &err) < 0)
        errx(1, "%s", err.text);
    clock_sleep(NS_PER_SEC);
    care_baseline(care, clock_now());
    begin = clock_now();
    for (unsigned int i = 0; i < threads; i++) {
        if (pthread_create(&ids[i], NULL, reader, c))
            errx(1, "no thread");
    }
    drive(c, care, brake, begin + seconds * NS_PER_SEC, show);
    pthread_mutex_lock(&c->lock);
    c->stop = true;
    pthread_mutex_unlock(&c->lock);
    for (unsigned int i = 0; i < threads; i++)
        (void)pthread_join(ids[i], NULL);
    took = (double)(clock_now() - begin) / 1e9;
    care_stats(care, &st);
    printf("%.1f MiB/s, guest %.2f ms before, %.2f ms during, limited %.1f of %.1f s, at the end %s: %s\n",
           mib(c->own.octets) / took, (double)st.before_ns / 1e6, (double)st.during_ns / 1e6, (double)st.braked_ns / 1e9, took,
           care_state_name(st.state), st.why);
    care_destroy(care);
}

int main(int argc, char **argv)
{
    struct copy c = {.limit = CARE_NO_LIMIT, .link = CARE_NO_LIMIT, .lock = PTHREAD_MUTEX_INITIALIZER};
    unsigned int threads = 4;
    uint64_t seconds = 10;
    bool brake = true;
    bool show = false;
    struct err err = {0};
    int opt;

    while ((opt = getopt(argc, argv, "bj:t:l:nv")) != -1) {
        if (opt == 'j')
            threads = (unsigned int)strtoul(optarg, NULL, 10);
        else if (opt == 't')
            seconds = strtoull(optarg, NULL, 10);
        else if (opt == 'l')
            c.link = MIB(strtoull(optarg, NULL, 10));
        else if (opt == 'b')
            c.blocks = true;
        else if (opt == 'n')
            brake = false;
        else if (opt == 'v')
            show = true;
        else
            optind = argc;
    }
    if (optind != argc - 1 || threads < 1 || threads > THREADS_MAX)
        errx(2, "usage: care-copy [-b] [-j THREADS] [-t SECONDS] [-l MIB-PER-SECOND] [-n] [-v] DEVICE");
    if (blockdev_open(&c.dev, argv[optind], BLOCKDEV_DIRECT, &err) < 0)
        errx(1, "%s", err.text);
    run(&c, argv[optind], threads, seconds, brake, show);
    blockdev_close(c.dev);
    return 0;
}
