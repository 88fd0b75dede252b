//! Workspaces under review: what the jail writes is kept beside, shown, and dropped.

mod jail;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::process::Command;

use jail::workspace::{REVIEW, changes, has_overlay, need_overlay, reviewed, reviewed_with, snapshot};
use jail::{Jail, is_root, need, need_root, probe, tools};

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

#[test]
fn more_paths_than_can_be_reviewed_can_only_be_discarded() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.sh("echo x >kept").succeeded();
    // More than 64 MiB of paths.
    let script =
        "d=$(head -c 250 /dev/zero | tr '\\0' d); while [ $((n += 1)) -le 15 ]; do mkdir $d; cd $d; done
                  n=0; while [ $((n += 1)) -le 18000 ]; do : >$n; done";
    let told = "cannot review the changes: they are of more than 500000 paths, or more than 64 MiB of paths";
    let ran = jail.sh(script).succeeded();
    assert!(ran.stderr.contains(told), "{ran}");
    for command in ["diff", "apply", "enter"] {
        let ran = jail.jailmk(command, &[]);
        assert!(
            ran.status != 0 && ran.stderr.contains(told) && ran.stderr.contains("jailmk discard"),
            "{ran}"
        );
    }
    assert!(status(&jail, &[]).contains("work"));
    jail.jailmk("discard", &[]).succeeded();
    assert_eq!(jail.prints("ls"), "");
    assert_eq!(changes(&jail), Vec::<String>::new());
}

#[test]
fn a_changed_path_takes_little_memory_to_be_reviewed() {
    if !need_overlay() {
        return;
    }
    const COUNT: u64 = 20_000;
    // What the largest of its children took, in KiB.
    let peak = "exec python3 -c 'import resource, subprocess, sys
code = subprocess.call(sys.argv[1:], stdout=subprocess.DEVNULL)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)' \"$@\"";
    let jail = reviewed().by_shell(peak);
    let peak = |rest: &[&str]| -> u64 {
        jail.jailmk("diff", rest).succeeded().stdout.trim().parse().expect("a number")
    };
    jail.sh("true").succeeded();
    let none = peak(&[]);
    let script = "d=$(head -c 200 /dev/zero | tr '\\0' d)
                  while [ $((n += 1)) -le COUNT ]; do : >$d$n; done";
    let entered = jail.sh(&script.replace("COUNT", &COUNT.to_string())).succeeded();
    let entered: u64 = entered.stdout.trim().parse().expect("a number");
    for took in [peak(&[]), entered] {
        let each = took.saturating_sub(none) * 1024 / COUNT;
        assert!(each < 1500, "{each} bytes for each path");
    }
}

#[test]
fn what_lies_deep_counts_as_everything_else() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with(&format!("{}[limits]\ndisk = \"4M\"", tools()));
    let script = "while [ $((n += 1)) -lt 400 ]; do mkdir d; cd d; done
                  for i in 1 2 3 4 5 6 7 8; do head -c 3000000 /dev/zero >$i; sleep 0.3; done; sleep 12";
    let ran = jail.sh(script).ended(137);
    let told = "jailmk: killed: disk 4 MiB, the changes took ";
    assert!(ran.complaints().iter().any(|line| line.starts_with(told)), "{ran}");
}

#[test]
fn what_cannot_be_looked_at_counts_by_what_the_file_system_loses() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with(&format!("{}[limits]\ndisk = \"16M\"", tools()));
    let script = "mkdir no; exec 3>no/3 4>no/4 5>no/5 6>no/6 7>no/7 8>no/8 9>no/9; chmod MODE no
                  for i in 3 4 5 6 7 8 9; do head -c 15000000 /dev/zero >&$i; sleep 0.3; done; sleep 12";
    for mode in ["000", "400"] {
        let ran = jail.sh(&script.replace("MODE", mode)).ended(137);
        let told = "jailmk: killed: disk 16 MiB, the changes ";
        assert!(ran.complaints().iter().any(|line| line.starts_with(told)), "{ran}");
        jail.jailmk("discard", &[]).succeeded();
    }
    // Which is no reason by itself.
    jail.sh("mkdir no; echo x >no/f; chmod 000 no; sleep 1").succeeded();
}

#[test]
fn what_is_on_the_disk_once_counts_once() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with(&format!("{}[limits]\ndisk = \"4M\"", tools()));
    // Links, holes, and what is gone again.
    let script = "head -c 2000000 /dev/urandom >a; ln a b; ln a c; truncate -s 4M hole
                  for i in 1 2 3; do head -c 1500000 /dev/urandom >d; rm d; done; sleep 1";
    jail.sh(script).succeeded();
    assert_eq!(changes(&jail), ["added    a", "added    b", "added    c", "added    hole"]);
}

/// Runs a script in a jail whose state and changes have a tmpfs with these options, and then the steps: what they
/// print, each behind its words.
fn on_a_disk(options: &str, script: &str, steps: &str) -> Option<(Jail, String)> {
    let release = nix::sys::utsname::uname().expect("uname");
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let has = version >= (6, 6);
    if !need_overlay() || !need("an overlay on tmpfs (Linux 6.6)", has, &["host", "uml", "6.1"]) {
        return None;
    }
    // For root's jails the namespace of another user is another host.
    let user = if is_root() { "" } else { "--user --map-root-user" };
    let jail = reviewed().fresh_state().by_shell(&format!(
        "exec unshare {user} --mount sh -c '
         mkdir -p \"$JAILMK_STATE\" && mount -t tmpfs -o mode=700,{options} none \"$JAILMK_STATE\" || exit 9
         work=../work; jailmk() {{ echo \"+ $*\"; local verb=$1; shift; \"$JAILMK\" $verb \"$SPEC\" \"$@\" 2>&1; }}
         JAILMK=$1 SPEC=$3; \"$@\" >/dev/null 2>&1
         {steps}' sh \"$@\""
    ));
    for name in ["a", "b", "c"] {
        jail.place.file(format!("work/{name}"), "host\n");
    }
    let ran = jail.sh(script).succeeded();
    Some((jail, ran.stdout))
}

#[test]
fn a_jail_that_fills_the_disk_cannot_keep_its_changes_from_being_looked_at_applied_and_dropped() {
    let full = "echo jail >a; echo jail >b; echo jail >c; dd if=/dev/zero of=big bs=1M";
    let steps = "jailmk diff; jailmk apply -- b; jailmk discard -- a; jailmk discard -- big; jailmk diff; jailmk apply
                 jailmk enter -- sh -c \"cat a b c\" | grep -v weaker";
    let Some((jail, told)) = on_a_disk("size=24M", full, steps) else { return };
    let expected = "+ diff\nchanged  a\nchanged  b\nadded    big\nchanged  c\n\
                    + apply -- b\nchanged  b\n\
                    + discard -- a\nchanged  a\n\
                    + discard -- big\nadded    big\n\
                    + diff\nchanged  c\n\
                    + apply\nchanged  c\n\
                    + enter -- sh -c cat a b c\nhost\njail\njail\n";
    assert_eq!(told, expected);
    let host = ["a", "b", "c"].map(|name| fs::read_to_string(jail.place.join("work").join(name)).ok());
    assert_eq!(host, ["host\n", "jail\n", "jail\n"].map(|text| Some(text.to_owned())));
}

#[test]
fn a_jail_that_takes_every_inode_of_the_disk_cannot_either() {
    let full = "echo jail >b; echo x >new; i=0; while : >f$i; do i=$((i + 1)); done 2>/dev/null; :";
    let steps = "jailmk diff | grep -v \" f\"; jailmk apply -- b; jailmk discard -- new; jailmk apply | grep -c \" f\"
                 jailmk diff";
    let Some((_, told)) = on_a_disk("nr_inodes=500", full, steps) else { return };
    assert!(told.contains("+ apply -- b\nchanged  b\n+ discard -- new\nadded    new\n"), "{told}");
    assert!(told.ends_with("+ diff\n"), "{told}");
}

#[test]
fn what_no_room_is_left_to_write_down_can_be_looked_at_and_dropped_and_is_told_from_the_hosts_changes() {
    // More records than the room that is kept for them holds.
    let full =
        "echo jail >a; echo jail >b; : >empty; p=$(printf %0200d 0); d=$p/$p/$p/$p/$p; mkdir -p $d; i=0
                while [ $i -lt 700 ]; do : >$d/$i; i=$((i + 1)); done; dd if=/dev/zero of=big bs=1M";
    let steps = "few() { grep -v -e \"^added    000\" -e \"^deleted  000\" | sed \"s/write .*: ENOSPC/write PATH: ENOSPC/\"; }
                 jailmk diff | few; jailmk apply -- b | few; jailmk enter -- : | few
                 echo host >>$work/a; jailmk discard -- empty | few; jailmk diff | few
                 jailmk discard -- big | few; jailmk apply -- a b | few; jailmk diff | few";
    let Some((jail, told)) = on_a_disk("size=24M", full, steps) else { return };
    let refused = "jailmk: cannot write PATH: ENOSPC: No space left on device\n\
                   hint: make room on this disk: `jailmk discard` drops all changes of the jail, `jailmk discard SPEC -- PATH` some\n";
    let conflict = told.lines().find(|line| line.starts_with("changed  a   [")).unwrap_or_default();
    let left = told.lines().find(|line| line.starts_with("jailmk: left a: ")).unwrap_or_default();
    assert!(conflict.contains("conflict") && left.contains("conflict"), "{told}");
    let hints: Vec<&str> = told.lines().filter(|line| line.starts_with("hint: `")).collect();
    let hints = hints.join("\n");
    let expected = format!(
        "+ diff\nchanged  a\nchanged  b\nadded    big\nadded    empty\n\
         + apply -- b\n{refused}\
         + enter -- :\n{refused}\
         + discard -- empty\nadded    empty\n\
         + diff\n{conflict}\nchanged  b\nadded    big\n\
         + discard -- big\nadded    big\n\
         + apply -- a b\nchanged  b\n{left}\n{hints}\n\
         + diff\n{conflict}\n"
    );
    assert_eq!(told, expected);
    assert_eq!(fs::read_to_string(jail.place.join("work/b")).ok().as_deref(), Some("jail\n"));
}
