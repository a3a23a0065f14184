/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the stock script "block" does for a block device: makes sure that nobody else uses it, under
 * the scripts' common lock, and tells blkback which one it is. */
#include "hv/xen/hotplug.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define LOCK_FOLDER "/var/run/xen-hotplug"
#define LOCK_FILE   LOCK_FOLDER "/block"
#define BACKENDS    "backend/vbd"

/* The scripts' protocol (locking.sh): whoever has locked the file that bears the name has the lock,
 * and removes it. */
static int claim_lock(void)
{
    (void)mkdir(LOCK_FOLDER, 0755);
    for (;;) {
        struct stat ours, named;
        int fd = open(LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0644);

        if (fd < 0 || flock(fd, LOCK_EX)) {
            if (fd >= 0)
                close(fd);
            return -1;
        }
        if (!fstat(fd, &ours) && !stat(LOCK_FILE, &named) && ours.st_ino == named.st_ino &&
            ours.st_dev == named.st_dev)
            return fd;
        close(fd);
    }
}

static void release_lock(int fd)
{
    (void)unlink(LOCK_FILE);
    close(fd);
}

/* A file system of dom0's own on the device, or one that cannot be ruled out. */
static bool is_mounted(dev_t device)
{
    CLEANUP_FCLOSE FILE *mounts = fopen("/proc/self/mountinfo", "re");
    unsigned int major_number, minor_number;
    char line[PATH_MAX];

    while (mounts && fgets(line, sizeof(line), mounts))
        if (sscanf(line, "%*d %*d %u:%u", &major_number, &minor_number) == 2 &&
            makedev(major_number, minor_number) == device)
            return true;
    return !mounts;
}

/* Whether one of the domain's disks is the device. */
static bool domain_has(struct xs_handle *xs, const char *domain, const char *number)
{
    char path[200], disk[300];
    unsigned int count = 0;
    bool found = false;
    char **disks;

    (void)snprintf(path, sizeof(path), BACKENDS "/%s", domain);
    disks = xs_directory(xs, XBT_NULL, path, &count);
    for (unsigned int i = 0; disks && i < count && !found; i++) {
        CLEANUP_FREE char *other = NULL;

        (void)snprintf(disk, sizeof(disk), "%s/%s", path, disks[i]);
        other = hotplug_read(xs, disk, "physical-device");
        found = other && !strcmp(other, number);
    }
    free(disks);
    return found;
}

/* Any user at all is a case for the stock script, which knows what is allowed and says what is
 * wrong. */
static bool is_attached(struct xs_handle *xs, const char *number)
{
    unsigned int count = 0;
    bool found = false;
    char **domains = xs_directory(xs, XBT_NULL, BACKENDS, &count);

    for (unsigned int i = 0; domains && i < count && !found; i++)
        found = domain_has(xs, domains[i], number);
    free(domains);
    return found;
}

static bool connect_disk(struct xs_handle *xs, const char *backend, const char *path, dev_t device)
{
    char number[40], real[PATH_MAX];

    (void)snprintf(number, sizeof(number), "%x:%x", major(device), minor(device));
    if (is_mounted(device) || is_attached(xs, number) || !realpath(path, real))
        return false;
    return hotplug_write(xs, backend, "physical-device", number) &&
           hotplug_write(xs, backend, "physical-device-path", real) &&
           hotplug_write(xs, backend, "hotplug-status", "connected");
}

bool hotplug_disk(struct xs_handle *xs, const char *backend)
{
    CLEANUP_FREE char *path = hotplug_read(xs, backend, "params");
    CLEANUP_FREE char *number = hotplug_read(xs, backend, "physical-device");
    struct stat st;
    bool done;
    int lock;

    if (!path || path[0] != '/' || number || stat(path, &st) || !S_ISBLK(st.st_mode))
        return false;
    lock = claim_lock();
    if (lock < 0)
        return false;
    done = connect_disk(xs, backend, path, st.st_rdev);
    release_lock(lock);
    return done;
}
