//! Which primitives of [`crate::host`] a plan is made of.

use crate::host::{Finding, Status};
use crate::jail::mounted::Mounted;
use crate::jail::plan::{Plan, Step};
use crate::layer::mounts::Owners;

/// The findings without which this plan cannot be executed here.
pub fn lacking<'f>(plan: &Plan, findings: &'f [Finding]) -> Vec<&'f Finding> {
    let wanted = wanted(plan);
    findings
        .iter()
        .filter(|finding| finding.status == Status::Missing && wanted.contains(&finding.name))
        .collect()
}

fn wanted(plan: &Plan) -> Vec<&'static str> {
    let mut names = vec![
        "kernel",
        "user namespace",
        "id map",
        "mount namespace",
        "PID namespace",
        "IPC namespace",
        "UTS namespace",
        "pidfd",
    ];
    if plan.namespaces.has_own_network() {
        names.push("network namespace");
    }
    for step in &plan.steps {
        names.extend(of_step(step));
    }
    if plan.steps.iter().any(is_of_others) {
        names.push("idmapped mount");
    }
    names
}

fn of_step(step: &Step) -> &'static [&'static str] {
    match step {
        Step::CgroupNamespace => &["cgroup namespace"],
        Step::SessionKeyring => &["session keyring"],
        Step::Root(_) | Step::Mount(Mounted::Host(_) | Mounted::Hidden(_)) => {
            &["open_tree, move_mount", "mount_setattr"]
        }
        Step::Mount(Mounted::Overlay(_)) => &["overlay", "open_tree, move_mount", "mount_setattr"],
        Step::PrivateMounts => &["mount_setattr"],
        Step::Proc(_) => &["proc"],
        Step::Devices(_) => &["devpts", "open_tree, move_mount"],
        Step::Scratch(_) | Step::Mount(Mounted::Tmpfs(_)) => &["tmpfs"],
        Step::PivotRoot => &["pivot_root"],
        Step::NoNewPrivileges => &["no_new_privs"],
        Step::Landlock(_) => &["Landlock"],
        Step::Descriptors => &["close_range"],
        Step::Directory(_) => &["openat2"],
        Step::Seccomp(_) => &["seccomp"],
        Step::BecomeInside
        | Step::DieWithSupervisor
        | Step::HostName(_)
        | Step::Loopback
        | Step::NoNamespaces
        | Step::CoverProc
        | Step::Terminal
        | Step::Session
        | Step::Resources(_)
        | Step::Capabilities(_)
        | Step::Signals
        | Step::AwaitProceed => &[],
    }
}

/// Writable files that are not the jail's own appear as such by a mapped mount.
fn is_of_others(step: &Step) -> bool {
    match step {
        Step::Mount(Mounted::Host(mount)) => mount.tree.owners == Owners::Mapped,
        // The changes lie under the owner of the workspace.
        Step::Mount(Mounted::Overlay(overlay)) => overlay.lower.owners == Owners::Mapped,
        _ => false,
    }
}
