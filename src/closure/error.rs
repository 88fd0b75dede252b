//! Why there is no closure, with the place in the spec and the cure.

use std::path::PathBuf;

use super::elf::{Defect, Feature};
use super::packages::{Absent, PackagesError};
use super::root::{FileKind, RootError};
use super::script::ScriptDefect;
use super::search::SearchError;
use super::{PROGRAM_DIRECTORIES, Reason};
use crate::error::StageError;
use crate::path::{JailPath, printable};
use crate::spec::Position;

/// Why there is no closure.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClosureError {
    /// No file of that name can be executed.
    #[error("cannot find program `{}` ({at})", printable(name.as_ref()))]
    ProgramNotFound {
        /// As written.
        name: String,
        /// Where.
        at: Position,
        /// Names that are near.
        nearest: Vec<String>,
        /// Where the caller's own PATH has it, for the hint alone.
        on_path: Option<PathBuf>,
    },
    /// A program that no loader would load.
    #[error("cannot resolve program {path} ({at})")]
    Program {
        /// The program.
        path: JailPath,
        /// Where it is asked for.
        at: Position,
        /// Why.
        #[source]
        cause: SearchError,
    },
    /// A script that the kernel would not run.
    #[error("cannot run script {path} ({at})")]
    Script {
        /// The script.
        path: JailPath,
        /// Where it is asked for.
        at: Position,
        /// Why.
        #[source]
        cause: ScriptDefect,
    },
    /// The program behind `#!`.
    #[error("cannot find interpreter `{}` of script {script} ({at})", printable(interpreter.as_os_str()))]
    InterpreterNotFound {
        /// The script.
        script: JailPath,
        /// What its `#!` line names.
        interpreter: PathBuf,
        /// Where it is asked for.
        at: Position,
    },
    /// A library that a program needs.
    #[error("cannot find library `{}` that {by} needs ({at})", printable(name.as_ref()))]
    MissingLibrary {
        /// The name.
        name: String,
        /// Who needs it.
        by: JailPath,
        /// Where the program is asked for.
        at: Position,
        /// Every directory that was looked into.
        searched: Vec<PathBuf>,
    },
    /// A library for a feature that a program's dlopen note requires.
    #[error("cannot find {feature}, which {by} opens ({at})")]
    MissingFeature {
        /// The feature, with the libraries of which one is enough.
        feature: Box<Feature>,
        /// Whose note.
        by: JailPath,
        /// Where the program is asked for.
        at: Position,
        /// Every directory that was looked into.
        searched: Vec<PathBuf>,
    },
    /// A library without a symbol version that is needed.
    #[error("cannot start {by} with {library} ({at}): it lacks version `{}`", printable(version.as_ref()))]
    MissingVersion {
        /// The version.
        version: String,
        /// The library.
        library: JailPath,
        /// Who needs it.
        by: JailPath,
        /// Where the program is asked for.
        at: Position,
    },
    /// A file that stops the loader.
    #[error("cannot load library {} that {by} needs ({at})", printable(path.as_os_str()))]
    MalformedLibrary {
        /// The file.
        path: PathBuf,
        /// Who needs it.
        by: JailPath,
        /// Where the program is asked for.
        at: Position,
        /// What is wrong.
        #[source]
        defect: Defect,
    },
    /// `libraries` names one that no loader finds.
    #[error("cannot find library `{}` ({at})", printable(name.as_ref()))]
    LibraryNotFound {
        /// As written.
        name: String,
        /// Where.
        at: Position,
        /// Every directory that was looked into.
        searched: Vec<PathBuf>,
    },
    /// `libraries` without any dynamic program to tell the loader.
    #[error("cannot look up library `{}` ({at})", printable(name.as_ref()))]
    NoLoader {
        /// As written.
        name: String,
        /// Where.
        at: Position,
    },
    /// A pattern that cannot be read.
    #[error("cannot read pattern `{}` ({at})", printable(pattern.as_ref()))]
    Pattern {
        /// As written.
        pattern: String,
        /// Where.
        at: Position,
        /// Why.
        #[source]
        cause: globset::Error,
    },
    /// A pattern that is not absolute.
    #[error("cannot use relative pattern `{}` ({at})", printable(pattern.as_ref()))]
    RelativePattern {
        /// As written.
        pattern: String,
        /// Where.
        at: Position,
    },
    /// A pattern that matches nothing.
    #[error("cannot find any file that matches `{}` ({at})", printable(pattern.as_ref()))]
    NoMatch {
        /// As written.
        pattern: String,
        /// Where.
        at: Position,
    },
    /// The source of a copy.
    #[error("cannot copy {} ({at})", printable(from.as_os_str()))]
    Copy {
        /// As written.
        from: PathBuf,
        /// Where.
        at: Position,
        /// Why.
        #[source]
        cause: RootError,
    },
    /// A link in the way of a source that the jail can have made.
    #[error("cannot take {reason}: {} is a symlink where the jail writes", printable(link.as_os_str()))]
    WrittenLink {
        /// On the host.
        link: PathBuf,
        /// What is taken, or why.
        reason: Box<Reason>,
    },
    /// The source of a copy lies beside the spec, and leads elsewhere.
    #[error(
        "cannot copy {} ({at}): it leads out of the spec's directory, to {}",
        printable(from.as_os_str()),
        printable(real.as_os_str())
    )]
    LedOut {
        /// As written.
        from: PathBuf,
        /// Where.
        at: Position,
        /// Where it leads.
        real: PathBuf,
    },
    /// The source of a copy is a device or the like.
    #[error("cannot copy {} ({at}): it is {}", printable(from.as_os_str()), kind.name())]
    CopyKind {
        /// As written.
        from: PathBuf,
        /// Where.
        at: Position,
        /// What it is.
        kind: FileKind,
    },
    /// Something of the source tree that cannot be read.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A directory that cannot be listed.
    #[error("cannot list {}", printable(path.as_os_str()))]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// Two different things for one path.
    #[error("cannot place {path} twice: for {first}, and for {second}")]
    Conflict {
        /// Where.
        path: JailPath,
        /// Who had it first.
        first: Box<Reason>,
        /// Who comes second.
        second: Box<Reason>,
    },
    /// A place that the jail makes anew at each enter.
    #[error("cannot place {path} for {reason}: the jail makes {top} anew at each enter")]
    Virtual {
        /// Where.
        path: JailPath,
        /// Why it was to be there.
        reason: Box<Reason>,
        /// The directory.
        top: JailPath,
    },
    /// Links of the jail that go round.
    #[error("cannot place {path}: links go round")]
    LinkLoop {
        /// Where.
        path: JailPath,
    },
    /// No such package is installed.
    #[error("cannot find package `{}` ({at}): {}", printable(name.as_ref()), match absent {
        Absent::Unknown { .. } => "it is not installed",
        Absent::Virtual { .. } => "it is only a name that other packages provide",
        Absent::Removed => "it was removed and only its configuration files are left",
        Absent::Ambiguous { .. } => "it is installed for several architectures",
    })]
    UnknownPackage {
        /// As written.
        name: String,
        /// Where.
        at: Position,
        /// Why there is none.
        absent: Absent,
    },
    /// The database cannot answer.
    #[error("cannot look up package `{}` ({at})", printable(name.as_ref()))]
    PackageDatabase {
        /// As written.
        name: String,
        /// Where.
        at: Position,
        /// Why.
        #[source]
        cause: PackagesError,
    },
    /// The tree has no database of packages.
    #[error(
        "cannot look up package `{}` ({at}): the tree has no database of dpkg, apk or pacman",
        printable(name.as_ref())
    )]
    NoPackageDatabase {
        /// As written.
        name: String,
        /// Where.
        at: Position,
    },
}

impl StageError for ClosureError {
    fn hints(&self) -> Vec<String> {
        let meant = |names: &[String]| {
            let names: Vec<String> =
                names.iter().map(|name| format!("`{}`", printable(name.as_ref()))).collect();
            if names.is_empty() { Vec::new() } else { vec![format!("did you mean {}?", names.join(" or "))] }
        };
        let looked = |searched: &[PathBuf]| {
            let names: Vec<String> =
                searched.iter().map(|path| printable(path.as_os_str()).to_string()).collect();
            if names.is_empty() {
                "no directory was searched for it".to_owned()
            } else {
                format!("looked into ld.so.cache and {}", names.join(", "))
            }
        };
        match self {
            ClosureError::ProgramNotFound { name, on_path: Some(path), .. } => {
                let (path, name) = (printable(path.as_os_str()), printable(name.as_ref()));
                vec![
                    format!(
                        "your PATH has it at {path}, which is not looked into: name that path in `programs`"
                    ),
                    format!(
                        "so that the jail's PATH finds it, copy it there by `files` instead: \
                         {{ from = \"{path}\", to = \"/usr/local/bin/{name}\" }}"
                    ),
                ]
            }
            ClosureError::ProgramNotFound { name, nearest, .. } => {
                let mut hints = meant(nearest);
                if !name.contains('/') {
                    hints.push(format!("programs are looked for in {}", PROGRAM_DIRECTORIES.join(", ")));
                }
                hints
            }
            ClosureError::UnknownPackage { name, absent, .. } => match absent {
                Absent::Unknown { nearest: Some(nearest) } => meant(std::slice::from_ref(nearest)),
                Absent::Virtual { providers: names } | Absent::Ambiguous { instances: names } => {
                    let names: Vec<String> =
                        names.iter().map(|name| format!("`{}`", printable(name.as_ref()))).collect();
                    vec![format!("name one of those that are installed: {}", names.join(", "))]
                }
                Absent::Unknown { nearest: None } | Absent::Removed => {
                    vec![format!(
                        "install {} first, or name its files with `files`",
                        printable(name.as_ref())
                    )]
                }
            },
            ClosureError::PackageDatabase { name, cause: PackagesError::Rpm { .. }, .. } => {
                let name = printable(name.as_ref());
                vec![format!("`rpm -ql {name}` lists its files: name them with `files`")]
            }
            ClosureError::MissingFeature { feature, searched, .. } => {
                let mut hints = vec![looked(searched)];
                hints.push("install the package that has it, then build again".to_owned());
                if !feature.name.is_empty() {
                    let name = printable(feature.name.as_ref());
                    hints.push(format!("or do without: dlopen = [\"!{name}\"] in [rootfs]"));
                }
                hints
            }
            ClosureError::MissingVersion { .. } => {
                vec!["the two are of different releases: install ones that belong together".to_owned()]
            }
            ClosureError::MissingLibrary { searched, .. }
            | ClosureError::LibraryNotFound { searched, .. } => {
                vec![looked(searched), "install the package that has it, then build again".to_owned()]
            }
            ClosureError::NoPackageDatabase { .. } => {
                vec!["name the files with `files`".to_owned()]
            }
            ClosureError::NoMatch { .. } => {
                vec!["write { …, optional = true } if it may be missing".to_owned()]
            }
            ClosureError::RelativePattern { .. } => {
                vec![
                    "a pattern is an absolute path; to copy a file from beside the spec, write { from, to }"
                        .to_owned(),
                ]
            }
            ClosureError::InterpreterNotFound { interpreter, .. } => {
                use std::os::unix::ffi::OsStrExt;
                if interpreter.as_os_str().as_bytes().ends_with(b"\r") {
                    vec!["the script's lines end with a carriage return; the kernel takes it as part of the name".to_owned()]
                } else {
                    Vec::new()
                }
            }
            ClosureError::NoLoader { .. } => {
                vec!["name a dynamic program in `programs`: its loader is the one that counts".to_owned()]
            }
            ClosureError::WrittenLink { .. } => {
                vec!["see where it leads; if that is meant, name it itself".to_owned()]
            }
            ClosureError::LedOut { real, .. } => {
                vec![format!("if that is meant, write `{}` itself", printable(real.as_os_str()))]
            }
            ClosureError::Conflict { .. } => {
                vec!["leave one of them out with `exclude`, or copy it elsewhere".to_owned()]
            }
            _ => Vec::new(),
        }
    }
}
