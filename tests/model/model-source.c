/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sender, the agent it leaves behind, and recovery at the source's host. */
#include "model.h"

#include <stdbool.h>

static enum switchover_action feed(struct model *m, enum switchover_event event)
{
    enum switchover_state before = (enum switchover_state)m->s_state;
    struct switchover_step step = switchover_next(SWITCHOVER_SOURCE, before, event);

    m->s_state = (uint8_t)step.next;
    if (step.action == SW_REFUSE && !m->wrong)
        m->wrong = WRONG_REFUSED;
    if (before == SW_GO && broken_rule == BREAK_LOST_IS_UNDONE && (event == SW_EV_PEER_LOST || event == SW_EV_DROPPED))
        return SW_UNDO;
    if (before == SW_GO && broken_rule == BREAK_CANCEL_AFTER_GO && event == SW_EV_FAILED)
        return SW_UNDO;
    return step.action;
}

static void end_sender(struct model *m)
{
    for (unsigned int i = LINK_CONTROL; i <= LINK_RESUME; i++) {
        if (m->links[i].s_open)
            link_close(m, i, 0);
    }
    m->s_pc = S_NONE;
    m->s_state = SW_START;
    m->s_told = 0;
    if (m->s_agent == AGENT_HELD)
        m->s_agent = m->s_guest == GUEST_STILL ? AGENT_ORPHAN : AGENT_NONE;
}

/* What the table says about an event is begun. */
static void obey(struct model *m, enum switchover_event event)
{
    switch (feed(m, event)) {
    case SW_PARK:
        m->s_pc = S_PARK_NOTE;
        for (unsigned int i = LINK_CONTROL; i <= LINK_RESUME; i++) {
            if (m->links[i].s_open)
                link_close(m, i, 0);
        }
        break;
    case SW_UNDO:
        m->s_told = event == SW_EV_PEER_FAILED || (m->s_pc == S_CONNECT && event == SW_EV_FAILED);
        m->s_pc = S_UNDO_NOTE;
        break;
    case SW_ASK_PERSON:
        end_sender(m); /* recovery goes on */
        break;
    default:
        if (!m->wrong)
            m->wrong = WRONG_REFUSED;
    }
}

/* It hears its connection, and its guest. */
static bool serves(unsigned int pc)
{
    return (pc >= S_PREPARED && pc <= S_READY) || pc == S_RUNNING || pc == S_RESUMED;
}

static void what_comes(const struct model *m, struct sink *sink)
{
    static const enum switchover_event lost[] = {SW_EV_DROPPED, SW_EV_PEER_LOST};
    struct model n = *m;
    bool copying = m->s_state < SW_SUSPENDED && m->s_pc >= S_CONNECT && m->s_pc <= S_SUSPEND;

    if (serves(m->s_pc) && link_head(m, LINK_CONTROL, 0) == M_FAILED) {
        link_take(&n, LINK_CONTROL, 0);
        obey(&n, SW_EV_PEER_FAILED);
        model_emit(sink, EDGE_STEP, "sender: hears FAILED, the target has undone all", &n);
    }
    for (unsigned int i = 0; i < 2 && serves(m->s_pc); i++) {
        n = *m;
        if (!link_noticed(m, LINK_CONTROL, 0) && !(m->s_pc == S_RESUMED && link_noticed(m, LINK_RESUME, 0)))
            break;
        if (n.links[LINK_CONTROL].s_open)
            link_close(&n, LINK_CONTROL, 0);
        obey(&n, lost[i]);
        model_emit(sink, EDGE_STEP, i ? "sender: connection lost, no time to resume" : "sender: connection dropped", &n);
    }
    if (m->s_guest == GUEST_ABSENT && (copying || m->s_pc == S_PARKED || m->s_pc == S_RESUMED)) {
        n = *m;
        obey(&n, SW_EV_FAILED);
        model_emit(sink, EDGE_STEP, "sender: its guest is gone", &n);
    }
}

static void expect(const struct model *m, struct sink *sink, enum message what, enum switchover_event event, unsigned int pc,
                   const char *label)
{
    struct model n = *m;

    if (link_head(m, LINK_CONTROL, 0) != what)
        return;
    link_take(&n, LINK_CONTROL, 0);
    if (event != SW_EV_COUNT)
        (void)feed(&n, event);
    n.s_pc = (uint8_t)pc;
    model_emit(sink, EDGE_STEP, label, &n);
}

static void connect_step(struct model *n, struct sink *sink)
{
    if (!n->t_receiver) {
        obey(n, SW_EV_FAILED);
        model_emit(sink, EDGE_STEP, "sender: cannot connect", n);
        return;
    }
    n->links[LINK_CONTROL] = (struct link){.s_open = 1, .t_open = 1};
    link_send(n, LINK_CONTROL, 1, M_PREPARE);
    n->s_pc = S_PREPARED;
    model_emit(sink, EDGE_STEP, "sender: connects, sends PREPARE", n);
}

/* In the order of time, until GO. */
static void before_go(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    switch (m->s_pc) {
    case S_BEGIN:
        note_outgoing(&n, OUTGOING_BEGUN);
        n.s_pc = S_CONNECT;
        model_emit(sink, EDGE_STEP, "sender: notes begun", &n);
        break;
    case S_CONNECT:
        connect_step(&n, sink);
        break;
    case S_PREPARED:
        expect(m, sink, M_PREPARED, SW_EV_PREPARED, S_MEMORY, "sender: hears PREPARED, copies disks");
        break;
    case S_MEMORY:
        if (m->s_guest != GUEST_RUNNING)
            break;
        (void)feed(&n, SW_EV_MEMORY);
        n.s_agent = AGENT_HELD;
        link_send(&n, LINK_CONTROL, 1, M_MEMORY);
        n.s_pc = S_MEMORY_READY;
        model_emit(sink, EDGE_STEP, "sender: begins memory", &n);
        break;
    case S_MEMORY_READY:
        expect(m, sink, M_MEMORY_READY, SW_EV_COUNT, S_SUSPEND, "sender: hears MEMORY_READY, sends memory");
        break;
    case S_SUSPEND:
        if (m->s_guest != GUEST_RUNNING)
            break;
        (void)feed(&n, SW_EV_SUSPENDED);
        n.s_guest = GUEST_STILL;
        n.s_pc = S_FINAL;
        model_emit(sink, EDGE_STEP, "sender: suspends the guest", &n);
        break;
    case S_FINAL:
        link_send(&n, LINK_CONTROL, 1, M_FINAL);
        n.s_pc = S_READY;
        model_emit(sink, EDGE_STEP, "sender: last passes, sends FINAL", &n);
        break;
    case S_READY:
        expect(m, sink, M_READY, SW_EV_READY, broken_rule == BREAK_GO_BEFORE_COMMIT ? S_ASIDE : S_COMMIT, "sender: hears READY");
        break;
    default:
        break;
    }
}

static void go(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    switch (m->s_pc) {
    case S_COMMIT:
        note_outgoing(&n, OUTGOING_COMMIT);
        n.s_pc = broken_rule == BREAK_GO_BEFORE_COMMIT ? S_RUNNING : broken_rule == BREAK_GO_BEFORE_ASIDE ? S_GO : S_ASIDE;
        model_emit(sink, EDGE_STEP, "sender: notes commit", &n);
        break;
    case S_ASIDE:
        n.s_guest = GUEST_ASIDE;
        n.s_pc = broken_rule == BREAK_GO_BEFORE_ASIDE ? S_RUNNING : S_GO;
        model_emit(sink, EDGE_STEP, "sender: sets the guest aside", &n);
        break;
    case S_GO:
        (void)feed(&n, SW_EV_GO);
        link_send(&n, LINK_CONTROL, 1, M_GO);
        if (broken_rule == BREAK_DONE_BEFORE_RUNNING)
            note_outgoing(&n, OUTGOING_DONE);
        n.s_pc = broken_rule == BREAK_GO_BEFORE_COMMIT ? S_COMMIT : broken_rule == BREAK_GO_BEFORE_ASIDE ? S_ASIDE : S_RUNNING;
        model_emit(sink, EDGE_STEP, "sender: sends GO", &n);
        break;
    case S_RUNNING:
        expect(m, sink, M_RUNNING, SW_EV_RUNNING, broken_rule == BREAK_FORGET_BEFORE_DONE ? S_FORGET : S_DONE, "sender: hears RUNNING");
        break;
    default:
        break;
    }
}

static void after_running(const struct model *m, struct sink *sink)
{
    unsigned int forgotten = broken_rule == BREAK_FORGET_BEFORE_DONE ? S_DONE : S_FINISH;
    struct model n = *m;

    switch (m->s_pc) {
    case S_DONE:
        note_outgoing(&n, OUTGOING_DONE);
        n.s_pc = S_DESTROY;
        model_emit(sink, EDGE_STEP, "sender: notes done", &n);
        break;
    case S_DESTROY:
        n.s_guest = GUEST_ABSENT;
        n.s_agent = AGENT_NONE;
        n.s_pc = broken_rule == BREAK_FORGET_BEFORE_DONE ? S_FINISH : S_FORGET;
        model_emit(sink, EDGE_STEP, "sender: destroys its half", &n);
        break;
    case S_FORGET:
        link_send(&n, LINK_CONTROL, 1, M_FORGET);
        n.s_pc = broken_rule == BREAK_FORGET_UNANSWERED ? S_FINISH : S_FORGOT;
        model_emit(sink, EDGE_STEP, "sender: sends FORGET", &n);
        break;
    case S_FORGOT:
        expect(m, sink, M_FORGOT, SW_EV_COUNT, forgotten, "sender: hears that it is forgotten");
        link_close(&n, LINK_CONTROL, 0);
        n.s_pc = broken_rule == BREAK_FORGET_BEFORE_DONE ? S_DONE : S_LEFT;
        model_emit(sink, EDGE_STEP, "sender: waits no longer for an answer to FORGET", &n);
        break;
    case S_FINISH:
        remove_outgoing(&n);
        end_sender(&n);
        model_emit(sink, EDGE_STEP, "sender: removes its journal and ends", &n);
        break;
    case S_LEFT:
        note_outgoing(&n, OUTGOING_LEFT);
        end_sender(&n);
        model_emit(sink, EDGE_STEP, "sender: notes left and ends", &n);
        break;
    default:
        break;
    }
}

/* The journal first: GO was not sent, or is given back. */
static void take_back(struct model *n, unsigned int pc)
{
    if (n->s_journal == OUTGOING_COMMIT + 1)
        note_outgoing(n, OUTGOING_BEGUN);
    n->s_pc = (uint8_t)pc;
}

/* Its name first, and then it runs. */
static void resume(struct model *n, unsigned int pc)
{
    if (n->s_guest == GUEST_ASIDE) {
        n->s_guest = GUEST_STILL;
        return;
    }
    if (n->s_guest == GUEST_STILL)
        source_runs(n);
    n->s_agent = AGENT_NONE;
    n->s_pc = (uint8_t)pc;
}

static void parked(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (m->t_receiver && !m->links[LINK_RESUME].t_open) {
        n.links[LINK_RESUME] = (struct link){.s_open = 1, .t_open = 1};
        link_send(&n, LINK_RESUME, 1, M_RESUME);
        n.s_pc = S_RESUMED;
        model_emit(sink, EDGE_STEP, "sender: connects again, asks to resume", &n);
        n = *m;
    }
    obey(&n, SW_EV_PEER_LOST);
    model_emit(sink, EDGE_STEP, "sender: the time for resuming is over", &n);
}

static void park(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    switch (m->s_pc) {
    case S_PARK_NOTE:
        take_back(&n, S_PARK_RESUME);
        model_emit(sink, EDGE_STEP, "sender: parks, notes begun", &n);
        break;
    case S_PARK_RESUME:
        resume(&n, S_PARKED);
        model_emit(sink, EDGE_STEP, "sender: parks, the guest runs on", &n);
        break;
    case S_PARKED:
        parked(m, sink);
        break;
    case S_RESUMED:
        expect(m, sink, M_RESUMED, SW_EV_COUNT, S_MEMORY, "sender: hears RESUMED, goes on with the disks");
        if (link_head(m, LINK_RESUME, 0) != M_REFUSED)
            break;
        link_close(&n, LINK_RESUME, 0);
        obey(&n, SW_EV_PEER_FAILED);
        model_emit(sink, EDGE_STEP, "sender: resuming is refused, nothing is at the target", &n);
        break;
    default:
        break;
    }
}

static void undo_tell(struct model *n, struct sink *sink)
{
    if (n->links[LINK_RESUME].s_open)
        link_close(n, LINK_RESUME, 0);
    if (n->s_told) {
        n->s_pc = S_FINISH;
    } else if (n->links[LINK_CONTROL].s_open) {
        link_send(n, LINK_CONTROL, 1, M_ABORT);
        n->s_pc = S_ABORTED;
    } else {
        n->s_pc = S_BACK;
    }
    model_emit(sink, EDGE_STEP, "sender: undoes, tells the target if it can", n);
}

static void undo(const struct model *m, struct sink *sink)
{
    enum message head = link_head(m, LINK_CONTROL, 0);
    struct model n = *m;

    switch (m->s_pc) {
    case S_UNDO_NOTE:
        take_back(&n, S_UNDO_RESUME);
        model_emit(sink, EDGE_STEP, "sender: undoes, notes begun", &n);
        break;
    case S_UNDO_RESUME:
        resume(&n, S_UNDO_TELL);
        model_emit(sink, EDGE_STEP, "sender: undoes, the guest runs on", &n);
        break;
    case S_UNDO_TELL:
        undo_tell(&n, sink);
        break;
    case S_ABORTED:
        if (head) {
            link_take(&n, LINK_CONTROL, 0);
            n.s_pc = head == M_FAILED ? S_FINISH : S_ABORTED;
            model_emit(sink, EDGE_STEP, "sender: hears an answer to ABORT", &n);
        }
        n = *m;
        n.s_pc = S_BACK;
        model_emit(sink, EDGE_STEP, "sender: waits no longer for an answer to ABORT", &n);
        break;
    case S_BACK:
        note_outgoing(&n, OUTGOING_BACK);
        end_sender(&n);
        model_emit(sink, EDGE_STEP, "sender: notes back and ends", &n);
        break;
    default:
        break;
    }
}

void model_source(const struct model *m, struct sink *sink)
{
    struct model n = *m;

    if (!m->s_up)
        return;
    if (m->s_agent == AGENT_ORPHAN) {
        if (m->s_guest == GUEST_STILL)
            source_runs(&n);
        n.s_agent = AGENT_NONE;
        model_emit(sink, EDGE_STEP, "source's agent: nobody is left, resumes what is not set aside", &n);
    }
    what_comes(m, sink);
    before_go(m, sink);
    go(m, sink);
    after_running(m, sink);
    park(m, sink);
    undo(m, sink);
}
