//! The steps from a fresh clone to a confined process, in order. This list is the security argument.

use std::fmt;

use nix::errno::Errno;

use crate::jail::Jail;
use crate::jail::command::Command;
use crate::jail::mounted::Mounted;
use crate::layer::identity::Identity;
use crate::layer::mounts::Words;
use crate::layer::place::{Kind, Missing, Place};
use crate::layer::seccomp;
use crate::layer::{capabilities, devices, landlock, mounts, namespaces, resources, scratch};
use crate::path::JailPath;
use crate::spec::Network;

/// Everything that happens between clone3(2) and execve(2).
pub struct Plan {
    /// What clone3(2) makes new.
    pub namespaces: namespaces::Armed,
    /// What the parent maps.
    pub identity: Identity,
    /// What the child does, in order.
    pub steps: Vec<Step>,
    /// What it becomes.
    pub command: Command,
}

/// One thing that the child does.
pub enum Step {
    /// Gives signals their default action.
    Signals,
    /// Waits for the maps and takes the ids on.
    BecomeInside,
    /// Ties its life to the supervisor's.
    DieWithSupervisor,
    /// Makes a cgroup namespace.
    CgroupNamespace,
    /// Sets the host name.
    HostName(String),
    /// Brings the loopback interface up.
    Loopback,
    /// Leaves the caller's keyring.
    SessionKeyring,
    /// Cuts mount propagation.
    PrivateMounts,
    /// Mounts the built tree.
    Root(mounts::Tree),
    /// Mounts /proc.
    Proc(Place),
    /// Forbids nested namespaces.
    NoNamespaces,
    /// Mounts the shared tmpfs.
    Scratch(scratch::Armed),
    /// Covers entries of /proc.
    CoverProc,
    /// Fills /dev.
    Devices(devices::Armed),
    /// Mounts the workspace, a `[[mount]]` or a tmpfs.
    Mount(Mounted),
    /// Makes the tree the root and lets go of the host's.
    PivotRoot,
    /// Opens a terminal of the jail's own.
    Terminal,
    /// Leads a session, with the terminal when there is one.
    Session,
    /// Sets resource limits.
    Resources(resources::Armed),
    /// Sets no_new_privs.
    NoNewPrivileges,
    /// Confines by Landlock.
    Landlock(landlock::Armed),
    /// Gives all capabilities up.
    Capabilities(capabilities::Armed),
    /// Marks descriptors to be closed.
    Descriptors,
    /// Waits for the supervisor's word.
    AwaitProceed,
    /// Enters the working directory.
    Directory(String),
    /// Installs the system call filter.
    Seccomp(seccomp::Armed),
}

/// Whether the command gets a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalWanted {
    /// One of the caller's standard streams is a terminal.
    Yes,
    /// None is.
    No,
}

impl Plan {
    /// Puts the jail's parts in order.
    pub fn arm(jail: Jail, network: Network, filter: seccomp::Armed, terminal: TerminalWanted) -> Plan {
        let namespaces = namespaces::Armed::new(network);
        let identity = jail.identity;
        let (steps, command) = order(jail, namespaces, filter, terminal);
        Plan { namespaces, identity, steps, command }
    }

    /// The system call profile that the command's process adds.
    pub fn profile(&self) -> Option<&seccomp::Profile> {
        match self.steps.last() {
            Some(Step::Seccomp(filter)) => filter.profile(),
            _ => None,
        }
    }
}

/// The order of the layers. Each line says why it stands where it stands.
fn order(
    jail: Jail,
    namespaces: namespaces::Armed,
    filter: seccomp::Armed,
    terminal: TerminalWanted,
) -> (Vec<Step>, Command) {
    let proc = JailPath::root().child("proc".as_ref());
    let directory = jail.command.directory.to_string_lossy().into_owned();
    let mut steps = Vec::with_capacity(32);

    // For the command: PID 1 handles what it waits for, and nothing else reaches it. First, for the supervisor is
    // waited for next, and meanwhile this costs nothing.
    steps.push(Step::Signals);
    // An unmapped user owns nothing: every file it made would belong to nobody.
    steps.push(Step::BecomeInside);
    // After the ids changed, which clears the death signal; before anything is worth stealing. Not
    // before the maps are written: the /proc files of an undumpable process belong to root.
    steps.push(Step::DieWithSupervisor);
    // After clone3 has put us into our cgroup, which this makes the namespace's root.
    steps.push(Step::CgroupNamespace);
    steps.push(Step::HostName(jail.name));
    if namespaces.has_own_network() {
        steps.push(Step::Loopback);
    }
    steps.push(Step::SessionKeyring);

    // Before the first mount: nothing that follows may show on the host.
    steps.push(Step::PrivateMounts);
    // Below this tree's descriptor, never by a path, everything else is mounted.
    steps.push(Step::Root(jail.tree));
    // While the host's /proc is still visible, without which the kernel refuses a new one.
    steps.push(Step::Proc(Place::new(&proc, Kind::Directory, Missing::Fail)));
    steps.push(Step::Scratch(jail.scratch));
    // With the empty file and directory that the scratch tmpfs has.
    steps.push(Step::CoverProc);
    // While the host's /dev can still be reached.
    steps.push(Step::Devices(devices::Armed::new()));
    // After the devices, whose place on the host the layers of a reviewed workspace take; on top of the
    // scratch places, so that a mount below the home directory is seen.
    steps.extend(jail.mounts.into_iter().map(Step::Mount));
    // After the last detached tree: the kernel counts each as a mount namespace.
    steps.push(Step::NoNamespaces);
    // From here on no path leads to the host.
    steps.push(Step::PivotRoot);

    // From the jail's own devpts.
    if terminal == TerminalWanted::Yes {
        steps.push(Step::Terminal);
    }
    steps.push(Step::Session);
    // After the mounts, which a limit on open files could stop half-way.
    steps.push(Step::Resources(jail.resources));
    // Before Landlock and seccomp, which demand it of the unprivileged.
    steps.push(Step::NoNewPrivileges);
    // After the root is in place, for its rules name files of the final tree.
    if let Some(landlock) = jail.landlock {
        steps.push(Step::Landlock(landlock));
    }
    // After the last step that needs privilege over the namespaces.
    steps.push(Step::Capabilities(jail.capabilities));
    steps.push(Step::Descriptors);
    // After all that can be done before the supervisor has looked at the tree.
    steps.push(Step::AwaitProceed);
    // With the command's own rights, and through none of the descriptors used so far.
    steps.push(Step::Directory(directory));
    // Last, for it forbids most of what came before.
    steps.push(Step::Seccomp(filter));
    (steps, jail.command)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Signals => f.write_str("give all signals but HUP, INT and QUIT their default action"),
            Step::BecomeInside => write!(f, "become uid {0} and gid {0}", crate::layer::identity::INSIDE),
            Step::DieWithSupervisor => f.write_str("die with the supervisor, be undumpable"),
            Step::CgroupNamespace => f.write_str("create a cgroup namespace"),
            Step::HostName(name) => write!(f, "set the host name `{name}`"),
            Step::Loopback => f.write_str("bring the loopback interface up"),
            Step::SessionKeyring => f.write_str("join a new session keyring"),
            Step::PrivateMounts => f.write_str("make all mounts private"),
            Step::Root(tree) => write!(f, "mount {} on / ({})", tree.source, Words(tree.flags)),
            Step::Proc(place) => write!(f, "mount a new proc on {place} (rw,nosuid,nodev,noexec)"),
            Step::NoNamespaces => f.write_str("forbid nested namespaces (user.max_*_namespaces = 0)"),
            Step::Scratch(scratch) => scratch.fmt(f),
            Step::CoverProc => f.write_str("mask kernel entries of /proc, make /proc/sys read-only"),
            Step::Devices(_) => {
                f.write_str("mount null, zero, full, random, urandom, tty and a new devpts on /dev")
            }
            Step::Mount(mount) => mount.fmt(f),
            Step::PivotRoot => f.write_str("pivot the root and detach the host's"),
            Step::Terminal => f.write_str("open a terminal of the jail's own"),
            Step::Session => f.write_str("lead a new session"),
            Step::Resources(resources) => resources.fmt(f),
            Step::NoNewPrivileges => f.write_str("set no_new_privs"),
            Step::Landlock(landlock) => landlock.fmt(f),
            Step::Capabilities(capabilities) => capabilities.fmt(f),
            Step::Descriptors => f.write_str("close all descriptors above 2 at exec"),
            Step::AwaitProceed => f.write_str("wait until the tree has been found as it was built"),
            Step::Directory(path) => {
                write!(f, "enter the directory {}", crate::path::printable(path.as_ref()))
            }
            Step::Seccomp(filter) => filter.fmt(f),
        }
    }
}

impl Step {
    /// Cures for the ways in which this step is known to fail.
    pub fn hints(&self, errno: Errno) -> Vec<String> {
        let text = match (self, errno) {
            (Step::Loopback, Errno::EPERM) => {
                "user namespaces are restricted here (AppArmor on Ubuntu); `jailmk check` names the cure"
            }
            (Step::Proc(_), Errno::EPERM) => {
                "the /proc of this container is partly covered, so the kernel refuses a new one; run the container with an unmasked /proc (docker: --security-opt systempaths=unconfined)"
            }
            (Step::PivotRoot, Errno::EINVAL) => {
                "the host's root is an initial ramfs, which cannot be pivoted away from"
            }
            (Step::Root(_) | Step::Mount(_), Errno::ESTALE) => {
                "the path was replaced while the jail was being made; try again"
            }
            (Step::Mount(Mounted::Overlay(_)), Errno::ENODEV) => {
                "this kernel has no overlay file system: load it (`modprobe overlay`, as root), or write `mode = \"direct\"` under [workspace], which does without"
            }
            (Step::Mount(Mounted::Overlay(_)), Errno::EPERM) => {
                "this kernel makes no overlay in a user namespace (Linux 5.11 does): write `mode = \"direct\"` under [workspace]"
            }
            (Step::Mount(Mounted::Overlay(_)), Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EREMOTE) => {
                "an overlay needs a workspace without mounts inside it, jailmk's state on ext4, xfs, btrfs or the like (JAILMK_STATE), and for root Linux 5.19; else write `mode = \"direct\"` under [workspace]"
            }
            (Step::Mount(_), Errno::ENOENT) => {
                "the mount point is missing where jailmk must not make one: make it on the host"
            }
            (Step::Mount(_), Errno::ELOOP) => {
                "a symlink stands on the way to the mount point; name the real path"
            }
            (Step::Directory(_), Errno::ELOOP) => "name the directory itself, and not one in /proc",
            (Step::Directory(_), Errno::ENOENT) => {
                "set `directory` under [process] to a directory that is in the jail"
            }
            (Step::HostName(_), Errno::EPERM) => {
                "a sandbox around jailmk forbids this: under systemd remove `ProtectHostname=` from the unit"
            }
            (Step::Directory(_), Errno::ENOSYS) => {
                "a sandbox around jailmk forbids openat2(2): under systemd remove `RestrictSUIDSGID=` and `SystemCallFilter=` from the unit"
            }
            _ => return Vec::new(),
        };
        vec![text.to_owned()]
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:2}  {}", 1, self.namespaces)?;
        writeln!(f, "{:2}  {}", 2, self.identity)?;
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:2}  {step}", index + 3)?;
        }
        write!(f, "{:2}  execute", self.steps.len() + 3)?;
        for argument in self.command.arguments.strings() {
            let argument = std::os::unix::ffi::OsStrExt::from_bytes(argument.to_bytes());
            write!(f, " {}", crate::path::printable(argument))?;
        }
        writeln!(f)
    }
}
