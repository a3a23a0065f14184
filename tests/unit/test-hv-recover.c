/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is left of an embedded guest after a crash, and what brings it back; and moves that begin anew in the same process. */
#include "hv/hv-recover.h"
#include "hv/proc-guest-priv.h"
#include "proc-pair.h"

#define OTHER_UUID "00000000-0000-4000-8000-000000000000"

static char uuid[40];
static json_t *config;

static void begin_known(void)
{
    begin();
    (void)snprintf(uuid, sizeof(uuid), "%s", source->ops->guest(source)->uuid);
    config = json_incref(source->ops->guest(source)->config);
}

/* What stands of r)unning s)till a)side i)ncoming. */
static void found(const char *what)
{
    struct hv_found f;

    ok(hv_recover_find(&f, "proc", NAME, uuid, &err));
    ck_assert_msg(f.running == !!strchr(what, 'r') && f.still == !!strchr(what, 's') && f.aside == !!strchr(what, 'a') &&
                      f.incoming == !!strchr(what, 'i'),
                  "running %d still %d aside %d incoming %d, not '%s'", f.running, f.still, f.aside, f.incoming, what);
}

/* A sender that dies when it has got that far. */
static void sender_dies(bool suspends, bool sets_aside)
{
    pid_t child = fork();
    int fd;

    if (child == 0) {
        open_source();
        ok(source->ops->memory_begin(source, &fd, &ram, &err));
        if (suspends)
            ok(source->ops->suspend(source, &err));
        if (sets_aside)
            ok(source->ops->set_aside(source, &err));
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
}

static void end(void)
{
    json_decref(config);
    finish();
}

START_TEST(guest_whose_sender_died_is_found)
{
    begin_known();
    source->ops->close(source);
    found("r");
    sender_dies(false, false);
    found("r");
    sender_dies(true, false);
    found("r");
    ok(hv_recover_resume("proc", NAME, uuid, &err));
    ok(hv_recover_unthrottle("proc", NAME, uuid, &err));
    ok(hv_recover_destroy_aside("proc", NAME, uuid, &err));
    ok(hv_recover_destroy_incoming("proc", NAME, uuid, &err));
    wait_work(100, 1);
    whole();
    ok(proc_guest_destroy(NAME, &err));
    found("");
    ck_assert_int_eq(hv_recover_resume("proc", NAME, uuid, &err), -ENOENT);
    ck_assert_int_eq(hv_recover_unthrottle("proc", NAME, uuid, &err), -ENOENT);
    end();
}
END_TEST

START_TEST(guest_set_aside_comes_back)
{
    begin_known();
    source->ops->close(source);
    sender_dies(true, true);
    found("a");
    ok(hv_recover_resume("proc", NAME, uuid, &err));
    found("r");
    wait_work(100, 1);
    whole();
    sender_dies(true, true);
    ok(hv_recover_destroy_aside("proc", NAME, uuid, &err));
    ok(hv_recover_destroy_aside("proc", NAME, uuid, &err));
    found("");
    end();
}
END_TEST

START_TEST(another_guest_of_this_name_is_left_alone)
{
    struct hv_found f;

    begin_known();
    source->ops->close(source);
    sender_dies(true, true);
    ok(hv_recover_find(&f, "proc", NAME, OTHER_UUID, &err));
    ck_assert(!f.running && !f.still && !f.aside && !f.incoming);
    ck_assert_int_eq(hv_recover_resume("proc", NAME, OTHER_UUID, &err), -ENOENT);
    ok(hv_recover_destroy_aside("proc", NAME, OTHER_UUID, &err));
    found("a");
    ok(hv_recover_destroy_aside("proc", NAME, uuid, &err));
    end();
}
END_TEST

START_TEST(who_is_being_moved_is_left_alone)
{
    struct hv_found f;
    int fd;

    begin_known();
    ok(source->ops->memory_begin(source, &fd, &ram, &err));
    ck_assert_int_eq(hv_recover_find(&f, "proc", NAME, uuid, &err), -EBUSY);
    ck_assert(!f.running);
    destroy_source();
    end();
}
END_TEST

/* The host lost its power: processes are gone, disks are not. */
START_TEST(guest_starts_anew_from_its_disks)
{
    const char *paths[1] = {disk_path};
    CLEANUP_CLOSE int fd = -1;
    char page[PAGE];
    json_t *now;

    begin_known();
    source->ops->close(source);
    wait_work(100, 40);
    ck_assert_int_eq(hv_recover_start("proc", NAME, config, paths, 1, &err), -EEXIST);
    ck_assert_int_eq(kill(guest, SIGKILL), 0);
    ck_assert_int_eq(waitpid(guest, NULL, 0), guest);
    found("");
    clock_sleep(200 * NS_PER_MS); /* its disk's server ends too */
    ok(hv_recover_start("proc", NAME, config, paths, 1, &err));
    found("r");
    ck_assert_uint_ge(stat_of("disk_writes"), 40);
    wait_work(100, 5);
    whole();
    ok(proc_guest_describe(NAME, &now, &err));
    ck_assert(json_equal(json_object_get(now, "config"), config));
    json_decref(now);
    ck_assert_int_eq(hv_recover_start("proc", NAME, config, paths, 1, &err), -EEXIST);
    ok(proc_guest_destroy(NAME, &err));
    clock_sleep(200 * NS_PER_MS);

    fd = open(disk_path, O_RDWR | O_CLOEXEC);
    for (uint64_t at = 0; fd_pread_full(fd, page, PAGE, at) == 0; at += PAGE)
        if (page[0]) {
            page[PAGE - 1] ^= 1;
            ck_assert_int_eq(fd_pwrite_full(fd, page, PAGE, at), 0);
            break;
        }
    ck_assert_int_eq(hv_recover_start("proc", NAME, config, paths, 1, &err), -EBADMSG);
    found("");
    json_decref(config);
    bitmap_finish(&dirty);
    remove_tree();
}
END_TEST

/* The connection broke: the target gives its copy back, and all of memory is sent again. */
START_TEST(memory_begins_anew)
{
    const char *paths[1] = {copy_path};
    uint64_t ns;
    int fd;

    begin_known();
    move(); /* an event of the first save waits to be taken */
    ok(source->ops->resume(source, &err));
    ok(target->ops->destroy(target, &err));
    wait_work(100, 1);
    at_host('B');
    found("");
    ok(target->ops->memory_begin(target, paths, &fd, &copy, &err));
    at_host('A');
    ok(source->ops->memory_begin(source, &fd, &ram, &err));
    ok(source->ops->suspend(source, &err)); /* and in the middle of it once more, its event not taken */
    ok(source->ops->resume(source, &err));
    copy_all();
    ok(source->ops->set_aside(source, &err));
    at_host('B');
    ok(target->ops->run(target, NULL, &ns, &err));
    target->ops->close(target);
    wait_work(100, 1);
    whole();
    found("r");
    ok(proc_guest_destroy(NAME, &err));
    at_host('A');
    destroy_source();
    end();
}
END_TEST

START_TEST(copy_of_a_dead_receiver_is_gone)
{
    pid_t child;

    begin_known();
    child = fork();
    if (child == 0) {
        open_target();
        _exit(0);
    }
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    at_host('B');
    ok(hv_recover_destroy_incoming("proc", NAME, uuid, &err));
    found("");
    at_host('A');
    destroy_source();
    end();
}
END_TEST

static pid_t pid_of(const char *listed)
{
    json_t *answer;
    pid_t pid;

    ok(proc_guest_describe(listed, &answer, &err));
    pid = (pid_t)json_integer_value(json_object_get(answer, "pid"));
    json_decref(answer);
    return pid;
}

static void child_says(int fd)
{
    ck_assert_int_eq(write(fd, "", 1), 1);
}

static void child_hears(int fd)
{
    char octet;

    ck_assert_int_eq(read(fd, &octet, 1), 1);
}

/* Its last word was "run". It is taken after recovery has begun to look for a guest that is not yet one. */
START_TEST(copy_that_a_dead_receiver_let_go_is_a_guest)
{
    int ready[2], go[2];
    pid_t child, incoming, waker;
    uint64_t ns;

    begin_known();
    source->ops->close(source);
    ck_assert(pipe(ready) == 0 && pipe(go) == 0);
    child = fork();
    if (child == 0) {
        open_source();
        move();
        ok(source->ops->set_aside(source, &err));
        child_says(ready[1]);
        child_hears(go[0]);
        (void)target->ops->run(target, NULL, &ns, NULL);
        _exit(0);
    }
    child_hears(ready[0]);
    at_host('B');
    incoming = pid_of(NAME "--incoming");
    ck_assert_int_eq(kill(incoming, SIGSTOP), 0);
    child_says(go[1]);
    clock_sleep(100 * NS_PER_MS);
    ck_assert_int_eq(kill(child, SIGKILL), 0);
    ck_assert_int_eq(waitpid(child, NULL, 0), child);
    waker = fork();
    if (waker == 0) {
        clock_sleep(200 * NS_PER_MS);
        _exit(kill(incoming, SIGCONT) != 0);
    }
    found("r");
    ck_assert_int_eq(waitpid(waker, NULL, 0), waker);
    ok(hv_recover_destroy_incoming("proc", NAME, uuid, &err));
    found("r");
    wait_work(100, 1);
    whole();
    ok(proc_guest_destroy(NAME, &err));
    at_host('A');
    ok(hv_recover_destroy_aside("proc", NAME, uuid, &err));
    end();
}
END_TEST

/* Who looked at it under another name meant another state of it. */
START_TEST(command_for_another_name_is_refused)
{
    json_t *answer = NULL;
    int sock;

    begin_known();
    source->ops->close(source);
    ok(proc_name_connect(NAME, &sock, &err));
    ck_assert_int_eq(proc_client_call(sock, json_pack("{s:s, s:s}", "command", "destroy", "listed", NAME "--incoming"), &answer, NULL,
                                      &err), -ESTALE);
    ok(close(sock));
    found("r");
    ok(proc_guest_destroy(NAME, &err));
    end();
}
END_TEST

static uint64_t pages_in(uint64_t ns)
{
    uint64_t before = stat_of("pages_dirtied");

    clock_sleep(ns);
    return stat_of("pages_dirtied") - before;
}

START_TEST(guest_is_slowed_down)
{
    uint64_t fast, slow;

    begin_known();
    wait_work(100, 1);
    fast = pages_in(500 * NS_PER_MS);
    ok(source->ops->throttle(source, 10, &err));
    (void)pages_in(50 * NS_PER_MS);
    slow = pages_in(500 * NS_PER_MS);
    ck_assert_uint_lt(slow, fast / 4);
    ck_assert_uint_gt(slow, 0);
    ck_assert_int_eq(source->ops->throttle(source, 0, &err), -EINVAL);
    ok(source->ops->throttle(source, 100, &err));
    ck_assert_uint_gt(pages_in(500 * NS_PER_MS), fast / 2);
    ok(source->ops->throttle(source, 10, &err));
    source->ops->close(source); /* as if the sender died */
    (void)pages_in(50 * NS_PER_MS);
    ck_assert_uint_gt(pages_in(500 * NS_PER_MS), fast / 2);
    ok(proc_guest_destroy(NAME, &err));
    end();
}
END_TEST

START_TEST(other_kinds)
{
    struct hv_found f = {.running = true};

    ok(hv_recover_find(&f, "none", "disk", "", &err));
    ck_assert(!f.running && !f.still && !f.aside && !f.incoming);
    ok(hv_recover_resume("none", "disk", "", &err));
    ok(hv_recover_start("none", "disk", NULL, NULL, 0, &err));
    ok(hv_recover_destroy_incoming("none", "disk", "", &err));
    ck_assert_int_eq(hv_recover_find(&f, "vmware", "disk", "", &err), -ENOTSUP);
}
END_TEST

int main(int argc, char **argv)
{
    const TTest *const tests[] = {guest_whose_sender_died_is_found,
                                  guest_set_aside_comes_back,
                                  another_guest_of_this_name_is_left_alone,
                                  who_is_being_moved_is_left_alone,
                                  guest_starts_anew_from_its_disks,
                                  memory_begins_anew,
                                  copy_of_a_dead_receiver_is_gone,
                                  copy_that_a_dead_receiver_let_go_is_a_guest,
                                  command_for_another_name_is_refused,
                                  guest_is_slowed_down,
                                  other_kinds};

    return is_incoming(argc, argv) ? run_incoming(argv) : unit_run("hv-recover", tests, ARRAY_SIZE(tests));
}
