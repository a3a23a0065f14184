/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The body of a DISK_DATA record, from the check to the disk. The first octet: 1 mends the checksums of the blocks, as a peer
 * that means harm would, so that what comes behind them is reached; 2 the disk is read back; 4 it does not hold what is
 * written; 8 it knows its holes. */
#include "fuzz.h"

#include "base/bytes.h"
#include "base/checksum.h"
#include "base/log.h"
#include "mirror/mirror-target.h"
#include "transport/compress.h"
#include "transport/wire.h"

#define DISK_SIZE KIB(256)

static uint8_t content[DISK_SIZE];
static uint64_t written, dirty_from, dirty_to;
static uint8_t choice;

static int disk_pread(struct blockdev *b, void *buf, size_t len, uint64_t offset, struct err *err)
{
    CHECK(offset <= b->size && len <= b->size - offset);
    memcpy(buf, content + offset, len);
    return 0;
}

static int disk_pwrite(struct blockdev *b, const void *buf, size_t len, uint64_t offset, struct err *err)
{
    CHECK(len > 0 && offset <= b->size && len <= b->size - offset && offset % WIRE_SECTOR == 0);
    touch(buf, len);
    if (!(choice & 4)) {
        memcpy(content + offset, buf, len);
        dirty_from = MIN(dirty_from, offset);
        dirty_to = MAX(dirty_to, offset + len);
    }
    written += len;
    return 0;
}

static int disk_zero(struct blockdev *b, uint64_t len, uint64_t offset, struct err *err)
{
    CHECK(len > 0 && offset <= b->size && len <= b->size - offset && offset % WIRE_SECTOR == 0);
    if (!(choice & 4))
        memset(content + offset, 0, len);
    return 0;
}

static int disk_flush(struct blockdev *b, struct err *err)
{
    return 0;
}

static int disk_extent(struct blockdev *b, uint64_t offset, uint64_t *ret_length, bool *ret_zero, struct err *err)
{
    *ret_length = choice & 8 ? WIRE_SECTOR : b->size - offset;
    *ret_zero = choice & 8 && !content[offset];
    return 0;
}

static void disk_close(struct blockdev *b)
{
}

static struct mirror_target *target(void)
{
    static const struct blockdev_ops ops = {.name = "fuzz", .pread = disk_pread, .pwrite = disk_pwrite, .zero = disk_zero,
                                            .flush = disk_flush, .extent = disk_extent, .close = disk_close};
    static struct blockdev disk = {.ops = &ops, .size = DISK_SIZE, .sector_size = 512};
    static struct mirror_target *plain, *verified;
    struct err err;

    if (!plain)
        CHECK(mirror_target_create(&plain, &(struct mirror_target_config){.dev = &disk}, &err) == 0 &&
              mirror_target_create(&verified, &(struct mirror_target_config){.dev = &disk, .back = &disk}, &err) == 0);
    return choice & 2 ? verified : plain;
}

/* Writes the right checksum into every block that carries one. */
static void mend(uint8_t *blocks, const struct wire_disk_head *h, const uint8_t *payload)
{
    uint8_t *raw = malloc(h->raw_length + 1u);
    struct err err;

    CHECK(raw);
    if (h->encoding == WIRE_PLAIN)
        memcpy(raw, payload, h->raw_length);
    else if (compress_decode(raw, h->raw_length, payload, h->encoded_length, &err) < 0)
        memset(raw, 0, h->raw_length);
    payload = raw;
    for (uint32_t i = 0; i < h->block_count; i++, blocks += WIRE_DISK_BLOCK_SIZE) {
        struct wire_disk_block b;

        wire_get_disk_block(blocks, &b);
        if (b.kind != WIRE_BLOCK_DATA)
            continue;
        b.checksum = checksum(payload, b.length);
        payload += b.length;
        wire_put_disk_block(blocks, &b);
    }
    free(raw);
}

/* Only what was offered is asked for. */
static void check_needs(const uint8_t *blocks, const struct wire_disk_head *h, const struct wire_need *need)
{
    for (uint32_t i = 0; i < WIRE_DISK_BLOCKS_MAX; i++) {
        struct wire_disk_block b;

        if (!wire_need_block(need, i))
            continue;
        CHECK(i < h->block_count);
        wire_get_disk_block(blocks + (size_t)i * WIRE_DISK_BLOCK_SIZE, &b);
        CHECK(b.kind == WIRE_BLOCK_KEEP);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint64_t sizes[] = {DISK_SIZE, 512, 0, UINT64_MAX, UINT64_C(1) << 60};
    struct input in = {data, size};
    struct wire_need need = {0};
    struct wire_disk_head h;
    const uint8_t *payload;
    struct err err;
    size_t length;
    uint8_t *body;

    log_set_level(LOG_ERROR);
    choice = take_u8(&in);
    body = take_block(&in, WIRE_DATA_MAX, &length);
    if (wire_check_disk_data(body, (uint32_t)length, sizes, ARRAY_SIZE(sizes), &h, &payload, &err) == 0) {
        CHECK(payload >= body && (size_t)(payload - body) + h.encoded_length == length);
        CHECK(h.disk < ARRAY_SIZE(sizes) && h.raw_length <= WIRE_PAYLOAD_MAX);
        if (choice & 1)
            mend(body + WIRE_DISK_HEAD_SIZE, &h, payload);
        written = dirty_to = 0;
        dirty_from = DISK_SIZE;
        if (h.disk == 0 && mirror_target_write(target(), &h, body + WIRE_DISK_HEAD_SIZE, payload, &need, &err) == 0)
            CHECK(written >= h.raw_length);
        check_needs(body + WIRE_DISK_HEAD_SIZE, &h, &need);
        if (dirty_to > dirty_from)
            memset(content + dirty_from, 0, dirty_to - dirty_from);
    }
    free(body);
    return 0;
}
