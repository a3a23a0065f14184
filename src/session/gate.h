/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who may come in: the bookkeeping of a receiver's connections, without sockets, threads or a clock of its own (door.c has those).
 *
 *   KNOCKING  accepted; has not said a whole ClientHello. Costs a descriptor and an entry here.
 *   READY     has; waits for its turn.
 *   SHAKING   a thread does its TLS handshake.
 *   GREETING  it has shown an authorized certificate, and no HELLO yet.
 *   SERVED    it has a role in a migration.
 *
 * Where a stage is full, the newcomer takes the place of another: who comes from the most crowded origin (an IPv4 address, a /64 of
 * IPv6) goes first, of those the oldest. So who floods the receiver drops himself, and whoever comes from elsewhere
 * is let in. Who is READY is begun in the opposite order: the youngest of the smallest crowd first. */
#ifndef XMOTION_SESSION_GATE_H
#define XMOTION_SESSION_GATE_H

#include "base/err.h"
#include "transport/identity.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum gate_stage { GATE_KNOCKING, GATE_READY, GATE_SHAKING, GATE_GREETING, GATE_SERVED, GATE_FREE, GATE_STAGE_COUNT };

#define GATE_CROWDS 1024u /* origins are counted by their hash */

struct gate_limits {
    unsigned int knocking; /* with READY */
    unsigned int shaking;
    unsigned int greeting;
    unsigned int served;
    unsigned int peer_greeting; /* the same for one certificate */
    unsigned int peer_control;  /* served, with another role than data */
    unsigned int peer_data;
    unsigned int rate;     /* handshakes begun in a second that lead to no HELLO; twice as many at once */
    uint64_t handshake_ns; /* from accept to the end of the handshake, whatever comes meanwhile */
    uint64_t hello_ns;     /* from there to the end of HELLO */
};

struct gate_entry {
    enum gate_stage stage;
    bool dropped; /* was told to go; is not chosen again */
    bool control;
    unsigned int crowd; /* index */
    uint64_t deadline;
    int older, younger; /* in its stage, -1: none */
    char fingerprint[IDENTITY_FINGERPRINT_LEN + 1];
};

struct gate {
    struct gate_limits limits;
    struct gate_entry *entries;
    struct {
        int oldest, youngest;
        unsigned int count;
    } stages[GATE_STAGE_COUNT];
    uint64_t seed; /* who cannot guess it cannot put others into his own crowd */
    uint32_t crowds[GATE_CROWDS];
    uint64_t budget_ns; /* time that was not used for handshakes yet */
    uint64_t refilled_ns;
};

/* -ENOMEM, or 0. */
int gate_init(struct gate *g, const struct gate_limits *limits, uint64_t seed, uint64_t now);
void gate_finish(struct gate *g);

/* What counts as one origin. Not an internet address: 0. */
uint64_t gate_origin(const struct sockaddr_storage *from);

/* A new connection. Returns its entry, or -1: there is no room for it. *ret_victim: who was dropped for it and has left
 * already, or -1. */
int gate_enter(struct gate *g, uint64_t origin, uint64_t now, int *ret_victim);

/* The ClientHello is whole. */
void gate_heard(struct gate *g, int entry);

/* Who is to begin its handshake now: it is SHAKING then. -1: nobody. *ret_victim: who is to be told to go so that the next can, or -1. */
int gate_begin(struct gate *g, uint64_t now, int *ret_victim);

/* The handshake is done. -EBUSY with a sentence when there is no room; *ret_victim: of the same peer, to be told to go, or -1. */
int gate_authorized(struct gate *g, int entry, const char *fingerprint, uint64_t now, int *ret_victim, struct err *err);

/* HELLO came. -EBUSY with a sentence: this peer has too many connections. */
int gate_greeted(struct gate *g, int entry, bool control, struct err *err);

void gate_leave(struct gate *g, int entry);

/* Someone whose time is over, and who is marked as told to go by this; -1: nobody. */
int gate_overdue(struct gate *g, uint64_t now);

/* How long nothing has to be done if nothing happens, at most `most`. */
uint64_t gate_patience(const struct gate *g, uint64_t now, uint64_t most);

/* Who is in this stage longest, -1: nobody. */
int gate_oldest(const struct gate *g, enum gate_stage stage);

/* Of the first `have` octets that a peer sent: -EPROTO, they are no ClientHello's; 0, too few to tell; else how many the record has that
 * they begin. GATE_LOOK octets are enough. */
#define GATE_LOOK 6
int gate_look(const uint8_t *octets, size_t have);

#endif
