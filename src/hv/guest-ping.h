/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Feels a guest's downtime as its clients do: asks for a heartbeat (guest-heartbeat.h) at a fixed pace and looks for gaps. */
#ifndef XMOTION_HV_GUEST_PING_H
#define XMOTION_HV_GUEST_PING_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define GUEST_PING_INTERVAL_NS UINT64_C(2000000)
#define GUEST_PING_GAPS_MAX    8

struct guest_ping_gap {
    uint64_t begin_ns;  /* the last answer before it, since the first request */
    uint64_t length_ns; /* to the first answer after it */
};

struct guest_ping_result {
    uint64_t sent;
    uint64_t answered;
    uint64_t lost;
    uint64_t first_count; /* the guest's own count in the first and the last answer */
    uint64_t last_count;
    uint64_t count_went_back; /* answers whose count was not above the one before: two guests, or an old copy */
    uint64_t duration_ns;
    /* The longest ones, longest first. A guest that never answered, or no more at the end, has a gap up to the end. */
    unsigned int gap_count;
    struct guest_ping_gap gaps[GUEST_PING_GAPS_MAX];
};

/* Asks host:port every `interval_ns` (0: GUEST_PING_INTERVAL_NS) for `duration_ns` (0: until *stop), or until *stop is not 0, if
 * `stop` is not NULL. A guest that does not answer is no error. -EINVAL, -EHOSTUNREACH: the address. */
int guest_ping_run(const char *host, uint16_t port, uint64_t interval_ns, uint64_t duration_ns, const int *stop,
                   struct guest_ping_result *ret, struct err *err);

#endif
