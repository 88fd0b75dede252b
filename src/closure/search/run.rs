//! One program's way through the search: which object is asked for by whom, and which rule answers.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::super::elf::{Architecture, Defect, Malformed, Object};
use super::super::ldcache::{self, Hardware};
use super::super::loader::{Loader, LoaderKind};
use super::super::token::{self, Tokens};
use super::{
    Candidate, Dependency, Directory, Edge, Identity, Loaded, MAXIMUM_OBJECTS, Outcome, Resolution, Search,
    SearchError, Via,
};

/// The request that is being searched for.
struct Request<'a> {
    from: usize,
    name: &'a OsStr,
    dependency: Dependency,
    architecture: Architecture,
}

/// What a search has seen so far.
#[derive(Default)]
struct Sight {
    searched: Vec<Rc<Directory>>,
    variants: Vec<(PathBuf, Identity, Rc<Object>, Via)>,
}

/// An element of a search list.
struct Element {
    directory: PathBuf,
    /// Only some processors search it: `$PLATFORM`.
    variant: bool,
}

impl Element {
    fn always(directory: &Path) -> Element {
        Element { directory: directory.to_owned(), variant: false }
    }
}

enum Hit {
    Found(PathBuf, Identity, Rc<Object>, Via),
    Malformed(PathBuf, Defect),
}

/// One program's run through the search.
pub struct Run<'s, 'r> {
    search: &'s mut Search<'r>,
    resolution: Resolution,
    loader: Rc<Loader>,
    architecture: Architecture,
}

impl<'s, 'r> Run<'s, 'r> {
    /// A run of the program that is the first of `resolution`'s objects.
    pub fn new(
        search: &'s mut Search<'r>,
        resolution: Resolution,
        loader: Rc<Loader>,
        architecture: Architecture,
    ) -> Run<'s, 'r> {
        Run { search, resolution, loader, architecture }
    }

    /// What was found.
    pub fn into_resolution(self) -> Resolution {
        self.resolution
    }

    /// Loads what the objects of `queue` need, breadth first.
    pub fn load_needs(&mut self, mut queue: VecDeque<usize>) -> Result<(), SearchError> {
        while let Some(from) = queue.pop_front() {
            let object = self.resolution.objects[from].object.clone();
            for name in &object.needed {
                queue.extend(self.request(from, name, Dependency::Needed)?);
            }
            if self.loader.kind == LoaderKind::Musl {
                continue;
            }
            // A filtee stands before its filter, so its own needs come next.
            let mut filtees = Vec::new();
            for filter in &object.filters {
                let dependency = if filter.required { Dependency::Filter } else { Dependency::Auxiliary };
                filtees.extend(self.request(from, &filter.name, dependency)?);
            }
            for filtee in filtees.into_iter().rev() {
                queue.push_front(filtee);
            }
        }
        Ok(())
    }

    pub fn load_audits(&mut self) -> Result<(), SearchError> {
        if self.loader.kind == LoaderKind::Musl {
            return Ok(());
        }
        let main = self.resolution.objects[0].object.clone();
        for list in [&main.audit, &main.depaudit].into_iter().flatten() {
            for name in list.as_bytes().split(|byte| *byte == b':').filter(|name| !name.is_empty()) {
                let queue = self.request(0, OsStr::from_bytes(name), Dependency::Audit)?;
                self.load_needs(queue.into())?;
            }
        }
        Ok(())
    }

    /// Looks for one name; gives the objects that are new by it.
    pub fn request(
        &mut self,
        from: usize,
        name: &OsStr,
        dependency: Dependency,
    ) -> Result<Vec<usize>, SearchError> {
        if self.resolution.objects.len() > MAXIMUM_OBJECTS {
            return Err(SearchError::TooManyObjects);
        }
        // The kernel's own object is no file.
        if matches!(name.as_bytes(), b"linux-vdso.so.1" | b"linux-gate.so.1") {
            return Ok(Vec::new());
        }
        let request = Request { from, name, dependency, architecture: self.architecture };
        let mut sight = Sight::default();
        let hit = match self.loader.kind {
            LoaderKind::Glibc => {
                let names = self.expand(from, name.as_bytes());
                if let Some(object) = names.iter().find_map(|name| self.loaded(OsStr::from_bytes(name))) {
                    return Ok(self.found_loaded(&request, object));
                }
                self.find_glibc(&request, &names, &mut sight)
            }
            LoaderKind::Musl => {
                if let Some(object) = self.loaded_musl(name) {
                    return Ok(self.found_loaded(&request, object));
                }
                self.find_musl(&request, &mut sight)
            }
        };
        Ok(self.enter(&request, hit, sight))
    }

    fn found_loaded(&mut self, request: &Request<'_>, object: usize) -> Vec<usize> {
        // A library names no interpreter, so this is the first word of the loader's own path.
        let loaded = &self.resolution.objects[object];
        let first = loaded.is_loader && self.resolution.objects[0].object.interpreter.is_none();
        let path = first.then(|| loaded.path.clone());
        let outcome = Outcome::Found { object, path, via: Via::Loaded, first: false };
        self.record(request, outcome);
        Vec::new()
    }

    fn record(&mut self, request: &Request<'_>, outcome: Outcome) {
        self.resolution.edges.push(Edge {
            from: request.from,
            dependency: request.dependency,
            name: request.name.to_owned(),
            outcome,
        });
    }

    fn enter(&mut self, request: &Request<'_>, hit: Option<Hit>, sight: Sight) -> Vec<usize> {
        let mut new = Vec::new();
        let mut variants = sight.variants.into_iter();
        let primary = match hit {
            Some(Hit::Found(path, identity, object, via)) => Some((path, identity, object, via)),
            Some(Hit::Malformed(path, defect)) => {
                self.record(request, Outcome::Malformed { path, defect });
                None
            }
            None => {
                // Without a file for every processor the best of the others stands for it.
                let variant = variants.next();
                if variant.is_none() {
                    let searched = sight.searched.iter().map(|directory| directory.path.clone()).collect();
                    self.record(request, Outcome::Missing { searched });
                }
                variant
            }
        };
        for (index, (path, identity, object, via)) in primary.into_iter().chain(variants).enumerate() {
            let loaded = self.resolution.objects.iter().position(|loaded| loaded.identity == identity);
            let at = loaded.unwrap_or(self.resolution.objects.len());
            if loaded.is_none() {
                self.resolution.objects.push(Loaded {
                    path: path.clone(),
                    identity,
                    object,
                    names: Vec::new(),
                    loader: Some(request.from),
                    variant: index > 0,
                    is_loader: false,
                });
                new.push(at);
            }
            self.learn_names(at, request.name, &path, index > 0);
            let outcome = Outcome::Found { object: at, path: Some(path), via, first: loaded.is_none() };
            self.record(request, outcome);
        }
        new
    }

    fn learn_names(&mut self, at: usize, name: &OsStr, path: &Path, variant: bool) {
        let names = match self.loader.kind {
            _ if variant => Vec::new(),
            LoaderKind::Glibc => vec![name.to_owned(), path.as_os_str().to_owned()],
            // A path that was asked for as such gives no name.
            LoaderKind::Musl if name.as_bytes().contains(&b'/') => Vec::new(),
            LoaderKind::Musl if self.resolution.objects[at].names.is_empty() => {
                self.resolution.objects[at].path.file_name().map(OsStr::to_owned).into_iter().collect()
            }
            LoaderKind::Musl => Vec::new(),
        };
        let known = &mut self.resolution.objects[at].names;
        for name in names {
            if !known.contains(&name) {
                known.push(name);
            }
        }
    }

    /// An object that answers to `name`: by a name that it was asked for, or by its SONAME.
    fn loaded(&self, name: &OsStr) -> Option<usize> {
        self.resolution.objects.iter().position(|loaded| {
            !loaded.variant
                && (loaded.names.iter().any(|known| known == name)
                    || loaded.object.soname.as_deref() == Some(name))
        })
    }

    fn loaded_musl(&self, name: &OsStr) -> Option<usize> {
        // musl has all of these in its loader.
        let reserved = name.as_bytes().strip_prefix(b"lib").is_some_and(|rest| {
            [&b"c."[..], b"pthread.", b"rt.", b"m.", b"dl.", b"util.", b"xnet."]
                .iter()
                .any(|library| rest.starts_with(library))
        });
        self.resolution.objects.iter().position(|loaded| {
            (reserved && loaded.is_loader)
                || (!name.as_bytes().contains(&b'/') || loaded.is_loader)
                    && loaded.names.iter().any(|known| known == name)
        })
    }

    /// The directory that `$ORIGIN` stands for: of the path as it was found, links not resolved.
    fn origin(&self, of: usize) -> Option<Vec<u8>> {
        let path = &self.resolution.objects[of].path;
        let path = self.absolute(path)?;
        path.parent().map(|parent| parent.as_os_str().as_bytes().to_vec())
    }

    fn absolute(&self, path: &Path) -> Option<PathBuf> {
        if path.is_absolute() {
            return Some(path.to_owned());
        }
        self.search.working_directory.as_ref().map(|directory| directory.join(path))
    }

    fn expand(&self, of: usize, text: &[u8]) -> Vec<Vec<u8>> {
        if !text.contains(&b'$') {
            return vec![text.to_vec()];
        }
        let origin = self.origin(of);
        let tokens = Tokens {
            origin: origin.as_deref(),
            lib: self.loader.lib.as_deref(),
            platforms: &self.loader.platforms,
        };
        token::expand(text, tokens)
    }

    fn find_glibc(&mut self, request: &Request<'_>, names: &[Vec<u8>], sight: &mut Sight) -> Option<Hit> {
        if names.iter().any(|name| name.contains(&b'/')) {
            return names.iter().find_map(|name| self.open_path(Path::new(OsStr::from_bytes(name)), request));
        }
        let name = OsStr::from_bytes(names.first()?);
        let request = &Request { name, ..*request };
        let requester = self.resolution.objects[request.from].object.clone();
        if requester.runpath.is_none() {
            let mut at = Some(request.from);
            let mut seen_main = false;
            while let Some(of) = at {
                seen_main |= of == 0;
                if let Some(hit) = self.find_in_rpath(of, request, sight) {
                    return Some(hit);
                }
                at = self.resolution.objects[of].loader;
            }
            if !seen_main && let Some(hit) = self.find_in_rpath(0, request, sight) {
                return Some(hit);
            }
        }
        if let Some(runpath) = requester.runpath.clone() {
            let list = self.list(request.from, runpath.as_bytes());
            if let Some(hit) = self.find_in(&list, request, &Via::Runpath, sight) {
                return Some(hit);
            }
        }
        let default_directories: Vec<Element> =
            self.loader.default_directories.iter().map(|path| Element::always(path)).collect();
        if let Some(hit) = self.find_in_cache(request, requester.is_nodeflib(), sight) {
            return Some(hit);
        }
        if requester.is_nodeflib() {
            return None;
        }
        self.find_in(&default_directories, request, &Via::Default, sight)
    }

    fn find_in_rpath(&mut self, of: usize, request: &Request<'_>, sight: &mut Sight) -> Option<Hit> {
        let rpath = self.resolution.objects[of].object.rpath.clone()?;
        let list = self.list(of, rpath.as_bytes());
        let via = Via::Rpath(self.resolution.objects[of].path.clone());
        self.find_in(&list, request, &via, sight)
    }

    fn find_in_cache(&mut self, request: &Request<'_>, nodeflib: bool, sight: &mut Sight) -> Option<Hit> {
        let loader = self.loader.clone();
        let cache = self.search.cache(&loader)?;
        let flags = ldcache::accepted_flags(request.architecture);
        let mut baseline = None;
        for entry in cache.find(request.name, flags).filter(|entry| entry.path.is_absolute()) {
            // By text, so what lies below a default directory is left out too.
            let is_default = || {
                loader.default_directories.iter().any(|directory| {
                    let path = entry.path.as_os_str().as_bytes();
                    path.strip_prefix(directory.as_os_str().as_bytes())
                        .is_some_and(|rest| rest.starts_with(b"/"))
                })
            };
            if nodeflib && is_default() {
                continue;
            }
            let variant = match &entry.hardware {
                Hardware::Baseline if baseline.is_some() => continue,
                Hardware::Baseline => false,
                Hardware::Named { .. } => true,
                Hardware::Legacy(_) if loader.legacy_hwcaps => true,
                Hardware::Legacy(_) => continue,
            };
            match self.accept(&entry.path, request.architecture) {
                Accepted::Object(identity, object) if variant => {
                    sight.variants.push((entry.path.clone(), identity, object, Via::Cache));
                }
                Accepted::Object(identity, object) => {
                    baseline = Some(Hit::Found(entry.path.clone(), identity, object, Via::Cache));
                }
                Accepted::Fatal(defect) => return Some(Hit::Malformed(entry.path.clone(), defect)),
                Accepted::Next | Accepted::Abandon => {}
            }
        }
        baseline
    }

    fn find_musl(&mut self, request: &Request<'_>, sight: &mut Sight) -> Option<Hit> {
        if request.name.as_bytes().contains(&b'/') {
            return self.open_path(Path::new(request.name), request);
        }
        let mut at = Some(request.from);
        while let Some(of) = at {
            let loaded = &self.resolution.objects[of];
            at = loaded.loader;
            let (text, via) = match (&loaded.object.runpath, &loaded.object.rpath) {
                (Some(runpath), _) => (runpath.clone(), Via::Runpath),
                (None, Some(rpath)) => (rpath.clone(), Via::Rpath(loaded.path.clone())),
                (None, None) => continue,
            };
            let Some(origin) = self.origin(of) else { continue };
            let Some(text) = token::expand_musl(text.as_bytes(), &origin) else { continue };
            let list: Vec<Element> = text
                .split(|byte| b":\n".contains(byte))
                .filter(|element| !element.is_empty())
                .map(|element| Element::always(Path::new(OsStr::from_bytes(element))))
                .collect();
            if let Some(hit) = self.find_in(&list, request, &via, sight) {
                return Some(hit);
            }
        }
        let default_directories: Vec<Element> =
            self.loader.default_directories.iter().map(|path| Element::always(path)).collect();
        self.find_in(&default_directories, request, &Via::Default, sight)
    }

    /// The directories of an RPATH or RUNPATH, tokens replaced; an empty element is the working
    /// directory.
    fn list(&self, of: usize, text: &[u8]) -> Vec<Element> {
        let mut list: Vec<Element> = Vec::new();
        if text.is_empty() {
            return list;
        }
        for element in text.split(|byte| *byte == b':') {
            let expansions = self.expand(of, element);
            let last = expansions.len().saturating_sub(1);
            for (index, mut directory) in expansions.into_iter().enumerate() {
                while directory.len() > 1 && directory.ends_with(b"/") {
                    directory.pop();
                }
                let directory = PathBuf::from(OsString::from_vec(directory));
                if !list.iter().any(|element| element.directory == directory) {
                    list.push(Element { directory, variant: index < last });
                }
            }
        }
        list
    }

    fn find_in(
        &mut self,
        list: &[Element],
        request: &Request<'_>,
        via: &Via,
        sight: &mut Sight,
    ) -> Option<Hit> {
        let glibc = self.loader.kind == LoaderKind::Glibc;
        for Element { directory: element, variant: platform } in list {
            let Some(place) = self.absolute(element) else {
                if !self.resolution.relative.contains(element) {
                    self.resolution.relative.push(element.clone());
                }
                continue;
            };
            let directory = self.search.directory(&place, glibc && self.loader.legacy_hwcaps);
            sight.searched.push(directory.clone());
            if !directory.exists {
                continue;
            }
            for variant in directory.variants.iter().filter(|_| glibc) {
                let path = variant.join(request.name);
                match self.accept(&path, request.architecture) {
                    Accepted::Object(identity, object) => {
                        sight.variants.push((path, identity, object, via.clone()));
                    }
                    Accepted::Fatal(defect) => return Some(Hit::Malformed(path, defect)),
                    Accepted::Next => {}
                    Accepted::Abandon => return None,
                }
            }
            let path = element.join(request.name);
            let place = place.join(request.name);
            match self.accept(&place, request.architecture) {
                Accepted::Object(identity, object) if *platform => {
                    sight.variants.push((place, identity, object, via.clone()));
                }
                Accepted::Object(identity, object) => {
                    return Some(Hit::Found(place, identity, object, via.clone()));
                }
                Accepted::Fatal(defect) => return Some(Hit::Malformed(path, defect)),
                Accepted::Next => {}
                Accepted::Abandon => return None,
            }
        }
        None
    }

    /// Opens a name that is a path.
    fn open_path(&mut self, path: &Path, request: &Request<'_>) -> Option<Hit> {
        let Some(place) = self.absolute(path) else {
            self.resolution.relative.push(path.to_owned());
            return None;
        };
        match self.accept(&place, request.architecture) {
            Accepted::Object(identity, object) => Some(Hit::Found(place, identity, object, Via::Path)),
            Accepted::Fatal(defect) => Some(Hit::Malformed(place, defect)),
            Accepted::Next | Accepted::Abandon => None,
        }
    }

    /// Whether the loader would take what is at `path`: glibc's `open_verify`.
    fn accept(&mut self, path: &Path, wanted: Architecture) -> Accepted {
        let glibc = self.loader.kind == LoaderKind::Glibc;
        match self.search.candidate(path) {
            Candidate::Missing => Accepted::Next,
            Candidate::Abandon => Accepted::Abandon,
            Candidate::Object(identity, object) => {
                let verdict = compare(object.architecture, wanted, object.irregular, glibc);
                match verdict {
                    Some(accepted) => accepted,
                    None if !object.dynamic => Accepted::Fatal(Defect::NoDynamic),
                    None => Accepted::Object(identity, object),
                }
            }
            Candidate::Malformed(Malformed { architecture: Some(architecture), defect }) => {
                compare(architecture, wanted, Some(defect), glibc).unwrap_or(Accepted::Fatal(defect))
            }
            Candidate::Malformed(Malformed { architecture: None, defect }) => Accepted::Fatal(defect),
        }
    }
}

enum Accepted {
    Object(Identity, Rc<Object>),
    Next,
    Abandon,
    Fatal(Defect),
}

/// glibc's order of checks: class, then the rest of the header, then the machine.
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
    if found.little_endian != wanted.little_endian {
        return Some(Accepted::Fatal(Defect::ByteOrder));
    }
    if let Some(defect) = defect.filter(|defect| defect.precedes_machine()) {
        return Some(Accepted::Fatal(defect));
    }
    if found.machine != wanted.machine {
        return Some(Accepted::Next);
    }
    defect.map(Accepted::Fatal)
}
