//! flistxattr(2): attributes that give rights which the mode does not show.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Capabilities of a program, and lists of who else may write.
const RIGHTS: [&[u8]; 2] = [b"security.capability", b"system.posix_acl_access"];

/// Whether the file has capabilities or an access list.
///
/// # Errors
/// ERANGE where it has more names of attributes than jailmk ever sets; EIO and the like.
pub fn gives_rights(file: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut names = [0u8; 4096];
    // SAFETY: the kernel writes at most the given length to the buffer, which lives across the call.
    let length = unsafe { libc::flistxattr(file.as_raw_fd(), names.as_mut_ptr().cast(), names.len()) };
    match Errno::result(length) {
        Ok(length) => {
            let names = names.get(..length as usize).unwrap_or_default();
            Ok(names.split(|byte| *byte == 0).any(|name| RIGHTS.contains(&name)))
        }
        Err(Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}
