/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the target must know to get ready. */
#include "session/source-priv.h"

#include "base/clock.h"

#include <string.h>

static json_t *targets(const struct source *s)
{
    json_t *all = json_object();

    for (unsigned int i = 0; i < s->config->map_count; i++)
        json_object_set_new(all, s->config->maps[i].vbd, json_string(s->config->maps[i].path));
    return all;
}

static bool is_reused(const struct source *s, const char *vbd)
{
    for (unsigned int i = 0; i < s->config->map_count; i++) {
        if (s->config->maps[i].reuse && strcmp(s->config->maps[i].vbd, vbd) == 0)
            return true;
    }
    return s->config->reuse;
}

bool source_reuses(const struct source *s, unsigned int disk)
{
    return is_reused(s, s->guest->disks[disk].vbd);
}

json_t *source_prepare_message(struct source *s)
{
    json_t *reuse = json_array();

    for (unsigned int i = 0; i < s->guest->disk_count; i++) {
        if (source_reuses(s, i))
            json_array_append_new(reuse, json_string(s->guest->disks[i].vbd));
    }
    return json_pack("{s:o, s:o, s:o, s:b, s:I, s:s*}", "guest", hv_guest_to_json(s->guest), "targets", targets(s), "reuse",
                     reuse, "verify", (int)s->config->verify, "reconnect_s",
                     (json_int_t)(s->config->reconnect_ns / NS_PER_SEC), "sr", s->config->sr);
}
