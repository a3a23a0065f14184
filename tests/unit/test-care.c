/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is made of a block device's statistics, and what happens where there are none. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers" /* what a row does not name is zero */
#include "base/bytes.h"
#include "base/clock.h"
#include "mirror/care-brake.h"
#include "loop-device.h"

#include <inttypes.h>

#define STEP (500 * NS_PER_MS)

/* -- texts of kernels -- */

START_TEST(figures_of_kernels)
{
    const struct {
        const char *what;
        const char *stat;
        struct care_figures f;
    } rows[] = {
        {"6.18, virtio",
         "  462245    39884 12047178   574481  1227279   229907 197179744  5513398        0   241252  6227864   990669       "
         "44 209641576   137347    36036     2637\n",
         {462245, 12047178, 574481, 1227279, 197179744, 5513398, 36036, 2637, 3}},
        {"5.5 and later, partition",
         "     340       10     9378       41        2        0        9        1        0       28       43        0        "
         "0        0        0        0        0\n",
         {340, 9378, 41, 2, 9, 1, 0, 0, 3}},
        {"4.19: discards, no flushes",
         "   9701     1036   627426    29080     8035     8911   329506   136176        0    22724   165336     5     0    800  2",
         {9701, 627426, 29080, 8035, 329506, 136176, 0, 0, 3}},
        {"before that", "9701 1036 627426 29080 8035 8911 329506 136176 0 22724 165336",
         {9701, 627426, 29080, 8035, 329506, 136176, 0, 0, 3}},
        {"milliseconds that are kept whole go round too",
         "1 0 8 4294967301 2 0 16 8589934597 0 0 0 0 0 0 0 3 4294967296",
         {1, 8, 5, 2, 16, 5, 3, 0, 3}},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct care_figures f;
        struct err err = {0};

        ck_assert_msg(care_figures_parse(&f, rows[i].stat, "       7        3\n", &err) == 0, "%s: %s", rows[i].what, err.text);
        ck_assert_msg(memcmp(&f, &rows[i].f, sizeof(f)) == 0, "%s", rows[i].what);
    }
}
END_TEST

START_TEST(no_figures)
{
    const char *const texts[] = {"", "\n", "1 2 3", "1 2 3 4 5 6 7", "a b c d e f g h", "-", "1 2 3 4 5 6 7 x"};
    struct care_figures f;
    struct err err = {0};

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
        ck_assert_msg(care_figures_parse(&f, texts[i], "0 0", &err) == -EPROTO, "\"%s\"", texts[i]);
    ck_assert_int_eq(care_figures_parse(&f, "1 2 3 4 5 6 7 8", "1", &err), -EPROTO);
    ck_assert_ptr_nonnull(strstr(err.text, "expected 2 numbers"));
}
END_TEST

/* -- the meter -- */

struct meter_row {
    const char *what;
    struct care_figures f; /* grown by so much in each step */
    struct care_own_reads own;
    unsigned int steps;
    enum care_news reads; /* of the last */
    uint64_t read_us;
    enum care_news writes;
    uint64_t write_us;
};

static void check_meter(const struct meter_row *row, struct care_meter *m)
{
    struct care_sample s[CARE_KIND_COUNT];
    struct care_figures f = {.reads = 1000, .read_ms = UINT32_MAX - 3, .writes = 5, .write_ms = 7};
    struct care_own_reads own = {0};

    care_meter_step(m, NS_PER_SEC / 2, &f, &own, s);
    f.reads += 10; /* without us: the guest does read */
    f.read_sectors += 80;
    care_meter_step(m, NS_PER_SEC, &f, &own, s);
    care_meter_restart(m, NS_PER_SEC);
    for (unsigned int i = 1; i <= row->steps; i++) {
        f.reads += row->f.reads;
        f.read_sectors += row->f.read_sectors;
        f.read_ms += row->f.read_ms;
        f.writes += row->f.writes;
        f.write_sectors += row->f.write_sectors;
        f.write_ms += row->f.write_ms;
        f.flushes += row->f.flushes;
        f.flush_ms += row->f.flush_ms;
        f.writes_in_flight = row->f.writes_in_flight;
        own.reads += row->own.reads;
        own.octets += row->own.octets;
        own.ns += row->own.ns;
        care_meter_step(m, NS_PER_SEC + i * STEP, &f, &own, s);
    }
    ck_assert_msg(s[CARE_READS].news == row->reads, "%s: reads: news %d", row->what, s[CARE_READS].news);
    ck_assert_msg(s[CARE_WRITES].news == row->writes, "%s: writes: news %d", row->what, s[CARE_WRITES].news);
    ck_assert_msg(s[CARE_READS].latency_ns == row->read_us * 1000, "%s: reads: %" PRIu64 " ns", row->what,
                  s[CARE_READS].latency_ns);
    ck_assert_msg(s[CARE_WRITES].latency_ns == row->write_us * 1000, "%s: writes: %" PRIu64 " ns", row->what,
                  s[CARE_WRITES].latency_ns);
}

/* Each of 256 KiB that took 10 ms. */
#define OWN(n)      {(n), (n) * KIB(256), (n) * 10 * NS_PER_MS}
#define OWN_SECTORS(n) ((n) * 512)

/* reads, their sectors and ms, writes, their sectors and ms, flushes, their ms, writes in flight */
START_TEST(latencies)
{
    const struct meter_row rows[] = {
        {"writes", {0, 0, 0, 100, 800, 250, 0, 0, 2}, {0}, 1, CARE_NO_NEWS, 0, CARE_LATENCY, 2500},
        {"flushes are writes", {0, 0, 0, 10, 80, 10, 10, 90, 0}, {0}, 1, CARE_NO_NEWS, 0, CARE_LATENCY, 5000},
        {"too few for one step", {0, 0, 0, 7, 56, 7, 0, 0, 0}, {0}, 1, CARE_NO_NEWS, 0, CARE_NO_NEWS, 0},
        {"gather", {0, 0, 0, 2, 16, 3, 0, 0, 0}, {0}, 4, CARE_NO_NEWS, 0, CARE_LATENCY, 1500},
        {"quiet after four seconds", {0}, {0}, 8, CARE_NO_IO, 0, CARE_NO_IO, 0},
        {"not before", {0}, {0}, 7, CARE_NO_NEWS, 0, CARE_NO_NEWS, 0},
        {"a write that does not end", {0, 0, 0, 0, 0, 0, 0, 0, 1}, {0}, 3, CARE_NO_NEWS, 0, CARE_LATENCY, 1500000},
        {"one that may end yet", {0, 0, 0, 0, 0, 0, 0, 0, 1}, {0}, 1, CARE_NO_NEWS, 0, CARE_NO_NEWS, 0},
        {"reads of the guest alone", {50, 400, 100, 0, 0, 0, 0, 0, 0}, {0}, 1, CARE_LATENCY, 2000, CARE_NO_NEWS, 0},
        {"reads of ours alone", {100, OWN_SECTORS(100), 1000}, OWN(100), 8, CARE_NO_IO, 0, CARE_NO_IO, 0},
        {"both", {150, OWN_SECTORS(100) + 400, 1300}, OWN(100), 1, CARE_LATENCY, 6000, CARE_NO_NEWS, 0},
        {"ours are split, nobody said so", {400, OWN_SECTORS(100), 4000}, OWN(100), 9, CARE_NO_IO, 0,
         CARE_NO_NEWS, 0},
        {"ours are joined", {25, OWN_SECTORS(100), 250}, OWN(100), 8, CARE_NO_IO, 0, CARE_NO_IO, 0},
        {"some of ours ended there and not yet here", {104, OWN_SECTORS(104), 1040}, OWN(100), 1, CARE_NO_NEWS, 0,
         CARE_NO_NEWS, 0},
        {"guest's are too few among ours", {1030, OWN_SECTORS(1000) + 240, 10900}, OWN(1000), 1, CARE_NO_NEWS, 0,
         CARE_NO_NEWS, 0},
        {"ours took longer than the device says", {150, OWN_SECTORS(100) + 400, 900}, OWN(100), 1, CARE_NO_NEWS, 0,
         CARE_NO_NEWS, 0},
        {"both kinds", {50, 400, 100, 10, 80, 40, 0, 0, 0}, {0}, 1, CARE_LATENCY, 2000, CARE_LATENCY, 4000},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct care_meter m;

        care_meter_init(&m, 0);
        check_meter(&rows[i], &m);
    }
}
END_TEST

/* The queue's limit says how each read of ours is taken apart: the guest's are seen at once. */
START_TEST(known_split)
{
    const struct meter_row row = {"requests of 128 KiB at most", {260, OWN_SECTORS(100) + 480, 2600}, OWN(100), 1,
                                  CARE_LATENCY,  10000, CARE_NO_NEWS, 0};
    const struct meter_row unknown = {"not known", {260, OWN_SECTORS(100) + 480, 2600}, OWN(100), 40, CARE_NO_NEWS, 0,
                                      CARE_NO_IO, 0};
    struct care_meter m;

    care_meter_init(&m, KIB(128));
    check_meter(&row, &m);
    care_meter_init(&m, 0);
    check_meter(&unknown, &m);
}
END_TEST

START_TEST(figures_that_go_back)
{
    const struct care_figures start = {100, 800, 1000, 100, 800, 1000, 10, 10, 0};
    const struct {
        const char *what;
        struct care_figures f;
        struct care_own_reads own;
    } rows[] = {
        {"reads", {99, 800, 1000, 200, 1600, 1100, 10, 10, 0}, OWN(5)},
        {"sectors read", {200, 799, 1000, 200, 1600, 1100, 10, 10, 0}, OWN(5)},
        {"milliseconds", {200, 1600, 999, 200, 1600, 1100, 10, 10, 0}, OWN(5)},
        {"writes", {100, 800, 1000, 99, 1600, 1100, 10, 10, 0}, OWN(5)},
        {"sectors written", {100, 800, 1000, 200, 799, 1100, 10, 10, 0}, OWN(5)},
        {"milliseconds of writes", {100, 800, 1000, 200, 1600, 999, 10, 10, 0}, OWN(5)},
        {"flushes", {100, 800, 1000, 200, 1600, 1100, 9, 10, 0}, OWN(5)},
        {"milliseconds of flushes", {100, 800, 1000, 200, 1600, 1100, 10, 9, 0}, OWN(5)},
        {"ours", {200, 1600, 1100, 200, 1600, 1100, 10, 10, 0}, OWN(4)},
    };

    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct care_sample s[CARE_KIND_COUNT];
        const struct care_own_reads own = OWN(5);
        struct care_figures f = rows[i].f;
        struct care_meter m;

        care_meter_init(&m, 0);
        care_meter_step(&m, NS_PER_SEC, &start, &own, s);
        care_meter_step(&m, 2 * NS_PER_SEC, &f, &rows[i].own, s);
        ck_assert_msg(s[0].news == CARE_NO_NEWS && s[1].news == CARE_NO_NEWS, "%s", rows[i].what);
        f.writes += 10;
        f.write_ms += 30;
        care_meter_step(&m, 3 * NS_PER_SEC, &f, &rows[i].own, s);
        ck_assert_msg(s[CARE_WRITES].news == CARE_LATENCY && s[CARE_WRITES].latency_ns == 3 * NS_PER_MS, "%s, then",
                      rows[i].what);
    }
}
END_TEST

/* -- the whole -- */

/* A folder as sysfs has it. */
static void put_figures(const char *folder, uint64_t reads, uint64_t sectors, uint64_t read_ms, uint64_t writes,
                        uint64_t write_ms)
{
    char path[100];
    char text[300];

    (void)mkdir(temp_path(folder), 0700);
    (void)snprintf(path, sizeof(path), "%s/stat", folder);
    (void)snprintf(text, sizeof(text),
                   "%" PRIu64 " 0 %" PRIu64 " %" PRIu64 " %" PRIu64 " 0 %" PRIu64 " %" PRIu64 " 0 0 0 0 0 0 0 0 0\n", reads,
                   sectors, read_ms, writes, writes * 8, write_ms);
    temp_write(path, text, strlen(text));
    (void)snprintf(path, sizeof(path), "%s/inflight", folder);
    temp_write(path, "0 0\n", 4);
}

/* Two disks; the guest's writes to the second take 2 ms alone and 40 ms while we read more than 20 MiB/s. */
START_TEST(cares_for_several_disks)
{
    struct care_own_reads own[2] = {0};
    const char *folders[2];
    uint64_t now = NS_PER_SEC;
    uint64_t limit = CARE_NO_LIMIT;
    uint64_t lowest = CARE_NO_LIMIT;
    uint64_t writes = 0;
    uint64_t write_ms = 0;
    struct care_stats st;
    struct err err = {0};
    struct care *c;

    temp_dir_make();
    put_figures("a", 0, 0, 0, 0, 0);
    put_figures("b", 0, 0, 0, 0, 0);
    folders[0] = temp_path("a");
    folders[1] = temp_path("b");
    ck_assert_msg(care_create_at(&c, folders, 2, now, &err) == 0, "%s", err.text);
    put_figures("b", 0, 0, 0, writes += 100, write_ms += 200);
    now += NS_PER_SEC;
    care_baseline(c, now);
    for (unsigned int i = 0; i < 200; i++) {
        uint64_t rate = MIN(limit, MIB(100));
        uint64_t octets = rate / 2 / KIB(256) * KIB(256);

        own[1].reads += octets / KIB(256);
        own[1].octets += octets;
        own[1].ns += octets / KIB(256) * NS_PER_MS;
        put_figures("b", own[1].reads, own[1].octets / 512, own[1].ns / NS_PER_MS, writes += 50,
                    write_ms += rate > MIB(20) ? 2000 : 100);
        now += STEP;
        limit = care_step(c, now, own, own[1].octets);
        care_stats(c, &st);
        if (st.state != CARE_PROBING)
            lowest = MIN(lowest, limit);
        ck_assert_uint_eq(care_step(c, now + NS_PER_MS, own, own[1].octets), limit); /* too soon: as it was */
    }
    care_stats(c, &st);
    printf("%s, %.1f MiB/s, %.2f ms before, %.2f during: %s\n", care_state_name(st.state), (double)st.limit / 1048576,
           (double)st.before_ns / 1e6, (double)st.during_ns / 1e6, st.why);
    ck_assert_int_eq(st.state, CARE_BRAKED);
    ck_assert_uint_eq(st.watched, 2);
    ck_assert_uint_eq(st.limit, limit);
    ck_assert_uint_eq(st.before_ns, 2 * NS_PER_MS);
    ck_assert_uint_gt(st.during_ns, 2 * NS_PER_MS);
    ck_assert_uint_lt(st.during_ns, 8 * NS_PER_MS);
    ck_assert_uint_gt(st.braked_ns, 90 * NS_PER_SEC);
    ck_assert_uint_ge(lowest, MIB(5)); /* a twentieth of what it had */
    ck_assert_uint_gt(own[1].octets, 100 * MIB(13)); /* of 20 that it bears */
    ck_assert_ptr_nonnull(strstr(st.why, "a write of /tmp/"));
    ck_assert_ptr_nonnull(strstr(st.why, "/b took the guest"));
    care_destroy(c);
    temp_dir_remove();
}
END_TEST

START_TEST(a_device_that_vanishes)
{
    struct care_own_reads own = {0};
    const char *folder;
    uint64_t limit = 0;
    uint64_t writes = 0;
    uint64_t now = NS_PER_SEC;
    struct care_stats st;
    struct err err = {0};
    struct care *c;

    temp_dir_make();
    put_figures("a", 0, 0, 0, 0, 0);
    folder = temp_path("a");
    ck_assert_int_eq(care_create_at(&c, &folder, 1, now, &err), 0);
    put_figures("a", 0, 0, 0, 100, 100);
    care_baseline(c, now += NS_PER_SEC);
    for (unsigned int i = 0; i < 4; i++) {
        own.reads += 200;
        own.octets += MIB(50);
        own.ns += NS_PER_SEC;
        writes += 50;
        put_figures("a", own.reads, own.octets / 512, own.ns / NS_PER_MS, writes, writes * 30);
        limit = care_step(c, now += STEP, &own, own.octets);
    }
    ck_assert_uint_ne(limit, CARE_NO_LIMIT);
    ck_assert_int_eq(unlink(temp_path("a/stat")), 0);
    limit = care_step(c, now += STEP, &own, own.octets);
    ck_assert_uint_eq(limit, CARE_NO_LIMIT);
    care_stats(c, &st);
    ck_assert_int_eq(st.state, CARE_BLIND);
    ck_assert_uint_eq(st.watched, 0);
    ck_assert_msg(strstr(st.why, "a/stat: No such file"), "%s", st.why);
    put_figures("a", 0, 0, 0, 0, 0); /* another one */
    ck_assert_uint_eq(care_step(c, now += STEP, &own, own.octets), CARE_NO_LIMIT);
    care_destroy(c);
    temp_dir_remove();
}
END_TEST

START_TEST(disks_without_figures)
{
    struct care_own_reads own[3] = {0};
    const char *paths[3] = {"nbd://localhost/x", NULL, "/dev/there-is-no-such-disk"};
    const char *const parts[3] = {"nbd://localhost/x is not a block device", "image is not a block device", "No such file"};
    struct care_stats st;
    struct err err = {0};
    struct care *c;

    temp_dir_make();
    temp_write("image", "x", 1);
    paths[1] = temp_path("image");
    for (unsigned int i = 0; i < 3; i++) {
        ck_assert_int_eq(care_create(&c, paths + i, 1, NS_PER_SEC, &err), 0);
        care_baseline(c, 2 * NS_PER_SEC);
        ck_assert_uint_eq(care_step(c, 3 * NS_PER_SEC, own, MIB(500)), CARE_NO_LIMIT);
        care_stats(c, &st);
        ck_assert_int_eq(st.state, CARE_BLIND);
        ck_assert_uint_eq(st.during_ns, 0);
        ck_assert_msg(strstr(st.why, parts[i]), "%s", st.why);
        care_destroy(c);
    }
    ck_assert_int_eq(care_create(&c, NULL, 0, NS_PER_SEC, &err), 0);
    ck_assert_uint_eq(care_step(c, 3 * NS_PER_SEC, own, MIB(500)), CARE_NO_LIMIT);
    care_stats(c, &st);
    ck_assert_int_eq(st.state, CARE_BLIND);
    care_destroy(c);
    care_destroy(NULL);
    temp_dir_remove();
}
END_TEST

/* The kernel's own figures of a device that is here: our reads are not the guest's, its writes are seen. */
START_TEST(a_real_device)
{
    struct care_own_reads own = {0};
    struct loop_device l;
    const char *path = l.path;
    uint8_t *buffer = aligned_alloc(4096, KIB(256));
    uint64_t now = NS_PER_SEC;
    struct care_stats st;
    struct err err = {0};
    struct care *c;
    int fd;

    temp_dir_make();
    ck_assert_ptr_nonnull(buffer);
    memset(buffer, 1, KIB(256));
    if (!loop_device_make(&l, "disk", MIB(16), "512"))
        goto out;
    fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    ck_assert_int_ge(fd, 0);
    ck_assert_msg(care_create(&c, &path, 1, now, &err) == 0, "%s", err.text);
    for (unsigned int i = 0; i < 20; i++)
        ck_assert_int_eq(pwrite(fd, buffer, 4096, i * 8192), 4096);
    care_baseline(c, now += NS_PER_SEC);
    for (unsigned int i = 0; i < 64; i++) {
        uint64_t begin = clock_now();

        ck_assert_int_eq(pread(fd, buffer, KIB(256), i * KIB(256)), KIB(256));
        own.ns += clock_now() - begin;
        own.octets += KIB(256);
        own.reads++;
    }
    (void)care_step(c, now += STEP, &own, own.octets);
    care_stats(c, &st);
    ck_assert_uint_eq(st.watched, 1);
    ck_assert_msg(st.state == CARE_QUIET, "%s", care_state_name(st.state)); /* only we were here */
    for (unsigned int i = 0; i < 20; i++)
        ck_assert_int_eq(pwrite(fd, buffer, 4096, i * 8192), 4096);
    (void)care_step(c, now += STEP, &own, own.octets);
    care_stats(c, &st);
    ck_assert_msg(st.state == CARE_FREE || st.state == CARE_PROBING, "%s", care_state_name(st.state));
    care_destroy(c);
    ck_assert_int_eq(close(fd), 0);
    loop_device_remove(&l);
out:
    free(buffer);
    temp_dir_remove();
}
END_TEST

UNIT_MAIN("care", figures_of_kernels, no_figures, latencies, known_split, figures_that_go_back, cares_for_several_disks,
          a_device_that_vanishes, disks_without_figures, a_real_device)
