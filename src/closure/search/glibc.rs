//! Where glibc looks: `_dl_map_object` of elf/dl-load.c.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use super::super::elf::Architecture;
use super::super::ldcache::{self, Hardware};
use super::super::loader::Loader;
use super::candidate::{Accepted, Element};
use super::names::NameId;
use super::run::{Hit, Run, Sight};
use super::{Search, Via};

/// What the cache and the default directories answer to a name.
#[derive(Debug)]
pub struct Shared {
    hit: Option<Hit>,
    sight: Sight,
}

impl Search<'_> {
    /// Where the shared answers of a loader are: without and with `DF_1_NODEFLIB`.
    pub(super) fn questions(&mut self, loader: &Rc<Loader>, architecture: Architecture) -> [usize; 2] {
        [false, true].map(|nodeflib| {
            // A loader is read once and kept.
            let key = (Rc::as_ptr(loader) as usize, architecture, nodeflib);
            *self.questions.entry(key).or_insert_with(|| {
                self.shared.push(Vec::new());
                self.shared.len() - 1
            })
        })
    }
}

impl Run<'_, '_> {
    /// Looks for a name with a slash or a token. There is more than one text of it where it holds
    /// `$PLATFORM`: the last is for every processor.
    pub fn find_special(&mut self, from: usize, names: &[Vec<u8>], sight: &mut Sight) -> Option<Hit> {
        let (last, variants) = names.split_last()?;
        let name = OsStr::from_bytes(last);
        if !names.iter().any(|name| name.contains(&b'/')) {
            let name = self.search.names.id(name);
            return self.find_glibc(from, name, sight);
        }
        for name in variants {
            match self.open_path(Path::new(OsStr::from_bytes(name))) {
                Some(Hit::File(path, file, via)) => sight.variants.push((path, file, via)),
                Some(malformed) => return Some(malformed),
                None => {}
            }
        }
        self.open_path(Path::new(name))
    }

    /// Looks for a name that no loaded object answers to.
    pub fn find_glibc(&mut self, from: usize, id: NameId, sight: &mut Sight) -> Option<Hit> {
        let name = self.search.names.text(id).clone();
        let name = &*name;
        let requester = self.resolution.objects[from].object.clone();
        if requester.runpath.is_none() {
            // The requester's RPATH, that of whom it was loaded for, and so on up to the program.
            let mut at = self.resolution.objects[from].searcher;
            while let Some(of) = at {
                let list = self.list(of);
                let via = Via::Rpath(self.resolution.objects[of].path.clone());
                if let Some(hit) = self.find_in(&list, name, &via, sight) {
                    return Some(hit);
                }
                let loader = self.resolution.objects[of].loader;
                at = loader.and_then(|loader| self.resolution.objects[loader].searcher);
            }
        }
        if !self.library_path.is_empty() {
            let list = self.library_path.clone();
            if let Some(hit) = self.find_in(&list, name, &Via::LibraryPath, sight) {
                return Some(hit);
            }
        }
        if requester.runpath.is_some() {
            let list = self.list(from);
            if let Some(hit) = self.find_in(&list, name, &Via::Runpath, sight) {
                return Some(hit);
            }
        }
        let shared = self.shared(id, name, requester.is_nodeflib());
        sight.searched.extend(shared.sight.searched.iter().cloned());
        sight.variants.extend(shared.sight.variants.iter().cloned());
        shared.hit.clone()
    }

    /// The RPATH or RUNPATH of an object, split.
    fn list(&mut self, of: usize) -> Rc<[Element]> {
        let loaded = &self.resolution.objects[of];
        if let Some(list) = &loaded.list {
            return list.clone();
        }
        let object = loaded.object.clone();
        let text = object.rpath.as_deref().or(object.runpath.as_deref()).unwrap_or_default();
        let list = self.split(of, text.as_bytes(), b":");
        self.resolution.objects[of].list = Some(list.clone());
        list
    }

    fn shared(&mut self, id: NameId, name: &OsStr, nodeflib: bool) -> Rc<Shared> {
        let question = self.questions[usize::from(nodeflib)];
        if let Some(Some(shared)) = self.search.shared[question].get(id.index()) {
            return shared.clone();
        }
        let mut sight = Sight::default();
        let mut hit = self.find_in_cache(name, nodeflib, &mut sight);
        if hit.is_none() && !nodeflib {
            let loader = self.loader.clone();
            let directories: Vec<Element> =
                loader.default_directories.iter().map(|path| Element::always(path.as_os_str())).collect();
            hit = self.find_in(&directories, name, &Via::Default, &mut sight);
        }
        let shared = Rc::new(Shared { hit, sight });
        let answers = &mut self.search.shared[question];
        if answers.len() <= id.index() {
            answers.resize(id.index() + 1, None);
        }
        answers[id.index()] = Some(shared.clone());
        shared
    }

    fn find_in_cache(&mut self, name: &OsStr, nodeflib: bool, sight: &mut Sight) -> Option<Hit> {
        let loader = self.loader.clone();
        let cache = self.search.cache(&loader)?;
        let mut baseline = None;
        let mut has_baseline = false;
        let accepted = |flags| ldcache::accepts(self.architecture, flags);
        for entry in cache.find(name, accepted).filter(|entry| entry.path.is_absolute()).collect::<Vec<_>>() {
            // By text, so what lies below a default directory is left out too.
            let is_default = || {
                loader.default_directories.iter().any(|directory| {
                    let path = entry.path.as_os_str().as_bytes();
                    path.strip_prefix(directory.as_os_str().as_bytes())
                        .is_some_and(|rest| rest.starts_with(b"/"))
                })
            };
            let variant = match &entry.hardware {
                // Of several alike only the first is ever tried.
                Hardware::Baseline if has_baseline => continue,
                Hardware::Baseline => false,
                Hardware::Named { .. } => true,
                Hardware::Legacy(_) if loader.legacy_hwcaps => true,
                Hardware::Legacy(_) => continue,
            };
            has_baseline |= !variant;
            if nodeflib && is_default() {
                continue;
            }
            let path: Rc<Path> = entry.path.as_path().into();
            match self.accept(&path) {
                Accepted::File(file) if variant => sight.variants.push((path, file, Via::Cache)),
                Accepted::File(file) => baseline = Some(Hit::File(path, file, Via::Cache)),
                Accepted::Fatal(defect) => return Some(Hit::Malformed(path, defect)),
                Accepted::Next | Accepted::Abandon => {}
            }
        }
        baseline
    }
}
