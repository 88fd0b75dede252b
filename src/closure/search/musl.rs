//! Where musl looks: `load_library` of ldso/dynlink.c.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use super::super::token;
use super::Via;
use super::candidate::Element;
use super::names::NameId;
use super::run::{Hit, Run, Sight};

/// The names that musl's loader itself has, whatever follows.
const RESERVED: [&[u8]; 7] = [b"c.", b"pthread.", b"rt.", b"m.", b"dl.", b"util.", b"xnet."];

impl Run<'_, '_> {
    /// A loaded object that answers to `name`: by the file name that it was found under, or because it
    /// is the loader.
    pub fn loaded_musl(&mut self, id: NameId) -> Option<usize> {
        let name = self.search.names.text(id).clone();
        let bytes = name.as_bytes();
        let reserved = bytes
            .strip_prefix(b"lib")
            .is_some_and(|rest| RESERVED.iter().any(|library| rest.starts_with(library)));
        if reserved || bytes == self.loader.path.as_os_str().as_bytes() {
            return self.resolution.objects.iter().position(|loaded| loaded.is_loader);
        }
        self.answer(&name)
    }

    /// Looks for a name that no loaded object answers to; `searcher` has the first path list.
    pub fn find_musl(&mut self, searcher: Option<usize>, name: &OsStr, sight: &mut Sight) -> Option<Hit> {
        if name.is_empty() {
            return None;
        }
        if name.as_bytes().contains(&b'/') {
            return self.open_path(Path::new(name));
        }
        if !self.library_path.is_empty() {
            let list = self.library_path.clone();
            if let Some(hit) = self.find_in(&list, name, &Via::LibraryPath, sight) {
                return Some(hit);
            }
        }
        let mut at = searcher;
        while let Some(of) = at {
            let via = match &self.resolution.objects[of].object.runpath {
                Some(_) => Via::Runpath,
                None => Via::Rpath(self.resolution.objects[of].path.clone()),
            };
            let list = self.list_musl(of);
            if let Some(hit) = self.find_in(&list, name, &via, sight) {
                return Some(hit);
            }
            let loader = self.resolution.objects[of].loader;
            at = loader.and_then(|loader| self.resolution.objects[loader].searcher);
        }
        let loader = self.loader.clone();
        let directories: Vec<Element> =
            loader.default_directories.iter().map(|path| Element::always(path.as_os_str())).collect();
        self.find_in(&directories, name, &Via::Default, sight)
    }

    fn list_musl(&mut self, of: usize) -> Rc<[Element]> {
        let loaded = &self.resolution.objects[of];
        if let Some(list) = &loaded.list {
            return list.clone();
        }
        let object = loaded.object.clone();
        let text = object.rpath.as_deref().or(object.runpath.as_deref()).unwrap_or_default();
        let expanded = match text.as_bytes().contains(&b'$') {
            false => Some(text.as_bytes().to_vec()),
            true => self.origin(of).and_then(|origin| token::expand_musl(text.as_bytes(), &origin)),
        };
        let list = split(&expanded.unwrap_or_default());
        self.resolution.objects[of].list = Some(list.clone());
        list
    }
}

/// The directories of a list of musl's: empty elements count for nothing.
pub fn split(text: &[u8]) -> Rc<[Element]> {
    text.split(|byte| b":\n".contains(byte))
        .filter(|element| !element.is_empty())
        .map(|element| Element::always(OsStr::from_bytes(element)))
        .collect()
}
