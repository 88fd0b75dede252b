//! What the changes to a reviewed workspace take on the host's disk.
//!
//! Quotas are root's, and the only bound that the kernel has for such a directory. So it is looked at while the
//! jail runs: often whether the file system has lost so much space that it could be the jail's doing, which
//! costs one call, and then, or after a while, what all that lies there takes. It is a guard against what
//! runs away, not against what hides: a file that was removed and is still open counts for nothing.

use std::collections::HashSet;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::fcntl::AtFlags;
use nix::sys::signal::Signal;
use nix::sys::stat::{FileStat, SFlag, fstatat};
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
/// Directories in one another; each is a descriptor while what it holds is looked at.
const DEPTH: usize = 256;

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
            known = self.taken(stopped)?;
            if known > self.bytes {
                // ESRCH: it has ended by itself.
                let excess = Excess { limit: self.bytes, taken: known };
                return process::signal(first.as_fd(), Signal::SIGKILL).is_ok().then_some(excess);
            }
            (free, looked) = (free_now, Some(began));
            pause = PAUSE.max(began.elapsed() * SHARE);
        }
        None
    }

    /// Free space of the file system; a look that fails is made up for by the next.
    fn free(&self) -> u64 {
        fstatvfs(&self.changes).map_or(0, |fs| fs.blocks_free() * fs.fragment_size())
    }

    /// Bytes of all that can be seen; `None` when the watch was ended meanwhile.
    fn taken(&self, stopped: &Receiver<()>) -> Option<u64> {
        let mut bytes = 0;
        let mut linked = HashSet::new();
        let mut open: Vec<(OwnedFd, Vec<CString>)> = Vec::new();
        open.extend(self.changes.try_clone().ok().and_then(entered));
        loop {
            let depth = open.len();
            let Some((at, names)) = open.last_mut() else { return Some(bytes) };
            if stopped.try_recv() == Err(TryRecvError::Disconnected) {
                return None;
            }
            let Some(name) = names.pop() else {
                open.pop();
                continue;
            };
            let Ok(stat) = fstatat(&*at, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else { continue };
            if stat.st_nlink == 1 || is_directory(&stat) || linked.insert(stat.st_ino) {
                bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
            }
            if is_directory(&stat) && depth < DEPTH {
                let below = directory::open_to_read(at.as_fd(), name.as_c_str()).ok().and_then(entered);
                open.extend(below);
            }
        }
    }
}

fn entered(directory: OwnedFd) -> Option<(OwnedFd, Vec<CString>)> {
    let names = directory::names(directory.as_fd()).ok()?;
    Some((directory, names))
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
