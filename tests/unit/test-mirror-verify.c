/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --verify: a disk that holds something else than what was written to it. */
#include "copy.h"
#include "temp-dir.h"

#include <xxhash.h>

static struct copy copy;
static struct err err;

static void begin(uint64_t size)
{
    copy_make(&copy, size);
    copy.verify = true;
    fill_with_holes(&copy);
}

START_TEST(good_disk_is_read_back_once)
{
    uint64_t size = MIB(2) + 512;

    begin(size);
    copy_connect(&copy, 2, true);
    bulk(&copy);
    check_equal(&copy);
    ck_assert_uint_eq(target_stats(&copy).verified, target_stats(&copy).written);
    ck_assert_uint_eq(target_stats(&copy).repaired, 0);
    ck_assert_uint_eq(copy.to.reads, 0);
    ck_assert_uint_ge(copy.back.octets_read, target_stats(&copy).verified);
    copy_end(&copy);
    ck_assert_uint_eq(copy.back.closes, 1);
}
END_TEST

START_TEST(nothing_is_read_back_unasked)
{
    begin(MIB(1));
    copy.verify = false;
    copy_connect(&copy, 2, false);
    bulk(&copy);
    ck_assert_uint_eq(copy.to.reads, 0);
    ck_assert_uint_eq(target_stats(&copy).verified, 0);
    copy_end(&copy);
}
END_TEST

START_TEST(spoilt_block_is_repaired)
{
    begin(MIB(1));
    copy.to.spoil = 1;
    copy.to.spoil_at = 2 * CHUNK + 5;
    copy_connect(&copy, 2, false);
    bulk(&copy);
    check_equal(&copy);
    ck_assert_uint_eq(target_stats(&copy).repaired, 1);
    copy_end(&copy);
}
END_TEST

/* A disk whose own way of zeroing is bad gets its zeroes in full. */
START_TEST(spoilt_zeroes_are_repaired)
{
    static const uint8_t zeroes[8192];
    uint64_t verified;

    begin(MIB(1));
    copy_connect(&copy, 1, false);
    bulk(&copy);
    verified = target_stats(&copy).verified;
    copy.to.spoil = 1;
    copy.to.spoil_at = 5000;
    write_marked(&copy, 4096, zeroes, 8192);
    ck_assert_uint_eq(pass(&copy), 2);
    check_equal(&copy);
    ck_assert_uint_eq(target_stats(&copy).repaired, 1);
    ck_assert_uint_eq(target_stats(&copy).verified, verified + 8192);
    copy_end(&copy);
}
END_TEST

static void check_bad_disk(unsigned int spoil, int fail_read, const char *sentence)
{
    begin(CHUNK);
    copy.to.spoil = spoil;
    copy.to.spoil_at = 60000;
    copy_connect(&copy, 1, false);
    copy.back.fail_read = fail_read;
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &err), 0);
    rig_await_failure(&copy.rig);
    rig_close(&copy.rig);
    copy.rig.stream = NULL;
    copy.rig.count = 0;
    ck_assert_int_eq(copy.rig.sinks[0].result, -EIO);
    ck_assert_msg(strstr(copy.rig.sinks[0].err.text, "the target's disk is bad") &&
                      strstr(copy.rig.sinks[0].err.text, sentence),
                  "%s", copy.rig.sinks[0].err.text);
    ck_assert_uint_eq(target_stats(&copy).repaired, 0);
    copy_end(&copy);
}

START_TEST(spoilt_twice_is_a_bad_disk)
{
    check_bad_disk(2, 0, "other octets were read back");
    check_bad_disk(0, EIO, "a read that fails");
}
END_TEST

START_TEST(without_reading_back_nobody_notices)
{
    begin(CHUNK);
    copy.verify = false;
    copy.to.spoil = 1;
    copy.to.spoil_at = 60000;
    copy_connect(&copy, 1, false);
    bulk(&copy);
    ck_assert(!same_content(&copy));
    copy_end(&copy);
}
END_TEST

/* Offers are compared with the medium. */
START_TEST(offers_are_read_from_the_medium)
{
    begin(MIB(1));
    copy.reuse = true;
    memcpy(copy.to.data, copy.from.data, MIB(1));
    copy.to.data[CHUNK] ^= 1;
    copy_connect(&copy, 1, false);
    bulk(&copy);
    ck_assert_uint_eq(copy.refusals, 1);
    ck_assert_uint_eq(copy.to.reads, 0);
    ck_assert_uint_gt(pass(&copy), 0);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

/* A file and a second way to it, past the page cache: blocks that are no multiples of a page, at its odd end. */
START_TEST(files_are_read_back)
{
    const uint64_t size = MIB(1) + 512;
    struct mirror_target_config config = {.reused = false};
    struct mirror_target_stats stats;
    struct mirror_target *target;
    struct wire_need need = {0};
    static uint8_t payload[4096];
    uint64_t random = 1;

    temp_dir_make();
    temp_write("disk", "", 0);
    ck_assert_int_eq(truncate(temp_path("disk"), (off_t)size), 0);
    ck_assert_int_eq(blockdev_open_file(&config.dev, temp_path("disk"), BLOCKDEV_WRITE, &err), 0);
    ck_assert_int_eq(blockdev_open_file(&config.back, temp_path("disk"), BLOCKDEV_DIRECT, &err), 0);
    ck_assert_int_eq(mirror_target_create(&target, &config, &err), 0);
    fill_random(payload, sizeof(payload), &random);
    for (uint64_t at = 0; at < size; at = at == 0 ? 70144 : at == 70144 ? MIB(1) : size) {
        struct wire_disk_block b = {.offset = at, .length = at == MIB(1) ? 512 : 1536};
        struct wire_disk_head head = {.block_count = 1, .raw_length = b.length, .encoded_length = b.length};
        uint8_t block[WIRE_DISK_BLOCK_SIZE];

        b.checksum = XXH3_64bits(payload, b.length);
        wire_put_disk_block(block, &b);
        ck_assert_msg(mirror_target_write(target, &head, block, payload, &need, &err) == 0, "%s", err.text);
    }
    mirror_target_stats(target, &stats);
    ck_assert_uint_eq(stats.verified, 1536 + 1536 + 512);
    ck_assert_uint_eq(stats.repaired, 0);
    mirror_target_destroy(target);
    temp_dir_remove();
}
END_TEST

UNIT_MAIN("mirror-verify", good_disk_is_read_back_once, nothing_is_read_back_unasked, spoilt_block_is_repaired,
          spoilt_zeroes_are_repaired, spoilt_twice_is_a_bad_disk, without_reading_back_nobody_notices,
          offers_are_read_from_the_medium, files_are_read_back)
