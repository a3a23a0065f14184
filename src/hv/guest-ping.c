/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hv/guest-ping.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "hv/guest-heartbeat.h"

#include <assert.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>

/* Answers this long after the last request still count. */
#define LINGER_NS (200 * NS_PER_MS)

struct ping {
    struct guest_ping_result *result;
    int sock;
    uint64_t begin;
    uint64_t last_answer; /* since begin */
};

static int open_socket(const char *host, uint16_t port, int *ret_sock, struct err *err)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_DGRAM};
    struct addrinfo *list;
    char service[8];
    int sock, r;

    (void)snprintf(service, sizeof(service), "%u", port);
    r = getaddrinfo(host, service, &hints, &list);
    if (r)
        return err_set(err, -EHOSTUNREACH, "%s: %s", host, gai_strerror(r));
    sock = socket(list->ai_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    r = sock < 0 || connect(sock, list->ai_addr, list->ai_addrlen) < 0 ? -errno : 0;
    freeaddrinfo(list);
    if (r < 0) {
        if (sock >= 0)
            (void)close(sock);
        return err_errno(err, r, "%s port %u", host, port);
    }
    *ret_sock = sock;
    return 0;
}

/* Keeps the longest gaps, longest first. */
static void add_gap(struct guest_ping_result *result, uint64_t begin, uint64_t length)
{
    unsigned int at = result->gap_count;

    if (at == GUEST_PING_GAPS_MAX) {
        if (result->gaps[--at].length_ns >= length)
            return;
    } else {
        result->gap_count++;
    }
    for (; at && result->gaps[at - 1].length_ns < length; at--)
        result->gaps[at] = result->gaps[at - 1];
    result->gaps[at] = (struct guest_ping_gap){begin, length};
}

static void take_answer(struct ping *p, const uint8_t *message, ssize_t len)
{
    struct guest_ping_result *result = p->result;
    uint64_t now = clock_now() - p->begin;
    uint64_t count;

    if (len != GUEST_HEARTBEAT_ANSWER || memcmp(message, GUEST_HEARTBEAT_MAGIC, 8) != 0 ||
        get_be64(message + 8) >= result->sent)
        return;
    count = get_be64(message + GUEST_HEARTBEAT_REQUEST);
    if (!result->answered)
        result->first_count = count;
    else if (count <= result->last_count)
        result->count_went_back++;
    result->last_count = count;
    result->answered++;
    add_gap(result, p->last_answer, now - p->last_answer);
    p->last_answer = now;
}

/* Takes answers until `until`. A closed port comes back as an error of the socket: the guest is
 * between two hosts. */
static void wait_answers(struct ping *p, uint64_t until)
{
    uint64_t now;

    while ((now = clock_now()) < until) {
        struct timespec rest = {.tv_sec = (time_t)((until - now) / NS_PER_SEC),
                                .tv_nsec = (long)((until - now) % NS_PER_SEC)};
        struct pollfd fd = {.fd = p->sock, .events = POLLIN};
        uint8_t message[GUEST_HEARTBEAT_ANSWER + 1];

        if (ppoll(&fd, 1, &rest, NULL) > 0)
            take_answer(p, message, recv(p->sock, message, sizeof(message), 0));
    }
}

static void ask(struct ping *p)
{
    uint8_t message[GUEST_HEARTBEAT_REQUEST];

    memcpy(message, GUEST_HEARTBEAT_MAGIC, 8);
    put_be64(message + 8, p->result->sent++);
    (void)!send(p->sock, message, sizeof(message), MSG_NOSIGNAL);
}

static bool is_over(const struct ping *p, uint64_t duration_ns, const int *stop)
{
    if (stop && __atomic_load_n(stop, __ATOMIC_RELAXED))
        return true;
    return duration_ns && clock_now() - p->begin >= duration_ns;
}

int guest_ping_run(const char *host, uint16_t port, uint64_t interval_ns, uint64_t duration_ns,
                   const int *stop, struct guest_ping_result *ret, struct err *err)
{
    struct ping p = {.result = ret};
    CLEANUP_CLOSE int sock = -1;
    uint64_t next;
    int r;

    assert(duration_ns || stop);
    memset(ret, 0, sizeof(*ret));
    r = open_socket(host, port, &sock, err);
    if (r < 0)
        return r;
    p.sock = sock;
    next = p.begin = clock_now();
    while (!is_over(&p, duration_ns, stop)) {
        ask(&p);
        next = MAX(next + (interval_ns ? interval_ns : GUEST_PING_INTERVAL_NS), clock_now());
        wait_answers(&p, next);
    }
    ret->duration_ns = clock_now() - p.begin;
    if (ret->answered < ret->sent)
        wait_answers(&p, clock_now() + LINGER_NS);
    if (p.last_answer < ret->duration_ns)
        add_gap(ret, p.last_answer, ret->duration_ns - p.last_answer);
    ret->lost = ret->sent - ret->answered;
    return 0;
}
