//! seccomp(2).
#![allow(unsafe_code)]

use nix::errno::Errno;

/// Installs `filter` for the calling thread and all that it starts, for good.
///
/// Allocates nothing, so it may run between clone and exec. No flags are given: without
/// `SECCOMP_FILTER_FLAG_LOG` a jail cannot fill the host's log with refused calls, without
/// `SECCOMP_FILTER_FLAG_SPEC_ALLOW` the mitigations against speculation stay on, and a caller with one
/// thread needs no `SECCOMP_FILTER_FLAG_TSYNC`.
///
/// # Errors
/// `EACCES` without no_new_privs or CAP_SYS_ADMIN, `EINVAL` for a program that the kernel's verifier
/// refuses or a kernel without filters, `E2BIG` for one whose length does not fit in 16 bits.
/// Source: seccomp(2).
pub fn set_mode_filter(filter: &[libc::sock_filter]) -> Result<(), Errno> {
    let Ok(len) = u16::try_from(filter.len()) else {
        return Err(Errno::E2BIG);
    };
    let program = libc::sock_fprog { len, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `program` points at `len` initialised instructions which outlive the call; the kernel
    // copies them and writes to neither.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    Errno::result(result).map(drop)
}
