/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Puts xmotion-hotplug in the hotplug scripts' place while the guest is built, and the scripts back
 * in theirs before it runs: whatever happens to its devices later, here or at another host, is what
 * would happen without xmotion. */
#include "hv/xen/xen-agent.h"

#include "base/cleanup.h"
#include "hv/xen/hotplug.h"
#include "hv/xen/xen-libxl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HOTPLUG "xmotion-hotplug"

static bool is_plain_disk(const libxl_device_disk *disk)
{
    struct stat st;

    return !disk->script && disk->pdev_path && !stat(disk->pdev_path, &st) && S_ISBLK(st.st_mode);
}

static bool is_plain_nic(const libxl_device_nic *nic)
{
    const char *slash = nic->script ? strrchr(nic->script, '/') : NULL;

    return nic->bridge && nic->bridge[0] &&
           (!nic->script || !strcmp(slash ? slash + 1 : nic->script, "vif-bridge"));
}

static void replace(char **script, const char *with)
{
    free(*script);
    *script = with ? strdup(with) : NULL;
}

void xen_scripts_replace(libxl_domain_config *config)
{
    char path[450];

    if (xen_sibling(HOTPLUG, path, sizeof(path)))
        return;
    for (int i = 0; i < config->num_disks; i++)
        if (is_plain_disk(&config->disks[i]))
            replace(&config->disks[i].script, path);
    for (int i = 0; i < config->num_nics; i++)
        if (is_plain_nic(&config->nics[i]))
            replace(&config->nics[i].script, path);
}

static bool is_ours(const char *script)
{
    const char *slash = script ? strrchr(script, '/') : NULL;

    return slash && !strcmp(slash + 1, HOTPLUG);
}

static void restore_key(struct agent *a, const char *path, const char *stock)
{
    unsigned int length;
    CLEANUP_FREE char *script = xs_read(a->xs, XBT_NULL, path, &length);

    if (is_ours(script))
        (void)xs_write(a->xs, XBT_NULL, path, stock, (unsigned int)strlen(stock));
}

static void restore_folder(struct agent *a, const char *folder, const char *stock)
{
    unsigned int count = 0;
    char **devices = xs_directory(a->xs, XBT_NULL, folder, &count);
    char path[300];

    for (unsigned int i = 0; devices && i < count; i++) {
        (void)snprintf(path, sizeof(path), "%s/%s/script", folder, devices[i]);
        restore_key(a, path, stock);
    }
    free(devices);
}

/* A device is in the xenstore twice: for its backend, and for libxl. */
static void restore_devices(struct agent *a, const char *type, const char *stock)
{
    char folder[128];

    (void)snprintf(folder, sizeof(folder), "/local/domain/0/backend/%s/%u", type, a->domid);
    restore_folder(a, folder, stock);
    (void)snprintf(folder, sizeof(folder), "/libxl/%u/device/%s", a->domid, type);
    restore_folder(a, folder, stock);
}

static void restore_config(libxl_domain_config *config)
{
    for (int i = 0; i < config->num_disks; i++)
        if (is_ours(config->disks[i].script))
            replace(&config->disks[i].script, NULL);
    for (int i = 0; i < config->num_nics; i++)
        if (is_ours(config->nics[i].script))
            replace(&config->nics[i].script, STOCK_SCRIPTS "vif-bridge");
}

/* libxl keeps the configuration for restarts and later migrations. */
static void restore_stored(struct agent *a)
{
    libxl_domain_config config;
    uint8_t *stored = NULL;
    char *text = NULL;
    int length = 0;

    if (libxl_userdata_retrieve(a->ctx, a->domid, "libxl-json", &stored, &length) || !stored)
        return;
    libxl_domain_config_init(&config);
    if (!libxl_domain_config_from_json(a->ctx, &config, (const char *)stored)) {
        restore_config(&config);
        text = libxl_domain_config_to_json(a->ctx, &config);
    }
    if (!text || libxl_userdata_store(a->ctx, a->domid, "libxl-json", (const uint8_t *)text,
                                      (int)strlen(text) + 1))
        log_line("the domain's stored configuration keeps " HOTPLUG);
    libxl_domain_config_dispose(&config);
    free(stored);
    free(text);
}

void xen_scripts_restore(struct agent *a)
{
    restore_devices(a, "vbd", STOCK_SCRIPTS "block");
    restore_devices(a, "vif", STOCK_SCRIPTS "vif-bridge");
    restore_stored(a);
    restore_config(&a->config);
}
