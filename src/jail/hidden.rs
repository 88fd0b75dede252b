//! What of the workspace the jail must not see: globs → the files and directories that they match now.
//!
//! A name costs one look, a pattern in a name the reading of one directory; only `**` walks. The tree may be
//! what an earlier jail left, so it is read by descriptor and through no link.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use globset::{GlobBuilder, GlobMatcher};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;

use super::error::JailError;
use super::mounted::{Mounted, Planned, Writable};
use crate::layer::mounts;
use crate::layer::place::Kind;
use crate::layer::scratch::Cover;
use crate::path::JailPath;
use crate::rootfs::directory;
use crate::spec::{Placed, Spec};
use crate::workspace::WorkPath;
use crate::workspace::tree::{self, Node, Tree, Unreadable};

/// One name of a glob.
enum Part {
    Name(String),
    Pattern(GlobMatcher),
    /// `**`
    Any,
}

/// Covers for everything that `hide` matches below the workspace at `place`.
///
/// # Errors
/// A directory cannot be read, or a match is a link, over which nothing can be mounted.
pub(super) fn below(spec: &Spec, place: &JailPath, above: &mounts::Tree) -> Result<Vec<Planned>, JailError> {
    let globs = spec.workspace.as_ref().map(|workspace| workspace.hide.as_slice()).unwrap_or_default();
    if globs.is_empty() {
        return Ok(Vec::new());
    }
    let mut found: BTreeMap<WorkPath, Node> = BTreeMap::new();
    for glob in globs {
        let failed = |cause| JailError::Hide { glob: glob.value.clone(), at: glob.at.clone(), cause };
        let top = directory::open_to_read(AT_FDCWD, above.source.real_path()).map_err(failed)?;
        let tree = Tree::new(top, Unreadable::Refused);
        matches(&tree, &parts(glob), &mut found).map_err(failed)?;
    }
    let mut planned: Vec<(WorkPath, Planned)> = Vec::new();
    for (path, node) in found {
        // In a directory that is empty there is nothing to be hidden.
        if planned.last().is_some_and(|(above, _)| path.is_within(above)) {
            continue;
        }
        if node == Node::Symlink {
            return Err(JailError::HiddenLink { path: path.to_string() });
        }
        let kind = if node == Node::Directory { Kind::Directory } else { Kind::File };
        let at = path.names().fold(place.clone(), |at, name| at.child(name));
        let mounted = Mounted::Hidden(Cover::new(&at, kind));
        planned.push((path, Planned { place: at, mounted, writable: Writable::No }));
    }
    Ok(planned.into_iter().map(|(_, planned)| planned).collect())
}

fn parts(glob: &Placed<String>) -> Vec<Part> {
    let names = glob.value.split('/').filter(|name| !name.is_empty() && *name != ".");
    let part = |name: &str| match name {
        "**" => Part::Any,
        name if !name.contains(['*', '?', '[', '{', '\\']) => Part::Name(name.to_owned()),
        name => match GlobBuilder::new(name).literal_separator(true).build() {
            Ok(glob) => Part::Pattern(glob.compile_matcher()),
            // A `{` that another name closes: the reader of the spec has taken the whole.
            Err(_) => Part::Name(name.to_owned()),
        },
    };
    names.map(part).collect()
}

fn matches(tree: &Tree, parts: &[Part], found: &mut BTreeMap<WorkPath, Node>) -> Result<(), Errno> {
    let mut todo = vec![(WorkPath::top(), parts)];
    while let Some((here, parts)) = todo.pop() {
        let Some((part, rest)) = parts.split_first() else { continue };
        let mut take = |path: WorkPath, node: Node| match rest {
            _ if path.is_too_long() => {}
            [] => drop(found.insert(path, node)),
            rest if node == Node::Directory => todo.push((path, rest)),
            _ => {}
        };
        if let Part::Name(name) = part {
            let path = here.child(name.as_ref());
            if let Some(stat) = tree.status(&path)? {
                take(path, Node::of(&stat));
            }
            continue;
        }
        let directory = match tree.open_directory(&here) {
            // Gone since it was seen, or another file system, which is not seen inside.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => continue,
            other => other?,
        };
        let mut below = Vec::new();
        for name in tree::names(directory.as_fd())? {
            let name = tree::os(&name);
            let Some(stat) = tree::status_in(directory.as_fd(), name)? else { continue };
            let (path, node) = (here.child(name), Node::of(&stat));
            match part {
                Part::Pattern(pattern) if pattern.is_match(name) => take(path, node),
                Part::Any if rest.is_empty() => take(path, node),
                Part::Any if node == Node::Directory && !path.is_too_long() => below.push((path, parts)),
                _ => {}
            }
        }
        todo.extend(below);
        if matches!(part, Part::Any) && !rest.is_empty() {
            todo.push((here, rest));
        }
    }
    Ok(())
}
