/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The fault points of disks in files, with the points compiled in whatever the build's option. */
#include "base/bytes.h"
#include "base/fault.h"
#include "base/zero.h"
#include "mirror/blockdev.h"

#include "temp-dir.h"

#define SIZE 65536u

static struct blockdev *dev;
static struct err err;
static uint8_t *octets; /* aligned */

static void begin(const char *faults)
{
    ck_assert_int_eq(setenv("XMOTION_FAULT", faults, 1), 0);
    ck_assert_int_eq(posix_memalign((void **)&octets, BLOCKDEV_ALIGN, SIZE), 0);
    memset(octets, 0x55, SIZE);
    temp_dir_make();
    temp_write("disk", "", 0);
    ck_assert_int_eq(truncate(temp_path("disk"), SIZE), 0);
    ck_assert_int_eq(blockdev_open_file(&dev, temp_path("disk"), BLOCKDEV_WRITE, &err), 0);
}

static void end(void)
{
    blockdev_close(dev);
    temp_dir_remove();
    free(octets);
}

static void check_told(const char *path)
{
    ck_assert_msg(strstr(err.text, path) != NULL, "%s", err.text);
}

START_TEST(reads_fail)
{
    begin("disk.read@2=fail:EIO");
    ck_assert_int_eq(dev->ops->pread(dev, octets, 512, 0, &err), 0);
    ck_assert_int_eq(dev->ops->pread(dev, octets, 512, 0, &err), -EIO);
    check_told("/disk");
    ck_assert_int_eq(dev->ops->pread(dev, octets, 512, 0, &err), 0);
    end();
}
END_TEST

START_TEST(writes_and_zeroings_fail)
{
    begin("disk.write=fail:ENOSPC,disk.write@3=fail:EIO");
    ck_assert_int_eq(dev->ops->pwrite(dev, octets, 512, 0, &err), -ENOSPC);
    check_told("/disk");
    ck_assert_int_eq(dev->ops->pwrite(dev, octets, 512, 0, &err), 0);
    ck_assert_int_eq(dev->ops->zero(dev, 512, 0, &err), -EIO);
    check_told("/disk");
    end();
}
END_TEST

START_TEST(short_write_leaves_a_half)
{
    begin("disk.write=short,disk.write@2=short");
    ck_assert_int_eq(dev->ops->pwrite(dev, octets, 8192, 0, &err), -EIO);
    check_told("/disk");
    ck_assert_int_eq(dev->ops->pread(dev, octets, 8192, 0, &err), 0);
    ck_assert_uint_eq(octets[4095], 0x55);
    ck_assert(is_zero(octets + 4096, 4096));
    ck_assert_int_eq(dev->ops->zero(dev, 512, 0, &err), -EIO);
    end();
}
END_TEST

/* Each of many passes the point by itself. */
START_TEST(many_at_once_fail)
{
    struct blockdev_read reads[4];
    struct blockdev_write writes[4];

    begin("disk.read@3=fail:EIO,disk.write@2=short");
    for (uint32_t i = 0; i < 4; i++) {
        reads[i] = (struct blockdev_read){.buf = octets + i * 8192, .len = 8192, .offset = i * 8192};
        writes[i] = (struct blockdev_write){.buf = octets + i * 8192, .len = 8192, .offset = i * 8192};
    }
    ck_assert_int_eq(dev->ops->pwrite_many(dev, writes, 4, &err), -EIO);
    check_told("/disk: writing 8192 octets at 8192: ");
    ck_assert_int_eq(dev->ops->pread_many(dev, reads, 4, NULL, &err), -EIO);
    check_told("/disk");
    ck_assert_int_eq(dev->ops->pread_many(dev, reads, 4, NULL, &err), 0);
    ck_assert_uint_eq(octets[8192 + 4095], 0x55);
    ck_assert(is_zero(octets + 8192 + 4096, 4096));
    end();
}
END_TEST

START_TEST(flushes_fail)
{
    begin("disk.flush=fail:EIO");
    ck_assert_int_eq(dev->ops->flush(dev, &err), -EIO);
    check_told("/disk");
    ck_assert_int_eq(dev->ops->flush(dev, &err), 0);
    end();
}
END_TEST

UNIT_MAIN("disk-faults", reads_fail, writes_and_zeroings_fail, short_write_leaves_a_half, many_at_once_fail, flushes_fail)
