/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest that runs is not yet a guest that its clients reach: its frontends must connect to their new backends first. */
#include "xen-agent.h"

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECTED "4" /* XenbusStateConnected */

static const char *const classes[] = {"vif", "vbd"};

static bool is_connected(struct agent *a, const char *class, const char *device)
{
    char path[128];
    unsigned int length;
    CLEANUP_FREE char *state = NULL;

    (void)snprintf(path, sizeof(path), "/local/domain/%u/device/%s/%.32s/state", a->domid, class, device);
    state = xs_read(a->xs, XBT_NULL, path, &length);
    return state && !strcmp(state, CONNECTED);
}

bool xen_devices_connected(struct agent *a)
{
    bool all = true;

    for (size_t c = 0; c < ARRAY_SIZE(classes); c++) {
        char path[64];
        unsigned int count = 0;
        CLEANUP_FREE char **devices = NULL;

        (void)snprintf(path, sizeof(path), "/local/domain/%u/device/%s", a->domid, classes[c]);
        devices = xs_directory(a->xs, XBT_NULL, path, &count);
        for (unsigned int i = 0; devices && i < count; i++)
            all = all && is_connected(a, classes[c], devices[i]);
    }
    return all;
}

/* Sleeps until something of the guest's devices changes. */
static void await_change(struct xs_handle *xs, uint64_t ns)
{
    struct pollfd p = {.fd = xs_fileno(xs), .events = POLLIN};
    unsigned int count;

    if (poll(&p, 1, (int)(ns / NS_PER_MS) + 1) == 1)
        free(xs_read_watch(xs, &count));
}

int xen_settle(struct agent *a, uint64_t timeout_ns, uint64_t *ret_ns, struct err *err)
{
    uint64_t begin = clock_now();
    struct xs_handle *xs; /* of its own: the agent's has other watches */
    char path[64];
    bool all;

    if (!a->ran)
        return err_set(err, -EINVAL, "\"settle\" before \"run\"");
    xs = xs_open(0);
    if (!xs)
        return err_errno(err, -errno, "xenstore");
    (void)snprintf(path, sizeof(path), "/local/domain/%u/device", a->domid);
    (void)xs_watch(xs, path, "settle");
    while (!(all = xen_devices_connected(a)) && clock_now() - begin < timeout_ns)
        await_change(xs, timeout_ns - (clock_now() - begin));
    xs_close(xs);
    *ret_ns = clock_now() - begin;
    if (!all)
        return err_set(err, -ETIMEDOUT, "the guest runs, but has not connected all its devices after %llu s",
                       (unsigned long long)(timeout_ns / NS_PER_SEC));
    return 0;
}
