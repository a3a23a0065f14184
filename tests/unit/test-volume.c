/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where disks are put at the target: what is made, what is refused, and above all what is never removed. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/zero.h"
#include "mirror/blockdev.h"
#include "mirror/volume.h"

#include "loop-device.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#define OURS   "0123456789abcdef0123456789abcdef"
#define OTHERS "ffffffffffffffffffffffffffffffff"
#define SIZE   (MIB(1) + 512)

static struct err err;

/* ---- names ---- */

START_TEST(srs)
{
    static const struct {
        const char *spec;
        enum volume_kind kind;
        const char *place;
    } table[] = {
        {"lvm:vg1", VOLUME_LVM, "vg1"},     {"lvm:a+b_c.d-e", VOLUME_LVM, "a+b_c.d-e"},
        {"dir:/", VOLUME_FILE, "/"},        {"dir:/var/lib/images", VOLUME_FILE, "/var/lib/images"},
        {"dir:/a b:c", VOLUME_FILE, "/a b:c"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        struct volume_sr sr;

        ck_assert_msg(volume_sr_parse(&sr, table[i].spec, &err) == 0, "%s", err.text);
        ck_assert_int_eq(sr.kind, table[i].kind);
        ck_assert_str_eq(sr.place, table[i].place);
    }
}
END_TEST

START_TEST(no_srs)
{
    static const char *const table[] = {"",        "lvm",     "lvm:",       "dir:",   "dir",         ":",       "/x",
                                        "dir:x",   "dir:./x", "LVM:x",      "nfs:/x", "lvm:/dev/vg", "lvm:a b", "lvm:-x",
                                        "lvm:..",  "lvm:.",   "lvm:a/../b", "lvmx:a", "x:lvm:a",     "lvm:a;b",
                                        "lvm:vg\n"};
    static char longest[VOLUME_PATH_MAX + 10] = "dir:/";
    struct volume_sr sr;

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        ck_assert_msg(volume_sr_parse(&sr, table[i], &err) == -EINVAL, "\"%s\"", table[i]);
        ck_assert_ptr_nonnull(strstr(err.text, "is no SR: "));
    }
    memset(longest + 5, 'a', VOLUME_PATH_MAX);
    ck_assert_int_eq(volume_sr_parse(&sr, longest, &err), -EINVAL);
}
END_TEST

START_TEST(safe_names)
{
    static const struct {
        const char *label, *name;
    } table[] = {
        {"disk", "disk"},          {"/dev/vg/disk", "disk"},        {"a b", "a_b"},
        {"../../etc/passwd", "passwd"}, {"/", "d"},                 {"", "d"},
        {"..", "d"},               {"a/..", "d"},                   {"-rf", "rf"},
        {"--..-x", "x"},           {".hidden", "hidden"},           {"a;rm -rf $HOME", "a_rm_-rf__HOME"},
        {"caf\xc3\xa9", "caf__"},  {"a\nb", "a_b"},                 {"x.qcow2", "x.qcow2"},
        {"_+1-2", "_+1-2"},        {"dir/", "d"},
    };

    for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
        char name[VOLUME_NAME_MAX];

        volume_safe_name(name, table[i].label);
        ck_assert_str_eq(name, table[i].name);
    }
}
END_TEST

START_TEST(long_names_are_cut)
{
    char label[3 * VOLUME_NAME_MAX], name[VOLUME_NAME_MAX];

    memset(label, 'a', sizeof(label) - 1);
    label[sizeof(label) - 1] = '\0';
    volume_safe_name(name, label);
    ck_assert_uint_eq(strlen(name), VOLUME_NAME_MAX - 1);
}
END_TEST

/* ---- folders ---- */

static struct volume_sr sr;

static void sr_make(const char *place)
{
    char spec[VOLUME_PATH_MAX];

    (void)snprintf(spec, sizeof(spec), "dir:%s", place);
    ck_assert_int_eq(volume_sr_parse(&sr, spec, &err), 0);
}

static struct volume plan(const char *name, uint64_t size)
{
    struct volume v;

    ck_assert_int_eq(volume_plan(&v, &sr, name, size, &err), 0);
    return v;
}

static struct volume create(const char *name)
{
    struct volume v = plan(name, SIZE);

    ck_assert_msg(volume_create(&v, &sr, OURS, &err) == 0, "%s", err.text);
    return v;
}

static bool is_there(const struct volume *v)
{
    struct stat st;

    return lstat(v->path, &st) == 0;
}

START_TEST(plans)
{
    static char longest[VOLUME_PATH_MAX];
    struct volume v;

    sr_make("/srv/x");
    v = plan("disk", SIZE);
    ck_assert_str_eq(v.path, "/srv/x/disk");
    ck_assert_int_eq(v.kind, VOLUME_FILE);
    ck_assert_uint_eq(v.size, SIZE);
    memset(longest, 'a', sizeof(longest) - 1);
    ck_assert_int_eq(volume_plan(&v, &sr, longest, SIZE, &err), -ENAMETOOLONG);
    ck_assert_int_eq(volume_sr_parse(&sr, "lvm:vg", &err), 0);
    v = plan("disk", SIZE);
    ck_assert_str_eq(v.path, "/dev/vg/disk");
    ck_assert_int_eq(v.kind, VOLUME_LVM);
}
END_TEST

START_TEST(created_file_is_of_exact_size_and_zero)
{
    CLEANUP_FREE char *content = NULL;
    struct volume v;
    struct stat st;
    size_t len;

    temp_dir_make();
    sr_make(temp_dir);
    v = create("disk");
    ck_assert_int_eq(stat(v.path, &st), 0);
    ck_assert_int_eq(st.st_size, SIZE);
    ck_assert_int_eq(st.st_mode & 07777, 0600);
    ck_assert_int_eq(st.st_blocks, 0);
    ck_assert_int_eq(file_read(v.path, SIZE, &content, &len), 0);
    ck_assert(is_zero(content, SIZE));
    temp_dir_remove();
}
END_TEST

START_TEST(what_is_there_is_not_made_again)
{
    struct volume v;

    temp_dir_make();
    sr_make(temp_dir);
    temp_write("disk", "precious", 8);
    v = plan("disk", SIZE);
    ck_assert_int_eq(volume_create(&v, &sr, OURS, &err), -EEXIST);
    ck_assert_ptr_nonnull(strstr(err.text, "/disk is there already"));
    ck_assert_int_eq(symlink("/nowhere/at/all", temp_path("link")), 0);
    v = plan("link", SIZE);
    ck_assert_int_eq(volume_create(&v, &sr, OURS, &err), -EEXIST);
    temp_dir_remove();
}
END_TEST

START_TEST(impossible_size_leaves_nothing)
{
    struct volume v;

    temp_dir_make();
    sr_make(temp_dir);
    v = plan("disk", UINT64_C(1) << 62);
    ck_assert_int_eq(volume_create(&v, &sr, OURS, &err), -EFBIG);
    ck_assert_ptr_nonnull(strstr(err.text, "4611686018427387904 octets"));
    ck_assert(!is_there(&v));
    temp_dir_remove();
}
END_TEST

START_TEST(folder_that_is_not_there)
{
    struct volume v;

    sr_make("/nowhere/at/all");
    v = plan("disk", SIZE);
    ck_assert_int_eq(volume_create(&v, &sr, OURS, &err), -ENOENT);
    ck_assert_int_eq(volume_sr_check(&sr, 1, &err), -ENOENT);
    sr_make("/dev/null");
    ck_assert_int_eq(volume_sr_check(&sr, 1, &err), -ENOTDIR);
    sr_make("/tmp");
    ck_assert_int_eq(volume_sr_check(&sr, 0, &err), 0);
}
END_TEST

/* ---- removing ---- */

START_TEST(own_file_is_removed)
{
    struct volume v;

    temp_dir_make();
    sr_make(temp_dir);
    v = create("disk");
    ck_assert_int_eq(volume_remove(&v, OURS, &err), 0);
    ck_assert(!is_there(&v));
    ck_assert_int_eq(volume_remove(&v, OURS, &err), 0); /* is gone already */
    temp_dir_remove();
}
END_TEST

static void *close_later(void *fd)
{
    clock_sleep(300 * NS_PER_MS);
    ck_assert_int_eq(close(*(int *)fd), 0);
    return NULL;
}

/* The server of a guest that was just destroyed closes it soon; one that somebody uses stays, whoever's mark it bears. */
START_TEST(open_file_is_waited_for)
{
    uint64_t begin;
    pthread_t closer;
    struct volume v;
    int fd;

    temp_dir_make();
    sr_make(temp_dir);
    v = create("disk");
    fd = open(v.path, O_RDWR | O_CLOEXEC);
    begin = clock_now();
    ck_assert_int_eq(pthread_create(&closer, NULL, close_later, &fd), 0);
    ck_assert_int_eq(volume_remove(&v, OURS, &err), 0);
    ck_assert(!is_there(&v));
    ck_assert_uint_ge(clock_now() - begin, 300 * NS_PER_MS);
    ck_assert_int_eq(pthread_join(closer, NULL), 0);
    temp_dir_remove();
}
END_TEST

START_TEST(file_in_use_stays)
{
    struct volume v;
    int fd;

    temp_dir_make();
    sr_make(temp_dir);
    v = create("disk");
    fd = open(v.path, O_RDONLY | O_CLOEXEC);
    ck_assert_int_eq(volume_remove(&v, OURS, &err), -EBUSY);
    ck_assert(is_there(&v) && strstr(err.text, "has it open") && strstr(err.text, v.path));
    ck_assert_int_eq(close(fd), 0);
    temp_dir_remove();
}
END_TEST

START_TEST(file_of_another_migration_stays)
{
    struct volume v;

    temp_dir_make();
    sr_make(temp_dir);
    v = create("disk");
    ck_assert_int_eq(volume_remove(&v, OTHERS, &err), 0);
    ck_assert(is_there(&v));
    temp_dir_remove();
}
END_TEST

/* It came to be between the plan and the creation, which said -EEXIST: the clean-up must not take it for ours. */
START_TEST(file_without_a_mark_stays)
{
    struct volume v;

    temp_dir_make();
    sr_make(temp_dir);
    temp_write("disk", "precious", 8);
    v = plan("disk", SIZE);
    ck_assert_int_eq(volume_create(&v, &sr, OURS, &err), -EEXIST);
    ck_assert_int_eq(volume_remove(&v, OURS, &err), 0);
    ck_assert(is_there(&v));
    temp_dir_remove();
}
END_TEST

START_TEST(file_with_a_strange_mark_stays)
{
    static char mark[300];
    struct volume v;

    temp_dir_make();
    sr_make(temp_dir);
    v = create("disk");
    memset(mark, 'f', sizeof(mark));
    ck_assert_int_eq(setxattr(v.path, "user.xmotion.session", mark, sizeof(mark), 0), 0);
    ck_assert_int_eq(volume_remove(&v, OURS, &err), 0);
    ck_assert(is_there(&v));
    temp_dir_remove();
}
END_TEST

/* Its maker was killed between making and marking it. */
START_TEST(empty_file_without_a_mark_is_removed)
{
    struct volume v;

    temp_dir_make();
    sr_make(temp_dir);
    temp_write("disk", "", 0);
    v = plan("disk", SIZE);
    ck_assert_int_eq(volume_remove(&v, OURS, &err), 0);
    ck_assert(!is_there(&v));
    v = create("other");
    ck_assert_int_eq(truncate(v.path, 0), 0);
    ck_assert_int_eq(volume_remove(&v, OTHERS, &err), 0); /* empty, but marked */
    ck_assert(is_there(&v));
    temp_dir_remove();
}
END_TEST

/* ---- going on with them ---- */

START_TEST(own_file_is_reopened)
{
    struct volume v;

    temp_dir_make();
    sr_make(temp_dir);
    v = create("disk");
    ck_assert_msg(volume_reopen(&v, OURS, &err) == 0, "%s", err.text);
    ck_assert_int_eq(volume_reopen(&v, OTHERS, &err), -EEXIST);
    ck_assert_ptr_nonnull(strstr(err.text, "does not bear its mark"));
    v.size += 512;
    ck_assert_int_eq(volume_reopen(&v, OURS, &err), -EINVAL);
    ck_assert_int_eq(unlink(v.path), 0);
    ck_assert_int_eq(volume_reopen(&v, OURS, &err), -ENOENT);
    temp_write("disk", "precious", 8);
    ck_assert_int_eq(volume_reopen(&v, OURS, &err), -EEXIST);
    ck_assert_int_eq(unlink(v.path), 0);
    ck_assert_int_eq(symlink("/dev/null", v.path), 0);
    ck_assert_int_eq(volume_reopen(&v, OURS, &err), -EEXIST);
    temp_dir_remove();
}
END_TEST

/* lvm2's own tool, as far as it is used: prints the size when the tag is selected that the LV has. */
static const char fake_lvs[] = "#!/bin/sh\n"
                               "case \"$*\" in *vg1/gone) echo 'Failed to find logical volume' >&2; exit 5;; esac\n"
                               "case \"$*\" in *'lv_tags=xmotion-" OURS " -- vg1/disk') echo '  1049088';; esac\n";

START_TEST(own_lv_is_reopened)
{
    struct volume v = {.kind = VOLUME_LVM, .size = SIZE, .path = "/dev/vg1/disk"};

    temp_dir_make();
    temp_write("lvs", fake_lvs, strlen(fake_lvs));
    ck_assert_int_eq(chmod(temp_path("lvs"), 0700), 0);
    ck_assert_int_eq(setenv("PATH", temp_dir, 1), 0);
    ck_assert_msg(volume_reopen(&v, OURS, &err) == 0, "%s", err.text);
    ck_assert_int_eq(volume_reopen(&v, OTHERS, &err), -EEXIST);
    v.size += 512;
    ck_assert_int_eq(volume_reopen(&v, OURS, &err), -EINVAL);
    strcpy(v.path, "/dev/vg1/gone");
    ck_assert_int_eq(volume_reopen(&v, OURS, &err), -ENOENT);
    ck_assert_int_eq(setenv("PATH", "/usr/bin:/bin", 1), 0);
    temp_dir_remove();
}
END_TEST

START_TEST(existing_one_stays)
{
    struct volume v = {.kind = VOLUME_EXISTING};

    temp_dir_make();
    temp_write("disk", "precious", 8);
    strcpy(v.path, temp_path("disk"));
    ck_assert_int_eq(volume_remove(&v, OURS, &err), 0);
    ck_assert(is_there(&v));
    temp_dir_remove();
}
END_TEST

/* ---- small and poor file systems, in a name space of the test's own ---- */

static bool mount_here(const char *type, const char *options)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
        mount("none", temp_dir, type, 0, options) < 0) {
        skipped("nothing can be mounted here");
        return false;
    }
    return true;
}

START_TEST(full_folder_is_told_with_both_figures)
{
    temp_dir_make();
    if (mount_here("tmpfs", "size=4m")) {
        sr_make(temp_dir);
        ck_assert_int_eq(volume_sr_check(&sr, MIB(4), &err), 0);
        ck_assert_int_eq(volume_sr_check(&sr, MIB(8), &err), -ENOSPC);
        ck_assert_ptr_nonnull(strstr(err.text, "4 MiB free, the disks hold up to 8 MiB"));
        ck_assert_int_eq(umount(temp_dir), 0);
    }
    temp_dir_remove();
}
END_TEST

START_TEST(full_file_system_ends_writing)
{
    static uint8_t data[MIB(8)] = {1};
    struct blockdev *dev;
    struct volume v;

    temp_dir_make();
    if (mount_here("tmpfs", "size=4m")) {
        sr_make(temp_dir);
        v = plan("disk", MIB(8));
        ck_assert_int_eq(volume_create(&v, &sr, OURS, &err), 0);
        ck_assert_int_eq(blockdev_open_file(&dev, v.path, BLOCKDEV_WRITE, &err), 0);
        ck_assert_int_eq(dev->ops->pwrite(dev, data, MIB(8), 0, &err), -ENOSPC);
        ck_assert_ptr_nonnull(strstr(err.text, "/disk: writing 8388608 octets at 0: No space left"));
        blockdev_close(dev);
        ck_assert_int_eq(volume_remove(&v, OURS, &err), 0);
        ck_assert(!is_there(&v));
        ck_assert_int_eq(umount(temp_dir), 0);
    }
    temp_dir_remove();
}
END_TEST

/* No marks are kept there: what stands in the journal is removed by its name. */
START_TEST(file_system_without_attributes)
{
    struct volume v;

    temp_dir_make();
    if (mount_here("ramfs", NULL)) {
        sr_make(temp_dir);
        v = create("disk");
        ck_assert_int_eq(volume_remove(&v, OURS, &err), 0);
        ck_assert(!is_there(&v));
        ck_assert_int_eq(umount(temp_dir), 0);
    }
    temp_dir_remove();
}
END_TEST

/* ---- existing volumes ---- */

static void make_filled(const char *name)
{
    static char content[SIZE];

    memset(content, 'x', SIZE);
    temp_write(name, content, SIZE);
}

static bool still_filled(const char *path)
{
    CLEANUP_CLOSE int fd = open(path, O_RDONLY);
    char first = 0, last = 0;

    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(fd_pread_full(fd, &first, 1, 0), 0);
    ck_assert_int_eq(fd_pread_full(fd, &last, 1, SIZE - 1), 0);
    return first == 'x' && last == 'x';
}

START_TEST(adopted_one_is_zeroed)
{
    CLEANUP_FREE char *content = NULL;
    struct volume v;
    size_t len;

    temp_dir_make();
    make_filled("disk");
    ck_assert_int_eq(volume_adopt_check(temp_path("disk"), SIZE, &err), 0);
    ck_assert(still_filled(temp_path("disk")));
    ck_assert_int_eq(volume_adopt(&v, temp_path("disk"), SIZE, false, &err), 0);
    ck_assert_int_eq(v.kind, VOLUME_EXISTING);
    ck_assert_uint_eq(v.size, SIZE);
    ck_assert_str_eq(v.path, temp_path("disk"));
    ck_assert_int_eq(file_read(v.path, SIZE, &content, &len), 0);
    ck_assert_uint_eq(len, SIZE);
    ck_assert(is_zero(content, SIZE));
    temp_dir_remove();
}
END_TEST

START_TEST(adopted_one_is_kept)
{
    struct volume v;

    temp_dir_make();
    make_filled("disk");
    ck_assert_int_eq(volume_adopt(&v, temp_path("disk"), SIZE, true, &err), 0);
    ck_assert_int_eq(v.kind, VOLUME_EXISTING);
    ck_assert(still_filled(v.path));
    ck_assert_int_eq(volume_reopen(&v, OURS, &err), 0);
    ck_assert(still_filled(v.path));
    ck_assert_int_eq(truncate(v.path, SIZE + 512), 0);
    ck_assert_int_eq(volume_reopen(&v, OURS, &err), -EINVAL);
    ck_assert_int_eq(volume_adopt(&v, temp_path("disk"), SIZE, true, &err), -EINVAL);
    temp_dir_remove();
}
END_TEST

START_TEST(adopted_one_of_another_size_is_left_alone)
{
    static const uint64_t sizes[] = {SIZE - 512, SIZE + 512, 0};
    struct volume v;

    temp_dir_make();
    make_filled("disk");
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        ck_assert_int_eq(volume_adopt(&v, temp_path("disk"), sizes[i], false, &err), -EINVAL);
        ck_assert_ptr_nonnull(strstr(err.text, "has 1049088 octets, the source's disk "));
        ck_assert_int_eq(volume_adopt_check(temp_path("disk"), sizes[i], &err), -EINVAL);
    }
    ck_assert(still_filled(temp_path("disk")));
    ck_assert_int_eq(volume_adopt(&v, temp_path("none"), SIZE, false, &err), -ENOENT);
    temp_dir_remove();
}
END_TEST

START_TEST(adopted_path_too_long)
{
    static char path[VOLUME_PATH_MAX + 1];
    struct volume v;

    memset(path, '/', VOLUME_PATH_MAX);
    ck_assert_int_eq(volume_adopt(&v, path, SIZE, false, &err), -ENAMETOOLONG);
}
END_TEST

START_TEST(adopted_device_must_be_free)
{
    struct loop_device l;
    struct volume v;

    temp_dir_make();
    if (loop_device_make(&l, "disk", SIZE, "512")) {
        CLEANUP_CLOSE int holder = open(l.path, O_RDWR | O_EXCL);
        uint8_t *sector = aligned_alloc(4096, 4096);

        ck_assert_int_ge(holder, 0);
        memset(sector, 'x', 512);
        ck_assert_int_eq(fd_pwrite_full(holder, sector, 512, MIB(1)), 0);
        ck_assert_int_eq(volume_adopt(&v, l.path, SIZE, false, &err), -EBUSY);
        ck_assert_int_eq(volume_adopt_check(l.path, SIZE, &err), -EBUSY);
        ck_assert_int_eq(fd_pread_full(holder, sector, 1, MIB(1)), 0);
        ck_assert_int_eq(sector[0], 'x');
        (void)close(take_fd(&holder));
        ck_assert_int_eq(volume_adopt(&v, l.path, SIZE, false, &err), 0);
        holder = open(l.path, O_RDONLY);
        ck_assert_int_eq(fd_pread_full(holder, sector, 512, MIB(1)), 0);
        ck_assert(is_zero(sector, 512));
        (void)close(take_fd(&holder));
        free(sector);
        loop_device_remove(&l);
    }
    temp_dir_remove();
}
END_TEST

UNIT_MAIN("volume", srs, no_srs, safe_names, long_names_are_cut, plans, created_file_is_of_exact_size_and_zero,
          what_is_there_is_not_made_again, impossible_size_leaves_nothing, folder_that_is_not_there,
          own_file_is_removed, open_file_is_waited_for, file_in_use_stays, file_of_another_migration_stays, file_without_a_mark_stays,
          file_with_a_strange_mark_stays, empty_file_without_a_mark_is_removed, own_file_is_reopened,
          own_lv_is_reopened, existing_one_stays, full_folder_is_told_with_both_figures,
          full_file_system_ends_writing, file_system_without_attributes, adopted_one_is_zeroed, adopted_one_is_kept,
          adopted_one_of_another_size_is_left_alone, adopted_path_too_long, adopted_device_must_be_free)
