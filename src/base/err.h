/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Errors with context: a negative errno and one sentence, kept by the caller so that failing never
 * allocates. The place that fails says what it found and expected; callers on the way up prefix. */
#ifndef XMOTION_BASE_ERR_H
#define XMOTION_BASE_ERR_H

#include <errno.h>

#define ERR_TEXT_MAX 600

struct err {
    int code;                /* negative errno, 0: no error */
    char text[ERR_TEXT_MAX]; /* one sentence, no newline; always printable UTF-8, whatever was put into it */
};

/* Sets the error and returns `code`. `err` may be NULL. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Like err_set, with ": " and the text of errno `code` appended. */
int err_errno(struct err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Puts "<prefix>: " before the text that is there and returns `code`. */
int err_prefix(struct err *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#endif
