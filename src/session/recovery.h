/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is done about a migration whose process has ended before it: pure functions (docs/switchover.md, "Recovery"). They see a
 * journal and what is found on this host, and name one action. The caller does it, looks again and asks again, until it hears
 * an action that ends (RECOVER_FINISH, _LATER, _UNDECIDED, _CONFLICT). Every action may be repeated: a crash in the middle costs
 * nothing. A journal that a live process has locked is none of recovery's business.
 *
 * A RECOVER_NOTE_… writes the journal anew with that phase, fsynced, before anything else happens. At the source it keeps the boot
 * id that stands there; at the target RECOVER_NOTE_RUN sets the present one. */
#ifndef XMOTION_SESSION_RECOVERY_H
#define XMOTION_SESSION_RECOVERY_H

#include "session/switchover.h"

#include <stdbool.h>

/* Of STATE_DIR/outgoing/SESSION.json. */
enum outgoing_phase {
    OUTGOING_BEGUN,  /* the guest is this host's; GO has not been sent, or the target has given it back */
    OUTGOING_COMMIT, /* GO may have been sent */
    OUTGOING_DONE,   /* the guest is the target's; its half here may still stand aside */
    OUTGOING_BACK,   /* the guest is this host's and was seen to; only the receiver must be told to undo */
    OUTGOING_LEFT,   /* the guest is the target's and nothing of it is here; only the receiver must be told to forget */
    OUTGOING_PHASE_COUNT
};

/* Of STATE_DIR/incoming/SESSION.json. */
enum incoming_phase {
    INCOMING_PREPARE,  /* volumes are being made, or removed: nothing to resume */
    INCOMING_PREPARED, /* volumes are there; a guest may be in the making, and has not run */
    INCOMING_GO,       /* GO was received: it may run from now on */
    INCOMING_RUN,      /* it ran here */
    INCOMING_LEFT,     /* it ran here, and ended or moved on: nothing is started for this journal any more */
    INCOMING_PHASE_COUNT
};

const char *outgoing_phase_name(enum outgoing_phase phase);
const char *incoming_phase_name(enum incoming_phase phase);

/* What there is of the guest (this name, this UUID) on this host. Looked for when no agent of this session lives any more: a
 * dying agent resumes or destroys what it had. */
enum recover_found {
    FOUND_ABSENT,
    FOUND_RUNNING,  /* under its own name */
    FOUND_STILL,    /* under its own name, suspended or paused */
    FOUND_ASIDE,    /* NAME--moved */
    FOUND_INCOMING, /* NAME--incoming */
};

/* What the receiver said to RECOVER_ASK or RECOVER_FORGET. */
enum recover_answer {
    ANSWER_NOT_ASKED, /* in this run of recovery */
    ANSWER_HERE,
    ANSWER_GONE, /* a promise: its copy is destroyed and cannot run any more */
    ANSWER_NONE, /* it cannot be reached, or could not say */
};

enum recover_choice { CHOICE_NONE, CHOICE_GUEST_IS_HERE, CHOICE_GUEST_IS_THERE };

enum recover_action {
    /* Both. */
    RECOVER_FINISH,     /* nothing is left to do: remove the journal, durably */
    RECOVER_LATER,      /* nothing can be done now, and nobody waits for it: come again */
    RECOVER_START_ANEW, /* start the guest from its disks with the configuration in the journal (target: destroy NAME--incoming first) */
    RECOVER_CONFLICT,   /* what is found cannot be: touch nothing, say what was found, a person looks */
    /* Source. */
    RECOVER_ASK,           /* send ASK: the receiver destroys its copy unless it has GO, and says where the guest is */
    RECOVER_FORGET,        /* send FORGET, wait until it is answered */
    RECOVER_RESUME,        /* give it its name back and let it run on; as the live session does after a give-back */
    RECOVER_DESTROY_ASIDE, /* destroy NAME--moved; disks are kept, or removed if that was asked for */
    RECOVER_UNDECIDED,     /* start nothing, destroy nothing; show it with the two commands; ask again later */
    RECOVER_NOTE_BEGUN,
    RECOVER_NOTE_DONE,
    RECOVER_NOTE_BACK,
    RECOVER_NOTE_LEFT, /* target: INCOMING_LEFT */
    /* Target. */
    RECOVER_RUN,              /* it is complete, has its name and is paused: let it run */
    RECOVER_UNDO,             /* destroy NAME--incoming, or NAME where it stands still on this session's volumes (it took its name and
                               * never ran); remove the volumes that this session made, then the journal, durably */
    RECOVER_DESTROY_INCOMING, /* destroy NAME--incoming; the volumes wait for the sender */
    RECOVER_NOTE_PREPARE,     /* it has never run and shall not: GO or what could be resumed is taken back, before anything is
                               * destroyed or answered */
    RECOVER_NOTE_RUN,
    RECOVER_ACTION_COUNT
};

const char *recover_action_name(enum recover_action action);

struct recover_source {
    enum outgoing_phase phase;
    bool same_boot; /* as when the journal was begun */
    enum recover_found found;
    enum recover_answer answer; /* in this run, to what the present phase sent */
    enum recover_choice choice; /* counts only where the receiver does not answer */
};

struct recover_target {
    enum incoming_phase phase;
    bool same_boot; /* as when the journal was written last */
    bool released;  /* the mark that is made right before `run` is there (counts in the same boot only) */
    enum recover_found found;
    bool resumable; /* the sender may still come back: --reconnect-for has not passed since the session was parked or lost */
    bool asked;     /* ASK has come, and waits */
};

enum recover_action recover_source_next(const struct recover_source *in);
enum recover_action recover_target_next(const struct recover_target *in);

/* What ASK is answered when recover_target_next has ended: HERE or GONE; NONE: do the action first, and look again.
 * A session without a journal: GONE. */
enum recover_answer recover_target_answer(const struct recover_target *in);

/* ASK for a session that a live process of this receiver has: what is done with that session before the answer. */
enum recover_live {
    LIVE_CANCEL, /* end it as by ABORT, wait until it has undone all, then GONE: a GO that it has not read yet must find nobody */
    LIVE_WAIT,   /* GO is being done: wait for its end and look again */
    LIVE_HERE,   /* HERE */
};
enum recover_live recover_live_next(enum switchover_state state);

/* FORGET is obeyed (journal removed, durably, then answered) in these phases. A GO is settled by recover_target_next first; before GO
 * it is refused (FAILED), and the sender says it again later. A session without a journal: answered. */
bool recover_may_forget(enum incoming_phase phase);

/* A new migration of the same guest (UUID) may begin here: every other outgoing journal of it is in such a phase. */
bool recover_settled(enum outgoing_phase phase);

/* Disks alone (kind "none") have no domain to be found: what counts as found. */
enum recover_found recover_source_found_disk(enum outgoing_phase phase);
enum recover_found recover_target_found_disk(enum incoming_phase phase);

#endif
