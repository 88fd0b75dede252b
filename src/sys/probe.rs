//! The system calls that `check` tries, and the attribute read that finds delegated cgroups.

#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::mem;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use libc::{c_int, c_long};
use nix::errno::Errno;
use nix::unistd::{ForkResult, Pid};

/// The value of an extended attribute that is at most 16 bytes long; `None` when there is none.
pub fn extended_attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    let name = CString::new(name).ok()?;
    let mut value = [0u8; 16];
    // SAFETY: both strings are NUL-terminated; the kernel writes at most `value.len()` bytes.
    let length =
        unsafe { libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.get(..usize::try_from(length).ok()?).map(<[u8]>::to_vec)
}

/// Forks. The child runs `body` and leaves by _exit(2) with its status, so that neither destructors
/// nor buffers of the parent run twice. It is killed when this process ends.
///
/// The process must have one thread: `body` may allocate.
pub fn fork(body: impl FnOnce() -> u8) -> Result<Pid, Errno> {
    // SAFETY: the caller's promise of a single thread makes everything usable in the child.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            if nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).is_err() {
                leave(1);
            }
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(101);
            leave(status)
        }
    }
}

fn leave(status: u8) -> ! {
    // SAFETY: _exit(2) has no preconditions.
    unsafe { libc::_exit(c_int::from(status)) }
}

/// Ends this process by SIGALRM after `seconds`.
pub fn alarm(seconds: u32) {
    // SAFETY: alarm(2) has no preconditions; SIGALRM's default action ends the process.
    unsafe { libc::alarm(seconds) };
}

fn check(result: c_long) -> Result<c_long, Errno> {
    Errno::result(result)
}

fn owned(result: c_long) -> Result<OwnedFd, Errno> {
    let descriptor = check(result)? as RawFd;
    // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// linux/sched.h; libc's constant is too narrow for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// clone3(2) with `CLONE_INTO_CGROUP`: the child runs `body` in the cgroup `directory`.
pub fn clone_into(directory: BorrowedFd<'_>, body: impl FnOnce() -> u8) -> Result<Pid, Errno> {
    // SAFETY: all-zero is a valid clone_args.
    let mut arguments: libc::clone_args = unsafe { mem::zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.cgroup = directory.as_raw_fd() as u64;
    // SAFETY: the structure lives through the call; without CLONE_VM the child has a copy of the stack,
    // as after fork(2), and ends in `leave`.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
    match check(pid)? {
        0 => leave(body()),
        pid => Ok(Pid::from_raw(pid as libc::pid_t)),
    }
}

/// Sets IFF_UP on the loopback interface of this network namespace (netdevice(7)).
pub fn loopback_up() -> std::io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) };
    Errno::result(result)?;
    Ok(())
}

/// open_tree(2) with `OPEN_TREE_CLONE`: a detached copy of the mount at `path`.
pub fn open_tree(path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: the path is NUL-terminated and lives through the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// move_mount(2) of a detached tree to `target`.
pub fn move_mount(tree: BorrowedFd<'_>, target: &CStr) -> Result<(), Errno> {
    // SAFETY: both paths are NUL-terminated and live through the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// mount_setattr(2) on the mount of `tree` and all below it. `user_namespace` is for
/// `MOUNT_ATTR_IDMAP`.
pub fn mount_setattr(
    tree: BorrowedFd<'_>,
    set: u64,
    user_namespace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let attributes = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: user_namespace.map_or(0, |descriptor| descriptor.as_raw_fd() as u64),
    };
    // SAFETY: path and structure live through the call; the size is the structure's.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    })
    .map(drop)
}

/// The Landlock ABI that the kernel has (landlock_create_ruleset(2), `LANDLOCK_CREATE_RULESET_VERSION`).
pub fn landlock_abi() -> Result<u32, Errno> {
    const VERSION: u32 = 1;
    let none = std::ptr::null::<u8>();
    // SAFETY: with this flag the call takes a null pointer and size 0.
    let abi = check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0usize, VERSION) })?;
    Ok(abi as u32)
}

/// Installs a seccomp filter that kills the whole process at getppid(2) and allows all else.
pub fn kill_at_getppid() -> Result<(), Errno> {
    let statement = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_getppid as u32),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: the kernel copies the program, which lives through the call.
    check(unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) })
        .map(drop)
}

/// Marks every descriptor from `first` on as close-on-exec (close_range(2)).
pub fn close_range_on_exec(first: u32) -> Result<(), Errno> {
    // SAFETY: no descriptor is closed here, only marked.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// Joins a new anonymous session keyring (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
pub fn new_session_keyring() -> Result<(), Errno> {
    let anonymous = std::ptr::null::<u8>();
    // SAFETY: this operation takes a null pointer for an anonymous keyring.
    check(unsafe { libc::syscall(libc::SYS_keyctl, libc::KEYCTL_JOIN_SESSION_KEYRING, anonymous) }).map(drop)
}

/// pidfd_open(2).
pub fn pidfd_open(pid: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}

/// pidfd_send_signal(2) of SIGKILL.
pub fn pidfd_kill(pidfd: BorrowedFd<'_>) -> Result<(), Errno> {
    let no_information = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the call takes a null siginfo.
    check(unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, no_information, 0)
    })
    .map(drop)
}
