/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "guest-load-priv.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define LOAD_MAGIC       UINT64_C(0x3144414f4c484d58) /* "XMHLOAD1" */
#define LOAD_STAMP_MAGIC UINT64_C(0x504d41545348584d)
#define LOAD_VERSION     3
#define FIRST_TABLE      (LOAD_PAGE * (2ull + GUEST_LOAD_DISKS_MAX))
#define PAGES_MIN        16u
#define BLOCKS_MIN       LOAD_WRITE_MAX

/* A thread sleeps this long at least, so that a high rate costs no timer a page, and makes up for
 * this much at most, so that a guest that stood still does not come back with a burst. */
#define SLICE_NS    UINT64_C(1000000)
#define DEBT_MAX_NS UINT64_C(50000000)
#define SECOND_NS   UINT64_C(1000000000)

static_assert(sizeof(struct load_header) <= LOAD_PAGE, "the header fills one page");
static_assert(sizeof(struct load_writer) <= LOAD_PAGE, "a writer's state fills one page");

static uint64_t now_ns(void)
{
    struct timespec ts;

    (void)clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * SECOND_NS + (uint64_t)ts.tv_nsec;
}

/* Stamps */

enum { STAMP_MAGIC, STAMP_ID, STAMP_SPACE, STAMP_INDEX, STAMP_NUMBER, STAMP_CHECK, STAMP_WORDS };

static uint64_t stamp_key(const struct load_stamp *stamp)
{
    uint64_t key = load_mix(stamp->id + stamp->space);

    key = load_mix(key ^ stamp->index);
    return load_mix(key + stamp->number * UINT64_C(0x9e3779b97f4a7c15));
}

static void fill_noise(uint64_t *words, uint64_t key, size_t first, size_t end)
{
    for (size_t i = first; i < end; i++) {
        uint64_t t = key + i * UINT64_C(0x9e3779b97f4a7c15);

        words[i] = t ^ (t >> 29);
    }
}

static void fill_body(uint64_t *words, const struct load_stamp *stamp)
{
    uint64_t key = stamp_key(stamp);

    fill_noise(words, key, STAMP_WORDS, LOAD_PAGE_WORDS / 2);
    for (size_t i = LOAD_PAGE_WORDS / 2; i < LOAD_PAGE_WORDS; i++)
        words[i] = key;
}

void load_stamp_fill(void *page, const struct load_stamp *stamp)
{
    struct load_stamp base = *stamp;
    size_t part = stamp->part / sizeof(uint64_t);
    uint64_t key = stamp_key(stamp);
    uint64_t *words = page;

    assert(stamp->part <= GUEST_LOAD_PART_MAX);
    if (part)
        base.number = 0;
    words[STAMP_MAGIC] = LOAD_STAMP_MAGIC;
    words[STAMP_ID] = stamp->id;
    words[STAMP_SPACE] = stamp->space;
    words[STAMP_INDEX] = stamp->index;
    words[STAMP_NUMBER] = stamp->number;
    words[STAMP_CHECK] = ~key;
    fill_body(words, &base);
    if (part) {
        size_t first = STAMP_WORDS + key % (LOAD_PAGE_WORDS - STAMP_WORDS - part);

        fill_noise(words, key, first, first + part);
    }
}

bool load_stamp_matches(const void *page, const struct load_stamp *stamp)
{
    uint64_t want[LOAD_PAGE_WORDS];

    load_stamp_fill(want, stamp);
    return memcmp(page, want, LOAD_PAGE) == 0;
}

bool load_page_is_zero(const void *page)
{
    const uint8_t *bytes = page;

    return bytes[0] == 0 && memcmp(bytes, bytes + 1, LOAD_PAGE - 1) == 0;
}

bool load_stamp_read(const void *page, struct load_stamp *ret)
{
    const uint64_t *words = page;

    *ret = (struct load_stamp){words[STAMP_ID], words[STAMP_SPACE], words[STAMP_INDEX],
                               words[STAMP_NUMBER], 0};
    return words[STAMP_MAGIC] == LOAD_STAMP_MAGIC && words[STAMP_CHECK] == ~stamp_key(ret);
}

void load_stamp_describe(const void *page, const struct load_stamp *want, char *ret_text,
                         size_t text_size)
{
    struct load_stamp found;
    bool stamped = load_stamp_read(page, &found);

    found.part = want->part;
    if (load_page_is_zero(page))
        (void)snprintf(ret_text, text_size, "is zero");
    else if (!stamped)
        (void)snprintf(ret_text, text_size, "carries no stamp");
    else if (!load_stamp_matches(page, &found))
        (void)snprintf(ret_text, text_size, "is torn (its stamp says number %llu)",
                       (unsigned long long)found.number);
    else if (found.id != want->id)
        (void)snprintf(ret_text, text_size, "belongs to another guest");
    else if (found.space != want->space || found.index != want->index)
        (void)snprintf(ret_text, text_size, "belongs to %s %llu, place %llu",
                       found.space ? "disk" : "RAM,",
                       (unsigned long long)(found.space ? found.space - 1 : 0),
                       (unsigned long long)found.index);
    else
        (void)snprintf(ret_text, text_size, "holds number %llu", (unsigned long long)found.number);
}

/* Pacing */

void load_pace_start(struct load_pace *pace, uint64_t rate)
{
    assert(rate > 0);
    pace->rate = rate;
    pace->next = now_ns();
}

void load_pace_done(const struct guest_load *load, struct load_pace *pace, uint64_t bytes)
{
    assert(bytes <= UINT64_MAX / SECOND_NS / 100);
    pace->next += bytes * SECOND_NS / pace->rate * 100 / load_get(&load->percent);
}

static void wait_until(struct guest_load *load, uint64_t when)
{
    struct timespec ts = {.tv_sec = (time_t)(when / SECOND_NS),
                          .tv_nsec = (long)(when % SECOND_NS)};
    int r = 0;

    (void)pthread_mutex_lock(&load->lock);
    while (!load_get(&load->stopping) && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&load->wake, &load->lock, &ts);
    (void)pthread_mutex_unlock(&load->lock);
}

bool load_pace_wait(struct guest_load *load, struct load_pace *pace)
{
    uint64_t now = now_ns();

    if (pace->next + DEBT_MAX_NS < now)
        pace->next = now - DEBT_MAX_NS;
    if (pace->next > now)
        wait_until(load, pace->next > now + SLICE_NS ? pace->next : now + SLICE_NS);
    return !load_get(&load->stopping);
}

/* Layout */

/* The header is a function of sizes alone, but for the guest's id and what a lap changes: a copy from elsewhere is
 * believed only when it says what is computed here, so that no offset in it needs a check later. */
static int layout(struct load_header *ret, size_t ram_size, const struct guest_load_config *config)
{
    uint64_t at = FIRST_TABLE;
    uint64_t share;

    if (config->disk_count > GUEST_LOAD_DISKS_MAX || ram_size % LOAD_PAGE)
        return -EINVAL;
    if (config->dirty_part > GUEST_LOAD_PART_MAX || config->dirty_part % sizeof(uint64_t))
        return -EINVAL;
    memset(ret, 0, sizeof(*ret));
    ret->dirty_part = config->dirty_part;
    ret->dirty_set = config->dirty_set;
    ret->magic = LOAD_MAGIC;
    ret->version = LOAD_VERSION;
    ret->ram_size = ram_size;
    ret->disk_count = config->disk_count;
    share = config->disk_count ? ram_size / LOAD_TABLE_SHARE / config->disk_count : 0;
    share = share / LOAD_PAGE * LOAD_PAGE;
    for (unsigned int i = 0; i < config->disk_count; i++) {
        uint64_t blocks = config->disks[i].size / LOAD_PAGE;

        if (blocks > share / sizeof(uint32_t))
            blocks = share / sizeof(uint32_t);
        if (blocks < BLOCKS_MIN)
            return -EINVAL;
        ret->disks[i].size = config->disks[i].size;
        ret->disks[i].blocks = blocks;
        ret->disks[i].table = at;
        at += (blocks * sizeof(uint32_t) + LOAD_PAGE - 1) / LOAD_PAGE * LOAD_PAGE;
    }
    if (ram_size < at + PAGES_MIN * LOAD_PAGE)
        return -EINVAL;
    ret->first_page = at / LOAD_PAGE;
    ret->page_count = ram_size / LOAD_PAGE - ret->first_page;
    ret->walk_count = ret->page_count;
    if (config->dirty_set && config->dirty_set / LOAD_PAGE < ret->page_count)
        ret->walk_count = config->dirty_set / LOAD_PAGE;
    if (ret->walk_count < PAGES_MIN)
        return -EINVAL;
    return 0;
}

static uint64_t new_id(void)
{
    uint64_t id;

    if (getrandom(&id, sizeof(id), GRND_NONBLOCK) != sizeof(id))
        id = load_mix(now_ns()); /* a guest that has just booted may have no entropy yet */
    return id ? id : 1;
}

static void attach(struct guest_load *load, void *ram)
{
    load->ram = ram;
    load->header = ram;
    load->counts = (struct load_counts *)(void *)(load->ram + LOAD_PAGE);
}

/* All but the pages that are walked. */
static int format(struct guest_load *load, void *ram, size_t ram_size, const struct guest_load_config *config)
{
    struct load_header header;
    int r;

    assert((uintptr_t)ram % LOAD_PAGE == 0);
    r = layout(&header, ram_size, config);
    if (r < 0)
        return r;
    header.id = new_id();
    memcpy(ram, &header, sizeof(header));
    attach(load, ram);
    return 0;
}

int guest_load_format(void *ram, size_t ram_size, const struct guest_load_config *config)
{
    struct guest_load load = {0};
    int r = format(&load, ram, ram_size, config);

    if (r == 0)
        load_ram_format(&load);
    return r;
}

int guest_load_adopt(void *ram, size_t ram_size, const struct guest_load_config *config, char *ret_text,
                     size_t text_size)
{
    struct guest_load load = {.config = *config};
    int r = format(&load, ram, ram_size, config);
    size_t used = 0;

    ret_text[0] = '\0';
    for (unsigned int i = 0; r == 0 && i < config->disk_count; i++)
        r = load_disk_id(&load, i, &load.header->id);
    if (r == 0)
        load_ram_format(&load);
    for (unsigned int i = 0; r == 0 && i < config->disk_count && used < text_size; i++) {
        if (used && used + 2 < text_size)
            used += (size_t)snprintf(ret_text + used, text_size - used, ", ");
        r = load_disk_adopt(&load, i, ret_text + used, text_size - used);
        used += strlen(ret_text + used);
    }
    return r;
}

static bool writers_are_sane(const struct guest_load *load)
{
    for (unsigned int i = 0; i < load->config.disk_count; i++) {
        const struct load_writer *w = load_writer_state(load, i);
        uint64_t blocks = load->header->disks[i].blocks;

        if (w->pending_count > LOAD_WRITE_MAX || w->pending_first > blocks ||
            w->pending_count > blocks - w->pending_first)
            return false;
    }
    return true;
}

static int init_locks(struct guest_load *load)
{
    pthread_condattr_t attr;
    int r;

    r = pthread_mutex_init(&load->lock, NULL);
    if (r)
        return -r;
    (void)pthread_condattr_init(&attr);
    (void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    r = pthread_cond_init(&load->wake, &attr);
    (void)pthread_condattr_destroy(&attr);
    if (r)
        (void)pthread_mutex_destroy(&load->lock);
    return -r;
}

int guest_load_open(struct guest_load **ret, void *ram, size_t ram_size,
                    const struct guest_load_config *config)
{
    const struct load_header *found = ram;
    struct guest_load_config as_found = *config;
    struct load_header want;
    struct guest_load *load;
    int r;

    assert((uintptr_t)ram % LOAD_PAGE == 0);
    as_found.dirty_part = found->dirty_part;
    as_found.dirty_set = found->dirty_set;
    r = layout(&want, ram_size, &as_found);
    if (r < 0)
        return r;
    want.id = found->id;
    if (memcmp(&want, ram, sizeof(want)) != 0)
        return -EINVAL;
    load = calloc(1, sizeof(*load));
    if (!load)
        return -ENOMEM;
    attach(load, ram);
    load->config = *config;
    load->percent = 100;
    r = writers_are_sane(load) ? init_locks(load) : -EINVAL;
    if (r < 0) {
        free(load);
        return r;
    }
    *ret = load;
    return 0;
}

/* Running */

static int start_thread(struct guest_load *load, struct load_thread *t, unsigned int disk,
                        void *(*run)(void *))
{
    int r;

    t->load = load;
    t->disk = disk;
    r = pthread_create(&t->thread, NULL, run, t);
    t->running = r == 0;
    return -r;
}

static void stop_thread(struct load_thread *t)
{
    if (t->running)
        (void)pthread_join(t->thread, NULL);
    t->running = false;
}

int guest_load_start(struct guest_load *load)
{
    int r = 0;

    if (load->started)
        return 0;
    load->started = true;
    load_put(&load->stopping, 0);
    if (load->config.dirty_rate)
        r = start_thread(load, &load->dirtier, 0, load_dirtier_run);
    for (unsigned int i = 0; r == 0 && load->config.write_rate && i < load->config.disk_count; i++)
        r = start_thread(load, &load->writers[i], i, load_writer_run);
    if (r < 0)
        guest_load_stop(load);
    return r;
}

void guest_load_stop(struct guest_load *load)
{
    if (!load->started)
        return;
    (void)pthread_mutex_lock(&load->lock);
    load_put(&load->stopping, 1);
    (void)pthread_cond_broadcast(&load->wake);
    (void)pthread_mutex_unlock(&load->lock);
    stop_thread(&load->dirtier);
    for (unsigned int i = 0; i < load->config.disk_count; i++)
        stop_thread(&load->writers[i]);
    load->started = false;
}

int guest_load_verify(struct guest_load *load, char *ret_text, size_t text_size)
{
    int r;

    assert(!load->started && text_size > 0);
    ret_text[0] = '\0';
    r = load_ram_verify(load, ret_text, text_size);
    for (unsigned int i = 0; r == 0 && i < load->config.disk_count; i++)
        r = load_disk_verify(load, i, ret_text, text_size);
    return r;
}

void guest_load_stats(struct guest_load *load, struct guest_load_stats *ret)
{
    memset(ret, 0, sizeof(*ret));
    ret->pages_dirtied = load_get(&load->counts->walked);
    ret->laps = ret->pages_dirtied / load->header->walk_count;
    ret->heartbeats = load_get(&load->counts->heartbeats);
    for (unsigned int i = 0; i < load->config.disk_count; i++) {
        ret->disk_writes += load_get(&load_writer_state(load, i)->writes);
        ret->disk_bytes += load_get(&load_writer_state(load, i)->bytes);
    }
}

uint64_t guest_load_heartbeat(struct guest_load *load)
{
    return __atomic_add_fetch(&load->counts->heartbeats, 1, __ATOMIC_RELAXED);
}

void guest_load_throttle(struct guest_load *load, unsigned int percent)
{
    assert(percent >= 1 && percent <= 100);
    load_put(&load->percent, percent);
}

int guest_load_error(struct guest_load *load)
{
    return load_get(&load->error);
}

void guest_load_destroy(struct guest_load *load)
{
    if (!load)
        return;
    guest_load_stop(load);
    (void)pthread_cond_destroy(&load->wake);
    (void)pthread_mutex_destroy(&load->lock);
    free(load);
}
