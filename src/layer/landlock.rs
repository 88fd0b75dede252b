//! Landlock: a second wall behind the mounts, which holds even where a descriptor or a bug in a
//! namespace leads out of the tree (kernel document userspace-api/landlock).

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, Compatible, PathBeneath, RestrictSelfAttr, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetStatus, Scope,
};
use nix::errno::Errno;
use nix::fcntl::{OFlag, fcntl, open};
use nix::sys::stat::{Mode, SFlag, fstat};

use crate::path::JailPath;
use crate::spec::Network;
use crate::sys::process;

/// The newest ABI whose rights are asked for; of these the running kernel takes those it knows.
const NEWEST: ABI = ABI::V9;

/// The ABI that scopes abstract Unix sockets and signals (Linux 6.12).
pub const ABSTRACT_SOCKETS_ABI: i32 = 6;

/// What the jail may do, armed.
#[derive(Debug)]
pub struct Armed {
    abi: i32,
    rules: Vec<(CString, BitFlags<AccessFs>)>,
    network: Network,
}

/// Every right below a writable place; device nodes are made nowhere.
fn everything() -> BitFlags<AccessFs> {
    AccessFs::from_all(NEWEST) & !(AccessFs::MakeChar | AccessFs::MakeBlock)
}

/// The running kernel's ABI, or `None` where Landlock is not built in or not enabled.
pub fn probe() -> Option<i32> {
    Some(process::landlock_abi()).filter(|abi| *abi > 0)
}

impl Armed {
    /// Reading and executing everywhere in the jail, everything below each path of `writable`, and
    /// what a terminal and a process need in /dev and /proc.
    pub fn new(abi: i32, writable: &[JailPath], network: Network) -> Armed {
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate | AccessFs::IoctlDev;
        let mut rules = vec![
            // Sockets too: those in sight are the jail's own, or the spec mounts them.
            (
                c"/".to_owned(),
                AccessFs::Execute | AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::ResolveUnix,
            ),
            // Own processes only: thread names, oom_score_adj. Files of the kernel are read-only mounts.
            (
                c"/proc".to_owned(),
                AccessFs::ReadFile | AccessFs::ReadDir | AccessFs::WriteFile | AccessFs::Truncate,
            ),
            (c"/dev/pts".to_owned(), device | AccessFs::ReadDir),
        ];
        for path in [c"/dev/null", c"/dev/zero", c"/dev/full", c"/dev/random", c"/dev/urandom", c"/dev/tty"] {
            rules.push((path.to_owned(), device));
        }
        for path in writable {
            if let Ok(path) = CString::new(path.as_path().as_os_str().as_bytes()) {
                rules.push((path, everything()));
            }
        }
        Armed { abi, rules, network }
    }

    /// The kernel's ABI.
    pub fn abi(&self) -> i32 {
        self.abi
    }

    /// What this kernel cannot confine, oldest first (landlock(7)).
    pub fn lacking(&self) -> Vec<&'static str> {
        const SINCE: [(i32, &str); 5] = [
            (2, "renames between directories"),
            (3, "truncation"),
            (4, "TCP"),
            (5, "device ioctls"),
            (ABSTRACT_SOCKETS_ABI, "signals and abstract sockets"),
        ];
        SINCE.iter().filter(|(abi, _)| self.abi < *abi).map(|(_, what)| *what).collect()
    }

    /// Whether no TCP socket can be bound or connected.
    pub fn denies_tcp(&self) -> bool {
        self.network == Network::None && self.abi >= 4
    }

    /// Whether abstract sockets made outside are out of reach.
    pub fn scopes_abstract_sockets(&self) -> bool {
        self.abi >= ABSTRACT_SOCKETS_ABI
    }

    /// Confines this process and all its children, for good.
    ///
    /// # Errors
    /// As landlock_create_ruleset(2), landlock_add_rule(2), landlock_restrict_self(2) and open(2).
    pub fn apply(&self) -> Result<(), Errno> {
        let mut ruleset = self.ruleset()?;
        for (path, access) in &self.rules {
            let beneath = open(path.as_c_str(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
            ruleset = allow(ruleset, beneath.as_fd(), *access)?;
        }
        ruleset = allow_standard_streams(ruleset)?;
        // What sandboxes within the jail deny is not for the host's audit log, which a jail could flood with it
        // (ABI 7). Denials of the command itself are not logged unless that is asked for.
        let quiet = ruleset.log_subdomains(false).map_err(|_| Errno::EINVAL)?;
        let status = quiet.restrict_self().map_err(|_| Errno::last())?;
        // The crate takes a kernel that fails to tell its version for one without Landlock, and makes do.
        if status.ruleset == RulesetStatus::NotEnforced { Err(Errno::EOPNOTSUPP) } else { Ok(()) }
    }

    fn ruleset(&self) -> Result<RulesetCreated, Errno> {
        let mut ruleset = Ruleset::default()
            .handle_access(AccessFs::from_all(NEWEST))
            .and_then(|ruleset| ruleset.scope(Scope::from_all(NEWEST)))
            .map_err(|_| Errno::EINVAL)?;
        if self.network == Network::None {
            ruleset = ruleset.handle_access(AccessNet::from_all(NEWEST)).map_err(|_| Errno::EINVAL)?;
        }
        ruleset.create().map_err(|_| Errno::last())
    }
}

fn allow(
    ruleset: RulesetCreated,
    beneath: BorrowedFd<'_>,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, Errno> {
    let format = SFlag::from_bits_truncate(fstat(beneath)?.st_mode) & SFlag::S_IFMT;
    let access = if format == SFlag::S_IFDIR { access } else { access & AccessFs::from_file(NEWEST) };
    ruleset
        .set_compatibility(landlock::CompatLevel::BestEffort)
        .add_rule(PathBeneath::new(beneath, access))
        .map_err(|_| Errno::last())
}

/// A regular file that the caller gave as stdin, stdout or stderr may be opened again through
/// /dev/stdin and the like, in the way it is open already and no other.
fn allow_standard_streams(mut ruleset: RulesetCreated) -> Result<RulesetCreated, Errno> {
    for stream in process::standard_streams() {
        let Ok(stat) = fstat(stream) else { continue };
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            continue;
        }
        let flags = OFlag::from_bits_truncate(fcntl(stream, nix::fcntl::FcntlArg::F_GETFL)?);
        let access = match flags & OFlag::O_ACCMODE {
            OFlag::O_RDONLY => BitFlags::from(AccessFs::ReadFile),
            OFlag::O_WRONLY => AccessFs::WriteFile | AccessFs::Truncate,
            _ => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate,
        };
        ruleset = allow(ruleset, stream, access)?;
    }
    Ok(ruleset)
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "confine by Landlock (ABI {}): read and execute below /, write below", self.abi)?;
        for (index, (path, _)) in self.rules.iter().filter(|rule| rule.1 == everything()).enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma} {}", crate::path::printable(name(path)))?;
        }
        if self.denies_tcp() {
            f.write_str("; no TCP")?;
        }
        if self.scopes_abstract_sockets() {
            f.write_str("; abstract sockets and signals scoped")?;
        }
        Ok(())
    }
}

fn name(path: &CStr) -> &std::ffi::OsStr {
    std::ffi::OsStr::from_bytes(path.to_bytes())
}
