/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a receiver finds of an earlier one: every entry whole, and nothing that is not its own. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "session/journal.h"

#include "temp-dir.h"

#define SESSION "0123456789abcdef0123456789abcdef"
#define OTHER   "fedcba9876543210fedcba9876543210"

static struct err err;
static unsigned int found, logged;
static struct journal_entry last;
static bool last_has_guest;

static void note(const struct journal_entry *e, void *data)
{
    ck_assert_ptr_eq(data, &found);
    found++;
    last = *e;
    last.guest = NULL;
    last_has_guest = e->guest != NULL;
}

static void note_log(enum log_level level, const char *line)
{
    logged += level == LOG_WARN && strstr(line, "left alone") != NULL;
}

static unsigned int find_all(enum journal_side side)
{
    unsigned int torn;

    found = logged = 0;
    log_set_sink(note_log);
    ck_assert_msg(journal_each(temp_dir, side, note, &found, &torn, &err) == 0, "%s", err.text);
    ck_assert_uint_eq(torn, logged);
    return found;
}

static void begin(struct journal *j, const char *session, unsigned int volumes)
{
    struct journal_entry *e = &j->entry;

    ck_assert_msg(journal_open(j, temp_dir, JOURNAL_INCOMING, session, &err) == 0, "%s", err.text);
    e->volume_count = volumes;
    strcpy(e->name, "web \"1\" \xc3\xa9");
    strcpy(e->kind, "xen-pvh");
    strcpy(e->uuid, "7a2e4a52-9d4f-4b7e-b3b5-0d7e5f3c1a11");
    strcpy(e->peer, "SHA256:0123");
    e->reconnect_s = 600;
    e->verify = true;
    e->reused = UINT64_C(1) << 63 | 5;
    e->guest = json_pack("{s:{s:i}}", "config", "x", 5);
    for (unsigned int i = 0; i < volumes; i++) {
        e->volumes[i].kind = (enum volume_kind)(i % 3);
        e->volumes[i].size = MIB(1) + i * UINT64_C(512);
        (void)snprintf(e->volumes[i].path, sizeof(e->volumes[i].path), "/srv/a b/\"%u\"", i);
    }
}

static void write_entry(struct journal *j)
{
    ck_assert_msg(journal_write(j, &err) == 0, "%s", err.text);
}

static void check_last(const struct journal_entry *e)
{
    ck_assert_str_eq(last.session, e->session);
    ck_assert_str_eq(last.boot, e->boot);
    ck_assert_str_eq(last.peer, e->peer);
    ck_assert_str_eq(last.name, e->name);
    ck_assert_str_eq(last.kind, e->kind);
    ck_assert_str_eq(last.uuid, e->uuid);
    ck_assert_int_eq(last.phase, e->phase);
    ck_assert_uint_eq(last.reconnect_s, e->reconnect_s);
    ck_assert(last.verify == e->verify && last.reused == e->reused);
    ck_assert(last_has_guest);
    ck_assert_uint_eq(last.volume_count, e->volume_count);
    for (unsigned int i = 0; i < e->volume_count; i++) {
        ck_assert_int_eq(last.volumes[i].kind, e->volumes[i].kind);
        ck_assert_str_eq(last.volumes[i].path, e->volumes[i].path);
        ck_assert_uint_eq(last.volumes[i].size, e->volumes[i].size);
    }
}

START_TEST(nothing_was_left)
{
    struct journal_entry e;

    temp_dir_make();
    ck_assert_uint_eq(find_all(JOURNAL_INCOMING), 0);
    ck_assert_uint_eq(find_all(JOURNAL_OUTGOING), 0);
    ck_assert_int_eq(journal_load(temp_dir, JOURNAL_INCOMING, SESSION, &e, &err), -ENOENT);
    temp_dir_remove();
}
END_TEST

START_TEST(entry_comes_back_whole)
{
    static const unsigned int counts[] = {0, 1, 3, HV_DISKS_MAX};
    static struct journal j;

    temp_dir_make();
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        begin(&j, SESSION, counts[i]);
        j.entry.phase = (int)(i % INCOMING_PHASE_COUNT);
        write_entry(&j);
        ck_assert_uint_eq(find_all(JOURNAL_INCOMING), 1);
        check_last(&j.entry);
        ck_assert_uint_eq(find_all(JOURNAL_OUTGOING), 0);
        journal_close(&j);
    }
    temp_dir_remove();
}
END_TEST

START_TEST(longest_paths_fit)
{
    static struct journal j;

    temp_dir_make();
    begin(&j, SESSION, HV_DISKS_MAX);
    for (unsigned int i = 0; i < HV_DISKS_MAX; i++) {
        memset(j.entry.volumes[i].path, 'a', VOLUME_PATH_MAX - 1);
        j.entry.volumes[i].path[VOLUME_PATH_MAX - 1] = '\0';
    }
    write_entry(&j);
    ck_assert_uint_eq(find_all(JOURNAL_INCOMING), 1);
    check_last(&j.entry);
    journal_close(&j);
    temp_dir_remove();
}
END_TEST

START_TEST(phases_advance)
{
    static struct journal j;

    temp_dir_make();
    begin(&j, SESSION, 1);
    write_entry(&j);
    for (int phase = 0; phase < INCOMING_PHASE_COUNT; phase++) {
        ck_assert_int_eq(journal_advance(&j, phase, &err), 0);
        ck_assert_uint_eq(find_all(JOURNAL_INCOMING), 1);
        ck_assert_int_eq(last.phase, phase);
    }
    journal_close(&j);
    temp_dir_remove();
}
END_TEST

START_TEST(entries_are_removed_one_by_one)
{
    static struct journal one, other;

    temp_dir_make();
    begin(&one, SESSION, 1);
    begin(&other, OTHER, 2);
    write_entry(&one);
    write_entry(&other);
    ck_assert_uint_eq(find_all(JOURNAL_INCOMING), 2);
    ck_assert_int_eq(journal_remove(&one, &err), 0);
    ck_assert_uint_eq(find_all(JOURNAL_INCOMING), 1);
    check_last(&other.entry);
    ck_assert_int_eq(journal_remove(&one, &err), 0);
    ck_assert_uint_eq(find_all(JOURNAL_INCOMING), 1);
    journal_close(&one);
    journal_close(&other);
    ck_assert_int_ne(access(temp_path("incoming/" SESSION ".lock"), F_OK), 0);
    ck_assert_int_eq(access(temp_path("incoming/" OTHER ".lock"), F_OK), 0);
    temp_dir_remove();
}
END_TEST

START_TEST(owner_is_known_while_it_lives)
{
    static struct journal j, second;

    temp_dir_make();
    begin(&j, SESSION, 1);
    write_entry(&j);
    ck_assert(journal_is_owned(temp_dir, &j.entry));
    ck_assert_int_eq(journal_open(&second, temp_dir, JOURNAL_INCOMING, SESSION, &err), -EBUSY);
    ck_assert_ptr_nonnull(strstr(err.text, "another process"));
    journal_close(&j);
    ck_assert_uint_eq(find_all(JOURNAL_INCOMING), 1);
    ck_assert(!journal_is_owned(temp_dir, &last));
    ck_assert_int_eq(journal_open(&second, temp_dir, JOURNAL_INCOMING, SESSION, &err), 0);
    journal_close(&second);
    temp_dir_remove();
}
END_TEST

/* A name of octets that are no UTF-8 cannot be noted: what is not noted must not be made. */
START_TEST(what_cannot_be_noted_is_an_error)
{
    static struct journal j;

    temp_dir_make();
    begin(&j, SESSION, 2);
    strcpy(j.entry.volumes[0].path, "/srv/caf\xe9/disk");
    ck_assert_int_lt(journal_write(&j, &err), 0);
    journal_close(&j);
    begin(&j, SESSION, 1);
    strcpy(j.entry.name, "caf\xe9");
    ck_assert_int_lt(journal_write(&j, &err), 0);
    journal_close(&j);
    ck_assert_uint_eq(find_all(JOURNAL_INCOMING), 0);
    temp_dir_remove();
}
END_TEST

START_TEST(state_folder_that_cannot_be_written)
{
    static struct journal j;

    ck_assert_int_lt(journal_open(&j, "/dev/null/x", JOURNAL_INCOMING, SESSION, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.text, "/dev/null/x/incoming"));
}
END_TEST

/* ---- files that are none ---- */

#define VOLUME(kind, path, size) "{\"kind\":" kind ",\"path\":" path ",\"size\":" size "}"
#define ENTRY(session, phase, reconnect, volumes)                                                                      \
    "{\"session\":" session ",\"phase\":" phase ",\"boot\":\"\",\"peer\":\"\",\"name\":\"g\",\"kind\":\"proc\","               \
    "\"uuid\":\"\",\"reconnect_s\":" reconnect ",\"volumes\":" volumes ",\"guest\":{}}"

static void check_left_alone(const char *text, size_t len)
{
    CLEANUP_FREE char *now = NULL;
    size_t now_len;

    temp_write("incoming/x.json", text, len);
    ck_assert_msg(find_all(JOURNAL_INCOMING) == 0, "taken for an entry: %s", text);
    ck_assert_uint_eq(logged, 1);
    ck_assert_int_eq(file_read(temp_path("incoming/x.json"), MIB(1), &now, &now_len), 0);
    ck_assert_uint_eq(now_len, len);
    ck_assert_mem_eq(now, text, len);
}

START_TEST(torn_file_is_left_alone)
{
    CLEANUP_FREE char *whole = NULL;
    static struct journal j;
    size_t len;

    temp_dir_make();
    begin(&j, SESSION, 2);
    write_entry(&j);
    ck_assert_int_eq(file_read(temp_path("incoming/" SESSION ".json"), MIB(1), &whole, &len), 0);
    ck_assert_int_eq(journal_remove(&j, &err), 0);
    journal_close(&j);
    while (len > 0 && (whole[len - 1] == '\n' || whole[len - 1] == ' '))
        len--;
    for (size_t cut = 0; cut < len; cut += 7)
        check_left_alone(whole, cut);
    check_left_alone(whole, len - 1);
    temp_dir_remove();
}
END_TEST

START_TEST(foreign_file_is_left_alone)
{
    static const char *const table[] = {
        "[]",
        "{}",
        "5",
        "hello",
        ENTRY("5", "\"go\"", "0", "[]"),
        ENTRY("\"other\"", "\"go\"", "0", "[]"),
        ENTRY("\"x\"", "0", "0", "[]"),
        ENTRY("\"x\"", "\"commit\"", "0", "[]"),
        ENTRY("\"x\"", "\"go\"", "-1", "[]"),
        ENTRY("\"x\"", "\"go\"", "\"5\"", "[]"),
        ENTRY("\"x\"", "\"go\"", "0", "[5]"),
        ENTRY("\"x\"", "\"go\"", "0", "[{}]"),
        ENTRY("\"x\"", "\"go\"", "0", "[" VOLUME("3", "\"/x\"", "512") "]"),
        ENTRY("\"x\"", "\"go\"", "0", "[" VOLUME("-1", "\"/x\"", "512") "]"),
        ENTRY("\"x\"", "\"go\"", "0", "[" VOLUME("1", "5", "512") "]"),
        ENTRY("\"x\"", "\"go\"", "0", "[" VOLUME("1", "\"/x\"", "\"512\"") "]"),
        ENTRY("\"x\"", "\"go\"", "0", "[" VOLUME("1", "\"/x\"", "-512") "]"),
        ENTRY("\"0123456789012345678901234567890123456789\"", "\"go\"", "0", "[]"),
        ENTRY("\"x\"", "\"go\"", "0", "{}"),
        ENTRY("\"x\"", "\"go\"", "0", "\"/x\""),
        ENTRY("\"x\"", "\"go\"", "0", "null"),
    };

    temp_dir_make();
    ck_assert_int_eq(dir_make(temp_path("incoming")), 0);
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        check_left_alone(table[i], strlen(table[i]));
    temp_write("incoming/x.json", ENTRY("\"x\"", "\"go\"", "0", "[]"), strlen(ENTRY("\"x\"", "\"go\"", "0", "[]")));
    ck_assert_uint_eq(find_all(JOURNAL_INCOMING), 1);
    temp_dir_remove();
}
END_TEST

START_TEST(too_many_volumes_are_left_alone)
{
    static char text[64 * 1024];
    static const char whole[] = ENTRY("\"x\"", "\"go\"", "0", "[@]");
    const char *at = strchr(whole, '@');

    temp_dir_make();
    ck_assert_int_eq(dir_make(temp_path("incoming")), 0);
    memcpy(text, whole, (size_t)(at - whole));
    for (unsigned int i = 0; i <= HV_DISKS_MAX; i++)
        (void)strcat(strcat(text, i ? "," : ""), VOLUME("1", "\"/x\"", "512"));
    (void)strcat(text, at + 1);
    check_left_alone(text, strlen(text));
    temp_dir_remove();
}
END_TEST

START_TEST(other_files_are_none_of_ours)
{
    temp_dir_make();
    ck_assert_int_eq(dir_make(temp_path("incoming")), 0);
    temp_write("incoming/README", "x", 1);
    temp_write("incoming/.json", "x", 1);
    temp_write("incoming/x.json.tmp", "x", 1);
    ck_assert_uint_eq(find_all(JOURNAL_INCOMING), 0);
    ck_assert_uint_eq(logged, 0);
    temp_dir_remove();
}
END_TEST

UNIT_MAIN("session-journal", nothing_was_left, entry_comes_back_whole, longest_paths_fit, phases_advance,
          entries_are_removed_one_by_one, owner_is_known_while_it_lives, what_cannot_be_noted_is_an_error,
          state_folder_that_cannot_be_written, torn_file_is_left_alone, foreign_file_is_left_alone,
          too_many_volumes_are_left_alone, other_files_are_none_of_ours)
