/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mirror/bpf/programs.h"
#include "base/bitmap.h"
#include "base/clock.h"
#include "base/log.h"

#include <assert.h>
#include <bpf/bpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Generated code: it is not ours to warn about. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wshadow"
#pragma GCC diagnostic ignored "-Wpragmas"
#include "tracker.skel.h"
#pragma GCC diagnostic pop

#define AREA          "mirror.tracker"
#define INFLIGHT_BIOS 65536 /* about 6 MiB of kernel memory */
#define LOAD_TRIES    3     /* under emulation libbpf fails to find the kernel's BTF now and then */
#define KERNEL_BTF    "/sys/kernel/btf/vmlinux"

/* libbpf speaks to stderr on its own, but rooms never print. */
static int libbpf_log(enum libbpf_print_level level, const char *fmt, va_list ap)
{
    char line[512];

    (void)level;
    (void)vsnprintf(line, sizeof(line), fmt, ap);
    line[strcspn(line, "\n")] = '\0';
    log_debug(AREA, "%s", line);
    return 0;
}

#ifdef XMOTION_TEST_HOOKS
/* XMOTION_TEST_TRACKER of tracker.h. */
static void apply_test_options(struct tracker_kern *kern, bool request_based)
{
    const char *options = getenv("XMOTION_TEST_TRACKER");
    const char *overflow;

    if (!options || !*options)
        return;
    log_warn(AREA, "test options are in force, DATA WILL BE LOST: %s", options);
    if (strstr(options, "submission")) {
        kern->rodata->target.test_submission = 1;
        (void)bpf_program__set_autoload(kern->progs.rq_issue, request_based);
    }
    if (strstr(options, "audit"))
        kern->rodata->target.test_miss = 50;
    overflow = strstr(options, "overflow=");
    if (overflow)
        (void)bpf_map__set_max_entries(kern->maps.inflight,
                                       (uint32_t)strtoul(overflow + strlen("overflow="), NULL, 10));
}
#else
static void apply_test_options(struct tracker_kern *kern, bool request_based)
{
    (void)kern;
    (void)request_based;
}
#endif

static void set_target(struct tracker_kern *kern, const struct block_place *place)
{
    kern->rodata->target.disk_major = place->disk_major;
    kern->rodata->target.disk_minor = place->disk_minor;
    kern->rodata->target.start = place->start;
    kern->rodata->target.end = place->start + place->size / 512;
    /* As the kernel packs device numbers inside, not as stat() shows them. */
    if (place->partition)
        kern->rodata->target.part_dev = place->major << 20 | place->minor;
}

/* Only the programs of the device's class are loaded. */
static int configure(struct tracker_kern *kern, const struct block_place *place, uint64_t blocks)
{
    bool rq = place->request_based;
    int r;

    set_target(kern, place);
    (void)bpf_program__set_autoload(kern->progs.rq_complete, rq);
    (void)bpf_program__set_autoload(kern->progs.rq_complete_again, rq);
    (void)bpf_program__set_autoload(kern->progs.rq_complete_last, rq);
    (void)bpf_program__set_autoload(kern->progs.rq_issue, false);
    (void)bpf_program__set_autoload(kern->progs.bio_queue, !rq);
    (void)bpf_program__set_autoload(kern->progs.bio_complete, !rq);
    (void)bpf_program__set_autoload(kern->progs.bio_complete_again, !rq);
    (void)bpf_program__set_autoload(kern->progs.bio_complete_last, !rq);
    if (!rq) {
        r = bpf_map__set_max_entries(kern->maps.inflight, INFLIGHT_BIOS);
        if (r < 0)
            return r;
    }
    apply_test_options(kern, rq);
    return bpf_map__set_max_entries(kern->maps.bitmap, (uint32_t)bitmap_words(blocks));
}

static int load_once(struct programs *p, const struct block_place *place, uint64_t blocks)
{
    int r;

    p->kern = tracker_kern__open();
    if (!p->kern)
        return -errno;
    r = configure(p->kern, place, blocks);
    if (r == 0)
        r = tracker_kern__load(p->kern);
    if (r < 0) {
        tracker_kern__destroy(p->kern);
        p->kern = NULL;
    }
    return r;
}

/* What the errno of a failed load means to the reader. */
static int load_error(int r, struct err *err)
{
    if (r == -EPERM) /* -EACCES is the verifier's */
        return err_set(err, -EPERM,
                       "loading BPF programs is not permitted here: it needs root "
                       "(CAP_BPF and CAP_PERFMON), and a kernel that is not locked "
                       "down to confidentiality");
    if (access(KERNEL_BTF, R_OK) < 0)
        return err_set(err, -ENOSYS,
                       "this kernel does not describe its types (no " KERNEL_BTF
                       "): it was built without CONFIG_DEBUG_INFO_BTF");
    if (r == -ENOSYS)
        return err_set(err, -ENOSYS, "this kernel was built without BPF (CONFIG_BPF_SYSCALL)");
    if (r == -ENOMEM)
        return err_set(err, r, "no memory for the tracker's programs and bitmap");
    return err_errno(err, -ENOSYS,
                     "this kernel does not take the tracker's programs (error %d; "
                     "-D " AREA " shows the kernel's reasons)",
                     -r);
}

static int load(struct programs *p, const struct block_place *place, uint64_t blocks,
                struct err *err)
{
    int r = -ESRCH;

    for (int i = 0; i < LOAD_TRIES && r == -ESRCH; i++) {
        if (i > 0)
            clock_sleep(50 * NS_PER_MS);
        r = load_once(p, place, blocks);
    }
    return r < 0 ? load_error(r, err) : 0;
}

static int map_bitmap(struct programs *p, uint64_t blocks, struct err *err)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t len = (size_t)bitmap_words(blocks) * sizeof(uint64_t);
    void *words;

    len = (len + page - 1) / page * page;
    words =
        mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, bpf_map__fd(p->kern->maps.bitmap), 0);
    if (words == MAP_FAILED)
        return err_errno(err, -errno, "cannot map the tracker's bitmap");
    p->words = words;
    p->words_len = len;
    return 0;
}

static int attach(struct bpf_program *program, struct bpf_link **ret_link, struct err *err)
{
    if (!bpf_program__autoload(program))
        return 0;
    *ret_link = bpf_program__attach(program);
    if (!*ret_link)
        return err_errno(err, -errno, "cannot attach the tracker's program %s",
                         bpf_program__name(program));
    return 0;
}

/* Completion first: a bio that was remembered but whose end went by unseen would stay in the map
 * for ever; one whose end is seen only counts as unknown, until tracker-bpf.c has settled. */
static int attach_all(struct programs *p, struct err *err)
{
    struct tracker_kern *k = p->kern;
    int r;

    /* Copies run in the order in which they were attached (tracker.bpf.c, take). */
    r = attach(k->progs.rq_complete, &k->links.rq_complete, err);
    if (r == 0)
        r = attach(k->progs.rq_complete_again, &k->links.rq_complete_again, err);
    if (r == 0)
        r = attach(k->progs.rq_complete_last, &k->links.rq_complete_last, err);
    if (r == 0)
        r = attach(k->progs.rq_issue, &k->links.rq_issue, err);
    if (r == 0)
        r = attach(k->progs.bio_complete, &k->links.bio_complete, err);
    if (r == 0)
        r = attach(k->progs.bio_complete_again, &k->links.bio_complete_again, err);
    if (r == 0)
        r = attach(k->progs.bio_complete_last, &k->links.bio_complete_last, err);
    if (r == 0)
        r = attach(k->progs.bio_queue, &k->links.bio_queue, err);
    return r;
}

int programs_start(struct programs *p, const struct block_place *place, uint64_t blocks,
                   struct err *err)
{
    int r;

    memset(p, 0, sizeof(*p));
    if (bitmap_words(blocks) > UINT32_MAX)
        return err_set(err, -EFBIG, "the device is larger than 2^38 blocks of 4 KiB");
    (void)libbpf_set_print(libbpf_log);
    r = load(p, place, blocks, err);
    if (r < 0)
        return r;
    p->counts = &p->kern->bss->counts;
    r = map_bitmap(p, blocks, err);
    if (r < 0)
        return r;
    return attach_all(p, err);
}

void programs_finish(struct programs *p)
{
    if (p->words)
        (void)munmap(p->words, p->words_len);
    tracker_kern__destroy(p->kern);
    memset(p, 0, sizeof(*p));
}

int programs_misses(const struct programs *p, uint64_t *ret_misses, struct err *err)
{
    struct bpf_program *program;

    *ret_misses = 0;
    bpf_object__for_each_program(program, p->kern->obj)
    {
        struct bpf_prog_info info = {0};
        uint32_t len = sizeof(info);

        if (!bpf_program__autoload(program))
            continue;
        if (bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &len) < 0)
            return err_errno(err, -errno, "cannot ask the kernel about the tracker's programs");
        *ret_misses += info.recursion_misses;
    }
    return 0;
}
