/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Guest memory from here to there: the source's half. It is fed from a libxl stream (octets and pages), or with rounds over
 * mapped RAM, cuts pages into epochs (docs/protocol.md) and gives them to the stream's workers. */
#ifndef XMOTION_MEMSYNC_PAGE_SOURCE_H
#define XMOTION_MEMSYNC_PAGE_SOURCE_H

#include "base/bitmap.h"
#include "transport/stream.h"

struct page_source;

struct page_source_config {
    struct stream *stream;
    uint64_t max_pfn;
    uint64_t kept_pages; /* that the target keeps, so that what is sent again may go as a delta; 0 none */
    /* One record of the script for the control connection, in order. Any thread; never two at once. */
    int (*script)(void *data, enum wire_type type, const void *body, uint32_t length, struct err *err);
    /* MAPPED: all pages of the round are sent and acknowledged. Worker thread. */
    void (*round_done)(void *data);
    void *data;
};

struct page_source_stats {
    uint64_t pages;      /* that were given, zero ones included, every time anew */
    uint64_t sent_pages; /* acknowledged, with data */
    uint64_t delta_pages; /* of these, as what had changed */
    uint64_t zero_pages; /* acknowledged, without */
    uint64_t epochs;
};

int page_source_create(struct page_source **ret, const struct page_source_config *config, struct err *err);
void page_source_destroy(struct page_source *p); /* after the stream */

/* Feeding from a stream, one thread (the reader's). Blocks while the queue is full; -ECANCELED after page_source_cancel. */
int page_source_octets(struct page_source *p, const uint8_t *octets, size_t len, struct err *err);
int page_source_pages(struct page_source *p, const uint64_t *entries, uint32_t count, const uint8_t *pages,
                      struct err *err);
/* Nothing more comes: ends the last epoch. */
int page_source_finish(struct page_source *p, struct err *err);

/* One round over mapped RAM: every set bit of `pages` (cleared as it is taken). Both must stay until round_done. */
int page_source_begin_round(struct page_source *p, struct bitmap *pages, const uint8_t *ram, struct err *err);

/* Wakes the feeding thread for good. */
void page_source_cancel(struct page_source *p);

/* Nothing queued, nothing in flight. Thread-safe. */
bool page_source_idle(struct page_source *p);
void page_source_stats(struct page_source *p, struct page_source_stats *ret);

#endif
