//! What is at a path, and whether the loader would take it as a library.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;

use super::super::elf::{self, Architecture, Defect, Malformed, Object};
use super::super::loader::{Loader, LoaderKind};
use super::super::root::{FileKind, Opened};
use super::names::{NameId, Names};
use super::{Identity, Search};

/// Directories below one `glibc-hwcaps`.
const MAXIMUM_VARIANTS: usize = 64;
/// Paths of which is remembered what is there; hostile objects name others without end.
const MAXIMUM_REMEMBERED: usize = 1 << 19;

/// A file that was read, by the order of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(u32);

/// Every file that was read, once, whatever its names.
#[derive(Debug, Default)]
pub struct Files {
    ids: HashMap<Identity, FileId>,
    files: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    identity: Identity,
    object: Result<Rc<Object>, Malformed>,
    /// The namespace in which it was last loaded, and as which object.
    loaded: (u32, u32),
    asks: Option<Rc<Asks>>,
}

/// The names in an object, as numbers: programs share their libraries.
#[derive(Debug)]
pub struct Asks {
    /// [`Names::generation`] of the numbers.
    generation: u32,
    pub needed: Box<[NameId]>,
    pub soname: Option<NameId>,
    /// Of whom it needs versions.
    pub versions: Box<[NameId]>,
}

impl Files {
    /// Reads an open file, unless it has been.
    pub fn learn(&mut self, identity: Identity, file: &File) -> FileId {
        *self.ids.entry(identity).or_insert_with(|| {
            let id = FileId(self.files.len() as u32);
            let object = elf::parse(file).map(Rc::new);
            self.files.push(Known { identity, object, loaded: (0, 0), asks: None });
            id
        })
    }

    pub fn identity(&self, id: FileId) -> Identity {
        self.files[id.0 as usize].identity
    }

    pub fn object(&self, id: FileId) -> &Result<Rc<Object>, Malformed> {
        &self.files[id.0 as usize].object
    }

    /// As which object a file is loaded.
    pub fn loaded(&self, namespace: u32, id: FileId) -> Option<usize> {
        let (known, object) = self.files[id.0 as usize].loaded;
        (known == namespace).then_some(object as usize)
    }

    pub fn load(&mut self, namespace: u32, id: FileId, object: usize) {
        self.files[id.0 as usize].loaded = (namespace, object as u32);
    }

    /// The names in a sound object.
    pub fn asks(&mut self, id: FileId, object: &Object, names: &mut Names) -> Rc<Asks> {
        let known = &mut self.files[id.0 as usize];
        if let Some(asks) = known.asks.as_ref().filter(|asks| asks.generation == names.generation()) {
            return asks.clone();
        }
        let asks = Rc::new(Asks {
            generation: names.generation(),
            needed: object.needed.iter().map(|name| names.id(name)).collect(),
            soname: object.soname.as_deref().map(|name| names.id(name)),
            versions: object.version_needs.iter().map(|need| names.id(&need.file)).collect(),
        });
        known.asks = Some(asks.clone());
        asks
    }
}

/// What opening a path as a library gave. Kept for each path: programs share their libraries.
#[derive(Clone, Copy, Debug)]
pub enum Candidate {
    /// A regular file, which may be no library.
    File(FileId),
    /// Neither file nor missing.
    Other(Defect),
    /// It cannot be opened.
    Closed(Errno),
}

/// A directory of a search list.
#[derive(Debug)]
pub struct Directory {
    pub path: PathBuf,
    pub exists: bool,
    /// Its subdirectories for some processors, best first.
    pub variants: Vec<PathBuf>,
}

/// An element of a search list.
#[derive(Clone, Debug)]
pub struct Element {
    /// As it is written.
    pub directory: PathBuf,
    /// Only some processors search it: `$PLATFORM`.
    pub variant: bool,
}

impl Element {
    pub fn always(directory: &OsStr) -> Element {
        Element { directory: directory.into(), variant: false }
    }
}

/// What the loader makes of a candidate.
pub enum Accepted {
    /// It is taken.
    File(FileId),
    /// The next directory is tried.
    Next,
    /// The rest of the list is not tried.
    Abandon,
    /// The program does not start.
    Fatal(Defect),
}

impl Search<'_> {
    pub(super) fn candidate(&mut self, path: &Path) -> Candidate {
        if let Some(candidate) = self.candidates.get(path.as_os_str()) {
            return *candidate;
        }
        let candidate = match self.root.open_file(path) {
            Ok(Opened::Regular(file, stat)) => {
                Candidate::File(self.files.learn((stat.st_dev, stat.st_ino), &file))
            }
            // A socket cannot be opened by anybody.
            Ok(Opened::Other(FileKind::Socket)) => Candidate::Closed(Errno::ENXIO),
            Ok(Opened::Other(kind)) => Candidate::Other(Defect::NotRegular(kind)),
            Err(errno) => Candidate::Closed(errno),
        };
        if self.candidates.len() >= MAXIMUM_REMEMBERED {
            self.candidates.clear();
        }
        self.candidates.insert(path.as_os_str().to_owned(), candidate);
        candidate
    }

    /// Whether a loader would take what is at `path`: glibc's `open_verify`, musl's `map_library`.
    pub(super) fn accept(&mut self, path: &Path, wanted: Architecture, loader: &Loader) -> Accepted {
        let glibc = loader.kind == LoaderKind::Glibc;
        let id = match self.candidate(path) {
            Candidate::File(id) => id,
            Candidate::Other(defect) => return Accepted::Fatal(defect),
            Candidate::Closed(Errno::ENOENT | Errno::EACCES | Errno::ENOTDIR) => return Accepted::Next,
            Candidate::Closed(Errno::ENAMETOOLONG) if !glibc => return Accepted::Next,
            Candidate::Closed(_) => return Accepted::Abandon,
        };
        match self.files.object(id) {
            Ok(object) => compare(object.architecture, wanted, object.irregular, glibc)
                .or_else(|| unfit(object, loader).map(Accepted::Fatal))
                .unwrap_or(Accepted::File(id)),
            Err(Malformed { architecture: Some(architecture), defect }) => {
                compare(*architecture, wanted, Some(*defect), glibc).unwrap_or(Accepted::Fatal(*defect))
            }
            Err(Malformed { defect: Defect::Class, .. }) if glibc => Accepted::Next,
            Err(Malformed { defect, .. }) => Accepted::Fatal(*defect),
        }
    }

    pub(super) fn directory(&mut self, path: &Path, legacy: bool) -> Rc<Directory> {
        let key = (path.as_os_str().to_owned(), legacy);
        if let Some(directory) = self.directories.get(&key) {
            return directory.clone();
        }
        let exists = self.root.is_directory(path);
        let mut variants = Vec::new();
        if exists {
            let hwcaps = path.join("glibc-hwcaps");
            // v4 before v3 before v2.
            let names = self.root.names(&hwcaps).into_iter().rev().take(MAXIMUM_VARIANTS);
            variants.extend(names.map(|name| hwcaps.join(name)));
            if legacy {
                self.legacy_variants(
                    path,
                    &["tls", "haswell", "xeon_phi", "avx512_1", "x86_64"],
                    &mut variants,
                );
            }
        }
        let directory = Rc::new(Directory { path: path.to_owned(), exists, variants });
        if self.directories.len() >= MAXIMUM_REMEMBERED {
            self.directories.clear();
        }
        self.directories.insert(key, directory.clone());
        directory
    }

    /// The subdirectories that glibc before 2.37 looked into: every selection of the names, in order.
    fn legacy_variants(&self, path: &Path, names: &[&str], variants: &mut Vec<PathBuf>) {
        for (index, name) in names.iter().enumerate() {
            let below = path.join(name);
            if self.root.is_directory(&below) {
                self.legacy_variants(&below, &names[index + 1..], variants);
                variants.push(below);
            }
        }
    }
}

/// glibc's order of checks: the class; the identification, where only a file for this machine is
/// complained about; the version; the machine; the rest.
fn compare(
    found: Architecture,
    wanted: Architecture,
    defect: Option<Defect>,
    glibc: bool,
) -> Option<Accepted> {
    if !glibc {
        return (found != wanted).then_some(Accepted::Fatal(Defect::Architecture));
    }
    if found.class != wanted.class {
        return Some(Accepted::Next);
    }
    let turned = found.little_endian != wanted.little_endian;
    // The loader reads it in its own byte order.
    let machine = if turned { found.machine.swap_bytes() } else { found.machine };
    let identification = turned.then_some(Defect::ByteOrder).or(defect.filter(|d| d.is_in_identification()));
    match (identification, defect) {
        (Some(_), _) if machine != wanted.machine => Some(Accepted::Next),
        (Some(defect), _) | (None, Some(defect @ Defect::Version)) => Some(Accepted::Fatal(defect)),
        _ if machine != wanted.machine => Some(Accepted::Next),
        (None, defect) => defect.map(Accepted::Fatal),
    }
}

/// What keeps a sound object of the right architecture from being a library.
fn unfit(object: &Object, loader: &Loader) -> Option<Defect> {
    match loader.kind {
        LoaderKind::Musl => (!object.dynamic).then_some(Defect::NoDynamic),
        LoaderKind::Glibc if object.fixed => Some(Defect::Program),
        LoaderKind::Glibc if !object.dynamic || object.split_debug => Some(Defect::NoDynamic),
        LoaderKind::Glibc => (object.is_pie() && loader.refuses_pie).then_some(Defect::Program),
    }
}
