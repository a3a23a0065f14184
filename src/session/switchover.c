/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/switchover.h"

#include <assert.h>

static const char *const state_names[SW_STATE_COUNT] = {
    [SW_START] = "start", [SW_PREPARED] = "prepared", [SW_MEMORY] = "memory",   [SW_SUSPENDED] = "suspended",
    [SW_READY] = "ready", [SW_GO] = "go",             [SW_DONE] = "done",       [SW_UNDONE] = "undone",
    [SW_UNKNOWN] = "unknown",
};

const char *switchover_state_name(enum switchover_state s)
{
    return state_names[s];
}

/* An entry that is not written is {SW_START, SW_NOTHING}: `known` tells it from a real one. */
struct entry {
    int known;
    struct switchover_step step;
};

#define TO(state, action) {1, {SW_##state, SW_##action}}

/* Before GO every failure is undone; that is one line a state, written out so that it is read. */
static const struct entry source_table[SW_STATE_COUNT][SW_EV_COUNT] = {
    [SW_START] = {[SW_EV_PREPARED] = TO(PREPARED, NOTHING),
                  [SW_EV_FAILED] = TO(UNDONE, UNDO),
                  [SW_EV_PEER_FAILED] = TO(UNDONE, UNDO),
                  [SW_EV_PEER_LOST] = TO(UNDONE, UNDO),
                  [SW_EV_DROPPED] = TO(UNDONE, UNDO)},
    [SW_PREPARED] = {[SW_EV_MEMORY] = TO(MEMORY, NOTHING),
                     [SW_EV_SUSPENDED] = TO(SUSPENDED, NOTHING), /* disks alone */
                     [SW_EV_FAILED] = TO(UNDONE, UNDO),
                     [SW_EV_PEER_FAILED] = TO(UNDONE, UNDO),
                     [SW_EV_PEER_LOST] = TO(UNDONE, UNDO),
                     [SW_EV_DROPPED] = TO(PREPARED, PARK)},
    [SW_MEMORY] = {[SW_EV_SUSPENDED] = TO(SUSPENDED, NOTHING),
                   [SW_EV_FAILED] = TO(UNDONE, UNDO),
                   [SW_EV_PEER_FAILED] = TO(UNDONE, UNDO),
                   [SW_EV_PEER_LOST] = TO(UNDONE, UNDO),
                   [SW_EV_DROPPED] = TO(PREPARED, PARK)},
    [SW_SUSPENDED] = {[SW_EV_READY] = TO(READY, NOTHING),
                      [SW_EV_FAILED] = TO(UNDONE, UNDO),
                      [SW_EV_PEER_FAILED] = TO(UNDONE, UNDO),
                      [SW_EV_PEER_LOST] = TO(UNDONE, UNDO),
                      [SW_EV_DROPPED] = TO(PREPARED, PARK)},
    [SW_READY] = {[SW_EV_GO] = TO(GO, NOTHING),
                  [SW_EV_FAILED] = TO(UNDONE, UNDO),
                  [SW_EV_PEER_FAILED] = TO(UNDONE, UNDO),
                  [SW_EV_PEER_LOST] = TO(UNDONE, UNDO),
                  [SW_EV_DROPPED] = TO(PREPARED, PARK)},
    /* The point of no return is behind us: only the target's own word that its copy is destroyed brings the
     * guest back. */
    [SW_GO] = {[SW_EV_RUNNING] = TO(DONE, KEEP),
               [SW_EV_FAILED] = TO(UNKNOWN, ASK_PERSON),
               [SW_EV_PEER_FAILED] = TO(UNDONE, UNDO),
               [SW_EV_PEER_LOST] = TO(UNKNOWN, ASK_PERSON),
               [SW_EV_DROPPED] = TO(UNKNOWN, ASK_PERSON)},
};

static const struct entry target_table[SW_STATE_COUNT][SW_EV_COUNT] = {
    [SW_START] = {[SW_EV_PREPARED] = TO(PREPARED, NOTHING),
                  [SW_EV_FAILED] = TO(UNDONE, UNDO),
                  [SW_EV_PEER_FAILED] = TO(UNDONE, UNDO),
                  [SW_EV_PEER_LOST] = TO(UNDONE, UNDO),
                  [SW_EV_DROPPED] = TO(UNDONE, UNDO)},
    [SW_PREPARED] = {[SW_EV_MEMORY] = TO(MEMORY, NOTHING),
                     [SW_EV_READY] = TO(READY, NOTHING), /* disks alone */
                     [SW_EV_FAILED] = TO(UNDONE, UNDO),
                     [SW_EV_PEER_FAILED] = TO(UNDONE, UNDO),
                     [SW_EV_PEER_LOST] = TO(UNDONE, UNDO),
                     [SW_EV_DROPPED] = TO(PREPARED, PARK)},
    [SW_MEMORY] = {[SW_EV_READY] = TO(READY, NOTHING),
                   [SW_EV_FAILED] = TO(UNDONE, UNDO),
                   [SW_EV_PEER_FAILED] = TO(UNDONE, UNDO),
                   [SW_EV_PEER_LOST] = TO(UNDONE, UNDO),
                   [SW_EV_DROPPED] = TO(PREPARED, PARK)},
    [SW_READY] = {[SW_EV_GO] = TO(GO, RUN),
                  [SW_EV_FAILED] = TO(UNDONE, UNDO),
                  [SW_EV_PEER_FAILED] = TO(UNDONE, UNDO),
                  [SW_EV_PEER_LOST] = TO(UNDONE, UNDO),
                  [SW_EV_DROPPED] = TO(PREPARED, PARK)},
    /* GO has come: the guest is ours, whatever happens to the sender. Starting it can still fail: then our copy is
     * destroyed, and only after that the sender is told so. */
    [SW_GO] = {[SW_EV_RUNNING] = TO(DONE, NOTHING),
               [SW_EV_FAILED] = TO(UNDONE, UNDO),
               [SW_EV_PEER_FAILED] = TO(GO, NOTHING),
               [SW_EV_PEER_LOST] = TO(GO, NOTHING),
               [SW_EV_DROPPED] = TO(GO, NOTHING)},
};

struct switchover_step switchover_next(enum switchover_role role, enum switchover_state state,
                                       enum switchover_event event)
{
    const struct entry *e;

    assert(state < SW_STATE_COUNT && event < SW_EV_COUNT);
    e = role == SWITCHOVER_SOURCE ? &source_table[state][event] : &target_table[state][event];
    if (e->known)
        return e->step;
    /* The last states are left by nothing. */
    if (state == SW_DONE || state == SW_UNDONE || state == SW_UNKNOWN)
        return (struct switchover_step){state, SW_NOTHING};
    return (struct switchover_step){state, SW_REFUSE};
}
