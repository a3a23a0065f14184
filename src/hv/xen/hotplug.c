/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* xmotion-hotplug, in place of Xen's hotplug scripts while a guest is built at the target. libxl
 * runs one for each disk and network interface after the last of the guest's memory has come, when
 * the guest stands still; the stock scripts are hundreds of lines of shell with dozens of
 * processes, and most of a migration's downtime. This program does the same for the plain cases (a
 * block device that nobody else uses; an interface on a Linux bridge) in one process. Whatever is
 * not plain, or not adding, is left to the stock script. Once the guest is built nothing refers to
 * this program any more. */
#include "hv/xen/hotplug.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

char *hotplug_read(struct xs_handle *xs, const char *backend, const char *key)
{
    unsigned int length;
    char path[300];

    (void)snprintf(path, sizeof(path), "%s/%s", backend, key);
    return xs_read(xs, XBT_NULL, path, &length);
}

bool hotplug_write(struct xs_handle *xs, const char *backend, const char *key, const char *value)
{
    char path[300];

    (void)snprintf(path, sizeof(path), "%s/%s", backend, key);
    return xs_write(xs, XBT_NULL, path, value, (unsigned int)strlen(value));
}

static int run_stock(const char *type, char **argv)
{
    const char *script = !strcmp(type, "vif") ? STOCK_SCRIPTS "vif-bridge" : STOCK_SCRIPTS "block";

    (void)setenv("script", script, 1);
    execv(script, argv);
    fprintf(stderr, "xmotion-hotplug: %s: %s\n", script, strerror(errno));
    return EXIT_FAILURE;
}

static bool connect_device(const char *type, const char *backend, const char *action)
{
    const char *interface = getenv("vif");
    struct xs_handle *xs;
    bool done = false;

    if (strcmp(action, "add") && strcmp(action, "online"))
        return false;
    xs = xs_open(0);
    if (!xs)
        return false;
    if (!strcmp(type, "vbd") && !strcmp(action, "add"))
        done = hotplug_disk(xs, backend);
    else if (!strcmp(type, "vif") && interface)
        done = hotplug_vif(xs, backend, interface);
    xs_close(xs);
    return done;
}

int main(int argc, char **argv)
{
    const char *type = getenv("XENBUS_TYPE"), *backend = getenv("XENBUS_PATH");

    if (argc < 2 || !type || !backend) {
        fprintf(stderr, "xmotion-hotplug is run by libxl\n");
        return 2;
    }
    /* "type_if=tap" is a device model's end of an interface. */
    if ((argc < 3 || !strcmp(argv[2], "type_if=vif")) && connect_device(type, backend, argv[1]))
        return EXIT_SUCCESS;
    return run_stock(type, argv);
}
