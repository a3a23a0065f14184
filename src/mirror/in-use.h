/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether somebody else has a regular file open: a loop device, a device model, another migration. Block devices have O_EXCL. */
#ifndef XMOTION_MIRROR_IN_USE_H
#define XMOTION_MIRROR_IN_USE_H

#include "base/err.h"

/* `fd` is open for writing, the only descriptor of this file that this process has. -EBUSY with a sentence that names `path`. 0 as well
 * where that cannot be asked: a file system without leases (NFS), a file of another user for whom we are not root. */
int in_use_check(int fd, const char *path, struct err *err);

#endif
