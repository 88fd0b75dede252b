//! Why changes cannot be looked at, applied or dropped.

use std::io;

use nix::errno::Errno;

use super::commit::CommitError;
use super::path::WorkPath;
use crate::caller::LocateError;
use crate::error::StageError;
use crate::path::{HostPath, JailPathError};
use crate::rootfs::RootfsError;
use crate::spec::Position;

/// Why a review fails as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The spec has no workspace that is reviewed.
    #[error("cannot review the workspace of {name}: its spec has none in mode \"review\"")]
    NotReviewed {
        /// The jail.
        name: String,
    },
    /// The workspace cannot be opened.
    #[error("cannot open the workspace `{path}` ({at})")]
    Workspace {
        /// On the host.
        path: HostPath,
        /// In the spec.
        at: Position,
        /// Why.
        #[source]
        cause: Errno,
    },
    /// Another process works on the same changes.
    #[error("cannot {verb} the workspace of {name}: {holder} uses its changes")]
    Busy {
        /// What was wanted.
        verb: &'static str,
        /// The jail.
        name: String,
        /// A jail that runs, or another command.
        holder: String,
    },
    /// The changes belong to another directory of the same path.
    #[error("cannot use the changes to `{path}`: the directory was replaced since they were made")]
    Replaced {
        /// On the host.
        path: HostPath,
    },
    /// A spec that is gone has left changes to more than one workspace.
    #[error("cannot choose among the changes by `{spec}`: it has left some to {}", words(workspaces))]
    Several {
        /// As written.
        spec: String,
        /// On the host.
        workspaces: Vec<HostPath>,
    },
    /// Something in jailmk's own state cannot be used.
    #[error("cannot {verb} `{path}`")]
    State {
        /// What was wanted.
        verb: &'static str,
        /// In the state.
        path: HostPath,
        /// Why.
        #[source]
        cause: Errno,
    },
    /// A file of the state that is not what jailmk writes.
    #[error("cannot read `{path}`: it is damaged")]
    Damaged {
        /// In the state.
        path: HostPath,
    },
    /// The jail changed more than is looked at.
    #[error(
        "cannot review the changes: they are of more than {} paths, or more than {} MiB of paths",
        super::extent::PATHS,
        super::extent::BYTES >> 20
    )]
    TooMany,
    /// A path in one of the two trees cannot be looked at.
    #[error("cannot {verb} `{path}` in {side}")]
    Look {
        /// What was wanted.
        verb: &'static str,
        /// In the workspace.
        path: WorkPath,
        /// Which of the trees.
        side: Side,
        /// Why.
        #[source]
        cause: Errno,
    },
    /// A path of the command line.
    #[error("cannot choose `{path}`")]
    Path {
        /// For people.
        path: String,
        /// Why.
        #[source]
        cause: JailPathError,
    },
    /// Nothing was changed there.
    #[error("cannot choose `{path}`: the jail has changed nothing there")]
    Unchanged {
        /// In the workspace.
        path: WorkPath,
    },
    /// The pager cannot be used.
    #[error("cannot write the changes")]
    Output(#[source] io::Error),
    /// The state directory.
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    /// The path of the workspace.
    #[error(transparent)]
    Locate(#[from] LocateError),
    /// No commit can be made.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

fn words(workspaces: &[HostPath]) -> String {
    workspaces.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// One of the two trees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What the jail wrote.
    Jail,
    /// The workspace on the host.
    Host,
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Side::Jail => "the jail's changes",
            Side::Host => "the workspace",
        })
    }
}

impl StageError for ReviewError {
    fn hints(&self) -> Vec<String> {
        let one = |text: &str| vec![text.to_owned()];
        match self {
            ReviewError::NotReviewed { .. } => {
                one("write `mode = \"review\"` under [workspace]; in other modes there is nothing to review")
            }
            ReviewError::Workspace { cause: Errno::ENOENT, .. } => {
                one("a relative path is taken from where jailmk is called: call it where `enter` was called")
            }
            ReviewError::Busy { .. } => one(
                "wait for its end; two jails cannot write to one copy, so give a second one a spec of its own",
            ),
            ReviewError::Replaced { .. } => {
                one("`jailmk discard` drops the changes; or put the directory back that was there")
            }
            ReviewError::Several { .. } => one("call it in one of these directories"),
            ReviewError::State { cause: Errno::ENOSPC | Errno::EDQUOT, .. } => one(
                "make room on this disk: `jailmk discard` drops all changes of the jail, `jailmk discard SPEC -- PATH` some",
            ),
            ReviewError::State { cause: Errno::EROFS, .. } => {
                one("set JAILMK_STATE to a directory in which you can write")
            }
            ReviewError::Damaged { .. } => one("`jailmk discard` drops the changes, and the file with them"),
            ReviewError::TooMany => one(
                "`jailmk discard` drops them all; until then the files are in jailmk's state, below `review`",
            ),
            ReviewError::Path { .. } => one("name it relative to the workspace"),
            ReviewError::Unchanged { .. } => one("`jailmk diff` lists what was changed"),
            ReviewError::Look { cause: Errno::EACCES, .. } => one("you may not read it"),
            ReviewError::Rootfs(error) => error.hints(),
            ReviewError::Locate(error) => error.hints(),
            ReviewError::Commit(error) => error.hints(),
            _ => Vec::new(),
        }
    }
}
