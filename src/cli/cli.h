/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the subcommands share: options with units, one sentence for every mistake, exit codes. */
#ifndef XMOTION_CLI_H
#define XMOTION_CLI_H

#include "base/err.h"
#include "transport/identity.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define EXIT_USAGE 2
#define DEFAULT_DELTA_CACHE (UINT64_C(64) << 20) /* at either end */

/* Options of every subcommand, taken out of argv before it sees them. */
struct cli {
    struct identity_config identity;
};

struct command {
    const char *name;
    const char *arguments; /* one line for the help */
    const char *summary;
    int (*run)(struct cli *cli, int argc, char **argv);
};

extern const struct command command_send, command_recv, command_check, command_list, command_cancel, command_recover,
    command_identity, command_trust, command_authorize, command_guest;

/* An option table ends with a NULL name. `take` gets the value (NULL for a flag). */
struct option_spec {
    const char *name; /* without "--" */
    const char *value; /* "SIZE", NULL: a flag */
    const char *help;
    int (*take)(void *data, const char *value, struct err *err);
};

/* Parses "--name value", "--name=value" and flags; the rest is moved to the front of argv (after argv[0]) and counted in
 * *ret_count. "--" ends options. -EINVAL with a sentence. Prints help and exits for --help. */
int options_parse(const struct command *command, const struct option_spec *specs, void *data, int argc, char **argv,
                  int *ret_count, struct err *err);

/* "256M", "1G", "4096", "1.5G": octets; units K M G T of 1024. "300ms", "5s", "1h", "10m": nanoseconds. */
int parse_size(const char *text, uint64_t *ret, struct err *err);
int parse_time(const char *text, uint64_t *ret_ns, struct err *err);
int parse_count(const char *text, uint64_t most, uint64_t *ret, struct err *err);

/* Prints "xmotion: SENTENCE" on standard error and returns `code`. */
int fail(int code, const struct err *err);

/* The state folder that --state-dir, the environment or the default name. */
const char *state_dir(const struct cli *cli);

/* progress.c: renders session events for a person (bars on a terminal, plain lines else) or as JSON lines. */
struct progress {
    bool json;
    bool quiet;
    bool terminal;
    int lines; /* drawn on the terminal, to be drawn over */
    uint64_t last_ns;
    uint64_t last_bytes;
    double rate; /* octets a second, smoothed */
};

void progress_init(struct progress *p, bool json, bool quiet);
void progress_event(void *progress, const json_t *event);

#endif
