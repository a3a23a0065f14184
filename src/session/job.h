/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A migration under way on this host, as `xmotion list` and `xmotion cancel` find it: a socket in the run folder
 * ($XMOTION_RUN_DIR or /run/xmotion)/jobs/ID that answers {"cmd":"status"} and takes {"cmd":"cancel"}. */
#ifndef XMOTION_SESSION_JOB_H
#define XMOTION_SESSION_JOB_H

#include "session/loop.h"

#include <jansson.h>
#include <stdbool.h>

struct job;

/* `status` makes the answer to a status request (new reference). */
int job_create(struct job **ret, struct loop *loop, const char *id, json_t *(*status)(void *data), void *data,
               struct err *err);
void job_destroy(struct job *j);

/* Serves requests that are there. */
void job_work(struct job *j);
bool job_cancelled(const struct job *j);

/* From now on who cancels is told this sentence, which stays the caller's. */
void job_refuse(struct job *j, const char *text);

/* The run folder, made when it is missing. */
int job_run_dir(char *ret, size_t size, struct err *err);

/* All jobs of this host: an array of their status objects; sockets nobody listens on are removed. */
int job_list(json_t **ret, struct err *err);

/* Cancels by id (or a unique beginning of it) or by guest's name. -ENOENT. */
int job_cancel(const char *what, struct err *err);

#endif
