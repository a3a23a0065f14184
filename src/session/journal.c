/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/journal.h"

#include "base/cleanup.h"
#include "base/fdio.h"
#include "base/log.h"

#include <dirent.h>
#include <limits.h>
#include <string.h>

#define AREA      "session.journal"
#define ENTRY_MAX (256u << 10)

static int entry_path(char *ret, const char *state_dir, const char *session, struct err *err)
{
    int n = snprintf(ret, PATH_MAX, "%s/incoming%s%s%s", state_dir, session ? "/" : "", session ? session : "",
                     session ? ".json" : "");

    return n < 0 || n >= PATH_MAX ? err_set(err, -ENAMETOOLONG, "the state folder's path is too long") : 0;
}

int journal_write(const char *state_dir, const struct journal_entry *e, struct err *err)
{
    char path[PATH_MAX];
    json_t *volumes = json_array();
    json_t *j;
    CLEANUP_FREE char *text = NULL;
    int r = entry_path(path, state_dir, NULL, err);

    for (unsigned int i = 0; r == 0 && i < e->volume_count; i++) {
        if (json_array_append_new(volumes, json_pack("{s:i, s:s, s:I}", "kind", (int)e->volumes[i].kind, "path",
                                                     e->volumes[i].path, "size", (json_int_t)e->volumes[i].size)) < 0)
            r = err_set(err, -EILSEQ, "the path %s cannot be noted in the journal: it is no UTF-8", e->volumes[i].path);
    }
    if (r < 0) {
        json_decref(volumes);
        return r;
    }
    j = json_pack("{s:s, s:s, s:s, s:b, s:o}", "session", e->session, "guest", e->guest, "kind", e->kind, "go",
                  (int)e->go, "volumes", volumes);
    text = j ? json_dumps(j, JSON_INDENT(1)) : NULL;
    json_decref(j);
    if (!text)
        return err_set(err, -ENOMEM, "out of memory");
    if (r == 0)
        r = dir_make(path);
    if (r == 0)
        r = entry_path(path, state_dir, e->session, err);
    if (r == 0)
        r = file_replace(path, text, strlen(text));
    return r < 0 ? err_errno(err, r, "writing the journal %s", path) : 0;
}

int journal_remove(const char *state_dir, const char *session, struct err *err)
{
    char path[PATH_MAX];
    int r = entry_path(path, state_dir, session, err);

    if (r == 0 && unlink(path) < 0 && errno != ENOENT)
        r = err_errno(err, -errno, "removing the journal %s", path);
    return r;
}

static int parse_volume(struct journal_entry *e, const json_t *v)
{
    struct volume *to = &e->volumes[e->volume_count];
    const char *path;
    json_int_t size;
    int kind;

    if (e->volume_count == HV_DISKS_MAX ||
        json_unpack((json_t *)(uintptr_t)v, "{s:i, s:s, s:I}", "kind", &kind, "path", &path, "size", &size) < 0 ||
        kind < VOLUME_LVM || kind > VOLUME_EXISTING || strlen(path) >= sizeof(to->path))
        return -EINVAL;
    to->kind = (enum volume_kind)kind;
    to->size = (uint64_t)size;
    (void)strcpy(to->path, path);
    e->volume_count++;
    return 0;
}

static int parse(struct journal_entry *e, const json_t *j)
{
    const char *session;
    const char *guest;
    const char *kind;
    json_t *volumes;
    json_t *v;
    size_t i;
    int go;

    memset(e, 0, sizeof(*e));
    if (json_unpack((json_t *)(uintptr_t)j, "{s:s, s:s, s:s, s:b, s:o}", "session", &session, "guest", &guest, "kind", &kind,
                    "go", &go, "volumes", &volumes) < 0 || !json_is_array(volumes) ||
        strlen(session) >= sizeof(e->session) || strlen(guest) >= sizeof(e->guest) || strlen(kind) >= sizeof(e->kind))
        return -EINVAL;
    (void)strcpy(e->session, session);
    (void)strcpy(e->guest, guest);
    (void)strcpy(e->kind, kind);
    e->go = go;
    json_array_foreach(volumes, i, v)
    {
        if (parse_volume(e, v) < 0)
            return -EINVAL;
    }
    return 0;
}

static int load(const char *path, struct journal_entry *ret)
{
    CLEANUP_FREE char *text = NULL;
    json_t *j;
    int r = file_read(path, ENTRY_MAX, &text, NULL);

    if (r < 0)
        return r;
    j = json_loads(text, 0, NULL);
    r = j ? parse(ret, j) : -EINVAL;
    json_decref(j);
    return r;
}

int journal_each(const char *state_dir, void (*each)(const struct journal_entry *e, void *data), void *data,
                 struct err *err)
{
    char dir[PATH_MAX];
    struct dirent *d;
    DIR *folder;
    int r = entry_path(dir, state_dir, NULL, err);

    if (r < 0)
        return r;
    folder = opendir(dir);
    if (!folder)
        return errno == ENOENT ? 0 : err_errno(err, -errno, "reading %s", dir);
    while ((d = readdir(folder))) {
        char path[PATH_MAX + 256];
        struct journal_entry e;
        size_t len = strlen(d->d_name);

        if (len < 6 || strcmp(d->d_name + len - 5, ".json") != 0)
            continue;
        (void)snprintf(path, sizeof(path), "%s/%s", dir, d->d_name);
        if (load(path, &e) < 0)
            log_warn(AREA, "%s is not a journal of xmotion: left alone; look what it stands for and remove it", path);
        else
            each(&e, data);
    }
    (void)closedir(folder);
    return 0;
}
