//! One regular file of the host into one new file, with its digest; a file that changes meanwhile is an
//! error and never a mixture.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, SFlag, fstat, lstat};
use sha2::{Digest, Sha256};

use super::sources::Stamp;
use crate::manifest::lock::Content;
use crate::path::HostPath;
use crate::sys::clone_file::clone_file;

/// Bytes moved at once: large enough that system calls cost little, small enough for the cache.
pub(super) const BUFFER: usize = 256 << 10;
/// A sparse file can claim any size; hashing its holes takes time that a build cannot mean to spend.
pub const SIZE_LIMIT: u64 = 64 << 30;

/// Why a file could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyFault {
    /// It was there when the closure was made.
    #[error("it does not exist any more")]
    Vanished,
    /// Its size or times changed while it was read.
    #[error("it changed while it was copied")]
    Changed,
    /// A directory, link, device, pipe or socket.
    #[error("it is not a regular file")]
    NotRegular,
    /// More than 64 GiB.
    #[error("it is larger than 64 GiB")]
    TooLarge,
    /// Opening or reading it failed.
    #[error(transparent)]
    Read(io::Error),
    /// Writing the copy failed.
    #[error(transparent)]
    Write(io::Error),
}

/// A host file that is open for reading; all that follows is about this very file.
pub struct Source {
    file: File,
    before: FileStat,
}

impl Source {
    /// Opens it once. A pipe or a terminal cannot hold it up, and its path leads over no link: if it does
    /// now, somebody has put one there since the closure was made.
    ///
    /// # Errors
    /// It is gone, is no regular file, is too large, or may not be read.
    pub fn open(origin: &HostPath) -> Result<Source, CopyFault> {
        let flags =
            OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        let file = openat2(AT_FDCWD, origin.as_path(), how).map_err(|errno| match errno {
            Errno::ENOENT | Errno::ENOTDIR => CopyFault::Vanished,
            Errno::ELOOP | Errno::ENXIO => CopyFault::NotRegular,
            errno => CopyFault::Read(errno.into()),
        })?;
        let before = fstat(&file).map_err(|errno| CopyFault::Read(errno.into()))?;
        if before.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
            return Err(CopyFault::NotRegular);
        }
        if before.st_size as u64 > SIZE_LIMIT {
            return Err(CopyFault::TooLarge);
        }
        Ok(Source { file: file.into(), before })
    }

    /// What is at `origin`, without reading it. The host's own directories do not become links under our
    /// hands; those of another tree may, and must not lead out of it.
    pub(super) fn inspect(origin: &HostPath, in_tree: bool) -> Result<FileStat, Errno> {
        if !in_tree {
            return lstat(origin.as_path());
        }
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
        fstat(&openat2(AT_FDCWD, origin.as_path(), how)?)
    }

    pub(super) fn stamp(&self) -> Stamp {
        Stamp::of(&self.before)
    }

    /// Makes the empty `target` a clone of it.
    pub(super) fn clone_to(&self, target: &File) -> Result<(), Errno> {
        clone_file(&self.file, target)
    }

    /// To read it from.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// `content`, unless the file changed since it was opened.
    ///
    /// # Errors
    /// It did, or cannot be looked at any more.
    pub fn unchanged(&self, content: Content) -> Result<Content, CopyFault> {
        let after = fstat(&self.file).map_err(|errno| CopyFault::Read(errno.into()))?;
        let stamp = self.stamp();
        match stamp == Stamp::of(&after) && content.size == stamp.size {
            true => Ok(content),
            false => Err(CopyFault::Changed),
        }
    }

    fn is_sparse(&self) -> bool {
        self.before.st_blocks.saturating_mul(512) < self.before.st_size
    }
}

/// Reads files with one buffer.
pub(super) struct Copier {
    buffer: Vec<u8>,
}

impl Copier {
    pub(super) fn new() -> Copier {
        Copier { buffer: vec![0; BUFFER] }
    }

    /// Room for reading by whom the copier is at hand.
    pub(super) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Copies `source` into the empty `target`. The digest needs the bytes in memory anyway, which is why
    /// there is no copy_file_range(2): it would only add a pass.
    pub(super) fn copy(&mut self, source: &mut Source, target: &mut File) -> Result<Content, CopyFault> {
        let sparse = source.is_sparse();
        let content = self.pass(&mut source.file, Some((target, sparse)))?;
        source.unchanged(content)
    }

    /// The digest of `source`, without a copy or of one that is made already.
    pub(super) fn digest(&mut self, source: &mut Source) -> Result<Content, CopyFault> {
        let content = self.pass(&mut source.file, None)?;
        source.unchanged(content)
    }

    fn pass(&mut self, source: &mut File, target: Option<(&mut File, bool)>) -> Result<Content, CopyFault> {
        let mut digest = Sha256::new();
        let mut size = 0;
        let mut target = target;
        loop {
            let count = match source.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(CopyFault::Read(error)),
            };
            let bytes = &self.buffer[..count];
            digest.update(bytes);
            size += count as u64;
            if size > SIZE_LIMIT {
                return Err(CopyFault::TooLarge);
            }
            match &mut target {
                Some((target, true)) if bytes.iter().all(|byte| *byte == 0) => {
                    target.seek(SeekFrom::Current(count as i64)).map_err(CopyFault::Write)?;
                }
                Some((target, _)) => target.write_all(bytes).map_err(CopyFault::Write)?,
                None => {}
            }
        }
        if let Some((target, true)) = target {
            target.set_len(size).map_err(CopyFault::Write)?;
        }
        Ok(Content { sha256: digest.finalize().into(), size })
    }
}
