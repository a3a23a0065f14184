/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"

#include "base/log.h"
#include "cli/confine.h"
#include "session/server.h"
#include "transport/conn.h"

#include <stdio.h>

#define MAX_MIGRATIONS 8

struct recv_options {
    struct server_config config;
    bool json;
    bool no_confine;
};

static int take_listen(void *data, const char *value, struct err *err)
{
    char canonical[CONN_ADDRESS_MAX];

    ((struct recv_options *)data)->config.listen = value;
    return conn_canonical_address(value, canonical, err);
}

static int take_sr(void *data, const char *value, struct err *err)
{
    struct server_config *c = &((struct recv_options *)data)->config;
    int r;

    if (c->sr_count == SERVER_SRS_MAX)
        return err_set(err, -EINVAL, "given more than %d times", SERVER_SRS_MAX);
    r = volume_sr_parse(&c->srs[c->sr_count], value, err);
    if (r == 0)
        r = volume_sr_check(&c->srs[c->sr_count], 0, err);
    c->sr_count += r == 0;
    return r;
}

static int take_allow_disk(void *data, const char *value, struct err *err)
{
    struct server_config *c = &((struct recv_options *)data)->config;

    if (value[0] != '/')
        return err_set(err, -EINVAL, "\"%s\": expected an absolute path", value);
    if (c->allow_disk_count == SERVER_DISKS_MAX)
        return err_set(err, -EINVAL, "given more than %d times", SERVER_DISKS_MAX);
    c->allow_disks[c->allow_disk_count++] = value;
    return 0;
}

static int take_max_migrations(void *data, const char *value, struct err *err)
{
    uint64_t most;
    int r = parse_count(value, SERVER_MIGRATIONS_MAX, &most, err);

    if (r == 0)
        ((struct recv_options *)data)->config.max_migrations = (unsigned int)most;
    return r;
}

static int take_delta_cache(void *data, const char *value, struct err *err)
{
    return parse_size(value, &((struct recv_options *)data)->config.delta_cache, err);
}

static int take_no_confine(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct recv_options *)data)->no_confine = true;
    return 0;
}

static int take_once(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct recv_options *)data)->config.once = true;
    return 0;
}

static int take_json(void *data, const char *value, struct err *err)
{
    (void)value, (void)err;
    ((struct recv_options *)data)->json = true;
    return 0;
}

static const struct option_spec specs[] = {
    {"listen", "ADDRESS", "HOST:PORT to listen on (every address, port 7799)", take_listen},
    {"sr", "SR", "open this SR to peers, lvm:VG or dir:/PATH; the first is the default", take_sr},
    {"allow-disk", "/PATH", "let peers overwrite this disk when they name it", take_allow_disk},
    {"max-migrations", "N", "guests that may come at a time, 1 to 64 (8)", take_max_migrations},
    {"delta-cache", "SIZE", "keep at most so much of a coming guest's memory, for senders that send what changed in it (64M)", take_delta_cache},
    {"no-confine", NULL, "keep every privilege (for a kernel without seccomp)", take_no_confine},
    {"once", NULL, "end after one migration", take_once},
    {"json", NULL, "one JSON event a line", take_json},
    {0},
};

static void print_event(void *data, const json_t *event)
{
    const char *kind = json_string_value(json_object_get(event, "event"));
    const char *guest = json_string_value(json_object_get(event, "guest"));
    const char *peer = json_string_value(json_object_get(event, "peer"));
    const char *error = json_string_value(json_object_get(event, "error"));

    if (((const struct recv_options *)data)->json) {
        (void)json_dumpf(event, stdout, JSON_COMPACT);
        (void)putchar('\n');
    } else {
        (void)printf("%s%s%s%s%s%s%s\n", kind, *guest ? " " : "", guest, *peer ? " " : "", peer, error ? ": " : "",
                     error ? error : "");
    }
    (void)fflush(stdout);
}

/* The socket is open, nothing was read from it. */
static int opened(void *data, struct err *err)
{
    return ((const struct recv_options *)data)->no_confine ? 0 : confine_receiver(err);
}

static int run_recv(struct cli *cli, int argc, char **argv)
{
    struct recv_options o = {.config = {.max_migrations = MAX_MIGRATIONS, .delta_cache = DEFAULT_DELTA_CACHE}};
    struct identity *id = NULL;
    struct err err = {0};
    int count;
    int code = 0;

    if (options_parse(&command_recv, specs, &o, argc, argv, &count, &err) < 0)
        return fail(EXIT_USAGE, &err);
    if (count) {
        (void)err_set(&err, -EINVAL, "\"%s\": xmotion recv takes options only", argv[1]);
        return fail(EXIT_USAGE, &err);
    }
    if (identity_load(&id, &cli->identity, &err) < 0)
        return fail(EXIT_USAGE, &err);
    o.config.identity = id;
    o.config.state_dir = state_dir(cli);
    o.config.opened = opened;
    o.config.event = print_event;
    o.config.data = &o;
    log_set_level(LOG_INFO);
    if (server_run(&o.config, &err) < 0)
        code = fail(1, &err);
    identity_destroy(id);
    return code;
}

const struct command command_recv = {"recv", "[options]", "receive guests: listens until it is ended", run_recv};
