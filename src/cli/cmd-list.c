/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"

#include "session/job.h"
#include "session/recover.h"

#include <stdio.h>
#include <string.h>

static int take_json(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    *(bool *)data = true;
    return 0;
}

static const struct option_spec list_specs[] = {
    {"json", NULL, "as one JSON array", take_json},
    {0},
};

static const char *text(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

static void print_job(const json_t *j)
{
    (void)printf("%-10.8s %-7s %-24s %-12s %.60s\n", text(j, "id"), text(j, "role"), text(j, "guest"), text(j, "phase"),
                 text(j, "peer"));
    if (strcmp(text(j, "phase"), "undecided") == 0)
        (void)printf("           GO was sent and no answer came. If the guest runs at the receiver: xmotion recover %.8s --guest-is-there\n"
                     "           if it does not, and never will:                              xmotion recover %.8s --guest-is-here\n",
                     text(j, "id"), text(j, "id"));
    else if (strcmp(text(j, "phase"), "unfinished") == 0)
        (void)printf("           its process has ended; to bring it to an end: xmotion recover %.8s\n", text(j, "id"));
}

static int run_list(struct cli *cli, int argc, char **argv)
{
    bool json = false;
    struct err err;
    json_t *jobs;
    json_t *j;
    size_t i;
    int count;

    if (options_parse(&command_list, list_specs, &json, argc, argv, &count, &err) < 0)
        return fail(EXIT_USAGE, &err);
    if (job_list(&jobs, &err) < 0 || recover_list(state_dir(cli), jobs, &err) < 0)
        return fail(1, &err);
    if (json) {
        (void)json_dumpf(jobs, stdout, JSON_INDENT(1));
        (void)putchar('\n');
    } else if (json_array_size(jobs) == 0) {
        (void)printf("no migration is under way on this host\n");
    } else {
        (void)printf("%-10s %-7s %-24s %-12s %s\n", "ID", "ROLE", "GUEST", "PHASE", "PEER");
        json_array_foreach(jobs, i, j)
            print_job(j);
    }
    json_decref(jobs);
    return 0;
}

const struct command command_list = {"list", "[--json]", "show the migrations under way on this host", run_list};

static const struct option_spec no_specs[] = {{0}};

static int run_cancel(struct cli *cli, int argc, char **argv)
{
    struct err err;
    int count;

    (void)cli;
    if (options_parse(&command_cancel, no_specs, NULL, argc, argv, &count, &err) < 0)
        return fail(EXIT_USAGE, &err);
    if (count != 1) {
        (void)err_set(&err, -EINVAL, "expected one migration: xmotion cancel ID|GUEST");
        return fail(EXIT_USAGE, &err);
    }
    return job_cancel(argv[1], &err) < 0 ? fail(1, &err) : 0;
}

const struct command command_cancel = {"cancel", "ID|GUEST", "give a migration up; the guest runs on at its source",
                                       run_cancel};
