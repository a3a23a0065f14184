/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who this host is and whom it believes. Files in the state folder (default /var/lib/xmotion, or
 * $XMOTION_STATE_DIR), made at first use, folder 0700:
 *   identity.key identity.crt   EC P-256 key and self-signed certificate, PEM, 0600
 *   trusted                     "ADDRESS FINGERPRINT" a line: receivers that this host sends to
 *   authorized                  "FINGERPRINT COMMENT" a line: senders that this host receives from
 * A fingerprint is "SHA256:" and the SHA-256 of the certificate's DER as 64 lower-case hex digits.
 */
#ifndef XMOTION_TRANSPORT_IDENTITY_H
#define XMOTION_TRANSPORT_IDENTITY_H

#include "base/err.h"

#include <stdbool.h>

#define IDENTITY_FINGERPRINT_LEN 71

struct identity;

struct identity_config {
    const char *state_dir; /* NULL: $XMOTION_STATE_DIR or the default */
    const char *ca;        /* PEM; with it the peer's chain (and a receiver's name) is verified, */
    const char *cert;      /* PEM; and these two are shown instead of identity.crt/.key */
    const char *key;
};

/* Loads, and makes what is missing (key, certificate; safe against a second process doing the
 * same). ca, cert and key go together or not at all. */
int identity_load(struct identity **ret, const struct identity_config *config, struct err *err);
void identity_destroy(struct identity *id);

const char *identity_fingerprint(const struct identity *id);

/* Connects to `address`, takes the fingerprint of the certificate shown there and, unless
 * `expected` is given and differs (-EACCES), stores it as trusted, replacing an older line only
 * when `replace`. */
int identity_trust(const struct identity *id, const char *address, const char *expected,
                   bool replace, char ret_fingerprint[IDENTITY_FINGERPRINT_LEN + 1],
                   struct err *err);

/* Adds a sender's fingerprint to the authorized ones (twice is once). -EINVAL: not a fingerprint.
 */
int identity_authorize(const struct identity *id, const char *fingerprint, const char *comment,
                       struct err *err);

#endif
