/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Old copies: what the target holds already is not sent, what differs is, and both ends know which. */
#include "copy.h"

static struct copy copy;
static struct err err;

static void begin(uint64_t size, bool tells_holes)
{
    copy_make(&copy, size);
    copy.reuse = true;
    copy.from.tells_holes = tells_holes;
    copy.to.tells_holes = tells_holes;
    fill_with_holes(&copy);
    memcpy(copy.to.data, copy.from.data, size);
}

static void offer(unsigned int connections)
{
    copy_connect(&copy, connections, false);
    bulk(&copy);
}

START_TEST(equal_copy_is_kept)
{
    static const uint64_t sizes[] = {512, 4096 + 512, CHUNK, CHUNK + 512, 3 * CHUNK - 512, MIB(9) + 512};

    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        begin(sizes[i], i % 2);
        offer(2);
        check_equal(&copy);
        ck_assert_uint_eq(copy.offers, DIV_ROUND_UP(sizes[i], CHUNK));
        ck_assert_uint_eq(copy.refusals, 0);
        ck_assert_uint_eq(copy.to.writes + copy.to.zeroes, 0);
        ck_assert_uint_eq(source_stats(&copy).kept, sizes[i]);
        ck_assert_uint_eq(source_stats(&copy).pass_done, sizes[i]);
        ck_assert_uint_eq(source_stats(&copy).sent + source_stats(&copy).zeroes, 0);
        ck_assert_uint_eq(target_stats(&copy).kept, sizes[i]);
        ck_assert_uint_eq(pass(&copy), 0);
        copy_end(&copy);
    }
}
END_TEST

/* 2 in 100 chunks differ: less than 4 % of the octets cross. */
START_TEST(difference_alone_is_sent)
{
    const uint64_t size = MIB(32);
    uint64_t sent;

    begin(size, false);
    for (uint64_t chunk = 0; chunk < size / CHUNK; chunk += 50)
        copy.to.data[chunk * CHUNK + 777] ^= 1;
    offer(2);
    ck_assert(!same_content(&copy));
    ck_assert_uint_eq(copy.refusals, DIV_ROUND_UP(size / CHUNK, 50));
    ck_assert_uint_eq(mirror_source_dirty(copy.source), copy.refusals * CHUNK);
    ck_assert_uint_eq(pass(&copy), copy.refusals * CHUNK / 4096);
    check_equal(&copy);
    sent = stream_bytes_sent(copy.rig.stream);
    ck_assert_uint_lt(sent, size / 25);
    ck_assert_uint_eq(source_stats(&copy).kept + source_stats(&copy).sent + source_stats(&copy).zeroes, size);
    copy_end(&copy);
}
END_TEST

/* Zeroes at the source, something else at the target, told as holes or not: bulk would have left them out. */
static void check_old_octets_go(bool tells_holes)
{
    uint64_t random = 5, size = MIB(2) + 512;

    begin(size, tells_holes);
    fill_random(copy.to.data, size, &random);
    offer(2);
    ck_assert_uint_eq(copy.refusals, DIV_ROUND_UP(size, CHUNK));
    if (tells_holes)
        ck_assert_uint_lt(copy.from.octets_read, size);
    ck_assert_uint_gt(pass(&copy), 0);
    check_equal(&copy);
    ck_assert_uint_gt(copy.zero_blocks, 0);
    copy_end(&copy);
}

START_TEST(old_octets_go_where_zeroes_are)
{
    check_old_octets_go(false);
    check_old_octets_go(true);
}
END_TEST

/* Neither end reads what both know to be zeroes. */
START_TEST(holes_are_not_read)
{
    copy_make(&copy, MIB(64));
    copy.reuse = copy.from.tells_holes = copy.to.tells_holes = true;
    memset(copy.from.data + MIB(3), 7, CHUNK);
    memset(copy.to.data + MIB(3), 7, CHUNK);
    offer(1);
    check_equal(&copy);
    ck_assert_uint_eq(copy.from.octets_read, CHUNK);
    ck_assert_uint_eq(copy.to.octets_read, CHUNK);
    ck_assert_uint_eq(source_stats(&copy).kept, MIB(64));
    copy_end(&copy);
}
END_TEST

/* A chain begins anew with its offer: what was folded before the refusal, at either end, is no part of it. */
START_TEST(written_after_it_was_kept_or_refused)
{
    uint64_t random = 4;
    static uint8_t content[CHUNK];

    begin(4 * CHUNK, false);
    copy.to.data[0] ^= 1;
    offer(1);
    fill_random(content, CHUNK, &random);
    write_marked(&copy, 0, content, 8192);
    write_marked(&copy, 2 * CHUNK + 4096, content, 8192);
    ck_assert_uint_eq(pass(&copy), 16 + 2);
    check_equal(&copy);
    write_marked(&copy, 0, content + 512, 512);
    ck_assert_uint_eq(pass(&copy), 1);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

/* Cut in the middle of offers, before and after their answers: unheard ones are offered again. */
START_TEST(offers_that_are_cut)
{
    uint64_t size = MIB(24);
    unsigned int cuts = 0;

    begin(size, false);
    for (uint64_t chunk = 0; chunk < size / CHUNK; chunk += 7)
        copy.to.data[chunk * CHUNK + 1] ^= 1;
    copy.cut_at = 2;
    copy_connect(&copy, 3, false);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &err), 0);
    while (!rig_await(&copy.rig, &copy.passes_done, 1)) {
        copy_settle(&copy);
        cuts++;
        copy.cut_at = cuts < 10 ? copy.records + 1 + cuts % 4 : 0;
        copy_reconnect(&copy, 3);
    }
    ck_assert_uint_ge(cuts, 5);
    ck_assert_uint_eq(mirror_source_dirty(copy.source), DIV_ROUND_UP(size / CHUNK, 7) * CHUNK);
    ck_assert_uint_gt(pass(&copy), 0);
    check_equal(&copy);
    ck_assert_uint_eq(source_stats(&copy).kept + source_stats(&copy).sent + source_stats(&copy).zeroes, size);
    copy_end(&copy);
}
END_TEST

/* Accepted, unheard, then changed at the source: offered again it is refused, and the chains are equal all the same. */
START_TEST(changed_between_two_offers)
{
    begin(2 * CHUNK, false);
    copy.cut_at = 1;
    copy_connect(&copy, 1, false);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &err), 0);
    rig_await_failure(&copy.rig);
    copy_settle(&copy);
    ck_assert(!mirror_source_idle(copy.source));
    ck_assert_uint_eq(target_stats(&copy).kept, 2 * CHUNK);
    write_marked(&copy, 100, "changed", 7);
    copy_reconnect(&copy, 1);
    ck_assert(rig_await(&copy.rig, &copy.passes_done, 1));
    ck_assert_uint_eq(copy.refusals, 1);
    ck_assert_uint_eq(pass(&copy), 16);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

START_TEST(target_that_cannot_be_read_ends_it)
{
    begin(CHUNK, false);
    copy.to.fail_read = EIO;
    copy_connect(&copy, 1, false);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &err), 0);
    rig_await_failure(&copy.rig);
    copy_end(&copy);
    ck_assert_int_eq(copy.rig.sinks[0].result, -EIO);
}
END_TEST

UNIT_MAIN("mirror-offer", equal_copy_is_kept, difference_alone_is_sent, old_octets_go_where_zeroes_are, holes_are_not_read,
          written_after_it_was_kept_or_refused, offers_that_are_cut, changed_between_two_offers,
          target_that_cannot_be_read_ends_it)
