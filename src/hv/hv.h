/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The hypervisor seam. A guest at the source (hv_source) and its copy in the making at the target (hv_target), for Xen
 * domains (hv-xen.c, through the agent program xmotion-xen), for embedded guests (hv-proc.c, the guest's own
 * process) and for disks without a guest (hv-none.c).
 *
 * Calls are made by one thread (the session's). Those that take long say so; what happens by itself comes as events:
 * when `fd` is readable, `next_event` is called until -EAGAIN.
 *
 * Memory leaves the source in one of two ways, told by `memory_kind`:
 *   HV_MEMORY_STREAM  (Xen) an fd from which a libxl v2 stream is read; rounds are run by the save helper, which asks for a
 *                     decision by HV_POLICY events, answered with `policy_answer`.
 *   HV_MEMORY_MAPPED  (embedded) the guest's RAM is mapped here; rounds are run by memsync with `log_dirty_take`, and
 *                     the session calls `suspend` itself.
 */
#ifndef XMOTION_HV_HV_H
#define XMOTION_HV_HV_H

#include "base/bitmap.h"
#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define HV_NAME_MAX  128
#define HV_VBD_MAX   32
#define HV_PATH_MAX  1024
#define HV_DISKS_MAX 64

enum hv_memory_kind { HV_MEMORY_NONE, HV_MEMORY_STREAM, HV_MEMORY_MAPPED };

struct hv_disk {
    char vbd[HV_VBD_MAX];    /* "xvda"; "disk0" of an embedded guest */
    char path[HV_PATH_MAX];  /* what the mirror reads and tracks at the source: device path or NBD URI */
    char label[HV_PATH_MAX]; /* what the user knows it by: "/dev/vg0/vm1-root" */
    uint64_t size;           /* octets */
    uint32_t sector_size;
    bool read_only;
};

struct hv_guest {
    char kind[16];          /* "xen-pvh", "xen-pv", "xen-hvm", "proc", "none" */
    char name[HV_NAME_MAX];
    char uuid[40];
    uint64_t memory;        /* octets of RAM the guest has now */
    uint64_t max_pfn;       /* largest PFN that may appear */
    struct hv_disk disks[HV_DISKS_MAX];
    unsigned int disk_count;
    json_t *config;         /* what the target needs to build it; sent as it is; owned by the guest */
};

enum hv_event_kind {
    HV_NOTHING,
    HV_POLICY,    /* a round was begun or sent: answer with policy_answer; the guest runs on meanwhile */
    HV_SUSPENDED, /* the guest stands still; its devices may still have writes in flight (drain them) */
    HV_SAVED,     /* everything of the guest's memory and state has been given to the stream */
    HV_GONE,      /* the guest ended by itself (shutdown, crash, destroyed): text says which */
    HV_FAILED,    /* source: the save failed, the guest runs on (or text says otherwise). target: the build failed */
    HV_BUILT,     /* target: the guest is complete, paused, its devices connected */
};

enum hv_policy { HV_CONTINUE = 0, HV_STOP = 1, HV_ABORT = -1 };

struct hv_event {
    enum hv_event_kind kind;
    char text[400];
    /* HV_POLICY: */
    bool before_round;      /* dirty_pages is known; else the round has been sent */
    unsigned int iteration; /* from 0 */
    uint64_t total_written; /* pages so far */
    int64_t dirty_pages;    /* -1 unknown */
    uint64_t duration_ns;   /* HV_SUSPENDED: what suspending took. HV_BUILT: what building after the stream took */
};

struct hv_source;

struct hv_source_ops {
    const char *name;
    enum hv_memory_kind memory_kind;
    const struct hv_guest *(*guest)(struct hv_source *s);
    int (*fd)(struct hv_source *s);
    int (*next_event)(struct hv_source *s, struct hv_event *ret, struct err *err);
    /* Everything that must hold at the source before anything moves (suspend support, shadow paging for PV, no passed
     * through devices, backends...). -ENOTSUP and the like, one sentence with what to do. */
    int (*check)(struct hv_source *s, struct err *err);
    /* Disks: called once before tracking starts, and undone by close. Embedded: nothing. */
    /* Starts saving. STREAM: *ret_fd is where to read. MAPPED: log-dirty is on, RAM is at *ret_memory. */
    int (*memory_begin)(struct hv_source *s, int *ret_fd, const uint8_t **ret_memory, struct err *err);
    int (*policy_answer)(struct hv_source *s, enum hv_policy answer, struct err *err);
    /* MAPPED: marks pages written since the last call (or since memory_begin) in `dirty`. */
    int (*log_dirty_take)(struct hv_source *s, struct bitmap *dirty, uint64_t *ret_pages, struct err *err);
    /* Lets the guest have `percent` (1 to 100) of the processor time it could have before; 100 puts back what was set before the
     * first call, as do close, the end of this process, and hv_recover_resume. -ENOTSUP where nothing can be capped. */
    int (*throttle)(struct hv_source *s, unsigned int percent, struct err *err);
    /* MAPPED and NONE: suspends now (HV_SUSPENDED follows). NONE runs --stop-command. */
    int (*suspend)(struct hv_source *s, struct err *err);
    /* Before GO: ends saving wherever it is and lets the guest run on under its own name. Waits until it does: 0, or what is
     * true of the guest now. Idempotent; safe in every state. memory_begin may follow: then all begins anew, and events of
     * the save that was ended do not come any more. */
    int (*resume)(struct hv_source *s, struct err *err);
    /* Saved: sets the source's guest aside under the name NAME--moved, so that NAME is free. The last step before GO: from
     * here on nothing (close, a dying process) resumes it by itself, only `resume`, for whoever knows that the target has
     * destroyed its copy. */
    int (*set_aside)(struct hv_source *s, struct err *err);
    /* After RUNNING: the guest's source half is destroyed; its disks are kept. */
    int (*destroy)(struct hv_source *s, struct err *err);
    void (*close)(struct hv_source *s); /* resumes first, if nothing else was said */
};

struct hv_source {
    const struct hv_source_ops *ops;
};

struct hv_target;

struct hv_target_ops {
    const char *name;
    enum hv_memory_kind memory_kind;
    int (*fd)(struct hv_target *t);
    int (*next_event)(struct hv_target *t, struct hv_event *ret, struct err *err);
    /* What must hold at this host: name and UUID free, free memory, bridges, versions. Nothing is made. */
    int (*check)(struct hv_target *t, struct err *err);
    /* Starts building the guest under the name NAME--incoming with the disks at `disk_paths` (one for each of the
     * guest's disks, in order). STREAM: *ret_fd is where the libxl stream is written. MAPPED: RAM to fill is at
     * *ret_memory. HV_BUILT follows when the whole stream was taken (STREAM) or after `memory_complete` (MAPPED). */
    int (*memory_begin)(struct hv_target *t, const char *const *disk_paths, int *ret_fd, uint8_t **ret_memory,
                        struct err *err);
    int (*memory_complete)(struct hv_target *t, struct err *err);
    /* GO: takes its real name, makes the empty file `mark` (its folder is there; NULL none), and runs. So without the mark it never
     * ran, whoever died meanwhile. *ret_ns: how long that took. */
    int (*run)(struct hv_target *t, const char *mark, uint64_t *ret_ns, struct err *err);
    /* After run: waits until the guest has connected its devices again, so that its clients reach it; *ret_ns: how long that
     * took since run. -ETIMEDOUT after `timeout_ns` (the guest runs all the same). */
    int (*settle)(struct hv_target *t, uint64_t timeout_ns, uint64_t *ret_ns, struct err *err);
    /* Destroys what was built. Idempotent. After it the guest does not exist here, and memory_begin may be called again. */
    int (*destroy)(struct hv_target *t, struct err *err);
    /* Forgets the target; the guest runs on if `run` succeeded, and is destroyed otherwise. */
    void (*close)(struct hv_target *t);
};

struct hv_target {
    const struct hv_target_ops *ops;
};

/* "vm1" a Xen domain by name or domid, "proc:NAME" an embedded guest. Finds and describes; changes nothing.
 * -ENOENT with what there is instead. */
int hv_source_open(struct hv_source **ret, const char *guest, struct err *err);
int hv_source_open_xen(struct hv_source **ret, const char *guest, struct err *err);
int hv_source_open_proc(struct hv_source **ret, const char *name, struct err *err);
/* A disk without a guest: a block device, or an NBD URI whose size the caller has asked for (else 0). `stop_command` (NULL none,
 * borrowed) runs where a guest would be suspended. */
int hv_source_open_none(struct hv_source **ret, const char *path, const char *stop_command, uint64_t nbd_size,
                        struct err *err);

/* `guest` is what the peer sent (hv_guest_from_json): hostile, checked here as far as it is used. `new_name` may be NULL. */
int hv_target_open(struct hv_target **ret, const struct hv_guest *guest, struct err *err);
int hv_target_open_xen(struct hv_target **ret, const struct hv_guest *guest, struct err *err);
int hv_target_open_proc(struct hv_target **ret, const struct hv_guest *guest, struct err *err);
int hv_target_open_none(struct hv_target **ret, const struct hv_guest *guest, struct err *err);

/* The part of a guest that travels in PREPARE; paths stay at home. */
json_t *hv_guest_to_json(const struct hv_guest *g); /* NULL: out of memory, or a text that is no UTF-8 */
int hv_guest_from_json(struct hv_guest *ret, const json_t *json, struct err *err);
void hv_guest_finish(struct hv_guest *g);

#endif
