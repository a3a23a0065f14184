/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/answer.h"

#include "base/clock.h"
#include "base/log.h"
#include "session/control.h"
#include "session/recover.h"

#include <string.h>

#define AREA           "session.server"
#define ANSWER_TIMEOUT (50 * NS_PER_SEC) /* less than whoever asks waits */

struct answerer {
    struct registry *registry;
    const char *state_dir;
};

void answer_failed(struct conn *c, const struct err *why)
{
    (void)control_send_json(c, WIRE_FAILED, control_failure(why), NULL);
}

/* A migration that lives is brought to an end first; then its journal tells. */
static int end_live(struct answerer *s, const char *session, const char *fingerprint, bool *ret_here, struct err *err)
{
    struct target *t = registry_find(s->registry, session, fingerprint);
    enum recover_live live;

    *ret_here = false;
    if (!t)
        return 0;
    live = recover_live_next(target_state(t));
    if (live == LIVE_CANCEL)
        target_dissolve(t);
    registry_put(s->registry, t);
    if (live == LIVE_HERE) {
        *ret_here = true;
        return 0;
    }
    return registry_wait_gone(s->registry, session, ANSWER_TIMEOUT)
               ? 0
               : err_set(err, -EBUSY, "this migration is just coming to its end: ask again");
}

static int copy_member(char *to, size_t size, const json_t *guest, const char *key, struct err *err)
{
    const char *text = json_string_value(json_object_get(guest, key));

    if (!text || strlen(text) >= size)
        return err_set(err, -EPROTO, "ASK names no %s of the guest, expected a text of less than %zu characters", key, size);
    (void)strcpy(to, text);
    return 0;
}

static int answer_ask(struct answerer *s, const char *session, const char *fingerprint, const json_t *message, bool *ret_here,
                      struct err *err)
{
    const json_t *guest = json_object_get(message, "guest");
    struct journal_entry asked = {.side = JOURNAL_INCOMING};
    int r = copy_member(asked.name, sizeof(asked.name), guest, "name", err);

    if (r == 0)
        r = copy_member(asked.kind, sizeof(asked.kind), guest, "kind", err);
    if (r == 0)
        r = copy_member(asked.uuid, sizeof(asked.uuid), guest, "uuid", err);
    if (r == 0)
        r = end_live(s, session, fingerprint, ret_here, err);
    if (r == 0 && !*ret_here)
        r = recover_answer(s->state_dir, session, fingerprint, &asked, ret_here, err);
    return r;
}

static int answer_forget(struct answerer *s, const char *session, const char *fingerprint, bool *ret_here, struct err *err)
{
    struct target *t = registry_find(s->registry, session, fingerprint);

    *ret_here = true;
    if (!t)
        return recover_forget(s->state_dir, session, fingerprint, err);
    target_forget(t);
    registry_put(s->registry, t);
    if (!registry_wait_gone(s->registry, session, ANSWER_TIMEOUT))
        return err_set(err, -EBUSY, "this migration is just coming to its end: say it again");
    return recover_forget(s->state_dir, session, fingerprint, err); /* it had waited for this word long enough, and left its journal */
}

static int answer_recover(struct answerer *s, struct conn *c, const char *session, bool *ret_here, struct err *err)
{
    struct record record;
    json_t *message = NULL;
    int r = control_answer_hello(c, err);

    if (r == 0)
        r = conn_recv(c, &record, err);
    if (r == 0)
        r = control_parse(&record, &message, err);
    if (r < 0)
        return r;
    if (record.type == WIRE_ASK)
        r = answer_ask(s, session, conn_peer_fingerprint(c), message, ret_here, err);
    else if (record.type == WIRE_FORGET)
        r = answer_forget(s, session, conn_peer_fingerprint(c), ret_here, err);
    else
        r = err_set(err, -EPROTO, "%s on a connection for recovery, expected ASK or FORGET", wire_type_name((uint16_t)record.type));
    json_decref(message);
    return r;
}

void answer_recovery(struct registry *registry, const char *state_dir, struct conn *c, const char *session)
{
    struct answerer s = {.registry = registry, .state_dir = state_dir};
    struct err err = {0};
    bool here = false;

    if (answer_recover(&s, c, session, &here, &err) < 0) {
        log_info(AREA, "%s: %s", conn_peer(c), err.text);
        answer_failed(c, &err);
        return;
    }
    (void)control_send_json(c, WIRE_ANSWER, json_pack("{s:s}", "guest", here ? "here" : "gone"), NULL);
}
