/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/server.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"
#include "session/control.h"
#include "session/journal.h"
#include "session/target.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define AREA               "session.server"
#define HANDSHAKE_TIMEOUT  (10 * NS_PER_SEC)
#define CONNECTIONS_MAX    256u
#define TARGETS_MAX        64u
#define SESSION_LEN        32u

struct server {
    const struct server_config *config;
    struct loop *loop;
    int listener;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned int connections; /* threads */
    struct {
        struct target *t;
        unsigned int users; /* data threads inside */
    } targets[TARGETS_MAX];
    bool stopping;
    bool ended_once;
    int result;
    struct err error;
};

struct connection {
    struct server *s;
    int fd;
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

/* -- who is here -- */

static int enroll(struct server *s, struct target *t, struct err *err)
{
    int r = err_set(err, -EBUSY, "this receiver serves %u migrations already", TARGETS_MAX);

    pthread_mutex_lock(&s->lock);
    for (unsigned int i = 0; i < TARGETS_MAX; i++) {
        if (s->targets[i].t && strcmp(target_session(s->targets[i].t), target_session(t)) == 0) {
            r = err_set(err, -EEXIST, "there is a migration with this session's number already");
            break;
        }
        if (!s->targets[i].t && r == -EBUSY) {
            s->targets[i].t = t;
            s->targets[i].users = 0;
            r = 0;
            break;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* No data thread uses it any more when it returns. */
static void withdraw(struct server *s, struct target *t)
{
    pthread_mutex_lock(&s->lock);
    for (unsigned int i = 0; i < TARGETS_MAX; i++) {
        if (s->targets[i].t != t)
            continue;
        while (s->targets[i].users)
            pthread_cond_wait(&s->changed, &s->lock);
        s->targets[i].t = NULL;
    }
    pthread_mutex_unlock(&s->lock);
}

static int find(struct server *s, const char *session, const char *fingerprint, struct target **ret, struct err *err)
{
    int r = err_set(err, -ENOENT, "a data connection for a migration that is not here");

    *ret = NULL;
    pthread_mutex_lock(&s->lock);
    for (unsigned int i = 0; i < TARGETS_MAX; i++) {
        struct target *t = s->targets[i].t;

        if (t && strcmp(target_session(t), session) == 0 && strcmp(target_fingerprint(t), fingerprint) == 0) {
            s->targets[i].users++;
            *ret = t;
            r = 0;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

static void put_back(struct server *s, struct target *t)
{
    pthread_mutex_lock(&s->lock);
    for (unsigned int i = 0; i < TARGETS_MAX; i++) {
        if (s->targets[i].t == t)
            s->targets[i].users--;
    }
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

/* -- one connection -- */

static int check_session(const char *session, struct err *err)
{
    size_t n = session ? strspn(session, "0123456789abcdef") : 0;

    if (n != SESSION_LEN || session[n])
        return err_set(err, -EPROTO, "HELLO names no session of %u hex digits", SESSION_LEN);
    return 0;
}

static void answer_failed(struct conn *c, const struct err *why)
{
    json_t *j = json_pack("{s:i, s:s, s:s}", "errno", -why->code, "text", why->text, "guest", "destroyed");
    CLEANUP_FREE char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    struct iovec part = {.iov_base = text, .iov_len = text ? strlen(text) : 0};

    json_decref(j);
    if (text)
        (void)conn_send(c, WIRE_FAILED, &part, 1, NULL);
}

/* Takes the connection over. */
static void serve_control(struct server *s, struct conn *c, const char *session, bool check_only)
{
    struct target *t = NULL;
    struct err err = {0};
    char peer[128];
    int r;

    (void)snprintf(peer, sizeof(peer), "%s", conn_peer(c));
    r = control_answer_hello(c, &err);
    if (r < 0) {
        conn_destroy(c);
        return;
    }
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
    r = enroll(s, t, &err);
    if (r == 0) {
        emit(s, "incoming", "", peer, NULL);
        r = target_run(t, &err);
        withdraw(s, t);
    }
    emit(s, r == 0 ? "arrived" : "failed", target_guest(t), peer, r == 0 ? NULL : err.text);
    target_destroy(t);
    pthread_mutex_lock(&s->lock);
    s->ended_once = true;
    s->result = r;
    s->error = err;
    pthread_mutex_unlock(&s->lock);
    loop_wake(s->loop);
}

static void serve_data(struct server *s, struct conn *c, const char *session)
{
    struct target *t;
    struct err err = {0};
    int r = find(s, session, conn_peer_fingerprint(c), &t, &err);

    if (r == 0) {
        (void)target_data(t, c, &err);
        conn_destroy(c);
        put_back(s, t);
        return;
    }
    answer_failed(c, &err);
    conn_destroy(c);
}

/* Takes the connection over. */
static void serve_peer(struct server *s, struct conn *c)
{
    struct record record;
    struct err err = {0};
    json_t *hello = NULL;
    const char *role = "";
    const char *session = NULL;
    int r = conn_recv(c, &record, &err);

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
    if (r < 0) {
        log_warn(AREA, "%s: %s", conn_peer(c), err.text);
        answer_failed(c, &err);
        conn_destroy(c);
    } else if (role && strcmp(role, "data") == 0) {
        serve_data(s, c, session);
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

    if (conn_accept(&c, s->config->identity, k->fd, HANDSHAKE_TIMEOUT, &err) == 0)
        serve_peer(s, c);
    else
        log_info(AREA, "%s", err.text);
    free(k);
    pthread_mutex_lock(&s->lock);
    s->connections--;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* False: nobody waits. */
static bool accept_one(struct server *s)
{
    struct connection *k;
    pthread_t thread;
    bool full;
    int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return false;
    pthread_mutex_lock(&s->lock);
    full = s->connections >= CONNECTIONS_MAX;
    s->connections += !full;
    pthread_mutex_unlock(&s->lock);
    k = full ? NULL : calloc(1, sizeof(*k));
    if (k) {
        k->s = s;
        k->fd = fd;
        if (pthread_create(&thread, NULL, connection_thread, k) == 0) {
            (void)pthread_detach(thread);
            return true;
        }
        free(k);
    }
    (void)close(fd);
    if (!full) {
        pthread_mutex_lock(&s->lock);
        s->connections--;
        pthread_mutex_unlock(&s->lock);
    }
    return true;
}

/* -- what an earlier receiver left -- */

static void clean_up(const struct journal_entry *e, void *data)
{
    struct server *s = data;
    struct err err;
    bool all = true;

    if (e->go) {
        log_warn(AREA, "guest %s arrived just before the receiver ended: it and its volumes are kept", e->guest);
        (void)journal_remove(s->config->state_dir, e->session, NULL);
        return;
    }
    if (hv_target_destroy_left(e->kind, e->guest, &err) < 0) {
        log_error(AREA, "%s", err.text);
        return;
    }
    for (unsigned int i = 0; i < e->volume_count; i++) {
        if (volume_remove(&e->volumes[i], e->session, &err) == 0)
            continue;
        log_error(AREA, "%s", err.text);
        all = false;
    }
    if (all)
        (void)journal_remove(s->config->state_dir, e->session, NULL);
    emit(s, "cleaned", e->guest, "", NULL);
}

/* -- life -- */

static int server_init(struct server *s, const struct server_config *config, struct err *err)
{
    int r;

    memset(s, 0, sizeof(*s));
    s->config = config;
    s->listener = -1;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->changed, NULL);
    r = loop_create(&s->loop, err);
    if (r == 0)
        r = loop_watch_signal(s->loop, SIGINT, err);
    if (r == 0)
        r = loop_watch_signal(s->loop, SIGTERM, err);
    if (r == 0)
        r = conn_listen(config->listen, &s->listener, err);
    if (r == 0)
        r = journal_each(config->state_dir, clean_up, s, err);
    if (r == 0 && fcntl(s->listener, F_SETFL, O_NONBLOCK) < 0)
        r = err_errno(err, -errno, "the listening socket");
    if (r == 0)
        r = loop_watch(s->loop, s->listener, err);
    return r;
}

static void server_finish(struct server *s)
{
    if (s->listener >= 0)
        (void)close(s->listener);
    pthread_mutex_lock(&s->lock);
    s->stopping = true;
    for (unsigned int i = 0; i < TARGETS_MAX; i++) {
        if (s->targets[i].t)
            target_cancel(s->targets[i].t);
    }
    while (s->connections)
        pthread_cond_wait(&s->changed, &s->lock);
    pthread_mutex_unlock(&s->lock);
    loop_destroy(s->loop);
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
        loop_turn(s.loop, NS_PER_SEC);
        while (accept_one(&s))
            ;
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
