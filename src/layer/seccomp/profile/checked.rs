//! Calls whose arguments decide.
//!
//! Only values in registers are read, `int` parameters by their low 32 bits (see [`Condition`]).

use libc::*;

use super::super::number;
use super::super::rule::{Check, Condition, Rule, Verdict, allow, refuse};
use super::Group;

/// The CLONE_NEW* flags that `clone` knows (linux/sched.h). CLONE_NEWTIME lies within its signal number.
const NEW_NAMESPACES: u64 = (CLONE_NEWNS
    | CLONE_NEWCGROUP
    | CLONE_NEWUTS
    | CLONE_NEWIPC
    | CLONE_NEWUSER
    | CLONE_NEWPID
    | CLONE_NEWNET) as u32 as u64;

/// What `unshare` may stop sharing between threads: nothing that is a namespace.
const UNSHARE_HARMLESS: u64 = (CLONE_FS | CLONE_FILES | CLONE_SYSVSEM) as u64;

/// Flags with which an open call makes a file and reads its mode (fs/open.c, WILL_CREATE).
const CREATING: u64 = (O_CREAT | (O_TMPFILE & !O_DIRECTORY)) as u64;

const SET_ID_BITS: u64 = (S_ISUID | S_ISGID) as u64;

/// The four low bits of a socket's type; the rest are flags (SOCK_TYPE_MASK in linux/net.h).
const SOCKET_TYPE: u64 = 0xf;

const REFUSED_IN_MESSAGES: u64 = (MSG_OOB | MSG_FASTOPEN) as u64;

/// Requests that reach past a terminal's own use.
#[allow(clippy::unnecessary_cast, reason = "an ioctl request is an int with musl")]
const TERMINAL_TAKEOVERS: &[u64] = &[TIOCSTI as u64, TIOCLINUX as u64, TIOCCONS as u64, TIOCSETD as u64];

/// New subvolumes and snapshots of btrfs, and their removal (linux/btrfs.h): BTRFS_IOC_SNAP_CREATE, SUBVOL_CREATE,
/// SNAP_DESTROY and the second version of each.
const SUBVOLUMES: &[u64] = &[0x5000_9401, 0x5000_9417, 0x5000_940e, 0x5000_9418, 0x5000_940f, 0x5000_943f];

/// The jail's first process, whose death ends the jail: it must get a processor when it is told to die.
const FIRST_PROCESS: &[u64] = &[1];

/// A process by its id, in `setpriority` and in `ioprio_set` (linux/ioprio.h).
const BY_PROCESS: u64 = PRIO_PROCESS as u64;
const IOPRIO_BY_PROCESS: u64 = 1;

/// linux/seccomp.h: the operation and the flag of a filter whose refusals are logged.
const SET_MODE_FILTER: u64 = 1;
const FILTER_FLAG_LOG: u64 = 2;

/// `prlimit64` with a new limit.
const SETS_A_LIMIT: Condition<'static> = Condition::bits_are_not(2, u64::MAX, &[0]);

/// RENAME_WHITEOUT (linux/fs.h).
const WHITEOUT: u64 = 4;

/// No error: the call returns 0 and does nothing.
const DONE: i32 = 0;

/// Refuses a mode with setuid or setgid in it.
const fn no_set_id_bits(checks: &'static [Check<'static>], calls: &'static [c_long]) -> Group {
    Group { calls, rule: Rule::allow_unless(checks) }
}

/// In both profiles.
pub(super) const EVERYWHERE: &[Group] = &[
    // New processes and threads, but no new namespaces: they give capabilities within them, and with
    // these a reach into parts of the kernel that are made for root.
    Group {
        calls: &[SYS_clone],
        rule: Rule::allow_unless(&[refuse(EPERM, &[Condition::any_bit(0, NEW_NAMESPACES)])]),
    },
    // All 64 bits: the parameter is an unsigned long, and newer kernels may know more flags.
    Group {
        calls: &[SYS_unshare],
        rule: Rule::allow_unless(&[refuse(EPERM, &[Condition::any_bit(0, !UNSHARE_HARMLESS)])]),
    },
    // Families and protocols each load kernel code. Netlink only for routes, which getaddrinfo(3) and
    // getifaddrs(3) ask for, by raw sockets. No raw sockets else. Of the protocols those that a program
    // expects everywhere: MPTCP, SMC and SCTP would also pass by Landlock's rules for TCP.
    Group {
        calls: &[SYS_socket],
        rule: Rule::allow_unless(&[
            refuse(
                EAFNOSUPPORT,
                &[Condition::is_not(
                    0,
                    &[AF_UNIX as u64, AF_INET as u64, AF_INET6 as u64, AF_NETLINK as u64],
                )],
            ),
            allow(&[
                Condition::is(0, &[AF_NETLINK as u64]),
                Condition::is(2, &[NETLINK_ROUTE as u64]),
                Condition::bits_are(1, SOCKET_TYPE, &[SOCK_RAW as u64, SOCK_DGRAM as u64]),
            ]),
            refuse(EAFNOSUPPORT, &[Condition::is(0, &[AF_NETLINK as u64])]),
            refuse(
                EPERM,
                &[Condition::bits_are_not(
                    1,
                    SOCKET_TYPE,
                    &[SOCK_STREAM as u64, SOCK_DGRAM as u64, SOCK_SEQPACKET as u64],
                )],
            ),
            refuse(
                EPROTONOSUPPORT,
                &[Condition::is_not(
                    2,
                    &[0, IPPROTO_ICMP as u64, IPPROTO_TCP as u64, IPPROTO_UDP as u64, IPPROTO_ICMPV6 as u64],
                )],
            ),
        ]),
    },
    Group {
        calls: &[SYS_socketpair],
        rule: Rule::allow_unless(&[
            refuse(EAFNOSUPPORT, &[Condition::is_not(0, &[AF_UNIX as u64])]),
            refuse(
                EPERM,
                &[Condition::bits_are_not(
                    1,
                    SOCKET_TYPE,
                    &[SOCK_STREAM as u64, SOCK_DGRAM as u64, SOCK_SEQPACKET as u64],
                )],
            ),
        ]),
    },
    // Upper layer protocols of TCP (TLS in the kernel, SMC, ESP) load code, and OpenSSL does without.
    Group {
        calls: &[SYS_setsockopt],
        rule: Rule::allow_unless(&[refuse(
            ENOPROTOOPT,
            &[Condition::is(1, &[IPPROTO_TCP as u64]), Condition::is(2, &[TCP_ULP as u64])],
        )]),
    },
    // Urgent data: only telnet, rlogin and ftp have ever needed them, and their code in Unix sockets
    // has given root (CVE-2025-38236). Data with the first packet: this connects, and Landlock has no rule
    // for it. The error is that of a socket which does not have them.
    Group {
        calls: &[SYS_sendto, SYS_recvfrom, SYS_sendmmsg, SYS_recvmmsg],
        rule: Rule::allow_unless(&[refuse(EOPNOTSUPP, &[Condition::any_bit(3, REFUSED_IN_MESSAGES)])]),
    },
    Group {
        calls: &[SYS_sendmsg, SYS_recvmsg],
        rule: Rule::allow_unless(&[refuse(EOPNOTSUPP, &[Condition::any_bit(2, REFUSED_IN_MESSAGES)])]),
    },
    // Typing into a terminal on its reader's behalf, pasting into a console, taking over the console's
    // output, line disciplines (each a driver). A snapshot has what covers hide of the original. The rest
    // is up to /dev and Landlock.
    Group {
        calls: &[SYS_ioctl],
        rule: Rule::allow_unless(&[
            refuse(EPERM, &[Condition::is(1, TERMINAL_TAKEOVERS)]),
            refuse(EPERM, &[Condition::is(1, SUBVOLUMES)]),
        ]),
    },
    // A lease on a file that may only be read makes whoever writes to it on the host wait.
    Group {
        calls: &[SYS_fcntl],
        rule: Rule::allow_unless(&[refuse(EINVAL, &[Condition::is(1, &[F_SETLEASE as u64])])]),
    },
    // Put last by priority, scheduler or processor, the first process would not come to die while others keep
    // the processors busy. By group and by user it is reached, too.
    Group {
        calls: &[SYS_sched_setaffinity, SYS_sched_setparam, SYS_sched_setscheduler, SYS_sched_setattr],
        rule: Rule::allow_unless(&[refuse(EPERM, &[Condition::is(0, FIRST_PROCESS)])]),
    },
    Group {
        calls: &[SYS_setpriority],
        rule: Rule::allow_unless(&[
            refuse(EPERM, &[Condition::is_not(0, &[BY_PROCESS])]),
            refuse(EPERM, &[Condition::is(1, FIRST_PROCESS)]),
        ]),
    },
    Group {
        calls: &[SYS_ioprio_set],
        rule: Rule::allow_unless(&[
            refuse(EPERM, &[Condition::is_not(0, &[IOPRIO_BY_PROCESS])]),
            refuse(EPERM, &[Condition::is(1, FIRST_PROCESS)]),
        ]),
    },
    // The limit of core files stays: it is the one with which a crash starts no helper of the host, and with a
    // lower one it would. Programs lower it to write no core file, which holds already: they are told that it is
    // done. A null pointer asks. The first process would die by a limit of processor time.
    Group {
        calls: &[SYS_prlimit64],
        rule: Rule::allow_unless(&[
            refuse(EPERM, &[Condition::is(0, FIRST_PROCESS), SETS_A_LIMIT]),
            refuse(DONE, &[Condition::is(1, &[RLIMIT_CORE as u64]), SETS_A_LIMIT]),
        ]),
    },
    Group {
        calls: &[number::SETRLIMIT],
        rule: Rule::allow_unless(&[refuse(DONE, &[Condition::is(0, &[RLIMIT_CORE as u64])])]),
    },
    // No setuid and no setgid bit may come to be on any file: one in a directory shared with the host
    // would be a way out for whoever runs it there. (mkdir drops these bits by itself.)
    no_set_id_bits(&[refuse(EPERM, &[Condition::any_bit(1, SET_ID_BITS)])], &[SYS_fchmod]),
    #[cfg(target_arch = "x86_64")]
    no_set_id_bits(&[refuse(EPERM, &[Condition::any_bit(1, SET_ID_BITS)])], &[SYS_chmod, SYS_creat]),
    no_set_id_bits(
        &[refuse(EPERM, &[Condition::any_bit(2, SET_ID_BITS)])],
        &[SYS_fchmodat, number::FCHMODAT2],
    ),
    // Without a creating flag the mode is whatever was in the register.
    no_set_id_bits(
        &[refuse(EPERM, &[Condition::any_bit(1, CREATING), Condition::any_bit(2, SET_ID_BITS)])],
        &[SYS_mq_open],
    ),
    #[cfg(target_arch = "x86_64")]
    no_set_id_bits(
        &[refuse(EPERM, &[Condition::any_bit(1, CREATING), Condition::any_bit(2, SET_ID_BITS)])],
        &[SYS_open],
    ),
    no_set_id_bits(
        &[refuse(EPERM, &[Condition::any_bit(2, CREATING), Condition::any_bit(3, SET_ID_BITS)])],
        &[SYS_openat],
    ),
    // Nor devices; an overlay's whiteout is one, too, which a rename can leave behind.
    Group {
        calls: &[SYS_renameat2],
        rule: Rule::allow_unless(&[refuse(EINVAL, &[Condition::any_bit(4, WHITEOUT)])]),
    },
    Group {
        calls: &[SYS_mknodat],
        rule: Rule::allow_unless(&[
            refuse(EPERM, &[Condition::bits_are_not(2, S_IFMT as u64, FILE_TYPES)]),
            refuse(EPERM, &[Condition::any_bit(2, SET_ID_BITS)]),
        ]),
    },
    #[cfg(target_arch = "x86_64")]
    Group {
        calls: &[SYS_mknod],
        rule: Rule::allow_unless(&[
            refuse(EPERM, &[Condition::bits_are_not(1, S_IFMT as u64, FILE_TYPES)]),
            refuse(EPERM, &[Condition::any_bit(1, SET_ID_BITS)]),
        ]),
    },
];

/// What mknod may make; 0 means a regular file.
const FILE_TYPES: &[u64] = &[0, S_IFREG as u64, S_IFIFO as u64, S_IFSOCK as u64];

/// Linux itself, and Linux on a 32-bit machine (linux/personality.h).
const PER_LINUX: u64 = 0;
const PER_LINUX32: u64 = 8;
/// The kernel calls itself 2.6 (linux/personality.h).
const UNAME26: u64 = 0x2_0000;

/// Only in the default profile.
pub(super) const DEFAULT: &[Group] = &[
    // PER_LINUX and PER_LINUX32, each with UNAME26, and the question (0xffffffff); ADDR_NO_RANDOMIZE is
    // what gdb gives its children. Not READ_IMPLIES_EXEC, MMAP_PAGE_ZERO and other systems' ways.
    Group {
        calls: &[SYS_personality],
        rule: Rule::Checked {
            checks: &[
                allow(&[Condition::is(0, &[0xffff_ffff])]),
                allow(&[Condition::bits_are(
                    0,
                    0xffff_ffff & !(ADDR_NO_RANDOMIZE as u64),
                    &[PER_LINUX, PER_LINUX32, UNAME26, PER_LINUX32 | UNAME26],
                )]),
            ],
            otherwise: Verdict::Errno(EPERM),
        },
    },
    // A filter that logs would let the jail fill the host's log.
    Group {
        calls: &[SYS_seccomp],
        rule: Rule::allow_unless(&[refuse(
            EINVAL,
            &[Condition::is(0, &[SET_MODE_FILTER]), Condition::any_bit(1, FILTER_FLAG_LOG)],
        )]),
    },
    // Rewriting the kernel's notes of where a process's parts lie.
    Group {
        calls: &[SYS_prctl],
        rule: Rule::allow_unless(&[refuse(EPERM, &[Condition::is(0, &[PR_SET_MM as u64])])]),
    },
];

/// Memory that is written to and run at the same time.
const WRITE_AND_EXECUTE: u64 = (PROT_WRITE | PROT_EXEC) as u64;

/// Only in the strict profile.
pub(super) const STRICT: &[Group] = &[
    // Only the question.
    Group {
        calls: &[SYS_personality],
        rule: Rule::Checked {
            checks: &[allow(&[Condition::is(0, &[0xffff_ffff])])],
            otherwise: Verdict::Errno(EPERM),
        },
    },
    // As `seccomp`, by its older way; EINVAL is the kernel without it.
    Group {
        calls: &[SYS_prctl],
        rule: Rule::allow_unless(&[
            refuse(EPERM, &[Condition::is(0, &[PR_SET_MM as u64])]),
            refuse(EINVAL, &[Condition::is(0, &[PR_SET_SECCOMP as u64])]),
        ]),
    },
    // Injected code cannot be run where it was written. Compilers that write first and make executable
    // then (PostgreSQL's LLVM) still work; those that do both at once (V8, JVM) need the default profile.
    Group {
        calls: &[SYS_mmap, SYS_mprotect, SYS_pkey_mprotect],
        rule: Rule::allow_unless(&[refuse(
            EACCES,
            &[Condition::bits_are(2, WRITE_AND_EXECUTE, &[WRITE_AND_EXECUTE])],
        )]),
    },
    Group {
        calls: &[SYS_shmat],
        rule: Rule::allow_unless(&[refuse(EACCES, &[Condition::any_bit(2, SHM_EXEC as u64)])]),
    },
    // Files without a name only if they can never be run (since 6.3); others have to have one.
    Group {
        calls: &[SYS_memfd_create],
        rule: Rule::allow_unless(&[refuse(ENOSYS, &[Condition::bits_are(1, MFD_NOEXEC_SEAL as u64, &[0])])]),
    },
];
