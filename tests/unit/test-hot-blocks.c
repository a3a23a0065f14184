/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/hot-blocks.h"

#include "unit.h"

#define BITS 100000

static struct hot_blocks hot;
static struct bitmap todo;

static void setup(void)
{
    hot.count = hot.put_off = 0;
    ck_assert_int_eq(bitmap_init(&todo, BITS), 0);
}

static void teardown(void)
{
    bitmap_finish(&todo);
}

/* A pass over what is marked: what it would send is taken out of the bitmap, as the pass does. */
static uint64_t pass(uint64_t most)
{
    uint64_t left = hot_blocks_sift(&hot, &todo, most);

    ck_assert_uint_eq(left, bitmap_count(&todo));
    bitmap_clear_run(&todo, 0, BITS);
    return left;
}

START_TEST(third_time_is_put_off)
{
    setup();
    for (unsigned int i = 0; i < 6; i++) {
        bitmap_set(&todo, 7);        /* in every pass */
        bitmap_set(&todo, 1000 + i); /* each once */
        ck_assert_uint_eq(pass(10), i < 2 ? 2 : 1);
        ck_assert_uint_eq(hot.put_off, i >= 2);
    }
    hot_blocks_give_back(&hot, &todo);
    ck_assert(bitmap_test(&todo, 7));
    ck_assert_uint_eq(bitmap_count(&todo), 1);
    ck_assert_uint_eq(hot.put_off, 0);
    teardown();
}
END_TEST

START_TEST(with_a_pause_it_is_sent)
{
    setup();
    for (unsigned int i = 0; i < 9; i++) {
        if (i % 3 != 2)
            bitmap_set(&todo, 7);
        ck_assert_uint_eq(pass(10), i % 3 != 2);
    }
    ck_assert_uint_eq(hot.put_off, 0);
    teardown();
}
END_TEST

/* A block that is put off stays dirty, also when nobody writes to it any more. */
START_TEST(put_off_is_not_forgotten)
{
    setup();
    for (unsigned int i = 0; i < 3; i++) {
        bitmap_set(&todo, 7);
        (void)pass(10);
    }
    for (unsigned int i = 0; i < 5; i++)
        ck_assert_uint_eq(pass(10), 0);
    ck_assert_uint_eq(hot.put_off, 1);
    hot_blocks_give_back(&hot, &todo);
    ck_assert(bitmap_test(&todo, 7));
    teardown();
}
END_TEST

START_TEST(limit_holds)
{
    setup();
    for (unsigned int i = 0; i < 5; i++) {
        bitmap_set_run(&todo, 64, 100);
        ck_assert_uint_eq(pass(30), i < 2 ? 100 : 70);
    }
    ck_assert_uint_eq(hot.put_off, 30);
    /* It has shrunk: all is sent. */
    bitmap_set(&todo, 5);
    ck_assert_uint_eq(pass(29), 31);
    ck_assert_uint_eq(hot.put_off, 0);
    teardown();
}
END_TEST

START_TEST(nothing_without_leave)
{
    setup();
    for (unsigned int i = 0; i < 5; i++) {
        bitmap_set(&todo, BITS - 1);
        ck_assert_uint_eq(pass(0), 1);
    }
    teardown();
}
END_TEST

/* A pass over much is sent whole, with what was put off before, and is not remembered. */
START_TEST(large_passes)
{
    setup();
    for (unsigned int i = 0; i < 3; i++) {
        bitmap_set_run(&todo, 50000, HOT_BLOCKS_MAX);
        ck_assert_uint_eq(pass(BITS), i < 2 ? HOT_BLOCKS_MAX : 0);
    }
    bitmap_set_run(&todo, 0, 10);
    ck_assert_uint_eq(pass(BITS), 10 + HOT_BLOCKS_MAX);
    ck_assert_uint_eq(hot.put_off, 0);
    for (unsigned int i = 0; i < 5; i++) {
        bitmap_set_run(&todo, 100, HOT_BLOCKS_MAX + 1);
        ck_assert_uint_eq(pass(BITS), HOT_BLOCKS_MAX + 1);
    }
    teardown();
}
END_TEST

UNIT_MAIN("hot-blocks", third_time_is_put_off, with_a_pause_it_is_sent, put_off_is_not_forgotten, limit_holds, nothing_without_leave,
          large_passes)
