/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* PREPARE and CHECK at the receiver: what an authorized peer may ask for. Whatever it asks, it gets new volumes inside of an SR that the
 * receiver opens, its own old copies, and disks that are allowed by name, each once. The first octet: 1 the receiver has no SR, 2 all
 * volumes are there already, 4 the guest's own, 8 it also reads the PREPARE back from its journal, as after a restart.
 * fuzz: -max_len=8192 */
#include "fuzz-json.h"

#include "hv/hv.h"
#include "mirror/blockdev.h"
#include "mirror/volume-left.h"
#include "mirror/volume.h"

#include <unistd.h>

static uint8_t choice;

/* Nothing of this host is looked at. */
static int fake_sr_check(const struct volume_sr *sr, uint64_t bytes, struct err *err);
static int fake_adopt_check(const char *path, uint64_t size, struct err *err);
static int fake_open(struct hv_target **ret, const struct hv_guest *guest, struct err *err);
#define volume_sr_check                  fake_sr_check
#define volume_adopt_check               fake_adopt_check
#define volume_reopen(volume, s, err)    0
#define volume_left_by(path, uuid)       ((choice & 4) != 0)
#define access(path, mode)               (choice & 2 ? 0 : -1)
#define hv_target_open                   fake_open
#define blockdev_open_file(ret, path, flags, err) err_set(err, -ENOENT, "%s", path)
#include "session/target-prepare.c"
#undef access

static const char *const allowed[] = {"/dev/vg1/a", "/srv/vm/b"};

static int fake_sr_check(const struct volume_sr *sr, uint64_t bytes, struct err *err)
{
    CHECK(sr && bytes);
    return 0;
}

static int fake_adopt_check(const char *path, uint64_t size, struct err *err)
{
    CHECK(path && path[0] == '/' && size);
    return 0;
}

static int fake_check(struct hv_target *t, struct err *err)
{
    return 0;
}

static int fake_open(struct hv_target **ret, const struct hv_guest *guest, struct err *err)
{
    static const struct hv_target_ops ops = {.check = fake_check};
    static struct hv_target target = {&ops};

    *ret = &target;
    return 0;
}

static bool is_allowed(const char *path)
{
    return strcmp(path, allowed[0]) == 0 || strcmp(path, allowed[1]) == 0;
}

static bool is_inside(const char *path, const struct volume_sr *sr)
{
    const char *folder = sr->kind == VOLUME_LVM ? "/dev/vg0/" : "/srv/vm/";

    return strncmp(path, folder, strlen(folder)) == 0 && !strchr(path + strlen(folder), '/') &&
           path[strlen(folder)] != '.';
}

static void check_volumes(const struct target *t)
{
    const struct journal_entry *e = &t->journal.entry;

    CHECK(e->volume_count == t->guest.disk_count && e->reconnect_s <= RECONNECT_MAX_S);
    for (unsigned int i = 0; i < e->volume_count; i++) {
        const struct volume *v = &e->volumes[i];

        CHECK(v->size == t->guest.disks[i].size);
        if (t->named[i])
            CHECK(v->kind == VOLUME_EXISTING && is_allowed(v->path));
        else
            CHECK(is_inside(v->path, t->sr) && (v->kind != VOLUME_EXISTING || (t->reused[i] && choice & 4)));
        for (unsigned int j = 0; j < i; j++)
            CHECK(strcmp(e->volumes[j].path, v->path) != 0);
    }
}

static void prepare(struct target *t, json_t *message)
{
    struct err err = {0};

    if (target_parse_prepare(t, message, &err) == 0 && target_check(t, &err) == 0)
        check_volumes(t);
    else
        CHECK(err.code < 0 && *err.text);
    if (choice & 8 && t->guest_parsed) {
        t->journal.entry.guest = json_incref(json_object_get(message, "guest"));
        hv_guest_finish(&t->guest);
        CHECK(target_reopen(t, &err) < 0 || !t->guest.disk_count);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct server_config with = {
        .srs = {{VOLUME_LVM, "vg0"}, {VOLUME_FILE, "/srv/vm"}}, .sr_count = 2, .allow_disks = {"/dev/vg1/a", "/srv/vm/b"}, .allow_disk_count = 2};
    static const struct server_config without = {.allow_disks = {"/dev/vg1/a", "/srv/vm/b"}, .allow_disk_count = 2};
    json_t *message = size > 1 ? fuzz_load(data + 1, size - 1) : NULL;
    static struct target t;

    choice = size ? data[0] : 0;
    if (json_is_object(message)) {
        memset(&t, 0, sizeof(t));
        t.config = choice & 1 ? &without : &with;
        prepare(&t, message);
        json_decref(t.prepare);
        journal_entry_finish(&t.journal.entry);
        hv_guest_finish(&t.guest);
    }
    json_decref(message);
    return 0;
}
