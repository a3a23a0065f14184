/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Regular files and block devices as disks. */
#include "base/bytes.h"
#include "base/zero.h"
#include "mirror/blockdev.h"

#include "loop-device.h"

#include <errno.h>
#include <fcntl.h>

#define ODD_SIZE (MIB(1) + 512)

static struct blockdev *dev;
static struct err err;

static void make_file(const char *name, uint64_t size)
{
    temp_write(name, "", 0);
    ck_assert_int_eq(truncate(temp_path(name), (off_t)size), 0);
}

static void open_file(const char *path, unsigned int flags)
{
    ck_assert_msg(blockdev_open_file(&dev, path, flags, &err) == 0, "%s", err.text);
}

static void expect_error(const char *path, unsigned int flags, int code, const char *sentence)
{
    int r = blockdev_open_file(&dev, path, flags, &err);

    ck_assert_msg(r == code, "%d: %s", r, err.text);
    ck_assert_msg(strstr(err.text, sentence) && strstr(err.text, path), "%s", err.text);
}

/* Aligned memory: what O_DIRECT wants for reading. */
static uint8_t *buffer(size_t len)
{
    void *p;

    ck_assert_int_eq(posix_memalign(&p, BLOCKDEV_ALIGN, len), 0);
    return p;
}

static void write_fill(uint64_t offset, size_t len, int fill)
{
    uint8_t *b = buffer(len);

    memset(b, fill, len);
    ck_assert_msg(dev->ops->pwrite(dev, b, len, offset, &err) == 0, "%s", err.text);
    free(b);
}

static bool reads_as(uint64_t offset, size_t len, uint8_t fill)
{
    uint8_t *b = buffer(len);
    bool same = true;

    memset(b, fill + 1, len);
    ck_assert_msg(dev->ops->pread(dev, b, len, offset, &err) == 0, "%s", err.text);
    for (size_t i = 0; i < len; i++)
        same = same && b[i] == fill;
    free(b);
    return same;
}

/* The same for every kind: to the last sector, and again after it was opened anew. */
static void check_written_and_read(const char *path, unsigned int flags, uint64_t size)
{
    open_file(path, flags | BLOCKDEV_WRITE);
    ck_assert_uint_eq(dev->size, size);
    write_fill(0, 4096, 0x11);
    write_fill(size - 512, 512, 0x22);
    ck_assert_int_eq(dev->ops->flush(dev, &err), 0);
    blockdev_close(dev);
    open_file(path, flags);
    ck_assert_uint_eq(dev->size, size);
    ck_assert(reads_as(0, 4096, 0x11));
    ck_assert(reads_as(4096, 4096, 0));
    ck_assert(reads_as(size - 512, 512, 0x22));
    blockdev_close(dev);
}

START_TEST(file_of_odd_size)
{
    temp_dir_make();
    make_file("disk", ODD_SIZE);
    check_written_and_read(temp_path("disk"), 0, ODD_SIZE);
    make_file("sector", 512);
    open_file(temp_path("sector"), BLOCKDEV_WRITE);
    write_fill(0, 512, 0x33);
    ck_assert(reads_as(0, 512, 0x33));
    blockdev_close(dev);
    temp_dir_remove();
}
END_TEST

START_TEST(file_with_direct_io)
{
    temp_dir_make();
    make_file("disk", MIB(1));
    check_written_and_read(temp_path("disk"), BLOCKDEV_DIRECT, MIB(1));
    temp_dir_remove();
}
END_TEST

START_TEST(file_where_no_direct_io_is)
{
    char path[] = "/dev/shm/xmotion-unit-XXXXXX";
    int fd = mkstemp(path);

    if (fd < 0) {
        skipped("/dev/shm is not there");
        return;
    }
    ck_assert_int_eq(ftruncate(fd, ODD_SIZE), 0);
    check_written_and_read(path, BLOCKDEV_DIRECT, ODD_SIZE);
    (void)close(fd);
    (void)unlink(path);
}
END_TEST

START_TEST(what_is_no_disk)
{
    temp_dir_make();
    expect_error(temp_path("none"), 0, -ENOENT, "No such file");
    expect_error(temp_dir, 0, -ENOTBLK, "neither a block device nor a regular file");
    expect_error("/dev/null", 0, -ENOTBLK, "neither a block device nor a regular file");
    make_file("empty", 0);
    expect_error(temp_path("empty"), 0, -EINVAL, "its size is 0 octets");
    make_file("odd", 4097);
    expect_error(temp_path("odd"), 0, -EINVAL, "its size is 4097 octets; a disk's is a multiple of 512");
    temp_dir_remove();
}
END_TEST

START_TEST(read_only_is_not_written)
{
    static uint8_t sector[512];

    temp_dir_make();
    make_file("disk", MIB(1));
    open_file(temp_path("disk"), 0);
    ck_assert_int_eq(dev->ops->pwrite(dev, sector, 512, 8192, &err), -EBADF);
    ck_assert_ptr_nonnull(strstr(err.text, "/disk: writing 512 octets at 8192: "));
    ck_assert_int_eq(dev->ops->zero(dev, 512, 8192, &err), -EBADF);
    ck_assert_ptr_nonnull(strstr(err.text, "/disk: zeroing 512 octets at 8192: "));
    blockdev_close(dev);
    temp_dir_remove();
}
END_TEST

START_TEST(file_that_became_shorter)
{
    uint8_t *b = buffer(4096);

    temp_dir_make();
    make_file("disk", MIB(1));
    open_file(temp_path("disk"), 0);
    ck_assert_int_eq(truncate(temp_path("disk"), 4096), 0);
    ck_assert_int_lt(dev->ops->pread(dev, b, 4096, 8192, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.text, "/disk: reading 4096 octets at 8192: "));
    blockdev_close(dev);
    free(b);
    temp_dir_remove();
}
END_TEST

/* ---- extents ---- */

static void expect_extent(uint64_t offset, uint64_t length, bool zero)
{
    uint64_t got = 0;
    bool got_zero = !zero;

    ck_assert_int_eq(dev->ops->extent(dev, offset, &got, &got_zero, &err), 0);
    ck_assert_uint_eq(got, length);
    ck_assert_int_eq(got_zero, zero);
}

START_TEST(extents_of_a_sparse_file)
{
    temp_dir_make();
    make_file("disk", MIB(4) + 512);
    open_file(temp_path("disk"), BLOCKDEV_WRITE);
    expect_extent(0, MIB(4) + 512, true);
    expect_extent(512, MIB(4), true);
    write_fill(MIB(1), MIB(1), 1);
    expect_extent(0, MIB(1), true);
    expect_extent(4096, MIB(1) - 4096, true);
    expect_extent(MIB(1), MIB(1), false);
    expect_extent(MIB(1) + 512, MIB(1) - 512, false);
    expect_extent(MIB(2), MIB(2) + 512, true);
    write_fill(MIB(4), 512, 1);
    expect_extent(MIB(4), 512, false);
    blockdev_close(dev);
    temp_dir_remove();
}
END_TEST

START_TEST(zero_makes_a_hole)
{
    temp_dir_make();
    make_file("disk", MIB(4) + 512);
    open_file(temp_path("disk"), BLOCKDEV_WRITE);
    write_fill(0, MIB(4) + 512, 1);
    expect_extent(0, MIB(4) + 512, false);
    ck_assert_int_eq(dev->ops->zero(dev, MIB(1), MIB(1), &err), 0);
    expect_extent(MIB(1), MIB(1), true);
    ck_assert(reads_as(MIB(1), MIB(1), 0));
    ck_assert(reads_as(MIB(1) - 512, 512, 1));
    ck_assert(reads_as(MIB(2), 512, 1));
    ck_assert_int_eq(dev->ops->zero(dev, 512, MIB(4), &err), 0);
    ck_assert(reads_as(MIB(4), 512, 0));
    blockdev_close(dev);
    open_file(temp_path("disk"), 0);
    ck_assert_uint_eq(dev->size, MIB(4) + 512);
    blockdev_close(dev);
    temp_dir_remove();
}
END_TEST

/* ---- devices ---- */

START_TEST(device_is_read_and_written)
{
    struct loop_device l;

    temp_dir_make();
    if (loop_device_make(&l, "disk", ODD_SIZE, "512")) {
        check_written_and_read(l.path, 0, ODD_SIZE);
        loop_device_remove(&l);
    }
    temp_dir_remove();
}
END_TEST

START_TEST(device_of_large_sectors)
{
    struct loop_device l;

    temp_dir_make();
    if (loop_device_make(&l, "disk", MIB(1), "4096")) {
        open_file(l.path, BLOCKDEV_WRITE);
        ck_assert_uint_eq(dev->sector_size, 4096);
        write_fill(4096, 4096, 5);
        ck_assert(reads_as(4096, 4096, 5));
        blockdev_close(dev);
        loop_device_remove(&l);
    }
    temp_dir_remove();
}
END_TEST

/* The wire's payloads stand at any address. */
START_TEST(device_is_written_from_unaligned_memory)
{
    uint8_t *b = buffer(8192);
    struct loop_device l;

    temp_dir_make();
    memset(b, 9, 8192);
    if (loop_device_make(&l, "disk", ODD_SIZE, "512")) {
        open_file(l.path, BLOCKDEV_WRITE);
        ck_assert_msg(dev->ops->pwrite(dev, b + 41, 4096, 4096, &err) == 0, "%s", err.text);
        ck_assert(reads_as(4096, 4096, 9));
        ck_assert_msg(dev->ops->pwrite(dev, b + 8, 512, MIB(1), &err) == 0, "%s", err.text);
        ck_assert(reads_as(MIB(1), 512, 9));
        blockdev_close(dev);
        loop_device_remove(&l);
    }
    free(b);
    temp_dir_remove();
}
END_TEST

START_TEST(device_is_data_all_over)
{
    struct loop_device l;

    temp_dir_make();
    if (loop_device_make(&l, "disk", ODD_SIZE, "512")) {
        open_file(l.path, BLOCKDEV_WRITE);
        expect_extent(0, ODD_SIZE, false);
        expect_extent(MIB(1), 512, false);
        write_fill(0, MIB(1), 7);
        ck_assert_int_eq(dev->ops->zero(dev, 65536, 4096, &err), 0);
        ck_assert(reads_as(4096, 65536, 0));
        ck_assert(reads_as(0, 4096, 7));
        ck_assert(reads_as(4096 + 65536, 4096, 7));
        blockdev_close(dev);
        loop_device_remove(&l);
    }
    temp_dir_remove();
}
END_TEST

START_TEST(device_in_use_is_refused)
{
    struct loop_device l;

    temp_dir_make();
    if (loop_device_make(&l, "disk", MIB(1), "512")) {
        int holder = open(l.path, O_RDWR | O_EXCL);

        ck_assert_int_ge(holder, 0);
        expect_error(l.path, BLOCKDEV_WRITE | BLOCKDEV_EXCLUSIVE, -EBUSY, "is in use");
        (void)close(holder);
        open_file(l.path, BLOCKDEV_WRITE | BLOCKDEV_EXCLUSIVE);
        blockdev_close(dev);
        loop_device_remove(&l);
    }
    temp_dir_remove();
}
END_TEST

START_TEST(names_that_are_uris)
{
    ck_assert(blockdev_is_uri("nbd://h/x"));
    ck_assert(blockdev_is_uri("nbds://h/x"));
    ck_assert(blockdev_is_uri("nbd+unix:///x?socket=/s"));
    ck_assert(blockdev_is_uri("nbds+unix:///x?socket=/s"));
    ck_assert(!blockdev_is_uri("/dev/nbd0"));
    ck_assert(!blockdev_is_uri("nbd:x"));
    ck_assert(!blockdev_is_uri(""));
}
END_TEST

UNIT_MAIN("mirror-file", file_of_odd_size, file_with_direct_io, file_where_no_direct_io_is, what_is_no_disk,
          read_only_is_not_written, file_that_became_shorter, extents_of_a_sparse_file, zero_makes_a_hole,
          device_is_read_and_written, device_of_large_sectors, device_is_written_from_unaligned_memory,
          device_is_data_all_over, device_in_use_is_refused, names_that_are_uris)
