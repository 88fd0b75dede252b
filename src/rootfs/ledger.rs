//! The ledger: the stamp that each object of the store had when jailmk last touched it.
//!
//! A [`Table`], big endian: SHA-256, mode u32, modification time i64 ns; inode u64, size u64, change time
//! i64 ns.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;

use nix::sys::stat::{FileStat, SFlag};

use super::sources::nanoseconds;
use super::table::{Fields, Table, joined};
use crate::manifest::lock::{Hex, parse_hex};

const MAGIC: &[u8] = b"jailmk-ledger 1\n";
const KEY: usize = 32 + 4 + 8;
const SIZE: usize = KEY + 24;

/// All that two files must have in common to be one inode; the owner is that of the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Object {
    pub(super) sha256: [u8; 32],
    pub(super) mode: u32,
    /// Nanoseconds since 1970.
    pub(super) modified: i64,
}

impl Object {
    /// The name of its file.
    pub(super) fn name(&self) -> String {
        format!("{}-{:04o}-{:016x}", Hex(&self.sha256), self.mode, self.modified as u64)
    }

    /// The object that a file of this name is.
    pub(super) fn of_name(name: &CStr) -> Option<Object> {
        let mut parts = name.to_str().ok()?.split('-');
        let object = Object {
            sha256: parse_hex(parts.next()?)?,
            mode: u32::from_str_radix(parts.next()?, 8).ok()?,
            modified: u64::from_str_radix(parts.next()?, 16).ok()? as i64,
        };
        (object.name().as_bytes() == name.to_bytes()).then_some(object)
    }

    /// Whether a file has the kind, mode and time that the name says.
    pub(super) fn fits(&self, stat: &FileStat) -> bool {
        stat.st_mode == SFlag::S_IFREG.bits() | self.mode
            && nanoseconds(stat.st_mtime, stat.st_mtime_nsec) == self.modified
    }

    fn key(&self) -> [u8; KEY] {
        joined(&[&self.sha256, &self.mode.to_be_bytes(), &self.modified.to_be_bytes()])
    }
}

/// What tells whether an object's inode was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    pub(super) inode: u64,
    pub(super) size: u64,
    /// Nanoseconds since 1970.
    pub(super) changed: i64,
}

impl Stamp {
    pub(super) fn of(stat: &FileStat) -> Stamp {
        Stamp {
            inode: stat.st_ino,
            size: stat.st_size as u64,
            changed: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        }
    }

    fn read(record: &[u8; SIZE]) -> Stamp {
        let mut fields = Fields(&record[KEY..]);
        Stamp { inode: fields.u64(), size: fields.u64(), changed: fields.i64() }
    }
}

/// The stamps of all objects.
#[derive(Debug)]
pub(super) struct Ledger(Table<KEY, SIZE>);

impl Ledger {
    /// A ledger that is torn knows nothing: every object is read again before it is linked.
    pub(super) fn parse(bytes: Vec<u8>) -> Ledger {
        Ledger(Table::parse(MAGIC, bytes))
    }

    pub(super) fn get(&self, object: &Object) -> Option<Stamp> {
        self.0.get(&object.key()).map(Stamp::read)
    }

    /// Every stamp.
    pub(super) fn stamps(&self) -> impl Iterator<Item = Stamp> {
        self.0.records().iter().map(Stamp::read)
    }

    /// The object of each inode.
    pub(super) fn by_inode(&self) -> HashMap<u64, Object> {
        let records = self.0.records().iter().map(|record| {
            let mut fields = Fields(record);
            let sha256 = fields.take();
            let mode = u32::from_be_bytes(fields.take());
            (Stamp::read(record).inode, Object { sha256, mode, modified: fields.i64() })
        });
        records.collect()
    }

    /// The bytes of a ledger with these stamps; `None` for what is gone.
    pub(super) fn changed(&self, changes: &BTreeMap<Object, Option<Stamp>>) -> Vec<u8> {
        let record = |object: &Object, stamp: Stamp| {
            joined(&[
                &object.key(),
                &stamp.inode.to_be_bytes(),
                &stamp.size.to_be_bytes(),
                &stamp.changed.to_be_bytes(),
            ])
        };
        let changes = changes.iter().map(|(object, stamp)| (object.key(), stamp.map(|s| record(object, s))));
        self.0.changed(&changes.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_gives_back_what_was_entered() {
        let one = Object { sha256: [7; 32], mode: 0o555, modified: -5 };
        let two = Object { sha256: [7; 32], mode: 0o444, modified: 1_000_000_000 };
        let stamp = Stamp { inode: 12, size: 4096, changed: 77 };
        let changes = BTreeMap::from([(one, Some(stamp)), (two, None)]);
        let ledger = Ledger::parse(Ledger::parse(Vec::new()).changed(&changes));
        assert_eq!((ledger.get(&one), ledger.get(&two)), (Some(stamp), None));
        assert_eq!(ledger.by_inode(), HashMap::from([(12, one)]));
        assert_eq!(Ledger::parse(ledger.changed(&BTreeMap::from([(one, None)]))).stamps().count(), 0);
    }

    #[test]
    fn a_name_says_what_the_object_is() {
        let object = Object { sha256: [0xab; 32], mode: 0o555, modified: -1 };
        let name = std::ffi::CString::new(object.name()).unwrap();
        assert_eq!(Object::of_name(&name), Some(object));
        for bad in [c"", c"x", c"00-0555-0", c"lost+found"] {
            assert_eq!(Object::of_name(bad), None);
        }
    }
}
