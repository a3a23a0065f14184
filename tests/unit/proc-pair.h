/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An embedded guest on "host" A and its copy in the making on "host" B, moved by hand through the hypervisor seam. The guest at the
 * source is a child of the test; the one at the target is the test's program again ("guest incoming"). */
#ifndef XMOTION_TESTS_PROC_PAIR_H
#define XMOTION_TESTS_PROC_PAIR_H

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "hv/guest-ping.h"
#include "hv/hv.h"
#include "hv/proc-guest.h"
#include "unit.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define MEMORY    MIB(64)
#define PAGE      4096u
#define DISK_SIZE MIB(16)
#define NAME      "vm1"

static char dir[] = "/tmp/xmotion-test-proc-XXXXXX";
static char disk_path[100], copy_path[100];
static pid_t guest;
static struct hv_source *source;
static struct hv_target *target;
static const uint8_t *ram;
static uint8_t *copy;
static struct bitmap dirty;
static struct err err;

static inline void ok(int r)
{
    ck_assert_msg(r == 0, "%d: %s", r, err.text);
}

static inline void make_file(char *path, const char *name)
{
    CLEANUP_CLOSE int fd = -1;

    (void)snprintf(path, 100, "%s/%s", dir, name);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert(fd >= 0 && ftruncate(fd, (off_t)DISK_SIZE) == 0);
}

/* The two hosts of a move are two run folders of this one. */
static inline void at_host(char letter)
{
    char path[100];

    (void)snprintf(path, sizeof(path), "%s/%c", dir, letter);
    ck_assert_int_eq(setenv("XMOTION_RUN_DIR", path, 1), 0);
}

static inline void run_guest(void)
{
    struct proc_guest_config config = {.name = NAME,
                                       .memory = MEMORY,
                                       .dirty_rate = MIB(40),
                                       .write_rate = MIB(10),
                                       .disk_count = 1,
                                       .disks = {disk_path}};
    int r;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    r = proc_guest_run(&config, &err);
    if (r < 0)
        fprintf(stderr, "guest: %s\n", err.text);
    exit(r < 0);
}

static inline void open_source(void)
{
    int r = -ENOENT;

    for (int i = 0; r == -ENOENT && i < 1000; i++) {
        r = hv_source_open_proc(&source, NAME, &err);
        if (r == -ENOENT)
            clock_sleep(10 * NS_PER_MS);
    }
    ok(r);
}

static inline void begin(void)
{
    ck_assert(mkdtemp(dir) != NULL);
    make_file(disk_path, "disk");
    make_file(copy_path, "copy");
    at_host('A');
    guest = fork();
    ck_assert(guest >= 0);
    if (guest == 0)
        run_guest();
    open_source();
    ok(source->ops->check(source, &err));
    ck_assert_int_eq(bitmap_init(&dirty, MEMORY / PAGE), 0);
}

static inline void remove_tree(void)
{
    char command[200];

    (void)snprintf(command, sizeof(command), "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

static inline void finish(void)
{
    int status;

    ck_assert_int_eq(waitpid(guest, &status, 0), guest);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "guest ended with %x", status);
    bitmap_finish(&dirty);
    remove_tree();
}

static inline void destroy_source(void)
{
    ok(source->ops->destroy(source, &err));
    source->ops->close(source);
}

static inline void whole(void)
{
    char text[300];
    int r = proc_guest_verify(NAME, text, sizeof(text), &err);

    ck_assert_msg(r == 0, "%d: %s", r, err.text);
}

static inline void expect(int fd, int (*next)(void *, struct hv_event *, struct err *), void *who,
                   enum hv_event_kind kind)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct hv_event event;

    ck_assert_int_eq(poll(&p, 1, 5000), 1);
    ok(next(who, &event, &err));
    ck_assert_int_eq(event.kind, kind);
}

static inline int source_next(void *s, struct hv_event *ret, struct err *e)
{
    return source->ops->next_event(s, ret, e);
}

static inline int target_next(void *t, struct hv_event *ret, struct err *e)
{
    return target->ops->next_event(t, ret, e);
}

static inline uint64_t copy_dirty(void)
{
    uint64_t pages = 0, first = 0, n;

    for (uint64_t at = 0; (n = bitmap_next_run(&dirty, at, UINT64_MAX, &first)); at = first + n) {
        bitmap_clear_run(&dirty, first, n);
        memcpy(copy + first * PAGE, ram + first * PAGE, n * PAGE);
        pages += n;
    }
    return pages;
}

static inline uint64_t take_round(void)
{
    uint64_t pages;

    ok(source->ops->log_dirty_take(source, &dirty, &pages, &err));
    return copy_dirty();
}

static inline void copy_disk(void)
{
    CLEANUP_FREE char *data = NULL;
    CLEANUP_CLOSE int fd = open(copy_path, O_WRONLY | O_CLOEXEC);
    size_t len;

    ck_assert_int_eq(file_read(disk_path, DISK_SIZE, &data, &len), 0);
    ck_assert_int_eq(fd_pwrite_full(fd, data, len, 0), 0);
}

static inline void open_target(void)
{
    const char *paths[1] = {copy_path};
    struct hv_guest sent;
    json_t *json = hv_guest_to_json(source->ops->guest(source));
    int fd;

    ok(hv_guest_from_json(&sent, json, &err));
    json_decref(json);
    at_host('B');
    ok(hv_target_open_proc(&target, &sent, &err));
    hv_guest_finish(&sent);
    ok(target->ops->check(target, &err));
    ok(target->ops->memory_begin(target, paths, &fd, &copy, &err));
    at_host('A');
}

static inline uint64_t stat_of(const char *key)
{
    json_t *stats;
    uint64_t n;

    ok(proc_guest_stats(NAME, &stats, &err));
    n = (uint64_t)json_integer_value(json_object_get(stats, key));
    json_decref(stats);
    return n;
}

/* The guest works: that many pages more are walked, disk writes done. */
static inline void wait_work(uint64_t pages, uint64_t writes)
{
    pages += stat_of("pages_dirtied");
    writes += stat_of("disk_writes");
    for (int i = 0; stat_of("pages_dirtied") < pages || stat_of("disk_writes") < writes; i++) {
        ck_assert_int_lt(i, 6000);
        clock_sleep(5 * NS_PER_MS);
    }
}

/* From the first page to the point where the copy is complete and the source stands still. */
static inline void copy_all(void)
{
    int fd;

    ok(source->ops->memory_begin(source, &fd, &ram, &err));
    bitmap_set_all(&dirty);
    (void)copy_dirty();
    for (int i = 0; i < 5; i++) {
        wait_work(200, 1);
        ck_assert_uint_gt(take_round(), 100);
    }
    ok(source->ops->suspend(source, &err));
    expect(source->ops->fd(source), source_next, source, HV_SUSPENDED);
    (void)take_round();
    ck_assert_uint_eq(take_round(), 0);
    copy_disk();
    ok(target->ops->memory_complete(target, &err));
    expect(target->ops->fd(target), target_next, target, HV_BUILT);
}

static inline void move(void)
{
    open_target();
    copy_all();
}

static inline bool is_incoming(int argc, char **argv)
{
    return argc == 4 && strcmp(argv[1], "guest") == 0 && strcmp(argv[2], "incoming") == 0;
}

static inline int run_incoming(char **argv)
{
    (void)alarm(100); /* one that a failed test left running */
    return proc_guest_incoming(atoi(argv[3]));
}

#endif
