/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/run.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/log.h"

#include <fcntl.h>
#include <spawn.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>

extern char **environ;

/* Reads until the end of the pipe; what does not fit is read and dropped. */
static void read_output(int fd, char *output, size_t size)
{
    char drop[512];
    size_t used = 0;

    for (;;) {
        bool full = used + 1 >= size;
        ssize_t n = full ? read(fd, drop, sizeof(drop)) : read(fd, output + used, size - 1 - used);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        if (!full)
            used += (size_t)n;
    }
    output[used] = '\0';
    while (used && (output[used - 1] == '\n' || output[used - 1] == ' '))
        output[--used] = '\0';
}

static int spawn(const char *const *argv, char *const *env, int out, pid_t *ret_pid)
{
    posix_spawn_file_actions_t actions;
    int r;

    (void)posix_spawn_file_actions_init(&actions);
    (void)posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    (void)posix_spawn_file_actions_adddup2(&actions, out, 1);
    (void)posix_spawn_file_actions_adddup2(&actions, out, 2);
    r = posix_spawnp(ret_pid, argv[0], &actions, NULL, (char *const *)argv, env);
    (void)posix_spawn_file_actions_destroy(&actions);
    return -r;
}

static int run(const char *const *argv, char *const *env, char *output, size_t size, struct err *err)
{
    CLEANUP_CLOSE int in = -1;
    CLEANUP_CLOSE int out = -1;
    uint64_t begin = clock_now();
    int fds[2];
    int status;
    pid_t pid;
    int r;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return err_errno(err, -errno, "pipe");
    in = fds[0];
    out = fds[1];
    r = spawn(argv, env, out, &pid);
    if (r == -ENOENT)
        return err_set(err, r, "the program %s is not installed here", argv[0]);
    if (r < 0)
        return err_errno(err, r, "starting %s", argv[0]);
    (void)close(take_fd(&out));
    read_output(in, output, size);
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return err_errno(err, -errno, "waiting for %s", argv[0]);
    }
    log_debug("base.run", "%s ended after %llu ms", argv[0], (unsigned long long)((clock_now() - begin) / NS_PER_MS));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    if (WIFSIGNALED(status))
        return err_set(err, -EREMOTEIO, "%s was ended by signal %d", argv[0], WTERMSIG(status));
    return err_set(err, -EREMOTEIO, "%s failed with code %d: %s", argv[0], WEXITSTATUS(status), output);
}

int run_program(const char *const *argv, char *output, size_t size, struct err *err)
{
    return run(argv, environ, output, size, err);
}

int run_shell(const char *command, const char *name_value, struct err *err)
{
    const char *const argv[] = {"/bin/sh", "-c", command, NULL};
    CLEANUP_FREE const char **env = NULL;
    char output[300];
    size_t n = 0;

    while (environ[n])
        n++;
    env = calloc(n + 2, sizeof(*env));
    if (!env)
        return err_set(err, -ENOMEM, "out of memory");
    memcpy(env, environ, n * sizeof(*env));
    env[n] = name_value;
    return run(argv, (char *const *)env, output, sizeof(output), err);
}
