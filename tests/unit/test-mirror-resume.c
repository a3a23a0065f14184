/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections that end in the middle: nothing that was taken is sent again, and chains stay equal. */
#include "copy.h"

#define CONNECTIONS 3u

static struct copy copy;
static struct err err;

static void fill(struct copy *c)
{
    uint64_t random = 17;

    fill_random(c->from.data, c->from.base.size, &random);
}

static void cut_after(struct copy *c, unsigned int records)
{
    pthread_mutex_lock(&c->lock);
    c->cut_at = c->records + records;
    pthread_mutex_unlock(&c->lock);
}

/* Goes on after every cut until the pass is done; the next cut comes `step` records later. Returns the cuts. */
static unsigned int ride_out(struct copy *c, unsigned int passes, unsigned int step, unsigned int most)
{
    unsigned int cuts = 0;

    while (!rig_await(&c->rig, &c->passes_done, passes)) {
        ck_assert_msg(conn_error_is_drop(c->rig.failure.code), "%s", c->rig.failure.text);
        copy_settle(c);
        cuts++;
        if (cuts < most)
            cut_after(c, step);
        copy_reconnect(c, CONNECTIONS);
    }
    return cuts;
}

START_TEST(what_was_taken_is_not_sent_again)
{
    unsigned int cuts;

    copy_make(&copy, MIB(64) + 512);
    fill(&copy);
    copy_connect(&copy, CONNECTIONS, false);
    cut_after(&copy, 1);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &err), 0);
    cuts = ride_out(&copy, 1, 3, 20);
    ck_assert_uint_ge(cuts, 8);
    check_equal(&copy);
    ck_assert_uint_eq(copy.octets, MIB(64) + 512);
    ck_assert_uint_eq(source_stats(&copy).sent, MIB(64) + 512);
    ck_assert_uint_eq(source_stats(&copy).pass_done, MIB(64) + 512);
    copy_end(&copy);
}
END_TEST

/* The last acknowledgements of a pass are lost: settling ends it. */
START_TEST(settling_may_end_the_pass)
{
    copy_make(&copy, CHUNK);
    fill(&copy);
    copy_connect(&copy, 1, false);
    cut_after(&copy, 1);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &err), 0);
    rig_await_failure(&copy.rig);
    ck_assert_uint_eq(copy.passes_done, 0);
    copy_settle(&copy);
    ck_assert_uint_eq(copy.passes_done, 1);
    ck_assert(mirror_source_idle(copy.source));
    check_equal(&copy);
    copy_reconnect(&copy, 1);
    ck_assert_uint_eq(pass(&copy), 0);
    bitmap_clear_run(&copy.chunks, 0, copy.chunks.bits);
    write_marked(&copy, 4096, "new", 3);
    ck_assert_uint_eq(pass(&copy), 1);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

/* The guest writes between and during the cuts, zeroes too; sparse passes are cut as well. */
START_TEST(cut_while_it_is_written)
{
    uint64_t random = 99, size = MIB(8) + 512;
    static uint8_t content[16384];
    unsigned int passes = 1;

    copy_make(&copy, size);
    fill_with_holes(&copy);
    copy_connect(&copy, CONNECTIONS, true);
    cut_after(&copy, 2);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &err), 0);
    (void)ride_out(&copy, passes, 3, 8);
    for (unsigned int round = 0; round < 12; round++) {
        uint64_t blocks;

        for (unsigned int i = 0; i < 100; i++) {
            uint64_t length = 512 * (1 + next_random(&random) % 32), at = 512 * (next_random(&random) % ((size - length) / 512));

            if (next_random(&random) % 3)
                fill_random(content, length, &random);
            else
                memset(content, 0, length);
            write_marked(&copy, at, content, length);
        }
        bitmap_clear_run(&copy.chunks, 0, copy.chunks.bits);
        cut_after(&copy, 1 + round % 3);
        ck_assert_int_eq(mirror_source_begin_pass(copy.source, false, &blocks, &err), 0);
        ck_assert_uint_gt(blocks, 0);
        (void)ride_out(&copy, ++passes, 1 + round % 2, 3);
    }
    copy.cut_at = 0;
    ck_assert_uint_eq(pass(&copy), 0);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

/* Destroyed unsettled, what was taken is unknown: sent again the content is right, but chains differ, which the stop would tell.
 * That is what settling is for. */
START_TEST(unsettled_chains_differ)
{
    copy_make(&copy, MIB(1));
    fill(&copy);
    copy_connect(&copy, 1, false);
    cut_after(&copy, 1);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &err), 0);
    rig_await_failure(&copy.rig);
    rig_close(&copy.rig);
    copy.rig.count = 0;
    copy_reconnect(&copy, 1);
    ck_assert(rig_await(&copy.rig, &copy.passes_done, 1));
    ck_assert(same_content(&copy));
    ck_assert_uint_ne(mirror_source_digest(copy.source), mirror_target_digest(copy.target));
    copy_end(&copy);
}
END_TEST

/* ---- a receiver that was started anew ---- */

START_TEST(forgotten_copy_is_offered)
{
    uint64_t sent;

    copy_make(&copy, MIB(8) + 512);
    fill_with_holes(&copy);
    copy_connect(&copy, CONNECTIONS, false);
    cut_after(&copy, 10);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &err), 0);
    rig_await_failure(&copy.rig);
    copy_settle(&copy);
    copy_lose_target(&copy);
    memset(copy.to.data + 5 * CHUNK, 0xee, 100); /* the disk cache of a host that lost its power */
    copy_reconnect(&copy, CONNECTIONS);
    ck_assert(rig_await(&copy.rig, &copy.passes_done, 1));
    ck_assert_uint_eq(copy.offers, DIV_ROUND_UP(MIB(8) + 512, CHUNK));
    ck_assert_uint_gt(copy.refusals, 0);
    ck_assert_uint_gt(target_stats(&copy).kept, 0);
    ck_assert_uint_eq(target_stats(&copy).kept, source_stats(&copy).kept);
    sent = mirror_source_dirty(copy.source);
    ck_assert_uint_eq(sent, MIB(8) + 512 - source_stats(&copy).kept);
    bitmap_clear_run(&copy.chunks, 0, copy.chunks.bits);
    ck_assert_uint_gt(pass(&copy), 0);
    ck_assert_uint_eq(mirror_source_dirty(copy.source), 0);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

/* When it was idle; with marks and refusals of before. */
START_TEST(forgotten_between_passes)
{
    copy_make(&copy, MIB(2));
    fill(&copy);
    copy_connect(&copy, 1, false);
    bulk(&copy);
    write_marked(&copy, 70000, "newer", 5);
    copy_settle(&copy);
    copy_lose_target(&copy);
    copy_reconnect(&copy, 1);
    ck_assert(rig_await(&copy.rig, &copy.passes_done, 2));
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &err), 0); /* was begun by the attaching */
    ck_assert_uint_eq(copy.refusals, 1);
    ck_assert_uint_eq(mirror_source_dirty(copy.source), CHUNK);
    ck_assert_uint_eq(pass(&copy), CHUNK / 4096);
    check_equal(&copy);
    copy_settle(&copy);
    copy_lose_target(&copy); /* and again, all equal */
    copy_reconnect(&copy, 1);
    ck_assert(rig_await(&copy.rig, &copy.passes_done, 4));
    ck_assert_uint_eq(pass(&copy), 0);
    check_equal(&copy);
    ck_assert_uint_eq(copy.octets, MIB(2) + CHUNK);
    copy_end(&copy);
}
END_TEST

START_TEST(forgotten_before_it_began)
{
    copy_make(&copy, MIB(1));
    fill(&copy);
    memcpy(copy.to.data, copy.from.data, MIB(1) - CHUNK);
    copy_connect(&copy, 1, false);
    copy_settle(&copy);
    copy_lose_target(&copy);
    copy_reconnect(&copy, 1);
    ck_assert(mirror_source_idle(copy.source));
    bulk(&copy);
    ck_assert_uint_eq(copy.refusals, 1);
    ck_assert_uint_eq(pass(&copy), CHUNK / 4096);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

UNIT_MAIN("mirror-resume", what_was_taken_is_not_sent_again, settling_may_end_the_pass, cut_while_it_is_written,
          unsettled_chains_differ, forgotten_copy_is_offered, forgotten_between_passes, forgotten_before_it_began)
