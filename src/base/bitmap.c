/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/bitmap.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int bitmap_init(struct bitmap *b, uint64_t bits)
{
    uint64_t words = bitmap_words(bits);

    b->bits = bits;
    b->words = calloc(words ? words : 1, sizeof(uint64_t));
    return b->words ? 0 : -ENOMEM;
}

void bitmap_finish(struct bitmap *b)
{
    free(b->words);
    b->words = NULL;
    b->bits = 0;
}

static uint64_t load(const struct bitmap *b, uint64_t word)
{
    return __atomic_load_n(&b->words[word], __ATOMIC_ACQUIRE);
}

/* Words that are looked at together where most are clear: a cache line. */
#define STRIDE 8u

static bool are_clear(const uint64_t *words)
{
    uint64_t any = 0;

    for (unsigned int i = 0; i < STRIDE; i++)
        any |= __atomic_load_n(&words[i], __ATOMIC_RELAXED);
    return any == 0;
}

static bool begins_clear_stride(const uint64_t *words, uint64_t i, uint64_t count)
{
    return i % STRIDE == 0 && count - i >= STRIDE && are_clear(&words[i]);
}

bool bitmap_test(const struct bitmap *b, uint64_t bit)
{
    assert(bit < b->bits);
    return (load(b, bit / 64) >> (bit % 64)) & 1;
}

void bitmap_set(struct bitmap *b, uint64_t bit)
{
    bitmap_set_run(b, bit, 1);
}

void bitmap_clear(struct bitmap *b, uint64_t bit)
{
    bitmap_clear_run(b, bit, 1);
}

/* Bits [first, first+count) of one word as a mask; count is 1..64-first. */
static uint64_t word_mask(uint64_t first, uint64_t count)
{
    uint64_t ones = count == 64 ? UINT64_MAX : (UINT64_C(1) << count) - 1;

    return ones << first;
}

void bitmap_set_run(struct bitmap *b, uint64_t first, uint64_t count)
{
    assert(first <= b->bits && count <= b->bits - first);
    while (count) {
        uint64_t off = first % 64;
        uint64_t n = count < 64 - off ? count : 64 - off;

        (void)__atomic_fetch_or(&b->words[first / 64], word_mask(off, n), __ATOMIC_SEQ_CST);
        first += n;
        count -= n;
    }
}

void bitmap_clear_run(struct bitmap *b, uint64_t first, uint64_t count)
{
    assert(first <= b->bits && count <= b->bits - first);
    while (count) {
        uint64_t off = first % 64;
        uint64_t n = count < 64 - off ? count : 64 - off;

        (void)__atomic_fetch_and(&b->words[first / 64], ~word_mask(off, n), __ATOMIC_SEQ_CST);
        first += n;
        count -= n;
    }
}

void bitmap_set_all(struct bitmap *b)
{
    bitmap_set_run(b, 0, b->bits);
}

uint64_t bitmap_count(const struct bitmap *b)
{
    uint64_t words = bitmap_words(b->bits);
    uint64_t n = 0;

    for (uint64_t i = 0; i < words; i++)
        n += (uint64_t)__builtin_popcountll(load(b, i));
    return n;
}

/* First bit from `from` up to, not including, `end` whose value is `value`; `end` when there is none. */
static uint64_t find(const struct bitmap *b, uint64_t from, uint64_t end, bool value)
{
    while (from < end) {
        uint64_t word;

        if (value && from % 64 == 0 && end - from >= 64 * STRIDE && are_clear(&b->words[from / 64])) {
            from += 64 * STRIDE;
            continue;
        }
        word = load(b, from / 64);
        if (!value)
            word = ~word;
        word &= UINT64_MAX << (from % 64);
        if (word) {
            from = from / 64 * 64 + (uint64_t)__builtin_ctzll(word);
            return from < end ? from : end;
        }
        from = (from / 64 + 1) * 64;
    }
    return end;
}

uint64_t bitmap_next_run(const struct bitmap *b, uint64_t from, uint64_t most, uint64_t *ret_first)
{
    uint64_t first = find(b, from, b->bits, true);

    if (first >= b->bits)
        return 0;
    *ret_first = first;
    return find(b, first, most < b->bits - first ? first + most : b->bits, false) - first;
}

uint64_t bitmap_take(struct bitmap *b, uint64_t *from)
{
    uint64_t words = bitmap_words(b->bits);
    uint64_t taken = 0;

    for (uint64_t i = 0; i < words; i++) {
        uint64_t w;

        if (begins_clear_stride(from, i, words)) {
            i += STRIDE - 1;
            continue;
        }
        if (!__atomic_load_n(&from[i], __ATOMIC_RELAXED))
            continue;
        w = __atomic_exchange_n(&from[i], 0, __ATOMIC_SEQ_CST);
        taken += (uint64_t)__builtin_popcountll(w);
        (void)__atomic_fetch_or(&b->words[i], w, __ATOMIC_SEQ_CST);
    }
    return taken;
}

uint64_t bitmap_subtract(struct bitmap *b, const struct bitmap *other)
{
    uint64_t words = bitmap_words(b->bits);
    uint64_t left = 0;

    assert(b->bits == other->bits);
    for (uint64_t i = 0; i < words; i++) {
        uint64_t both;

        if (begins_clear_stride(b->words, i, words)) {
            i += STRIDE - 1;
            continue;
        }
        both = load(b, i) & load(other, i);
        if (both)
            (void)__atomic_fetch_and(&b->words[i], ~both, __ATOMIC_SEQ_CST);
        left += (uint64_t)__builtin_popcountll(load(b, i));
    }
    return left;
}
