/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/gate.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <assert.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#define TLS_HANDSHAKE    22
#define TLS_CLIENT_HELLO 1
#define TLS_RECORD_HEAD  5
#define TLS_RECORD_MOST  16384
#define HELLO_LEAST      4

#define BURST (2 * NS_PER_SEC) /* of handshakes that were not begun may be made up for */

/* -- stages: lists, the oldest first -- */

static void append(struct gate *g, int entry, enum gate_stage stage)
{
    struct gate_entry *e = &g->entries[entry];

    e->stage = stage;
    e->younger = -1;
    e->older = g->stages[stage].youngest;
    if (e->older >= 0)
        g->entries[e->older].younger = entry;
    else
        g->stages[stage].oldest = entry;
    g->stages[stage].youngest = entry;
    g->stages[stage].count++;
}

static void unlink_entry(struct gate *g, int entry)
{
    struct gate_entry *e = &g->entries[entry];
    enum gate_stage stage = e->stage;

    if (e->older >= 0)
        g->entries[e->older].younger = e->younger;
    else
        g->stages[stage].oldest = e->younger;
    if (e->younger >= 0)
        g->entries[e->younger].older = e->older;
    else
        g->stages[stage].youngest = e->older;
    g->stages[stage].count--;
}

static void move(struct gate *g, int entry, enum gate_stage stage)
{
    unlink_entry(g, entry);
    append(g, entry, stage);
}

static unsigned int count(const struct gate *g, enum gate_stage stage)
{
    return g->stages[stage].count;
}

int gate_oldest(const struct gate *g, enum gate_stage stage)
{
    return g->stages[stage].oldest;
}

static int younger(const struct gate *g, int entry)
{
    return g->entries[entry].younger;
}

/* -- crowds -- */

/* murmur3's finish over the seeded origin: neighbours fall apart. */
static unsigned int crowd_of(const struct gate *g, uint64_t origin)
{
    uint64_t h = origin ^ g->seed;

    h = (h ^ h >> 33) * UINT64_C(0xff51afd7ed558ccd);
    h = (h ^ h >> 33) * UINT64_C(0xc4ceb9fe1a85ec53);
    return (unsigned int)((h ^ h >> 33) % GATE_CROWDS);
}

static uint32_t crowd(const struct gate *g, int entry)
{
    return g->crowds[g->entries[entry].crowd];
}

static bool is_stranger(const struct gate_entry *e)
{
    return e->stage == GATE_KNOCKING || e->stage == GATE_READY || e->stage == GATE_SHAKING;
}

uint64_t gate_origin(const struct sockaddr_storage *from)
{
    const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)from;
    uint32_t v4;

    if (from->ss_family == AF_INET) {
        memcpy(&v4, &((const struct sockaddr_in *)from)->sin_addr, sizeof(v4));
        return v4;
    }
    if (from->ss_family != AF_INET6)
        return 0;
    if (!IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr))
        return get_be64(v6->sin6_addr.s6_addr);
    memcpy(&v4, v6->sin6_addr.s6_addr + 12, sizeof(v4));
    return v4;
}

/* The oldest of the most crowded origin, but none that is less crowded than `least`. */
static int worst(const struct gate *g, enum gate_stage stage, uint32_t least)
{
    int found = -1;

    for (int i = gate_oldest(g, stage); i >= 0; i = younger(g, i)) {
        if (!g->entries[i].dropped && crowd(g, i) >= least && (found < 0 || crowd(g, i) > crowd(g, found)))
            found = i;
    }
    return found;
}

/* -- life -- */

int gate_init(struct gate *g, const struct gate_limits *limits, uint64_t seed, uint64_t now)
{
    unsigned int n = limits->knocking + limits->shaking + limits->greeting + limits->served;

    memset(g, 0, sizeof(*g));
    g->entries = calloc(n, sizeof(*g->entries));
    if (!g->entries)
        return -ENOMEM;
    g->limits = *limits;
    g->seed = seed;
    g->budget_ns = BURST;
    g->refilled_ns = now;
    for (unsigned int s = 0; s < GATE_STAGE_COUNT; s++)
        g->stages[s].oldest = g->stages[s].youngest = -1;
    for (unsigned int i = 0; i < n; i++)
        append(g, (int)i, GATE_FREE);
    return 0;
}

void gate_finish(struct gate *g)
{
    free(g->entries);
    g->entries = NULL;
}

/* -- the way in -- */

static int make_room(struct gate *g, uint32_t least)
{
    int silent = worst(g, GATE_KNOCKING, least);
    int ready = worst(g, GATE_READY, least);

    /* Who has said something goes only when he is of a larger crowd. */
    if (ready >= 0 && (silent < 0 || crowd(g, ready) > crowd(g, silent)))
        return ready;
    return silent;
}

int gate_enter(struct gate *g, uint64_t origin, uint64_t now, int *ret_victim)
{
    unsigned int index = crowd_of(g, origin);
    struct gate_entry *e;
    int entry;

    *ret_victim = -1;
    if (count(g, GATE_KNOCKING) + count(g, GATE_READY) >= g->limits.knocking) {
        *ret_victim = make_room(g, g->crowds[index]);
        if (*ret_victim < 0)
            return -1;
        gate_leave(g, *ret_victim);
    }
    entry = g->stages[GATE_FREE].youngest; /* used last: its memory is there already */
    assert(entry >= 0);
    e = &g->entries[entry];
    move(g, entry, GATE_KNOCKING);
    e->crowd = index;
    g->crowds[index]++;
    e->dropped = e->control = false;
    e->deadline = now + g->limits.handshake_ns;
    e->fingerprint[0] = '\0';
    return entry;
}

void gate_heard(struct gate *g, int entry)
{
    assert(g->entries[entry].stage == GATE_KNOCKING);
    move(g, entry, GATE_READY);
}

static uint64_t cost(const struct gate *g)
{
    return NS_PER_SEC / g->limits.rate;
}

static void refill(struct gate *g, uint64_t now)
{
    g->budget_ns = MIN(g->budget_ns + (now - g->refilled_ns), BURST);
    g->refilled_ns = now;
}

/* The youngest of the least crowded origin: who waits behind a flood would wait until his time is over. */
static int best_ready(const struct gate *g)
{
    int found = -1;

    for (int i = gate_oldest(g, GATE_READY); i >= 0; i = younger(g, i)) {
        if (found < 0 || crowd(g, i) <= crowd(g, found))
            found = i;
    }
    return found;
}

static bool somebody_leaves(const struct gate *g, enum gate_stage stage)
{
    for (int i = gate_oldest(g, stage); i >= 0; i = younger(g, i)) {
        if (g->entries[i].dropped)
            return true;
    }
    return false;
}

int gate_begin(struct gate *g, uint64_t now, int *ret_victim)
{
    int entry = best_ready(g);

    *ret_victim = -1;
    refill(g, now);
    if (entry < 0 || g->budget_ns < cost(g))
        return -1;
    if (count(g, GATE_SHAKING) < g->limits.shaking) {
        g->budget_ns -= cost(g);
        move(g, entry, GATE_SHAKING);
        return entry;
    }
    if (!somebody_leaves(g, GATE_SHAKING))
        *ret_victim = worst(g, GATE_SHAKING, crowd(g, entry));
    if (*ret_victim >= 0)
        g->entries[*ret_victim].dropped = true;
    return -1;
}

static bool is_peer(const struct gate_entry *e, const char *fingerprint)
{
    return strcmp(e->fingerprint, fingerprint) == 0;
}

int gate_authorized(struct gate *g, int entry, const char *fingerprint, uint64_t now, int *ret_victim, struct err *err)
{
    struct gate_entry *e = &g->entries[entry];
    unsigned int here = 0;

    assert(e->stage == GATE_SHAKING && strlen(fingerprint) < sizeof(e->fingerprint));
    *ret_victim = -1;
    if (count(g, GATE_GREETING) >= g->limits.greeting)
        return err_set(err, -EBUSY, "%u authorized connections have said nothing yet: try again in a moment",
                       count(g, GATE_GREETING));
    for (int i = gate_oldest(g, GATE_GREETING); i >= 0; i = younger(g, i)) {
        if (!is_peer(&g->entries[i], fingerprint) || g->entries[i].dropped)
            continue;
        if (here++ == 0)
            *ret_victim = i;
    }
    if (here < g->limits.peer_greeting)
        *ret_victim = -1;
    else
        g->entries[*ret_victim].dropped = true;
    g->crowds[e->crowd]--;
    move(g, entry, GATE_GREETING);
    memcpy(e->fingerprint, fingerprint, strlen(fingerprint) + 1);
    e->deadline = now + g->limits.hello_ns;
    return 0;
}

int gate_greeted(struct gate *g, int entry, bool control, struct err *err)
{
    struct gate_entry *e = &g->entries[entry];
    unsigned int most = control ? g->limits.peer_control : g->limits.peer_data;
    unsigned int here = 0;

    assert(e->stage == GATE_GREETING);
    for (int i = gate_oldest(g, GATE_SERVED); i >= 0; i = younger(g, i))
        here += g->entries[i].control == control && is_peer(&g->entries[i], e->fingerprint);
    if (here >= most)
        return err_set(err, -EBUSY, "this sender has %u %s connections here already, the most that are served", here,
                       control ? "control" : "data");
    if (count(g, GATE_SERVED) >= g->limits.served)
        return err_set(err, -EBUSY, "this receiver serves %u connections already", count(g, GATE_SERVED));
    e->control = control;
    g->budget_ns = MIN(g->budget_ns + cost(g), BURST); /* the rate is for those who come for nothing */
    move(g, entry, GATE_SERVED);
    return 0;
}

void gate_leave(struct gate *g, int entry)
{
    assert(g->entries[entry].stage != GATE_FREE);
    if (is_stranger(&g->entries[entry]))
        g->crowds[g->entries[entry].crowd]--;
    move(g, entry, GATE_FREE);
}

/* -- time -- */

int gate_overdue(struct gate *g, uint64_t now)
{
    for (enum gate_stage stage = GATE_KNOCKING; stage <= GATE_GREETING; stage++)
        for (int i = gate_oldest(g, stage); i >= 0; i = younger(g, i)) {
            if (g->entries[i].dropped || g->entries[i].deadline > now)
                continue;
            g->entries[i].dropped = true;
            return i;
        }
    return -1;
}

uint64_t gate_patience(const struct gate *g, uint64_t now, uint64_t most)
{
    uint64_t until = now + most;

    for (enum gate_stage stage = GATE_KNOCKING; stage <= GATE_GREETING; stage++)
        for (int i = gate_oldest(g, stage); i >= 0; i = younger(g, i)) {
            if (!g->entries[i].dropped)
                until = MIN(until, g->entries[i].deadline);
        }
    if (count(g, GATE_READY) && count(g, GATE_SHAKING) < g->limits.shaking && g->budget_ns < cost(g))
        until = MIN(until, g->refilled_ns + cost(g) - g->budget_ns);
    return until > now ? until - now : 0;
}

/* -- what they say first -- */

int gate_look(const uint8_t *octets, size_t have)
{
    unsigned int length;

    if ((have >= 1 && octets[0] != TLS_HANDSHAKE) || (have >= 2 && octets[1] != 3) || (have >= 3 && octets[2] > 4))
        return -EPROTO;
    if (have < TLS_RECORD_HEAD)
        return 0;
    length = get_be16(octets + 3);
    if (length < HELLO_LEAST || length > TLS_RECORD_MOST || (have >= GATE_LOOK && octets[5] != TLS_CLIENT_HELLO))
        return -EPROTO;
    return have < GATE_LOOK ? 0 : (int)(TLS_RECORD_HEAD + length);
}
