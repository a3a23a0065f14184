/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "cli/confine.h"

#include "base/bytes.h"
#include "base/log.h"
#include "config.h"

#include <linux/capability.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>
#if HAVE_SECCOMP
#include <seccomp.h>
#endif

#define AREA      "cli.confine"
#define OR_NOT    "start the receiver with --no-confine to run with every privilege"
#define CAPS_MOST 64

static int no_new_privileges(struct err *err)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return err_errno(err, -errno, "cannot give up new privileges; " OR_NOT);
    return 0;
}

/* -- capabilities -- */

/* Who needs it. Not here, and gone: CAP_SYS_MODULE (modules are loaded when the host starts, or by the kernel itself), CAP_SYS_RAWIO and
 * CAP_SYS_BOOT, CAP_SYS_TIME, CAP_BPF and CAP_PERFMON (only senders track), CAP_DAC_READ_SEARCH (files by handle), CAP_SETPCAP,
 * CAP_SETFCAP, CAP_LINUX_IMMUTABLE, CAP_NET_BIND_SERVICE (the socket is open), CAP_SYSLOG, CAP_AUDIT_*, CAP_MAC_*
 * and whatever comes with later kernels. */
static const unsigned int kept[] = {
    CAP_SYS_ADMIN,    /* device-mapper, loop devices, Xen's devices, device models in namespaces of their own */
    CAP_NET_ADMIN,    /* vif scripts: bridges, links, firewall; large socket buffers */
    CAP_NET_RAW,      /* the same: firewall, neighbours are told where the guest is */
    CAP_MKNOD,        /* lvm2 without udev */
    CAP_DAC_OVERRIDE, /* /etc/lvm, /run/lvm, files of other users that --allow-disk names */
    CAP_CHOWN,        /* sockets and logs of device models that run as another user */
    CAP_FOWNER,       /* the same */
    CAP_FSETID,       /* the same */
    CAP_SETUID,       /* QEMU -runas */
    CAP_SETGID,       /* the same */
    CAP_SYS_CHROOT,   /* QEMU -chroot */
    CAP_KILL,         /* to end such a device model */
    CAP_IPC_LOCK,     /* libxencall's buffers, lvm2 while a device is suspended */
    CAP_SYS_NICE,     /* the same; vCPU threads of device models */
    CAP_SYS_RESOURCE, /* limits and OOM score of device models */
    CAP_SYS_PTRACE,   /* userfaultfd of embedded guests; ptrace itself is denied below */
    CAP_LEASE,        /* whether somebody uses a file that --allow-disk names */
};

static uint64_t kept_mask(void)
{
    uint64_t mask = 0;

    for (size_t i = 0; i < ARRAY_SIZE(kept); i++)
        mask |= UINT64_C(1) << kept[i];
    return mask;
}

static int get_caps(struct __user_cap_header_struct *head, struct __user_cap_data_struct data[2], struct err *err)
{
    head->version = _LINUX_CAPABILITY_VERSION_3;
    head->pid = 0;
    return syscall(SYS_capget, head, data) < 0 ? err_errno(err, -errno, "cannot read capabilities; " OR_NOT) : 0;
}

/* Programs that we start can have no more than this, whatever they are. Who may not change it has no_new_privs for the same end: exec
 * adds nothing to what we have. */
static int shrink_bounding_set(const struct __user_cap_data_struct data[2], struct err *err)
{
    if (!(data[0].effective & 1u << CAP_SETPCAP))
        return 0;
    for (unsigned int cap = 0; cap < CAPS_MOST; cap++) {
        if (kept_mask() & UINT64_C(1) << cap || prctl(PR_CAPBSET_READ, cap, 0, 0, 0) != 1)
            continue;
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
            return err_errno(err, -errno, "cannot give up capability %u for good; " OR_NOT, cap);
    }
    return 0;
}

static int shed_capabilities(struct err *err)
{
    struct __user_cap_header_struct head;
    struct __user_cap_data_struct data[2] = {0};
    int r = get_caps(&head, data, err);

    if (r == 0)
        r = shrink_bounding_set(data, err);
    if (r < 0)
        return r;
    for (unsigned int i = 0; i < 2; i++) {
        uint32_t mask = (uint32_t)(kept_mask() >> (32 * i));

        data[i].effective &= mask;
        data[i].permitted &= mask;
        data[i].inheritable &= mask;
    }
    if (syscall(SYS_capset, &head, data) < 0)
        return err_errno(err, -errno, "cannot give up capabilities; " OR_NOT);
    return 0;
}

/* -- system calls -- */

#if HAVE_SECCOMP

/* LeakSanitizer looks at its process with ptrace. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PTRACE_CALLS
#else
#define PTRACE_CALLS "ptrace",
#endif

/* Denied. What children do need, and what is therefore not here: unshare and chroot (libxl's device models), setns (vif scripts in network
 * namespaces), userfaultfd (embedded guests), personality, name_to_handle_at (udev), memory policies. */
static const char *const denied[] = {
    /* another kernel, or none */
    "kexec_load", "kexec_file_load", "reboot", "swapon", "swapoff", "acct", "quotactl", "quotactl_fd",
    /* code of one's own in the kernel; see CAP_SYS_MODULE above */
    "init_module", "finit_module", "delete_module", "create_module", "bpf", "perf_event_open",
    /* memory and descriptors of other processes: guests, device models, senders */
    PTRACE_CALLS "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp",
    /* the tree of files: neither libxl nor lvm2 nor the stock hotplug scripts mount anything */
    "mount", "umount", "umount2", "pivot_root", "move_mount", "open_tree", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
    "open_by_handle_at", "fanotify_init",
    /* the clock: guests take theirs from it */
    "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "stime",
    /* keys of the kernel, its log, the host's name */
    "keyctl", "add_key", "request_key", "syslog", "sethostname", "setdomainname",
    /* ports of the machine */
    "iopl", "ioperm",
    /* ways around a filter, or old and seldom looked at; QEMU does without io_uring when it gets none */
    "io_uring_setup", "io_uring_enter", "io_uring_register", "modify_ldt", "vm86", "vm86old", "uselib", "_sysctl", "sysfs", "ustat",
    "lookup_dcookie", "nfsservctl", "vhangup",
};

static int deny_all(scmp_filter_ctx filter)
{
    for (size_t i = 0; i < ARRAY_SIZE(denied); i++) {
        int call = seccomp_syscall_resolve_name(denied[i]);
        int r = call == __NR_SCMP_ERROR ? 0 : seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), call, 0);

        if (r < 0) /* a name that this library does not know yet is none of the kernels it was made for */
            return r;
    }
    return 0;
}

/* Letters typed into the terminal that the receiver was started from; and user namespaces, in which who is nobody has every capability.
 * clone3 hides its flags from filters: without it the C library takes clone. */
static int deny_some(scmp_filter_ctx filter)
{
    const uint64_t all = UINT32_MAX;
    int r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, all, TIOCSTI));

    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1, SCMP_A1(SCMP_CMP_MASKED_EQ, all, TIOCLINUX));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(unshare), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(clone), 1,
                             SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_NEWUSER, CLONE_NEWUSER));
    if (r == 0)
        r = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    return r;
}

static int filter_calls(struct err *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    int r = filter ? seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1) : -ENOMEM;

    if (r == 0)
        r = deny_all(filter);
    if (r == 0)
        r = deny_some(filter);
    if (r == 0)
        r = seccomp_load(filter);
    seccomp_release(filter);
    return r < 0 ? err_errno(err, r, "cannot filter system calls (seccomp); " OR_NOT) : 0;
}

#else

static int filter_calls(struct err *err)
{
    (void)err;
    log_warn(AREA, "built without libseccomp: system calls are not filtered");
    return 0;
}

#endif

/* -- what is left behind -- */

/* A limit of 1 octet, not 0: the kernel pipes a core to a program (core_pattern) whatever the limit is, but for this one. */
static int no_core_dumps(struct err *err)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_CORE, &limit) < 0)
        return err_errno(err, -errno, "cannot read the limit of core dumps; " OR_NOT);
    limit.rlim_max = MIN(limit.rlim_max, 1);
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_CORE, &limit) < 0)
        return err_errno(err, -errno, "cannot switch core dumps off; " OR_NOT);
    return 0;
}

int confine_receiver(struct err *err)
{
    int r;

    (void)umask(077);
    r = no_core_dumps(err);
    if (r == 0)
        r = no_new_privileges(err);
    if (r == 0)
        r = shed_capabilities(err);
    return r == 0 ? filter_calls(err) : r;
}
