//! One regular file of the host into one new file, with its digest; a file that changes meanwhile is an
//! error and never a mixture.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use sha2::{Digest, Sha256};

use super::sources::Stamp;
use crate::manifest::lock::Content;
use crate::path::HostPath;
use crate::sys::clone_file::clone_file;

/// Bytes moved at once: large enough that system calls cost little, small enough for the cache.
pub(super) const BUFFER: usize = 256 << 10;
/// A sparse file can claim any size; hashing its holes takes time that a build cannot mean to spend.
const SIZE_LIMIT: u64 = 64 << 30;

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

/// What was copied.
pub(super) struct Copied {
    pub(super) content: Content,
    pub(super) stamp: Stamp,
    pub(super) modified: nix::sys::time::TimeSpec,
}

/// Copies files with one buffer; clones them where the file system can.
pub(super) struct Copier<'a> {
    buffer: Vec<u8>,
    /// Shared by all threads: a file system that cannot clone is asked once.
    may_clone: &'a AtomicBool,
}

impl<'a> Copier<'a> {
    pub(super) fn new(may_clone: &'a AtomicBool) -> Copier<'a> {
        Copier { buffer: vec![0; BUFFER], may_clone }
    }

    /// Copies `origin` into the empty `target`, which is open for reading and writing.
    pub(super) fn copy(&mut self, origin: &HostPath, target: &mut File) -> Result<Copied, CopyFault> {
        let (mut source, before) = open_source(origin)?;
        let cloned = self.may_clone.load(Ordering::Relaxed) && before.st_size > 0 && {
            let cloned = clone_file(&source, &*target).is_ok();
            if !cloned {
                self.may_clone.store(false, Ordering::Relaxed);
            }
            cloned
        };
        // The digest needs the bytes in memory anyway, which is why there is no copy_file_range(2)
        // between the clone and the plain copy: it would only add a pass.
        let content = match cloned {
            true => self.pass(target, None)?,
            false => self.pass(&mut source, Some((target, sparse(&before))))?,
        };
        finish(&source, &before, content)
    }

    /// The digest of `origin` without a copy.
    pub(super) fn digest(&mut self, origin: &HostPath) -> Result<Copied, CopyFault> {
        let (mut source, before) = open_source(origin)?;
        let content = self.pass(&mut source, None)?;
        finish(&source, &before, content)
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

/// Opens it once; all that follows is about this very file. A pipe or a terminal cannot hold it up.
fn open_source(origin: &HostPath) -> Result<(File, FileStat), CopyFault> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let source = open(origin.as_path(), flags, Mode::empty()).map_err(|errno| match errno {
        Errno::ENOENT | Errno::ENOTDIR => CopyFault::Vanished,
        Errno::ELOOP | Errno::ENXIO => CopyFault::NotRegular,
        errno => CopyFault::Read(errno.into()),
    })?;
    let stat = fstat(&source).map_err(|errno| CopyFault::Read(errno.into()))?;
    if stat.st_mode & SFlag::S_IFMT.bits() != SFlag::S_IFREG.bits() {
        return Err(CopyFault::NotRegular);
    }
    if stat.st_size as u64 > SIZE_LIMIT {
        return Err(CopyFault::TooLarge);
    }
    Ok((source.into(), stat))
}

fn finish(source: &File, before: &FileStat, content: Content) -> Result<Copied, CopyFault> {
    let after = fstat(source).map_err(|errno| CopyFault::Read(errno.into()))?;
    let stamp = Stamp::of(before);
    if stamp != Stamp::of(&after) || content.size != stamp.size {
        return Err(CopyFault::Changed);
    }
    let modified = nix::sys::time::TimeSpec::new(before.st_mtime, before.st_mtime_nsec);
    Ok(Copied { content, stamp, modified })
}

fn sparse(stat: &FileStat) -> bool {
    stat.st_blocks.saturating_mul(512) < stat.st_size
}
