//! What a test needs of the machine: when it is missing, that is said aloud, and where it must be there
//! it is a failure.

#![allow(dead_code, reason = "each test file uses its part of the vocabulary")]

use std::fs;
use std::io::Write as _;

/// Which kernel `scripts/test` says that this is: host, uml, 6.1 or 6.12.
pub fn kernel() -> String {
    std::env::var("JAILMK_TEST_KERNEL").unwrap_or_else(|_| "host".into())
}

/// Whether a test can run; when not, says so, and fails where `JAILMK_MUST_RUN` says that it must: on
/// every kernel but those that `lacking` names.
#[track_caller]
pub fn need(what: &str, there: bool, lacking: &[&str]) -> bool {
    if !there {
        // Not by eprintln, which is shown for failed tests only.
        let _ = writeln!(std::io::stderr(), "skipped: {what}");
        let must = std::env::var("JAILMK_MUST_RUN").is_ok_and(|value| value == "1");
        assert!(
            !must || lacking.contains(&kernel().as_str()),
            "JAILMK_MUST_RUN is set, and missing is {what}"
        );
    }
    there
}

/// Root; the tests run as an ordinary user too, so this never fails.
pub fn need_root() -> bool {
    need("root", is_root(), &["host", "uml", "6.1", "6.12"])
}

/// An ordinary user; the tests run as root too.
pub fn need_ordinary_user() -> bool {
    need("an ordinary user", !is_root(), &["host", "uml", "6.1", "6.12"])
}

/// Landlock of this ABI.
pub fn need_landlock(abi: i32) -> bool {
    let lacking: &[&str] = match abi {
        ..=2 => &["uml"],
        3..=6 => &["uml", "6.1"],
        _ => &["uml", "6.1", "6.12", "host"],
    };
    need(
        &format!("Landlock ABI {abi}"),
        jailmk::layer::landlock::probe().is_some_and(|has| has >= abi),
        lacking,
    )
}

/// cgroup v2 with the controllers of `[limits]`.
pub fn need_cgroup_v2() -> bool {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    let there = ["memory", "pids", "cpu"].iter().all(|name| controllers.contains(name));
    need("cgroup v2 with memory, pids and cpu", there, &["host"])
}

/// Whether the host's hierarchy is cgroup v2.
pub fn has_cgroup_v2() -> bool {
    fs::exists("/sys/fs/cgroup/cgroup.controllers").unwrap_or(false)
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether this kernel has Landlock.
pub fn has_landlock() -> bool {
    jailmk::layer::landlock::probe().is_some()
}
