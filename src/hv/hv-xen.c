/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Xen domains, through the agent program xmotion-xen: one process a guest, which keeps the libxl library and its
 * dangers away from here, and stays as the guest's monitor at the target. */
#include "hv/hv.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "config.h"
#include "hv/agent.h"
#include "hv/agent-spawn.h"

#include <assert.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define AGENT_PROGRAM "xmotion-xen"

/* How long the agent may take. Ending a save waits for the guest, which libxl gives two minutes. */
#define SHORT_MS  30000
#define CHANGE_MS 120000
#define RESUME_MS 180000

#define PIPE_SIZE (1 << 20)

/* One agent. Events that come while an answer is awaited are kept; `pending` then makes `poll_fd` readable. */
struct agent_link {
    int sock, poll_fd, pending;
    json_t *events;
    bool lost;
};

struct xen_source {
    struct hv_source base;
    struct agent_link link;
    struct hv_guest guest;
    char domain[16]; /* the domid, for an agent that comes in place of one that died */
    bool aside;      /* or destroyed: not ours any more */
};

struct xen_target {
    struct hv_target base;
    struct agent_link link;
    char name[HV_NAME_MAX];
    unsigned int disk_count;
    json_t *config;
};

static void watch_fd(int poll_fd, int fd)
{
    struct epoll_event event = {.events = EPOLLIN};

    (void)epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event);
}

static void link_close(struct agent_link *l)
{
    if (l->sock >= 0)
        close(l->sock);
    if (l->poll_fd >= 0)
        close(l->poll_fd);
    if (l->pending >= 0)
        close(l->pending);
    json_decref(l->events);
}

static int link_open(struct agent_link *l, struct err *err)
{
    int rc;

    *l = (struct agent_link){.sock = -1, .pending = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
                             .poll_fd = epoll_create1(EPOLL_CLOEXEC), .events = json_array()};
    if (l->pending < 0 || l->poll_fd < 0 || !l->events)
        rc = err_errno(err, -errno, "descriptors for the Xen agent");
    else
        rc = agent_spawn(AGENT_PROGRAM, &l->sock, err);
    if (rc == -ENOENT && !HAVE_XEN)
        rc = err_set(err, -ENOTSUP, "this xmotion was built without Xen: it moves no Xen guests");
    if (rc) {
        link_close(l);
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

/* Sends a request, which it takes over, and waits for its answer; `fd` goes along. *ret may be NULL. */
static int ask(struct agent_link *l, json_t *request, int fd, int timeout_ms, json_t **ret, struct err *err)
{
    json_t *answer = NULL;
    int rc = l->lost ? err_set(err, -ECONNRESET, "the Xen agent is gone") : agent_send(l->sock, request, fd, err);

    json_decref(request);
    while (!rc) {
        rc = agent_recv(l->sock, timeout_ms, &answer, NULL, err);
        if (!rc && json_object_get(answer, "reply"))
            break;
        if (!rc)
            keep_event(l, answer);
    }
    if (rc == -ECONNRESET)
        l->lost = true;
    if (rc)
        return err_prefix(err, rc, "the Xen agent");
    rc = agent_error(answer, err);
    if (!rc && ret)
        *ret = json_incref(answer);
    json_decref(answer);
    return rc;
}

static int ask_only(struct agent_link *l, const char *what, int timeout_ms, struct err *err)
{
    return ask(l, json_pack("{s:s}", "do", what), -1, timeout_ms, NULL, err);
}

static const struct {
    const char *name;
    enum hv_event_kind kind;
} event_names[] = {
    {"policy", HV_POLICY}, {"suspended", HV_SUSPENDED}, {"saved", HV_SAVED}, {"gone", HV_GONE},
    {"failed", HV_FAILED}, {"built", HV_BUILT},
};

static void copy_text(char *to, size_t size, const char *from)
{
    size_t length = strnlen(from ? from : "", size - 1);

    memcpy(to, from ? from : "", length);
    to[length] = '\0';
}

static void read_event(const json_t *message, struct hv_event *ret)
{
    const char *name = json_string_value(json_object_get(message, "event"));
    const json_t *policy = json_object_get(message, "policy");

    *ret = (struct hv_event){.kind = HV_NOTHING, .dirty_pages = -1};
    for (size_t i = 0; name && i < sizeof(event_names) / sizeof(event_names[0]); i++)
        if (!strcmp(name, event_names[i].name))
            ret->kind = event_names[i].kind;
    copy_text(ret->text, sizeof(ret->text), json_string_value(json_object_get(message, "text")));
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

static int link_event(struct agent_link *l, struct hv_event *ret, struct err *err)
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
        copy_text(ret->text, sizeof(ret->text), "the Xen agent ended unexpectedly");
        rc = 0;
    }
    return rc;
}

/* The source */

static struct xen_source *source_of(struct hv_source *s)
{
    return (struct xen_source *)s; /* the first member */
}

static const struct hv_guest *source_guest(struct hv_source *s)
{
    return &source_of(s)->guest;
}

static int source_fd(struct hv_source *s)
{
    return source_of(s)->link.poll_fd;
}

static int source_next_event(struct hv_source *s, struct hv_event *ret, struct err *err)
{
    return link_event(&source_of(s)->link, ret, err);
}

static int source_check(struct hv_source *s, struct err *err)
{
    return ask_only(&source_of(s)->link, "check", SHORT_MS, err);
}

/* A pipe for the libxl stream, as wide as is allowed: a round's pages come in batches of 4 MiB. */
static int make_pipe(int pipe_fds[2], struct err *err)
{
    if (pipe2(pipe_fds, O_CLOEXEC))
        return err_errno(err, -errno, "a pipe for the guest's memory");
    (void)fcntl(pipe_fds[0], F_SETPIPE_SZ, PIPE_SIZE);
    return 0;
}

static int source_memory_begin(struct hv_source *s, int *ret_fd, const uint8_t **ret_memory, struct err *err)
{
    int pipe_fds[2], rc = make_pipe(pipe_fds, err);

    if (rc)
        return rc;
    rc = ask(&source_of(s)->link, json_pack("{s:s}", "do", "save"), pipe_fds[1], SHORT_MS, NULL, err);
    close(pipe_fds[1]);
    if (rc)
        close(pipe_fds[0]);
    else
        *ret_fd = pipe_fds[0];
    return rc;
}

static int source_policy_answer(struct hv_source *s, enum hv_policy answer, struct err *err)
{
    json_t *message = json_pack("{s:s,s:i}", "do", "policy", "answer", (int)answer);
    int rc = agent_send(source_of(s)->link.sock, message, -1, err);

    json_decref(message);
    return rc;
}

static int source_log_dirty_take(struct hv_source *s, struct bitmap *dirty, uint64_t *ret_pages, struct err *err)
{
    return err_set(err, -ENOTSUP, "libxenguest tracks a Xen domain's memory");
}

static int source_suspend(struct hv_source *s, struct err *err)
{
    return err_set(err, -ENOTSUP, "a Xen domain is suspended when its policy says stop");
}

/* Device paths do not travel, so hv_guest_from_json does not read them. */
static int read_guest(struct hv_guest *ret, const json_t *json, struct err *err)
{
    json_t *disks = json_object_get(json, "disks");
    int rc = hv_guest_from_json(ret, json, err);

    for (unsigned int i = 0; !rc && i < ret->disk_count; i++)
        copy_text(ret->disks[i].path, HV_PATH_MAX,
                  json_string_value(json_object_get(json_array_get(disks, i), "path")));
    return rc;
}

static int describe(struct xen_source *s, const char *guest, struct hv_guest *ret, struct err *err)
{
    json_t *answer = NULL;
    int rc = ask(&s->link, json_pack("{s:s,s:s}", "do", "describe", "guest", guest), -1, SHORT_MS, &answer, err);

    if (!rc)
        rc = read_guest(ret, json_object_get(answer, "guest"), err);
    if (!rc)
        (void)snprintf(s->domain, sizeof(s->domain), "%lld", (long long)json_integer_value(json_object_get(answer, "domid")));
    json_decref(answer);
    return rc;
}

/* The agent died, and with it what knew of the guest: another one finds it as it is now. */
static int find_again(struct xen_source *s, struct err *err)
{
    struct hv_guest unused;
    int rc;

    if (!s->link.lost)
        return 0;
    link_close(&s->link);
    rc = link_open(&s->link, err);
    if (!rc)
        rc = describe(s, s->domain, &unused, err);
    if (!rc)
        hv_guest_finish(&unused);
    return rc;
}


static int source_resume(struct hv_source *s, struct err *err)
{
    int rc = find_again(source_of(s), err);

    if (!rc)
        rc = ask_only(&source_of(s)->link, "resume", RESUME_MS, err);
    if (rc == -ECONNRESET && !find_again(source_of(s), err))
        rc = ask_only(&source_of(s)->link, "resume", RESUME_MS, err);
    if (!rc)
        source_of(s)->aside = false;
    return rc;
}

static int source_set_aside(struct hv_source *s, struct err *err)
{
    source_of(s)->aside = true; /* also if the answer is lost */
    return ask_only(&source_of(s)->link, "set-aside", SHORT_MS, err);
}

static int source_destroy(struct hv_source *s, struct err *err)
{
    return ask_only(&source_of(s)->link, "destroy", CHANGE_MS, err);
}

/* The agent resumes the guest when it sees the socket's end, unless it was set aside or destroyed. */
static void source_close(struct hv_source *s)
{
    if (source_of(s)->link.lost && source_of(s)->domain[0] && !source_of(s)->aside)
        (void)source_resume(s, NULL);
    link_close(&source_of(s)->link);
    hv_guest_finish(&source_of(s)->guest);
    free(s);
}

static const struct hv_source_ops xen_source_ops = {
    .name = "xen",
    .memory_kind = HV_MEMORY_STREAM,
    .guest = source_guest,
    .fd = source_fd,
    .next_event = source_next_event,
    .check = source_check,
    .memory_begin = source_memory_begin,
    .policy_answer = source_policy_answer,
    .log_dirty_take = source_log_dirty_take,
    .suspend = source_suspend,
    .resume = source_resume,
    .set_aside = source_set_aside,
    .destroy = source_destroy,
    .close = source_close,
};

int hv_source_open_xen(struct hv_source **ret, const char *guest, struct err *err)
{
    struct xen_source *s = calloc(1, sizeof(*s));
    int rc;

    if (!s)
        return err_errno(err, -ENOMEM, "opening %s", guest);
    s->base.ops = &xen_source_ops;
    rc = link_open(&s->link, err);
    if (rc) {
        free(s);
        return rc;
    }
    rc = describe(s, guest, &s->guest, err);
    if (rc)
        source_close(&s->base);
    else
        *ret = &s->base;
    return rc;
}

/* The target */

static struct xen_target *target_of(struct hv_target *t)
{
    return (struct xen_target *)t;
}

static int target_fd(struct hv_target *t)
{
    return target_of(t)->link.poll_fd;
}

static int target_next_event(struct hv_target *t, struct hv_event *ret, struct err *err)
{
    return link_event(&target_of(t)->link, ret, err);
}

static int target_check(struct hv_target *t, struct err *err)
{
    struct xen_target *x = target_of(t);
    json_t *answer = NULL, *warning;
    size_t i;
    int rc = ask(&x->link, json_pack("{s:s,s:s,s:O}", "do", "target-check", "name", x->name, "config", x->config), -1,
                 SHORT_MS, &answer, err);

    json_array_foreach(json_object_get(answer, "warnings"), i, warning)
        log_warn("hv.xen", "%s", json_string_value(warning));
    json_decref(answer);
    return rc;
}

static json_t *restore_request(const struct xen_target *x, const char *const *disk_paths)
{
    json_t *paths = json_array();

    for (unsigned int i = 0; i < x->disk_count; i++)
        (void)json_array_append_new(paths, json_string(disk_paths[i]));
    return json_pack("{s:s,s:s,s:O,s:o}", "do", "restore", "name", x->name, "config", x->config, "paths", paths);
}

static int target_memory_begin(struct hv_target *t, const char *const *disk_paths, int *ret_fd, uint8_t **ret_memory,
                               struct err *err)
{
    int pipe_fds[2], rc = make_pipe(pipe_fds, err);

    if (rc)
        return rc;
    rc = ask(&target_of(t)->link, restore_request(target_of(t), disk_paths), pipe_fds[0], CHANGE_MS, NULL, err);
    close(pipe_fds[0]);
    if (rc)
        close(pipe_fds[1]);
    else
        *ret_fd = pipe_fds[1];
    return rc;
}

/* libxl knows the end of its stream. */
static int target_memory_complete(struct hv_target *t, struct err *err)
{
    return 0;
}

static int target_run(struct hv_target *t, uint64_t *ret_ns, struct err *err)
{
    json_t *answer = NULL;
    int rc = ask(&target_of(t)->link, json_pack("{s:s}", "do", "run"), -1, CHANGE_MS, &answer, err);

    *ret_ns = (uint64_t)json_integer_value(json_object_get(answer, "ns"));
    json_decref(answer);
    return rc;
}

static int target_destroy(struct hv_target *t, struct err *err)
{
    return ask_only(&target_of(t)->link, "target-destroy", CHANGE_MS, err);
}

/* The agent destroys what it built when it sees the socket's end; a guest that runs keeps it as its monitor. */
static void target_close(struct hv_target *t)
{
    link_close(&target_of(t)->link);
    json_decref(target_of(t)->config);
    free(t);
}

static const struct hv_target_ops xen_target_ops = {
    .name = "xen",
    .memory_kind = HV_MEMORY_STREAM,
    .fd = target_fd,
    .next_event = target_next_event,
    .check = target_check,
    .memory_begin = target_memory_begin,
    .memory_complete = target_memory_complete,
    .run = target_run,
    .destroy = target_destroy,
    .close = target_close,
};

int hv_target_open_xen(struct hv_target **ret, const struct hv_guest *guest, struct err *err)
{
    struct xen_target *t;
    int rc;

    if (!guest->config)
        return err_set(err, -EPROTO, "the guest comes without a configuration");
    t = calloc(1, sizeof(*t));
    if (!t)
        return err_errno(err, -ENOMEM, "a target for %s", guest->name);
    t->base.ops = &xen_target_ops;
    rc = link_open(&t->link, err);
    if (rc) {
        free(t);
        return rc;
    }
    copy_text(t->name, sizeof(t->name), guest->name);
    t->disk_count = guest->disk_count;
    t->config = json_incref(guest->config);
    *ret = &t->base;
    return 0;
}
