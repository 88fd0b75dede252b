//! A manifest into an empty directory.
//!
//! First everything is made that takes time, by several threads and with nothing locked: directories,
//! links, and the files that the store does not have. Then, with the store locked and in a few
//! milliseconds, its objects are linked and the new files become objects themselves.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, futimens, mkdirat};
use nix::sys::statvfs::fstatvfs;
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::build::refuse_unlocked;
use super::copy::{Copier, CopyFault, Source};
use super::directory::{Descent, last_name, open_to_read};
use super::ledger::{Ledger, Object, Stamp as ObjectStamp};
use super::sources::{Sources, Stamp};
use super::store::{Locked as LockedStore, Presence, Shared, Store, make_symlink, object};
use super::{Progress, RootfsError, Seal, in_threads};
use crate::manifest::lock::{Content, Lock, Locked};
use crate::manifest::{Entry, Manifest, Node};
use crate::path::{HostPath, JailPath};

/// What was written.
pub(super) struct Written {
    pub(super) lock: Lock,
    pub(super) shared: Tally,
}

/// Files and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// How many.
    pub files: usize,
    /// How much.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, content: &Content) {
        self.files += 1;
        self.bytes += content.size;
    }
}

/// Fills `root`, an empty directory that only this process knows, sharing files with other trees where
/// that can be; and seals it.
pub(super) fn write_shared(
    manifest: &Manifest,
    root: BorrowedFd<'_>,
    directory: &HostPath,
    store: &Store,
    locked: Option<&Lock>,
    progress: &Progress,
) -> Result<(Written, Seal), RootfsError> {
    let sources = store.sources();
    let writer = Writer::new(manifest, root, directory, Some(store), &sources, progress);
    let made = writer.make(root)?;
    let lock = Lock::new(manifest, made.iter().map(|made| made.content));
    refuse_unlocked(locked, &lock)?;
    let mut held = store.lock()?;
    let shared = writer.share(root, &mut held, &made)?;
    writer.finish_directories(root)?;
    let mut objects = made.iter().zip(writer.files()).map(|(made, (_, entry))| made.object(entry.mode));
    let mut object_of = lock.entries().iter().map(|entry| entry.content().and_then(|_| objects.next()?));
    let seal = Seal::take(root, &lock, |_, stat| {
        // Only now: a file may have been linked twice in this very tree.
        if let Some(Some(object)) = object_of.next()
            && stat.st_nlink > 1
        {
            held.enter(object, stat);
        }
    })
    .map_err(|(path, errno)| writer.fault(&path, errno.into()))?;
    let learned: Vec<_> = made.iter().filter_map(|made| Some((made.learned?, made.content))).collect();
    held.save(sources.with(&learned))?;
    Ok((Written { lock, shared }, seal))
}

/// Fills `root` with files of its own.
pub(super) fn write_bare(
    manifest: &Manifest,
    root: BorrowedFd<'_>,
    directory: &HostPath,
    locked: Option<&Lock>,
    progress: &Progress,
) -> Result<Written, RootfsError> {
    let sources = Sources::parse(Vec::new());
    let writer = Writer::new(manifest, root, directory, None, &sources, progress);
    let made = writer.make(root)?;
    let lock = Lock::new(manifest, made.iter().map(|made| made.content));
    refuse_unlocked(locked, &lock)?;
    writer.finish_directories(root)?;
    let mut shared = Tally::default();
    made.iter().filter(|made| made.place == Place::Cloned).for_each(|made| shared.add(&made.content));
    Ok(Written { lock, shared })
}

/// The time of what has no time of its own (reproducible-builds.org, SOURCE_DATE_EPOCH). Copies keep
/// theirs: Python compares it with the one in its compiled files.
fn epoch() -> TimeSpec {
    let seconds = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|value| value.parse().ok());
    TimeSpec::new(seconds.filter(|seconds| *seconds >= 0).unwrap_or(1), 0)
}

/// One file after the first part of the work.
#[derive(Clone, Copy)]
struct Made {
    content: Content,
    modified: TimeSpec,
    place: Place,
    /// The host file's stamp, if its content was not known before.
    learned: Option<Stamp>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the tree, sharing blocks with the host's file.
    Cloned,
    /// In the tree.
    Own,
    /// Not in the tree yet: the store has it, as its ledger says or as it was when it was read.
    Store(Option<ObjectStamp>),
}

impl Made {
    fn object(&self, mode: u32) -> Option<Object> {
        (self.place != Place::Cloned).then(|| object(&self.content, mode, &self.modified))
    }
}

struct Writer<'a> {
    manifest: &'a Manifest,
    directory: &'a HostPath,
    free: u64,
    epoch: TimeSpec,
    store: Option<&'a Store>,
    ledger: Option<Ledger>,
    sources: &'a Sources,
    progress: &'a Progress,
    /// Shared by all threads: a file system that cannot clone is asked once.
    may_clone: AtomicBool,
}

impl<'a> Writer<'a> {
    fn new(
        manifest: &'a Manifest,
        root: BorrowedFd<'_>,
        directory: &'a HostPath,
        store: Option<&'a Store>,
        sources: &'a Sources,
        progress: &'a Progress,
    ) -> Writer<'a> {
        let ledger = store.map(Store::ledger);
        let free = fstatvfs(root).map_or(0, |stat| stat.blocks_available() * stat.fragment_size());
        let may_clone = AtomicBool::new(true);
        Writer { manifest, directory, free, epoch: epoch(), store, ledger, sources, progress, may_clone }
    }

    fn files(&self) -> impl Iterator<Item = (&'a JailPath, &'a Entry)> + use<'a> {
        self.manifest.entries().filter(|(_, entry)| entry.node.is_file())
    }

    /// Everything but the files that the store has.
    fn make(&self, root: BorrowedFd<'_>) -> Result<Vec<Made>, RootfsError> {
        self.make_directories_and_links(root)?;
        let files: Vec<_> = self.files().collect();
        self.progress.begin(files.len());
        self.write_files(root, &files)
    }

    fn make_directories_and_links(&self, root: BorrowedFd<'_>) -> Result<(), RootfsError> {
        let mut descent = Descent::new(root);
        for (path, entry) in self.manifest.entries() {
            let name = last_name(path);
            let made = match &entry.node {
                Node::Directory if *path == JailPath::root() => Ok(()),
                Node::Directory => {
                    descent.parent_of(path).and_then(|parent| mkdirat(parent, name, Mode::S_IRWXU))
                }
                Node::Symlink(target) => descent.parent_of(path).and_then(|parent| match self.store {
                    Some(store) => store.symlink(target, &self.epoch, parent, name),
                    None => make_symlink(target, &self.epoch, parent, name),
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
    ) -> Result<Vec<Made>, RootfsError> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let work = || {
            let mut copier = Copier::new();
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
                        Ok(made) => done.push((index, made)),
                        Err(error) => {
                            stop.store(true, Ordering::Relaxed);
                            return Err(error);
                        }
                    }
                    self.progress.step();
                }
            }
            Ok::<_, RootfsError>(done)
        };
        let results = in_threads(files.len().div_ceil(8), &work);
        let mut all = Vec::with_capacity(files.len());
        for result in results {
            all.extend(result?);
        }
        all.sort_unstable_by_key(|(index, _)| *index);
        Ok(all.into_iter().map(|(_, made)| made).collect())
    }

    fn write_file(
        &self,
        descent: &mut Descent<'_>,
        copier: &mut Copier,
        path: &JailPath,
        entry: &Entry,
    ) -> Result<Made, RootfsError> {
        match &entry.node {
            Node::Copy(origin) => self.copy_file(descent, copier, (path, entry.mode), origin),
            Node::Written(bytes) => {
                let made = Made {
                    content: Content::of(bytes),
                    modified: self.epoch,
                    place: Place::Own,
                    learned: None,
                };
                if let Some(made) = self.in_store(made, path, entry.mode, copier)? {
                    return Ok(made);
                }
                let mut target = self.create(descent, path)?;
                target.write_all(bytes).map_err(|error| self.fault(path, error))?;
                self.finish_file(&target, path, entry.mode, &self.epoch)?;
                Ok(made)
            }
            Node::Directory | Node::Symlink(_) => unreachable!("BUG: only files are written here"),
        }
    }

    fn copy_file(
        &self,
        descent: &mut Descent<'_>,
        copier: &mut Copier,
        (path, mode): (&JailPath, u32),
        origin: &HostPath,
    ) -> Result<Made, RootfsError> {
        let unread = |fault| unread(origin, path, fault);
        if !self.may_clone.load(Ordering::Relaxed)
            && let Ok(stat) = Source::inspect(origin, self.manifest.source().is_some())
            && let Some(made) = self.recall(&stat)
            && let Some(made) = self.in_store(made, path, mode, copier)?
        {
            return Ok(made);
        }
        let mut source = Source::open(origin).map_err(unread)?;
        let recalled = self.sources.recall(&source.stamp());
        let modified = modified(&source.stamp());
        let mut target = self.create(descent, path)?;
        if self.may_clone.load(Ordering::Relaxed) && source.stamp().size > 0 {
            match source.clone_to(&target) {
                Ok(()) => {
                    let content = match recalled {
                        Some(content) => source.unchanged(content),
                        None => copier.digest(&mut source),
                    };
                    let content = content.map_err(unread)?;
                    self.finish_file(&target, path, mode, &modified)?;
                    let learned = recalled.is_none().then(|| source.stamp());
                    return Ok(Made { content, modified, place: Place::Cloned, learned });
                }
                // Of another file system: the next one may be of this.
                Err(Errno::EXDEV) => {}
                Err(_) => self.may_clone.store(false, Ordering::Relaxed),
            }
            let made = recalled.map(|content| Made { content, modified, place: Place::Own, learned: None });
            if let Some(made) = made
                && let Some(made) = self.in_store(made, path, mode, copier)?
            {
                let parent = descent.parent_of(path);
                parent
                    .and_then(|parent| unlinkat(parent, last_name(path), UnlinkatFlags::NoRemoveDir))
                    .map_err(|errno| self.fault(path, errno.into()))?;
                return Ok(made);
            }
        }
        let content = match copier.copy(&mut source, &mut target) {
            Err(CopyFault::Write(error)) => return Err(self.fault(path, error)),
            other => other.map_err(unread)?,
        };
        self.finish_file(&target, path, mode, &modified)?;
        let learned = (recalled != Some(content)).then(|| source.stamp());
        Ok(Made { content, modified, place: Place::Own, learned })
    }

    /// What the host file with this stamp would become, if that is known without reading it.
    fn recall(&self, stat: &FileStat) -> Option<Made> {
        let regular = stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
        let stamp = Stamp::of(stat);
        let content = self.sources.recall(&stamp).filter(|_| regular)?;
        Some(Made { content, modified: modified(&stamp), place: Place::Own, learned: None })
    }

    /// The same file, to be linked from the store, if that has it.
    fn in_store(
        &self,
        made: Made,
        path: &JailPath,
        mode: u32,
        copier: &mut Copier,
    ) -> Result<Option<Made>, RootfsError> {
        let (Some(store), Some(ledger)) = (self.store, &self.ledger) else { return Ok(None) };
        let object = object(&made.content, mode, &made.modified);
        let presence =
            store.look(&object, ledger, copier.buffer()).map_err(|errno| self.fault(path, errno.into()))?;
        Ok(match presence {
            Presence::Absent => None,
            Presence::AsEntered => Some(Made { place: Place::Store(None), ..made }),
            Presence::Read(stamp) => Some(Made { place: Place::Store(Some(stamp)), ..made }),
        })
    }

    fn create(&self, descent: &mut Descent<'_>, path: &JailPath) -> Result<File, RootfsError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let own = Mode::S_IRUSR | Mode::S_IWUSR;
        let target = descent.parent_of(path).and_then(|parent| openat(parent, last_name(path), flags, own));
        target.map(File::from).map_err(|errno| self.fault(path, errno.into()))
    }

    fn finish_file(
        &self,
        target: &File,
        path: &JailPath,
        mode: u32,
        modified: &TimeSpec,
    ) -> Result<(), RootfsError> {
        fchmod(target, Mode::from_bits_truncate(mode))
            .and_then(|()| futimens(target, modified, modified))
            .map_err(|errno| self.fault(path, errno.into()))
    }

    /// Links what the store has, and gives it what it has not.
    fn share(
        &self,
        root: BorrowedFd<'_>,
        store: &mut LockedStore<'_>,
        made: &[Made],
    ) -> Result<Tally, RootfsError> {
        let mut shared = Tally::default();
        let mut descent = Descent::new(root);
        for ((path, entry), made) in self.files().zip(made) {
            let Some(object) = made.object(entry.mode) else {
                shared.add(&made.content);
                continue;
            };
            let name = last_name(path);
            let fault = |errno: Errno| self.fault(path, errno.into());
            if let Place::Store(read) = made.place {
                let parent = descent.parent_of(path).map_err(fault)?;
                if store.link(&object, read, parent, name).map_err(fault)? == Shared::Yes {
                    shared.add(&made.content);
                    continue;
                }
                self.write_late(&mut descent, path, entry, made)?;
            }
            let parent = descent.parent_of(path).map_err(fault)?;
            store.adopt(&object, parent, name).map_err(fault)?;
        }
        Ok(shared)
    }

    /// A file that the store seemed to have.
    fn write_late(
        &self,
        descent: &mut Descent<'_>,
        path: &JailPath,
        entry: &Entry,
        expected: &Made,
    ) -> Result<(), RootfsError> {
        let mut target = self.create(descent, path)?;
        match &entry.node {
            Node::Copy(origin) => {
                let unread = |fault| unread(origin, path, fault);
                let mut source = Source::open(origin).map_err(unread)?;
                let content = match Copier::new().copy(&mut source, &mut target) {
                    Err(CopyFault::Write(error)) => return Err(self.fault(path, error)),
                    other => other.map_err(unread)?,
                };
                // The lock is made already.
                if content != expected.content || modified(&source.stamp()) != expected.modified {
                    return Err(unread(CopyFault::Changed));
                }
            }
            Node::Written(bytes) => target.write_all(bytes).map_err(|error| self.fault(path, error))?,
            Node::Directory | Node::Symlink(_) => unreachable!("BUG: only files are written here"),
        }
        self.finish_file(&target, path, entry.mode, &expected.modified)
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

fn modified(stamp: &Stamp) -> TimeSpec {
    let second = 1_000_000_000;
    TimeSpec::new(stamp.modified.div_euclid(second), stamp.modified.rem_euclid(second))
}

/// The lock that writing `manifest` would give.
pub(super) fn preview(manifest: &Manifest, sources: &Sources) -> Result<Lock, RootfsError> {
    let mut contents = Vec::new();
    let mut digests =
        Digests { in_tree: manifest.source().is_some(), sources, copier: None, learned: Vec::new() };
    for (path, entry) in manifest.entries() {
        match &entry.node {
            Node::Written(bytes) => contents.push(Content::of(bytes)),
            Node::Copy(origin) => contents.push(digests.of(origin, path)?),
            Node::Directory | Node::Symlink(_) => {}
        }
    }
    Ok(Lock::new(manifest, contents))
}

/// Whether writing `manifest` would give `there`; stops at the first thing that differs. A file that is
/// as `sources` says is not read again; what was learned of others is returned.
pub(super) fn compare(
    manifest: &Manifest,
    there: &Lock,
    sources: &Sources,
) -> Result<Option<Vec<(Stamp, Content)>>, RootfsError> {
    let contents: Vec<Content> = there.entries().iter().filter_map(Locked::content).collect();
    let files: Vec<_> = manifest.entries().filter(|(_, entry)| entry.node.is_file()).collect();
    if contents.len() != files.len() || Lock::new(manifest, contents.iter().copied()) != *there {
        return Ok(None);
    }
    let mut digests =
        Digests { in_tree: manifest.source().is_some(), sources, copier: None, learned: Vec::new() };
    for ((path, entry), expected) in files.into_iter().zip(contents) {
        let found = match &entry.node {
            Node::Written(bytes) => Content::of(bytes),
            Node::Copy(origin) => digests.of(origin, path)?,
            Node::Directory | Node::Symlink(_) => continue,
        };
        if found != expected {
            return Ok(None);
        }
    }
    Ok(Some(digests.learned))
}

/// The contents of host files, read only where they are not known.
struct Digests<'a> {
    in_tree: bool,
    sources: &'a Sources,
    copier: Option<Copier>,
    learned: Vec<(Stamp, Content)>,
}

impl Digests<'_> {
    fn of(&mut self, origin: &HostPath, path: &JailPath) -> Result<Content, RootfsError> {
        if let Ok(stat) = Source::inspect(origin, self.in_tree)
            && stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits()
            && let Some(content) = self.sources.recall(&Stamp::of(&stat))
        {
            return Ok(content);
        }
        let unread = |fault| unread(origin, path, fault);
        let mut source = Source::open(origin).map_err(unread)?;
        let content = self.copier.get_or_insert_with(Copier::new).digest(&mut source).map_err(unread)?;
        self.learned.push((source.stamp(), content));
        Ok(content)
    }
}

fn unread(origin: &HostPath, path: &JailPath, fault: CopyFault) -> RootfsError {
    RootfsError::Copy { origin: origin.clone(), path: path.clone(), fault }
}
