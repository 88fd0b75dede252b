//! Who the jail is: one uid and one gid inside, mapped to one unprivileged pair outside.

use std::fmt;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::wait::waitpid;
use nix::unistd::{Gid, Pid, Uid, setresgid, setresuid};

use crate::sys::process::{self, Side};

/// The uid and gid that the command sees as its own.
pub const INSIDE: u32 = 1000;

/// First of the host uids that jails started by root run as. The range up to the middle of the number
/// space is used by no distribution (systemd's UIDS-GIDS.md lists all ranges in use, the last ends just
/// below).
const FIRST_OUTSIDE: u32 = 0x7000_0000;
const OUTSIDE_COUNT: u32 = 0x0fff_0000;

/// The one line of uid_map and gid_map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Host uid.
    pub uid: u32,
    /// Host gid.
    pub gid: u32,
    /// Whose powers the parent has.
    pub standing: Standing,
}

/// What the caller may do outside the jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Root with the whole range of ids: the jail runs as an id of its own, and the parent prepares what
    /// that could not reach.
    Operator,
    /// Anybody else, also the root of a user namespace: the jail runs as the caller.
    Ordinary,
}

impl Identity {
    /// An ordinary user's jail runs as that user; root's runs as an unprivileged uid that depends on
    /// the jail's name alone, so that it is the same at every start and differs between jails.
    ///
    /// `uid_map` is the caller's own (user_namespaces(7)). `None` for a root that has not the ids for that
    /// and may be the host's root all the same: its jail would be host root.
    pub fn of_caller(uid: Uid, gid: Gid, jail_name: &str, uid_map: &str) -> Option<Identity> {
        let ordinary = Identity { uid: uid.as_raw(), gid: gid.as_raw(), standing: Standing::Ordinary };
        if !uid.is_root() {
            return Some(ordinary);
        }
        let outside = FIRST_OUTSIDE + fnv1a(jail_name.as_bytes()) % OUTSIDE_COUNT;
        if mapped_to(uid_map, outside).is_some() {
            return Some(Identity { uid: outside, gid: outside, standing: Standing::Operator });
        }
        (mapped_to(uid_map, 0)? != 0).then_some(ordinary)
    }

    /// Writes the maps of the process `child`, which was cloned into a new user namespace; setgroups(2)
    /// is denied there for good.
    ///
    /// # Errors
    /// As write(2) on the files of user_namespaces(7).
    pub fn map(self, child: Pid) -> io::Result<()> {
        // ORDER: a gid map without privilege is accepted only after setgroups is denied.
        write_map(child, "setgroups", "deny")?;
        write_map(child, "uid_map", &format!("{INSIDE} {} 1", self.uid))?;
        write_map(child, "gid_map", &format!("{INSIDE} {} 1", self.gid))
    }

    /// A user namespace whose map shows the files of `owner` as the jail's own: for mounts that are
    /// made under it (mount_setattr(2), "ID-mapped mounts"). Needs root.
    ///
    /// # Errors
    /// As clone3(2) and write(2) on the maps.
    pub fn owner_namespace(self, owner: (u32, u32)) -> io::Result<OwnedFd> {
        let parent = nix::unistd::getpid();
        match process::clone_into(libc::CLONE_NEWUSER, None)? {
            Side::Child => {
                let tied = nix::sys::prctl::set_pdeathsig(nix::sys::signal::SIGKILL);
                // A parent that died before that sends no signal any more.
                if tied.is_err() || nix::unistd::getppid() != parent {
                    process::exit_now(1);
                }
                loop {
                    // Waits to be killed: the namespace lives on in its descriptor.
                    nix::unistd::pause();
                }
            }
            Side::Parent(child) => {
                let made = (|| {
                    write_map(child.pid, "setgroups", "deny")?;
                    write_map(child.pid, "uid_map", &format!("{} {} 1", owner.0, self.uid))?;
                    write_map(child.pid, "gid_map", &format!("{} {} 1", owner.1, self.gid))?;
                    fs::File::open(format!("/proc/{}/ns/user", child.pid))
                })();
                // One that cannot be killed goes with this process, and is not waited for.
                if nix::sys::signal::kill(child.pid, nix::sys::signal::SIGKILL).is_ok() {
                    let _ = waitpid(child.pid, None);
                }
                made.map(OwnedFd::from)
            }
        }
    }
}

/// What an id of this namespace is in the one above; `None` for one that is not mapped.
fn mapped_to(uid_map: &str, id: u32) -> Option<u32> {
    uid_map.lines().find_map(|line| {
        let mut fields = line.split_whitespace().map(|field| field.parse::<u32>().ok());
        let (inside, above, count) = (fields.next()??, fields.next()??, fields.next()??);
        let offset = id.checked_sub(inside).filter(|offset| *offset < count)?;
        above.checked_add(offset)
    })
}

fn write_map(child: Pid, file: &str, line: &str) -> io::Result<()> {
    fs::write(format!("/proc/{child}/{file}"), line)
}

/// FNV-1a: stable over versions, which the standard library's hashers do not promise.
fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Takes the mapped ids on, in the child.
///
/// # Errors
/// As setresuid(2): EINVAL when the map was not written.
pub fn become_inside() -> Result<(), Errno> {
    // ORDER: the gid first; afterwards the uid could forbid it.
    setresgid(Gid::from_raw(INSIDE), Gid::from_raw(INSIDE), Gid::from_raw(INSIDE))?;
    setresuid(Uid::from_raw(INSIDE), Uid::from_raw(INSIDE), Uid::from_raw(INSIDE))
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map uid {INSIDE} to {} and gid {INSIDE} to {}, deny setgroups", self.uid, self.gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The map of the initial namespace.
    const ALL: &str = "         0          0 4294967295\n";

    fn root(name: &str, uid_map: &str) -> Option<Identity> {
        Identity::of_caller(Uid::from_raw(0), Gid::from_raw(0), name, uid_map)
    }

    #[test]
    fn a_jail_of_root_is_never_host_root_and_keeps_its_uid() {
        let identity = root("shell", ALL).unwrap();
        assert_eq!(Some(identity), root("shell", ALL));
        assert_ne!(Some(identity), root("python", ALL));
        for name in ["", "a", "shell", "a-rather-long-name-of-a-jail"] {
            let identity = root(name, ALL).unwrap();
            assert!((FIRST_OUTSIDE..FIRST_OUTSIDE + OUTSIDE_COUNT).contains(&identity.uid));
            assert_eq!(identity.standing, Standing::Operator);
        }
    }

    #[test]
    fn the_root_of_a_user_namespace_is_an_ordinary_user_unless_it_may_be_host_root() {
        let ordinary = Identity { uid: 0, gid: 0, standing: Standing::Ordinary };
        assert_eq!(root("shell", "0 1000 1\n"), Some(ordinary));
        assert_eq!(root("shell", "0 100000 65536\n"), Some(ordinary));
        assert_eq!(root("shell", "0 0 65536\n"), None);
        assert_eq!(root("shell", ""), None);
    }

    #[test]
    fn an_ordinary_users_jail_runs_as_that_user() {
        let identity = Identity::of_caller(Uid::from_raw(65534), Gid::from_raw(65533), "shell", ALL);
        let expected = Identity { uid: 65534, gid: 65533, standing: Standing::Ordinary };
        assert_eq!(identity, Some(expected));
    }
}
