//! What a commit has of each change: git's own reasons not to have it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::errno::Errno;

use super::error::CommitError;
use super::import::{Content, Delta, Put};
use super::repository::{Attributes, Entry, Repository, line, text};
use super::{Silent, Unfit};
use crate::workspace::WorkPath;
use crate::workspace::apply::Left;
use crate::workspace::changes::{Change, Changes, Kind};
use crate::workspace::error::ReviewError;
use crate::workspace::policy::Judgement;
use crate::workspace::protected;
use crate::workspace::tree::{self, Node, Tree};

/// Finds out what the commit has of each change.
pub(super) struct Sorting<'a> {
    repository: &'a Repository<'a>,
    upper: &'a Tree,
    host: &'a Tree,
    /// Whether a directory is in a repository in the repository.
    foreign: HashMap<WorkPath, bool>,
    /// Directories of the jail where the host has a link.
    links: BTreeSet<WorkPath>,
    /// What the commit changes.
    pub delta: Delta<'a>,
    /// What the commit has, by path of the repository.
    pub taken: BTreeMap<Vec<u8>, (&'a Change, &'a Judgement)>,
    /// What it has not, and why.
    pub left: Vec<(Kind, WorkPath, Left)>,
    /// What nobody misses in it.
    pub silent: Silent,
}

impl<'a> Sorting<'a> {
    /// Nothing is sorted yet.
    pub fn new(
        repository: &'a Repository<'a>,
        upper: &'a Tree,
        host: &'a Tree,
        changes: &Changes,
    ) -> Sorting<'a> {
        Sorting {
            repository,
            upper,
            host,
            foreign: HashMap::new(),
            links: links(changes),
            delta: Delta::default(),
            taken: BTreeMap::new(),
            left: Vec::new(),
            silent: Silent::default(),
        }
    }

    /// Leaves a change, for this reason.
    pub fn leave(&mut self, change: &Change, left: Left) {
        self.left.push((change.kind, change.path.clone(), left));
    }

    /// Sorts changes that are wanted; of some only these parts.
    pub fn sort(
        &mut self,
        wanted: &[(&'a Change, &'a Judgement)],
        mut parts: BTreeMap<WorkPath, Vec<u8>>,
    ) -> Result<(), ReviewError> {
        let mut puts = Vec::new();
        for (change, judgement) in wanted {
            if change.path.names().any(|name| is_refused(name, false)) {
                self.silent.in_git += usize::from(change.is_shown());
                continue;
            }
            // A directory is what is in it.
            let comes = change.jail.as_deref().filter(|jail| Node::of(jail) != Node::Directory);
            match comes {
                None => self.goes(change, judgement),
                Some(_) => puts.push((*change, *judgement)),
            }
        }
        let paths: Vec<&WorkPath> = puts.iter().map(|(change, _)| &change.path).collect();
        let asked: Vec<&WorkPath> = paths
            .iter()
            .filter(|path| !path.parents().any(|above| self.links.contains(&above)))
            .copied()
            .collect();
        let ignored = self.repository.ignored(&asked)?;
        puts.retain(|(change, _)| !ignored.contains(&change.path));
        self.silent.ignored += ignored.len();
        let mut fit = Vec::new();
        for (change, judgement) in puts {
            match self.unfit(change) {
                Some(left) => self.leave(change, left),
                None => fit.push((change, judgement)),
            }
        }
        let paths: Vec<&WorkPath> = fit.iter().map(|(change, _)| &change.path).collect();
        let attributes = self.repository.attributes(&paths)?;
        for ((change, judgement), attributes) in fit.into_iter().zip(attributes) {
            self.comes(change, judgement, &attributes, parts.remove(&change.path))?;
        }
        Ok(())
    }

    /// A path that is gone, or has become a directory.
    fn goes(&mut self, change: &'a Change, judgement: &'a Judgement) {
        let path = self.repository.path(&change.path);
        // What a directory held goes by itself; a new one is in the place of nothing that the jail saw.
        let was = change.host.as_deref().is_some_and(|host| Node::of(host) != Node::Directory);
        match self.repository.tree.get(&path) {
            Some(entry) if !was && !entry.is_gitlink() => {
                self.silent.unrecorded += usize::from(change.is_shown());
            }
            Some(_) if self.is_foreign(&change.path) => self.leave(change, Left::Unfit(Unfit::Foreign)),
            Some(entry) if entry.is_gitlink() => self.leave(change, Left::Unfit(Unfit::Foreign)),
            Some(_) => {
                self.delta.gone.push(path.clone());
                self.taken.insert(path, (change, judgement));
            }
            None => self.silent.unrecorded += usize::from(change.is_shown()),
        }
    }

    /// Why a file or link cannot be in the commit.
    fn unfit(&mut self, change: &Change) -> Option<Left> {
        let path = self.repository.path(&change.path);
        let link = change.node() == Node::Symlink;
        if link && is_refused(change.path.name(), true) {
            return Some(Left::Unfit(Unfit::Name));
        }
        let tree = &self.repository.tree;
        let linked = tree.get(&path).is_some_and(Entry::is_gitlink);
        if linked || self.repository.is_linked(&change.path) || self.is_foreign(&change.path) {
            return Some(Left::Unfit(Unfit::Foreign));
        }
        // The directories on the way: what the branch has there must be going.
        for slash in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(index, _)| index) {
            match tree.get(&path[..slash]) {
                Some(entry) if entry.is_gitlink() => return Some(Left::Unfit(Unfit::Foreign)),
                Some(_) if !self.taken.contains_key(&path[..slash]) => {
                    return Some(Left::Unfit(Unfit::InTheWay));
                }
                _ => {}
            }
        }
        // And so must what it has below.
        let below = [path.as_slice(), b"/"].concat();
        let range = (Bound::Excluded(below.clone()), Bound::Unbounded);
        let mut below = tree.range(range).map(|(path, _)| path).take_while(|path| path.starts_with(&below));
        below.any(|path| !self.taken.contains_key(path)).then_some(Left::NotEmpty)
    }

    /// A file or link that is in the commit.
    fn comes(
        &mut self,
        change: &'a Change,
        judgement: &'a Judgement,
        attributes: &Attributes,
        part: Option<Vec<u8>>,
    ) -> Result<(), ReviewError> {
        let Some(jail) = change.jail.as_deref() else { return Ok(()) };
        let path = self.repository.path(&change.path);
        let old = self.repository.tree.get(&path).filter(|entry| entry.mode.starts_with("100"));
        let link = Node::of(jail) == Node::Symlink;
        let executable = |mode: u32| mode & 0o100 != 0;
        let mode = match old {
            _ if link => "120000",
            Some(old) if !self.repository.has_modes() => old.mode.as_str(),
            _ if executable(jail.st_mode) && self.repository.has_modes() => "100755",
            _ => "100644",
        };
        if change.kind == Kind::Mode {
            let same = change
                .host
                .as_deref()
                .is_some_and(|host| executable(host.st_mode) == executable(jail.st_mode));
            if same || !self.repository.has_modes() {
                self.silent.unrecorded += 1;
                return Ok(());
            }
        }
        let content = match (change.kind, old, part) {
            // The bit alone: what the host has not committed in the file is nothing of the jail's.
            (Kind::Mode, Some(old), _) => Content::Object(old.id.clone()),
            _ if link => Content::Bytes(self.target(&change.path)?),
            _ if attributes.is_filtered() => {
                self.leave(change, Left::Unfit(Unfit::Filtered));
                return Ok(());
            }
            (_, _, part) => match self.content(&change.path, attributes, part) {
                Ok(content) => content,
                Err(CommitError::Said { .. }) => {
                    self.leave(change, Left::Unfit(Unfit::Unconvertible));
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            },
        };
        self.delta.puts.push(Put { path: path.clone(), mode: mode.to_owned(), content });
        self.taken.insert(path, (change, judgement));
        Ok(())
    }

    fn target(&self, path: &WorkPath) -> Result<Vec<u8>, CommitError> {
        let read = |cause: Errno| CommitError::Read { path: path.to_string(), cause: cause.into() };
        Ok(self.upper.link_target(path).map_err(read)?.into_vec())
    }

    /// What a file holds, as git would store it: its own conversions are made by itself.
    fn content(
        &self,
        path: &'a WorkPath,
        attributes: &Attributes,
        part: Option<Vec<u8>>,
    ) -> Result<Content<'a>, CommitError> {
        let content = part.map_or(Content::Jail(path), Content::Bytes);
        let automatic = self.repository.converts_lines();
        if !attributes.may_convert(automatic, true, false) {
            return Ok(content);
        }
        let read = |cause| CommitError::Read { path: path.to_string(), cause };
        let mut look = Look::default();
        match &content {
            Content::Bytes(bytes) => look.at(bytes.as_slice()),
            _ => self.upper.open_file_at(path).map_err(io::Error::from).and_then(|file| look.at(file)),
        }
        .map_err(read)?;
        if !attributes.may_convert(automatic, look.crlf, look.nul) {
            return Ok(content);
        }
        let git = self.repository.git();
        let mut option = OsString::from("--path=");
        option.push(path.relative());
        let arguments = ["hash-object".as_ref(), "-w".as_ref(), "--stdin".as_ref(), option.as_os_str()];
        let id = git.feed("convert a file", &arguments, &[], |stdin| match &content {
            Content::Bytes(bytes) => stdin.write_all(bytes).map_err(|cause| git.failed(cause)),
            _ => {
                let mut file = self.upper.open_file_at(path).map_err(|cause| read(cause.into()))?;
                io::copy(&mut file, stdin).map(drop).map_err(|cause| git.failed(cause))
            }
        })?;
        Ok(Content::Object(text(line(id))))
    }

    /// Whether a path is in a repository in the repository: the host's, or one that the jail made.
    fn is_foreign(&mut self, path: &WorkPath) -> bool {
        let mut foreign = false;
        for above in path.parents() {
            foreign = match self.foreign.get(&above) {
                Some(known) => *known,
                None => {
                    let found = foreign || self.has_git(&above);
                    self.foreign.insert(above, found);
                    found
                }
            };
        }
        foreign
    }

    fn has_git(&self, directory: &WorkPath) -> bool {
        let path = directory.child(OsStr::new(".git"));
        let there = |tree: &Tree| tree.status(&path).ok().flatten();
        there(self.host).is_some() || there(self.upper).is_some_and(|stat| !tree::is_whiteout(&stat))
    }
}

/// Whether git takes no path with this name in it, or no link; also where another file system or system would
/// read it as `.git` or `.gitmodules`.
fn is_refused(name: &OsStr, link: bool) -> bool {
    name.as_bytes().split(|byte| *byte == b'\\').any(|name| {
        let name = OsStr::from_bytes(name);
        let folded = protected::folded(name);
        protected::is_git(name)
            || link && (folded == ".gitmodules" || folded.starts_with("gi") && folded.contains('~'))
    })
}

/// What a file's bytes look like.
#[derive(Default)]
struct Look {
    crlf: bool,
    nul: bool,
}

impl Look {
    fn at(&mut self, mut from: impl Read) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let mut last = 0;
        loop {
            let length = match from.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            for byte in &buffer[..length] {
                self.crlf |= last == b'\r' && *byte == b'\n';
                self.nul |= *byte == 0;
                last = *byte;
            }
        }
    }
}

/// Directories of the jail where the host has a link.
fn links(changes: &Changes) -> BTreeSet<WorkPath> {
    let link = |change: &&Change| change.host.as_deref().is_some_and(|host| Node::of(host) == Node::Symlink);
    changes.iter().filter(link).map(|change| change.path.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_some_system_takes_for_git_s_own_are_refused() {
        for name in [".git", ".GIT ", "git~1", ".git\\x", "x\\.git"] {
            assert!(is_refused(OsStr::new(name), false), "{name}");
        }
        assert!(is_refused(OsStr::new(".gitmodules"), true) && is_refused(OsStr::new("GI7EBA~1"), true));
        assert!(!is_refused(OsStr::new(".gitmodules"), false) && !is_refused(OsStr::new(".gitignore"), true));
    }

    #[test]
    fn ends_of_lines_are_seen_across_reads() {
        struct Slow<'a>(&'a [u8]);
        impl Read for Slow<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let one = self.0.len().min(1);
                self.0.read(&mut buffer[..one])
            }
        }
        let mut look = Look::default();
        look.at(Slow(b"a\r\n")).unwrap();
        assert!(look.crlf && !look.nul);
        let mut look = Look::default();
        look.at(Slow(b"a\rb\n\0")).unwrap();
        assert!(!look.crlf && look.nul);
    }
}
