//! Where a jail gets its cgroup from on a machine that systemd runs, through the binary: an ordinary user's
//! from the user's own manager, root's from the delegated unit that jailmk is started in, or at the top.
//!
//! These run in a login session of a machine that `scripts/vm --systemd` boots.

mod jail;

use std::fs;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use jail::{Jail, Running, is_root, need, until};
use nix::sys::signal::Signal;

/// The cgroup of this user's manager; `None` says that there is none.
fn manager() -> Option<PathBuf> {
    let uid = nix::unistd::geteuid();
    let group = PathBuf::from(format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service"));
    let expected = std::env::var("JAILMK_TEST_INIT").is_ok_and(|init| init == "systemd") && !is_root();
    let lacking: &[&str] = if expected { &[] } else { &["host", "uml", "6.1", "6.12"] };
    need("a systemd manager of this user", !is_root() && group.exists(), lacking).then_some(group)
}

/// A jail that can be told from others', with a limit that must be kept.
fn limited(name: &str) -> Jail {
    let process = std::process::id();
    let jail = Jail::spec(format!(
        "name = \"delegated-{process}-{name}\"\n{}[limits]\nmemory = \"64M\"\ncpus = 0.5\nweight = 50\n",
        jail::tools()
    ));
    let runtime = format!("/run/user/{}", nix::unistd::geteuid());
    jail.variable("XDG_RUNTIME_DIR", &runtime)
}

/// The cgroups below `group` whose path has `words` in it.
fn groups(group: &Path, words: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(groups(&entry.path(), words));
            if entry.path().to_string_lossy().contains(words) {
                found.push(entry.path());
            }
        }
    }
    found
}

fn read(group: &Path, file: &str) -> String {
    fs::read_to_string(group.join(file)).unwrap_or_default().trim().to_owned()
}

/// The group of a process.
fn group_of(running: &Running) -> String {
    fs::read_to_string(format!("/proc/{}/cgroup", running.pid()))
        .expect("read a process's cgroup")
        .trim()
        .into()
}

#[test]
fn a_users_jail_is_limited_in_a_scope_of_his_manager_which_goes_with_it() {
    let Some(manager) = manager() else { return };
    let jail = limited("scope");
    let name = format!("delegated-{}-scope-", std::process::id());
    let running = jail.start("echo ready; cat").ready();
    let found = groups(&manager, &name);
    let leaf = found.iter().find(|group| read(group, "memory.max") == (64 << 20).to_string());
    let leaf = leaf.unwrap_or_else(|| panic!("no leaf: {found:?}"));
    assert_eq!(read(leaf, "cpu.max"), "50000 100000");
    assert_eq!(read(leaf, "cpu.weight"), "50");
    assert_eq!(read(leaf, "cgroup.procs").lines().count(), 2, "PID 1 and the command");
    let group = group_of(&running);
    assert!(group.contains(&name) && group.ends_with(".scope/supervisor"), "{group}");
    running.end().succeeded();
    until("the scope is gone", || groups(&manager, &name).is_empty());
}

#[test]
fn a_users_limit_of_memory_is_felt() {
    if manager().is_none() {
        return;
    }
    let ran = limited("memory").sh("tail -n 1 /dev/zero").ended(137);
    assert!(ran.stderr.contains("killed: memory 64 MiB"), "{ran}");
}

#[test]
fn the_scope_of_a_killed_supervisor_goes_too() {
    let Some(manager) = manager() else { return };
    let name = format!("delegated-{}-killed-", std::process::id());
    let running = limited("killed").start("trap '' TERM HUP; echo ready; sleep 85.25").ready();
    assert!(!groups(&manager, &name).is_empty());
    running.signal(Signal::SIGKILL);
    running.end().ended(-9);
    until("the scope is gone", || groups(&manager, &name).is_empty());
    assert!(!jail::runs("sleep\x0085.25"));
}

#[test]
fn a_delegated_unit_that_jailmk_is_started_in_is_used_itself() {
    let expected = std::env::var("JAILMK_TEST_INIT").is_ok_and(|init| init == "systemd") && is_root();
    let lacking: &[&str] = if expected { &[] } else { &["host", "uml", "6.1", "6.12"] };
    if !need("root and systemd", is_root() && Path::new("/run/systemd/private").exists(), lacking) {
        return;
    }
    let unit = format!("test-{}.service", std::process::id());
    let script = format!(
        "exec systemd-run --quiet --wait --pipe -p Delegate=yes -p TasksMax=60 --unit={unit} env JAILMK_STATE=\"$JAILMK_STATE\" \"$@\""
    );
    let name = format!("delegated-{}-within-", std::process::id());
    let running = limited("within").by_shell(&script).start("echo ready; cat").ready();
    let found = groups(Path::new("/sys/fs/cgroup"), &name);
    assert_eq!(found.len(), 1, "{found:?}");
    let parent = found[0].parent().expect("a parent");
    assert!(parent.ends_with(&unit), "{found:?}");
    assert_eq!(groups(parent, "jailmk-_supervisor-").len(), 1, "{:?}", groups(parent, ""));
    let ran = running.end().succeeded();
    assert!(!ran.stderr.contains("do not hold"), "the unit's limits are above the jail's: {ran}");
    until("the unit is gone", || groups(Path::new("/sys/fs/cgroup"), &unit).is_empty());
}

#[test]
fn a_jail_of_root_outside_of_units_gets_a_group_at_the_top_without_asking_a_manager() {
    let there = is_root() && jail::has_cgroup_v2();
    if !need("root and cgroup v2", there, if is_root() { &["host"] } else { &["host", "uml", "6.1", "6.12"] })
    {
        return;
    }
    let name = format!("delegated-{}-top-", std::process::id());
    let running = limited("top").start("echo ready; cat").ready();
    let found = groups(Path::new("/sys/fs/cgroup"), &name);
    assert!(found.len() == 1 && found[0].starts_with("/sys/fs/cgroup/jailmk"), "{found:?}");
    running.end().succeeded();
    assert!(groups(Path::new("/sys/fs/cgroup"), &name).is_empty());
}

/// A group of this test's own, which nobody delegated.
struct Group(PathBuf);

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn the_limits_of_a_group_that_roots_jail_leaves_are_told_with_the_cure() {
    let there = is_root() && jail::has_cgroup_v2();
    if !need("root and cgroup v2", there, if is_root() { &["host"] } else { &["host", "uml", "6.1", "6.12"] })
    {
        return;
    }
    // Enables the controllers at the top.
    limited("left").sh("true").succeeded();
    let group = Group(format!("/sys/fs/cgroup/test-{}.service", std::process::id()).into());
    fs::create_dir(&group.0).expect("make a group");
    fs::write(group.0.join("memory.max"), "400M").expect("limit the memory");
    fs::write(group.0.join("pids.max"), "60").expect("limit the processes");
    let script = format!("echo $$ >{}/cgroup.procs && exec \"$@\"", group.0.display());
    let jail = Jail::tools("[limits]\nmemory = \"1G\"\n").by_shell(&script);
    let name = group.0.file_name().expect("a name").to_string_lossy().into_owned();
    let line =
        format!("the limits of the unit {name} (memory 400 MiB, 60 processes) do not hold for the jail");
    let ran = jail.sh("true").succeeded();
    let told: Vec<&str> = ran.stderr.lines().filter(|told| told.contains("do not hold")).collect();
    assert!(told.len() == 1 && told[0].starts_with(&format!("jailmk: weaker: {line}")), "{ran}");
    assert!(told[0].contains("`Delegate=yes`"), "{ran}");
    let ran = jail.jailmk("check", &[]);
    assert!(ran.stdout.contains(&format!("weaker: {line}")), "{ran}");
    // What is not stricter than the jail's own is no loss.
    fs::write(group.0.join("memory.max"), "1G").expect("limit the memory");
    fs::write(group.0.join("pids.max"), "max").expect("unlimit the processes");
    let ran = jail.sh("true").succeeded();
    assert!(!ran.stderr.contains("do not hold"), "{ran}");
}

#[test]
fn a_missing_manager_is_told_with_the_cure() {
    if manager().is_none() {
        return;
    }
    let ran = limited("absent").variable("XDG_RUNTIME_DIR", "/nowhere").sh("true");
    ran.refused(125, "no systemd manager answers at /nowhere/systemd/private").refused(125, "enable-linger");
    let ran = Jail::small().variable("XDG_RUNTIME_DIR", "/nowhere").sh("true").succeeded();
    assert!(ran.stderr.contains("weaker: limits of each process stand in"), "{ran}");
}

#[test]
fn a_manager_that_hangs_is_not_waited_for() {
    if manager().is_none() {
        return;
    }
    let jail = limited("hangs");
    let runtime = jail.place.directory("runtime");
    jail.place.directory("runtime/systemd");
    let _listener = UnixListener::bind(runtime.join("systemd/private")).expect("listen");
    let jail = jail.variable("XDG_RUNTIME_DIR", runtime.to_str().expect("UTF-8"));
    jail.sh("true").refused(125, "did not answer within 2 s");
}
