/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/tracker.h"
#include "config.h"
#include "mirror/blockdev.h"

#include <sys/stat.h>

static bool is_plain_file(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

int tracker_open(struct tracker **ret, const char *name, struct err *err)
{
    if (blockdev_is_uri(name))
        return tracker_open_nbd(ret, name, err);
    return is_plain_file(name) ? tracker_open_lease(ret, name, err) : tracker_open_bpf(ret, name, err);
}

#if !HAVE_BPF
int tracker_open_bpf(struct tracker **ret, const char *device, struct err *err)
{
    (void)ret;
    return err_set(err, -ENOTSUP, "%s: this xmotion was built without the eBPF tracker", device);
}
#endif

#if !HAVE_NBD
int tracker_open_nbd(struct tracker **ret, const char *uri, struct err *err)
{
    (void)ret;
    return err_set(err, -ENOTSUP, "%s: this xmotion was built without NBD", uri);
}
#endif
