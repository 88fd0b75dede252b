//! A jail does not look through its workspace when it starts, nor when it ends: by system calls, which take no
//! measure of time.
#![cfg(target_arch = "x86_64")]

mod jail;
mod trace;

use std::collections::BTreeMap;

use jail::Jail;
use jail::workspace::need_overlay;

/// Calls that find out what a directory holds or what a file is.
const LOOKS: [i64; 12] = [
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_getdents64,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_access,
    libc::SYS_faccessat2,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
];

/// A jail whose workspace has so many files below its top, and the same names there.
fn jail(mode: &str, hide: &str, files: usize) -> Jail {
    let jail =
        Jail::tools(format!("[workspace]\nmode = \"{mode}\"\npath = \"PLACE/work\"\nhide = [{hide}]\n"));
    for name in ["keys/a", "there.pem", "other", "src/main", ".git/config"] {
        jail.place.file(format!("work/{name}"), "x");
    }
    for index in 0..files {
        jail.place.file(format!("work/deep/{}/{}/{index}.pem", index % 20, index % 50), "x");
    }
    jail.prints(":");
    jail
}

/// How often each of them is made from the start of a jail to its end.
fn looks(jail: &Jail) -> BTreeMap<i64, usize> {
    let traced = trace::run(jail.enter(&["sh", "-c", ":"]), jail.place.path(), None);
    assert_eq!(traced.status, 0, "{traced:?}");
    let mut counts = BTreeMap::new();
    for call in traced.calls.iter().flatten().filter(|call| LOOKS.contains(call)) {
        *counts.entry(*call).or_default() += 1;
    }
    counts
}

fn large_and_small_are_alike(mode: &str) {
    for hide in ["", r#""keys", "src/main", "missing/a", "*.pem", "deep/{a,b}*""#] {
        let (large, small) = (jail(mode, hide, 2000), jail(mode, hide, 20));
        let mut both = (looks(&large), looks(&small));
        // What is waited for may be looked at more than once.
        for _ in 0..4 {
            if both.0 != both.1 {
                both = (looks(&large), looks(&small));
            }
        }
        assert_eq!(both.0, both.1, "{hide}");
    }
}

#[test]
fn a_jail_under_review_looks_at_no_more_of_a_large_workspace_than_of_a_small_one() {
    if need_overlay() {
        large_and_small_are_alike("review");
    }
}

#[test]
fn a_jail_in_direct_mode_does_not_either() {
    large_and_small_are_alike("direct");
}

#[test]
fn only_a_pattern_for_any_depth_has_the_workspace_walked() {
    let [large, small] = [2000, 20].map(|files| looks(&jail("direct", "\"**/*.key\"", files)));
    assert!(large[&libc::SYS_getdents64] > small[&libc::SYS_getdents64], "{large:?} {small:?}");
}
