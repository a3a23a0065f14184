/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the kernel says of a block device in /sys, for the tracker's audit and for the brake. The first octet chooses the attribute, the
 * rest is its text; where two are read, the second follows the first after a NUL.
 * fuzz: -max_len=1500 */
#include "fuzz.h"

#include "mirror/care-meter.h"

static int fake_read(const char *path, size_t max, char **ret, size_t *ret_len);
static int fake_access(const char *path, int mode);
#define file_read fake_read
#define access    fake_access
#include "mirror/bpf/block-sysfs.c"

static struct input in;

static int fake_read(const char *path, size_t max, char **ret, size_t *ret_len)
{
    CHECK(strncmp(path, "/sys/dev/block/8:1/", 19) == 0);
    *ret = take_text(&in, max, -1);
    *ret_len = strlen(*ret);
    return 0;
}

static int fake_access(const char *path, int mode)
{
    return 0;
}

/* The brake's figures, one after another, as they come: a latency is some time, and not of no request. */
static int care(struct err *err)
{
    const struct care_own_reads own = {0};
    uint64_t now = 1000000000;
    struct care_meter m;

    care_meter_init(&m, take_number(&in, 3));
    care_meter_restart(&m, now);
    for (unsigned int i = 0; i < 8 && in.left; i++) {
        char *stat = take_text(&in, 4096, -1), *inflight = take_text(&in, 4096, -1);
        struct care_sample samples[CARE_KIND_COUNT];
        struct care_figures f;
        int r = care_figures_parse(&f, stat, inflight, err);

        free(stat);
        free(inflight);
        if (r < 0)
            return r;
        care_meter_step(&m, now += 250000000, &f, &own, samples);
        for (int k = 0; k < CARE_KIND_COUNT; k++)
            CHECK(samples[k].news <= CARE_LATENCY);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct block_place place = {.major = 8, .minor = 1, .partition = true};
    struct block_figures figures;
    struct err err = {0};
    uint64_t count;
    int r;

    in = (struct input){data, size};
    switch (take_u8(&in) & 7) {
    case 0:
        r = block_figures_read(&place, &figures, &err);
        break;
    case 1:
        r = block_writes_in_flight(&place, &count, &err);
        break;
    case 2:
        r = find_disk(&place, &err);
        break;
    case 3:
        r = care(&err);
        break;
    default:
        r = expect_queue(&place, "zoned", "none", "is zoned, which cannot be tracked", &err);
    }
    CHECK(r == 0 || (err.code == r && *err.text));
    return 0;
}
