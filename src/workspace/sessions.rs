//! All sessions of a state: who holds changes, and what is left of specs that are gone.

use std::ffi::{CString, OsStr, OsString};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::error::ReviewError;
use super::session::{ABOUT, EMPTIED, REVIEW, Session};
use super::tree;
use crate::caller::Caller;
use crate::path::{HostPath, printable};
use crate::rootfs::{Removal, State, directory};
use crate::spec::Spec;

/// What `status` tells of one session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The jail's name.
    pub name: String,
    /// Its spec: a path, or the name of a built-in one.
    pub spec: String,
    /// Whether there is no such file any more.
    pub spec_gone: bool,
    /// The workspace on the host.
    pub workspace: HostPath,
    /// Whether a jail runs.
    pub running: bool,
    /// Changed paths; `None` when they cannot be counted.
    pub changes: Option<usize>,
}

/// The directory of one session, and what it says of itself.
struct Kept {
    directory: CString,
    fd: OwnedFd,
    name: String,
    spec: OsString,
    workspace: HostPath,
    /// All was dropped, and nothing has come since.
    emptied: bool,
}

impl Kept {
    /// Whether the spec is a file that is surely not there: it may lie where this user cannot look now.
    fn spec_is_gone(&self) -> bool {
        let path = Path::new(&self.spec);
        let absent =
            |error: std::io::Error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
        path.is_absolute() && std::fs::metadata(path).err().is_some_and(absent)
    }

    fn session(self, state: &State) -> Session {
        let path = state.path().join(REVIEW).join(tree::os(&self.directory));
        Session::left(self.name, self.workspace, path, self.fd)
    }
}

fn kept(state: &State) -> Result<Vec<Kept>, ReviewError> {
    let path = state.path().join(REVIEW);
    let failed = |cause| ReviewError::State { verb: "read", path: path.clone(), cause };
    let review = match directory::open_to_read(state.fd(), REVIEW) {
        Err(Errno::ENOENT) => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut names = directory::names(review.as_fd()).map_err(failed)?;
    names.sort_unstable();
    let kept = names.into_iter().filter_map(|name| {
        let fd = directory::open_to_read(review.as_fd(), name.as_c_str()).ok()?;
        let about = directory::read_file(fd.as_fd(), ABOUT);
        let emptied = about == Err(Errno::ENOENT);
        let about = about.or_else(|_| directory::read_file(fd.as_fd(), EMPTIED)).ok()?;
        let mut fields = about.split(|byte| *byte == 0).map(OsStr::from_bytes);
        let (jail, spec, workspace) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Kept {
            directory: name,
            fd,
            name: printable(jail).to_string(),
            spec: spec.to_owned(),
            workspace: HostPath::absolute(workspace)?,
            emptied,
        })
    });
    Ok(kept.collect())
}

/// The other workspaces that jails of `spec` have changed.
///
/// # Errors
/// The state cannot be read.
pub fn elsewhere(state: &State, spec: &Spec) -> Result<Vec<HostPath>, ReviewError> {
    let origin = printable(super::session::origin(spec).as_ref()).to_string();
    let mut all = all(state)?;
    all.retain(|other| other.name == spec.name && other.spec == origin && other.changes != Some(0));
    Ok(all.into_iter().map(|other| other.workspace).collect())
}

/// Every session of this state that holds changes or is in use, by name of its directory.
///
/// # Errors
/// The state cannot be read.
pub fn all(state: &State) -> Result<Vec<Summary>, ReviewError> {
    let mut all = Vec::new();
    for kept in kept(state)?.into_iter().filter(|kept| !kept.emptied) {
        let spec_gone = kept.spec_is_gone();
        let (name, workspace) = (kept.name.clone(), kept.workspace.clone());
        let spec = printable(&kept.spec).to_string();
        let session = kept.session(state);
        let running = session.is_busy();
        let changes = session.changes().ok().map(|changes| changes.shown().count());
        if !running && changes == Some(0) {
            continue;
        }
        all.push(Summary { name, spec, spec_gone, workspace, running, changes });
    }
    Ok(all)
}

/// The session that a spec which is gone has left: where there are more, that of the caller's directory.
///
/// # Errors
/// The state cannot be read; it is not clear which one is meant.
pub fn of_gone_spec(state: &State, spec: &Path, caller: &Caller) -> Result<Option<Session>, ReviewError> {
    let names = names_of(spec, caller);
    let mut all: Vec<Kept> = kept(state)?;
    all.retain(|kept| !kept.emptied && names.iter().any(|name| *name == kept.spec) && kept.spec_is_gone());
    if all.len() > 1 {
        let here = caller.directory.as_ref().and_then(|here| here.as_path().canonicalize().ok());
        let workspaces = all.iter().map(|kept| kept.workspace.clone()).collect();
        all.retain(|kept| Some(kept.workspace.as_path()) == here.as_deref());
        if all.is_empty() {
            return Err(ReviewError::Several { spec: printable(spec.as_os_str()).to_string(), workspaces });
        }
    }
    Ok(all.pop().map(|kept| kept.session(state)))
}

/// The paths that a file which is not there may have been known by: as written, and without links.
fn names_of(spec: &Path, caller: &Caller) -> Vec<PathBuf> {
    let Some(given) = caller.directory.as_ref().map(|here| HostPath::new(here, spec)) else {
        return Vec::new();
    };
    let given = given.as_path().to_owned();
    let real = given.parent().and_then(|parent| parent.canonicalize().ok()).zip(given.file_name());
    let real = real.map(|(parent, name)| parent.join(name));
    [given].into_iter().chain(real).collect()
}

/// Removes what specs that are gone have left, where it holds no change and nobody uses it; returns the specs.
///
/// # Errors
/// The state cannot be read.
pub fn collect(state: &State, removal: Removal) -> Result<Vec<String>, ReviewError> {
    let path = state.path().join(REVIEW);
    let mut collected = Vec::new();
    for kept in kept(state)?.into_iter().filter(Kept::spec_is_gone) {
        let (directory, emptied) = (kept.directory.clone(), kept.emptied);
        let spec = printable(&kept.spec).to_string();
        let mut session = kept.session(state);
        // What cannot be locked, brought up to date or read, stays.
        let is_empty = match removal {
            Removal::Real => {
                !session.is_busy() && session.lock_to("remove").is_ok() && (emptied || is_unchanged(&session))
            }
            Removal::Pretended => !session.is_busy() && (emptied || is_unchanged(&session)),
        };
        if !is_empty {
            continue;
        }
        if removal == Removal::Real {
            let failed =
                |cause| ReviewError::State { verb: "remove", path: path.join(tree::os(&directory)), cause };
            session.empty()?;
            let review = directory::open_to_read(state.fd(), REVIEW).map_err(failed)?;
            // Empty directories, and what says whose it was.
            directory::remove_tree(review.as_fd(), &directory).map_err(failed)?;
        }
        collected.push(spec);
    }
    Ok(collected)
}

fn is_unchanged(session: &Session) -> bool {
    session.changes().is_ok_and(|changes| changes.iter().next().is_none())
}
