//! The jail of a spec with no options, line by line, through the binary.

mod jail;

use std::collections::BTreeSet;
use std::fs;

use jail::{Jail, is_root, kernel, need, need_landlock, need_ordinary_user, probe};

/// The lines of the jail's /proc/self/status that begin with one of `names`.
fn status(names: &[&str]) -> Vec<String> {
    let text = Jail::small().prints("cat /proc/self/status");
    let wanted = |line: &&str| names.iter().any(|name| line.starts_with(&format!("{name}:")));
    text.lines().filter(wanted).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn the_command_is_uid_and_gid_1000_and_in_no_other_group() {
    let ran = Jail::small().prints("id -u; id -g; id -G; id -un; id -gn");
    assert_eq!(ran, "1000\n1000\n1000\nagent\nagent\n");
    assert_eq!(
        status(&["Uid", "Gid", "Groups"]),
        ["Uid: 1000 1000 1000 1000", "Gid: 1000 1000 1000 1000", "Groups:"]
    );
}

#[test]
fn a_user_that_the_spec_names_is_uid_1000_with_a_home_of_that_name() {
    let jail = Jail::tools("[process]\nuser = \"redis\"\n");
    let ran = jail.prints("id -u; id -un; id -gn; echo $USER $LOGNAME $HOME; pwd; touch ~/made && ls ~");
    assert_eq!(ran, "1000\nredis\nredis\nredis redis /home/redis\n/home/redis\nmade\n");
}

#[test]
fn exactly_one_uid_and_one_gid_are_mapped_and_groups_are_denied() {
    let maps = Jail::small().prints("cat /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups");
    let words: Vec<&str> = maps.split_whitespace().collect();
    let [inside, uid, one, inside_group, gid, one_group, groups] = words[..] else { panic!("{maps}") };
    assert_eq!([inside, one, inside_group, one_group, groups], ["1000", "1", "1000", "1", "deny"]);
    assert!(uid != "0" && gid != "0", "host root is mapped: {maps}");
}

#[test]
fn all_five_capability_sets_are_empty() {
    let none = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    assert_eq!(status(&none), none.map(|set| format!("{set}: 0000000000000000")));
}

#[test]
fn privileges_cannot_be_gained_and_calls_are_filtered() {
    assert_eq!(status(&["NoNewPrivs", "Seccomp"]), ["NoNewPrivs: 1", "Seccomp: 2"]);
}

#[test]
fn the_command_leads_a_process_group_in_a_session_of_the_jail() {
    // A session or group of the caller's would show as 0.
    assert_eq!(status(&["NSsid"]), ["NSsid: 1"]);
    assert_eq!(Jail::small().by_shell("umask 0; exec \"$@\"").prints("umask"), "0022\n");
}

#[test]
fn every_namespace_is_the_jails_own() {
    let names = ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"];
    let inside =
        Jail::small().prints("for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done");
    for (name, inside) in names.into_iter().zip(inside.lines()) {
        let outside = fs::read_link(format!("/proc/self/ns/{name}")).expect("the link of a namespace");
        assert_ne!(outside.to_str(), Some(inside));
        assert!(inside.starts_with(name), "{inside}");
    }
    assert_eq!(inside.lines().count(), names.len());
}

#[test]
fn no_further_namespace_is_allowed() {
    let limits = Jail::small().prints("cat /proc/sys/user/max_*_namespaces | sort -u");
    assert_eq!(limits, "0\n");
}

#[test]
fn half_of_the_callers_inotify_instances_stay_the_hosts() {
    assert_eq!(Jail::small().prints("cat /proc/sys/user/max_inotify_instances"), "64\n");
}

#[test]
fn the_host_name_is_the_jails_name() {
    assert_eq!(Jail::small().prints("cat /proc/sys/kernel/hostname"), "small\n");
    assert_eq!(Jail::tools("").prints("cat /proc/sys/kernel/hostname"), "jail\n");
}

#[test]
fn only_processes_of_the_jail_are_seen() {
    let seen = Jail::small().prints("cd /proc; echo [0-9]*");
    assert_eq!(seen, "1 2\n");
}

#[test]
fn the_network_is_a_loopback_that_is_up_and_nothing_else() {
    let devices = Jail::small().prints("cat /proc/net/dev; cat /proc/net/if_inet6; cat /proc/net/route");
    let interfaces: Vec<&str> =
        devices.lines().filter_map(|line| line.split_once(':')).map(|(n, _)| n.trim()).collect();
    assert_eq!(interfaces, ["lo"], "{devices}");
    // A datagram to 127.0.0.1 reaches its own socket only where the loopback is up.
    let lo = "02001f907f000001"; // AF_INET, port 8080, 127.0.0.1
    probe::expect(
        &probe::jail(""),
        &[(
            &format!(
                "socket 2 2 0 / bind $0 ={lo}0000000000000000 16 / 44 $0 @x 1 0 ={lo}0000000000000000 16"
            ),
            "1",
        )],
    );
}

#[test]
fn tcp_is_refused_even_to_oneself_where_landlock_can() {
    if !need_landlock(4) {
        return;
    }
    let address = "=02001f907f0000010000000000000000";
    let connect = format!("socket 2 1 0 / connect $0 {address} 16");
    let bind = format!("socket 2 1 0 / bind $0 {address} 16");
    probe::expect(&probe::jail(""), &[(&connect, "EACCES"), (&bind, "EACCES")]);
    let loopback = probe::jail("[network]\nmode = \"loopback\"\n");
    probe::expect(&loopback, &[(&connect, "ECONNREFUSED"), (&bind, "0")]);
}

#[test]
fn mode_host_is_the_hosts_network() {
    let devices = Jail::tools("[network]\nmode = \"host\"\n").prints("readlink /proc/self/ns/net");
    assert_eq!(devices.trim(), fs::read_link("/proc/self/ns/net").expect("a link").to_str().expect("UTF-8"));
}

#[test]
fn nothing_of_the_tree_can_be_written() {
    let ran = Jail::small().sh("for p in / /usr /usr/bin /etc /home /dev /var /root /lib; do
        touch $p/new; rm -f $p/new; done; (echo >>/etc/passwd); rm -f /usr/bin/env; mkdir /new; ln -s a /usr/new");
    let refused = ran.complaints();
    assert!(refused.len() >= 13, "{ran}");
    for line in refused {
        assert!(line.contains("Read-only file system") || line.contains("Permission denied"), "{ran}");
    }
    probe::expect(&probe::jail(""), &[("mkdir @/new 0755", "EROFS"), ("creat @/usr/bin/new 0644", "EROFS")]);
}

#[test]
fn mounts_are_nosuid_and_what_is_not_the_tree_is_nodev() {
    let table = Jail::small().prints("cat /proc/self/mountinfo");
    for line in table.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let (place, options) = (fields[4], fields[5]);
        let has = |option: &str| options.split(',').any(|o| o == option);
        assert!(has("nosuid"), "{line}");
        assert!(has("nodev") || place.starts_with("/dev/"), "{line}");
        let writable = ["/tmp", "/home/agent", "/run", "/var/tmp", "/dev/shm", "/dev/pts", "/proc"];
        assert!(has("ro") || writable.contains(&place) || place.starts_with("/dev/"), "{line}");
        assert!(has("noexec") || !place.starts_with("/proc"), "{line}");
        // A mount that gets the host's mounts, or gives its own to the host, would be a way in and out.
        assert!(!line.contains("shared:") && !line.contains("master:"), "{line}");
    }
}

#[test]
fn the_top_of_the_tree_is_what_the_spec_makes_and_there_is_no_sys() {
    let top = Jail::small().prints("ls -A /");
    for name in top.lines() {
        let known =
            ["bin", "dev", "etc", "home", "lib", "lib64", "proc", "root", "run", "sbin", "tmp", "usr", "var"];
        assert!(known.contains(&name), "{name} is in the jail's /");
    }
    assert!(!top.lines().any(|name| name == "sys"));
}

#[test]
fn dangerous_entries_of_proc_are_empty() {
    let ran = Jail::small().sh("cd /proc
        for n in kcore keys kallsyms modules interrupts timer_list slabinfo vmallocinfo sched_debug kmsg sysrq-trigger cmdline schedstat softirqs \
             crypto diskstats partitions swaps; do
            [ ! -e $n ] || [ ! -s $n ] || echo $n has a size
            [ ! -e $n ] || head -c 1 $n
        done
        for n in acpi scsi driver asound; do [ ! -e $n ] || ls -A $n; done");
    assert_eq!(ran.stdout, "");
    assert!(ran.complaints().is_empty(), "{ran}");
}

#[test]
fn settings_of_the_kernel_cannot_be_changed() {
    let ran = Jail::small().sh(
        "for f in /proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sys/vm/overcommit_memory \
         /proc/sys/user/max_user_namespaces /proc/sys/net/ipv4/ip_forward /proc/sysrq-trigger; do
            (echo 1 >$f) 2>/dev/null && echo $f can be written
         done",
    );
    assert_eq!(ran.stdout, "", "{ran}");
}

#[test]
fn dev_holds_the_harmless_devices_and_nothing_else() {
    let jail = Jail::small();
    let names = jail.prints("cd /dev; ls -A | sort");
    let expected = [
        "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ];
    assert_eq!(names.lines().collect::<Vec<_>>(), expected);
    let devices = jail.prints("cd /dev; stat -c '%n %F %t:%T' null zero full random urandom tty");
    let numbers = ["null 1:3", "zero 1:5", "full 1:7", "random 1:8", "urandom 1:9", "tty 5:0"];
    let expected = numbers.map(|line| line.replace(' ', " character special file "));
    assert_eq!(devices.lines().collect::<Vec<_>>(), expected);
    jail.prints("echo x >/dev/null; head -c 3 /dev/zero | wc -c; head -c 3 /dev/urandom >/dev/null; ! echo x >/dev/full");
}

#[test]
fn pseudoterminals_are_the_jails_own() {
    assert_eq!(Jail::small().prints("ls -A /dev/pts"), "ptmx\n");
}

#[test]
fn the_writable_places_start_empty_and_are_forgotten() {
    let jail = Jail::small();
    let script = "for d in /tmp /var/tmp /run /home/agent /dev/shm; do ls -A $d; echo mine >$d/mine; cat $d/mine; done";
    assert_eq!(jail.prints(script), "mine\n".repeat(5));
    assert_eq!(jail.prints(script), "mine\n".repeat(5));
    assert_eq!(
        jail.prints("stat -c '%a %U' /tmp /home/agent; pwd; ls -A /root"),
        "1777 agent\n700 agent\n/home/agent\n"
    );
}

#[test]
fn programs_in_a_writable_place_can_run() {
    let ran = Jail::small().prints("printf '#!/bin/sh\\necho ran\\n' >~/a; chmod +x ~/a; ~/a");
    assert_eq!(ran, "ran\n");
}

#[test]
fn the_environment_is_the_allow_list_and_nothing_of_the_callers() {
    let jail = Jail::tools("").variable("SECRET", "x").variable("LD_PRELOAD", "").variable("TERM", "vt100");
    let ran = jail.run(&["env"]).succeeded();
    let mut variables: Vec<&str> = ran.stdout.lines().collect();
    variables.sort_unstable();
    let expected = [
        "HOME=/home/agent",
        "LOGNAME=agent",
        "PATH=/usr/local/bin:/usr/bin:/bin",
        "TERM=vt100",
        "USER=agent",
    ];
    assert_eq!(variables, expected);
}

#[test]
fn variables_are_passed_and_set_as_the_spec_says() {
    let jail = Jail::tools(
        "[process]\npass_env = [\"A\", \"B\", \"C\"]\nenv = { B = \"set\", LANG = \"C.UTF-8\" }\n",
    )
    .variable("A", "passed")
    .variable("B", "passed")
    .variable("D", "not named");
    assert_eq!(
        jail.prints("for n in A B LANG C D; do eval \"[ -z \\\"\\$$n\\\" ] || echo \\$$n\"; done"),
        "passed\nset\nC.UTF-8\n"
    );
}

#[test]
fn descriptors_above_2_do_not_come_in() {
    let jail = Jail::tools("").by_shell("exec 3</etc/passwd 7<. 9>/dev/null; exec \"$@\"");
    assert_eq!(jail.run(&["ls", "/proc/self/fd"]).succeeded().stdout, "0\n1\n2\n3\n", "3 is ls's own");
}

/// The session keyrings that this user sees, of whatever process.
fn session_keyrings() -> BTreeSet<String> {
    let keys = fs::read_to_string("/proc/keys").unwrap_or_default();
    let sessions = keys.lines().filter(|line| line.contains("_ses"));
    sessions.filter_map(|line| line.split_whitespace().next().map(str::to_owned)).collect()
}

#[test]
fn the_session_keyring_is_new() {
    // Root does not see the keys of the uid that its jails run as.
    if !need_ordinary_user() || !need("/proc/keys", fs::exists("/proc/keys").unwrap_or(false), &["uml"]) {
        return;
    }
    let before = session_keyrings();
    let running = Jail::small().start("echo ready; cat").ready();
    assert!(session_keyrings().difference(&before).next().is_some(), "no new keyring: {before:?}");
    running.end().succeeded();
}

#[test]
fn no_core_file_is_written_and_limits_are_set() {
    let limits = Jail::small().prints("cat /proc/self/limits");
    let limit = |name: &str| {
        let line = limits.lines().find(|line| line.starts_with(name)).expect("a line of the limit");
        line.trim_start_matches(name).split_whitespace().take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    // With 0 a crash would start the helper of a core_pattern that is a pipe.
    assert_eq!(limit("Max core file size"), ["1", "1"]);
    let files = limit("Max open files");
    assert_eq!(files[0], files[1], "the soft limit is the hard one");
    assert_ne!(files[0], "unlimited");
}

#[test]
fn the_first_process_is_no_target_and_the_command_is_its_child() {
    let lines = Jail::small().prints("echo $$ $PPID; cat /proc/1/comm");
    assert_eq!(lines, "2 1\njailmk\n");
}

#[test]
fn the_plan_is_printed_without_anything_being_done() {
    let jail = Jail::tools("").fresh_state();
    let plan = jail.jailmk("enter", &["--plan"]).succeeded();
    for words in [
        "build the tree",
        "user, mount, PID, IPC, UTS and network",
        "pivot the root",
        "seccomp",
        "no_new_privs",
        "execute sh",
    ] {
        assert!(plan.stdout.contains(words), "{words} is not in {plan}");
    }
    assert!(kernel() == "uml" || plan.stdout.contains("Landlock"), "{plan}");
    let state = jail.state_path();
    let left = fs::read_dir(state).map(|entries| entries.count()).unwrap_or(0);
    assert_eq!(left, 0, "--plan has made something in the state");
    jail.prints("true");
    assert!(!jail.jailmk("enter", &["--plan"]).succeeded().stdout.contains("build the tree"));
}

#[test]
fn the_root_of_a_user_namespace_enters_as_the_user_that_it_is() {
    let jail = Jail::tools("").fresh_state().by_shell("exec unshare --user --map-root-user \"$@\"");
    let ran = jail.run(&["sh", "-c", "id -u; cat /proc/self/uid_map"]);
    if is_root() {
        // What looks like a harmless root there would be the host's.
        ran.refused(125, "cannot choose a user");
    } else {
        let ran = ran.succeeded();
        let words: Vec<&str> = ran.stdout.split_whitespace().collect();
        assert_eq!(words, ["1000", "1000", "0", "1"], "{ran}");
    }
}
