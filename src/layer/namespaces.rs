//! The kernel objects that the jail has of its own (namespaces(7)).

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::unistd::Pid;
use serde::Serialize;

use crate::spec::Network;

/// The namespaces that are made with the jail's first process. The cgroup namespace is not among them:
/// it takes the cgroup that its maker is in for its root, so it is made by the child once it is there.
#[derive(Clone, Copy, Debug)]
pub struct Armed {
    network: Network,
}

impl Armed {
    /// A network namespace unless the spec shares the host's.
    pub fn new(network: Network) -> Armed {
        Armed { network }
    }

    /// As flags of clone3(2).
    pub fn flags(self) -> libc::c_int {
        let always = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS;
        if self.has_own_network() { always | libc::CLONE_NEWNET } else { always }
    }

    /// Whether the jail has a network namespace of its own, with a loopback to bring up.
    pub fn has_own_network(self) -> bool {
        self.network != Network::Host
    }
}

/// By which numbers the kernel knows a process's namespaces: the inodes of /proc/PID/ns; 0 for one that
/// cannot be looked at.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Inodes {
    user: u64,
    mnt: u64,
    pid: u64,
    net: u64,
    ipc: u64,
    uts: u64,
    /// The process makes it itself, and tells.
    pub cgroup: u64,
}

impl Inodes {
    /// Looks at a process, which must still be dumpable.
    pub fn of(process: Pid) -> Inodes {
        let inode = |name: &str| fs::metadata(format!("/proc/{process}/ns/{name}")).map_or(0, |ns| ns.ino());
        Inodes {
            user: inode("user"),
            mnt: inode("mnt"),
            pid: inode("pid"),
            net: inode("net"),
            ipc: inode("ipc"),
            uts: inode("uts"),
            cgroup: 0,
        }
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("create user, mount, PID, IPC, UTS")?;
        f.write_str(if self.has_own_network() { " and network namespaces" } else { " namespaces" })
    }
}
