/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Built without libnbd: there are no embedded guests, and everybody who asks for one is told so. */
#include "hv/proc-guest.h"

static int none(struct err *err)
{
    return err_set(err, -ENOTSUP, "this xmotion was built without libnbd and nbdkit: it has no embedded guests");
}

int proc_guest_run(const struct proc_guest_config *config, struct err *err)
{
    (void)config;
    return none(err);
}

int proc_guest_incoming(int sock)
{
    (void)sock;
    return 1;
}

int proc_guest_verify(const char *name, char *ret_text, size_t size, struct err *err)
{
    (void)name, (void)ret_text, (void)size;
    return none(err);
}

int proc_guest_describe(const char *name, json_t **ret, struct err *err)
{
    (void)name, (void)ret;
    return none(err);
}

int proc_guest_stats(const char *name, json_t **ret, struct err *err)
{
    (void)name, (void)ret;
    return none(err);
}

int proc_guest_list(json_t **ret, struct err *err)
{
    (void)ret;
    return none(err);
}

int proc_guest_destroy(const char *name, struct err *err)
{
    (void)name;
    return none(err);
}
