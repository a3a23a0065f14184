/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The load must find every kind of damage: a proof that cannot fail proves nothing. */
#include "base/clock.h"
#include "hv/guest-load.h"
#include "unit.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE      4096u
#define RAM_SIZE  ((size_t)8 << 20)
#define DISK_SIZE ((uint64_t)4 << 20)
#define MIB_RATE  ((uint64_t)200 << 20) /* octets a second */

/* A disk in memory that keeps what the last write replaced, and fails when it is told to. */
struct disk {
    uint8_t *data;
    uint64_t written; /* the last write: offset */
    size_t length;
    bool zeroed; /* the last one was one of zeroes */
    int writes;
    int fail_after;             /* -1: never */
    uint8_t before[256 * 1024]; /* what stood there */
};

static int disk_pread(void *opaque, void *buf, size_t len, uint64_t offset)
{
    struct disk *d = opaque;

    memcpy(buf, d->data + offset, len);
    return 0;
}

static int disk_change(struct disk *d, const void *buf, size_t len, uint64_t offset)
{
    if (d->fail_after >= 0 && d->writes >= d->fail_after) {
        if (buf)
            memcpy(d->data + offset, buf, PAGE); /* torn: the first block only */
        return -EIO;
    }
    d->written = offset;
    d->length = len;
    d->zeroed = !buf;
    d->writes++;
    memcpy(d->before, d->data + offset, len);
    if (buf)
        memcpy(d->data + offset, buf, len);
    else
        memset(d->data + offset, 0, len);
    return 0;
}

static int disk_pwrite(void *opaque, const void *buf, size_t len, uint64_t offset)
{
    return disk_change(opaque, buf, len, offset);
}

static int disk_zero(void *opaque, size_t len, uint64_t offset)
{
    return disk_change(opaque, NULL, len, offset);
}

static int disk_flush(void *opaque)
{
    return 0;
}

static const struct guest_disk_ops disk_ops = {disk_pread, disk_pwrite, disk_zero, disk_flush};

static struct disk disks[2];
static struct guest_load_config config;
static struct guest_load *load;
static uint64_t part; /* of a page that a lap changes */
static uint64_t set;  /* of RAM that is walked */
static uint8_t *ram;
static char text[300];

static uint8_t *map(size_t size)
{
    uint8_t *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    ck_assert(p != MAP_FAILED);
    return p;
}

static void begin(uint64_t dirty_rate, uint64_t write_rate, unsigned int disk_count)
{
    config = (struct guest_load_config){dirty_rate, write_rate, part, set, disk_count, {{0}}};
    for (unsigned int i = 0; i < disk_count; i++) {
        disks[i] = (struct disk){.data = map(DISK_SIZE), .fail_after = -1};
        config.disks[i] = (struct guest_load_disk){&disk_ops, &disks[i], DISK_SIZE};
    }
    ram = map(RAM_SIZE);
    ck_assert_int_eq(guest_load_format(ram, RAM_SIZE, &config), 0);
    ck_assert_int_eq(guest_load_open(&load, ram, RAM_SIZE, &config), 0);
}

/* Works until that many pages are walked (a lap has 2,000) and writes are done, or a writer fails.
 */
static void work(uint64_t pages, uint64_t writes)
{
    struct guest_load_stats before, now;

    guest_load_stats(load, &before);
    ck_assert_int_eq(guest_load_start(load), 0);
    do {
        clock_sleep(NS_PER_MS);
        guest_load_stats(load, &now);
    } while (!guest_load_error(load) && (now.pages_dirtied - before.pages_dirtied < pages ||
                                         now.disk_writes - before.disk_writes < writes));
    guest_load_stop(load);
}

static void finish(void)
{
    guest_load_destroy(load);
    munmap(ram, RAM_SIZE);
    for (unsigned int i = 0; i < config.disk_count; i++)
        munmap(disks[i].data, DISK_SIZE);
}

static void whole(void)
{
    int r = guest_load_verify(load, text, sizeof(text));

    ck_assert_msg(r == 0, "%d: %s", r, text);
}

static void damaged(const char *word)
{
    ck_assert_int_eq(guest_load_verify(load, text, sizeof(text)), -EBADMSG);
    ck_assert_msg(strstr(text, word) != NULL, "'%s' does not say '%s'", text, word);
}

/* The last page of RAM that is not zero. */
static uint8_t *full_page(void)
{
    uint8_t *p = ram + RAM_SIZE - PAGE;

    while (!p[0])
        p -= PAGE;
    return p;
}

START_TEST(fresh_and_worked_ram_is_whole)
{
    struct guest_load_stats stats;

    begin(MIB_RATE, MIB_RATE, 2);
    whole();
    for (int i = 0; i < 4; i++) {
        work(1500, 20);
        whole();
    }
    guest_load_stats(load, &stats);
    ck_assert_uint_gt(stats.laps, 1);
    ck_assert_uint_gt(stats.disk_writes, 10);
    ck_assert_int_eq(guest_load_error(load), 0);
    finish();
}
END_TEST

/* Octets in which two pages differ. */
static unsigned int differing(const uint8_t *a, const uint8_t *b)
{
    unsigned int n = 0;

    for (unsigned int i = 0; i < PAGE; i++)
        n += a[i] != b[i];
    return n;
}

START_TEST(part_of_a_page_changes)
{
    uint8_t before[PAGE];
    const uint8_t *page;

    part = 256;
    begin(MIB_RATE, 0, 0);
    page = full_page();
    memcpy(before, page, PAGE);
    while (memcmp(page, before, PAGE) == 0 || !page[0])
        work(200, 0);
    whole();
    ck_assert_uint_gt(differing(page, before), 100);
    ck_assert_uint_le(differing(page, before), 2 * 256 + 16);
    memcpy((uint8_t *)(uintptr_t)page, before, PAGE);
    damaged("holds number");
    ((uint8_t *)(uintptr_t)page)[PAGE - 1] ^= 1;
    damaged("is torn");
    finish();
}
END_TEST

START_TEST(part_goes_with_the_ram)
{
    uint8_t *there = map(RAM_SIZE);

    part = 256;
    begin(MIB_RATE, 0, 0);
    work(3000, 0);
    memcpy(there, ram, RAM_SIZE);
    guest_load_destroy(load);
    config.dirty_part = 0; /* who opens a copy does not know of it */
    ck_assert_int_eq(guest_load_open(&load, there, RAM_SIZE, &config), 0);
    whole();
    work(3000, 0);
    whole();
    guest_load_destroy(load);
    for (uint64_t bad = 4; bad < 4000; bad += 2080) { /* 4: not whole words, 2084: too large */
        config.dirty_part = bad;
        ck_assert_int_eq(guest_load_format(ram, RAM_SIZE, &config), -EINVAL);
    }
    munmap(there, RAM_SIZE);
    munmap(ram, RAM_SIZE);
}
END_TEST

START_TEST(set_alone_is_walked)
{
    struct guest_load_stats stats;
    uint8_t *last, before[PAGE];

    set = 1 << 20;
    begin(MIB_RATE, 0, 0);
    last = full_page();
    memcpy(before, last, PAGE);
    work(2000, 0);
    guest_load_stats(load, &stats);
    ck_assert_uint_ge(stats.laps, 7);
    ck_assert_mem_eq(last, before, PAGE);
    whole();
    last[PAGE - 1] ^= 1;
    damaged("is torn");
    finish();
}
END_TEST

START_TEST(rates_are_kept)
{
    struct guest_load_stats stats;

    begin(20000000, 10000000, 2);
    ck_assert_int_eq(guest_load_start(load), 0);
    clock_sleep(1000 * NS_PER_MS);
    guest_load_stop(load);
    guest_load_stats(load, &stats);
    /* A busy machine may keep the load from its rate; nothing makes it go faster. */
    ck_assert_uint_gt(stats.pages_dirtied * PAGE, 8000000);
    ck_assert_uint_lt(stats.pages_dirtied * PAGE, 22000000);
    ck_assert_uint_gt(stats.disk_bytes, 4000000);
    ck_assert_uint_lt(stats.disk_bytes, 11500000);
    finish();
}
END_TEST

START_TEST(stop_is_quick)
{
    uint64_t before;

    begin(1000000, 1000, 1);
    ck_assert_int_eq(guest_load_start(load), 0);
    clock_sleep(50 * NS_PER_MS);
    before = clock_now();
    guest_load_stop(load);
    ck_assert_uint_lt(clock_now() - before, 500 * NS_PER_MS);
    whole();
    finish();
}
END_TEST

START_TEST(stale_page_is_found)
{
    uint8_t *copy = map(RAM_SIZE);
    size_t at;

    begin(MIB_RATE, 0, 0);
    memcpy(copy, ram, RAM_SIZE);
    work(2500, 0);
    whole();
    for (at = RAM_SIZE / 2; memcmp(copy + at, ram + at, PAGE) == 0; at += PAGE)
        ck_assert_uint_lt(at + PAGE, RAM_SIZE);
    memcpy(ram + at, copy + at, PAGE);
    damaged("must hold lap");
    munmap(copy, RAM_SIZE);
    finish();
}
END_TEST

START_TEST(swapped_and_torn_pages_are_found)
{
    uint8_t keep[PAGE];
    uint8_t *page;

    begin(MIB_RATE, 0, 0);
    work(2500, 0);
    page = full_page();
    memcpy(keep, page, PAGE);
    page[PAGE - 1] ^= 1;
    damaged("torn");
    memset(page, 0, PAGE);
    damaged("is zero");
    memcpy(page, keep, PAGE);
    whole();
    ck_assert_uint_eq((uintptr_t)page % PAGE, 0);
    memcpy(page, page - PAGE, PAGE);
    damaged("must hold lap");
    finish();
}
END_TEST

/* A page that became zero, and whose old content stayed at the target. */
START_TEST(page_that_should_be_zero_is_found)
{
    uint8_t keep[PAGE];
    uint8_t *page = NULL;

    begin(MIB_RATE, 0, 0);
    work(2500, 0);
    memcpy(keep, full_page(), PAGE);
    for (page = full_page(); page[0] || page[8]; page -= PAGE)
        ck_assert(page > ram + RAM_SIZE / 2);
    memcpy(page, keep, PAGE);
    damaged("which is zero");
    finish();
}
END_TEST

START_TEST(copy_goes_on_elsewhere)
{
    uint8_t *copy = map(RAM_SIZE);
    struct guest_load_stats before, after;
    uint64_t beats;

    begin(MIB_RATE, MIB_RATE, 2);
    work(1000, 20);
    beats = guest_load_heartbeat(load);
    guest_load_stats(load, &before);
    memcpy(copy, ram, RAM_SIZE);
    guest_load_destroy(load);
    munmap(ram, RAM_SIZE);
    ram = copy;
    ck_assert_int_eq(guest_load_open(&load, ram, RAM_SIZE, &config), 0);
    whole();
    work(1000, 20);
    whole();
    guest_load_stats(load, &after);
    ck_assert_uint_gt(after.pages_dirtied, before.pages_dirtied);
    ck_assert_uint_gt(after.disk_writes, before.disk_writes);
    ck_assert_uint_eq(guest_load_heartbeat(load), beats + 1);
    finish();
}
END_TEST

/* The last write is undone: the disk holds what it held before. */
START_TEST(lost_write_is_found)
{
    begin(0, MIB_RATE, 1);
    do
        work(0, 30);
    while (disks[0].writes < 30 || disks[0].zeroed);
    whole();
    memcpy(disks[0].data + disks[0].written, disks[0].before, disks[0].length);
    damaged("must hold number");
    finish();
}
END_TEST

START_TEST(lost_zeroes_are_found)
{
    begin(0, MIB_RATE, 1);
    do
        work(0, 30);
    while (!disks[0].zeroed ||
           memcmp(disks[0].before, disks[0].before + 1, disks[0].length - 1) == 0);
    whole();
    memcpy(disks[0].data + disks[0].written, disks[0].before, disks[0].length);
    damaged("which is zero");
    finish();
}
END_TEST

START_TEST(overwritten_block_is_found)
{
    begin(0, MIB_RATE, 1);
    work(0, 1);
    memset(disks[0].data + disks[0].written, 0x5a, PAGE);
    damaged("carries no stamp");
    finish();
}
END_TEST

START_TEST(old_sequence_number_is_found)
{
    uint8_t *old = map(DISK_SIZE);
    uint64_t at;

    begin(0, MIB_RATE, 1);
    work(0, 60);
    whole();
    memcpy(old, disks[0].data, DISK_SIZE);
    work(0, 60);
    whole();
    for (at = 0; at < DISK_SIZE; at += PAGE)
        if (old[at] && disks[0].data[at] && memcmp(old + at, disks[0].data + at, PAGE) != 0)
            break;
    ck_assert_uint_lt(at, DISK_SIZE);
    memcpy(disks[0].data + at, old + at, PAGE);
    damaged("holds number");
    munmap(old, DISK_SIZE);
    finish();
}
END_TEST

START_TEST(swapped_blocks_are_found)
{
    uint64_t first = DISK_SIZE, second = DISK_SIZE;
    uint8_t keep[PAGE];

    begin(0, MIB_RATE, 1);
    work(0, 60);
    for (uint64_t at = 0; at < DISK_SIZE; at += PAGE) {
        if (!disks[0].data[at])
            continue;
        second = first;
        first = at;
    }
    ck_assert(second < DISK_SIZE);
    memcpy(keep, disks[0].data + first, PAGE);
    memcpy(disks[0].data + first, disks[0].data + second, PAGE);
    memcpy(disks[0].data + second, keep, PAGE);
    damaged("belongs to disk 0");
    finish();
}
END_TEST

START_TEST(swapped_disks_are_found)
{
    uint8_t *data;

    begin(0, MIB_RATE, 2);
    work(0, 60);
    data = disks[0].data;
    disks[0].data = disks[1].data;
    disks[1].data = data;
    damaged("disk 0");
    finish();
}
END_TEST

/* What failed may stand there or not, and is done again by whoever goes on. */
START_TEST(failed_write_is_repeated)
{
    begin(0, MIB_RATE, 1);
    disks[0].fail_after = 10;
    work(0, 60);
    ck_assert_int_eq(guest_load_error(load), -EIO);
    ck_assert_int_eq(disks[0].writes, 10);
    whole();
    disks[0].fail_after = -1;
    do /* its first error stays: this returns at once */
        work(0, 1);
    while (disks[0].writes <= 10);
    whole();
    finish();
}
END_TEST

START_TEST(foreign_ram_is_refused)
{
    struct guest_load *other;

    begin(0, 0, 1);
    config.disks[0].size *= 2;
    ck_assert_int_eq(guest_load_open(&other, ram, RAM_SIZE, &config), -EINVAL);
    config.disks[0].size /= 2;
    ck_assert_int_eq(guest_load_open(&other, ram, RAM_SIZE / 2, &config), -EINVAL);
    ram[0] ^= 1;
    ck_assert_int_eq(guest_load_open(&other, ram, RAM_SIZE, &config), -EINVAL);
    memset(ram + 2 * (size_t)PAGE, 0xff, PAGE); /* a writer's state from a hostile peer */
    ram[0] ^= 1;
    ck_assert_int_eq(guest_load_open(&other, ram, RAM_SIZE, &config), -EINVAL);
    ck_assert_int_eq(guest_load_format(ram, PAGE * 8, &config), -EINVAL);
    finish();
}
END_TEST

/* The RAM is lost, the disks are not. */
static int lose_ram(void)
{
    int r;

    guest_load_destroy(load);
    load = NULL;
    memset(ram, 0, RAM_SIZE);
    r = guest_load_adopt(ram, RAM_SIZE, &config, text, sizeof(text));
    if (r == 0)
        ck_assert_int_eq(guest_load_open(&load, ram, RAM_SIZE, &config), 0);
    return r;
}

START_TEST(load_goes_on_from_its_disks)
{
    struct guest_load_stats before, after;

    begin(MIB_RATE, MIB_RATE, 2);
    ck_assert_int_eq(lose_ram(), 0); /* nothing was written yet */
    whole();
    for (int i = 0; i < 5; i++) {
        work(100, 200);
        guest_load_stats(load, &before);
        ck_assert_msg(lose_ram() == 0, "%s", text);
        guest_load_stats(load, &after);
        ck_assert_uint_ge(after.disk_writes, before.disk_writes);
        ck_assert_uint_le(after.disk_writes, before.disk_writes + 8); /* zeroes where zeroes are may have been written */
        ck_assert_uint_eq(after.laps, 0);
        whole();
    }
    work(2500, 200);
    whole();
    finish();
}
END_TEST

/* The write that was under way when the host lost its power is in part on the disk. */
START_TEST(half_a_write_is_adopted)
{
    for (int i = 0; i < 8; i++) {
        begin(0, MIB_RATE, 1);
        disks[0].fail_after = 50 + i;
        work(0, 1000);
        disks[0].fail_after = -1;
        ck_assert_msg(lose_ram() == 0, "%s", text);
        whole();
        work(0, 20);
        whole();
        finish();
    }
}
END_TEST

/* A write is lost though later ones are there. */
static void lose_a_write(void)
{
    uint8_t *at, now[PAGE], before[PAGE];

    do {
        work(0, 1);
        at = disks[0].data + disks[0].written;
        memcpy(now, at, PAGE);
        memcpy(before, disks[0].before, PAGE);
        work(0, 10);
    } while (memcmp(at, now, PAGE) != 0 || memcmp(now, before, PAGE) == 0);
    memcpy(at, before, PAGE);
}

START_TEST(stale_disks_are_not_adopted)
{
    begin(0, MIB_RATE, 1);
    work(0, 300);
    lose_a_write();
    ck_assert_int_eq(lose_ram(), -EBADMSG);
    ck_assert_msg(strstr(text, "disk 0 holds") != NULL, "%s", text);
    finish();
}
END_TEST

START_TEST(damaged_disks_are_not_adopted)
{
    uint8_t *page;

    begin(0, MIB_RATE, 1);
    work(0, 300);
    for (page = disks[0].data; !page[0]; page += PAGE)
        ;
    page[PAGE - 1] ^= 1;
    ck_assert_int_eq(lose_ram(), -EBADMSG);
    page[PAGE - 1] ^= 1;
    memcpy(disks[0].data + DISK_SIZE - PAGE, page, PAGE);
    ck_assert_int_eq(lose_ram(), -EBADMSG);
    finish();
}
END_TEST

UNIT_MAIN("guest-load", fresh_and_worked_ram_is_whole, part_of_a_page_changes, part_goes_with_the_ram, set_alone_is_walked,
          rates_are_kept, stop_is_quick,
          stale_page_is_found, swapped_and_torn_pages_are_found, page_that_should_be_zero_is_found,
          copy_goes_on_elsewhere, lost_write_is_found, lost_zeroes_are_found,
          overwritten_block_is_found, old_sequence_number_is_found, swapped_blocks_are_found,
          swapped_disks_are_found, failed_write_is_repeated, foreign_ram_is_refused,
          load_goes_on_from_its_disks, half_a_write_is_adopted, stale_disks_are_not_adopted, damaged_disks_are_not_adopted)
