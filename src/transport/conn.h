/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One TLS connection that carries records (docs/protocol.md). A connection is used by one thread at
 * a time, but for conn_shutdown, which any thread may call to wake the one that waits. */
#ifndef XMOTION_TRANSPORT_CONN_H
#define XMOTION_TRANSPORT_CONN_H

#include "base/err.h"
#include "transport/wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct conn;
struct identity;

#define CONN_DEFAULT_PORT "7799"
#define CONN_ADDRESS_MAX  272

/* The one spelling of an address, "host:port" or "[v6]:port": host in lower case, default port
 * added. The key of `trusted` (identity.h). -EINVAL: not an address. */
int conn_canonical_address(const char *address, char ret[CONN_ADDRESS_MAX], struct err *err);

/* Connects to "host", "host:port", "1.2.3.4:port" or "[v6]:port" and finishes the TLS handshake.
 * The peer must show the certificate that identity_trust stored for this address (or, with a CA,
 * one for that host name). The error text says what to do: nothing listens, not trusted yet,
 * certificate has changed (man in the middle?), we are not authorized there. Waits at most
 * `timeout_ns`. */
int conn_connect(struct conn **ret, const struct identity *id, const char *address,
                 uint64_t timeout_ns, struct err *err);

/* Finishes the server's side of the handshake on an accepted socket, which is taken over (closed on
 * failure as well). A peer that is not authorized gets a TLS alert, no record. */
int conn_accept(struct conn **ret, const struct identity *id, int fd, uint64_t timeout_ns,
                struct err *err);

/* Listens on "host:port" ("" or NULL: every address, default port). Returns the socket. */
int conn_listen(const char *address, int *ret_fd, struct err *err);

/* A negative errno that speaks of the connection, not of what the peer said: the network failed, or
 * the peer's process did. Another connection may work.
 *   -ECONNRESET    closed, in the middle of a record or not; without the goodbye of TLS as well
 *   -ECONNABORTED  damaged below TLS: what arrives, here or there, is not what was sent; a handshake
 *                  that fails for another reason than certificates or the version of TLS
 *   -EPIPE, -ETIMEDOUT, -EHOSTUNREACH, -ENETUNREACH, -ENETDOWN, -ECONNREFUSED, -ENOTCONN */
bool conn_error_is_drop(int code);

void conn_destroy(struct conn *c);

/* The last thing that a detached thread does which has used connections: what the TLS library keeps for it is gone afterwards, so that
 * the program may end without waiting for the thread. */
void conn_thread_end(void);

/* Ends both directions of the socket at once; whoever waits gets -ECONNRESET or -EPIPE. */
void conn_shutdown(struct conn *c);

/* "host:port" of the peer, and the SHA-256 fingerprint of its certificate (see identity.h). */
const char *conn_peer(const struct conn *c);
const char *conn_peer_fingerprint(const struct conn *c);

/* The pollable descriptor. conn_pending: bytes that were decrypted already; poll does not see them.
 */
int conn_fd(const struct conn *c);
bool conn_pending(const struct conn *c);

/* How long an answer of the peer's kernel takes at least, as this one's TCP estimates; 0: not known. */
uint64_t conn_round_trip_ns(const struct conn *c);

/* Octets of records sent and received, headers included, as the TLS layer was given them. */
uint64_t conn_bytes_sent(const struct conn *c);
uint64_t conn_bytes_received(const struct conn *c);

/* Sends one whole record whose body is the `n` parts. Waits for the peer as long as it takes to
 * accept it, at most the connection's timeout (conn_set_timeout, default 30 s) without progress:
 * -ETIMEDOUT. */
int conn_send(struct conn *c, enum wire_type type, const struct iovec *parts, unsigned int n,
              struct err *err);

struct record {
    enum wire_type type;
    uint32_t length;
    uint8_t *body; /* owned by the connection, good until the next receive */
};

/* Sets the largest body that is accepted (before memory is taken for it). Default WIRE_CONTROL_MAX.
 */
void conn_set_max_body(struct conn *c, uint32_t max);

/* The longest wait without progress of conn_send and conn_recv; UINT64_MAX: for ever. */
void conn_set_timeout(struct conn *c, uint64_t ns);

/* Receives one whole record; waits. -ECONNRESET when the peer is gone, -EPROTO with what was wrong,
 * -EACCES when it turns out that the peer does not authorize us, or what conn_error_is_drop knows.
 * After -ETIMEDOUT it may be called again and goes on where it was; every other error of a send or
 * a receive is the end of the connection. */
int conn_recv(struct conn *c, struct record *ret, struct err *err);

/* Goes on with the record under way without waiting: -EAGAIN when it is not whole yet. */
int conn_try_recv(struct conn *c, struct record *ret, struct err *err);

/* Every record of this connection, both directions, is also written to `path` in clear: for
 * tools/verify-stream.py and bug reports. Each is preceded by one octet: 'S' sent, 'R' received. */
int conn_capture(struct conn *c, const char *path, struct err *err);

#endif
