//! Where jailmk keeps its trees.

use std::fs::DirBuilder;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

use super::{RootfsError, directory, failed};
use crate::manifest::lock::Hex;
use crate::path::HostPath;
use crate::spec::{SourceOrigin, Spec};

/// The state directory: it belongs to the caller, and nobody else can write in it.
#[derive(Debug)]
pub struct State {
    path: HostPath,
    fd: OwnedFd,
}

impl State {
    /// Opens, and makes if needed, the first of: `$JAILMK_STATE`; for root `/var/lib/jailmk`;
    /// `$XDG_DATA_HOME/jailmk`; `~/.local/share/jailmk`.
    ///
    /// # Errors
    /// None is named, or others than the caller can write in it.
    pub fn open() -> Result<State, RootfsError> {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(value) = variable("JAILMK_STATE") {
            let shown = crate::path::printable(&value).to_string();
            let path = HostPath::absolute(value).ok_or(RootfsError::StateRelative(shown))?;
            return State::at(path);
        }
        if geteuid().is_root() {
            return State::at(HostPath::root().join("var/lib/jailmk"));
        }
        // The XDG base directory specification has relative paths ignored.
        if let Some(data) = variable("XDG_DATA_HOME").and_then(HostPath::absolute) {
            return State::at(data.join("jailmk"));
        }
        let home = variable("HOME").and_then(HostPath::absolute).ok_or(RootfsError::StateUnknown)?;
        State::at(home.join(".local/share/jailmk"))
    }

    /// The same for a given directory.
    ///
    /// # Errors
    /// It cannot be made, or others than the caller can write in it.
    pub fn at(path: HostPath) -> Result<State, RootfsError> {
        DirBuilder::new().recursive(true).mode(0o700).create(path.as_path()).map_err(|source| {
            RootfsError::Io { verb: "make the state directory", path: path.clone(), source }
        })?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(path.as_path(), flags, Mode::empty()).map_err(failed("open", &path))?;
        refuse_unsafe(&fstat(&fd).map_err(failed("inspect", &path))?, &path)?;
        Ok(State { path, fd })
    }

    /// Where it is.
    pub fn path(&self) -> &HostPath {
        &self.path
    }

    /// The directory of all builds of `spec`, opened for reading; `None` if there is none.
    pub(super) fn open_spec(&self, spec: &Spec) -> Result<Option<(OwnedFd, HostPath)>, RootfsError> {
        let name = spec_directory(spec);
        let path = self.path.join("rootfs").join(&name);
        let opened = directory::open(self.fd.as_fd(), "rootfs")
            .and_then(|rootfs| directory::open_to_read(rootfs.as_fd(), name.as_str()));
        match opened {
            Ok(fd) => {
                refuse_unsafe(&fstat(&fd).map_err(failed("inspect", &path))?, &path)?;
                Ok(Some((fd, path)))
            }
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(failed("open", &path)(errno)),
        }
    }

    /// The same, made if there is none.
    pub(super) fn make_spec(&self, spec: &Spec) -> Result<(OwnedFd, HostPath), RootfsError> {
        let name = spec_directory(spec);
        let path = self.path.join("rootfs").join(&name);
        let make = |parent: BorrowedFd<'_>, name: &str| match mkdirat(parent, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => directory::open_to_read(parent, name),
            Err(errno) => Err(errno),
        };
        let fd = make(self.fd.as_fd(), "rootfs")
            .and_then(|rootfs| make(rootfs.as_fd(), &name))
            .map_err(failed("make", &path))?;
        refuse_unsafe(&fstat(&fd).map_err(failed("inspect", &path))?, &path)?;
        Ok((fd, path))
    }
}

fn refuse_unsafe(stat: &FileStat, directory: &HostPath) -> Result<(), RootfsError> {
    let fault = if stat.st_uid != geteuid().as_raw() {
        "it belongs to another user"
    } else if stat.st_mode & 0o022 != 0 {
        "others may write in it"
    } else {
        return Ok(());
    };
    Err(RootfsError::StateUnsafe { directory: directory.clone(), fault })
}

/// A name for people, and a digest of where the spec came from: two specs of one name do not meet.
fn spec_directory(spec: &Spec) -> String {
    let mut digest = Sha256::new();
    match spec.sources.last().map(|source| &source.origin) {
        Some(SourceOrigin::File(path)) => {
            digest.update(b"file\0");
            digest.update(path.as_os_str().as_bytes());
        }
        Some(SourceOrigin::BuiltIn(name)) => {
            digest.update(b"built-in\0");
            digest.update(name.as_bytes());
        }
        None => {
            digest.update(b"name\0");
            digest.update(spec.name.as_bytes());
        }
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = spec.name.chars().take(64).map(plain).collect();
    let name = name.trim_start_matches('.');
    let identity: [u8; 32] = digest.finalize().into();
    format!("{name}-{}", Hex(&identity[..4]))
}
