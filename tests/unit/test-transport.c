/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Connections over loopback: handshakes with friends and others, records with good and hostile
 * peers. */
#include "transport-pair.h"

#include <openssl/ssl.h>

static int send_text(struct conn *c, enum wire_type type, const char *text, struct err *err)
{
    return conn_send(c, type, &(struct iovec){(void *)text, strlen(text)}, 1, err);
}

/* ---- handshakes ---- */

START_TEST(authorized_talk)
{
    struct conn *client, *server;
    struct record record;
    struct pair p;
    struct err err;

    pair_make(&p);
    pair_connect(&p, &client, &server);
    ck_assert_str_eq(conn_peer(client), p.address);
    ck_assert_str_eq(conn_peer_fingerprint(client), identity_fingerprint(p.receiver.id));
    ck_assert_str_eq(conn_peer_fingerprint(server), identity_fingerprint(p.sender.id));
    for (int i = 0; i < 3; i++) {
        ck_assert_int_eq(send_text(client, WIRE_HELLO, "{}", &err), 0);
        ck_assert_int_eq(conn_recv(server, &record, &err), 0);
        ck_assert_int_eq(record.type, WIRE_HELLO);
        ck_assert_mem_eq(record.body, "{}", 2);
        ck_assert_int_eq(conn_send(server, WIRE_PONG, NULL, 0, &err), 0);
        ck_assert_int_eq(conn_recv(client, &record, &err), 0);
        ck_assert_uint_eq(record.length, 0);
    }
    ck_assert_uint_eq(conn_bytes_sent(client), 3 * 18);
    ck_assert_uint_eq(conn_bytes_received(client), 3 * 16);
    conn_destroy(client);
    ck_assert_int_eq(conn_recv(server, &record, &err), -ECONNRESET);
    conn_destroy(server);
    pair_remove(&p);
}
END_TEST

/* The contract's promise to who is refused: what to do, and not one record. */
static void refused_client(struct pair *p, bool send_first)
{
    struct conn *client = NULL;
    struct acceptor a;
    struct record record;
    struct err err = {0};
    int r;

    acceptor_start(&a, p->listener, p->receiver.id);
    r = conn_connect(&client, p->sender.id, p->address, PATIENCE, &err);
    for (int i = 0; r == 0 && send_first && i < 100; i++)
        r = send_text(client, WIRE_HELLO, "{}", &err);
    if (r == 0)
        r = conn_recv(client, &record, &err);
    ck_assert_msg(r == -EACCES, "%d: %s", r, err.text);
    ck_assert_ptr_nonnull(strstr(err.text, "xmotion authorize SHA256:"));
    if (client)
        ck_assert_uint_eq(conn_bytes_received(client), 0);
    conn_destroy(client);
    ck_assert_int_eq(acceptor_join(&a), -EACCES);
    ck_assert_ptr_nonnull(strstr(a.err.text, identity_fingerprint(p->sender.id)));
}

START_TEST(unauthorized_refused)
{
    struct conn *client, *server;
    struct pair p;
    struct err err;

    pair_make(&p);
    host_write(&p.receiver, "authorized", "# nobody\nSHA256:12 short\ndamaged\n");
    refused_client(&p, false);
    refused_client(&p, true);
    /* And at once afterwards, without a restart: */
    ck_assert_int_eq(
        identity_authorize(p.receiver.id, identity_fingerprint(p.sender.id), NULL, &err), 0);
    pair_connect(&p, &client, &server);
    conn_destroy(client);
    conn_destroy(server);
    pair_remove(&p);
}
END_TEST

/* A client of another make, without a certificate: no application data, no session ticket. */
static void foreign_client(struct pair *p, int version, bool handshake_ends)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    struct sockaddr_in where;
    socklen_t len = sizeof(where);
    struct acceptor a;
    char octets[100];
    SSL *ssl = SSL_new(ctx);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int r;

    acceptor_start(&a, p->listener, p->receiver.id);
    ck_assert_int_eq(getsockname(p->listener, (struct sockaddr *)&where, &len), 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&where, len), 0);
    (void)SSL_set_max_proto_version(ssl, version);
    (void)SSL_set_fd(ssl, fd);
    r = SSL_connect(ssl);
    ck_assert_int_eq(r == 1, handshake_ends);
    if (r == 1) {
        ck_assert_int_le(SSL_read(ssl, octets, sizeof(octets)), 0);
        ck_assert_int_eq(SSL_SESSION_has_ticket(SSL_get_session(ssl)), 0);
    }
    (void)close(fd);
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    ck_assert_int_lt(acceptor_join(&a), 0);
}

START_TEST(foreign_refused)
{
    struct pair p;

    pair_make(&p);
    foreign_client(&p, TLS1_3_VERSION, true);
    foreign_client(&p, TLS1_2_VERSION, false);
    pair_remove(&p);
}
END_TEST

START_TEST(changed_certificate_refused)
{
    struct conn *client = NULL;
    struct acceptor a;
    struct host other;
    struct pair p;
    struct err err;

    pair_make(&p);
    host_make(&other);
    acceptor_start(&a, p.listener, other.id);
    ck_assert_int_eq(conn_connect(&client, p.sender.id, p.address, PATIENCE, &err), -EACCES);
    ck_assert_ptr_nonnull(strstr(err.text, identity_fingerprint(other.id)));
    ck_assert_ptr_nonnull(strstr(err.text, identity_fingerprint(p.receiver.id)));
    ck_assert_ptr_nonnull(strstr(err.text, "xmotion trust --replace"));
    ck_assert_int_eq(acceptor_join(&a), -EACCES);
    host_write(&p.sender, "trusted", "");
    ck_assert_int_eq(conn_connect(&client, p.sender.id, p.address, PATIENCE, &err), -EACCES);
    ck_assert_ptr_nonnull(strstr(err.text, "no trust for"));
    host_remove(&other);
    pair_remove(&p);
}
END_TEST

/* A CA with a certificate for 127.0.0.1 and one for another name, made in the folder $D. */
static const char make_ca[] =
    "cd $D && exec 2>/dev/null && k='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes' && "
    "openssl req -x509 $k -keyout ca.key -out ca.crt -subj /CN=ca -days 9 && "
    "for n in IP:127.0.0.1 DNS:other; do "
    "openssl req $k -keyout $n.key -out $n.csr -subj /CN=x && echo subjectAltName=$n > ext && "
    "openssl x509 -req -in $n.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out $n.crt -days 9 "
    "-extfile ext || exit 1; "
    "done";

static struct identity *ca_identity(const struct host *h, const char *name)
{
    char ca[160], cert[160], key[160];
    struct identity *id = NULL;
    struct err err = {0};

    (void)snprintf(ca, sizeof(ca), "%s/ca.crt", h->dir);
    (void)snprintf(cert, sizeof(cert), "%s/%s.crt", h->dir, name);
    (void)snprintf(key, sizeof(key), "%s/%s.key", h->dir, name);
    ck_assert_msg(
        identity_load(
            &id, &(struct identity_config){.state_dir = h->dir, .ca = ca, .cert = cert, .key = key},
            &err) == 0,
        "%s", err.text);
    return id;
}

/* Without any line in `trusted` or `authorized`; `client` and `server` are whom they show. */
static int ca_connect(struct pair *p, const struct identity *client, const struct identity *server,
                      int *ret_accepted)
{
    struct conn *c = NULL;
    struct acceptor a;
    struct record record;
    struct err err;
    int r;

    acceptor_start(&a, p->listener, server);
    r = conn_connect(&c, client, p->address, PATIENCE, &err);
    *ret_accepted = acceptor_join(&a);
    conn_destroy(a.conn);
    if (r == 0)
        r = conn_recv(c, &record, &err);
    conn_destroy(c);
    return r;
}

START_TEST(ca_verifies)
{
    struct identity *good, *other;
    char command[900];
    int accepted;
    struct pair p;

    pair_make(&p);
    (void)snprintf(command, sizeof(command), "D=%s; %s", p.receiver.dir, make_ca);
    ck_assert_int_eq(system(command), 0);
    host_write(&p.sender, "trusted", "");
    host_write(&p.receiver, "authorized", "");
    good = ca_identity(&p.receiver, "IP:127.0.0.1");
    other = ca_identity(&p.receiver, "DNS:other");
    ck_assert_int_eq(ca_connect(&p, other, good, &accepted),
                     -ECONNRESET); /* the end after success */
    ck_assert_int_eq(accepted, 0);
    /* A receiver of another name; a sender, and a receiver, that the CA does not know. */
    ck_assert_int_eq(ca_connect(&p, good, other, &accepted), -EACCES);
    ck_assert_int_eq(ca_connect(&p, good, p.receiver.id, &accepted), -EACCES);
    host_write(&p.sender, "trusted", "");
    trust(&p.sender, p.address, &(struct host){.id = good});
    ck_assert_int_eq(ca_connect(&p, p.sender.id, good, &accepted), -EACCES);
    ck_assert_int_eq(accepted, -EACCES);
    identity_destroy(good);
    identity_destroy(other);
    (void)snprintf(command, sizeof(command), "cd %s && rm -f ca.* ext IP:* DNS:*", p.receiver.dir);
    ck_assert_int_eq(system(command), 0);
    pair_remove(&p);
}
END_TEST

START_TEST(nobody_there)
{
    struct conn *client = NULL;
    struct pair p;
    struct err err;

    pair_make(&p);
    /* A listener that never speaks, then none. */
    ck_assert_int_eq(conn_connect(&client, p.sender.id, p.address, 200 * NS_PER_MS, &err),
                     -ETIMEDOUT);
    (void)close(p.listener);
    ck_assert_int_eq(conn_connect(&client, p.sender.id, p.address, PATIENCE, &err), -ECONNREFUSED);
    ck_assert_ptr_nonnull(strstr(err.text, "xmotion recv"));
    p.listener = -1;
    pair_remove(&p);
}
END_TEST

/* ---- records ---- */

static void *send_big(void *data)
{
    static uint8_t big[WIRE_DATA_MAX];
    struct err err;
    const struct iovec parts[] = {
        {big, 16}, {big + 16, 24}, {big + 40, 0}, {big + 40, sizeof(big) - 40}};

    for (size_t i = 0; i < sizeof(big); i++)
        big[i] = (uint8_t)(i * 7 + (i >> 8));
    return (void *)(intptr_t)conn_send(data, WIRE_DISK_DATA, parts, ARRAY_SIZE(parts), &err);
}

START_TEST(largest_record)
{
    struct conn *client, *server;
    struct record record;
    pthread_t thread;
    struct pair p;
    struct err err;

    pair_make(&p);
    pair_connect(&p, &client, &server);
    conn_set_max_body(server, WIRE_DATA_MAX);
    ck_assert_int_eq(pthread_create(&thread, NULL, send_big, client), 0);
    ck_assert_int_eq(conn_recv(server, &record, &err), 0);
    ck_assert_int_eq(pthread_join(thread, NULL), 0);
    ck_assert_uint_eq(record.length, WIRE_DATA_MAX);
    for (size_t i = 0; i < record.length; i++)
        if (record.body[i] != (uint8_t)(i * 7 + (i >> 8)))
            ck_abort_msg("octet %zu differs", i);
    ck_assert(!conn_pending(server));
    /* One octet over what this end accepts: */
    conn_set_max_body(server, 3);
    ck_assert_int_eq(send_text(client, WIRE_HELLO, "four", &err), 0);
    ck_assert_int_eq(conn_recv(server, &record, &err), -EPROTO);
    ck_assert_int_eq(conn_recv(server, &record, &err), -EPROTO);
    conn_destroy(client);
    conn_destroy(server);
    pair_remove(&p);
}
END_TEST

/* A peer with good TLS and a good certificate that speaks no good records. */
static SSL *hostile_client(struct pair *p, struct acceptor *a)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    struct sockaddr_in where;
    socklen_t len = sizeof(where);
    char path[128];
    SSL *ssl;
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    acceptor_start(a, p->listener, p->receiver.id);
    ck_assert_int_eq(getsockname(p->listener, (struct sockaddr *)&where, &len), 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&where, len), 0);
    (void)snprintf(path, sizeof(path), "%s/identity.crt", p->sender.dir);
    ck_assert_int_eq(SSL_CTX_use_certificate_file(ctx, path, SSL_FILETYPE_PEM), 1);
    (void)snprintf(path, sizeof(path), "%s/identity.key", p->sender.dir);
    ck_assert_int_eq(SSL_CTX_use_PrivateKey_file(ctx, path, SSL_FILETYPE_PEM), 1);
    ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    (void)SSL_set_fd(ssl, fd);
    ck_assert_int_eq(SSL_connect(ssl), 1);
    ck_assert_int_eq(acceptor_join(a), 0);
    return ssl;
}

static void hostile_end(SSL *ssl, struct acceptor *a)
{
    (void)close(SSL_get_fd(ssl));
    SSL_free(ssl);
    conn_destroy(a->conn);
}

static int try_until(struct conn *c, struct record *record, struct err *err, unsigned int tries)
{
    int r = -EAGAIN;

    while (r == -EAGAIN && tries--) {
        clock_sleep(NS_PER_MS);
        r = conn_try_recv(c, record, err);
    }
    return r;
}

START_TEST(partial_delivery)
{
    uint8_t raw[WIRE_HEADER_SIZE + 3];
    struct acceptor a;
    struct record record;
    struct pair p;
    struct err err;
    SSL *ssl;

    pair_make(&p);
    ssl = hostile_client(&p, &a);
    wire_put_header(raw, &(struct wire_header){.type = WIRE_HELLO, .length = 3});
    memcpy(raw + WIRE_HEADER_SIZE, "abc", 3);
    conn_set_timeout(a.conn, 50 * NS_PER_MS);
    for (size_t i = 0; i < sizeof(raw) - 1; i++) {
        ck_assert_int_eq(SSL_write(ssl, raw + i, 1), 1);
        ck_assert_int_eq(try_until(a.conn, &record, &err, 3), -EAGAIN);
        ck_assert(!conn_pending(a.conn));
    }
    /* A silent peer: the wait ends, and the record can still be finished. */
    ck_assert_int_eq(conn_recv(a.conn, &record, &err), -ETIMEDOUT);
    ck_assert_int_eq(SSL_write(ssl, raw + sizeof(raw) - 1, 1), 1);
    ck_assert_int_eq(try_until(a.conn, &record, &err, 1000), 0);
    ck_assert_mem_eq(record.body, "abc", 3);
    hostile_end(ssl, &a);
    pair_remove(&p);
}
END_TEST

static void hostile_header(struct pair *p, uint16_t type, uint32_t length, uint64_t sequence,
                           bool close_after, int result)
{
    uint8_t raw[WIRE_HEADER_SIZE];
    struct acceptor a;
    struct record record;
    struct err err = {0};
    SSL *ssl = hostile_client(p, &a);
    int r;

    wire_put_header(raw,
                    &(struct wire_header){.type = type, .length = length, .sequence = sequence});
    ck_assert_int_eq(SSL_write(ssl, raw, sizeof(raw)), sizeof(raw));
    if (close_after)
        (void)shutdown(SSL_get_fd(ssl), SHUT_WR);
    r = conn_recv(a.conn, &record, &err);
    ck_assert_msg(r == result, "%d: %s", r, err.text);
    hostile_end(ssl, &a);
}

START_TEST(hostile_headers)
{
    struct pair p;

    pair_make(&p);
    hostile_header(&p, WIRE_HELLO, 0, 0, false, 0);
    hostile_header(&p, WIRE_HELLO, 0, 1, false, -EPROTO);
    hostile_header(&p, 99, 0, 0, false, -EPROTO);
    hostile_header(&p, WIRE_HELLO, WIRE_CONTROL_MAX + 1, 0, false, -EPROTO);
    hostile_header(&p, WIRE_HELLO, ~0u, 0, false, -EPROTO);
    hostile_header(&p, WIRE_HELLO, 5, 0, true, -ECONNRESET);
    pair_remove(&p);
}
END_TEST

START_TEST(send_times_out)
{
    static uint8_t big[WIRE_DATA_MAX];
    struct conn *client, *server;
    struct pair p;
    struct err err = {0};
    int r = 0;

    pair_make(&p);
    pair_connect(&p, &client, &server);
    conn_set_timeout(client, 100 * NS_PER_MS);
    for (int i = 0; r == 0 && i < 100; i++)
        r = conn_send(client, WIRE_DISK_DATA, &(struct iovec){big, sizeof(big)}, 1, &err);
    ck_assert_msg(r == -ETIMEDOUT, "%d: %s", r, err.text);
    ck_assert_int_eq(conn_send(client, WIRE_PING, NULL, 0, &err), -ETIMEDOUT);
    conn_destroy(client);
    conn_destroy(server);
    pair_remove(&p);
}
END_TEST

START_TEST(capture_holds_both_directions)
{
    static const char expected[] =
        "SXM\0\001\0\0\0\002\0\0\0\0\0\0\0\0{}RXM\0\020\0\0\0\0\0\0\0\0\0\0\0\0";
    CLEANUP_FREE char *data = NULL;
    struct conn *client, *server;
    struct record record;
    char path[128];
    struct pair p;
    struct err err;
    size_t len;

    pair_make(&p);
    pair_connect(&p, &client, &server);
    (void)snprintf(path, sizeof(path), "%s/capture", p.sender.dir);
    ck_assert_int_eq(conn_capture(client, path, &err), 0);
    ck_assert_int_eq(send_text(client, WIRE_HELLO, "{}", &err), 0);
    ck_assert_int_eq(conn_send(server, WIRE_PONG, NULL, 0, &err), 0);
    ck_assert_int_eq(conn_recv(client, &record, &err), 0);
    conn_destroy(client);
    conn_destroy(server);
    ck_assert_int_eq(file_read(path, 1000, &data, &len), 0);
    ck_assert_uint_eq(len, sizeof(expected) - 1);
    ck_assert_mem_eq(data, expected, len);
    pair_remove(&p);
}
END_TEST

UNIT_MAIN("transport", authorized_talk, unauthorized_refused, foreign_refused,
          changed_certificate_refused, ca_verifies, nobody_there, largest_record, partial_delivery,
          hostile_headers, send_times_out, capture_holds_both_directions)
