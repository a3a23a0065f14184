/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk without a guest: "disk:PATH" (a block device, or a plain file that nobody writes to) or "disk:NBD-URI". What stops its
 * writers is the user's --stop-command, which runs where a guest would be suspended; the same disk then takes its last pass. */
#include "hv/hv.h"

#include "base/clock.h"
#include "base/run.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

struct none_source {
    struct hv_source base;
    struct hv_guest guest;
    const char *stop_command;
    int event_fd;
    pthread_t thread; /* of the stop command, while it runs */
    bool thread_runs;
    struct err stop_error;
    uint64_t stop_ns;
};

static struct none_source *self(struct hv_source *s)
{
    return (struct none_source *)s;
}

static const struct hv_guest *none_guest(struct hv_source *s)
{
    return &self(s)->guest;
}

static int none_fd(struct hv_source *s)
{
    return self(s)->event_fd;
}

static int none_next_event(struct hv_source *s, struct hv_event *ret, struct err *err)
{
    struct none_source *n = self(s);
    uint64_t count;

    (void)err;
    if (read(n->event_fd, &count, sizeof(count)) < 0)
        return -EAGAIN;
    (void)pthread_join(n->thread, NULL);
    n->thread_runs = false;
    memset(ret, 0, sizeof(*ret));
    ret->kind = n->stop_error.code ? HV_FAILED : HV_SUSPENDED;
    ret->duration_ns = n->stop_ns;
    (void)snprintf(ret->text, sizeof(ret->text), "--stop-command: %.300s", n->stop_error.text);
    return 0;
}

static int none_check(struct hv_source *s, struct err *err)
{
    (void)s, (void)err;
    return 0;
}

static int none_memory_begin(struct hv_source *s, int *ret_fd, const uint8_t **ret_memory, struct err *err)
{
    (void)s, (void)ret_fd, (void)ret_memory;
    return err_set(err, -ENOTSUP, "a disk has no memory");
}

static int none_policy_answer(struct hv_source *s, enum hv_policy answer, struct err *err)
{
    (void)s, (void)answer;
    return err_set(err, -ENOTSUP, "a disk has no memory");
}

static int none_log_dirty_take(struct hv_source *s, struct bitmap *dirty, uint64_t *ret_pages, struct err *err)
{
    (void)s, (void)dirty, (void)ret_pages;
    return err_set(err, -ENOTSUP, "a disk has no memory");
}

static int none_throttle(struct hv_source *s, unsigned int percent, struct err *err)
{
    (void)s, (void)percent;
    return err_set(err, -ENOTSUP, "a disk without a guest cannot be slowed down: --on-timeout=throttle needs a guest");
}

static void *stop_thread(void *data)
{
    struct none_source *n = data;
    uint64_t begun = clock_now();
    uint64_t one = 1;

    memset(&n->stop_error, 0, sizeof(n->stop_error));
    if (n->stop_command)
        (void)run_shell(n->stop_command, NULL, &n->stop_error);
    n->stop_ns = clock_now() - begun;
    (void)!write(n->event_fd, &one, sizeof(one));
    return NULL;
}

static int none_suspend(struct hv_source *s, struct err *err)
{
    struct none_source *n = self(s);

    if (pthread_create(&n->thread, NULL, stop_thread, n))
        return err_set(err, -EAGAIN, "no thread for --stop-command");
    n->thread_runs = true;
    return 0;
}

/* --go-command is the session's to run, however the migration ended. */
static int none_resume(struct hv_source *s, struct err *err)
{
    (void)err;
    if (self(s)->thread_runs)
        (void)pthread_join(self(s)->thread, NULL);
    self(s)->thread_runs = false;
    return 0;
}

static int none_nothing(struct hv_source *s, struct err *err)
{
    (void)s, (void)err;
    return 0;
}

static void none_close(struct hv_source *s)
{
    struct none_source *n = self(s);

    (void)none_resume(s, NULL);
    if (n->event_fd >= 0)
        (void)close(n->event_fd);
    hv_guest_finish(&n->guest);
    free(n);
}

static const struct hv_source_ops none_source_ops = {
    .name = "none",
    .memory_kind = HV_MEMORY_NONE,
    .guest = none_guest,
    .fd = none_fd,
    .next_event = none_next_event,
    .check = none_check,
    .memory_begin = none_memory_begin,
    .policy_answer = none_policy_answer,
    .log_dirty_take = none_log_dirty_take,
    .throttle = none_throttle,
    .suspend = none_suspend,
    .resume = none_resume,
    .set_aside = none_nothing,
    .destroy = none_nothing,
    .close = none_close,
};

/* "data" of "/dev/vg0/data", and of "nbd+unix:///data?socket=..."; "disk" when nothing is left. */
static void name_of(const char *path, char *ret, size_t size)
{
    const char *end = path + strcspn(path, "?");
    const char *from = end;

    while (from > path && from[-1] != '/')
        from--;
    (void)snprintf(ret, size, "%.*s", (int)(end - from), from);
    if (!ret[0])
        (void)snprintf(ret, size, "disk");
}

static int describe_local(struct hv_disk *d, struct err *err)
{
    struct stat st;
    int sector = 512;
    int fd = open(d->path, O_RDONLY | O_CLOEXEC);
    int r = 0;

    if (fd < 0)
        return err_errno(err, -errno, "%s", d->path);
    if (fstat(fd, &st) < 0)
        r = err_errno(err, -errno, "%s", d->path);
    else if (S_ISREG(st.st_mode))
        d->size = (uint64_t)st.st_size;
    else if (!S_ISBLK(st.st_mode))
        r = err_set(err, -ENOTBLK, "%s is neither a block device nor a plain file", d->path);
    else if (ioctl(fd, BLKGETSIZE64, &d->size) < 0 || ioctl(fd, BLKSSZGET, &sector) < 0)
        r = err_errno(err, -errno, "%s: asking for its size", d->path);
    d->sector_size = (uint32_t)sector;
    (void)close(fd);
    return r;
}

int hv_source_open_none(struct hv_source **ret, const char *path, const char *stop_command, uint64_t nbd_size,
                        struct err *err)
{
    struct none_source *n = calloc(1, sizeof(*n));
    struct hv_disk *d;
    int r = 0;

    if (!n)
        return err_set(err, -ENOMEM, "out of memory");
    n->base.ops = &none_source_ops;
    n->stop_command = stop_command;
    n->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    d = &n->guest.disks[0];
    n->guest.disk_count = 1;
    n->guest.config = json_object();
    (void)strcpy(n->guest.kind, "none");
    name_of(path, n->guest.name, sizeof(n->guest.name));
    name_of(path, d->vbd, sizeof(d->vbd));
    if (strlen(path) >= sizeof(d->path) || n->event_fd < 0)
        r = err_set(err, -EINVAL, "%.60s...: too long", path);
    if (r == 0) {
        (void)strcpy(d->path, path);
        (void)strcpy(d->label, path);
        d->size = nbd_size;
        d->sector_size = 512;
        r = nbd_size ? 0 : describe_local(d, err);
    }
    if (r < 0) {
        none_close(&n->base);
        return r;
    }
    *ret = &n->base;
    return 0;
}

/* -- target -- */

struct none_target {
    struct hv_target base;
    int event_fd; /* never readable */
};

static int target_fd(struct hv_target *t)
{
    return ((struct none_target *)t)->event_fd;
}

static int target_next_event(struct hv_target *t, struct hv_event *ret, struct err *err)
{
    (void)t, (void)ret, (void)err;
    return -EAGAIN;
}

static int target_nothing(struct hv_target *t, struct err *err)
{
    (void)t, (void)err;
    return 0;
}

static int target_memory_begin(struct hv_target *t, const char *const *disk_paths, int *ret_fd, uint8_t **ret_memory,
                               struct err *err)
{
    (void)t, (void)disk_paths, (void)ret_fd, (void)ret_memory;
    return err_set(err, -ENOTSUP, "a disk has no memory");
}

static int target_go(struct hv_target *t, const char *mark, uint64_t *ret_ns, struct err *err)
{
    (void)t, (void)mark, (void)err;
    *ret_ns = 0;
    return 0;
}

static int target_settle(struct hv_target *t, uint64_t timeout_ns, uint64_t *ret_ns, struct err *err)
{
    (void)timeout_ns;
    return target_go(t, NULL, ret_ns, err);
}

static void target_close(struct hv_target *t)
{
    (void)close(((struct none_target *)t)->event_fd);
    free(t);
}

static const struct hv_target_ops none_target_ops = {
    .name = "none",
    .memory_kind = HV_MEMORY_NONE,
    .fd = target_fd,
    .next_event = target_next_event,
    .check = target_nothing,
    .memory_begin = target_memory_begin,
    .memory_complete = target_nothing,
    .run = target_go,
    .settle = target_settle,
    .destroy = target_nothing,
    .close = target_close,
};

int hv_target_open_none(struct hv_target **ret, const struct hv_guest *guest, struct err *err)
{
    struct none_target *t = calloc(1, sizeof(*t));

    (void)guest;
    if (!t)
        return err_set(err, -ENOMEM, "out of memory");
    t->base.ops = &none_target_ops;
    t->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (t->event_fd < 0) {
        free(t);
        return err_errno(err, -errno, "eventfd");
    }
    *ret = &t->base;
    return 0;
}
