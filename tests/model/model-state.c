/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a state is made of, what may not be, and how it is told. */
#include "model.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum breakage broken_rule;
uint32_t model_source_actions, model_target_actions;

const char *const wrong_texts[WRONG_COUNT] = {
    [RIGHT] = "nothing",
    [WRONG_TWO_RUN] = "two guests run",
    [WRONG_TWO_MAY_RUN] = "the guest may run at the source, and at the target",
    [WRONG_ROLLED_BACK] = "the guest ran at the target, and runs at the source again: what it did there is lost",
    [WRONG_STALE_COPY] = "a copy runs that is not what stood still at the source",
    [WRONG_TWO_BUILT] = "a guest is built where one of this name was left",
    [WRONG_VOLUME_ORPHAN] = "a volume is at the target, and no journal knows it",
    [WRONG_GUEST_ORPHAN] = "a guest that stands still or is half-built, and no journal knows it",
    [WRONG_VOLUME_TAKEN] = "the volumes of a guest that ran are removed",
    [WRONG_REFUSED] = "an event came that its state refuses",
    [WRONG_CONFLICT] = "recovery found what cannot be",
    [WRONG_RESUME_AFTER_GO] = "the sender wants to resume a session that has GO",
    [WRONG_QUEUE] = "more messages are on their way than the model has room for",
    [WRONG_END] = "all has come to rest, and it is no good end",
    [WRONG_FOR_EVER] = "it may go on for ever",
};

/* -- connections -- */

void link_send(struct model *m, unsigned int link, int to_target, enum message what)
{
    struct link *l = &m->links[link];
    uint8_t *q = to_target ? l->to_t : l->to_s;
    unsigned int i;

    if (!(to_target ? l->t_open : l->s_open)) /* nobody is there to read it */
        return;
    for (i = 0; i < QUEUE && q[i]; i++)
        ;
    if (i == QUEUE)
        m->wrong = WRONG_QUEUE;
    else if (!l->broken) /* who sends into a broken one may think that it was sent */
        q[i] = (uint8_t)what;
}

enum message link_head(const struct model *m, unsigned int link, int at_target)
{
    const struct link *l = &m->links[link];

    if (!(at_target ? l->t_open : l->s_open))
        return M_NONE;
    return (enum message)(at_target ? l->to_t[0] : l->to_s[0]);
}

void link_take(struct model *m, unsigned int link, int at_target)
{
    uint8_t *q = at_target ? m->links[link].to_t : m->links[link].to_s;

    memmove(q, q + 1, QUEUE - 1);
    q[QUEUE - 1] = M_NONE;
}

/* What this end sent is read before its end is noticed; but if it leaves something unread, that resets the connection and what it
 * sent may be lost. */
void link_close(struct model *m, unsigned int link, int at_target)
{
    struct link *l = &m->links[link];
    uint8_t *unread = at_target ? l->to_t : l->to_s;

    l->broken = l->broken || unread[0];
    memset(unread, M_NONE, QUEUE);
    *(at_target ? &l->t_open : &l->s_open) = 0;
    if (!l->s_open && !l->t_open)
        memset(l, 0, sizeof(*l));
}

int link_noticed(const struct model *m, unsigned int link, int at_target)
{
    const struct link *l = &m->links[link];

    if (!(at_target ? l->t_open : l->s_open))
        return 0;
    return l->broken || (at_target ? !l->s_open && !l->to_t[0] : !l->t_open && !l->to_s[0]);
}

/* -- guests, journals, volumes -- */

void source_runs(struct model *m)
{
    if (m->ran && !m->lost && !m->wrong)
        m->wrong = WRONG_ROLLED_BACK;
    m->s_guest = GUEST_RUNNING;
    m->t_fresh = 0;
}

void target_runs(struct model *m)
{
    if (!m->ran && !(m->t_fresh && m->t_volumes) && !m->wrong)
        m->wrong = WRONG_STALE_COPY;
    m->t_guest = GUEST_RUNNING;
    m->ran = 1;
}

void note_outgoing(struct model *m, enum outgoing_phase phase)
{
    m->s_journal = (uint8_t)(phase + 1);
}

void note_incoming(struct model *m, enum incoming_phase phase)
{
    m->t_journal = (uint8_t)(phase + 1);
    m->t_same = 1;
}

void remove_outgoing(struct model *m)
{
    if (broken_rule == BREAK_REMOVAL_NOT_DURABLE)
        m->back_lost = m->s_journal;
    m->s_journal = 0;
}

/* The mark of having been released goes with it. */
void remove_incoming(struct model *m)
{
    if (broken_rule == BREAK_REMOVAL_NOT_DURABLE)
        m->t_back_lost = m->t_journal;
    m->t_journal = 0;
    m->t_released = 0;
    m->t_resumable = 0;
}

void remove_volumes(struct model *m)
{
    if (m->ran && !m->wrong)
        m->wrong = WRONG_VOLUME_TAKEN;
    m->t_volumes = 0;
    m->t_fresh = 0;
}

enum switchover_action feed_target(struct model *m, enum switchover_event event)
{
    struct switchover_step step = switchover_next(SWITCHOVER_TARGET, (enum switchover_state)m->t_state, event);

    m->t_state = (uint8_t)step.next;
    if (step.action == SW_REFUSE && !m->wrong)
        m->wrong = WRONG_REFUSED;
    return step.action;
}

void model_emit(struct sink *sink, enum edge edge, const char *label, struct model *m)
{
    sink->next(sink, edge, label, m);
}

void model_begin(struct model *m)
{
    memset(m, 0, sizeof(*m));
    m->s_up = m->s_same = 1;
    m->s_guest = GUEST_RUNNING;
    m->s_pc = S_BEGIN;
    m->t_up = m->t_same = m->t_receiver = 1;
}

void model_next(const struct model *m, struct sink *sink)
{
    model_source(m, sink);
    model_recover(m, sink);
    model_target(m, sink);
    model_receiver(m, sink);
    model_later(m, sink);
    if (m->faults < sink->max_faults)
        model_faults(m, sink);
}

/* -- what may not be -- */

static bool incoming_is(const struct model *m, enum incoming_phase phase)
{
    return m->t_journal == phase + 1;
}

/* Somebody at the target would let it run without asking anybody. */
static bool target_may_run(const struct model *m)
{
    return !m->lost && (m->t_guest == GUEST_RUNNING || m->t_guest == GUEST_STILL || m->t_command ||
                        incoming_is(m, INCOMING_GO) || incoming_is(m, INCOMING_RUN));
}

enum wrong model_check(const struct model *m)
{
    bool half_built = m->t_guest == GUEST_INCOMING || m->t_guest == GUEST_BUILT || m->t_guest == GUEST_STILL;

    if ((m->s_guest == GUEST_RUNNING) + (m->t_guest == GUEST_RUNNING) + m->elsewhere > 1)
        return WRONG_TWO_RUN;
    if (m->wrong)
        return (enum wrong)m->wrong;
    if ((m->s_guest == GUEST_RUNNING || m->s_guest == GUEST_STILL) && target_may_run(m))
        return WRONG_TWO_MAY_RUN;
    if (m->t_volumes && !m->t_journal && !m->ran)
        return WRONG_VOLUME_ORPHAN;
    if ((half_built && !m->t_journal && m->t_agent == AGENT_NONE) || (m->s_guest == GUEST_ASIDE && !m->s_journal))
        return WRONG_GUEST_ORPHAN;
    return RIGHT;
}

/* The target's host is gone for good: the source knows that its guest runs, or waits for a person, or has let it go. */
static bool good_end_without_target(const struct model *m)
{
    if (m->s_pc != S_NONE || m->r_on)
        return false;
    if (m->s_guest == GUEST_RUNNING)
        return !m->s_journal || m->s_journal == OUTGOING_BACK + 1 || m->later;
    if (m->s_journal == OUTGOING_COMMIT + 1 || m->s_journal == OUTGOING_LEFT + 1)
        return true;
    return m->ended || m->elsewhere;
}

enum wrong model_check_end(const struct model *m)
{
    bool runs = (m->s_guest == GUEST_RUNNING) + (m->t_guest == GUEST_RUNNING) + m->elsewhere == 1;
    bool good;

    if (m->lost)
        return good_end_without_target(m) ? RIGHT : WRONG_END;
    good = m->s_pc == S_NONE && !m->r_on && m->t_pc == T_NONE && !m->s_journal && !m->t_journal;
    good = good && (runs || m->ended);
    good = good && (m->s_guest == GUEST_RUNNING || m->s_guest == GUEST_ABSENT);
    good = good && (m->t_guest == GUEST_RUNNING || m->t_guest == GUEST_ABSENT);
    good = good && m->t_volumes == m->ran; /* whose guest ran here, or is it nobody's */
    return good ? RIGHT : WRONG_END;
}

/* -- told -- */

static const char *const guest_names[] = {"absent", "runs", "stands still", "aside", "half-built", "built"};
static const char *const agent_names[] = {"", "+agent", "+orphaned agent", "+dead agent"};

static const char *const s_names[S_PC_COUNT] = {
    [S_NONE] = "-",
    [S_BEGIN] = "begins",
    [S_CONNECT] = "connects",
    [S_PREPARED] = "waits for PREPARED",
    [S_MEMORY] = "disks",
    [S_MEMORY_READY] = "waits for MEMORY_READY",
    [S_SUSPEND] = "memory",
    [S_FINAL] = "last passes",
    [S_READY] = "waits for READY",
    [S_COMMIT] = "notes commit",
    [S_ASIDE] = "sets aside",
    [S_GO] = "sends GO",
    [S_RUNNING] = "waits for RUNNING",
    [S_DONE] = "notes done",
    [S_DESTROY] = "destroys",
    [S_FORGET] = "sends FORGET",
    [S_FORGOT] = "waits for its answer",
    [S_FINISH] = "removes the journal",
    [S_LEFT] = "notes left",
    [S_PARK_NOTE] = "parks: notes begun",
    [S_PARK_RESUME] = "parks: resumes",
    [S_PARKED] = "parked",
    [S_RESUMED] = "waits for RESUMED",
    [S_UNDO_NOTE] = "undoes: notes begun",
    [S_UNDO_RESUME] = "undoes: resumes",
    [S_UNDO_TELL] = "undoes: tells",
    [S_ABORTED] = "waits for ABORTED",
    [S_BACK] = "notes back",
};

static const char *const t_names[T_PC_COUNT] = {
    [T_NONE] = "-",
    [T_PREPARE] = "notes prepare",
    [T_VOLUMES] = "makes volumes",
    [T_PREPARED] = "notes prepared",
    [T_SERVE] = "serves",
    [T_GO_NOTE] = "notes go",
    [T_RUN] = "tells the agent to run",
    [T_RAN] = "waits for the agent",
    [T_RUN_NOTE] = "notes run",
    [T_RUNNING] = "sends RUNNING",
    [T_DONE] = "waits for FORGET",
    [T_FORGOT] = "answers FORGET",
    [T_PARK] = "parks",
    [T_PARKED] = "parked",
    [T_UNDO_NOTE] = "undoes: notes prepare",
    [T_UNDO_GUEST] = "undoes: guest",
    [T_UNDO_VOLUMES] = "undoes: volumes",
    [T_UNDO_JOURNAL] = "undoes: journal",
    [T_UNDO_TELL] = "undoes: tells",
};

static const char *const message_names[M_COUNT] = {
    [M_PREPARE] = "PREPARE", [M_MEMORY] = "MEMORY",     [M_FINAL] = "FINAL",
    [M_GO] = "GO",           [M_ABORT] = "ABORT",       [M_FORGET] = "FORGET",
    [M_RESUME] = "RESUME",   [M_ASK] = "ASK",           [M_PREPARED] = "PREPARED",
    [M_READY] = "READY",     [M_RUNNING] = "RUNNING",   [M_MEMORY_READY] = "MEMORY_READY",
    [M_FAILED] = "FAILED",   [M_RESUMED] = "RESUMED",   [M_REFUSED] = "REFUSED",
    [M_HERE] = "HERE",       [M_GONE] = "GONE",         [M_FORGOT] = "FORGOT",
};

static int link_text(const struct link *l, unsigned int link, char *text, size_t size)
{
    static const char *const names[LINK_COUNT] = {"control", "resume", "ask"};
    int n = snprintf(text, size, " | %s%s%s%s:", names[link], l->broken ? " broken" : "", l->s_open ? "" : " (source closed)",
                     l->t_open ? "" : " (target closed)");

    for (unsigned int i = 0; i < QUEUE && l->to_t[i]; i++)
        n += snprintf(text + n, size - (size_t)n, " %s>", message_names[l->to_t[i]]);
    for (unsigned int i = 0; i < QUEUE && l->to_s[i]; i++)
        n += snprintf(text + n, size - (size_t)n, " <%s", message_names[l->to_s[i]]);
    return n;
}

const char *model_text(const struct model *m, char *text, size_t size)
{
    int n = snprintf(text, size, "source%s: guest %s%s, journal %s%s, sender %s%s%s || target%s: guest %s%s%s, journal %s%s%s%s, session %s%s%s%s%s",
                     m->s_up ? "" : " DOWN", guest_names[m->s_guest], agent_names[m->s_agent],
                     m->s_journal ? outgoing_phase_name((enum outgoing_phase)(m->s_journal - 1)) : "none",
                     m->s_same ? "" : " (boot before)", s_names[m->s_pc], m->r_on ? ", recovers" : "",
                     m->r_waits ? " and asks" : "", m->t_up ? m->t_receiver ? "" : " (no receiver)" : " DOWN",
                     guest_names[m->t_guest], agent_names[m->t_agent], m->t_command ? " told to run" : "",
                     m->t_journal ? incoming_phase_name((enum incoming_phase)(m->t_journal - 1)) : "none",
                     m->t_same ? "" : " (boot before)", m->t_released ? " released" : "", m->t_volumes ? ", volumes" : "",
                     t_names[m->t_pc], m->ran ? ", has run" : "", m->ended ? ", ENDED" : "", m->elsewhere ? ", RUNS ELSEWHERE" : "", m->lost ? ", LOST FOR GOOD" : "");

    for (unsigned int i = 0; i < LINK_COUNT && n >= 0 && (size_t)n < size; i++) {
        if (m->links[i].s_open || m->links[i].t_open)
            n += link_text(&m->links[i], i, text + n, size - (size_t)n);
    }
    return text;
}
