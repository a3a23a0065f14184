/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session/released.h"

#include "base/fdio.h"
#include "session/job.h"

#include <limits.h>
#include <stdio.h>
#include <unistd.h>

static int path_of(char ret[RELEASED_PATH_MAX], const char *session, struct err *err)
{
    char dir[PATH_MAX];
    int r = job_run_dir(dir, sizeof(dir), err);

    if (r < 0)
        return r;
    if (snprintf(ret, RELEASED_PATH_MAX, "%s/released%s%s", dir, session ? "/" : "", session ? session : "") >= RELEASED_PATH_MAX)
        return err_set(err, -ENAMETOOLONG, "the run folder's path is too long: %.100s", dir);
    return 0;
}

int released_path(char ret[RELEASED_PATH_MAX], const char *session, struct err *err)
{
    int r = path_of(ret, NULL, err);

    if (r == 0 && (r = dir_make(ret)) < 0)
        return err_errno(err, r, "making the folder %s", ret);
    return r < 0 ? r : path_of(ret, session, err);
}

int released_mark(const char *session, struct err *err)
{
    char path[RELEASED_PATH_MAX];
    int r = released_path(path, session, err);

    if (r == 0 && (r = file_touch(path)) < 0)
        return err_errno(err, r, "making %s", path);
    return r;
}

void released_unmark(const char *session)
{
    char path[RELEASED_PATH_MAX];

    if (path_of(path, session, NULL) == 0)
        (void)unlink(path);
}

bool released_is_marked(const char *session)
{
    char path[RELEASED_PATH_MAX];

    return path_of(path, session, NULL) == 0 && access(path, F_OK) == 0;
}
