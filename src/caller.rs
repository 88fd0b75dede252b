//! Who calls, and what `~` and relative paths of a spec mean to them.

use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, getegid, geteuid};

use crate::error::StageError;
use crate::path::{HostPath, printable};

/// The calling user and their surroundings.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Effective user.
    pub uid: Uid,
    /// Effective group.
    pub gid: Gid,
    /// What `~` stands for.
    pub home: Option<HostPath>,
    /// What relative paths are relative to.
    pub directory: Option<HostPath>,
}

impl Caller {
    /// This process: HOME when it is absolute, the working directory when it still exists.
    pub fn current() -> Caller {
        Caller {
            uid: geteuid(),
            gid: getegid(),
            home: std::env::var_os("HOME").and_then(HostPath::absolute),
            directory: HostPath::current_directory().ok(),
        }
    }

    /// The host path that `path` of a spec means.
    ///
    /// # Errors
    /// `~` without HOME, a relative path without a working directory.
    pub fn locate(&self, path: &Path) -> Result<HostPath, LocateError> {
        let (base, rest) = match path.strip_prefix("~") {
            Ok(rest) => (&self.home, rest),
            Err(_) if path.is_absolute() => return Ok(HostPath::new(&HostPath::root(), path)),
            Err(_) => (&self.directory, path),
        };
        let unknown = || match path.starts_with("~") {
            true => LocateError::HomeUnknown { path: path.to_owned() },
            false => LocateError::DirectoryUnknown { path: path.to_owned() },
        };
        Ok(HostPath::new(base.as_ref().ok_or_else(unknown)?, rest))
    }
}

/// Why a path of a spec means nothing.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    /// `~` is used and HOME says nothing.
    #[error("cannot find {}: HOME is not set to an absolute path", printable(path.as_os_str()))]
    HomeUnknown {
        /// As written.
        path: PathBuf,
    },
    /// A relative path is used and the working directory is gone.
    #[error("cannot find {}: the working directory does not exist", printable(path.as_os_str()))]
    DirectoryUnknown {
        /// As written.
        path: PathBuf,
    },
}

impl StageError for LocateError {
    fn hints(&self) -> Vec<String> {
        let hint = match self {
            LocateError::HomeUnknown { .. } => "set HOME, or write the path in full",
            LocateError::DirectoryUnknown { .. } => "change to a directory that exists",
        };
        vec![hint.into()]
    }
}
