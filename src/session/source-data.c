/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sender's data connections: made several at once, since on a long way each takes several turns. */
#include "session/source-priv.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#define CONNECTIONS_LEAST 2
#define CONNECTIONS_MOST  8
#define AT_ONCE           8 /* more from one host look like a flood (session/gate.h) */
/* So far away the socket's buffer is less than what is under way: several connections fill the link, and get there sooner. */
#define FAR_AWAY          (5 * NS_PER_MS)

struct opening {
    struct source *source;
    unsigned int number;
    pthread_t thread;
    bool runs;
    struct conn *conn; /* NULL: failed */
    int result;
    struct err err;
};

static unsigned int choose_count(const struct source *s)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);

    if (s->config->connections)
        return s->config->connections;
    if (conn_round_trip_ns(s->control.conn) >= FAR_AWAY)
        return CONNECTIONS_MOST;
    return (unsigned int)MIN(MAX(cores, CONNECTIONS_LEAST), CONNECTIONS_MOST);
}

static int introduce(struct opening *o)
{
    struct source *s = o->source;
    struct record record;
    char name[32];
    int r;

    (void)snprintf(name, sizeof(name), "data-%u", o->number);
    r = source_capture(s, o->conn, name, &o->err);
    if (r == 0)
        r = control_say_hello(o->conn, "data", s->id, (int)o->number, &o->err);
    if (r == 0)
        r = conn_recv(o->conn, &record, &o->err);
    if (r == 0 && record.type != WIRE_HELLO)
        r = err_set(&o->err, -EPROTO, "%s does not take the data connection", s->config->address);
    return r;
}

static void *open_one(void *data)
{
    struct opening *o = data;
    struct source *s = o->source;

    o->result = conn_connect(&o->conn, s->config->identity, s->config->address, SOURCE_CONNECT_TIMEOUT, &o->err);
    if (o->result < 0)
        return NULL;
    o->result = introduce(o);
    if (o->result < 0) {
        conn_destroy(o->conn);
        o->conn = NULL;
    }
    return NULL;
}

/* The stream takes the connections in the order of their numbers. Returns the first error. */
static int add_all(struct source *s, struct opening *all, struct err *err)
{
    int r = 0;

    for (unsigned int i = 0; i < s->connections; i++) {
        struct opening *o = &all[i];

        if (r == 0 && o->result < 0)
            r = err_set(err, o->result, "data connection %u: %s", i, o->err.text);
        if (r == 0)
            r = stream_add(s->stream, o->conn, err);
        if (r == 0)
            s->connections_opened = i + 1;
        else
            conn_destroy(o->conn);
    }
    return r;
}

static void open_some(struct opening *all, unsigned int count)
{
    for (unsigned int i = 1; i < count; i++)
        all[i].runs = pthread_create(&all[i].thread, NULL, open_one, &all[i]) == 0;
    for (unsigned int i = 0; i < count; i++) {
        if (all[i].runs)
            (void)pthread_join(all[i].thread, NULL);
        else
            (void)open_one(&all[i]);
    }
}

int source_open_data(struct source *s, struct err *err)
{
    struct opening *all;
    int r;

    if (!s->connections)
        s->connections = choose_count(s);
    all = calloc(s->connections, sizeof(*all));
    if (!all)
        return err_set(err, -ENOMEM, "out of memory");
    for (unsigned int i = 0; i < s->connections; i++) {
        all[i].source = s;
        all[i].number = i;
    }
    for (unsigned int i = 0; i < s->connections; i += AT_ONCE)
        open_some(all + i, MIN(s->connections - i, AT_ONCE));
    r = add_all(s, all, err);
    free(all);
    if (r < 0 && conn_error_is_drop(r))
        s->data_dropped = true;
    return r;
}
