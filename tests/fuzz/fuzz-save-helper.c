/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The save helper between libxl and the controller: the controller's answers to it, and what it tells the agent. The first octet: 1 the
 * helper listens (anything but an answer ends the save), else the agent.
 * libs: xenlight xencontrol xenstore xentoollog xenguest */
#include "fuzz-json.h"

#include "hv/agent.h"

#include <libxl.h>
#include <xenctrl.h>
#include <xenguest.h>
#include <xenstore.h>

static int fake_recv(json_t **ret);
static int fake_send(const json_t *message);
#define agent_recv(sock, timeout, ret, fd, err) fake_recv(ret)
#define agent_send(sock, message, fd, err)      fake_send(message)
#define main                                    helper_main
#include "hv/xen/save-helper.c"
#undef main
#include "hv/xen/xen-save.c"
#undef agent_recv
#undef agent_send

static json_t *message_there;

static int fake_recv(json_t **ret)
{
    *ret = message_there ? json_incref(message_there) : NULL;
    return message_there ? 0 : -EPROTO;
}

static int fake_send(const json_t *message)
{
    CHECK(json_is_object(message));
    return 0;
}

void agent_event(struct agent *a, json_t *event)
{
    CHECK(json_is_object(event));
    json_decref(event);
}

/* Never reached by what is called here. */
const char *libxl_complaint(void) { abort(); }
void libxl_complaint_clear(void) { abort(); }
int err_libxl(struct err *err, int code, int rc, const char *what) { abort(); }
void log_line(const char *format, ...) { abort(); }
void operation_begin(struct operation *op) { abort(); }
int operation_wait(struct agent *a, struct operation *op, int timeout_ms) { abort(); }
int xen_domain_info(struct agent *a, libxl_dominfo *ret, struct err *err) { abort(); }
bool xen_monitor_exists(const struct agent *a) { abort(); }
int xen_sibling(const char *program, char *path, size_t size) { abort(); }
void page_types_begin(xc_interface *xch, uint32_t id) { abort(); }
uint64_t page_types_spared(void) { abort(); }
void suspend_ack_begin(uint32_t id) { abort(); }
uint64_t suspend_ack_end(void) { abort(); }
void save_message_log(uint32_t level, int errnum, const char *context, const char *text) { abort(); }
int save_message_suspend(int gone) { abort(); }
int save_message_switch_qemu_logdirty(uint32_t id, unsigned int enable, int gone) { abort(); }
int save_message_complete(int retval, int errnum, int gone) { abort(); }
bool save_message_libxl_gone(void) { abort(); }

static void agent_hears(void)
{
    struct agent a = {.control = 1, .helper = 2, .helper_end = -1};

    xen_save_helper_says(&a);
    if (a.policy_asked)
        CHECK(xen_policy_answer(&a, 0) == 0);
    CHECK(!a.policy_asked && a.helper == 2 && xen_policy_answer(&a, 0) == -EINVAL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int answer;

    message_there = size > 1 ? fuzz_load(data + 1, size - 1) : NULL;
    if (!size || data[0] & 1) {
        answer = controller_answer();
        CHECK(answer == XGS_POLICY_ABORT || answer == XGS_POLICY_CONTINUE_PRECOPY || answer == XGS_POLICY_STOP_AND_COPY);
    } else if (json_is_object(message_there)) {
        agent_hears();
    }
    json_decref(message_there);
    return 0;
}
