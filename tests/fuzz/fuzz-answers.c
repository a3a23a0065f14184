/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a receiver answers to a sender: HELLO, RESUMED, SETTLED, READY's digests, and to recovery ANSWER. The input is one JSON message; the first
 * octet chooses what it is taken for. */
#include "fake-tls.h"
#include "fuzz-json.h"

#include "session/ask.h"
#include "session/source-priv.h"

static int fake_settle(struct stream *s, unsigned int connection, uint64_t taken, struct err *err);
static void fake_stream_destroy(struct stream *s);
#define stream_settle  fake_settle
#define stream_destroy fake_stream_destroy
#define stream_bytes_sent(s) 0
#include "session/source-link.c"
#undef TURN
#undef AREA
#include "session/source-end.c"

#define OPENED 3u

static unsigned int settled;

static int fake_settle(struct stream *s, unsigned int connection, uint64_t taken, struct err *err)
{
    CHECK(connection < OPENED && connection == settled);
    settled++;
    return taken > 100 ? err_set(err, -EPROTO, "more than were sent") : 0;
}

static void fake_stream_destroy(struct stream *s)
{
    free(s);
}

static uint8_t octets[1u << 17];

/* The message as a record, behind `before`. */
static struct input frame(const char *before, uint16_t type, const json_t *message)
{
    struct wire_header first = {.type = WIRE_HELLO, .length = (uint32_t)strlen(before)}, second = {.type = type, .sequence = 1};
    uint8_t *to = octets + WIRE_HEADER_SIZE;

    wire_put_header(octets, &first);
    memcpy(to, before, first.length);
    to += first.length + WIRE_HEADER_SIZE;
    second.length = (uint32_t)json_dumpb(message, (char *)to, sizeof(octets) - 1000, JSON_ENCODE_ANY);
    wire_put_header(to - WIRE_HEADER_SIZE, &second);
    CHECK(second.length < sizeof(octets) - 1000);
    return (struct input){octets, (size_t)(to - octets) + second.length};
}

static void hear_hello(struct source *s, const json_t *message)
{
    struct err err = {0};

    CHECK(check_hello(s, message, &err) == 0 || err.code == -EPROTO);
}

static void hear_resumed(struct source *s, const json_t *message)
{
    static const struct hv_guest none;
    struct err err = {0};

    s->guest = &none;
    s->connections_opened = OPENED;
    settled = 0;
    CHECK(stream_create(&s->stream, &(struct stream_config){0}, &err) == 0);
    if (carry_over(s, message, &err) < 0)
        CHECK(err.code == -EPROTO);
    stream_destroy(s->stream);
    CHECK(settled <= OPENED);
}

static struct loop *loop(void)
{
    static struct loop *l;
    struct err err;

    if (!l)
        CHECK(loop_create(&l, &err) == 0);
    return l;
}

static void hear_time(struct source *s, const json_t *message)
{
    struct input in = frame("{}", WIRE_SETTLED, message);
    struct record record;
    struct err err;

    CHECK(control_init(&s->control, fake_conn(in, 0), loop(), &err) == 0);
    CHECK(control_next(&s->control, &record, &err) == 0);
    s->connected = true;
    s->times.running = 1000;
    hear_settled(s);
    CHECK(s->times.settled >= 1000 && s->times.settled < UINT64_C(1) << 60);
    control_finish(&s->control);
}

static void hear_answer(const json_t *message)
{
    struct journal_entry e = {.peer = "peer:7799", .session = "0123456789abcdef0123456789abcdef"};
    struct err err = {0};
    bool here = false;

    fake_tls = (struct tls){.in = frame("{\"protocol\":1}", WIRE_ANSWER, message)};
    if (ask_whose(NULL, &e, 1, &here, &err) == 0)
        CHECK(!strcmp(json_string_value(json_object_get(message, "guest")), here ? "here" : "gone"));
    else
        CHECK(err.code < 0 && *err.text && !here);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct source_config config = {.compress = COMPRESS_AUTO, .address = "peer:7799"};
    json_t *message = size > 1 && size < 1u << 16 ? fuzz_load(data + 1, size - 1) : NULL;
    static struct source s;

    if (json_is_object(message)) {
        memset(&s, 0, sizeof(s));
        s.config = &config;
        switch (data[0] & 3) {
        case 0:
            hear_hello(&s, message);
            break;
        case 1:
            hear_resumed(&s, message);
            break;
        case 2:
            hear_time(&s, message);
            break;
        default:
            hear_answer(message);
        }
    }
    json_decref(message);
    return 0;
}
