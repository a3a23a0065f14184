/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/job.h"

#include "base/cleanup.h"
#include "base/fdio.h"
#include "hv/agent.h"

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ANSWER_WITHIN_MS 2000

struct job {
    struct loop *loop;
    int listener;
    bool cancelled;
    const char *refusal;
    json_t *(*status)(void *data);
    void *data;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

int job_run_dir(char *ret, size_t size, struct err *err)
{
    const char *dir = getenv("XMOTION_RUN_DIR");
    int n = snprintf(ret, size, "%s", dir && *dir ? dir : "/run/xmotion");
    int r;

    if (n < 0 || (size_t)n >= size)
        return err_set(err, -ENAMETOOLONG, "XMOTION_RUN_DIR is too long");
    r = dir_make(ret);
    return r < 0 ? err_errno(err, r, "making the folder %s", ret) : 0;
}

static int job_path(char *ret, size_t size, const char *id, struct err *err)
{
    char dir[PATH_MAX];
    char jobs[PATH_MAX + 8];
    int n;
    int r = job_run_dir(dir, sizeof(dir), err);

    if (r < 0)
        return r;
    (void)snprintf(jobs, sizeof(jobs), "%s/jobs", dir);
    r = dir_make(jobs);
    if (r < 0)
        return err_errno(err, r, "making the folder %s", jobs);
    n = snprintf(ret, size, "%s%s%s", jobs, id ? "/" : "", id ? id : "");
    if (n < 0 || (size_t)n >= size)
        return err_set(err, -ENAMETOOLONG, "the path of the run folder is too long for a socket: %s", dir);
    return 0;
}

/* A socket that nobody listens on is what a killed process left; its migration is taken up again under the same number. */
static bool remove_stale(const struct sockaddr_un *a)
{
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    return fd >= 0 && connect(fd, (const struct sockaddr *)a, sizeof(*a)) < 0 && errno == ECONNREFUSED &&
           unlink(a->sun_path) == 0;
}

static int open_listener(struct job *j, struct err *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int bound;

    j->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (j->listener < 0)
        return err_errno(err, -errno, "making the job's socket");
    (void)strcpy(a.sun_path, j->path);
    bound = bind(j->listener, (struct sockaddr *)&a, sizeof(a));
    if (bound < 0 && errno == EADDRINUSE && remove_stale(&a))
        bound = bind(j->listener, (struct sockaddr *)&a, sizeof(a));
    if (bound < 0) {
        int r = -errno;

        (void)close(take_fd(&j->listener)); /* what stands at the path is another's: job_destroy must not remove it */
        return err_errno(err, r, "listening on %s", j->path);
    }
    if (listen(j->listener, 4) < 0)
        return err_errno(err, -errno, "listening on %s", j->path);
    return loop_watch(j->loop, j->listener, err);
}

int job_create(struct job **ret, struct loop *loop, const char *id, json_t *(*status)(void *data), void *data,
               struct err *err)
{
    struct job *j = calloc(1, sizeof(*j));
    int r;

    if (!j)
        return err_set(err, -ENOMEM, "out of memory");
    j->loop = loop;
    j->status = status;
    j->data = data;
    j->listener = -1;
    r = job_path(j->path, sizeof(j->path), id, err);
    if (r == 0)
        r = open_listener(j, err);
    if (r < 0) {
        job_destroy(j);
        return r;
    }
    *ret = j;
    return 0;
}

void job_destroy(struct job *j)
{
    if (!j)
        return;
    if (j->listener >= 0) {
        loop_unwatch(j->loop, j->listener);
        (void)unlink(j->path);
        (void)close(j->listener);
    }
    free(j);
}

static void serve(struct job *j, int fd)
{
    json_t *request = NULL;
    json_t *answer;
    const char *cmd;

    if (agent_recv(fd, ANSWER_WITHIN_MS / 10, &request, NULL, NULL) < 0)
        return;
    cmd = json_string_value(json_object_get(request, "cmd"));
    if (cmd && strcmp(cmd, "cancel") == 0 && j->refusal)
        answer = json_pack("{s:s}", "error", j->refusal);
    else
        answer = cmd && strcmp(cmd, "status") == 0 ? j->status(j->data) : json_object();
    if (cmd && strcmp(cmd, "cancel") == 0 && !j->refusal)
        j->cancelled = true;
    (void)agent_send(fd, answer, -1, NULL);
    json_decref(answer);
    json_decref(request);
}

void job_work(struct job *j)
{
    for (;;) {
        CLEANUP_CLOSE int fd = accept4(j->listener, NULL, NULL, SOCK_CLOEXEC);

        if (fd < 0)
            return;
        serve(j, fd);
    }
}

void job_refuse(struct job *j, const char *text)
{
    j->refusal = text;
}

bool job_cancelled(const struct job *j)
{
    return j->cancelled;
}

/* Asks one job; a socket that nobody listens on is what a killed process left. */
static int ask(const char *path, const char *cmd, json_t **ret, struct err *err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    json_t *request = json_pack("{s:s}", "cmd", cmd);
    int r = 0;

    if (fd < 0 || strlen(path) >= sizeof(a.sun_path) || !request)
        r = err_set(err, -ENOMEM, "no socket for asking a job");
    if (r == 0) {
        (void)strcpy(a.sun_path, path);
        if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
            r = -errno;
            if (r == -ECONNREFUSED)
                (void)unlink(path);
        }
    }
    if (r == 0)
        r = agent_send(fd, request, -1, err);
    if (r == 0)
        r = agent_recv(fd, ANSWER_WITHIN_MS, ret, NULL, err);
    json_decref(request);
    return r;
}

/* Calls `each` with the path and status of every job; stops when it returns non-zero. */
static int each_job(int (*each)(const char *path, json_t *status, void *data), void *data, struct err *err)
{
    char dir[PATH_MAX];
    struct dirent *e;
    DIR *d;
    int r = job_path(dir, sizeof(dir), NULL, err);

    if (r < 0)
        return r;
    d = opendir(dir);
    if (!d)
        return err_errno(err, -errno, "reading %s", dir);
    while (r == 0 && (e = readdir(d))) {
        char path[PATH_MAX + 256];
        json_t *status;

        (void)snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (e->d_name[0] == '.' || ask(path, "status", &status, NULL) < 0)
            continue;
        r = each(path, status, data);
        json_decref(status);
    }
    (void)closedir(d);
    return r;
}

static int append(const char *path, json_t *status, void *data)
{
    (void)path;
    return json_array_append(data, status);
}

int job_list(json_t **ret, struct err *err)
{
    int r;

    *ret = json_array();
    if (!*ret)
        return err_set(err, -ENOMEM, "out of memory");
    r = each_job(append, *ret, err);
    if (r < 0) {
        json_decref(*ret);
        *ret = NULL;
    }
    return r;
}

/* The job that was asked for; both ends of one migration on this host bear one id. */
struct search {
    const char *what;
    char path[PATH_MAX];
    char id[64];
    bool several;
};

static int find_job(const char *path, json_t *status, void *data)
{
    const char *id = json_string_value(json_object_get(status, "id"));
    const char *guest = json_string_value(json_object_get(status, "guest"));
    struct search *s = data;
    bool by_id = id && strlen(s->what) >= 4 && strncmp(id, s->what, strlen(s->what)) == 0;

    if (!by_id && !(guest && strcmp(guest, s->what) == 0))
        return 0;
    if (s->path[0]) {
        s->several = s->several || !id || strcmp(s->id, id) != 0;
        return 0;
    }
    (void)snprintf(s->path, sizeof(s->path), "%s", path);
    (void)snprintf(s->id, sizeof(s->id), "%s", id ? id : "");
    return 0;
}

int job_cancel(const char *what, struct err *err)
{
    struct search s = {.what = what};
    json_t *answer;
    int r = each_job(find_job, &s, err);

    if (r < 0)
        return r;
    if (s.several)
        return err_set(err, -ENOTUNIQ, "\"%s\" is the beginning of several migrations' ids, or the name of several guests: see xmotion list", what);
    if (!s.path[0] || ask(s.path, "cancel", &answer, NULL) < 0)
        return err_set(err, -ENOENT, "no migration of \"%s\" is under way here: see xmotion list", what);
    if (json_is_string(json_object_get(answer, "error")))
        r = err_set(err, -EBUSY, "%s", json_string_value(json_object_get(answer, "error")));
    json_decref(answer);
    return r;
}
