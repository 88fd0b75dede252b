//! Calls that fail whatever their arguments.
//!
//! `EPERM` where a program should hear that it may not; `ENOSYS` where it has another way for kernels
//! that lack the call.

use libc::*;

use super::super::number;
use super::super::rule::Rule;
use super::Group;

const fn not_permitted(calls: &'static [c_long]) -> Group {
    Group { calls, rule: Rule::refuse(EPERM) }
}

const fn not_there(calls: &'static [c_long]) -> Group {
    Group { calls, rule: Rule::refuse(ENOSYS) }
}

/// In both profiles.
#[rustfmt::skip]
pub(super) const EVERYWHERE: &[Group] = &[
    // Mounts, by the old interface and the new: the jail's view is fixed before its command starts.
    not_permitted(&[
        SYS_mount, SYS_umount2, SYS_pivot_root, SYS_chroot, SYS_open_tree, number::OPEN_TREE_ATTR,
        SYS_move_mount, SYS_fsopen, SYS_fsconfig, SYS_fsmount, SYS_fspick, SYS_mount_setattr, SYS_swapon,
        SYS_swapoff, SYS_quotactl, SYS_quotactl_fd,
    ]),
    // Joining namespaces.
    not_permitted(&[SYS_setns]),
    // Files by handle pass over every directory permission above them; fanotify sees whole mounts.
    not_permitted(&[SYS_name_to_handle_at, SYS_open_by_handle_at, SYS_fanotify_init, SYS_fanotify_mark]),
    // The kernel itself.
    not_permitted(&[
        SYS_init_module, SYS_finit_module, SYS_delete_module, SYS_kexec_load, number::KEXEC_FILE_LOAD,
        SYS_reboot, SYS_acct, SYS_syslog, SYS_sethostname, SYS_setdomainname, SYS_vhangup,
    ]),
    // The host's clock. The adjtimex calls also read it, but who asks how well a clock is disciplined
    // means to set it.
    not_permitted(&[SYS_settimeofday, SYS_clock_settime, SYS_adjtimex, SYS_clock_adjtime]),
    // Large, often exploited parts of the kernel that a jail can do without.
    not_permitted(&[SYS_bpf, SYS_perf_event_open, SYS_userfaultfd]),
    // Keyrings are not all in a namespace.
    not_permitted(&[SYS_add_key, SYS_request_key, SYS_keyctl]),
    // Other processes' descriptors and kernel pointers.
    not_permitted(&[SYS_pidfd_getfd, SYS_kcmp]),
    // Input and output ports.
    #[cfg(target_arch = "x86_64")]
    not_permitted(&[SYS_iopl, SYS_ioperm]),
    // io_uring does what other calls do, out of the filter's sight. Its users have a way without.
    not_there(&[SYS_io_uring_setup, SYS_io_uring_enter, SYS_io_uring_register]),
    // Their arguments are behind a pointer, where no filter can look: libraries fall back to `clone` and
    // `openat`, whose flags and modes are in registers.
    not_there(&[SYS_clone3, SYS_openat2]),
    // Where memory lies among the nodes of a machine; libnuma takes this for a kernel without.
    not_there(&[
        SYS_mbind, SYS_set_mempolicy, SYS_get_mempolicy, SYS_set_mempolicy_home_node, SYS_migrate_pages,
        SYS_move_pages,
    ]),
    // Other processes' memory, for managers of whole systems.
    not_there(&[SYS_process_madvise, SYS_process_mrelease]),
    // New, with an older way beside them that everything still has: attributes of files by ioctl, mounts
    // by /proc/self/mountinfo, futexes by `futex`, cache state by `mincore`; LSM attributes by /proc.
    not_there(&[
        number::FILE_GETATTR, number::FILE_SETATTR, number::STATMOUNT, number::LISTMOUNT,
        number::FUTEX_WAKE, number::FUTEX_WAIT, number::FUTEX_REQUEUE, number::CACHESTAT,
        number::LSM_GET_SELF_ATTR, number::LSM_SET_SELF_ATTR, number::LSM_LIST_MODULES,
    ]),
    // Out of use, or never in it.
    not_there(&[SYS_remap_file_pages, SYS_lookup_dcookie, SYS_nfsservctl]),
    #[cfg(target_arch = "x86_64")]
    not_there(&[
        SYS_modify_ldt, SYS_set_thread_area, SYS_get_thread_area, SYS_uselib, SYS_ustat, SYS_sysfs,
        SYS__sysctl, SYS_getpmsg, SYS_putpmsg, SYS_afs_syscall, SYS_tuxcall, SYS_security, SYS_vserver,
        SYS_epoll_ctl_old, SYS_epoll_wait_old, number::CREATE_MODULE, number::GET_KERNEL_SYMS,
        number::QUERY_MODULE,
    ]),
];

/// Only in the default profile.
pub(super) const DEFAULT: &[Group] = &[];

/// Only in the strict profile.
#[rustfmt::skip]
pub(super) const STRICT: &[Group] = &[
    // A daemon debugs nothing.
    not_permitted(&[SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev]),
    // A second sandbox is more kernel for a daemon that has one already; what asks for it takes this for
    // a kernel without.
    not_there(&[SYS_seccomp, SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self]),
    // Memory in ways that no daemon needs.
    not_there(&[SYS_memfd_secret, SYS_vmsplice]),
];
