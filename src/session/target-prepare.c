/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a peer may ask for, and the volumes it gets. The peer is authorized, and confined all the same: SRs and disks that
 * the receiver's configuration names, and nothing that somebody uses. */
#include "session/target-priv.h"

#include "base/log.h"

#include <string.h>
#include <unistd.h>

#define AREA "session.target"

static int choose_sr(struct target *t, const json_t *message, struct err *err)
{
    const char *spec = json_string_value(json_object_get(message, "sr"));
    struct volume_sr wanted;
    int r;

    if (!spec) {
        t->sr = t->config->sr_count ? &t->config->srs[0] : NULL;
        return 0;
    }
    r = volume_sr_parse(&wanted, spec, err);
    if (r < 0)
        return r;
    for (unsigned int i = 0; i < t->config->sr_count; i++) {
        const struct volume_sr *sr = &t->config->srs[i];

        if (sr->kind == wanted.kind && strcmp(sr->place, wanted.place) == 0) {
            t->sr = sr;
            return 0;
        }
    }
    return err_set(err, -EACCES, "the receiver does not open the SR %s to its peers: start it with --sr %s there, or choose another",
                   spec, spec);
}

static bool disk_allowed(const struct target *t, const char *path)
{
    for (unsigned int i = 0; i < t->config->allow_disk_count; i++) {
        if (strcmp(t->config->allow_disks[i], path) == 0)
            return true;
    }
    return false;
}

/* "targets": {"xvda": "/dev/vg1/x"}: each names a disk of the guest, and one that the receiver allows by name. */
static int choose_named(struct target *t, const json_t *message, struct err *err)
{
    const json_t *targets = json_object_get(message, "targets");
    const char *vbd;
    json_t *value;

    json_object_foreach((json_t *)(uintptr_t)targets, vbd, value)
    {
        const char *path = json_string_value(value);
        unsigned int i;

        for (i = 0; i < t->guest.disk_count && strcmp(t->guest.disks[i].vbd, vbd) != 0; i++)
            ;
        if (i == t->guest.disk_count)
            return err_set(err, -EINVAL, "--disk %s=...: the guest has no such disk (its first is %s)", vbd,
                           t->guest.disk_count ? t->guest.disks[0].vbd : "none at all");
        if (!path || path[0] != '/' || strlen(path) >= VOLUME_PATH_MAX)
            return err_set(err, -EINVAL, "--disk %s=...: expected an absolute path at the target", vbd);
        if (!disk_allowed(t, path))
            return err_set(err, -EACCES, "the receiver does not open the disk %s to its peers: start it with --allow-disk %s there",
                           path, path);
        for (unsigned int j = 0; j < i; j++) {
            if (t->named[j] && strcmp(t->named[j], path) == 0)
                return err_set(err, -EINVAL, "--disk: %s is named for two disks", path);
        }
        t->named[i] = path;
    }
    return 0;
}

int target_parse_prepare(struct target *t, json_t *message, struct err *err)
{
    int r = hv_guest_from_json(&t->guest, json_object_get(message, "guest"), err);

    t->prepare = json_incref(message);
    if (r < 0)
        return r;
    t->guest_parsed = true;
    r = choose_sr(t, message, err);
    return r == 0 ? choose_named(t, message, err) : r;
}

/* Two disks of one guest may bear one name, in different places at the source: xvdb's becomes NAME.xvdb then. */
static void plan_name(const struct target *t, unsigned int i, char *ret)
{
    char other[VOLUME_NAME_MAX];

    volume_safe_name(ret, t->guest.disks[i].label);
    for (unsigned int j = 0; j < i; j++) {
        volume_safe_name(other, t->guest.disks[j].label);
        if (!t->named[j] && strcmp(other, ret) == 0) {
            char suffix[HV_VBD_MAX];

            volume_safe_name(suffix, t->guest.disks[i].vbd);
            ret[VOLUME_NAME_MAX - HV_VBD_MAX - 2] = '\0';
            (void)strcat(strcat(ret, "."), suffix);
            return;
        }
    }
}

static int plan_volumes(struct target *t, struct err *err)
{
    struct journal_entry *j = &t->journal;

    for (unsigned int i = 0; i < t->guest.disk_count; i++) {
        char name[VOLUME_NAME_MAX];
        int r;

        if (t->named[i]) {
            j->volumes[i].kind = VOLUME_EXISTING;
            j->volumes[i].size = t->guest.disks[i].size;
            (void)strcpy(j->volumes[i].path, t->named[i]);
            continue;
        }
        plan_name(t, i, name);
        r = volume_plan(&j->volumes[i], t->sr, name, t->guest.disks[i].size, err);
        if (r < 0)
            return r;
        if (access(j->volumes[i].path, F_OK) == 0)
            return err_set(err, -EEXIST, "%s is there already at the target: remove it, or choose another --sr or --disk",
                           j->volumes[i].path);
    }
    j->volume_count = t->guest.disk_count;
    return 0;
}

int target_check(struct target *t, struct err *err)
{
    uint64_t needed = 0;
    int r;

    for (unsigned int i = 0; i < t->guest.disk_count; i++) {
        r = t->named[i] ? volume_adopt_check(t->named[i], t->guest.disks[i].size, err) : 0;
        if (r < 0)
            return err_prefix(err, r, "disk %s", t->guest.disks[i].vbd);
        needed += t->named[i] ? 0 : t->guest.disks[i].size;
    }
    if (needed && !t->sr)
        return err_set(err, -EINVAL, "the receiver has no SR for new volumes: start it with --sr there, or name every disk with --disk");
    r = needed ? volume_sr_check(t->sr, needed, err) : 0;
    if (r == 0)
        r = plan_volumes(t, err);
    if (r == 0 && !t->hv)
        r = hv_target_open(&t->hv, &t->guest, err);
    if (r == 0)
        r = t->hv->ops->check(t->hv, err);
    return r;
}

static int make_volume(struct target *t, unsigned int i, struct err *err)
{
    struct volume *v = &t->journal.volumes[i];
    int r;

    if (v->kind != VOLUME_EXISTING)
        return volume_create(v, t->sr, t->journal.session, err);
    r = volume_adopt(v, t->named[i], v->size, err);
    t->adopted[i] = r == 0;
    return r;
}

/* The journal first: what is made afterwards can be found again. */
int target_make_volumes(struct target *t, struct err *err)
{
    int r;

    (void)strcpy(t->journal.guest, t->guest.name);
    (void)strcpy(t->journal.kind, t->guest.kind);
    r = journal_write(t->config->state_dir, &t->journal, err);
    t->journal_written = r == 0;
    for (unsigned int i = 0; r == 0 && i < t->guest.disk_count; i++) {
        r = make_volume(t, i, err);
        if (r < 0)
            return err_prefix(err, r, "disk %s", t->guest.disks[i].vbd);
    }
    return r;
}

void target_remove_volumes(struct target *t)
{
    struct err err;
    bool all = true;

    if (!t->journal_written)
        return;
    for (unsigned int i = 0; i < t->journal.volume_count; i++) {
        if (volume_remove(&t->journal.volumes[i], t->journal.session, &err) < 0) {
            log_error(AREA, "%s", err.text);
            all = false;
        }
    }
    /* What could not be removed stays in the journal: the next start of the receiver tries again. */
    if (all && journal_remove(t->config->state_dir, t->journal.session, &err) < 0)
        log_error(AREA, "%s", err.text);
}

int target_open_disks(struct target *t, struct err *err)
{
    for (unsigned int i = 0; i < t->guest.disk_count; i++) {
        struct blockdev *dev;
        int r = blockdev_open_file(&dev, t->journal.volumes[i].path, BLOCKDEV_WRITE | BLOCKDEV_EXCLUSIVE, err);

        if (r == 0 && dev->size != t->guest.disks[i].size) {
            r = err_set(err, -EIO, "%s has %llu octets, %llu were asked for", t->journal.volumes[i].path,
                        (unsigned long long)dev->size, (unsigned long long)t->guest.disks[i].size);
            blockdev_close(dev);
        }
        if (r == 0)
            r = mirror_target_create(&t->disks[i], dev, err);
        if (r < 0)
            return err_prefix(err, r, "disk %s", t->guest.disks[i].vbd);
        t->disk_sizes[i] = t->guest.disks[i].size;
    }
    return 0;
}
