/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What another program says at the socket of a migration (xmotion list, xmotion cancel, or anybody who may open it), and what
 * such a socket answers to them. The first octet: 1 an answer, else a request. */
#include "fuzz-json.h"

/* No folder and no socket: the message is the input. */
#include "hv/agent.h"

static int fake_recv(int sock, int timeout_ms, json_t **ret, int *ret_fd, struct err *err);
static int fake_send(int sock, const json_t *message, int fd, struct err *err);
#define agent_recv fake_recv
#define agent_send fake_send
#include "session/job.c"

static json_t *request;

static int fake_recv(int sock, int timeout_ms, json_t **ret, int *ret_fd, struct err *err)
{
    *ret = json_incref(request);
    return 0;
}

static int fake_send(int sock, const json_t *message, int fd, struct err *err)
{
    CHECK(json_is_object(message));
    return 0;
}

static json_t *status(void *data)
{
    return json_pack("{s:s}", "id", "0123456789abcdef");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct search s = {.what = "0123"};
    struct job j = {.status = status};

    request = size > 1 ? fuzz_load(data + 1, size - 1) : NULL;
    if (json_is_object(request) && data[0] & 1) {
        CHECK(find_job("/run/xmotion/jobs/1", request, &s) == 0 && find_job("/run/xmotion/jobs/2", request, &s) == 0);
        CHECK(!s.path[0] || !strcmp(s.path, "/run/xmotion/jobs/1"));
    } else if (json_is_object(request)) {
        serve(&j, -1);
        CHECK(!j.cancelled || !strcmp(json_string_value(json_object_get(request, "cmd")), "cancel"));
    }
    json_decref(request);
    return 0;
}
