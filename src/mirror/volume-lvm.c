/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LVM by its own tools: lvm2 has no library any more, and its tools keep the locks. */
#include "mirror/volume.h"

#include "base/bytes.h"
#include "base/run.h"
#include "mirror/blockdev.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OUTPUT_MAX 2048

const char *volume_lvm_name(const char *path)
{
    return strncmp(path, "/dev/", 5) == 0 ? path + 5 : path;
}

int volume_lvm_check(const char *vg, uint64_t bytes, struct err *err)
{
    const char *const argv[] = {"vgs", "--noheadings", "--nosuffix", "--units", "b", "-o", "vg_free", "--", vg, NULL};
    char output[OUTPUT_MAX];
    unsigned long long available;
    int r = run_program(argv, output, sizeof(output), err);

    if (r == -EREMOTEIO)
        return err_set(err, -ENOENT, "there is no volume group %s at the target: create it (vgcreate) or choose another --sr", vg);
    if (r < 0)
        return err_prefix(err, r, "SR lvm:%s (install lvm2)", vg);
    if (sscanf(output, " %llu", &available) != 1)
        return err_set(err, -EPROTO, "vgs said \"%s\" of volume group %s, expected a figure", output, vg);
    if (available < bytes)
        return err_set(err, -ENOSPC, "volume group %s has %llu MiB free, the disks need %llu MiB: extend it or choose another --sr",
                       vg, (unsigned long long)(available >> 20), (unsigned long long)(bytes >> 20));
    return 0;
}

/* LVM rounds up to whole extents. */
static int check_size(const struct volume *v, uint64_t size, const char *vg, struct err *err)
{
    return size == v->size ? 0
                           : err_set(err, -EINVAL,
                                     "volume group %s cannot hold a disk of exactly %llu octets, only of %llu, which are whole extents: choose another --sr",
                                     vg, (unsigned long long)v->size, (unsigned long long)size);
}

/* A thick volume shows what was on its extents before: zeroed all over before anybody may read it. */
static int zero_volume(const struct volume *v, const char *vg, struct err *err)
{
    struct blockdev *dev;
    int r = blockdev_open_file(&dev, v->path, BLOCKDEV_WRITE | BLOCKDEV_EXCLUSIVE, err);

    if (r < 0)
        return r;
    r = check_size(v, dev->size, vg, err);
    if (r == 0)
        r = dev->ops->zero(dev, dev->size, 0, err);
    if (r == 0)
        r = dev->ops->flush(dev, err);
    blockdev_close(dev);
    return r;
}

int volume_lvm_create(const struct volume *v, const char *vg, const char *session, struct err *err)
{
    const char *name = strrchr(v->path, '/') + 1;
    char size[32];
    char tag[96];
    const char *const argv[] = {"lvcreate", "--yes", "-qq", "--wipesignatures", "n", "--zero", "n", "--addtag", tag,
                                "--size", size, "--name", name, "--", vg, NULL};
    char output[OUTPUT_MAX];
    int r;

    (void)snprintf(size, sizeof(size), "%llub", (unsigned long long)v->size);
    (void)snprintf(tag, sizeof(tag), "xmotion-%s", session);
    r = run_program(argv, output, sizeof(output), err);
    if (r == -EREMOTEIO && strstr(output, "already exists"))
        return err_set(err, -EEXIST, "%s is there already: remove it, or choose another --sr or --disk", v->path);
    if (r < 0)
        return r;
    r = zero_volume(v, vg, err);
    if (r < 0)
        (void)volume_lvm_remove(v->path, session, NULL);
    return r;
}

int volume_lvm_reopen(const struct volume *v, const char *session, struct err *err)
{
    const char *lv = volume_lvm_name(v->path);
    char select[128];
    const char *const argv[] = {"lvs", "--noheadings", "--nosuffix", "--units", "b", "-o", "lv_size", "--select", select,
                                "--", lv, NULL};
    char output[OUTPUT_MAX];
    unsigned long long size;
    int r;

    (void)snprintf(select, sizeof(select), "lv_tags=xmotion-%s", session);
    r = run_program(argv, output, sizeof(output), err);
    if (r == -EREMOTEIO)
        return err_set(err, -ENOENT, "%s, which this migration made, is gone", v->path);
    if (r < 0)
        return r;
    if (sscanf(output, " %llu", &size) != 1)
        return err_set(err, -EEXIST, "%s is not the volume that this migration made: it does not bear its tag", v->path);
    if (size != v->size)
        return err_set(err, -EINVAL, "%s has %llu octets, this migration made it with %llu", v->path, size,
                       (unsigned long long)v->size);
    return 0;
}

int volume_lvm_remove(const char *path, const char *session, struct err *err)
{
    const char *lv = volume_lvm_name(path);
    char select[128];
    const char *const argv[] = {"lvremove", "--yes", "-qq", "--select", select, "--", lv, NULL};
    const char *const present[] = {"lvs", "--noheadings", "-o", "lv_name", "--", lv, NULL};
    char output[OUTPUT_MAX];

    if (run_program(present, output, sizeof(output), NULL) == -EREMOTEIO)
        return 0;
    (void)snprintf(select, sizeof(select), "lv_tags=xmotion-%s", session);
    return run_program(argv, output, sizeof(output), err);
}
