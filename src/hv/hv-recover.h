/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is there of a guest whose migration was left unfinished (a process or a host died), and what brings it to an end. For whoever
 * holds the journal, when its owner is known to be dead; each call stands alone, takes up to two minutes, and may be made again.
 *
 * A guest is known by kind, name (its own, without any suffix) and uuid: a domain of that name with another uuid is never touched.
 * What another process still works on is waited for (the agent of a sender that died resumes its guest by itself); after a minute
 * the call fails with -EBUSY and nothing is changed: try again later. The kind "none" (disks without a guest) has nothing to find;
 * for it everything but hv_recover_find's answer is 0. */
#ifndef XMOTION_HV_HV_RECOVER_H
#define XMOTION_HV_HV_RECOVER_H

#include "hv/hv.h"

struct hv_found {
    bool running;  /* under its own name and uuid: runs, was paused by somebody, or ended by itself and is kept */
    bool still;    /* under its own name, stands still, and nobody will let it run but hv_recover_resume: suspended for a save, or
                    * (target) built and given its name, but not started yet */
    bool aside;    /* NAME--moved */
    bool incoming; /* NAME--incoming */
};

/* Changes nothing. */
int hv_recover_find(struct hv_found *ret, const char *kind, const char *name, const char *uuid, struct err *err);

/* Still or aside: runs again under its own name, with a monitor as before. Running: what a killed helper or agent left behind is
 * undone (tracking of its memory, a request to suspend, a cap on its processors), and that is all. -ENOENT: it is not here. */
int hv_recover_resume(const char *kind, const char *name, const char *uuid, struct err *err);

/* Destroys NAME--moved, which must stand still (-EBUSY). 0 when there is none. */
int hv_recover_destroy_aside(const char *kind, const char *name, const char *uuid, struct err *err);

/* Destroys what was being built as NAME--incoming, and what took its own name but never ran. 0 when there is none. */
int hv_recover_destroy_incoming(const char *kind, const char *name, const char *uuid, struct err *err);

/* Starts it anew from its disks, as after a power loss of its host, with a monitor for its reboots. `config` is hv_guest.config;
 * `disk_paths` as the host's administrator knows them: hv_disk.label at the source, the volumes at the target, in the guest's order.
 * -EEXIST: it is here, under any of its names. */
int hv_recover_start(const char *kind, const char *name, const json_t *config, const char *const *disk_paths,
                     unsigned int disk_count, struct err *err);

/* Puts back the cap that hv_source_ops.throttle has changed, if it has; hv_recover_resume does so too. -ENOENT: it is not here. */
int hv_recover_unthrottle(const char *kind, const char *name, const char *uuid, struct err *err);

#endif
