//! The tree that files are taken from: `/`, or another root whose absolute links stay inside it.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use crate::path::{HostPath, JailPath, printable};

/// As many links in one resolution as the kernel allows: path_resolution(7).
const MAXIMUM_LINKS: usize = 40;

/// Directory descriptors kept open; the usual soft limit on descriptors is 1024.
const MAXIMUM_DIRECTORIES: usize = 128;

/// How often a look-up that raced with a rename is tried again: openat2(2), EAGAIN.
const RACES: usize = 32;

/// A path of the source tree that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot open {}", printable(path.as_os_str()))]
pub struct RootError {
    /// The path inside the tree.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub errno: Errno,
}

impl crate::error::StageError for RootError {}

/// What a path leads to, and everything that must exist for it to lead there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The path with every link replaced, inside the tree.
    pub real: PathBuf,
    /// The links crossed, each with its target as it stands, in order.
    pub links: Vec<(PathBuf, PathBuf)>,
    /// Directories that are entered only to be left by `..`.
    pub left: Vec<PathBuf>,
}

/// What an opened path is.
#[derive(Debug)]
pub enum Opened {
    /// A regular file, open for reading.
    Regular(File, FileStat),
    /// Anything else; it is closed again.
    Other(FileKind),
}

/// The kind of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// S_IFREG
    Regular,
    /// S_IFDIR
    Directory,
    /// S_IFLNK
    Symlink,
    /// S_IFIFO
    Fifo,
    /// S_IFSOCK
    Socket,
    /// S_IFCHR or S_IFBLK
    Device,
}

impl FileKind {
    /// The kind in a stat(2) result.
    pub fn of(stat: &FileStat) -> FileKind {
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => FileKind::Regular,
            SFlag::S_IFDIR => FileKind::Directory,
            SFlag::S_IFLNK => FileKind::Symlink,
            SFlag::S_IFIFO => FileKind::Fifo,
            SFlag::S_IFSOCK => FileKind::Socket,
            _ => FileKind::Device,
        }
    }

    /// The kind for messages.
    pub fn name(self) -> &'static str {
        match self {
            FileKind::Regular => "a regular file",
            FileKind::Directory => "a directory",
            FileKind::Symlink => "a symbolic link",
            FileKind::Fifo => "a FIFO",
            FileKind::Socket => "a socket",
            FileKind::Device => "a device",
        }
    }
}

impl Opened {
    fn of(descriptor: OwnedFd) -> Result<Opened, Errno> {
        let stat = fstat(&descriptor)?;
        Ok(match FileKind::of(&stat) {
            FileKind::Regular => Opened::Regular(File::from(descriptor), stat),
            kind => Opened::Other(kind),
        })
    }
}

/// The tree that files are taken from. Nothing outside of it is ever opened through it.
#[derive(Debug)]
pub struct SourceRoot {
    path: HostPath,
    descriptor: OwnedFd,
    directories: RefCell<HashMap<PathBuf, Rc<OwnedFd>>>,
    parents: RefCell<HashMap<PathBuf, Result<Rc<Resolved>, RootError>>>,
    /// As bytes, for paths are compared and hashed by component, which is slow.
    looked_at: RefCell<HashSet<OsString>>,
    shortage: RefCell<Option<RootError>>,
}

impl SourceRoot {
    /// Opens `path` as a tree.
    ///
    /// # Errors
    /// It is no directory, or may not be entered.
    pub fn open(path: HostPath) -> Result<SourceRoot, RootError> {
        let how = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let descriptor = nix::fcntl::open(path.as_path(), how, Mode::empty())
            .map_err(|errno| RootError { path: path.as_path().to_owned(), errno })?;
        Ok(SourceRoot {
            path,
            descriptor,
            directories: RefCell::default(),
            parents: RefCell::default(),
            looked_at: RefCell::default(),
            shortage: RefCell::default(),
        })
    }

    /// This host's own tree.
    ///
    /// # Errors
    /// `/` may not be entered.
    pub fn host() -> Result<SourceRoot, RootError> {
        SourceRoot::open(HostPath::root())
    }

    /// Where the tree is on the host.
    pub fn path(&self) -> &HostPath {
        &self.path
    }

    /// Whether the tree is this host's own.
    pub fn is_host(&self) -> bool {
        self.path.as_path() == Path::new("/")
    }

    /// The place on the host of a path inside the tree.
    pub fn host_path(&self, inside: &Path) -> HostPath {
        self.path.join(inside)
    }

    /// Every path on the host that was asked for, whether there was something or not: of what is found by
    /// its name in a directory, that is the directory. While all of them are as they were, asking again
    /// gives the same answers.
    pub fn looked_at(&self) -> Vec<HostPath> {
        let looked_at = self.looked_at.borrow();
        let mut names: Vec<&OsString> = looked_at.iter().collect();
        names.sort_unstable();
        names.into_iter().map(|inside| self.host_path(Path::new(inside))).collect()
    }

    /// Notes a path that is looked at by other means.
    pub fn look_at(&self, inside: &Path) {
        let inside = inside.as_os_str();
        if !self.looked_at.borrow().contains(inside) {
            self.looked_at.borrow_mut().insert(inside.to_owned());
        }
    }

    /// The first path that could not be opened for want of descriptors or memory, or because the disk
    /// failed. Whoever asked took it for missing, so nothing that was found since then is to be trusted.
    pub fn shortage(&self) -> Option<RootError> {
        self.shortage.borrow().clone()
    }

    /// Follows `path`, which is absolute inside the tree; the last component is followed too.
    ///
    /// # Errors
    /// As path_resolution(7); ELOOP after 40 links.
    pub fn resolve(&self, path: &Path) -> Result<Resolved, RootError> {
        self.walk(path, Last::Followed)
    }

    /// Follows `path` but for its last component, which need not exist.
    ///
    /// # Errors
    /// As path_resolution(7); ELOOP after 40 links.
    pub fn resolve_parent(&self, path: &Path) -> Result<Resolved, RootError> {
        self.walk(path, Last::Kept)
    }

    /// What is at `real`, a path without links. A link in the last component is not followed.
    ///
    /// # Errors
    /// As fstatat(2).
    pub fn stat(&self, real: &Path) -> Result<FileStat, RootError> {
        let fail = |errno| RootError { path: real.to_owned(), errno };
        self.look_at(real);
        match (real.parent(), real.file_name()) {
            (Some(parent), Some(name)) => {
                let directory = self.directory(parent).map_err(fail)?;
                fstatat(&*directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(fail)
            }
            _ => fstat(&self.descriptor).map_err(fail),
        }
    }

    /// The target of the link at `real`, whose parents are no links.
    ///
    /// # Errors
    /// As readlinkat(2); EINVAL where there is no link.
    pub fn read_link(&self, real: &Path) -> Result<PathBuf, RootError> {
        let fail = |errno| RootError { path: real.to_owned(), errno };
        let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else {
            return Err(fail(Errno::EINVAL));
        };
        let directory = self.directory(parent).map_err(fail)?;
        readlinkat(&*directory, name).map(PathBuf::from).map_err(fail)
    }

    /// Opens `path` for reading, following links inside the tree; never blocks and never becomes a
    /// controlling terminal.
    ///
    /// # Errors
    /// As openat2(2).
    pub fn open_file(&self, path: &Path) -> Result<Opened, Errno> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let descriptor = match self.open_inside(path, flags, resolve) {
            Ok(descriptor) => descriptor,
            // A socket, or a device without a driver.
            Err(Errno::ENXIO) => return Ok(Opened::Other(FileKind::Socket)),
            Err(errno) => return Err(errno),
        };
        Opened::of(descriptor)
    }

    /// Follows `path` to its end and opens what is there for reading, as [`SourceRoot::resolve`] and
    /// [`SourceRoot::open_file`] do, in one step where the last component is no link.
    ///
    /// # Errors
    /// As both.
    pub fn open_real(&self, path: &Path) -> Result<(PathBuf, Opened), Errno> {
        if let (Some(_), Some(name)) = (path.parent(), path.file_name()) {
            let at = self.parent_of(path).map_err(|error| error.errno)?;
            let directory = self.directory(&at.real)?;
            let how = OpenHow::new()
                .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
            if let Ok(descriptor) = openat2(&*directory, name, how) {
                return Ok((at.real.join(name), Opened::of(descriptor)?));
            }
        }
        // A link, or an error that the longer way names.
        let real = self.resolve(path).map_err(|error| error.errno)?.real;
        let opened = self.open_file(&real)?;
        Ok((real, opened))
    }

    /// Opens a regular file and reads at most `limit` bytes of it.
    ///
    /// # Errors
    /// As openat2(2) and read(2); EINVAL for what is no regular file, EFBIG for more than `limit`.
    pub fn read_file(&self, path: &Path, limit: u64) -> Result<Vec<u8>, RootError> {
        use std::io::Read;
        let fail = |errno| RootError { path: path.to_owned(), errno };
        let Opened::Regular(file, stat) = self.open_file(path).map_err(fail)? else {
            return Err(fail(Errno::EINVAL));
        };
        let mut bytes = Vec::with_capacity(stat.st_size.clamp(0, limit as i64) as usize + 1);
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| fail(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)))?;
        if bytes.len() as u64 > limit { Err(fail(Errno::EFBIG)) } else { Ok(bytes) }
    }

    /// The names in a directory, sorted; empty when it is missing or may not be read.
    pub fn names(&self, path: &Path) -> Vec<OsString> {
        self.list(path).unwrap_or_default()
    }

    /// The names in a directory, sorted.
    ///
    /// # Errors
    /// As openat2(2) and getdents(2).
    pub fn list(&self, path: &Path) -> Result<Vec<OsString>, Errno> {
        use std::os::unix::ffi::OsStrExt;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let mut directory = self.open_inside(path, flags, resolve).and_then(nix::dir::Dir::from_fd)?;
        let mut names = Vec::new();
        for entry in directory.iter() {
            let name = entry?;
            let name = OsStr::from_bytes(name.file_name().to_bytes());
            if name != "." && name != ".." {
                names.push(name.to_owned());
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Whether `path` is a directory that may be entered, links followed inside the tree.
    pub fn is_directory(&self, path: &Path) -> bool {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        self.open_inside(path, flags, resolve).is_ok()
    }

    fn open_inside(&self, path: &Path, flags: OFlag, resolve: ResolveFlag) -> Result<OwnedFd, Errno> {
        self.look_at(path);
        let relative = path.strip_prefix("/").unwrap_or(path);
        let relative = if relative.as_os_str().is_empty() { Path::new(".") } else { relative };
        let how = OpenHow::new().flags(flags).resolve(resolve);
        let mut last = Errno::EAGAIN;
        for _ in 0..RACES {
            match openat2(&self.descriptor, relative, how) {
                Err(errno @ (Errno::EAGAIN | Errno::EINTR)) => last = errno,
                Err(errno @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::EIO)) => {
                    let path = path.to_owned();
                    self.shortage.borrow_mut().get_or_insert(RootError { path, errno });
                    return Err(errno);
                }
                result => return result,
            }
        }
        Err(last)
    }

    /// A descriptor of the directory `real`, a path without links.
    fn directory(&self, real: &Path) -> Result<Rc<OwnedFd>, Errno> {
        if let Some(directory) = self.directories.borrow().get(real) {
            return Ok(directory.clone());
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let directory = Rc::new(self.open_inside(real, flags, resolve)?);
        let mut directories = self.directories.borrow_mut();
        if directories.len() >= MAXIMUM_DIRECTORIES {
            directories.clear();
        }
        directories.insert(real.to_owned(), directory.clone());
        Ok(directory)
    }

    fn walk(&self, path: &Path, last: Last) -> Result<Resolved, RootError> {
        let (Some(_), Some(name)) = (path.parent(), path.file_name()) else {
            return self.continue_walk(Resolved::at_root(), path, path, last);
        };
        let start = self.parent_of(path)?;
        self.continue_walk((*start).clone(), Path::new(name), path, last)
    }

    /// Where the parent of `path` leads. Most of the paths asked for share few parents.
    fn parent_of(&self, path: &Path) -> Result<Rc<Resolved>, RootError> {
        let parent = path.parent().unwrap_or(path);
        let known = self.parents.borrow().get(parent).cloned();
        let start = match known {
            Some(start) => start,
            None => {
                let start =
                    self.continue_walk(Resolved::at_root(), parent, path, Last::Followed).map(Rc::new);
                self.parents.borrow_mut().insert(parent.to_owned(), start.clone());
                start
            }
        };
        start.map_err(|error| RootError { path: path.to_owned(), errno: error.errno })
    }

    fn continue_walk(
        &self,
        mut at: Resolved,
        rest: &Path,
        asked: &Path,
        last: Last,
    ) -> Result<Resolved, RootError> {
        let fail = |errno| RootError { path: asked.to_owned(), errno };
        let mut pending: VecDeque<OsString> = names_of(rest).collect();
        while let Some(name) = pending.pop_front() {
            if name == ".." {
                // The directory that is left must exist in the jail for `..` to lead out of it.
                self.directory(&at.real).map_err(fail)?;
                at.left.push(at.real.clone());
                at.real.pop();
                continue;
            }
            if pending.is_empty() && last == Last::Kept {
                at.real.push(name);
                break;
            }
            let here = at.real.join(&name);
            if !pending.is_empty() && self.directories.borrow().contains_key(&here) {
                // It was opened as a directory and no link before.
                at.real = here;
                continue;
            }
            let directory = self.directory(&at.real).map_err(fail)?;
            match readlinkat(&*directory, name.as_os_str()) {
                Ok(target) => {
                    if at.links.len() >= MAXIMUM_LINKS {
                        return Err(fail(Errno::ELOOP));
                    }
                    let target = PathBuf::from(target);
                    at.links.push((here, target.clone()));
                    for name in names_of(&target).collect::<Vec<_>>().into_iter().rev() {
                        pending.push_front(name);
                    }
                    if target.is_absolute() {
                        at.real = PathBuf::from("/");
                    }
                }
                Err(Errno::EINVAL) => at.real.push(name),
                Err(errno) => return Err(fail(errno)),
            }
        }
        Ok(at)
    }
}

/// A path that came from the source tree as one of the jail: real paths hold no `..`.
pub fn jail_path(real: &Path) -> JailPath {
    JailPath::new(real).expect("BUG: a resolved path is absolute and holds no `..`")
}

impl Resolved {
    fn at_root() -> Resolved {
        Resolved { real: PathBuf::from("/"), ..Resolved::default() }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Followed,
    Kept,
}

fn names_of(path: &Path) -> impl Iterator<Item = OsString> + '_ {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree(name: &str) -> (PathBuf, SourceRoot) {
        let path = std::env::temp_dir().join(format!("jailmk-root-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(path.join("usr/lib")).unwrap();
        let root = SourceRoot::open(HostPath::absolute(&path).unwrap()).unwrap();
        (path, root)
    }

    #[test]
    fn an_absolute_link_stays_inside_the_root() {
        let (path, root) = tree("inside");
        symlink("/usr/lib", path.join("lib")).unwrap();
        symlink("/../../../../lib/real", path.join("usr/lib/name")).unwrap();
        std::fs::write(path.join("usr/lib/real"), "inside").unwrap();
        let found = root.resolve(Path::new("/lib/name")).unwrap();
        assert_eq!(found.real, Path::new("/usr/lib/real"));
        assert_eq!(found.links.len(), 3, "{:?}", found.links);
        assert_eq!(root.read_file(Path::new("/lib/name"), 64).unwrap(), b"inside");
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_directory_left_by_dot_dot_is_remembered() {
        let (path, root) = tree("left");
        std::fs::create_dir_all(path.join("opt/bin")).unwrap();
        std::fs::write(path.join("opt/file"), "").unwrap();
        let found = root.resolve(Path::new("/opt/bin/../file")).unwrap();
        assert_eq!((found.real, found.left), (PathBuf::from("/opt/file"), vec![PathBuf::from("/opt/bin")]));
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_link_to_itself_is_an_error_and_no_endless_loop() {
        let (path, root) = tree("loop");
        symlink("loop", path.join("loop")).unwrap();
        assert_eq!(root.resolve(Path::new("/loop")).unwrap_err().errno, Errno::ELOOP);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_fifo_is_named_and_not_waited_for() {
        let (path, root) = tree("fifo");
        nix::unistd::mkfifo(&path.join("pipe"), Mode::S_IRWXU).unwrap();
        let opened = root.open_file(Path::new("/pipe")).unwrap();
        assert!(matches!(opened, Opened::Other(FileKind::Fifo)), "{opened:?}");
        std::fs::remove_dir_all(path).unwrap();
    }
}
