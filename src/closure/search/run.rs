//! One program's way through the search: which object is asked for by whom, and what becomes of it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::super::elf::{Architecture, Defect, Object, Priority};
use super::super::loader::{Loader, LoaderKind};
use super::super::token::{self, Tokens};
use super::candidate::{Accepted, Asks, Candidate, Directory, Element, FileId};
use super::names::{Form, NameId};
use super::{
    Dependency, Edge, Loaded, MAXIMUM_LOOK_UPS, MAXIMUM_OBJECTS, MAXIMUM_REQUESTS, Outcome, Resolution,
    Search, SearchError, Via, versions,
};

/// Names of a search that are kept for the next program.
const MAXIMUM_NAMES: usize = 1 << 18;

/// Bytes of search lists that count as one look-up.
const LENGTH_OF_A_LOOK_UP: usize = 256;
/// PATH_MAX, and one more.
const MAXIMUM_PATH: usize = 4097;

/// What a search has seen so far.
#[derive(Debug, Default)]
pub struct Sight {
    pub searched: Vec<Rc<Directory>>,
    /// Files that only some processors load.
    pub variants: Vec<(Rc<Path>, FileId, Via)>,
}

/// How a search ends.
#[derive(Clone, Debug)]
pub enum Hit {
    File(Rc<Path>, FileId, Via),
    Malformed(Rc<Path>, Defect),
    /// Nothing was found, and no further list is tried.
    Nowhere,
}

/// What became of a look for a name.
enum Answer {
    /// The kernel's own object is no file.
    Kernel,
    Loaded(usize),
    Searched(Option<Hit>, Sight),
}

impl Answer {
    fn is_available(&self) -> bool {
        match self {
            Answer::Kernel | Answer::Loaded(_) | Answer::Searched(Some(Hit::File(..)), _) => true,
            Answer::Searched(None, sight) => !sight.variants.is_empty(),
            Answer::Searched(Some(Hit::Malformed(..) | Hit::Nowhere), _) => false,
        }
    }
}

/// Who asks, and how.
#[derive(Clone, Copy)]
struct Request {
    from: usize,
    dependency: Dependency,
    feature: Option<usize>,
}

/// One program's run through the search.
pub struct Run<'s, 'r> {
    pub search: &'s mut Search<'r>,
    pub resolution: Resolution,
    pub loader: Rc<Loader>,
    pub architecture: Architecture,
    /// `LD_LIBRARY_PATH`, split.
    pub library_path: Rc<[Element]>,
    /// Whose names and files count: an audit library has its own.
    namespace: u32,
    look_ups: usize,
    /// Which of the search's shared answers are its own, without and with `DF_1_NODEFLIB`.
    pub questions: [usize; 2],
}

impl<'s, 'r> Run<'s, 'r> {
    /// A run of the program that is the first of `resolution`'s objects.
    pub fn new(
        search: &'s mut Search<'r>,
        mut resolution: Resolution,
        loader: Rc<Loader>,
        main: Rc<Object>,
    ) -> Run<'s, 'r> {
        if search.names.len() > MAXIMUM_NAMES {
            search.names.clear();
            search.shared.iter_mut().for_each(Vec::clear);
        }
        let namespace = search.names.namespace();
        resolution.objects[0].searcher = has_list(loader.kind, &main).then_some(0);
        let architecture = main.architecture;
        let library_path = Rc::new([]);
        let questions = search.questions(&loader, architecture);
        let mut run =
            Run { search, resolution, loader, architecture, library_path, namespace, look_ups: 0, questions };
        run.library_path = run.split_library_path();
        run
    }

    /// What was found.
    pub fn into_resolution(self) -> Resolution {
        self.resolution
    }

    /// Loads all that the program's loader loads, then what the program opens by itself.
    pub fn load(&mut self, dlopened: &[OsString]) -> Result<(), SearchError> {
        // musl would load a program that asks for itself a second time.
        if self.loader.kind == LoaderKind::Glibc {
            self.search.files.load(self.namespace, self.resolution.objects[0].file, 0);
            self.learn_soname(0);
        }
        self.load_interpreter();
        let mut queue = VecDeque::from([0]);
        for name in self.search.environment.preloaded(self.loader.kind) {
            queue.extend(self.request(0, &name, Dependency::Preload)?);
        }
        self.load_needs(queue)?;
        self.load_audits()?;
        for name in dlopened {
            let new = self.request(0, name, Dependency::Dlopen)?;
            self.load_needs(new.into())?;
        }
        self.load_features()?;
        if self.loader.kind == LoaderKind::Glibc {
            self.resolution.mismatches = versions::mismatches(self.search, &self.resolution);
        }
        Ok(())
    }

    fn load_interpreter(&mut self) {
        let path: Rc<Path> = self.loader.path.as_path().into();
        let Candidate::File(file) = self.search.candidate(&path) else { return };
        let Ok(object) = self.search.files.object(file).clone() else { return };
        let literal = self.resolution.objects[0].object.interpreter.is_some();
        let at = self.resolution.objects.len();
        let identity = self.search.files.identity(file);
        let mut loaded = Loaded::main(&path, identity, file, object);
        (loaded.loader, loaded.is_loader) = (Some(0), true);
        loaded.searcher = self.resolution.objects[0].searcher;
        self.resolution.objects.push(loaded);
        self.search.files.load(self.namespace, file, at);
        match self.loader.kind {
            LoaderKind::Glibc => self.learn_soname(at),
            LoaderKind::Musl => self.learn(at, OsStr::new("libc.so")),
        }
        if literal {
            self.resolution.edges.push(Edge {
                from: 0,
                dependency: Dependency::Interpreter,
                name: path.as_os_str().into(),
                feature: None,
                outcome: Outcome::Found { object: at, path: Some(path), via: Via::Interpreter, first: true },
            });
        }
    }

    /// Loads what the objects of `queue` need, breadth first.
    fn load_needs(&mut self, mut queue: VecDeque<usize>) -> Result<(), SearchError> {
        while let Some(from) = queue.pop_front() {
            let object = self.resolution.objects[from].object.clone();
            let start = self.resolution.edges.len();
            let asks = self.asks(from);
            for name in &asks.needed {
                queue.extend(self.request_id(from, *name, Dependency::Needed)?);
            }
            if self.loader.kind == LoaderKind::Glibc && !object.filters.is_empty() {
                self.load_filters(from, &object, &mut queue)?;
            }
            self.resolution.objects[from].requests = start..self.resolution.edges.len();
        }
        Ok(())
    }

    /// A filtee stands before its filter, so its own needs come next.
    fn load_filters(
        &mut self,
        from: usize,
        object: &Object,
        queue: &mut VecDeque<usize>,
    ) -> Result<(), SearchError> {
        let mut filtees = Vec::new();
        for filter in &object.filters {
            let dependency = if filter.required { Dependency::Filter } else { Dependency::Auxiliary };
            let new = self.request(from, &filter.name, dependency)?;
            if new.is_empty()
                && let Some(Outcome::Found { object, .. }) = self.resolution.edges.last().map(|e| &e.outcome)
                && let Some(later) = queue.iter().position(|waiting| waiting == object)
            {
                queue.remove(later);
                filtees.push(*object);
            }
            filtees.extend(new);
        }
        for filtee in filtees.into_iter().rev() {
            queue.push_front(filtee);
        }
        Ok(())
    }

    /// Each audit library is loaded into a namespace of its own, where nothing is loaded yet.
    fn load_audits(&mut self) -> Result<(), SearchError> {
        if self.loader.kind == LoaderKind::Musl {
            return Ok(());
        }
        let main = self.resolution.objects[0].object.clone();
        let programs = self.namespace;
        for list in [&main.audit, &main.depaudit].into_iter().flatten() {
            for name in list.as_bytes().split(|byte| *byte == b':').filter(|name| !name.is_empty()) {
                self.namespace = self.search.names.namespace();
                let new = self.request(0, OsStr::from_bytes(name), Dependency::Audit)?;
                self.load_needs(new.into())?;
            }
        }
        self.namespace = programs;
        Ok(())
    }

    /// Follows the dlopen notes of all objects: what is required first, so that what comes in by it is
    /// not taken for optional.
    fn load_features(&mut self) -> Result<(), SearchError> {
        const ORDER: [Priority; 3] = [Priority::Required, Priority::Recommended, Priority::Suggested];
        let mut seen = [0; ORDER.len()];
        while let Some(rank) = seen.iter().position(|seen| *seen < self.resolution.objects.len()) {
            let from = seen[rank];
            seen[rank] += 1;
            let object = self.resolution.objects[from].object.clone();
            for (index, feature) in object.features.iter().flatten().enumerate() {
                if feature.priority != ORDER[rank] {
                    continue;
                }
                let request =
                    Request { from, dependency: Dependency::Note(feature.priority), feature: Some(index) };
                if !self.search.rules.follow(feature) {
                    self.record(request, feature.sonames[0].as_os_str().into(), Outcome::LeftOut);
                    continue;
                }
                // The first that is there; when none is, the last says so.
                for (number, soname) in feature.sonames.iter().enumerate() {
                    let soname = self.search.names.id(soname);
                    let answer = self.look(request, soname)?;
                    if answer.is_available() || number + 1 == feature.sonames.len() {
                        let new = self.enter(request, soname, answer);
                        self.load_needs(new.into())?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    fn asks(&mut self, of: usize) -> Rc<Asks> {
        let Loaded { file, object, .. } = &self.resolution.objects[of];
        self.search.files.asks(*file, object, &mut self.search.names)
    }

    /// Looks for one name; gives the objects that are new by it.
    fn request(&mut self, from: usize, name: &OsStr, kind: Dependency) -> Result<Vec<usize>, SearchError> {
        let name = self.search.names.id(name);
        self.request_id(from, name, kind)
    }

    fn request_id(&mut self, from: usize, name: NameId, kind: Dependency) -> Result<Vec<usize>, SearchError> {
        let request = Request { from, dependency: kind, feature: None };
        let answer = self.look(request, name)?;
        let again = matches!(answer, Answer::Loaded(_)) && self.resolution.objects[from].variant;
        let mut new = self.enter(request, name, answer);
        if again {
            new.extend(self.request_variant(request, name)?);
        }
        Ok(new)
    }

    /// Where only some processors load the requester, they may not have loaded what answers to the name
    /// on others: what they would find is found as well.
    fn request_variant(&mut self, request: Request, name: NameId) -> Result<Vec<usize>, SearchError> {
        match self.look_afresh(request, name)? {
            Answer::Searched(Some(Hit::File(path, file, via)), sight)
                if self.search.files.loaded(self.namespace, file).is_none() =>
            {
                let hit = Some(Hit::File(path, file, via));
                Ok(self.enter(request, name, Answer::Searched(hit, sight)))
            }
            _ => Ok(Vec::new()),
        }
    }

    fn look(&mut self, request: Request, name: NameId) -> Result<Answer, SearchError> {
        if self.resolution.objects.len() > MAXIMUM_OBJECTS {
            return Err(SearchError::TooManyObjects);
        }
        if self.resolution.edges.len() > MAXIMUM_REQUESTS {
            return Err(SearchError::TooManyRequests);
        }
        let loaded = match (self.search.names.form(name), self.loader.kind) {
            (Form::Kernel, _) => return Ok(Answer::Kernel),
            (Form::Plain, LoaderKind::Glibc) => self.search.names.answer(self.namespace, name),
            (Form::Special, LoaderKind::Glibc) => self.loaded_special(request.from, name),
            (_, LoaderKind::Musl) => self.loaded_musl(name),
        };
        match loaded {
            Some(object) => Ok(Answer::Loaded(object)),
            None => self.look_afresh(request, name),
        }
    }

    fn look_afresh(&mut self, request: Request, name: NameId) -> Result<Answer, SearchError> {
        let mut sight = Sight::default();
        let hit = match (self.search.names.form(name), self.loader.kind) {
            (Form::Special, LoaderKind::Glibc) => {
                let text = self.search.names.text(name).clone();
                let names = self.expand(request.from, text.as_bytes());
                self.find_special(request.from, &names, &mut sight)
            }
            (_, LoaderKind::Glibc) => self.find_glibc(request.from, name, &mut sight),
            (_, LoaderKind::Musl) => {
                // Only what an object needs is looked for along its own path.
                let searcher = match request.dependency {
                    Dependency::Preload => None,
                    Dependency::Dlopen | Dependency::Note(_) => self.resolution.objects[0].searcher,
                    _ => self.resolution.objects[request.from].searcher,
                };
                let text = self.search.names.text(name).clone();
                self.find_musl(searcher, &text, &mut sight)
            }
        };
        if self.look_ups > MAXIMUM_LOOK_UPS {
            return Err(SearchError::TooManyLookUps);
        }
        Ok(Answer::Searched(hit, sight))
    }

    /// An object that answers to a name with a slash or a token: by that name, or by its path.
    fn loaded_special(&mut self, from: usize, name: NameId) -> Option<usize> {
        let text = self.search.names.text(name).clone();
        let names = self.expand(from, text.as_bytes());
        names.iter().find_map(|name| {
            let name = OsStr::from_bytes(name);
            self.answer(name).or_else(|| {
                let is_it = |loaded: &Loaded| !loaded.variant && loaded.path.as_os_str() == name;
                self.resolution.objects.iter().skip(1).position(is_it).map(|at| at + 1)
            })
        })
    }

    fn record(&mut self, request: Request, name: Rc<OsStr>, outcome: Outcome) {
        let Request { from, dependency, feature } = request;
        self.resolution.edges.push(Edge { from, dependency, name, feature, outcome });
    }

    fn enter(&mut self, request: Request, id: NameId, answer: Answer) -> Vec<usize> {
        let name = self.search.names.text(id).clone();
        let (hit, sight) = match answer {
            Answer::Kernel => return Vec::new(),
            Answer::Loaded(object) => {
                // A library names no interpreter, so this is the first word of the loader's own path.
                let loaded = &self.resolution.objects[object];
                let first = loaded.is_loader && self.resolution.objects[0].object.interpreter.is_none();
                let path = first.then(|| loaded.path.clone());
                let outcome = Outcome::Found { object, path, via: Via::Loaded, first: false };
                self.record(request, name, outcome);
                return Vec::new();
            }
            Answer::Searched(hit, sight) => (hit, sight),
        };
        let mut new = Vec::new();
        let mut variants = sight.variants.into_iter();
        let primary = match hit {
            Some(Hit::File(path, file, via)) => Some((path, file, via)),
            Some(Hit::Malformed(path, defect)) => {
                self.record(request, name.clone(), Outcome::Malformed { path, defect });
                None
            }
            Some(Hit::Nowhere) | None => {
                // Without a file for every processor the best of the others stands for it.
                let variant = variants.next();
                if variant.is_none() {
                    let searched = sight.searched.iter().map(|directory| directory.path.clone()).collect();
                    self.record(request, name.clone(), Outcome::Missing { searched });
                }
                variant
            }
        };
        for (index, (path, file, via)) in primary.into_iter().chain(variants).enumerate() {
            let loaded = self.search.files.loaded(self.namespace, file);
            let at = loaded.unwrap_or(self.resolution.objects.len());
            if loaded.is_none() {
                let object = self.search.files.object(file).clone().expect("BUG: only sound files are taken");
                let requester = &self.resolution.objects[request.from];
                let own = has_list(self.loader.kind, &object).then_some(at);
                self.resolution.objects.push(Loaded {
                    path: path.clone(),
                    identity: self.search.files.identity(file),
                    object,
                    loader: Some(request.from),
                    variant: index > 0 || requester.variant,
                    optional: requester.optional || request.dependency.is_optional(),
                    is_loader: false,
                    named: false,
                    file,
                    searcher: own.or(requester.searcher),
                    list: None,
                    requests: 0..0,
                });
                self.search.files.load(self.namespace, file, at);
                new.push(at);
            }
            let variant = index > 0 || self.resolution.objects[at].variant;
            self.learn_names(at, id, variant);
            let outcome = Outcome::Found { object: at, path: Some(path), via, first: loaded.is_none() };
            self.record(request, name.clone(), outcome);
        }
        new
    }

    fn learn_names(&mut self, at: usize, name: NameId, variant: bool) {
        match self.loader.kind {
            _ if variant => {}
            LoaderKind::Glibc => {
                self.search.names.learn(self.namespace, name, at);
                self.learn_soname(at);
            }
            // A path that was asked for as such gives no name.
            LoaderKind::Musl if self.search.names.text(name).as_bytes().contains(&b'/') => {}
            LoaderKind::Musl if !self.resolution.objects[at].named => {
                self.resolution.objects[at].named = true;
                let path = self.resolution.objects[at].path.clone();
                self.learn(at, path.file_name().unwrap_or_default());
            }
            LoaderKind::Musl => {}
        }
    }

    fn learn(&mut self, at: usize, name: &OsStr) {
        let name = self.search.names.id(name);
        self.search.names.learn(self.namespace, name, at);
    }

    fn learn_soname(&mut self, at: usize) {
        if let Some(soname) = self.asks(at).soname {
            self.search.names.learn(self.namespace, soname, at);
        }
    }

    /// An object that answers to `name`: by a name that it was asked for, or by its SONAME.
    pub fn answer(&mut self, name: &OsStr) -> Option<usize> {
        let name = self.search.names.id(name);
        self.search.names.answer(self.namespace, name)
    }

    /// The directory that `$ORIGIN` stands for: of the path as it was found, links not resolved.
    pub fn origin(&self, of: usize) -> Option<Vec<u8>> {
        let path = self.absolute(&self.resolution.objects[of].path)?;
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

    /// The directories of a list of glibc's, tokens replaced; an empty element is the working
    /// directory.
    pub fn split(&mut self, of: usize, text: &[u8], separators: &[u8]) -> Rc<[Element]> {
        let mut list: Vec<Element> = Vec::new();
        if text.is_empty() {
            return list.into();
        }
        let mut length = 0;
        for element in text.split(|byte| separators.contains(byte)) {
            let expansions = self.expand(of, element);
            let last = expansions.len().saturating_sub(1);
            for (index, mut directory) in expansions.into_iter().enumerate() {
                // What is too long to be opened stays so.
                directory.truncate(MAXIMUM_PATH);
                while directory.len() > 1 && directory.ends_with(b"/") {
                    directory.pop();
                }
                let directory = PathBuf::from(OsString::from_vec(directory));
                if !list.iter().any(|element| element.directory.as_os_str() == directory.as_os_str()) {
                    length += directory.as_os_str().len();
                    list.push(Element { directory, variant: index < last });
                }
            }
        }
        // A list of nothing but `$ORIGIN` in a deep directory grows to megabytes for each object.
        self.look_ups += length / LENGTH_OF_A_LOOK_UP;
        list.into()
    }

    fn split_library_path(&mut self) -> Rc<[Element]> {
        let Some(text) = self.search.environment.library_path.clone() else { return Rc::new([]) };
        match self.loader.kind {
            LoaderKind::Glibc => self.split(0, text.as_bytes(), b":;"),
            LoaderKind::Musl => super::musl::split(text.as_bytes()),
        }
    }

    /// Looks into the directories of a list, one after the other.
    pub fn find_in(&mut self, list: &[Element], name: &OsStr, via: &Via, sight: &mut Sight) -> Option<Hit> {
        let glibc = self.loader.kind == LoaderKind::Glibc;
        for Element { directory: element, variant: platform } in list {
            let Some(place) = self.absolute(element) else {
                self.note_relative(element);
                continue;
            };
            if self.look_ups > MAXIMUM_LOOK_UPS {
                return Some(Hit::Nowhere);
            }
            self.look_ups += 1;
            let directory = self.search.directory(&place, glibc && self.loader.legacy_hwcaps);
            sight.searched.push(directory.clone());
            if !directory.exists {
                continue;
            }
            let variants = directory.variants.iter().filter(|_| glibc).map(|variant| (variant, true));
            for (directory, is_variant) in variants.chain([(&place, *platform)]) {
                let path: Rc<Path> = directory.join(name).into();
                match self.accept(&path) {
                    Accepted::File(file) if is_variant => sight.variants.push((path, file, via.clone())),
                    Accepted::File(file) => return Some(Hit::File(path, file, via.clone())),
                    Accepted::Fatal(defect) => return Some(Hit::Malformed(path, defect)),
                    Accepted::Next => {}
                    // musl gives the whole search up, glibc this list.
                    Accepted::Abandon => return (!glibc).then_some(Hit::Nowhere),
                }
            }
        }
        None
    }

    fn note_relative(&mut self, path: &Path) {
        if !self.resolution.relative.iter().any(|known| known.as_os_str() == path.as_os_str()) {
            self.resolution.relative.push(path.to_owned());
        }
    }

    /// Opens a name that is a path.
    pub fn open_path(&mut self, path: &Path) -> Option<Hit> {
        let Some(place) = self.absolute(path) else {
            self.note_relative(path);
            return None;
        };
        let place: Rc<Path> = place.into();
        match self.accept(&place) {
            Accepted::File(file) => Some(Hit::File(place, file, Via::Path)),
            Accepted::Fatal(defect) => Some(Hit::Malformed(place, defect)),
            Accepted::Next | Accepted::Abandon => None,
        }
    }

    pub fn accept(&mut self, path: &Path) -> Accepted {
        self.look_ups += 1;
        self.search.accept(path, self.architecture, &self.loader)
    }
}

/// Whether an object has a path list that serves what its libraries need, too.
fn has_list(kind: LoaderKind, object: &Object) -> bool {
    object.rpath.is_some() || kind == LoaderKind::Musl && object.runpath.is_some()
}
