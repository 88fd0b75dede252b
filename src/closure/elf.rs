//! An ELF file → [`Object`]: what its loader reads of it, and no more.
//!
//! The headers are goblin's; the dynamic table is walked here, as the loader does: found through its
//! virtual address, the last `PT_DYNAMIC` and the last single-valued tag winning, strings as bytes.
//! Section headers are never used, for nothing at run time checks them. Reads are bounded whatever the
//! file says, and nothing is mapped, so a file that shrinks meanwhile is an error and no signal.
//! Source: gABI chapter 5, elf(5), glibc's elf/get-dynamic-info.h.

mod dlopen;
pub mod identity;
mod image;
mod versions;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::dynamic::{
    DT_AUDIT, DT_DEPAUDIT, DT_FLAGS_1, DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, DT_STRTAB, DT_VERDEF,
    DT_VERNEED,
};
use goblin::elf::header::{EI_CLASS, EI_DATA, EI_OSABI, ELFCLASS32, ELFCLASS64, ET_DYN, ET_EXEC, Header};
use goblin::elf::program_header::{PT_DYNAMIC, PT_INTERP, ProgramHeader};
use nix::errno::Errno;

pub use dlopen::{Feature, NoteDefect, Priority, parse as parse_dlopen_note};
pub use image::ReadAt;
use image::{Blocks, Image, MAXIMUM_STRING};
pub use versions::{Version, VersionNeed};

/// The header of a 64 bit file.
const HEADER: usize = 64;
/// Entries of a dynamic table; large ones have a few hundred.
const MAXIMUM_ENTRIES: usize = 1 << 16;
/// Names that one object may ask for.
const MAXIMUM_NEEDED: usize = 8192;
/// Bytes of program headers that the kernel reads of a program; more, and it does not run it.
const MAXIMUM_PROGRAM_HEADERS: usize = 1 << 16;

/// glibc's LIBC_ABI_MAX, less one: unique and indirect symbols, absolute ones.
const MAXIMUM_GNU_ABI: u8 = 3;

/// Filters, which goblin does not name.
const DT_AUXILIARY: u64 = 0x7fff_fffd;
const DT_FILTER: u64 = 0x7fff_ffff;
/// `DF_1_NODEFLIB` of `DT_FLAGS_1`.
const DF_1_NODEFLIB: u64 = 0x800;
/// `DF_1_PIE` of `DT_FLAGS_1`.
const DF_1_PIE: u64 = 0x0800_0000;

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
    /// More program headers than the kernel runs a program with.
    pub overlong: bool,
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
    /// `DT_VERNEED`
    pub version_needs: Vec<VersionNeed>,
    /// `DT_VERDEF`; `None` where its symbols have no versions, which answers to every one.
    pub versions: Option<Vec<OsString>>,
    /// `.note.dlopen`
    pub features: Result<Vec<Feature>, NoteDefect>,
    /// What makes glibc refuse it as a library although the kernel would run it.
    pub irregular: Option<Defect>,
}

impl Object {
    /// `DF_1_NODEFLIB`: its needs are not looked for in default directories.
    pub fn is_nodeflib(&self) -> bool {
        self.flags_1 & DF_1_NODEFLIB != 0
    }

    /// `DF_1_PIE`: a program, although it is position independent.
    pub fn is_pie(&self) -> bool {
        self.flags_1 & DF_1_PIE != 0
    }

    /// Run by the kernel alone: static, static and position independent, or no program at all.
    pub fn is_static(&self) -> bool {
        self.interpreter.is_none() && (!self.dynamic || self.fixed || self.is_pie())
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
    /// `EI_CLASS` is neither 32 nor 64 bit; glibc passes over such a file.
    #[error("its word size is neither 32 nor 64 bit")]
    Class,
    /// Another byte order than the program's.
    #[error("its byte order is not the program's")]
    ByteOrder,
    /// `EI_VERSION` is not 1.
    #[error("the version of its ELF identification is not 1")]
    IdentVersion,
    /// `e_version` is not 1.
    #[error("its ELF version is not 1")]
    Version,
    /// `EI_OSABI` is neither System V nor GNU.
    #[error("its ELF OS ABI is neither System V nor GNU")]
    OsAbi,
    /// `EI_ABIVERSION` is one that glibc does not know.
    #[error("its ELF ABI version is not known")]
    AbiVersion,
    /// `EI_PAD` is not zero.
    #[error("the padding of its ELF header is not zero")]
    Padding,
    /// Neither ET_EXEC nor ET_DYN.
    #[error("it is neither an executable nor a shared object")]
    Type,
    /// `e_phentsize` is not the size of a program header, or the table is not in the file.
    #[error("its program headers are damaged")]
    ProgramHeaders,
    /// More program headers than the kernel reads.
    #[error("it has more program headers than the kernel runs a program with")]
    TooManyProgramHeaders,
    /// Nothing of it would be mapped.
    #[error("it has no segment to load")]
    NoSegments,
    /// Addresses and offsets of a segment differ within a page.
    #[error("a segment's address and offset do not fit a page")]
    Alignment,
    /// A candidate library that is a program.
    #[error("it is a program and no library")]
    Program,
    /// Records of symbol versions that lead outside or on and on.
    #[error("its symbol versions are damaged")]
    Versions,
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
    /// Whether it is in the first sixteen bytes, which glibc looks at before anything else.
    pub fn is_in_identification(self) -> bool {
        matches!(
            self,
            Defect::ByteOrder | Defect::IdentVersion | Defect::OsAbi | Defect::AbiVersion | Defect::Padding
        )
    }
}

/// Reads what a loader reads of an ELF file: at most a few kilobytes of an honest one.
///
/// # Errors
/// [`Malformed`], also for what is no ELF file.
pub fn parse(source: &(impl ReadAt + ?Sized)) -> Result<Object, Malformed> {
    let bare = |defect| Malformed { architecture: None, defect };
    let blocks = Blocks::new(source);
    let mut first = [0; HEADER];
    let length = blocks.read(0, &mut first).map_err(bare)?;
    let first = &first[..length];
    let architecture = architecture(first).map_err(bare)?;
    parse_rest(&blocks, first, architecture)
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
        ELFCLASS64 if first.len() < HEADER => return Err(Defect::TooShort),
        ELFCLASS64 => Class::Bits64,
        _ => return Err(Defect::Class),
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

fn parse_rest<S: ReadAt + ?Sized>(
    blocks: &Blocks<'_, S>,
    first: &[u8],
    architecture: Architecture,
) -> Result<Object, Defect> {
    let header = goblin::elf::Elf::parse_header(first).map_err(|_| Defect::TooShort)?;
    let irregular = irregular(&header);
    if !matches!(header.e_type, ET_EXEC | ET_DYN) {
        return Err(irregular.unwrap_or(Defect::Type));
    }
    let headers = program_headers(blocks, &header, architecture)?;
    let image = Image::new(blocks, architecture, &headers);
    let mut object = Object {
        architecture,
        fixed: header.e_type == ET_EXEC,
        dynamic: false,
        split_debug: false,
        overlong: headers.len() * usize::from(header.e_phentsize) > MAXIMUM_PROGRAM_HEADERS,
        interpreter: None,
        needed: Vec::new(),
        soname: None,
        rpath: None,
        runpath: None,
        flags_1: 0,
        filters: Vec::new(),
        audit: None,
        depaudit: None,
        version_needs: Vec::new(),
        versions: None,
        features: Ok(Vec::new()),
        irregular: irregular.or_else(|| image.unmappable()),
    };
    // The kernel takes the first PT_INTERP and reads it at its file offset.
    if let Some(interpreter) = headers.iter().find(|header| header.p_type == PT_INTERP) {
        if interpreter.p_filesz == 0 {
            object.split_debug = true;
            return Ok(object);
        }
        object.interpreter = Some(read_interpreter(blocks, interpreter)?);
    }
    let mut tables = headers.iter().filter(|header| header.p_type == PT_DYNAMIC);
    object.split_debug = tables.clone().any(|table| table.p_filesz == 0);
    if let Some(table) = tables.rfind(|table| table.p_filesz != 0) {
        object.dynamic = true;
        let mut names = Table::default();
        image.walk(table.p_vaddr, |tag, value| names.add(tag, value))?;
        names.read(&image, &mut object)?;
    }
    object.features = dlopen::features(&image, &headers);
    Ok(object)
}

fn irregular(header: &Header) -> Option<Defect> {
    let ident = &header.e_ident;
    if ident[6] != 1 {
        Some(Defect::IdentVersion)
    } else if !matches!(ident[EI_OSABI], 0 | 3) {
        Some(Defect::OsAbi)
    } else if ident[8] > if ident[EI_OSABI] == 3 { MAXIMUM_GNU_ABI } else { 0 } {
        Some(Defect::AbiVersion)
    } else if ident[9..].iter().any(|byte| *byte != 0) {
        Some(Defect::Padding)
    } else {
        (header.e_version != 1).then_some(Defect::Version)
    }
}

fn program_headers<S: ReadAt + ?Sized>(
    blocks: &Blocks<'_, S>,
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
    let mut table = vec![0; count * size];
    if blocks.read(header.e_phoff, &mut table)? < table.len() {
        return Err(Defect::ProgramHeaders);
    }
    ProgramHeader::parse(&table, 0, count, Ctx::new(container, endian)).map_err(|_| Defect::ProgramHeaders)
}

fn read_interpreter<S: ReadAt + ?Sized>(
    blocks: &Blocks<'_, S>,
    header: &ProgramHeader,
) -> Result<OsString, Defect> {
    let length = usize::try_from(header.p_filesz).unwrap_or(usize::MAX);
    if !(2..=MAXIMUM_STRING).contains(&length) {
        return Err(Defect::Interpreter);
    }
    let mut name = vec![0; length];
    if blocks.read(header.p_offset, &mut name)? < length || name.pop() != Some(0) {
        return Err(Defect::Interpreter);
    }
    // The kernel stops at the first NUL.
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    if name.is_empty() { Err(Defect::Interpreter) } else { Ok(OsString::from_vec(name)) }
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
    version_needs: Option<u64>,
    versions: Option<u64>,
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
            DT_VERNEED => self.version_needs = Some(value),
            DT_VERDEF => self.versions = Some(value),
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

    fn read<S: ReadAt + ?Sized>(self, image: &Image<'_, '_, S>, object: &mut Object) -> Result<(), Defect> {
        object.flags_1 = self.flags_1;
        if self.is_nameless() {
            return Ok(());
        }
        let strings = self.strings.ok_or(Defect::Unmapped)?;
        let string = |offset: u64| image.string(strings.checked_add(offset).ok_or(Defect::Unmapped)?);
        let optional = |offset: Option<u64>| offset.map(string).transpose();
        object.needed = self.needed.iter().map(|offset| string(*offset)).collect::<Result<_, _>>()?;
        object.soname = optional(self.soname)?;
        object.runpath = optional(self.runpath)?;
        object.rpath = if object.runpath.is_some() { None } else { optional(self.rpath)? };
        object.audit = optional(self.audit)?;
        object.depaudit = optional(self.depaudit)?;
        for (offset, required) in &self.filters {
            object.filters.push(Filter { name: string(*offset)?, required: *required });
        }
        let damaged = |_| Defect::Versions;
        if let Some(table) = self.version_needs {
            object.version_needs = versions::needs(image, table, strings).map_err(damaged)?;
        }
        if let Some(table) = self.versions {
            object.versions = Some(versions::definitions(image, table, strings).map_err(damaged)?);
        }
        Ok(())
    }

    fn is_nameless(&self) -> bool {
        let names = [self.soname, self.rpath, self.runpath, self.audit, self.depaudit];
        let versions = [self.version_needs, self.versions];
        self.needed.is_empty()
            && self.filters.is_empty()
            && names.iter().chain(&versions).all(Option::is_none)
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
