//! Everything that was looked at to make a tree, with its stamps: while all of it is as it was, a build
//! would make the same tree, and need not be made.
//!
//! Whatever decides what is in a tree was found in a directory, read from a file, or missed; the source
//! root notes each such path ([`SourceRoot::looked_at`]). A name that is added to, removed from or turned
//! in a directory changes the directory's times, content and rights of a file change the file's.
//!
//! `seen`, little endian: a header line, a digest of what follows, then the notes of the build, each as
//! length u32 and text, after their number u32, then the paths: length u32, path, device u64, inode u64,
//! size u64, modification and change time i64 ns; device `u64::MAX` for what was not there.
//!
//! [`SourceRoot::looked_at`]: crate::closure::root::SourceRoot::looked_at

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use nix::sys::stat::stat;
use sha2::{Digest, Sha256};

use super::sources::{SETTLED, Stamp};
use crate::closure::Closure;

const HEADER: &[u8] = b"jailmk-seen 1\n";
const ABSENT: u64 = u64::MAX;

/// The record of a build that began at `started`, to be made when all was read; `None` if something of it
/// changed so lately that it may have changed after it was looked at.
pub(super) fn record(closure: &Closure, started: SystemTime) -> Option<Vec<u8>> {
    let started = started.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_nanos() as i64;
    if closure.looked_at.is_empty() {
        return None;
    }
    let mut body = Vec::new();
    let notes: Vec<String> = closure.notes.iter().map(ToString::to_string).collect();
    push_length(&mut body, notes.len())?;
    for note in &notes {
        push_length(&mut body, note.len())?;
        body.extend_from_slice(note.as_bytes());
    }
    for path in &closure.looked_at {
        let stamp = stat(path.as_path()).ok().map(|stat| Stamp::of(&stat));
        if stamp.is_some_and(|stamp| stamp.changed.max(stamp.modified) > started - SETTLED) {
            return None;
        }
        let path = path.as_path().as_os_str().as_bytes();
        push_length(&mut body, path.len())?;
        body.extend_from_slice(path);
        body.extend_from_slice(&columns(stamp));
    }
    let mut bytes = HEADER.to_vec();
    bytes.extend_from_slice(&Sha256::digest(&body));
    bytes.append(&mut body);
    Some(bytes)
}

/// The notes of that build, if everything is as it was then.
pub(super) fn unchanged(record: &[u8]) -> Option<Vec<String>> {
    let (digest, body) = record.strip_prefix(HEADER)?.split_first_chunk::<32>()?;
    if digest[..] != Sha256::digest(body)[..] {
        return None;
    }
    let (notes, paths) = parse(body)?;
    let same = |(path, expected): &(&Path, &[u8; COLUMNS])| {
        columns(stat(*path).ok().map(|stat| Stamp::of(&stat))) == **expected
    };
    paths.iter().all(same).then_some(notes)
}

type Body<'a> = (Vec<String>, Vec<(&'a Path, &'a [u8; COLUMNS])>);

/// What follows the digest.
pub(super) fn parse(mut body: &[u8]) -> Option<Body<'_>> {
    let count = take_length(&mut body)?;
    let mut notes = Vec::new();
    for _ in 0..count {
        notes.push(std::str::from_utf8(take(&mut body)?).ok()?.to_owned());
    }
    let mut paths = Vec::new();
    while !body.is_empty() {
        let path = Path::new(OsStr::from_bytes(take(&mut body)?));
        let (columns, rest) = body.split_first_chunk()?;
        paths.push((path, columns));
        body = rest;
    }
    Some((notes, paths))
}

const COLUMNS: usize = 40;

fn columns(stamp: Option<Stamp>) -> [u8; COLUMNS] {
    let stamp = stamp.unwrap_or(Stamp { device: ABSENT, inode: 0, size: 0, modified: 0, changed: 0 });
    super::table::joined(&[
        &stamp.device.to_le_bytes(),
        &stamp.inode.to_le_bytes(),
        &stamp.size.to_le_bytes(),
        &stamp.modified.to_le_bytes(),
        &stamp.changed.to_le_bytes(),
    ])
}

fn push_length(bytes: &mut Vec<u8>, length: usize) -> Option<()> {
    bytes.extend_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    Some(())
}

fn take_length(bytes: &mut &[u8]) -> Option<usize> {
    let (length, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    usize::try_from(u32::from_le_bytes(*length)).ok()
}

fn take<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = take_length(bytes)?;
    let (field, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::HostPath;
    use std::time::Duration;

    fn looked_at(paths: &[&Path]) -> Closure {
        let looked_at = paths.iter().map(|path| HostPath::absolute(*path).unwrap()).collect();
        Closure { looked_at, ..Closure::default() }
    }

    /// Long enough from now that nothing which is there can have changed later.
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_change_of_any_path_that_was_looked_at_is_seen() {
        let directory = std::env::temp_dir().join(format!("jailmk-seen-{}", std::process::id()));
        std::fs::create_dir(&directory).unwrap();
        let (file, absent) = (directory.join("file"), directory.join("absent"));
        std::fs::write(&file, "x").unwrap();
        let of_file = record(&looked_at(&[&file]), later()).unwrap();
        let of_absent = record(&looked_at(&[&absent]), later()).unwrap();
        let of_directory = record(&looked_at(&[&directory]), later()).unwrap();
        for record in [&of_file, &of_absent, &of_directory] {
            assert_eq!(unchanged(record), Some(Vec::new()));
        }
        std::fs::write(&file, "xy").unwrap();
        assert_eq!((unchanged(&of_file), unchanged(&of_directory)), (None, Some(Vec::new())));
        std::fs::write(&absent, "").unwrap();
        assert_eq!((unchanged(&of_absent), unchanged(&of_directory)), (None, None));
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn what_changed_lately_is_not_recorded_nor_is_nothing() {
        let path = std::env::temp_dir();
        assert_eq!(record(&looked_at(&[&path]), SystemTime::UNIX_EPOCH), None);
        assert_eq!(record(&looked_at(&[]), later()), None);
    }

    #[test]
    fn a_torn_record_says_nothing() {
        let record = record(&looked_at(&[Path::new("/"), Path::new("/no such path")]), later()).unwrap();
        assert_eq!(unchanged(&record), Some(Vec::new()));
        for length in 0..record.len() {
            assert_eq!(unchanged(&record[..length]), None, "{length}");
        }
    }
}
