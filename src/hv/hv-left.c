/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hv/hv.h"

#include "base/clock.h"
#include "base/run.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define AGENT_STEPS 50 /* of 200 ms */

static bool xen_domain_exists(const char *name)
{
    const char *const argv[] = {"xl", "domid", name, NULL};
    char output[200];

    return run_program(argv, output, sizeof(output), NULL) == 0;
}

/* The agent that was building it destroys it when its receiver dies; it gets the time to. */
static int destroy_xen(const char *name, struct err *err)
{
    char incoming[HV_NAME_MAX + 16];
    const char *const argv[] = {"xl", "destroy", incoming, NULL};
    char output[400];

    (void)snprintf(incoming, sizeof(incoming), "%s--incoming", name);
    for (int i = 0; i < AGENT_STEPS; i++) {
        if (!xen_domain_exists(incoming))
            return 0;
        clock_sleep(200 * NS_PER_MS);
    }
    return run_program(argv, output, sizeof(output), err);
}

int hv_target_destroy_left(const char *kind, const char *name, struct err *err)
{
    /* An embedded guest ends itself when its receiver dies, and a disk has nothing that runs. */
    return strncmp(kind, "xen-", 4) == 0 ? destroy_xen(name, err) : 0;
}
