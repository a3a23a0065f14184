/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A process for an embedded guest that comes here, or starts here anew: it is this program again, and outlives us. */
#include "hv/hv-proc-priv.h"

#include "base/cleanup.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define INCOMING_FD 3 /* the guest's end of its control socket */

/* In the child of a child, so that nobody waits for it: it outlives us. Calls only what is safe
 * after a fork of many threads. */
static _Noreturn void exec_incoming(int sock)
{
    char *const argv[] = {(char *)"xmotion", (char *)"guest", (char *)"incoming", (char *)"3",
                          NULL};
    int null = open("/dev/null", O_RDWR);
    sigset_t none;
    pid_t pid;

    (void)setsid();
    pid = fork();
    if (pid != 0)
        _exit(pid < 0 ? 1 : 0);
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(sock, INCOMING_FD) < 0 || (sock == INCOMING_FD && fcntl(sock, F_SETFD, 0) < 0))
        _exit(126);
    for (int fd = 0; fd <= 2 && null >= 0;
         fd++) /* who waits for the end of our output must not wait for the guest */
        (void)dup2(null, fd);
    (void)syscall(SYS_close_range, INCOMING_FD + 1, ~0U, 0);
    (void)execv("/proc/self/exe", argv);
    _exit(127);
}

int proc_link_spawn(struct proc_link *l, struct err *err)
{
    CLEANUP_CLOSE int theirs = -1;
    int pair[2], status;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(err, -errno, "socketpair");
    l->sock = pair[0];
    theirs = pair[1];
    if (theirs <= 2) /* our own standard streams are closed */
        return err_set(err, -EBADF, "standard input, output or error is closed");
    pid = fork();
    if (pid < 0)
        return err_errno(err, -errno, "fork");
    if (pid == 0)
        exec_incoming(theirs);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return proc_link_watch(l, err);
}
