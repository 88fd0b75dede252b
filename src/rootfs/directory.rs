//! Directories by descriptor: nothing below a tree's top is ever reached through a link.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::path::JailPath;

/// No file of jailmk's own is larger.
const FILE_LIMIT: u64 = 256 << 20;

/// Opens the directory `name` in `parent` as a place (O_PATH); a link is refused (ENOTDIR).
pub(crate) fn open<N: nix::NixPath + ?Sized>(parent: BorrowedFd<'_>, name: &N) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// The same for reading its names, locking it or changing its mode.
pub(crate) fn open_to_read<N: nix::NixPath + ?Sized>(
    parent: BorrowedFd<'_>,
    name: &N,
) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// The names in `directory`, unsorted.
pub(crate) fn names(directory: BorrowedFd<'_>) -> Result<Vec<CString>, Errno> {
    some_names(directory, usize::MAX)
}

/// The same, and no more than `most` of them.
pub(crate) fn some_names(directory: BorrowedFd<'_>, most: usize) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::from_fd(open_to_read(directory, ".")?)?.iter() {
        if names.len() == most {
            break;
        }
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes `name` and all below it; what somebody else removes meanwhile is no error.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    remove_tree_with(parent, name, &mut |parent, name| unlinkat(parent, name, UnlinkatFlags::NoRemoveDir))
}

/// The same with a removal of one's own for what is no directory.
pub(super) fn remove_tree_with(
    parent: BorrowedFd<'_>,
    name: &CStr,
    unlink: &mut dyn FnMut(BorrowedFd<'_>, &CStr) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let absent = |result| match result {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    };
    match open_to_read(parent, name) {
        Ok(directory) => {
            // What may not be written cannot be emptied.
            let _ = fchmod(&directory, Mode::S_IRWXU);
            for child in names(directory.as_fd())? {
                match unlink(directory.as_fd(), &child) {
                    Err(Errno::EISDIR | Errno::EPERM) => {
                        remove_tree_with(directory.as_fd(), &child, unlink)?;
                    }
                    other => absent(other)?,
                }
            }
            absent(unlinkat(parent, name, UnlinkatFlags::RemoveDir))
        }
        Err(Errno::ENOENT) => Ok(()),
        Err(Errno::ENOTDIR | Errno::ELOOP) => absent(unlink(parent, name)),
        Err(errno) => Err(errno),
    }
}

/// Reads a whole file of jailmk's own.
pub(crate) fn read_file<N: nix::NixPath + ?Sized>(
    directory: BorrowedFd<'_>,
    name: &N,
) -> Result<Vec<u8>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(directory, name, flags, Mode::empty())?);
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    if size > FILE_LIMIT {
        return Err(Errno::EFBIG);
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
    file.take(FILE_LIMIT).read_to_end(&mut bytes).map_err(errno)?;
    Ok(bytes)
}

/// Writes a file so that a reader sees the old or the new content, whole; EFBIG for what could not be read again.
pub(crate) fn replace_file(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    mode: Mode,
    bytes: &[u8],
) -> Result<(), Errno> {
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(Errno::EFBIG);
    }
    let mut fresh = OsString::from(".");
    fresh.push(name);
    fresh.push(format!(".{}", super::staging::unique()));
    let result = write_file(directory, &fresh, mode, bytes)
        .and_then(|()| renameat(directory, fresh.as_os_str(), directory, name));
    if result.is_err() {
        let _ = unlinkat(directory, fresh.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }
    result
}

/// Writes a file that is not there yet.
pub(crate) fn write_file(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    mode: Mode,
    bytes: &[u8],
) -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut file = File::from(openat(directory, name, flags, mode)?);
    file.write_all(bytes).map_err(errno)
}

/// The error number of an I/O error; EIO for those that the standard library made up itself.
pub(crate) fn errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A walk along sorted paths that holds the directories on the way open, so that each is opened once.
pub(super) struct Descent<'a> {
    root: BorrowedFd<'a>,
    open: Vec<(OsString, OwnedFd)>,
}

impl<'a> Descent<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Descent<'a> {
        Descent { root, open: Vec::new() }
    }

    /// The directory that holds `path`; `/` is held by itself.
    pub(super) fn parent_of(&mut self, path: &JailPath) -> Result<BorrowedFd<'_>, Errno> {
        let mut depth = 0;
        let mut names = path.names().peekable();
        while let Some(name) = names.next() {
            if names.peek().is_none() {
                break;
            }
            if self.open.get(depth).is_none_or(|(open, _)| open != name) {
                self.open.truncate(depth);
                let fd = open(self.top(), name)?;
                self.open.push((name.to_owned(), fd));
            }
            depth += 1;
        }
        self.open.truncate(depth);
        Ok(self.top())
    }

    fn top(&self) -> BorrowedFd<'_> {
        self.open.last().map_or(self.root, |(_, fd)| fd.as_fd())
    }
}

/// The last name of a path, as system calls take it relative to [`Descent::parent_of`].
pub(super) fn last_name(path: &JailPath) -> &OsStr {
    path.as_path().file_name().unwrap_or(OsStr::from_bytes(b"."))
}
