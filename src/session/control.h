/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control connection of a session: JSON messages, the memory script from other threads, and keep-alive. All but
 * control_post belong to the session's thread. */
#ifndef XMOTION_SESSION_CONTROL_H
#define XMOTION_SESSION_CONTROL_H

#include "session/loop.h"
#include "transport/conn.h"

#include <jansson.h>
#include <pthread.h>
#include <stdbool.h>

struct control_item;

struct control {
    struct conn *conn;
    struct loop *loop;
    pthread_mutex_t lock;
    struct control_item *head; /* posted, not sent */
    struct control_item *tail;
    uint64_t heard_ns; /* last time anything came */
    uint64_t pinged_ns;
    int broken; /* the code with which the connection ended: nothing the peer said; 0 it stands */
};

/* Takes the connection over. */
int control_init(struct control *c, struct conn *conn, struct loop *loop, struct err *err);
/* Idempotent. */
void control_finish(struct control *c);

/* On any connection: one JSON message; takes `message` over (also on failure). */
int control_send_json(struct conn *c, enum wire_type type, json_t *message, struct err *err);
/* What FAILED and ABORTED say: why, and that nothing of the guest is left. */
json_t *control_failure(const struct err *why);

/* Sends one JSON message; takes `message` over (also on failure). */
int control_send(struct control *c, enum wire_type type, json_t *message, struct err *err);

/* Any thread: queues a record, which control_work sends in order. */
int control_post(struct control *c, enum wire_type type, const void *body, uint32_t length, struct err *err);

/* Sends what was posted, and PING where it is due. -ETIMEDOUT: the peer has been silent for 30 s. */
int control_work(struct control *c, struct err *err);

/* While work takes long and nothing is read: tells the peer now and then that this end is alive. */
int control_tell_alive(struct control *c, struct err *err);
/* After such work: the peer had no say meanwhile. */
void control_heard(struct control *c);

/* The next record that is not PING or PONG; -EAGAIN. */
int control_next(struct control *c, struct record *ret, struct err *err);

/* Waits for the next record until the clock says `until_ns`: -EAGAIN then. */
int control_hear(struct control *c, uint64_t until_ns, struct record *ret, struct err *err);

/* Waits for one record of the given type, answering PING; *ret as control_take. */
int control_expect(struct control *c, enum wire_type type, json_t **ret, struct err *err);

/* HELLO of the sender: on connections with `role`, about `session`; `number` of a data connection, else -1. */
int control_say_hello(struct conn *c, const char *role, const char *session, int number, unsigned int drops, struct err *err);

/* The receiver's HELLO, the same on every connection. */
int control_answer_hello(struct conn *c, struct err *err);

/* The record that was waited for, as a JSON object that the caller frees: any other type is -EPROTO, FAILED the peer's error. */
int control_take(struct conn *c, const struct record *record, enum wire_type type, json_t **ret, struct err *err);

/* A record's body as a JSON object. */
int control_parse(const struct record *record, json_t **ret, struct err *err);

/* The error of a FAILED message: -EREMOTEIO and the peer's sentence. Takes nothing over. */
int control_peer_error(const json_t *failed, struct err *err);

#endif
