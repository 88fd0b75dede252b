//! System calls by name, as OCI profiles have them.
//!
//! Source: the kernel's arch/x86/entry/syscalls/syscall_64.tbl and scripts/syscall.tbl (6.18).

use std::collections::HashMap;

use libc::*;

use super::super::number;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Named {
    /// A call of this architecture.
    Here(c_long),
    /// A call that only other architectures have.
    Elsewhere,
}

/// All names; what is not among them is no call that jailmk knows.
pub(super) fn index() -> HashMap<&'static str, Named> {
    let elsewhere = ELSEWHERE.iter().map(|name| (*name, Named::Elsewhere));
    let here = EVERYWHERE.iter().chain(ARCHITECTURE).map(|(name, number)| (*name, Named::Here(*number)));
    // ORDER: what this architecture has is not elsewhere.
    elsewhere.chain(here).collect()
}

/// Those of both architectures.
#[rustfmt::skip]
pub(super) const EVERYWHERE: &[(&str, c_long)] = &[
    ("read", SYS_read), ("write", SYS_write), ("close", SYS_close), ("fstat", SYS_fstat),
    ("lseek", SYS_lseek), ("mmap", SYS_mmap), ("mprotect", SYS_mprotect), ("munmap", SYS_munmap),
    ("brk", SYS_brk), ("rt_sigaction", SYS_rt_sigaction), ("rt_sigprocmask", SYS_rt_sigprocmask),
    ("rt_sigreturn", SYS_rt_sigreturn), ("ioctl", SYS_ioctl), ("pread64", SYS_pread64),
    ("pwrite64", SYS_pwrite64), ("readv", SYS_readv), ("writev", SYS_writev),
    ("sched_yield", SYS_sched_yield), ("mremap", SYS_mremap), ("msync", SYS_msync),
    ("mincore", SYS_mincore), ("madvise", SYS_madvise), ("shmget", SYS_shmget), ("shmat", SYS_shmat),
    ("shmctl", SYS_shmctl), ("dup", SYS_dup), ("nanosleep", SYS_nanosleep), ("getitimer", SYS_getitimer),
    ("setitimer", SYS_setitimer), ("getpid", SYS_getpid), ("socket", SYS_socket), ("connect", SYS_connect),
    ("accept", SYS_accept), ("sendto", SYS_sendto), ("recvfrom", SYS_recvfrom), ("sendmsg", SYS_sendmsg),
    ("recvmsg", SYS_recvmsg), ("shutdown", SYS_shutdown), ("bind", SYS_bind), ("listen", SYS_listen),
    ("getsockname", SYS_getsockname), ("getpeername", SYS_getpeername), ("socketpair", SYS_socketpair),
    ("setsockopt", SYS_setsockopt), ("getsockopt", SYS_getsockopt), ("clone", SYS_clone),
    ("execve", SYS_execve), ("exit", SYS_exit), ("wait4", SYS_wait4), ("kill", SYS_kill),
    ("uname", SYS_uname), ("semget", SYS_semget), ("semop", SYS_semop), ("semctl", SYS_semctl),
    ("shmdt", SYS_shmdt), ("msgget", SYS_msgget), ("msgsnd", SYS_msgsnd), ("msgrcv", SYS_msgrcv),
    ("msgctl", SYS_msgctl), ("fcntl", SYS_fcntl), ("flock", SYS_flock), ("fsync", SYS_fsync),
    ("fdatasync", SYS_fdatasync), ("truncate", SYS_truncate), ("ftruncate", SYS_ftruncate),
    ("getcwd", SYS_getcwd), ("chdir", SYS_chdir), ("fchdir", SYS_fchdir), ("fchmod", SYS_fchmod),
    ("fchown", SYS_fchown), ("umask", SYS_umask), ("gettimeofday", SYS_gettimeofday),
    ("getrlimit", number::GETRLIMIT), ("getrusage", SYS_getrusage), ("sysinfo", SYS_sysinfo),
    ("times", SYS_times), ("ptrace", SYS_ptrace), ("getuid", SYS_getuid), ("syslog", SYS_syslog),
    ("getgid", SYS_getgid), ("setuid", SYS_setuid), ("setgid", SYS_setgid), ("geteuid", SYS_geteuid),
    ("getegid", SYS_getegid), ("setpgid", SYS_setpgid), ("getppid", SYS_getppid), ("setsid", SYS_setsid),
    ("setreuid", SYS_setreuid), ("setregid", SYS_setregid), ("getgroups", SYS_getgroups),
    ("setgroups", SYS_setgroups), ("setresuid", SYS_setresuid), ("getresuid", SYS_getresuid),
    ("setresgid", SYS_setresgid), ("getresgid", SYS_getresgid), ("getpgid", SYS_getpgid),
    ("setfsuid", SYS_setfsuid), ("setfsgid", SYS_setfsgid), ("getsid", SYS_getsid), ("capget", SYS_capget),
    ("capset", SYS_capset), ("rt_sigpending", SYS_rt_sigpending), ("rt_sigtimedwait", SYS_rt_sigtimedwait),
    ("rt_sigqueueinfo", SYS_rt_sigqueueinfo), ("rt_sigsuspend", SYS_rt_sigsuspend),
    ("sigaltstack", SYS_sigaltstack), ("personality", SYS_personality), ("statfs", SYS_statfs),
    ("fstatfs", SYS_fstatfs), ("getpriority", SYS_getpriority), ("setpriority", SYS_setpriority),
    ("sched_setparam", SYS_sched_setparam), ("sched_getparam", SYS_sched_getparam),
    ("sched_setscheduler", SYS_sched_setscheduler), ("sched_getscheduler", SYS_sched_getscheduler),
    ("sched_get_priority_max", SYS_sched_get_priority_max),
    ("sched_get_priority_min", SYS_sched_get_priority_min),
    ("sched_rr_get_interval", SYS_sched_rr_get_interval), ("mlock", SYS_mlock), ("munlock", SYS_munlock),
    ("mlockall", SYS_mlockall), ("munlockall", SYS_munlockall), ("vhangup", SYS_vhangup),
    ("pivot_root", SYS_pivot_root), ("prctl", SYS_prctl), ("adjtimex", SYS_adjtimex),
    ("setrlimit", number::SETRLIMIT), ("chroot", SYS_chroot), ("sync", SYS_sync), ("acct", SYS_acct),
    ("settimeofday", SYS_settimeofday), ("mount", SYS_mount), ("umount2", SYS_umount2),
    ("swapon", SYS_swapon), ("swapoff", SYS_swapoff), ("reboot", SYS_reboot),
    ("sethostname", SYS_sethostname), ("setdomainname", SYS_setdomainname),
    ("init_module", SYS_init_module), ("delete_module", SYS_delete_module), ("quotactl", SYS_quotactl),
    ("nfsservctl", SYS_nfsservctl), ("gettid", SYS_gettid), ("readahead", SYS_readahead),
    ("setxattr", SYS_setxattr), ("lsetxattr", SYS_lsetxattr), ("fsetxattr", SYS_fsetxattr),
    ("getxattr", SYS_getxattr), ("lgetxattr", SYS_lgetxattr), ("fgetxattr", SYS_fgetxattr),
    ("listxattr", SYS_listxattr), ("llistxattr", SYS_llistxattr), ("flistxattr", SYS_flistxattr),
    ("removexattr", SYS_removexattr), ("lremovexattr", SYS_lremovexattr),
    ("fremovexattr", SYS_fremovexattr), ("tkill", SYS_tkill), ("futex", SYS_futex),
    ("sched_setaffinity", SYS_sched_setaffinity), ("sched_getaffinity", SYS_sched_getaffinity),
    ("io_setup", SYS_io_setup), ("io_destroy", SYS_io_destroy), ("io_getevents", SYS_io_getevents),
    ("io_submit", SYS_io_submit), ("io_cancel", SYS_io_cancel), ("lookup_dcookie", SYS_lookup_dcookie),
    ("remap_file_pages", SYS_remap_file_pages), ("getdents64", SYS_getdents64),
    ("set_tid_address", SYS_set_tid_address), ("restart_syscall", SYS_restart_syscall),
    ("semtimedop", SYS_semtimedop), ("timer_create", SYS_timer_create),
    ("timer_settime", SYS_timer_settime), ("timer_gettime", SYS_timer_gettime),
    ("timer_getoverrun", SYS_timer_getoverrun), ("timer_delete", SYS_timer_delete),
    ("clock_settime", SYS_clock_settime), ("clock_gettime", SYS_clock_gettime),
    ("clock_getres", SYS_clock_getres), ("clock_nanosleep", SYS_clock_nanosleep),
    ("exit_group", SYS_exit_group), ("epoll_ctl", SYS_epoll_ctl), ("tgkill", SYS_tgkill),
    ("mbind", SYS_mbind), ("set_mempolicy", SYS_set_mempolicy), ("get_mempolicy", SYS_get_mempolicy),
    ("mq_open", SYS_mq_open), ("mq_unlink", SYS_mq_unlink), ("mq_timedsend", SYS_mq_timedsend),
    ("mq_timedreceive", SYS_mq_timedreceive), ("mq_notify", SYS_mq_notify),
    ("mq_getsetattr", SYS_mq_getsetattr), ("kexec_load", SYS_kexec_load), ("waitid", SYS_waitid),
    ("add_key", SYS_add_key), ("request_key", SYS_request_key), ("keyctl", SYS_keyctl),
    ("ioprio_set", SYS_ioprio_set), ("ioprio_get", SYS_ioprio_get),
    ("inotify_add_watch", SYS_inotify_add_watch), ("inotify_rm_watch", SYS_inotify_rm_watch),
    ("migrate_pages", SYS_migrate_pages), ("openat", SYS_openat), ("mkdirat", SYS_mkdirat),
    ("mknodat", SYS_mknodat), ("fchownat", SYS_fchownat), ("newfstatat", SYS_newfstatat),
    ("unlinkat", SYS_unlinkat), ("renameat", number::RENAMEAT), ("linkat", SYS_linkat),
    ("symlinkat", SYS_symlinkat), ("readlinkat", SYS_readlinkat), ("fchmodat", SYS_fchmodat),
    ("faccessat", SYS_faccessat), ("pselect6", SYS_pselect6), ("ppoll", SYS_ppoll),
    ("unshare", SYS_unshare), ("set_robust_list", SYS_set_robust_list),
    ("get_robust_list", SYS_get_robust_list), ("splice", SYS_splice), ("tee", SYS_tee),
    ("sync_file_range", number::SYNC_FILE_RANGE), ("vmsplice", SYS_vmsplice),
    ("move_pages", SYS_move_pages), ("utimensat", SYS_utimensat), ("epoll_pwait", SYS_epoll_pwait),
    ("timerfd_create", SYS_timerfd_create), ("fallocate", SYS_fallocate),
    ("timerfd_settime", SYS_timerfd_settime), ("timerfd_gettime", SYS_timerfd_gettime),
    ("accept4", SYS_accept4), ("signalfd4", SYS_signalfd4), ("eventfd2", SYS_eventfd2),
    ("epoll_create1", SYS_epoll_create1), ("dup3", SYS_dup3), ("pipe2", SYS_pipe2),
    ("inotify_init1", SYS_inotify_init1), ("preadv", SYS_preadv), ("pwritev", SYS_pwritev),
    ("rt_tgsigqueueinfo", SYS_rt_tgsigqueueinfo), ("perf_event_open", SYS_perf_event_open),
    ("recvmmsg", SYS_recvmmsg), ("fanotify_init", SYS_fanotify_init), ("fanotify_mark", SYS_fanotify_mark),
    ("prlimit64", SYS_prlimit64), ("name_to_handle_at", SYS_name_to_handle_at),
    ("open_by_handle_at", SYS_open_by_handle_at), ("clock_adjtime", SYS_clock_adjtime),
    ("syncfs", SYS_syncfs), ("sendmmsg", SYS_sendmmsg), ("setns", SYS_setns), ("getcpu", SYS_getcpu),
    ("process_vm_readv", SYS_process_vm_readv), ("process_vm_writev", SYS_process_vm_writev),
    ("kcmp", SYS_kcmp), ("finit_module", SYS_finit_module), ("sched_setattr", SYS_sched_setattr),
    ("sched_getattr", SYS_sched_getattr), ("renameat2", SYS_renameat2), ("seccomp", SYS_seccomp),
    ("getrandom", SYS_getrandom), ("memfd_create", SYS_memfd_create),
    ("kexec_file_load", number::KEXEC_FILE_LOAD), ("bpf", SYS_bpf), ("execveat", SYS_execveat),
    ("userfaultfd", SYS_userfaultfd), ("membarrier", SYS_membarrier), ("mlock2", SYS_mlock2),
    ("copy_file_range", SYS_copy_file_range), ("preadv2", SYS_preadv2), ("pwritev2", SYS_pwritev2),
    ("pkey_mprotect", SYS_pkey_mprotect), ("pkey_alloc", SYS_pkey_alloc), ("pkey_free", SYS_pkey_free),
    ("statx", SYS_statx), ("io_pgetevents", number::IO_PGETEVENTS), ("rseq", SYS_rseq),
    ("pidfd_send_signal", SYS_pidfd_send_signal), ("io_uring_setup", SYS_io_uring_setup),
    ("io_uring_enter", SYS_io_uring_enter), ("io_uring_register", SYS_io_uring_register),
    ("open_tree", SYS_open_tree), ("move_mount", SYS_move_mount), ("fsopen", SYS_fsopen),
    ("fsconfig", SYS_fsconfig), ("fsmount", SYS_fsmount), ("fspick", SYS_fspick),
    ("pidfd_open", SYS_pidfd_open), ("clone3", SYS_clone3), ("close_range", SYS_close_range),
    ("openat2", SYS_openat2), ("pidfd_getfd", SYS_pidfd_getfd), ("faccessat2", SYS_faccessat2),
    ("process_madvise", SYS_process_madvise), ("epoll_pwait2", SYS_epoll_pwait2),
    ("mount_setattr", SYS_mount_setattr), ("quotactl_fd", SYS_quotactl_fd),
    ("landlock_create_ruleset", SYS_landlock_create_ruleset), ("landlock_add_rule", SYS_landlock_add_rule),
    ("landlock_restrict_self", SYS_landlock_restrict_self), ("memfd_secret", SYS_memfd_secret),
    ("process_mrelease", SYS_process_mrelease), ("futex_waitv", SYS_futex_waitv),
    ("set_mempolicy_home_node", SYS_set_mempolicy_home_node), ("cachestat", number::CACHESTAT),
    ("fchmodat2", number::FCHMODAT2), ("map_shadow_stack", number::MAP_SHADOW_STACK),
    ("futex_wake", number::FUTEX_WAKE), ("futex_wait", number::FUTEX_WAIT),
    ("futex_requeue", number::FUTEX_REQUEUE), ("statmount", number::STATMOUNT),
    ("listmount", number::LISTMOUNT), ("lsm_get_self_attr", number::LSM_GET_SELF_ATTR),
    ("lsm_set_self_attr", number::LSM_SET_SELF_ATTR), ("lsm_list_modules", number::LSM_LIST_MODULES),
    ("mseal", number::MSEAL), ("setxattrat", number::SETXATTRAT), ("getxattrat", number::GETXATTRAT),
    ("listxattrat", number::LISTXATTRAT), ("removexattrat", number::REMOVEXATTRAT),
    ("open_tree_attr", number::OPEN_TREE_ATTR), ("file_getattr", number::FILE_GETATTR),
    ("file_setattr", number::FILE_SETATTR),
];

/// Those of this architecture alone.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
pub(super) const ARCHITECTURE: &[(&str, c_long)] = &[
    ("open", SYS_open), ("stat", SYS_stat), ("lstat", SYS_lstat), ("poll", SYS_poll),
    ("access", SYS_access), ("pipe", SYS_pipe), ("select", SYS_select), ("dup2", SYS_dup2),
    ("pause", SYS_pause), ("alarm", SYS_alarm), ("sendfile", SYS_sendfile), ("fork", SYS_fork),
    ("vfork", SYS_vfork), ("getdents", SYS_getdents), ("rename", SYS_rename), ("mkdir", SYS_mkdir),
    ("rmdir", SYS_rmdir), ("creat", SYS_creat), ("link", SYS_link), ("unlink", SYS_unlink),
    ("symlink", SYS_symlink), ("readlink", SYS_readlink), ("chmod", SYS_chmod), ("chown", SYS_chown),
    ("lchown", SYS_lchown), ("getpgrp", SYS_getpgrp), ("utime", SYS_utime), ("mknod", SYS_mknod),
    ("uselib", SYS_uselib), ("ustat", SYS_ustat), ("sysfs", SYS_sysfs), ("modify_ldt", SYS_modify_ldt),
    ("_sysctl", SYS__sysctl), ("arch_prctl", SYS_arch_prctl), ("iopl", SYS_iopl), ("ioperm", SYS_ioperm),
    ("create_module", number::CREATE_MODULE), ("get_kernel_syms", number::GET_KERNEL_SYMS),
    ("query_module", number::QUERY_MODULE), ("getpmsg", SYS_getpmsg), ("putpmsg", SYS_putpmsg),
    ("afs_syscall", SYS_afs_syscall), ("tuxcall", SYS_tuxcall), ("security", SYS_security),
    ("time", SYS_time), ("set_thread_area", SYS_set_thread_area), ("get_thread_area", SYS_get_thread_area),
    ("epoll_create", SYS_epoll_create), ("epoll_ctl_old", SYS_epoll_ctl_old),
    ("epoll_wait_old", SYS_epoll_wait_old), ("fadvise64", SYS_fadvise64), ("epoll_wait", SYS_epoll_wait),
    ("utimes", SYS_utimes), ("vserver", SYS_vserver), ("inotify_init", SYS_inotify_init),
    ("futimesat", SYS_futimesat), ("signalfd", SYS_signalfd), ("eventfd", SYS_eventfd),
    ("uretprobe", number::URETPROBE), ("uprobe", number::UPROBE),
];

/// Those of this architecture alone.
#[cfg(target_arch = "aarch64")]
#[rustfmt::skip]
pub(super) const ARCHITECTURE: &[(&str, c_long)] = &[];

/// Those of other architectures, which profiles made for several name.
#[rustfmt::skip]
const ELSEWHERE: &[&str] = &[
    // Of x86_64.
    "open", "stat", "lstat", "poll", "access", "pipe", "select", "dup2", "pause", "alarm", "sendfile",
    "fork", "vfork", "getdents", "rename", "mkdir", "rmdir", "creat", "link", "unlink", "symlink",
    "readlink", "chmod", "chown", "lchown", "getpgrp", "utime", "mknod", "uselib", "ustat", "sysfs",
    "modify_ldt", "_sysctl", "arch_prctl", "iopl", "ioperm", "create_module", "get_kernel_syms",
    "query_module", "getpmsg", "putpmsg", "afs_syscall", "tuxcall", "security", "time", "set_thread_area",
    "get_thread_area", "epoll_create", "epoll_ctl_old", "epoll_wait_old", "fadvise64", "epoll_wait",
    "utimes", "vserver", "inotify_init", "futimesat", "signalfd", "eventfd", "uretprobe", "uprobe",
    // Of i386 and others.
    "_llseek", "_newselect", "arm_fadvise64_64", "arm_sync_file_range", "atomic_barrier",
    "atomic_cmpxchg_32", "bdflush", "break", "breakpoint", "cacheflush", "chown32", "clock_adjtime64",
    "clock_getres_time64", "clock_gettime64", "clock_nanosleep_time64", "clock_settime64", "fadvise64_64",
    "fchown32", "fcntl64", "fstat64", "fstatat64", "fstatfs64", "ftime", "ftruncate64", "futex_time64",
    "getegid32", "geteuid32", "getgid32", "getgroups32", "getpagesize", "getresgid32", "getresuid32",
    "getuid32", "gtty", "idle", "io_pgetevents_time64", "ipc", "lchown32", "lock", "lstat64",
    "memory_ordering", "mmap2", "mpx", "mq_timedreceive_time64", "mq_timedsend_time64", "multiplexer",
    "nice", "oldfstat", "oldlstat", "oldolduname", "oldstat", "olduname", "pciconfig_iobase",
    "pciconfig_read", "pciconfig_write", "perfctr", "ppoll_time64", "prof", "profil", "pselect6_time64",
    "readdir", "recv", "recvmmsg_time64", "riscv_flush_icache", "riscv_hwprobe", "rt_sigtimedwait_time64",
    "rtas", "s390_guarded_storage", "s390_pci_mmio_read", "s390_pci_mmio_write", "s390_runtime_instr",
    "s390_sthyi", "sched_rr_get_interval_time64", "semtimedop_time64", "send", "sendfile64", "set_tls",
    "setfsgid32", "setfsuid32", "setgid32", "setgroups32", "setregid32", "setresgid32", "setresuid32",
    "setreuid32", "setuid32", "sgetmask", "sigaction", "signal", "sigpending", "sigprocmask", "sigreturn",
    "sigsuspend", "socketcall", "spu_create", "spu_run", "ssetmask", "stat64", "statfs64", "stime", "stty",
    "subpage_prot", "swapcontext", "switch_endian", "sync_file_range2", "sys_debug_setcontext", "syscall",
    "sysmips", "timer_gettime64", "timer_settime64", "timerfd_gettime64", "timerfd_settime64",
    "truncate64", "ugetrlimit", "ulimit", "umount", "usr26", "usr32", "utimensat_time64", "vm86",
    "vm86old", "waitpid",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_there_once() {
        let mut names: Vec<_> = EVERYWHERE.iter().chain(ARCHITECTURE).map(|(name, _)| *name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn names_of_other_architectures_are_no_mistakes() {
        let index = index();
        assert_eq!(index["read"], Named::Here(SYS_read));
        assert_eq!(index["file_setattr"], Named::Here(469));
        assert_eq!(index["socketcall"], Named::Elsewhere);
        assert_eq!(index["arm_fadvise64_64"], Named::Elsewhere);
        assert!(!index.contains_key("raed"));
    }
}
