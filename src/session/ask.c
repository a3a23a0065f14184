/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/ask.h"

#include "base/clock.h"
#include "session/control.h"

#include <string.h>

#define ANSWER_TIMEOUT (60 * NS_PER_SEC) /* a guest that is just being undone or started there may take that long */

static int expect(struct conn *c, enum wire_type type, json_t **ret, struct err *err)
{
    struct record record;
    int r = conn_recv(c, &record, err);

    return r < 0 ? r : control_take(c, &record, type, ret, err);
}

static int connect_peer(struct conn **ret, const struct identity *id, const struct journal_entry *e,
                        uint64_t timeout_ns, struct err *err)
{
    json_t *hello = NULL;
    int r = conn_connect(ret, id, e->peer, timeout_ns, err);

    if (r < 0)
        return r;
    conn_set_timeout(*ret, ANSWER_TIMEOUT);
    r = control_say_hello(*ret, "recover", e->session, -1, 0, err);
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
    r = control_send_json(c, WIRE_ASK, about(e), err);
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
    r = control_send_json(c, WIRE_FORGET, json_object(), err);
    if (r == 0)
        r = expect(c, WIRE_ANSWER, &answer, err);
    json_decref(answer);
    conn_destroy(c);
    return r;
}
