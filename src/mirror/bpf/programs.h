/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tracker's programs in the kernel and the memory shared with them. Nothing is pinned: they are
 * gone when this process is. (programs.c is the only file that knows libbpf.) */
#ifndef XMOTION_MIRROR_BPF_PROGRAMS_H
#define XMOTION_MIRROR_BPF_PROGRAMS_H

#include "base/err.h"
#include "mirror/bpf/block-sysfs.h"

#include <linux/types.h>
#include <stddef.h>
#include <stdint.h>

#include "mirror/bpf/counts.h"

struct tracker_kern;

struct programs {
    struct tracker_kern *kern;
    struct tracker_counts *counts; /* written by the kernel at any time: use atomic loads */
    uint64_t *words;               /* the bitmap, also written by the kernel */
    size_t words_len;              /* octets that are mapped */
};

/* Loads the programs for one device, with a bitmap of `blocks` bits, and attaches them. -EPERM,
 * -ENOSYS as tracker_open_bpf says. programs_finish in every case. */
int programs_start(struct programs *p, const struct block_place *place, uint64_t blocks,
                   struct err *err);
void programs_finish(struct programs *p);

/* How often the kernel did not run a program since one ran on that CPU already. */
int programs_misses(const struct programs *p, uint64_t *ret_misses, struct err *err);

#endif
