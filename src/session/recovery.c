/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/recovery.h"

#include <assert.h>

static const char *const outgoing_names[OUTGOING_PHASE_COUNT] = {
    [OUTGOING_BEGUN] = "begun", [OUTGOING_COMMIT] = "commit", [OUTGOING_DONE] = "done",
    [OUTGOING_BACK] = "back",   [OUTGOING_LEFT] = "left",
};

static const char *const incoming_names[INCOMING_PHASE_COUNT] = {
    [INCOMING_PREPARE] = "prepare", [INCOMING_PREPARED] = "prepared", [INCOMING_GO] = "go",
    [INCOMING_RUN] = "run",         [INCOMING_LEFT] = "left",
};

static const char *const action_names[RECOVER_ACTION_COUNT] = {
    [RECOVER_FINISH] = "finish",
    [RECOVER_LATER] = "later",
    [RECOVER_START_ANEW] = "start anew",
    [RECOVER_CONFLICT] = "conflict",
    [RECOVER_ASK] = "ask",
    [RECOVER_FORGET] = "tell to forget",
    [RECOVER_RESUME] = "resume",
    [RECOVER_DESTROY_ASIDE] = "destroy aside",
    [RECOVER_UNDECIDED] = "undecided",
    [RECOVER_NOTE_BEGUN] = "note begun",
    [RECOVER_NOTE_DONE] = "note done",
    [RECOVER_NOTE_BACK] = "note back",
    [RECOVER_NOTE_LEFT] = "note left",
    [RECOVER_RUN] = "run",
    [RECOVER_UNDO] = "undo",
    [RECOVER_DESTROY_INCOMING] = "destroy incoming",
    [RECOVER_NOTE_PREPARE] = "note prepare",
    [RECOVER_NOTE_RUN] = "note run",
};

const char *outgoing_phase_name(enum outgoing_phase phase)
{
    return outgoing_names[phase];
}

const char *incoming_phase_name(enum incoming_phase phase)
{
    return incoming_names[phase];
}

const char *recover_action_name(enum recover_action action)
{
    return action_names[action];
}

/* -- the source -- */

/* The guest is this host's. What stands still or aside runs on; what a reboot took is started again; what is absent without a
 * reboot has ended by itself, as it would have without us. */
static enum recover_action begun(const struct recover_source *in)
{
    switch (in->found) {
    case FOUND_RUNNING:
        return RECOVER_NOTE_BACK;
    case FOUND_STILL:
    case FOUND_ASIDE: /* GO was given back and noted so; the crash came before it was resumed */
        return RECOVER_RESUME;
    case FOUND_ABSENT:
        return in->same_boot ? RECOVER_NOTE_BACK : RECOVER_START_ANEW;
    case FOUND_INCOMING:
        break;
    }
    return RECOVER_CONFLICT;
}

static enum recover_action choose(const struct recover_source *in)
{
    switch (in->choice) {
    case CHOICE_GUEST_IS_HERE:
        return RECOVER_NOTE_BEGUN;
    case CHOICE_GUEST_IS_THERE:
        return RECOVER_NOTE_DONE;
    case CHOICE_NONE:
        break;
    }
    return RECOVER_UNDECIDED;
}

/* GO may have been sent: only the receiver knows, or else a person. */
static enum recover_action commit(const struct recover_source *in)
{
    /* It is set aside before GO is sent: who still has its name has not been let go. (After a reboot the name says
     * nothing: whoever starts domains at boot may have started it.) */
    if (in->same_boot && (in->found == FOUND_RUNNING || in->found == FOUND_STILL))
        return RECOVER_NOTE_BEGUN;
    if (in->found == FOUND_INCOMING)
        return RECOVER_CONFLICT;
    switch (in->answer) {
    case ANSWER_NOT_ASKED:
        return RECOVER_ASK;
    case ANSWER_GONE:
        return RECOVER_NOTE_BEGUN;
    case ANSWER_HERE: /* what runs here under its own name came back by another migration: `done` leaves it alone */
        return RECOVER_NOTE_DONE;
    case ANSWER_NONE:
        break;
    }
    return choose(in);
}

/* The guest under its own name is left alone: it may have come back by another migration since. */
static enum recover_action done(const struct recover_source *in)
{
    return in->found == FOUND_ASIDE ? RECOVER_DESTROY_ASIDE : RECOVER_NOTE_LEFT;
}

static enum recover_action back(const struct recover_source *in)
{
    switch (in->answer) {
    case ANSWER_NOT_ASKED:
        return RECOVER_ASK;
    case ANSWER_GONE:
        return RECOVER_FINISH;
    case ANSWER_HERE: /* it went there by another migration since; or a person decided against what is true, and two run */
        return in->found == FOUND_RUNNING || in->found == FOUND_STILL ? RECOVER_CONFLICT : RECOVER_NOTE_LEFT;
    case ANSWER_NONE:
        break;
    }
    return RECOVER_LATER;
}

/* Any answer means that the receiver keeps no journal of it any more. */
static enum recover_action left(const struct recover_source *in)
{
    if (in->answer == ANSWER_NOT_ASKED)
        return RECOVER_FORGET;
    return in->answer == ANSWER_NONE ? RECOVER_LATER : RECOVER_FINISH;
}

enum recover_action recover_source_next(const struct recover_source *in)
{
    switch (in->phase) {
    case OUTGOING_BEGUN:
        return begun(in);
    case OUTGOING_COMMIT:
        return commit(in);
    case OUTGOING_DONE:
        return done(in);
    case OUTGOING_BACK:
        return back(in);
    case OUTGOING_LEFT:
        return left(in);
    case OUTGOING_PHASE_COUNT:
        break;
    }
    assert(!"an outgoing phase");
    return RECOVER_CONFLICT;
}

/* -- the target -- */

/* Without GO it is the source's. Who asks has given it up; else the sender may come back, but not to a half-built guest, nor to
 * volumes of which some are removed: the journal says so first. */
static enum recover_action prepared(const struct recover_target *in)
{
    if (in->asked || !in->resumable)
        return RECOVER_NOTE_PREPARE;
    return in->found == FOUND_INCOMING ? RECOVER_DESTROY_INCOMING : RECOVER_LATER;
}

/* GO was noted. What cannot have run is undone, and so the source keeps the guest with its memory; what may have run is ours. */
static enum recover_action go(const struct recover_target *in)
{
    switch (in->found) {
    case FOUND_RUNNING:
        return RECOVER_NOTE_RUN;
    case FOUND_STILL: /* between its name and its first instruction */
        return in->same_boot ? RECOVER_RUN : RECOVER_NOTE_RUN;
    case FOUND_INCOMING: /* it takes its name before it runs */
        return in->same_boot ? RECOVER_NOTE_PREPARE : RECOVER_START_ANEW;
    case FOUND_ABSENT: /* destroyed by its agent before it ran; or it ran and ended, or fell with the host */
        return in->same_boot && !in->released ? RECOVER_NOTE_PREPARE : RECOVER_START_ANEW;
    case FOUND_ASIDE: /* it ran, and is being moved on */
        break;
    }
    return RECOVER_NOTE_LEFT;
}

static enum recover_action run(const struct recover_target *in)
{
    if (in->found == FOUND_RUNNING || in->found == FOUND_STILL)
        return in->same_boot ? RECOVER_LATER : RECOVER_NOTE_RUN;
    /* Aside: it is being moved on. Absent without a reboot: it ended by itself. */
    if (in->same_boot || in->found == FOUND_ASIDE)
        return RECOVER_NOTE_LEFT;
    return RECOVER_START_ANEW;
}

enum recover_action recover_target_next(const struct recover_target *in)
{
    switch (in->phase) {
    case INCOMING_PREPARE:
        return RECOVER_UNDO;
    case INCOMING_PREPARED:
        return prepared(in);
    case INCOMING_GO:
        return go(in);
    case INCOMING_RUN:
        return run(in);
    case INCOMING_LEFT:
        return RECOVER_LATER; /* kept for who may ask */
    case INCOMING_PHASE_COUNT:
        break;
    }
    assert(!"an incoming phase");
    return RECOVER_CONFLICT;
}

enum recover_answer recover_target_answer(const struct recover_target *in)
{
    bool ours = in->phase == INCOMING_RUN || in->phase == INCOMING_LEFT;

    return ours && recover_target_next(in) == RECOVER_LATER ? ANSWER_HERE : ANSWER_NONE;
}

enum recover_live recover_live_next(enum switchover_state state)
{
    if (state == SW_DONE)
        return LIVE_HERE;
    return state == SW_GO ? LIVE_WAIT : LIVE_CANCEL;
}

bool recover_may_forget(enum incoming_phase phase)
{
    return phase == INCOMING_RUN || phase == INCOMING_LEFT;
}

bool recover_settled(enum outgoing_phase phase)
{
    return phase == OUTGOING_BACK || phase == OUTGOING_LEFT;
}

/* -- disks alone -- */

enum recover_found recover_source_found_disk(enum outgoing_phase phase)
{
    if (phase == OUTGOING_COMMIT)
        return FOUND_ASIDE;
    return phase == OUTGOING_DONE || phase == OUTGOING_LEFT ? FOUND_ABSENT : FOUND_RUNNING;
}

enum recover_found recover_target_found_disk(enum incoming_phase phase)
{
    return phase >= INCOMING_GO ? FOUND_RUNNING : FOUND_ABSENT;
}
