/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A journal in the state folder, torn or written by another hand: it is refused, or all in it is what recovery may rely on, and
 * reads the same when it is written again. The first octet: 1 of an incoming migration, else of an outgoing one.
 * fuzz: -max_len=8192 */
#include "fuzz-json.h"

#include "base/fdio.h"

static int fake_read(const char *path, size_t max, char **ret, size_t *ret_len);
#define file_read fake_read
#include "session/journal.c"

#define SESSION "0123456789abcdef0123456789abcdef"

static const char *text;
static size_t text_length;

static int fake_read(const char *path, size_t max, char **ret, size_t *ret_len)
{
    *ret = malloc(text_length + 1);
    CHECK(*ret);
    memcpy(*ret, text, text_length);
    (*ret)[text_length] = '\0';
    return 0;
}

static void check_text(const char *member, size_t size)
{
    CHECK(strnlen(member, size) < size);
}

static void check(const struct journal_entry *e)
{
    CHECK(strcmp(e->session, SESSION) == 0 && e->volume_count <= HV_DISKS_MAX && (!e->guest || json_is_object(e->guest)));
    CHECK(e->phase >= 0 && e->phase < (e->side == JOURNAL_OUTGOING ? (int)OUTGOING_PHASE_COUNT : (int)INCOMING_PHASE_COUNT));
    check_text(e->boot, sizeof(e->boot));
    check_text(e->peer, sizeof(e->peer));
    check_text(e->name, sizeof(e->name));
    check_text(e->kind, sizeof(e->kind));
    check_text(e->uuid, sizeof(e->uuid));
    for (unsigned int i = 0; i < e->volume_count; i++) {
        check_text(e->volumes[i].path, sizeof(e->volumes[i].path));
        CHECK(e->volumes[i].kind <= VOLUME_EXISTING && e->volumes[i].size <= INT64_MAX);
    }
}

static void check_again(const struct journal_entry *e)
{
    static struct journal_entry again;
    struct err err = {0};
    json_t *json = entry_to_json(e, &err);
    char *written = json ? json_dumps(json, JSON_INDENT(1)) : NULL;

    CHECK(written);
    text = written;
    text_length = strlen(written);
    CHECK(journal_load("/var/lib/xmotion", e->side, SESSION, &again, &err) == 0);
    CHECK(again.phase == e->phase && again.volume_count == e->volume_count && again.reconnect_s == e->reconnect_s);
    journal_entry_finish(&again);
    free(written);
    json_decref(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct journal_entry e;
    struct err err = {0};

    if (size < 2)
        return 0;
    text = (const char *)data + 1;
    text_length = size - 1;
    if (journal_load("/var/lib/xmotion", data[0] & 1 ? JOURNAL_INCOMING : JOURNAL_OUTGOING, SESSION, &e, &err) == 0) {
        check(&e);
        check_again(&e);
        journal_entry_finish(&e);
    } else {
        CHECK(err.code == -EBADMSG && *err.text && !e.guest);
    }
    return 0;
}
