/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* heartbeat ADDRESS [SECONDS]: asks a guest for its heartbeat every 20 ms until SIGTERM (or for SECONDS) and says how long
 * the guest was silent: "gap" lines for every silence over 100 ms as it ends, at last one "longest" line. A guest's own
 * count must never go back: it would be an older copy of it that answers. */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "hv/guest-heartbeat.h"

#define PORT     7788
#define INTERVAL (20 * NS_PER_MS)
#define NOTABLE  (100 * NS_PER_MS)

struct listener {
    uint64_t start, last; /* `last` is 0 until the first answer */
    uint64_t longest, longest_at;
    uint64_t sent, answered;
    uint64_t count, went_back;
};

static volatile sig_atomic_t stopped;

static void stop(int signal_number)
{
    (void)signal_number;
    stopped = 1;
}

static double ms(uint64_t ns)
{
    return (double)ns / (double)NS_PER_MS;
}

/* Takes one silence into account: from the last answer until `now`. */
static void heard(struct listener *listener, uint64_t now)
{
    uint64_t gap = listener->last ? now - listener->last : 0;

    if (gap > listener->longest) {
        listener->longest = gap;
        listener->longest_at = listener->last - listener->start;
    }
    if (gap > NOTABLE) {
        printf("gap %.1f ms after %.1f ms\n", ms(gap), ms(listener->last - listener->start));
        (void)fflush(stdout);
    }
    listener->last = now;
}

static void ask(struct listener *listener, int fd)
{
    unsigned char request[GUEST_HEARTBEAT_REQUEST] = GUEST_HEARTBEAT_MAGIC;
    uint64_t sequence = htobe64(listener->sent++);

    memcpy(request + 8, &sequence, sizeof(sequence));
    (void)!send(fd, request, sizeof(request), MSG_DONTWAIT); /* a lost one is what is measured */
}

static void take_answers(struct listener *listener, int fd)
{
    unsigned char answer[GUEST_HEARTBEAT_ANSWER + 1];
    uint64_t count;
    ssize_t r;

    while ((r = recv(fd, answer, sizeof(answer), MSG_DONTWAIT)) >= 0 || errno == ECONNREFUSED) {
        if (r != GUEST_HEARTBEAT_ANSWER || memcmp(answer, GUEST_HEARTBEAT_MAGIC, 8))
            continue;
        memcpy(&count, answer + 16, sizeof(count));
        count = be64toh(count);
        listener->went_back += count < listener->count;
        listener->count = count;
        listener->answered++;
        heard(listener, clock_now());
    }
}

static void run(struct listener *listener, int fd, uint64_t until)
{
    struct pollfd pollfd = {.fd = fd, .events = POLLIN};
    uint64_t next = listener->start;

    while (!stopped && clock_now() < until) {
        uint64_t now = clock_now();

        if (now >= next) {
            ask(listener, fd);
            next += INTERVAL;
            if (next < now)
                next = now;
        }
        (void)poll(&pollfd, 1, next > now ? (int)((next - now) / NS_PER_MS) + 1 : 0);
        take_answers(listener, fd);
    }
    if (listener->last)
        heard(listener, clock_now()); /* a silence that has not ended */
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(PORT)};
    struct listener listener = {.start = clock_now()};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (argc < 2 || inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) {
        fprintf(stderr, "usage: heartbeat ADDRESS [SECONDS]\n");
        return 2;
    }
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        perror("heartbeat");
        return 1;
    }
    (void)signal(SIGTERM, stop);
    (void)signal(SIGINT, stop);
    run(&listener, fd, argc > 2 ? listener.start + strtoull(argv[2], NULL, 10) * NS_PER_SEC : UINT64_MAX);
    printf("longest %.1f ms after %.1f ms, sent %llu, answered %llu, count went back %llu times\n", ms(listener.longest),
           ms(listener.longest_at), (unsigned long long)listener.sent, (unsigned long long)listener.answered,
           (unsigned long long)listener.went_back);
    (void)close(fd);
    return listener.answered && !listener.went_back ? 0 : 1;
}
