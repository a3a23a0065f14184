/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A network in between: one TCP connection passed on, cut or damaged on demand. */
#ifndef XMOTION_TESTS_RELAY_H
#define XMOTION_TESTS_RELAY_H

#include "transport-pair.h"

#include <poll.h>
#include <stdatomic.h>

struct relay {
    char address[CONN_ADDRESS_MAX]; /* to connect to */
    int listener, to, from;
    uint16_t port;         /* where it goes on to */
    atomic_int damage;     /* flips a bit of this octet of what the client sends next; -1: none */
    atomic_int cut;        /* closes both ways after so many octets from the client; -1: not */
    atomic_bool stop;
    pthread_t thread;
};

static inline bool relay_pass(struct relay *r, int from, int to, bool client)
{
    uint8_t octets[4096];
    ssize_t n = recv(from, octets, sizeof(octets), 0);
    int at = atomic_load(&r->damage), cut = atomic_load(&r->cut);

    if (n <= 0)
        return false;
    if (client && at >= 0) {
        if (at < n)
            octets[at] ^= 1;
        atomic_store(&r->damage, at < n ? -1 : at - (int)n);
    }
    if (client && cut >= 0) {
        (void)!send(to, octets, (size_t)MIN(cut, n), MSG_NOSIGNAL);
        return false;
    }
    return send(to, octets, (size_t)n, MSG_NOSIGNAL) == n;
}

static inline void *relay_main(void *data)
{
    struct relay *r = data;
    struct sockaddr_in where = {.sin_family = AF_INET, .sin_port = r->port};
    struct pollfd p[2];
    bool goes_on = true;

    r->from = accept(r->listener, NULL, NULL);
    r->to = socket(AF_INET, SOCK_STREAM, 0);
    where.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ck_assert_int_eq(connect(r->to, (struct sockaddr *)&where, sizeof(where)), 0);
    while (goes_on && !atomic_load(&r->stop)) {
        p[0] = (struct pollfd){.fd = r->from, .events = POLLIN};
        p[1] = (struct pollfd){.fd = r->to, .events = POLLIN};
        (void)poll(p, 2, 5);
        goes_on = !(p[0].revents && !relay_pass(r, r->from, r->to, true)) &&
                  !(p[1].revents && !relay_pass(r, r->to, r->from, false));
    }
    (void)close(r->from);
    (void)close(r->to);
    return NULL;
}

/* Stands before the pair's receiver; the sender trusts it there. One connection. */
static inline void relay_start(struct relay *r, struct pair *p)
{
    struct sockaddr_in where;
    socklen_t len = sizeof(where);

    *r = (struct relay){.damage = -1, .cut = -1};
    ck_assert_int_eq(getsockname(p->listener, (struct sockaddr *)&where, &len), 0);
    r->port = where.sin_port;
    r->listener = listen_here(r->address);
    trust(&p->sender, r->address, &p->receiver);
    ck_assert_int_eq(pthread_create(&r->thread, NULL, relay_main, r), 0);
}

static inline void relay_connect(struct relay *r, struct pair *p, struct conn **client, struct conn **server)
{
    struct acceptor a;
    struct err err = {0};

    relay_start(r, p);
    acceptor_start(&a, p->listener, p->receiver.id);
    ck_assert_msg(conn_connect(client, p->sender.id, r->address, PATIENCE, &err) == 0, "%s", err.text);
    ck_assert_msg(acceptor_join(&a) == 0, "%s", a.err.text);
    *server = a.conn;
}

static inline void relay_end(struct relay *r)
{
    atomic_store(&r->stop, true);
    ck_assert_int_eq(pthread_join(r->thread, NULL), 0);
    (void)close(r->listener);
}

#endif
