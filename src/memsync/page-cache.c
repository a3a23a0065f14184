/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A slot is used at most once an epoch, and only by epochs that are later than the last that used it. The target's epochs are barriers,
 * so there it is a rule for the peer. At the source a worker may be late with its batch while others are at the next epoch: it finds the
 * slot used by a later one, and sends its page as it is. Either way both ends use each slot for the same pages in the same order. */
#include "memsync/page-cache.h"

#include "base/bytes.h"
#include "transport/wire.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#define WORDS (WIRE_PAGE_SIZE / sizeof(uint64_t))
#define PIECE MIB(2)
#define LOCKS 64u /* pages one after another have different ones, so workers hardly ever meet */

/* What changed may compress badly, while all of the page compresses to about half: a delta pays for certain when less than this changed. */
#define CHANGED_MAX (WORDS / 4)
/* What was of use in the epoch before keeps its slot, or hot pages would drive each other out before they are sent again. */
#define REST 2

struct slot {
    bool held;
    uint64_t pfn;
    uint64_t epoch; /* of its last use */
};

struct page_cache {
    uint64_t count;
    pthread_mutex_t locks[LOCKS]; /* slot n and its page: n modulo LOCKS */
    struct slot *slots;
    uint64_t *words; /* the pages; a piece that was never touched takes no memory */
};

static uint64_t *words_of(struct page_cache *c, const struct slot *s)
{
    return c->words + (uint64_t)(s - c->slots) * WORDS;
}

/* Copies rather than casts: a page in a record stands at any address. */
static uint64_t word_at(const uint8_t *page, unsigned int i)
{
    uint64_t word;

    memcpy(&word, page + i * sizeof(word), sizeof(word));
    return word;
}

static unsigned int words_changed(const uint64_t *kept, const uint8_t *page)
{
    unsigned int changed = 0;

    for (unsigned int i = 0; i < WORDS; i++)
        changed += kept[i] != word_at(page, i);
    return changed;
}

/* The page becomes the difference, the new page is kept. */
static void make_delta(uint64_t *kept, uint8_t *page)
{
    for (unsigned int i = 0; i < WORDS; i++) {
        uint64_t now = word_at(page, i);
        uint64_t difference = kept[i] ^ now;

        memcpy(page + i * sizeof(difference), &difference, sizeof(difference));
        kept[i] = now;
    }
}

static void apply_delta(uint64_t *kept, uint8_t *page)
{
    for (unsigned int i = 0; i < WORDS; i++)
        kept[i] ^= word_at(page, i);
    memcpy(page, kept, WIRE_PAGE_SIZE);
}

static void use(struct slot *s, uint64_t pfn, uint64_t epoch)
{
    s->held = true;
    s->pfn = pfn;
    s->epoch = epoch;
}

/* Under the slot's lock. */
static uint64_t put(struct page_cache *c, struct slot *s, uint64_t epoch, uint64_t pfn, uint8_t *page)
{
    if (s->held && s->epoch >= epoch)
        return 0;
    if (s->held && s->pfn == pfn && words_changed(words_of(c, s), page) < CHANGED_MAX) {
        make_delta(words_of(c, s), page);
        use(s, pfn, epoch);
        return WIRE_PFN_KEPT | WIRE_PFN_DELTA;
    }
    /* One that was rewritten whole is treated as another page would be. */
    if (s->held && epoch - s->epoch < REST)
        return 0;
    memcpy(words_of(c, s), page, WIRE_PAGE_SIZE);
    use(s, pfn, epoch);
    return WIRE_PFN_KEPT;
}

uint64_t page_cache_put(struct page_cache *c, uint64_t epoch, uint64_t pfn, uint8_t *page)
{
    uint64_t n = pfn % c->count;
    uint64_t flags;

    pthread_mutex_lock(&c->locks[n % LOCKS]);
    flags = put(c, &c->slots[n], epoch, pfn, page);
    pthread_mutex_unlock(&c->locks[n % LOCKS]);
    return flags;
}

static int check_use(const struct slot *s, uint64_t epoch, uint64_t entry, struct err *err)
{
    uint64_t pfn = entry & WIRE_PFN_MASK;

    if (s->held && s->epoch >= epoch)
        return err_set(err, -EPROTO, "page frame %#llx is to be kept where %#llx was in the same memory epoch, %llu", (unsigned long long)pfn,
                       (unsigned long long)s->pfn, (unsigned long long)epoch);
    if (entry & WIRE_PFN_DELTA && !(s->held && s->pfn == pfn))
        return err_set(err, -EPROTO, "a delta of page frame %#llx, which is not kept", (unsigned long long)pfn);
    return 0;
}

int page_cache_take(struct page_cache *c, uint64_t epoch, uint64_t entry, uint8_t *page, struct err *err)
{
    uint64_t n = (entry & WIRE_PFN_MASK) % c->count;
    struct slot *s = &c->slots[n];
    int r;

    assert(entry & WIRE_PFN_KEPT);
    pthread_mutex_lock(&c->locks[n % LOCKS]);
    r = check_use(s, epoch, entry, err);
    if (r == 0) {
        if (entry & WIRE_PFN_DELTA)
            apply_delta(words_of(c, s), page);
        else
            memcpy(words_of(c, s), page, WIRE_PAGE_SIZE);
        use(s, entry & WIRE_PFN_MASK, epoch);
    }
    pthread_mutex_unlock(&c->locks[n % LOCKS]);
    return r;
}

/* In large pieces, where the kernel has them: in small ones the first touch of each page would take longer than copying it, just when a
 * short round matters. What stands there at first is never looked at. */
static void *pages_alloc(uint64_t count)
{
    size_t size = count * WIRE_PAGE_SIZE;
    size_t align = size < PIECE ? WIRE_PAGE_SIZE : PIECE;
    void *pages = aligned_alloc(align, DIV_ROUND_UP(size, align) * align);

    if (pages && align == PIECE)
        (void)madvise(pages, size, MADV_HUGEPAGE);
    return pages;
}

int page_cache_create(struct page_cache **ret, uint64_t slots, struct err *err)
{
    struct page_cache *c = calloc(1, sizeof(*c));

    assert(slots > 0);
    if (!c)
        return err_set(err, -ENOMEM, "out of memory");
    for (unsigned int i = 0; i < LOCKS; i++)
        pthread_mutex_init(&c->locks[i], NULL);
    c->count = slots;
    c->slots = calloc(slots, sizeof(*c->slots));
    c->words = pages_alloc(slots);
    if (!c->slots || !c->words) {
        page_cache_destroy(c);
        return err_set(err, -ENOMEM, "no memory to keep %llu pages", (unsigned long long)slots);
    }
    *ret = c;
    return 0;
}

void page_cache_destroy(struct page_cache *c)
{
    if (!c)
        return;
    free(c->slots);
    free(c->words);
    for (unsigned int i = 0; i < LOCKS; i++)
        pthread_mutex_destroy(&c->locks[i]);
    free(c);
}
