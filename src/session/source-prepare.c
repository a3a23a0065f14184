/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The beginning: connections, and what the target must know to get ready. */
#include "session/source-priv.h"

#include "base/clock.h"
#include "base/fdio.h"

#include <limits.h>
#include <string.h>

#define CONNECT_TIMEOUT (15 * NS_PER_SEC)

static json_t *hello(const struct source *s, const char *role)
{
    return json_pack("{s:i, s:s, s:s, s:[s], s:s}", "protocol", WIRE_PROTOCOL, "role", role, "session", s->id,
                     "features", "zstd", "program", "xmotion " XMOTION_VERSION);
}

static int capture(const struct source *s, struct conn *c, const char *name, struct err *err)
{
    char path[PATH_MAX];
    int r;

    if (!s->config->capture)
        return 0;
    r = dir_make(s->config->capture);
    if (r < 0)
        return err_errno(err, r, "making %s", s->config->capture);
    (void)snprintf(path, sizeof(path), "%s/%s.xmc", s->config->capture, name);
    return conn_capture(c, path, err);
}

static bool names_feature(const json_t *hello_answer, const char *feature)
{
    const json_t *features = json_object_get(hello_answer, "features");
    size_t i;
    json_t *f;

    json_array_foreach(features, i, f)
    {
        if (json_is_string(f) && strcmp(json_string_value(f), feature) == 0)
            return true;
    }
    return false;
}

static int check_hello(struct source *s, const json_t *answer, struct err *err)
{
    json_int_t protocol = json_integer_value(json_object_get(answer, "protocol"));

    if (protocol < 1)
        return err_set(err, -EPROTO, "%s names no protocol version in HELLO", s->config->address);
    s->use_zstd = s->config->zstd && names_feature(answer, "zstd");
    return 0;
}

int source_connect(struct source *s, const char *role, struct err *err)
{
    struct conn *c;
    json_t *answer = NULL;
    int r = conn_connect(&c, s->config->identity, s->config->address, CONNECT_TIMEOUT, err);

    if (r < 0)
        return r;
    r = control_init(&s->control, c, s->loop, err);
    s->connected = true;
    if (r == 0)
        r = capture(s, c, "control", err);
    if (r == 0)
        r = control_send(&s->control, WIRE_HELLO, hello(s, role), err);
    if (r == 0)
        r = control_expect(&s->control, WIRE_HELLO, &answer, err);
    if (r == 0)
        r = check_hello(s, answer, err);
    json_decref(answer);
    return r;
}

json_t *source_prepare_message(struct source *s)
{
    json_t *targets = json_object();
    json_t *m;

    for (unsigned int i = 0; i < s->config->map_count; i++)
        json_object_set_new(targets, s->config->maps[i].vbd, json_string(s->config->maps[i].path));
    m = json_pack("{s:o, s:o, s:s*}", "guest", hv_guest_to_json(s->guest), "targets", targets, "sr",
                  s->config->sr);
    return m;
}

static int open_data(struct source *s, unsigned int number, struct err *err)
{
    struct conn *c;
    struct record record;
    char name[32];
    json_t *message = hello(s, "data");
    char *text = json_dumps(message, JSON_COMPACT);
    struct iovec part = {.iov_base = text, .iov_len = text ? strlen(text) : 0};
    int r = conn_connect(&c, s->config->identity, s->config->address, CONNECT_TIMEOUT, err);

    json_decref(message);
    if (r < 0) {
        free(text);
        return r;
    }
    (void)snprintf(name, sizeof(name), "data-%u", number);
    r = text ? capture(s, c, name, err) : err_set(err, -ENOMEM, "out of memory");
    if (r == 0)
        r = conn_send(c, WIRE_HELLO, &part, 1, err);
    free(text);
    if (r == 0)
        r = conn_recv(c, &record, err);
    if (r == 0 && record.type != WIRE_HELLO)
        r = err_set(err, -EPROTO, "%s does not take the data connection", s->config->address);
    if (r < 0) {
        conn_destroy(c);
        return r;
    }
    r = stream_add(s->stream, c, err);
    if (r < 0)
        conn_destroy(c);
    return r;
}

int source_open_data(struct source *s, struct err *err)
{
    for (unsigned int i = 0; i < s->connections; i++) {
        int r = open_data(s, i, err);

        if (r < 0)
            return err_prefix(err, r, "data connection %u", i);
    }
    return 0;
}
