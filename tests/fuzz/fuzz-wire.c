/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Everything that looks at octets of a peer before they are believed. The first octet chooses; for
 * a good DISK_DATA or MEMORY_PAGES the parts that the check vouches for are really touched. */
#include "base/bytes.h"
#include "transport/compress.h"
#include "transport/wire.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink;

static void touch(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        sink += p[i];
}

static void decode(size_t raw, const uint8_t *payload, size_t len)
{
    uint8_t *out = malloc(raw ? raw : 1);
    struct err err;

    if (out && compress_decode(out, raw, payload, len, &err) == 0)
        touch(out, raw);
    free(out);
}

static void disk_data(const uint8_t *data, uint32_t size)
{
    static const uint64_t sizes[] = {UINT64_C(1) << 30, 512, 0, UINT64_MAX};
    struct wire_disk_head h;
    const uint8_t *payload;
    struct err err;

    if (wire_check_disk_data(data, size, sizes, ARRAY_SIZE(sizes), &h, &payload, &err) < 0)
        return;
    for (uint32_t i = 0; i < h.block_count; i++) {
        struct wire_disk_block b;

        wire_get_disk_block(data + WIRE_DISK_HEAD_SIZE + (size_t)i * WIRE_DISK_BLOCK_SIZE, &b);
        if (b.offset + b.length > sizes[h.disk])
            abort();
        sink = wire_chain_fold(sink, &b);
    }
    touch(payload, h.encoded_length);
    if (h.encoding == WIRE_ZSTD)
        decode(h.raw_length, payload, h.encoded_length);
}

static void pages(const uint8_t *data, uint32_t size)
{
    struct wire_pages_head h;
    const uint8_t *payload;
    struct err err;

    if (wire_check_pages(data, size, 0xfffff, &h, &payload, &err) < 0)
        return;
    for (uint32_t i = 0; i < h.page_count; i++)
        if ((get_be64(data + WIRE_PAGES_HEAD_SIZE + (size_t)i * 8) & WIRE_PFN_MASK) > 0xfffff)
            abort();
    touch(payload, h.encoded_length);
    if (h.encoding == WIRE_ZSTD)
        decode(h.raw_length, payload, h.encoded_length);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct wire_header header;
    struct err err;

    if (size < 1 || size > WIRE_DATA_MAX)
        return 0;
    switch (data[0] & 3) {
    case 0:
        if (size > WIRE_HEADER_SIZE &&
            wire_get_header(data + 1, 0, WIRE_CONTROL_MAX, &header, &err) == 0 &&
            header.length > WIRE_CONTROL_MAX)
            abort();
        break;
    case 1:
        disk_data(data + 1, (uint32_t)(size - 1));
        break;
    case 2:
        pages(data + 1, (uint32_t)(size - 1));
        break;
    default:
        if (size > 3)
            decode((size_t)get_be16(data + 1) + 1, data + 3, size - 3);
        break;
    }
    return 0;
}
