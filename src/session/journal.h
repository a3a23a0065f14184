/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a receiver has made for a migration that is not over, durable before it is made: the receiver cleans up
 * after itself when it starts again (STATE_DIR/incoming/SESSION.json). */
#ifndef XMOTION_SESSION_JOURNAL_H
#define XMOTION_SESSION_JOURNAL_H

#include "base/err.h"
#include "hv/hv.h"
#include "mirror/volume.h"

struct journal_entry {
    char session[40];
    char guest[HV_NAME_MAX];
    char kind[16];
    bool go; /* GO was received: the guest and its volumes stay, whatever happens */
    struct volume volumes[HV_DISKS_MAX];
    unsigned int volume_count;
};

/* Written and fsynced, replacing what was there. */
int journal_write(const char *state_dir, const struct journal_entry *e, struct err *err);
int journal_remove(const char *state_dir, const char *session, struct err *err);

/* Calls `each` with every entry. A file that cannot be read as one is left alone and logged. */
int journal_each(const char *state_dir, void (*each)(const struct journal_entry *e, void *data), void *data,
                 struct err *err);

#endif
