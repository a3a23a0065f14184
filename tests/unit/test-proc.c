/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Embedded guests moved by hand through the hypervisor seam: what session, mirror and memsync do, without them. */
#include "proc-pair.h"

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
    ok(target->ops->run(target, NULL, &ns, &err));
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
    ok(target->ops->run(target, NULL, &ns, &err));
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
    ok(target->ops->run(target, NULL, &ns, &err));
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

    if (is_incoming(argc, argv))
        return run_incoming(argv);
    return unit_run("proc", tests, ARRAY_SIZE(tests));
}
