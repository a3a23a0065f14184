/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/care.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"
#include "mirror/blockdev.h"
#include "mirror/bpf/block-sysfs.h"
#include "mirror/care-brake.h"

#include <assert.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#define AREA          "mirror.care"
#define ATTRIBUTE_MAX 4096
#define STEP_MIN      (250 * NS_PER_MS)

struct care_disk {
    char *path;
    char folder[128]; /* of its attributes */
    bool watched;
    struct err why; /* not */
    struct care_meter meter;
};

struct care {
    struct care_disk *disks;
    unsigned int count;
    uint64_t stepped_ns;
    struct care_brake brake;
    struct care_stream *streams; /* of each disk CARE_KIND_COUNT */
    struct care_sample *samples;
};

static const char *const state_names[] = {
    [CARE_BLIND] = "blind",   [CARE_QUIET] = "quiet", [CARE_FREE] = "free",
    [CARE_BRAKED] = "braked", [CARE_FLOOR] = "floor", [CARE_PROBING] = "probing",
};
_Static_assert(ARRAY_SIZE(state_names) == CARE_STATE_COUNT, "a name for each state");

const char *care_state_name(enum care_state state)
{
    assert(state < CARE_STATE_COUNT);
    return state_names[state];
}

/* -- devices -- */

/* The caller frees. NULL: it cannot be read. */
static char *read_attribute(const struct care_disk *d, const char *name, struct err *err)
{
    char path[sizeof(d->folder) + 64];
    char *text = NULL;
    size_t len;
    int r;

    (void)snprintf(path, sizeof(path), "%s/%s", d->folder, name);
    r = file_read(path, ATTRIBUTE_MAX, &text, &len);
    if (r == 0)
        return text;
    (void)err_errno(err, r, "%s", path);
    return NULL;
}

static int read_figures(const struct care_disk *d, struct care_figures *ret, struct err *err)
{
    CLEANUP_FREE char *stat = read_attribute(d, "stat", err);
    CLEANUP_FREE char *inflight = stat ? read_attribute(d, "inflight", err) : NULL;

    return inflight ? care_figures_parse(ret, stat, inflight, err) : -EIO;
}

/* Octets of the longest request of the queue; 0: bios are counted as they come (device mapper), or nobody knows. */
static uint64_t longest_request(const struct care_disk *d, const struct block_place *place)
{
    CLEANUP_FREE char *text = NULL;

    if (!place->request_based)
        return 0;
    text = read_attribute(d, place->partition ? "../queue/max_sectors_kb" : "queue/max_sectors_kb", NULL);
    return text ? KIB(strtoull(text, NULL, 10)) : 0;
}

static int find_device(struct care_disk *d, uint64_t *ret_longest, struct err *err)
{
    CLEANUP_CLOSE int fd = -1;
    struct block_place place;
    struct stat st;
    int r;

    if (blockdev_is_uri(d->path) || (stat(d->path, &st) == 0 && !S_ISBLK(st.st_mode)))
        return err_set(err, -ENOTBLK, "%s is not a block device of this host", d->path);
    fd = open(d->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_errno(err, -errno, "%s", d->path);
    r = block_place_find(&place, fd, err);
    if (r < 0)
        return err_prefix(err, r, "%s", d->path);
    (void)snprintf(d->folder, sizeof(d->folder), "/sys/dev/block/%u:%u", place.major, place.minor);
    *ret_longest = longest_request(d, &place);
    return 0;
}

static void look(struct care *c, unsigned int i, uint64_t now_ns, const struct care_own_reads *own)
{
    struct care_disk *d = &c->disks[i];
    struct care_sample *samples = &c->samples[i * CARE_KIND_COUNT];
    struct care_figures f;

    if (d->watched && read_figures(d, &f, &d->why) < 0) {
        d->watched = false;
        log_warn(AREA, "%s is not cared for any more: %s", d->path, d->why.text);
    }
    if (d->watched) {
        care_meter_step(&d->meter, now_ns, &f, own, samples);
        return;
    }
    for (unsigned int kind = 0; kind < CARE_KIND_COUNT; kind++)
        samples[kind] = (struct care_sample){.news = CARE_NO_IO};
}

static unsigned int count_watched(const struct care *c)
{
    unsigned int n = 0;

    for (unsigned int i = 0; i < c->count; i++)
        n += c->disks[i].watched;
    return n;
}

/* -- public -- */

static int allocate(struct care **ret, unsigned int n, struct err *err)
{
    struct care *c = calloc(1, sizeof(*c));

    if (c) {
        c->count = n;
        c->disks = calloc(MAX(n, 1), sizeof(*c->disks));
        c->streams = calloc(MAX(n, 1), CARE_KIND_COUNT * sizeof(*c->streams));
        c->samples = calloc(MAX(n, 1), CARE_KIND_COUNT * sizeof(*c->samples));
    }
    if (!c || !c->disks || !c->streams || !c->samples) {
        care_destroy(c);
        return err_set(err, -ENOMEM, "out of memory");
    }
    care_brake_init(&c->brake, c->streams, n * CARE_KIND_COUNT);
    *ret = c;
    return 0;
}

static int create(struct care **ret, const char *const *paths, unsigned int n, bool folders, uint64_t now_ns,
                  struct err *err)
{
    const struct care_own_reads none = {0};
    uint64_t longest;
    struct care *c = NULL;
    int r = allocate(&c, n, err);

    if (r < 0)
        return r;
    for (unsigned int i = 0; i < n; i++) {
        struct care_disk *d = &c->disks[i];

        d->path = strdup(paths[i]);
        if (!d->path) {
            care_destroy(c);
            return err_set(err, -ENOMEM, "out of memory");
        }
        longest = 0;
        if (folders)
            (void)snprintf(d->folder, sizeof(d->folder), "%s", paths[i]);
        d->watched = folders || find_device(d, &longest, &d->why) == 0;
        care_meter_init(&d->meter, longest);
        look(c, i, now_ns, &none);
    }
    *ret = c;
    return 0;
}

int care_create(struct care **ret, const char *const *paths, unsigned int n, uint64_t now_ns, struct err *err)
{
    return create(ret, paths, n, false, now_ns, err);
}

int care_create_at(struct care **ret, const char *const *folders, unsigned int n, uint64_t now_ns,
                   struct err *err)
{
    return create(ret, folders, n, true, now_ns, err);
}

void care_destroy(struct care *c)
{
    if (!c)
        return;
    for (unsigned int i = 0; c->disks && i < c->count; i++)
        free(c->disks[i].path);
    free(c->disks);
    free(c->streams);
    free(c->samples);
    free(c);
}

void care_baseline(struct care *c, uint64_t now_ns)
{
    const struct care_own_reads none = {0};

    for (unsigned int i = 0; i < c->count; i++) {
        look(c, i, now_ns, &none);
        care_meter_restart(&c->disks[i].meter, now_ns);
    }
    care_brake_baseline(&c->brake, c->samples);
}

static void apply(struct care *c, uint64_t now_ns)
{
    for (unsigned int i = 0; c->brake.restart && i < c->count; i++)
        care_meter_restart(&c->disks[i].meter, now_ns);
}

uint64_t care_step(struct care *c, uint64_t now_ns, const struct care_own_reads *own, uint64_t paced)
{
    struct care_brake_input in = {.now_ns = now_ns, .paced = paced, .samples = c->samples};
    enum care_state before = c->brake.state;
    struct care_stats st;

    if (c->stepped_ns && now_ns - c->stepped_ns < STEP_MIN)
        return c->brake.given;
    c->stepped_ns = now_ns;
    for (unsigned int i = 0; i < c->count; i++) {
        look(c, i, now_ns, &own[i]);
        in.read_per_second += c->disks[i].meter.own_per_second;
        in.written_per_second += c->disks[i].meter.written_per_second;
    }
    (void)care_brake_step(&c->brake, &in);
    apply(c, now_ns);
    if (c->brake.state != before) {
        care_stats(c, &st);
        log_debug(AREA, "%s: %s", care_state_name(st.state), st.why);
    }
    return c->brake.given;
}

/* -- what it says -- */

/* Means over the streams of which both are known, in the mix of the copy's time. */
static void sum_up(const struct care *c, struct care_stats *ret)
{
    double before = 0;
    double during = 0;
    uint64_t ios = 0;

    for (unsigned int i = 0; i < c->brake.count; i++) {
        const struct care_stream *s = &c->streams[i];

        if (!s->before_ns || !s->ios)
            continue;
        before += (double)s->before_ns * (double)s->ios;
        during += (double)s->ns;
        ios += s->ios;
    }
    if (ios) {
        ret->before_ns = (uint64_t)(before / (double)ios);
        ret->during_ns = (uint64_t)(during / (double)ios);
    }
}

static void say_why(const struct care *c, char *to, size_t size)
{
    const struct care_stream *s = &c->streams[c->brake.worst];
    const char *path = c->disks[c->brake.worst / CARE_KIND_COUNT].path;
    const char *kind = c->brake.worst % CARE_KIND_COUNT == CARE_READS ? "read" : "write";
    double latency = (double)s->latency_ns / (double)NS_PER_MS;
    double baseline = (double)s->baseline_ns / (double)NS_PER_MS;

    if (c->brake.state == CARE_QUIET)
        (void)snprintf(to, size, "the guest does not wait for its disks");
    else if (c->brake.state == CARE_FREE && c->brake.elsewhere)
        (void)snprintf(to, size, "the copy hardly reads the guest's disks now");
    else if (c->brake.state == CARE_FREE)
        (void)snprintf(to, size, "the guest's disks answer it as they did before");
    else if (c->brake.state == CARE_PROBING)
        (void)snprintf(to, size, "the copy pauses to see what a %s of %s takes the guest without it: %.1f ms with it", kind,
                       path, latency);
    else
        (void)snprintf(to, size, "a %s of %s took the guest %.1f ms, and takes it %.1f ms without the copy", kind, path,
                       (double)c->brake.reason_ns / (double)NS_PER_MS, baseline);
}

void care_stats(const struct care *c, struct care_stats *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->watched = count_watched(c);
    ret->state = ret->watched ? c->brake.state : CARE_BLIND;
    ret->limit = c->brake.given;
    ret->braked_ns = c->brake.braked_ns;
    sum_up(c, ret);
    if (ret->watched)
        say_why(c, ret->why, sizeof(ret->why));
    else
        (void)snprintf(ret->why, sizeof(ret->why), "no disk of the guest has statistics of its latency: %.150s",
                       c->count ? c->disks[0].why.text : "it has none");
}
