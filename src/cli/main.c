/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"

#include "base/bytes.h"
#include "base/fault.h"
#include "base/log.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct command *const commands[] = {
    &command_send,     &command_recv,  &command_check,     &command_list,  &command_cancel,
    &command_recover, &command_identity, &command_trust, &command_authorize, &command_guest,
};

static void print_usage(void)
{
    (void)printf("xmotion %s: moves running Xen guests with their local disks\n\n", XMOTION_VERSION);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        (void)printf("  xmotion %-10s %s\n", commands[i]->name, commands[i]->summary);
    (void)printf("\nxmotion COMMAND --help tells more; so does man xmotion.\n");
}

/* Options that may stand anywhere: taken out of argv. */
static int take_common(struct cli *cli, int *argc, char **argv, struct err *err)
{
    const struct {
        const char *name;
        const char **to;
    } values[] = {{"--state-dir", &cli->identity.state_dir},
                  {"--ca", &cli->identity.ca},
                  {"--cert", &cli->identity.cert},
                  {"--key", &cli->identity.key}};
    int kept = 1;

    for (int i = 1; i < *argc; i++) {
        size_t len = strcspn(argv[i], "=");
        size_t v;

        if (strcmp(argv[i], "-D") == 0 && i + 1 < *argc) {
            log_enable_area(argv[++i]);
            continue;
        }
        for (v = 0; v < ARRAY_SIZE(values); v++) {
            if (strlen(values[v].name) == len && strncmp(values[v].name, argv[i], len) == 0)
                break;
        }
        if (v == ARRAY_SIZE(values)) {
            argv[kept++] = argv[i];
            continue;
        }
        if (argv[i][len] == '=')
            *values[v].to = argv[i] + len + 1;
        else if (i + 1 < *argc)
            *values[v].to = argv[++i];
        else
            return err_set(err, -EINVAL, "%s needs a value", argv[i]);
    }
    *argc = kept;
    argv[kept] = NULL;
    return 0;
}

int main(int argc, char **argv)
{
    struct cli cli = {0};
    struct err err;

    (void)signal(SIGPIPE, SIG_IGN);
    fault_init();
    if (take_common(&cli, &argc, argv, &err) < 0)
        return fail(EXIT_USAGE, &err);
    if (argc < 2) {
        (void)err_set(&err, -EINVAL, "no command was given: see xmotion --help");
        return fail(EXIT_USAGE, &err);
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_usage();
        return 0;
    }
    if (strcmp(argv[1], "--version") == 0) {
        (void)printf("xmotion %s\n", XMOTION_VERSION);
        return 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(commands[i]->name, argv[1]) == 0)
            return commands[i]->run(&cli, argc - 1, argv + 1);
    }
    (void)err_set(&err, -EINVAL, "there is no command \"%s\": see xmotion --help", argv[1]);
    return fail(EXIT_USAGE, &err);
}
