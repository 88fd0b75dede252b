//! One change on the host's side: whole, or not at all.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, geteuid, symlinkat, unlinkat};

use super::apply::Left;
use super::changes::{Change, Conflict, Kind, Never};
use super::content;
use super::journal::Stamp;
use super::pending::{self, Aside, Pending};
use super::session::Session;
use super::tree::{self, Node, Tree};
use crate::rootfs::directory;
use crate::sys::xattr;

/// Writes to the host's tree.
pub(super) struct Placing<'a> {
    /// Whose changes.
    pub session: &'a Session,
    /// The host's tree.
    pub host: &'a Tree,
    /// What the jail wrote.
    pub upper: &'a Tree,
    /// Whether the host's side may be another than the jail saw.
    pub overwrite: bool,
}

impl Placing<'_> {
    /// Makes the host's side what the jail's is, or `part`.
    ///
    /// # Errors
    /// Why it stays as it was.
    pub fn take_over(&self, change: &Change, part: Option<&Vec<u8>>) -> Result<(), Left> {
        let parent = change.path.parent().ok_or(Left::NoDirectory)?;
        let parent = match self.host.open_directory(&parent) {
            Ok(parent) => parent,
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) if change.kind == Kind::Deleted => {
                return Ok(());
            }
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => return Err(Left::NoDirectory),
            Err(Errno::EXDEV) => return Err(Left::Never(Never::Mount)),
            Err(cause) => return Err(Left::Failed { verb: "open the directory of", cause }),
        };
        let parent = parent.as_fd();
        let name = change.path.name();
        let there = self.unchanged(parent, change)?;
        match (change.kind, change.jail.as_deref()) {
            (Kind::Deleted, _) | (_, None) => self.remove(parent, change, there.as_ref()),
            (Kind::Mode, Some(jail)) => set_mode(parent, name, there.as_ref(), jail.st_mode & 0o777),
            (_, Some(jail)) if Node::of(jail) == Node::Directory => {
                if there.as_ref().is_some_and(|there| Node::of(there) != Node::Directory) {
                    self.remove(parent, change, there.as_ref())?;
                }
                self.make_directory(parent, name, jail.st_mode & 0o777 | 0o700)
            }
            (_, Some(jail)) => {
                let mut there = there;
                if there.as_ref().is_some_and(|there| Node::of(there) == Node::Directory) {
                    self.remove(parent, change, there.as_ref())?;
                    there = None;
                }
                self.place(parent, change, jail, there.as_ref(), part)
            }
        }
    }

    /// What the host has there, which must be what it had when the changes were looked at.
    fn unchanged(&self, parent: BorrowedFd<'_>, change: &Change) -> Result<Option<FileStat>, Left> {
        let failed = |cause| Left::Failed { verb: "inspect", cause };
        let now = tree::status_in(parent, change.path.name()).map_err(failed)?;
        let same = match (change.host.as_deref(), &now) {
            (None, None) => true,
            (Some(then), Some(now)) => {
                let (then, now) = (Stamp::of(then), Stamp::of(now));
                // What happens in a directory stamps it.
                then == now || then.node == Node::Directory && then.inode == now.inode
            }
            // Made by ourselves, or as good.
            (None, Some(now)) => {
                Node::of(now) == Node::Directory
                    && change.jail.as_deref().is_some_and(|jail| Node::of(jail) == Node::Directory)
            }
            (Some(_), None) => change.kind == Kind::Deleted,
        };
        match (same, &change.host) {
            (true, _) => Ok(now),
            (false, _) if self.overwrite => Ok(now),
            (false, None) => Err(Conflict::Made.into()),
            (false, Some(_)) if now.is_none() => Err(Conflict::Removed.into()),
            (false, Some(_)) => Err(Conflict::Changed.into()),
        }
    }

    fn remove(&self, parent: BorrowedFd<'_>, change: &Change, there: Option<&FileStat>) -> Result<(), Left> {
        let failed = |cause| Left::Failed { verb: "remove", cause };
        let name = change.path.name();
        let Some(there) = there else { return Ok(()) };
        if Node::of(there) == Node::Directory {
            return match unlinkat(parent, name, UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => Ok(()),
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => Err(Left::NotEmpty),
                Err(Errno::EBUSY) => Err(Left::Never(Never::Mount)),
                Err(cause) => Err(failed(cause)),
            };
        }
        let aside = Aside::new();
        let pending =
            Pending { path: &change.path, aside: &aside, old: Some(Stamp::of(there)), new: Some(0) };
        pending.write(self.session)?;
        match rename_whole(parent, name, aside.name(), RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(cause) => return Err(failed(cause)),
        }
        let displaced = tree::status_in(parent, aside.name()).map_err(failed)?;
        if displaced.is_some_and(|displaced| !Stamp::of(&displaced).is_still(&Stamp::of(there))) {
            rename_whole(parent, aside.name(), name, RenameFlags::RENAME_NOREPLACE).map_err(failed)?;
            return Err(Conflict::Changed.into());
        }
        unlinkat(parent, aside.name(), UnlinkatFlags::NoRemoveDir).map_err(failed)
    }

    fn make_directory(&self, parent: BorrowedFd<'_>, name: &OsStr, mode: u32) -> Result<(), Left> {
        let failed = |cause| Left::Failed { verb: "make", cause };
        match as_owner(self.session.owner, || mkdirat(parent, name, Mode::S_IRWXU)) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Ok(()),
            Err(cause) => return Err(failed(cause)),
        }
        let made = directory::open_to_read(parent, name).map_err(failed)?;
        let now = fstat(&made).map_err(failed)?.st_mode;
        // The set-group-ID bit comes from the directory above.
        fchmod(&made, Mode::from_bits_truncate(now & 0o2000 | mode)).map_err(failed)
    }

    /// Puts a file or link in its place.
    fn place(
        &self,
        parent: BorrowedFd<'_>,
        change: &Change,
        jail: &FileStat,
        there: Option<&FileStat>,
        part: Option<&Vec<u8>>,
    ) -> Result<(), Left> {
        let failed = |verb| move |cause| Left::Failed { verb, cause };
        let name = change.path.name();
        let aside = Aside::new();
        let old = there.map(Stamp::of);
        Pending { path: &change.path, aside: &aside, old, new: None }.write(self.session)?;
        let give_up = |left| {
            let _ = unlinkat(parent, aside.name(), UnlinkatFlags::NoRemoveDir);
            Err(left)
        };
        let made = match Node::of(jail) {
            Node::File => self.copy(parent, change, jail, there, part, aside.name()),
            Node::Symlink => self.link(parent, change, aside.name()),
            _ => return Err(Left::Never(Never::Special)),
        };
        let new = match made {
            Ok(inode) => inode,
            Err(left) => return give_up(left),
        };
        Pending { path: &change.path, aside: &aside, old, new: Some(new) }.write(self.session)?;
        let Some(old) = old else {
            return match rename_whole(parent, aside.name(), name, RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => Ok(()),
                Err(Errno::EEXIST) => give_up(Conflict::Made.into()),
                Err(cause) => give_up(failed("put in place")(cause)),
            };
        };
        match renameat2(parent, aside.name(), parent, name, RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return give_up(Conflict::Removed.into()),
            // A file system that cannot exchange: what was seen a moment ago is replaced.
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                return match renameat(parent, aside.name(), parent, name) {
                    Ok(()) => Ok(()),
                    Err(cause) => give_up(failed("put in place")(cause)),
                };
            }
            Err(cause) => return give_up(failed("put in place")(cause)),
        }
        let displaced = tree::status_in(parent, aside.name()).map_err(failed("inspect"))?;
        if displaced.is_some_and(|displaced| !Stamp::of(&displaced).is_still(&old)) {
            pending::put_back(parent, aside.name(), name, new).map_err(failed("put back"))?;
            return Err(Conflict::Changed.into());
        }
        unlinkat(parent, aside.name(), UnlinkatFlags::NoRemoveDir).map_err(failed("remove"))
    }

    /// Copies the jail's file; returns the copy's inode number.
    fn copy(
        &self,
        parent: BorrowedFd<'_>,
        change: &Change,
        jail: &FileStat,
        there: Option<&FileStat>,
        part: Option<&Vec<u8>>,
        aside: &OsStr,
    ) -> Result<u64, Left> {
        let failed = |verb| move |cause| Left::Failed { verb, cause };
        let source = self.upper.open_file_at(&change.path).map_err(failed("read"))?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut copy =
            File::from(openat(parent, aside, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed("write"))?);
        let written = match part {
            Some(bytes) => copy.write_all(bytes),
            None => content::copy(&source, &copy),
        };
        written.map_err(|error| failed("write")(directory::errno(error)))?;
        let regular = there.filter(|there| Node::of(there) == Node::File);
        self.give(copy.as_fd(), regular)?;
        if regular.is_some() {
            self.keep_attributes(parent, change.path.name(), copy.as_fd());
        }
        fchmod(&copy, Mode::from_bits_truncate(jail.st_mode & 0o777)).map_err(failed("set the mode of"))?;
        fstat(&copy).map(|stat| stat.st_ino).map_err(failed("inspect"))
    }

    /// The owner of the file that is replaced, else of the workspace.
    fn give(&self, copy: BorrowedFd<'_>, there: Option<&FileStat>) -> Result<(), Left> {
        let made = fstat(copy).map_err(|cause| Left::Failed { verb: "inspect", cause })?;
        let (uid, gid) = match there {
            Some(there) => (there.st_uid, there.st_gid),
            None if geteuid().is_root() => self.session.owner,
            None => return Ok(()),
        };
        if (made.st_uid, made.st_gid) == (uid, gid) {
            return Ok(());
        }
        let uid = (made.st_uid != uid).then(|| Uid::from_raw(uid));
        match fchown(copy, uid, Some(Gid::from_raw(gid))) {
            Err(Errno::EPERM | Errno::EINVAL) => Err(Left::Owner),
            other => other.map_err(|cause| Left::Failed { verb: "give away", cause }),
        }
    }

    /// Takes access lists and the like of the replaced file along: never the jail's, and no capabilities.
    fn keep_attributes(&self, parent: BorrowedFd<'_>, name: &OsStr, copy: BorrowedFd<'_>) {
        let Ok(old) = self.host.open_file(parent, name) else { return };
        let mut names = vec![0; 65_536];
        let Ok(length) = xattr::list(old.as_fd(), &mut names) else { return };
        let mut value = vec![0; 65_536];
        for name in names[..length].split_inclusive(|byte| *byte == 0) {
            let wanted = name.starts_with(b"user.") || name.starts_with(b"system.posix_acl_access");
            if let (true, Ok(name)) = (wanted, std::ffi::CStr::from_bytes_with_nul(name))
                && let Ok(length) = xattr::get(old.as_fd(), name, &mut value)
            {
                // A file system that has them no more, as after a remount, is no reason to fail.
                let _ = xattr::set(copy, name, &value[..length]);
            }
        }
    }

    fn link(&self, parent: BorrowedFd<'_>, change: &Change, aside: &OsStr) -> Result<u64, Left> {
        let failed = |verb| move |cause| Left::Failed { verb, cause };
        let target = self.upper.link_target(&change.path).map_err(failed("read"))?;
        as_owner(self.session.owner, || symlinkat(target.as_os_str(), parent, aside))
            .map_err(failed("make"))?;
        let made = tree::status_in(parent, aside).map_err(failed("inspect"))?;
        Ok(made.map_or(0, |stat| stat.st_ino))
    }
}

fn set_mode(parent: BorrowedFd<'_>, name: &OsStr, there: Option<&FileStat>, mode: u32) -> Result<(), Left> {
    let failed = |cause| Left::Failed { verb: "set the mode of", cause };
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(parent, name, flags, Mode::empty()).map_err(failed)?;
    let now = fstat(&file).map_err(failed)?;
    if there.is_none_or(|there| there.st_ino != now.st_ino) || Node::of(&now) == Node::Symlink {
        return Err(Conflict::Changed.into());
    }
    let keep = if Node::of(&now) == Node::Directory { now.st_mode & 0o7000 | 0o700 } else { 0 };
    let link = format!("/proc/self/fd/{}", file.as_raw_fd());
    let mode = Mode::from_bits_truncate(mode | keep);
    fchmodat(parent, link.as_str(), mode, FchmodatFlags::FollowSymlink).map_err(failed)
}

/// rename(2) that replaces nothing; where the file system cannot promise that, what was seen a moment ago
/// holds.
fn rename_whole(
    directory: BorrowedFd<'_>,
    from: &OsStr,
    to: &OsStr,
    flags: RenameFlags,
) -> Result<(), Errno> {
    match renameat2(directory, from, directory, to, flags) {
        Err(Errno::EINVAL | Errno::ENOSYS) => {
            if tree::status_in(directory, to)?.is_some() {
                return Err(Errno::EEXIST);
            }
            renameat(directory, from, directory, to)
        }
        other => other,
    }
}

/// Does something as the owner of the workspace when root does it: what it makes is theirs from the
/// beginning, so that no path is given away by name.
pub(super) fn as_owner<T>(owner: (u32, u32), act: impl FnOnce() -> T) -> T {
    if !geteuid().is_root() || owner == (0, 0) {
        return act();
    }
    let gid = nix::unistd::setfsgid(Gid::from_raw(owner.1));
    let uid = nix::unistd::setfsuid(Uid::from_raw(owner.0));
    let done = act();
    nix::unistd::setfsuid(uid);
    nix::unistd::setfsgid(gid);
    done
}
