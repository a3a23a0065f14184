/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Records out of a stream of octets: their headers, in whatever pieces they come, and what a data connection does with them.
 * The first octet chooses the size of the pieces, the second who listens and with what limit. */
#include "fake-tls.h"

#include "base/bytes.h"
#include "transport/stream.h"
#include "transport/wire.h"

static int take(void *data, const struct record *record, struct wire_need *need, struct err *err)
{
    CHECK(wire_need_empty(need));
    CHECK(record->type == WIRE_DISK_DATA || record->type == WIRE_MEMORY_PAGES);
    CHECK(record->length <= WIRE_DATA_MAX);
    touch(record->body, record->length);
    if (record->length % 5 == 1)
        wire_need_set(need, record->length % WIRE_DISK_BLOCKS_MAX);
    return 0;
}

/* Every record that comes out is the next one of the input, as it stands there. */
static void receive(struct conn *c, const uint8_t *expected, size_t left, uint32_t limit)
{
    struct err err = {0};
    struct record record;
    int r;

    conn_set_max_body(c, limit);
    while ((r = conn_try_recv(c, &record, &err)) == 0 || r == -EAGAIN) {
        if (r == -EAGAIN)
            continue;
        CHECK(record.length <= limit && left >= WIRE_HEADER_SIZE + (size_t)record.length);
        CHECK(!record.length || memcmp(record.body, expected + WIRE_HEADER_SIZE, record.length) == 0);
        CHECK(strcmp(wire_type_name((uint16_t)record.type), "unknown") != 0);
        expected += WIRE_HEADER_SIZE + record.length;
        left -= WIRE_HEADER_SIZE + record.length;
    }
    CHECK(r == -EPROTO || (r == -ECONNRESET && left < WIRE_HEADER_SIZE + (size_t)WIRE_DATA_MAX));
    CHECK(err.code == r && *err.text && conn_try_recv(c, &record, &err) == r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t pieces = take_u8(&in), choice = take_u8(&in);
    struct conn *c = fake_conn(in, pieces);
    struct err err;
    uint64_t taken = 0;

    if (choice & 1) {
        (void)stream_receive(c, take, NULL, &taken, &err);
        CHECK(taken <= in.left / WIRE_HEADER_SIZE);
    }
    if (!(choice & 1))
        receive(c, in.at, in.left, choice & 2 ? 8 : choice & 4 ? WIRE_DATA_MAX : WIRE_CONTROL_MAX);
    conn_destroy(c);
    return 0;
}
