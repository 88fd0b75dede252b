//! What this host can enforce: every primitive that a jail is made of, tried and not guessed.
//!
//! Each probe runs in a child of its own, in namespaces of its own, and takes all that it made with it.

mod cgroup;
mod child;
mod diagnosis;
mod mounts;
mod namespaces;
mod process;

use std::fmt;

use serde::{Deserialize, Serialize};

use child::Verdict;

/// Whether a primitive can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It was used and did what it should.
    Works,
    /// It is there in part, or a jail can do without it and is weaker.
    Degraded,
    /// It is not there: a jail cannot be entered, or not with the layer that needs it.
    Missing,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Status::Works => "works",
            Status::Degraded => "degraded",
            Status::Missing => "MISSING",
        })
    }
}

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The primitive.
    pub name: &'static str,
    /// Whether it can be relied on.
    pub status: Status,
    /// What was seen.
    pub detail: String,
    /// What a jail uses it for.
    pub needed_for: &'static str,
    /// What the user can do about it, where that is known.
    pub cure: Option<String>,
}

/// One row of the table of probes.
struct Probe {
    name: &'static str,
    needed_for: &'static str,
    try_it: fn() -> Verdict,
}

const fn probe(name: &'static str, needed_for: &'static str, try_it: fn() -> Verdict) -> Probe {
    Probe { name, needed_for, try_it }
}

/// In the order in which a jail uses them, so that the first that fails explains the next.
const PROBES: &[Probe] = &[
    probe("kernel", "one code path without fallbacks", process::kernel),
    probe("user namespace", "every other namespace without root", namespaces::user),
    probe("id map", "one user inside, not root", namespaces::id_map),
    probe("mount namespace", "a view built from nothing", namespaces::mount),
    probe("PID namespace", "host processes out of sight and reach", namespaces::pid),
    probe("network namespace", "no network but loopback", namespaces::network),
    probe("IPC namespace", "no shared memory with the host", namespaces::ipc),
    probe("UTS namespace", "a host name of its own", namespaces::uts),
    probe("cgroup namespace", "host cgroups out of sight", namespaces::cgroup),
    probe("time namespace", "nothing by default", namespaces::time),
    probe("tmpfs", "/dev, /tmp and the home directory", mounts::tmpfs),
    probe("proc", "/proc with the jail's processes only", mounts::proc),
    probe("devpts", "a terminal of its own", mounts::devpts),
    probe("open_tree, move_mount", "mounts that no path can redirect", mounts::detached_tree),
    probe("mount_setattr", "read-only, nosuid, nodev for whole trees", mounts::attributes),
    probe("pivot_root", "the host's root gone, not hidden", mounts::pivot_root),
    probe("overlay", "workspaces that are reviewed before they change", mounts::overlay),
    probe("Landlock", "file access denied twice over", process::landlock),
    probe("seccomp", "the system call filter", process::seccomp),
    probe("no_new_privs", "setuid programs without effect", process::no_new_privs),
    probe("cgroup v2", "limits of memory, processors and processes", cgroup::limits),
    probe("clone into cgroup", "limits from the first instruction on", cgroup::birth),
    probe("close_range", "no descriptor of the host inside", process::close_range),
    probe("openat2", "paths that cannot leave a tree", process::openat2),
    probe("session keyring", "no keys of the host inside", process::session_keyring),
    probe("pidfd", "signals that cannot hit another process", process::pidfd),
];

/// For root only: an ordinary user cannot have it, and does not need it.
const ROOT_PROBES: &[Probe] =
    &[probe("idmapped mount", "the workspace's files as the jail's user", mounts::idmapped)];

/// Tries every primitive. Nothing is left behind: no process, no mount, no cgroup; a probe that hangs
/// is ended after five seconds.
///
/// The process must have one thread, for the probes run in forked children.
pub fn check() -> Vec<Finding> {
    let for_root = if nix::unistd::geteuid().is_root() { ROOT_PROBES } else { &[] };
    PROBES
        .iter()
        .chain(for_root)
        .map(|probe| {
            let Verdict { status, detail, cure } = child::run(probe.try_it);
            Finding { name: probe.name, status, detail, needed_for: probe.needed_for, cure }
        })
        .collect()
}

/// Findings as a table for people: one line each, and below it what a missing one is needed for and
/// its cure. Plain text.
pub struct Table<'a>(pub &'a [Finding]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.0.iter().map(|finding| finding.name.chars().count()).max().unwrap_or(0);
        for finding in self.0 {
            writeln!(f, "{:width$}  {:8}  {}", finding.name, finding.status, finding.detail)?;
            if finding.status != Status::Works {
                writeln!(f, "{:width$}  needed for: {}", "", finding.needed_for)?;
            }
            if let Some(cure) = &finding.cure {
                writeln!(f, "{:width$}  cure: {cure}", "")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> [Finding; 2] {
        [
            Finding {
                name: "tmpfs",
                status: Status::Works,
                detail: "mounted".to_owned(),
                needed_for: "/tmp",
                cure: None,
            },
            Finding {
                name: "user namespace",
                status: Status::Missing,
                detail: "refused: EPERM".to_owned(),
                needed_for: "everything",
                cure: Some("set it".to_owned()),
            },
        ]
    }

    #[test]
    fn the_table_is_aligned_and_explains_only_what_fails() {
        assert_eq!(
            Table(&findings()).to_string(),
            "tmpfs           works     mounted\n\
             user namespace  MISSING   refused: EPERM\n                \
             needed for: everything\n                \
             cure: set it\n"
        );
    }

    #[test]
    fn a_finding_in_json_has_every_field_of_the_table() {
        let json = serde_json::to_value(findings()).unwrap();
        assert_eq!(json[0]["status"], "works");
        assert_eq!(json[1]["status"], "missing");
        assert_eq!(json[1]["needed_for"], "everything");
        assert_eq!(json[1]["cure"], "set it");
        assert!(json[0]["cure"].is_null());
    }

    #[test]
    fn every_probe_has_a_name_of_its_own() {
        let mut names: Vec<_> = PROBES.iter().chain(ROOT_PROBES).map(|probe| probe.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PROBES.len() + ROOT_PROBES.len());
    }
}
