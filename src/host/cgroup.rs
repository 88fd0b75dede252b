//! Limits by cgroup v2, tried through the layer that sets them.

use std::error::Error;
use std::fs;

use nix::sys::wait::{WaitStatus, waitpid};

use super::child::{Step, Tried, Verdict, verdict};
use crate::error::StageError;
use crate::layer::cgroup::{Armed, CgroupError, Outcome, Policy};
use crate::path::printable;
use crate::spec::Limits;
use crate::sys::probe;

pub fn limits() -> Verdict {
    verdict((|| {
        let (armed, processors) = match arm(Some(1.0)) {
            Ok(armed) => (armed, true),
            Err(error) => (arm(None).map_err(|_| explain(&error))?, false),
        };
        let group = armed.path().parent().map(|group| printable(group.as_os_str()).to_string());
        let group = group.unwrap_or_default();
        let weaker = armed.weaker();
        armed.remove().map_err(|error| explain(&error))?;
        Ok(match () {
            _ if !processors => {
                Verdict::degraded(format!("a leaf in {group}, but without the cpu controller"))
                    .cure("have systemd delegate it: `Delegate=cpu memory pids io` in user@.service, or `Delegate=yes` in the unit that starts jailmk")
            }
            _ if !weaker.is_empty() => {
                Verdict::degraded(format!("a leaf in {group}, but {}", weaker.join("; ")))
            }
            _ => Verdict::works(format!("a leaf in {group} took all limits")),
        })
    })())
}

pub fn birth() -> Verdict {
    verdict((|| {
        let armed = arm(None).map_err(|error| match &error {
            CgroupError::Hierarchy(_) | CgroupError::Place(_) => Verdict::degraded("needs a cgroup v2 leaf"),
            _ => explain(&error),
        })?;
        let born = born_in(&armed);
        armed.remove().map_err(|error| explain(&error))?;
        born
    })())
}

fn born_in(armed: &Armed) -> Tried<Verdict> {
    let name = armed.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let child = probe::clone_into(armed.directory(), || {
        let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        u8::from(!group.lines().any(|line| line.starts_with("0::") && line.ends_with(&name)))
    })
    .step("create a process in a cgroup")?;
    Ok(match waitpid(child, None).step("wait for a child")? {
        WaitStatus::Exited(_, 0) => Verdict::works("a process was born in a leaf"),
        _ => Verdict::missing("a process was created, but not in the leaf"),
    })
}

/// A leaf with a limit that must be kept, so that the reason is an error and not a note.
fn arm(cpus: Option<f64>) -> Result<Armed, CgroupError> {
    let limits = Limits { cpus, processes: Some(64), memory: Some(64 << 20), ..Limits::default() };
    match Policy::new(&limits, 0).arm("check")? {
        Outcome::Armed(armed) => Ok(armed),
        Outcome::Unavailable { reason } => Err(reason),
    }
}

/// Without cgroups a jail can be entered, by rlimits alone and if its spec writes no limits.
fn explain(error: &CgroupError) -> Verdict {
    let mut detail = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        detail.push_str(&format!(": {error}"));
        cause = error.source();
    }
    let verdict = Verdict::degraded(format!("{detail}; only rlimits can be set"));
    match error.hints().into_iter().next() {
        Some(cure) => verdict.cure(cure),
        None => verdict,
    }
}
