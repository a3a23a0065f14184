/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The receiver's half of one migration: everything of it runs in the thread of its control connection, but for the data
 * connections, which enter target_data from their own threads. */
#ifndef XMOTION_SESSION_TARGET_H
#define XMOTION_SESSION_TARGET_H

#include "session/server.h"
#include "session/switchover.h"
#include "transport/conn.h"

struct target;

int target_create(struct target **ret, const struct server_config *config, const char *session,
                  struct conn *control, struct err *err);
void target_destroy(struct target *t);

enum target_place { TARGET_BEGINS, TARGET_PARKS, TARGET_RETURNS };

/* `admit` is asked when PREPARE has come and is sound, an error refuses the migration; and told when the sender was lost and when it is
 * back. Before target_run. */
void target_set_admission(struct target *t, int (*admit)(void *data, enum target_place what, struct err *err), void *data);

/* Whether a migration that an earlier receiver prepared could be gone on with: -ENOENT. */
int target_find_again(const char *state_dir, const char *session, const char *fingerprint, struct err *err);
/* Takes it up from its journal. */
int target_create_again(struct target **ret, const struct server_config *config, const char *session,
                        struct conn *control, unsigned int drops, struct err *err);

/* From PREPARE (or RESUMED) to its end. 0: the guest runs here. */
int target_run(struct target *t, struct err *err);
/* CHECK and its answer. */
int target_check_only(struct target *t, struct err *err);

/* It is not begun: says why to the peer. */
void target_refuse(struct target *t, const struct err *why);

/* Serves one data connection until it ends. `number` is the sender's own for it, `drops` how often it had lost its connections when it
 * made this one. Other threads. */
int target_data(struct target *t, struct conn *c, unsigned int number, unsigned int drops, struct err *err);

/* The sender, which has lost its connections `drops` times, is back on a new control connection, which is taken over. Other threads. */
void target_resume(struct target *t, struct conn *control, unsigned int drops);

/* Its state now. Other threads. */
enum switchover_state target_state(struct target *t);

/* The sender knows for good that the guest is here. Other threads. */
void target_forget(struct target *t);

/* Somebody asks whose the guest is: before GO it ends now, undone. Other threads. */
void target_dissolve(struct target *t);

const char *target_session(const struct target *t);
const char *target_fingerprint(const struct target *t);
/* The guest's name, "" before it is known. */
const char *target_guest(const struct target *t);
/* Any thread: ends it as a failure of this end would. */
void target_cancel(struct target *t);

#endif
