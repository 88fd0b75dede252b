//! The one replacement on the host that is under way: written down before it begins, so that a kill in the
//! midst of it can be made good.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::sys::stat::Mode;
use nix::sys::uio::pwrite;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::apply::Left;
use super::error::ReviewError;
use super::journal::{Journal, Record, Stamp, Time};
use super::path::WorkPath;
use super::session::Session;
use super::tree;
use crate::rootfs::staging;

const PENDING: &str = "pending";
/// Exchanges that somebody else who replaces the file can make void.
const EXCHANGES: usize = 64;

/// A name beside the place, that nothing else has.
pub(super) struct Aside(String);

impl Aside {
    /// A new one.
    pub fn new() -> Aside {
        Aside(format!(".jailmk-{}", staging::unique()))
    }

    /// As system calls take it.
    pub fn name(&self) -> &OsStr {
        OsStr::new(&self.0)
    }
}

/// The replacement that is under way: enough to finish it, or to take it back.
pub(super) struct Pending<'a> {
    /// What is replaced.
    pub path: &'a WorkPath,
    /// Beside it.
    pub aside: &'a Aside,
    /// The file that is displaced.
    pub old: Option<Stamp>,
    /// The inode of what takes its place: 0 for nothing, `None` while it is written.
    pub new: Option<u64>,
}

impl Pending<'_> {
    /// Writes it down.
    pub fn write(&self, session: &Session) -> Result<(), Left> {
        let failed = |cause| Left::Failed { verb: "write down what happens to", cause };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(session.fd(), PENDING, flags, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
        let bytes = self.bytes();
        match pwrite(&file, &bytes, 0).map_err(failed)? {
            length if length == bytes.len() => Ok(()),
            _ => Err(failed(Errno::ENOSPC)),
        }
    }

    /// As a journal of one record whose header line goes before: lengths are not trusted, the last NUL ends it.
    fn bytes(&self) -> Vec<u8> {
        let mut journal = Journal::default();
        let since = Time { seconds: 0, nanoseconds: 0 };
        journal.note(self.path, || Record::new(since, self.old));
        let new = self.new.map_or("-".to_owned(), |inode| inode.to_string());
        let mut bytes = format!("{} {new}\0", self.aside.0).into_bytes();
        bytes.extend_from_slice(&journal.bytes());
        bytes.push(b'\n');
        bytes
    }
}

/// Reads the record of a replacement under way: the name beside, the inode of what replaces, the path, the file
/// that is replaced. `None` for what was cut short; what a longer record before it left behind is cut off.
pub fn parse(bytes: &[u8]) -> Option<(String, Option<u64>, WorkPath, Option<Stamp>)> {
    let head = bytes.iter().position(|byte| *byte == 0)?;
    let (aside, new) = std::str::from_utf8(&bytes[..head]).ok()?.split_once(' ')?;
    let new = if new == "-" { None } else { Some(new.parse().ok()?) };
    let rest = &bytes[head + 1..];
    let end = rest.windows(2).position(|pair| pair == b"\0\n")? + 1;
    let (path, record) = Journal::parse(&rest[..end])?.first()?;
    let plain = aside.starts_with(".jailmk-") && !aside.contains('/');
    plain.then(|| (aside.to_owned(), new, path, record.before))
}

/// Finishes, or takes back, the one replacement that a kill cut short.
///
/// # Errors
/// A tree cannot be read or written.
pub(super) fn finish(session: &Session) -> Result<(), ReviewError> {
    let Some(bytes) = session.read(PENDING)? else { return Ok(()) };
    let failed = |cause| session.failed("finish", PENDING, cause);
    // A record that was cut short was never acted upon.
    if let Some((aside, new, path, old)) = parse(&bytes) {
        let host = session.host()?;
        let parent = path.parent().and_then(|parent| host.open_directory(&parent).ok());
        if let Some(parent) = parent {
            settle(&parent, OsStr::new(&aside), path.name(), old, new).map_err(failed)?;
        }
    }
    match unlinkat(session.fd(), PENDING, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(cause) => Err(failed(cause)),
    }
}

fn settle(
    parent: &OwnedFd,
    aside: &OsStr,
    name: &OsStr,
    old: Option<Stamp>,
    new: Option<u64>,
) -> Result<(), Errno> {
    let Some(found) = tree::status_in(parent.as_fd(), aside)? else { return Ok(()) };
    let ours = new.is_none_or(|inode| inode == found.st_ino);
    let displaced = old.is_some_and(|old| Stamp::of(&found).is_still(&old));
    if ours || displaced {
        return unlinkat(parent, aside, UnlinkatFlags::NoRemoveDir);
    }
    // The host changed the file in the moment of the exchange: it gets its own back.
    let there = tree::status_in(parent.as_fd(), name)?;
    if let Some(there) = there
        && Some(there.st_ino) == new
    {
        return put_back(parent.as_fd(), aside, name, there.st_ino);
    }
    match renameat2(parent, aside, parent, name, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EEXIST) => {
            let mut kept = name.as_bytes().to_vec();
            kept.extend_from_slice(b".kept-by-jailmk");
            renameat2(parent, aside, parent, OsStr::from_bytes(&kept), RenameFlags::RENAME_NOREPLACE)
        }
        other => other,
    }
}

/// Gives `name` the host's file back that an exchange has put `aside` for the inode `new`, which goes. When the
/// host replaces the file in the meantime, its newest one stays.
pub(super) fn put_back(parent: BorrowedFd<'_>, aside: &OsStr, name: &OsStr, new: u64) -> Result<(), Errno> {
    let inode = || tree::status_in(parent, aside)?.map(|stat| stat.st_ino).ok_or(Errno::ENOENT);
    let mut older = new;
    for _ in 0..EXCHANGES {
        let newer = inode()?;
        renameat2(parent, aside, parent, name, RenameFlags::RENAME_EXCHANGE)?;
        if inode()? == older {
            return unlinkat(parent, aside, UnlinkatFlags::NoRemoveDir);
        }
        // What came aside was put there after the file that has just gone back.
        older = newer;
    }
    Err(Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// A directory with the host's file aside and another in its place; whether that one is ours.
    fn put_back_when(ours: bool) -> (String, bool) {
        let place = std::env::temp_dir().join(format!("jailmk-put-back-{}", staging::unique()));
        fs::create_dir(&place).unwrap();
        fs::write(place.join("aside"), "first").unwrap();
        fs::write(place.join("name"), "second").unwrap();
        let in_place = fs::metadata(place.join("name")).unwrap().ino();
        let new = if ours { in_place } else { u64::MAX };
        let directory = fs::File::open(&place).unwrap();
        put_back(directory.as_fd(), OsStr::new("aside"), OsStr::new("name"), new).unwrap();
        let end = (fs::read_to_string(place.join("name")).unwrap(), place.join("aside").exists());
        fs::remove_dir_all(place).unwrap();
        end
    }

    #[test]
    fn the_host_gets_its_file_back() {
        assert_eq!(put_back_when(true), ("first".to_owned(), false));
    }

    #[test]
    fn a_file_that_the_host_has_put_there_since_stays() {
        assert_eq!(put_back_when(false), ("second".to_owned(), false));
    }
}
