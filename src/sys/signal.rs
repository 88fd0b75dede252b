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
