/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The block devices behind a domain's VBDs. blkback tells in the xenstore which device it serves,
 * as "major:minor" in hexadecimal: also of what a hotplug script made of it (a file behind a loop
 * device). */
#include "hv/xen/xen-agent.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

struct device {
    char path[300];
    uint64_t size;
    int sector_size;
};

static char *read_backend(struct agent *a, const libxl_device_disk *disk, const char *key)
{
    libxl_diskinfo info;
    char path[300], *value = NULL;
    unsigned int length;

    libxl_diskinfo_init(&info);
    if (!libxl_device_disk_getinfo(a->ctx, a->domid, disk, &info) && info.backend) {
        (void)snprintf(path, sizeof(path), "%s/%s", info.backend, key);
        value = xs_read(a->xs, XBT_NULL, path, &length);
    }
    libxl_diskinfo_dispose(&info);
    return value;
}

static bool is_device(const char *path, unsigned int major, unsigned int minor)
{
    struct stat st;

    return path && path[0] == '/' && !stat(path, &st) && S_ISBLK(st.st_mode) &&
           st.st_rdev == makedev(major, minor);
}

/* The name the administrator used is kept where it still is the same device. */
static int find_path(const char *configured, unsigned int major, unsigned int minor, char *path,
                     size_t size)
{
    char link[64], target[256];
    ssize_t n;

    if (is_device(configured, major, minor))
        return (size_t)snprintf(path, size, "%s", configured) < size ? 0 : -ENAMETOOLONG;
    (void)snprintf(link, sizeof(link), "/sys/dev/block/%u:%u", major, minor);
    n = readlink(link, target, sizeof(target) - 1);
    if (n <= 0)
        return -ENOENT;
    target[n] = '\0';
    (void)snprintf(path, size, "/dev/%s", strrchr(target, '/') ? strrchr(target, '/') + 1 : target);
    return is_device(path, major, minor) ? 0 : -ENOENT;
}

static int measure(struct device *device, struct err *err)
{
    CLEANUP_CLOSE int fd = open(device->path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &device->size) ||
        ioctl(fd, BLKSSZGET, &device->sector_size))
        return err_errno(err, -errno, "%s", device->path);
    return 0;
}

static int find_device(struct agent *a, const libxl_device_disk *disk, struct device *ret,
                       struct err *err)
{
    CLEANUP_FREE char *number = read_backend(a, disk, "physical-device");
    unsigned int major, minor;

    if (!number || sscanf(number, "%x:%x", &major, &minor) != 2)
        return err_set(err, -ENODEV, "the backend has no physical-device");
    if (find_path(disk->pdev_path, major, minor, ret->path, sizeof(ret->path)))
        return err_set(err, -ENODEV, "no device file for block device %u:%u", major, minor);
    return measure(ret, err);
}

/* Removable drives with nothing in them have no content to move. */
static bool is_empty(const libxl_device_disk *disk)
{
    return (disk->is_cdrom || disk->removable) && (!disk->pdev_path || !disk->pdev_path[0]);
}

static int describe_disk(struct agent *a, const libxl_device_disk *disk, json_t *list,
                         struct err *err)
{
    const char *label = disk->pdev_path ? disk->pdev_path : "";
    struct device device;
    json_t *described;
    int rc = xen_guard_disk(disk, err); /* of others no device is known */

    if (rc)
        return rc;
    rc = find_device(a, disk, &device, err);
    if (rc)
        return err_prefix(err, rc, "disk %s (%s)", disk->vdev, label);
    described = json_pack("{s:s,s:s,s:s,s:I,s:i,s:b}", "vbd", disk->vdev, "path", device.path,
                          "label", label, "size", (json_int_t)device.size, "sector_size",
                          device.sector_size, "read_only", !disk->readwrite);
    if (!described || json_array_append_new(list, described))
        return err_set(err, -EINVAL, "disk %s cannot be described", disk->vdev);
    return 0;
}

int xen_disks(struct agent *a, json_t **ret, struct err *err)
{
    int count = 0, rc = 0;
    libxl_device_disk *disks = libxl_device_disk_list(a->ctx, a->domid, &count);
    json_t *list = json_array();

    for (int i = 0; disks && i < count && !rc; i++)
        if (!is_empty(&disks[i]))
            rc = describe_disk(a, &disks[i], list, err);
    if (disks)
        libxl_device_disk_list_free(disks, count);
    if (rc)
        json_decref(list);
    else
        *ret = list;
    return rc;
}
