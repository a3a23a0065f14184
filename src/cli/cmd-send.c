/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "mirror/volume.h"
#include "session/source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_DOWNTIME (300 * NS_PER_MS)
#define DEFAULT_TIMEOUT  (3600 * NS_PER_SEC)
#define DEFAULT_RECONNECT (600 * NS_PER_SEC)
#define CONNECTIONS_MAX  64
#define BANDWIDTH_MIN    KIB(64)

struct send_options {
    struct source_config config;
    bool json;
    bool quiet;
};

static int take_sr(void *data, const char *value, struct err *err)
{
    struct send_options *o = data;
    struct volume_sr sr;

    o->config.sr = value;
    return volume_sr_parse(&sr, value, err);
}

/* "xvda=/dev/vg1/x" or "xvda=/dev/vg1/x,reuse": the value is cut in place. */
static int take_disk(void *data, const char *value, struct err *err)
{
    struct send_options *o = data;
    static const char reuse[] = ",reuse";
    char *copy = strdup(value);
    char *sign = copy ? strchr(copy, '=') : NULL;
    size_t len = sign ? strlen(sign) : 0;
    bool reused = len > sizeof(reuse) && strcmp(sign + len - (sizeof(reuse) - 1), reuse) == 0;

    if (!sign || sign == copy || sign[1] != '/') {
        free(copy);
        return err_set(err, -EINVAL, "\"%s\": expected VBD=/PATH/AT/THE/TARGET[,reuse], as in xvda=/dev/vg1/vm1-root", value);
    }
    if (o->config.map_count == SOURCE_DISK_MAPS) {
        free(copy);
        return err_set(err, -EINVAL, "given more than %d times", SOURCE_DISK_MAPS);
    }
    *sign = '\0';
    if (reused)
        sign[len - (sizeof(reuse) - 1)] = '\0';
    o->config.maps[o->config.map_count++] = (struct source_disk_map){.vbd = copy, .path = sign + 1, .reuse = reused};
    return 0;
}

static int take_downtime(void *data, const char *value, struct err *err)
{
    return parse_time(value, &((struct send_options *)data)->config.limits.downtime_ns, err);
}

static int take_timeout(void *data, const char *value, struct err *err)
{
    return parse_time(value, &((struct send_options *)data)->config.limits.timeout_ns, err);
}

static int take_reconnect(void *data, const char *value, struct err *err)
{
    return parse_time(value, &((struct send_options *)data)->config.reconnect_ns, err);
}

static int take_bandwidth(void *data, const char *value, struct err *err)
{
    struct send_options *o = data;
    int r = parse_size(value, &o->config.max_bandwidth, err);

    if (r == 0 && o->config.max_bandwidth < BANDWIDTH_MIN)
        return err_set(err, -EINVAL, "\"%s\": expected octets a second, at least 64K", value);
    return r;
}

static int take_no_brake(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct send_options *)data)->config.brake = false;
    return 0;
}

static int take_reuse(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct send_options *)data)->config.reuse = true;
    return 0;
}

static int take_verify(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct send_options *)data)->config.verify = true;
    return 0;
}

static int take_on_timeout(void *data, const char *value, struct err *err)
{
    struct send_options *o = data;

    if (strcmp(value, "abort") == 0)
        o->config.limits.on_timeout = PRECOPY_TIMEOUT_ABORT;
    else if (strcmp(value, "stop") == 0)
        o->config.limits.on_timeout = PRECOPY_TIMEOUT_STOP;
    else if (strcmp(value, "throttle") == 0)
        o->config.limits.on_timeout = PRECOPY_TIMEOUT_THROTTLE;
    else
        return err_set(err, -EINVAL, "\"%s\": expected abort, stop or throttle", value);
    return 0;
}

static int take_connections(void *data, const char *value, struct err *err)
{
    struct send_options *o = data;
    uint64_t n;
    int r = parse_count(value, CONNECTIONS_MAX, &n, err);

    o->config.connections = r == 0 ? (unsigned int)n : 0;
    return r;
}

static int take_compress(void *data, const char *value, struct err *err)
{
    static const char *const names[] = {[COMPRESS_NONE] = "none", [COMPRESS_AUTO] = "auto", [COMPRESS_ALWAYS] = "zstd"};
    struct send_options *o = data;

    for (unsigned int i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(value, names[i]) == 0) {
            o->config.compress = (enum compress_mode)i;
            return 0;
        }
    }
    return err_set(err, -EINVAL, "\"%s\": expected auto, none or zstd", value);
}

static int take_delta_cache(void *data, const char *value, struct err *err)
{
    return parse_size(value, &((struct send_options *)data)->config.delta_cache, err);
}

static int take_stop_command(void *data, const char *value, struct err *err)
{
    (void)err;
    ((struct send_options *)data)->config.stop_command = value;
    return 0;
}

static int take_go_command(void *data, const char *value, struct err *err)
{
    (void)err;
    ((struct send_options *)data)->config.go_command = value;
    return 0;
}

static int take_capture(void *data, const char *value, struct err *err)
{
    (void)err;
    ((struct send_options *)data)->config.capture = value;
    return 0;
}

static int take_remove(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct send_options *)data)->config.remove_source_disks = true;
    return 0;
}

static int take_json(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct send_options *)data)->json = true;
    return 0;
}

static int take_quiet(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct send_options *)data)->quiet = true;
    return 0;
}

static const struct option_spec specs[] = {
    {"sr", "SR", "where new volumes are made at the target: lvm:VG or dir:/PATH", take_sr},
    {"disk", "VBD=/PATH[,reuse]", "an existing disk at the target for this one (overwritten, or reused)", take_disk},
    {"reuse", NULL, "compare old copies at the target first, send only what differs", take_reuse},
    {"verify", NULL, "the target reads back every block that it wrote", take_verify},
    {"downtime", "TIME", "the stop may take this long by prediction (300ms)", take_downtime},
    {"timeout", "TIME", "the whole may take this long before --on-timeout (1h)", take_timeout},
    {"on-timeout", "abort|stop|throttle", "then: give up (default), stop the guest anyway, or slow it down", take_on_timeout},
    {"reconnect-for", "TIME", "go on when the connections break and come back within this time (10m; 0s: never)", take_reconnect},
    {"max-bandwidth", "SIZE", "send at most so many octets a second while the guest runs", take_bandwidth},
    {"no-brake", NULL, "do not slow the copy down when the guest's disks get slow", take_no_brake},
    {"connections", "N", "data connections (default: one a core, 2 to 8; 8 to a host far away)", take_connections},
    {"compress", "auto|none|zstd", "compress what is sent: always, never, or where it saves time (auto)", take_compress},
    {"delta-cache", "SIZE", "keep so much of the guest's memory, to send what changed in it (64M; 0: send pages as they are)", take_delta_cache},
    {"remove-source-disks", NULL, "remove the source's volumes once the guest runs there", take_remove},
    {"stop-command", "COMMAND", "disk: only: run before the last pass, to stop writers", take_stop_command},
    {"go-command", "COMMAND", "disk: only: run afterwards; $XMOTION_OUTCOME is moved or failed", take_go_command},
    {"capture", "DIR", "also write all records there in clear (for verify-stream.py)", take_capture},
    {"json", NULL, "one JSON event a line", take_json},
    {"quiet", NULL, "no progress", take_quiet},
    {0},
};

static int check_usage(const struct send_options *o, int count, struct err *err)
{
    bool disk = count > 0 && strncmp(o->config.guest, "disk:", 5) == 0;

    if (count != 2)
        return err_set(err, -EINVAL, "expected a guest and a host: xmotion send GUEST HOST[:PORT]");
    if (!disk && (o->config.stop_command || o->config.go_command))
        return err_set(err, -EINVAL, "--stop-command and --go-command are for disk:PATH; a guest is suspended instead");
    if (disk && o->config.remove_source_disks)
        return err_set(err, -EINVAL, "--remove-source-disks is for guests; a disk without a guest is yours to remove");
    return 0;
}

static int parse(struct cli *cli, const struct command *command, struct send_options *o, struct identity **ret_id,
                 int argc, char **argv, struct err *err)
{
    int count;
    int r;

    o->config.limits.downtime_ns = DEFAULT_DOWNTIME;
    o->config.limits.timeout_ns = DEFAULT_TIMEOUT;
    o->config.reconnect_ns = DEFAULT_RECONNECT;
    o->config.compress = COMPRESS_AUTO;
    o->config.delta_cache = DEFAULT_DELTA_CACHE;
    o->config.brake = true;
    o->config.state_dir = state_dir(cli);
    r = options_parse(command, specs, o, argc, argv, &count, err);
    o->config.guest = argv[1];
    o->config.address = count > 1 ? argv[2] : NULL;
    if (r == 0)
        r = check_usage(o, count, err);
    if (r == 0)
        r = identity_load(ret_id, &cli->identity, err);
    o->config.identity = *ret_id;
    return r;
}

static void finish(struct send_options *o, struct identity *id)
{
    for (unsigned int i = 0; i < o->config.map_count; i++)
        free((void *)(uintptr_t)o->config.maps[i].vbd);
    identity_destroy(id);
}

static int run_send(struct cli *cli, int argc, char **argv)
{
    struct send_options o = {0};
    struct identity *id = NULL;
    struct progress progress;
    enum source_outcome outcome;
    struct err err = {0};
    int code;

    if (parse(cli, &command_send, &o, &id, argc, argv, &err) < 0) {
        code = fail(EXIT_USAGE, &err);
    } else {
        progress_init(&progress, o.json, o.quiet);
        o.config.event = progress_event;
        o.config.data = &progress;
        outcome = source_run(&o.config, &err);
        code = outcome == SOURCE_MOVED ? 0 : fail((int)outcome, &err);
    }
    finish(&o, id);
    return code;
}

const struct command command_send = {
    "send", "GUEST HOST[:PORT] [options]", "move a running guest (vm1, proc:NAME) or a live disk (disk:PATH)", run_send};

static int run_check(struct cli *cli, int argc, char **argv)
{
    struct send_options o = {0};
    struct identity *id = NULL;
    json_t *report = NULL;
    struct err err = {0};
    int code = 0;
    json_t *p;
    size_t i;

    if (parse(cli, &command_check, &o, &id, argc, argv, &err) < 0) {
        code = fail(EXIT_USAGE, &err);
    } else if (source_check(&o.config, &report, &err) != SOURCE_MOVED) {
        code = fail(SOURCE_REFUSED, &err);
    } else {
        json_array_foreach(json_object_get(report, "problems"), i, p)
        {
            (void)err_set(&err, -EINVAL, "%s", json_is_string(p) ? json_string_value(p) : "?");
            code = fail(SOURCE_REFUSED, &err);
        }
        if (code == 0)
            (void)printf("%s can move to %s\n", o.config.guest, o.config.address);
    }
    json_decref(report);
    finish(&o, id);
    return code;
}

const struct command command_check = {"check", "GUEST HOST[:PORT] [options]",
                                      "say what would stand in the way, without moving anything", run_check};
