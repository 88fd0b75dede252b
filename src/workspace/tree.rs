//! A tree that others can write, read by descriptor: nothing in it leads outside.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat};

use super::extent;
use super::path::WorkPath;
use crate::rootfs::directory;
use crate::sys::xattr;

/// How often a look-up that raced with a rename is tried again: openat2(2), EAGAIN.
const ATTEMPTS: usize = 64;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A device, or something this kernel has no name for.
    Device,
}

impl Node {
    /// From the file's status.
    pub fn of(stat: &FileStat) -> Node {
        match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Node::File,
            SFlag::S_IFDIR => Node::Directory,
            SFlag::S_IFLNK => Node::Symlink,
            SFlag::S_IFIFO => Node::Fifo,
            SFlag::S_IFSOCK => Node::Socket,
            _ => Node::Device,
        }
    }

    /// For people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Node::File => "file",
            Node::Directory => "directory",
            Node::Symlink => "symlink",
            Node::Fifo => "fifo",
            Node::Socket => "socket",
            Node::Device => "device",
        }
    }
}

/// Whether a directory or file that its owner may not read is made readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// It is: the tree is jailmk's own and nobody uses it.
    Opened,
    /// It is left as it is, and the error told.
    Refused,
}

/// How finely a file system keeps times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// Whole seconds.
    Seconds,
    /// As the clock that stamps files.
    Ticks,
}

/// A tree by its top.
#[derive(Debug)]
pub struct Tree {
    top: OwnedFd,
    unreadable: Unreadable,
}

impl Tree {
    /// Takes the open top directory.
    pub fn new(top: OwnedFd, unreadable: Unreadable) -> Tree {
        Tree { top, unreadable }
    }

    /// Its top.
    pub fn top(&self) -> BorrowedFd<'_> {
        self.top.as_fd()
    }

    /// Its top, and no tree any more.
    pub fn into_top(self) -> OwnedFd {
        self.top
    }

    /// How finely the times of its files are kept; where its top does not tell, the less. A single file could not:
    /// where the clock began with a whole second and was never corrected, one tick in some hundred ends one.
    pub fn grain(&self) -> Grain {
        let Ok(top) = fstat(&self.top) else { return Grain::Seconds };
        match [top.st_atime_nsec, top.st_mtime_nsec, top.st_ctime_nsec] {
            [0, 0, 0] => Grain::Seconds,
            _ => Grain::Ticks,
        }
    }

    /// Opens a directory for reading its names.
    ///
    /// # Errors
    /// As openat2(2): ELOOP for a symlink on the way, EXDEV for a mount, ENOTDIR, ENOENT.
    pub fn open_directory(&self, path: &WorkPath) -> Result<OwnedFd, Errno> {
        match self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Err(Errno::EACCES) if self.unreadable == Unreadable::Opened => {
                self.make_passable(path)?;
                self.open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
            }
            other => other,
        }
    }

    fn open(&self, path: &WorkPath, flags: OFlag) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new().flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC).resolve(
            ResolveFlag::RESOLVE_BENEATH
                | ResolveFlag::RESOLVE_NO_SYMLINKS
                | ResolveFlag::RESOLVE_NO_MAGICLINKS
                | ResolveFlag::RESOLVE_NO_XDEV,
        );
        for _ in 0..ATTEMPTS {
            match openat2(&self.top, path.relative(), how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                other => return other,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Gives the owner all rights on each directory on the way, as far as they lack.
    fn make_passable(&self, path: &WorkPath) -> Result<(), Errno> {
        for directory in path.parents().chain([path.clone()]) {
            let place = self.open(&directory, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            let mode = Mode::from_bits_truncate(fstat(&place)?.st_mode);
            if !mode.contains(Mode::S_IRWXU) {
                change_mode(place.as_fd(), mode | Mode::S_IRWXU)?;
            }
        }
        Ok(())
    }

    /// The status of a path, itself and not what it links to; `None` when it is not there, or when a
    /// directory on the way is none.
    ///
    /// # Errors
    /// As fstatat(2).
    pub fn status(&self, path: &WorkPath) -> Result<Option<FileStat>, Errno> {
        let Some(parent) = path.parent() else { return fstat(&self.top).map(Some) };
        match self.open_directory(&parent) {
            Ok(parent) => status_in(parent.as_fd(), path.name()),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// As openat(2); EINVAL for what is none.
    pub fn open_file(&self, directory: BorrowedFd<'_>, name: &OsStr) -> Result<File, Errno> {
        // Looked at before it is opened: opening a device could do something.
        if status_in(directory, name)?.is_none_or(|stat| Node::of(&stat) != Node::File) {
            return Err(Errno::EINVAL);
        }
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let file = match openat(directory, name, flags, Mode::empty()) {
            Err(Errno::EACCES) if self.unreadable == Unreadable::Opened => {
                let place = openat(
                    directory,
                    name,
                    OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
                    Mode::empty(),
                )?;
                let mode = Mode::from_bits_truncate(fstat(&place)?.st_mode);
                change_mode(place.as_fd(), mode | Mode::S_IRUSR)?;
                let opened = openat(directory, name, flags, Mode::empty());
                change_mode(place.as_fd(), mode)?;
                opened?
            }
            other => other?,
        };
        match Node::of(&fstat(&file)?) {
            Node::File => Ok(File::from(file)),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The same by its path.
    ///
    /// # Errors
    /// As [`Tree::open_directory`] and [`Tree::open_file`].
    pub fn open_file_at(&self, path: &WorkPath) -> Result<File, Errno> {
        self.open_file(self.open_parent(path)?.as_fd(), path.name())
    }

    /// Where the link at a path points to.
    ///
    /// # Errors
    /// As [`Tree::open_directory`] and readlinkat(2).
    pub fn link_target(&self, path: &WorkPath) -> Result<OsString, Errno> {
        target(self.open_parent(path)?.as_fd(), path.name())
    }

    fn open_parent(&self, path: &WorkPath) -> Result<OwnedFd, Errno> {
        self.open_directory(&path.parent().ok_or(Errno::EISDIR)?)
    }
}

/// chmod(2) of a place that is open as O_PATH, and is no symlink.
fn change_mode(place: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    let link = format!("/proc/self/fd/{}", place.as_raw_fd());
    fchmodat(place, link.as_str(), mode, FchmodatFlags::FollowSymlink)
}

/// The status of a name in a directory, itself and not what it links to.
///
/// # Errors
/// As fstatat(2), but not ENOENT.
pub fn status_in(directory: BorrowedFd<'_>, name: &OsStr) -> Result<Option<FileStat>, Errno> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The names in a directory, in order.
///
/// # Errors
/// As getdents64(2); E2BIG when there are more than can be reviewed.
pub fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    let mut names = directory::some_names(directory, extent::PATHS + 1)?;
    if names.len() > extent::PATHS {
        return Err(Errno::E2BIG);
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// A name as the standard library takes it.
pub fn os(name: &CStr) -> &OsStr {
    OsStr::from_bytes(name.to_bytes())
}

/// Where a link points to.
///
/// # Errors
/// As readlinkat(2).
pub fn target(directory: BorrowedFd<'_>, name: &OsStr) -> Result<OsString, Errno> {
    readlinkat(directory, name)
}

/// Whether a directory of the upper layer hides what lies below it.
///
/// # Errors
/// As fgetxattr(2).
pub fn is_opaque(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut value = [0; 8];
    match xattr::get(directory, OPAQUE, &mut value) {
        // "x" says that names below may be whiteouts by attribute.
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(false),
        Err(Errno::ERANGE) => Ok(true),
        Err(errno) => Err(errno),
    }
}

/// The attribute that makes a directory opaque.
pub const OPAQUE: &CStr = c"user.overlay.opaque";

/// Attributes that overlayfs, as jailmk mounts it, never sets: with one of them an entry of the upper layer
/// may mean something else than it looks like.
const FOREIGN: [&CStr; 3] = [c"user.overlay.redirect", c"user.overlay.metacopy", c"user.overlay.whiteout"];

/// Whether an open file or directory of the upper layer has an attribute that it cannot have.
pub fn is_foreign(file: BorrowedFd<'_>) -> bool {
    FOREIGN.iter().any(|name| matches!(xattr::get(file, name, &mut []), Ok(_) | Err(Errno::ERANGE)))
}

/// Whether an entry of the upper layer says that the name is gone.
pub fn is_whiteout(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR && stat.st_rdev == 0
}
