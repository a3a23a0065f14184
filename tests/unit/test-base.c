/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/bitmap.h"
#include "base/err.h"
#include "unit.h"

#include <string.h>

START_TEST(err_keeps_context)
{
    struct err err;

    ck_assert_int_eq(err_set(&err, -EPROTO, "count %d", 3), -EPROTO);
    ck_assert_int_eq(err_prefix(&err, err.code, "disk %s", "xvda"), -EPROTO);
    ck_assert_str_eq(err.text, "disk xvda: count 3");
    ck_assert_int_eq(err_set(NULL, -EIO, "nobody listens"), -EIO);
}
END_TEST

START_TEST(err_never_overflows)
{
    char longest[2 * ERR_TEXT_MAX];
    struct err err;

    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    ck_assert_int_eq(err_set(&err, -EIO, "%s", longest), -EIO);
    ck_assert_uint_eq(strlen(err.text), ERR_TEXT_MAX - 1);
    ck_assert_int_eq(err_prefix(&err, -EIO, "%s", longest), -EIO);
    ck_assert_uint_eq(strlen(err.text), ERR_TEXT_MAX - 1);
}
END_TEST

/* Texts of peers end up on terminals, and in JSON. */
START_TEST(err_is_printable)
{
    static const struct {
        const char *said, *shown;
    } table[] = {
        {"plain", "plain"},
        {"two\nlines\tand a tab", "two lines and a tab"},
        {"\x1b[2J\x1b]0;title\x07", "?[2J?]0;title?"},
        {"\x7f", "?"},
        {"caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80", "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80"},
        {"\xc2\x9b" "31m", "??31m"},          /* CSI in one character */
        {"\xff\xfe", "??"},
        {"\xc0\xaf", "??"},                   /* overlong */
        {"\xe0\x80\xaf", "???"},
        {"\xed\xa0\x80", "???"},              /* half a pair */
        {"\xf5\x80\x80\x80", "????"},
        {"cut \xe2\x82", "cut ??"},
    };
    char half[ERR_TEXT_MAX + 2];
    struct err err;

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        ck_assert_int_eq(err_set(&err, -EPROTO, "%s", table[i].said), -EPROTO);
        ck_assert_str_eq(err.text, table[i].shown);
        (void)err_set(&err, -EPROTO, "x");
        (void)err_prefix(&err, -EPROTO, "%s", table[i].said);
        ck_assert_int_eq(strncmp(err.text, table[i].shown, strlen(table[i].shown)), 0);
    }
    /* One that is cut in the middle of a character. */
    memset(half, 'a', sizeof(half));
    memcpy(half + ERR_TEXT_MAX - 2, "\xc3\xa9", 3);
    (void)err_set(&err, -EPROTO, "%s", half);
    ck_assert_int_eq(err.text[ERR_TEXT_MAX - 2], '?');
}
END_TEST

START_TEST(bitmap_runs_cross_words)
{
    struct bitmap b;
    uint64_t first;

    ck_assert_int_eq(bitmap_init(&b, 1000), 0);
    bitmap_set_run(&b, 60, 100);
    ck_assert_uint_eq(bitmap_count(&b), 100);
    ck_assert_uint_eq(bitmap_next_run(&b, 0, 1000, &first), 100);
    ck_assert_uint_eq(first, 60);
    ck_assert_uint_eq(bitmap_next_run(&b, 100, 8, &first), 8);
    ck_assert_uint_eq(first, 100);
    bitmap_clear_run(&b, 64, 64);
    ck_assert_uint_eq(bitmap_next_run(&b, 64, 1000, &first), 32);
    ck_assert_uint_eq(first, 128);
    ck_assert_uint_eq(bitmap_next_run(&b, 160, 1000, &first), 0);
    bitmap_finish(&b);
}
END_TEST

START_TEST(bitmap_last_bits)
{
    struct bitmap b;
    uint64_t first;

    ck_assert_int_eq(bitmap_init(&b, 65), 0);
    bitmap_set_all(&b);
    ck_assert_uint_eq(bitmap_count(&b), 65);
    ck_assert_uint_eq(bitmap_next_run(&b, 64, 1000, &first), 1);
    ck_assert_uint_eq(first, 64);
    bitmap_finish(&b);
}
END_TEST

START_TEST(bitmap_take_moves_marks)
{
    uint64_t shared[2] = {0x11, UINT64_C(1) << 63};
    struct bitmap b;

    ck_assert_int_eq(bitmap_init(&b, 128), 0);
    bitmap_set(&b, 0);
    ck_assert_uint_eq(bitmap_take(&b, shared), 3);
    ck_assert_uint_eq(shared[0] | shared[1], 0);
    ck_assert(bitmap_test(&b, 0) && bitmap_test(&b, 4) && bitmap_test(&b, 127));
    ck_assert_uint_eq(bitmap_count(&b), 3);
    bitmap_finish(&b);
}
END_TEST

START_TEST(bitmap_subtract_leaves_the_rest)
{
    struct bitmap a, b;

    ck_assert_int_eq(bitmap_init(&a, 1000), 0);
    ck_assert_int_eq(bitmap_init(&b, 1000), 0);
    bitmap_set_run(&a, 10, 100);
    bitmap_set_run(&b, 50, 900);
    ck_assert_uint_eq(bitmap_subtract(&a, &b), 40);
    ck_assert_uint_eq(bitmap_count(&a), 40);
    ck_assert(bitmap_test(&a, 49) && !bitmap_test(&a, 50));
    ck_assert_uint_eq(bitmap_count(&b), 900);
    bitmap_finish(&a);
    bitmap_finish(&b);
}
END_TEST

UNIT_MAIN("base", err_keeps_context, err_never_overflows, err_is_printable, bitmap_runs_cross_words, bitmap_last_bits, bitmap_subtract_leaves_the_rest,
          bitmap_take_moves_marks)
