/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Xen: each call is one agent and one request to it; the agent stays as the monitor of a guest that it let run. */
#include "hv/hv-recover-priv.h"

#include "hv/hv-xen-link.h"

/* The agent waits a minute for another one to end, libxl two for a domain's death. */
#define ANSWER_MS 200000

/* Takes `request` over. *ret may be NULL; the caller frees it. */
static int ask(json_t *request, json_t **ret, struct err *err)
{
    struct agent_link link;
    int rc = agent_link_open(&link, err);

    if (rc) {
        json_decref(request);
        return rc;
    }
    rc = agent_link_ask(&link, request, -1, ANSWER_MS, ret, err);
    agent_link_close(&link);
    return rc;
}

static json_t *request_for(const char *what, const char *name, const char *uuid)
{
    return json_pack("{s:s, s:s, s:s*}", "do", what, "name", name, "uuid", uuid);
}

static int xen_find(struct hv_found *ret, const char *name, const char *uuid, struct err *err)
{
    json_t *answer = NULL;
    int rc = ask(request_for("recover-find", name, uuid), &answer, err);

    if (!rc) {
        ret->running = json_is_true(json_object_get(answer, "running"));
        ret->still = json_is_true(json_object_get(answer, "still"));
        ret->aside = json_is_true(json_object_get(answer, "aside"));
        ret->incoming = json_is_true(json_object_get(answer, "incoming"));
    }
    json_decref(answer);
    return rc;
}

static int xen_resume(const char *name, const char *uuid, struct err *err)
{
    return ask(request_for("recover-resume", name, uuid), NULL, err);
}

static int xen_destroy_aside(const char *name, const char *uuid, struct err *err)
{
    return ask(request_for("recover-destroy-aside", name, uuid), NULL, err);
}

static int xen_destroy_incoming(const char *name, const char *uuid, struct err *err)
{
    return ask(request_for("destroy-left", name, uuid), NULL, err);
}

static int xen_start(const char *name, const json_t *config, const char *const *disk_paths,
                     unsigned int disk_count, struct err *err)
{
    json_t *request = request_for("recover-start", name, NULL), *paths = json_array();

    for (unsigned int i = 0; i < disk_count; i++)
        (void)json_array_append_new(paths, json_string(disk_paths[i]));
    (void)json_object_set(request, "config", (json_t *)(uintptr_t)config);
    (void)json_object_set_new(request, "paths", paths);
    return ask(request, NULL, err);
}

static int xen_unthrottle(const char *name, const char *uuid, struct err *err)
{
    return ask(request_for("recover-unthrottle", name, uuid), NULL, err);
}

const struct hv_recover_ops hv_recover_xen = {
    .find = xen_find,
    .resume = xen_resume,
    .destroy_aside = xen_destroy_aside,
    .destroy_incoming = xen_destroy_incoming,
    .start = xen_start,
    .unthrottle = xen_unthrottle,
};
