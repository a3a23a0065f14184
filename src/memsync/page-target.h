/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest memory from there to here: the target's half. Follows the script of the control connection (docs/protocol.md,
 * memory pages) and writes a libxl stream to a descriptor, or pages into mapped RAM. */
#ifndef XMOTION_MEMSYNC_PAGE_TARGET_H
#define XMOTION_MEMSYNC_PAGE_TARGET_H

#include "base/err.h"
#include "transport/conn.h"

#include <stdint.h>

struct page_target;

struct page_target_config {
    int fd;           /* the stream's end to write to, taken over; or -1: */
    uint8_t *ram;     /* mapped RAM of max_pfn + 1 pages, all zero at first */
    uint64_t max_pfn;
    uint64_t kept_pages; /* for deltas, at most: see page_target_kept_pages */
    /* The script was carried out to its end (error 0), or failed. Once, from the target's own thread. */
    void (*script_done)(void *data, const struct err *err);
    void *data;
};

int page_target_create(struct page_target **ret, const struct page_target_config *config, struct err *err);

/* How many pages it keeps: less than it was told to when there is no memory for them. */
uint64_t page_target_kept_pages(const struct page_target *p);

/* Control thread: one MEMORY_RECORD, EPOCH_BEGIN or EPOCH_END; never waits. -EPROTO: out of order. */
int page_target_script(struct page_target *p, const struct record *record, struct err *err);
/* Control thread: the script is complete. */
void page_target_end(struct page_target *p);

/* Data thread: one MEMORY_PAGES body. Waits for its epoch. -ECANCELED after page_target_cancel. */
int page_target_take(struct page_target *p, const struct record *record, struct err *err);

/* Wakes everybody for good; data threads may still be inside page_target_take until they return. */
void page_target_cancel(struct page_target *p);
void page_target_destroy(struct page_target *p); /* when no data thread can be inside any more */

#endif
