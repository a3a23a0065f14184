/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What each end of a migration has promised, durable before it is done: STATE_DIR/outgoing/SESSION.json at the source,
 * STATE_DIR/incoming/SESSION.json at the target. Whoever finds one whose owner is dead knows from it whose the guest is
 * (recovery.h), and what was made here. While the owner lives it holds a lock beside it, SESSION.lock. */
#ifndef XMOTION_SESSION_JOURNAL_H
#define XMOTION_SESSION_JOURNAL_H

#include "base/err.h"
#include "hv/hv.h"
#include "mirror/volume.h"
#include "session/recovery.h"
#include "transport/conn.h"

#include <jansson.h>

enum journal_side { JOURNAL_OUTGOING, JOURNAL_INCOMING };

struct journal_entry {
    enum journal_side side;
    int phase; /* enum outgoing_phase or incoming_phase, by side */
    char session[40];
    char boot[40];               /* boot_id of the kernel under which it was begun; at the target, written last */
    char peer[CONN_ADDRESS_MAX]; /* outgoing: the receiver's address. incoming: the sender's fingerprint */
    char name[HV_NAME_MAX];
    char kind[16];
    char uuid[40];
    uint64_t reconnect_s;        /* incoming: how long the sender may take to come back */
    bool verify;                 /* incoming: what is written is read back */
    uint64_t reused;             /* incoming: a bit for each disk that was an old copy */
    json_t *guest;               /* as in PREPARE, for starting it anew; owned, may be NULL */
    struct volume volumes[HV_DISKS_MAX]; /* incoming: made or overwritten here. outgoing: the guest's disks */
    unsigned int volume_count;
};

/* Frees what the entry owns. */
void journal_entry_finish(struct journal_entry *e);

/* A journal that is this process's own. All zero: none. */
struct journal {
    struct journal_entry entry;
    const char *state_dir; /* borrowed */
    int lock;              /* -1 none */
    bool written;
};

/* Takes the lock of the session: -EBUSY when a live process has it. Nothing is written yet. `entry.session` and `.side` are set. */
int journal_open(struct journal *j, const char *state_dir, enum journal_side side, const char *session, struct err *err);

/* Makes the entry as it is now durable, replacing what was there. */
int journal_write(struct journal *j, struct err *err);
/* Sets the phase and writes. */
int journal_advance(struct journal *j, int phase, struct err *err);

/* The migration is over: nothing of it stays behind. */
int journal_remove(struct journal *j, struct err *err);

/* Gives the lock up; the entry stays for recovery, unless it was removed or never written. */
void journal_close(struct journal *j);

/* Reads the entry of a session, whoever owns it. -ENOENT: there is none. -EBADMSG: it is there, but it is not whole. */
int journal_load(const char *state_dir, enum journal_side side, const char *session, struct journal_entry *ret,
                 struct err *err);

/* Calls `each` with every entry. A file that cannot be read as one is left alone, logged and counted in *ret_torn (may be NULL). */
int journal_each(const char *state_dir, enum journal_side side,
                 void (*each)(const struct journal_entry *e, void *data), void *data, unsigned int *ret_torn,
                 struct err *err);

/* Whether its owner lives. */
bool journal_is_owned(const char *state_dir, const struct journal_entry *e);

const char *journal_phase_name(const struct journal_entry *e);

/* The boot_id of this kernel, "" when it cannot be read. */
void journal_boot(char ret[40]);

#endif
