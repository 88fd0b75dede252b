//! The places that start empty and that the jail may write: one tmpfs shows in several directories, so
//! that one size bounds them all.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mkdirat};

use crate::layer::place::{Kind, Missing, Place};
use crate::path::JailPath;
use crate::sys::mount::{self, Attributes, Submounts};

/// Name, in the scratch tmpfs, of a directory that stays empty.
pub const EMPTY_DIRECTORY: &CStr = c"empty";
/// Name, in the scratch tmpfs, of a file that stays empty.
pub const EMPTY_FILE: &CStr = c"empty-file";

const WRITABLE: Attributes = Attributes { read_only: false, nodev: true, noexec: false };

/// Inodes for each MiB of a tmpfs: enough for source trees, and a bound on the kernel's memory.
const INODES_PER_MIB: u64 = 64;

/// The shared tmpfs and where its directories show.
#[derive(Debug)]
pub struct Armed {
    size: CString,
    inodes: CString,
    bytes: u64,
    ground: Place,
    shown: Vec<(CString, Mode, Place)>,
}

impl Armed {
    /// `shown` are the places with their permission bits; `bytes` bounds them together.
    pub fn new(bytes: u64, shown: Vec<(JailPath, u32)>) -> Armed {
        let named = |index: usize, (path, mode): (JailPath, u32)| {
            let name = CString::new(format!("{index}")).expect("BUG: digits hold no NUL");
            (name, Mode::from_bits_truncate(mode), Place::new(&path, Kind::Directory, Missing::Fail))
        };
        let shown: Vec<_> = shown.into_iter().enumerate().map(|(i, place)| named(i, place)).collect();
        let ground = JailPath::root().child("tmp".as_ref());
        Armed {
            size: number(bytes),
            inodes: inodes(bytes),
            bytes,
            ground: Place::new(&ground, Kind::Directory, Missing::Fail),
            shown,
        }
    }

    /// Mounts the tmpfs on /tmp and a part of it on each place; returns the tmpfs's own root, which no
    /// path of the jail reaches once a part covers /tmp.
    ///
    /// # Errors
    /// As fsopen(2), mkdir(2), open_tree(2) and move_mount(2).
    pub fn apply(&self, root: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        let parameters =
            [(c"size", self.size.as_c_str()), (c"nr_inodes", self.inodes.as_c_str()), (c"mode", c"0700")];
        let scratch = mount::new_filesystem(c"tmpfs", &parameters, WRITABLE)?;
        mount::attach(scratch.as_fd(), self.ground.open(root)?.as_fd())?;
        mkdirat(&scratch, EMPTY_DIRECTORY, Mode::from_bits_truncate(0o555))?;
        let new = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        drop(openat(&scratch, EMPTY_FILE, new, Mode::from_bits_truncate(0o444))?);
        for (name, mode, place) in &self.shown {
            mkdirat(&scratch, name.as_c_str(), *mode)?;
            // mkdir(2) subtracts the umask, and here the bits are meant.
            fchmodat(&scratch, name.as_c_str(), *mode, FchmodatFlags::FollowSymlink)?;
            let part = mount::clone_tree(Some(scratch.as_fd()), name, Submounts::LeftOut)?;
            mount::attach(part.as_fd(), place.open(root)?.as_fd())?;
        }
        Ok(scratch)
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mount an empty tmpfs of {} bytes on", self.bytes)?;
        for (index, (_, _, place)) in self.shown.iter().enumerate() {
            write!(f, "{} {place}", if index == 0 { "" } else { "," })?;
        }
        f.write_str(" (rw,nosuid,nodev)")
    }
}

/// An empty file or directory over something that the jail must not see.
#[derive(Debug)]
pub struct Cover {
    place: Place,
    kind: Kind,
}

impl Cover {
    /// `kind` is what stands there.
    pub fn new(path: &JailPath, kind: Kind) -> Cover {
        Cover { place: Place::new(path, kind, Missing::Fail), kind }
    }

    /// Mounts what [`Armed::apply`] has made for it, read-only.
    ///
    /// # Errors
    /// As open_tree(2), mount_setattr(2), move_mount(2) and [`Place::open`].
    pub fn apply(&self, root: BorrowedFd<'_>, scratch: BorrowedFd<'_>) -> Result<(), Errno> {
        let name = if self.kind == Kind::Directory { EMPTY_DIRECTORY } else { EMPTY_FILE };
        let empty = mount::clone_tree(Some(scratch), name, Submounts::LeftOut)?;
        // ORDER: flags before it is attached anywhere, so that it is never seen without them.
        mount::restrict(empty.as_fd(), Attributes { read_only: true, nodev: true, noexec: true })?;
        mount::attach(empty.as_fd(), self.place.open(root)?.as_fd())
    }
}

impl fmt::Display for Cover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hide {}", self.place)
    }
}

/// A tmpfs of its own size.
#[derive(Debug)]
pub struct Own {
    size: CString,
    inodes: CString,
    bytes: u64,
    place: Place,
}

impl Own {
    /// `bytes` bounds its contents.
    pub fn new(path: &JailPath, bytes: u64, missing: Missing) -> Own {
        Own {
            size: number(bytes),
            inodes: inodes(bytes),
            bytes,
            place: Place::new(path, Kind::Directory, missing),
        }
    }

    /// Mounts it.
    ///
    /// # Errors
    /// As fsopen(2) and move_mount(2).
    pub fn apply(&self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        let parameters =
            [(c"size", self.size.as_c_str()), (c"nr_inodes", self.inodes.as_c_str()), (c"mode", c"1777")];
        let tmpfs = mount::new_filesystem(c"tmpfs", &parameters, WRITABLE)?;
        mount::attach(tmpfs.as_fd(), self.place.open(root)?.as_fd())
    }
}

impl fmt::Display for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mount an empty tmpfs of {} bytes on {} (rw,nosuid,nodev)", self.bytes, self.place)
    }
}

fn number(value: u64) -> CString {
    CString::new(value.to_string()).expect("BUG: digits hold no NUL")
}

fn inodes(bytes: u64) -> CString {
    number((bytes >> 20).max(1).saturating_mul(INODES_PER_MIB).max(1024))
}
