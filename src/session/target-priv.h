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
    char fingerprint[IDENTITY_FINGERPRINT_LEN + 1];
    enum switchover_state state;

    struct hv_guest guest;
    bool guest_parsed;
    struct hv_target *hv;
    const struct volume_sr *sr;
    const char *named[HV_DISKS_MAX]; /* existing disk for this index; NULL: a new volume */
    json_t *prepare;                 /* owns the names */
    struct journal_entry journal;
    bool journal_written;
    bool adopted[HV_DISKS_MAX];
    uint64_t disk_sizes[HV_DISKS_MAX];
    struct mirror_target *disks[HV_DISKS_MAX];
    struct page_target *pages; /* appears under `lock` */

    pthread_t flusher; /* keeps what the last flush has to do small */
    bool flusher_runs;
    int memory_fd; /* where the guest's memory goes: a stream, or mapped */
    uint8_t *memory_ram;
    bool built;
    uint64_t build_ns;
    uint64_t flush_ns;

    /* Data threads: */
    pthread_mutex_t lock;
    pthread_cond_t left;
    struct conn *data[TARGET_CONNECTIONS_MAX];
    unsigned int data_count;
    bool accepting;
    struct err failure;
    bool script_done;
    bool flusher_stop;
};

/* target-prepare.c: what PREPARE and CHECK ask for, checked; then made. */
int target_parse_prepare(struct target *t, json_t *message, struct err *err);
int target_check(struct target *t, struct err *err);
int target_make_volumes(struct target *t, struct err *err);
void target_remove_volumes(struct target *t);
/* Opens the volumes for the data connections. */
int target_open_disks(struct target *t, struct err *err);

/* target-data.c: ends the data connections; no thread of theirs is inside any more when it returns. */
void target_end_data(struct target *t);

void target_fail(struct target *t, const struct err *failure);

#endif
