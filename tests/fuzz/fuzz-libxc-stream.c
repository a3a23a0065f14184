/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The stream reader on anything: the first octet chooses between a bare libxc stream and libxl's.
 * What is read is written again, and must come out as it went in, but for records of holes. */
#include "base/bytes.h"
#include "base/fdio.h"
#include "memsync/libxc-stream.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct check {
    const uint8_t *expected;
    size_t left;
    int fd;
};

/* Records that are all holes do not come out. */
static void skip_holes(struct check *c)
{
    while (c->left >= 24 && get_le32(c->expected) == 1) {
        uint32_t length = get_le32(c->expected + 4), count = get_le32(c->expected + 8);

        if (!count || count > LIBXC_PAGES_MAX || length != 8 + 8 * count || length + 8 > c->left)
            return;
        for (uint32_t i = 0; i < count; i++)
            if (get_le64(c->expected + 16 + 8 * (size_t)i) >> 60 != 0xf)
                return;
        c->expected += 8 + length;
        c->left -= 8 + length;
    }
}

static int take_octets(void *data, const uint8_t *octets, size_t len, struct err *err)
{
    struct check *c = data;

    skip_holes(c);
    assert(len <= c->left && !memcmp(octets, c->expected, len));
    c->expected += len;
    c->left -= len;
    return 0;
}

static int take_pages(void *data, const uint64_t *entries, uint32_t count, const uint8_t *pages,
                      struct err *err)
{
    static uint8_t written[8u << 20];
    struct check *c = data;
    off_t length;

    assert(!ftruncate(c->fd, 0) && !lseek(c->fd, 0, SEEK_SET));
    assert(!libxc_write_pages(c->fd, entries, count, pages, err));
    length = lseek(c->fd, 0, SEEK_END);
    assert(length > 0 && (size_t)length <= sizeof(written) &&
           !fd_pread_full(c->fd, written, (size_t)length, 0));
    skip_holes(c);
    assert((size_t)length <= c->left);
    memcpy(written + 12, c->expected + 12, 4); /* reserved, not kept */
    return take_octets(c, written, (size_t)length, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct libxc_reader_ops ops = {.pages = take_pages, .octets = take_octets};
    struct check c;
    struct err err;
    int in;

    if (!size)
        return 0;
    in = memfd_create("in", MFD_CLOEXEC);
    c = (struct check){
        .expected = data + 1, .left = size - 1, .fd = memfd_create("out", MFD_CLOEXEC)};
    assert(in >= 0 && c.fd >= 0 && !fd_pwrite_full(in, data + 1, size - 1, 0));
    (void)libxc_stream_read(in, data[0] & 1, &ops, &c, &err);
    close(in);
    close(c.fd);
    return 0;
}
