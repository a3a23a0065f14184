/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every domain that "xl create" starts has an xl process that waits for its end and does what
 * on_poweroff, on_reboot, on_crash... say. A guest that came here by libxl alone has none: this
 * process is its. */
#include "hv/xen/xen-agent.h"

#include "base/clock.h"
#include "hv/xen/xen-libxl.h"

#include <dirent.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define DUMP_FOLDER "/var/lib/xen/dump"
#define BEFORE_RESTART_NS                                                                          \
    (2 * NS_PER_SEC) /* as xl does: the backends of the old domain are going */

/* xl's daemon is known by its log, which is named after the guest. */
static bool logs_for(const char *link, const char *name)
{
    char target[400], log[300];
    ssize_t n = readlink(link, target, sizeof(target) - 1);
    size_t length;

    if (n <= 0)
        return false;
    target[n] = '\0';
    length = (size_t)snprintf(log, sizeof(log), XEN_LOG_FOLDER "/xl-%s.log", name);
    return !strncmp(target, log, length) &&
           (!target[length] || target[length] == '.' || target[length] == ' ');
}

bool xen_monitor_exists(const struct agent *a)
{
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    bool found = xen_monitor_marked(a->domid);
    char link[300];

    while (proc && !found && (entry = readdir(proc))) {
        if (entry->d_name[0] < '1' || entry->d_name[0] > '9' ||
            atoi(entry->d_name) == (int)getpid())
            continue;
        (void)snprintf(link, sizeof(link), "/proc/%s/fd/2", entry->d_name);
        found = logs_for(link, a->name);
    }
    if (proc)
        closedir(proc);
    return found;
}

struct monitor {
    struct agent *a;
    libxl_evgen_domain_death *death;
    bool died;
    int reason; /* -1 none yet */
};

static void note_event(void *data, libxl_event *event)
{
    struct monitor *m = data;

    if (event->domid == m->a->domid && event->type == LIBXL_EVENT_TYPE_DOMAIN_DEATH)
        m->died = true;
    if (event->domid == m->a->domid && event->type == LIBXL_EVENT_TYPE_DOMAIN_SHUTDOWN)
        m->reason = event->u.domain_shutdown.shutdown_reason;
    libxl_event_free(m->a->ctx, event);
}

static void unwatch(struct monitor *m)
{
    if (m->death)
        libxl_evdisable_domain_death(m->a->ctx, m->death);
    m->death = NULL;
    m->died = false;
    m->reason = -1;
}

static int watch(struct monitor *m)
{
    static const libxl_event_hooks hooks = {.event_occurs_mask = LIBXL_EVENTMASK_ALL,
                                            .event_occurs = note_event};

    unwatch(m);
    libxl_event_register_callbacks(m->a->ctx, &hooks, m);
    return libxl_evenable_domain_death(m->a->ctx, m->a->domid, 0, &m->death) ? -EIO : 0;
}

/* Somebody saves or migrates the guest. It comes back to life here, or it goes. */
static void wait_suspended(struct monitor *m)
{
    bool suspended = true;

    unwatch(m);
    while (suspended) {
        libxl_dominfo info;

        clock_sleep(NS_PER_SEC);
        if (xen_domain_info(m->a, &info, NULL))
            return;
        suspended = info.shutdown && info.shutdown_reason == LIBXL_SHUTDOWN_REASON_SUSPEND;
        libxl_dominfo_dispose(&info);
    }
}

static libxl_action_on_shutdown action_for(const libxl_domain_config *config, int reason)
{
    switch (reason) {
    case LIBXL_SHUTDOWN_REASON_POWEROFF:
        return config->on_poweroff;
    case LIBXL_SHUTDOWN_REASON_REBOOT:
        return config->on_reboot;
    case LIBXL_SHUTDOWN_REASON_CRASH:
        return config->on_crash;
    case LIBXL_SHUTDOWN_REASON_WATCHDOG:
        return config->on_watchdog;
    case LIBXL_SHUTDOWN_REASON_SOFT_RESET:
        return config->on_soft_reset;
    default:
        return LIBXL_ACTION_ON_SHUTDOWN_DESTROY;
    }
}

/* "coredump-X" is a core dump and then X. A soft reset needs what only xl keeps: the guest restarts
 * instead. */
static libxl_action_on_shutdown dump_core(struct agent *a, libxl_action_on_shutdown action)
{
    char path[300];

    if (action == LIBXL_ACTION_ON_SHUTDOWN_SOFT_RESET)
        return LIBXL_ACTION_ON_SHUTDOWN_RESTART;
    if (action != LIBXL_ACTION_ON_SHUTDOWN_COREDUMP_DESTROY &&
        action != LIBXL_ACTION_ON_SHUTDOWN_COREDUMP_RESTART)
        return action;
    (void)snprintf(path, sizeof(path), DUMP_FOLDER "/%s", a->name);
    log_line("dumping core to %s", path);
    if (libxl_domain_core_dump(a->ctx, a->domid, path, NULL))
        log_line("the core dump failed");
    return action == LIBXL_ACTION_ON_SHUTDOWN_COREDUMP_DESTROY ? LIBXL_ACTION_ON_SHUTDOWN_DESTROY
                                                               : LIBXL_ACTION_ON_SHUTDOWN_RESTART;
}

static int preserve(struct agent *a, libxl_domain_config *config)
{
    time_t now = time(NULL);
    char suffix[40];
    libxl_uuid uuid;
    struct tm tm;

    (void)strftime(suffix, sizeof(suffix), "-%Y%m%dT%H%MZ", gmtime_r(&now, &tm));
    libxl_uuid_generate(&uuid);
    return libxl_domain_preserve(a->ctx, a->domid, &config->c_info, suffix, uuid) ? -EIO : 0;
}

static int start_again(struct agent *a, libxl_domain_config *config)
{
    uint32_t domid;

    clock_sleep(BEFORE_RESTART_NS);
    config->c_info.domid = INVALID_DOMID;
    if (libxl_domain_create_new(a->ctx, config, &domid, NULL, NULL)) {
        log_line("the guest cannot be started again: %s", libxl_complaint());
        return -EIO;
    }
    a->domid = domid;
    log_line("domain %u, %s, is started", domid, a->name);
    return libxl_domain_unpause(a->ctx, domid, NULL) ? -EIO : 0;
}

/* 0: the domain (a new one) is to be watched again. */
static int act(struct monitor *m, libxl_domain_config *config, int reason)
{
    struct agent *a = m->a;
    libxl_action_on_shutdown action = action_for(config, reason);

    log_line("domain %u ended (%s): %s", a->domid,
             libxl_shutdown_reason_to_string((libxl_shutdown_reason)reason),
             libxl_action_on_shutdown_to_string(action));
    unwatch(m);
    libxl_complaint_clear();
    switch (dump_core(a, action)) {
    case LIBXL_ACTION_ON_SHUTDOWN_PRESERVE:
        return -ECANCELED;
    case LIBXL_ACTION_ON_SHUTDOWN_RESTART:
        (void)libxl_domain_destroy(a->ctx, a->domid, NULL);
        return start_again(a, config);
    case LIBXL_ACTION_ON_SHUTDOWN_RESTART_RENAME:
        return preserve(a, config) ? -EIO : start_again(a, config);
    default:
        (void)libxl_domain_destroy(a->ctx, a->domid, NULL);
        return -ECANCELED;
    }
}

static int ended(struct monitor *m, int reason)
{
    libxl_domain_config config;
    struct err err;
    int rc;

    if (reason == LIBXL_SHUTDOWN_REASON_SUSPEND) {
        wait_suspended(m);
        return 0;
    }
    if (xen_config_get(m->a, &config, &err)) {
        log_line("%s", err.text);
        return -EIO;
    }
    rc = act(m, &config, reason);
    libxl_domain_config_dispose(&config);
    return rc;
}

/* A guest that was migrated away by others is renamed before it is destroyed; that is no end to act
 * on. */
static int wait_end(struct monitor *m)
{
    bool control;

    while (!m->died && m->reason < 0)
        agent_turn(m->a, false, -1, &control);
    return m->died ? -ENOENT : m->reason;
}

int xen_monitor(struct agent *a)
{
    struct monitor m = {.a = a, .reason = -1};
    uint32_t marked = (uint32_t)INVALID_DOMID;
    int reason;

    if (a->death)
        libxl_evdisable_domain_death(a->ctx, a->death);
    a->death = NULL;
    do {
        if (marked != a->domid && !xen_monitor_mark(a->domid))
            break;
        marked = a->domid;
        log_line("watching domain %u, %s", a->domid, a->name);
        reason = watch(&m) ? -EIO : wait_end(&m);
    } while (reason >= 0 && !ended(&m, reason));
    log_line("domain %u, %s: nothing more to watch", a->domid, a->name);
    return EXIT_SUCCESS;
}
