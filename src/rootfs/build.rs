//! One build: write beside, then flip a link. Whoever looks sees the old tree or the new one.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::symlinkat;

use super::inputs::Inputs;
use super::sources::{Sources, Stamp};
use super::staging::{Staging, collect_with, unique};
use super::store::Store;
use super::write::{self, Tally, Written, compare, write_shared};
use super::{Freshness, NAMED, Progress, Rootfs, RootfsError, State, directory, failed, output, seen};
use crate::caller::Caller;
use crate::closure::Closure;
use crate::manifest::Manifest;
use crate::manifest::lock::{Content, Hex, Lock, Locked};
use crate::path::HostPath;
use crate::spec::Spec;

pub(super) const STAGING: &str = "staging-";
pub(super) const TRASH: &str = "trash-";
const GENERATION: &str = "gen-";

/// What a build may be asked for beside the spec.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions<'a> {
    /// Make a bare tree there, with its lock file beside, instead of a generation in the state.
    pub output: Option<HostPath>,
    /// Fail unless the result is what this lock says.
    pub locked: Option<&'a Lock>,
    /// When the closure began to be made, if before the build: what changed since then may be in it or not.
    pub began: Option<SystemTime>,
    /// Told how far the build is.
    pub progress: Option<&'a Progress>,
}

/// A finished build.
#[derive(Debug)]
pub struct Built {
    /// The tree in the state; `None` for a bare one.
    pub rootfs: Option<Rootfs>,
    /// The top directory of the tree.
    pub tree: HostPath,
    /// What it holds.
    pub lock: Lock,
    /// Regular files in it.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Of these, what takes no room of its own: links to the store, and clones of the host's files.
    pub shared: Tally,
    /// The tree was there already, and nothing of it was written.
    pub reused: bool,
    /// How long it took.
    pub elapsed: Duration,
}

/// The current tree of `spec`, with the notes of its build, if nothing that was looked at to make it has
/// changed since: what [`build`] would find out in the end, in a few milliseconds.
///
/// # Errors
/// The state cannot be read, or the tree is not what `locked` says. A damaged tree is for [`build`].
pub fn unchanged(
    spec: &Spec,
    state: &State,
    locked: Option<&Lock>,
) -> Result<Option<(Built, Vec<String>)>, RootfsError> {
    let started = Instant::now();
    let Some((current, Freshness::Fresh)) = Rootfs::current(state, spec)? else { return Ok(None) };
    let record = current.read("seen").unwrap_or_default();
    let Some(notes) = seen::unchanged(&record) else { return Ok(None) };
    let (Ok(()), Ok(lock)) = (current.check_seal(), current.lock()) else { return Ok(None) };
    refuse_unlocked(locked, &lock)?;
    let (tree, shared) = (current.tree(), all_of(&lock));
    Ok(Some((built(Some(current), tree, Written { lock, shared }, true, started), notes)))
}

/// Makes the tree of `spec` and `closure`, whole or not at all; one that is there already and equals
/// what would be made is kept.
///
/// # Errors
/// The plan fails, a file cannot be copied or changes meanwhile, the disk is full, the result differs
/// from `options.locked`, `options.output` is not jailmk's. Nothing is left behind and the tree that
/// was current stays so.
pub fn build(
    spec: &Spec,
    state: &State,
    options: &BuildOptions<'_>,
    closure: &Closure,
) -> Result<Built, RootfsError> {
    let started = Instant::now();
    let caller = Caller::current();
    let manifest = Manifest::plan_for(spec, closure, &caller)?;
    let unseen = Progress::default();
    let progress = options.progress.unwrap_or(&unseen);
    if let Some(target) = &options.output {
        let written = output::build(&manifest, target, options.locked, progress)?;
        return Ok(built(None, target.clone(), written, false, started));
    }
    // Taken first: what changes from here on makes the new tree stale.
    let inputs = Inputs::take(spec, &manifest, &caller)?.text();
    let place = state.make_spec(spec)?;
    let (directory, path) = (place.fd.as_fd(), &place.path);
    let store = Store::open(state)?;
    let seen = || seen::record(closure, options.began.unwrap_or_else(SystemTime::now));
    if let Some((current, there)) = usable(directory, path) {
        let seen = seen();
        let sources = store.sources();
        if let Some(learned) = compare(&manifest, &there, &sources)? {
            refuse_unlocked(options.locked, &there)?;
            record(&current, &inputs, seen.as_deref())?;
            if let Some(bytes) = sources.with(&learned) {
                remember(&store, &learned, bytes)?;
            }
            let tree = current.tree();
            let shared = all_of(&there);
            return Ok(built(Some(current), tree, Written { lock: there, shared }, true, started));
        }
    }
    let staging = Staging::make(directory, path, STAGING)?;
    let written = fill(&staging, &manifest, &inputs, &store, options.locked, progress)?;
    let seen = seen();
    let (rootfs, reused) = publish(staging, directory, path, &store, &written, &inputs, seen.as_deref())?;
    let tree = rootfs.tree();
    Ok(built(Some(rootfs), tree, written, reused, started))
}

/// Enters digests, to be found by the next build.
fn remember(store: &Store, learned: &[(Stamp, Content)], bytes: Vec<u8>) -> Result<(), RootfsError> {
    let held = store.lock()?;
    // Read again: another build may have written since, unless nothing was written at all.
    let bytes = store.sources().with(learned).unwrap_or(bytes);
    held.save(Some(bytes))
}

/// The lock that a build of `manifest` would write; every file is read, none is written.
///
/// # Errors
/// A file cannot be read or changes meanwhile.
pub fn preview(manifest: &Manifest) -> Result<Lock, RootfsError> {
    write::preview(manifest, &Sources::parse(Vec::new()))
}

/// Whether a name is one that [`build`] gives to a finished build.
pub(super) fn is_generation(name: &OsStr) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    name.as_bytes().starts_with(GENERATION.as_bytes()) && name.as_bytes().iter().all(plain)
}

/// The result must be what the lock says, path by path.
pub(super) fn refuse_unlocked(expected: Option<&Lock>, found: &Lock) -> Result<(), RootfsError> {
    let Some(expected) = expected else { return Ok(()) };
    let mut differences = expected.differences(found);
    let total = differences.len();
    differences.truncate(NAMED);
    match total {
        0 => Ok(()),
        _ => Err(RootfsError::Unlocked { differences, total }),
    }
}

fn built(rootfs: Option<Rootfs>, tree: HostPath, written: Written, reused: bool, started: Instant) -> Built {
    let Written { lock, shared } = written;
    let all = all_of(&lock);
    Built {
        rootfs,
        tree,
        lock,
        files: all.files,
        bytes: all.bytes,
        shared,
        reused,
        elapsed: started.elapsed(),
    }
}

fn all_of(lock: &Lock) -> Tally {
    let contents = lock.entries().iter().filter_map(Locked::content);
    contents.fold(Tally::default(), |sum, content| Tally {
        files: sum.files + 1,
        bytes: sum.bytes + content.size,
    })
}

/// The current tree and its lock, unless one is damaged: then a build makes another.
fn usable(directory: BorrowedFd<'_>, path: &HostPath) -> Option<(Rootfs, Lock)> {
    let current = Rootfs::open_current(directory, path).ok()??;
    current.check_seal().ok()?;
    let lock = current.lock().ok()?;
    Some((current, lock))
}

fn fill(
    staging: &Staging<'_>,
    manifest: &Manifest,
    inputs: &str,
    store: &Store,
    locked: Option<&Lock>,
    progress: &Progress,
) -> Result<Written, RootfsError> {
    let path = staging.path().join("root");
    mkdirat(staging.fd(), "root", Mode::S_IRWXU).map_err(failed("make", &path))?;
    let root = directory::open_to_read(staging.fd(), "root").map_err(failed("open", &path))?;
    let (written, seal) = write_shared(manifest, root.as_fd(), &path, store, locked, progress)?;
    let lock = written.lock.to_string();
    let files = [("lock", lock.as_bytes()), ("seal", seal.as_bytes()), ("inputs", inputs.as_bytes())];
    for (name, bytes) in files {
        directory::write_file(staging.fd(), name.as_ref(), OWN, bytes)
            .map_err(failed("write", &staging.path().join(name)))?;
    }
    Ok(written)
}

pub(super) const OWN: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// Makes the staged tree the current one; if another build made the same tree meanwhile, that one is
/// taken and the staged one dropped.
fn publish(
    staging: Staging<'_>,
    directory: BorrowedFd<'_>,
    path: &HostPath,
    store: &Store,
    written: &Written,
    inputs: &str,
    seen: Option<&[u8]>,
) -> Result<(Rootfs, bool), RootfsError> {
    let _guard = guard(directory, path)?;
    if let Some((current, there)) = usable(directory, path)
        && there == written.lock
    {
        record(&current, inputs, seen)?;
        return Ok((current, true));
    }
    if let Some(seen) = seen {
        directory::write_file(staging.fd(), "seen".as_ref(), OWN, seen)
            .map_err(failed("write", &staging.path().join("seen")))?;
    }
    let name = format!("{GENERATION}{}-{}", Hex(&written.lock.digest()[..6]), unique());
    staging.publish(&name)?;
    // Before the flip, while the guard keeps others from removing it.
    let rootfs = Rootfs::open(directory, OsStr::new(&name), path)?
        .ok_or_else(|| failed("open", &path.join(&name))(Errno::ENOENT))?;
    let fresh = format!("{TRASH}{}", unique());
    symlinkat(name.as_str(), directory, fresh.as_str())
        .and_then(|()| renameat(directory, fresh.as_str(), directory, "current"))
        .map_err(failed("replace the link", &path.join("current")))?;
    // The tree is there: what cannot be removed now is for the next build, or for `gc`.
    let _ = retire(directory, Some(name.as_ref()), store, &[TRASH]);
    Ok((rootfs, false))
}

/// One build at a time flips the link and retires generations.
pub(super) fn guard(directory: BorrowedFd<'_>, path: &HostPath) -> Result<Flock<OwnedFd>, RootfsError> {
    let fd = directory::open_to_read(directory, ".").map_err(failed("open", path))?;
    Flock::lock(fd, FlockArg::LockExclusive).map_err(|(_, errno)| failed("lock", path)(errno))
}

/// Removes the generations that no jail uses, but for `current`; and what is left by these prefixes.
pub(super) fn retire(
    directory: BorrowedFd<'_>,
    current: Option<&OsStr>,
    store: &Store,
    left: &[&str],
) -> Result<Tally, RootfsError> {
    for name in directory::names(directory).unwrap_or_default() {
        let text = OsStr::from_bytes(name.to_bytes());
        if !is_generation(text) || Some(text) == current {
            continue;
        }
        let Ok(held) = unused(directory, &name) else { continue };
        // ORDER: renamed while locked, so that nobody who opens it from now on takes it for alive.
        let trash = OsString::from(format!("{TRASH}{}", unique()));
        let _ = renameat(directory, name.as_c_str(), directory, trash.as_os_str());
        drop(held);
    }
    let names = directory::names(directory).unwrap_or_default();
    if !names.iter().any(|name| left.iter().any(|prefix| name.to_bytes().starts_with(prefix.as_bytes()))) {
        return Ok(Tally::default());
    }
    let mut held = store.lock()?;
    for prefix in left {
        collect_with(directory, prefix, &mut |parent, name| held.unlink(parent, name));
    }
    let freed = held.freed();
    held.save(None)?;
    Ok(freed)
}

/// The lock of a generation that nobody uses; nothing to hold if it has no lock file, as none that is
/// whole. An error if it is used, or cannot be looked at.
pub(super) fn unused(directory: BorrowedFd<'_>, name: &CStr) -> Result<Option<Flock<File>>, Errno> {
    let generation = directory::open(directory, name)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    match openat(&generation, "lock", flags, Mode::empty()) {
        Ok(lock) => Flock::lock(File::from(lock), FlockArg::LockExclusiveNonblock)
            .map(Some)
            .map_err(|(_, errno)| errno),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A tree that is kept was made from other inputs by name, of the same content.
fn record(current: &Rootfs, inputs: &str, seen: Option<&[u8]>) -> Result<(), RootfsError> {
    for (name, bytes) in [("inputs", Some(inputs.as_bytes())), ("seen", seen)] {
        let Some(bytes) = bytes else { continue };
        if current.read(name).is_ok_and(|there| there == bytes) {
            continue;
        }
        directory::replace_file(current.generation.as_fd(), name.as_ref(), OWN, bytes)
            .map_err(failed("write", &current.path.join(name)))?;
    }
    Ok(())
}
