/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hv/xen/xen-libxl.h"

#include "hv/xen/xen-agent.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <xentoollog.h>

static char complaint[300];
static xentoollog_level log_level = XTL_INFO;
static bool log_opened;

const char *libxl_complaint(void)
{
    return complaint;
}

void libxl_complaint_clear(void)
{
    complaint[0] = '\0';
}

int err_libxl(struct err *err, int code, int rc, const char *what)
{
    return err_set(err, code, "%s: %s", what, complaint[0] ? complaint : libxl_error_to_string(rc));
}

void agent_log_open(const char *name)
{
    char path[256];
    int fd;

    if (log_opened)
        return;
    (void)snprintf(path, sizeof(path), XEN_LOG_FOLDER "/xmotion-%s.log", name);
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (fd < 0)
        fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    (void)dup2(fd, STDERR_FILENO);
    close(fd);
    log_opened = true;
}

static void __attribute__((format(printf, 2, 0)))
write_line(const char *context, const char *format, va_list al)
{
    char text[1200], date[32];
    struct timespec now;
    struct tm tm;

    if (!log_opened) /* nobody's terminal */
        return;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    (void)strftime(date, sizeof(date), "%F %T", localtime_r(&now.tv_sec, &tm));
    (void)vsnprintf(text, sizeof(text), format, al);
    (void)dprintf(STDERR_FILENO, "%s.%03d [%d] %s: %s\n", date, (int)(now.tv_nsec / 1000000),
                  (int)getpid(), context, text);
}

void log_line(const char *format, ...)
{
    va_list al;

    va_start(al, format);
    write_line("xmotion", format, al);
    va_end(al);
}

/* It goes into JSON, which takes no broken UTF-8. */
static void keep_printable(char *text)
{
    for (; *text; text++)
        if (*text < ' ' || *text > '~')
            *text = '?';
}

/* "libxl_utils.c:505:libxl_read_exactly: " says nothing to a user. */
static void drop_place(char *text)
{
    char *end = strncmp(text, "libxl", 5) ? NULL : strstr(text, ": ");

    if (end)
        memmove(text, end + 2, strlen(end + 2) + 1);
}

/* The first complaint is the cause, later ones its consequences. */
static void __attribute__((format(printf, 5, 0)))
take_message(struct xentoollog_logger *logger, xentoollog_level level, int errnum,
             const char *context, const char *format, va_list al)
{
    if (level >= XTL_ERROR && !complaint[0]) {
        va_list copy;

        va_copy(copy, al);
        (void)vsnprintf(complaint, sizeof(complaint), format, copy);
        va_end(copy);
        if (errnum > 0) {
            size_t used = strlen(complaint);

            (void)snprintf(complaint + used, sizeof(complaint) - used, ": %s", strerror(errnum));
        }
        keep_printable(complaint);
        drop_place(complaint);
    }
    if (level >= log_level)
        write_line(context ? context : "libxl", format, al);
}

int xen_sibling(const char *program, char *path, size_t size)
{
    char self[400];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    self[n > 0 ? n : 0] = '\0';
    slash = strrchr(self, '/');
    if (!slash)
        return -ENOENT;
    *slash = '\0';
    (void)snprintf(path, size, "%s/%s", self, program);
    return access(path, X_OK) ? -ENOENT : 0;
}

static void destroy_logger(struct xentoollog_logger *logger)
{
}

int xen_open(struct agent *a, struct err *err)
{
    static struct xentoollog_logger logger = {.vmessage = take_message, .destroy = destroy_logger};

    if (getenv("XMOTION_XEN_DEBUG"))
        log_level = XTL_DEBUG;
    if (libxl_ctx_alloc(&a->ctx, LIBXL_VERSION, 0, &logger))
        return err_set(err, -ENODEV, "libxl cannot be opened: %s", complaint);
    a->xch = xc_interface_open(&logger, &logger, 0);
    if (!a->xch)
        return err_errno(err, -ENODEV, "the hypervisor cannot be called");
    a->xs = xs_open(0);
    if (!a->xs)
        return err_errno(err, -ENODEV, "the xenstore cannot be opened");
    return 0;
}

int xen_domain_info(struct agent *a, libxl_dominfo *ret, struct err *err)
{
    int rc;

    libxl_dominfo_init(ret);
    rc = libxl_domain_info(a->ctx, ret, a->domid);
    if (!rc)
        return 0;
    libxl_dominfo_dispose(ret);
    if (rc == ERROR_DOMAIN_NOTFOUND)
        return err_set(err, -ENOENT, "the domain %u (%s) is gone", a->domid, a->name);
    return err_libxl(err, -EIO, rc, "asking for the domain's state");
}
