/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/server.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "session/answer.h"
#include "session/control.h"
#include "session/door.h"
#include "session/recover.h"
#include "session/registry.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define AREA               "session.server"
#define HANDSHAKE_TIMEOUT  (10 * NS_PER_SEC)
#define HELLO_MAX          4096u
#define RECOVER_EVERY      (30 * NS_PER_SEC)
#define RECOVER_AGAIN      (5 * NS_PER_SEC) /* while something waits for its end */
#define SESSION_LEN        32u

struct server {
    const struct server_config *config;
    struct loop *loop;
    int listener;
    struct door *door; /* who may come in */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned int connections; /* threads */
    unsigned int migrations;  /* that have said PREPARE */
    struct registry registry;
    pthread_t recoverer;
    bool recoverer_runs;
    bool recovered_once; /* the recoverer's */
    uint64_t begun_ns;
    bool stopping;
    bool ended_once;
    int result;
    struct err error;
};

struct connection {
    struct server *s;
    int fd;
    int entry; /* the door's name for it */
};

static void emit(struct server *s, const char *event, const char *guest, const char *peer, const char *error)
{
    json_t *e = json_pack("{s:s, s:s, s:s, s:s?}", "event", event, "guest", guest, "peer", peer, "error", error);

    pthread_mutex_lock(&s->lock);
    if (e && s->config->event)
        s->config->event(s->config->data, e);
    pthread_mutex_unlock(&s->lock);
    json_decref(e);
}

/* -- one connection -- */

static int check_session(const char *session, struct err *err)
{
    size_t n = session ? strspn(session, "0123456789abcdef") : 0;

    if (n != SESSION_LEN || session[n])
        return err_set(err, -EPROTO, "HELLO names no session of %u hex digits", SESSION_LEN);
    return 0;
}

/* A place among the migrations, which a peer gets for PREPARE: one that only says HELLO holds nobody up, nor does one that is lost.
 * When it is back it is let in, though others may have come meanwhile. */
struct place {
    struct server *s;
    bool taken;
    bool used; /* it was taken once */
};

static int take_place(void *data, enum target_place what, struct err *err)
{
    struct place *p = data;
    unsigned int most = p->s->config->max_migrations;
    bool take = what != TARGET_PARKS;
    int r = 0;

    pthread_mutex_lock(&p->s->lock);
    if (what == TARGET_BEGINS && p->s->migrations >= most)
        r = err_set(err, -EBUSY,
                    "the receiver takes %u guests at a time and has as many: try again later, or start it with a larger --max-migrations",
                    most);
    if (r == 0) {
        p->s->migrations = p->s->migrations + take - p->taken;
        p->taken = take;
        p->used |= take;
    }
    pthread_mutex_unlock(&p->s->lock);
    return r;
}

static void leave_place(struct place *p)
{
    (void)take_place(p, TARGET_PARKS, NULL);
}

static void note_end(struct server *s, int r, const struct err *err)
{
    pthread_mutex_lock(&s->lock);
    s->ended_once = true;
    s->result = r;
    s->error = *err;
    pthread_mutex_unlock(&s->lock);
    loop_wake(s->loop);
}

static void serve_target(struct server *s, struct target *t, const char *peer)
{
    struct place place = {.s = s};
    struct err err = {0};
    int r = registry_enroll(&s->registry, t, &err);

    if (r == 0) {
        emit(s, "incoming", "", peer, NULL);
        target_set_admission(t, take_place, &place);
        r = target_run(t, &err);
        registry_withdraw(&s->registry, t);
        leave_place(&place);
    } else {
        target_refuse(t, &err);
    }
    emit(s, r == 0 ? "arrived" : "failed", target_guest(t), peer, r == 0 ? NULL : err.text);
    target_destroy(t);
    if (place.used)
        note_end(s, r, &err);
}

/* Takes the connection over. */
static void serve_control(struct server *s, struct conn *c, const char *session, bool check_only)
{
    struct target *t = NULL;
    struct err err = {0};
    char peer[CONN_ADDRESS_MAX];
    int r;

    (void)snprintf(peer, sizeof(peer), "%s", conn_peer(c));
    r = target_create(&t, s->config, session, c, &err);
    if (r < 0) {
        log_warn(AREA, "%s: %s", peer, err.text);
        return;
    }
    if (check_only) {
        (void)target_check_only(t, &err);
        target_destroy(t);
        return;
    }
    serve_target(s, t, peer);
}

/* UINT16_MAX: it is none, or too large. */
static unsigned int count_of(const json_t *hello, const char *member, unsigned int missing)
{
    const json_t *value = json_object_get(hello, member);
    json_int_t n = json_integer_value(value);

    if (!value)
        return missing;
    return json_is_integer(value) && n >= 0 && n < UINT16_MAX ? (unsigned int)n : UINT16_MAX;
}

/* A sender that lost its connections is back. Takes the connection over. */
static void serve_resume(struct server *s, struct conn *c, const char *session, const json_t *hello)
{
    struct target *t = registry_find(&s->registry, session, conn_peer_fingerprint(c));
    struct err err = {0};
    char peer[CONN_ADDRESS_MAX];
    int r = control_answer_hello(c, &err);

    (void)snprintf(peer, sizeof(peer), "%s", conn_peer(c));
    if (t) {
        if (r == 0)
            target_resume(t, c, count_of(hello, "drops", 0));
        else
            conn_destroy(c);
        registry_put(&s->registry, t);
        return;
    }
    if (r == 0)
        r = target_find_again(s->config->state_dir, session, conn_peer_fingerprint(c), &err);
    if (r < 0) {
        answer_failed(c, &err);
        conn_destroy(c);
        return;
    }
    r = target_create_again(&t, s->config, session, c, count_of(hello, "drops", 0), &err);
    if (r == 0)
        serve_target(s, t, peer);
    else
        emit(s, "failed", "", peer, err.text);
}

static void serve_data(struct server *s, struct conn *c, const char *session, const json_t *hello)
{
    struct target *t = registry_find(&s->registry, session, conn_peer_fingerprint(c));
    struct err err = {0};

    if (t) {
        (void)target_data(t, c, count_of(hello, "number", 0), count_of(hello, "drops", 0), &err);
        conn_destroy(c);
        registry_put(&s->registry, t);
        return;
    }
    (void)err_set(&err, -ENOENT, "a data connection for a migration that is not here");
    answer_failed(c, &err);
    conn_destroy(c);
}

/* Takes the connection over. The door counts the time that HELLO takes. */
static void serve_peer(struct server *s, struct conn *c, int entry)
{
    struct record record;
    struct err err = {0};
    json_t *hello = NULL;
    const char *role = "";
    const char *session = NULL;
    int r;

    conn_set_max_body(c, HELLO_MAX);
    r = conn_recv(c, &record, &err);
    conn_set_max_body(c, WIRE_CONTROL_MAX);
    if (r == 0 && record.type != WIRE_HELLO)
        r = err_set(&err, -EPROTO, "%s instead of HELLO", wire_type_name((uint16_t)record.type));
    if (r == 0)
        r = control_parse(&record, &hello, &err);
    if (r == 0 && json_integer_value(json_object_get(hello, "protocol")) < 1)
        r = err_set(&err, -EPROTO, "HELLO names no protocol version, expected 1 or higher");
    if (r == 0) {
        role = json_string_value(json_object_get(hello, "role"));
        session = json_string_value(json_object_get(hello, "session"));
        r = check_session(session, &err);
    }
    if (r == 0)
        r = door_greeted(s->door, entry, !role || strcmp(role, "data") != 0, &err);
    if (r < 0) {
        if (door_may_log(s->door))
            log_warn(AREA, "%s: %s", conn_peer(c), err.text);
        answer_failed(c, &err);
        conn_destroy(c);
    } else if (role && strcmp(role, "data") == 0) {
        serve_data(s, c, session, hello);
    } else if (role && strcmp(role, "resume") == 0) {
        serve_resume(s, c, session, hello);
    } else if (role && strcmp(role, "recover") == 0) {
        answer_recovery(&s->registry, s->config->state_dir, c, session);
        conn_destroy(c);
    } else {
        serve_control(s, c, session, role && strcmp(role, "check") == 0);
    }
    json_decref(hello);
}

static void *connection_thread(void *data)
{
    struct connection *k = data;
    struct server *s = k->s;
    struct conn *c;
    struct err err;

    if (conn_accept(&c, s->config->identity, k->fd, HANDSHAKE_TIMEOUT, &err) < 0) {
        if (door_may_log(s->door))
            log_info(AREA, "%s", err.text);
    } else if (door_authorized(s->door, k->entry, conn_peer_fingerprint(c), &err) < 0) {
        answer_failed(c, &err);
        conn_destroy(c);
    } else {
        serve_peer(s, c, k->entry);
    }
    conn_thread_end();
    door_leave(s->door, k->entry);
    free(k);
    pthread_mutex_lock(&s->lock);
    s->connections--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* For the door: a thread for a peer that wants to shake hands. */
static bool begin_connection(void *data, int fd, int entry)
{
    struct server *s = data;
    struct connection *k = malloc(sizeof(*k));
    pthread_t thread;

    if (!k)
        return false;
    *k = (struct connection){.s = s, .fd = fd, .entry = entry};
    pthread_mutex_lock(&s->lock);
    s->connections++;
    pthread_mutex_unlock(&s->lock);
    if (pthread_create(&thread, NULL, connection_thread, k) == 0) {
        (void)pthread_detach(thread);
        return true;
    }
    pthread_mutex_lock(&s->lock);
    s->connections--;
    pthread_mutex_unlock(&s->lock);
    free(k);
    return false;
}

/* -- what processes that died left -- */

static void report_recovery(void *data, const struct journal_entry *e, bool ended, const char *text)
{
    struct server *s = data;

    /* What waits is looked at again and again: said once. */
    if (ended || !s->recovered_once)
        log_info(AREA, "migration %.8s of guest %s: %s", e->session, e->name, text);
    if (ended && e->side == JOURNAL_INCOMING)
        emit(s, "cleaned", e->name, "", NULL);
}

/* How many wait for their end. */
static unsigned int recover(struct server *s, bool incoming, bool outgoing)
{
    struct recover_config config = {.state_dir = s->config->state_dir,
                                    .identity = s->config->identity,
                                    .resumable_since = s->begun_ns,
                                    .incoming = incoming,
                                    .outgoing = outgoing,
                                    .again = s->recovered_once,
                                    .report = report_recovery,
                                    .data = s};
    struct recover_count count = {0};
    struct err err;

    if (recover_run(&config, &count, &err) < 0)
        log_error(AREA, "%s", err.text);
    return count.later + count.undecided;
}

/* Receivers of ours may be away for long: whoever is undecided asks again and again. */
static void *recoverer_thread(void *data)
{
    struct server *s = data;

    pthread_mutex_lock(&s->lock);
    while (!s->stopping) {
        unsigned int waiting;
        uint64_t until;

        pthread_mutex_unlock(&s->lock);
        waiting = recover(s, true, true);
        s->recovered_once = true;
        until = clock_now() + (waiting ? RECOVER_AGAIN : RECOVER_EVERY);
        pthread_mutex_lock(&s->lock);
        while (!s->stopping && clock_cond_wait(&s->changed, &s->lock, until) != ETIMEDOUT)
            ;
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* -- life -- */

static int server_init(struct server *s, const struct server_config *config, struct err *err)
{
    const struct door_config door = {.migrations = config->max_migrations, .begin = begin_connection, .data = s};
    int r;

    memset(s, 0, sizeof(*s));
    s->config = config;
    s->listener = -1;
    s->begun_ns = clock_now();
    registry_init(&s->registry);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    r = loop_create(&s->loop, err);
    if (r == 0)
        r = loop_watch_signal(s->loop, SIGINT, err);
    if (r == 0)
        r = loop_watch_signal(s->loop, SIGTERM, err);
    if (r == 0)
        r = conn_listen(config->listen, &s->listener, err);
    if (r == 0 && config->opened)
        r = config->opened(config->data, err);
    if (r == 0)
        r = door_create(&s->door, &door, err);
    if (r == 0)
        (void)recover(s, true, false); /* before the first peer can come */
    if (r == 0 && fcntl(s->listener, F_SETFL, O_NONBLOCK) < 0)
        r = err_errno(err, -errno, "the listening socket");
    if (r == 0)
        r = loop_watch(s->loop, s->listener, err);
    if (r == 0)
        r = loop_watch(s->loop, door_fd(s->door), err);
    if (r == 0 && pthread_create(&s->recoverer, NULL, recoverer_thread, s))
        r = err_set(err, -EAGAIN, "no thread for recovery");
    s->recoverer_runs = r == 0;
    return r;
}

static void server_finish(struct server *s)
{
    if (s->listener >= 0)
        (void)close(s->listener);
    if (s->door)
        door_close(s->door);
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (s->recoverer_runs)
        (void)pthread_join(s->recoverer, NULL);
    registry_close(&s->registry);
    pthread_mutex_lock(&s->lock);
    while (s->connections)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    registry_finish(&s->registry);
    loop_destroy(s->loop);
    door_destroy(s->door);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
}

int server_run(const struct server_config *config, struct err *err)
{
    struct server s;
    bool ended = false;
    int r = server_init(&s, config, err);

    if (r == 0)
        emit(&s, "listening", "", config->listen ? config->listen : "", NULL);
    while (r == 0 && !loop_signals(s.loop) && !(ended && config->once)) {
        loop_turn(s.loop, door_work(s.door));
        (void)door_accept(s.door, s.listener);
        pthread_mutex_lock(&s.lock);
        ended = s.ended_once;
        pthread_mutex_unlock(&s.lock);
    }
    server_finish(&s);
    if (r == 0 && config->once && ended) {
        *err = s.error;
        r = s.result;
    }
    return r;
}
