/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One JSON object a message over a SOCK_SEQPACKET socket, with a file descriptor where one goes along: how the
 * hypervisor seam talks to its agents (xmotion-xen, the embedded guest's process). Agents are ours and local, but a
 * message is still checked. */
#ifndef XMOTION_HV_AGENT_H
#define XMOTION_HV_AGENT_H

#include "base/err.h"

#include <jansson.h>

#define AGENT_MESSAGE_MAX 262144u

/* Sends one message; `fd` -1: none goes along. `message` is not taken over. */
int agent_send(int sock, const json_t *message, int fd, struct err *err);

/* Receives one. Waits at most `timeout_ms` (-1: for ever, 0: -EAGAIN at once). *ret_fd is -1 when none came along;
 * with ret_fd NULL one that comes is closed. -ECONNRESET: the agent is gone. The caller frees with json_decref. */
int agent_recv(int sock, int timeout_ms, json_t **ret, int *ret_fd, struct err *err);

/* A message {"error": TEXT, "errno": N} becomes an error; any other returns 0. */
int agent_error(const json_t *message, struct err *err);

#endif
