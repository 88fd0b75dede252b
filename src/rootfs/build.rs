//! One build: write beside, then flip a link. Whoever looks sees the old tree or the new one.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::symlinkat;

use super::inputs::Inputs;
use super::sources::Sources;
use super::staging::{Staging, collect, unique};
use super::write::{self, Written, compare, write};
use super::{NAMED, Rootfs, RootfsError, Seal, State, directory, failed, output};
use crate::caller::Caller;
use crate::closure::Closure;
use crate::manifest::Manifest;
use crate::manifest::lock::{Hex, Lock, Locked};
use crate::path::HostPath;
use crate::spec::Spec;

const STAGING: &str = "staging-";
const TRASH: &str = "trash-";
const GENERATION: &str = "gen-";

/// What a build may be asked for beside the spec.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions<'a> {
    /// Make a bare tree there, with its lock file beside, instead of a generation in the state.
    pub output: Option<HostPath>,
    /// Fail unless the result is what this lock says.
    pub locked: Option<&'a Lock>,
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
    /// The tree was there already, and nothing of it was written.
    pub reused: bool,
    /// How long it took.
    pub elapsed: Duration,
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
    if let Some(target) = &options.output {
        let lock = output::build(&manifest, target, options.locked)?;
        return Ok(built(None, target.clone(), lock, false, started));
    }
    // Taken first: what changes from here on makes the new tree stale.
    let inputs = Inputs::take(spec, &manifest, &caller)?.text();
    let (directory, path) = state.make_spec(spec)?;
    let directory = directory.as_fd();
    if let Some((current, there)) = usable(directory, &path) {
        let known = Sources::parse(&current.read("sources").unwrap_or_default());
        if let Some(written) = compare(&manifest, &there, &known)? {
            refuse_unlocked(options.locked, &there)?;
            record(&current, &inputs, &written)?;
            let tree = current.tree();
            return Ok(built(Some(current), tree, there, true, started));
        }
    }
    let staging = Staging::make(directory, &path, STAGING)?;
    let written = fill(&staging, &manifest, &inputs, options.locked)?;
    let (rootfs, reused) = publish(staging, directory, &path, &written, &inputs)?;
    let tree = rootfs.tree();
    Ok(built(Some(rootfs), tree, written.lock, reused, started))
}

/// The lock that a build of `manifest` would write; every file is read, none is written.
///
/// # Errors
/// A file cannot be read or changes meanwhile.
pub fn preview(manifest: &Manifest) -> Result<Lock, RootfsError> {
    write::preview(manifest)
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

fn built(rootfs: Option<Rootfs>, tree: HostPath, lock: Lock, reused: bool, started: Instant) -> Built {
    let contents = lock.entries().iter().filter_map(Locked::content);
    let (files, bytes) = contents.fold((0, 0), |(files, bytes), content| (files + 1, bytes + content.size));
    Built { rootfs, tree, lock, files, bytes, reused, elapsed: started.elapsed() }
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
    locked: Option<&Lock>,
) -> Result<Written, RootfsError> {
    let path = staging.path().join("root");
    mkdirat(staging.fd(), "root", Mode::S_IRWXU).map_err(failed("make", &path))?;
    let root = directory::open_to_read(staging.fd(), "root").map_err(failed("open", &path))?;
    let written = write(manifest, root.as_fd(), &path)?;
    refuse_unlocked(locked, &written.lock)?;
    let seal = Seal::take(root.as_fd(), &written.lock).map_err(|(at, errno)| RootfsError::Write {
        path: at,
        directory: path.clone(),
        source: errno.into(),
    })?;
    let (lock, sources) = (written.lock.to_string(), Sources::text(&written.stamps));
    let files = [
        ("lock", lock.as_bytes()),
        ("seal", seal.as_bytes()),
        ("inputs", inputs.as_bytes()),
        ("sources", sources.as_bytes()),
    ];
    for (name, bytes) in files {
        directory::write_file(staging.fd(), name.as_ref(), OWN, bytes)
            .map_err(failed("write", &staging.path().join(name)))?;
    }
    Ok(written)
}

const OWN: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// Makes the staged tree the current one; if another build made the same tree meanwhile, that one is
/// taken and the staged one dropped.
fn publish(
    staging: Staging<'_>,
    directory: BorrowedFd<'_>,
    path: &HostPath,
    written: &Written,
    inputs: &str,
) -> Result<(Rootfs, bool), RootfsError> {
    let _guard = guard(directory, path)?;
    if let Some((current, there)) = usable(directory, path)
        && there == written.lock
    {
        record(&current, inputs, written)?;
        return Ok((current, true));
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
    retire(directory, &name);
    Ok((rootfs, false))
}

/// One build at a time flips the link and retires generations.
fn guard(directory: BorrowedFd<'_>, path: &HostPath) -> Result<Flock<OwnedFd>, RootfsError> {
    let fd = directory::open_to_read(directory, ".").map_err(failed("open", path))?;
    Flock::lock(fd, FlockArg::LockExclusive).map_err(|(_, errno)| failed("lock", path)(errno))
}

/// Removes the generations that no jail uses. What cannot be removed now is for the next build.
fn retire(directory: BorrowedFd<'_>, current: &str) {
    for name in directory::names(directory).unwrap_or_default() {
        let text = OsStr::from_bytes(name.to_bytes());
        if !is_generation(text) || text == current {
            continue;
        }
        let Ok(generation) = directory::open(directory, name.as_c_str()) else { continue };
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let held = match openat(&generation, "lock", flags, Mode::empty()) {
            Ok(lock) => match Flock::lock(File::from(lock), FlockArg::LockExclusiveNonblock) {
                Ok(held) => Some(held),
                Err(_) => continue,
            },
            Err(Errno::ENOENT) => None,
            Err(_) => continue,
        };
        // ORDER: renamed while locked, so that nobody who opens it from now on takes it for alive.
        let trash = OsString::from(format!("{TRASH}{}", unique()));
        let _ = renameat(directory, name.as_c_str(), directory, trash.as_os_str());
        drop(held);
    }
    collect(directory, TRASH);
}

/// A tree that is kept was made from other inputs by name, of the same content.
fn record(current: &Rootfs, inputs: &str, written: &Written) -> Result<(), RootfsError> {
    let sources = if written.learned { Sources::text(&written.stamps) } else { String::new() };
    for (name, text) in [("inputs", inputs), ("sources", &sources)] {
        if text.is_empty() || current.read(name).is_ok_and(|there| there == text.as_bytes()) {
            continue;
        }
        directory::replace_file(current.generation.as_fd(), name.as_ref(), OWN, text.as_bytes())
            .map_err(failed("write", &current.path.join(name)))?;
    }
    Ok(())
}
