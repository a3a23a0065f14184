/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tracker in memory, and which tracker a name leads to. The one of block devices is tested in
 * tests/kernel, on a kernel of its own. */
#include "mirror/tracker.h"
#include "temp-dir.h"

#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/wait.h>

static struct tracker *open_mem(uint64_t size)
{
    struct tracker *t;

    ck_assert_int_eq(tracker_open_mem(&t, size, NULL), 0);
    return t;
}

START_TEST(mem_rounds_marks_outwards)
{
    struct tracker *t = open_mem(100 * TRACKER_GRANULARITY);

    tracker_mem_mark(t, TRACKER_GRANULARITY - 1, 2);
    tracker_mem_mark(t, 50 * TRACKER_GRANULARITY, TRACKER_GRANULARITY);
    tracker_mem_mark(t, 60 * TRACKER_GRANULARITY, 0);
    ck_assert_uint_eq(t->ops->count(t), 3);
    tracker_destroy(t);
}
END_TEST

START_TEST(mem_last_block_may_be_short)
{
    struct tracker *t = open_mem(2 * TRACKER_GRANULARITY + 512);

    ck_assert_uint_eq(t->blocks, 3);
    tracker_mem_mark(t, 0, 2 * TRACKER_GRANULARITY + 512);
    ck_assert_uint_eq(t->ops->count(t), 3);
    tracker_destroy(t);
}
END_TEST

START_TEST(collect_moves_marks)
{
    struct tracker *t = open_mem(1000 * TRACKER_GRANULARITY);
    struct bitmap dirty;
    uint64_t blocks;

    ck_assert_int_eq(bitmap_init(&dirty, t->blocks), 0);
    bitmap_set(&dirty, 999); /* of an earlier pass that failed */
    tracker_mem_mark(t, 60 * TRACKER_GRANULARITY, 10 * TRACKER_GRANULARITY);
    ck_assert_int_eq(t->ops->collect(t, &dirty, &blocks, NULL), 0);
    ck_assert_uint_eq(blocks, 10);
    ck_assert_uint_eq(bitmap_count(&dirty), 11);
    ck_assert_uint_eq(t->ops->count(t), 0);
    ck_assert_int_eq(t->ops->collect(t, &dirty, &blocks, NULL), 0);
    ck_assert_uint_eq(blocks, 0);
    ck_assert_uint_eq(bitmap_count(&dirty), 11);
    bitmap_finish(&dirty);
    tracker_destroy(t);
}
END_TEST

START_TEST(mem_is_always_quiet)
{
    struct tracker *t = open_mem(TRACKER_GRANULARITY);

    ck_assert_int_eq(t->ops->drain(t, 0, NULL), 0);
    ck_assert_int_eq(t->ops->audit(t, NULL), 0);
    ck_assert_int_eq(t->ops->reset(t, NULL), 0);
    tracker_destroy(t);
    tracker_destroy(NULL);
}
END_TEST

/* Opens the file for writing in another process, which then waits for the lease to be given up. */
static pid_t open_elsewhere(const char *path)
{
    pid_t pid = fork();

    if (pid == 0)
        _exit(open(path, O_RDWR) < 0);
    return pid;
}

START_TEST(lease_says_who_writes)
{
    struct err err = {0};
    struct tracker *t;
    uint64_t blocks = 1;
    pid_t pid;
    int status;
    int fd;

    temp_dir_make();
    temp_write("disk", "12345", 5);
    fd = open(temp_path("disk"), O_RDWR | O_CLOEXEC);
    ck_assert_int_eq(tracker_open(&t, temp_path("disk"), &err), -EBUSY);
    ck_assert_ptr_nonnull(strstr(err.text, "open for writing"));
    (void)close(fd);
    ck_assert_msg(tracker_open(&t, temp_path("disk"), &err) == 0, "%s", err.text);
    ck_assert_uint_eq(t->blocks, 1);
    ck_assert_int_eq(t->ops->collect(t, NULL, &blocks, &err) | t->ops->drain(t, 0, &err) | t->ops->audit(t, &err), 0);
    ck_assert_uint_eq(blocks + t->ops->count(t), 0);
    pid = open_elsewhere(temp_path("disk"));
    while (t->ops->count(t) == 0)
        (void)sched_yield();
    ck_assert_int_eq(waitpid(pid, &status, 0), pid); /* nobody is held up */
    ck_assert_int_eq(status, 0);
    ck_assert_int_eq(t->ops->collect(t, NULL, &blocks, &err), -EIO);
    ck_assert_int_eq(t->ops->reset(t, &err), -EIO);
    ck_assert_int_eq(t->ops->audit(t, &err), -EIO);
    tracker_destroy(t);
    temp_dir_remove();
}
END_TEST

/* Each name must be refused by the tracker that it belongs to. */
START_TEST(names_lead_to_trackers)
{
    struct tracker *t;
    struct err err;

    ck_assert_int_lt(tracker_open(&t, "nbd+unix:///?socket=/nonexistent/socket", &err), 0);
    ck_assert_ptr_nonnull(strstr(err.text, "nbd+unix:"));
    ck_assert_int_lt(tracker_open(&t, "/nonexistent/device", &err), 0);
    ck_assert_ptr_nonnull(strstr(err.text, "/nonexistent/device"));
    ck_assert_int_eq(tracker_open(&t, "/dev/null", &err), -ENOTSUP);
}
END_TEST

UNIT_MAIN("tracker", mem_rounds_marks_outwards, mem_last_block_may_be_short, collect_moves_marks,
          mem_is_always_quiet, lease_says_who_writes, names_lead_to_trackers)
