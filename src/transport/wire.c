/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Octets to structs and back, and the checks of what a peer sent. Every count is held against its
 * limit before it takes part in arithmetic, so that nothing below can wrap. */
#include "transport/wire.h"

#include "base/bytes.h"
#include "base/checksum.h"

#include <assert.h>
#include <inttypes.h>
#include <stddef.h>

static_assert(WIRE_DISK_HEAD_SIZE + WIRE_DISK_BLOCKS_MAX * WIRE_DISK_BLOCK_SIZE +
                      WIRE_PAYLOAD_MAX <=
                  WIRE_DATA_MAX,
              "the largest DISK_DATA fits a record");
static_assert(WIRE_PAGES_HEAD_SIZE + 8 * WIRE_PAGES_MAX + WIRE_PAYLOAD_MAX <= WIRE_DATA_MAX,
              "the largest MEMORY_PAGES fits a record");
static_assert(WIRE_PAGES_MAX * WIRE_PAGE_SIZE <= WIRE_PAYLOAD_MAX,
              "the pages of one record fit its payload");
static_assert(WIRE_DISK_BLOCK_MAX % WIRE_SECTOR == 0, "blocks are whole sectors");

#define PFN_FLAGS         (WIRE_PFN_ZERO | WIRE_PFN_KEPT | WIRE_PFN_DELTA)
#define PFN_RESERVED_MASK (~(WIRE_PFN_MASK | PFN_FLAGS | WIRE_PFN_TYPE_MASK))

/* Where the fields stand in their structs: docs/protocol.md. */
enum { HEADER_TYPE = 2, HEADER_LENGTH = 4, HEADER_SEQUENCE = 8 };
enum { DISK_INDEX = 0, DISK_ENCODING = 2, DISK_COUNT = 4, DISK_RAW = 8, DISK_ENCODED = 12 };
enum {
    BLOCK_OFFSET = 0,
    BLOCK_LENGTH = 8,
    BLOCK_KIND = 12,
    BLOCK_RESERVED = 14,
    BLOCK_CHECKSUM = 16
};
enum {
    PAGES_EPOCH = 0,
    PAGES_COUNT = 8,
    PAGES_ENCODING = 12,
    PAGES_RESERVED = 14,
    PAGES_RAW = 16,
    PAGES_ENCODED = 20,
    PAGES_CHECKSUM = 24
};
enum { NEED_RECORD = 0, NEED_BLOCKS = 8 };

static_assert(HEADER_SEQUENCE + 8 == WIRE_HEADER_SIZE, "record header");
static_assert(DISK_ENCODED + 4 == WIRE_DISK_HEAD_SIZE, "DISK_DATA head");
static_assert(BLOCK_CHECKSUM + 8 == WIRE_DISK_BLOCK_SIZE, "DISK_DATA block");
static_assert(PAGES_CHECKSUM + 8 == WIRE_PAGES_HEAD_SIZE, "MEMORY_PAGES head");
static_assert(NEED_BLOCKS + WIRE_DISK_BLOCKS_MAX / 8 == WIRE_NEED_SIZE, "NEED names any block of a record");

static const char *const type_names[] = {
    [WIRE_HELLO] = "HELLO",
    [WIRE_PREPARE] = "PREPARE",
    [WIRE_PREPARED] = "PREPARED",
    [WIRE_MEMORY_BEGIN] = "MEMORY_BEGIN",
    [WIRE_MEMORY_READY] = "MEMORY_READY",
    [WIRE_MEMORY_RECORD] = "MEMORY_RECORD",
    [WIRE_EPOCH_END] = "EPOCH_END",
    [WIRE_FINAL] = "FINAL",
    [WIRE_READY] = "READY",
    [WIRE_GO] = "GO",
    [WIRE_RUNNING] = "RUNNING",
    [WIRE_ABORT] = "ABORT",
    [WIRE_ABORTED] = "ABORTED",
    [WIRE_FAILED] = "FAILED",
    [WIRE_PING] = "PING",
    [WIRE_PONG] = "PONG",
    [WIRE_CHECK] = "CHECK",
    [WIRE_CHECKED] = "CHECKED",
    [WIRE_EPOCH_BEGIN] = "EPOCH_BEGIN",
    [WIRE_SETTLED] = "SETTLED",
    [WIRE_RESUMED] = "RESUMED",
    [WIRE_ASK] = "ASK",
    [WIRE_ANSWER] = "ANSWER",
    [WIRE_FORGET] = "FORGET",
    [WIRE_DISK_DATA] = "DISK_DATA",
    [WIRE_MEMORY_PAGES] = "MEMORY_PAGES",
    [WIRE_ACK] = "ACK",
    [WIRE_NEED] = "NEED",
};

static bool type_is_known(uint16_t type)
{
    return type < ARRAY_SIZE(type_names) && type_names[type];
}

const char *wire_type_name(uint16_t type)
{
    return type_is_known(type) ? type_names[type] : "unknown";
}

void wire_put_header(uint8_t out[WIRE_HEADER_SIZE], const struct wire_header *h)
{
    put_be16(out, WIRE_MAGIC);
    put_be16(out + HEADER_TYPE, h->type);
    put_be32(out + HEADER_LENGTH, h->length);
    put_be64(out + HEADER_SEQUENCE, h->sequence);
}

int wire_get_header(const uint8_t in[WIRE_HEADER_SIZE], uint64_t expected_sequence,
                    uint32_t max_length, struct wire_header *ret, struct err *err)
{
    struct wire_header h = {
        .type = get_be16(in + HEADER_TYPE),
        .length = get_be32(in + HEADER_LENGTH),
        .sequence = get_be64(in + HEADER_SEQUENCE),
    };

    if (get_be16(in) != WIRE_MAGIC)
        return err_set(err, -EPROTO, "a record begins with 0x%04x instead of \"XM\"",
                       (unsigned int)get_be16(in));
    if (!type_is_known(h.type))
        return err_set(err, -EPROTO, "a record has the unknown type %u", (unsigned int)h.type);
    if (h.sequence != expected_sequence)
        return err_set(err, -EPROTO,
                       "a %s record has sequence number %" PRIu64 " instead of %" PRIu64,
                       wire_type_name(h.type), h.sequence, expected_sequence);
    if (h.length > max_length)
        return err_set(err, -EPROTO,
                       "a %s record of %" PRIu32 " octets is over the limit of %" PRIu32,
                       wire_type_name(h.type), h.length, max_length);
    *ret = h;
    return 0;
}

void wire_put_disk_head(uint8_t *out, const struct wire_disk_head *h)
{
    put_be16(out + DISK_INDEX, h->disk);
    put_be16(out + DISK_ENCODING, h->encoding);
    put_be32(out + DISK_COUNT, h->block_count);
    put_be32(out + DISK_RAW, h->raw_length);
    put_be32(out + DISK_ENCODED, h->encoded_length);
}

static void get_disk_head(const uint8_t *in, struct wire_disk_head *ret)
{
    ret->disk = get_be16(in + DISK_INDEX);
    ret->encoding = get_be16(in + DISK_ENCODING);
    ret->block_count = get_be32(in + DISK_COUNT);
    ret->raw_length = get_be32(in + DISK_RAW);
    ret->encoded_length = get_be32(in + DISK_ENCODED);
}

void wire_put_disk_block(uint8_t *out, const struct wire_disk_block *b)
{
    put_be64(out + BLOCK_OFFSET, b->offset);
    put_be32(out + BLOCK_LENGTH, b->length);
    put_be16(out + BLOCK_KIND, b->kind);
    put_be16(out + BLOCK_RESERVED, 0);
    put_be64(out + BLOCK_CHECKSUM, b->checksum);
}

void wire_get_disk_block(const uint8_t *in, struct wire_disk_block *ret)
{
    ret->offset = get_be64(in + BLOCK_OFFSET);
    ret->length = get_be32(in + BLOCK_LENGTH);
    ret->kind = get_be16(in + BLOCK_KIND);
    ret->checksum = get_be64(in + BLOCK_CHECKSUM);
}

/* What both kinds of data record say of their payload, whatever is in it. */
static int check_payload(const char *name, uint16_t encoding, uint32_t raw, uint32_t encoded,
                         struct err *err)
{
    if (encoding != WIRE_PLAIN && encoding != WIRE_ZSTD)
        return err_set(err, -EPROTO, "%s has the unknown encoding %u", name,
                       (unsigned int)encoding);
    if (raw > WIRE_PAYLOAD_MAX || encoded > WIRE_PAYLOAD_MAX)
        return err_set(err, -EPROTO,
                       "%s has a payload of %" PRIu32 " (encoded %" PRIu32
                       ") octets, over the limit of %u",
                       name, raw, encoded, WIRE_PAYLOAD_MAX);
    if (encoding == WIRE_PLAIN && raw != encoded)
        return err_set(err, -EPROTO,
                       "%s without encoding has %" PRIu32 " raw but %" PRIu32 " encoded octets",
                       name, raw, encoded);
    if (encoding == WIRE_ZSTD && (raw == 0 || encoded == 0))
        return err_set(err, -EPROTO, "%s encodes an empty payload", name);
    return 0;
}

/* `count` was checked: the table ends at 6 KiB at most. */
static int check_length(const char *name, uint32_t length, uint32_t table_end, uint32_t encoded,
                        struct err *err)
{
    uint32_t expected = table_end + encoded;

    assert(encoded <= WIRE_PAYLOAD_MAX && table_end <= WIRE_DATA_MAX - WIRE_PAYLOAD_MAX);
    if (length != expected)
        return err_set(err, -EPROTO, "%s is %" PRIu32 " octets long, its head says %" PRIu32, name,
                       length, expected);
    return 0;
}

static int check_block_place(const struct wire_disk_block *b, uint64_t disk_size, struct err *err)
{
    if (b->length == 0 || b->length > WIRE_DISK_BLOCK_MAX || b->length % WIRE_SECTOR ||
        b->offset % WIRE_SECTOR)
        return err_set(err, -EPROTO,
                       "a block has offset %" PRIu64 " and length %" PRIu32
                       ", not whole sectors up to %u",
                       b->offset, b->length, WIRE_DISK_BLOCK_MAX);
    if (b->offset > disk_size || b->length > disk_size - b->offset)
        return err_set(err, -EPROTO,
                       "a block at %" PRIu64 " of %" PRIu32 " octets is beyond the disk's %" PRIu64,
                       b->offset, b->length, disk_size);
    if (b->offset % WIRE_DISK_BLOCK_MAX + b->length > WIRE_DISK_BLOCK_MAX)
        return err_set(err, -EPROTO,
                       "a block at %" PRIu64 " of %" PRIu32 " octets crosses a multiple of %u",
                       b->offset, b->length, WIRE_DISK_BLOCK_MAX);
    return 0;
}

/* Only a whole 64 KiB can be offered: its chain begins anew, whatever was written before. */
static int check_offer(const struct wire_disk_block *b, uint64_t disk_size, struct err *err)
{
    uint64_t whole = MIN((uint64_t)WIRE_DISK_BLOCK_MAX, disk_size - b->offset);

    if (b->offset % WIRE_DISK_BLOCK_MAX == 0 && b->length == whole)
        return 0;
    return err_set(err, -EPROTO, "a KEEP block at %" PRIu64 " has %" PRIu32 " octets instead of all of its %u", b->offset,
                   b->length, WIRE_DISK_BLOCK_MAX);
}

static int check_block(const uint8_t *in, uint64_t disk_size, struct wire_disk_block *ret,
                       struct err *err)
{
    int r;

    wire_get_disk_block(in, ret);
    r = check_block_place(ret, disk_size, err);
    if (r < 0)
        return r;
    if (ret->kind > WIRE_BLOCK_KEEP)
        return err_set(err, -EPROTO, "a block has the unknown kind %u", (unsigned int)ret->kind);
    if (get_be16(in + BLOCK_RESERVED) != 0)
        return err_set(err, -EPROTO, "a block's reserved field is not 0");
    if (ret->kind == WIRE_BLOCK_ZERO && ret->checksum != 0)
        return err_set(err, -EPROTO, "a zero block carries a checksum");
    return ret->kind == WIRE_BLOCK_KEEP ? check_offer(ret, disk_size, err) : 0;
}

static int check_blocks(const uint8_t *table, const struct wire_disk_head *h, uint64_t disk_size,
                        struct err *err)
{
    uint32_t sum = 0; /* 256 blocks of 64 KiB: 16 MiB at most */

    for (uint32_t i = 0; i < h->block_count; i++) {
        struct wire_disk_block b;
        int r = check_block(table + (size_t)i * WIRE_DISK_BLOCK_SIZE, disk_size, &b, err);

        if (r < 0)
            return r;
        if (b.kind == WIRE_BLOCK_DATA)
            sum += b.length;
    }
    if (sum != h->raw_length)
        return err_set(err, -EPROTO,
                       "DISK_DATA has blocks of %" PRIu32 " octets but a raw payload of %" PRIu32,
                       sum, h->raw_length);
    return 0;
}

static int check_disk_head(const struct wire_disk_head *h, uint32_t length, uint32_t disk_count,
                           struct err *err)
{
    int r;

    if (h->disk >= disk_count)
        return err_set(err, -EPROTO, "DISK_DATA is for disk %u of %" PRIu32, (unsigned int)h->disk,
                       disk_count);
    if (h->block_count == 0 || h->block_count > WIRE_DISK_BLOCKS_MAX)
        return err_set(err, -EPROTO, "DISK_DATA has %" PRIu32 " blocks instead of 1 to %u",
                       h->block_count, WIRE_DISK_BLOCKS_MAX);
    r = check_payload("DISK_DATA", h->encoding, h->raw_length, h->encoded_length, err);
    if (r < 0)
        return r;
    return check_length("DISK_DATA", length,
                        WIRE_DISK_HEAD_SIZE + h->block_count * WIRE_DISK_BLOCK_SIZE,
                        h->encoded_length, err);
}

int wire_check_disk_data(const uint8_t *body, uint32_t length, const uint64_t *disk_sizes,
                         uint32_t disk_count, struct wire_disk_head *ret,
                         const uint8_t **ret_payload, struct err *err)
{
    struct wire_disk_head h;
    int r;

    if (length < WIRE_DISK_HEAD_SIZE)
        return err_set(err, -EPROTO, "DISK_DATA of %" PRIu32 " octets is shorter than its head",
                       length);
    get_disk_head(body, &h);
    r = check_disk_head(&h, length, disk_count, err);
    if (r < 0)
        return r;
    r = check_blocks(body + WIRE_DISK_HEAD_SIZE, &h, disk_sizes[h.disk], err);
    if (r < 0)
        return r;
    *ret = h;
    *ret_payload = body + WIRE_DISK_HEAD_SIZE + (size_t)h.block_count * WIRE_DISK_BLOCK_SIZE;
    return 0;
}

void wire_put_pages_head(uint8_t *out, const struct wire_pages_head *h)
{
    put_be64(out + PAGES_EPOCH, h->epoch);
    put_be32(out + PAGES_COUNT, h->page_count);
    put_be16(out + PAGES_ENCODING, h->encoding);
    put_be16(out + PAGES_RESERVED, 0);
    put_be32(out + PAGES_RAW, h->raw_length);
    put_be32(out + PAGES_ENCODED, h->encoded_length);
    put_be64(out + PAGES_CHECKSUM, h->checksum);
}

static void get_pages_head(const uint8_t *in, struct wire_pages_head *ret)
{
    ret->epoch = get_be64(in + PAGES_EPOCH);
    ret->page_count = get_be32(in + PAGES_COUNT);
    ret->encoding = get_be16(in + PAGES_ENCODING);
    ret->raw_length = get_be32(in + PAGES_RAW);
    ret->encoded_length = get_be32(in + PAGES_ENCODED);
    ret->checksum = get_be64(in + PAGES_CHECKSUM);
}

static int check_pages_head(const uint8_t *body, const struct wire_pages_head *h, uint32_t length,
                            struct err *err)
{
    int r;

    if (h->page_count == 0 || h->page_count > WIRE_PAGES_MAX)
        return err_set(err, -EPROTO, "MEMORY_PAGES has %" PRIu32 " pages instead of 1 to %u",
                       h->page_count, WIRE_PAGES_MAX);
    if (get_be16(body + PAGES_RESERVED) != 0)
        return err_set(err, -EPROTO, "the reserved field of MEMORY_PAGES is not 0");
    r = check_payload("MEMORY_PAGES", h->encoding, h->raw_length, h->encoded_length, err);
    if (r < 0)
        return r;
    return check_length("MEMORY_PAGES", length, wire_pages_overhead(h->page_count),
                        h->encoded_length, err);
}

static int check_entry(uint64_t entry, uint64_t max_pfn, struct err *err)
{
    if (entry & PFN_RESERVED_MASK)
        return err_set(err, -EPROTO, "the page entry 0x%016" PRIx64 " has reserved bits", entry);
    if ((entry & WIRE_PFN_MASK) > max_pfn)
        return err_set(err, -EPROTO,
                       "PFN 0x%" PRIx64 " is above the guest's highest, 0x%" PRIx64,
                       entry & WIRE_PFN_MASK, max_pfn);
    if (entry & WIRE_PFN_KEPT && !wire_pfn_has_data(entry))
        return err_set(err, -EPROTO, "PFN 0x%" PRIx64 " is to be kept, but has no data",
                       entry & WIRE_PFN_MASK);
    if (entry & WIRE_PFN_DELTA && !(entry & WIRE_PFN_KEPT))
        return err_set(err, -EPROTO, "PFN 0x%" PRIx64 " is a delta that is not to be kept",
                       entry & WIRE_PFN_MASK);
    return 0;
}

static int check_entries(const uint8_t *table, const struct wire_pages_head *h, uint64_t max_pfn,
                         struct err *err)
{
    uint32_t with_data = 0;

    for (uint32_t i = 0; i < h->page_count; i++) {
        uint64_t entry = get_be64(table + (size_t)i * 8);
        int r = check_entry(entry, max_pfn, err);

        if (r < 0)
            return r;
        with_data += wire_pfn_has_data(entry);
    }
    if (with_data * WIRE_PAGE_SIZE != h->raw_length)
        return err_set(err, -EPROTO,
                       "MEMORY_PAGES has %" PRIu32 " pages with data but a raw payload of %" PRIu32,
                       with_data, h->raw_length);
    return 0;
}

int wire_check_pages(const uint8_t *body, uint32_t length, uint64_t max_pfn,
                     struct wire_pages_head *ret, const uint8_t **ret_payload, struct err *err)
{
    struct wire_pages_head h;
    int r;

    if (length < WIRE_PAGES_HEAD_SIZE)
        return err_set(err, -EPROTO, "MEMORY_PAGES of %" PRIu32 " octets is shorter than its head",
                       length);
    get_pages_head(body, &h);
    r = check_pages_head(body, &h, length, err);
    if (r < 0)
        return r;
    r = check_entries(body + WIRE_PAGES_HEAD_SIZE, &h, max_pfn, err);
    if (r < 0)
        return r;
    *ret = h;
    *ret_payload = body + wire_pages_overhead(h.page_count);
    return 0;
}

bool wire_need_empty(const struct wire_need *n)
{
    uint64_t any = 0;

    for (uint32_t i = 0; i < WIRE_NEED_WORDS; i++)
        any |= n->blocks[i];
    return any == 0;
}

void wire_put_need(uint8_t out[WIRE_NEED_SIZE], const struct wire_need *n)
{
    put_be64(out + NEED_RECORD, n->record);
    for (uint32_t i = 0; i < WIRE_NEED_WORDS; i++)
        put_be64(out + NEED_BLOCKS + (size_t)i * 8, n->blocks[i]);
}

int wire_get_need(const uint8_t *body, uint32_t length, struct wire_need *ret, struct err *err)
{
    if (length != WIRE_NEED_SIZE)
        return err_set(err, -EPROTO, "NEED is %" PRIu32 " octets long instead of %u", length, WIRE_NEED_SIZE);
    ret->record = get_be64(body + NEED_RECORD);
    for (uint32_t i = 0; i < WIRE_NEED_WORDS; i++)
        ret->blocks[i] = get_be64(body + NEED_BLOCKS + (size_t)i * 8);
    return wire_need_empty(ret) ? err_set(err, -EPROTO, "NEED names no block") : 0;
}

uint64_t wire_chain_fold(uint64_t chain, const struct wire_disk_block *b)
{
    uint8_t in[32];

    put_be64(in, b->kind == WIRE_BLOCK_KEEP ? 0 : chain);
    put_be64(in + 8, b->offset);
    put_be64(in + 16, b->length + ((uint64_t)b->kind << 32));
    put_be64(in + 24, b->checksum);
    return checksum(in, sizeof(in));
}
