//! What a jail has of the name of a command that could not be executed: for the hint alone.

use std::ffi::OsStr;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag};

use crate::caller::Caller;
use crate::layer::environment::DEFAULT_PATH;
use crate::path::{HostPath, JailPath, printable};
use crate::rootfs::directory;
use crate::spec::Spec;

/// Directories that are listed in one search: mounts hold whatever they hold.
const MOST_DIRECTORIES: usize = 4096;
/// Bytes of a `#!` line, as the kernel reads it.
const HEAD: u64 = 256;

/// An entry of the jail that has the command's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// In the jail.
    path: JailPath,
    /// Whether the kernel tried this very file, so that something that it names is missing.
    tried: bool,
    kind: Kind,
}

/// What it is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// What it names has to be there too.
    Elf,
    /// With its interpreter, for people.
    Script(String),
    /// With its target, for people.
    Link(String),
    Other,
}

impl Lead {
    /// Looks for `command` in the jail's PATH, then for its base name in the tree and in the mounts.
    pub fn find(command: &str, spec: &Spec, tree: &HostPath, caller: &Caller) -> Option<Lead> {
        let name = Path::new(command).file_name()?;
        let mut places = vec![(tree.clone(), JailPath::root())];
        for mount in &spec.mounts {
            places.extend(caller.locate(&mount.from.value).ok().map(|from| (from, mount.to.clone())));
        }
        let tried = |path: &JailPath| match command.contains('/') {
            true => path.as_path() == Path::new(command),
            false => {
                let directories = spec.process.env.get("PATH").map_or(DEFAULT_PATH, String::as_str);
                path.parent().is_some_and(|parent| {
                    directories.split(':').any(|directory| Path::new(directory) == parent.as_path())
                })
            }
        };
        let mut found: Vec<Lead> = Vec::new();
        let mut left = MOST_DIRECTORIES;
        for (from, to) in &places {
            search(from, to, name, &mut left, &mut |path, kind| {
                found.push(Lead { tried: tried(&path), path, kind });
            });
        }
        found.sort_by_key(|lead| (!lead.tried, lead.path.names().count()));
        found.into_iter().next()
    }

    /// Cures.
    pub(super) fn hints(&self) -> Vec<String> {
        let Lead { path, tried, kind } = self;
        match (tried, kind) {
            (false, _) => vec![format!(
                "it is at {path}, where the jail's PATH does not look: name that path, or link it by `symlinks` \
                 under [rootfs]"
            )],
            (true, Kind::Elf) => vec![format!(
                "{path} is there, its loader is not: a program that a mount brings needs its loader and libraries: \
                 include \"prebuilt\""
            )],
            (true, Kind::Script(interpreter)) => vec![format!(
                "{path} is there, its interpreter is not: add \"{interpreter}\" to `programs` under [rootfs]"
            )],
            (true, Kind::Link(target)) => vec![format!(
                "{path} is a link to {target}, which is not there, or whose interpreter or loader is not; for a \
                 program that a mount brings: include \"prebuilt\""
            )],
            (true, Kind::Other) => vec![format!("{path} is there, and cannot be executed")],
        }
    }
}

/// Every entry called `name` below the host's `from`, which the jail has at `to`. Links are not followed.
fn search(
    from: &HostPath,
    to: &JailPath,
    name: &OsStr,
    left: &mut usize,
    tell: &mut dyn FnMut(JailPath, Kind),
) {
    let Ok(top) = directory::open_to_read(nix::fcntl::AT_FDCWD, from.as_path()) else { return };
    let mut todo = std::collections::VecDeque::from([(top, to.clone())]);
    while let Some((fd, here)) = todo.pop_front() {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let Ok(names) = directory::names(fd.as_fd()) else { continue };
        for entry in names {
            let entry = OsStr::from_bytes(entry.to_bytes());
            let Ok(Some(stat)) = crate::workspace::tree::status_in(fd.as_fd(), entry) else { continue };
            let kind = SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits());
            // A breadth first search holds a descriptor for each directory that it has yet to list.
            if kind == SFlag::S_IFDIR && todo.len() < 512 {
                if let Ok(below) = directory::open_to_read(fd.as_fd(), entry) {
                    todo.push_back((below, here.child(entry)));
                }
            } else if entry == name
                && let Some(kind) = kind_of(fd.as_fd(), entry, &stat, kind)
            {
                tell(here.child(entry), kind);
            }
        }
    }
}

fn kind_of(parent: std::os::fd::BorrowedFd<'_>, name: &OsStr, stat: &FileStat, kind: SFlag) -> Option<Kind> {
    if kind == SFlag::S_IFLNK {
        let target = readlinkat(parent, name).ok()?;
        return Some(Kind::Link(printable(&target).to_string()));
    }
    if kind != SFlag::S_IFREG || stat.st_mode & 0o111 == 0 {
        return None;
    }
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let mut head = Vec::new();
    if let Ok(fd) = openat(parent, name, flags, Mode::empty()) {
        // What cannot be read is told as what it is not known to be.
        let _ = std::fs::File::from(fd).take(HEAD).read_to_end(&mut head);
    }
    let line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Some(match line.strip_prefix(b"#!") {
        Some(rest) => {
            let rest = rest.trim_ascii_start();
            let word = rest.split(|byte| byte.is_ascii_whitespace()).next().unwrap_or_default();
            Kind::Script(printable(OsStr::from_bytes(word)).to_string())
        }
        None if head.starts_with(b"\x7fELF") => Kind::Elf,
        None => Kind::Other,
    })
}
