//! A tree in the making: a directory beside its final place, locked while its maker lives.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::{RootfsError, directory, failed, still_there};
use crate::path::HostPath;

/// A directory that is removed with this value, unless [`Staging::publish`] gave it another name.
pub(super) struct Staging<'a> {
    parent: BorrowedFd<'a>,
    name: CString,
    path: HostPath,
    directory: Option<Flock<OwnedFd>>,
}

impl<'a> Staging<'a> {
    /// Makes `PREFIX` + something unique in `parent`, and removes what killed makers left there.
    pub(super) fn make(
        parent: BorrowedFd<'a>,
        parent_path: &HostPath,
        prefix: &str,
    ) -> Result<Staging<'a>, RootfsError> {
        collect(parent, prefix);
        loop {
            let name = format!("{prefix}{}", unique());
            let path = parent_path.join(&name);
            mkdirat(parent, name.as_str(), Mode::S_IRWXU).map_err(failed("make", &path))?;
            // Between mkdir and flock another build may take it for a left-over: then try once more.
            let locked = directory::open_to_read(parent, name.as_str())
                .and_then(|fd| Flock::lock(fd, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno));
            match locked {
                Ok(directory) if still_there(parent, name.as_ref(), &directory) => {
                    let name = CString::new(name).expect("BUG: a generated name has no NUL");
                    return Ok(Staging { parent, name, path, directory: Some(directory) });
                }
                Ok(_) | Err(Errno::ENOENT | Errno::EWOULDBLOCK) => {}
                Err(errno) => return Err(failed("lock", &path)(errno)),
            }
        }
    }

    pub(super) fn path(&self) -> &HostPath {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.directory.as_ref().expect("BUG: only publish takes the directory").as_fd()
    }

    /// Gives it its final name, which is a new one: [`unique`] is part of it.
    pub(super) fn publish(mut self, name: &str) -> Result<(), RootfsError> {
        renameat(self.parent, self.name.as_c_str(), self.parent, name)
            .map_err(failed("rename", &self.path))?;
        self.directory = None;
        Ok(())
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if self.directory.is_some() {
            // Nobody is left to tell; the next build tries again.
            let _ = directory::remove_tree(self.parent, &self.name);
        }
    }
}

/// Removes the directories called PREFIX… that nobody holds locked.
pub(super) fn collect(parent: BorrowedFd<'_>, prefix: &str) {
    collect_with(parent, prefix, &mut |parent, name| unlinkat(parent, name, UnlinkatFlags::NoRemoveDir));
}

/// The same with a removal of one's own for what is no directory.
pub(super) fn collect_with(
    parent: BorrowedFd<'_>,
    prefix: &str,
    unlink: &mut dyn FnMut(BorrowedFd<'_>, &CStr) -> Result<(), Errno>,
) {
    for name in directory::names(parent).unwrap_or_default() {
        if !name.to_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        let fd = match directory::open_to_read(parent, name.as_c_str()) {
            Ok(fd) => fd,
            Err(Errno::ENOTDIR) => {
                let _ = unlink(parent, &name);
                continue;
            }
            Err(_) => continue,
        };
        if let Ok(held) = Flock::lock(fd, FlockArg::LockExclusiveNonblock) {
            let _ = directory::remove_tree_with(parent, &name, unlink);
            drop(held);
        }
    }
}

/// A name that nothing else has: time, process, and a count within it.
pub(crate) fn unique() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{:x}-{count:x}", now as u64, std::process::id())
}
