/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Starting an agent program of ours. */
#ifndef XMOTION_HV_AGENT_SPAWN_H
#define XMOTION_HV_AGENT_SPAWN_H

#include "base/err.h"

/* Runs "PROGRAM --control FD", found in $XMOTION_LIBEXEC_DIR, in the build tree this program runs
 * from, or where it was installed. *ret_sock: our end of the SOCK_SEQPACKET pair, close-on-exec. It
 * is nobody's child: it may outlive us, leaves no zombie, and its end shows as the socket's end.
 * -ENOENT: there is no such program. */
int agent_spawn(const char *program, int *ret_sock, struct err *err);

#endif
