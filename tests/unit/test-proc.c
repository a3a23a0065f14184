/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Embedded guests moved by hand through the hypervisor seam: what session, mirror and memsync do,
 * without them. The guest at the source is a child of the test; the one at the target is this
 * program again ("guest incoming"). */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "hv/guest-ping.h"
#include "hv/hv.h"
#include "hv/proc-guest.h"
#include "unit.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define MEMORY    MIB(64)
#define PAGE      4096u
#define DISK_SIZE MIB(16)
#define NAME      "vm1"

static char dir[] = "/tmp/xmotion-test-proc-XXXXXX";
static char disk_path[100], copy_path[100];
static pid_t guest;
static struct hv_source *source;
static struct hv_target *target;
static const uint8_t *ram;
static uint8_t *copy;
static struct bitmap dirty;
static struct err err;

static void ok(int r)
{
    ck_assert_msg(r == 0, "%d: %s", r, err.text);
}

static void make_file(char *path, const char *name)
{
    CLEANUP_CLOSE int fd = -1;

    (void)snprintf(path, 100, "%s/%s", dir, name);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    ck_assert(fd >= 0 && ftruncate(fd, (off_t)DISK_SIZE) == 0);
}

/* The two hosts of a move are two run folders of this one. */
static void at_host(char letter)
{
    char path[100];

    (void)snprintf(path, sizeof(path), "%s/%c", dir, letter);
    ck_assert_int_eq(setenv("XMOTION_RUN_DIR", path, 1), 0);
}

static void run_guest(void)
{
    struct proc_guest_config config = {.name = NAME,
                                       .memory = MEMORY,
                                       .dirty_rate = MIB(40),
                                       .write_rate = MIB(10),
                                       .disk_count = 1,
                                       .disks = {disk_path}};
    int r;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    r = proc_guest_run(&config, &err);
    if (r < 0)
        fprintf(stderr, "guest: %s\n", err.text);
    exit(r < 0);
}

static void open_source(void)
{
    int r = -ENOENT;

    for (int i = 0; r == -ENOENT && i < 1000; i++) {
        r = hv_source_open_proc(&source, NAME, &err);
        if (r == -ENOENT)
            clock_sleep(10 * NS_PER_MS);
    }
    ok(r);
}

static void begin(void)
{
    ck_assert(mkdtemp(dir) != NULL);
    make_file(disk_path, "disk");
    make_file(copy_path, "copy");
    at_host('A');
    guest = fork();
    ck_assert(guest >= 0);
    if (guest == 0)
        run_guest();
    open_source();
    ok(source->ops->check(source, &err));
    ck_assert_int_eq(bitmap_init(&dirty, MEMORY / PAGE), 0);
}

static void remove_tree(void)
{
    char command[200];

    (void)snprintf(command, sizeof(command), "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}

static void finish(void)
{
    int status;

    ck_assert_int_eq(waitpid(guest, &status, 0), guest);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "guest ended with %x", status);
    bitmap_finish(&dirty);
    remove_tree();
}

static void destroy_source(void)
{
    ok(source->ops->destroy(source, &err));
    source->ops->close(source);
}

static void whole(void)
{
    char text[300];
    int r = proc_guest_verify(NAME, text, sizeof(text), &err);

    ck_assert_msg(r == 0, "%d: %s", r, err.text);
}

static void expect(int fd, int (*next)(void *, struct hv_event *, struct err *), void *who,
                   enum hv_event_kind kind)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    struct hv_event event;

    ck_assert_int_eq(poll(&p, 1, 5000), 1);
    ok(next(who, &event, &err));
    ck_assert_int_eq(event.kind, kind);
}

static int source_next(void *s, struct hv_event *ret, struct err *e)
{
    return source->ops->next_event(s, ret, e);
}

static int target_next(void *t, struct hv_event *ret, struct err *e)
{
    return target->ops->next_event(t, ret, e);
}

static uint64_t copy_dirty(void)
{
    uint64_t pages = 0, first = 0, n;

    for (uint64_t at = 0; (n = bitmap_next_run(&dirty, at, UINT64_MAX, &first)); at = first + n) {
        bitmap_clear_run(&dirty, first, n);
        memcpy(copy + first * PAGE, ram + first * PAGE, n * PAGE);
        pages += n;
    }
    return pages;
}

static uint64_t take_round(void)
{
    uint64_t pages;

    ok(source->ops->log_dirty_take(source, &dirty, &pages, &err));
    return copy_dirty();
}

static void copy_disk(void)
{
    CLEANUP_FREE char *data = NULL;
    CLEANUP_CLOSE int fd = open(copy_path, O_WRONLY | O_CLOEXEC);
    size_t len;

    ck_assert_int_eq(file_read(disk_path, DISK_SIZE, &data, &len), 0);
    ck_assert_int_eq(fd_pwrite_full(fd, data, len, 0), 0);
}

static void open_target(void)
{
    const char *paths[1] = {copy_path};
    struct hv_guest sent;
    json_t *json = hv_guest_to_json(source->ops->guest(source));
    int fd;

    ok(hv_guest_from_json(&sent, json, &err));
    json_decref(json);
    at_host('B');
    ok(hv_target_open_proc(&target, &sent, &err));
    hv_guest_finish(&sent);
    ok(target->ops->check(target, &err));
    ok(target->ops->memory_begin(target, paths, &fd, &copy, &err));
    at_host('A');
}

static uint64_t stat_of(const char *key)
{
    json_t *stats;
    uint64_t n;

    ok(proc_guest_stats(NAME, &stats, &err));
    n = (uint64_t)json_integer_value(json_object_get(stats, key));
    json_decref(stats);
    return n;
}

/* The guest works: that many pages more are walked, disk writes done. */
static void wait_work(uint64_t pages, uint64_t writes)
{
    pages += stat_of("pages_dirtied");
    writes += stat_of("disk_writes");
    for (int i = 0; stat_of("pages_dirtied") < pages || stat_of("disk_writes") < writes; i++) {
        ck_assert_int_lt(i, 6000);
        clock_sleep(5 * NS_PER_MS);
    }
}

/* Everything up to the point where the copy is complete and the source stands still. */
static void move(void)
{
    int fd;

    open_target();
    ok(source->ops->memory_begin(source, &fd, &ram, &err));
    bitmap_set_all(&dirty);
    (void)copy_dirty();
    for (int i = 0; i < 5; i++) {
        wait_work(200, 1);
        ck_assert_uint_gt(take_round(), 100);
    }
    ok(source->ops->suspend(source, &err));
    expect(source->ops->fd(source), source_next, source, HV_SUSPENDED);
    (void)take_round();
    ck_assert_uint_eq(take_round(), 0);
    copy_disk();
    ok(target->ops->memory_complete(target, &err));
    expect(target->ops->fd(target), target_next, target, HV_BUILT);
}

START_TEST(guest_moves)
{
    struct guest_ping_result result;
    uint64_t ns, dirtied;
    json_t *list;

    begin();
    wait_work(500, 5);
    whole();
    dirtied = stat_of("pages_dirtied");
    move();
    ok(source->ops->set_aside(source, &err));
    at_host('B');
    ok(target->ops->run(target, &ns, &err));
    destroy_source();
    target->ops->close(target);
    ck_assert_uint_ge(stat_of("pages_dirtied"), dirtied);
    wait_work(100, 1);
    whole();
    ok(proc_guest_list(&list, &err));
    ck_assert_uint_eq(json_array_size(list), 1);
    ns = (uint64_t)json_integer_value(json_object_get(json_array_get(list, 0), "heartbeat_port"));
    json_decref(list);
    ok(guest_ping_run("127.0.0.1", (uint16_t)ns, 0, 100 * NS_PER_MS, NULL, &result, &err));
    ck_assert_uint_gt(result.answered, 10);
    ok(proc_guest_destroy(NAME, &err));
    ck_assert_int_eq(proc_guest_stats(NAME, &list, &err), -ENOENT);
    finish();
}
END_TEST

/* A lost page and a lost block must be found at the target. */
START_TEST(damage_is_found_at_the_target)
{
    char text[300];
    uint64_t ns;

    begin();
    wait_work(500, 5);
    move();
    for (size_t at = MEMORY / 2;; at += PAGE)
        if (copy[at]) { /* not a page of zeroes */
            copy[at + 100] ^= 1;
            break;
        }
    at_host('B');
    ok(target->ops->run(target, &ns, &err));
    ck_assert_int_eq(proc_guest_verify(NAME, text, sizeof(text), &err), -EBADMSG);
    ck_assert(strstr(text, "RAM page") != NULL);
    ok(target->ops->destroy(target, &err));
    target->ops->close(target);
    at_host('A');
    destroy_source();
    finish();
}
END_TEST

START_TEST(give_back)
{
    begin();
    move();
    ok(source->ops->set_aside(source, &err));
    ck_assert_int_eq(proc_guest_destroy(NAME, &err), -ENOENT);
    ok(target->ops->destroy(target, &err));
    ok(target->ops->destroy(target, &err));
    target->ops->close(target);
    ok(source->ops->resume(source, &err));
    ok(source->ops->resume(source, &err));
    wait_work(100, 1);
    whole();
    destroy_source();
    finish();
}
END_TEST

/* The mover dies: its sockets close and nothing is said. */
static void child_moves(bool set_aside)
{
    pid_t child = fork();
    int fd;

    if (child == 0) {
        open_source();
        ok(source->ops->memory_begin(source, &fd, &ram, &err));
        ok(source->ops->suspend(source, &err));
        if (set_aside)
            ok(source->ops->set_aside(source, &err));
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}

START_TEST(guest_goes_on_when_its_mover_dies)
{
    begin();
    child_moves(false);
    wait_work(100, 1);
    whole();
    destroy_source();
    finish();
}
END_TEST

/* Its copy may run: it is resumed by who knows better. */
START_TEST(set_aside_guest_waits)
{
    begin();
    source->ops->close(source);
    child_moves(true);
    ck_assert_int_eq(hv_source_open_proc(&source, NAME, &err), -ENOENT);
    ok(hv_source_open_proc(&source, NAME "--moved", &err));
    ck_assert_int_lt(source->ops->check(source, &err), 0);
    ok(source->ops->resume(source, &err));
    wait_work(100, 1);
    whole();
    destroy_source();
    finish();
}
END_TEST

START_TEST(copy_dies_with_its_receiver)
{
    struct hv_guest *g;

    begin();
    open_target();
    target->ops->close(target);
    at_host('B');
    for (int i = 0; i < 300; i++) {
        json_t *list;
        size_t n;

        ok(proc_guest_list(&list, &err));
        n = json_array_size(list);
        json_decref(list);
        if (n == 0)
            break;
        ck_assert_int_lt(i, 299);
        clock_sleep(10 * NS_PER_MS);
    }
    at_host('A');
    g = (struct hv_guest *)(uintptr_t)source->ops->guest(source);
    ck_assert_str_eq(g->disks[0].vbd, "disk0");
    destroy_source();
    finish();
}
END_TEST

START_TEST(source_end_is_an_event)
{
    begin();
    ck_assert_int_eq(kill(guest, SIGTERM), 0);
    expect(source->ops->fd(source), source_next, source, HV_GONE);
    source->ops->close(source);
    finish();
}
END_TEST

START_TEST(one_mover_only)
{
    struct hv_source *first;
    int fd;

    begin();
    first = source;
    ok(first->ops->memory_begin(first, &fd, &ram, &err));
    open_source();
    ck_assert_int_eq(source->ops->check(source, &err), -EBUSY);
    ck_assert_int_eq(source->ops->memory_begin(source, &fd, &ram, &err), -EBUSY);
    ck_assert_int_eq(source->ops->destroy(source, &err), -EBUSY);
    source->ops->close(source);
    source = first;
    destroy_source();
    finish();
}
END_TEST

static int stop_ping;

static void *ping(void *result)
{
    json_t *guest_now = NULL;
    json_int_t port;

    if (proc_guest_describe(NAME, &guest_now, NULL) < 0)
        return NULL;
    port = json_integer_value(json_object_get(guest_now, "heartbeat_port"));
    json_decref(guest_now);
    (void)guest_ping_run("127.0.0.1", (uint16_t)port, 0, 0, &stop_ping, result, NULL);
    return NULL;
}

START_TEST(clients_see_one_gap)
{
    struct guest_ping_result result = {0};
    pthread_t pinger;
    uint64_t ns;

    begin();
    ck_assert_int_eq(pthread_create(&pinger, NULL, ping, &result), 0);
    clock_sleep(300 * NS_PER_MS);
    move();
    ok(source->ops->set_aside(source, &err));
    at_host('B');
    clock_sleep(300 * NS_PER_MS);
    ok(target->ops->run(target, &ns, &err));
    destroy_source();
    clock_sleep(300 * NS_PER_MS);
    __atomic_store_n(&stop_ping, 1, __ATOMIC_RELAXED);
    ck_assert_int_eq(pthread_join(pinger, NULL), 0);
    ck_assert_uint_gt(result.answered, 100);
    ck_assert_uint_ge(result.gaps[0].length_ns, 300 * NS_PER_MS);
    ck_assert_uint_lt(result.gaps[1].length_ns, result.gaps[0].length_ns);
    ck_assert_uint_eq(result.count_went_back, 0);
    ok(target->ops->destroy(target, &err));
    target->ops->close(target);
    finish();
}
END_TEST

static json_t *description(const char *name, const char *memory, const char *pfn, const char *disks)
{
    char text[400];
    json_t *json;

    (void)snprintf(text, sizeof(text),
                   "{\"kind\":\"proc\",\"name\":\"%s\",\"uuid\":\"\",\"memory\":%s,\"max_pfn\":%s,"
                   "\"disks\":[%s]}",
                   name, memory, pfn, disks);
    json = json_loads(text, 0, NULL);
    ck_assert_msg(json != NULL, "%s", text);
    return json;
}

static int read_description(json_t *json, struct hv_guest *ret)
{
    int r = hv_guest_from_json(ret, json, &err);

    json_decref(json);
    return r;
}

#define DISK(vbd, label, size)                                                                     \
    "{\"vbd\":\"" vbd "\",\"label\":\"" label "\",\"size\":" size                                  \
    ",\"sector_size\":512,\"read_only\":false}"

START_TEST(hostile_descriptions_are_refused)
{
    static const char *const bad[][4] = {
        {"../x", "4096", "0", ""},
        {"-x", "4096", "0", ""},
        {"", "4096", "0", ""},
        {"x", "-1", "0", ""},
        {"x", "4096", "\"0\"", ""},
        {"x", "4096", "0", "1"},
        {"x", "4096", "0", DISK("a", "\\n", "512")},
        {"x", "4096", "0", DISK("a/b", "", "512")},
        {"x", "4096", "0", DISK("a", "", "511")},
        {"x", "4096", "0", DISK("a", "", "512") "," DISK("a", "", "512")},
    };
    struct hv_guest g;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        ck_assert_int_eq(
            read_description(description(bad[i][0], bad[i][1], bad[i][2], bad[i][3]), &g), -EPROTO);
    ck_assert_int_eq(read_description(json_array(), &g), -EPROTO);
    ck_assert_int_eq(read_description(json_object(), &g), -EPROTO);
    ok(read_description(description("x", "4096", "7", DISK("a", "", "512")), &g));
    ck_assert_int_eq(hv_target_open_proc(&target, &g, &err), -EPROTO);
    hv_guest_finish(&g);
}
END_TEST

int main(int argc, char **argv)
{
    const TTest *const tests[] = {guest_moves,
                                  damage_is_found_at_the_target,
                                  give_back,
                                  guest_goes_on_when_its_mover_dies,
                                  set_aside_guest_waits,
                                  copy_dies_with_its_receiver,
                                  source_end_is_an_event,
                                  one_mover_only,
                                  clients_see_one_gap,
                                  hostile_descriptions_are_refused};

    if (argc == 4 && strcmp(argv[1], "guest") == 0 && strcmp(argv[2], "incoming") == 0) {
        (void)alarm(100); /* one that a failed test left running */
        return proc_guest_incoming(atoi(argv[3]));
    }
    return unit_run("proc", tests, ARRAY_SIZE(tests));
}
