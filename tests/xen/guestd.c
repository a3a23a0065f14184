/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* guestd [-a] RAM_MIB DIRTY_KIB WRITE_KIB DISK...: what runs in a guest of the lab. It lets the load of src/hv/guest-load.h work on
 * its RAM and its disks, answers heartbeats on UDP port 7788 and commands, a datagram each, on UDP port 7789:
 *   status               one line of statistics, and a number that is another one after a restart
 *   verify               stops the load, proves RAM and disks whole ("ok ..." or "BAD ..."), goes on
 *   rates DIRTY WRITE    from now on, KiB a second; 0: none
 * With -a it goes on from what an earlier guestd has left on the disks: a restart of the guest proves that nothing was lost there. If
 * something was, every command is answered with that.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "hv/guest-heartbeat.h"
#include "hv/guest-load.h"

#define HEARTBEAT_PORT 7788
#define COMMAND_PORT   7789
#define KIB            UINT64_C(1024)
#define MIB            (KIB * KIB)

struct guest {
    void *ram;
    size_t ram_size;
    struct guest_load_config config;
    int fds[GUEST_LOAD_DISKS_MAX];
    pthread_mutex_t lock; /* heartbeats against a change of `load`; only the command thread changes it */
    struct guest_load *load;
    char damage[600]; /* "": none */
    unsigned int life; /* another number each time guestd starts */
};

static _Noreturn void die(const char *what, int error)
{
    fprintf(stderr, "guestd: %s: %s\n", what, strerror(error));
    exit(1);
}

/* Disks: block devices opened with O_DIRECT, so that a verify reads what the disk has, not what the page cache has. */

static int disk_pread(void *disk, void *buf, size_t len, uint64_t offset)
{
    const int *fd = disk;
    size_t done = 0;

    while (done < len) {
        ssize_t r = pread(*fd, (char *)buf + done, len - done, (off_t)(offset + done));

        if (r < 0 && errno != EINTR)
            return -errno;
        if (r == 0)
            return -EIO;
        done += r > 0 ? (size_t)r : 0;
    }
    return 0;
}

static int disk_pwrite(void *disk, const void *buf, size_t len, uint64_t offset)
{
    const int *fd = disk;
    size_t done = 0;

    while (done < len) {
        ssize_t r = pwrite(*fd, (const char *)buf + done, len - done, (off_t)(offset + done));

        if (r < 0 && errno != EINTR)
            return -errno;
        done += r > 0 ? (size_t)r : 0;
    }
    return 0;
}

static int disk_zero(void *disk, size_t len, uint64_t offset)
{
    const int *fd = disk;
    uint64_t range[2] = {offset, len};

    return ioctl(*fd, BLKZEROOUT, range) < 0 ? -errno : 0;
}

static int disk_flush(void *disk)
{
    const int *fd = disk;

    return fsync(*fd) < 0 ? -errno : 0;
}

static const struct guest_disk_ops disk_ops = {disk_pread, disk_pwrite, disk_zero, disk_flush};

static void disk_open(struct guest *guest, const char *path)
{
    unsigned int i = guest->config.disk_count++;
    struct guest_load_disk *disk = &guest->config.disks[i];

    guest->fds[i] = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (guest->fds[i] < 0 || ioctl(guest->fds[i], BLKGETSIZE64, &disk->size) < 0)
        die(path, errno);
    disk->ops = &disk_ops;
    disk->disk = &guest->fds[i];
}

/* The load. */

static void load_open(struct guest *guest)
{
    int r = guest_load_open(&guest->load, guest->ram, guest->ram_size, &guest->config);

    if (r == 0)
        r = guest_load_start(guest->load);
    if (r < 0)
        die("the load", -r);
}

static void load_set_rates(struct guest *guest, uint64_t dirty, uint64_t write)
{
    (void)pthread_mutex_lock(&guest->lock);
    guest_load_destroy(guest->load);
    guest->config.dirty_rate = dirty;
    guest->config.write_rate = write;
    load_open(guest);
    (void)pthread_mutex_unlock(&guest->lock);
}

static int load_status(struct guest *guest, char *ret_text, size_t size)
{
    struct guest_load_stats stats;

    guest_load_stats(guest->load, &stats);
    return snprintf(ret_text, size, "laps %llu pages %llu writes %llu bytes %llu heartbeats %llu error %d life %08x",
                    (unsigned long long)stats.laps, (unsigned long long)stats.pages_dirtied,
                    (unsigned long long)stats.disk_writes, (unsigned long long)stats.disk_bytes,
                    (unsigned long long)stats.heartbeats, guest_load_error(guest->load), guest->life);
}

static int load_verify(struct guest *guest, char *ret_text, size_t size)
{
    char text[512] = "";
    int error, r;

    guest_load_stop(guest->load);
    error = guest_load_error(guest->load);
    r = guest_load_verify(guest->load, text, sizeof(text));
    if (r < 0)
        r = snprintf(ret_text, size, "BAD %s (%s)", text, strerror(-r));
    else if (error < 0)
        r = snprintf(ret_text, size, "BAD a write failed: %s", strerror(-error));
    else
        r = snprintf(ret_text, size, "ok ");
    if (!strncmp(ret_text, "ok ", 3))
        r += load_status(guest, ret_text + r, size - (size_t)r);
    error = guest_load_start(guest->load);
    if (error < 0)
        die("the load", -error);
    return r;
}

/* What the guest answers. */

static int udp_socket(uint16_t port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd < 0 || bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        die("socket", errno);
    return fd;
}

static _Noreturn void *serve_heartbeats(void *opaque)
{
    struct guest *guest = opaque;
    int fd = udp_socket(HEARTBEAT_PORT);

    for (;;) {
        unsigned char message[GUEST_HEARTBEAT_ANSWER] = {0};
        struct sockaddr_in peer;
        socklen_t length = sizeof(peer);
        ssize_t r = recvfrom(fd, message, sizeof(message), 0, (struct sockaddr *)&peer, &length);
        uint64_t count;

        if (r != GUEST_HEARTBEAT_REQUEST || memcmp(message, GUEST_HEARTBEAT_MAGIC, 8))
            continue;
        (void)pthread_mutex_lock(&guest->lock);
        count = htobe64(guest_load_heartbeat(guest->load));
        (void)pthread_mutex_unlock(&guest->lock);
        memcpy(message + GUEST_HEARTBEAT_REQUEST, &count, sizeof(count));
        (void)!sendto(fd, message, sizeof(message), 0, (const struct sockaddr *)&peer, length);
    }
}

static int command_run(struct guest *guest, const char *command, char *ret_text, size_t size)
{
    unsigned long long dirty, write;

    if (guest->damage[0])
        return snprintf(ret_text, size, "BAD %s", guest->damage);
    if (!strcmp(command, "status"))
        return load_status(guest, ret_text, size);
    if (!strcmp(command, "verify"))
        return load_verify(guest, ret_text, size);
    if (sscanf(command, "rates %llu %llu", &dirty, &write) == 2) {
        load_set_rates(guest, dirty * KIB, write * KIB);
        return snprintf(ret_text, size, "ok");
    }
    return snprintf(ret_text, size, "unknown command \"%s\"", command);
}

static _Noreturn void serve_commands(struct guest *guest)
{
    int fd = udp_socket(COMMAND_PORT);

    for (;;) {
        char command[256], text[1024];
        struct sockaddr_in peer;
        socklen_t length = sizeof(peer);
        ssize_t r = recvfrom(fd, command, sizeof(command) - 1, 0, (struct sockaddr *)&peer, &length);

        if (r <= 0)
            continue;
        command[r] = '\0';
        command[strcspn(command, "\n")] = '\0';
        r = command_run(guest, command, text, sizeof(text));
        printf("guestd: %s: %s\n", command, text);
        (void)!sendto(fd, text, (size_t)r, 0, (const struct sockaddr *)&peer, length);
    }
}

/* Above the load's threads: a heartbeat measures the machine, not the load. */
static void start_heartbeats(struct guest *guest)
{
    struct sched_param priority = {.sched_priority = 1};
    pthread_t thread;
    int r = pthread_create(&thread, NULL, serve_heartbeats, guest);

    if (r != 0)
        die("thread", r);
    (void)pthread_setschedparam(thread, SCHED_FIFO, &priority);
}

static void load_make(struct guest *guest, int adopt)
{
    char text[500] = "";
    int r = adopt ? guest_load_adopt(guest->ram, guest->ram_size, &guest->config, text, sizeof(text))
                  : guest_load_format(guest->ram, guest->ram_size, &guest->config);

    if (adopt)
        printf("guestd: %s\n", text);
    if (r < 0 && adopt)
        (void)snprintf(guest->damage, sizeof(guest->damage), "%s (%s)", text, strerror(-r));
    else if (r < 0)
        die("guest_load_format", -r);
    else
        load_open(guest);
}

int main(int argc, char **argv)
{
    static struct guest guest = {.lock = PTHREAD_MUTEX_INITIALIZER};
    int adopt = argc > 1 && !strcmp(argv[1], "-a");

    argc -= adopt;
    argv += adopt;
    if (argc < 4 || argc - 4 > GUEST_LOAD_DISKS_MAX) {
        fprintf(stderr, "usage: guestd [-a] RAM_MIB DIRTY_KIB WRITE_KIB DISK...\n");
        return 2;
    }
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    guest.ram_size = (size_t)(strtoull(argv[1], NULL, 10) * MIB);
    guest.config.dirty_rate = strtoull(argv[2], NULL, 10) * KIB;
    guest.config.write_rate = strtoull(argv[3], NULL, 10) * KIB;
    for (int i = 4; i < argc; i++)
        disk_open(&guest, argv[i]);
    guest.ram = mmap(NULL, guest.ram_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (guest.ram == MAP_FAILED)
        die("mmap", errno);
    if (getrandom(&guest.life, sizeof(guest.life), GRND_NONBLOCK) < 0)
        guest.life = (unsigned int)time(NULL);
    load_make(&guest, adopt);
    if (!guest.damage[0])
        start_heartbeats(&guest);
    printf("guestd: ready, %s MiB of RAM, %u disks\n", argv[1], guest.config.disk_count);
    serve_commands(&guest);
}
