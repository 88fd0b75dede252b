//! A path in the jail, opened name by name below the new root's descriptor: no symlink is followed,
//! so nothing that the tree holds can lead outside.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use crate::path::JailPath;

/// What a mount point is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory, for trees.
    Directory,
    /// A regular file, for a single file or device.
    File,
}

/// What to do about a mount point that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Make it: it lies on a fresh tmpfs of the jail.
    Make,
    /// Fail: it would have to be made on the host.
    Fail,
}

/// A mount point, armed: its names as the kernel takes them.
#[derive(Debug)]
pub struct Place {
    path: JailPath,
    parents: Vec<CString>,
    last: Option<CString>,
    kind: Kind,
    missing: Missing,
}

impl Place {
    /// Splits the path.
    pub fn new(path: &JailPath, kind: Kind, missing: Missing) -> Place {
        // JailPath has refused NUL bytes, so no name is lost here.
        let mut parents: Vec<CString> =
            path.names().filter_map(|name| CString::new(name.as_bytes()).ok()).collect();
        let last = parents.pop();
        Place { path: path.clone(), parents, last, kind, missing }
    }

    /// The path.
    pub fn path(&self) -> &JailPath {
        &self.path
    }

    /// Opens the place below `root` as O_PATH.
    ///
    /// # Errors
    /// ELOOP where a symlink stands on the way, ENOTDIR, EISDIR, ENOENT.
    pub fn open(&self, root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let mut here: Option<OwnedFd> = None;
        for name in &self.parents {
            let at = here.as_ref().map_or(root, |fd| fd.as_fd());
            here = Some(self.enter(at, name, Kind::Directory)?);
        }
        let at = here.as_ref().map_or(root, |fd| fd.as_fd());
        match &self.last {
            Some(name) => self.enter(at, name, self.kind),
            None => openat(at, c".", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()),
        }
    }

    fn enter(&self, at: BorrowedFd<'_>, name: &CString, kind: Kind) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = match openat(at, name.as_c_str(), flags, Mode::empty()) {
            Err(Errno::ENOENT) if self.missing == Missing::Make => {
                match kind {
                    Kind::Directory => mkdirat(at, name.as_c_str(), Mode::from_bits_truncate(0o755))?,
                    Kind::File => {
                        let new = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                        drop(openat(
                            at,
                            name.as_c_str(),
                            new | OFlag::O_WRONLY,
                            Mode::from_bits_truncate(0o644),
                        )?);
                    }
                }
                openat(at, name.as_c_str(), flags, Mode::empty())?
            }
            other => other?,
        };
        let format = SFlag::from_bits_truncate(fstat(&found)?.st_mode) & SFlag::S_IFMT;
        match (kind, format) {
            (_, SFlag::S_IFLNK) => Err(Errno::ELOOP),
            (Kind::Directory, SFlag::S_IFDIR) => Ok(found),
            (Kind::Directory, _) => Err(Errno::ENOTDIR),
            (Kind::File, SFlag::S_IFDIR) => Err(Errno::EISDIR),
            (Kind::File, _) => Ok(found),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}
