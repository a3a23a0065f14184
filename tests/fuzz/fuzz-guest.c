/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest in PREPARE: what a peer says that it has. What is taken is safe to use for names, paths and sums, and reads the
 * same when it is written again.
 * fuzz: -max_len=8192 */
#include "fuzz-json.h"

#include "base/err.h"
#include "hv/hv.h"

static bool is_word(const char *text, size_t size)
{
    size_t length = strnlen(text, size);

    return length && length < size && *text != '.' && *text != '-' && !strchr(text, '/') && !strpbrk(text, " \t\n%\"'$`\\");
}

static void check(const struct hv_guest *g)
{
    uint64_t sum = 0;

    CHECK(is_word(g->kind, sizeof(g->kind)) && is_word(g->name, sizeof(g->name)));
    CHECK(strnlen(g->uuid, sizeof(g->uuid)) < sizeof(g->uuid) && g->max_pfn <= UINT64_C(1) << 34);
    CHECK(g->disk_count <= HV_DISKS_MAX && (!g->config || json_is_object(g->config)));
    for (unsigned int i = 0; i < g->disk_count; i++) {
        const struct hv_disk *d = &g->disks[i];

        CHECK(is_word(d->vbd, sizeof(d->vbd)) && strnlen(d->label, sizeof(d->label)) < sizeof(d->label));
        CHECK(!d->path[0] && d->size && d->size % 512 == 0 && !(d->sector_size & (d->sector_size - 1)));
        CHECK(!__builtin_add_overflow(sum, d->size, &sum));
        for (unsigned int j = 0; j < i; j++)
            CHECK(strcmp(g->disks[j].vbd, d->vbd) != 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct hv_guest guest, again;
    json_t *json = size > 1 ? fuzz_load(data + 1, size - 1) : NULL;
    struct err err = {0};
    json_t *written;

    if (json && hv_guest_from_json(&guest, json, &err) == 0) {
        check(&guest);
        written = hv_guest_to_json(&guest);
        CHECK(written && hv_guest_from_json(&again, written, &err) == 0);
        CHECK(again.disk_count == guest.disk_count && strcmp(again.name, guest.name) == 0);
        json_decref(written);
        hv_guest_finish(&again);
        hv_guest_finish(&guest);
    } else if (json) {
        CHECK(err.code == -EPROTO && *err.text);
    }
    json_decref(json);
    return 0;
}
