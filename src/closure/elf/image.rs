//! A file as its loader sees it: addresses found in the file through the segments, read in blocks.

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;

use goblin::elf::program_header::{PT_LOAD, ProgramHeader};
use nix::errno::Errno;

use super::{Architecture, Class, Defect};

/// One read covers the headers of nearly every file, another its names.
const BLOCK: usize = 4096;
/// Blocks of one file that are kept: 64 KiB.
const KEPT: usize = 16;
/// PATH_MAX: no longer name can be opened.
pub const MAXIMUM_STRING: usize = 4096;
/// The smallest page: segments are mapped by whole pages.
const PAGE: u64 = 4096;

/// Something that can be read at an offset: a file, or bytes.
pub trait ReadAt {
    /// Reads as much as is there, at most the length of `buffer`.
    ///
    /// # Errors
    /// As pread(2).
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno>;
}

impl ReadAt for std::fs::File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let mut length = 0;
        while length < buffer.len() {
            // A regular file gives less than was asked for only at its end, or after a signal.
            match FileExt::read_at(self, &mut buffer[length..], offset + length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)),
            }
        }
        Ok(length)
    }
}

impl ReadAt for [u8] {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let rest = usize::try_from(offset).ok().and_then(|start| self.get(start..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }
}

/// A file read in whole blocks, the last few kept: what a loader looks at lies close together.
pub struct Blocks<'a, S: ReadAt + ?Sized> {
    source: &'a S,
    kept: RefCell<Vec<(u64, Vec<u8>)>>,
}

impl<'a, S: ReadAt + ?Sized> Blocks<'a, S> {
    pub fn new(source: &'a S) -> Blocks<'a, S> {
        Blocks { source, kept: RefCell::default() }
    }

    /// Hands what is in the file from `offset` to the end of its block to `look`; nothing at the end.
    pub fn with<T>(&self, offset: u64, look: impl FnOnce(&[u8]) -> T) -> Result<T, Defect> {
        let block = offset / BLOCK as u64;
        let mut kept = self.kept.borrow_mut();
        let at = match kept.iter().position(|(known, _)| *known == block) {
            Some(at) => at,
            None => {
                let mut bytes = match kept.len() {
                    0..KEPT => SPARE.with_borrow_mut(Vec::pop).unwrap_or_default(),
                    _ => kept.remove(0).1,
                };
                bytes.resize(BLOCK, 0);
                let read = self.source.read_at(&mut bytes, block * BLOCK as u64).map_err(Defect::Read)?;
                bytes.truncate(read);
                kept.push((block, bytes));
                kept.len() - 1
            }
        };
        Ok(look(kept[at].1.get((offset % BLOCK as u64) as usize..).unwrap_or_default()))
    }

    /// Reads as much as is there.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize, Defect> {
        let mut length = 0;
        while length < out.len() {
            let Some(at) = offset.checked_add(length as u64) else { break };
            let read = self.with(at, |bytes| {
                let read = bytes.len().min(out.len() - length);
                out[length..length + read].copy_from_slice(&bytes[..read]);
                read
            })?;
            if read == 0 {
                break;
            }
            length += read;
        }
        Ok(length)
    }
}

thread_local! {
    /// Blocks of files that were read before: taking and giving back the memory of each costs as much as
    /// reading it.
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

impl<S: ReadAt + ?Sized> Drop for Blocks<'_, S> {
    fn drop(&mut self) {
        SPARE.with_borrow_mut(|spare| {
            let room = KEPT.saturating_sub(spare.len());
            spare.extend(self.kept.get_mut().drain(..).take(room).map(|(_, bytes)| bytes));
        });
    }
}

/// A place in the file, and how many bytes of its segment follow in the file and in memory.
#[derive(Clone, Copy)]
pub struct Place {
    pub offset: u64,
    pub in_file: u64,
    pub in_memory: u64,
}

/// A file seen through its segments.
pub struct Image<'a, 'b, S: ReadAt + ?Sized> {
    pub blocks: &'b Blocks<'a, S>,
    pub architecture: Architecture,
    segments: Vec<&'b ProgramHeader>,
}

impl<'a, 'b, S: ReadAt + ?Sized> Image<'a, 'b, S> {
    pub fn new(
        blocks: &'b Blocks<'a, S>,
        architecture: Architecture,
        headers: &'b [ProgramHeader],
    ) -> Image<'a, 'b, S> {
        let segments = headers.iter().filter(|header| header.p_type == PT_LOAD).collect();
        Image { blocks, architecture, segments }
    }

    /// What keeps glibc from mapping the segments, on machines of the smallest page too.
    pub fn unmappable(&self) -> Option<Defect> {
        if self.segments.is_empty() {
            return Some(Defect::NoSegments);
        }
        let crooked =
            |segment: &&ProgramHeader| segment.p_vaddr.wrapping_sub(segment.p_offset) & (PAGE - 1) != 0;
        self.segments.iter().copied().find(crooked).map(|_| Defect::Alignment)
    }

    /// Where an address is in the file. Segments are mapped in order, by whole pages, each over what
    /// was there: so the last one wins.
    pub fn place(&self, address: u64) -> Result<Place, Defect> {
        for segment in self.segments.iter().rev() {
            let start = segment.p_vaddr & !(PAGE - 1);
            let end = segment.p_vaddr.checked_add(segment.p_memsz).ok_or(Defect::Unmapped)?;
            if !(start..end).contains(&address) {
                continue;
            }
            let file_end = segment.p_vaddr.checked_add(segment.p_filesz).ok_or(Defect::Unmapped)?;
            let offset = i128::from(segment.p_offset) + i128::from(address) - i128::from(segment.p_vaddr);
            return Ok(Place {
                offset: u64::try_from(offset).map_err(|_| Defect::Unmapped)?,
                in_file: file_end.saturating_sub(address),
                in_memory: end - address,
            });
        }
        Err(Defect::Unmapped)
    }

    /// Exactly `N` bytes at an address.
    pub fn bytes<const N: usize>(&self, address: u64) -> Result<[u8; N], Defect> {
        let place = self.place(address)?;
        let mut out = [0; N];
        if place.in_file < N as u64 || self.blocks.read(place.offset, &mut out)? < N {
            return Err(Defect::Unmapped);
        }
        Ok(out)
    }

    /// The string at an address, without its NUL.
    pub fn string(&self, address: u64) -> Result<OsString, Defect> {
        let place = self.place(address)?;
        let limit = place.in_file.min(MAXIMUM_STRING as u64) as usize;
        let mut name = Vec::new();
        while name.len() < limit {
            let at = place.offset.checked_add(name.len() as u64).ok_or(Defect::Unmapped)?;
            let (read, ended) = self.blocks.with(at, |bytes| {
                let bytes = &bytes[..bytes.len().min(limit - name.len())];
                let end = bytes.iter().position(|byte| *byte == 0);
                name.extend(&bytes[..end.unwrap_or(bytes.len())]);
                (bytes.len(), end.is_some())
            })?;
            if ended {
                return Ok(OsString::from_vec(name));
            }
            if read == 0 {
                return Err(Defect::Unmapped);
            }
        }
        // Memory behind the file's part of a segment is zero.
        if limit < MAXIMUM_STRING && place.in_memory > place.in_file {
            return Ok(OsString::from_vec(name));
        }
        Err(if limit == MAXIMUM_STRING { Defect::LongName } else { Defect::Unmapped })
    }

    /// A number of the file's byte order.
    pub fn number(&self, bytes: &[u8]) -> u64 {
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        if self.architecture.little_endian {
            bytes.iter().rev().fold(0, fold)
        } else {
            bytes.iter().fold(0, fold)
        }
    }

    /// Walks the dynamic table at an address until its end.
    pub fn walk(
        &self,
        address: u64,
        mut entry: impl FnMut(u64, u64) -> Result<(), Defect>,
    ) -> Result<(), Defect> {
        let word = match self.architecture.class {
            Class::Bits32 => 4,
            Class::Bits64 => 8,
        };
        let place = self.place(address)?;
        let mut buffer = [0; 2 * 8];
        let pair = &mut buffer[..2 * word];
        let mut at = 0;
        while place.in_file.saturating_sub(at) >= pair.len() as u64 {
            let offset = place.offset.checked_add(at).ok_or(Defect::Endless)?;
            if self.blocks.read(offset, pair)? < pair.len() {
                return Err(Defect::Endless);
            }
            let (tag, value) = (self.number(&pair[..word]), self.number(&pair[word..]));
            if tag == goblin::elf::dynamic::DT_NULL {
                return Ok(());
            }
            entry(tag, value)?;
            at += pair.len() as u64;
        }
        // Memory behind the file's part of a segment is zero, which ends the table.
        if place.in_memory >= at + pair.len() as u64 { Ok(()) } else { Err(Defect::Endless) }
    }
}
