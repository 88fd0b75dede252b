//! One file of the host, read whole: its digests, and what it says about itself.

use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use nix::errno::Errno;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::closure::elf::identity::{Identity, identity};
use crate::manifest::lock::Content;
use crate::path::HostPath;
use crate::rootfs::CopyFault;

/// Bytes read at once.
const BUFFER: usize = 256 << 10;
/// As a build: a sparse file can claim any size.
const SIZE_LIMIT: u64 = 64 << 30;

/// SHA-256 and size, SHA-1, and the notes of `origin`, as a build would find it; nothing of it is mixed from
/// two versions of the file.
pub fn digest(origin: &HostPath) -> Result<(Content, [u8; 20], Identity), CopyFault> {
    // A pipe or a terminal cannot hold it up, and a link is not what the closure found.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(origin).map_err(fault)?;
    let before = file.metadata().map_err(fault)?;
    if !before.is_file() {
        return Err(CopyFault::NotRegular);
    }
    let (mut sha256, mut sha1, mut size) = (Sha256::new(), Sha1::new(), 0);
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                sha256.update(&buffer[..count]);
                sha1.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(CopyFault::Read(error)),
        }
        if size > SIZE_LIMIT {
            return Err(CopyFault::TooLarge);
        }
    }
    let identity = identity(&file);
    if size != before.len() || stamp(&file.metadata().map_err(fault)?) != stamp(&before) {
        return Err(CopyFault::Changed);
    }
    Ok((Content { sha256: sha256.finalize().into(), size }, sha1.finalize().into(), identity))
}

fn fault(error: io::Error) -> CopyFault {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENOTDIR) => CopyFault::Vanished,
        Some(Errno::ELOOP | Errno::ENXIO) => CopyFault::NotRegular,
        _ => CopyFault::Read(error),
    }
}

/// What changes when the content does.
fn stamp(file: &Metadata) -> (u64, i64, i64, i64, i64) {
    (file.len(), file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_regular_file_is_refused_at_once() {
        let path = |path: &str| HostPath::absolute(path).unwrap();
        assert!(matches!(digest(&path("/dev/null")), Err(CopyFault::NotRegular)));
        assert!(matches!(digest(&path("/proc/self/exe")), Err(CopyFault::NotRegular)));
        assert!(matches!(digest(&path("/no/such")), Err(CopyFault::Vanished)));
    }
}
