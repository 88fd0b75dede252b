//! A conflict of two changed text files, solved by what both started from.
//!
//! Nothing is ever marked in the host's file: it becomes the whole merged text, or stays as it is.

use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::base;
use super::changes::{Change, Conflict, Kind};
use super::journal::{Journal, Record, Stamp};
use super::patch::PATIENCE;
use super::session::Session;
use super::threeway::{self, Apart};
use super::tree::{Node, Tree};

/// How long the lines of all files together are compared at most.
const ALL: Duration = Duration::from_secs(60);

/// Why two changed files were not made one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmerged {
    /// Both changed the same lines.
    #[error("{0}")]
    Apart(Apart),
    /// Both changed the permission bits, and not to the same.
    #[error("both changed its permission bits, the host to {host:04o}, the jail to {jail:04o}")]
    Bits {
        /// The host's.
        host: u32,
        /// The jail's.
        jail: u32,
    },
    /// One of them is no text.
    #[error("it is binary")]
    Binary,
    /// One of them is too large.
    #[error("it is larger than 1 MiB")]
    Large,
    /// The host's had changed before it could be kept.
    #[error("the host's had changed before the jail's end")]
    Early,
    /// There is no base for another reason.
    #[error("no copy was kept of the host's as the jail saw it")]
    NoBase,
    /// The host's is being written.
    #[error("the host's changes while it is read")]
    Moves,
    /// One of them cannot be read.
    #[error("cannot read it: {}", .0.desc())]
    Unread(Errno),
}

/// Whether a merge can be tried: a file on both sides, that had been one before.
pub(super) fn can_be_tried(change: &Change, record: Option<Record>) -> bool {
    let is_file = |stat: &Option<Box<_>>| stat.as_deref().is_some_and(|stat| Node::of(stat) == Node::File);
    change.conflict == Some(Conflict::Changed)
        && matches!(change.kind, Kind::Changed | Kind::Mode)
        && is_file(&change.jail)
        && is_file(&change.host)
        && record.and_then(|record| record.before).is_some_and(|before| before.node == Node::File)
}

/// Merges files of one workspace.
pub(super) struct Merging<'a> {
    session: &'a Session,
    upper: &'a Tree,
    host: &'a Tree,
    until: Instant,
}

/// What the host's file becomes.
pub(super) enum Merged {
    /// It is that already.
    There,
    /// This text, with the permission bits of the jail's side of this change.
    Text(Box<Change>, Vec<u8>),
}

impl<'a> Merging<'a> {
    pub fn new(session: &'a Session, upper: &'a Tree, host: &'a Tree) -> Merging<'a> {
        Merging { session, upper, host, until: Instant::now() + ALL }
    }

    /// Merges the file of one change.
    ///
    /// # Errors
    /// Why it stays a conflict.
    pub fn merge(&self, change: &Change, journal: &Journal) -> Result<Merged, Unmerged> {
        let record = journal.get(&change.path).ok_or(Unmerged::NoBase)?;
        let (Some(before), Some(there), Some(jail)) =
            (record.before, change.host.as_deref(), change.jail.as_deref())
        else {
            return Err(Unmerged::NoBase);
        };
        let (theirs, _) = base::text(self.upper, &change.path)?;
        let (ours, now) = base::text(self.host, &change.path)?;
        if now != Stamp::of(there) {
            return Err(Unmerged::Moves);
        }
        let base = match record.base.and_then(|digest| base::read(self.session, &digest)) {
            Some(base) => base,
            None if before.size > base::LARGEST => return Err(Unmerged::Large),
            None if before.changed.may_be_after(record.since, self.host.grain()) => {
                return Err(Unmerged::Early);
            }
            None => return Err(Unmerged::NoBase),
        };
        let bits = bits(before.mode & 0o777, now.mode & 0o777, jail.st_mode & 0o777)?;
        let until = self.until.min(Instant::now() + PATIENCE);
        let text = threeway::merge(&base, &ours, &theirs, until).map_err(Unmerged::Apart)?;
        if text == ours && bits == now.mode & 0o777 {
            return Ok(Merged::There);
        }
        let kind = if text == ours { Kind::Mode } else { Kind::Changed };
        let mut jail = Box::new(*jail);
        jail.st_mode = jail.st_mode & !0o7777 | bits;
        Ok(Merged::Text(Box::new(Change { kind, jail: Some(jail), ..change.clone() }), text))
    }
}

/// Permission bits by the side that changed them.
fn bits(base: u32, host: u32, jail: u32) -> Result<u32, Unmerged> {
    match (host == base, jail == base) {
        (true, _) => Ok(jail),
        (_, true) => Ok(host),
        _ if host == jail => Ok(host),
        _ => Err(Unmerged::Bits { host, jail }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permission_bits_are_those_of_the_side_that_changed_them() {
        assert_eq!(bits(0o644, 0o644, 0o755), Ok(0o755));
        assert_eq!(bits(0o644, 0o600, 0o644), Ok(0o600));
        assert_eq!(bits(0o644, 0o700, 0o700), Ok(0o700));
        assert_eq!(bits(0o644, 0o600, 0o755), Err(Unmerged::Bits { host: 0o600, jail: 0o755 }));
    }
}
