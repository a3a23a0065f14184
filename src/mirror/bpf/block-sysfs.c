/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/bpf/block-sysfs.h"
#include "base/cleanup.h"
#include "base/fdio.h"

#include <inttypes.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define SYSFS_MAX 4096 /* an attribute is a page at most */

static void attribute_path(char *path, size_t size, const struct block_place *place,
                           const char *name)
{
    (void)snprintf(path, size, "/sys/dev/block/%u:%u/%s", place->major, place->minor, name);
}

static bool has_attribute(const struct block_place *place, const char *name)
{
    char path[128];

    attribute_path(path, sizeof(path), place, name);
    return access(path, F_OK) == 0;
}

/* The caller frees *ret_text. */
static int read_attribute(const struct block_place *place, const char *name, char **ret_text,
                          struct err *err)
{
    char path[128];
    size_t len;
    int r;

    attribute_path(path, sizeof(path), place, name);
    r = file_read(path, SYSFS_MAX, ret_text, &len);
    if (r < 0)
        return err_errno(err, r, "%s", path);
    (*ret_text)[strcspn(*ret_text, "\n")] = '\0';
    return 0;
}

static int unexpected(const char *name, const char *text, struct err *err)
{
    return err_set(err, -EPROTO, "the kernel's %s of the device reads \"%s\"", name, text);
}

/* A partition's folder in sysfs lies inside its disk's. */
static int find_disk(struct block_place *place, struct err *err)
{
    CLEANUP_FREE char *start = NULL;
    CLEANUP_FREE char *dev = NULL;
    int r;

    r = read_attribute(place, "start", &start, err);
    if (r < 0)
        return r;
    if (sscanf(start, "%" SCNu64, &place->start) != 1)
        return unexpected("start", start, err);
    r = read_attribute(place, "../dev", &dev, err);
    if (r < 0)
        return r;
    if (sscanf(dev, "%u:%u", &place->disk_major, &place->disk_minor) != 2)
        return unexpected("disk", dev, err);
    return 0;
}

/* Does the queue's attribute read as it should? One that is not there does. */
static int expect_queue(const struct block_place *place, const char *name, const char *wanted,
                        const char *problem, struct err *err)
{
    CLEANUP_FREE char *text = NULL;
    char path[64];
    int r;

    (void)snprintf(path, sizeof(path), "%squeue/%s", place->partition ? "../" : "", name);
    if (!has_attribute(place, path))
        return 0;
    r = read_attribute(place, path, &text, err);
    if (r < 0)
        return r;
    if (strcmp(text, wanted) != 0)
        return err_set(err, -ENOTSUP, "the device %s (/sys/dev/block/%u:%u/%s is %s)", problem,
                       place->major, place->minor, path, text);
    return 0;
}

static int open_device(struct block_place *place, int fd, struct err *err)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return err_errno(err, -errno, "cannot look at the device");
    if (!S_ISBLK(st.st_mode))
        return err_set(err, -ENOTSUP,
                       "not a block device; a file can be tracked as a loop device "
                       "when all writers use the loop device");
    place->major = place->disk_major = major(st.st_rdev);
    place->minor = place->disk_minor = minor(st.st_rdev);
    if (ioctl(fd, BLKGETSIZE64, &place->size) < 0)
        return err_errno(err, -errno, "cannot ask for the device's size");
    if (place->size == 0)
        return err_set(err, -ENOTSUP, "the device is empty");
    return 0;
}

int block_place_find(struct block_place *ret, int fd, struct err *err)
{
    int r;

    memset(ret, 0, sizeof(*ret));
    r = open_device(ret, fd, err);
    if (r < 0)
        return r;
    ret->partition = has_attribute(ret, "partition");
    if (ret->partition) {
        r = find_disk(ret, err);
        if (r < 0)
            return r;
    }
    ret->request_based = has_attribute(ret, ret->partition ? "../mq" : "mq");
    r = expect_queue(ret, "zoned", "none", "is zoned, which cannot be tracked", err);
    /* Device mapper counts always, and shows 0 there (6.1); tracker-bpf.c tries whether it does. */
    if (r < 0 || !ret->request_based)
        return r;
    return expect_queue(ret, "iostats", "1", "keeps no counters to audit its tracker with", err);
}

int block_figures_read(const struct block_place *place, struct block_figures *ret, struct err *err)
{
    CLEANUP_FREE char *text = NULL;
    int r;

    r = read_attribute(place, "stat", &text, err);
    if (r < 0)
        return r;
    /* Fields 3, 7 and 14 of Documentation/block/stat.rst. */
    if (sscanf(text, "%*u %*u %" SCNu64 " %*u %*u %*u %" SCNu64 " %*u %*u %*u %*u %*u %*u %" SCNu64,
               &ret->read, &ret->written, &ret->discarded) != 3)
        return unexpected("stat", text, err);
    return 0;
}

int block_writes_in_flight(const struct block_place *place, uint64_t *ret_count, struct err *err)
{
    CLEANUP_FREE char *text = NULL;
    int r;

    r = read_attribute(place, "inflight", &text, err);
    if (r < 0)
        return r;
    if (sscanf(text, "%*u %" SCNu64, ret_count) != 1)
        return unexpected("inflight", text, err);
    return 0;
}
