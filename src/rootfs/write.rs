//! A manifest into an empty directory.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, mkdirat, utimensat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::symlinkat;

use super::RootfsError;
use super::copy::{Copier, CopyFault};
use super::directory::{Descent, last_name, open_to_read};
use super::sources::{Sources, Stamp};
use crate::manifest::lock::{Content, Lock, Locked};
use crate::manifest::{Entry, Manifest, Node};
use crate::path::{HostPath, JailPath};

/// What was written.
pub(super) struct Written {
    pub(super) lock: Lock,
    /// Of each copied file.
    pub(super) stamps: Vec<(HostPath, Stamp, Content)>,
    /// Whether the digest of one of them was not known before.
    pub(super) learned: bool,
}

/// Fills `root`, an empty directory that only this process knows.
pub(super) fn write(
    manifest: &Manifest,
    root: BorrowedFd<'_>,
    directory: &HostPath,
) -> Result<Written, RootfsError> {
    let free = fstatvfs(root).map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
    let writer = Writer { manifest, directory, free, epoch: epoch() };
    writer.make_directories_and_links(root)?;
    let files: Vec<_> = manifest.entries().filter(|(_, entry)| entry.node.is_file()).collect();
    let written = writer.write_files(root, &files)?;
    writer.finish_directories(root)?;
    let lock = Lock::new(manifest, written.iter().map(|(content, _)| *content));
    let copies = files.iter().zip(written).filter_map(|((_, entry), (content, stamp))| match &entry.node {
        Node::Copy(origin) => Some((origin.clone(), stamp?, content)),
        _ => None,
    });
    Ok(Written { lock, stamps: copies.collect(), learned: true })
}

/// The time of what has no time of its own (reproducible-builds.org, SOURCE_DATE_EPOCH). Copies keep
/// theirs: Python compares it with the one in its compiled files.
fn epoch() -> TimeSpec {
    let seconds = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|value| value.parse().ok());
    TimeSpec::new(seconds.filter(|seconds| *seconds >= 0).unwrap_or(1), 0)
}

struct Writer<'a> {
    manifest: &'a Manifest,
    directory: &'a HostPath,
    free: u64,
    epoch: TimeSpec,
}

impl Writer<'_> {
    fn make_directories_and_links(&self, root: BorrowedFd<'_>) -> Result<(), RootfsError> {
        let mut descent = Descent::new(root);
        for (path, entry) in self.manifest.entries() {
            let name = last_name(path);
            let made = match &entry.node {
                Node::Directory if *path == JailPath::root() => Ok(()),
                Node::Directory => {
                    descent.parent_of(path).and_then(|parent| mkdirat(parent, name, Mode::S_IRWXU))
                }
                Node::Symlink(target) => descent.parent_of(path).and_then(|parent| {
                    symlinkat(target, parent, name)?;
                    let flag = UtimensatFlags::NoFollowSymlink;
                    utimensat(parent, name, &self.epoch, &self.epoch, flag)
                }),
                Node::Copy(_) | Node::Written(_) => Ok(()),
            };
            made.map_err(|errno| self.fault(path, errno.into()))?;
        }
        Ok(())
    }

    /// In the order of `files`. The first fault stops all threads.
    fn write_files(
        &self,
        root: BorrowedFd<'_>,
        files: &[(&JailPath, &Entry)],
    ) -> Result<Vec<(Content, Option<Stamp>)>, RootfsError> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let may_clone = AtomicBool::new(true);
        let work = || {
            let mut copier = Copier::new(&may_clone);
            let mut descent = Descent::new(root);
            let mut done = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                // Neighbours go to one thread: they share directories.
                let first = next.fetch_add(8, Ordering::Relaxed);
                if first >= files.len() {
                    break;
                }
                for (index, (path, entry)) in files.iter().enumerate().skip(first).take(8) {
                    match self.write_file(&mut descent, &mut copier, path, entry) {
                        Ok(written) => done.push((index, written)),
                        Err(error) => {
                            stop.store(true, Ordering::Relaxed);
                            return Err(error);
                        }
                    }
                }
            }
            Ok(done)
        };
        let threads = std::thread::available_parallelism().map_or(2, |count| count.get().clamp(2, 8));
        let threads = threads.min(files.len().div_ceil(8)).max(1);
        let results: Vec<Result<Vec<_>, RootfsError>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let own = work();
            let others = others.into_iter().map(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            std::iter::once(own).chain(others).collect()
        });
        let mut all = Vec::with_capacity(files.len());
        for result in results {
            all.extend(result?);
        }
        all.sort_unstable_by_key(|(index, _)| *index);
        Ok(all.into_iter().map(|(_, written)| written).collect())
    }

    fn write_file(
        &self,
        descent: &mut Descent<'_>,
        copier: &mut Copier<'_>,
        path: &JailPath,
        entry: &Entry,
    ) -> Result<(Content, Option<Stamp>), RootfsError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let own = Mode::S_IRUSR | Mode::S_IWUSR;
        let target = descent.parent_of(path).and_then(|parent| openat(parent, last_name(path), flags, own));
        let mut target = File::from(target.map_err(|errno| self.fault(path, errno.into()))?);
        let (content, stamp, modified) = match &entry.node {
            Node::Copy(origin) => match copier.copy(origin, &mut target) {
                Ok(copied) => (copied.content, Some(copied.stamp), copied.modified),
                Err(CopyFault::Write(error)) => return Err(self.fault(path, error)),
                Err(fault) => return Err(unread(origin, path, fault)),
            },
            Node::Written(bytes) => {
                target.write_all(bytes).map_err(|error| self.fault(path, error))?;
                (Content::of(bytes), None, self.epoch)
            }
            Node::Directory | Node::Symlink(_) => unreachable!("BUG: only files are written here"),
        };
        fchmod(&target, Mode::from_bits_truncate(entry.mode))
            .and_then(|()| futimens(&target, &modified, &modified))
            .map_err(|errno| self.fault(path, errno.into()))?;
        Ok((content, stamp))
    }

    /// Modes and times last: making an entry changes the time of its directory.
    fn finish_directories(&self, root: BorrowedFd<'_>) -> Result<(), RootfsError> {
        let mut descent = Descent::new(root);
        for (path, entry) in self.manifest.entries() {
            if entry.node != Node::Directory {
                continue;
            }
            descent
                .parent_of(path)
                .and_then(|parent| open_to_read(parent, last_name(path)))
                .and_then(|directory| {
                    fchmod(&directory, Mode::from_bits_truncate(entry.mode))?;
                    futimens(directory.as_fd(), &self.epoch, &self.epoch)
                })
                .map_err(|errno| self.fault(path, errno.into()))?;
        }
        Ok(())
    }

    fn fault(&self, path: &JailPath, source: std::io::Error) -> RootfsError {
        let (path, directory) = (path.clone(), self.directory.clone());
        let full = [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG].map(|errno| Some(errno as i32));
        if !full.contains(&source.raw_os_error()) {
            return RootfsError::Write { path, directory, source };
        }
        let size = |entry: &Entry| match &entry.node {
            Node::Copy(origin) => std::fs::metadata(origin).map_or(0, |metadata| metadata.len()),
            Node::Written(bytes) => bytes.len() as u64,
            Node::Directory | Node::Symlink(_) => 4096,
        };
        let needed: u64 = self.manifest.entries().map(|(_, entry)| size(entry)).sum();
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        RootfsError::Full { path, directory, needed: mebibytes(needed), free: mebibytes(self.free), source }
    }
}

/// The lock that writing `manifest` would give.
pub(super) fn preview(manifest: &Manifest) -> Result<Lock, RootfsError> {
    let may_clone = AtomicBool::new(false);
    let mut copier = Copier::new(&may_clone);
    let mut contents = Vec::new();
    for (path, entry) in manifest.entries() {
        match &entry.node {
            Node::Written(bytes) => contents.push(Content::of(bytes)),
            Node::Copy(origin) => {
                contents.push(copier.digest(origin).map_err(|fault| unread(origin, path, fault))?.content);
            }
            Node::Directory | Node::Symlink(_) => {}
        }
    }
    Ok(Lock::new(manifest, contents))
}

/// Whether writing `manifest` would give `there`; stops at the first thing that differs. A file that is
/// as `known` says is not read again.
pub(super) fn compare(
    manifest: &Manifest,
    there: &Lock,
    known: &Sources,
) -> Result<Option<Written>, RootfsError> {
    let contents: Vec<Content> = there.entries().iter().filter_map(Locked::content).collect();
    let files: Vec<_> = manifest.entries().filter(|(_, entry)| entry.node.is_file()).collect();
    if contents.len() != files.len() || Lock::new(manifest, contents.iter().copied()) != *there {
        return Ok(None);
    }
    let may_clone = AtomicBool::new(false);
    let mut copier = None;
    let mut stamps = Vec::new();
    for ((path, entry), expected) in files.into_iter().zip(contents) {
        let found = match &entry.node {
            Node::Written(bytes) => Content::of(bytes),
            Node::Copy(origin) => {
                let (stamp, content) = match known.recall(origin) {
                    Some(known) => known,
                    None => {
                        let copier = copier.get_or_insert_with(|| Copier::new(&may_clone));
                        let copied = copier.digest(origin).map_err(|fault| unread(origin, path, fault))?;
                        (copied.stamp, copied.content)
                    }
                };
                stamps.push((origin.clone(), stamp, content));
                content
            }
            Node::Directory | Node::Symlink(_) => continue,
        };
        if found != expected {
            return Ok(None);
        }
    }
    Ok(Some(Written { lock: there.clone(), stamps, learned: copier.is_some() }))
}

fn unread(origin: &HostPath, path: &JailPath, fault: CopyFault) -> RootfsError {
    RootfsError::Copy { origin: origin.clone(), path: path.clone(), fault }
}
