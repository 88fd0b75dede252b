//! Brings changes over to the host, each path whole or not at all.
//!
//! A file is written beside its place under a name of jailmk's own and then takes the place by one rename(2),
//! which exchanges the two where there is an old file: so it can be seen, after the fact, that the old one was
//! the one that the change was made to, and taken back if not. What was displaced is removed last. The one
//! path under way is in the session's `pending`, from which a later call finishes what a kill cut short.
//!
//! The jail's side is taken out of the upper layer only after the host's side is on the disk.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, fchmod, fchmodat, fstat, mkdirat};
use nix::sys::uio::pwrite;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, geteuid, symlinkat, syncfs, unlinkat};

use super::changes::{Change, Changes, Conflict, Kind, Never};
use super::error::ReviewError;
use super::journal::{Journal, Record, Stamp, Time};
use super::patch::Sides;
use super::path::WorkPath;
use super::policy::{Judgement, Policy};
use super::renames::Renames;
use super::session::Session;
use super::tree::{self, Node, Tree};
use super::upper::Upper;
use crate::rootfs::{directory, staging};
use crate::sys::{clone_file, xattr};

/// Changes whose host side is synced to the disk together.
const BATCH: usize = 512;
const PENDING: &str = "pending";

/// What is taken over.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// At or below these; everything when empty.
    pub paths: Vec<WorkPath>,
    /// Protected paths that are taken over all the same, with what is below them.
    pub protected: Vec<WorkPath>,
    /// Take the jail's side of conflicts.
    pub overwrite: bool,
}

/// What somebody who is asked decides about a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is taken over.
    Whole,
    /// The host's file becomes this; the rest stays a change.
    Part(Vec<u8>),
    /// It stays a change.
    Not,
}

/// Asks about one change.
pub type Ask<'a> = &'a mut dyn FnMut(&Change, &Sides<'_>) -> std::io::Result<Decision>;

/// Why a change was not taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Left {
    /// It is protected.
    #[error("held back: {0}")]
    Held(String),
    /// The host's side is another than the jail saw.
    #[error("conflict: {0}")]
    Conflict(Conflict),
    /// It never is.
    #[error("never applied: {0}")]
    Never(Never),
    /// A directory in which something stays.
    #[error("not empty: something in it stays")]
    NotEmpty,
    /// A directory that it would be in is not there.
    #[error("its directory is not there: it was left as well")]
    NoDirectory,
    /// The owner of the file could not be kept.
    #[error("it belongs to another user, which you cannot give a new file to")]
    Owner,
    /// A system call failed.
    #[error("cannot {verb} it: {}", .cause.desc())]
    Failed {
        /// What was wanted.
        verb: &'static str,
        /// Why.
        cause: Errno,
    },
}

impl Left {
    /// Whether a directory that is not shown says no more by this than what is in it.
    fn is_implied(&self) -> bool {
        matches!(self, Left::Held(_) | Left::NotEmpty)
    }
}

/// What became of the changes.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Taken over, with warnings.
    pub applied: Vec<(Kind, WorkPath, Option<&'static str>)>,
    /// Left where they are.
    pub left: Vec<(Kind, WorkPath, Left)>,
}

/// Takes changes over.
///
/// # Errors
/// The session cannot be used, or the disk fails. What fails for one path is in the outcome.
pub fn apply(
    session: &mut Session,
    policy: &Policy,
    choice: &Choice,
    ask: Option<Ask<'_>>,
) -> Result<Outcome, ReviewError> {
    session.lock_to("apply")?;
    let (upper, host) = (session.upper()?, session.host()?);
    let mut changes = session.changes()?;
    let judgements = policy.judge(&mut changes, &upper, &host);
    let mut selected = select(&changes, &judgements, choice)?;
    let mut parts = BTreeMap::new();
    if let Some(ask) = ask {
        let renames = Renames::default();
        let sides = Sides { upper: &upper, host: &host, renames: &renames };
        decide(&mut selected, &mut parts, choice, &sides, ask)?;
    }
    session.mark_unaccounted()?;
    let work = Work::new(session, &upper, &host, choice.overwrite);
    let mut journal = session.journal()?;
    let mut outcome = Outcome::default();
    let mut partly = Vec::new();
    // ORDER: what must go before what takes its place; of the former, what is inside first.
    let gone = selected.iter().rev().filter(|(change, _)| change.kind == Kind::Deleted);
    let rest = selected.iter().filter(|(change, _)| change.kind != Kind::Deleted);
    let order: Vec<_> = gone.chain(rest).collect();
    for batch in order.chunks(BATCH) {
        let mut done = Vec::new();
        for (change, judgement) in batch {
            let left = refusal(change, judgement, choice)
                .map_or_else(|| work.take_over(change, parts.get(&change.path)), Err);
            match left {
                Ok(()) => {
                    match parts.contains_key(&change.path) {
                        true => partly.push(&change.path),
                        false => done.push(*change),
                    }
                    if change.is_shown() {
                        outcome.applied.push((change.kind, change.path.clone(), judgement.warning));
                    }
                }
                Err(left) if change.is_shown() || !left.is_implied() => {
                    outcome.left.push((change.kind, change.path.clone(), left));
                }
                Err(_) => {}
            }
        }
        syncfs(host.top()).map_err(|cause| session.failed("sync", "the workspace", cause))?;
        work.drop_entries(&done, &mut journal)?;
    }
    // What is left of them is a change of the file as it is now.
    for path in partly {
        let before = host.status(path).ok().flatten().as_ref().map(Stamp::of);
        journal.put(path, Record { since: Time::now(), before });
    }
    session.save(&journal)?;
    work.prune(selected.iter().map(|(change, _)| &change.path), &mut journal)?;
    session.account()?;
    outcome.applied.sort_by(|a, b| a.1.cmp(&b.1));
    outcome.left.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(outcome)
}

/// Drops changes: the jail then sees what the host has there.
///
/// # Errors
/// The session cannot be used; nothing was changed at or below one of the paths.
pub fn discard(session: &mut Session, chosen: &[WorkPath]) -> Result<Vec<(Kind, WorkPath)>, ReviewError> {
    session.lock_to("discard")?;
    let changes = session.changes()?.choose(chosen)?;
    session.mark_unaccounted()?;
    let (upper, host) = (session.upper()?, session.host()?);
    let work = Work::new(session, &upper, &host, false);
    let mut journal = session.journal()?;
    let mut dropped = Vec::new();
    let mut above: Option<&WorkPath> = None;
    for change in changes.iter() {
        // With an entry goes what is below it.
        if above.is_none_or(|above| !change.path.is_within(above)) {
            work.drop_entry(&change.path, &mut journal)?;
            above = Some(&change.path);
        }
        if change.is_shown() {
            dropped.push((change.kind, change.path.clone()));
        }
    }
    work.prune(changes.iter().map(|change| &change.path), &mut journal)?;
    session.account()?;
    Ok(dropped)
}

/// Takes out of the upper layer what the host has anyway.
///
/// # Errors
/// A tree cannot be read, or the upper layer not be changed.
pub(super) fn drop_idle(session: &Session) -> Result<(), ReviewError> {
    let (upper, host) = (session.upper()?, session.host()?);
    let mut journal = session.journal()?;
    let work = Work::new(session, &upper, &host, false);
    let idle = session.changes()?.idle;
    for path in &idle {
        work.drop_entry(path, &mut journal)?;
    }
    work.prune(idle.iter(), &mut journal)
}

/// Asks about each change that can be taken over; a new directory comes along where something in it does.
fn decide<'a>(
    selected: &mut Vec<(&'a Change, &'a Judgement)>,
    parts: &mut BTreeMap<WorkPath, Vec<u8>>,
    choice: &Choice,
    sides: &Sides<'_>,
    ask: Ask<'_>,
) -> Result<(), ReviewError> {
    let mut taken: BTreeSet<WorkPath> = BTreeSet::new();
    for (change, judgement) in selected.iter() {
        if !change.is_shown() || refusal(change, judgement, choice).is_some() {
            continue;
        }
        match ask(change, sides).map_err(ReviewError::Output)? {
            Decision::Not => continue,
            Decision::Whole => {}
            Decision::Part(bytes) => drop(parts.insert(change.path.clone(), bytes)),
        }
        taken.extend(change.path.parents());
        taken.insert(change.path.clone());
    }
    selected.retain(|(change, judgement)| match change.is_shown() {
        true => taken.contains(&change.path) || refusal(change, judgement, choice).is_some(),
        false => taken.contains(&change.path),
    });
    Ok(())
}

/// The chosen changes, and the new directories on the way to them.
fn select<'a>(
    changes: &'a Changes,
    judgements: &'a [Judgement],
    choice: &Choice,
) -> Result<Vec<(&'a Change, &'a Judgement)>, ReviewError> {
    for path in choice.paths.iter().chain(&choice.protected) {
        if !changes.iter().any(|change| change.path.is_within(path)) {
            return Err(ReviewError::Unchanged { path: path.clone() });
        }
    }
    let chosen = |path: &WorkPath| {
        choice.paths.is_empty()
            || choice.paths.iter().any(|chosen| path.is_within(chosen) || chosen.is_within(path))
    };
    let is_way = |change: &Change| {
        // Above a chosen path only what it needs.
        choice.paths.is_empty()
            || choice.paths.iter().any(|chosen| change.path.is_within(chosen))
            || matches!(change.kind, Kind::Added | Kind::Type) && change.node() == Node::Directory
    };
    Ok(changes.iter().zip(judgements).filter(|(change, _)| chosen(&change.path) && is_way(change)).collect())
}

fn refusal(change: &Change, judgement: &Judgement, choice: &Choice) -> Option<Left> {
    if let Some(never) = change.never {
        return Some(Left::Never(never));
    }
    if let Some(held) = &judgement.held
        && !choice.protected.iter().any(|path| change.path.is_within(path))
    {
        return Some(Left::Held(held.clone()));
    }
    change.conflict.filter(|_| !choice.overwrite).map(Left::Conflict)
}

struct Work<'a> {
    session: &'a Session,
    host: &'a Tree,
    upper: Upper<'a>,
    overwrite: bool,
}

impl<'a> Work<'a> {
    fn new(session: &'a Session, upper: &'a Tree, host: &'a Tree, overwrite: bool) -> Work<'a> {
        Work {
            session,
            host,
            upper: Upper { upper, host, session: session.fd(), clear: RefCell::default() },
            overwrite,
        }
    }

    fn take_over(&self, change: &Change, part: Option<&Vec<u8>>) -> Result<(), Left> {
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
        match (change.kind, &change.jail) {
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
        let same = match (&change.host, &now) {
            (None, None) => true,
            (Some(then), Some(now)) => {
                let (then, now) = (Stamp::of(then), Stamp::of(now));
                // What happens in a directory stamps it.
                then == now || then.node == Node::Directory && then.inode == now.inode
            }
            // Made by ourselves, or as good.
            (None, Some(now)) => {
                Node::of(now) == Node::Directory
                    && change.jail.is_some_and(|jail| Node::of(&jail) == Node::Directory)
            }
            (Some(_), None) => change.kind == Kind::Deleted,
        };
        match (same, &change.host) {
            (true, _) => Ok(now),
            (false, _) if self.overwrite => Ok(now),
            (false, None) => Err(Left::Conflict(Conflict::Made)),
            (false, Some(_)) if now.is_none() => Err(Left::Conflict(Conflict::Removed)),
            (false, Some(_)) => Err(Left::Conflict(Conflict::Changed)),
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
            Pending { path: &change.path, aside: &aside.0, old: Some(Stamp::of(there)), new: Some(0) };
        self.pending(&pending)?;
        match rename_whole(parent, name, aside.name(), RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return Ok(()),
            Err(cause) => return Err(failed(cause)),
        }
        let displaced = tree::status_in(parent, aside.name()).map_err(failed)?;
        if displaced.is_some_and(|displaced| !Stamp::of(&displaced).is_still(&Stamp::of(there))) {
            rename_whole(parent, aside.name(), name, RenameFlags::RENAME_NOREPLACE).map_err(failed)?;
            return Err(Left::Conflict(Conflict::Changed));
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
        self.pending(&Pending { path: &change.path, aside: &aside.0, old, new: None })?;
        let made = match Node::of(jail) {
            Node::File => self.copy(parent, change, jail, there, part, aside.name()),
            Node::Symlink => self.link(parent, change, aside.name()),
            _ => return Err(Left::Never(Never::Special)),
        };
        let new = match made {
            Ok(inode) => inode,
            Err(left) => {
                let _ = unlinkat(parent, aside.name(), UnlinkatFlags::NoRemoveDir);
                return Err(left);
            }
        };
        self.pending(&Pending { path: &change.path, aside: &aside.0, old, new: Some(new) })?;
        let give_up = |left| {
            let _ = unlinkat(parent, aside.name(), UnlinkatFlags::NoRemoveDir);
            Err(left)
        };
        let Some(old) = old else {
            return match rename_whole(parent, aside.name(), name, RenameFlags::RENAME_NOREPLACE) {
                Ok(()) => Ok(()),
                Err(Errno::EEXIST) => give_up(Left::Conflict(Conflict::Made)),
                Err(cause) => give_up(failed("put in place")(cause)),
            };
        };
        match renameat2(parent, aside.name(), parent, name, RenameFlags::RENAME_EXCHANGE) {
            Ok(()) => {}
            Err(Errno::ENOENT) => return give_up(Left::Conflict(Conflict::Removed)),
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
            renameat2(parent, aside.name(), parent, name, RenameFlags::RENAME_EXCHANGE)
                .map_err(failed("put back"))?;
            return give_up(Left::Conflict(Conflict::Changed));
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
        let above = change.path.parent().ok_or(Left::NoDirectory)?;
        let directory = self.upper.upper.open_directory(&above).map_err(failed("read"))?;
        let mut source =
            self.upper.upper.open_file(directory.as_fd(), change.path.name()).map_err(failed("read"))?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut copy =
            File::from(openat(parent, aside, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed("write"))?);
        let written = match part {
            Some(bytes) => copy.write_all(bytes),
            None if clone_file::clone_file(&source, &copy).is_ok() => Ok(()),
            None => std::io::copy(&mut source, &mut copy).map(drop),
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
        let above = change.path.parent().ok_or(Left::NoDirectory)?;
        let directory = self.upper.upper.open_directory(&above).map_err(failed("read"))?;
        let target = tree::target(directory.as_fd(), change.path.name()).map_err(failed("read"))?;
        as_owner(self.session.owner, || symlinkat(target.as_os_str(), parent, aside))
            .map_err(failed("make"))?;
        let made = tree::status_in(parent, aside).map_err(failed("inspect"))?;
        Ok(made.map_or(0, |stat| stat.st_ino))
    }

    fn pending(&self, pending: &Pending<'_>) -> Result<(), Left> {
        let failed = |cause| Left::Failed { verb: "write down what happens to", cause };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file =
            openat(self.session.fd(), PENDING, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
        let bytes = pending.bytes();
        match pwrite(&file, &bytes, 0).map_err(failed)? {
            length if length == bytes.len() => Ok(()),
            _ => Err(failed(Errno::ENOSPC)),
        }
    }

    /// Takes what the host has now out of the upper layer.
    fn drop_entries(&self, done: &[&Change], journal: &mut Journal) -> Result<(), ReviewError> {
        for change in done {
            let is_directory = change.jail.is_some_and(|jail| Node::of(&jail) == Node::Directory);
            if change.own_entry && !is_directory {
                self.drop_entry(&change.path, journal)?;
            }
        }
        Ok(())
    }

    fn drop_entry(&self, path: &WorkPath, journal: &mut Journal) -> Result<(), ReviewError> {
        let save = |journal: &Journal| self.session.save(journal).map_err(|_| Errno::EIO);
        self.upper
            .remove(path, journal, &save)
            .map_err(|cause| self.session.failed("take a change out of", "layers/upper", cause))
    }

    /// Takes directories out that say nothing any more: those of the paths, and those on the way to them.
    fn prune<'p>(
        &self,
        paths: impl Iterator<Item = &'p WorkPath>,
        journal: &mut Journal,
    ) -> Result<(), ReviewError> {
        let mut directories = BTreeSet::new();
        for path in paths {
            let mut here = Some(path.clone());
            // Where one is known, those above it are.
            while let Some(directory) = here.filter(|directory| !directories.contains(directory)) {
                here = directory.parent();
                if !directory.is_too_long() {
                    directories.insert(directory);
                }
            }
        }
        let save = |journal: &Journal| self.session.save(journal).map_err(|_| Errno::EIO);
        // The deepest first.
        for directory in directories.iter().rev() {
            self.upper
                .prune(directory, journal, &save)
                .map_err(|cause| self.session.failed("tidy", "layers/upper", cause))?;
        }
        Ok(())
    }
}

fn set_mode(parent: BorrowedFd<'_>, name: &OsStr, there: Option<&FileStat>, mode: u32) -> Result<(), Left> {
    let failed = |cause| Left::Failed { verb: "set the mode of", cause };
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(parent, name, flags, Mode::empty()).map_err(failed)?;
    let now = fstat(&file).map_err(failed)?;
    if there.is_none_or(|there| there.st_ino != now.st_ino) || Node::of(&now) == Node::Symlink {
        return Err(Left::Conflict(Conflict::Changed));
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
fn as_owner<T>(owner: (u32, u32), act: impl FnOnce() -> T) -> T {
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

/// A name beside the place, that nothing else has.
struct Aside(String);

impl Aside {
    fn new() -> Aside {
        Aside(format!(".jailmk-{}", staging::unique()))
    }

    fn name(&self) -> &OsStr {
        OsStr::new(&self.0)
    }
}

/// The replacement that is under way: enough to finish it, or to take it back.
struct Pending<'a> {
    path: &'a WorkPath,
    aside: &'a str,
    /// The file that is displaced.
    old: Option<Stamp>,
    /// The inode of what takes its place: 0 for nothing, `None` while it is written.
    new: Option<u64>,
}

impl Pending<'_> {
    /// As a journal of one record whose header line goes before: lengths are not trusted, the last NUL ends it.
    fn bytes(&self) -> Vec<u8> {
        let mut journal = Journal::default();
        let since = Time { seconds: 0, nanoseconds: 0 };
        journal.note(self.path, || Record { since, before: self.old });
        let new = self.new.map_or("-".to_owned(), |inode| inode.to_string());
        let mut bytes = format!("{} {new}\0", self.aside).into_bytes();
        bytes.extend_from_slice(&journal.bytes());
        bytes.push(b'\n');
        bytes
    }
}

/// Reads the record of a replacement under way: the name beside, the inode of what replaces, the path, the file
/// that is replaced. `None` for what was cut short; what a longer record before it left behind is cut off.
pub fn parse_pending(bytes: &[u8]) -> Option<(String, Option<u64>, WorkPath, Option<Stamp>)> {
    let head = bytes.iter().position(|byte| *byte == 0)?;
    let (aside, new) = std::str::from_utf8(&bytes[..head]).ok()?.split_once(' ')?;
    let new = if new == "-" { None } else { Some(new.parse().ok()?) };
    let rest = &bytes[head + 1..];
    let end = rest.windows(2).position(|pair| pair == b"\0\n")? + 1;
    let (path, record) = Journal::parse(&rest[..end])?.first()?;
    let plain = aside.starts_with(".jailmk-") && !aside.contains('/');
    plain.then(|| (aside.to_owned(), new, path, record.before))
}

/// Finishes, or takes back, the one replacement that a kill cut short.
///
/// # Errors
/// A tree cannot be read or written.
pub(super) fn finish_pending(session: &Session) -> Result<(), ReviewError> {
    let Some(bytes) = session.read(PENDING)? else { return Ok(()) };
    let failed = |cause| session.failed("finish", PENDING, cause);
    // A record that was cut short was never acted upon.
    if let Some((aside, new, path, old)) = parse_pending(&bytes) {
        let host = session.host()?;
        let parent = path.parent().and_then(|parent| host.open_directory(&parent).ok());
        if let Some(parent) = parent {
            settle(&parent, OsStr::new(&aside), path.name(), old, new).map_err(failed)?;
        }
    }
    match unlinkat(session.fd(), PENDING, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(cause) => Err(failed(cause)),
    }
}

fn settle(
    parent: &OwnedFd,
    aside: &OsStr,
    name: &OsStr,
    old: Option<Stamp>,
    new: Option<u64>,
) -> Result<(), Errno> {
    let Some(found) = tree::status_in(parent.as_fd(), aside)? else { return Ok(()) };
    let ours = new.is_none_or(|inode| inode == found.st_ino);
    let displaced = old.is_some_and(|old| Stamp::of(&found).is_still(&old));
    if ours || displaced {
        return unlinkat(parent, aside, UnlinkatFlags::NoRemoveDir);
    }
    // The host changed the file in the moment of the exchange: it gets its own back.
    let there = tree::status_in(parent.as_fd(), name)?;
    if there.is_some_and(|there| Some(there.st_ino) == new) {
        renameat2(parent, aside, parent, name, RenameFlags::RENAME_EXCHANGE)?;
        return unlinkat(parent, aside, UnlinkatFlags::NoRemoveDir);
    }
    match renameat2(parent, aside, parent, name, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EEXIST) => {
            let mut kept = name.as_bytes().to_vec();
            kept.extend_from_slice(b".kept-by-jailmk");
            renameat2(parent, aside, parent, OsStr::from_bytes(&kept), RenameFlags::RENAME_NOREPLACE)
        }
        other => other,
    }
}
