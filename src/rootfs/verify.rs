//! The whole tree against its lock: every name, mode, link and byte.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstatat};
use sha2::{Digest, Sha256};

use super::copy::BUFFER;
use super::directory::{self, Descent, last_name};
use crate::manifest::lock::{Kind, Lock, Locked};
use crate::path::JailPath;

/// One path that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub path: JailPath,
    /// What.
    pub what: Change,
}

/// How a path differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is gone.
    Missing,
    /// Nothing of that name was built; what it holds is not listed.
    Extra,
    /// It is a file where a directory was built, or the like.
    Kind,
    /// It is another inode than the one that was built.
    Replaced,
    /// Permission bits.
    Mode {
        /// As built.
        expected: u32,
        /// As found.
        found: u32,
    },
    /// User or group.
    Owner,
    /// Bytes.
    Size {
        /// As built.
        expected: u64,
        /// As found.
        found: u64,
    },
    /// The content of a file.
    Content,
    /// Where a symbolic link points.
    Target,
    /// Names were added to or removed from the directory.
    Entries,
    /// It was written, renamed, linked or given other attributes.
    Touched,
    /// It could not be inspected.
    Unreadable(Errno),
}

impl Change {
    /// What cannot be inspected is no longer what was built; but the tree is not to blame where jailmk itself
    /// lacks descriptors or memory to look.
    ///
    /// # Errors
    /// The latter.
    pub(super) fn unreadable(errno: Errno) -> Result<Change, Errno> {
        match errno {
            Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM => Err(errno),
            _ => Ok(Change::Unreadable(errno)),
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.what)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Missing => f.write_str("is missing"),
            Change::Extra => f.write_str("is extra"),
            Change::Kind => f.write_str("is of another kind"),
            Change::Replaced => f.write_str("was replaced"),
            Change::Mode { expected, found } => write!(f, "has mode {found:04o} instead of {expected:04o}"),
            Change::Owner => f.write_str("has another owner"),
            Change::Size { expected, found } => write!(f, "has {found} bytes instead of {expected}"),
            Change::Content => f.write_str("has other content"),
            Change::Target => f.write_str("points elsewhere"),
            Change::Entries => f.write_str("has entries added or removed"),
            Change::Touched => f.write_str("was touched"),
            Change::Unreadable(errno) => write!(f, "cannot be read ({})", errno.desc()),
        }
    }
}

/// Every difference between the tree at `root` and `lock`, in the order of paths. Everything must
/// belong to the owner of the tree's top.
///
/// # Errors
/// Want of descriptors or memory.
pub fn verify(root: BorrowedFd<'_>, lock: &Lock) -> Result<Vec<Difference>, Errno> {
    compare(root, lock, Depth::Bytes)
}

/// How much is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// All but the content of files.
    Names,
    /// All.
    Bytes,
}

pub(super) fn compare(root: BorrowedFd<'_>, lock: &Lock, depth: Depth) -> Result<Vec<Difference>, Errno> {
    let owner = fstatat(root, ".", AtFlags::AT_SYMLINK_NOFOLLOW).map(|stat| (stat.st_uid, stat.st_gid)).ok();
    let mut comparison =
        Comparison { descent: Descent::new(root), owner, depth, buffer: vec![0; BUFFER], found: Vec::new() };
    // Below a path that is gone or of another kind, everything is: that goes without saying.
    let mut lost: Option<JailPath> = None;
    for (index, entry) in lock.entries().iter().enumerate() {
        if lost.as_ref().is_some_and(|lost| entry.path.as_path().starts_with(lost)) {
            continue;
        }
        match comparison.entry(entry) {
            Ok(None) => {}
            Ok(Some(what)) => {
                let gone = matches!(what, Change::Missing | Change::Kind);
                lost = gone.then(|| entry.path.clone());
                comparison.found.push(Difference { path: entry.path.clone(), what });
                if gone {
                    continue;
                }
            }
            Err(errno) => {
                lost = Some(entry.path.clone());
                let what = Change::unreadable(errno)?;
                comparison.found.push(Difference { path: entry.path.clone(), what });
                continue;
            }
        }
        if entry.kind == Kind::Directory {
            let below = lock.entries()[index + 1..]
                .iter()
                .take_while(|below| below.path.as_path().starts_with(&entry.path))
                .filter(|below| below.path.parent().as_ref() == Some(&entry.path));
            comparison.extras(&entry.path, below)?;
        }
    }
    let mut found = comparison.found;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

struct Comparison<'a> {
    descent: Descent<'a>,
    owner: Option<(u32, u32)>,
    depth: Depth,
    buffer: Vec<u8>,
    found: Vec<Difference>,
}

impl Comparison<'_> {
    fn entry(&mut self, entry: &Locked) -> Result<Option<Change>, Errno> {
        let name = last_name(&entry.path);
        let parent = self.descent.parent_of(&entry.path)?;
        let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => return Ok(Some(Change::Missing)),
            Err(errno) => return Err(errno),
        };
        let kind = match entry.kind {
            Kind::Directory => SFlag::S_IFDIR,
            Kind::Symlink(_) => SFlag::S_IFLNK,
            Kind::File(_) => SFlag::S_IFREG,
        };
        if stat.st_mode & SFlag::S_IFMT.bits() != kind.bits() {
            return Ok(Some(Change::Kind));
        }
        let found = stat.st_mode & 0o7777;
        if found != entry.mode && kind != SFlag::S_IFLNK {
            return Ok(Some(Change::Mode { expected: entry.mode, found }));
        }
        if self.owner != Some((stat.st_uid, stat.st_gid)) {
            return Ok(Some(Change::Owner));
        }
        match &entry.kind {
            Kind::Directory => Ok(None),
            Kind::Symlink(target) => {
                let found = readlinkat(parent, name)?;
                Ok((found != target.as_os_str()).then_some(Change::Target))
            }
            Kind::File(content) if stat.st_size as u64 != content.size => {
                Ok(Some(Change::Size { expected: content.size, found: stat.st_size as u64 }))
            }
            Kind::File(_) if self.depth == Depth::Names => Ok(None),
            Kind::File(content) => {
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
                let file = File::from(openat(parent, name, flags, Mode::empty())?);
                let found = digest(&file, content.size, &mut self.buffer)?;
                Ok((found != content.sha256).then_some(Change::Content))
            }
        }
    }

    fn extras<'b>(&mut self, path: &JailPath, below: impl Iterator<Item = &'b Locked>) -> Result<(), Errno> {
        let expected: BTreeSet<&[u8]> = below.map(|entry| last_name(&entry.path).as_bytes()).collect();
        let names: Result<Vec<CString>, Errno> = self
            .descent
            .parent_of(path)
            .and_then(|parent| directory::open(parent, last_name(path)))
            .and_then(|directory| directory::names(directory.as_fd()));
        match names {
            Ok(names) => {
                let extra = names.iter().filter(|name| !expected.contains(name.to_bytes()));
                self.found.extend(extra.map(|name| Difference {
                    path: path.child(OsStr::from_bytes(name.to_bytes())),
                    what: Change::Extra,
                }));
            }
            Err(errno) => {
                self.found.push(Difference { path: path.clone(), what: Change::unreadable(errno)? });
            }
        }
        Ok(())
    }
}

/// Of at most `size` bytes and one more: a file that grows meanwhile is no reason to read forever.
pub(super) fn digest(file: &File, size: u64, buffer: &mut [u8]) -> Result<[u8; 32], Errno> {
    let mut digest = Sha256::new();
    let mut file = file.take(size + 1);
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(digest.finalize().into()),
            Ok(count) => digest.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(directory::errno(error)),
        }
    }
}
