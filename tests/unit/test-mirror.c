/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One disk from source to target over a real stream, while somebody writes to it. */
#include "copy.h"

static void check_bulk_of(uint64_t size, bool tells_holes)
{
    struct mirror_source_stats stats;

    copy_make(&copy, size);
    fill_with_holes(&copy);
    copy.from.tells_holes = tells_holes;
    copy_connect(&copy, 2, false);
    bulk(&copy);
    check_equal(&copy);
    mirror_source_stats(copy.source, &stats);
    ck_assert_uint_eq(stats.size, size);
    ck_assert_uint_eq(stats.passes, 1);
    ck_assert_uint_eq(stats.pass_total, size);
    ck_assert_uint_eq(stats.sent + stats.zeroes, size);
    ck_assert_uint_eq(stats.pass_done, size);
    copy_end(&copy);
}

START_TEST(bulk_copies_disks_of_every_size)
{
    static const uint64_t sizes[] = {512,         4096,         4096 + 512, CHUNK, CHUNK + 512, MIB(1),
                                     MIB(1) + 512, 3 * CHUNK - 512};

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
        check_bulk_of(sizes[i], i % 2);
}
END_TEST

START_TEST(bulk_with_holes_told)
{
    check_bulk_of(MIB(1) + 512, true);
}
END_TEST

/* Runs of zero sectors that begin and end anywhere: a block is a hole only when all of it is one. */
START_TEST(bulk_with_holes_within_blocks)
{
    uint64_t random = 21, at = 0;

    copy_make(&copy, MIB(2) + 512);
    while (at < copy.from.base.size) {
        uint64_t length = MIN((1 + next_random(&random) % 300) * 512, copy.from.base.size - at);

        if (next_random(&random) % 2)
            fill_random(copy.from.data + at, length, &random);
        at += length;
    }
    copy.from.tells_holes = true;
    copy_connect(&copy, 2, false);
    bulk(&copy);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

START_TEST(bulk_neither_reads_holes_nor_writes_zeroes)
{
    uint64_t random = 3;

    copy_make(&copy, 8 * CHUNK);
    fill_random(copy.from.data, CHUNK, &random);
    fill_random(copy.from.data + 6 * CHUNK, CHUNK, &random);
    copy.from.tells_holes = true;
    copy_connect(&copy, 2, false);
    bulk(&copy);
    check_equal(&copy);
    ck_assert_uint_eq(copy.from.octets_read, 2 * CHUNK);
    ck_assert_uint_eq(target_stats(&copy).written, 2 * CHUNK);
    ck_assert_uint_eq(copy.to.zeroes, 0);
    ck_assert_uint_eq(copy.to.writes, 2);
    copy_end(&copy);
}
END_TEST

START_TEST(bulk_leaves_zeroes_out_that_are_no_holes)
{
    uint64_t random = 3;

    copy_make(&copy, 8 * CHUNK);
    fill_random(copy.from.data + 6 * CHUNK, CHUNK, &random);
    copy_connect(&copy, 2, false);
    bulk(&copy);
    check_equal(&copy);
    ck_assert_uint_eq(copy.zero_blocks, 0);
    ck_assert_uint_eq(target_stats(&copy).written, CHUNK);
    ck_assert_uint_eq(copy.to.zeroes, 0);
    copy_end(&copy);
}
END_TEST

START_TEST(empty_disk_is_done_without_a_record)
{
    copy_make(&copy, MIB(4));
    copy_connect(&copy, 1, false);
    bulk(&copy);
    check_equal(&copy);
    ck_assert_uint_eq(copy.records, 0);
    copy_end(&copy);
}
END_TEST

START_TEST(later_passes_send_zeroes)
{
    static const uint8_t zeroes[8192];
    uint64_t random = 5;

    copy_make(&copy, 2 * CHUNK);
    fill_random(copy.from.data, 2 * CHUNK, &random);
    copy_connect(&copy, 2, false);
    bulk(&copy);
    write_marked(&copy, 4096, zeroes, 8192);
    ck_assert_uint_eq(pass(&copy), 2);
    check_equal(&copy);
    ck_assert_uint_eq(copy.zero_blocks, 1);
    ck_assert_uint_eq(copy.to.zeroes, 1);
    copy_end(&copy);
}
END_TEST

START_TEST(last_block_is_half_a_one)
{
    uint64_t random = 5;
    uint8_t sector[512];

    copy_make(&copy, CHUNK + 4096 + 512);
    fill_random(copy.from.data, copy.from.base.size, &random);
    copy_connect(&copy, 1, false);
    bulk(&copy);
    fill_random(sector, sizeof(sector), &random);
    write_marked(&copy, CHUNK + 4096, sector, sizeof(sector));
    ck_assert_uint_eq(mirror_source_dirty(copy.source), 4096);
    ck_assert_uint_eq(pass(&copy), 1);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

START_TEST(clean_disk_begins_no_pass)
{
    struct mirror_source_stats stats;

    copy_make(&copy, CHUNK);
    copy_connect(&copy, 1, false);
    bulk(&copy);
    ck_assert_uint_eq(pass(&copy), 0);
    ck_assert(mirror_source_idle(copy.source));
    mirror_source_stats(copy.source, &stats);
    ck_assert_uint_eq(stats.passes, 1);
    ck_assert_uint_eq(copy.passes_done, 1);
    copy_end(&copy);
}
END_TEST

/* ---- a guest that writes ---- */

static void *writer_main(void *data)
{
    struct copy *c = data;
    static uint8_t buffer[16384];
    uint64_t random = 11;
    bool stop = false;

    while (!stop) {
        uint64_t sectors = c->from.base.size / 512, length = 1 + next_random(&random) % 32;
        uint64_t at = next_random(&random) % (sectors - length);

        if (next_random(&random) % 4)
            fill_random(buffer, length * 512, &random);
        else
            memset(buffer, 0, length * 512);
        write_marked(c, at * 512, buffer, length * 512);
        rig_count(&c->rig, &c->written);
        clock_sleep(100 * NS_PER_US); /* leaves the processor to the copy */
        pthread_mutex_lock(&c->rig.lock);
        stop = c->stop;
        pthread_mutex_unlock(&c->rig.lock);
    }
    return NULL;
}

static void writer_stop(struct copy *c)
{
    writer_is_done(c);
    ck_assert_int_eq(pthread_join(c->thread, NULL), 0);
}

static void check_written_meanwhile(bool zstd)
{
    unsigned int before;

    copy_make(&copy, MIB(4) + 512);
    fill_with_holes(&copy);
    copy.writes = true;
    copy.from.on_read = write_before_the_read;
    copy.from.hook_data = &copy;
    copy_connect(&copy, 3, zstd);
    ck_assert_int_eq(pthread_create(&copy.thread, NULL, writer_main, &copy), 0);
    bulk(&copy);
    before = copy.arrived;
    ck_assert_uint_gt(before, 3);
    for (int i = 0; i < 4; i++)
        ck_assert_uint_gt(pass(&copy), 0); /* each record of a pass waits for writes: the next finds some */
    writer_stop(&copy);
    ck_assert_uint_gt(pass(&copy), 0);
    ck_assert_uint_eq(pass(&copy), 0);
    check_equal(&copy);
    copy_end(&copy);
}

START_TEST(written_while_it_is_copied)
{
    check_written_meanwhile(false);
}
END_TEST

START_TEST(written_while_it_is_copied_with_zstd)
{
    check_written_meanwhile(true);
}
END_TEST

/* The tests above can fail: a write that nobody marked is not copied. */
START_TEST(lost_mark_is_a_difference)
{
    copy_make(&copy, CHUNK);
    copy_connect(&copy, 1, false);
    bulk(&copy);
    mem_disk_write(&copy.from, 4096, "lost", 4);
    ck_assert_uint_eq(pass(&copy), 0);
    ck_assert(!same_content(&copy));
    tracker_mem_mark(copy.tracker, 4096, 4);
    ck_assert_uint_eq(pass(&copy), 1);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

/* ---- compression, damage, failure ---- */

static uint64_t sent_for_text(bool zstd)
{
    uint64_t sent;

    copy_make(&copy, MIB(1));
    for (uint64_t i = 0; i < MIB(1); i += 16)
        memcpy(copy.from.data + i, "all work no play", 16);
    copy_connect(&copy, 2, zstd);
    bulk(&copy);
    check_equal(&copy);
    sent = stream_bytes_sent(copy.rig.stream);
    copy_end(&copy);
    return sent;
}

START_TEST(zstd_saves_octets_where_it_can)
{
    ck_assert_uint_ge(sent_for_text(false), MIB(1));
    ck_assert_uint_lt(sent_for_text(true), MIB(1) / 8);
}
END_TEST

START_TEST(damage_ends_the_stream)
{
    uint64_t random = 9;

    copy_make(&copy, CHUNK);
    fill_random(copy.from.data, CHUNK, &random);
    copy.spoil = true;
    copy_connect(&copy, 1, false);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &copy.rig.failure), 0);
    rig_await_failure(&copy.rig);
    ck_assert_uint_eq(copy.to.writes, 0);
    ck_assert_uint_eq(copy.passes_done, 0);
    copy_end(&copy);
    ck_assert_int_eq(copy.rig.sinks[0].result, -EBADMSG);
}
END_TEST

START_TEST(failed_connection_is_no_end_of_a_pass)
{
    uint64_t random = 9;

    copy_make(&copy, MIB(2));
    fill_random(copy.from.data, MIB(2), &random);
    copy.hold = true;
    copy_connect(&copy, 2, false);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &copy.rig.failure), 0);
    ck_assert(rig_await(&copy.rig, &copy.arrived, 1));
    conn_shutdown(copy.rig.sinks[0].conn);
    rig_await_failure(&copy.rig);
    rig_count(&copy.rig, &copy.let_go);
    rig_close(&copy.rig);
    ck_assert(!mirror_source_idle(copy.source));
    ck_assert_uint_eq(copy.passes_done, 0);
    copy.rig.count = 0;
    copy.rig.stream = NULL;
    copy_end(&copy);
}
END_TEST

START_TEST(read_error_fails_the_stream)
{
    copy_make(&copy, CHUNK);
    copy.from.fail_read = EIO;
    copy_connect(&copy, 1, false);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &copy.rig.failure), 0);
    rig_await_failure(&copy.rig);
    ck_assert_int_eq(copy.rig.failure.code, -EIO);
    ck_assert(!mirror_source_idle(copy.source));
    copy_end(&copy);
}
END_TEST

UNIT_MAIN("mirror", bulk_copies_disks_of_every_size, bulk_with_holes_told, bulk_with_holes_within_blocks,
          bulk_neither_reads_holes_nor_writes_zeroes, bulk_leaves_zeroes_out_that_are_no_holes,
          empty_disk_is_done_without_a_record, later_passes_send_zeroes, last_block_is_half_a_one,
          clean_disk_begins_no_pass, written_while_it_is_copied, written_while_it_is_copied_with_zstd,
          lost_mark_is_a_difference, zstd_saves_octets_where_it_can, damage_ends_the_stream,
          failed_connection_is_no_end_of_a_pass, read_error_fails_the_stream)
