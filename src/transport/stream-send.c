/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The sender's end: one worker thread a connection. A worker's turn: take in the acknowledgements
 * that are there; ask the sources for one record; send it; when there is nothing, or the window is
 * full, flush and wait.
 *
 * What a worker has sent and not heard of is in its ring, oldest first. A record enters the ring
 * before it is sent and leaves it through done(), once: by its acknowledgement; when its connection
 * is settled; when the stream is destroyed. */
#include "transport/stream.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/ratelimit.h"
#include "transport/conn-internal.h"

#include <assert.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define WORKERS_MAX    64 /* docs/protocol.md */
#define SOURCES_MAX    1024
#define WINDOW_RECORDS 32
#define WINDOW_BYTES   MIB(4)
#define ANSWER_TIMEOUT (60 * NS_PER_SEC)
#define BUFFER_ALIGN   4096u
#define BUFFER_SIZE    (DIV_ROUND_UP(WIRE_DATA_MAX, BUFFER_ALIGN) * BUFFER_ALIGN)
#define ACK_SIZE       8u
#define ANSWER_MAX     MAX(ACK_SIZE, WIRE_NEED_SIZE)
#define GREETING_MAX   4096u
#define FOR_EVER       UINT64_MAX

struct source {
    const struct stream_source_ops *ops;
    void *data;
};

struct sent {
    struct stream_work work; /* its buffers are the worker's and hold something else by now */
    const struct source *source;
};

struct worker {
    struct stream *stream;
    struct conn *conn;
    pthread_t thread;
    int event_fd;        /* readable: look again */
    atomic_bool waiting; /* the worker wants to be told by event_fd */
    uint8_t *buffer, *scratch;
    struct compress_choice choice;
    struct sent *ring; /* window_records of them */
    uint64_t sent,
        acked; /* records; the ring holds acked to sent - 1, each at its number modulo the size */
    uint64_t bytes;    /* in flight */
    uint64_t heard_ns; /* the last answer, or the first record since all were answered */
    bool greeting_due; /* its HELLO is not answered yet, which nothing waits for */
    bool unsent;    /* the newest in the ring never went out */
    bool settled;
    unsigned int next_source;
};

struct stream {
    struct stream_config config;
    pthread_mutex_t lock; /* adding workers and sources, the first failure */
    atomic_bool stopping; /* destroyed or failed: workers leave */
    bool failed;
    struct err failure; /* of a failed one: the first error */
    bool halted; /* no thread is left */
    _Atomic uint64_t kicks;
    pthread_mutex_t rate_lock;
    struct ratelimit rate;
    atomic_bool rate_limited;
    /* Both only grow, and an entry is complete before its count says that it exists: readers take
     * no lock. */
    struct worker *workers[WORKERS_MAX];
    _Atomic unsigned int worker_count;
    struct source sources[SOURCES_MAX];
    _Atomic unsigned int source_count;
};

int stream_create(struct stream **ret, const struct stream_config *config, struct err *err)
{
    struct stream *s = calloc(1, sizeof(*s));

    if (!s)
        return err_set(err, -ENOMEM, "no memory for a stream");
    s->config = *config;
    if (!s->config.window_records)
        s->config.window_records = WINDOW_RECORDS;
    if (!s->config.window_bytes)
        s->config.window_bytes = WINDOW_BYTES;
    if (!s->config.answer_timeout_ns)
        s->config.answer_timeout_ns = ANSWER_TIMEOUT;
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_mutex_init(&s->rate_lock, NULL);
    *ret = s;
    return 0;
}

int stream_attach(struct stream *s, const struct stream_source_ops *ops, void *source,
                  struct err *err)
{
    unsigned int n;
    int r = 0;

    (void)pthread_mutex_lock(&s->lock);
    n = atomic_load(&s->source_count);
    if (n < SOURCES_MAX) {
        s->sources[n] = (struct source){.ops = ops, .data = source};
        atomic_store(&s->source_count, n + 1);
    } else {
        r = err_set(err, -ENOSPC, "a stream has at most %d sources", SOURCES_MAX);
    }
    (void)pthread_mutex_unlock(&s->lock);
    stream_kick(s);
    return r;
}

/* The count goes up first: a worker that does not say yet that it waits will see it before it does.
 */
void stream_kick(struct stream *s)
{
    unsigned int n;

    atomic_fetch_add(&s->kicks, 1);
    n = atomic_load(&s->worker_count);
    for (unsigned int i = 0; i < n; i++) {
        struct worker *w = s->workers[i];

        /* A full counter (EAGAIN) wakes as well. */
        if (atomic_load(&w->waiting) && atomic_exchange(&w->waiting, false))
            (void)!write(w->event_fd, &(uint64_t){1}, sizeof(uint64_t));
    }
}

uint64_t stream_bytes_sent(const struct stream *s)
{
    unsigned int n = atomic_load(&s->worker_count);
    uint64_t sum = 0;

    for (unsigned int i = 0; i < n; i++)
        sum += conn_bytes_sent(s->workers[i]->conn);
    return sum;
}

/* Ends the stream; whoever waits for a peer or a kick wakes. */
static void stop_all(struct stream *s)
{
    unsigned int n = atomic_load(&s->worker_count);

    atomic_store(&s->stopping, true);
    stream_kick(s);
    for (unsigned int i = 0; i < n; i++)
        conn_shutdown(s->workers[i]->conn);
}

/* Only the first error is told, and none that comes of stopping. */
static void stream_fail(struct stream *s, const struct err *err)
{
    bool first;

    (void)pthread_mutex_lock(&s->lock);
    first = !s->failed && !atomic_load(&s->stopping);
    if (first) {
        s->failed = true;
        s->failure = *err;
    }
    (void)pthread_mutex_unlock(&s->lock);
    if (!first)
        return;
    if (s->config.failed)
        s->config.failed(s->config.data, err);
    stop_all(s);
}

static struct sent *ring_at(struct worker *w, uint64_t number)
{
    return &w->ring[number % w->stream->config.window_records];
}

static uint64_t in_flight(const struct worker *w)
{
    return w->sent - w->acked;
}

static uint32_t record_length(const struct stream_work *work)
{
    return work->length + work->payload_length;
}

/* The oldest record in flight is done with. */
static void finish_one(struct worker *w, int error)
{
    struct sent *sent = ring_at(w, w->acked);

    assert(in_flight(w) > 0 && w->bytes >= record_length(&sent->work));
    w->acked++;
    w->bytes -= record_length(&sent->work);
    sent->source->ops->done(sent->source->data, &sent->work, error);
}

static int take_need(struct worker *w, const struct record *record, struct err *err)
{
    struct wire_need need;
    const struct sent *sent;
    int r = wire_get_need(record->body, record->length, &need, err);

    if (r < 0)
        return err_prefix(err, r, "from %s", conn_peer(w->conn));
    sent = ring_at(w, need.record);
    if (need.record < w->acked || need.record >= w->sent || !sent->work.asks || !sent->source->ops->need)
        return err_set(err, -EPROTO, "%s needs blocks of record %llu, which does not ask for that", conn_peer(w->conn),
                       (unsigned long long)need.record);
    r = sent->source->ops->need(sent->source->data, &sent->work, &need, err);
    return r < 0 ? err_prefix(err, r, "from %s", conn_peer(w->conn)) : 0;
}

static int take_greeting(struct worker *w, const struct record *record, struct err *err)
{
    w->greeting_due = false;
    conn_set_max_body(w->conn, ANSWER_MAX);
    return w->stream->config.greeted(w->stream->config.data, w->conn, record, err);
}

static int take_answer(struct worker *w, const struct record *record, struct err *err)
{
    uint64_t bytes = w->bytes;
    uint64_t count;

    if (w->greeting_due)
        return take_greeting(w, record, err);
    if (record->type == WIRE_NEED)
        return take_need(w, record, err);
    if (record->type != WIRE_ACK || record->length != ACK_SIZE)
        return err_set(err, -EPROTO, "%s answered with %s of %u octets instead of ACK",
                       conn_peer(w->conn), wire_type_name(record->type), record->length);
    count = get_be64(record->body);
    if (count < w->acked || count > w->sent)
        return err_set(err, -EPROTO,
                       "%s acknowledged %llu records; %llu were before, %llu are sent",
                       conn_peer(w->conn), (unsigned long long)count, (unsigned long long)w->acked,
                       (unsigned long long)w->sent);
    while (w->acked < count)
        finish_one(w, 0);
    compress_choice_acked(&w->choice, bytes - w->bytes, !in_flight(w), w->heard_ns);
    return 0;
}

/* All answers that have arrived. */
static int take_answers(struct worker *w, struct err *err)
{
    struct record record;
    int r;

    while ((r = conn_try_recv(w->conn, &record, err)) == 0) {
        w->heard_ns = clock_now();
        r = take_answer(w, &record, err);
        if (r < 0)
            return r;
    }
    return r == -EAGAIN ? 0 : r;
}

/* A connection can be dead in silence: forgotten by a firewall, or in the middle of a TLS record whose length was damaged.
 * Returns the time that its peer has left to answer. */
static uint64_t patience(const struct worker *w)
{
    uint64_t end = w->heard_ns + w->stream->config.answer_timeout_ns;
    uint64_t now = clock_now();

    if (!in_flight(w))
        return FOR_EVER;
    return end > now ? end - now : 0;
}

/* The peer's time to answer begins when it has all that it is to answer: what it waited for because a disk was slow is not its fault. */
static int flush(struct worker *w, struct err *err)
{
    bool unsent = conn_has_unsent(w->conn);
    int r = conn_flush(w->conn, err);

    if (r == 0 && unsent)
        w->heard_ns = clock_now();
    return r;
}

/* Waits for the peer, for a kick after number `seen`, or at most `timeout_ns`. All answers that came were taken. */
static int wait_for_news(struct worker *w, uint64_t seen, uint64_t timeout_ns, struct err *err)
{
    struct pollfd p[2] = {{.fd = conn_fd(w->conn), .events = POLLIN},
                          {.fd = w->event_fd, .events = POLLIN}};
    bool kicked = true;
    struct timespec timeout;
    uint64_t left, ns, ignored;
    int n = flush(w, err);

    if (n < 0)
        return n;
    left = patience(w);
    ns = MIN(timeout_ns, left);
    timeout = clock_timespec(ns);
    atomic_store(&w->waiting, true);
    if (atomic_load(&w->stream->kicks) == seen && !atomic_load(&w->stream->stopping)) {
        kicked = false;
        n = ppoll(p, 2, ns == FOR_EVER ? NULL : &timeout, NULL);
    }
    atomic_store(&w->waiting, false);
    if (n < 0 && errno != EINTR)
        return err_errno(err, -errno, "cannot wait for %s", conn_peer(w->conn));
    if (n > 0 && p[1].revents)
        (void)!read(w->event_fd, &ignored, sizeof(ignored));
    if (left == 0 && n == 0 && !kicked)
        return err_set(err, -ETIMEDOUT, "%s has acknowledged nothing for %llu s, and %llu records wait for it", conn_peer(w->conn),
                       (unsigned long long)(w->stream->config.answer_timeout_ns / NS_PER_SEC),
                       (unsigned long long)in_flight(w));
    return 0;
}

/* Asks the sources in turn, so that all get on at once. 0 with the record in `ret`, -EAGAIN when nobody has any. */
static int ask_sources(struct worker *w, struct sent *ret, struct err *err)
{
    struct stream *s = w->stream;
    unsigned int n = atomic_load(&s->source_count);

    for (unsigned int i = 0; i < n; i++) {
        const struct source *source = &s->sources[w->next_source++ % n];
        int r;

        *ret =
            (struct sent){.work = {.buffer = w->buffer, .scratch = w->scratch, .choice = &w->choice}, .source = source};
        r = source->ops->take(source->data, &ret->work, err);
        if (r == -EAGAIN)
            continue;
        if (r < 0) /* a disk that fails like a connection is none */
            return err_prefix(err, conn_error_is_drop(r) ? -EIO : r, "%s", source->ops->name);
        assert(ret->work.length > 0 && record_length(&ret->work) <= WIRE_DATA_MAX);
        return 0;
    }
    return -EAGAIN;
}

static bool has_room(const struct worker *w, uint32_t length)
{
    return !in_flight(w) || w->bytes + length <= w->stream->config.window_bytes;
}

/* 0: so many octets may go now. Else the time to wait, by the rate as it is. */
static uint64_t ask_rate(struct stream *s, uint32_t length)
{
    uint64_t ns;

    if (!atomic_load_explicit(&s->rate_limited, memory_order_relaxed))
        return 0;
    (void)pthread_mutex_lock(&s->rate_lock);
    ns = ratelimit_take(&s->rate, WIRE_HEADER_SIZE + length, clock_now());
    (void)pthread_mutex_unlock(&s->rate_lock);
    return ns;
}

void stream_set_rate(struct stream *s, uint64_t bytes_per_second)
{
    (void)pthread_mutex_lock(&s->rate_lock);
    ratelimit_set(&s->rate, bytes_per_second, clock_now());
    atomic_store(&s->rate_limited, bytes_per_second != 0);
    (void)pthread_mutex_unlock(&s->rate_lock);
    stream_kick(s);
}

/* How large a record is shows only when it is made, so it may have to wait here, for room and for
 * the rate. One record is always allowed, whatever the window. */
static int wait_to_send(struct worker *w, uint32_t length, struct err *err)
{
    for (;;) {
        uint64_t seen = atomic_load(&w->stream->kicks);
        uint64_t ns = FOR_EVER;
        int r;

        if (atomic_load(&w->stream->stopping))
            return err_set(err, -ECANCELED, "the stream is being closed");
        if (has_room(w, length))
            ns = ask_rate(w->stream, length);
        if (ns == 0)
            return 0;
        r = take_answers(w, err);
        if (r == 0 && (ns != FOR_EVER || !has_room(w, length)))
            r = wait_for_news(w, seen, ns, err);
        if (r < 0)
            return r;
    }
}

static int send_one(struct worker *w, struct sent *next, struct err *err)
{
    const struct iovec parts[] = {
        {.iov_base = w->buffer, .iov_len = next->work.length},
        {.iov_base = (void *)(uintptr_t)next->work.payload, .iov_len = next->work.payload_length},
    };
    int r = wait_to_send(w, record_length(&next->work), err);

    /* From here on the ring answers for it. turn() has seen that there is a place. */
    assert(in_flight(w) < w->stream->config.window_records);
    next->work.buffer = next->work.scratch = NULL;
    next->work.payload = NULL;
    *ring_at(w, w->sent) = *next;
    if (!in_flight(w)) {
        w->heard_ns = clock_now();
        compress_choice_busy(&w->choice, w->heard_ns);
    }
    w->sent++;
    w->bytes += record_length(&next->work);
    w->unsent = r < 0;
    return r < 0 ? r : conn_put(w->conn, next->work.type, parts, next->work.payload_length ? 2 : 1, err);
}

/* What the sources take for themselves is not the wire's. */
static int ask_timed(struct worker *w, struct sent *ret, struct err *err)
{
    uint64_t compressing = w->choice.compress_ns;
    uint64_t begin = clock_now();
    int r = ask_sources(w, ret, err);

    compress_choice_away(&w->choice, clock_now() - begin, w->choice.compress_ns - compressing);
    return r;
}

static int turn(struct worker *w, struct err *err)
{
    uint64_t seen = atomic_load(&w->stream->kicks);
    struct sent next;
    int r = take_answers(w, err);

    if (r < 0)
        return r;
    if (w->sent % STREAM_YIELD_RECORDS == 0)
        (void)sched_yield();
    r = in_flight(w) < w->stream->config.window_records ? ask_timed(w, &next, err) : -EAGAIN;
    if (r == -EAGAIN)
        return wait_for_news(w, seen, FOR_EVER, err);
    return r < 0 ? r : send_one(w, &next, err);
}

static void *worker_main(void *data)
{
    struct worker *w = data;
    struct err err = {0};
    int r = 0;

    while (r == 0 && !atomic_load(&w->stream->stopping))
        r = turn(w, &err);
    /* What breaks when the stream is being stopped is no failure of its own. */
    if (r == 0 || atomic_load(&w->stream->stopping))
        r = -ECANCELED;
    err.code = r;
    stream_fail(w->stream, &err);
    return NULL;
}

static void worker_free(struct worker *w)
{
    if (!w)
        return;
    if (w->event_fd >= 0)
        (void)close(w->event_fd);
    free(w->buffer);
    free(w->scratch);
    free(w->ring);
    free(w);
}

static struct worker *worker_new(struct stream *s, struct conn *c)
{
    struct worker *w = calloc(1, sizeof(*w));

    if (!w)
        return NULL;
    w->stream = s;
    w->conn = c;
    w->greeting_due = s->config.greeted != NULL;
    compress_choice_init(&w->choice, s->config.compress);
    w->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    w->buffer = aligned_alloc(BUFFER_ALIGN, BUFFER_SIZE);
    w->scratch = aligned_alloc(BUFFER_ALIGN, BUFFER_SIZE);
    w->ring = calloc(s->config.window_records, sizeof(*w->ring));
    if (w->event_fd >= 0 && w->buffer && w->scratch && w->ring)
        return w;
    worker_free(w);
    return NULL;
}

/* Under the lock: a thread that fails at once must find itself in the table. */
static int start_worker(struct stream *s, struct worker *w, struct err *err)
{
    unsigned int n = atomic_load(&s->worker_count);
    int r;

    if (n == WORKERS_MAX)
        return err_set(err, -ENOSPC, "a stream has at most %d connections", WORKERS_MAX);
    if (s->failed)
        return err_set(err, s->failure.code, "%s", s->failure.text);
    if (atomic_load(&s->stopping))
        return err_set(err, -ECANCELED, "the stream was halted");
    r = pthread_create(&w->thread, NULL, worker_main, w);
    if (r != 0)
        return err_errno(err, -r, "cannot start a thread for %s", conn_peer(w->conn));
    s->workers[n] = w;
    atomic_store(&s->worker_count, n + 1);
    return 0;
}

int stream_add(struct stream *s, struct conn *c, struct err *err)
{
    struct worker *w = worker_new(s, c);
    int r;

    if (!w)
        return err_set(err, -ENOMEM, "no memory for a data connection");
    conn_set_max_body(c, s->config.greeted ? GREETING_MAX : ANSWER_MAX);
    (void)pthread_mutex_lock(&s->lock);
    r = start_worker(s, w, err);
    (void)pthread_mutex_unlock(&s->lock);
    if (r < 0)
        worker_free(w);
    else
        stream_kick(s); /* one that came before the table knew of it */
    return r;
}

void stream_halt(struct stream *s)
{
    unsigned int n;

    if (s->halted)
        return;
    stop_all(s);
    n = atomic_load(&s->worker_count);
    for (unsigned int i = 0; i < n; i++)
        (void)pthread_join(s->workers[i]->thread, NULL);
    s->halted = true;
}

int stream_settle(struct stream *s, unsigned int connection, uint64_t taken, struct err *err)
{
    struct worker *w = connection < atomic_load(&s->worker_count) ? s->workers[connection] : NULL;
    uint64_t sent;

    assert(s->halted && w && !w->settled);
    sent = w->sent - w->unsent;
    if (taken < w->acked || taken > sent)
        return err_set(err, -EPROTO,
                       "%s says that it took %llu records of data connection %u; it acknowledged %llu of the %llu that were sent",
                       conn_peer(w->conn), (unsigned long long)taken, connection, (unsigned long long)w->acked,
                       (unsigned long long)sent);
    w->settled = true;
    while (in_flight(w))
        finish_one(w, w->acked < taken && !ring_at(w, w->acked)->work.asks ? 0 : -ECONNRESET);
    return 0;
}

void stream_destroy(struct stream *s)
{
    unsigned int n;

    if (!s)
        return;
    stream_halt(s);
    n = atomic_load(&s->worker_count);
    for (unsigned int i = 0; i < n; i++) {
        while (in_flight(s->workers[i]))
            finish_one(s->workers[i], -ECANCELED);
    }
    for (unsigned int i = 0; i < n; i++) {
        conn_destroy(s->workers[i]->conn);
        worker_free(s->workers[i]);
    }
    (void)pthread_mutex_destroy(&s->rate_lock);
    (void)pthread_mutex_destroy(&s->lock);
    free(s);
}
