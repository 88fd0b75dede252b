//! What a resolver finds that is no error.

use std::fmt;
use std::path::{Path, PathBuf};

use super::elf::{Defect, Feature, NoteDefect};
use super::root::FileKind;
use super::script::ScriptDefect;
use super::search::SearchError;
use crate::path::{JailPath, printable};

/// A finding that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Note {
    /// An object that came in by `files` or `packages`, or that may miss it, misses a library.
    MissingLibrary {
        /// Who asks.
        by: JailPath,
        /// For what.
        name: String,
    },
    /// A library without a symbol version that it is needed for.
    MissingVersion {
        /// Who needs it.
        by: JailPath,
        /// The library.
        library: JailPath,
        /// The version.
        version: String,
    },
    /// No library for a feature that a dlopen note names.
    MissingFeature {
        /// Whose note.
        by: JailPath,
        /// The feature.
        feature: Box<Feature>,
    },
    /// A dlopen note that cannot be read.
    DlopenNote {
        /// Whose.
        path: JailPath,
        /// What is wrong.
        defect: NoteDefect,
    },
    /// The host's list of libraries that are loaded into every program: left out.
    HostPreloadSkipped,
    /// A library that the loader would stop at.
    MalformedLibrary {
        /// Who asks.
        by: JailPath,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        defect: Defect,
    },
    /// An ELF file that came in by `files` or `packages` and that cannot be closed over.
    Unresolved {
        /// The file.
        path: JailPath,
        /// Why.
        error: SearchError,
    },
    /// A script that came in by `files` or `packages` and whose interpreter is not there.
    MissingInterpreter {
        /// The script.
        script: JailPath,
        /// What its `#!` line names.
        interpreter: PathBuf,
    },
    /// A script that came in by `files` or `packages` and that the kernel would not run.
    Script {
        /// The script.
        path: JailPath,
        /// Why.
        defect: ScriptDefect,
    },
    /// Setuid, setgid or sticky was dropped.
    SpecialBitsDropped {
        /// The file.
        path: JailPath,
        /// The bits that it has on the host.
        mode: u32,
    },
    /// Neither file nor directory nor link: left out.
    SpecialFileSkipped {
        /// Where.
        path: PathBuf,
        /// What it is.
        kind: FileKind,
    },
    /// Below /proc, /sys, /dev or /run, which the jail makes anew: left out.
    VirtualSkipped {
        /// Where.
        path: PathBuf,
    },
    /// Files that a package lists and the tree does not have.
    PackageFilesMissing {
        /// The package.
        package: String,
        /// How many.
        count: usize,
    },
    /// A link whose target is not in the jail.
    DanglingSymlink {
        /// The link.
        path: JailPath,
        /// Its target.
        target: PathBuf,
    },
    /// A search directory that depends on the working directory and was not searched.
    RelativeDirectory {
        /// Whose.
        by: JailPath,
        /// The directory; empty stands for the working directory itself.
        directory: PathBuf,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |path: &Path| printable(path.as_os_str()).to_string();
        match self {
            Note::MissingLibrary { by, name } => {
                write!(f, "{by} asks for library {}, which is not found", printable(name.as_ref()))
            }
            Note::MissingVersion { by, library, version } => {
                write!(
                    f,
                    "{by} needs version {} of {library}, which does not have it",
                    printable(version.as_ref())
                )
            }
            Note::MissingFeature { by, feature } => {
                write!(f, "{by} would use {feature}, which is not found")
            }
            Note::DlopenNote { path, defect } => {
                write!(f, "the dlopen note of {path} is not followed: {defect}")
            }
            Note::HostPreloadSkipped => {
                f.write_str("/etc/ld.so.preload is left out: it is for the host's programs")
            }
            Note::MalformedLibrary { by, path, defect } => {
                write!(f, "{by} would fail to load {}: {defect}", show(path))
            }
            Note::Unresolved { path, error } => write!(f, "the libraries of {path} are not known: {error}"),
            Note::MissingInterpreter { script, interpreter } => {
                write!(f, "script {script} asks for {}, which is not found", show(interpreter))
            }
            Note::Script { path, defect } => write!(f, "script {path} cannot be run: {defect}"),
            Note::SpecialBitsDropped { path, mode } => {
                write!(f, "{path} loses the special bits of its mode {mode:04o}")
            }
            Note::SpecialFileSkipped { path, kind } => {
                write!(f, "{} is {} and is left out", show(path), kind.name())
            }
            Note::VirtualSkipped { path } => {
                write!(f, "{} is left out: the jail makes that directory anew", show(path))
            }
            Note::PackageFilesMissing { package, count } => {
                write!(f, "package {} lists {count} paths that are not there", printable(package.as_ref()))
            }
            Note::DanglingSymlink { path, target } => {
                write!(f, "{path} links to {}, which is not in the jail", show(target))
            }
            Note::RelativeDirectory { by, directory } => write!(
                f,
                "{by} searches `{}` below its working directory, which is not known",
                show(directory)
            ),
        }
    }
}
