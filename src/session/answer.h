/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a receiver answers to peers that begin no migration: whose a guest is (ASK), that it need not remember (FORGET). */
#ifndef XMOTION_SESSION_ANSWER_H
#define XMOTION_SESSION_ANSWER_H

#include "session/registry.h"

/* Serves one connection of the role "recover" about that session, HELLO included. The connection stays the caller's. */
void answer_recovery(struct registry *registry, const char *state_dir, struct conn *c, const char *session);

/* FAILED, with the reason; nothing of the peer's is here. */
void answer_failed(struct conn *c, const struct err *why);

#endif
