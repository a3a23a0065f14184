/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sender's data connections: made several at once, since on a long way each takes several turns, and as soon as it is known how many,
 * while the control connection gets on. Their HELLO waits for the control connection's, and before the first drop nothing waits for its
 * answer. */
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

struct source_opening {
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
    if (s->round_trip_ns >= FAR_AWAY)
        return CONNECTIONS_MOST;
    return (unsigned int)MIN(MAX(cores, CONNECTIONS_LEAST), CONNECTIONS_MOST);
}

int source_data_greeted(void *source, struct conn *c, const struct record *record, struct err *err)
{
    json_t *answer = NULL;
    int r = control_take(c, record, WIRE_HELLO, &answer, err);

    (void)source;
    json_decref(answer);
    return r;
}

/* After a drop: what the target said in RESUMED counts until the first data connection is answered, and no record may go before that. */
static int hear_greeting(struct source_opening *o)
{
    struct record record;
    int r = conn_recv(o->conn, &record, &o->err);

    return r < 0 ? r : source_data_greeted(o->source, o->conn, &record, &o->err);
}

static int introduce(struct source_opening *o)
{
    struct source *s = o->source;
    char name[32];
    int r;

    (void)snprintf(name, sizeof(name), "data-%u", o->number);
    r = source_capture(s, o->conn, name, &o->err);
    if (r == 0)
        r = control_say_hello(o->conn, "data", s->id, (int)o->number, s->drops, &o->err);
    return r == 0 && s->drops ? hear_greeting(o) : r;
}

/* The target looks for the session, which it knows when it has answered the control connection's HELLO. */
static bool wait_for_greeting(struct source *s)
{
    bool greeted;

    pthread_mutex_lock(&s->lock);
    while (s->greeting == GREETING_DUE)
        pthread_cond_wait(&s->greeting_changed, &s->lock);
    greeted = s->greeting == GREETING_HEARD;
    pthread_mutex_unlock(&s->lock);
    return greeted;
}

static void *open_one(void *data)
{
    struct source_opening *o = data;
    struct source *s = o->source;

    o->result = conn_connect(&o->conn, s->config->identity, s->config->address, SOURCE_CONNECT_TIMEOUT, &o->err);
    if (o->result < 0)
        return NULL;
    o->result = wait_for_greeting(s) ? introduce(o) : err_set(&o->err, -ECANCELED, "not needed any more");
    if (o->result < 0) {
        conn_destroy(o->conn);
        o->conn = NULL;
    }
    return NULL;
}

static int start_some(struct source *s, unsigned int first, struct err *err)
{
    for (unsigned int i = first; i < MIN(s->connections, first + AT_ONCE); i++) {
        struct source_opening *o = &s->data_openings[i];

        o->runs = pthread_create(&o->thread, NULL, open_one, o) == 0;
        if (!o->runs)
            return err_set(err, -EAGAIN, "no thread for a data connection");
    }
    return 0;
}

static void join_all(struct source *s)
{
    for (unsigned int i = 0; i < s->connections; i++) {
        if (s->data_openings[i].runs)
            (void)pthread_join(s->data_openings[i].thread, NULL);
        s->data_openings[i].runs = false;
    }
}

int source_data_begin(struct source *s, struct err *err)
{
    s->round_trip_ns = conn_round_trip_ns(s->control.conn);
    if (!s->connections)
        s->connections = choose_count(s);
    if (s->round_trip_ns < FAR_AWAY)
        s->round_trip_ns = 0;
    s->data_openings = calloc(s->connections, sizeof(*s->data_openings));
    if (!s->data_openings)
        return err_set(err, -ENOMEM, "out of memory");
    for (unsigned int i = 0; i < s->connections; i++) {
        s->data_openings[i].source = s;
        s->data_openings[i].number = i;
    }
    return start_some(s, 0, err);
}

void source_data_greet(struct source *s, enum source_greeting greeting)
{
    pthread_mutex_lock(&s->lock);
    s->greeting = greeting;
    pthread_cond_broadcast(&s->greeting_changed);
    pthread_mutex_unlock(&s->lock);
}

/* The stream takes the connections in the order of their numbers. Returns the first error. */
static int add_all(struct source *s, struct err *err)
{
    int r = 0;

    for (unsigned int i = 0; i < s->connections; i++) {
        struct source_opening *o = &s->data_openings[i];

        if (r == 0 && o->result < 0)
            r = err_set(err, o->result, "data connection %u: %s", i, o->err.text);
        if (r == 0 && o->conn)
            r = stream_add(s->stream, o->conn, err);
        if (r < 0)
            break;
        o->conn = NULL; /* the stream's now */
        s->connections_opened = i + 1;
    }
    return r;
}

int source_data_open(struct source *s, struct err *err)
{
    int r = s->data_openings ? 0 : source_data_begin(s, err);

    for (unsigned int i = AT_ONCE; r == 0 && i < s->connections; i += AT_ONCE) {
        join_all(s);
        r = start_some(s, i, err);
    }
    if (s->data_openings)
        join_all(s);
    if (r == 0)
        r = add_all(s, err);
    source_data_end(s);
    if (r < 0 && conn_error_is_drop(r))
        s->data_dropped = true;
    return r;
}

void source_data_end(struct source *s)
{
    if (!s->data_openings)
        return;
    join_all(s);
    for (unsigned int i = 0; i < s->connections; i++)
        conn_destroy(s->data_openings[i].conn);
    free(s->data_openings);
    s->data_openings = NULL;
}
