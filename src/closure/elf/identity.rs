//! What an ELF file says about itself: its build-id and the package that it was built for.
//!
//! Source: gABI chapter 5, "Note Section"; `NT_GNU_BUILD_ID` of elf(5); "Package Metadata for Executable
//! Files" (UAPI.11, `.note.package`): a note of owner `FDO`, type 0xcafe1a7e, whose descriptor is JSON.
//! Notes are found in `PT_NOTE` segments, for sections may be stripped, and are no authority: whoever makes
//! a file writes into it what he likes.

use goblin::elf::program_header::{PT_NOTE, ProgramHeader};

use super::image::Blocks;
use super::{ReadAt, architecture, program_headers};

const NT_GNU_BUILD_ID: u32 = 3;
const PACKAGE: u32 = 0xcafe_1a7e;
/// All notes of one object; the largest honest ones have a few kilobytes.
const MAXIMUM_NOTES: u64 = 64 << 10;
/// SHA-512 would be 64.
const MAXIMUM_BUILD_ID: usize = 64;
/// What the kernel takes of an executable: 64 KiB of program headers.
const MAXIMUM_HEADERS: usize = 1170;

/// What an object says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `NT_GNU_BUILD_ID`: the same for the same build only.
    pub build_id: Option<Vec<u8>>,
    /// `.note.package`, where it is a JSON object.
    pub package: Option<serde_json::Map<String, serde_json::Value>>,
}

/// Reads the notes of a file; empty for what is no ELF file, or a damaged one. At most some 100 kilobytes
/// are read, whatever the file says.
pub fn identity(source: &(impl ReadAt + ?Sized)) -> Identity {
    let mut identity = Identity::default();
    // What is damaged from some point on is known up to there.
    let _ = each_note(source, |ElfNote { owner, kind, descriptor }| match (owner, kind) {
        (b"GNU\0", NT_GNU_BUILD_ID) if (1..=MAXIMUM_BUILD_ID).contains(&descriptor.len()) => {
            identity.build_id.get_or_insert_with(|| descriptor.to_vec());
        }
        (b"FDO\0", PACKAGE) => {
            let end = descriptor.iter().position(|byte| *byte == 0).unwrap_or(descriptor.len());
            // serde_json goes 128 levels deep, no further.
            if let Ok(package) = serde_json::from_slice(&descriptor[..end]) {
                identity.package.get_or_insert(package);
            }
        }
        _ => {}
    });
    identity
}

/// One note of a file.
#[derive(Clone, Copy, Debug)]
pub struct ElfNote<'a> {
    /// Whose type it is, with the NUL at its end.
    pub owner: &'a [u8],
    /// What it is, as its owner numbers it.
    pub kind: u32,
    /// What it says.
    pub descriptor: &'a [u8],
}

/// Calls `visit` with every note; `None` where the file ends or the bound is reached before its notes do.
pub fn each_note(source: &(impl ReadAt + ?Sized), mut visit: impl FnMut(ElfNote<'_>)) -> Option<()> {
    let mut left = MAXIMUM_NOTES;
    let (headers, little_endian) = headers(source)?;
    let number = |bytes: &[u8]| {
        let bytes = bytes.try_into().expect("BUG: four bytes are asked for");
        if little_endian { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    };
    for segment in headers.iter().filter(|header| header.p_type == PT_NOTE) {
        let size = segment.p_filesz.min(left);
        left -= size;
        let mut notes = vec![0; usize::try_from(size).ok()?];
        let read = source.read_at(&mut notes, segment.p_offset).ok()?;
        notes.truncate(read);
        // Of 8 byte alignment are the notes of newer processors' properties; all others of 4.
        let align = if segment.p_align == 8 { 8 } else { 4 };
        let mut rest = &notes[..];
        while rest.len() >= 12 {
            let [name, length, kind] = [0, 4, 8].map(|at| number(&rest[at..at + 4]));
            let start = (12 + name as usize).next_multiple_of(align);
            let end = start + length as usize;
            let (Some(owner), Some(descriptor)) = (rest.get(12..12 + name as usize), rest.get(start..end))
            else {
                return None;
            };
            visit(ElfNote { owner, kind, descriptor });
            rest = rest.get(end.next_multiple_of(align)..).unwrap_or_default();
        }
    }
    Some(())
}

fn headers(source: &(impl ReadAt + ?Sized)) -> Option<(Vec<ProgramHeader>, bool)> {
    let blocks = Blocks::new(source);
    let mut first = [0; 64];
    let length = blocks.read(0, &mut first).ok()?;
    let architecture = architecture(&first[..length]).ok()?;
    let header = goblin::elf::Elf::parse_header(&first[..length]).ok()?;
    if usize::from(header.e_phnum) > MAXIMUM_HEADERS {
        return None;
    }
    let headers = program_headers(&blocks, &header, architecture).ok()?;
    Some((headers, architecture.little_endian))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(owner: &[u8], kind: u32, descriptor: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for number in [owner.len() as u32, descriptor.len() as u32, kind] {
            out.extend(number.to_le_bytes());
        }
        for part in [owner, descriptor] {
            out.extend(part);
            out.resize(out.len().next_multiple_of(4), 0);
        }
        out
    }

    /// A 64 bit file of one note segment, which says that it has `size` bytes.
    fn file(notes: &[u8], size: u64) -> Vec<u8> {
        let mut out = vec![0; 120];
        out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
        out[16..24].copy_from_slice(&[3, 0, 62, 0, 1, 0, 0, 0]);
        out[32] = 64;
        out[52..58].copy_from_slice(&[64, 0, 56, 0, 1, 0]);
        out[64] = 4;
        out[72] = 120;
        out[96..104].copy_from_slice(&size.to_le_bytes());
        out[112] = 4;
        out.extend(notes);
        out
    }

    #[test]
    fn the_build_id_and_the_package_are_read() {
        let json = br#"{"type":"deb","name":"x","version":"1"}"#;
        let notes = [note(b"GNU\0", 3, &[0xab, 0xcd]), note(b"FDO\0", PACKAGE, json)].concat();
        let identity = identity(&file(&notes, notes.len() as u64)[..]);
        assert_eq!(identity.build_id.as_deref(), Some(&[0xab, 0xcd][..]));
        assert_eq!(identity.package.unwrap()["name"], "x");
    }

    #[test]
    fn a_damaged_note_ends_the_reading_and_nothing_else() {
        let good = note(b"GNU\0", 3, &[1]);
        let huge = [good.clone(), [0xff; 12].to_vec()].concat();
        assert_eq!(identity(&file(&huge, u64::MAX)[..]).build_id.as_deref(), Some(&[1][..]));
        assert_eq!(identity(&file(&good, 4)[..]), Identity::default());
        assert_eq!(identity(&b"#!/bin/sh"[..]), Identity::default());
        let text = note(b"FDO\0", PACKAGE, &[b'['; 60000]);
        assert_eq!(identity(&file(&text, text.len() as u64)[..]), Identity::default());
    }

    #[test]
    fn this_program_has_the_build_id_that_its_linker_gave_it() {
        let program = std::fs::File::open("/bin/sh").unwrap();
        if let Some(build_id) = identity(&program).build_id {
            assert!((8..=32).contains(&build_id.len()), "{build_id:x?}");
        }
    }
}
