/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages of the control connection, both ways: framing, keep-alive, JSON, and the peer's words of failure. The first octet is the
 * type of the message (its sixth and seventh bit: what is waited for), the rest its body; a PING goes before it. */
#define FUZZ_JSON_AT 2u
#include "fake-tls.h"
#include "fuzz-json.h"

#include "base/bytes.h"
#include "session/control.h"

static uint8_t wire[2 * WIRE_HEADER_SIZE + (1u << 16)];

/* What the peer sends: PING, then the message. */
static struct input frame(uint16_t type, const uint8_t *body, size_t length)
{
    struct wire_header ping = {.type = WIRE_PING}, h = {.type = type, .length = (uint32_t)length, .sequence = 1};

    wire_put_header(wire, &ping);
    wire_put_header(wire + WIRE_HEADER_SIZE, &h);
    memcpy(wire + 2 * WIRE_HEADER_SIZE, body, length);
    return (struct input){wire, 2 * WIRE_HEADER_SIZE + length};
}

/* Whatever the peer says goes on as it can be shown, logged and told to others. */
static void check_error(const struct err *err)
{
    json_t *text = json_string(err->text);

    CHECK(err->code < 0 && text && !strpbrk(err->text, "\n\r\t\x1b\x7f"));
    json_decref(text);
}

static void read_message(struct control *c, uint16_t type)
{
    struct err err = {0};
    struct record record;
    json_t *message;

    if (control_next(c, &record, &err) < 0) {
        check_error(&err);
        return;
    }
    CHECK(record.type == type);
    if (control_parse(&record, &message, &err) < 0) {
        CHECK(err.code == -EPROTO);
        check_error(&err);
        return;
    }
    CHECK(json_is_object(message) && control_peer_error(message, &err) == -EREMOTEIO);
    check_error(&err);
    json_decref(message);
}

static void expect_message(struct control *c, enum wire_type expected)
{
    struct err err = {0};
    json_t *message;

    if (control_expect(c, expected, &message, &err) == 0) {
        CHECK(json_is_object(message));
        json_decref(message);
    } else {
        check_error(&err);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum wire_type expected[] = {WIRE_HELLO, WIRE_PREPARED, WIRE_CHECKED, WIRE_RUNNING};
    static struct loop *loop;
    struct input in = {data, size};
    uint8_t how = take_u8(&in), type = take_u8(&in);
    struct control c;
    struct err err;

    if (!loop)
        CHECK(loop_create(&loop, &err) == 0);
    if (in.left > 1u << 16 || wire_type_name(type)[0] == 'u')
        return 0;
    CHECK(control_init(&c, fake_conn(frame(type, in.at, in.left), 0), loop, &err) == 0);
    if (how & 1)
        expect_message(&c, expected[how >> 1 & 3]);
    else if (type != WIRE_PING && type != WIRE_PONG)
        read_message(&c, type);
    control_finish(&c);
    return 0;
}
