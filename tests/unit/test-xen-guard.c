/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a peer's configuration may ask this host's root to do. libxl's types need no Xen to run on.
 */
#include "hv/xen/xen-agent.h"
#include "unit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static libxl_domain_config config;

static char *text(const char *s)
{
    char *copy = strdup(s);

    ck_assert_ptr_nonnull(copy);
    return copy;
}

/* A guest with two disks and an interface, as "xl create" makes it. */
static void begin(libxl_domain_type type)
{
    libxl_domain_config_init(&config);
    config.c_info.type = type;
    libxl_domain_build_info_init_type(&config.b_info, type);
    config.num_disks = 2;
    config.disks = calloc(2, sizeof(*config.disks));
    for (int i = 0; i < 2; i++) {
        libxl_device_disk_init(&config.disks[i]);
        config.disks[i].vdev = text(i ? "xvdb" : "xvda");
        config.disks[i].pdev_path = text("/dev/vg0/disk");
        config.disks[i].format = LIBXL_DISK_FORMAT_RAW;
        config.disks[i].readwrite = 1;
    }
    config.num_nics = 1;
    config.nics = calloc(1, sizeof(*config.nics));
    libxl_device_nic_init(config.nics);
    config.nics[0].script = text("/etc/xen/scripts/vif-bridge");
}

static void expect(int code, const char *says)
{
    struct err err = {0};

    ck_assert_int_eq(xen_guard(&config, &err), code);
    ck_assert_msg(!says || strstr(err.text, says), "\"%s\" does not say \"%s\"", err.text, says);
    libxl_domain_config_dispose(&config);
}

static int boot_files(const char *kernel, const char *ramdisk)
{
    struct err err = {0};
    int r;

    begin(LIBXL_DOMAIN_TYPE_PVH);
    config.b_info.kernel = text(kernel);
    config.b_info.ramdisk = text(ramdisk);
    r = xen_guard_boot_files(&config.b_info, &err);
    libxl_domain_config_dispose(&config);
    ck_assert(r == 0 || strstr(err.text, "chmod"));
    return r;
}

/* What a guest starts from, it can read. */
START_TEST(secrets_are_no_boot_files)
{
    char dir[] = "/tmp/xmotion-guard.XXXXXX";
    char path[64];
    FILE *f;

    ck_assert_ptr_nonnull(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/kernel", dir);
    f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    (void)fclose(f);
    ck_assert_int_eq(chmod(path, 0644), 0);
    ck_assert_int_eq(boot_files("/nowhere/vmlinuz", "/nowhere/initrd"), 0);
    ck_assert_int_eq(boot_files(path, ""), -EPERM); /* in a folder that is 0700 */
    ck_assert_int_eq(chmod(dir, 0755), 0);
    ck_assert_int_eq(boot_files(path, path), 0);
    ck_assert_int_eq(chmod(path, 0640), 0);
    ck_assert_int_eq(boot_files("", path), -EPERM);
    ck_assert_int_eq(boot_files("/etc", ""), -EPERM);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

START_TEST(plain_guests_pass)
{
    begin(LIBXL_DOMAIN_TYPE_PVH);
    expect(0, NULL);
    begin(LIBXL_DOMAIN_TYPE_PV);
    config.b_info.bootloader = text("/usr/lib/xen-4.17/bin/pygrub");
    expect(0, NULL);
    begin(LIBXL_DOMAIN_TYPE_HVM);
    config.b_info.u.hvm.serial = text("pty");
    config.disks[1].is_cdrom = 1;
    free(config.disks[1].pdev_path);
    config.disks[1].pdev_path = NULL;
    expect(0, NULL);
}
END_TEST

START_TEST(what_stays_behind_is_refused)
{
    begin(LIBXL_DOMAIN_TYPE_PVH);
    config.num_pcidevs = 1;
    config.pcidevs = calloc(1, sizeof(*config.pcidevs));
    expect(-ENOTSUP, "pci-detach");
    begin(LIBXL_DOMAIN_TYPE_PVH);
    config.disks[1].backend = LIBXL_DISK_BACKEND_QDISK;
    expect(-ENOTSUP, "qdisk");
    begin(LIBXL_DOMAIN_TYPE_PVH);
    config.disks[0].format = LIBXL_DISK_FORMAT_QCOW2;
    expect(-ENOTSUP, "not raw");
    begin(LIBXL_DOMAIN_TYPE_PVH);
    config.disks[0].backend_domid = 3;
    expect(-ENOTSUP, "another domain");
    begin(LIBXL_DOMAIN_TYPE_HVM);
    config.disks[1].is_cdrom = 1;
    expect(-ENOTSUP, "cd-eject");
    begin(LIBXL_DOMAIN_TYPE_PV);
    config.b_info.num_vnuma_nodes = 1;
    config.b_info.vnuma_nodes = calloc(1, sizeof(*config.b_info.vnuma_nodes));
    expect(-ENOTSUP, "NUMA");
}
END_TEST

START_TEST(programs_of_the_peer_are_refused)
{
    static const char *const scripts[] = {"/tmp/evil",  "/etc/xen/scripts/../../../tmp/evil",
                                          "../evil",    ".hidden",
                                          "vif bridge", "vif-bridge;id"};

    for (size_t i = 0; i < sizeof(scripts) / sizeof(scripts[0]); i++) {
        begin(LIBXL_DOMAIN_TYPE_PVH);
        free(config.nics[0].script);
        config.nics[0].script = text(scripts[i]);
        expect(-EPERM, "script");
        begin(LIBXL_DOMAIN_TYPE_PVH);
        config.disks[0].script = text(scripts[i]);
        expect(-EPERM, "script");
    }
    begin(LIBXL_DOMAIN_TYPE_PV);
    config.b_info.bootloader = text("/bin/sh");
    expect(-EPERM, "boot loader");
    begin(LIBXL_DOMAIN_TYPE_HVM);
    config.b_info.device_model = text("/tmp/evil");
    expect(-EPERM, "device model");
    begin(LIBXL_DOMAIN_TYPE_HVM);
    config.b_info.extra_hvm = calloc(2, sizeof(char *));
    config.b_info.extra_hvm[0] = text("-chardev");
    expect(-EPERM, "device model");
    begin(LIBXL_DOMAIN_TYPE_HVM);
    config.b_info.u.hvm.serial = text("file:/etc/passwd");
    expect(-EPERM, "serial");
}
END_TEST

UNIT_MAIN("xen-guard", secrets_are_no_boot_files, plain_guests_pass, what_stays_behind_is_refused,
          programs_of_the_peer_are_refused)
