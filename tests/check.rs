//! `jailmk check SPEC`: what a spec leaves open, and whether it can be entered here.

mod jail;

use std::fs;

use jail::weighed::{AS_ROOT, exposure, found, points, total, weighed};
use jail::{Jail, has_landlock, is_root, need_landlock};
use serde_json::Value;

#[test]
fn a_spec_without_options_leaves_next_to_nothing_open() {
    if !need_landlock(6) {
        return;
    }
    let weighed = weighed(&Jail::small());
    assert_eq!(weighed["enforceable"], true, "{weighed:#}");
    for row in weighed["rows"].as_array().expect("rows") {
        let most = match row["name"].as_str().expect("a name") {
            // Each has its advice; `limits` also says whether this host has a cgroup.
            "user" => 0.1,
            "system calls" => 0.2,
            "limits" => 1.3,
            _ => 0.0,
        };
        assert!(points(row) <= most, "{row}");
        assert_ne!(row["found"], "not used");
    }
    assert!(total(&weighed) <= 1.6, "{weighed:#}");
    assert!(["SAFE", "OK"].contains(&weighed["word"].as_str().expect("a word")));
}

#[test]
fn every_step_of_the_plan_that_is_a_layer_has_a_row() {
    let jail = Jail::small();
    let plan = jail.jailmk("enter", &["--plan"]).succeeded().stdout;
    let weighed = weighed(&jail);
    for (words, name) in [
        ("namespaces", "namespaces"),
        ("map uid", "user"),
        ("die with the supervisor", "supervision"),
        ("cgroup namespace", "cgroup namespace"),
        ("session keyring", "keyring"),
        ("all mounts private", "mount propagation"),
        (" on / (ro", "root"),
        ("new proc", "/proc"),
        ("mask kernel entries", "/proc masks"),
        ("on /dev", "/dev"),
        ("forbid nested namespaces", "nested namespaces"),
        ("pivot the root", "pivot_root"),
        ("limit each process", "process limits"),
        ("no_new_privs", "no_new_privs"),
        ("empty all capability sets", "capabilities"),
        ("close all descriptors", "descriptors"),
        ("seccomp", "system calls"),
    ] {
        assert!(plan.contains(words), "{words}: {plan}");
        assert_ne!(found(&weighed, name), "not used");
    }
    assert_eq!(found(&weighed, "Landlock") != "not used", plan.contains("Landlock"));
}

#[test]
fn each_thing_that_is_opened_raises_the_total_by_its_row() {
    let landlock = if has_landlock() { "required" } else { "best-effort" };
    let base = weighed(&Jail::tools(format!("[hardening]\nlandlock = \"{landlock}\"\n")));
    let cases = [
        ("network", "[network]\nmode = \"loopback\"\n", ""),
        ("network", "[network]\nmode = \"host\"\n", ""),
        ("system calls", "", "seccomp = \"strict\"\n"),
        ("capabilities", "", "keep = [\"sys_chroot\"]\n"),
        ("may be missing", "", "degrade = [\"cgroup\"]\n"),
        ("environment", "[process]\npass_env = [\"FOO\"]\n", ""),
        ("environment", "[process]\npass_env = [\"GITHUB_TOKEN\"]\n", ""),
        ("environment", "[process]\nenv = { API_KEY = \"x\" }\n", ""),
        ("/tmp/a", "[[mount]]\nfrom = \"PLACE/here\"\nto = \"/tmp/a\"\n", ""),
        ("/workspace", "[workspace]\nmode = \"direct\"\npath = \"PLACE/here\"\n", ""),
    ];
    for (name, sections, lines) in cases {
        let text = format!("{sections}[hardening]\nlandlock = \"{landlock}\"\n{lines}");
        let weighed = weighed(&Jail::tools(&text));
        let before =
            base["rows"].as_array().expect("rows").iter().find(|row| row["name"] == name).map_or(0.0, points);
        let raised = exposure(&weighed, name) - before;
        // A directory of root's, when root calls, counts by a row of its own.
        let as_root = if name.starts_with('/') && is_root() { AS_ROOT } else { 0.0 };
        let expected = (total(&weighed) - total(&base) - raised - as_root).abs();
        // Loopback is as open as none where the kernel cannot deny TCP (Landlock ABI 4).
        let denies = jailmk::layer::landlock::probe().is_some_and(|abi| abi >= 4);
        let same = !denies && sections.contains("loopback");
        assert!(same || raised != 0.0, "{text}: {weighed:#}");
        assert_eq!(raised < 0.0, lines.contains("strict"), "{text}");
        assert!(expected < 1e-6, "{text}: {weighed:#}");
    }
}

#[test]
fn landlock_switched_off_is_a_layer_that_is_not_used() {
    let weighed = weighed(&Jail::tools("[hardening]\nlandlock = \"off\"\n"));
    assert_eq!(found(&weighed, "Landlock"), "not used");
    assert_eq!(exposure(&weighed, "Landlock"), 2.0);
}

#[test]
fn the_threshold_decides_the_exit_status() {
    let jail = Jail::tools("[network]\nmode = \"host\"\n");
    let open = total(&weighed(&jail));
    assert!((2.0..10.0).contains(&open), "{open}");
    jail.jailmk("check", &[]).ended(0);
    jail.jailmk("check", &["--threshold", "10"]).ended(0);
    jail.jailmk("check", &["--threshold", &open.to_string()]).ended(0);
    jail.jailmk("check", &["--threshold", &(open - 0.1).to_string()]).ended(1);
    jail.jailmk("check", &["--threshold", "0"]).ended(1);
    for wrong in ["11", "-1", "x", "NaN"] {
        jail.jailmk("check", &[&format!("--threshold={wrong}")]).ended(2);
    }
}

#[test]
fn what_cannot_be_entered_here_is_said_with_the_reason() {
    let jail = Jail::tools("[workspace]\npath = \"PLACE/missing\"\n");
    let ran = jail.jailmk("check", &[]).ended(1);
    assert!(ran.stdout.contains("cannot be entered on this host:\n  cannot open the workspace"), "{ran}");
    let weighed = weighed(&jail);
    assert_eq!((&weighed["enforceable"], &weighed["exposure"]), (&Value::Bool(false), &Value::Null));
    jail.sh("true").ended(125);

    let group = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    if !group.contains("memory") {
        let limited = Jail::tools("[limits]\nmemory = \"64M\"\n");
        let ran = limited.jailmk("check", &[]).ended(1);
        assert!(ran.stdout.contains("cgroup v2"), "{ran}");
        limited.sh("true").ended(125);
    }
    if !has_landlock() {
        let ran = Jail::tools("[hardening]\nlandlock = \"required\"\n").jailmk("check", &[]).ended(1);
        assert!(ran.stdout.contains("Landlock"), "{ran}");
    }
}

#[test]
fn check_makes_nothing() {
    let jail = Jail::tools("[[mount]]\nfrom = \"PLACE/a\"\nto = \"/tmp/a\"\ncreate = true\n").fresh_state();
    jail.jailmk("check", &[]).ended(0);
    assert!(!jail.place.join("a").exists());
    assert_eq!(fs::read_dir(jail.state_path()).map(Iterator::count).unwrap_or(0), 0);
}
