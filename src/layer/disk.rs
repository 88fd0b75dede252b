//! What the changes to a reviewed workspace take on the host's disk.
//!
//! Quotas are root's, and the only bound that the kernel has for such a directory. So it is looked at while the
//! jail runs: often whether the file system has lost so much space that it could be the jail's doing, which
//! costs one call, and then, or after a while, what all that lies there takes. Where a part cannot be looked at,
//! for an ordinary user a directory without rights, what the file system lost since a look that saw all counts
//! as the jail's. It is a guard against what runs away, not against what hides: a file that was removed and is
//! still open counts for nothing.

use std::collections::HashSet;
use std::ffi::{CStr, CString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::signal::Signal;
use nix::sys::stat::{FileStat, SFlag, fstat, fstatat};
use nix::sys::statvfs::fstatvfs;

use super::cgroup::Size;
use crate::rootfs::directory;
use crate::sys::process;

/// Between two looks at the free space of the file system.
const PAUSE: Duration = Duration::from_millis(250);
/// Others may free what the jail takes, so all of it is looked at sometimes.
const AT_LEAST_EVERY: Duration = Duration::from_secs(10);
/// One part in so many of a processor's time goes into looking.
const SHARE: u32 = 20;
/// Of directories in one another, those that are held open while what they hold is looked at. From deeper ones
/// the way back is `..`.
const HELD: usize = 256;

/// A directory, and the bytes that all in it may take.
pub struct Armed {
    /// Opened for reading.
    pub changes: OwnedFd,
    /// As stat(2) counts blocks: no holes, and what the file system adds.
    pub bytes: u64,
}

/// What is done about so many bytes.
pub struct Words(pub u64);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "end the jail when its changes to the workspace take more than {}", Size(self.0))
    }
}

impl Armed {
    /// Looks, in a thread of its own, until the watch is ended; kills the process when there is too much.
    ///
    /// # Errors
    /// As pthread_create(3).
    pub fn watch(self, first: OwnedFd) -> io::Result<Watch> {
        let (stop, stopped) = channel();
        let look = move || self.look(&first, &stopped);
        let thread = thread::Builder::new().name("disk".into()).stack_size(256 << 10).spawn(look)?;
        Ok(Watch { stop, thread })
    }

    fn look(&self, first: &OwnedFd, stopped: &Receiver<()>) -> Option<Excess> {
        let mut known = 0;
        let mut free = self.free();
        let mut looked: Option<Instant> = None;
        let mut pause = PAUSE;
        while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
            let free_now = self.free();
            let may_take = known + free.saturating_sub(free_now);
            if may_take <= self.bytes && looked.is_some_and(|at| at.elapsed() < AT_LEAST_EVERY) {
                continue;
            }
            let began = Instant::now();
            let mut walk = Walk { stopped, bytes: 0, linked: HashSet::new(), whole: true };
            walk.all(self.changes.as_fd())?;
            let taken = if walk.whole { walk.bytes } else { walk.bytes.max(may_take) };
            if taken > self.bytes {
                // ESRCH: it has ended by itself.
                let counted = walk.bytes > self.bytes;
                let excess = Excess { limit: self.bytes, taken, counted };
                return process::signal(first.as_fd(), Signal::SIGKILL).is_ok().then_some(excess);
            }
            if walk.whole {
                (free, known) = (free_now, walk.bytes);
            }
            looked = Some(began);
            pause = PAUSE.max(began.elapsed() * SHARE);
        }
        None
    }

    /// Free space of the file system; a look that fails is made up for by the next.
    fn free(&self) -> u64 {
        fstatvfs(&self.changes).map_or(0, |fs| fs.blocks_free() * fs.fragment_size())
    }
}

/// One look at all that lies there.
struct Walk<'a> {
    stopped: &'a Receiver<()>,
    bytes: u64,
    /// Files with several names that were counted.
    linked: HashSet<u64>,
    /// Whether all was seen.
    whole: bool,
}

/// A directory on the way down.
struct Level {
    /// `None` where it is reached from below again.
    directory: Option<OwnedFd>,
    identity: (u64, u64),
    /// Directories in it that are still to be looked at.
    below: Vec<CString>,
}

impl Walk<'_> {
    /// Counts; `None` when the watch was ended meanwhile.
    fn all(&mut self, top: BorrowedFd<'_>) -> Option<()> {
        let mut way = Vec::new();
        way.extend(self.enter(top, c"."));
        while let Some(level) = way.last_mut() {
            if self.is_stopped() {
                return None;
            }
            match (level.below.pop(), &level.directory) {
                (Some(name), Some(directory)) => {
                    let below = self.enter(directory.as_fd(), &name);
                    if below.is_some() && way.len() > HELD {
                        way.last_mut()?.directory = None;
                    }
                    way.extend(below);
                }
                _ => self.leave(&mut way),
            }
        }
        Some(())
    }

    /// Counts what a directory holds.
    fn enter(&mut self, parent: BorrowedFd<'_>, name: &CStr) -> Option<Level> {
        let opened = directory::open_to_read(parent, name).and_then(|directory| {
            // The entries are read by a descriptor of their own, whose place in them nobody else moves.
            let mut entries = Dir::from_fd(directory::open_to_read(directory.as_fd(), c".")?)?;
            let mut below = Vec::new();
            for entry in entries.iter() {
                let entry = entry?;
                let name = entry.file_name();
                if self.is_stopped() {
                    break;
                }
                if !matches!(name.to_bytes(), b"." | b"..") && self.count(directory.as_fd(), name)? {
                    below.push(name.to_owned());
                }
            }
            Ok(Level { identity: identity(directory.as_fd())?, directory: Some(directory), below })
        });
        match opened {
            Ok(level) => Some(level),
            // The jail goes on meanwhile.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => None,
            Err(_) => {
                self.whole = false;
                None
            }
        }
    }

    /// Counts one entry. Whether it is a directory.
    fn count(&mut self, directory: BorrowedFd<'_>, name: &CStr) -> Result<bool, Errno> {
        let stat = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(Errno::ENOENT) => return Ok(false),
            other => other?,
        };
        let is_directory = is_directory(&stat);
        if stat.st_nlink == 1 || is_directory || self.linked.insert(stat.st_ino) {
            self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        Ok(is_directory)
    }

    /// Goes back up.
    fn leave(&mut self, way: &mut Vec<Level>) {
        let left = way.pop().and_then(|level| level.directory);
        let Some(above) = way.last_mut().filter(|above| above.directory.is_none()) else { return };
        let again = left.and_then(|left| directory::open_to_read(left.as_fd(), c"..").ok());
        match again.filter(|again| identity(again.as_fd()) == Ok(above.identity)) {
            Some(again) => above.directory = Some(again),
            // It was moved meanwhile: what is left there is not seen.
            None => {
                self.whole = false;
                while way.last().is_some_and(|level| level.directory.is_none()) {
                    way.pop();
                }
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.try_recv() == Err(TryRecvError::Disconnected)
    }
}

fn identity(directory: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    fstat(directory).map(|stat| (stat.st_dev, stat.st_ino))
}

fn is_directory(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

/// More than may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Bytes that there may be.
    pub limit: u64,
    /// Bytes that there were.
    pub taken: u64,
    /// Whether they were seen; else the file system has lost them, and not all could be looked at.
    pub counted: bool,
}

/// A directory that is looked at.
pub struct Watch {
    stop: Sender<()>,
    thread: JoinHandle<Option<Excess>>,
}

impl Watch {
    /// Ends it. What there was, when it was too much and the jail was killed for it.
    pub fn end(self) -> Option<Excess> {
        drop(self.stop);
        self.thread.join().ok().flatten()
    }
}
