//! Limits of each process (getrlimit(2)); the jail as a whole is limited by its cgroup.

use std::fmt;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::spec::Limits;

/// Resource limits, soft equal to hard.
#[derive(Debug)]
pub struct Armed {
    limits: Vec<(Resource, &'static str, u64)>,
}

impl Armed {
    /// Core files off, descriptors as the spec says, file size by `disk`.
    pub fn new(limits: &Limits) -> Armed {
        let mut armed = vec![(Resource::RLIMIT_CORE, "core size", CORE_SIZE)];
        armed.push((Resource::RLIMIT_NOFILE, "open files", limits.open_files.unwrap_or(OPEN_FILES)));
        if let Some(disk) = limits.disk {
            armed.push((Resource::RLIMIT_FSIZE, "file size", disk));
        }
        armed.push((Resource::RLIMIT_MEMLOCK, "locked memory", LOCKED_MEMORY));
        armed.push((Resource::RLIMIT_MSGQUEUE, "message queues", MESSAGE_QUEUES));
        armed.push((Resource::RLIMIT_SIGPENDING, "queued signals and timers", QUEUED_SIGNALS));
        Armed { limits: armed }
    }

    /// Stands in for a cgroup that this host cannot give: the processes of the jail's user together,
    /// and the data of each. Lower limits of the caller hold.
    pub fn instead_of_cgroup(&mut self, memory: u64, processes: u64) {
        for (resource, words, value) in [
            (Resource::RLIMIT_NPROC, "processes", processes),
            (Resource::RLIMIT_DATA, "data of a process", memory),
        ] {
            self.limits.push((resource, words, at_most_the_callers(resource, value)));
        }
    }

    /// Never asks for more than the caller has: a hard limit cannot be raised, but by root.
    pub fn bounded_by_caller(mut self) -> Armed {
        if matches!(getrlimit(Resource::RLIMIT_CORE), Ok((_, 0))) {
            // Root can, here and not from within the jail; for others it stays.
            let _ = setrlimit(Resource::RLIMIT_CORE, CORE_SIZE, CORE_SIZE);
        }
        for (resource, _, value) in &mut self.limits {
            *value = at_most_the_callers(*resource, *value);
        }
        self
    }

    /// Whether a crash in the jail starts a helper of the host: one that the kernel runs with any limit but
    /// [`CORE_SIZE`], which a caller with a hard limit of 0 cannot have.
    pub fn crash_starts_helper(&self) -> bool {
        let core = self.limits.iter().find(|(resource, ..)| *resource == Resource::RLIMIT_CORE);
        let pattern = std::fs::read("/proc/sys/kernel/core_pattern").unwrap_or_default();
        core.is_none_or(|(_, _, size)| *size != CORE_SIZE) && pattern.starts_with(b"|")
    }

    /// Sets them.
    ///
    /// # Errors
    /// As setrlimit(2).
    pub fn apply(&self) -> Result<(), Errno> {
        for (resource, _, value) in &self.limits {
            setrlimit(*resource, *value, *value)?;
        }
        Ok(())
    }
}

fn at_most_the_callers(resource: Resource, value: u64) -> u64 {
    getrlimit(resource).map_or(value, |(_, hard)| value.min(hard))
}

/// A core file is written by a helper of the host, as root, from what the jail put in memory. For a helper
/// behind a pipe the kernel asks for no limit but this one: 1 is what it gives the helpers themselves, and a
/// crash with it starts none; for a file it is too little. The system call filter keeps it (fs/coredump.c, core(5)).
const CORE_SIZE: u64 = 1;

const OPEN_FILES: u64 = 65_536;
const LOCKED_MEMORY: u64 = 8 << 20;
const MESSAGE_QUEUES: u64 = 819_200;
/// Counted for the caller as well, who has some 4,000 for each GiB of the host's memory.
const QUEUED_SIGNALS: u64 = 4_096;

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("limit each process:")?;
        for (index, (_, words, value)) in self.limits.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma} {words} {value}")?;
        }
        Ok(())
    }
}
