//! The seal: what the kernel says of every path right after the build, so that one stat(2) a path tells
//! whether anything was changed since.
//!
//! The change time of an inode is set by the kernel alone and moves with every write, rename, link,
//! chmod and chown of the file, and with every entry made or removed of a directory. So names that were
//! added need no look at any directory's content. A link to the same inode made for another tree moves it
//! too: store.rs says how that is told from a change.
//!
//! Format, little endian: `jailmk-seal 2\n`, the number of records (u64), then records in the order of
//! the lock: inode u64, change time i64 ns, modification time i64 ns, size u64, mode u32, uid u32,
//! gid u32, depth u16 (0 is `/`), length of the name u16, the name with a NUL.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{FileStat, SFlag, fstatat};

use super::directory::{self, Descent, last_name};
use super::sources::nanoseconds;
use super::verify::{Change, Difference};
use crate::manifest::lock::Lock;
use crate::path::JailPath;

const MAGIC: &[u8] = b"jailmk-seal 2\n";
/// Where a record has the time of change.
const CHANGED_AT: usize = 8;
const FIXED: usize = 8 + 8 + 8 + 8 + 4 + 4 + 4 + 2 + 2;
/// PATH_MAX is 4096: no tree is deeper.
const DEPTH_LIMIT: usize = 2048;

/// Why bytes are no seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not begun as one.
    #[error("it does not begin as a seal of this version does")]
    Header,
    /// Cut off, or with more behind its end.
    #[error("it is torn")]
    Torn,
}

/// The stamps of every path of a tree.
#[derive(Debug)]
pub struct Seal {
    bytes: Vec<u8>,
}

/// One record, borrowed.
struct Record<'a> {
    stamp: Stamp,
    depth: usize,
    name: &'a CStr,
    /// Where it begins in the seal.
    at: usize,
}

/// What a comparison with the tree gave.
pub(super) struct Checked {
    pub(super) differences: Vec<Difference>,
    /// Files of which nothing but the time of change differs, as after link(2) or unlink(2) of another of
    /// their names: they may be right or not.
    pub(super) moved: Vec<Moved>,
}

/// A file whose time of change has moved.
pub(super) struct Moved {
    pub(super) path: JailPath,
    pub(super) found: FileStat,
    /// The time that the seal is to have, if the file is right.
    pub(super) changed: i64,
    at: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    changed: i64,
    modified: i64,
    size: u64,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Stamp {
    fn of(stat: &FileStat) -> Stamp {
        let kind = stat.st_mode & SFlag::S_IFMT.bits();
        let (directory, link) = (kind == SFlag::S_IFDIR.bits(), kind == SFlag::S_IFLNK.bits());
        Stamp {
            inode: stat.st_ino,
            // Trees share the inodes of links, too, and where a link points cannot be changed.
            changed: if link { 0 } else { nanoseconds(stat.st_ctime, stat.st_ctime_nsec) },
            modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            // Some file systems count a directory's size lazily; its change time says enough.
            size: if directory { 0 } else { stat.st_size as u64 },
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
        }
    }

    /// Whether it is a regular file of which all is the same but the time of change.
    fn only_moved(&self, found: &Stamp) -> bool {
        let regular = self.mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        regular && self.changed != found.changed && Stamp { changed: found.changed, ..*self } == *found
    }

    /// The first thing that differs, most telling first.
    fn change(&self, found: &Stamp) -> Option<Change> {
        let kind = SFlag::S_IFMT.bits();
        Some(if self.mode & kind != found.mode & kind {
            Change::Kind
        } else if self.inode != found.inode {
            Change::Replaced
        } else if self.mode != found.mode {
            Change::Mode { expected: self.mode & 0o7777, found: found.mode & 0o7777 }
        } else if (self.uid, self.gid) != (found.uid, found.gid) {
            Change::Owner
        } else if self.size != found.size {
            Change::Size { expected: self.size, found: found.size }
        } else if (self.changed, self.modified) != (found.changed, found.modified) {
            match self.mode & kind == SFlag::S_IFDIR.bits() {
                true => Change::Entries,
                false => Change::Touched,
            }
        } else {
            return None;
        })
    }
}

impl Seal {
    /// Seals the tree at `root` as it is now; `see` is shown what the kernel says of each entry of `lock`.
    ///
    /// # Errors
    /// A path of `lock` cannot be inspected.
    pub(super) fn take(
        root: BorrowedFd<'_>,
        lock: &Lock,
        mut see: impl FnMut(usize, &FileStat),
    ) -> Result<Seal, (JailPath, Errno)> {
        let mut bytes = Vec::with_capacity(MAGIC.len() + 8 + lock.entries().len() * (FIXED + 20));
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&(lock.entries().len() as u64).to_le_bytes());
        let mut descent = Descent::new(root);
        for (index, entry) in lock.entries().iter().enumerate() {
            let name = last_name(&entry.path);
            let stat = descent
                .parent_of(&entry.path)
                .and_then(|parent| fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW))
                .map_err(|errno| (entry.path.clone(), errno))?;
            see(index, &stat);
            let (stamp, name) = (Stamp::of(&stat), name.as_bytes());
            for field in [stamp.inode, stamp.changed as u64, stamp.modified as u64, stamp.size] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
            for field in [stamp.mode, stamp.uid, stamp.gid] {
                bytes.extend_from_slice(&field.to_le_bytes());
            }
            let depth = entry.path.names().count();
            // A name has at most 255 bytes, a path 2048 names: the kernel made them just now.
            bytes.extend_from_slice(&(depth as u16).to_le_bytes());
            bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
            bytes.extend_from_slice(name);
            bytes.push(0);
        }
        Ok(Seal { bytes })
    }

    /// Takes the bytes of a seal file.
    ///
    /// # Errors
    /// They are none, or not whole.
    pub fn parse(bytes: Vec<u8>) -> Result<Seal, SealError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(SealError::Header)?;
        let (count, mut rest) = rest.split_first_chunk::<8>().ok_or(SealError::Torn)?;
        let mut left = u64::from_le_bytes(*count);
        let mut above = None;
        while !rest.is_empty() {
            let (record, after) = Record::read(rest).ok_or(SealError::Torn)?;
            let fits = match above {
                None => record.depth == 0,
                Some(above) => (1..=above + 1).contains(&record.depth) && record.depth <= DEPTH_LIMIT,
            };
            left = left.checked_sub(1).filter(|_| fits).ok_or(SealError::Torn)?;
            above = Some(record.depth);
            rest = after;
        }
        match left == 0 && above.is_some() {
            true => Ok(Seal { bytes }),
            false => Err(SealError::Torn),
        }
    }

    /// The bytes of the seal file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Compares the tree at `root` with the seal. What lies below a directory that is gone is not listed.
    ///
    /// # Errors
    /// Want of descriptors or memory.
    pub(super) fn check(&self, root: BorrowedFd<'_>) -> Result<Checked, Errno> {
        let mut differences = Vec::new();
        let mut moved = Vec::new();
        // Directories on the way to the record, each opened when the first record below it is met.
        let mut open: Vec<Option<OwnedFd>> = Vec::new();
        let mut names: Vec<&CStr> = Vec::new();
        let mut skip_below = usize::MAX;
        for record in self.records() {
            if record.depth > skip_below {
                continue;
            }
            skip_below = usize::MAX;
            // `names` holds the names of the last record's path; open[d] is the directory at depth d.
            names.truncate(record.depth.saturating_sub(1));
            open.truncate(record.depth);
            if record.depth > 0 && open.len() < record.depth {
                let opened = match names.last() {
                    None => Ok(None),
                    Some(name) => directory::open(at(&open, root), *name).map(Some),
                };
                match opened {
                    Ok(fd) => open.push(fd),
                    Err(errno) => {
                        Change::unreadable(errno)?;
                        // It was a directory a moment ago, when its own record was checked.
                        differences.push(Difference { path: path_of(&names, None), what: Change::Kind });
                        skip_below = record.depth - 1;
                        continue;
                    }
                }
            }
            let name = if record.depth == 0 { c"." } else { record.name };
            let found = fstatat(at(&open, root), name, AtFlags::AT_SYMLINK_NOFOLLOW);
            let change = match found {
                Ok(stat) if record.stamp.only_moved(&Stamp::of(&stat)) => {
                    let path = path_of(&names, Some(record.name));
                    moved.push(Moved { path, found: stat, changed: Stamp::of(&stat).changed, at: record.at });
                    None
                }
                Ok(stat) => record.stamp.change(&Stamp::of(&stat)),
                Err(Errno::ENOENT) => Some(Change::Missing),
                Err(errno) => Some(Change::unreadable(errno)?),
            };
            if let Some(what) = change {
                let last = (record.depth > 0).then_some(record.name);
                if matches!(what, Change::Missing | Change::Unreadable(_) | Change::Kind) {
                    skip_below = record.depth;
                }
                differences.push(Difference { path: path_of(&names, last), what });
            }
            if record.depth > 0 {
                names.push(record.name);
            }
        }
        Ok(Checked { differences, moved })
    }

    /// Takes the change times of files that were found to be right.
    pub(super) fn refresh(&mut self, moved: &[Moved]) {
        for Moved { changed, at, .. } in moved {
            let field = self.bytes.get_mut(at + CHANGED_AT..at + CHANGED_AT + 8);
            field.expect("BUG: a record is where it was read").copy_from_slice(&changed.to_le_bytes());
        }
    }

    fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let mut rest = self.bytes.get(MAGIC.len() + 8..).unwrap_or(&[]);
        std::iter::from_fn(move || {
            let (mut record, after) = Record::read(rest)?;
            record.at = self.bytes.len() - rest.len();
            rest = after;
            Some(record)
        })
    }
}

/// The directory that holds the records of the present depth.
fn at<'a>(open: &'a [Option<OwnedFd>], root: BorrowedFd<'a>) -> BorrowedFd<'a> {
    open.last().and_then(Option::as_ref).map_or(root, AsFd::as_fd)
}

fn path_of(names: &[&CStr], last: Option<&CStr>) -> JailPath {
    let names = names.iter().copied().chain(last);
    names.fold(JailPath::root(), |path, name| path.child(OsStr::from_bytes(name.to_bytes())))
}

impl<'a> Record<'a> {
    fn read(bytes: &'a [u8]) -> Option<(Record<'a>, &'a [u8])> {
        let (fixed, rest) = bytes.split_first_chunk::<FIXED>()?;
        let u64_at = |at: usize| {
            let mut field = [0; 8];
            field.copy_from_slice(&fixed[at..at + 8]);
            u64::from_le_bytes(field)
        };
        let u32_at = |at: usize| {
            let mut field = [0; 4];
            field.copy_from_slice(&fixed[at..at + 4]);
            u32::from_le_bytes(field)
        };
        let stamp = Stamp {
            inode: u64_at(0),
            changed: u64_at(8) as i64,
            modified: u64_at(16) as i64,
            size: u64_at(24),
            mode: u32_at(32),
            uid: u32_at(36),
            gid: u32_at(40),
        };
        let depth = usize::from(u16::from_le_bytes([fixed[44], fixed[45]]));
        let length = usize::from(u16::from_le_bytes([fixed[46], fixed[47]]));
        let (name, rest) = rest.split_at_checked(length + 1)?;
        let name = CStr::from_bytes_with_nul(name).ok()?;
        let plain = !name.is_empty() && !name.to_bytes().contains(&b'/') && name != c"..";
        plain.then_some((Record { stamp, depth, name, at: 0 }, rest))
    }
}
