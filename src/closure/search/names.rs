//! Names, each kept once and known by a number; and which object of a program answers to it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

/// A name that was asked for, by the order of asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NameId(u32);

/// What the text of a name means to a loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A file's name, which is looked for.
    Plain,
    /// With a slash or a token.
    Special,
    /// The kernel's own object, which is no file.
    Kernel,
}

#[derive(Debug)]
struct Name {
    text: Rc<OsStr>,
    form: Form,
    /// The namespace in which it was last learned, and the object that answers there.
    answer: (u32, u32),
}

/// Every name that was ever asked for.
#[derive(Debug, Default)]
pub struct Names {
    ids: HashMap<Rc<OsStr>, NameId>,
    names: Vec<Name>,
    namespaces: u32,
    generation: u32,
}

impl Names {
    /// Forgets all names, so that their numbers mean nothing any more.
    pub fn clear(&mut self) {
        self.ids.clear();
        self.names.clear();
        self.generation += 1;
    }

    /// How often all names were forgotten.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The number of a name.
    pub fn id(&mut self, name: &OsStr) -> NameId {
        if let Some(id) = self.ids.get(name) {
            return *id;
        }
        let id = NameId(u32::try_from(self.names.len()).expect("BUG: names are bounded by requests"));
        let text: Rc<OsStr> = name.into();
        let form = match name.as_bytes() {
            b"linux-vdso.so.1" | b"linux-gate.so.1" => Form::Kernel,
            name if name.contains(&b'/') || name.contains(&b'$') => Form::Special,
            _ => Form::Plain,
        };
        self.names.push(Name { text: text.clone(), form, answer: (0, 0) });
        self.ids.insert(text, id);
        id
    }

    /// The name of a number; equal names are one allocation.
    pub fn text(&self, id: NameId) -> &Rc<OsStr> {
        &self.names[id.0 as usize].text
    }

    /// What the name means.
    pub fn form(&self, id: NameId) -> Form {
        self.names[id.0 as usize].form
    }

    /// A namespace in which no name is known yet.
    pub fn namespace(&mut self) -> u32 {
        self.namespaces += 1;
        self.namespaces
    }

    /// The object that answers to a name.
    pub fn answer(&self, namespace: u32, id: NameId) -> Option<usize> {
        let (known, object) = self.names[id.0 as usize].answer;
        (known == namespace).then_some(object as usize)
    }

    /// Lets `object` answer to a name, unless an earlier one does.
    pub fn learn(&mut self, namespace: u32, id: NameId, object: usize) {
        let answer = &mut self.names[id.0 as usize].answer;
        if answer.0 != namespace {
            *answer = (namespace, object as u32);
        }
    }
}

impl NameId {
    /// A place in a table by name.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
