//! The lock file: a manifest with the digest of every file, as text that a person reviews.
//!
//! After two header lines, one entry a line, in the manifest's order (bytewise by path component):
//!
//! ```text
//! KIND MODE SHA256 SIZE PATH [-> TARGET] ORIGIN REASON
//! d 0755 - - /etc - skeleton
//! f 0555 5891b5b5…be03 1265648 /usr/bin/bash = spec programs bash
//! l 0777 - - /lib -> usr/lib - needed /usr/bin/bash symlink
//! ```
//!
//! KIND is `d`, `f` or `l`. ORIGIN is the host file that was copied: `=` where it has the entry's own
//! path, `-` where jailmk wrote the file. Where files are taken from another root than `/`, those in it
//! are named as seen from there, so that the lock does not depend on where that tree is kept. REASON is the rest of the line. In a path, blanks, control and
//! direction-changing characters, `%` and bytes that are no UTF-8 stand as `%XX`; in REASON a blank
//! stands for itself. There is one way to write each lock, so that equal text is equal content.
//!
//! Packages and build-ids are not here: the digest says all that they would of the content, an upgrade that
//! changes no file of the jail would change the lock, and a build would read two more things for each
//! file. `jailmk sbom` lists them, with the digest of the lock.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::{FILE_MODE_MASK, Manifest, Node};
use crate::closure::Reason;
use crate::path::{HostPath, JailPath, printable};

const HEADER: &str = "jailmk-lock 1\n# kind mode sha256 size path [-> target] origin reason\n";
/// Bytes of a whole lock file.
const TEXT_LIMIT: usize = 256 << 20;
/// Bytes of one line: a reason quotes the spec, which may be long.
const LINE_LIMIT: usize = 1 << 20;

/// What a tree is to hold, file by file, with digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    entries: Vec<Locked>,
}

/// One line of the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Locked {
    /// Where.
    pub path: JailPath,
    /// What.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// The file that was copied, by its path in the tree that it comes from; `None` for what jailmk wrote itself.
    pub origin: Option<HostPath>,
    /// Why it is there.
    pub reason: LockedReason,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink(PathBuf),
    /// A regular file.
    File(Content),
}

/// A file's bytes, in short.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// SHA-256 (FIPS 180-4), as sha256sum(1) prints it.
    pub sha256: [u8; 32],
    /// Bytes.
    pub size: u64,
}

impl Content {
    /// That of `bytes`.
    pub fn of(bytes: &[u8]) -> Content {
        Content { sha256: Sha256::digest(bytes).into(), size: bytes.len() as u64 }
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", Hex(&self.sha256), self.size)
    }
}

/// A [`Reason`] as the lock keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LockedReason {
    /// The spec names it.
    Spec {
        /// The key.
        key: String,
        /// The value.
        value: String,
    },
    /// Another entry needs it.
    NeededBy {
        /// Which.
        by: JailPath,
        /// How.
        how: String,
    },
    /// Every jail has it.
    Skeleton,
}

impl From<&Reason> for LockedReason {
    fn from(reason: &Reason) -> LockedReason {
        match reason {
            Reason::Spec { key, value } => {
                LockedReason::Spec { key: (*key).to_owned(), value: value.clone() }
            }
            Reason::NeededBy { by, how } => LockedReason::NeededBy { by: by.clone(), how: how.clone() },
            Reason::Skeleton => LockedReason::Skeleton,
        }
    }
}

/// A path at which a tree is not as a lock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockDifference {
    /// Where.
    pub path: JailPath,
    /// What.
    pub what: Difference,
}

/// How a path of a tree differs from a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The lock has it, the tree not.
    Missing,
    /// The tree has it, the lock not.
    Extra,
    /// Both have it, with another kind, content, target or mode.
    Other {
        /// In the lock.
        locked: (Kind, u32),
        /// In the tree.
        found: (Kind, u32),
    },
}

impl fmt::Display for LockDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = &self.path;
        let (locked, found) = match &self.what {
            Difference::Missing => return write!(f, "{path} is in the lock file only"),
            Difference::Extra => return write!(f, "{path} is not in the lock file"),
            Difference::Other { locked, found } => (locked, found),
        };
        match (&found.0, &locked.0) {
            (Kind::File(found), Kind::File(locked)) if found != locked => write!(
                f,
                "{path} has other content ({} bytes, sha256 {}…, locked {} bytes, {}…)",
                found.size,
                Hex(&found.sha256[..6]),
                locked.size,
                Hex(&locked.sha256[..6])
            ),
            (Kind::Symlink(found), Kind::Symlink(locked)) if found != locked => {
                let (found, locked) = (printable(found.as_os_str()), printable(locked.as_os_str()));
                write!(f, "{path} links to {found}, locked {locked}")
            }
            (one, other) if one.noun() == other.noun() => {
                write!(f, "{path} has mode {:04o}, locked {:04o}", found.1, locked.1)
            }
            (found, locked) => write!(f, "{path} is {}, locked {}", found.noun(), locked.noun()),
        }
    }
}

impl Kind {
    fn noun(&self) -> &'static str {
        match self {
            Kind::Directory => "a directory",
            Kind::Symlink(_) => "a symbolic link",
            Kind::File(_) => "a file",
        }
    }
}

/// Why a text is no lock file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot read line {line} of the lock file: {fault}")]
pub struct LockError {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub fault: LockFault,
}

/// What is wrong with a line of a lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockFault {
    /// Not made by jailmk, or by one with another format.
    #[error("it does not begin as a lock file of this version does")]
    Header,
    /// More than any lock file holds.
    #[error("it is longer than a lock file can be")]
    TooLong,
    /// The text was cut off.
    #[error("it does not end with a newline")]
    Unfinished,
    /// Not the columns that its kind has.
    #[error("it has too few columns, or one that its kind does not have")]
    Columns,
    /// A mode, size or digest that is none.
    #[error("a number in it is malformed")]
    Number,
    /// A path that is not absolute and normalised, or escaped in another way than jailmk does.
    #[error("a path or text in it is malformed")]
    Text,
    /// Not after the entry before.
    #[error("its path does not come after that of the line before")]
    Order,
    /// Nothing, or no directory, stands above it.
    #[error("the directory that would hold it is not in the lock file")]
    Orphan,
}

impl Lock {
    /// The lock of `manifest`; `contents` has the digest of each of its files, in its order.
    pub(crate) fn new(manifest: &Manifest, contents: impl IntoIterator<Item = Content>) -> Lock {
        let mut contents = contents.into_iter();
        let entries = manifest.entries().map(|(path, entry)| Locked {
            path: path.clone(),
            kind: match &entry.node {
                Node::Directory => Kind::Directory,
                Node::Symlink(target) => Kind::Symlink(target.clone()),
                Node::Copy(_) | Node::Written(_) => {
                    Kind::File(contents.next().expect("BUG: a digest for every file"))
                }
            },
            mode: entry.mode,
            origin: match &entry.node {
                Node::Copy(origin) => Some(in_source(origin, manifest.source())),
                _ => None,
            },
            reason: LockedReason::from(&entry.reason),
        });
        Lock { entries: entries.collect() }
    }

    /// Every entry, in order.
    pub fn entries(&self) -> &[Locked] {
        &self.entries
    }

    /// The entry of `path`.
    pub fn get(&self, path: &JailPath) -> Option<&Locked> {
        let at = self.entries.binary_search_by(|entry| entry.path.cmp(path)).ok()?;
        self.entries.get(at)
    }

    /// SHA-256 of the text.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.to_string()).into()
    }

    /// How the tree of `found` differs from this lock's, in the order of paths; reasons and origins do not
    /// count.
    pub fn differences(&self, found: &Lock) -> Vec<LockDifference> {
        let mut differences: Vec<LockDifference> = self
            .entries
            .iter()
            .filter_map(|entry| {
                let what = match found.get(&entry.path) {
                    None => Difference::Missing,
                    Some(found) if found.kind == entry.kind && found.mode == entry.mode => return None,
                    Some(found) => Difference::Other {
                        locked: (entry.kind.clone(), entry.mode),
                        found: (found.kind.clone(), found.mode),
                    },
                };
                Some(LockDifference { path: entry.path.clone(), what })
            })
            .collect();
        let extra = found.entries.iter().filter(|entry| self.get(&entry.path).is_none());
        differences
            .extend(extra.map(|entry| LockDifference { path: entry.path.clone(), what: Difference::Extra }));
        differences.sort_by(|one, other| one.path.cmp(&other.path));
        differences
    }

    /// Reads the text of a lock file; exactly what [`Lock`]'s `Display` writes is accepted.
    ///
    /// # Errors
    /// The first line that is malformed, and how.
    pub fn parse(text: &[u8]) -> Result<Lock, LockError> {
        let fail = |line, fault| Err(LockError { line, fault });
        if text.len() > TEXT_LIMIT {
            return fail(1, LockFault::TooLong);
        }
        let Some(body) = text.strip_prefix(HEADER.as_bytes()) else {
            return fail(1, LockFault::Header);
        };
        let mut entries: Vec<Locked> = Vec::new();
        // The directories that hold the entry before, outermost first: order makes a stack enough.
        let mut above: Vec<JailPath> = Vec::new();
        for (index, line) in body.split_inclusive(|byte| *byte == b'\n').enumerate() {
            let number = index + 3;
            let Some(line) = line.strip_suffix(b"\n") else {
                return fail(number, LockFault::Unfinished);
            };
            let entry = Locked::parse(line).map_err(|fault| LockError { line: number, fault })?;
            if entries.last().is_some_and(|before| before.path >= entry.path) {
                return fail(number, LockFault::Order);
            }
            let parent = entry.path.parent();
            while above.last().is_some() && above.last() != parent.as_ref() {
                above.pop();
            }
            if parent.is_some() == above.is_empty() || (parent.is_none() && entry.kind != Kind::Directory) {
                return fail(number, LockFault::Orphan);
            }
            if entry.kind == Kind::Directory {
                above.push(entry.path.clone());
            }
            entries.push(entry);
        }
        match entries.is_empty() {
            true => fail(3, LockFault::Orphan),
            false => Ok(Lock { entries }),
        }
    }
}

/// Where a file is in the tree that it comes from; one from elsewhere keeps its place on the host.
fn in_source(origin: &HostPath, source: Option<&HostPath>) -> HostPath {
    let inside = source.and_then(|source| origin.as_path().strip_prefix(source).ok());
    inside.map_or_else(|| origin.clone(), |inside| HostPath::root().join(inside))
}

impl Locked {
    /// The digest, of a file.
    pub fn content(&self) -> Option<Content> {
        match self.kind {
            Kind::File(content) => Some(content),
            Kind::Directory | Kind::Symlink(_) => None,
        }
    }

    fn parse(line: &[u8]) -> Result<Locked, LockFault> {
        if line.len() > LINE_LIMIT {
            return Err(LockFault::TooLong);
        }
        let line = std::str::from_utf8(line).map_err(|_| LockFault::Text)?;
        let mut rest = line;
        let mut column = || {
            let (column, after) = rest.split_once(' ').ok_or(LockFault::Columns)?;
            rest = after;
            Ok(column)
        };
        let kind = column()?;
        let mode = octal(column()?)?;
        let (sha256, size) = (column()?, column()?);
        let path = jail_path(column()?)?;
        let target = match kind {
            "l" if column()? == "->" => Some(column()?),
            "l" => return Err(LockFault::Columns),
            _ => None,
        };
        let origin = column()?;
        let reason = LockedReason::parse(rest)?;
        let (kind, limit) = match (kind, target, sha256, size) {
            ("d", None, "-", "-") => (Kind::Directory, 0o1777),
            ("l", Some(target), "-", "-") => {
                let target = unescape(target, Blank::Escaped)?;
                if target.is_empty() || target.contains(&0) {
                    return Err(LockFault::Text);
                }
                (Kind::Symlink(OsString::from_vec(target).into()), 0o777)
            }
            ("f", None, sha256, size) => {
                let sha256 = parse_hex(sha256).ok_or(LockFault::Number)?;
                (Kind::File(Content { sha256, size: decimal(size)? }), FILE_MODE_MASK)
            }
            _ => return Err(LockFault::Columns),
        };
        if mode & !limit != 0 || (matches!(kind, Kind::Symlink(_)) && mode != 0o777) {
            return Err(LockFault::Number);
        }
        let origin = match origin {
            "-" => None,
            "=" => HostPath::absolute(path.as_path()),
            other => {
                let origin = OsString::from_vec(unescape(other, Blank::Escaped)?);
                if origin == path.as_path().as_os_str() || origin.as_bytes().contains(&0) {
                    return Err(LockFault::Text);
                }
                Some(HostPath::absolute(origin).ok_or(LockFault::Text)?)
            }
        };
        match (&origin, &kind) {
            (Some(_), Kind::Directory | Kind::Symlink(_)) => Err(LockFault::Columns),
            _ => Ok(Locked { path, kind, mode, origin, reason }),
        }
    }
}

impl LockedReason {
    fn parse(text: &str) -> Result<LockedReason, LockFault> {
        let string = |text, blank| String::from_utf8(unescape(text, blank)?).map_err(|_| LockFault::Text);
        let mut words = text.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("skeleton"), None, None) => Ok(LockedReason::Skeleton),
            (Some("spec"), Some(key), Some(value)) => Ok(LockedReason::Spec {
                key: string(key, Blank::Escaped)?,
                value: string(value, Blank::Itself)?,
            }),
            (Some("needed"), Some(by), Some(how)) => {
                Ok(LockedReason::NeededBy { by: jail_path(by)?, how: string(how, Blank::Itself)? })
            }
            _ => Err(LockFault::Columns),
        }
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEADER)?;
        self.entries.iter().try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

impl fmt::Display for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.kind {
            Kind::Directory => 'd',
            Kind::Symlink(_) => 'l',
            Kind::File(_) => 'f',
        };
        write!(f, "{letter} {:04o} ", self.mode)?;
        match &self.kind {
            Kind::File(content) => write!(f, "{} {} ", Hex(&content.sha256), content.size)?,
            _ => f.write_str("- - ")?,
        }
        escape(f, self.path.as_path().as_os_str().as_bytes(), Blank::Escaped)?;
        if let Kind::Symlink(target) = &self.kind {
            f.write_str(" -> ")?;
            escape(f, target.as_os_str().as_bytes(), Blank::Escaped)?;
        }
        f.write_char(' ')?;
        match &self.origin {
            None => f.write_char('-')?,
            Some(origin) if origin.as_path().as_os_str() == self.path.as_path().as_os_str() => {
                f.write_char('=')?;
            }
            Some(origin) => escape(f, origin.as_path().as_os_str().as_bytes(), Blank::Escaped)?,
        }
        write!(f, " {}", self.reason)
    }
}

impl fmt::Display for LockedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LockedReason::Skeleton => f.write_str("skeleton"),
            LockedReason::Spec { key, value } => {
                f.write_str("spec ")?;
                escape(f, key.as_bytes(), Blank::Escaped)?;
                f.write_char(' ')?;
                escape(f, value.as_bytes(), Blank::Itself)
            }
            LockedReason::NeededBy { by, how } => {
                f.write_str("needed ")?;
                escape(f, by.as_path().as_os_str().as_bytes(), Blank::Escaped)?;
                f.write_char(' ')?;
                escape(f, how.as_bytes(), Blank::Itself)
            }
        }
    }
}

/// Bytes as lower-case hexadecimal digits.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: [u8; 16] = *b"0123456789abcdef";
        for byte in self.0 {
            f.write_char(DIGITS[usize::from(byte >> 4)].into())?;
            f.write_char(DIGITS[usize::from(byte & 15)].into())?;
        }
        Ok(())
    }
}

/// The reverse of [`Hex`] for a digest.
pub(crate) fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut out = [0; 32];
    let pairs = text.as_bytes();
    if pairs.len() != 64 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(pairs.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

/// How a blank is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blank {
    /// In a column.
    Escaped,
    /// In the rest of a line.
    Itself,
}

/// Whether a character could end a line or a column, or show a reviewer something else than it is.
fn must_escape(c: char, blank: Blank) -> bool {
    let turns =
        matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}');
    c == '%' || c.is_control() || turns || (c.is_whitespace() && (c != ' ' || blank == Blank::Escaped))
}

/// Bytes that stand for themselves everywhere, as nearly all names do.
fn plain(bytes: &[u8]) -> Option<&str> {
    let plain = bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'%');
    if plain { std::str::from_utf8(bytes).ok() } else { None }
}

/// Writes `bytes` so that they are one word (or one line) and can be read back.
pub(crate) fn escape(f: &mut dyn fmt::Write, bytes: &[u8], blank: Blank) -> fmt::Result {
    if let Some(text) = plain(bytes) {
        return f.write_str(text);
    }
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if must_escape(c, blank) {
                let mut buffer = [0; 4];
                for byte in c.encode_utf8(&mut buffer).bytes() {
                    write!(f, "%{byte:02X}")?;
                }
            } else {
                f.write_char(c)?;
            }
        }
        for byte in chunk.invalid() {
            write!(f, "%{byte:02X}")?;
        }
    }
    Ok(())
}

/// The reverse of [`escape`]; what it would not have written is refused.
pub(crate) fn unescape(text: &str, blank: Blank) -> Result<Vec<u8>, LockFault> {
    if plain(text.as_bytes()).is_some() {
        return Ok(text.as_bytes().to_vec());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |byte: Option<u8>| match byte {
        Some(byte @ b'0'..=b'9') => Ok(byte - b'0'),
        Some(byte @ b'A'..=b'F') => Ok(byte - b'A' + 10),
        _ => Err(LockFault::Text),
    };
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => out.push(digit(rest.next())? << 4 | digit(rest.next())?),
            other => out.push(other),
        }
    }
    let mut again = String::with_capacity(text.len());
    escape(&mut again, &out, blank).map_err(|_| LockFault::Text)?;
    match again == text {
        true => Ok(out),
        false => Err(LockFault::Text),
    }
}

fn jail_path(column: &str) -> Result<JailPath, LockFault> {
    let bytes = OsString::from_vec(unescape(column, Blank::Escaped)?);
    let path = JailPath::new(&bytes).map_err(|_| LockFault::Text)?;
    match path.as_path().as_os_str() == bytes {
        true => Ok(path),
        false => Err(LockFault::Text),
    }
}

fn octal(column: &str) -> Result<u32, LockFault> {
    match column.len() == 4 && column.bytes().all(|byte| (b'0'..=b'7').contains(&byte)) {
        true => u32::from_str_radix(column, 8).map_err(|_| LockFault::Number),
        false => Err(LockFault::Number),
    }
}

fn decimal(column: &str) -> Result<u64, LockFault> {
    let number: u64 = column.parse().map_err(|_| LockFault::Number)?;
    match number.to_string() == column {
        true => Ok(number),
        false => Err(LockFault::Number),
    }
}

#[cfg(test)]
mod tests;
