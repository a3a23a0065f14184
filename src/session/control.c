/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/control.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <stdlib.h>
#include <string.h>

#define AREA        "session.control"
#define PING_AFTER  (10 * NS_PER_SEC)
#define GIVE_UP     (30 * NS_PER_SEC)
#define VALUES_MAX  16384

struct control_item {
    struct control_item *next;
    enum wire_type type;
    uint32_t length;
    uint8_t body[];
};

int control_init(struct control *c, struct conn *conn, struct loop *loop, struct err *err)
{
    memset(c, 0, sizeof(*c));
    c->conn = conn;
    c->loop = loop;
    c->heard_ns = clock_now();
    pthread_mutex_init(&c->lock, NULL);
    return loop_watch(loop, conn_fd(conn), err);
}

void control_finish(struct control *c)
{
    if (!c->conn)
        return;
    loop_unwatch(c->loop, conn_fd(c->conn));
    conn_destroy(c->conn);
    while (c->head) {
        struct control_item *item = c->head;

        c->head = item->next;
        free(item);
    }
    pthread_mutex_destroy(&c->lock);
    c->conn = NULL;
}

/* Remembers how the connection ended, if `r` says that it did. */
static int note(struct control *c, int r)
{
    if (!c->broken && conn_error_is_drop(r))
        c->broken = r;
    return r;
}

static int send_one(struct control *c, enum wire_type type, const void *body, size_t length, struct err *err)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)body, .iov_len = length};

    if (!c->conn)
        return err_set(err, -ENOTCONN, "the connection has ended");
    return note(c, conn_send(c->conn, type, &part, length ? 1 : 0, err));
}

int control_send_json(struct conn *c, enum wire_type type, json_t *message, struct err *err)
{
    CLEANUP_FREE char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
    struct iovec part = {.iov_base = text, .iov_len = text ? strlen(text) : 0};

    json_decref(message);
    log_debug(AREA, "to %s: %s", conn_peer(c), wire_type_name((uint16_t)type));
    return text ? conn_send(c, type, &part, 1, err) : err_set(err, -ENOMEM, "out of memory");
}

json_t *control_failure(const struct err *why)
{
    return json_pack("{s:i, s:s, s:s}", "errno", -why->code, "text", why->text, "guest", "destroyed");
}

int control_send(struct control *c, enum wire_type type, json_t *message, struct err *err)
{
    if (!c->conn) {
        json_decref(message);
        return err_set(err, -ENOTCONN, "the connection has ended");
    }
    return note(c, control_send_json(c->conn, type, message, err));
}

int control_post(struct control *c, enum wire_type type, const void *body, uint32_t length, struct err *err)
{
    struct control_item *item = malloc(sizeof(*item) + length);

    if (!item)
        return err_set(err, -ENOMEM, "out of memory");
    item->next = NULL;
    item->type = type;
    item->length = length;
    memcpy(item->body, body, length);
    pthread_mutex_lock(&c->lock);
    if (c->tail)
        c->tail->next = item;
    else
        c->head = item;
    c->tail = item;
    pthread_mutex_unlock(&c->lock);
    loop_wake(c->loop);
    return 0;
}

static struct control_item *take_posted(struct control *c)
{
    struct control_item *item;

    pthread_mutex_lock(&c->lock);
    item = c->head;
    if (item) {
        c->head = item->next;
        if (!c->head)
            c->tail = NULL;
    }
    pthread_mutex_unlock(&c->lock);
    return item;
}

static int keep_alive(struct control *c, struct err *err)
{
    uint64_t now = clock_now();

    if (now - c->heard_ns > GIVE_UP)
        return note(c, err_set(err, -ETIMEDOUT, "%s has been silent for %llu s", conn_peer(c->conn),
                               (unsigned long long)((now - c->heard_ns) / NS_PER_SEC)));
    if (now - c->heard_ns < PING_AFTER || now - c->pinged_ns < PING_AFTER / 2)
        return 0;
    c->pinged_ns = now;
    return send_one(c, WIRE_PING, NULL, 0, err);
}

int control_tell_alive(struct control *c, struct err *err)
{
    uint64_t now = clock_now();

    if (now - c->pinged_ns < PING_AFTER / 2)
        return 0;
    c->pinged_ns = now;
    return send_one(c, WIRE_PING, NULL, 0, err);
}

void control_heard(struct control *c)
{
    c->heard_ns = clock_now();
}

int control_work(struct control *c, struct err *err)
{
    struct control_item *item;
    int r = 0;

    while (r == 0 && (item = take_posted(c))) {
        r = send_one(c, item->type, item->body, item->length, err);
        free(item);
    }
    return r < 0 ? r : keep_alive(c, err);
}

int control_next(struct control *c, struct record *ret, struct err *err)
{
    for (;;) {
        int r = c->conn ? note(c, conn_try_recv(c->conn, ret, err)) : err_set(err, -ENOTCONN, "the connection has ended");

        if (r < 0)
            return r;
        c->heard_ns = clock_now();
        if (ret->type == WIRE_PING) {
            r = send_one(c, WIRE_PONG, NULL, 0, err);
            if (r < 0)
                return r;
        } else if (ret->type != WIRE_PONG) {
            log_debug(AREA, "from %s: %s", conn_peer(c->conn), wire_type_name((uint16_t)ret->type));
            return 0;
        }
    }
}

int control_hear(struct control *c, uint64_t until_ns, struct record *ret, struct err *err)
{
    for (;;) {
        uint64_t now = clock_now();
        int r = control_next(c, ret, err);

        if (r != -EAGAIN || now >= until_ns)
            return r;
        loop_turn(c->loop, until_ns - now);
    }
}

/* A parsed value takes hundreds of octets, and may take three of the message: what a record can make us hold is bounded by their
 * number. Every value but the first of its list or object follows a comma. */
static bool is_modest(const struct record *record)
{
    const char *text = (const char *)record->body;
    unsigned int values = 0;
    bool string = false;

    for (uint32_t i = 0; i < record->length; i++) {
        if (string && text[i] == '\\')
            i++;
        else if (text[i] == '"')
            string = !string;
        else if (!string)
            values += text[i] == ',' || text[i] == '[' || text[i] == '{';
    }
    return values <= VALUES_MAX;
}

int control_parse(const struct record *record, json_t **ret, struct err *err)
{
    json_error_t e;
    json_t *j;

    if (!is_modest(record))
        return err_set(err, -EPROTO, "%s has more than %d values", wire_type_name((uint16_t)record->type), VALUES_MAX);
    j = json_loadb((const char *)record->body, record->length, JSON_REJECT_DUPLICATES, &e);
    if (!j)
        return err_set(err, -EPROTO, "%s is not JSON: %s", wire_type_name((uint16_t)record->type), e.text);
    if (!json_is_object(j)) {
        json_decref(j);
        return err_set(err, -EPROTO, "%s is not a JSON object", wire_type_name((uint16_t)record->type));
    }
    *ret = j;
    return 0;
}

int control_peer_error(const json_t *failed, struct err *err)
{
    const json_t *text = json_object_get(failed, "text");

    return err_set(err, -EREMOTEIO, "%.500s",
                   json_is_string(text) ? json_string_value(text) : "the peer failed and gave no reason");
}

int control_take(struct conn *c, const struct record *record, enum wire_type type, json_t **ret, struct err *err)
{
    int r;

    if (record->type != type && record->type != WIRE_FAILED)
        return err_set(err, -EPROTO, "%s sent %s, expected %s", conn_peer(c), wire_type_name((uint16_t)record->type),
                       wire_type_name((uint16_t)type));
    r = control_parse(record, ret, err);
    if (r == 0 && record->type == WIRE_FAILED) {
        r = control_peer_error(*ret, err);
        json_decref(*ret);
        *ret = NULL;
    }
    return r;
}

int control_expect(struct control *c, enum wire_type type, json_t **ret, struct err *err)
{
    struct record record;
    int r;

    for (;;) {
        r = control_work(c, err);
        if (r == 0)
            r = control_next(c, &record, err);
        if (r != -EAGAIN)
            break;
        loop_turn(c->loop, NS_PER_SEC);
    }
    return r < 0 ? r : control_take(c->conn, &record, type, ret, err);
}

int control_say_hello(struct conn *c, const char *role, const char *session, int number, unsigned int drops, struct err *err)
{
    json_t *hello = json_pack("{s:i, s:s, s:s, s:[s], s:s}", "protocol", WIRE_PROTOCOL, "role", role, "session", session,
                              "features", "zstd", "program", "xmotion " XMOTION_VERSION);

    if (hello && number >= 0)
        (void)json_object_set_new(hello, "number", json_integer(number));
    if (hello && drops)
        (void)json_object_set_new(hello, "drops", json_integer(drops));
    return control_send_json(c, WIRE_HELLO, hello, err);
}

int control_answer_hello(struct conn *c, struct err *err)
{
    static const char text[] = "{\"protocol\":1,\"features\":[\"zstd\"],\"program\":\"xmotion " XMOTION_VERSION "\"}";
    struct iovec part = {.iov_base = (void *)(uintptr_t)text, .iov_len = sizeof(text) - 1};

    return conn_send(c, WIRE_HELLO, &part, 1, err);
}
