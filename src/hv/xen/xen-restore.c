/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The target's half: building the guest from the stream under the name NAME--incoming, and giving
 * it its name and its life when GO comes. Until then everything that goes wrong, the controller's
 * death included, destroys it. */
#include "hv/xen/xen-agent.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "hv/xen/xen-libxl.h"

#include <assert.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ABORT_MS           60000
#define OTHERS_MS          10000
#define STREAM_HEADER_SIZE 16

static int stream_in = -1;

static void replace_string(char **at, const char *with)
{
    free(*at);
    *at = with ? strdup(with) : NULL;
    assert(*at || !with);
}

static bool is_empty_drive(const libxl_device_disk *disk)
{
    return (disk->is_cdrom || disk->removable) && (!disk->pdev_path || !disk->pdev_path[0]);
}

/* Here the disk is what the mirror has written, whatever it was at the source. */
static int replace_disk(libxl_device_disk *disk, const char *path, struct err *err)
{
    struct stat st;

    if (!path || path[0] != '/' || stat(path, &st))
        return err_set(err, -ENOENT, "disk %s: %s is not here", disk->vdev,
                       path ? path : "no path");
    if (!S_ISBLK(st.st_mode) && !S_ISREG(st.st_mode))
        return err_set(err, -ENOTBLK, "disk %s: %s is neither a block device nor a file",
                       disk->vdev, path);
    replace_string(&disk->pdev_path, path);
    replace_string(&disk->script, NULL);
    disk->backend = LIBXL_DISK_BACKEND_PHY;
    disk->format = LIBXL_DISK_FORMAT_RAW;
    return 0;
}

/* At its own host a guest that starts keeps a disk as it is configured. */
static bool is_same_disk(const libxl_device_disk *disk, const char *path)
{
    return disk->pdev_path && path && !strcmp(disk->pdev_path, path);
}

static int replace_disks(libxl_domain_config *config, const json_t *paths, bool incoming, struct err *err)
{
    size_t next = 0;
    int rc = 0;

    for (int i = 0; i < config->num_disks && !rc; i++) {
        const char *path = NULL;

        if (is_empty_drive(&config->disks[i]))
            continue;
        path = json_string_value(json_array_get(paths, next++));
        if (incoming || !is_same_disk(&config->disks[i], path))
            rc = replace_disk(&config->disks[i], path, err);
    }
    if (!rc && next != json_array_size(paths))
        rc = err_set(err, -EPROTO, "%zu disk paths for a guest with %zu disks",
                     json_array_size(paths), next);
    return rc;
}

static void name_incoming(const struct agent *a, char *name, size_t size)
{
    (void)snprintf(name, size, "%s" INCOMING_SUFFIX, a->name);
}

/* The peer's configuration becomes ours: checked again, without the source's numbers. */
int xen_adopt_config(struct agent *a, const json_t *request, bool incoming, struct err *err)
{
    const char *name = json_string_value(json_object_get(request, "name"));
    char new_name[200];
    int rc = name ? xen_name_check(name, err) : err_set(err, -EPROTO, "the guest has no name");

    if (!rc)
        rc = xen_config_parse(a, json_object_get(request, "config"), &a->config, err);
    if (!rc)
        rc = xen_guard(&a->config, err);
    if (!rc)
        rc = xen_guard_boot_files(&a->config.b_info, err);
    if (!rc)
        rc = replace_disks(&a->config, json_object_get(request, "paths"), incoming, err);
    if (rc)
        return rc;
    (void)snprintf(a->name, sizeof(a->name), "%s", name);
    (void)snprintf(new_name, sizeof(new_name), "%s%s", name, incoming ? INCOMING_SUFFIX : "");
    replace_string(&a->config.c_info.name, new_name);
    if (a->config.b_info.bootloader && a->config.b_info.bootloader[0])
        replace_string(&a->config.b_info.bootloader, "pygrub");
    a->config.c_info.domid = INVALID_DOMID;
    libxl_defbool_unset(&a->config.c_info.run_hotplug_scripts);
    if (incoming)
        xen_scripts_replace(&a->config);
    return 0;
}

static int start_restore(struct agent *a, struct err *err)
{
    libxl_domain_restore_params params;
    int rc;

    a->waiting = false;
    libxl_domain_restore_params_init(&params);
    params.stream_version = 2;
    libxl_complaint_clear();
    unsetenv("LIBXL_SAVE_HELPER"); /* libxl's own helper restores */
    operation_begin(&a->restore);
    rc = libxl_domain_create_restore(a->ctx, &a->config, &a->domid, stream_in, -1, &params,
                                     &a->restore.how, NULL);
    libxl_domain_restore_params_dispose(&params);
    if (!rc)
        return 0;
    a->restore.running = false;
    return err_libxl(err, -EIO, rc, "the guest cannot be built");
}

int xen_restore_begin(struct agent *a, const json_t *request, int *stream, struct err *err)
{
    int rc;

    if (*stream < 0 || a->config.c_info.name)
        return err_set(err, -EINVAL, "a guest cannot be built now");
    rc = xen_adopt_config(a, request, true, err);
    if (!rc)
        rc = xen_lock_take(a, OTHERS_MS, err);
    if (rc)
        return rc;
    agent_log_open(a->name);
    rc = xen_memory_free(a, &a->config, err);
    if (rc)
        return rc;
    stream_in = take_fd(stream);
    a->stream_ns = 0;
    a->stream_watch = fcntl(stream_in, F_DUPFD_CLOEXEC, 0);
    a->waiting = true;
    return 0;
}

/* The first octets, left in the pipe. Returns how many there are, -EAGAIN, or 0 at the stream's
 * end. */
static ssize_t peek(int stream, void *octets, size_t length)
{
    int pair[2];
    ssize_t n;

    if (pipe2(pair, O_CLOEXEC))
        return -errno;
    n = tee(stream, pair[1], length, SPLICE_F_NONBLOCK);
    n = n > 0 ? read(pair[0], octets, length) : n;
    n = n < 0 ? -errno : n;
    close(pair[0]);
    close(pair[1]);
    return n;
}

static bool is_closed(int stream)
{
    struct pollfd p = {.fd = stream};

    return poll(&p, 1, 0) == 1 && p.revents & (POLLHUP | POLLERR);
}

/* libxl calls a null pointer when its stream is empty or does not begin as it should, so that is
 * looked at first, and building begins when there is something to build from. */
static int begin_when_ready(struct agent *a, struct err *err)
{
    uint8_t header[STREAM_HEADER_SIZE] = {0};
    ssize_t n = peek(stream_in, header, sizeof(header));

    if (n == -EAGAIN)
        return 0;
    if (n > 0 && n < (ssize_t)sizeof(header) && !is_closed(stream_in)) {
        clock_sleep(NS_PER_MS);
        return 0;
    }
    if (n < (ssize_t)sizeof(header))
        return err_set(err, -EPROTO, "the stream ended before it began");
    if (memcmp(header, "LibxlFmt", 8) || get_be32(header + 8) != 2 || get_be32(header + 12))
        return err_set(err, -EPROTO, "what came is no libxl stream");
    return start_restore(a, err);
}

static void tell_failed(struct agent *a, const char *why)
{
    char text[400];

    (void)snprintf(text, sizeof(text), "building the guest: %s", why);
    log_line("%s", text);
    agent_event(a, json_pack("{s:s,s:s}", "event", "failed", "text", text));
}

static void close_stream(struct agent *a)
{
    if (stream_in >= 0)
        close(take_fd(&stream_in));
    if (a->stream_watch >= 0)
        close(take_fd(&a->stream_watch));
    a->waiting = false;
}

static void wait_turn(struct agent *a)
{
    struct err err;

    if (!begin_when_ready(a, &err))
        return;
    close_stream(a);
    tell_failed(a, err.text);
}

void xen_restore_turn(struct agent *a)
{
    uint64_t now = clock_now();

    if (a->waiting)
        wait_turn(a);
    if (stream_in < 0 || a->waiting || a->restore.running)
        return;
    close_stream(a);
    if (!a->restore.rc) {
        uint64_t ns = a->stream_ns ? now - a->stream_ns : 0;

        agent_event(a, json_pack("{s:s,s:I}", "event", "built", "ns", (json_int_t)ns));
        return;
    }
    tell_failed(a, libxl_complaint()[0] ? libxl_complaint() : libxl_error_to_string(a->restore.rc));
}

static int take_name(struct agent *a, struct err *err)
{
    char incoming[200];
    int rc;

    name_incoming(a, incoming, sizeof(incoming));
    libxl_complaint_clear();
    rc = libxl_domain_rename(a->ctx, a->domid, incoming, a->name);
    return rc ? err_libxl(err, -EIO, rc, "the guest cannot take its name") : 0;
}

int xen_run(struct agent *a, const char *mark, uint64_t *ret_ns, struct err *err)
{
    uint64_t begin = clock_now();
    int rc;

    if (a->ran)
        return 0;
    if (a->restore.running || a->restore.rc || !domid_set(a) || stream_in >= 0)
        return err_set(err, -EBUSY, "the guest is not built yet");
    rc = take_name(a, err);
    if (!rc && mark && (rc = file_touch(mark)))
        rc = err_errno(err, rc, "making %s", mark);
    if (rc)
        return rc;
    libxl_complaint_clear();
    rc = libxl_domain_unpause(a->ctx, a->domid, NULL);
    if (rc)
        return err_libxl(err, -EIO, rc, "the guest cannot be started");
    a->ran = true;
    *ret_ns = clock_now() - begin;
    log_line("domain %u, %s, runs here", a->domid, a->name);
    xen_scripts_restore(a);
    xen_lock_drop(a);
    return 0;
}

/* Whether domain `domid` still is the one that was built here: never destroy another that got its
 * number. */
static bool is_ours(struct agent *a)
{
    CLEANUP_FREE char *name = libxl_domid_to_name(a->ctx, a->domid);
    char incoming[200];

    name_incoming(a, incoming, sizeof(incoming));
    return name && (!strcmp(name, incoming) || !strcmp(name, a->name));
}

static int end_restore(struct agent *a, struct err *err)
{
    if (a->waiting)
        close_stream(a);
    if (!a->restore.running)
        return 0;
    (void)libxl_ao_abort(a->ctx, &a->restore.how);
    if (operation_wait(a, &a->restore, ABORT_MS))
        return err_set(err, -ETIMEDOUT,
                       "building the guest does not end; destroy %s" INCOMING_SUFFIX " by hand",
                       a->name);
    xen_restore_turn(a);
    return 0;
}

/* It can be built again. */
static void forget(struct agent *a)
{
    a->domid = (uint32_t)INVALID_DOMID;
    if (a->config.c_info.name)
        libxl_domain_config_dispose(&a->config);
    memset(&a->config, 0, sizeof(a->config));
    memset(&a->restore, 0, sizeof(a->restore));
}

int xen_target_destroy(struct agent *a, struct err *err)
{
    int rc;

    if (a->ran)
        return err_set(err, -EBUSY, "the guest runs here");
    rc = end_restore(a, err);
    if (rc)
        return rc;
    if (domid_set(a) && is_ours(a)) {
        libxl_complaint_clear();
        rc = libxl_domain_destroy(a->ctx, a->domid, NULL);
        if (rc && rc != ERROR_DOMAIN_NOTFOUND)
            return err_libxl(err, -EIO, rc, "the guest's copy cannot be destroyed");
        log_line("domain %u is destroyed", a->domid);
    }
    forget(a);
    return 0;
}
