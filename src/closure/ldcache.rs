//! `/etc/ld.so.cache`: names of libraries → where the loader finds them; read and written.
//!
//! Source: glibc's sysdeps/generic/dl-cache.h and elf/cache.c. Where a tree has no cache, what
//! ldconfig(8) would put into one is found from `/etc/ld.so.conf`.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::elf::{Architecture, Class};
use super::root::SourceRoot;

const OLD_MAGIC: &[u8] = b"ld.so-1.7.0\0";
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const EXTENSION_GENERATOR: u32 = 0;
const EXTENSION_HWCAPS: u32 = 1;
/// Set in `hwcap`: the low half is an index into the names of the extension.
const HWCAP_NAMED: u64 = 1 << 62;
const GENERATOR: &[u8] = b"jailmk";

/// A cache of a hundred thousand libraries is 10 MB.
const MAXIMUM_SIZE: u64 = 64 << 20;
/// Nested `include` of ld.so.conf.
const MAXIMUM_INCLUDES: usize = 8;
/// Files that it includes, each as often as it is included.
const MAXIMUM_CONFIGURATIONS: usize = 1024;
/// Directories that it names.
const MAXIMUM_DIRECTORIES: usize = 1024;

/// For which processors an entry is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hardware {
    /// All.
    Baseline,
    /// Those of a subdirectory of `glibc-hwcaps`, with the ISA level bits.
    Named {
        /// For instance `x86-64-v3`.
        name: OsString,
        /// Bits 32 to 41 of the field.
        level: u64,
    },
    /// Those with features by number, which glibc 2.37 and later ignore.
    Legacy(u64),
}

/// One line of the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// The name that is asked for.
    pub name: OsString,
    /// Where it is.
    pub path: PathBuf,
    /// The ABI: see [`accepted_flags`].
    pub flags: u32,
    /// The processors.
    pub hardware: Hardware,
}

/// What is wrong with a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CacheDefect {
    /// Neither the old nor the new magic.
    #[error("it has no magic that glibc knows")]
    Magic,
    /// For the other byte order.
    #[error("it is for another byte order")]
    ByteOrder,
    /// Counts or offsets that point outside.
    #[error("it points outside of itself")]
    Bounds,
}

/// The entries by name, those of one name in the file's order.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    entries: Vec<CacheEntry>,
    by_name: HashMap<OsString, Vec<usize>>,
}

impl Cache {
    /// Indexes `entries`.
    pub fn new(entries: Vec<CacheEntry>) -> Cache {
        let mut by_name: HashMap<OsString, Vec<usize>> = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            by_name.entry(entry.name.clone()).or_default().push(index);
        }
        Cache { entries, by_name }
    }

    /// Every entry, in the file's order.
    pub fn entries(&self) -> &[CacheEntry] {
        &self.entries
    }

    /// The entries for `name` with flags that `accepts` takes.
    pub fn find(&self, name: &OsStr, accepts: impl Fn(u32) -> bool) -> impl Iterator<Item = &CacheEntry> {
        let found = self.by_name.get(name).map(Vec::as_slice).unwrap_or_default();
        found.iter().map(|index| &self.entries[*index]).filter(move |entry| accepts(entry.flags))
    }
}

/// Whether a loader for an ABI takes entries with these flags.
pub fn accepts(architecture: Architecture, flags: u32) -> bool {
    // i386 has a second value, from the days of libc 5.
    accepted_flags(architecture).is_none_or(|wanted| flags == wanted)
        || (architecture.machine == 3 && flags == 1)
}

/// The flags of entries for an ABI; `None` for one whose flags are not known here.
pub fn accepted_flags(architecture: Architecture) -> Option<u32> {
    let wide = architecture.class == Class::Bits64;
    // e_machine, as in elf.h; the values are those of glibc's sysdeps/generic/ldconfig.h.
    match (architecture.machine, wide) {
        (62, true) => Some(0x0303),
        (62, false) => Some(0x0803),
        (3, false) => Some(0x0003),
        (183, true) => Some(0x0a03),
        (40, false) => Some(0x0903),
        (21, true) => Some(0x0503),
        (22, true) => Some(0x0403),
        (243, true) => Some(0x1003),
        (258, true) => Some(0x1403),
        _ => None,
    }
}

/// Reads a cache, new or old or the new in the old.
///
/// # Errors
/// [`CacheDefect`]; nothing outside of `bytes` is ever believed.
pub fn read(bytes: &[u8]) -> Result<Vec<CacheEntry>, CacheDefect> {
    if bytes.starts_with(MAGIC) {
        return read_new(bytes);
    }
    if !bytes.starts_with(OLD_MAGIC) {
        return Err(CacheDefect::Magic);
    }
    let count = number(bytes, 12)? as usize;
    let end =
        count.checked_mul(OLD_ENTRY).and_then(|n| n.checked_add(OLD_HEADER)).ok_or(CacheDefect::Bounds)?;
    let table = bytes.get(OLD_HEADER..end).ok_or(CacheDefect::Bounds)?;
    // The new cache follows, aligned as its 64 bit fields ask.
    let embedded = end.next_multiple_of(8);
    if let Some(new) = bytes.get(embedded..).filter(|new| new.starts_with(MAGIC)) {
        return read_new(new);
    }
    let strings = &bytes[end..];
    table
        .chunks_exact(OLD_ENTRY)
        .map(|entry| {
            Ok(CacheEntry {
                name: string(strings, number(entry, 4)?)?,
                path: string(strings, number(entry, 8)?)?.into(),
                flags: number(entry, 0)?,
                hardware: Hardware::Baseline,
            })
        })
        .collect()
}

fn read_new(bytes: &[u8]) -> Result<Vec<CacheEntry>, CacheDefect> {
    let count = number(bytes, 20)? as usize;
    let endian = *bytes.get(28).ok_or(CacheDefect::Bounds)? & 3;
    let native = if cfg!(target_endian = "little") { 2 } else { 3 };
    if endian != 0 && endian != native {
        return Err(CacheDefect::ByteOrder);
    }
    let end = count.checked_mul(ENTRY).and_then(|n| n.checked_add(HEADER)).ok_or(CacheDefect::Bounds)?;
    let table = bytes.get(HEADER..end).ok_or(CacheDefect::Bounds)?;
    let names = hardware_names(bytes, number(bytes, 32)?)?;
    table
        .chunks_exact(ENTRY)
        .map(|entry| {
            let hwcap = u64::from(number(entry, 16)?) | u64::from(number(entry, 20)?) << 32;
            let hwcap = if cfg!(target_endian = "little") { hwcap } else { hwcap.rotate_left(32) };
            let hardware = match hwcap {
                0 => Hardware::Baseline,
                _ if hwcap & HWCAP_NAMED != 0 => Hardware::Named {
                    name: names.get((hwcap & 0xffff_ffff) as usize).ok_or(CacheDefect::Bounds)?.clone(),
                    level: hwcap >> 32 & 0x3ff,
                },
                _ => Hardware::Legacy(hwcap),
            };
            Ok(CacheEntry {
                name: string(bytes, number(entry, 4)?)?,
                path: string(bytes, number(entry, 8)?)?.into(),
                flags: number(entry, 0)?,
                hardware,
            })
        })
        .collect()
}

fn hardware_names(bytes: &[u8], offset: u32) -> Result<Vec<OsString>, CacheDefect> {
    let offset = offset as usize;
    if offset == 0 || number(bytes, offset)? != EXTENSION_MAGIC {
        return Ok(Vec::new());
    }
    let count = number(bytes, offset + 4)? as usize;
    for index in 0..count.min(bytes.len() / 16) {
        let section = offset + 8 + index * 16;
        if number(bytes, section)? != EXTENSION_HWCAPS {
            continue;
        }
        let (start, size) = (number(bytes, section + 8)? as usize, number(bytes, section + 12)? as usize);
        let end = start.checked_add(size).ok_or(CacheDefect::Bounds)?;
        let offsets = bytes.get(start..end).ok_or(CacheDefect::Bounds)?;
        return offsets.chunks_exact(4).map(|offset| string(bytes, number(offset, 0)?)).collect();
    }
    Ok(Vec::new())
}

fn number(bytes: &[u8], at: usize) -> Result<u32, CacheDefect> {
    let end = at.checked_add(4).ok_or(CacheDefect::Bounds)?;
    let four = bytes.get(at..end).and_then(|four| four.try_into().ok()).ok_or(CacheDefect::Bounds)?;
    Ok(u32::from_ne_bytes(four))
}

fn string(bytes: &[u8], at: u32) -> Result<OsString, CacheDefect> {
    let rest = bytes.get(at as usize..).ok_or(CacheDefect::Bounds)?;
    let rest = &rest[..rest.len().min(4096)];
    let end = rest.iter().position(|byte| *byte == 0).ok_or(CacheDefect::Bounds)?;
    Ok(OsString::from_vec(rest[..end].to_vec()))
}

/// Writes a cache of format 1.1 in this machine's byte order; equal entries give equal bytes,
/// whatever their order.
pub fn write(entries: &[CacheEntry]) -> Vec<u8> {
    let mut entries: Vec<&CacheEntry> = entries.iter().collect();
    // The loader's binary search wants names in descending order; of one name, the special first.
    entries.sort_by(|a, b| {
        compare(b.name.as_bytes(), a.name.as_bytes())
            .then_with(|| a.flags.cmp(&b.flags))
            .then_with(|| b.hardware.cmp(&a.hardware))
            .then_with(|| a.path.cmp(&b.path))
    });
    entries.dedup();
    let names: Vec<&OsString> = entries
        .iter()
        .filter_map(|entry| match &entry.hardware {
            Hardware::Named { name, .. } => Some(name),
            _ => None,
        })
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();

    let mut strings = Strings { start: HEADER + entries.len() * ENTRY, bytes: Vec::new() };
    let mut table = Vec::with_capacity(entries.len() * ENTRY);
    for entry in &entries {
        let path = strings.add(entry.path.as_os_str().as_bytes());
        // A name that ends its path shares its bytes.
        let name = if entry.path.file_name() == Some(&entry.name) {
            path + (entry.path.as_os_str().len() - entry.name.len()) as u32
        } else {
            strings.add(entry.name.as_bytes())
        };
        let hwcap = match &entry.hardware {
            Hardware::Baseline => 0,
            Hardware::Legacy(bits) => *bits,
            Hardware::Named { name, level } => {
                let index = names.binary_search(&name).expect("BUG: every name was collected");
                HWCAP_NAMED | (level & 0x3ff) << 32 | index as u64
            }
        };
        for word in [entry.flags, name, path, 0] {
            table.extend(word.to_ne_bytes());
        }
        table.extend(hwcap.to_ne_bytes());
    }
    let name_offsets: Vec<u32> = names.iter().map(|name| strings.add(name.as_bytes())).collect();

    let strings_length = strings.bytes.len() as u32;
    let mut out = Vec::from(MAGIC);
    out.extend((entries.len() as u32).to_ne_bytes());
    out.extend(strings_length.to_ne_bytes());
    out.extend([if cfg!(target_endian = "little") { 2 } else { 3 }, 0, 0, 0]);
    let extension = (strings.start + strings.bytes.len()).next_multiple_of(4);
    out.extend((extension as u32).to_ne_bytes());
    out.extend([0; 12]);
    out.extend(table);
    out.extend(&strings.bytes);
    out.resize(extension, 0);

    let sections = if names.is_empty() { 1 } else { 2 };
    let generator = extension + 8 + sections * 16;
    let hwcaps = (generator + GENERATOR.len()).next_multiple_of(4);
    let mut words = vec![EXTENSION_MAGIC, sections as u32];
    words.extend([EXTENSION_GENERATOR, 0, generator as u32, GENERATOR.len() as u32]);
    if !names.is_empty() {
        words.extend([EXTENSION_HWCAPS, 0, hwcaps as u32, 4 * names.len() as u32]);
    }
    out.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    out.extend(GENERATOR);
    out.resize(hwcaps, 0);
    out.extend(name_offsets.iter().flat_map(|offset| offset.to_ne_bytes()));
    out
}

struct Strings {
    start: usize,
    bytes: Vec<u8>,
}

impl Strings {
    fn add(&mut self, string: &[u8]) -> u32 {
        let at = self.start + self.bytes.len();
        self.bytes.extend(string);
        self.bytes.push(0);
        at as u32
    }
}

/// The order of the loader's binary search: runs of digits compare as numbers.
fn compare(mut a: &[u8], mut b: &[u8]) -> Ordering {
    loop {
        match (a.first(), b.first()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(x), Some(y)) => match (x.is_ascii_digit(), y.is_ascii_digit()) {
                (true, true) => {
                    let (left, right) = (digits(&mut a), digits(&mut b));
                    let order = left.len().cmp(&right.len()).then_with(|| left.cmp(right));
                    if order.is_ne() {
                        return order;
                    }
                }
                (true, false) => return Ordering::Greater,
                (false, true) => return Ordering::Less,
                (false, false) => {
                    // Plain char: signed where the loader's is.
                    let order = (*x as i8).cmp(&(*y as i8));
                    if order.is_ne() {
                        return order;
                    }
                    (a, b) = (&a[1..], &b[1..]);
                }
            },
        }
    }
}

/// Takes a run of digits off the front, without its leading zeros.
fn digits<'a>(text: &mut &'a [u8]) -> &'a [u8] {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    let (run, rest) = text.split_at(end);
    *text = rest;
    let start = run.iter().position(|byte| *byte != b'0').unwrap_or(run.len());
    &run[start..]
}

/// The cache of a tree: its own, or what ldconfig(8) would find where it has none or a damaged one.
pub fn of_root(root: &SourceRoot, path: &Path) -> (Cache, Option<CacheDefect>) {
    match root.read_file(path, MAXIMUM_SIZE).map(|bytes| read(&bytes)) {
        Ok(Ok(entries)) => (Cache::new(entries), None),
        // The loader itself ignores a cache that it cannot read.
        Ok(Err(defect)) => (Cache::default(), Some(defect)),
        Err(_) if path == Path::new("/etc/ld.so.cache") => (Cache::new(scan(root)), None),
        Err(_) => (Cache::default(), None),
    }
}

/// What ldconfig(8) would enter: the libraries of the directories of ld.so.conf, by SONAME.
fn scan(root: &SourceRoot) -> Vec<CacheEntry> {
    let mut configuration = Configuration { files: 0, directories: Vec::new() };
    configuration.read(root, Path::new("/etc/ld.so.conf"), MAXIMUM_INCLUDES);
    let mut entries = Vec::new();
    let mut seen = BTreeSet::new();
    for directory in configuration.directories {
        let names = root.names(&directory);
        for name in names.iter().filter(|name| is_library_name(name.as_bytes())) {
            let path = directory.join(name);
            let Ok(super::root::Opened::Regular(file, _)) = root.open_file(&path) else { continue };
            let Ok(object) = super::elf::parse(&file) else { continue };
            let Some(flags) = accepted_flags(object.architecture).filter(|_| object.dynamic) else {
                continue;
            };
            let soname = object.soname.unwrap_or_else(|| name.clone());
            // ldconfig makes a link of that name; where there is none, the file itself serves.
            let path = if names.binary_search(&soname).is_ok() { directory.join(&soname) } else { path };
            if seen.insert((soname.clone(), flags)) {
                entries.push(CacheEntry { name: soname, path, flags, hardware: Hardware::Baseline });
            }
        }
    }
    entries
}

fn is_library_name(name: &[u8]) -> bool {
    let contains = |part: &[u8]| name.windows(part.len()).any(|window| window == part);
    (name.starts_with(b"lib") || name.starts_with(b"ld-")) && contains(b".so")
        || name.starts_with(b"ld.so.")
        || name.starts_with(b"ld64.so.")
}

/// What ld.so.conf says, so far as it is read.
struct Configuration {
    files: usize,
    directories: Vec<PathBuf>,
}

impl Configuration {
    /// Reads a configuration file: ldconfig(8).
    fn read(&mut self, root: &SourceRoot, file: &Path, depth: usize) {
        self.files += 1;
        if self.files > MAXIMUM_CONFIGURATIONS {
            return;
        }
        let Ok(text) = root.read_file(file, 1 << 20) else { return };
        for line in text.split(|byte| *byte == b'\n') {
            if self.files > MAXIMUM_CONFIGURATIONS {
                return;
            }
            let line = line.split(|byte| *byte == b'#').next().unwrap_or_default().trim_ascii();
            let mut words = line.split(|byte| b" \t,:".contains(byte)).filter(|word| !word.is_empty());
            match words.next() {
                Some(b"include") if depth > 0 => {
                    for pattern in words {
                        let base = file.parent().unwrap_or(Path::new("/"));
                        for file in expand(root, &base.join(OsStr::from_bytes(pattern))) {
                            self.read(root, &file, depth - 1);
                        }
                    }
                }
                None | Some(b"include" | b"hwcap") => {}
                Some(first) => std::iter::once(first).chain(words).for_each(|word| self.add(word)),
            }
        }
    }

    fn add(&mut self, word: &[u8]) {
        let word = word.split(|byte| *byte == b'=').next().unwrap_or_default();
        let directory = PathBuf::from(OsStr::from_bytes(word));
        if directory.is_absolute()
            && self.directories.len() < MAXIMUM_DIRECTORIES
            && !self.directories.contains(&directory)
        {
            self.directories.push(directory);
        }
    }
}

/// The files that a pattern with wildcards in its last component names.
fn expand(root: &SourceRoot, pattern: &Path) -> Vec<PathBuf> {
    let (Some(directory), Some(name)) = (pattern.parent(), pattern.file_name().and_then(OsStr::to_str))
    else {
        return Vec::new();
    };
    let Ok(glob) = globset::Glob::new(name) else { return Vec::new() };
    let glob = glob.compile_matcher();
    root.names(directory)
        .into_iter()
        .filter(|name| !name.as_bytes().starts_with(b".") && glob.is_match(name))
        .map(|name| directory.join(name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, path: &str, hardware: Hardware) -> CacheEntry {
        CacheEntry { name: name.into(), path: path.into(), flags: 0x0303, hardware }
    }

    fn entries() -> Vec<CacheEntry> {
        let v3 = Hardware::Named { name: "x86-64-v3".into(), level: 3 };
        vec![
            entry("libfoo.so.10", "/l/libfoo.so.10", Hardware::Baseline),
            entry("libfoo.so.9", "/l/glibc-hwcaps/x86-64-v3/libfoo.so.9", v3),
            entry("libfoo.so.9", "/l/libfoo.so.9", Hardware::Baseline),
            entry("libalias.so", "/l/libother.so", Hardware::Baseline),
        ]
    }

    #[test]
    fn what_is_written_is_read_back_in_the_loaders_order() {
        assert_eq!(read(&write(&entries())).unwrap(), entries());
    }

    #[test]
    fn the_order_of_entries_does_not_change_the_bytes() {
        let mut reversed = entries();
        reversed.reverse();
        assert_eq!(write(&reversed), write(&entries()));
    }

    #[test]
    fn digits_compare_as_numbers() {
        assert_eq!(compare(b"libfoo.so.10", b"libfoo.so.9"), Ordering::Greater);
        assert_eq!(compare(b"lib1.so", b"liba.so"), Ordering::Greater);
        assert_eq!(compare(b"liba", b"liba.so"), Ordering::Less);
    }

    #[test]
    fn the_old_format_is_read() {
        let mut bytes = Vec::from(OLD_MAGIC);
        bytes.extend(1u32.to_ne_bytes());
        for word in [3u32, 0, 8] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend(b"liba.so\0/l/liba.so\0");
        let read = read(&bytes).unwrap();
        assert_eq!((read[0].path.as_path(), read[0].flags), (Path::new("/l/liba.so"), 3));
    }

    #[test]
    fn the_new_format_inside_the_old_one_is_preferred() {
        let mut bytes = Vec::from(OLD_MAGIC);
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(write(&entries()));
        assert_eq!(read(&bytes).unwrap(), entries());
    }

    #[test]
    fn no_truncation_and_no_flipped_byte_escapes_the_bounds() {
        let good = write(&entries());
        for length in 0..good.len() {
            let _ = read(&good[..length]);
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let _ = read(&bad);
        }
    }
}
