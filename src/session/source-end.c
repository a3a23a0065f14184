/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a migration ends at its source: the guest brought back, or let go. */
#include "session/source-priv.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/run.h"
#include "session/ask.h"
#include "session/recover.h"

#include <string.h>
#include <unistd.h>

#define AREA        "session.source"
#define TURN        (50 * NS_PER_MS)
#define SETTLE_WAIT (15 * NS_PER_SEC)
#define FORGET_WAIT (2 * NS_PER_SEC)
#define SETTLE_MAX  1e9 /* ms */
#define ASK_TIMEOUT (900 * NS_PER_MS) /* of one connection */
#define ASK_FIRST   (200 * NS_PER_MS)
#define ASK_LONGEST (5 * NS_PER_SEC)
#define END_WAIT    (500 * NS_PER_MS)

static enum switchover_event event_of(const struct source *s, int code)
{
    if (code == -EREMOTEIO)
        return SW_EV_PEER_FAILED;
    if (code == -ECONNRESET || code == -EPIPE || code == -ETIMEDOUT || code == -EPROTO || code == -ENOTCONN)
        return s->state == SW_GO ? SW_EV_PEER_LOST : SW_EV_FAILED;
    return SW_EV_FAILED;
}

/* Whether the peer has said that nothing is left there. */
static bool tell_peer(struct source *s, const struct err *why)
{
    uint64_t give_up = clock_now() + 5 * NS_PER_SEC;
    struct record record;

    if (!s->connected || s->control.broken ||
        control_send(&s->control, WIRE_ABORT, json_pack("{s:s}", "text", why->text), NULL) < 0)
        return false;
    /* Wait for ABORTED, so that nothing is left at the target when we say so; not for ever. */
    while (control_hear(&s->control, give_up, &record, NULL) == 0) {
        if (record.type == WIRE_ABORTED || record.type == WIRE_FAILED)
            return true;
    }
    return false;
}

/* A target that waits for us to come back undoes its side when it is asked whose the guest is. */
static bool ask_to_undo(struct source *s)
{
    bool here = true;

    return ask_whose(s->config->identity, &s->journal.entry, ASK_TIMEOUT, &here, NULL) == 0 && !here;
}

/* The guest first, then everybody else. What the peer could not be told stays in the journal: recovery tells it. */
static enum source_outcome undo(struct source *s, const struct err *why, struct err *err)
{
    struct err undo_err = {0};
    struct err late;
    bool begun = s->journal.written; /* else nothing was done to the guest, which may be in another migration's hands */
    bool told;
    int r = 0;

    source_memory_cancel(s);
    if (begun) {
        r = s->hv->ops->resume(s->hv, &undo_err);
        source_unthrottle(s);
    }
    told = why->code == -EREMOTEIO || !begun || tell_peer(s, why) || ask_to_undo(s);
    if (r == 0 && begun && (told ? journal_remove(&s->journal, &late) : journal_advance(&s->journal, OUTGOING_BACK, &late)) < 0)
        log_warn(AREA, "%s", late.text);
    if (r < 0) {
        (void)err_set(err, r, "%.300s; and the guest could not be resumed: %.200s", why->text, undo_err.text);
        return SOURCE_GUEST_LOST;
    }
    if (why->code == -ESRCH)
        return SOURCE_GUEST_LOST;
    return why->code == -ECANCELED ? SOURCE_CANCELLED : SOURCE_FAILED;
}

static int remove_source_disks(struct source *s, struct err *err)
{
    char output[400];

    /* Workers may still look at the disks for work: no more. */
    s->wire_bytes_before += stream_bytes_sent(s->stream);
    stream_destroy(s->stream);
    s->stream = NULL;
    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        const char *label = s->guest->disks[i].label;
        const char *const lvremove[] = {"lvremove", "--yes", "-qq", "--", label, NULL};
        int r;

        mirror_source_stats(s->disks[i], &s->disk_results[i]);
        mirror_source_destroy(s->disks[i]); /* it holds the device open */
        s->disks[i] = NULL;
        if (s->guest->disks[i].read_only)
            continue;
        if (strncmp(label, "/dev/", 5) == 0)
            r = run_program(lvremove, output, sizeof(output), err);
        else
            r = unlink(label) < 0 ? err_errno(err, -errno, "removing %s", label) : 0;
        if (r < 0)
            return err_prefix(err, r, "disk %s", s->guest->disks[i].vbd);
    }
    return 0;
}

/* When the guest's clients reached it again: only for the report, and not waited for without end. */
static void hear_settled(struct source *s)
{
    struct record record;
    json_t *message;
    double settle_ms;

    s->times.settled = s->times.running;
    if (!s->connected || s->control.broken)
        return;
    if (control_hear(&s->control, clock_now() + SETTLE_WAIT, &record, NULL) < 0 || record.type != WIRE_SETTLED ||
        control_parse(&record, &message, NULL) < 0)
        return;
    settle_ms = json_number_value(json_object_get(message, "settle_ms"));
    if (settle_ms > 0 && settle_ms < SETTLE_MAX) /* a peer's word: more is no time, and no number of nanoseconds */
        s->times.settled += (uint64_t)(settle_ms * (double)NS_PER_MS);
    json_decref(message);
}

/* The target keeps what it must answer about us until it hears this. Without an answer recovery says it again. */
static bool say_forget(struct source *s)
{
    struct record record = {0};
    int r;

    if (!s->connected || s->control.broken)
        return ask_forget(s->config->identity, &s->journal.entry, ASK_TIMEOUT, NULL) == 0;
    r = control_send(&s->control, WIRE_FORGET, json_object(), NULL);
    if (r == 0)
        r = control_hear(&s->control, clock_now() + FORGET_WAIT, &record, NULL);
    return r == 0 && record.type == WIRE_ANSWER;
}

/* Only an end that has noted for good whose the guest is lets the other one forget. */
static void close_journal(struct source *s)
{
    struct err late;

    if (say_forget(s)) {
        if (journal_remove(&s->journal, &late) < 0)
            log_warn(AREA, "%s", late.text);
        return;
    }
    log_info(AREA, "the guest runs at %s, which has not said that it need not remember it: xmotion recover %.8s tells it once more",
             s->config->address, s->id);
    if (journal_advance(&s->journal, OUTGOING_LEFT, &late) < 0)
        log_warn(AREA, "%s", late.text);
}

static enum source_outcome moved(struct source *s, struct err *err)
{
    int r = journal_advance(&s->journal, OUTGOING_DONE, err);

    if (r == 0)
        r = s->hv->ops->destroy(s->hv, err);
    if (r == 0)
        r = fault_point("source.destroyed", err);
    hear_settled(s);
    if (r == 0 && s->config->remove_source_disks)
        r = remove_source_disks(s, err);
    else if (r == 0)
        recover_mark_disks(&s->journal.entry);
    if (r == 0)
        close_journal(s);
    if (r < 0) {
        (void)err_prefix(err, r, "the guest runs at %s, but something is left here", s->config->address);
        return SOURCE_MOVED_UNCLEAN;
    }
    return SOURCE_MOVED;
}

static enum source_outcome unknown(struct source *s, struct err *err)
{
    char why[200];

    (void)snprintf(why, sizeof(why), "%.190s", err->text);
    (void)err_set(err, -ENOTRECOVERABLE,
                  "GO was sent to %s and no answer came (%s): the guest runs there, or nowhere. It is kept suspended here; xmotion recover %.8s asks again",
                  s->config->address, why, s->id);
    return SOURCE_UNKNOWN;
}

/* After GO only the target knows. It is asked until it answers, --reconnect-for has passed, or somebody has enough of it. */
static enum source_outcome ask(struct source *s, struct err *err)
{
    uint64_t give_up = clock_now() + s->config->reconnect_ns;
    struct err why = *err;
    uint64_t wait = ASK_FIRST;
    uint64_t timeout = ASK_TIMEOUT;
    bool here;

    source_disconnect(s);
    stream_halt(s->stream); /* the target does not answer before all connections have ended */
    source_set_phase(s, "asking");
    for (;;) {
        if (ask_whose(s->config->identity, &s->journal.entry, timeout, &here, NULL) == 0)
            break;
        if (clock_now() + wait > give_up || source_cancelled(s))
            return unknown(s, err);
        for (uint64_t until = clock_now() + wait; clock_now() < until && !source_cancelled(s);) {
            job_work(s->job);
            loop_turn(s->loop, TURN);
        }
        wait = MIN(wait * 2, ASK_LONGEST);
        timeout = MIN(timeout * 3 / 2, 2 * ASK_LONGEST);
    }
    if (!here)
        return undo(s, &why, err);
    s->state = SW_DONE;
    s->times.running = clock_now();
    return moved(s, err);
}

/* Runs however it ended, so that who was stopped can go on: here or there, $XMOTION_OUTCOME tells. */
static enum source_outcome run_go_command(struct source *s, enum source_outcome outcome, struct err *err)
{
    const char *told = outcome == SOURCE_MOVED ? "XMOTION_OUTCOME=moved" : "XMOTION_OUTCOME=failed";
    struct err failed;

    if (!s->config->go_command || !s->times.suspend_begin || run_shell(s->config->go_command, told, &failed) == 0)
        return outcome;
    if (outcome != SOURCE_MOVED)
        return outcome;
    *err = failed;
    (void)err_prefix(err, err->code, "the disks have moved, but --go-command");
    return SOURCE_MOVED_UNCLEAN;
}

/* A guest that ends by itself takes its disks with it, and what is read of them fails before anybody says why. -ESRCH: it has ended.
 * One that runs is given a moment to be heard of; one that we hold still does not end. */
static int hear_end(struct source *s, int failure, struct err *err)
{
    bool local = failure != -ECANCELED && failure != -EREMOTEIO && !source_link_is_lost(s);
    uint64_t give_up = clock_now() + (local && s->disks_begun && !s->times.suspend_begin ? END_WAIT : 0);
    int r;

    while ((r = source_serve_hv(s, err)) == 0 && clock_now() < give_up)
        clock_sleep(10 * NS_PER_MS);
    return r;
}

enum source_outcome source_conclude(struct source *s, int r, struct err *err)
{
    enum source_outcome outcome;

    if (s->state == SW_DONE) {
        struct err why = *err;

        outcome = moved(s, err);
        if (r < 0 && outcome == SOURCE_MOVED) {
            *err = why;
            outcome = SOURCE_MOVED_UNCLEAN;
        }
    } else {
        bool begun = s->state != SW_START;
        struct err gone;
        struct err why;

        if (s->hv && s->state < SW_GO && hear_end(s, r, &gone) == -ESRCH) {
            *err = gone;
            r = gone.code;
        }
        why = *err;
        if (source_feed(s, event_of(s, r)) == SW_ASK_PERSON)
            outcome = ask(s, err);
        else
            outcome = undo(s, &why, err);
        if (outcome == SOURCE_FAILED && !begun)
            outcome = SOURCE_REFUSED;
    }
    return run_go_command(s, outcome, err);
}
