/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who owns the guest: the states of both ends of a migration as pure functions (docs/switchover.md holds the table).
 * The sessions ask them at every event and do what they say; nothing else decides. */
#ifndef XMOTION_SESSION_SWITCHOVER_H
#define XMOTION_SESSION_SWITCHOVER_H

enum switchover_role { SWITCHOVER_SOURCE, SWITCHOVER_TARGET };

enum switchover_state {
    SW_START,     /* nothing exists at the target */
    SW_PREPARED,  /* volumes exist; disks are copied */
    SW_MEMORY,    /* a domain is being built at the target, the guest runs at the source */
    SW_SUSPENDED, /* source only: the guest stands still, all can still be undone */
    SW_READY,     /* the target has all and said so; undone by either end */
    SW_GO,        /* GO sent (source) or received (target): the target owns the guest */
    SW_DONE,      /* the guest runs at the target */
    SW_UNDONE,    /* the guest is at the source, nothing is at the target */
    SW_UNKNOWN,   /* source only: GO sent, no answer: recovery.h goes on */
    SW_STATE_COUNT
};

enum switchover_event {
    SW_EV_PREPARED,
    SW_EV_MEMORY,
    SW_EV_SUSPENDED,
    SW_EV_READY,
    SW_EV_GO,
    SW_EV_RUNNING,
    SW_EV_FAILED,      /* this end failed, was cancelled or ran out of time */
    SW_EV_PEER_FAILED, /* the peer said FAILED or ABORT, and has undone (or will undo) its side */
    SW_EV_PEER_LOST,   /* the connection broke, or the peer is silent, for good: no way or no time left to resume */
    SW_EV_DROPPED,     /* the connection broke, and may come back within --reconnect-for */
    SW_EV_COUNT
};

enum switchover_action {
    SW_NOTHING,    /* go on */
    SW_PARK,       /* source: end the save, the guest runs on here, disks and their chains wait. target: destroy the domain, volumes and
                    * chains wait. SW_EV_PEER_LOST when that took too long */
    SW_UNDO,       /* source: end the save, the guest runs on here. target: destroy domain and volumes */
    SW_RUN,        /* target: start the guest */
    SW_KEEP,       /* source: the guest is the target's now: destroy the domain here */
    SW_ASK_PERSON, /* source: start nothing, destroy nothing; recovery asks the receiver, and else a person */
    SW_REFUSE,     /* this event cannot come in this state: a bug or a hostile peer; treat it as SW_EV_FAILED */
};

struct switchover_step {
    enum switchover_state next;
    enum switchover_action action;
};

struct switchover_step switchover_next(enum switchover_role role, enum switchover_state state,
                                       enum switchover_event event);

const char *switchover_state_name(enum switchover_state s);

#endif
