//! `jailmk build`.

use std::path::Path;

use serde::Serialize;

use crate::caller::Caller;
use crate::cli::{Build, Failure, Outcome, print, say};
use crate::closure::root::SourceRoot;
use crate::closure::{Closure, resolve as resolve_in};
use crate::layer::cgroup::Size;
use crate::manifest::Manifest;
use crate::manifest::lock::{Kind, Lock};
use crate::path::HostPath;
use crate::rootfs::{BuildOptions, RootfsError, State, build, lock_path, preview, read_lock, save_lock};
use crate::spec::Spec;

/// What `build --json` prints.
#[derive(Serialize)]
struct Summary {
    name: String,
    tree: String,
    lock: Option<String>,
    digest: String,
    files: usize,
    bytes: u64,
    reused: bool,
    milliseconds: u128,
    notes: Vec<String>,
}

/// What `build --dry-run` prints as JSON, and `why` reads.
#[derive(Serialize)]
struct Line {
    path: String,
    kind: &'static str,
    reason: String,
}

impl Build {
    /// Resolves and assembles.
    pub(super) fn run(self) -> Outcome {
        let spec = self.spec.load()?;
        let caller = Caller::current();
        let from = self.from.as_deref().map(|path| caller.locate(path)).transpose()?;
        let closure = resolve(&spec, from.as_ref())?;
        if !self.json {
            closure.notes.iter().for_each(|note| say(format_args!("note: {note}")));
        }
        if self.dry_run {
            return dry_run(&spec, &closure, self.json);
        }
        let beside = lock_path(&spec);
        let locked = match (&beside, self.locked) {
            (Some(path), true) => Some(read_lock(path)?),
            (None, true) => return Err(RootfsError::NoLock { name: spec.name.clone() }.into()),
            (_, false) => None,
        };
        let output = self.output.as_deref().map(|path| caller.locate(path)).transpose()?;
        let options = BuildOptions { output, locked: locked.as_ref(), progress: None };
        let built = build(&spec, &State::open()?, &options, &closure)?;
        let lock = match &options.output {
            Some(output) => Some(HostPath::new(output, appended(output.as_path(), ".lock"))),
            None => beside,
        };
        if let (None, Some(path), false) = (&options.output, &lock, self.locked) {
            // The tree is built and locked in the state; the copy beside the spec is for review.
            if let Err(error) = save_lock(path, &built.lock) {
                say(format_args!("note: {}", crate::error::Causes(&error)));
            }
        }
        let summary = Summary {
            name: spec.name.clone(),
            tree: built.tree.to_string(),
            lock: lock.map(|path| path.to_string()),
            digest: crate::manifest::lock::Hex(&built.lock.digest()).to_string(),
            files: built.files,
            bytes: built.bytes,
            reused: built.reused,
            milliseconds: built.elapsed.as_millis(),
            notes: closure.notes.iter().map(ToString::to_string).collect(),
        };
        if self.json {
            print(format_args!("{:#}\n", serde_json::json!(summary)))?;
        } else {
            print(&summary)?;
        }
        Ok(0)
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = if self.reused { "unchanged" } else { "built" };
        writeln!(
            f,
            "{verb} {}: {} files, {}, {} ms",
            self.name,
            self.files,
            Size(self.bytes),
            self.milliseconds
        )?;
        writeln!(f, "tree: {}", self.tree)?;
        match &self.lock {
            Some(lock) => writeln!(f, "lock: {lock}"),
            None => Ok(()),
        }
    }
}

fn appended(path: &Path, suffix: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The closure of `spec` in `from`, or in this host's root.
pub(super) fn resolve(spec: &Spec, from: Option<&HostPath>) -> Result<Closure, Failure> {
    let root = match from {
        None => SourceRoot::host(),
        Some(path) => SourceRoot::open(path.clone()),
    }?;
    Ok(resolve_in(spec, &root)?)
}

fn dry_run(spec: &Spec, closure: &Closure, json: bool) -> Outcome {
    let lock: Lock = preview(&Manifest::plan(spec, closure)?)?;
    if !json {
        print(&lock)?;
        return Ok(0);
    }
    let lines: Vec<Line> = lock
        .entries()
        .iter()
        .map(|entry| Line {
            path: entry.path.to_string(),
            kind: match entry.kind {
                Kind::Directory => "directory",
                Kind::Symlink(_) => "symlink",
                Kind::File(_) => "file",
            },
            reason: entry.reason.to_string(),
        })
        .collect();
    print(format_args!("{:#}\n", serde_json::json!(lines)))?;
    Ok(0)
}
