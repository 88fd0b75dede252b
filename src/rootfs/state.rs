//! Where jailmk keeps its trees.

use std::ffi::OsString;
use std::fmt;
use std::fs::DirBuilder;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::DirBuilderExt;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, open};
use nix::sys::stat::{FileStat, Mode, fstat, mkdirat};
use nix::unistd::geteuid;
use sha2::{Digest, Sha256};

use super::build::OWN;
use super::{RootfsError, directory, failed};
use crate::manifest::lock::{Blank, Hex, escape, unescape};
use crate::path::HostPath;
use crate::spec::refusal::Unfit;
use crate::spec::{SourceOrigin, Spec, fault_of_holder};

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
            RootfsError::StateUnusable { verb: "make the state directory", path: path.clone(), source }
        })?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(path.as_path(), flags, Mode::empty()).map_err(failed("open", &path))?;
        refuse_unsafe(&fstat(&fd).map_err(failed("inspect", &path))?, &path)?;
        let holder = fault_of_holder(path.as_path()).map_err(|source| RootfsError::Io {
            verb: "inspect what holds",
            path: path.clone(),
            source,
        })?;
        let fault = match holder {
            None => return Ok(State { path, fd }),
            Some(Unfit::WritableDirectory) => "others may write in the directory that holds it",
            Some(_) => "the directory that holds it belongs to another user",
        };
        Err(RootfsError::StateUnsafe { directory: path, fault })
    }

    /// Where it is.
    pub fn path(&self) -> &HostPath {
        &self.path
    }

    /// Its descriptor.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
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

    /// The same, made if there is none; it remembers where the spec is, and stays while this is held.
    pub(super) fn make_spec(&self, spec: &Spec) -> Result<SpecDirectory, RootfsError> {
        let name = spec_directory(spec);
        let rootfs_path = self.path.join("rootfs");
        let path = rootfs_path.join(&name);
        let make = |parent: BorrowedFd<'_>, name: &str| match mkdirat(parent, name, Mode::S_IRWXU) {
            Ok(()) | Err(Errno::EEXIST) => directory::open_to_read(parent, name),
            Err(errno) => Err(errno),
        };
        let unusable = |verb, path: &HostPath| {
            let path = path.clone();
            move |errno: Errno| RootfsError::StateUnusable { verb, path, source: errno.into() }
        };
        let rootfs = make(self.fd.as_fd(), "rootfs").map_err(unusable("make", &rootfs_path))?;
        let stays = Flock::lock(rootfs, FlockArg::LockShared)
            .map_err(|(_, errno)| failed("lock", &rootfs_path)(errno))?;
        let fd = make(stays.as_fd(), &name).map_err(unusable("make", &path))?;
        refuse_unsafe(&fstat(&fd).map_err(failed("inspect", &path))?, &path)?;
        let origin = Remembered::of(spec).text();
        if directory::read_file(fd.as_fd(), SPEC).ok().as_deref() != Some(origin.as_bytes()) {
            directory::replace_file(fd.as_fd(), SPEC.as_ref(), OWN, origin.as_bytes())
                .map_err(unusable("write", &path.join(SPEC)))?;
        }
        Ok(SpecDirectory { fd, path, _stays: stays })
    }
}

/// The file in a spec's directory that says where the spec is.
pub(super) const SPEC: &str = "spec";

/// The directory of all builds of one spec.
pub(super) struct SpecDirectory {
    pub(super) fd: OwnedFd,
    pub(super) path: HostPath,
    /// Who takes a spec's directory away holds `rootfs` alone.
    _stays: Flock<OwnedFd>,
}

/// Where a tree's spec was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remembered {
    /// A file.
    File(HostPath),
    /// It is part of jailmk, or was made in memory.
    BuiltIn(String),
}

impl Remembered {
    fn of(spec: &Spec) -> Remembered {
        match spec.sources.last().map(|source| &source.origin) {
            Some(SourceOrigin::File(path)) => match HostPath::absolute(path.clone()) {
                Some(path) => Remembered::File(path),
                None => Remembered::BuiltIn(spec.name.clone()),
            },
            Some(SourceOrigin::BuiltIn(name)) => Remembered::BuiltIn((*name).to_owned()),
            None => Remembered::BuiltIn(spec.name.clone()),
        }
    }

    fn text(&self) -> String {
        let (kind, name) = match self {
            Remembered::File(path) => ("file", path.as_path().as_os_str().as_bytes()),
            Remembered::BuiltIn(name) => ("built-in", name.as_bytes()),
        };
        let mut text = format!("{kind} ");
        escape(&mut text, name, Blank::Escaped).expect("BUG: a string can be written to");
        text.push('\n');
        text
    }

    /// `None` if the text is none of [`Remembered::text`].
    pub(super) fn parse(text: &[u8]) -> Option<Remembered> {
        let (kind, name) = std::str::from_utf8(text).ok()?.strip_suffix('\n')?.split_once(' ')?;
        let name = OsString::from_vec(unescape(name, Blank::Escaped).ok()?);
        match kind {
            "file" => HostPath::absolute(name).map(Remembered::File),
            "built-in" => name.into_string().ok().map(Remembered::BuiltIn),
            _ => None,
        }
    }
}

impl fmt::Display for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remembered::File(path) => path.fmt(f),
            Remembered::BuiltIn(name) => write!(f, "{name} (built in)"),
        }
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
pub(crate) fn spec_directory(spec: &Spec) -> String {
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
