/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Stands in the place of conn-tls*.c: what a peer "sends" through TLS is the fuzzer's input, in pieces of the fuzzer's choice.
 * No socket, no cipher, no system call. Included by one file of a program. */
#ifndef XMOTION_TESTS_FAKE_TLS_H
#define XMOTION_TESTS_FAKE_TLS_H

#include "fuzz.h"
#include "transport/conn-tls.h"
#include "transport/conn.h"

#include <poll.h>
#include <sys/eventfd.h>

struct tls {
    struct input in;
    uint8_t pieces; /* 0: whatever is asked for; else reads end after 1 to `pieces` octets, or in -EAGAIN */
    bool dry;       /* the last read was -EAGAIN */
    uint64_t sent;
};

static struct tls fake_tls;

/* A connection whose peer sends `in`. */
static inline struct conn *fake_conn(struct input in, uint8_t pieces)
{
    struct conn *c;

    fake_tls = (struct tls){.in = in, .pieces = pieces};
    CHECK(conn_accept(&c, NULL, -1, 0, NULL) == 0);
    return c;
}

int tls_accept(struct tls **ret, const struct identity *id, int fd, uint64_t timeout_ns, struct err *err)
{
    *ret = &fake_tls;
    return 0;
}

int tls_connect(struct tls **ret, const struct identity *id, const char *address, uint64_t timeout_ns, struct err *err)
{
    *ret = &fake_tls;
    return 0;
}

void tls_destroy(struct tls *t)
{
}

/* Always readable and writable, should somebody wait. */
int tls_fd(const struct tls *t)
{
    static int fd = -1;

    if (fd < 0)
        fd = eventfd(1, EFD_CLOEXEC);
    return fd;
}

const char *tls_peer(const struct tls *t)
{
    return "peer:7799";
}

const char *tls_peer_fingerprint(const struct tls *t)
{
    return "SHA256:0000000000000000000000000000000000000000000000000000000000000000";
}

int tls_read(struct tls *t, void *buf, size_t len, size_t *ret_len, struct err *err)
{
    size_t n = len < t->in.left ? len : t->in.left;

    CHECK(len > 0);
    t->dry = t->pieces && !t->dry && t->in.left % 3 == 0;
    if (t->dry)
        return -EAGAIN;
    if (!n)
        return err_set(err, -ENODATA, "the end");
    if (t->pieces && n > 1u + t->in.left % t->pieces)
        n = 1 + t->in.left % t->pieces;
    memcpy(buf, t->in.at, n);
    t->in.at += n;
    t->in.left -= n;
    *ret_len = n;
    return 0;
}

int tls_write(struct tls *t, const void *buf, size_t len, size_t *ret_len, struct err *err)
{
    touch(buf, len);
    t->sent += len;
    *ret_len = len;
    return 0;
}

int tls_flush(struct tls *t, struct err *err)
{
    return 0;
}

bool tls_has_unsent(const struct tls *t)
{
    return false;
}

short tls_events(const struct tls *t)
{
    return POLLIN;
}

bool tls_pending(const struct tls *t)
{
    return t->in.left > 0;
}

#endif
