/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The receiver: listens, lets authorized senders in, one thread for each connection. */
#ifndef XMOTION_SESSION_SERVER_H
#define XMOTION_SESSION_SERVER_H

#include "base/err.h"
#include "hv/hv.h"
#include "mirror/volume.h"
#include "transport/identity.h"

#include <jansson.h>
#include <stdbool.h>

#define SERVER_SRS_MAX   32
#define SERVER_DISKS_MAX 256
#define SERVER_MIGRATIONS_MAX 64

struct server_config {
    const char *listen; /* NULL: every address, default port */
    const struct identity *identity;
    const char *state_dir;
    struct volume_sr srs[SERVER_SRS_MAX]; /* what peers may have volumes made in; the first is the default */
    unsigned int sr_count;
    const char *allow_disks[SERVER_DISKS_MAX]; /* existing disks that peers may overwrite, by name */
    unsigned int allow_disk_count;
    unsigned int max_migrations; /* at a time, 1 to SERVER_MIGRATIONS_MAX */
    uint64_t delta_cache; /* octets of its pages that are kept here for a guest that comes, if the sender asks for it; 0 none */
    bool once; /* ends after one migration, with its outcome */
    /* Once, when the socket is open and before anything is taken from it; an error ends the receiver. May be NULL. */
    int (*opened)(void *data, struct err *err);
    void (*event)(void *data, const json_t *event);
    void *data;
};

/* Serves until SIGINT or SIGTERM (0), or, with `once`, until the first migration is over: 0 or its error. */
int server_run(const struct server_config *config, struct err *err);

#endif
