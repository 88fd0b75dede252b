//! Closure + Spec → [`Manifest`]: everything that will be in the jail's tree, decided before a byte
//! is written.

pub mod lock;
mod skeleton;

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Component, Path, PathBuf};

use crate::caller::{Caller, LocateError};
use crate::closure::{self, Closure, Reason};
use crate::error::StageError;
use crate::path::{HostPath, JailPath, printable};
use crate::spec::Spec;

/// Permission bits that a file of the tree may have: nothing is writable, nothing changes identity.
pub const FILE_MODE_MASK: u32 = 0o555;

/// PATH_MAX without the NUL (path_resolution(7)).
const PATH_LIMIT: usize = 4095;

/// The kernel's limit on symbolic links in one look-up (path_resolution(7)).
const LINK_LIMIT: usize = 40;

/// The tree of one jail: every path once, parents before children, every parent a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    entries: BTreeMap<JailPath, Entry>,
    /// The root of the tree that files are copied from, unless it is the host's own.
    source: Option<HostPath>,
}

/// One path of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is there.
    pub node: Node,
    /// Permission bits.
    pub mode: u32,
    /// Why it is there.
    pub reason: Reason,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A symbolic link with its target.
    Symlink(PathBuf),
    /// A copy of a regular file of the host.
    Copy(HostPath),
    /// A file with these bytes.
    Written(Vec<u8>),
}

impl Node {
    fn noun(&self) -> &'static str {
        match self {
            Node::Directory => "a directory",
            Node::Symlink(_) => "a symbolic link",
            Node::Copy(_) | Node::Written(_) => "a file",
        }
    }

    /// Whether it is a regular file.
    pub fn is_file(&self) -> bool {
        matches!(self, Node::Copy(_) | Node::Written(_))
    }
}

/// What kind of mount point a `[[mount]]` needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountPoint {
    /// The host has a directory there, or nothing yet.
    Directory,
    /// The host has something else there: a file, a socket, a device.
    File,
}

impl MountPoint {
    /// The kind for `from` as the host has it now; links are followed, as mounting does.
    pub fn of(from: &HostPath) -> MountPoint {
        match std::fs::metadata(from.as_path()) {
            Ok(metadata) if !metadata.is_dir() => MountPoint::File,
            _ => MountPoint::Directory,
        }
    }
}

/// Why no manifest can be made.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Two things want to be at one path.
    #[error("cannot place {wanted} at {path} ({wanted_by}): {there_by} has {there} there")]
    Conflict {
        /// Where.
        path: JailPath,
        /// What was to be placed.
        wanted: &'static str,
        /// On whose behalf.
        wanted_by: String,
        /// What is there.
        there: &'static str,
        /// On whose behalf.
        there_by: String,
    },
    /// A mount target lies behind a symbolic link of the tree.
    #[error("cannot mount on {path}: it leads through a symbolic link of the tree")]
    ThroughSymlink {
        /// The target as written.
        path: JailPath,
        /// The same place without links, if the tree has it.
        instead: Option<JailPath>,
    },
    /// A path lies where every jail has a mount, so that nobody would see it.
    #[error("cannot place {path} ({reason}): the jail has its own {by} there")]
    Covered {
        /// What would be hidden.
        path: JailPath,
        /// Why it was wanted.
        reason: String,
        /// By what.
        by: JailPath,
    },
    /// No system call could name it.
    #[error("cannot place {path}: it is longer than {PATH_LIMIT} bytes")]
    TooLong {
        /// Where.
        path: JailPath,
    },
    /// A mount on `/` would replace the jail.
    #[error("cannot mount on /: the jail's own tree is there")]
    MountOnRoot,
    /// The source of a mount has no meaning here.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// The user's name cannot stand in /etc/passwd or be a directory's name.
    #[error(
        "cannot make the user {}: only letters, digits, `_`, `-` and `.` can stand in a user's name",
        printable(OsStr::new(user))
    )]
    User {
        /// As written.
        user: String,
    },
}

impl StageError for ManifestError {
    fn hints(&self) -> Vec<String> {
        match self {
            ManifestError::ThroughSymlink { instead: Some(instead), .. } => {
                vec![format!("write `{instead}` instead")]
            }
            ManifestError::Covered { by, .. } => {
                vec![format!("choose a place outside {by}, leave it out with `exclude`, or use a [[mount]]")]
            }
            ManifestError::Locate(error) => error.hints(),
            ManifestError::Conflict { .. } => {
                vec!["give one of them another path, or leave one out with `exclude`".into()]
            }
            _ => Vec::new(),
        }
    }
}

/// A reason as a message names it.
struct Because<'a>(&'a Reason);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Reason::Spec { key, value } => write!(f, "{key} \"{}\"", printable(OsStr::new(value))),
            Reason::NeededBy { by, how } => {
                write!(f, "needed by {by}: {}", printable(OsStr::new(how)))
            }
            Reason::Skeleton => f.write_str("every jail"),
        }
    }
}

impl Manifest {
    /// Joins the closure, the skeleton that every jail has and the mount points that the spec needs.
    ///
    /// # Errors
    /// Two things at one path, a mount target behind a link, a file where the jail has a mount.
    pub fn plan(spec: &Spec, closure: &Closure) -> Result<Manifest, ManifestError> {
        Manifest::plan_for(spec, closure, &Caller::current())
    }

    /// The same for a caller other than this process.
    ///
    /// # Errors
    /// As [`Manifest::plan`].
    pub fn plan_for(spec: &Spec, closure: &Closure, caller: &Caller) -> Result<Manifest, ManifestError> {
        let user = &spec.process.user;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if user.is_empty() || user == "." || user == ".." || !user.bytes().all(plain) {
            return Err(ManifestError::User { user: user.clone() });
        }
        let mut manifest = Manifest { entries: BTreeMap::new(), source: closure.root.clone() };
        manifest.demand(&JailPath::root(), Node::Directory, 0o755, &Reason::Skeleton)?;
        let covers = covers(spec);
        for (path, entry) in &closure.entries {
            let (node, mode) = match &entry.node {
                closure::Node::Directory => (Node::Directory, 0o755),
                closure::Node::Symlink(target) => (Node::Symlink(target.clone()), 0o777),
                closure::Node::File { origin, mode } => (Node::Copy(origin.clone()), mode & FILE_MODE_MASK),
                closure::Node::Content { bytes, mode } => {
                    (Node::Written(bytes.clone()), mode & FILE_MODE_MASK)
                }
            };
            // A file where the jail has an own mount would be copied for nobody to see.
            let by = covers.iter().find(|by| path != *by && path.as_path().starts_with(by));
            if let (Some(by), true) = (by, node != Node::Directory) {
                let reason = Because(&entry.reason).to_string();
                return Err(ManifestError::Covered { path: path.clone(), reason, by: by.clone() });
            }
            manifest.demand(path, node, mode, &entry.reason)?;
        }
        skeleton::add(&mut manifest, spec)?;
        manifest.add_mount_points(spec, caller)?;
        Ok(manifest)
    }

    /// Every path in order: bytewise by component, so that a directory stands before what it holds.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&JailPath, &Entry)> {
        self.entries.iter()
    }

    /// The root of the tree that files are copied from; `None` for the host's own.
    pub fn source(&self) -> Option<&HostPath> {
        self.source.as_ref()
    }

    /// What is at `path` itself.
    pub fn get(&self, path: &JailPath) -> Option<&Entry> {
        self.entries.get(path)
    }

    /// Where `path` leads in the finished tree when every link is followed; `None` if to nothing.
    pub fn resolve(&self, path: &JailPath) -> Option<JailPath> {
        let mut left: VecDeque<OsString> = path.names().map(OsStr::to_owned).collect();
        let mut at = JailPath::root();
        let mut links = 0;
        while let Some(name) = left.pop_front() {
            let next = at.child(&name);
            match &self.entries.get(&next)?.node {
                Node::Symlink(target) => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return None;
                    }
                    for component in target.components().rev() {
                        match component {
                            Component::Normal(name) => left.push_front(name.to_owned()),
                            Component::ParentDir => left.push_front("..".into()),
                            _ => {}
                        }
                    }
                    if target.is_absolute() {
                        at = JailPath::root();
                    }
                    while left.front().is_some_and(|name| name == "..") {
                        left.pop_front();
                        at = at.parent().unwrap_or(at);
                    }
                }
                Node::Directory => at = next,
                Node::Copy(_) | Node::Written(_) if left.is_empty() => return Some(next),
                Node::Copy(_) | Node::Written(_) => return None,
            }
            while left.front().is_some_and(|name| name == "..") {
                left.pop_front();
                at = at.parent().unwrap_or(at);
            }
        }
        Some(at)
    }

    /// Places `node`, and directories above it where none are. What is there already stays if it is of
    /// the same kind (the same target, for links); a skeleton's mode wins over that of the closure.
    fn demand(
        &mut self,
        path: &JailPath,
        node: Node,
        mode: u32,
        reason: &Reason,
    ) -> Result<(), ManifestError> {
        if path.as_path().as_os_str().len() > PATH_LIMIT {
            return Err(ManifestError::TooLong { path: path.clone() });
        }
        // A parent that is there has been demanded itself, and so have those above it.
        let missing: Vec<JailPath> = std::iter::successors(path.parent(), JailPath::parent)
            .take_while(|parent| !self.entries.contains_key(parent))
            .collect();
        let nearest = missing.last().unwrap_or(path).parent();
        if let Some((parent, entry)) = nearest.as_ref().and_then(|parent| self.entries.get_key_value(parent))
            && entry.node != Node::Directory
        {
            return Err(conflict(parent, &Node::Directory, reason, entry));
        }
        for parent in missing {
            let entry = Entry { node: Node::Directory, mode: 0o755, reason: reason.clone() };
            self.entries.insert(parent, entry);
        }
        match self.entries.get_mut(path) {
            None => {
                self.entries.insert(path.clone(), Entry { node, mode, reason: reason.clone() });
            }
            Some(entry) => {
                let same = match (&entry.node, &node) {
                    (Node::Symlink(there), Node::Symlink(wanted)) => there == wanted,
                    (there, wanted) => there.noun() == wanted.noun(),
                };
                if !same {
                    return Err(conflict(path, &node, reason, entry));
                }
                if node == Node::Directory && *reason == Reason::Skeleton {
                    entry.mode = mode;
                }
            }
        }
        Ok(())
    }

    fn add_mount_points(&mut self, spec: &Spec, caller: &Caller) -> Result<(), ManifestError> {
        // Nothing is needed below these: the mount point is made in the fresh mount at enter.
        let fresh: Vec<JailPath> = covers(spec).into_iter().chain(spec.tmpfs.keys().cloned()).collect();
        let below = |path: &JailPath, tops: &[JailPath]| {
            tops.iter().any(|top| path != top && path.as_path().starts_with(top))
        };
        for target in spec.tmpfs.keys() {
            let reason =
                Reason::Spec { key: "tmpfs", value: printable(target.as_path().as_os_str()).to_string() };
            if !below(target, &fresh) {
                self.add_mount_point(target, MountPoint::Directory, &reason)?;
            }
        }
        let targets: Vec<JailPath> = spec.mounts.iter().map(|mount| mount.to.clone()).collect();
        for mount in &spec.mounts {
            let reason =
                Reason::Spec { key: "mount", value: printable(mount.to.as_path().as_os_str()).to_string() };
            let blind = [JailPath::root().child("proc".as_ref()), jail("/dev/pts")];
            if let Some(by) = blind.into_iter().find(|by| mount.to.as_path().starts_with(by)) {
                let reason = Because(&reason).to_string();
                return Err(ManifestError::Covered { path: mount.to.clone(), reason, by });
            }
            // Below a writable mount the jail itself could turn the mount point into a link.
            let hidden = below(&mount.to, &fresh) || below(&mount.to, &targets);
            let kind = MountPoint::of(&caller.locate(&mount.from.value)?);
            if !hidden {
                self.add_mount_point(&mount.to, kind, &reason)?;
            }
        }
        Ok(())
    }

    fn add_mount_point(
        &mut self,
        target: &JailPath,
        kind: MountPoint,
        reason: &Reason,
    ) -> Result<(), ManifestError> {
        if *target == JailPath::root() {
            return Err(ManifestError::MountOnRoot);
        }
        let linked = std::iter::successors(Some(target.clone()), JailPath::parent)
            .find(|path| matches!(self.get(path), Some(Entry { node: Node::Symlink(_), .. })));
        if let Some(link) = linked {
            let rest = target.as_path().strip_prefix(&link).unwrap_or(Path::new(""));
            let instead =
                self.resolve(&link).and_then(|resolved| JailPath::new(resolved.as_path().join(rest)).ok());
            return Err(ManifestError::ThroughSymlink { path: target.clone(), instead });
        }
        match kind {
            MountPoint::Directory => self.demand(target, Node::Directory, 0o755, reason),
            MountPoint::File => self.demand(target, Node::Written(Vec::new()), 0o444, reason),
        }
    }
}

/// Where every jail of `spec` has a mount of its own, so that the tree below is never seen.
pub(crate) fn covers(spec: &Spec) -> Vec<JailPath> {
    let mut covers: Vec<JailPath> =
        ["/proc", "/dev/pts", "/dev/shm", "/tmp", "/run", "/var/tmp"].into_iter().map(jail).collect();
    covers.push(spec.process.home());
    if spec.workspace.is_some() {
        covers.push(jail("/workspace"));
    }
    covers
}

fn jail(path: &'static str) -> JailPath {
    JailPath::new(path).expect("BUG: a fixed path is normalised")
}

fn conflict(path: &JailPath, wanted: &Node, wanted_by: &Reason, there: &Entry) -> ManifestError {
    ManifestError::Conflict {
        path: path.clone(),
        wanted: wanted.noun(),
        wanted_by: Because(wanted_by).to_string(),
        there: there.node.noun(),
        there_by: Because(&there.reason).to_string(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
