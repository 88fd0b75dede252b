//! Why there is no jail: what the preparation, and what the start, can fail at.

use std::io;

use nix::errno::Errno;

use crate::caller::LocateError;
use crate::error::{StageError, status};
use crate::jail::lead::Lead;
use crate::layer::cgroup::Size;
use crate::path::HostPath;
use crate::rootfs::RootfsError;
use crate::spec::Position;
use crate::workspace::path::LONGEST;

/// Why a jail cannot be entered as the spec wants.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    /// A host path of the spec cannot be opened.
    #[error("cannot open the {role} `{path}` ({at})")]
    Source {
        /// `workspace` or `mount`.
        role: &'static str,
        /// On the host.
        path: HostPath,
        /// In the spec.
        at: Position,
        /// Why.
        #[source]
        cause: Errno,
    },
    /// The built tree cannot be opened.
    #[error("cannot open the built tree `{path}`")]
    Tree {
        /// On the host.
        path: HostPath,
        /// Why.
        #[source]
        cause: Errno,
    },
    /// A path of the spec that means nothing here.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// A host directory that would put jailmk's own files into the jail.
    #[error("cannot give `{path}` to the jail ({at}): it holds {holds}, which the jail must not reach")]
    TooWide {
        /// On the host.
        path: HostPath,
        /// In the spec.
        at: Position,
        /// What lies below it.
        holds: HostPath,
    },
    /// A glob of `hide` cannot be looked up.
    #[error("cannot hide `{glob}` ({at})")]
    Hide {
        /// As written.
        glob: String,
        /// In the spec.
        at: Position,
        /// Why.
        #[source]
        cause: Errno,
    },
    /// A link cannot be covered, and what it leads to would be seen.
    #[error("cannot hide `{glob}` ({at}): `{path}` of the workspace is a symlink")]
    HiddenLink {
        /// As written.
        glob: String,
        /// In the spec.
        at: Position,
        /// In the workspace, for people.
        path: String,
    },
    /// What lies so deep cannot be covered, and would be seen.
    #[error(
        "cannot hide `{glob}` ({at}): below `{below}` of the workspace there is a path of more than {LONGEST} bytes"
    )]
    HiddenDeep {
        /// As written.
        glob: String,
        /// In the spec.
        at: Position,
        /// In the workspace, for people.
        below: String,
    },
    /// A mount point on another mount that does not have it.
    #[error("cannot make the host directory `{path}` ({at})")]
    Create {
        /// On the host.
        path: HostPath,
        /// In the spec.
        at: Position,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// Root in a user namespace that holds host root and few other ids.
    #[error("cannot choose a user for the jail: this root has no other ids, and may be the host's")]
    NoIdentity,
    /// No Landlock.
    #[error("cannot confine by Landlock: this kernel has it not, or it is not enabled")]
    NoLandlock,
    /// A standard stream that would be a way out.
    #[error("cannot pass standard {name} on: it is {what}, through which the jail could reach the host")]
    Stream {
        /// `input`, `output` or `error`.
        name: &'static str,
        /// What it is.
        what: &'static str,
    },
    /// The places of `[tmpfs]` leave nothing.
    #[error("cannot divide `disk`: of {} the places of [tmpfs] take {}", Size(*disk), Size(*taken))]
    Disk {
        /// Bytes of `disk`.
        disk: u64,
        /// Bytes of `[tmpfs]`.
        taken: u64,
    },
    /// A text that no system call can take.
    #[error("cannot use {what} `{text}`: it holds a NUL byte")]
    Nul {
        /// Which text.
        what: &'static str,
        /// For people.
        text: String,
    },
}

impl StageError for JailError {
    fn hints(&self) -> Vec<String> {
        let one = |text: &str| vec![text.to_owned()];
        match self {
            JailError::Source { role: "workspace", cause: Errno::ENOENT, .. } => {
                one("the path is taken relative to the directory where `jailmk enter` is called")
            }
            JailError::Source { role: "workspace", cause: Errno::EACCES, .. } => {
                one("make it readable for you: what is protected in it is looked up")
            }
            JailError::Source { cause: Errno::ENOENT, .. } => {
                one("make it, or write `create = true` or `optional = true` in this mount")
            }
            JailError::Source { cause: Errno::EINVAL, .. } => {
                one("only directories, regular files and sockets can be mounted")
            }
            JailError::HiddenLink { .. } => one("name what it leads to, and leave the link out"),
            JailError::HiddenDeep { .. } => one("see what it is, for a jail may have made it, and move it away"),
            JailError::TooWide { .. } => one("name a directory further down"),
            JailError::NoIdentity => one("run jailmk as an ordinary user, or outside this container"),
            JailError::NoLandlock => vec![
                "enable it: add `landlock` to the kernel's `lsm=` parameter (CONFIG_SECURITY_LANDLOCK, Linux 5.13)".into(),
                "or accept a weaker jail: `landlock = \"best-effort\"` or `degrade = [\"landlock\"]` under [hardening]".into(),
            ],
            JailError::Stream { .. } => one("redirect it to a file, a pipe or /dev/null"),
            JailError::Disk { .. } => one("`disk` is for /tmp, the home directory and the like too: make it larger"),
            JailError::Locate(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

/// Why a jail did not come to life.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The parent's part of the preparation failed.
    #[error("cannot {what}")]
    Prepare {
        /// In the words of the plan.
        what: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// A step of the plan failed in the child.
    #[error("cannot {step}")]
    Step {
        /// In the words of the plan.
        step: String,
        /// Why.
        #[source]
        cause: Errno,
        /// Cures.
        hints: Vec<String>,
    },
    /// The jail's first process ended before the command ran.
    #[error("cannot start the jail: its first process was killed")]
    Died,
    /// The command is not in the jail, or not executable.
    #[error("cannot execute `{command}` in the jail")]
    Exec {
        /// As given.
        command: String,
        /// Why.
        #[source]
        cause: Errno,
        /// What the jail has of that name.
        lead: Option<Lead>,
    },
    /// The caller's check before the command runs said no.
    #[error(transparent)]
    Refused(#[from] RootfsError),
    /// A part of the jail cannot be prepared.
    #[error(transparent)]
    Jail(#[from] JailError),
}

impl StageError for SpawnError {
    fn hints(&self) -> Vec<String> {
        match self {
            SpawnError::Prepare { cause, .. } if cause.raw_os_error() == Some(libc::ENOSYS) => vec![
                "a sandbox around jailmk forbids this: under systemd remove `RestrictNamespaces=` and \
                 `SystemCallFilter=` from the unit"
                    .into(),
            ],
            SpawnError::Prepare { cause, .. } => match cause.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EPERM | Errno::EACCES | Errno::ENOSPC | Errno::EINVAL) => {
                    vec!["`jailmk check` tries each primitive and names the cure for what is missing".into()]
                }
                _ => Vec::new(),
            },
            SpawnError::Step { hints, .. } => hints.clone(),
            SpawnError::Exec { cause: Errno::ENOENT, lead: Some(lead), .. } => lead.hints(),
            SpawnError::Exec { cause: Errno::ENOENT, command, lead: None } => vec![format!(
                "add \"{command}\" to `programs` under [rootfs]; for a script, its interpreter must be in the jail too"
            )],
            SpawnError::Exec { cause: Errno::EACCES, .. } => {
                vec!["the file is not executable, or lies on a mount with `exec = false`".into()]
            }
            SpawnError::Refused(error) => error.hints(),
            SpawnError::Jail(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}

impl SpawnError {
    /// The exit status of `enter` for this error.
    pub fn exit_status(&self) -> u8 {
        match self {
            SpawnError::Exec { cause: Errno::ENOENT | Errno::ENOTDIR, .. } => status::NOT_FOUND,
            SpawnError::Exec { .. } => status::NOT_EXECUTABLE,
            _ => status::FAILED,
        }
    }
}
