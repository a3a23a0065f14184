/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Brings migrations whose process is dead to their end: reads the journals of this host, looks what is there, asks the receivers,
 * and does what recovery.h says. */
#ifndef XMOTION_SESSION_RECOVER_H
#define XMOTION_SESSION_RECOVER_H

#include "session/journal.h"
#include "transport/identity.h"

#include <jansson.h>

struct recover_config {
    const char *state_dir;
    const struct identity *identity;
    const char *only;           /* an id, the beginning of one of four digits or more, or a guest's name; NULL: all */
    const char *uuid;           /* of one guest alone; NULL: any */
    enum recover_choice choice; /* a person's, for what stays undecided */
    /* Incoming migrations that were prepared wait for their senders until --reconnect-for has passed since this time (clock_now);
     * 0: no longer. */
    uint64_t resumable_since;
    bool outgoing, incoming; /* which to look at */
    bool again;              /* not for the first time since this host runs: guests that came, and are ours, need no second look */
    /* One sentence about each that was looked at; `ended`: nothing is left to do about it. May be NULL. */
    void (*report)(void *data, const struct journal_entry *e, bool ended, const char *text);
    void *data;
};

struct recover_count {
    unsigned int settled;
    unsigned int undecided; /* nobody can know yet whose the guest is */
    unsigned int later;     /* the guest is seen to; a peer is still to be told, or may come back */
    unsigned int busy;      /* another process has it: it is under way, or just being settled */
    unsigned int failed;    /* or torn, or in conflict: a person must look */
};

/* 0, also when some could not be settled: see *ret. Only a state folder that cannot be read is an error. */
int recover_run(const struct recover_config *config, struct recover_count *ret, struct err *err);

/* Before a migration of this guest begins: what earlier ones left of it here is brought to an end, and what came here is noted as
 * moving on. -EBUSY: whose it is is still undecided, or it is moving just now. */
int recover_before(const char *state_dir, const struct identity *identity, const char *kind, const char *uuid, struct err *err);

/* Answers ASK for a session that no live process here has: settles the incoming journal first. *ret_here: the guest is ours. An error
 * means that it cannot be said now. */
int recover_answer(const char *state_dir, const char *session, const char *fingerprint, const struct journal_entry *asked,
                   bool *ret_here, struct err *err);

/* FORGET for such a session. */
int recover_forget(const char *state_dir, const char *session, const char *fingerprint, struct err *err);

/* The guest has moved: its disks here are an old copy, which may be reused when it comes back. */
void recover_mark_disks(const struct journal_entry *e);
/* It has come: what was an old copy, reused or written over, is its disk again. */
void recover_unmark_disks(const struct journal_entry *e);

/* Outgoing migrations of which nobody knows yet whose the guest is, as job_list describes jobs. */
int recover_list(const char *state_dir, json_t *append_to, struct err *err);

#endif
