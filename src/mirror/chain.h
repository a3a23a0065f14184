/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The block chains of one disk (docs/protocol.md): 8 octets for every 64 KiB, what one end believes the target holds. */
#ifndef XMOTION_MIRROR_CHAIN_H
#define XMOTION_MIRROR_CHAIN_H

#include "transport/wire.h"

#include <stdint.h>

struct chain {
    uint64_t *links;
    uint64_t count;
};

int chain_init(struct chain *c, uint64_t disk_size);
void chain_finish(struct chain *c);

/* Folds one block in. Blocks of one 64 KiB must come in their order; different ones from any thread. */
void chain_fold(struct chain *c, const struct wire_disk_block *b);

uint64_t chain_digest(const struct chain *c);

#endif
