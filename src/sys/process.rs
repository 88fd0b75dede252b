//! Making, tying and stripping processes: clone3(2), prctl(2), keyctl(2), close_range(2).
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::Pid;

// The libc crate's constants of these names do not fit their type (libc issue 3584).
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Side<T> {
    /// The caller, with what identifies the child.
    Parent(T),
    /// The new process.
    Child,
}

/// A child as its parent knows it.
#[derive(Debug)]
pub struct Child {
    /// Its process id in the caller's namespace.
    pub pid: Pid,
    /// A descriptor that refers to it and to no later process with the same id.
    pub pidfd: OwnedFd,
}

/// Forks into new namespaces and, when `cgroup` is given, directly into that cgroup v2 directory.
/// Signal handlers are reset in the child, ignored signals stay ignored; it sends SIGCHLD when it ends.
///
/// The child shares no memory with the caller, but is a copy of one thread only: when the caller has
/// others, the child must not allocate or take locks.
///
/// # Errors
/// As clone3(2).
pub fn clone_into(namespaces: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> Result<Side<Child>, Errno> {
    let mut pidfd: RawFd = -1;
    // SAFETY: an all-zero clone_args asks for a plain fork.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces as u64 | libc::CLONE_PIDFD as u64 | CLONE_CLEAR_SIGHAND;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::try_from(cgroup.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    }
    // SAFETY: no stack and no CLONE_VM, so the child goes on in a copy of this memory; the structure
    // is whole and the pidfd's place outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    match Errno::result(result)? {
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(Child {
            pid: Pid::from_raw(pid as libc::pid_t),
            // SAFETY: the kernel wrote it because of CLONE_PIDFD.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        })),
    }
}

/// fork(2) as the bare system call: no handlers of the C library run, no locks are taken.
///
/// # Errors
/// As fork(2).
pub fn fork() -> Result<Side<Pid>, Errno> {
    // SAFETY: no CLONE_VM: the child goes on in a copy of this memory and stack.
    #[cfg(target_arch = "x86_64")]
    let result = unsafe { libc::syscall(libc::SYS_fork) };
    // SAFETY: as above; architectures without fork(2) spell it as clone(2) with SIGCHLD alone.
    #[cfg(not(target_arch = "x86_64"))]
    let result = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    match Errno::result(result)? {
        0 => Ok(Side::Child),
        pid => Ok(Side::Parent(Pid::from_raw(pid as libc::pid_t))),
    }
}

/// Ends this process at once, running nothing.
pub fn exit_now(status: libc::c_int) -> ! {
    // SAFETY: _exit does not return and touches no memory.
    unsafe { libc::_exit(status) }
}

/// Signals the process behind a pidfd.
///
/// # Errors
/// As pidfd_send_signal(2): ESRCH when it has ended.
pub fn signal(pidfd: BorrowedFd<'_>, signal: Signal) -> Result<(), Errno> {
    let none = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo is allowed.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal as libc::c_int, none, 0)
    };
    Errno::result(result).map(drop)
}

/// Whom a signal came from before it was handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A process.
    Process,
    /// The kernel.
    Kernel,
}

/// Signals the process behind a pidfd, and says whom the signal came from, which [`wait_for_signal`] tells there.
///
/// # Errors
/// As [`signal`].
pub fn hand_on(pidfd: BorrowedFd<'_>, number: Signal, origin: Origin) -> Result<(), Errno> {
    if origin == Origin::Process {
        return signal(pidfd, number);
    }
    // SAFETY: all zeros is a whole siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    info.si_signo = number as libc::c_int;
    // No process may speak in the kernel's own name.
    info.si_code = libc::SI_QUEUE;
    // SAFETY: the information is whole and outlives the call.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), info.si_signo, &raw const info, 0)
    };
    Errno::result(result).map(drop)
}

/// Waits for one of `signals`, which must be blocked, at most so long; `None` when none came. With
/// its origin, as [`hand_on`] says it. Allocates nothing.
///
/// # Errors
/// As sigtimedwait(2); EINVAL for a real-time signal, which is taken off the queue.
pub fn wait_for_signal(
    signals: &SigSet,
    at_most: Option<Duration>,
) -> Result<Option<(Signal, Origin)>, Errno> {
    // SAFETY: all zeros is a whole siginfo_t.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let number = match at_most {
        // SAFETY: the set is whole, and the kernel fills one siginfo_t.
        None => unsafe { libc::sigwaitinfo(signals.as_ref(), &raw mut info) },
        Some(time) => {
            let time = nix::sys::time::TimeSpec::from_duration(time);
            // SAFETY: as above, and the time is whole.
            unsafe { libc::sigtimedwait(signals.as_ref(), &raw mut info, time.as_ref()) }
        }
    };
    match Errno::result(number) {
        Ok(number) => {
            let origin = if info.si_code == libc::SI_QUEUE { Origin::Kernel } else { Origin::Process };
            Signal::try_from(number).map(|signal| Some((signal, origin)))
        }
        Err(Errno::EAGAIN) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// Marks every descriptor from `first` on to be closed at execve(2).
///
/// # Errors
/// As close_range(2).
pub fn close_on_exec_from(first: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: no memory is touched and nothing is closed yet.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// Closes every descriptor above 2 but `kept`, at once. What owned them must never be dropped afterwards:
/// for the jail's PID 1, which leaves by _exit(2).
///
/// # Errors
/// As close_range(2).
pub fn close_all_but(kept: BorrowedFd<'_>) -> Result<(), Errno> {
    let kept = libc::c_uint::try_from(kept.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let close = |first: libc::c_uint, last: libc::c_uint| {
        if first > last {
            return Ok(());
        }
        // SAFETY: the caller promises that nothing uses or closes these numbers any more.
        let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        Errno::result(result).map(drop)
    };
    close(3, kept.saturating_sub(1))?;
    close(kept.saturating_add(1).max(3), libc::c_uint::MAX)
}

/// Makes `fd` also descriptor `number`, which survives execve(2).
///
/// # Errors
/// As dup2(2).
pub fn duplicate_to(fd: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: used for 0, 1 and 2 only, which no Rust object of the child owns.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// Joins a new, empty, anonymous session keyring. A kernel without keyrings has nothing to leave.
///
/// # Errors
/// As keyctl(2) KEYCTL_JOIN_SESSION_KEYRING.
pub fn new_session_keyring() -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    let anonymous = std::ptr::null::<libc::c_char>();
    // SAFETY: a null name asks for an anonymous keyring.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, anonymous) };
    match Errno::result(result) {
        Err(Errno::ENOSYS) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Locks the rules that no uid gives capabilities and no ambient capability can be raised
/// (capabilities(7), "The securebits flags").
///
/// # Errors
/// As prctl(2) PR_SET_SECUREBITS: EPERM without CAP_SETPCAP.
pub fn lock_securebits() -> Result<(), Errno> {
    const NOROOT: libc::c_ulong = 1 << 0;
    const NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;
    const KEEP_CAPS_LOCKED: libc::c_ulong = 1 << 5;
    const NO_CAP_AMBIENT_RAISE: libc::c_ulong = 1 << 6;
    let bits = NOROOT
        | NOROOT << 1
        | NO_SETUID_FIXUP
        | NO_SETUID_FIXUP << 1
        | KEEP_CAPS_LOCKED
        | NO_CAP_AMBIENT_RAISE
        | NO_CAP_AMBIENT_RAISE << 1;
    // SAFETY: PR_SET_SECUREBITS takes one number.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits, 0, 0, 0) }).map(drop)
}

/// Takes one capability out of the bounding set, by its number.
///
/// # Errors
/// As prctl(2) PR_CAPBSET_DROP: EINVAL for a number that the kernel does not know.
pub fn drop_from_bounding_set(capability: u8) -> Result<(), Errno> {
    // SAFETY: PR_CAPBSET_DROP takes one number.
    let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0) };
    Errno::result(result).map(drop)
}

/// Whether the kernel has given this program more than its caller has: by a setuid or setgid bit, or by
/// capabilities of the file (getauxval(3), AT_SECURE).
pub fn is_privileged_by_file() -> bool {
    // SAFETY: it looks a number up.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// Standard input, output and error, without the buffers that the standard library puts around them.
pub fn standard_streams() -> [BorrowedFd<'static>; 3] {
    // SAFETY: the Rust runtime opens what the caller left closed, and nothing here closes them.
    unsafe { [BorrowedFd::borrow_raw(0), BorrowedFd::borrow_raw(1), BorrowedFd::borrow_raw(2)] }
}

/// Takes a descriptor over that the caller of this program opened for it, by its number, and marks it to
/// be closed at execve(2).
///
/// # Errors
/// EBADF when it is not open.
pub fn adopt_descriptor(number: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_SETFD touches no memory; it fails on a number that is not open.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, and the caller gave it to this program for this one use.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes `set`, as bits, the effective, permitted and inheritable capability set in one capset(2).
///
/// # Errors
/// As capset(2).
pub fn set_capability_sets(set: u64) -> Result<(), Errno> {
    let word = |shift: u32| [(set >> shift) as u32; 3];
    capset(&[word(0), word(32)])
}

/// Makes `set`, as bits, the inheritable set of a process that has every capability of its user namespace.
///
/// # Errors
/// As capset(2).
pub fn set_inheritable_capabilities(set: u64) -> Result<(), Errno> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut sets = [[0_u32; 3]; 2];
    // SAFETY: version 3 writes two triples of 32-bit words.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) };
    Errno::result(result)?;
    for (triple, shift) in sets.iter_mut().zip([0, 32]) {
        triple[2] = (set >> shift) as u32;
    }
    capset(&sets)
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// Effective, permitted and inheritable words: the lower 32 capabilities, then the upper.
fn capset(sets: &[[u32; 3]; 2]) -> Result<(), Errno> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    // SAFETY: version 3 reads a header and two triples of 32-bit words.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Raises one capability, by its number, in the ambient set.
///
/// # Errors
/// As prctl(2) PR_CAP_AMBIENT_RAISE: EPERM unless it is permitted and inheritable.
pub fn raise_ambient(capability: u8) -> Result<(), Errno> {
    let (raise, capability) = (libc::PR_CAP_AMBIENT_RAISE, libc::c_ulong::from(capability));
    // SAFETY: PR_CAP_AMBIENT takes numbers.
    let result = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, 0, 0) };
    Errno::result(result).map(drop)
}

/// The Landlock ABI of the running kernel; 0 where Landlock is absent or off.
pub fn landlock_abi() -> i32 {
    const VERSION: libc::c_uint = 1;
    let none = std::ptr::null::<libc::c_void>();
    // SAFETY: a null attribute of size 0 with this flag asks for the version only.
    let result = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0, VERSION) };
    i32::try_from(result).unwrap_or(0).max(0)
}
