/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Octets of the UTF-8 character at `s`, 0: there is none, or it is a control character. */
static size_t printable(const unsigned char *s)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;

    if (s[0] < 0x20 || s[0] == 0x7f || (s[0] >= 0x80 && s[0] < 0xc2) || s[0] > 0xf4)
        return 0;
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((s[0] == 0xc2 && s[1] < 0xa0) || (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

/* What peers and other programs said ends up here, and from here on terminals, in logs and in JSON. */
static void tidy(char *text)
{
    unsigned char *s = (unsigned char *)text;
    size_t n;

    for (; *s; s += n ? n : 1) {
        n = printable(s);
        if (n == 0)
            *s = *s == '\n' || *s == '\t' ? ' ' : '?';
    }
}

int err_set(struct err *err, int code, const char *fmt, ...)
{
    va_list ap;

    if (!err)
        return code;
    va_start(ap, fmt);
    (void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    tidy(err->text);
    err->code = code;
    return code;
}

int err_errno(struct err *err, int code, const char *fmt, ...)
{
    char reason[128];
    va_list ap;
    size_t used;

    if (!err)
        return code;
    va_start(ap, fmt);
    (void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    used = strlen(err->text);
    (void)snprintf(err->text + used, sizeof(err->text) - used, ": %s",
                   strerror_r(-code, reason, sizeof(reason)));
    tidy(err->text);
    err->code = code;
    return code;
}

int err_prefix(struct err *err, int code, const char *fmt, ...)
{
    char old[ERR_TEXT_MAX];
    va_list ap;
    size_t used;

    if (!err)
        return code;
    memcpy(old, err->text, sizeof(old));
    va_start(ap, fmt);
    (void)vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    used = strlen(err->text);
    (void)snprintf(err->text + used, sizeof(err->text) - used, ": %s", old);
    tidy(err->text);
    err->code = code;
    return code;
}
