/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What goes wrong, at any step. */
#include "model.h"

#include <stdbool.h>

static void fault(struct sink *sink, const char *label, struct model *n)
{
    n->faults = (uint8_t)(n->faults + (sink->max_faults != FAULTS_ANY));
    model_emit(sink, EDGE_FAULT, label, n);
}

static void source_processes_end(struct model *n)
{
    for (unsigned int i = 0; i < LINK_COUNT; i++) {
        n->links[i].broken = n->links[i].t_open;
        if (n->links[i].s_open)
            link_close(n, i, 0);
    }
    n->s_pc = S_NONE;
    n->s_state = SW_START;
    n->s_told = 0;
    n->r_on = n->r_answer = n->r_choice = n->r_waits = 0;
    if (n->s_agent == AGENT_HELD)
        n->s_agent = AGENT_ORPHAN;
}

static void receiver_ends(struct model *n)
{
    for (unsigned int i = 0; i < LINK_COUNT; i++) {
        n->links[i].broken = n->links[i].s_open;
        if (n->links[i].t_open)
            link_close(n, i, 1);
    }
    n->t_receiver = 0;
    n->t_pc = T_NONE;
    n->t_state = SW_START;
    if (n->t_agent != AGENT_NONE)
        n->t_agent = n->t_agent == AGENT_UNHEARD ? AGENT_NONE : AGENT_ORPHAN;
}

static void connections(const struct model *m, struct sink *sink)
{
    static const char *const labels[LINK_COUNT] = {"FAULT: the control connection breaks", "FAULT: the new control connection breaks",
                                                   "FAULT: the connection of recover breaks"};

    for (unsigned int i = 0; i < LINK_COUNT; i++) {
        struct model n = *m;

        if (!m->links[i].s_open || !m->links[i].t_open || m->links[i].broken)
            continue;
        n.links[i].broken = 1;
        fault(sink, labels[i], &n);
    }
}

static void kills(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (m->s_pc != S_NONE || m->r_on) {
        source_processes_end(&n);
        fault(sink, m->r_on ? "FAULT: recover at the source is killed" : "FAULT: the sender is killed", &n);
    }
    if (m->t_receiver) {
        n = *m;
        receiver_ends(&n);
        fault(sink, "FAULT: the receiver is killed", &n);
    }
    if (m->s_agent == AGENT_ORPHAN) {
        n = *m;
        n.s_agent = AGENT_NONE;
        fault(sink, "FAULT: the source's agent is killed too", &n);
    }
    if (m->t_agent == AGENT_HELD) {
        n = *m;
        n.t_agent = AGENT_UNHEARD;
        n.t_command = 0;
        fault(sink, "FAULT: the target's agent is killed", &n);
    }
    /* It has let the guest run, and dies before it can say so. */
    if (m->t_agent == AGENT_HELD && m->t_command && m->t_guest == GUEST_STILL && m->t_released) {
        n = *m;
        target_runs(&n);
        n.t_agent = AGENT_UNHEARD;
        n.t_command = 0;
        fault(sink, "FAULT: the target's agent lets the guest run and is killed", &n);
    }
    if (m->t_agent == AGENT_ORPHAN) {
        n = *m;
        n.t_agent = AGENT_NONE;
        n.t_command = 0;
        fault(sink, "FAULT: the target's agent is killed too", &n);
    }
}

/* A guest that runs when its migration is over for its host falls with the host as any guest does. */
static void cut_source(const struct model *m, struct sink *sink)
{
    bool over = !m->s_journal || m->s_journal == OUTGOING_BACK + 1 || m->later;
    struct model n = *m;

    if (!m->s_up)
        return;
    source_processes_end(&n);
    if (m->s_guest == GUEST_RUNNING && over)
        n.ended = 1;
    n.s_guest = GUEST_ABSENT;
    n.s_agent = AGENT_NONE;
    n.s_up = n.s_same = 0;
    if (n.back_lost && !n.s_journal)
        n.s_journal = n.back_lost;
    fault(sink, "FAULT: the source's host loses power", &n);
}

static void cut_target(const struct model *m, struct sink *sink, bool for_good)
{
    bool over = !m->t_journal || m->t_journal == INCOMING_LEFT + 1 || m->later;
    struct model n = *m;

    if (!m->t_up)
        return;
    receiver_ends(&n);
    if (m->t_guest == GUEST_RUNNING && (over || for_good))
        n.ended = 1;
    n.t_guest = GUEST_ABSENT;
    n.t_agent = AGENT_NONE;
    n.t_command = n.t_released = n.t_up = n.t_same = 0;
    n.lost = for_good;
    if (n.t_back_lost && !n.t_journal)
        n.t_journal = n.t_back_lost;
    fault(sink, for_good ? "FAULT: the target's host is lost for good" : "FAULT: the target's host loses power", &n);
}

static void source_fails(const struct model *m, struct sink *sink)
{
    struct switchover_step step = switchover_next(SWITCHOVER_SOURCE, (enum switchover_state)m->s_state, SW_EV_FAILED);
    bool at_work = m->s_pc >= S_CONNECT && m->s_pc <= S_RUNNING;
    struct model n = *m;

    if (m->s_state == SW_GO && broken_rule == BREAK_CANCEL_AFTER_GO)
        step = (struct switchover_step){SW_UNDONE, SW_UNDO};
    if ((!at_work && m->s_pc != S_PARKED && m->s_pc != S_RESUMED) || (m->s_state == SW_GO && m->s_pc != S_RUNNING))
        return;
    n.s_state = (uint8_t)step.next;
    if (step.action == SW_UNDO) {
        n.s_told = m->s_pc == S_CONNECT;
        n.s_pc = S_UNDO_NOTE;
        fault(sink, "FAULT: the sender fails or is cancelled", &n);
    } else if (step.action == SW_ASK_PERSON) {
        source_processes_end(&n);
        n.s_agent = AGENT_NONE;
        fault(sink, "FAULT: the sender fails after GO", &n);
    }
}

static void target_fails(const struct model *m, struct sink *sink)
{
    bool at_work = m->t_pc == T_PREPARE || m->t_pc == T_VOLUMES || m->t_pc == T_PREPARED || m->t_pc == T_SERVE || m->t_pc == T_PARKED;
    bool starting = (m->t_pc == T_RUN || m->t_pc == T_RAN || m->t_pc == T_GO_NOTE) && m->t_guest != GUEST_RUNNING;
    struct model n = *m;

    if (m->t_pc == T_NONE || (!at_work && !starting) || (starting && m->ran))
        return;
    if (feed_target(&n, SW_EV_FAILED) != SW_UNDO)
        return;
    n.t_pc = T_UNDO_NOTE;
    n.t_command = 0;
    fault(sink, starting ? "FAULT: the guest cannot be run at the target" : "FAULT: the receiver's session fails or is cancelled", &n);
}

/* What was to be undone cannot be, or the journal cannot say so: then nothing is said, and recovery tries again. */
static void undoing_fails(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (m->t_pc != T_UNDO_NOTE && m->t_pc != T_UNDO_GUEST && m->t_pc != T_UNDO_VOLUMES)
        return;
    if (broken_rule == BREAK_UNDO_FAILED_IS_UNDONE && m->t_pc == T_UNDO_GUEST) {
        n.t_pc = T_UNDO_VOLUMES;
    } else {
        receiver_ends(&n);
        n.t_receiver = 1; /* that session alone; the model lets its connections end with it */
    }
    fault(sink, "FAULT: the receiver cannot undo", &n);
}

/* It goes on: commit in the journal of a guest that runs here, or a question more, is all that comes of it. */
static void notes_fail(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (m->s_pc == S_DONE) { /* nothing is destroyed, nobody is told to forget */
        source_processes_end(&n);
        if (broken_rule == BREAK_DESTROY_WITHOUT_DONE)
            n.s_guest = GUEST_ABSENT;
        n.s_agent = AGENT_NONE;
        fault(sink, "FAULT: the sender cannot write done, and ends", &n);
        return;
    }
    if (m->s_journal != OUTGOING_COMMIT + 1 || (m->s_pc != S_PARK_NOTE && m->s_pc != S_UNDO_NOTE))
        return;
    n.s_pc = m->s_pc == S_PARK_NOTE ? S_PARK_RESUME : S_UNDO_RESUME;
    fault(sink, "FAULT: the sender cannot write its journal", &n);
}

static void guests_end(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (m->s_guest == GUEST_RUNNING && m->s_pc != S_BEGIN) {
        n.s_guest = GUEST_ABSENT;
        n.ended = 1;
        fault(sink, "FAULT: the guest ends by itself at the source", &n);
        n = *m;
    }
    if (m->t_guest == GUEST_RUNNING) {
        n.t_guest = GUEST_ABSENT;
        n.ended = 1;
        fault(sink, "FAULT: the guest ends by itself at the target", &n);
    }
}

void model_faults(const struct model *m, struct sink *sink)
{
    bool over = !m->s_journal && m->s_pc == S_NONE && !m->t_journal && m->t_pc == T_NONE;

    if (over && broken_rule != BREAK_REMOVAL_NOT_DURABLE)
        return;
    connections(m, sink);
    kills(m, sink);
    cut_source(m, sink);
    cut_target(m, sink, false);
    cut_target(m, sink, true);
    source_fails(m, sink);
    target_fails(m, sink);
    undoing_fails(m, sink);
    notes_fail(m, sink);
    guests_end(m, sink);
}
