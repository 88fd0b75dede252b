//! Host directories and files that the jail sees: the built tree, the workspace, `[[mount]]`s.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, readlink};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use crate::layer::place::{Kind, Place};
use crate::path::HostPath;
use crate::sys::mount::{self, Attributes, Submounts};

/// A host file or directory, identified by what it is and not only by its name.
#[derive(Debug)]
pub struct Source {
    path: HostPath,
    real: CString,
    device: u64,
    inode: u64,
    /// Owner and group on the host.
    pub owner: (u32, u32),
    /// Directory or file.
    pub kind: Kind,
}

impl Source {
    /// Opens `path`, following symlinks (the caller named it), and remembers the file behind it under
    /// the path without symlinks.
    ///
    /// # Errors
    /// As open(2); EINVAL for what is neither directory nor regular file nor socket.
    pub fn open(path: &HostPath) -> Result<Source, Errno> {
        let fd = open(path.as_path(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        let stat = fstat(&fd)?;
        let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => Kind::Directory,
            SFlag::S_IFREG | SFlag::S_IFSOCK => Kind::File,
            _ => return Err(Errno::EINVAL),
        };
        let real = readlink(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&fd)).as_str())?;
        let real = CString::new(real.as_bytes()).map_err(|_| Errno::EINVAL)?;
        Ok(Source {
            path: path.clone(),
            real,
            device: stat.st_dev,
            inode: stat.st_ino,
            owner: (stat.st_uid, stat.st_gid),
            kind,
        })
    }

    /// A directory that does not exist yet: for a plan that is only printed.
    pub fn described(path: &HostPath) -> Source {
        let real = CString::new(path.as_path().as_os_str().as_bytes()).unwrap_or_default();
        Source { path: path.clone(), real, device: 0, inode: 0, owner: (0, 0), kind: Kind::Directory }
    }

    /// The path without symlinks.
    pub fn real_path(&self) -> &std::path::Path {
        std::path::Path::new(std::ffi::OsStr::from_bytes(self.real.to_bytes()))
    }

    /// Clones the mount tree at the source, and makes sure that it is still the file that was opened:
    /// a symlink put in its way since then is ESTALE, not another directory.
    ///
    /// # Errors
    /// As open_tree(2); ESTALE.
    pub fn clone_tree(&self) -> Result<OwnedFd, Errno> {
        self.clone_with(Submounts::Included)
    }

    /// The same, with or without what is mounted below.
    ///
    /// # Errors
    /// As [`Source::clone_tree`].
    pub fn clone_with(&self, submounts: Submounts) -> Result<OwnedFd, Errno> {
        let tree = mount::clone_tree(None, &self.real, submounts)?;
        let stat: FileStat = fstat(&tree)?;
        if stat.st_dev == self.device && stat.st_ino == self.inode { Ok(tree) } else { Err(Errno::ESTALE) }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.fmt(f)
    }
}

/// A source with its flags, which becomes a mount.
#[derive(Debug)]
pub struct Tree {
    /// What is mounted.
    pub source: Source,
    /// How.
    pub flags: Attributes,
    /// The detached tree when the parent, being root, has made it already.
    pub prepared: Option<OwnedFd>,
}

impl Tree {
    /// The detached tree with its flags set.
    ///
    /// # Errors
    /// As open_tree(2) and mount_setattr(2).
    pub fn detach(&self) -> Result<OwnedFd, Errno> {
        let tree = match &self.prepared {
            Some(tree) => tree.try_clone().map_err(|_| Errno::EMFILE)?,
            None => self.source.clone_tree()?,
        };
        // ORDER: flags before the tree is attached anywhere, so that it is never seen without them.
        mount::restrict(tree.as_fd(), self.flags)?;
        Ok(tree)
    }
}

/// One mount of a host file or directory.
#[derive(Debug)]
pub struct Armed {
    /// What and how.
    pub tree: Tree,
    /// Where.
    pub place: Place,
}

impl Armed {
    /// Mounts it below `root`.
    ///
    /// # Errors
    /// As open_tree(2), mount_setattr(2), move_mount(2) and [`Place::open`].
    pub fn apply(&self, root: BorrowedFd<'_>) -> Result<(), Errno> {
        let tree = self.tree.detach()?;
        let place = self.place.open(root)?;
        mount::attach(tree.as_fd(), place.as_fd())
    }
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mount {} on {} ({})", self.tree.source, self.place, Words(self.tree.flags))
    }
}

/// Mount flags in the words of mount(8).
pub struct Words(pub Attributes);

impl fmt::Display for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.read_only { "ro,nosuid" } else { "rw,nosuid" })?;
        if self.0.nodev {
            f.write_str(",nodev")?;
        }
        if self.0.noexec {
            f.write_str(",noexec")?;
        }
        Ok(())
    }
}
