/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Addresses and TCP sockets under the TLS layer. Inside the room only. */
#ifndef XMOTION_TRANSPORT_CONN_SOCKET_H
#define XMOTION_TRANSPORT_CONN_SOCKET_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define SOCKET_HOST_MAX 256

struct socket_address {
    char
        host[SOCKET_HOST_MAX]; /* lower case, a v6 literal without brackets, "" for every address */
    char port[8];
};

/* "host", "host:port", "[v6]:port", a bare v6 literal. -EINVAL with what is wrong with it. */
int socket_parse(const char *text, struct socket_address *ret, struct err *err);

/* Connects a non-blocking socket before `deadline` (clock_now). `canonical` is for the messages. */
int socket_connect(const struct socket_address *address, const char *canonical, uint64_t deadline,
                   int *ret_fd, struct err *err);

/* What every connection's socket needs: non-blocking, close-on-exec, no delay, keepalive. */
int socket_prepare(int fd);

/* "host:port" of the other end, numeric. */
void socket_peer_name(int fd, char *ret, size_t size);

/* Waits for `events` on `fd`: 0, or -ETIMEDOUT at `deadline` (UINT64_MAX: never). */
int socket_wait(int fd, short events, uint64_t deadline);

/* clock_now plus `timeout`, UINT64_MAX when that is beyond the end of time. */
uint64_t socket_deadline(uint64_t timeout_ns);

#endif
