/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/chain.h"

#include "base/bytes.h"
#include "base/checksum.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static uint64_t sum_zeroes(uint32_t length)
{
    static const uint8_t zeroes[WIRE_DISK_BLOCK_MAX];

    assert(length <= sizeof(zeroes));
    return checksum(zeroes, length);
}

int chain_init(struct chain *c, uint64_t disk_size)
{
    c->count = DIV_ROUND_UP(disk_size, WIRE_DISK_BLOCK_MAX);
    c->zeroes_sum = sum_zeroes(WIRE_DISK_BLOCK_MAX);
    c->links = calloc(c->count, sizeof(uint64_t));
    return c->links ? 0 : -ENOMEM;
}

void chain_finish(struct chain *c)
{
    free(c->links);
    c->links = NULL;
}

void chain_fold(struct chain *c, const struct wire_disk_block *b)
{
    uint64_t i = b->offset / WIRE_DISK_BLOCK_MAX;
    uint64_t old;

    assert(i < c->count);
    /* Atomic only so that a peer that breaks the order rule meets a wrong digest, not undefined behaviour. */
    old = __atomic_load_n(&c->links[i], __ATOMIC_ACQUIRE);
    __atomic_store_n(&c->links[i], wire_chain_fold(old, b), __ATOMIC_RELEASE);
}

void chain_clear(struct chain *c, uint64_t offset)
{
    uint64_t i = offset / WIRE_DISK_BLOCK_MAX;

    assert(i < c->count);
    __atomic_store_n(&c->links[i], 0, __ATOMIC_RELEASE);
}

void chain_reset(struct chain *c)
{
    memset(c->links, 0, c->count * sizeof(uint64_t));
}

uint64_t chain_zeroes(const struct chain *c, uint32_t length)
{
    return length == WIRE_DISK_BLOCK_MAX ? c->zeroes_sum : sum_zeroes(length);
}

bool chain_is_empty(const struct chain *c, uint64_t offset)
{
    return __atomic_load_n(&c->links[offset / WIRE_DISK_BLOCK_MAX], __ATOMIC_ACQUIRE) == 0;
}

uint64_t chain_gaps(const struct chain *c)
{
    uint64_t gaps = 0;

    for (uint64_t i = 0; i < c->count; i++)
        gaps += c->links[i] == 0;
    return gaps;
}

/* Summed a few pages at a time: a call for each link costs more than what it sums. */
#define DIGEST_LINKS 1024u

uint64_t chain_digest(const struct chain *c)
{
    XXH3_state_t *state = XXH3_createState();
    uint8_t octets[8 * DIGEST_LINKS];
    uint64_t digest;

    if (!state)
        abort();
    (void)XXH3_64bits_reset(state);
    for (uint64_t i = 0; i < c->count; i += DIGEST_LINKS) {
        uint64_t n = MIN(c->count - i, DIGEST_LINKS);

        for (uint64_t k = 0; k < n; k++)
            put_be64(octets + 8 * k, c->links[i + k]);
        (void)XXH3_64bits_update(state, octets, 8 * n);
    }
    digest = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return digest;
}
