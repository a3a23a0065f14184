/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fault points (base/fault.h), compiled with them whatever the build has. Each test runs in a process of its own, so the
 * environment that it sets is read anew. */
#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "unit.h"

#include <stdio.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 4
#define EACH    1000

static char last_line[400];

static void keep_line(enum log_level level, const char *line)
{
    ck_assert_int_eq(level, LOG_WARN);
    (void)snprintf(last_line, sizeof(last_line), "%s", line);
}

static void set(const char *spec)
{
    ck_assert_int_eq(setenv("XMOTION_FAULT", spec, 1), 0);
    log_set_sink(keep_line);
}

START_TEST(counts_from_another_point_on)
{
    set("disk.write@2+/source.memory=fail:EIO");
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(fault_point("disk.write", NULL), 0);
    ck_assert_int_eq(fault_point("source.memory", NULL), 0);
    ck_assert_int_eq(fault_point("disk.write", NULL), 0);
    ck_assert_int_eq(fault_point("disk.write", NULL), -EIO);
    ck_assert_int_eq(fault_point("disk.write", NULL), -EIO);
}
END_TEST

START_TEST(nothing_is_asked_for)
{
    ck_assert_int_eq(unsetenv("XMOTION_FAULT"), 0);
    ck_assert_int_eq(fault_point("disk.write", NULL), 0);
    ck_assert_int_eq(fault_point("source.go", NULL), 0);
}
END_TEST

START_TEST(fails_at_its_passing_only)
{
    struct err err = {0};

    set("disk.read@3=fail:ENOSPC");
    ck_assert_int_eq(fault_point("disk.read", &err), 0);
    ck_assert_int_eq(fault_point("disk.write", &err), 0);
    ck_assert_int_eq(fault_point("disk.read", &err), 0);
    ck_assert_str_eq(last_line, "");
    ck_assert_int_eq(fault_point("disk.read", &err), -ENOSPC);
    ck_assert_int_eq(err.code, -ENOSPC);
    ck_assert_ptr_nonnull(strstr(err.text, "disk.read"));
    ck_assert_ptr_nonnull(strstr(last_line, "disk.read@3=fail:ENOSPC"));
    ck_assert_int_eq(fault_point("disk.read", &err), 0);
}
END_TEST

START_TEST(fails_from_its_passing_on)
{
    set("disk.write@2+=fail:EIO");
    ck_assert_int_eq(fault_point("disk.write", NULL), 0);
    for (int i = 0; i < 5; i++)
        ck_assert_int_eq(fault_point("disk.write", NULL), -EIO);
}
END_TEST

START_TEST(several_in_one)
{
    set("journal.write=short,journal.write@2=fail:EROFS,source.go=fail:ETIMEDOUT");
    ck_assert_int_eq(fault_point("journal.write", NULL), FAULT_SHORT);
    ck_assert_int_eq(fault_point("journal.write", NULL), -EROFS);
    ck_assert_int_eq(fault_point("source.go", NULL), -ETIMEDOUT);
    ck_assert_int_eq(fault_point("source.go", NULL), 0);
}
END_TEST

START_TEST(sleeps)
{
    uint64_t begin = clock_now();

    set("target.run=sleep:50");
    ck_assert_int_eq(fault_point("target.run", NULL), 0);
    ck_assert_uint_ge(clock_now() - begin, 50 * NS_PER_MS);
}
END_TEST

static void *pass(void *data)
{
    unsigned int *failed = data;

    for (int i = 0; i < EACH; i++) {
        if (fault_point("disk.read", NULL) < 0)
            (void)__atomic_add_fetch(failed, 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

START_TEST(counts_all_threads)
{
    pthread_t threads[THREADS];
    unsigned int failed = 0;

    set("disk.read@4000=fail:EIO,disk.read@1=fail:EIO");
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, pass, &failed), 0);
    for (int i = 0; i < THREADS; i++)
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    ck_assert_uint_eq(failed, 2);
}
END_TEST

/* Runs one passing in a child; its status as waitpid gives it, its standard error in `ret_said`. */
static int in_child(const char *spec, char *ret_said, size_t size)
{
    int fds[2], status;
    ssize_t n;
    pid_t pid;

    ck_assert_int_eq(pipe(fds), 0);
    pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        (void)dup2(fds[1], STDERR_FILENO);
        (void)setenv("XMOTION_FAULT", spec, 1);
        (void)fault_point("source.go", NULL);
        _exit(0);
    }
    (void)close(fds[1]);
    ck_assert_int_eq(waitpid(pid, &status, WUNTRACED), pid);
    if (WIFSTOPPED(status)) {
        (void)kill(pid, SIGKILL);
        (void)waitpid(pid, NULL, 0);
    }
    n = read(fds[0], ret_said, size - 1);
    ret_said[n > 0 ? n : 0] = '\0';
    (void)close(fds[0]);
    return status;
}

START_TEST(dies_and_stops)
{
    char said[400];
    int status = in_child("source.go=kill", said, sizeof(said));

    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    ck_assert_ptr_nonnull(strstr(said, "source.go=kill"));
    status = in_child("source.go=stop", said, sizeof(said));
    ck_assert(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    ck_assert_ptr_nonnull(strstr(said, "source.go=stop"));
    status = in_child("source.go@2=kill", said, sizeof(said));
    ck_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
END_TEST

START_TEST(a_bad_one_ends_the_process)
{
    static const char *const bad[] = {
        "",
        ",",
        "source.go",
        "source.gone=kill",
        "source.go=",
        "source.go=explode",
        "source.go@0=kill",
        "source.go@=kill",
        "source.go@x=kill",
        "source.go@2x=kill",
        "source.go@-1=kill",
        "source.go@99999999999999999999=kill",
        "source.go=sleep:",
        "source.go=sleep:1s",
        "source.go=fail:",
        "source.go=fail:ENOTHING",
        "source.go=short",
        "disk.write=short,oops",
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char said[800];
        int status = in_child(bad[i], said, sizeof(said));

        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 2, "'%s' was taken", bad[i]);
        ck_assert_msg(strncmp(said, "xmotion: XMOTION_FAULT: ", 24) == 0, "'%s': said '%s'", bad[i], said);
        ck_assert_ptr_eq(strchr(said, '\n'), said + strlen(said) - 1);
    }
}
END_TEST

UNIT_MAIN("fault", counts_from_another_point_on, nothing_is_asked_for, fails_at_its_passing_only, fails_from_its_passing_on, several_in_one, sleeps,
          counts_all_threads, dies_and_stops, a_bad_one_ends_the_process)
