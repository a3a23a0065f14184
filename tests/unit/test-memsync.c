/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A libxc stream from page source over three connections to page target and out of a pipe again: the same guest. */
#include "memsync/libxc-stream.h"
#include "memsync/page-source.h"
#include "memsync/page-target.h"

#include "mem-disk.h" /* random content */
#include "memsync-model.h"
#include "stream-rig.h"

#define CONNS      3u
#define STEPS      150u
#define PAGES_MOST 300u
#define NO_EPOCH   UINT64_MAX

struct transfer {
    struct rig rig;
    struct page_source *source;
    struct page_target *target;
    struct model sent, received;
    pthread_t reader;
    int read_fd;
    int read_result;
    struct err read_err;
    unsigned int script_ends;
    struct err script_err;

    /* Noted by script and sinks, under the rig's lock. */
    bool script_busy;
    uint64_t epochs;          /* begun */
    uint64_t epoch_records;   /* announced, sum */
    unsigned int records;     /* that came */
    uint64_t pfn_epoch[MODEL_PFNS];
    unsigned int pfn_twice;
    uint64_t in_hand[CONNS]; /* the epoch of the record a sink has in hand */
    bool slow;               /* connection 0 holds records until it is overtaken by a later epoch */
    bool fed;                /* nothing more comes */
    unsigned int overtaken;
    bool similar;            /* a page is nearly what it was before */
};

static struct transfer transfer;
static uint64_t random_state = 77;

/* ---- the receiving end ---- */

static int read_pages(void *data, const uint64_t *entries, uint32_t count, const uint8_t *pages, struct err *err)
{
    struct transfer *t = data;

    (void)err;
    model_pages(&t->received, entries, count, pages);
    return 0;
}

static int read_octets(void *data, const uint8_t *octets, size_t len, struct err *err)
{
    struct transfer *t = data;

    (void)err;
    model_octets(&t->received, octets, len);
    return 0;
}

static void *reader_main(void *data)
{
    static const struct libxc_reader_ops ops = {.pages = read_pages, .octets = read_octets};
    struct transfer *t = data;

    t->read_result = libxc_stream_read(t->read_fd, true, &ops, t, &t->read_err);
    return NULL;
}

static void script_done(void *data, const struct err *err)
{
    struct transfer *t = data;

    t->script_err = *err;
    rig_count(&t->rig, &t->script_ends);
}

/* ---- the wire ---- */

static int script(void *data, enum wire_type type, const void *body, uint32_t length, struct err *err)
{
    struct record record = {.type = type, .length = length, .body = (uint8_t *)(uintptr_t)body};
    struct transfer *t = data;
    int r;

    pthread_mutex_lock(&t->rig.lock);
    ck_assert(!t->script_busy);
    t->script_busy = true;
    t->epochs += type == WIRE_EPOCH_BEGIN;
    t->epoch_records += type == WIRE_EPOCH_END ? get_be64(record.body + 8) : 0;
    pthread_mutex_unlock(&t->rig.lock);
    r = page_target_script(t->target, &record, err);
    pthread_mutex_lock(&t->rig.lock);
    t->script_busy = false;
    pthread_mutex_unlock(&t->rig.lock);
    return r;
}

static bool later_epoch_in_hand(const struct transfer *t, uint64_t epoch)
{
    for (unsigned int i = 1; i < CONNS; i++) {
        if (t->in_hand[i] != NO_EPOCH && t->in_hand[i] > epoch)
            return true;
    }
    return false;
}

/* Connection 0 is slow: it waits until a page of a later epoch has arrived on another one, and must wait there. */
static void be_slow(struct transfer *t, uint64_t epoch)
{
    while (!later_epoch_in_hand(t, epoch) && !t->fed && !t->rig.failures)
        pthread_cond_wait(&t->rig.changed, &t->rig.lock);
    t->overtaken += later_epoch_in_hand(t, epoch);
}

static void note_record(struct transfer *t, const struct record *record)
{
    uint64_t epoch = get_be64(record->body);
    uint32_t count = get_be32(record->body + 8);

    t->records++;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t pfn = get_be64(record->body + WIRE_PAGES_HEAD_SIZE + 8 * i) & WIRE_PFN_MASK;

        t->pfn_twice += t->pfn_epoch[pfn] == epoch + 1;
        t->pfn_epoch[pfn] = epoch + 1;
    }
}

static int take(struct rig_sink *sink, const struct record *record, struct wire_need *need, struct err *err)
{
    struct transfer *t = sink->rig->data;
    uint64_t epoch = get_be64(record->body);
    int r;

    pthread_mutex_lock(&t->rig.lock);
    note_record(t, record);
    t->in_hand[sink->number] = epoch;
    pthread_cond_broadcast(&t->rig.changed);
    if (t->slow && sink->number == 0 && t->records % 3 == 0)
        be_slow(t, epoch);
    pthread_mutex_unlock(&t->rig.lock);
    r = page_target_take(t->target, record, err);
    pthread_mutex_lock(&t->rig.lock);
    t->in_hand[sink->number] = NO_EPOCH;
    pthread_mutex_unlock(&t->rig.lock);
    return r;
}

/* With zstd some pages can be kept, fewer than come again. */
static void transfer_make(struct transfer *t, bool zstd)
{
    uint64_t kept = zstd ? 64 : 0;
    struct page_source_config from = {.max_pfn = MODEL_PFNS - 1, .kept_pages = kept, .script = script, .data = t};
    struct page_target_config to = {.max_pfn = MODEL_PFNS - 1, .kept_pages = kept, .script_done = script_done, .data = t};
    struct err err = {0};
    int fds[2];

    memset(t, 0, sizeof(*t));
    for (unsigned int i = 0; i < CONNS; i++)
        t->in_hand[i] = NO_EPOCH;
    ck_assert_int_eq(pipe(fds), 0);
    t->read_fd = fds[0];
    to.fd = fds[1];
    rig_make(&t->rig, zstd ? COMPRESS_ALWAYS : COMPRESS_NONE, take, t);
    from.stream = t->rig.stream;
    ck_assert_int_eq(page_target_create(&t->target, &to, &err), 0);
    ck_assert_int_eq(page_source_create(&t->source, &from, &err), 0);
    ck_assert_int_eq(pthread_create(&t->reader, NULL, reader_main, t), 0);
    rig_connect(&t->rig, CONNS);
}

/* ---- feeding ---- */

static void feed_octets(struct transfer *t, const uint8_t *octets, size_t len)
{
    struct err err = {0};

    model_octets(&t->sent, octets, len);
    ck_assert_msg(page_source_octets(t->source, octets, len, &err) == 0, "%s", err.text);
}

static void feed_headers(struct transfer *t)
{
    uint8_t h[24 + 16] = {0};

    memset(h, 0xff, 8);
    memcpy(h + 8, "XENF", 4);
    put_be32(h + 12, 3);
    put_le32(h + 24, 2);
    put_le16(h + 28, 12);
    feed_octets(t, h, sizeof(h));
}

/* An optional record of any length, padded with zeroes. */
static void feed_record(struct transfer *t)
{
    static uint8_t octets[8 + 70000];
    uint32_t length = (uint32_t)(next_random(&random_state) % 20 ? next_random(&random_state) % 200 : 69999);
    size_t whole = 8 + DIV_ROUND_UP((size_t)length, 8) * 8;

    memset(octets, 0, sizeof(octets));
    put_le32(octets, 0x80000042u);
    put_le32(octets + 4, length);
    fill_random(octets + 8, length, &random_state);
    feed_octets(t, octets, whole);
}

static void feed_pages(struct transfer *t, const uint64_t *entries, uint32_t count, const uint8_t *pages)
{
    struct err err = {0};

    model_pages(&t->sent, entries, count, pages);
    ck_assert_msg(page_source_pages(t->source, entries, count, pages, &err) == 0, "%s", err.text);
}

static void fill_page(const struct transfer *t, uint8_t *page, uint64_t pfn)
{
    uint64_t seed = pfn;

    if (!t->similar) {
        memset(page, (int)(next_random(&random_state) | 1) & 0xff, 1 + next_random(&random_state) % 4096);
        return;
    }
    fill_random(page, WIRE_PAGE_SIZE, &seed);
    fill_random(page + next_random(&random_state) % 4000, 96, &random_state);
}

/* Pages of a narrow range, so that one record repeats those of others; some are zero, some have no data. */
static void feed_some_pages(struct transfer *t)
{
    static uint8_t pages[PAGES_MOST * WIRE_PAGE_SIZE];
    uint64_t entries[PAGES_MOST];
    uint32_t count = 1 + (uint32_t)(next_random(&random_state) % (PAGES_MOST / 4));
    uint64_t pfn = next_random(&random_state) % 200;
    size_t used = 0;

    if (next_random(&random_state) % 8 == 0)
        count = PAGES_MOST; /* more than one record of the wire holds */
    for (uint32_t i = 0; i < count; i++, pfn += 1 + next_random(&random_state) % 2) {
        uint64_t kind = next_random(&random_state) % 8;

        entries[i] = pfn | (kind == 0 ? UINT64_C(0xf) << WIRE_PFN_TYPE_SHIFT : 0) |
                     (kind == 1 ? UINT64_C(0x9) << WIRE_PFN_TYPE_SHIFT : 0);
        if (!wire_pfn_has_data(entries[i]))
            continue;
        memset(pages + used, 0, WIRE_PAGE_SIZE);
        if (kind != 2)
            fill_page(t, pages + used, pfn);
        used += WIRE_PAGE_SIZE;
    }
    feed_pages(t, entries, count, pages);
}

static void feed_end(struct transfer *t)
{
    static const uint8_t end[8];
    struct err err = {0};

    feed_octets(t, end, sizeof(end));
    ck_assert_int_eq(page_source_finish(t->source, &err), 0);
    pthread_mutex_lock(&t->rig.lock);
    t->fed = true;
    pthread_cond_broadcast(&t->rig.changed);
    pthread_mutex_unlock(&t->rig.lock);
    page_target_end(t->target);
    ck_assert_msg(rig_await(&t->rig, &t->script_ends, 1), "%s", t->rig.failure.text);
}

static void check_arrived(struct transfer *t)
{
    struct page_source_stats stats;

    ck_assert_msg(t->script_err.code == 0, "%s", t->script_err.text);
    ck_assert_msg(t->read_result == 0, "%s", t->read_err.text);
    model_check_equal(&t->sent, &t->received);
    ck_assert_uint_eq(t->pfn_twice, 0);
    ck_assert_uint_eq(t->epoch_records, t->records);
    page_source_stats(t->source, &stats);
    ck_assert_uint_eq(stats.epochs, t->epochs);
    ck_assert_uint_eq(stats.pages, t->sent.page_count);
    ck_assert(t->similar == (stats.delta_pages > 100));
}

static void transfer_end(struct transfer *t)
{
    rig_close(&t->rig);
    page_target_destroy(t->target); /* closes the pipe: the reader ends */
    ck_assert_int_eq(pthread_join(t->reader, NULL), 0);
    check_arrived(t);
    page_source_destroy(t->source);
    (void)close(t->read_fd);
    rig_remove(&t->rig);
}

static void run_random(bool zstd, bool slow, bool similar)
{
    struct transfer *t = &transfer;

    transfer_make(t, zstd);
    t->slow = slow;
    t->similar = similar;
    feed_headers(t);
    for (unsigned int i = 0; i < STEPS; i++) {
        if (next_random(&random_state) % 5)
            feed_some_pages(t);
        else
            feed_record(t);
    }
    feed_end(t);
    ck_assert_uint_gt(t->epochs, STEPS / 4); /* PFNs did repeat */
    transfer_end(t);
}

START_TEST(random_stream_arrives)
{
    run_random(false, false, false);
}
END_TEST

START_TEST(random_stream_arrives_with_zstd)
{
    run_random(true, false, false);
}
END_TEST

START_TEST(epochs_keep_their_order_beside_a_slow_connection)
{
    run_random(false, true, false);
    ck_assert_uint_gt(transfer.overtaken, 0);
}
END_TEST

START_TEST(deltas_arrive_beside_a_slow_connection)
{
    run_random(true, true, true);
    ck_assert_uint_gt(transfer.overtaken, 0);
}
END_TEST

UNIT_MAIN("memsync", random_stream_arrives, random_stream_arrives_with_zstd,
          epochs_keep_their_order_beside_a_slow_connection, deltas_arrive_beside_a_slow_connection)
