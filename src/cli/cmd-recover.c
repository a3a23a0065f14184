/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"

#include "session/recover.h"

#include <stdio.h>

#define EXIT_FAILED    1
#define EXIT_UNDECIDED 5

struct recover_options {
    struct recover_config config;
    bool here, there;
};

static int take_here(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct recover_options *)data)->here = true;
    return 0;
}

static int take_there(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct recover_options *)data)->there = true;
    return 0;
}

static const struct option_spec specs[] = {
    {"guest-is-here", NULL, "decide an undecided one: the guest does not run at the receiver, and never will", take_here},
    {"guest-is-there", NULL, "decide an undecided one: the guest runs at the receiver", take_there},
    {0},
};

static void print_one(void *data, const struct journal_entry *e, bool ended, const char *text)
{
    (void)data, (void)ended;
    (void)printf("%.8s %s %s %s: %s\n", e->session, e->name, e->side == JOURNAL_OUTGOING ? "to" : "from",
                 e->side == JOURNAL_OUTGOING ? e->peer : "its sender", text);
}

static int check_usage(const struct recover_options *o, int count, struct err *err)
{
    if (count > 1)
        return err_set(err, -EINVAL, "expected one migration at most: xmotion recover [ID|GUEST]");
    if (o->here && o->there)
        return err_set(err, -EINVAL, "--guest-is-here and --guest-is-there contradict each other");
    if ((o->here || o->there) && count == 0)
        return err_set(err, -EINVAL, "whose guest? Name the migration: xmotion recover ID %s",
                       o->here ? "--guest-is-here" : "--guest-is-there");
    return 0;
}

static int report_count(const struct recover_count *n)
{
    struct err err;

    if (n->busy)
        (void)printf("%u under way, or just being brought to an end by another process: xmotion list\n", n->busy);
    else if (n->settled + n->undecided + n->later + n->failed == 0)
        (void)printf("no migration was left unfinished on this host\n");
    if (n->failed) {
        (void)err_set(&err, -EIO, "%u could not be brought to an end: see above, and xmotion list", n->failed);
        return fail(EXIT_FAILED, &err);
    }
    if (n->undecided) {
        (void)err_set(&err, -EAGAIN, "%u undecided: look whether the guest runs at the receiver, then say so with --guest-is-here or --guest-is-there",
                      n->undecided);
        return fail(EXIT_UNDECIDED, &err);
    }
    return 0;
}

static int run_recover(struct cli *cli, int argc, char **argv)
{
    struct recover_options o = {.config = {.outgoing = true, .incoming = true, .report = print_one}};
    struct recover_count found = {0};
    struct identity *id = NULL;
    struct err err;
    int count;
    int code;

    if (options_parse(&command_recover, specs, &o, argc, argv, &count, &err) < 0 || check_usage(&o, count, &err) < 0 ||
        identity_load(&id, &cli->identity, &err) < 0)
        return fail(EXIT_USAGE, &err);
    o.config.identity = id;
    o.config.state_dir = state_dir(cli);
    o.config.only = count ? argv[1] : NULL;
    if (o.here || o.there)
        o.config.choice = o.here ? CHOICE_GUEST_IS_HERE : CHOICE_GUEST_IS_THERE;
    code = recover_run(&o.config, &found, &err) < 0 ? fail(EXIT_FAILED, &err) : report_count(&found);
    identity_destroy(id);
    return code;
}

const struct command command_recover = {"recover", "[ID|GUEST] [--guest-is-here|--guest-is-there]",
                                        "bring migrations whose process or host died to their end", run_recover};
