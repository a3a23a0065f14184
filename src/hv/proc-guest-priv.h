/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The parts of an embedded guest's process. One thread (the control loop) owns everything here; the load's threads and the
 * heartbeat's touch RAM only. */
#ifndef XMOTION_HV_PROC_GUEST_PRIV_H
#define XMOTION_HV_PROC_GUEST_PRIV_H

#include "hv/guest-load.h"
#include "hv/hv.h"
#include "hv/proc-guest.h"

#include <pthread.h>
#include <sys/types.h>

#define PROC_PATH_MAX    1024
#define PROC_INCOMING    "--incoming"
#define PROC_MOVED       "--moved"
#define PROC_PAGE        4096u
#define PROC_CLIENTS_MAX 8

/* A disk: an nbdkit with our plugin on a socket of its own, and our connection to it. (proc-guest-disk.c) */
struct proc_disk {
    char path[HV_PATH_MAX]; /* what nbdkit serves */
    char socket[PROC_PATH_MAX];
    char bitmap[PROC_PATH_MAX];
    char uri[HV_PATH_MAX];
    uint64_t size; /* as the server says */
    pid_t server;
    void *nbd;
};

extern const struct guest_disk_ops proc_disk_ops; /* its `disk` is a struct proc_disk */

/* Starts its server. Files of the disk are made in `dir`. Must be called while the process has one thread (it forks). */
int proc_disk_start(struct proc_disk *d, unsigned int index, const char *path, const char *dir, struct err *err);
/* The server may still be on its way. */
int proc_disk_connect(struct proc_disk *d, struct err *err);
/* Tells the server to end; proc_disk_close waits for it too. Both also after a failed start, or on zeroes. */
void proc_disk_stop(struct proc_disk *d);
void proc_disk_close(struct proc_disk *d);

/* Who wrote to which page. (proc-guest-dirty.c) */
enum proc_dirty_kind { PROC_DIRTY_OFF, PROC_DIRTY_UFFD, PROC_DIRTY_SOFT };

struct proc_dirty {
    enum proc_dirty_kind kind;
    uint8_t *ram;
    size_t size;
    int uffd;
    int pagemap;
    int bitmap_fd; /* shared with the client: marks are set here, the client takes them */
    uint64_t *bitmap;
    size_t bitmap_size;
};

/* Every page counts as clean from here on. Prefers userfaultfd; XMOTION_GUEST_TRACKING=soft-dirty asks for the other. */
int proc_dirty_begin(struct proc_dirty *d, uint8_t *ram, size_t size, struct err *err);
/* True: nobody may write to RAM during a take. */
bool proc_dirty_needs_pause(const struct proc_dirty *d);
int proc_dirty_take(struct proc_dirty *d, uint64_t *ret_pages, struct err *err);
void proc_dirty_end(struct proc_dirty *d);
const char *proc_dirty_name(const struct proc_dirty *d);

/* (proc-guest-heartbeat.c) */
struct proc_heartbeat {
    struct guest_load *load;
    pthread_t thread;
    pthread_mutex_t lock; /* held: nobody counts */
    bool running;
    int sock;
    int wake;
    uint16_t port; /* what it was bound to last */
};

void proc_heartbeat_init(struct proc_heartbeat *h);
void proc_heartbeat_finish(struct proc_heartbeat *h);
/* Binds `port` of 127.0.0.1, or any when that is taken or 0. */
int proc_heartbeat_start(struct proc_heartbeat *h, struct guest_load *load, uint16_t port, struct err *err);
void proc_heartbeat_stop(struct proc_heartbeat *h);

enum proc_state {
    PROC_EMPTY,    /* incoming, nothing built yet */
    PROC_BUILDING, /* incoming, its RAM is being filled */
    PROC_BUILT,
    PROC_RUNNING,
    PROC_SUSPENDED,
    PROC_SET_ASIDE, /* suspended, under the name NAME--moved */
    PROC_OVER,
    PROC_STATE_COUNT
};

struct proc_guest {
    enum proc_state state;
    char name[HV_NAME_MAX];   /* its own */
    char listed[HV_NAME_MAX]; /* the one its socket has now; "": none */
    char uuid[40];
    char dir[PROC_PATH_MAX]; /* for its disks' sockets; removed at the end */
    int ram_fd;
    uint8_t *ram;
    size_t ram_size;
    struct guest_load_config load_config;
    struct guest_load *load;
    struct proc_disk disks[GUEST_LOAD_DISKS_MAX];
    uint64_t disk_sizes[GUEST_LOAD_DISKS_MAX]; /* an incoming guest's; its volumes may be larger */
    struct proc_dirty dirty;
    struct proc_heartbeat heartbeat;
    uint16_t heartbeat_port;
    int listener;
    int signals;
    int clients[PROC_CLIENTS_MAX]; /* -1: free */
    int mover;                     /* one of them; -1: none */
    int throttler;                 /* the one that slowed the load down; -1: none */
    bool incoming;
    bool begun; /* incoming: building or starting it was tried */
};

const char *proc_state_name(enum proc_state state);

/* What the guest can be told. All leave it as it was when they fail, but where said. (proc-guest.c) */
void proc_guest_init(struct proc_guest *g);
void proc_guest_finish(struct proc_guest *g);
int proc_guest_create(struct proc_guest *g, const struct proc_guest_config *config, struct err *err);
int proc_guest_build(struct proc_guest *g, const struct hv_guest *guest, const char *const *paths, struct err *err);
int proc_guest_complete(struct proc_guest *g, struct err *err);
int proc_guest_go(struct proc_guest *g, const char *mark, struct err *err);
/* As a host's restart does: RAM is new, the disks' log goes on from what they hold. `config` is describe's. */
int proc_guest_start_anew(struct proc_guest *g, const char *name, const json_t *config, const char *const *paths,
                          unsigned int count, struct err *err);
int proc_guest_log_dirty(struct proc_guest *g, uint64_t *ret_pages, struct err *err);
int proc_guest_suspend(struct proc_guest *g, struct err *err);
int proc_guest_resume(struct proc_guest *g, struct err *err);
int proc_guest_set_aside(struct proc_guest *g, struct err *err);
int proc_guest_check(struct proc_guest *g, char *ret_text, size_t size, struct err *err);

/* Names and sockets. (proc-guest-name.c) */
const char *proc_run_dir(void);
int proc_name_check(const char *name, struct err *err);
/* A listening socket under `name`, which must be free. */
int proc_name_listen(const char *name, int *ret_sock, struct err *err);
int proc_name_change(const char *from, const char *to, struct err *err);
void proc_name_remove(const char *name);
/* -ENOENT: nobody answers there. */
int proc_name_connect(const char *name, int *ret_sock, struct err *err);
/* Makes a folder of this process' own. */
int proc_dir_make(char *ret_path, size_t size, struct err *err);
void proc_dir_remove(const char *path);

/* Serves commands until the guest is over. (proc-guest-control.c) */
int proc_control_loop(struct proc_guest *g, struct err *err);
json_t *proc_control_describe(const struct proc_guest *g);

/* Sends {"command": ...}, waits for the answer, makes its error ours. `request` is taken over. (proc-guest-client.c) */
int proc_client_call(int sock, json_t *request, json_t **ret, int *ret_fd, struct err *err);
int proc_client_command(int sock, const char *command, json_t **ret, int *ret_fd, struct err *err);

#endif
