/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How strongly one connection compresses: decided by what is waited for. What an octet on the wire costs in time is taken from
 * acknowledgements, what compressing costs and saves from what is compressed and from samples of what is not. No clocks, no threads, no zstd:
 * it is told everything. */
#ifndef XMOTION_TRANSPORT_COMPRESS_CHOICE_H
#define XMOTION_TRANSPORT_COMPRESS_CHOICE_H

#include <stdbool.h>
#include <stdint.h>

enum compress_mode {
    COMPRESS_NONE,
    COMPRESS_AUTO,
    COMPRESS_ALWAYS, /* zstd level 1 */
};

#define COMPRESS_LEVELS 5
#define COMPRESS_SAMPLE (64u << 10) /* octets of a sample; less when there is less */

struct compress_choice {
    enum compress_mode mode;
    unsigned int chosen; /* index of a level; 0 is none */
    struct {
        double ratio; /* compressed to raw */
        double cost;  /* ns a raw octet */
        bool known;
    } tried[COMPRESS_LEVELS];
    double wire; /* ns an octet on the wire took; 0: not known yet */
    uint64_t begin_ns, acked, compress_ns, away_ns; /* of the window under way; begin_ns 0: there is none */
    bool sample_due;
    unsigned int samples;
};

void compress_choice_init(struct compress_choice *c, enum compress_mode mode);

/* The zstd level for the next record; 0: none. */
int compress_choice_level(const struct compress_choice *c);

/* A record goes plain: true when a piece of it should be compressed as a sample, at *ret_level. */
bool compress_choice_sample(struct compress_choice *c, int *ret_level);

/* So many raw octets were compressed at that level (a record, or a sample) in so much processor time. `encoded` is `raw` when it did not pay. */
void compress_choice_tried(struct compress_choice *c, int level, uint64_t raw, uint64_t encoded, uint64_t ns);

/* A record is sent, and none was in flight. */
void compress_choice_busy(struct compress_choice *c, uint64_t now_ns);

/* So long the worker was busy with its source, of which `compress_ns` were compressing: a slow disk is no slow wire. */
void compress_choice_away(struct compress_choice *c, uint64_t ns, uint64_t compress_ns);

/* The peer has acknowledged so many octets of the wire. `idle`: nothing is in flight any more. */
void compress_choice_acked(struct compress_choice *c, uint64_t octets, bool idle, uint64_t now_ns);

#endif
