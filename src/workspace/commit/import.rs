//! Puts a commit into the host's repository by one `git fast-import`, which no branch knows of yet.
//!
//! It runs on an empty repository in a temporary directory, whose objects are the host's: so its own branch
//! and what it leaves when it fails are nothing that the host's repository ever has. A kill leaves at most
//! objects that nothing uses, which git's own tidying removes, and the directory, which the next commit does.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::thread;

use nix::NixPath;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, FdFlag, Flock, FlockArg, fcntl};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::error::CommitError;
use super::git::Git;
use super::repository::{Repository, args, line, text};
use crate::path::HostPath;
use crate::rootfs::{directory, staging};
use crate::workspace::WorkPath;
use crate::workspace::error::ReviewError;
use crate::workspace::place::as_owner;
use crate::workspace::session::{LOOKS, MOMENT, Session};
use crate::workspace::tree::Tree;

/// The file of the session that names the temporary directory.
const SCRATCH: &str = "scratch";
/// How its name begins.
const NAME: &str = "jailmk-commit-";
/// Where users meet.
const SHARED: &str = "/tmp";
/// Of fast-import; nobody sees it.
const BRANCH: &str = "refs/heads/import";

/// What a path of the repository becomes.
pub(super) struct Put<'a> {
    /// In the repository.
    pub path: Vec<u8>,
    /// As git writes it.
    pub mode: String,
    /// What it holds.
    pub content: Content<'a>,
}

/// What a file holds.
pub(super) enum Content<'a> {
    /// What the jail's file of this path holds.
    Jail(&'a WorkPath),
    /// These bytes: of a link, its target.
    Bytes(Vec<u8>),
    /// What an object of the repository holds.
    Object(String),
}

/// What the commit changes in its parent.
#[derive(Default)]
pub(super) struct Delta<'a> {
    /// Paths of the repository that are gone.
    pub gone: Vec<Vec<u8>>,
    /// Paths that are new or other.
    pub puts: Vec<Put<'a>>,
}

impl Delta<'_> {
    /// Makes the commit; returns its name.
    pub fn import(
        &self,
        session: &Session,
        repository: &Repository<'_>,
        upper: &Tree,
        message: &str,
    ) -> Result<String, ReviewError> {
        let git = repository.git();
        let [author, committer] = repository.persons()?;
        let scratch = Scratch::make(session, git)?;
        let top = scratch.path.as_path().as_os_str();
        let format = format!("--object-format={}", repository.format);
        let shared = repository.shared().map(|shared| format!("--shared={shared}"));
        let mut init =
            args(["-c", "init.defaultBranch=import", "init", "-q", "--bare", "--template=", &format])
                .to_vec();
        init.extend(shared.as_ref().map(OsStr::new));
        init.push(top);
        git.tell("make a temporary repository", &init)?;
        let variables = [("GIT_DIR", top), ("GIT_OBJECT_DIRECTORY", repository.objects.as_os_str())];
        // From this size on a file is not held in memory.
        let import =
            ["-c", "core.bigFileThreshold=32m", "fast-import", "--quiet", "--done", "--date-format=raw"];
        let said = git.feed("make the commit", &args(import), &variables, |stdin| {
            let pipe = |cause| git.failed(cause);
            writeln!(stdin, "commit {BRANCH}\nmark :1").map_err(pipe)?;
            for (role, person) in [("author", &author), ("committer", &committer)] {
                parts(stdin, &[role.as_bytes(), b" ", person, b"\n"]).map_err(pipe)?;
            }
            data(stdin, message.as_bytes()).map_err(pipe)?;
            if let Some(parent) = &repository.parent {
                writeln!(stdin, "from {parent}").map_err(pipe)?;
            }
            // What must go before what takes its place.
            for path in &self.gone {
                parts(stdin, &[b"D ", &quoted(path), b"\n"]).map_err(pipe)?;
            }
            for put in &self.puts {
                put.write(stdin, upper, git)?;
            }
            writeln!(stdin, "\nget-mark :1\ndone").map_err(pipe)
        })?;
        Ok(text(line(said)))
    }
}

impl Put<'_> {
    fn write(&self, stdin: &mut impl Write, upper: &Tree, git: &Git) -> Result<(), CommitError> {
        let pipe = |cause| git.failed(cause);
        let name = match &self.content {
            Content::Object(id) => id,
            _ => "inline",
        };
        let mode = self.mode.as_bytes();
        parts(stdin, &[b"M ", mode, b" ", name.as_bytes(), b" ", &quoted(&self.path), b"\n"])
            .map_err(pipe)?;
        match &self.content {
            Content::Object(_) => Ok(()),
            Content::Bytes(bytes) => data(stdin, bytes).map_err(pipe),
            Content::Jail(path) => {
                let read = |cause| CommitError::Read { path: path.to_string(), cause };
                let mut file = upper.open_file_at(path).map_err(|cause| read(cause.into()))?;
                let size = file.metadata().map_err(read)?.len();
                writeln!(stdin, "data {size}").map_err(pipe)?;
                copy(&mut file, size, stdin, read, pipe)?;
                stdin.write_all(b"\n").map_err(pipe)
            }
        }
    }
}

/// Copies as much as was promised, and tells the two sides' errors apart.
fn copy(
    file: &mut File,
    mut left: u64,
    to: &mut impl Write,
    read: impl Fn(io::Error) -> CommitError,
    written: impl Fn(io::Error) -> CommitError,
) -> Result<(), CommitError> {
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        match file.read(&mut buffer[..wanted]) {
            Ok(0) => return Err(read(io::ErrorKind::UnexpectedEof.into())),
            Ok(length) => {
                to.write_all(&buffer[..length]).map_err(&written)?;
                left -= length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(read(error)),
        }
    }
    Ok(())
}

fn data(out: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    writeln!(out, "data {}", bytes.len())?;
    parts(out, &[bytes, b"\n"])
}

fn parts(out: &mut impl Write, parts: &[&[u8]]) -> io::Result<()> {
    parts.iter().try_for_each(|part| out.write_all(part))
}

/// A path as fast-import reads it back whatever it holds: in quotes, with escapes.
fn quoted(path: &[u8]) -> Vec<u8> {
    let mut text = vec![b'"'];
    for byte in path {
        match byte {
            b'"' | b'\\' => text.extend_from_slice(&[b'\\', *byte]),
            0x20..0x7f => text.push(*byte),
            _ => text.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
        }
    }
    text.push(b'"');
    text
}

/// A temporary directory of whoever git runs as; removed with this value, or by the next commit. Each git that
/// is started while it is there has it locked: one that lost its caller may still make files in it.
struct Scratch<'a> {
    session: &'a Session,
    parent: OwnedFd,
    name: CString,
    path: HostPath,
    _lock: Flock<OwnedFd>,
}

impl<'a> Scratch<'a> {
    fn make(session: &'a Session, git: &Git) -> Result<Scratch<'a>, ReviewError> {
        sweep(session)?;
        let place = match git.user() {
            Some(_) => SHARED.into(),
            None => std::env::temp_dir(),
        };
        let place = place.canonicalize().ok().and_then(HostPath::absolute);
        let place = place.unwrap_or_else(|| HostPath::root().join(SHARED));
        let name = format!("{NAME}{}", staging::unique());
        let path = place.join(&name);
        let failed = |cause| CommitError::Scratch { verb: "make", path: path.clone(), cause };
        let parent = directory::open_to_read(AT_FDCWD, place.as_path()).map_err(failed)?;
        // Before it is there, so that a kill leaves none that nobody knows.
        session.write(SCRATCH, path.as_path().as_os_str().as_bytes())?;
        as_owner(git.user().unwrap_or_default(), || mkdirat(&parent, name.as_str(), Mode::S_IRWXU))
            .map_err(failed)?;
        let lock = lock(parent.as_fd(), name.as_str()).map_err(failed)?;
        fcntl(&*lock, FcntlArg::F_SETFD(FdFlag::empty())).map_err(failed)?;
        let name = CString::new(name).expect("BUG: a generated name has no NUL");
        Ok(Scratch { session, parent, name, path, _lock: lock })
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // What fails is left to the next commit, which has the file that names it.
        if directory::remove_tree(self.parent.as_fd(), &self.name).is_ok() {
            let _ = unlinkat(self.session.fd(), SCRATCH, UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Removes what a commit left that was killed.
fn sweep(session: &Session) -> Result<(), ReviewError> {
    let Some(bytes) = session.read(SCRATCH)? else { return Ok(()) };
    let path = HostPath::absolute(OsStr::from_bytes(&bytes));
    let place = path.as_ref().and_then(|path| path.as_path().parent().zip(path.as_path().file_name()));
    if let Some((parent, name)) = place
        && name.as_bytes().starts_with(NAME.as_bytes())
        && let Ok(name) = CString::new(name.as_bytes())
        && let Ok(parent) = directory::open_to_read(AT_FDCWD, parent)
    {
        let path = path.clone().unwrap_or_else(HostPath::root);
        let removed = match lock(parent.as_fd(), name.as_c_str()) {
            Ok(_lock) => directory::remove_tree(parent.as_fd(), &name),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(()),
            Err(cause) => Err(cause),
        };
        removed.map_err(|cause| CommitError::Scratch { verb: "remove", path, cause })?;
    }
    Ok(())
}

/// Locks a directory, for which it waits a while.
fn lock<N: NixPath + ?Sized>(parent: BorrowedFd<'_>, name: &N) -> Result<Flock<OwnedFd>, Errno> {
    let mut fd = directory::open_to_read(parent, name)?;
    for _ in 0..LOOKS {
        match Flock::lock(fd, FlockArg::LockExclusiveNonblock) {
            Err((back, Errno::EWOULDBLOCK)) => fd = back,
            Err((_, cause)) => return Err(cause),
            Ok(lock) => return Ok(lock),
        }
        thread::sleep(MOMENT);
    }
    Err(Errno::EBUSY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_that_is_not_plain_is_escaped() {
        assert_eq!(quoted(b"a b/\xff\n\"\\\x7f"), br#""a b/\377\012\"\\\177""#);
        assert_eq!(quoted(b"-"), b"\"-\"");
    }
}
