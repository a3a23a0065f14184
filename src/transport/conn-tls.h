/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TLS 1.3 on one socket: a handshake with a deadline, then octets without waiting. Inside the room
 * only; conn.c makes records of it. */
#ifndef XMOTION_TRANSPORT_CONN_TLS_H
#define XMOTION_TRANSPORT_CONN_TLS_H

#include "base/err.h"
#include "transport/identity.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TLS_RECORD_MAX 16384u

struct tls;

/* Both own the socket from then on, and close it on failure. Arguments as of conn_connect and
 * conn_accept. */
int tls_connect(struct tls **ret, const struct identity *id, const char *address,
                uint64_t timeout_ns, struct err *err);
int tls_accept(struct tls **ret, const struct identity *id, int fd, uint64_t timeout_ns,
               struct err *err);
void tls_destroy(struct tls *t);

/* The fingerprint of whoever answers at `address` and proves to hold its key, trusted or not. */
int tls_probe(const struct identity *id, const char *address, uint64_t timeout_ns,
              char ret_fingerprint[IDENTITY_FINGERPRINT_LEN + 1], struct err *err);

int tls_fd(const struct tls *t);
const char *tls_peer(const struct tls *t);
const char *tls_peer_fingerprint(const struct tls *t);

/* Reads at most `len` octets. -EAGAIN: wait for tls_events; -ENODATA: the peer has closed; -EACCES:
 * it does not accept our certificate; anything else is final too. */
int tls_read(struct tls *t, void *buf, size_t len, size_t *ret_len, struct err *err);

/* Takes a part of `len` octets, 16 KiB at most; after -EAGAIN it must be called with the same
 * arguments. What is taken may stay in the output buffer until tls_flush. */
int tls_write(struct tls *t, const void *buf, size_t len, size_t *ret_len, struct err *err);
int tls_flush(struct tls *t, struct err *err);
bool tls_has_unsent(const struct tls *t);

/* The poll events that the last -EAGAIN waits for. */
short tls_events(const struct tls *t);

/* Whether a read might give something although poll shows nothing. */
bool tls_pending(const struct tls *t);

#endif
