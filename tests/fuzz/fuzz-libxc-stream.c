/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The stream reader on anything: the first octet chooses between a bare libxc stream and libxl's.
 * What is read is written again, and must come out as it went in, but for records of holes. */
#include "fuzz.h"

#include <sys/uio.h>

/* Memory, and no file: system calls would be most of the time. A step of 1 MiB would be the rest of it. */
static int fake_read_full(int fd, void *buf, size_t len);
static ssize_t fake_writev(int fd, const struct iovec *iov, int count);
#define READ_STEP    64u
#define fd_read_full fake_read_full
#define writev       fake_writev
#include "memsync/libxc-stream.c"

struct check {
    const uint8_t *expected;
    size_t left;
};

static struct input stream;
static uint8_t written[8u << 20];
static size_t written_length;

static int fake_read_full(int fd, void *buf, size_t len)
{
    if (len > stream.left)
        return -ENODATA;
    memcpy(buf, stream.at, len);
    stream.at += len;
    stream.left -= len;
    return 0;
}

/* Takes a part now and then, as a pipe does. */
static ssize_t fake_writev(int fd, const struct iovec *iov, int count)
{
    size_t length = 0;

    for (int i = 0; i < count; i++) {
        CHECK(iov[i].iov_len <= sizeof(written) - written_length - length);
        memcpy(written + written_length + length, iov[i].iov_base, iov[i].iov_len);
        length += iov[i].iov_len;
    }
    length -= length > 100 && written_length % 7 == 0 ? length / 3 : 0;
    written_length += length;
    return (ssize_t)length;
}

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
    CHECK(len <= c->left && !memcmp(octets, c->expected, len));
    c->expected += len;
    c->left -= len;
    return 0;
}

static int take_some_pages(void *data, const uint64_t *entries, uint32_t count, const uint8_t *pages, struct err *err)
{
    struct check *c = data;

    written_length = 0;
    CHECK(!libxc_write_pages(-1, entries, count, pages, err));
    skip_holes(c);
    CHECK(written_length > 16 && written_length <= c->left);
    memcpy(written + 12, c->expected + 12, 4); /* reserved, not kept */
    return take_octets(c, written, written_length, err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct libxc_reader_ops ops = {.pages = take_some_pages, .octets = take_octets};
    struct err err = {0};
    struct check c;
    bool bare;

    stream = (struct input){data, size};
    bare = take_u8(&stream) & 1;
    c = (struct check){.expected = stream.at, .left = stream.left};
    if (libxc_stream_read(-1, bare, &ops, &c, &err) == 0) {
        CHECK(c.left == stream.left); /* END came out, and not one octet more was read */
    } else {
        CHECK(err.code == -EPROTO && *err.text);
    }
    return 0;
}
