/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the receiver gives up once its socket is open, so that who breaks into it gets less than a root shell. Its children (lvm2,
 * xmotion-xen with libxl, hotplug scripts, device models, embedded guests) inherit all of it, for good. */
#ifndef XMOTION_CLI_CONFINE_H
#define XMOTION_CLI_CONFINE_H

#include "base/err.h"

/* No new privileges; capabilities reduced to those in confine.c; system calls in confine.c denied with EPERM; no core dumps, since they
 * would hold guests' memory; umask 077. Whoever has no privileges gives up what is left. One sentence when the kernel does not
 * let it be done. */
int confine_receiver(struct err *err);

#endif
