/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The log of a program: one line a message on standard error. Rooms report failures as errors, not
 * here; the log is for what happened on the way. Areas are named "room.part" (-D mirror.inflight). */
#ifndef XMOTION_BASE_LOG_H
#define XMOTION_BASE_LOG_H

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* Messages below `level` are dropped. Default: LOG_WARN. */
void log_set_level(enum log_level level);

/* Lets debug messages of areas that begin with `prefix` through, whatever the level; "all" is every
 * area. Not thread-safe: call it before threads start. */
void log_enable_area(const char *prefix);

/* Every line goes to `sink` instead of standard error; NULL restores it. Not thread-safe. */
void log_set_sink(void (*sink)(enum log_level level, const char *line));

void log_write(enum log_level level, const char *area, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

#define log_debug(area, ...) log_write(LOG_DEBUG, area, __VA_ARGS__)
#define log_info(area, ...)  log_write(LOG_INFO, area, __VA_ARGS__)
#define log_warn(area, ...)  log_write(LOG_WARN, area, __VA_ARGS__)
#define log_error(area, ...) log_write(LOG_ERROR, area, __VA_ARGS__)

#endif
