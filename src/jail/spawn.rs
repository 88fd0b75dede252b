//! The parent's half: what only it may do before and right after the jail's first process exists.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::{Pid, Uid, fchown, setgroups};

use crate::jail::child;
use crate::jail::control::{Channel, Order, Report};
use crate::jail::error::SpawnError;
use crate::jail::mounted::Mounted;
use crate::jail::plan::{Plan, Step};
use crate::jail::supervisor::{self, End, ORDERS, OnStart, Running, Signals, Started, Supervisor};
use crate::jail::terminal::CallerTerminal;
use crate::layer::identity::{Identity, Standing};
use crate::layer::mounts::{self, Owners, Tree};
use crate::layer::namespaces::Inodes;
use crate::layer::{cgroup, disk};
use crate::rootfs::RootfsError;
use crate::sys::mount::{self, Submounts};
use crate::sys::process::{self, Side};

/// What the supervisor does beside the plan.
pub struct Supervision<'a> {
    /// The cgroup that the jail is cloned into.
    pub cgroup: Option<&'a cgroup::Armed>,
    /// Relays the caller's terminal.
    pub terminal: Option<CallerTerminal>,
    /// Wall-clock limit.
    pub time: Option<Duration>,
    /// Looks at what the jail takes on the host's disk.
    pub disk: Option<disk::Armed>,
    /// Runs while the child makes the jail, with the process id of its PID 1; the command starts only when it
    /// agrees.
    pub check: &'a dyn Fn(Pid) -> Result<(), RootfsError>,
    /// Told when all layers are in place.
    pub started: Option<OnStart<'a>>,
}

/// Runs the plan and stays with the jail until nothing of it runs any more.
///
/// # Errors
/// Everything in [`SpawnError`]; the jail is gone then.
pub fn run(mut plan: Plan, supervision: Supervision<'_>) -> Result<End, SpawnError> {
    let preparing = |what: &str| {
        let what = what.to_owned();
        move |cause: io::Error| SpawnError::Prepare { what, cause }
    };
    if plan.identity.standing == Standing::Operator {
        // The jail would keep root's groups: setgroups is denied inside, also to drop them.
        setgroups(&[]).map_err(|e| preparing("drop supplementary groups")(e.into()))?;
        prepare_as_root(&mut plan)?;
        give_pipes(plan.identity);
    }
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
        .map_err(|e| preparing("make a socket pair")(e.into()))?;
    let (ours, theirs) = (Channel::new(ours), Channel::new(theirs));
    let signals = Signals::block().map_err(|e| preparing("block signals")(e.into()))?;
    let directory = supervision.cgroup.map(cgroup::Armed::directory);
    let child = match process::clone_into(plan.namespaces.flags(), directory) {
        Ok(Side::Child) => {
            drop(ours);
            child::run(&plan, &theirs, supervision.time)
        }
        Ok(Side::Parent(child)) => Running::new(child, supervision.cgroup),
        Err(cause) => return Err(preparing(&plan.namespaces.to_string())(cause.into())),
    };
    drop(theirs);
    if let Err(cause) = plan.identity.map(child.pid()) {
        // Nobody but root can map the ids of a process that has ended: then it is a step before that has failed.
        drop(child);
        let earlier = match ours.next_report() {
            Ok(Some(Report::StepFailed { step, errno })) => Some(supervisor::step_failed(&plan, step, errno)),
            _ => None,
        };
        return Err(earlier.unwrap_or_else(|| preparing(&plan.identity.to_string())(cause)));
    }
    // Before the child goes on, which makes it undumpable.
    let started = supervision.started.map(|tell| {
        let pid = child.pid();
        (Started { pid, namespaces: Inodes::of(pid) }, tell)
    });
    ours.order(Order::Mapped).map_err(|e| preparing(ORDERS)(e.into()))?;
    (supervision.check)(child.pid())?;
    let watch = match supervision.disk {
        Some(disk) => {
            Some(child.pidfd().and_then(|first| disk.watch(first)).map_err(preparing("look at the disk"))?)
        }
        None => None,
    };
    let supervisor =
        Supervisor::new(&plan, ours, signals, child, supervision.terminal, supervision.time, started);
    let end = supervisor.supervise();
    match (end, watch.and_then(disk::Watch::end)) {
        (Ok(End::Lost), Some(excess)) => Ok(End::DiskFull(excess)),
        (end, _) => end,
    }
}

/// Has the jail's uid own the standard streams that are pipes without a name, so that it can open /dev/stdout as
/// the caller could: the mode of such a pipe is 0600, and root's would be denied.
///
/// Who owns a pipe can open its other end, too: a jail could read what others write to the same pipe, and keep
/// it open. They have the pipe from whoever made it for the jail; a jail that an ordinary user starts can do the
/// same. A name in the file system, a socket or a terminal can be others' business, and what is done to a file
/// stays: those are left alone.
fn give_pipes(identity: Identity) {
    for stream in process::standard_streams() {
        if fstatfs(stream).is_ok_and(|found| found.filesystem_type() == PIPEFS_MAGIC) {
            // A root without CAP_CHOWN cannot: then the pipe is read and written, and not opened again.
            let _ = fchown(stream, Some(Uid::from_raw(identity.uid)), None);
        }
    }
}

/// The file system of pipes that pipe(2) makes (linux/magic.h). A FIFO with a name is on that of its directory.
const PIPEFS_MAGIC: FsType = FsType(0x5049_5045);

/// Makes the detached trees of host directories while root's rights are at hand: the jail's uid could
/// not reach them.
fn prepare_as_root(plan: &mut Plan) -> Result<(), SpawnError> {
    let mut namespaces = OwnerNamespaces { identity: plan.identity, made: Vec::new() };
    for step in &mut plan.steps {
        let words = step.to_string();
        if let Step::Mount(Mounted::Overlay(overlay)) = step {
            for tree in [&mut overlay.lower, &mut overlay.store] {
                let made = namespaces.prepare(tree, Submounts::LeftOut);
                let failed = |cause| SpawnError::Prepare { what: words.clone(), cause };
                tree.prepared = Some(made.map_err(failed)?);
            }
            continue;
        }
        let (tree, made) = match step {
            // Built by root for whoever runs in it: the jail reads what others may read.
            Step::Root(tree) => {
                let made = tree.source.clone_tree().map_err(io::Error::from);
                (tree, made)
            }
            Step::Mount(Mounted::Host(mounts::Armed { tree, .. })) => {
                let made = namespaces.prepare(tree, Submounts::Included);
                (tree, made)
            }
            _ => continue,
        };
        tree.prepared = Some(made.map_err(|cause| SpawnError::Prepare { what: words, cause })?);
    }
    Ok(())
}

/// The user namespaces that trees are mapped by, one for each owner: it takes a process to make one.
struct OwnerNamespaces {
    identity: Identity,
    made: Vec<((u32, u32), OwnedFd)>,
}

impl OwnerNamespaces {
    fn prepare(&mut self, tree: &Tree, submounts: Submounts) -> io::Result<OwnedFd> {
        let detached = tree.source.clone_with(submounts)?;
        if tree.owners != Owners::AsOnHost {
            match mount::map_owners(detached.as_fd(), self.of(tree.source.owner)?) {
                Ok(()) => {}
                Err(_) if tree.owners == Owners::MappedIfPossible => {}
                Err(Errno::EINVAL) => return Err(io::Error::other(NoIdmap)),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(detached)
    }

    fn of(&mut self, owner: (u32, u32)) -> io::Result<BorrowedFd<'_>> {
        let index = match self.made.iter().position(|(known, _)| *known == owner) {
            Some(index) => index,
            None => {
                self.made.push((owner, self.identity.owner_namespace(owner)?));
                self.made.len() - 1
            }
        };
        Ok(self.made[index].1.as_fd())
    }
}

/// The file system cannot show its files under another owner.
#[derive(Debug, thiserror::Error)]
#[error(
    "its file system has no idmapped mounts (mount_setattr(2)); give the directory to the jail's own uid \
     with chown, or use `mode = \"read-only\"`"
)]
struct NoIdmap;
