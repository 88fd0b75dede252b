//! The compiled programs, run by a small BPF interpreter.
#![allow(clippy::unnecessary_cast, reason = "an ioctl request is an int with musl")]

use libc::c_long;

use super::program::{ARCHITECTURE, SKIPPED_CALL, TABLE_LEN, Table, UNKNOWN, X32_BIT};
use super::rule::{Check, Condition, Relation, Rule, Verdict, allow, refuse};
use super::*;

const PROFILES: [SeccompProfile; 2] = [SeccompProfile::Default, SeccompProfile::Strict];

/// `AUDIT_ARCH_I386`.
const I386: u32 = 0x4000_0003;

pub(super) type Arguments = [u64; 6];

/// What the kernel would do with `program`; panics on what its verifier would refuse.
pub(super) fn run(
    program: &[libc::sock_filter],
    architecture: u32,
    number: u32,
    arguments: &Arguments,
) -> Verdict {
    let mut data = [0u8; 64];
    data[..4].copy_from_slice(&number.to_le_bytes());
    data[4..8].copy_from_slice(&architecture.to_le_bytes());
    for (index, argument) in arguments.iter().enumerate() {
        data[16 + 8 * index..][..8].copy_from_slice(&argument.to_le_bytes());
    }
    let (mut at, mut a) = (0, 0u32);
    loop {
        let libc::sock_filter { code, jt, jf, k } = program[at];
        let either = |holds: bool| usize::from(if holds { jt } else { jf });
        at += 1;
        match u32::from(code) {
            0x20 => a = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap()),
            0x54 => a &= k,
            0x05 => at += k as usize,
            0x15 => at += either(a == k),
            0x25 => at += either(a > k),
            0x35 => at += either(a >= k),
            0x06 => {
                return match k & 0xffff_0000 {
                    0x7fff_0000 => Verdict::Allow,
                    0x0005_0000 => Verdict::Errno((k & 0xffff) as i32),
                    0x0003_0000 => Verdict::Trap,
                    0x8000_0000 => Verdict::KillProcess,
                    other => panic!("return {other:#x}"),
                };
            }
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn holds(condition: &Condition<'_>, arguments: &Arguments) -> bool {
    let value = arguments[condition.argument as usize] & condition.mask;
    match condition.relation {
        Relation::Among => condition.values.contains(&value),
        Relation::Outside => !condition.values.contains(&value),
        Relation::AtLeast => value >= condition.values[0],
        Relation::Below => value < condition.values[0],
    }
}

/// What a rule says, read naively.
fn expected(rule: &Rule<'_>, arguments: &Arguments) -> Verdict {
    match rule {
        Rule::Always(verdict) => *verdict,
        Rule::Checked { checks, otherwise } => checks
            .iter()
            .find(|check| check.when.iter().all(|condition| holds(condition, arguments)))
            .map_or(*otherwise, |check| check.verdict),
    }
}

/// Arguments near everything that the rule compares with, and some from nowhere.
fn probes(rule: &Rule<'_>) -> Vec<Arguments> {
    let Rule::Checked { checks, .. } = rule else {
        return vec![[0; 6], [u64::MAX; 6]];
    };
    let mut interesting: Vec<Vec<u64>> = vec![vec![0, 1, u64::MAX, 1 << 32, 0x8000_0000]; 6];
    for condition in checks.iter().flat_map(|check| check.when) {
        let pool = &mut interesting[condition.argument as usize];
        for value in condition.values.iter().chain([&condition.mask]) {
            pool.extend([
                *value,
                value ^ 1,
                value | 1 << 32,
                value | 1 << 63,
                !value,
                value & value.wrapping_sub(1),
            ]);
            pool.push(value | (!condition.mask & 0x5555_5555_5555_5555));
        }
        pool.extend((0..64).map(|bit| 1 << bit));
    }
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..1500)
        .map(|_| {
            std::array::from_fn(|index| {
                let pool = &interesting[index];
                pool[(random() % pool.len() as u64) as usize]
            })
        })
        .collect()
}

fn compare(table: &Table<'_>) {
    let program = program::compile(table);
    assert!(program.len() <= 4096);
    for number in 0..1024u32 {
        let rule = table.get(number as usize).copied().unwrap_or(&UNKNOWN);
        for arguments in probes(rule) {
            assert_eq!(
                run(&program, ARCHITECTURE, number, &arguments),
                expected(rule, &arguments),
                "call {number} with {arguments:x?}"
            );
        }
        for arguments in [[0; 6], [u64::MAX; 6]] {
            assert_eq!(run(&program, I386, number, &arguments), Verdict::KillProcess);
            assert_eq!(run(&program, ARCHITECTURE, number | X32_BIT, &arguments), Verdict::KillProcess);
        }
    }
}

fn arm(profile: SeccompProfile) -> Armed {
    Policy { profile, keep: Vec::new() }.arm().expect("it is built in")
}

/// The verdict of both profiles, which must be the same.
fn verdict(call: c_long, arguments: &[u64]) -> Verdict {
    let [default, strict] = PROFILES.map(|profile| verdict_in(profile, call, arguments));
    assert_eq!(default, strict);
    default
}

fn verdict_in(profile: SeccompProfile, call: c_long, arguments: &[u64]) -> Verdict {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    run(&arm(profile).program, ARCHITECTURE, call as u32, &all)
}

const ALLOWED: Verdict = Verdict::Allow;
const EPERM: Verdict = Verdict::Errno(libc::EPERM);
const ENOSYS: Verdict = Verdict::Errno(libc::ENOSYS);
const EAFNOSUPPORT: Verdict = Verdict::Errno(libc::EAFNOSUPPORT);
const UPPER_HALF: u64 = 0xdead_beef_0000_0000;

#[test]
fn the_program_of_each_profile_decides_as_its_table() {
    for profile in PROFILES {
        compare(&profile::table(&profile, &[]));
    }
}

#[test]
fn targets_beyond_a_short_jump_are_reached() {
    static FAR: [Rule<'static>; 2] = [
        Rule::Checked {
            checks: &[
                refuse(
                    libc::EACCES,
                    &[
                        Condition::is(
                            0,
                            &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20],
                        ),
                        Condition::is_not(1, &[7, 8, 9]),
                    ],
                ),
                allow(&[Condition::bits_are(5, 0xf000_0000_0000_000f, &[1 << 60, 3, 3 << 60 | 1])]),
            ],
            otherwise: Verdict::KillProcess,
        },
        Rule::ALLOW,
    ];
    // Alternating rules make as many ranges as there are numbers, so both blocks lie far from the root.
    let alternating: Table<'_> = std::array::from_fn(|number| match number % 5 {
        0 => &FAR[0],
        1 | 3 => &FAR[1],
        2 => &UNKNOWN,
        _ => profile::table(&SeccompProfile::Default, &[])[libc::SYS_socket as usize],
    });
    compare(&alternating);
}

#[test]
fn a_table_with_one_rule_needs_no_search() {
    static ALLOW: Rule<'static> = Rule::ALLOW;
    compare(&[&ALLOW; TABLE_LEN]);
    compare(&[&UNKNOWN; TABLE_LEN]);
}

#[test]
fn a_check_without_conditions_always_decides() {
    static ALWAYS: Rule<'static> = Rule::Checked {
        checks: &[Check { when: &[], verdict: Verdict::Errno(libc::EIO) }],
        otherwise: Verdict::Allow,
    };
    compare(&[&ALWAYS; TABLE_LEN]);
}

#[test]
fn unknown_calls_are_enosys() {
    assert_eq!(verdict(511, &[]), ENOSYS);
    assert_eq!(verdict(512, &[]), ENOSYS);
    assert_eq!(verdict(0x3fff_ffff, &[]), ENOSYS);
    assert_eq!(verdict(0x3fff_ffff, &[u64::MAX; 6]), ENOSYS);
}

#[test]
fn a_call_skipped_by_its_tracer_does_not_kill() {
    assert_eq!(verdict(c_long::from(SKIPPED_CALL), &[]), ENOSYS);
    assert_eq!(verdict(c_long::from(SKIPPED_CALL - 1), &[]), Verdict::KillProcess);
}

#[test]
fn tiocsti_with_high_bits_set_is_refused() {
    for request in [libc::TIOCSTI, libc::TIOCLINUX, libc::TIOCCONS, libc::TIOCSETD] {
        assert_eq!(verdict(libc::SYS_ioctl, &[0, request as u64]), EPERM);
        assert_eq!(verdict(libc::SYS_ioctl, &[0, request as u64 | UPPER_HALF]), EPERM);
    }
    assert_eq!(verdict(libc::SYS_ioctl, &[0, libc::TIOCSCTTY as u64]), ALLOWED);
    assert_eq!(verdict(libc::SYS_ioctl, &[0, libc::TIOCGWINSZ as u64]), ALLOWED);
}

#[test]
fn clone_with_a_namespace_flag_is_refused() {
    let flags = [
        libc::CLONE_NEWNS,
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWUTS,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWNET,
    ];
    for flag in flags {
        assert_eq!(verdict(libc::SYS_clone, &[flag as u64 | libc::SIGCHLD as u64]), EPERM);
        assert_eq!(verdict(libc::SYS_clone, &[flag as u64 | UPPER_HALF]), EPERM);
        assert_eq!(verdict(libc::SYS_unshare, &[flag as u64]), EPERM);
    }
    let thread = libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SIGHAND
        | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM
        | libc::CLONE_SETTLS
        | libc::CLONE_PARENT_SETTID
        | libc::CLONE_CHILD_CLEARTID;
    assert_eq!(verdict(libc::SYS_clone, &[thread as u64]), ALLOWED);
    assert_eq!(verdict(libc::SYS_clone, &[libc::SIGCHLD as u64]), ALLOWED);
    assert_eq!(verdict(libc::SYS_clone3, &[0, 88]), ENOSYS);
}

#[test]
fn unshare_gives_up_sharing_between_threads_only() {
    assert_eq!(verdict(libc::SYS_unshare, &[0]), ALLOWED);
    assert_eq!(verdict(libc::SYS_unshare, &[(libc::CLONE_FS | libc::CLONE_FILES) as u64]), ALLOWED);
    assert_eq!(verdict(libc::SYS_unshare, &[libc::CLONE_NEWTIME as u64]), EPERM);
    assert_eq!(verdict(libc::SYS_unshare, &[1 << 37]), EPERM);
}

#[test]
fn sockets_are_of_the_four_families_only() {
    let socket = |family: i32, kind: i32, protocol: i32| {
        verdict(libc::SYS_socket, &[family as u64 | UPPER_HALF, kind as u64, protocol as u64])
    };
    for family in 0..=64 {
        let known = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6].contains(&family);
        let netlink = family == libc::AF_NETLINK;
        assert_eq!(
            socket(family, libc::SOCK_DGRAM, 0),
            if known || netlink { ALLOWED } else { EAFNOSUPPORT }
        );
        let raw = if known {
            EPERM
        } else if netlink {
            ALLOWED
        } else {
            EAFNOSUPPORT
        };
        assert_eq!(socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0), raw);
    }
    assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER), EAFNOSUPPORT);
    assert_eq!(socket(libc::AF_INET, 10, 0), EPERM);
    assert_eq!(socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, libc::IPPROTO_TCP), ALLOWED);
}

#[test]
fn protocols_that_pass_by_landlock_are_refused() {
    for protocol in [libc::IPPROTO_MPTCP, libc::IPPROTO_SCTP, 256, libc::IPPROTO_UDPLITE, libc::IPPROTO_RAW] {
        let arguments = [libc::AF_INET6 as u64, libc::SOCK_STREAM as u64, protocol as u64 | UPPER_HALF];
        assert_eq!(verdict(libc::SYS_socket, &arguments), Verdict::Errno(libc::EPROTONOSUPPORT));
    }
}

#[test]
fn socket_pairs_are_unix_only() {
    let stream = (libc::SOCK_STREAM | libc::SOCK_CLOEXEC) as u64;
    assert_eq!(verdict(libc::SYS_socketpair, &[libc::AF_UNIX as u64, stream]), ALLOWED);
    assert_eq!(verdict(libc::SYS_socketpair, &[libc::AF_TIPC as u64, stream]), EAFNOSUPPORT);
}

#[test]
fn urgent_data_is_refused_in_every_sending_and_receiving_call() {
    let refused = Verdict::Errno(libc::EOPNOTSUPP);
    for call in [libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmmsg, libc::SYS_recvmmsg] {
        assert_eq!(verdict(call, &[3, 0, 1, UPPER_HALF | 1]), refused);
        assert_eq!(verdict(call, &[3, 1, 1, libc::MSG_NOSIGNAL as u64]), ALLOWED);
    }
    for call in [libc::SYS_sendmsg, libc::SYS_recvmsg] {
        assert_eq!(verdict(call, &[3, 0, UPPER_HALF | 0x41]), refused);
        assert_eq!(verdict(call, &[3, 1, 0x40, 1]), ALLOWED);
    }
}

#[test]
fn no_call_sets_a_setuid_or_setgid_bit() {
    for bits in [0o4755, 0o2755, 0o6000, 0o4755 | UPPER_HALF] {
        assert_eq!(verdict(libc::SYS_fchmod, &[3, bits]), EPERM);
        assert_eq!(verdict(libc::SYS_fchmodat, &[3, 0, bits]), EPERM);
        assert_eq!(verdict(number::FCHMODAT2, &[3, 0, bits]), EPERM);
        assert_eq!(verdict(libc::SYS_openat, &[3, 0, libc::O_CREAT as u64, bits]), EPERM);
        assert_eq!(verdict(libc::SYS_openat, &[3, 0, libc::O_TMPFILE as u64, bits]), EPERM);
        assert_eq!(verdict(libc::SYS_mq_open, &[0, libc::O_CREAT as u64, bits]), EPERM);
        assert_eq!(verdict(libc::SYS_mknodat, &[3, 0, libc::S_IFREG as u64 | bits]), EPERM);
        #[cfg(target_arch = "x86_64")]
        {
            assert_eq!(verdict(libc::SYS_chmod, &[0, bits]), EPERM);
            assert_eq!(verdict(libc::SYS_creat, &[0, bits]), EPERM);
            assert_eq!(verdict(libc::SYS_open, &[0, libc::O_CREAT as u64, bits]), EPERM);
            assert_eq!(verdict(libc::SYS_mknod, &[0, bits]), EPERM);
        }
    }
    assert_eq!(verdict(libc::SYS_fchmodat, &[3, 0, 0o1777]), ALLOWED);
    assert_eq!(verdict(libc::SYS_openat, &[3, 0, libc::O_RDONLY as u64, 0o7777]), ALLOWED);
    assert_eq!(verdict(libc::SYS_openat, &[3, 0, libc::O_DIRECTORY as u64, 0o7777]), ALLOWED);
    assert_eq!(verdict(libc::SYS_openat2, &[3, 0, 0, 24]), ENOSYS);
}

#[test]
fn the_limit_of_core_files_stays_and_nobody_is_told() {
    let (core, other) = (libc::RLIMIT_CORE as u64, libc::RLIMIT_NOFILE as u64);
    let done = Verdict::Errno(0);
    for new in [1, 1 << 40, u64::MAX] {
        assert_eq!(verdict(libc::SYS_prlimit64, &[0, core, new, 0]), done);
        assert_eq!(verdict(libc::SYS_prlimit64, &[0, core | UPPER_HALF, new, 0]), done);
        assert_eq!(verdict(libc::SYS_prlimit64, &[0, other, new, 0]), ALLOWED);
    }
    assert_eq!(verdict(libc::SYS_prlimit64, &[0, core, 0, 1]), ALLOWED);
    assert_eq!(verdict(number::SETRLIMIT, &[core, 1]), done);
    assert_eq!(verdict(number::SETRLIMIT, &[other, 1]), ALLOWED);
}

#[test]
fn devices_cannot_be_made() {
    for kind in [libc::S_IFCHR, libc::S_IFBLK, libc::S_IFDIR, libc::S_IFLNK] {
        assert_eq!(verdict(libc::SYS_mknodat, &[3, 0, u64::from(kind | 0o600)]), EPERM);
    }
    for kind in [0, libc::S_IFREG, libc::S_IFIFO, libc::S_IFSOCK] {
        assert_eq!(verdict(libc::SYS_mknodat, &[3, 0, u64::from(kind | 0o600)]), ALLOWED);
    }
}

#[test]
fn debuggers_work_in_the_default_profile_only() {
    use SeccompProfile::{Default, Strict};
    for call in [libc::SYS_ptrace, libc::SYS_process_vm_readv, libc::SYS_process_vm_writev] {
        assert_eq!(verdict_in(Default, call, &[]), ALLOWED);
        assert_eq!(verdict_in(Strict, call, &[]), EPERM);
    }
    assert_eq!(verdict_in(Default, libc::SYS_personality, &[libc::ADDR_NO_RANDOMIZE as u64]), ALLOWED);
    assert_eq!(verdict_in(Strict, libc::SYS_personality, &[libc::ADDR_NO_RANDOMIZE as u64]), EPERM);
    assert_eq!(verdict(libc::SYS_personality, &[0xffff_ffff]), ALLOWED);
    assert_eq!(verdict(libc::SYS_personality, &[libc::READ_IMPLIES_EXEC as u64]), EPERM);
    assert_eq!(verdict(libc::SYS_personality, &[libc::READ_IMPLIES_EXEC as u64 | 8]), EPERM);
}

#[test]
fn strict_refuses_memory_that_is_both_written_and_executed() {
    let both = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect, libc::SYS_pkey_mprotect] {
        assert_eq!(verdict_in(SeccompProfile::Strict, call, &[0, 4096, both]), Verdict::Errno(libc::EACCES));
        assert_eq!(verdict_in(SeccompProfile::Default, call, &[0, 4096, both]), ALLOWED);
        assert_eq!(verdict(call, &[0, 4096, (libc::PROT_READ | libc::PROT_EXEC) as u64]), ALLOWED);
    }
    assert_eq!(verdict_in(SeccompProfile::Strict, libc::SYS_memfd_create, &[0, 1]), ENOSYS);
    assert_eq!(verdict_in(SeccompProfile::Strict, libc::SYS_memfd_create, &[0, 9]), ALLOWED);
}

#[test]
fn the_kernels_most_attacked_parts_are_out_of_reach() {
    for call in [
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_add_key,
        libc::SYS_keyctl,
        libc::SYS_request_key,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_fsopen,
        libc::SYS_fsmount,
        libc::SYS_fsconfig,
        libc::SYS_move_mount,
        libc::SYS_open_tree,
        libc::SYS_mount_setattr,
        number::OPEN_TREE_ATTR,
        libc::SYS_setns,
        libc::SYS_open_by_handle_at,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_finit_module,
        libc::SYS_pidfd_getfd,
    ] {
        assert_eq!(verdict(call, &[]), EPERM, "call {call}");
    }
    for call in [libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register] {
        assert_eq!(verdict(call, &[]), ENOSYS);
    }
}

#[test]
fn what_pid_1_does_under_the_filter_is_allowed() {
    let mut calls = vec![
        libc::SYS_setsid,
        libc::SYS_dup3,
        libc::SYS_close_range,
        libc::SYS_prctl,
        libc::SYS_waitid,
        libc::SYS_wait4,
        libc::SYS_rt_sigtimedwait,
        libc::SYS_rt_sigprocmask,
        libc::SYS_pidfd_open,
        libc::SYS_pidfd_send_signal,
        libc::SYS_write,
        libc::SYS_kill,
        libc::SYS_execve,
        libc::SYS_ppoll,
        libc::SYS_signalfd4,
        libc::SYS_setpgid,
        libc::SYS_exit_group,
        libc::SYS_clone,
        libc::SYS_ioctl,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_dup2, libc::SYS_fork, libc::SYS_vfork, libc::SYS_poll]);
    for call in calls {
        assert_eq!(verdict(call, &[]), ALLOWED, "call {call}");
    }
}

#[test]
fn the_plan_says_which_profile_and_how_large() {
    let armed = arm(SeccompProfile::Strict);
    let words = armed.to_string();
    assert!(words.starts_with("seccomp: strict profile, "), "{words}");
    assert!(
        words.ends_with(&format!(" system calls allowed, {} instructions", armed.program.len())),
        "{words}"
    );
}
