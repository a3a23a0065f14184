/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/direct-io.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"

#include <assert.h>
#include <libaio.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#define AREA "mirror.direct"
/* Threads beyond these do without. */
#define CONTEXTS 64u
/* Those that take a quarter longer than when they are asked for alone, and this more, wait for one another: so nobody waits longer for
 * them than the brake lets a guest wait (care-brake.h), which only sees octets. */
#define WAITED (2 * NS_PER_MS)
/* A disk that does one thing at a time is tried ever less often. */
#define SURE_LEAST 16u
#define SURE_MOST  1024u

/* Of all disks of this process. To destroy one takes the kernel 30 ms, which nobody is made to wait for at a switchover: they are used
 * again, and end with the process. */
static struct {
    pthread_mutex_t lock;
    io_context_t idle[CONTEXTS];
    unsigned int idle_count;
    unsigned int made;
} spare = {.lock = PTHREAD_MUTEX_INITIALIZER};

struct slot {
    struct iocb request; /* first: events point to it */
    uint32_t item;
    uint64_t begun_ns;
};

struct batch {
    io_context_t context;
    int fd;
    const struct blockdev_read *reads; /* or: */
    const struct blockdev_write *writes;
    uint32_t count; /* to be asked for */
    uint32_t next;  /* of them */
    bool *done;
    struct direct_io_pace *pace;
    const struct blockdev_reader *reader;
    struct slot slots[DIRECT_IO_DEPTH];
    struct slot *idle[DIRECT_IO_DEPTH];
    uint32_t idle_count;
};

static uint64_t bound(const struct direct_io_pace *p)
{
    return p->base_ns + p->base_ns / 4 + WAITED;
}

/* A disk that once in a while takes a second is no slow disk. */
static void learn(struct direct_io_pace *p, uint64_t took)
{
    if (!p->base_ns)
        p->base_ns = p->mean_ns = took;
    took = MIN(took, 4 * bound(p));
    p->mean_ns = p->mean_ns - p->mean_ns / 8 + took / 8;
    /* What is shorter among others is so alone too. Up it goes slowly: others that use the disk come and go. */
    if (p->mean_ns < p->base_ns)
        p->base_ns = p->mean_ns;
    else if (p->depth == 1)
        p->base_ns += (p->mean_ns - p->base_ns) / 64;
}

static void lower(struct direct_io_pace *p, uint64_t now_ns)
{
    p->quick = 0;
    if (p->depth == 1)
        return;
    p->depth /= 2;
    p->mean_ns = p->base_ns;
    p->lowered_ns = now_ns;
    p->sure = MIN(p->sure * 2, SURE_MOST);
    p->raised = false;
}

static void raise_by_one(struct direct_io_pace *p)
{
    p->depth++;
    p->quick = 0;
    if (p->raised) /* it has borne the one before */
        p->sure = MAX(p->sure / 2, SURE_LEAST);
    p->raised = true;
}

void direct_io_pace_ended(struct direct_io_pace *p, uint64_t begun_ns, uint64_t now_ns, bool together)
{
    p->depth = MAX(p->depth, 1);
    p->sure = MAX(p->sure, SURE_LEAST);
    if (begun_ns < p->lowered_ns || (together && now_ns - begun_ns > bound(p)))
        return;
    learn(p, now_ns - begun_ns);
    p->quick++;
    if (p->mean_ns > bound(p))
        lower(p, now_ns);
    else if (p->quick >= p->sure * p->depth && p->depth < DIRECT_IO_DEPTH)
        raise_by_one(p);
}

static int take_context(io_context_t *ret)
{
    int r = -EAGAIN;

    *ret = NULL;
    pthread_mutex_lock(&spare.lock);
    if (spare.idle_count) {
        *ret = spare.idle[--spare.idle_count];
        r = 0;
    } else if (spare.made < CONTEXTS) {
        r = io_setup(DIRECT_IO_DEPTH, ret);
        spare.made += r == 0;
    }
    pthread_mutex_unlock(&spare.lock);
    return r;
}

/* NULL: it was destroyed. */
static void give_context(io_context_t context)
{
    pthread_mutex_lock(&spare.lock);
    if (context)
        spare.idle[spare.idle_count++] = context;
    else
        spare.made--;
    pthread_mutex_unlock(&spare.lock);
}

static uint32_t under_way(const struct batch *b)
{
    return DIRECT_IO_DEPTH - b->idle_count;
}

static uint32_t depth(const struct batch *b)
{
    return b->pace ? MAX(b->pace->depth, 1) : DIRECT_IO_DEPTH;
}

static size_t length(const struct batch *b, uint32_t item)
{
    return b->reads ? b->reads[item].len : b->writes[item].len;
}

static void prepare(struct batch *b, struct slot *s, uint32_t item, uint64_t now)
{
    s->item = item;
    s->begun_ns = now;
    if (b->reads)
        io_prep_pread(&s->request, b->fd, b->reads[item].buf, b->reads[item].len, (long long)b->reads[item].offset);
    else /* which only looks at it */
        io_prep_pwrite(&s->request, b->fd, (void *)(uintptr_t)b->writes[item].buf, b->writes[item].len,
                       (long long)b->writes[item].offset);
}

/* As many as there is room for. What the kernel does not take now it is not asked again. */
static void ask(struct batch *b)
{
    struct iocb *requests[DIRECT_IO_DEPTH];
    uint64_t now = clock_now();
    uint32_t n = 0;
    int taken;

    while (under_way(b) + n < depth(b) && b->next + n < b->count) {
        struct slot *s = b->idle[b->idle_count - 1 - n];

        prepare(b, s, b->next + n, now);
        requests[n++] = &s->request;
    }
    if (!n)
        return;
    taken = io_submit(b->context, n, requests);
    if (taken < 0)
        taken = 0;
    assert((uint32_t)taken <= n);
    b->next += (uint32_t)taken;
    if ((uint32_t)taken < n)
        b->count = b->next;
    /* The first of them, which stand at the end, are under way. */
    b->idle_count -= n;
    for (uint32_t i = (uint32_t)taken; i < n; i++)
        b->idle[b->idle_count++] = (struct slot *)requests[i];
}

static void end_one(struct batch *b, const struct io_event *event, uint64_t now, bool together)
{
    struct slot *s = (struct slot *)event->obj;
    size_t len = length(b, s->item);

    /* A negative result is an errno. */
    b->done[s->item] = event->res == len;
    if (b->done[s->item])
        blockdev_reads_ended(b->reader, 1, len, now - s->begun_ns);
    if (b->pace)
        direct_io_pace_ended(b->pace, s->begun_ns, now, together);
    b->idle[b->idle_count++] = s;
}

/* Waits for one at least. */
static int wait_for_some(struct batch *b)
{
    struct io_event events[DIRECT_IO_DEPTH];
    uint64_t now;
    int n;

    do
        n = io_getevents(b->context, 1, DIRECT_IO_DEPTH, events, NULL);
    while (n == -EINTR);
    now = clock_now();
    for (int i = 0; i < n; i++)
        end_one(b, &events[i], now, n > 1);
    return n < 0 ? n : 0;
}

static void run(struct batch *b)
{
    int r = 0;

    for (uint32_t i = 0; i < DIRECT_IO_DEPTH; i++)
        b->idle[b->idle_count++] = &b->slots[i];
    while (r == 0) {
        ask(b);
        if (!under_way(b))
            return;
        r = wait_for_some(b);
    }
    /* The buffers are the caller's: this waits until the kernel has done with them. */
    (void)io_destroy(b->context);
    b->context = NULL;
}

static void run_with_context(struct batch *b)
{
    static atomic_bool told;
    int r = take_context(&b->context);

    if (r < 0) {
        if (!atomic_exchange(&told, true))
            log_debug(AREA, "blocks of disks are read and written one after another: io_setup: %s", strerror(-r));
        return;
    }
    run(b);
    give_context(b->context);
}

void direct_io_read(int fd, const struct blockdev_read *reads, uint32_t count, bool *done, struct direct_io_pace *pace,
                    const struct blockdev_reader *reader)
{
    struct batch b = {.fd = fd, .reads = reads, .count = count, .done = done, .pace = pace, .reader = reader};

    run_with_context(&b);
}

void direct_io_write(int fd, const struct blockdev_write *writes, uint32_t count, bool *done, struct direct_io_pace *pace)
{
    struct batch b = {.fd = fd, .writes = writes, .count = count, .done = done, .pace = pace};

    run_with_context(&b);
}
