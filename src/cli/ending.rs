//! How the end of a jail is told: by the exit status, by a line for each limit that was hit, and as JSON.

use std::cell::Cell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::write;
use serde::Serialize;

use crate::cli::say;
use crate::error::{Causes, StageError, status};
use crate::jail::supervisor::{End, Started};
use crate::layer::cgroup::{Policy, Pressure, Size, Transfer, Usage};
use crate::layer::namespaces::Inodes;
use crate::sys::process;

/// The first line on `--json-status-fd`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct StartLine {
    child_pid: i32,
    start_unix_ms: u64,
    namespaces: Inodes,
}

/// The last line: how a jail ended, in these words.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct EndLine<'a> {
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    killed_by: Option<Killer>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    timed_out: bool,
    oom_killed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
    #[serde(flatten)]
    used: Used<'a>,
}

/// What is known of the resources that a jail used; each figure is missing where nobody counted it.
#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Used<'a> {
    cpu_usec: u64,
    cpu_user_usec: u64,
    cpu_system_usec: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_peak: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    swap_peak: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processes_peak: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    forks_refused: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pressure: Option<PressureTotals<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<&'a Transfer>,
}

/// Pressure stall totals by resource.
#[derive(Serialize)]
struct PressureTotals<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<&'a Pressure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<&'a Pressure>,
    #[serde(skip_serializing_if = "Option::is_none")]
    io: Option<&'a Pressure>,
}

/// What ended a jail that did not end by itself.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Killer {
    /// The kernel: the jail's own limit of memory.
    Memory,
    /// The kernel: the host, or a group above the jail's, was out of memory.
    HostMemory,
    /// jailmk: the time was over.
    Time,
    /// jailmk: the changes to the workspace took too much of the disk.
    Disk,
    /// A signal to jailmk, which handed it on.
    Signal,
    /// Somebody outside, who killed the jail's first process.
    Outside,
    /// jailmk, because it could not go on itself.
    Supervisor,
}

/// The descriptor of `--json-status-fd` is none.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the status to descriptor {number}")]
pub(super) struct StatusFdError {
    number: i32,
    #[source]
    cause: Errno,
}

impl StageError for StatusFdError {}

/// The descriptor of `--json-status-fd`. A reader that went away needs to be told no more.
pub(super) struct StatusFd {
    fd: OwnedFd,
    started: Cell<Option<Instant>>,
}

impl StatusFd {
    /// Takes the caller's descriptor over.
    ///
    /// # Errors
    /// It is not open.
    pub(super) fn adopt(number: i32) -> Result<StatusFd, StatusFdError> {
        match process::adopt_descriptor(number) {
            Ok(fd) => Ok(StatusFd { fd, started: Cell::new(None) }),
            Err(cause) => Err(StatusFdError { number, cause }),
        }
    }

    /// Hands the descriptor on to the program that this process becomes, which adopts it again.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn survive_exec(&self) -> Result<(), StatusFdError> {
        fcntl(&self.fd, FcntlArg::F_SETFD(FdFlag::empty()))
            .map(drop)
            .map_err(|cause| StatusFdError { number: self.fd.as_raw_fd(), cause })
    }

    /// Tells that all layers are in place, and what the jail can be found by.
    pub(super) fn started(&self, started: &Started) {
        self.started.set(Some(Instant::now()));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let _ = self.write(&StartLine {
            child_pid: started.pid.as_raw(),
            start_unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
            namespaces: started.namespaces,
        });
    }

    /// Tells that jailmk failed, before the command ran or beside it.
    pub(super) fn failed(&self, exit_code: u8, error: &dyn StageError, usage: Option<&Usage>) {
        let _ = self.write(&EndLine {
            exit_code,
            signal: None,
            killed_by: self.started.get().map(|_| Killer::Supervisor).filter(|_| exit_code == status::FAILED),
            error: Some(Causes(error).to_string()),
            timed_out: false,
            oom_killed: usage.is_some_and(|usage| usage.oom_kills > 0),
            duration_ms: self.duration_ms(),
            used: Used::of(usage),
        });
    }

    fn duration_ms(&self) -> Option<u64> {
        self.started.get().map(|at| u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn write(&self, status: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(status).map_err(io::Error::other)?;
        line.push(b'\n');
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match write(&self.fd, rest) {
                Ok(length) => rest = rest.get(length..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

impl<'a> Used<'a> {
    /// From the cgroup; without one, processor time as wait(2) told it.
    fn of(usage: Option<&'a Usage>) -> Used<'a> {
        let Some(usage) = usage else {
            let Ok(children) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Used::default() };
            let usec = |time: TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
            let (user, system) = (usec(children.user_time()), usec(children.system_time()));
            return Used {
                cpu_usec: user + system,
                cpu_user_usec: user,
                cpu_system_usec: system,
                ..Used::default()
            };
        };
        let (memory, cpu, io) = (&usage.memory_pressure, &usage.cpu_pressure, &usage.io_pressure);
        let told = memory.is_some() || cpu.is_some() || io.is_some();
        let pressure = PressureTotals { memory: memory.as_ref(), cpu: cpu.as_ref(), io: io.as_ref() };
        Used {
            cpu_usec: usage.user_usec + usage.system_usec,
            cpu_user_usec: usage.user_usec,
            cpu_system_usec: usage.system_usec,
            memory_peak: usage.memory_peak,
            swap_peak: usage.swap_peak,
            processes_peak: usage.processes_peak,
            forks_refused: Some(usage.pids_max_hits),
            pressure: told.then_some(pressure),
            io: usage.transfer.as_ref(),
        }
    }
}

/// Tells how the jail ended and returns the exit status of `enter`.
pub(super) fn tell(end: End, limits: &Policy, usage: Option<&Usage>, status_fd: Option<&StatusFd>) -> u8 {
    let of_signal = |signal: i32| u8::try_from(128 + signal).unwrap_or(u8::MAX);
    let (exit_code, signal) = match end {
        End::Exited(code) => (u8::try_from(code & 0xff).unwrap_or(u8::MAX), None),
        End::Killed { signal, .. } => (of_signal(signal), Some(signal)),
        End::Lost | End::DiskFull(_) => (of_signal(libc::SIGKILL), Some(libc::SIGKILL)),
        End::TimedOut => (status::TIMED_OUT, None),
    };
    let killed_by = killer(end, usage);
    tell_limits(limits, usage);
    match killed_by {
        Some(Killer::Time) => say("killed: the time limit is over"),
        Some(Killer::Outside) => say("killed: from outside, by SIGKILL to the jail's first process"),
        _ => {}
    }
    if let End::DiskFull(excess) = end {
        let took = match excess.counted {
            true => "took",
            false => "in directories that could not be looked at may have taken",
        };
        say(format_args!(
            "killed: disk {}, the changes {took} {}: `jailmk apply` and `jailmk discard` make room",
            Size(excess.limit),
            Size(excess.taken)
        ));
    }
    if let Some(fd) = status_fd {
        let _ = fd.write(&EndLine {
            exit_code,
            signal,
            killed_by,
            error: None,
            timed_out: end == End::TimedOut,
            oom_killed: usage.is_some_and(|usage| usage.oom_kills > 0),
            duration_ms: fd.duration_ms(),
            used: Used::of(usage),
        });
    }
    exit_code
}

fn killer(end: End, usage: Option<&Usage>) -> Option<Killer> {
    let by_memory = usage
        .filter(|usage| usage.oom_kills > 0)
        .map(|usage| if usage.oom > 0 { Killer::Memory } else { Killer::HostMemory });
    match end {
        End::TimedOut => Some(Killer::Time),
        End::DiskFull(_) => Some(Killer::Disk),
        End::Exited(_) => None,
        End::Killed { signal: libc::SIGKILL, .. } if by_memory.is_some() => by_memory,
        End::Lost => by_memory.or(Some(Killer::Outside)),
        End::Killed { handed_on: true, .. } => Some(Killer::Signal),
        End::Killed { handed_on: false, .. } => None,
    }
}

/// A line for each limit of the cgroup that was hit.
pub(super) fn tell_limits(limits: &Policy, usage: Option<&Usage>) {
    if let Some(usage) = usage.filter(|usage| usage.oom_kills > 0) {
        let peak = usage.memory_peak.map(|peak| format!(", peak {}", Size(peak))).unwrap_or_default();
        match usage.oom {
            0 => say(format_args!("killed: the host, or a group above the jail's, is out of memory{peak}")),
            _ => say(format_args!("killed: memory {}{peak}", Size(limits.memory.value))),
        }
    }
    if let Some(usage) = usage.filter(|usage| usage.pids_max_hits > 0) {
        say(format_args!(
            "limited: processes {}, forks refused {}",
            limits.processes.value, usage.pids_max_hits
        ));
    }
}
