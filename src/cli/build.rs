//! `jailmk build`.

use std::path::Path;
use std::time::{Instant, SystemTime};

use nix::errno::Errno;
use serde::Serialize;

use crate::caller::Caller;
use crate::cli::progress::shown;
use crate::cli::{Build, Failure, Outcome, print, say};
use crate::closure::root::{RootError, SourceRoot};
use crate::closure::{Closure, ClosureError, Reason, refuse_written, resolve as resolve_in};
use crate::layer::cgroup::Size;
use crate::manifest::Manifest;
use crate::manifest::lock::{Kind, Lock, Locked};
use crate::path::HostPath;
use crate::rootfs::{
    BuildOptions, RootfsError, State, build, doubt, lock_path, preview, read_lock, save_lock, unchanged,
};
use crate::spec::Spec;
use crate::written::Written;

/// What `build --json` prints.
#[derive(Serialize)]
struct Summary {
    name: String,
    tree: String,
    lock: Option<String>,
    digest: String,
    files: usize,
    bytes: u64,
    shared_files: usize,
    shared_bytes: u64,
    reused: bool,
    milliseconds: u128,
    largest: Vec<Large>,
    notes: Vec<String>,
    #[serde(skip)]
    verbose: bool,
}

/// One of the largest files.
#[derive(Serialize)]
struct Large {
    path: String,
    bytes: u64,
}

/// As many as one looks at.
const LARGEST: usize = 10;

/// What `build --dry-run` prints as JSON.
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
        let beside = lock_path(&spec);
        let locked = match (&beside, self.locked) {
            (Some(path), true) => Some(read_lock(path)?),
            (None, true) => return Err(RootfsError::NoLock { name: spec.name.clone() }.into()),
            (_, false) => None,
        };
        let output = self.output.as_deref().map(|path| caller.locate(path)).transpose()?;
        if self.dry_run {
            let closure = resolve(&spec, from.as_ref())?;
            self.tell_notes(&closure.notes);
            return dry_run(&spec, &closure, self.json);
        }
        let started = Instant::now();
        let state = State::open()?;
        match self.spec.trust_spec {
            false => doubt::refuse_doubtful(&state, &spec)?,
            true => doubt::settle(&state, &spec)?,
        }
        let known = match (&output, &from) {
            (None, None) => unchanged(&spec, &state, locked.as_ref())?,
            _ => None,
        };
        let (built, notes) = match known {
            Some(known) => known,
            None => shown(&spec.name, |progress| -> Result<_, Failure> {
                let began = Some(SystemTime::now());
                let closure = resolve(&spec, from.as_ref())?;
                let options = BuildOptions {
                    output: output.clone(),
                    locked: locked.as_ref(),
                    began,
                    progress: Some(progress),
                };
                let built = build(&spec, &state, &options, &closure)?;
                Ok((built, closure.notes.iter().map(ToString::to_string).collect()))
            })?,
        };
        let elapsed = started.elapsed();
        self.tell_notes(&notes);
        let lock = match &output {
            Some(output) => Some(HostPath::new(output, appended(output.as_path(), ".lock"))),
            None => beside,
        };
        if let (None, Some(path), false) = (&output, &lock, self.locked) {
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
            shared_files: built.shared.files,
            shared_bytes: built.shared.bytes,
            reused: built.reused,
            milliseconds: elapsed.as_millis(),
            largest: largest(&built.lock),
            notes,
            verbose: self.verbose,
        };
        if self.json {
            print(format_args!("{:#}\n", serde_json::json!(summary)))?;
        } else {
            print(&summary)?;
        }
        Ok(0)
    }

    fn tell_notes(&self, notes: &[impl std::fmt::Display]) {
        if !self.json {
            notes.iter().for_each(|note| say(format_args!("note: {note}")));
        }
    }
}

/// The largest first; of equal ones the first by path.
fn largest(lock: &Lock) -> Vec<Large> {
    let mut files: Vec<(&Locked, u64)> =
        lock.entries().iter().filter_map(|entry| Some((entry, entry.content()?.size))).collect();
    files.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    files.truncate(LARGEST);
    files.into_iter().map(|(entry, bytes)| Large { path: entry.path.to_string(), bytes }).collect()
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let verb = if self.reused { "unchanged" } else { "built" };
        write!(f, "{verb} {}: {} files, {}, ", self.name, self.files, Size(self.bytes))?;
        if !self.reused && self.shared_files > 0 {
            write!(f, "{} of it shared, ", Size(self.shared_bytes))?;
        }
        writeln!(f, "{} ms", self.milliseconds)?;
        if self.verbose {
            let sizes: Vec<String> = self.largest.iter().map(|file| Size(file.bytes).to_string()).collect();
            let width = sizes.iter().map(String::len).max().unwrap_or(0);
            for (file, size) in self.largest.iter().zip(sizes) {
                writeln!(f, "{size:>width$}  {}", file.path)?;
            }
        }
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

/// The closure of `spec` in `from`; else in the root that it names, or in this host's.
pub(super) fn resolve(spec: &Spec, from: Option<&HostPath>) -> Result<Closure, Failure> {
    Ok(resolve_in(spec, &source_root(spec, from)?)?)
}

/// The tree that files are taken from: `from`, else the root that the spec names, or this host's.
pub(super) fn source_root(spec: &Spec, from: Option<&HostPath>) -> Result<SourceRoot, ClosureError> {
    Ok(match (from, &spec.rootfs.from) {
        (None, None) => SourceRoot::host()?,
        (Some(path), _) => open_root(path.as_path())?,
        (None, Some(from)) => {
            let reason = Reason::Spec { key: "from", value: from.value.to_string_lossy().into_owned() };
            let written = Written::of(spec, &Caller::current());
            refuse_written(&written, &SourceRoot::host()?.resolve(&from.value)?, &reason)?;
            open_root(&from.value)?
        }
    })
}

/// Its own path without links: files in it are opened by paths that must hold none, so that nobody who can
/// write in the tree can have another file copied.
fn open_root(path: &Path) -> Result<SourceRoot, RootError> {
    let errno = |error: std::io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO));
    let real = std::fs::canonicalize(path)
        .map_err(|error| RootError { path: path.to_owned(), errno: errno(error) })?;
    SourceRoot::open(HostPath::absolute(real).expect("BUG: a canonical path is absolute"))
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
