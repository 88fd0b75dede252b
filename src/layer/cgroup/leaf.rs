//! The leaf of one jail: made, limited, read, killed, removed.

use std::error::Error as _;
use std::fmt;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cgroups_rs::MaxValue;
use cgroups_rs::cpu::CpuController;
use cgroups_rs::memory::MemController;
use cgroups_rs::pid::PidController;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open, openat};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::Pid;

use super::hierarchy::{Place, missing, read, write};
use super::left::Left;
use super::{CgroupError, Origin, Policy, Usage};
use crate::path::printable;

/// A group is opened to be locked, and for what is in it.
const DIRECTORY: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// The period of cpu.max in µs: the kernel's default.
const CPU_PERIOD: u64 = 100_000;
/// The least quota that the kernel takes, in µs.
const CPU_QUOTA_MIN: i64 = 1_000;
/// Leftovers that one start removes at most.
const SWEEP_MAX: usize = 64;
/// Pauses between attempts to remove a leaf whose last processes are on their way out: 0.4 s in all.
const REMOVE_PAUSES: [u64; 9] = [0, 1, 1, 2, 5, 10, 30, 100, 250];

/// A leaf with its limits set. It is removed, with all that runs in it, at the latest when dropped.
pub struct Armed {
    path: PathBuf,
    /// Locked as long as this supervisor lives, so that no other one sweeps the leaf away.
    directory: Flock<OwnedFd>,
    place: Place,
    policy: Policy,
    swap_accounted: bool,
    left: Left,
    removed: bool,
}

impl Armed {
    /// Makes a leaf in `place` and sets its limits, for a process that was in `own`.
    pub(super) fn make(
        place: Place,
        own: &Path,
        jail_name: &str,
        policy: Policy,
    ) -> Result<Armed, CgroupError> {
        let path = make_directory(&place, jail_name, policy.controllers().needed)?;
        let directory = match open_locked(&path) {
            Ok(directory) => directory,
            Err(errno) => {
                let _ = fs::remove_dir(&path);
                return Err(CgroupError::Create { path, source: errno.into() });
            }
        };
        let left = Left::of(own, place.group(), &policy);
        let mut armed = Armed { path, directory, place, policy, swap_accounted: true, left, removed: false };
        armed.set_limits()?;
        Ok(armed)
    }

    /// Not memory.high: it slows a jail down that nobody watches, where swap is 0 to a crawl, instead of
    /// ending it ("memory.high … an external process monitors the limited cgroup").
    fn set_limits(&mut self) -> Result<(), CgroupError> {
        let policy = self.policy;
        let memory = MemController::new(self.path.clone(), true);
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.set("memory.max", memory.set_limit(signed(policy.memory.value)).map_err(io_error))?;
        self.set("memory.oom.group", write(&self.path.join("memory.oom.group"), "1"))?;
        if policy.swap.origin == Origin::Default && !self.path.join("memory.swap.max").exists() {
            self.swap_accounted = false;
        } else {
            self.set(
                "memory.swap.max",
                memory.set_memswap_limit(signed(policy.swap.value)).map_err(io_error),
            )?;
        }
        let processes = MaxValue::Value(signed(policy.processes.value));
        let pids = PidController::new(self.path.clone(), true);
        self.set("pids.max", pids.set_pid_max(processes).map_err(io_error))?;
        if let Some(cpus) = policy.cpus {
            let cpu = CpuController::new(self.path.clone(), true);
            let set = cpu.set_cfs_quota_and_period(Some(quota(cpus)), Some(CPU_PERIOD));
            self.set("cpu.max", set.map_err(io_error))?;
        }
        if let Some(weight) = policy.weight {
            let weight = weight.to_string();
            self.set("cpu.weight", write(&self.path.join("cpu.weight"), &weight))?;
            // Only there where the host shares its disks by weight.
            match write(&self.path.join("io.weight"), &weight) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                set => self.set("io.weight", set)?,
            }
        }
        Ok(())
    }

    fn set(&self, file: &'static str, result: io::Result<()>) -> Result<(), CgroupError> {
        result.map_err(|source| CgroupError::Set { path: self.path.clone(), file, source })
    }

    /// The leaf's directory, for `clone_args.cgroup` of clone3(2). Close-on-exec.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The leaf's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is weaker than asked for, a sentence each.
    pub fn weaker(&self) -> Vec<String> {
        let swap = "swap is not limited: this kernel does not account it";
        let swap = (!self.swap_accounted).then(|| swap.to_owned());
        swap.into_iter().chain(self.left.weaker()).collect()
    }

    /// Reads what the jail used.
    pub fn usage(&self) -> Usage {
        Usage::read(&self.path)
    }

    /// Sends SIGKILL to all that runs in the leaf; nothing can fork its way out.
    ///
    /// # Errors
    /// cgroupfs refuses; a process that is gone already is no error.
    pub fn kill(&self) -> Result<(), CgroupError> {
        let killed = match write(&self.path.join("cgroup.kill"), "1") {
            // Linux 5.13 has no cgroup.kill.
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.kill_frozen(),
            result => result,
        };
        killed.map_err(|source| CgroupError::Kill { path: self.path.clone(), source })
    }

    /// Stops all forking first, so that one pass meets every process.
    fn kill_frozen(&self) -> io::Result<()> {
        write(&self.path.join("cgroup.freeze"), "1")?;
        for line in read(&self.path.join("cgroup.procs"))?.lines() {
            // 0 is a process of another PID namespace; to kill(2) it would mean this process group.
            if let Some(pid) = line.parse().ok().filter(|pid| *pid > 0) {
                match kill(Pid::from_raw(pid), Signal::SIGKILL) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        write(&self.path.join("cgroup.freeze"), "0")
    }

    /// Removes the leaf, waiting at most 0.4 s for its last processes to be gone.
    ///
    /// # Errors
    /// As rmdir(2); something still runs in it.
    pub fn remove(mut self) -> Result<(), CgroupError> {
        self.remove_directory().map_err(|source| CgroupError::Remove { path: self.path.clone(), source })
    }

    fn remove_directory(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        for pause in REMOVE_PAUSES {
            std::thread::sleep(Duration::from_millis(pause));
            result = fs::remove_dir(&self.path);
            if !matches!(&result, Err(error) if error.kind() == io::ErrorKind::ResourceBusy) {
                break;
            }
        }
        if let Err(error) = &result
            && error.kind() != io::ErrorKind::NotFound
        {
            return result;
        }
        self.removed = true;
        if self.place.shared() {
            // The kernel keeps it while other jails are in it.
            let _ = fs::remove_dir(self.place.group());
        }
        Ok(())
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        if !self.removed {
            let _ = self.kill();
            let _ = self.remove_directory();
        }
    }
}

impl fmt::Debug for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Armed")
            .field("path", &self.path)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cgroup: {}: {}", printable(self.path.as_os_str()), self.policy)?;
        if !self.swap_accounted {
            f.write_str(" (swap not accounted by this kernel)")?;
        }
        Ok(())
    }
}

/// Removes the leaves in `group` whose supervisors were killed before they could.
pub(super) fn sweep(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else { return };
    let leftovers = entries.flatten().filter(|entry| {
        entry
            .file_name()
            .to_str()
            .and_then(supervisor)
            .is_some_and(|pid| kill(pid, None) == Err(Errno::ESRCH))
    });
    for leftover in leftovers.take(SWEEP_MAX) {
        // A supervisor of another PID namespace has no PID here, but it holds the lock. A leaf in which
        // anything runs is kept by the kernel.
        if open_locked(&leftover.path()).is_ok() {
            let _ = fs::remove_dir(leftover.path());
        }
    }
}

/// The PID in a leaf's name.
fn supervisor(name: &str) -> Option<Pid> {
    let mut parts = name.strip_prefix("jailmk-")?.rsplitn(3, '-');
    let _count: u64 = parts.next()?.parse().ok()?;
    let pid: i32 = parts.next()?.parse().ok()?;
    parts.next()?;
    (pid > 0).then(|| Pid::from_raw(pid))
}

/// What jailmk calls a group of one supervisor; [`sweep`] knows it again.
pub(super) fn group_name(jail_name: &str, pid: u32, count: u64) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let jail_name: String = jail_name.chars().take(64).map(safe).collect();
    format!("jailmk-{jail_name}-{pid}-{count}")
}

/// Makes a leaf, in a shared group one that has the files of the controllers `needed`.
fn make_directory(place: &Place, jail_name: &str, needed: &[&'static str]) -> Result<PathBuf, CgroupError> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let failed = |path: &Path, source: io::Error| CgroupError::Create { path: path.to_owned(), source };
    let group =
        open(place.group(), DIRECTORY, Mode::empty()).map_err(|errno| failed(place.group(), errno.into()))?;
    // Another supervisor may have removed the shared group since it was found, and a third one have made it anew
    // without controllers yet. ORDER: looked at before the leaf is made, and by one descriptor. In a leaf that is
    // there already they would be seen before their files are (cgroup_subtree_control_write() sets the mask
    // first); a leaf that is made meanwhile waits for them.
    if place.shared() {
        let enabled = enabled_in(group.as_fd()).map_err(|error| failed(place.group(), error))?;
        if !missing(needed, &enabled).is_empty() {
            return Err(failed(place.group(), Errno::ENODEV.into()));
        }
    }
    loop {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = group_name(jail_name, std::process::id(), count);
        let path = place.group().join(&name);
        match mkdirat(&group, name.as_str(), Mode::from_bits_truncate(0o755)) {
            Ok(()) => return Ok(path),
            // Left by an earlier process of the same PID.
            Err(Errno::EEXIST) if count < 1 << 16 => {}
            Err(errno) => return Err(failed(&path, errno.into())),
        }
    }
}

/// The controllers that children of `group` get.
fn enabled_in(group: BorrowedFd<'_>) -> io::Result<String> {
    let file = openat(group, "cgroup.subtree_control", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    io::read_to_string(fs::File::from(file))
}

fn open_locked(path: &Path) -> Result<Flock<OwnedFd>, Errno> {
    let directory = open(path, DIRECTORY, Mode::empty())?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| errno)
}

/// `cpus` processors as µs in each period.
fn quota(cpus: f64) -> i64 {
    ((cpus * CPU_PERIOD as f64).round() as i64).max(CPU_QUOTA_MIN)
}

/// The system call's own error, without the words that cgroups-rs puts around it.
fn io_error(error: cgroups_rs::error::Error) -> io::Error {
    let errno =
        error.source().and_then(|cause| cause.downcast_ref::<io::Error>()).and_then(io::Error::raw_os_error);
    match errno {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_supervisor_is_found_in_the_name_it_gave() {
        let pid = |name: &str| supervisor(name).map(Pid::as_raw);
        assert_eq!(pid(&group_name("my-agent", 4711, 3)), Some(4711));
        assert_eq!(pid("jailmk-agent-0-1"), None);
        assert_eq!(pid("jailmk-4711-1"), None);
        assert_eq!(pid("other-agent-4711-1"), None);
        assert_eq!(pid("jailmk-agent-x-1"), None);
    }

    #[test]
    fn a_leaf_name_is_one_path_component_of_harmless_bytes() {
        assert_eq!(group_name("../a b\n", 1, 0), "jailmk-___a_b_-1-0");
        assert!(group_name(&"x".repeat(300), 1, 0).len() < 100);
    }

    #[test]
    fn processors_become_microseconds_and_never_less_than_the_kernel_takes() {
        assert_eq!(quota(1.5), 150_000);
        assert_eq!(quota(0.001), 1_000);
    }
}
