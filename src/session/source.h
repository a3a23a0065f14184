/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sender's half of a migration. */
#ifndef XMOTION_SESSION_SOURCE_H
#define XMOTION_SESSION_SOURCE_H

#include "base/err.h"
#include "memsync/precopy-policy.h"
#include "transport/compress-choice.h"
#include "transport/identity.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define SOURCE_DISK_MAPS 64

struct source_disk_map {
    const char *vbd;
    const char *path; /* at the target */
    bool reuse;       /* what it holds is compared first, not overwritten unseen */
};

struct source_config {
    const char *guest;   /* "vm1", "proc:NAME", "disk:/dev/..." */
    const char *address; /* of the receiver */
    const struct identity *identity;
    const char *state_dir; /* of the journal */
    const char *sr;      /* NULL: the receiver's first */
    struct source_disk_map maps[SOURCE_DISK_MAPS];
    unsigned int map_count;
    struct precopy_limits limits;
    unsigned int connections; /* 0: by the cores here and by how far away the target is */
    uint64_t reconnect_ns; /* how long to try again when the connections break; 0 never */
    uint64_t max_bandwidth; /* octets a second while the guest runs; 0 no limit */
    bool brake;            /* keep the source's disks quick for the guest */
    bool reuse;            /* every disk */
    bool verify;           /* the target reads back what it wrote */
    enum compress_mode compress;
    uint64_t delta_cache; /* octets that either end may keep of the guest's pages, so that what changed in them can be sent; 0 none */
    bool remove_source_disks;
    const char *stop_command; /* disk: only */
    const char *go_command;
    const char *capture; /* folder, NULL none */
    /* One event of the documented JSON forms (progress, phase, result); borrowed. */
    void (*event)(void *data, const json_t *event);
    void *data;
};

/* How it ended; also the exit code of `xmotion send`. */
enum source_outcome {
    SOURCE_MOVED = 0,
    SOURCE_FAILED = 1,         /* before GO: the guest runs on here */
    SOURCE_REFUSED = 3,        /* by a check: nothing was begun */
    SOURCE_CANCELLED = 4,      /* the guest runs on here */
    SOURCE_UNKNOWN = 5,        /* GO sent, no answer: a person decides */
    SOURCE_MOVED_UNCLEAN = 6,  /* moved, but something is left at the source */
    SOURCE_GUEST_LOST = 7,     /* the guest ended by itself, or could not be resumed */
};

/* Runs one migration in the calling thread (the process's main thread: it watches SIGINT and SIGTERM, which
 * cancel). `err` says why when the outcome is not SOURCE_MOVED. */
enum source_outcome source_run(const struct source_config *config, struct err *err);

/* Only what can be checked before a start, at both ends. *ret_report: {"problems":[text...], "guest":{...}}. */
enum source_outcome source_check(const struct source_config *config, json_t **ret_report, struct err *err);

#endif
