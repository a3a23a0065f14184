/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an NBD server says of extents, sizes and limits, through libnbd's calls: eight octets each for the disk's size, the smallest and
 * the largest block, one of abilities; then pairs of a length and flags, as many as the next octet says, for each question. */
#include "fuzz.h"

#include "mirror/blockdev-nbd.c"

static struct input in;
static uint64_t disk_size, block_smallest, block_largest;
static uint8_t abilities;

struct nbd_handle *nbd_create(void)
{
    return (struct nbd_handle *)&in;
}

void nbd_close(struct nbd_handle *h)
{
}

int nbd_shutdown(struct nbd_handle *h, uint32_t flags)
{
    return 0;
}

const char *nbd_get_error(void)
{
    return "pretended";
}

int nbd_get_errno(void)
{
    return EIO;
}

int nbd_add_meta_context(struct nbd_handle *h, const char *name)
{
    return 0;
}

int nbd_connect_uri(struct nbd_handle *h, const char *uri)
{
    return 0;
}

int64_t nbd_get_size(struct nbd_handle *h)
{
    return (int64_t)disk_size;
}

int64_t nbd_get_block_size(struct nbd_handle *h, int type)
{
    return (int64_t)(type == LIBNBD_SIZE_MINIMUM ? block_smallest : block_largest);
}

int nbd_is_read_only(struct nbd_handle *h)
{
    return abilities & 1;
}

int nbd_can_zero(struct nbd_handle *h)
{
    return !!(abilities & 2);
}

int nbd_can_flush(struct nbd_handle *h)
{
    return !!(abilities & 4);
}

int nbd_can_meta_context(struct nbd_handle *h, const char *name)
{
    return !!(abilities & 8);
}

int nbd_can_multi_conn(struct nbd_handle *h)
{
    return !!(abilities & 16);
}

int nbd_pread(struct nbd_handle *h, void *buf, size_t count, uint64_t offset, uint32_t flags)
{
    CHECK(count > 0 && count <= (32u << 20) && offset <= disk_size && count <= disk_size - offset);
    memset(buf, 0, count);
    return 0;
}

int nbd_pwrite(struct nbd_handle *h, const void *buf, size_t count, uint64_t offset, uint32_t flags)
{
    CHECK(count > 0 && count <= (32u << 20) && offset <= disk_size && count <= disk_size - offset);
    touch(buf, count);
    return 0;
}

int nbd_zero(struct nbd_handle *h, uint64_t count, uint64_t offset, uint32_t flags)
{
    CHECK(count > 0 && offset <= disk_size && count <= disk_size - offset);
    return 0;
}

int nbd_flush(struct nbd_handle *h, uint32_t flags)
{
    return 0;
}

int nbd_block_status(struct nbd_handle *h, uint64_t count, uint64_t offset, nbd_extent_callback callback, uint32_t flags)
{
    size_t entries = take_u8(&in) % 9;
    uint32_t *list = malloc(entries * sizeof(*list) + 1);
    int error = 0;

    CHECK(list && count > 0 && offset <= disk_size && count <= disk_size - offset);
    for (size_t i = 0; i < entries; i++)
        list[i] = (uint32_t)take_number(&in, 4);
    (void)callback.callback(callback.user_data, in.left % 2 ? "base:allocation" : "other:context", offset, list, entries, &error);
    free(list);
    return error ? -1 : 0;
}

/* All of the disk that a few answers reach: every run is at least one octet and ends with the disk at most. */
static void walk(struct blockdev *b)
{
    uint64_t offset = 0, length;
    struct err err;
    bool zero;

    while (offset < b->size && in.left) {
        CHECK(b->ops->extent(b, offset, &length, &zero, &err) == 0);
        CHECK(length > 0 && length <= b->size - offset);
        offset += length;
    }
}

static void use(struct blockdev *b)
{
    uint64_t length = b->size < 64 ? b->size : 64;
    uint8_t buffer[64] = {0};
    struct err err;

    CHECK(b->size == disk_size && (b->sector_size == 512 || b->sector_size == 4096));
    walk(b);
    if (!length)
        return;
    CHECK(b->ops->pread(b, buffer, length, b->size - length, &err) == 0);
    CHECK(b->ops->pwrite(b, buffer, length, b->size - length, &err) == 0);
    CHECK(b->ops->zero(b, length, 0, &err) == 0 && b->ops->flush(b, &err) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = {0};
    struct blockdev *b;

    in = (struct input){data, size};
    disk_size = take_number(&in, 8);
    block_smallest = take_number(&in, 8);
    block_largest = take_number(&in, 8);
    abilities = take_u8(&in);
    if (blockdev_open_nbd(&b, "nbd://host", in.left % 3 ? BLOCKDEV_WRITE : 0, 4, &err) == 0) {
        use(b);
        blockdev_close(b);
    } else {
        CHECK(err.code < 0 && *err.text);
    }
    return 0;
}
