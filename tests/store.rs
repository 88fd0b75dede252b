//! Trees that share files, through the binary: each is still known to be what was built, and what no tree
//! needs any more goes.

mod jail;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use jail::{Jail, Ran, binary, need, need_root, run};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use serde_json::Value;

const FILE: &str = "usr/bin/busybox";

/// Two specs that hold the same program, in one state of their own. Both are built.
fn pair() -> (Jail, Jail) {
    let one = Jail::tools("").fresh_state();
    let two = Jail::tools("directories = [\"/srv\"]\n").state_of(&one);
    one.jailmk("build", &[]).succeeded();
    two.jailmk("build", &[]).succeeded();
    (one, two)
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).expect("a file of the tree").ino()
}

/// The tree that `enter` takes, without a build.
fn current(jail: &Jail) -> PathBuf {
    for spec in fs::read_dir(jail.state_path().join("rootfs")).expect("a state") {
        let spec = spec.unwrap().path();
        let origin = fs::read_to_string(spec.join("spec")).unwrap();
        if origin == format!("file {}\n", jail.spec_path().display()) {
            return spec.join(fs::read_link(spec.join("current")).unwrap()).join("root");
        }
    }
    panic!("{} is not built", jail.spec_path().display());
}

/// A file system that clones shares no inodes: what these tests are about does not exist there.
fn shares(one: &Jail, two: &Jail) -> bool {
    let same = inode(&one.tree().join(FILE)) == inode(&two.tree().join(FILE));
    need("a file system that cannot clone, but link", same, &["host"])
}

/// Changes one byte and hides it as well as the file's owner can.
fn damage(path: &Path) {
    let before = fs::metadata(path).expect("a file of the tree");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
    fs::set_permissions(path, before.permissions()).unwrap();
    fs::File::open(path).unwrap().set_modified(before.modified().unwrap()).unwrap();
}

fn gc(jail: &Jail, options: &[&str]) -> Ran {
    let mut command = Command::new(binary());
    command.arg("gc").args(options).env_clear().env("PATH", jail::PATH);
    command.env("HOME", jail.place.join("home")).env("JAILMK_STATE", jail.state_path());
    run(command)
}

fn collected(jail: &Jail, options: &[&str]) -> Value {
    let options: Vec<&str> = options.iter().copied().chain(["--json"]).collect();
    serde_json::from_str(&gc(jail, &options).succeeded().stdout).expect("gc prints JSON")
}

fn objects(jail: &Jail) -> Vec<PathBuf> {
    let entries = fs::read_dir(jail.state_path().join("store/objects")).expect("a store");
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The directories of generations, and what else a build leaves, of all specs.
fn kept(jail: &Jail) -> Vec<String> {
    let mut names = Vec::new();
    for spec in fs::read_dir(jail.state_path().join("rootfs")).expect("a state") {
        for entry in fs::read_dir(spec.unwrap().path()).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name != "spec" && name != "current" {
                names.push(name);
            }
        }
    }
    names.sort();
    names
}

/// Every object holds what its name says; links are what nobody can change.
#[track_caller]
fn objects_are_whole(jail: &Jail) {
    let directory = jail.state_path().join("store/objects");
    let script = "cd \"$0\" && find . -type f -print0 | xargs -0r sha256sum";
    let output = Command::new("sh").args(["-c", script]).arg(&directory).output().expect("start sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let (digest, name) = line.split_once("  ./").expect("a line of sha256sum");
        assert!(name.starts_with(digest), "{line}");
    }
}

#[test]
fn the_second_tree_takes_no_room_of_its_own() {
    let one = Jail::tools("").fresh_state();
    one.jailmk("build", &[]).succeeded();
    let two = Jail::tools("directories = [\"/srv\"]\n").state_of(&one);
    let ran = two.jailmk("build", &["--json"]).succeeded();
    let summary: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(summary["shared_bytes"], summary["bytes"], "{ran}");
    if shares(&one, &two) {
        // Both trees and the store.
        assert_eq!(fs::metadata(one.tree().join(FILE)).unwrap().nlink(), 3);
    }
    let host = fs::canonicalize("/usr/bin/busybox").unwrap();
    assert_ne!(inode(&host), inode(&one.tree().join(FILE)), "the host's own file");
}

#[test]
fn a_bare_tree_shares_no_inode() {
    let (one, _two) = pair();
    let output = one.place.join("bare");
    one.jailmk("build", &["--output", output.to_str().unwrap()]).succeeded();
    assert_eq!(fs::metadata(output.join(FILE)).unwrap().nlink(), 1);
    damage(&output.join(FILE));
    assert_eq!(one.prints("echo whole"), "whole\n");
}

#[test]
fn a_file_changed_in_one_tree_is_found_in_every_tree_that_shares_it() {
    let (one, two) = pair();
    if !shares(&one, &two) {
        return;
    }
    assert_eq!(one.prints("echo whole"), "whole\n");
    assert_eq!(two.prints("echo whole"), "whole\n");
    damage(&current(&one).join(FILE));
    for jail in [&one, &two] {
        jail.run(&["true"]).refused(125, &format!("/{FILE} has other content"));
        let listed = jail.jailmk("verify", &["--json"]).ended(1).stdout;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed["differences"][0]["path"], format!("/{FILE}"));
        assert_eq!(listed["differences"].as_array().unwrap().len(), 1);
    }
    // A third spec must not be given the damaged object, and a build heals each that has it.
    let three = Jail::tools("directories = [\"/opt\"]\n").state_of(&one);
    assert_eq!(three.prints("echo whole"), "whole\n");
    two.run(&["true"]).refused(125, "has other content");
    for jail in [&one, &two] {
        jail.jailmk("build", &[]).succeeded();
        assert_eq!(jail.prints("echo whole"), "whole\n");
        assert_eq!(inode(&jail.tree().join(FILE)), inode(&three.tree().join(FILE)));
    }
    objects_are_whole(&one);
}

#[test]
fn what_other_builds_do_to_shared_files_costs_no_reading() {
    let (one, two) = pair();
    if !shares(&one, &two) {
        return;
    }
    // Without a lock that can be read no file can be compared with it: the ledger alone must do.
    let lock = one.tree().parent().unwrap().join("lock");
    fs::write(&lock, "damaged\n").unwrap();
    assert_eq!(one.prints("echo whole"), "whole\n");
    let three = Jail::tools("directories = [\"/opt\"]\n").state_of(&one);
    three.jailmk("build", &[]).succeeded();
    assert_eq!(one.prints("echo whole"), "whole\n");
    fs::remove_file(three.spec_path()).unwrap();
    gc(&one, &[]).succeeded();
    assert_eq!(fs::metadata(current(&one).join(FILE)).unwrap().nlink(), 3);
    assert_eq!(one.prints("echo whole"), "whole\n");
    // And it does only where it says so.
    let four = Jail::tools("directories = [\"/mnt\"]\n").state_of(&one);
    four.jailmk("build", &[]).succeeded();
    fs::remove_file(one.state_path().join("store/ledger")).unwrap();
    one.run(&["true"]).refused(125, "cannot use");
}

#[test]
fn a_tree_removed_by_hand_costs_one_reading() {
    let (one, two) = pair();
    if !shares(&one, &two) {
        return;
    }
    fs::remove_dir_all(two.tree().parent().unwrap().parent().unwrap()).unwrap();
    assert_eq!(one.prints("echo whole"), "whole\n");
    // The seal knows the new times now.
    let lock = current(&one).parent().unwrap().join("lock");
    fs::write(&lock, "damaged\n").unwrap();
    assert_eq!(one.prints("echo whole"), "whole\n");
}

#[test]
fn a_file_that_others_link_all_the_time_is_no_changed_file() {
    let (one, two) = pair();
    if !shares(&one, &two) {
        return;
    }
    let file = one.tree().join(FILE);
    let (store, more) = (one.state_path().join("store"), one.state_path().join("store/objects/.more"));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            // As builds do: with the lock, and one after another.
            while !over.load(Ordering::Relaxed) {
                let store = fs::File::open(&store).expect("the store");
                let locked = Flock::lock(store, FlockArg::LockExclusive).expect("lock the store");
                for _ in 0..100 {
                    fs::hard_link(&file, &more).expect("link");
                    fs::remove_file(&more).expect("unlink");
                }
                drop(locked);
                thread::sleep(Duration::from_millis(1));
            }
        });
        let ran = panic::catch_unwind(|| one.sh("echo in"));
        over.store(true, Ordering::Relaxed);
        assert_eq!(ran.expect("it was run").succeeded().stdout, "in\n");
    });
}

#[test]
fn rights_that_the_mode_does_not_show_are_found() {
    if !need_root() {
        return;
    }
    let (one, two) = pair();
    if !shares(&one, &two) {
        return;
    }
    let file = one.tree().join(FILE);
    assert!(Command::new("setcap").arg("cap_sys_admin=ep").arg(&file).status().expect("setcap").success());
    for jail in [&one, &two] {
        jail.run(&["true"]).refused(125, &format!("/{FILE} has other content"));
        jail.jailmk("build", &[]).succeeded();
        assert_eq!(jail.prints("echo whole"), "whole\n");
    }
}

#[test]
fn capabilities_and_setuid_bits_of_the_host_do_not_get_in() {
    if !need_root() {
        return;
    }
    let place = jail::Place::new();
    let program = place.program("program", fs::read("/usr/bin/busybox").unwrap());
    assert!(Command::new("setcap").arg("cap_net_raw=ep").arg(&program).status().expect("setcap").success());
    let suid = place.program("suid", "x");
    fs::set_permissions(&suid, fs::Permissions::from_mode(0o4755)).unwrap();
    let jail = Jail::tools(format!(
        "files = [{{ from = \"{}\", to = \"/opt/program\" }}, {{ from = \"{}\", to = \"/opt/suid\" }}]\n",
        program.display(),
        suid.display()
    ));
    let ran = jail.jailmk("build", &[]).succeeded();
    assert!(ran.stderr.contains("note: /opt/suid loses the special bits of its mode 4755"), "{ran}");
    let tree = jail.tree();
    let output = Command::new("getcap").arg(tree.join("opt/program")).output().expect("start getcap");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    assert_eq!(fs::metadata(tree.join("opt/suid")).unwrap().mode() & 0o7777, 0o555);
}

#[test]
fn a_build_killed_at_any_moment_leaves_nothing_half_written() {
    let one =
        Jail::spec("[rootfs]\nprograms = [\"busybox\"]\nfiles = [\"/usr/lib/python3*/{json,email,http,asyncio,encodings}/**\"]\n").fresh_state();
    for milliseconds in [1, 40, 120, 200, 350, 500] {
        let mut build = one.command("build", &[]).spawn().expect("start a build");
        thread::sleep(Duration::from_millis(milliseconds));
        // It may have ended already, which is a moment too.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(build.id() as i32), Signal::SIGKILL);
        build.wait().unwrap();
        if one.state_path().join("store/objects").exists() {
            objects_are_whole(&one);
        }
    }
    one.jailmk("build", &[]).succeeded();
    one.jailmk("verify", &[]).succeeded();
    gc(&one, &[]).succeeded();
    let kept = kept(&one);
    assert!(kept.len() == 1 && kept[0].starts_with("gen-"), "{kept:?}");
    one.run(&["busybox", "true"]).succeeded();
}

#[test]
fn a_build_without_descriptors_fails_whole() {
    let one = Jail::tools("").fresh_state();
    one.jailmk("build", &[]).succeeded();
    let two = Jail::tools("directories = [\"/srv\"]\n").state_of(&one);
    let mut failures = 0;
    for limit in [4, 6, 8, 10, 12, 16] {
        let few = Jail::tools("directories = [\"/srv\"]\n").state_of(&one);
        let few = few.by_shell(&format!("ulimit -n {limit}; exec \"$@\""));
        let ran = few.jailmk("build", &[]);
        if ran.status != 0 {
            failures += 1;
            // Not what seemed missing for want of a descriptor.
            let causes = ["EMFILE", "Too many open files"];
            let names_the_cause = ran.stderr.contains("jailmk: cannot ")
                && causes.iter().any(|cause| ran.stderr.contains(cause));
            assert!(ran.status == 1 && names_the_cause, "{limit}: {ran}");
        }
    }
    assert!(failures > 0);
    objects_are_whole(&one);
    // Where there are too few to tidy up with, gc does.
    gc(&one, &[]).succeeded();
    assert!(kept(&one).iter().all(|name| name.starts_with("gen-")), "{:?}", kept(&one));
    assert_eq!(one.prints("echo whole"), "whole\n");
    assert_eq!(two.prints("echo whole"), "whole\n");
}

#[test]
fn builds_of_many_specs_at_once_share_and_are_whole() {
    let first = Jail::tools("").fresh_state();
    let jails: Vec<Jail> =
        (0..6).map(|n| Jail::tools(format!("directories = [\"/srv/{n}\"]\n")).state_of(&first)).collect();
    let builds: Vec<_> = jails.iter().map(|jail| jail.command("build", &[]).spawn().unwrap()).collect();
    for mut build in builds {
        assert!(build.wait().unwrap().success());
    }
    for jail in &jails {
        jail.jailmk("verify", &[]).succeeded();
        assert_eq!(jail.prints("echo whole"), "whole\n");
    }
    let inodes: std::collections::BTreeSet<u64> =
        jails.iter().map(|jail| inode(&jail.tree().join(FILE))).collect();
    if shares(&jails[0], &jails[1]) {
        assert_eq!(inodes.len(), 1);
    }
    objects_are_whole(&first);
}

#[test]
fn a_jail_that_runs_while_its_spec_is_rebuilt_keeps_its_files() {
    let jail = Jail::tools("files = [{ content = \"old\", to = \"/etc/note\" }]\n").fresh_state();
    let script = "echo ready; read line; cat /etc/note; cat /usr/bin/busybox | wc -c";
    let mut running = jail.start(script).ready();
    let old = jail.tree();
    let text = fs::read_to_string(jail.spec_path()).unwrap().replace("\"old\"", "\"new\"");
    fs::write(jail.spec_path(), text).unwrap();
    jail.jailmk("build", &[]).succeeded();
    let new = jail.tree();
    assert_ne!(old, new);
    assert_eq!(jail.prints("cat /etc/note"), "new");
    // Neither a build nor gc, not even of everything, takes it away.
    gc(&jail, &["--all"]).succeeded();
    assert!(old.exists());
    running.say(b"\n");
    let size = fs::metadata("/usr/bin/busybox").unwrap().len();
    assert_eq!(running.end().succeeded().stdout, format!("ready\nold{size}\n"));
    gc(&jail, &[]).succeeded();
    assert!(!old.exists());
}

#[test]
fn gc_removes_the_trees_of_specs_that_are_gone() {
    let (one, two) = pair();
    let before = collected(&one, &["--dry-run"]);
    assert_eq!(before["files"], 0, "{before}");
    fs::remove_file(two.spec_path()).unwrap();
    let told = collected(&one, &["--dry-run"]);
    assert_eq!(kept(&one).len(), 2);
    let done = collected(&one, &[]);
    assert_eq!((&told["files"], &told["bytes"]), (&done["files"], &done["bytes"]));
    assert_eq!((&told["trees"], &told["dry_run"]), (&done["trees"], &Value::Bool(true)));
    let fates: Vec<&str> =
        done["trees"].as_array().unwrap().iter().map(|t| t["fate"].as_str().unwrap()).collect();
    assert!(fates.contains(&"kept") && fates.contains(&"removed"), "{done}");
    assert_eq!(kept(&one).len(), 1);
    assert_eq!(one.prints("echo whole"), "whole\n");
    fs::remove_file(one.spec_path()).unwrap();
    let ran = gc(&one, &[]).succeeded();
    let shown = one.spec_path().display().to_string();
    assert!(ran.stdout.contains(&format!("remove {shown}: 1 tree\nfreed ")), "{ran}");
    assert_eq!(kept(&one), Vec::<String>::new());
    assert_eq!(objects(&one), Vec::<PathBuf>::new());
    assert_eq!(fs::read_dir(one.state_path().join("rootfs")).unwrap().count(), 0);
}

#[test]
fn gc_keeps_what_a_running_jail_holds() {
    let jail = Jail::tools("").fresh_state();
    let mut running = jail.start("echo ready; read line; cat /usr/bin/busybox | wc -c").ready();
    let spec = fs::read(jail.spec_path()).unwrap();
    fs::remove_file(jail.spec_path()).unwrap();
    for options in [&["--dry-run"][..], &[], &["--all"]] {
        let ran = gc(&jail, options).succeeded();
        assert!(ran.stdout.contains("a jail runs from it"), "{ran}");
    }
    assert_eq!(kept(&jail).len(), 1);
    running.say(b"\n");
    let size = fs::metadata("/usr/bin/busybox").unwrap().len();
    assert_eq!(running.end().succeeded().stdout, format!("ready\n{size}\n"));
    gc(&jail, &[]).succeeded();
    assert_eq!(kept(&jail), Vec::<String>::new());
    fs::write(jail.spec_path(), spec).unwrap();
    assert_eq!(jail.prints("echo again"), "again\n");
}

#[test]
fn gc_takes_built_in_specs_only_with_all() {
    let (one, _two) = pair();
    let mut command = Command::new(binary());
    command.args(["build", "terminal"]).env_clear().env("PATH", jail::PATH);
    run({
        command.env("JAILMK_STATE", one.state_path());
        command
    })
    .succeeded();
    gc(&one, &[]).succeeded();
    assert_eq!(kept(&one).len(), 3);
    let done = collected(&one, &["--all"]);
    let trees = done["trees"].as_array().unwrap();
    assert!(trees.iter().any(|tree| tree["spec"] == "terminal (built in)"), "{done}");
    assert_eq!(kept(&one), Vec::<String>::new());
    assert_eq!(one.prints("echo again"), "again\n");
}

#[test]
fn gc_takes_what_killed_builds_left() {
    let (one, _two) = pair();
    let top = one.tree().parent().unwrap().parent().unwrap().to_owned();
    for name in ["staging-1/root/a", "trash-1/root/a"] {
        fs::create_dir_all(top.join(name)).unwrap();
        fs::write(top.join(name).join("file"), vec![1; 100_000]).unwrap();
    }
    fs::write(one.state_path().join("store/objects/stray"), "x").unwrap();
    let told = collected(&one, &["--dry-run"]);
    let done = collected(&one, &[]);
    assert_eq!((&told["files"], &told["bytes"]), (&done["files"], &done["bytes"]));
    assert_eq!(done["files"], 3, "{done}");
    assert!(done["bytes"].as_u64().unwrap() >= 200_000, "{done}");
    assert_eq!(kept(&one).len(), 2);
}

#[test]
fn a_build_beside_gc_is_whole() {
    let (one, two) = pair();
    fs::remove_file(two.spec_path()).unwrap();
    thread::scope(|scope| {
        let collector = scope.spawn(|| (0..20).for_each(|_| drop(gc(&one, &["--all"]).succeeded())));
        while !collector.is_finished() {
            one.jailmk("build", &[]).succeeded();
        }
    });
    assert_eq!(one.prints("echo whole"), "whole\n");
    objects_are_whole(&one);
}

#[test]
fn a_build_with_nothing_changed_looks_again_only_when_something_may_have() {
    let jail = Jail::tools("files = [{ from = \"PLACE/data\", to = \"/srv/data\" }]\n").fresh_state();
    let file = jail.place.file("data/a", "a");
    let reused = || {
        let ran = jail.jailmk("build", &["--json"]).succeeded();
        serde_json::from_str::<Value>(&ran.stdout).unwrap()["reused"] == true
    };
    // What changed so lately may change again without a new time, and is not relied on.
    thread::sleep(Duration::from_millis(2500));
    assert!(!reused());
    assert!(reused());
    jail.place.file("data/b", "b");
    assert!(!reused());
    assert!(current(&jail).join("srv/data/b").exists());
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    assert!(!reused());
    fs::write(&file, "A").unwrap();
    assert!(!reused());
    fs::remove_file(jail.place.join("data/b")).unwrap();
    assert!(!reused());
    assert!(reused());
    // Where all that was looked at lies in directories which others leave alone, it is written down.
    let (quiet, _) = pair();
    assert!(current(&quiet).parent().unwrap().join("seen").exists());
}

#[test]
fn the_ten_largest_files_are_told_on_demand() {
    let (one, _two) = pair();
    let ran = one.jailmk("build", &["--verbose"]).succeeded();
    let line = ran.stdout.lines().nth(1).expect("a second line");
    assert!(line.ends_with(&format!("MiB  /{FILE}")), "{ran}");
    assert_eq!(one.jailmk("build", &[]).succeeded().stdout.lines().count(), 3);
    let summary = one.jailmk("build", &["--json"]).succeeded().stdout;
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!(summary["largest"][0]["path"], format!("/{FILE}"));
    assert!(summary["largest"].as_array().unwrap().len() <= 10);
}
