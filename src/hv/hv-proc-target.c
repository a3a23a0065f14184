/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An embedded guest in the making at the target: a process of its own, that goes on without us once
 * it runs (hv.h, proc-guest.h). */
#include "hv/hv-proc-priv.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "hv/proc-guest-priv.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

struct proc_target {
    struct hv_target base;
    struct proc_link link;
    struct hv_guest guest;
    uint8_t *ram;
    bool runs;
};

static struct proc_target *target_of(struct hv_target *t)
{
    return (struct proc_target *)t; /* base comes first */
}

static int target_fd(struct hv_target *t)
{
    return target_of(t)->link.epoll;
}

static int target_next_event(struct hv_target *t, struct hv_event *ret, struct err *err)
{
    return proc_link_next_event(&target_of(t)->link, ret, err);
}

static uint64_t available_memory(void)
{
    CLEANUP_FCLOSE FILE *f = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];

    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "MemAvailable: %llu", &kib) == 1)
            break;
    return KIB(kib);
}

static int check_free(const char *name, struct err *err)
{
    int sock;

    if (proc_name_connect(name, &sock, NULL) < 0)
        return 0;
    (void)close(sock);
    return err_set(err, -EEXIST, "an embedded guest '%s' is here already", name);
}

static int target_check(struct hv_target *t, struct err *err)
{
    struct proc_target *p = target_of(t);
    char incoming[HV_NAME_MAX + sizeof(PROC_INCOMING)];
    int r;

    (void)snprintf(incoming, sizeof(incoming), "%s%s", p->guest.name, PROC_INCOMING);
    r = check_free(p->guest.name, err);
    if (r == 0)
        r = check_free(incoming, err);
    if (r == 0 && available_memory() < p->guest.memory)
        r = err_set(err, -ENOMEM, "guest '%s' needs %llu MiB of memory, %llu MiB are free here",
                    p->guest.name, (unsigned long long)(p->guest.memory / MIB(1)),
                    (unsigned long long)(available_memory() / MIB(1)));
    return r;
}

static json_t *build_request(const struct proc_target *p, const char *const *disk_paths)
{
    json_t *paths = json_array();

    for (unsigned int i = 0; i < p->guest.disk_count; i++)
        (void)json_array_append_new(paths, json_string(disk_paths[i]));
    return json_pack("{s:s, s:o, s:o}", "command", "build", "guest", hv_guest_to_json(&p->guest),
                     "paths", paths);
}

/* What was destroyed before. */
static void forget(struct proc_target *p)
{
    assert(p->link.sock < 0 || p->link.expect_end);
    proc_link_finish(&p->link);
    if (p->ram)
        (void)munmap(p->ram, p->guest.memory);
    p->ram = NULL;
}

static int target_memory_begin(struct hv_target *t, const char *const *disk_paths, int *ret_fd,
                               uint8_t **ret_memory, struct err *err)
{
    struct proc_target *p = target_of(t);
    CLEANUP_CLOSE int ram_fd = -1;
    void *map;
    int r;

    forget(p);
    r = proc_link_spawn(&p->link, err);
    if (r == 0)
        r = proc_client_call(p->link.sock, build_request(p, disk_paths), NULL, &ram_fd, err);
    if (r == 0)
        r = proc_link_map(ram_fd, p->guest.memory, PROT_READ | PROT_WRITE, &map, err);
    if (r < 0) {
        proc_link_finish(&p->link); /* its end tells the guest to destroy itself */
        return err_prefix(err, r, "building guest '%s'", p->guest.name);
    }
    p->ram = map;
    *ret_fd = -1;
    *ret_memory = p->ram;
    return 0;
}

static int target_memory_complete(struct hv_target *t, struct err *err)
{
    struct proc_target *p = target_of(t);
    uint64_t begin = clock_now();
    int r = proc_link_command(&p->link, "complete", NULL, NULL, err);

    if (r == 0)
        proc_link_queue(&p->link, HV_BUILT, clock_now() - begin);
    return r;
}

/* It has its disks and its heartbeat before it runs. */
static int target_settle(struct hv_target *t, uint64_t timeout_ns, uint64_t *ret_ns, struct err *err)
{
    (void)t, (void)timeout_ns, (void)err;
    *ret_ns = 0;
    return 0;
}

static int target_run(struct hv_target *t, const char *mark, uint64_t *ret_ns, struct err *err)
{
    struct proc_target *p = target_of(t);
    uint64_t begin = clock_now();
    int r = proc_client_call(p->link.sock, json_pack("{s:s, s:s*}", "command", "run", "mark", mark), NULL, NULL, err);

    *ret_ns = clock_now() - begin;
    if (r == 0)
        p->runs = true;
    return r;
}

static int target_destroy(struct hv_target *t, struct err *err)
{
    struct proc_target *p = target_of(t);
    int r = 0;

    if (p->link.sock < 0)
        return 0;
    if (!p->link.expect_end)
        r = proc_link_command(&p->link, "destroy", NULL, NULL, err);
    if (r < 0 && r != -ECONNRESET)
        return r;
    p->link.expect_end = true;
    proc_link_forget(&p->link);
    p->runs = false;
    return 0;
}

static void target_close(struct hv_target *t)
{
    struct proc_target *p = target_of(t);

    if (!p->runs)
        (void)target_destroy(t, NULL);
    proc_link_finish(&p->link);
    if (p->ram)
        (void)munmap(p->ram, p->guest.memory);
    hv_guest_finish(&p->guest);
    free(p);
}

static const struct hv_target_ops target_ops = {
    .name = "proc",
    .memory_kind = HV_MEMORY_MAPPED,
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

static int check_guest(const struct hv_guest *guest, struct err *err)
{
    int r = proc_name_check(guest->name, err);

    if (r < 0)
        return r;
    if (!guest->memory || guest->memory % PROC_PAGE ||
        guest->max_pfn != guest->memory / PROC_PAGE - 1)
        return err_set(err, -EPROTO,
                       "an embedded guest of %llu octets with PFNs up to %llu is none",
                       (unsigned long long)guest->memory, (unsigned long long)guest->max_pfn);
    if (guest->disk_count > GUEST_LOAD_DISKS_MAX)
        return err_set(err, -EPROTO, "an embedded guest has %d disks at most, not %u",
                       GUEST_LOAD_DISKS_MAX, guest->disk_count);
    return 0;
}

int hv_target_open_proc(struct hv_target **ret, const struct hv_guest *guest, struct err *err)
{
    struct proc_target *p;
    int r = check_guest(guest, err);

    if (r < 0)
        return r;
    p = calloc(1, sizeof(*p));
    if (!p)
        return err_set(err, -ENOMEM, "out of memory");
    p->base.ops = &target_ops;
    proc_link_init(&p->link);
    p->guest = *guest;
    p->guest.config = json_incref(guest->config);
    *ret = &p->base;
    return 0;
}
