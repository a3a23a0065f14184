/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading and writing of libxl's stream v2 with the libxc stream v3 inside (Xen:
 * docs/specs/libxl-migration-stream.pandoc, libxc-migration-stream.pandoc). Only framing is
 * understood: page data is told apart from everything else, which passes as it is. */
#ifndef XMOTION_MEMSYNC_LIBXC_STREAM_H
#define XMOTION_MEMSYNC_LIBXC_STREAM_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Largest record body that is accepted: libxc's own limit (REC_LENGTH_MAX, 8 MiB up to Xen 4.16),
 * and the same for libxl's records (QEMU's state). Memory is only taken as octets come. */
#define LIBXC_RECORD_MAX (128u << 20)
#define LIBXL_RECORD_MAX (128u << 20)
#define LIBXC_PAGES_MAX  1024u /* pages of one PAGE_DATA record (MAX_BATCH_SIZE) */

struct libxc_reader_ops {
    /* One PAGE_DATA record that is not all holes: `entries` as in the stream (PFN and type),
     * `pages` the data of those that carry some, in order. The memory is good until the callback
     * returns. */
    int (*pages)(void *data, const uint64_t *entries, uint32_t count, const uint8_t *pages,
                 struct err *err);
    /* Everything else: octets to be passed on in order, whole records (headers, padding included).
     */
    int (*octets)(void *data, const uint8_t *octets, size_t len, struct err *err);
};

/* Reads `fd` until the end record of the outer stream. With `bare` it is a libxc stream alone.
 * Checks every length before it is used, the order image header, domain header, records, END, and
 * that page counts fit lengths. 0, or -EPROTO and what was found. Blocks on fd, and reads not one
 * octet more than the stream has. */
int libxc_stream_read(int fd, bool bare, const struct libxc_reader_ops *ops, void *data,
                      struct err *err);

/* Writes one PAGE_DATA record to `fd`: entries with a zero flag (wire.h WIRE_PFN_ZERO) get a page
 * of zeroes, the others with data the next page of `pages`. */
int libxc_write_pages(int fd, const uint64_t *entries, uint32_t count, const uint8_t *pages,
                      struct err *err);

#endif
