/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One disk from here to there while it is written: the source's half. Passes are begun by the session and carried out by
 * the stream's workers.
 *
 * Invariants (asserted):
 *  - a block's mark is taken from the tracker BEFORE the block is read;
 *  - a block whose record failed is marked again; one is folded into its chain when its record is acknowledged;
 *  - a pass begins only when nothing of the pass before is in flight, and one record holds all of a 64 KiB chunk's
 *    blocks: so two operations on one chunk are never in flight together, and both ends fold chains in one order. */
#ifndef XMOTION_MIRROR_SOURCE_H
#define XMOTION_MIRROR_SOURCE_H

#include "mirror/blockdev.h"
#include "mirror/tracker.h"
#include "transport/stream.h"

struct mirror_source;

struct mirror_source_config {
    uint16_t index;           /* the disk's number on the wire */
    struct blockdev *dev;     /* taken over, also on failure */
    struct tracker *tracker;  /* taken over, also on failure; NULL: the disk does not change */
    bool reuse;               /* the target may hold much of it: everything is offered by checksum before it is sent */
    struct stream *stream;    /* kicked when there is work; the source attaches itself */
    void (*pass_done)(void *data); /* worker thread: the pass is sent and acknowledged */
    void *data;
};

struct mirror_source_stats {
    uint64_t size;        /* octets of the disk */
    uint64_t sent;        /* octets of blocks acknowledged, all passes, before compression */
    uint64_t zeroes;      /* octets that were left out or sent as zero blocks */
    uint64_t kept;        /* octets that were offered, and that the target held already */
    uint64_t pass_total;  /* octets this pass set out to look at */
    uint64_t pass_done;   /* of them, looked at and acknowledged */
    unsigned int passes;  /* begun, the bulk pass included */
    uint64_t reads;       /* of the disk, that ended; their octets; the sum of the times that each of them took */
    uint64_t read_octets;
    uint64_t read_ns;
};

int mirror_source_create(struct mirror_source **ret, const struct mirror_source_config *config, struct err *err);
void mirror_source_destroy(struct mirror_source *m); /* after the stream */

/* The stream it had was settled and destroyed: the pass goes on where it was on another. Between the two no pass is begun. */
int mirror_source_attach(struct mirror_source *m, struct stream *stream, struct err *err);

/* Begins the bulk pass: all of the disk but holes and zeroes (the target reads as zeroes there), or with `reuse` the
 * checksums of all of it, zeroes and holes included. Marks of the tracker are taken first: what they stand for is read in this
 * pass anyhow. Begins nothing when it was begun already. */
int mirror_source_begin_bulk(struct mirror_source *m, struct err *err);

/* While the bulk pass is under way: marks of what it has not read yet are taken off, since it will read what was written, and regions
 * that are written a lot are left to its end. To be called many times a second; it decides itself when to look. */
void mirror_source_absorb(struct mirror_source *m);

/* Begins a pass over what was marked since, and what was offered and refused. *ret_blocks 0: nothing was, no pass was begun.
 * When the tracker may have lost marks, all of the disk is dirty again (a few times; then -EIO), or, with `last`, the guest
 * stands still and it is -EIO. */
int mirror_source_begin_pass(struct mirror_source *m, bool last, uint64_t *ret_blocks, struct err *err);

/* So many octets of blocks that are written over and over may be left to the last pass (with `last`), 0 at first. They count as dirty. */
void mirror_source_put_off(struct mirror_source *m, uint64_t most);
/* Octets that are left to it. */
uint64_t mirror_source_is_put_off(const struct mirror_source *m);

/* The target has lost what it knew of the copy, if not the copy: chains begin anew, and the disk is to be offered by checksum
 * from its beginning, as with `reuse`. Called when the stream it had is destroyed. A bulk pass that was begun
 * before is begun again by mirror_source_attach; until then no other pass is. */
void mirror_source_forget(struct mirror_source *m);

/* Whether the copy is still worth going on with, in the middle of a pass too. Cheap. */
int mirror_source_check(struct mirror_source *m, struct err *err);

/* Nothing left to read in this pass and nothing in flight. Thread-safe. */
bool mirror_source_idle(struct mirror_source *m);

/* Octets marked and not in a pass yet, or refused and not yet sent; while the bulk pass is under way, about. */
uint64_t mirror_source_dirty(struct mirror_source *m);

/* The guest stands still: waits for its last writes, and after the last pass compares counts. */
int mirror_source_drain(struct mirror_source *m, uint64_t timeout_ns, struct err *err);
int mirror_source_audit(struct mirror_source *m, struct err *err);

/* What the target must hold (docs/protocol.md, block chains). Idle only. */
uint64_t mirror_source_digest(struct mirror_source *m);

void mirror_source_stats(struct mirror_source *m, struct mirror_source_stats *ret);

#endif
