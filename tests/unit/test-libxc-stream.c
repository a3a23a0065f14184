/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Streams made by hand, as libxl writes them for a PV and an HVM guest, whole and broken. */
#include "base/bytes.h"
#include "base/fdio.h"
#include "memsync/libxc-stream.h"
#include "transport/wire.h"
#include "unit.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define STREAM_MAX (1u << 20)

struct stream {
    uint8_t octets[STREAM_MAX];
    size_t length;
};

static struct stream made;

static uint8_t *add(struct stream *s, size_t length)
{
    uint8_t *at = s->octets + s->length;

    s->length += length;
    ck_assert_uint_le(s->length, STREAM_MAX);
    memset(at, 0, length);
    return at;
}

/* A record with a body of `length` times the octet `fill`. Returns the body. */
static uint8_t *add_record(struct stream *s, uint32_t type, uint32_t length, uint8_t fill)
{
    uint8_t *at = add(s, 8 + (length + 7) / 8 * 8);

    put_le32(at, type);
    put_le32(at + 4, length);
    memset(at + 8, fill, length);
    return at + 8;
}

static void add_headers(struct stream *s, uint32_t domain_type, bool bare)
{
    uint8_t *at;

    s->length = 0;
    if (!bare) {
        at = add(s, 16);
        memcpy(at, "LibxlFmt", 8);
        put_be32(at + 8, 2);
        add_record(s, 1, 0, 0);
    }
    at = add(s, 24 + 16);
    memset(at, 0xff, 8);
    memcpy(at + 8, "XENF", 4);
    put_be32(at + 12, 3);
    put_le32(at + 24, domain_type);
    put_le16(at + 28, 12);
}

/* Five entries: data, data, a hole, a page of zeroes with data, a pinned page table. */
static const uint64_t page_entries[] = {
    0x10, 0x11, UINT64_C(0xf) << 60 | 0x12, 0x13, UINT64_C(0x9) << 60 | 0x14,
};
#define ZERO_ENTRY 3

static uint8_t *add_pages(struct stream *s)
{
    uint32_t count = ARRAY_SIZE(page_entries), with_data = count - 1;
    uint8_t *body = add_record(s, 1, 8 + 8 * count + with_data * WIRE_PAGE_SIZE, 0);
    uint8_t *page = body + 8 + 8 * (size_t)count;

    put_le32(body, count);
    for (uint32_t i = 0; i < count; i++) {
        put_le64(body + 8 + 8 * (size_t)i, page_entries[i]);
        if (!wire_pfn_has_data(page_entries[i]))
            continue;
        if (i != ZERO_ENTRY)
            memset(page, 0xa0 + (int)i, WIRE_PAGE_SIZE);
        page += WIRE_PAGE_SIZE;
    }
    return body;
}

static void add_hvm(struct stream *s, bool bare)
{
    add_headers(s, 2, bare);
    add_record(s, 0x11, 48, 0x11); /* CPUID policy */
    add_record(s, 0x10, 0, 0);     /* STATIC_DATA_END */
    add_pages(s);
    add_pages(s);
    add_record(s, 9, 1001, 0x99); /* HVM_CONTEXT, padded */
    add_record(s, 0x80000042, 3, 1);
    add_record(s, 0, 0, 0);
    if (bare)
        return;
    add_record(s, 2, 77, 'x');   /* EMULATOR_XENSTORE_DATA */
    add_record(s, 3, 5000, 'q'); /* EMULATOR_CONTEXT */
    add_record(s, 0, 0, 0);
}

static void add_pv(struct stream *s)
{
    add_headers(s, 1, false);
    add_record(s, 2, 8, 4);
    add_record(s, 0x10, 0, 0);
    add_record(s, 3, 24, 3); /* P2M_FRAMES */
    add_pages(s);
    add_record(s, 4, 100, 4);
    add_record(s, 0, 0, 0);
    add_record(s, 0, 0, 0);
}

struct copier {
    int fd;
    unsigned int page_records;
    int fail_after; /* records; -1 never */
};

static int copy_pages(void *data, const uint64_t *entries, uint32_t count, const uint8_t *pages,
                      struct err *err)
{
    static const uint8_t zero[WIRE_PAGE_SIZE];
    static uint8_t kept[LIBXC_PAGES_MAX * WIRE_PAGE_SIZE];
    uint64_t marked[LIBXC_PAGES_MAX];
    struct copier *c = data;
    size_t used = 0;

    c->page_records++;
    for (uint32_t i = 0; i < count; i++) {
        marked[i] = entries[i];
        if (!wire_pfn_has_data(entries[i]))
            continue;
        if (!memcmp(pages, zero, WIRE_PAGE_SIZE))
            marked[i] |= WIRE_PFN_ZERO;
        else
            memcpy(kept + WIRE_PAGE_SIZE * used++, pages, WIRE_PAGE_SIZE);
        pages += WIRE_PAGE_SIZE;
    }
    return libxc_write_pages(c->fd, marked, count, kept, err);
}

static int copy_octets(void *data, const uint8_t *octets, size_t len, struct err *err)
{
    struct copier *c = data;

    if (c->fail_after >= 0 && !c->fail_after--)
        return err_set(err, -ECANCELED, "enough");
    return fd_write_full(c->fd, octets, len);
}

static const struct libxc_reader_ops copy_ops = {.pages = copy_pages, .octets = copy_octets};

/* Reads the first `length` octets of the stream and writes it again to *ret_fd (-1: nowhere). */
static int copy(const struct stream *s, size_t length, bool bare, struct copier *c, struct err *err)
{
    int in = memfd_create("in", MFD_CLOEXEC), rc;

    ck_assert_int_ge(in, 0);
    ck_assert_int_eq(fd_pwrite_full(in, s->octets, length, 0), 0);
    c->fd = memfd_create("out", MFD_CLOEXEC);
    rc = libxc_stream_read(in, bare, &copy_ops, c, err);
    close(in);
    return rc;
}

static void expect_same(const struct stream *s, bool bare)
{
    static uint8_t out[STREAM_MAX];
    struct copier c = {.fail_after = -1};
    struct err err;

    ck_assert_msg(copy(s, s->length, bare, &c, &err) == 0, "%s", err.text);
    ck_assert_uint_eq((uint64_t)lseek(c.fd, 0, SEEK_END), s->length);
    ck_assert_int_eq(fd_pread_full(c.fd, out, s->length, 0), 0);
    ck_assert_mem_eq(out, s->octets, s->length);
    close(c.fd);
}

static void expect_refused(const struct stream *s, size_t length, bool bare, const char *text)
{
    struct copier c = {.fail_after = -1};
    struct err err = {0};

    ck_assert_int_eq(copy(s, length, bare, &c, &err), -EPROTO);
    ck_assert_msg(!text || strstr(err.text, text), "\"%s\" does not say \"%s\"", err.text, text);
    close(c.fd);
}

START_TEST(streams_come_out_as_they_went_in)
{
    add_hvm(&made, false);
    expect_same(&made, false);
    add_hvm(&made, true);
    expect_same(&made, true);
    add_pv(&made);
    expect_same(&made, false);
}
END_TEST

START_TEST(reading_stops_at_the_end)
{
    struct copier c = {.fail_after = -1};
    size_t whole;

    add_pv(&made);
    whole = made.length;
    add(&made, 100);
    ck_assert_int_eq(copy(&made, made.length, false, &c, NULL), 0);
    ck_assert_uint_eq((uint64_t)lseek(c.fd, 0, SEEK_END), whole);
    close(c.fd);
}
END_TEST

START_TEST(records_of_holes_are_left_out)
{
    struct copier c = {.fail_after = -1};
    uint8_t *body;
    size_t whole;

    add_headers(&made, 2, true);
    whole = made.length;
    body = add_record(&made, 1, 8 + 8 * 100, 0);
    put_le32(body, 100);
    for (uint32_t i = 0; i < 100; i++)
        put_le64(body + 8 + 8 * (size_t)i, UINT64_C(0xf) << 60 | i);
    add_record(&made, 0, 0, 0);
    ck_assert_int_eq(copy(&made, made.length, true, &c, NULL), 0);
    ck_assert_uint_eq(c.page_records, 0);
    ck_assert_uint_eq((uint64_t)lseek(c.fd, 0, SEEK_END), whole + 8);
    close(c.fd);
}
END_TEST

START_TEST(truncated_anywhere_is_refused)
{
    add_pv(&made);
    for (size_t length = 0;
         length<made.length; length += length> 300 && length + 300 < made.length ? 37 : 1)
        expect_refused(&made, length, false, "ends in");
    add_hvm(&made, false);
    for (size_t length = 0;
         length<made.length; length += length> 300 && length + 300 < made.length ? 37 : 1)
        expect_refused(&made, length, false, "ends in");
}
END_TEST

/* Every octet of the headers counts but for the Xen version and what is reserved. */
START_TEST(wrong_headers_are_refused)
{
    static const struct {
        size_t at;
        const char *text;
    } cases[] = {
        {0, "not a libxl"},  {11, "version"},     {12, "options"},     {15, "options"},
        {16, "comes first"}, {20, "comes first"}, {24, "not a libxc"}, {32, "not a libxc"},
        {39, "version"},     {40, "options"},     {48, "domain type"}, {52, "pages of"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        add_hvm(&made, false);
        made.octets[cases[i].at] ^= 0x50;
        expect_refused(&made, made.length, false, cases[i].text);
    }
    add_hvm(&made, true);
    expect_refused(&made, made.length, false, "not a libxl");
}
END_TEST

START_TEST(checkpoints_are_refused)
{
    for (uint32_t type = 0xd; type <= 0xf; type++) {
        add_headers(&made, 2, false);
        add_record(&made, type, 0, 0);
        expect_refused(&made, made.length, false, "not carried");
    }
    for (uint32_t type = 4; type <= 6; type++) {
        add_headers(&made, 2, false);
        add_record(&made, 0, 0, 0);
        add_record(&made, type, 8, 0);
        expect_refused(&made, made.length, false, "not carried");
    }
}
END_TEST

START_TEST(oversize_is_refused_before_it_is_read)
{
    add_headers(&made, 2, false);
    put_le32(add_record(&made, 9, 0, 0) - 4, LIBXC_RECORD_MAX + 1);
    expect_refused(&made, made.length, false, "more than");
    add_headers(&made, 2, false);
    put_le32(add_record(&made, 9, 0, 0) - 4, UINT32_MAX);
    expect_refused(&made, made.length, false, "more than");
    add_headers(&made, 2, false);
    add_record(&made, 0, 0, 0);
    put_le32(add_record(&made, 3, 0, 0) - 4, LIBXL_RECORD_MAX + 1);
    expect_refused(&made, made.length, false, "more than");
    add_headers(&made, 2, true);
    add_record(&made, 0, 8, 0);
    expect_refused(&made, made.length, true, "END has");
}
END_TEST

START_TEST(wrong_page_records_are_refused)
{
    static const uint32_t counts[] = {0, 1, 4, 6, LIBXC_PAGES_MAX, LIBXC_PAGES_MAX + 1, UINT32_MAX};

    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        add_headers(&made, 2, true);
        put_le32(add_pages(&made), counts[i]);
        expect_refused(&made, made.length, true, NULL);
    }
    add_headers(&made, 2, true);
    add_record(&made, 1, 4, 1);
    expect_refused(&made, made.length, true, "PAGE_DATA of 4");
    for (unsigned int bit = 52; bit < 60; bit++) {
        add_headers(&made, 2, true);
        put_le64(add_pages(&made) + 8, UINT64_C(1) << bit);
        expect_refused(&made, made.length, true, "reserved");
    }
    for (uint64_t type = 5; type <= 8; type++) {
        add_headers(&made, 2, true);
        put_le64(add_pages(&made) + 8, type << 60);
        expect_refused(&made, made.length, true, "no known type");
    }
}
END_TEST

START_TEST(a_callback_ends_the_reading)
{
    struct copier c = {.fail_after = 3};
    struct err err;

    add_hvm(&made, false);
    ck_assert_int_eq(copy(&made, made.length, false, &c, &err), -ECANCELED);
    ck_assert_str_eq(err.text, "enough");
    close(c.fd);
}
END_TEST

START_TEST(a_full_record_of_zeroes_and_data_is_written)
{
    static uint8_t pages[LIBXC_PAGES_MAX * WIRE_PAGE_SIZE], out[LIBXC_PAGES_MAX * WIRE_PAGE_SIZE];
    uint64_t entries[LIBXC_PAGES_MAX];
    int fd = memfd_create("out", MFD_CLOEXEC);

    for (uint32_t i = 0; i < LIBXC_PAGES_MAX; i++)
        entries[i] = i | (i % 2 ? WIRE_PFN_ZERO : 0);
    memset(pages, 0x5a, sizeof(pages));
    ck_assert_int_eq(libxc_write_pages(fd, entries, LIBXC_PAGES_MAX, pages, NULL), 0);
    ck_assert_uint_eq((uint64_t)lseek(fd, 0, SEEK_END),
                      16 + LIBXC_PAGES_MAX * (8 + WIRE_PAGE_SIZE));
    ck_assert_int_eq(fd_pread_full(fd, out, sizeof(out), 16 + 8 * LIBXC_PAGES_MAX), 0);
    for (size_t i = 0; i < sizeof(out); i++)
        ck_assert_msg(out[i] == (i / WIRE_PAGE_SIZE % 2 ? 0 : 0x5a), "octet %zu", i);
    close(fd);
}
END_TEST

UNIT_MAIN("libxc-stream", streams_come_out_as_they_went_in, reading_stops_at_the_end,
          records_of_holes_are_left_out, truncated_anywhere_is_refused, wrong_headers_are_refused,
          checkpoints_are_refused, oversize_is_refused_before_it_is_read,
          wrong_page_records_are_refused, a_callback_ends_the_reading,
          a_full_record_of_zeroes_and_data_is_written)
