/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Answers heartbeats (guest-heartbeat.h) as long as the guest runs. The port is closed while it
 * does not: its copy on the same machine may need it. */
#include "hv/proc-guest-priv.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "hv/guest-heartbeat.h"

#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

void proc_heartbeat_init(struct proc_heartbeat *h)
{
    *h = (struct proc_heartbeat){.sock = -1, .wake = -1};
    (void)pthread_mutex_init(&h->lock, NULL);
}

void proc_heartbeat_finish(struct proc_heartbeat *h)
{
    proc_heartbeat_stop(h);
    (void)pthread_mutex_destroy(&h->lock);
}

static void answer(struct proc_heartbeat *h)
{
    uint8_t message[GUEST_HEARTBEAT_ANSWER];
    struct sockaddr_in peer;
    socklen_t peer_size = sizeof(peer);
    ssize_t n = recvfrom(h->sock, message, sizeof(message), MSG_DONTWAIT, (struct sockaddr *)&peer,
                         &peer_size);
    uint64_t count;

    if (n != GUEST_HEARTBEAT_REQUEST || memcmp(message, GUEST_HEARTBEAT_MAGIC, 8) != 0)
        return;
    (void)pthread_mutex_lock(&h->lock);
    count = guest_load_heartbeat(h->load);
    (void)pthread_mutex_unlock(&h->lock);
    put_be64(message + GUEST_HEARTBEAT_REQUEST, count);
    (void)!sendto(h->sock, message, sizeof(message), MSG_DONTWAIT, (const struct sockaddr *)&peer,
                  peer_size);
}

static void *serve(void *opaque)
{
    struct proc_heartbeat *h = opaque;
    struct pollfd fds[2] = {{.fd = h->sock, .events = POLLIN}, {.fd = h->wake, .events = POLLIN}};

    while (poll(fds, 2, -1) >= 0 || errno == EINTR) {
        if (fds[1].revents)
            break;
        if (fds[0].revents)
            answer(h);
    }
    return NULL;
}

static int bind_port(struct proc_heartbeat *h, uint16_t port)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(address);

    if (bind(h->sock, (const struct sockaddr *)&address, size) < 0 ||
        getsockname(h->sock, (struct sockaddr *)&address, &size) < 0)
        return -errno;
    h->port = ntohs(address.sin_port);
    return 0;
}

static void close_fds(struct proc_heartbeat *h)
{
    if (h->sock >= 0)
        (void)close(h->sock);
    if (h->wake >= 0)
        (void)close(h->wake);
    h->sock = h->wake = -1;
}

int proc_heartbeat_start(struct proc_heartbeat *h, struct guest_load *load, uint16_t port,
                         struct err *err)
{
    int r;

    if (h->running)
        return 0;
    h->load = load;
    h->sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    h->wake = eventfd(0, EFD_CLOEXEC);
    r = h->sock < 0 || h->wake < 0 ? -errno : bind_port(h, port);
    if (r == -EADDRINUSE && port) {
        log_warn("hv.heartbeat", "UDP port %u is taken: heartbeats are answered at another one",
                 port);
        r = bind_port(h, 0);
    }
    if (r == 0)
        r = -pthread_create(&h->thread, NULL, serve, h);
    if (r < 0) {
        close_fds(h);
        return err_errno(err, r, "heartbeat on UDP port %u", port);
    }
    h->running = true;
    return 0;
}

void proc_heartbeat_stop(struct proc_heartbeat *h)
{
    uint64_t one = 1;

    if (!h->running)
        return;
    (void)!write(h->wake, &one, sizeof(one));
    (void)pthread_join(h->thread, NULL);
    h->running = false;
    close_fds(h);
}
