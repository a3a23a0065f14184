/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disks of the embedded guest: nbdkit with the xmotion plugin, reached through libnbd. nbdkit is
 * given a socket that listens already, so that nothing waits for it to come up. */
#include "hv/proc-guest-priv.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "config.h"

#include <assert.h>
#include <fcntl.h>
#include <libgen.h>
#include <libnbd.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#define PLUGIN          "nbdkit-xmotion-plugin.so"
#define ACTIVATED_FD    3 /* where a socket-activated program finds its first socket */
#define STOP_TIMEOUT_NS (3 * NS_PER_SEC)

static int find_in(const char *dir, char *ret_path, size_t size)
{
    int r = snprintf(ret_path, size, "%s/%s", dir, PLUGIN);

    return r > 0 && (size_t)r < size && access(ret_path, R_OK) == 0 ? 0 : -ENOENT;
}

/* $XMOTION_PLUGIN_DIR, the build tree this program stands in, or where it was installed. */
static int find_plugin(char *ret_path, size_t size, struct err *err)
{
    const char *dir = getenv("XMOTION_PLUGIN_DIR");
    char exe[PATH_MAX];
    char beside[PATH_MAX + 16];
    ssize_t n;

    if (dir && find_in(dir, ret_path, size) == 0)
        return 0;
    n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
    if (n > 0) {
        exe[n] = '\0';
        (void)snprintf(beside, sizeof(beside), "%s/../mirror", dirname(exe));
        if (find_in(beside, ret_path, size) == 0)
            return 0;
    }
    if (find_in(XMOTION_PLUGINDIR, ret_path, size) == 0)
        return 0;
    return err_set(err, -ENOENT, "%s is not in %s; XMOTION_PLUGIN_DIR may say where it is", PLUGIN,
                   XMOTION_PLUGINDIR);
}

static int listen_at(const char *path, int *ret_sock, struct err *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock;

    if (strlen(path) >= sizeof(address.sun_path))
        return err_set(err, -ENAMETOOLONG,
                       "%s is too long for a socket: XMOTION_RUN_DIR must be shorter", path);
    strcpy(address.sun_path, path);
    sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (sock < 0 || bind(sock, (const struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(sock, 16) < 0) {
        int r = -errno;

        if (sock >= 0)
            (void)close(sock);
        return err_errno(err, r, "%s", path);
    }
    *ret_sock = sock;
    return 0;
}

/* In the child; does not return. */
static _Noreturn void exec_nbdkit(const char *plugin, const struct proc_disk *d, int sock,
                                  pid_t parent)
{
    char file[HV_PATH_MAX + 8], bitmap[PROC_PATH_MAX + 8], pid[16];
    sigset_t none;

    (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(126); /* it died before it was asked to tell */
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    if (sock == ACTIVATED_FD ? fcntl(sock, F_SETFD, 0) < 0 : dup2(sock, ACTIVATED_FD) < 0)
        _exit(126);
    (void)snprintf(pid, sizeof(pid), "%d", (int)getpid());
    (void)snprintf(file, sizeof(file), "file=%s", d->path);
    (void)snprintf(bitmap, sizeof(bitmap), "bitmap=%s", d->bitmap);
    (void)setenv("LISTEN_PID", pid, 1);
    (void)setenv("LISTEN_FDS", "1", 1);
    (void)execlp("nbdkit", "nbdkit", "-f", "--exit-with-parent", plugin, file, bitmap,
                 (char *)NULL);
    (void)execl("/usr/sbin/nbdkit", "nbdkit", "-f", "--exit-with-parent", plugin, file, bitmap,
                (char *)NULL);
    _exit(127);
}

static int start_server(struct proc_disk *d, struct err *err)
{
    char plugin[PATH_MAX + 32];
    CLEANUP_CLOSE int sock = -1;
    pid_t parent = getpid();
    int r;

    r = find_plugin(plugin, sizeof(plugin), err);
    if (r == 0)
        r = listen_at(d->socket, &sock, err);
    if (r < 0)
        return r;
    d->server = fork();
    if (d->server < 0)
        return err_errno(err, -errno, "fork");
    if (d->server == 0)
        exec_nbdkit(plugin, d, sock, parent);
    return 0;
}

static int nbd_failed(struct err *err, const struct proc_disk *d)
{
    int code = nbd_get_errno();

    return err_set(err, code ? -code : -EIO, "nbdkit could not serve %s: %s", d->path,
                   nbd_get_error());
}

int proc_disk_connect(struct proc_disk *d, struct err *err)
{
    struct nbd_handle *h = nbd_create();
    int64_t size;

    if (!h)
        return nbd_failed(err, d);
    d->nbd = h;
    if (nbd_connect_unix(h, d->socket) < 0)
        return nbd_failed(err, d);
    size = nbd_get_size(h);
    if (size < 0)
        return nbd_failed(err, d);
    if (nbd_is_read_only(h))
        return err_set(err, -EROFS, "%s cannot be written", d->path);
    d->size = (uint64_t)size;
    return 0;
}

/* Octets that have a meaning in a URI are written as %XX. */
static int make_uri(struct proc_disk *d, struct err *err)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~/";
    size_t used = (size_t)snprintf(d->uri, sizeof(d->uri), "nbd+unix:///?socket=");

    for (const char *p = d->socket; *p; p++) {
        if (used + 4 > sizeof(d->uri))
            return err_set(err, -ENAMETOOLONG, "%s is too long", d->socket);
        if (strchr(plain, *p))
            d->uri[used++] = *p;
        else
            used += (size_t)snprintf(d->uri + used, 4, "%%%02X", (unsigned char)*p);
        d->uri[used] = '\0';
    }
    return 0;
}

int proc_disk_start(struct proc_disk *d, unsigned int index, const char *path, const char *dir,
                   struct err *err)
{
    CLEANUP_FREE char *full = realpath(path, NULL);
    int r;

    memset(d, 0, sizeof(*d));
    if (!full || access(full, R_OK | W_OK) < 0)
        return err_errno(err, -errno, "disk %s", path);
    if (strlen(full) >= sizeof(d->path))
        return err_set(err, -ENAMETOOLONG, "disk %s: its path is too long", path);
    strcpy(d->path, full);
    (void)snprintf(d->socket, sizeof(d->socket), "%.1000s/disk%u.sock", dir, index);
    (void)snprintf(d->bitmap, sizeof(d->bitmap), "%.1000s/disk%u.map", dir, index);
    r = make_uri(d, err);
    return r == 0 ? start_server(d, err) : r;
}

void proc_disk_stop(struct proc_disk *d)
{
    if (d->nbd)
        nbd_close(d->nbd);
    d->nbd = NULL;
    if (d->server > 0)
        (void)kill(d->server, SIGTERM);
}

static void wait_for_server(struct proc_disk *d)
{
    uint64_t end = clock_now() + STOP_TIMEOUT_NS;

    while (waitpid(d->server, NULL, WNOHANG) == 0) {
        if (clock_now() > end)
            (void)kill(d->server, SIGKILL);
        clock_sleep(NS_PER_MS);
    }
    d->server = 0;
}

void proc_disk_close(struct proc_disk *d)
{
    proc_disk_stop(d);
    if (d->server > 0)
        wait_for_server(d);
    if (d->socket[0])
        (void)unlink(d->socket);
    if (d->bitmap[0])
        (void)unlink(d->bitmap);
}

/* What the load calls: one writer thread, or the verifier while it is stopped. */

static int result(int r)
{
    int code = r < 0 ? nbd_get_errno() : 0;

    return r < 0 ? (code ? -code : -EIO) : 0;
}

static int disk_pread(void *disk, void *buf, size_t len, uint64_t offset)
{
    struct proc_disk *d = disk;

    return result(nbd_pread(d->nbd, buf, len, offset, 0));
}

static int disk_pwrite(void *disk, const void *buf, size_t len, uint64_t offset)
{
    struct proc_disk *d = disk;

    return result(nbd_pwrite(d->nbd, buf, len, offset, 0));
}

static int disk_zero(void *disk, size_t len, uint64_t offset)
{
    struct proc_disk *d = disk;

    return result(nbd_zero(d->nbd, len, offset, 0));
}

static int disk_flush(void *disk)
{
    struct proc_disk *d = disk;

    return result(nbd_flush(d->nbd, 0));
}

const struct guest_disk_ops proc_disk_ops = {disk_pread, disk_pwrite, disk_zero, disk_flush};
