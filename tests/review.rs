//! Workspaces under review: what the jail writes is kept beside, shown, and dropped.

mod jail;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jail::workspace::{REVIEW, changes, has_overlay, need_overlay, reviewed, reviewed_with, snapshot};
use jail::{Jail, need, need_root, probe, tools};

fn status(jail: &Jail, arguments: &[&str]) -> String {
    let mut command = Command::new(jail::binary());
    command.arg("status").args(arguments).env_clear().env("JAILMK_STATE", jail.state_path());
    jail::run(command).succeeded().stdout
}

#[test]
fn the_host_does_not_change_while_the_jail_runs_nor_afterwards() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.place.file("work/there", "host\n");
    jail.place.file("work/gone/file", "x");
    let before = snapshot(&jail.place.join("work"));
    let mut running = jail.start(
        "echo jail >>there; rm -rf gone; mkdir -p new; echo x >new/file; chmod 700 .; ln -s there link
         echo ready; cat; cat there; ls",
    );
    assert_eq!(running.line(), "ready");
    assert_eq!(snapshot(&jail.place.join("work")), before);
    running.say(b"");
    let ran = running.end();
    assert_eq!(ran.stdout, "ready\nhost\njail\nlink\nnew\nthere\n", "{ran}");
    assert_eq!(snapshot(&jail.place.join("work")), before);
    assert_eq!(
        changes(&jail),
        ["deleted  gone/file", "added    link", "added    new/file", "changed  there"]
    );
    // Across enters.
    assert_eq!(jail.prints("cat there; ls"), "host\njail\nlink\nnew\nthere\n");
    assert_eq!(snapshot(&jail.place.join("work")), before);
}

#[test]
fn the_end_of_a_jail_says_how_much_there_is_to_review() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    assert_eq!(jail.sh("true").succeeded().complaints(), Vec::<&str>::new());
    let ran = jail.sh("echo x >a; mkdir -p b/c; echo x >b/c/d; exit 3").ended(3);
    let spec = jail.spec_path().display();
    let line = format!("jailmk: 2 changed paths to review: `jailmk diff {spec}`, `jailmk apply {spec}`");
    assert_eq!(ran.complaints(), [line]);
}

#[test]
fn the_jail_sees_its_own_files_and_no_host_path_of_the_layers() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.place.file("work/there", "x");
    let stat = jail.prints("echo >made; stat -c '%u:%g %n' . there made");
    assert_eq!(stat, "1000:1000 .\n1000:1000 there\n1000:1000 made\n");
    let mounts = jail.prints("grep ' /workspace ' /proc/self/mountinfo");
    assert_eq!(mounts.lines().count(), 1, "{mounts}");
    let state = jail.state_path().to_str().expect("UTF-8");
    assert!(!mounts.contains(state) && !mounts.contains("work/"), "{mounts}");
}

#[test]
fn the_changes_of_roots_jail_lie_under_the_owner_of_the_workspace() {
    if !need_overlay() || !need_root() {
        return;
    }
    let jail = reviewed();
    let work = jail.place.join("work");
    let there = jail.place.file("work/there", "x\n");
    for path in [&work, &there] {
        chown(path, Some(12_345), Some(12_346)).expect("chown");
    }
    jail.sh("echo y >>there; mkdir dir; echo z >dir/new; ln -s there link").succeeded();
    jail.jailmk("apply", &[]).succeeded();
    for name in ["there", "dir", "dir/new", "link"] {
        let metadata = fs::symlink_metadata(work.join(name)).expect("look at a file");
        assert_eq!((metadata.uid(), metadata.gid()), (12_345, 12_346), "{name}");
    }
    assert_eq!(fs::read_to_string(there).expect("read a file"), "x\ny\n");
}

#[test]
fn a_second_jail_on_the_same_changes_is_refused_and_a_look_is_not() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let running = jail.start("echo x >made; echo ready; cat").ready();
    jail.sh("true").refused(125, "a jail that runs");
    jail.jailmk("apply", &[]).refused(1, "a jail that runs");
    jail.jailmk("discard", &[]).refused(1, "a jail that runs");
    assert_eq!(changes(&jail), ["added    made"]);
    let status = status(&jail, &[]);
    assert!(status.contains(&format!("by {}, in use\n", jail.spec_path().display())), "{status}");
    assert_eq!(running.end().status, 0);
    jail.sh("true").succeeded();
}

#[test]
fn two_specs_keep_their_changes_to_one_workspace_apart() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.sh("echo one >made").succeeded();
    let path = jail.place.join("work");
    let other = Jail::tools(format!("[workspace]\nmode = \"review\"\npath = \"{}\"\n", path.display()));
    assert_eq!(other.prints("ls"), "");
    assert_eq!(changes(&other), Vec::<String>::new());
    assert_eq!(changes(&jail), ["added    made"]);
}

#[test]
fn what_a_killed_jail_changed_is_there_and_judged_by_its_own_beginning() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let file = jail.place.file("work/file", "host\n");
    let mut running = jail.start("echo jail >>file; echo more >other; echo ready; cat").ready();
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.say(b"");
    drop(running);
    let by = format!("by {}, in use\n", jail.spec_path().display());
    jail::until("the lock is free", || !status(&jail, &[]).contains(&by));
    fs::write(&file, "host again\n").expect("write a file");
    // The next jail is a later one: the host's change came before it, and still is a conflict.
    jail.sh("true").succeeded();
    let lines = changes(&jail);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0].starts_with("changed  file   [conflict: "), "{lines:?}");
    assert_eq!(lines[1], "added    other");
}

#[test]
fn status_lists_who_holds_changes() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed().fresh_state();
    assert_eq!(status(&jail, &[]), "");
    jail.sh("echo x >a; echo y >b").succeeded();
    let work = fs::canonicalize(jail.place.join("work")).expect("a path");
    let spec = jail.spec_path().display();
    assert_eq!(status(&jail, &[]), format!("jail: 2 changes to {} by {spec}\n", work.display()));
    let json: serde_json::Value = serde_json::from_str(&status(&jail, &["--json"])).expect("JSON");
    assert_eq!(json[0]["changes"], 2);
    assert_eq!(json[0]["running"], false);
}

#[test]
fn discard_drops_everything_or_what_is_named() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["tree/1", "tree/2", "tree/deep/3", "tree/deep/4", "kept"] {
        jail.place.file(format!("work/{name}"), name);
    }
    jail.sh("rm -rf tree; echo x >>kept; echo y >new").succeeded();
    let count = changes(&jail).len();
    assert_eq!(count, 6);
    let dropped = jail.jailmk("discard", &["--", "tree/deep/3", "new"]).succeeded().stdout;
    assert_eq!(dropped, "added    new\ndeleted  tree/deep/3\n");
    assert_eq!(
        changes(&jail),
        ["changed  kept", "deleted  tree/1", "deleted  tree/2", "deleted  tree/deep/4"]
    );
    assert_eq!(jail.prints("ls; ls tree tree/deep"), "kept\ntree\ntree:\ndeep\n\ntree/deep:\n3\n");
    jail.jailmk("discard", &["--", "nothing-there"]).refused(1, "changed nothing there");
    jail.jailmk("discard", &["--", "../up"]).refused(1, "cannot choose");
    jail.jailmk("discard", &[]).succeeded();
    assert_eq!(changes(&jail), Vec::<String>::new());
    assert_eq!(jail.prints("ls; cat kept"), "kept\ntree\nkept");
}

#[test]
fn a_file_of_the_first_tick_of_a_second_is_no_conflict() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.prints("true");
    let path = jail.place.join("work/file");
    let until = Instant::now() + Duration::from_secs(2);
    let mut found = false;
    while !found && Instant::now() < until {
        fs::write(&path, "host\n").expect("write a file");
        found = fs::metadata(&path).expect("look at a file").ctime_nsec() == 0;
    }
    if !need("a clock with a tick at whole seconds", found, &["host", "uml", "6.1", "6.12"]) {
        return;
    }
    jail.sh("echo jail >>file").succeeded();
    assert_eq!(changes(&jail), ["changed  file"]);
}

#[test]
fn where_times_are_whole_seconds_a_change_in_the_jails_first_one_is_a_conflict() {
    if !need_overlay() || !need_root() {
        return;
    }
    let mkfs = "/sbin/mkfs.ext4";
    let there = [mkfs, "/dev/loop-control"].iter().all(|path| fs::exists(path).is_ok_and(|there| there));
    if !need("mkfs.ext4 and loop devices", there, &["uml", "6.1", "6.12"]) {
        return;
    }
    let jail = reviewed();
    let (image, work) = (jail.place.join("image"), jail.place.join("work"));
    fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("make a file");
    jail.place.file("content/file", "host\n");
    // Inodes with no room for fractions.
    let made = Command::new(mkfs)
        .args(["-q", "-I", "128", "-d"])
        .args([jail.place.join("content"), image.clone()])
        .output()
        .expect("start mkfs");
    assert!(made.status.success(), "{made:?}");
    let jail = jail.by_shell(&format!(
        "exec unshare -m sh -c 'mount -o loop {} {} && exec \"$@\"' sh \"$@\"",
        image.display(),
        work.display()
    ));
    // Most of a second is left.
    let fraction = || SystemTime::now().duration_since(UNIX_EPOCH).expect("a time").subsec_millis();
    jail::until("a second has begun", || fraction() < 300);
    let running = jail.start("echo jail >file; echo ready; cat").ready();
    let seen = format!("/proc/{}/root{}/file", running.pid(), work.display());
    fs::write(seen, "HOST\n").expect("write a file");
    assert_eq!(running.end().status, 0);
    assert_eq!(changes(&jail), ["changed  file   [conflict: the host's has changed since the jail began]"]);
}

#[test]
fn a_replaced_directory_hides_what_was_in_it_until_that_is_discarded() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["d/1", "d/2", "d/sub/3"] {
        jail.place.file(format!("work/{name}"), name);
    }
    jail.sh("rm -rf d; mkdir d; echo new >d/2; mkdir d/sub; echo new >d/sub/4").succeeded();
    assert_eq!(changes(&jail), ["deleted  d/1", "changed  d/2", "deleted  d/sub/3", "added    d/sub/4"]);
    jail.jailmk("discard", &["--", "d/1"]).succeeded();
    assert_eq!(jail.prints("ls d d/sub"), "d:\n1\n2\nsub\n\nd/sub:\n4\n");
    jail.jailmk("apply", &["--", "d/sub/4"]).succeeded();
    assert_eq!(changes(&jail), ["changed  d/2", "deleted  d/sub/3"]);
    assert_eq!(jail.prints("ls d/sub; cat d/2"), "4\nnew\n");
    jail.jailmk("apply", &[]).succeeded();
    assert_eq!(changes(&jail), Vec::<String>::new());
    assert_eq!(jail.prints("ls d d/sub; cat d/2"), "d:\n1\n2\nsub\n\nd/sub:\n4\nnew\n");
}

#[test]
fn a_workspace_that_was_replaced_keeps_the_changes_to_the_old_one_apart() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.sh("echo x >made").succeeded();
    fs::rename(jail.place.join("work"), jail.place.join("old")).expect("rename");
    jail.place.directory("work");
    jail.sh("true").refused(125, "was replaced since");
    jail.jailmk("apply", &[]).refused(1, "was replaced since");
    jail.jailmk("discard", &[]).succeeded();
    assert_eq!(jail.prints("ls"), "");
}

#[test]
fn other_modes_have_nothing_to_review() {
    let jail = Jail::tools("[workspace]\npath = \".\"\n");
    for subcommand in ["diff", "apply", "discard"] {
        jail.jailmk(subcommand, &[]).refused(1, "in mode \"review\"");
    }
}

#[test]
fn a_kernel_without_overlay_is_told_with_the_cure() {
    if !need("a kernel without overlayfs", !has_overlay(), &["host", "6.1", "6.12"]) {
        return;
    }
    let jail = reviewed();
    jail.place.file("work/there", "x");
    let ran = jail.sh("echo y >there").refused(125, "cannot mount an overlay on /workspace");
    assert!(ran.stderr.contains("mode = \"direct\""), "{ran}");
    assert_eq!(fs::read_to_string(jail.place.join("work/there")).expect("read a file"), "x");
}

#[test]
fn the_plan_says_what_lies_below_and_what_above() {
    let jail = reviewed();
    let plan = jail.jailmk("enter", &["--plan"]).succeeded().stdout;
    let work = jail.place.join("work");
    let line = plan.lines().find(|line| line.contains("overlay on /workspace")).expect("a line");
    assert!(line.contains(&format!("below {}", work.display())), "{line}");
    assert!(!jail.state_path().join("review/jail").exists(), "--plan has made something");
}

#[test]
fn what_is_hidden_is_no_part_of_a_review() {
    if !need_overlay() {
        return;
    }
    let jail = Jail::tools(format!("{REVIEW}hide = [\".env\", \"keys\"]\n"));
    jail.place.file("work/.env", "secret\n");
    jail.place.file("work/keys/a", "secret\n");
    let ran =
        jail.sh("cat .env keys/a; ls keys; echo x >.env; echo x >keys/b; rm -rf .env keys; echo x >fine");
    assert_eq!(ran.stdout, "", "{ran}");
    assert_eq!(changes(&jail), ["added    fine"]);
    jail.jailmk("apply", &[]).succeeded();
    assert_eq!(fs::read_to_string(jail.place.join("work/keys/a")).expect("read a file"), "secret\n");
}

#[test]
fn no_attribute_of_overlayfs_can_be_set_from_inside() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with(&probe::section());
    jail.place.file("work/d/secret", "host\n");
    probe::expect(&jail, &[("mkdir @e 0755", "0"), ("open @e/g 65 0644", "3"), ("open @f 65 0644", "3")]);
    let attributes = [
        ("e", "user.overlay.opaque"),
        ("f", "user.overlay.whiteout"),
        ("f", "user.overlay.metacopy"),
        ("f", "user.overlay.redirect"),
        ("e", "user.overlay.redirect"),
        ("d", "user.overlay.opaque"),
        ("e", "user.overlay.origin"),
        ("f", "trusted.overlay.opaque"),
        ("f", "user.mine"),
    ];
    let set: Vec<String> =
        attributes.iter().map(|(path, name)| format!("setxattr @{path} @{name} @y 1 0")).collect();
    // Some may be taken: as a name that means nothing to this overlay, which escapes it below.
    let taken = probe::calls(&jail, &set);
    assert_ne!(taken[7], "0", "{taken:?}");
    probe::expect(&jail, &[("open @d/secret 0", "3"), ("open @e/g 0", "3"), ("open @f 0", "3")]);
    assert_eq!(changes(&jail), ["added    e/g", "added    f"]);
    jail.jailmk("apply", &[]).succeeded();
    assert_eq!(fs::read(jail.place.join("work/d/secret")).expect("read a file"), b"host\n");
    // Extended attributes do not come over.
    let names = Command::new("python3")
        .args(["-c", "import os, sys; print(os.listxattr(sys.argv[1]))"])
        .arg(jail.place.join("work/f"))
        .output()
        .expect("run python3");
    assert_eq!(String::from_utf8_lossy(&names.stdout), "[]\n");
}

#[test]
fn modes_that_lock_their_owner_out_are_no_hindrance() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.sh("mkdir no ro; echo a >no/f; echo b >ro/f; echo c >zero; chmod 000 no zero; chmod 555 ro")
        .succeeded();
    assert_eq!(changes(&jail), ["added    no/f", "added    ro/f", "added    zero"]);
    jail.jailmk("apply", &[]).succeeded();
    let mode = |name| fs::symlink_metadata(jail.place.join(name)).expect("look").permissions().mode() & 0o777;
    assert_eq!(["work/no", "work/ro", "work/zero"].map(mode), [0o700, 0o755, 0]);
    assert_eq!(changes(&jail), Vec::<String>::new());
    jail.sh("mkdir -p deep/no; echo x >deep/no/f; chmod 000 deep/no; chmod 000 deep").succeeded();
    jail.jailmk("discard", &[]).succeeded();
    assert_eq!(changes(&jail), Vec::<String>::new());
}

#[test]
fn changes_that_take_more_than_disk_end_the_jail() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with(&format!("{}[limits]\ndisk = \"4M\"", tools()));
    let told = "jailmk: killed: disk 4 MiB, the changes took ";
    let runs_away = "mkdir -p a/b; while :; do head -c 200000 /dev/zero >a/b/$((n += 1)); sleep 0.02; done";
    let ran = jail.sh(runs_away).ended(137);
    assert!(ran.complaints().iter().any(|line| line.starts_with(told)), "{ran}");
    assert!(!changes(&jail).is_empty());
    // As long as they are there.
    let status = jail.option("--json-status-fd=3").by_shell("exec \"$@\" 3>status");
    let ran = status.sh("sleep 94.75").ended(137);
    assert!(ran.complaints().iter().any(|line| line.starts_with(told)), "{ran}");
    let status_file = fs::read_to_string(status.place.join("here/status")).expect("read the status");
    assert!(status_file.contains("\"killed-by\":\"disk\""), "{status_file}");
    status.jailmk("discard", &[]).succeeded();
    status.sh("sleep 1").succeeded();
}
