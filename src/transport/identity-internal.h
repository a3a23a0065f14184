/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What identity.c, trust.c and conn-tls.c share. Inside the room only. */
#ifndef XMOTION_TRANSPORT_IDENTITY_INTERNAL_H
#define XMOTION_TRANSPORT_IDENTITY_INTERNAL_H

#include "transport/identity.h"

#include <openssl/ssl.h>

/* Not changed after identity_load, so connections of several threads share it; but for `contexts`, of clients and of servers, which are
 * made when they are needed first. */
struct identity {
    char *dir;
    X509 *cert;
    EVP_PKEY *key;
    STACK_OF(X509) * chain; /* what follows `cert` in config->cert, NULL without */
    X509_STORE *ca;         /* NULL without a CA */
    _Atomic(SSL_CTX *) *contexts;
    char fingerprint[IDENTITY_FINGERPRINT_LEN + 1];
};

#define IDENTITY_CONTEXTS 2

/* Returns 0 or -ENOMEM. */
int identity_fingerprint_of(const X509 *cert, char ret[IDENTITY_FINGERPRINT_LEN + 1]);

/* "SHA256:" and 64 lower-case hex digits, nothing else. */
bool trust_is_fingerprint(const char *text);

/* The fingerprint that is trusted for a canonical address: -EACCES with what to do when there is
 * none. */
int trust_look_up(const struct identity *id, const char *canonical,
                  char ret[IDENTITY_FINGERPRINT_LEN + 1], struct err *err);

/* Reads `authorized` anew, so that `xmotion authorize` works at once. */
bool trust_is_authorized(const struct identity *id, const char *fingerprint);

/* Holds the state folder's lock; processes that change it wait for each other. Close to give it
 * back. */
int identity_lock(const char *dir, int *ret_fd, struct err *err);

/* "<dir>/<name>" into a PATH_MAX buffer; -ENAMETOOLONG. */
int identity_path(const char *dir, const char *name, char *ret, struct err *err);

#endif
