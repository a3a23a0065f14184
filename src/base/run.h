/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs another program and waits for it. */
#ifndef XMOTION_BASE_RUN_H
#define XMOTION_BASE_RUN_H

#include "base/err.h"

#include <stddef.h>

/* Runs argv[0] (looked up in PATH) with standard input empty; no shell. Output (both streams) is kept, NUL-terminated and cut
 * at `size`. 0: it ended with 0. -ENOENT: there is no such program. -EREMOTEIO: it failed; the error holds its last words. */
int run_program(const char *const *argv, char *output, size_t size, struct err *err);

/* Runs a command line the user gave, by /bin/sh, with NAME=VALUE added to the environment (NULL: nothing). */
int run_shell(const char *command, const char *name_value, struct err *err);

#endif
