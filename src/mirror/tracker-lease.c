/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A plain file that nobody writes to. The kernel gives a read lease only on a file that nobody has open for writing, and takes it
 * back from us when somebody wants to (fcntl(2)): as long as we have it, the file is as it was. Whoever comes meanwhile waits until we
 * look next, which gives the lease up; then the copy is worth nothing. */
#include "mirror/tracker.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct tracker_lease {
    struct tracker tracker;
    int fd;
};

static struct tracker_lease *self(struct tracker *t)
{
    return (struct tracker_lease *)t;
}

/* One that is given up does not come back. */
static bool is_held(struct tracker *t)
{
    int fd = self(t)->fd;

    if (fcntl(fd, F_GETLEASE) == F_RDLCK)
        return true;
    (void)fcntl(fd, F_SETLEASE, F_UNLCK);
    return false;
}

static int check(struct tracker *t, struct err *err)
{
    return is_held(t) ? 0 : err_set(err, -EIO, "somebody has opened it for writing while it was copied, and writes to a plain file cannot be followed");
}

static int lease_collect(struct tracker *t, struct bitmap *dirty, uint64_t *ret_blocks, struct err *err)
{
    (void)dirty;
    *ret_blocks = 0;
    return check(t, err);
}

static uint64_t lease_count(struct tracker *t)
{
    return is_held(t) ? 0 : t->blocks;
}

static int lease_drain(struct tracker *t, uint64_t timeout_ns, struct err *err)
{
    (void)timeout_ns;
    return check(t, err);
}

static void lease_destroy(struct tracker *t)
{
    (void)close(self(t)->fd);
    free(t);
}

static const struct tracker_ops lease_ops = {
    .name = "lease",
    .collect = lease_collect,
    .count = lease_count,
    .reset = check,
    .drain = lease_drain,
    .audit = check,
    .check = check,
    .destroy = lease_destroy,
};

/* Who breaks a lease makes the kernel send a signal, which must not be SIGIO: that ends a process. */
static int take_lease(int fd, const char *path, struct err *err)
{
    if (fcntl(fd, F_SETSIG, SIGURG) == 0 && fcntl(fd, F_SETLEASE, F_RDLCK) == 0)
        return 0;
    if (errno == EAGAIN)
        return err_set(err, -EBUSY,
                       "%s is a plain file that somebody has open for writing, and such writes cannot be followed (end the writer, or use losetup, or nbdkit with the xmotion plugin)",
                       path);
    return err_errno(err, -errno, "%s: a lease on the file", path);
}

int tracker_open_lease(struct tracker **ret, const char *path, struct err *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct tracker_lease *t;
    struct stat st;
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        return err_errno(err, -errno, "%s", path);
    r = take_lease(fd, path, err);
    if (r < 0)
        return r;
    t = calloc(1, sizeof(*t));
    if (!t)
        return err_set(err, -ENOMEM, "no memory for a tracker");
    t->tracker.ops = &lease_ops;
    t->tracker.blocks = ((uint64_t)st.st_size + TRACKER_GRANULARITY - 1) / TRACKER_GRANULARITY;
    t->fd = take_fd(&fd);
    *ret = &t->tracker;
    return 0;
}
