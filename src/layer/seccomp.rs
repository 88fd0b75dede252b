//! The system call filter: an allow-list, compiled to one BPF program that every process of the jail
//! runs at every call.
//!
//! ```text
//! Policy ─ arm ─▶ Armed ─ apply ─▶ the kernel
//!   profile::table   one rule per call number
//!   program::compile a search tree over the numbers, and one block per rule that reads arguments
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

use nix::errno::Errno;

use crate::spec::SeccompProfile;
use crate::sys;

mod number;
mod profile;
mod program;
mod rule;

/// Which filter the jail gets.
///
/// The network mode makes no difference: a jail without a network still talks over its loopback, and one
/// with it needs no more families or protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The profile.
    pub profile: SeccompProfile,
}

impl Policy {
    /// Compiles the filter. It cannot fail, reads nothing and asks the kernel nothing.
    pub fn arm(&self) -> Armed {
        let table = profile::table(&self.profile);
        Armed {
            profile: self.profile.clone(),
            allowed: table.iter().filter(|rule| rule.may_allow()).count(),
            program: program::compile(&table).into_boxed_slice(),
        }
    }
}

/// A compiled filter. Its `Display` is its line of the plan.
pub struct Armed {
    profile: SeccompProfile,
    allowed: usize,
    program: Box<[libc::sock_filter]>,
}

impl Armed {
    /// Puts the calling thread, and all that it starts from now on, under the filter for good.
    ///
    /// One system call, no allocation. no_new_privs must be set before.
    ///
    /// # Errors
    /// As [`sys::seccomp::set_mode_filter`].
    pub fn apply(&self) -> Result<(), Errno> {
        sys::seccomp::set_mode_filter(&self.program)
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let profile = match self.profile {
            SeccompProfile::Default => "default",
            SeccompProfile::Strict => "strict",
        };
        write!(
            f,
            "seccomp: {profile} profile, {} system calls allowed, {} instructions",
            self.allowed,
            self.program.len()
        )
    }
}

#[cfg(test)]
mod tests;
