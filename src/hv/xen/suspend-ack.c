/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "suspend-ack.h"

#include "base/cleanup.h"
#include "base/clock.h"

#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xenstore.h>

#define LOOK_MS 50 /* how late the thread may notice that it is to end */

static struct xs_handle *xs;
static pthread_t thread;
static bool ended;       /* atomic */
static uint64_t taken_ns; /* the thread's, read when it is joined */
static char path[64];

static bool is_asked(void)
{
    unsigned int length;
    CLEANUP_FREE char *value = xs_read(xs, XBT_NULL, path, &length);

    return value && !strcmp(value, "suspend");
}

static void *watch(void *data)
{
    struct pollfd p = {.fd = xs_fileno(xs), .events = POLLIN};
    bool asked = false;
    unsigned int count;

    (void)data;
    while (!__atomic_load_n(&ended, __ATOMIC_ACQUIRE)) {
        if (poll(&p, 1, LOOK_MS) != 1)
            continue;
        free(xs_read_watch(xs, &count));
        if (is_asked()) {
            asked = true;
        } else if (asked) {
            taken_ns = clock_now();
            break;
        }
    }
    return NULL;
}

void suspend_ack_begin(uint32_t domid)
{
    taken_ns = 0;
    ended = false;
    (void)snprintf(path, sizeof(path), "/local/domain/%u/control/shutdown", domid);
    xs = xs_open(0);
    if (xs && (!xs_watch(xs, path, "ack") || pthread_create(&thread, NULL, watch, NULL))) {
        xs_close(xs);
        xs = NULL;
    }
}

uint64_t suspend_ack_end(void)
{
    if (!xs)
        return 0;
    __atomic_store_n(&ended, true, __ATOMIC_RELEASE);
    (void)pthread_join(thread, NULL);
    xs_close(xs);
    xs = NULL;
    return taken_ns;
}
