/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hv/xen/xen-agent.h"

#include "base/clock.h"
#include "hv/agent.h"
#include "hv/xen/xen-libxl.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#define REQUEST_MAX_POLL_FDS 64
/* How long an agent of an earlier migration, whose controller has just ended, may take to end too. */
#define OTHERS_MS 10000

enum { POLL_CONTROL, POLL_HELPER, POLL_STREAM, POLL_OURS };

void agent_event(struct agent *a, json_t *event)
{
    /* A controller that is gone is noticed where its requests are read. */
    if (a->control >= 0)
        (void)agent_send(a->control, event, -1, NULL);
    json_decref(event);
}

/* libxl's descriptors behind ours. There are few: the xenstore, SIGCHLD's pipe, one or two of an
 * operation. */
static int poll_everything(struct agent *a, bool with_control, struct pollfd *fds, int timeout_ms)
{
    struct timeval now;
    int libxl_fds = REQUEST_MAX_POLL_FDS - POLL_OURS, r;

    fds[POLL_CONTROL] = (struct pollfd){.fd = with_control ? a->control : -1, .events = POLLIN};
    fds[POLL_HELPER] = (struct pollfd){.fd = a->helper, .events = POLLIN};
    fds[POLL_STREAM] = (struct pollfd){
        .fd = a->stream_watch, .events = a->waiting ? POLLIN : 0}; /* POLLHUP comes unasked */
    (void)gettimeofday(&now, NULL);
    if (libxl_osevent_beforepoll(a->ctx, &libxl_fds, fds + POLL_OURS, &timeout_ms, now))
        libxl_fds = 0;
    r = poll(fds, (nfds_t)(POLL_OURS + libxl_fds), timeout_ms);
    if (r < 0) /* a signal: SIGCHLD writes to libxl's pipe, which the next turn sees */
        return -errno;
    (void)gettimeofday(&now, NULL);
    libxl_osevent_afterpoll(a->ctx, libxl_fds, fds + POLL_OURS, now);
    return 0;
}

void agent_turn(struct agent *a, bool with_control, int timeout_ms, bool *ret_control)
{
    struct pollfd fds[REQUEST_MAX_POLL_FDS];
    int r = poll_everything(a, with_control, fds, timeout_ms);

    *ret_control = !r && fds[POLL_CONTROL].revents;
    if (r)
        return;
    if (!a->waiting && fds[POLL_STREAM].revents & (POLLHUP | POLLERR)) {
        a->stream_ns = clock_now();
        close(a->stream_watch);
        a->stream_watch = -1;
    }
    if (a->helper >= 0 && fds[POLL_HELPER].revents)
        xen_save_helper_says(a);
}

static void operation_done(libxl_ctx *ctx, int rc, void *data)
{
    struct operation *op = data;

    op->running = false;
    op->rc = rc;
}

void operation_begin(struct operation *op)
{
    op->running = true;
    op->rc = 0;
    op->how.callback = operation_done;
    op->how.u.for_callback = op;
}

int operation_wait(struct agent *a, struct operation *op, int timeout_ms)
{
    uint64_t end = clock_now() + (uint64_t)timeout_ms * NS_PER_MS;
    bool control;

    while (op->running && clock_now() < end)
        agent_turn(a, false, 200, &control);
    return op->running ? -ETIMEDOUT : 0;
}

static int do_describe(struct agent *a, const json_t *request, json_t *reply, struct err *err)
{
    const char *guest = json_string_value(json_object_get(request, "guest"));
    json_t *described = NULL;
    int rc = guest ? xen_describe(a, guest, &described, err)
                   : err_set(err, -EINVAL, "no guest is named");

    if (rc)
        return rc;
    agent_log_open(a->name);
    a->left_alone = true; /* until something is to be done: then the lock is waited for */
    xen_source_watch(a);
    json_object_set_new(reply, "guest", described);
    json_object_set_new(reply, "domid", json_integer(a->domid));
    json_object_set_new(reply, "aside", json_boolean(a->aside));
    return 0;
}

static int do_target_check(struct agent *a, const json_t *request, json_t *reply, struct err *err)
{
    json_t *warnings = NULL;
    int rc = xen_check_target(a, request, &warnings, err);

    if (warnings)
        json_object_set_new(reply, "warnings", warnings);
    return rc;
}

static int do_run(struct agent *a, const json_t *request, json_t *reply, struct err *err)
{
    uint64_t ns = 0;
    int rc = xen_run(a, json_string_value(json_object_get(request, "mark")), &ns, err);

    json_object_set_new(reply, "ns", json_integer((json_int_t)ns));
    return rc;
}

static int do_settle(struct agent *a, const json_t *request, json_t *reply, struct err *err)
{
    uint64_t ns = 0;
    int rc = xen_settle(a, (uint64_t)json_integer_value(json_object_get(request, "timeout")), &ns, err);

    json_object_set_new(reply, "ns", json_integer((json_int_t)ns));
    return rc;
}

static int do_recover(struct agent *a, const char *what, const json_t *request, json_t *reply,
                      struct err *err)
{
    if (!strcmp(what, "recover-find"))
        return xen_recover_find(a, request, reply, err);
    if (!strcmp(what, "recover-resume"))
        return xen_recover_resume(a, request, err);
    if (!strcmp(what, "recover-destroy-aside"))
        return xen_recover_destroy_aside(a, request, err);
    if (!strcmp(what, "recover-start"))
        return xen_recover_start(a, request, err);
    if (!strcmp(what, "recover-unthrottle"))
        return xen_recover_unthrottle(a, request, err);
    return err_set(err, -EINVAL, "unknown request \"%s\"", what);
}

static int do_source(struct agent *a, const char *what, const json_t *request, int *fd,
                     struct err *err)
{
    bool waited = a->lock < 0;
    int rc;

    if (!domid_set(a))
        return err_set(err, -EINVAL, "\"%s\" before \"describe\"", what);
    rc = xen_lock_take(a, OTHERS_MS, err);
    if (rc)
        return rc;
    if (waited) /* whoever had the lock may have set the guest aside meanwhile */
        xen_look_aside(a);
    a->left_alone = false;
    if (!strcmp(what, "check"))
        return xen_check_source(a, err);
    if (!strcmp(what, "save"))
        return xen_save_begin(a, fd, err);
    if (!strcmp(what, "throttle"))
        return xen_throttle(a, (unsigned int)json_integer_value(json_object_get(request, "percent")), err);
    if (!strcmp(what, "resume"))
        return xen_resume(a, err);
    if (!strcmp(what, "set-aside"))
        return xen_set_aside(a, err);
    if (!strcmp(what, "destroy"))
        return xen_source_destroy(a, err);
    return err_set(err, -EINVAL, "unknown request \"%s\"", what);
}

/* `fd` came with the request; whoever keeps it sets it to -1. */
static int do_request(struct agent *a, const char *what, const json_t *request, int *fd,
                      json_t *reply, struct err *err)
{
    if (!strcmp(what, "describe"))
        return do_describe(a, request, reply, err);
    if (!strcmp(what, "target-check"))
        return do_target_check(a, request, reply, err);
    if (!strcmp(what, "restore"))
        return xen_restore_begin(a, request, fd, err);
    if (!strcmp(what, "run"))
        return do_run(a, request, reply, err);
    if (!strcmp(what, "settle"))
        return do_settle(a, request, reply, err);
    if (!strcmp(what, "target-destroy"))
        return xen_target_destroy(a, err);
    if (!strcmp(what, "destroy-left"))
        return xen_recover_destroy_incoming(a, request, err);
    if (!strncmp(what, "recover-", strlen("recover-")))
        return do_recover(a, what, request, reply, err);
    return do_source(a, what, request, fd, err);
}

static void answer(struct agent *a, const json_t *request, int *fd)
{
    const char *what = json_string_value(json_object_get(request, "do"));
    struct err err = {0};
    json_t *reply;
    int rc;

    if (what && !strcmp(what, "policy")) {
        (void)xen_policy_answer(a, (int)json_integer_value(json_object_get(request, "answer")));
        return;
    }
    reply = json_pack("{s:s}", "reply", what ? what : "");
    rc = do_request(a, what ? what : "", request, fd, reply, &err);
    if (rc) {
        json_object_set_new(reply, "error", json_string(err.text));
        json_object_set_new(reply, "errno", json_integer(-rc));
        log_line("%s: %s", what, err.text);
    }
    agent_event(a, reply);
}

static void hear_control(struct agent *a)
{
    json_t *request = NULL;
    int fd = -1, rc = agent_recv(a->control, 0, &request, &fd, NULL);

    if (rc == -EAGAIN)
        return;
    if (rc) {
        close(a->control);
        a->control = -1;
        a->ended = true;
        return;
    }
    answer(a, request, &fd);
    if (fd >= 0)
        close(fd);
    json_decref(request);
}

static void serve(struct agent *a)
{
    while (!a->ended) {
        bool control = false;

        agent_turn(a, true, -1, &control);
        xen_save_turn(a);
        xen_restore_turn(a);
        if (control)
            hear_control(a);
    }
}

static int end_work(struct agent *a, struct err *err)
{
    if (a->restore.running || (a->config.c_info.name && domid_set(a)))
        return xen_target_destroy(a, err);
    if (!domid_set(a) || a->destroyed)
        return 0;
    xen_unthrottle(a);
    if (!a->aside)
        return xen_resume(a, err);
    log_line("domain %u stays suspended as %s" MOVED_SUFFIX ": the target may run the guest",
             a->domid, a->name);
    return 0;
}

/* The controller is gone, perhaps killed: nothing of ours may keep a guest from running, nor two of
 * them run. */
static int give_up(struct agent *a)
{
    struct err err = {0};
    int rc = 0;

    if (a->ran)
        return xen_monitor(a);
    if (!a->left_alone && !a->recovered)
        rc = end_work(a, &err);
    if (rc)
        log_line("%s", err.text);
    xen_lock_drop(a);
    if (a->recovered || (a->resumed && a->had_monitor)) {
        /* xl's daemon ends when its domain suspends, so a guest that came back would have nobody to
         * restart it. */
        clock_sleep(2 * NS_PER_SEC);
        if (!xen_monitor_exists(a))
            return xen_monitor(a);
    }
    return rc ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* Nobody hears of a host without Xen but the one who asks, so the first request is answered with
 * what is wrong. */
static int refuse(struct agent *a, const struct err *err)
{
    json_t *request = NULL;

    if (agent_recv(a->control, -1, &request, NULL, NULL))
        return EXIT_FAILURE;
    agent_event(a, json_pack("{s:O?,s:s,s:i}", "reply", json_object_get(request, "do"), "error",
                             err->text, "errno", -err->code));
    json_decref(request);
    return EXIT_FAILURE;
}

static int resume_only(struct agent *a, const char *domain)
{
    libxl_dominfo info;
    struct err err;
    char *name;

    a->domid = (uint32_t)strtoul(domain, NULL, 10);
    if (xen_domain_info(a, &info, &err))
        return EXIT_FAILURE;
    libxl_dominfo_dispose(&info);
    name = libxl_domid_to_name(a->ctx, a->domid);
    (void)snprintf(a->name, sizeof(a->name), "%s", name ? name : "");
    free(name);
    agent_log_open(a->name);
    if (xen_lock_take(a, OTHERS_MS, &err)) { /* who has it lets the guest run */
        log_line("%s", err.text);
        return EXIT_SUCCESS;
    }
    xen_look_aside(a);
    a->had_monitor = true; /* its daemon ended when it suspended */
    return give_up(a);
}

/* A process of its own session: it outlives the program that started it, for the guest's sake. */
static void detach(void)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    sigset_t none;

    (void)setsid();
    if (null >= 0) {
        (void)dup2(null, STDIN_FILENO);
        (void)dup2(null, STDOUT_FILENO);
    }
    (void)chdir("/");
    (void)signal(SIGPIPE, SIG_IGN);
    sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
}

int main(int argc, char **argv)
{
    struct agent a = {.control = -1,
                      .lock = -1,
                      .domid = (uint32_t)INVALID_DOMID,
                      .helper = -1,
                      .helper_end = -1,
                      .stream_watch = -1};
    struct err err = {0};

    if (argc != 3 || (strcmp(argv[1], "--control") && strcmp(argv[1], "--resume"))) {
        fprintf(stderr, "xmotion-xen is started by xmotion; usage: xmotion-xen --control FD | "
                        "--resume DOMID\n");
        return 2;
    }
    detach();
    if (!strcmp(argv[1], "--control")) {
        a.control = atoi(argv[2]);
        (void)fcntl(a.control, F_SETFD, FD_CLOEXEC);
    }
    if (xen_check_host(&err) || xen_open(&a, &err))
        return a.control < 0 ? EXIT_FAILURE : refuse(&a, &err);
    if (a.control < 0)
        return resume_only(&a, argv[2]);
    serve(&a);
    return give_up(&a);
}
