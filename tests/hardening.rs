//! What `[hardening]` says, through the binary: profiles from files, kept capabilities, and what guards jailmk
//! itself.

mod jail;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use jail::probe::{self, expect};
use jail::{Jail, has_landlock, is_root, kernel, need, need_landlock, need_root};

/// An allow-list as container engines have them.
const ENGINE: &str = include_str!("seccomp/engine.json");

/// A `[hardening]` section of these lines, which says itself that Landlock may be missing where it is.
fn hardening(lines: &str) -> String {
    let landlock = if has_landlock() { "" } else { "landlock = \"best-effort\"\n" };
    format!("[hardening]\n{landlock}{lines}\n")
}

/// The same, with a profile beside the spec.
fn with_profile(jail: Jail, text: &str) -> Jail {
    jail.place.file("spec/profile.json", text);
    jail
}

fn profiled(profile: &str) -> Jail {
    with_profile(probe::jail(&hardening("seccomp = \"profile.json\"")), profile)
}

#[test]
fn programs_run_under_a_profile_of_a_container_engine() {
    let jail = with_profile(Jail::tools(hardening("seccomp = \"profile.json\"")), ENGINE);
    assert_eq!(
        jail.prints("seq 3 | sort -r | head -n 1; echo x >~/a; cat ~/a; (sleep 0; echo b) & wait"),
        "3\nx\nb\n"
    );
    if kernel() != "host" {
        return;
    }
    let programs = "[rootfs]\nprograms = [\"bash\", \"env\", \"git\", \"perl\", \"python3\", \"ls\"]\n";
    let python = "files = [\"/usr/lib/python3*/**\"]\nexclude = [\"**/__pycache__/**\", \"/usr/lib/python3*/test/**\"]\n";
    let jail = with_profile(
        Jail::spec(format!("{programs}{python}{}", hardening("seccomp = \"profile.json\""))),
        ENGINE,
    );
    let script = "cd /tmp; git init -q r && cd r && echo a >f && git add f && git -c user.name=a -c user.email=a@b commit -qm m && git log --format=%s
        python3 -c 'import threading, subprocess, socket; t = threading.Thread(target=print, args=(1,)); t.start(); t.join(); print(subprocess.check_output([\"ls\"]).decode(), end=\"\")'
        perl -e 'print fork ? (wait, \"forked\\n\")[1] : exit'";
    let ran = jail.run(&["bash", "-c", script]).succeeded();
    assert_eq!(ran.stdout, "m\n1\nf\nforked\n", "{ran}");
}

#[test]
fn a_profile_tightens_and_never_loosens() {
    let refuses = r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28 },
        { "names": ["getppid"], "action": "SCMP_ACT_KILL_PROCESS" },
        { "names": ["mount", "unshare", "bpf", "setns", "clone3"], "action": "SCMP_ACT_ALLOW" },
        { "names": ["personality"], "action": "SCMP_ACT_ERRNO", "args": [{ "index": 0, "value": 8, "op": "SCMP_CMP_EQ" }] } ] }"#;
    expect(
        &profiled(refuses),
        &[
            ("mkdir @/tmp/a 0755", "ENOSPC"),
            ("getppid", "SIGSYS"),
            ("mount @none @/tmp @tmpfs 0 0", "EPERM"),
            ("unshare 0x10000000", "EPERM"),
            ("bpf 0 %128 128", "EPERM"),
            ("clone3 %88 88", "ENOSYS"),
            ("personality 8", "EPERM"),
            ("personality 0x100000008", "EPERM"),
            ("personality 0xffffffff", "0"),
            ("getuid", "1000"),
        ],
    );
}

#[test]
fn a_profile_needs_nothing_of_what_jailmk_does_itself() {
    // No sockets, no waiting, no signals, no closing: PID 1 does all of these.
    let only = r#"{ "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 95, "syscalls": [
        { "names": ["execve", "brk", "arch_prctl", "set_tid_address", "set_robust_list", "rseq", "mmap", "mprotect",
                    "prlimit64", "readlinkat", "readlink", "getrandom", "newfstatat", "fstat", "read", "write", "exit_group",
                    "getuid", "setuid", "geteuid", "getegid", "getgid", "prctl", "setgid", "ioctl"],
          "action": "SCMP_ACT_ALLOW" } ] }"#;
    let jail = with_profile(Jail::tools(hardening("seccomp = \"profile.json\"")), only);
    let ran = jail.run(&["sh", "-c", "echo out; umask; echo over"]);
    assert!(ran.stdout.contains("out\n") && ran.stdout.contains("over\n"), "{ran}");
    assert_eq!(ran.status, 0, "{ran}");
}

#[test]
fn a_mistyped_call_of_a_profile_is_told() {
    let typo = r#"{ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        { "names": ["raed", "mmap2"], "action": "SCMP_ACT_ERRNO" } ] }"#;
    let jail = with_profile(Jail::tools(hardening("seccomp = \"profile.json\"")), typo);
    let ran = jail.sh("echo ran").succeeded();
    assert_eq!(ran.stdout, "ran\n");
    assert_eq!(ran.complaints(), ["jailmk: note: the seccomp profile names no system call with raed"]);
    assert!(jail.jailmk("check", &[]).stdout.contains("no system calls: raed"));
}

#[test]
fn a_profile_that_is_missing_malformed_or_others_is_refused() {
    let jail = Jail::tools(hardening("seccomp = \"profile.json\""));
    jail.sh("true").refused(125, "there is no such file");
    let path = jail.place.file("spec/profile.json", "{ \"defaultAction\": \"SCMP_ACT_NEVER\" }");
    jail.sh("true").refused(125, "unknown variant `SCMP_ACT_NEVER`");
    jail.place.file(
        "spec/profile.json",
        "{ \"defaultAction\": \"SCMP_ACT_ALLOW\", \"architectures\": [\"SCMP_ARCH_MIPS\"] }",
    );
    jail.sh("true").refused(125, "it is for SCMP_ARCH_MIPS");
    jail.place.file("spec/profile.json", ENGINE);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("chmod");
    jail.sh("true").refused(125, "others may write to it");
    if is_root() {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("chmod");
        chown(&path, Some(4242), None).expect("chown");
        jail.sh("true").refused(125, "owned by user 4242");
    }
}

#[test]
fn a_profile_in_a_writable_workspace_cannot_be_written() {
    let jail = Jail::tools(format!(
        "[workspace]\nmode = \"direct\"\npath = \"PLACE\"\n{}",
        hardening("seccomp = \"profile.json\"")
    ));
    let jail = with_profile(jail, ENGINE);
    jail.sh("echo x >>spec/profile.json; rm -f spec/profile.json; echo y >spec/new; mv -f spec/new spec/profile.json");
    let path = jail.place.join("spec/profile.json");
    assert_eq!(fs::read_to_string(path).expect("read a file"), ENGINE);
}

/// TCP or UDP, bound to a port of 127.0.0.1.
fn bind(kind: u8, port: u16) -> String {
    format!("socket 2 {kind} 0 / bind $0 =0200{port:04x}7f0000010000000000000000 16")
}

const LOOPBACK: &str = "[network]\nmode = \"loopback\"\n";

#[test]
fn net_bind_service_is_for_low_ports_of_the_jails_own_network_and_for_nothing_else() {
    let (tcp, udp) = (bind(1, 80), bind(2, 53));
    let none = probe::jail(&format!("{LOOPBACK}{}", hardening("")));
    expect(&none, &[(&tcp, "EACCES"), (&udp, "EACCES")]);
    let kept = probe::jail(&format!("{LOOPBACK}{}", hardening("keep = [\"net_bind_service\"]")));
    expect(
        &kept,
        &[
            (&tcp, "0"),
            (&udp, "0"),
            ("chroot @/tmp", "EPERM"),
            ("setuid 0", "EINVAL"),
            ("setgroups 0 0", "EPERM"),
            ("unshare 0x10000000", "EPERM"),
            ("sethostname @other 5", "EPERM"),
            ("socket 2 3 1", "EPERM"),
        ],
    );
}

#[test]
fn sys_chroot_is_for_chroot_and_for_nothing_else() {
    expect(&probe::jail(&hardening("")), &[("chroot @/tmp", "EPERM")]);
    let udp = bind(2, 53);
    expect(
        &probe::jail(&hardening("keep = [\"sys_chroot\"]")),
        &[
            ("mkdir @/tmp/a 0755 / chroot @/tmp/a / open @/usr 0", "ENOENT"),
            // The root that it had is not above the jail's.
            (
                "open @/ 0 / mkdir @/tmp/b 0755 / chroot @/tmp/b / 81 $0 / chroot @../../../../.. / open @/usr/bin/probe 0",
                "4",
            ),
            (&udp, "EACCES"),
            ("mount @none @/tmp @tmpfs 0 0", "EPERM"),
            ("pivot_root @/tmp @/tmp", "EPERM"),
        ],
    );
}

#[test]
fn what_is_kept_is_in_all_five_sets_of_the_command_and_in_none_of_pid_1() {
    let jail = Jail::tools(hardening("keep = [\"sys_chroot\", \"net_bind_service\"]"));
    let sets = |pid: &str| {
        let text = jail.prints(&format!("env cat /proc/{pid}/status"));
        let sets: Vec<String> =
            text.lines().filter(|line| line.starts_with("Cap")).map(|line| line.replace('\t', " ")).collect();
        sets
    };
    let all = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    // Bits 10 and 18, in a program that a program of the jail has started.
    assert_eq!(sets("self"), all.map(|set| format!("{set}: 0000000000040400")));
    let first = sets("1");
    assert_eq!(first[..3], ["CapInh", "CapPrm", "CapEff"].map(|set| format!("{set}: 0000000000000000")));
}

#[cfg(target_arch = "x86_64")]
#[test]
fn securebits_are_locked_with_and_without_a_kept_capability() {
    for lines in ["", "keep = [\"net_bind_service\"]"] {
        expect(
            &probe::jail(&hardening(lines)),
            &[
                // PR_GET_SECUREBITS: NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE and all locks.
                ("157 27", "239"),
                ("157 28 0", "EPERM"),
                // PR_SET_KEEPCAPS, PR_CAP_AMBIENT_RAISE of CAP_CHOWN and of CAP_NET_BIND_SERVICE.
                ("157 8 1", "EPERM"),
                ("157 47 2 0 0 0", "EPERM"),
                ("157 47 2 10 0 0", "EPERM"),
            ],
        );
    }
}

#[test]
fn capabilities_that_mean_nothing_in_a_jail_are_refused_with_the_reason() {
    for (name, why) in [
        ("setuid", "one id is mapped"),
        ("CAP_CHOWN", "one id is mapped"),
        ("dac_override", "one id is mapped"),
        ("sys_time", "the host's namespace"),
        ("sys_admin", "made for root"),
        ("net_admin", "made for root"),
        ("fly", "it is one of net_bind_service, sys_chroot"),
    ] {
        let ran = Jail::tools(hardening(&format!("keep = [\"{name}\"]"))).sh("true").ended(125);
        assert!(ran.stderr.contains(why), "`{why}` is not in: {ran}");
    }
    let host = format!("[network]\nmode = \"host\"\n{}", hardening("keep = [\"net_bind_service\"]"));
    Jail::tools(host).sh("true").refused(125, "whose ports are not the jail's to give");
}

/// A jail whose command is a script that names itself, at execve(2) still jailmk, as its interpreter.
fn self_interpreted(lines: &str) -> Jail {
    let jail = Jail::tools(format!("[workspace]\npath = \"PLACE/work\"\n[hardening]\n{lines}\n"));
    jail.place.program("work/run", "#!/proc/self/exe --version\n");
    jail
}

#[test]
fn jailmk_itself_cannot_be_run_from_inside() {
    if need_landlock(1) {
        let ran = self_interpreted("").run(&["/workspace/run"]).ended(126);
        assert!(!ran.stdout.contains("jailmk"), "{ran}");
    }
}

#[test]
fn without_landlock_jailmk_runs_from_a_copy_that_nobody_can_write() {
    let off = Jail::tools("[hardening]\nlandlock = \"off\"\n");
    let mut running = off.start("echo ready; read line; echo $line").ready();
    let program = format!("/proc/{}/exe", running.pid());
    let link = fs::read_link(&program).expect("the program of a process");
    assert!(link.to_string_lossy().starts_with("/memfd:jailmk"), "{}", link.display());
    let name = fs::read_to_string(format!("/proc/{}/comm", running.pid())).expect("its name");
    assert_eq!(name, "jailmk\n");
    running.say(b"over\n");
    assert!(running.end().succeeded().stdout.ends_with("over\n"));
    // The status descriptor and the arguments get through the start from the copy.
    let off = off.option("--json-status-fd").option("7").by_shell("exec 7>status; exec \"$@\"");
    assert_eq!(off.run(&["sh", "-c", "echo \"$1 $#\"", "sh", "a b", ""]).succeeded().stdout, "a b 2\n");
    let status = fs::read_to_string(off.place.join("here/status")).expect("read a file");
    assert!(status.contains("child-pid") && status.contains("exit-code"), "{status}");
    if need_landlock(1) {
        let running = Jail::small().start("echo ready; cat").ready();
        let link = fs::read_link(format!("/proc/{}/exe", running.pid())).expect("the program of a process");
        assert_eq!(link, fs::canonicalize(jail::binary()).expect("the binary"));
    }
}

#[test]
fn jailmk_refuses_to_run_with_privileges_from_its_file() {
    if !need_root() {
        return;
    }
    let place = jail::Place::new();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    open(place.path());
    open(place.path().parent().expect("it has one"));
    let program = place.program("jailmk", fs::read(jail::binary()).expect("read the binary"));
    let ask = |program: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps=-all"]);
        command.arg(program).args(["enter", "--plan", "shell"]).env_clear().env("HOME", place.path());
        jail::run(command)
    };
    assert!(!ask(&program).stderr.contains("privileges"));
    for mode in [0o4755, 0o2755] {
        fs::set_permissions(&program, fs::Permissions::from_mode(mode)).expect("chmod");
        ask(&program).refused(125, "cannot run with privileges from the file");
    }
    open(&program);
    let mut setcap = Command::new("/sbin/setcap");
    setcap.arg("cap_sys_admin+ep").arg(&program);
    if need("file capabilities", jail::run(setcap).status == 0, &["uml", "6.1", "6.12"]) {
        ask(&program).refused(125, "cannot run with privileges from the file");
    }
}
