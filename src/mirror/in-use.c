/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/in-use.h"

#include "base/clock.h"

#include <fcntl.h>
#include <signal.h>

#define TRIES     20
#define TRY_AGAIN (10 * NS_PER_MS)

/* The kernel gives a write lease only to who is alone with the file (fcntl(2)). It is given back at once: nobody is kept out. Whoever opens the file
 * in between makes the kernel send a signal, which must not be SIGIO: that ends a process. */
int in_use_check(int fd, const char *path, struct err *err)
{
    if (fcntl(fd, F_SETSIG, SIGURG) < 0)
        return err_errno(err, -errno, "%s: F_SETSIG", path);
    for (int i = 0; i < TRIES; i++) {
        if (fcntl(fd, F_SETLEASE, F_WRLCK) == 0) {
            (void)fcntl(fd, F_SETLEASE, F_UNLCK);
            return 0;
        }
        if (errno != EAGAIN)
            return 0;
        clock_sleep(TRY_AGAIN); /* a child of ours may hold what we have closed, for as long as it takes from fork to exec */
    }
    return err_set(err, -EBUSY, "%s is in use (a process or a loop device has it open)", path);
}
