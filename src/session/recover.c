/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/recover.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"
#include "hv/hv-recover.h"
#include "mirror/volume-left.h"
#include "session/ask.h"
#include "session/released.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AREA        "session.recover"
#define ASK_TIMEOUT (10 * NS_PER_SEC)
#define STEPS_MAX   16 /* a settled migration takes at most five */

struct run {
    const struct recover_config *config;
    struct recover_count count;
    struct journal *journal;
    enum recover_answer answer;
    bool asked; /* target: the sender waits for an answer */
    char text[sizeof(((struct err *)0)->text)];
};

/* -- what is here -- */

static bool is_disk(const struct journal_entry *e)
{
    return strcmp(e->kind, "none") == 0;
}

static bool same_boot(const struct journal_entry *e)
{
    char boot[40];

    journal_boot(boot);
    return strcmp(boot, e->boot) == 0;
}

static int look(const struct journal_entry *e, enum recover_found *ret, struct err *err)
{
    struct hv_found found = {0};
    int r;

    if (is_disk(e)) {
        *ret = e->side == JOURNAL_OUTGOING ? recover_source_found_disk((enum outgoing_phase)e->phase)
                                           : recover_target_found_disk((enum incoming_phase)e->phase);
        return 0;
    }
    r = hv_recover_find(&found, e->kind, e->name, e->uuid, err);
    if (r < 0)
        return r;
    if (found.running)
        *ret = FOUND_RUNNING;
    else if (found.still)
        *ret = FOUND_STILL;
    else if (found.aside)
        *ret = FOUND_ASIDE;
    else
        *ret = found.incoming ? FOUND_INCOMING : FOUND_ABSENT;
    return 0;
}

static int start_anew(const struct journal_entry *e, struct err *err)
{
    const json_t *config = json_object_get(e->guest, "config");
    const char *paths[HV_DISKS_MAX];

    for (unsigned int i = 0; i < e->volume_count; i++)
        paths[i] = e->volumes[i].path;
    return hv_recover_start(e->kind, e->name, config, paths, e->volume_count, err);
}

void recover_mark_disks(const struct journal_entry *e)
{
    const json_t *disks = json_object_get(e->guest, "disks");
    struct err late;

    for (unsigned int i = 0; i < e->volume_count; i++) {
        bool read_only = json_is_true(json_object_get(json_array_get(disks, i), "read_only"));

        if (!read_only && e->volumes[i].path[0] == '/' && volume_left_mark(e->volumes[i].path, e->uuid, &late) < 0)
            log_info(AREA, "%s", late.text);
    }
}

void recover_unmark_disks(const struct journal_entry *e)
{
    for (unsigned int i = 0; i < e->volume_count; i++) {
        if (e->volumes[i].kind == VOLUME_EXISTING)
            volume_left_unmark(e->volumes[i].path);
    }
}

static int undo(struct journal *j, struct err *err)
{
    const struct journal_entry *e = &j->entry;
    int r = hv_recover_destroy_incoming(e->kind, e->name, e->uuid, err);

    for (unsigned int i = 0; r == 0 && i < e->volume_count; i++)
        r = volume_remove(&e->volumes[i], e->session, err);
    if (r == 0)
        r = journal_remove(j, err);
    if (r == 0)
        released_unmark(e->session);
    return r;
}

/* -- one action -- */

static int ask_receiver(struct run *run, struct err *err)
{
    bool here = false;
    int r = ask_whose(run->config->identity, &run->journal->entry, ASK_TIMEOUT, &here, err);

    run->answer = here ? ANSWER_HERE : ANSWER_GONE;
    if (r < 0) {
        run->answer = ANSWER_NONE;
        (void)snprintf(run->text, sizeof(run->text), "%s", err->text);
    }
    return 0;
}

static int tell_to_forget(struct run *run, struct err *err)
{
    int r = ask_forget(run->config->identity, &run->journal->entry, ASK_TIMEOUT, err);

    run->answer = r < 0 ? ANSWER_NONE : ANSWER_GONE;
    if (r < 0)
        (void)snprintf(run->text, sizeof(run->text), "%s", err->text);
    return 0;
}

static int note_phase(struct run *run, int phase, struct err *err)
{
    run->answer = ANSWER_NOT_ASKED; /* it was about the phase before */
    if (run->journal->entry.side == JOURNAL_INCOMING && phase == INCOMING_RUN)
        journal_boot(run->journal->entry.boot);
    return journal_advance(run->journal, phase, err);
}

static int run_incoming(const struct journal_entry *e, struct err *err)
{
    int r = released_mark(e->session, err);

    return r == 0 ? hv_recover_resume(e->kind, e->name, e->uuid, err) : r;
}

/* A guest that runs: what a killed helper or agent left on is undone, and it has a monitor. */
static int see_to(const struct journal_entry *e, struct err *err)
{
    int r = hv_recover_resume(e->kind, e->name, e->uuid, err);

    return r == -ENOENT ? 0 : r;
}

/* 0: done, look again. */
static int act(struct run *run, enum recover_action action, struct err *err)
{
    const struct journal_entry *e = &run->journal->entry;
    int r = 0;

    switch (action) {
    case RECOVER_ASK:
        return ask_receiver(run, err);
    case RECOVER_FORGET:
        return tell_to_forget(run, err);
    case RECOVER_RESUME:
        return hv_recover_resume(e->kind, e->name, e->uuid, err);
    case RECOVER_DESTROY_ASIDE:
        r = hv_recover_destroy_aside(e->kind, e->name, e->uuid, err);
        if (r == 0)
            recover_mark_disks(e);
        return r;
    case RECOVER_START_ANEW:
        if (e->side == JOURNAL_INCOMING) {
            r = hv_recover_destroy_incoming(e->kind, e->name, e->uuid, err);
            if (r == 0)
                r = released_mark(e->session, err);
        }
        return r == 0 ? start_anew(e, err) : r;
    case RECOVER_NOTE_BEGUN:
        return note_phase(run, OUTGOING_BEGUN, err);
    case RECOVER_NOTE_DONE:
        return note_phase(run, OUTGOING_DONE, err);
    case RECOVER_NOTE_BACK:
        r = see_to(e, err);
        return r == 0 ? note_phase(run, OUTGOING_BACK, err) : r;
    case RECOVER_NOTE_LEFT:
        return note_phase(run, e->side == JOURNAL_OUTGOING ? (int)OUTGOING_LEFT : (int)INCOMING_LEFT, err);
    case RECOVER_RUN:
        return run_incoming(e, err);
    case RECOVER_DESTROY_INCOMING:
        return hv_recover_destroy_incoming(e->kind, e->name, e->uuid, err);
    case RECOVER_NOTE_PREPARE:
        return note_phase(run, INCOMING_PREPARE, err);
    case RECOVER_NOTE_RUN:
        r = note_phase(run, INCOMING_RUN, err);
        if (r == 0)
            recover_unmark_disks(e);
        return r;
    case RECOVER_LATER:
        return e->side == JOURNAL_INCOMING && e->phase == INCOMING_RUN ? see_to(e, err) : 0;
    case RECOVER_FINISH:
    case RECOVER_CONFLICT:
    case RECOVER_UNDECIDED:
    case RECOVER_UNDO:
    case RECOVER_ACTION_COUNT:
        break;
    }
    return 0;
}

static bool is_last(enum recover_action action)
{
    return action == RECOVER_FINISH || action == RECOVER_LATER || action == RECOVER_CONFLICT || action == RECOVER_UNDECIDED ||
           action == RECOVER_UNDO;
}

static bool is_resumable(const struct run *run)
{
    const struct journal_entry *e = &run->journal->entry;

    return run->config->resumable_since && e->phase == INCOMING_PREPARED && e->reconnect_s &&
           clock_now() < run->config->resumable_since + e->reconnect_s * NS_PER_SEC;
}

static int next_action(const struct run *run, enum recover_action *ret, enum recover_answer *ret_answer, struct err *err)
{
    const struct journal_entry *e = &run->journal->entry;
    enum recover_found found;
    int r = look(e, &found, err);

    if (r < 0)
        return r;
    if (e->side == JOURNAL_OUTGOING) {
        struct recover_source in = {.phase = (enum outgoing_phase)e->phase,
                                    .same_boot = same_boot(e),
                                    .found = found,
                                    .answer = run->answer,
                                    .choice = run->config->choice};

        *ret = recover_source_next(&in);
    } else {
        struct recover_target in = {.phase = (enum incoming_phase)e->phase,
                                    .same_boot = same_boot(e),
                                    .released = released_is_marked(e->session),
                                    .found = found,
                                    .resumable = is_resumable(run),
                                    .asked = run->asked};

        *ret = recover_target_next(&in);
        *ret_answer = recover_target_answer(&in);
    }
    log_debug(AREA, "%.8s, %s %s, found %d, answer %d: %s", e->session, e->name, journal_phase_name(e), (int)found,
              (int)run->answer, recover_action_name(*ret));
    return 0;
}

/* Until an action that ends. *ret_here: of a target, whose the guest is. */
static int settle(struct run *run, enum recover_action *ret_last, bool *ret_here, struct err *err)
{
    for (unsigned int i = 0; i < STEPS_MAX; i++) {
        enum recover_answer answer = ANSWER_NONE;
        int r = next_action(run, ret_last, &answer, err);

        if (r == 0)
            r = act(run, *ret_last, err);
        if (r < 0)
            return r;
        *ret_here = answer == ANSWER_HERE;
        if (*ret_last == RECOVER_UNDO)
            return undo(run->journal, err);
        if (*ret_last == RECOVER_FINISH) {
            released_unmark(run->journal->entry.session);
            return journal_remove(run->journal, err);
        }
        if (is_last(*ret_last))
            return 0;
    }
    return err_set(err, -ELOOP, "recovery comes to no end in phase %s", journal_phase_name(&run->journal->entry));
}

/* -- all of them -- */

static const char *sentence(const struct journal_entry *e, int first_phase, enum recover_action last)
{
    bool incoming = e->side == JOURNAL_INCOMING;

    switch (last) {
    case RECOVER_UNDO:
        return "it did not come: what was made for it here is removed, the guest is its sender's";
    case RECOVER_FINISH:
        if (first_phase == OUTGOING_DONE || first_phase == OUTGOING_LEFT || e->phase == OUTGOING_LEFT)
            return "it has moved: the guest is the receiver's, nothing of it is left here";
        return "it did not move: the guest is here, nothing of it is left at the receiver";
    case RECOVER_LATER:
        if (incoming && (e->phase == INCOMING_RUN || e->phase == INCOMING_LEFT))
            return "it came: the guest is ours; its sender has not asked yet";
        if (incoming)
            return "its disks wait for its sender to come back";
        return e->phase == OUTGOING_LEFT ? "it has moved; the receiver is still to be told that we know"
                                         : "it did not move: the guest is here; the receiver is still to be told to undo its part";
    case RECOVER_UNDECIDED:
        return "undecided: GO was sent, and the receiver does not answer";
    default:
        return "what is found here cannot be: look at both hosts before you start or destroy anything";
    }
}

static void note_result(struct run *run, int first_phase, enum recover_action last, int r, const struct err *err)
{
    const struct journal_entry *e = &run->journal->entry;
    char text[1200];

    if (r < 0 || last == RECOVER_CONFLICT)
        run->count.failed++;
    else if (last == RECOVER_UNDECIDED)
        run->count.undecided++;
    else if (last == RECOVER_LATER)
        run->count.later++;
    else
        run->count.settled++;
    if (r < 0)
        (void)snprintf(text, sizeof(text), "%s", err->text);
    else if (run->text[0] && (last == RECOVER_UNDECIDED || last == RECOVER_LATER))
        (void)snprintf(text, sizeof(text), "%s (%s)", sentence(e, first_phase, last), run->text);
    else
        (void)snprintf(text, sizeof(text), "%s", sentence(e, first_phase, last));
    if (run->config->report)
        run->config->report(run->config->data, e, r == 0 && (last == RECOVER_FINISH || last == RECOVER_UNDO), text);
}

static bool is_wanted(const struct recover_config *c, const struct journal_entry *e)
{
    size_t len = c->only ? strlen(c->only) : 0;

    if (c->uuid && strcmp(c->uuid, e->uuid) != 0)
        return false;
    return !c->only || strcmp(c->only, e->name) == 0 || (len >= 4 && strncmp(c->only, e->session, len) == 0);
}

static void one(const struct journal_entry *found, void *data)
{
    struct run *run = data;
    struct journal j;
    struct err err = {0};
    enum recover_action last = RECOVER_LATER;
    bool here;
    int first_phase;
    int r;

    if (run->config->again && found->side == JOURNAL_INCOMING && recover_may_forget((enum incoming_phase)found->phase))
        return;
    if (!is_wanted(run->config, found))
        return;
    r = journal_open(&j, run->config->state_dir, found->side, found->session, &err);
    if (r == -EBUSY) {
        run->count.busy++;
        return;
    }
    if (r < 0) {
        run->count.failed++;
        if (run->config->report)
            run->config->report(run->config->data, found, false, err.text);
        return;
    }
    /* Only now it is nobody else's: read again. */
    if (journal_load(run->config->state_dir, found->side, found->session, &j.entry, &err) < 0) {
        journal_close(&j);
        return;
    }
    j.written = true;
    run->journal = &j;
    run->answer = ANSWER_NOT_ASKED;
    run->text[0] = '\0';
    first_phase = j.entry.phase;
    r = settle(run, &last, &here, &err);
    note_result(run, first_phase, last, r, &err);
    journal_close(&j);
}

int recover_run(const struct recover_config *config, struct recover_count *ret, struct err *err)
{
    struct run run = {.config = config};
    unsigned int torn = 0;
    unsigned int torn_in = 0;
    int r = config->outgoing ? journal_each(config->state_dir, JOURNAL_OUTGOING, one, &run, &torn, err) : 0;

    if (r == 0 && config->incoming)
        r = journal_each(config->state_dir, JOURNAL_INCOMING, one, &run, &torn_in, err);
    run.count.failed += torn + torn_in;
    *ret = run.count;
    return r;
}

/* -- before the next migration of a guest -- */

struct before {
    const struct recover_config *config;
    const char *kind, *uuid;
    struct journal_entry in_the_way; /* session[0] 0: none */
};

/* Settled, it says run: then that it is over, lest a power cut start the guest here once more. False: somebody is at it. */
static bool note_left(const struct before *b, const struct journal_entry *found)
{
    struct run run = {.config = b->config};
    enum recover_action last;
    struct journal j;
    bool here;
    int r = journal_open(&j, b->config->state_dir, JOURNAL_INCOMING, found->session, NULL);

    if (r < 0)
        return false;
    r = journal_load(b->config->state_dir, JOURNAL_INCOMING, found->session, &j.entry, NULL);
    j.written = r == 0;
    run.journal = &j;
    if (r == 0)
        r = settle(&run, &last, &here, NULL);
    if (r == 0 && j.written && j.entry.phase == INCOMING_RUN)
        r = journal_advance(&j, INCOMING_LEFT, NULL);
    journal_close(&j);
    return r == 0 || r == -ENOENT;
}

static void look_before(const struct journal_entry *e, void *data)
{
    struct before *b = data;

    if (is_disk(e) || strcmp(e->kind, b->kind) != 0 || strcmp(e->uuid, b->uuid) != 0)
        return;
    if (e->side == JOURNAL_INCOMING ? (e->phase == INCOMING_GO || e->phase == INCOMING_RUN) && !note_left(b, e)
                                    : !recover_settled((enum outgoing_phase)e->phase)) {
        b->in_the_way = *e;
        b->in_the_way.guest = NULL;
    }
}

int recover_before(const char *state_dir, const struct identity *identity, const char *kind, const char *uuid, struct err *err)
{
    struct recover_config config = {.state_dir = state_dir, .identity = identity, .outgoing = true, .uuid = uuid};
    struct before b = {.config = &config, .kind = kind, .uuid = uuid};
    struct recover_count count;
    int r = recover_run(&config, &count, err);

    if (r == 0)
        r = journal_each(state_dir, JOURNAL_OUTGOING, look_before, &b, NULL, err);
    if (r == 0)
        r = journal_each(state_dir, JOURNAL_INCOMING, look_before, &b, NULL, err);
    if (r == 0 && b.in_the_way.session[0])
        return err_set(err, -EBUSY, "an earlier migration of this guest (%.8s) has not come to its end: see xmotion list and xmotion recover",
                       b.in_the_way.session);
    return r;
}

/* -- asked by a sender -- */

/* The journal of one session that no live process has. -ENOENT: there is none. */
static int take(struct journal *j, const char *state_dir, const char *session, const char *fingerprint, struct err *err)
{
    int r = journal_open(j, state_dir, JOURNAL_INCOMING, session, err);

    if (r < 0)
        return r;
    r = journal_load(state_dir, JOURNAL_INCOMING, session, &j->entry, err);
    j->written = r == 0 || r == -EBADMSG; /* then the lock file stays with it */
    if (r == 0 && strcmp(j->entry.peer, fingerprint) != 0)
        r = err_set(err, -EACCES, "this migration is another sender's");
    if (r < 0)
        journal_close(j);
    return r;
}

/* No journal means that nothing of it is here; whether the guest itself is here by some other way is looked at all the same. */
static int answer_without(const struct journal_entry *asked, bool *ret_here, struct err *err)
{
    enum recover_found found = FOUND_ABSENT;
    int r = is_disk(asked) ? 0 : look(asked, &found, err);

    *ret_here = found == FOUND_RUNNING;
    return r;
}

int recover_answer(const char *state_dir, const char *session, const char *fingerprint, const struct journal_entry *asked,
                   bool *ret_here, struct err *err)
{
    struct recover_config config = {.state_dir = state_dir};
    struct run run = {.config = &config, .asked = true};
    enum recover_action last;
    struct journal j;
    int r = take(&j, state_dir, session, fingerprint, err);

    if (r == -ENOENT)
        return answer_without(asked, ret_here, err);
    if (r < 0)
        return r;
    run.journal = &j;
    r = settle(&run, &last, ret_here, err);
    if (r == 0 && last == RECOVER_CONFLICT)
        r = err_set(err, -EBUSY, "what is found here cannot be: a person must look");
    journal_close(&j);
    return r;
}

int recover_forget(const char *state_dir, const char *session, const char *fingerprint, struct err *err)
{
    struct journal j;
    int r = take(&j, state_dir, session, fingerprint, err);

    if (r == -ENOENT)
        return 0;
    if (r < 0)
        return r;
    if (!recover_may_forget((enum incoming_phase)j.entry.phase))
        r = err_set(err, -EPROTO, "FORGET of a migration in phase %s, expected one that came", journal_phase_name(&j.entry));
    else
        r = journal_remove(&j, err);
    if (r == 0)
        released_unmark(session);
    journal_close(&j);
    return r;
}

/* -- shown -- */

struct listing {
    const char *state_dir;
    json_t *to;
};

static void list_one(const struct journal_entry *e, void *data)
{
    struct listing *l = data;

    if (journal_is_owned(l->state_dir, e) || (e->side == JOURNAL_INCOMING && recover_may_forget((enum incoming_phase)e->phase)))
        return;
    (void)json_array_append_new(
        l->to, json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", e->session, "role",
                         e->side == JOURNAL_OUTGOING ? "source" : "target", "guest", e->name, "peer", e->peer, "phase",
                         e->side == JOURNAL_OUTGOING && e->phase == OUTGOING_COMMIT ? "undecided" : "unfinished"));
}

int recover_list(const char *state_dir, json_t *append_to, struct err *err)
{
    struct listing l = {.state_dir = state_dir, .to = append_to};
    int r = journal_each(state_dir, JOURNAL_OUTGOING, list_one, &l, NULL, err);

    return r == 0 ? journal_each(state_dir, JOURNAL_INCOMING, list_one, &l, NULL, err) : r;
}
