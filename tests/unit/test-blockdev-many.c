/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Many reads and writes of a disk at once: the same as one after another, whatever the kernel's asynchronous I/O does. Its calls pass
 * through here, where they can be counted, refused and spoiled. */
#include "base/bytes.h"
#include "base/clock.h"
#include "mirror/direct-io.h"

#include "loop-device.h"

#include <errno.h>
#include <libaio.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/syscall.h>

#define BLOCK  4096u
#define DISK   MIB(8)
#define BLOCKS (DISK / BLOCK)
#define COUNT  600u /* more than are asked for together */

static struct blockdev *dev;
static struct err err;
static uint8_t *content; /* what the disk holds */
static uint8_t *memory;  /* COUNT blocks */
static unsigned int seed = 1;

/* -- the kernel's calls -- */

static struct {
    atomic_uint setups, submits, destroys;
    bool refuse;              /* to set up */
    unsigned int most;        /* requests that are taken at a time; 0: all */
    unsigned int submits_fail_after; /* 0: never */
    bool no_events;           /* waiting fails */
    unsigned int spoil_every; /* result, which is then `result`; 0: none */
    unsigned long result;
    uint64_t delay_ns; /* of what ended */
    atomic_uint under_way, most_under_way; /* the latter of one thread's calls */
} kernel;

int io_setup(int count, io_context_t *ret)
{
    kernel.setups++;
    if (kernel.refuse)
        return -EAGAIN;
    return syscall(SYS_io_setup, count, ret) < 0 ? -errno : 0;
}

int io_destroy(io_context_t context)
{
    kernel.destroys++;
    return syscall(SYS_io_destroy, context) < 0 ? -errno : 0;
}

int io_submit(io_context_t context, long count, struct iocb **requests)
{
    long r;

    kernel.submits++;
    if (kernel.submits_fail_after && kernel.submits > kernel.submits_fail_after)
        return -EAGAIN;
    r = syscall(SYS_io_submit, context, kernel.most ? MIN(count, (long)kernel.most) : count, requests);
    kernel.under_way += r > 0 ? (unsigned int)r : 0;
    kernel.most_under_way = MAX(kernel.most_under_way, kernel.under_way);
    return r < 0 ? -errno : (int)r;
}

int io_getevents(io_context_t context, long least, long most, struct io_event *events, struct timespec *timeout)
{
    static atomic_uint ended;
    long r;

    if (kernel.no_events)
        return -EINVAL;
    clock_sleep(kernel.delay_ns);
    r = syscall(SYS_io_getevents, context, least, most, events, timeout);
    kernel.under_way -= r > 0 ? (unsigned int)r : 0;
    for (long i = 0; kernel.spoil_every && i < r; i++) {
        if (++ended % kernel.spoil_every == 0)
            events[i].res = kernel.result;
    }
    return r < 0 ? -errno : (int)r;
}

/* -- who reads -- */

static struct {
    uint64_t reads, octets, ns;
} told;

static void ended(void *data, uint32_t reads, uint64_t octets, uint64_t ns)
{
    ck_assert_ptr_eq(data, &told);
    told.reads += reads;
    told.octets += octets;
    told.ns += ns;
}

/* -- a disk -- */

static void fill(uint8_t *to, size_t len)
{
    for (size_t i = 0; i < len; i++)
        to[i] = (uint8_t)rand_r(&seed);
}

static uint8_t *aligned(size_t len)
{
    void *p;

    ck_assert_int_eq(posix_memalign(&p, BLOCKDEV_ALIGN, len), 0);
    return p;
}

static void open_disk(const char *path, unsigned int flags)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);

    content = aligned(DISK);
    memory = aligned((size_t)COUNT * BLOCK);
    fill(content, DISK);
    ck_assert_int_eq(fd_pwrite_full(fd, content, DISK, 0), 0);
    ck_assert_int_eq(fsync(fd), 0);
    ck_assert_int_eq(close(fd), 0);
    ck_assert_msg(blockdev_open_file(&dev, path, flags, &err) == 0, "%s", err.text);
    memset(&kernel, 0, sizeof(kernel));
}

static void begin_with(unsigned int flags)
{
    temp_dir_make();
    temp_write("disk", "", 0);
    ck_assert_int_eq(truncate(temp_path("disk"), DISK), 0);
    open_disk(temp_path("disk"), flags);
}

static void begin(void)
{
    begin_with(BLOCKDEV_DIRECT | BLOCKDEV_WRITE);
}

static void end(void)
{
    blockdev_close(dev);
    free(content);
    free(memory);
    temp_dir_remove();
}

/* What cannot be read past the page cache here is not asked for at once. */
static void check_asked(void)
{
    if (!kernel.submits)
        skipped("no O_DIRECT in /tmp");
}

/* Runs of one to three blocks, with gaps, upwards; every one has room for three in `memory`. */
static uint32_t random_runs(struct blockdev_read *ret, uint32_t most)
{
    uint64_t block = (uint64_t)rand_r(&seed) % 8;
    uint8_t *to = memory;
    uint32_t n = 0;

    for (; n < most && block + 3 < BLOCKS; n++) {
        size_t len = (1 + (size_t)rand_r(&seed) % 3) * BLOCK;

        if (to + len > memory + (size_t)COUNT * BLOCK)
            break;
        ret[n] = (struct blockdev_read){.buf = to, .len = len, .offset = block * BLOCK};
        to += len;
        block += len / BLOCK + 1 + (uint64_t)rand_r(&seed) % 3;
    }
    return n;
}

static bool is_read(const struct blockdev_read *reads, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        if (memcmp(reads[i].buf, content + reads[i].offset, reads[i].len) != 0)
            return false;
    }
    return true;
}

static void check_reads(void)
{
    struct blockdev_read reads[COUNT];
    uint32_t count = random_runs(reads, COUNT);

    memset(memory, 0, (size_t)COUNT * BLOCK);
    ck_assert_msg(blockdev_pread_many(dev, reads, count, NULL, &err) == 0, "%s", err.text);
    ck_assert(is_read(reads, count));
}

/* Every second block, more of them than a group has. */
static uint32_t all_over(struct blockdev_read *ret)
{
    for (uint32_t i = 0; i < COUNT; i++)
        ret[i] = (struct blockdev_read){.buf = memory + (size_t)i * BLOCK, .len = BLOCK, .offset = (uint64_t)i * 2 * BLOCK};
    return COUNT;
}

/* -- reads -- */

START_TEST(reads_are_as_one_by_one)
{
    struct blockdev_read reads[COUNT];

    begin();
    for (unsigned int i = 0; i < 50; i++)
        check_reads();
    ck_assert_int_eq(blockdev_pread_many(dev, reads, 0, NULL, &err), 0);
    ck_assert_int_eq(blockdev_pread_many(dev, reads, all_over(reads), NULL, &err), 0);
    ck_assert(is_read(reads, COUNT));
    check_asked();
    ck_assert_uint_le(kernel.setups, 1); /* it is used again */
    ck_assert_uint_eq(kernel.destroys, 0);
    end();
}
END_TEST

START_TEST(reads_of_a_device)
{
    struct loop_device l;

    temp_dir_make();
    if (loop_device_make(&l, "disk", DISK, "4096")) {
        open_disk(l.path, 0);
        for (unsigned int i = 0; i < 20; i++)
            check_reads();
        ck_assert_uint_gt(kernel.submits, 0); /* whatever the flags say */
        end();
        loop_device_remove(&l);
    } else {
        temp_dir_remove();
    }
}
END_TEST

START_TEST(cached_files_are_read_one_by_one)
{
    begin_with(BLOCKDEV_WRITE);
    check_reads();
    ck_assert_uint_eq(kernel.setups + kernel.submits, 0);
    end();
}
END_TEST

/* In the middle of a list: it is told as a single read tells it, and nothing is under way any more. */
START_TEST(short_read_is_told)
{
    struct blockdev_read reads[COUNT];

    begin();
    ck_assert_int_eq(truncate(temp_path("disk"), 300 * 2 * BLOCK + 512), 0);
    ck_assert_int_eq(blockdev_pread_many(dev, reads, all_over(reads), NULL, &err), -ENODATA);
    ck_assert_msg(strstr(err.text, "/disk: reading 4096 octets at 2457600: ") != NULL, "%s", err.text);
    ck_assert(is_read(reads, 256));
    end();
}
END_TEST

START_TEST(error_in_the_middle_is_told)
{
    struct blockdev_read reads[COUNT];

    begin();
    (void)all_over(reads);
    reads[100].buf = memory + 1; /* not what O_DIRECT takes */
    if (dev->ops->pread(dev, memory + 1, BLOCK, 0, &err) == 0)
        skipped("any memory will do here");
    else {
        ck_assert_int_eq(blockdev_pread_many(dev, reads, COUNT, NULL, &err), -EINVAL);
        ck_assert_msg(strstr(err.text, "/disk: reading 4096 octets at 819200: Invalid argument") != NULL, "%s", err.text);
    }
    end();
}
END_TEST

/* What comes back wrong is read again in the plain way. */
START_TEST(results_that_are_wrong)
{
    begin();
    kernel.spoil_every = 7;
    kernel.result = (unsigned long)-EIO;
    check_reads();
    kernel.result = 512;
    check_reads();
    kernel.result = 0;
    check_reads();
    check_asked();
    end();
}
END_TEST

START_TEST(kernel_that_refuses)
{
    begin();
    kernel.refuse = true;
    check_reads();
    check_reads();
    ck_assert_uint_eq(kernel.submits, 0);
    kernel.refuse = false;
    check_reads();
    check_asked();
    end();
}
END_TEST

START_TEST(kernel_that_takes_few)
{
    begin();
    kernel.most = 3;
    check_reads();
    kernel.most = 0;
    kernel.submits_fail_after = kernel.submits + 5;
    check_reads();
    check_reads();
    check_asked();
    end();
}
END_TEST

/* The context is given up, which waits for what is under way; the next one has another. */
START_TEST(kernel_that_tells_no_end)
{
    begin();
    kernel.no_events = true;
    check_reads();
    ck_assert_uint_eq(kernel.destroys > 0, kernel.submits > 0);
    kernel.no_events = false;
    check_reads();
    check_asked();
    end();
}
END_TEST

/* Who is alone with the disk waits for nobody; a disk that is not known yet is begun with one. */
START_TEST(alone_is_at_once)
{
    struct blockdev_reader reader = {.ended = NULL};
    struct blockdev_read reads[COUNT];

    begin();
    ck_assert_int_eq(blockdev_pread_many(dev, reads, MIN(all_over(reads), 10), NULL, &err), 0);
    ck_assert_uint_le(kernel.most_under_way, 1);
    reader = (struct blockdev_reader){.ended = ended, .data = &told, .alone = true};
    ck_assert_int_eq(blockdev_pread_many(dev, reads, COUNT, &reader, &err), 0);
    ck_assert_uint_eq(kernel.most_under_way, kernel.submits ? DIRECT_IO_DEPTH : 0);
    check_asked();
    end();
}
END_TEST

/* -- threads -- */

struct reader {
    pthread_t thread;
    uint8_t *memory;
    unsigned int seed;
    bool right;
};

static void *read_for_a_while(void *data)
{
    struct reader *reader = data;
    struct blockdev_read reads[64];
    struct err why = {0};

    for (unsigned int round = 0; reader->right && round < 100; round++) {
        for (uint32_t i = 0; i < ARRAY_SIZE(reads); i++)
            reads[i] = (struct blockdev_read){.buf = reader->memory + (size_t)i * BLOCK,
                                              .len = BLOCK,
                                              .offset = (uint64_t)rand_r(&reader->seed) % BLOCKS * BLOCK};
        reader->right = blockdev_pread_many(dev, reads, ARRAY_SIZE(reads), NULL, &why) == 0 && is_read(reads, ARRAY_SIZE(reads));
    }
    return NULL;
}

START_TEST(many_threads_read)
{
    struct reader readers[8];

    begin();
    for (unsigned int i = 0; i < ARRAY_SIZE(readers); i++) {
        readers[i] = (struct reader){.memory = aligned(64 * BLOCK), .seed = i + 1, .right = true};
        ck_assert_int_eq(pthread_create(&readers[i].thread, NULL, read_for_a_while, &readers[i]), 0);
    }
    for (unsigned int i = 0; i < ARRAY_SIZE(readers); i++) {
        ck_assert_int_eq(pthread_join(readers[i].thread, NULL), 0);
        ck_assert(readers[i].right);
        free(readers[i].memory);
    }
    check_asked();
    ck_assert_uint_le(kernel.setups, ARRAY_SIZE(readers));
    end();
}
END_TEST

/* -- what they cost -- */

static const struct blockdev_reader reader = {.ended = ended, .data = &told, .alone = true};

static void check_told(uint64_t least_ns)
{
    struct blockdev_read reads[COUNT];
    uint64_t begun = clock_now();

    memset(&told, 0, sizeof(told));
    ck_assert_int_eq(blockdev_pread_many(dev, reads, all_over(reads), &reader, &err), 0);
    ck_assert_uint_eq(told.reads, COUNT);
    ck_assert_uint_eq(told.octets, COUNT * BLOCK);
    ck_assert_uint_ge(told.ns, least_ns);
    ck_assert_uint_le(told.ns, DIRECT_IO_DEPTH * (clock_now() - begun));
}

START_TEST(each_is_told_once)
{
    begin();
    check_told(1);
    kernel.spoil_every = 5;
    check_told(1);
    kernel.spoil_every = 0;
    kernel.refuse = true;
    check_told(1);
    end();
}
END_TEST

/* Each read has its own time, those of the others in it. */
START_TEST(times_of_reads_at_once_add_up)
{
    begin();
    check_reads();
    kernel.delay_ns = 2 * NS_PER_MS;
    check_told(kernel.submits ? COUNT * 2 * NS_PER_MS : 1);
    check_asked();
    end();
}
END_TEST

static void read_figures(const char *device, uint64_t *ret_reads, uint64_t *ret_ms)
{
    char path[100], line[300] = "";
    FILE *f;

    (void)snprintf(path, sizeof(path), "/sys/block/%s/stat", device + strlen("/dev/"));
    f = fopen(path, "re");
    ck_assert_ptr_nonnull(f);
    ck_assert_ptr_nonnull(fgets(line, sizeof(line), f));
    (void)fclose(f);
    ck_assert_int_eq(sscanf(line, "%lu %*u %*u %lu", ret_reads, ret_ms), 2);
}

/* The brake takes ours out of the device's figures (care.h): as many, and no less time. */
START_TEST(times_are_not_below_the_devices)
{
    uint64_t reads[2], ms[2];
    struct loop_device l;

    temp_dir_make();
    if (loop_device_make(&l, "disk", DISK, "512")) {
        open_disk(l.path, 0);
        read_figures(l.path, &reads[0], &ms[0]);
        check_told(1);
        read_figures(l.path, &reads[1], &ms[1]);
        ck_assert_uint_eq(reads[1] - reads[0], COUNT);
        ck_assert_uint_ge(told.ns / NS_PER_MS + 1, ms[1] - ms[0]);
        end();
        loop_device_remove(&l);
    } else {
        temp_dir_remove();
    }
}
END_TEST

/* -- writes -- */

/* New content for random runs, `shift` octets beyond aligned memory; then the disk is as it should be. */
static void check_writes(size_t shift)
{
    uint8_t *from = aligned((size_t)COUNT * BLOCK + shift) + shift;
    struct blockdev_read runs[COUNT];
    struct blockdev_write writes[COUNT];
    uint32_t count = random_runs(runs, COUNT);

    fill(from, (size_t)COUNT * BLOCK);
    for (uint32_t i = 0; i < count; i++) {
        writes[i] = (struct blockdev_write){
            .buf = from + ((uint8_t *)runs[i].buf - memory), .len = runs[i].len, .offset = runs[i].offset};
        memcpy(content + writes[i].offset, writes[i].buf, writes[i].len);
    }
    ck_assert_msg(blockdev_pwrite_many(dev, writes, count, &err) == 0, "%s", err.text);
    free(from - shift);
    from = aligned(DISK);
    ck_assert_msg(dev->ops->pread(dev, from, DISK, 0, &err) == 0, "%s", err.text);
    ck_assert_int_eq(memcmp(from, content, DISK), 0);
    free(from);
}

START_TEST(writes_are_as_one_by_one)
{
    begin();
    for (unsigned int i = 0; i < 5; i++) {
        check_writes(0);
        check_writes(24);
    }
    kernel.spoil_every = 7;
    kernel.result = (unsigned long)-EIO;
    check_writes(0);
    kernel.result = 512;
    check_writes(512);
    kernel.spoil_every = 0;
    kernel.most = 5;
    check_writes(1);
    kernel.most = 0;
    kernel.no_events = true;
    check_writes(0);
    check_asked();
    kernel.no_events = false;
    kernel.refuse = true;
    check_writes(24);
    end();
}
END_TEST

START_TEST(cached_files_are_written_one_by_one)
{
    begin_with(BLOCKDEV_WRITE);
    check_writes(0);
    check_writes(24);
    ck_assert_uint_eq(kernel.setups + kernel.submits, 0);
    end();
}
END_TEST

START_TEST(error_of_a_write_is_told)
{
    struct blockdev_write writes[3];

    begin_with(BLOCKDEV_DIRECT);
    for (uint32_t i = 0; i < ARRAY_SIZE(writes); i++)
        writes[i] = (struct blockdev_write){.buf = memory, .len = BLOCK, .offset = (i + 1) * BLOCK};
    ck_assert_int_eq(blockdev_pwrite_many(dev, writes, ARRAY_SIZE(writes), &err), -EBADF);
    ck_assert_msg(strstr(err.text, "/disk: writing 4096 octets at 4096: ") != NULL, "%s", err.text);
    end();
}
END_TEST

UNIT_MAIN("blockdev-many", reads_are_as_one_by_one, reads_of_a_device, cached_files_are_read_one_by_one, short_read_is_told,
          error_in_the_middle_is_told, results_that_are_wrong, kernel_that_refuses, kernel_that_takes_few, kernel_that_tells_no_end,
          alone_is_at_once, many_threads_read, each_is_told_once, times_of_reads_at_once_add_up, times_are_not_below_the_devices,
          writes_are_as_one_by_one, cached_files_are_written_one_by_one, error_of_a_write_is_told)
