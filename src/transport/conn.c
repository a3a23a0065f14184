/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Records over TLS: sent whole, received in whatever pieces they come. */
#include "transport/conn.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"
#include "transport/conn-internal.h"
#include "transport/conn-socket.h"
#include "transport/conn-tls.h"

#include <assert.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TIMEOUT_DEFAULT (30 * NS_PER_SEC)
#define BODY_ALIGN      4096u

/* One direction. Its first failure is its last word. The other may go on: when a send fails, the
 * reason that the peer gave before it closed can still be received. */
struct direction {
    uint64_t sequence;      /* of the next record */
    _Atomic uint64_t bytes; /* so far; any thread may ask */
    struct err failure;     /* code 0: none */
};

struct conn {
    struct tls *tls;
    uint64_t timeout;
    atomic_bool shut; /* conn_shutdown was called */
    bool ended;       /* the peer has closed between records */
    struct direction out, in;
    uint8_t stage[TLS_RECORD_MAX]; /* headers and small parts, until they fill a TLS record */
    size_t staged;
    uint8_t head[WIRE_HEADER_SIZE]; /* the record that comes in */
    struct wire_header header;
    uint32_t have; /* octets of it, header included */
    uint32_t max_body;
    uint8_t *body;
    size_t body_size;
    int capture_fd;
};

static int make(struct conn **ret, struct tls *tls, struct err *err)
{
    struct conn *c = calloc(1, sizeof(*c));

    if (!c) {
        tls_destroy(tls);
        return err_set(err, -ENOMEM, "no memory for a connection");
    }
    c->tls = tls;
    c->timeout = TIMEOUT_DEFAULT;
    c->max_body = WIRE_CONTROL_MAX;
    c->capture_fd = -1;
    *ret = c;
    return 0;
}

int conn_connect(struct conn **ret, const struct identity *id, const char *address,
                 uint64_t timeout_ns, struct err *err)
{
    struct tls *tls;
    int r = tls_connect(&tls, id, address, timeout_ns, err);

    return r < 0 ? r : make(ret, tls, err);
}

int conn_accept(struct conn **ret, const struct identity *id, int fd, uint64_t timeout_ns,
                struct err *err)
{
    struct tls *tls;
    int r = tls_accept(&tls, id, fd, timeout_ns, err);

    return r < 0 ? r : make(ret, tls, err);
}

void conn_destroy(struct conn *c)
{
    if (!c)
        return;
    tls_destroy(c->tls);
    if (c->capture_fd >= 0)
        (void)close(c->capture_fd);
    free(c->body);
    free(c);
}

void conn_shutdown(struct conn *c)
{
    atomic_store(&c->shut, true);
    (void)shutdown(tls_fd(c->tls), SHUT_RDWR);
}

const char *conn_peer(const struct conn *c)
{
    return tls_peer(c->tls);
}

const char *conn_peer_fingerprint(const struct conn *c)
{
    return tls_peer_fingerprint(c->tls);
}

int conn_fd(const struct conn *c)
{
    return tls_fd(c->tls);
}

uint64_t conn_round_trip_ns(const struct conn *c)
{
    struct tcp_info info = {0};
    socklen_t len = sizeof(info);

    (void)getsockopt(conn_fd(c), IPPROTO_TCP, TCP_INFO, &info, &len);
    return info.tcpi_min_rtt * NS_PER_US;
}

bool conn_pending(const struct conn *c)
{
    return tls_pending(c->tls);
}

uint64_t conn_bytes_sent(const struct conn *c)
{
    return atomic_load_explicit(&c->out.bytes, memory_order_relaxed);
}

uint64_t conn_bytes_received(const struct conn *c)
{
    return atomic_load_explicit(&c->in.bytes, memory_order_relaxed);
}

bool conn_error_is_drop(int code)
{
    switch (-code) {
    case ECONNRESET:
    case ECONNABORTED:
    case ECONNREFUSED:
    case ENOTCONN:
    case EPIPE:
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
        return true;
    default:
        return false;
    }
}

void conn_set_max_body(struct conn *c, uint32_t max)
{
    c->max_body = max;
}

void conn_set_timeout(struct conn *c, uint64_t ns)
{
    c->timeout = ns;
}

bool conn_ended(const struct conn *c)
{
    return c->ended && !atomic_load(&c->shut);
}

static int fail(struct conn *c, struct direction *d, int r, struct err *err)
{
    assert(r < 0 && r != -EAGAIN && !d->failure.code);
    if (atomic_load(&c->shut))
        r = err_set(err, -ECONNRESET, "the connection to %s was shut down", conn_peer(c));
    d->failure = *err;
    d->failure.code = r;
    return r;
}

static int failed_before(const struct direction *d, struct err *err)
{
    return err_set(err, d->failure.code, "%s", d->failure.text);
}

/* Diagnostics must not stop a migration: when the file cannot be written, capturing ends. */
static void capture(struct conn *c, char direction, const uint8_t *head, const struct iovec *parts,
                    unsigned int n)
{
    int r;

    if (c->capture_fd < 0)
        return;
    r = fd_write_full(c->capture_fd, &direction, 1);
    if (r == 0)
        r = fd_write_full(c->capture_fd, head, WIRE_HEADER_SIZE);
    for (unsigned int i = 0; r == 0 && i < n; i++)
        r = fd_write_full(c->capture_fd, parts[i].iov_base, parts[i].iov_len);
    if (r == 0)
        return;
    log_warn("transport.capture", "the capture of %s ends here: %s", conn_peer(c),
             strerrordesc_np(-r));
    (void)close(c->capture_fd);
    c->capture_fd = -1;
}

int conn_capture(struct conn *c, const char *path, struct err *err)
{
    /* Guests' memory and disks in clear. */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0)
        return err_errno(err, -errno, "cannot capture to %s", path);
    if (c->capture_fd >= 0)
        (void)close(c->capture_fd);
    c->capture_fd = fd;
    return 0;
}

/* Waits for what the last -EAGAIN wants. */
static int wait_writable(struct conn *c, uint64_t deadline, struct err *err)
{
    int r = socket_wait(conn_fd(c), tls_events(c->tls), deadline);

    if (r == -ETIMEDOUT)
        return err_set(err, r, "%s has taken nothing for %llu s", conn_peer(c),
                       (unsigned long long)(c->timeout / NS_PER_SEC));
    return r < 0 ? err_errno(err, r, "cannot wait for %s", conn_peer(c)) : 0;
}

static int write_all(struct conn *c, const uint8_t *data, size_t len, struct err *err)
{
    uint64_t deadline = 0;

    while (len) {
        size_t n;
        int r = tls_write(c->tls, data, len, &n, err);

        if (r == 0) {
            data += n;
            len -= n;
            deadline = 0;
            continue;
        }
        /* The clock is asked only when there is something to wait for. */
        if (deadline == 0)
            deadline = socket_deadline(c->timeout);
        if (r == -EAGAIN)
            r = wait_writable(c, deadline, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int write_stage(struct conn *c, struct err *err)
{
    size_t n = c->staged;

    c->staged = 0;
    return write_all(c, c->stage, n, err);
}

/* Only what would not fill a TLS record of its own is copied; the bulk of a payload is encrypted
 * from where it lies. */
static int write_part(struct conn *c, const uint8_t *data, size_t len, struct err *err)
{
    while (len) {
        size_t n;
        int r = 0;

        if (c->staged == 0 && len >= TLS_RECORD_MAX) {
            n = len - len % TLS_RECORD_MAX;
            r = write_all(c, data, n, err);
        } else {
            n = MIN(len, sizeof(c->stage) - c->staged);
            memcpy(c->stage + c->staged, data, n);
            c->staged += n;
            if (c->staged == sizeof(c->stage))
                r = write_stage(c, err);
        }
        if (r < 0)
            return r;
        data += n;
        len -= n;
    }
    return 0;
}

static int flush(struct conn *c, struct err *err)
{
    uint64_t deadline = 0;
    int r;

    while ((r = tls_flush(c->tls, err)) == -EAGAIN) {
        if (deadline == 0)
            deadline = socket_deadline(c->timeout);
        r = wait_writable(c, deadline, err);
        if (r < 0)
            return r;
    }
    return r;
}

static int put_record(struct conn *c, const uint8_t *head, const struct iovec *parts,
                       unsigned int n, struct err *err)
{
    int r = write_part(c, head, WIRE_HEADER_SIZE, err);

    for (unsigned int i = 0; r == 0 && i < n; i++)
        r = write_part(c, parts[i].iov_base, parts[i].iov_len, err);
    return r;
}

static int out_failed(struct conn *c, int r, struct err *err)
{
    if (r == -ENODATA)
        r = err_set(err, -EPIPE, "%s has closed the connection", conn_peer(c));
    return fail(c, &c->out, r, err);
}

int conn_put(struct conn *c, enum wire_type type, const struct iovec *parts, unsigned int n,
              struct err *err)
{
    uint8_t head[WIRE_HEADER_SIZE];
    struct err own = {0};
    size_t length = 0;
    int r;

    err = err ? err : &own;
    if (c->out.failure.code)
        return failed_before(&c->out, err);
    for (unsigned int i = 0; i < n; i++)
        length += parts[i].iov_len;
    assert(length <= WIRE_DATA_MAX);
    wire_put_header(head, &(struct wire_header){.type = (uint16_t)type,
                                                .length = (uint32_t)length,
                                                .sequence = c->out.sequence});
    r = put_record(c, head, parts, n, err);
    if (r < 0)
        return out_failed(c, r, err);
    c->out.sequence++;
    atomic_fetch_add_explicit(&c->out.bytes, WIRE_HEADER_SIZE + length, memory_order_relaxed);
    capture(c, 'S', head, parts, n);
    return 0;
}

bool conn_has_unsent(const struct conn *c)
{
    return c->staged > 0 || tls_has_unsent(c->tls);
}

int conn_flush(struct conn *c, struct err *err)
{
    struct err own = {0};
    int r;

    err = err ? err : &own;
    if (c->out.failure.code)
        return failed_before(&c->out, err);
    r = write_stage(c, err);
    if (r == 0)
        r = flush(c, err);
    return r < 0 ? out_failed(c, r, err) : 0;
}

int conn_send(struct conn *c, enum wire_type type, const struct iovec *parts, unsigned int n, struct err *err)
{
    int r = conn_put(c, type, parts, n, err);

    return r < 0 ? r : conn_flush(c, err);
}

/* Memory is taken only now, for a length that was checked. What the body held is not needed any
 * more. */
static int make_room(struct conn *c, struct err *err)
{
    size_t size = (size_t)DIV_ROUND_UP(c->header.length, BODY_ALIGN) * BODY_ALIGN;

    if (size <= c->body_size)
        return 0;
    free(c->body);
    c->body_size = 0;
    c->body = aligned_alloc(BODY_ALIGN, size);
    if (!c->body)
        return err_set(err, -ENOMEM, "no memory for a record of %u octets", c->header.length);
    c->body_size = size;
    return 0;
}

static int head_done(struct conn *c, struct err *err)
{
    int r = wire_get_header(c->head, c->in.sequence, c->max_body, &c->header, err);

    if (r < 0)
        return err_prefix(err, r, "from %s", conn_peer(c));
    return make_room(c, err);
}

/* Reads once, into the header or straight into the body. */
static int read_some(struct conn *c, struct err *err)
{
    bool in_head = c->have < WIRE_HEADER_SIZE;
    uint8_t *to = in_head ? c->head + c->have : c->body + (c->have - WIRE_HEADER_SIZE);
    size_t len =
        in_head ? WIRE_HEADER_SIZE - c->have : c->header.length - (c->have - WIRE_HEADER_SIZE);
    size_t n;
    int r = tls_read(c->tls, to, len, &n, err);

    if (r < 0)
        return r;
    c->have += (uint32_t)n;
    return in_head && c->have == WIRE_HEADER_SIZE ? head_done(c, err) : 0;
}

static bool is_whole(const struct conn *c)
{
    return c->have >= WIRE_HEADER_SIZE && c->have - WIRE_HEADER_SIZE == c->header.length;
}

static void record_done(struct conn *c, struct record *ret)
{
    const struct iovec body = {.iov_base = c->body, .iov_len = c->header.length};

    ret->type = (enum wire_type)c->header.type;
    ret->length = c->header.length;
    ret->body = c->body;
    atomic_fetch_add_explicit(&c->in.bytes, c->have, memory_order_relaxed);
    c->in.sequence++;
    c->have = 0;
    capture(c, 'R', c->head, &body, body.iov_len ? 1 : 0);
}

static int recv_failed(struct conn *c, int r, struct err *err)
{
    if (r == -ENODATA || r == -ECONNRESET || r == -EPIPE) {
        c->ended = r == -ENODATA && c->have == 0;
        r = err_set(err, -ECONNRESET,
                    c->have ? "%s has closed the connection in the middle of a record"
                            : "%s has closed the connection",
                    conn_peer(c));
    }
    return fail(c, &c->in, r, err);
}

int conn_try_recv(struct conn *c, struct record *ret, struct err *err)
{
    struct err own = {0};
    int r = 0;

    err = err ? err : &own;
    if (c->in.failure.code)
        return failed_before(&c->in, err);
    while (r == 0 && !is_whole(c))
        r = read_some(c, err);
    if (r == -EAGAIN)
        return r;
    if (r < 0)
        return recv_failed(c, r, err);
    record_done(c, ret);
    return 0;
}

/* An octet of progress begins the time anew. */
static int wait_more(struct conn *c, uint64_t timeout, struct err *err)
{
    int r = socket_wait(conn_fd(c), tls_events(c->tls), socket_deadline(timeout));

    if (r == -ETIMEDOUT)
        return err_set(err, r, "nothing came from %s for %llu s", conn_peer(c),
                       (unsigned long long)(timeout / NS_PER_SEC));
    return r < 0 ? err_errno(err, r, "cannot wait for %s", conn_peer(c)) : 0;
}

int conn_wait(struct conn *c, struct err *err)
{
    return wait_more(c, c->have ? c->timeout : UINT64_MAX, err);
}

int conn_recv(struct conn *c, struct record *ret, struct err *err)
{
    int r;

    while ((r = conn_try_recv(c, ret, err)) == -EAGAIN) {
        r = wait_more(c, c->timeout, err);
        if (r < 0)
            return r;
    }
    return r;
}
