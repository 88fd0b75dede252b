//! Host directories and files that the jail sees: the built tree, the workspace, `[[mount]]`s.

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

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
    pub fn real_path(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(self.real.to_bytes()))
    }

    /// Whether it is this directory or lies on the way to it, by whatever path. What cannot be looked at is another.
    pub fn is_on_the_way_to(&self, directory: &Path) -> bool {
        directory.ancestors().any(|above| Source::identity(above) == Some((self.device, self.inode)))
    }

    /// Whether this directory lies on the way to it, or is it.
    pub fn lies_below(&self, directory: &Path) -> bool {
        let Some(wanted) = Source::identity(directory) else { return false };
        self.real_path().ancestors().any(|above| Source::identity(above) == Some(wanted))
    }

    fn identity(path: &Path) -> Option<(u64, u64)> {
        nix::sys::stat::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino))
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

/// Whose the files of a tree are, as the jail sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owners {
    /// As on the host.
    AsOnHost,
    /// Those of the source's owner are the jail's own: what only that owner may read, the jail reads.
    Mapped,
    /// The same where the file system can; elsewhere the jail does with what others may read.
    MappedIfPossible,
}

/// A source with its flags, which becomes a mount.
#[derive(Debug)]
pub struct Tree {
    /// What is mounted.
    pub source: Source,
    /// How.
    pub flags: Attributes,
    /// As whom.
    pub owners: Owners,
    /// The detached tree when the parent, being root, has made it already.
    pub prepared: Option<OwnedFd>,
}

impl Tree {
    /// A tree as it is on the host.
    pub fn new(source: Source, flags: Attributes) -> Tree {
        Tree { source, flags, owners: Owners::AsOnHost, prepared: None }
    }

    /// Shows the owner's files as those of `own`, a jail's host uid and gid.
    pub fn map_to(&mut self, own: (u32, u32), owners: Owners) {
        if self.source.owner != own {
            self.owners = owners;
        }
    }

    /// Whether the jail reads what only the host's root, or its group, may.
    pub fn is_read_as_root(&self) -> bool {
        self.owners != Owners::AsOnHost && (self.source.owner.0 == 0 || self.source.owner.1 == 0)
    }

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
        let Tree { source, flags, .. } = &self.tree;
        write!(f, "mount {source} on {} ({})", self.place, Words(*flags))?;
        if self.tree.owners == Owners::AsOnHost { Ok(()) } else { write!(f, ", {}", As(&self.tree)) }
    }
}

/// As whom a tree is seen.
pub struct As<'a>(pub &'a Tree);

impl fmt::Display for As<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (uid, gid) = self.0.source.owner;
        match (self.0.owners, uid) {
            (Owners::AsOnHost, _) => return f.write_str("as on the host"),
            (_, 0) => f.write_str("as its owner root")?,
            (_, uid) => write!(f, "as its owner uid {uid}")?,
        }
        if gid == uid { Ok(()) } else { write!(f, " and gid {gid}") }
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
