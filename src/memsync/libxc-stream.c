/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "memsync/libxc-stream.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/fdio.h"
#include "transport/wire.h"

#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/uio.h>

/* libxl's outer stream: header big-endian, records as the options say (always little on x86). */
#define LIBXL_IDENT          UINT64_C(0x4c6962786c466d74) /* "LibxlFmt" */
#define LIBXL_VERSION        2u
#define LIBXL_HEADER_SIZE    16u
#define LIBXL_OPTIONS_NONE   0u
#define LIBXL_END            0u
#define LIBXL_LIBXC_CONTEXT  1u
#define LIBXL_EMULATOR_STORE 2u
#define LIBXL_EMULATOR       3u

/* libxc's stream: image header, domain header, records. */
#define LIBXC_MARKER             UINT64_MAX
#define LIBXC_ID                 0x58454e46u /* "XENF" */
#define LIBXC_IMAGE_HEADER_SIZE  24u
#define LIBXC_DOMAIN_PV          1u
#define LIBXC_DOMAIN_HVM         2u
#define LIBXC_DOMAIN_HEADER_SIZE 16u
#define LIBXC_END                0x00u
#define LIBXC_PAGE_DATA          0x01u
#define LIBXC_VERIFY             0x0du
#define LIBXC_CHECKPOINT         0x0eu
#define LIBXC_CHECKPOINT_DIRTY   0x0fu

#define PAGE_TYPE_HOLE     0xfu /* XEN_DOMCTL_PFINFO_XTAB */
#define RECORD_HEADER_SIZE 8u
#define RECORD_OPTIONAL    0x80000000u
#define PAGES_HEADER_SIZE  8u
#ifndef READ_STEP
#define READ_STEP          (1u << 20)
#endif

struct reader {
    int fd;
    const struct libxc_reader_ops *ops;
    void *data;
    uint8_t *buffer; /* one record: header, body, padding; grows with what really came */
    size_t room;
    uint32_t type;   /* of the record in `buffer` */
    uint32_t length; /* of its body */
};

static int read_exactly(struct reader *r, void *to, size_t len, const char *what, struct err *err)
{
    int rc = fd_read_full(r->fd, to, len);

    if (rc == -ENODATA)
        return err_set(err, -EPROTO, "the stream ends in %s", what);
    return rc ? err_errno(err, rc, "reading %s", what) : 0;
}

static int reserve(struct reader *r, size_t room, struct err *err)
{
    uint8_t *buffer;

    if (room <= r->room)
        return 0;
    buffer = realloc(r->buffer, room);
    if (!buffer)
        return err_errno(err, -ENOMEM, "a record of %zu octets", room);
    r->buffer = buffer;
    r->room = room;
    return 0;
}

/* Reads a record's header and body into the buffer. Memory is taken as octets come, not as a length
 * claims. */
static int read_record_body(struct reader *r, uint32_t max, const char *what, struct err *err)
{
    size_t whole, have = RECORD_HEADER_SIZE;

    if (r->length > max)
        return err_set(err, -EPROTO, "%s of type 0x%x has %u octets, more than %u", what, r->type,
                       r->length, max);
    whole = RECORD_HEADER_SIZE + ((size_t)r->length + 7) / 8 * 8;
    while (have < whole) {
        size_t step = MIN(whole - have, MAX(have, (size_t)READ_STEP));
        int rc = reserve(r, have + step, err);

        if (!rc)
            rc = read_exactly(r, r->buffer + have, step, what, err);
        if (rc)
            return rc;
        have += step;
    }
    return 0;
}

static int read_record_header(struct reader *r, const char *what, struct err *err)
{
    int rc = reserve(r, READ_STEP, err);

    if (!rc)
        rc = read_exactly(r, r->buffer, RECORD_HEADER_SIZE, what, err);
    if (rc)
        return rc;
    r->type = get_le32(r->buffer);
    r->length = get_le32(r->buffer + 4);
    return 0;
}

static int pass_record(struct reader *r, struct err *err)
{
    return r->ops->octets(r->data, r->buffer, RECORD_HEADER_SIZE + ((size_t)r->length + 7) / 8 * 8,
                          err);
}

/* Checks the entries of a PAGE_DATA record; *ret_data: how many of them carry a page, *ret_holes:
 * how many are holes. */
static int check_entries(const uint8_t *entries, uint32_t count, uint32_t *ret_data,
                         uint32_t *ret_holes, struct err *err)
{
    uint32_t data = 0, holes = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t entry = get_le64(entries + 8 * (size_t)i);
        unsigned int type = (unsigned int)(entry >> WIRE_PFN_TYPE_SHIFT);

        if (entry & ~(WIRE_PFN_MASK | WIRE_PFN_TYPE_MASK))
            return err_set(err, -EPROTO, "page entry 0x%llx has reserved bits",
                           (unsigned long long)entry);
        if (type >= 5 && type <= 8)
            return err_set(err, -EPROTO, "page entry 0x%llx is of no known type",
                           (unsigned long long)entry);
        data += wire_pfn_has_data(entry);
        holes += type == PAGE_TYPE_HOLE;
    }
    *ret_data = data;
    *ret_holes = holes;
    return 0;
}

static int take_pages(struct reader *r, struct err *err)
{
    const uint8_t *body = r->buffer + RECORD_HEADER_SIZE;
    uint32_t count, data = 0, holes = 0;
    size_t expected;
    int rc;

    if (r->length < PAGES_HEADER_SIZE)
        return err_set(err, -EPROTO, "PAGE_DATA of %u octets", r->length);
    count = get_le32(body);
    if (!count || count > LIBXC_PAGES_MAX)
        return err_set(err, -EPROTO, "PAGE_DATA of %u pages, expected 1 to %u", count,
                       LIBXC_PAGES_MAX);
    if (r->length < PAGES_HEADER_SIZE + 8 * count)
        return err_set(err, -EPROTO, "PAGE_DATA of %u octets cannot hold %u entries", r->length,
                       count);
    rc = check_entries(body + PAGES_HEADER_SIZE, count, &data, &holes, err);
    if (rc)
        return rc;
    expected = PAGES_HEADER_SIZE + 8 * (size_t)count + (size_t)data * WIRE_PAGE_SIZE;
    if (r->length != expected)
        return err_set(err, -EPROTO, "PAGE_DATA has %u octets, its %u entries need %zu", r->length,
                       count, expected);
    /* The restorer does nothing for a hole, and the first round of an HVM guest is holes for the
     * most part. */
    if (holes == count)
        return 0;
    /* The record header before it keeps the entries aligned. */
    return r->ops->pages(r->data, (const uint64_t *)(const void *)(body + PAGES_HEADER_SIZE), count,
                         body + PAGES_HEADER_SIZE + 8 * (size_t)count, err);
}

/* Rounds may be reordered within themselves, so what compares (VERIFY) or repeats (Remus, COLO)
 * cannot be carried. */
static int check_libxc_type(uint32_t type, struct err *err)
{
    switch (type & ~RECORD_OPTIONAL) {
    case LIBXC_CHECKPOINT:
    case LIBXC_CHECKPOINT_DIRTY:
        return err_set(
            err, -EPROTO,
            "record of type 0x%x: streams with checkpoints (Remus, COLO) are not carried", type);
    case LIBXC_VERIFY:
        return err_set(err, -EPROTO,
                       "record of type 0x%x: streams that verify themselves are not carried", type);
    default:
        return 0;
    }
}

static int read_libxc_record(struct reader *r, bool *ret_end, struct err *err)
{
    int rc = read_record_header(r, "a libxc record's header", err);

    if (!rc)
        rc = check_libxc_type(r->type, err);
    if (!rc)
        rc = read_record_body(r, LIBXC_RECORD_MAX, "a libxc record", err);
    if (rc)
        return rc;
    *ret_end = r->type == LIBXC_END;
    if (*ret_end && r->length)
        return err_set(err, -EPROTO, "the libxc stream's END has %u octets", r->length);
    return r->type == LIBXC_PAGE_DATA ? take_pages(r, err) : pass_record(r, err);
}

static int check_image_header(const uint8_t *h, struct err *err)
{
    uint32_t version = get_be32(h + 12);

    if (get_be64(h) != LIBXC_MARKER || get_be32(h + 8) != LIBXC_ID)
        return err_set(err, -EPROTO, "not a libxc stream");
    if (version != 2 && version != 3)
        return err_set(err, -EPROTO, "libxc stream of version %u, expected 2 or 3", version);
    if (get_be16(h + 16))
        return err_set(err, -EPROTO, "libxc stream with options 0x%x", get_be16(h + 16));
    return 0;
}

static int check_domain_header(const uint8_t *h, struct err *err)
{
    uint32_t type = get_le32(h);

    if (type != LIBXC_DOMAIN_PV && type != LIBXC_DOMAIN_HVM)
        return err_set(err, -EPROTO,
                       "libxc stream of domain type %u, expected 1 (PV) or 2 (HVM, PVH)", type);
    if (get_le16(h + 4) != 12)
        return err_set(err, -EPROTO, "pages of 2^%u octets, expected 2^12", get_le16(h + 4));
    return 0;
}

static int read_libxc(struct reader *r, struct err *err)
{
    uint8_t headers[LIBXC_IMAGE_HEADER_SIZE + LIBXC_DOMAIN_HEADER_SIZE];
    bool end = false;
    int rc = read_exactly(r, headers, sizeof(headers), "the libxc stream's headers", err);

    if (!rc)
        rc = check_image_header(headers, err);
    if (!rc)
        rc = check_domain_header(headers + LIBXC_IMAGE_HEADER_SIZE, err);
    if (!rc)
        rc = r->ops->octets(r->data, headers, sizeof(headers), err);
    while (!rc && !end)
        rc = read_libxc_record(r, &end, err);
    return rc;
}

static int read_libxl_header(struct reader *r, struct err *err)
{
    uint8_t header[LIBXL_HEADER_SIZE];
    int rc = read_exactly(r, header, sizeof(header), "the libxl stream's header", err);

    if (rc)
        return rc;
    if (get_be64(header) != LIBXL_IDENT)
        return err_set(err, -EPROTO, "not a libxl stream");
    if (get_be32(header + 8) != LIBXL_VERSION)
        return err_set(err, -EPROTO, "libxl stream of version %u, expected %u",
                       get_be32(header + 8), LIBXL_VERSION);
    if (get_be32(header + 12) != LIBXL_OPTIONS_NONE)
        return err_set(err, -EPROTO, "libxl stream with options 0x%x", get_be32(header + 12));
    return r->ops->octets(r->data, header, sizeof(header), err);
}

/* The first record says that the libxc stream follows; it has no length of its own. */
static int read_libxc_context(struct reader *r, struct err *err)
{
    int rc = read_record_header(r, "a libxl record's header", err);

    if (rc)
        return rc;
    if (r->type != LIBXL_LIBXC_CONTEXT || r->length)
        return err_set(
            err, -EPROTO,
            "libxl record of type 0x%x with %u octets comes first, expected LIBXC_CONTEXT", r->type,
            r->length);
    rc = pass_record(r, err);
    return rc ? rc : read_libxc(r, err);
}

static int read_libxl_record(struct reader *r, bool *ret_end, struct err *err)
{
    int rc = read_record_header(r, "a libxl record's header", err);

    if (rc)
        return rc;
    *ret_end = r->type == LIBXL_END;
    if (*ret_end && r->length)
        return err_set(err, -EPROTO, "the libxl stream's END has %u octets", r->length);
    if (!*ret_end && r->type != LIBXL_EMULATOR_STORE && r->type != LIBXL_EMULATOR &&
        !(r->type & RECORD_OPTIONAL))
        return err_set(err, -EPROTO, "libxl record of type 0x%x is not carried", r->type);
    rc = read_record_body(r, LIBXL_RECORD_MAX, "a libxl record", err);
    return rc ? rc : pass_record(r, err);
}

int libxc_stream_read(int fd, bool bare, const struct libxc_reader_ops *ops, void *data,
                      struct err *err)
{
    CLEANUP_FREE uint8_t *buffer = NULL;
    struct reader r = {.fd = fd, .ops = ops, .data = data};
    bool end = false;
    int rc;

    if (bare) {
        rc = read_libxc(&r, err);
    } else {
        rc = read_libxl_header(&r, err);
        if (!rc)
            rc = read_libxc_context(&r, err);
        while (!rc && !end)
            rc = read_libxl_record(&r, &end, err);
    }
    buffer = r.buffer;
    return rc;
}

/* Writes all of `iov`, which is used up. */
static int write_vectors(int fd, struct iovec *iov, size_t count)
{
    while (count) {
        ssize_t n = writev(fd, iov, (int)MIN(count, (size_t)IOV_MAX));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        for (; count && (size_t)n >= iov->iov_len; iov++, count--)
            n -= (ssize_t)iov->iov_len;
        if (n) {
            iov->iov_base = (char *)iov->iov_base + n;
            iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

/* One vector a run of pages with data, one a zero page (`pages` holds none of these). Returns the
 * number of vectors. */
static size_t page_vectors(const uint64_t *entries, uint32_t count, const uint8_t *pages,
                           struct iovec *iov)
{
    static uint8_t zeroes[WIRE_PAGE_SIZE];
    size_t used = 0;

    for (uint32_t i = 0; i < count; i++) {
        bool has_data = wire_pfn_has_data(entries[i]);

        if (has_data && used && (uint8_t *)iov[used - 1].iov_base + iov[used - 1].iov_len == pages)
            iov[used - 1].iov_len += WIRE_PAGE_SIZE;
        else if (has_data)
            iov[used++] =
                (struct iovec){.iov_base = (void *)(uintptr_t)pages, .iov_len = WIRE_PAGE_SIZE};
        else if (wire_pfn_has_data(entries[i] & ~WIRE_PFN_ZERO))
            iov[used++] = (struct iovec){.iov_base = zeroes, .iov_len = WIRE_PAGE_SIZE};
        if (has_data)
            pages += WIRE_PAGE_SIZE;
    }
    return used;
}

int libxc_write_pages(int fd, const uint64_t *entries, uint32_t count, const uint8_t *pages,
                      struct err *err)
{
    uint8_t head[RECORD_HEADER_SIZE + PAGES_HEADER_SIZE + 8 * LIBXC_PAGES_MAX];
    size_t head_length = RECORD_HEADER_SIZE + PAGES_HEADER_SIZE + 8 * (size_t)count, vectors;
    struct iovec iov[1 + LIBXC_PAGES_MAX];
    uint32_t with_page = 0;
    int rc;

    assert(count > 0 && count <= LIBXC_PAGES_MAX);
    for (uint32_t i = 0; i < count; i++) {
        uint64_t entry = entries[i] & ~WIRE_PFN_ZERO;

        put_le64(head + RECORD_HEADER_SIZE + PAGES_HEADER_SIZE + 8 * (size_t)i, entry);
        with_page += wire_pfn_has_data(entry);
    }
    put_le32(head, LIBXC_PAGE_DATA);
    put_le32(head + 4, PAGES_HEADER_SIZE + 8 * count + with_page * WIRE_PAGE_SIZE);
    put_le32(head + 8, count);
    put_le32(head + 12, 0);
    iov[0] = (struct iovec){.iov_base = head, .iov_len = head_length};
    vectors = 1 + page_vectors(entries, count, pages, iov + 1);
    rc = write_vectors(fd, iov, vectors);
    return rc ? err_errno(err, rc, "writing guest pages to the restorer") : 0;
}
