//! Where in the cgroup v2 hierarchy this process may make a leaf that has controllers.
//!
//! Asked in this order: a group that was delegated to the caller, with this process in it or below it;
//! for root a group of all jails, at the top; a scope from a systemd manager, which takes its time.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use nix::unistd::{AccessFlags, faccessat, geteuid};

use super::CgroupError;
use super::inside::Inside;
use super::leaf::group_name;
use super::systemd::{self, ManagerFault};
use crate::path::printable;
use crate::sys::probe::extended_attribute;

/// Where every distribution mounts cgroups.
const MOUNT: &str = "/sys/fs/cgroup";
/// Where systemd mounts a hierarchy without controllers beside cgroup v1.
const HYBRID_MOUNT: &str = "/sys/fs/cgroup/unified";
/// The group that root's jails share, so that all of them weigh as much as one other group.
const SHARED_GROUP: &str = "jailmk";

/// The mounted hierarchy and this process's group in it.
#[derive(Clone, Debug)]
pub struct Hierarchy {
    mount: PathBuf,
    own: PathBuf,
}

/// Why there is no usable hierarchy.
#[derive(Debug, thiserror::Error)]
pub enum HierarchyFault {
    /// No cgroup2 filesystem is where it should be.
    #[error("no cgroup2 filesystem is mounted at /sys/fs/cgroup")]
    NotMounted,
    /// The controllers are bound to cgroup v1 hierarchies.
    #[error("this is a cgroup v1 host: the controllers are bound to cgroup v1 hierarchies")]
    Legacy,
    /// The kernel, or whoever started this container, gives no group these controllers.
    #[error("the hierarchy has no {} controller", .0.join(", "))]
    Lacks(Vec<&'static str>),
    /// The group of this process cannot be seen from its cgroup namespace or mount.
    #[error("the cgroup of this process is not below the mounted hierarchy")]
    Outside,
    /// /proc/self/cgroup or the mount cannot be read.
    #[error("{} cannot be read", printable(path.as_os_str()))]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A group in which a leaf can be made: its controllers are enabled for its children.
#[derive(Debug)]
pub struct Place {
    group: PathBuf,
    tenure: Tenure,
}

/// How jailmk comes to use a group, and so what becomes of the group afterwards.
#[derive(Debug)]
enum Tenure {
    /// It was there, and stays.
    Found,
    /// jailmk made it for all its jails, and removes it with the last of them.
    Shared,
    /// This process was in it and stands aside in a group below; it goes back when this is dropped.
    StoodAside { _inside: Inside },
    /// A manager made it for this process, and removes it with all below when this process ends.
    Scope,
}

impl Place {
    /// The group's directory.
    pub fn group(&self) -> &Path {
        &self.group
    }

    /// Whether jailmk made the group for all its jails and removes it with the last of them.
    pub(super) fn shared(&self) -> bool {
        matches!(self.tenure, Tenure::Shared)
    }
}

/// Why each group that came into question was not taken, nearest first.
#[derive(Debug)]
pub struct Refusals(pub Vec<Refusal>);

impl std::error::Error for Refusals {}

impl fmt::Display for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut before: Option<&RefusalReason> = None;
        for refusal in &self.0 {
            // What holds for a group holds for most of those above it, too: told once.
            let reason = &refusal.reason;
            let told = before.is_some_and(|before| {
                matches!(
                    (before, reason),
                    (RefusalReason::NotWritable, RefusalReason::NotWritable)
                        | (RefusalReason::Managed, RefusalReason::Managed)
                )
            });
            if !told {
                let separator = if before.is_none() { "" } else { "; " };
                write!(f, "{separator}{} {reason}", printable(refusal.group.as_os_str()))?;
            }
            before = Some(reason);
        }
        Ok(())
    }
}

/// One group that was not taken.
#[derive(Debug)]
pub struct Refusal {
    /// Its directory.
    pub group: PathBuf,
    /// Why.
    pub reason: RefusalReason,
}

impl Refusal {
    /// Whether the file system of cgroups is read-only here.
    pub(super) fn is_read_only(&self) -> bool {
        matches!(&self.reason, RefusalReason::Failed(error) if error.raw_os_error() == Some(libc::EROFS))
    }
}

/// Why a group cannot hold the leaf. The words follow the group's name.
#[derive(Debug, thiserror::Error)]
pub enum RefusalReason {
    /// The kernel gives controllers only to children of groups without processes of their own.
    #[error("holds processes itself")]
    HoldsProcesses,
    /// A directory, `cgroup.procs` or `cgroup.subtree_control` belongs to somebody else.
    #[error("is not writable by this user")]
    NotWritable,
    /// Controllers that the group was not given.
    #[error("has no {} controller", .0.join(", "))]
    Lacks(Vec<&'static str>),
    /// What jailmk made there the manager could take away again at any time.
    #[error("belongs to the systemd manager")]
    Managed,
    /// No scope from a systemd manager.
    #[error("cannot be added to: {0}")]
    Manager(ManagerFault),
    /// A system call failed in another way.
    #[error("failed: {0}")]
    Failed(io::Error),
}

impl From<io::Error> for RefusalReason {
    fn from(error: io::Error) -> RefusalReason {
        match error.kind() {
            io::ErrorKind::PermissionDenied => RefusalReason::NotWritable,
            io::ErrorKind::ResourceBusy => RefusalReason::HoldsProcesses,
            _ => RefusalReason::Failed(error),
        }
    }
}

impl Hierarchy {
    /// Finds the mounted hierarchy and this process's own group in it.
    ///
    /// # Errors
    /// It is not mounted, it has no controllers, or this process's group is not in sight.
    pub fn find() -> Result<Hierarchy, CgroupError> {
        let is_cgroup2 =
            |path: &str| statfs(path).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC);
        let has_memory = |mount: &Path| {
            read(&mount.join("cgroup.controllers")).is_ok_and(|text| missing(&["memory"], &text).is_empty())
        };
        let mount = if is_cgroup2(MOUNT) {
            PathBuf::from(MOUNT)
        } else if is_cgroup2(HYBRID_MOUNT) && has_memory(Path::new(HYBRID_MOUNT)) {
            // `cgroup_no_v1=` has given the v2 hierarchy of a hybrid host its controllers.
            PathBuf::from(HYBRID_MOUNT)
        } else if is_cgroup2(HYBRID_MOUNT) || Path::new("/sys/fs/cgroup/memory").exists() {
            return Err(CgroupError::Hierarchy(HierarchyFault::Legacy));
        } else {
            return Err(CgroupError::Hierarchy(HierarchyFault::NotMounted));
        };
        let path = PathBuf::from("/proc/self/cgroup");
        let text = read(&path)
            .map_err(|source| CgroupError::Hierarchy(HierarchyFault::Unreadable { path, source }))?;
        let own = own_group(&text).ok_or(CgroupError::Hierarchy(HierarchyFault::Outside))?;
        // Joining an empty path would add a slash.
        let own = if own.as_os_str().is_empty() { mount.clone() } else { mount.join(own) };
        if !own.join("cgroup.procs").exists() {
            return Err(CgroupError::Hierarchy(HierarchyFault::Outside));
        }
        Ok(Hierarchy { mount, own })
    }

    /// Where the hierarchy is mounted.
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// The group of this process.
    pub fn own(&self) -> &Path {
        &self.own
    }

    /// Finds a group below which a leaf can be made, and enables `controllers` for its children.
    ///
    /// # Errors
    /// Every group with the reason why not.
    pub fn place(&self, jail_name: &str, controllers: Controllers) -> Result<Place, CgroupError> {
        let mut refusals = Vec::new();
        if let Some(place) = self.delegated(controllers, &mut refusals) {
            return Ok(place);
        }
        let root = geteuid().is_root();
        if root {
            match self.shared_group(controllers) {
                Ok(place) => return Ok(place),
                Err(reason) => refusals.push(Refusal { group: self.mount.join(SHARED_GROUP), reason }),
            }
        }
        match self.scope(jail_name, controllers) {
            Ok(place) => return Ok(place),
            Err(refusal) => refusals.push(refusal),
        }
        if root {
            // The top of a container without a manager of its own.
            for group in self.above() {
                match self.take(group, controllers) {
                    Ok(place) => return Ok(place),
                    Err(reason) => refusals.push(Refusal { group: group.to_owned(), reason }),
                }
            }
        }
        let present = read(&self.mount.join("cgroup.controllers")).unwrap_or_default();
        match missing(controllers.needed, &present) {
            lacking if lacking.is_empty() => Err(CgroupError::Place(Refusals(refusals))),
            lacking => Err(CgroupError::Hierarchy(HierarchyFault::Lacks(lacking))),
        }
    }

    /// The nearest group at or above this process's own that was delegated to the caller.
    ///
    /// Root could write to every group, and takes only what systemd has marked as delegated. Below a
    /// user's manager, too, the mark must be there: every group is the user's, and the manager could take
    /// a controller away from one that it runs itself, and with it the limit.
    fn delegated(&self, controllers: Controllers, refusals: &mut Vec<Refusal>) -> Option<Place> {
        let root = geteuid().is_root();
        for group in self.above() {
            let taken = if is_users_manager(group) {
                // Delegated, to the manager.
                Err(RefusalReason::Managed)
            } else if (root || is_below_users_manager(group)) && !is_delegated(group) {
                Err(RefusalReason::Managed)
            } else {
                self.take(group, controllers)
            };
            match taken {
                Ok(place) => return Some(place),
                Err(reason) => refusals.push(Refusal { group: group.to_owned(), reason }),
            }
        }
        if root {
            refusals.retain(|refusal| !matches!(refusal.reason, RefusalReason::Managed));
        }
        None
    }

    /// This process's own group and those above it, nearest first.
    fn above(&self) -> impl Iterator<Item = &Path> {
        self.own.ancestors().take_while(|group| group.starts_with(&self.mount))
    }

    /// Takes a group at or above this process's own, if a leaf can be made in it.
    fn take(&self, group: &Path, controllers: Controllers) -> Result<Place, RefusalReason> {
        writable(group)?;
        // clone3(2) with CLONE_INTO_CGROUP asks for this on the common ancestor of here and the leaf.
        writable(&group.join("cgroup.procs"))?;
        let group = group.to_owned();
        // A process in it keeps every group but the hierarchy's root, which alone has no cgroup.events, from
        // having controllers below.
        if group == self.own && group.join("cgroup.events").exists() {
            // No jail has an underscore in its name.
            let inside = Inside::stand_aside(&group, &group_name("_supervisor", std::process::id(), 0))?;
            enable(&group, controllers)?;
            return Ok(Place { group, tenure: Tenure::StoodAside { _inside: inside } });
        }
        enable(&group, controllers)?;
        Ok(Place { group, tenure: Tenure::Found })
    }

    /// A scope of this process's own, from a systemd manager.
    fn scope(&self, jail_name: &str, controllers: Controllers) -> Result<Place, Refusal> {
        let refusal = |group: &Path, reason| Refusal { group: group.to_owned(), reason };
        // The manager may know processes of the same id from other PID namespaces.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = group_name(jail_name, std::process::id(), now.as_micros() as u64);
        systemd::enter_scope(&format!("{name}.scope"))
            .map_err(|fault| refusal(&self.own, RefusalReason::Manager(fault)))?;
        // Where the manager has put this process.
        let hierarchy = Hierarchy::find().map_err(|_| {
            let gone = io::Error::from(io::ErrorKind::NotFound);
            refusal(&self.own, RefusalReason::Failed(gone))
        })?;
        let group = hierarchy.own;
        if !group.file_name().is_some_and(|last| last.as_encoded_bytes().starts_with(name.as_bytes())) {
            return Err(refusal(&group, RefusalReason::HoldsProcesses));
        }
        let settle = || -> Result<(), RefusalReason> {
            Inside::stand_aside(&group, "supervisor")?.stay();
            enable(&group, controllers)
        };
        match settle() {
            Ok(()) => Ok(Place { group, tenure: Tenure::Scope }),
            Err(reason) => Err(refusal(&group, reason)),
        }
    }

    fn shared_group(&self, controllers: Controllers) -> Result<Place, RefusalReason> {
        // What the host's own groups get is changed only as far as it must be.
        enable(&self.mount, Controllers { wanted: &[], ..controllers })?;
        let group = self.mount.join(SHARED_GROUP);
        for _ in 0..RACES_MAX {
            match fs::create_dir(&group) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.into()),
                _ => {}
            }
            match enable(&group, controllers) {
                Ok(()) => return Ok(Place { group, tenure: Tenure::Shared }),
                Err(RefusalReason::Failed(error)) if is_gone(&error) => {}
                Err(reason) => {
                    // The kernel keeps it while it is in use.
                    let _ = fs::remove_dir(&group);
                    return Err(reason);
                }
            }
        }
        Err(RefusalReason::Failed(io::Error::from(io::ErrorKind::NotFound)))
    }
}

/// Attempts that lose against supervisors whose last leaf goes, and the shared group with it.
pub(super) const RACES_MAX: usize = 100;

/// Whether a group was removed since it was last looked at: its files are missing, or no longer answer.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// The path of the `0::` line, relative; `None` when it lies above the cgroup namespace's root.
fn own_group(text: &str) -> Option<PathBuf> {
    let line = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let path = Path::new(line.strip_suffix(" (deleted)").unwrap_or(line));
    let climbs = path.components().any(|part| part == std::path::Component::ParentDir);
    (!climbs).then(|| path.to_owned())
}

/// The names in `wanted` that the space-separated `present` does not have.
pub(super) fn missing(wanted: &[&'static str], present: &str) -> Vec<&'static str> {
    wanted.iter().copied().filter(|name| !present.split_whitespace().any(|have| have == *name)).collect()
}

/// The controllers of a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Controllers {
    /// Without these a limit would not hold.
    pub needed: &'static [&'static str],
    /// These only tell more, where the group has them.
    pub wanted: &'static [&'static str],
}

/// Makes `controllers` available to the children of `group`.
fn enable(group: &Path, controllers: Controllers) -> Result<(), RefusalReason> {
    let control = group.join("cgroup.subtree_control");
    let enabled = read(&control)?;
    let disabled = missing(controllers.needed, &enabled);
    let unseen = missing(controllers.wanted, &enabled);
    if disabled.is_empty() && unseen.is_empty() {
        return Ok(());
    }
    let present = read(&group.join("cgroup.controllers"))?;
    let lacking = missing(&disabled, &present);
    if !lacking.is_empty() {
        return Err(RefusalReason::Lacks(lacking));
    }
    let absent = missing(&unseen, &present);
    let unseen = unseen.into_iter().filter(|name| !absent.contains(name));
    let request: Vec<String> = disabled.into_iter().chain(unseen).map(|name| format!("+{name}")).collect();
    if request.is_empty() { Ok(()) } else { Ok(write(&control, &request.join(" "))?) }
}

fn writable(path: &Path) -> Result<(), RefusalReason> {
    faccessat(AT_FDCWD, path, AccessFlags::W_OK, AtFlags::AT_EACCESS)
        .map_err(|errno| RefusalReason::from(io::Error::from(errno)))
}

/// Whether `group` is that of a user's manager: user@UID.service.
fn is_users_manager(group: &Path) -> bool {
    let name = group.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("user@") && name.ends_with(".service")
}

fn is_below_users_manager(group: &Path) -> bool {
    group.ancestors().skip(1).any(is_users_manager)
}

/// systemd marks the groups that it leaves to others, and only those (systemd, CGROUP_DELEGATION).
fn is_delegated(group: &Path) -> bool {
    ["trusted.delegate", "user.delegate"]
        .iter()
        .any(|name| extended_attribute(group, name).as_deref() == Some(b"1"))
}

/// Reads a small file of cgroupfs or procfs.
pub(super) fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path)
}

/// Writes `text` with one write(2) to a file that exists.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    fs::OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_the_line_of_hierarchy_zero() {
        let text = "9:name=systemd:/x\n8:pids:/y\n0::/user.slice/user-1000.slice/session-3.scope\n";
        assert_eq!(own_group(text), Some(PathBuf::from("user.slice/user-1000.slice/session-3.scope")));
        assert_eq!(own_group("0::/\n"), Some(PathBuf::new()));
    }

    #[test]
    fn a_group_with_a_colon_in_its_name_is_taken_whole() {
        assert_eq!(own_group("0::/a:b/c\n"), Some(PathBuf::from("a:b/c")));
    }

    #[test]
    fn a_group_outside_the_namespace_is_refused() {
        assert_eq!(own_group("0::/../other\n"), None);
        assert_eq!(own_group("3:memory:/\n"), None);
    }

    #[test]
    fn a_controller_is_missed_by_its_whole_name() {
        assert_eq!(missing(&["cpu", "memory", "pids"], "cpuset io memory\n"), ["cpu", "pids"]);
    }

    #[test]
    fn the_groups_of_a_users_manager_are_known_by_its_name() {
        let app = Path::new("/c/user.slice/user-7.slice/user@7.service/app.slice");
        assert!(is_below_users_manager(app) && !is_users_manager(app));
        assert!(is_users_manager(app.parent().unwrap()) && !is_below_users_manager(app.parent().unwrap()));
        assert!(!is_below_users_manager(Path::new("/c/user.slice/user-7.slice/session-3.scope")));
    }

    #[test]
    fn every_reason_is_told_with_the_nearest_group_that_it_holds_for() {
        let refusals = Refusals(vec![
            Refusal { group: "/g/a/b".into(), reason: RefusalReason::NotWritable },
            Refusal { group: "/g/a".into(), reason: RefusalReason::NotWritable },
            Refusal { group: "/g/a".into(), reason: RefusalReason::HoldsProcesses },
            Refusal { group: "/g".into(), reason: RefusalReason::Lacks(vec!["cpu", "pids"]) },
        ]);
        assert_eq!(
            refusals.to_string(),
            "/g/a/b is not writable by this user; /g/a holds processes itself; /g has no cpu, pids controller"
        );
    }

    #[test]
    fn a_busy_group_holds_processes_and_a_denied_one_is_not_writable() {
        let reason = |errno: i32| RefusalReason::from(io::Error::from_raw_os_error(errno));
        assert!(matches!(reason(libc::EBUSY), RefusalReason::HoldsProcesses));
        assert!(matches!(reason(libc::EACCES), RefusalReason::NotWritable));
        assert!(matches!(reason(libc::EROFS), RefusalReason::Failed(_)));
    }
}
