//! A workspace that the jail writes at once: what at its top is protected, and what of it has come or changed since.
//!
//! What was there is read-only inside. One name that was not could be made, and a link could not be protected:
//! what became of these is all that can be told. Its top and that of its git directory are read once at each end,
//! and nothing below.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl};

use super::git_config::{self, NAMED};
use super::journal::Stamp;
use super::path::WorkPath;
use super::protected::{self, GIT, Level};
use super::tree::{self, Node, Tree, Unreadable};
use crate::caller::Caller;
use crate::rootfs::directory;
use crate::spec::{Spec, WorkspaceMode};

/// Names of one directory that are read.
const NAMES: usize = 4096;

/// Names that only the reading of the top finds and that are protected: each costs mounts.
const FOUND: usize = 128;

/// Names in a directory that is a repository itself which say what git runs.
const BARE: [&str; 6] = ["config", "config.worktree", "hooks", "info", "modules", "commondir"];

/// What is done about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Care {
    /// It is read-only when it is there, and told when it came.
    Kept,
    /// It is told when it came or changed.
    Told,
    /// It is told when it came.
    Come,
}

/// What at the top of a workspace is protected.
#[derive(Debug, Default)]
pub struct Protected {
    /// In the order of the table; what they are, and what is done about them.
    pub names: Vec<(WorkPath, &'static str, Care)>,
    /// Whether a directory had more names than are read, or protected.
    pub cut: bool,
}

impl Protected {
    /// Of an open workspace with this real path.
    pub fn look(tree: &Tree, path: &Path) -> Protected {
        let mut found = Protected::default();
        let mut known = BTreeSet::new();
        let mut add = |names: &mut Vec<_>, path: Result<WorkPath, _>, what, care| {
            let path: Option<WorkPath> = path.ok();
            names.extend(path.filter(|path| known.insert(path.clone())).map(|path| (path, what, care)));
        };
        let there = |name: &str| WorkPath::new(name).is_ok_and(|path| node(tree, &path).is_some());
        for (name, what) in protected::at_top() {
            add(&mut found.names, WorkPath::new(name), what, Care::Kept);
        }
        for path in git_config::named(path).into_iter().filter(|path| *path != WorkPath::top()) {
            add(&mut found.names, Ok(path), NAMED, Care::Kept);
        }
        let git = WorkPath::top().child(".git".as_ref());
        match node(tree, &git) {
            // A git directory holds history as well; as a file it says where that is.
            Some(Node::Directory) => {
                let (names, cut) = names(tree, &git);
                found.cut |= cut;
                for name in names.iter().filter(|name| !protected::is_history(&[name.as_os_str()])) {
                    add(&mut found.names, Ok(git.child(name)), GIT, Care::Told);
                }
            }
            Some(_) => add(&mut found.names, Ok(git), GIT, Care::Kept),
            None => {}
        }
        if there("HEAD") && (there("commondir") || there("objects") && there("refs")) {
            add(&mut found.names, WorkPath::new("HEAD"), GIT, Care::Come);
            for name in BARE {
                add(&mut found.names, WorkPath::new(name), GIT, Care::Kept);
            }
        }
        if there("pyvenv.cfg") {
            for name in ["bin", "Scripts"] {
                add(&mut found.names, WorkPath::new(name), protected::PYTHON, Care::Kept);
            }
        }
        let (names, cut) = names(tree, &WorkPath::top());
        found.cut |= cut;
        let groups = names.iter().filter_map(|name| {
            let (group, _) = protected::group_at(&[protected::folded(name)])?;
            (group.level != Level::Warned).then_some((name, group.what))
        });
        let before = found.names.len();
        for (name, what) in groups {
            found.cut |= found.names.len() - before >= FOUND;
            if !found.cut {
                add(&mut found.names, Ok(WorkPath::top().child(name)), what, Care::Kept);
            }
        }
        found
    }

    /// The same of a directory that is not open yet.
    ///
    /// # Errors
    /// As open(2).
    pub fn of(path: &Path) -> Result<Protected, Errno> {
        open(path).map(|tree| Protected::look(&tree, path))
    }
}

/// The protected names at the top of a direct workspace, as they were when the jail began.
pub struct Direct {
    workspace: Tree,
    path: std::path::PathBuf,
    before: BTreeMap<WorkPath, Option<Stamp>>,
    protected: Protected,
}

impl Direct {
    /// Looks before the jail begins; `None` for another mode, and for a workspace that cannot be opened.
    pub fn look(spec: &Spec, caller: &Caller) -> Option<Direct> {
        let workspace =
            spec.workspace.as_ref().filter(|workspace| workspace.mode == WorkspaceMode::Direct)?;
        let path = caller.locate(&workspace.path.value).ok()?.as_path().canonicalize().ok()?;
        let workspace = open(&path).ok()?;
        let protected = Protected::look(&workspace, &path);
        let before =
            protected.names.iter().map(|(name, ..)| (name.clone(), stamp(&workspace, name))).collect();
        Some(Direct { workspace, path, before, protected })
    }

    /// What is weaker for it than it should be.
    pub fn weaker(&self) -> Option<String> {
        self.protected.cut.then(|| {
            format!(
                "the workspace or its git directory has too many names: of those that only a pattern finds, such as *.desktop, {FOUND} among the first {NAMES} are protected"
            )
        })
    }

    /// What is another than before, and what it is.
    pub fn changed(&self) -> Vec<(WorkPath, &'static str)> {
        // The configuration that named some was read-only, unless it is new: then its word counts, too.
        let mut names = self.protected.names.clone();
        let later = Protected::look(&self.workspace, &self.path).names;
        names.extend(later.into_iter().filter(|(name, ..)| !self.before.contains_key(name)));
        names
            .into_iter()
            .filter(|(name, _, care)| {
                let before = self.before.get(name).copied().flatten();
                match (before, stamp(&self.workspace, name)) {
                    (_, None) => false,
                    (None, Some(_)) => true,
                    (Some(_), Some(_)) if *care == Care::Come => false,
                    // A directory is stamped by what happens in it, which was read-only.
                    (Some(before), Some(now)) if now.node == Node::Directory => before.inode != now.inode,
                    (Some(before), Some(now)) => before != now,
                }
            })
            .map(|(name, what, _)| (name, what))
            .collect()
    }
}

fn open(path: &Path) -> Result<Tree, Errno> {
    Ok(Tree::new(directory::open_to_read(AT_FDCWD, path)?, Unreadable::Refused))
}

fn stamp(workspace: &Tree, name: &WorkPath) -> Option<Stamp> {
    workspace.status(name).ok()?.as_ref().map(Stamp::of)
}

fn node(workspace: &Tree, name: &WorkPath) -> Option<Node> {
    workspace.status(name).ok()?.as_ref().map(Node::of)
}

/// The first names of a directory, in order, and whether it has more; none of one that cannot be read.
fn names(workspace: &Tree, path: &WorkPath) -> (Vec<OsString>, bool) {
    let Ok(opened) = workspace.open_directory(path) else { return (Vec::new(), false) };
    // To look leaves no trace; of somebody else's directory it may.
    let _ = fcntl(&opened, FcntlArg::F_SETFL(OFlag::O_NOATIME));
    let Ok(mut directory) = Dir::from_fd(opened) else { return (Vec::new(), false) };
    let is_name = |name: &OsString| !matches!(name.as_bytes(), b"." | b"..");
    let read = directory.iter().map_while(Result::ok).map(|entry| tree::os(entry.file_name()).to_owned());
    let mut names: Vec<OsString> = read.filter(is_name).take(NAMES + 1).collect();
    let cut = names.len() > NAMES;
    names.truncate(NAMES);
    names.sort_unstable();
    (names, cut)
}
