//! Spec → [`Closure`]: every file that the named programs, libraries, files and packages need to run.
//!
//! Everything is found by reading: nothing that is inspected is ever executed or mapped.

mod close;
mod collect;
pub mod elf;
mod error;
mod files;
pub mod ldcache;
pub mod loader;
mod note;
pub mod packages;
pub mod reasons;
pub mod root;
pub mod script;
pub mod search;
#[cfg(test)]
mod specimen;
pub mod token;
pub mod tree;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::path::{HostPath, JailPath, printable};
use crate::spec::Spec;

use collect::Collector;
pub(crate) use collect::{find_program, glob, refuse_written, virtual_top};
pub use error::ClosureError;
pub use note::Note;
use reasons::Reasons;
use root::SourceRoot;

/// Where programs are looked up by name, in this order.
pub const PROGRAM_DIRECTORIES: [&str; 6] =
    ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// What must be in the jail's tree, by path. Parents of every entry are entries too.
#[derive(Clone, Debug, Default)]
pub struct Closure {
    /// Sorted by path.
    pub entries: BTreeMap<JailPath, Entry>,
    /// What was found that is no error, in the order it was found.
    pub notes: Vec<Note>,
    /// The root of the tree that it was made from; the host's own when absent.
    pub root: Option<HostPath>,
    /// Every path that was looked at; empty if not all are known.
    pub looked_at: Vec<HostPath>,
}

/// One path of the closure.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What is there.
    pub node: Node,
    /// Why it is there.
    pub reason: Reason,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A directory.
    Directory,
    /// A symbolic link with its target as the host has it.
    Symlink(PathBuf),
    /// A copy of a host file.
    File {
        /// The regular file on the host, no symlink in the last component.
        origin: HostPath,
        /// Permission bits, without setuid, setgid, sticky and write bits.
        mode: u32,
    },
    /// A file written by jailmk or by the spec.
    Content {
        /// Its bytes.
        bytes: Vec<u8>,
        /// Permission bits.
        mode: u32,
    },
}

/// Why a path is in the jail: for the lock file and for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The spec names it: the key and the value, as in `programs "bash"`.
    Spec {
        /// The key, for instance `programs`.
        key: &'static str,
        /// The value that was written.
        value: String,
    },
    /// Another path of the closure needs it.
    NeededBy {
        /// Who.
        by: JailPath,
        /// How: `DT_NEEDED libc.so.6, ld.so.cache`, `PT_INTERP`, `#!`, `symlink`.
        how: String,
    },
    /// Every jail has it.
    Skeleton,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Spec { key, value } => write!(f, "{key} \"{}\"", printable(value.as_ref())),
            Reason::NeededBy { by, how } => write!(f, "{by} ({how})"),
            Reason::Skeleton => f.write_str("every jail"),
        }
    }
}

/// Finds everything that the `[rootfs]` section of `spec` brings into the jail, from the tree `root`.
///
/// # Errors
/// [`ClosureError`]: what the spec names must be there, and a program of `programs` must be able to
/// start. What `files` and `packages` bring along is closed over as far as possible, and [`Closure::notes`]
/// says what was not.
pub fn resolve(spec: &Spec, root: &SourceRoot) -> Result<Closure, ClosureError> {
    let (closure, _) = collect(spec, Collector::new(root, spec)?)?;
    Ok(closure)
}

/// The same, and every reason that was found for every path.
///
/// # Errors
/// As [`resolve`].
pub fn explain(spec: &Spec, root: &SourceRoot) -> Result<(Closure, Reasons), ClosureError> {
    let mut collector = Collector::new(root, spec)?;
    collector.reasons = Some(Reasons::default());
    let (closure, reasons) = collect(spec, collector)?;
    Ok((closure, reasons.unwrap_or_default()))
}

fn collect(spec: &Spec, collector: Collector<'_>) -> Result<(Closure, Option<Reasons>), ClosureError> {
    let root = collector.root;
    let collected = collect_all(spec, collector);
    match root.shortage() {
        Some(shortage) => Err(shortage.into()),
        None => collected,
    }
}

fn collect_all(
    spec: &Spec,
    mut collector: Collector<'_>,
) -> Result<(Closure, Option<Reasons>), ClosureError> {
    let (rootfs, root) = (&spec.rootfs, collector.root);
    // First, so that whatever comes later finds `/lib` and the like as the tree has them.
    collector.enter_merged_directories()?;
    for program in &rootfs.programs {
        collector.enter_program(program)?;
    }
    for library in &rootfs.libraries {
        collector.enter_library(library)?;
    }
    for package in &rootfs.packages {
        files::enter_package(&mut collector, package)?;
    }
    for rule in &rootfs.files {
        files::enter_rule(&mut collector, spec, rule)?;
    }
    for (path, target) in &rootfs.symlinks {
        collector.enter_symlink(path, target)?;
    }
    for directory in &rootfs.directories {
        collector.enter_directory(directory)?;
    }
    let (mut closure, reasons) = collector.finish(&spec.mounts)?;
    // From another root files beside the spec may come, which that root does not see.
    if root.is_host() {
        closure.looked_at = root.looked_at();
    }
    closure.root = (!root.is_host()).then(|| root.path().clone());
    Ok((closure, reasons))
}
