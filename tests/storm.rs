//! Many jails at once, and jails killed at any moment, through the binary: all work, or end; nothing is left.
//!
//! `JAILMK_KILLS` says how many are killed, 60 unless it is given.

mod jail;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use jail::chance::Chance;
use jail::{Jail, Running, child_of, kernel, mounted_below, run, runs, until};
use nix::sys::signal::{Signal, kill};

/// As many as say something, and the emulated kernels get through.
fn many(on_this_kernel: usize, elsewhere: usize) -> usize {
    if kernel() == "host" { on_this_kernel } else { elsewhere }
}

/// Jails' cgroups whose supervisors are or were started by this process's tests.
fn groups(name: &str) -> BTreeSet<PathBuf> {
    fn walk(directory: &Path, name: &str, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                walk(&entry.path(), name, found);
                if entry.file_name().to_string_lossy().contains(name) {
                    found.insert(entry.path());
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/fs/cgroup"), name, &mut found);
    found
}

/// A jail whose cgroups can be told from others', with a state of its own, built.
fn named(name: &str) -> Jail {
    let jail =
        Jail::spec(format!("name = \"{name}-{}\"\n{}", std::process::id(), jail::tools())).fresh_state();
    jail.jailmk("build", &[]).succeeded();
    jail
}

/// What is in a state directory, but for the trees.
fn state(jail: &Jail) -> BTreeSet<PathBuf> {
    fn walk(directory: &Path, found: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "root" {
                walk(&entry.path(), found);
            }
            found.insert(entry.path());
        }
    }
    let mut found = BTreeSet::new();
    walk(jail.state_path(), &mut found);
    found
}

#[test]
fn many_jails_run_at_once_and_each_is_alone() {
    let jail = named("crowd");
    let count = many(200, 8);
    // Each sees no process but its own.
    let script = "echo ready; read -r word; ls -d /proc/[0-9]* | wc -l";
    let running: Vec<Running> = (0..count).map(|_| jail.start(script)).collect();
    let running: Vec<Running> = running.into_iter().map(Running::ready).collect();
    for mut running in running {
        running.say(b"go\n");
        let ran = running.end().succeeded();
        // PID 1, the shell, ls and wc.
        assert!(["ready\n3\n", "ready\n4\n"].contains(&ran.stdout.as_str()), "{ran}");
    }
    assert_eq!(groups(&format!("crowd-{}", std::process::id())), BTreeSet::new());
}

#[test]
fn jails_killed_at_random_moments_leave_nothing() {
    let jail = named("killed");
    let before = state(&jail);
    let seconds = format!("91.{}", std::process::id());
    let marker = format!("\0{seconds}");
    let script = format!("(setsid sleep {seconds} &); sleep {seconds} & sleep {seconds}");
    let kills =
        std::env::var("JAILMK_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(many(60, 15));
    let mut chance = Chance::new();
    for _ in 0..kills {
        let running = jail.start(&script);
        thread::sleep(Duration::from_micros(chance.below(40_000)));
        let first = child_of(running.pid());
        let victim = match chance.below(3) {
            0 => Some(running.pid()),
            1 => first,
            _ => first.and_then(child_of),
        };
        if let Some(victim) = victim {
            let _ = kill(victim, Signal::SIGKILL);
        }
        // The supervisor goes by itself, or it was too early for another victim.
        let _ = kill(running.pid(), Signal::SIGTERM);
        let ran = running.end();
        assert!([-9, -15, 125, 137, 143].contains(&ran.status), "{ran}");
        assert!(!ran.stderr.contains("panicked"), "{ran}");
        until("all processes are gone", || !runs(&marker));
    }
    // A start sweeps the cgroups of killed supervisors.
    jail.prints("true");
    assert_eq!(groups(&format!("killed-{}", std::process::id())), BTreeSet::new());
    assert_eq!(state(&jail), before);
    assert!(!mounted_below(jail.state_path()));
}

#[test]
fn a_tree_that_is_replaced_while_jails_enter_is_the_old_or_the_new_one() {
    let jail = Jail::tools("").fresh_state();
    let text = fs::read_to_string(jail.spec_path()).expect("read the spec");
    for version in 0..many(12, 3) {
        let file = format!("[rootfs]\nfiles = [{{ content = \"{version}\", to = \"/etc/version\" }}]\n");
        fs::write(jail.spec_path(), text.replacen("[rootfs]\n", &file, 1)).expect("write the spec");
        let running: Vec<Running> = (0..4).map(|_| jail.start("cat /etc/version")).collect();
        let built = run(jail.command("build", &[]));
        assert_eq!(built.status, 0, "{built}");
        for running in running {
            assert_eq!(running.end().succeeded().stdout, version.to_string());
        }
    }
}

#[test]
fn too_few_descriptors_are_told_and_leave_nothing() {
    let jail = named("few");
    let mut told = 0;
    let mut limit = 4;
    loop {
        let few = Jail::spec(fs::read_to_string(jail.spec_path()).expect("read the spec"));
        let few = few.variable("JAILMK_STATE", jail.state_path().to_str().expect("UTF-8"));
        let ran = few.by_shell(&format!("ulimit -n {limit}; exec \"$@\"")).sh("echo in");
        if ran.status == 0 {
            assert_eq!(ran.stdout, "in\n");
            break;
        }
        assert_eq!((ran.status, ran.stdout.as_str()), (125, ""), "{limit}: {ran}");
        assert!(ran.stderr.contains("jailmk: cannot "), "{limit}: {ran}");
        assert!(!ran.stderr.contains("panicked"), "{limit}: {ran}");
        told += 1;
        limit += 1;
    }
    assert!(told > 3 && limit < 64, "{told} limits were too few, {limit} enough");
    assert_eq!(groups(&format!("few-{}", std::process::id())), BTreeSet::new());
}
