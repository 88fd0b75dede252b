//! The loader's search: a program → every object that its loader would load, in the loader's order.
//!
//! glibc: elf/dl-load.c, elf/dl-deps.c, elf/dl-version.c, ld.so(8). musl: ldso/dynlink.c. Where the outcome
//! depends on the processor (`glibc-hwcaps`, `$PLATFORM`), every file that some processor would get is found:
//! the jail may run on another one than this.
//!
//! However hostile the files, one program costs at most 16,384 objects, 65,536 requests and 262,144
//! look-ups of a path.

mod candidate;
mod environment;
mod features;
mod glibc;
mod musl;
mod names;
mod run;
#[cfg(test)]
mod tests;
mod versions;

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;

use super::elf::{Architecture, Defect, Feature, Malformed, NoteDefect, Object, Priority};
use super::ldcache::{self, Cache};
use super::loader::{Loader, LoaderKind};
use super::root::{Opened, RootError, SourceRoot};
use candidate::{Candidate, Directory, FileId, Files};
pub use environment::Environment;
pub use features::FeatureRules;
use glibc::Shared;
use names::Names;
use run::Run;
pub use versions::VersionMismatch;

/// Objects of one program; the largest real ones have some hundred.
const MAXIMUM_OBJECTS: usize = 1 << 14;
/// Requests of one program; the largest real ones make some thousand.
const MAXIMUM_REQUESTS: usize = 1 << 16;
/// Paths that are looked up for one program; a hundred libraries in a hundred directories are ten thousand.
const MAXIMUM_LOOK_UPS: usize = 1 << 18;

/// A file's identity: device and inode.
pub type Identity = (u64, u64);

/// Which rule found a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// It is the program.
    Program,
    /// `PT_INTERP`, at its literal path.
    Interpreter,
    /// The name has a slash and is the path.
    Path,
    /// `DT_RPATH` of the object at this path.
    Rpath(Rc<Path>),
    /// `LD_LIBRARY_PATH`
    LibraryPath,
    /// `DT_RUNPATH` of the requester.
    Runpath,
    /// `ld.so.cache`
    Cache,
    /// A default directory.
    Default,
    /// Loaded before, under this name or as this file.
    Loaded,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Via::Program => f.write_str("program"),
            Via::Interpreter => f.write_str("PT_INTERP"),
            Via::Path => f.write_str("path"),
            Via::Rpath(of) => write!(f, "RPATH of {}", crate::path::printable(of.as_os_str())),
            Via::LibraryPath => f.write_str("LD_LIBRARY_PATH"),
            Via::Runpath => f.write_str("RUNPATH"),
            Via::Cache => f.write_str("ld.so.cache"),
            Via::Default => f.write_str("default directory"),
            Via::Loaded => f.write_str("already loaded"),
        }
    }
}

/// How an object asks for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependency {
    /// `PT_INTERP`
    Interpreter,
    /// `DT_NEEDED`
    Needed,
    /// `DT_AUXILIARY`: may be missing.
    Auxiliary,
    /// `DT_FILTER`
    Filter,
    /// `DT_AUDIT` or `DT_DEPAUDIT`: glibc warns where it is missing.
    Audit,
    /// `LD_PRELOAD`: glibc warns where it is missing.
    Preload,
    /// dlopen(3)
    Dlopen,
    /// `.note.dlopen`
    Note(Priority),
}

impl Dependency {
    /// Whether the program runs without it.
    pub fn is_optional(self) -> bool {
        match self {
            Dependency::Auxiliary | Dependency::Audit | Dependency::Preload => true,
            Dependency::Note(priority) => priority != Priority::Required,
            Dependency::Interpreter | Dependency::Needed | Dependency::Filter | Dependency::Dlopen => false,
        }
    }

    /// The tag's name.
    pub fn name(self) -> &'static str {
        match self {
            Dependency::Interpreter => "PT_INTERP",
            Dependency::Needed => "DT_NEEDED",
            Dependency::Auxiliary => "DT_AUXILIARY",
            Dependency::Filter => "DT_FILTER",
            Dependency::Audit => "DT_AUDIT",
            Dependency::Preload => "LD_PRELOAD",
            Dependency::Dlopen => "dlopen",
            Dependency::Note(_) => "dlopen note",
        }
    }
}

/// An object of a program.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The path as it was found: links are not resolved, `..` is kept.
    pub path: Rc<Path>,
    /// The file.
    pub identity: Identity,
    /// What is in it.
    pub object: Rc<Object>,
    /// Who first asked for it.
    pub loader: Option<usize>,
    /// Only some processors load it.
    pub variant: bool,
    /// The program runs without it, so what it misses is no error.
    pub optional: bool,
    /// It is the loader itself: it stands for matching and is not searched.
    is_loader: bool,
    /// musl knows it by its file name.
    named: bool,
    file: FileId,
    /// The nearest object on the way to the program, this one included, whose path list serves what is
    /// needed here.
    searcher: Option<usize>,
    /// Its RPATH or RUNPATH, split once.
    list: Option<Rc<[candidate::Element]>>,
    /// Its requests among all.
    requests: std::ops::Range<usize>,
}

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Found {
        /// Index of the object.
        object: usize,
        /// The file that was opened; `None` where a loaded object answered to the name.
        path: Option<Rc<Path>>,
        /// The rule.
        via: Via,
        /// It was not loaded before.
        first: bool,
    },
    /// It is nowhere.
    Missing {
        /// Every directory that was looked into, in order.
        searched: Vec<PathBuf>,
    },
    /// What is found first cannot be loaded, and the loader would stop there.
    Malformed {
        /// The file.
        path: Rc<Path>,
        /// What is wrong.
        defect: Defect,
    },
    /// A feature of a dlopen note that was not asked for: nothing was looked up.
    LeftOut,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Index of the requester.
    pub from: usize,
    /// How it asks.
    pub dependency: Dependency,
    /// The name as it stands.
    pub name: Rc<OsStr>,
    /// Of a dlopen note: the index of the feature in the requester's.
    pub feature: Option<usize>,
    /// What became of it.
    pub outcome: Outcome,
}

/// A program with everything that its loader loads.
#[derive(Clone, Debug, Default)]
pub struct Resolution {
    /// The program first, then its interpreter, then in the order of loading.
    pub objects: Vec<Loaded>,
    /// Every request, in order.
    pub edges: Vec<Edge>,
    /// Its loader; `None` for a static program.
    pub loader: Option<Rc<Loader>>,
    /// Search directories that depend on the working directory and were left out.
    pub relative: Vec<PathBuf>,
    /// Symbol versions that an object needs and the library that was found does not have.
    pub mismatches: Vec<VersionMismatch>,
}

impl Resolution {
    /// The feature that an edge of a dlopen note stands for.
    pub fn feature(&self, edge: &Edge) -> Option<&Feature> {
        self.objects[edge.from].object.features.as_ref().ok()?.get(edge.feature?)
    }

    /// Whether the program runs although this request fails.
    pub fn is_optional(&self, edge: &Edge) -> bool {
        edge.dependency.is_optional() || self.objects[edge.from].optional
    }

    /// Objects whose dlopen note cannot be read, and why.
    pub fn note_defects(&self) -> impl Iterator<Item = (usize, NoteDefect)> {
        let defect = |(at, loaded): (usize, &Loaded)| Some((at, *loaded.object.features.as_ref().err()?));
        self.objects.iter().enumerate().filter_map(defect)
    }
}

/// A program that cannot be resolved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// It cannot be opened.
    #[error(transparent)]
    Root(#[from] RootError),
    /// It is no regular file.
    #[error("it is {}", .0.name())]
    NotRegular(super::root::FileKind),
    /// It is no ELF file that can be run.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The interpreter at its literal path is missing.
    #[error("its interpreter {} cannot be opened", crate::path::printable(path.as_os_str()))]
    Interpreter {
        /// `PT_INTERP`
        path: PathBuf,
        /// Why.
        #[source]
        cause: Box<RootError>,
    },
    /// Nothing says which loader would load it.
    #[error("no loader for its architecture is installed")]
    NoLoader,
    /// More than any real program has.
    #[error("it needs more than {MAXIMUM_OBJECTS} objects")]
    TooManyObjects,
    /// More than any real program has.
    #[error("it asks for libraries more than {MAXIMUM_REQUESTS} times")]
    TooManyRequests,
    /// More than any real program has.
    #[error("its libraries would be looked for in more than {MAXIMUM_LOOK_UPS} places")]
    TooManyLookUps,
}

/// The state that searches in one tree share.
#[derive(Debug)]
pub struct Search<'r> {
    root: &'r SourceRoot,
    working_directory: Option<PathBuf>,
    environment: Environment,
    rules: FeatureRules,
    names: Names,
    files: Files,
    /// What is at a path, as bytes: comparing components is slow.
    candidates: HashMap<OsString, Candidate>,
    directories: HashMap<(OsString, bool), Rc<Directory>>,
    /// What the cache and the default directories answer, which is alike for all programs of a loader:
    /// by its kind of question, then by name.
    questions: HashMap<(usize, Architecture, bool), usize>,
    shared: Vec<Vec<Option<Rc<Shared>>>>,
    loaders: HashMap<PathBuf, Result<Rc<Loader>, RootError>>,
    caches: HashMap<PathBuf, Rc<Cache>>,
    customary: HashMap<Architecture, Option<PathBuf>>,
    real: HashMap<OsString, Option<PathBuf>>,
    /// Pairs of files, and a need of the first, that were found to fit.
    fitting: HashSet<(FileId, usize, FileId)>,
}

impl<'r> Search<'r> {
    /// A search in `root`. Relative search directories count from `working_directory`; without one
    /// they are left out and named in [`Resolution::relative`].
    pub fn new(root: &'r SourceRoot, working_directory: Option<PathBuf>) -> Search<'r> {
        Search {
            root,
            working_directory,
            environment: Environment::default(),
            rules: FeatureRules::default(),
            names: Names::default(),
            files: Files::default(),
            candidates: HashMap::new(),
            directories: HashMap::new(),
            questions: HashMap::new(),
            shared: Vec::new(),
            loaders: HashMap::new(),
            caches: HashMap::new(),
            customary: HashMap::new(),
            real: HashMap::new(),
            fitting: HashSet::new(),
        }
    }

    /// The same with what the programs' environment tells their loader.
    pub fn with_environment(self, environment: Environment) -> Search<'r> {
        Search { environment, ..self }
    }

    /// The same with rules which features of dlopen notes are followed.
    pub fn with_features(self, rules: FeatureRules) -> Search<'r> {
        Search { rules, ..self }
    }

    /// The tree.
    pub fn root(&self) -> &'r SourceRoot {
        self.root
    }

    /// The cache that programs of `loader` use.
    pub fn cache(&mut self, loader: &Loader) -> Option<Rc<Cache>> {
        let path = loader.cache.as_ref()?;
        if let Some(cache) = self.caches.get(path) {
            return Some(cache.clone());
        }
        let cache = Rc::new(ldcache::of_root(self.root, path).0);
        self.caches.insert(path.clone(), cache.clone());
        Some(cache)
    }

    /// Where the object found at `path` really is.
    pub fn real(&mut self, path: &Path) -> Option<PathBuf> {
        if let Some(real) = self.real.get(path.as_os_str()) {
            return real.clone();
        }
        let real = self.root.resolve(path).ok().map(|resolved| resolved.real);
        self.real.insert(path.as_os_str().to_owned(), real.clone());
        real
    }

    /// Resolves the file at `real`, a path without links, as its loader would when it is run, then
    /// when it opens each of `dlopened`.
    ///
    /// # Errors
    /// [`SearchError`] where the file itself or its interpreter cannot be used. A missing library is
    /// no error but an [`Edge`].
    pub fn resolve(&mut self, real: &Path, dlopened: &[OsString]) -> Result<Resolution, SearchError> {
        match self.root.open_file(real) {
            Ok(Opened::Regular(file, stat)) => {
                let id = self.files.learn((stat.st_dev, stat.st_ino), &file);
                self.resolve_file(real, id, dlopened)
            }
            Ok(Opened::Other(kind)) => Err(SearchError::NotRegular(kind)),
            Err(errno) => Err(RootError { path: real.to_owned(), errno }.into()),
        }
    }

    /// As [`Search::resolve`], of a file that is open already.
    ///
    /// # Errors
    /// As [`Search::resolve`].
    pub fn resolve_open(
        &mut self,
        real: &Path,
        file: &std::fs::File,
        identity: Identity,
    ) -> Result<Resolution, SearchError> {
        let id = self.files.learn(identity, file);
        self.resolve_file(real, id, &[])
    }

    fn resolve_file(
        &mut self,
        real: &Path,
        file: FileId,
        dlopened: &[OsString],
    ) -> Result<Resolution, SearchError> {
        let object = self.files.object(file).clone()?;
        let mut resolution = Resolution::default();
        // Of most programs that is enough.
        resolution.objects.reserve(16);
        resolution.edges.reserve(32);
        resolution.objects.push(Loaded::main(real, self.files.identity(file), file, object.clone()));
        if (object.split_debug && !object.dynamic) || object.is_static() {
            return Ok(resolution);
        }
        if object.interpreter.is_some() && object.overlong {
            let architecture = Some(object.architecture);
            return Err(Malformed { architecture, defect: Defect::TooManyProgramHeaders }.into());
        }
        let interpreter = match &object.interpreter {
            Some(path) => PathBuf::from(path),
            None => self.customary_loader(object.architecture).ok_or(SearchError::NoLoader)?,
        };
        if !interpreter.is_absolute() {
            // It would depend on the working directory.
            let cause = Box::new(RootError { path: interpreter.clone(), errno: Errno::ENOENT });
            return Err(SearchError::Interpreter { path: interpreter, cause });
        }
        let loader = self.loader(&interpreter)?;
        resolution.loader = Some(loader.clone());
        if object.interpreter.is_some() {
            self.customary.entry(object.architecture).or_insert(Some(interpreter));
        }
        let mut run = Run::new(self, resolution, loader, object);
        run.load(dlopened)?;
        Ok(run.into_resolution())
    }

    fn customary_loader(&mut self, architecture: Architecture) -> Option<PathBuf> {
        let root = self.root;
        self.customary.entry(architecture).or_insert_with(|| Loader::customary(root, architecture)).clone()
    }

    fn loader(&mut self, path: &Path) -> Result<Rc<Loader>, SearchError> {
        if !self.loaders.contains_key(path) {
            let read = Loader::read(self.root, path).map(Rc::new);
            self.loaders.insert(path.to_owned(), read);
        }
        let failed = |cause| SearchError::Interpreter { path: path.to_owned(), cause: Box::new(cause) };
        self.loaders[path].clone().map_err(failed)
    }
}

impl Loaded {
    fn main(path: &Path, identity: Identity, file: FileId, object: Rc<Object>) -> Loaded {
        Loaded {
            path: path.into(),
            identity,
            object,
            loader: None,
            variant: false,
            optional: false,
            is_loader: false,
            named: false,
            file,
            searcher: None,
            list: None,
            requests: 0..0,
        }
    }
}
