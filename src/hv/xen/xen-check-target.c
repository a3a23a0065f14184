/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What must hold at the host a guest wants to come to. Nothing is made here. */
#include "hv/xen/xen-agent.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check_version(struct agent *a, const json_t *config, struct err *err)
{
    const libxl_version_info *here = libxl_get_version_info(a->ctx);
    json_int_t major = json_integer_value(json_object_get(config, "xen_major"));
    json_int_t minor = json_integer_value(json_object_get(config, "xen_minor"));

    if (!here)
        return err_set(err, -EIO, "the hypervisor does not tell its version");
    if (major > here->xen_version_major ||
        (major == here->xen_version_major && minor > here->xen_version_minor))
        return err_set(err, -ENOTSUP,
                       "the guest comes from Xen %d.%d and cannot go to the older Xen %d.%d: "
                       "upgrade this host",
                       (int)major, (int)minor, here->xen_version_major, here->xen_version_minor);
    return 0;
}

static int check_free_name(struct agent *a, const char *name, const char *advice, struct err *err)
{
    uint32_t domid;

    if (libxl_name_to_domid(a->ctx, name, &domid))
        return 0;
    return err_set(err, -EEXIST, "there is a domain %s here (domid %u)%s%s%s", name, domid, advice,
                   *advice ? name : "", *advice ? "\"" : "");
}

int xen_check_uuid(struct agent *a, const libxl_uuid *uuid, struct err *err)
{
    int count = 0, rc = 0;
    libxl_dominfo *list = libxl_list_domain(a->ctx, &count);

    for (int i = 0; list && i < count && !rc; i++)
        if (!libxl_uuid_compare(&list[i].uuid, uuid))
            rc = err_set(err, -EEXIST, "domain %u here has this guest's UUID already",
                         list[i].domid);
    if (list)
        libxl_dominfo_list_free(list, count);
    return rc;
}

static int check_nic(const libxl_device_nic *nic, struct err *err)
{
    char path[200];

    if (!nic->bridge || !nic->bridge[0])
        return 0;
    if (strchr(nic->bridge, '/') || strlen(nic->bridge) > 100)
        return err_set(err, -EPROTO, "\"%.50s\" is no name of a bridge", nic->bridge);
    (void)snprintf(path, sizeof(path), "/sys/class/net/%s", nic->bridge);
    if (access(path, F_OK))
        return err_set(err, -ENODEV,
                       "the guest's network interface %d wants the bridge %s, which is not here",
                       nic->devid, nic->bridge);
    return 0;
}

/* *ret_stuck: the guest may come, but not leave again live. */
static int check_kind(struct agent *a, libxl_domain_type type, bool *ret_stuck, struct err *err)
{
    libxl_physinfo physinfo;
    bool able;

    libxl_physinfo_init(&physinfo);
    if (libxl_get_physinfo(a->ctx, &physinfo))
        return err_set(err, -EIO, "the hypervisor does not tell what it can do");
    able = type == LIBXL_DOMAIN_TYPE_PV ? physinfo.cap_pv : physinfo.cap_hvm;
    *ret_stuck = type == LIBXL_DOMAIN_TYPE_PV && !physinfo.cap_shadow;
    libxl_physinfo_dispose(&physinfo);
    return able ? 0
                : err_set(err, -ENOTSUP, "this host's hypervisor cannot run %s guests",
                          libxl_domain_type_to_string(type));
}

static void warn_missing(json_t *warnings, const char *what, const char *path)
{
    char text[600];

    if (!path || !path[0] || path[0] != '/' || !access(path, R_OK))
        return;
    (void)snprintf(text, sizeof(text),
                   "the guest's %s %.400s is not at this host: the guest will run, but not restart",
                   what, path);
    json_array_append_new(warnings, json_string(text));
}

/* What the guest does not need now but when it starts again. */
static json_t *collect_warnings(const libxl_domain_config *config, bool stuck)
{
    json_t *warnings = json_array();
    const libxl_domain_build_info *b = &config->b_info;

    warn_missing(warnings, "kernel", b->kernel);
    warn_missing(warnings, "ramdisk", b->ramdisk);
    if (b->type == LIBXL_DOMAIN_TYPE_HVM) {
        warn_missing(warnings, "firmware", b->u.hvm.system_firmware);
        warn_missing(warnings, "ACPI firmware", b->u.hvm.acpi_firmware);
        warn_missing(warnings, "SMBIOS firmware", b->u.hvm.smbios_firmware);
    }
    if (stuck)
        json_array_append_new(
            warnings,
            json_string("this host's hypervisor has no shadow paging: a PV guest that comes here "
                        "cannot leave again while it runs"));
    return warnings;
}

static int check_config(struct agent *a, libxl_domain_config *config, const json_t *request,
                        bool *ret_stuck, struct err *err)
{
    const json_t *cpu = json_object_get(json_object_get(request, "config"), "cpu");
    bool pv = config->c_info.type == LIBXL_DOMAIN_TYPE_PV;
    int rc = xen_guard(config, err);

    if (!rc)
        rc = xen_guard_boot_files(&config->b_info, err);
    if (!rc)
        rc = check_kind(a, config->c_info.type, ret_stuck, err);
    if (!rc)
        rc = xen_cpu_check(a, cpu, pv, err);
    if (!rc)
        rc = xen_check_uuid(a, &config->c_info.uuid, err);
    for (int i = 0; i < config->num_nics && !rc; i++)
        rc = check_nic(&config->nics[i], err);
    return rc ? rc : xen_memory_check(a, config, err);
}

static int check_names(struct agent *a, const char *name, struct err *err)
{
    char other[200];
    int rc = xen_name_check(name, err);

    if (!rc)
        rc = check_free_name(a, name, "", err);
    (void)snprintf(other, sizeof(other), "%s" INCOMING_SUFFIX, name);
    if (!rc)
        rc = check_free_name(
            a, other,
            ": another migration is building it, or one that was killed left it; if so: "
            "\"xl destroy ",
            err);
    return rc;
}

int xen_check_target(struct agent *a, const json_t *request, json_t **ret_warnings, struct err *err)
{
    const char *name = json_string_value(json_object_get(request, "name"));
    libxl_domain_config config;
    bool stuck = false;
    int rc = name ? check_names(a, name, err) : err_set(err, -EPROTO, "the guest has no name");

    if (!rc)
        rc = check_version(a, json_object_get(request, "config"), err);
    if (!rc)
        rc = xen_config_parse(a, json_object_get(request, "config"), &config, err);
    if (rc)
        return rc;
    rc = check_config(a, &config, request, &stuck, err);
    if (!rc)
        *ret_warnings = collect_warnings(&config, stuck);
    libxl_domain_config_dispose(&config);
    return rc;
}
