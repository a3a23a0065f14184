/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "hv/guest-ping.h"
#include "hv/proc-guest.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEFAULT_MEMORY MIB(256)

struct guest_options {
    struct proc_guest_config config;
    uint64_t interval_ns;
    uint64_t duration_ns;
    bool json;
};

static int take_memory(void *data, const char *value, struct err *err)
{
    struct guest_options *o = data;
    int r = parse_size(value, &o->config.memory, err);

    if (r == 0 && (o->config.memory % 4096 || o->config.memory < MIB(1)))
        return err_set(err, -EINVAL, "\"%s\": expected a multiple of 4096, at least 1M", value);
    return r;
}

/* An image that is there keeps its size; one that is not is made, sparse. */
static int make_image(const char *path, const char *size_text, struct err *err)
{
    struct stat st;
    uint64_t size = 0;
    int fd;
    int r = size_text ? parse_size(size_text, &size, err) : 0;

    if (r < 0)
        return r;
    if (stat(path, &st) == 0) {
        if (size && S_ISREG(st.st_mode) && (uint64_t)st.st_size != size)
            return err_set(err, -EINVAL, "%s is there already and has %llu octets, not %llu", path,
                           (unsigned long long)st.st_size, (unsigned long long)size);
        return 0;
    }
    if (!size || size % 4096)
        return err_set(err, -EINVAL, "%s is not there: give its size, a multiple of 4096, as in %s:1G", path, path);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
        r = err_errno(err, -errno, "making %s", path);
    if (fd >= 0)
        (void)close(fd);
    return r;
}

static int take_disk(void *data, const char *value, struct err *err)
{
    struct guest_options *o = data;
    char *path = strdup(value);
    char *colon = path ? strrchr(path, ':') : NULL;
    char *absolute;
    int r;

    if (!path || o->config.disk_count == GUEST_LOAD_DISKS_MAX) {
        free(path);
        return err_set(err, -EINVAL, "given more than %d times", GUEST_LOAD_DISKS_MAX);
    }
    if (colon)
        *colon = '\0';
    r = make_image(path, colon ? colon + 1 : NULL, err);
    absolute = r == 0 ? realpath(path, NULL) : NULL;
    free(path);
    if (r == 0 && !absolute)
        return err_errno(err, -errno, "%s", value);
    if (r == 0)
        o->config.disks[o->config.disk_count++] = absolute;
    return r;
}

static int take_dirty_rate(void *data, const char *value, struct err *err)
{
    return parse_size(value, &((struct guest_options *)data)->config.dirty_rate, err);
}

static int take_dirty_part(void *data, const char *value, struct err *err)
{
    struct guest_options *o = data;
    int r = parse_size(value, &o->config.dirty_part, err);

    if (r == 0 && (o->config.dirty_part % 8 || o->config.dirty_part > GUEST_LOAD_PART_MAX))
        return err_set(err, -EINVAL, "\"%s\": expected a multiple of 8, at most %u", value, GUEST_LOAD_PART_MAX);
    return r;
}

static int take_dirty_set(void *data, const char *value, struct err *err)
{
    struct guest_options *o = data;
    int r = parse_size(value, &o->config.dirty_set, err);

    if (r == 0 && o->config.dirty_set && o->config.dirty_set < KIB(64))
        return err_set(err, -EINVAL, "\"%s\": expected at least 64K", value);
    return r;
}

static int take_write_rate(void *data, const char *value, struct err *err)
{
    return parse_size(value, &((struct guest_options *)data)->config.write_rate, err);
}

static int take_heartbeat(void *data, const char *value, struct err *err)
{
    uint64_t n;
    int r = parse_count(value, 65535, &n, err);

    ((struct guest_options *)data)->config.heartbeat_port = r == 0 ? (uint16_t)n : 0;
    return r;
}

static const struct option_spec run_specs[] = {
    {"memory", "SIZE", "RAM (256M)", take_memory},
    {"disk", "FILE[:SIZE]", "a disk; made, sparse, when it is not there; several times", take_disk},
    {"dirty-rate", "SIZE", "octets of RAM dirtied a second (0)", take_dirty_rate},
    {"dirty-part", "SIZE", "octets of a page that change when it is dirtied (0: all)", take_dirty_part},
    {"dirty-set", "SIZE", "octets of RAM that are dirtied, over and over (0: all)", take_dirty_set},
    {"write-rate", "SIZE", "octets written to the disks a second (0)", take_write_rate},
    {"heartbeat", "PORT", "UDP port of the heartbeat on 127.0.0.1 (any)", take_heartbeat},
    {0},
};

static int one_name(int count, char **argv, const char *form, struct err *err)
{
    if (count == 1)
        return 0;
    (void)argv;
    return err_set(err, -EINVAL, "expected one guest: xmotion guest %s", form);
}

static int guest_run(struct guest_options *o, int argc, char **argv, struct err *err)
{
    int count;
    int code = 0;
    int r;

    o->config.memory = DEFAULT_MEMORY;
    r = options_parse(&command_guest, run_specs, o, argc, argv, &count, err);
    if (r == 0)
        r = one_name(count, argv, "run NAME --memory SIZE --disk FILE:SIZE", err);
    if (r < 0) {
        code = fail(EXIT_USAGE, err);
    } else {
        o->config.name = argv[1];
        if (proc_guest_run(&o->config, err) < 0)
            code = fail(1, err);
    }
    for (unsigned int i = 0; i < o->config.disk_count; i++)
        free((void *)(uintptr_t)o->config.disks[i]);
    return code;
}

static const struct option_spec no_specs[] = {{0}};

static int guest_verify(struct guest_options *o, int argc, char **argv, struct err *err)
{
    char text[400];
    int count;
    int r = options_parse(&command_guest, no_specs, o, argc, argv, &count, err);

    if (r == 0)
        r = one_name(count, argv, "verify NAME", err);
    if (r < 0)
        return fail(EXIT_USAGE, err);
    r = proc_guest_verify(argv[1], text, sizeof(text), err);
    if (r == -EBADMSG)
        (void)err_set(err, r, "%s is damaged: %s", argv[1], text);
    if (r < 0)
        return fail(1, err);
    (void)printf("%s is whole: its RAM and its disks hold what they must\n", argv[1]);
    return 0;
}

static int take_interval(void *data, const char *value, struct err *err)
{
    return parse_time(value, &((struct guest_options *)data)->interval_ns, err);
}

static int take_duration(void *data, const char *value, struct err *err)
{
    return parse_time(value, &((struct guest_options *)data)->duration_ns, err);
}

static int take_json(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct guest_options *)data)->json = true;
    return 0;
}

static const struct option_spec ping_specs[] = {
    {"interval", "TIME", "between two requests (2ms)", take_interval},
    {"duration", "TIME", "how long (until interrupted)", take_duration},
    {"json", NULL, "as one JSON object", take_json},
    {0},
};

static int stop_ping;

static void on_signal(int signo)
{
    (void)signo;
    __atomic_store_n(&stop_ping, 1, __ATOMIC_RELAXED);
}

/* "NAME" of an embedded guest here, or "HOST:PORT" of any guest that answers. */
static int ping_address(const char *what, char *ret_host, size_t size, uint16_t *ret_port, struct err *err)
{
    const char *colon = strrchr(what, ':');
    json_t *description;
    uint64_t port;
    int r;

    if (colon) {
        r = parse_count(colon + 1, 65535, &port, err);
        (void)snprintf(ret_host, size, "%.*s", (int)(colon - what), what);
    } else {
        r = proc_guest_describe(what, &description, err);
        if (r < 0)
            return r;
        port = (uint64_t)json_integer_value(json_object_get(description, "heartbeat_port"));
        (void)snprintf(ret_host, size, "127.0.0.1");
        json_decref(description);
    }
    *ret_port = (uint16_t)port;
    return r;
}

static void print_ping(const struct guest_ping_result *p, bool json)
{
    double gap = p->gap_count ? (double)(p->gaps[0].length_ns / NS_PER_US) / 1000.0 : 0.0;

    if (!json) {
        (void)printf("%llu heartbeats asked for, %llu answered; longest gap %.1f ms\n", (unsigned long long)p->sent,
                     (unsigned long long)p->answered, gap);
        return;
    }
    (void)printf("{\"sent\":%llu,\"answered\":%llu,\"lost\":%llu,\"count_went_back\":%llu,\"longest_gap_ms\":%.3f,\"gaps\":[",
                 (unsigned long long)p->sent, (unsigned long long)p->answered, (unsigned long long)p->lost,
                 (unsigned long long)p->count_went_back, gap);
    for (unsigned int i = 0; i < p->gap_count; i++)
        (void)printf("%s{\"begin_ms\":%.3f,\"length_ms\":%.3f}", i ? "," : "", (double)p->gaps[i].begin_ns / 1e6,
                     (double)p->gaps[i].length_ns / 1e6);
    (void)printf("]}\n");
}

static int guest_ping(struct guest_options *o, int argc, char **argv, struct err *err)
{
    struct sigaction action = {.sa_handler = on_signal};
    struct guest_ping_result result;
    char host[256];
    uint16_t port;
    int count;
    int r = options_parse(&command_guest, ping_specs, o, argc, argv, &count, err);

    if (r == 0)
        r = one_name(count, argv, "ping NAME|HOST:PORT", err);
    if (r < 0)
        return fail(EXIT_USAGE, err);
    r = ping_address(argv[1], host, sizeof(host), &port, err);
    if (r < 0)
        return fail(1, err);
    (void)sigaction(SIGINT, &action, NULL);
    (void)sigaction(SIGTERM, &action, NULL);
    r = guest_ping_run(host, port, o->interval_ns, o->duration_ns, &stop_ping, &result, err);
    if (r < 0)
        return fail(1, err);
    print_ping(&result, o->json);
    return result.answered && !result.count_went_back ? 0 : 1;
}

static int print_json(json_t *j)
{
    (void)json_dumpf(j, stdout, JSON_INDENT(1));
    (void)putchar('\n');
    json_decref(j);
    return 0;
}

static int guest_stats(struct guest_options *o, int argc, char **argv, struct err *err)
{
    json_t *stats;
    int count;
    int r = options_parse(&command_guest, no_specs, o, argc, argv, &count, err);

    if (r == 0)
        r = one_name(count, argv, "stats NAME", err);
    if (r < 0)
        return fail(EXIT_USAGE, err);
    return proc_guest_stats(argv[1], &stats, err) < 0 ? fail(1, err) : print_json(stats);
}

static int guest_list(struct guest_options *o, int argc, char **argv, struct err *err)
{
    json_t *all;
    json_t *g;
    size_t i;
    int count;

    if (options_parse(&command_guest, no_specs, o, argc, argv, &count, err) < 0)
        return fail(EXIT_USAGE, err);
    if (proc_guest_list(&all, err) < 0)
        return fail(1, err);
    json_array_foreach(all, i, g)
        (void)printf("%s\n", json_string_value(json_object_get(g, "name")));
    json_decref(all);
    return 0;
}

static int guest_destroy(struct guest_options *o, int argc, char **argv, struct err *err)
{
    int count;
    int r = options_parse(&command_guest, no_specs, o, argc, argv, &count, err);

    if (r == 0)
        r = one_name(count, argv, "destroy NAME", err);
    if (r < 0)
        return fail(EXIT_USAGE, err);
    return proc_guest_destroy(argv[1], err) < 0 ? fail(1, err) : 0;
}

/* What a receiver starts; not for people. */
static int guest_incoming(struct guest_options *o, int argc, char **argv, struct err *err)
{
    uint64_t fd;

    (void)o;
    if (argc != 2 || parse_count(argv[1], 1023, &fd, err) < 0)
        return EXIT_USAGE;
    return proc_guest_incoming((int)fd);
}

static const struct {
    const char *name;
    int (*run)(struct guest_options *o, int argc, char **argv, struct err *err);
} verbs[] = {{"run", guest_run},   {"verify", guest_verify}, {"ping", guest_ping},         {"stats", guest_stats},
             {"list", guest_list}, {"destroy", guest_destroy}, {"incoming", guest_incoming}};

static int run_guest(struct cli *cli, int argc, char **argv)
{
    struct guest_options o = {0};
    struct err err;

    (void)cli;
    for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(verbs); i++) {
        if (strcmp(argv[1], verbs[i].name) == 0)
            return verbs[i].run(&o, argc - 1, argv + 1, &err);
    }
    (void)err_set(&err, -EINVAL, "expected: xmotion guest run|verify|ping|stats|destroy NAME, or xmotion guest list");
    return fail(EXIT_USAGE, &err);
}

const struct command command_guest = {"guest", "run|verify|ping|stats|destroy|list [NAME] [options]",
                                      "the embedded guest: a process with real RAM and disks", run_guest};
