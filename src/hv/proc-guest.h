/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The embedded guest: a process with RAM, disks and a load that proves them whole (guest-load.h). It is reached at
 * RUN/guests/NAME.sock, RUN being $XMOTION_RUN_DIR or /run/xmotion, by one JSON object a message (agent.h):
 *
 *   {"command": "describe" | "stats" | "verify"}              at any time
 *   {"command": "memory_begin"}   the client becomes the mover: RAM comes with the answer, the dirty bitmap with a second
 *   {"command": "log_dirty_take" | "suspend" | "set_aside"}   mover only
 *   {"command": "resume" | "destroy"}                         the mover, or anybody while there is none
 *   {"command": "throttle", "percent": N}                     the same; ends with the connection
 *   {"command": "build", "guest": {...}, "paths": [...]}, then "complete", "run"     incoming guests only
 *   {"command": "start", "name": TEXT, "config": {...}, "paths": [...]}             a new process only: starts from its disks
 *
 * When the mover goes away without a word, a guest at the source goes on running (one set aside stays as it is: its copy may run
 * already, and a person or `recover` decides), and an incoming one that does not run yet destroys itself. */
#ifndef XMOTION_HV_PROC_GUEST_H
#define XMOTION_HV_PROC_GUEST_H

#include "base/err.h"
#include "hv/guest-load.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#define PROC_GUEST_NAME_MAX 64 /* characters */

struct proc_guest_config {
    const char *name;
    uint64_t memory;         /* octets, a multiple of 4096 */
    uint64_t dirty_rate;     /* octets a second */
    uint64_t write_rate;     /* octets a second, all disks together */
    uint64_t dirty_part;     /* octets of a page that change when it is dirtied, see guest-load.h; 0: all */
    uint64_t dirty_set;      /* octets of RAM that are dirtied at all; 0: all */
    uint16_t heartbeat_port; /* UDP on 127.0.0.1; 0: any free one, see "heartbeat_port" of describe */
    unsigned int disk_count;
    const char *disks[GUEST_LOAD_DISKS_MAX]; /* files or block devices */
};

/* Runs a guest until SIGTERM, SIGINT or the command destroy: 0. Its name is taken once it runs. -EEXIST: the name is taken. */
int proc_guest_run(const struct proc_guest_config *config, struct err *err);

/* `guest incoming FD`: what a target starts. Returns the exit code of the process. */
int proc_guest_incoming(int sock);

/* 0: whole. -EBADMSG: `ret_text` says what is not. The load stands still meanwhile. */
int proc_guest_verify(const char *name, char *ret_text, size_t size, struct err *err);

/* The caller frees with json_decref. -ENOENT: no such guest. */
int proc_guest_describe(const char *name, json_t **ret, struct err *err);
int proc_guest_stats(const char *name, json_t **ret, struct err *err);

/* An array with the description of every embedded guest of this host. */
int proc_guest_list(json_t **ret, struct err *err);

int proc_guest_destroy(const char *name, struct err *err);

#endif
