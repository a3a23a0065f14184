/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hv/hv-xen-link.h"

#include "base/clock.h"
#include "base/log.h"
#include "config.h"
#include "hv/agent-spawn.h"
#include "hv/agent.h"

#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define AGENT_PROGRAM "xmotion-xen"

static void watch_fd(int poll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    (void)epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void agent_link_close(struct agent_link *l)
{
    close_fd(&l->sock);
    close_fd(&l->poll_fd);
    close_fd(&l->pending);
    json_decref(l->events);
    l->events = NULL;
    l->lost = true;
}

int agent_link_open(struct agent_link *l, struct err *err)
{
    int rc;

    *l = (struct agent_link){.sock = -1,
                             .pending = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                             .poll_fd = epoll_create1(EPOLL_CLOEXEC),
                             .events = json_array()};
    if (l->pending < 0 || l->poll_fd < 0 || !l->events)
        rc = err_errno(err, -errno, "descriptors for the Xen agent");
    else
        rc = agent_spawn(AGENT_PROGRAM, &l->sock, err);
    if (rc == -ENOENT && !HAVE_XEN)
        rc = err_set(err, -ENOTSUP, "this xmotion was built without Xen: it moves no Xen guests");
    if (rc) {
        agent_link_close(l);
        return rc;
    }
    watch_fd(l->poll_fd, l->sock);
    watch_fd(l->poll_fd, l->pending);
    return 0;
}

static void keep_event(struct agent_link *l, json_t *event)
{
    uint64_t one = 1;

    (void)json_array_append_new(l->events, event);
    (void)!write(l->pending, &one, sizeof(one));
}

int agent_link_ask(struct agent_link *l, json_t *request, int fd, int timeout_ms, json_t **ret,
                   struct err *err)
{
    uint64_t begin = clock_now();
    json_t *answer = NULL;
    int rc = l->lost ? err_set(err, -ECONNRESET, "the Xen agent is gone")
                     : agent_send(l->sock, request, fd, err);

    while (!rc) {
        rc = agent_recv(l->sock, timeout_ms, &answer, NULL, err);
        if (!rc && json_object_get(answer, "reply"))
            break;
        if (!rc)
            keep_event(l, answer);
    }
    if (!rc && !json_equal(json_object_get(answer, "reply"), json_object_get(request, "do"))) {
        json_decref(answer);
        rc = err_set(err, -EPROTO, "it answers what was not asked");
    }
    log_debug("hv.agent", "%s took %llu ms", json_string_value(json_object_get(request, "do")),
              (unsigned long long)((clock_now() - begin) / NS_PER_MS));
    json_decref(request);
    /* An answer that comes after all would be taken for the next one's: the agent hears that nobody waits any more. */
    if (rc == -ECONNRESET || rc == -ETIMEDOUT || rc == -EPROTO) {
        (void)shutdown(l->sock, SHUT_RDWR);
        l->lost = true;
    }
    if (rc)
        return err_prefix(err, rc, "the Xen agent");
    rc = agent_error(answer, err);
    if (!rc && ret)
        *ret = json_incref(answer);
    json_decref(answer);
    return rc;
}

int agent_link_do(struct agent_link *l, const char *what, int timeout_ms, struct err *err)
{
    return agent_link_ask(l, json_pack("{s:s}", "do", what), -1, timeout_ms, NULL, err);
}

static const struct {
    const char *name;
    enum hv_event_kind kind;
} event_names[] = {
    {"policy", HV_POLICY}, {"suspended", HV_SUSPENDED}, {"saved", HV_SAVED},
    {"gone", HV_GONE},     {"failed", HV_FAILED},       {"built", HV_BUILT},
};

static void read_event(const json_t *message, struct hv_event *ret)
{
    const char *name = json_string_value(json_object_get(message, "event"));
    const char *text = json_string_value(json_object_get(message, "text"));
    const json_t *policy = json_object_get(message, "policy");

    *ret = (struct hv_event){.kind = HV_NOTHING, .dirty_pages = -1};
    for (size_t i = 0; name && i < sizeof(event_names) / sizeof(event_names[0]); i++)
        if (!strcmp(name, event_names[i].name))
            ret->kind = event_names[i].kind;
    (void)snprintf(ret->text, sizeof(ret->text), "%s", text ? text : "");
    ret->duration_ns = (uint64_t)json_integer_value(json_object_get(message, "ns"));
    if (!policy)
        return;
    ret->before_round = json_is_true(json_object_get(policy, "before_round"));
    ret->iteration = (unsigned int)json_integer_value(json_object_get(policy, "iteration"));
    ret->total_written = (uint64_t)json_integer_value(json_object_get(policy, "total_written"));
    ret->dirty_pages = json_integer_value(json_object_get(policy, "dirty_pages"));
}

static bool take_kept(struct agent_link *l, struct hv_event *ret)
{
    uint64_t count;

    if (!json_array_size(l->events)) {
        (void)!read(l->pending, &count, sizeof(count));
        return false;
    }
    read_event(json_array_get(l->events, 0), ret);
    (void)json_array_remove(l->events, 0);
    return true;
}

void agent_link_forget(struct agent_link *l)
{
    size_t i = 0;

    while (i < json_array_size(l->events)) {
        const char *name = json_string_value(json_object_get(json_array_get(l->events, i), "event"));

        if (name && !strcmp(name, "gone"))
            i++;
        else
            (void)json_array_remove(l->events, i);
    }
}

int agent_link_event(struct agent_link *l, struct hv_event *ret, struct err *err)
{
    json_t *message = NULL;
    int rc;

    if (take_kept(l, ret))
        return 0;
    rc = l->lost ? -EAGAIN : agent_recv(l->sock, 0, &message, NULL, err);
    if (!rc) {
        read_event(message, ret);
        json_decref(message);
    } else if (rc != -EAGAIN) { /* told once */
        l->lost = true;
        (void)epoll_ctl(l->poll_fd, EPOLL_CTL_DEL, l->sock, NULL);
        *ret = (struct hv_event){.kind = HV_FAILED, .dirty_pages = -1};
        (void)snprintf(ret->text, sizeof(ret->text), "the Xen agent ended unexpectedly");
        rc = 0;
    }
    return rc;
}
