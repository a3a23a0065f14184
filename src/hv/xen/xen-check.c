/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What must hold before anything moves. Every refusal says what to do. */
#include "hv/xen/xen-agent.h"

#include "base/cleanup.h"
#include "base/fdio.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int xen_check_host(struct err *err)
{
    CLEANUP_FREE char *capabilities = NULL;
    size_t length;

    if (geteuid())
        return err_set(err, -EPERM, "only root may move Xen guests");
    if (file_read("/proc/xen/capabilities", 4096, &capabilities, &length) ||
        !strstr(capabilities, "control_d"))
        return err_set(err, -ENODEV,
                       "this is not a Xen dom0 (/proc/xen/capabilities has no control_d)");
    /* Without its daemon the xenstore's device would block for ever. The second file is that of a
     * xenstore domain. */
    if (access("/run/xenstored/socket", F_OK) && access("/var/run/xenstored/socket", F_OK) &&
        access("/run/xen/xenstored.pid", F_OK))
        return err_set(err, -ENODEV,
                       "xenstored does not run: start Xen's services (systemctl start xen)");
    return 0;
}

static char *read_domain_key(struct agent *a, const char *key)
{
    char path[128];
    unsigned int length;

    (void)snprintf(path, sizeof(path), "/local/domain/%u/%s", a->domid, key);
    return xs_read(a->xs, XBT_NULL, path, &length);
}

static bool is_one(const char *value)
{
    return value && !strcmp(value, "1");
}

/* Kernels announce what they follow when they boot; one that announces something else but not this cannot be suspended. After a
 * migration the keys are there and empty, as while a kernel boots, but then its devices are not connected. Very old kernels
 * announce nothing: they are tried. HVM guests without PV drivers need not follow. */
static int check_suspend_support(struct agent *a, bool hvm, struct err *err)
{
    CLEANUP_FREE char *feature = read_domain_key(a, "control/feature-suspend");
    CLEANUP_FREE char *port = read_domain_key(a, "device/suspend/event-channel");
    CLEANUP_FREE char *poweroff = read_domain_key(a, "control/feature-poweroff");

    if (hvm || is_one(feature) || (port && port[0]))
        return 0;
    if (is_one(poweroff))
        return err_set(
            err, -ENOTSUP,
            "the guest's kernel cannot be suspended (control/feature-suspend is not set): it needs "
            "CONFIG_HIBERNATE_CALLBACKS");
    if (feature && !xen_devices_connected(a))
        return err_set(err, -EBUSY, "the guest's kernel is still booting: its devices are not connected yet");
    return 0;
}

static int check_log_dirty(struct agent *a, bool pv, struct err *err)
{
    libxl_physinfo physinfo;
    bool hap, shadow;

    libxl_physinfo_init(&physinfo);
    if (libxl_get_physinfo(a->ctx, &physinfo))
        return err_set(err, -EIO, "the hypervisor does not tell what it can do");
    hap = physinfo.cap_hap;
    shadow = physinfo.cap_shadow;
    libxl_physinfo_dispose(&physinfo);
    if (shadow || (!pv && hap))
        return 0;
    return err_set(
        err, -ENOTSUP,
        "this hypervisor is built without shadow paging and cannot track the memory of %s: %s",
        pv ? "a PV guest" : "a guest without hardware paging",
        pv ? "start the guest as PVH (type=\"pvh\"), or boot a Xen with "
             "CONFIG_SHADOW_PAGING (Debian's has none)"
           : "boot a Xen with CONFIG_SHADOW_PAGING");
}

static int check_state(const libxl_dominfo *info, struct err *err)
{
    if (info->dying)
        return err_set(err, -EBUSY, "the guest is being destroyed");
    if (info->shutdown && info->shutdown_reason == LIBXL_SHUTDOWN_REASON_SUSPEND)
        return err_set(
            err, -EBUSY,
            "the guest is suspended: another migration or save holds it, or left it behind");
    if (info->shutdown)
        return err_set(err, -EBUSY, "the guest has shut down");
    if (info->paused)
        return err_set(err, -EBUSY, "the guest is paused: let it run first (xl unpause)");
    return 0;
}

int xen_check_source(struct agent *a, struct err *err)
{
    libxl_domain_config config;
    libxl_dominfo info;
    libxl_domain_type type;
    int rc = xen_domain_info(a, &info, err);

    if (rc)
        return rc;
    rc = check_state(&info, err);
    libxl_dominfo_dispose(&info);
    if (!rc)
        rc = xen_config_get(a, &config, err);
    if (rc)
        return rc;
    type = config.c_info.type;
    rc = check_log_dirty(a, type == LIBXL_DOMAIN_TYPE_PV, err);
    if (!rc)
        rc = check_suspend_support(a, type == LIBXL_DOMAIN_TYPE_HVM, err);
    if (!rc)
        rc = xen_guard(&config, err);
    if (!rc && !libxl_defbool_is_default(config.b_info.disable_migrate) &&
        libxl_defbool_val(config.b_info.disable_migrate))
        rc = err_set(err, -ENOTSUP, "the guest's configuration forbids migration (nomigrate=1)");
    libxl_domain_config_dispose(&config);
    return rc;
}
