/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Copies a live disk with the eBPF tracker while threads write to it, and says whether the copy is
 * the disk. The subcommands besides `copy` are the two halves of it, for tests that kill one. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"
#include "mirror/tracker.h"
#include "writers.h"

#include <err.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/bpf.h>
#include <linux/nvme_ioctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define READ_MAX MIB(1)

enum { EXIT_DIFFERS = 1, EXIT_BROKEN = 2, EXIT_POISONED = 3 };

struct options {
    unsigned int rounds;
    uint64_t ms;           /* a round, from the end of the first full copy */
    const char *neighbour; /* also written to, and must not be marked */
    const char *command;   /* runs instead of the writers; nothing is known of where it writes */
    unsigned int discarders;
    const char *device;
};

struct copier {
    struct tracker *tracker;
    int fd;
    uint64_t size;
    uint8_t *copy;
    uint8_t *buffer; /* aligned, READ_MAX */
    struct bitmap dirty;
    struct bitmap marked; /* ever */
    unsigned int passes;
    struct err err;
};

struct verdict {
    uint64_t differ;  /* blocks unlike the disk's */
    uint64_t missing; /* blocks written and never marked */
    uint64_t extra;   /* blocks marked and never written */
    bool audit_ok;
    bool poisoned;
};

static void copier_init(struct copier *c, const char *device)
{
    memset(c, 0, sizeof(*c));
    c->fd = open(device, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (c->fd < 0)
        err(EXIT_BROKEN, "%s", device);
    c->size = device_size(c->fd, device);
    c->copy = malloc(c->size);
    c->buffer = aligned_alloc(BLOCK, READ_MAX);
    if (!c->copy || !c->buffer || bitmap_init(&c->dirty, DIV_ROUND_UP(c->size, BLOCK)) < 0 ||
        bitmap_init(&c->marked, DIV_ROUND_UP(c->size, BLOCK)) < 0)
        errx(EXIT_BROKEN, "memory");
}

static void copier_finish(struct copier *c)
{
    tracker_destroy(c->tracker);
    bitmap_finish(&c->dirty);
    bitmap_finish(&c->marked);
    free(c->buffer);
    free(c->copy);
    (void)close(c->fd);
}

static uint64_t read_disk(struct copier *c, uint64_t offset, uint64_t len)
{
    int r;

    len = MIN(len, c->size - offset);
    r = fd_pread_full(c->fd, c->buffer, len, offset);
    if (r < 0)
        errx(EXIT_BROKEN, "cannot read the disk at %" PRIu64 ": %s", offset, strerror(-r));
    return len;
}

static void copy_range(struct copier *c, uint64_t offset, uint64_t len)
{
    while (len > 0) {
        uint64_t n = read_disk(c, offset, MIN(len, READ_MAX));

        memcpy(c->copy + offset, c->buffer, n);
        offset += n;
        len -= MIN(n, len);
        if (offset == c->size)
            break;
    }
}

/* One pass: takes the marks, then reads what was marked. Returns the blocks, or the error. */
static int64_t copy_pass(struct copier *c)
{
    uint64_t blocks;
    uint64_t first = 0;
    uint64_t run;
    int r = c->tracker->ops->collect(c->tracker, &c->dirty, &blocks, &c->err);

    if (r < 0)
        return r;
    while ((run = bitmap_next_run(&c->dirty, first, READ_MAX / BLOCK, &first)) > 0) {
        bitmap_set_run(&c->marked, first, run);
        bitmap_clear_run(&c->dirty, first, run);
        copy_range(c, first * BLOCK, run * BLOCK);
        first += run;
    }
    c->passes++;
    return (int64_t)blocks;
}

/* The writers have stopped: what the engine does between suspend and switchover. */
static int finish_copy(struct copier *c, struct verdict *v)
{
    int64_t n;
    int r = c->tracker->ops->drain(c->tracker, 10 * NS_PER_SEC, &c->err);

    if (r < 0)
        return r;
    do
        n = copy_pass(c);
    while (n > 0);
    if (n < 0)
        return (int)n;
    r = c->tracker->ops->audit(c->tracker, &c->err);
    v->audit_ok = r == 0;
    return 0;
}

static uint64_t count_different(struct copier *c)
{
    uint64_t n = 0;

    for (uint64_t at = 0; at < c->size; at += READ_MAX) {
        uint64_t len = read_disk(c, at, READ_MAX);

        for (uint64_t block = 0; block < len; block += BLOCK)
            n += memcmp(c->buffer + block, c->copy + at + block, MIN(BLOCK, len - block)) != 0;
    }
    return n;
}

/* Bits of `a` that `b` has not. */
static uint64_t count_without(const struct bitmap *a, const struct bitmap *b)
{
    uint64_t n = 0;

    for (uint64_t i = 0; i < bitmap_words(a->bits); i++)
        n += (uint64_t)__builtin_popcountll(a->words[i] & ~b->words[i]);
    return n;
}

static void *run_command(void *arg)
{
    struct writers *w = arg;

    if (system(w->device) != 0)
        __atomic_fetch_add(&w->errors, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&w->ops, 1, __ATOMIC_RELAXED);
    return NULL;
}

/* A command in the writers' place, which may have written everywhere. */
static void start_command(struct writers *w, const struct options *o, uint64_t size)
{
    memset(w, 0, sizeof(*w));
    w->device = o->command;
    w->thread_count = 1;
    if (bitmap_init(&w->attempted, DIV_ROUND_UP(size, BLOCK)) < 0 ||
        bitmap_init(&w->written, DIV_ROUND_UP(size, BLOCK)) < 0)
        errx(EXIT_BROKEN, "memory");
    bitmap_set_all(&w->attempted);
    if (pthread_create(&w->threads[0], NULL, run_command, w) != 0)
        errx(EXIT_BROKEN, "cannot start a thread");
}

/* Passes go on to the end of a command: what it discards must not still be marked as written. */
static bool is_over(const struct options *o, const struct writers *w, uint64_t begin)
{
    if (o->command)
        return writers_read(&w->ops) > 0;
    return clock_now() - begin >= o->ms * NS_PER_MS;
}

/* The writers run already: the tracker is attached to a disk that is being written. */
static int copy_live(struct copier *c, struct writers *w, const struct options *o)
{
    uint64_t begin;
    int64_t n = 0;
    int r = tracker_open_bpf(&c->tracker, o->device, &c->err);

    if (r < 0)
        errx(EXIT_BROKEN, "%s", c->err.text);
    __atomic_store_n(&w->tracked, true, __ATOMIC_SEQ_CST);
    copy_range(c, 0, c->size);
    begin = clock_now();
    while (n >= 0 && !is_over(o, w, begin))
        n = copy_pass(c);
    return n < 0 ? (int)n : 0;
}

static void judge(struct copier *c, const struct writers *w, struct verdict *v)
{
    v->differ = count_different(c);
    v->missing = count_without(&w->written, &c->marked);
    v->extra = count_without(&c->marked, &w->attempted);
}

static void report(const struct options *o, unsigned int round, const struct copier *c,
                   const struct writers *w, const struct verdict *v)
{
    printf("%s round %u: %" PRIu64 " ops, %" PRIu64 " failed, %" PRIu64 " refused, %u passes, "
           "%" PRIu64 " marked, %" PRIu64 " differ, %" PRIu64 " missing, %" PRIu64 " extra, "
           "audit %s%s%s\n",
           o->device, round, w->ops, w->errors, w->unsupported, c->passes, bitmap_count(&c->marked),
           v->differ, v->missing, v->extra, v->audit_ok ? "equal" : "not equal",
           v->poisoned || !v->audit_ok ? ": " : "", v->poisoned || !v->audit_ok ? c->err.text : "");
    (void)fflush(stdout);
}

static int round_result(const struct verdict *v, const struct writers *w)
{
    if (v->poisoned || !v->audit_ok)
        return EXIT_POISONED;
    return v->differ || v->missing || v->extra || w->errors ? EXIT_DIFFERS : 0;
}

static int copy_round(const struct options *o, unsigned int round)
{
    uint64_t seed = clock_now() + round;
    struct verdict v = {0};
    struct writers neighbour;
    struct copier c;
    struct writers w;
    int r;

    copier_init(&c, o->device);
    if (o->command)
        start_command(&w, o, c.size);
    else
        writers_start(&w, o->device, seed, o->discarders);
    if (o->neighbour)
        writers_start(&neighbour, o->neighbour, seed + 1, 0);
    clock_sleep(50 * NS_PER_MS);
    r = copy_live(&c, &w, o);
    writers_stop(&w);
    if (r == 0)
        r = finish_copy(&c, &v);
    if (o->neighbour) {
        writers_stop(&neighbour);
        writers_finish(&neighbour);
    }
    v.poisoned = r < 0;
    judge(&c, &w, &v);
    report(o, round, &c, &w, &v);
    r = round_result(&v, &w);
    copier_finish(&c);
    writers_finish(&w);
    return r;
}

static int cmd_copy(const struct options *o)
{
    int worst = 0;

    for (unsigned int i = 1; i <= o->rounds; i++) {
        int r = copy_round(o, i);

        worst = MAX(worst, r);
    }
    return worst;
}

/* Writes until the time is over; says how much was written in each half of it. */
static int cmd_write(const struct options *o)
{
    struct writers w;
    uint64_t half;

    writers_start(&w, o->device, clock_now(), 0);
    clock_sleep(o->ms / 2 * NS_PER_MS);
    half = writers_read(&w.ops);
    clock_sleep(o->ms / 2 * NS_PER_MS);
    writers_stop(&w);
    printf("%s: %" PRIu64 " ops, then %" PRIu64 ", %" PRIu64 " failed\n", o->device, half,
           w.ops - half, w.errors);
    return w.errors || half == 0 || w.ops == half ? EXIT_DIFFERS : 0;
}

/* Tracks and drops the marks, until the time is over or the tracker fails. */
static int cmd_track(const struct options *o)
{
    uint64_t begin;
    struct copier c;
    int r;

    memset(&c, 0, sizeof(c));
    r = tracker_open_bpf(&c.tracker, o->device, &c.err);
    if (r < 0)
        errx(EXIT_BROKEN, "%s", c.err.text);
    if (bitmap_init(&c.dirty, c.tracker->blocks) < 0)
        errx(EXIT_BROKEN, "memory");
    printf("%s: tracking\n", o->device);
    (void)fflush(stdout);
    begin = clock_now();
    while (r == 0 && clock_now() - begin < o->ms * NS_PER_MS) {
        uint64_t blocks;

        r = c.tracker->ops->collect(c.tracker, &c.dirty, &blocks, &c.err);
        clock_sleep(10 * NS_PER_MS);
    }
    printf("%s: %s\n", o->device, r < 0 ? c.err.text : "no poison");
    if (r < 0 && c.tracker->ops->reset(c.tracker, &c.err) < 0)
        errx(EXIT_BROKEN, "reset: %s", c.err.text);
    tracker_destroy(c.tracker);
    bitmap_finish(&c.dirty);
    return r < 0 ? EXIT_POISONED : 0;
}

static unsigned int count_objects(int command)
{
    union bpf_attr attr;
    unsigned int n = 0;

    memset(&attr, 0, sizeof(attr));
    while (syscall(__NR_bpf, command, &attr, sizeof(attr)) == 0) {
        attr.start_id = attr.next_id;
        n++;
    }
    return n;
}

/* How many BPF programs and maps there are on this machine, of anybody. */
static int cmd_programs(void)
{
    printf("%u programs, %u maps\n", count_objects(BPF_PROG_GET_NEXT_ID),
           count_objects(BPF_MAP_GET_NEXT_ID));
    return 0;
}

/* A write to the disk's last block that no file system or cache sends: the driver's own command. */
static int cmd_passthrough(const struct options *o)
{
    CLEANUP_FREE void *data = aligned_alloc(BLOCK, BLOCK);
    int fd = open(o->device, O_RDWR | O_CLOEXEC);
    struct nvme_passthru_cmd command = {.opcode = 1, .nsid = 1, .data_len = 512};

    if (fd < 0 || !data)
        err(EXIT_BROKEN, "%s", o->device);
    memset(data, 0, BLOCK);
    command.addr = (uint64_t)(uintptr_t)data;
    command.cdw10 = (uint32_t)(device_size(fd, o->device) / 512 - 1);
    if (ioctl(fd, NVME_IOCTL_IO_CMD, &command) != 0)
        err(EXIT_BROKEN, "%s: NVMe command", o->device);
    (void)close(fd);
    return 0;
}

static int usage(void)
{
    (void)fprintf(stderr,
                  "usage: track-copy copy [-r ROUNDS] [-t MS] [-n NEIGHBOUR] [-d DISCARDERS]\n"
                  "                       [-x COMMAND] DEVICE\n"
                  "       track-copy write|track [-t MS] DEVICE\n"
                  "       track-copy passthrough NVME-DEVICE\n"
                  "       track-copy programs\n");
    return EXIT_BROKEN;
}

int main(int argc, char **argv)
{
    struct options o = {.rounds = 1, .ms = 1000};
    const char *command = argc > 1 ? argv[1] : "";
    int opt;

    optind = 2;
    while ((opt = getopt(argc, argv, "r:t:n:d:x:D")) != -1) {
        if (opt == 'r')
            o.rounds = (unsigned int)strtoul(optarg, NULL, 10);
        else if (opt == 't')
            o.ms = strtoull(optarg, NULL, 10);
        else if (opt == 'n')
            o.neighbour = optarg;
        else if (opt == 'd')
            o.discarders = (unsigned int)strtoul(optarg, NULL, 10);
        else if (opt == 'x')
            o.command = optarg;
        else if (opt == 'D')
            log_enable_area("mirror.tracker");
        else
            return usage();
    }
    o.device = optind < argc ? argv[optind] : NULL;
    if (strcmp(command, "programs") == 0)
        return cmd_programs();
    if (!o.device)
        return usage();
    if (strcmp(command, "copy") == 0)
        return cmd_copy(&o);
    if (strcmp(command, "write") == 0)
        return cmd_write(&o);
    if (strcmp(command, "passthrough") == 0)
        return cmd_passthrough(&o);
    return strcmp(command, "track") == 0 ? cmd_track(&o) : usage();
}
