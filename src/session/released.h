/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The mark that an incoming guest was let go: an empty file in the run folder, gone after a reboot (docs/switchover.md, "Released"). */
#ifndef XMOTION_SESSION_RELEASED_H
#define XMOTION_SESSION_RELEASED_H

#include "base/err.h"

#include <stdbool.h>

#define RELEASED_PATH_MAX 4200

/* Where the session's mark is; its folder is made. */
int released_path(char ret[RELEASED_PATH_MAX], const char *session, struct err *err);
int released_mark(const char *session, struct err *err);
void released_unmark(const char *session);
bool released_is_marked(const char *session);

#endif
