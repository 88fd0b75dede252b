//! Makes a commit of changes on a branch of the host's repository, whose files, index and HEAD stay as they are.
//!
//! What is chosen is what `apply` would take over; beside its reasons not to, git has its own: what it ignores,
//! filters, or has no room for. The branch is moved last, and only if nobody has moved it meanwhile, so that a
//! kill leaves the old commit on it or the new one. The changes stay in the session.

mod error;
mod git;
mod import;
mod repository;
mod sorting;

use std::fmt;

pub use error::CommitError;
use git::Git;
use repository::Repository;
use sorting::Sorting;

use super::apply::{self, Ask, Choice, Left, Outcome};
use super::error::ReviewError;
use super::policy::Policy;
use super::session::Session;

/// Why a commit has no room for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A submodule, or a repository in the repository.
    Foreign,
    /// git takes no such name, or no link of that name.
    Name,
    /// A program of the host's would change what it holds.
    Filtered,
    /// git cannot convert it as the attributes want.
    Unconvertible,
    /// The branch has a file where one of its directories would be.
    InTheWay,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unfit::Foreign => "it is in another git repository",
            Unfit::Name => "git takes nothing of that name",
            Unfit::Filtered => "git would filter it",
            Unfit::Unconvertible => "git cannot convert it as its attributes say",
            Unfit::InTheWay => "the branch has a file in place of its directory",
        })
    }
}

/// What is committed, and where.
#[derive(Clone, Debug)]
pub struct Request {
    /// What the commit says.
    pub message: String,
    /// The branch; without it, one that has the jail's name.
    pub branch: Option<String>,
}

/// Changes that a commit does not have and that nobody misses in it, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silent {
    /// git ignores them.
    pub ignored: usize,
    /// They are in a git directory.
    pub in_git: usize,
    /// Empty directories, permission bits other than the owner's `x`, removals of what the branch has not.
    pub unrecorded: usize,
}

/// What became of it.
#[derive(Debug)]
pub struct Committed {
    /// The branch.
    pub branch: String,
    /// The commit's name; `None` when the branch has everything already.
    pub id: Option<String>,
    /// What the commit changes, and what was left.
    pub outcome: Outcome,
    /// What it does not have.
    pub silent: Silent,
}

/// Makes the commit.
///
/// # Errors
/// The session or the repository cannot be used; the branch is as it was.
pub fn commit(
    session: &mut Session,
    policy: &Policy,
    choice: &Choice,
    ask: Option<Ask<'_>>,
    request: &Request,
) -> Result<Committed, ReviewError> {
    let message = match request.message.trim() {
        "" => return Err(CommitError::NoMessage.into()),
        message => format!("{message}\n"),
    };
    session.lock_to("commit")?;
    let branch = request.branch.clone().unwrap_or_else(|| default_branch(&session.name));
    let mut git = Git::find(session.host_directory()?, &session.workspace, session.owner)?;
    let repository = Repository::open(&mut git, &session.workspace, &branch)?;
    let (upper, host) = (session.upper()?, session.host()?);
    let mut changes = session.changes()?;
    let judgements = policy.judge(&mut changes, &upper, &host);
    let (selected, parts) = apply::choose(&changes, &judgements, choice, (&upper, &host), ask)?;
    let mut sorting = Sorting::new(&repository, &upper, &host, &changes);
    let mut wanted = Vec::new();
    for (change, judgement) in selected {
        match apply::refusal(change, judgement, choice) {
            None => wanted.push((change, judgement)),
            Some(Left::Conflict(clash)) => sorting.leave(change, Left::Conflict(clash.of(change))),
            Some(left) if left.is_told_of(change) => sorting.leave(change, left),
            Some(_) => {}
        }
    }
    sorting.sort(&wanted, parts)?;
    let Sorting { delta, mut taken, mut left, mut silent, .. } = sorting;
    let mut id = None;
    if !taken.is_empty() {
        let new = delta.import(session, &repository, &upper, &message)?;
        let differing = repository.differing(&new)?;
        let all = taken.len();
        taken.retain(|path, _| differing.contains(path));
        silent.unrecorded += all - taken.len();
        if !differing.is_empty() {
            repository.move_branch(&new, &message)?;
            id = Some(new);
        }
    }
    let mut applied: Vec<_> = taken
        .into_values()
        .map(|(change, judgement)| (change.kind, change.path.clone(), judgement.warning))
        .collect();
    applied.sort_by(|a, b| a.1.cmp(&b.1));
    left.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(Committed { branch, id, outcome: Outcome { applied, left, ..Outcome::default() }, silent })
}

/// A branch for a jail: its name, as far as a branch can have it.
fn default_branch(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '-' };
    let name: String = name.chars().take(64).map(plain).collect();
    match name.trim_matches('-') {
        "" => "jailmk/jail".into(),
        name => format!("jailmk/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_jail_becomes_one_of_a_branch() {
        for (name, branch) in [
            ("agent", "jailmk/agent"),
            ("a b..c.lock", "jailmk/a-b--c-lock"),
            ("-", "jailmk/jail"),
            ("/é@{", "jailmk/jail"),
        ] {
            assert_eq!(default_branch(name), branch);
        }
    }
}
