//! Digests by inode: a host file whose inode, size and times are those of the last build has the
//! content of the last build, so that a rebuild reads only what changed.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::stat::{FileStat, lstat};

use crate::manifest::lock::{Blank, Content, Hex, escape, parse_hex, unescape};
use crate::path::HostPath;

const HEADER: &str = "jailmk-sources 1\n";
/// A file that changed this shortly before the build may change again without a new time: clocks of
/// file systems tick in milliseconds, those of FAT in two seconds.
const SETTLED: i128 = 2_000_000_000;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    pub(super) modified: i128,
    pub(super) changed: i128,
}

impl Stamp {
    pub(super) fn of(stat: &FileStat) -> Stamp {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size as u64,
            modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

/// The digests of one build.
#[derive(Default)]
pub(super) struct Sources {
    known: HashMap<OsString, (Stamp, Content)>,
}

impl Sources {
    /// The digest of `origin`, if it is as it was.
    pub(super) fn recall(&self, origin: &HostPath) -> Option<(Stamp, Content)> {
        let (stamp, content) = self.known.get(origin.as_path().as_os_str())?;
        let now = lstat(origin.as_path()).ok()?;
        (Stamp::of(&now) == *stamp).then_some((*stamp, *content))
    }

    /// A text of lines: device, inode, size, modified, changed, sha256, path.
    pub(super) fn text(stamps: &[(HostPath, Stamp, Content)]) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i128);
        let mut text = String::from(HEADER);
        for (origin, stamp, content) in stamps {
            if stamp.changed > now - SETTLED {
                continue;
            }
            let Stamp { device, inode, size, modified, changed } = stamp;
            let sha256 = Hex(&content.sha256);
            let path = origin.as_path().as_os_str().as_bytes();
            write!(text, "{device} {inode} {size} {modified} {changed} {sha256} ")
                .and_then(|()| escape(&mut text, path, Blank::Escaped))
                .expect("BUG: a string can be written to");
            text.push('\n');
        }
        text
    }

    /// What cannot be read is not known.
    pub(super) fn parse(text: &[u8]) -> Sources {
        let lines = std::str::from_utf8(text).ok().and_then(|text| text.strip_prefix(HEADER));
        let known = lines.unwrap_or_default().lines().filter_map(|line| {
            let mut columns = line.split(' ');
            let mut next = || columns.next();
            let stamp = Stamp {
                device: next()?.parse().ok()?,
                inode: next()?.parse().ok()?,
                size: next()?.parse().ok()?,
                modified: next()?.parse().ok()?,
                changed: next()?.parse().ok()?,
            };
            let sha256 = parse_hex(next()?)?;
            let path = OsString::from_vec(unescape(next()?, Blank::Escaped).ok()?);
            Some((path, (stamp, Content { sha256, size: stamp.size })))
        });
        Sources { known: known.collect() }
    }
}
