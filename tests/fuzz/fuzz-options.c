/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A command line: sizes, times, counts, and options with and without values. The input is arguments with NULs between.
 * fuzz: -max_len=600 */
#include "fuzz.h"

static void fake_exit(int code) __attribute__((noreturn));
#define exit   fake_exit
#define printf(...) ((void)0)
#include "cli/options.c"

#include <setjmp.h>

#define ARGUMENTS_MAX 16

static jmp_buf help_shown;

static void fake_exit(int code)
{
    longjmp(help_shown, 1);
}

static int take_size(void *data, const char *value, struct err *err)
{
    uint64_t size = 0;
    int r = parse_size(value, &size, err);

    CHECK(r < 0 || size < UINT64_C(1) << 63);
    return r;
}

static int take_time(void *data, const char *value, struct err *err)
{
    uint64_t ns = 0;
    int r = parse_time(value, &ns, err);

    CHECK(r < 0 || ns < UINT64_C(1) << 63);
    return r;
}

static int take_count(void *data, const char *value, struct err *err)
{
    uint64_t n = 0;
    int r = parse_count(value, 64, &n, err);

    CHECK(r < 0 || (n >= 1 && n <= 64));
    return r;
}

static int take_flag(void *data, const char *value, struct err *err)
{
    CHECK(!value);
    return 0;
}

static const struct option_spec specs[] = {
    {"size", "SIZE", "a size", take_size}, {"time", "TIME", "a time", take_time}, {"count", "N", "a count", take_count},
    {"flag", NULL, "a flag", take_flag},   {0},
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct command command = {"fuzz", "", "", NULL};
    struct input in = {data, size};
    char *argv[ARGUMENTS_MAX + 1] = {(char *)"xmotion"}, *all[ARGUMENTS_MAX];
    struct err err = {0};
    int argc = 1, count = 0;

    while (in.left && argc < ARGUMENTS_MAX) {
        argv[argc] = all[argc] = take_text(&in, 500, -1);
        argc++;
    }
    (void)take_size(NULL, argc > 1 ? argv[1] : "", &err);
    (void)take_time(NULL, argc > 1 ? argv[1] : "", &err);
    (void)take_count(NULL, argc > 1 ? argv[1] : "", &err);
    err = (struct err){0};
    if (setjmp(help_shown) == 0) {
        if (options_parse(&command, specs, NULL, argc, argv, &count, &err) == 0)
            CHECK(count >= 0 && count < argc);
        else
            CHECK(err.code == -EINVAL && *err.text);
    }
    while (--argc)
        free(all[argc]);
    return 0;
}
