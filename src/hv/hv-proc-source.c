/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An embedded guest at the source (hv.h, proc-guest.h). */
#include "hv/hv-proc-priv.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "hv/agent.h"
#include "hv/proc-guest-priv.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

struct proc_source {
    struct hv_source base;
    struct proc_link link;
    struct hv_guest guest;
    const uint8_t *ram;
    uint64_t *marks; /* shared with the guest */
    size_t marks_size;
    bool moving;
    bool kept; /* set aside: close leaves it so */
};

static struct proc_source *source_of(struct hv_source *s)
{
    return (struct proc_source *)s; /* base comes first */
}

static const struct hv_guest *source_guest(struct hv_source *s)
{
    return &source_of(s)->guest;
}

static int source_fd(struct hv_source *s)
{
    return source_of(s)->link.epoll;
}

static int source_next_event(struct hv_source *s, struct hv_event *ret, struct err *err)
{
    return proc_link_next_event(&source_of(s)->link, ret, err);
}

static int source_check(struct hv_source *s, struct err *err)
{
    struct proc_source *p = source_of(s);
    json_t *answer;
    const char *state;
    int r;

    r = proc_client_command(p->link.sock, "describe", &answer, NULL, err);
    if (r < 0)
        return r;
    state = json_string_value(json_object_get(answer, "state"));
    if (json_is_true(json_object_get(answer, "moving")))
        r = err_set(err, -EBUSY, "guest '%s' is being moved already", p->guest.name);
    else if (!state || strcmp(state, "running") != 0)
        r = err_set(err, -EINVAL, "guest '%s' is %s, not running", p->guest.name,
                    state ? state : "?");
    json_decref(answer);
    return r;
}

/* RAM came with the first answer, the bitmap follows. */
static int take_mappings(struct proc_source *p, int ram_fd, struct err *err)
{
    CLEANUP_CLOSE int marks_fd = -1;
    json_t *answer = NULL;
    void *map;
    int r;

    r = agent_recv(p->link.sock, -1, &answer, &marks_fd, err);
    json_decref(answer);
    if (r == 0)
        r = proc_link_map(ram_fd, p->guest.memory, PROT_READ, &map, err);
    if (r < 0)
        return r;
    p->ram = map;
    p->marks_size = bitmap_words(p->guest.memory / PROC_PAGE) * sizeof(uint64_t);
    p->marks_size = DIV_ROUND_UP(p->marks_size, PROC_PAGE) * PROC_PAGE;
    r = proc_link_map(marks_fd, p->marks_size, PROT_READ | PROT_WRITE, &map, err);
    if (r == 0)
        p->marks = map;
    return r;
}

static void drop_mappings(struct proc_source *p)
{
    if (p->ram)
        (void)munmap((void *)(uintptr_t)p->ram, p->guest.memory);
    if (p->marks)
        (void)munmap(p->marks, p->marks_size);
    p->ram = NULL;
    p->marks = NULL;
}

static int source_memory_begin(struct hv_source *s, int *ret_fd, const uint8_t **ret_memory,
                               struct err *err)
{
    struct proc_source *p = source_of(s);
    CLEANUP_CLOSE int ram_fd = -1;
    int r;

    assert(!p->moving);
    r = proc_client_command(p->link.sock, "memory_begin", NULL, &ram_fd, err);
    if (r < 0)
        return r;
    p->moving = true;
    drop_mappings(p);
    r = take_mappings(p, ram_fd, err);
    if (r < 0) {
        (void)s->ops->resume(s, NULL);
        drop_mappings(p);
        return r;
    }
    *ret_fd = -1;
    *ret_memory = p->ram;
    return 0;
}

static int source_policy_answer(struct hv_source *s, enum hv_policy answer, struct err *err)
{
    return err_set(err, -EOPNOTSUPP, "an embedded guest asks for no policy");
}

static int source_log_dirty_take(struct hv_source *s, struct bitmap *dirty, uint64_t *ret_pages,
                                 struct err *err)
{
    struct proc_source *p = source_of(s);
    int r;

    assert(p->moving && dirty->bits == p->guest.memory / PROC_PAGE);
    r = proc_link_command(&p->link, "log_dirty_take", NULL, NULL, err);
    if (r == 0)
        *ret_pages = bitmap_take(dirty, p->marks);
    return r;
}

static int source_throttle(struct hv_source *s, unsigned int percent, struct err *err)
{
    return proc_client_call(source_of(s)->link.sock,
                            json_pack("{s:s, s:i}", "command", "throttle", "percent", (int)percent),
                            NULL, NULL, err);
}

static int source_suspend(struct hv_source *s, struct err *err)
{
    struct proc_source *p = source_of(s);
    uint64_t ns = 0;
    int r;

    r = proc_link_command(&p->link, "suspend", "ns", &ns, err);
    if (r == 0)
        proc_link_queue(&p->link, HV_SUSPENDED, ns);
    return r;
}

/* RAM stays mapped until close: a thread may still be reading it. */
static int source_resume(struct hv_source *s, struct err *err)
{
    struct proc_source *p = source_of(s);
    int r;

    if (!p->moving && !p->kept)
        return 0;
    r = proc_link_command(&p->link, "resume", NULL, NULL, err);
    if (r == 0)
        p->moving = p->kept = false;
    proc_link_forget(&p->link);
    return r;
}

static int source_set_aside(struct hv_source *s, struct err *err)
{
    struct proc_source *p = source_of(s);
    int r = proc_link_command(&p->link, "set_aside", NULL, NULL, err);

    if (r == 0)
        p->kept = true;
    return r;
}

static int source_destroy(struct hv_source *s, struct err *err)
{
    struct proc_source *p = source_of(s);
    int r = proc_link_command(&p->link, "destroy", NULL, NULL, err);

    if (r == 0) {
        p->link.expect_end = true;
        p->moving = p->kept = false;
    }
    return r;
}

static void source_close(struct hv_source *s)
{
    struct proc_source *p = source_of(s);

    if (p->moving && !p->kept)
        (void)source_resume(s, NULL);
    proc_link_finish(&p->link);
    drop_mappings(p);
    hv_guest_finish(&p->guest);
    free(p);
}

static const struct hv_source_ops source_ops = {
    .name = "proc",
    .memory_kind = HV_MEMORY_MAPPED,
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

/* A description reads like PREPARE's, so it is read by the same function; paths are added. */
static int read_description(struct proc_source *p, json_t *answer, struct err *err)
{
    const json_t *disks = json_object_get(answer, "disks");
    uint64_t memory = (uint64_t)json_integer_value(json_object_get(answer, "memory"));
    int r;

    (void)json_object_set_new(answer, "max_pfn",
                              json_integer((json_int_t)(memory / PROC_PAGE) - 1));
    r = hv_guest_from_json(&p->guest, answer, err);
    for (unsigned int i = 0; r == 0 && i < p->guest.disk_count; i++) {
        const char *uri = json_string_value(json_object_get(json_array_get(disks, i), "uri"));

        (void)snprintf(p->guest.disks[i].path, sizeof(p->guest.disks[i].path), "%s",
                       uri ? uri : "");
    }
    return r;
}

int hv_source_open_proc(struct hv_source **ret, const char *name, struct err *err)
{
    struct proc_source *p = calloc(1, sizeof(*p));
    json_t *answer = NULL;
    int r;

    if (!p)
        return err_set(err, -ENOMEM, "out of memory");
    p->base.ops = &source_ops;
    proc_link_init(&p->link);
    r = proc_name_connect(name, &p->link.sock, err);
    if (r == 0)
        r = proc_link_watch(&p->link, err);
    if (r == 0)
        r = proc_client_command(p->link.sock, "describe", &answer, NULL, err);
    if (r == 0)
        r = read_description(p, answer, err);
    if (r == 0) /* so that one set aside earlier can be resumed or destroyed */
        p->kept =
            strcmp(json_string_value(json_object_get(answer, "state")) ?: "", "set aside") == 0;
    json_decref(answer);
    if (r < 0) {
        source_close(&p->base);
        return r;
    }
    *ret = &p->base;
    return 0;
}
