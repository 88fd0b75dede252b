//! What the jail changed: the upper layer against the host's tree.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::FileStat;

use super::content;
use super::error::{ReviewError, Side};
use super::extent::Extent;
use super::journal::{Journal, Record, Stamp, Time};
use super::path::WorkPath;
use super::tree::{self, Grain, Node, Tree};

/// What happened to a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is new.
    Added,
    /// Its content is another, or where it points to; its permission bits may be too.
    Changed,
    /// Its permission bits alone.
    Mode,
    /// It has become another kind of file.
    Type,
    /// It is gone.
    Deleted,
}

impl Kind {
    /// For people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Added => "added",
            Kind::Changed => "changed",
            Kind::Mode => "mode",
            Kind::Type => "type",
            Kind::Deleted => "deleted",
        }
    }
}

/// Why a change must not be taken over what the host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The jail added what the host has made as well.
    Made,
    /// The jail changed what the host has changed as well.
    Changed,
    /// The jail changed what the host has removed.
    Removed,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Conflict::Made => "the host has made one as well",
            Conflict::Changed => "the host's has changed since the jail began",
            Conflict::Removed => "the host's was removed since the jail began",
        })
    }
}

/// Why a change is never applied, whatever is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {
    /// A device, a named pipe or a socket.
    Special,
    /// A link that leads out of the workspace.
    LeadsOut,
    /// An attribute that overlayfs does not set.
    Foreign,
    /// A path that no system call takes whole.
    TooLong,
    /// It cannot be read.
    Unreadable,
    /// What lies in its place on the host is a mount, or beyond one.
    Mount,
}

impl fmt::Display for Never {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Never::Special => "devices, named pipes and sockets are never applied",
            Never::LeadsOut => "the link leads out of the workspace",
            Never::Foreign => "it has an attribute that no jail can set",
            Never::TooLong => "its path is longer than 4095 bytes",
            Never::Unreadable => "it cannot be read",
            Never::Mount => "a file system is mounted there on the host",
        })
    }
}

/// One path that differs.
#[derive(Clone, Debug)]
pub struct Change {
    /// Where.
    pub path: WorkPath,
    /// What happened.
    pub kind: Kind,
    /// What the jail has; `None` when it has nothing there.
    pub jail: Option<Box<FileStat>>,
    /// What the host has; `None` when it has nothing there.
    pub host: Option<Box<FileStat>>,
    /// Why it must not be taken over the host's.
    pub conflict: Option<Conflict>,
    /// Why it is never applied.
    pub never: Option<Never>,
    /// Whether the upper layer has an entry of its own for it: not so below a directory that is gone.
    pub own_entry: bool,
    /// Whether something below it changed as well, which says more.
    pub has_more_below: bool,
}

impl Change {
    /// What the jail has there, else what it deleted.
    pub fn node(&self) -> Node {
        self.jail.as_deref().or(self.host.as_deref()).map_or(Node::Device, Node::of)
    }

    /// Whether a list shows it: a directory that other lines imply is none.
    pub fn is_shown(&self) -> bool {
        let implied = matches!(self.kind, Kind::Added | Kind::Deleted) && self.has_more_below;
        !(implied && self.node() == Node::Directory && self.conflict.is_none() && self.never.is_none())
    }
}

/// All changes, in the order of their paths.
#[derive(Debug, Default)]
pub struct Changes {
    found: Vec<Change>,
    /// Entries of the upper layer that say what the host has anyway.
    pub(super) idle: Vec<WorkPath>,
}

impl Changes {
    /// In the order of their paths: a directory before what it holds.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.found.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Change> {
        self.found.iter_mut()
    }

    /// Those that a list shows.
    pub fn shown(&self) -> impl Iterator<Item = &Change> {
        self.found.iter().filter(|change| change.is_shown())
    }

    /// The change of one path.
    pub fn get(&self, path: &WorkPath) -> Option<&Change> {
        self.found
            .binary_search_by(|change| change.path.cmp(path))
            .ok()
            .and_then(|index| self.found.get(index))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Keeps what is at or below one of `chosen`; all of it when none is.
    ///
    /// # Errors
    /// Nothing was changed at or below one of them.
    pub fn choose(mut self, chosen: &[WorkPath]) -> Result<Changes, ReviewError> {
        for path in chosen {
            if !self.found.iter().any(|change| change.path.is_within(path)) {
                return Err(ReviewError::Unchanged { path: path.clone() });
            }
        }
        if !chosen.is_empty() {
            self.found.retain(|change| chosen.iter().any(|path| change.path.is_within(path)));
        }
        Ok(self)
    }
}

/// What the jail sees of the host's side of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Below {
    /// All of it, but for what the upper layer replaces.
    Shows,
    /// Nothing: it was there before, so the jail has deleted it.
    Deleted,
    /// Nothing, and nothing was there before.
    Unknown,
}

/// A directory that the upper layer has.
struct Directory {
    path: WorkPath,
    below: Below,
    conflict: Option<Conflict>,
}

struct Comparison<'a> {
    upper: &'a Tree,
    host: &'a Tree,
    /// The host's.
    grain: Grain,
    journal: &'a Journal,
    found: Vec<Change>,
    /// Paths that turned out to be never applied, after their change was found or without one.
    never: BTreeMap<WorkPath, Never>,
    left: Extent,
    /// Whether there is more than can be looked at.
    too_many: bool,
    todo: Vec<Directory>,
    gone: Vec<(WorkPath, Option<Time>)>,
    idle: Vec<WorkPath>,
}

/// Compares the two trees.
///
/// # Errors
/// The top of one cannot be read. What is below and cannot be read is a change that is never applied.
pub fn compare(upper: &Tree, host: &Tree, journal: &Journal) -> Result<Changes, ReviewError> {
    let top = Directory { path: WorkPath::top(), below: Below::Shows, conflict: None };
    let mut comparison = Comparison {
        upper,
        host,
        grain: host.grain(),
        journal,
        found: Vec::new(),
        never: BTreeMap::new(),
        left: Extent::new(),
        too_many: false,
        todo: vec![top],
        gone: Vec::new(),
        idle: Vec::new(),
    };
    while let Some(directory) = comparison.todo.pop() {
        comparison.directory(&directory)?;
        comparison.check()?;
    }
    while let Some((path, since)) = comparison.gone.pop() {
        comparison.below_what_is_gone(&path, since);
        comparison.check()?;
    }
    let idle = std::mem::take(&mut comparison.idle);
    let mut changes = comparison.sorted();
    // In the order of their paths, so that what is below stands right behind.
    for index in 1..changes.len() {
        let (before, after) = changes.split_at_mut(index);
        if let (Some(above), Some(change)) = (before.last_mut(), after.first()) {
            above.has_more_below = change.path.is_within(&above.path);
        }
    }
    Ok(Changes { found: changes, idle })
}

impl Comparison<'_> {
    fn add(&mut self, change: Change) {
        self.found.push(change);
    }

    /// Whether one more path can be looked at.
    fn has_room(&mut self, path: &WorkPath) -> bool {
        self.too_many |= self.left.take(path).is_err();
        !self.too_many
    }

    fn check(&self) -> Result<(), ReviewError> {
        if self.too_many { Err(ReviewError::TooMany) } else { Ok(()) }
    }

    /// The names in a directory of one of the trees.
    fn names(&mut self, directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
        let names = tree::names(directory);
        self.too_many |= names == Err(Errno::E2BIG);
        names
    }

    /// The changes in the order of their paths. Sorted once: a map of them would take twice the memory.
    fn sorted(mut self) -> Vec<Change> {
        let by_path = |a: &Change, b: &Change| a.path.cmp(&b.path);
        self.found.sort_unstable_by(by_path);
        // A jail that renames while it is looked at can show a name twice.
        self.found.dedup_by(|a, b| a.path == b.path);
        let mut alone = Vec::new();
        for (path, never) in std::mem::take(&mut self.never) {
            match self.found.binary_search_by(|change| change.path.cmp(&path)) {
                Ok(index) => {
                    self.found.get_mut(index).expect("BUG: it was found there").never = Some(never);
                }
                Err(_) => alone.push(self.only_never(path, never)),
            }
        }
        if !alone.is_empty() {
            self.found.append(&mut alone);
            self.found.sort_unstable_by(by_path);
        }
        self.found
    }

    fn directory(&mut self, directory: &Directory) -> Result<(), ReviewError> {
        let path = &directory.path;
        let upper = match self.upper.open_directory(path) {
            Ok(upper) => upper,
            // The jail that runs may have removed it meanwhile.
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(cause) if path == &WorkPath::top() => {
                let (path, side) = (path.clone(), Side::Jail);
                return Err(ReviewError::Look { verb: "read", path, side, cause });
            }
            Err(_) => {
                self.never(path, Never::Unreadable);
                return Ok(());
            }
        };
        let opaque = tree::is_opaque(upper.as_fd()).unwrap_or(true);
        if tree::is_foreign(upper.as_fd()) {
            self.never(path, Never::Foreign);
            return Ok(());
        }
        let below = match directory.below {
            Below::Shows if opaque => self.hidden(path),
            other => other,
        };
        let host = match self.host.open_directory(path) {
            Ok(host) => Some(host),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => None,
            Err(cause) if path == &WorkPath::top() => {
                let (path, side) = (path.clone(), Side::Host);
                return Err(ReviewError::Look { verb: "read", path, side, cause });
            }
            Err(Errno::EXDEV) => {
                self.never(path, Never::Mount);
                return Ok(());
            }
            Err(_) => {
                self.never(path, Never::Unreadable);
                return Ok(());
            }
        };
        let Ok(names) = self.names(upper.as_fd()) else {
            self.never(path, Never::Unreadable);
            return Ok(());
        };
        for name in &names {
            let child = path.child(tree::os(name));
            self.entry(&upper, host.as_ref(), &child, below, directory.conflict);
        }
        if below == Below::Deleted
            && let Some(host) = &host
        {
            let since = self.journal.get(path).map(|record| record.since);
            for name in self.names(host.as_fd()).unwrap_or_default() {
                if names.binary_search(&name).is_err() {
                    self.host_only(host.as_fd(), path.child(tree::os(&name)), since);
                }
            }
        }
        Ok(())
    }

    /// An opaque directory hides what the host had there before; what came since is the host's own.
    fn hidden(&self, path: &WorkPath) -> Below {
        match self.journal.get(path) {
            Some(Record { before: None, .. }) => Below::Unknown,
            _ => Below::Deleted,
        }
    }

    /// Marks the change of a path, or makes one to be marked.
    fn never(&mut self, path: &WorkPath, never: Never) {
        self.never.insert(path.clone(), never);
    }

    fn only_never(&self, path: WorkPath, never: Never) -> Change {
        let status = |tree: &Tree| tree.status(&path).ok().flatten().map(Box::new);
        let (jail, host) = (status(self.upper), status(self.host));
        Change {
            path,
            kind: Kind::Changed,
            jail,
            host,
            conflict: None,
            never: Some(never),
            own_entry: true,
            has_more_below: false,
        }
    }

    fn entry(
        &mut self,
        upper: &OwnedFd,
        host: Option<&OwnedFd>,
        path: &WorkPath,
        below: Below,
        inherited: Option<Conflict>,
    ) {
        if !self.has_room(path) {
            return;
        }
        let name = path.name();
        let Ok(Some(jail)) = tree::status_in(upper.as_fd(), name) else { return };
        let there = host.and_then(|host| tree::status_in(host.as_fd(), name).ok().flatten());
        let whiteout = tree::is_whiteout(&jail);
        if whiteout && there.is_none() {
            self.idle.push(path.clone());
            return;
        }
        let conflict = self.conflict(path, &jail, there.as_ref()).or(inherited);
        let mut change = Change {
            path: path.clone(),
            kind: Kind::Added,
            jail: Some(Box::new(jail)),
            host: there.map(Box::new),
            conflict,
            never: None,
            own_entry: true,
            has_more_below: false,
        };
        if path.is_too_long() {
            change.never = Some(Never::TooLong);
            return self.add(change);
        }
        let Some(there) = there else { return self.added(upper, change) };
        if whiteout {
            change.jail = None;
            change.kind = Kind::Deleted;
            if Node::of(&there) == Node::Directory {
                self.gone.push((path.clone(), self.journal.get(path).map(|record| record.since)));
            }
            return self.add(change);
        }
        let (here, over) = (Node::of(&jail), Node::of(&there));
        if here != over {
            change.kind = Kind::Type;
            change.never = never_of(here);
            if over == Node::Directory {
                self.gone.push((path.clone(), self.journal.get(path).map(|record| record.since)));
            }
            if here == Node::Directory {
                self.todo.push(Directory { path: path.clone(), below: Below::Unknown, conflict });
            }
            return self.add(change);
        }
        if here == Node::Directory {
            let below = if below == Below::Shows { below } else { self.hidden(path) };
            self.todo.push(Directory { path: path.clone(), below, conflict: inherited });
            // The owner's own bits may have been set in order to read it.
            if (jail.st_mode | 0o700) & 0o777 != (there.st_mode | 0o700) & 0o777 {
                change.kind = Kind::Mode;
                self.add(change);
            }
            return;
        }
        let Some(host) = host else { return };
        match self.differs(upper.as_fd(), host.as_fd(), name, &jail, &there) {
            Ok(true) => change.kind = Kind::Changed,
            Ok(false) if jail.st_mode & 0o777 == there.st_mode & 0o777 || here != Node::File => {
                self.idle.push(path.clone());
                return;
            }
            Ok(false) => change.kind = Kind::Mode,
            Err(()) => {
                change.kind = Kind::Changed;
                change.never = Some(Never::Unreadable);
            }
        }
        change.never = change.never.or_else(|| self.never_at(upper.as_fd(), name, here));
        self.add(change);
    }

    fn added(&mut self, upper: &OwnedFd, mut change: Change) {
        let node = change.node();
        if node == Node::Directory {
            let (path, conflict) = (change.path.clone(), change.conflict);
            self.todo.push(Directory { path, below: Below::Unknown, conflict });
        } else {
            change.never = self.never_at(upper.as_fd(), change.path.name(), node);
        }
        self.add(change);
    }

    fn never_at(&self, upper: BorrowedFd<'_>, name: &OsStr, node: Node) -> Option<Never> {
        match node {
            Node::File => match self.upper.open_file(upper, name) {
                Ok(file) => tree::is_foreign(file.as_fd()).then_some(Never::Foreign),
                Err(_) => Some(Never::Unreadable),
            },
            _ => never_of(node),
        }
    }

    fn differs(
        &self,
        upper: BorrowedFd<'_>,
        host: BorrowedFd<'_>,
        name: &OsStr,
        jail: &FileStat,
        there: &FileStat,
    ) -> Result<bool, ()> {
        match Node::of(jail) {
            Node::Symlink => {
                Ok(tree::target(upper, name).map_err(drop)? != tree::target(host, name).map_err(drop)?)
            }
            Node::File if jail.st_size != there.st_size => Ok(true),
            Node::File => {
                let a = self.upper.open_file(upper, name).map_err(drop)?;
                let b = self.host.open_file(host, name).map_err(drop)?;
                content::same(&a, &b).map(|same| !same).map_err(drop)
            }
            _ => Ok(jail.st_rdev != there.st_rdev),
        }
    }

    fn conflict(&self, path: &WorkPath, jail: &FileStat, there: Option<&FileStat>) -> Option<Conflict> {
        let Record { since, before, .. } = self.journal.get(path)?;
        let there = there.map(Stamp::of);
        match (&before, there) {
            (None, None) => None,
            // Two directories are one.
            (_, Some(there)) if there.node == Node::Directory && Node::of(jail) == Node::Directory => None,
            (None, Some(_)) => Some(Conflict::Made),
            (Some(_), None) => Some(Conflict::Removed),
            // What is in it is looked at by itself.
            (Some(before), Some(there)) if before.node == Node::Directory && there.node == before.node => {
                None
            }
            (Some(before), Some(there)) => {
                (!there.is_as_seen(before, since, self.grain)).then_some(Conflict::Changed)
            }
        }
    }

    /// A name that the host has in a directory that hides it.
    fn host_only(&mut self, directory: BorrowedFd<'_>, path: WorkPath, since: Option<Time>) {
        if !self.has_room(&path) {
            return;
        }
        let Ok(Some(there)) = tree::status_in(directory, path.name()) else { return };
        let is_directory = Node::of(&there) == Node::Directory;
        let fresh = |since: Time| Stamp::of(&there).changed.may_be_after(since, self.grain);
        // A directory is stamped by what happens in it, which is looked at by itself.
        let conflict = since.filter(|since| !is_directory && fresh(*since)).map(|_| Conflict::Changed);
        if is_directory && !path.is_too_long() {
            self.gone.push((path.clone(), since));
        }
        let never = path.is_too_long().then_some(Never::TooLong);
        self.add(Change {
            path,
            kind: Kind::Deleted,
            jail: None,
            host: Some(Box::new(there)),
            conflict,
            never,
            own_entry: false,
            has_more_below: false,
        });
    }

    fn below_what_is_gone(&mut self, path: &WorkPath, since: Option<Time>) {
        match self.host.open_directory(path) {
            Ok(host) => {
                for name in self.names(host.as_fd()).unwrap_or_default() {
                    self.host_only(host.as_fd(), path.child(tree::os(&name)), since);
                }
            }
            Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(Errno::EXDEV) => self.never(path, Never::Mount),
            Err(_) => self.never(path, Never::Unreadable),
        }
    }
}

fn never_of(node: Node) -> Option<Never> {
    matches!(node, Node::Fifo | Node::Socket | Node::Device).then_some(Never::Special)
}

/// Writes down how each path that the upper layer has is on the host, unless that is known already, and
/// forgets the paths that it has no more.
///
/// # Errors
/// The top of a tree cannot be read; there are more paths than can be reviewed.
pub fn survey(upper: &Tree, host: &Tree, journal: &mut Journal, since: Time) -> Result<(), ReviewError> {
    let mut known = std::mem::take(journal);
    let mut left = Extent::new();
    let mut todo = vec![WorkPath::top()];
    while let Some(path) = todo.pop() {
        let directory = match upper.open_directory(&path) {
            Ok(directory) => directory,
            Err(cause) if path == WorkPath::top() => {
                return Err(ReviewError::Look { verb: "read", path, side: Side::Jail, cause });
            }
            Err(_) => continue,
        };
        let beside = host.open_directory(&path).ok();
        let names = match tree::names(directory.as_fd()) {
            Err(Errno::E2BIG) => return Err(ReviewError::TooMany),
            other => other.unwrap_or_default(),
        };
        for name in names {
            let child = path.child(tree::os(&name));
            if child.is_too_long() {
                continue;
            }
            left.take(&child)?;
            if let Ok(Some(stat)) = tree::status_in(directory.as_fd(), child.name())
                && Node::of(&stat) == Node::Directory
            {
                todo.push(child.clone());
            }
            journal.take_over(child, &mut known, |child| {
                let there = beside.as_ref().and_then(|host| tree::status_in(host.as_fd(), child.name()).ok());
                Record::new(since, there.flatten().as_ref().map(Stamp::of))
            });
        }
    }
    Ok(())
}
