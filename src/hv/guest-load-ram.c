/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The dirtier. Step `walked` goes to the same page in every lap, so that the one count says what
 * every page must hold. */
#include "guest-load-priv.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Pages walked one after the other are this far apart: the golden ratio's share of RAM scatters
 * them evenly. */
static uint64_t stride(uint64_t count)
{
    uint64_t a = (uint64_t)((double)count * 0.6180339887498949);

    for (;; a++) {
        uint64_t x = a;
        uint64_t y = count;

        while (y) {
            uint64_t rest = x % y;

            x = y;
            y = rest;
        }
        if (x == 1)
            return a; /* coprime: each page is met once a lap */
    }
}

static uint64_t page_of_step(uint64_t step, uint64_t count, uint64_t a)
{
    assert(step < count && count < UINT64_C(1) << 32);
    return step * a % count;
}

/* One page in eight is zeroes in a lap, another one each time: a mover that leaves zero pages out
 * must still clear what it sent earlier. */
static void stamp_of(const struct guest_load *load, uint64_t page, uint64_t lap,
                     struct load_stamp *ret, bool *ret_zero)
{
    *ret = (struct load_stamp){load->header->id, 0, page, lap, load->header->dirty_part};
    *ret_zero = load_mix(load->header->id ^ load_mix(page * 31 + lap)) % 8 == 0;
}

static void *page_at(const struct guest_load *load, uint64_t page)
{
    return load->ram + (load->header->first_page + page) * LOAD_PAGE;
}

static void page_write(const struct guest_load *load, uint64_t page, uint64_t lap)
{
    struct load_stamp stamp;
    bool zero;

    stamp_of(load, page, lap, &stamp, &zero);
    if (zero)
        memset(page_at(load, page), 0, LOAD_PAGE);
    else
        load_stamp_fill(page_at(load, page), &stamp);
}

void load_ram_format(struct guest_load *load)
{
    struct load_stamp stamp;
    bool zero;

    for (uint64_t page = 0; page < load->header->page_count; page++) {
        stamp_of(load, page, 0, &stamp, &zero);
        if (!zero) /* RAM is zeroed already: such a page stays unpopulated */
            load_stamp_fill(page_at(load, page), &stamp);
    }
}

/* The page first, then the count: a stop between two steps finds them agree. */
static void walk_one(struct guest_load *load, uint64_t a)
{
    uint64_t count = load->header->walk_count;
    uint64_t walked = load_get(&load->counts->walked);

    page_write(load, page_of_step(walked % count, count, a), walked / count + 1);
    load_put(&load->counts->walked, walked + 1);
}

void *load_dirtier_run(void *thread)
{
    struct load_thread *t = thread;
    struct guest_load *load = t->load;
    uint64_t a = stride(load->header->walk_count);
    struct load_pace pace;

    load_pace_start(&pace, load->config.dirty_rate);
    while (load_pace_wait(load, &pace)) {
        walk_one(load, a);
        load_pace_done(load, &pace, LOAD_PAGE);
    }
    return NULL;
}

static int page_verify(const struct guest_load *load, uint64_t page, uint64_t lap, char *ret_text,
                       size_t text_size)
{
    struct load_stamp stamp;
    char found[120];
    bool zero;

    stamp_of(load, page, lap, &stamp, &zero);
    if (zero ? load_page_is_zero(page_at(load, page))
             : load_stamp_matches(page_at(load, page), &stamp))
        return 0;
    load_stamp_describe(page_at(load, page), &stamp, found, sizeof(found));
    (void)snprintf(ret_text, text_size, "RAM page %llu (offset %llu) %s, must hold lap %llu%s",
                   (unsigned long long)page,
                   (unsigned long long)(load->header->first_page + page) * LOAD_PAGE, found,
                   (unsigned long long)lap, zero ? ", which is zero" : "");
    return -EBADMSG;
}

int load_ram_verify(const struct guest_load *load, char *ret_text, size_t text_size)
{
    uint64_t count = load->header->walk_count;
    uint64_t lap = load->counts->walked / count;
    uint64_t passed = load->counts->walked % count;
    uint64_t a = stride(count);
    int r = 0;

    for (uint64_t step = 0; r == 0 && step < count; step++)
        r = page_verify(load, page_of_step(step, count, a), step < passed ? lap + 1 : lap, ret_text,
                        text_size);
    for (uint64_t page = count; r == 0 && page < load->header->page_count; page++)
        r = page_verify(load, page, 0, ret_text, text_size);
    return r;
}
