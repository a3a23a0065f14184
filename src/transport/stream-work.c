/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "transport/compress.h"
#include "transport/stream.h"

#define ZSTD_LEVEL 1

enum wire_encoding stream_work_payload(struct stream_work *work, uint32_t head, uint32_t raw, bool zstd,
                                       uint32_t *ret_encoded)
{
    size_t encoded;

    work->length = head;
    /* Worth it only when an eighth is saved. */
    if (zstd && raw && compress_encode(work->buffer + head, raw - raw / 8, work->scratch, raw, ZSTD_LEVEL, &encoded) == 0) {
        work->length += (uint32_t)encoded;
        work->payload = NULL;
        work->payload_length = 0;
        *ret_encoded = (uint32_t)encoded;
        return WIRE_ZSTD;
    }
    work->payload = work->scratch;
    work->payload_length = raw;
    *ret_encoded = raw;
    return WIRE_PLAIN;
}
