/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The brake on simulated disks: what the guest waits, and what the copy gets. XMOTION_SHOW=1 prints each half second,
 * XMOTION_SEED draws other requests. */
#include "disk-sim.h"
#include "unit.h"

#define STEP (500 * NS_PER_MS)
#define STEPS_MAX 2000

/* One copy: the simulated disk, and what cares for it as care.c puts it together. */
struct run {
    struct sim sim;
    struct care_meter meter;
    struct care_stream streams[CARE_KIND_COUNT];
    struct care_brake brake;
    bool cares;
    uint32_t ms_before; /* in the counters of milliseconds at the beginning */
    unsigned int steps;
    uint64_t limits[STEPS_MAX];
    unsigned int lowered;
    uint64_t guest_ios;
    uint64_t guest_ns;
    uint64_t copied;
    uint64_t begun_ns; /* of what is summed up */
    uint64_t highest_ns; /* baseline of writes */
};

static void step(struct run *r, bool baseline)
{
    struct care_sample samples[CARE_KIND_COUNT];
    struct care_brake_input in = {.samples = samples};
    struct care_figures f;
    struct err err = {0};
    char stat[400];
    char inflight[400];
    uint64_t limit;

    sim_stat(&r->sim, r->ms_before, stat, inflight, sizeof(stat));
    ck_assert_msg(care_figures_parse(&f, stat, inflight, &err) == 0, "%s", err.text);
    care_meter_step(&r->meter, r->sim.now_ns, &f, &r->sim.own, samples);
    if (baseline) {
        care_brake_baseline(&r->brake, samples);
        care_meter_restart(&r->meter, r->sim.now_ns);
        return;
    }
    in.now_ns = r->sim.now_ns;
    in.paced = r->sim.own.octets;
    in.read_per_second = r->meter.own_per_second;
    in.written_per_second = r->meter.written_per_second;
    limit = care_brake_step(&r->brake, &in);
    if (r->brake.restart)
        care_meter_restart(&r->meter, r->sim.now_ns);
    if (r->brake.state != CARE_PROBING)
        ck_assert_uint_ge(limit, care_brake_floor(&r->brake, in.written_per_second));
    r->highest_ns = MAX(r->highest_ns, r->streams[CARE_WRITES].baseline_ns);
    ck_assert_uint_lt(r->steps, STEPS_MAX);
    r->lowered += r->steps && limit < r->limits[r->steps - 1] && r->brake.state != CARE_PROBING;
    r->limits[r->steps++] = limit;
    if (r->cares)
        sim_set_limit(&r->sim, limit);
}

static uint64_t seed(void)
{
    const char *text = getenv("XMOTION_SEED");

    return text ? strtoull(text, NULL, 10) : 7;
}

static void begin(struct run *r, const struct sim_disk *disk, const struct sim_guest *guest, bool cares)
{
    memset(r, 0, sizeof(*r));
    sim_init(&r->sim, disk, guest, seed());
    care_meter_init(&r->meter, 0);
    care_brake_init(&r->brake, r->streams, CARE_KIND_COUNT);
    r->cares = cares;
}

/* The guest alone for so long, then the copy begins. */
static void begin_copy(struct run *r, uint64_t alone_ns)
{
    struct care_figures f;
    struct care_sample none[CARE_KIND_COUNT];
    char stat[400];
    char inflight[400];

    sim_stat(&r->sim, r->ms_before, stat, inflight, sizeof(stat));
    ck_assert_int_eq(care_figures_parse(&f, stat, inflight, NULL), 0);
    care_meter_step(&r->meter, r->sim.now_ns, &f, &r->sim.own, none);
    sim_run(&r->sim, r->sim.now_ns + alone_ns);
    step(r, true);
    sim_begin_copy(&r->sim);
}

static void sum_anew(struct run *r)
{
    r->guest_ios = r->sim.guest_ios;
    r->guest_ns = r->sim.guest_ns;
    r->copied = r->sim.own.octets;
    r->begun_ns = r->sim.now_ns;
    r->lowered = 0;
}

static void go_on(struct run *r, unsigned int seconds)
{
    bool show = getenv("XMOTION_SHOW");

    sum_anew(r);
    for (unsigned int i = 0; i < 2 * seconds; i++) {
        uint64_t ios = r->sim.guest_ios;
        uint64_t ns = r->sim.guest_ns;
        uint64_t octets = r->sim.own.octets;

        sim_run(&r->sim, r->sim.now_ns + STEP);
        step(r, false);
        if (show)
            printf("%6.1f s: %7.2f ms x %4" PRIu64 ", %7.1f MiB/s, then %7.1f %s; meter %.2f/%u %.2f/%u bound %.1f/%.1f\n",
                   (double)r->sim.now_ns / 1e9,
                   (double)(r->sim.guest_ns - ns) / 1e6 / (double)MAX(r->sim.guest_ios - ios, 1), r->sim.guest_ios - ios,
                   (double)(r->sim.own.octets - octets) * 2 / 1048576,
                   r->limits[r->steps - 1] == CARE_NO_LIMIT ? 0 : (double)r->limits[r->steps - 1] / 1048576,
                   care_state_name(r->brake.state), (double)r->streams[0].latency_ns / 1e6, r->streams[0].over,
                   (double)r->streams[1].latency_ns / 1e6, r->streams[1].over,
                   (double)care_brake_bound(&r->streams[0]) / 1e6, (double)care_brake_bound(&r->streams[1]) / 1e6);
    }
}

static double latency_ms(const struct run *r)
{
    return (double)(r->sim.guest_ns - r->guest_ns) / 1e6 / (double)MAX(r->sim.guest_ios - r->guest_ios, 1);
}

static double rate_mib(const struct run *r)
{
    return (double)(r->sim.own.octets - r->copied) / 1048576 * 1e9 / (double)(r->sim.now_ns - r->begun_ns);
}

static void say(const char *what, const struct run *r)
{
    printf("%-44s guest %7.2f ms, copy %7.1f MiB/s, lowered %u times, %s\n", what, latency_ms(r), rate_mib(r), r->lowered,
           care_state_name(r->brake.state));
}

/* channels, guest's service, copy's, split, readers, link */
static const struct sim_disk hard_disk = {1, 4 * NS_PER_MS, 6 * NS_PER_MS, 1, 8, 0};
static const struct sim_disk sata_ssd = {4, 200 * NS_PER_US, 2 * NS_PER_MS, 1, 8, 0};
static const struct sim_disk nvme = {16, 90 * NS_PER_US, 200 * NS_PER_US, 1, 8, 0};
/* requests, part reads, octets, depth */
static const struct sim_guest writer = {60, 0, 4096, 32};
static const struct sim_guest reader = {60, 1, 4096, 32};
static const struct sim_guest mixed = {60, 0.5, 16384, 32};
static const struct sim_guest idle = {0, 0, 4096, 32};

START_TEST(latency_comes_back_under_its_bound)
{
    const struct {
        const char *what;
        const struct sim_disk *disk;
        struct sim_guest guest;
        double least; /* of the rate without a brake */
    } rows[] = {
        {"hard disk, writes", &hard_disk, writer, 0.2},
        {"hard disk, reads", &hard_disk, reader, 0.2},
        {"hard disk, both", &hard_disk, mixed, 0.2},
        {"SSD, writes", &sata_ssd, {2000, 0, 4096, 32}, 0.3},
        {"SSD, reads", &sata_ssd, {2000, 1, 4096, 32}, 0.3},
    };
    struct run r;

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        double without;
        double alone;
        double bound;

        begin(&r, rows[i].disk, &rows[i].guest, false);
        sum_anew(&r);
        begin_copy(&r, 20 * NS_PER_SEC);
        alone = latency_ms(&r);
        bound = MAX(2 * alone, alone + 2);
        go_on(&r, 30);
        say(rows[i].what, &r);
        without = rate_mib(&r);
        ck_assert_msg(latency_ms(&r) > 1.2 * bound, "%s: no need to brake: %.2f ms, %.2f alone", rows[i].what, latency_ms(&r),
                      alone);
        begin(&r, rows[i].disk, &rows[i].guest, true);
        begin_copy(&r, 2 * NS_PER_SEC);
        go_on(&r, 10);
        go_on(&r, 60);
        say("  with the brake", &r);
        ck_assert_msg(latency_ms(&r) < bound, "%s: %.2f ms, bound %.2f", rows[i].what, latency_ms(&r), bound);
        ck_assert_msg(rate_mib(&r) > rows[i].least * without, "%s: %.1f of %.1f MiB/s", rows[i].what, rate_mib(&r), without);
    }
}
END_TEST

START_TEST(nothing_is_given_away)
{
    const struct {
        const char *what;
        struct sim_disk disk;
        struct sim_guest guest;
    } rows[] = {
        {"NVMe, writes", nvme, {5000, 0, 4096, 32}},
        {"NVMe, reads", nvme, {5000, 1, 4096, 32}},
        {"NVMe, few requests", nvme, {4, 0.5, 4096, 32}},
        {"hard disk behind a slow link", {1, 4 * NS_PER_MS, 6 * NS_PER_MS, 1, 8, MIB(8)}, mixed},
        {"hard disk, idle guest", hard_disk, idle},
        {"hard disk, one request in a second", hard_disk, {1, 0.5, 4096, 32}},
    };
    struct run r;

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        double without;

        begin(&r, &rows[i].disk, &rows[i].guest, false);
        begin_copy(&r, NS_PER_SEC);
        go_on(&r, 60);
        without = rate_mib(&r);
        begin(&r, &rows[i].disk, &rows[i].guest, true);
        begin_copy(&r, NS_PER_SEC);
        go_on(&r, 60);
        say(rows[i].what, &r);
        ck_assert_msg(rate_mib(&r) > 0.97 * without, "%s: %.1f of %.1f MiB/s", rows[i].what, rate_mib(&r), without);
    }
}
END_TEST

/* The guest was idle when the copy began: a pause tells what its disk takes without it. */
START_TEST(baseline_comes_later)
{
    struct run r;

    begin(&r, &hard_disk, &idle, true);
    begin_copy(&r, NS_PER_SEC);
    go_on(&r, 20);
    ck_assert_int_eq(r.brake.state, CARE_QUIET);
    ck_assert_uint_eq(r.brake.braked_ns, 0);
    r.sim.guest = writer;
    go_on(&r, 10);
    ck_assert_uint_ne(r.streams[CARE_WRITES].before_ns, 0);
    ck_assert_uint_lt(r.streams[CARE_WRITES].before_ns, 7 * NS_PER_MS);
    go_on(&r, 60);
    say("idle at the beginning", &r);
    ck_assert(latency_ms(&r) < 10);
    r.sim.guest = idle;
    go_on(&r, 10);
    ck_assert_int_eq(r.brake.state, CARE_QUIET);
    ck_assert_uint_eq(r.limits[r.steps - 1], CARE_NO_LIMIT);
    r.sim.guest = writer; /* and the limit is known when it comes back */
    go_on(&r, 10);
    say("back after a rest", &r);
    ck_assert_uint_ne(r.limits[r.steps - 1], CARE_NO_LIMIT);
    ck_assert(latency_ms(&r) < 15);
}
END_TEST

/* The guest begins to ask so much that it waits by itself: that is not the copy's doing. */
START_TEST(its_own_load_is_its_own)
{
    struct run r;
    double alone;

    begin(&r, &hard_disk, &(struct sim_guest){220, 0, 4096, 32}, false);
    sum_anew(&r);
    sim_run(&r.sim, r.sim.now_ns + 60 * NS_PER_SEC);
    alone = latency_ms(&r);
    ck_assert(alone > 11);
    begin(&r, &hard_disk, &writer, true);
    begin_copy(&r, 2 * NS_PER_SEC);
    go_on(&r, 30);
    r.sim.guest.per_second = 220;
    go_on(&r, 30);
    say("own load", &r);
    go_on(&r, 60);
    say("own load, later", &r);
    ck_assert_uint_gt(r.highest_ns, 9 * NS_PER_MS);
    ck_assert(rate_mib(&r) > 3);
    r.sim.guest.per_second = 60; /* and calm again: so is the bound */
    go_on(&r, 30);
    go_on(&r, 60);
    say("calm again", &r);
    ck_assert(latency_ms(&r) < 12);
    ck_assert_uint_lt(r.streams[CARE_WRITES].baseline_ns, 9 * NS_PER_MS);
}
END_TEST

START_TEST(never_below_the_floor)
{
    const struct sim_disk slow = {1, 20 * NS_PER_MS, 30 * NS_PER_MS, 1, 8, 0};
    struct run r;

    begin(&r, &slow, &(struct sim_guest){10, 0, 4096, 32}, true);
    begin_copy(&r, 4 * NS_PER_SEC);
    go_on(&r, 120);
    say("a disk that is too slow for both", &r);
    for (unsigned int i = 0; i < r.steps; i++)
        ck_assert(r.limits[i] >= CARE_PAUSE_RATE);
    ck_assert(rate_mib(&r) > 1.5); /* of 8, and 4 would be half of it */
    ck_assert_uint_eq(care_brake_floor(&r.brake, 0), MIN(MIB(4), r.brake.peak / 4));
}
END_TEST

START_TEST(where_the_floor_lies)
{
    const struct {
        const char *what;
        uint64_t peak;
        uint64_t written;
        uint64_t floor;
    } rows[] = {
        {"not measured", 0, 0, MIB(4)},
        {"not measured, guest writes", 0, MIB(100), MIB(4)},
        {"slow", MIB(6), 0, MIB(6) / 4},
        {"very slow", KIB(100), 0, KIB(512)},
        {"ordinary", MIB(60), 0, MIB(4)},
        {"fast", MIB(1000), 0, MIB(50)},
        {"the copy gains on the guest", MIB(100), MIB(20), MIB(25)},
        {"half of what it could at most", MIB(100), MIB(80), MIB(50)},
        {"out of this world", UINT64_MAX, UINT64_MAX / 4, UINT64_MAX / 4 + UINT64_MAX / 16},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct care_brake b = {.peak = rows[i].peak};

        ck_assert_msg(care_brake_floor(&b, rows[i].written) == rows[i].floor, "%s: %" PRIu64, rows[i].what,
                      care_brake_floor(&b, rows[i].written));
    }
}
END_TEST

/* The limit settles: it is not lowered again and again, and stays near its mean. */
START_TEST(converges)
{
    double sum = 0;
    double squares = 0;
    double mean;
    double variance;
    unsigned int n = 0;
    struct run r;

    begin(&r, &sata_ssd, &(struct sim_guest){2000, 0.3, 4096, 32}, true);
    begin_copy(&r, 2 * NS_PER_SEC);
    go_on(&r, 30);
    go_on(&r, 120);
    say("converges", &r);
    for (unsigned int i = r.steps - 240; i < r.steps; i++) {
        double limit = (double)r.limits[i] / 1048576;

        ck_assert_uint_ne(r.limits[i], CARE_NO_LIMIT);
        sum += limit;
        squares += limit * limit;
        n++;
    }
    mean = sum / n;
    variance = squares / n - mean * mean;
    printf("limit %.1f MiB/s, standard deviation %.0f%%\n", mean, 100 * __builtin_sqrt(variance) / mean);
    ck_assert(variance < 0.2 * 0.2 * mean * mean);
    ck_assert_uint_le(r.lowered, 12);
}
END_TEST

/* Milliseconds that go round at 2^32 in the middle of it change nothing at all. */
START_TEST(counters_go_round)
{
    static struct run plain;
    static struct run round;

    begin(&plain, &hard_disk, &mixed, true);
    begin_copy(&plain, NS_PER_SEC);
    go_on(&plain, 30);
    ck_assert_uint_gt(plain.brake.braked_ns, 0);
    for (uint32_t left = 250; left < 8000; left += 250) { /* at many moments of it */
        begin(&round, &hard_disk, &mixed, true);
        round.ms_before = UINT32_MAX - left;
        begin_copy(&round, NS_PER_SEC);
        go_on(&round, 30);
        ck_assert((uint32_t)(round.sim.write_ns / NS_PER_MS + round.ms_before) < round.ms_before);
        ck_assert_uint_eq(plain.steps, round.steps);
        ck_assert_mem_eq(plain.limits, round.limits, plain.steps * sizeof(*plain.limits));
    }
}
END_TEST

START_TEST(counters_begin_anew)
{
    struct run r;

    begin(&r, &hard_disk, &writer, true);
    begin_copy(&r, NS_PER_SEC);
    for (unsigned int i = 0; i < 6; i++) {
        go_on(&r, 10);
        memset(&r.sim.f, 0, offsetof(struct care_figures, writes_in_flight));
        r.sim.read_ns = r.sim.write_ns = 0;
        if (i % 2)
            r.sim.own = (struct care_own_reads){0}; /* as after a migration that was resumed */
    }
    go_on(&r, 30);
    say("counters begin anew", &r);
    ck_assert(latency_ms(&r) < 10);
    ck_assert(rate_mib(&r) > 4);
}
END_TEST

/* The device takes each read of ours apart, and nobody says so: an idle guest is not seen where there is none. */
START_TEST(split_reads_are_no_guest)
{
    struct sim_disk disk = hard_disk;
    struct run r;

    disk.split = 4;
    begin(&r, &disk, &idle, true);
    begin_copy(&r, NS_PER_SEC);
    go_on(&r, 60);
    say("reads are split", &r);
    ck_assert_uint_eq(r.brake.braked_ns, 0);
    r.sim.guest = mixed; /* its writes say enough */
    go_on(&r, 20);
    go_on(&r, 60);
    say("reads are split, a guest that writes too", &r);
    ck_assert(latency_ms(&r) < 12);
}
END_TEST

/* The guest's memory is carried, and its disks are slow by themselves: it is not held back for that, and the disks' limit is
 * there again with their next pass. */
START_TEST(memory_is_not_held_back)
{
    const struct care_sample slow[CARE_KIND_COUNT] = {[CARE_WRITES] = {CARE_LATENCY, 90 * NS_PER_MS, 30}};
    struct care_brake_input in = {.samples = slow};
    uint64_t limit = 0;
    uint64_t peak;
    struct run r;

    begin(&r, &hard_disk, &writer, true);
    begin_copy(&r, 2 * NS_PER_SEC);
    go_on(&r, 20);
    ck_assert_int_eq(r.brake.state, CARE_BRAKED);
    peak = r.brake.peak;
    in.now_ns = r.brake.last_ns;
    in.paced = r.brake.last_paced;
    for (unsigned int i = 0; i < 20; i++) {
        in.now_ns += STEP;
        in.paced += MIN(limit == 0 ? MIB(10) : limit, GIB(1)) / 2;
        in.read_per_second = KIB(100);
        limit = care_brake_step(&r.brake, &in);
        ck_assert_msg(i == 0 || limit == CARE_NO_LIMIT, "step %u: %" PRIu64, i, limit);
    }
    ck_assert_uint_eq(r.brake.peak, peak);
    in.now_ns += STEP;
    in.paced += MIB(10);
    in.read_per_second = MIB(20);
    limit = care_brake_step(&r.brake, &in);
    ck_assert_uint_lt(limit, MIB(32));
}
END_TEST

START_TEST(brake_without_streams)
{
    struct care_brake b;
    struct care_brake_input in = {0};

    care_brake_init(&b, NULL, 0);
    for (in.now_ns = STEP; in.now_ns < 20 * STEP; in.now_ns += STEP)
        ck_assert_uint_eq(care_brake_step(&b, &in), CARE_NO_LIMIT);
}
END_TEST

UNIT_MAIN("care-brake", latency_comes_back_under_its_bound, nothing_is_given_away, baseline_comes_later,
          its_own_load_is_its_own, never_below_the_floor, where_the_floor_lies, converges, counters_go_round, counters_begin_anew,
          split_reads_are_no_guest, memory_is_not_held_back, brake_without_streams)
