//! This process's own group, made one that can have limited groups below it: the kernel gives controllers
//! only to children of groups without processes of their own ("No Internal Process Constraint").

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::hierarchy::{RefusalReason, read, write};

/// This process stands aside in a group below the one it was in. Goes back when dropped, as far as the
/// kernel lets it.
#[derive(Debug)]
pub struct Inside {
    group: PathBuf,
    aside: PathBuf,
    stays: bool,
}

impl Inside {
    /// Moves this process from `group` into a new group below it.
    ///
    /// # Errors
    /// Another process is in `group`, or cgroupfs refuses.
    pub fn stand_aside(group: &Path, name: &str) -> Result<Inside, RefusalReason> {
        let own = std::process::id().to_string();
        let is_alone = || -> io::Result<bool> {
            Ok(read(&group.join("cgroup.procs"))?.lines().all(|process| process == own))
        };
        if !is_alone()? {
            return Err(RefusalReason::HoldsProcesses);
        }
        let aside = group.join(name);
        // A supervisor on its way back takes the controllers away from a group in which it is alone; it sees
        // this directory, or is done before it is there.
        let lock = locked(group)?;
        match DirBuilder::new().mode(0o755).create(&aside) {
            // Left by an earlier process of the same PID.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
        drop(lock);
        let inside = Inside { group: group.to_owned(), aside, stays: false };
        write(&inside.aside.join("cgroup.procs"), "0")?;
        Ok(inside)
    }

    /// Leaves this process where it is: who made the group tidies it up.
    pub fn stay(mut self) {
        self.stays = true;
    }

    /// The way back is open only when no child has controllers.
    fn go_back(&self) -> io::Result<()> {
        let _lock = locked(&self.group)?;
        for entry in fs::read_dir(&self.group)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() && entry.path() != self.aside {
                return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
            }
        }
        let control = self.group.join("cgroup.subtree_control");
        let enabled = read(&control)?;
        let request: Vec<String> = enabled.split_whitespace().map(|name| format!("-{name}")).collect();
        if !request.is_empty() {
            write(&control, &request.join(" "))?;
        }
        write(&self.group.join("cgroup.procs"), "0")?;
        fs::remove_dir(&self.aside)
    }
}

/// The lock of a group's directory; whoever holds it, holds it for some system calls.
fn locked(group: &Path) -> io::Result<Flock<OwnedFd>> {
    let mut directory = OwnedFd::from(fs::File::open(group)?);
    for _ in 0..100 {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EAGAIN | Errno::EINTR)) => directory = back,
            Err((_, errno)) => return Err(errno.into()),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Err(Errno::EAGAIN.into())
}

impl Drop for Inside {
    fn drop(&mut self) {
        if !self.stays {
            // Beside another jail of the same group this process stays; what remains is swept like a leaf.
            let _ = self.go_back();
        }
    }
}
