//! What a hostile tree, workspace or caller's surroundings try while the jail is being made, before there
//! is anything to be held by: each must come to nothing.

mod jail;

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use jail::probe::{self, expect};
use jail::{Jail, Place, is_root, kernel, need, need_landlock, need_root};
use jailmk::layer::mounts::Source;
use jailmk::path::HostPath;
use nix::errno::Errno;

/// All of them, or the first two where each tree takes an emulated machine seconds to build.
fn some<T>(all: &[T]) -> &[T] {
    if kernel() == "host" { all } else { &all[..2] }
}

#[test]
fn a_tree_with_links_for_mount_points_is_not_built_or_not_entered() {
    let links = [("/proc", "/etc"), ("/dev", "/etc"), ("/dev/pts", "/etc"), ("/tmp", "/etc"), ("/run", "..")];
    for (link, target) in some(&links) {
        let text =
            jail::tools().replace("symlinks = { ", &format!("symlinks = {{ \"{link}\" = \"{target}\", "));
        let ran = Jail::spec(text).sh("echo entered");
        assert_eq!((ran.status, ran.stdout.as_str()), (125, ""), "{link}: {ran}");
    }
}

#[test]
fn a_mount_point_through_a_link_of_the_tree_is_refused() {
    for target in some(&["/proc/self/root", "/tmp", "/etc", "../../../../..", "/proc/1/cwd"]) {
        let text =
            jail::tools().replace("symlinks = { ", &format!("symlinks = {{ \"/srv\" = \"{target}\", "));
        let jail = Jail::spec(format!("{text}[[mount]]\nfrom = \"PLACE/a\"\nto = \"/srv/a\"\n"));
        jail.place.directory("a");
        let ran = jail.sh("echo entered");
        assert_eq!((ran.status, ran.stdout.as_str()), (125, ""), "{target}: {ran}");
    }
}

#[test]
fn a_directory_replaced_between_the_look_and_the_mount_is_not_mounted() {
    if !need_root() {
        return;
    }
    let place = Place::new();
    let named = place.directory("named");
    let source = Source::open(&HostPath::absolute(named.clone()).expect("absolute")).expect("open");
    drop(source.clone_tree().expect("while it is the same"));
    fs::rename(&named, place.join("moved")).expect("rename");
    symlink("/etc", &named).expect("make a link");
    assert_eq!(source.clone_tree().map(drop), Err(Errno::ESTALE), "a link");
    fs::remove_file(&named).expect("remove");
    fs::create_dir(&named).expect("make a directory");
    assert_eq!(source.clone_tree().map(drop), Err(Errno::ESTALE), "another directory");
    fs::remove_dir(&named).expect("remove");
    assert_eq!(source.clone_tree().map(drop), Err(Errno::ENOENT), "nothing");
}

#[test]
fn no_descriptor_of_the_preparation_can_be_the_working_directory() {
    let numbers: Vec<u32> = (3..=14).collect();
    for directory in some(&["/proc/self/fd/", "/dev/fd/", "/proc/thread-self/fd/", "/proc/1/fd/"]) {
        for number in some(&numbers) {
            let jail = Jail::tools(format!("[process]\ndirectory = \"{directory}{number}\"\n"));
            let ran = jail.sh("pwd");
            assert_eq!((ran.status, ran.stdout.as_str()), (125, ""), "{directory}{number}: {ran}");
        }
    }
}

#[test]
fn the_working_directory_is_inside_whatever_the_callers_was() {
    let jail = Jail::small().by_shell("cd / && exec 9<. && exec \"$@\"");
    assert_eq!(
        jail.prints("pwd; readlink /proc/self/cwd; cd ..; cd ..; pwd; ls -d etc"),
        "/home/agent\n/home/agent\n/\netc\n"
    );
}

#[test]
fn a_device_of_the_host_that_is_none_is_not_taken() {
    if !need_root() {
        return;
    }
    for fake in ["/etc/passwd", "/dev/zero"] {
        let script = format!(
            "exec unshare --mount --propagation private sh -c 'mount --bind {fake} /dev/full && exec \"$@\"' sh \"$@\""
        );
        let ran = Jail::tools("").by_shell(&script).sh("echo entered");
        assert_eq!(ran.stdout, "", "{fake}: {ran}");
        ran.ended(125);
    }
}

#[test]
fn capabilities_of_the_caller_do_not_come_in() {
    if !need_root() {
        return;
    }
    let raised = "exec setpriv --inh-caps +chown,+sys_admin --ambient-caps +chown,+sys_admin \"$@\"";
    let text = Jail::small().by_shell(raised).prints("cat /proc/self/status");
    let sets: Vec<&str> = text.lines().filter(|line| line.starts_with("Cap")).collect();
    assert_eq!(sets.len(), 5, "{text}");
    for set in sets {
        assert!(set.ends_with("\t0000000000000000"), "{text}");
    }
}

#[test]
fn the_user_is_a_name_and_never_a_number_or_root() {
    for user in ["0", "1000", "0:0", "65534", "root", "-1", "+0", "0x0", ""] {
        let ran = Jail::tools(format!("[process]\nuser = \"{user}\"\n")).sh("id -u");
        assert_eq!((ran.status, ran.stdout.as_str()), (125, ""), "{user}: {ran}");
    }
}

#[test]
fn a_users_table_in_the_tree_decides_nothing() {
    let table = "root:x:1000:1000::/:/bin/sh\\nagent:x:0:0::/:/bin/sh\\n1000:x:0:0::/:/bin/sh\\n";
    let jail = Jail::tools(format!("files = [{{ content = \"{table}\", to = \"/etc/passwd\" }}]\n"));
    assert_eq!(
        jail.prints("cat /proc/self/status | grep -E '^(Uid|Gid):' | tr '\\t' ' '"),
        "Uid: 1000 1000 1000 1000\nGid: 1000 1000 1000 1000\n"
    );
}

#[test]
fn nothing_in_path_is_run_and_no_library_is_loaded_outside() {
    let jail = Jail::tools("");
    let trap = format!("#!/bin/sh\necho \"$0 $*\" >>{}\n", jail.place.join("ran").display());
    for name in [
        "sh",
        "bash",
        "modprobe",
        "newuidmap",
        "newgidmap",
        "ldconfig",
        "ldd",
        "ip",
        "mount",
        "dpkg",
        "dpkg-query",
        "systemd-run",
        "nft",
        "su",
    ] {
        jail.place.program(format!("bin/{name}"), &trap);
    }
    let library = jail.place.file("bin/evil.so", "\x7fELF no library");
    let bin = jail.place.join("bin");
    let jail = jail
        .fresh_state()
        .variable("PATH", bin.to_str().expect("UTF-8"))
        .variable("LD_PRELOAD", library.to_str().expect("UTF-8"))
        .variable("LD_LIBRARY_PATH", bin.to_str().expect("UTF-8"))
        .variable("LD_AUDIT", library.to_str().expect("UTF-8"))
        .variable("GLIBC_TUNABLES", "glibc.malloc.check=3")
        .variable("GCONV_PATH", bin.to_str().expect("UTF-8"))
        .variable("SHELL", bin.join("sh").to_str().expect("UTF-8"));
    let ran = jail.sh("echo in; env").succeeded();
    assert!(ran.stdout.starts_with("in\n"), "{ran}");
    for name in ["LD_", "GLIBC_TUNABLES", "GCONV_PATH", "SHELL", "JAILMK"] {
        assert!(!ran.stdout.contains(&format!("\n{name}")), "{name}: {ran}");
    }
    assert!(ran.complaints().is_empty(), "{ran}");
    assert!(!jail.place.join("ran").exists(), "{:?}", fs::read_to_string(jail.place.join("ran")));
}

#[test]
fn what_follows_the_dashes_is_the_commands_and_no_shell_reads_it() {
    let words = ["--plan", "--trust-spec", "-h", "$(id)", "`id`", ";", "a b", "*", "\\", "'", "--", ""];
    let mut command = vec!["sh", "-c", "for word; do echo \"<$word>\"; done", "sh"];
    command.extend(words);
    let expected: String = words.iter().map(|word| format!("<{word}>\n")).collect();
    assert_eq!(Jail::small().run(&command).succeeded().stdout, expected);
}

#[test]
fn no_group_of_processes_can_be_reached_through_a_file_system() {
    let jail = Jail::small();
    let types = jail.prints("cat /proc/self/mountinfo");
    for kind in
        [" cgroup ", " cgroup2 ", " sysfs ", " securityfs ", " debugfs ", " tracefs ", " bpf ", " fusectl "]
    {
        assert!(!types.contains(kind), "{kind}: {types}");
    }
    // Seen from inside, its own group is the root of all.
    let groups = jail.prints("cat /proc/self/cgroup");
    assert!(groups.lines().all(|line| line.ends_with(":/")), "{groups}");
}

#[test]
fn a_crash_starts_no_helper_of_the_host() {
    let pattern = "/proc/sys/kernel/core_pattern";
    // One setting for the whole machine: changed only where the machine is the tests' own.
    if !need("a core_pattern of one's own", is_root() && kernel() != "host", &["host", "uml", "6.1", "6.12"])
    {
        return;
    }
    let place = Place::new();
    let marks = place.directory("marks");
    let helper = place.program("helper", format!("#!/bin/sh\necho \"$1\" >{}/\"$1\"\n", marks.display()));
    let before = fs::read_to_string(pattern).expect("read the pattern");
    fs::write(pattern, format!("|{} %e", helper.display())).expect("write the pattern");
    let crash = |limit: &str| format!("{limit}; sh -c 'kill -SEGV $$'; true");
    let outside = jail::run({
        let mut command = Command::new("/usr/bin/env");
        command.args(["sh", "-c", &crash("ulimit -c 0")]);
        command
    });
    jail::until("the helper has run for a crash outside, whatever its limit", || {
        fs::read_dir(&marks).is_ok_and(|mut entries| entries.next().is_some())
    });
    for entry in fs::read_dir(&marks).expect("list").flatten() {
        fs::remove_file(entry.path()).expect("remove");
    }
    for limit in ["true", "ulimit -c 0", "ulimit -S -c 0", "ulimit -c unlimited"] {
        Jail::small().sh(&crash(limit));
    }
    // Root's limit can be raised again; others are told.
    let ran = Jail::small().by_shell("ulimit -H -c 0; exec \"$@\"").sh(&crash("true"));
    assert!(!ran.stderr.contains("helper"), "{ran}");
    // A helper that was started would be there by the time one for a later crash is.
    let ran =
        fs::read_dir(&marks).expect("list").flatten().map(|entry| entry.file_name()).collect::<Vec<_>>();
    fs::write(pattern, before).expect("restore the pattern");
    assert!(ran.is_empty(), "{ran:?} {outside}");
}

#[test]
fn the_limit_of_core_files_cannot_be_changed_and_lowering_it_is_no_error() {
    // prlimit64 of RLIMIT_CORE: set to 0, then asked.
    expect(
        &probe::jail(""),
        &[
            ("302 0 4 =00000000000000000000000000000000 0", "0"),
            ("160 4 =00000000000000000000000000000000", "0"),
        ],
    );
    let limit = "grep 'core file' /proc/self/limits | tr -s ' '";
    assert_eq!(Jail::small().prints(&format!("ulimit -c 0; {limit}")), "Max core file size 1 1 bytes \n");
}

/// Access, change and status-change times.
fn times(path: &Path) -> [(i64, i64); 3] {
    let metadata = fs::symlink_metadata(path).expect("look at a file");
    [
        (metadata.atime(), metadata.atime_nsec()),
        (metadata.mtime(), metadata.mtime_nsec()),
        (metadata.ctime(), metadata.ctime_nsec()),
    ]
}

#[test]
fn reading_in_the_jail_leaves_no_time_on_the_hosts_files() {
    let jail =
        Jail::tools("[workspace]\npath = \"PLACE/work\"\n[[mount]]\nfrom = \"PLACE/a\"\nto = \"/tmp/a\"\n");
    let paths = [
        jail.place.file("work/file", "x"),
        jail.place.file("a/file", "x"),
        jail.place.join("work"),
        jail.place.join("a"),
    ];
    let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    for path in &paths {
        // Older than a day and than the last change: the next look would be noted (relatime).
        let file = fs::File::open(path).expect("open a file");
        file.set_times(fs::FileTimes::new().set_accessed(old)).expect("set its times");
    }
    let before: Vec<_> = paths.iter().map(|path| times(path)).collect();
    jail.prints("cat file /tmp/a/file; ls -a . /tmp/a; md5sum file");
    let after: Vec<_> = paths.iter().map(|path| times(path)).collect();
    assert_eq!(before, after);
}

#[test]
fn entering_leaves_no_time_on_a_writable_workspace_that_is_not_looked_at() {
    let jail = Jail::tools("[workspace]\npath = \"PLACE/work\"\nmode = \"direct\"\n");
    let paths =
        [jail.place.file("work/file", "x"), jail.place.file("work/b/c", "x"), jail.place.join("work")];
    let before: Vec<_> = paths.iter().map(|path| times(path)).collect();
    jail.prints("true");
    let after: Vec<_> = paths.iter().map(|path| times(path)).collect();
    assert_eq!(before, after);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_sandbox_in_the_jail_cannot_fill_the_hosts_log() {
    // The log is one for the machine: root's, and switched on for as long as this takes.
    if !need_root() || !need_landlock(7) {
        return;
    }
    let place = Place::new();
    // A ruleset that handles reading and allows nothing, and what it denies.
    let denied = "444 =0400000000000000 8 0 / 446 $0 0 / open @/etc/passwd 0\n";
    let calls = place.file("calls", denied.repeat(20));
    let mut count = Command::new("python3");
    count.args(["-c", include_str!("jail/audit.py")]).arg(&calls).arg(probe::program()).arg("//");
    let jail = probe::jail("");
    let enter = jail.enter(&["probe"]);
    count.arg(enter.get_program()).args(enter.get_args()).env_clear();
    count.envs(enter.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran = jail::run(count);
    if need("the kernel's audit log", ran.status != 3, &["host", "uml", "6.1", "6.12"]) {
        let ran = ran.succeeded();
        let counts: Vec<u32> = ran.stdout.lines().map(|line| line.parse().expect("a number")).collect();
        // Outside the same is logged; of the four records of each denial the kernel's queue of 64 loses some
        // when the processor is busy.
        assert!(counts.len() == 2 && counts[0] >= 5 && counts[1] == 0, "{ran}");
    }
}
