//! Calls that run whatever their arguments.

use libc::*;

use super::super::number;
use super::super::rule::Rule;
use super::Group;

const fn allow(calls: &'static [c_long]) -> Group {
    Group { calls, rule: Rule::ALLOW }
}

/// In both profiles.
#[rustfmt::skip]
pub(super) const EVERYWHERE: &[Group] = &[
    // Reading and writing what is already open.
    allow(&[
        SYS_read, SYS_write, SYS_readv, SYS_writev, SYS_pread64, SYS_pwrite64, SYS_preadv, SYS_pwritev,
        SYS_preadv2, SYS_pwritev2, SYS_lseek, SYS_close, SYS_close_range, SYS_dup, SYS_dup3, SYS_flock,
        SYS_ftruncate, SYS_fallocate, SYS_fsync, SYS_fdatasync, number::SYNC_FILE_RANGE,
        SYS_fadvise64, SYS_readahead, SYS_sendfile, SYS_splice, SYS_tee, SYS_copy_file_range, SYS_pipe2,
    ]),
    // Names: mounts and Landlock decide which exist and what may be done to them.
    allow(&[
        SYS_faccessat, SYS_faccessat2, SYS_newfstatat, SYS_fstat, SYS_statx, SYS_statfs, SYS_fstatfs,
        SYS_readlinkat, SYS_getdents64, SYS_getcwd, SYS_chdir, SYS_fchdir, SYS_mkdirat, SYS_unlinkat,
        number::RENAMEAT, SYS_linkat, SYS_symlinkat, SYS_truncate, SYS_utimensat, SYS_fchown,
        SYS_fchownat, SYS_umask, SYS_sync, SYS_syncfs,
    ]),
    // Extended attributes: without capabilities only those of the `user.` space can be set.
    allow(&[
        SYS_getxattr, SYS_lgetxattr, SYS_fgetxattr, SYS_listxattr, SYS_llistxattr, SYS_flistxattr,
        SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr,
        number::GETXATTRAT, number::LISTXATTRAT, number::SETXATTRAT, number::REMOVEXATTRAT,
    ]),
    // Waiting for descriptors, files and time.
    allow(&[
        SYS_pselect6, SYS_ppoll, SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2,
        SYS_eventfd2, SYS_signalfd4, SYS_inotify_init1, SYS_inotify_add_watch, SYS_inotify_rm_watch,
        SYS_timerfd_create, SYS_timerfd_settime, SYS_timerfd_gettime,
    ]),
    // Asynchronous input and output of the old kind: databases and nginx use it. (The new kind is
    // io_uring, see the refused ones.)
    allow(&[
        SYS_io_setup, SYS_io_destroy, SYS_io_submit, SYS_io_getevents, SYS_io_cancel, number::IO_PGETEVENTS,
    ]),
    // Sockets that exist: `socket` decides which can.
    allow(&[
        SYS_connect, SYS_accept, SYS_accept4, SYS_bind, SYS_listen, SYS_shutdown, SYS_getsockname,
        SYS_getpeername, SYS_getsockopt,
    ]),
    // Memory of the process itself. mmap and mprotect differ between the profiles.
    allow(&[
        SYS_munmap, SYS_mremap, SYS_brk, SYS_madvise, SYS_msync, SYS_mincore, SYS_mlock, SYS_mlock2,
        SYS_munlock, SYS_mlockall, SYS_munlockall, SYS_pkey_alloc, SYS_pkey_free, number::MSEAL,
        number::MAP_SHADOW_STACK, SYS_membarrier,
    ]),
    // Processes and threads. `clone` reads its flags.
    allow(&[
        SYS_execve, SYS_execveat, SYS_exit, SYS_exit_group, SYS_wait4, SYS_waitid, SYS_set_tid_address,
        SYS_set_robust_list, SYS_get_robust_list, SYS_rseq, SYS_futex, SYS_futex_waitv, SYS_gettid,
        SYS_getpid, SYS_getppid, SYS_getpgid, SYS_setpgid, SYS_getsid, SYS_setsid, SYS_pidfd_open,
        SYS_restart_syscall,
    ]),
    // Signals: the PID namespace and Landlock's scope decide whom they reach.
    allow(&[
        SYS_rt_sigaction, SYS_rt_sigprocmask, SYS_rt_sigreturn, SYS_rt_sigpending, SYS_rt_sigtimedwait,
        SYS_rt_sigsuspend, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_sigaltstack, SYS_kill, SYS_tkill,
        SYS_tgkill, SYS_pidfd_send_signal,
    ]),
    // Clocks, read only, and timers.
    allow(&[
        SYS_gettimeofday, SYS_clock_gettime, SYS_clock_getres, SYS_clock_nanosleep, SYS_nanosleep,
        SYS_getitimer, SYS_setitimer, SYS_timer_create, SYS_timer_settime, SYS_timer_gettime,
        SYS_timer_getoverrun, SYS_timer_delete, SYS_times,
    ]),
    // Identity: one id is mapped and there are no capabilities, so these can only give up what is not
    // there; programs that drop privileges at their start must not fail at it.
    allow(&[
        SYS_getuid, SYS_geteuid, SYS_getgid, SYS_getegid, SYS_getresuid, SYS_getresgid, SYS_getgroups,
        SYS_setuid, SYS_setgid, SYS_setreuid, SYS_setregid, SYS_setresuid, SYS_setresgid, SYS_setgroups,
        SYS_setfsuid, SYS_setfsgid, SYS_capget, SYS_capset,
    ]),
    // Scheduling and limits: raising them needs capabilities, and the cgroup bounds the sum. Those that
    // change them read whose they change.
    allow(&[
        SYS_sched_yield, SYS_sched_getaffinity, SYS_sched_getparam, SYS_sched_getscheduler,
        SYS_sched_getattr, SYS_sched_get_priority_max, SYS_sched_get_priority_min,
        SYS_sched_rr_get_interval, SYS_getpriority, SYS_ioprio_get, number::GETRLIMIT, SYS_getrusage,
        SYS_getcpu,
    ]),
    // System V and POSIX inter-process communication, within the jail's own IPC namespace. `shmat` and
    // `mq_open` read their flags.
    allow(&[
        SYS_shmget, SYS_shmctl, SYS_shmdt, SYS_semget, SYS_semop, SYS_semtimedop, SYS_semctl, SYS_msgget,
        SYS_msgsnd, SYS_msgrcv, SYS_msgctl, SYS_mq_unlink, SYS_mq_timedsend, SYS_mq_timedreceive,
        SYS_mq_notify, SYS_mq_getsetattr,
    ]),
    // What the system is and random bytes.
    allow(&[SYS_uname, SYS_sysinfo, SYS_getrandom]),
    // The older forms that only this architecture still has.
    #[cfg(target_arch = "x86_64")]
    allow(&[
        SYS_stat, SYS_lstat, SYS_access, SYS_readlink, SYS_getdents, SYS_mkdir, SYS_rmdir, SYS_unlink,
        SYS_rename, SYS_link, SYS_symlink, SYS_chown, SYS_lchown, SYS_utime, SYS_utimes, SYS_futimesat,
        SYS_pipe, SYS_dup2, SYS_poll, SYS_select, SYS_epoll_create, SYS_epoll_wait, SYS_eventfd,
        SYS_signalfd, SYS_inotify_init, SYS_fork, SYS_vfork, SYS_getpgrp, SYS_time, SYS_alarm, SYS_pause,
    ]),
    // Thread-local storage and shadow stacks: every x86 libc calls it first.
    #[cfg(target_arch = "x86_64")]
    allow(&[SYS_arch_prctl]),
    // Made by the kernel's own trampolines where the host's administrator traces a program; refused, they
    // would crash it. Elsewhere they raise SIGILL.
    #[cfg(target_arch = "x86_64")]
    allow(&[number::URETPROBE, number::UPROBE]),
];

/// Only in the default profile.
#[rustfmt::skip]
pub(super) const DEFAULT: &[Group] = &[
    // Debuggers of own children, sanitizers. PID 1 is not dumpable, and ids outside are not visible.
    allow(&[SYS_ptrace, SYS_process_vm_readv, SYS_process_vm_writev]),
    // Just-in-time compilers write code and run it.
    allow(&[SYS_mmap, SYS_mprotect, SYS_pkey_mprotect, SYS_shmat, SYS_memfd_create, SYS_memfd_secret]),
    // Sandboxes within the jail can only take away more: browsers, bazel, package builders. (`seccomp`
    // reads its flags.)
    allow(&[SYS_landlock_create_ruleset, SYS_landlock_add_rule, SYS_landlock_restrict_self]),
    // Pages moved into a pipe: some build tools and tests.
    allow(&[SYS_vmsplice]),
];

/// Only in the strict profile.
pub(super) const STRICT: &[Group] = &[];
