/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of embedded guests are names of sockets in RUN/guests. A name belongs to who listens there:
 * a socket that nobody answers at was left by a guest that was killed, and is removed. */
#include "hv/proc-guest-priv.h"

#include "base/cleanup.h"
#include "base/fdio.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define NAME_TRIES 3

const char *proc_run_dir(void)
{
    const char *dir = getenv("XMOTION_RUN_DIR");

    return dir && *dir ? dir : "/run/xmotion";
}

static int open_guests(struct err *err)
{
    char path[PROC_PATH_MAX];
    int r = snprintf(path, sizeof(path), "%s/guests", proc_run_dir());
    int fd;

    if (r < 0 || (size_t)r >= sizeof(path))
        return err_set(err, -ENAMETOOLONG, "XMOTION_RUN_DIR is too long");
    r = dir_make(path);
    if (r < 0)
        return err_errno(err, r, "%s", path);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_errno(err, -errno, "%s", path) : fd;
}

int proc_name_check(const char *name, struct err *err)
{
    size_t good = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");

    if (!*name || name[good] || *name == '.' || *name == '-')
        return err_set(err, -EINVAL,
                       "'%s' is no name for a guest: letters, digits, '.', '_' and '-'", name);
    if (strlen(name) > PROC_GUEST_NAME_MAX)
        return err_set(err, -EINVAL, "'%s' is longer than %d characters", name,
                       PROC_GUEST_NAME_MAX);
    return 0;
}

/* A path of any length fits into a socket's address by way of its folder's descriptor. */
static void address_of(int dir, const char *name, struct sockaddr_un *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->sun_family = AF_UNIX;
    (void)snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%u/%.*s.sock",
                   (unsigned int)dir % 1000000, PROC_GUEST_NAME_MAX + (int)sizeof(PROC_INCOMING),
                   name);
}

static int connect_at(int dir, const char *name, int *ret_sock)
{
    struct sockaddr_un address;
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int r;

    if (sock < 0)
        return -errno;
    address_of(dir, name, &address);
    if (connect(sock, (const struct sockaddr *)&address, sizeof(address)) < 0) {
        r = -errno;
        (void)close(sock);
        return r;
    }
    *ret_sock = sock;
    return 0;
}

int proc_name_connect(const char *name, int *ret_sock, struct err *err)
{
    CLEANUP_CLOSE int dir = open_guests(err);
    int r;

    if (dir < 0)
        return dir;
    r = connect_at(dir, name, ret_sock);
    if (r == -ENOENT || r == -ECONNREFUSED)
        return err_set(err, -ENOENT, "no embedded guest '%s' runs here", name);
    return r < 0 ? err_errno(err, r, "embedded guest '%s'", name) : 0;
}

/* Removes what a killed guest left. -EEXIST: somebody answers. */
static int free_name(int dir, const char *name, struct err *err)
{
    char file[HV_NAME_MAX + 8];
    int sock;
    int r = connect_at(dir, name, &sock);

    if (r == 0)
        (void)close(sock);
    if (r == -ECONNREFUSED) {
        (void)snprintf(file, sizeof(file), "%s.sock", name);
        (void)unlinkat(dir, file, 0);
        return 0;
    }
    return r == -ENOENT ? 0 : err_set(err, -EEXIST, "an embedded guest '%s' is here already", name);
}

int proc_name_listen(const char *name, int *ret_sock, struct err *err)
{
    CLEANUP_CLOSE int dir = open_guests(err);
    CLEANUP_CLOSE int sock = -1;
    struct sockaddr_un address;
    int r;

    if (dir < 0)
        return dir;
    r = free_name(dir, name, err);
    if (r < 0)
        return r;
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    address_of(dir, name, &address);
    if (sock < 0 || bind(sock, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(sock, PROC_CLIENTS_MAX) < 0)
        return err_errno(err, -errno, "socket of guest '%s'", name);
    *ret_sock = take_fd(&sock);
    return 0;
}

int proc_name_change(const char *from, const char *to, struct err *err)
{
    CLEANUP_CLOSE int dir = open_guests(err);
    char old[HV_NAME_MAX + 8], new[HV_NAME_MAX + 8];
    int r = -EEXIST;

    if (dir < 0)
        return dir;
    (void)snprintf(old, sizeof(old), "%s.sock", from);
    (void)snprintf(new, sizeof(new), "%s.sock", to);
    for (int i = 0; i < NAME_TRIES && r == -EEXIST; i++) {
        r = renameat2(dir, old, dir, new, RENAME_NOREPLACE) < 0 ? -errno : 0;
        if (r == -EEXIST && free_name(dir, to, err) < 0)
            return -EEXIST;
    }
    return r < 0 ? err_errno(err, r, "naming guest '%s' '%s'", from, to) : 0;
}

void proc_name_remove(const char *name)
{
    CLEANUP_CLOSE int dir = open_guests(NULL);
    char file[HV_NAME_MAX + 8];

    (void)snprintf(file, sizeof(file), "%s.sock", name);
    if (dir >= 0)
        (void)unlinkat(dir, file, 0);
}

void proc_dir_remove(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *e;

    if (!dir)
        return;
    while ((e = readdir(dir)))
        if (e->d_name[0] != '.')
            (void)unlinkat(dirfd(dir), e->d_name, 0);
    (void)closedir(dir);
    (void)rmdir(path);
}

/* Removes the folders of guests that were killed: they are named by process. */
static void sweep(const char *guests)
{
    DIR *dir = opendir(guests);
    char path[PROC_PATH_MAX + 300];
    struct dirent *e;

    if (!dir)
        return;
    while ((e = readdir(dir))) {
        char *end;
        long pid = e->d_name[0] == 'd' ? strtol(e->d_name + 1, &end, 10) : 0;

        if (pid <= 0 || *end || (pid != getpid() && (kill((pid_t)pid, 0) == 0 || errno != ESRCH)))
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", guests, e->d_name);
        proc_dir_remove(path);
    }
    (void)closedir(dir);
}

int proc_dir_make(char *ret_path, size_t size, struct err *err)
{
    CLEANUP_FREE char *full = NULL;
    char guests[PROC_PATH_MAX];
    int r;

    (void)snprintf(guests, sizeof(guests), "%.900s/guests", proc_run_dir());
    sweep(guests);
    r = snprintf(ret_path, size, "%s/d%d", guests, (int)getpid());
    if (r < 0 || (size_t)r >= size)
        return err_set(err, -ENAMETOOLONG, "XMOTION_RUN_DIR is too long");
    r = dir_make(ret_path);
    if (r == 0 && !(full = realpath(ret_path, NULL))) /* others will look for what is in it */
        r = -errno;
    if (r == 0 && strlen(full) >= size)
        r = -ENAMETOOLONG;
    if (r < 0)
        return err_errno(err, r, "%s", ret_path);
    strcpy(ret_path, full);
    return 0;
}
