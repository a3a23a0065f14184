/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hv/hv-proc-priv.h"

#include "base/cleanup.h"
#include "hv/proc-guest-priv.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

void proc_link_init(struct proc_link *l)
{
    *l = (struct proc_link){.sock = -1, .epoll = -1, .queued = -1};
}

void proc_link_finish(struct proc_link *l)
{
    if (l->sock >= 0)
        (void)close(l->sock);
    if (l->epoll >= 0)
        (void)close(l->epoll);
    if (l->queued >= 0)
        (void)close(l->queued);
    proc_link_init(l);
}

int proc_link_watch(struct proc_link *l, struct err *err)
{
    struct epoll_event in = {.events = EPOLLIN};

    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->queued = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (l->epoll < 0 || l->queued < 0 || epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->sock, &in) < 0 ||
        epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->queued, &in) < 0)
        return err_errno(err, -errno, "epoll");
    return 0;
}

void proc_link_queue(struct proc_link *l, enum hv_event_kind kind, uint64_t duration_ns)
{
    uint64_t one = 1;

    assert(!l->has_event);
    l->event = (struct hv_event){.kind = kind, .duration_ns = duration_ns, .dirty_pages = -1};
    l->has_event = true;
    (void)!write(l->queued, &one, sizeof(one));
}

void proc_link_forget(struct proc_link *l)
{
    uint64_t n;

    if (l->has_event)
        (void)!read(l->queued, &n, sizeof(n));
    l->has_event = false;
}

/* The guest never speaks unasked: a readable socket is its end. */
static bool link_ended(const struct proc_link *l)
{
    struct pollfd p = {.fd = l->sock, .events = POLLIN};

    return poll(&p, 1, 0) > 0;
}

int proc_link_next_event(struct proc_link *l, struct hv_event *ret, struct err *err)
{
    uint64_t n;

    if (l->has_event) {
        *ret = l->event;
        l->has_event = false;
        (void)!read(l->queued, &n, sizeof(n));
        return 0;
    }
    if (!l->expect_end && link_ended(l)) {
        l->expect_end = true;
        (void)epoll_ctl(l->epoll, EPOLL_CTL_DEL, l->sock, NULL);
        *ret = (struct hv_event){
            .kind = HV_GONE, .dirty_pages = -1, .text = "the guest's process has ended"};
        return 0;
    }
    return err_set(err, -EAGAIN, "no event");
}

int proc_link_command(struct proc_link *l, const char *command, const char *number, uint64_t *ret,
                      struct err *err)
{
    json_t *answer;
    int r;

    r = proc_client_command(l->sock, command, &answer, NULL, err);
    if (r < 0)
        return r;
    if (number)
        *ret = (uint64_t)json_integer_value(json_object_get(answer, number));
    json_decref(answer);
    return 0;
}

int proc_link_map(int fd, size_t size, int prot, void **ret, struct err *err)
{
    struct stat st;
    void *map;

    if (fd < 0 || fstat(fd, &st) < 0 || st.st_size < 0 || (uint64_t)st.st_size != size || !size ||
        (fcntl(fd, F_GET_SEALS) & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW))
        return err_set(err, -EPROTO, "the guest sent no sealed memory of %zu octets", size);
    map = mmap(NULL, size, prot, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return err_errno(err, -errno, "mapping the guest's memory");
    *ret = map;
    return 0;
}
