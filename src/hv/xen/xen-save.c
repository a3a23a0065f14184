/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The source's half: saving, and everything that lets the guest run on here or go for good.
 *
 * Who owns the guest: until xen_set_aside it is this host, and every way out of here, the
 * controller's death included, ends with the guest running. From then on GO may have been sent, so
 * nothing resumes it by itself: only xen_resume on request, when the target has proved that it has
 * no copy. */
#include "hv/xen/xen-agent.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "hv/agent.h"
#include "hv/xen/xen-libxl.h"

#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* libxl gives a guest 60 s to acknowledge a suspend request and 60 s to follow it. */
#define ABORT_MS 130000
/* How long a guest that acknowledged too late may still take to stand still. */
#define LATE_SUSPEND_MS 5000

#define SAVE_HELPER "xmotion-save-helper"

static int find_save_helper(struct err *err)
{
    char path[450];

    if (xen_sibling(SAVE_HELPER, path, sizeof(path)))
        return err_set(err, -ENOENT, "the program " SAVE_HELPER " is not where xmotion-xen is");
    return setenv("LIBXL_SAVE_HELPER", path, 1) ? -ENOMEM : 0;
}

/* The helper inherits its end, which is closed here once it has spoken: then its death shows as the
 * end of the socket. */
static int make_helper_socket(struct agent *a, struct err *err)
{
    char number[16];
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
        return err_errno(err, -errno, "a socket for the save helper");
    a->helper = pair[0];
    a->helper_end = pair[1];
    (void)snprintf(number, sizeof(number), "%d", pair[1]);
    if (fcntl(pair[1], F_SETFD, 0) || setenv("XMOTION_CTL_FD", number, 1))
        return err_errno(err, -ENOMEM, "the save helper's environment");
    return 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static int stream_out = -1;

int xen_save_begin(struct agent *a, int *stream, struct err *err)
{
    int rc;

    if (*stream < 0 || a->save.running || a->aside)
        return err_set(err, -EINVAL, "a save cannot begin now");
    a->had_monitor = a->had_monitor || xen_monitor_exists(a); /* a second try finds none */
    a->suspending = false;
    close_fd(&a->helper);
    close_fd(&a->helper_end);
    rc = find_save_helper(err);
    if (!rc)
        rc = make_helper_socket(a, err);
    if (rc)
        return rc;
    libxl_complaint_clear();
    stream_out = take_fd(stream);
    operation_begin(&a->save);
    rc = libxl_domain_suspend(a->ctx, a->domid, stream_out, LIBXL_SUSPEND_LIVE, &a->save.how);
    if (!rc)
        return 0;
    a->save.running = false;
    close_fd(&stream_out);
    return err_libxl(err, -EIO, rc, "the save does not begin");
}

static void tell_suspended(struct agent *a, const json_t *suspended)
{
    agent_event(
        a, json_pack("{s:s,s:O?}", "event", "suspended", "ns", json_object_get(suspended, "ns")));
}

void xen_save_helper_says(struct agent *a)
{
    json_t *message = NULL, *part;
    int rc = agent_recv(a->helper, 0, &message, NULL, NULL);

    if (rc == -EAGAIN)
        return;
    if (rc) { /* it ended; libxl tells with what result */
        close_fd(&a->helper);
        return;
    }
    close_fd(&a->helper_end);
    part = json_object_get(message, "policy");
    if (part) {
        a->policy_asked = true;
        if (a->control < 0)
            (void)xen_policy_answer(a, -1);
        else
            agent_event(a, json_pack("{s:s,s:O}", "event", "policy", "policy", part));
    }
    a->suspending = a->suspending || json_object_get(message, "suspending");
    part = json_object_get(message, "suspended");
    if (part)
        tell_suspended(a, part);
    json_decref(message);
}

int xen_policy_answer(struct agent *a, int answer)
{
    json_t *message;
    int rc;

    if (!a->policy_asked || a->helper < 0)
        return -EINVAL;
    a->policy_asked = false;
    message = json_pack("{s:i}", "answer", answer);
    rc = agent_send(a->helper, message, -1, NULL);
    json_decref(message);
    return rc;
}

static bool is_suspended(const libxl_dominfo *info)
{
    return info->shutdown && info->shutdown_reason == LIBXL_SHUTDOWN_REASON_SUSPEND;
}

/* A helper that was killed did not come to libxenguest's way out: the guest would be tracked, and
 * slow, for ever. */
void xen_stop_log_dirty(struct agent *a)
{
    (void)xc_shadow_control(a->xch, a->domid, XEN_DOMCTL_SHADOW_OP_OFF, NULL, 0);
}

/* Lets a suspended guest run on. A guest that ended in another way is left to who looks after it.
 */
int xen_run_on(struct agent *a, struct err *err)
{
    libxl_dominfo info;
    int rc = xen_domain_info(a, &info, err);
    bool suspended = !rc && is_suspended(&info), ended = !rc && info.shutdown && !suspended;

    if (rc)
        return rc;
    libxl_dominfo_dispose(&info);
    if (ended)
        return err_set(err, -ENOENT, "the guest has shut down by itself");
    if (!suspended)
        return 0;
    xen_stop_log_dirty(a);
    libxl_complaint_clear();
    rc = libxl_domain_resume(a->ctx, a->domid, 1, NULL);
    if (rc)
        return err_libxl(err, -EIO, rc, "the guest is suspended and cannot be resumed");
    a->resumed = true;
    xen_source_watch(a);
    log_line("domain %u runs on", a->domid);
    return 0;
}

/* A guest that missed libxl's patience may suspend yet, and nobody would wake it. */
static int run_on_late(struct agent *a, struct err *err)
{
    uint64_t end = clock_now() + LATE_SUSPEND_MS * NS_PER_MS;
    int rc;

    do {
        rc = xen_run_on(a, err);
        if (rc || a->resumed)
            break;
        clock_sleep(100 * NS_PER_MS);
    } while (clock_now() < end);
    return rc;
}

static void finish_save(struct agent *a)
{
    close_fd(&stream_out);
    close_fd(&a->helper);
    close_fd(&a->helper_end);
    a->policy_asked = false;
}

/* libxl takes every failure before the guest has answered for a guest that does not answer. */
static bool timed_out(const struct agent *a)
{
    return a->save.rc == ERROR_GUEST_TIMEDOUT && a->suspending;
}

static const char *save_failure(const struct agent *a)
{
    int rc = a->save.rc;

    if (timed_out(a))
        return "the guest did not suspend within a minute";
    if (rc == ERROR_ABORTED)
        return "the save was ended";
    return libxl_complaint()[0] ? libxl_complaint() : libxl_error_to_string(rc);
}

/* The end of the save, if it has come. */
void xen_save_turn(struct agent *a)
{
    struct err err;
    char text[400];
    int rc;

    if (a->save.running || stream_out < 0)
        return;
    finish_save(a);
    if (!a->save.rc) {
        agent_event(a, json_pack("{s:s}", "event", "saved"));
        return;
    }
    xen_stop_log_dirty(a);
    (void)snprintf(text, sizeof(text), "saving the guest's memory: %s", save_failure(a));
    rc = timed_out(a) ? run_on_late(a, &err) : xen_run_on(a, &err);
    if (rc) {
        size_t used = strlen(text);

        (void)snprintf(text + used, sizeof(text) - used, "; %.200s", err.text);
    }
    log_line("%s", text);
    agent_event(a, json_pack("{s:s,s:s}", "event", "failed", "text", text));
}

/* Whatever the save is at: its helper is told, and libxl. A guest that has begun to suspend must
 * first have done so. */
static int end_save(struct agent *a, struct err *err)
{
    if (!a->save.running)
        return 0;
    (void)xen_policy_answer(a, -1);
    (void)libxl_ao_abort(a->ctx, &a->save.how);
    if (operation_wait(a, &a->save, ABORT_MS))
        return err_set(err, -ETIMEDOUT,
                       "the save does not end; the guest may be suspended (domain %u)", a->domid);
    finish_save(a);
    if (a->save.rc)
        xen_stop_log_dirty(a);
    return 0;
}

int xen_take_name_back(struct agent *a, struct err *err)
{
    char aside[200];
    int rc;

    if (!a->aside)
        return 0;
    (void)snprintf(aside, sizeof(aside), "%s" MOVED_SUFFIX, a->name);
    libxl_complaint_clear();
    rc = libxl_domain_rename(a->ctx, a->domid, aside, a->name);
    if (rc)
        return err_libxl(err, -EIO, rc, "the guest cannot take its name back");
    a->aside = false;
    return 0;
}

int xen_resume(struct agent *a, struct err *err)
{
    int rc;

    if (a->destroyed)
        return err_set(err, -ENOENT, "the guest's copy at this host is destroyed");
    rc = end_save(a, err);
    if (!rc)
        rc = xen_take_name_back(a, err);
    return rc ? rc : xen_run_on(a, err);
}

int xen_set_aside(struct agent *a, struct err *err)
{
    char aside[200];
    libxl_dominfo info;
    int rc = xen_domain_info(a, &info, err);
    bool suspended = !rc && is_suspended(&info);

    if (rc)
        return rc;
    libxl_dominfo_dispose(&info);
    if (!suspended || a->save.running)
        return err_set(err, -EBUSY, "the guest is not saved yet");
    if (a->aside)
        return 0;
    (void)snprintf(aside, sizeof(aside), "%s" MOVED_SUFFIX, a->name);
    libxl_complaint_clear();
    rc = libxl_domain_rename(a->ctx, a->domid, a->name, aside);
    if (rc)
        return err_libxl(err, -EIO, rc, "the guest cannot be renamed");
    a->aside = true; /* from here on GO may be sent: see the top of this file */
    return 0;
}

int xen_source_destroy(struct agent *a, struct err *err)
{
    int rc;

    if (a->destroyed)
        return 0;
    if (!a->aside)
        return err_set(err, -EBUSY, "the guest still belongs to this host");
    libxl_complaint_clear();
    a->destroyed = true;
    rc = libxl_domain_destroy(a->ctx, a->domid, NULL);
    return rc && rc != ERROR_DOMAIN_NOTFOUND
               ? err_libxl(err, -EIO, rc, "the guest's old domain cannot be destroyed")
               : 0;
}

static void tell_gone(struct agent *a, const libxl_event *event)
{
    bool dead = event->type == LIBXL_EVENT_TYPE_DOMAIN_DEATH;
    int reason = dead ? 0 : event->u.domain_shutdown.shutdown_reason;
    char text[200];

    if (a->destroyed || (!dead && reason == LIBXL_SHUTDOWN_REASON_SUSPEND))
        return;
    (void)snprintf(text, sizeof(text), "the guest %s",
                   dead                                       ? "was destroyed"
                   : reason == LIBXL_SHUTDOWN_REASON_POWEROFF ? "shut down"
                   : reason == LIBXL_SHUTDOWN_REASON_REBOOT   ? "rebooted"
                                                              : "crashed");
    agent_event(a, json_pack("{s:s,s:s}", "event", "gone", "text", text));
}

static void domain_event(void *data, libxl_event *event)
{
    struct agent *a = data;

    if (event->domid == a->domid)
        tell_gone(a, event);
    libxl_event_free(a->ctx, event);
}

static void disaster(void *data, libxl_event_type type, const char *message, int errnum)
{
    log_line("libxl lost events: %s: %s", message, strerror(errnum));
}

void xen_source_watch(struct agent *a)
{
    static const libxl_event_hooks hooks = {.event_occurs_mask = LIBXL_EVENTMASK_ALL,
                                            .event_occurs = domain_event,
                                            .disaster = disaster};

    libxl_event_register_callbacks(a->ctx, &hooks, a);
    if (a->death) /* it tells one shutdown only: that for the suspend */
        libxl_evdisable_domain_death(a->ctx, a->death);
    a->death = NULL;
    if (libxl_evenable_domain_death(a->ctx, a->domid, 0, &a->death))
        log_line("the domain's end cannot be watched");
}
