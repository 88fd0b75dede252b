//! Copies of the host's text files as the jail saw them: an overlay keeps none, and without what both sides
//! started from their changes cannot be told apart.
//!
//! When a jail has ended, `base/SHA256` is written for each file that the upper layer has in place of a text file
//! of the host's which is still the one that the jail saw; the journal's record names it. A jail's start costs
//! nothing for it. A file that only its permission bits changed of has a base as well: it is in the upper layer,
//! so a later change of the host's would have nothing to be told from.
//!
//! A copy is a convenience: where one cannot be made, or not be read, there is no merge and the conflict stays.

use std::collections::HashSet;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use sha2::{Digest, Sha256};

use super::error::ReviewError;
use super::journal::{Journal, Record, Stamp};
use super::merge::Unmerged;
use super::patch::is_text;
use super::path::WorkPath;
use super::session::Session;
use super::tree::{Node, Tree};
use crate::manifest::lock::Hex;
use crate::rootfs::directory;

pub(super) const BASE: &str = "base";
/// No larger file is kept, or merged.
pub(super) const LARGEST: u64 = 1 << 20;
/// No more is kept for one workspace.
const TOTAL: u64 = 128 << 20;
/// What the smallest file counts as.
const BLOCK: u64 = 4096;

/// How much more may be kept.
struct Room(u64);

impl Room {
    /// Beside what the records name.
    fn beside(journal: &Journal) -> Room {
        let kept = journal.iter().filter(|(_, record)| record.base.is_some());
        let sizes = kept.filter_map(|(_, record)| record.before).map(|before| Room::cost(&before));
        Room(TOTAL.saturating_sub(sizes.sum()))
    }

    fn cost(file: &Stamp) -> u64 {
        file.size.max(BLOCK)
    }

    fn has(&self, file: &Stamp) -> bool {
        file.size <= LARGEST && Room::cost(file) <= self.0
    }

    fn take(&mut self, file: &Stamp) {
        self.0 -= Room::cost(file);
    }
}

/// Keeps what has no base yet and may have one.
pub(super) fn keep(session: &Session, upper: &Tree, host: &Tree, journal: &mut Journal) {
    let grain = host.grain();
    let mut room = Room::beside(journal);
    let mut kept: Vec<(WorkPath, Record)> = Vec::new();
    let fresh = journal
        .iter()
        .filter(|(_, record)| record.base.is_none())
        .filter_map(|(path, record)| Some((path, record, record.before?)))
        .filter(|(_, _, before)| before.node == Node::File);
    for (path, record, before) in fresh {
        if !room.has(&before) || !is_file(upper, path) {
            continue;
        }
        let Ok((text, now)) = text(host, path) else { continue };
        if !now.is_as_seen(&before, record.since, grain) {
            continue;
        }
        let digest: [u8; 32] = Sha256::digest(&text).into();
        if store(session, &digest, &text).is_err() {
            // A disk that is full. What is written down without a base is right.
            break;
        }
        room.take(&before);
        kept.push((path.clone(), Record { base: Some(digest), ..record }));
    }
    for (path, record) in kept {
        journal.put(&path, record);
    }
}

fn is_file(tree: &Tree, path: &WorkPath) -> bool {
    tree.status(path).ok().flatten().is_some_and(|stat| Node::of(&stat) == Node::File)
}

/// Reads a text file, and how it is stamped; it was the same from the first byte to the last.
pub(super) fn text(tree: &Tree, path: &WorkPath) -> Result<(Vec<u8>, Stamp), Unmerged> {
    let failed = |cause| Unmerged::Unread(cause);
    let file = tree.open_file_at(path).map_err(failed)?;
    let before = Stamp::of(&fstat(&file).map_err(failed)?);
    if before.size > LARGEST {
        return Err(Unmerged::Large);
    }
    let mut bytes = Vec::new();
    let length =
        (&file).take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| failed(directory::errno(error)))?;
    let after = Stamp::of(&fstat(&file).map_err(failed)?);
    if before != after || length as u64 != after.size {
        return Err(Unmerged::Moves);
    }
    if is_text(&bytes) { Ok((bytes, after)) } else { Err(Unmerged::Binary) }
}

fn store(session: &Session, digest: &[u8; 32], text: &[u8]) -> Result<(), Errno> {
    let base = match mkdirat(session.fd(), BASE, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => open(session)?,
        Err(errno) => return Err(errno),
    };
    let name = Hex(digest).to_string();
    directory::replace_file(base.as_fd(), name.as_ref(), Mode::S_IRUSR | Mode::S_IWUSR, text)
}

fn open(session: &Session) -> Result<OwnedFd, Errno> {
    directory::open_to_read(session.fd(), BASE)
}

/// Reads a base; `None` for what is not there, or not what it was.
pub(super) fn read(session: &Session, digest: &[u8; 32]) -> Option<Vec<u8>> {
    let bytes = directory::read_file(open(session).ok()?.as_fd(), Hex(digest).to_string().as_str()).ok()?;
    (Sha256::digest(&bytes)[..] == digest[..]).then_some(bytes)
}

/// Removes what no record names: bases of changes that are gone, and what a kill left half-written.
///
/// # Errors
/// As unlinkat(2).
pub(super) fn tidy(session: &Session, journal: &Journal) -> Result<(), ReviewError> {
    let failed = |cause| session.failed("tidy", BASE, cause);
    let base = match open(session) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other.map_err(failed)?,
    };
    let named: HashSet<String> =
        journal.iter().filter_map(|(_, record)| record.base).map(|digest| Hex(&digest).to_string()).collect();
    for name in directory::names(base.as_fd()).map_err(failed)? {
        if name.to_str().is_ok_and(|name| named.contains(name)) {
            continue;
        }
        match unlinkat(&base, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(cause) => return Err(failed(cause)),
        }
    }
    if !named.is_empty() {
        return Ok(());
    }
    match unlinkat(session.fd(), BASE, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(cause) => Err(failed(cause)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::journal::Time;

    fn file(size: u64) -> Stamp {
        let time = Time { seconds: 1, nanoseconds: 1 };
        Stamp { node: Node::File, inode: 1, size, modified: time, changed: time, mode: 0o644 }
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for_and_small_files_count_as_a_block() {
        let mut journal = Journal::default();
        let since = Time { seconds: 2, nanoseconds: 0 };
        let mut note = |name: &str, size: u64, base: Option<[u8; 32]>| {
            let path = WorkPath::new(name).unwrap();
            journal.put(&path, Record { base, ..Record::new(since, Some(file(size))) });
        };
        note("one", 1, Some([1; 32]));
        note("large", LARGEST, Some([2; 32]));
        note("none", LARGEST, None);
        let mut room = Room::beside(&journal);
        assert_eq!(room.0, TOTAL - BLOCK - LARGEST);
        assert!(!room.has(&file(LARGEST + 1)));
        let mut count = 0;
        while room.has(&file(0)) {
            room.take(&file(0));
            count += 1;
        }
        assert_eq!(count, (TOTAL - LARGEST) / BLOCK - 1);
    }
}
