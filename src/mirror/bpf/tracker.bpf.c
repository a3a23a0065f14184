/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Marks the blocks of one disk when a write to them completes, before its submitter hears of it.
 *
 * Which tracepoint tells of a completion depends on the class of the device. A request-based one
 * (blk-mq) ends its requests in blk_update_request() or blk_complete_request(), whose first
 * statement is block_rq_complete; it also clears BIO_TRACE_COMPLETION there, so block_bio_complete
 * never comes. A bio-based disk (device mapper) has no requests: block_bio_complete comes from
 * bio_endio(), ahead of the bio's bi_end_io, but the bio's position has moved on by then, so that
 * it has to be remembered at block_bio_queue.
 *
 * Both give sectors of the whole disk, also when a partition was written. */
#include "kern.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#include "counts.h"

#define BLOCK_SHIFT      3   /* 4096 octets: TRACKER_GRANULARITY */
#define DISCARD_BIOS_MAX 256 /* kernel: limits max_discard_segments to less */

struct span {
    __u64 sector;
    __u64 sectors;
};

const volatile struct tracker_target target = {};
struct tracker_counts counts = {};
__u64 test_writes = 0;

/* One bit a block. Resized before loading; user space maps it and takes the bits. */
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(map_flags, BPF_F_MMAPABLE);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} bitmap SEC(".maps");

/* Bios between block_bio_queue and block_bio_complete, by address. */
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, __u64);
    __type(value, struct span);
} inflight SEC(".maps");

/* The kernel leaves a program out while the same processor is inside of it already: an interrupt ends a request on top of one
 * that is being ended. So completions have three copies of their program, one after another: what is left out of one is in
 * another, as interrupts do not nest deeper. An event is taken by the first copy that runs for it and passed over by the
 * others; the events under way on a processor are a stack, since whatever interrupts one is over before it goes on. */
#define COPIES      3
#define STACK_DEPTH 16 /* of which 3 are needed: an entry whose last copy was left out stays a while */

struct stack {
    __u64 depth;
    __u64 events[STACK_DEPTH];
};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct stack);
} under_way SEC(".maps");

static __always_inline void push(struct stack *stack, __u64 event)
{
    __u64 depth = stack->depth < STACK_DEPTH ? stack->depth : 0;

    stack->events[depth & (STACK_DEPTH - 1)] = event;
    stack->depth = depth + 1;
}

/* The last copy: the event is over, and so is all that was left above it. */
static __always_inline bool pop(struct stack *stack, __u64 event)
{
    for (__u64 i = STACK_DEPTH; i > 0; i--) {
        if (i > stack->depth || stack->events[i - 1] != event)
            continue;
        stack->depth = i - 1;
        return true;
    }
    return false;
}

/* Whether this copy is to handle the event. Events are told apart by their place; pointers cannot be reckoned with here. */
static __always_inline bool take(__u32 copy, __u64 event)
{
    __u32 key = 0;
    struct stack *stack = bpf_map_lookup_elem(&under_way, &key);

    if (!stack)
        return copy == 0;
    if (copy == COPIES - 1)
        return !pop(stack, event);
    if (copy > 0 && stack->depth && stack->events[(stack->depth - 1) & (STACK_DEPTH - 1)] == event)
        return false;
    push(stack, event);
    return true;
}

static void poison(__u32 reason)
{
    __sync_fetch_and_or(&counts.poison, reason);
}

/* Sets the bits `mask` of one word. An unconditional locked OR: "skip it when the bit is set" would
 * need a barrier between the data that landed and the test. */
static void mark_word(__u32 index, __u64 mask)
{
    __u64 *word = bpf_map_lookup_elem(&bitmap, &index);

    if (word)
        __sync_fetch_and_or(word, mask);
    else
        poison(POISON_RANGE);
}

struct run {
    __u64 first; /* bits, both included */
    __u64 last;
};

static long mark_run_word(__u32 i, struct run *run)
{
    __u64 word = (run->first >> 6) + i;
    __u64 mask = ~0ULL;

    if (i == 0)
        mask <<= run->first & 63;
    if (word == run->last >> 6)
        mask &= ~0ULL >> (63 - (run->last & 63));
    mark_word((__u32)word, mask);
    return 0;
}

static void mark(__u64 sector, __u64 sectors)
{
    __u64 end = sector + sectors;
    struct run run;

    if (end > target.end) {
        if (!target.part_dev)
            poison(POISON_GREW);
        end = target.end;
    }
    if (sector < target.start)
        sector = target.start;
    if (sector >= end)
        return;
    run.first = (sector - target.start) >> BLOCK_SHIFT;
    run.last = (end - 1 - target.start) >> BLOCK_SHIFT;
    if (run.first >> 6 == run.last >> 6)
        mark_run_word(0, &run);
    else
        bpf_loop((__u32)((run.last >> 6) - (run.first >> 6) + 1), mark_run_word, &run, 0);
}

static bool is_target(const struct gendisk *disk)
{
    return disk->major == (int)target.disk_major && disk->first_minor == (int)target.disk_minor;
}

/* Counts what the kernel adds to the stat file of what is tracked: a partition's has only what was
 * submitted through the partition, a disk's has everything. */
static void count(struct tracker_sectors *sum, __u32 op, __u64 sectors,
                  const struct block_device *through)
{
    if (target.part_dev && through->bd_dev != target.part_dev)
        return;
    if (op == REQ_OP_DISCARD)
        __sync_fetch_and_add(&sum->discarded, sectors);
    else
        __sync_fetch_and_add(&sum->written, sectors);
}

static void count_read(void)
{
    if (counts.probing)
        __sync_fetch_and_add(&counts.reads, 1);
}

/* Tests: behaves now and then as a program that the kernel failed to run. */
static bool missed(void)
{
    return target.test_miss &&
           __sync_fetch_and_add(&test_writes, 1) % target.test_miss == target.test_miss - 1;
}

struct walk {
    __u64 bio;
};

static long mark_bio(__u32 i, struct walk *walk)
{
    struct bio *bio = (struct bio *)walk->bio;

    if (!bio)
        return 1;
    mark(BPF_CORE_READ(bio, bi_iter.bi_sector), BPF_CORE_READ(bio, bi_iter.bi_size) >> 9);
    walk->bio = (__u64)BPF_CORE_READ(bio, bi_next);
    return 0;
}

/* The bios of a discard need not follow one another on the disk (NVMe); none was advanced yet. */
static void mark_discard(struct bio *first)
{
    struct walk walk = {.bio = (__u64)first};

    bpf_loop(DISCARD_BIOS_MAX, mark_bio, &walk, 0);
    if (walk.bio)
        poison(POISON_DISCARD);
}

static void mark_request(struct request *rq, __u32 op, __u32 octets)
{
    if (op == REQ_OP_DISCARD && rq->bio && rq->bio->bi_next)
        mark_discard(rq->bio);
    else
        mark(rq->__sector, octets >> 9);
}

/* Request-based: a request, or a piece of one, is done. Errors are marked like success. */
static __always_inline int end_request(__u32 copy, struct request *rq, __u32 octets)
{
    __u32 op = rq->cmd_flags & REQ_OP_MASK;

    if (!is_target(rq->q->disk) || !take(copy, rq->__sector << 24 ^ octets ^ (__u64)rq->tag << 48))
        return 0;
    if (!(op & REQ_OP_CHANGES)) {
        count_read();
        return 0;
    }
    if (op >= REQ_OP_DRV_IN) {
        poison(POISON_PASSTHROUGH);
        return 0;
    }
    if (octets == 0 || missed()) /* 0: a flush, or the end of its sequence */
        return 0;
    if (!target.test_submission)
        mark_request(rq, op, octets);
    count(&counts.begun, op, octets >> 9, rq->part);
    return 0;
}

#define RQ_COMPLETE(name, copy)                                                                    \
    SEC("tp_btf/block_rq_complete")                                                                \
    int BPF_PROG(name, struct request *rq, __u8 error, __u32 octets)                               \
    {                                                                                              \
        return end_request(copy, rq, octets);                                                      \
    }

RQ_COMPLETE(rq_complete, 0)
RQ_COMPLETE(rq_complete_again, 1)
RQ_COMPLETE(rq_complete_last, 2)

/* Loaded by tests only, to show what marking at submission loses. */
SEC("tp_btf/block_rq_issue")
int BPF_PROG(rq_issue, struct request *rq)
{
    __u32 op = rq->cmd_flags & REQ_OP_MASK;

    if ((op & REQ_OP_CHANGES) && is_target(rq->q->disk))
        mark_request(rq, op, rq->__data_len);
    return 0;
}

/* Bio-based: a bio enters. Empty flushes too, or their completion would be an unknown one. */
SEC("tp_btf/block_bio_queue")
int BPF_PROG(bio_queue, struct bio *bio)
{
    __u32 op = bio->bi_opf & REQ_OP_MASK;
    struct span span;
    __u64 key = (__u64)bio;
    long r;

    if (!(op & REQ_OP_CHANGES) || !is_target(bio->bi_bdev->bd_disk))
        return 0;
    span.sector = bio->bi_iter.bi_sector;
    span.sectors = bio->bi_iter.bi_size >> 9;
    if (missed())
        span.sectors = 0;
    count(&counts.begun, op, span.sectors, bio->bi_bdev);
    r = bpf_map_update_elem(&inflight, &key, &span, BPF_ANY);
    if (r) {
        poison(r == -16 /* EBUSY */ ? POISON_BUSY : POISON_OVERFLOW);
        return 0;
    }
    __sync_fetch_and_add(&counts.pending, 1);
    if (target.test_submission)
        mark(span.sector, span.sectors);
    return 0;
}

/* Bio-based: a bio is done. A large one may have been split: its pieces end first, under addresses
 * of their own and with bi_private pointing at the one that was remembered. */
static __always_inline int end_bio(__u32 copy, struct bio *bio)
{
    __u32 op = bio->bi_opf & REQ_OP_MASK;
    __u64 key = (__u64)bio;
    struct span *span;

    if (!is_target(bio->bi_bdev->bd_disk) || !take(copy, bio->bi_iter.bi_sector ^ (__u64)bio->bi_opf << 32))
        return 0;
    if (!(op & REQ_OP_CHANGES)) {
        count_read();
        return 0;
    }
    span = bpf_map_lookup_elem(&inflight, &key);
    if (!span) {
        key = (__u64)bio->bi_private;
        if (!bpf_map_lookup_elem(&inflight, &key))
            __sync_fetch_and_add(&counts.unknown, 1);
        return 0;
    }
    if (!target.test_submission)
        mark(span->sector, span->sectors);
    count(&counts.done, op, span->sectors, bio->bi_bdev);
    /* Marked, forgotten, counted: in this order, so that nothing pending means all is marked. */
    bpf_map_delete_elem(&inflight, &key);
    __sync_fetch_and_sub(&counts.pending, 1);
    return 0;
}

#define BIO_COMPLETE(name, copy)                                                                   \
    SEC("tp_btf/block_bio_complete")                                                               \
    int BPF_PROG(name, struct request_queue *q, struct bio *bio)                                   \
    {                                                                                              \
        return end_bio(copy, bio);                                                                 \
    }

BIO_COMPLETE(bio_complete, 0)
BIO_COMPLETE(bio_complete_again, 1)
BIO_COMPLETE(bio_complete_last, 2)

/* The kernel asks for this word before it lends its helpers; LGPL 2.1 (3) allows it. */
char LICENSE[] SEC("license") = "GPL";
