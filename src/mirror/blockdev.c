/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/blockdev.h"

#include "base/clock.h"
#include "config.h"

#include <string.h>

#if !HAVE_NBD
int blockdev_open_nbd(struct blockdev **ret, const char *uri, unsigned int flags, unsigned int connections,
                      struct err *err)
{
    (void)ret, (void)flags, (void)connections;
    return err_set(err, -ENOTSUP, "%s: this xmotion was built without NBD (meson -Dnbd=enabled)", uri);
}
#endif

#define NBD_CONNECTIONS 4

bool blockdev_is_uri(const char *name)
{
    return strncmp(name, "nbd://", 6) == 0 || strncmp(name, "nbds://", 7) == 0 ||
           strncmp(name, "nbd+unix://", 11) == 0 || strncmp(name, "nbds+unix://", 12) == 0;
}

int blockdev_pread_many(struct blockdev *b, const struct blockdev_read *reads, uint32_t count, const struct blockdev_reader *reader,
                        struct err *err)
{
    int r = 0;

    if (b->ops->pread_many)
        return b->ops->pread_many(b, reads, count, reader, err);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        uint64_t begin = clock_now();

        r = b->ops->pread(b, reads[i].buf, reads[i].len, reads[i].offset, err);
        blockdev_reads_ended(reader, 1, reads[i].len, clock_now() - begin);
    }
    return r;
}

int blockdev_pwrite_many(struct blockdev *b, const struct blockdev_write *writes, uint32_t count, struct err *err)
{
    int r = 0;

    if (b->ops->pwrite_many)
        return b->ops->pwrite_many(b, writes, count, err);
    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = b->ops->pwrite(b, writes[i].buf, writes[i].len, writes[i].offset, err);
    return r;
}

int blockdev_open(struct blockdev **ret, const char *name, unsigned int flags, struct err *err)
{
    if (blockdev_is_uri(name))
        return blockdev_open_nbd(ret, name, flags, NBD_CONNECTIONS, err);
    return blockdev_open_file(ret, name, flags, err);
}
