/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "base/fault.h"

#ifdef XMOTION_FAULT_POINTS

#include "base/bytes.h"
#include "base/clock.h"
#include "base/log.h"

#include <assert.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define AREA        "base.fault"
#define FAULTS_MAX  32
#define ERRNO_MAX   134 /* Linux has no higher one */
#define SLEEP_MAX   UINT64_C(3600000)
#define PASSING_MAX UINT64_C(1000000000000)

static const char *const names[] = {
    "source.prepared", "source.disks",  "source.memory",  "source.suspended", "source.final",    "source.ready",
    "source.commit",   "source.aside",  "source.go",      "source.running",   "source.destroyed", "target.prepare",
    "target.prepared", "target.memory",  "target.final",     "target.ready",     "target.go",      "target.go-noted",
    "target.run",      "target.run-noted", "target.running", "disk.read",        "disk.write",     "disk.flush",
    "journal.write",
};

enum action { ACTION_KILL, ACTION_STOP, ACTION_SLEEP, ACTION_FAIL, ACTION_SHORT };

struct fault {
    size_t name; /* index */
    size_t after; /* index, ARRAY_SIZE(names): none */
    uint64_t passed; /* atomic: since then */
    uint64_t first;
    bool later_too;
    enum action action;
    uint64_t ms;  /* ACTION_SLEEP */
    int code;     /* ACTION_FAIL: negative errno */
    char text[64]; /* as it was given */
};

static struct fault faults[FAULTS_MAX];
static size_t fault_count;
static uint64_t passings[ARRAY_SIZE(names)]; /* atomic */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static size_t name_index(const char *name)
{
    size_t i;

    for (i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(names[i], name) == 0)
            break;
    }
    return i;
}

static int parse_number(const char *text, const char **ret_end, uint64_t max, uint64_t *ret)
{
    char *end;

    if (*text < '0' || *text > '9')
        return -EINVAL;
    errno = 0;
    *ret = strtoull(text, &end, 10);
    *ret_end = end;
    return errno || *ret > max ? -EINVAL : 0;
}

static int parse_errno(const char *text)
{
    for (int e = 1; e < ERRNO_MAX; e++) {
        const char *name = strerrorname_np(e);

        if (name && strcmp(name, text) == 0)
            return -e;
    }
    return 0;
}

static int parse_action(struct fault *f, const char *text, struct err *err)
{
    const char *end = "";

    if (strcmp(text, "kill") == 0) {
        f->action = ACTION_KILL;
    } else if (strcmp(text, "stop") == 0) {
        f->action = ACTION_STOP;
    } else if (strcmp(text, "short") == 0) {
        f->action = ACTION_SHORT;
        if (strcmp(names[f->name], "disk.write") != 0 && strcmp(names[f->name], "journal.write") != 0)
            return err_set(err, -EINVAL, "only disk.write and journal.write can be short, not %s", names[f->name]);
    } else if (strncmp(text, "sleep:", 6) == 0) {
        f->action = ACTION_SLEEP;
        if (parse_number(text + 6, &end, SLEEP_MAX, &f->ms) < 0 || *end)
            return err_set(err, -EINVAL, "'%s' is no time in milliseconds of at most an hour", text + 6);
    } else if (strncmp(text, "fail:", 5) == 0) {
        f->action = ACTION_FAIL;
        f->code = parse_errno(text + 5);
        if (!f->code)
            return err_set(err, -EINVAL, "'%s' is the name of no errno, expected one like EIO", text + 5);
    } else {
        return err_set(err, -EINVAL, "'%s' is no action, expected kill, stop, sleep:MS, fail:ERRNO or short", text);
    }
    return 0;
}

/* NAME[@N[+]][/OTHER]=ACTION; `text` is written to. */
static int parse_fault(struct fault *f, char *text, struct err *err)
{
    char *action = strchr(text, '=');
    char *passing;
    char *other;
    const char *end;

    memset(f, 0, sizeof(*f));
    (void)snprintf(f->text, sizeof(f->text), "%s", text);
    f->first = 1;
    if (!action)
        return err_set(err, -EINVAL, "'%s' lacks '=ACTION'", text);
    *action++ = '\0';
    other = strchr(text, '/');
    f->after = ARRAY_SIZE(names);
    if (other) {
        *other++ = '\0';
        f->after = name_index(other);
        if (f->after == ARRAY_SIZE(names))
            return err_set(err, -EINVAL, "there is no fault point '%s' (HACKING.md lists them)", other);
    }
    passing = strchr(text, '@');
    if (passing) {
        *passing++ = '\0';
        if (parse_number(passing, &end, PASSING_MAX, &f->first) < 0 || !f->first)
            return err_set(err, -EINVAL, "'%s' counts no passing, expected 1 or higher", passing);
        f->later_too = *end == '+';
        if (end[f->later_too])
            return err_set(err, -EINVAL, "'%s' counts no passing, expected 1 or higher", passing);
    }
    f->name = name_index(text);
    if (f->name == ARRAY_SIZE(names))
        return err_set(err, -EINVAL, "there is no fault point '%s' (HACKING.md lists them)", text);
    return parse_action(f, action, err);
}

static int parse(char *text, struct err *err)
{
    char *rest = NULL;

    for (char *one = strtok_r(text, ",", &rest); one; one = strtok_r(NULL, ",", &rest)) {
        int r;

        if (fault_count == FAULTS_MAX)
            return err_set(err, -EINVAL, "more than %d faults", FAULTS_MAX);
        r = parse_fault(&faults[fault_count], one, err);
        if (r < 0)
            return r;
        fault_count++;
    }
    return fault_count ? 0 : err_set(err, -EINVAL, "it names no fault");
}

static void init_once(void)
{
    const char *given = getenv("XMOTION_FAULT");
    char *text = given ? strdup(given) : NULL;
    struct err err;

    if (given && (!text || parse(text, &err) < 0)) {
        (void)fprintf(stderr, "xmotion: XMOTION_FAULT: %s\n", text ? err.text : "out of memory");
        _exit(2); /* other threads may run: no handlers */
    }
    free(text);
}

void fault_init(void)
{
    (void)pthread_once(&once, init_once);
}

static int act(const struct fault *f, uint64_t passing, struct err *err)
{
    log_warn(AREA, "%s, passing %llu", f->text, (unsigned long long)passing);
    (void)fflush(stderr);
    (void)fflush(stdout);
    switch (f->action) {
    case ACTION_KILL:
        (void)kill(getpid(), SIGKILL);
        for (;;) /* not one instruction of the caller's more */
            (void)pause();
    case ACTION_STOP:
        (void)raise(SIGSTOP); /* this thread, so that it goes not one step further while the others are being stopped */
        return 0;
    case ACTION_SLEEP:
        clock_sleep(f->ms * NS_PER_MS);
        return 0;
    case ACTION_FAIL:
        return err_errno(err, f->code, "the fault point %s", names[f->name]);
    case ACTION_SHORT:
        return FAULT_SHORT;
    }
    return 0;
}

int fault_point(const char *name, struct err *err)
{
    size_t index;
    uint64_t passing;
    int r = 0;

    fault_init();
    if (!fault_count)
        return 0;
    index = name_index(name);
    assert(index < ARRAY_SIZE(names));
    passing = __atomic_add_fetch(&passings[index], 1, __ATOMIC_RELAXED);
    for (size_t i = 0; i < fault_count && r == 0; i++) {
        struct fault *f = &faults[i];
        uint64_t n = passing;

        if (f->name != index)
            continue;
        if (f->after < ARRAY_SIZE(names))
            n = __atomic_load_n(&passings[f->after], __ATOMIC_RELAXED) ? __atomic_add_fetch(&f->passed, 1, __ATOMIC_RELAXED) : 0;
        if (n && (n == f->first || (f->later_too && n > f->first)))
            r = act(f, n, err);
    }
    return r;
}

#endif
