/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of docs/switchover.md, walked whole. */
#include "session/switchover.h"
#include "unit.h"

static struct switchover_step at(enum switchover_role role, enum switchover_state s, enum switchover_event e)
{
    return switchover_next(role, s, e);
}

START_TEST(before_go_every_failure_is_undone)
{
    static const enum switchover_event failures[] = {SW_EV_FAILED, SW_EV_PEER_FAILED, SW_EV_PEER_LOST};

    for (int role = SWITCHOVER_SOURCE; role <= SWITCHOVER_TARGET; role++) {
        for (int s = SW_START; s <= SW_READY; s++) {
            if (role == SWITCHOVER_TARGET && s == SW_SUSPENDED)
                continue; /* only the source knows that state */
            for (size_t f = 0; f < 3; f++) {
                struct switchover_step step = at((enum switchover_role)role, (enum switchover_state)s, failures[f]);

                ck_assert_int_eq(step.next, SW_UNDONE);
                ck_assert_int_eq(step.action, SW_UNDO);
            }
        }
    }
}
END_TEST

START_TEST(a_drop_parks_what_is_prepared)
{
    for (int role = SWITCHOVER_SOURCE; role <= SWITCHOVER_TARGET; role++) {
        for (int s = SW_START; s <= SW_READY; s++) {
            struct switchover_step step = at((enum switchover_role)role, (enum switchover_state)s, SW_EV_DROPPED);

            if (role == SWITCHOVER_TARGET && s == SW_SUSPENDED)
                continue;
            ck_assert_int_eq(step.next, s == SW_START ? SW_UNDONE : SW_PREPARED);
            ck_assert_int_eq(step.action, s == SW_START ? SW_UNDO : SW_PARK);
        }
    }
}
END_TEST

START_TEST(after_go_a_drop_is_a_loss)
{
    for (int role = SWITCHOVER_SOURCE; role <= SWITCHOVER_TARGET; role++) {
        struct switchover_step dropped = at((enum switchover_role)role, SW_GO, SW_EV_DROPPED);
        struct switchover_step lost = at((enum switchover_role)role, SW_GO, SW_EV_PEER_LOST);

        ck_assert_int_eq(dropped.next, lost.next);
        ck_assert_int_eq(dropped.action, lost.action);
    }
}
END_TEST

START_TEST(after_go_only_the_target_owns_it)
{
    struct switchover_step lost = at(SWITCHOVER_SOURCE, SW_GO, SW_EV_PEER_LOST);
    struct switchover_step failed = at(SWITCHOVER_SOURCE, SW_GO, SW_EV_FAILED);
    struct switchover_step destroyed = at(SWITCHOVER_SOURCE, SW_GO, SW_EV_PEER_FAILED);

    ck_assert_int_eq(lost.next, SW_UNKNOWN);
    ck_assert_int_eq(lost.action, SW_ASK_PERSON);
    ck_assert_int_eq(failed.action, SW_ASK_PERSON);
    ck_assert_int_eq(destroyed.action, SW_UNDO);
    ck_assert_int_eq(at(SWITCHOVER_TARGET, SW_GO, SW_EV_PEER_LOST).next, SW_GO);
    ck_assert_int_eq(at(SWITCHOVER_TARGET, SW_GO, SW_EV_PEER_FAILED).action, SW_NOTHING);
}
END_TEST

START_TEST(the_guest_is_run_by_go_alone)
{
    for (int s = 0; s < SW_STATE_COUNT; s++) {
        for (int e = 0; e < SW_EV_COUNT; e++) {
            struct switchover_step t = at(SWITCHOVER_TARGET, (enum switchover_state)s, (enum switchover_event)e);
            struct switchover_step o = at(SWITCHOVER_SOURCE, (enum switchover_state)s, (enum switchover_event)e);

            ck_assert_int_eq(t.action == SW_RUN, s == SW_READY && e == SW_EV_GO);
            ck_assert_int_eq(o.action == SW_KEEP, s == SW_GO && e == SW_EV_RUNNING);
            ck_assert_int_ne(o.action, SW_RUN);
            ck_assert_int_ne(t.action, SW_KEEP);
            ck_assert_int_ne(t.action, SW_ASK_PERSON);
        }
    }
}
END_TEST

START_TEST(last_states_are_left_by_nothing)
{
    static const enum switchover_state last[] = {SW_DONE, SW_UNDONE, SW_UNKNOWN};

    for (size_t s = 0; s < 3; s++) {
        for (int e = 0; e < SW_EV_COUNT; e++) {
            struct switchover_step step = at(SWITCHOVER_SOURCE, last[s], (enum switchover_event)e);

            ck_assert_int_eq(step.next, last[s]);
            ck_assert_int_eq(step.action, SW_NOTHING);
        }
    }
}
END_TEST

START_TEST(out_of_order_is_refused)
{
    ck_assert_int_eq(at(SWITCHOVER_TARGET, SW_PREPARED, SW_EV_GO).action, SW_REFUSE);
    ck_assert_int_eq(at(SWITCHOVER_TARGET, SW_MEMORY, SW_EV_GO).action, SW_REFUSE);
    ck_assert_int_eq(at(SWITCHOVER_TARGET, SW_START, SW_EV_MEMORY).action, SW_REFUSE);
    ck_assert_int_eq(at(SWITCHOVER_SOURCE, SW_SUSPENDED, SW_EV_RUNNING).action, SW_REFUSE);
    ck_assert_int_eq(at(SWITCHOVER_SOURCE, SW_MEMORY, SW_EV_READY).action, SW_REFUSE);
}
END_TEST

UNIT_MAIN("switchover", before_go_every_failure_is_undone, a_drop_parks_what_is_prepared, after_go_a_drop_is_a_loss,
          after_go_only_the_target_owns_it,
          the_guest_is_run_by_go_alone, last_states_are_left_by_nothing, out_of_order_is_refused)
