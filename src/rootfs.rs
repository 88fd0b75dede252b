//! Manifest → [`Rootfs`]: the tree on disk, replaced as a whole or not at all, and known to be the one
//! that was built.
//!
//! ```text
//! STATE/rootfs/NAME-IDENTITY/
//!     current -> gen-DIGEST-UNIQUE        flipped by rename(2)
//!     gen-DIGEST-UNIQUE/                  one finished build
//!         root/                           the tree
//!         lock                            what the tree holds; every user of the tree holds it flocked
//!         seal                            inode, times, mode and owner of every path, see seal.rs
//!         inputs                          what it was made from, see inputs.rs
//!         seen                            all that was looked at, see seen.rs
//!     spec                                where the spec is: `gc` looks whether it is still there
//!     staging-UNIQUE/                     a build that runs (flocked) or was killed
//!     trash-UNIQUE/                       on its way out
//! STATE/store/                            files that the trees share, see store.rs
//! ```
//!
//! Locks are taken in this order: `STATE/rootfs` (shared while a build runs, alone by who removes a spec's
//! directory), the spec's directory, a generation's `lock` (never waited for), the store.
//!
//! Nothing is synced to the disk: after a power cut a torn generation fails its seal and is built anew.

mod build;
mod copy;
pub(crate) mod directory;
pub mod doubt;
mod gc;
mod inputs;
mod ledger;
mod output;
mod progress;
mod seal;
mod seen;
mod sources;
pub(crate) mod staging;
mod state;
mod store;
mod table;
mod taken;
mod verify;
mod write;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, fstat, fstatat};

use crate::caller::Caller;
use crate::error::StageError;
use crate::manifest::ManifestError;
use crate::manifest::lock::{Lock, LockDifference, LockError, Locked};
use crate::path::{HostPath, JailPath};
use crate::spec::Spec;

use directory::{Descent, last_name};
use ledger::Stamp;
use seal::{Checked, Moved};
use store::{Confirmed, Store};

pub use build::{BuildOptions, Built, build, preview, unchanged};
pub use copy::{CopyFault, SIZE_LIMIT, Source};
pub use gc::{Collected, Fate, Reach, Removal, Trees, gc};
pub use inputs::{Freshness, Staleness};
pub use output::{lock_path, read_lock, save_lock};
pub use progress::Progress;
pub use seal::{Seal, SealError};
pub use state::State;
pub(crate) use state::spec_directory;
pub(crate) use taken::{named, taken, without_dots};
pub use verify::{Change, Difference, verify};
pub use write::Tally;

/// How many differences an error names; `verify` lists all.
const NAMED: usize = 5;

/// Why there is no rootfs, or not the one that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// Neither JAILMK_STATE nor a home directory says where to keep trees.
    #[error("cannot choose a state directory: HOME is not set to an absolute path")]
    StateUnknown,
    /// JAILMK_STATE is relative.
    #[error("cannot use JAILMK_STATE: `{0}` is not an absolute path")]
    StateRelative(String),
    /// Somebody else could change what is in it.
    #[error("cannot use the state directory {directory}: {fault}")]
    StateUnsafe {
        /// Which.
        directory: HostPath,
        /// What is wrong.
        fault: &'static str,
    },
    /// The state directory, or what every build needs in it, cannot be made.
    #[error("cannot {verb} {path}")]
    StateUnusable {
        /// What was attempted.
        verb: &'static str,
        /// On what.
        path: HostPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It may be of the jail's making.
    #[error("cannot use the spec {path}: it changed while a jail ran that can write where it is")]
    Doubtful {
        /// As it was named.
        path: HostPath,
    },
    /// The plan failed.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A file of the host could not be taken.
    #[error("cannot copy {origin} to {path}")]
    Copy {
        /// The host file.
        origin: HostPath,
        /// Its place in the jail.
        path: JailPath,
        /// Why.
        #[source]
        fault: CopyFault,
    },
    /// A path of the new tree could not be made.
    #[error("cannot write {path} of the tree in {directory}")]
    Write {
        /// The path in the jail.
        path: JailPath,
        /// The tree.
        directory: HostPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No space, quota or file size limit left.
    #[error(
        "cannot write {path} of the tree in {directory}: the tree needs about {needed} MiB, {free} MiB were free"
    )]
    Full {
        /// The path in the jail.
        path: JailPath,
        /// The tree.
        directory: HostPath,
        /// MiB of all files.
        needed: u64,
        /// MiB that were free when the build began.
        free: u64,
        /// ENOSPC, EDQUOT or EFBIG.
        #[source]
        source: io::Error,
    },
    /// A file or directory of jailmk's own.
    #[error("cannot {verb} {path}")]
    Io {
        /// What was attempted.
        verb: &'static str,
        /// On what.
        path: HostPath,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The lock file of a tree, or the one beside the spec.
    #[error("cannot use {path}")]
    Lock {
        /// Which.
        path: HostPath,
        /// Why.
        #[source]
        source: LockError,
    },
    /// The seal of a tree cannot be read.
    #[error("cannot use {path}")]
    Seal {
        /// Which.
        path: HostPath,
        /// Why.
        #[source]
        source: SealError,
    },
    /// A built-in spec has no lock file beside it.
    #[error("cannot check {name} against its lock file: a built-in spec has none")]
    NoLock {
        /// The spec.
        name: String,
    },
    /// The result would not be what the lock file says.
    #[error("cannot build what the lock file says: {total} paths differ: {}", Listed(differences, *total))]
    Unlocked {
        /// The first of them.
        differences: Vec<LockDifference>,
        /// All of them.
        total: usize,
    },
    /// The tree is not as it was built.
    #[error("cannot trust the tree {directory}: {} changed since it was built: {}", Paths(*total), Listed(differences, *total))]
    Tampered {
        /// The tree.
        directory: HostPath,
        /// The first of them.
        differences: Vec<Difference>,
        /// All of them.
        total: usize,
    },
    /// `--output` names something that must not be deleted.
    #[error("cannot replace {path}: it exists and was not made by jailmk")]
    Foreign {
        /// What is there.
        path: HostPath,
    },
    /// `--output` names a tree of ours with changes in it.
    #[error("cannot replace {path}: it was changed since jailmk made it: {first}")]
    Altered {
        /// The tree.
        path: HostPath,
        /// The first change.
        first: Box<Difference>,
    },
    /// `--output` names nothing that can be made.
    #[error("cannot make {path}: it has no name of its own")]
    Nameless {
        /// As given.
        path: HostPath,
    },
    /// Generations came and went faster than one could be opened.
    #[error("cannot open the tree in {directory}: it is being replaced over and over")]
    Busy {
        /// Where.
        directory: HostPath,
    },
}

impl StageError for RootfsError {
    fn hints(&self) -> Vec<String> {
        let hint = match self {
            RootfsError::StateUnknown => "set HOME, or JAILMK_STATE to an absolute path",
            RootfsError::StateRelative(_) => "write it from `/` on",
            RootfsError::StateUnsafe { .. } => {
                "set JAILMK_STATE to a directory that you own and nobody else can write"
            }
            RootfsError::StateUnusable { .. } => "set JAILMK_STATE to a directory in which you can write",
            RootfsError::Doubtful { .. } => {
                "a spec decides what the jail reaches: read it, then pass --trust-spec once to use it as it is"
            }
            RootfsError::Manifest(error) => return error.hints(),
            RootfsError::Copy { fault: CopyFault::Changed | CopyFault::Vanished, .. } => {
                "is the host being upgraded? run `jailmk build` again when that is done"
            }
            RootfsError::Copy { fault: CopyFault::Read(error), .. }
                if error.kind() == io::ErrorKind::PermissionDenied =>
            {
                "leave it out with `exclude`, or make it readable for you"
            }
            RootfsError::Full { .. } => {
                "make room, or set JAILMK_STATE to a directory on another file system"
            }
            RootfsError::Unlocked { .. } => "`jailmk build` without --locked brings the lock file up to date",
            RootfsError::Tampered { .. } => {
                return vec![
                    "`jailmk build` makes it anew".into(),
                    "`jailmk verify` lists all differences".into(),
                ];
            }
            RootfsError::Seal { .. } | RootfsError::Lock { .. } => "`jailmk build` makes it anew",
            RootfsError::Foreign { .. } | RootfsError::Altered { .. } => {
                "choose another directory, or remove this one yourself"
            }
            RootfsError::Io { source, .. } if source.raw_os_error() == Some(libc::EMFILE) => {
                "raise the limit on open files (`ulimit -n`)"
            }
            _ => return Vec::new(),
        };
        vec![hint.into()]
    }
}

/// The first few of many things.
struct Listed<'a, T>(&'a [T], usize);

impl<T: std::fmt::Display> std::fmt::Display for Listed<'_, T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{item}")?;
        }
        if self.1 > self.0.len() {
            write!(f, " and {} more", self.1 - self.0.len())?;
        }
        Ok(())
    }
}

struct Paths(usize);

impl std::fmt::Display for Paths {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            1 => f.write_str("a path"),
            count => write!(f, "{count} paths"),
        }
    }
}

/// A finished tree. It is not removed as long as this value lives, whoever builds meanwhile.
#[derive(Debug)]
pub struct Rootfs {
    path: HostPath,
    generation: OwnedFd,
    root: OwnedFd,
    /// Held, not read.
    _lock: Flock<File>,
}

impl Rootfs {
    /// Opens the newest tree of `spec`, and says whether it is up to date; `None` if there is none yet.
    ///
    /// # Errors
    /// The state cannot be read, or is not as jailmk left it. A tree with a changed file is opened:
    /// that is for [`Rootfs::check_seal`] to tell.
    pub fn current(state: &State, spec: &Spec) -> Result<Option<(Rootfs, Freshness)>, RootfsError> {
        let Some((directory, path)) = state.open_spec(spec)? else { return Ok(None) };
        let Some(rootfs) = Rootfs::open_current(directory.as_fd(), &path)? else { return Ok(None) };
        let freshness = match rootfs.read("inputs").map(|text| inputs::Inputs::parse(&text)) {
            Ok(Some(inputs)) => inputs.freshness(spec, &Caller::current())?,
            _ => Freshness::Stale(Staleness::Unknown),
        };
        Ok(Some((rootfs, freshness)))
    }

    /// The tree that `current` points to.
    fn open_current(directory: BorrowedFd<'_>, path: &HostPath) -> Result<Option<Rootfs>, RootfsError> {
        // Each try fails only if a whole build was finished in between.
        for _ in 0..64 {
            let name = match readlinkat(directory, "current") {
                Ok(name) => name,
                Err(Errno::ENOENT) => return Ok(None),
                Err(errno) => return Err(failed("read the link", &path.join("current"))(errno)),
            };
            if let Some(rootfs) = Rootfs::open(directory, &name, path)? {
                return Ok(Some(rootfs));
            }
        }
        Err(RootfsError::Busy { directory: path.clone() })
    }

    /// `None` if it was removed on the way.
    fn open(
        directory: BorrowedFd<'_>,
        name: &std::ffi::OsStr,
        path: &HostPath,
    ) -> Result<Option<Rootfs>, RootfsError> {
        let path = path.join(name);
        let gone = |errno| matches!(errno, Errno::ENOENT | Errno::ENOTDIR);
        if !build::is_generation(name) {
            return Err(failed("follow the link to", &path)(Errno::EINVAL));
        }
        let generation = match directory::open(directory, name) {
            Ok(fd) => fd,
            Err(errno) if gone(errno) => return Ok(None),
            Err(errno) => return Err(failed("open", &path)(errno)),
        };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let lock = match openat(&generation, "lock", flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(errno) if gone(errno) && !still_there(directory, name, &generation) => return Ok(None),
            Err(errno) => return Err(failed("open", &path.join("lock"))(errno)),
        };
        let lock = match Flock::lock(lock, FlockArg::LockSharedNonblock) {
            Ok(lock) => lock,
            Err((_, Errno::EWOULDBLOCK)) => return Ok(None),
            Err((_, errno)) => return Err(failed("lock", &path.join("lock"))(errno)),
        };
        if !still_there(directory, name, &generation) {
            return Ok(None);
        }
        let root = directory::open(generation.as_fd(), "root").map_err(failed("open", &path.join("root")))?;
        Ok(Some(Rootfs { path, generation, root, _lock: lock }))
    }

    /// Where the generation is: for messages.
    pub fn path(&self) -> &HostPath {
        &self.path
    }

    /// Where the tree is: for messages and for tools that take a path.
    pub fn tree(&self) -> HostPath {
        self.path.join("root")
    }

    /// The top directory of the tree, opened with O_PATH.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// What the tree is to hold.
    ///
    /// # Errors
    /// The lock file cannot be read, or is not as jailmk wrote it.
    pub fn lock(&self) -> Result<Lock, RootfsError> {
        let text = self.read("lock")?;
        Lock::parse(&text).map_err(|source| RootfsError::Lock { path: self.path.join("lock"), source })
    }

    /// Compares inode, times, mode, size and owner of every path with those at the end of the build:
    /// about a microsecond a path, and nothing but stat(2). Whatever was written, added, removed or
    /// given other rights since then is found, by the change time that only the kernel sets. Where that
    /// moved because other trees share the file, the store tells, or the file is read: see store.rs.
    ///
    /// # Errors
    /// The paths that differ, a seal that cannot be read, or want of descriptors or memory.
    pub fn check_seal(&self) -> Result<(), RootfsError> {
        let mut seal = Seal::parse(self.read("seal")?)
            .map_err(|source| RootfsError::Seal { path: self.path.join("seal"), source })?;
        let Checked { mut differences, moved } =
            seal.check(self.root.as_fd()).map_err(failed("check", &self.tree()))?;
        let (mut right, unknown) = self.as_jailmk_left_them(moved);
        if !unknown.is_empty() {
            differences.extend(self.read_again(unknown, &mut right)?);
        }
        if differences.is_empty() {
            if !right.is_empty() {
                seal.refresh(&right);
                // Only the next check is slower without it.
                let generation = self.generation.as_fd();
                let _ = directory::replace_file(generation, "seal".as_ref(), build::OWN, seal.as_bytes());
            }
            return Ok(());
        }
        differences.sort_by(|a, b| a.path.cmp(&b.path));
        let total = differences.len();
        differences.truncate(NAMED);
        Err(RootfsError::Tampered { directory: self.tree(), differences, total })
    }

    /// The files whose time of change is one that the store's ledger has, and the others.
    fn as_jailmk_left_them(&self, moved: Vec<Moved>) -> (Vec<Moved>, Vec<Moved>) {
        if moved.is_empty() {
            return Default::default();
        }
        let known: HashSet<Stamp> = Store::ledger_of_generation(self.generation.as_fd())
            .map(|ledger| ledger.stamps().collect())
            .unwrap_or_default();
        moved.into_iter().partition(|moved| known.contains(&Stamp::of(&moved.found)))
    }

    /// Those that are not what was built; the others go to `right`.
    fn read_again(&self, moved: Vec<Moved>, right: &mut Vec<Moved>) -> Result<Vec<Difference>, RootfsError> {
        let lock = self.lock()?;
        let next = AtomicUsize::new(0);
        let work = || {
            let mut descent = Descent::new(self.root.as_fd());
            let mut buffer = Vec::new();
            let mut done = Vec::new();
            while let Some(Moved { path, found, .. }) = moved.get(next.fetch_add(1, Ordering::Relaxed)) {
                let confirmed = match lock.get(path).and_then(Locked::content) {
                    Some(content) => descent.parent_of(path).and_then(|parent| {
                        let name = last_name(path);
                        let read = Store::confirm(parent, name, found, &content, &mut buffer)?;
                        if read != Confirmed::Moving {
                            return Ok(read);
                        }
                        let _still = Store::still(self.generation.as_fd())?;
                        Store::confirm(parent, name, found, &content, &mut buffer)
                    }),
                    None => Ok(Confirmed::Wrong),
                };
                done.push((path.clone(), confirmed));
            }
            done
        };
        let done: BTreeMap<JailPath, _> = in_threads(moved.len(), &work).into_iter().flatten().collect();
        let mut changed = Vec::new();
        for mut moved in moved {
            let what = match done.get(&moved.path) {
                Some(Ok(Confirmed::Right(stamp))) => {
                    moved.changed = stamp.changed;
                    right.push(moved);
                    continue;
                }
                Some(Err(errno)) => Change::unreadable(*errno).map_err(failed("check", &self.tree()))?,
                Some(Ok(Confirmed::Wrong | Confirmed::Moving)) | None => Change::Content,
            };
            changed.push(Difference { path: moved.path, what });
        }
        Ok(changed)
    }

    /// Compares the tree with its lock, every byte of it, and lists every difference.
    ///
    /// # Errors
    /// The lock cannot be read, or descriptors or memory are missing. What of the tree cannot be read is a
    /// difference.
    pub fn verify(&self) -> Result<Vec<Difference>, RootfsError> {
        verify(self.root.as_fd(), &self.lock()?).map_err(failed("check", &self.tree()))
    }

    fn read(&self, name: &'static str) -> Result<Vec<u8>, RootfsError> {
        let path = self.path.join(name);
        directory::read_file(self.generation.as_fd(), name).map_err(failed("read", &path))
    }
}

/// Reads `bytes` as every kind of record that the state holds beside locks and seals: for the fuzzer.
#[doc(hidden)]
pub fn read_records(bytes: &[u8]) {
    let _ = inputs::Inputs::parse(bytes);
    let _ = state::Remembered::parse(bytes);
    let _ = seen::parse(bytes);
    let _ = ledger::Ledger::parse(bytes.to_vec()).by_inode();
    let _ = sources::Sources::parse(bytes.to_vec()).without_all_but(&HashSet::new());
}

/// What `work` gives in as many threads as the machine has processors, this one among them, and as there is
/// work for.
fn in_threads<T: Send>(pieces: usize, work: &(impl Fn() -> T + Sync)) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 8));
    let threads = threads.min(pieces).max(1);
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others = others.into_iter().map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        std::iter::once(own).chain(others).collect()
    })
}

/// Whether `name` still means the directory that was opened.
fn still_there(directory: BorrowedFd<'_>, name: &std::ffi::OsStr, opened: &OwnedFd) -> bool {
    match (fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW), fstat(opened)) {
        (Ok(there), Ok(here)) => (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino),
        _ => false,
    }
}

/// For `map_err`: `cannot VERB PATH: errno`.
fn failed(verb: &'static str, path: &HostPath) -> impl FnOnce(Errno) -> RootfsError + use<> {
    let path = path.clone();
    move |errno| RootfsError::Io { verb, path, source: errno.into() }
}
