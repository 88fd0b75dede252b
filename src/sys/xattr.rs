//! Extended attributes of open files: xattr(7).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Reads an attribute into `value` and returns its length.
///
/// # Errors
/// As fgetxattr(2): ENODATA when there is none, ERANGE when it is longer than `value`.
pub fn get(file: BorrowedFd<'_>, name: &CStr, value: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the name is NUL-terminated; the kernel writes at most `value.len()` bytes into `value`.
    let length =
        unsafe { libc::fgetxattr(file.as_raw_fd(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    Errno::result(length).map(isize::unsigned_abs)
}

/// Sets an attribute.
///
/// # Errors
/// As fsetxattr(2).
pub fn set(file: BorrowedFd<'_>, name: &CStr, value: &[u8]) -> Result<(), Errno> {
    // SAFETY: the name is NUL-terminated; the kernel reads `value.len()` bytes of `value`.
    let result =
        unsafe { libc::fsetxattr(file.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result).map(drop)
}

/// Removes an attribute.
///
/// # Errors
/// As fremovexattr(2): ENODATA when there is none.
pub fn remove(file: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    // SAFETY: the name is NUL-terminated.
    let result = unsafe { libc::fremovexattr(file.as_raw_fd(), name.as_ptr()) };
    Errno::result(result).map(drop)
}

/// The names of all attributes, each with a NUL behind it, into `names`; returns their length.
///
/// # Errors
/// As flistxattr(2): ERANGE when they do not fit.
pub fn list(file: BorrowedFd<'_>, names: &mut [u8]) -> Result<usize, Errno> {
    // SAFETY: the kernel writes at most `names.len()` bytes into `names`.
    let length = unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    Errno::result(length).map(isize::unsigned_abs)
}
