/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/door.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define AREA "session.door"

#define KNOCKING_MOST  1024u
#define SHAKING_MOST   64u
#define GREETING_MOST  256u
#define HANDSHAKE_RATE 50u
#define HANDSHAKE_TIME (10 * NS_PER_SEC)
#define HELLO_TIME     (10 * NS_PER_SEC)

/* Of one migration. A sender that comes back after a cut may have its old connections here for a while. */
#define DATA_CONNECTIONS  64u
#define SPARE_CONNECTIONS 8u

#define DESCRIPTORS_WANTED 65536u
#define DESCRIPTORS_LEAST  128u
#define ACCEPTS_AT_ONCE    64u
#define EVENTS_AT_ONCE     64
#define WAKE               UINT64_MAX
#define PATIENCE           NS_PER_SEC
#define NO_DESCRIPTORS     (50 * NS_PER_MS)
#define ACCOUNT_EVERY      (10 * NS_PER_SEC)
#define LINES_MOST         10u

/* Strangers that went, and why. */
struct account {
    unsigned int garbage, slow, crowded, refused;
};

struct door {
    struct door_config config;
    int epoll; /* knocking peers, and `wake` */
    int wake;
    int *fds; /* of each entry: the socket of who knocks; a second descriptor of it for who shakes or greets */
    unsigned int entries;
    pthread_mutex_t lock; /* all below, and `fds` of who does not knock */
    struct gate gate;
    bool closed;
    struct account account;
    uint64_t accounted_ns;
    unsigned int lines;
};

/* -- life -- */

/* Descriptors for connections and disks: as many as we may have. */
static unsigned int raise_descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 1024;
    if (limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = MIN(limit.rlim_max, DESCRIPTORS_WANTED);
        (void)setrlimit(RLIMIT_NOFILE, &limit);
        (void)getrlimit(RLIMIT_NOFILE, &limit);
    }
    return (unsigned int)MIN(limit.rlim_cur, DESCRIPTORS_WANTED);
}

static struct gate_limits limits_for(unsigned int migrations, unsigned int descriptors)
{
    unsigned int data = migrations * DATA_CONNECTIONS;
    unsigned int control = migrations + SPARE_CONNECTIONS;

    return (struct gate_limits){
        .knocking = MIN(KNOCKING_MOST, MAX(descriptors / 4, DESCRIPTORS_LEAST / 4)),
        .shaking = SHAKING_MOST,
        .greeting = GREETING_MOST,
        .served = 2 * (data + control),
        .peer_greeting = DATA_CONNECTIONS + SPARE_CONNECTIONS,
        .peer_control = control,
        .peer_data = data,
        .rate = HANDSHAKE_RATE,
        .handshake_ns = HANDSHAKE_TIME,
        .hello_ns = HELLO_TIME,
    };
}

static int watch(struct door *d, int fd, uint64_t what, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.u64 = what};

    return epoll_ctl(d->epoll, EPOLL_CTL_ADD, fd, &e) < 0 ? -errno : 0;
}

static int set_up(struct door *d, struct err *err)
{
    struct gate_limits limits = limits_for(d->config.migrations, raise_descriptors());
    uint64_t seed = 0;
    int r;

    if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
        return err_errno(err, -errno, "getrandom");
    d->entries = limits.knocking + limits.shaking + limits.greeting + limits.served;
    d->fds = malloc(d->entries * sizeof(*d->fds));
    if (!d->fds || gate_init(&d->gate, &limits, seed, clock_now()) < 0)
        return err_set(err, -ENOMEM, "out of memory");
    for (unsigned int i = 0; i < d->entries; i++)
        d->fds[i] = -1;
    d->epoll = epoll_create1(EPOLL_CLOEXEC);
    d->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    r = d->epoll < 0 || d->wake < 0 ? -errno : watch(d, d->wake, WAKE, EPOLLIN);
    return r < 0 ? err_errno(err, r, "watching connections") : 0;
}

int door_create(struct door **ret, const struct door_config *config, struct err *err)
{
    struct door *d = calloc(1, sizeof(*d));
    int r;

    if (!d)
        return err_set(err, -ENOMEM, "out of memory");
    d->config = *config;
    d->epoll = d->wake = -1;
    pthread_mutex_init(&d->lock, NULL);
    r = set_up(d, err);
    if (r < 0) {
        door_destroy(d);
        return r;
    }
    *ret = d;
    return 0;
}

void door_destroy(struct door *d)
{
    if (!d)
        return;
    for (unsigned int i = 0; d->fds && i < d->entries; i++) {
        if (d->fds[i] >= 0)
            (void)close(d->fds[i]);
    }
    if (d->epoll >= 0)
        (void)close(d->epoll);
    if (d->wake >= 0)
        (void)close(d->wake);
    gate_finish(&d->gate);
    free(d->fds);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

int door_fd(const struct door *d)
{
    return d->epoll;
}

static void wake_up(struct door *d)
{
    const uint64_t one = 1;

    (void)!write(d->wake, &one, sizeof(one)); /* full: it is awake */
}

/* -- who has to go; under the lock -- */

static void forget_fd(struct door *d, int entry)
{
    if (d->fds[entry] >= 0)
        (void)close(d->fds[entry]);
    d->fds[entry] = -1;
}

/* Who has a thread goes by himself when his socket ends. */
static void drop(struct door *d, int entry)
{
    enum gate_stage stage = d->gate.entries[entry].stage;

    if (stage == GATE_KNOCKING || stage == GATE_READY) {
        forget_fd(d, entry);
        gate_leave(&d->gate, entry);
    } else {
        (void)shutdown(d->fds[entry], SHUT_RDWR);
    }
}

static void drop_all(struct door *d, enum gate_stage stage)
{
    int next;

    for (int i = gate_oldest(&d->gate, stage); i >= 0; i = next) {
        next = d->gate.entries[i].younger;
        drop(d, i);
    }
}

/* -- the receiver's own thread -- */

/* The last resort: without it the listener would stay readable and the loop would turn and turn. */
static void no_descriptors(struct door *d)
{
    int victim;

    pthread_mutex_lock(&d->lock);
    victim = gate_oldest(&d->gate, GATE_KNOCKING);
    if (victim >= 0) {
        d->account.crowded++;
        drop(d, victim);
    }
    pthread_mutex_unlock(&d->lock);
    if (victim < 0)
        clock_sleep(NO_DESCRIPTORS);
}

static void take(struct door *d, int fd, const struct sockaddr_storage *from)
{
    int entry;
    int victim;

    pthread_mutex_lock(&d->lock);
    entry = d->closed ? -1 : gate_enter(&d->gate, gate_origin(from), clock_now(), &victim);
    if (entry >= 0) {
        if (victim >= 0)
            forget_fd(d, victim);
        d->account.crowded += victim >= 0;
        d->fds[entry] = fd;
        /* Edges: what waits for the rest of a ClientHello would be readable all the time. */
        if (watch(d, fd, (uint64_t)entry, EPOLLIN | EPOLLRDHUP | EPOLLET) < 0)
            drop(d, entry);
    } else {
        d->account.crowded++;
        (void)close(fd);
    }
    pthread_mutex_unlock(&d->lock);
}

bool door_accept(struct door *d, int listener)
{
    for (unsigned int i = 0; i < ACCEPTS_AT_ONCE; i++) {
        struct sockaddr_storage from = {0};
        socklen_t len = sizeof(from);
        int fd = accept4(listener, (struct sockaddr *)&from, &len, SOCK_CLOEXEC);

        if (fd >= 0)
            take(d, fd, &from);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            no_descriptors(d);
        else if (errno != EINTR && errno != ECONNABORTED)
            return false;
    }
    return true;
}

/* 1: the ClientHello is whole; 0: not yet; negative: this is none, or the peer is gone. */
static int look(int fd)
{
    uint8_t first[GATE_LOOK];
    ssize_t n = recv(fd, first, sizeof(first), MSG_PEEK | MSG_DONTWAIT);
    int waiting;
    int r;

    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -ECONNRESET;
    if (n == 0)
        return -ECONNRESET;
    r = gate_look(first, (size_t)n);
    if (r <= 0)
        return r;
    if (ioctl(fd, FIONREAD, &waiting) < 0)
        return -errno;
    return waiting >= r;
}

static void hear(struct door *d, int entry, bool hung_up)
{
    int r;

    if (d->gate.entries[entry].stage != GATE_KNOCKING)
        return;
    r = look(d->fds[entry]);
    if (r == 0 && hung_up)
        r = -ECONNRESET; /* there will be no more of it */
    if (r < 0) {
        d->account.garbage += r == -EPROTO;
        drop(d, entry);
    } else if (r > 0) {
        gate_heard(&d->gate, entry);
    }
}

/* The thread gets the socket, and we keep a second descriptor, which is ours to shut down until HELLO has come: when the
 * thread closes its own is not known here. */
static void begin(struct door *d, int entry)
{
    int fd = d->fds[entry];

    (void)epoll_ctl(d->epoll, EPOLL_CTL_DEL, fd, NULL);
    d->fds[entry] = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (d->fds[entry] >= 0 && d->config.begin(d->config.data, fd, entry))
        return;
    forget_fd(d, entry);
    gate_leave(&d->gate, entry);
    (void)close(fd);
}

static void begin_some(struct door *d, uint64_t now)
{
    int entry;
    int victim;

    while ((entry = gate_begin(&d->gate, now, &victim)) >= 0)
        begin(d, entry);
    if (victim < 0)
        return;
    d->account.crowded++;
    drop(d, victim);
}

static void give_account(struct door *d, uint64_t now)
{
    const struct account *a = &d->account;
    unsigned int all = a->garbage + a->slow + a->crowded + a->refused;

    if (now - d->accounted_ns < ACCOUNT_EVERY)
        return;
    d->lines = 0;
    d->accounted_ns = now;
    if (all)
        log_warn(AREA,
                 "%u connections were dropped: %u spoke no TLS, %u took over %llu s to say who they are, %u had to make room, "
                 "%u were refused",
                 all, a->garbage, a->slow, (unsigned long long)(HANDSHAKE_TIME / NS_PER_SEC), a->crowded, a->refused);
    memset(&d->account, 0, sizeof(d->account));
}

uint64_t door_work(struct door *d)
{
    struct epoll_event events[EVENTS_AT_ONCE];
    int n = epoll_wait(d->epoll, events, EVENTS_AT_ONCE, 0);
    uint64_t now = clock_now();
    uint64_t patience;
    uint64_t count;
    int late;

    pthread_mutex_lock(&d->lock);
    for (int i = 0; i < n; i++) {
        if (events[i].data.u64 == WAKE)
            (void)!read(d->wake, &count, sizeof(count));
        else
            hear(d, (int)events[i].data.u64, events[i].events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR));
    }
    while ((late = gate_overdue(&d->gate, now)) >= 0) {
        d->account.slow++;
        drop(d, late);
    }
    begin_some(d, now);
    give_account(d, now);
    patience = gate_patience(&d->gate, now, PATIENCE);
    pthread_mutex_unlock(&d->lock);
    return patience;
}

void door_close(struct door *d)
{
    pthread_mutex_lock(&d->lock);
    d->closed = true;
    drop_all(d, GATE_KNOCKING);
    drop_all(d, GATE_READY);
    drop_all(d, GATE_SHAKING);
    drop_all(d, GATE_GREETING);
    pthread_mutex_unlock(&d->lock);
}

/* -- the threads of connections -- */

int door_authorized(struct door *d, int entry, const char *fingerprint, struct err *err)
{
    int victim;
    int r;

    pthread_mutex_lock(&d->lock);
    r = gate_authorized(&d->gate, entry, fingerprint, clock_now(), &victim, err);
    if (victim >= 0)
        drop(d, victim);
    pthread_mutex_unlock(&d->lock);
    wake_up(d); /* a handshake less: the next may begin */
    return r;
}

int door_greeted(struct door *d, int entry, bool control, struct err *err)
{
    int r;

    pthread_mutex_lock(&d->lock);
    r = gate_greeted(&d->gate, entry, control, err);
    if (r == 0)
        forget_fd(d, entry);
    pthread_mutex_unlock(&d->lock);
    wake_up(d);
    return r;
}

void door_leave(struct door *d, int entry)
{
    pthread_mutex_lock(&d->lock);
    forget_fd(d, entry);
    gate_leave(&d->gate, entry);
    pthread_mutex_unlock(&d->lock);
    wake_up(d);
}

bool door_may_log(struct door *d)
{
    bool may;

    pthread_mutex_lock(&d->lock);
    may = d->lines < LINES_MOST;
    d->lines += may;
    d->account.refused += !may;
    pthread_mutex_unlock(&d->lock);
    return may;
}
