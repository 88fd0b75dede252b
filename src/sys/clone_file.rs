//! FICLONE: a copy that shares its blocks with the original until one of them is written.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// Makes `target` a copy-on-write copy of all of `source`; both are then independent files.
///
/// # Errors
/// EOPNOTSUPP, EXDEV, EINVAL and others where the file system cannot (ioctl_ficlone(2)).
pub fn clone_file(source: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    // SAFETY: FICLONE takes a descriptor by value and touches no memory of this process; both
    // descriptors are borrowed, hence open, for the whole call.
    let result =
        unsafe { libc::ioctl(target.as_fd().as_raw_fd(), libc::FICLONE as _, source.as_fd().as_raw_fd()) };
    Errno::result(result).map(drop)
}
