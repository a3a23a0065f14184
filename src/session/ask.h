/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Asking a receiver, on a connection of its own, what became of a migration. */
#ifndef XMOTION_SESSION_ASK_H
#define XMOTION_SESSION_ASK_H

#include "session/journal.h"
#include "transport/identity.h"

/* Asks the receiver of an outgoing entry whose the guest is. *ret_here: it is the receiver's; else nothing of it is there and
 * nothing of it will ever run there: a migration that was not past GO is undone by being asked about. Waits `timeout_ns` for
 * the connection and 60 s for the answer. An error means that it is not known. */
int ask_whose(const struct identity *id, const struct journal_entry *e, uint64_t timeout_ns, bool *ret_here,
              struct err *err);

/* Tells it that this end has noted for good that the guest is there: it need not remember any more. */
int ask_forget(const struct identity *id, const struct journal_entry *e, uint64_t timeout_ns, struct err *err);

#endif
