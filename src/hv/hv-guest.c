/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A guest as it travels in PREPARE. What comes in was written by a peer: every member's type,
 * length and range is checked here. */
#include "hv/hv.h"

#include "base/bytes.h"

#include <assert.h>
#include <string.h>

#define GUEST_MEMORY_MAX (UINT64_C(1) << 46) /* octets; what x86 can address */
#define GUEST_DISK_MAX   (UINT64_C(1) << 60)

json_t *hv_guest_to_json(const struct hv_guest *g)
{
    json_t *disks = json_array();
    json_t *json;
    bool complete = true;

    for (unsigned int i = 0; i < g->disk_count; i++) {
        const struct hv_disk *d = &g->disks[i];

        complete &=
            0 == json_array_append_new(
                     disks, json_pack("{s:s, s:s, s:I, s:I, s:b}", "vbd", d->vbd, "label", d->label,
                                      "size", (json_int_t)d->size, "sector_size",
                                      (json_int_t)d->sector_size, "read_only", (int)d->read_only));
    }
    json = json_pack("{s:s, s:s, s:s, s:I, s:I, s:o}", "kind", g->kind, "name", g->name, "uuid",
                     g->uuid, "memory", (json_int_t)g->memory, "max_pfn", (json_int_t)g->max_pfn,
                     "disks", disks);
    if (json && g->config)
        complete &= 0 == json_object_set(json, "config", g->config);
    if (!complete) { /* better none than one with a disk less */
        json_decref(json);
        return NULL;
    }
    return json;
}

/* Names become parts of paths and of other programs' arguments: no slash, no dash or dot in front.
 */
static bool is_name(const char *s)
{
    if (!*s || *s == '-' || *s == '.')
        return false;
    return s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")] ==
           '\0';
}

/* Labels are shown to people: no control characters. */
static bool is_label(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < 0x20 || *s == 0x7f)
            return false;
    return true;
}

static bool is_uuid(const char *s)
{
    return s[strspn(s, "0123456789abcdefABCDEF-")] == '\0';
}

static int get_text(const json_t *json, const char *key, bool (*valid)(const char *), char *ret,
                    size_t size, struct err *err)
{
    const json_t *value = json_object_get(json, key);
    const char *text = json_string_value(value);

    if (!text)
        return err_set(err, -EPROTO, "'%s' must be a text", key);
    if (json_string_length(value) >= size)
        return err_set(err, -EPROTO, "'%s' is %zu octets long, %zu is the most", key,
                       json_string_length(value), size - 1);
    if (strlen(text) != json_string_length(value) || !valid(text))
        return err_set(err, -EPROTO, "'%s' holds characters that it must not hold", key);
    memcpy(ret, text, strlen(text) + 1);
    return 0;
}

static int get_number(const json_t *json, const char *key, uint64_t most, uint64_t *ret,
                      struct err *err)
{
    const json_t *value = json_object_get(json, key);
    json_int_t n = json_integer_value(value);

    if (!json_is_integer(value))
        return err_set(err, -EPROTO, "'%s' must be a number", key);
    if (n < 0 || (uint64_t)n > most)
        return err_set(err, -EPROTO, "'%s' is %lld, the most is %llu", key, (long long)n,
                       (unsigned long long)most);
    *ret = (uint64_t)n;
    return 0;
}

static int disk_from_json(struct hv_disk *d, const json_t *json, struct err *err)
{
    const json_t *read_only = json_object_get(json, "read_only");
    uint64_t sector_size = 0;
    int r;

    r = get_text(json, "vbd", is_name, d->vbd, sizeof(d->vbd), err);
    if (r == 0)
        r = get_text(json, "label", is_label, d->label, sizeof(d->label), err);
    if (r == 0)
        r = get_number(json, "size", GUEST_DISK_MAX, &d->size, err);
    if (r == 0)
        r = get_number(json, "sector_size", 4096, &sector_size, err);
    if (r < 0)
        return r;
    if (sector_size != 512 && sector_size != 4096)
        return err_set(err, -EPROTO, "'sector_size' must be 512 or 4096");
    if (!d->size || d->size % 512)
        return err_set(err, -EPROTO, "'size' must be a multiple of 512");
    if (!json_is_boolean(read_only))
        return err_set(err, -EPROTO, "'read_only' must be true or false");
    d->sector_size = (uint32_t)sector_size;
    d->read_only = json_is_true(read_only);
    return 0;
}

static int disks_from_json(struct hv_guest *g, const json_t *disks, struct err *err)
{
    uint64_t left = GUEST_DISK_MAX; /* of all together: whoever sums them up need not fear */

    if (!json_is_array(disks) || json_array_size(disks) > HV_DISKS_MAX)
        return err_set(err, -EPROTO, "'disks' must be a list of at most %d", HV_DISKS_MAX);
    for (size_t i = 0; i < json_array_size(disks); i++) {
        int r = disk_from_json(&g->disks[i], json_array_get(disks, i), err);

        if (r < 0)
            return err_prefix(err, r, "disk %zu", i);
        if (g->disks[i].size > left)
            return err_set(err, -EPROTO, "the disks are larger than %llu octets together",
                           (unsigned long long)GUEST_DISK_MAX);
        left -= g->disks[i].size;
        for (size_t j = 0; j < i; j++)
            if (strcmp(g->disks[j].vbd, g->disks[i].vbd) == 0)
                return err_set(err, -EPROTO, "disk %zu: '%s' is there twice", i, g->disks[i].vbd);
    }
    g->disk_count = (unsigned int)json_array_size(disks);
    return 0;
}

static int fill(struct hv_guest *g, const json_t *json, struct err *err)
{
    json_t *config = json_object_get(json, "config");
    int r;

    if (!json_is_object(json))
        return err_set(err, -EPROTO, "a JSON object is expected");
    r = get_text(json, "kind", is_name, g->kind, sizeof(g->kind), err);
    if (r == 0)
        r = get_text(json, "name", is_name, g->name, sizeof(g->name), err);
    if (r == 0)
        r = get_text(json, "uuid", is_uuid, g->uuid, sizeof(g->uuid), err);
    if (r == 0)
        r = get_number(json, "memory", GUEST_MEMORY_MAX, &g->memory, err);
    if (r == 0)
        r = get_number(json, "max_pfn", GUEST_MEMORY_MAX / 4096, &g->max_pfn, err);
    if (r == 0)
        r = disks_from_json(g, json_object_get(json, "disks"), err);
    if (r < 0)
        return r;
    if (config && !json_is_object(config) && !json_is_null(config))
        return err_set(err, -EPROTO, "'config' must be an object");
    if (json_is_object(config))
        g->config = json_incref(config);
    return 0;
}

int hv_guest_from_json(struct hv_guest *ret, const json_t *json, struct err *err)
{
    int r;

    memset(ret, 0, sizeof(*ret));
    r = fill(ret, json, err);
    if (r < 0) {
        hv_guest_finish(ret);
        return err_prefix(err, r, "the description of the guest");
    }
    return 0;
}

void hv_guest_finish(struct hv_guest *g)
{
    json_decref(g->config);
    memset(g, 0, sizeof(*g));
}
