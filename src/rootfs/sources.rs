//! Digests by inode: a host file whose inode, size and times are those that an earlier build saw has the
//! content that it had then, so that only what changed is read. All specs of a state share them.
//!
//! `STATE/store/sources`, a [`Table`], big endian: device u64, inode u64; size u64, modification time i64
//! ns, change time i64 ns, SHA-256.

use std::collections::{BTreeMap, HashSet};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::stat::FileStat;

use super::table::{Fields, Table, joined};
use crate::manifest::lock::Content;

const MAGIC: &[u8] = b"jailmk-sources 2\n";
/// A file that changed this shortly before the build may change again without a new time: clocks of
/// file systems tick in milliseconds, those of FAT in two seconds.
pub(super) const SETTLED: i64 = 2_000_000_000;
const KEY: usize = 16;
const SIZE: usize = KEY + 24 + 32;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) device: u64,
    pub(super) inode: u64,
    pub(super) size: u64,
    /// Nanoseconds since 1970, as the next.
    pub(super) modified: i64,
    pub(super) changed: i64,
}

impl Stamp {
    pub(super) fn of(stat: &FileStat) -> Stamp {
        Stamp {
            device: stat.st_dev,
            inode: stat.st_ino,
            size: stat.st_size as u64,
            modified: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            changed: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    fn key(&self) -> [u8; KEY] {
        joined(&[&self.device.to_be_bytes(), &self.inode.to_be_bytes()])
    }
}

/// A time of stat(2) as one number.
pub(super) fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// What is known of host files.
pub(super) struct Sources(Table<KEY, SIZE>);

impl Sources {
    /// What cannot be read is not known.
    pub(super) fn parse(bytes: Vec<u8>) -> Sources {
        Sources(Table::parse(MAGIC, bytes))
    }

    /// The content of the file that has this stamp now.
    pub(super) fn recall(&self, stamp: &Stamp) -> Option<Content> {
        let mut fields = Fields(&self.0.get(&stamp.key())?[KEY..]);
        let same = (fields.u64(), fields.i64(), fields.i64()) == (stamp.size, stamp.modified, stamp.changed);
        same.then(|| Content { sha256: fields.take(), size: stamp.size })
    }

    /// The bytes of a file that holds `learned` too; `None` if nothing of it can be relied on.
    pub(super) fn with(&self, learned: &[(Stamp, Content)]) -> Option<Vec<u8>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        let settled = learned.iter().filter(|(stamp, _)| stamp.changed <= now - SETTLED);
        let records: BTreeMap<_, _> = settled
            .map(|(stamp, content)| {
                let record = joined(&[
                    &stamp.key(),
                    &stamp.size.to_be_bytes(),
                    &stamp.modified.to_be_bytes(),
                    &stamp.changed.to_be_bytes(),
                    &content.sha256,
                ]);
                (stamp.key(), Some(record))
            })
            .collect();
        (!records.is_empty()).then(|| self.0.changed(&records))
    }

    /// The bytes of a file that holds only what has one of these digests; `None` if that is all.
    pub(super) fn without_all_but(&self, digests: &HashSet<[u8; 32]>) -> Option<Vec<u8>> {
        let dropped = self.0.records().iter().filter(|record| {
            let digest: Option<&[u8; 32]> = record[SIZE - 32..].first_chunk();
            digest.is_none_or(|digest| !digests.contains(digest))
        });
        let dropped: BTreeMap<[u8; KEY], _> =
            dropped.map(|record| (Fields(record).take::<KEY>(), None)).collect();
        (!dropped.is_empty()).then(|| self.0.changed(&dropped))
    }
}
