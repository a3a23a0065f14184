/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Another migration of the same guest while journals of this one are still about: one, by a person, that goes well. What must be
 * true before it may begin is the rule that is tested here. */
#include "model.h"

#include <stdbool.h>

static void away_from_source(const struct model *m, struct sink *sink)
{
    bool settled = !m->s_journal || recover_settled((enum outgoing_phase)(m->s_journal - 1));
    struct model n = *m;

    if (broken_rule == BREAK_BEGIN_UNSETTLED && m->s_journal == OUTGOING_BEGUN + 1)
        settled = true;
    if (m->s_pc != S_NONE || m->r_on || m->s_agent != AGENT_NONE || m->s_guest != GUEST_RUNNING || !settled)
        return;
    n.later = 1;
    n.s_guest = GUEST_ABSENT;
    n.elsewhere = 1;
    model_emit(sink, EDGE_CHOICE, "a later migration moves the guest from the source to a third host", &n);
    if (!m->t_receiver || m->t_guest != GUEST_ABSENT || m->t_agent != AGENT_NONE || m->t_pc != T_NONE)
        return;
    n.elsewhere = 0;
    n.t_guest = GUEST_RUNNING;
    model_emit(sink, EDGE_CHOICE, "a later migration moves the guest from the source to the target", &n);
}

/* Its arrival is noted as over before it begins. */
static void away_from_target(const struct model *m, struct sink *sink)
{
    bool ready = !m->t_journal || m->t_journal > INCOMING_GO + 1;
    struct model n = *m;

    if (m->t_pc != T_NONE || m->t_agent != AGENT_NONE || m->t_guest != GUEST_RUNNING || !ready)
        return;
    if (m->t_journal && broken_rule != BREAK_LEAVING_NOT_NOTED)
        note_incoming(&n, INCOMING_LEFT);
    n.later = 1;
    n.t_guest = GUEST_ABSENT;
    n.elsewhere = 1;
    model_emit(sink, EDGE_CHOICE, "a later migration moves the guest from the target to a third host", &n);
    if (!m->s_up || m->s_guest != GUEST_ABSENT)
        return;
    n.elsewhere = 0;
    n.s_guest = GUEST_RUNNING;
    model_emit(sink, EDGE_CHOICE, "a later migration moves the guest back to the source", &n);
}

void model_later(const struct model *m, struct sink *sink)
{
    if (m->later)
        return;
    away_from_source(m, sink);
    away_from_target(m, sink);
}
