/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where a peer's disk goes: the SR it names, the name made of its label, and what LVM's tools say. Whatever a peer calls its
 * disks, their volumes stay inside of the SR, and no guest gets another one's. The input is two texts with a NUL between: an SR (or a
 * tool's words), and a label (or a uuid).
 * fuzz: -max_len=2600 */
#include "fuzz.h"

#include "base/run.h"
#include "mirror/volume-left.h"
#include "mirror/volume.h"

#include <ctype.h>

static const char *tool_says;

int run_program(const char *const *argv, char *output, size_t size, struct err *err)
{
    (void)snprintf(output, size, "%s", tool_says);
    return 0;
}

static void check_plan(const struct volume_sr *sr, const char *label)
{
    char name[VOLUME_NAME_MAX], folder[VOLUME_PATH_MAX + 16];
    struct volume v;
    struct err err = {0};
    int n = snprintf(folder, sizeof(folder), "%s%s/", sr->kind == VOLUME_LVM ? "/dev/" : "", sr->place);

    volume_safe_name(name, label);
    CHECK(strlen(name) < sizeof(name) && name[0] && name[0] != '-' && name[0] != '.');
    CHECK(!name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-")]);
    if (volume_plan(&v, sr, name, 4096, &err) < 0) {
        CHECK(err.code == -ENAMETOOLONG);
        return;
    }
    CHECK(n > 0 && strncmp(v.path, folder, (size_t)n) == 0 && strcmp(v.path + n, name) == 0);
}

/* Whose old copy a volume is: one whole tag says so. */
static void check_left(const char *tags, const char *uuid)
{
    size_t length = strlen(uuid);
    bool found = false;
    char tag[100];

    if (!volume_left_by("/dev/vg0/volume", uuid))
        return;
    CHECK(length > 0 && length <= 40);
    length = (size_t)snprintf(tag, sizeof(tag), "xmotion-left-%s", uuid);
    for (const char *at = tags; !found && (at = strstr(at, tag)); at++)
        found = !at[length] || at[length] == ',' || isspace((unsigned char)at[length]);
    CHECK(found);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    char *spec = take_text(&in, 2000, -1), *label = take_text(&in, 2000, -1);
    struct volume_sr sr;
    struct err err = {0};

    if (volume_sr_parse(&sr, spec, &err) == 0) {
        CHECK(sr.kind == VOLUME_LVM || sr.place[0] == '/');
        CHECK(sr.kind != VOLUME_LVM || (sr.place[0] && !strchr(sr.place, '/') && strcmp(sr.place, "..") != 0));
        check_plan(&sr, label);
    }
    tool_says = spec;
    CHECK(volume_lvm_check("vg0", 4096, &err) == 0 || *err.text);
    check_left(spec, label);
    free(spec);
    free(label);
    return 0;
}
