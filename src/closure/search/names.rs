//! Names, each kept once and known by a number; and which object of a program answers to it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::rc::Rc;

/// Every name that was ever asked for.
#[derive(Debug, Default)]
pub struct Names {
    numbers: HashMap<Rc<OsStr>, u32>,
    names: Vec<Rc<OsStr>>,
    /// By number: the namespace in which the name was last learned, and the object that answers there.
    answers: Vec<(u32, u32)>,
    namespaces: u32,
}

impl Names {
    /// The number of a name.
    pub fn number(&mut self, name: &OsStr) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).expect("BUG: names are bounded by requests");
        let name: Rc<OsStr> = name.into();
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        self.answers.push((0, 0));
        number
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// The name of a number.
    pub fn name(&self, number: u32) -> Rc<OsStr> {
        self.names[number as usize].clone()
    }

    /// A namespace in which no name is known yet.
    pub fn namespace(&mut self) -> u32 {
        self.namespaces += 1;
        self.namespaces
    }

    /// The object that answers to a name.
    pub fn answer(&self, namespace: u32, number: u32) -> Option<usize> {
        let (known, object) = self.answers[number as usize];
        (known == namespace).then_some(object as usize)
    }

    /// Lets `object` answer to a name, unless an earlier one does.
    pub fn learn(&mut self, namespace: u32, number: u32, object: usize) {
        let answer = &mut self.answers[number as usize];
        if answer.0 != namespace {
            *answer = (namespace, object as u32);
        }
    }
}
