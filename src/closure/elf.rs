//! An ELF file → [`Object`]: what its loader reads of it, and no more.
//!
//! The headers are goblin's; the dynamic table is walked here, as the loader does: found through its
//! virtual address, the last `PT_DYNAMIC` and the last single-valued tag winning, strings as bytes.
//! Section headers are never used, for nothing at run time checks them. Reads are bounded whatever the
//! file says, and nothing is mapped, so a file that shrinks meanwhile is an error and no signal.
//! Source: gABI chapter 5, elf(5), glibc's elf/get-dynamic-info.h.

pub mod identity;

use std::cell::RefCell;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::dynamic::{
    DT_AUDIT, DT_DEPAUDIT, DT_FLAGS_1, DT_NEEDED, DT_NULL, DT_RPATH, DT_RUNPATH, DT_SONAME, DT_STRTAB,
};
use goblin::elf::header::{EI_CLASS, EI_DATA, EI_OSABI, ELFCLASS32, ELFCLASS64, ET_DYN, ET_EXEC, Header};
use goblin::elf::program_header::{PT_DYNAMIC, PT_INTERP, PT_LOAD, ProgramHeader};
use nix::errno::Errno;

/// One read covers the headers of nearly every file.
const FIRST_READ: usize = 1024;
/// One read covers the dynamic table or the strings of nearly every file.
const WINDOW: usize = 4096;
/// PATH_MAX: no longer name can be opened.
const MAXIMUM_STRING: usize = 4096;
/// Entries of a dynamic table; large ones have a few hundred.
const MAXIMUM_ENTRIES: usize = 1 << 16;
/// Names that one object may ask for.
const MAXIMUM_NEEDED: usize = 8192;
/// The smallest page: segments are mapped by whole pages.
const PAGE: u64 = 4096;

/// Filters, which goblin does not name.
const DT_AUXILIARY: u64 = 0x7fff_fffd;
const DT_FILTER: u64 = 0x7fff_ffff;
/// `DF_1_NODEFLIB` of `DT_FLAGS_1`.
const DF_1_NODEFLIB: u64 = 0x800;
/// `DF_1_PIE` of `DT_FLAGS_1`.
const DF_1_PIE: u64 = 0x0800_0000;

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

/// 32 or 64 bit: `EI_CLASS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// ELFCLASS32
    Bits32,
    /// ELFCLASS64
    Bits64,
}

/// Which loader an object is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Architecture {
    /// Word size.
    pub class: Class,
    /// `EI_DATA`: least significant byte first.
    pub little_endian: bool,
    /// `e_machine`
    pub machine: u16,
}

/// `DT_AUXILIARY` or `DT_FILTER`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The library that stands before this one.
    pub name: OsString,
    /// `DT_FILTER`: it must be there.
    pub required: bool,
}

/// What the loader reads of an ELF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Whom it is for.
    pub architecture: Architecture,
    /// ET_EXEC and not ET_DYN.
    pub fixed: bool,
    /// Whether there is a dynamic table: without one it is no shared object.
    pub dynamic: bool,
    /// `PT_DYNAMIC` without bytes: debug information split off a program.
    pub split_debug: bool,
    /// `PT_INTERP`
    pub interpreter: Option<OsString>,
    /// `DT_NEEDED`, in order.
    pub needed: Vec<OsString>,
    /// `DT_SONAME`
    pub soname: Option<OsString>,
    /// `DT_RPATH`; `None` beside `DT_RUNPATH`, as glibc treats it.
    pub rpath: Option<OsString>,
    /// `DT_RUNPATH`
    pub runpath: Option<OsString>,
    /// `DT_FLAGS_1`
    pub flags_1: u64,
    /// `DT_AUXILIARY` and `DT_FILTER`, in order.
    pub filters: Vec<Filter>,
    /// `DT_AUDIT`
    pub audit: Option<OsString>,
    /// `DT_DEPAUDIT`
    pub depaudit: Option<OsString>,
    /// What makes glibc refuse it as a library although the kernel would run it.
    pub irregular: Option<Defect>,
}

impl Object {
    /// `DF_1_NODEFLIB`: its needs are not looked for in default directories.
    pub fn is_nodeflib(&self) -> bool {
        self.flags_1 & DF_1_NODEFLIB != 0
    }

    /// Run by the kernel alone: static, static and position independent, or no program at all.
    pub fn is_static(&self) -> bool {
        self.interpreter.is_none() && (!self.dynamic || self.fixed || self.flags_1 & DF_1_PIE != 0)
    }
}

/// An ELF file that a loader would refuse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{defect}")]
pub struct Malformed {
    /// Whom it would be for, if that can be read.
    pub architecture: Option<Architecture>,
    /// What is wrong.
    pub defect: Defect,
}

/// What is wrong with an ELF file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(Errno),
    /// Shorter than an ELF header.
    #[error("the file is too short for an ELF header")]
    TooShort,
    /// No magic, or an unknown class or byte order.
    #[error("it has no ELF header")]
    NotElf,
    /// Another byte order than the program's.
    #[error("its byte order is not the program's")]
    ByteOrder,
    /// `EI_VERSION` or `e_version` is not 1.
    #[error("its ELF version is not 1")]
    Version,
    /// `EI_OSABI` is neither System V nor GNU.
    #[error("its ELF OS ABI is neither System V nor GNU")]
    OsAbi,
    /// `EI_PAD` is not zero.
    #[error("the padding of its ELF header is not zero")]
    Padding,
    /// Neither ET_EXEC nor ET_DYN.
    #[error("it is neither an executable nor a shared object")]
    Type,
    /// `e_phentsize` is not the size of a program header, or the table is not in the file.
    #[error("its program headers are damaged")]
    ProgramHeaders,
    /// `PT_INTERP` is empty, too long, or not ended by NUL.
    #[error("its interpreter's name is damaged")]
    Interpreter,
    /// A candidate library without `PT_DYNAMIC`.
    #[error("it has no dynamic section")]
    NoDynamic,
    /// An address of the dynamic table is not in a loaded segment.
    #[error("an address in its dynamic section lies outside of its segments")]
    Unmapped,
    /// The dynamic table does not end in its segment.
    #[error("its dynamic section does not end")]
    Endless,
    /// A name without end.
    #[error("a name in its dynamic section is longer than a path may be")]
    LongName,
    /// More names than any real object asks for.
    #[error("it asks for more than {MAXIMUM_NEEDED} libraries")]
    TooManyNeeded,
    /// For another word size or machine, where the loader does not look further.
    #[error("it is for another architecture")]
    Architecture,
    /// What is there is no file that can be loaded.
    #[error("it is {}, which the loader would try to read", .0.name())]
    NotRegular(super::root::FileKind),
}

impl Defect {
    /// glibc looks at these before it compares `e_machine`.
    pub fn precedes_machine(self) -> bool {
        matches!(self, Defect::ByteOrder | Defect::Version | Defect::OsAbi | Defect::Padding)
    }
}

/// Reads what a loader reads of an ELF file: at most a few kilobytes of an honest one.
///
/// # Errors
/// [`Malformed`], also for what is no ELF file.
pub fn parse(source: &(impl ReadAt + ?Sized)) -> Result<Object, Malformed> {
    let mut first = [0; FIRST_READ];
    let bare = |defect| Malformed { architecture: None, defect };
    let length = source.read_at(&mut first, 0).map_err(|errno| bare(Defect::Read(errno)))?;
    let first = &first[..length];
    let architecture = architecture(first).map_err(bare)?;
    parse_rest(source, first, architecture)
        .map_err(|defect| Malformed { architecture: Some(architecture), defect })
}

/// Whether a file that begins with `bytes` says that it is ELF.
pub fn is_elf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x7fELF")
}

fn architecture(first: &[u8]) -> Result<Architecture, Defect> {
    if first.len() >= 4 && !is_elf(first) {
        return Err(Defect::NotElf);
    }
    if first.len() < 52 {
        return Err(Defect::TooShort);
    }
    let class = match first[EI_CLASS] {
        ELFCLASS32 => Class::Bits32,
        ELFCLASS64 => Class::Bits64,
        _ => return Err(Defect::NotElf),
    };
    let little_endian = match first[EI_DATA] {
        1 => true,
        2 => false,
        _ => return Err(Defect::NotElf),
    };
    let machine = [first[18], first[19]];
    let machine = if little_endian { u16::from_le_bytes(machine) } else { u16::from_be_bytes(machine) };
    Ok(Architecture { class, little_endian, machine })
}

fn parse_rest(
    source: &(impl ReadAt + ?Sized),
    first: &[u8],
    architecture: Architecture,
) -> Result<Object, Defect> {
    let header = goblin::elf::Elf::parse_header(first).map_err(|_| Defect::TooShort)?;
    if !matches!(header.e_type, ET_EXEC | ET_DYN) {
        return Err(Defect::Type);
    }
    let image = Image {
        source,
        architecture,
        headers: program_headers(source, first, &header, architecture)?,
        window: RefCell::default(),
    };
    let mut object = Object {
        architecture,
        fixed: header.e_type == ET_EXEC,
        dynamic: false,
        split_debug: false,
        interpreter: None,
        needed: Vec::new(),
        soname: None,
        rpath: None,
        runpath: None,
        flags_1: 0,
        filters: Vec::new(),
        audit: None,
        depaudit: None,
        irregular: irregular(&header),
    };
    // The kernel takes the first PT_INTERP and reads it at its file offset.
    if let Some(interpreter) = image.headers.iter().find(|header| header.p_type == PT_INTERP) {
        if interpreter.p_filesz == 0 {
            object.split_debug = true;
            return Ok(object);
        }
        object.interpreter = Some(image.interpreter(interpreter, first)?);
    }
    let mut tables = image.headers.iter().filter(|header| header.p_type == PT_DYNAMIC);
    object.split_debug = tables.clone().any(|table| table.p_filesz == 0);
    if let Some(table) = tables.rfind(|table| table.p_filesz != 0) {
        object.dynamic = true;
        object.split_debug = false;
        image.dynamic(table.p_vaddr, &mut object)?;
    }
    Ok(object)
}

fn irregular(header: &Header) -> Option<Defect> {
    let ident = &header.e_ident;
    if ident[6] != 1 || header.e_version != 1 {
        Some(Defect::Version)
    } else if !matches!(ident[EI_OSABI], 0 | 3) {
        Some(Defect::OsAbi)
    } else if ident[9..].iter().any(|byte| *byte != 0) {
        Some(Defect::Padding)
    } else {
        None
    }
}

fn program_headers(
    source: &(impl ReadAt + ?Sized),
    first: &[u8],
    header: &Header,
    architecture: Architecture,
) -> Result<Vec<ProgramHeader>, Defect> {
    let (container, size) = match architecture.class {
        Class::Bits32 => (Container::Little, 32),
        Class::Bits64 => (Container::Big, 56),
    };
    let endian = if architecture.little_endian { Endian::Little } else { Endian::Big };
    let count = usize::from(header.e_phnum);
    if count == 0 {
        return Ok(Vec::new());
    }
    // PN_XNUM: the count is elsewhere, more than any loader takes.
    if usize::from(header.e_phentsize) != size || header.e_phnum == u16::MAX {
        return Err(Defect::ProgramHeaders);
    }
    let length = count * size;
    let inside = usize::try_from(header.e_phoff)
        .ok()
        .and_then(|start| start.checked_add(length).and_then(|end| first.get(start..end)));
    let table: std::borrow::Cow<'_, [u8]> = match inside {
        Some(table) => table.into(),
        None => {
            let mut table = vec![0; length];
            if source.read_at(&mut table, header.e_phoff).map_err(Defect::Read)? < length {
                return Err(Defect::ProgramHeaders);
            }
            table.into()
        }
    };
    ProgramHeader::parse(&table, 0, count, Ctx::new(container, endian)).map_err(|_| Defect::ProgramHeaders)
}

/// A file seen through its segments.
struct Image<'a, S: ReadAt + ?Sized> {
    source: &'a S,
    architecture: Architecture,
    headers: Vec<ProgramHeader>,
    /// The last bytes read, and where: strings lie together.
    window: RefCell<(u64, Vec<u8>)>,
}

/// A place in the file, and how many bytes of its segment follow in the file and in memory.
struct Place {
    offset: u64,
    in_file: u64,
    in_memory: u64,
}

impl<S: ReadAt + ?Sized> Image<'_, S> {
    fn interpreter(&self, header: &ProgramHeader, first: &[u8]) -> Result<OsString, Defect> {
        let length = usize::try_from(header.p_filesz).unwrap_or(usize::MAX);
        if !(2..=MAXIMUM_STRING).contains(&length) {
            return Err(Defect::Interpreter);
        }
        let start = usize::try_from(header.p_offset).unwrap_or(usize::MAX);
        let mut name = vec![0; length];
        let read = match start.checked_add(length).and_then(|end| first.get(start..end)) {
            Some(bytes) => {
                name.copy_from_slice(bytes);
                length
            }
            None => self.source.read_at(&mut name, header.p_offset).map_err(Defect::Read)?,
        };
        if read < length || name.pop() != Some(0) {
            return Err(Defect::Interpreter);
        }
        // The kernel stops at the first NUL.
        if let Some(end) = name.iter().position(|byte| *byte == 0) {
            name.truncate(end);
        }
        if name.is_empty() { Err(Defect::Interpreter) } else { Ok(OsString::from_vec(name)) }
    }

    /// Where an address is in the file. Segments are mapped in order, by whole pages, each over what
    /// was there: so the last one wins.
    fn place(&self, address: u64) -> Result<Place, Defect> {
        for segment in self.headers.iter().rev().filter(|header| header.p_type == PT_LOAD) {
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

    fn dynamic(&self, address: u64, object: &mut Object) -> Result<(), Defect> {
        let word = match self.architecture.class {
            Class::Bits32 => 4,
            Class::Bits64 => 8,
        };
        let place = self.place(address)?;
        let mut table = Table::default();
        let mut buffer = [0; WINDOW];
        let mut at = 0;
        'table: loop {
            let wanted = (place.in_file.saturating_sub(at)).min(WINDOW as u64) as usize;
            let read = self
                .source
                .read_at(&mut buffer[..wanted], place.offset.checked_add(at).ok_or(Defect::Endless)?)
                .map_err(Defect::Read)?;
            let whole = read / (2 * word);
            for entry in buffer[..read].chunks_exact(2 * word) {
                let (tag, value) = (self.word(&entry[..word]), self.word(&entry[word..]));
                if tag == DT_NULL {
                    break 'table;
                }
                table.add(tag, value)?;
            }
            at += (whole * 2 * word) as u64;
            if whole == 0 {
                // Memory behind the file's part of a segment is zero, which ends the table.
                if place.in_memory >= at + 2 * word as u64
                    && place.in_file.saturating_sub(at) < 2 * word as u64
                {
                    break;
                }
                return Err(Defect::Endless);
            }
        }
        self.names(&table, object)
    }

    fn word(&self, bytes: &[u8]) -> u64 {
        let little = self.architecture.little_endian;
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        if little { bytes.iter().rev().fold(0, fold) } else { bytes.iter().fold(0, fold) }
    }

    fn names(&self, table: &Table, object: &mut Object) -> Result<(), Defect> {
        object.flags_1 = table.flags_1;
        if table.is_nameless() {
            return Ok(());
        }
        let strings = table.strings.ok_or(Defect::Unmapped)?;
        let string = |offset: u64| self.string(strings.checked_add(offset).ok_or(Defect::Unmapped)?);
        let optional = |offset: Option<u64>| offset.map(string).transpose();
        object.needed = table.needed.iter().map(|offset| string(*offset)).collect::<Result<_, _>>()?;
        object.soname = optional(table.soname)?;
        object.runpath = optional(table.runpath)?;
        object.rpath = if object.runpath.is_some() { None } else { optional(table.rpath)? };
        object.audit = optional(table.audit)?;
        object.depaudit = optional(table.depaudit)?;
        for (offset, required) in &table.filters {
            object.filters.push(Filter { name: string(*offset)?, required: *required });
        }
        Ok(())
    }

    fn string(&self, address: u64) -> Result<OsString, Defect> {
        let place = self.place(address)?;
        let limit = place.in_file.min(MAXIMUM_STRING as u64) as usize;
        if let Some(string) = self.in_window(place.offset, limit) {
            return Ok(string);
        }
        let mut bytes = vec![0; WINDOW];
        let read = self.source.read_at(&mut bytes, place.offset).map_err(Defect::Read)?;
        bytes.truncate(read);
        *self.window.borrow_mut() = (place.offset, bytes);
        if let Some(string) = self.in_window(place.offset, limit) {
            return Ok(string);
        }
        let window = self.window.borrow();
        // As in `dynamic`: zeros follow the file's part.
        if limit < MAXIMUM_STRING && place.in_memory > place.in_file && window.1.len() >= limit {
            return Ok(OsString::from_vec(window.1[..limit].to_vec()));
        }
        Err(if limit == MAXIMUM_STRING { Defect::LongName } else { Defect::Unmapped })
    }

    fn in_window(&self, offset: u64, limit: usize) -> Option<OsString> {
        let window = self.window.borrow();
        let start = usize::try_from(offset.checked_sub(window.0)?).ok()?;
        let rest = window.1.get(start..)?;
        let end = rest.iter().take(limit).position(|byte| *byte == 0)?;
        Some(OsString::from_vec(rest[..end].to_vec()))
    }
}

/// A dynamic table before its names are read.
#[derive(Default)]
struct Table {
    entries: usize,
    strings: Option<u64>,
    needed: Vec<u64>,
    filters: Vec<(u64, bool)>,
    soname: Option<u64>,
    rpath: Option<u64>,
    runpath: Option<u64>,
    audit: Option<u64>,
    depaudit: Option<u64>,
    flags_1: u64,
}

impl Table {
    fn add(&mut self, tag: u64, value: u64) -> Result<(), Defect> {
        match tag {
            DT_NEEDED => self.needed.push(value),
            DT_AUXILIARY => self.filters.push((value, false)),
            DT_FILTER => self.filters.push((value, true)),
            DT_STRTAB => self.strings = Some(value),
            DT_SONAME => self.soname = Some(value),
            DT_RPATH => self.rpath = Some(value),
            DT_RUNPATH => self.runpath = Some(value),
            DT_AUDIT => self.audit = Some(value),
            DT_DEPAUDIT => self.depaudit = Some(value),
            DT_FLAGS_1 => self.flags_1 = value,
            _ => {}
        }
        self.entries += 1;
        if self.entries > MAXIMUM_ENTRIES {
            return Err(Defect::Endless);
        }
        if self.needed.len() + self.filters.len() > MAXIMUM_NEEDED {
            return Err(Defect::TooManyNeeded);
        }
        Ok(())
    }

    fn is_nameless(&self) -> bool {
        self.needed.is_empty()
            && self.filters.is_empty()
            && [self.soname, self.rpath, self.runpath, self.audit, self.depaudit].iter().all(Option::is_none)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::specimen::{STRINGS, Specimen, TABLE};

    fn table_entry(bytes: &mut [u8], index: usize, tag: u64, value: u64) {
        let at = TABLE as usize + index * 16;
        bytes[at..at + 8].copy_from_slice(&tag.to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn what_a_loader_reads_is_read() {
        let specimen = Specimen { interpreter: Some("/lib/ld.so"), ..Specimen::default() }
            .with(DT_NEEDED, "liba.so")
            .with(DT_NEEDED, b"lib\xff.so")
            .with(DT_SONAME, "libs.so")
            .with(DT_AUXILIARY, "libx.so");
        let object = parse(specimen.bytes().as_slice()).unwrap();
        assert_eq!(object.interpreter.as_deref(), Some("/lib/ld.so".as_ref()));
        let needed: Vec<_> = object.needed.iter().map(|name| name.as_encoded_bytes()).collect();
        assert_eq!(needed, [b"liba.so".as_slice(), b"lib\xff.so"]);
        assert_eq!(object.soname.as_deref(), Some("libs.so".as_ref()));
        assert_eq!(object.filters, [Filter { name: "libx.so".into(), required: false }]);
    }

    #[test]
    fn the_last_runpath_wins_and_hides_the_rpath() {
        let specimen = Specimen::default().with(DT_RUNPATH, "/a").with(DT_RPATH, "/b").with(DT_RUNPATH, "/c");
        let object = parse(specimen.bytes().as_slice()).unwrap();
        assert_eq!((object.runpath, object.rpath), (Some("/c".into()), None));
    }

    #[test]
    fn a_table_that_does_not_end_is_refused() {
        let mut bytes = Specimen::default().with(DT_NEEDED, "liba.so").bytes();
        for index in 0..(bytes.len() - TABLE as usize) / 16 {
            table_entry(&mut bytes, index, 0x1234, 0);
        }
        assert_eq!(parse(bytes.as_slice()).unwrap_err().defect, Defect::Endless);
    }

    #[test]
    fn a_name_outside_of_the_segments_is_refused() {
        let mut bytes = Specimen::default().with(DT_NEEDED, "liba.so").bytes();
        table_entry(&mut bytes, 2, DT_NEEDED, u64::MAX - STRINGS - 1);
        assert_eq!(parse(bytes.as_slice()).unwrap_err().defect, Defect::Unmapped);
        table_entry(&mut bytes, 2, DT_NEEDED, u64::MAX);
        assert_eq!(parse(bytes.as_slice()).unwrap_err().defect, Defect::Unmapped);
    }

    #[test]
    fn a_dynamic_segment_without_bytes_is_debug_information() {
        let mut bytes = Specimen::default().bytes();
        // p_filesz of the second header.
        bytes[64 + 56 + 32..64 + 56 + 40].fill(0);
        let object = parse(bytes.as_slice()).unwrap();
        assert!(object.split_debug && !object.dynamic);
    }

    #[test]
    fn what_is_no_elf_file_says_so() {
        assert_eq!(parse(b"/* GNU ld script */".as_slice()).unwrap_err().defect, Defect::NotElf);
        assert_eq!(parse(b"\x7fELF\x02".as_slice()).unwrap_err().defect, Defect::TooShort);
        assert_eq!(parse(b"".as_slice()).unwrap_err().defect, Defect::TooShort);
    }

    #[test]
    fn no_damage_makes_it_panic() {
        let specimen = Specimen { interpreter: Some("/lib/ld.so"), ..Specimen::default() }
            .with(DT_NEEDED, "liba.so")
            .with(DT_RUNPATH, "$ORIGIN");
        let good = specimen.bytes();
        for at in (0..STRINGS as usize).chain(TABLE as usize..TABLE as usize + 128) {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] = value;
                let _ = parse(bad.as_slice());
            }
        }
        for length in 0..good.len() {
            let _ = parse(&good[..length]);
        }
    }
}
