/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The configuration of a Xen guest from a peer, as libxl's JSON: what the target's root would do with it. No Xen is needed: libxl's
 * types work without, and what asks the hypervisor is answered here. The input is the JSON that xmotion-xen gets with
 * "target-check" or "restore" (the first octet: 1; 3: with "start"), but for libxl's part, which is an object here and becomes the text that it is
 * on the way.
 * libs: xenlight xencontrol xenstore xentoollog xenguest
 * fuzz: -max_len=8192 */
#include "fuzz-json.h"

#include <libxl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xenctrl.h>
#include <xenguest.h>
#include <xenstore.h>

static int fake_access(const char *path, int mode);
static int fake_stat(const char *path, struct stat *st);
#define access(path, mode) fake_access(path, mode)
#define stat(path, st)     fake_stat(path, st)
#include "hv/xen/xen-check-target.c"
#include "hv/xen/xen-config.c"
#include "hv/xen/xen-cpu.c"
#include "hv/xen/xen-guard.c"

static bool parsed; /* there is something to dispose of */

static int noted_parse(struct agent *a, const json_t *packed, libxl_domain_config *ret, struct err *err)
{
    int r = xen_config_parse(a, packed, ret, err);

    parsed = r == 0;
    return r;
}

#define xen_config_parse noted_parse
#include "hv/xen/xen-restore.c"
#undef access
#undef stat

static char handle[1024];

static int fake_access(const char *path, int mode)
{
    return 0;
}

static int fake_stat(const char *path, struct stat *st)
{
    memset(st, 0, sizeof(*st));
    st->st_mode = S_IFREG;
    return 0;
}

xc_interface *xc_interface_open(xentoollog_logger *logger, xentoollog_logger *other, unsigned int flags)
{
    return (xc_interface *)(void *)handle;
}

int xc_interface_close(xc_interface *xch)
{
    return 0;
}

struct xs_handle *xs_open(unsigned long flags)
{
    return (struct xs_handle *)(void *)handle;
}

void xs_close(struct xs_handle *xs)
{
}

int xc_get_cpu_featureset(xc_interface *xch, uint32_t index, uint32_t *count, uint32_t *features)
{
    *count = 8;
    memset(features, 0xff, 8 * sizeof(*features));
    return 0;
}

const libxl_version_info *libxl_get_version_info(libxl_ctx *ctx)
{
    static const libxl_version_info here = {.xen_version_major = 4, .xen_version_minor = 17};

    return &here;
}

int libxl_name_to_domid(libxl_ctx *ctx, const char *name, uint32_t *domid)
{
    return ERROR_INVAL;
}

libxl_dominfo *libxl_list_domain(libxl_ctx *ctx, int *count)
{
    *count = 0;
    return NULL;
}

int libxl_get_physinfo(libxl_ctx *ctx, libxl_physinfo *info)
{
    info->cap_hvm = info->cap_pv = true;
    return 0;
}

/* What of the agent's other files is asked for. */
static char complaint[300];

const char *libxl_complaint(void)
{
    return complaint;
}

void libxl_complaint_clear(void)
{
    complaint[0] = '\0';
}

int err_libxl(struct err *err, int code, int rc, const char *what)
{
    return err_set(err, code, "%s", what);
}

int xen_memory_check(struct agent *a, libxl_domain_config *config, struct err *err)
{
    return 0;
}

int xen_memory_free(struct agent *a, libxl_domain_config *config, struct err *err)
{
    return 0;
}

void xen_scripts_replace(libxl_domain_config *config)
{
}

/* Never reached by what is called here. */
void xen_scripts_restore(struct agent *a) { abort(); }
void log_line(const char *format, ...) { abort(); }
void agent_log_open(const char *name) { abort(); }
void agent_event(struct agent *a, json_t *event) { abort(); }
void operation_begin(struct operation *op) { abort(); }
int operation_wait(struct agent *a, struct operation *op, int timeout_ms) { abort(); }
int xen_domain_info(struct agent *a, libxl_dominfo *ret, struct err *err) { abort(); }
int xen_disks(struct agent *a, json_t **ret, struct err *err) { abort(); }
int xen_lock_take(struct agent *a, int wait_ms, struct err *err) { abort(); }

static void __attribute__((format(printf, 5, 0)))
complain(xentoollog_logger *logger, xentoollog_level level, int number, const char *context, const char *format, va_list al)
{
    (void)vsnprintf(complaint, sizeof(complaint), format, al);
}

static void no_progress(xentoollog_logger *logger, const char *context, const char *what, int percent, unsigned long done,
                        unsigned long total)
{
}

static void no_destroy(xentoollog_logger *logger)
{
}

static struct agent *agent(void)
{
    static xentoollog_logger logger = {complain, no_progress, no_destroy};
    static struct agent a;

    if (!a.ctx)
        CHECK(libxl_ctx_alloc(&a.ctx, LIBXL_VERSION, 0, &logger) == 0);
    return &a;
}

/* A file of the folder, whatever the rest of its name is. */
static bool is_in_script_folder(const char *script)
{
    static const char folder[] = "/etc/xen/scripts/";

    if (!script || !*script)
        return true;
    if (!strncmp(script, folder, strlen(folder)))
        script += strlen(folder);
    return !strchr(script, '/') && script[0] != '.';
}

/* Independent of how the guard comes to its word: what has passed names nothing of this host to root. */
static void check_harmless(const libxl_domain_config *c, bool incoming)
{
    const libxl_domain_build_info *b = &c->b_info;

    CHECK(!c->num_pcidevs && !c->num_usbdevs && !c->num_dtdevs && !c->num_p9s && !c->num_channels && !c->num_vtpms);
    CHECK(!b->num_ioports && !b->num_irqs && !b->num_iomem && !b->device_model && !b->device_model_user);
    CHECK(!b->bootloader || !b->bootloader[0] || !strcmp(b->bootloader, "pygrub"));
    CHECK(!b->bootloader_args || !b->bootloader_args[0]);
    CHECK(!b->extra || !b->extra[0]);
    CHECK(c->c_info.type == b->type);
    for (int i = 0; i < c->num_disks; i++)
        CHECK(!c->disks[i].backend_domname && (!c->disks[i].script || !strchr(c->disks[i].script, '/')));
    for (int i = 0; i < c->num_nics; i++)
        CHECK(is_in_script_folder(c->nics[i].script));
    CHECK(c->c_info.name && !strstr(c->c_info.name, INCOMING_SUFFIX) == !incoming && !strchr(c->c_info.name, '/'));
}

/* libxl's part travels as a text. */
static void pack(json_t *request)
{
    json_t *config = json_object_get(request, "config"), *libxl = json_object_get(config, "libxl");
    char *text = json_is_object(libxl) ? json_dumps(libxl, JSON_COMPACT) : NULL;

    if (text)
        (void)json_object_set_new(config, "libxl", json_string(text));
    free(text);
}

static void check_target(struct agent *a, const json_t *request)
{
    json_t *warnings = NULL;
    struct err err = {0};
    int r = xen_check_target(a, request, &warnings, &err);

    CHECK(r == 0 ? json_is_array(warnings) : err.code == r && *err.text);
    json_decref(warnings);
}

static void adopt(struct agent *a, const json_t *request, bool incoming)
{
    struct err err = {0};
    int r;

    parsed = false;
    r = xen_adopt_config(a, request, incoming, &err);
    CHECK(r == 0 || (err.code == r && *err.text));
    if (r == 0)
        check_harmless(&a->config, incoming);
    if (parsed)
        libxl_domain_config_dispose(&a->config);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *request = size > 1 ? fuzz_load(data + 1, size - 1) : NULL;

    if (json_is_object(request)) {
        pack(request);
        if (data[0] & 1)
            adopt(agent(), request, !(data[0] & 2));
        else
            check_target(agent(), request);
    }
    json_decref(request);
    return 0;
}
