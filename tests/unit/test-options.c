/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line: sizes, times, counts, and how options are told from arguments. */
#include "base/bytes.h"
#include "base/clock.h"
#include "cli/cli.h"

#include "unit.h"

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct err err;

/* ---- units ---- */

struct parsed {
    const char *text;
    uint64_t value;
};

START_TEST(sizes)
{
    static const struct parsed table[] = {
        {"0", 0},          {"1", 1},           {"4096", 4096},          {"1K", 1024},
        {"1KiB", 1024},    {"256M", MIB(256)}, {"3MiB", MIB(3)},        {"1G", GIB(1)},
        {"1GiB", GIB(1)},  {"1.5G", MIB(1536)}, {"0.5K", 512},          {"2T", UINT64_C(2) << 40},
        {"1TiB", UINT64_C(1) << 40}, {"007", 7}, {"8000000T", UINT64_C(8000000) << 40},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        uint64_t got = 1234567;

        ck_assert_msg(parse_size(table[i].text, &got, &err) == 0, "%s: %s", table[i].text, err.text);
        ck_assert_msg(got == table[i].value, "%s gives %llu", table[i].text, (unsigned long long)got);
    }
}
END_TEST

START_TEST(no_sizes)
{
    static const char *const table[] = {"",    " ",    "K",    "-1",   "+1",   " 1",  "1 ",  "1 K",  "1k",  "1KB",
                                        "1P",  "1Kib", "1MM",  "x",    "nan",  "inf", ".5G", "1..5", "1,5G", "1e",
                                        "9e18", "9000000T", "99999999999999999999", "1e400", "1G1"};

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        uint64_t got = 7;

        ck_assert_msg(parse_size(table[i], &got, &err) == -EINVAL, "\"%s\" is taken as %llu", table[i],
                      (unsigned long long)got);
        ck_assert_uint_eq(got, 7);
        ck_assert_ptr_nonnull(strstr(err.text, table[i]));
        ck_assert_ptr_nonnull(strstr(err.text, "256M"));
    }
}
END_TEST

START_TEST(times)
{
    static const struct parsed table[] = {
        {"300ms", 300 * NS_PER_MS}, {"5s", 5 * NS_PER_SEC},     {"10m", 600 * NS_PER_SEC}, {"1h", 3600 * NS_PER_SEC},
        {"0s", 0},                  {"0.5s", 500 * NS_PER_MS}, {"1.5ms", 1500000},
        {"2400000h", UINT64_C(2400000) * 3600 * NS_PER_SEC},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        uint64_t got = 1234567;

        ck_assert_msg(parse_time(table[i].text, &got, &err) == 0, "%s: %s", table[i].text, err.text);
        ck_assert_msg(got == table[i].value, "%s gives %llu", table[i].text, (unsigned long long)got);
    }
}
END_TEST

START_TEST(no_times)
{
    static const char *const table[] = {"",   "5",    "s",  "-1s", "1 s",    "5S",
                                        "5d", "5sec", "5us", "5M", "1e300h", "9e18ms", "3000000h"};

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        uint64_t got = 7;

        ck_assert_msg(parse_time(table[i], &got, &err) == -EINVAL, "\"%s\" is taken as %llu ns", table[i],
                      (unsigned long long)got);
        ck_assert_uint_eq(got, 7);
        ck_assert_ptr_nonnull(strstr(err.text, "300ms"));
    }
}
END_TEST

START_TEST(counts)
{
    static const char *const bad[] = {"", "0", "65", "-1", " 1", "1 ", "1.0", "x", "1x", "18446744073709551617"};
    uint64_t n = 0;

    ck_assert_int_eq(parse_count("1", 64, &n, &err), 0);
    ck_assert_uint_eq(n, 1);
    ck_assert_int_eq(parse_count("64", 64, &n, &err), 0);
    ck_assert_uint_eq(n, 64);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        ck_assert_msg(parse_count(bad[i], 64, &n, &err) == -EINVAL, "\"%s\"", bad[i]);
        ck_assert_ptr_nonnull(strstr(err.text, "from 1 to 64"));
    }
    ck_assert_uint_eq(n, 64);
}
END_TEST

/* ---- options ---- */

struct taken {
    char text[256]; /* "name=value " of each, in order */
};

static int take_size(void *data, const char *value, struct err *e)
{
    struct taken *t = data;
    uint64_t ignored;

    (void)strcat(strcat(strcat(t->text, "size="), value), " ");
    return parse_size(value, &ignored, e);
}

static int take_flag(void *data, const char *value, struct err *e)
{
    struct taken *t = data;

    (void)e;
    ck_assert_ptr_null(value);
    (void)strcat(t->text, "flag ");
    return 0;
}

static const struct option_spec specs[] = {
    {"size", "SIZE", "a size", take_size}, {"flag", NULL, "a flag", take_flag}, {NULL, NULL, NULL, NULL}};
static const struct command command = {.name = "test", .arguments = "[OPTION]... ARG", .summary = "Tests."};

struct line {
    const char *in; /* words of the command line */
    const char *taken;
    const char *rest; /* the words that are left, each with a blank after it */
};

/* Splits the line, parses it; the arguments that are left stand in `rest`. */
static int parse_line(const char *in, struct taken *taken, char rest[256])
{
    char words[256];
    char *argv[16] = {(char *)(uintptr_t)"test"};
    char *save = NULL;
    int argc = 1, count = -1, r;

    (void)snprintf(words, sizeof(words), "%s", in);
    for (char *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save))
        argv[argc++] = w;
    taken->text[0] = rest[0] = '\0';
    r = options_parse(&command, specs, taken, argc, argv, &count, &err);
    for (int i = 1; r == 0 && i <= count; i++)
        (void)strcat(strcat(rest, argv[i]), " ");
    return r;
}

START_TEST(good_lines)
{
    static const struct line table[] = {
        {"", "", ""},
        {"a b c", "", "a b c "},
        {"--flag", "flag ", ""},
        {"--size 5K a", "size=5K ", "a "},
        {"--size=5K a", "size=5K ", "a "},
        {"a --flag b --size 1 c", "flag size=1 ", "a b c "},
        {"--size 1 --size=2", "size=1 size=2 ", ""},
        {"-- --flag", "", "--flag "},
        {"--flag -- --size --", "flag ", "--size -- "},
        {"a -- b", "", "a b "},
        {"-", "", "- "},
        {"--", "", ""},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct taken taken;
        char rest[256];

        ck_assert_msg(parse_line(table[i].in, &taken, rest) == 0, "%s: %s", table[i].in, err.text);
        ck_assert_str_eq(taken.text, table[i].taken);
        ck_assert_str_eq(rest, table[i].rest);
    }
}
END_TEST

START_TEST(bad_lines)
{
    static const struct {
        const char *in;
        const char *sentence; /* what it must say */
    } table[] = {
        {"--sizes 5", "--sizes is no option of xmotion test: see xmotion test --help"},
        {"--siz=5", "--siz is no option"},
        {"--=5", "-- is no option"},
        {"-s 5", "-s is no option"},
        {"-size 5", "-size is no option"},
        {"-flag", "-flag is no option"},
        {"a --size", "--size needs a value: --size SIZE"},
        {"--size= a", "--size needs a value"},
        {"--flag=1", "--flag takes no value"},
        {"--flag=", "--flag takes no value"},
        {"--size x", "--size: \"x\" is no size"},
        {"--size=-5", "--size: \"-5\" is no size"},
        {"--size --flag", "--size: \"--flag\" is no size"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct taken taken;
        char rest[256];

        ck_assert_msg(parse_line(table[i].in, &taken, rest) == -EINVAL, "%s", table[i].in);
        ck_assert_msg(strstr(err.text, table[i].sentence) != NULL, "%s: %s", table[i].in, err.text);
    }
}
END_TEST

START_TEST(value_equals_signs_are_the_values)
{
    char arg[] = "--size=a=b";
    char *argv[] = {(char *)(uintptr_t)"test", arg};
    struct taken taken = {""};
    int count;

    ck_assert_int_eq(options_parse(&command, specs, &taken, 2, argv, &count, &err), -EINVAL);
    ck_assert_str_eq(taken.text, "size=a=b ");
}
END_TEST

START_TEST(help_is_an_exit)
{
    struct taken taken;
    char rest[256];
    int status = -1;
    pid_t child = fork();

    if (child == 0) {
        (void)freopen("/dev/null", "w", stdout);
        (void)parse_line("--size 5 --help", &taken, rest);
        _exit(9); /* it came back */
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    ck_assert_int_eq(WEXITSTATUS(status), 0);
}
END_TEST

START_TEST(state_folder_by_option_environment_default)
{
    struct cli cli = {0};

    ck_assert_int_eq(unsetenv("XMOTION_STATE_DIR"), 0);
    ck_assert_str_eq(state_dir(&cli), "/var/lib/xmotion");
    ck_assert_int_eq(setenv("XMOTION_STATE_DIR", "", 1), 0);
    ck_assert_str_eq(state_dir(&cli), "/var/lib/xmotion");
    ck_assert_int_eq(setenv("XMOTION_STATE_DIR", "/tmp/e", 1), 0);
    ck_assert_str_eq(state_dir(&cli), "/tmp/e");
    cli.identity.state_dir = "/tmp/o";
    ck_assert_str_eq(state_dir(&cli), "/tmp/o");
}
END_TEST

UNIT_MAIN("options", sizes, no_sizes, times, no_times, counts, good_lines, bad_lines,
          value_equals_signs_are_the_values, help_is_an_exit, state_folder_by_option_environment_default)
