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

static void note(const struct journal_entry *e, void *data)
{
    ck_assert_ptr_eq(data, &found);
    found++;
    last = *e;
}

static void note_log(enum log_level level, const char *line)
{
    logged += level == LOG_WARN && strstr(line, "left alone") != NULL;
}

static unsigned int find_all(void)
{
    found = logged = 0;
    log_set_sink(note_log);
    ck_assert_msg(journal_each(temp_dir, note, &found, &err) == 0, "%s", err.text);
    return found;
}

static struct journal_entry entry(const char *session, unsigned int volumes)
{
    struct journal_entry e = {.volume_count = volumes};

    strcpy(e.session, session);
    strcpy(e.guest, "web \"1\" \xc3\xa9");
    strcpy(e.kind, "xen");
    for (unsigned int i = 0; i < volumes; i++) {
        e.volumes[i].kind = (enum volume_kind)(i % 3);
        e.volumes[i].size = MIB(1) + i * UINT64_C(512);
        (void)snprintf(e.volumes[i].path, sizeof(e.volumes[i].path), "/srv/a b/\"%u\"", i);
    }
    return e;
}

static void write_entry(const struct journal_entry *e)
{
    ck_assert_msg(journal_write(temp_dir, e, &err) == 0, "%s", err.text);
}

static void check_last(const struct journal_entry *e)
{
    ck_assert_str_eq(last.session, e->session);
    ck_assert_str_eq(last.guest, e->guest);
    ck_assert_str_eq(last.kind, e->kind);
    ck_assert_int_eq(last.go, e->go);
    ck_assert_uint_eq(last.volume_count, e->volume_count);
    for (unsigned int i = 0; i < e->volume_count; i++) {
        ck_assert_int_eq(last.volumes[i].kind, e->volumes[i].kind);
        ck_assert_str_eq(last.volumes[i].path, e->volumes[i].path);
        ck_assert_uint_eq(last.volumes[i].size, e->volumes[i].size);
    }
}

START_TEST(nothing_was_left)
{
    temp_dir_make();
    ck_assert_uint_eq(find_all(), 0);
    ck_assert_int_eq(journal_remove(temp_dir, SESSION, &err), 0);
    temp_dir_remove();
}
END_TEST

START_TEST(entry_comes_back_whole)
{
    static const unsigned int counts[] = {0, 1, 3, HV_DISKS_MAX};
    static struct journal_entry e;

    temp_dir_make();
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        e = entry(SESSION, counts[i]);
        e.go = i % 2;
        write_entry(&e);
        ck_assert_uint_eq(find_all(), 1);
        check_last(&e);
    }
    temp_dir_remove();
}
END_TEST

START_TEST(longest_paths_fit)
{
    static struct journal_entry e;

    temp_dir_make();
    e = entry(SESSION, HV_DISKS_MAX);
    for (unsigned int i = 0; i < HV_DISKS_MAX; i++) {
        memset(e.volumes[i].path, 'a', VOLUME_PATH_MAX - 1);
        e.volumes[i].path[VOLUME_PATH_MAX - 1] = '\0';
    }
    write_entry(&e);
    ck_assert_uint_eq(find_all(), 1);
    check_last(&e);
    temp_dir_remove();
}
END_TEST

START_TEST(go_replaces_what_was_there)
{
    struct journal_entry e = entry(SESSION, 1);

    temp_dir_make();
    write_entry(&e);
    e.go = true;
    write_entry(&e);
    ck_assert_uint_eq(find_all(), 1);
    ck_assert(last.go);
    temp_dir_remove();
}
END_TEST

START_TEST(entries_are_removed_one_by_one)
{
    struct journal_entry one = entry(SESSION, 1), other = entry(OTHER, 2);

    temp_dir_make();
    write_entry(&one);
    write_entry(&other);
    ck_assert_uint_eq(find_all(), 2);
    ck_assert_int_eq(journal_remove(temp_dir, SESSION, &err), 0);
    ck_assert_uint_eq(find_all(), 1);
    check_last(&other);
    ck_assert_int_eq(journal_remove(temp_dir, SESSION, &err), 0);
    ck_assert_uint_eq(find_all(), 1);
    temp_dir_remove();
}
END_TEST

/* A name of octets that are no UTF-8 cannot be noted: what is not noted must not be made. */
START_TEST(what_cannot_be_noted_is_an_error)
{
    struct journal_entry e = entry(SESSION, 2);

    temp_dir_make();
    strcpy(e.volumes[0].path, "/srv/caf\xe9/disk");
    ck_assert_int_lt(journal_write(temp_dir, &e, &err), 0);
    e = entry(SESSION, 1);
    strcpy(e.guest, "caf\xe9");
    ck_assert_int_lt(journal_write(temp_dir, &e, &err), 0);
    ck_assert_uint_eq(find_all(), 0);
    temp_dir_remove();
}
END_TEST

START_TEST(state_folder_that_cannot_be_written)
{
    struct journal_entry e = entry(SESSION, 1);

    ck_assert_int_lt(journal_write("/dev/null/x", &e, &err), 0);
    ck_assert_ptr_nonnull(strstr(err.text, "writing the journal /dev/null/x/incoming"));
}
END_TEST

/* ---- files that are none ---- */

#define VOLUME(kind, path, size) "{\"kind\":" kind ",\"path\":" path ",\"size\":" size "}"
#define ENTRY(session, go, volumes)                                                                                    \
    "{\"session\":" session ",\"guest\":\"g\",\"kind\":\"xen\",\"go\":" go ",\"volumes\":" volumes "}"

static void check_left_alone(const char *text, size_t len)
{
    CLEANUP_FREE char *now = NULL;
    size_t now_len;

    temp_write("incoming/x.json", text, len);
    ck_assert_msg(find_all() == 0, "taken for an entry: %s", text);
    ck_assert_uint_eq(logged, 1);
    ck_assert_int_eq(file_read(temp_path("incoming/x.json"), MIB(1), &now, &now_len), 0);
    ck_assert_uint_eq(now_len, len);
    ck_assert_mem_eq(now, text, len);
}

START_TEST(torn_file_is_left_alone)
{
    CLEANUP_FREE char *whole = NULL;
    struct journal_entry e = entry(SESSION, 2);
    size_t len;

    temp_dir_make();
    write_entry(&e);
    ck_assert_int_eq(file_read(temp_path("incoming/" SESSION ".json"), MIB(1), &whole, &len), 0);
    ck_assert_int_eq(journal_remove(temp_dir, SESSION, &err), 0);
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
        ENTRY("5", "false", "[]"),
        ENTRY("\"s\"", "0", "[]"),
        ENTRY("\"s\"", "false", "[5]"),
        ENTRY("\"s\"", "false", "[{}]"),
        ENTRY("\"s\"", "false", "[" VOLUME("3", "\"/x\"", "512") "]"),
        ENTRY("\"s\"", "false", "[" VOLUME("-1", "\"/x\"", "512") "]"),
        ENTRY("\"s\"", "false", "[" VOLUME("1", "5", "512") "]"),
        ENTRY("\"s\"", "false", "[" VOLUME("1", "\"/x\"", "\"512\"") "]"),
        ENTRY("\"0123456789012345678901234567890123456789\"", "false", "[]"),
        ENTRY("\"s\"", "false", "{}"),
        ENTRY("\"s\"", "false", "\"/x\""),
        ENTRY("\"s\"", "false", "null"),
    };

    temp_dir_make();
    ck_assert_int_eq(dir_make(temp_path("incoming")), 0);
    for (size_t i = 0; i < ARRAY_SIZE(table); i++)
        check_left_alone(table[i], strlen(table[i]));
    temp_dir_remove();
}
END_TEST

START_TEST(too_many_volumes_are_left_alone)
{
    static char text[64 * 1024];

    temp_dir_make();
    ck_assert_int_eq(dir_make(temp_path("incoming")), 0);
    strcpy(text, "{\"session\":\"s\",\"guest\":\"g\",\"kind\":\"xen\",\"go\":false,\"volumes\":[");
    for (unsigned int i = 0; i <= HV_DISKS_MAX; i++)
        (void)strcat(strcat(text, i ? "," : ""), VOLUME("1", "\"/x\"", "512"));
    (void)strcat(text, "]}");
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
    ck_assert_uint_eq(find_all(), 0);
    ck_assert_uint_eq(logged, 0);
    temp_dir_remove();
}
END_TEST

UNIT_MAIN("session-journal", nothing_was_left, entry_comes_back_whole, longest_paths_fit, go_replaces_what_was_there,
          entries_are_removed_one_by_one, what_cannot_be_noted_is_an_error, state_folder_that_cannot_be_written,
          torn_file_is_left_alone, foreign_file_is_left_alone, too_many_volumes_are_left_alone,
          other_files_are_none_of_ours)
