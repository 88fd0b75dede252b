//! Why no commit can be made.

use std::io;

use nix::errno::Errno;

use crate::error::StageError;
use crate::path::HostPath;

/// Why no commit can be made; the branch is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The program is not there.
    #[error("cannot find git: it is in no directory of PATH outside the workspace")]
    NoGit,
    /// It does not know what is needed.
    #[error("cannot use this git: it is older than 2.31")]
    Old,
    /// It cannot be started, or not be talked to.
    #[error("cannot run `{program}`")]
    Run {
        /// The program.
        program: HostPath,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// It failed.
    #[error("cannot {verb}: git says: {said}")]
    Said {
        /// What was wanted.
        verb: &'static str,
        /// For people.
        said: String,
    },
    /// It answered with something else than what was asked.
    #[error("cannot {verb}: git's answer makes no sense")]
    Answer {
        /// What was wanted.
        verb: &'static str,
    },
    /// The message says nothing.
    #[error("cannot commit without a message")]
    NoMessage,
    /// The workspace is a git directory, or in one.
    #[error("cannot commit in `{path}`: it is in no working tree")]
    NoTree {
        /// The workspace.
        path: HostPath,
    },
    /// No name of a branch.
    #[error("cannot commit on `{branch}`: that is no name of a branch")]
    BranchName {
        /// As given.
        branch: String,
    },
    /// Somebody has it before them.
    #[error("cannot commit on `{branch}`: it is checked out in `{place}`")]
    CheckedOut {
        /// The branch.
        branch: String,
        /// The working tree.
        place: String,
    },
    /// It is another name of something else.
    #[error("cannot commit on `{branch}`: it stands for another branch")]
    Symbolic {
        /// The branch.
        branch: String,
    },
    /// The temporary directory.
    #[error("cannot {verb} `{path}`")]
    Scratch {
        /// What was wanted.
        verb: &'static str,
        /// The directory.
        path: HostPath,
        /// Why.
        #[source]
        cause: Errno,
    },
    /// A file of the jail cannot be read to its end.
    #[error("cannot read `{path}` in the jail's changes")]
    Read {
        /// In the workspace.
        path: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

impl StageError for CommitError {
    fn hints(&self) -> Vec<String> {
        let one = |text: &str| vec![text.to_owned()];
        match self {
            CommitError::NoGit => one("install git; `jailmk apply` without --commit needs none"),
            CommitError::Old => one("have a newer one before it in PATH"),
            CommitError::NoMessage => one("say in a few words what the changes are for"),
            CommitError::NoTree { .. } => {
                one("the workspace must be, or be in, the working tree of a repository")
            }
            CommitError::BranchName { .. } => one("git-check-ref-format(1) says what a name may hold"),
            CommitError::CheckedOut { .. } => {
                one("its files and index would be behind; name another branch with --branch")
            }
            CommitError::Symbolic { .. } => one("name another branch with --branch"),
            CommitError::Scratch { cause: Errno::EBUSY, .. } => {
                one("a git of an earlier call still writes there")
            }
            CommitError::Said { said, .. } => of_words(said).map(one).unwrap_or_default(),
            _ => Vec::new(),
        }
    }
}

const IDENTITY: &str = "git config --global user.name NAME; git config --global user.email ADDRESS, as the owner of the workspace";

/// Cures for what git says.
fn of_words(said: &str) -> Option<&'static str> {
    let cures = [
        ("not a git repository", "`git init` makes one; without --commit, `apply` writes to the files"),
        ("dubious ownership", "call jailmk as the owner of the repository"),
        ("ident name", IDENTITY),
        ("name was given", IDENTITY),
        ("email was given", IDENTITY),
        ("auto-detect", IDENTITY),
        ("is at", "another commit was made meanwhile: call it again"),
        ("already exists", "another commit was made meanwhile: call it again"),
        ("exists; cannot create", "a branch is in the way of the name: name another one with --branch"),
        ("File exists", "another git is at work, or one has died: git names the file"),
    ];
    cures.iter().find(|(words, _)| said.contains(words)).map(|(_, cure)| *cure)
}
