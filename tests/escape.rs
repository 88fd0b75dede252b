//! What hostile code in a jail tries, through the binary: each must come to nothing.

mod jail;

use std::fs;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use jail::probe::{self, expect};
use jail::{Jail, Place};

#[test]
fn no_kind_of_namespace_can_be_made_or_joined() {
    expect(
        &probe::jail(""),
        &[
            ("unshare 0x10000000", "EPERM"),
            ("unshare 0x00020000", "EPERM"),
            ("unshare 0x20000000", "EPERM"),
            ("unshare 0x40000000", "EPERM"),
            ("unshare 0x08000000", "EPERM"),
            ("unshare 0x04000000", "EPERM"),
            ("unshare 0x02000000", "EPERM"),
            ("unshare 0x00000080", "EPERM"),
            ("clone 0x10000011", "EPERM"),
            ("clone 0x30020011", "EPERM"),
            ("clone3 %88 88", "ENOSYS"),
            ("open @/proc/self/ns/user 0 / setns $0 0", "refused"),
        ],
    );
}

#[test]
fn the_mount_table_cannot_be_changed() {
    expect(
        &probe::jail(""),
        &[
            ("mount @none @/tmp @tmpfs 0 0", "refused"),
            ("mount @none @/ @none 0x1020 0", "refused"),
            ("umount2 @/proc 2", "refused"),
            ("pivot_root @/tmp @/tmp", "refused"),
            ("chroot @/tmp", "refused"),
            ("fsopen @tmpfs 0", "refused"),
            ("fsmount 0 0 0", "refused"),
            ("open_tree -100 @/ 1", "refused"),
            ("move_mount -100 @/tmp -100 @/run 0", "refused"),
            (
                "mount_setattr -100 @/ 0x8000 =0000000000000000010000000000000000000000000000000000000000000000 32",
                "refused",
            ),
        ],
    );
}

#[test]
fn dangerous_interfaces_of_the_kernel_are_closed() {
    expect(
        &probe::jail(""),
        &[
            ("bpf 0 %128 128", "refused"),
            ("io_uring_setup 1 %120", "refused"),
            ("perf_event_open %128 0 -1 -1 0", "refused"),
            ("userfaultfd 1", "refused"),
            ("keyctl 0 -3 1", "refused"),
            ("add_key @user @name @secret 6 -3", "refused"),
            ("request_key @user @name 0 -3", "refused"),
            ("open @/ 0 / open_by_handle_at $0 =080000000100000000000000000000000000 0", "refused"),
            ("kexec_load 0 0 0 0", "refused"),
            ("init_module %16 16 @", "refused"),
            ("delete_module @none 0", "refused"),
            ("swapon @/tmp 0", "refused"),
            ("reboot 0xfee1dead 672274793 0", "refused"),
            ("settimeofday %16 0", "refused"),
            ("syslog 3 %64 64", "refused"),
            ("sethostname @other 5", "refused"),
            ("quotactl 0x800002 @/tmp 0 %64", "refused"),
            ("openat2 -100 @/ %24 24", "ENOSYS"),
            ("personality 0x0004000", "refused"),
        ],
    );
}

#[test]
fn other_processes_cannot_be_taken_over() {
    expect(
        &probe::jail(""),
        &[
            ("ptrace 16 1 0 0", "refused"),
            ("ptrace 0x4206 1 0 0", "refused"),
            (
                "process_vm_readv 1 =00100000000000000100000000000000 1 =00100000000000000100000000000000 1 0",
                "refused",
            ),
            ("pidfd_open 1 0 / pidfd_getfd $0 0 0", "refused"),
            ("open @/proc/1/mem 0", "EACCES"),
            ("open @/proc/1/environ 0", "EACCES"),
            ("open @/proc/1/maps 0", "EACCES"),
            ("open @/proc/1/fd 0", "EACCES"),
            ("open @/proc/1/root 0x10000", "EACCES"),
            ("open @/proc/1/exe 0", "EACCES"),
            ("open @/proc/1/cwd 0x10000", "EACCES"),
            // Covered by an empty file: jailmk's arguments name paths of the host.
            ("open @/proc/1/cmdline 0 / 0 $0 %64 64", "0"),
            ("open @/proc/1/ns/mnt 0", "EACCES"),
        ],
    );
}

#[test]
fn a_terminal_cannot_be_typed_into_whatever_the_high_bits_say() {
    expect(
        &probe::jail(""),
        &[
            ("ioctl 0 0x5412 @x", "EPERM"),
            ("ioctl 0 0x100005412 @x", "EPERM"),
            ("ioctl 0 0xffffffff00005412 @x", "EPERM"),
            ("ioctl 0 0x541c @x", "EPERM"),
            ("ioctl 0 0x20000541c @x", "EPERM"),
        ],
    );
}

#[test]
fn the_first_process_cannot_be_put_last_or_given_limits() {
    // Its end is the jail's: it must come to die while a thousand others keep the processors busy.
    expect(
        &probe::jail(""),
        &[
            ("sched_setaffinity 1 8 =0100000000000000", "EPERM"),
            ("sched_setaffinity 0x700000001 8 =0100000000000000", "EPERM"),
            ("sched_setscheduler 1 5 =00000000", "EPERM"),
            ("sched_setparam 1 =00000000", "EPERM"),
            ("sched_setattr 1 =3000000005000000 0", "EPERM"),
            ("setpriority 0 1 19", "EPERM"),
            ("setpriority 0x700000000 0x700000001 19", "EPERM"),
            ("setpriority 1 1 19", "EPERM"),
            ("setpriority 1 0 19", "EPERM"),
            ("setpriority 2 0 19", "EPERM"),
            ("ioprio_set 1 1 0x6000", "EPERM"),
            ("ioprio_set 2 0 0x6000", "EPERM"),
            ("ioprio_set 3 0 0x6000", "EPERM"),
            ("prlimit64 1 0 =00000000000000000000000000000000 0", "EPERM"),
            ("prlimit64 0x700000001 0 =00000000000000000000000000000000 0", "EPERM"),
            // Their own, programs may.
            ("setpriority 0 0 19", "0"),
            ("sched_setscheduler 0 5 =00000000", "0"),
            ("ioprio_set 1 0 0x6000", "0"),
            ("prlimit64 1 0 0 %16", "0"),
            ("prlimit64 0 4 =00000000000000000000000000000000 0", "0"),
        ],
    );
}

#[test]
fn no_lease_makes_the_host_wait_for_a_jail() {
    let jail = probe::jail("[workspace]\nmode = \"read-only\"\npath = \"PLACE/work\"\n");
    jail.place.file("work/file", "x");
    expect(
        &jail,
        &[("open @file 0 / fcntl $0 1024 1", "EINVAL"), ("open @file 0 / fcntl $0 0x700000400 1", "EINVAL")],
    );
}

#[test]
fn a_jail_makes_no_snapshot_and_no_whiteout() {
    let snapshot = |number: &str| (format!("open @. 0 / ioctl $0 {number} %4096"), "EPERM");
    let numbers =
        ["0x50009401", "0x50009417", "0x5000940e", "0x50009418", "0x5000940f", "0x5000943f", "0x750009401"];
    let jail = probe::jail("[workspace]\nmode = \"direct\"\npath = \"PLACE/work\"\n");
    jail.place.file("work/file", "x");
    let mut cases: Vec<(String, &str)> = numbers.map(snapshot).into();
    cases.push(("renameat2 -100 @file -100 @moved 4".to_owned(), "EINVAL"));
    let cases: Vec<(&str, &str)> = cases.iter().map(|(line, wanted)| (line.as_str(), *wanted)).collect();
    expect(&jail, &cases);
    assert!(jail.place.join("work/file").exists());
}

#[test]
fn a_filter_of_the_jails_own_does_not_log() {
    expect(
        &probe::jail(""),
        &[("seccomp 1 2 %16", "EINVAL"), ("seccomp 1 6 %16", "EINVAL"), ("seccomp 1 0 0", "EFAULT")],
    );
}

#[test]
fn no_connection_is_made_by_sending() {
    expect(
        &probe::jail("[network]\nmode = \"loopback\"\n"),
        &[("socket 2 1 0 / sendto $0 @x 1 0x20000000 =02000009000000000000000000000000 16", "EOPNOTSUPP")],
    );
}

#[test]
fn only_harmless_kinds_of_sockets_can_be_made() {
    expect(
        &probe::jail(""),
        &[
            ("socket 17 3 0", "EAFNOSUPPORT"),
            ("socket 40 1 0", "EAFNOSUPPORT"),
            ("socket 38 5 0", "EAFNOSUPPORT"),
            ("socket 16 3 9", "EAFNOSUPPORT"),
            ("socket 16 3 12", "EAFNOSUPPORT"),
            ("socket 2 3 1", "refused"),
            ("socket 1 1 0", "3"),
        ],
    );
}

#[test]
fn no_file_can_become_setuid_or_a_device() {
    expect(
        &probe::jail(""),
        &[
            ("creat @/tmp/a 0755 / chmod @/tmp/a 04755", "EPERM"),
            ("creat @/tmp/b 0755 / chmod @/tmp/b 02755", "EPERM"),
            ("creat @/tmp/c 0755 / fchmod $0 06755", "EPERM"),
            ("creat @/tmp/d 0755 / fchmodat -100 @/tmp/d 0x100004755", "EPERM"),
            ("creat @/tmp/e 04755", "EPERM"),
            ("mknod @/tmp/f 020666 259", "refused"),
            ("mknod @/tmp/g 060666 2048", "refused"),
        ],
    );
}

#[test]
fn ids_cannot_be_changed() {
    expect(
        &probe::jail(""),
        &[
            ("setuid 0", "EINVAL"),
            ("setgid 0", "EINVAL"),
            ("setgroups 0 0", "EPERM"),
            ("getuid", "1000"),
            ("geteuid", "1000"),
        ],
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_by_another_architectures_numbers_kill() {
    expect(&probe::jail(""), &[("0x40000027", "SIGSYS"), ("getuid", "1000")]);
    if jail::need("32-bit system calls", jail::kernel() != "uml", &["uml"]) {
        expect(&probe::jail(""), &[("int80 20", "SIGSYS")]);
    }
}

#[test]
fn the_hosts_files_are_nowhere() {
    let place = Place::new();
    let secret = place.file("secret", "host");
    let secret = secret.display();
    let ran = Jail::small().sh(&format!(
        "cat {secret} ; cat /proc/self/root{secret}; cat ../../../../../../..{secret}; cat /proc/self/cwd/../..{secret}; ls /proc/self/root/root/"
    ));
    assert_eq!(ran.stdout, "");
    assert_eq!(ran.complaints().len(), 4, "{ran}");
}

/// The tree of a jail with a state of its own.
fn tree_of(jail: &Jail) -> std::path::PathBuf {
    jail.prints("true");
    let specs = fs::read_dir(jail.state_path().join("rootfs")).expect("list the state");
    let of_spec = specs.flatten().next().expect("one spec is built").path();
    of_spec.join("current/root")
}

#[test]
fn a_tree_that_was_tampered_with_is_not_entered_and_a_build_cures_it() {
    let jail = Jail::tools("files = [{ content = \"x\", to = \"/etc/motd\" }]\n").fresh_state();
    fn unlock(path: &Path) {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
    }
    type Tamper = (&'static str, fn(&Path));
    const TAMPERS: [Tamper; 6] = [
        ("a file changed", |tree| {
            unlock(&tree.join("etc/motd"));
            fs::write(tree.join("etc/motd"), "y").expect("write");
        }),
        ("a file added", |tree| {
            unlock(&tree.join("usr/bin"));
            fs::write(tree.join("usr/bin/added"), "x").expect("write");
        }),
        ("a file removed", |tree| {
            unlock(&tree.join("etc"));
            fs::remove_file(tree.join("etc/motd")).expect("remove");
        }),
        ("a link swapped", |tree| {
            unlock(tree);
            fs::remove_file(tree.join("bin")).expect("remove");
            symlink("tmp", tree.join("bin")).expect("make a link");
        }),
        ("a directory replaced by a link", |tree| {
            unlock(tree);
            fs::rename(tree.join("proc"), tree.join("proc2")).expect("rename");
            symlink("/etc", tree.join("proc")).expect("make a link");
        }),
        ("a mode changed", |tree| {
            let path = tree.join("etc/motd");
            fs::set_permissions(path, fs::Permissions::from_mode(0o4755)).expect("chmod");
        }),
    ];
    for (what, tamper) in TAMPERS {
        tamper(&tree_of(&jail));
        let ran = jail.sh("echo entered").refused(125, "jailmk build");
        assert_eq!(ran.stdout, "", "{what}: {ran}");
        assert_ne!(jail.jailmk("verify", &[]).status, 0, "{what}");
        jail.jailmk("build", &[]).succeeded();
        assert_eq!(jail.prints("echo entered"), "entered\n", "{what}");
    }
}

#[test]
fn an_abstract_socket_of_the_host_is_out_of_reach() {
    let name = format!("jailmk-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("an address");
    let _listener = UnixListener::bind_addr(&address).expect("listen");
    let hex: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    let connect = format!("socket 1 1 0 / connect $0 =010000{hex} {}", 3 + name.len());
    expect(&probe::jail(""), &[(&connect, "ECONNREFUSED")]);
    // Even where the network is the host's.
    if jail::need_landlock(6) {
        expect(&probe::jail("[network]\nmode = \"host\"\n"), &[(&connect, "EPERM")]);
    }
}

#[test]
fn the_usual_doors_to_the_host_are_not_there() {
    expect(
        &probe::jail(""),
        &[
            ("open @/dev/mem 0", "ENOENT"),
            ("open @/dev/kmsg 0", "ENOENT"),
            ("open @/sys/kernel 0", "ENOENT"),
            ("open @/run/user 0", "ENOENT"),
            ("open @/var/run/docker.sock 0", "ENOENT"),
            ("open @/proc/sys/kernel/core_pattern 1", "refused"),
            ("open @/etc/passwd 2", "refused"),
        ],
    );
}
