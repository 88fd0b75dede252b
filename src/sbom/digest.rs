//! One file of the host, read whole: its digests, and what it says about itself.

use std::io::{self, Read};

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::closure::elf::identity::{Identity, identity};
use crate::manifest::lock::Content;
use crate::path::HostPath;
use crate::rootfs::{CopyFault, SIZE_LIMIT, Source};

/// Bytes read at once.
const BUFFER: usize = 256 << 10;

/// SHA-256 and size, SHA-1, and the notes of `origin`, as a build would find it; nothing of it is mixed from
/// two versions of the file.
pub fn digest(origin: &HostPath) -> Result<(Content, [u8; 20], Identity), CopyFault> {
    let mut source = Source::open(origin)?;
    let (mut sha256, mut sha1, mut size) = (Sha256::new(), Sha1::new(), 0);
    let mut buffer = vec![0; BUFFER];
    loop {
        match source.file().read(&mut buffer) {
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
    let identity = identity(source.file());
    let content = source.unchanged(Content { sha256: sha256.finalize().into(), size })?;
    Ok((content, sha1.finalize().into(), identity))
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
