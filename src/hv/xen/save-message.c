/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hv/xen/save-message.h"

#include "base/fdio.h"

#include <assert.h>
#include <string.h>
#include <unistd.h>

#define STRING_MAX 4000u

struct message {
    size_t length;
    uint8_t octets[2 * STRING_MAX + 256];
};

static bool libxl_gone;

static void put(struct message *m, const void *data, size_t length)
{
    assert(length <= sizeof(m->octets) - m->length);
    memcpy(m->octets + m->length, data, length);
    m->length += length;
}

static void put_u32(struct message *m, uint32_t value)
{
    put(m, &value, sizeof(value));
}

static void put_string(struct message *m, const char *string)
{
    size_t length = strnlen(string ? string : "", STRING_MAX - 1);

    put_u32(m, (uint32_t)length + 1);
    put(m, string, length);
    put(m, "", 1);
}

/* Leaves room for the length, which is known at the end. */
static void begin(struct message *m, enum save_message number)
{
    uint16_t wire_number = (uint16_t)number;

    m->length = sizeof(uint16_t);
    put(m, &wire_number, sizeof(wire_number));
}

static void tell(struct message *m)
{
    uint16_t length = (uint16_t)(m->length - sizeof(length));

    memcpy(m->octets, &length, sizeof(length));
    if (!libxl_gone && fd_write_full(STDOUT_FILENO, m->octets, m->length))
        libxl_gone = true;
}

static int ask(struct message *m, int gone)
{
    int answer;

    tell(m);
    if (!libxl_gone && fd_read_full(STDIN_FILENO, &answer, sizeof(answer)))
        libxl_gone = true;
    return libxl_gone ? gone : answer;
}

void save_message_log(uint32_t level, int errnum, const char *context, const char *text)
{
    struct message m;

    begin(&m, SAVE_LOG);
    put_u32(&m, level);
    put_u32(&m, (uint32_t)errnum);
    put_string(&m, context);
    put_string(&m, text);
    tell(&m);
}

int save_message_suspend(int gone)
{
    struct message m;

    begin(&m, SAVE_SUSPEND);
    return ask(&m, gone);
}

int save_message_switch_qemu_logdirty(uint32_t domid, unsigned int enable, int gone)
{
    struct message m;

    begin(&m, SAVE_SWITCH_QEMU_LOGDIRTY);
    put_u32(&m, domid);
    put_u32(&m, enable);
    return ask(&m, gone);
}

int save_message_complete(int retval, int errnum, int gone)
{
    struct message m;

    begin(&m, SAVE_COMPLETE);
    put_u32(&m, (uint32_t)retval);
    put_u32(&m, (uint32_t)errnum);
    return ask(&m, gone);
}

bool save_message_libxl_gone(void)
{
    return libxl_gone;
}
