/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hv/agent.h"

#include "base/cleanup.h"

#include <assert.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

union fd_control {
    struct cmsghdr align;
    char bytes[CMSG_SPACE(sizeof(int))];
};

static int send_text(int sock, const char *text, size_t len, int fd, struct err *err)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)text, .iov_len = len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    union fd_control control;
    ssize_t n;

    if (fd >= 0) {
        struct cmsghdr *c;

        memset(&control, 0, sizeof(control));
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof(control.bytes);
        c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    }
    do {
        n = sendmsg(sock, &msg, MSG_NOSIGNAL);
    } while (n < 0 && errno == EINTR);
    if (n < 0 && (errno == EPIPE || errno == ECONNRESET))
        return err_set(err, -ECONNRESET, "the agent is gone");
    if (n < 0)
        return err_errno(err, -errno, "sending to the agent");
    return 0;
}

int agent_send(int sock, const json_t *message, int fd, struct err *err)
{
    CLEANUP_FREE char *text = json_dumps(message, JSON_COMPACT);

    assert(json_is_object(message));
    if (!text)
        return err_set(err, -ENOMEM, "out of memory");
    if (strlen(text) > AGENT_MESSAGE_MAX)
        return err_set(err, -EMSGSIZE,
                       "a message of %zu octets is too long for the agent, %u is the most",
                       strlen(text), AGENT_MESSAGE_MAX);
    return send_text(sock, text, strlen(text), fd, err);
}

static int wait_readable(int sock, int timeout_ms, struct err *err)
{
    struct pollfd p = {.fd = sock, .events = POLLIN};
    int r;

    do {
        r = poll(&p, 1, timeout_ms);
    } while (r < 0 && errno == EINTR);
    if (r < 0)
        return err_errno(err, -errno, "waiting for the agent");
    if (r == 0 && timeout_ms == 0)
        return err_set(err, -EAGAIN, "nothing from the agent yet");
    if (r == 0)
        return err_set(err, -ETIMEDOUT, "the agent did not answer within %d ms", timeout_ms);
    return 0;
}

/* The first descriptor that came along; any other is closed. */
static int take_fds(struct msghdr *msg)
{
    int first = -1;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t i = 0; i < count; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(fd), sizeof(fd));
            if (first < 0)
                first = fd;
            else
                (void)close(fd);
        }
    }
    return first;
}

static int recv_text(int sock, char *buf, size_t *ret_len, int *ret_fd, struct err *err)
{
    struct iovec iov = {.iov_base = buf, .iov_len = AGENT_MESSAGE_MAX};
    union fd_control control;
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof(control.bytes)};
    ssize_t n;

    do {
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    if (n == 0 || (n < 0 && errno == ECONNRESET))
        return err_set(err, -ECONNRESET, "the agent is gone");
    if (n < 0)
        return err_errno(err, -errno, "reading from the agent");
    *ret_fd = take_fds(&msg);
    if (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
        return err_set(err, -EPROTO, "the agent's message is longer than %u octets",
                       AGENT_MESSAGE_MAX);
    *ret_len = (size_t)n;
    return 0;
}

int agent_recv(int sock, int timeout_ms, json_t **ret, int *ret_fd, struct err *err)
{
    CLEANUP_FREE char *buf = malloc(AGENT_MESSAGE_MAX);
    CLEANUP_CLOSE int fd = -1;
    json_error_t bad;
    size_t len = 0;
    int r;

    if (!buf)
        return err_set(err, -ENOMEM, "out of memory");
    r = wait_readable(sock, timeout_ms, err);
    if (r == 0)
        r = recv_text(sock, buf, &len, &fd, err);
    if (r < 0)
        return r;
    *ret = json_loadb(buf, len, JSON_REJECT_DUPLICATES, &bad);
    if (!json_is_object(*ret)) {
        json_decref(*ret);
        *ret = NULL;
        return err_set(err, -EPROTO, "the agent's message is no JSON object");
    }
    if (ret_fd)
        *ret_fd = take_fd(&fd);
    return 0;
}

int agent_error(const json_t *message, struct err *err)
{
    const json_t *text = json_object_get(message, "error");
    json_int_t code = json_integer_value(json_object_get(message, "errno"));

    if (!text)
        return 0;
    if (code < 1 || code > 4095)
        code = EIO;
    return err_set(err, (int)-code, "%s", json_is_string(text) ? json_string_value(text) : "error");
}
