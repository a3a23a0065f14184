/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How a migration ends at its source: the guest brought back, or let go. */
#include "session/source-priv.h"

#include "base/clock.h"
#include "base/run.h"

#include <string.h>
#include <unistd.h>

#define TURN        (50 * NS_PER_MS)
#define SETTLE_WAIT (15 * NS_PER_SEC)

static enum switchover_event event_of(const struct source *s, int code)
{
    if (code == -EREMOTEIO)
        return SW_EV_PEER_FAILED;
    if (code == -ECONNRESET || code == -EPIPE || code == -ETIMEDOUT || code == -EPROTO || code == -ENOTCONN)
        return s->state == SW_GO ? SW_EV_PEER_LOST : SW_EV_FAILED;
    return SW_EV_FAILED;
}

static void tell_peer(struct source *s, const struct err *why)
{
    struct record record;
    uint64_t give_up = clock_now() + 5 * NS_PER_SEC;

    if (!s->connected ||
        control_send(&s->control, WIRE_ABORT, json_pack("{s:s}", "text", why->text), NULL) < 0)
        return;
    /* Wait for ABORTED, so that nothing is left at the target when we say so; not for ever. */
    while (clock_now() < give_up) {
        int r = control_next(&s->control, &record, NULL);

        if (r == -EAGAIN)
            loop_turn(s->loop, TURN);
        else if (r < 0 || record.type == WIRE_ABORTED || record.type == WIRE_FAILED)
            return;
    }
}

/* The guest first, then everybody else. */
static enum source_outcome undo(struct source *s, const struct err *why, struct err *err)
{
    struct err undo_err = {0};
    int r = 0;

    source_memory_cancel(s);
    if (s->hv)
        r = s->hv->ops->resume(s->hv, &undo_err);
    tell_peer(s, why);
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
    uint64_t give_up = clock_now() + SETTLE_WAIT;
    struct record record;
    json_t *message;
    int r;

    s->times.settled = s->times.running;
    while ((r = control_next(&s->control, &record, NULL)) == -EAGAIN && clock_now() < give_up)
        loop_turn(s->loop, TURN);
    if (r < 0 || record.type != WIRE_SETTLED || control_parse(&record, &message, NULL) < 0)
        return;
    s->times.settled += (uint64_t)(json_number_value(json_object_get(message, "settle_ms")) * (double)NS_PER_MS);
    json_decref(message);
}

static enum source_outcome moved(struct source *s, struct err *err)
{
    int r = s->hv->ops->destroy(s->hv, err);

    hear_settled(s);
    if (r == 0 && s->config->remove_source_disks)
        r = remove_source_disks(s, err);
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
                  "GO was sent to %s and no answer came (%s): the guest runs there, or nowhere. It is kept suspended here as %s--moved; look at %s before you resume or destroy it",
                  s->config->address, why, s->guest->name, s->config->address);
    return SOURCE_UNKNOWN;
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

enum source_outcome source_conclude(struct source *s, int r, struct err *err)
{
    enum source_outcome outcome;

    if (r == 0) {
        outcome = moved(s, err);
    } else {
        struct err why = *err;
        bool begun = s->state != SW_START;

        if (source_feed(s, event_of(s, r)) == SW_ASK_PERSON)
            outcome = unknown(s, err);
        else
            outcome = undo(s, &why, err);
        if (outcome == SOURCE_FAILED && !begun)
            outcome = SOURCE_REFUSED;
    }
    return run_go_command(s, outcome, err);
}
