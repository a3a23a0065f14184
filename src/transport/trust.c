/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The two lists of the state folder: `trusted` (whom we send to) and `authorized` (whom we receive
 * from). A line that is damaged is no permission: it is skipped, kept, and named in the log. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"
#include "transport/conn-tls.h"
#include "transport/conn.h"
#include "transport/identity-internal.h"

#include <ctype.h>
#include <limits.h>
#include <string.h>

#define LIST_MAX      MIB(1)
#define COMMENT_MAX   200
#define PROBE_TIMEOUT (10 * NS_PER_SEC)

bool trust_is_fingerprint(const char *text)
{
    if (strncmp(text, "SHA256:", 7) != 0 || strlen(text) != IDENTITY_FINGERPRINT_LEN)
        return false;
    return strspn(text + 7, "0123456789abcdef") == IDENTITY_FINGERPRINT_LEN - 7;
}

/* A list that is not there yet is empty. */
static int read_list(const char *path, char **ret, struct err *err)
{
    int r = file_read(path, LIST_MAX, ret, NULL);

    if (r == -ENOENT) {
        *ret = strdup("");
        r = *ret ? 0 : -ENOMEM;
    }
    return r < 0 ? err_errno(err, r, "cannot read %s", path) : 0;
}

struct line {
    char first[CONN_ADDRESS_MAX];
    char second[CONN_ADDRESS_MAX]; /* the start of a long comment */
    const char *start, *end;       /* the whole of it in the list, without its newline */
    unsigned int number;
};

/* The next line with something in it that is no comment. False at the end. */
static bool next_line(const char **cursor, struct line *ret)
{
    while (**cursor) {
        const char *end = strchrnul(*cursor, '\n');
        char text[2 * CONN_ADDRESS_MAX];

        ret->start = *cursor;
        ret->end = end;
        ret->number++;
        ret->first[0] = ret->second[0] = '\0';
        *cursor = *end ? end + 1 : end;
        (void)snprintf(text, sizeof(text), "%.*s",
                       (int)MIN(end - ret->start, (ptrdiff_t)sizeof(text)), ret->start);
        if (sscanf(text, " %271s %271s", ret->first, ret->second) >= 1 && ret->first[0] != '#')
            return true;
    }
    return false;
}

static bool is_trusted_line(const struct line *line, const char *path)
{
    if (trust_is_fingerprint(line->second))
        return true;
    log_warn("transport.trust", "%s:%u is not \"ADDRESS FINGERPRINT\" and is ignored", path,
             line->number);
    return false;
}

/* 1 and the fingerprint, or 0. The first line of an address counts. */
static int find_trusted(const char *path, const char *list, const char *canonical,
                        char ret[IDENTITY_FINGERPRINT_LEN + 1])
{
    struct line line = {.number = 0};

    while (next_line(&list, &line))
        if (is_trusted_line(&line, path) && strcmp(line.first, canonical) == 0) {
            strcpy(ret, line.second);
            return 1;
        }
    return 0;
}

int trust_look_up(const struct identity *id, const char *canonical,
                  char ret[IDENTITY_FINGERPRINT_LEN + 1], struct err *err)
{
    CLEANUP_FREE char *list = NULL;
    char path[PATH_MAX];
    int r = identity_path(id->dir, "trusted", path, err);

    if (r == 0)
        r = read_list(path, &list, err);
    if (r < 0)
        return r;
    if (!find_trusted(path, list, canonical, ret))
        return err_set(err, -EACCES, "no trust for %s yet: run `xmotion trust %s`", canonical,
                       canonical);
    return 0;
}

static bool has_authorized(const char *path, const char *list, const char *fingerprint)
{
    struct line line = {.number = 0};

    while (next_line(&list, &line)) {
        if (!trust_is_fingerprint(line.first))
            log_warn("transport.trust", "%s:%u does not begin with a fingerprint and is ignored",
                     path, line.number);
        else if (strcmp(line.first, fingerprint) == 0)
            return true;
    }
    return false;
}

bool trust_is_authorized(const struct identity *id, const char *fingerprint)
{
    CLEANUP_FREE char *list = NULL;
    char path[PATH_MAX];
    struct err err = {0};

    if (identity_path(id->dir, "authorized", path, &err) < 0 || read_list(path, &list, &err) < 0) {
        log_error("transport.trust", "nobody is authorized: %s", err.text);
        return false;
    }
    return has_authorized(path, list, fingerprint);
}

/* Writes `list` without the lines of `canonical` (NULL: with all), and `added` at its end. */
static int write_list(const char *path, const char *list, const char *canonical, const char *added,
                      struct err *err)
{
    size_t room = strlen(list) + strlen(added) + 2;
    CLEANUP_FREE char *next = malloc(room);
    struct line line = {.number = 0};
    const char *copied = list, *cursor = list;
    char *p = next;
    int r;

    if (!next)
        return err_set(err, -ENOMEM, "no memory for %s", path);
    while (canonical && next_line(&cursor, &line))
        if (strcmp(line.first, canonical) == 0) {
            p = mempcpy(p, copied, (size_t)(line.start - copied));
            copied = cursor;
        }
    p = stpcpy(p, copied);
    if (p > next && p[-1] != '\n')
        *p++ = '\n';
    p = stpcpy(p, added);
    r = file_replace(path, next, (size_t)(p - next));
    return r < 0 ? err_errno(err, r, "cannot write %s", path) : 0;
}

static int store_trusted(const struct identity *id, const char *canonical, const char *fingerprint,
                         bool replace, struct err *err)
{
    char path[PATH_MAX], old[IDENTITY_FINGERPRINT_LEN + 1];
    char added[CONN_ADDRESS_MAX + IDENTITY_FINGERPRINT_LEN + 3];
    CLEANUP_FREE char *list = NULL;
    CLEANUP_CLOSE int lock = -1;
    int r = identity_path(id->dir, "trusted", path, err);

    if (r == 0)
        r = identity_lock(id->dir, &lock, err);
    if (r == 0)
        r = read_list(path, &list, err);
    if (r < 0)
        return r;
    if (find_trusted(path, list, canonical, old)) {
        if (strcmp(old, fingerprint) == 0)
            return 0;
        if (!replace)
            return err_set(err, -EEXIST,
                           "%s is trusted as %s but shows %s now: if its identity was renewed, run "
                           "`xmotion trust --replace %s`",
                           canonical, old, fingerprint, canonical);
    }
    (void)snprintf(added, sizeof(added), "%s %s\n", canonical, fingerprint);
    return write_list(path, list, canonical, added, err);
}

int identity_trust(const struct identity *id, const char *address, const char *expected,
                   bool replace, char ret_fingerprint[IDENTITY_FINGERPRINT_LEN + 1],
                   struct err *err)
{
    char canonical[CONN_ADDRESS_MAX];
    int r = conn_canonical_address(address, canonical, err);

    if (r < 0)
        return r;
    if (expected && !trust_is_fingerprint(expected))
        return err_set(err, -EINVAL,
                       "'%.100s' is not a fingerprint: SHA256: and 64 lower-case hex digits is",
                       expected);
    r = tls_probe(id, address, PROBE_TIMEOUT, ret_fingerprint, err);
    if (r < 0)
        return r;
    if (expected && strcmp(expected, ret_fingerprint) != 0)
        return err_set(err, -EACCES, "%s shows %s, not the %s that is expected: it was not stored",
                       canonical, ret_fingerprint, expected);
    return store_trusted(id, canonical, ret_fingerprint, replace, err);
}

/* One line, printable: it goes into a file that decides who may write our disks. */
static bool is_comment(const char *comment)
{
    if (strlen(comment) > COMMENT_MAX)
        return false;
    for (const char *p = comment; *p; p++)
        if (iscntrl((unsigned char)*p))
            return false;
    return true;
}

int identity_authorize(const struct identity *id, const char *fingerprint, const char *comment,
                       struct err *err)
{
    char path[PATH_MAX], added[IDENTITY_FINGERPRINT_LEN + COMMENT_MAX + 3];
    CLEANUP_FREE char *list = NULL;
    CLEANUP_CLOSE int lock = -1;
    int r = identity_path(id->dir, "authorized", path, err);

    if (r < 0)
        return r;
    if (!trust_is_fingerprint(fingerprint))
        return err_set(err, -EINVAL,
                       "'%.100s' is not a fingerprint: SHA256: and 64 lower-case hex digits is",
                       fingerprint);
    if (comment && !is_comment(comment))
        return err_set(err, -EINVAL, "a comment is one line of at most %d printable characters",
                       COMMENT_MAX);
    r = identity_lock(id->dir, &lock, err);
    if (r == 0)
        r = read_list(path, &list, err);
    if (r < 0)
        return r;
    if (has_authorized(path, list, fingerprint))
        return 0;
    (void)snprintf(added, sizeof(added), "%s%s%s\n", fingerprint, comment && *comment ? " " : "",
                   comment ? comment : "");
    return write_list(path, list, NULL, added, err);
}
