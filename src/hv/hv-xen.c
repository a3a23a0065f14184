/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Xen domains, through the agent program xmotion-xen: one process a guest, which keeps the libxl
 * library and its dangers away from here, and stays as the guest's monitor at the target. */
#include "hv/hv.h"

#include "base/log.h"
#include "hv/agent.h"
#include "hv/hv-xen-link.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* How long the agent may take. Ending a save waits for the guest, which libxl gives two minutes. */
#define SHORT_MS  30000
#define CHANGE_MS 120000
#define RESUME_MS 180000

#define PIPE_SIZE (1 << 20)

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
    char uuid[40];
    unsigned int disk_count;
    bool building, run_asked;
    json_t *config;
};

/* The source */

static void copy_text(char *to, size_t size, const char *from)
{
    size_t length = strnlen(from ? from : "", size - 1);

    memcpy(to, from ? from : "", length);
    to[length] = '\0';
}

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
    return agent_link_event(&source_of(s)->link, ret, err);
}

static int source_check(struct hv_source *s, struct err *err)
{
    return agent_link_do(&source_of(s)->link, "check", SHORT_MS, err);
}

/* A pipe for the libxl stream, as wide as is allowed: a round's pages come in batches of 4 MiB. */
static int make_pipe(int pipe_fds[2], struct err *err)
{
    if (pipe2(pipe_fds, O_CLOEXEC))
        return err_errno(err, -errno, "a pipe for the guest's memory");
    (void)fcntl(pipe_fds[0], F_SETPIPE_SZ, PIPE_SIZE);
    return 0;
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
    int rc = agent_link_ask(&s->link, json_pack("{s:s,s:s}", "do", "describe", "guest", guest), -1,
                            SHORT_MS, &answer, err);

    if (!rc)
        rc = read_guest(ret, json_object_get(answer, "guest"), err);
    if (!rc)
        (void)snprintf(s->domain, sizeof(s->domain), "%lld",
                       (long long)json_integer_value(json_object_get(answer, "domid")));
    s->aside = s->aside || json_is_true(json_object_get(answer, "aside"));
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
    agent_link_close(&s->link);
    rc = agent_link_open(&s->link, err);
    if (!rc)
        rc = describe(s, s->domain, &unused, err);
    if (!rc)
        hv_guest_finish(&unused);
    return rc;
}

static int source_memory_begin(struct hv_source *s, int *ret_fd, const uint8_t **ret_memory,
                               struct err *err)
{
    int pipe_fds[2], rc = find_again(source_of(s), err);

    if (!rc)
        rc = make_pipe(pipe_fds, err);
    if (rc)
        return rc;
    rc = agent_link_ask(&source_of(s)->link, json_pack("{s:s}", "do", "save"), pipe_fds[1],
                        SHORT_MS, NULL, err);
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

static int source_log_dirty_take(struct hv_source *s, struct bitmap *dirty, uint64_t *ret_pages,
                                 struct err *err)
{
    return err_set(err, -ENOTSUP, "libxenguest tracks a Xen domain's memory");
}

static int source_throttle(struct hv_source *s, unsigned int percent, struct err *err)
{
    return agent_link_ask(&source_of(s)->link,
                          json_pack("{s:s,s:i}", "do", "throttle", "percent", (int)percent), -1,
                          SHORT_MS, NULL, err);
}

static int source_suspend(struct hv_source *s, struct err *err)
{
    return err_set(err, -ENOTSUP, "a Xen domain is suspended when its policy says stop");
}

static int source_resume(struct hv_source *s, struct err *err)
{
    int rc = find_again(source_of(s), err);

    if (!rc)
        rc = agent_link_do(&source_of(s)->link, "resume", RESUME_MS, err);
    if (rc == -ECONNRESET && !find_again(source_of(s), err))
        rc = agent_link_do(&source_of(s)->link, "resume", RESUME_MS, err);
    agent_link_forget(&source_of(s)->link); /* of the save that has ended */
    if (!rc)
        source_of(s)->aside = false;
    return rc;
}

static int source_set_aside(struct hv_source *s, struct err *err)
{
    source_of(s)->aside = true; /* also if the answer is lost */
    return agent_link_do(&source_of(s)->link, "set-aside", SHORT_MS, err);
}

static int source_destroy(struct hv_source *s, struct err *err)
{
    return agent_link_do(&source_of(s)->link, "destroy", CHANGE_MS, err);
}

/* The agent resumes the guest when it sees the socket's end, unless it was set aside or destroyed.
 */
static void source_close(struct hv_source *s)
{
    if (source_of(s)->link.lost && source_of(s)->domain[0] && !source_of(s)->aside)
        (void)source_resume(s, NULL);
    agent_link_close(&source_of(s)->link);
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
    .throttle = source_throttle,
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
    rc = agent_link_open(&s->link, err);
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
    return agent_link_event(&target_of(t)->link, ret, err);
}

static int target_check(struct hv_target *t, struct err *err)
{
    struct xen_target *x = target_of(t);
    json_t *answer = NULL, *warning;
    size_t i;
    int rc = agent_link_ask(
        &x->link,
        json_pack("{s:s,s:s,s:O}", "do", "target-check", "name", x->name, "config", x->config), -1,
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
    return json_pack("{s:s,s:s,s:O,s:o}", "do", "restore", "name", x->name, "config", x->config,
                     "paths", paths);
}

static int target_memory_begin(struct hv_target *t, const char *const *disk_paths, int *ret_fd,
                               uint8_t **ret_memory, struct err *err)
{
    int pipe_fds[2], rc = make_pipe(pipe_fds, err);

    if (rc)
        return rc;
    target_of(t)->building = true;
    rc = agent_link_ask(&target_of(t)->link, restore_request(target_of(t), disk_paths), pipe_fds[0],
                        CHANGE_MS, NULL, err);
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

static int target_run(struct hv_target *t, const char *mark, uint64_t *ret_ns, struct err *err)
{
    json_t *answer = NULL;
    int rc;

    target_of(t)->run_asked = true; /* the guest may run also if the answer is lost */
    rc = agent_link_ask(&target_of(t)->link, json_pack("{s:s, s:s*}", "do", "run", "mark", mark), -1, CHANGE_MS,
                        &answer, err);
    *ret_ns = (uint64_t)json_integer_value(json_object_get(answer, "ns"));
    json_decref(answer);
    return rc;
}

static int target_settle(struct hv_target *t, uint64_t timeout_ns, uint64_t *ret_ns, struct err *err)
{
    json_t *answer = NULL;
    int rc = agent_link_ask(&target_of(t)->link, json_pack("{s:s,s:I}", "do", "settle", "timeout", (json_int_t)timeout_ns),
                            -1, CHANGE_MS, &answer, err);

    *ret_ns = (uint64_t)json_integer_value(json_object_get(answer, "ns"));
    json_decref(answer);
    return rc;
}

/* The agent died in the middle: another one looks for what it left. */
static int destroy_left(struct xen_target *t, struct err *err)
{
    int rc;

    agent_link_close(&t->link);
    rc = agent_link_open(&t->link, err);
    if (rc)
        return rc;
    return agent_link_ask(&t->link, json_pack("{s:s,s:s,s:s}", "do", "destroy-left", "name", t->name, "uuid", t->uuid),
                          -1, CHANGE_MS, NULL, err);
}

static int target_destroy(struct hv_target *t, struct err *err)
{
    int rc = agent_link_do(&target_of(t)->link, "target-destroy", CHANGE_MS, err);

    if (rc && target_of(t)->link.lost)
        rc = destroy_left(target_of(t), err);
    agent_link_forget(&target_of(t)->link);
    if (!rc)
        target_of(t)->building = false;
    return rc;
}

/* The agent destroys what it built when it sees the socket's end; a guest that runs keeps it as its
 * monitor. */
static void target_close(struct hv_target *t)
{
    if (target_of(t)->link.lost && target_of(t)->building && !target_of(t)->run_asked)
        (void)destroy_left(target_of(t), NULL);
    agent_link_close(&target_of(t)->link);
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
    .settle = target_settle,
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
    rc = agent_link_open(&t->link, err);
    if (rc) {
        free(t);
        return rc;
    }
    copy_text(t->name, sizeof(t->name), guest->name);
    copy_text(t->uuid, sizeof(t->uuid), guest->uuid);
    t->disk_count = guest->disk_count;
    t->config = json_incref(guest->config);
    *ret = &t->base;
    return 0;
}
