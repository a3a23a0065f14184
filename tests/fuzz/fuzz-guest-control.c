/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The control socket of an embedded guest: whoever may open it sends any command in any order. The input is a choice (1: an
 * incoming guest, else one that runs) and a JSON list of requests; those with "other" come from a second client.
 * What is below the guest's states (disks, RAM, names, threads) is pretended. */
#include "fuzz-json.h"

#include "hv/agent.h"
#include "hv/proc-guest-priv.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static uint8_t ram[4096];

static void *fake_mmap(size_t size)
{
    errno = ENOMEM;
    return size <= 1u << 20 ? ram : MAP_FAILED;
}

static int fake_answer(const void *message);
#define memfd_create(name, flags)                   100
#define ftruncate(fd, size)                         0
#define fcntl(fd, command, flags)                   0
#define mmap(at, size, protection, flags, fd, from) fake_mmap(size)
#define munmap(at, size)                            0
#define close(fd)                                   0
#define agent_send(client, message, fd, err)        fake_answer(message)
#include "hv/proc-guest.c"
#include "hv/proc-guest-control.c"
#undef close

static unsigned int listening, disks_open, threads;

static int fake_answer(const void *message)
{
    const json_t *answer = message;

    CHECK(json_is_object(answer));
    CHECK(!json_object_get(answer, "errno") || json_object_get(answer, "error"));
    return 0;
}

int proc_name_listen(const char *name, int *ret_sock, struct err *err)
{
    CHECK(!listening && strlen(name) < HV_NAME_MAX && !strchr(name, '/'));
    listening = 1;
    *ret_sock = 101;
    return 0;
}

int proc_name_change(const char *from, const char *to, struct err *err)
{
    CHECK(listening && *from && *to && strlen(to) < HV_NAME_MAX && !strchr(to, '/'));
    return 0;
}

void proc_name_remove(const char *name)
{
    CHECK(listening);
    listening = 0;
}

int proc_name_check(const char *name, struct err *err)
{
    return strlen(name) <= PROC_GUEST_NAME_MAX ? 0 : err_set(err, -EINVAL, "'%s' is too long", name);
}

int proc_dir_make(char *ret_path, size_t size, struct err *err)
{
    (void)snprintf(ret_path, size, "/run/xmotion/guests/d1");
    return 0;
}

void proc_dir_remove(const char *path)
{
}

const struct guest_disk_ops proc_disk_ops;

int proc_disk_start(struct proc_disk *d, unsigned int index, const char *path, const char *dir, struct err *err)
{
    CHECK(index < GUEST_LOAD_DISKS_MAX && !d->size);
    if (*path != '/')
        return err_set(err, -ENOENT, "%s is not here", path);
    (void)snprintf(d->path, sizeof(d->path), "%s", path);
    d->size = MIB(1);
    disks_open++;
    return 0;
}

int proc_disk_connect(struct proc_disk *d, struct err *err)
{
    CHECK(d->size);
    return 0;
}

void proc_disk_stop(struct proc_disk *d)
{
}

void proc_disk_close(struct proc_disk *d)
{
    if (d->size)
        disks_open--;
    d->size = 0;
}

int proc_dirty_begin(struct proc_dirty *d, uint8_t *at, size_t size, struct err *err)
{
    CHECK(at && d->kind == PROC_DIRTY_OFF);
    d->kind = PROC_DIRTY_SOFT;
    return 0;
}

bool proc_dirty_needs_pause(const struct proc_dirty *d)
{
    return d->kind == PROC_DIRTY_SOFT;
}

int proc_dirty_take(struct proc_dirty *d, uint64_t *ret_pages, struct err *err)
{
    CHECK(d->kind != PROC_DIRTY_OFF && !threads);
    return 0;
}

void proc_dirty_end(struct proc_dirty *d)
{
    d->kind = PROC_DIRTY_OFF;
}

const char *proc_dirty_name(const struct proc_dirty *d)
{
    return "pretended";
}

void proc_heartbeat_init(struct proc_heartbeat *h)
{
    memset(h, 0, sizeof(*h));
    (void)pthread_mutex_init(&h->lock, NULL);
}

void proc_heartbeat_finish(struct proc_heartbeat *h)
{
    (void)pthread_mutex_destroy(&h->lock);
}

int proc_heartbeat_start(struct proc_heartbeat *h, struct guest_load *load, uint16_t port, struct err *err)
{
    CHECK(load);
    h->running = true;
    h->port = port ? port : 1000;
    return 0;
}

void proc_heartbeat_stop(struct proc_heartbeat *h)
{
    h->running = false;
}

struct guest_load {
    struct guest_load_config config;
};

int guest_load_format(void *at, size_t size, const struct guest_load_config *config)
{
    return 0;
}

int guest_load_open(struct guest_load **ret, void *at, size_t size, const struct guest_load_config *config)
{
    CHECK(at && config->disk_count <= GUEST_LOAD_DISKS_MAX && !*ret);
    *ret = calloc(1, sizeof(**ret));
    CHECK(*ret);
    return 0;
}

int guest_load_adopt(void *at, size_t size, const struct guest_load_config *config, char *ret_text, size_t text_size)
{
    CHECK(at && config->disk_count <= GUEST_LOAD_DISKS_MAX);
    (void)snprintf(ret_text, text_size, "pretended");
    return size % 8192 ? -EBADMSG : 0;
}

void guest_load_throttle(struct guest_load *load, unsigned int percent)
{
    CHECK(load && percent >= 1 && percent <= 100);
}

int guest_load_start(struct guest_load *load)
{
    CHECK(load);
    threads = 1;
    return 0;
}

void guest_load_stop(struct guest_load *load)
{
    CHECK(load);
    threads = 0;
}

int guest_load_verify(struct guest_load *load, char *ret_text, size_t size)
{
    CHECK(!threads);
    (void)snprintf(ret_text, size, "whole");
    return 0;
}

void guest_load_stats(struct guest_load *load, struct guest_load_stats *ret)
{
    memset(ret, 0, sizeof(*ret));
}

int guest_load_error(struct guest_load *load)
{
    return 0;
}

void guest_load_destroy(struct guest_load *load)
{
    threads = 0;
    free(load);
}

static void init(struct proc_guest *g, bool incoming)
{
    static const struct proc_guest_config config = {
        .name = "guest", .memory = 65536, .disk_count = 1, .disks = {"/disk"}};
    struct err err;

    listening = disks_open = threads = 0;
    proc_guest_init(g);
    g->incoming = incoming;
    g->clients[0] = 102;
    g->clients[1] = 103;
    if (incoming)
        g->mover = 102;
    else
        CHECK(proc_guest_create(g, &config, &err) == 0);
}

/* As serve_client, which would read it from a socket. */
static void serve(struct proc_guest *g, const json_t *request)
{
    int client = json_object_get(request, "other") ? 103 : 102;
    struct answer a = {json_object(), -1};
    struct err err = {0};
    int r = dispatch(g, client, request, &a, &err);

    if (r < 0) {
        CHECK(err.code == r && *err.text);
        CHECK(json_object_set_new(a.json, "error", json_string(err.text)) == 0);
    }
    json_decref(a.json);
    if (json_object_get(request, "gone") && g->state != PROC_OVER) {
        drop_client(g, client);
        g->clients[client - 102] = client;
    }
    CHECK(g->state < PROC_STATE_COUNT && threads == (g->state == PROC_RUNNING));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *requests = size > 1 ? fuzz_load(data + 1, size - 1) : NULL, *request;
    static struct proc_guest g;
    size_t i;

    if (json_is_array(requests) && json_array_size(requests)) {
        init(&g, data[0] & 1);
        json_array_foreach(requests, i, request) {
            if (g.state == PROC_OVER || i == 16)
                break;
            if (json_is_object(request))
                serve(&g, request);
        }
        proc_guest_finish(&g);
        CHECK(!listening && !disks_open && !threads);
    }
    json_decref(requests);
    return 0;
}
