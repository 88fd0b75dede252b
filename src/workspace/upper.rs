//! Taking entries out of the upper layer while no jail runs, so that the jail's view of everything else stays
//! as it is.
//!
//! The kernel reads the upper layer anew when the next overlay is mounted; what it finds there must be a
//! state that it could have made itself (kernel document filesystems/overlayfs).

use std::cell::RefCell;
use std::collections::HashSet;
use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{RenameFlags, renameat, renameat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmod, fchmodat, fstat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, geteuid, unlinkat};

use super::journal::{Journal, Record, Stamp};
use super::path::WorkPath;
use super::tree::{self, Node, Tree};
use crate::rootfs::{directory, staging};
use crate::sys::xattr;

const TRASH: &str = "trash";

/// The upper layer beside the host's tree and the journal.
pub struct Upper<'a> {
    /// What the jail wrote.
    pub upper: &'a Tree,
    /// What it was written over.
    pub host: &'a Tree,
    /// Where trash goes.
    pub session: BorrowedFd<'a>,
    /// Directories that hide nothing, nor does anything above them.
    pub clear: RefCell<HashSet<WorkPath>>,
}

/// What [`Upper`] needs of the journal before it changes what a directory hides.
pub type Save<'a> = &'a dyn Fn(&Journal) -> Result<(), Errno>;

impl Upper<'_> {
    /// Takes the entry of `path` out, with all below it: the jail then sees what the host has there.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn remove(&self, path: &WorkPath, journal: &mut Journal, save: Save<'_>) -> Result<(), Errno> {
        let parent = path.parent().ok_or(Errno::EINVAL)?;
        self.reveal(&parent, Some(path), journal, save)?;
        match present(self.upper.open_directory(&parent))? {
            Some(directory) => remove_in(directory.as_fd(), path.name(), self.session),
            None => Ok(()),
        }
    }

    /// Ends what hides the host's side of a directory: opaque directories, itself or above it, and whiteouts
    /// of them. What else they hid stays hidden, but for `except`.
    fn reveal(
        &self,
        directory: &WorkPath,
        except: Option<&WorkPath>,
        journal: &mut Journal,
        save: Save<'_>,
    ) -> Result<(), Errno> {
        let mut on_the_way = Vec::new();
        let mut here = Some(directory.clone());
        while let Some(above) =
            here.filter(|above| *above != WorkPath::top() && !self.clear.borrow().contains(above))
        {
            here = above.parent();
            on_the_way.push(above);
        }
        on_the_way.reverse();
        let mut spread = false;
        for (index, directory) in on_the_way.iter().enumerate() {
            let next = on_the_way.get(index + 1).or(except);
            match self.upper.status(directory)? {
                Some(stat) if Node::of(&stat) == Node::Directory => {
                    spread |= self.show(directory, next, journal, save)?;
                    self.clear.borrow_mut().insert(directory.clone());
                }
                Some(stat) if tree::is_whiteout(&stat) => {
                    self.spread(directory, next, journal, save)?;
                    spread = true;
                }
                None if spread => self.spread(directory, next, journal, save)?,
                _ => return Ok(()),
            }
        }
        Ok(())
    }

    /// Makes an opaque directory one that shows what the host has below it, and hides each name that it hid
    /// by a whiteout of its own; all but `except`, which is on its way out. Says whether it was opaque.
    ///
    /// # Errors
    /// As mknodat(2) and fsetxattr(2).
    pub fn show(
        &self,
        path: &WorkPath,
        except: Option<&WorkPath>,
        journal: &mut Journal,
        save: Save<'_>,
    ) -> Result<bool, Errno> {
        let upper = self.upper.open_directory(path)?;
        if !tree::is_opaque(upper.as_fd())? {
            return Ok(false);
        }
        let known = journal.get(path);
        // What came to the host after the jail made its directory was never hidden by intention.
        let hid = !matches!(known, Some(Record { before: None, .. }));
        if let Some(host) = &present(self.host.open_directory(path))? {
            self.hide_each(&upper, host, path, except, known.filter(|_| hid), journal, save)?;
        }
        let _ = fchmod(&upper, Mode::from_bits_truncate(fstat(&upper)?.st_mode) | Mode::S_IRWXU);
        match xattr::remove(upper.as_fd(), tree::OPAQUE) {
            Ok(()) | Err(Errno::ENODATA) => Ok(true),
            Err(errno) => Err(errno),
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `show`, which it is only called by")]
    fn hide_each(
        &self,
        upper: &OwnedFd,
        host: &OwnedFd,
        path: &WorkPath,
        except: Option<&WorkPath>,
        known: Option<Record>,
        journal: &mut Journal,
        save: Save<'_>,
    ) -> Result<(), Errno> {
        let mut whiteouts = Vec::new();
        for name in tree::names(host.as_fd())? {
            let name = tree::os(&name);
            let child = path.child(name);
            let Some(there) = tree::status_in(host.as_fd(), name)? else { continue };
            match tree::status_in(upper.as_fd(), name)? {
                // Hidden by its parent until now, and from now on by itself.
                Some(here) if Node::of(&here) == Node::Directory && Node::of(&there) == Node::Directory => {
                    let directory = self.upper.open_directory(&child)?;
                    xattr::set(directory.as_fd(), tree::OPAQUE, b"y")?;
                }
                Some(_) => {}
                None if except == Some(&child) => {}
                None => {
                    let Some(record) = known else { continue };
                    let before = Some(Stamp::of(&there));
                    journal.note(&child, || Record::new(record.since, before));
                    whiteouts.push(child);
                }
            }
        }
        if !whiteouts.is_empty() {
            // ORDER: written down before it is done; done first, it would look like a fresh change.
            save(journal)?;
        }
        for child in whiteouts {
            whiteout(upper.as_fd(), child.name())?;
        }
        Ok(())
    }

    /// Puts a directory that hides each name but `except` where a whiteout hid them all, or where nothing
    /// hides them any more.
    ///
    /// # Errors
    /// As mknodat(2) and renameat2(2).
    fn spread(
        &self,
        path: &WorkPath,
        except: Option<&WorkPath>,
        journal: &mut Journal,
        save: Save<'_>,
    ) -> Result<(), Errno> {
        let parent = self.upper.open_directory(&path.parent().ok_or(Errno::EINVAL)?)?;
        let host = self.host.open_directory(path)?;
        let trash = make(self.session, TRASH)?;
        let name = staging::unique();
        let mode = Mode::from_bits_truncate(fstat(&host)?.st_mode & 0o777) | Mode::S_IRWXU;
        mkdirat(&trash, name.as_str(), mode)?;
        let fresh = directory::open_to_read(trash.as_fd(), name.as_str())?;
        fchmod(&fresh, mode)?;
        let owner = fstat(&parent)?;
        own(fresh.as_fd(), &owner)?;
        let known = journal.get(path);
        for child in tree::names(host.as_fd())? {
            let child = path.child(tree::os(&child));
            if Some(&child) == except {
                continue;
            }
            if let (Some(record), Ok(Some(there))) = (known, tree::status_in(host.as_fd(), child.name())) {
                journal.note(&child, || Record::new(record.since, Some(Stamp::of(&there))));
            }
            whiteout(fresh.as_fd(), child.name())?;
        }
        save(journal)?;
        let flags = match tree::status_in(parent.as_fd(), path.name())? {
            Some(_) => RenameFlags::RENAME_EXCHANGE,
            None => RenameFlags::RENAME_NOREPLACE,
        };
        renameat2(&trash, name.as_str(), &parent, path.name(), flags)
    }

    /// Takes a directory out that says nothing any more.
    ///
    /// # Errors
    /// As unlinkat(2).
    pub fn prune(&self, path: &WorkPath, journal: &mut Journal, save: Save<'_>) -> Result<(), Errno> {
        let Some(parent) = path.parent() else { return Ok(()) };
        let (Some(upper), Some(host)) =
            (present(self.upper.open_directory(path))?, present(self.host.open_directory(path))?)
        else {
            return Ok(());
        };
        let (jail, there) = (fstat(&upper)?, fstat(&host)?);
        let same = (jail.st_mode | 0o700) & 0o777 == (there.st_mode | 0o700) & 0o777;
        if !same || !tree::names(upper.as_fd())?.is_empty() {
            return Ok(());
        }
        // What it hid gets whiteouts, and what its parent hid as well.
        self.reveal(path, None, journal, save)?;
        if tree::names(upper.as_fd())?.is_empty() {
            let directory = self.upper.open_directory(&parent)?;
            unlinkat(&directory, path.name(), UnlinkatFlags::RemoveDir)?;
        }
        Ok(())
    }
}

/// A directory that may not be there, or be something else by now.
fn present(opened: Result<OwnedFd, Errno>) -> Result<Option<OwnedFd>, Errno> {
    match opened {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// As the owner of the directory beside.
fn own(file: BorrowedFd<'_>, like: &FileStat) -> Result<(), Errno> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    fchown(file, Some(uid), Some(gid))
}

/// Says that a name is gone; anybody may make this one device (mknod(2), Linux 5.8).
fn whiteout(directory: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match mknodat(directory, name, SFlag::S_IFCHR, Mode::empty(), 0) {
        Err(Errno::EEXIST) => Ok(()),
        other => other,
    }
}

fn remove_in(directory: BorrowedFd<'_>, name: &OsStr, session: BorrowedFd<'_>) -> Result<(), Errno> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR | Errno::EPERM) => {
            move_from(directory, name, session)?;
            empty_trash(session)
        }
        Err(Errno::EACCES) => {
            make_writable(directory)?;
            remove_in_writable(directory, name, session)
        }
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

fn remove_in_writable(directory: BorrowedFd<'_>, name: &OsStr, session: BorrowedFd<'_>) -> Result<(), Errno> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR | Errno::EPERM) => {
            move_from(directory, name, session)?;
            empty_trash(session)
        }
        other => other,
    }
}

fn make_writable(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let mode = Mode::from_bits_truncate(fstat(directory)?.st_mode);
    fchmod(directory, mode | Mode::S_IRWXU)
}

/// Moves something of the session away; it counts no more from then on.
///
/// # Errors
/// As renameat(2), but not ENOENT.
pub fn move_to_trash(session: BorrowedFd<'_>, name: &OsStr) -> Result<(), Errno> {
    match move_from(session, name, session) {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

fn move_from(directory: BorrowedFd<'_>, name: &OsStr, session: BorrowedFd<'_>) -> Result<(), Errno> {
    let trash = make(session, TRASH)?;
    match renameat(directory, name, &trash, staging::unique().as_str()) {
        // A directory that moves to another parent must be writable itself.
        Err(Errno::EACCES) => {
            let moved = directory::open(directory, name)?;
            let path = format!("/proc/self/fd/{}", moved.as_raw_fd());
            fchmodat(directory, path.as_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
            make_writable(directory)?;
            renameat(directory, name, &trash, staging::unique().as_str())
        }
        other => other,
    }
}

/// Removes what was moved away. A directory in it is first moved up, so that no depth needs as many open
/// directories, or a path as long.
///
/// # Errors
/// As unlinkat(2) and renameat(2).
pub fn empty_trash(session: BorrowedFd<'_>) -> Result<(), Errno> {
    let trash = match directory::open_to_read(session, TRASH) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other?,
    };
    for_each_name(trash.as_fd(), |name| match unlinkat(&trash, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR | Errno::EPERM) => flatten(trash.as_fd(), name),
        Err(errno) => Err(errno),
    })
}

fn flatten(trash: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    make_passable(trash, name)?;
    let directory = directory::open_to_read(trash, name)?;
    for_each_name(directory.as_fd(), |child| {
        match unlinkat(&directory, child, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(Errno::EISDIR | Errno::EPERM) => {
                make_passable(directory.as_fd(), child)?;
                renameat(&directory, child, trash, staging::unique().as_str())
            }
            Err(errno) => Err(errno),
        }
    })?;
    unlinkat(trash, name, UnlinkatFlags::RemoveDir)
}

/// Takes each name out of a directory. Some at a time: the jail decides how many there are.
fn for_each_name(
    directory: BorrowedFd<'_>,
    mut take_out: impl FnMut(&CStr) -> Result<(), Errno>,
) -> Result<(), Errno> {
    loop {
        let some = directory::some_names(directory, 4096)?;
        if some.is_empty() {
            return Ok(());
        }
        for name in &some {
            take_out(name)?;
        }
    }
}

/// What may not be written cannot be emptied or moved.
fn make_passable(directory: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let place = directory::open(directory, name)?;
    let path = format!("/proc/self/fd/{}", place.as_raw_fd());
    fchmodat(directory, path.as_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)
}

fn make(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => directory::open_to_read(parent, name),
        Err(errno) => Err(errno),
    }
}
