/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a receiver has given up, seen from inside and from a program that it starts. Each case confines a process of its own (Check
 * forks), as root with all, as root without CAP_SETPCAP, and as nobody. */
#include "base/bytes.h"
#include "cli/confine.h"
#include "config.h"

#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODY 65534

static struct err err;

static bool is_root(void)
{
    return geteuid() == 0;
}

static void confine(void)
{
    ck_assert_msg(confine_receiver(&err) == 0, "%s", err.text);
}

static void get_caps(struct __user_cap_data_struct data[2])
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};

    ck_assert_int_eq(syscall(SYS_capget, &head, data), 0);
}

static bool has_cap(unsigned int cap)
{
    struct __user_cap_data_struct data[2];

    get_caps(data);
    return data[cap / 32].permitted & 1u << cap % 32;
}

static void lose_cap(unsigned int cap)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    get_caps(data);
    data[cap / 32].effective &= ~(1u << cap % 32);
    data[cap / 32].permitted &= ~(1u << cap % 32);
    ck_assert_int_eq(syscall(SYS_capset, &head, data), 0);
}

/* A number of /proc/self/status as a program sees it that we start; 16 for capabilities. */
static uint64_t status_of_child(const char *key, int base)
{
    char command[100], line[100];
    FILE *f;
    char *found;

    (void)snprintf(command, sizeof(command), "grep '^%s:' /proc/self/status", key);
    f = popen(command, "re");
    ck_assert_ptr_nonnull(f);
    found = fgets(line, sizeof(line), f);
    ck_assert_ptr_nonnull(found);
    ck_assert_int_eq(pclose(f), 0);
    return strtoull(line + strlen(key) + 1, NULL, base);
}

static void check_left_behind(void)
{
    struct rlimit core;

    ck_assert_int_eq(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    ck_assert_int_eq(getrlimit(RLIMIT_CORE, &core), 0);
    ck_assert_uint_le(core.rlim_max, 1);
    ck_assert_uint_eq(umask(0), 077);
    ck_assert_uint_eq(status_of_child("NoNewPrivs", 10), 1);
}

/* A program that is started has none of these, whoever it is. */
static void check_lost_caps(void)
{
    static const unsigned int lost[] = {CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_BOOT, CAP_SYS_TIME, CAP_DAC_READ_SEARCH,
                                        CAP_SETPCAP, CAP_SETFCAP, CAP_SYSLOG, CAP_MAC_ADMIN, CAP_BPF, CAP_PERFMON,
                                        CAP_LINUX_IMMUTABLE, CAP_NET_BIND_SERVICE, CAP_CHECKPOINT_RESTORE};
    uint64_t permitted = status_of_child("CapPrm", 16);

    for (size_t i = 0; i < ARRAY_SIZE(lost); i++) {
        ck_assert_msg(!has_cap(lost[i]), "capability %u", lost[i]);
        ck_assert_msg(!(permitted & UINT64_C(1) << lost[i]), "capability %u of a child", lost[i]);
    }
    ck_assert_uint_eq(status_of_child("CapAmb", 16), 0);
}

START_TEST(root_gives_up)
{
    bool admin = has_cap(CAP_SYS_ADMIN);

    if (!is_root())
        return;
    confine();
    check_left_behind();
    check_lost_caps();
    /* What lvm2 and libxl need stays, if it was there. */
    ck_assert(has_cap(CAP_SYS_ADMIN) == admin);
    ck_assert((status_of_child("CapPrm", 16) >> CAP_SYS_ADMIN & 1) == admin);
    ck_assert_int_eq(prctl(PR_CAPBSET_READ, CAP_SYS_MODULE, 0, 0, 0), 0);
}
END_TEST

/* In a container that lets nobody change the bounding set. */
START_TEST(root_without_setpcap_gives_up)
{
    if (!is_root() || !has_cap(CAP_SETPCAP))
        return;
    lose_cap(CAP_SETPCAP);
    confine();
    check_left_behind();
    check_lost_caps();
    ck_assert_int_eq(prctl(PR_CAPBSET_READ, CAP_SYS_MODULE, 0, 0, 0), 1); /* of no use to anybody: see above */
}
END_TEST

START_TEST(nobody_gives_up)
{
    if (is_root()) {
        ck_assert_int_eq(setgroups(0, NULL), 0);
        ck_assert_int_eq(setresgid(NOBODY, NOBODY, NOBODY), 0);
        ck_assert_int_eq(setresuid(NOBODY, NOBODY, NOBODY), 0);
    }
    confine();
    check_left_behind();
    check_lost_caps();
    ck_assert_int_eq(unshare(CLONE_NEWUSER), -1);
    ck_assert_int_eq(errno, HAVE_SECCOMP ? EPERM : errno);
}
END_TEST

START_TEST(twice_is_once)
{
    confine();
    confine();
    check_left_behind();
}
END_TEST

#if HAVE_SECCOMP

#define DENIED(call)                                                                               \
    do {                                                                                           \
        errno = 0;                                                                                 \
        ck_assert_msg((call) == -1 && errno == EPERM, "%s: errno %d", #call, errno);               \
    } while (0)

/* With arguments that fail in another way where the call is let through (EFAULT, EINVAL, EBADF), root or not. */
START_TEST(calls_are_denied)
{
    confine();
    ck_assert_uint_eq(status_of_child("Seccomp", 10), 2);
    DENIED(syscall(SYS_kexec_load, 0, 0, NULL, ~0UL));
    DENIED(syscall(SYS_init_module, NULL, 0, NULL));
    DENIED(syscall(SYS_finit_module, -1, "", 0));
    DENIED(syscall(SYS_bpf, -1, NULL, 0));
    DENIED(syscall(SYS_perf_event_open, NULL, 0, 0, -1, 0));
    DENIED(syscall(SYS_process_vm_readv, getpid(), NULL, 0, NULL, 0, 0));
    DENIED(mount("none", "/nowhere", "tmpfs", 0, NULL));
    DENIED(umount("/nowhere"));
    DENIED(syscall(SYS_pivot_root, "/nowhere", "/nowhere"));
    DENIED(syscall(SYS_open_by_handle_at, -1, NULL, 0));
    DENIED(syscall(SYS_keyctl, -1, 0, 0, 0, 0));
    DENIED(syscall(SYS_add_key, NULL, NULL, NULL, 0, 0));
    DENIED(syscall(SYS_swapon, "/nowhere", 0));
    DENIED(syscall(SYS_syslog, -1, NULL, 0));
    DENIED(syscall(SYS_io_uring_setup, 0, NULL));
    DENIED(syscall(SYS_reboot, 0, 0, 0, NULL));
    DENIED(syscall(SYS_clock_settime, CLOCK_REALTIME, NULL));
    DENIED(syscall(SYS_sethostname, "", -1));
    DENIED(unshare(CLONE_NEWUSER | CLONE_NEWNS));
    DENIED(syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, NULL, NULL, NULL, NULL));
    DENIED(ioctl(-1, TIOCSTI, "x"));
    DENIED(ioctl(-1, TIOCLINUX | UINT64_C(1) << 32, "x")); /* the kernel looks at 32 bits */
}
END_TEST

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
START_TEST(ptrace_is_denied)
{
    confine();
    DENIED(syscall(SYS_ptrace, 0 /* PTRACE_TRACEME */, 0, 0, 0));
}
END_TEST
#endif

static void *thread_main(void *data)
{
    return data;
}

/* What threads, programs, embedded guests and many writes at once are made of is not. */
START_TEST(calls_are_left)
{
    unsigned long context = 0;
    pthread_t thread;
    void *result;
    int fd = 0;

    confine();
    ck_assert_int_eq(pthread_create(&thread, NULL, thread_main, &fd), 0);
    ck_assert_int_eq(pthread_join(thread, &result), 0);
    ck_assert_ptr_eq(result, &fd);
    ck_assert_int_eq(system("exit 7") >> 8, 7);
    ck_assert_int_eq(ioctl(-1, TIOCGWINSZ, NULL), -1);
    ck_assert_int_eq(errno, EBADF);
    fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1);
    ck_assert_msg(fd >= 0 || errno == ENOSYS, "userfaultfd: errno %d", errno);
    ck_assert_int_eq(unshare(0), 0);
    ck_assert_int_eq(syscall(SYS_io_setup, 1, &context), 0);
    ck_assert_int_eq(syscall(SYS_io_submit, context, 0, NULL), 0);
    ck_assert_int_eq(syscall(SYS_io_getevents, context, 0, 0, NULL, NULL), 0);
}
END_TEST

/* The filter holds threads that were there before as well. */
static void *waiting_main(void *data)
{
    int *pipe_fds = data;
    char octet;

    if (read(pipe_fds[0], &octet, 1) != 1)
        return NULL;
    return syscall(SYS_keyctl, -1, 0, 0, 0, 0) == -1 && errno == EPERM ? data : NULL;
}

START_TEST(threads_are_confined)
{
    pthread_t thread;
    void *result;
    int fds[2];

    ck_assert_int_eq(pipe(fds), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, waiting_main, fds), 0);
    confine();
    ck_assert_int_eq(write(fds[1], "x", 1), 1);
    ck_assert_int_eq(pthread_join(thread, &result), 0);
    ck_assert_ptr_eq(result, fds);
}
END_TEST

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define FILTER_TESTS , calls_are_denied, calls_are_left, threads_are_confined
#else
#define FILTER_TESTS , calls_are_denied, ptrace_is_denied, calls_are_left, threads_are_confined
#endif
#else
#define FILTER_TESTS
#endif

UNIT_MAIN("confine", root_gives_up, root_without_setpcap_gives_up, nobody_gives_up, twice_is_once FILTER_TESTS)
