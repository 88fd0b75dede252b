//! Rootfs + Spec → [`Plan`](plan::Plan) → a running jail → its end.

pub mod child;
pub mod command;
pub mod control;
pub mod error;
mod hidden;
mod kept;
pub mod lead;
pub mod mounted;
pub mod plan;
pub mod spawn;
pub mod supervisor;
pub mod terminal;

use std::ffi::OsString;

use nix::sys::stat::{SFlag, fstat};

use crate::caller::Caller;
use crate::layer::mounts::{Source, Tree};
use crate::layer::{capabilities, identity, landlock, resources, scratch};
use crate::path::{HostPath, JailPath};
use crate::spec::{Degradable, Demand, Network, Spec, WorkspaceMode};
use crate::sys::mount::Attributes;
use crate::sys::process;

use command::Command;
use error::JailError;
use mounted::{Mounted, Planned, Writable};

/// A jail with everything opened and decided that can be decided before the first process exists.
pub struct Jail {
    /// Its name: the host name inside.
    pub name: String,
    /// Who it is.
    pub identity: identity::Identity,
    /// The built tree.
    pub tree: Tree,
    /// Mounts of the host and own tmpfs, in the order of their places.
    pub mounts: Vec<Mounted>,
    /// The shared tmpfs.
    pub scratch: scratch::Armed,
    /// Limits of each process.
    pub resources: resources::Armed,
    /// Landlock, unless it may be and is missing.
    pub landlock: Option<landlock::Armed>,
    /// The capabilities that the command keeps.
    pub capabilities: capabilities::Armed,
    /// What runs.
    pub command: Command,
    /// One line for each layer that is weaker than the default.
    pub weaker: Vec<String>,
}

/// What is decided outside the spec.
pub struct Setting<'a> {
    /// The built tree on the host.
    pub tree: &'a HostPath,
    /// Who calls.
    pub caller: &'a Caller,
    /// Directories that no mount may contain: jailmk's state.
    pub private: &'a [HostPath],
    /// Where the changes to a reviewed workspace are kept.
    pub changes: Option<&'a HostPath>,
    /// The command line after `--`; the spec's command when empty.
    pub arguments: &'a [OsString],
    /// Bytes that the shared tmpfs may hold when the spec does not say.
    pub default_disk: u64,
    /// Whether to do or only to tell.
    pub effect: Effect,
}

/// Whether the preparation is for a jail or for a description of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Directories of `create` are made, and what is missing is an error.
    Enter,
    /// Nothing is made; a tree that is not built yet, and a directory that would be made, are described.
    Describe,
}

impl Jail {
    /// Opens and decides; changes nothing but the directories that a mount's `create` asks for.
    ///
    /// # Errors
    /// Everything in [`JailError`].
    pub fn prepare(spec: &Spec, setting: &Setting<'_>) -> Result<Jail, JailError> {
        let mut weaker = Vec::new();
        let tree = match Source::open(setting.tree) {
            Ok(tree) => tree,
            Err(_) if setting.effect == Effect::Describe => Source::described(setting.tree),
            Err(cause) => return Err(JailError::Tree { path: setting.tree.clone(), cause }),
        };
        let flags = Attributes { read_only: true, nodev: true, noexec: false };
        let shown = mounted::scratch_places(spec);
        let identity = identity_of(spec, setting.caller)?;
        let mut mounts = mounted::plan(spec, setting, &shown)?;
        mounts.iter_mut().for_each(|planned| planned.map_to(&identity));
        let landlock = landlock_of(spec, &shown, &mounts, &mut weaker)?;
        if spec.workspace.as_ref().is_some_and(|workspace| workspace.mode == WorkspaceMode::Direct) {
            weaker.push(
                "a workspace in mode \"direct\" keeps protected names at its top that are there now; new and deeper ones can be written".into(),
            );
        }
        check_streams()?;
        let resources = resources::Armed::new(&spec.limits).bounded_by_caller();
        if resources.crash_starts_helper() {
            weaker.push(
                "a crash starts the host's helper for core files: the hard limit of core files is 0 here"
                    .into(),
            );
        }
        Ok(Jail {
            name: spec.name.clone(),
            identity,
            tree: Tree::new(tree, flags),
            mounts: mounts.into_iter().map(|planned| planned.mounted).collect(),
            scratch: scratch::Armed::new(shared_bytes(spec, setting.default_disk)?, shown),
            resources,
            landlock,
            capabilities: capabilities::Armed::new(&spec.hardening.keep),
            command: Command::arm(spec, setting.arguments)?,
            weaker,
        })
    }
}

/// What is left of `disk` for the shared tmpfs: a `disk` that the spec writes bounds all that the jail's own
/// places hold, those of `[tmpfs]` included.
fn shared_bytes(spec: &Spec, default: u64) -> Result<u64, JailError> {
    let Some(disk) = spec.limits.disk else { return Ok(default) };
    let taken = spec.tmpfs.values().copied().fold(0, u64::saturating_add);
    // The kernel takes size=0 as "no limit".
    match disk.checked_sub(taken) {
        None | Some(0) => Err(JailError::Disk { disk, taken }),
        Some(left) => Ok(left),
    }
}

fn identity_of(spec: &Spec, caller: &Caller) -> Result<identity::Identity, JailError> {
    // Only root's identity depends on it.
    let uid_map = match caller.uid.is_root() {
        true => std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default(),
        false => String::new(),
    };
    identity::Identity::of_caller(caller.uid, caller.gid, &spec.name, &uid_map).ok_or(JailError::NoIdentity)
}

fn landlock_of(
    spec: &Spec,
    scratch: &[(JailPath, u32)],
    mounts: &[Planned],
    weaker: &mut Vec<String>,
) -> Result<Option<landlock::Armed>, JailError> {
    if spec.hardening.landlock == Demand::Off {
        weaker.push("Landlock is off, as the spec says".into());
        return Ok(None);
    }
    let may_lack = spec.hardening.landlock == Demand::BestEffort
        || spec.hardening.degrade.contains(&Degradable::Landlock);
    let Some(abi) = landlock::probe() else {
        if may_lack {
            weaker
                .push("Landlock is missing in this kernel; mounts and namespaces alone confine files".into());
            return Ok(None);
        }
        return Err(JailError::NoLandlock);
    };
    if spec.network == Network::Host && abi < landlock::ABSTRACT_SOCKETS_ABI {
        weaker.push(
            "the host's network comes with its abstract Unix sockets, which this kernel cannot scope".into(),
        );
    }
    let written = mounts.iter().filter(|planned| planned.writable == Writable::Yes);
    let writable: Vec<JailPath> = scratch
        .iter()
        .map(|(place, _)| place)
        .chain(written.map(|planned| &planned.place))
        .cloned()
        .collect();
    Ok(Some(landlock::Armed::new(abi, &writable, spec.network)))
}

/// A directory as a standard stream is a descriptor through which openat(2) walks the host's tree
/// (as in CVE-2024-21626); a disk is worse.
fn check_streams() -> Result<(), JailError> {
    for (stream, name) in process::standard_streams().into_iter().zip(["input", "output", "error"]) {
        let Ok(stat) = fstat(stream) else { continue };
        let what = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => "a directory",
            SFlag::S_IFBLK => "a block device",
            _ => continue,
        };
        return Err(JailError::Stream { name, what });
    }
    Ok(())
}
