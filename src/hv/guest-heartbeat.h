/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The heartbeat of a guest on UDP: who asks sees the guest's downtime as a client feels it.
 * Request, 16 octets: "XMHBEAT1", u64 sequence number (big-endian). Answer, 24 octets: the request, u64 the guest's own count
 * (guest_load_heartbeat, big-endian). The count of one guest never goes back, wherever it runs. */
#ifndef XMOTION_HV_GUEST_HEARTBEAT_H
#define XMOTION_HV_GUEST_HEARTBEAT_H

#define GUEST_HEARTBEAT_MAGIC   "XMHBEAT1"
#define GUEST_HEARTBEAT_REQUEST 16
#define GUEST_HEARTBEAT_ANSWER  24

#endif
