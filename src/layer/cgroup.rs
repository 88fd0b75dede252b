//! The cgroup v2 layer: memory, swap, processors and processes of a jail, limited by a leaf of its own.
//!
//! The leaf is made and limited in the parent before the jail's first process exists; that process is
//! born in it (`clone3` with `CLONE_INTO_CGROUP`). Writing a PID to `cgroup.procs` instead would wait 5
//! to 9 ms for an RCU grace period, and would leave a moment without limits.
//!
//! Source: the kernel's Documentation/admin-guide/cgroup-v2.rst.

pub mod bus;
mod hierarchy;
mod inside;
mod leaf;
mod left;
mod systemd;
mod usage;

pub use hierarchy::{Controllers, Hierarchy, HierarchyFault, Place, Refusal, RefusalReason, Refusals};
pub use leaf::Armed;
pub use systemd::ManagerFault;
pub use usage::{Pressure, Transfer, Usage};

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::error::StageError;
use crate::path::printable;
use crate::spec::Limits;

/// `processes` when the spec has none.
const DEFAULT_PROCESSES: u64 = 2048;

/// What the jail may use. The strictest that runs anything: see [`Policy::new`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Bytes of memory: memory.max.
    pub memory: Limit<u64>,
    /// Bytes of swap: memory.swap.max.
    pub swap: Limit<u64>,
    /// Processors; all when `None`: cpu.max. Always written in the spec.
    pub cpus: Option<f64>,
    /// Processes and threads: pids.max.
    pub processes: Limit<u64>,
    /// Share against other groups, which have 100: cpu.weight, and io.weight where there is one.
    pub weight: Option<u64>,
}

/// One limit and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit<T> {
    /// The most that is allowed.
    pub value: T,
    /// Who asked for it.
    pub origin: Origin,
}

/// Who asked for a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The spec: it is enforced, or `enter` fails.
    Written,
    /// jailmk: where it cannot be had, rlimits stand in and one line says so.
    Default,
}

impl<T> Limit<T> {
    fn new(written: Option<T>, default: T) -> Limit<T> {
        match written {
            Some(value) => Limit { value, origin: Origin::Written },
            None => Limit { value: default, origin: Origin::Default },
        }
    }
}

/// What [`Policy::arm`] came to.
#[derive(Debug)]
pub enum Outcome {
    /// The leaf exists and has its limits.
    Armed(Armed),
    /// No limit was written in the spec, and the default ones cannot be had here.
    Unavailable {
        /// Why; its causes and hints are for the one line that says so.
        reason: CgroupError,
    },
}

impl Policy {
    /// Fills what the spec leaves out: memory half of `host_memory` (bytes), no swap, 2048 processes,
    /// all processors.
    pub fn new(limits: &Limits, host_memory: u64) -> Policy {
        Policy {
            memory: Limit::new(limits.memory, host_memory / 2),
            swap: Limit::new(limits.swap, 0),
            cpus: limits.cpus,
            processes: Limit::new(limits.processes, DEFAULT_PROCESSES),
            weight: limits.weight,
        }
    }

    /// Whether the spec writes a limit that only a cgroup can enforce.
    pub fn written(&self) -> bool {
        self.cpus.is_some()
            || self.weight.is_some()
            || [self.memory.origin, self.swap.origin, self.processes.origin].contains(&Origin::Written)
    }

    /// The controllers that the limits need, and the one that tells what went to and from disks.
    fn controllers(&self) -> Controllers {
        let processors = self.cpus.is_some() || self.weight.is_some();
        let needed: &[_] = if processors { &["memory", "pids", "cpu"] } else { &["memory", "pids"] };
        Controllers { needed, wanted: &["io"] }
    }

    /// Makes a leaf with all limits set and nothing in it. What cannot be finished is removed again.
    ///
    /// # Errors
    /// A limit was written in the spec and cannot be enforced on this host.
    pub fn arm(&self, jail_name: &str) -> Result<Outcome, CgroupError> {
        match self.try_arm(jail_name) {
            Ok(armed) => Ok(Outcome::Armed(armed)),
            Err(reason) if !self.written() => Ok(Outcome::Unavailable { reason }),
            Err(reason) => Err(reason),
        }
    }

    fn try_arm(&self, jail_name: &str) -> Result<Armed, CgroupError> {
        let hierarchy = Hierarchy::find()?;
        let mut races = 0;
        loop {
            let place = hierarchy.place(jail_name, self.controllers())?;
            leaf::sweep(place.group());
            match Armed::make(place, hierarchy.own(), jail_name, *self) {
                // The last jail of another supervisor has just ended and took the shared group with it.
                Err(CgroupError::Create { source, .. } | CgroupError::Set { source, .. })
                    if hierarchy::is_gone(&source) && races < hierarchy::RACES_MAX =>
                {
                    races += 1;
                }
                made => return made,
            }
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory {}, swap {}, cpus ", Size(self.memory.value), Size(self.swap.value))?;
        match self.cpus {
            Some(cpus) => write!(f, "{cpus}")?,
            None => f.write_str("all")?,
        }
        write!(f, ", processes {}", self.processes.value)?;
        match self.weight {
            Some(weight) => write!(f, ", weight {weight}"),
            None => Ok(()),
        }
    }
}

/// Bytes of memory that the host has; `None` where the kernel does not say.
pub fn host_memory() -> Option<u64> {
    use nix::unistd::{SysconfVar, sysconf};
    let read = |name| sysconf(name).ok().flatten().and_then(|value| u64::try_from(value).ok());
    read(SysconfVar::_PHYS_PAGES)?.checked_mul(read(SysconfVar::PAGE_SIZE)?)
}

/// Why the limits cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// There is no hierarchy to make a leaf in.
    #[error("cannot use cgroup v2")]
    Hierarchy(#[source] HierarchyFault),
    /// There is a hierarchy, and no group of it will do.
    #[error("cannot find a cgroup to limit the jail in")]
    Place(#[source] Refusals),
    /// mkdir(2), open(2) or flock(2) of the leaf failed.
    #[error("cannot create cgroup {}", printable(path.as_os_str()))]
    Create {
        /// The leaf.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A limit was refused.
    #[error("cannot set {file} of cgroup {}", printable(path.as_os_str()))]
    Set {
        /// The leaf.
        path: PathBuf,
        /// The limit's file.
        file: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The processes could not be killed.
    #[error("cannot kill the processes of cgroup {}", printable(path.as_os_str()))]
    Kill {
        /// The leaf.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The leaf stays.
    #[error("cannot remove cgroup {}", printable(path.as_os_str()))]
    Remove {
        /// The leaf.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl StageError for CgroupError {
    fn hints(&self) -> Vec<String> {
        const DROP: &str = "to run without these limits remove `memory`, `swap`, `cpus`, `weight` and \
                            `processes` from [limits], or set `degrade = [\"cgroup\"]` in [hardening]";
        let cure = match self {
            CgroupError::Hierarchy(HierarchyFault::Legacy) => {
                "boot with `systemd.unified_cgroup_hierarchy=1` on the kernel command line to use cgroup v2"
            }
            CgroupError::Hierarchy(HierarchyFault::NotMounted) => {
                "mount it: `mount -t cgroup2 cgroup2 /sys/fs/cgroup`"
            }
            CgroupError::Hierarchy(HierarchyFault::Lacks(_)) => {
                "boot without `cgroup_disable=` (some boards need `cgroup_enable=memory`), or give the container \
                 its controllers"
            }
            CgroupError::Hierarchy(_) => "give the container its own cgroup namespace and mount",
            CgroupError::Place(Refusals(refusals)) if refusals.iter().any(Refusal::is_read_only) => {
                "a sandbox around jailmk makes /sys/fs/cgroup read-only: under systemd remove \
                 `ProtectControlGroups=` from the unit; in a container mount it writable"
            }
            CgroupError::Place(_) if nix::unistd::geteuid().is_root() => {
                "in a container, mount /sys/fs/cgroup writable and move the container's processes out of its \
                 topmost group; under systemd, set `Delegate=yes` in the unit"
            }
            CgroupError::Place(Refusals(refusals))
                if refusals.iter().any(|refusal| matches!(refusal.reason, RefusalReason::Lacks(_))) =>
            {
                "have systemd give users the controller: `systemctl edit user@.service` with \
                 `[Service]` and `Delegate=cpu memory pids io`, then log in anew"
            }
            CgroupError::Place(_) => {
                "with systemd: log in, or have your manager run without a login (`loginctl enable-linger`), \
                 or set `Delegate=yes` in the unit that starts jailmk; else have root give you a cgroup with \
                 controllers and start jailmk below it"
            }
            CgroupError::Set { file: "memory.swap.max", .. } => {
                "boot with `swapaccount=1` on the kernel command line"
            }
            CgroupError::Kill { .. } | CgroupError::Remove { .. } => return Vec::new(),
            CgroupError::Create { .. } | CgroupError::Set { .. } => return vec![DROP.to_owned()],
        };
        vec![cure.to_owned(), DROP.to_owned()]
    }
}

/// Bytes as people read them: the largest unit that is exact, else one decimal.
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(&str, u64); 4] =
            [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        let Some((unit, bytes)) = UNITS.into_iter().find(|(_, bytes)| self.0 >= *bytes) else {
            return write!(f, "{}", self.0);
        };
        if self.0.is_multiple_of(bytes) {
            write!(f, "{} {unit}", self.0 / bytes)
        } else {
            write!(f, "{:.1} {unit}", self.0 as f64 / bytes as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_without_limits_gets_the_defaults_and_writes_none() {
        let policy = Policy::new(&Limits::default(), 8 << 30);
        assert_eq!(policy.to_string(), "memory 4 GiB, swap 0, cpus all, processes 2048");
        assert!(!policy.written());
        assert_eq!(policy.controllers().needed, ["memory", "pids"]);
    }

    #[test]
    fn one_written_limit_makes_the_layer_required() {
        for limits in [
            Limits { memory: Some(1 << 20), ..Limits::default() },
            Limits { swap: Some(0), ..Limits::default() },
            Limits { cpus: Some(1.5), ..Limits::default() },
            Limits { processes: Some(9), ..Limits::default() },
            Limits { weight: Some(9), ..Limits::default() },
        ] {
            assert!(Policy::new(&limits, 8 << 30).written(), "{limits:?}");
        }
        let others = Limits { open_files: Some(9), disk: Some(9), ..Limits::default() };
        assert!(!Policy::new(&others, 8 << 30).written());
    }

    #[test]
    fn the_plan_names_each_limit_in_its_unit() {
        let limits = Limits {
            memory: Some(512 << 20),
            swap: Some(1536 << 20),
            cpus: Some(1.5),
            processes: Some(64),
            weight: Some(50),
            ..Limits::default()
        };
        let words = Policy::new(&limits, 1).to_string();
        assert_eq!(words, "memory 512 MiB, swap 1.5 GiB, cpus 1.5, processes 64, weight 50");
    }

    #[test]
    fn a_legacy_host_is_told_the_kernel_command_line() {
        let hints = CgroupError::Hierarchy(HierarchyFault::Legacy).hints();
        assert!(hints[0].contains("systemd.unified_cgroup_hierarchy=1"));
        assert!(hints[1].contains("degrade = [\"cgroup\"]"));
    }
}
