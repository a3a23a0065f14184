/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What sending costs when the kernel encrypts (module tls) and when our connections do: the same records from memory, over loopback, to
 * the same receiver, which is ours. tests/bench/ktls.sh runs it where a kernel has TLS; docs/performance.md says what came of it. */
#include "base/bytes.h"
#include "base/clock.h"
#include "transport/conn-internal.h"
#include "transport/conn.h"
#include "transport/identity.h"

#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define BODY       KIB(256)
#define ROUNDS_MAX 99u
#define PATIENCE   (30 * NS_PER_SEC)

enum way { OURS, OPENSSL, KTLS_WRITE, KTLS_SEND, WAY_COUNT };

static const char *const way_names[WAY_COUNT] = {
    [OURS] = "ours",             /* conn_put: our BIO gathers eight TLS records for a system call */
    [OPENSSL] = "openssl",       /* SSL_write with OpenSSL's own socket BIO: a system call for each TLS record */
    [KTLS_WRITE] = "ktls-write", /* the same where the kernel encrypts */
    [KTLS_SEND] = "ktls-send",   /* sendmsg of whole records to the socket that the kernel encrypts */
};

struct sender {
    enum way way;
    struct conn *conn; /* OURS */
    SSL *ssl;          /* else, over fd */
    int fd;
    uint64_t sequence;
    uint8_t *body;
};

struct receiver {
    struct identity *id;
    int listener;
    uint64_t records; /* to come */
    uint64_t cpu_ns;
    uint64_t end_ns;
    struct err err;
    pthread_t thread;
};

struct figure {
    double wall, sender, receiver; /* seconds for each GiB */
};

static char sender_dir[] = "/tmp/xmotion-ktls-XXXXXX", receiver_dir[] = "/tmp/xmotion-ktls-XXXXXX";
static char address[CONN_ADDRESS_MAX];

static uint64_t thread_cpu_ns(void)
{
    struct rusage u;

    (void)getrusage(RUSAGE_THREAD, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * NS_PER_SEC +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * NS_PER_US;
}

static int receive_all(struct conn *c, struct receiver *r)
{
    struct record record;
    uint64_t cpu;
    int rc = 0;

    conn_set_max_body(c, WIRE_DATA_MAX);
    cpu = thread_cpu_ns();
    for (uint64_t i = 0; i < r->records && rc == 0; i++) {
        rc = conn_recv(c, &record, &r->err);
        if (rc == 0 && (record.length != BODY || record.body[0] != 'x' || record.body[BODY - 1] != 'x'))
            rc = err_set(&r->err, -EPROTO, "record %llu is not what was sent", (unsigned long long)i);
    }
    r->cpu_ns = thread_cpu_ns() - cpu;
    r->end_ns = clock_now();
    return rc;
}

static void *receiver_main(void *data)
{
    struct receiver *r = data;
    struct conn *c;
    int fd = accept(r->listener, NULL, NULL);

    (void)pthread_setname_np(pthread_self(), "receiver"); /* perf tells it apart by that */
    if (conn_accept(&c, r->id, fd, PATIENCE, &r->err) < 0)
        errx(1, "%s", r->err.text);
    r->err.code = receive_all(c, r);
    conn_destroy(c);
    return NULL;
}

/* As conn-tls.c asks for it. Whom it talks to is not looked at: it is this process. */
static SSL_CTX *make_context(bool ktls)
{
    SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
    char key[64], cert[64];

    (void)snprintf(key, sizeof(key), "%s/identity.key", sender_dir);
    (void)snprintf(cert, sizeof(cert), "%s/identity.crt", sender_dir);
    if (!ctx || SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) != 1 ||
        SSL_CTX_set_ciphersuites(ctx, "TLS_AES_128_GCM_SHA256") != 1 ||
        SSL_CTX_use_certificate_file(ctx, cert, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1)
        errx(1, "cannot prepare TLS");
    if (ktls)
        SSL_CTX_set_options(ctx, SSL_OP_ENABLE_KTLS);
    return ctx;
}

static int connect_socket(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;

    to.sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1));
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
        err(1, "cannot connect");
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    return fd;
}

static void connect_raw(struct sender *s)
{
    SSL_CTX *ctx = make_context(s->way != OPENSSL);

    s->fd = connect_socket();
    s->ssl = SSL_new(ctx);
    SSL_CTX_free(ctx);
    if (!s->ssl || SSL_set_fd(s->ssl, s->fd) != 1 || SSL_connect(s->ssl) != 1)
        errx(1, "no TLS with the receiver");
}

static void connect_sender(struct sender *s, const struct identity *id)
{
    struct err err = {0};

    if (s->way != OURS)
        connect_raw(s);
    else if (conn_connect(&s->conn, id, address, PATIENCE, &err) < 0)
        errx(1, "%s", err.text);
}

static void disconnect(struct sender *s)
{
    conn_destroy(s->conn);
    if (!s->ssl)
        return;
    SSL_free(s->ssl);
    (void)close(s->fd);
}

static bool kernel_encrypts(const struct sender *s)
{
    return s->ssl && BIO_get_ktls_send(SSL_get_wbio(s->ssl));
}

static bool write_ssl(SSL *ssl, const void *data, size_t len)
{
    size_t n;

    return SSL_write_ex(ssl, data, len, &n) == 1;
}

/* MSG_MORE: a TLS record is closed when it is full, or at the end, as ours are. */
static bool send_message(int fd, struct iovec *parts, size_t n, int flags)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = n};

    while (message.msg_iovlen) {
        ssize_t sent = sendmsg(fd, &message, flags | MSG_NOSIGNAL);

        if (sent < 0)
            return false;
        while (message.msg_iovlen && (size_t)sent >= message.msg_iov->iov_len) {
            sent -= (ssize_t)message.msg_iov->iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
        if (message.msg_iovlen) {
            message.msg_iov->iov_base = (uint8_t *)message.msg_iov->iov_base + sent;
            message.msg_iov->iov_len -= (size_t)sent;
        }
    }
    return true;
}

static bool send_record(struct sender *s, bool last)
{
    uint8_t head[WIRE_HEADER_SIZE];
    struct iovec parts[] = {{.iov_base = head, .iov_len = sizeof(head)}, {.iov_base = s->body, .iov_len = BODY}};

    if (s->way == OURS)
        return conn_put(s->conn, WIRE_DISK_DATA, parts + 1, 1, NULL) == 0 && (!last || conn_flush(s->conn, NULL) == 0);
    wire_put_header(head, &(struct wire_header){.type = WIRE_DISK_DATA, .length = BODY, .sequence = s->sequence++});
    if (s->way == KTLS_SEND)
        return send_message(s->fd, parts, ARRAY_SIZE(parts), last ? 0 : MSG_MORE);
    return write_ssl(s->ssl, head, sizeof(head)) && write_ssl(s->ssl, s->body, BODY);
}

static void start_receiver(struct receiver *r)
{
    r->err = (struct err){0};
    if (pthread_create(&r->thread, NULL, receiver_main, r) != 0)
        errx(1, "no thread");
}

static void send_all(struct sender *s, const struct receiver *r, struct figure *ret)
{
    uint64_t cpu = thread_cpu_ns();

    for (uint64_t i = 0; i < r->records; i++)
        if (!send_record(s, i + 1 == r->records))
            errx(1, "%s: cannot send", way_names[s->way]);
    ret->sender = (double)(thread_cpu_ns() - cpu);
}

/* Returns false when the kernel does not encrypt. */
static bool measure(struct sender *s, const struct identity *id, struct receiver *r, struct figure *ret)
{
    double scale = (double)GIB(1) / (double)(r->records * BODY) / (double)NS_PER_SEC;
    uint64_t begin;
    bool usable;

    start_receiver(r);
    connect_sender(s, id);
    usable = s->way < KTLS_WRITE || kernel_encrypts(s);
    begin = clock_now();
    if (usable)
        send_all(s, r, ret);
    else
        disconnect(s);
    (void)pthread_join(r->thread, NULL);
    if (!usable)
        return false;
    if (r->err.code)
        errx(1, "%s: %s", way_names[s->way], r->err.text);
    disconnect(s);
    ret->wall = (double)(r->end_ns - begin) * scale;
    ret->sender *= scale;
    ret->receiver = (double)r->cpu_ns * scale;
    return true;
}

/* What our connections do after TLS_RECORDS_PER_KEY records, where the kernel has the key. */
static void try_key_update(const struct sender *base, struct receiver *r)
{
    struct sender s = *base;

    s.way = KTLS_WRITE;
    r->records = 2;
    start_receiver(r);
    connect_raw(&s);
    (void)send_record(&s, false);
    (void)SSL_key_update(s.ssl, SSL_KEY_UPDATE_NOT_REQUESTED);
    (void)send_record(&s, true); /* the receiver may be gone before it has all */
    (void)pthread_join(r->thread, NULL);
    printf("a KeyUpdate where %s encrypts: %s\n", kernel_encrypts(&s) ? "the kernel" : "OpenSSL",
           r->err.code ? r->err.text : "the receiver follows");
    disconnect(&s);
}

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;

    return *x < *y ? -1 : *x > *y;
}

static double median(const struct figure *figures, unsigned int n, size_t member)
{
    double values[ROUNDS_MAX];

    for (unsigned int i = 0; i < n; i++)
        memcpy(&values[i], (const uint8_t *)&figures[i] + member, sizeof(values[i]));
    qsort(values, n, sizeof(values[0]), compare);
    return values[n / 2];
}

static void report(enum way way, const struct figure *figures, unsigned int n)
{
    if (n == 0)
        printf("%-10s  this kernel has no TLS\n", way_names[way]);
    else
        printf("%-10s  %6.3f %6.3f %8.3f\n", way_names[way], median(figures, n, offsetof(struct figure, wall)),
               median(figures, n, offsetof(struct figure, sender)), median(figures, n, offsetof(struct figure, receiver)));
}

/* Two hosts that believe each other. Returns the sender's identity. */
static struct identity *make_hosts(struct receiver *r)
{
    struct sockaddr_in where;
    socklen_t len = sizeof(where);
    struct identity *id;
    struct err err = {0};
    char file[64];
    FILE *trusted;

    if (!mkdtemp(sender_dir) || !mkdtemp(receiver_dir))
        errx(1, "no folder");
    if (identity_load(&id, &(struct identity_config){.state_dir = sender_dir}, &err) < 0 ||
        identity_load(&r->id, &(struct identity_config){.state_dir = receiver_dir}, &err) < 0 ||
        identity_authorize(r->id, identity_fingerprint(id), "ktls", &err) < 0 ||
        conn_listen("127.0.0.1:0", &r->listener, &err) < 0 || getsockname(r->listener, (struct sockaddr *)&where, &len) < 0)
        errx(1, "%s", err.text);
    (void)snprintf(address, sizeof(address), "127.0.0.1:%u", (unsigned int)ntohs(where.sin_port));
    (void)snprintf(file, sizeof(file), "%s/trusted", sender_dir);
    trusted = fopen(file, "we");
    if (!trusted || fprintf(trusted, "%s %s\n", address, identity_fingerprint(r->id)) < 0 || fclose(trusted) != 0)
        errx(1, "cannot write %s", file);
    return id;
}

static void remove_dir(const char *dir)
{
    static const char *const files[] = {"identity.key", "identity.crt", "trusted", "authorized", "lock"};
    char path[96];

    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
        (void)unlink(path);
    }
    (void)rmdir(dir);
}

static void measure_all(const struct sender *base, const struct identity *id, struct receiver *r, unsigned int rounds, const char *only)
{
    static struct figure figures[WAY_COUNT][ROUNDS_MAX];
    unsigned int done[WAY_COUNT] = {0};

    for (unsigned int i = 0; i < rounds; i++)
        for (enum way way = 0; way < WAY_COUNT; way++) {
            struct sender s = *base;

            s.way = way;
            if (!only || strcmp(only, way_names[way]) == 0)
                done[way] += measure(&s, id, r, &figures[way][done[way]]);
        }
    printf("s/GiB         wall sender receiver\n");
    for (enum way way = 0; way < WAY_COUNT; way++)
        if (!only || strcmp(only, way_names[way]) == 0)
            report(way, figures[way], done[way]);
}

/* ktls [MIB [ROUNDS [WAY]]]: medians of the rounds, in which each way has its turn. */
int main(int argc, char **argv)
{
    unsigned int rounds = argc > 2 ? (unsigned int)atoi(argv[2]) : 5;
    struct receiver r = {.records = (argc > 1 ? (uint64_t)atoi(argv[1]) : 1024) * MIB(1) / BODY};
    struct sender base = {.body = aligned_alloc(4096, BODY), .fd = -1};
    struct identity *id;

    if (!base.body || !r.records || !rounds || rounds > ROUNDS_MAX)
        errx(2, "usage: ktls [MIB [ROUNDS [WAY]]]");
    (void)signal(SIGPIPE, SIG_IGN);
    memset(base.body, 'x', BODY);
    id = make_hosts(&r);
    measure_all(&base, id, &r, rounds, argc > 3 ? argv[3] : NULL);
    try_key_update(&base, &r);
    identity_destroy(id);
    identity_destroy(r.id);
    (void)close(r.listener);
    remove_dir(sender_dir);
    remove_dir(receiver_dir);
    free(base.body);
    return 0;
}
