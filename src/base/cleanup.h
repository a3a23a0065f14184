/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Variables that release what they hold when they leave their scope. */
#ifndef XMOTION_BASE_CLEANUP_H
#define XMOTION_BASE_CLEANUP_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static inline void cleanup_free_ptr(void *p)
{
    free(*(void **)p);
}

static inline void cleanup_close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
}

static inline void cleanup_fclose(FILE **f)
{
    if (*f)
        (void)fclose(*f);
}

#define CLEANUP_FREE   __attribute__((cleanup(cleanup_free_ptr)))
#define CLEANUP_CLOSE  __attribute__((cleanup(cleanup_close_fd)))
#define CLEANUP_FCLOSE __attribute__((cleanup(cleanup_fclose)))

/* Hands a file descriptor on: the variable holds none afterwards. */
static inline int take_fd(int *fd)
{
    int taken = *fd;

    *fd = -1;
    return taken;
}

#endif
