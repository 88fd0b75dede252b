//! Profiles by what the kernel would answer: the stricter of their program and jailmk's own.

use super::super::profile;
use super::super::program::{ARCHITECTURE as NUMBERS, X32_BIT};
use super::super::tests::{Arguments, run};
use super::*;
use crate::spec::SeccompProfile;

const ALLOWED: Verdict = Verdict::Allow;
const EPERM: Verdict = Verdict::Errno(libc::EPERM);
const ENOSYS: Verdict = Verdict::Errno(libc::ENOSYS);

fn ground() -> Ground {
    Ground { capabilities: vec!["CAP_SYS_CHROOT".into()], kernel: (6, 1) }
}

/// A profile with `fields` beside one default.
fn with(default: &str, syscalls: &str) -> String {
    format!("{{ \"defaultAction\": \"{default}\", \"syscalls\": [{syscalls}] }}")
}

/// What comes of a call.
fn answer(profile: &str, call: libc::c_long, arguments: &[u64]) -> Verdict {
    let own = profile::table(&SeccompProfile::Default, &[]);
    let profile = read(profile, &ground()).expect("a profile");
    let (program, _) = profile.compile(&own).expect("a program");
    let mut all: Arguments = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    let [newest, own] =
        [program, program::compile(&own)].map(|program| run(&program, NUMBERS, call as u32, &all));
    // As seccomp_run_filters of the kernel: the newest filter's, unless an older one is stricter.
    if strictness(own) > strictness(newest) { own } else { newest }
}

fn fault(profile: &str) -> String {
    match read(profile, &ground()) {
        Err(fault) => fault.to_string(),
        Ok(_) => panic!("it was taken: {profile}"),
    }
}

fn engine() -> &'static str {
    include_str!("../../../../tests/seccomp/engine.json")
}

#[test]
fn a_profile_cannot_allow_what_jailmk_refuses() {
    let all = with(
        "SCMP_ACT_ALLOW",
        "{ \"names\": [\"mount\", \"bpf\", \"io_uring_setup\"], \"action\": \"SCMP_ACT_ALLOW\" }",
    );
    assert_eq!(answer(&all, libc::SYS_mount, &[]), EPERM);
    assert_eq!(answer(&all, libc::SYS_bpf, &[]), EPERM);
    assert_eq!(answer(&all, libc::SYS_io_uring_setup, &[]), ENOSYS);
    assert_eq!(answer(&all, libc::SYS_fchmod, &[3, 0o4755]), EPERM);
    assert_eq!(answer(&all, libc::c_long::from(X32_BIT | 1), &[]), Verdict::KillProcess);
    assert_eq!(answer(&all, 500, &[]), ENOSYS);
    assert_eq!(answer(&all, libc::SYS_read, &[]), ALLOWED);
}

#[test]
fn what_a_profile_does_not_name_gets_its_default() {
    let read_only = with("SCMP_ACT_ERRNO", "{ \"names\": [\"read\"], \"action\": \"SCMP_ACT_ALLOW\" }");
    assert_eq!(answer(&read_only, libc::SYS_read, &[]), ALLOWED);
    assert_eq!(answer(&read_only, libc::SYS_write, &[]), EPERM);
    // A call that jailmk does not have says so, and libraries fall back.
    assert_eq!(answer(&read_only, libc::SYS_clone3, &[]), ENOSYS);
    assert_eq!(answer(&read_only, 511, &[]), ENOSYS);
    assert_eq!(answer(&with("SCMP_ACT_KILL_PROCESS", ""), libc::SYS_clone3, &[]), Verdict::KillProcess);
    let named = "{ \"defaultAction\": \"SCMP_ACT_ERRNO\", \"defaultErrno\": \"EACCES\" }";
    assert_eq!(answer(named, libc::SYS_write, &[]), Verdict::Errno(libc::EACCES));
}

#[test]
fn every_operator_compares_all_64_bits() {
    let value = (7 << 32) | 5u64;
    let probes = [0, 1, 5, (7 << 32) | 4, value, value + 1, 7 << 32, 8 << 32, (6 << 32) | 9, u64::MAX];
    type Compare = fn(u64, u64) -> bool;
    let operators: [(&str, Compare); 6] = [
        ("EQ", |a, b| a == b),
        ("NE", |a, b| a != b),
        ("LT", |a, b| a < b),
        ("LE", |a, b| a <= b),
        ("GE", |a, b| a >= b),
        ("GT", |a, b| a > b),
    ];
    for (name, holds) in operators {
        for against in [value, 5, 0, u64::MAX] {
            let entry = format!(
                "{{ \"names\": [\"lseek\"], \"action\": \"SCMP_ACT_ALLOW\", \"args\": [{{ \"index\": 1, \"value\": {against}, \"op\": \"SCMP_CMP_{name}\" }}] }}"
            );
            let profile = with("SCMP_ACT_ERRNO", &entry);
            for probe in probes {
                let wanted = if holds(probe, against) { ALLOWED } else { EPERM };
                let found = answer(&profile, libc::SYS_lseek, &[3, probe]);
                assert_eq!(found, wanted, "{probe:#x} {name} {against:#x}");
            }
        }
    }
}

#[test]
fn a_masked_comparison_has_the_mask_first() {
    let entry = |mask: u64, wanted: u64| {
        with(
            "SCMP_ACT_ERRNO",
            &format!(
                "{{ \"names\": [\"lseek\"], \"action\": \"SCMP_ACT_ALLOW\", \"args\": [{{ \"index\": 1, \"value\": {mask}, \"valueTwo\": {wanted}, \"op\": \"SCMP_CMP_MASKED_EQ\" }}] }}"
            ),
        )
    };
    let upper = entry(0xf0 << 32 | 0x0f, 0x10 << 32 | 1);
    assert_eq!(answer(&upper, libc::SYS_lseek, &[3, 0xa1f << 32 | 0xaa1]), ALLOWED);
    assert_eq!(answer(&upper, libc::SYS_lseek, &[3, 0xa2f << 32 | 0xaa1]), EPERM);
    // Bits outside of the mask are never set.
    assert_eq!(answer(&entry(0x0f, 0x10), libc::SYS_lseek, &[3, 0x10]), EPERM);
    assert_eq!(answer(&entry(0x0f, 1 << 32 | 1), libc::SYS_lseek, &[3, 1]), EPERM);
}

#[test]
fn a_refused_value_is_refused_whatever_its_high_bits() {
    let entry = "{ \"names\": [\"ioctl\"], \"action\": \"SCMP_ACT_ERRNO\", \"args\": [{ \"index\": 1, \"value\": 21523, \"op\": \"SCMP_CMP_EQ\" }] }";
    let profile = with("SCMP_ACT_ALLOW", entry);
    assert_eq!(answer(&profile, libc::SYS_ioctl, &[0, 0x5413]), EPERM);
    assert_eq!(answer(&profile, libc::SYS_ioctl, &[0, 0xdead_0000_5413]), EPERM);
    assert_eq!(answer(&profile, libc::SYS_ioctl, &[0, 0x5414]), ALLOWED);
}

#[test]
fn the_strictest_entry_that_holds_decides() {
    let entries = "{ \"names\": [\"lseek\"], \"action\": \"SCMP_ACT_ALLOW\" },
        { \"names\": [\"lseek\"], \"action\": \"SCMP_ACT_TRAP\", \"args\": [{ \"index\": 2, \"value\": 2, \"op\": \"SCMP_CMP_EQ\" }] },
        { \"name\": \"lseek\", \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": 22, \"args\": [{ \"index\": 2, \"value\": 1, \"op\": \"SCMP_CMP_GE\" }] }";
    let profile = with("SCMP_ACT_KILL", entries);
    assert_eq!(answer(&profile, libc::SYS_lseek, &[3, 0, 0]), ALLOWED);
    assert_eq!(answer(&profile, libc::SYS_lseek, &[3, 0, 1]), Verdict::Errno(libc::EINVAL));
    assert_eq!(answer(&profile, libc::SYS_lseek, &[3, 0, 2]), Verdict::Trap);
    assert_eq!(answer(&profile, libc::SYS_read, &[]), Verdict::KillProcess);
}

#[test]
fn conditions_on_one_argument_are_alternatives_and_on_several_all_hold() {
    let argument = |index: u32, value: u64| {
        format!("{{ \"index\": {index}, \"value\": {value}, \"op\": \"SCMP_CMP_EQ\" }}")
    };
    let entry = |arguments: [String; 2]| {
        let entry = format!(
            "{{ \"names\": [\"lseek\"], \"action\": \"SCMP_ACT_ALLOW\", \"args\": [{}] }}",
            arguments.join(", ")
        );
        with("SCMP_ACT_ERRNO", &entry)
    };
    let both = entry([argument(1, 4), argument(2, 1)]);
    assert_eq!(answer(&both, libc::SYS_lseek, &[3, 4, 1]), ALLOWED);
    assert_eq!(answer(&both, libc::SYS_lseek, &[3, 4, 2]), EPERM);
    let either = entry([argument(2, 1), argument(2, 2)]);
    assert_eq!(answer(&either, libc::SYS_lseek, &[3, 4, 1]), ALLOWED);
    assert_eq!(answer(&either, libc::SYS_lseek, &[3, 4, 2]), ALLOWED);
    assert_eq!(answer(&either, libc::SYS_lseek, &[3, 4, 0]), EPERM);
}

#[test]
fn entries_count_by_capability_kernel_and_architecture() {
    let entry = |name: &str, filter: &str| {
        format!("{{ \"names\": [\"{name}\"], \"action\": \"SCMP_ACT_ALLOW\", {filter} }}")
    };
    let ours = document::ARCHITECTURE.1;
    let entries = [
        entry("read", "\"includes\": { \"minKernel\": \"4.8\" }"),
        entry("write", "\"includes\": { \"minKernel\": \"6.2\" }"),
        entry("close", "\"excludes\": { \"minKernel\": \"6.1\" }"),
        entry("lseek", "\"includes\": { \"caps\": [\"CAP_SYS_CHROOT\"] }"),
        entry("dup", "\"includes\": { \"caps\": [\"CAP_SYS_CHROOT\", \"CAP_SYS_ADMIN\"] }"),
        entry("fsync", "\"excludes\": { \"caps\": [\"CAP_SYS_ADMIN\"] }"),
        entry("flock", "\"excludes\": { \"caps\": [\"CAP_SYS_CHROOT\"] }"),
        entry("fcntl", &format!("\"includes\": {{ \"arches\": [\"{ours}\", \"s390\"] }}")),
        entry("getpid", "\"includes\": { \"arches\": [\"s390\"] }"),
        entry("getuid", &format!("\"excludes\": {{ \"arches\": [\"{ours}\"] }}")),
    ];
    let profile = with("SCMP_ACT_ERRNO", &entries.join(", "));
    for call in [libc::SYS_read, libc::SYS_lseek, libc::SYS_fsync, libc::SYS_fcntl] {
        assert_eq!(answer(&profile, call, &[]), ALLOWED, "{call}");
    }
    for call in
        [libc::SYS_write, libc::SYS_close, libc::SYS_dup, libc::SYS_flock, libc::SYS_getpid, libc::SYS_getuid]
    {
        assert_eq!(answer(&profile, call, &[]), EPERM, "{call}");
    }
}

#[test]
fn names_of_other_architectures_are_passed_over_and_mistakes_are_remembered() {
    let entry = "{ \"names\": [\"raed\", \"mmap2\", \"read\", \"raed\", \"s390_sthyi\"], \"action\": \"SCMP_ACT_ALLOW\" }";
    let profile = read(&with("SCMP_ACT_ERRNO", entry), &ground()).expect("a profile");
    assert_eq!(profile.unknown, ["raed"]);
    assert!(read(engine(), &ground()).expect("a profile").unknown.is_empty());
}

#[test]
fn a_profile_of_a_container_engine_does_what_it_says() {
    let ask = |call, arguments: &[u64]| answer(engine(), call, arguments);
    assert_eq!(ask(libc::SYS_execve, &[]), ALLOWED);
    assert_eq!(ask(libc::SYS_ptrace, &[]), ALLOWED);
    assert_eq!(ask(libc::SYS_clone, &[libc::SIGCHLD as u64]), ALLOWED);
    assert_eq!(ask(libc::SYS_clone, &[libc::CLONE_NEWUSER as u64]), EPERM);
    assert_eq!(ask(libc::SYS_clone3, &[]), ENOSYS);
    assert_eq!(ask(libc::SYS_socket, &[libc::AF_INET as u64, libc::SOCK_STREAM as u64]), ALLOWED);
    assert_eq!(ask(libc::SYS_socket, &[libc::AF_VSOCK as u64, libc::SOCK_STREAM as u64]), EPERM);
    assert_eq!(ask(libc::SYS_personality, &[libc::ADDR_NO_RANDOMIZE as u64]), EPERM);
    assert_eq!(ask(libc::SYS_personality, &[8]), ALLOWED);
    assert_eq!(ask(libc::SYS_mount, &[]), EPERM);
}

#[test]
fn what_is_not_understood_is_refused() {
    let argument = |text: &str| {
        with(
            "SCMP_ACT_ALLOW",
            &format!("{{ \"names\": [\"read\"], \"action\": \"SCMP_ACT_ERRNO\", \"args\": [{text}] }}"),
        )
    };
    for (profile, words) in [
        ("{}".to_owned(), "missing field `defaultAction`"),
        ("[]".to_owned(), "at line 1 column"),
        (with("SCMP_ACT_DENY", ""), "unknown variant `SCMP_ACT_DENY`"),
        (with("SCMP_ACT_NOTIFY", ""), "SCMP_ACT_NOTIFY"),
        ("{ \"defaultAction\": \"SCMP_ACT_ALLOW\", \"listenerPath\": \"/x\" }".to_owned(), "listenerPath"),
        (
            "{ \"defaultAction\": \"SCMP_ACT_ALLOW\", \"sysclals\": [] }".to_owned(),
            "unknown field `sysclals`",
        ),
        (argument("{ \"index\": 6, \"value\": 0, \"op\": \"SCMP_CMP_EQ\" }"), "and not 6"),
        (argument("{ \"index\": 0, \"value\": -1, \"op\": \"SCMP_CMP_EQ\" }"), "invalid value"),
        (argument("{ \"index\": 0, \"value\": 0, \"op\": \"SCMP_CMP_XX\" }"), "unknown variant"),
        (
            "{ \"defaultAction\": \"SCMP_ACT_ERRNO\", \"defaultErrnoRet\": 4096 }".to_owned(),
            "4096 is no error",
        ),
        (
            "{ \"defaultAction\": \"SCMP_ACT_ERRNO\", \"defaultErrno\": \"EWHAT\" }".to_owned(),
            "EWHAT is no error",
        ),
        (
            "{ \"defaultAction\": \"SCMP_ACT_ALLOW\", \"architectures\": [\"SCMP_ARCH_MIPS\"] }".to_owned(),
            "it is for SCMP_ARCH_MIPS",
        ),
    ] {
        let found = fault(&profile);
        assert!(found.contains(words), "{words}: {found}");
    }
}

#[test]
fn a_profile_that_does_not_fit_is_refused_before_it_takes_long() {
    let arguments =
        (0..6).map(|index| format!("{{ \"index\": {index}, \"value\": 1, \"op\": \"SCMP_CMP_NE\" }}"));
    let arguments = arguments.collect::<Vec<_>>().join(", ");
    let entries = |count: u64| {
        let entry = |number: u64| {
            format!(
                "{{ \"names\": [\"read\", \"write\"], \"action\": \"SCMP_ACT_ERRNO\", \"errnoRet\": {}, \"args\": [{arguments}] }}",
                number + 1
            )
        };
        with("SCMP_ACT_ALLOW", &(0..count).map(entry).collect::<Vec<_>>().join(", "))
    };
    assert!(fault(&entries(2000)).contains("more rules than fit"));
    let long = read(&entries(250), &ground()).expect("its conditions are few enough");
    let own = profile::table(&SeccompProfile::Default, &[]);
    assert!(matches!(long.compile(&own), Err(ProfileFault::TooLong)));
    assert_eq!(answer(&entries(60), libc::SYS_write, &[2; 6]), Verdict::Errno(1));
}
