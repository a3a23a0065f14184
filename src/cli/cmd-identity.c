/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"

#include <stdio.h>

struct trust_options {
    const char *fingerprint;
    const char *comment;
    bool replace;
};

static int take_fingerprint(void *data, const char *value, struct err *err)
{
    (void)err;
    ((struct trust_options *)data)->fingerprint = value;
    return 0;
}

static int take_comment(void *data, const char *value, struct err *err)
{
    (void)err;
    ((struct trust_options *)data)->comment = value;
    return 0;
}

static int take_replace(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct trust_options *)data)->replace = true;
    return 0;
}

static const struct option_spec identity_specs[] = {{0}};
static const struct option_spec trust_specs[] = {
    {"fingerprint", "FP", "trust it only if it shows this (see xmotion identity there)", take_fingerprint},
    {"replace", NULL, "forget the certificate that was trusted for this host before", take_replace},
    {0},
};
static const struct option_spec authorize_specs[] = {
    {"comment", "TEXT", "whose fingerprint it is", take_comment},
    {0},
};

/* Options, `expected` arguments, and this host's identity. Non-zero: the exit code. */
static int begin(struct cli *cli, const struct command *command, const struct option_spec *specs, struct trust_options *o,
                 int expected, int argc, char **argv, struct identity **ret_id)
{
    struct err err;
    int count;

    if (options_parse(command, specs, o, argc, argv, &count, &err) < 0)
        return fail(EXIT_USAGE, &err);
    if (count != expected) {
        (void)err_set(&err, -EINVAL, "expected: xmotion %s %s", command->name, command->arguments);
        return fail(EXIT_USAGE, &err);
    }
    return identity_load(ret_id, &cli->identity, &err) < 0 ? fail(EXIT_USAGE, &err) : 0;
}

static int run_identity(struct cli *cli, int argc, char **argv)
{
    struct trust_options o = {0};
    struct identity *id;
    int code = begin(cli, &command_identity, identity_specs, &o, 0, argc, argv, &id);

    if (code)
        return code;
    (void)printf("%s\n", identity_fingerprint(id));
    identity_destroy(id);
    return 0;
}

const struct command command_identity = {"identity", "", "print this host's fingerprint", run_identity};

static int run_trust(struct cli *cli, int argc, char **argv)
{
    char fingerprint[IDENTITY_FINGERPRINT_LEN + 1];
    struct trust_options o = {0};
    struct identity *id;
    struct err err;
    int code = begin(cli, &command_trust, trust_specs, &o, 1, argc, argv, &id);

    if (code)
        return code;
    if (identity_trust(id, argv[1], o.fingerprint, o.replace, fingerprint, &err) < 0) {
        code = fail(1, &err);
    } else {
        (void)printf("%s is trusted from now on: %s\n", argv[1], fingerprint);
        if (!o.fingerprint)
            (void)printf("Compare it with what `xmotion identity` prints there.\n");
    }
    identity_destroy(id);
    return code;
}

const struct command command_trust = {"trust", "HOST[:PORT] [--fingerprint FP] [--replace]",
                                      "believe a receiver's certificate from now on", run_trust};

static int run_authorize(struct cli *cli, int argc, char **argv)
{
    struct trust_options o = {0};
    struct identity *id;
    struct err err;
    int code = begin(cli, &command_authorize, authorize_specs, &o, 1, argc, argv, &id);

    if (code)
        return code;
    if (identity_authorize(id, argv[1], o.comment, &err) < 0)
        code = fail(EXIT_USAGE, &err);
    else
        (void)printf("%s may send guests here from now on\n", argv[1]);
    identity_destroy(id);
    return code;
}

const struct command command_authorize = {"authorize", "FINGERPRINT [--comment TEXT]",
                                          "let a sender with this fingerprint in", run_authorize};
