/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Embedded guests: they see their mover die and act at once, so what is found here is at rest, or somebody's who lives. */
#include "hv/hv-recover-priv.h"

#include "base/cleanup.h"
#include "base/clock.h"
#include "hv/hv-proc-priv.h"
#include "hv/proc-guest-priv.h"

#include <string.h>

#define WAIT_FOR_OTHERS (5 * NS_PER_SEC)

static void listed_as(char ret[HV_NAME_MAX], const char *name, const char *suffix)
{
    (void)snprintf(ret, HV_NAME_MAX, "%.*s%s", PROC_GUEST_NAME_MAX, name, suffix);
}

static bool is_text(const json_t *json, const char *key, const char *value)
{
    const char *text = json_string_value(json_object_get(json, key));

    return text && strcmp(text, value) == 0;
}

/* The guest that is listed as `name` and `suffix`, when it is the one that is meant (`uuid` NULL: any). -ENOENT: it is not. It may have
 * changed its name since it was asked: what a mover that died had told it before is done first. */
static int look(const char *name, const char *suffix, const char *uuid, json_t **ret, struct err *err)
{
    char listed[HV_NAME_MAX];
    int r;

    listed_as(listed, name, suffix);
    r = proc_guest_describe(listed, ret, err);
    if (r == -ECONNRESET) /* it ended while it was asked */
        return err_set(err, -ENOENT, "guest '%s' has just ended", listed);
    if (r < 0)
        return r;
    if (is_text(*ret, "name", listed) && is_text(*ret, "own_name", name) && (!uuid || is_text(*ret, "uuid", uuid)))
        return 0;
    json_decref(*ret);
    *ret = NULL;
    return err_set(err, -ENOENT, "the guest that is listed as '%s' here is another one", listed);
}

/* As look, once nobody moves it any more. */
static int look_at_rest(const char *name, const char *suffix, const char *uuid, json_t **ret, struct err *err)
{
    uint64_t end = clock_now() + WAIT_FOR_OTHERS;

    for (;;) {
        int r = look(name, suffix, uuid, ret, err);

        if (r < 0 || !json_is_true(json_object_get(*ret, "moving")))
            return r;
        json_decref(*ret);
        *ret = NULL;
        if (clock_now() >= end)
            return err_set(err, -EBUSY, "guest '%s%s' is being moved by another process", name, suffix);
        clock_sleep(20 * NS_PER_MS);
    }
}

/* *ret: whether it is there; *ret_state (may be NULL) is its state then. */
static int is_there(const char *name, const char *suffix, const char *uuid, bool *ret, char ret_state[20],
                    struct err *err)
{
    json_t *guest = NULL;
    int r = look_at_rest(name, suffix, uuid, &guest, err);

    *ret = r == 0;
    if (r == 0 && ret_state)
        (void)snprintf(ret_state, 20, "%s", json_string_value(json_object_get(guest, "state")) ?: "");
    json_decref(guest);
    return r == -ENOENT ? 0 : r;
}

/* In the order in which it changes its name. */
static int find_once(struct hv_found *ret, const char *name, const char *uuid, struct err *err)
{
    char state[20] = "";
    bool here = false;
    int r = is_there(name, PROC_INCOMING, uuid, &ret->incoming, NULL, err);

    if (r == 0)
        r = is_there(name, "", uuid, &here, state, err);
    if (r == 0)
        r = is_there(name, PROC_MOVED, uuid, &ret->aside, NULL, err);
    ret->still = here && strcmp(state, proc_state_name(PROC_SUSPENDED)) == 0;
    ret->running = here && !ret->still;
    return r;
}

/* One that took its own name back while it was looked for is found the second time: nobody tells it anything more. */
static int proc_find(struct hv_found *ret, const char *name, const char *uuid, struct err *err)
{
    int r = find_once(ret, name, uuid, err);

    return r < 0 || ret->running || ret->still || ret->aside || ret->incoming ? r : find_once(ret, name, uuid, err);
}

static int command_at(const char *name, const char *suffix, const char *command, struct err *err)
{
    CLEANUP_CLOSE int sock = -1;
    char listed[HV_NAME_MAX];
    int r;

    listed_as(listed, name, suffix);
    r = proc_name_connect(listed, &sock, err);
    return r < 0 ? r : proc_client_call(sock, json_pack("{s:s, s:s}", "command", command, "listed", listed), NULL, NULL, err);
}

static int proc_resume(const char *name, const char *uuid, struct err *err)
{
    struct hv_found found = {0};
    int r = proc_find(&found, name, uuid, err);

    if (r < 0)
        return r;
    if (found.running || found.still)
        return command_at(name, "", "resume", err);
    if (found.aside)
        return command_at(name, PROC_MOVED, "resume", err);
    return err_set(err, -ENOENT, "the guest '%s' is not at this host", name);
}

static int proc_destroy_aside(const char *name, const char *uuid, struct err *err)
{
    char state[20] = "";
    bool there = false;
    int r = is_there(name, PROC_MOVED, uuid, &there, state, err);

    if (r < 0 || !there)
        return r;
    if (strcmp(state, proc_state_name(PROC_SET_ASIDE)) != 0)
        return err_set(err, -EBUSY, "guest '%s" PROC_MOVED "' is %s: it is not destroyed", name, state);
    return command_at(name, PROC_MOVED, "destroy", err);
}

/* It ends by itself when its receiver is gone, perhaps just now; whatever its name is, as long as it has not run. */
static int proc_destroy_incoming(const char *name, const char *uuid, struct err *err)
{
    bool there = false;
    int r = is_there(name, PROC_INCOMING, uuid, &there, NULL, err);

    if (r == 0 && there)
        r = command_at(name, PROC_INCOMING, "destroy", err);
    return r == -ENOENT || r == -ECONNRESET ? 0 : r;
}

static int check_absent(const char *name, struct err *err)
{
    static const char *const suffixes[] = {"", PROC_MOVED, PROC_INCOMING};
    char listed[HV_NAME_MAX];

    for (int i = 0; i < 3; i++) {
        int sock;

        listed_as(listed, name, suffixes[i]);
        if (proc_name_connect(listed, &sock, NULL) < 0)
            continue;
        (void)close(sock);
        return err_set(err, -EEXIST, "an embedded guest '%s' is here", listed);
    }
    return 0;
}

static int proc_start(const char *name, const json_t *config, const char *const *disk_paths,
                      unsigned int disk_count, struct err *err)
{
    struct proc_link link;
    json_t *paths;
    int r = proc_name_check(name, err);

    if (r == 0)
        r = check_absent(name, err);
    if (r < 0)
        return r;
    proc_link_init(&link);
    r = proc_link_spawn(&link, err);
    paths = json_array();
    for (unsigned int i = 0; i < disk_count; i++)
        (void)json_array_append_new(paths, json_string(disk_paths[i]));
    if (r == 0)
        r = proc_client_call(link.sock, json_pack("{s:s, s:s, s:O, s:O}", "command", "start", "name", name, "config",
                                                  config, "paths", paths), NULL, NULL, err);
    json_decref(paths);
    proc_link_finish(&link);
    return r < 0 ? err_prefix(err, r, "starting guest '%s' anew", name) : 0;
}

/* It ended with the connection of who asked for it. */
static int proc_unthrottle(const char *name, const char *uuid, struct err *err)
{
    struct hv_found found = {0};
    int r = proc_find(&found, name, uuid, err);

    if (r == 0 && !found.running && !found.still && !found.aside)
        r = err_set(err, -ENOENT, "the guest '%s' is not at this host", name);
    return r;
}

const struct hv_recover_ops hv_recover_proc = {
    .find = proc_find,
    .resume = proc_resume,
    .destroy_aside = proc_destroy_aside,
    .destroy_incoming = proc_destroy_incoming,
    .start = proc_start,
    .unthrottle = proc_unthrottle,
};
