//! What a signal does to this process: rt_sigaction(2), as the bare system call, for the C library keeps
//! two signals to itself.
#![allow(unsafe_code)]

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// Gives a signal its default action.
///
/// # Errors
/// As sigaction(2): EINVAL for SIGKILL and SIGSTOP.
pub fn reset(signal: Signal) -> Result<(), Errno> {
    set(signal as libc::c_int, libc::SIG_DFL)
}

/// Ignores a signal.
///
/// # Errors
/// As [`reset`].
pub fn ignore(signal: Signal) -> Result<(), Errno> {
    set(signal as libc::c_int, libc::SIG_IGN)
}

/// Gives every signal that exists its default action, but those of `kept`. Allocates nothing.
///
/// # Errors
/// As sigaction(2).
pub fn reset_all_but(kept: &[Signal]) -> Result<(), Errno> {
    let fixed = [Signal::SIGKILL, Signal::SIGSTOP];
    let is_one_of =
        |signals: &[Signal], number| signals.iter().any(|signal| *signal as libc::c_int == number);
    (1..=LAST)
        .filter(|number| !is_one_of(&fixed, *number) && !is_one_of(kept, *number))
        .try_for_each(|number| set(number, libc::SIG_DFL))
}

/// The last of the real-time signals (signal(7)).
const LAST: libc::c_int = 64;

fn set(signal: libc::c_int, action: libc::sighandler_t) -> Result<(), Errno> {
    // The kernel's structure begins with the action; flags, restorer and mask are nothing.
    let action = [action as u64, 0, 0, 0];
    let (old, mask_size) = (std::ptr::null_mut::<libc::c_void>(), 8);
    // SAFETY: the structure is no larger than this array on 64-bit machines, and both actions that this module
    // sets are no functions of ours.
    let result = unsafe {
        libc::syscall(libc::SYS_rt_sigaction, signal, action.as_ptr(), old, mask_size as libc::size_t)
    };
    Errno::result(result).map(drop)
}
