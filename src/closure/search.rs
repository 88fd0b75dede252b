//! The loader's search: a program → every object that its loader would load, in the loader's order.
//!
//! glibc: elf/dl-load.c, elf/dl-deps.c, ld.so(8). musl: ldso/dynlink.c. Where the outcome depends on the
//! processor (`glibc-hwcaps`, `$PLATFORM`), every file that some processor would get is found: the
//! jail may run on another one than this.

mod run;

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::errno::Errno;

use super::elf::{self, Architecture, Defect, Malformed, Object};
use super::ldcache::{self, Cache};
use super::loader::{Loader, LoaderKind};
use super::root::{Opened, RootError, SourceRoot};
use run::Run;

/// Objects of one program; the largest real ones have some hundred.
const MAXIMUM_OBJECTS: usize = 8192;
/// Directories below one `glibc-hwcaps`.
const MAXIMUM_VARIANTS: usize = 64;

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
    Rpath(PathBuf),
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
    /// dlopen(3)
    Dlopen,
}

impl Dependency {
    /// Whether the program runs without it.
    pub fn is_optional(self) -> bool {
        matches!(self, Dependency::Auxiliary | Dependency::Audit)
    }

    /// The tag's name.
    pub fn name(self) -> &'static str {
        match self {
            Dependency::Interpreter => "PT_INTERP",
            Dependency::Needed => "DT_NEEDED",
            Dependency::Auxiliary => "DT_AUXILIARY",
            Dependency::Filter => "DT_FILTER",
            Dependency::Audit => "DT_AUDIT",
            Dependency::Dlopen => "dlopen",
        }
    }
}

/// An object of a program.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The path as it was found: links are not resolved, `..` is kept.
    pub path: PathBuf,
    /// The file.
    pub identity: Identity,
    /// What is in it.
    pub object: Rc<Object>,
    /// Names that it is known by, besides its SONAME.
    names: Vec<OsString>,
    /// Who first asked for it.
    pub loader: Option<usize>,
    /// Only some processors load it.
    pub variant: bool,
    /// It stands for matching and is not searched itself.
    is_loader: bool,
}

/// What became of one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is there.
    Found {
        /// Index of the object.
        object: usize,
        /// The file that was opened; `None` where a loaded object answered to the name.
        path: Option<PathBuf>,
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
        path: PathBuf,
        /// What is wrong.
        defect: Defect,
    },
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Index of the requester.
    pub from: usize,
    /// How it asks.
    pub dependency: Dependency,
    /// The name as it stands.
    pub name: OsString,
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
}

/// What opening a path as a library gave. Kept for each path: programs share their libraries.
#[derive(Clone, Debug)]
enum Candidate {
    Object(Identity, Rc<Object>),
    Malformed(Malformed),
    /// ENOENT, EACCES, ENOTDIR: the next directory is tried.
    Missing,
    /// Any other error: the rest of the list is not tried.
    Abandon,
}

/// A directory of a search list.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    exists: bool,
    /// Its subdirectories for some processors, best first.
    variants: Vec<PathBuf>,
}

/// The state that searches in one tree share.
#[derive(Debug)]
pub struct Search<'r> {
    root: &'r SourceRoot,
    working_directory: Option<PathBuf>,
    candidates: HashMap<PathBuf, Candidate>,
    objects: HashMap<Identity, Result<Rc<Object>, Malformed>>,
    directories: HashMap<(PathBuf, bool), Rc<Directory>>,
    loaders: HashMap<PathBuf, Result<Rc<Loader>, RootError>>,
    caches: HashMap<PathBuf, Rc<Cache>>,
    customary: HashMap<Architecture, Option<PathBuf>>,
    real: HashMap<PathBuf, Option<PathBuf>>,
}

impl<'r> Search<'r> {
    /// A search in `root`. Relative search directories count from `working_directory`; without one
    /// they are left out and named in [`Resolution::relative`].
    pub fn new(root: &'r SourceRoot, working_directory: Option<PathBuf>) -> Search<'r> {
        Search {
            root,
            working_directory,
            candidates: HashMap::new(),
            objects: HashMap::new(),
            directories: HashMap::new(),
            loaders: HashMap::new(),
            caches: HashMap::new(),
            customary: HashMap::new(),
            real: HashMap::new(),
        }
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
        if let Some(real) = self.real.get(path) {
            return real.clone();
        }
        let real = self.root.resolve(path).ok().map(|resolved| resolved.real);
        self.real.insert(path.to_owned(), real.clone());
        real
    }

    /// Resolves the file at `real`, a path without links, as its loader would when it is run, then
    /// when it opens each of `dlopened`.
    ///
    /// # Errors
    /// [`SearchError`] where the file itself or its interpreter cannot be used. A missing library is
    /// no error but an [`Edge`].
    pub fn resolve(&mut self, real: &Path, dlopened: &[OsString]) -> Result<Resolution, SearchError> {
        let (identity, object) = match self.root.open_file(real) {
            Ok(Opened::Regular(file, stat)) => {
                let identity = (stat.st_dev, stat.st_ino);
                (identity, self.object(identity, &file)?)
            }
            Ok(Opened::Other(kind)) => return Err(SearchError::NotRegular(kind)),
            Err(errno) => return Err(RootError { path: real.to_owned(), errno }.into()),
        };
        self.resolve_object(real, identity, object, dlopened)
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
        let object = self.object(identity, file)?;
        self.resolve_object(real, identity, object, &[])
    }

    fn resolve_object(
        &mut self,
        real: &Path,
        identity: Identity,
        object: Rc<Object>,
        dlopened: &[OsString],
    ) -> Result<Resolution, SearchError> {
        let main = Loaded {
            path: real.to_owned(),
            identity,
            object: object.clone(),
            names: Vec::new(),
            loader: None,
            variant: false,
            is_loader: false,
        };
        let mut resolution = Resolution { objects: vec![main], ..Resolution::default() };
        if object.split_debug || object.is_static() {
            return Ok(resolution);
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
        self.load_interpreter(&mut resolution, &loader, object.interpreter.is_some());
        if object.interpreter.is_some() {
            self.customary.entry(object.architecture).or_insert(Some(interpreter));
        }
        let mut run = Run::new(self, resolution, loader, object.architecture);
        run.load_needs(VecDeque::from([0]))?;
        run.load_audits()?;
        for name in dlopened {
            let queue = run.request(0, name, Dependency::Dlopen)?;
            run.load_needs(queue.into())?;
        }
        Ok(run.into_resolution())
    }

    fn customary_loader(&mut self, architecture: Architecture) -> Option<PathBuf> {
        let root = self.root;
        self.customary.entry(architecture).or_insert_with(|| Loader::customary(root, architecture)).clone()
    }

    fn loader(&mut self, path: &Path) -> Result<Rc<Loader>, SearchError> {
        let root = self.root;
        self.loaders
            .entry(path.to_owned())
            .or_insert_with(|| Loader::read(root, path).map(Rc::new))
            .clone()
            .map_err(|cause| SearchError::Interpreter { path: path.to_owned(), cause: Box::new(cause) })
    }

    fn load_interpreter(&mut self, resolution: &mut Resolution, loader: &Loader, literal: bool) {
        let Candidate::Object(identity, object) = self.candidate(&loader.path) else { return };
        let mut names = vec![loader.path.clone().into_os_string()];
        names.extend(loader.soname.clone());
        if loader.kind == LoaderKind::Musl {
            names.push("libc.so".into());
        }
        let path = loader.path.clone();
        let at = resolution.objects.len();
        resolution.objects.push(Loaded {
            path: path.clone(),
            identity,
            object,
            names,
            loader: Some(0),
            variant: false,
            is_loader: true,
        });
        if literal {
            resolution.edges.push(Edge {
                from: 0,
                dependency: Dependency::Interpreter,
                name: path.clone().into(),
                outcome: Outcome::Found { object: at, path: Some(path), via: Via::Interpreter, first: true },
            });
        }
    }

    fn object(&mut self, identity: Identity, file: &std::fs::File) -> Result<Rc<Object>, Malformed> {
        self.objects.entry(identity).or_insert_with(|| elf::parse(file).map(Rc::new)).clone()
    }

    fn candidate(&mut self, path: &Path) -> Candidate {
        if let Some(candidate) = self.candidates.get(path) {
            return candidate.clone();
        }
        let candidate = match self.root.open_file(path) {
            Ok(Opened::Regular(file, stat)) => {
                let identity = (stat.st_dev, stat.st_ino);
                match self.object(identity, &file) {
                    Ok(object) => Candidate::Object(identity, object),
                    Err(malformed) => Candidate::Malformed(malformed),
                }
            }
            Ok(Opened::Other(kind)) => {
                Candidate::Malformed(Malformed { architecture: None, defect: Defect::NotRegular(kind) })
            }
            Err(Errno::ENOENT | Errno::EACCES | Errno::ENOTDIR) => Candidate::Missing,
            Err(_) => Candidate::Abandon,
        };
        self.candidates.insert(path.to_owned(), candidate.clone());
        candidate
    }

    fn directory(&mut self, path: &Path, legacy: bool) -> Rc<Directory> {
        let key = (path.to_owned(), legacy);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::closure::elf::Defect;
    use crate::closure::ldcache::{CacheEntry, write};
    use crate::closure::specimen::Specimen;
    use crate::path::HostPath;
    use goblin::elf::dynamic::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME};

    struct Tree(PathBuf);

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    impl Tree {
        fn new(name: &str) -> Tree {
            let path = std::env::temp_dir().join(format!("jailmk-search-{name}-{}", std::process::id()));
            let _ = std::fs::remove_dir_all(&path);
            std::fs::create_dir_all(&path).unwrap();
            Tree(path)
        }

        fn file(&self, path: &str, bytes: &[u8]) -> &Tree {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
            self
        }

        fn library(&self, path: &str, specimen: Specimen) -> &Tree {
            self.file(path, &specimen.bytes())
        }

        fn resolve(&self, path: &str) -> Resolution {
            let root = SourceRoot::open(HostPath::absolute(&self.0).unwrap()).unwrap();
            Search::new(&root, None).resolve(Path::new(path), &[]).unwrap()
        }

        /// Name → path and rule, or what is wrong.
        fn answers(&self, path: &str) -> Vec<String> {
            let resolution = self.resolve(path);
            let edges = resolution.edges.iter().filter(|edge| edge.dependency != Dependency::Interpreter);
            edges
                .map(|edge| match &edge.outcome {
                    Outcome::Found { path: Some(path), via, .. } => format!("{} ({via})", path.display()),
                    Outcome::Found { path: None, .. } => format!("{} loaded", edge.name.display()),
                    Outcome::Missing { .. } => format!("{} missing", edge.name.display()),
                    Outcome::Malformed { path, defect } => format!("{}: {defect}", path.display()),
                })
                .collect()
        }
    }

    const MUSL: &str = "/lib/ld-musl-x86_64.so.1";
    const GLIBC: &str = "/lib64/ld-linux-x86-64.so.2";

    fn program(interpreter: &'static str) -> Specimen {
        Specimen { interpreter: Some(interpreter), ..Specimen::default() }
    }

    fn library() -> Specimen {
        Specimen::default()
    }

    #[test]
    fn runpath_is_inherited_by_musls_rules_and_not_by_glibcs() {
        let tree = Tree::new("inherit");
        tree.library("lib/ld-musl-x86_64.so.1", library()).library("lib64/ld-linux-x86-64.so.2", library());
        tree.library("o/liba.so", library().with(DT_NEEDED, "libb.so")).library("o/libb.so", library());
        for (name, interpreter) in [("m", MUSL), ("g", GLIBC)] {
            let program = program(interpreter).with(DT_NEEDED, "liba.so").with(DT_RUNPATH, "$ORIGIN/../o");
            tree.library(&format!("bin/{name}"), program);
        }
        assert_eq!(tree.answers("/bin/m")[1], "/bin/../o/libb.so (RUNPATH)");
        assert_eq!(tree.answers("/bin/g")[1], "libb.so missing");
    }

    #[test]
    fn musls_own_library_names_are_its_loader() {
        let tree = Tree::new("reserved");
        tree.library("lib/ld-musl-x86_64.so.1", library());
        tree.library("lib/libpthread.so.0", library());
        tree.library("bin/p", program(MUSL).with(DT_NEEDED, "libc.so").with(DT_NEEDED, "libpthread.so.0"));
        assert_eq!(tree.answers("/bin/p"), ["libc.so loaded", "libpthread.so.0 loaded"]);
    }

    #[test]
    fn musl_does_not_look_at_sonames_and_reads_its_path_file() {
        let tree = Tree::new("musl-path");
        tree.library("lib/ld-musl-x86_64.so.1", library()).file("etc/ld-musl-x86_64.path", b"/none\n/x:/y");
        tree.library("y/liba.so", library().with(DT_SONAME, "libb.so")).library("y/libb.so", library());
        tree.library("bin/p", program(MUSL).with(DT_NEEDED, "liba.so").with(DT_NEEDED, "libb.so"));
        let expected = ["/y/liba.so (default directory)", "/y/libb.so (default directory)"];
        assert_eq!(tree.answers("/bin/p"), expected);
    }

    #[test]
    fn musl_ignores_a_path_with_a_token_that_it_does_not_know() {
        let tree = Tree::new("musl-token");
        tree.library("lib/ld-musl-x86_64.so.1", library()).library("o/liba.so", library());
        tree.library("bin/p", program(MUSL).with(DT_NEEDED, "liba.so").with(DT_RPATH, "/o:/$LIB"));
        assert_eq!(tree.answers("/bin/p"), ["liba.so missing"]);
    }

    #[test]
    fn the_cache_of_the_tree_counts_with_its_hardware_variants() {
        let tree = Tree::new("cache");
        tree.library("lib64/ld-linux-x86-64.so.2", library());
        tree.library("o/liba.so", library()).library("o/v3/liba.so", library());
        let entry = |path: &str, hardware| CacheEntry {
            name: "liba.so".into(),
            path: path.into(),
            flags: 0x0303,
            hardware,
        };
        let v3 = ldcache::Hardware::Named { name: "x86-64-v3".into(), level: 3 };
        let cache = write(&[entry("/o/liba.so", ldcache::Hardware::Baseline), entry("/o/v3/liba.so", v3)]);
        tree.file("etc/ld.so.cache", &cache).library("bin/p", program(GLIBC).with(DT_NEEDED, "liba.so"));
        assert_eq!(tree.answers("/bin/p"), ["/o/liba.so (ld.so.cache)", "/o/v3/liba.so (ld.so.cache)"]);
    }

    #[test]
    fn without_a_cache_the_configured_directories_are_scanned() {
        let tree = Tree::new("scan");
        tree.library("lib64/ld-linux-x86-64.so.2", library());
        tree.file("etc/ld.so.conf", b"include ld.so.conf.d/*.conf\n");
        tree.file("etc/ld.so.conf.d/o.conf", b"/o # here\n");
        tree.library("o/liba.so.1.2", library().with(DT_SONAME, "liba.so.1"));
        tree.library("bin/p", program(GLIBC).with(DT_NEEDED, "liba.so.1"));
        assert_eq!(tree.answers("/bin/p"), ["/o/liba.so.1.2 (ld.so.cache)"]);
    }

    #[test]
    fn a_fifo_on_the_way_is_named_and_not_waited_for() {
        let tree = Tree::new("fifo");
        tree.library("lib64/ld-linux-x86-64.so.2", library());
        tree.library("bin/p", program(GLIBC).with(DT_NEEDED, "liba.so").with(DT_RUNPATH, "/o"));
        std::fs::create_dir_all(tree.0.join("o")).unwrap();
        nix::unistd::mkfifo(&tree.0.join("o/liba.so"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let defect = Defect::NotRegular(crate::closure::root::FileKind::Fifo);
        assert_eq!(tree.answers("/bin/p"), [format!("/o/liba.so: {defect}")]);
    }

    #[test]
    fn a_directory_that_depends_on_the_working_directory_is_left_out_and_named() {
        let tree = Tree::new("relative");
        tree.library("lib64/ld-linux-x86-64.so.2", library()).library("liba.so", library());
        tree.library("bin/p", program(GLIBC).with(DT_NEEDED, "liba.so").with(DT_RUNPATH, ":o"));
        assert_eq!(tree.answers("/bin/p"), ["liba.so missing"]);
        assert_eq!(tree.resolve("/bin/p").relative, [Path::new(""), Path::new("o")]);
    }

    #[test]
    fn an_interpreter_counts_at_its_literal_path_only() {
        let tree = Tree::new("literal");
        tree.library("lib/ld-linux-x86-64.so.2", library()).library("bin/p", program(GLIBC));
        let root = SourceRoot::open(HostPath::absolute(&tree.0).unwrap()).unwrap();
        let error = Search::new(&root, None).resolve(Path::new("/bin/p"), &[]).unwrap_err();
        assert!(matches!(error, SearchError::Interpreter { .. }), "{error}");
    }
}
