/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The invariants of the source's half, one step of a worker at a time (hazards 1 and 2 of a mirror). */
#include "mirror/mirror-source.h"

#include "fake-stream.h"
#include "mem-disk.h"

#define CHUNK ((uint64_t)WIRE_DISK_BLOCK_MAX)

static struct mem_disk disk;
static struct tracker *tracker;
static struct mirror_source *source;
static unsigned int passes_done;
static struct err err;
static struct fake_work one, two;

static void pass_done(void *data)
{
    (void)data;
    passes_done++;
}

static bool reuse;

static void source_make(uint64_t size)
{
    uint64_t random = 1;
    struct mirror_source_config config = {.dev = &disk.base, .reuse = reuse, .pass_done = pass_done};

    mem_disk_make(&disk, size);
    fill_random(disk.data, size, &random);
    ck_assert_int_eq(tracker_open_mem(&tracker, size, &err), 0);
    config.tracker = tracker;
    ck_assert_int_eq(mirror_source_create(&source, &config, &err), 0);
}

static void source_remove(void)
{
    mirror_source_destroy(source);
    mem_disk_remove(&disk);
}

static void begin_bulk(void)
{
    ck_assert_int_eq(mirror_source_begin_bulk(source, &err), 0);
}

static uint64_t begin_pass(void)
{
    uint64_t blocks;

    ck_assert_int_eq(mirror_source_begin_pass(source, false, &blocks, &err), 0);
    return blocks;
}

/* Sends all that is left of the pass; returns the records. */
static unsigned int send_all(void)
{
    unsigned int n = 0;
    int r;

    while ((r = fake_take(&one, &err)) == 0) {
        fake_done(&one, 0);
        n++;
    }
    ck_assert_int_eq(r, -EAGAIN);
    return n;
}

static struct wire_disk_head head_of(const struct fake_work *w)
{
    struct wire_disk_head head;
    const uint8_t *payload;

    ck_assert_msg(
        wire_check_disk_data(w->body, w->length, &disk.base.size, 1, &head, &payload, &err) == 0, "%s", err.text);
    return head;
}

static struct wire_disk_block block_of(const struct fake_work *w, uint32_t i)
{
    struct wire_disk_block b;

    wire_get_disk_block(w->body + WIRE_DISK_HEAD_SIZE + i * WIRE_DISK_BLOCK_SIZE, &b);
    return b;
}

START_TEST(work_wakes_the_stream)
{
    source_make(CHUNK);
    ck_assert_int_eq(fake_take(&one, &err), -EAGAIN);
    begin_bulk();
    ck_assert_uint_eq(fake.kicks, 1);
    ck_assert_uint_eq(send_all(), 1);
    ck_assert_uint_eq(begin_pass(), 0);
    ck_assert_uint_eq(fake.kicks, 1);
    source_remove();
}
END_TEST

START_TEST(pass_is_done_with_its_last_acknowledgement)
{
    source_make(8 * CHUNK);
    begin_bulk();
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_int_eq(fake_take(&two, &err), 0);
    ck_assert_int_eq(fake_take(&two, &err), -EAGAIN);
    ck_assert(!mirror_source_idle(source));
    fake_done(&one, 0);
    ck_assert(!mirror_source_idle(source));
    ck_assert_uint_eq(passes_done, 0);
    fake_done(&two, 0);
    ck_assert(mirror_source_idle(source));
    ck_assert_uint_eq(passes_done, 1);
    ck_assert_int_eq(fake_take(&one, &err), -EAGAIN);
    ck_assert_uint_eq(passes_done, 1);
    source_remove();
}
END_TEST

START_TEST(bulk_of_zeroes_is_done_once)
{
    source_make(8 * CHUNK);
    memset(disk.data, 0, 8 * CHUNK);
    begin_bulk();
    ck_assert_uint_eq(send_all(), 0);
    ck_assert_int_eq(fake_take(&one, &err), -EAGAIN);
    ck_assert_uint_eq(passes_done, 1);
    source_remove();
}
END_TEST

START_TEST(failed_record_is_taken_again)
{
    struct wire_disk_block before, after;

    source_make(8 * CHUNK);
    begin_bulk();
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_int_eq(fake_take(&two, &err), 0);
    before = block_of(&one, 0);
    fake_done(&two, 0);
    fake_done(&one, -ECONNRESET);
    ck_assert_uint_eq(passes_done, 0);
    ck_assert(!mirror_source_idle(source));
    ck_assert_int_eq(fake_take(&one, &err), 0);
    after = block_of(&one, 0);
    ck_assert_uint_eq(after.offset, before.offset);
    ck_assert_uint_eq(head_of(&one).raw_length, 4 * CHUNK);
    fake_done(&one, 0);
    ck_assert_uint_eq(passes_done, 1);
    source_remove();
}
END_TEST

/* Of a record that reaches far, what lies between its blocks is none of it. */
START_TEST(failed_record_marks_its_own_blocks)
{
    source_make(80 * CHUNK);
    begin_bulk();
    (void)send_all();
    tracker_mem_mark(tracker, 4096, 8192);
    tracker_mem_mark(tracker, 70 * CHUNK, 4096);
    ck_assert_uint_eq(begin_pass(), 3);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_uint_eq(head_of(&one).block_count, 2);
    fake_done(&one, -ECONNRESET);
    ck_assert_uint_eq(send_all(), 1);
    ck_assert_uint_eq(head_of(&one).block_count, 2);
    ck_assert_uint_eq(head_of(&one).raw_length, 3 * 4096);
    source_remove();
}
END_TEST

/* The zeroes of a failed record were left out once and for all. */
START_TEST(failed_record_counts_its_zeroes_once)
{
    struct mirror_source_stats stats;

    source_make(4 * CHUNK);
    memset(disk.data + CHUNK, 0, 8192);
    begin_bulk();
    ck_assert_int_eq(fake_take(&one, &err), 0);
    fake_done(&one, -ECONNRESET);
    (void)send_all();
    mirror_source_stats(source, &stats);
    ck_assert_uint_eq(stats.zeroes, 8192);
    ck_assert_uint_eq(stats.sent, 4 * CHUNK - 8192);
    ck_assert_uint_eq(stats.pass_done, 4 * CHUNK);
    ck_assert_uint_eq(passes_done, 1);
    source_remove();
}
END_TEST

START_TEST(chain_holds_what_was_acknowledged)
{
    uint64_t before;

    source_make(4 * CHUNK);
    before = mirror_source_digest(source);
    begin_bulk();
    ck_assert_int_eq(fake_take(&one, &err), 0);
    fake_done(&one, -ECANCELED);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    fake_done(&one, 0);
    ck_assert_uint_ne(mirror_source_digest(source), before);
    before = mirror_source_digest(source);
    tracker_mem_mark(tracker, 0, 4096);
    (void)begin_pass();
    ck_assert_int_eq(fake_take(&one, &err), 0);
    fake_done(&one, 0);
    ck_assert_uint_ne(mirror_source_digest(source), before);
    source_remove();
}
END_TEST

START_TEST(answers_that_make_no_sense)
{
    reuse = true;
    source_make(3 * CHUNK + 512);
    begin_bulk();
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert(one.work.asks);
    ck_assert_uint_eq(head_of(&one).block_count, 4);
    ck_assert_uint_eq(head_of(&one).raw_length, 0);
    ck_assert_int_eq(fake_need(&one, 4, &err), -EPROTO);
    ck_assert_int_eq(fake_need(&one, 255, &err), -EPROTO);
    ck_assert_int_eq(fake_need(&one, 3, &err), 0);
    ck_assert_int_eq(fake_need(&one, 2, &err), -EPROTO);
    fake_done(&one, 0);
    ck_assert_uint_eq(mirror_source_dirty(source), 512);
    ck_assert_uint_eq(begin_pass(), 1);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert(!one.work.asks);
    ck_assert_uint_eq(block_of(&one, 0).offset, 3 * CHUNK);
    ck_assert_uint_eq(block_of(&one, 0).length, 512);
    fake_done(&one, 0);
    reuse = false;
    source_remove();
}
END_TEST

/* A disk without a tracker has a second pass when something was refused. */
START_TEST(refused_of_a_disk_that_does_not_change)
{
    struct mirror_source_config config = {.dev = &disk.base, .reuse = true, .pass_done = pass_done};

    mem_disk_make(&disk, 2 * CHUNK);
    ck_assert_int_eq(mirror_source_create(&source, &config, &err), 0);
    begin_bulk();
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_int_eq(fake_need(&one, 1, &err), 0);
    fake_done(&one, 0);
    ck_assert_uint_eq(begin_pass(), 16);
    ck_assert_uint_eq(send_all(), 1);
    ck_assert_uint_eq(block_of(&one, 0).kind, WIRE_BLOCK_ZERO);
    ck_assert_uint_eq(begin_pass(), 0);
    source_remove();
}
END_TEST

START_TEST(offers_are_bounded)
{
    reuse = true;
    source_make(200 * CHUNK);
    memset(disk.data + 40 * CHUNK, 0, 160 * CHUNK);
    disk.tells_holes = true;
    begin_bulk();
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_uint_eq(head_of(&one).block_count, 16); /* 1 MiB is read */
    fake_done(&one, 0);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    fake_done(&one, 0);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_uint_eq(head_of(&one).block_count, 64); /* 8 that are read, then holes */
    fake_done(&one, 0);
    (void)send_all();
    ck_assert_uint_eq(disk.octets_read, 40 * CHUNK);
    reuse = false;
    source_remove();
}
END_TEST

START_TEST(failed_read_is_taken_again)
{
    source_make(4 * CHUNK);
    begin_bulk();
    disk.fail_read = EIO;
    ck_assert_int_eq(fake_take(&one, &err), -EIO);
    ck_assert(!mirror_source_idle(source));
    ck_assert_uint_eq(passes_done, 0);
    disk.fail_read = 0;
    ck_assert_uint_eq(send_all(), 1);
    ck_assert_uint_eq(head_of(&one).raw_length, 4 * CHUNK);
    source_remove();
}
END_TEST

START_TEST(failed_extent_fails_the_pass)
{
    source_make(CHUNK);
    disk.fail_extent = EIO;
    begin_bulk();
    ck_assert_int_eq(fake_take(&one, &err), -EIO);
    ck_assert(!mirror_source_idle(source));
    source_remove();
}
END_TEST

/* ---- clear, then read ---- */

/* A write completes just before the content is read: its mark must survive the pass. */
static void write_under_the_read(struct mem_disk *d, uint64_t offset, size_t len, void *data)
{
    (void)offset, (void)len, (void)data;
    d->on_read = NULL;
    ck_assert_uint_eq(mirror_source_dirty(source), 0); /* the mark of this pass was taken before */
    mem_disk_write(d, 4096, "new", 3);
    tracker_mem_mark(tracker, 4096, 3);
}

START_TEST(mark_is_taken_before_the_read)
{
    source_make(CHUNK);
    begin_bulk();
    (void)send_all();
    tracker_mem_mark(tracker, 4096, 4096);
    ck_assert_uint_eq(begin_pass(), 1);
    disk.on_read = write_under_the_read;
    ck_assert_uint_eq(send_all(), 1);
    ck_assert_ptr_null(disk.on_read);
    ck_assert_uint_eq(mirror_source_dirty(source), 4096);
    ck_assert_uint_eq(begin_pass(), 1);
    ck_assert_uint_eq(send_all(), 1);
    ck_assert_uint_eq(block_of(&one, 0).offset, 4096);
    source_remove();
}
END_TEST

START_TEST(bulk_takes_the_marks_before_it)
{
    source_make(CHUNK);
    tracker_mem_mark(tracker, 0, CHUNK);
    begin_bulk();
    ck_assert_uint_eq(mirror_source_dirty(source), 0);
    (void)send_all();
    ck_assert_uint_eq(begin_pass(), 0);
    source_remove();
}
END_TEST

START_TEST(mark_behind_the_cursor_waits_for_the_next_pass)
{
    source_make(8 * CHUNK);
    begin_bulk();
    ck_assert_int_eq(fake_take(&one, &err), 0);
    tracker_mem_mark(tracker, 0, 512);
    fake_done(&one, 0);
    ck_assert_uint_eq(send_all(), 1);
    ck_assert_uint_eq(passes_done, 1);
    ck_assert_uint_eq(begin_pass(), 1);
    ck_assert_uint_eq(send_all(), 1);
    source_remove();
}
END_TEST

/* ---- what a record holds ---- */

START_TEST(one_record_has_all_of_a_chunk)
{
    source_make(4 * CHUNK);
    begin_bulk();
    (void)send_all();
    for (uint64_t at = 0; at < 2 * CHUNK; at += 8192) /* every other block of two chunks */
        tracker_mem_mark(tracker, at, 4096);
    ck_assert_uint_eq(begin_pass(), 16);
    ck_assert_uint_eq(send_all(), 1);
    ck_assert_uint_eq(head_of(&one).block_count, 16);
    for (uint32_t i = 0; i < 16; i++) {
        ck_assert_uint_eq(block_of(&one, i).offset, i * UINT64_C(8192));
        ck_assert_uint_eq(block_of(&one, i).length, 4096);
    }
    source_remove();
}
END_TEST

START_TEST(sparse_records_are_bounded)
{
    source_make(80 * CHUNK);
    begin_bulk();
    (void)send_all();
    for (uint64_t at = 0; at < 80 * CHUNK; at += CHUNK)
        tracker_mem_mark(tracker, at + 8192, 512);
    ck_assert_uint_eq(begin_pass(), 80);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_uint_eq(head_of(&one).block_count, 32);
    fake_done(&one, 0);
    ck_assert_uint_eq(send_all(), 2);
    source_remove();
}
END_TEST

START_TEST(densest_record_fits)
{
    source_make(40 * CHUNK);
    begin_bulk();
    (void)send_all();
    for (uint64_t at = 0; at < 40 * CHUNK; at += 8192)
        tracker_mem_mark(tracker, at, 4096);
    ck_assert_uint_eq(begin_pass(), 40 * 8);
    while (fake_take(&one, &err) == 0) {
        ck_assert_uint_le(head_of(&one).raw_length, WIRE_PAYLOAD_MAX);
        fake_done(&one, 0);
    }
    ck_assert_uint_eq(passes_done, 2);
    source_remove();
}
END_TEST

START_TEST(bulk_record_goes_past_holes)
{
    source_make(6 * CHUNK);
    memset(disk.data + CHUNK, 0, 2 * CHUNK);
    disk.tells_holes = true;
    begin_bulk();
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_uint_eq(head_of(&one).raw_length, 4 * CHUNK);
    ck_assert_uint_eq(block_of(&one, 1).offset, 3 * CHUNK);
    fake_done(&one, 0);
    ck_assert_uint_eq(send_all(), 0);
    source_remove();
}
END_TEST

/* A block here and there in a large hole: neither a record each, nor a chunk read for each. */
START_TEST(blocks_within_holes_share_a_record)
{
    source_make(40 * CHUNK);
    for (uint64_t at = 0; at < 40 * CHUNK; at += 4096) {
        if (at % CHUNK != 8192)
            memset(disk.data + at, 0, 4096);
    }
    disk.tells_holes = true;
    begin_bulk();
    ck_assert_uint_eq(send_all(), 2);
    ck_assert_uint_eq(disk.octets_read, 40 * 4096);
    source_remove();
}
END_TEST

/* Extents of sectors: what lies between two blocks is counted once. */
START_TEST(holes_that_end_within_a_block_count_once)
{
    struct mirror_source_stats stats;

    source_make(4 * CHUNK);
    memset(disk.data + CHUNK + 512, 0, 2 * CHUNK);
    disk.tells_holes = true;
    begin_bulk();
    (void)send_all();
    mirror_source_stats(source, &stats);
    ck_assert_uint_eq(stats.pass_done, stats.pass_total);
    ck_assert_uint_eq(stats.sent + stats.zeroes, 4 * CHUNK);
    source_remove();
}
END_TEST

START_TEST(disk_that_does_not_change_has_one_pass)
{
    struct mirror_source_config config = {.dev = &disk.base, .pass_done = pass_done};

    mem_disk_make(&disk, CHUNK);
    ck_assert_int_eq(mirror_source_create(&source, &config, &err), 0);
    begin_bulk();
    (void)send_all();
    ck_assert_uint_eq(begin_pass(), 0);
    ck_assert_uint_eq(mirror_source_dirty(source), 0);
    ck_assert_int_eq(mirror_source_drain(source, 0, &err), 0);
    ck_assert_int_eq(mirror_source_audit(source, &err), 0);
    source_remove();
}
END_TEST

/* What is written over and over is not sent again before the last pass, counts as dirty until then, and is sent in it. */
START_TEST(hot_blocks_wait_for_the_last_pass)
{
    uint64_t blocks;

    source_make(8 * CHUNK);
    mirror_source_put_off(source, 2 * 4096);
    begin_bulk();
    (void)send_all();
    for (unsigned int i = 0; i < 5; i++) {
        tracker_mem_mark(tracker, 3 * CHUNK, 4096);
        ck_assert_uint_eq(begin_pass(), i < 2 ? 1 : 0);
        ck_assert_uint_eq(send_all(), i < 2 ? 1 : 0);
        ck_assert(mirror_source_idle(source));
        ck_assert_uint_eq(mirror_source_dirty(source), i < 2 ? 0 : 4096);
    }
    ck_assert_int_eq(mirror_source_begin_pass(source, true, &blocks, &err), 0);
    ck_assert_uint_eq(blocks, 1);
    ck_assert_uint_eq(send_all(), 1);
    ck_assert_uint_eq(block_of(&one, 0).offset, 3 * CHUNK);
    ck_assert_uint_eq(mirror_source_dirty(source), 0);
    source_remove();
}
END_TEST

UNIT_MAIN("mirror-steps", work_wakes_the_stream, pass_is_done_with_its_last_acknowledgement,
          bulk_of_zeroes_is_done_once, failed_record_is_taken_again, failed_record_marks_its_own_blocks,
          failed_record_counts_its_zeroes_once, chain_holds_what_was_acknowledged, answers_that_make_no_sense,
          refused_of_a_disk_that_does_not_change, offers_are_bounded, failed_read_is_taken_again,
          failed_extent_fails_the_pass, mark_is_taken_before_the_read, bulk_takes_the_marks_before_it,
          mark_behind_the_cursor_waits_for_the_next_pass, one_record_has_all_of_a_chunk, sparse_records_are_bounded,
          densest_record_fits, bulk_record_goes_past_holes, blocks_within_holes_share_a_record, holes_that_end_within_a_block_count_once,
          disk_that_does_not_change_has_one_pass, hot_blocks_wait_for_the_last_pass)
