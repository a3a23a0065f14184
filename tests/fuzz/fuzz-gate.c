/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Strangers at the receiver's door: the first octets of what should be a ClientHello, and comings and goings in any order. The first octet: 0
 * the rest is what one stranger says, in every prefix; else each two octets are something that happens, and to whom. No stage
 * ever holds more than it may, and everybody who is inside is counted once.
 * fuzz: -max_len=256 */
#include "fuzz.h"

#include "base/clock.h"
#include "session/gate.h"

#define PLACES 16u

static const struct gate_limits limits = {
    .knocking = 6, .shaking = 3, .greeting = 3, .served = 4, .peer_greeting = 2, .peer_control = 2, .peer_data = 3, .rate = 10,
    .handshake_ns = 10 * NS_PER_SEC, .hello_ns = 5 * NS_PER_SEC,
};

/* What was said with few octets still holds with more of them. */
static void look(const uint8_t *octets, size_t length)
{
    int said = 0;

    for (size_t n = 0; n <= length && n <= 8; n++) {
        uint8_t *copy = malloc(n + 1);
        int now;

        CHECK(copy);
        memcpy(copy, octets, n);
        now = gate_look(copy, n);
        free(copy);
        CHECK(now == -EPROTO || now == 0 || (n >= GATE_LOOK && now > 5 && now <= 5 + 16384));
        CHECK(said == 0 || now == said);
        said = now;
    }
}

static void check(const struct gate *g)
{
    unsigned int all = 0, strangers = 0;
    uint64_t crowds = 0;

    for (unsigned int s = 0; s < GATE_STAGE_COUNT; s++)
        all += g->stages[s].count;
    strangers = g->stages[GATE_KNOCKING].count + g->stages[GATE_READY].count + g->stages[GATE_SHAKING].count;
    for (unsigned int i = 0; i < GATE_CROWDS; i++)
        crowds += g->crowds[i];
    CHECK(all == PLACES && crowds == strangers);
    CHECK(g->stages[GATE_KNOCKING].count + g->stages[GATE_READY].count <= limits.knocking);
    CHECK(g->stages[GATE_SHAKING].count <= limits.shaking && g->stages[GATE_GREETING].count <= limits.greeting);
    CHECK(g->stages[GATE_SERVED].count <= limits.served);
}

static void authorize(struct gate *g, int entry, uint8_t who, uint64_t now)
{
    static const char *const peers[] = {"SHA256:a", "SHA256:b", "SHA256:c", "SHA256:d"};
    struct err err = {0};
    int victim;

    if (gate_authorized(g, entry, peers[who % 4], now, &victim, &err) < 0) {
        CHECK(err.code == -EBUSY && *err.text);
        gate_leave(g, entry);
    } else if (victim >= 0) {
        gate_leave(g, victim);
    }
}

static void happen(struct gate *g, uint8_t what, uint8_t who, uint64_t *now)
{
    enum gate_stage stage = (enum gate_stage)(what / 8 % GATE_FREE);
    int entry = gate_oldest(g, stage), victim;
    struct err err = {0};

    switch (what % 8) {
    case 0:
    case 1:
        entry = gate_enter(g, who, *now, &victim);
        CHECK(entry >= 0 || victim < 0);
        break;
    case 2:
        if (gate_oldest(g, GATE_KNOCKING) >= 0)
            gate_heard(g, gate_oldest(g, GATE_KNOCKING));
        break;
    case 3:
        (void)gate_begin(g, *now, &victim);
        if (victim >= 0 && who & 1)
            gate_leave(g, victim);
        break;
    case 4:
        if (gate_oldest(g, GATE_SHAKING) >= 0)
            authorize(g, gate_oldest(g, GATE_SHAKING), who, *now);
        break;
    case 5:
        entry = gate_oldest(g, GATE_GREETING);
        if (entry >= 0 && gate_greeted(g, entry, who & 1, &err) < 0) {
            CHECK(err.code == -EBUSY && *err.text);
            gate_leave(g, entry);
        }
        break;
    case 6:
        if (entry >= 0)
            gate_leave(g, entry);
        break;
    default:
        *now += (uint64_t)who * NS_PER_SEC / 16;
        while ((entry = gate_overdue(g, *now)) >= 0)
            gate_leave(g, entry);
        CHECK(gate_patience(g, *now, NS_PER_SEC) <= NS_PER_SEC);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint64_t now = NS_PER_SEC;
    struct gate g;

    if (!take_u8(&in)) {
        look(in.at, in.left);
        return 0;
    }
    CHECK(gate_init(&g, &limits, 1, now) == 0);
    while (in.left) {
        uint8_t what = take_u8(&in);

        happen(&g, what, take_u8(&in), &now);
    }
    check(&g);
    gate_finish(&g);
    return 0;
}
