/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The receiver apart from its sessions: who connects, what an earlier receiver left, and hosts that come back. */
#include "model.h"

#include <stdbool.h>
#include <string.h>

static enum recover_found found_of(const struct model *m)
{
    static const enum recover_found found[] = {
        [GUEST_ABSENT] = FOUND_ABSENT, [GUEST_RUNNING] = FOUND_RUNNING,   [GUEST_STILL] = FOUND_STILL,
        [GUEST_ASIDE] = FOUND_ASIDE,   [GUEST_INCOMING] = FOUND_INCOMING, [GUEST_BUILT] = FOUND_INCOMING};

    return found[m->t_guest];
}

static struct recover_target look(const struct model *m)
{
    return (struct recover_target){.phase = (enum incoming_phase)(m->t_journal - 1),
                                   .same_boot = m->t_same,
                                   .released = m->t_released && broken_rule != BREAK_NO_RELEASE_MARK,
                                   .found = found_of(m),
                                   .resumable = m->t_resumable,
                                   .asked = link_head(m, LINK_ASK, 1) == M_ASK};
}

static enum recover_action decide(const struct recover_target *in)
{
    enum recover_action action = recover_target_next(in);

    if (broken_rule == BREAK_REBOOT_UNDOES_GO && action == RECOVER_START_ANEW && in->phase == INCOMING_GO && !in->same_boot)
        return RECOVER_NOTE_PREPARE;
    return action;
}

static void reply(struct model *n, enum message what)
{
    link_take(n, LINK_ASK, 1);
    link_send(n, LINK_ASK, 0, what);
    link_close(n, LINK_ASK, 1);
}

/* One thing at a time, so that a crash may come between. */
static void undo(struct model *n)
{
    if (n->t_guest == GUEST_INCOMING || n->t_guest == GUEST_BUILT || n->t_guest == GUEST_STILL)
        n->t_guest = GUEST_ABSENT;
    else if (n->t_volumes)
        remove_volumes(n);
    else
        remove_incoming(n);
}

static const char *const labels[RECOVER_ACTION_COUNT] = {
    [RECOVER_START_ANEW] = "recover at the target: starts the guest anew from its disks",
    [RECOVER_NOTE_LEFT] = "recover at the target: notes left",
    [RECOVER_RUN] = "recover at the target: lets the guest run",
    [RECOVER_UNDO] = "recover at the target: undoes one thing",
    [RECOVER_DESTROY_INCOMING] = "recover at the target: destroys the half-built guest",
    [RECOVER_NOTE_PREPARE] = "recover at the target: notes prepare, to undo",
    [RECOVER_NOTE_RUN] = "recover at the target: notes run",
};

static bool act(struct model *n, enum recover_action action)
{
    model_target_actions |= 1u << action;
    switch (action) {
    case RECOVER_START_ANEW:
    case RECOVER_RUN:
        n->t_released = 1;
        target_runs(n);
        break;
    case RECOVER_NOTE_LEFT:
        note_incoming(n, INCOMING_LEFT);
        break;
    case RECOVER_UNDO:
        undo(n);
        break;
    case RECOVER_DESTROY_INCOMING:
        n->t_guest = GUEST_ABSENT;
        break;
    case RECOVER_NOTE_PREPARE:
        note_incoming(n, INCOMING_PREPARE);
        break;
    case RECOVER_NOTE_RUN:
        note_incoming(n, INCOMING_RUN);
        break;
    case RECOVER_LATER:
        return false;
    default:
        n->wrong = n->wrong ? n->wrong : WRONG_CONFLICT;
    }
    return true;
}

/* Nothing is to be done any more: who asks is answered. */
static void answer(const struct model *m, struct sink *sink)
{
    struct recover_target in = look(m);
    enum message head = link_head(m, LINK_ASK, 1);
    struct model n = *m;

    if (head == M_ASK && recover_target_answer(&in) == ANSWER_HERE) {
        reply(&n, M_HERE);
        model_emit(sink, EDGE_STEP, "receiver: is asked, the guest is here", &n);
    } else if (head == M_FORGET && recover_may_forget(in.phase)) { /* else it is refused, and comes again: here it waits */
        remove_incoming(&n);
        model_emit(sink, EDGE_STEP, "receiver: is told to forget, removes its journal", &n);
    }
}

static void recover(const struct model *m, struct sink *sink)
{
    enum message head = link_head(m, LINK_ASK, 1);
    struct recover_target in = look(m);
    enum recover_action action;
    struct model n = *m;

    if (!m->t_journal) {
        if (head) {
            /* A guest of this UUID that runs here came by another migration: it is here all the same. */
            reply(&n, head == M_FORGET ? M_FORGOT : m->t_guest == GUEST_RUNNING ? M_HERE : M_GONE);
            model_emit(sink, EDGE_STEP, "receiver: is asked, has no journal of it", &n);
        }
        return;
    }
    if (broken_rule == BREAK_GONE_NOT_UNDONE && in.asked && in.phase < INCOMING_GO) {
        reply(&n, M_GONE);
        model_emit(sink, EDGE_STEP, "receiver: is asked, says gone", &n);
        return;
    }
    action = decide(&in);
    if (act(&n, action))
        model_emit(sink, EDGE_STEP, labels[action] ? labels[action] : "recover at the target: what?", &n);
    else
        answer(m, sink);
    if (m->t_resumable && in.phase < INCOMING_GO) {
        n = *m;
        n.t_resumable = 0;
        model_emit(sink, EDGE_STEP, "receiver: the time for resuming is over", &n);
    }
}

/* A sender comes back to a receiver that was restarted. */
static void take_up(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (link_head(m, LINK_RESUME, 1) != M_RESUME)
        return;
    if (!m->t_journal) {
        link_take(&n, LINK_RESUME, 1);
        link_send(&n, LINK_RESUME, 0, M_REFUSED);
        link_close(&n, LINK_RESUME, 1);
        model_emit(sink, EDGE_STEP, "receiver: refuses to resume what it does not know", &n);
    } else if (m->t_journal > INCOMING_PREPARED + 1) {
        n.wrong = n.wrong ? n.wrong : WRONG_RESUME_AFTER_GO;
        model_emit(sink, EDGE_STEP, "receiver: is asked to resume after GO", &n);
    } else if (m->t_journal == INCOMING_PREPARED + 1 && m->t_guest == GUEST_ABSENT && m->t_resumable) {
        link_take(&n, LINK_RESUME, 1);
        n.links[LINK_CONTROL] = n.links[LINK_RESUME];
        memset(&n.links[LINK_RESUME], 0, sizeof(n.links[LINK_RESUME]));
        (void)feed_target(&n, SW_EV_PREPARED);
        link_send(&n, LINK_CONTROL, 0, M_RESUMED);
        n.t_pc = T_SERVE;
        model_emit(sink, EDGE_STEP, "receiver: takes the session up from its journal, sends RESUMED", &n);
    }
}

static void connections(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (m->t_pc == T_NONE && link_head(m, LINK_CONTROL, 1) == M_PREPARE) {
        link_take(&n, LINK_CONTROL, 1);
        n.t_pc = broken_rule == BREAK_VOLUMES_BEFORE_JOURNAL ? T_VOLUMES : T_PREPARE;
        model_emit(sink, EDGE_STEP, "receiver: hears PREPARE", &n);
    } else if (m->t_pc == T_NONE && link_noticed(m, LINK_CONTROL, 1)) {
        link_close(&n, LINK_CONTROL, 1);
        model_emit(sink, EDGE_STEP, "receiver: a connection ends before it said anything", &n);
    }
    for (unsigned int i = LINK_RESUME; i <= LINK_ASK; i++) {
        n = *m;
        if (!link_noticed(m, i, 1))
            continue;
        link_close(&n, i, 1);
        model_emit(sink, EDGE_STEP, "receiver: a connection ends", &n);
    }
    /* The sender parks before GO only. */
    if (link_head(m, LINK_RESUME, 1) == M_RESUME && m->t_pc != T_NONE && m->t_state >= SW_GO && m->t_state <= SW_DONE) {
        n = *m;
        n.wrong = n.wrong ? n.wrong : WRONG_RESUME_AFTER_GO;
        model_emit(sink, EDGE_STEP, "receiver: is asked to resume after GO", &n);
    }
}

static void hosts(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (!m->s_up) {
        n.s_up = 1;
        model_emit(sink, EDGE_STEP, "the source's host is back", &n);
        n = *m;
    }
    if (!m->t_up && !m->lost) {
        n.t_up = 1;
        model_emit(sink, EDGE_STEP, "the target's host is back", &n);
        n = *m;
    }
    if (m->t_up && !m->t_receiver) {
        n.t_receiver = 1;
        model_emit(sink, EDGE_STEP, "the receiver is started", &n);
    }
}

void model_receiver(const struct model *m, struct sink *sink)
{
    hosts(m, sink);
    if (!m->t_receiver)
        return;
    connections(m, sink);
    if (m->t_pc == T_NONE && (m->t_agent == AGENT_NONE || m->t_agent == AGENT_UNHEARD || broken_rule == BREAK_AGENT_NOT_AWAITED)) {
        recover(m, sink);
        take_up(m, sink);
    }
}
