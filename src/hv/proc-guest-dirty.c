/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which pages of RAM were written. userfaultfd in asynchronous write-protect mode with PAGEMAP_SCAN
 * (Linux 6.7): the kernel finds and protects in one step, while the guest runs. Else soft-dirty
 * bits, for which the guest stands still during a take, as finding and clearing are two steps
 * there. */
#include "hv/proc-guest-priv.h"

#include "base/bytes.h"
#include "base/cleanup.h"

#include <assert.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

/* Of linux/userfaultfd.h and linux/fs.h; the headers of Debian 12 are older. */
#define XM_WP_HUGETLBFS_SHMEM (UINT64_C(1) << 12)
#define XM_WP_UNPOPULATED     (UINT64_C(1) << 13)
#define XM_WP_ASYNC           (UINT64_C(1) << 15)
#define XM_USER_MODE_ONLY     1
#define XM_PAGE_IS_WRITTEN    (UINT64_C(1) << 1)
#define XM_SCAN_WP_MATCHING   (UINT64_C(1) << 0)
#define XM_SCAN_CHECK_WPASYNC (UINT64_C(1) << 1)
#define XM_PAGEMAP_SCAN       _IOWR('f', 16, struct scan_arg)

struct scan_arg {
    uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
    uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

struct scan_region {
    uint64_t start, end, categories;
};

#define PROTECT_STEP MIB(4)
#define REGIONS    1024
#define SOFT_BIT   (UINT64_C(1) << 55)
#define SOFT_BATCH 4096 /* entries of pagemap read at once */

const char *proc_dirty_name(const struct proc_dirty *d)
{
    static const char *const names[] = {"off", "userfaultfd", "soft-dirty"};

    return names[d->kind];
}

bool proc_dirty_needs_pause(const struct proc_dirty *d)
{
    return d->kind == PROC_DIRTY_SOFT;
}

/* Marks pages [first, first + count) in the bitmap the client takes from. */
static void mark(struct proc_dirty *d, uint64_t first, uint64_t count)
{
    struct bitmap shared = {d->bitmap, d->size / PROC_PAGE};

    bitmap_set_run(&shared, first, count);
}

/* userfaultfd */

static int uffd_open(void)
{
    struct uffdio_api api = {.api = UFFD_API,
                             .features = XM_WP_HUGETLBFS_SHMEM | XM_WP_UNPOPULATED | XM_WP_ASYNC};
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

    if (fd < 0) /* without privileges: the guest's RAM is written in user mode only anyway */
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | XM_USER_MODE_ONLY);
    if (fd >= 0 && ioctl(fd, UFFDIO_API, &api) < 0) {
        (void)close(fd);
        return -ENOTSUP;
    }
    return fd < 0 ? -errno : fd;
}

/* Finds what was written and protects it again, in one step for each page. Marks when `marking`. */
static int uffd_scan(struct proc_dirty *d, bool marking, uint64_t *ret_pages)
{
    struct scan_region regions[REGIONS];
    struct scan_arg arg = {
        .size = sizeof(arg),
        .flags = XM_SCAN_WP_MATCHING | XM_SCAN_CHECK_WPASYNC,
        .start = (uintptr_t)d->ram,
        .end = (uintptr_t)d->ram + d->size,
        .vec = (uintptr_t)regions,
        .vec_len = REGIONS,
        .category_mask = XM_PAGE_IS_WRITTEN,
        .return_mask = XM_PAGE_IS_WRITTEN,
    };

    *ret_pages = 0;
    while (arg.start < arg.end) {
        int n = ioctl(d->pagemap, XM_PAGEMAP_SCAN, &arg);

        if (n < 0)
            return -errno;
        for (int i = 0; i < n; i++) {
            uint64_t count = (regions[i].end - regions[i].start) / PROC_PAGE;

            if (marking)
                mark(d, (regions[i].start - (uintptr_t)d->ram) / PROC_PAGE, count);
            *ret_pages += count;
        }
        assert(arg.walk_end > arg.start);
        arg.start = arg.walk_end;
    }
    return 0;
}

/* In steps, so that the guest's own faults get their turn. */
static int uffd_protect(const struct proc_dirty *d)
{
    for (uint64_t at = 0; at < d->size; at += PROTECT_STEP) {
        struct uffdio_writeprotect wp = {.range = {(uintptr_t)d->ram + at, MIN(d->size - at, PROTECT_STEP)},
                                         .mode = UFFDIO_WRITEPROTECT_MODE_WP};

        if (ioctl(d->uffd, UFFDIO_WRITEPROTECT, &wp) < 0)
            return -errno;
    }
    return 0;
}

static int uffd_begin(struct proc_dirty *d)
{
    struct uffdio_register reg = {.range = {(uintptr_t)d->ram, d->size},
                                  .mode = UFFDIO_REGISTER_MODE_WP};
    uint64_t pages;
    int r;

    d->uffd = uffd_open();
    if (d->uffd < 0)
        return d->uffd;
    r = ioctl(d->uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : uffd_protect(d);
    if (r == 0)
        r = uffd_scan(d, false, &pages);
    if (r < 0) {
        (void)close(d->uffd);
        d->uffd = -1;
        return r;
    }
    d->kind = PROC_DIRTY_UFFD;
    return 0;
}

/* Soft-dirty */

static int soft_clear(void)
{
    CLEANUP_CLOSE int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);

    return fd < 0 || write(fd, "4", 1) != 1 ? -errno : 0;
}

static int soft_scan(struct proc_dirty *d, uint64_t *ret_pages)
{
    uint64_t pages = d->size / PROC_PAGE;
    uint64_t entries[SOFT_BATCH];

    *ret_pages = 0;
    for (uint64_t at = 0; at < pages; at += SOFT_BATCH) {
        uint64_t n = MIN(pages - at, (uint64_t)SOFT_BATCH);
        off_t where = (off_t)(((uintptr_t)d->ram / PROC_PAGE + at) * sizeof(*entries));

        if (pread(d->pagemap, entries, n * sizeof(*entries), where) !=
            (ssize_t)(n * sizeof(*entries)))
            return errno ? -errno : -EIO;
        for (uint64_t i = 0; i < n; i++) {
            if (!(entries[i] & SOFT_BIT))
                continue;
            mark(d, at + i, 1);
            (*ret_pages)++;
        }
    }
    return 0;
}

/* A kernel without soft-dirty takes the command and does nothing. */
static int soft_probe(struct proc_dirty *d)
{
    volatile uint8_t *page =
        mmap(NULL, PROC_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    off_t where = (off_t)((uintptr_t)page / PROC_PAGE * sizeof(uint64_t));
    uint64_t before = SOFT_BIT, after = 0;
    int r;

    if (page == MAP_FAILED)
        return -errno;
    page[0] = 1;
    r = soft_clear();
    (void)!pread(d->pagemap, &before, sizeof(before), where);
    page[0] = 2;
    (void)!pread(d->pagemap, &after, sizeof(after), where);
    (void)munmap((void *)(uintptr_t)page, PROC_PAGE);
    return r < 0 ? r : (before & SOFT_BIT) || !(after & SOFT_BIT) ? -ENOTSUP : 0;
}

static int soft_begin(struct proc_dirty *d)
{
    int r = soft_probe(d);

    if (r == 0)
        d->kind = PROC_DIRTY_SOFT; /* the probe cleared all bits, before the first round begins */
    return r;
}

/* Both */

static int make_bitmap(struct proc_dirty *d, struct err *err)
{
    size_t size = bitmap_words(d->size / PROC_PAGE) * sizeof(uint64_t);

    d->bitmap_size = (size + PROC_PAGE - 1) / PROC_PAGE * PROC_PAGE;
    d->bitmap_fd = memfd_create("xmotion-dirty", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (d->bitmap_fd < 0 || ftruncate(d->bitmap_fd, (off_t)d->bitmap_size) < 0 ||
        fcntl(d->bitmap_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return err_errno(err, -errno, "memory for the dirty bitmap");
    d->bitmap = mmap(NULL, d->bitmap_size, PROT_READ | PROT_WRITE, MAP_SHARED, d->bitmap_fd, 0);
    if (d->bitmap == MAP_FAILED) {
        d->bitmap = NULL;
        return err_errno(err, -errno, "memory for the dirty bitmap");
    }
    return 0;
}

int proc_dirty_begin(struct proc_dirty *d, uint8_t *ram, size_t size, struct err *err)
{
    const char *wish = getenv("XMOTION_GUEST_TRACKING");
    int r;

    assert(size % PROC_PAGE == 0);
    *d = (struct proc_dirty){.ram = ram, .size = size, .uffd = -1, .pagemap = -1, .bitmap_fd = -1};
    r = make_bitmap(d, err);
    if (r == 0) {
        d->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
        r = d->pagemap < 0 ? err_errno(err, -errno, "/proc/self/pagemap") : 0;
    }
    if (r == 0) {
        r = wish && strcmp(wish, "soft-dirty") == 0 ? -ENOTSUP : uffd_begin(d);
        if (r < 0)
            r = soft_begin(d);
        if (r < 0)
            (void)err_set(err, -ENOTSUP,
                          "this kernel has neither PAGEMAP_SCAN (6.7) nor CONFIG_MEM_SOFT_DIRTY: "
                          "what the guest writes cannot be tracked");
    }
    if (r < 0)
        proc_dirty_end(d);
    return r;
}

int proc_dirty_take(struct proc_dirty *d, uint64_t *ret_pages, struct err *err)
{
    int r;

    assert(d->kind != PROC_DIRTY_OFF);
    if (d->kind == PROC_DIRTY_UFFD) {
        r = uffd_scan(d, true, ret_pages);
    } else {
        r = soft_scan(d, ret_pages);
        if (r == 0)
            r = soft_clear();
    }
    return r < 0 ? err_errno(err, r, "finding the pages that were written") : 0;
}

void proc_dirty_end(struct proc_dirty *d)
{
    if (d->uffd >= 0)
        (void)close(d->uffd); /* unregisters: pages are writable again */
    if (d->pagemap >= 0)
        (void)close(d->pagemap);
    if (d->bitmap)
        (void)munmap(d->bitmap, d->bitmap_size);
    if (d->bitmap_fd >= 0)
        (void)close(d->bitmap_fd);
    *d = (struct proc_dirty){.uffd = -1, .pagemap = -1, .bitmap_fd = -1};
}
