/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/volume.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "mirror/blockdev.h"

#include <ctype.h>
#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define SESSION_XATTR "user.xmotion.session"
#define IN_USE_WAIT   (10 * NS_PER_SEC)
#define LOOK_WAIT     (2 * NS_PER_SEC)

static bool name_char(char c)
{
    return isalnum((unsigned char)c) || strchr("._+-", c);
}

int volume_sr_parse(struct volume_sr *ret, const char *spec, struct err *err)
{
    const char *place = strchr(spec, ':');
    bool lvm = strncmp(spec, "lvm:", 4) == 0;
    bool dir = strncmp(spec, "dir:", 4) == 0;

    if (!place || !place[1] || (!lvm && !dir) || strlen(place + 1) >= sizeof(ret->place))
        return err_set(err, -EINVAL, "\"%.200s\" is no SR: expected lvm:VOLUMEGROUP or dir:/PATH", spec);
    place++;
    ret->kind = lvm ? VOLUME_LVM : VOLUME_FILE;
    (void)strcpy(ret->place, place);
    if (dir && place[0] != '/')
        return err_set(err, -EINVAL, "\"%s\" is no SR: the folder is given by its absolute path, dir:/PATH", spec);
    for (const char *p = place; lvm && *p; p++) {
        if (!name_char(*p) || place[0] == '-' || strcmp(place, "..") == 0 || strcmp(place, ".") == 0)
            return err_set(err, -EINVAL, "\"%s\" is no SR: \"%s\" cannot be a volume group's name", spec, place);
    }
    return 0;
}

static int folder_check(const char *path, uint64_t bytes, struct err *err)
{
    struct statvfs fs;
    struct stat st;
    uint64_t available;

    if (stat(path, &st) < 0)
        return err_errno(err, -errno, "SR dir:%s", path);
    if (!S_ISDIR(st.st_mode))
        return err_set(err, -ENOTDIR, "SR dir:%s is not a folder", path);
    if (statvfs(path, &fs) < 0)
        return err_errno(err, -errno, "SR dir:%s", path);
    available = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (available < bytes)
        return err_set(err, -ENOSPC, "SR dir:%s has %llu MiB free, the disks hold up to %llu MiB: free space there or choose another --sr",
                       path, (unsigned long long)(available >> 20), (unsigned long long)(bytes >> 20));
    return 0;
}

int volume_sr_check(const struct volume_sr *sr, uint64_t bytes, struct err *err)
{
    return sr->kind == VOLUME_LVM ? volume_lvm_check(sr->place, bytes, err) : folder_check(sr->place, bytes, err);
}

void volume_safe_name(char *ret, const char *label)
{
    const char *base = strrchr(label, '/');
    size_t n = 0;

    for (const char *p = base ? base + 1 : label; *p && n < VOLUME_NAME_MAX - 1; p++) {
        if (n == 0 && (*p == '-' || *p == '.'))
            continue;
        ret[n++] = name_char(*p) ? *p : '_';
    }
    if (n == 0)
        ret[n++] = 'd';
    ret[n] = '\0';
}

int volume_plan(struct volume *ret, const struct volume_sr *sr, const char *name, uint64_t size, struct err *err)
{
    int n;

    ret->kind = sr->kind;
    ret->size = size;
    n = snprintf(ret->path, sizeof(ret->path), "%s%s/%s", sr->kind == VOLUME_LVM ? "/dev/" : "", sr->place, name);
    if (n < 0 || (size_t)n >= sizeof(ret->path))
        return err_set(err, -ENAMETOOLONG, "the path of volume %s in %s is too long", name, sr->place);
    return 0;
}

/* Sparse, made under no other name: O_EXCL decides who made it. The session is noted in an attribute where the
 * file system has them, so that a clean-up never removes another's file. */
static int file_create(const struct volume *v, const char *session, struct err *err)
{
    CLEANUP_CLOSE int fd = open(v->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0 && errno == EEXIST)
        return err_set(err, -EEXIST, "%s is there already: remove it, or choose another --sr or --disk", v->path);
    if (fd < 0)
        return err_errno(err, -errno, "making %s", v->path);
    (void)fsetxattr(fd, SESSION_XATTR, session, strlen(session), 0);
    if (ftruncate(fd, (off_t)v->size) < 0 || fsync(fd) < 0) {
        int r = -errno;

        (void)unlink(v->path);
        return err_errno(err, r, "giving %s its %llu octets", v->path, (unsigned long long)v->size);
    }
    return 0;
}

/* Only a file system without attributes leaves the name alone to go by. */
static bool is_marked(const char *path, const char *session)
{
    char owner[64] = "";
    ssize_t n = getxattr(path, SESSION_XATTR, owner, sizeof(owner) - 1);

    return n < 0 ? errno == ENOTSUP : strcmp(owner, session) == 0;
}

static bool is_unmarked(const char *path)
{
    return getxattr(path, SESSION_XATTR, NULL, 0) < 0 && errno == ENODATA;
}

static int file_reopen(const struct volume *v, const char *session, struct err *err)
{
    struct stat st;

    if (lstat(v->path, &st) < 0)
        return err_errno(err, -errno, "%s, which this migration made", v->path);
    if (!S_ISREG(st.st_mode) || !is_marked(v->path, session))
        return err_set(err, -EEXIST, "%s is not the volume that this migration made: it does not bear its mark", v->path);
    if ((uint64_t)st.st_size != v->size)
        return err_set(err, -EINVAL, "%s has %llu octets, this migration made it with %llu", v->path,
                       (unsigned long long)st.st_size, (unsigned long long)v->size);
    return 0;
}

/* Whether anybody has the file open, the kernel too: only then a lease is refused with EAGAIN. File systems without leases cannot tell. */
static bool is_open(const char *path)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0)
        return false;
    (void)fcntl(fd, F_SETSIG, SIGURG); /* whoever opens it just now breaks the lease: SIGIO would end us */
    return fcntl(fd, F_SETLEASE, F_WRLCK) < 0 && errno == EAGAIN;
}

static int file_remove(const char *path, const char *session, struct err *err)
{
    struct stat st;

    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : err_errno(err, -errno, "removing %s", path);
    /* An empty one without a mark: who made it ended before he could mark it. */
    if (!S_ISREG(st.st_mode) || !(is_marked(path, session) || (st.st_size == 0 && is_unmarked(path))))
        return 0;
    /* The server of a guest that was destroyed may still be at its end; a guest that runs never gives it up. */
    for (uint64_t give_up = clock_now() + IN_USE_WAIT; is_open(path); clock_sleep(20 * NS_PER_MS)) {
        if (clock_now() >= give_up)
            return err_set(err, -EBUSY, "%s was made for a migration that is undone, but a process has it open: it is not removed", path);
    }
    if (unlink(path) < 0 && errno != ENOENT)
        return err_errno(err, -errno, "removing %s", path);
    return 0;
}

int volume_create(const struct volume *v, const struct volume_sr *sr, const char *session, struct err *err)
{
    return v->kind == VOLUME_LVM ? volume_lvm_create(v, sr->place, session, err) : file_create(v, session, err);
}

int volume_remove(const struct volume *v, const char *session, struct err *err)
{
    switch (v->kind) {
    case VOLUME_LVM:
        return volume_lvm_remove(v->path, session, err);
    case VOLUME_FILE:
        return file_remove(v->path, session, err);
    case VOLUME_EXISTING:
        break;
    }
    return 0;
}

/* How often the device-mapper device has been opened; 0 also for what is none. A guest's back end (blkback) holds its disk open, but
 * not exclusively: O_EXCL does not notice it. */
static unsigned int dm_opens(dev_t dev)
{
    struct dm_ioctl io = {.version = {DM_VERSION_MAJOR}, .data_size = sizeof(io), .data_start = sizeof(io), .dev = dev};
    CLEANUP_CLOSE int control = -1;
    char folder[64];

    (void)snprintf(folder, sizeof(folder), "/sys/dev/block/%u:%u/dm", major(dev), minor(dev));
    if (access(folder, F_OK) < 0)
        return 0;
    control = open("/dev/mapper/control", O_RDWR | O_CLOEXEC);
    return control >= 0 && ioctl(control, DM_DEV_STATUS, &io) == 0 ? (unsigned int)io.open_count : 0;
}

/* udev and LVM's tools look into a device for a moment, too. */
static int check_unused(const char *path, struct err *err)
{
    uint64_t give_up = clock_now() + LOOK_WAIT;
    struct stat st;

    if (stat(path, &st) < 0 || !S_ISBLK(st.st_mode))
        return 0;
    for (; dm_opens(st.st_rdev); clock_sleep(50 * NS_PER_MS)) {
        if (clock_now() >= give_up)
            return err_set(err, -EBUSY, "%s is in use here: a guest or another program has it open", path);
    }
    return 0;
}

static int adopt(const char *path, uint64_t size, bool zero, struct err *err)
{
    struct blockdev *dev;
    int r = check_unused(path, err);

    if (r == 0)
        r = blockdev_open_file(&dev, path, BLOCKDEV_WRITE | BLOCKDEV_EXCLUSIVE, err);

    if (r < 0)
        return r;
    if (dev->size != size)
        r = err_set(err, -EINVAL, "%s has %llu octets, the source's disk %llu: they must be equal", path,
                    (unsigned long long)dev->size, (unsigned long long)size);
    else if (zero)
        r = dev->ops->zero(dev, size, 0, err);
    blockdev_close(dev);
    return r;
}

int volume_reopen(const struct volume *v, const char *session, struct err *err)
{
    switch (v->kind) {
    case VOLUME_LVM:
        return volume_lvm_reopen(v, session, err);
    case VOLUME_FILE:
        return file_reopen(v, session, err);
    case VOLUME_EXISTING:
        break;
    }
    return volume_adopt_check(v->path, v->size, err);
}

int volume_adopt(struct volume *ret, const char *path, uint64_t size, bool keep, struct err *err)
{
    if (strlen(path) >= sizeof(ret->path))
        return err_set(err, -ENAMETOOLONG, "the path %.40s... is too long", path);
    ret->kind = VOLUME_EXISTING;
    ret->size = size;
    strcpy(ret->path, path);
    return adopt(path, size, !keep, err);
}

int volume_adopt_check(const char *path, uint64_t size, struct err *err)
{
    return adopt(path, size, false, err);
}
