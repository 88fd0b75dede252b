//! The mount API of descriptors: open_tree(2), move_mount(2), mount_setattr(2), fsopen(2).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

/// Where a path begins: a directory descriptor, or the working directory for relative paths.
fn raw(directory: Option<BorrowedFd<'_>>) -> RawFd {
    directory.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd())
}

fn owned(result: libc::c_long) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(result)?;
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Whether a clone takes the mounts below along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Submounts {
    /// They come along.
    Included,
    /// The one mount alone.
    LeftOut,
}

/// Clones the mount at `path` into a detached tree; the last component is not followed.
/// An empty path means `directory` itself.
///
/// # Errors
/// As open_tree(2).
pub fn clone_tree(
    directory: Option<BorrowedFd<'_>>,
    path: &CStr,
    submounts: Submounts,
) -> Result<OwnedFd, Errno> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    flags |= libc::AT_SYMLINK_NOFOLLOW as libc::c_uint | libc::AT_EMPTY_PATH as libc::c_uint;
    if submounts == Submounts::Included {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: `path` is NUL-terminated and outlives the call.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, raw(directory), path.as_ptr(), flags) })
}

/// Attaches the detached tree `from` on top of `to`, both by descriptor.
///
/// # Errors
/// As move_mount(2).
pub fn attach(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    attach_at(from, Some(to), c"")
}

/// Attaches the detached tree `from` on top of `path`, whose symlinks are not followed at its end.
///
/// # Errors
/// As move_mount(2).
pub fn attach_at(from: BorrowedFd<'_>, directory: Option<BorrowedFd<'_>>, path: &CStr) -> Result<(), Errno> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are NUL-terminated and outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            from.as_raw_fd(),
            c"".as_ptr(),
            raw(directory),
            path.as_ptr(),
            flags,
        )
    };
    Errno::result(result).map(drop)
}

/// Flags of a mount, as `MOUNT_ATTR_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// No writes.
    pub read_only: bool,
    /// Device nodes are inert.
    pub nodev: bool,
    /// Nothing is executable.
    pub noexec: bool,
}

impl Attributes {
    /// The kernel's bits. `nosuid` is always among them: nothing in a jail may gain privileges.
    fn bits(self) -> u64 {
        let mut bits = libc::MOUNT_ATTR_NOSUID;
        if self.read_only {
            bits |= libc::MOUNT_ATTR_RDONLY;
        }
        if self.nodev {
            bits |= libc::MOUNT_ATTR_NODEV;
        }
        if self.noexec {
            bits |= libc::MOUNT_ATTR_NOEXEC;
        }
        bits
    }
}

fn setattr(fd: RawFd, path: &CStr, flags: libc::c_int, attr: &libc::mount_attr) -> Result<(), Errno> {
    // SAFETY: `attr` is a whole mount_attr of the size that is passed; `path` is NUL-terminated.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

fn attributes(set: u64, propagation: u64, userns_fd: u64) -> libc::mount_attr {
    libc::mount_attr { attr_set: set, attr_clr: 0, propagation, userns_fd }
}

/// Adds flags to every mount of a detached tree and makes each private; what is already stricter stays
/// so. A clone of a shared mount is its peer: what is mounted below the clone would show on the host.
///
/// # Errors
/// As mount_setattr(2).
pub fn restrict(tree: BorrowedFd<'_>, flags: Attributes) -> Result<(), Errno> {
    let attr = attributes(flags.bits(), libc::MS_PRIVATE, 0);
    setattr(tree.as_raw_fd(), c"", libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, &attr)
}

/// Shows the files of a detached tree under other owners: what the map of the user namespace `users`
/// has on its inner side appears as its outer side.
///
/// # Errors
/// As mount_setattr(2): EINVAL where the file system has no idmapped mounts, EPERM without privilege.
pub fn map_owners(tree: BorrowedFd<'_>, users: BorrowedFd<'_>) -> Result<(), Errno> {
    let fd = u64::try_from(users.as_raw_fd()).map_err(|_| Errno::EBADF)?;
    let attr = attributes(libc::MOUNT_ATTR_IDMAP, 0, fd);
    setattr(tree.as_raw_fd(), c"", libc::AT_EMPTY_PATH | libc::AT_RECURSIVE, &attr)
}

/// Cuts every mount of this namespace off from others: nothing propagates in or out.
///
/// # Errors
/// As mount_setattr(2).
pub fn make_all_private() -> Result<(), Errno> {
    let attr = attributes(0, libc::MS_PRIVATE, 0);
    setattr(libc::AT_FDCWD, c"/", libc::AT_RECURSIVE, &attr)
}

/// A file system with its parameters, as (key, value) strings, mounted nowhere yet.
///
/// # Errors
/// As fsopen(2), fsconfig(2) and fsmount(2).
pub fn new_filesystem(
    kind: &CStr,
    parameters: &[(&CStr, &CStr)],
    flags: Attributes,
) -> Result<OwnedFd, Errno> {
    new_filesystem_with(kind, parameters, &[], flags)
}

/// The same with parameters that have no value.
///
/// # Errors
/// As [`new_filesystem`].
pub fn new_filesystem_with(
    kind: &CStr,
    parameters: &[(&CStr, &CStr)],
    switches: &[&CStr],
    flags: Attributes,
) -> Result<OwnedFd, Errno> {
    // SAFETY: `kind` is NUL-terminated.
    let context = owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), libc::FSOPEN_CLOEXEC) })?;
    for (key, value) in parameters {
        // SAFETY: both strings are NUL-terminated and outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                libc::FSCONFIG_SET_STRING,
                key.as_ptr(),
                value.as_ptr(),
                0,
            )
        };
        Errno::result(result)?;
    }
    let null = std::ptr::null::<libc::c_char>();
    for switch in switches {
        // SAFETY: the key is NUL-terminated and outlives the call; a flag has no value.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                context.as_raw_fd(),
                libc::FSCONFIG_SET_FLAG,
                switch.as_ptr(),
                null,
                0,
            )
        };
        Errno::result(result)?;
    }
    // SAFETY: FSCONFIG_CMD_CREATE takes no pointers.
    let result = unsafe {
        libc::syscall(libc::SYS_fsconfig, context.as_raw_fd(), libc::FSCONFIG_CMD_CREATE, null, null, 0)
    };
    Errno::result(result)?;
    // SAFETY: no pointers.
    owned(unsafe {
        libc::syscall(
            libc::SYS_fsmount,
            context.as_raw_fd(),
            libc::FSMOUNT_CLOEXEC,
            flags.bits() as libc::c_uint,
        )
    })
}
