/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hv/agent-spawn.h"

#include "base/cleanup.h"
#include "config.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define CONTROL_FD 3

static bool is_program(char path[PATH_MAX], const char *folder, const char *middle,
                       const char *program)
{
    return snprintf(path, PATH_MAX, "%s%s/%s", folder, middle, program) < PATH_MAX &&
           !access(path, X_OK);
}

static int find_program(const char *program, char path[PATH_MAX], struct err *err)
{
    const char *given = getenv("XMOTION_LIBEXEC_DIR");
    char self[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    if (given && is_program(path, given, "", program))
        return 0;
    self[n > 0 ? n : 0] = '\0';
    slash = strrchr(self, '/');
    if (slash) {
        *slash = '\0';
        if (is_program(path, self, "", program) || is_program(path, self, "/../hv/xen", program))
            return 0;
    }
    if (is_program(path, XMOTION_LIBEXECDIR, "", program))
        return 0;
    return err_set(err, -ENOENT, "the program %s is not in " XMOTION_LIBEXECDIR, program);
}

/* Between fork and exec of a program with threads: only what is safe in a signal handler. */
static void __attribute__((noreturn)) become(const char *path, const char *program, int sock)
{
    char *const argv[] = {(char *)(uintptr_t)program, (char *)(uintptr_t) "--control",
                          (char *)(uintptr_t) "3", NULL};
    sigset_t none;

    sigemptyset(&none);
    if (fork() != 0)
        _exit(EXIT_SUCCESS);
    if (sock == CONTROL_FD ? fcntl(sock, F_SETFD, 0) : dup2(sock, CONTROL_FD) < 0)
        _exit(EXIT_FAILURE);
    (void)close_range(CONTROL_FD + 1, ~0U, 0);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    execv(path, argv);
    _exit(EXIT_FAILURE);
}

int agent_spawn(const char *program, int *ret_sock, struct err *err)
{
    int pair[2], rc, size = 1 << 20;
    char path[PATH_MAX];
    pid_t child;

    rc = find_program(program, path, err);
    if (rc)
        return rc;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return err_errno(err, -errno, "a socket for %s", program);
    for (int i = 0; i < 2; i++) /* a configuration is one message */
        (void)setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
    child = fork();
    if (child == 0)
        become(path, program, pair[1]);
    rc = child < 0 ? -errno : 0;
    close(pair[1]);
    if (child > 0)
        (void)waitpid(child, NULL, 0);
    if (rc) {
        close(pair[0]);
        return err_errno(err, rc, "starting %s", program);
    }
    *ret_sock = pair[0];
    return 0;
}
