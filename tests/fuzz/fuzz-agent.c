/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Messages of the agents of the hypervisor seam over a real socket: xmotion-xen's answers and events, the embedded guest's
 * descriptions. The first octet: who listens (1, 2), whether a descriptor comes along (4). Descriptors must not leak. */
#include "fuzz-json.h"

#include "hv/hv-xen.c"

#include <sys/socket.h>

static int pair[2] = {-1, -1};

static int null_fd(void)
{
    static int fd = -1;

    if (fd < 0)
        fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    return fd;
}

/* The octets as they are: agent_send would only send what is JSON. */
static void send_raw(const uint8_t *text, size_t length, bool with_fd)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = length};
    char control[CMSG_SPACE(2 * sizeof(int))] __attribute__((aligned(8))) = {0};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    const int fds[2] = {null_fd(), null_fd()};

    if (with_fd) {
        size_t count = 1 + length % 2;
        struct cmsghdr *c;

        m.msg_control = control;
        m.msg_controllen = CMSG_SPACE(count * sizeof(int));
        c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, count * sizeof(int));
    }
    CHECK(sendmsg(pair[1], &m, 0) == (ssize_t)length);
}

/* As the controller of a Xen guest: an event, or an answer with a guest in it. */
static void hear_xen(bool answer)
{
    static struct hv_guest guest;
    static struct xen_source s;
    struct hv_event event;
    json_t *message = NULL;
    struct err err = {0};

    s.link = (struct agent_link){.sock = pair[0], .pending = -1, .poll_fd = -1, .events = json_array()};
    if (!answer) {
        if (agent_link_event(&s.link, &event, &err) == 0)
            CHECK(strnlen(event.text, sizeof(event.text)) < sizeof(event.text) && event.kind <= HV_BUILT);
    } else if (agent_recv(pair[0], 0, &message, NULL, &err) == 0) {
        CHECK(agent_error(message, &err) == 0 || (err.code < 0 && err.code >= -4095));
        if (read_guest(&guest, json_object_get(message, "guest"), &err) == 0)
            hv_guest_finish(&guest);
        json_decref(message);
    }
    json_decref(s.link.events);
}

static void hear_any(void)
{
    json_t *message = NULL;
    struct err err = {0};
    int fd = -1;

    if (agent_recv(pair[0], 0, &message, &fd, &err) == 0)
        CHECK(json_is_object(message));
    else
        CHECK(!message && fd < 0 && err.code < 0);
    if (fd >= 0)
        close(fd);
    json_decref(message);
}

/* It grows when a descriptor is left open. */
static int next_fd(void)
{
    int fd = dup(pair[0]);

    CHECK(fd >= 0);
    close(fd);
    return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t choice = take_u8(&in);
    int fd;

    if (pair[0] < 0)
        CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0 && null_fd() >= 0);
    if (!in.left) /* an empty message means the end there */
        return 0;
    fd = next_fd();
    send_raw(in.at, in.left, choice & 4);
    if (choice & 1)
        hear_xen(choice & 2);
    else
        hear_any();
    CHECK(next_fd() == fd);
    return 0;
}
