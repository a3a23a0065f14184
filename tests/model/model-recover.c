/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* `xmotion recover` at the source's host, and the person who decides there. */
#include "model.h"

#include <stdbool.h>

static enum recover_found found_of(const struct model *m)
{
    static const enum recover_found found[] = {
        [GUEST_ABSENT] = FOUND_ABSENT, [GUEST_RUNNING] = FOUND_RUNNING, [GUEST_STILL] = FOUND_STILL, [GUEST_ASIDE] = FOUND_ASIDE};

    return found[m->s_guest];
}

static enum recover_action decide(const struct model *m)
{
    struct recover_source in = {.phase = (enum outgoing_phase)(m->s_journal - 1),
                                .same_boot = m->s_same,
                                .found = found_of(m),
                                .answer = (enum recover_answer)m->r_answer,
                                .choice = (enum recover_choice)m->r_choice};
    enum recover_action action;

    if (broken_rule == BREAK_NO_ANSWER_IS_GONE && in.phase == OUTGOING_COMMIT && in.answer == ANSWER_NONE)
        in.answer = ANSWER_GONE;
    if (broken_rule == BREAK_NO_ANSWER_IS_HERE && in.phase == OUTGOING_COMMIT && in.answer == ANSWER_NONE)
        in.answer = ANSWER_HERE;
    action = recover_source_next(&in);
    if (broken_rule == BREAK_RESUME_UNASKED && action == RECOVER_ASK && in.phase == OUTGOING_COMMIT)
        action = RECOVER_NOTE_BEGUN;
    if (broken_rule == BREAK_BEGUN_NOT_STARTED && action == RECOVER_START_ANEW)
        action = RECOVER_NOTE_BACK;
    return action;
}

static void end_recover(struct model *m)
{
    m->r_on = m->r_answer = m->r_choice = m->r_waits = 0;
}

/* After a note the next phase has asked nothing yet. */
static void note(struct model *n, enum outgoing_phase phase)
{
    note_outgoing(n, phase);
    n->r_answer = ANSWER_NOT_ASKED;
}

static void ask(struct model *n, enum message what)
{
    if (!n->t_receiver) {
        n->r_answer = ANSWER_NONE;
        return;
    }
    n->links[LINK_ASK] = (struct link){.s_open = 1, .t_open = 1};
    link_send(n, LINK_ASK, 1, what);
    n->r_waits = 1;
}

static void act(struct model *n, enum recover_action action)
{
    model_source_actions |= 1u << action;
    switch (action) {
    case RECOVER_ASK:
        ask(n, M_ASK);
        break;
    case RECOVER_FORGET:
        ask(n, M_FORGET);
        break;
    case RECOVER_RESUME:
        if (n->s_guest == GUEST_ASIDE) { /* its name first */
            n->s_guest = GUEST_STILL;
            break;
        }
        source_runs(n);
        break;
    case RECOVER_START_ANEW:
        source_runs(n);
        break;
    case RECOVER_DESTROY_ASIDE:
        n->s_guest = GUEST_ABSENT;
        break;
    case RECOVER_NOTE_BEGUN:
        note(n, OUTGOING_BEGUN);
        break;
    case RECOVER_NOTE_DONE:
        note(n, OUTGOING_DONE);
        break;
    case RECOVER_NOTE_BACK:
        note(n, OUTGOING_BACK);
        break;
    case RECOVER_NOTE_LEFT:
        note(n, OUTGOING_LEFT);
        break;
    case RECOVER_FINISH:
        remove_outgoing(n);
        end_recover(n);
        break;
    case RECOVER_LATER:
    case RECOVER_UNDECIDED:
        end_recover(n);
        break;
    default:
        n->wrong = n->wrong ? n->wrong : WRONG_CONFLICT;
    }
}

static const char *const labels[RECOVER_ACTION_COUNT] = {
    [RECOVER_FINISH] = "recover at the source: removes the journal",
    [RECOVER_LATER] = "recover at the source: ends, comes again later",
    [RECOVER_START_ANEW] = "recover at the source: starts the guest anew from its disks",
    [RECOVER_CONFLICT] = "recover at the source: conflict",
    [RECOVER_ASK] = "recover at the source: asks",
    [RECOVER_FORGET] = "recover at the source: tells to forget",
    [RECOVER_RESUME] = "recover at the source: resumes the guest",
    [RECOVER_DESTROY_ASIDE] = "recover at the source: destroys what stands aside",
    [RECOVER_UNDECIDED] = "recover at the source: undecided",
    [RECOVER_NOTE_BEGUN] = "recover at the source: notes begun",
    [RECOVER_NOTE_DONE] = "recover at the source: notes done",
    [RECOVER_NOTE_BACK] = "recover at the source: notes back",
    [RECOVER_NOTE_LEFT] = "recover at the source: notes left",
};

static void hear(const struct model *m, struct sink *sink)
{
    enum message head = link_head(m, LINK_ASK, 0);
    struct model n = *m;

    if (head) {
        link_close(&n, LINK_ASK, 0);
        n.r_waits = 0;
        n.r_answer = head == M_HERE ? ANSWER_HERE : ANSWER_GONE;
        model_emit(sink, EDGE_STEP,
                   head == M_HERE   ? "recover at the source: hears that the guest is at the target"
                   : head == M_GONE ? "recover at the source: hears that the copy is gone"
                                    : "recover at the source: hears that it is forgotten",
                   &n);
    }
    if (link_noticed(m, LINK_ASK, 0)) {
        n = *m;
        link_close(&n, LINK_ASK, 0);
        n.r_waits = 0;
        n.r_answer = ANSWER_NONE;
        model_emit(sink, EDGE_STEP, "recover at the source: no answer", &n);
    }
}

/* A person sees that the receiver is dead and what is at its host; or that the host is no more. */
static void choose(const struct model *m, struct sink *sink)
{
    bool noted = m->t_journal > INCOMING_PREPARED + 1;
    bool at_target = noted || m->t_guest == GUEST_RUNNING || m->t_guest == GUEST_STILL || m->t_command;
    struct model n = *m;

    n.r_on = 1;
    if (!m->elsewhere && (m->lost || (!m->t_receiver && !at_target))) {
        n.r_choice = CHOICE_GUEST_IS_HERE;
        model_emit(sink, EDGE_CHOICE, "a person: recover --guest-is-here", &n);
    }
    if (!m->lost && !m->t_receiver && m->t_guest == GUEST_RUNNING) {
        n.r_choice = CHOICE_GUEST_IS_THERE;
        model_emit(sink, EDGE_CHOICE, "a person: recover --guest-is-there", &n);
    }
}

/* It runs again and again; a run that could do nothing is left out. */
static void start(const struct model *m, struct sink *sink)
{
    bool locked = m->s_pc != S_NONE && broken_rule != BREAK_NO_LOCK;
    enum recover_action action;
    struct model n = *m;

    if (!m->s_up || locked || !m->s_journal || (m->s_agent == AGENT_ORPHAN && broken_rule != BREAK_AGENT_NOT_AWAITED))
        return;
    action = decide(m);
    if (action == RECOVER_ASK && m->s_journal == OUTGOING_COMMIT + 1)
        choose(m, sink);
    if ((action == RECOVER_ASK || action == RECOVER_FORGET) && !m->t_receiver)
        return;
    n.r_on = 1;
    model_emit(sink, EDGE_STEP, "recover is run at the source", &n);
}

void model_recover(const struct model *m, struct sink *sink)
{
    enum recover_action action;
    struct model n = *m;

    if (!m->r_on) {
        start(m, sink);
        return;
    }
    if (m->r_waits) {
        hear(m, sink);
        return;
    }
    if (!m->s_journal) { /* --break no-lock only: the sender removed it */
        end_recover(&n);
        model_emit(sink, EDGE_STEP, "recover at the source: the journal is gone", &n);
        return;
    }
    action = decide(m);
    if ((action == RECOVER_ASK || action == RECOVER_FORGET) && m->links[LINK_ASK].t_open)
        return; /* the model has one such connection: the receiver ends the one before first */
    act(&n, action);
    model_emit(sink, EDGE_STEP, labels[action] ? labels[action] : "recover at the source: what?", &n);
}
