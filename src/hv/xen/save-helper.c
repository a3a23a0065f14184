/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* xmotion-save-helper: what libxl runs to save a domain's memory when LIBXL_SAVE_HELPER names it.
 * Unlike libxl's own it lets a controller decide after every round whether to go on, to stop the
 * guest or to give up, and always comes to libxenguest's way out, which turns log-dirty off: no
 * signal and no broken pipe ends it half-way.
 *
 * The controller is at the socket XMOTION_CTL_FD (or XMOTION_CTL, a path) and gets messages of
 * agent.h:
 *   {"hello": PID}
 *   {"policy": {"before_round", "iteration", "total_written", "dirty_pages"}}   answered by
 * {"answer": 0 | 1 | -1}
 *   {"suspending": true}   then, if the guest did:   {"suspended": {"ns": N}}
 * Without a controller, and to restore, libxl's own helper is run. */
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/err.h"
#include "hv/agent.h"
#include "hv/xen/page-types.h"
#include "hv/xen/save-message.h"
#include "hv/xen/suspend-ack.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <xenctrl.h>
#include <xenguest.h>
#include <xentoollog.h>

#define CONTROLLER_POLL_MS 500

static const char *const stock_folders[] = {
    "/usr/lib/xen-%s/bin",     "/usr/libexec/xen/bin",       "/usr/lib/xen/bin",
    "/usr/lib64/xen/bin",      "/usr/local/libexec/xen/bin", "/usr/local/lib/xen/bin",
    "/usr/libexec/xen-%s/bin",
};

static int controller = -1;
static uint32_t domid;
static bool suspended;
static int stream_fd, unwritable_fd;
static volatile sig_atomic_t stopped;

static const char *xen_version(void)
{
    static char version[32];
    xc_interface *xch = xc_interface_open(NULL, NULL, 0);
    int number = xch ? xc_version(xch, XENVER_version, NULL) : -1;

    if (number >= 0)
        (void)snprintf(version, sizeof(version), "%d.%d", number >> 16, number & 0xffff);
    if (xch)
        xc_interface_close(xch);
    return version;
}

/* libxl does not tell where its own helper is; distributions put it in one of a few folders. */
static int run_stock_helper(char **argv)
{
    const char *given = getenv("XMOTION_STOCK_SAVE_HELPER");

    unsetenv("LIBXL_SAVE_HELPER");
    if (given) {
        execv(given, argv);
        fprintf(stderr, "xmotion-save-helper: %s: %s\n", given, strerror(errno));
        return EXIT_FAILURE;
    }
    for (size_t i = 0; i < sizeof(stock_folders) / sizeof(stock_folders[0]); i++) {
        char folder[128], path[192];

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
        (void)snprintf(folder, sizeof(folder), stock_folders[i], xen_version());
#pragma GCC diagnostic pop
        (void)snprintf(path, sizeof(path), "%s/libxl-save-helper", folder);
        execv(path, argv);
    }
    fprintf(stderr, "xmotion-save-helper: libxl-save-helper is not found; set "
                    "XMOTION_STOCK_SAVE_HELPER to its path\n");
    return EXIT_FAILURE;
}

static int connect_controller(void)
{
    const char *fd = getenv("XMOTION_CTL_FD"), *path = getenv("XMOTION_CTL");
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int sock;

    if (fd) {
        sock = atoi(fd);
        return fcntl(sock, F_SETFD, FD_CLOEXEC) ? -1 : sock;
    }
    if (!path || strlen(path) >= sizeof(address.sun_path))
        return -1;
    memcpy(address.sun_path, path, strlen(path));
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (sock >= 0 && connect(sock, (struct sockaddr *)&address, sizeof(address))) {
        close(sock);
        sock = -1;
    }
    return sock;
}

/* A lost controller is noticed when it is asked. */
static void tell_controller(json_t *message)
{
    (void)agent_send(controller, message, -1, NULL);
    json_decref(message);
}

/* The controller may take its time: it holds the loop here until the disks have converged. */
static int controller_answer(void)
{
    json_t *message = NULL;
    int rc, answer = XGS_POLICY_ABORT;

    do
        rc = agent_recv(controller, CONTROLLER_POLL_MS, &message, NULL, NULL);
    while (!stopped && (rc == -EAGAIN || rc == -ETIMEDOUT || rc == -EINTR));
    if (rc) /* stopped, or the controller is gone */
        return XGS_POLICY_ABORT;
    if (json_is_integer(json_object_get(message, "answer")))
        answer = (int)json_integer_value(json_object_get(message, "answer"));
    json_decref(message);
    return answer == XGS_POLICY_CONTINUE_PRECOPY || answer == XGS_POLICY_STOP_AND_COPY
               ? answer
               : XGS_POLICY_ABORT;
}

static int ask_policy(struct precopy_stats stats, void *data)
{
    if (stopped)
        return XGS_POLICY_ABORT;
    tell_controller(json_pack("{s:{s:b,s:I,s:I,s:I}}", "policy", "before_round",
                              stats.dirty_count >= 0, "iteration", (json_int_t)stats.iteration,
                              "total_written", (json_int_t)stats.total_written, "dirty_pages",
                              (json_int_t)stats.dirty_count));
    return controller_answer();
}

static int suspend(void *data)
{
    uint64_t begin = clock_now();
    uint64_t taken;
    uint64_t now;

    if (stopped)
        return 0;
    tell_controller(json_pack("{s:b}", "suspending", 1));
    suspend_ack_begin(domid);
    suspended = save_message_suspend(0) == 1;
    now = clock_now();
    taken = suspend_ack_end();
    if (suspended)
        tell_controller(json_pack("{s:{s:I}}", "suspended", "ns", (json_int_t)(now - (taken ? taken : begin))));
    return suspended;
}

static int switch_qemu_logdirty(uint32_t dom, unsigned int enable, void *data)
{
    return save_message_switch_qemu_logdirty(dom, enable, -1);
}

/* libxl stops its helper with SIGTERM. libxenguest cannot be interrupted, but takes its way out
 * when it cannot write. */
static void stop(int signal)
{
    int saved = errno;

    (void)signal;
    (void)dup2(unwritable_fd, stream_fd);
    stopped = 1;
    errno = saved;
}

static int catch_signals(void)
{
    struct sigaction on_term = {.sa_handler = stop}, ignore = {.sa_handler = SIG_IGN};
    sigset_t term;

    unwritable_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    sigemptyset(&term);
    sigaddset(&term, SIGTERM);
    if (unwritable_fd < 0 || sigaction(SIGTERM, &on_term, NULL) ||
        sigaction(SIGPIPE, &ignore, NULL))
        return -errno;
    return sigprocmask(SIG_UNBLOCK, &term, NULL) ? -errno : 0;
}

static void __attribute__((format(printf, 5, 0)))
log_to_libxl(struct xentoollog_logger *logger, xentoollog_level level, int errnum,
             const char *context, const char *format, va_list al)
{
    char text[1024];

    (void)vsnprintf(text, sizeof(text), format, al);
    save_message_log(level, errnum, context, text);
}

static void log_spared(void)
{
    char text[80];

    (void)snprintf(text, sizeof(text), "%llu PFNs were known to be a hole",
                   (unsigned long long)page_types_spared());
    save_message_log(XTL_INFO, -1, "xmotion-save-helper", text);
}

static void destroy_logger(struct xentoollog_logger *logger)
{
}

/* libxl died while the guest was suspended and the save not complete: nobody else would let the
 * guest run on. All of that, for every type of domain, is in the agent. */
static int resume_orphan(void)
{
    char self[400], path[450], domain[16];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash;

    if (n <= 0)
        return EXIT_FAILURE;
    self[n] = '\0';
    slash = strrchr(self, '/');
    if (slash)
        *slash = '\0';
    (void)snprintf(path, sizeof(path), "%s/xmotion-xen", self);
    (void)snprintf(domain, sizeof(domain), "%u", domid);
    unsetenv("LIBXL_SAVE_HELPER");
    execl(path, "xmotion-xen", "--resume", domain, (char *)NULL);
    return EXIT_FAILURE;
}

/* argv: --save-domain STREAM_FD RECEIVE_FD DOMID FLAGS CALLBACKS STREAM_TYPE */
static int save(char **argv)
{
    /* No progress: nobody shows it, and a message every 4 MiB wakes libxl. */
    static struct xentoollog_logger logger = {.vmessage = log_to_libxl, .destroy = destroy_logger};
    struct save_callbacks callbacks = {.suspend = suspend, .precopy_policy = ask_policy};
    uint32_t offered = (uint32_t)strtoul(argv[6], NULL, 10);
    xc_interface *xch;
    int r, errnum;

    stream_fd = atoi(argv[2]);
    domid = (uint32_t)strtoul(argv[4], NULL, 10);
    if (offered & SAVE_CALLBACK_BIT(SAVE_SWITCH_QEMU_LOGDIRTY))
        callbacks.switch_qemu_logdirty = switch_qemu_logdirty;
    xch = catch_signals() ? NULL : xc_interface_open(&logger, &logger, 0);
    if (!xch) {
        save_message_log(XTL_ERROR, errno, "xmotion-save-helper", "cannot begin");
        return EXIT_FAILURE;
    }
    tell_controller(json_pack("{s:i}", "hello", (int)getpid()));
    page_types_begin(xch, domid);
    r = xc_domain_save(xch, stream_fd, domid, (uint32_t)strtoul(argv[5], NULL, 10), &callbacks,
                       (xc_stream_type_t)strtoul(argv[7], NULL, 10), atoi(argv[3]));
    errnum = r ? errno : 0;
    log_spared();
    (void)save_message_complete(r, errnum, 0);
    xc_interface_close(xch);
    return save_message_libxl_gone() && suspended ? resume_orphan() : EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    if (argc == 8 && !strcmp(argv[1], "--save-domain"))
        controller = connect_controller();
    return controller < 0 ? run_stock_helper(argv) : save(argv);
}
