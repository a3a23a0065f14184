/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A sender and a receiver with state folders of their own, for the tests of transport. */
#ifndef XMOTION_TESTS_TRANSPORT_PAIR_H
#define XMOTION_TESTS_TRANSPORT_PAIR_H

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "transport/conn.h"
#include "transport/identity.h"

#include "unit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

#define PATIENCE (10 * NS_PER_SEC)

struct host {
    char dir[64];
    struct identity *id;
};

static inline void host_make(struct host *h)
{
    struct err err = {0};

    strcpy(h->dir, "/tmp/xmotion-unit-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(h->dir));
    ck_assert_msg(identity_load(&h->id, &(struct identity_config){.state_dir = h->dir}, &err) == 0,
                  "%s", err.text);
}

static inline void host_remove(struct host *h)
{
    static const char *const files[] = {"identity.key", "identity.crt", "trusted",
                                        "authorized",   "lock",         "capture"};
    char path[128];

    identity_destroy(h->id);
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", h->dir, files[i]);
        (void)unlink(path);
    }
    ck_assert_int_eq(rmdir(h->dir), 0);
}

static inline void host_write(const struct host *h, const char *file, const char *text)
{
    char path[128];

    (void)snprintf(path, sizeof(path), "%s/%s", h->dir, file);
    ck_assert_int_eq(file_replace(path, text, strlen(text)), 0);
}

static inline int listen_here(char address[CONN_ADDRESS_MAX])
{
    struct sockaddr_in where;
    socklen_t len = sizeof(where);
    struct err err;
    int fd = -1;

    ck_assert_int_eq(conn_listen("127.0.0.1:0", &fd, &err), 0);
    ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&where, &len), 0);
    (void)snprintf(address, CONN_ADDRESS_MAX, "127.0.0.1:%u", (unsigned int)ntohs(where.sin_port));
    return fd;
}

static inline void trust(const struct host *sender, const char *address,
                         const struct host *receiver)
{
    char line[CONN_ADDRESS_MAX + 100];

    (void)snprintf(line, sizeof(line), "# hosts\n%s %s\n", address,
                   identity_fingerprint(receiver->id));
    host_write(sender, "trusted", line);
}

/* The receiver's end of a handshake, in a thread. */
struct acceptor {
    int listener;
    const struct identity *id;
    struct conn *conn;
    struct err err;
    int result;
    pthread_t thread;
};

static inline void *acceptor_main(void *data)
{
    struct acceptor *a = data;
    int fd = accept(a->listener, NULL, NULL);

    a->result = conn_accept(&a->conn, a->id, fd, PATIENCE, &a->err);
    return NULL;
}

static inline void acceptor_start(struct acceptor *a, int listener, const struct identity *id)
{
    *a = (struct acceptor){.listener = listener, .id = id};
    ck_assert_int_eq(pthread_create(&a->thread, NULL, acceptor_main, a), 0);
}

static inline int acceptor_join(struct acceptor *a)
{
    ck_assert_int_eq(pthread_join(a->thread, NULL), 0);
    return a->result;
}

struct pair {
    struct host sender, receiver;
    char address[CONN_ADDRESS_MAX];
    int listener;
};

static inline void pair_make(struct pair *p)
{
    struct err err;

    host_make(&p->sender);
    host_make(&p->receiver);
    p->listener = listen_here(p->address);
    trust(&p->sender, p->address, &p->receiver);
    ck_assert_int_eq(
        identity_authorize(p->receiver.id, identity_fingerprint(p->sender.id), "the sender", &err),
        0);
}

static inline void pair_connect(struct pair *p, struct conn **client, struct conn **server)
{
    struct acceptor a;
    struct err err = {0};

    acceptor_start(&a, p->listener, p->receiver.id);
    ck_assert_msg(conn_connect(client, p->sender.id, p->address, PATIENCE, &err) == 0, "%s",
                  err.text);
    ck_assert_msg(acceptor_join(&a) == 0, "%s", a.err.text);
    *server = a.conn;
}

static inline void pair_remove(struct pair *p)
{
    (void)close(p->listener);
    host_remove(&p->sender);
    host_remove(&p->receiver);
}

#endif
