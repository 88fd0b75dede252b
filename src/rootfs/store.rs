//! The store: files that the trees of one state directory share as hard links.
//!
//! ```text
//! STATE/store/
//!     objects/SHA256-MODE-MTIME   one inode each, named by all that makes it; read-only
//!     objects/link-SHA256-MTIME   a symbolic link, by the digest of its target
//!     ledger                      the stamp of each object, as jailmk last left it, see ledger.rs
//!     sources                     digests of host files by inode, see sources.rs
//! ```
//!
//! A file system that can clone (FICLONE) needs none of this: there every tree has inodes of its own that
//! share blocks with the host's files. Where it cannot, a file is copied once, and every later tree gets a
//! link. The host's own files are never linked, and trees outside the state (`--output`) are never made of
//! links: their owner may edit them.
//!
//! **What sharing must not cost.** A seal knows a file by its change time, which only the kernel sets. But
//! link(2) and unlink(2) move the change time of the inode, for all trees that share it. So jailmk writes
//! down what its own links did: whoever links or unlinks holds the store's lock, looks whether the object
//! is as the ledger has it, does the call, and enters the new time. A seal that finds nothing but the
//! change time of a file to differ asks the ledger, and only where that disagrees too (somebody else
//! removed a tree, a build was killed, or the file was changed) the content is read and its digest compared
//! with the lock ([`Store::confirm`]). An object whose stamp is not in the ledger is treated the same: a
//! damaged one is thrown away and never linked again.
//!
//! `enter` waits for the lock only where a file is linked again and again while it reads it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstat, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};
use sha2::{Digest as _, Sha256};

use super::ledger::{Ledger, Object, Stamp};
use super::sources::Sources;
use super::verify::digest;
use super::write::Tally;
use super::{RootfsError, State, directory, failed};
use crate::manifest::lock::{Content, Hex};
use crate::path::HostPath;
use crate::sys::attributes::gives_rights;

/// How often a file is read whose time of change moves while it is read.
const READS: usize = 16;
const OWN: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// An opened store.
#[derive(Debug)]
pub(super) struct Store {
    path: HostPath,
    directory: OwnedFd,
    objects: OwnedFd,
}

/// What the store has of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nothing, or something damaged.
    Absent,
    /// It, as the ledger says.
    AsEntered,
    /// It, with this stamp when it was read.
    Read(Stamp),
}

/// What reading a file again gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmed {
    /// It has the content that it should have, and had this stamp when it was read.
    Right(Stamp),
    /// It has not.
    Wrong,
    /// Its time of change moved whenever it was read: other processes of jailmk link it, or somebody writes.
    Moving,
}

/// What came of an attempt to share a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shared {
    /// The name is a link to the object.
    Yes,
    /// There is no such object, or it was damaged, or it has as many links as it can have.
    Absent,
    /// This file system has no links, or not for us.
    Unable,
}

impl Store {
    /// Opens the store of `state`, made if there is none.
    pub(super) fn open(state: &State) -> Result<Store, RootfsError> {
        let path = state.path().join("store");
        let make = |parent: BorrowedFd<'_>, name: &CStr| match mkdirat(parent, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => directory::open_to_read(parent, name),
            Err(errno) => Err(errno),
        };
        let directory = make(state.fd(), c"store").map_err(failed("make", &path))?;
        let objects = make(directory.as_fd(), c"objects").map_err(failed("make", &path.join("objects")))?;
        Ok(Store { path, directory, objects })
    }

    /// The ledger of the state that the generation belongs to.
    pub(super) fn ledger_of_generation(generation: BorrowedFd<'_>) -> Result<Ledger, Errno> {
        directory::read_file(of_generation(generation)?.as_fd(), c"ledger").map(Ledger::parse)
    }

    /// The objects, as they are now for whoever does not hold the lock.
    pub(super) fn ledger(&self) -> Ledger {
        Ledger::parse(directory::read_file(self.directory.as_fd(), c"ledger").unwrap_or_default())
    }

    /// The digests of host files.
    pub(super) fn sources(&self) -> Sources {
        Sources::parse(directory::read_file(self.directory.as_fd(), c"sources").unwrap_or_default())
    }

    /// Waits until no other process changes the store.
    pub(super) fn lock(&self) -> Result<Locked<'_>, RootfsError> {
        let fd = directory::open_to_read(self.directory.as_fd(), c".").map_err(failed("open", &self.path))?;
        let held = Flock::lock(fd, FlockArg::LockExclusive)
            .map_err(|(_, errno)| failed("lock", &self.path)(errno))?;
        Ok(Locked {
            store: self,
            ledger: self.ledger(),
            changes: BTreeMap::new(),
            linked: HashSet::new(),
            by_inode: None,
            freed: Tally::default(),
            _held: held,
        })
    }

    /// Makes `name` in `parent` a symbolic link to `target` with the time `modified`, sharing its inode.
    ///
    /// No lock and no ledger: where a link points is fixed when its inode is made, so there is nothing that
    /// could be damaged; seals leave the time of change of links out.
    pub(super) fn symlink(
        &self,
        target: &Path,
        modified: &TimeSpec,
        parent: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<(), Errno> {
        let digest: [u8; 32] = Sha256::digest(target.as_os_str().as_bytes()).into();
        let time = super::sources::nanoseconds(modified.tv_sec(), modified.tv_nsec()) as u64;
        let object = format!("link-{}-{time:016x}", Hex(&digest));
        let no_flags = AtFlags::empty();
        if linkat(&self.objects, object.as_str(), parent, name, no_flags).is_ok() {
            if readlinkat(parent, name).is_ok_and(|there| there == target.as_os_str()) {
                return Ok(());
            }
            unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
        }
        make_symlink(target, modified, parent, name)?;
        // None was there, or it has all the links that it can have, or it is not what it should be. What
        // cannot be shared is a link of its own.
        let _ = unlinkat(&self.objects, object.as_str(), UnlinkatFlags::NoRemoveDir);
        let _ = linkat(parent, name, &self.objects, object.as_str(), no_flags);
        Ok(())
    }

    /// Whether the store has the object, as far as can be told without the lock: `ledger` may be behind. One
    /// that the ledger has otherwise is read, and the stamp that it was read with returned.
    pub(super) fn look(
        &self,
        object: &Object,
        ledger: &Ledger,
        buffer: &mut Vec<u8>,
    ) -> Result<Presence, Errno> {
        let Some(expected) = ledger.get(object) else { return Ok(Presence::Absent) };
        let name = object.name();
        let stat = match fstatat(&self.objects, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(Presence::Absent),
            other => other?,
        };
        if !object.fits(&stat) {
            return Ok(Presence::Absent);
        }
        if Stamp::of(&stat) == expected {
            return Ok(Presence::AsEntered);
        }
        let content = Content { sha256: object.sha256, size: stat.st_size as u64 };
        match Store::confirm(self.objects.as_fd(), name.as_ref(), &stat, &content, buffer) {
            Ok(Confirmed::Right(stamp)) => Ok(Presence::Read(stamp)),
            Ok(Confirmed::Wrong | Confirmed::Moving) => Ok(Presence::Absent),
            // Removed since, by a gc or by a build that found it damaged.
            Err(Errno::ENOENT) => Ok(Presence::Absent),
            Err(errno) => Err(errno),
        }
    }

    /// Waits until no other process changes the store of the state that the generation belongs to, and lets none
    /// until the descriptor is closed.
    pub(super) fn still(generation: BorrowedFd<'_>) -> Result<Flock<OwnedFd>, Errno> {
        Flock::lock(of_generation(generation)?, FlockArg::LockShared).map_err(|(_, errno)| errno)
    }

    /// Reads the whole file `name` in `parent`, of which only the time of change may differ from `seen`: whether
    /// it has the content that it should have, and no rights that its mode does not show.
    pub(super) fn confirm(
        parent: BorrowedFd<'_>,
        name: &OsStr,
        seen: &FileStat,
        content: &Content,
        buffer: &mut Vec<u8>,
    ) -> Result<Confirmed, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(parent, name, flags, Mode::empty())?);
        let kept = |stat: &FileStat| {
            (stat.st_dev, stat.st_ino, stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size)
                == (seen.st_dev, seen.st_ino, seen.st_mode, seen.st_uid, seen.st_gid, seen.st_size)
                && (stat.st_mtime, stat.st_mtime_nsec) == (seen.st_mtime, seen.st_mtime_nsec)
        };
        buffer.resize(super::copy::BUFFER, 0);
        for _ in 0..READS {
            let before = fstat(&file)?;
            if !kept(&before) || before.st_size as u64 != content.size || gives_rights(file.as_fd())? {
                return Ok(Confirmed::Wrong);
            }
            if digest(&file, content.size, buffer)? != content.sha256 {
                return Ok(Confirmed::Wrong);
            }
            let after = fstat(&file)?;
            if kept(&after) && Stamp::of(&before) == Stamp::of(&after) {
                return Ok(Confirmed::Right(Stamp::of(&after)));
            }
            // Another build has linked it meanwhile, or somebody writes.
            file.seek(SeekFrom::Start(0)).map_err(directory::errno)?;
        }
        Ok(Confirmed::Moving)
    }
}

/// The store while no other process changes it.
pub(super) struct Locked<'a> {
    store: &'a Store,
    ledger: Ledger,
    /// Found right and linked by us since the lock was taken: their stamps moved by that.
    linked: HashSet<Object>,
    /// `None` for an object that is gone.
    changes: BTreeMap<Object, Option<Stamp>>,
    by_inode: Option<HashMap<u64, Object>>,
    freed: Tally,
    /// Held, not read.
    _held: Flock<OwnedFd>,
}

impl Locked<'_> {
    fn stamp(&self, object: &Object) -> Option<Stamp> {
        self.changes.get(object).copied().unwrap_or_else(|| self.ledger.get(object))
    }

    /// Whether the object may be linked: it is as the ledger says, or its content is still right. One that
    /// is not is thrown away.
    fn trusted(&mut self, object: &Object, read: Option<Stamp>) -> Result<bool, Errno> {
        let name = object.name();
        let objects = self.store.objects.as_fd();
        let stat = match fstatat(objects, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::ENOENT) => {
                self.changes.insert(*object, None);
                return Ok(false);
            }
            Err(errno) => return Err(errno),
        };
        let fits = object.fits(&stat);
        let found = Some(Stamp::of(&stat));
        if fits && (self.linked.contains(object) || self.stamp(object) == found || read == found) {
            return Ok(true);
        }
        let content = Content { sha256: object.sha256, size: stat.st_size as u64 };
        let confirm = || Store::confirm(objects, name.as_ref(), &stat, &content, &mut Vec::new());
        if fits && matches!(confirm()?, Confirmed::Right(_)) {
            return Ok(true);
        }
        self.forget(object)?;
        Ok(false)
    }

    /// Takes the object out of the store; trees that have it keep it.
    fn forget(&mut self, object: &Object) -> Result<(), Errno> {
        self.changes.insert(*object, None);
        self.linked.remove(object);
        match unlinkat(&self.store.objects, object.name().as_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            other => other,
        }
    }

    /// Makes `name` in `parent` a link to the object, which was right when it had the stamp `read`.
    pub(super) fn link(
        &mut self,
        object: &Object,
        read: Option<Stamp>,
        parent: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<Shared, Errno> {
        if !self.trusted(object, read)? {
            return Ok(Shared::Absent);
        }
        match linkat(&self.store.objects, object.name().as_str(), parent, name, AtFlags::empty()) {
            Ok(()) => {
                self.linked.insert(*object);
                Ok(Shared::Yes)
            }
            Err(Errno::EMLINK) => {
                // The next file of this content begins a new object.
                self.forget(object)?;
                Ok(Shared::Absent)
            }
            Err(errno) if cannot_link(errno) => Ok(Shared::Unable),
            Err(errno) => Err(errno),
        }
    }

    /// Makes the finished file `name` in `parent`, which nobody else knows, the object; or replaces it by
    /// a link to the one that is there already.
    pub(super) fn adopt(
        &mut self,
        object: &Object,
        parent: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<Shared, Errno> {
        if self.stamp(object).is_some() && self.trusted(object, None)? {
            // Beside it first: a full disk or a full inode must not cost the file that is there.
            match self.replace_by_link(object, parent, name) {
                Ok(Shared::Absent) => {}
                other => return other,
            }
        }
        for _ in 0..2 {
            let object_name = object.name();
            match linkat(parent, name, &self.store.objects, object_name.as_str(), AtFlags::empty()) {
                Ok(()) => {
                    self.linked.insert(*object);
                    return Ok(Shared::Yes);
                }
                // One that the ledger does not know: a build was killed before it could say so.
                Err(Errno::EEXIST) => {
                    if self.trusted(object, None)? {
                        return self.replace_by_link(object, parent, name);
                    }
                }
                Err(errno) if cannot_link(errno) || errno == Errno::EMLINK => return Ok(Shared::Unable),
                Err(errno) => return Err(errno),
            }
        }
        Ok(Shared::Unable)
    }

    fn replace_by_link(
        &mut self,
        object: &Object,
        parent: BorrowedFd<'_>,
        name: &OsStr,
    ) -> Result<Shared, Errno> {
        let fresh = format!(".jailmk-{}", super::staging::unique());
        match self.link(object, None, parent, fresh.as_ref())? {
            Shared::Yes => {
                nix::fcntl::renameat(parent, fresh.as_str(), parent, name)?;
                Ok(Shared::Yes)
            }
            other => Ok(other),
        }
    }

    /// The stamp that the object has after all that was done.
    pub(super) fn enter(&mut self, object: Object, stat: &FileStat) {
        if object.fits(stat) {
            self.changes.insert(object, Some(Stamp::of(stat)));
        }
    }

    /// Removes the file `name` from `parent`; if it is an object's link, the ledger stays right.
    pub(super) fn unlink(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let before = fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
        if before.st_nlink < 2 || before.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            self.free(&before);
            return Ok(());
        }
        let ledger = &self.ledger;
        let by_inode = self.by_inode.get_or_insert_with(|| ledger.by_inode());
        let Some(object) = by_inode.get(&before.st_ino).copied() else { return Ok(()) };
        // One that was changed must not be made right by its removal.
        if self.stamp(&object) != Some(Stamp::of(&before)) {
            return Ok(());
        }
        let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
        if let Ok(after) = fstatat(&self.store.objects, object.name().as_str(), flags)
            && after.st_ino == before.st_ino
        {
            self.enter(object, &after);
        }
        Ok(())
    }

    fn free(&mut self, stat: &FileStat) {
        if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() {
            self.freed.add_blocks(stat);
        }
    }

    /// Files whose last name was removed, and the room that they took.
    pub(super) fn freed(&self) -> Tally {
        self.freed
    }

    /// Calls `visit` with what each object of the store is on the disk.
    pub(super) fn each(&self, mut visit: impl FnMut(&FileStat)) -> Result<(), Errno> {
        for name in directory::names(self.store.objects.as_fd())? {
            match fstatat(&self.store.objects, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => {}
                other => visit(&other?),
            }
        }
        Ok(())
    }

    /// Removes the objects that are not to be kept.
    pub(super) fn retain(&mut self, keep: impl Fn(&FileStat) -> bool) -> Result<(), Errno> {
        for name in directory::names(self.store.objects.as_fd())? {
            let stat = match fstatat(&self.store.objects, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                Err(Errno::ENOENT) => continue,
                other => other?,
            };
            if keep(&stat) {
                continue;
            }
            unlinkat(&self.store.objects, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?;
            self.free(&stat);
            if let Some(object) = Object::of_name(&name) {
                self.changes.insert(object, None);
            }
        }
        Ok(())
    }

    /// Writes the ledger, and the digests of host files if there are new ones.
    pub(super) fn save(self, sources: Option<Vec<u8>>) -> Result<(), RootfsError> {
        let write = |name: &str, bytes: &[u8]| {
            directory::replace_file(self.store.directory.as_fd(), name.as_ref(), OWN, bytes)
                .map_err(failed("write", &self.store.path.join(name)))
        };
        if let Some(bytes) = sources {
            write("sources", &bytes)?;
        }
        match self.changes.is_empty() {
            true => Ok(()),
            false => write("ledger", &self.ledger.changed(&self.changes)),
        }
    }
}

/// The store of the state that the generation belongs to: STATE/rootfs/NAME/GENERATION.
fn of_generation(generation: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    directory::open_to_read(generation, c"../../../store")
}

/// Makes a symbolic link with a time.
pub(super) fn make_symlink(
    target: &Path,
    modified: &TimeSpec,
    parent: BorrowedFd<'_>,
    name: &OsStr,
) -> Result<(), Errno> {
    symlinkat(target, parent, name)?;
    utimensat(parent, name, modified, modified, UtimensatFlags::NoFollowSymlink)
}

/// What link(2) says where links cannot be had: other file systems, none at all, or a rule against them.
fn cannot_link(errno: Errno) -> bool {
    matches!(errno, Errno::EXDEV | Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EACCES)
}

/// The object that a finished file of a tree would be.
pub(super) fn object(content: &Content, mode: u32, modified: &TimeSpec) -> Object {
    let modified = super::sources::nanoseconds(modified.tv_sec(), modified.tv_nsec());
    Object { sha256: content.sha256, mode, modified }
}
