/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent's handles on Xen, and its log: libxl's messages and our own lines. */
#ifndef XMOTION_HV_XEN_LIBXL_H
#define XMOTION_HV_XEN_LIBXL_H

#include "base/err.h"

#include <stddef.h>

struct agent;

/* Opens libxl, libxenctrl and the xenstore. */
int xen_open(struct agent *a, struct err *err);

/* The path of another program of ours: beside this one. -ENOENT: it is not there. */
int xen_sibling(const char *program, char *path, size_t size);

/* One line to the log of the guest (agent_log_open), with date and process. */
void log_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
