/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Chains, and the target's half fed with records made by hand. */
#include "base/bytes.h"
#include "mirror/chain.h"
#include "mirror/mirror-target.h"
#include "transport/compress.h"

#include "mem-disk.h"

#include <xxhash.h>

#define CHUNK     WIRE_DISK_BLOCK_MAX
#define DISK_SIZE (4 * (uint64_t)CHUNK)
#define BLOCKS    4u

/* ---- chains ---- */

static struct wire_disk_block block(uint64_t offset, uint32_t length, uint64_t checksum)
{
    return (struct wire_disk_block){.offset = offset, .length = length, .checksum = checksum};
}

static uint64_t digest_of(const struct wire_disk_block *blocks, size_t count)
{
    struct chain c;
    uint64_t digest;

    ck_assert_int_eq(chain_init(&c, DISK_SIZE), 0);
    for (size_t i = 0; i < count; i++)
        chain_fold(&c, &blocks[i]);
    digest = chain_digest(&c);
    chain_finish(&c);
    return digest;
}

START_TEST(empty_chains_are_zeroes)
{
    static const uint8_t zeroes[8 * 3];
    struct chain c;

    ck_assert_int_eq(chain_init(&c, 2 * CHUNK + 512), 0);
    ck_assert_uint_eq(c.count, 3);
    ck_assert_uint_eq(chain_digest(&c), XXH3_64bits(zeroes, sizeof(zeroes)));
    chain_finish(&c);
}
END_TEST

START_TEST(digest_is_as_the_paper_says)
{
    const struct wire_disk_block b = {
        .offset = CHUNK + 4096, .length = 512, .kind = WIRE_BLOCK_ZERO, .checksum = 0};
    uint8_t link[32], links[8 * 4] = {0};

    put_be64(link, 0);
    put_be64(link + 8, b.offset);
    put_be64(link + 16, 512 + (UINT64_C(1) << 32));
    put_be64(link + 24, 0);
    put_be64(links + 8, XXH3_64bits(link, sizeof(link)));
    ck_assert_uint_eq(digest_of(&b, 1), XXH3_64bits(links, sizeof(links)));
}
END_TEST

START_TEST(twice_is_not_once)
{
    const struct wire_disk_block b[] = {block(0, 4096, 7), block(0, 4096, 7)};

    ck_assert_uint_ne(digest_of(b, 1), digest_of(b, 2));
}
END_TEST

START_TEST(order_within_a_chunk_counts)
{
    const struct wire_disk_block ab[] = {block(0, 4096, 1), block(4096, 4096, 2)};
    const struct wire_disk_block ba[] = {block(4096, 4096, 2), block(0, 4096, 1)};

    ck_assert_uint_ne(digest_of(ab, 2), digest_of(ba, 2));
}
END_TEST

START_TEST(order_of_chunks_does_not_count)
{
    const struct wire_disk_block ab[] = {block(0, 4096, 1), block(CHUNK, 4096, 2)};
    const struct wire_disk_block ba[] = {block(CHUNK, 4096, 2), block(0, 4096, 1)};

    ck_assert_uint_eq(digest_of(ab, 2), digest_of(ba, 2));
}
END_TEST

START_TEST(every_field_counts)
{
    const struct wire_disk_block base = block(0, 4096, 0);
    struct wire_disk_block other[] = {base, base, base, base};
    uint64_t digest = digest_of(&base, 1);

    other[0].offset = 4096;
    other[1].length = 8192;
    other[2].kind = WIRE_BLOCK_ZERO;
    other[3].checksum = 1;
    for (size_t i = 0; i < ARRAY_SIZE(other); i++)
        ck_assert_uint_ne(digest_of(&other[i], 1), digest);
}
END_TEST

/* ---- the target ---- */

static struct mem_disk disk;
static struct mirror_target *target;
static struct err err;
static struct wire_need need;

static uint64_t written(void)
{
    struct mirror_target_stats stats;

    mirror_target_stats(target, &stats);
    return stats.written;
}

static void target_make(void)
{
    mem_disk_make(&disk, DISK_SIZE);
    ck_assert_int_eq(mirror_target_create(&target, &(struct mirror_target_config){.dev = &disk.base}, &err), 0);
}

static void target_remove(void)
{
    mirror_target_destroy(target);
    mem_disk_remove(&disk);
}

/* One DISK_DATA record of BLOCKS blocks of 4 KiB, one in every chunk. */
struct made {
    struct wire_disk_head head;
    uint8_t blocks[BLOCKS * WIRE_DISK_BLOCK_SIZE];
    uint8_t payload[BLOCKS * 4096u];
};

static void make_record(struct made *m, uint64_t step)
{
    uint64_t random = 42;

    fill_random(m->payload, sizeof(m->payload), &random);
    m->head = (struct wire_disk_head){
        .block_count = BLOCKS, .raw_length = sizeof(m->payload), .encoded_length = sizeof(m->payload)};
    for (uint32_t i = 0; i < BLOCKS; i++) {
        struct wire_disk_block b = block(i * step, 4096, XXH3_64bits(m->payload + 4096 * i, 4096));

        wire_put_disk_block(m->blocks + i * WIRE_DISK_BLOCK_SIZE, &b);
    }
}

static void set_block(struct made *m, uint32_t i, const struct wire_disk_block *b)
{
    wire_put_disk_block(m->blocks + i * WIRE_DISK_BLOCK_SIZE, b);
}

static void check_untouched(void)
{
    ck_assert_uint_eq(disk.writes + disk.zeroes, 0);
    ck_assert_uint_eq(mirror_target_digest(target), digest_of(NULL, 0));
    ck_assert_uint_eq(written(), 0);
}

START_TEST(blocks_land_where_they_belong)
{
    static struct made m;

    target_make();
    make_record(&m, CHUNK);
    ck_assert_int_eq(mirror_target_write(target, &m.head, m.blocks, m.payload, &need, &err), 0);
    for (uint32_t i = 0; i < BLOCKS; i++) {
        ck_assert_mem_eq(disk.data + (uint64_t)i * CHUNK, m.payload + 4096 * i, 4096);
        ck_assert(is_zero(disk.data + (uint64_t)i * CHUNK + 4096, CHUNK - 4096));
    }
    ck_assert_uint_eq(written(), sizeof(m.payload));
    target_remove();
}
END_TEST

START_TEST(neighbours_are_written_together)
{
    static struct made m;

    target_make();
    make_record(&m, 4096);
    ck_assert_int_eq(mirror_target_write(target, &m.head, m.blocks, m.payload, &need, &err), 0);
    ck_assert_uint_eq(disk.writes, 1);
    ck_assert_mem_eq(disk.data, m.payload, sizeof(m.payload));
    target_remove();
}
END_TEST

START_TEST(zero_block_between_data)
{
    static struct made m;
    const struct wire_disk_block zero = {.offset = 4096, .length = 4096, .kind = WIRE_BLOCK_ZERO};

    target_make();
    make_record(&m, 4096);
    memset(disk.data, 0xee, DISK_SIZE);
    set_block(&m, 1, &zero);
    /* The payload of block 1 is not there: the others move up. */
    memmove(m.payload + 4096, m.payload + 8192, 8192);
    m.head.raw_length = m.head.encoded_length = 3 * 4096;
    ck_assert_int_eq(mirror_target_write(target, &m.head, m.blocks, m.payload, &need, &err), 0);
    ck_assert_uint_eq(disk.zeroes, 1);
    ck_assert_mem_eq(disk.data, m.payload, 4096);
    ck_assert(is_zero(disk.data + 4096, 4096));
    ck_assert_mem_eq(disk.data + 8192, m.payload + 4096, 8192);
    ck_assert_uint_eq(disk.data[BLOCKS * 4096], 0xee);
    target_remove();
}
END_TEST

/* What a peer may do, if none of ours does: the last one counts. */
START_TEST(blocks_upon_one_another_are_written_in_turn)
{
    static struct made m;
    struct wire_disk_block b;

    target_make();
    make_record(&m, CHUNK);
    wire_get_disk_block(m.blocks + 2 * WIRE_DISK_BLOCK_SIZE, &b);
    b.offset = 0;
    set_block(&m, 2, &b);
    ck_assert_int_eq(mirror_target_write(target, &m.head, m.blocks, m.payload, &need, &err), 0);
    ck_assert_mem_eq(disk.data, m.payload + 8192, 4096);
    ck_assert_mem_eq(disk.data + CHUNK, m.payload + 4096, 4096);
    b = (struct wire_disk_block){.offset = 3 * CHUNK, .length = 4096, .kind = WIRE_BLOCK_ZERO};
    set_block(&m, 3, &b);
    wire_get_disk_block(m.blocks + 2 * WIRE_DISK_BLOCK_SIZE, &b);
    b.offset = 3 * CHUNK;
    set_block(&m, 2, &b);
    m.head.raw_length = m.head.encoded_length = 3 * 4096;
    ck_assert_int_eq(mirror_target_write(target, &m.head, m.blocks, m.payload, &need, &err), 0);
    ck_assert(is_zero(disk.data + 3 * CHUNK, 4096));
    target_remove();
}
END_TEST

START_TEST(damage_is_refused_before_anything_is_written)
{
    static struct made m;

    target_make();
    make_record(&m, CHUNK);
    m.payload[sizeof(m.payload) - 1] ^= 1; /* of the last block */
    ck_assert_int_eq(mirror_target_write(target, &m.head, m.blocks, m.payload, &need, &err), -EBADMSG);
    ck_assert_ptr_nonnull(strstr(err.text, "4096 octets at 196608"));
    check_untouched();
    target_remove();
}
END_TEST

START_TEST(zstd_record_is_written)
{
    static struct made m;
    static uint8_t frame[sizeof(m.payload)];
    size_t len;

    target_make();
    make_record(&m, 4096);
    memset(m.payload, 0x11, sizeof(m.payload));
    for (uint32_t i = 0; i < BLOCKS; i++) {
        struct wire_disk_block b = block(i * 4096, 4096, XXH3_64bits(m.payload, 4096));

        set_block(&m, i, &b);
    }
    ck_assert_int_eq(compress_encode(frame, sizeof(frame), m.payload, sizeof(m.payload), 1, &len), 0);
    m.head.encoding = WIRE_ZSTD;
    m.head.encoded_length = (uint32_t)len;
    ck_assert_int_eq(mirror_target_write(target, &m.head, m.blocks, frame, &need, &err), 0);
    ck_assert_mem_eq(disk.data, m.payload, sizeof(m.payload));
    target_remove();
}
END_TEST

START_TEST(broken_frame_is_refused)
{
    static struct made m;
    size_t len;
    static uint8_t frame[2 * sizeof(m.payload)];

    target_make();
    make_record(&m, CHUNK);
    ck_assert_int_eq(compress_encode(frame, sizeof(frame), m.payload, sizeof(m.payload), 1, &len), 0);
    m.head.encoding = WIRE_ZSTD;
    m.head.encoded_length = (uint32_t)len - 1;
    ck_assert_int_eq(mirror_target_write(target, &m.head, m.blocks, frame, &need, &err), -EPROTO);
    check_untouched();
    target_remove();
}
END_TEST

START_TEST(failing_write_is_not_in_the_chain)
{
    static struct made m;

    target_make();
    make_record(&m, CHUNK);
    disk.fail_write = ENOSPC;
    ck_assert_int_eq(mirror_target_write(target, &m.head, m.blocks, m.payload, &need, &err), -ENOSPC);
    ck_assert_uint_eq(mirror_target_digest(target), digest_of(NULL, 0));
    ck_assert_uint_eq(written(), 0);
    target_remove();
}
END_TEST

START_TEST(flush_reaches_the_disk)
{
    target_make();
    ck_assert_int_eq(mirror_target_flush(target, &err), 0);
    ck_assert_uint_eq(disk.flushes, 1);
    disk.fail_flush = EIO;
    ck_assert_int_eq(mirror_target_flush(target, &err), -EIO);
    target_remove();
}
END_TEST

UNIT_MAIN("mirror-target", empty_chains_are_zeroes, digest_is_as_the_paper_says, twice_is_not_once,
          order_within_a_chunk_counts, order_of_chunks_does_not_count, every_field_counts,
          blocks_land_where_they_belong, neighbours_are_written_together, zero_block_between_data,
          blocks_upon_one_another_are_written_in_turn,
          damage_is_refused_before_anything_is_written, zstd_record_is_written, broken_frame_is_refused,
          failing_write_is_not_in_the_chain, flush_reaches_the_disk)
