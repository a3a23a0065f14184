/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* nbdkit-xmotion-plugin.so: a disk served from a file or a block device that keeps a bitmap of what
 * was written, in shared memory (nbd-bitmap.h). A bit is set AFTER its write has completed, well or
 * not, and BEFORE the client hears of it. */
#define NBDKIT_API_VERSION 2
#include <nbdkit-plugin.h>

#include "mirror/nbd-bitmap.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define THREAD_MODEL NBDKIT_THREAD_MODEL_PARALLEL

static char *file_path;
static char *bitmap_path;
static int fd = -1;
static int bitmap_fd = -1;
static bool read_only;
static bool has_extents;
static uint64_t disk_size;
static char description[PATH_MAX + 64];

/* The shared file. */
static struct nbd_bitmap_layout layout;
static struct nbd_bitmap_header *header;
static uint64_t *summary;
static uint64_t *bits;

/* Marking */

static uint64_t run_mask(uint64_t first, uint64_t last)
{
    return (UINT64_MAX << (first % 64)) & (UINT64_MAX >> (63 - last % 64));
}

/* Sets bits first..last of one word; its summary bit after it (nbd-bitmap.h says why in this
 * order). */
static void mark_word(uint64_t first, uint64_t last)
{
    uint64_t mask = run_mask(first, last);
    uint64_t page = first / NBD_BITMAP_PAGE_BITS;
    uint64_t old;

    old = __atomic_fetch_or(&bits[first / 64], mask, __ATOMIC_SEQ_CST);
    if (mask & ~old)
        (void)__atomic_fetch_add(&header->set, (uint64_t)__builtin_popcountll(mask & ~old),
                                 __ATOMIC_SEQ_CST);
    if (!(__atomic_load_n(&summary[page / 64], __ATOMIC_SEQ_CST) >> (page % 64) & 1))
        (void)__atomic_fetch_or(&summary[page / 64], UINT64_C(1) << (page % 64), __ATOMIC_SEQ_CST);
}

static void mark(uint64_t offset, uint64_t count)
{
    uint64_t first = offset / NBD_BITMAP_GRANULARITY;
    uint64_t last = (offset + count - 1) / NBD_BITMAP_GRANULARITY;

    assert(count > 0 && last < layout.bits);
    while (first <= last) {
        uint64_t word_last = first | 63;

        mark_word(first, word_last < last ? word_last : last);
        first = word_last + 1;
    }
    (void)__atomic_fetch_add(&header->marked, count, __ATOMIC_SEQ_CST);
}

static void change_begin(uint64_t count)
{
    (void)__atomic_fetch_add(&header->in_flight, 1, __ATOMIC_SEQ_CST);
    (void)__atomic_fetch_add(&header->started, count, __ATOMIC_SEQ_CST);
}

/* What failed may have been done in part: it is marked like what did not. `in_flight` goes down
 * last, so that who sees it at 0 sees every mark. Keeps errno. */
static void change_end(uint64_t offset, uint64_t count)
{
    int saved = errno;

    (void)__atomic_fetch_add(&header->completed, count, __ATOMIC_SEQ_CST);
    if (count)
        mark(offset, count);
    (void)__atomic_fetch_sub(&header->in_flight, 1, __ATOMIC_SEQ_CST);
    errno = saved;
}

/* Configuration */

static int xmotion_config(const char *key, const char *value)
{
    char **where = strcmp(key, "file") == 0     ? &file_path
                   : strcmp(key, "bitmap") == 0 ? &bitmap_path
                                                : NULL;

    if (!where) {
        nbdkit_error("unknown parameter '%s': file=PATH [bitmap=PATH]", key);
        return -1;
    }
    free(*where);
    *where =
        nbdkit_absolute_path(value); /* nbdkit leaves its folder when it goes to the background */
    return *where ? 0 : -1;
}

static uint64_t new_id(void)
{
    uint64_t id = 0;

    while (id == 0)
        if (getrandom(&id, sizeof(id), 0) != sizeof(id))
            id = (uint64_t)getpid();
    return id;
}

static int default_bitmap_path(uint64_t id)
{
    const char *dir = getenv("XMOTION_RUN_DIR");

    if (!dir || !*dir)
        dir = "/run/xmotion";
    if (mkdir(dir, 0700) < 0 && errno != EEXIST) {
        nbdkit_error("%s: %m; say bitmap=PATH", dir);
        return -1;
    }
    if (asprintf(&bitmap_path, "%s/bitmap-%016llx", dir, (unsigned long long)id) < 0) {
        bitmap_path = NULL;
        nbdkit_error("out of memory");
        return -1;
    }
    return 0;
}

static int xmotion_config_complete(void)
{
    if (!file_path) {
        nbdkit_error("file=PATH is missing: the file or block device to serve");
        return -1;
    }
    return 0;
}

#define xmotion_config_help                                                                        \
    "file=PATH    (required) the file or block device to serve\n"                                  \
    "bitmap=PATH             where to keep the bitmap of written blocks"

static int open_file(void)
{
    struct stat st;
    off_t end;

    fd = open(file_path, O_RDWR | O_CLOEXEC);
    if (fd < 0 && (errno == EROFS || errno == EACCES || errno == EPERM)) {
        read_only = true;
        fd = open(file_path, O_RDONLY | O_CLOEXEC);
    }
    if (fd < 0 || fstat(fd, &st) < 0 || (end = lseek(fd, 0, SEEK_END)) < 0) {
        nbdkit_error("%s: %m", file_path);
        return -1;
    }
    if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        nbdkit_error("%s is neither a file nor a block device", file_path);
        return -1;
    }
    disk_size = (uint64_t)end;
    has_extents = lseek(fd, 0, SEEK_HOLE) >= 0 || errno == ENXIO;
    return 0;
}

/* An old bitmap of ours makes way; anything else at that path stays. It is not truncated: a tracker
 * may have it mapped. */
static int remove_old_bitmap(void)
{
    uint64_t magic = 0;
    int old = open(bitmap_path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

    if (old < 0 && errno == ENOENT)
        return 0;
    if (old < 0 || read(old, &magic, sizeof(magic)) != sizeof(magic) || magic != NBD_BITMAP_MAGIC) {
        nbdkit_error("%s exists and is no bitmap of xmotion", bitmap_path);
        if (old >= 0)
            (void)close(old);
        return -1;
    }
    (void)close(old);
    return unlink(bitmap_path);
}

static int lock_bitmap(void)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1};

    return fcntl(bitmap_fd, F_OFD_SETLK, &lock);
}

static int make_bitmap(uint64_t id)
{
    uint8_t *map;

    layout = nbd_bitmap_layout(disk_size);
    if (remove_old_bitmap() < 0)
        return -1;
    bitmap_fd = open(bitmap_path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (bitmap_fd < 0 || ftruncate(bitmap_fd, (off_t)layout.total) < 0 || lock_bitmap() < 0) {
        nbdkit_error("%s: %m", bitmap_path);
        return -1;
    }
    map = mmap(NULL, layout.total, PROT_READ | PROT_WRITE, MAP_SHARED, bitmap_fd, 0);
    if (map == MAP_FAILED) {
        nbdkit_error("%s: %m", bitmap_path);
        return -1;
    }
    header = (struct nbd_bitmap_header *)(void *)map;
    summary = (uint64_t *)(void *)(map + layout.summary);
    bits = (uint64_t *)(void *)(map + layout.bitmap);
    header->version = NBD_BITMAP_VERSION;
    header->granularity = NBD_BITMAP_GRANULARITY;
    header->size = disk_size;
    header->id = id;
    header->magic = NBD_BITMAP_MAGIC;
    return 0;
}

static int xmotion_get_ready(void)
{
    uint64_t id = new_id();

    if (open_file() < 0 || (!bitmap_path && default_bitmap_path(id) < 0) || make_bitmap(id) < 0)
        return -1;
    (void)snprintf(description, sizeof(description), "%s%s%s%016llx", NBD_BITMAP_DESCRIPTION,
                   bitmap_path, NBD_BITMAP_ID, (unsigned long long)id);
    return 0;
}

static int xmotion_after_fork(void)
{
    struct stat st;

    if (fstat(fd, &st) == 0) {
        header->file_inode = st.st_ino;
        header->file_device = (uint32_t)st.st_dev;
        header->file_fd_1 = (uint32_t)fd + 1;
    }
    header->server_pid = (uint64_t)getpid();
    return 0;
}

static void xmotion_unload(void)
{
    if (header) {
        (void)unlink(bitmap_path);
        (void)munmap(header, layout.total);
    }
    if (bitmap_fd >= 0)
        (void)close(bitmap_fd);
    if (fd >= 0)
        (void)close(fd);
    free(bitmap_path);
    free(file_path);
}

/* Connections have no state of their own. */

static void *xmotion_open(int readonly)
{
    return NBDKIT_HANDLE_NOT_NEEDED;
}

static const char *xmotion_export_description(void *handle)
{
    return description;
}

static int64_t xmotion_get_size(void *handle)
{
    return (int64_t)disk_size;
}

static int xmotion_can_write(void *handle)
{
    return !read_only;
}

static int xmotion_yes(void *handle)
{
    return 1;
}

static int xmotion_can_fua(void *handle)
{
    return NBDKIT_FUA_NATIVE;
}

static int xmotion_can_cache(void *handle)
{
    return NBDKIT_CACHE_NONE;
}

static int xmotion_can_extents(void *handle)
{
    return has_extents;
}

/* Data */

static int xmotion_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    char *p = buf;

    while (count) {
        ssize_t n = pread(fd, p, count, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (n == 0)
                errno = EIO;
            nbdkit_error("%s: read: %m", file_path);
            return -1;
        }
        p += n;
        count -= (uint32_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int write_all(const char *p, uint32_t count, uint64_t offset, bool durable)
{
    while (count) {
        struct iovec iov = {.iov_base = (void *)(uintptr_t)p, .iov_len = count};
        ssize_t n = pwritev2(fd, &iov, 1, (off_t)offset, durable ? RWF_DSYNC : 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        p += n;
        count -= (uint32_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int xmotion_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset,
                          uint32_t flags)
{
    int r;

    change_begin(count);
    r = write_all(buf, count, offset, flags & NBDKIT_FLAG_FUA);
    change_end(offset, count);
    if (r < 0)
        nbdkit_error("%s: write: %m", file_path);
    return r;
}

static int punch(uint32_t count, uint64_t offset, int mode, bool durable)
{
    int r;

    do {
        r = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)count);
    } while (r < 0 && errno == EINTR);
    if (r == 0 && durable)
        r = fdatasync(fd);
    return r;
}

/* With EOPNOTSUPP nbdkit writes zeroes by pwrite instead, which marks too. */
static int xmotion_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    int mode = flags & NBDKIT_FLAG_MAY_TRIM ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
    int r;

    change_begin(count);
    r = punch(count, offset, mode, flags & NBDKIT_FLAG_FUA);
    change_end(offset, count);
    if (r < 0 && (errno == EOPNOTSUPP || errno == ENODEV))
        errno = EOPNOTSUPP;
    else if (r < 0)
        nbdkit_error("%s: zero: %m", file_path);
    return r;
}

/* A trim is a hint: where it cannot be done it is done. */
static int xmotion_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    int r;

    change_begin(count);
    r = punch(count, offset, FALLOC_FL_PUNCH_HOLE, flags & NBDKIT_FLAG_FUA);
    change_end(offset, count);
    if (r < 0 && (errno == EOPNOTSUPP || errno == ENODEV))
        return 0;
    if (r < 0)
        nbdkit_error("%s: trim: %m", file_path);
    return r;
}

static int xmotion_flush(void *handle, uint32_t flags)
{
    if (fdatasync(fd) == 0)
        return 0;
    nbdkit_error("%s: flush: %m", file_path);
    return -1;
}

/* The run at `at`: its end, and whether it is a hole. */
static int find_run(uint64_t at, uint64_t *ret_end, bool *ret_hole)
{
    off_t data = lseek(fd, (off_t)at, SEEK_DATA);
    off_t hole;

    if (data < 0 && errno != ENXIO)
        return -1;
    *ret_hole = data < 0 || (uint64_t)data > at;
    if (*ret_hole) {
        *ret_end = data < 0 ? disk_size : (uint64_t)data;
        return 0;
    }
    hole = lseek(fd, (off_t)at, SEEK_HOLE);
    *ret_end = hole < 0 ? disk_size : (uint64_t)hole;
    return hole < 0 && errno != ENXIO ? -1 : 0;
}

static int xmotion_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags,
                           struct nbdkit_extents *extents)
{
    uint64_t end = offset + count;

    while (offset < end) {
        uint64_t run_end;
        bool hole;

        if (find_run(offset, &run_end, &hole) < 0 || run_end <= offset) {
            nbdkit_error("%s: lseek: %m", file_path);
            return -1;
        }
        if (nbdkit_add_extent(extents, offset, run_end - offset,
                              hole ? NBDKIT_EXTENT_HOLE | NBDKIT_EXTENT_ZERO : 0) < 0)
            return -1;
        if (flags & NBDKIT_FLAG_REQ_ONE)
            return 0;
        offset = run_end;
    }
    return 0;
}

static struct nbdkit_plugin plugin = {
    .name = "xmotion",
    .longname = "xmotion disk with a bitmap of what was written",
    .version = XMOTION_VERSION,
    .description = "Serves a file or block device that xmotion can move while it is written.",
    .magic_config_key = "file",
    .config = xmotion_config,
    .config_complete = xmotion_config_complete,
    .config_help = xmotion_config_help,
    .get_ready = xmotion_get_ready,
    .after_fork = xmotion_after_fork,
    .unload = xmotion_unload,
    .open = xmotion_open,
    .export_description = xmotion_export_description,
    .get_size = xmotion_get_size,
    .can_write = xmotion_can_write,
    .can_flush = xmotion_yes,
    .can_trim = xmotion_yes,
    .can_zero = xmotion_yes,
    .can_fast_zero = xmotion_yes,
    .can_multi_conn = xmotion_yes,
    .can_fua = xmotion_can_fua,
    .can_cache = xmotion_can_cache,
    .can_extents = xmotion_can_extents,
    .pread = xmotion_pread,
    .pwrite = xmotion_pwrite,
    .zero = xmotion_zero,
    .trim = xmotion_trim,
    .flush = xmotion_flush,
    .extents = xmotion_extents,
    .errno_is_preserved = 1,
};

NBDKIT_REGISTER_PLUGIN(plugin)
