/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A folder of the test's own, and how a test says that it cannot be run here. */
#ifndef XMOTION_TESTS_TEMP_DIR_H
#define XMOTION_TESTS_TEMP_DIR_H

#include "base/fdio.h"
#include "base/run.h"

#include "unit.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char temp_dir[32];

static inline void temp_dir_make(void)
{
    strcpy(temp_dir, "/tmp/xmotion-unit-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(temp_dir));
}

static inline void temp_dir_remove(void)
{
    const char *const argv[] = {"rm", "-rf", "--one-file-system", temp_dir, NULL};
    char output[200];

    ck_assert_int_eq(run_program(argv, output, sizeof(output), NULL), 0);
}

/* The path of a file in it; good until 8 more were asked for. */
static inline const char *temp_path(const char *name)
{
    static char paths[8][256];
    static unsigned int next;
    char *path = paths[next++ % 8];

    (void)snprintf(path, sizeof(paths[0]), "%s/%s", temp_dir, name);
    return path;
}

static inline void temp_write(const char *name, const void *data, size_t len)
{
    ck_assert_int_eq(file_replace(temp_path(name), data, len), 0);
}

static inline bool temp_exists(const char *name)
{
    struct stat st;

    return lstat(temp_path(name), &st) == 0;
}

static inline void skipped(const char *reason)
{
    (void)fprintf(stderr, "skipped: %s\n", reason);
}

#endif
