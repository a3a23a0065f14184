/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/cli.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_help(const struct command *command, const struct option_spec *specs)
{
    (void)printf("xmotion %s %s\n%s\n\n", command->name, command->arguments, command->summary);
    for (const struct option_spec *o = specs; o->name; o++) {
        char left[48];

        (void)snprintf(left, sizeof(left), "--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
        (void)printf("  %-28s %s\n", left, o->help);
    }
    (void)printf("  %-28s %s\n", "--state-dir DIR", "identity and trust (default /var/lib/xmotion)");
    (void)printf("  %-28s %s\n", "--ca, --cert, --key FILE", "certificates of your own PKI, instead of trust and authorize");
}

static const struct option_spec *find(const struct option_spec *specs, const char *name, size_t len)
{
    for (const struct option_spec *o = specs; o->name; o++) {
        if (strlen(o->name) == len && strncmp(o->name, name, len) == 0)
            return o;
    }
    return NULL;
}

int options_parse(const struct command *command, const struct option_spec *specs, void *data, int argc, char **argv,
                  int *ret_count, struct err *err)
{
    int kept = 1;
    bool options = true;

    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        const struct option_spec *o;
        const char *value = NULL;
        size_t len;
        int r;

        if (options && strcmp(arg, "--") == 0) {
            options = false;
            continue;
        }
        if (!options || arg[0] != '-' || !arg[1]) {
            argv[kept++] = argv[i];
            continue;
        }
        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            print_help(command, specs);
            exit(0);
        }
        len = strcspn(arg, "=");
        o = strncmp(arg, "--", 2) == 0 ? find(specs, arg + 2, len - 2) : NULL;
        if (!o)
            return err_set(err, -EINVAL, "%.*s is no option of xmotion %s: see xmotion %s --help", (int)len, arg,
                           command->name, command->name);
        if (o->value && arg[len] == '=')
            value = arg + len + 1;
        else if (o->value && i + 1 < argc)
            value = argv[++i];
        if (o->value && (!value || !*value))
            return err_set(err, -EINVAL, "--%s needs a value: --%s %s", o->name, o->name, o->value);
        if (!o->value && arg[len])
            return err_set(err, -EINVAL, "--%s takes no value", o->name);
        r = o->take(data, value, err);
        if (r < 0)
            return err_prefix(err, r, "--%s", o->name);
    }
    *ret_count = kept - 1;
    return 0;
}

/* The number before a unit; false: there is none, or it is no number. */
static bool number(const char *text, double *ret, const char **ret_unit)
{
    char *end;

    if (!(*text >= '0' && *text <= '9'))
        return false;
    *ret = strtod(text, &end);
    *ret_unit = end;
    return isfinite(*ret) && *ret >= 0;
}

int parse_size(const char *text, uint64_t *ret, struct err *err)
{
    static const struct {
        const char *unit;
        unsigned int shift;
    } units[] = {{"", 0},     {"K", 10},   {"M", 20},   {"G", 30},   {"T", 40},
                 {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
    const char *unit;
    double n;

    if (number(text, &n, &unit)) {
        for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
            if (strcmp(unit, units[i].unit) != 0)
                continue;
            n *= (double)(UINT64_C(1) << units[i].shift);
            if (n >= 9e18)
                break;
            *ret = (uint64_t)n;
            return 0;
        }
    }
    return err_set(err, -EINVAL, "\"%s\" is no size: expected a number with K, M, G or T, as in 256M", text);
}

int parse_time(const char *text, uint64_t *ret_ns, struct err *err)
{
    static const struct {
        const char *unit;
        double ns;
    } units[] = {{"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};
    const char *unit;
    double n;

    if (number(text, &n, &unit)) {
        for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
            if (strcmp(unit, units[i].unit) != 0 || n * units[i].ns >= 9e18)
                continue;
            *ret_ns = (uint64_t)(n * units[i].ns);
            return 0;
        }
    }
    return err_set(err, -EINVAL, "\"%s\" is no time: expected a number with ms, s, m or h, as in 300ms", text);
}

int parse_count(const char *text, uint64_t most, uint64_t *ret, struct err *err)
{
    char *end;
    unsigned long long n = strtoull(text, &end, 10);

    if (*text < '0' || *text > '9' || *end || n < 1 || n > most)
        return err_set(err, -EINVAL, "\"%s\": expected a whole number from 1 to %llu", text, (unsigned long long)most);
    *ret = n;
    return 0;
}

int fail(int code, const struct err *err)
{
    (void)fflush(stdout);
    (void)fprintf(stderr, "xmotion: %s\n", err->text);
    return code;
}

const char *state_dir(const struct cli *cli)
{
    const char *env = getenv("XMOTION_STATE_DIR");

    if (cli->identity.state_dir)
        return cli->identity.state_dir;
    return env && *env ? env : "/var/lib/xmotion";
}
