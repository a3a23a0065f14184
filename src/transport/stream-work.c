/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/bytes.h"
#include "base/clock.h"
#include "transport/compress-choice.h"
#include "transport/compress.h"
#include "transport/stream.h"

/* Worth it only when an eighth is saved. Returns the length, `raw` when it is not. */
static uint32_t encode(struct stream_work *work, uint32_t head, uint32_t raw, int level)
{
    uint64_t begin = clock_thread();
    size_t encoded;

    if (compress_encode(work->buffer + head, raw - raw / 8, work->scratch, raw, level, &encoded) < 0)
        encoded = raw;
    compress_choice_tried(work->choice, level, raw, encoded, work->prepare_ns + clock_thread() - begin);
    return (uint32_t)encoded;
}

enum wire_encoding stream_work_payload(struct stream_work *work, uint32_t head, uint32_t raw, uint32_t *ret_encoded)
{
    int level = raw ? compress_choice_level(work->choice) : 0;
    int sample;

    *ret_encoded = level ? encode(work, head, raw, level) : raw;
    work->length = head;
    if (*ret_encoded < raw) {
        work->length += *ret_encoded;
        work->payload = NULL;
        work->payload_length = 0;
        return WIRE_ZSTD;
    }
    if (!level && raw && compress_choice_sample(work->choice, &sample))
        (void)encode(work, head, MIN(raw, COMPRESS_SAMPLE), sample);
    work->payload = work->scratch;
    work->payload_length = raw;
    return WIRE_PLAIN;
}
