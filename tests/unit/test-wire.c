/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The wire's codec: what is written is read again, and every rule of docs/protocol.md is refused
 * when broken. */
#include "transport/wire.h"

#include "base/bytes.h"
#include "transport/compress.h"

#include "unit.h"

#include <string.h>
#include <xxhash.h>
#include <zstd.h>

/* A change of one field in an otherwise good body. */
struct damage {
    const char *what;
    uint32_t at, width; /* octets */
    uint64_t value;
};

static void apply(uint8_t *body, const struct damage *d)
{
    for (uint32_t i = 0; i < d->width; i++)
        body[d->at + i] = (uint8_t)(d->value >> (8 * (d->width - 1 - i)));
}

START_TEST(header_round_trip)
{
    const struct wire_header h = {
        .type = WIRE_ACK, .length = 8, .sequence = UINT64_C(0x0102030405060708)};
    uint8_t raw[WIRE_HEADER_SIZE];
    const uint8_t expected[] = {'X', 'M', 0, 34, 0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8};
    struct wire_header back;
    struct err err;

    wire_put_header(raw, &h);
    ck_assert_mem_eq(raw, expected, sizeof(raw));
    ck_assert_int_eq(wire_get_header(raw, h.sequence, 8, &back, &err), 0);
    ck_assert_uint_eq(back.type, h.type);
    ck_assert_uint_eq(back.length, h.length);
    ck_assert_uint_eq(back.sequence, h.sequence);
}
END_TEST

START_TEST(header_refusals)
{
    static const struct damage damages[] = {
        {"magic", 0, 2, 0x584e}, {"type 0", 2, 2, 0},          {"type 25", 2, 2, 25},
        {"type 36", 2, 2, 36},   {"type 65535", 2, 2, 0xffff}, {"over the limit", 4, 4, 101},
        {"huge", 4, 4, ~0u},     {"next sequence", 8, 8, 8},   {"old sequence", 8, 8, 6},
    };

    for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
        uint8_t raw[WIRE_HEADER_SIZE];
        struct wire_header back;
        struct err err = {0};

        wire_put_header(raw,
                        &(struct wire_header){.type = WIRE_PING, .length = 100, .sequence = 7});
        ck_assert_int_eq(wire_get_header(raw, 7, 100, &back, &err), 0);
        apply(raw, &damages[i]);
        ck_assert_msg(wire_get_header(raw, 7, 100, &back, &err) == -EPROTO, "%s", damages[i].what);
        ck_assert_int_ne(err.text[0], '\0');
    }
}
END_TEST

START_TEST(type_names)
{
    ck_assert_str_eq(wire_type_name(WIRE_HELLO), "HELLO");
    ck_assert_str_eq(wire_type_name(WIRE_CHECKED), "CHECKED");
    ck_assert_str_eq(wire_type_name(WIRE_ACK), "ACK");
    ck_assert_str_eq(wire_type_name(WIRE_RESUMED), "RESUMED");
    ck_assert_str_eq(wire_type_name(WIRE_FORGET), "FORGET");
    ck_assert_str_eq(wire_type_name(WIRE_NEED), "NEED");
    ck_assert_str_eq(wire_type_name(0), "unknown");
    ck_assert_str_eq(wire_type_name(25), "unknown");
    ck_assert_str_eq(wire_type_name(65535), "unknown");
}
END_TEST

static const uint64_t disk_sizes[] = {UINT64_C(1) << 20, 131072 + 512};

#define DISK_BODY (16 + 2 * 24 + 1024)

/* A data block at the very end of disk 1 after a zero block. */
static void good_disk(uint8_t body[DISK_BODY])
{
    const struct wire_disk_head h = {.disk = 1,
                                     .encoding = WIRE_PLAIN,
                                     .block_count = 2,
                                     .raw_length = 1024,
                                     .encoded_length = 1024};
    const struct wire_disk_block zero = {.offset = 131072, .length = 512, .kind = WIRE_BLOCK_ZERO};
    const struct wire_disk_block data = {
        .offset = 65536, .length = 1024, .kind = WIRE_BLOCK_DATA, .checksum = 99};

    memset(body, 0xa5, DISK_BODY);
    wire_put_disk_head(body, &h);
    wire_put_disk_block(body + 16, &zero);
    wire_put_disk_block(body + 40, &data);
}

START_TEST(disk_data_good)
{
    uint8_t body[DISK_BODY];
    struct wire_disk_head h;
    struct wire_disk_block b;
    const uint8_t *payload;
    struct err err;

    good_disk(body);
    ck_assert_int_eq(wire_check_disk_data(body, sizeof(body), disk_sizes, 2, &h, &payload, &err),
                     0);
    ck_assert_uint_eq(h.disk, 1);
    ck_assert_uint_eq(h.block_count, 2);
    ck_assert_ptr_eq(payload, body + 64);
    wire_get_disk_block(body + 40, &b);
    ck_assert_uint_eq(b.offset, 65536);
    ck_assert_uint_eq(b.length, 1024);
    ck_assert_uint_eq(b.checksum, 99);
}
END_TEST

START_TEST(disk_data_refusals)
{
    static const struct damage damages[] = {
        {"no such disk", 0, 2, 2},
        {"encoding", 2, 2, 2},
        {"zstd bigger than said", 2, 4, 1u << 16 | 0xffff},
        {"no blocks", 4, 4, 0},
        {"a block too many", 4, 4, 3},
        {"257 blocks", 4, 4, 257},
        {"2^32 / 24 blocks", 4, 4, 178956971},
        {"raw too large", 8, 4, WIRE_PAYLOAD_MAX + 512},
        {"raw and encoded differ", 8, 4, 512},
        {"encoded too large", 12, 4, 0xfffffff0},
        {"encoded shorter", 12, 4, 1023},
        {"raw and encoded nothing", 8, 8, 0},
        {"zero block: odd offset", 16, 8, 131073},
        {"zero block: beyond the end", 16, 8, 131072 + 512},
        {"zero block: far beyond", 16, 8, ~UINT64_C(511)},
        {"zero block: over the end", 24, 4, 1024},
        {"zero block: length 0", 24, 4, 0},
        {"zero block: length odd", 24, 4, 511},
        {"zero block: unknown kind", 28, 2, 3},
        {"zero block: becomes data", 28, 2, 0},
        {"zero block: reserved", 30, 2, 1},
        {"zero block: checksum", 32, 8, 1},
        {"data block: crosses 64 KiB", 40, 8, 65536 - 512},
        {"data block: longer than 64 KiB", 48, 4, 65536 + 512},
        {"data block: length wraps", 48, 4, 0xfffffe00},
        {"data block: other length", 48, 4, 512},
        {"data block: becomes zero", 52, 2, 1},
        {"data block: becomes an offer of a part", 52, 2, 2},
    };

    for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
        uint8_t body[DISK_BODY];
        struct wire_disk_head h;
        const uint8_t *payload;
        struct err err = {0};

        good_disk(body);
        apply(body, &damages[i]);
        ck_assert_msg(wire_check_disk_data(body, sizeof(body), disk_sizes, 2, &h, &payload, &err) ==
                          -EPROTO,
                      "%s", damages[i].what);
        ck_assert_int_ne(err.text[0], '\0');
    }
}
END_TEST

/* Cut anywhere, or with octets too many: -EPROTO, and nothing beyond the length is read (ASan
 * looks). */
START_TEST(disk_data_lengths)
{
    uint8_t body[DISK_BODY + 1];
    struct wire_disk_head h;
    const uint8_t *payload;
    struct err err;

    memset(body, 0, sizeof(body));
    good_disk(body);
    for (uint32_t length = 0; length <= sizeof(body); length++) {
        uint8_t *exact = malloc(length ? length : 1);
        int r;

        memcpy(exact, body, length);
        r = wire_check_disk_data(exact, length, disk_sizes, 2, &h, &payload, &err);
        ck_assert_int_eq(r, length == DISK_BODY ? 0 : -EPROTO);
        free(exact);
    }
}
END_TEST

#define KEEP_BODY (16 + 2 * 24)

/* Offers of the first 64 KiB and of the 512 octets at the end of disk 1. */
static void good_offers(uint8_t body[KEEP_BODY])
{
    const struct wire_disk_head h = {.disk = 1, .encoding = WIRE_PLAIN, .block_count = 2};
    const struct wire_disk_block first = {.offset = 0, .length = 65536, .kind = WIRE_BLOCK_KEEP, .checksum = 5};
    const struct wire_disk_block last = {.offset = 131072, .length = 512, .kind = WIRE_BLOCK_KEEP};

    wire_put_disk_head(body, &h);
    wire_put_disk_block(body + 16, &first);
    wire_put_disk_block(body + 40, &last);
}

static int check_offers(const struct damage *d)
{
    uint8_t body[KEEP_BODY];
    struct wire_disk_head h;
    const uint8_t *payload;
    struct err err;

    good_offers(body);
    if (d)
        apply(body, d);
    return wire_check_disk_data(body, sizeof(body), disk_sizes, 2, &h, &payload, &err);
}

START_TEST(offers_of_whole_chunks)
{
    static const struct damage damages[] = {
        {"part of a chunk", 24, 4, 65536 - 512},
        {"not at its beginning", 16, 8, 512},
        {"part of one, not at its beginning", 22, 6, 0x02000000fe00},
        {"the last is longer than the disk", 48, 4, 1024},
        {"a chunk before the last, as short as the last", 40, 8, 65536},
        {"beyond the disk", 40, 8, 196608},
        {"a payload", 8, 8, UINT64_C(512) << 32 | 512},
        {"reserved", 30, 2, 1},
        {"kind 3", 28, 2, 3},
    };

    ck_assert_int_eq(check_offers(NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(damages); i++)
        ck_assert_msg(check_offers(&damages[i]) == -EPROTO, "%s", damages[i].what);
}
END_TEST

START_TEST(need_round_trip)
{
    struct wire_need n = {.record = UINT64_C(0x0102030405060708)}, back;
    uint8_t body[WIRE_NEED_SIZE + 1] = {0};
    struct err err;

    ck_assert(wire_need_empty(&n));
    for (uint32_t i = 0; i < WIRE_DISK_BLOCKS_MAX; i += 51)
        wire_need_set(&n, i);
    ck_assert(!wire_need_empty(&n));
    wire_put_need(body, &n);
    ck_assert_uint_eq(get_be64(body), n.record);
    ck_assert_uint_eq(get_be64(body + 8), UINT64_C(1) << 51 | 1); /* blocks 0 and 51; then 102, 153, 204 and 255 */
    ck_assert_uint_eq(get_be64(body + 32), UINT64_C(1) << 63 | UINT64_C(1) << 12);
    ck_assert_int_eq(wire_get_need(body, WIRE_NEED_SIZE, &back, &err), 0);
    for (uint32_t i = 0; i < WIRE_DISK_BLOCKS_MAX; i++)
        ck_assert_int_eq(wire_need_block(&back, i), i % 51 == 0);
    ck_assert_int_eq(wire_get_need(body, WIRE_NEED_SIZE - 1, &back, &err), -EPROTO);
    ck_assert_int_eq(wire_get_need(body, WIRE_NEED_SIZE + 1, &back, &err), -EPROTO);
    ck_assert_int_eq(wire_get_need(body, 0, &back, &err), -EPROTO);
    memset(body + 8, 0, 32);
    ck_assert_int_eq(wire_get_need(body, WIRE_NEED_SIZE, &back, &err), -EPROTO);
}
END_TEST

#define PAGES_BODY (32 + 3 * 8 + 4096)

/* One page with data, one of zeroes, one broken. */
static void good_pages(uint8_t body[PAGES_BODY])
{
    const struct wire_pages_head h = {.epoch = 3,
                                      .page_count = 3,
                                      .encoding = WIRE_PLAIN,
                                      .raw_length = 4096,
                                      .encoded_length = 4096,
                                      .checksum = 77};

    memset(body, 0x5a, PAGES_BODY);
    wire_put_pages_head(body, &h);
    put_be64(body + 32, UINT64_C(9) << 60 | 0xff);
    put_be64(body + 40, WIRE_PFN_ZERO | 1);
    put_be64(body + 48, UINT64_C(0xd) << 60 | 2);
}

START_TEST(pages_good)
{
    uint8_t body[PAGES_BODY];
    struct wire_pages_head h;
    const uint8_t *payload;
    struct err err;

    good_pages(body);
    ck_assert_int_eq(wire_check_pages(body, sizeof(body), 0xff, &h, &payload, &err), 0);
    ck_assert_uint_eq(h.epoch, 3);
    ck_assert_uint_eq(h.page_count, 3);
    ck_assert_uint_eq(h.checksum, 77);
    ck_assert_ptr_eq(payload, body + wire_pages_overhead(3));
}
END_TEST

START_TEST(pages_kept_and_deltas_are_good)
{
    static const uint64_t flags[] = {WIRE_PFN_KEPT, WIRE_PFN_KEPT | WIRE_PFN_DELTA};
    uint8_t body[PAGES_BODY];
    struct wire_pages_head h;
    const uint8_t *payload;
    struct err err;

    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        good_pages(body);
        put_be64(body + 32, UINT64_C(9) << 60 | flags[i] | 0xff);
        ck_assert_int_eq(wire_check_pages(body, sizeof(body), 0xff, &h, &payload, &err), 0);
    }
}
END_TEST

START_TEST(pages_refusals)
{
    static const struct damage damages[] = {
        {"no pages", 8, 4, 0},
        {"a page too many", 8, 4, 4},
        {"257 pages", 8, 4, 257},
        {"2^29 pages", 8, 4, 1u << 29},
        {"encoding", 12, 2, 2},
        {"reserved", 14, 2, 1},
        {"raw too large", 16, 4, WIRE_PAYLOAD_MAX + 4096},
        {"raw shorter", 16, 4, 4095},
        {"raw and encoded nothing", 16, 8, 0},
        {"encoded too large", 20, 4, ~0u},
        {"PFN above the highest", 32, 8, 0x100},
        {"reserved bit 55", 32, 8, UINT64_C(1) << 55},
        {"reserved bit 59", 32, 8, UINT64_C(1) << 59},
        {"zero flag where data is", 32, 8, WIRE_PFN_ZERO},
        {"data where the zero flag was", 40, 8, 1},
        {"data where a broken page was", 48, 8, 2},
        {"a delta that is not kept", 32, 8, WIRE_PFN_DELTA},
        {"a zero page that is kept", 40, 8, WIRE_PFN_ZERO | WIRE_PFN_KEPT},
        {"a delta of a zero page", 40, 8, WIRE_PFN_ZERO | WIRE_PFN_KEPT | WIRE_PFN_DELTA},
        {"a broken page that is kept", 48, 8, UINT64_C(0xd) << 60 | WIRE_PFN_KEPT | 2},
    };

    for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
        uint8_t body[PAGES_BODY];
        struct wire_pages_head h;
        const uint8_t *payload;
        struct err err = {0};

        good_pages(body);
        apply(body, &damages[i]);
        ck_assert_msg(wire_check_pages(body, sizeof(body), 0xff, &h, &payload, &err) == -EPROTO,
                      "%s", damages[i].what);
        ck_assert_int_ne(err.text[0], '\0');
    }
}
END_TEST

START_TEST(pages_lengths)
{
    uint8_t body[PAGES_BODY + 1];
    struct wire_pages_head h;
    const uint8_t *payload;
    struct err err;

    memset(body, 0, sizeof(body));
    good_pages(body);
    for (uint32_t length = 0; length <= sizeof(body); length++) {
        uint8_t *exact = malloc(length ? length : 1);
        int r;

        memcpy(exact, body, length);
        r = wire_check_pages(exact, length, 0xff, &h, &payload, &err);
        ck_assert_int_eq(r, length == PAGES_BODY ? 0 : -EPROTO);
        free(exact);
    }
}
END_TEST

/* The hash over the four integers as docs/protocol.md writes them, and every field counts. */
START_TEST(chain_depends_on_everything)
{
    const struct wire_disk_block b = {
        .offset = 65536, .length = 4096, .kind = WIRE_BLOCK_DATA, .checksum = 5};
    struct wire_disk_block c = b;
    static const uint8_t as_written[32] = {[13] = 1, [22] = 16, [31] = 5};
    uint64_t one = wire_chain_fold(0, &b);

    ck_assert_uint_eq(one, XXH3_64bits(as_written, sizeof(as_written)));
    ck_assert_uint_eq(one, wire_chain_fold(0, &c));
    ck_assert_uint_ne(one, wire_chain_fold(1, &c));
    c.kind = WIRE_BLOCK_ZERO;
    ck_assert_uint_ne(one, wire_chain_fold(0, &c));
    c = b;
    c.length = 512;
    ck_assert_uint_ne(one, wire_chain_fold(0, &c));
    c = b;
    c.checksum = 6;
    ck_assert_uint_ne(one, wire_chain_fold(0, &c));
    c.kind = WIRE_BLOCK_KEEP; /* begins anew */
    ck_assert_uint_eq(wire_chain_fold(0, &c), wire_chain_fold(one, &c));
}
END_TEST

START_TEST(compress_round_trip)
{
    static uint8_t raw[65536], frame[65536], back[65536];
    struct err err;
    size_t n;

    for (size_t i = 0; i < sizeof(raw); i++)
        raw[i] = (uint8_t)(i / 100);
    ck_assert_int_eq(compress_encode(frame, sizeof(frame), raw, sizeof(raw), 1, &n), 0);
    ck_assert_uint_lt(n, sizeof(raw) / 4);
    ck_assert_int_eq(compress_decode(back, sizeof(back), frame, n, &err), 0);
    ck_assert_mem_eq(back, raw, sizeof(raw));
    srand(1);
    for (size_t i = 0; i < sizeof(raw); i++)
        raw[i] = (uint8_t)rand();
    ck_assert_int_eq(compress_encode(frame, sizeof(frame), raw, sizeof(raw), 1, &n), -ENOSPC);
}
END_TEST

/* A frame that claims, or has, more or less than it should; cut, followed by something, of another
 * kind. */
START_TEST(compress_hostile)
{
    static const uint8_t skippable[] = {0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4};
    static uint8_t raw[65536], frame[65536 + 64], back[65536 + 64];
    struct err err;
    ZSTD_CCtx *c = ZSTD_createCCtx();
    size_t n;

    ck_assert_int_eq(compress_encode(frame, 65536, raw, sizeof(raw), 1, &n), 0);
    memset(back, 0x77, sizeof(back));
    ck_assert_int_eq(compress_decode(back, 512, frame, n, &err), -EPROTO);
    ck_assert_int_eq(compress_decode(back, 65537, frame, n, &err), -EPROTO);
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut ? cut : 1);

        memcpy(exact, frame, cut);
        ck_assert_int_eq(compress_decode(back, sizeof(raw), exact, cut, &err), -EPROTO);
        free(exact);
    }
    ck_assert_int_eq(compress_decode(back, sizeof(raw), frame, n + 1, &err), -EPROTO);
    memcpy(frame + n, skippable, sizeof(skippable));
    ck_assert_int_eq(compress_decode(back, sizeof(raw), frame, n + sizeof(skippable), &err),
                     -EPROTO);
    ck_assert_int_eq(compress_decode(back, 1, skippable, sizeof(skippable), &err), -EPROTO);

    /* A frame that does not say its size: decoded into what is there and no octet further. */
    (void)ZSTD_CCtx_setParameter(c, ZSTD_c_contentSizeFlag, 0);
    n = ZSTD_compress2(c, frame, sizeof(frame), raw, sizeof(raw));
    (void)ZSTD_freeCCtx(c);
    memset(back, 0x77, sizeof(back));
    ck_assert_int_eq(compress_decode(back, 4096, frame, n, &err), -EPROTO);
    for (size_t i = 4096; i < sizeof(back); i++)
        ck_assert_uint_eq(back[i], 0x77);
    ck_assert_int_eq(compress_decode(back, sizeof(raw), frame, n, &err), 0);
}
END_TEST

UNIT_MAIN("wire", header_round_trip, header_refusals, type_names, disk_data_good,
          disk_data_refusals, disk_data_lengths, offers_of_whole_chunks, need_round_trip, pages_good,
          pages_kept_and_deltas_are_good, pages_refusals, pages_lengths,
          chain_depends_on_everything, compress_round_trip, compress_hostile)
