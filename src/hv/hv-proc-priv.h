/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The connection to an embedded guest's process, that source and target share: each call waits for the answer; what
 * "follows as an event" (hv.h) is queued here and makes `epoll` readable. */
#ifndef XMOTION_HV_HV_PROC_PRIV_H
#define XMOTION_HV_HV_PROC_PRIV_H

#include "hv/hv.h"

struct proc_link {
    int sock;
    int epoll;
    int queued; /* eventfd: `event` waits to be taken */
    bool has_event;
    bool expect_end; /* the guest was told to end, or its end was reported */
    struct hv_event event;
};

void proc_link_init(struct proc_link *l);
void proc_link_finish(struct proc_link *l);
/* Once `sock` is there. */
int proc_link_watch(struct proc_link *l, struct err *err);
/* Starts a guest's process (PROC_EMPTY) and connects to it, as its mover. */
int proc_link_spawn(struct proc_link *l, struct err *err);
void proc_link_queue(struct proc_link *l, enum hv_event_kind kind, uint64_t duration_ns);
/* Drops an event that waits. */
void proc_link_forget(struct proc_link *l);
int proc_link_next_event(struct proc_link *l, struct hv_event *ret, struct err *err);

/* A command without arguments; *ret is the answer's member `number`, when that is not NULL. */
int proc_link_command(struct proc_link *l, const char *command, const char *number, uint64_t *ret, struct err *err);

/* Maps memory that came over the socket, if it is sealed: did it shrink under us, a read would be a SIGBUS. */
int proc_link_map(int fd, size_t size, int prot, void **ret, struct err *err);

#endif
