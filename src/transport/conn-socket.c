/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names to addresses, and sockets with deadlines. */
#include "transport/conn-socket.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "transport/conn.h"

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <fcntl.h>
#include <inttypes.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define LISTEN_BACKLOG 128

uint64_t socket_deadline(uint64_t timeout_ns)
{
    uint64_t now = clock_now();

    return timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
}

static int poll_timeout_ms(uint64_t deadline)
{
    uint64_t now = clock_now();

    if (deadline == UINT64_MAX)
        return -1;
    if (deadline <= now)
        return 0;
    return (int)MIN(DIV_ROUND_UP(deadline - now, NS_PER_MS), UINT64_C(3600000));
}

int socket_wait(int fd, short events, uint64_t deadline)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = events};
        int n = poll(&p, 1, poll_timeout_ms(deadline));

        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        if (clock_now() >= deadline)
            return -ETIMEDOUT;
    }
}

/* A port in decimal without leading zeroes, so that one port has one spelling. */
static int parse_port(const char *text, char ret[8])
{
    unsigned int port = 0;

    if (!*text || strlen(text) > 5)
        return -EINVAL;
    for (const char *p = text; *p; p++) {
        if (!isdigit((unsigned char)*p))
            return -EINVAL;
        port = port * 10 + (unsigned int)(*p - '0');
    }
    if (port > 65535)
        return -EINVAL;
    (void)snprintf(ret, 8, "%u", port);
    return 0;
}

/* Whether `len` octets are letters, digits and ".-_": safe in a line of `trusted`. */
static bool is_word(const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (!isalnum((unsigned char)text[i]) && !memchr(".-_", text[i], 3))
            return false;
    return true;
}

/* Names become lower case. */
static int parse_name(const char *text, size_t len, char ret[SOCKET_HOST_MAX])
{
    if (len >= SOCKET_HOST_MAX || !is_word(text, len))
        return -EINVAL;
    for (size_t i = 0; i < len; i++)
        ret[i] = (char)tolower((unsigned char)text[i]);
    ret[len] = '\0';
    return 0;
}

/* "ADDRESS" or "ADDRESS%INTERFACE". Spellings of one address become one; interfaces' names are left as they are. */
static int parse_v6(const char *text, size_t len, char ret[SOCKET_HOST_MAX])
{
    const char *scope = memchr(text, '%', len);
    size_t address_len = scope ? (size_t)(scope - text) : len;
    size_t scope_len = len - address_len;
    char address[INET6_ADDRSTRLEN];
    struct in6_addr v6;

    if (address_len >= sizeof(address) || scope_len == 1 || scope_len > IFNAMSIZ ||
        (scope && !is_word(scope + 1, scope_len - 1)))
        return -EINVAL;
    memcpy(address, text, address_len);
    address[address_len] = '\0';
    if (inet_pton(AF_INET6, address, &v6) != 1 || !inet_ntop(AF_INET6, &v6, address, sizeof(address)))
        return -EINVAL;
    (void)snprintf(ret, SOCKET_HOST_MAX, "%s%.*s", address, (int)scope_len, scope ? scope : "");
    return 0;
}

static int split(const char *text, struct socket_address *ret)
{
    const char *colon = strchr(text, ':');
    const char *port = CONN_DEFAULT_PORT;
    size_t len = strlen(text);
    bool is_v6 = false;

    if (text[0] == '[') {
        const char *end = strchr(++text, ']');

        if (!end || (end[1] != '\0' && end[1] != ':'))
            return -EINVAL;
        is_v6 = true;
        len = (size_t)(end - text);
        port = end[1] ? end + 2 : port;
    } else if (colon && strchr(colon + 1, ':')) {
        is_v6 = true; /* two colons without brackets: a v6 literal, no port */
    } else if (colon) {
        len = (size_t)(colon - text);
        port = colon + 1;
    }
    if ((is_v6 ? parse_v6(text, len, ret->host) : parse_name(text, len, ret->host)) < 0)
        return -EINVAL;
    return parse_port(port, ret->port);
}

int socket_parse(const char *text, struct socket_address *ret, struct err *err)
{
    if (split(text ? text : "", ret) < 0)
        return err_set(err, -EINVAL, "'%.100s' is not an address: HOST, HOST:PORT or [V6]:PORT is",
                       text);
    return 0;
}

int conn_canonical_address(const char *address, char ret[CONN_ADDRESS_MAX], struct err *err)
{
    struct socket_address a;
    int r = socket_parse(address, &a, err);

    if (r < 0)
        return r;
    if (!a.host[0] || strcmp(a.port, "0") == 0)
        return err_set(err, -EINVAL, "'%.100s' names no %s to connect to", address,
                       a.host[0] ? "port" : "host");
    (void)snprintf(ret, CONN_ADDRESS_MAX, strchr(a.host, ':') ? "[%s]:%s" : "%s:%s", a.host,
                   a.port);
    return 0;
}

int socket_prepare(int fd)
{
    int flags = fcntl(fd, F_GETFL);
    const int on = 1, idle = 10, interval = 5, count = 4;

    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
        fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
        return -errno;
    /* The rest makes a TCP connection better and is not possible on others (a socketpair in a
     * test). An idle data connection is quiet by right, so a dead peer is found by keepalive after
     * 30 s. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
    return 0;
}

void socket_peer_name(int fd, char *ret, size_t size)
{
    struct sockaddr_storage from;
    socklen_t len = sizeof(from);
    char host[NI_MAXHOST], port[NI_MAXSERV];

    if (getpeername(fd, (struct sockaddr *)&from, &len) < 0 ||
        getnameinfo((struct sockaddr *)&from, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0 ||
        from.ss_family == AF_UNIX)
        (void)snprintf(ret, size, "the peer");
    else
        (void)snprintf(ret, size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

static int connect_one(const struct addrinfo *ai, uint64_t deadline, int *ret_fd)
{
    CLEANUP_CLOSE int fd =
        socket(ai->ai_family, ai->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, ai->ai_protocol);
    int failure = 0;
    socklen_t len = sizeof(failure);
    int r;

    if (fd < 0)
        return -errno;
    r = socket_prepare(fd);
    if (r < 0)
        return r;
    if (connect(fd, ai->ai_addr, ai->ai_addrlen) < 0) {
        if (errno != EINPROGRESS)
            return -errno;
        r = socket_wait(fd, POLLOUT, deadline);
        if (r < 0)
            return r;
        if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &failure, &len) < 0)
            return -errno;
        if (failure)
            return -failure;
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

/* One sentence and what to do about it. */
static int connect_failed(int r, const char *canonical, struct err *err)
{
    switch (r) {
    case -ECONNREFUSED:
        return err_set(err, r, "nothing listens on %s: start `xmotion recv` there", canonical);
    case -ETIMEDOUT:
        return err_set(
            err, r,
            "%s does not answer: is the host up, and does its firewall let this port through?",
            canonical);
    case -EHOSTUNREACH:
    case -ENETUNREACH:
        return err_set(
            err, r, "there is no way to %s from here: check the address, the routes and the cable",
            canonical);
    default:
        return err_errno(err, r, "cannot connect to %s", canonical);
    }
}

/* The name is looked up without a deadline: the C library has none to offer. */
static int look_up(const struct socket_address *address, int flags, struct addrinfo **ret,
                   struct err *err)
{
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = flags};
    int r = getaddrinfo(address->host[0] ? address->host : NULL, address->port, &hints, ret);

    if (r == 0)
        return 0;
    return err_set(err, -EHOSTUNREACH,
                   "there is no host '%s' (%s): check the name, or give its IP address",
                   address->host, r == EAI_SYSTEM ? strerrordesc_np(errno) : gai_strerror(r));
}

/* When one address of a name leads nowhere, the time must do for the others too. */
static uint64_t share_of(uint64_t deadline, unsigned int addresses)
{
    uint64_t now = clock_now();

    assert(addresses > 0);
    return deadline == UINT64_MAX || deadline <= now ? deadline
                                                     : now + (deadline - now) / addresses;
}

int socket_connect(const struct socket_address *address, const char *canonical, uint64_t deadline,
                   int *ret_fd, struct err *err)
{
    struct addrinfo *found;
    unsigned int left = 0;
    int r = look_up(address, 0, &found, err);

    if (r < 0)
        return r;
    for (const struct addrinfo *ai = found; ai; ai = ai->ai_next)
        left++;
    r = -EHOSTUNREACH;
    for (const struct addrinfo *ai = found; ai && r != 0; ai = ai->ai_next)
        r = connect_one(ai, share_of(deadline, left--), ret_fd);
    freeaddrinfo(found);
    return r == 0 ? 0 : connect_failed(r, canonical, err);
}

static int listen_one(const struct addrinfo *ai, int *ret_fd)
{
    CLEANUP_CLOSE int fd = socket(ai->ai_family, ai->ai_socktype | SOCK_CLOEXEC, ai->ai_protocol);
    const int on = 1, off = 0;

    if (fd < 0)
        return -errno;
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    /* One socket serves both families when it is for every address. */
    if (ai->ai_family == AF_INET6)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
        return -errno;
    *ret_fd = take_fd(&fd);
    return 0;
}

/* The families in the order v6, v4: the dual-stack socket must be tried first. */
static int listen_any(const struct addrinfo *found, int *ret_fd)
{
    static const int families[] = {AF_INET6, AF_INET};
    int r = -EADDRNOTAVAIL;

    for (size_t i = 0; i < ARRAY_SIZE(families); i++)
        for (const struct addrinfo *ai = found; ai; ai = ai->ai_next) {
            if (ai->ai_family != families[i])
                continue;
            r = listen_one(ai, ret_fd);
            if (r == 0 || r == -EADDRINUSE)
                return r;
        }
    return r;
}

int conn_listen(const char *address, int *ret_fd, struct err *err)
{
    struct socket_address a;
    struct addrinfo *found;
    int r = socket_parse(address, &a, err);

    if (r == 0)
        r = look_up(&a, AI_PASSIVE, &found, err);
    if (r < 0)
        return r;
    r = listen_any(found, ret_fd);
    freeaddrinfo(found);
    if (r == -EADDRINUSE)
        return err_set(err, r,
                       "port %s is taken already: does another `xmotion recv` run? Choose another "
                       "port otherwise",
                       a.port);
    if (r < 0)
        return err_errno(err, r, "cannot listen on %s port %s",
                         a.host[0] ? a.host : "every address,", a.port);
    return 0;
}
