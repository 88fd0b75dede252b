//! A file of records of one size, sorted by the key that each begins with: looked up as it lies on the
//! disk, so that a large state costs a build no parsing.

use std::collections::BTreeMap;

/// Records of `SIZE` bytes, the first `KEY` of which are different in each.
#[derive(Debug)]
pub(super) struct Table<const KEY: usize, const SIZE: usize> {
    magic: &'static [u8],
    bytes: Vec<u8>,
}

impl<const KEY: usize, const SIZE: usize> Table<KEY, SIZE> {
    /// The table in `bytes`. One that is cut off, or is none, is empty: whoever asks it then looks for
    /// themselves. Order is not checked, for a record that is out of order is only not found.
    pub(super) fn parse(magic: &'static [u8], mut bytes: Vec<u8>) -> Table<KEY, SIZE> {
        let whole = bytes.strip_prefix(magic).is_some_and(|records| records.len().is_multiple_of(SIZE));
        if !whole {
            bytes = magic.to_vec();
        }
        Table { magic, bytes }
    }

    pub(super) fn records(&self) -> &[[u8; SIZE]] {
        let records = self.bytes.get(self.magic.len()..).unwrap_or_default();
        records.as_chunks::<SIZE>().0
    }

    pub(super) fn get(&self, key: &[u8; KEY]) -> Option<&[u8; SIZE]> {
        let records = self.records();
        let at = records.binary_search_by(|record| record[..KEY].cmp(key.as_slice())).ok()?;
        records.get(at)
    }

    /// The bytes of a table with `changes` made: `None` takes the record of that key away.
    pub(super) fn changed(&self, changes: &BTreeMap<[u8; KEY], Option<[u8; SIZE]>>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.bytes.len() + changes.len() * SIZE);
        bytes.extend_from_slice(self.magic);
        let mut changes = changes.iter().peekable();
        for record in self.records() {
            while let Some((key, change)) = changes.next_if(|(key, _)| key.as_slice() < &record[..KEY]) {
                debug_assert!(change.is_none_or(|record| record[..KEY] == key[..]));
                bytes.extend(change.iter().flatten());
            }
            match changes.next_if(|(key, _)| key.as_slice() == &record[..KEY]) {
                Some((_, change)) => bytes.extend(change.iter().flatten()),
                None => bytes.extend_from_slice(record),
            }
        }
        changes.for_each(|(_, change)| bytes.extend(change.iter().flatten()));
        bytes
    }
}

/// Reads the fields of a record one after the other.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl Fields<'_> {
    pub(super) fn take<const LENGTH: usize>(&mut self) -> [u8; LENGTH] {
        let (field, rest) = self.0.split_first_chunk().expect("BUG: a record has all its fields");
        self.0 = rest;
        *field
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    pub(super) fn i64(&mut self) -> i64 {
        i64::from_be_bytes(self.take())
    }
}

/// Puts fields one after the other.
pub(super) fn joined<const SIZE: usize>(fields: &[&[u8]]) -> [u8; SIZE] {
    let mut record = [0; SIZE];
    let mut rest = record.as_mut_slice();
    for field in fields {
        let (place, after) = rest.split_at_mut(field.len());
        place.copy_from_slice(field);
        rest = after;
    }
    assert!(rest.is_empty(), "BUG: a record has a field too few");
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAGIC: &[u8] = b"test 1\n";

    fn changes(list: &[(u8, Option<u8>)]) -> BTreeMap<[u8; 1], Option<[u8; 2]>> {
        list.iter().map(|(key, value)| ([*key], value.map(|value| [*key, value]))).collect()
    }

    #[test]
    fn changes_add_replace_and_remove() {
        let empty = Table::<1, 2>::parse(MAGIC, Vec::new());
        let first = empty.changed(&changes(&[(5, Some(1)), (3, Some(1)), (9, Some(1)), (4, None)]));
        let first = Table::<1, 2>::parse(MAGIC, first);
        assert_eq!(first.records(), [[3, 1], [5, 1], [9, 1]]);
        let second = first.changed(&changes(&[(1, Some(2)), (3, None), (5, Some(2)), (12, Some(2))]));
        let second = Table::<1, 2>::parse(MAGIC, second);
        assert_eq!(second.records(), [[1, 2], [5, 2], [9, 1], [12, 2]]);
        assert_eq!(second.get(&[9]), Some(&[9, 1]));
        assert_eq!(second.get(&[3]), None);
    }

    #[test]
    fn a_torn_table_is_empty() {
        let table = Table::<1, 2>::parse(MAGIC, Vec::new()).changed(&changes(&[(5, Some(1))]));
        for length in 0..table.len() {
            let torn = Table::<1, 2>::parse(MAGIC, table[..length].to_vec());
            assert_eq!(torn.get(&[5]), None, "{length}");
            assert_eq!(torn.changed(&BTreeMap::new()), MAGIC);
        }
    }
}
