/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The hypervisor seam on real Xen without the engine: a guest moves with its memory, its disks must
 * be at the target already (or do not matter). In the target's dom0, then in the source's: hv-try
 * target PORT DISK...            hv-try source GUEST ADDRESS PORT ROUNDS [--give-back] The libxl
 * stream goes over one connection, read and written again by memsync's libxc-stream on the way; one
 * line of JSON a message over another. --die STAGE (open, policy, suspended, saved, built, aside)
 * kills this process there, without a chance to clean up: the guest must survive that. --wait FILE:
 * GO is given when FILE exists, so that the disks can be copied while the guest stands still.
 * Prints "KEY VALUE" lines, times in milliseconds since the suspend. */
#include "base/clock.h"
#include "base/fdio.h"
#include "hv/hv.h"
#include "memsync/libxc-stream.h"
#include "transport/wire.h"

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *die_at = "", *wait_file;
static uint64_t began, zero;

static struct hv_source *given_back_on_failure;

static void stage(const char *name)
{
    printf("stage %s\n", name);
    fflush(stdout);
    if (!strcmp(die_at, name))
        kill(getpid(), SIGKILL);
}

static void tell_time(const char *what)
{
    printf("%s %.1f\n", what, zero ? (double)(clock_now() - zero) / 1e6 : 0.0);
    fflush(stdout);
}

static void __attribute__((noreturn)) give_back_and_end(void)
{
    struct hv_source *s = given_back_on_failure;
    struct err err = {0};

    given_back_on_failure = NULL;
    if (s)
        printf("resume: %s\n", s->ops->resume(s, &err) ? err.text : "ok");
    exit(EXIT_FAILURE);
}

static void need(int rc, const struct err *err, const char *what)
{
    if (!rc)
        return;
    printf("failed %s: %s (%d)\n", what, err->text, rc);
    give_back_and_end();
}

/* Control messages: one JSON text a line. */
static void say(FILE *control, json_t *message)
{
    (void)json_dumpf(message, control, JSON_COMPACT);
    (void)fputc('\n', control);
    (void)fflush(control);
    json_decref(message);
}

static json_t *hear(FILE *control)
{
    static char line[1 << 20];
    json_t *message = fgets(line, sizeof(line), control) ? json_loads(line, 0, NULL) : NULL;

    if (!message) {
        printf("failed: the other side is gone\n");
        give_back_and_end();
    }
    return message;
}

static bool hear_word(FILE *control, const char *word)
{
    json_t *message = hear(control);
    const char *heard = json_string_value(json_object_get(message, "say"));
    bool same = heard && !strcmp(heard, word);

    if (!same)
        printf("heard %s, expected %s\n", heard ? heard : "nothing", word);
    json_decref(message);
    return same;
}

static void say_word(FILE *control, const char *word)
{
    say(control, json_pack("{s:s}", "say", word));
}

static int dial(const char *address, int port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    inet_pton(AF_INET, address, &to.sin_addr);
    if (connect(sock, (struct sockaddr *)&to, sizeof(to))) {
        perror(address);
        exit(EXIT_FAILURE);
    }
    return sock;
}

static int listen_at(int port)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;

    setsockopt(sock, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(sock, (struct sockaddr *)&at, sizeof(at)) || listen(sock, 2)) {
        perror("listen");
        exit(EXIT_FAILURE);
    }
    return sock;
}

struct relay {
    int from, to;
    uint64_t pages, zeroes, records;
};

static int relay_pages(void *data, const uint64_t *entries, uint32_t count, const uint8_t *pages,
                       struct err *err)
{
    static uint8_t kept[LIBXC_PAGES_MAX * WIRE_PAGE_SIZE];
    uint64_t marked[LIBXC_PAGES_MAX];
    struct relay *r = data;
    size_t used = 0;

    r->records++;
    for (uint32_t i = 0; i < count; i++) {
        marked[i] = entries[i];
        if (!wire_pfn_has_data(entries[i]))
            continue;
        r->pages++;
        if (!pages[0] && !memcmp(pages, pages + 1, WIRE_PAGE_SIZE - 1)) {
            marked[i] |= WIRE_PFN_ZERO;
            r->zeroes++;
        } else {
            memcpy(kept + WIRE_PAGE_SIZE * used++, pages, WIRE_PAGE_SIZE);
        }
        pages += WIRE_PAGE_SIZE;
    }
    return libxc_write_pages(r->to, marked, count, kept, err);
}

static int relay_octets(void *data, const uint8_t *octets, size_t len, struct err *err)
{
    struct relay *r = data;
    int rc = fd_write_full(r->to, octets, len);

    return rc ? err_errno(err, rc, "sending the stream") : 0;
}

/* The source's stream, parsed and written again to the target's connection. */
static void *relay_parsed(void *data)
{
    static const struct libxc_reader_ops ops = {.pages = relay_pages, .octets = relay_octets};
    struct relay *r = data;
    struct err err = {0};
    int rc = libxc_stream_read(r->from, false, &ops, r, &err);

    printf("stream %s: %llu records, %llu pages, %llu zero\n", rc ? err.text : "whole",
           (unsigned long long)r->records, (unsigned long long)r->pages,
           (unsigned long long)r->zeroes);
    fflush(stdout);
    close(r->from);
    shutdown(r->to, SHUT_WR);
    return NULL;
}

static void *relay_raw(void *data)
{
    static uint8_t buffer[1 << 20];
    struct relay *r = data;
    ssize_t n;

    while ((n = read(r->from, buffer, sizeof(buffer))) > 0 &&
           !fd_write_full(r->to, buffer, (size_t)n))
        ;
    close(r->to);
    return NULL;
}

static void wait_fd(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    (void)poll(&p, 1, -1);
}

/* Until `wanted` comes; policy questions are answered on the way. */
static void source_until(struct hv_source *s, enum hv_event_kind wanted, unsigned int rounds)
{
    struct hv_event event;
    struct err err = {0};

    for (;;) {
        int rc = s->ops->next_event(s, &event, &err);

        if (rc == -EAGAIN) {
            wait_fd(s->ops->fd(s));
            continue;
        }
        need(rc, &err, "next_event");
        if (event.kind == HV_POLICY) {
            printf("%.1f s: policy %u %s dirty %lld written %llu\n",
                   (double)(clock_now() - began) / 1e9, event.iteration,
                   event.before_round ? "before" : "after", (long long)event.dirty_pages,
                   (unsigned long long)event.total_written);
            fflush(stdout);
            stage("policy");
            if (!event.before_round)
                clock_sleep(300 * NS_PER_MS);
            need(s->ops->policy_answer(
                     s,
                     !event.before_round && event.iteration + 1 >= rounds ? HV_STOP : HV_CONTINUE,
                     &err),
                 &err, "policy");
        } else if (event.kind == wanted) {
            if (event.duration_ns)
                printf("duration %.1f\n", (double)event.duration_ns / 1e6);
            return;
        } else {
            printf("event %d: %s\n", event.kind, event.text);
            fflush(stdout);
            if (event.kind == HV_FAILED || event.kind == HV_GONE)
                give_back_and_end();
        }
    }
}

static void source_hand_over(struct hv_source *s, FILE *control)
{
    struct err err = {0};

    need(s->ops->set_aside(s, &err), &err, "set_aside");
    tell_time("aside");
    stage("aside");
    say_word(control, "go");
    given_back_on_failure = NULL; /* GO is sent */
    if (!hear_word(control, "running"))
        exit(EXIT_FAILURE);
    tell_time("running");
    need(s->ops->destroy(s, &err), &err, "destroy");
    tell_time("destroyed");
}

static void source_take_back(struct hv_source *s, FILE *control)
{
    struct err err = {0};

    say_word(control, "destroy");
    if (!hear_word(control, "destroyed"))
        exit(EXIT_FAILURE);
    tell_time("target-destroyed");
    need(s->ops->resume(s, &err), &err, "resume");
    tell_time("resumed");
}

static int run_source(char **argv, bool give_back)
{
    struct relay relay = {0};
    struct hv_source *s;
    struct err err = {0};
    int control_fd;
    pthread_t thread;
    FILE *control;

    need(hv_source_open_xen(&s, argv[0], &err), &err, "open");
    printf("guest %s %s, %llu MiB, max PFN 0x%llx\n", s->ops->guest(s)->kind,
           s->ops->guest(s)->name, (unsigned long long)s->ops->guest(s)->memory >> 20,
           (unsigned long long)s->ops->guest(s)->max_pfn);
    for (unsigned int i = 0; i < s->ops->guest(s)->disk_count; i++)
        printf("disk %s %s %llu\n", s->ops->guest(s)->disks[i].vbd, s->ops->guest(s)->disks[i].path,
               (unsigned long long)s->ops->guest(s)->disks[i].size);
    need(s->ops->check(s, &err), &err, "check");
    if (!argv[1])
        return EXIT_SUCCESS;
    control_fd = dial(argv[1], atoi(argv[2]));
    relay.to = dial(argv[1], atoi(argv[2]));
    control = fdopen(control_fd, "r+");
    stage("open");
    say(control, hv_guest_to_json(s->ops->guest(s)));
    if (!hear_word(control, "ready"))
        return EXIT_FAILURE;
    given_back_on_failure = s;
    need(s->ops->memory_begin(s, &relay.from, NULL, &err), &err, "memory_begin");
    pthread_create(&thread, NULL, relay_parsed, &relay);
    source_until(s, HV_SUSPENDED, (unsigned int)atoi(argv[3]));
    zero = clock_now();
    stage("suspended");
    source_until(s, HV_SAVED, 0);
    tell_time("saved");
    stage("saved");
    pthread_join(thread, NULL);
    if (!hear_word(control, "built"))
        return EXIT_FAILURE;
    tell_time("built");
    stage("built");
    while (wait_file && access(wait_file, F_OK))
        clock_sleep(100 * NS_PER_MS);
    if (give_back)
        source_take_back(s, control);
    else
        source_hand_over(s, control);
    s->ops->close(s);
    return EXIT_SUCCESS;
}

static int run_resume(const char *guest)
{
    struct hv_source *s;
    struct err err = {0};

    need(hv_source_open_xen(&s, guest, &err), &err, "open");
    need(s->ops->resume(s, &err), &err, "resume");
    s->ops->close(s);
    return EXIT_SUCCESS;
}

static void target_until_built(struct hv_target *t)
{
    struct hv_event event = {.kind = HV_NOTHING};
    struct err err = {0};

    while (event.kind != HV_BUILT) {
        int rc = t->ops->next_event(t, &event, &err);

        if (rc == -EAGAIN) {
            wait_fd(t->ops->fd(t));
            continue;
        }
        need(rc, &err, "next_event");
        if (event.kind == HV_FAILED) {
            printf("failed: %s\n", event.text);
            exit(EXIT_FAILURE);
        }
    }
    printf("after-stream %.1f\n", (double)event.duration_ns / 1e6);
}

static int run_target(int port, const char *const *disks)
{
    int listener = listen_at(port), control_fd = accept(listener, NULL, NULL);
    struct relay relay = {.from = accept(listener, NULL, NULL)};
    FILE *control = fdopen(control_fd, "r+");
    struct hv_target *t;
    struct hv_guest guest;
    struct err err = {0};
    uint64_t ns = 0;
    json_t *json = hear(control), *order;
    pthread_t thread;

    need(hv_guest_from_json(&guest, json, &err), &err, "guest");
    need(hv_target_open_xen(&t, &guest, &err), &err, "open");
    need(t->ops->check(t, &err), &err, "check");
    need(t->ops->memory_begin(t, disks, &relay.to, NULL, &err), &err, "memory_begin");
    pthread_create(&thread, NULL, relay_raw, &relay);
    say_word(control, "ready");
    stage("open");
    target_until_built(t);
    stage("built");
    say_word(control, "built");
    order = hear(control);
    if (!strcmp(json_string_value(json_object_get(order, "say")), "go")) {
        need(t->ops->run(t, NULL, &ns, &err), &err, "run");
        say_word(control, "running");
        printf("run %.1f\n", (double)ns / 1e6);
    } else {
        need(t->ops->destroy(t, &err), &err, "destroy");
        say_word(control, "destroyed");
    }
    stage("end");
    pthread_join(thread, NULL);
    t->ops->close(t);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    bool give_back = false;
    int used = 1;

    signal(SIGPIPE, SIG_IGN);
    began = clock_now();
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--give-back"))
            give_back = true;
        else if (!strcmp(argv[i], "--wait") && i + 1 < argc)
            wait_file = argv[++i];
        else if (!strcmp(argv[i], "--die") && i + 1 < argc)
            die_at = argv[++i];
        else
            argv[used++] = argv[i];
    }
    argv[used] = NULL;
    if (used >= 3 && !strcmp(argv[1], "source"))
        return run_source(argv + 2, give_back);
    if (used >= 3 && !strcmp(argv[1], "resume"))
        return run_resume(argv[2]);
    if (used >= 3 && !strcmp(argv[1], "target"))
        return run_target(atoi(argv[2]), (const char *const *)argv + 3);
    fprintf(stderr, "usage: see the top of tests/xen/hv-try.c\n");
    return 2;
}
