/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* nbdkit with the xmotion plugin, the tracker that reads its bitmap, and NBD as a blockdev.
 * XMOTION_PLUGIN_DIR says where the plugin is. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "mirror/blockdev.h"
#include "mirror/tracker.h"
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define BLOCK     4096u
#define DISK_SIZE (MIB(32) + BLOCK / 2) /* the last block is half a one */
#define BLOCKS    (DISK_SIZE / BLOCK + 1)
#define THREADS   4

static char dir[] = "/tmp/xmotion-test-nbd-XXXXXX";
static char disk[100], uri[200];
static pid_t server;
static struct tracker *tracker;
static struct blockdev *dev;
static struct err err;

static void ok(int r)
{
    ck_assert_msg(r == 0, "%d: %s", r, err.text);
}

static const char *filter; /* NULL: none */

static void run_nbdkit(const char *plugin)
{
    char socket_path[100], file[120], bitmap[120];

    (void)snprintf(socket_path, sizeof(socket_path), "%s/sock", dir);
    (void)snprintf(file, sizeof(file), "file=%s", disk);
    (void)snprintf(bitmap, sizeof(bitmap), "bitmap=%s/a bitmap id=x", dir);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (strcmp(plugin, "file") == 0)
        (void)execlp("nbdkit", "nbdkit", "-f", "--exit-with-parent", "-U", socket_path, plugin,
                     file, NULL);
    else
        (void)execlp("nbdkit", "nbdkit", "-f", "--exit-with-parent", "-U", socket_path, plugin,
                     file, bitmap, filter, NULL);
    _exit(127);
}

static void wait_for_server(void)
{
    char path[100];

    (void)snprintf(path, sizeof(path), "%s/sock", dir);
    for (int i = 0; access(path, F_OK) != 0; i++) {
        ck_assert_int_lt(i, 2000);
        clock_sleep(5 * NS_PER_MS);
    }
}

static void serve(const char *plugin)
{
    server = fork();
    ck_assert(server >= 0);
    if (server == 0)
        run_nbdkit(plugin);
    wait_for_server();
}

static void make_disk(void)
{
    CLEANUP_CLOSE int fd = -1;

    ck_assert(mkdtemp(dir) != NULL);
    (void)snprintf(disk, sizeof(disk), "%s/disk", dir);
    (void)snprintf(uri, sizeof(uri), "nbd+unix:///?socket=%s/sock", dir);
    fd = open(disk, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert(fd >= 0);
    ck_assert_int_eq(ftruncate(fd, (off_t)DISK_SIZE), 0);
}

static void begin(void)
{
    static char plugin[1100];

    make_disk();
    (void)snprintf(plugin, sizeof(plugin), "%s/nbdkit-xmotion-plugin.so",
                   getenv("XMOTION_PLUGIN_DIR"));
    serve(plugin);
    ok(tracker_open_nbd(&tracker, uri, &err));
    ok(blockdev_open_nbd(&dev, uri, BLOCKDEV_WRITE, THREADS, &err));
}

static void stop_server(int sig)
{
    ck_assert_int_eq(kill(server, sig), 0);
    ck_assert_int_eq(waitpid(server, NULL, 0), server);
}

static void remove_files(void)
{
    char path[120];

    for (const char *const *name = (const char *const[]){"disk", "sock", "a bitmap id=x", NULL};
         *name; name++) {
        (void)snprintf(path, sizeof(path), "%s/%s", dir, *name);
        (void)unlink(path);
    }
    (void)rmdir(dir);
}

static void finish(void)
{
    blockdev_close(dev);
    tracker_destroy(tracker);
    stop_server(SIGTERM);
    remove_files();
}

START_TEST(marks_are_exact)
{
    static uint8_t data[300 * BLOCK];
    struct bitmap dirty, want;
    uint64_t taken, first;

    begin();
    ck_assert_uint_eq(tracker->blocks, BLOCKS);
    ck_assert_int_eq(bitmap_init(&dirty, BLOCKS), 0);
    ck_assert_int_eq(bitmap_init(&want, BLOCKS), 0);
    ok(tracker->ops->collect(tracker, &dirty, &taken, &err));
    ck_assert_uint_eq(taken, 0);
    memset(data, 1, sizeof(data));
    srandom(1);
    for (int i = 0; i < 300; i++) {
        uint64_t len = (uint64_t)random() % sizeof(data) + 1; /* octets, not blocks */
        uint64_t offset = (uint64_t)random() % (DISK_SIZE - len);

        if (i % 3 == 0)
            len = MIN(len, 2 * BLOCK);
        if (i % 7 == 0)
            ok(dev->ops->zero(dev, len, offset, &err));
        else
            ok(dev->ops->pwrite(dev, data, len, offset, &err));
        first = offset / BLOCK;
        bitmap_set_run(&want, first, (offset + len - 1) / BLOCK - first + 1);
        if (i % 50 == 49) {
            ck_assert_uint_eq(tracker->ops->count(tracker), bitmap_count(&want));
            bitmap_clear_run(&dirty, 0, BLOCKS);
            ok(tracker->ops->collect(tracker, &dirty, &taken, &err));
            ck_assert_uint_eq(taken, bitmap_count(&want));
            ck_assert_int_eq(memcmp(dirty.words, want.words, bitmap_words(BLOCKS) * 8), 0);
            bitmap_clear_run(&want, 0, BLOCKS);
        }
    }
    ok(tracker->ops->drain(tracker, NS_PER_SEC, &err));
    ok(tracker->ops->audit(tracker, &err));
    bitmap_finish(&dirty);
    bitmap_finish(&want);
    finish();
}
END_TEST

/* Each thread owns a part of the disk, writes one block of it, and finds it marked at once: the
 * acknowledgement came after the mark. Meanwhile another one collects. */
static struct bitmap all;
static pthread_mutex_t collecting = PTHREAD_MUTEX_INITIALIZER;
static int stop;

static void *write_and_look(void *opaque)
{
    uint64_t part = (uint64_t)(uintptr_t)opaque;
    static uint8_t data[BLOCK] = {1};
    uintptr_t late = 0;

    for (uint64_t i = 0; i < 1500; i++) {
        uint64_t block = part * (BLOCKS / THREADS) + i % (BLOCKS / THREADS);
        struct err e;
        uint64_t n;

        if (dev->ops->pwrite(dev, data, BLOCK, block * BLOCK, &e) < 0)
            return (void *)(uintptr_t)1000000;
        (void)pthread_mutex_lock(&collecting);
        if (tracker->ops->collect(tracker, &all, &n, &e) < 0 || !bitmap_test(&all, block))
            late++;
        else
            bitmap_clear(&all, block);
        (void)pthread_mutex_unlock(&collecting);
    }
    return (void *)late;
}

static void *collect_all(void *opaque)
{
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        struct err e;
        uint64_t n;

        (void)pthread_mutex_lock(&collecting);
        if (tracker->ops->collect(tracker, &all, &n, &e) < 0)
            n = 0;
        (void)pthread_mutex_unlock(&collecting);
    }
    return NULL;
}

START_TEST(marks_precede_acknowledgement)
{
    pthread_t threads[THREADS], collector;
    void *late;

    begin();
    ck_assert_int_eq(bitmap_init(&all, BLOCKS), 0);
    ck_assert_int_eq(pthread_create(&collector, NULL, collect_all, NULL), 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, write_and_look, (void *)i), 0);
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], &late), 0);
        ck_assert_uint_eq((uintptr_t)late, 0);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    ck_assert_int_eq(pthread_join(collector, NULL), 0);
    ok(tracker->ops->drain(tracker, NS_PER_SEC, &err));
    ok(tracker->ops->audit(tracker, &err));
    bitmap_finish(&all);
    finish();
}
END_TEST

START_TEST(reads_writes_zeroes_extents)
{
    CLEANUP_FREE uint8_t *a = malloc(MIB(3)), *b = malloc(MIB(3));
    uint64_t length;
    bool zero;

    begin();
    ck_assert_uint_eq(dev->size, DISK_SIZE);
    ok(dev->ops->extent(dev, 0, &length, &zero, &err));
    ck_assert(zero && length == DISK_SIZE);
    for (size_t i = 0; i < MIB(3); i++)
        a[i] = (uint8_t)(i * 7 + (i >> 12));
    ok(dev->ops->pwrite(dev, a, MIB(3), MIB(4), &err));
    ok(dev->ops->pread(dev, b, MIB(3), MIB(4), &err));
    ck_assert_int_eq(memcmp(a, b, MIB(3)), 0);
    ok(dev->ops->extent(dev, 0, &length, &zero, &err));
    ck_assert(zero && length == MIB(4));
    ok(dev->ops->extent(dev, MIB(4), &length, &zero, &err));
    ck_assert(!zero && length == MIB(3));
    ok(dev->ops->zero(dev, MIB(1), MIB(5), &err));
    ok(dev->ops->extent(dev, MIB(5), &length, &zero, &err));
    ck_assert(zero && length == MIB(1));
    ok(dev->ops->pread(dev, b, MIB(3), MIB(4), &err));
    memset(a + MIB(1), 0, MIB(1));
    ck_assert_int_eq(memcmp(a, b, MIB(3)), 0);
    ok(dev->ops->flush(dev, &err));
    finish();
}
END_TEST

START_TEST(audit_finds_lost_marks)
{
    static uint8_t data[BLOCK] = {1};
    char path[120];
    uint64_t words[2] = {0, 0};
    struct stat st;
    CLEANUP_CLOSE int fd = -1;

    begin();
    ok(dev->ops->pwrite(dev, data, BLOCK, 0, &err));
    ok(tracker->ops->audit(tracker, &err));
    (void)snprintf(path, sizeof(path), "%s/a bitmap id=x", dir);
    fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert(fd >= 0 && fstat(fd, &st) == 0);
    ck_assert_int_eq(pwrite(fd, words, 8, st.st_size - BLOCK), 8); /* the only page of bits */
    ck_assert_int_eq(tracker->ops->audit(tracker, &err), -EIO);
    ok(tracker->ops->reset(tracker, &err));
    ok(tracker->ops->audit(tracker, &err));
    finish();
}
END_TEST

START_TEST(dead_server_is_noticed)
{
    struct bitmap dirty;
    uint64_t taken;

    begin();
    ck_assert_int_eq(bitmap_init(&dirty, BLOCKS), 0);
    stop_server(SIGKILL);
    ck_assert_int_eq(tracker->ops->collect(tracker, &dirty, &taken, &err), -EIO);
    ck_assert_int_eq(tracker->ops->audit(tracker, &err), -EIO);
    ck_assert(strstr(err.text, "gone") != NULL);
    ck_assert_int_lt(dev->ops->pread(dev, dirty.words, 512, 0, &err), 0);
    blockdev_close(dev);
    tracker_destroy(tracker);
    bitmap_finish(&dirty);
    remove_files();
}
END_TEST

/* A second server takes the path of a bitmap that is still mapped, not the file. */
START_TEST(restarted_server_is_not_the_old_one)
{
    struct tracker *old;
    struct bitmap dirty;
    uint64_t taken;
    char path[120];

    begin();
    old = tracker;
    stop_server(SIGKILL);
    blockdev_close(dev);
    (void)snprintf(path, sizeof(path), "%s/sock", dir);
    (void)unlink(path);
    (void)snprintf(path, sizeof(path), "%s/nbdkit-xmotion-plugin.so", getenv("XMOTION_PLUGIN_DIR"));
    serve(path);
    ok(tracker_open_nbd(&tracker, uri, &err));
    ok(blockdev_open_nbd(&dev, uri, BLOCKDEV_WRITE, 1, &err));
    ck_assert_int_eq(bitmap_init(&dirty, BLOCKS), 0);
    ck_assert_int_eq(old->ops->collect(old, &dirty, &taken, &err), -EIO);
    ok(tracker->ops->collect(tracker, &dirty, &taken, &err));
    tracker_destroy(old);
    bitmap_finish(&dirty);
    finish();
}
END_TEST

START_TEST(many_reads_at_once)
{
    enum { COUNT = 500 };
    static uint8_t octets[COUNT][BLOCK];
    struct blockdev_read reads[COUNT];

    begin();
    for (uint64_t i = 0; i < COUNT; i++) {
        memset(octets[i], (int)i % 255 + 1, BLOCK);
        ok(dev->ops->pwrite(dev, octets[i], BLOCK, 2 * i * BLOCK, &err));
        reads[i] = (struct blockdev_read){.buf = octets[COUNT - 1 - i], .len = BLOCK, .offset = 2 * i * BLOCK};
    }
    ok(blockdev_pread_many(dev, reads, COUNT, NULL, &err));
    for (unsigned int i = 0; i < COUNT; i++)
        ck_assert_uint_eq(octets[COUNT - 1 - i][BLOCK - 1], i % 255 + 1);
    ok(blockdev_pread_many(dev, reads, 0, NULL, &err));
    stop_server(SIGKILL);
    ck_assert_int_eq(blockdev_pread_many(dev, reads, COUNT, NULL, &err), -EIO);
    blockdev_close(dev);
    tracker_destroy(tracker);
    remove_files();
}
END_TEST

/* What was written through the server is read past it; not when a filter may stand between. */
START_TEST(backing_is_the_same_disk)
{
    uint8_t octets[BLOCK], back[BLOCK];
    struct blockdev *direct;
    char path[64];

    begin();
    ok(tracker->ops->backing(tracker, path, sizeof(path), &err));
    ok(blockdev_open(&direct, path, 0, &err));
    ck_assert_uint_eq(direct->size, DISK_SIZE);
    memset(octets, 7, BLOCK);
    ok(dev->ops->pwrite(dev, octets, BLOCK, 5 * BLOCK, &err));
    ok(direct->ops->pread(direct, back, BLOCK, 5 * BLOCK, &err));
    ck_assert_mem_eq(octets, back, BLOCK);
    blockdev_close(direct);
    finish();
}
END_TEST

START_TEST(no_backing_behind_a_filter)
{
    char path[64];

    filter = "--filter=noparallel";
    begin();
    ck_assert_int_eq(tracker->ops->backing(tracker, path, sizeof(path), &err), -ENOTSUP);
    finish();
}
END_TEST

START_TEST(other_servers_are_refused)
{
    make_disk();
    serve("file");
    ck_assert_int_eq(tracker_open_nbd(&tracker, uri, &err), -ENOTSUP);
    ck_assert(strstr(err.text, "nbdkit-xmotion-plugin") != NULL);
    ok(blockdev_open_nbd(&dev, uri, 0, 2, &err));
    ck_assert_uint_eq(dev->size, DISK_SIZE);
    blockdev_close(dev);
    stop_server(SIGTERM);
    remove_files();
}
END_TEST

UNIT_MAIN("nbd", marks_are_exact, marks_precede_acknowledgement, reads_writes_zeroes_extents,
          audit_finds_lost_marks, dead_server_is_noticed, restarted_server_is_not_the_old_one,
          many_reads_at_once, backing_is_the_same_disk, no_backing_behind_a_filter, other_servers_are_refused)
