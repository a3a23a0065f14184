/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How the source cuts a stream into a script and epochs, one step of a worker at a time. */
#include "base/bytes.h"
#include "base/checksum.h"
#include "memsync/page-source.h"

#include "fake-stream.h"

#include <pthread.h>
#include <stdio.h>

#define MAX_PFN 4095u
#define SLOTS   16u /* batches that the source keeps */

static struct page_source *source;
static char script_text[4096]; /* what the control connection got: "B0 E0/1 R8 ..." */
static int script_fails;
static unsigned int rounds_done;
static uint64_t kept_pages;
static struct err err;
static struct fake_work one, two;
static uint8_t pages[1024 * WIRE_PAGE_SIZE];

static int script(void *data, enum wire_type type, const void *body, uint32_t length, struct err *e)
{
    size_t used = strlen(script_text);

    (void)data;
    if (script_fails)
        return err_set(e, script_fails, "the script's end is gone");
    if (type == WIRE_MEMORY_RECORD)
        (void)snprintf(script_text + used, sizeof(script_text) - used, "R%u ", length);
    else if (type == WIRE_EPOCH_BEGIN)
        (void)snprintf(script_text + used, sizeof(script_text) - used, "B%llu ", (unsigned long long)get_be64(body));
    else
        (void)snprintf(script_text + used, sizeof(script_text) - used, "E%llu/%llu ",
                       (unsigned long long)get_be64(body),
                       (unsigned long long)get_be64((const uint8_t *)body + 8));
    ck_assert_uint_eq(length, type == WIRE_EPOCH_BEGIN ? 8 : type == WIRE_EPOCH_END ? 16 : length);
    return 0;
}

static void round_done(void *data)
{
    (void)data;
    rounds_done++;
}

static void source_make(bool zstd)
{
    struct page_source_config config = {
        .max_pfn = MAX_PFN, .kept_pages = kept_pages, .script = script, .round_done = round_done};

    fake.compress = zstd ? COMPRESS_ALWAYS : COMPRESS_NONE;
    ck_assert_int_eq(page_source_create(&source, &config, &err), 0);
}

/* `count` pages from `first`, all of them data. */
static int give(uint64_t first, uint32_t count)
{
    uint64_t entries[1024];

    for (uint32_t i = 0; i < count; i++)
        entries[i] = first + i;
    return page_source_pages(source, entries, count, pages, &err);
}

static int octets(size_t len)
{
    static uint8_t zeroes[3 << 20];

    return page_source_octets(source, zeroes, len, &err);
}

static struct wire_pages_head head_of(const struct fake_work *w)
{
    struct wire_pages_head head;
    const uint8_t *payload;

    ck_assert_msg(wire_check_pages(w->body, w->length, MAX_PFN, &head, &payload, &err) == 0, "%s", err.text);
    return head;
}

static uint64_t entry_of(const struct fake_work *w, uint32_t i)
{
    return get_be64(w->body + WIRE_PAGES_HEAD_SIZE + 8 * i);
}

START_TEST(octets_alone_open_no_epoch)
{
    source_make(false);
    ck_assert_int_eq(octets(8), 0);
    ck_assert_int_eq(page_source_finish(source, &err), 0);
    ck_assert_str_eq(script_text, "R8 ");
    page_source_destroy(source);
}
END_TEST

START_TEST(octets_end_the_epoch)
{
    source_make(false);
    ck_assert_int_eq(give(0, 10), 0);
    ck_assert_int_eq(give(10, 10), 0);
    ck_assert_int_eq(octets(8), 0);
    ck_assert_int_eq(give(20, 10), 0);
    ck_assert_int_eq(page_source_finish(source, &err), 0);
    ck_assert_str_eq(script_text, "B0 E0/2 R8 B1 E1/1 ");
    page_source_destroy(source);
}
END_TEST

START_TEST(page_that_comes_again_ends_the_epoch)
{
    source_make(false);
    ck_assert_int_eq(give(0, 10), 0);
    ck_assert_int_eq(give(9, 10), 0);
    ck_assert_int_eq(page_source_finish(source, &err), 0);
    ck_assert_str_eq(script_text, "B0 E0/1 B1 E1/1 ");
    page_source_destroy(source);
}
END_TEST

START_TEST(page_twice_in_one_record_is_in_two_epochs)
{
    const uint64_t entries[] = {5, 6, 5, 7};

    source_make(false);
    ck_assert_int_eq(page_source_pages(source, entries, 4, pages, &err), 0);
    ck_assert_int_eq(page_source_finish(source, &err), 0);
    ck_assert_str_eq(script_text, "B0 E0/1 B1 E1/1 ");
    page_source_destroy(source);
}
END_TEST

START_TEST(long_octets_are_cut)
{
    source_make(false);
    ck_assert_int_eq(octets(2 * WIRE_CONTROL_MAX + 5), 0);
    ck_assert_str_eq(script_text, "R1048576 R1048576 R5 ");
    page_source_destroy(source);
}
END_TEST

START_TEST(long_record_is_cut)
{
    source_make(false);
    ck_assert_int_eq(give(0, 600), 0);
    ck_assert_int_eq(page_source_finish(source, &err), 0);
    ck_assert_str_eq(script_text, "B0 E0/3 ");
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_uint_eq(head_of(&one).page_count, WIRE_PAGES_MAX);
    ck_assert_uint_eq(entry_of(&one, 255) & WIRE_PFN_MASK, 255);
    page_source_destroy(source);
}
END_TEST

START_TEST(foreign_page_frame_is_refused)
{
    source_make(false);
    ck_assert_int_eq(give(MAX_PFN, 2), -EPROTO);
    ck_assert_ptr_nonnull(strstr(err.text, "0x1000"));
    ck_assert_str_eq(script_text, "");
    ck_assert_int_eq(fake_take(&one, &err), -EAGAIN);
    page_source_destroy(source);
}
END_TEST

START_TEST(failing_script_is_told)
{
    source_make(false);
    script_fails = -EPIPE;
    ck_assert_int_eq(octets(8), -EPIPE);
    ck_assert_int_eq(give(0, 1), -EPIPE);
    page_source_destroy(source);
}
END_TEST

START_TEST(zero_pages_have_no_data)
{
    struct page_source_stats stats;

    source_make(false);
    memset(pages + WIRE_PAGE_SIZE, 0x33, WIRE_PAGE_SIZE);
    ck_assert_int_eq(give(0, 3), 0);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_uint_eq(head_of(&one).raw_length, WIRE_PAGE_SIZE);
    ck_assert_uint_eq(entry_of(&one, 0), WIRE_PFN_ZERO | 0);
    ck_assert_uint_eq(entry_of(&one, 1), 1);
    ck_assert_uint_eq(entry_of(&one, 2), WIRE_PFN_ZERO | 2);
    ck_assert_mem_eq(one.body + wire_pages_overhead(3), pages + WIRE_PAGE_SIZE, WIRE_PAGE_SIZE);
    fake_done(&one, 0);
    page_source_stats(source, &stats);
    ck_assert_uint_eq(stats.sent_pages, 1);
    ck_assert_uint_eq(stats.zero_pages, 2);
    page_source_destroy(source);
}
END_TEST

START_TEST(zstd_where_it_saves_an_eighth)
{
    source_make(true);
    memset(pages, 0x44, 8 * WIRE_PAGE_SIZE);
    ck_assert_int_eq(give(0, 8), 0);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_uint_eq(head_of(&one).encoding, WIRE_ZSTD);
    for (size_t i = 0; i < sizeof(pages) / 4; i++)
        put_be32(pages + 4 * i, (uint32_t)(i * i * 2654435761u) ^ (uint32_t)(i * 40503u) >> 3);
    ck_assert_int_eq(give(8, 8), 0);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_uint_le(head_of(&one).encoded_length, head_of(&one).raw_length);
    page_source_destroy(source);
}
END_TEST

/* ---- kept pages ---- */

/* Sends page 7 once more, `epoch` changed octets of it; its flags. */
static uint64_t send_again(uint8_t epoch)
{
    pages[epoch] ^= 0x5a;
    ck_assert_int_eq(give(7, 1), 0);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_uint_eq(head_of(&one).epoch, epoch);
    fake_done(&one, 0);
    return entry_of(&one, 0) & ~WIRE_PFN_MASK;
}

static void fill_page(void)
{
    for (size_t i = 0; i < WIRE_PAGE_SIZE; i++)
        pages[i] = (uint8_t)(i * i >> 7);
}

/* All of RAM goes once: only what comes again is worth keeping, and the third time it can be a delta. */
START_TEST(kept_when_it_comes_again)
{
    struct page_source_stats stats;
    uint32_t length;

    kept_pages = 16;
    source_make(true);
    fill_page();
    ck_assert_uint_eq(send_again(0), 0);
    ck_assert_uint_eq(send_again(1), WIRE_PFN_KEPT);
    length = one.length;
    ck_assert_uint_eq(send_again(2), WIRE_PFN_KEPT | WIRE_PFN_DELTA);
    ck_assert_uint_eq(head_of(&one).encoding, WIRE_ZSTD);
    ck_assert_uint_lt(one.length, length / 2);
    ck_assert_uint_eq(head_of(&one).checksum, checksum(pages, WIRE_PAGE_SIZE)); /* of the page, not of the delta */
    page_source_stats(source, &stats);
    ck_assert_uint_eq(stats.sent_pages, 3);
    ck_assert_uint_eq(stats.delta_pages, 1);
    page_source_destroy(source);
}
END_TEST

START_TEST(nothing_is_kept_without_compression)
{
    kept_pages = 16;
    source_make(false);
    fill_page();
    for (uint8_t epoch = 0; epoch < 4; epoch++)
        ck_assert_uint_eq(send_again(epoch), 0);
    page_source_destroy(source);
}
END_TEST

START_TEST(nothing_is_kept_without_a_grant)
{
    kept_pages = 0;
    source_make(true);
    fill_page();
    for (uint8_t epoch = 0; epoch < 4; epoch++)
        ck_assert_uint_eq(send_again(epoch), 0);
    page_source_destroy(source);
}
END_TEST

START_TEST(zero_pages_are_not_kept)
{
    kept_pages = 16;
    source_make(true);
    fill_page();
    ck_assert_uint_eq(send_again(0), 0);
    memset(pages, 0, WIRE_PAGE_SIZE);
    ck_assert_int_eq(give(7, 1), 0);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_uint_eq(entry_of(&one, 0), WIRE_PFN_ZERO | 7);
    fill_page();
    ck_assert_uint_eq(send_again(2), WIRE_PFN_KEPT);
    page_source_destroy(source);
}
END_TEST

START_TEST(idle_when_all_is_acknowledged)
{
    source_make(false);
    ck_assert(page_source_idle(source));
    ck_assert_int_eq(give(0, 1), 0);
    ck_assert(!page_source_idle(source));
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert(!page_source_idle(source));
    fake_done(&one, 0);
    ck_assert(page_source_idle(source));
    page_source_destroy(source);
}
END_TEST

/* ---- rounds ---- */

START_TEST(round_ends_with_its_last_acknowledgement)
{
    struct bitmap round;

    source_make(false);
    ck_assert_int_eq(bitmap_init(&round, MAX_PFN + 1), 0);
    bitmap_set_run(&round, 100, 300);
    ck_assert_int_eq(page_source_begin_round(source, &round, pages, &err), 0);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    ck_assert_int_eq(fake_take(&two, &err), 0);
    ck_assert_uint_eq(entry_of(&two, 0) & WIRE_PFN_MASK, 356);
    ck_assert_int_eq(fake_take(&two, &err), -EAGAIN);
    ck_assert_uint_eq(bitmap_count(&round), 0);
    fake_done(&one, 0);
    ck_assert_uint_eq(rounds_done, 0);
    ck_assert_str_eq(script_text, "B0 ");
    fake_done(&two, 0);
    ck_assert_uint_eq(rounds_done, 1);
    ck_assert_str_eq(script_text, "B0 E0/2 ");
    bitmap_finish(&round);
    page_source_destroy(source);
}
END_TEST

START_TEST(failed_round_never_ends)
{
    struct bitmap round;

    source_make(false);
    ck_assert_int_eq(bitmap_init(&round, MAX_PFN + 1), 0);
    bitmap_set(&round, 1);
    ck_assert_int_eq(page_source_begin_round(source, &round, pages, &err), 0);
    ck_assert_int_eq(fake_take(&one, &err), 0);
    fake_done(&one, -ECONNRESET);
    ck_assert_uint_eq(rounds_done, 0);
    ck_assert_str_eq(script_text, "B0 ");
    bitmap_finish(&round);
    page_source_destroy(source);
}
END_TEST

/* ---- cancel ---- */

static void *feed_for_ever(void *data)
{
    int *result = data;

    for (uint64_t pfn = 0; *result == 0; pfn++)
        *result = give(pfn % MAX_PFN, 1);
    return NULL;
}

/* Nobody takes: the feeder fills every slot and waits there, and cancel wakes it. */
START_TEST(cancel_wakes_the_feeder)
{
    struct page_source_stats stats;
    pthread_t thread;
    int result = 0;

    source_make(false);
    ck_assert_int_eq(pthread_create(&thread, NULL, feed_for_ever, &result), 0);
    do {
        page_source_stats(source, &stats);
    } while (stats.pages < SLOTS);
    ck_assert_uint_eq(stats.pages, SLOTS);
    page_source_cancel(source);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_int_eq(result, -ECANCELED);
    page_source_destroy(source);
}
END_TEST

UNIT_MAIN("memsync-source", octets_alone_open_no_epoch, octets_end_the_epoch, page_that_comes_again_ends_the_epoch,
          page_twice_in_one_record_is_in_two_epochs, long_octets_are_cut, long_record_is_cut,
          foreign_page_frame_is_refused, failing_script_is_told, zero_pages_have_no_data,
          zstd_where_it_saves_an_eighth, kept_when_it_comes_again, nothing_is_kept_without_compression,
          nothing_is_kept_without_a_grant, zero_pages_are_not_kept, idle_when_all_is_acknowledged, round_ends_with_its_last_acknowledgement,
          failed_round_never_ends, cancel_wakes_the_feeder)
