/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tracker of block devices. tracker.bpf.c sets the marks; here they are taken, and everything
 * that could mean a lost mark is looked for: a program says nothing when it does not run. */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "mirror/bpf/programs.h"
#include "mirror/tracker.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>

#define AREA           "mirror.tracker"
#define CALM_NS        (2 * NS_PER_SEC)  /* no write of before for so long: there are none */
#define SETTLE_MAX_NS  (60 * NS_PER_SEC) /* writes of before that take longer: give up */
#define BASE_SAMPLES   128 /* on a busy device few of them fall between two writes */
#define DRAIN_PAUSE_NS (10 * NS_PER_MS)
#define AUDIT_TRIES    5

struct tracker_bpf {
    struct tracker tracker;
    struct block_place place;
    struct programs programs;
    uint64_t unknown; /* counts when trust began; growth is poison */
    uint64_t misses;
    /* The kernel's figures less ours, which never change while nothing is in flight. A kernel
     * counts a bio when it begins (to 6.3) or when it is done (6.4): one of these is right, and
     * both when the device was idle once as they were taken. */
    struct tracker_sectors base_begun;
    struct tracker_sectors base_done;
    bool audit_failed;
};

static struct tracker_bpf *self(struct tracker *t)
{
    return (struct tracker_bpf *)t;
}

static uint64_t load(const __u64 *counter)
{
    return __atomic_load_n(counter, __ATOMIC_SEQ_CST);
}

static const struct {
    uint32_t bit;
    const char *text;
} poisons[] = {
    {POISON_OVERFLOW, "more writes were in flight than the tracker can remember"},
    {POISON_BUSY, "a write began while the tracker's map was in use, and was not remembered"},
    {POISON_PASSTHROUGH, "a command was passed through to the device, which may have written"},
    {POISON_DISCARD, "a discard of too many ranges was sent"},
    {POISON_GREW, "something was written past the end: the device has grown"},
    {POISON_RANGE, "a mark fell outside the tracker's bitmap"},
};

/* What the programs noticed themselves. */
static int check_poison_bits(const struct tracker_bpf *t, struct err *err)
{
    uint32_t bits = __atomic_load_n(&t->programs.counts->poison, __ATOMIC_SEQ_CST);

    for (size_t i = 0; i < sizeof(poisons) / sizeof(poisons[0]); i++) {
        if (bits & poisons[i].bit)
            return err_set(err, -EIO, "writes may have gone unseen: %s", poisons[i].text);
    }
    assert(bits == 0);
    return 0;
}

static int check_poison(const struct tracker_bpf *t, struct err *err)
{
    uint64_t unknown = load(&t->programs.counts->unknown) - t->unknown;
    int r;

    r = check_poison_bits(t, err);
    if (r < 0)
        return r;
    if (t->audit_failed)
        return err_set(err, -EIO, "writes may have gone unseen: the last audit failed");
    if (unknown)
        return err_set(err, -EIO,
                       "writes may have gone unseen: %" PRIu64 " ended on the device "
                       "that were not seen to begin",
                       unknown);
    return 0;
}

static int bpf_collect(struct tracker *tracker, struct bitmap *dirty, uint64_t *ret_blocks,
                       struct err *err)
{
    struct tracker_bpf *t = self(tracker);
    int r;

    assert(dirty->bits == tracker->blocks);
    r = check_poison(t, err);
    if (r < 0)
        return r;
    *ret_blocks = bitmap_take(dirty, t->programs.words);
    return 0;
}

/* Where marks may be missing, everything counts: nobody stops a guest for a tail that is a guess. */
static uint64_t bpf_count(struct tracker *tracker)
{
    struct bitmap marks = {.words = self(tracker)->programs.words, .bits = tracker->blocks};

    return check_poison(self(tracker), NULL) < 0 ? tracker->blocks : bitmap_count(&marks);
}

static struct tracker_sectors subtract(const struct block_figures *kernel,
                                       const struct tracker_sectors *ours)
{
    return (struct tracker_sectors){.written = kernel->written - load(&ours->written),
                                    .discarded = kernel->discarded - load(&ours->discarded)};
}

/* The greater (or the lesser) of two differences, which may be negative. */
static void keep(__u64 *base, __u64 seen, bool greater)
{
    int64_t growth = (int64_t)(seen - *base);

    if (greater ? growth > 0 : growth < 0)
        *base = seen;
}

/* A write is in our count of the begun before it is in the kernel's, and the kernel's is read first
 * here: what is under way makes the difference too small, never too large. The kernel counts what
 * is done before we do, and our count of it is read first: there it is the other way round. */
static int sample_base(struct tracker_bpf *t, bool first, struct err *err)
{
    const struct tracker_counts *counts = t->programs.counts;
    struct tracker_sectors begun;
    struct tracker_sectors done = {.written = load(&counts->done.written),
                                   .discarded = load(&counts->done.discarded)};
    struct block_figures kernel;
    int r;

    r = block_figures_read(&t->place, &kernel, err);
    if (r < 0)
        return r;
    begun = subtract(&kernel, &counts->begun);
    done = subtract(&kernel, &done);
    if (first) {
        t->base_begun = begun;
        t->base_done = done;
    }
    keep(&t->base_begun.written, begun.written, true);
    keep(&t->base_begun.discarded, begun.discarded, true);
    keep(&t->base_done.written, done.written, false);
    keep(&t->base_done.discarded, done.discarded, false);
    return 0;
}

/* Writes that had begun when the programs were attached: a bio-based device reports their ends as
 * unknown. They are over when nothing is in flight, or when no unknown one came for a while (a busy
 * device is never without writes). A request-based device needs no memory of how a write began. */
static int settle_bios(struct tracker_bpf *t, struct err *err)
{
    uint64_t begin = clock_now();
    uint64_t calm = begin;
    uint64_t unknown = load(&t->programs.counts->unknown);
    uint64_t in_flight;
    int r;

    for (;;) {
        uint64_t now = clock_now();

        r = block_writes_in_flight(&t->place, &in_flight, err);
        if (r < 0)
            return r;
        if (in_flight == 0 || now - calm > CALM_NS)
            return 0;
        if (now - begin > SETTLE_MAX_NS)
            return err_set(err, -ETIMEDOUT, "writes that were under way do not end");
        if (load(&t->programs.counts->unknown) != unknown) {
            unknown = load(&t->programs.counts->unknown);
            calm = now;
        }
        clock_sleep(NS_PER_MS);
    }
}

/* From here on what is seen is trusted: remembers the counts as they are. Only now, since a kernel
 * that counts what is done still counted the writes of before, which the programs did not. */
static int settle(struct tracker_bpf *t, struct err *err)
{
    int r = t->place.request_based ? 0 : settle_bios(t, err);

    for (int i = 0; r == 0 && i < BASE_SAMPLES; i++) {
        r = sample_base(t, i == 0, err);
        clock_sleep(NS_PER_MS);
    }
    if (r < 0)
        return r;
    t->unknown = load(&t->programs.counts->unknown);
    return programs_misses(&t->programs, &t->misses, err);
}

static int bpf_reset(struct tracker *tracker, struct err *err)
{
    struct tracker_bpf *t = self(tracker);

    __atomic_store_n(&t->programs.counts->poison, 0, __ATOMIC_SEQ_CST);
    t->audit_failed = false;
    return settle(t, err);
}

static int is_drained(const struct tracker_bpf *t, bool *ret_drained, struct err *err)
{
    uint64_t in_flight;
    int r;

    r = block_writes_in_flight(&t->place, &in_flight, err);
    if (r < 0)
        return r;
    *ret_drained = in_flight == 0 && load(&t->programs.counts->pending) == 0;
    return 0;
}

/* Twice in a row, since a request may be between two queues when it is looked for. */
static int bpf_drain(struct tracker *tracker, uint64_t timeout_ns, struct err *err)
{
    struct tracker_bpf *t = self(tracker);
    uint64_t begin = clock_now();
    unsigned int times = 0;
    bool drained;
    int r;

    for (;;) {
        r = is_drained(t, &drained, err);
        if (r < 0)
            return r;
        times = drained ? times + 1 : 0;
        if (times == 2)
            return 0;
        if (clock_now() - begin > timeout_ns)
            return err_set(err, -ETIMEDOUT, "writes were still in flight after %" PRIu64 " ms",
                           timeout_ns / NS_PER_MS);
        clock_sleep(DRAIN_PAUSE_NS);
    }
}

static bool same(const struct tracker_sectors *a, const struct tracker_sectors *b)
{
    return a->written == b->written && a->discarded == b->discarded;
}

/* That the kernel left out runs of a program is no poison: the program's other copies have taken the event (tracker.bpf.c,
 * take), and if they had not, it would be missing here, and the guest would stay where it is. */
static int audit_failed(struct tracker_bpf *t, const struct tracker_sectors *now, struct err *err)
{
    const struct tracker_sectors *ours = &t->programs.counts->begun;
    uint64_t misses = t->misses;

    t->audit_failed = true;
    (void)programs_misses(&t->programs, &misses, NULL);
    return err_set(err, -EIO,
                   "writes may have gone unseen: of the device's own count of sectors "
                   "the tracker lacks %" PRId64 " written and %" PRId64 " discarded "
                   "(it saw %" PRIu64 " and %" PRIu64 "; the kernel left out %" PRIu64 " runs of its programs)",
                   (int64_t)(now->written - t->base_begun.written),
                   (int64_t)(now->discarded - t->base_begun.discarded),
                   (uint64_t)load(&ours->written), (uint64_t)load(&ours->discarded), misses - t->misses);
}

/* Compares sectors, the only thing that the kernel counts whether our programs run or not. It is
 * looked at a few times: a completion counts on either side a moment apart. */
static int bpf_audit(struct tracker *tracker, struct err *err)
{
    struct tracker_bpf *t = self(tracker);
    struct tracker_sectors now = {0};
    struct block_figures kernel;
    int r;

    r = check_poison(t, err);
    for (int i = 0; r == 0 && i < AUDIT_TRIES; i++) {
        if (i > 0)
            clock_sleep(DRAIN_PAUSE_NS);
        r = block_figures_read(&t->place, &kernel, err);
        if (r < 0)
            return r;
        now = subtract(&kernel, &t->programs.counts->begun);
        if (same(&now, &t->base_begun) || (!t->place.request_based && same(&now, &t->base_done)))
            return 0;
    }
    return r < 0 ? r : audit_failed(t, &now, err);
}

static void bpf_destroy(struct tracker *tracker)
{
    struct tracker_bpf *t = self(tracker);

    programs_finish(&t->programs);
    free(t);
}

static const struct tracker_ops bpf_ops = {
    .name = "bpf",
    .collect = bpf_collect,
    .count = bpf_count,
    .reset = bpf_reset,
    .drain = bpf_drain,
    .audit = bpf_audit,
    .destroy = bpf_destroy,
};

/* Reads the first block past the page cache. */
static int probe_read(const struct tracker_bpf *t, int fd, struct err *err)
{
    CLEANUP_FREE void *buffer = NULL;
    size_t len = t->place.size < TRACKER_GRANULARITY ? 512 : TRACKER_GRANULARITY;

    if (posix_memalign(&buffer, TRACKER_GRANULARITY, TRACKER_GRANULARITY) != 0)
        return err_set(err, -ENOMEM, "no memory for a probe read");
    if (fcntl(fd, F_SETFL, O_DIRECT) < 0 || pread(fd, buffer, len, 0) < 0)
        return err_errno(err, -errno, "the probe read failed");
    return 0;
}

/* Devices that hand their bios on as they are (md's linear, NVMe multipath heads) look like others
 * but give no event of their own: a read of ours must be seen by the programs and by the counters
 * that the audit uses. */
static int self_test(struct tracker_bpf *t, int fd, struct err *err)
{
    struct tracker_counts *counts = t->programs.counts;
    struct block_figures before;
    struct block_figures after;
    uint64_t reads = load(&counts->reads);
    int r;

    r = block_figures_read(&t->place, &before, err);
    if (r < 0)
        return r;
    __atomic_store_n(&counts->probing, 1, __ATOMIC_SEQ_CST);
    r = probe_read(t, fd, err);
    __atomic_store_n(&counts->probing, 0, __ATOMIC_SEQ_CST);
    if (r == 0)
        r = block_figures_read(&t->place, &after, err);
    if (r < 0)
        return r;
    if (load(&counts->reads) == reads)
        return err_set(err, -ENOTSUP,
                       "the tracker's programs did not see a read of this device: "
                       "a device of this kind cannot be tracked, track what it "
                       "lies on or what lies on it");
    if (after.read == before.read)
        return err_set(err, -ENOTSUP,
                       "this device does not count its sectors, so that its tracker "
                       "could not be audited");
    return 0;
}

static int start(struct tracker_bpf *t, int fd, struct err *err)
{
    int r;

    r = block_place_find(&t->place, fd, err);
    if (r < 0)
        return r;
    t->tracker.blocks = (t->place.size + TRACKER_GRANULARITY - 1) / TRACKER_GRANULARITY;
    r = programs_start(&t->programs, &t->place, t->tracker.blocks, err);
    if (r == 0)
        r = self_test(t, fd, err);
    if (r == 0)
        r = settle(t, err);
    return r;
}

int tracker_open_bpf(struct tracker **ret, const char *device, struct err *err)
{
    CLEANUP_CLOSE int fd = open(device, O_RDONLY | O_CLOEXEC);
    struct tracker_bpf *t;
    int r;

    if (fd < 0)
        return err_errno(err, -errno, "%s", device);
    t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(err, -ENOMEM, "no memory for a tracker");
    t->tracker.ops = &bpf_ops;
    r = start(t, fd, err);
    if (r < 0) {
        bpf_destroy(&t->tracker);
        return err_prefix(err, r, "%s", device);
    }
    log_debug(AREA, "%s: %s, %" PRIu64 " blocks", device,
              t->place.request_based ? "request-based" : "bio-based", t->tracker.blocks);
    *ret = &t->tracker;
    return 0;
}
