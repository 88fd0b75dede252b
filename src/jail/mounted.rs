//! What the jail sees of the host, and where: the spec's words → mounts in the order of their places.

use std::fmt;
use std::path::Path;

use nix::errno::Errno;

use super::error::JailError;
use super::kept::Kept;
use super::{Effect, Setting, hidden};
use crate::layer::identity::{Identity, Standing};
use crate::layer::mounts::{self, Owners, Source, Tree};
use crate::layer::overlay;
use crate::layer::place::{Kind, Missing, Place};
use crate::layer::scratch;
use crate::path::{HostPath, JailPath};
use crate::spec::{Access, Network, Position, RESOLVER, Spec, WORKSPACE, WorkspaceMode};
use crate::sys::mount::Attributes;
use crate::workspace::WorkPath;

/// One mount below the root.
#[derive(Debug)]
pub enum Mounted {
    /// A host directory or file.
    Host(mounts::Armed),
    /// A host directory whose changes stay in jailmk's state.
    Overlay(overlay::Armed),
    /// A file or directory of the workspace that the jail must not see.
    Hidden(scratch::Cover),
    /// A tmpfs of its own size.
    Tmpfs(scratch::Own),
}

/// The places of the shared tmpfs with their permission bits; the last covers its own mount point.
pub(super) fn scratch_places(spec: &Spec) -> Vec<(JailPath, u32)> {
    let path = |text: &str| JailPath::new(text).expect("BUG: a constant path is absolute");
    let places = [
        (spec.process.home(), 0o700),
        (path("/run"), 0o755),
        (path("/var/tmp"), 0o1777),
        (path("/dev/shm"), 0o1777),
    ];
    let mut places: Vec<_> =
        places.into_iter().filter(|(place, _)| !spec.tmpfs.contains_key(place)).collect();
    // ORDER: last, for the tmpfs's own root is mounted there and is hidden by this part.
    places.push((path("/tmp"), 0o1777));
    places
}

/// Whether the jail may write below a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writable {
    /// It may.
    Yes,
    /// It may not.
    No,
}

/// A mount that is decided on.
pub(super) struct Planned {
    /// Where.
    pub place: JailPath,
    /// What.
    pub mounted: Mounted,
    /// Whether for writing.
    pub writable: Writable,
}

impl Planned {
    /// Shows the owner's files as the jail's own, where root calls: the jail's uid could not reach them.
    pub fn map_to(&mut self, identity: &Identity) {
        if identity.standing != Standing::Operator {
            return;
        }
        let own = (identity.uid, identity.gid);
        match &mut self.mounted {
            Mounted::Host(mounts::Armed { tree, .. }) => {
                let owners = if tree.flags.read_only { Owners::MappedIfPossible } else { Owners::Mapped };
                tree.map_to(own, owners);
            }
            Mounted::Overlay(overlay) => {
                for tree in [&mut overlay.lower, &mut overlay.store] {
                    tree.map_to(own, Owners::Mapped);
                }
            }
            Mounted::Hidden(_) | Mounted::Tmpfs(_) => {}
        }
    }

    /// A mount of the host's.
    pub(super) fn host(place: JailPath, tree: Tree, missing: Missing) -> Planned {
        let writable = if tree.flags.read_only { Writable::No } else { Writable::Yes };
        let mount_point = Place::new(&place, tree.source.kind, missing);
        Planned { place, mounted: Mounted::Host(mounts::Armed { tree, place: mount_point }), writable }
    }

    /// Nothing, over a path below `top`.
    fn cover(top: &JailPath, path: &WorkPath, kind: Kind) -> Planned {
        let place = top.below(path.names());
        let mounted = Mounted::Hidden(scratch::Cover::new(&place, kind));
        Planned { place, mounted, writable: Writable::No }
    }

    fn is_cover(&self) -> bool {
        matches!(self.mounted, Mounted::Hidden(_))
    }
}

/// Every mount below the root, outer ones first.
///
/// # Errors
/// A host path cannot be opened, or must not be given to a jail.
pub(super) fn plan(
    spec: &Spec,
    setting: &Setting<'_>,
    scratch: &[(JailPath, u32)],
) -> Result<Vec<Planned>, JailError> {
    let wanted = wanted(spec);
    let missing = |place: &JailPath| {
        // Places made fresh for this jail: mount points may be made there, and nowhere else.
        let fresh = scratch.iter().map(|(place, _)| place).chain(spec.tmpfs.keys());
        let host = wanted.iter().map(|source| &source.place);
        if nearest_above(place, fresh) > nearest_above(place, host) { Missing::Make } else { Missing::Fail }
    };
    let mut planned = Vec::new();
    for source in &wanted {
        let Some(tree) = source.open(setting)? else { continue };
        let is_directory = tree.source.kind == Kind::Directory;
        let is_workspace = source.role == "workspace" && is_directory;
        let covers = if is_workspace { hidden::below(spec, &tree, source.review)? } else { Vec::new() };
        if let Some(path) = source.reviewed_in(setting) {
            planned.push(reviewed(source, tree, path)?);
        } else {
            if !tree.flags.read_only && is_directory {
                let mut kept = Kept::new(&source.place, &tree);
                kept.add_ways(covers.iter().map(|(path, _)| path));
                kept.add_spec_files(spec);
                if is_workspace {
                    let path = setting.caller.locate(source.path)?;
                    let (role, at) = (source.role, source.at.clone());
                    kept.add_protected().map_err(|cause| JailError::Source { role, path, at, cause })?;
                }
                planned.extend(kept.into_planned());
            }
            planned.push(Planned::host(source.place.clone(), tree, missing(&source.place)));
        }
        planned.extend(covers.into_iter().map(|(path, kind)| Planned::cover(&source.place, &path, kind)));
    }
    planned.extend(resolver_of_host(spec));
    for (place, bytes) in &spec.tmpfs {
        let tmpfs = scratch::Own::new(place, *bytes, missing(place));
        planned.push(Planned {
            place: place.clone(),
            mounted: Mounted::Tmpfs(tmpfs),
            writable: Writable::Yes,
        });
    }
    // ORDER: outer places before those below them, which they would cover; at one place a cover is the last.
    planned.sort_by(|a, b| (&a.place, a.is_cover()).cmp(&(&b.place, b.is_cover())));
    Ok(planned)
}

/// How deep the nearest of `places` lies that contains `place`; `None` when none does.
fn nearest_above<'a>(place: &JailPath, places: impl Iterator<Item = &'a JailPath>) -> Option<usize> {
    places
        .filter(|above| *above != place && place.as_path().starts_with(above.as_path()))
        .map(|above| above.names().count())
        .max()
}

/// What the spec wants of the host.
fn wanted(spec: &Spec) -> Vec<HostSource<'_>> {
    let workspace = spec.workspace.iter().map(|workspace| HostSource {
        role: "workspace",
        place: JailPath::new(WORKSPACE).expect("BUG: a constant path is absolute"),
        path: &workspace.path.value,
        at: &workspace.path.at,
        access: match workspace.mode {
            WorkspaceMode::Direct => Access::ReadWrite,
            WorkspaceMode::Review | WorkspaceMode::ReadOnly => Access::ReadOnly,
        },
        review: workspace.mode == WorkspaceMode::Review,
        exec: true,
        create: false,
        optional: false,
    });
    let mounts = spec.mounts.iter().map(|mount| HostSource {
        role: "mount",
        place: mount.to.clone(),
        path: &mount.from.value,
        at: &mount.from.at,
        access: mount.access,
        review: false,
        exec: mount.exec,
        create: mount.create,
        optional: mount.optional,
    });
    workspace.chain(mounts).collect()
}

/// The workspace below, the jail's changes above.
fn reviewed(source: &HostSource<'_>, lower: Tree, changes: &HostPath) -> Result<Planned, JailError> {
    let store = match Source::open(changes) {
        Ok(store) => store,
        Err(Errno::ENOENT) => Source::described(changes),
        Err(cause) => {
            let (path, at) = (changes.clone(), source.at.clone());
            return Err(JailError::Source { role: "changes", path, at, cause });
        }
    };
    let store = Tree::new(store, lower.flags);
    let place = Place::new(&source.place, lower.source.kind, Missing::Fail);
    let mounted = Mounted::Overlay(overlay::Armed::new(lower, store, place));
    Ok(Planned { place: source.place.clone(), mounted, writable: Writable::Yes })
}

/// With the host's network comes the file that names its resolvers; a spec that brings its own keeps it.
fn resolver_of_host(spec: &Spec) -> Option<Planned> {
    if spec.network != Network::Host || spec.brings(RESOLVER) {
        return None;
    }
    let place = JailPath::new(RESOLVER).expect("BUG: a constant path is absolute");
    let source = Source::open(&HostPath::root().join(RESOLVER)).ok()?;
    let flags = Attributes { read_only: true, nodev: true, noexec: true };
    Some(Planned::host(place, Tree::new(source, flags), Missing::Fail))
}

/// A host path as the spec wants it.
struct HostSource<'a> {
    role: &'static str,
    place: JailPath,
    path: &'a Path,
    at: &'a Position,
    access: Access,
    /// Writes go to a copy.
    review: bool,
    exec: bool,
    create: bool,
    optional: bool,
}

impl HostSource<'_> {
    /// Where the jail's changes to it are kept, when they are.
    fn reviewed_in<'s>(&self, setting: &'s Setting<'_>) -> Option<&'s HostPath> {
        setting.changes.filter(|_| self.review)
    }

    fn open(&self, setting: &Setting<'_>) -> Result<Option<Tree>, JailError> {
        let path = setting.caller.locate(self.path)?;
        if self.create && setting.effect == Effect::Enter {
            make_directory(&path).map_err(|cause| JailError::Create {
                path: path.clone(),
                at: self.at.clone(),
                cause,
            })?;
        }
        let source = match Source::open(&path) {
            Ok(source) => source,
            Err(Errno::ENOENT) if self.create && setting.effect == Effect::Describe => {
                Source::described(&path)
            }
            Err(Errno::ENOENT) if self.optional => return Ok(None),
            Err(cause) => {
                return Err(JailError::Source { role: self.role, path, at: self.at.clone(), cause });
            }
        };
        if source.kind == Kind::Directory {
            for private in setting.private {
                // Compared without symlinks on both sides, or a link would hide the containment; and by what
                // the directories are, for the host may have mounted one of them a second time.
                let real = std::fs::canonicalize(private).unwrap_or_else(|_| private.as_path().to_owned());
                let by_path = real.starts_with(source.real_path()) || source.real_path().starts_with(&real);
                if by_path || source.is_on_the_way_to(&real) || source.lies_below(&real) {
                    let holds = private.clone();
                    return Err(JailError::TooWide { path, at: self.at.clone(), holds });
                }
            }
        }
        let read_only = self.access == Access::ReadOnly;
        let flags = Attributes { read_only, nodev: true, noexec: !self.exec };
        Ok(Some(Tree::new(source, flags)))
    }
}

fn make_directory(path: &HostPath) -> std::io::Result<()> {
    match std::fs::create_dir_all(path.as_path()) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

impl fmt::Display for Mounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mounted::Host(mount) => mount.fmt(f),
            Mounted::Overlay(overlay) => overlay.fmt(f),
            Mounted::Hidden(cover) => cover.fmt(f),
            Mounted::Tmpfs(tmpfs) => tmpfs.fmt(f),
        }
    }
}
