//! A probe's life: a child that tries, answers through a pipe, and is gone.

use std::fs::{self, File};
use std::io::{Read, Write};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{getegid, geteuid, pipe2};
use serde::{Deserialize, Serialize};

use super::{Status, diagnosis};
use crate::sys::probe;

/// Seconds that a probe may take.
const PATIENCE: u32 = 5;
/// Where probes mount in their own mount namespaces: the one directory besides /proc that every host
/// has and no probe needs.
pub const SCRATCH: &str = "/dev";

/// What a probe answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub status: Status,
    pub detail: String,
    pub cure: Option<String>,
}

impl Verdict {
    pub fn works(detail: impl Into<String>) -> Verdict {
        Verdict { status: Status::Works, detail: detail.into(), cure: None }
    }

    pub fn degraded(detail: impl Into<String>) -> Verdict {
        Verdict { status: Status::Degraded, detail: detail.into(), cure: None }
    }

    pub fn missing(detail: impl Into<String>) -> Verdict {
        Verdict { status: Status::Missing, detail: detail.into(), cure: None }
    }

    pub fn cure(self, cure: impl Into<String>) -> Verdict {
        Verdict { cure: Some(cure.into()), ..self }
    }

    /// Missing, because `action` failed with `error`; a filter around this process is named as cause.
    pub fn failed(action: &str, error: impl Into<std::io::Error>) -> Verdict {
        let error = error.into();
        let verdict = Verdict::missing(format!("cannot {action}: {error}"));
        match diagnosis::around_us(&error) {
            Some(cure) => verdict.cure(cure),
            None => verdict,
        }
    }
}

/// Like `?` for verdicts: a probe's steps, ended by the first that fails.
pub type Tried<T = ()> = Result<T, Verdict>;

/// Gives a failed step its words.
pub trait Step<T> {
    /// `action` completes "cannot …".
    fn step(self, action: &str) -> Tried<T>;
}

impl<T, E: Into<std::io::Error>> Step<T> for Result<T, E> {
    fn step(self, action: &str) -> Tried<T> {
        self.map_err(|error| Verdict::failed(action, error))
    }
}

/// Joins the two ways in which a probe can end.
pub fn verdict(tried: Tried<Verdict>) -> Verdict {
    tried.unwrap_or_else(|failed| failed)
}

/// Runs `try_it` in a child and returns its answer, or what became of it.
pub fn run(try_it: impl FnOnce() -> Verdict) -> Verdict {
    let (read, write) = match pipe2(OFlag::O_CLOEXEC) {
        Ok(ends) => ends,
        Err(errno) => return Verdict::failed("open a pipe", errno),
    };
    let child = probe::fork(|| {
        // SIGALRM does not reach the first process of a PID namespace; that one is killed with its parent.
        probe::alarm(PATIENCE);
        let answer = serde_json::to_vec(&try_it()).unwrap_or_default();
        u8::from(File::from(write).write_all(&answer).is_err())
    });
    let child = match child {
        Ok(child) => child,
        Err(errno) => return Verdict::failed("fork", errno),
    };
    let mut answer = Vec::new();
    let read = File::from(read).take(1 << 16).read_to_end(&mut answer);
    let status = loop {
        match waitpid(child, None) {
            Err(Errno::EINTR) => {}
            status => break status,
        }
    };
    if let (Ok(_), Ok(answer)) = (read, serde_json::from_slice(&answer)) {
        return answer;
    }
    match status {
        Ok(WaitStatus::Signaled(_, Signal::SIGALRM, _)) => {
            Verdict::missing(format!("did not answer within {PATIENCE} seconds"))
        }
        Ok(WaitStatus::Signaled(_, Signal::SIGSYS, _)) => {
            Verdict::missing("killed by a system call filter around this process")
                .cure(diagnosis::LOOSEN_FILTER)
        }
        Ok(status) => Verdict::missing(format!("the probe ended without an answer ({status:?})")),
        Err(errno) => Verdict::failed("wait for the probe", errno),
    }
}

/// Enters a new user namespace in which this user is 0 with all capabilities, and the namespaces of
/// `others` below it.
pub fn enter(others: CloneFlags) -> Tried {
    // The probes of these two have said why, with the cure.
    unshare_user()
        .and_then(|ids| ids.write())
        .map_err(|_| Verdict::missing("needs a user namespace with an id map"))?;
    unshare(others).step("create the namespace")
}

/// The ids of this user as they were outside of the user namespace just entered.
pub struct OuterIds {
    uid: u32,
    gid: u32,
}

/// Enters a new user namespace without a map.
pub fn unshare_user() -> Tried<OuterIds> {
    let ids = OuterIds { uid: geteuid().as_raw(), gid: getegid().as_raw() };
    unshare(CloneFlags::CLONE_NEWUSER).map_err(diagnosis::no_user_namespace)?;
    Ok(ids)
}

impl OuterIds {
    /// Maps 0 inside to this user outside.
    pub fn write(&self) -> Tried {
        let write = |file: &str, text: String| {
            fs::OpenOptions::new().write(true).open(file).and_then(|mut file| file.write_all(text.as_bytes()))
        };
        write("/proc/self/uid_map", format!("0 {} 1\n", self.uid)).map_err(diagnosis::no_id_map)?;
        write("/proc/self/setgroups", "deny".to_owned()).map_err(diagnosis::no_id_map)?;
        write("/proc/self/gid_map", format!("0 {} 1\n", self.gid)).map_err(diagnosis::no_id_map)
    }
}

/// Enters user and mount namespaces with an empty tmpfs at [`SCRATCH`].
pub fn enter_with_scratch() -> Tried {
    enter(CloneFlags::CLONE_NEWNS)?;
    make_private()?;
    mount_at("tmpfs", SCRATCH, "size=1m,nr_inodes=64,mode=0755")
}

/// Keeps mounts of this namespace from reaching any other.
pub fn make_private() -> Tried {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .step("make the mounts private")
}

/// Mounts a new filesystem of `kind` at `target`.
pub fn mount_at(kind: &str, target: &str, options: &str) -> Tried {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some(kind), target, Some(kind), flags, Some(options)).step(&format!("mount {kind}"))
}
