/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The receiver's session, and the agent that builds and runs the guest for it. */
#include "model.h"

#include <stdbool.h>
#include <string.h>

static void end_session(struct model *m)
{
    if (m->links[LINK_CONTROL].t_open)
        link_close(m, LINK_CONTROL, 1);
    m->t_pc = T_NONE;
    m->t_state = SW_START;
}

static void obey(struct model *n, enum switchover_event event)
{
    switch (feed_target(n, event)) {
    case SW_PARK:
        n->t_pc = T_PARK;
        break;
    case SW_UNDO:
        n->t_pc = T_UNDO_NOTE;
        break;
    case SW_RUN:
        n->t_pc = broken_rule == BREAK_RUN_BEFORE_GO_NOTED ? T_RUN : T_GO_NOTE;
        break;
    default:
        break;
    }
}

static void build(struct model *n)
{
    (void)feed_target(n, SW_EV_MEMORY);
    if (n->t_guest != GUEST_ABSENT && !n->wrong)
        n->wrong = WRONG_TWO_BUILT;
    n->t_guest = GUEST_INCOMING;
    n->t_agent = AGENT_HELD;
    link_send(n, LINK_CONTROL, 0, M_MEMORY_READY);
}

/* A guest that runs here came by another migration. */
static void destroy_half_built(struct model *n)
{
    if (n->t_guest != GUEST_RUNNING)
        n->t_guest = GUEST_ABSENT;
    n->t_agent = AGENT_NONE;
    n->t_command = 0;
}

/* All that was read of disks and memory while the guest stood still is here; if it still does, the copy is good. */
static void final(struct model *n)
{
    (void)feed_target(n, SW_EV_READY);
    n->t_guest = GUEST_BUILT;
    n->t_fresh = n->s_guest != GUEST_RUNNING;
    link_send(n, LINK_CONTROL, 0, M_READY);
}

static void take_record(const struct model *m, struct sink *sink)
{
    enum message head = link_head(m, LINK_CONTROL, 1);
    struct model n = *m;

    link_take(&n, LINK_CONTROL, 1);
    switch (head) {
    case M_NONE:
        return;
    case M_MEMORY:
        build(&n);
        model_emit(sink, EDGE_STEP, "receiver: builds the guest, sends MEMORY_READY", &n);
        break;
    case M_FINAL:
        final(&n);
        model_emit(sink, EDGE_STEP, "receiver: has all, sends READY", &n);
        break;
    case M_GO:
        obey(&n, SW_EV_GO);
        model_emit(sink, EDGE_STEP, "receiver: hears GO", &n);
        break;
    case M_ABORT:
        obey(&n, SW_EV_PEER_FAILED);
        model_emit(sink, EDGE_STEP, "receiver: hears ABORT", &n);
        break;
    default:
        n.wrong = n.wrong ? n.wrong : WRONG_REFUSED;
        model_emit(sink, EDGE_STEP, "receiver: hears what cannot come", &n);
    }
}

/* The connection is seen to be broken, or the sender comes by a new one. */
static void lose(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (link_noticed(m, LINK_CONTROL, 1) || link_head(m, LINK_RESUME, 1) == M_RESUME) {
        link_close(&n, LINK_CONTROL, 1);
        obey(&n, SW_EV_DROPPED);
        model_emit(sink, EDGE_STEP, "receiver: connection dropped", &n);
    }
    if (link_noticed(m, LINK_CONTROL, 1)) {
        n = *m;
        link_close(&n, LINK_CONTROL, 1);
        obey(&n, SW_EV_PEER_LOST);
        model_emit(sink, EDGE_STEP, "receiver: connection lost, no time to resume", &n);
    }
}

static void before_go(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    switch (m->t_pc) {
    case T_PREPARE:
        note_incoming(&n, INCOMING_PREPARE);
        n.t_resumable = 1;
        n.t_pc = broken_rule == BREAK_VOLUMES_BEFORE_JOURNAL ? T_PREPARED : T_VOLUMES;
        model_emit(sink, EDGE_STEP, "receiver: notes prepare", &n);
        break;
    case T_VOLUMES:
        n.t_volumes = 1;
        n.t_pc = broken_rule == BREAK_VOLUMES_BEFORE_JOURNAL ? T_PREPARE : T_PREPARED;
        model_emit(sink, EDGE_STEP, "receiver: makes volumes", &n);
        break;
    case T_PREPARED:
        note_incoming(&n, INCOMING_PREPARED);
        (void)feed_target(&n, SW_EV_PREPARED);
        link_send(&n, LINK_CONTROL, 0, M_PREPARED);
        n.t_pc = T_SERVE;
        model_emit(sink, EDGE_STEP, "receiver: notes prepared, sends PREPARED", &n);
        break;
    case T_SERVE:
        if (m->t_agent == AGENT_UNHEARD) {
            n.t_agent = AGENT_NONE;
            obey(&n, SW_EV_FAILED);
            model_emit(sink, EDGE_STEP, "receiver: its agent is gone", &n);
            break;
        }
        take_record(m, sink);
        lose(m, sink);
        break;
    default:
        break;
    }
}

/* Its agent died on the way, and did not say how far it came. What runs, runs; what has not even its name never ran; all else
 * is recovery's, as if the receiver had died. */
static void agent_gone(struct model *n, struct sink *sink)
{
    n->t_agent = AGENT_NONE;
    if (n->t_guest == GUEST_BUILT || broken_rule == BREAK_RUN_UNCLEAR_IS_FAILED) {
        obey(n, SW_EV_FAILED);
        model_emit(sink, EDGE_STEP, "receiver: its agent is gone, the guest cannot be run", n);
    } else if (n->t_guest == GUEST_RUNNING) {
        (void)feed_target(n, SW_EV_RUNNING);
        n->t_pc = T_RUN_NOTE;
        model_emit(sink, EDGE_STEP, "receiver: its agent is gone, but the guest runs", n);
    } else {
        end_session(n);
        model_emit(sink, EDGE_STEP, "receiver: its agent is gone, the session ends at GO", n);
    }
}

static void go(const struct model *m, struct sink *sink)
{
    bool early = broken_rule == BREAK_RUN_BEFORE_GO_NOTED;
    struct model n = *m;

    switch (m->t_pc) {
    case T_GO_NOTE:
        note_incoming(&n, INCOMING_GO);
        n.t_pc = early ? T_RUN_NOTE : T_RUN;
        model_emit(sink, EDGE_STEP, "receiver: notes go", &n);
        break;
    case T_RUN:
        n.t_command = m->t_agent == AGENT_HELD;
        n.t_pc = T_RAN;
        model_emit(sink, EDGE_STEP, "receiver: tells the agent to run it", &n);
        break;
    case T_RAN:
        if (m->t_command)
            break;
        if (m->t_agent == AGENT_UNHEARD) {
            agent_gone(&n, sink);
            break;
        }
        (void)feed_target(&n, SW_EV_RUNNING);
        n.t_pc = early ? T_GO_NOTE : T_RUN_NOTE;
        model_emit(sink, EDGE_STEP, "receiver: hears that it runs", &n);
        break;
    case T_RUN_NOTE:
        note_incoming(&n, INCOMING_RUN);
        n.t_pc = T_RUNNING;
        model_emit(sink, EDGE_STEP, "receiver: notes run", &n);
        break;
    case T_RUNNING:
        if (broken_rule == BREAK_TARGET_FORGETS)
            remove_incoming(&n);
        link_send(&n, LINK_CONTROL, 0, M_RUNNING);
        n.t_pc = T_DONE;
        model_emit(sink, EDGE_STEP, "receiver: sends RUNNING", &n);
        break;
    default:
        break;
    }
    if (m->t_state == SW_GO && m->t_pc == T_RAN && link_noticed(m, LINK_CONTROL, 1)) {
        n = *m;
        link_close(&n, LINK_CONTROL, 1);
        obey(&n, SW_EV_PEER_LOST);
        model_emit(sink, EDGE_STEP, "receiver: connection lost after GO", &n);
    }
}

/* The guest runs. Its journal stays until the sender says that it is not needed. */
static void done(const struct model *m, struct sink *sink)
{
    static const unsigned int from[] = {LINK_CONTROL, LINK_ASK};

    for (unsigned int i = 0; i < 2; i++) {
        struct model n = *m;

        if (link_head(m, from[i], 1) != M_FORGET)
            continue;
        if (m->t_pc == T_DONE) {
            remove_incoming(&n);
            n.t_pc = T_FORGOT;
            model_emit(sink, EDGE_STEP, "receiver: hears FORGET, removes its journal", &n);
        } else if (m->t_pc == T_FORGOT) {
            link_take(&n, from[i], 1);
            link_send(&n, from[i], 0, M_FORGOT);
            if (from[i] == LINK_ASK)
                link_close(&n, LINK_ASK, 1);
            end_session(&n);
            model_emit(sink, EDGE_STEP, "receiver: answers FORGET", &n);
        }
    }
    if ((m->t_pc == T_DONE || m->t_pc == T_FORGOT) && (link_noticed(m, LINK_CONTROL, 1) || !m->links[LINK_CONTROL].t_open)) {
        struct model n = *m;

        end_session(&n);
        model_emit(sink, EDGE_STEP, "receiver: the session ends, its guest runs", &n);
    }
}

static void park(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (m->t_pc == T_PARK) {
        if (broken_rule == BREAK_PARK_KEEPS_STATE)
            n.t_state = SW_READY;
        if (broken_rule != BREAK_PARK_KEEPS_GUEST)
            destroy_half_built(&n);
        n.t_fresh = 0;
        n.t_pc = T_PARKED;
        model_emit(sink, EDGE_STEP, "receiver: parks, destroys the half-built guest", &n);
        return;
    }
    if (m->t_pc != T_PARKED)
        return;
    if (link_head(m, LINK_RESUME, 1) == M_RESUME) {
        link_take(&n, LINK_RESUME, 1);
        n.links[LINK_CONTROL] = n.links[LINK_RESUME];
        memset(&n.links[LINK_RESUME], 0, sizeof(n.links[LINK_RESUME]));
        link_send(&n, LINK_CONTROL, 0, M_RESUMED);
        n.t_pc = T_SERVE;
        model_emit(sink, EDGE_STEP, "receiver: resumes, sends RESUMED", &n);
        n = *m;
    }
    obey(&n, SW_EV_PEER_LOST);
    model_emit(sink, EDGE_STEP, "receiver: the time for resuming is over", &n);
}

static void undo(const struct model *m, struct sink *sink)
{
    bool early = broken_rule == BREAK_GIVE_BACK_NOT_NOTED;
    struct model n = *m;

    switch (m->t_pc) {
    case T_UNDO_NOTE: /* before anything is destroyed or said: no GO any more, and nothing to resume */
        if (m->t_journal > INCOMING_PREPARE + 1 && (m->t_journal == INCOMING_GO + 1 ? !early : broken_rule != BREAK_UNDO_NOT_NOTED))
            note_incoming(&n, INCOMING_PREPARE);
        n.t_pc = T_UNDO_GUEST;
        model_emit(sink, EDGE_STEP, "receiver: undoes, notes prepare", &n);
        break;
    case T_UNDO_GUEST:
        destroy_half_built(&n);
        if (early)
            link_send(&n, LINK_CONTROL, 0, M_FAILED);
        n.t_pc = T_UNDO_VOLUMES;
        model_emit(sink, EDGE_STEP, "receiver: undoes, destroys the guest", &n);
        break;
    case T_UNDO_VOLUMES:
        remove_volumes(&n);
        n.t_pc = T_UNDO_JOURNAL;
        model_emit(sink, EDGE_STEP, "receiver: undoes, removes volumes", &n);
        break;
    case T_UNDO_JOURNAL:
        remove_incoming(&n);
        n.t_pc = T_UNDO_TELL;
        model_emit(sink, EDGE_STEP, "receiver: undoes, removes its journal", &n);
        break;
    case T_UNDO_TELL:
        if (!early)
            link_send(&n, LINK_CONTROL, 0, M_FAILED);
        end_session(&n);
        model_emit(sink, EDGE_STEP, "receiver: says that all is undone", &n);
        break;
    default:
        break;
    }
}

/* ASK comes by a connection of its own while this session lives. */
static void asked(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (link_head(m, LINK_ASK, 1) != M_ASK)
        return;
    switch (recover_live_next((enum switchover_state)m->t_state)) {
    case LIVE_CANCEL:
        if (m->t_pc != T_SERVE && m->t_pc != T_PARKED)
            break;
        if (broken_rule == BREAK_LIVE_NOT_FENCED) {
            link_take(&n, LINK_ASK, 1);
            link_send(&n, LINK_ASK, 0, M_GONE);
            link_close(&n, LINK_ASK, 1);
        } else {
            obey(&n, SW_EV_FAILED);
        }
        model_emit(sink, EDGE_STEP, "receiver: is asked about a session that waits, cancels it", &n);
        break;
    case LIVE_WAIT:
        break;
    case LIVE_HERE:
        link_take(&n, LINK_ASK, 1);
        link_send(&n, LINK_ASK, 0, M_HERE);
        link_close(&n, LINK_ASK, 1);
        model_emit(sink, EDGE_STEP, "receiver: is asked, the guest is here", &n);
        break;
    }
}

/* The agent does what it was told, whoever lives; and undoes what nobody may want any more. */
static void agent(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (m->t_agent == AGENT_NONE || m->t_agent == AGENT_UNHEARD)
        return;
    if (m->t_command && m->t_guest == GUEST_BUILT) {
        n.t_guest = GUEST_STILL;
        model_emit(sink, EDGE_STEP, "target's agent: gives the guest its name", &n);
    } else if (m->t_command && m->t_guest == GUEST_STILL && !m->t_released) {
        n.t_released = 1;
        model_emit(sink, EDGE_STEP, "target's agent: marks the guest as released", &n);
    } else if (m->t_command && m->t_guest == GUEST_STILL) {
        target_runs(&n);
        n.t_command = 0;
        n.t_agent = AGENT_NONE; /* from now on the guest's own */
        model_emit(sink, EDGE_STEP, "target's agent: lets the guest run", &n);
    } else if (m->t_agent == AGENT_ORPHAN) {
        destroy_half_built(&n);
        model_emit(sink, EDGE_STEP, "target's agent: nobody is left, destroys the half-built guest", &n);
    }
}

void model_target(const struct model *m, struct sink *sink)
{
    if (!m->t_up)
        return;
    agent(m, sink);
    if (m->t_pc == T_NONE)
        return;
    before_go(m, sink);
    go(m, sink);
    done(m, sink);
    park(m, sink);
    undo(m, sink);
    asked(m, sink);
}
