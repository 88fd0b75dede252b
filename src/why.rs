//! Why a path is in a jail, or why it is not and what would bring it.
//!
//! What is said to bring a path has been tried: the spec with that one line more resolves to a closure that
//! holds it.

mod absence;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::closure::reasons::{Because, Reasons, Step};
use crate::closure::root::SourceRoot;
use crate::closure::{ClosureError, Reason, explain, find_program};
use crate::error::StageError;
use crate::layer::environment::DEFAULT_PATH;
use crate::manifest::{Manifest, ManifestError};
use crate::path::{JailPath, JailPathError, printable};
use crate::spec::{FileRule, Placed, Position, Spec};

pub use absence::{Absence, Fact, Suggestion};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    /// The path can be none of a jail.
    #[error("cannot look `{}` up", printable(path.as_os_str()))]
    Path {
        /// As asked.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: JailPathError,
    },
    /// The spec has no closure.
    #[error(transparent)]
    Closure(#[from] ClosureError),
    /// The closure makes no tree.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl StageError for WhyError {
    fn hints(&self) -> Vec<String> {
        match self {
            WhyError::Path { .. } => {
                vec!["name it as it is seen inside the jail, or a program without any slash".into()]
            }
            WhyError::Closure(error) => error.hints(),
            WhyError::Manifest(error) => error.hints(),
        }
    }
}

/// What is known about a path.
#[derive(Debug)]
pub enum Answer {
    /// It is in the jail.
    Present(Presence),
    /// It is not.
    Absent(Absence),
}

/// A path of the jail.
#[derive(Debug)]
pub struct Presence {
    /// As asked; of a program's name, where it was found.
    pub path: JailPath,
    /// Where that really is.
    pub real: JailPath,
    /// A program by that name is not found by it inside: the jail's PATH lacks its directory.
    pub outside_path: bool,
    /// From the real path to the spec, as short as it can be.
    pub chain: Vec<Step>,
    /// Everything that asks for the real path.
    pub reasons: Vec<Reason>,
}

/// Explains `asked`, a path in the jail of `spec` or the name of a program, with files from `root`.
///
/// # Errors
/// The spec cannot be resolved, or the path cannot be one of a jail.
pub fn why(spec: &Spec, root: &SourceRoot, asked: &Path) -> Result<Answer, WhyError> {
    let (closure, reasons) = explain(spec, root)?;
    let manifest = Manifest::plan(spec, &closure)?;
    let question = Question { spec, root, manifest: &manifest, reasons: &reasons };
    if let Some(name) = program_name(asked) {
        return Ok(question.program(name));
    }
    let path = JailPath::new(asked).map_err(|cause| WhyError::Path { path: asked.to_owned(), cause })?;
    Ok(question.path(&path))
}

/// A name that a shell would look up.
fn program_name(asked: &Path) -> Option<&OsStr> {
    let name = asked.as_os_str();
    let is_name = !name.is_empty() && !name.as_encoded_bytes().contains(&b'/') && name != "." && name != "..";
    is_name.then_some(name)
}

/// A resolved spec that questions are asked of.
struct Question<'a> {
    spec: &'a Spec,
    root: &'a SourceRoot,
    manifest: &'a Manifest,
    reasons: &'a Reasons,
}

impl Question<'_> {
    fn path(&self, path: &JailPath) -> Answer {
        match self.manifest.resolve(path).filter(|real| self.manifest.get(real).is_some()) {
            Some(real) => Answer::Present(self.present(path.clone(), real)),
            None => Answer::Absent(self.absent(path)),
        }
    }

    fn program(&self, name: &OsStr) -> Answer {
        let path = self.spec.process.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let inside = path.split(':').filter_map(|directory| JailPath::new(directory).ok());
        for candidate in inside.map(|directory| directory.child(name)) {
            if let Some(real) = self.manifest.resolve(&candidate)
                && self
                    .manifest
                    .get(&real)
                    .is_some_and(|entry| entry.node.is_file() && entry.mode & 0o111 != 0)
            {
                return Answer::Present(self.present(candidate, real));
            }
        }
        let found = find_program(self.root, name).and_then(|path| JailPath::new(path).ok());
        match found.map(|path| self.path(&path)) {
            Some(Answer::Present(presence)) => Answer::Present(Presence { outside_path: true, ..presence }),
            Some(absent) => absent,
            None => Answer::Absent(self.no_program(name, path)),
        }
    }

    fn present(&self, path: JailPath, real: JailPath) -> Presence {
        let mut chain = self.reasons.chain(&real);
        let mut reasons: Vec<Reason> = self.reasons.of(&real).cloned().collect();
        if let Some(entry) = self.manifest.get(&real) {
            // What is not from the closure is the manifest's own: the skeleton, mount points.
            if reasons.is_empty() && (chain.is_empty() || entry.reason == Reason::Skeleton) {
                chain.clear();
                reasons.push(entry.reason.clone());
            }
            if chain.is_empty() {
                chain.push(Step { path: real.clone(), because: Because::Reason(entry.reason.clone()) });
            }
        }
        Presence { path, real, outside_path: false, chain, reasons }
    }
}

/// Where the spec says what a reason names.
pub fn position<'a>(spec: &'a Spec, reason: &Reason) -> Option<&'a Position> {
    let Reason::Spec { key, value } = reason else { return None };
    let rootfs = &spec.rootfs;
    let of_texts =
        |texts: &'a [Placed<String>]| texts.iter().find(|text| text.value == *value).map(|text| &text.at);
    match *key {
        "programs" => of_texts(&rootfs.programs),
        "libraries" => of_texts(&rootfs.libraries),
        "packages" => of_texts(&rootfs.packages),
        "files" => {
            let names = |rule: &FileRule| match rule {
                FileRule::Glob { pattern, .. } => pattern == value,
                FileRule::Copy { from, .. } => from.to_string_lossy() == *value,
                FileRule::Content { to, .. } => to.to_string() == *value,
            };
            rootfs.files.iter().find(|rule| names(&rule.value)).map(|rule| &rule.at)
        }
        "directories" => {
            let mut directories = rootfs.directories.iter();
            directories.find(|directory| directory.value.to_string() == *value).map(|directory| &directory.at)
        }
        "symlinks" => {
            let mut links = rootfs.symlinks.iter();
            links.find(|(path, _)| path.to_string() == *value).map(|(_, target)| &target.at)
        }
        "mount" => {
            let mut mounts = spec.mounts.iter();
            mounts.find(|mount| mount.to.to_string() == *value).map(|mount| &mount.from.at)
        }
        _ => None,
    }
}
