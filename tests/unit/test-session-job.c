/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Migrations under way as list and cancel find them: sockets in a run folder of the test's own. */
#include "base/bytes.h"
#include "base/clock.h"
#include "hv/agent.h"
#include "session/job.h"

#include "temp-dir.h"

#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct err err;

/* A session with a loop of its own, that does nothing but serve its job. */
struct session {
    const char *id, *guest;
    struct loop *loop;
    struct job *job;
    bool stop; /* atomic */
    unsigned int asked;
    pthread_t thread;
};

static json_t *status(void *data)
{
    struct session *s = data;

    s->asked++;
    return json_pack("{s:s, s:s}", "id", s->id, "guest", s->guest);
}

static void *session_main(void *data)
{
    struct session *s = data;

    while (!__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE)) {
        loop_turn(s->loop, NS_PER_SEC);
        job_work(s->job);
    }
    return NULL;
}

static void session_start(struct session *s, const char *id, const char *guest)
{
    memset(s, 0, sizeof(*s));
    s->id = id;
    s->guest = guest;
    ck_assert_int_eq(loop_create(&s->loop, &err), 0);
    ck_assert_msg(job_create(&s->job, s->loop, id, status, s, &err) == 0, "%s", err.text);
    ck_assert_int_eq(pthread_create(&s->thread, NULL, session_main, s), 0);
}

/* Whether it was cancelled meanwhile. */
static bool session_end(struct session *s)
{
    bool cancelled;

    __atomic_store_n(&s->stop, true, __ATOMIC_RELEASE);
    loop_wake(s->loop);
    ck_assert_int_eq(pthread_join(s->thread, NULL), 0);
    cancelled = job_cancelled(s->job);
    job_destroy(s->job);
    loop_destroy(s->loop);
    return cancelled;
}

static void run_dir_make(void)
{
    temp_dir_make();
    ck_assert_int_eq(setenv("XMOTION_RUN_DIR", temp_path("run"), 1), 0);
}

static size_t list(json_t **ret)
{
    json_t *all = NULL;
    size_t n;

    ck_assert_msg(job_list(&all, &err) == 0, "%s", err.text);
    n = json_array_size(all);
    if (ret)
        *ret = all;
    else
        json_decref(all);
    return n;
}

START_TEST(run_folder_is_made)
{
    char dir[100];

    run_dir_make();
    ck_assert_int_eq(job_run_dir(dir, sizeof(dir), &err), 0);
    ck_assert_str_eq(dir, temp_path("run"));
    ck_assert(temp_exists("run"));
    ck_assert_int_eq(job_run_dir(dir, 5, &err), -ENAMETOOLONG);
    ck_assert_uint_eq(list(NULL), 0);
    ck_assert(temp_exists("run/jobs"));
    temp_dir_remove();
}
END_TEST

START_TEST(run_folder_too_deep_for_a_socket)
{
    static char deep[150];
    struct loop *loop;
    struct job *job;

    temp_dir_make();
    (void)snprintf(deep, sizeof(deep), "%s/%0100d", temp_dir, 0);
    ck_assert_int_eq(setenv("XMOTION_RUN_DIR", deep, 1), 0);
    ck_assert_int_eq(loop_create(&loop, &err), 0);
    ck_assert_int_eq(job_create(&job, loop, "abcd", status, NULL, &err), -ENAMETOOLONG);
    ck_assert_ptr_nonnull(strstr(err.text, "too long for a socket"));
    loop_destroy(loop);
    temp_dir_remove();
}
END_TEST

START_TEST(jobs_are_listed)
{
    struct session one, two;
    json_t *all;
    unsigned int seen = 0;

    run_dir_make();
    session_start(&one, "aaaa1111", "web");
    session_start(&two, "bbbb2222.in", "db");
    ck_assert_uint_eq(list(&all), 2);
    for (size_t i = 0; i < 2; i++) {
        const char *guest = json_string_value(json_object_get(json_array_get(all, i), "guest"));

        seen |= strcmp(guest, "web") == 0 ? 1 : 0;
        seen |= strcmp(guest, "db") == 0 ? 2 : 0;
    }
    ck_assert_uint_eq(seen, 3);
    json_decref(all);
    ck_assert(!session_end(&one));
    ck_assert(!session_end(&two));
    ck_assert_uint_eq(one.asked, 1);
    ck_assert(!temp_exists("run/jobs/aaaa1111"));
    ck_assert_uint_eq(list(NULL), 0);
    temp_dir_remove();
}
END_TEST

/* `what` cancels the job aaaa1111 of guest "web", or (-ENOENT) nothing. */
static void check_cancel(const char *what, int result)
{
    struct session web, db;
    int r;

    run_dir_make();
    session_start(&web, "aaaa1111", "web");
    session_start(&db, "bbbb2222", "db");
    r = job_cancel(what, &err);
    ck_assert_msg(r == result, "%s: %d", what, r);
    ck_assert_int_eq(session_end(&web), result == 0);
    ck_assert(!session_end(&db));
    temp_dir_remove();
}

START_TEST(cancel_by_id_its_beginning_or_the_guest)
{
    check_cancel("aaaa1111", 0);
    check_cancel("aaaa", 0);
    check_cancel("web", 0);
}
END_TEST

START_TEST(cancel_of_nothing)
{
    check_cancel("aaa", -ENOENT); /* too little to be an id */
    check_cancel("aaaa11112", -ENOENT);
    check_cancel("we", -ENOENT);
    check_cancel("webx", -ENOENT);
    check_cancel("", -ENOENT);
    ck_assert_ptr_nonnull(strstr(err.text, "no migration of \"\" is under way"));
}
END_TEST

START_TEST(beginning_of_two_ids_cancels_neither)
{
    struct session one, two;
    bool any;
    int r;

    run_dir_make();
    session_start(&one, "aaaa1111", "web");
    session_start(&two, "aaaa2222", "db");
    r = job_cancel("aaaa", &err);
    any = session_end(&one);
    any = session_end(&two) || any;
    ck_assert_int_lt(r, 0);
    ck_assert(!any);
    temp_dir_remove();
}
END_TEST

static void leave_stale_socket(const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s/run/jobs/%s", temp_dir, name);
    ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    ck_assert_int_eq(listen(fd, 1), 0);
    (void)close(fd);
}

START_TEST(stale_socket_is_removed)
{
    struct session s;

    run_dir_make();
    session_start(&s, "aaaa1111", "web");
    leave_stale_socket("bbbb2222");
    ck_assert(temp_exists("run/jobs/bbbb2222"));
    ck_assert_uint_eq(list(NULL), 1);
    ck_assert(!temp_exists("run/jobs/bbbb2222"));
    ck_assert(temp_exists("run/jobs/aaaa1111"));
    (void)session_end(&s);
    temp_dir_remove();
}
END_TEST

/* The second one must not take the first one's socket away. */
START_TEST(id_is_given_once)
{
    struct session s;
    struct loop *loop;
    struct job *job;

    run_dir_make();
    session_start(&s, "aaaa1111", "web");
    ck_assert_int_eq(loop_create(&loop, &err), 0);
    ck_assert_int_eq(job_create(&job, loop, "aaaa1111", status, &s, &err), -EADDRINUSE);
    ck_assert(temp_exists("run/jobs/aaaa1111"));
    ck_assert_uint_eq(list(NULL), 1);
    loop_destroy(loop);
    (void)session_end(&s);
    temp_dir_remove();
}
END_TEST

/* ---- who asks ---- */

static int connect_job(const char *name)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

    (void)snprintf(a.sun_path, sizeof(a.sun_path), "%s/run/jobs/%s", temp_dir, name);
    ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

START_TEST(whoever_asks_nothing_holds_nobody_up)
{
    struct session s;
    int silent, gone;

    run_dir_make();
    session_start(&s, "aaaa1111", "web");
    silent = connect_job("aaaa1111");
    gone = connect_job("aaaa1111");
    (void)close(gone);
    ck_assert_uint_eq(list(NULL), 1);
    (void)close(silent);
    ck_assert(!session_end(&s));
    temp_dir_remove();
}
END_TEST

START_TEST(nonsense_is_answered_and_does_nothing)
{
    static const char *const requests[] = {"{}", "{\"cmd\":5}", "{\"cmd\":\"destroy\"}", "{\"cmd\":\"cancelled\"}"};
    struct session s;

    run_dir_make();
    session_start(&s, "aaaa1111", "web");
    for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
        int fd = connect_job("aaaa1111");
        json_t *answer = NULL;

        ck_assert_int_eq(send(fd, requests[i], strlen(requests[i]), 0), (int)strlen(requests[i]));
        ck_assert_int_eq(agent_recv(fd, 5000, &answer, NULL, &err), 0);
        ck_assert_uint_eq(json_object_size(answer), 0);
        json_decref(answer);
        (void)close(fd);
    }
    ck_assert(!session_end(&s));
    ck_assert_uint_eq(s.asked, 0);
    temp_dir_remove();
}
END_TEST

UNIT_MAIN("session-job", run_folder_is_made, run_folder_too_deep_for_a_socket, jobs_are_listed,
          cancel_by_id_its_beginning_or_the_guest, cancel_of_nothing, beginning_of_two_ids_cancels_neither,
          stale_socket_is_removed, id_is_given_once, whoever_asks_nothing_holds_nobody_up,
          nonsense_is_answered_and_does_nothing)
