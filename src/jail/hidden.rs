//! What of the workspace the jail must not see: globs → the files and directories that they match now.
//!
//! A name costs one look, a pattern in a name the reading of one directory; only `**` walks. The tree may be
//! what an earlier jail left, so it is read by descriptor and through no link.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::Path;

use globset::{GlobBuilder, GlobMatcher};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::fstatat;

use super::error::JailError;
use crate::layer::mounts;
use crate::layer::place::Kind;
use crate::rootfs::directory;
use crate::spec::{Placed, Spec, WORKSPACE};
use crate::workspace::WorkPath;
use crate::workspace::tree::{self, Node, Tree, Unreadable};

/// One name of a glob.
enum Part {
    Name(String),
    Pattern(GlobMatcher),
    /// `**`
    Any,
}

/// What must not be seen, with the glob that says so. Among them is what cannot be covered: links, and paths
/// that no system call takes.
type Found<'a> = BTreeMap<WorkPath, (Node, &'a Placed<String>)>;

/// Everything that `hide` matches in the workspace, and what it is: to be covered.
///
/// # Errors
/// A directory cannot be read, or has a path that is too long; a match is a link, over which nothing can be
/// mounted, or lies behind one, which may be turned to elsewhere.
pub(super) fn below(
    spec: &Spec,
    above: &mounts::Tree,
    reviewed: bool,
) -> Result<Vec<(WorkPath, Kind)>, JailError> {
    let globs = spec.workspace.as_ref().map(|workspace| workspace.hide.as_slice()).unwrap_or_default();
    let mut found = Found::new();
    for glob in globs {
        let (name, at) = (&glob.value, &glob.at);
        matches(above, glob, reviewed, &mut found).map_err(|cause| JailError::Hide {
            glob: name.clone(),
            at: at.clone(),
            cause,
        })?;
    }
    let mut covers: Vec<(WorkPath, Kind)> = Vec::new();
    for (path, (node, glob)) in found {
        // In a directory that is empty there is nothing to be hidden.
        if covers.last().is_some_and(|(above, _)| path.is_within(above)) {
            continue;
        }
        let (name, at) = (glob.value.clone(), glob.at.clone());
        if path.is_too_long() {
            // All of it would fill the screen.
            let below: WorkPath = path.names().take(1).fold(WorkPath::top(), |top, name| top.child(name));
            return Err(JailError::HiddenDeep { glob: name, at, below: below.to_string() });
        }
        let kind = match node {
            Node::Symlink => return Err(JailError::HiddenLink { glob: name, at, path: path.to_string() }),
            Node::Directory => Kind::Directory,
            _ => Kind::File,
        };
        covers.push((path, kind));
    }
    Ok(covers)
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

fn matches<'a>(
    above: &mounts::Tree,
    glob: &'a Placed<String>,
    reviewed: bool,
    found: &mut Found<'a>,
) -> Result<(), Errno> {
    let top = directory::open_to_read(AT_FDCWD, above.source.real_path())?;
    let tree = Tree::new(top, Unreadable::Refused);
    let parts = parts(glob);
    // Directories, each with the place in the glob of the name to look for there.
    let mut todo = vec![(WorkPath::top(), 0)];
    while let Some((here, index)) = todo.pop() {
        let Some(part) = parts.get(index) else { continue };
        let next = index + 1;
        let mut take = |path: WorkPath, node: Node, next: usize| -> Result<(), Errno> {
            let is_end = match node {
                _ if next == parts.len() || path.is_too_long() => true,
                // What is behind a link that may be turned to elsewhere cannot stay hidden.
                Node::Symlink => leads_on(&tree, &path)?,
                _ => false,
            };
            if is_end {
                found.insert(path, (node, glob));
            } else if node == Node::Directory {
                todo.push((path, next));
            }
            Ok(())
        };
        if let Part::Name(name) = part {
            let path = here.child(name.as_ref());
            if let Some(stat) = tree.status(&path)? {
                take(path, Node::of(&stat), next)?;
            }
            continue;
        }
        let directory = match tree.open_directory(&here) {
            // Gone since it was seen.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => continue,
            // Another file system, inside which an overlay does not see.
            Err(Errno::EXDEV) if reviewed => continue,
            other => other?,
        };
        for name in tree::names(directory.as_fd())? {
            let name = tree::os(&name);
            let Some(stat) = tree::status_in(directory.as_fd(), name)? else { continue };
            let (path, node) = (here.child(name), Node::of(&stat));
            match part {
                Part::Pattern(pattern) if pattern.is_match(name) => take(path, node, next)?,
                Part::Any if next == parts.len() => take(path, node, next)?,
                Part::Any if node == Node::Directory => take(path, node, index)?,
                _ => {}
            }
        }
        if matches!(part, Part::Any) && next < parts.len() {
            todo.push((here, next));
        }
    }
    Ok(())
}

/// Whether there may be a directory behind the link, here or as the jail sees it.
fn leads_on(tree: &Tree, path: &WorkPath) -> Result<bool, Errno> {
    let Some(parent) = path.parent() else { return Ok(true) };
    let parent = tree.open_directory(&parent)?;
    let stat = fstatat(&parent, path.name(), AtFlags::empty());
    Ok(stat.is_ok_and(|stat| Node::of(&stat) == Node::Directory)
        || Path::new(&tree.link_target(path)?).starts_with(WORKSPACE))
}
