/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files target*.c share. */
#ifndef XMOTION_SESSION_TARGET_PRIV_H
#define XMOTION_SESSION_TARGET_PRIV_H

#include "memsync/page-target.h"
#include "mirror/mirror-target.h"
#include "session/control.h"
#include "session/job.h"
#include "session/journal.h"
#include "session/switchover.h"
#include "session/target.h"
#include "transport/stream.h"

#include <pthread.h>

#define TARGET_CONNECTIONS_MAX 64

struct target {
    const struct server_config *config;
    struct loop *loop;
    struct job *job;
    struct control control;
    int (*admit)(void *data, enum target_place what, struct err *err);
    void *admit_data;
    char fingerprint[IDENTITY_FINGERPRINT_LEN + 1];
    char peer[CONN_ADDRESS_MAX]; /* where it connects from */
    enum switchover_state state;

    struct hv_guest guest;
    bool guest_parsed;
    struct hv_target *hv;
    const struct volume_sr *sr;
    const char *named[HV_DISKS_MAX]; /* existing disk for this index; NULL: a new volume */
    json_t *prepare;                 /* owns the names */
    struct journal journal;
    bool reused[HV_DISKS_MAX]; /* what the disk holds is compared first */
    bool verify;               /* what was written is read back */
    bool left_to_recovery;     /* nobody knows whether the guest ran */
    bool parked;               /* waits for the sender to come back */
    bool fresh;                /* taken up from the journal of a receiver that ended */
    uint64_t disk_sizes[HV_DISKS_MAX];
    struct mirror_target *disks[HV_DISKS_MAX];
    struct page_target *pages; /* appears under `lock` */

    pthread_t flusher; /* keeps what the last flush has to do small */
    bool flusher_runs;
    int memory_fd; /* where the guest's memory goes: a stream, or mapped */
    uint8_t *memory_ram;
    bool built;
    uint64_t volumes_ns; /* how long making the volumes took */
    uint64_t build_ns;
    uint64_t flush_ns;

    /* Data threads: */
    pthread_mutex_t lock;
    pthread_cond_t data_changed;
    struct conn *data[TARGET_CONNECTIONS_MAX]; /* by the number that its HELLO names */
    bool unheard;                              /* RESUMED was sent, nobody knows whether it arrived */
    uint64_t taken[TARGET_CONNECTIONS_MAX];    /* records of each, since the connections were last made */
    unsigned int data_count;
    unsigned int drops; /* of the sender, as it said last: data connections from before another are late */
    enum { DATA_TO_COME, DATA_ACCEPTED, DATA_OVER } data_state;
    bool data_dropped; /* a data connection broke */
    struct conn *resumed; /* the control connection of a sender that came back; taken by the session's thread */
    bool forget;          /* atomic: the sender knows that the guest is here */
    bool told_to_end;     /* by the receiver: no drop makes it forget that */
    bool dissolve;        /* whoever asked whose the guest is wants an end of it */
    struct err failure;
    bool script_done;
    bool flusher_stop;
    struct err flush_failure; /* of the flusher: the kernel says it once */
};

/* target.c */
enum switchover_action target_feed(struct target *t, enum switchover_event event);
/* The first failure ends it. Any thread. */
/* TARGET_BEGINS may be refused. */
int target_take_place(struct target *t, enum target_place what, struct err *err);

void target_fail(struct target *t, const struct err *failure);
int target_look_at_failures(struct target *t, struct err *err);
/* Does work that takes long in another thread, while the control connection stays alive. */
int target_run_task(struct target *t, int (*work)(struct target *t, struct err *err), struct err *err);
/* The hypervisor's events. */
int target_serve_hv(struct target *t, struct err *err);

/* target-final.c: MEMORY_BEGIN, and FINAL up to READY. */
int target_begin_memory(struct target *t, const json_t *message, struct err *err);
int target_final(struct target *t, const json_t *message, struct err *err);
/* Flushes now and then while disks are copied. */
int target_start_flusher(struct target *t, struct err *err);
void target_stop_flusher(struct target *t);

/* target-park.c: the connections broke. Whether to wait for the sender to come back. */
bool target_may_park(struct target *t, int code);
/* Undoes the guest that was being built, keeps the disks, and waits. 0: the sender is back and everything goes on from PREPARED. */
int target_park(struct target *t, struct err *err);
/* RESUMED, on the connection that t->control has now. */
int target_say_resumed(struct target *t, struct err *err);

/* target-prepare.c: what PREPARE and CHECK ask for, checked; then made. */
int target_parse_prepare(struct target *t, json_t *message, struct err *err);
int target_check(struct target *t, struct err *err);
int target_make_volumes(struct target *t, struct err *err);
int target_remove_volumes(struct target *t, struct err *err);
/* Opens the volumes for the data connections. */
int target_open_disks(struct target *t, struct err *err);
/* From the journal of a receiver that ended: the guest and the volumes as they were prepared. */
int target_reopen(struct target *t, struct err *err);

/* target-data.c: the disks are ready for what comes; whoever came early is let in. */
void target_accept_data(struct target *t);
/* Ends the data connections; no thread of theirs is inside any more when it returns. */
void target_end_data(struct target *t);

#endif
