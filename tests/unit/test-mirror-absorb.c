/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is written while the bulk pass is under way: before it is read, behind it, and where most is written. */
#include "mirror/mirror-source-internal.h"

#include "copy.h"

#define DISK   (16 * REGION) /* much more than the stream's window: the pass stops at a record that is held */
#define REGION MIB(1)        /* the least there is, regions.c */
#define AHEAD  (10 * REGION)

static uint64_t last_read;

static void note_read(struct mem_disk *d, uint64_t offset, size_t len, void *data)
{
    (void)d, (void)len, (void)data;
    last_read = offset;
}

static void absorb(struct copy *c)
{
    c->source->absorb_ns = 0; /* it is time */
    mirror_source_absorb(c->source);
}

/* The bulk pass has read its first part, and is held there. */
static void begin_held(struct copy *c)
{
    struct err err = {0};

    c->hold = true;
    c->from.on_read = note_read;
    copy_connect(c, 1, false);
    ck_assert_int_eq(mirror_source_begin_bulk(c->source, &err), 0);
    ck_assert(rig_await(&c->rig, &c->arrived, 1));
}

static void let_go(struct copy *c)
{
    rig_count(&c->rig, &c->let_go);
    pass_wait(c, 1);
}

static void fill(struct copy *c, uint64_t size)
{
    uint64_t random = 3;

    copy_make(c, size);
    fill_random(c->from.data, size, &random);
}

START_TEST(written_before_it_is_read)
{
    fill(&copy, DISK);
    begin_held(&copy);
    write_marked(&copy, AHEAD, "ahead", 5);
    write_marked(&copy, 8192, "behind", 6);
    absorb(&copy);
    let_go(&copy);
    ck_assert_uint_eq(mirror_source_dirty(copy.source), 4096);
    ck_assert_uint_eq(pass(&copy), 1);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

/* Only marks that were taken before the read can be dropped. */
START_TEST(written_again_behind)
{
    fill(&copy, DISK);
    begin_held(&copy);
    write_marked(&copy, AHEAD, "ahead", 5);
    absorb(&copy);
    let_go(&copy);
    write_marked(&copy, AHEAD, "behind", 6);
    absorb(&copy); /* the pass is over: nothing is dropped any more */
    ck_assert_uint_eq(mirror_source_dirty(copy.source), 4096);
    ck_assert_uint_eq(pass(&copy), 1);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

START_TEST(busy_region_comes_last)
{
    fill(&copy, DISK);
    begin_held(&copy);
    for (unsigned int i = 0; i < 8; i++)
        write_marked(&copy, AHEAD + i * CHUNK, "busy", 4);
    absorb(&copy);
    let_go(&copy);
    ck_assert_uint_ge(last_read, AHEAD);
    ck_assert_uint_lt(last_read, AHEAD + REGION);
    ck_assert_uint_eq(copy.from.octets_read, DISK);
    ck_assert_uint_eq(pass(&copy), 0);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

/* What was marked before the bulk pass says where the guest writes too, unless it is nearly everything. */
static void check_busy_before(uint64_t from, uint64_t last_from)
{
    fill(&copy, DISK);
    copy.from.on_read = note_read;
    copy_connect(&copy, 1, false);
    for (uint64_t at = from; at < AHEAD + REGION; at += CHUNK)
        write_marked(&copy, at, "busy", 4);
    bulk(&copy);
    ck_assert_uint_ge(last_read, last_from);
    ck_assert_uint_lt(last_read, last_from + REGION);
    ck_assert_uint_eq(pass(&copy), 0);
    check_equal(&copy);
    copy_end(&copy);
}

START_TEST(busy_before)
{
    check_busy_before(AHEAD, AHEAD);
    check_busy_before(0, AHEAD);
}
END_TEST

START_TEST(busy_everywhere_before)
{
    fill(&copy, DISK);
    copy_connect(&copy, 1, false);
    for (uint64_t at = 0; at < DISK; at += CHUNK)
        write_marked(&copy, at, "busy", 4);
    bulk(&copy);
    ck_assert(!regions_is_busy(&copy.source->regions, 0));
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

START_TEST(a_single_write_is_not_busy)
{
    fill(&copy, DISK);
    begin_held(&copy);
    write_marked(&copy, AHEAD, "once", 4);
    absorb(&copy);
    let_go(&copy);
    ck_assert_uint_ge(last_read, DISK - REGION);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

/* All that is left is busy, and was a hole. */
START_TEST(holes_fill)
{
    uint64_t random = 9;

    copy_make(&copy, DISK);
    copy.from.tells_holes = true;
    fill_random(copy.from.data, AHEAD, &random);
    begin_held(&copy);
    for (uint64_t at = AHEAD; at < DISK; at += CHUNK)
        write_marked(&copy, at, "filled", 6);
    absorb(&copy);
    let_go(&copy);
    ck_assert_uint_eq(pass(&copy), 0);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

/* Zeroes that a record before them made data at the target must be sent, though a bulk pass leaves zeroes out. */
START_TEST(zeroed_behind)
{
    static const uint8_t zeroes[4096];

    fill(&copy, DISK);
    begin_held(&copy);
    write_marked(&copy, 0, zeroes, sizeof(zeroes));
    absorb(&copy);
    let_go(&copy);
    ck_assert_uint_eq(pass(&copy), 1);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

/* Offers are small: the window has many. */
START_TEST(offers_and_writes)
{
    fill(&copy, 4 * DISK);
    copy.reuse = true;
    memcpy(copy.to.data, copy.from.data, 4 * DISK);
    memcpy(copy.to.data + CHUNK, "other", 5);
    begin_held(&copy);
    write_marked(&copy, 3 * DISK, "ahead", 5);
    write_marked(&copy, 8192, "behind", 6);
    absorb(&copy);
    let_go(&copy);
    /* Two chunks were refused, one block of another was written. */
    ck_assert_uint_eq(pass(&copy), 2 * CHUNK / 4096 + 1);
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

static void *writer_main(void *data)
{
    struct copy *c = data;
    uint64_t random = 11;

    for (unsigned int i = 0; i < 4000; i++) {
        static uint8_t block[4096];
        uint64_t busy = next_random(&random) % 4 ? 2 * REGION : DISK; /* mostly in the first two */
        uint64_t at = next_random(&random) % (busy / 512 - 8) * 512;

        if (next_random(&random) % 4)
            fill_random(block, sizeof(block), &random);
        else
            memset(block, 0, sizeof(block));
        write_marked(c, at, block, sizeof(block));
        rig_count(&c->rig, &c->written);
    }
    writer_is_done(c);
    return NULL;
}

/* Reads, writes and absorbing all at once; every read waits for a write. */
START_TEST(written_all_the_while)
{
    struct err err = {0};

    fill_with_holes((copy_make(&copy, DISK), &copy));
    copy.from.tells_holes = true;
    copy.writes = true;
    copy.from.on_read = write_before_the_read;
    copy.from.hook_data = &copy;
    copy_connect(&copy, 3, false);
    ck_assert_int_eq(pthread_create(&copy.thread, NULL, writer_main, &copy), 0);
    ck_assert_int_eq(mirror_source_begin_bulk(copy.source, &err), 0);
    while (!mirror_source_idle(copy.source))
        absorb(&copy);
    pass_wait(&copy, 1);
    ck_assert_int_eq(pthread_join(copy.thread, NULL), 0);
    while (pass(&copy))
        ;
    check_equal(&copy);
    copy_end(&copy);
}
END_TEST

UNIT_MAIN("mirror-absorb", written_before_it_is_read, written_again_behind, busy_region_comes_last, busy_before, busy_everywhere_before,
          a_single_write_is_not_busy, holes_fill, zeroed_behind, offers_and_writes, written_all_the_while)
