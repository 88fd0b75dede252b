//! How changed paths were on the host before: what tells a conflict from a change.
//!
//! One record for each path that the upper layer has, made when the jail ends:
//! `SINCE KIND INODE SIZE MTIME CTIME MODE BASE PATH NUL`, times as `seconds.nanoseconds`; a path that was not
//! there has `-` for all between SINCE and PATH. BASE names the copy of the file as it was, see base.rs, `-` where
//! there is none; journals of version 1 have no such field.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;

use nix::sys::stat::FileStat;

use super::path::WorkPath;
use super::tree::{Grain, Node};
use crate::manifest::lock::{Hex, parse_hex};

const HEADER: &[u8] = b"jailmk journal 2";
const WITHOUT_BASE: &[u8] = b"jailmk journal 1";

/// A point in time as file systems write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Since 1970.
    pub seconds: i64,
    /// Of the second.
    pub nanoseconds: i64,
}

impl Time {
    /// No file that was changed before is stamped later.
    pub fn now() -> Time {
        Time::by(nix::time::ClockId::CLOCK_REALTIME)
    }

    /// No file that is changed from now on is stamped earlier: file systems take the time of the last tick,
    /// or (from Linux 6.13 on, sometimes) the exact one.
    pub fn of_last_tick() -> Time {
        Time::by(nix::time::ClockId::CLOCK_REALTIME_COARSE)
    }

    fn by(clock: nix::time::ClockId) -> Time {
        let now = nix::time::clock_gettime(clock).map_or((0, 0), |time| (time.tv_sec(), time.tv_nsec()));
        Time { seconds: now.0, nanoseconds: now.1 }
    }

    /// Whether a file that was stamped so may have been stamped after `since`. A file system that keeps
    /// whole seconds says less.
    pub fn may_be_after(self, since: Time, grain: Grain) -> bool {
        self > since || grain == Grain::Seconds && self.seconds >= since.seconds
    }

    /// Reads `seconds.nanoseconds`.
    pub fn parse(text: &str) -> Option<Time> {
        let (seconds, nanoseconds) = text.split_once('.')?;
        Some(Time { seconds: number(seconds)?, nanoseconds: number(nanoseconds)? })
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.seconds, self.nanoseconds)
    }
}

/// What identifies a file's content without reading it. Not the device, whose number may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// What it is.
    pub node: Node,
    /// Inode number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of its content.
    pub modified: Time,
    /// Last change of anything.
    pub changed: Time,
    /// Permission bits.
    pub mode: u32,
}

impl Stamp {
    /// From the file's status.
    pub fn of(stat: &FileStat) -> Stamp {
        Stamp {
            node: Node::of(stat),
            inode: stat.st_ino,
            size: stat.st_size.unsigned_abs(),
            modified: Time { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec },
            changed: Time { seconds: stat.st_ctime, nanoseconds: stat.st_ctime_nsec },
            mode: stat.st_mode & 0o7777,
        }
    }

    /// Whether a host's file is the one that a jail which began at `since` saw as `before`.
    pub fn is_as_seen(&self, before: &Stamp, since: Time, grain: Grain) -> bool {
        self == before && !self.changed.may_be_after(since, grain)
    }

    /// The same file with the same content; a rename may have stamped it.
    pub fn is_still(&self, other: &Stamp) -> bool {
        let Stamp { node, inode, size, modified, mode, .. } = *other;
        (self.node, self.inode, self.size, self.modified, self.mode) == (node, inode, size, modified, mode)
    }
}

/// A path on the host before the jail changed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When the jail began that changed it first.
    pub since: Time,
    /// What was there.
    pub before: Option<Stamp>,
    /// The digest of what it held, if that was kept.
    pub base: Option<[u8; 32]>,
}

impl Record {
    /// Without a copy of what was there.
    pub fn new(since: Time, before: Option<Stamp>) -> Record {
        Record { since, before, base: None }
    }
}

/// A record as it is kept: of most paths there was nothing before, which takes no room for it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    since: Time,
    before: Option<Box<(Stamp, Option<[u8; 32]>)>>,
}

impl Kept {
    fn of(record: Record) -> Kept {
        Kept { since: record.since, before: record.before.map(|before| Box::new((before, record.base))) }
    }

    fn record(&self) -> Record {
        let (before, base) = self.before.as_deref().copied().unzip();
        Record { since: self.since, before, base: base.flatten() }
    }
}

/// All records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journal(BTreeMap<WorkPath, Kept>);

impl Journal {
    /// The record of a path.
    pub fn get(&self, path: &WorkPath) -> Option<Record> {
        self.0.get(path).map(Kept::record)
    }

    /// All records, in the order of their paths.
    pub fn iter(&self) -> impl Iterator<Item = (&WorkPath, Record)> {
        self.0.iter().map(|(path, kept)| (path, kept.record()))
    }

    /// Writes a record down, unless there is one.
    pub fn note(&mut self, path: &WorkPath, record: impl FnOnce() -> Record) {
        if !self.0.contains_key(path) {
            self.0.insert(path.clone(), Kept::of(record()));
        }
    }

    /// Writes a record down in place of the one that there is.
    pub fn put(&mut self, path: &WorkPath, record: Record) {
        self.0.insert(path.clone(), Kept::of(record));
    }

    /// Takes a record over from another journal, or else writes one down.
    pub fn take_over(
        &mut self,
        path: WorkPath,
        from: &mut Journal,
        record: impl FnOnce(&WorkPath) -> Record,
    ) {
        let kept = from.0.remove(&path).unwrap_or_else(|| Kept::of(record(&path)));
        self.0.insert(path, kept);
    }

    /// The record of the first path.
    pub fn first(&self) -> Option<(WorkPath, Record)> {
        self.0.iter().next().map(|(path, kept)| (path.clone(), kept.record()))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads a journal; `None` for what is none.
    pub fn parse(bytes: &[u8]) -> Option<Journal> {
        let mut lines = bytes.split(|byte| *byte == 0);
        let has_base = match lines.next()? {
            HEADER => true,
            WITHOUT_BASE => false,
            _ => return None,
        };
        let mut records = BTreeMap::new();
        while let Some(line) = lines.next() {
            if line.is_empty() {
                // After the last NUL nothing may follow: a file that was cut ends otherwise.
                return lines.next().is_none().then_some(Journal(records));
            }
            let mut fields = line.splitn(8 + usize::from(has_base), |byte| *byte == b' ');
            let mut field = || std::str::from_utf8(fields.next()?).ok();
            let mut texts = [""; 7];
            for text in &mut texts {
                *text = field()?;
            }
            let base = match if has_base { field()? } else { "-" } {
                "-" => None,
                digest => Some(parse_hex(digest)?),
            };
            let path = WorkPath::new(OsStr::from_bytes(fields.next()?)).ok()?;
            let [since, node, inode, size, modified, changed, mode] = texts;
            let before = match node {
                "-" => None,
                _ => Some(Stamp {
                    node: node_of(node)?,
                    inode: number(inode)?,
                    size: number(size)?,
                    modified: Time::parse(modified)?,
                    changed: Time::parse(changed)?,
                    mode: number(mode)?,
                }),
            };
            records.insert(path, Kept::of(Record { since: Time::parse(since)?, before, base }));
        }
        None
    }

    /// Its text.
    pub fn bytes(&self) -> Vec<u8> {
        // About what they take, for a buffer that grows is there twice.
        let size = |(path, kept): (&WorkPath, &Kept)| {
            path.as_bytes().len() + if kept.before.is_some() { 200 } else { 50 }
        };
        let mut bytes = Vec::with_capacity(HEADER.len() + 1 + self.0.iter().map(size).sum::<usize>());
        bytes.extend_from_slice(HEADER);
        bytes.push(0);
        let mut line = String::new();
        for (path, Record { since, before, base }) in self.iter() {
            line.clear();
            let written = match before {
                None => write!(line, "{since} - - - - - - "),
                Some(Stamp { node, inode, size, modified, changed, mode }) => {
                    write!(line, "{since} {} {inode} {size} {modified} {changed} {mode} ", node.word())
                }
            };
            let based = match base {
                None => write!(line, "- "),
                Some(digest) => write!(line, "{} ", Hex(&digest)),
            };
            written.and(based).expect("BUG: a String takes whatever is written to it");
            bytes.extend_from_slice(line.as_bytes());
            bytes.extend_from_slice(path.as_bytes());
            bytes.push(0);
        }
        bytes
    }
}

fn number<N: std::str::FromStr>(text: &str) -> Option<N> {
    // A sign or a second spelling of a number is none of ours.
    let plain = text.strip_prefix('-').unwrap_or(text);
    plain.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn node_of(word: &str) -> Option<Node> {
    let all = [Node::File, Node::Directory, Node::Symlink, Node::Fifo, Node::Socket, Node::Device];
    all.into_iter().find(|node| node.word() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Journal {
        let mut journal = Journal::default();
        let since = Time { seconds: 7, nanoseconds: 8 };
        let stamp = Stamp {
            node: Node::File,
            inode: 1,
            size: 2,
            modified: Time { seconds: -3, nanoseconds: 4 },
            changed: Time { seconds: 5, nanoseconds: 6 },
            mode: 0o644,
        };
        let (there, base) = (Some(stamp), Some([0xa5; 32]));
        for (name, before, base) in
            [(b"a b\nc\xff".as_slice(), there, base), (b"- -", there, None), (b"new", None, None)]
        {
            let path = WorkPath::new(OsStr::from_bytes(name)).unwrap();
            journal.note(&path, || Record { since, before, base });
        }
        journal
    }

    #[test]
    fn a_journal_is_read_as_it_was_written_whatever_the_names_hold() {
        assert_eq!(Journal::parse(&sample().bytes()), Some(sample()));
        assert_eq!(Journal::parse(&Journal::default().bytes()), Some(Journal::default()));
    }

    #[test]
    fn a_journal_that_was_cut_is_none() {
        let bytes = sample().bytes();
        let whole: Vec<usize> =
            (0..bytes.len()).filter(|length| Journal::parse(&bytes[..*length]).is_some()).collect();
        // At the end of a record it is a shorter journal.
        assert!(whole.iter().all(|length| bytes[length - 1] == 0), "{whole:?}");
        assert_eq!(Journal::parse(b""), None);
        assert_eq!(Journal::parse(b"jailmk journal 1\0x\0"), None);
    }

    #[test]
    fn a_journal_of_version_1_is_read_and_has_no_bases() {
        let journal =
            Journal::parse(b"jailmk journal 1\x007.8 file 1 2 3.4 5.6 420 a b\x007.8 - - - - - - c\0")
                .unwrap();
        let a = journal.get(&WorkPath::new("a b").unwrap()).unwrap();
        assert_eq!((a.before.map(|stamp| stamp.mode), a.base), (Some(0o644), None));
        assert_eq!(journal.iter().count(), 2);
    }

    #[test]
    fn a_base_that_is_no_digest_is_damage() {
        let text =
            |base: &str| format!("jailmk journal 2\x007.8 file 1 2 3.4 5.6 420 {base} a\0").into_bytes();
        assert!(Journal::parse(&text("-")).is_some() && Journal::parse(&text(&"0a".repeat(32))).is_some());
        for base in ["", "--", "../../x", &"0a".repeat(31), &"0A".repeat(32), &"0a".repeat(33)] {
            assert_eq!(Journal::parse(&text(base)), None, "{base}");
        }
    }

    #[test]
    fn a_stamp_is_taken_as_the_end_of_its_second_where_whole_seconds_are_kept_and_only_there() {
        let since = Time { seconds: 5, nanoseconds: 500 };
        let at = |seconds, nanoseconds| Time { seconds, nanoseconds };
        assert!(
            at(5, 0).may_be_after(since, Grain::Seconds) && !at(4, 0).may_be_after(since, Grain::Seconds)
        );
        assert!(!at(5, 0).may_be_after(since, Grain::Ticks) && at(5, 501).may_be_after(since, Grain::Ticks));
        assert!(!since.may_be_after(since, Grain::Ticks));
    }
}
