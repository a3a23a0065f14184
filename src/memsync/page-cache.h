/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The pages that one end of a migration keeps, so that a page that is sent again can go as its difference to what was sent before
 * (docs/protocol.md, kept pages). Both ends do the same with it, in the order of epochs; within one, threads may come in any order. */
#ifndef XMOTION_MEMSYNC_PAGE_CACHE_H
#define XMOTION_MEMSYNC_PAGE_CACHE_H

#include "base/err.h"

#include <stdint.h>

struct page_cache;

/* Holds `slots` pages; memory is taken when they are put there. */
int page_cache_create(struct page_cache **ret, uint64_t slots, struct err *err);
void page_cache_destroy(struct page_cache *c);

/* Source: a page is about to be sent in a record that will be compressed. Returns the flags for its entry: WIRE_PFN_KEPT, with
 * WIRE_PFN_DELTA when `page` was made the difference, or 0: it goes as it is and is not kept. */
uint64_t page_cache_put(struct page_cache *c, uint64_t epoch, uint64_t pfn, uint8_t *page);

/* Target: does what the flags of the entry say; `page`, a difference or not, is the page then. -EPROTO: nothing that the slot held
 * fits. Entries without flags have no business here. `epoch` must be under way. */
int page_cache_take(struct page_cache *c, uint64_t epoch, uint64_t entry, uint8_t *page, struct err *err);

#endif
