/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A file that somebody has open is no target. */
#include "base/bytes.h"
#include "base/clock.h"
#include "mirror/blockdev.h"
#include "mirror/in-use.h"

#include "loop-device.h"
#include "temp-dir.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

static struct err err;

static const char *disk_file(void)
{
    const char *path = temp_path("disk");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(ftruncate(fd, MIB(1)), 0);
    (void)close(fd);
    return path;
}

static int try(const char *path)
{
    struct blockdev *dev;
    int r = blockdev_open_file(&dev, path, BLOCKDEV_WRITE | BLOCKDEV_EXCLUSIVE, &err);

    if (r == 0)
        blockdev_close(dev);
    return r;
}

/* File systems without leases cannot tell: nothing to test there. */
static bool has_leases(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    bool has = fcntl(fd, F_SETLEASE, F_WRLCK) == 0;

    (void)close(fd);
    if (!has)
        skipped("no leases on this file system");
    return has;
}

START_TEST(a_file_of_nobody)
{
    const char *path;

    temp_dir_make();
    path = disk_file();
    for (int i = 0; i < 3; i++)
        ck_assert_msg(try(path) == 0, "%s", err.text);
    temp_dir_remove();
}
END_TEST

START_TEST(another_process_has_it)
{
    const char *path;
    int ready[2], over[2];
    char octet;
    pid_t pid;

    temp_dir_make();
    path = disk_file();
    if (has_leases(path)) {
        ck_assert_int_eq(pipe(ready) | pipe(over), 0);
        pid = fork();
        if (pid == 0) {
            int fd = open(path, O_RDWR);

            _exit(fd < 0 || write(ready[1], "x", 1) != 1 || close(over[1]) || read(over[0], &octet, 1) != 0);
        }
        ck_assert_int_eq(read(ready[0], &octet, 1), 1);
        ck_assert_int_eq(try(path), -EBUSY);
        ck_assert_ptr_nonnull(strstr(err.text, "is in use"));
        (void)close(over[1]);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
        ck_assert_int_eq(try(path), 0);
    }
    temp_dir_remove();
}
END_TEST

START_TEST(another_migration_has_it)
{
    struct blockdev *dev;
    const char *path;

    temp_dir_make();
    path = disk_file();
    if (has_leases(path)) {
        ck_assert_int_eq(blockdev_open_file(&dev, path, BLOCKDEV_WRITE | BLOCKDEV_EXCLUSIVE, &err), 0);
        ck_assert_int_eq(symlink(path, temp_path("other-name")), 0);
        ck_assert_int_eq(link(path, temp_path("third-name")), 0);
        ck_assert_int_eq(try(temp_path("other-name")), -EBUSY);
        ck_assert_int_eq(try(temp_path("third-name")), -EBUSY);
        blockdev_close(dev);
        ck_assert_int_eq(try(temp_path("third-name")), 0);
    }
    temp_dir_remove();
}
END_TEST

START_TEST(a_mapping_is_left_of_it)
{
    const char *path;
    void *map;
    int fd;

    temp_dir_make();
    path = disk_file();
    if (has_leases(path)) {
        fd = open(path, O_RDWR | O_CLOEXEC);
        map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        (void)close(fd);
        ck_assert_ptr_ne(map, MAP_FAILED);
        ck_assert_int_eq(try(path), -EBUSY);
        (void)munmap(map, 4096);
        ck_assert_int_eq(try(path), 0);
    }
    temp_dir_remove();
}
END_TEST

/* Somebody opens it all the time, also at the moment of the lease: we live, and he is not held up. */
static atomic_bool over;
static _Atomic uint64_t longest_ns;

static void *opener(void *path)
{
    while (!over) {
        uint64_t begin = clock_now();
        int fd = open(path, O_RDONLY | O_CLOEXEC);

        (void)close(fd);
        longest_ns = MAX(longest_ns, clock_now() - begin);
    }
    return NULL;
}

START_TEST(a_lease_holds_nobody_up)
{
    char path[256];
    pthread_t thread;

    temp_dir_make();
    (void)snprintf(path, sizeof(path), "%s", disk_file());
    ck_assert_int_eq(pthread_create(&thread, NULL, opener, path), 0);
    for (int i = 0; i < 200; i++) {
        int r = try(path);

        ck_assert(r == 0 || r == -EBUSY);
    }
    over = true;
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_uint_lt(longest_ns, 5 * NS_PER_SEC);
    temp_dir_remove();
}
END_TEST

UNIT_MAIN("in-use", a_file_of_nobody, another_process_has_it, another_migration_has_it, a_mapping_is_left_of_it, a_lease_holds_nobody_up)
