/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Octets through TLS. OpenSSL would make two reads and one write of every 16 KiB; the BIO here
 * stands between it and the socket with a buffer for either direction. */
#include "transport/conn-tls-internal.h"

#include "base/bytes.h"
#include "transport/identity-internal.h"

#include <assert.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

static BIO_METHOD *socket_method;
static pthread_once_t socket_method_once = PTHREAD_ONCE_INIT;

static bool would_block(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* Fills the empty input buffer. Returns as a BIO's read does: octets, 0 at the end, -1. */
static int fill(struct tls *t, BIO *bio)
{
    ssize_t n = recv(t->fd, t->in, sizeof(t->in), 0);

    assert(t->in_from == t->in_to);
    if (n > 0) {
        t->in_from = 0;
        t->in_to = (size_t)n;
        return (int)n;
    }
    if (n == 0)
        t->eof = true;
    else if (would_block(errno))
        BIO_set_retry_read(bio);
    else
        t->socket_errno = errno;
    return (int)n;
}

static int socket_read(BIO *bio, char *buf, int len)
{
    struct tls *t = BIO_get_data(bio);
    size_t n;

    BIO_clear_retry_flags(bio);
    if (t->in_from == t->in_to) {
        int r = fill(t, bio);

        if (r <= 0)
            return r;
    }
    n = MIN((size_t)len, t->in_to - t->in_from);
    memcpy(buf, t->in + t->in_from, n);
    t->in_from += n;
    return (int)n;
}

/* Sends what the output buffer holds. 1: all; -1: error, or retry when the flag is set. */
static int drain(struct tls *t, BIO *bio)
{
    while (t->out_from < t->out_to) {
        ssize_t n = send(t->fd, t->out + t->out_from, t->out_to - t->out_from, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && would_block(errno)) {
            BIO_set_retry_write(bio);
            return -1;
        }
        if (n < 0) {
            t->socket_errno = errno;
            return -1;
        }
        t->out_from += (size_t)n;
    }
    t->out_from = t->out_to = 0;
    return 1;
}

static int socket_write(BIO *bio, const char *buf, int len)
{
    struct tls *t = BIO_get_data(bio);
    size_t n;

    BIO_clear_retry_flags(bio);
    if (t->out_to == sizeof(t->out) && drain(t, bio) < 0)
        return -1;
    n = MIN((size_t)len, sizeof(t->out) - t->out_to);
    memcpy(t->out + t->out_to, buf, n);
    t->out_to += n;
    return (int)n;
}

static long socket_ctrl(BIO *bio, int command, long number, void *data)
{
    struct tls *t = BIO_get_data(bio);

    (void)number;
    (void)data;
    switch (command) {
    case BIO_CTRL_FLUSH:
        BIO_clear_retry_flags(bio);
        return drain(t, bio);
    case BIO_CTRL_EOF:
        return t->eof;
    case BIO_CTRL_WPENDING:
        return (long)(t->out_to - t->out_from);
    case BIO_CTRL_PENDING:
        return (long)(t->in_to - t->in_from);
    default:
        return 0;
    }
}

static void make_socket_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "xmotion socket");

    if (!m)
        return;
    BIO_meth_set_read(m, socket_read);
    BIO_meth_set_write(m, socket_write);
    BIO_meth_set_ctrl(m, socket_ctrl);
    socket_method = m;
}

int tls_attach_socket(struct tls *t)
{
    BIO *bio;

    (void)pthread_once(&socket_method_once, make_socket_method);
    bio = socket_method ? BIO_new(socket_method) : NULL;
    if (!bio)
        return -ENOMEM;
    BIO_set_data(bio, t);
    BIO_set_init(bio, 1);
    SSL_set_bio(t->ssl, bio, bio);
    return 0;
}

/* The alerts by which a peer says no to a certificate. */
static bool is_refusal(int reason)
{
    switch (reason) {
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
        return true;
    default:
        return false;
    }
}

static bool is_no_tls13(int reason)
{
    switch (reason) {
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION:
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_WRONG_SSL_VERSION:
        return true;
    default:
        return false;
    }
}

static int classify_protocol(const struct tls *t, struct err *err)
{
    unsigned long code = ERR_peek_error();
    int reason = ERR_GET_REASON(code);
    const char *text = ERR_reason_error_string(code);

    if (t->refusal.code)
        return err_set(err, t->refusal.code, "%s", t->refusal.text);
    if (is_refusal(reason) && t->role == TLS_SERVER)
        return err_set(
            err, -EACCES,
            "%s does not trust this host's certificate: run there `xmotion trust` with this "
            "host's address, it must show %s",
            t->peer, t->id->fingerprint);
    if (is_refusal(reason))
        return err_set(
            err, -EACCES,
            "%s does not accept this host's certificate: run there `xmotion authorize %s`", t->peer,
            t->id->fingerprint);
    /* Once both ends were proved, TLS fails only when octets are changed between them. */
    if (t->established)
        return err_set(err, -ECONNABORTED, "the connection to %s was damaged on its way (TLS: %s): check the network in between",
                       t->peer, text ? text : "no reason is known");
    if (is_no_tls13(reason))
        return err_set(err, -EPROTO, "%s does not speak TLS 1.3: is it xmotion?", t->peer);
    return err_set(err, -ECONNABORTED, "TLS with %s failed: %s", t->peer,
                   text ? text : "no reason is known");
}

static int classify_end(struct tls *t, struct err *err)
{
    if (t->socket_errno)
        return err_errno(err, -t->socket_errno, "the connection to %s is lost", t->peer);
    return err_set(err, -ENODATA, "%s has closed the connection", t->peer);
}

int tls_classify(struct tls *t, int result, struct err *err)
{
    switch (SSL_get_error(t->ssl, result)) {
    case SSL_ERROR_WANT_READ:
        t->events = POLLIN;
        return -EAGAIN;
    case SSL_ERROR_WANT_WRITE:
        t->events = POLLOUT;
        return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN:
        return classify_end(t, err);
    case SSL_ERROR_SYSCALL:
        t->failed = true;
        return classify_end(t, err);
    default:
        t->failed = true;
        if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING)
            return classify_end(t, err);
        return classify_protocol(t, err);
    }
}

int tls_read(struct tls *t, void *buf, size_t len, size_t *ret_len, struct err *err)
{
    int r;

    ERR_clear_error();
    r = SSL_read_ex(t->ssl, buf, len, ret_len);
    if (r == 1) {
        t->heard = true;
        t->drained = false;
        return 0;
    }
    r = tls_classify(t, r, err);
    t->drained = true;
    return r;
}

/* A client may learn that it was refused only when it fails to write: the alert waits to be read.
 */
static int explain_write_failure(struct tls *t, int r, struct err *err)
{
    struct err alert;
    char octet;
    size_t n;

    if (t->role != TLS_CLIENT || t->heard || (r != -EPIPE && r != -ECONNRESET && r != -ENODATA))
        return r;
    ERR_clear_error();
    if (SSL_peek_ex(t->ssl, &octet, 1, &n) != 1 && tls_classify(t, 0, &alert) == -EACCES)
        return err_set(err, -EACCES, "%s", alert.text);
    return r;
}

static int write_failed(struct tls *t, int result, struct err *err)
{
    int r = tls_classify(t, result, err);

    return r == -EAGAIN ? r : explain_write_failure(t, r, err);
}

int tls_write(struct tls *t, const void *buf, size_t len, size_t *ret_len, struct err *err)
{
    int r;

    assert(len > 0);
    ERR_clear_error();
    if (!t->write_pending && ++t->records >= TLS_RECORDS_PER_KEY) {
        (void)SSL_key_update(t->ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
        t->records = 0;
    }
    r = SSL_write_ex(t->ssl, buf, MIN(len, TLS_RECORD_MAX), ret_len);
    t->write_pending = false;
    if (r == 1)
        return 0;
    r = write_failed(t, r, err);
    t->write_pending = r == -EAGAIN;
    return r;
}

int tls_flush(struct tls *t, struct err *err)
{
    BIO *bio = SSL_get_wbio(t->ssl);

    if (BIO_flush(bio) > 0)
        return 0;
    if (BIO_should_retry(bio)) {
        t->events = POLLOUT;
        return -EAGAIN;
    }
    t->failed = true;
    return explain_write_failure(t, classify_end(t, err), err);
}

bool tls_has_unsent(const struct tls *t)
{
    return t->out_from < t->out_to;
}

short tls_events(const struct tls *t)
{
    return t->events;
}

bool tls_pending(const struct tls *t)
{
    return !t->drained && (SSL_pending(t->ssl) > 0 || t->in_from < t->in_to);
}
