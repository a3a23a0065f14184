/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rounds over mapped RAM while somebody writes to it. */
#include "memsync/page-source.h"
#include "memsync/page-target.h"

#include "mem-disk.h" /* random content */
#include "stream-rig.h"

#include <sys/mman.h>

#define PAGES    2048u
#define RAM_SIZE ((size_t)PAGES * WIRE_PAGE_SIZE)

struct guest {
    struct rig rig;
    uint8_t *from, *to; /* RAM of both ends */
    struct bitmap log_dirty, round;
    struct page_source *source;
    struct page_target *target;
    unsigned int rounds_done, script_ends;
    struct err script_err;
    pthread_t thread;
    unsigned int written;
    bool writes, stop; /* the guest's writes: every record waits for one */
};

static struct guest guest;

static void round_done(void *data)
{
    struct guest *g = data;

    rig_count(&g->rig, &g->rounds_done);
}

static void script_done(void *data, const struct err *err)
{
    struct guest *g = data;

    g->script_err = *err;
    rig_count(&g->rig, &g->script_ends);
}

static int script(void *data, enum wire_type type, const void *body, uint32_t length, struct err *err)
{
    struct record record = {.type = type, .length = length, .body = (uint8_t *)(uintptr_t)body};
    struct guest *g = data;

    return page_target_script(g->target, &record, err);
}

static int take(struct rig_sink *sink, const struct record *record, struct wire_need *need, struct err *err)
{
    struct guest *g = sink->rig->data;
    unsigned int before;

    pthread_mutex_lock(&g->rig.lock);
    before = g->written;
    while (g->writes && !g->stop && g->written == before)
        pthread_cond_wait(&g->rig.changed, &g->rig.lock);
    pthread_mutex_unlock(&g->rig.lock);
    return page_target_take(g->target, record, err);
}

static uint8_t *map_ram(void)
{
    void *at = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    ck_assert_ptr_ne(at, MAP_FAILED);
    return at;
}

/* With zstd an eighth of the pages can be kept. */
static void guest_make(struct guest *g, unsigned int connections, bool zstd)
{
    uint64_t kept = zstd ? PAGES / 8 : 0;
    struct page_source_config from = {
        .max_pfn = PAGES - 1, .kept_pages = kept, .script = script, .round_done = round_done, .data = g};
    struct page_target_config to = {
        .fd = -1, .max_pfn = PAGES - 1, .kept_pages = kept, .script_done = script_done, .data = g};
    struct err err = {0};

    memset(g, 0, sizeof(*g));
    g->from = map_ram();
    g->to = to.ram = map_ram();
    ck_assert_int_eq(bitmap_init(&g->log_dirty, PAGES), 0);
    ck_assert_int_eq(bitmap_init(&g->round, PAGES), 0);
    rig_make(&g->rig, zstd ? COMPRESS_ALWAYS : COMPRESS_NONE, take, g);
    from.stream = g->rig.stream;
    ck_assert_int_eq(page_target_create(&g->target, &to, &err), 0);
    ck_assert_int_eq(page_source_create(&g->source, &from, &err), 0);
    rig_connect(&g->rig, connections);
}

static void guest_remove(struct guest *g)
{
    rig_close(&g->rig);
    page_target_destroy(g->target);
    page_source_destroy(g->source);
    bitmap_finish(&g->log_dirty);
    bitmap_finish(&g->round);
    (void)munmap(g->from, RAM_SIZE);
    (void)munmap(g->to, RAM_SIZE);
    rig_remove(&g->rig);
}

/* One round over what `round` holds. */
static void send_round(struct guest *g)
{
    unsigned int before = g->rounds_done;
    struct err err = {0};

    ck_assert_int_eq(page_source_begin_round(g->source, &g->round, g->from, &err), 0);
    ck_assert_msg(rig_await(&g->rig, &g->rounds_done, before + 1), "%s", g->rig.failure.text);
    ck_assert(page_source_idle(g->source));
    ck_assert_uint_eq(bitmap_count(&g->round), 0);
}

static uint64_t send_dirty(struct guest *g)
{
    uint64_t pages = bitmap_take(&g->round, g->log_dirty.words);

    send_round(g);
    return pages;
}

static void send_all(struct guest *g)
{
    bitmap_set_all(&g->round);
    send_round(g);
}

static void check_same_ram(struct guest *g)
{
    page_target_end(g->target);
    ck_assert(rig_await(&g->rig, &g->script_ends, 1));
    ck_assert_msg(g->script_err.code == 0, "%s", g->script_err.text);
    for (unsigned int pfn = 0; pfn < PAGES; pfn++)
        ck_assert_msg(memcmp(g->from + pfn * WIRE_PAGE_SIZE, g->to + pfn * WIRE_PAGE_SIZE, WIRE_PAGE_SIZE) == 0,
                      "page %u differs", pfn);
}

static void fill(struct guest *g)
{
    uint64_t random = 3;

    for (size_t pfn = 0; pfn < PAGES; pfn++) {
        if (pfn % 5)
            fill_random(g->from + pfn * WIRE_PAGE_SIZE, WIRE_PAGE_SIZE, &random);
    }
}

/* The guest's processor: it knows nothing of threads that read its RAM meanwhile, so ThreadSanitizer must not
 * either. Zero or a number in every eighth octet of the page. */
__attribute__((no_sanitize("thread"))) static void write_page(volatile uint64_t *page, uint64_t value)
{
    for (unsigned int i = 0; i < WIRE_PAGE_SIZE / sizeof(*page); i++)
        page[i] = value;
}

static void *writer_main(void *data)
{
    struct guest *g = data;
    uint64_t random = 13;
    bool stop = false;

    while (!stop) {
        uint64_t pfn = next_random(&random) % PAGES;

        write_page((volatile uint64_t *)(void *)(g->from + pfn * WIRE_PAGE_SIZE),
                   next_random(&random) % 3 ? next_random(&random) : 0);
        bitmap_set(&g->log_dirty, pfn);
        rig_count(&g->rig, &g->written);
        clock_sleep(50 * NS_PER_US); /* leaves the processor to the rounds */
        pthread_mutex_lock(&g->rig.lock);
        stop = g->stop;
        pthread_mutex_unlock(&g->rig.lock);
    }
    return NULL;
}

static void run_with_writer(bool zstd)
{
    struct guest *g = &guest;

    guest_make(g, 3, zstd);
    fill(g);
    g->writes = true;
    ck_assert_int_eq(pthread_create(&g->thread, NULL, writer_main, g), 0);
    send_all(g);
    for (int i = 0; i < 5; i++)
        ck_assert_uint_gt(send_dirty(g), 0); /* each record of a round waits for writes: the next finds some */
    pthread_mutex_lock(&g->rig.lock);
    g->stop = true;
    pthread_cond_broadcast(&g->rig.changed);
    pthread_mutex_unlock(&g->rig.lock);
    ck_assert_int_eq(pthread_join(g->thread, NULL), 0);
    ck_assert_uint_gt(send_dirty(g), 0);
    check_same_ram(g);
    guest_remove(g);
}

START_TEST(written_while_it_is_sent)
{
    run_with_writer(false);
}
END_TEST

START_TEST(written_while_it_is_sent_with_zstd)
{
    run_with_writer(true);
}
END_TEST

START_TEST(page_that_becomes_zero)
{
    struct page_source_stats stats;

    guest_make(&guest, 1, false);
    memset(guest.from + 7 * WIRE_PAGE_SIZE, 0xaa, WIRE_PAGE_SIZE);
    send_all(&guest);
    memset(guest.from + 7 * WIRE_PAGE_SIZE, 0, WIRE_PAGE_SIZE);
    bitmap_set(&guest.round, 7);
    send_round(&guest);
    check_same_ram(&guest);
    page_source_stats(guest.source, &stats);
    ck_assert_uint_eq(stats.pages, PAGES + 1);
    ck_assert_uint_eq(stats.sent_pages, 1);
    ck_assert_uint_eq(stats.zero_pages, PAGES);
    ck_assert_uint_eq(stats.epochs, 2);
    guest_remove(&guest);
}
END_TEST

START_TEST(page_that_was_always_zero_takes_no_memory)
{
    static unsigned char resident[PAGES];

    guest_make(&guest, 1, false);
    memset(guest.from + 7 * WIRE_PAGE_SIZE, 0xaa, WIRE_PAGE_SIZE);
    send_all(&guest);
    ck_assert_int_eq(mincore(guest.to, RAM_SIZE, resident), 0);
    ck_assert(resident[7] & 1);
    ck_assert(!(resident[PAGES - 1] & 1));
    guest_remove(&guest);
}
END_TEST

START_TEST(round_of_nothing_is_done)
{
    guest_make(&guest, 2, false);
    send_round(&guest);
    send_round(&guest);
    check_same_ram(&guest);
    guest_remove(&guest);
}
END_TEST

/* Pages whose slots collide, changed a little in every round, over several connections. */
START_TEST(little_changes_go_as_deltas)
{
    struct page_source_stats stats;

    guest_make(&guest, 3, true);
    fill(&guest);
    send_all(&guest);
    for (uint8_t round = 1; round < 10; round++) {
        for (size_t pfn = 0; pfn < PAGES; pfn += 1 + pfn % 3) {
            guest.from[pfn * WIRE_PAGE_SIZE + 8 * round] ^= round;
            bitmap_set(&guest.log_dirty, pfn);
        }
        ck_assert_uint_gt(send_dirty(&guest), 0);
    }
    check_same_ram(&guest);
    page_source_stats(guest.source, &stats);
    ck_assert_uint_gt(stats.delta_pages, 8 * PAGES / 8 / 2);
    ck_assert_uint_lt(stats.delta_pages, stats.sent_pages);
    guest_remove(&guest);
}
END_TEST

/* The tests above can fail: a page that nobody marked is not sent. */
START_TEST(lost_mark_is_a_difference)
{
    guest_make(&guest, 1, false);
    fill(&guest);
    send_all(&guest);
    guest.from[5 * WIRE_PAGE_SIZE] ^= 1;
    ck_assert_uint_eq(send_dirty(&guest), 0);
    ck_assert_int_ne(memcmp(guest.from, guest.to, RAM_SIZE), 0);
    bitmap_set(&guest.log_dirty, 5);
    ck_assert_uint_eq(send_dirty(&guest), 1);
    check_same_ram(&guest);
    guest_remove(&guest);
}
END_TEST

UNIT_MAIN("memsync-mapped", written_while_it_is_sent, written_while_it_is_sent_with_zstd, page_that_becomes_zero,
          page_that_was_always_zero_takes_no_memory, round_of_nothing_is_done, little_changes_go_as_deltas, lost_mark_is_a_difference)
