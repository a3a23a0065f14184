/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Datagrams of a heartbeat: requests as the embedded guest gets them, answers as `xmotion guest ping` does. The input is datagrams,
 * each behind an octet: 1 an answer, else a request; and its length, an octet.
 * fuzz: -max_len=400 */
#include "fuzz.h"

#include <sys/socket.h>
#include <sys/types.h>

static ssize_t fake_recvfrom(int sock, void *buf, size_t len);
static ssize_t fake_sendto(const void *buf, size_t len);
#define recvfrom(sock, buf, len, flags, peer, size) fake_recvfrom(sock, buf, len)
#define sendto(sock, buf, len, flags, peer, size)   ((void)(size), fake_sendto(buf, len))
#include "hv/proc-guest-heartbeat.c"
#undef recvfrom
#undef sendto
#include "hv/guest-ping.c"

static struct input datagram;
static uint64_t count, answered;

uint64_t guest_load_heartbeat(struct guest_load *load)
{
    return ++count;
}

static ssize_t fake_recvfrom(int sock, void *buf, size_t len)
{
    size_t n = datagram.left < len ? datagram.left : len;

    memcpy(buf, datagram.at, n);
    return (ssize_t)n;
}

static ssize_t fake_sendto(const void *buf, size_t len)
{
    CHECK(len == GUEST_HEARTBEAT_ANSWER && memcmp(buf, GUEST_HEARTBEAT_MAGIC, 8) == 0);
    touch(buf, len);
    answered++;
    return (ssize_t)len;
}

/* An answer as the loop of guest-ping.c takes it: one octet more than it may have is seen. */
static void take(struct ping *p)
{
    uint8_t message[GUEST_HEARTBEAT_ANSWER + 1];

    take_answer(p, message, fake_recvfrom(-1, message, sizeof(message)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct guest_ping_result result;
    struct ping p = {.result = &result};
    struct proc_heartbeat h = {.sock = -1};
    struct input in = {data, size};

    memset(&result, 0, sizeof(result));
    (void)pthread_mutex_init(&h.lock, NULL);
    result.sent = take_u8(&in);
    count = answered = 0;
    while (in.left) {
        bool answer_comes = take_u8(&in) & 1;
        size_t length = take_u8(&in);

        datagram = (struct input){in.at, length < in.left ? length : in.left};
        if (answer_comes)
            take(&p);
        else
            answer(&h);
        in.at += datagram.left;
        in.left -= datagram.left;
    }
    CHECK(count == answered && result.count_went_back <= result.answered && result.gap_count <= GUEST_PING_GAPS_MAX);
    for (unsigned int i = 1; i < result.gap_count; i++)
        CHECK(result.gaps[i - 1].length_ns >= result.gaps[i].length_ns);
    (void)pthread_mutex_destroy(&h.lock);
    return 0;
}
