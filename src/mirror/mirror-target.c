/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/mirror-target.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "mirror/chain.h"
#include "transport/compress.h"

#include <stdlib.h>
#include <xxhash.h>

struct mirror_target {
    struct blockdev *dev;
    struct chain chain;
    uint64_t written; /* atomic */
};

int mirror_target_create(struct mirror_target **ret, struct blockdev *dev, struct err *err)
{
    struct mirror_target *m = calloc(1, sizeof(*m));

    if (!m || chain_init(&m->chain, dev->size) < 0) {
        blockdev_close(dev);
        free(m);
        return err_set(err, -ENOMEM, "out of memory");
    }
    m->dev = dev;
    *ret = m;
    return 0;
}

void mirror_target_destroy(struct mirror_target *m)
{
    if (!m)
        return;
    blockdev_close(m->dev);
    chain_finish(&m->chain);
    free(m);
}

static int check_blocks(const struct wire_disk_head *head, const uint8_t *blocks, const uint8_t *payload,
                        struct err *err)
{
    for (uint32_t i = 0; i < head->block_count; i++) {
        struct wire_disk_block b;

        wire_get_disk_block(blocks + i * WIRE_DISK_BLOCK_SIZE, &b);
        if (b.kind != WIRE_BLOCK_DATA)
            continue;
        if (XXH3_64bits(payload, b.length) != b.checksum)
            return err_set(err, -EBADMSG,
                           "the block of %u octets at %llu is not what was read at the source (checksum)",
                           b.length, (unsigned long long)b.offset);
        payload += b.length;
    }
    return 0;
}

/* Writes runs of neighbouring data blocks in one go. */
static int write_blocks(struct mirror_target *m, const struct wire_disk_head *head, const uint8_t *blocks,
                        const uint8_t *payload, struct err *err)
{
    uint32_t i = 0;
    int r;

    while (i < head->block_count) {
        struct wire_disk_block b;
        uint64_t length;

        wire_get_disk_block(blocks + i * WIRE_DISK_BLOCK_SIZE, &b);
        length = b.length;
        for (i++; i < head->block_count; i++) {
            struct wire_disk_block next;

            wire_get_disk_block(blocks + i * WIRE_DISK_BLOCK_SIZE, &next);
            if (next.kind != b.kind || next.offset != b.offset + length)
                break;
            length += next.length;
        }
        if (b.kind == WIRE_BLOCK_ZERO) {
            r = m->dev->ops->zero(m->dev, length, b.offset, err);
        } else {
            r = m->dev->ops->pwrite(m->dev, payload, length, b.offset, err);
            payload += length;
        }
        if (r < 0)
            return r;
    }
    return 0;
}

int mirror_target_write(struct mirror_target *m, const struct wire_disk_head *head, const uint8_t *blocks,
                        const uint8_t *payload, struct err *err)
{
    CLEANUP_FREE void *raw = NULL;
    int r;

    if (head->encoding == WIRE_ZSTD) {
        if (posix_memalign(&raw, BLOCKDEV_ALIGN, MAX(head->raw_length, 1u)))
            return err_set(err, -ENOMEM, "out of memory");
        r = compress_decode(raw, head->raw_length, payload, head->encoded_length, err);
        if (r < 0)
            return r;
        payload = raw;
    }
    r = check_blocks(head, blocks, payload, err);
    if (r < 0)
        return r;
    r = write_blocks(m, head, blocks, payload, err);
    if (r < 0)
        return r;
    for (uint32_t i = 0; i < head->block_count; i++) {
        struct wire_disk_block b;

        wire_get_disk_block(blocks + i * WIRE_DISK_BLOCK_SIZE, &b);
        chain_fold(&m->chain, &b);
    }
    (void)__atomic_add_fetch(&m->written, head->raw_length, __ATOMIC_RELAXED);
    return 0;
}

int mirror_target_flush(struct mirror_target *m, struct err *err)
{
    return m->dev->ops->flush(m->dev, err);
}

uint64_t mirror_target_digest(struct mirror_target *m)
{
    return chain_digest(&m->chain);
}

uint64_t mirror_target_written(struct mirror_target *m)
{
    return __atomic_load_n(&m->written, __ATOMIC_RELAXED);
}
