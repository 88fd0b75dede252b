//! What goes wrong, through the binary: one clear message with a hint, the right exit status, nothing
//! half-written, nothing left behind.

mod jail;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use jail::{Jail, Running, has_landlock, is_root, need, run};
use nix::sys::signal::Signal;

/// All paths below a directory, but those below a finished tree's root.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) && entry.file_name() != "root" {
            found.extend(below(&path));
        }
        found.push(path);
    }
    found
}

/// Whether a build that did not end well has left something.
fn has_rest(state: &Path) -> bool {
    below(state).iter().any(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("staging-") || name.starts_with("trash-")
    })
}

/// Asserts that nothing was built.
#[track_caller]
fn nothing_is_built(jail: &Jail) {
    let left: Vec<PathBuf> = below(jail.state_path()).into_iter().filter(|path| path.is_file()).collect();
    assert!(left.is_empty() && !has_rest(jail.state_path()), "{left:?}");
}

#[test]
fn a_typo_in_the_spec_is_shown_with_its_place_and_the_right_word() {
    let jail = Jail::spec("[rootfs]\nprogams = [\"sh\"]\n").fresh_state();
    let ran = jail.sh("true").refused(125, "jail.toml:2:1");
    assert!(ran.stderr.contains("programs"), "{ran}");
    nothing_is_built(&jail);
    jail.jailmk("build", &[]).refused(1, "jail.toml:2:1");
}

#[test]
fn a_spec_that_is_not_there_is_answered_with_where_it_was_looked_for() {
    let jail = Jail::small();
    let mut command = Command::new(jail::binary());
    command.args(["enter", "frobnicate", "--", "true"]).current_dir(jail.place.join("here")).env_clear();
    command.env("HOME", jail.place.join("home"));
    run(command).refused(125, "frobnicate");
}

#[test]
fn a_program_that_does_not_exist_is_answered_with_the_nearest_names() {
    let jail = Jail::spec("[rootfs]\nprograms = [\"sh\", \"slep\"]\n").fresh_state();
    let ran = jail.sh("true").refused(125, "slep");
    assert!(ran.stderr.contains("sleep"), "{ran}");
    nothing_is_built(&jail);
}

#[test]
fn a_library_that_is_missing_is_named_with_who_needs_it_and_where_it_was_looked_for() {
    let jail = Jail::spec("[rootfs]\nprograms = [\"PLACE/needs\"]\n").fresh_state();
    let at = |name: &str| jail.place.join(name).into_os_string();
    jail.place.file("gone.c", "int gone(void) { return 0; }\n");
    jail.place.file("needs.c", "int gone(void); int main(void) { return gone(); }\n");
    let mut library = Command::new("gcc");
    library.args(["-shared", "-Wl,-soname,libgone.so.7", "-o"]).args([at("libgone.so"), at("gone.c")]);
    run(library).succeeded();
    let mut program = Command::new("gcc");
    program.arg("-o").args([at("needs"), at("needs.c"), at("libgone.so")]);
    run(program).succeeded();
    let ran = jail.sh("true").refused(125, "libgone.so.7");
    assert!(ran.stderr.contains("/needs") && ran.stderr.contains("/lib"), "{ran}");
    nothing_is_built(&jail);
}

#[test]
fn a_file_of_the_spec_that_is_missing_is_named() {
    let jail = Jail::tools("files = [\"/nowhere/**\"]\n").fresh_state();
    jail.sh("true").refused(125, "/nowhere");
    nothing_is_built(&jail);
}

#[test]
fn a_kernel_without_user_namespaces_is_told_as_such() {
    // A user namespace in which no more can be made, left by a user who is not root there.
    let script = "exec unshare --user --map-user=1234 --map-group=1234 --keep-caps sh -c '
        echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --ambient-caps -all --inh-caps -all \"$@\"' sh \"$@\"";
    let jail = Jail::small().by_shell(script);
    jail.sh("true").refused(125, "cannot create user, mount, PID, IPC, UTS and network namespaces");
}

#[test]
fn a_kernel_without_landlock_is_refused_unless_the_spec_allows_it() {
    if !need("a kernel without Landlock", !has_landlock(), &["host", "6.1", "6.12"]) {
        return;
    }
    let ran = Jail::tools("[hardening]\nlandlock = \"required\"\n").sh("true");
    ran.refused(125, "cannot confine by Landlock");
    for sections in ["landlock = \"best-effort\"", "degrade = [\"landlock\"]", "landlock = \"off\""] {
        let ran = Jail::tools(format!("[hardening]\n{sections}\n")).sh("true").succeeded();
        assert_eq!(ran.stderr.lines().filter(|line| line.contains("Landlock")).count(), 1, "{ran}");
    }
}

#[test]
fn landlock_that_is_off_is_told_in_one_line() {
    let ran = Jail::tools("[hardening]\nlandlock = \"off\"\n").sh("true").succeeded();
    assert!(ran.stderr.contains("jailmk: weaker: Landlock is off"), "{ran}");
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let script = "exec unshare --user --map-root-user --mount sh -c '
        mkdir -p \"$JAILMK_STATE\" && mount -t tmpfs -o size=1M,mode=700 none \"$JAILMK_STATE\" || exit 9
        \"$@\"; status=$?
        ls \"$JAILMK_STATE\"/rootfs/*
        exit $status' sh \"$@\"";
    let jail = Jail::small().fresh_state().by_shell(script);
    let ran = jail.sh("true").refused(125, "were free");
    // The name of the spec, by which `gc` finds that nothing of it is wanted.
    assert_eq!(ran.stdout, "spec\n", "left behind");
}

#[test]
fn a_read_only_state_directory_is_refused_with_the_way_to_another() {
    let refused = |jail: Jail, before: &str, words: &str| {
        // For root's jails the namespace of another user is another host.
        let user = if is_root() { "" } else { "--user --map-root-user" };
        let script = format!(
            "exec unshare {user} --mount sh -c '
            mkdir -p \"$JAILMK_STATE\" && mount -t tmpfs -o size=40M,mode=700 none \"$JAILMK_STATE\" || exit 9
            {before}
            mount -o remount,bind,ro \"$JAILMK_STATE\" || exit 9
            exec env JAILMK_STATE=\"$JAILMK_STATE$below\" \"$@\"' sh \"$@\""
        );
        let ran = jail.fresh_state().by_shell(&script).sh("true").refused(125, words);
        assert!(ran.stderr.contains("hint: set JAILMK_STATE to a directory"), "{ran}");
    };
    refused(Jail::tools(""), "below=/new", "cannot make the state directory");
    refused(Jail::tools(""), "", "rootfs: Read-only file system");
    let review = Jail::tools("[workspace]\nmode = \"review\"\npath = \".\"\n");
    refused(review, "\"$1\" build \"$3\" >/dev/null || exit 9", "EROFS: Read-only file system");
}

#[test]
fn a_directory_that_is_not_ours_is_not_built_into() {
    let jail = Jail::tools("");
    let foreign = jail.place.file("out/precious", "x");
    let out = jail.place.join("out");
    jail.jailmk("build", &["--output", out.to_str().expect("UTF-8")]).refused(1, "out");
    assert_eq!(fs::read_dir(&out).expect("list").count(), 1);
    assert!(foreign.exists());
    let state = jail.place.directory("open-to-all");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).expect("chmod");
    let jail = Jail::tools("").variable("JAILMK_STATE", state.to_str().expect("UTF-8"));
    jail.sh("true").ended(125);
    assert_eq!(fs::read_dir(&state).expect("list").count(), 0);
    let held = state.join("state");
    fs::create_dir(&held).expect("make a directory");
    fs::set_permissions(&held, fs::Permissions::from_mode(0o700)).expect("chmod");
    let at =
        |state: &std::path::Path| Jail::tools("").variable("JAILMK_STATE", state.to_str().expect("UTF-8"));
    at(&held).sh("true").refused(125, "others may write in the directory that holds it");
    let link = jail.place.join("link");
    std::os::unix::fs::symlink(&held, &link).expect("make a link");
    at(&link).sh("true").refused(125, "others may write in the directory that holds it");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o1777)).expect("chmod");
    at(&held).sh("true").succeeded();
    if is_root() {
        std::os::unix::fs::chown(&state, Some(65534), Some(65534)).expect("chown");
        at(&held).sh("true").refused(125, "the directory that holds it belongs to another user");
    } else {
        let ran = Jail::tools("").variable("JAILMK_STATE", "/etc").sh("true").ended(125);
        assert!(ran.stderr.contains("belongs to another user"), "{ran}");
    }
    Jail::tools("").variable("JAILMK_STATE", "relative").sh("true").ended(125);
}

#[test]
fn two_that_enter_at_once_for_the_first_time_both_do() {
    let jail = Jail::small().fresh_state();
    let running: Vec<Running> = (0..4).map(|_| jail.start("echo ready; cat")).collect();
    for running in running {
        running.ready().end().succeeded();
    }
    assert!(!has_rest(jail.state_path()));
    let generations = below(jail.state_path()).into_iter().filter(|path| path.ends_with("lock")).count();
    assert_eq!(generations, 1, "{:?}", below(jail.state_path()));
}

#[test]
fn a_build_killed_at_any_moment_leaves_nothing_that_the_next_does_not_mend() {
    let jail = Jail::tools("").fresh_state();
    let mut moment = 1;
    for _ in 0..20 {
        let mut command = jail.command("build", &[]);
        let mut child = command.stdout(std::process::Stdio::null()).spawn().expect("start jailmk");
        thread::sleep(Duration::from_millis(moment));
        child.kill().expect("kill jailmk");
        child.wait().expect("wait for jailmk");
        // The moments are spread over the whole of a build, whose length differs by a hundred.
        moment = if below(jail.state_path()).iter().any(|path| path.ends_with("current")) {
            let _ = fs::remove_dir_all(jail.state_path());
            1
        } else {
            moment + moment / 2 + 1
        };
    }
    assert_eq!(jail.prints("echo works"), "works\n");
    assert!(!has_rest(jail.state_path()), "{:?}", below(jail.state_path()));
    jail.jailmk("verify", &[]).succeeded();
}

#[test]
fn an_enter_killed_while_it_builds_leaves_nothing_that_the_next_does_not_mend() {
    let jail = Jail::tools("").fresh_state();
    for moment in [3, 10, 30, 60, 100, 200] {
        let running = jail.start("echo ready");
        thread::sleep(Duration::from_millis(moment));
        running.signal(Signal::SIGKILL);
        let status = running.end().status;
        assert!([-9, 0].contains(&status), "{status}");
    }
    assert_eq!(jail.prints("echo works"), "works\n");
    assert!(!has_rest(jail.state_path()), "{:?}", below(jail.state_path()));
    assert!(!jail::mounted_below(jail.state_path()));
}

#[test]
fn a_spec_that_changes_is_built_anew() {
    let jail = Jail::tools("");
    assert_eq!(jail.sh("wc -c </etc/motd 2>/dev/null || echo none").stdout, "none\n");
    let text = fs::read_to_string(jail.spec_path()).expect("read the spec");
    let text =
        text.replacen("[rootfs]\n", "[rootfs]\nfiles = [{ content = \"hello\", to = \"/etc/motd\" }]\n", 1);
    fs::write(jail.spec_path(), text).expect("write the spec");
    assert_eq!(jail.prints("cat /etc/motd"), "hello");
}

#[test]
fn what_runs_from_another_tree_than_before_is_told_in_one_line_also_in_a_log() {
    let jail = Jail::tools("");
    let first = jail.sh("cat /etc/motd 2>/dev/null; :").succeeded();
    let text = fs::read_to_string(jail.spec_path()).expect("read the spec");
    let motd = jail.place.file("motd", "one\n");
    let source = format!("[rootfs]\nfiles = [{{ from = {motd:?}, to = \"/etc/motd\" }}]\n");
    fs::write(jail.spec_path(), text.replacen("[rootfs]\n", &source, 1)).expect("write the spec");
    let spec = jail.sh("cat /etc/motd").succeeded();
    let same = jail.sh("cat /etc/motd").succeeded();
    fs::write(&motd, "two and more\n").expect("write a file");
    let file = jail.sh("cat /etc/motd").succeeded();
    assert_eq!(
        [&*first.stdout, &spec.stdout, &same.stdout, &file.stdout],
        ["", "one\n", "one\n", "two and more\n"]
    );
    let nothing = Vec::<&str>::new();
    assert_eq!((first.complaints(), same.complaints()), (nothing.clone(), nothing), "{first} {same}");
    assert_eq!(
        spec.complaints(),
        ["jailmk: building jail: the spec or jailmk changed since it was built"],
        "{spec}"
    );
    let changed = format!("jailmk: building jail: {} changed since it was built", motd.display());
    assert_eq!(file.complaints(), [changed.as_str()], "{file}");
}

#[test]
fn a_spec_that_others_can_change_is_refused() {
    let jail = Jail::tools("");
    fs::set_permissions(jail.spec_path(), fs::Permissions::from_mode(0o666)).expect("chmod");
    jail.sh("true").refused(125, "cannot use the spec");
    jail.option("--trust-spec").prints("true");
}
