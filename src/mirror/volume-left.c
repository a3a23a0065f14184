/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/volume-left.h"

#include "base/run.h"
#include "mirror/volume.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#define LEFT_XATTR "user.xmotion.left"
#define TAG_MAX    80
#define OUTPUT_MAX 2048

static bool is_file(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* LVM allows these characters in a tag; a uuid has no others. */
static int make_tag(char tag[TAG_MAX], const char *uuid, struct err *err)
{
    if (!uuid[0] || strspn(uuid, "0123456789abcdefABCDEF-") != strlen(uuid) || strlen(uuid) > 40)
        return err_set(err, -EINVAL, "\"%.40s\" is not a guest's uuid", uuid);
    (void)snprintf(tag, TAG_MAX, "xmotion-left-%s", uuid);
    return 0;
}

static int change_tag(const char *path, const char *option, const char *tag, struct err *err)
{
    const char *const argv[] = {"lvchange", "--yes", "-qq", option, tag, "--", volume_lvm_name(path), NULL};
    char output[OUTPUT_MAX];

    return run_program(argv, output, sizeof(output), err);
}

int volume_left_mark(const char *path, const char *uuid, struct err *err)
{
    char tag[TAG_MAX];
    int r = make_tag(tag, uuid, err);

    if (r < 0)
        return r;
    if (is_file(path))
        r = setxattr(path, LEFT_XATTR, uuid, strlen(uuid), 0) < 0 ? -errno : 0;
    else
        r = change_tag(path, "--addtag", tag, NULL);
    return r < 0 ? err_set(err, -ENOTSUP, "%s cannot be marked as the guest's old copy, so that --reuse needs it by name", path)
                 : 0;
}

static bool read_mark(const char *path, char *ret, size_t size)
{
    const char *const argv[] = {"lvs", "--noheadings", "-o", "lv_tags", "--", volume_lvm_name(path), NULL};
    ssize_t n;

    if (!is_file(path))
        return run_program(argv, ret, size, NULL) == 0;
    n = lgetxattr(path, LEFT_XATTR, ret, size - 1);
    if (n < 0)
        return false;
    ret[n] = '\0';
    return true;
}

void volume_left_unmark(const char *path)
{
    char text[OUTPUT_MAX];
    char tag[TAG_MAX];
    const char *mark;

    if (is_file(path)) {
        (void)removexattr(path, LEFT_XATTR);
        return;
    }
    mark = read_mark(path, text, sizeof(text)) ? strstr(text, "xmotion-left-") : NULL;
    if (!mark)
        return;
    (void)snprintf(tag, sizeof(tag), "%.*s", (int)strcspn(mark, ", \n"), mark);
    (void)change_tag(path, "--deltag", tag, NULL);
}

/* Whole tags only: the beginning of a uuid is no uuid. */
static bool has_tag(const char *tags, const char *tag)
{
    for (size_t n; *(tags += strspn(tags, ", \t\n")); tags += n) {
        n = strcspn(tags, ", \t\n");
        if (n == strlen(tag) && strncmp(tags, tag, n) == 0)
            return true;
    }
    return false;
}

bool volume_left_by(const char *path, const char *uuid)
{
    char text[OUTPUT_MAX];
    char tag[TAG_MAX];

    if (make_tag(tag, uuid, NULL) < 0 || !read_mark(path, text, sizeof(text)))
        return false;
    return is_file(path) ? strcmp(text, uuid) == 0 : has_tag(text, tag);
}
