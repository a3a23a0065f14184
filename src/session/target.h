/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The receiver's half of one migration: everything of it runs in the thread of its control connection, but for the data
 * connections, which enter target_data from their own threads. */
#ifndef XMOTION_SESSION_TARGET_H
#define XMOTION_SESSION_TARGET_H

#include "session/server.h"
#include "transport/conn.h"

struct target;

int target_create(struct target **ret, const struct server_config *config, const char *session,
                  struct conn *control, struct err *err);
void target_destroy(struct target *t);

/* From PREPARE to its end. 0: the guest runs here. */
int target_run(struct target *t, struct err *err);
/* CHECK and its answer. */
int target_check_only(struct target *t, struct err *err);

/* Serves one data connection until it ends. Other threads. */
int target_data(struct target *t, struct conn *c, struct err *err);

const char *target_session(const struct target *t);
const char *target_fingerprint(const struct target *t);
/* The guest's name, "" before it is known. */
const char *target_guest(const struct target *t);
/* Any thread: ends it as a failure of this end would. */
void target_cancel(struct target *t);

#endif
