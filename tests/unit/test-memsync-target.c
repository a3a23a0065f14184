/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The target's half fed with records made by hand: the order of the script, who waits, what is refused. */
#include "base/bytes.h"
#include "base/fdio.h"
#include "memsync/page-target.h"
#include "transport/compress.h"

#include "unit.h"

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#define MAX_PFN     63u
#define PAGE_RECORD (8 + 8 + 8 + WIRE_PAGE_SIZE) /* octets of a libxc PAGE_DATA record of one page */

static struct page_target *target;
static uint8_t ram[(MAX_PFN + 1) * WIRE_PAGE_SIZE];
static uint64_t granted; /* pages to keep */
static int pipe_fd; /* to read what a restorer would */
static struct err err;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned int script_ends;
static int script_code;

static void script_done(void *data, const struct err *e)
{
    (void)data;
    pthread_mutex_lock(&lock);
    script_ends++;
    script_code = e->code;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

/* The error that the script ended with. */
static int script_result(void)
{
    pthread_mutex_lock(&lock);
    while (!script_ends)
        pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
    return script_code;
}

static void stream_make(void)
{
    struct page_target_config config = {.max_pfn = MAX_PFN, .kept_pages = granted, .script_done = script_done};
    int fds[2];

    (void)signal(SIGPIPE, SIG_IGN);
    ck_assert_int_eq(pipe(fds), 0);
    pipe_fd = fds[0];
    config.fd = fds[1];
    ck_assert_int_eq(page_target_create(&target, &config, &err), 0);
}

static void mapped_make(void)
{
    struct page_target_config config = {
        .fd = -1, .ram = ram, .max_pfn = MAX_PFN, .kept_pages = granted, .script_done = script_done};

    pipe_fd = -1;
    ck_assert_int_eq(page_target_create(&target, &config, &err), 0);
}

/* Told once, whatever happened. */
static void target_remove(void)
{
    page_target_destroy(target);
    ck_assert_uint_eq(script_ends, 1);
    if (pipe_fd >= 0)
        (void)close(pipe_fd);
}

static int script(enum wire_type type, const void *body, uint32_t length)
{
    struct record record = {.type = type, .length = length, .body = (uint8_t *)(uintptr_t)body};

    return page_target_script(target, &record, &err);
}

static int begin(uint64_t epoch)
{
    uint8_t body[8];

    put_be64(body, epoch);
    return script(WIRE_EPOCH_BEGIN, body, sizeof(body));
}

static int end(uint64_t epoch, uint64_t records)
{
    uint8_t body[16];

    put_be64(body, epoch);
    put_be64(body + 8, records);
    return script(WIRE_EPOCH_END, body, sizeof(body));
}

/* MEMORY_PAGES of one page full of `fill`. */
struct made {
    uint8_t body[WIRE_PAGES_HEAD_SIZE + 8 + WIRE_PAGE_SIZE];
    struct record record;
};

static struct record *make_page(struct made *m, uint64_t epoch, uint64_t entry, uint8_t fill)
{
    uint8_t *payload = m->body + wire_pages_overhead(1);
    uint32_t length = wire_pfn_has_data(entry) ? WIRE_PAGE_SIZE : 0;
    struct wire_pages_head head = {.epoch = epoch, .page_count = 1, .raw_length = length, .encoded_length = length};

    memset(payload, fill, WIRE_PAGE_SIZE);
    head.checksum = XXH3_64bits(payload, length);
    wire_put_pages_head(m->body, &head);
    put_be64(m->body + WIRE_PAGES_HEAD_SIZE, entry);
    m->record = (struct record){
        .type = WIRE_MEMORY_PAGES, .length = wire_pages_overhead(1) + length, .body = m->body};
    return &m->record;
}

static int take(uint64_t epoch, uint64_t entry, uint8_t fill)
{
    struct made m;

    return page_target_take(target, make_page(&m, epoch, entry, fill), &err);
}

/* The same with the sum of a page full of `whole`, which the payload is a delta to. */
static int take_delta(uint64_t epoch, uint64_t entry, uint8_t fill, uint8_t whole)
{
    uint8_t page[WIRE_PAGE_SIZE];
    struct made m;

    (void)make_page(&m, epoch, entry | WIRE_PFN_KEPT | WIRE_PFN_DELTA, fill);
    memset(page, whole, sizeof(page));
    put_be64(m.body + 24, XXH3_64bits(page, sizeof(page)));
    return page_target_take(target, &m.record, &err);
}

static void expect_octets(const char *text)
{
    char got[16];

    ck_assert_int_eq(fd_read_full(pipe_fd, got, strlen(text)), 0);
    ck_assert_mem_eq(got, text, strlen(text));
}

static void expect_page(uint64_t pfn, uint8_t fill)
{
    uint8_t got[PAGE_RECORD];

    ck_assert_int_eq(fd_read_full(pipe_fd, got, sizeof(got)), 0);
    ck_assert_uint_eq(get_le32(got), 1);
    ck_assert_uint_eq(get_le64(got + 16), pfn);
    ck_assert_uint_eq(got[24], fill);
    ck_assert_uint_eq(got[PAGE_RECORD - 1], fill);
}

/* A data thread with one record. */
struct taker {
    uint64_t epoch, entry;
    uint8_t fill;
    struct err err;
    pthread_t thread;
};

static void *taker_main(void *data)
{
    struct taker *t = data;
    struct made m;

    (void)page_target_take(target, make_page(&m, t->epoch, t->entry, t->fill), &t->err);
    return NULL;
}

static void taker_start(struct taker *t, uint64_t epoch, uint64_t entry, uint8_t fill)
{
    *t = (struct taker){.epoch = epoch, .entry = entry, .fill = fill};
    ck_assert_int_eq(pthread_create(&t->thread, NULL, taker_main, t), 0);
}

static int taker_join(struct taker *t)
{
    ck_assert_int_eq(pthread_join(t->thread, NULL), 0);
    return t->err.code;
}

/* ---- order ---- */

START_TEST(script_is_carried_out_in_order)
{
    struct taker early, first;

    stream_make();
    taker_start(&early, 1, 3, 0xbb);
    ck_assert_int_eq(script(WIRE_MEMORY_RECORD, "head", 4), 0);
    ck_assert_int_eq(begin(0), 0);
    ck_assert_int_eq(end(0, 1), 0);
    ck_assert_int_eq(script(WIRE_MEMORY_RECORD, "mid", 3), 0);
    ck_assert_int_eq(begin(1), 0);
    ck_assert_int_eq(end(1, 1), 0);
    ck_assert_int_eq(script(WIRE_MEMORY_RECORD, "tail", 4), 0);
    page_target_end(target);
    taker_start(&first, 0, 3, 0xaa);
    expect_octets("head");
    expect_page(3, 0xaa);
    expect_octets("mid");
    expect_page(3, 0xbb);
    expect_octets("tail");
    ck_assert_int_eq(script_result(), 0);
    ck_assert_int_eq(taker_join(&early), 0);
    ck_assert_int_eq(taker_join(&first), 0);
    target_remove();
}
END_TEST

START_TEST(empty_epochs_and_an_empty_script)
{
    stream_make();
    ck_assert_int_eq(begin(0), 0);
    ck_assert_int_eq(end(0, 0), 0);
    page_target_end(target);
    ck_assert_int_eq(script_result(), 0);
    target_remove();
}
END_TEST

struct violation {
    const char *what;
    unsigned int begun; /* epochs that were begun before it: the last is not ended */
    enum wire_type type;
    uint64_t epoch;
    uint32_t length;
};

START_TEST(script_out_of_order_is_refused)
{
    static const struct violation table[] = {
        {"end of nothing", 0, WIRE_EPOCH_END, 0, 16},       {"begins with 1", 0, WIRE_EPOCH_BEGIN, 1, 8},
        {"begun twice", 1, WIRE_EPOCH_BEGIN, 0, 8},         {"epochs overlap", 1, WIRE_EPOCH_BEGIN, 1, 8},
        {"end of another", 1, WIRE_EPOCH_END, 1, 16},       {"record inside", 1, WIRE_MEMORY_RECORD, 0, 8},
        {"begin too long", 0, WIRE_EPOCH_BEGIN, 0, 16},     {"begin too short", 0, WIRE_EPOCH_BEGIN, 0, 7},
        {"empty begin", 0, WIRE_EPOCH_BEGIN, 0, 0},         {"end too short", 1, WIRE_EPOCH_END, 0, 8},
        {"end too long", 1, WIRE_EPOCH_END, 0, 17},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        uint8_t body[32] = {0};

        script_ends = 0;
        stream_make();
        if (table[i].begun)
            ck_assert_int_eq(begin(0), 0);
        put_be64(body, table[i].epoch);
        ck_assert_msg(script(table[i].type, body, table[i].length) == -EPROTO, "%s", table[i].what);
        ck_assert_ptr_nonnull(strstr(err.text, "memory script"));
        target_remove();
    }
}
END_TEST

START_TEST(pages_of_an_epoch_that_is_over)
{
    stream_make();
    ck_assert_int_eq(begin(0), 0);
    ck_assert_int_eq(end(0, 1), 0);
    ck_assert_int_eq(take(0, 1, 1), 0);
    ck_assert_int_eq(begin(1), 0);
    ck_assert_int_eq(end(1, 1), 0);
    ck_assert_int_eq(take(1, 1, 1), 0);
    ck_assert_int_eq(take(0, 2, 2), -EPROTO);
    ck_assert_ptr_nonnull(strstr(err.text, "epoch 0, which is over"));
    target_remove();
}
END_TEST

START_TEST(more_pages_than_announced)
{
    stream_make();
    ck_assert_int_eq(begin(0), 0);
    ck_assert_int_eq(take(0, 1, 1), 0);
    ck_assert_int_eq(take(0, 2, 2), 0);
    ck_assert_int_eq(end(0, 1), 0);
    ck_assert_int_eq(script_result(), -EPROTO);
    ck_assert_int_eq(take(1, 1, 1), -ECANCELED);
    target_remove();
}
END_TEST

START_TEST(script_that_waits_is_bounded)
{
    static uint8_t record[WIRE_CONTROL_MAX];
    unsigned int n = 0;

    stream_make();
    ck_assert_int_eq(begin(0), 0);
    ck_assert_int_eq(end(0, 1), 0); /* a page that never comes */
    while (n < 200 && script(WIRE_MEMORY_RECORD, record, sizeof(record)) == 0)
        n++;
    ck_assert_uint_lt(n, 160);
    ck_assert_uint_ge(n, 129); /* libxl's longest record fits */
    ck_assert_int_eq(err.code, -EPROTO);
    target_remove();
}
END_TEST

/* ---- what is refused ---- */

START_TEST(damage_is_refused_before_it_is_written)
{
    struct made m;

    mapped_make();
    ck_assert_int_eq(begin(0), 0);
    (void)make_page(&m, 0, 1, 0x55);
    m.body[m.record.length - 1] ^= 1;
    ck_assert_int_eq(page_target_take(target, &m.record, &err), -EBADMSG);
    ck_assert_uint_eq(ram[WIRE_PAGE_SIZE], 0);
    (void)make_page(&m, 0, 1, 0x55);
    m.body[31] ^= 1; /* the checksum itself */
    ck_assert_int_eq(page_target_take(target, &m.record, &err), -EBADMSG);
    target_remove();
}
END_TEST

START_TEST(foreign_page_frame_is_refused)
{
    mapped_make();
    ck_assert_int_eq(begin(0), 0);
    ck_assert_int_eq(take(0, MAX_PFN + 1, 1), -EPROTO);
    ck_assert_int_eq(take(0, MAX_PFN, 1), 0);
    ck_assert_uint_eq(ram[sizeof(ram) - 1], 1);
    target_remove();
}
END_TEST

START_TEST(broken_frame_is_refused)
{
    static uint8_t page[WIRE_PAGE_SIZE];
    struct wire_pages_head head = {
        .page_count = 1, .encoding = WIRE_ZSTD, .raw_length = WIRE_PAGE_SIZE, .checksum = XXH3_64bits(page, 4096)};
    struct made m = {0};
    size_t len;

    mapped_make();
    ck_assert_int_eq(begin(0), 0);
    put_be64(m.body + WIRE_PAGES_HEAD_SIZE, 1);
    ck_assert_int_eq(
        compress_encode(m.body + wire_pages_overhead(1), WIRE_PAGE_SIZE, page, sizeof(page), 1, &len), 0);
    head.encoded_length = (uint32_t)len - 1;
    wire_put_pages_head(m.body, &head);
    m.record = (struct record){.length = wire_pages_overhead(1) + (uint32_t)len - 1, .body = m.body};
    ck_assert_int_eq(page_target_take(target, &m.record, &err), -EPROTO);
    target_remove();
}
END_TEST

START_TEST(embedded_guest_has_no_page_types)
{
    mapped_make();
    ck_assert_int_eq(begin(0), 0);
    ck_assert_int_eq(take(0, UINT64_C(0x9) << WIRE_PFN_TYPE_SHIFT | 1, 1), -EPROTO);
    ck_assert_int_eq(take(0, UINT64_C(0xf) << WIRE_PFN_TYPE_SHIFT | 1, 1), -EPROTO);
    ck_assert_uint_eq(ram[WIRE_PAGE_SIZE], 0);
    target_remove();
}
END_TEST

START_TEST(embedded_guest_has_no_stream)
{
    mapped_make();
    ck_assert_int_eq(script(WIRE_MEMORY_RECORD, "octets", 6), -EPROTO);
    target_remove();
}
END_TEST

START_TEST(zero_page_clears_what_was_there)
{
    mapped_make();
    ck_assert_int_eq(begin(0), 0);
    ck_assert_int_eq(take(0, 2, 0x77), 0);
    ck_assert_int_eq(take(0, 3, 0x77), 0);
    ck_assert_int_eq(end(0, 2), 0);
    ck_assert_int_eq(begin(1), 0);
    ck_assert_int_eq(take(1, WIRE_PFN_ZERO | 2, 0), 0);
    ck_assert_uint_eq(ram[2 * WIRE_PAGE_SIZE], 0);
    ck_assert_uint_eq(ram[3 * WIRE_PAGE_SIZE - 1], 0);
    ck_assert_uint_eq(ram[3 * WIRE_PAGE_SIZE], 0x77);
    target_remove();
}
END_TEST

/* ---- kept pages ---- */

static void next_epoch(uint64_t epoch)
{
    if (epoch)
        ck_assert_int_eq(end(epoch - 1, 1), 0);
    ck_assert_int_eq(begin(epoch), 0);
}

START_TEST(delta_becomes_the_page)
{
    granted = 4;
    mapped_make();
    next_epoch(0);
    ck_assert_int_eq(take(0, WIRE_PFN_KEPT | 5, 0x11), 0);
    ck_assert_uint_eq(ram[5 * WIRE_PAGE_SIZE], 0x11);
    next_epoch(1);
    ck_assert_int_eq(take_delta(1, 5, 0x33, 0x22), 0);
    ck_assert_uint_eq(ram[6 * WIRE_PAGE_SIZE - 1], 0x22);
    next_epoch(2);
    ck_assert_int_eq(take_delta(2, 5, 0x01, 0x23), 0); /* to the last one */
    ck_assert_uint_eq(ram[5 * WIRE_PAGE_SIZE], 0x23);
    target_remove();
}
END_TEST

/* The guest's own stream knows nothing of flags and deltas. */
START_TEST(delta_becomes_the_page_of_a_stream)
{
    const uint64_t typed = UINT64_C(0x9) << WIRE_PFN_TYPE_SHIFT | 5;
    uint8_t got[PAGE_RECORD];

    granted = 4;
    stream_make();
    next_epoch(0);
    ck_assert_int_eq(take(0, WIRE_PFN_KEPT | 5, 0x11), 0);
    expect_page(5, 0x11);
    next_epoch(1);
    ck_assert_int_eq(take_delta(1, typed, 0x33, 0x22), 0);
    ck_assert_int_eq(fd_read_full(pipe_fd, got, sizeof(got)), 0);
    ck_assert_uint_eq(get_le64(got + 16), typed);
    ck_assert_uint_eq(got[24], 0x22);
    target_remove();
}
END_TEST

START_TEST(kept_pages_that_differ_are_found_out)
{
    granted = 4;
    mapped_make();
    next_epoch(0);
    ck_assert_int_eq(take(0, WIRE_PFN_KEPT | 5, 0x11), 0);
    next_epoch(1);
    ck_assert_int_eq(take_delta(1, 5, 0x33, 0x23), -EBADMSG); /* the source has kept one full of 0x10 */
    ck_assert_ptr_nonnull(strstr(err.text, "checksum"));
    ck_assert_uint_eq(ram[5 * WIRE_PAGE_SIZE], 0x11);
    target_remove();
}
END_TEST

START_TEST(keeping_is_granted_or_refused)
{
    granted = 0;
    for (unsigned int stream = 0; stream < 2; stream++) {
        script_ends = 0;
        stream ? stream_make() : mapped_make();
        next_epoch(0);
        ck_assert_int_eq(take(0, WIRE_PFN_KEPT | 5, 0x11), -EPROTO);
        ck_assert_ptr_nonnull(strstr(err.text, "page frame 0x5 is to be kept, but that was not granted"));
        ck_assert_int_eq(take_delta(0, 6, 0x11, 0x11), -EPROTO);
        target_remove();
    }
}
END_TEST

START_TEST(flags_that_fit_nothing_are_refused)
{
    granted = 4;
    mapped_make();
    next_epoch(0);
    ck_assert_int_eq(take_delta(0, 5, 0x33, 0x33), -EPROTO);
    ck_assert_int_eq(take(0, WIRE_PFN_KEPT | 5, 0x11), 0);
    ck_assert_int_eq(take(0, WIRE_PFN_KEPT | 9, 0x11), -EPROTO); /* the same slot */
    next_epoch(1);
    ck_assert_int_eq(take_delta(1, 9, 0x33, 0x22), -EPROTO);
    ck_assert_int_eq(take(1, WIRE_PFN_DELTA | 5, 0x33), -EPROTO);
    ck_assert_int_eq(take(1, WIRE_PFN_KEPT | WIRE_PFN_ZERO | 5, 0), -EPROTO);
    ck_assert_int_eq(take_delta(1, 5, 0x33, 0x22), 0);
    target_remove();
}
END_TEST

/* ---- ends ---- */

START_TEST(cancel_wakes_everybody)
{
    struct taker takers[3];

    stream_make();
    ck_assert_int_eq(begin(0), 0);
    ck_assert_int_eq(end(0, 1), 0);
    for (unsigned int i = 0; i < 3; i++)
        taker_start(&takers[i], 1 + i, 1, 1);
    page_target_cancel(target);
    for (unsigned int i = 0; i < 3; i++)
        ck_assert_int_eq(taker_join(&takers[i]), -ECANCELED);
    ck_assert_int_eq(script_result(), -ECANCELED);
    ck_assert_int_eq(take(0, 1, 1), -ECANCELED);
    target_remove();
}
END_TEST

START_TEST(restorer_that_ends_fails_the_script)
{
    stream_make();
    (void)close(pipe_fd);
    pipe_fd = -1;
    ck_assert_int_eq(script(WIRE_MEMORY_RECORD, "head", 4), 0);
    ck_assert_int_eq(script_result(), -EPIPE);
    ck_assert_int_eq(take(0, 1, 1), -ECANCELED);
    target_remove();
}
END_TEST

UNIT_MAIN("memsync-target", script_is_carried_out_in_order, empty_epochs_and_an_empty_script,
          script_out_of_order_is_refused, pages_of_an_epoch_that_is_over, more_pages_than_announced,
          script_that_waits_is_bounded, damage_is_refused_before_it_is_written, foreign_page_frame_is_refused,
          broken_frame_is_refused, embedded_guest_has_no_page_types, embedded_guest_has_no_stream,
          zero_page_clears_what_was_there, delta_becomes_the_page, delta_becomes_the_page_of_a_stream,
          kept_pages_that_differ_are_found_out, keeping_is_granted_or_refused, flags_that_fit_nothing_are_refused, cancel_wakes_everybody, restorer_that_ends_fails_the_script)
