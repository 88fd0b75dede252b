//! Room on the state's disk that is kept for jailmk itself: a jail that fills the disk must not keep its changes
//! from being looked at, applied and dropped one by one.
//!
//! It is taken when a session begins, and given up when something of the session's own finds no room; nothing
//! in it is ever read, so that it may be there, in part or not, after a kill.

use std::fs::File;
use std::io::Write;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, FallocateFlags, OFlag, fallocate, openat};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::rootfs::directory;

const RESERVE: &str = "reserve";
/// Inodes can run out as well.
const FILES: u8 = 16;
/// Of each: together they hold the journal of two thousand paths, old and new, and what else is written.
const SIZE: u16 = 32 << 10;

/// Whether there is no room, on the disk or in a quota.
pub(super) fn is_full(errno: Errno) -> bool {
    matches!(errno, Errno::ENOSPC | Errno::EDQUOT)
}

/// Makes what of it is not there.
///
/// # Errors
/// ENOSPC, EDQUOT; as openat(2).
pub(super) fn take(session: BorrowedFd<'_>) -> Result<(), Errno> {
    match mkdirat(session, RESERVE, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    let reserve = directory::open_to_read(session, RESERVE)?;
    let whole = |size: i64| size == i64::from(SIZE);
    // They are made in their order: where the last is whole, all are.
    let last = fstatat(&reserve, name(FILES - 1).as_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
    if last.is_ok_and(|stat| whole(stat.st_size)) {
        return Ok(());
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    for index in 0..FILES {
        let file = openat(&reserve, name(index).as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        if whole(fstat(&file)?.st_size) {
            continue;
        }
        match fallocate(&file, FallocateFlags::empty(), 0, i64::from(SIZE)) {
            Ok(()) => {}
            // A file system that cannot promise room.
            Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => {
                File::from(file).write_all(&vec![0; usize::from(SIZE)]).map_err(directory::errno)?;
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Gives it up; whether there was any.
pub(super) fn release(session: BorrowedFd<'_>) -> bool {
    let Ok(reserve) = directory::open_to_read(session, RESERVE) else { return false };
    let remove = |index| unlinkat(&reserve, name(index).as_str(), UnlinkatFlags::NoRemoveDir).is_ok();
    // The last first, by which `take` knows that all are there.
    let count = (0..FILES).rev().filter(|index| remove(*index)).count();
    let _ = unlinkat(session, RESERVE, UnlinkatFlags::RemoveDir);
    count > 0
}

fn name(index: u8) -> String {
    index.to_string()
}
