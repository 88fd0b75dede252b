//! How the end of a jail is told: by the exit status, by a line for each limit that was hit, and as JSON.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::unistd::{Pid, write};
use serde::Serialize;

use crate::cli::say;
use crate::error::{StageError, status};
use crate::jail::supervisor::End;
use crate::layer::cgroup::{Policy, Size, Usage};
use crate::sys::process;

/// Why a jail ended is told in these words on `--json-status-fd`.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct EndStatus {
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    timed_out: bool,
    oom_killed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_peak: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_usec: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct StartStatus {
    child_pid: i32,
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
pub(super) struct StatusFd(OwnedFd);

impl StatusFd {
    /// Takes the caller's descriptor over.
    ///
    /// # Errors
    /// It is not open.
    pub(super) fn adopt(number: i32) -> Result<StatusFd, StatusFdError> {
        process::adopt_descriptor(number).map(StatusFd).map_err(|cause| StatusFdError { number, cause })
    }

    /// Hands the descriptor on to the program that this process becomes, which adopts it again.
    ///
    /// # Errors
    /// As fcntl(2).
    pub(super) fn survive_exec(&self) -> Result<(), StatusFdError> {
        fcntl(&self.0, FcntlArg::F_SETFD(FdFlag::empty()))
            .map(drop)
            .map_err(|cause| StatusFdError { number: self.0.as_raw_fd(), cause })
    }

    /// Tells the process id of the jail's PID 1.
    pub(super) fn started(&self, pid: Pid) {
        let _ = self.write(&StartStatus { child_pid: pid.as_raw() });
    }

    fn write(&self, status: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(status).map_err(io::Error::other)?;
        line.push(b'\n');
        let mut rest = line.as_slice();
        while !rest.is_empty() {
            match write(&self.0, rest) {
                Ok(length) => rest = rest.get(length..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}

/// Tells how the jail ended and returns the exit status of `enter`.
pub(super) fn tell(end: End, limits: &Policy, usage: Option<&Usage>, status_fd: Option<&StatusFd>) -> u8 {
    let (exit_code, signal) = match end {
        End::Exited(code) => (u8::try_from(code & 0xff).unwrap_or(u8::MAX), None),
        End::Killed(signal) => (u8::try_from(128 + signal).unwrap_or(u8::MAX), Some(signal)),
        End::TimedOut => (status::TIMED_OUT, None),
    };
    if let Some(usage) = usage {
        tell_limits(limits, usage);
    }
    if end == End::TimedOut {
        say("killed: the time limit is over");
    }
    if let Some(fd) = status_fd {
        let _ = fd.write(&EndStatus {
            exit_code,
            signal,
            timed_out: end == End::TimedOut,
            oom_killed: usage.is_some_and(|usage| usage.oom_kills > 0),
            memory_peak: usage.and_then(|usage| usage.memory_peak),
            cpu_usec: usage.map(|usage| usage.cpu_usec),
        });
    }
    exit_code
}

fn tell_limits(limits: &Policy, usage: &Usage) {
    if usage.oom_kills > 0 {
        let peak = usage.memory_peak.map(|peak| format!(", peak {}", Size(peak))).unwrap_or_default();
        say(format_args!("killed: memory {}{peak}", Size(limits.memory.value)));
    }
    if usage.pids_max_hits > 0 {
        say(format_args!(
            "limited: processes {}, forks refused {}",
            limits.processes.value, usage.pids_max_hits
        ));
    }
}
