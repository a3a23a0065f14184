/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* When does a guest stop? Not when it is asked to: it takes the request out of control/shutdown, freezes its tasks and then
 * suspends. Until it has taken it, it serves its clients, so the downtime begins there. */
#ifndef XMOTION_HV_XEN_SUSPEND_ACK_H
#define XMOTION_HV_XEN_SUSPEND_ACK_H

#include <stdint.h>

/* Before the guest is asked: watches for its answer in a thread. Without xenstore or threads nothing is seen. */
void suspend_ack_begin(uint32_t domid);

/* After it has suspended. When it took the request, monotonic nanoseconds; 0: not seen (it was asked by event channel). */
uint64_t suspend_ack_end(void);

#endif
