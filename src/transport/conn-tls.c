/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TLS 1.3 handshakes, and the decision whom to believe. */
#include "transport/conn-tls.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "transport/conn-socket.h"
#include "transport/conn-tls-internal.h"
#include "transport/identity-internal.h"

#include <arpa/inet.h>
#include <assert.h>
#include <openssl/err.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* AES-128 first: it is the cheapest per octet, and this is the figure that decides. */
#define CIPHERSUITES "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"

#define LINGER_TIME   (500 * NS_PER_MS)
#define LINGER_OCTETS KIB(64)

/* The chain to the CA; a client's parameters hold the host name too. */
static bool chain_verifies(struct tls *t, X509_STORE_CTX *store)
{
    if (X509_verify_cert(store) == 1)
        return true;
    (void)err_set(&t->refusal, -EACCES, "the certificate %s of %s is refused: %s", t->fingerprint,
                  t->peer, X509_verify_cert_error_string(X509_STORE_CTX_get_error(store)));
    return false;
}

static bool sender_is_authorized(struct tls *t, X509_STORE_CTX *store)
{
    if (t->id->ca ? chain_verifies(t, store) : trust_is_authorized(t->id, t->fingerprint))
        return true;
    if (!t->refusal.code)
        (void)err_set(&t->refusal, -EACCES,
                      "%s is not authorized here: if it shall send to this host, run `xmotion "
                      "authorize %s`",
                      t->peer, t->fingerprint);
    return false;
}

static bool receiver_is_trusted(struct tls *t, X509_STORE_CTX *store)
{
    if (t->id->ca)
        return chain_verifies(t, store);
    if (strcmp(t->expected, t->fingerprint) == 0)
        return true;
    (void)err_set(
        &t->refusal, -EACCES,
        "%s shows the certificate %s, trusted is %s: somebody may stand in between; if its "
        "identity was renewed, run `xmotion trust --replace %s`",
        t->peer, t->fingerprint, t->expected, t->peer);
    return false;
}

/* Stands for OpenSSL's own verification of the chain. That the peer holds the certificate's key is
 * proved by the handshake itself. */
static int verify(X509_STORE_CTX *store, void *data)
{
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls *t = SSL_get_app_data(ssl);
    const X509 *cert = X509_STORE_CTX_get0_cert(store);
    bool good = false;

    if (cert && identity_fingerprint_of(cert, t->fingerprint) == 0)
        good = t->role == TLS_PROBE || (t->role == TLS_SERVER ? sender_is_authorized(t, store)
                                                              : receiver_is_trusted(t, store));
    X509_STORE_CTX_set_error(store, good ? X509_V_OK : X509_V_ERR_CERT_REJECTED);
    return good;
}

static SSL_CTX *make_context(const struct identity *id, bool server)
{
    SSL_CTX *ctx = SSL_CTX_new(server ? TLS_server_method() : TLS_client_method());

    if (!ctx || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(ctx, CIPHERSUITES) != 1 ||
        SSL_CTX_use_certificate(ctx, id->cert) != 1 || SSL_CTX_use_PrivateKey(ctx, id->key) != 1 ||
        (id->chain && SSL_CTX_set1_chain(ctx, id->chain) != 1) ||
        (id->ca && SSL_CTX_set1_verify_cert_store(ctx, id->ca) != 1)) {
        SSL_CTX_free(ctx);
        return NULL;
    }
    SSL_CTX_set_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_TICKET);
    SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_AUTO_RETRY);
    /* No resumption: every connection shows its certificate, and a server says nothing before it
     * has seen it. */
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_cert_verify_callback(ctx, verify, NULL);
    return ctx;
}

/* One for all connections: making it costs as much as a handshake, which a stranger may ask for. NULL: no memory. */
static SSL_CTX *context_of(const struct identity *id, bool server)
{
    _Atomic(SSL_CTX *) *place = &id->contexts[server];
    SSL_CTX *ctx = atomic_load(place);
    SSL_CTX *before = NULL;

    if (ctx)
        return ctx;
    ctx = make_context(id, server);
    if (!ctx || atomic_compare_exchange_strong(place, &before, ctx))
        return ctx;
    SSL_CTX_free(ctx); /* another thread was faster */
    return before;
}

/* With a CA the certificate must be one for the name that was asked for. */
static int set_host(struct tls *t, const char *host)
{
    struct in6_addr v6;
    struct in_addr v4;

    if (inet_pton(AF_INET6, host, &v6) == 1 || inet_pton(AF_INET, host, &v4) == 1)
        return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(t->ssl), host) == 1 ? 0 : -ENOMEM;
    return SSL_set1_host(t->ssl, host) == 1 && SSL_set_tlsext_host_name(t->ssl, host) == 1
               ? 0
               : -ENOMEM;
}

static int set_up(struct tls *t, const char *host)
{
    SSL_CTX *ctx = context_of(t->id, t->role == TLS_SERVER);
    int r;

    t->ssl = ctx ? SSL_new(ctx) : NULL;
    if (!t->ssl || SSL_set_app_data(t->ssl, t) != 1)
        return -ENOMEM;
    r = tls_attach_socket(t);
    if (r == 0 && host && t->id->ca)
        r = set_host(t, host);
    if (r < 0)
        return r;
    if (t->role == TLS_SERVER)
        SSL_set_accept_state(t->ssl);
    else
        SSL_set_connect_state(t->ssl);
    return 0;
}

static int handshake(struct tls *t, uint64_t deadline, struct err *err)
{
    for (;;) {
        int r;

        ERR_clear_error();
        r = SSL_do_handshake(t->ssl);
        if (r == 1) {
            t->established = true;
            return 0;
        }
        r = tls_classify(t, r, err);
        if (r == -EAGAIN)
            r = socket_wait(t->fd, t->events, deadline);
        if (r == -ETIMEDOUT)
            return err_set(err, r, "%s does not finish the TLS handshake: is it xmotion?", t->peer);
        if (r == -ENODATA)
            return err_set(err, -ECONNRESET, "%s has closed the connection in the TLS handshake",
                           t->peer);
        if (r < 0)
            return r;
    }
}

/* Closing a socket with input unread resets it, and a reset may overtake the alert that tells the
 * peer why. So wait for the peer to close, for a moment. */
static void linger(struct tls *t, uint64_t deadline)
{
    uint64_t until = MIN(deadline, socket_deadline(LINGER_TIME));
    size_t taken = 0;

    (void)shutdown(t->fd, SHUT_WR);
    while (taken < LINGER_OCTETS && socket_wait(t->fd, POLLIN, until) == 0) {
        ssize_t n = recv(t->fd, t->in, sizeof(t->in), 0);

        if (n <= 0)
            return;
        taken += (size_t)n;
    }
}

static struct tls *tls_new(const struct identity *id, enum tls_role role)
{
    struct tls *t = malloc(sizeof(*t));

    if (!t)
        return NULL;
    memset(t, 0, offsetof(struct tls, in)); /* pages of the buffers are the connection's when it needs them */
    t->id = id;
    t->role = role;
    t->fd = -1;
    return t;
}

static int connect_as(struct tls *t, const char *address, uint64_t deadline, struct err *err)
{
    struct socket_address where;
    int r = socket_parse(address, &where, err);

    if (r == 0)
        r = conn_canonical_address(address, t->peer, err);
    /* Whom we would not believe is not called. */
    if (r == 0 && t->role == TLS_CLIENT && !t->id->ca)
        r = trust_look_up(t->id, t->peer, t->expected, err);
    if (r == 0)
        r = socket_connect(&where, t->peer, deadline, &t->fd, err);
    if (r < 0)
        return r;
    if (set_up(t, where.host) < 0)
        return err_set(err, -ENOMEM, "cannot prepare TLS to %s", t->peer);
    return handshake(t, deadline, err);
}

static int client(struct tls **ret, const struct identity *id, enum tls_role role,
                  const char *address, uint64_t timeout_ns, struct err *err)
{
    struct tls *t = tls_new(id, role);
    int r;

    if (!t)
        return err_set(err, -ENOMEM, "no memory for a connection");
    r = connect_as(t, address, socket_deadline(timeout_ns), err);
    if (r < 0) {
        t->failed = true;
        tls_destroy(t);
        return r;
    }
    *ret = t;
    return 0;
}

int tls_connect(struct tls **ret, const struct identity *id, const char *address,
                uint64_t timeout_ns, struct err *err)
{
    return client(ret, id, TLS_CLIENT, address, timeout_ns, err);
}

int tls_probe(const struct identity *id, const char *address, uint64_t timeout_ns,
              char ret_fingerprint[IDENTITY_FINGERPRINT_LEN + 1], struct err *err)
{
    struct tls *t;
    int r = client(&t, id, TLS_PROBE, address, timeout_ns, err);

    if (r < 0)
        return r;
    strcpy(ret_fingerprint, t->fingerprint);
    tls_destroy(t);
    return 0;
}

static int accept_on(struct tls *t, uint64_t deadline, struct err *err)
{
    int r = socket_prepare(t->fd);

    if (r < 0)
        return err_errno(err, r, "cannot prepare an accepted socket");
    socket_peer_name(t->fd, t->peer, sizeof(t->peer));
    if (set_up(t, NULL) < 0)
        return err_set(err, -ENOMEM, "cannot prepare TLS for %s", t->peer);
    r = handshake(t, deadline, err);
    if (r < 0 && t->failed)
        linger(t, deadline);
    return r;
}

int tls_accept(struct tls **ret, const struct identity *id, int fd, uint64_t timeout_ns,
               struct err *err)
{
    struct tls *t = tls_new(id, TLS_SERVER);
    int r;

    if (!t) {
        (void)close(fd);
        return err_set(err, -ENOMEM, "no memory for a connection");
    }
    t->fd = fd;
    r = accept_on(t, socket_deadline(timeout_ns), err);
    if (r < 0) {
        t->failed = true;
        tls_destroy(t);
        return r;
    }
    *ret = t;
    return 0;
}

/* Says goodbye when that is possible without waiting. */
void tls_destroy(struct tls *t)
{
    if (!t)
        return;
    ERR_clear_error();
    if (t->ssl && !t->failed && !t->write_pending)
        (void)SSL_shutdown(t->ssl);
    SSL_free(t->ssl);
    if (t->fd >= 0)
        (void)close(t->fd);
    /* The buffers held ciphertext; what is left of the clear text is the caller's. */
    free(t);
}

void conn_thread_end(void)
{
    OPENSSL_thread_stop();
}

int tls_fd(const struct tls *t)
{
    return t->fd;
}

const char *tls_peer(const struct tls *t)
{
    return t->peer;
}

const char *tls_peer_fingerprint(const struct tls *t)
{
    return t->fingerprint;
}
