/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What streams may know of a connection beyond conn.h. Inside the room only. */
#ifndef XMOTION_TRANSPORT_CONN_INTERNAL_H
#define XMOTION_TRANSPORT_CONN_INTERNAL_H

#include "transport/conn.h"

/* The peer has closed, no record was cut by it, and we did not shut down ourselves. */
bool conn_ended(const struct conn *c);

/* conn_send in two: a record may stay here in part until more follows, so that TLS records and calls are filled, or until it is
 * flushed. */
int conn_put(struct conn *c, enum wire_type type, const struct iovec *parts, unsigned int n, struct err *err);
int conn_flush(struct conn *c, struct err *err);
bool conn_has_unsent(const struct conn *c);

/* Waits after -EAGAIN of conn_try_recv: for the first octet of a record as long as it takes, inside
 * of one at most the timeout. */
int conn_wait(struct conn *c, struct err *err);

#endif
