/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When to stop the guest: every branch of the policy as a table. */
#include "base/bytes.h"
#include "base/clock.h"
#include "memsync/precopy-policy.h"
#include "unit.h"

#include <string.h>

#define MS      NS_PER_MS
#define S       NS_PER_SEC
#define UNKNOWN UINT64_MAX

struct row {
    const char *what;
    struct precopy_stats stats;
    struct precopy_limits limits;
    enum precopy_decision decision;
    uint64_t tail_ns;
};

static void check_rows(const struct row *rows, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint64_t tail = 1;
        enum precopy_decision d = precopy_decide(&rows[i].stats, &rows[i].limits, &tail);

        ck_assert_msg(d == rows[i].decision, "%s: %s instead of %s", rows[i].what, precopy_decision_name(d),
                      precopy_decision_name(rows[i].decision));
        ck_assert_msg(tail == rows[i].tail_ns, "%s: tail of %llu ns instead of %llu", rows[i].what,
                      (unsigned long long)tail, (unsigned long long)rows[i].tail_ns);
    }
}

#define CHECK(rows) check_rows(rows, ARRAY_SIZE(rows))

/* round, dirty, pages/s, dirtied/s, disk tail, overhead, elapsed */
#define STATS(...) ((struct precopy_stats){__VA_ARGS__})
#define NO_TIMEOUT ((struct precopy_limits){300 * MS, 0, PRECOPY_TIMEOUT_ABORT})
#define ABORT_AT(t) ((struct precopy_limits){300 * MS, t, PRECOPY_TIMEOUT_ABORT})
#define STOP_AT(t)  ((struct precopy_limits){300 * MS, t, PRECOPY_TIMEOUT_STOP})

START_TEST(stops_when_the_tail_fits)
{
    const struct row rows[] = {
        {"nothing dirty", STATS(1, 0, 1000, 100, 0, 0, 0), NO_TIMEOUT, PRECOPY_STOP, 0},
        {"tail is the downtime", STATS(2, 3000, 10000, 10000, 0, 0, 0), NO_TIMEOUT, PRECOPY_STOP, 300 * MS},
        {"one page more", STATS(2, 3001, 10000, 10001, 0, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, 300100 * NS_PER_US},
        {"slow writer", STATS(1, 100000, 100000, 10000, 0, 0, 0), NO_TIMEOUT, PRECOPY_STOP, 100 * MS},
    };

    CHECK(rows);
}
END_TEST

START_TEST(disks_and_overhead_add_up)
{
    const struct row rows[] = {
        {"all three fit", STATS(1, 1000, 10000, 10000, 100 * MS, 100 * MS, 0), NO_TIMEOUT, PRECOPY_STOP, 300 * MS},
        {"disk too long", STATS(1, 1000, 10000, 10000, 101 * MS, 100 * MS, 0), NO_TIMEOUT, PRECOPY_CONTINUE, 301 * MS},
        {"overhead too long", STATS(1, 0, 10000, 0, 0, 301 * MS, 0), NO_TIMEOUT, PRECOPY_WAIT, 301 * MS},
        {"bulk is not done", STATS(1, 1000, 10000, 10000, UNKNOWN, 100 * MS, 0), NO_TIMEOUT, PRECOPY_CONTINUE, UNKNOWN},
        {"no overflow", STATS(1, 1000, 10000, 10000, UNKNOWN - 1, 5, 0), NO_TIMEOUT, PRECOPY_CONTINUE, UNKNOWN},
    };

    CHECK(rows);
}
END_TEST

START_TEST(waits_while_only_disks_are_behind)
{
    const struct row rows[] = {
        {"no page", STATS(1, 0, 1000, 10, UNKNOWN, 0, 0), NO_TIMEOUT, PRECOPY_WAIT, UNKNOWN},
        {"63 pages", STATS(1, 63, 1000, 1000, UNKNOWN, 0, 0), NO_TIMEOUT, PRECOPY_WAIT, UNKNOWN},
        {"64 pages", STATS(1, 64, 1000, 1000, UNKNOWN, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, UNKNOWN},
        {"disk's last pass is long", STATS(3, 0, 1000, 10, 2 * S, 0, 0), NO_TIMEOUT, PRECOPY_WAIT, 2 * S},
        {"before the first round", STATS(0, 0, 1000, 10, UNKNOWN, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, UNKNOWN},
        {"a round was just sent", STATS(1, -1, 1000, 10, UNKNOWN, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, UNKNOWN},
    };

    CHECK(rows);
}
END_TEST

START_TEST(unknown_figures_are_no_reason_to_stop)
{
    const struct row rows[] = {
        {"first round", STATS(0, 1000, 0, 0, 0, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, UNKNOWN},
        {"first round, all known", STATS(0, 0, 1000, 10, 0, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, UNKNOWN},
        {"dirty pages", STATS(1, -1, 1000, 10, 0, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, UNKNOWN},
        {"carried rate", STATS(1, 1000, 0, 10, 0, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, UNKNOWN},
        /* Not measured is not 0: then what is dirty now counts. */
        {"dirty rate", STATS(1, 100000, 1000, 0, 0, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, 100 * S},
    };

    CHECK(rows);
}
END_TEST

START_TEST(hot_set_is_never_more_than_what_is_dirty)
{
    const struct row rows[] = {
        {"writes faster than the link", STATS(4, 200, 1000, 1000000, 0, 0, 0), NO_TIMEOUT, PRECOPY_STOP, 200 * MS},
        {"and does not fit", STATS(4, 2000, 1000, 1000000, 0, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, 2 * S},
        {"writes slower", STATS(4, 2000, 1000, 100, 0, 0, 0), NO_TIMEOUT, PRECOPY_STOP, 200 * MS},
    };

    CHECK(rows);
}
END_TEST

START_TEST(timeout_aborts)
{
    const struct row rows[] = {
        {"a moment before", STATS(5, 2000, 1000, 1000, 0, 0, 10 * S - 1), ABORT_AT(10 * S), PRECOPY_CONTINUE, 2 * S},
        {"late", STATS(5, 2000, 1000, 1000, 0, 0, 10 * S), ABORT_AT(10 * S), PRECOPY_ABORT, 2 * S},
        {"late, in bulk", STATS(0, 2000, 0, 0, UNKNOWN, 0, 11 * S), ABORT_AT(10 * S), PRECOPY_ABORT, UNKNOWN},
        {"late, few pages", STATS(5, 3, 1000, 1000, UNKNOWN, 0, 11 * S), ABORT_AT(10 * S), PRECOPY_ABORT, UNKNOWN},
        {"late, and it fits", STATS(5, 200, 1000, 1000, 0, 0, 11 * S), ABORT_AT(10 * S), PRECOPY_STOP, 200 * MS},
        {"never late", STATS(5, 2000, 1000, 1000, 0, 0, UNKNOWN), ABORT_AT(0), PRECOPY_CONTINUE, 2 * S},
    };

    CHECK(rows);
}
END_TEST

START_TEST(timeout_stops_when_it_can)
{
    const struct row rows[] = {
        {"late", STATS(5, 2000, 1000, 1000, 5 * S, 0, 10 * S), STOP_AT(10 * S), PRECOPY_STOP, 7 * S},
        {"not late", STATS(5, 2000, 1000, 1000, 5 * S, 0, 9 * S), STOP_AT(10 * S), PRECOPY_CONTINUE, 7 * S},
        {"nothing known", STATS(1, -1, 0, 0, 0, 0, 10 * S), STOP_AT(10 * S), PRECOPY_STOP, UNKNOWN},
        {"in bulk", STATS(5, 2000, 1000, 1000, UNKNOWN, 0, 10 * S), STOP_AT(10 * S), PRECOPY_CONTINUE, UNKNOWN},
        {"in bulk, few pages", STATS(5, 2, 1000, 1000, UNKNOWN, 0, 10 * S), STOP_AT(10 * S), PRECOPY_WAIT, UNKNOWN},
        {"no round yet", STATS(0, 2000, 0, 0, 0, 0, 10 * S), STOP_AT(10 * S), PRECOPY_CONTINUE, UNKNOWN},
    };

    CHECK(rows);
}
END_TEST

static const struct precopy_limits throttle_at_10 = {S, 10 * S, PRECOPY_TIMEOUT_THROTTLE};

/* One after the other, with what came out of the last. */
static const struct {
    const char *what;
    uint64_t elapsed;
    unsigned int round;
    uint64_t disk_tail;
    unsigned int percent;
    enum precopy_decision decision;
} throttle_rows[] = {
    {"not late", 10 * S - 1, 3, 0, 0, PRECOPY_CONTINUE},
    {"late, in bulk", 10 * S, 3, UNKNOWN, 0, PRECOPY_CONTINUE},
    {"late", 10 * S, 3, 0, 80, PRECOPY_CONTINUE},
    {"no time to show", 14 * S, 9, 0, 80, PRECOPY_CONTINUE},
    {"time, but one round", 16 * S, 4, 0, 80, PRECOPY_CONTINUE},
    {"two rounds", 17 * S, 5, 0, 60, PRECOPY_CONTINUE},
    {"two rounds and time", 22 * S, 7, 0, 40, PRECOPY_CONTINUE},
    {"a long round", 51 * S, 8, 0, 40, PRECOPY_CONTINUE},
    {"too long a round", 52 * S, 8, 0, 20, PRECOPY_CONTINUE},
    {"in bulk again", 60 * S, 80, UNKNOWN, 20, PRECOPY_CONTINUE},
    {"the last step", 60 * S, 80, 0, 10, PRECOPY_CONTINUE},
    {"still hoping", 120 * S - 1, 900, 0, 10, PRECOPY_CONTINUE},
    {"no hope", 120 * S, 900, 0, 10, PRECOPY_ABORT},
};

START_TEST(throttle_steps)
{
    struct precopy_throttle t = {0};

    for (size_t i = 0; i < sizeof(throttle_rows) / sizeof(throttle_rows[0]); i++) {
        struct precopy_stats s = {.round = throttle_rows[i].round,
                                  .elapsed_ns = throttle_rows[i].elapsed,
                                  .disk_tail_ns = throttle_rows[i].disk_tail};
        enum precopy_decision d = precopy_throttle(&s, &throttle_at_10, &t);

        ck_assert_msg(d == throttle_rows[i].decision && t.percent == throttle_rows[i].percent, "%s: %s, %u%%",
                      throttle_rows[i].what, precopy_decision_name(d), t.percent);
    }
}
END_TEST

/* While only disks are copied there are no rounds. */
START_TEST(throttle_steps_by_time_in_the_disk_phase)
{
    static const unsigned int want[] = {80, 60, 40, 20, 10, 10};
    struct precopy_throttle t = {0};

    for (unsigned int i = 0; i < 6; i++) {
        struct precopy_stats s = {.elapsed_ns = (20 + 5 * i) * S, .disk_tail_ns = 3 * S};

        ck_assert_int_eq(precopy_throttle(&s, &throttle_at_10, &t), PRECOPY_CONTINUE);
        ck_assert_uint_eq(t.percent, want[i]);
    }
}
END_TEST

START_TEST(throttle_is_for_who_asked)
{
    const struct precopy_limits others[] = {{S, 10 * S, PRECOPY_TIMEOUT_ABORT},
                                            {S, 10 * S, PRECOPY_TIMEOUT_STOP},
                                            {S, 0, PRECOPY_TIMEOUT_THROTTLE}};
    const struct precopy_stats s = {.round = 9, .elapsed_ns = 1000 * S};
    struct precopy_throttle t = {0};
    uint64_t tail;

    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(precopy_throttle(&s, &others[i], &t), PRECOPY_CONTINUE);
    ck_assert_uint_eq(t.percent, 0);
    /* Late, it is neither stopped nor given up at once. */
    ck_assert_int_eq(precopy_decide(&(struct precopy_stats){.round = 5, .dirty_pages = 2000, .pages_per_second = 1000,
                                                            .dirtied_per_second = 1000, .elapsed_ns = 10 * S},
                                    &throttle_at_10, &tail), PRECOPY_CONTINUE);
}
END_TEST

START_TEST(figures_out_of_this_world)
{
    const struct row rows[] = {
        {"longer than time", STATS(1, INT64_MAX, 1, UINT64_MAX, 0, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, UNKNOWN},
        {"2^64 ns and a little", STATS(1, 18446744074, 1, UINT64_MAX, 0, 0, 0), NO_TIMEOUT, PRECOPY_CONTINUE, UNKNOWN},
    };

    CHECK(rows);
}
END_TEST

START_TEST(decisions_have_names)
{
    ck_assert_str_eq(precopy_decision_name(PRECOPY_CONTINUE), "continue");
    ck_assert_str_eq(precopy_decision_name(PRECOPY_STOP), "stop");
    ck_assert_str_eq(precopy_decision_name(PRECOPY_ABORT), "abort");
    ck_assert_str_eq(precopy_decision_name(PRECOPY_WAIT), "wait");
}
END_TEST

UNIT_MAIN("policy", stops_when_the_tail_fits, disks_and_overhead_add_up, waits_while_only_disks_are_behind,
          unknown_figures_are_no_reason_to_stop, hot_set_is_never_more_than_what_is_dirty, timeout_aborts,
          timeout_stops_when_it_can, figures_out_of_this_world, decisions_have_names, throttle_steps,
          throttle_steps_by_time_in_the_disk_phase, throttle_is_for_who_asked)
