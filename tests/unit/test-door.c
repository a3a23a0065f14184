/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The receiver's door with real sockets: who gets a thread and who does not, when time is over, and that no descriptor is lost. */
#include "base/bytes.h"
#include "base/clock.h"
#include "session/door.h"

#include "unit.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BEGUN_MOST 256

static const uint8_t hello[9] = {22, 3, 1, 0, 4, 1, 0, 0, 0};

static struct door *door;
static int listener;
static struct err err;

/* Stands for the receiver's threads. */
static struct {
    int fd, entry;
} begun[BEGUN_MOST];
static unsigned int begun_count;
static bool refuse;

static bool begin(void *data, int fd, int entry)
{
    (void)data;
    if (refuse)
        return false;
    ck_assert_uint_lt(begun_count, BEGUN_MOST);
    begun[begun_count].fd = fd;
    begun[begun_count].entry = entry;
    begun_count++;
    return true;
}

static void make(void)
{
    const struct door_config config = {.migrations = 2, .begin = begin};
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};

    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    ck_assert_int_eq(bind(listener, (struct sockaddr *)&any, sizeof(any)), 0);
    ck_assert_int_eq(listen(listener, 4096), 0);
    ck_assert_msg(door_create(&door, &config, &err) == 0, "%s", err.text);
}

static int knock(const void *octets, size_t len)
{
    struct sockaddr_in to;
    socklen_t size = sizeof(to);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&to, &size), 0);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&to, size), 0);
    if (len)
        ck_assert_int_eq(send(fd, octets, len, MSG_NOSIGNAL), (ssize_t)len);
    return fd;
}

static void work(void)
{
    while (door_accept(door, listener))
        ;
    for (int i = 0; i < 50; i++) {
        (void)door_work(door);
        clock_sleep(NS_PER_MS / 5);
    }
}

/* Whether the other end has closed or reset. */
static bool is_over(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    char octet;

    if (poll(&p, 1, 200) != 1)
        return false;
    return recv(fd, &octet, 1, MSG_DONTWAIT) <= 0;
}

static unsigned int descriptors(void)
{
    DIR *d = opendir("/proc/self/fd");
    unsigned int n = 0;

    while (readdir(d))
        n++;
    (void)closedir(d);
    return n;
}

static void leave_all(void)
{
    for (unsigned int i = 0; i < begun_count; i++) {
        (void)close(begun[i].fd);
        door_leave(door, begun[i].entry);
    }
    begun_count = 0;
}

static void finish(void)
{
    door_close(door);
    leave_all();
    door_destroy(door);
    (void)close(listener);
}

START_TEST(a_whole_hello_gets_a_thread)
{
    int fd;

    make();
    fd = knock(hello, sizeof(hello));
    work();
    ck_assert_uint_eq(begun_count, 1);
    ck_assert_int_eq(fcntl(begun[0].fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    ck_assert_int_eq(door_authorized(door, begun[0].entry, "SHA256:x", &err), 0);
    ck_assert_int_eq(door_greeted(door, begun[0].entry, true, &err), 0);
    (void)close(fd);
    finish();
}
END_TEST

START_TEST(a_dripped_hello_gets_one_when_it_is_whole)
{
    int fd;

    make();
    fd = knock(hello, 1);
    for (size_t i = 1; i < sizeof(hello); i++) {
        work();
        ck_assert_uint_eq(begun_count, 0);
        ck_assert_int_eq(send(fd, hello + i, 1, MSG_NOSIGNAL), 1);
    }
    work();
    ck_assert_uint_eq(begun_count, 1);
    (void)close(fd);
    finish();
}
END_TEST

START_TEST(garbage_gets_none)
{
    static const char *const table[] = {"GET / HTTP/1.1\r\n\r\n", "XM", "\x16\x02\x01\x01\x01\x01", "\x15\x03\x03"};
    int fds[ARRAY_SIZE(table)];
    unsigned int before;

    make();
    before = descriptors();
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        fds[i] = knock(table[i], strlen(table[i]));
    work();
    ck_assert_uint_eq(begun_count, 0);
    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        ck_assert_msg(is_over(fds[i]), "row %zu", i);
        (void)close(fds[i]);
    }
    ck_assert_uint_eq(descriptors(), before);
    finish();
}
END_TEST

START_TEST(who_hangs_up_is_forgotten)
{
    unsigned int before;

    make();
    before = descriptors();
    for (unsigned int i = 0; i < 300; i++)
        (void)close(knock(hello, i % 5));
    work();
    ck_assert_uint_eq(begun_count, 0);
    ck_assert_uint_eq(descriptors(), before);
    finish();
}
END_TEST

/* Silent ones fill every place; who speaks gets in at once all the same, and the oldest of the silent goes. */
START_TEST(silence_holds_nobody_up)
{
    enum { SILENT = 1500 };
    static int silent[SILENT];
    int fd;

    make();
    for (unsigned int i = 0; i < SILENT; i++) {
        silent[i] = knock(NULL, 0);
        if (i % 32 == 0)
            work();
    }
    fd = knock(hello, sizeof(hello));
    work();
    ck_assert_uint_eq(begun_count, 1);
    ck_assert(is_over(silent[0]));
    ck_assert(!is_over(silent[SILENT - 1]));
    for (unsigned int i = 0; i < SILENT; i++)
        (void)close(silent[i]);
    (void)close(fd);
    finish();
}
END_TEST

/* Valid ClientHellos and then nothing: no more than 64 threads, and the oldest is told to go. */
START_TEST(half_a_handshake_holds_nobody_up)
{
    enum { HALF = 80 };
    int half[HALF];
    unsigned int first;
    unsigned int over = 0;

    make();
    for (unsigned int i = 0; i < HALF; i++)
        half[i] = knock(hello, sizeof(hello));
    work();
    first = begun_count;
    ck_assert_uint_eq(first, 64);
    for (unsigned int i = 0; i < HALF; i++) {
        struct pollfd p = {.fd = half[i], .events = POLLIN};

        over += poll(&p, 1, 0) == 1;
    }
    ck_assert_uint_eq(over, 1); /* one at a time: the next when it has gone */
    /* Its thread ends: the next begins. */
    (void)close(begun[0].fd);
    door_leave(door, begun[0].entry);
    begun[0] = begun[--begun_count];
    work();
    ck_assert_uint_eq(begun_count, first);
    for (unsigned int i = 0; i < HALF; i++)
        (void)close(half[i]);
    finish();
}
END_TEST

START_TEST(a_thread_that_cannot_be_made)
{
    unsigned int before;
    int fd;

    make();
    before = descriptors();
    refuse = true;
    fd = knock(hello, sizeof(hello));
    work();
    ck_assert(is_over(fd));
    (void)close(fd);
    ck_assert_uint_eq(descriptors(), before);
    finish();
}
END_TEST

START_TEST(closing_ends_whoever_has_said_nothing)
{
    int knocks, shakes, greets, served;

    make();
    knocks = knock(NULL, 0);
    shakes = knock(hello, sizeof(hello));
    work();
    greets = knock(hello, sizeof(hello));
    work();
    served = knock(hello, sizeof(hello));
    work();
    ck_assert_uint_eq(begun_count, 3);
    for (unsigned int i = 1; i < 3; i++)
        ck_assert_int_eq(door_authorized(door, begun[i].entry, "SHA256:x", &err), 0);
    ck_assert_int_eq(door_greeted(door, begun[2].entry, true, &err), 0);
    door_close(door);
    ck_assert(is_over(knocks) && is_over(shakes) && is_over(greets));
    ck_assert(!is_over(served));
    finish();
    (void)close(knocks);
    (void)close(shakes);
    (void)close(greets);
    (void)close(served);
}
END_TEST

/* The whole time is counted, though an octet comes every now and then. */
START_TEST(dripping_does_not_buy_time)
{
    static const uint8_t long_hello[6] = {22, 3, 1, 0x40, 0, 1};
    uint64_t begin_ns = clock_now();
    uint64_t time;
    int fd;

    make();
    fd = knock(long_hello, sizeof(long_hello));
    while (!is_over(fd)) { /* waits a fifth of a second */
        ck_assert_msg(clock_now() - begin_ns < 15 * NS_PER_SEC, "still there");
        (void)door_accept(door, listener);
        (void)door_work(door);
        (void)send(fd, "", 1, MSG_NOSIGNAL);
    }
    time = clock_now() - begin_ns;
    ck_assert_uint_ge(time, 9 * NS_PER_SEC);
    (void)close(fd);
    finish();
}
END_TEST

UNIT_MAIN("door", a_whole_hello_gets_a_thread, a_dripped_hello_gets_one_when_it_is_whole, garbage_gets_none, who_hangs_up_is_forgotten,
          silence_holds_nobody_up, half_a_handshake_holds_nobody_up, a_thread_that_cannot_be_made,
          closing_ends_whoever_has_said_nothing, dripping_does_not_buy_time)
