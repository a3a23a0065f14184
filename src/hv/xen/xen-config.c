/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a guest of this host is: for struct hv_guest, and for the host that shall build it again. */
#include "hv/xen/xen-agent.h"

#include "base/bytes.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Domains may get more RAM than they have now, and special pages lie below 4 GiB, whatever the
 * size. */
#define SPECIAL_PAGES_END (GIB(4) >> 12)

int xen_name_check(const char *name, struct err *err)
{
    size_t length = strlen(name), suffix = strlen(INCOMING_SUFFIX);
    bool digits = true;

    if (!length || length > 100)
        return err_set(err, -EINVAL, "a domain's name has 1 to 100 characters, not %zu", length);
    for (const char *c = name; *c; c++) {
        if (!isalnum((unsigned char)*c) && !strchr("._+-", *c))
            return err_set(err, -EINVAL, "a domain's name is made of letters, digits and \"._+-\"");
        digits = digits && isdigit((unsigned char)*c);
    }
    if (digits || name[0] == '-' || name[0] == '.')
        return err_set(err, -EINVAL, "\"%s\" is no name for a domain", name);
    if (length >= suffix && !strcmp(name + length - suffix, INCOMING_SUFFIX))
        return err_set(err, -EINVAL, "\"%s\" is the name of a guest that is still moving here",
                       name);
    return 0;
}

/* The names of all domains but dom0, for who mistyped one. */
static void list_names(struct agent *a, char *text, size_t size)
{
    int count = 0;
    libxl_dominfo *list = libxl_list_domain(a->ctx, &count);
    size_t used = 0;

    text[0] = '\0';
    for (int i = 0; list && i < count; i++) {
        char *name = list[i].domid ? libxl_domid_to_name(a->ctx, list[i].domid) : NULL;

        if (name && used < size)
            used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "", name);
        free(name);
    }
    if (list)
        libxl_dominfo_list_free(list, count);
}

static bool strip_suffix(char *name, const char *suffix)
{
    size_t length = strlen(name), cut = strlen(suffix);

    if (length <= cut || strcmp(name + length - cut, suffix))
        return false;
    name[length - cut] = '\0';
    return true;
}

static int find_domain(struct agent *a, const char *guest, struct err *err)
{
    char names[300], *name;
    uint32_t domid;

    if (libxl_domain_qualifier_to_domid(a->ctx, guest, &domid)) {
        list_names(a, names, sizeof(names));
        return err_set(err, -ENOENT, "no domain \"%.100s\" here; there is %s", guest,
                       names[0] ? names : "none");
    }
    name = domid ? libxl_domid_to_name(a->ctx, domid) : NULL;
    if (!name)
        return err_set(err, -ENOENT, "no domain \"%.100s\" that can be moved", guest);
    (void)snprintf(a->name, sizeof(a->name), "%s", name);
    a->domid = domid;
    free(name);
    a->aside = strip_suffix(
        a->name, MOVED_SUFFIX); /* what a migration left: it can be resumed or destroyed */
    return xen_name_check(a->name, err);
}

void xen_look_aside(struct agent *a)
{
    char *name = libxl_domid_to_name(a->ctx, a->domid);

    a->aside = name && strip_suffix(name, MOVED_SUFFIX);
    free(name);
}

int xen_config_get(struct agent *a, libxl_domain_config *ret, struct err *err)
{
    int rc;

    libxl_domain_config_init(ret);
    libxl_complaint_clear();
    rc = libxl_retrieve_domain_configuration(a->ctx, a->domid, ret, NULL);
    if (!rc)
        return 0;
    libxl_domain_config_dispose(ret);
    return err_libxl(err, -EIO, rc, "reading the domain's configuration");
}

/* What travels: libxl's JSON as text (its numbers need not fit another reader's), and what the
 * target compares. */
static int pack_config(struct agent *a, json_t **ret, libxl_domain_type *ret_type, struct err *err)
{
    const libxl_version_info *version = libxl_get_version_info(a->ctx);
    libxl_domain_config config;
    json_t *cpu = NULL;
    char *text;
    int rc = xen_config_get(a, &config, err);

    if (rc)
        return rc;
    text = libxl_domain_config_to_json(a->ctx, &config);
    *ret_type = config.c_info.type; /* libxl_dominfo takes PVH for HVM */
    libxl_domain_config_dispose(&config);
    if (!text || !version) {
        free(text);
        return err_set(err, -ENOMEM, "the domain's configuration cannot be written");
    }
    rc = xen_cpu_get(a, &cpu, err);
    if (!rc)
        *ret =
            json_pack("{s:s,s:i,s:i,s:o}", "libxl", text, "xen_major", version->xen_version_major,
                      "xen_minor", version->xen_version_minor, "cpu", cpu);
    free(text);
    return rc ? rc : *ret ? 0 : err_set(err, -EINVAL, "the domain's configuration is no text");
}

int xen_config_parse(struct agent *a, const json_t *packed, libxl_domain_config *ret,
                     struct err *err)
{
    const char *text = json_string_value(json_object_get(packed, "libxl"));

    if (!text)
        return err_set(err, -EPROTO, "the guest comes without a configuration");
    libxl_domain_config_init(ret);
    libxl_complaint_clear();
    if (!libxl_domain_config_from_json(a->ctx, ret, text))
        return 0;
    libxl_domain_config_dispose(ret);
    return err_set(err, -EPROTO, "the guest's configuration is not understood: %s",
                   libxl_complaint());
}

static const char *kind_of(libxl_domain_type type)
{
    switch (type) {
    case LIBXL_DOMAIN_TYPE_PV:
        return "xen-pv";
    case LIBXL_DOMAIN_TYPE_PVH:
        return "xen-pvh";
    default:
        return "xen-hvm";
    }
}

static uint64_t largest_pfn(struct agent *a, const libxl_dominfo *info)
{
    uint64_t most = MAX(info->max_memkb, info->current_memkb) / 4 + SPECIAL_PAGES_END;
    xen_pfn_t now;

    if (!xc_domain_maximum_gpfn(a->xch, a->domid, &now))
        most = MAX(most, (uint64_t)now);
    return most;
}

static void uuid_text(const libxl_uuid *uuid, char text[40])
{
    (void)snprintf(text, 40, LIBXL_UUID_FMT, LIBXL_UUID_BYTES(*uuid));
}

int xen_describe(struct agent *a, const char *guest, json_t **ret, struct err *err)
{
    json_t *config = NULL, *disks = NULL;
    libxl_domain_type type;
    libxl_dominfo info;
    char uuid[40];
    int rc = find_domain(a, guest, err);

    if (!rc)
        rc = xen_domain_info(a, &info, err);
    if (rc)
        return rc;
    uuid_text(&info.uuid, uuid);
    rc = xen_disks(a, &disks, err);
    if (!rc)
        rc = pack_config(a, &config, &type, err);
    if (!rc)
        *ret = json_pack("{s:s,s:s,s:s,s:I,s:I,s:O,s:O}", "kind", kind_of(type), "name", a->name,
                         "uuid", uuid, "memory", (json_int_t)(info.current_memkb * 1024), "max_pfn",
                         (json_int_t)largest_pfn(a, &info), "disks", disks, "config", config);
    libxl_dominfo_dispose(&info);
    json_decref(disks);
    json_decref(config);
    return rc;
}
