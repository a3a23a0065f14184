/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a peer may ask for, and the volumes it gets. The peer is authorized, and confined all the same: SRs and disks that
 * the receiver's configuration names, and nothing that somebody uses. */
#include "session/target-priv.h"

#include "base/bytes.h"
#include "base/fault.h"
#include "base/log.h"
#include "mirror/volume-left.h"

#include <string.h>
#include <unistd.h>

#define AREA            "session.target"
#define RECONNECT_MAX_S (7 * 24 * 3600) /* volumes do not wait for ever for a sender */

/* Members that may be missing are of their type when they are there. */
static int check_types(const json_t *message, struct err *err)
{
    const json_t *sr = json_object_get(message, "sr");
    const json_t *targets = json_object_get(message, "targets");
    const json_t *reuse = json_object_get(message, "reuse");

    if (sr && !json_is_string(sr) && !json_is_null(sr))
        return err_set(err, -EPROTO, "'sr' must be a text");
    if (targets && !json_is_object(targets) && !json_is_null(targets))
        return err_set(err, -EPROTO, "'targets' must be an object");
    if (reuse && !json_is_array(reuse) && !json_is_null(reuse))
        return err_set(err, -EPROTO, "'reuse' must be a list");
    return 0;
}

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

/* "reuse": ["xvda", ...] */
static int choose_reused(struct target *t, const json_t *message, struct err *err)
{
    const json_t *list = json_object_get(message, "reuse");
    const json_t *value;
    size_t n;

    json_array_foreach(list, n, value)
    {
        const char *vbd = json_string_value(value);
        unsigned int i;

        for (i = 0; vbd && i < t->guest.disk_count && strcmp(t->guest.disks[i].vbd, vbd) != 0; i++)
            ;
        if (!vbd || i == t->guest.disk_count)
            return err_set(err, -EINVAL, "--reuse: the guest has no disk \"%s\"", vbd ? vbd : "?");
        t->reused[i] = true;
    }
    return 0;
}

int target_parse_prepare(struct target *t, json_t *message, struct err *err)
{
    json_int_t reconnect_s = json_integer_value(json_object_get(message, "reconnect_s"));
    int r = hv_guest_from_json(&t->guest, json_object_get(message, "guest"), err);

    t->prepare = json_incref(message);
    if (r < 0)
        return r;
    t->guest_parsed = true;
    t->verify = json_is_true(json_object_get(message, "verify"));
    t->journal.entry.reconnect_s = (uint64_t)MIN(MAX(reconnect_s, 0), RECONNECT_MAX_S);
    r = check_types(message, err);
    if (r == 0)
        r = choose_sr(t, message, err);
    if (r == 0)
        r = choose_named(t, message, err);
    return r == 0 ? choose_reused(t, message, err) : r;
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

/* An existing volume of the planned name: only the guest's own old copy, and only when it is to be reused. */
static int plan_existing(struct target *t, unsigned int i, struct err *err)
{
    struct volume *v = &t->journal.entry.volumes[i];

    if (!t->reused[i])
        return err_set(err, -EEXIST, "%s is there already at the target: remove it, reuse it (--reuse), or choose another --sr or --disk",
                       v->path);
    if (!volume_left_by(v->path, t->guest.uuid))
        return err_set(err, -EACCES, "%s at the target is not marked as an old copy of this guest: to reuse it, start the receiver with --allow-disk %s and name it with --disk %s=%s,reuse",
                       v->path, v->path, t->guest.disks[i].vbd, v->path);
    v->kind = VOLUME_EXISTING;
    return volume_adopt_check(v->path, v->size, err);
}

/* Two disks in one volume would write over each other. */
static int check_alone(const struct target *t, unsigned int i, struct err *err)
{
    const struct volume *all = t->journal.entry.volumes;

    for (unsigned int j = 0; j < i; j++) {
        if (strcmp(all[j].path, all[i].path) == 0)
            return err_set(err, -EINVAL, "%s is where both disk %s and disk %s would be: name another place for one with --disk",
                           all[i].path, t->guest.disks[j].vbd, t->guest.disks[i].vbd);
    }
    return 0;
}

static int plan_volumes(struct target *t, struct err *err)
{
    struct journal_entry *j = &t->journal.entry;

    for (unsigned int i = 0; i < t->guest.disk_count; i++) {
        char name[VOLUME_NAME_MAX];
        int r;

        if (t->named[i]) {
            j->volumes[i].kind = VOLUME_EXISTING;
            j->volumes[i].size = t->guest.disks[i].size;
            (void)strcpy(j->volumes[i].path, t->named[i]);
            r = check_alone(t, i, err);
            if (r < 0)
                return r;
            continue;
        }
        plan_name(t, i, name);
        r = volume_plan(&j->volumes[i], t->sr, name, t->guest.disks[i].size, err);
        if (r == 0)
            r = check_alone(t, i, err);
        if (r < 0)
            return r;
        if (access(j->volumes[i].path, F_OK) == 0)
            r = plan_existing(t, i, err);
        else
            t->reused[i] = false;
        if (r < 0)
            return r;
    }
    j->volume_count = t->guest.disk_count;
    return 0;
}

/* For what is planned to be made: whether a volume that shall be used again is there is known by then. */
static int check_space(const struct target *t, struct err *err)
{
    uint64_t needed = 0; /* hv_guest_from_json bounds the sum */

    for (unsigned int i = 0; i < t->guest.disk_count; i++) {
        if (t->journal.entry.volumes[i].kind != VOLUME_EXISTING)
            needed += t->guest.disks[i].size;
    }
    return needed ? volume_sr_check(t->sr, needed, err) : 0;
}

int target_check(struct target *t, struct err *err)
{
    int r;

    for (unsigned int i = 0; i < t->guest.disk_count; i++) {
        r = t->named[i] ? volume_adopt_check(t->named[i], t->guest.disks[i].size, err) : 0;
        if (r < 0)
            return err_prefix(err, r, "disk %s", t->guest.disks[i].vbd);
        if (!t->named[i] && !t->sr)
            return err_set(err, -EINVAL, "the receiver has no SR for new volumes: start it with --sr there, or name every disk with --disk");
    }
    r = plan_volumes(t, err);
    if (r == 0)
        r = check_space(t, err);
    if (r == 0 && !t->hv)
        r = hv_target_open(&t->hv, &t->guest, err);
    if (r == 0)
        r = t->hv->ops->check(t->hv, err);
    return r;
}

static int make_volume(struct target *t, unsigned int i, struct err *err)
{
    const struct volume *v = &t->journal.entry.volumes[i];
    struct volume adopted;

    if (v->kind != VOLUME_EXISTING)
        return volume_create(v, t->sr, t->journal.entry.session, err);
    return volume_adopt(&adopted, v->path, v->size, t->reused[i], err);
}

/* The journal first: what is made afterwards can be found again. */
int target_make_volumes(struct target *t, struct err *err)
{
    struct journal_entry *e = &t->journal.entry;
    int r;

    (void)snprintf(e->peer, sizeof(e->peer), "%s", t->fingerprint);
    (void)snprintf(e->name, sizeof(e->name), "%s", t->guest.name);
    (void)snprintf(e->kind, sizeof(e->kind), "%s", t->guest.kind);
    (void)snprintf(e->uuid, sizeof(e->uuid), "%s", t->guest.uuid);
    e->guest = json_incref(json_object_get(t->prepare, "guest"));
    e->verify = t->verify;
    for (unsigned int i = 0; i < t->guest.disk_count; i++)
        e->reused |= (uint64_t)t->reused[i] << i;
    r = journal_write(&t->journal, err);
    if (r == 0)
        r = fault_point("target.prepare", err);
    for (unsigned int i = 0; r == 0 && i < t->guest.disk_count; i++) {
        r = make_volume(t, i, err);
        if (r == 0)
            continue;
        /* What was there is somebody else's, what would come after it has not been made: neither is ours to remove. */
        e->volume_count = r == -EEXIST ? i : i + 1;
        (void)journal_write(&t->journal, NULL);
        return err_prefix(err, r, "disk %s", t->guest.disks[i].vbd);
    }
    return r == 0 ? journal_advance(&t->journal, INCOMING_PREPARED, err) : r;
}

/* What cannot be removed stays in the journal: recovery tries again. */
int target_remove_volumes(struct target *t, struct err *err)
{
    struct journal_entry *e = &t->journal.entry;
    int result = 0;

    if (!t->journal.written)
        return 0;
    for (unsigned int i = 0; i < e->volume_count; i++) {
        int r = volume_remove(&e->volumes[i], e->session, result == 0 ? err : NULL);

        result = result == 0 ? r : result;
    }
    return result == 0 ? journal_remove(&t->journal, err) : result;
}

static int open_disk(struct target *t, unsigned int i, struct err *err)
{
    const char *path = t->journal.entry.volumes[i].path;
    struct mirror_target_config c = {.reused = t->reused[i]};
    int r = blockdev_open_file(&c.dev, path, BLOCKDEV_WRITE | BLOCKDEV_EXCLUSIVE, err);

    if (r < 0)
        return r;
    if (c.dev->size != t->guest.disks[i].size)
        r = err_set(err, -EIO, "%s has %llu octets, %llu were asked for", path, (unsigned long long)c.dev->size,
                    (unsigned long long)t->guest.disks[i].size);
    else if (t->verify)
        r = blockdev_open_file(&c.back, path, BLOCKDEV_DIRECT, err);
    if (r < 0) {
        blockdev_close(c.dev);
        return r;
    }
    return mirror_target_create(&t->disks[i], &c, err);
}

int target_open_disks(struct target *t, struct err *err)
{
    for (unsigned int i = 0; i < t->guest.disk_count; i++) {
        int r = open_disk(t, i, err);

        if (r < 0)
            return err_prefix(err, r, "disk %s", t->guest.disks[i].vbd);
        t->disk_sizes[i] = t->guest.disks[i].size;
    }
    return 0;
}

int target_reopen(struct target *t, struct err *err)
{
    const struct journal_entry *e = &t->journal.entry;
    int r = hv_guest_from_json(&t->guest, e->guest, err);

    if (r < 0)
        return r;
    t->guest_parsed = true;
    if (t->guest.disk_count != e->volume_count)
        return err_set(err, -EBADMSG, "the journal names %u volumes for %u disks", e->volume_count, t->guest.disk_count);
    t->verify = e->verify;
    for (unsigned int i = 0; r == 0 && i < e->volume_count; i++) {
        t->reused[i] = e->reused >> i & 1;
        r = volume_reopen(&e->volumes[i], e->session, err);
    }
    if (r == 0)
        r = hv_target_open(&t->hv, &t->guest, err);
    return r == 0 ? target_open_disks(t, err) : r;
}
