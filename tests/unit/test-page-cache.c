/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pages that both ends keep: what one end makes a delta is the page again at the other, and what fits nothing is refused. */
#include "memsync/page-cache.h"

#include "base/bytes.h"
#include "mem-disk.h" /* random content */
#include "transport/wire.h"

#include "unit.h"

#include <string.h>

#define SLOTS  8u
#define DELTA  (WIRE_PFN_KEPT | WIRE_PFN_DELTA)
#define PAGES  64u
#define EPOCHS 60u

static struct page_cache *from, *to;
static struct err err;
static uint64_t random_state = 5;

static void caches_make(void)
{
    ck_assert_int_eq(page_cache_create(&from, SLOTS, &err), 0);
    ck_assert_int_eq(page_cache_create(&to, SLOTS, &err), 0);
}

static void caches_remove(void)
{
    page_cache_destroy(from);
    page_cache_destroy(to);
    page_cache_destroy(NULL);
}

/* One page goes from end to end: what it was, or -EPROTO. Returns its flags. */
static uint64_t carry(uint64_t epoch, uint64_t pfn, const uint8_t *page)
{
    uint8_t sent[WIRE_PAGE_SIZE];
    uint64_t flags;

    memcpy(sent, page, sizeof(sent));
    flags = page_cache_put(from, epoch, pfn, sent);
    if (flags)
        ck_assert_msg(page_cache_take(to, epoch, pfn | flags, sent, &err) == 0, "%s", err.text);
    ck_assert_mem_eq(sent, page, sizeof(sent));
    return flags;
}

/* A page of its own for each PFN, in which `change` stands in the first octets. */
static const uint8_t *page_of(uint64_t pfn, uint64_t change)
{
    static uint8_t page[WIRE_PAGE_SIZE];
    uint64_t seed = pfn + 1;

    fill_random(page, sizeof(page), &seed);
    put_be64(page, change);
    return page;
}

static const uint8_t *another_page(void)
{
    static uint8_t page[WIRE_PAGE_SIZE];

    fill_random(page, sizeof(page), &random_state);
    return page;
}

START_TEST(kept_then_sent_as_a_delta)
{
    caches_make();
    ck_assert_uint_eq(carry(1, 3, page_of(3, 1)), WIRE_PFN_KEPT);
    for (uint64_t epoch = 2; epoch < 6; epoch++)
        ck_assert_uint_eq(carry(epoch, 3, page_of(3, epoch)), DELTA);
    ck_assert_uint_eq(carry(20, 3, page_of(3, 77)), DELTA);
    caches_remove();
}
END_TEST

/* What is left of a page in which little changed is nearly all zeroes, else it would not be sent so. */
START_TEST(delta_is_what_changed)
{
    uint8_t page[WIRE_PAGE_SIZE], zeroes[WIRE_PAGE_SIZE] = {0};

    caches_make();
    (void)carry(1, 3, page_of(3, 1));
    memcpy(page, page_of(3, 2), sizeof(page));
    ck_assert_uint_eq(page_cache_put(from, 2, 3, page), DELTA);
    ck_assert_uint_eq(page[7], 3);
    ck_assert_mem_eq(page + 8, zeroes, sizeof(page) - 8);
    caches_remove();
}
END_TEST

START_TEST(page_written_whole_goes_as_it_is)
{
    caches_make();
    (void)carry(1, 3, page_of(3, 1));
    ck_assert_uint_eq(carry(2, 3, another_page()), 0);
    ck_assert_uint_eq(carry(3, 3, another_page()), WIRE_PFN_KEPT); /* who rests too long loses its slot, to itself too */
    caches_remove();
}
END_TEST

START_TEST(slot_is_used_once_an_epoch)
{
    caches_make();
    ck_assert_uint_eq(carry(1, 3, page_of(3, 1)), WIRE_PFN_KEPT);
    ck_assert_uint_eq(carry(1, 3 + SLOTS, page_of(3 + SLOTS, 1)), 0);
    ck_assert_uint_eq(carry(1, 4, page_of(4, 1)), WIRE_PFN_KEPT);
    caches_remove();
}
END_TEST

START_TEST(hot_page_keeps_its_slot)
{
    caches_make();
    ck_assert_uint_eq(carry(1, 3, page_of(3, 1)), WIRE_PFN_KEPT);
    ck_assert_uint_eq(carry(2, 3 + SLOTS, page_of(3 + SLOTS, 1)), 0);
    ck_assert_uint_eq(carry(2, 3, page_of(3, 2)), DELTA);
    ck_assert_uint_eq(carry(3, 3 + SLOTS, page_of(3 + SLOTS, 1)), 0);
    ck_assert_uint_eq(carry(4, 3 + SLOTS, page_of(3 + SLOTS, 1)), WIRE_PFN_KEPT);
    ck_assert_uint_eq(carry(5, 3, page_of(3, 3)), 0); /* it is the other's now */
    ck_assert_uint_eq(carry(6, 3 + SLOTS, page_of(3 + SLOTS, 2)), DELTA);
    caches_remove();
}
END_TEST

/* A worker that is late with its batch while others are at the next epoch. */
START_TEST(late_page_does_not_disturb)
{
    caches_make();
    ck_assert_uint_eq(carry(1, 3, page_of(3, 1)), WIRE_PFN_KEPT);
    ck_assert_uint_eq(carry(3, 3, page_of(3, 3)), DELTA);
    ck_assert_uint_eq(carry(2, 3, page_of(3, 2)), 0);
    ck_assert_uint_eq(carry(4, 3, page_of(3, 4)), DELTA);
    caches_remove();
}
END_TEST

static void refuse(uint64_t epoch, uint64_t entry, const char *text)
{
    uint8_t page[WIRE_PAGE_SIZE];

    memcpy(page, another_page(), sizeof(page));
    ck_assert_int_eq(page_cache_take(to, epoch, entry, page, &err), -EPROTO);
    ck_assert_msg(strstr(err.text, text) != NULL, "%s", err.text);
}

START_TEST(what_fits_nothing_is_refused)
{
    caches_make();
    refuse(0, DELTA | 3, "page frame 0x3, which is not kept");
    ck_assert_uint_eq(carry(1, 3, page_of(3, 1)), WIRE_PFN_KEPT);
    refuse(1, DELTA | 3, "where 0x3 was in the same memory epoch, 1");
    refuse(1, WIRE_PFN_KEPT | (3 + SLOTS), "page frame 0xb is to be kept where 0x3 was");
    refuse(2, DELTA | (3 + SLOTS), "page frame 0xb, which is not kept");
    refuse(2, DELTA | 4, "page frame 0x4, which is not kept");
    refuse(0, WIRE_PFN_KEPT | 3, "in the same memory epoch"); /* or one before, which is over */
    ck_assert_uint_eq(carry(2, 3, page_of(3, 2)), DELTA);     /* none of them changed anything */
    caches_remove();
}
END_TEST

struct sent {
    uint64_t entry;
    uint8_t page[WIRE_PAGE_SIZE], whole[WIRE_PAGE_SIZE];
};

/* Pages of one epoch, each at most once, arrive in any order. */
static unsigned int carry_shuffled(uint64_t epoch, uint8_t (*ram)[WIRE_PAGE_SIZE])
{
    static struct sent sent[PAGES];
    unsigned int count = 0, deltas = 0;

    for (uint64_t pfn = 0; pfn < PAGES; pfn++) {
        if (next_random(&random_state) % 3)
            continue;
        fill_random(ram[pfn] + next_random(&random_state) % 2048, next_random(&random_state) % 2048, &random_state);
        memcpy(sent[count].whole, ram[pfn], WIRE_PAGE_SIZE);
        memcpy(sent[count].page, ram[pfn], WIRE_PAGE_SIZE);
        sent[count].entry = pfn | page_cache_put(from, epoch, pfn, sent[count].page);
        deltas += (sent[count].entry & WIRE_PFN_DELTA) != 0;
        count++;
    }
    for (unsigned int left = count; left; left--) {
        struct sent *s = &sent[next_random(&random_state) % left];

        if (s->entry & WIRE_PFN_KEPT)
            ck_assert_msg(page_cache_take(to, epoch, s->entry, s->page, &err) == 0, "%s", err.text);
        ck_assert_mem_eq(s->page, s->whole, WIRE_PAGE_SIZE);
        *s = sent[left - 1];
    }
    return deltas;
}

START_TEST(any_order_within_an_epoch)
{
    static uint8_t ram[PAGES][WIRE_PAGE_SIZE];
    unsigned int deltas = 0;

    caches_make();
    for (uint64_t epoch = 0; epoch < EPOCHS; epoch++)
        deltas += carry_shuffled(epoch, ram);
    ck_assert_uint_gt(deltas, EPOCHS / 2);
    caches_remove();
}
END_TEST

UNIT_MAIN("page-cache", kept_then_sent_as_a_delta, delta_is_what_changed, page_written_whole_goes_as_it_is, slot_is_used_once_an_epoch,
          hot_page_keeps_its_slot, late_page_does_not_disturb, what_fits_nothing_is_refused, any_order_within_an_epoch)
