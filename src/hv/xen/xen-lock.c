/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Who works on a guest, and who looks after it: locks of files in /run/xmotion that end with the process, however it ends. They
 * are locks of the process (fcntl), so that no child of libxl's keeps one. */
#include "hv/xen/xen-agent.h"

#include "base/clock.h"
#include "base/fdio.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define POLL_MS   100
#define WORDS_MAX 40

static const char *run_dir(void)
{
    const char *dir = getenv("XMOTION_RUN_DIR");

    return dir && *dir ? dir : "/run/xmotion";
}

static int open_lock(const char *name, const char *what)
{
    char path[500];
    int fd, rc = dir_make(run_dir());

    (void)snprintf(path, sizeof(path), "%.200s/xen-%.128s.%s", run_dir(), name, what);
    fd = rc ? -1 : open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return rc ? rc : fd < 0 ? -errno : fd;
}

static struct flock whole_file(void)
{
    return (struct flock){.l_type = F_WRLCK, .l_whence = SEEK_SET};
}

/* The process that has the lock, 0 none. */
static pid_t holder(int fd)
{
    struct flock lock = whole_file();

    return fcntl(fd, F_GETLK, &lock) || lock.l_type == F_UNLCK ? 0 : lock.l_pid;
}

int xen_lock_take(struct agent *a, int wait_ms, struct err *err)
{
    uint64_t end = clock_now() + (uint64_t)wait_ms * NS_PER_MS;
    struct flock lock = whole_file();

    if (a->lock >= 0)
        return 0;
    a->lock = open_lock(a->name, "lock");
    if (a->lock < 0)
        return err_errno(err, a->lock, "the lock of guest %s in %s", a->name, run_dir());
    while (fcntl(a->lock, F_SETLK, &lock)) {
        pid_t pid = holder(a->lock);

        if (clock_now() >= end) {
            xen_lock_drop(a);
            return err_set(err, -EBUSY, "another process (%d) of xmotion still works on guest %s", (int)pid, a->name);
        }
        clock_sleep(POLL_MS * NS_PER_MS);
    }
    return 0;
}

void xen_lock_drop(struct agent *a)
{
    if (a->lock >= 0)
        close(a->lock);
    a->lock = -1;
}

static void monitor_file(uint32_t domid, char name[16])
{
    (void)snprintf(name, 16, "%u", domid);
}

bool xen_monitor_mark(uint32_t domid)
{
    struct flock lock = whole_file();
    char name[16];
    int fd;

    monitor_file(domid, name);
    fd = open_lock(name, "monitor"); /* kept until the process ends */
    return fd >= 0 && !fcntl(fd, F_SETLK, &lock);
}

pid_t xen_monitor_marked(uint32_t domid)
{
    char name[16];
    pid_t pid;
    int fd;

    monitor_file(domid, name);
    fd = open_lock(name, "monitor");
    pid = fd >= 0 ? holder(fd) : 0;
    if (fd >= 0)
        close(fd);
    return pid;
}

/* The words of a process' command line, at most `most`; it is cut at the end of `text`. */
static int read_words(const char *pid, char *text, size_t size, const char **words, int most)
{
    char path[300];
    int fd, count = 0;
    ssize_t n;

    (void)snprintf(path, sizeof(path), "/proc/%s/cmdline", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    n = fd >= 0 ? read(fd, text, size - 1) : -1;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = '\0';
    for (ssize_t at = 0; at < n && count < most; at += (ssize_t)strlen(text + at) + 1)
        words[count++] = text + at;
    return count;
}

static bool has_word(const char *const *words, int count, const char *word)
{
    for (int i = 1; i < count; i++)
        if (!strcmp(words[i], word))
            return true;
    return false;
}

static bool saves(const char *const *words, int count, const char *name, const char *domid)
{
    const char *slash = strrchr(words[0], '/'), *program = slash ? slash + 1 : words[0];

    if (count > 4 && !strcmp(words[1], "--save-domain")) /* libxl's helper or ours */
        return !strcmp(words[4], domid);
    if (!strcmp(program, "xmotion-xen")) /* what our helper becomes when libxl died */
        return count > 2 && !strcmp(words[1], "--resume") && !strcmp(words[2], domid);
    return !strcmp(program, "xl") && (has_word(words, count, name) || has_word(words, count, domid)) &&
           (has_word(words, count, "save") || has_word(words, count, "migrate") || has_word(words, count, "remus"));
}

pid_t xen_saver_of(const char *name, uint32_t domid)
{
    pid_t found = 0, monitor = xen_monitor_marked(domid), self = getpid();
    const char *words[WORDS_MAX];
    char text[2000], number[16];
    struct dirent *entry;
    DIR *proc = opendir("/proc");

    (void)snprintf(number, sizeof(number), "%u", domid);
    while (proc && !found && (entry = readdir(proc))) {
        pid_t pid = atoi(entry->d_name);
        int count = pid > 0 && pid != self && pid != monitor
                        ? read_words(entry->d_name, text, sizeof(text), words, WORDS_MAX)
                        : 0;

        if (count > 1 && saves(words, count, name, number))
            found = pid;
    }
    if (proc)
        closedir(proc);
    return found;
}
