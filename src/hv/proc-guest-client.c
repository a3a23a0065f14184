/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Talking to the embedded guests of this host. */
#include "hv/proc-guest-priv.h"

#include "base/cleanup.h"
#include "hv/agent.h"

#include <dirent.h>
#include <string.h>
#include <sys/socket.h>

#define ANSWER_TIMEOUT_MS (60 * 1000)
#define VERIFY_TIMEOUT_MS (3600 * 1000) /* reads whole disks */
#define SUFFIX            ".sock"

/* After a timeout nothing more is said here: the next answer would be taken for another's. */
static int receive(int sock, int timeout_ms, json_t **ret, int *ret_fd, struct err *err)
{
    int r = agent_recv(sock, timeout_ms, ret, ret_fd, err);

    if (r == -ETIMEDOUT)
        (void)shutdown(sock, SHUT_RDWR);
    return r;
}

int proc_client_call(int sock, json_t *request, json_t **ret, int *ret_fd, struct err *err)
{
    const char *command = json_string_value(json_object_get(request, "command"));
    int timeout_ms =
        command && strcmp(command, "verify") == 0 ? VERIFY_TIMEOUT_MS : ANSWER_TIMEOUT_MS;
    json_t *answer = NULL;
    int r;

    r = agent_send(sock, request, -1, err);
    json_decref(request);
    if (r == 0)
        r = receive(sock, timeout_ms, &answer, ret_fd, err);
    if (r == 0)
        r = agent_error(answer, err);
    if (r < 0 && answer && ret_fd && *ret_fd >= 0)
        (void)close(take_fd(ret_fd));
    if (r < 0 || !ret)
        json_decref(answer);
    else
        *ret = answer;
    return r;
}

int proc_client_command(int sock, const char *command, json_t **ret, int *ret_fd, struct err *err)
{
    return proc_client_call(sock, json_pack("{s:s}", "command", command), ret, ret_fd, err);
}

/* One command, one connection. */
static int call(const char *name, const char *command, json_t **ret, struct err *err)
{
    CLEANUP_CLOSE int sock = -1;
    int r;

    r = proc_name_connect(name, &sock, err);
    return r < 0 ? r : proc_client_command(sock, command, ret, NULL, err);
}

int proc_guest_verify(const char *name, char *ret_text, size_t size, struct err *err)
{
    json_t *answer;
    const char *text;
    int r;

    r = call(name, "verify", &answer, err);
    if (r < 0)
        return r;
    text = json_string_value(json_object_get(answer, "text"));
    (void)snprintf(ret_text, size, "%s", text ? text : "");
    r = json_is_true(json_object_get(answer, "whole")) ? 0 : -EBADMSG;
    json_decref(answer);
    return r < 0 ? err_set(err, r, "guest '%s' is not whole: %s", name, ret_text) : 0;
}

int proc_guest_describe(const char *name, json_t **ret, struct err *err)
{
    return call(name, "describe", ret, err);
}

int proc_guest_stats(const char *name, json_t **ret, struct err *err)
{
    return call(name, "stats", ret, err);
}

int proc_guest_destroy(const char *name, struct err *err)
{
    return call(name, "destroy", NULL, err);
}

/* The guest's name when the file is a guest's socket. */
static bool name_of(const char *file, char *ret_name)
{
    size_t len = strlen(file);

    if (len <= strlen(SUFFIX) || len - strlen(SUFFIX) >= HV_NAME_MAX ||
        strcmp(file + len - strlen(SUFFIX), SUFFIX) != 0)
        return false;
    memcpy(ret_name, file, len - strlen(SUFFIX));
    ret_name[len - strlen(SUFFIX)] = '\0';
    return true;
}

int proc_guest_list(json_t **ret, struct err *err)
{
    char path[PROC_PATH_MAX], name[HV_NAME_MAX];
    struct dirent *e;
    DIR *dir;

    (void)snprintf(path, sizeof(path), "%.1000s/guests", proc_run_dir());
    dir = opendir(path);
    if (!dir && errno != ENOENT)
        return err_errno(err, -errno, "%s", path);
    *ret = json_array();
    if (!dir)
        return 0;
    while ((e = readdir(dir))) {
        json_t *guest;

        /* One that has gone meanwhile is no error. */
        if (name_of(e->d_name, name) && proc_guest_describe(name, &guest, NULL) == 0)
            (void)json_array_append_new(*ret, guest);
    }
    (void)closedir(dir);
    return 0;
}
