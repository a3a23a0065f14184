/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A payload that says it is zstd. The first three octets choose how large it says to be; what is left over is octets that
 * a peer compressed as we do, so that good frames are met too.
 * fuzz: -max_len=4096 */
#include "fuzz.h"

#include "transport/compress.h"
#include "transport/wire.h"

static void decode(size_t raw, const uint8_t *payload, size_t length, const uint8_t *expected)
{
    uint8_t *out = malloc(raw ? raw : 1);
    struct err err;

    CHECK(out);
    if (compress_decode(out, raw, payload, length, &err) == 0) {
        touch(out, raw);
        CHECK(!expected || memcmp(out, expected, raw) == 0);
    } else {
        CHECK(!expected);
    }
    free(out);
}

/* What we make is what is read. */
static void both_ways(const uint8_t *raw, size_t length)
{
    uint8_t frame[4096];
    size_t n;

    if (length && compress_encode(frame, sizeof(frame), raw, length, 1, &n) == 0)
        decode(length, frame, n, raw);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t choice = take_u8(&in);
    size_t raw = take_number(&in, 2), length;
    uint8_t *payload = take_block(&in, WIRE_PAYLOAD_MAX, &length);

    if (choice & 1)
        both_ways(payload, length < 4000 ? length : 4000);
    else
        decode(choice & 2 ? raw * 16 : raw, payload, length, NULL);
    free(payload);
    return 0;
}
