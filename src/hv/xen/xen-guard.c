/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a configuration may not have. At the source: what this version cannot move. At the target
 * the same again, since a configuration comes from a peer and libxl obeys it as root: no program,
 * script, file or device of this host may be named but those that any guest gets. */
#include "hv/xen/xen-agent.h"

#include "base/bytes.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef XEN_SCRIPT_FOLDER
#define XEN_SCRIPT_FOLDER "/etc/xen/scripts/"
#endif

static bool any_strings(char *const *list)
{
    return list && list[0];
}

static bool is_true(libxl_defbool value)
{
    return !libxl_defbool_is_default(value) && libxl_defbool_val(value);
}

/* libxl makes full paths of script names; a peer may only name what the administrator put into the
 * script folder. */
static bool is_stock_script(const char *script)
{
    if (!script || !script[0])
        return true;
    if (!strncmp(script, XEN_SCRIPT_FOLDER, strlen(XEN_SCRIPT_FOLDER)))
        script += strlen(XEN_SCRIPT_FOLDER);
    return !strchr(script, '/') &&
           strspn(script, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
               strlen(script) &&
           script[0] != '.';
}

/* The only boot loader program a peer may have run here when the guest restarts: libxl's own, where packages put it. */
static bool is_pygrub(const char *bootloader)
{
    const char *slash = bootloader ? strrchr(bootloader, '/') : NULL;

    if (slash && (strncmp(bootloader, "/usr/", 5) != 0 || strstr(bootloader, "/../")))
        return false;
    return !bootloader || !bootloader[0] || !strcmp(slash ? slash + 1 : bootloader, "pygrub");
}

/* Whether anybody on this host may read the file, so that a guest may, too. */
static bool is_public(const char *path)
{
    char real[PATH_MAX];
    struct stat st;

    if (!realpath(path, real) || stat(real, &st) < 0 || !S_ISREG(st.st_mode) || !(st.st_mode & S_IROTH))
        return false;
    for (char *slash = strrchr(real, '/'); slash && slash != real; slash = strrchr(real, '/')) {
        *slash = '\0';
        if (stat(real, &st) < 0 || !(st.st_mode & S_IXOTH))
            return false;
    }
    return true;
}

int xen_guard_boot_files(const libxl_domain_build_info *b, struct err *err)
{
    bool hvm = b->type == LIBXL_DOMAIN_TYPE_HVM;
    const char *const paths[] = {b->kernel,
                                 b->ramdisk,
                                 b->device_tree,
                                 hvm ? b->u.hvm.firmware : NULL,
                                 hvm ? b->u.hvm.system_firmware : NULL,
                                 hvm ? b->u.hvm.acpi_firmware : NULL,
                                 hvm ? b->u.hvm.smbios_firmware : NULL};

    for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
        if (paths[i] && paths[i][0] && access(paths[i], F_OK) == 0 && !is_public(paths[i]))
            return err_set(err, -EPERM,
                           "the guest would be started from %.300s at this host, which not everybody here may read: "
                           "if it is no secret, make it readable (chmod o+r)",
                           paths[i]);
    return 0;
}

/* Devices of the host itself, which stay behind. */
static int guard_passthrough(const libxl_domain_config *config, struct err *err)
{
    const struct {
        int count;
        const char *what, *advice;
    } devices[] = {
        {config->num_pcidevs, "PCI device", "detach it with \"xl pci-detach\""},
        {config->num_usbdevs, "USB device", "detach it with \"xl usbdev-detach\""},
        {config->num_usbctrls, "USB controller", "detach it with \"xl usbctrl-detach\""},
        {config->num_dtdevs, "device tree device", "it cannot leave its host"},
        {config->num_rdms, "reserved device memory", "it cannot leave its host"},
        {config->num_vtpms, "virtual TPM", "its state would stay behind"},
        {config->num_p9s, "9p share", "its folder would stay behind"},
        {config->num_channels, "channel", "its socket would stay behind"},
        {config->num_pvcallsifs, "PV calls device", "its connections would stay behind"},
        {config->b_info.num_ioports, "passed through I/O port", "it cannot leave its host"},
        {config->b_info.num_irqs, "passed through interrupt", "it cannot leave its host"},
        {config->b_info.num_iomem, "passed through I/O memory", "it cannot leave its host"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(devices); i++)
        if (devices[i].count)
            return err_set(err, -ENOTSUP, "the guest has a %s: %s", devices[i].what,
                           devices[i].advice);
    return 0;
}

int xen_guard_disk(const libxl_device_disk *disk, struct err *err)
{
    const char *path = disk->pdev_path ? disk->pdev_path : "";

    if (disk->backend_domid || disk->backend_domname)
        return err_set(err, -ENOTSUP,
                       "disk %s has its backend in another domain; only dom0's can be moved",
                       disk->vdev);
    if ((disk->is_cdrom || disk->removable) && !path[0])
        return 0;
    if (disk->is_cdrom)
        return err_set(err, -ENOTSUP, "drive %s holds %s: eject it first (xl cd-eject)", disk->vdev,
                       path);
    /* A configuration may leave the backend to libxl, and the xenstore does not tell the format. */
    if (disk->backend != LIBXL_DISK_BACKEND_PHY && disk->backend != LIBXL_DISK_BACKEND_UNKNOWN)
        return err_set(err, -ENOTSUP,
                       "disk %s (%s) is served by %s; this version moves only disks of the backend "
                       "phy (raw devices and "
                       "files): attach it as \"phy:\"",
                       disk->vdev, path,
                       disk->backend == LIBXL_DISK_BACKEND_QDISK ? "QEMU (qdisk)" : "tapdisk");
    if (disk->format != LIBXL_DISK_FORMAT_RAW && disk->format != LIBXL_DISK_FORMAT_UNKNOWN)
        return err_set(err, -ENOTSUP, "disk %s (%s) is not raw", disk->vdev, path);
    if (!is_stock_script(disk->script))
        return err_set(err, -EPERM, "disk %s wants the script %.200s", disk->vdev, disk->script);
    return 0;
}

static int guard_nic(const libxl_device_nic *nic, struct err *err)
{
    if (nic->backend_domid || nic->backend_domname)
        return err_set(
            err, -ENOTSUP,
            "network interface %d has its backend in another domain; only dom0's can be moved",
            nic->devid);
    if (!is_stock_script(nic->script))
        return err_set(
            err, -EPERM,
            "network interface %d wants the script %.200s, which is not in " XEN_SCRIPT_FOLDER,
            nic->devid, nic->script);
    return 0;
}

/* HVM's parts of the device model that reach into the host. */
static int guard_hvm(const libxl_domain_build_info *b, struct err *err)
{
    const char *serial = b->u.hvm.serial;

    for (char *const *s = b->u.hvm.serial_list; s && *s; s++)
        if (strcmp(*s, "pty") && strcmp(*s, "none"))
            return err_set(err, -EPERM, "a serial line to %.100s; only \"pty\" can be moved", *s);
    if (serial && strcmp(serial, "pty") && strcmp(serial, "none"))
        return err_set(err, -EPERM, "a serial line to %.100s; only \"pty\" can be moved", serial);
    if (is_true(b->u.hvm.gfx_passthru))
        return err_set(err, -ENOTSUP,
                       "the guest has the host's graphics card: it cannot leave its host");
    return 0;
}

static int guard_build(const libxl_domain_build_info *b, struct err *err)
{
    if (b->num_vnuma_nodes)
        return err_set(
            err, -ENOTSUP,
            "the guest has virtual NUMA nodes, which Xen's migration stream does not carry");
    if (b->device_model || b->device_model_user || any_strings(b->extra) ||
        any_strings(b->extra_pv) || any_strings(b->extra_hvm))
        return err_set(
            err, -EPERM,
            "the guest has a device model or arguments of its own (device_model_override, "
            "device_model_args), which no host takes from another");
    if (is_true(b->device_model_stubdomain))
        return err_set(
            err, -ENOTSUP,
            "the guest's device model runs in a stub domain; this version cannot move it");
    if (!is_pygrub(b->bootloader) || any_strings(b->bootloader_args))
        return err_set(
            err, -EPERM,
            "the guest is started by the boot loader %.100s with or without arguments; only plain "
            "pygrub can be moved",
            b->bootloader);
    return b->type == LIBXL_DOMAIN_TYPE_HVM ? guard_hvm(b, err) : 0;
}

int xen_guard(const libxl_domain_config *config, struct err *err)
{
    int rc = guard_passthrough(config, err);

    /* libxl goes by either, and what is looked at here hangs on the second. */
    if (!rc && config->c_info.type != config->b_info.type)
        rc = err_set(err, -EPROTO, "the guest's configuration is of type %s in one place and %s in another",
                     libxl_domain_type_to_string(config->c_info.type), libxl_domain_type_to_string(config->b_info.type));
    if (!rc)
        rc = guard_build(&config->b_info, err);
    if (!rc && is_true(config->c_info.driver_domain))
        rc = err_set(err, -ENOTSUP, "the guest is a driver domain: other guests depend on it here");
    for (int i = 0; i < config->num_disks && !rc; i++)
        rc = xen_guard_disk(&config->disks[i], err);
    for (int i = 0; i < config->num_nics && !rc; i++)
        rc = guard_nic(&config->nics[i], err);
    return rc;
}
