/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files source*.c share. */
#ifndef XMOTION_SESSION_SOURCE_PRIV_H
#define XMOTION_SESSION_SOURCE_PRIV_H

#include "hv/hv.h"
#include "memsync/page-source.h"
#include "memsync/precopy-policy.h"
#include "mirror/care.h"
#include "mirror/mirror-source.h"
#include "session/control.h"
#include "session/job.h"
#include "session/journal.h"
#include "session/source.h"
#include "session/switchover.h"

#include <pthread.h>
#include <stdatomic.h>

#define SESSION_ID_LEN 32

/* When each part of the stop was over; 0 not yet. */
struct source_times {
    uint64_t begin;
    uint64_t prepare_disks; /* how long, not when: what of preparing was the disks', here or there */
    uint64_t disks_begin;
    uint64_t memory_begin;
    uint64_t suspend_begin;
    uint64_t suspended;
    uint64_t drained;
    uint64_t disks_done;
    uint64_t memory_done;
    uint64_t final_sent;
    uint64_t ready;
    uint64_t go;
    uint64_t running;
    uint64_t settled; /* the guest's clients reach it again */
};

enum source_greeting { GREETING_DUE, GREETING_HEARD, GREETING_NEVER };

struct source {
    const struct source_config *config;
    char id[SESSION_ID_LEN + 1];
    struct loop *loop;
    struct job *job;
    struct hv_source *hv;
    const struct hv_guest *guest;
    struct control control;
    bool connected;
    enum compress_mode compress; /* as configured, if the target knows zstd */
    struct stream *stream;
    uint64_t wire_bytes_before; /* of a stream that is closed already */
    unsigned int connections; /* 0: not chosen yet */
    uint64_t round_trip_ns;   /* to a target that is far away; else 0 */
    unsigned int connections_opened; /* of the stream at hand */
    struct source_opening *data_openings; /* one a connection, until a stream has them; NULL: none is under way */
    unsigned int drops;              /* times that the connections broke and were made anew */
    enum switchover_state state;
    struct journal journal;
    const char *phase;
    struct source_times times;
    uint64_t predicted_tail_ns;
    uint64_t last_progress_ns;

    struct mirror_source_config opened[HV_DISKS_MAX]; /* disks and trackers, before the mirrors are made */
    struct {
        pthread_t thread;
        bool runs;
        int result; /* these three are the thread's until it says done */
        struct err err;
        uint64_t ns;
        atomic_bool done;
    } opening;
    struct mirror_source *disks[HV_DISKS_MAX];
    bool disk_bulk_done[HV_DISKS_MAX];
    uint64_t disk_pass_ended_ns[HV_DISKS_MAX];
    uint64_t disk_pass_begun_ns[HV_DISKS_MAX]; /* of the pass over marks that is under way; 0: there is none */
    struct {
        double ns, octets; /* 0: there was none */
    } disk_passes[HV_DISKS_MAX]; /* what such passes took, the older ones counting less and less */
    struct mirror_source_stats disk_results[HV_DISKS_MAX]; /* of those that were closed early */
    bool disks_begun; /* their bulk copy */
    bool disks_final; /* passes are begun by the final code, not by the driver */

    struct care *care;
    uint64_t care_ns; /* when it was asked last */
    uint64_t rate;    /* octets a second that the stream may send now, CARE_NO_LIMIT: all it can */
    struct precopy_throttle throttle;
    unsigned int throttled; /* percent of its processor time that the guest has been given; 100: all */

    struct page_source *pages;
    pthread_t reader;
    bool reader_runs;
    int stream_fd;
    struct hv_event policy; /* a question of the helper that is not answered; kind HV_NOTHING: none */
    unsigned int rounds;
    uint64_t round_pages;      /* dirty at the beginning of the round at hand */
    uint64_t round_begun_ns;
    uint64_t dirty_taken_ns;   /* when the dirty bits were last taken */
    uint64_t dirtied_per_second;
    uint64_t pages_per_second;
    uint64_t pages_at_round;
    struct bitmap dirty; /* mapped: pages of the round at hand */
    int suspended_seen;
    bool resume_failed; /* after the connections broke: the guest may stand still */
    bool saved_seen;

    /* Set by other threads under `lock`, looked at in each turn. */
    pthread_mutex_t lock;
    struct err failure; /* of a worker or the reader */
    bool data_dropped;  /* a data connection broke */
    bool reader_done;
    bool round_done;
    enum source_greeting greeting; /* looked at by the threads that open data connections */
    pthread_cond_t greeting_changed;

    json_t *reply; /* a control message that is waited for */
    enum wire_type reply_type;
    json_t *ready; /* what READY said */
};

/* source-wait.c: serves everything that comes by itself until `done` says so. 0, or the migration's failure. */
int source_wait(struct source *s, bool (*done)(struct source *s), struct err *err);
/* A progress event, when one is due. */
void source_tell_progress(struct source *s);
/* Of that, the hypervisor's events alone. */
int source_serve_hv(struct source *s, struct err *err);
/* Somebody here wants it to end. */
bool source_cancelled(const struct source *s);
/* -ECANCELED then. */
int source_check_cancelled(const struct source *s, struct err *err);
/* For source_wait. */
bool source_is_suspended(struct source *s);
/* Forgets the reply that was waited for. */
void source_drop_reply(struct source *s);
/* Any thread: the first failure ends the migration. */
void source_fail(struct source *s, const struct err *failure);
/* As stream_config wants it. */
void source_stream_failed(void *source, const struct err *failure);
/* The connections broke: nothing that the peer said. */
bool source_link_is_lost(struct source *s);

void source_set_phase(struct source *s, const char *phase);
/* Feeds the switchover table; returns its action. */
enum switchover_action source_feed(struct source *s, enum switchover_event event);

/* source-link.c */
#define SOURCE_CONNECT_TIMEOUT (15 * NS_PER_SEC)

/* Records of the connection also go to a file of that name, where --capture wants it. */
int source_capture(const struct source *s, struct conn *c, const char *name, struct err *err);

int source_connect(struct source *s, struct err *err);
int source_connect_to_check(struct source *s, struct err *err);
void source_disconnect(struct source *s);
int source_make_stream(struct source *s, struct err *err);

/* source-data.c */
/* Begins to open the data connections, in threads; how many, if that is not chosen yet. */
int source_data_begin(struct source *s, struct err *err);
/* What the threads wait for: that the control connection's HELLO was answered, or that none of them is needed any more. */
void source_data_greet(struct source *s, enum source_greeting greeting);
/* Gives the connections to a new stream, which has none yet. Begins to open them if that was not done. */
int source_data_open(struct source *s, struct err *err);
/* The answer to a data connection's HELLO; any thread. */
int source_data_greeted(void *source, struct conn *c, const struct record *record, struct err *err);
/* What was opened and not given to a stream. */
void source_data_end(struct source *s);

/* The failure `code` is one of the connections, and everything can go on where it was. */
bool source_may_reconnect(struct source *s, int code);
/* `err` holds why. The guest runs on, memory is forgotten, the disks go on. Tries for --reconnect-for. */
int source_reconnect(struct source *s, struct err *err);

/* source-end.c: `r` and `err` are how the migration went; acts on it. */
enum source_outcome source_conclude(struct source *s, int r, struct err *err);

/* source-prepare.c */
json_t *source_prepare_message(struct source *s);
/* Whether what the target has of this disk is to be compared first. */
bool source_reuses(const struct source *s, unsigned int disk);

/* source-disks.c */
/* Begins to open disks and trackers, which may take a while, in a thread. */
int source_disks_open(struct source *s, struct err *err);
/* For source_wait: it has come to its end, or to its first error. */
bool source_disks_opened(struct source *s);
/* How that went. Only when it has. */
int source_disks_open_result(struct source *s, struct err *err);
/* Waits for the thread, which looks at the guest. */
void source_disks_open_end(struct source *s);
/* The peer's features are known: makes the mirrors. */
int source_disks_create(struct source *s, struct err *err);
void source_disks_finish(struct source *s);
int source_disks_begin(struct source *s, struct err *err);
/* One turn: begins passes where they are due. */
int source_disks_drive(struct source *s, struct err *err);
bool source_disks_bulk_done(struct source *s);
bool source_disks_idle(struct source *s);
/* Time the last pass would take now; UINT64_MAX while the bulk copy goes on. */
uint64_t source_disks_tail_ns(struct source *s);
int source_disks_drain(struct source *s, struct err *err);
/* Suspended and drained: the last pass of every disk, until nothing is marked; then the audit. */
int source_disks_final(struct source *s, struct err *err);
json_t *source_disks_digests(struct source *s);

/* source-care.c */
int source_care_begin(struct source *s, struct err *err);
/* Just before the first read. */
void source_care_baseline(struct source *s);
/* One turn: what the stream may send, what the guest may use. */
int source_care_turn(struct source *s, struct err *err);
void source_care_new_stream(struct source *s);
/* What lateness means for the guest: PRECOPY_ABORT when nothing helps. */
enum precopy_decision source_throttle(struct source *s, const struct precopy_stats *st);
/* The guest gets all back. */
void source_unthrottle(struct source *s);
void source_care_finish(struct source *s);

/* source-memory.c */
int source_memory_begin(struct source *s, struct err *err);
/* Rounds until the guest has been suspended. */
int source_memory_converge(struct source *s, struct err *err);
/* Waits for the last pages to be acknowledged. */
int source_memory_final(struct source *s, struct err *err);
bool source_memory_done(struct source *s);
/* Serves a HV_POLICY question that waits. */
int source_memory_policy(struct source *s, struct err *err);
/* Ends the reading of the stream: before the hypervisor's side is told to give up. */
void source_memory_cancel(struct source *s);
/* After it has. */
void source_memory_finish(struct source *s);

/* source-report.c */
void source_report_progress(struct source *s);
void source_report_result(struct source *s, enum source_outcome outcome, const struct err *err);
json_t *source_status(struct source *s);

#endif
