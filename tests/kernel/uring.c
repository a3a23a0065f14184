/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "uring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static unsigned int *ring_word(const struct uring *u, unsigned int offset)
{
    return (unsigned int *)(void *)(u->rings + offset);
}

static void *map(int fd, size_t len, uint64_t offset)
{
    return mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)offset);
}

static int map_rings(struct uring *u)
{
    const struct io_uring_params *p = &u->params;
    size_t sq = p->sq_off.array + p->sq_entries * sizeof(uint32_t);
    size_t cq = p->cq_off.cqes + p->cq_entries * sizeof(struct io_uring_cqe);

    if (!(p->features & IORING_FEAT_SINGLE_MMAP))
        return -ENOSYS;
    u->rings_len = sq > cq ? sq : cq;
    u->rings = map(u->fd, u->rings_len, IORING_OFF_SQ_RING);
    if (u->rings == MAP_FAILED) {
        u->rings = NULL;
        return -errno;
    }
    u->entries = map(u->fd, p->sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
    if (u->entries == MAP_FAILED) {
        u->entries = NULL;
        return -errno;
    }
    return 0;
}

int uring_init(struct uring *u, unsigned int depth)
{
    memset(u, 0, sizeof(*u));
    u->fd = (int)syscall(__NR_io_uring_setup, depth, &u->params);
    return u->fd < 0 ? -errno : map_rings(u);
}

void uring_finish(struct uring *u)
{
    if (u->entries)
        (void)munmap(u->entries, u->params.sq_entries * sizeof(struct io_uring_sqe));
    if (u->rings)
        (void)munmap(u->rings, u->rings_len);
    if (u->fd >= 0)
        (void)close(u->fd);
}

static int enter(const struct uring *u, unsigned int submit, unsigned int wait)
{
    long r;

    do
        r = syscall(__NR_io_uring_enter, u->fd, submit, wait, wait ? IORING_ENTER_GETEVENTS : 0,
                    NULL, 0);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

void uring_prepare(struct uring *u, int fd, bool write, void *buf, size_t len, uint64_t offset, unsigned int tag)
{
    unsigned int *tail = ring_word(u, u->params.sq_off.tail);
    unsigned int at = *tail & *ring_word(u, u->params.sq_off.ring_mask);
    struct io_uring_sqe *entry = &u->entries[at];

    memset(entry, 0, sizeof(*entry));
    entry->opcode = write ? IORING_OP_WRITE : IORING_OP_READ;
    entry->fd = fd;
    entry->addr = (uint64_t)(uintptr_t)buf;
    entry->len = (uint32_t)len;
    entry->off = offset;
    entry->user_data = tag;
    ring_word(u, u->params.sq_off.array)[at] = at;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    u->prepared++;
}

static int begin(struct uring *u, unsigned int wait)
{
    int r = enter(u, u->prepared, wait);

    u->prepared = 0;
    return r;
}

int uring_write(struct uring *u, int fd, const void *buf, size_t len, uint64_t offset,
                unsigned int tag)
{
    uring_prepare(u, fd, true, (void *)(uintptr_t)buf, len, offset, tag);
    return begin(u, 0);
}

int uring_wait(struct uring *u, unsigned int *ret_tag, int *ret_result)
{
    unsigned int *head = ring_word(u, u->params.cq_off.head);
    const unsigned int *tail = ring_word(u, u->params.cq_off.tail);
    const struct io_uring_cqe *done;
    int r;

    while (__atomic_load_n(tail, __ATOMIC_ACQUIRE) == *head) {
        r = begin(u, 1);
        if (r < 0)
            return r;
    }
    done = (const struct io_uring_cqe *)(const void *)(u->rings + u->params.cq_off.cqes) +
           (*head & *ring_word(u, u->params.cq_off.ring_mask));
    *ret_tag = (unsigned int)done->user_data;
    *ret_result = done->res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return 0;
}
