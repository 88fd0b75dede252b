//! Entries come in: a path brings every link and directory on its way, and two entries for one place
//! must agree.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use nix::sys::stat::FileStat;

use super::close::{Demand, Incoming};
use super::ldcache;
use super::loader::Loader;
use super::packages::{Packages, PackagesError};
use super::reasons::Reasons;
use super::root::{Opened, Resolved, RootError, SourceRoot, jail_path};
use super::search::{Dependency, Edge, Environment, FeatureRules, Outcome, Search};
use super::{Closure, ClosureError, Entry, Node, Note, PROGRAM_DIRECTORIES, Reason};
use crate::caller::Caller;
use crate::path::JailPath;
use crate::spec::{Mount, Placed, Position, Spec};
use crate::written::Written;

/// Directories that the jail makes anew at each enter.
const VIRTUAL: [&str; 4] = ["proc", "sys", "dev", "run"];
/// Links followed inside the jail's own tree.
const MAXIMUM_LINKS: usize = 40;

/// A closure in the making.
pub struct Collector<'r> {
    pub root: &'r SourceRoot,
    pub(super) search: Search<'r>,
    pub(super) closure: Closure,
    excluded: GlobSet,
    /// Directories of which all that is below is excluded: patterns that end with `/**`, without that.
    excluded_below: GlobSet,
    /// Where a link may be of the jail's making.
    pub(super) written: Written,
    packages: Option<Rc<Option<Packages>>>,
    /// Paths as found → where they really are; all that is on the way is entered.
    pub(super) entered: HashMap<PathBuf, PathBuf>,
    pub(super) closed: HashSet<PathBuf>,
    pub(super) loaders: Vec<Rc<Loader>>,
    /// The first dynamic program.
    native: Option<PathBuf>,
    /// Kept where someone asks for them: a build needs the first reason only.
    pub(super) reasons: Option<Reasons>,
}

impl<'r> Collector<'r> {
    pub fn new(root: &'r SourceRoot, spec: &Spec) -> Result<Collector<'r>, ClosureError> {
        let exclude = &spec.rootfs.exclude;
        let mut excluded = GlobSetBuilder::new();
        for pattern in exclude {
            excluded.add(glob(&pattern.value, &pattern.at)?);
        }
        let excluded = excluded.build().map_err(|cause| match exclude.first() {
            Some(first) => {
                ClosureError::Pattern { pattern: first.value.clone(), at: first.at.clone(), cause }
            }
            None => unreachable!("BUG: an empty set of patterns always builds"),
        })?;
        let mut below = GlobSetBuilder::new();
        for pattern in exclude {
            if let Some(top) = pattern.value.strip_suffix("/**").filter(|top| !top.is_empty()) {
                // Half of a pattern need not be one: then nothing is saved.
                if let Ok(top) = glob(top, &pattern.at) {
                    below.add(top);
                }
            }
        }
        Ok(Collector {
            root,
            search: Search::new(root, None)
                .with_environment(Environment::of(&spec.process.env))
                .with_features(feature_rules(&spec.rootfs.dlopen)?),
            closure: Closure::default(),
            excluded,
            excluded_below: below.build().unwrap_or_default(),
            written: Written::of(spec, &Caller::current()),
            packages: None,
            entered: HashMap::new(),
            closed: HashSet::new(),
            loaders: Vec::new(),
            native: None,
            reasons: None,
        })
    }

    pub fn note(&mut self, note: Note) {
        if !self.closure.notes.contains(&note) {
            self.closure.notes.push(note);
        }
    }

    pub fn is_excluded(&self, path: &Path) -> bool {
        self.excluded.is_match(path)
    }

    /// Whether everything below the directory is: then it need not be walked.
    pub fn is_excluded_below(&self, directory: &Path) -> bool {
        self.excluded_below.is_match(directory)
    }

    /// The package database, read once.
    pub fn packages(&mut self) -> Result<Rc<Option<Packages>>, PackagesError> {
        match &self.packages {
            Some(packages) => Ok(packages.clone()),
            None => Ok(self.packages.insert(Rc::new(Packages::read(self.root)?)).clone()),
        }
    }

    /// `/lib → usr/lib` and the like, as the source tree has them.
    pub fn enter_merged_directories(&mut self) -> Result<(), ClosureError> {
        for name in ["bin", "sbin", "lib", "lib32", "lib64", "libx32"] {
            let path = Path::new("/").join(name);
            if let Ok(target) = self.root.read_link(&path) {
                self.insert(jail_path(&path), Node::Symlink(target), Reason::Skeleton)?;
                if let Ok(resolved) = self.root.resolve(&path)
                    && self.root.is_directory(&resolved.real)
                {
                    self.enter_crossed(&resolved, &Reason::Skeleton)?;
                    self.insert(jail_path(&resolved.real), Node::Directory, Reason::Skeleton)?;
                }
            }
        }
        Ok(())
    }

    pub fn enter_program(&mut self, program: &Placed<String>) -> Result<(), ClosureError> {
        let reason = Reason::Spec { key: "programs", value: program.value.clone() };
        let path = find_program(self.root, OsStr::new(&program.value)).ok_or_else(|| {
            ClosureError::ProgramNotFound {
                name: program.value.clone(),
                at: program.at.clone(),
                nearest: nearest_programs(self.root, &program.value),
                on_path: on_path(self.root, OsStr::new(&program.value)),
            }
        })?;
        let real = self.enter_followed(&path, &reason, Demand::Required(&program.at), 0)?;
        if self.native.is_none()
            && matches!(self.search.resolve(&real, &[]), Ok(found) if found.loader.is_some())
        {
            self.native = Some(real);
        }
        Ok(())
    }

    /// Takes a library as dlopen(3) in the first dynamic program, or in `/bin/sh`, would find it.
    pub fn enter_library(&mut self, library: &Placed<String>) -> Result<(), ClosureError> {
        let no_loader = || ClosureError::NoLoader { name: library.value.clone(), at: library.at.clone() };
        let shell = || self.root.resolve(Path::new("/bin/sh")).ok().map(|resolved| resolved.real);
        let requester = self.native.clone().or_else(shell).ok_or_else(no_loader)?;
        let name = OsString::from(&library.value);
        let resolution = self.search.resolve(&requester, &[name]).map_err(|_| no_loader())?;
        if resolution.loader.is_none() {
            return Err(no_loader());
        }
        let asked = |edge: &&Edge| edge.dependency == Dependency::Dlopen;
        let mut reached = HashSet::new();
        for edge in resolution.edges.iter().filter(asked) {
            match &edge.outcome {
                Outcome::Found { object, path, .. } => {
                    let path = path.as_ref().unwrap_or(&resolution.objects[*object].path);
                    let reason = Reason::Spec { key: "libraries", value: library.value.clone() };
                    self.enter_object(path, &reason)?;
                    reached.insert(*object);
                }
                Outcome::LeftOut => unreachable!("BUG: only features of notes are left out"),
                Outcome::Missing { searched } => {
                    return Err(ClosureError::LibraryNotFound {
                        name: library.value.clone(),
                        at: library.at.clone(),
                        searched: searched.clone(),
                    });
                }
                Outcome::Malformed { path, defect } => {
                    return Err(ClosureError::MalformedLibrary {
                        path: path.to_path_buf(),
                        by: jail_path(&requester),
                        at: library.at.clone(),
                        defect: *defect,
                    });
                }
            }
        }
        let required = Demand::Required(&library.at);
        // What the program itself needs is no business of the library.
        let mut edges = Vec::new();
        loop {
            let before = (reached.len(), edges.len());
            for (index, edge) in resolution.edges.iter().enumerate() {
                if reached.contains(&edge.from) && !edges.contains(&index) {
                    edges.push(index);
                    if let Outcome::Found { object, .. } = edge.outcome {
                        reached.insert(object);
                    }
                }
            }
            if before == (reached.len(), edges.len()) {
                break;
            }
        }
        let edges: Vec<&Edge> = edges.into_iter().map(|index| &resolution.edges[index]).collect();
        self.enter_edges(&resolution, &edges, &None, required, None)?;
        let mismatches = resolution.mismatches.iter().filter(|mismatch| reached.contains(&mismatch.by));
        self.check_versions(&resolution, mismatches, &None, required)
    }

    pub fn enter_symlink(&mut self, path: &JailPath, target: &Placed<PathBuf>) -> Result<(), ClosureError> {
        let reason = Reason::Spec { key: "symlinks", value: path.to_string() };
        let path = self.settle_parent(path)?;
        self.insert(path, Node::Symlink(target.value.clone()), reason)
    }

    pub fn enter_directory(&mut self, directory: &Placed<JailPath>) -> Result<(), ClosureError> {
        let reason = Reason::Spec { key: "directories", value: directory.value.to_string() };
        let path = self.settle(&directory.value)?;
        self.insert(path, Node::Directory, reason)
    }

    /// Enters the file that `path` leads to, with everything on the way and all that it needs.
    pub fn enter_followed(
        &mut self,
        path: &Path,
        reason: &Reason,
        demand: Demand<'_>,
        depth: usize,
    ) -> Result<PathBuf, ClosureError> {
        let resolved = self.root.resolve(path)?;
        self.enter_crossed(&resolved, reason)?;
        self.enter_file(&resolved.real, reason, demand, depth)?;
        Ok(resolved.real)
    }

    /// Enters the links that a path crosses, and the directories that it only passes through.
    pub fn enter_crossed(&mut self, resolved: &Resolved, reason: &Reason) -> Result<(), ClosureError> {
        if self.root.is_host() {
            self.refuse_written(resolved, reason)?;
        }
        for (link, target) in &resolved.links {
            self.insert(jail_path(link), Node::Symlink(target.clone()), reason.clone())?;
        }
        for directory in &resolved.left {
            self.insert(jail_path(directory), Node::Directory, reason.clone())?;
        }
        Ok(())
    }

    /// No link of the host's is followed that the jail can have made: it would choose which of the caller's files
    /// are in its next tree.
    pub fn refuse_written(&self, resolved: &Resolved, reason: &Reason) -> Result<(), ClosureError> {
        refuse_written(&self.written, resolved, reason)
    }

    /// Enters the regular file at `real` and all that it needs.
    pub fn enter_file(
        &mut self,
        real: &Path,
        reason: &Reason,
        demand: Demand<'_>,
        depth: usize,
    ) -> Result<(), ClosureError> {
        if let Some(opened) = self.open_regular(real)? {
            let to = jail_path(real);
            let incoming = Incoming { real, to, mode: None, reason, demand, depth, moved: None };
            self.enter_opened(self.root, opened, incoming)?;
        }
        Ok(())
    }

    fn open_regular(&mut self, real: &Path) -> Result<Option<(File, FileStat)>, ClosureError> {
        match self.root.open_file(real) {
            Ok(Opened::Regular(file, stat)) => Ok(Some((file, stat))),
            Ok(Opened::Other(kind)) => {
                self.note(Note::SpecialFileSkipped { path: real.to_owned(), kind });
                Ok(None)
            }
            Err(errno) => Err(RootError { path: real.to_owned(), errno }.into()),
        }
    }

    /// The place that `path` leads to in the jail's own tree.
    pub fn settle(&self, path: &JailPath) -> Result<JailPath, ClosureError> {
        let mut at = PathBuf::from("/");
        let mut pending: Vec<OsString> = path.names().map(OsStr::to_owned).collect();
        pending.reverse();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            let here = at.join(&name);
            match self.closure.entries.get(&jail_path(&here)).map(|entry| &entry.node) {
                Some(Node::Symlink(target)) => {
                    links += 1;
                    if links > MAXIMUM_LINKS {
                        return Err(ClosureError::LinkLoop { path: path.clone() });
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    let names = target.iter().filter(|name| *name != "/" && *name != ".");
                    pending.extend(names.map(OsStr::to_owned).collect::<Vec<_>>().into_iter().rev());
                }
                _ => at = here,
            }
        }
        Ok(jail_path(&at))
    }

    /// As [`Collector::settle`], but the last component stands for itself.
    pub fn settle_parent(&self, path: &JailPath) -> Result<JailPath, ClosureError> {
        match (path.parent(), path.as_path().file_name()) {
            (Some(parent), Some(name)) => Ok(self.settle(&parent)?.child(name)),
            _ => Ok(path.clone()),
        }
    }

    /// Places `node` at `path`, and directories above it.
    pub fn insert(&mut self, path: JailPath, node: Node, reason: Reason) -> Result<(), ClosureError> {
        if let Some(top) = virtual_top(&path) {
            return match reason {
                // The mount point itself is no content.
                _ if top == path && node == Node::Directory => Ok(()),
                reason => Err(ClosureError::Virtual { path, reason: Box::new(reason), top }),
            };
        }
        if let Some(reasons) = &mut self.reasons {
            reasons.record(&path, &reason);
        }
        if let Some(entry) = self.closure.entries.get(&path) {
            if entry.node == node || same_bytes(&entry.node, &node) {
                return Ok(());
            }
            let first = Box::new(entry.reason.clone());
            return Err(ClosureError::Conflict { path, first, second: Box::new(reason) });
        }
        let mut parent = path.parent();
        while let Some(directory) = parent {
            match self.closure.entries.get(&directory) {
                Some(Entry { node: Node::Directory, .. }) => break,
                Some(entry) => {
                    let first = Box::new(entry.reason.clone());
                    return Err(ClosureError::Conflict { path: directory, first, second: Box::new(reason) });
                }
                None => {}
            }
            parent = directory.parent();
            self.closure.entries.insert(directory, Entry { node: Node::Directory, reason: reason.clone() });
        }
        self.closure.entries.insert(path, Entry { node, reason });
        Ok(())
    }

    pub fn finish(mut self, mounts: &[Mount]) -> Result<(Closure, Option<Reasons>), ClosureError> {
        for loader in std::mem::take(&mut self.loaders) {
            let reason = Reason::NeededBy { by: self.place(&loader.path), how: "library look-up".to_owned() };
            if let Some(configuration) = &loader.configuration {
                self.enter_object(configuration, &reason)?;
            }
            self.write_cache(&loader, reason)?;
        }
        self.forget_libraries_below();
        self.note_dangling_links(mounts);
        Ok((self.closure, self.reasons))
    }

    /// Writes the source tree's library cache, cut down to what is in the jail.
    fn write_cache(&mut self, loader: &Loader, reason: Reason) -> Result<(), ClosureError> {
        let (Some(path), Some(cache)) = (&loader.cache, self.search.cache(loader)) else { return Ok(()) };
        let present = |path: &Path| {
            let resolved = self.root.resolve_parent(path);
            resolved.is_ok_and(|found| self.closure.entries.contains_key(&jail_path(&found.real)))
        };
        let entries: Vec<_> = cache.entries().iter().filter(|entry| present(&entry.path)).cloned().collect();
        let Ok(to) = JailPath::new(path) else { return Ok(()) };
        let to = self.settle(&to)?;
        let copied = Node::File { origin: self.root.host_path(path), mode: 0o444 };
        match self.closure.entries.get(&to) {
            // The tree's own would name what is not in the jail.
            Some(entry) if entry.node == copied => self.closure.entries.remove(&to),
            // The spec's own word stands, and so does what an earlier loader of the same path got.
            Some(_) => return Ok(()),
            None => None,
        };
        self.insert(to, Node::Content { bytes: ldcache::write(&entries), mode: 0o444 }, reason)
    }

    /// A library that no search finds, and that came along in a directory below the one that asks: some
    /// program opens it by its path before, as Java's launcher does with libjvm.so, and the loader takes an
    /// object that is loaded already for every later mention of its name.
    fn forget_libraries_below(&mut self) {
        let Closure { entries, notes, .. } = &mut self.closure;
        let missing = |note: &Note| match note {
            Note::MissingLibrary { name, .. } => Some((OsString::from(name), Vec::new())),
            _ => None,
        };
        let mut places: HashMap<OsString, Vec<&Path>> = notes.iter().filter_map(missing).collect();
        for path in entries.keys().map(JailPath::as_path) {
            if let Some(found) = path.file_name().and_then(|name| places.get_mut(name)) {
                found.push(path);
            }
        }
        notes.retain(|note| match note {
            Note::MissingLibrary { by, name } => {
                let directory = by.as_path().parent().unwrap_or(Path::new("/"));
                !places[OsStr::new(name)].iter().any(|path| path.starts_with(directory))
            }
            _ => true,
        });
    }

    fn note_dangling_links(&mut self, mounts: &[Mount]) {
        let mut notes = Vec::new();
        for (path, entry) in &self.closure.entries {
            let Node::Symlink(target) = &entry.node else { continue };
            let is_there = self.settle(path).is_ok_and(|end| {
                self.closure.entries.contains_key(&end)
                    || virtual_top(&end).is_some()
                    || ["/tmp", "/home", "/workspace"].iter().any(|top| end.as_path().starts_with(top))
                    || mounts.iter().any(|mount| end.as_path().starts_with(mount.to.as_path()))
            });
            if !is_there {
                notes.push(Note::DanglingSymlink { path: path.clone(), target: target.clone() });
            }
        }
        self.closure.notes.extend(notes);
    }
}

/// # Errors
/// The path leads over a link that the jail can have made.
pub(crate) fn refuse_written(
    written: &Written,
    resolved: &Resolved,
    reason: &Reason,
) -> Result<(), ClosureError> {
    match resolved.links.iter().find(|(link, _)| written.chooses(link, &resolved.real)) {
        Some((link, _)) => {
            Err(ClosureError::WrittenLink { link: link.clone(), reason: Box::new(reason.clone()) })
        }
        None => Ok(()),
    }
}

fn feature_rules(written: &[Placed<String>]) -> Result<FeatureRules, ClosureError> {
    let mut rules = FeatureRules::default();
    for Placed { value, at } in written {
        rules.add(value).map_err(|cause| ClosureError::Pattern {
            pattern: value.clone(),
            at: at.clone(),
            cause,
        })?;
    }
    Ok(rules)
}

/// Reads a pattern in which `*` and `?` do not match `/`.
pub fn glob(pattern: &str, at: &Position) -> Result<globset::Glob, ClosureError> {
    GlobBuilder::new(pattern).literal_separator(true).build().map_err(|cause| ClosureError::Pattern {
        pattern: pattern.to_owned(),
        at: at.clone(),
        cause,
    })
}

/// The directory among those made anew that `path` is or lies in.
pub fn virtual_top(path: &JailPath) -> Option<JailPath> {
    let first = path.names().next()?;
    VIRTUAL.iter().any(|name| first == *name).then(|| JailPath::root().child(first))
}

/// Where a program is: an absolute path as it is, a name in the fixed directories.
pub fn find_program(root: &SourceRoot, name: &OsStr) -> Option<PathBuf> {
    if name.is_empty() {
        return None;
    }
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return (path.is_absolute() && is_program(root, &path)).then_some(path);
    }
    PROGRAM_DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| is_program(root, path))
}

pub fn is_program(root: &SourceRoot, path: &Path) -> bool {
    matches!(root.open_file(path), Ok(Opened::Regular(_, stat)) if stat.st_mode & 0o111 != 0)
}

/// Where the caller's own PATH has a program. Only to be told: what the jail holds does not depend on PATH.
fn on_path(root: &SourceRoot, name: &OsStr) -> Option<PathBuf> {
    if !root.is_host() || name.is_empty() || name.as_bytes().contains(&b'/') {
        return None;
    }
    let directories = std::env::var_os("PATH")?;
    let paths = std::env::split_paths(&directories).filter(|directory| directory.is_absolute());
    paths.map(|directory| directory.join(name)).find(|path| is_program(root, path))
}

fn nearest_programs(root: &SourceRoot, name: &str) -> Vec<String> {
    let (directories, word) = match name.rsplit_once('/') {
        Some((directory, word)) => (vec![if directory.is_empty() { "/" } else { directory }], word),
        None => (PROGRAM_DIRECTORIES.to_vec(), name),
    };
    let names: Vec<String> = directories
        .iter()
        .flat_map(|directory| root.names(Path::new(directory)))
        .filter_map(|name| name.into_string().ok())
        .collect();
    crate::error::nearest(word, names.iter().map(String::as_str)).map(str::to_owned).into_iter().collect()
}

/// Whether two files of the closure hold the same bytes with the same mode.
fn same_bytes(one: &Node, other: &Node) -> bool {
    let read = |node: &Node| match node {
        Node::Content { bytes, mode } => Some((bytes.clone(), *mode)),
        Node::File { origin, mode } => std::fs::read(origin).ok().map(|bytes| (bytes, *mode)),
        Node::Directory | Node::Symlink(_) => None,
    };
    let length = |node: &Node| match node {
        Node::Content { bytes, .. } => Some(bytes.len() as u64),
        Node::File { origin, .. } => {
            std::fs::symlink_metadata(origin).ok().filter(|file| file.is_file()).map(|file| file.len())
        }
        Node::Directory | Node::Symlink(_) => None,
    };
    match (length(one), length(other)) {
        (Some(one_length), Some(other_length)) if one_length == other_length => {
            matches!((read(one), read(other)), (Some(one), Some(other)) if one == other)
        }
        _ => false,
    }
}
