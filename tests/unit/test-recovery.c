/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tables of docs/switchover.md, "Recovery". That they keep exactly one guest is the model's to show (tests/model). */
#include "session/recovery.h"
#include "unit.h"

static enum recover_action source(enum outgoing_phase phase, bool same_boot, enum recover_found found,
                                  enum recover_answer answer, enum recover_choice choice)
{
    const struct recover_source in = {phase, same_boot, found, answer, choice};

    return recover_source_next(&in);
}

static enum recover_action target(enum incoming_phase phase, bool same_boot, bool released, enum recover_found found,
                                  bool resumable, bool asked)
{
    const struct recover_target in = {phase, same_boot, released, found, resumable, asked};

    return recover_target_next(&in);
}

START_TEST(begun_brings_the_guest_back)
{
    for (int boot = 0; boot < 2; boot++) {
        ck_assert_int_eq(source(OUTGOING_BEGUN, boot, FOUND_RUNNING, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_NOTE_BACK);
        ck_assert_int_eq(source(OUTGOING_BEGUN, boot, FOUND_STILL, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_RESUME);
        ck_assert_int_eq(source(OUTGOING_BEGUN, boot, FOUND_ASIDE, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_RESUME);
    }
    ck_assert_int_eq(source(OUTGOING_BEGUN, false, FOUND_ABSENT, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_START_ANEW);
    /* It ended by itself: nobody brings a guest back that was shut down. */
    ck_assert_int_eq(source(OUTGOING_BEGUN, true, FOUND_ABSENT, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_NOTE_BACK);
}
END_TEST

START_TEST(commit_asks_first)
{
    for (int boot = 0; boot < 2; boot++) {
        for (int choice = CHOICE_NONE; choice <= CHOICE_GUEST_IS_THERE; choice++) {
            enum recover_found found = boot ? FOUND_ASIDE : FOUND_ABSENT;

            ck_assert_int_eq(source(OUTGOING_COMMIT, boot, found, ANSWER_NOT_ASKED, (enum recover_choice)choice), RECOVER_ASK);
            /* The receiver's word counts more than a person's. */
            ck_assert_int_eq(source(OUTGOING_COMMIT, boot, found, ANSWER_HERE, (enum recover_choice)choice), RECOVER_NOTE_DONE);
            ck_assert_int_eq(source(OUTGOING_COMMIT, boot, found, ANSWER_GONE, (enum recover_choice)choice), RECOVER_NOTE_BEGUN);
        }
    }
}
END_TEST

START_TEST(no_answer_is_a_persons)
{
    for (int boot = 0; boot < 2; boot++) {
        enum recover_found found = boot ? FOUND_ASIDE : FOUND_ABSENT;

        ck_assert_int_eq(source(OUTGOING_COMMIT, boot, found, ANSWER_NONE, CHOICE_NONE), RECOVER_UNDECIDED);
        ck_assert_int_eq(source(OUTGOING_COMMIT, boot, found, ANSWER_NONE, CHOICE_GUEST_IS_HERE), RECOVER_NOTE_BEGUN);
        ck_assert_int_eq(source(OUTGOING_COMMIT, boot, found, ANSWER_NONE, CHOICE_GUEST_IS_THERE), RECOVER_NOTE_DONE);
    }
}
END_TEST

START_TEST(what_was_not_set_aside_was_not_let_go)
{
    ck_assert_int_eq(source(OUTGOING_COMMIT, true, FOUND_RUNNING, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_NOTE_BEGUN);
    ck_assert_int_eq(source(OUTGOING_COMMIT, true, FOUND_STILL, ANSWER_NONE, CHOICE_NONE), RECOVER_NOTE_BEGUN);
    /* After a reboot its name says nothing: somebody else may have started it. */
    ck_assert_int_eq(source(OUTGOING_COMMIT, false, FOUND_RUNNING, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_ASK);
    ck_assert_int_eq(source(OUTGOING_COMMIT, false, FOUND_RUNNING, ANSWER_HERE, CHOICE_NONE), RECOVER_NOTE_DONE);
    ck_assert_int_eq(source(OUTGOING_COMMIT, false, FOUND_RUNNING, ANSWER_NONE, CHOICE_NONE), RECOVER_UNDECIDED);
    ck_assert_int_eq(source(OUTGOING_COMMIT, false, FOUND_RUNNING, ANSWER_NONE, CHOICE_GUEST_IS_THERE), RECOVER_NOTE_DONE);
}
END_TEST

START_TEST(the_ends_tell_the_receiver)
{
    ck_assert_int_eq(source(OUTGOING_DONE, true, FOUND_ASIDE, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_DESTROY_ASIDE);
    ck_assert_int_eq(source(OUTGOING_DONE, false, FOUND_ABSENT, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_NOTE_LEFT);
    /* Moved back since: not touched. */
    ck_assert_int_eq(source(OUTGOING_DONE, true, FOUND_RUNNING, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_NOTE_LEFT);
    ck_assert_int_eq(source(OUTGOING_LEFT, true, FOUND_ASIDE, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_FORGET);
    ck_assert_int_eq(source(OUTGOING_LEFT, true, FOUND_ABSENT, ANSWER_NONE, CHOICE_NONE), RECOVER_LATER);
    ck_assert_int_eq(source(OUTGOING_LEFT, true, FOUND_ABSENT, ANSWER_HERE, CHOICE_NONE), RECOVER_FINISH);
    ck_assert_int_eq(source(OUTGOING_BACK, false, FOUND_ABSENT, ANSWER_NOT_ASKED, CHOICE_NONE), RECOVER_ASK);
    ck_assert_int_eq(source(OUTGOING_BACK, false, FOUND_ABSENT, ANSWER_NONE, CHOICE_NONE), RECOVER_LATER);
    ck_assert_int_eq(source(OUTGOING_BACK, true, FOUND_RUNNING, ANSWER_GONE, CHOICE_NONE), RECOVER_FINISH);
    ck_assert_int_eq(source(OUTGOING_BACK, true, FOUND_RUNNING, ANSWER_HERE, CHOICE_NONE), RECOVER_CONFLICT);
    /* It went there by another migration since. */
    ck_assert_int_eq(source(OUTGOING_BACK, true, FOUND_ABSENT, ANSWER_HERE, CHOICE_NONE), RECOVER_NOTE_LEFT);
}
END_TEST

/* Whatever is found: only these actions let the guest run at the source, and only where they may. */
START_TEST(the_source_never_runs_it_on_its_own_word)
{
    for (int phase = 0; phase < OUTGOING_PHASE_COUNT; phase++) {
        for (int rest = 0; rest < 2 * 5 * 4 * 3; rest++) {
            enum recover_action a = source((enum outgoing_phase)phase, rest % 2, (enum recover_found)(rest / 2 % 5),
                                           (enum recover_answer)(rest / 10 % 4), (enum recover_choice)(rest / 40));

            if (a == RECOVER_RESUME || a == RECOVER_START_ANEW)
                ck_assert_int_eq(phase, OUTGOING_BEGUN);
            if (a == RECOVER_DESTROY_ASIDE)
                ck_assert_int_eq(phase, OUTGOING_DONE);
            ck_assert_int_lt(a, RECOVER_RUN); /* from there on, those of the target */
        }
    }
}
END_TEST

START_TEST(without_go_it_waits_then_is_undone)
{
    for (int boot = 0; boot < 2; boot++) {
        ck_assert_int_eq(target(INCOMING_PREPARED, boot, false, FOUND_ABSENT, true, false), RECOVER_LATER);
        ck_assert_int_eq(target(INCOMING_PREPARED, boot, false, FOUND_INCOMING, true, false), RECOVER_DESTROY_INCOMING);
        ck_assert_int_eq(target(INCOMING_PREPARED, boot, false, FOUND_ABSENT, false, false), RECOVER_NOTE_PREPARE);
        ck_assert_int_eq(target(INCOMING_PREPARED, boot, false, FOUND_INCOMING, true, true), RECOVER_NOTE_PREPARE);
        /* What is half-made or half-removed is never resumed. */
        for (int resumable = 0; resumable < 2; resumable++)
            ck_assert_int_eq(target(INCOMING_PREPARE, boot, false, FOUND_ABSENT, resumable, false), RECOVER_UNDO);
    }
}
END_TEST

START_TEST(with_go_what_may_have_run_is_kept)
{
    ck_assert_int_eq(target(INCOMING_GO, true, true, FOUND_RUNNING, false, false), RECOVER_NOTE_RUN);
    ck_assert_int_eq(target(INCOMING_GO, true, true, FOUND_STILL, false, false), RECOVER_RUN);
    ck_assert_int_eq(target(INCOMING_GO, true, false, FOUND_ABSENT, false, false), RECOVER_NOTE_PREPARE);
    ck_assert_int_eq(target(INCOMING_GO, true, true, FOUND_ABSENT, false, true), RECOVER_START_ANEW);
    ck_assert_int_eq(target(INCOMING_GO, true, true, FOUND_INCOMING, false, true), RECOVER_NOTE_PREPARE);
    /* The mark does not outlive a boot. */
    ck_assert_int_eq(target(INCOMING_GO, false, false, FOUND_ABSENT, false, true), RECOVER_START_ANEW);
    ck_assert_int_eq(target(INCOMING_GO, false, false, FOUND_RUNNING, false, true), RECOVER_NOTE_RUN);
    ck_assert_int_eq(target(INCOMING_GO, true, true, FOUND_ASIDE, false, false), RECOVER_NOTE_LEFT);
    ck_assert_int_eq(target(INCOMING_RUN, true, true, FOUND_ABSENT, false, false), RECOVER_NOTE_LEFT);
    ck_assert_int_eq(target(INCOMING_RUN, false, true, FOUND_ABSENT, false, false), RECOVER_START_ANEW);
    ck_assert_int_eq(target(INCOMING_RUN, false, true, FOUND_RUNNING, false, false), RECOVER_NOTE_RUN);
    ck_assert_int_eq(target(INCOMING_RUN, true, true, FOUND_STILL, false, false), RECOVER_LATER);
    ck_assert_int_eq(target(INCOMING_LEFT, false, false, FOUND_ABSENT, false, false), RECOVER_LATER);
}
END_TEST

START_TEST(what_ran_is_never_undone_nor_called_gone)
{
    for (int phase = 0; phase < INCOMING_PHASE_COUNT; phase++) {
        for (int rest = 0; rest < 2 * 2 * 5 * 2 * 2; rest++) {
            const struct recover_target in = {(enum incoming_phase)phase, rest & 1, rest & 2,
                                              (enum recover_found)(rest / 4 % 5), rest / 20 % 2, rest / 40};
            enum recover_action a = recover_target_next(&in);
            bool ours = phase == INCOMING_RUN || phase == INCOMING_LEFT;

            ck_assert_int_ne(recover_target_answer(&in), ANSWER_GONE); /* that is said without a journal only */
            if (ours)
                ck_assert_int_eq(recover_target_answer(&in), a == RECOVER_LATER ? ANSWER_HERE : ANSWER_NONE);
            if (a == RECOVER_UNDO || a == RECOVER_DESTROY_INCOMING)
                ck_assert_int_lt(phase, INCOMING_GO);
            if (a == RECOVER_NOTE_PREPARE)
                ck_assert(phase == INCOMING_PREPARED || (phase == INCOMING_GO && in.same_boot && in.found != FOUND_RUNNING));
            if (a == RECOVER_RUN || a == RECOVER_START_ANEW)
                ck_assert(phase == INCOMING_GO || phase == INCOMING_RUN);
        }
    }
}
END_TEST

START_TEST(a_live_session_is_fenced_before_it_is_gone)
{
    for (int s = SW_START; s <= SW_READY; s++)
        ck_assert_int_eq(recover_live_next((enum switchover_state)s), LIVE_CANCEL);
    ck_assert_int_eq(recover_live_next(SW_GO), LIVE_WAIT);
    ck_assert_int_eq(recover_live_next(SW_DONE), LIVE_HERE);
}
END_TEST

START_TEST(disks_alone_come_to_an_end)
{
    struct recover_source s = {.phase = OUTGOING_COMMIT};
    struct recover_target t = {.phase = INCOMING_GO};

    s.found = recover_source_found_disk(s.phase);
    ck_assert_int_eq(recover_source_next(&s), RECOVER_ASK);
    s.phase = OUTGOING_BEGUN;
    s.found = recover_source_found_disk(s.phase);
    ck_assert_int_eq(recover_source_next(&s), RECOVER_NOTE_BACK);
    s.phase = OUTGOING_DONE;
    s.found = recover_source_found_disk(s.phase);
    ck_assert_int_eq(recover_source_next(&s), RECOVER_NOTE_LEFT);
    t.found = recover_target_found_disk(t.phase);
    ck_assert_int_eq(recover_target_next(&t), RECOVER_NOTE_RUN);
    t.phase = INCOMING_PREPARED;
    t.found = recover_target_found_disk(t.phase);
    ck_assert_int_eq(recover_target_next(&t), RECOVER_NOTE_PREPARE);
}
END_TEST

UNIT_MAIN("recovery", begun_brings_the_guest_back, commit_asks_first, no_answer_is_a_persons,
          what_was_not_set_aside_was_not_let_go, the_ends_tell_the_receiver, the_source_never_runs_it_on_its_own_word,
          without_go_it_waits_then_is_undone, with_go_what_may_have_run_is_kept, what_ran_is_never_undone_nor_called_gone,
          a_live_session_is_fenced_before_it_is_gone, disks_alone_come_to_an_end)
