/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What conn-tls.c (handshake) and conn-tls-io.c (octets) share. */
#ifndef XMOTION_TRANSPORT_CONN_TLS_INTERNAL_H
#define XMOTION_TRANSPORT_CONN_TLS_INTERNAL_H

#include "transport/conn-tls.h"
#include "transport/conn.h"

#include <openssl/ssl.h>

/* Eight TLS records a system call: with 16 KiB a call, calls and small segments are a third of the
 * cost. */
#define TLS_BUFFER_SIZE (128u << 10)

/* TLS records under one key. RFC 8446, 5.5 allows AES-GCM 2^24.5 of them; a disk of 400 GiB is
 * more. */
#ifndef TLS_RECORDS_PER_KEY
#define TLS_RECORDS_PER_KEY (1u << 22)
#endif

enum tls_role { TLS_CLIENT, TLS_SERVER, TLS_PROBE };

struct tls {
    SSL *ssl;
    const struct identity *id;
    enum tls_role role;
    int fd;
    int socket_errno;   /* of the call that failed, 0: none did */
    bool eof;           /* the socket has no more */
    bool established;   /* the handshake is done */
    bool heard;         /* something was received: the peer has accepted us */
    bool failed;        /* nothing more can be sent, not even a goodbye */
    bool drained;       /* the last read found nothing whole */
    bool write_pending; /* an SSL_write must be called again first */
    short events;
    uint32_t records; /* under the present key */
    size_t in_from, in_to;
    size_t out_from, out_to;
    struct err refusal; /* why we refuse the peer's certificate */
    char peer[CONN_ADDRESS_MAX];
    char expected[IDENTITY_FINGERPRINT_LEN + 1]; /* client without a CA */
    char fingerprint[IDENTITY_FINGERPRINT_LEN + 1];
    uint8_t in[TLS_BUFFER_SIZE];
    uint8_t out[TLS_BUFFER_SIZE];
};

/* Puts the socket under t->ssl. Returns 0 or -ENOMEM. */
int tls_attach_socket(struct tls *t);

/* The meaning of `result`, what an SSL call returned that did not succeed: -EAGAIN and t->events,
 * -ENODATA at the end, or the error with its sentence. */
int tls_classify(struct tls *t, int result, struct err *err);

#endif
