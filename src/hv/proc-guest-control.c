/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The commands of an embedded guest (proc-guest.h lists them) and the loop that takes them. */
#include "hv/proc-guest-priv.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"
#include "hv/agent.h"

#include <assert.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* A command's answer: the object it fills, and a descriptor that goes along (kept by the guest). */
struct answer {
    json_t *json;
    int fd;
};

typedef int command_run(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                        struct err *err);

static void put_number(struct answer *a, const char *key, uint64_t value)
{
    (void)json_object_set_new(a->json, key, json_integer((json_int_t)value));
}

static json_t *describe_disk(const struct proc_guest *g, unsigned int i)
{
    char vbd[HV_VBD_MAX];

    (void)snprintf(vbd, sizeof(vbd), "disk%u", i);
    return json_pack("{s:s, s:s, s:s, s:I, s:i, s:b}", "vbd", vbd, "uri", g->disks[i].uri, "label",
                     g->disks[i].path, "size", (json_int_t)g->load_config.disks[i].size,
                     "sector_size", 512, "read_only", 0);
}

json_t *proc_control_describe(const struct proc_guest *g)
{
    json_t *disks = json_array(), *sizes = json_array();

    for (unsigned int i = 0; i < g->load_config.disk_count; i++) {
        (void)json_array_append_new(disks, describe_disk(g, i));
        (void)json_array_append_new(sizes, json_integer((json_int_t)g->load_config.disks[i].size));
    }
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:i, s:s, s:i, s:b, s:o, s:{s:I, s:I, s:i, s:s, s:I, s:o}}",
                     "kind", "proc", "name", g->listed, "own_name", g->name, "uuid", g->uuid,
                     "state", proc_state_name(g->state), "memory", (json_int_t)g->ram_size, "pid",
                     (int)getpid(), "tracking", proc_dirty_name(&g->dirty), "heartbeat_port",
                     (int)g->heartbeat_port, "moving", g->mover >= 0, "disks", disks, "config",
                     "dirty_rate", (json_int_t)g->load_config.dirty_rate, "write_rate",
                     (json_int_t)g->load_config.write_rate, "heartbeat_port",
                     (int)g->heartbeat_port, "uuid", g->uuid, "memory", (json_int_t)g->ram_size,
                     "disk_sizes", sizes);
}

static int run_describe(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                        struct err *err)
{
    json_t *json = proc_control_describe(g);

    (void)json_object_update(a->json, json);
    json_decref(json);
    return 0;
}

static int run_stats(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                     struct err *err)
{
    struct guest_load_stats stats;

    if (!g->load)
        return err_set(err, -EINVAL, "the guest is %s", proc_state_name(g->state));
    guest_load_stats(g->load, &stats);
    put_number(a, "laps", stats.laps);
    put_number(a, "pages_dirtied", stats.pages_dirtied);
    put_number(a, "disk_writes", stats.disk_writes);
    put_number(a, "disk_bytes", stats.disk_bytes);
    put_number(a, "heartbeats", stats.heartbeats);
    put_number(a, "write_errno", (uint64_t)-guest_load_error(g->load));
    (void)json_object_set_new(a->json, "state", json_string(proc_state_name(g->state)));
    return 0;
}

static int run_verify(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                      struct err *err)
{
    char text[300] = "";
    int r = proc_guest_check(g, text, sizeof(text), err);

    if (r < 0 && r != -EBADMSG)
        return r;
    (void)json_object_set_new(a->json, "whole", json_boolean(r == 0));
    (void)json_object_set_new(a->json, "text", json_string(text));
    return 0;
}

static int run_memory_begin(struct proc_guest *g, int client, const json_t *request,
                            struct answer *a, struct err *err)
{
    int r;

    if (g->state != PROC_RUNNING)
        return err_set(err, -EINVAL, "the guest is %s", proc_state_name(g->state));
    if (g->mover >= 0)
        return err_set(err, -EBUSY, "the guest is being moved already");
    r = proc_dirty_begin(&g->dirty, g->ram, g->ram_size, err);
    if (r < 0)
        return r;
    g->mover = client;
    put_number(a, "size", g->ram_size);
    (void)json_object_set_new(a->json, "tracking", json_string(proc_dirty_name(&g->dirty)));
    a->fd = g->ram_fd;
    return 0;
}

static int run_log_dirty(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                         struct err *err)
{
    uint64_t pages = 0;
    int r = proc_guest_log_dirty(g, &pages, err);

    put_number(a, "pages", pages);
    return r;
}

static int run_suspend(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                       struct err *err)
{
    uint64_t begin = clock_now();
    int r = proc_guest_suspend(g, err);

    put_number(a, "ns", clock_now() - begin);
    return r;
}

static int run_resume(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                      struct err *err)
{
    int r = proc_guest_resume(g, err);

    if (r == 0)
        g->mover = -1;
    return r;
}

static int run_set_aside(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                         struct err *err)
{
    return proc_guest_set_aside(g, err);
}

static int run_destroy(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                       struct err *err)
{
    /* The name is free when the answer arrives. */
    if (g->listed[0])
        proc_name_remove(g->listed);
    g->listed[0] = '\0';
    proc_heartbeat_stop(&g->heartbeat);
    if (g->load)
        guest_load_stop(g->load);
    g->state = PROC_OVER;
    return 0;
}

/* Paths of a request, borrowed from it. */
static int read_paths(const json_t *list, unsigned int count, const char **ret, struct err *err)
{
    if (count > GUEST_LOAD_DISKS_MAX || json_array_size(list) != count)
        return err_set(err, -EPROTO, "%zu paths for %u disks, of at most %d", json_array_size(list),
                       count, GUEST_LOAD_DISKS_MAX);
    for (unsigned int i = 0; i < count; i++) {
        ret[i] = json_string_value(json_array_get(list, i));
        if (!ret[i])
            return err_set(err, -EPROTO, "path %u is no text", i);
    }
    return 0;
}

/* What failed half-way is not tried again: its parts are there. */
static int begin_once(struct proc_guest *g, struct err *err)
{
    if (g->state != PROC_EMPTY || g->begun)
        return err_set(err, -EINVAL, "the guest is %s", g->state == PROC_EMPTY ? "half built" : proc_state_name(g->state));
    g->begun = true;
    return 0;
}

/* Builds what {"guest": {...}, "paths": [...]} says; checked by hv_guest_from_json, as a peer wrote
 * it. */
static int run_build(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                     struct err *err)
{
    const json_t *list = json_object_get(request, "paths");
    const char *paths[GUEST_LOAD_DISKS_MAX] = {NULL};
    struct hv_guest guest;
    int r;

    r = begin_once(g, err);
    if (r < 0)
        return r;
    r = hv_guest_from_json(&guest, json_object_get(request, "guest"), err);
    if (r < 0)
        return r;
    r = read_paths(list, guest.disk_count, paths, err);
    if (r == 0)
        r = proc_guest_build(g, &guest, paths, err);
    hv_guest_finish(&guest);
    a->fd = r == 0 ? g->ram_fd : -1;
    return r;
}

/* Throttling ends with the connection of who asked for it. */
static int run_throttle(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                        struct err *err)
{
    json_int_t percent = json_integer_value(json_object_get(request, "percent"));

    if (percent < 1 || percent > 100)
        return err_set(err, -EINVAL, "a guest cannot have %lld%% of its processors",
                       (long long)percent);
    if (!g->load)
        return err_set(err, -EINVAL, "the guest is %s", proc_state_name(g->state));
    guest_load_throttle(g->load, (unsigned int)percent);
    g->throttler = percent < 100 ? client : -1;
    return 0;
}

/* {"name": TEXT, "config": {...}, "paths": [...]}: as after a power loss of its host. */
static int run_start(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                     struct err *err)
{
    const char *name = json_string_value(json_object_get(request, "name"));
    const json_t *config = json_object_get(request, "config");
    const json_t *list = json_object_get(request, "paths");
    const char *paths[GUEST_LOAD_DISKS_MAX] = {NULL};
    int r;

    r = begin_once(g, err);
    if (r < 0)
        return r;
    r = read_paths(list, (unsigned int)json_array_size(list), paths, err);
    if (r == 0)
        r = proc_guest_start_anew(g, name ? name : "", config, paths,
                                  (unsigned int)json_array_size(list), err);
    if (r == 0)
        g->mover = -1;
    return r;
}

static int run_complete(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                        struct err *err)
{
    return proc_guest_complete(g, err);
}

static int run_go(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                  struct err *err)
{
    uint64_t begin = clock_now();
    int r = proc_guest_go(g, json_string_value(json_object_get(request, "mark")), err);

    put_number(a, "ns", clock_now() - begin);
    if (r == 0)
        g->mover = -1;
    return r;
}

/* Who may say what. */
enum who { ANYBODY, MOVER, MOVER_IF_ANY };

static const struct command {
    const char *name;
    enum who who;
    command_run *run;
} commands[] = {
    {"describe", ANYBODY, run_describe},      {"stats", ANYBODY, run_stats},
    {"verify", ANYBODY, run_verify},          {"memory_begin", ANYBODY, run_memory_begin},
    {"log_dirty_take", MOVER, run_log_dirty}, {"suspend", MOVER, run_suspend},
    {"set_aside", MOVER, run_set_aside},      {"resume", MOVER_IF_ANY, run_resume},
    {"destroy", MOVER_IF_ANY, run_destroy},   {"build", MOVER, run_build},
    {"complete", MOVER, run_complete},        {"run", MOVER, run_go},
    {"start", MOVER, run_start},              {"throttle", MOVER_IF_ANY, run_throttle},
};

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; name && i < ARRAY_SIZE(commands); i++)
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    return NULL;
}

static int dispatch(struct proc_guest *g, int client, const json_t *request, struct answer *a,
                    struct err *err)
{
    const char *name = json_string_value(json_object_get(request, "command"));
    const char *listed = json_string_value(json_object_get(request, "listed"));
    const struct command *c = find_command(name);

    if (!c)
        return err_set(err, -EOPNOTSUPP, "an embedded guest knows no command '%.40s'",
                       name ? name : "");
    if ((c->who == MOVER && client != g->mover) ||
        (c->who == MOVER_IF_ANY && g->mover >= 0 && client != g->mover))
        return err_set(err, -EBUSY, "only who moves the guest may say '%s'", name);
    if (listed && strcmp(listed, g->listed) != 0) /* "destroy" is meant for what never ran, "resume" for what stands still */
        return err_set(err, -ESTALE, "the guest is listed as '%s' now", g->listed);
    return c->run(g, client, request, a, err);
}

/* The client takes its marks from a mapping: its descriptor follows the one of RAM. */
static int send_bitmap(struct proc_guest *g, int client, struct err *err)
{
    json_t *json = json_pack("{s:I}", "bitmap", (json_int_t)g->dirty.bitmap_size);
    int r = agent_send(client, json, g->dirty.bitmap_fd, err);

    json_decref(json);
    return r;
}

static void drop_client(struct proc_guest *g, int client)
{
    struct err err;

    for (int i = 0; i < PROC_CLIENTS_MAX; i++)
        if (g->clients[i] == client)
            g->clients[i] = -1;
    (void)close(client);
    if (client == g->throttler && g->load)
        guest_load_throttle(g->load, 100);
    if (client == g->throttler)
        g->throttler = -1;
    if (client != g->mover)
        return;
    g->mover = -1;
    if (g->incoming) {
        g->state = PROC_OVER;
        return;
    }
    /* Point of no return: who is set aside may have a copy that runs. It waits to be told. */
    if (g->state == PROC_SET_ASIDE)
        proc_dirty_end(&g->dirty);
    else if (g->state != PROC_OVER && proc_guest_resume(g, &err) < 0)
        log_error("hv.guest", "the guest's mover is gone: %s", err.text);
}

static void serve_client(struct proc_guest *g, int client)
{
    struct answer a = {NULL, -1};
    bool was_moving = g->mover >= 0;
    json_t *request = NULL;
    struct err err = {0};
    int r;

    r = agent_recv(client, 0, &request, NULL, &err);
    if (r == -EAGAIN)
        return;
    if (r == -ECONNRESET) {
        drop_client(g, client);
        return;
    }
    a.json = json_object();
    if (r == 0)
        r = dispatch(g, client, request, &a, &err);
    json_decref(request);
    if (r < 0) {
        (void)json_object_set_new(a.json, "error", json_string(err.text));
        put_number(&a, "errno", (uint64_t)-r);
    }
    r = agent_send(client, a.json, a.fd, &err);
    if (r == 0 && !was_moving && g->mover == client)
        r = send_bitmap(g, client, &err);
    json_decref(a.json);
    if (r < 0)
        drop_client(g, client);
}

static void accept_client(struct proc_guest *g)
{
    int sock = accept4(g->listener, NULL, NULL, SOCK_CLOEXEC);

    for (int i = 0; sock >= 0 && i < PROC_CLIENTS_MAX; i++)
        if (g->clients[i] < 0) {
            g->clients[i] = sock;
            return;
        }
    if (sock >= 0)
        (void)close(sock); /* too many */
}

int proc_control_loop(struct proc_guest *g, struct err *err)
{
    while (g->state != PROC_OVER) {
        struct pollfd fds[PROC_CLIENTS_MAX + 2];

        for (int i = 0; i < PROC_CLIENTS_MAX; i++)
            fds[i] = (struct pollfd){.fd = g->clients[i], .events = POLLIN};
        fds[PROC_CLIENTS_MAX] = (struct pollfd){.fd = g->listener, .events = POLLIN};
        fds[PROC_CLIENTS_MAX + 1] = (struct pollfd){.fd = g->signals, .events = POLLIN};
        if (poll(fds, PROC_CLIENTS_MAX + 2, -1) < 0) {
            if (errno == EINTR)
                continue;
            return err_errno(err, -errno, "poll");
        }
        if (fds[PROC_CLIENTS_MAX + 1].revents)
            return 0;
        for (int i = 0; i < PROC_CLIENTS_MAX && g->state != PROC_OVER; i++)
            if (fds[i].fd >= 0 && fds[i].revents)
                serve_client(g, fds[i].fd);
        if (g->state != PROC_OVER && fds[PROC_CLIENTS_MAX].revents)
            accept_client(g);
    }
    return 0;
}
