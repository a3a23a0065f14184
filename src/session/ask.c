/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/ask.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "session/control.h"

#include <string.h>

#define ANSWER_TIMEOUT (60 * NS_PER_SEC) /* a guest that is just being undone or started there may take that long */

static int send_json(struct conn *c, enum wire_type type, json_t *message, struct err *err)
{
    CLEANUP_FREE char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
    struct iovec part = {.iov_base = text, .iov_len = text ? strlen(text) : 0};

    json_decref(message);
    return text ? conn_send(c, type, &part, 1, err) : err_set(err, -ENOMEM, "out of memory");
}

static int expect(struct conn *c, enum wire_type type, json_t **ret, struct err *err)
{
    struct record record;
    int r = conn_recv(c, &record, err);

    if (r == 0 && record.type != type && record.type != WIRE_FAILED)
        r = err_set(err, -EPROTO, "%s sent %s, expected %s", conn_peer(c), wire_type_name((uint16_t)record.type),
                    wire_type_name((uint16_t)type));
    if (r == 0)
        r = control_parse(&record, ret, err);
    if (r == 0 && record.type == WIRE_FAILED) {
        r = control_peer_error(*ret, err);
        json_decref(*ret);
        *ret = NULL;
    }
    return r;
}

static int connect_peer(struct conn **ret, const struct identity *id, const struct journal_entry *e,
                        uint64_t timeout_ns, struct err *err)
{
    json_t *hello = NULL;
    int r = conn_connect(ret, id, e->peer, timeout_ns, err);

    if (r < 0)
        return r;
    conn_set_timeout(*ret, ANSWER_TIMEOUT);
    r = control_say_hello(*ret, "recover", e->session, -1, err);
    if (r == 0)
        r = expect(*ret, WIRE_HELLO, &hello, err);
    json_decref(hello);
    if (r < 0)
        conn_destroy(*ret);
    return r;
}

static json_t *about(const struct journal_entry *e)
{
    return json_pack("{s:{s:s, s:s, s:s}}", "guest", "kind", e->kind, "name", e->name, "uuid", e->uuid);
}

int ask_whose(const struct identity *id, const struct journal_entry *e, uint64_t timeout_ns, bool *ret_here,
              struct err *err)
{
    const char *guest;
    json_t *answer = NULL;
    struct conn *c;
    int r = connect_peer(&c, id, e, timeout_ns, err);

    if (r < 0)
        return r;
    r = send_json(c, WIRE_ASK, about(e), err);
    if (r == 0)
        r = expect(c, WIRE_ANSWER, &answer, err);
    guest = json_string_value(json_object_get(answer, "guest"));
    if (r == 0 && (!guest || (strcmp(guest, "here") != 0 && strcmp(guest, "gone") != 0)))
        r = err_set(err, -EPROTO, "%s did not say whether the guest is \"here\" or \"gone\"", conn_peer(c));
    if (r == 0)
        *ret_here = strcmp(guest, "here") == 0;
    json_decref(answer);
    conn_destroy(c);
    return r;
}

int ask_forget(const struct identity *id, const struct journal_entry *e, uint64_t timeout_ns, struct err *err)
{
    json_t *answer = NULL;
    struct conn *c;
    int r = connect_peer(&c, id, e, timeout_ns, err);

    if (r < 0)
        return r;
    r = send_json(c, WIRE_FORGET, json_object(), err);
    if (r == 0)
        r = expect(c, WIRE_ANSWER, &answer, err);
    json_decref(answer);
    conn_destroy(c);
    return r;
}
