/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A link of a given rate and delay between this network namespace and that of another process: two TUN devices, and packets that are
 * carried from one to the other when they are due. The kernel's own netem is not on every machine. Ends with its standard input. */
#include "base/bytes.h"
#include "base/clock.h"

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PACKET_MAX 65536
#define QUEUE_MIN  MIB(1) /* octets that a router holds before it drops; twice what is under way if that is more */

struct packet {
    struct packet *next;
    uint64_t due_ns;
    size_t length;
    uint8_t octets[];
};

struct way {
    int from, to;
    uint64_t rate; /* octets a second, 0: no limit */
    uint64_t delay_ns;
    uint64_t queue_max;
    uint64_t free_ns; /* the wire is free again */
    uint64_t queued;
    struct packet *first, **last;
};

/* In the namespace of process `pid`, or this one's when NULL. */
static int open_tun(const char *name, const char *pid)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    char path[64];
    int fd;

    (void)snprintf(path, sizeof(path), "/proc/%s/ns/net", pid ? pid : "self");
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (own < 0 || fd < 0 || setns(fd, CLONE_NEWNET) < 0)
        err(1, "%s", path);
    (void)close(fd);
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    (void)snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", name);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) < 0 || setns(own, CLONE_NEWNET) < 0)
        err(1, "the TUN device %s", name);
    (void)close(own);
    return fd;
}

static void take_in(struct way *w, uint64_t now)
{
    static _Thread_local uint8_t octets[PACKET_MAX];
    ssize_t n;

    while ((n = read(w->from, octets, sizeof(octets))) > 0) {
        struct packet *p;

        if (w->queued + (size_t)n > w->queue_max)
            continue;
        p = malloc(sizeof(*p) + (size_t)n);
        if (!p)
            continue;
        memcpy(p->octets, octets, (size_t)n);
        p->length = (size_t)n;
        p->next = NULL;
        w->free_ns = MAX(w->free_ns, now) + (w->rate ? (uint64_t)n * NS_PER_SEC / w->rate : 0);
        p->due_ns = w->free_ns + w->delay_ns;
        *w->last = p;
        w->last = &p->next;
        w->queued += (size_t)n;
    }
    if (n < 0 && errno != EAGAIN && errno != EIO) /* EIO: it is down yet */
        err(1, "reading packets");
}

static void give_out(struct way *w, uint64_t now)
{
    while (w->first && w->first->due_ns <= now) {
        struct packet *p = w->first;

        (void)!write(w->to, p->octets, p->length); /* one that the other end cannot take is lost, as on a wire */
        w->first = p->next;
        if (!w->first)
            w->last = &w->first;
        w->queued -= p->length;
        free(p);
    }
}

static void *carry(void *data)
{
    struct way *w = data;

    w->last = &w->first;
    for (;;) {
        struct pollfd p = {.fd = w->from, .events = POLLIN};
        uint64_t now = clock_now();
        uint64_t ns;

        take_in(w, now);
        give_out(w, now);
        now = clock_now();
        ns = !w->first ? NS_PER_SEC : w->first->due_ns > now ? w->first->due_ns - now : 0;
        (void)ppoll(&p, 1, &(struct timespec){.tv_sec = (time_t)(ns / NS_PER_SEC), .tv_nsec = (long)(ns % NS_PER_SEC)}, NULL);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    struct way ways[2] = {{0}};
    pthread_t thread;
    char octet;

    if (argc != 4)
        errx(2, "usage: link PID OCTETS-A-SECOND DELAY-MS      0 octets: no limit");
    ways[0].rate = strtoull(argv[2], NULL, 10);
    ways[0].delay_ns = strtoull(argv[3], NULL, 10) * NS_PER_MS;
    ways[0].queue_max = MAX(QUEUE_MIN, 4 * ways[0].rate * ways[0].delay_ns / NS_PER_SEC);
    if (!ways[0].rate)
        ways[0].queue_max = GIB(1);
    ways[1] = ways[0];
    ways[0].from = ways[1].to = open_tun("near", NULL);
    ways[1].from = ways[0].to = open_tun("far", argv[1]);
    if (pthread_create(&thread, NULL, carry, &ways[0]) || pthread_create(&thread, NULL, carry, &ways[1]))
        errx(1, "no thread");
    (void)printf("ready\n");
    (void)fflush(stdout);
    while (read(STDIN_FILENO, &octet, 1) > 0)
        ;
    return 0;
}
