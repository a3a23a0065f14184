/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory of a guest at its target: the script of the control connection and MEMORY_PAGES of data connections, in an order
 * of the fuzzer's choice, in one thread. Each piece of the input is a kind, a length (two octets) and a body.
 * The first octet: 1 a guest with a stream (Xen), else mapped RAM (embedded); 2 every checksum of pages is right; 4 some pages are kept. */
#include "fuzz.h"

#include <fcntl.h>

#include "base/checksum.h"

static bool mended;
static uint64_t mended_sum; /* what the record at hand says */

/* Of what deltas become, so it cannot be mended in the record before. */
static uint64_t checksum_or_mended(const void *mem, size_t len)
{
    uint64_t sum = checksum(mem, len);

    touch(mem, len);
    return mended ? mended_sum : sum;
}

#define checksum checksum_or_mended
#include "memsync/page-target.c"

#define LAST_PFN 63u
#define KEPT     8u

static void script_done(void *data, const struct err *err)
{
}

/* Carries out what is queued, but does not begin to wait for pages: nobody else would bring them. */
static int go_on(struct page_target *p, struct err *err)
{
    int r = 0;

    while (r == 0 && p->head) {
        struct step *s;

        if (p->head->type == WIRE_EPOCH_END && p->taken < p->head->records)
            return 0;
        s = next_step(p);
        r = carry_out(p, s, err);
        free(s);
    }
    return r;
}

/* Whether page_target_take would wait for another thread. */
static bool would_wait(const struct page_target *p, const struct record *record)
{
    uint64_t epoch = record->length >= 8 ? get_be64(record->body) : 0;

    return !(p->open && p->epoch == epoch) && !(p->epoch > epoch || (p->epoch == epoch && p->taken));
}

static int take_piece(struct page_target *p, struct input *in, struct err *err)
{
    static const enum wire_type types[] = {WIRE_MEMORY_PAGES, WIRE_MEMORY_RECORD, WIRE_EPOCH_BEGIN, WIRE_EPOCH_END};
    struct record record = {.type = types[take_u8(in) % ARRAY_SIZE(types)]};
    size_t length = take_number(in, 2);
    int r;

    record.body = take_block(in, length, &length);
    record.length = (uint32_t)length;
    if (record.type != WIRE_MEMORY_PAGES) {
        r = page_target_script(p, &record, err);
    } else {
        mended_sum = record.length >= WIRE_PAGES_HEAD_SIZE ? get_be64(record.body + 24) : 0;
        r = would_wait(p, &record) ? 0 : page_target_take(p, &record, err);
    }
    free(record.body);
    return r < 0 ? r : go_on(p, err);
}

/* Where a stream goes. Never closed. */
static int null_fd(void)
{
    static int fd = -1;

    if (fd < 0)
        fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    return fd;
}

static void init(struct page_target *p, bool stream, bool keeps)
{
    static uint8_t *ram;
    struct err err;

    if (!ram)
        ram = malloc((LAST_PFN + 1) * WIRE_PAGE_SIZE);
    memset(p, 0, sizeof(*p));
    p->config = (struct page_target_config){
        .fd = stream ? null_fd() : -1, .ram = ram, .max_pfn = LAST_PFN, .script_done = script_done};
    pthread_mutex_init(&p->lock, NULL);
    pthread_mutex_init(&p->write_lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    CHECK(ram && (stream || bitmap_init(&p->written, LAST_PFN + 1) == 0));
    CHECK(!keeps || page_cache_create(&p->cache, KEPT, &err) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint8_t choice = take_u8(&in);
    struct page_target *p = malloc(sizeof(*p));
    struct err err;

    CHECK(p);
    init(p, choice & 1, choice & 4);
    mended = choice & 2;
    while (in.left && take_piece(p, &in, &err) == 0)
        ;
    p->config.fd = -1;
    page_target_destroy(p);
    return 0;
}
