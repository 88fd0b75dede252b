//! Symbol versions: which ones an object needs of whom (`DT_VERNEED`), and which ones it has
//! (`DT_VERDEF`).
//!
//! Source: LSB Core, "Symbol Versioning"; glibc's elf/dl-version.c, which follows the records by their
//! own offsets and compares names.

use std::ffi::OsString;

use super::Defect;
use super::image::{Image, ReadAt};

/// Records of one table; glibc's libc, the largest, has some fifty.
const MAXIMUM_VERSIONS: usize = 4096;

/// What an object needs of one library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionNeed {
    /// The library, by the name in `DT_NEEDED`.
    pub file: OsString,
    /// The versions.
    pub versions: Vec<Version>,
}

/// One version that is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// For instance `GLIBC_2.34`.
    pub name: OsString,
    /// `VER_FLG_WEAK`: the program starts without it.
    pub weak: bool,
}

/// Reads `Elf64_Verneed` and `Elf64_Vernaux` records, which 32 bit files have in the same form.
pub fn needs<S: ReadAt + ?Sized>(
    image: &Image<'_, '_, S>,
    table: u64,
    strings: u64,
) -> Result<Vec<VersionNeed>, Defect> {
    let mut raw: Vec<(u64, Vec<(u64, bool)>)> = Vec::new();
    let mut count = 0;
    let mut at = table;
    loop {
        let record: [u8; 16] = image.bytes(at)?;
        let mut versions = Vec::new();
        let mut below = after(at, image.number(&record[8..12]))?;
        loop {
            count += 1;
            if count > MAXIMUM_VERSIONS {
                return Err(Defect::Versions);
            }
            let record: [u8; 16] = image.bytes(below)?;
            versions.push((image.number(&record[8..12]), image.number(&record[4..6]) & 2 != 0));
            match image.number(&record[12..16]) {
                0 => break,
                next => below = after(below, next)?,
            }
        }
        raw.push((image.number(&record[4..8]), versions));
        match image.number(&record[12..16]) {
            0 => break,
            next => at = after(at, next)?,
        }
    }
    // The names last: they lie elsewhere.
    raw.into_iter()
        .map(|(file, versions)| {
            let named = |(name, weak)| Ok(Version { name: image.string(after(strings, name)?)?, weak });
            Ok(VersionNeed {
                file: image.string(after(strings, file)?)?,
                versions: versions.into_iter().map(named).collect::<Result<_, Defect>>()?,
            })
        })
        .collect()
}

/// Reads `Elf64_Verdef` records, of each the first name: the others are whom it descends from.
pub fn definitions<S: ReadAt + ?Sized>(
    image: &Image<'_, '_, S>,
    table: u64,
    strings: u64,
) -> Result<Vec<OsString>, Defect> {
    let mut names = Vec::new();
    let mut at = table;
    loop {
        if names.len() >= MAXIMUM_VERSIONS {
            return Err(Defect::Versions);
        }
        let record: [u8; 20] = image.bytes(at)?;
        let name: [u8; 4] = image.bytes(after(at, image.number(&record[12..16]))?)?;
        names.push(image.number(&name));
        match image.number(&record[16..20]) {
            0 => break,
            next => at = after(at, next)?,
        }
    }
    names.into_iter().map(|name| image.string(after(strings, name)?)).collect()
}

fn after(address: u64, offset: u64) -> Result<u64, Defect> {
    address.checked_add(offset).ok_or(Defect::Versions)
}
