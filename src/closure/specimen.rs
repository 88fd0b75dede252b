//! Small ELF files for tests, made by hand: one segment, one dynamic table.

use goblin::elf::dynamic::{DT_FLAGS_1, DT_NULL, DT_STRTAB};

/// Where the strings and the table of a specimen lie: addresses and file offsets are the same.
pub const STRINGS: u64 = 0x400;
pub const TABLE: u64 = 0x800;
pub const SIZE: usize = 0x1000;

/// A 64 bit little-endian x86-64 object.
#[derive(Clone, Default)]
pub struct Specimen {
    pub interpreter: Option<&'static str>,
    pub entries: Vec<(u64, &'static [u8])>,
    pub flags_1: u64,
}

impl Specimen {
    pub fn with(mut self, tag: u64, name: &'static (impl AsRef<[u8]> + ?Sized)) -> Specimen {
        self.entries.push((tag, name.as_ref()));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; SIZE];
        out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        let put = |out: &mut Vec<u8>, at: usize, bytes: &[u8]| {
            out[at..at + bytes.len()].copy_from_slice(bytes);
        };
        let mut headers = vec![(1u32, 0u64, SIZE as u64)];
        let mut strings = vec![0];
        if let Some(interpreter) = self.interpreter {
            headers.insert(0, (3, STRINGS + 1, interpreter.len() as u64 + 1));
            strings.extend(interpreter.bytes().chain([0]));
        }
        let mut table = vec![(DT_STRTAB, STRINGS), (DT_FLAGS_1, self.flags_1)];
        for (tag, name) in &self.entries {
            table.push((*tag, strings.len() as u64));
            strings.extend(name.iter().chain([&0]));
        }
        table.push((DT_NULL, 0));
        headers.push((2, TABLE, table.len() as u64 * 16));
        put(&mut out, 16, &[3, 0, 62, 0, 1, 0, 0, 0]);
        put(&mut out, 32, &64u64.to_le_bytes());
        put(&mut out, 52, &[64, 0, 56, 0, headers.len() as u8, 0]);
        for (index, (kind, at, size)) in headers.iter().enumerate() {
            let start = 64 + index * 56;
            put(&mut out, start, &kind.to_le_bytes());
            put(&mut out, start + 4, &[4, 0, 0, 0]);
            for (field, value) in [*at, *at, *at, *size, *size, 0x1000].iter().enumerate() {
                put(&mut out, start + 8 + field * 8, &value.to_le_bytes());
            }
        }
        put(&mut out, STRINGS as usize, &strings);
        let table: Vec<u8> =
            table.iter().flat_map(|(tag, value)| [*tag, *value]).flat_map(u64::to_le_bytes).collect();
        put(&mut out, TABLE as usize, &table);
        out
    }
}
