/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a libxc stream stands for: its records that are not pages, in order, and the memory as it is at each of
 * them. Two streams are equivalent when these are equal, whatever the order of pages in between. */
#ifndef XMOTION_TESTS_MEMSYNC_MODEL_H
#define XMOTION_TESTS_MEMSYNC_MODEL_H

#include "base/bytes.h"
#include "transport/wire.h"

#include "unit.h"

#include <string.h>
#include <xxhash.h>

#define MODEL_PFNS   1024u
#define MODEL_EVENTS 1024u

struct model {
    uint64_t pages[MODEL_PFNS]; /* sum of the last entry and content of each; 0: never seen */
    uint64_t memory;            /* of all of them */
    uint64_t events[2 * MODEL_EVENTS];
    unsigned int event_count;
    unsigned int page_count;
};

static inline void model_page(struct model *m, uint64_t entry, const uint8_t *page)
{
    uint64_t pfn = entry & WIRE_PFN_MASK;
    uint64_t sum = XXH3_64bits_withSeed(&entry, sizeof(entry), page ? XXH3_64bits(page, WIRE_PAGE_SIZE) : 1);

    ck_assert_uint_lt(pfn, MODEL_PFNS);
    m->memory ^= m->pages[pfn] ^ sum;
    m->pages[pfn] = sum;
    m->page_count++;
}

static inline void model_octets(struct model *m, const uint8_t *octets, size_t len)
{
    ck_assert_uint_lt(m->event_count, MODEL_EVENTS);
    m->events[2 * m->event_count] = XXH3_64bits(octets, len);
    m->events[2 * m->event_count++ + 1] = m->memory;
}

/* The pages of one record: those with data have it in `pages`, in order. */
static inline void model_pages(struct model *m, const uint64_t *entries, uint32_t count, const uint8_t *pages)
{
    for (uint32_t i = 0; i < count; i++) {
        bool data = wire_pfn_has_data(entries[i]);

        model_page(m, entries[i], data ? pages : NULL);
        pages += data ? WIRE_PAGE_SIZE : 0;
    }
}

static inline void model_check_equal(const struct model *a, const struct model *b)
{
    ck_assert_uint_eq(a->page_count, b->page_count);
    ck_assert_uint_eq(a->event_count, b->event_count);
    for (unsigned int i = 0; i < 2 * a->event_count; i++)
        ck_assert_msg(a->events[i] == b->events[i], "event %u: the %s differs", i / 2, i % 2 ? "memory" : "record");
    ck_assert_mem_eq(a->pages, b->pages, sizeof(a->pages));
}

#endif
