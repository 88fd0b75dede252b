//! The system call filter: an allow-list, compiled to one BPF program that every process of the jail
//! runs at every call.
//!
//! ```text
//! Policy ─ arm ─▶ Armed ─ apply ─▶ the kernel
//!   profile::table   one rule per call number
//!   program::compile a search tree over the numbers, and one block per rule that reads arguments
//!   oci::read        a profile from a file, which can only tighten
//! ```
//!
//! What the filter guarantees, whatever runs in the jail:
//! - a call that the profile does not name is `ENOSYS`, as on an older kernel, so libraries fall back;
//! - a call by another architecture's numbers (`int 0x80`, x32) kills the process;
//! - arguments behind pointers are never trusted: calls whose danger lies there (`clone3`, `openat2`)
//!   are `ENOSYS` as a whole.
//!
//! Source: Documentation/userspace-api/seccomp_filter.rst.

use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::error::StageError;
use crate::path::printable;
use crate::spec::{Capability, SeccompProfile};
use crate::sys;

mod number;
mod oci;
mod profile;
mod program;
mod rule;

pub use oci::ProfileFault;

/// Which filter the jail gets.
///
/// The network mode makes no difference: a jail without a network still talks over its loopback, and one
/// with it needs no more families or protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The profile.
    pub profile: SeccompProfile,
    /// The capabilities that the command keeps: calls that only they make useful.
    pub keep: Vec<Capability>,
}

/// A profile of the spec cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use the seccomp profile {}", printable(path.as_os_str()))]
pub struct ProfileError {
    /// The file.
    path: PathBuf,
    /// What is wrong with it.
    #[source]
    cause: ProfileFault,
}

impl StageError for ProfileError {
    fn hints(&self) -> Vec<String> {
        let text = match self.cause {
            ProfileFault::Json(_) => {
                "the format is that of the OCI runtime specification, as Docker and Podman have it"
            }
            ProfileFault::TooLong => "leave out what jailmk's own filter refuses anyhow",
            _ => "jailmk-spec(5) says under `seccomp` what of the format is taken",
        };
        vec![text.to_owned()]
    }
}

impl Policy {
    /// Compiles the filter; a built-in profile cannot fail.
    ///
    /// # Errors
    /// A profile from a file is malformed, or for other machines.
    pub fn arm(&self) -> Result<Armed, ProfileError> {
        let table = profile::table(&self.profile, &self.keep);
        let armed = Armed {
            name: self.profile.clone(),
            allowed: table.iter().filter(|rule| rule.may_allow()).count(),
            program: program::compile(&table).into_boxed_slice(),
            profile: None,
        };
        let SeccompProfile::File(file) = &self.profile else { return Ok(armed) };
        let refused = |cause| ProfileError { path: file.path.clone(), cause };
        let profile = oci::read(&file.text, &self.ground()).map_err(refused)?;
        let (program, allowed) = profile.compile(&table).map_err(refused)?;
        let unknown = profile.unknown;
        let program = program.into_boxed_slice();
        Ok(Armed { profile: Some(Profile { program, path: file.path.clone(), unknown }), allowed, ..armed })
    }

    fn ground(&self) -> oci::Ground {
        let release = nix::sys::utsname::uname().ok().map(|name| printable(name.release()).to_string());
        oci::Ground {
            capabilities: self
                .keep
                .iter()
                .map(|kept| format!("CAP_{}", kept.name().to_uppercase()))
                .collect(),
            // A kernel that does not tell is taken for an old one.
            kernel: release.and_then(|release| oci::version_of(&release)).unwrap_or((0, 0)),
        }
    }
}

/// A compiled filter. Its `Display` is its line of the plan.
pub struct Armed {
    name: SeccompProfile,
    allowed: usize,
    program: Box<[libc::sock_filter]>,
    profile: Option<Profile>,
}

impl Armed {
    /// Puts the calling thread, and all that it starts from now on, under jailmk's own filter for good.
    ///
    /// One system call, no allocation. no_new_privs must be set before.
    ///
    /// # Errors
    /// As [`sys::seccomp::set_mode_filter`].
    pub fn apply(&self) -> Result<(), Errno> {
        sys::seccomp::set_mode_filter(&self.program)
    }

    /// The command's profile, when the spec names a file.
    pub fn profile(&self) -> Option<&Profile> {
        self.profile.as_ref()
    }

    /// Which profile it is.
    pub fn name(&self) -> &SeccompProfile {
        &self.name
    }

    /// Calls that run, at least with some arguments.
    pub fn allowed(&self) -> usize {
        self.allowed
    }
}

/// A profile from a file, which the command's process adds to the filter; jailmk's own calls on the way there
/// need not be in it.
pub struct Profile {
    program: Box<[libc::sock_filter]>,
    path: PathBuf,
    unknown: Vec<String>,
}

impl Profile {
    /// Adds it, as [`Armed::apply`] does.
    ///
    /// # Errors
    /// As [`sys::seccomp::set_mode_filter`].
    pub fn apply(&self) -> Result<(), Errno> {
        sys::seccomp::set_mode_filter(&self.program)
    }

    /// How long it is.
    pub fn instructions(&self) -> usize {
        self.program.len()
    }

    /// The names in it that are of no call that jailmk knows.
    pub fn unknown(&self) -> &[String] {
        &self.unknown
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, instructions) = match (&self.name, &self.profile) {
            (SeccompProfile::Strict, _) => ("strict profile".to_owned(), self.program.len()),
            (_, None) => ("default profile".to_owned(), self.program.len()),
            (_, Some(profile)) => (
                format!("default profile and {}", printable(profile.path.as_os_str())),
                self.program.len() + profile.program.len(),
            ),
        };
        write!(f, "seccomp: {name}, {} system calls allowed, {instructions} instructions", self.allowed)
    }
}

#[cfg(test)]
mod tests;
