//! What of the host a jail sees: its workspace, its `[[mount]]`s, and the writable places beside them.

mod jail;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use jail::workspace::{DIRECT, at_work};
use jail::{Jail, is_root, need_root, probe};

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).expect("look at a file");
    (metadata.uid(), metadata.gid())
}

#[test]
fn a_direct_workspace_is_the_working_directory_and_writes_reach_the_host() {
    let jail = at_work("");
    let here = jail.place.file("work/there", "host\n");
    assert_eq!(jail.prints("pwd; cat there; echo jail >made; echo more >>there"), "/workspace\nhost\n");
    let made = jail.place.join("work/made");
    assert_eq!(fs::read_to_string(&made).expect("read a file"), "jail\n");
    assert_eq!(fs::read_to_string(&here).expect("read a file"), "host\nmore\n");
    assert_eq!(owner(&made), owner(&here));
    assert_eq!(jail.prints("stat -c %u:%g there made"), "1000:1000\n1000:1000\n");
}

#[test]
fn what_root_s_jail_writes_belongs_to_the_owner_of_the_directory() {
    if !need_root() {
        return;
    }
    let jail = at_work("");
    chown(jail.place.join("work"), Some(12_345), Some(12_346)).expect("chown");
    let foreign = jail.place.file("work/of-root", "x");
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o600)).expect("chmod");
    let ran =
        jail.sh("echo x >made; mkdir dir; ln -s a link; cat of-root; chmod 666 of-root; stat -c %u of-root");
    for name in ["made", "dir", "link"] {
        assert_eq!(owner(&jail.place.join("work").join(name)), (12_345, 12_346), "{name}");
    }
    // Root's own file among them stays root's, and out of reach.
    assert_eq!(owner(&foreign), (0, 0));
    assert_eq!(ran.stdout, "65534\n", "{ran}");
    assert_eq!(ran.complaints().len(), 2, "{ran}");
}

#[test]
fn as_whom_a_mount_is_read_stands_in_the_plan_and_is_what_the_jail_reads() {
    let jail = Jail::tools("[[mount]]\nfrom = \"PLACE/data\"\nto = \"/tmp/data\"\n");
    let key = jail.place.file("data/key", "secret\n");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    let owners: &[(u32, u32, &str)] = match is_root() {
        true => &[(0, 0, ", as its owner root"), (12_345, 12_346, ", as its owner uid 12345 and gid 12346")],
        // The jail is the caller, whose files they are.
        false => &[(u32::MAX, u32::MAX, "")],
    };
    for (uid, gid, words) in owners {
        for path in ["data", "data/key"] {
            chown(jail.place.join(path), Some(*uid), Some(*gid)).expect("chown");
        }
        let plan = jail.jailmk("enter", &["--plan"]).succeeded().stdout;
        let line = plan.lines().find(|line| line.contains(" on /tmp/data ")).expect("a step");
        assert!(line.ends_with(&format!("(ro,nosuid,nodev){words}")), "{line}");
        assert_eq!(jail.prints("cat /tmp/data/key; stat -c %u /tmp/data/key"), "secret\n1000\n");
    }
}

#[test]
fn a_read_only_workspace_takes_no_writes() {
    let jail = Jail::tools("[workspace]\npath = \"PLACE/work\"\n[process]\ncommand = [\"ls\"]\n");
    jail.place.file("work/there", "host\n");
    assert_eq!(jail.run(&[]).succeeded().stdout, "there\n");
    let ran = jail.sh("cat there; touch made; rm -f there; (echo x >there); chmod 777 there");
    assert_eq!(ran.stdout, "host\n");
    assert_eq!(
        ran.complaints().iter().filter(|line| line.contains("Read-only file system")).count(),
        4,
        "{ran}"
    );
    assert_eq!(fs::read_dir(jail.place.join("work")).expect("list").count(), 1);
}

#[test]
fn a_relative_workspace_is_found_from_where_enter_is_called() {
    let jail = Jail::tools("[workspace]\npath = \".\"\n");
    jail.place.file("here/marker", "");
    assert_eq!(jail.prints("ls"), "marker\n");
}

#[test]
fn a_missing_workspace_is_refused() {
    Jail::tools(DIRECT).sh("true").refused(125, "cannot open the workspace `");
}

#[test]
fn a_workspace_that_is_a_file_is_refused() {
    let jail = Jail::tools(DIRECT);
    jail.place.file("work", "x");
    assert_eq!(jail.sh("true").status, 125);
}

#[test]
fn the_state_of_jailmk_can_be_no_part_of_a_jail() {
    for mode in ["direct", "read-only"] {
        let jail = Jail::tools(format!("[workspace]\nmode = \"{mode}\"\npath = \"PLACE\"\n")).fresh_state();
        jail.sh("true").refused(125, "which the jail must not reach");
        let jail = Jail::tools(format!("[workspace]\nmode = \"{mode}\"\npath = \"PLACE/state/rootfs\"\n"))
            .fresh_state();
        jail.sh("true").refused(125, "rootfs");
    }
    let jail = Jail::tools("[[mount]]\nfrom = \"~\"\nto = \"/tmp/home\"\n");
    let state = jail.place.join("home/.local/share/jailmk");
    let jail = jail.variable("JAILMK_STATE", state.to_str().expect("UTF-8"));
    jail.sh("true").refused(125, "which the jail must not reach");
    let link = Jail::tools("[[mount]]\nfrom = \"PLACE/link\"\nto = \"/tmp/home\"\n").fresh_state();
    symlink(".", link.place.join("link")).expect("make a link");
    link.sh("true").refused(125, "which the jail must not reach");
}

#[test]
fn a_second_mount_of_the_host_is_no_way_to_the_state() {
    if !need_root() {
        return;
    }
    for (bound, wanted) in [("", ""), ("", "/state"), ("", "/state/rootfs"), ("/state", "")] {
        let mount = format!(
            "[[mount]]\nfrom = \"PLACE/alias{wanted}\"\nto = \"/home/agent/h\"\nmode = \"read-write\"\n"
        );
        let jail = Jail::tools(mount).fresh_state();
        jail.place.directory("alias/state/rootfs");
        let place = jail.place.join("");
        let place = place.to_str().expect("UTF-8");
        let script = format!(
            "exec unshare --mount --propagation private sh -c '
             mount --bind \"{place}/{bound}\" \"{place}/alias\" || exit 9; exec \"$@\"' sh \"$@\""
        );
        jail.jailmk("build", &[]).succeeded();
        let ran = jail
            .by_shell(&script)
            .sh("touch h/EVIL h/state/EVIL")
            .refused(125, "which the jail must not reach");
        assert_eq!(ran.stdout, "", "{bound} {wanted}");
    }
}

#[test]
fn a_mount_is_read_only_unless_the_spec_says_otherwise() {
    let jail = Jail::tools(
        "[[mount]]\nfrom = \"PLACE/a\"\nto = \"/home/agent/a\"\n[[mount]]\nfrom = \"PLACE/b\"\nto = \"/home/agent/deep/b\"\nmode = \"read-write\"\n",
    );
    jail.place.file("a/file", "a\n");
    jail.place.file("b/file", "b\n");
    let ran = jail.sh("cat a/file deep/b/file; touch deep/b/made; touch a/made");
    assert_eq!(ran.stdout, "a\nb\n");
    assert!(ran.complaints().len() == 1 && ran.stderr.contains("Read-only file system"), "{ran}");
    assert!(jail.place.join("b/made").exists());
}

#[test]
fn a_mount_without_exec_runs_nothing() {
    for (exec, status) in [("true", 0), ("false", 126)] {
        let jail = Jail::tools(format!("[[mount]]\nfrom = \"PLACE/a\"\nto = \"/tmp/a\"\nexec = {exec}\n"));
        jail.place.program("a/script", "#!/bin/sh\necho ran\n");
        jail.run(&["/tmp/a/script"]).ended(status);
    }
}

#[test]
fn a_missing_mount_is_refused_left_out_or_made_as_the_spec_says() {
    let mount = "[[mount]]\nfrom = \"PLACE/a/b\"\nto = \"/tmp/b\"\nmode = \"read-write\"\n";
    Jail::tools(mount).sh("true").refused(125, "cannot open the mount `");
    let jail = Jail::tools(format!("{mount}optional = true\n"));
    assert_eq!(jail.prints("ls /tmp"), "");
    assert!(!jail.place.join("a").exists());
    let jail = Jail::tools(format!("{mount}create = true\n"));
    jail.jailmk("enter", &["--plan"]).succeeded();
    assert!(!jail.place.join("a").exists(), "--plan has made a directory");
    jail.prints("touch /tmp/b/made");
    assert!(jail.place.join("a/b/made").exists());
}

#[test]
fn a_file_can_be_mounted() {
    let jail = Jail::tools("[[mount]]\nfrom = \"PLACE/file\"\nto = \"/home/agent/.config/file\"\n");
    jail.place.file("file", "one\n");
    let ran = jail.sh("cat .config/file; echo x >>.config/file; rm -f .config/file; ls .config");
    assert_eq!(ran.stdout, "one\nfile\n", "{ran}");
    assert_eq!(ran.complaints().len(), 2, "{ran}");
}

#[test]
fn a_mount_point_through_a_symlink_of_the_workspace_is_refused() {
    let jail = at_work("[[mount]]\nfrom = \"PLACE/a\"\nto = \"/workspace/link/a\"\n");
    jail.place.directory("a");
    jail.place.directory("work/real/a");
    for target in ["/etc", "real", "../../../../..", "/tmp"] {
        let link = jail.place.join("work/link");
        let _ = fs::remove_file(&link);
        symlink(target, link).expect("make a link");
        jail.sh("true").refused(125, "symlink");
    }
    assert!(fs::read_dir(jail.place.join("work/real/a")).expect("list").next().is_none());
}

#[test]
fn a_mount_point_is_never_made_on_the_host() {
    let jail = at_work("[[mount]]\nfrom = \"PLACE/a\"\nto = \"/workspace/missing\"\n");
    jail.place.directory("a");
    jail.sh("true").refused(125, "cannot mount");
    assert!(!jail.place.join("work/missing").exists());
}

#[test]
fn a_setuid_program_on_a_mount_has_no_effect() {
    if !need_root() {
        return;
    }
    let jail = Jail::spec("[rootfs]\nprograms = [\"sh\"]\n[[mount]]\nfrom = \"PLACE/a\"\nto = \"/tmp/a\"\n");
    for (name, uid) in [("of-root", 0), ("of-other", 4242)] {
        let path =
            jail.place.program(format!("a/{name}"), fs::read(probe::program()).expect("read the probe"));
        chown(&path, Some(uid), Some(uid)).expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).expect("chmod");
        let ran = jail.fed(&[&format!("/tmp/a/{name}")], b"geteuid\n").succeeded();
        assert_eq!(ran.stdout, "1000\n", "{name}");
    }
}

#[test]
fn devices_on_a_mount_cannot_be_opened() {
    if !need_root() {
        return;
    }
    let jail = Jail::tools("[[mount]]\nfrom = \"PLACE/a\"\nto = \"/tmp/a\"\nmode = \"read-write\"\n");
    let device = jail.place.directory("a").join("zero");
    let mut mknod = std::process::Command::new("mknod");
    jail::run({
        mknod.arg("-m").arg("666").arg(&device).args(["c", "1", "5"]);
        mknod
    })
    .succeeded();
    assert_eq!(jail.sh("head -c 1 /tmp/a/zero").stdout, "");
}

#[test]
fn a_tmpfs_is_as_large_as_the_spec_says() {
    let jail = Jail::tools(
        "directories = [\"/srv/data\"]\n[tmpfs]\n\"/srv/data\" = \"1M\"\n\"/home/agent/cache\" = \"2M\"\n",
    );
    let ran = jail.sh("for d in /srv/data /home/agent/cache; do dd if=/dev/zero of=$d/file bs=64K 2>&1; stat -c %s $d/file; done");
    assert_eq!(ran.stdout.matches("No space left on device").count(), 2, "{ran}");
    let sizes: Vec<&str> = ran.stdout.lines().filter(|line| line.parse::<u64>().is_ok()).collect();
    assert_eq!(sizes, ["1048576", "2097152"], "{ran}");
}

#[test]
fn all_writable_places_together_hold_no_more_than_disk() {
    let jail = Jail::tools("[limits]\ndisk = \"4M\"\n");
    let ran = jail.sh(
        "dd if=/dev/zero of=/tmp/a bs=1M count=3 2>&1; dd if=/dev/zero of=/home/agent/b bs=1M count=3 2>&1",
    );
    assert!(ran.stdout.contains("No space left on device"), "{ran}");
}

#[test]
fn a_host_whose_mounts_are_shared_sees_none_of_the_jails() {
    if !need_root() {
        return;
    }
    // As systemd leaves them: what is mounted below a clone of a shared mount shows at the original too.
    let script = "exec unshare --mount --propagation shared sh -c '\"$@\"; grep -c jailmk-tests /proc/self/mountinfo' sh \"$@\"";
    let jail = at_work("").by_shell(script);
    assert_eq!(jail.sh("echo entered").stdout, "entered\n0\n");
}

#[test]
fn nothing_is_mounted_in_the_callers_view_while_a_jail_runs() {
    let jail = at_work("");
    let running = jail.start("echo ready; cat").ready();
    assert!(!jail::mounted_below(jail.place.path()) && !jail::mounted_below(jail.state_path()));
    running.end().succeeded();
}

#[test]
fn a_mount_whose_owner_is_somebody_else_is_only_read() {
    let jail = Jail::tools("[[mount]]\nfrom = \"/etc\"\nto = \"/tmp/etc\"\nmode = \"read-write\"\n");
    if is_root() {
        // Root gives what root may give: the directory's owner is root, and its files show as the jail's.
        return;
    }
    let ran = jail.sh("cat /tmp/etc/passwd >/dev/null; touch /tmp/etc/new; (cat /tmp/etc/shadow)");
    assert_eq!(ran.complaints().len(), 2, "{ran}");
}
