/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whole reads and writes on file descriptors: EINTR and short transfers are retried. All return 0 or
 * a negative errno; the end of the input before `len` bytes is -ENODATA. */
#ifndef XMOTION_BASE_FDIO_H
#define XMOTION_BASE_FDIO_H

#include <stddef.h>
#include <stdint.h>

int fd_read_full(int fd, void *buf, size_t len);
int fd_write_full(int fd, const void *buf, size_t len);
int fd_pread_full(int fd, void *buf, size_t len, uint64_t offset);
int fd_pwrite_full(int fd, const void *buf, size_t len, uint64_t offset);

/* Writes a small file so that a reader sees the old or the new content, whole, also after a power
 * cut: temporary file, fsync, rename, fsync of the folder. Mode 0600. */
int file_replace(const char *path, const void *data, size_t len);

/* Reads a whole file of at most `max` bytes; the result ends with a NUL that is not counted, and is
 * freed by the caller. -EFBIG when it is longer. */
int file_read(const char *path, size_t max, char **ret_data, size_t *ret_len);

/* Makes an empty file of mode 0600, unless it is there. */
int file_touch(const char *path);

/* mkdir -p with mode 0700 for what is made. */
int dir_make(const char *path);

#endif
