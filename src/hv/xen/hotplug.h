/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* xmotion-hotplug: connects a guest's devices while the guest stands still. See hotplug.c. */
#ifndef XMOTION_HV_HOTPLUG_H
#define XMOTION_HV_HOTPLUG_H

#include <stdbool.h>
#include <stddef.h>
#include <xenstore.h>

#define STOCK_SCRIPTS "/etc/xen/scripts/"

/* The value of `key` below the device's backend, to be freed; NULL: there is none. */
char *hotplug_read(struct xs_handle *xs, const char *backend, const char *key);
bool hotplug_write(struct xs_handle *xs, const char *backend, const char *key, const char *value);

/* Both connect the device in the plain case and return true; false: nothing is changed and the
 * stock script must do it. */
bool hotplug_disk(struct xs_handle *xs, const char *backend);
bool hotplug_vif(struct xs_handle *xs, const char *backend, const char *interface);

#endif
