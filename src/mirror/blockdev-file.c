/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Regular files and block devices. Devices are always used with O_DIRECT: the page cache of dom0 belongs to the
 * guests, and a cached page of another inode of the same device would be stale (tracker.md, hazard 8). */
#include "mirror/blockdev.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/fdio.h"
#include "mirror/direct-io.h"
#include "mirror/in-use.h"

#include <assert.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define ZERO_STEP MIB(1)
/* Reads or writes that are asked for together. */
#define GROUP 256u

struct blockdev_file {
    struct blockdev base;
    int fd;
    bool is_device;
    bool direct;
    char *path;
    pthread_mutex_t lock;
    struct direct_io_pace pace;
    uint64_t data_from, data_end; /* known to be no hole: to find the end of one, some file systems look at every page of it */
};

static struct blockdev_file *self(struct blockdev *b)
{
    return (struct blockdev_file *)b;
}

static int pass_read(struct blockdev_file *f, size_t len, uint64_t offset, struct err *err)
{
    int r;

    assert(offset <= f->base.size && len <= f->base.size - offset);
    r = fault_point("disk.read", err);
    return r < 0 ? err_prefix(err, r, "%s", f->path) : 0;
}

static int read_one(struct blockdev_file *f, const struct blockdev_read *read, struct err *err)
{
    int r = fd_pread_full(f->fd, read->buf, read->len, read->offset);

    return r < 0 ? err_errno(err, r, "%s: reading %zu octets at %llu", f->path, read->len,
                             (unsigned long long)read->offset)
                 : 0;
}

static int file_pread(struct blockdev *b, void *buf, size_t len, uint64_t offset, struct err *err)
{
    struct blockdev_read read = {.buf = buf, .len = len, .offset = offset};
    int r = pass_read(self(b), len, offset, err);

    return r < 0 ? r : read_one(self(b), &read, err);
}

static struct direct_io_pace pace_now(struct blockdev_file *f)
{
    struct direct_io_pace pace;

    pthread_mutex_lock(&f->lock);
    pace = f->pace;
    pthread_mutex_unlock(&f->lock);
    return pace;
}

/* Of several threads the last one's stands: they all use the same disk. */
static void keep_pace(struct blockdev_file *f, const struct direct_io_pace *pace)
{
    pthread_mutex_lock(&f->lock);
    f->pace = *pace;
    pthread_mutex_unlock(&f->lock);
}

static void read_at_once(struct blockdev_file *f, const struct blockdev_read *reads, uint32_t count, bool *done,
                         const struct blockdev_reader *reader)
{
    struct direct_io_pace pace = pace_now(f);

    if (reader && reader->alone) {
        direct_io_read(f->fd, reads, count, done, NULL, reader);
        return;
    }
    direct_io_read(f->fd, reads, count, done, &pace, reader);
    keep_pace(f, &pace);
}

/* Those that are not done yet, and what they took together: a file's are too short to be looked at one by one. */
static int read_rest(struct blockdev_file *f, const struct blockdev_read *reads, uint32_t count, const bool *done,
                     const struct blockdev_reader *reader, struct err *err)
{
    uint64_t begin = clock_now();
    uint64_t octets = 0;
    uint32_t n = 0;
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < count; i++) {
        if (done[i])
            continue;
        r = read_one(f, &reads[i], err);
        octets += reads[i].len;
        n++;
    }
    if (n)
        blockdev_reads_ended(reader, n, octets, clock_now() - begin);
    return r;
}

static int read_group(struct blockdev_file *f, const struct blockdev_read *reads, uint32_t count,
                      const struct blockdev_reader *reader, struct err *err)
{
    bool done[GROUP] = {false};
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = pass_read(f, reads[i].len, reads[i].offset, err);
    if (r == 0 && f->direct && count > 1)
        read_at_once(f, reads, count, done, reader);
    return r == 0 ? read_rest(f, reads, count, done, reader, err) : r;
}

static int file_pread_many(struct blockdev *b, const struct blockdev_read *reads, uint32_t count,
                           const struct blockdev_reader *reader, struct err *err)
{
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < count; i += GROUP)
        r = read_group(self(b), reads + i, MIN(count - i, GROUP), reader, err);
    return r;
}

/* O_DIRECT wants aligned memory; what arrives from the wire is not. */
static int pwrite_bounced(struct blockdev_file *f, const void *buf, size_t len, uint64_t offset)
{
    CLEANUP_FREE void *aligned = NULL;

    if (posix_memalign(&aligned, BLOCKDEV_ALIGN, len))
        return -ENOMEM;
    memcpy(aligned, buf, len);
    return fd_pwrite_full(f->fd, aligned, len, offset);
}

static int write_aligned(struct blockdev_file *f, const void *buf, size_t len, uint64_t offset)
{
    if (f->direct && (uintptr_t)buf % f->base.sector_size)
        return pwrite_bounced(f, buf, len, offset);
    return fd_pwrite_full(f->fd, buf, len, offset);
}

static int write_failed(const struct blockdev_file *f, const struct blockdev_write *write, int r, struct err *err)
{
    return err_errno(err, r, "%s: writing %zu octets at %llu", f->path, write->len, (unsigned long long)write->offset);
}

static int write_one(struct blockdev_file *f, const struct blockdev_write *write, struct err *err)
{
    int r = write_aligned(f, write->buf, write->len, write->offset);

    return r < 0 ? write_failed(f, write, r, err) : 0;
}

static int write_half(struct blockdev_file *f, const struct blockdev_write *write, struct err *err)
{
    size_t half = write->len / 2 - write->len / 2 % f->base.sector_size;
    int r = write_aligned(f, write->buf, half, write->offset);

    return write_failed(f, write, r < 0 ? r : -EIO, err);
}

static int pass_write(struct blockdev_file *f, const struct blockdev_write *write, struct err *err)
{
    int r;

    assert(write->offset <= f->base.size && write->len <= f->base.size - write->offset);
    r = fault_point("disk.write", err);
    if (r < 0)
        return err_prefix(err, r, "%s", f->path);
    return r == FAULT_SHORT ? write_half(f, write, err) : 0;
}

static int file_pwrite(struct blockdev *b, const void *buf, size_t len, uint64_t offset, struct err *err)
{
    struct blockdev_write write = {.buf = buf, .len = len, .offset = offset};
    int r = pass_write(self(b), &write, err);

    return r < 0 ? r : write_one(self(b), &write, err);
}

/* The same writes from aligned memory, which is the caller's to free; NULL: there is none. */
static void *align_writes(const struct blockdev_write *writes, uint32_t count, struct blockdev_write *ret)
{
    size_t size = 0;
    void *memory;
    uint8_t *to;

    for (uint32_t i = 0; i < count; i++)
        size += writes[i].len;
    if (posix_memalign(&memory, BLOCKDEV_ALIGN, size))
        return NULL;
    to = memory;
    for (uint32_t i = 0; i < count; to += writes[i++].len) {
        ret[i] = writes[i];
        ret[i].buf = memcpy(to, writes[i].buf, writes[i].len);
    }
    return memory;
}

static void write_at_once(struct blockdev_file *f, const struct blockdev_write *writes, uint32_t count, bool *done)
{
    struct direct_io_pace pace = pace_now(f);
    struct blockdev_write aligned[GROUP];
    CLEANUP_FREE void *memory = NULL;
    bool is_aligned = true;

    for (uint32_t i = 0; i < count; i++)
        is_aligned = is_aligned && (uintptr_t)writes[i].buf % f->base.sector_size == 0;
    if (!is_aligned) {
        memory = align_writes(writes, count, aligned);
        if (!memory)
            return;
    }
    direct_io_write(f->fd, memory ? aligned : writes, count, done, &pace);
    keep_pace(f, &pace);
}

static int write_group(struct blockdev_file *f, const struct blockdev_write *writes, uint32_t count, struct err *err)
{
    bool done[GROUP] = {false};
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < count; i++)
        r = pass_write(f, &writes[i], err);
    if (r == 0 && f->direct && count > 1)
        write_at_once(f, writes, count, done);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        if (!done[i])
            r = write_one(f, &writes[i], err);
    }
    return r;
}

static int file_pwrite_many(struct blockdev *b, const struct blockdev_write *writes, uint32_t count, struct err *err)
{
    int r = 0;

    for (uint32_t i = 0; r == 0 && i < count; i += GROUP)
        r = write_group(self(b), writes + i, MIN(count - i, GROUP), err);
    return r;
}

static int write_zeroes(struct blockdev_file *f, uint64_t len, uint64_t offset)
{
    CLEANUP_FREE void *zeroes = NULL;
    int r = 0;

    if (posix_memalign(&zeroes, BLOCKDEV_ALIGN, ZERO_STEP))
        return -ENOMEM;
    memset(zeroes, 0, ZERO_STEP);
    while (len && r == 0) {
        size_t n = MIN(len, ZERO_STEP);

        r = fd_pwrite_full(f->fd, zeroes, n, offset);
        len -= n;
        offset += n;
    }
    return r;
}

static uint64_t known_data(struct blockdev_file *f, uint64_t offset)
{
    uint64_t length;

    pthread_mutex_lock(&f->lock);
    length = offset >= f->data_from && offset < f->data_end ? f->data_end - offset : 0;
    pthread_mutex_unlock(&f->lock);
    return length;
}

static void know_data(struct blockdev_file *f, uint64_t offset, uint64_t length)
{
    pthread_mutex_lock(&f->lock);
    f->data_from = offset;
    f->data_end = offset + length;
    pthread_mutex_unlock(&f->lock);
}

static int file_zero(struct blockdev *b, uint64_t len, uint64_t offset, struct err *err)
{
    struct blockdev_file *f = self(b);
    uint64_t range[2] = {offset, len};
    int r;

    assert(offset <= b->size && len <= b->size - offset);
    r = fault_point("disk.write", err);
    if (r == FAULT_SHORT)
        r = err_set(err, -EIO, "zeroing is cut short by a fault point");
    if (r < 0)
        return err_prefix(err, r, "%s", f->path);
    know_data(f, 0, 0);
    if (f->is_device)
        r = ioctl(f->fd, BLKZEROOUT, range);
    else
        r = fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len);
    if (r == 0)
        return 0;
    r = write_zeroes(f, len, offset);
    return r < 0 ? err_errno(err, r, "%s: zeroing %llu octets at %llu", f->path,
                             (unsigned long long)len, (unsigned long long)offset)
                 : 0;
}

static int file_flush(struct blockdev *b, struct err *err)
{
    struct blockdev_file *f = self(b);
    int r = fault_point("disk.flush", err);

    if (r < 0)
        return err_prefix(err, r, "%s", f->path);
    if (fsync(f->fd) < 0)
        return err_errno(err, -errno, "%s: flushing", f->path);
    return 0;
}

static int file_extent(struct blockdev *b, uint64_t offset, uint64_t *ret_length, bool *ret_zero, struct err *err)
{
    struct blockdev_file *f = self(b);
    off_t data;
    off_t hole;

    assert(offset < b->size);
    *ret_zero = false;
    *ret_length = f->is_device ? b->size - offset : known_data(f, offset);
    if (*ret_length)
        return 0;
    *ret_length = b->size - offset;
    data = lseek(f->fd, (off_t)offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO) {
        *ret_zero = true;
        return 0;
    }
    if (data < 0)
        return errno == EINVAL ? 0 : err_errno(err, -errno, "%s: SEEK_DATA", f->path);
    if ((uint64_t)data > offset) {
        *ret_zero = true;
        *ret_length = MIN((uint64_t)data, b->size) - offset;
        return 0;
    }
    hole = lseek(f->fd, (off_t)offset, SEEK_HOLE);
    if (hole > (off_t)offset)
        *ret_length = MIN((uint64_t)hole, b->size) - offset;
    know_data(f, offset, *ret_length);
    return 0;
}

static void file_close(struct blockdev *b)
{
    struct blockdev_file *f = self(b);

    if (f->fd >= 0)
        (void)close(f->fd);
    (void)pthread_mutex_destroy(&f->lock);
    free(f->path);
    free(f);
}

static const struct blockdev_ops file_ops = {
    .name = "file",
    .pread = file_pread,
    .pread_many = file_pread_many,
    .pwrite = file_pwrite,
    .pwrite_many = file_pwrite_many,
    .zero = file_zero,
    .flush = file_flush,
    .extent = file_extent,
    .close = file_close,
};

static int read_geometry(struct blockdev_file *f, const struct stat *st, struct err *err)
{
    int sector = 512;

    f->is_device = S_ISBLK(st->st_mode);
    if (f->is_device) {
        if (ioctl(f->fd, BLKGETSIZE64, &f->base.size) < 0 || ioctl(f->fd, BLKSSZGET, &sector) < 0)
            return err_errno(err, -errno, "%s: asking for its size", f->path);
    } else {
        f->base.size = (uint64_t)st->st_size;
    }
    f->base.sector_size = (uint32_t)sector;
    if (f->base.size == 0 || f->base.size % 512)
        return err_set(err, -EINVAL, "%s: its size is %llu octets; a disk's is a multiple of 512, and not 0",
                       f->path, (unsigned long long)f->base.size);
    return 0;
}

static int open_checked(struct blockdev_file *f, unsigned int flags, struct err *err)
{
    int oflags = (flags & BLOCKDEV_WRITE) ? O_RDWR : O_RDONLY;
    struct stat st;

    if (stat(f->path, &st) < 0)
        return err_errno(err, -errno, "%s", f->path);
    if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
        return err_set(err, -ENOTBLK, "%s is neither a block device nor a regular file", f->path);
    f->direct = S_ISBLK(st.st_mode) || (flags & BLOCKDEV_DIRECT);
    if (f->direct)
        oflags |= O_DIRECT;
    if (S_ISBLK(st.st_mode) && (flags & BLOCKDEV_EXCLUSIVE))
        oflags |= O_EXCL;
    f->fd = open(f->path, oflags | O_CLOEXEC);
    if (f->fd < 0 && errno == EINVAL && !S_ISBLK(st.st_mode)) {
        f->direct = false; /* tmpfs knows no O_DIRECT */
        f->fd = open(f->path, (oflags & ~O_DIRECT) | O_CLOEXEC);
    }
    if (f->fd < 0 && errno == EBUSY)
        return err_set(err, -EBUSY, "%s is in use (mounted, or held by another guest or device)", f->path);
    if (f->fd < 0)
        return err_errno(err, -errno, "%s", f->path);
    if (fstat(f->fd, &st) < 0)
        return err_errno(err, -errno, "%s", f->path);
    if (S_ISREG(st.st_mode) && (flags & BLOCKDEV_WRITE) && (flags & BLOCKDEV_EXCLUSIVE) && in_use_check(f->fd, f->path, err) < 0)
        return -EBUSY;
    return read_geometry(f, &st, err);
}

int blockdev_open_file(struct blockdev **ret, const char *path, unsigned int flags, struct err *err)
{
    struct blockdev_file *f = calloc(1, sizeof(*f));
    int r;

    if (!f)
        return err_set(err, -ENOMEM, "out of memory");
    f->base.ops = &file_ops;
    f->fd = -1;
    (void)pthread_mutex_init(&f->lock, NULL);
    f->path = strdup(path);
    r = f->path ? open_checked(f, flags, err) : err_set(err, -ENOMEM, "out of memory");
    if (r < 0) {
        file_close(&f->base);
        return r;
    }
    *ret = &f->base;
    return 0;
}
