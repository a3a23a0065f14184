/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/log.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define AREAS_MAX 16

static enum log_level threshold = LOG_WARN;
static const char *areas[AREAS_MAX];
static unsigned int area_count;
static uint64_t begin; /* when the first area was enabled: from then on lines say when they were written */
static void (*line_sink)(enum log_level level, const char *line);

static const char *const level_names[] = {
    [LOG_DEBUG] = "debug", [LOG_INFO] = "info", [LOG_WARN] = "warning", [LOG_ERROR] = "error"};

void log_set_level(enum log_level level)
{
    threshold = level;
}

void log_enable_area(const char *prefix)
{
    if (!area_count)
        begin = clock_now();
    if (area_count < AREAS_MAX)
        areas[area_count++] = prefix;
}

void log_set_sink(void (*sink)(enum log_level level, const char *line))
{
    line_sink = sink;
}

static bool area_enabled(const char *area)
{
    for (unsigned int i = 0; i < area_count; i++) {
        if (strcmp(areas[i], "all") == 0 || strncmp(area, areas[i], strlen(areas[i])) == 0)
            return true;
    }
    return false;
}

void log_write(enum log_level level, const char *area, const char *fmt, ...)
{
    char text[800];
    char line[930];
    char when[24] = "";
    va_list ap;

    if (level < threshold && !area_enabled(area))
        return;
    va_start(ap, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (area_count)
        (void)snprintf(when, sizeof(when), "%.3f s: ", (double)(clock_now() - begin) / (double)NS_PER_SEC);
    (void)snprintf(line, sizeof(line), "xmotion: %s%s: %s: %s", when, level_names[level], area, text);
    if (line_sink)
        line_sink(level, line);
    else
        (void)fprintf(stderr, "%s\n", line);
}
