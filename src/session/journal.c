/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/journal.h"

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/fdio.h"
#include "base/log.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define AREA      "session.journal"
#define ENTRY_MAX (4u << 20)

const char *journal_phase_name(const struct journal_entry *e)
{
    return e->side == JOURNAL_OUTGOING ? outgoing_phase_name((enum outgoing_phase)e->phase)
                                       : incoming_phase_name((enum incoming_phase)e->phase);
}

void journal_boot(char ret[40])
{
    CLEANUP_FREE char *text = NULL;

    ret[0] = '\0';
    if (file_read("/proc/sys/kernel/random/boot_id", 100, &text, NULL) < 0)
        return;
    (void)snprintf(ret, 40, "%.*s", (int)strcspn(text, "\n"), text);
}

static int entry_path(char *ret, const char *state_dir, enum journal_side side, const char *session,
                      const char *suffix, struct err *err)
{
    int n = snprintf(ret, PATH_MAX, "%s/%s%s%s%s", state_dir, side == JOURNAL_OUTGOING ? "outgoing" : "incoming",
                     session ? "/" : "", session ? session : "", session ? suffix : "");

    return n < 0 || n >= PATH_MAX ? err_set(err, -ENAMETOOLONG, "the state folder's path is too long") : 0;
}

void journal_entry_finish(struct journal_entry *e)
{
    json_decref(e->guest);
    e->guest = NULL;
}

/* -- the owner's -- */

/* A lock file that was removed while we waited for it locks nothing. */
static bool still_there(int fd, const char *path)
{
    struct stat ours;
    struct stat there;

    return fstat(fd, &ours) == 0 && stat(path, &there) == 0 && ours.st_ino == there.st_ino;
}

static int take_lock(const char *path, struct err *err)
{
    for (;;) {
        CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
            return err_errno(err, -errno, "making %s", path);
        if (flock(fd, LOCK_EX | LOCK_NB) < 0)
            return errno == EWOULDBLOCK ? err_set(err, -EBUSY, "another process is at work on this migration (%s)", path)
                                        : err_errno(err, -errno, "locking %s", path);
        if (still_there(fd, path))
            return take_fd(&fd);
    }
}

static int sync_folder(const char *path, struct err *err)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 || fsync(fd) < 0 ? err_errno(err, -errno, "writing the folder %s", path) : 0;
}

int journal_open(struct journal *j, const char *state_dir, enum journal_side side, const char *session, struct err *err)
{
    char path[PATH_MAX];
    int r;

    memset(j, 0, sizeof(*j));
    j->state_dir = state_dir;
    j->lock = -1;
    j->entry.side = side;
    (void)snprintf(j->entry.session, sizeof(j->entry.session), "%s", session);
    journal_boot(j->entry.boot);
    r = entry_path(path, state_dir, side, NULL, "", err);
    if (r == 0)
        r = dir_make(path);
    if (r < 0)
        return err_errno(err, r, "making the folder %s", path);
    r = sync_folder(state_dir, err); /* which may have got a new one */
    if (r == 0)
        r = entry_path(path, state_dir, side, session, ".lock", err);
    if (r == 0)
        r = take_lock(path, err);
    if (r < 0)
        return r;
    j->lock = r;
    return 0;
}

static json_t *entry_to_json(const struct journal_entry *e, struct err *err)
{
    json_t *volumes = json_array();
    json_t *j;

    for (unsigned int i = 0; i < e->volume_count; i++) {
        if (json_array_append_new(volumes, json_pack("{s:i, s:s, s:I}", "kind", (int)e->volumes[i].kind, "path",
                                                     e->volumes[i].path, "size", (json_int_t)e->volumes[i].size)) < 0) {
            json_decref(volumes);
            (void)err_set(err, -EILSEQ, "the path %s cannot be noted in the journal: it is no UTF-8", e->volumes[i].path);
            return NULL;
        }
    }
    j = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:b, s:I, s:o, s:O?}", "session", e->session, "phase",
                  journal_phase_name(e), "boot", e->boot, "peer", e->peer, "name", e->name, "kind", e->kind,
                  "uuid", e->uuid, "reconnect_s", (json_int_t)e->reconnect_s, "verify", (int)e->verify, "reused", (json_int_t)e->reused, "volumes", volumes,
                  "guest", e->guest);
    if (!j)
        (void)err_set(err, -EILSEQ, "the guest's name cannot be noted in the journal: it is no UTF-8");
    return j;
}

int journal_write(struct journal *j, struct err *err)
{
    CLEANUP_FREE char *text = NULL;
    char path[PATH_MAX];
    json_t *json = entry_to_json(&j->entry, err);
    int r;

    if (!json)
        return err ? err->code : -EILSEQ;
    text = json_dumps(json, JSON_INDENT(1));
    json_decref(json);
    if (!text)
        return err_set(err, -ENOMEM, "out of memory");
    r = entry_path(path, j->state_dir, j->entry.side, j->entry.session, ".json", err);
    if (r < 0)
        return r;
    r = fault_point("journal.write", err);
    if (r) /* a short write would not be renamed either: the old entry stays */
        return r < 0 ? r : err_set(err, -ENOSPC, "writing the journal %s: half of it was written", path);
    r = file_replace(path, text, strlen(text));
    if (r < 0)
        return err_errno(err, r, "writing the journal %s", path);
    j->written = true;
    return 0;
}

int journal_advance(struct journal *j, int phase, struct err *err)
{
    int before = j->entry.phase;
    int r;

    j->entry.phase = phase;
    r = journal_write(j, err);
    if (r < 0)
        j->entry.phase = before;
    return r;
}

static int remove_file(const struct journal *j, const char *suffix, struct err *err)
{
    char path[PATH_MAX];
    int r = entry_path(path, j->state_dir, j->entry.side, j->entry.session, suffix, err);

    if (r == 0 && unlink(path) < 0 && errno != ENOENT)
        r = err_errno(err, -errno, "removing the journal %s", path);
    return r;
}

int journal_remove(struct journal *j, struct err *err)
{
    char folder[PATH_MAX];
    int r = remove_file(j, ".json", err);

    (void)remove_file(j, ".json.new", NULL);

    if (r == 0)
        r = entry_path(folder, j->state_dir, j->entry.side, NULL, "", err);
    if (r == 0) /* one that a power cut brought back would start a guest that lives elsewhere */
        r = sync_folder(folder, err);
    if (r == 0)
        j->written = false;
    return r;
}

void journal_close(struct journal *j)
{
    if (j->state_dir && j->lock >= 0) {
        if (!j->written)
            (void)remove_file(j, ".lock", NULL);
        (void)close(take_fd(&j->lock));
    }
    journal_entry_finish(&j->entry);
    j->state_dir = NULL;
}

/* -- anybody's -- */

static int copy_text(char *to, size_t size, const json_t *j, const char *key)
{
    const char *text = json_string_value(json_object_get(j, key));

    if (!text || strlen(text) >= size)
        return -EBADMSG;
    (void)strcpy(to, text);
    return 0;
}

static int parse_volume(struct journal_entry *e, const json_t *v)
{
    struct volume *to = &e->volumes[e->volume_count];
    const char *path;
    json_int_t size;
    int kind;

    if (e->volume_count == HV_DISKS_MAX ||
        json_unpack((json_t *)(uintptr_t)v, "{s:i, s:s, s:I}", "kind", &kind, "path", &path, "size", &size) < 0 ||
        kind < VOLUME_LVM || kind > VOLUME_EXISTING || strlen(path) >= sizeof(to->path) || size < 0)
        return -EBADMSG;
    to->kind = (enum volume_kind)kind;
    to->size = (uint64_t)size;
    (void)strcpy(to->path, path);
    e->volume_count++;
    return 0;
}

static int parse_phase(struct journal_entry *e, const json_t *j)
{
    const char *name = json_string_value(json_object_get(j, "phase"));
    int count = e->side == JOURNAL_OUTGOING ? (int)OUTGOING_PHASE_COUNT : (int)INCOMING_PHASE_COUNT;

    for (e->phase = 0; name && e->phase < count; e->phase++) {
        if (strcmp(journal_phase_name(e), name) == 0)
            return 0;
    }
    return -EBADMSG;
}

static int parse(struct journal_entry *e, const json_t *j)
{
    json_t *volumes = json_object_get(j, "volumes");
    json_t *guest = json_object_get(j, "guest");
    json_int_t reconnect_s = -1;
    json_t *v;
    size_t i;

    if (json_unpack((json_t *)(uintptr_t)j, "{s:I}", "reconnect_s", &reconnect_s) < 0 || reconnect_s < 0 || !json_is_array(volumes) || (guest && !json_is_object(guest) && !json_is_null(guest)) ||
        parse_phase(e, j) < 0 || copy_text(e->session, sizeof(e->session), j, "session") < 0 ||
        copy_text(e->boot, sizeof(e->boot), j, "boot") < 0 || copy_text(e->peer, sizeof(e->peer), j, "peer") < 0 ||
        copy_text(e->name, sizeof(e->name), j, "name") < 0 || copy_text(e->kind, sizeof(e->kind), j, "kind") < 0 ||
        copy_text(e->uuid, sizeof(e->uuid), j, "uuid") < 0)
        return -EBADMSG;
    e->reconnect_s = (uint64_t)reconnect_s;
    e->verify = json_is_true(json_object_get(j, "verify"));
    e->reused = (uint64_t)json_integer_value(json_object_get(j, "reused"));
    json_array_foreach(volumes, i, v)
    {
        if (parse_volume(e, v) < 0)
            return -EBADMSG;
    }
    e->guest = json_is_object(guest) ? json_incref(guest) : NULL;
    return 0;
}

int journal_load(const char *state_dir, enum journal_side side, const char *session, struct journal_entry *ret,
                 struct err *err)
{
    CLEANUP_FREE char *text = NULL;
    char path[PATH_MAX];
    json_t *j;
    int r;

    memset(ret, 0, sizeof(*ret));
    ret->side = side;
    (void)snprintf(ret->session, sizeof(ret->session), "%s", session);
    r = entry_path(path, state_dir, side, session, ".json", err);
    if (r == 0)
        r = file_read(path, ENTRY_MAX, &text, NULL);
    if (r < 0)
        return err_errno(err, r, "reading the journal %s", path);
    j = json_loads(text, 0, NULL);
    r = j ? parse(ret, j) : -EBADMSG;
    json_decref(j);
    if (r == 0 && strcmp(ret->session, session) != 0)
        r = -EBADMSG;
    if (r < 0) {
        journal_entry_finish(ret);
        return err_set(err, r, "%s is not a whole journal of xmotion: left alone; look what it stands for and remove it", path);
    }
    return 0;
}

/* A lock beside no journal, which nobody holds: its owner was killed between removing the two. */
static void sweep_lock(const char *state_dir, enum journal_side side, const char *name)
{
    char session[sizeof(((struct journal_entry *)0)->session)];
    char path[PATH_MAX];
    struct journal j;

    if (strlen(name) - 5 >= sizeof(session))
        return;
    (void)snprintf(session, sizeof(session), "%.*s", (int)(strlen(name) - 5), name);
    if (entry_path(path, state_dir, side, session, ".json", NULL) < 0 || access(path, F_OK) == 0 ||
        journal_open(&j, state_dir, side, session, NULL) < 0)
        return;
    j.written = access(path, F_OK) == 0; /* looked at again now that the lock is ours */
    journal_close(&j);
}

int journal_each(const char *state_dir, enum journal_side side,
                 void (*each)(const struct journal_entry *e, void *data), void *data, unsigned int *ret_torn,
                 struct err *err)
{
    char dir[PATH_MAX];
    struct dirent *d;
    DIR *folder;
    int r = entry_path(dir, state_dir, side, NULL, "", err);

    if (ret_torn)
        *ret_torn = 0;
    if (r < 0)
        return r;
    folder = opendir(dir);
    if (!folder)
        return errno == ENOENT ? 0 : err_errno(err, -errno, "reading %s", dir);
    while ((d = readdir(folder))) {
        char session[sizeof(d->d_name)];
        struct journal_entry e;
        size_t len = strlen(d->d_name);
        struct err why;

        if (len > 5 && strcmp(d->d_name + len - 5, ".lock") == 0)
            sweep_lock(state_dir, side, d->d_name);
        if (len < 6 || strcmp(d->d_name + len - 5, ".json") != 0)
            continue;
        (void)snprintf(session, sizeof(session), "%.*s", (int)len - 5, d->d_name);
        r = journal_load(state_dir, side, session, &e, &why);
        if (r == 0) {
            each(&e, data);
            journal_entry_finish(&e);
        } else if (r != -ENOENT) {
            log_warn(AREA, "%s", why.text);
            if (ret_torn)
                (*ret_torn)++;
        }
    }
    (void)closedir(folder);
    return 0;
}

bool journal_is_owned(const char *state_dir, const struct journal_entry *e)
{
    char path[PATH_MAX];
    CLEANUP_CLOSE int fd = -1;

    if (entry_path(path, state_dir, e->side, e->session, ".lock", NULL) < 0)
        return false;
    fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return false;
    return flock(fd, LOCK_EX | LOCK_NB) < 0 && errno == EWOULDBLOCK;
}
