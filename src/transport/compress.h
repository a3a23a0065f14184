/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Payload encodings (docs/protocol.md). A context belongs to one thread. */
#ifndef XMOTION_TRANSPORT_COMPRESS_H
#define XMOTION_TRANSPORT_COMPRESS_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

/* Compresses `len` octets into `dst` (capacity `cap`) as one zstd frame. Returns 0 and the length,
 * or -ENOSPC when the result would not be smaller than `cap` (send the payload as it is then). Uses
 * a context of the calling thread, made at first use and freed at its end. */
int compress_encode(void *dst, size_t cap, const void *src, size_t len, int level, size_t *ret_len);

/* Decompresses one frame that must give exactly `len` octets: -EPROTO otherwise. Never writes past
 * it. */
int compress_decode(void *dst, size_t len, const void *src, size_t src_len, struct err *err);

#endif
