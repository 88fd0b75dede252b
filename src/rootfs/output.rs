//! Bare trees for other tools (`--output DIR`), and the lock file beside the spec.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, open, renameat2};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat};

use super::staging::Staging;
use super::verify::{Change, Depth, compare};
use super::write::{Written, write_bare};
use super::{Progress, RootfsError, directory, failed};
use crate::manifest::Manifest;
use crate::manifest::lock::Lock;
use crate::path::HostPath;
use crate::spec::{SourceOrigin, Spec};

/// For everybody to read: a lock file holds names and digests.
const READABLE: Mode = Mode::from_bits_truncate(0o644);

/// Where the lock file of `spec` is kept: beside it, `.lock` for `.toml`; nowhere for a built-in one.
pub fn lock_path(spec: &Spec) -> Option<HostPath> {
    match &spec.sources.last()?.origin {
        SourceOrigin::File(path) if path.extension() == Some(OsStr::new("toml")) => {
            HostPath::absolute(path.with_extension("lock"))
        }
        SourceOrigin::File(path) => {
            let mut path = path.clone().into_os_string();
            path.push(".lock");
            HostPath::absolute(path)
        }
        SourceOrigin::BuiltIn(_) => None,
    }
}

/// Reads the lock file of an earlier build.
///
/// # Errors
/// It cannot be read, or is not as jailmk writes it.
pub fn read_lock(path: &HostPath) -> Result<Lock, RootfsError> {
    let (parent, name) = open_parent(path)?;
    let text = directory::read_file(parent.as_fd(), name.as_os_str()).map_err(failed("read", path))?;
    Lock::parse(&text).map_err(|source| RootfsError::Lock { path: path.clone(), source })
}

/// Writes a lock file; a reader sees the old text or the new one.
///
/// # Errors
/// Its directory cannot be written.
pub fn save_lock(path: &HostPath, lock: &Lock) -> Result<(), RootfsError> {
    let (parent, name) = open_parent(path)?;
    let text = lock.to_string();
    // One that says the same keeps its time, and its directory does.
    if directory::read_file(parent.as_fd(), name.as_os_str()).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    directory::replace_file(parent.as_fd(), &name, READABLE, text.as_bytes()).map_err(failed("write", path))
}

/// Makes `target` the tree of `manifest` and `target.lock` its lock. Its files are copies or clones and
/// never links to the store: whoever owns it may edit it.
pub(super) fn build(
    manifest: &Manifest,
    target: &HostPath,
    locked: Option<&Lock>,
    progress: &Progress,
) -> Result<Written, RootfsError> {
    let (parent, name) = open_parent(target)?;
    let parent = parent.as_fd();
    let mut lock_name = name.clone();
    lock_name.push(".lock");
    refuse_foreign(parent, &name, &lock_name, target)?;
    let parent_path = HostPath::new(target, target.as_path().parent().unwrap_or(target.as_path()));
    let staging = Staging::make(parent, &parent_path, &format!(".{}.jailmk-", name.display()))?;
    let path = staging.path().join("root");
    mkdirat(staging.fd(), "root", Mode::S_IRWXU).map_err(failed("make", &path))?;
    let root = directory::open_to_read(staging.fd(), "root").map_err(failed("open", &path))?;
    let written = write_bare(manifest, root.as_fd(), &path, locked, progress)?;
    let rename = |flags| renameat2(staging.fd(), "root", parent, name.as_os_str(), flags);
    match rename(RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EEXIST) => {
            // Looked at again: it may have come since.
            refuse_foreign(parent, &name, &lock_name, target)?;
            // The old tree goes away with the staging directory.
            rename(RenameFlags::RENAME_EXCHANGE).map_err(failed("replace", target))?;
        }
        other => other.map_err(failed("make", target))?,
    }
    directory::replace_file(parent, &lock_name, READABLE, written.lock.to_string().as_bytes())
        .map_err(failed("write", &HostPath::new(&parent_path, &lock_name)))?;
    Ok(written)
}

/// What may be replaced: nothing, an empty directory, and a tree of ours as we left it.
fn refuse_foreign(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    lock_name: &OsStr,
    target: &HostPath,
) -> Result<(), RootfsError> {
    let foreign = |name: &OsStr| RootfsError::Foreign {
        path: HostPath::new(target, target.as_path().with_file_name(name)),
    };
    let lock = match fstatat(parent, lock_name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => None,
        Err(errno) => return Err(failed("inspect", target)(errno)),
        Ok(stat) if stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits() => {
            let text = directory::read_file(parent, lock_name).map_err(failed("read", target))?;
            Some(Lock::parse(&text).map_err(|_| foreign(lock_name))?)
        }
        Ok(_) => return Err(foreign(lock_name)),
    };
    let tree = match directory::open_to_read(parent, name) {
        Ok(tree) => tree,
        Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::ENOTDIR | Errno::ELOOP) => return Err(foreign(name)),
        Err(errno) => return Err(failed("open", target)(errno)),
    };
    if directory::names(tree.as_fd()).map_err(failed("read", target))?.is_empty() {
        return Ok(());
    }
    let Some(lock) = lock else { return Err(foreign(name)) };
    let changes = compare(tree.as_fd(), &lock, Depth::Names).map_err(failed("check", target))?;
    // A chown of the whole tree, or of a part, destroys no work of the user's.
    match changes.into_iter().find(|change| change.what != Change::Owner) {
        Some(first) => Err(RootfsError::Altered { path: target.clone(), first: Box::new(first) }),
        None => Ok(()),
    }
}

fn open_parent(path: &HostPath) -> Result<(OwnedFd, OsString), RootfsError> {
    let (Some(parent), Some(name)) = (path.as_path().parent(), path.as_path().file_name()) else {
        return Err(RootfsError::Nameless { path: path.clone() });
    };
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let fd = open(parent, flags, Mode::empty()).map_err(failed("open", &HostPath::new(path, parent)))?;
    Ok((fd, name.to_owned()))
}
