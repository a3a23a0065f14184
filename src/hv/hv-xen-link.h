/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One agent program xmotion-xen and what is said with it. Requests {"do": WHAT} get one answer
 * {"reply": WHAT, ...}; events
 * {"event": WHAT, ...} come when they come. */
#ifndef XMOTION_HV_XEN_LINK_H
#define XMOTION_HV_XEN_LINK_H

#include "hv/hv.h"

/* Events that come while an answer is awaited are kept; `pending` then makes `poll_fd` readable. */
struct agent_link {
    int sock, poll_fd, pending;
    json_t *events;
    bool lost;
};

/* -ENOTSUP: this xmotion was built without Xen. */
int agent_link_open(struct agent_link *l, struct err *err);
void agent_link_close(struct agent_link *l);

/* Sends a request, which it takes over, and waits for its answer; `fd` goes along (-1 none). *ret
 * may be NULL. -ECONNRESET: the agent is gone, and `lost` is set. */
int agent_link_ask(struct agent_link *l, json_t *request, int fd, int timeout_ms, json_t **ret,
                   struct err *err);
int agent_link_do(struct agent_link *l, const char *what, int timeout_ms, struct err *err);

/* As next_event of hv.h. An agent that is gone is told once, as HV_FAILED. */
int agent_link_event(struct agent_link *l, struct hv_event *ret, struct err *err);

/* Forgets the events that wait, but the guest's end. */
void agent_link_forget(struct agent_link *l);

#endif
