/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The block chains of one disk (docs/protocol.md): 8 octets for every 64 KiB, what one end believes the target holds. */
#ifndef XMOTION_MIRROR_CHAIN_H
#define XMOTION_MIRROR_CHAIN_H

#include "transport/wire.h"

#include <stdbool.h>
#include <stdint.h>

struct chain {
    uint64_t *links;
    uint64_t count;
    uint64_t zeroes_sum;
};

int chain_init(struct chain *c, uint64_t disk_size);
void chain_finish(struct chain *c);

/* Folds one block in. Blocks of one 64 KiB must come in their order; different ones from any thread. A KEEP
 * block is folded in when the receiver holds it, and begins the chain anew. */
void chain_fold(struct chain *c, const struct wire_disk_block *b);

/* Offered and refused: the 64 KiB at `offset` begins anew. */
void chain_clear(struct chain *c, uint64_t offset);

/* All begin anew. Nobody else uses the chain. */
void chain_reset(struct chain *c);

/* The checksum of a block of zeroes. */
uint64_t chain_zeroes(const struct chain *c, uint32_t length);

/* Nothing was folded in, or it began anew: what this 64 KiB holds is not what the source said. */
bool chain_is_empty(const struct chain *c, uint64_t offset);

/* How many 64 KiB have been neither sent nor kept. */
uint64_t chain_gaps(const struct chain *c);

uint64_t chain_digest(const struct chain *c);

#endif
