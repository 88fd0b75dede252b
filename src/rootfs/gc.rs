//! What the state holds for nothing: trees whose spec is gone, old generations, what killed builds left,
//! objects that no tree links to.

use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, readlinkat};
use nix::sys::stat::{FileStat, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::Serialize;

use super::build::{STAGING, TRASH, guard, is_generation, retire, unused};
use super::state::{Remembered, SPEC};
use super::store::Store;
use super::write::Tally;
use super::{RootfsError, State, directory, failed};
use crate::manifest::lock::{Lock, Locked};
use crate::path::{HostPath, printable};

/// Which trees go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Those that no spec can use any more.
    Orphans,
    /// Those that no jail runs from.
    All,
}

/// Whether anything is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is.
    Real,
    /// It is only told what would be.
    Pretended,
}

/// What became of the trees of one spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// Its newest tree stays, for its spec is there.
    Kept,
    /// Its newest tree stays, for a jail runs from it.
    InUse,
    /// Nobody knows where its spec was: it was built by an older jailmk.
    Unknown,
    /// All its trees are removed.
    Removed,
}

/// The trees of one spec.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trees {
    /// Its directory in the state.
    pub directory: String,
    /// Where the spec is or was.
    pub spec: Option<String>,
    /// What became of the newest tree.
    pub fate: Fate,
    /// Generations removed.
    pub generations: usize,
    /// Generations that stay because jails run from them, beside the newest.
    pub in_use: usize,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Collected {
    /// By spec, sorted by directory.
    pub trees: Vec<Trees>,
    /// Files whose last name is gone, among them the store's objects.
    pub files: usize,
    /// Bytes on the disk that they took.
    pub bytes: u64,
}

impl Collected {
    fn add(&mut self, freed: Tally) {
        self.files += freed.files;
        self.bytes += freed.bytes;
    }
}

/// Removes what is of no use.
///
/// # Errors
/// The state cannot be read or written. What a running jail holds is never touched.
pub fn gc(state: &State, reach: Reach, removal: Removal) -> Result<Collected, RootfsError> {
    let store = Store::open(state)?;
    let mut collected = Collected::default();
    let mut pretended = Pretended::default();
    let path = state.path().join("rootfs");
    match directory::open_to_read(state.fd(), "rootfs") {
        Ok(rootfs) => {
            let mut names = directory::names(rootfs.as_fd()).map_err(failed("read", &path))?;
            names.sort();
            for name in names {
                let directory = match directory::open_to_read(rootfs.as_fd(), name.as_c_str()) {
                    Ok(directory) => directory,
                    Err(Errno::ENOTDIR | Errno::ENOENT) => continue,
                    Err(errno) => return Err(failed("open", &path.join(os(&name)))(errno)),
                };
                let spec = SpecTrees { directory, path: path.join(os(&name)), reach };
                let trees = match removal {
                    Removal::Real => spec.remove(&store, &mut collected)?,
                    Removal::Pretended => spec.pretend(&mut pretended)?,
                };
                let empty = trees.fate == Fate::Removed && trees.in_use == 0;
                collected.trees.push(trees);
                if empty && removal == Removal::Real {
                    remove_empty(&rootfs, &name);
                }
            }
        }
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(failed("open", &path)(errno)),
    }
    let mut held = store.lock()?;
    match removal {
        Removal::Real => {
            // Under the lock nobody else makes links: one name is the store's own.
            held.retain(|stat| stat.st_nlink > 1).map_err(failed("empty", &state.path().join("store")))?;
            collected.add(held.freed());
            let sources = store.sources().without_all_but(&digests(state)?);
            held.save(sources)?;
        }
        Removal::Pretended => {
            held.each(|stat| {
                if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
                    return;
                }
                let gone = pretended.links.get(&stat.st_ino).copied().unwrap_or(0);
                if stat.st_nlink <= gone + 1 {
                    pretended.freed.add_blocks(stat);
                }
            })
            .map_err(failed("read", &state.path().join("store")))?;
            collected.add(pretended.freed);
        }
    }
    Ok(collected)
}

fn os(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

/// The directory of one spec.
struct SpecTrees {
    directory: OwnedFd,
    path: HostPath,
    reach: Reach,
}

impl SpecTrees {
    fn remove(&self, store: &Store, collected: &mut Collected) -> Result<Trees, RootfsError> {
        let directory = self.directory.as_fd();
        let _guard = guard(directory, &self.path)?;
        let mut trees = self.look()?;
        let current = self.current();
        let keep = current.as_deref().filter(|_| trees.fate != Fate::Removed);
        if let (Fate::Removed, Some(current)) = (&trees.fate, &current) {
            match unused(directory, &cstring(current)) {
                Ok(held) => {
                    // ORDER: the link first and while locked: who finds it must find the tree.
                    let _ = unlinkat(directory, "current", UnlinkatFlags::NoRemoveDir);
                    drop(held);
                }
                Err(_) => trees.fate = Fate::InUse,
            }
        }
        let keep = if trees.fate == Fate::InUse { current.as_deref() } else { keep };
        let before = self.generations()?;
        collected.add(retire(directory, keep, store, &[STAGING, TRASH])?);
        let after = self.generations()?;
        trees.generations = before.len().saturating_sub(after.len());
        trees.in_use = after.iter().filter(|name| Some(os(name)) != keep).count();
        Ok(trees)
    }

    fn pretend(&self, pretended: &mut Pretended) -> Result<Trees, RootfsError> {
        let directory = self.directory.as_fd();
        let mut trees = self.look()?;
        let current = self.current();
        for name in self.generations()? {
            let is_current = current.as_deref() == Some(os(&name));
            if is_current && trees.fate != Fate::Removed {
                continue;
            }
            match unused(directory, &name) {
                Ok(_) => {
                    trees.generations += 1;
                    pretended.remove(directory, &name).map_err(failed("read", &self.path.join(os(&name))))?;
                }
                Err(_) if is_current => trees.fate = Fate::InUse,
                Err(_) => trees.in_use += 1,
            }
        }
        for name in directory::names(directory).map_err(failed("read", &self.path))? {
            let is_left = [STAGING, TRASH].iter().any(|p| name.to_bytes().starts_with(p.as_bytes()));
            let free = || {
                let fd = directory::open_to_read(directory, name.as_c_str()).ok()?;
                Flock::lock(fd, FlockArg::LockExclusiveNonblock).ok()
            };
            if is_left && free().is_some() {
                pretended.remove(directory, &name).map_err(failed("read", &self.path.join(os(&name))))?;
            }
        }
        Ok(trees)
    }

    /// What is to become of the newest tree, as far as its spec goes.
    fn look(&self) -> Result<Trees, RootfsError> {
        let text = directory::read_file(self.directory.as_fd(), SPEC).unwrap_or_default();
        let spec = Remembered::parse(&text);
        let fate = match (&spec, self.reach) {
            (_, Reach::All) => Fate::Removed,
            (None, _) => Fate::Unknown,
            (Some(Remembered::BuiltIn(_)), _) => Fate::Kept,
            // Only what is surely not there: it may lie where this user cannot look now.
            (Some(Remembered::File(path)), _) => match std::fs::metadata(path.as_path()) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Fate::Removed,
                Err(error) if error.kind() == io::ErrorKind::NotADirectory => Fate::Removed,
                _ => Fate::Kept,
            },
        };
        let directory = printable(self.path.as_path().file_name().unwrap_or_default()).to_string();
        let spec = spec.map(|spec| spec.to_string());
        Ok(Trees { directory, spec, fate, generations: 0, in_use: 0 })
    }

    fn current(&self) -> Option<std::ffi::OsString> {
        readlinkat(&self.directory, "current").ok().filter(|name| is_generation(name))
    }

    fn generations(&self) -> Result<Vec<CString>, RootfsError> {
        let mut names = directory::names(self.directory.as_fd()).map_err(failed("read", &self.path))?;
        names.retain(|name| is_generation(os(name)));
        Ok(names)
    }
}

fn cstring(name: &OsStr) -> CString {
    CString::new(name.as_bytes()).expect("BUG: a name that the kernel gave has no NUL")
}

/// Removes a spec's directory that holds no tree. No build may be about to use it: those hold `rootfs`.
fn remove_empty(rootfs: &OwnedFd, name: &CStr) {
    let alone = directory::open_to_read(rootfs.as_fd(), ".")
        .and_then(|fd| Flock::lock(fd, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno));
    let Ok(_alone) = alone else { return };
    let Ok(directory) = directory::open_to_read(rootfs.as_fd(), name) else { return };
    let others = |name: &CString| name.as_bytes() != SPEC.as_bytes() && !name.as_bytes().starts_with(b".");
    if !directory::names(directory.as_fd()).is_ok_and(|names| !names.iter().any(others)) {
        return;
    }
    let _ = directory::remove_tree(rootfs.as_fd(), name);
}

/// The digests of every file of every tree that is left.
fn digests(state: &State) -> Result<HashSet<[u8; 32]>, RootfsError> {
    let path = state.path().join("rootfs");
    let mut digests = HashSet::new();
    let Ok(rootfs) = directory::open_to_read(state.fd(), "rootfs") else { return Ok(digests) };
    for spec in directory::names(rootfs.as_fd()).map_err(failed("read", &path))? {
        let Ok(directory) = directory::open(rootfs.as_fd(), spec.as_c_str()) else { continue };
        for name in directory::names(directory.as_fd()).unwrap_or_default() {
            let lock = directory::open(directory.as_fd(), name.as_c_str())
                .and_then(|generation| directory::read_file(generation.as_fd(), "lock"));
            let Ok(lock) = lock.map(|text| Lock::parse(&text)) else { continue };
            // A lock that cannot be read is that of a tree that is built anew anyway.
            let Ok(lock) = lock else { continue };
            digests.extend(lock.entries().iter().filter_map(Locked::content).map(|content| content.sha256));
        }
    }
    Ok(digests)
}

/// What a removal would do.
#[derive(Default)]
struct Pretended {
    /// Names that an inode would lose.
    links: HashMap<u64, u64>,
    freed: Tally,
}

impl Pretended {
    fn remove(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        let stat = match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(()),
            other => other?,
        };
        match stat.st_mode & SFlag::S_IFMT.bits() {
            kind if kind == SFlag::S_IFDIR.bits() => {
                let directory = directory::open_to_read(parent, name)?;
                for child in directory::names(directory.as_fd())? {
                    self.remove(directory.as_fd(), &child)?;
                }
            }
            kind if kind == SFlag::S_IFREG.bits() && stat.st_nlink == 1 => self.freed.add_blocks(&stat),
            kind if kind == SFlag::S_IFREG.bits() => *self.links.entry(stat.st_ino).or_default() += 1,
            _ => {}
        }
        Ok(())
    }
}

impl Tally {
    /// A file, with the room that it takes on the disk.
    pub(super) fn add_blocks(&mut self, stat: &FileStat) {
        self.files += 1;
        self.bytes += stat.st_blocks as u64 * 512;
    }
}
