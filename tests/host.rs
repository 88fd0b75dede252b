//! `check` tries everything and leaves nothing; a cgroup leaf limits and is gone afterwards.
//!
//! No test harness: the probes fork, which wants a process of one thread.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jailmk::host::{self, Status, Table};
use jailmk::layer::cgroup::{Armed, CgroupError, Hierarchy, Outcome, Policy};
use jailmk::spec::Limits;

fn main() {
    let tests: &[(&str, fn())] = &[
        ("check_leaves_no_child_no_mount_and_no_cgroup", check_leaves_no_child_no_mount_and_no_cgroup),
        ("check_names_every_layer_of_a_jail_once", check_names_every_layer_of_a_jail_once),
        (
            "a_written_limit_is_an_error_where_a_default_is_a_note",
            a_written_limit_is_an_error_where_a_default_is_a_note,
        ),
        ("a_leaf_has_its_limits_and_is_gone_afterwards", a_leaf_has_its_limits_and_is_gone_afterwards),
        ("a_dropped_leaf_is_removed", a_dropped_leaf_is_removed),
        (
            "the_leaf_of_a_dead_supervisor_is_swept_and_others_stay",
            the_leaf_of_a_dead_supervisor_is_swept_and_others_stay,
        ),
        ("usage_counts_the_limits_that_were_hit", usage_counts_the_limits_that_were_hit),
        (
            "starts_at_once_do_not_take_each_others_group_away",
            starts_at_once_do_not_take_each_others_group_away,
        ),
        ("a_limit_that_the_kernel_refuses_leaves_no_leaf", a_limit_that_the_kernel_refuses_leaves_no_leaf),
    ];
    if std::env::args().nth(1).as_deref() == Some(WORKER) {
        return start_and_end();
    }
    let filter = std::env::args().nth(1).filter(|argument| !argument.starts_with('-'));
    for (name, test) in tests {
        if filter.as_ref().is_none_or(|filter| name.contains(filter.as_str())) {
            test();
            println!("test {name} ... ok");
        }
    }
}

/// The virtual machines of the test matrix have cgroup v2; other hosts may be without.
fn cgroup2_is_promised() -> bool {
    std::env::var("JAILMK_TEST_KERNEL").is_ok_and(|kernel| kernel != "host")
}

fn arm(limits: &Limits) -> Option<Armed> {
    match Policy::new(limits, 1 << 30).arm("test") {
        Ok(Outcome::Armed(armed)) => Some(armed),
        Ok(Outcome::Unavailable { reason }) | Err(reason) => {
            assert!(!cgroup2_is_promised(), "no cgroup v2 here: {}", jailmk::error::Report(&reason));
            println!("SKIPPED, no cgroup v2 leaf here: {}", jailmk::error::Report(&reason));
            None
        }
    }
}

fn children() -> String {
    fs::read_to_string("/proc/thread-self/children").unwrap_or_default()
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap()
}

fn cgroups() -> BTreeSet<String> {
    let mount = match Hierarchy::find() {
        Ok(hierarchy) => hierarchy.mount().to_owned(),
        Err(_) => return BTreeSet::new(),
    };
    let mut found = BTreeSet::new();
    let mut pending = vec![mount];
    while let Some(directory) = pending.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.insert(entry.path().display().to_string());
                pending.push(entry.path());
            }
        }
    }
    found
}

fn check_leaves_no_child_no_mount_and_no_cgroup() {
    let (before, groups) = ((children(), mounts()), cgroups());
    let findings = host::check();
    print!("{}", Table(&findings));
    assert_eq!((children(), mounts()), before);
    // It removes what killed supervisors have left.
    let now = cgroups();
    assert!(now.is_subset(&groups), "{now:?} and before {groups:?}");
}

fn check_names_every_layer_of_a_jail_once() {
    let findings = host::check();
    for name in ["user namespace", "network namespace", "pivot_root", "Landlock", "seccomp", "cgroup v2"] {
        let found: Vec<_> = findings.iter().filter(|finding| finding.name == name).collect();
        assert_eq!(found.len(), 1, "{name}");
        assert!(!found[0].detail.is_empty(), "{name}");
    }
    if cgroup2_is_promised() {
        for name in ["cgroup v2", "clone into cgroup"] {
            let finding = findings.iter().find(|finding| finding.name == name).unwrap();
            assert_eq!(finding.status, Status::Works, "{}", finding.detail);
        }
    }
}

fn a_written_limit_is_an_error_where_a_default_is_a_note() {
    let outcome = Policy::new(&Limits::default(), 1 << 30).arm("test").expect("defaults never fail");
    let Outcome::Unavailable { .. } = outcome else { return };
    for limits in [
        Limits { memory: Some(64 << 20), ..Limits::default() },
        Limits { cpus: Some(1.0), ..Limits::default() },
        Limits { processes: Some(64), ..Limits::default() },
    ] {
        Policy::new(&limits, 1 << 30).arm("test").expect_err("written limits fail where they cannot be had");
    }
}

fn a_leaf_has_its_limits_and_is_gone_afterwards() {
    let limits = Limits { memory: Some(64 << 20), cpus: Some(1.5), processes: Some(33), ..Limits::default() };
    let Some(armed) = arm(&limits) else { return };
    let path = armed.path().to_owned();
    let value = |file: &str| fs::read_to_string(path.join(file)).unwrap().trim().to_owned();
    assert_eq!(value("memory.max"), (64 << 20).to_string());
    assert_eq!(value("memory.oom.group"), "1");
    assert_eq!(value("pids.max"), "33");
    assert_eq!(value("cpu.max"), "150000 100000");
    if armed.weaker().is_empty() {
        assert_eq!(value("memory.swap.max"), "0");
    }
    let words = armed.to_string();
    assert!(
        words.starts_with(&format!(
            "cgroup: {}: memory 64 MiB, swap 0, cpus 1.5, processes 33",
            path.display()
        ))
    );
    let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
    fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
    armed.kill().unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    let usage = armed.usage();
    assert_eq!((usage.oom_kills, usage.pids_max_hits), (0, 0));
    armed.remove().unwrap();
    assert!(!path.exists());
}

fn a_dropped_leaf_is_removed() {
    let Some(armed) = arm(&Limits::default()) else { return };
    let path = armed.path().to_owned();
    let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().unwrap();
    fs::write(path.join("cgroup.procs"), child.id().to_string()).unwrap();
    drop(armed);
    child.wait().unwrap();
    assert!(!path.exists());
}

fn the_leaf_of_a_dead_supervisor_is_swept_and_others_stay() {
    let Some(armed) = arm(&Limits::default()) else { return };
    let group = armed.path().parent().unwrap().to_owned();
    // No process can have a PID this large.
    let leftover = group.join("jailmk-old-4194305-0");
    let foreign = group.join("other-old-4194305-0");
    let living = group.join(format!("jailmk-old-{}-999999", std::process::id()));
    for directory in [&leftover, &foreign, &living] {
        fs::create_dir(directory).unwrap();
    }
    let second = arm(&Limits::default()).unwrap();
    let swept = [&leftover, &foreign, &living, &armed.path().to_owned()]
        .map(|path: &std::path::PathBuf| !path.exists());
    for directory in [&foreign, &living] {
        fs::remove_dir(directory).unwrap();
    }
    assert_eq!(swept, [true, false, false, false]);
    drop((armed, second));
    assert!(group.ends_with("jailmk") != group.exists(), "the shared group goes with its last leaf");
}

fn a_limit_that_the_kernel_refuses_leaves_no_leaf() {
    if arm(&Limits::default()).is_none() {
        return;
    }
    let before = cgroups();
    // More than PID_MAX_LIMIT.
    let limits = Limits { processes: Some(1 << 40), ..Limits::default() };
    let error = Policy::new(&limits, 1 << 30).arm("test").expect_err("the kernel takes no such number");
    let CgroupError::Set { file, path, .. } = error else { panic!("{error:?}") };
    assert_eq!(file, "pids.max");
    assert!(!Path::new(&path).exists());
    assert_eq!(cgroups(), before);
}

/// Runs `script` in the leaf, from its first line on.
fn run_in(armed: &Armed, script: &str) -> std::process::ExitStatus {
    use std::io::Write;
    let mut child = std::process::Command::new("/bin/sh")
        .args(["-c", &format!("read line; {script}")])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    fs::write(armed.path().join("cgroup.procs"), child.id().to_string()).unwrap();
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
    child.wait().unwrap()
}

fn usage_counts_the_limits_that_were_hit() {
    use std::os::unix::process::ExitStatusExt;
    let Some(armed) = arm(&Limits { processes: Some(2), ..Limits::default() }) else { return };
    run_in(&armed, "sleep 0 & sleep 0 & sleep 0");
    assert!(armed.usage().pids_max_hits > 0);
    assert_eq!(armed.usage().oom_kills, 0);
    drop(armed);
    let Some(armed) = arm(&Limits { memory: Some(16 << 20), ..Limits::default() }) else { return };
    let status = run_in(&armed, "dd if=/dev/zero of=/dev/null bs=64M count=1; exit 0");
    assert_eq!(status.signal(), Some(9), "memory.oom.group takes the shell along");
    let usage = armed.usage();
    assert!(usage.oom_kills > 0 && usage.user_usec + usage.system_usec > 0, "{usage:?}");
    assert!(usage.memory_peak.is_none_or(|peak| peak > 8 << 20), "{usage:?}");
    armed.remove().unwrap();
}

/// The argument that makes this program one of many supervisors.
const WORKER: &str = "--start-and-end";

fn start_and_end() {
    for _ in 0..40 {
        let armed = arm(&Limits { processes: Some(9), ..Limits::default() }).expect("armed");
        armed.remove().expect("removed");
    }
}

fn starts_at_once_do_not_take_each_others_group_away() {
    if arm(&Limits::default()).is_none() {
        return;
    }
    let program = std::env::current_exe().unwrap();
    let start = |_| std::process::Command::new(&program).arg(WORKER).spawn().unwrap();
    let workers: Vec<_> = (0..8).map(start).collect();
    let ended: Vec<_> = workers.into_iter().map(|mut worker| worker.wait().unwrap().success()).collect();
    assert_eq!(ended, [true; 8]);
}
