/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* xmotion-xen: the program that knows Xen, so that xmotion itself is linked with no Xen library.
 * One process serves one guest, at the source or at the target, for one controller (hv-xen.c) at
 * the socket it inherits.
 *
 * Requests {"do": WHAT, ...} get one answer {"reply": WHAT, ...} or {"reply": WHAT, "error": TEXT,
 * "errno": N}; but for
 * {"do": "policy"}, which gets none. Events {"event": WHAT, ...} come in between. One thread;
 * libxl's asynchronous operations go on while the agent waits for the controller. */
#ifndef XMOTION_HV_XEN_AGENT_H
#define XMOTION_HV_XEN_AGENT_H

#include "base/err.h"

#include <jansson.h>
#include <libxl.h>
#include <libxl_utils.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <xenctrl.h>
#include <xenstore.h>

#define INCOMING_SUFFIX "--incoming"
#define MOVED_SUFFIX    "--moved"
#define XEN_LOG_FOLDER  "/var/log/xen"

/* One asynchronous operation of libxl. */
struct operation {
    bool running;
    int rc;
    libxl_asyncop_how how;
};

struct agent {
    libxl_ctx *ctx;
    xc_interface *xch;
    struct xs_handle *xs;
    int control;    /* -1: the controller is gone or was never there */
    uint32_t domid; /* INVALID_DOMID: none */
    char name[128]; /* without any suffix */
    bool ended;     /* the main loop ends after this turn */
    int lock;       /* who has it works on the guest; -1 not taken */
    bool left_alone; /* nothing is to be done for the domain when the controller is gone */
    bool recovered;  /* it was brought back after a crash: only a monitor may be missing */

    /* the source */
    libxl_evgen_domain_death *death;
    bool had_monitor; /* xl's daemon looked after the domain before it was suspended */
    bool suspending;  /* the guest was asked to suspend in this save */
    bool aside;       /* set aside under NAME--moved: never resumed by itself any more */
    bool resumed;     /* after having been suspended */
    bool destroyed;
    int helper;     /* socket to the save helper, -1 none */
    int helper_end; /* the helper's end, ours until it has said hello */
    bool policy_asked;
    struct operation save;

    /* the target */
    libxl_domain_config config;
    struct operation restore;
    bool waiting;       /* for the stream's first octets */
    int stream_watch;   /* tells when the stream begins, and when its writer has closed it; -1 */
    uint64_t stream_ns; /* when that was */
    bool ran;           /* GO was done: the guest is ours */
};

static inline bool domid_set(const struct agent *a)
{
    return a->domid != (uint32_t)INVALID_DOMID;
}

/* xen-agent.c */
/* The last thing libxl complained of, for sentences; "" none. Cleared by libxl_complaint_clear. */
const char *libxl_complaint(void);
void libxl_complaint_clear(void);
/* Sets the error to "<what>: <libxl's complaint or the name of its code>". */
int err_libxl(struct err *err, int code, int rc, const char *what);
/* Waits for whatever comes next (libxl, helper, stream; the controller only if `with_control`) for
 * at most `timeout_ms`, and handles what is libxl's and the helper's. *ret_control: the controller
 * has something to say. */
void agent_turn(struct agent *a, bool with_control, int timeout_ms, bool *ret_control);
void agent_event(struct agent *a, json_t *event); /* takes over `event` */
void agent_log_open(const char *name);            /* standard error becomes the log of guest NAME */
void operation_begin(struct operation *op);
/* Turns until the operation is done or `timeout_ms` have passed (-ETIMEDOUT). */
int operation_wait(struct agent *a, struct operation *op, int timeout_ms);

/* xen-lock.c */
/* Makes this process the one that works on the guest a->name; waits at most `wait_ms` for another one to end: -EBUSY. */
int xen_lock_take(struct agent *a, int wait_ms, struct err *err);
void xen_lock_drop(struct agent *a);
/* This process is the domain's monitor until it ends. False: another one is. */
bool xen_monitor_mark(uint32_t domid);
/* The process that is; 0 none. */
pid_t xen_monitor_marked(uint32_t domid);
/* A process that saves or migrates the domain (a save helper, xl) or is about to resume it; 0 none. */
pid_t xen_saver_of(const char *name, uint32_t domid);

/* xen-config.c */
int xen_describe(struct agent *a, const char *guest, json_t **ret, struct err *err);
/* Under the lock: whether the domain bears the name of one that was set aside, by whomever. */
void xen_look_aside(struct agent *a);
/* The domain's libxl configuration; the caller disposes of it. */
int xen_config_get(struct agent *a, libxl_domain_config *ret, struct err *err);
/* The peer's configuration, as xen_describe packed it. The caller disposes of *ret if this
 * succeeds. */
int xen_config_parse(struct agent *a, const json_t *packed, libxl_domain_config *ret,
                     struct err *err);
/* Names that may be given to a domain here. */
int xen_name_check(const char *name, struct err *err);

/* xen-disk.c */
int xen_disks(struct agent *a, json_t **ret, struct err *err);

/* xen-guard.c: what a configuration may not have, since it cannot be moved or since no peer may ask
 * for it. */
int xen_guard(const libxl_domain_config *config, struct err *err);
/* At the target: libxl hands these files to the guest when it starts again, so a peer may name none that is a secret. */
int xen_guard_boot_files(const libxl_domain_build_info *b, struct err *err);
int xen_guard_disk(const libxl_device_disk *disk, struct err *err);

/* xen-memory.c */
int xen_memory_check(struct agent *a, libxl_domain_config *config, struct err *err);
/* Makes dom0 give up what is missing. Takes up to 20 s. */
int xen_memory_free(struct agent *a, libxl_domain_config *config, struct err *err);

/* xen-cpu.c */
int xen_cpu_get(struct agent *a, json_t **ret, struct err *err);
/* Whether a guest with this CPU policy can run here. */
int xen_cpu_check(struct agent *a, const json_t *cpu, bool pv, struct err *err);

/* xen-check.c */
int xen_check_host(struct err *err);
int xen_check_source(struct agent *a, struct err *err);

/* xen-check-target.c */
/* *ret_warnings: sentences about what will be missed later. */
int xen_check_target(struct agent *a, const json_t *request, json_t **ret_warnings,
                     struct err *err);
/* -EEXIST: a domain here has it. */
int xen_check_uuid(struct agent *a, const libxl_uuid *uuid, struct err *err);

/* xen-save.c */
int xen_save_begin(struct agent *a, int *stream, struct err *err); /* takes *stream over */
void xen_save_turn(struct agent *a);
void xen_save_helper_says(struct agent *a);
int xen_policy_answer(struct agent *a, int answer);
int xen_resume(struct agent *a, struct err *err);
/* Lets a suspended domain run on. */
int xen_run_on(struct agent *a, struct err *err);
int xen_take_name_back(struct agent *a, struct err *err);
void xen_stop_log_dirty(struct agent *a);
int xen_set_aside(struct agent *a, struct err *err);
int xen_source_destroy(struct agent *a, struct err *err);
void xen_source_watch(struct agent *a);

/* xen-restore.c */
int xen_restore_begin(struct agent *a, const json_t *request, int *stream,
                      struct err *err); /* takes *stream over */
void xen_restore_turn(struct agent *a);
/* Waits until the guest that runs has connected its devices. */
int xen_settle(struct agent *a, uint64_t timeout_ns, uint64_t *ret_ns, struct err *err);
int xen_run(struct agent *a, const char *mark, uint64_t *ret_ns, struct err *err);
int xen_target_destroy(struct agent *a, struct err *err);
/* a->config becomes what the request says ("name", "config", "paths"), checked: of a guest that is incoming, or that starts here. */
int xen_adopt_config(struct agent *a, const json_t *request, bool incoming, struct err *err);

/* xen-throttle.c */
/* Percent of what it had before the first call; 100 puts that back. */
int xen_throttle(struct agent *a, unsigned int percent, struct err *err);
void xen_unthrottle(struct agent *a); /* the same with 100; a failure is logged */

/* xen-recover.c: hv-recover.h's functions. */
int xen_recover_find(struct agent *a, const json_t *request, json_t *reply, struct err *err);
int xen_recover_resume(struct agent *a, const json_t *request, struct err *err);
int xen_recover_destroy_aside(struct agent *a, const json_t *request, struct err *err);
int xen_recover_destroy_incoming(struct agent *a, const json_t *request, struct err *err);
int xen_recover_start(struct agent *a, const json_t *request, struct err *err);
int xen_recover_unthrottle(struct agent *a, const json_t *request, struct err *err);

/* xen-script.c */
/* While the guest is built its devices are connected by xmotion-hotplug, then by the stock scripts
 * again. */
void xen_scripts_replace(libxl_domain_config *config);
void xen_scripts_restore(struct agent *a);

/* xen-settle.c */
/* Whether the guest's frontends of disks and network all are, also when it has none. */
bool xen_devices_connected(struct agent *a);

/* xen-monitor.c */
/* Whether a process looks after the domain as xl's daemon does. */
bool xen_monitor_exists(const struct agent *a);
/* Does what the configuration wants when the domain ends, until it is gone. Returns the exit code.
 */
int xen_monitor(struct agent *a);

/* The state of a domain. -ENOENT: there is none. */
int xen_domain_info(struct agent *a, libxl_dominfo *ret, struct err *err);

#endif
