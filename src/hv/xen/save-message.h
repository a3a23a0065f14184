/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a save helper says to libxl on its standard output and hears on its standard input. libxl
 * has no header for it: the message numbers are those of Xen 4.14 to today
 * (tools/libs/light/libxl_save_msgs_gen.pl).
 *
 * A message is a u16 length, then a u16 number and its arguments, packed, in the host's order; a
 * string is a u32 length that counts its NUL, then its octets. Messages that ask are answered by
 * one int. */
#ifndef XMOTION_HV_SAVE_MESSAGE_H
#define XMOTION_HV_SAVE_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>

enum save_message {
    SAVE_LOG = 1,
    SAVE_SUSPEND = 3,
    SAVE_SWITCH_QEMU_LOGDIRTY = 7,
    SAVE_COMPLETE = 10,
};

/* libxl tells by one bit a message which callbacks it has. */
#define SAVE_CALLBACK_BIT(message) (1u << (message))

void save_message_log(uint32_t level, int errnum, const char *context, const char *text);

/* These ask and wait. Once libxl is gone they return `gone` at once, so that libxenguest's way out
 * is not blocked. */
int save_message_suspend(int gone);
int save_message_switch_qemu_logdirty(uint32_t domid, unsigned int enable, int gone);
int save_message_complete(int retval, int errnum, int gone);

/* Whether libxl has gone, as far as the last message showed. */
bool save_message_libxl_gone(void);

#endif
