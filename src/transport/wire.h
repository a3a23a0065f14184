/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The twin of docs/protocol.md: numbers, sizes and limits of the wire, and the checks of what comes
 * from a peer that are pure functions of the octets. */
#ifndef XMOTION_TRANSPORT_WIRE_H
#define XMOTION_TRANSPORT_WIRE_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define WIRE_PROTOCOL 1
#define WIRE_MAGIC    0x584du /* "XM" */

enum wire_type {
    WIRE_HELLO = 1,
    WIRE_PREPARE = 2,
    WIRE_PREPARED = 3,
    WIRE_MEMORY_BEGIN = 4,
    WIRE_MEMORY_READY = 5,
    WIRE_MEMORY_RECORD = 6,
    WIRE_EPOCH_END = 7,
    WIRE_FINAL = 8,
    WIRE_READY = 9,
    WIRE_GO = 10,
    WIRE_RUNNING = 11,
    WIRE_ABORT = 12,
    WIRE_ABORTED = 13,
    WIRE_FAILED = 14,
    WIRE_PING = 15,
    WIRE_PONG = 16,
    WIRE_CHECK = 17,
    WIRE_CHECKED = 18,
    WIRE_EPOCH_BEGIN = 19,
    WIRE_SETTLED = 20,
    WIRE_RESUMED = 21,
    WIRE_ASK = 22,
    WIRE_ANSWER = 23,
    WIRE_FORGET = 24,
    WIRE_DISK_DATA = 32,
    WIRE_MEMORY_PAGES = 33,
    WIRE_ACK = 34,
    WIRE_NEED = 35,
};

/* Name for messages, "type N" unknown ones being "unknown". */
const char *wire_type_name(uint16_t type);

#define WIRE_HEADER_SIZE 16u
#define WIRE_CONTROL_MAX (1u << 20)
#define WIRE_DATA_MAX    ((1u << 20) + (64u << 10))
#define WIRE_PAYLOAD_MAX (1u << 20)

struct wire_header {
    uint16_t type;
    uint32_t length;
    uint64_t sequence;
};

void wire_put_header(uint8_t out[WIRE_HEADER_SIZE], const struct wire_header *h);

/* Checks magic, a known type, the sequence number and `max_length`; -EPROTO with what came. */
int wire_get_header(const uint8_t in[WIRE_HEADER_SIZE], uint64_t expected_sequence,
                    uint32_t max_length, struct wire_header *ret, struct err *err);

enum wire_encoding { WIRE_PLAIN = 0, WIRE_ZSTD = 1 };

/* DISK_DATA */
#define WIRE_DISK_HEAD_SIZE  16u
#define WIRE_DISK_BLOCK_SIZE 24u
#define WIRE_DISK_BLOCKS_MAX 256u
#define WIRE_DISK_BLOCK_MAX  65536u /* octets a block; also the reach of a chain */
#define WIRE_SECTOR          512u

/* KEEP is an offer: all of a 64 KiB by its checksum, without its content. */
enum wire_block_kind { WIRE_BLOCK_DATA = 0, WIRE_BLOCK_ZERO = 1, WIRE_BLOCK_KEEP = 2 };

struct wire_disk_head {
    uint16_t disk;
    uint16_t encoding;
    uint32_t block_count;
    uint32_t raw_length;
    uint32_t encoded_length;
};

struct wire_disk_block {
    uint64_t offset;
    uint32_t length;
    uint16_t kind;
    uint64_t checksum;
};

void wire_put_disk_head(uint8_t *out, const struct wire_disk_head *h);
void wire_put_disk_block(uint8_t *out, const struct wire_disk_block *b);
void wire_get_disk_block(const uint8_t *in, struct wire_disk_block *ret);

/* Checks a whole DISK_DATA body (counts against lengths, every block against the rules and
 * `disk_sizes`, the sum against the raw length) before anything of it is used. On success the
 * blocks are read with wire_get_disk_block(body + WIRE_DISK_HEAD_SIZE + i * WIRE_DISK_BLOCK_SIZE),
 * and the payload starts at *ret_payload. */
int wire_check_disk_data(const uint8_t *body, uint32_t length, const uint64_t *disk_sizes,
                         uint32_t disk_count, struct wire_disk_head *ret,
                         const uint8_t **ret_payload, struct err *err);

/* NEED: the KEEP blocks of one record that the receiver holds otherwise. */
#define WIRE_NEED_SIZE  40u
#define WIRE_NEED_WORDS (WIRE_DISK_BLOCKS_MAX / 64)

struct wire_need {
    uint64_t record;                  /* number of the record among the connection's data records, from 0 */
    uint64_t blocks[WIRE_NEED_WORDS]; /* block i of it: bit i % 64 of word i / 64 */
};

static inline bool wire_need_block(const struct wire_need *n, uint32_t i)
{
    return n->blocks[i / 64] >> (i % 64) & 1;
}

static inline void wire_need_set(struct wire_need *n, uint32_t i)
{
    n->blocks[i / 64] |= UINT64_C(1) << (i % 64);
}

bool wire_need_empty(const struct wire_need *n);
void wire_put_need(uint8_t out[WIRE_NEED_SIZE], const struct wire_need *n);

/* Checks the length and that a block is named; -EPROTO. Whether the record exists and which of its blocks were offered
 * is for the caller to check. */
int wire_get_need(const uint8_t *body, uint32_t length, struct wire_need *ret, struct err *err);

/* MEMORY_PAGES */
#define WIRE_PAGES_HEAD_SIZE 32u
#define WIRE_PAGES_MAX       256u
#define WIRE_PAGE_SIZE       4096u
#define WIRE_PFN_MASK        UINT64_C(0x000fffffffffffff)
#define WIRE_PFN_ZERO        (UINT64_C(1) << 52)
#define WIRE_PFN_KEPT        (UINT64_C(1) << 53) /* both ends keep this page */
#define WIRE_PFN_DELTA       (UINT64_C(1) << 54) /* its data is the exclusive or with what was kept */
#define WIRE_PFN_TYPE_MASK   UINT64_C(0xf000000000000000)
#define WIRE_PFN_TYPE_SHIFT  60

/* libxc's page types 0 to 8 and 0x9-0xc (pinned page tables) carry data; 0xd broken, 0xe allocate
 * only and 0xf none do not (xen/include/public/domctl.h, XEN_DOMCTL_PFINFO_*). */
static inline bool wire_pfn_has_data(uint64_t entry)
{
    return (entry >> WIRE_PFN_TYPE_SHIFT) < 0xd && !(entry & WIRE_PFN_ZERO);
}

struct wire_pages_head {
    uint64_t epoch;
    uint32_t page_count;
    uint16_t encoding;
    uint32_t raw_length;
    uint32_t encoded_length;
    uint64_t checksum;
};

void wire_put_pages_head(uint8_t *out, const struct wire_pages_head *h);
static inline uint32_t wire_pages_overhead(uint32_t count)
{
    return WIRE_PAGES_HEAD_SIZE + 8 * count;
}

/* As wire_check_disk_data. Entries are big-endian u64 at body + WIRE_PAGES_HEAD_SIZE. `max_pfn`: no
 * PFN may be larger. Flags of kept pages make sense in themselves; what is kept is for the caller to know. */
int wire_check_pages(const uint8_t *body, uint32_t length, uint64_t max_pfn,
                     struct wire_pages_head *ret, const uint8_t **ret_payload, struct err *err);

/* Folds one block into the chain of its 64 KiB (docs/protocol.md, block chains); a KEEP block begins it anew. */
uint64_t wire_chain_fold(uint64_t chain, const struct wire_disk_block *b);

#endif
