//! What files hold, copied and compared: a jail can make a file of terabytes that holds next to nothing, so
//! that where there is nothing, nothing is read or written.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use crate::sys::clone_file;

/// Bytes that are compared at once.
const PIECE: u64 = 1 << 16;

/// Makes `target`, which is empty, hold what `source` holds: with the same blocks where the file system can
/// share them, else with the same holes.
///
/// # Errors
/// As read(2) and write(2).
pub fn copy(source: &File, target: &File) -> io::Result<()> {
    if clone_file::clone_file(source, target).is_ok() {
        return Ok(());
    }
    let (mut from, mut to) = (source, target);
    let size = source.metadata()?.len();
    let mut at = 0;
    while let Some(data) = data_behind(source, at, size)? {
        from.seek(SeekFrom::Start(data.start))?;
        to.seek(SeekFrom::Start(data.start))?;
        io::copy(&mut from.take(data.end - data.start), &mut to)?;
        at = data.end;
    }
    target.set_len(size)
}

/// Whether two files hold the same bytes.
///
/// # Errors
/// As read(2).
pub fn same(a: &File, b: &File) -> io::Result<bool> {
    let size = a.metadata()?.len();
    if size != b.metadata()?.len() {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; PIECE as usize], vec![0; PIECE as usize]);
    let (mut of_a, mut of_b) = (0..0, 0..0);
    let mut at = 0;
    loop {
        // What was found behind an earlier place may still lie ahead.
        for (file, data) in [(a, &mut of_a), (b, &mut of_b)] {
            if data.end <= at {
                *data = data_behind(file, at, size)?.unwrap_or(size..u64::MAX);
            }
        }
        at = at.max(of_a.start.min(of_b.start));
        if at >= size {
            return Ok(true);
        }
        // Up to where one of them has a hole: from there on it may be both.
        let ahead = |data: &Range<u64>| if data.start > at { data.start } else { data.end };
        let length = (ahead(&of_a).min(ahead(&of_b)) - at).min(PIECE) as usize;
        for (file, piece) in [(a, &mut left), (b, &mut right)] {
            file.read_exact_at(&mut piece[..length], at)?;
        }
        if left[..length] != right[..length] {
            return Ok(false);
        }
        at += length as u64;
    }
}

/// The next bytes, at or behind `at`, that are more than a hole; `None` when there are none up to `size`.
fn data_behind(file: &File, at: u64, size: u64) -> io::Result<Option<Range<u64>>> {
    if at >= size {
        return Ok(None);
    }
    let seek = |at: u64, whence| lseek(file.as_fd(), at.cast_signed(), whence).map(i64::cast_unsigned);
    match seek(at, Whence::SeekData).and_then(|start| Ok(start..seek(start, Whence::SeekHole)?)) {
        Ok(data) => Ok((data.start < size).then(|| data.start..data.end.min(size))),
        Err(Errno::ENXIO) => Ok(None),
        // A file system that knows of no holes.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(Some(at..size)),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::memfd::{MFdFlags, memfd_create};

    /// A file with these bytes at these places, and no name.
    fn file(size: u64, pieces: &[(u64, &[u8])]) -> File {
        let file = File::from(memfd_create(c"content", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(size).unwrap();
        for (at, bytes) in pieces {
            file.write_all_at(bytes, *at).unwrap();
        }
        file
    }

    /// How many bytes this thread has read from files.
    fn bytes_read() -> u64 {
        let counts = std::fs::read_to_string("/proc/thread-self/io").unwrap();
        counts.lines().find_map(|line| line.strip_prefix("rchar: ")).unwrap().parse().unwrap()
    }

    const LARGE: u64 = 1 << 40;

    #[test]
    fn files_are_the_same_whatever_of_them_is_a_hole() {
        let zeros = vec![0; 300_000];
        let a = file(1_000_000, &[(100_000, &zeros), (700_000, b"x")]);
        let b = file(1_000_000, &[(0, &zeros), (700_000, b"x"), (900_000, &zeros[..100_000])]);
        let c = file(1_000_000, &[(700_000, b"x"), (999_999, b"y")]);
        assert!(same(&a, &b).unwrap() && same(&b, &a).unwrap());
        assert!(!same(&a, &c).unwrap() && !same(&c, &b).unwrap());
        assert!(same(&file(0, &[]), &file(0, &[])).unwrap());
        assert!(!same(&file(5, &[]), &file(6, &[])).unwrap());
    }

    #[test]
    fn holes_are_not_read_when_files_are_compared() {
        let pieces: [(u64, &[u8]); 2] = [(4096, b"x"), (LARGE / 2, b"y")];
        let (a, b) = (file(LARGE, &pieces), file(LARGE, &pieces));
        let before = bytes_read();
        assert!(same(&a, &b).unwrap());
        assert!(bytes_read() - before < 1 << 20);
        b.write_all_at(b"z", LARGE - 1).unwrap();
        assert!(!same(&a, &b).unwrap());
    }

    #[test]
    fn a_copy_has_the_same_bytes_and_holes() {
        use std::os::unix::fs::MetadataExt;
        let data = vec![7; 200_000];
        for pieces in
            [vec![], vec![(0, data.as_slice())], vec![(5000, b"x"), (LARGE / 2, &data), (LARGE - 1, b"y")]]
        {
            let source = file(LARGE, &pieces);
            let target = file(0, &[]);
            copy(&source, &target).unwrap();
            assert!(same(&source, &target).unwrap());
            assert!(target.metadata().unwrap().blocks() * 512 < 1 << 20);
        }
        let (source, target) = (file(3, &[(0, b"abc")]), file(0, &[]));
        copy(&source, &target).unwrap();
        assert!(same(&source, &target).unwrap());
    }
}
