/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What an embedded guest can be told, and the states it goes through:
 *
 *   source:  RUNNING -> SUSPENDED -> SET_ASIDE -> OVER      resume leads back to RUNNING from each
 * but the last target:  EMPTY -> BUILDING -> BUILT -> RUNNING          OVER from each
 */
#include "hv/proc-guest-priv.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"

#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#define RATE_MAX                                                                                   \
    (INT64_C(1) << 40) /* octets a second, of a configuration that came from elsewhere */

static const char *const state_names[PROC_STATE_COUNT] = {
    "empty", "building", "built", "running", "suspended", "set aside", "over",
};

const char *proc_state_name(enum proc_state state)
{
    assert(state < PROC_STATE_COUNT);
    return state_names[state];
}

void proc_guest_init(struct proc_guest *g)
{
    memset(g, 0, sizeof(*g));
    g->state = PROC_EMPTY;
    g->ram_fd = g->listener = g->signals = g->mover = g->throttler = -1;
    for (int i = 0; i < PROC_CLIENTS_MAX; i++)
        g->clients[i] = -1;
    g->dirty = (struct proc_dirty){.uffd = -1, .pagemap = -1, .bitmap_fd = -1};
    proc_heartbeat_init(&g->heartbeat);
}

void proc_guest_finish(struct proc_guest *g)
{
    if (g->listed[0])
        proc_name_remove(g->listed);
    proc_heartbeat_finish(&g->heartbeat);
    guest_load_destroy(g->load);
    proc_dirty_end(&g->dirty);
    for (int i = 0; i < PROC_CLIENTS_MAX; i++)
        if (g->clients[i] >= 0)
            (void)close(g->clients[i]);
    if (g->listener >= 0)
        (void)close(g->listener);
    if (g->signals >= 0)
        (void)close(g->signals);
    for (unsigned int i = 0; i < GUEST_LOAD_DISKS_MAX; i++)
        proc_disk_stop(&g->disks[i]);
    for (unsigned int i = 0; i < GUEST_LOAD_DISKS_MAX; i++)
        proc_disk_close(&g->disks[i]);
    if (g->ram)
        (void)munmap(g->ram, g->ram_size);
    if (g->ram_fd >= 0)
        (void)close(g->ram_fd);
    if (g->dir[0])
        proc_dir_remove(g->dir);
}

/* Making one */

static int make_ram(struct proc_guest *g, uint64_t size, struct err *err)
{
    if (!size || size % PROC_PAGE)
        return err_set(err, -EINVAL, "a guest's memory must be a multiple of %u octets, not %llu",
                       PROC_PAGE, (unsigned long long)size);
    g->ram_fd = memfd_create("xmotion-ram", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (g->ram_fd < 0 || ftruncate(g->ram_fd, (off_t)size) < 0 ||
        fcntl(g->ram_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return err_errno(err, -errno, "%llu octets of memory", (unsigned long long)size);
    g->ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, g->ram_fd, 0);
    if (g->ram == MAP_FAILED) {
        g->ram = NULL;
        return err_errno(err, -errno, "%llu octets of memory", (unsigned long long)size);
    }
    g->ram_size = size;
    return 0;
}

/* What is no UTF-8 cannot be told in JSON. */
static int check_text(const char *path, struct err *err)
{
    json_t *text = json_string(path);

    json_decref(text);
    return text ? 0 : err_set(err, -EILSEQ, "the path of a disk must be UTF-8");
}

static int open_disks(struct proc_guest *g, const char *const *paths, unsigned int count,
                      struct err *err)
{
    int r;

    if (count > GUEST_LOAD_DISKS_MAX)
        return err_set(err, -EINVAL, "an embedded guest has %d disks at most",
                       GUEST_LOAD_DISKS_MAX);
    r = proc_dir_make(g->dir, sizeof(g->dir), err);
    for (unsigned int i = 0; r == 0 && i < count; i++) {
        r = check_text(paths[i], err);
        if (r == 0)
            r = proc_disk_start(&g->disks[i], i, paths[i], g->dir, err);
    }
    for (unsigned int i = 0; r == 0 && i < count; i++) {
        struct guest_load_disk *disk = &g->load_config.disks[i];

        r = proc_disk_connect(&g->disks[i], err);
        if (r < 0)
            break;
        g->load_config.disk_count = i + 1;
        if (g->disk_sizes[i] > g->disks[i].size)
            r = err_set(err, -ENOSPC, "%s has %llu octets, the guest's disk %llu", paths[i],
                        (unsigned long long)g->disks[i].size, (unsigned long long)g->disk_sizes[i]);
        *disk = (struct guest_load_disk){&proc_disk_ops, &g->disks[i],
                                         g->disk_sizes[i] ? g->disk_sizes[i] : g->disks[i].size};
    }
    return r;
}

static void make_uuid(char *ret)
{
    uint8_t b[16] = {0};

    if (getrandom(b, sizeof(b), 0) != sizeof(b))
        log_warn("hv.guest", "no random numbers: the guest's UUID is none");
    b[6] = (uint8_t)((b[6] & 0x0f) | 0x40);
    b[8] = (uint8_t)((b[8] & 0x3f) | 0x80);
    (void)snprintf(ret, 40, "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
                   b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12],
                   b[13], b[14], b[15]);
}

static int open_load(struct proc_guest *g, struct err *err)
{
    int r = guest_load_open(&g->load, g->ram, g->ram_size, &g->load_config);

    if (r == -EINVAL)
        return err_set(err, r, "this RAM is not that of a guest with such disks");
    return r < 0 ? err_errno(err, r, "the guest's load") : 0;
}

static int take_name(struct proc_guest *g, const char *name, struct err *err)
{
    int r = proc_name_listen(name, &g->listener, err);

    if (r == 0)
        (void)snprintf(g->listed, sizeof(g->listed), "%s", name);
    return r;
}

/* Lets the load run and heartbeats be answered. */
static int let_run(struct proc_guest *g, struct err *err)
{
    int r = proc_heartbeat_start(&g->heartbeat, g->load, g->heartbeat_port, err);

    if (r < 0)
        return r;
    g->heartbeat_port = g->heartbeat.port;
    r = guest_load_start(g->load);
    if (r < 0) {
        proc_heartbeat_stop(&g->heartbeat);
        return err_errno(err, r, "the guest's threads");
    }
    g->state = PROC_RUNNING;
    return 0;
}

int proc_guest_create(struct proc_guest *g, const struct proc_guest_config *config, struct err *err)
{
    int r;

    (void)snprintf(g->name, sizeof(g->name), "%s", config->name);
    make_uuid(g->uuid);
    g->heartbeat_port = config->heartbeat_port;
    g->load_config.dirty_rate = config->dirty_rate;
    g->load_config.write_rate = config->write_rate;
    g->load_config.dirty_part = config->dirty_part;
    g->load_config.dirty_set = config->dirty_set;
    r = open_disks(g, config->disks, config->disk_count, err);
    if (r == 0)
        r = make_ram(g, config->memory, err);
    if (r < 0)
        return r;
    r = guest_load_format(g->ram, g->ram_size, &g->load_config);
    if (r < 0)
        return err_set(
            err, r,
            "%llu octets of memory are too few for these disks, or a disk is smaller than 256 KiB",
            (unsigned long long)g->ram_size);
    r = open_load(g, err);
    if (r == 0)
        r = take_name(g, g->name, err);
    return r < 0 ? r : let_run(g, err);
}

/* Incoming */

static uint64_t config_number(const json_t *config, const char *key, json_int_t most)
{
    json_int_t n = json_integer_value(json_object_get(config, key));

    return n < 0 || n > most ? 0 : (uint64_t)n;
}

static void read_rates(struct proc_guest *g, const json_t *config)
{
    g->heartbeat_port = (uint16_t)config_number(config, "heartbeat_port", UINT16_MAX);
    g->load_config.dirty_rate = config_number(config, "dirty_rate", RATE_MAX);
    g->load_config.write_rate = config_number(config, "write_rate", RATE_MAX);
}

int proc_guest_build(struct proc_guest *g, const struct hv_guest *guest, const char *const *paths,
                     struct err *err)
{
    char name[HV_NAME_MAX];
    int r;

    assert(g->state == PROC_EMPTY);
    r = proc_name_check(guest->name, err);
    if (r < 0)
        return r;
    memcpy(g->name, guest->name, sizeof(g->name));
    memcpy(g->uuid, guest->uuid, sizeof(g->uuid));
    read_rates(g, guest->config);
    for (unsigned int i = 0; i < guest->disk_count && i < GUEST_LOAD_DISKS_MAX; i++)
        g->disk_sizes[i] = guest->disks[i].size;
    (void)snprintf(name, sizeof(name), "%.*s%s", PROC_GUEST_NAME_MAX, g->name, PROC_INCOMING);
    r = take_name(g, name, err);
    if (r == 0)
        r = open_disks(g, paths, guest->disk_count, err);
    if (r == 0)
        r = make_ram(g, guest->memory, err);
    if (r == 0)
        g->state = PROC_BUILDING;
    return r;
}

int proc_guest_complete(struct proc_guest *g, struct err *err)
{
    int r;

    if (g->state != PROC_BUILDING)
        return err_set(err, -EINVAL, "the guest is %s", proc_state_name(g->state));
    r = open_load(g, err);
    if (r == 0)
        g->state = PROC_BUILT;
    return r;
}

static int change_name(struct proc_guest *g, const char *name, struct err *err)
{
    int r = strcmp(g->listed, name) == 0 ? 0 : proc_name_change(g->listed, name, err);

    if (r == 0)
        (void)snprintf(g->listed, sizeof(g->listed), "%s", name);
    return r;
}

/* From here on this is the guest. */
int proc_guest_go(struct proc_guest *g, const char *mark, struct err *err)
{
    int r;

    if (g->state != PROC_BUILT)
        return err_set(err, -EINVAL, "the guest is %s", proc_state_name(g->state));
    r = change_name(g, g->name, err);
    if (r == 0 && mark && (r = file_touch(mark)) < 0)
        r = err_errno(err, r, "making %s", mark);
    if (r == 0)
        r = let_run(g, err);
    if (r == 0)
        g->incoming = false; /* it outlives whoever brought it */
    return r;
}

/* Starting anew */

static int read_config(struct proc_guest *g, const json_t *config, unsigned int disks, struct err *err)
{
    const json_t *sizes = json_object_get(config, "disk_sizes");
    const char *uuid = json_string_value(json_object_get(config, "uuid"));

    if (!uuid || strlen(uuid) >= sizeof(g->uuid) || json_array_size(sizes) != disks)
        return err_set(err, -EPROTO, "the guest's configuration has no uuid, or not the size of each of its %u disks", disks);
    memcpy(g->uuid, uuid, strlen(uuid) + 1);
    read_rates(g, config);
    for (unsigned int i = 0; i < disks && i < GUEST_LOAD_DISKS_MAX; i++)
        g->disk_sizes[i] = (uint64_t)json_integer_value(json_array_get(sizes, i));
    return 0;
}

int proc_guest_start_anew(struct proc_guest *g, const char *name, const json_t *config, const char *const *paths,
                          unsigned int count, struct err *err)
{
    char text[300] = "";
    int r;

    assert(g->state == PROC_EMPTY);
    r = proc_name_check(name, err);
    if (r == 0)
        r = read_config(g, config, count, err);
    if (r < 0)
        return r;
    (void)snprintf(g->name, sizeof(g->name), "%s", name);
    r = open_disks(g, paths, count, err);
    if (r == 0)
        r = make_ram(g, config_number(config, "memory", INT64_MAX), err);
    if (r < 0)
        return r;
    r = guest_load_adopt(g->ram, g->ram_size, &g->load_config, text, sizeof(text));
    if (r < 0)
        return err_set(err, r, "the guest does not find what it wrote to its disks: %s", text);
    r = open_load(g, err);
    if (r == 0)
        r = take_name(g, g->name, err);
    if (r == 0)
        r = let_run(g, err);
    if (r == 0)
        g->incoming = false;
    return r;
}

/* Moving away */

int proc_guest_log_dirty(struct proc_guest *g, uint64_t *ret_pages, struct err *err)
{
    bool pause = proc_dirty_needs_pause(&g->dirty) && g->state == PROC_RUNNING;
    int r, started;

    if (g->dirty.kind == PROC_DIRTY_OFF)
        return err_set(err, -EINVAL, "log-dirty is off");
    if (pause) {
        guest_load_stop(g->load);
        (void)pthread_mutex_lock(&g->heartbeat.lock);
    }
    r = proc_dirty_take(&g->dirty, ret_pages, err);
    if (pause) {
        (void)pthread_mutex_unlock(&g->heartbeat.lock);
        started = guest_load_start(g->load);
        if (started < 0 && r == 0)
            r = err_errno(err, started, "the guest's threads");
    }
    return r;
}

int proc_guest_suspend(struct proc_guest *g, struct err *err)
{
    if (g->state == PROC_SUSPENDED)
        return 0;
    if (g->state != PROC_RUNNING)
        return err_set(err, -EINVAL, "the guest is %s", proc_state_name(g->state));
    proc_heartbeat_stop(&g->heartbeat);
    guest_load_stop(g->load);
    g->state = PROC_SUSPENDED;
    return 0;
}

int proc_guest_resume(struct proc_guest *g, struct err *err)
{
    int r;

    proc_dirty_end(&g->dirty);
    if (g->state == PROC_RUNNING)
        return 0;
    if (g->state != PROC_SUSPENDED && g->state != PROC_SET_ASIDE)
        return err_set(err, -EINVAL, "the guest is %s", proc_state_name(g->state));
    r = change_name(g, g->name, err);
    if (r < 0)
        return err_prefix(err, r, "the guest stays %s as '%s'", proc_state_name(g->state),
                          g->listed);
    return let_run(g, err);
}

int proc_guest_set_aside(struct proc_guest *g, struct err *err)
{
    char name[HV_NAME_MAX];
    int r;

    if (g->state == PROC_SET_ASIDE)
        return 0;
    if (g->state != PROC_SUSPENDED)
        return err_set(err, -EINVAL, "the guest is %s, not suspended", proc_state_name(g->state));
    (void)snprintf(name, sizeof(name), "%.*s%s", PROC_GUEST_NAME_MAX, g->name, PROC_MOVED);
    r = change_name(g, name, err);
    if (r == 0)
        g->state = PROC_SET_ASIDE;
    return r;
}

int proc_guest_check(struct proc_guest *g, char *ret_text, size_t size, struct err *err)
{
    int error, r;

    if (g->dirty.kind != PROC_DIRTY_OFF)
        return err_set(err, -EBUSY, "the guest is being moved");
    if (!g->load)
        return err_set(err, -EINVAL, "the guest is %s", proc_state_name(g->state));
    guest_load_stop(g->load);
    error = guest_load_error(g->load);
    r = guest_load_verify(g->load, ret_text, size);
    if (r == 0 && error < 0) {
        r = -EIO;
        (void)snprintf(ret_text, size, "a write failed: %s", strerror(-error));
    }
    error = g->state == PROC_RUNNING ? guest_load_start(g->load) : 0;
    if (error < 0)
        return err_errno(err, error, "the guest's threads");
    return r == -EIO || r == -EBADMSG ? -EBADMSG : r;
}

/* The process */

static int block_signals(struct proc_guest *g, struct err *err)
{
    sigset_t set;

    (void)sigemptyset(&set);
    (void)sigaddset(&set, SIGTERM);
    (void)sigaddset(&set, SIGINT);
    (void)pthread_sigmask(SIG_BLOCK, &set, NULL);
    (void)signal(SIGPIPE, SIG_IGN);
    g->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return g->signals < 0 ? err_errno(err, -errno, "signalfd") : 0;
}

int proc_guest_run(const struct proc_guest_config *config, struct err *err)
{
    struct proc_guest g;
    int r;

    r = proc_name_check(config->name, err);
    if (r < 0)
        return r;
    proc_guest_init(&g);
    r = block_signals(&g, err);
    if (r == 0)
        r = proc_guest_create(&g, config, err);
    if (r == 0)
        r = proc_control_loop(&g, err);
    proc_guest_finish(&g);
    return r;
}

int proc_guest_incoming(int sock)
{
    struct proc_guest g;
    struct err err;
    int r;

    proc_guest_init(&g);
    g.incoming = true;
    g.clients[0] = g.mover = sock;
    (void)fcntl(sock, F_SETFD, FD_CLOEXEC);
    r = block_signals(&g, &err);
    if (r == 0)
        r = proc_control_loop(&g, &err);
    proc_guest_finish(&g);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
