/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A block device of this machine: a loop device over a file of temp-dir.h. Needs root. */
#ifndef XMOTION_TESTS_LOOP_DEVICE_H
#define XMOTION_TESTS_LOOP_DEVICE_H

#include "temp-dir.h"

#include <fcntl.h>
#include <stdint.h>

struct loop_device {
    char path[64];
    int fd; /* the device goes with it: also when the test fails or is killed */
};

static inline void loop_device_detach(const char *path)
{
    const char *const argv[] = {"losetup", "--detach", path, NULL};
    char output[200];
    struct err err = {0};

    ck_assert_msg(run_program(argv, output, sizeof(output), &err) == 0, "%s", err.text);
}

/* false, and said why: none can be made here. */
static inline bool loop_device_make(struct loop_device *l, const char *file, uint64_t size, const char *sector)
{
    const char *const argv[] = {"losetup", "--find", "--show", "--sector-size", sector, temp_path(file), NULL};
    struct err err = {0};

    temp_write(file, "", 0);
    ck_assert_int_eq(truncate(temp_path(file), (off_t)size), 0);
    if (run_program(argv, l->path, sizeof(l->path), &err) < 0) {
        skipped(err.text);
        return false;
    }
    l->path[strcspn(l->path, "\n")] = '\0';
    l->fd = open(l->path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_ge(l->fd, 0);
    loop_device_detach(l->path); /* while it is open the kernel only notes it */
    return true;
}

static inline void loop_device_remove(struct loop_device *l)
{
    ck_assert_int_eq(close(l->fd), 0);
}

#endif
