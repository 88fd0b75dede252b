//! The filter in the kernel: what it really refuses, and that programs run under it.
#![allow(unsafe_code)]
#![allow(clippy::unnecessary_cast, reason = "an ioctl request is an int with musl")]

mod need;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use jailmk::layer::seccomp::{Armed, Policy};
use jailmk::spec::SeccompProfile;
use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

fn arm(profile: SeccompProfile) -> Armed {
    Policy { profile, keep: Vec::new() }.arm().expect("it is built in")
}

/// What became of a process that ran `probe` under `filter`.
///
/// The exit status is the error number that `probe` left, 0 for none.
fn fate(filter: &Armed, probe: impl FnOnce() -> libc::c_long) -> WaitStatus {
    // SAFETY: the child makes system calls and ends by _exit; it takes no lock of another thread but
    // malloc's, which glibc and musl put in order across fork.
    match unsafe { fork() }.expect("fork") {
        ForkResult::Parent { child } => waitpid(child, None).expect("waitpid"),
        ForkResult::Child => {
            let status = match set_no_new_privs().and_then(|()| filter.apply()) {
                Err(_) => 254,
                Ok(()) if probe() == -1 => Errno::last_raw(),
                Ok(()) => 0,
            };
            // SAFETY: _exit has no precondition.
            unsafe { libc::_exit(status) }
        }
    }
}

/// The error number that `probe` gets in both profiles, 0 for none.
fn errno(probe: impl Fn() -> libc::c_long) -> i32 {
    let [default, strict] =
        [SeccompProfile::Default, SeccompProfile::Strict].map(|profile| match fate(&arm(profile), &probe) {
            WaitStatus::Exited(_, status) => status,
            other => panic!("{other:?}"),
        });
    assert_eq!(default, strict);
    default
}

/// A system call by its number.
fn call(number: libc::c_long, arguments: [u64; 5]) -> libc::c_long {
    let [a, b, c, d, e] = arguments;
    // SAFETY: no probe passes a pointer but null and C strings that live as long as the process.
    unsafe { libc::syscall(number, a, b, c, d, e) }
}

fn signal_of(fate: WaitStatus) -> Signal {
    match fate {
        WaitStatus::Signaled(_, signal, _) => signal,
        other => panic!("not killed: {other:?}"),
    }
}

#[test]
fn sockets_of_other_families_have_no_address_family() {
    let socket = |family: i32, kind: i32, protocol: i32| {
        errno(|| call(libc::SYS_socket, [family as u64, kind as u64, protocol as u64, 0, 0]))
    };
    assert_eq!(socket(libc::AF_VSOCK, libc::SOCK_STREAM, 0), libc::EAFNOSUPPORT);
    assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_KOBJECT_UEVENT), libc::EAFNOSUPPORT);
    assert_eq!(socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP), libc::EPROTONOSUPPORT);
    assert_eq!(socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE), 0);
    assert_eq!(socket(libc::AF_UNIX, libc::SOCK_STREAM, 0), 0);
    assert_eq!(socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0), 0);
}

#[test]
fn typing_into_a_terminal_is_refused_before_the_descriptor_is_looked_at() {
    let ioctl = |request: u64| errno(|| call(libc::SYS_ioctl, [u64::MAX, request, 0, 0, 0]));
    assert_eq!(ioctl(libc::TIOCSTI as u64), libc::EPERM);
    assert_eq!(ioctl(libc::TIOCSTI as u64 | 1 << 40), libc::EPERM);
    assert_eq!(ioctl(libc::TIOCLINUX as u64), libc::EPERM);
    assert_eq!(ioctl(libc::TIOCGWINSZ as u64), libc::EBADF);
}

#[test]
fn a_file_of_ones_own_cannot_become_setuid() {
    let path = std::env::temp_dir().join(format!("jailmk-seccomp-{}", std::process::id()));
    std::fs::write(&path, "").expect("write");
    let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL");
    let chmod = |mode: u64| {
        let at = libc::AT_FDCWD as u64;
        errno(|| call(libc::SYS_fchmodat, [at, name.as_ptr() as u64, mode, 0, 0]))
    };
    let (setuid, setgid, plain) = (chmod(0o4755), chmod(0o2755), chmod(0o1755));
    std::fs::remove_file(&path).expect("remove");
    assert_eq!((setuid, setgid, plain), (libc::EPERM, libc::EPERM, 0));
}

#[test]
fn namespaces_are_refused_and_clone3_is_not_there() {
    // The unknown flag makes it EINVAL for the kernel.
    assert_eq!(errno(|| call(libc::SYS_unshare, [1 << 40, 0, 0, 0, 0])), libc::EPERM);
    assert_eq!(errno(|| call(libc::SYS_unshare, [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0])), libc::EPERM);
    assert_eq!(errno(|| call(libc::SYS_unshare, [0; 5])), 0);
    assert_eq!(errno(|| call(libc::SYS_clone3, [0; 5])), libc::ENOSYS);
    assert_eq!(errno(|| call(libc::SYS_setns, [u64::MAX, 0, 0, 0, 0])), libc::EPERM);
}

#[test]
fn urgent_data_cannot_be_sent() {
    let mut pair = [0; 2];
    // SAFETY: `pair` has room for the two descriptors.
    assert_eq!(unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, pair.as_mut_ptr()) }, 0);
    let send = |flags: i32| {
        errno(|| call(libc::SYS_sendto, [pair[0] as u64, c"x".as_ptr() as u64, 1, flags as u64, 0]))
    };
    assert_eq!(send(libc::MSG_OOB), libc::EOPNOTSUPP);
    assert_eq!(send(0), 0);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn calls_by_other_numbers_kill() {
    // User Mode Linux takes them for calls of its own numbers.
    if !need::need("32-bit system calls", need::kernel() != "uml", &["uml"]) {
        return;
    }
    let filter = arm(SeccompProfile::Default);
    let x32 = fate(&filter, || call(0x4000_0000 | libc::SYS_getpid, [0; 5]));
    assert_eq!(signal_of(x32), Signal::SIGSYS);
    let i386 = fate(&filter, || {
        let result: i64;
        // SAFETY: getpid by the i386 gate; it changes rax and, by its convention, r8 to r11.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("rax") 20i64 => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _)
        };
        result
    });
    assert_eq!(signal_of(i386), Signal::SIGSYS);
}

#[test]
fn threads_start_without_clone3() {
    let thread = || match std::thread::spawn(|| 7).join() {
        Ok(7) => 0,
        _ => -1,
    };
    assert_eq!(errno(thread), 0);
}

#[test]
fn a_second_filter_can_be_laid_over_the_default_one_only() {
    let again = |filter: &Armed| match filter.apply() {
        Ok(()) => 0,
        Err(errno) => {
            errno.set();
            -1
        }
    };
    let default = arm(SeccompProfile::Default);
    assert!(matches!(fate(&default, || again(&default)), WaitStatus::Exited(_, 0)));
    let strict = arm(SeccompProfile::Strict);
    assert!(matches!(fate(&strict, || again(&strict)), WaitStatus::Exited(_, libc::ENOSYS)));
}

/// Runs `program` under the filter of `profile`; `None`, loudly, where it is not installed.
fn run(profile: SeccompProfile, program: &str, arguments: &[&str]) -> Option<Output> {
    let filter = arm(profile);
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: two system calls, no allocation.
    unsafe {
        command.pre_exec(move || set_no_new_privs().and_then(|()| filter.apply()).map_err(io::Error::from))
    };
    match command.output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            need::need(program, false, &[]);
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

#[track_caller]
fn prints(profile: SeccompProfile, program: &str, arguments: &[&str], expected: &str) {
    if let Some(output) = run(profile, program, arguments) {
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {}\n{stdout}\n{stderr}", output.status);
        assert!(stdout.contains(expected), "{program} printed\n{stdout}\n{stderr}");
    }
}

#[test]
fn a_shell_runs_pipelines() {
    for profile in [SeccompProfile::Default, SeccompProfile::Strict] {
        prints(profile, "/bin/sh", &["-c", "echo one two | (cat; ls / | wc -l) | head -n 1"], "one two");
    }
}

#[test]
fn python_runs_threads_children_and_sockets() {
    let script = "
import asyncio, os, socket, subprocess, tempfile, threading, multiprocessing
thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()
subprocess.run(['true'], check=True)
server = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(server.getsockname()); client.sendall(b'x')
assert server.accept()[0].recv(1) == b'x'
assert socket.getaddrinfo('127.0.0.1', 80)
socket.if_nameindex()
with tempfile.TemporaryDirectory() as d: open(d + '/f', 'w').write('x'); os.chmod(d + '/f', 0o755)
asyncio.run(asyncio.sleep(0))
assert multiprocessing.Value('i', 3).value == 3
print('done')";
    for profile in [SeccompProfile::Default, SeccompProfile::Strict] {
        prints(profile, "python3", &["-c", script], "done");
    }
}

#[test]
fn node_runs_with_its_compiler_and_workers() {
    let script = "
const { Worker } = require('worker_threads');
const fs = require('fs'), child = require('child_process'), os = require('os');
function sum(n) { let s = 0; for (let i = 0; i < n; i++) s += i; return s }
for (let i = 0; i < 1000; i++) sum(1000);
os.networkInterfaces(); fs.readdirSync('/'); child.execSync('true');
new Worker('require(\"worker_threads\").parentPort.postMessage(1)', { eval: true })
  .on('message', () => fs.promises.readFile('/proc/self/status').then(() => console.log('done')));";
    prints(SeccompProfile::Default, "node", &["-e", script], "done");
}

#[test]
fn a_compiler_compiles_and_its_program_runs() {
    let directory = std::env::temp_dir().join(format!("jailmk-seccomp-cc-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("create");
    let path = |name: &str| directory.join(name).into_os_string().into_string().expect("UTF-8");
    let (source, program) = (path("a.c"), path("a"));
    std::fs::write(&source, "#include <stdio.h>\nint main(void) { puts(\"done\"); }").expect("write");
    if let Some(output) = run(SeccompProfile::Default, "gcc", &["-O2", "-pipe", &source, "-o", &program]) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        prints(SeccompProfile::Default, &program, &[], "done");
    }
    std::fs::remove_dir_all(&directory).expect("remove");
}

#[test]
fn debuggers_trace_their_children_in_the_default_profile_only() {
    let gdb = ["-nx", "-batch", "-ex", "starti", "-ex", "print 40 + 2 * ($pc != 0)", "/bin/sh"];
    prints(SeccompProfile::Default, "gdb", &gdb, "= 42");
    prints(SeccompProfile::Default, "strace", &["-f", "-o", "/dev/stdout", "/bin/true"], "exited with 0");
    if let Some(output) = run(SeccompProfile::Strict, "strace", &["/bin/true"]) {
        assert!(!output.status.success(), "strace traced under the strict profile");
    }
}

#[test]
fn a_call_that_a_tracer_skips_does_not_kill_the_child() {
    let arguments = ["-e", "inject=getuid:error=EPERM", "-o", "/dev/null", "/bin/sh", "-c", "echo done"];
    prints(SeccompProfile::Default, "strace", &arguments, "done");
}
