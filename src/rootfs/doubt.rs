//! Specs that a running jail may write, should it lose what covers them: a file of the host that another program
//! replaces by rename is no mount point any more, in no mount namespace.
//!
//! `STATE/doubt/UNIQUE`, locked by its jail: for each such file a line with its digest as it was loaded, its path as
//! it was named and without links. It goes when the jail ends and nothing has changed; what is left of it is in
//! doubt until the caller says that they have read it.

use std::ffi::{CString, OsString};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};
use sha2::{Digest, Sha256};

use super::build::OWN;
use super::staging::unique;
use super::{RootfsError, State, directory, failed};
use crate::manifest::lock::{Blank, Hex, escape, parse_hex, unescape};
use crate::path::HostPath;
use crate::spec::find::MAX_BYTES;
use crate::spec::{SourceOrigin, Spec};
use crate::written::Written;

const DIRECTORY: &str = "doubt";
/// More than as many specs as there can be take, with the longest paths and each byte of them escaped.
const RECORD_LIMIT: u64 = 4 << 20;

/// A file of a spec.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Loaded {
    /// `None` where there is no such file any more.
    digest: Option<[u8; 32]>,
    named: PathBuf,
    real: PathBuf,
}

impl Loaded {
    fn all(spec: &Spec) -> impl Iterator<Item = Loaded> {
        spec.sources.iter().filter_map(|source| match &source.origin {
            SourceOrigin::File(real) => Some(Loaded {
                digest: Some(Sha256::digest(source.text.as_bytes()).into()),
                named: source.named.clone(),
                real: real.clone(),
            }),
            SourceOrigin::BuiltIn(_) => None,
        })
    }

    fn is_as_loaded(&self) -> bool {
        digest_of(&self.named) == self.digest
    }

    /// Whether one is found where the other is.
    fn meets(&self, other: &Loaded) -> bool {
        [&self.named, &self.real].iter().any(|path| [&other.named, &other.real].contains(path))
    }

    fn line(&self) -> String {
        let digest = self.digest.map_or_else(|| "gone".to_owned(), |digest| Hex(&digest).to_string());
        let mut line = digest;
        for path in [&self.named, &self.real] {
            line.push(' ');
            escape(&mut line, path.as_os_str().as_bytes(), Blank::Escaped)
                .expect("BUG: a string can be written to");
        }
        line.push('\n');
        line
    }

    fn parse(line: &str) -> Option<Loaded> {
        let mut columns = line.split(' ');
        let digest = match columns.next()? {
            "gone" => None,
            digest => Some(parse_hex(digest)?),
        };
        let mut path =
            || Some(PathBuf::from(OsString::from_vec(unescape(columns.next()?, Blank::Escaped).ok()?)));
        Some(Loaded { digest, named: path()?, real: path()? })
    }
}

/// As a spec would be read from there; `None` where none can be.
fn digest_of(path: &Path) -> Option<[u8; 32]> {
    // To open a device can have effects.
    std::fs::metadata(path).ok().filter(std::fs::Metadata::is_file)?;
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).ok()?;
    Some(Sha256::digest(&bytes).into())
}

/// The record of a jail that runs.
pub struct Doubt {
    /// Where the record is.
    directory: OwnedFd,
    name: String,
    record: Flock<File>,
}

impl Doubt {
    /// Remembers what the spec is now; `None` where its jail writes none of its files.
    ///
    /// # Errors
    /// The state cannot be written.
    pub fn begin(state: &State, spec: &Spec, written: &Written) -> Result<Option<Doubt>, RootfsError> {
        let is_written = |loaded: &Loaded| written.holds(&loaded.real) || written.holds(&loaded.named);
        let lines: String = Loaded::all(spec).filter(is_written).map(|loaded| loaded.line()).collect();
        if lines.is_empty() {
            return Ok(None);
        }
        let path = state.path().join(DIRECTORY);
        let write = || -> Result<Doubt, Errno> {
            match mkdirat(state.fd(), DIRECTORY, Mode::S_IRWXU) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            let directory = directory::open_to_read(state.fd(), DIRECTORY)?;
            // Whoever clears up holds the directory alone, and finds no record that is not locked yet.
            let clearing = directory::open_to_read(state.fd(), DIRECTORY)?;
            let _clearing = lock(File::from(clearing), FlockArg::LockShared)?;
            let name = unique();
            let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let record = File::from(openat(&directory, name.as_str(), flags, OWN)?);
            let record = lock(record, FlockArg::LockExclusive)?;
            record.write_all_at(lines.as_bytes(), 0).map_err(directory::errno)?;
            Ok(Doubt { directory, name, record })
        };
        write().map(Some).map_err(failed("write in", &path))
    }

    /// Once nothing of the jail runs any more: what is another than it was loaded.
    pub fn end(self) -> Vec<PathBuf> {
        let loaded = parse(&self.record).unwrap_or_default();
        let changed = loaded.into_iter().filter(|loaded| !loaded.is_as_loaded());
        let changed: Vec<PathBuf> = changed.map(|loaded| loaded.named).collect();
        if changed.is_empty() {
            let _ = unlinkat(&self.directory, self.name.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        changed
    }
}

/// Refuses a spec of which a file is another than a jail that could write it had loaded.
///
/// # Errors
/// It is, or the state cannot be read.
pub fn refuse_doubtful(state: &State, spec: &Spec) -> Result<(), RootfsError> {
    let now: Vec<Loaded> = Loaded::all(spec).collect();
    each(state, &mut |record| {
        for loaded in record.loaded {
            if let Some(now) = now.iter().find(|now| now.meets(loaded) && now.digest != loaded.digest) {
                let path = HostPath::new(&HostPath::root(), &now.named);
                return Err(RootfsError::Doubtful { path });
            }
        }
        Ok(())
    })
}

/// The caller has read the spec as it is now.
///
/// # Errors
/// The state cannot be read or written.
pub fn settle(state: &State, spec: &Spec) -> Result<(), RootfsError> {
    let now: Vec<Loaded> = Loaded::all(spec).collect();
    each(state, &mut |record| {
        let renewed = record.loaded.iter().map(|loaded| match now.iter().find(|now| now.meets(loaded)) {
            Some(now) => Loaded { digest: now.digest, ..loaded.clone() },
            None => loaded.clone(),
        });
        let renewed: Vec<Loaded> = renewed.collect();
        if renewed != record.loaded {
            let lines: String = renewed.iter().map(Loaded::line).collect();
            // In place: the jail that holds the lock looks at this very file.
            let write = record.file.write_all_at(lines.as_bytes(), 0);
            write.and_then(|()| record.file.set_len(lines.len() as u64)).map_err(|error| {
                failed("write in", &state.path().join(DIRECTORY))(directory::errno(error))
            })?;
        }
        Ok(())
    })
}

struct Record<'a> {
    file: &'a File,
    loaded: &'a [Loaded],
}

/// Does this with each record, and clears away those of jails that were killed while nothing changed.
fn each(
    state: &State,
    with: &mut dyn FnMut(&Record<'_>) -> Result<(), RootfsError>,
) -> Result<(), RootfsError> {
    let path = state.path().join(DIRECTORY);
    let directory = match directory::open_to_read(state.fd(), DIRECTORY) {
        Err(Errno::ENOENT) => return Ok(()),
        other => other.map_err(failed("open", &path))?,
    };
    let names = directory::names(directory.as_fd()).map_err(failed("read", &path))?;
    for name in names {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = match openat(&directory, name.as_c_str(), flags, Mode::empty()) {
            Err(Errno::ENOENT) => continue,
            other => File::from(other.map_err(failed("open", &path))?),
        };
        let loaded = parse(&file).unwrap_or_default();
        with(&Record { file: &file, loaded: &loaded })?;
        clear(directory.as_fd(), &name, file);
    }
    Ok(())
}

fn clear(directory: BorrowedFd<'_>, name: &CString, file: File) {
    let Ok(alone) = directory::open_to_read(directory, ".") else { return };
    let Ok(_alone) = lock(File::from(alone), FlockArg::LockExclusiveNonblock) else { return };
    let Ok(file) = lock(file, FlockArg::LockExclusiveNonblock) else { return };
    if parse(&file).unwrap_or_default().iter().all(Loaded::is_as_loaded) {
        let _ = unlinkat(directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
    }
}

fn lock(file: File, how: FlockArg) -> Result<Flock<File>, Errno> {
    Flock::lock(file, how).map_err(|(_, errno)| errno)
}

/// `None` for what is no record, or not whole.
fn parse(file: &File) -> Option<Vec<Loaded>> {
    let size = file.metadata().ok()?.len().min(RECORD_LIMIT);
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    file.read_exact_at(&mut bytes, 0).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    text.strip_suffix('\n')?.split('\n').map(Loaded::parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        for digest in [Some([7; 32]), None] {
            let loaded = Loaded { digest, named: "/a b/\n".into(), real: "/c".into() };
            assert_eq!(Loaded::parse(loaded.line().strip_suffix('\n').unwrap()), Some(loaded));
        }
        assert_eq!(Loaded::parse("gone /a"), None);
    }
}
