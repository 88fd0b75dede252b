//! A spec and what it includes → one [`Spec`].

use std::path::Path;
use std::sync::Arc;

use super::document::Document;
use super::find::{self, Found, Trust};
use super::refusal::{ProfileFault, Refusal, SpecError};
use super::{Placed, Position, SeccompProfile, Source, SourceOrigin, Spec, read, value};

/// Includes in includes; more is a mistake, not a design.
const MAX_DEPTH: usize = 16;
/// Specs in all.
const MAX_SPECS: usize = 64;

/// Reads the spec that the command line names, with its includes; `None` is `./jail.toml`.
///
/// # Errors
/// There is none of that name, it or an include may be changed by others (unless [`Trust::Any`]),
/// or its text is refused.
pub fn load(argument: Option<&str>, trust: Trust) -> Result<Spec, SpecError> {
    Loader::new(trust).load(find::by_argument(argument, trust)?)
}

/// Reads a spec from memory; of the file system only the text's own directory is named (for relative
/// paths), nothing is opened, and only built-in specs can be included.
///
/// `file_name` is for messages, for the default name, and, when absolute, for relative paths.
///
/// # Errors
/// The text is refused.
pub fn parse(text: &str, file_name: &str) -> Result<Spec, SpecError> {
    let path = Path::new("/").join(file_name);
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let named = path.clone();
    let found =
        Found { origin: SourceOrigin::File(path), named, shown: file_name.into(), stem, text: text.into() };
    let mut loader = Loader::new(Trust::Owned);
    loader.reach = Reach::BuiltIn;
    loader.load(found)
}

/// What includes can name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    Files,
    BuiltIn,
}

struct Loader {
    trust: Trust,
    reach: Reach,
    /// The specs being read, outermost first.
    open: Vec<SourceOrigin>,
    /// What messages call them.
    shown: Vec<String>,
    merged: Document,
    sources: Vec<Source>,
}

impl Loader {
    fn new(trust: Trust) -> Loader {
        Loader {
            trust,
            reach: Reach::Files,
            open: Vec::new(),
            shown: Vec::new(),
            merged: Document::default(),
            sources: Vec::new(),
        }
    }

    fn load(mut self, found: Found) -> Result<Spec, SpecError> {
        let shown = found.shown.clone();
        let stem = found.stem.clone();
        let name = match self.add(found)? {
            Some(name) => name.value,
            None => match value::label(&stem.replace('_', "-")) {
                Ok(name) => name.to_owned(),
                Err(source) => {
                    let at = Position { file: shown, line: 1, column: 1 };
                    return Err(SpecError::Refused { at, source: Refusal::Stem { stem, source } });
                }
            },
        };
        self.read_profile()?;
        self.merged.complete(name, self.sources)
    }

    /// The system call filter that the last spec which names one means: trusted as the spec is, and with it
    /// read-only in a workspace.
    fn read_profile(&mut self) -> Result<(), SpecError> {
        let Some(SeccompProfile::File(file)) = &mut self.merged.seccomp else { return Ok(()) };
        if self.reach == Reach::BuiltIn {
            return Ok(());
        }
        let fault = match find::open(&file.path, self.trust) {
            Ok(Some(found)) => {
                file.text = Arc::clone(&found.text);
                // Before the spec itself, which is the last.
                self.sources.insert(0, Source { origin: found.origin, named: found.named, text: found.text });
                return Ok(());
            }
            Ok(None) => ProfileFault::Missing,
            Err(SpecError::Open { source, .. }) => ProfileFault::Open(source),
            Err(SpecError::Unfit { source, .. }) => ProfileFault::Unfit(source),
            Err(_) => ProfileFault::NotUtf8,
        };
        Err(SpecError::Profile { path: file.path.clone(), at: file.at.clone(), source: fault })
    }

    /// Merges the includes of `found` and then itself; gives the name it is written to have.
    fn add(&mut self, found: Found) -> Result<Option<Placed<String>>, SpecError> {
        let document = read::document(&found.text, found.shown.clone(), found.directory())?;
        self.open.push(found.origin.clone());
        self.shown.push(found.shown.to_string());
        for include in &document.include {
            self.include(include, &found)?;
        }
        self.open.pop();
        self.shown.pop();
        self.sources.push(Source { origin: found.origin, named: found.named, text: found.text });
        let name = document.name.clone();
        self.merged.merge(document);
        Ok(name)
    }

    fn include(&mut self, include: &Placed<String>, from: &Found) -> Result<(), SpecError> {
        let directory = from.directory().filter(|_| self.reach == Reach::Files);
        let found = find::by_include(&include.value, &include.at, directory, self.trust)?;
        let refused = |source| SpecError::Refused { at: include.at.clone(), source };
        if let Some(first) = self.open.iter().position(|open| *open == found.origin) {
            let mut round = self.shown[first..].to_vec();
            round.push(found.shown.to_string());
            return Err(refused(Refusal::Cycle(round)));
        }
        if self.sources.iter().any(|source| source.origin == found.origin) {
            return Ok(());
        }
        if self.open.len() >= MAX_DEPTH {
            return Err(refused(Refusal::Depth(MAX_DEPTH)));
        }
        if self.open.len() + self.sources.len() >= MAX_SPECS {
            return Err(refused(Refusal::Count(MAX_SPECS)));
        }
        let (name, at) = (include.value.clone(), include.at.clone());
        match self.add(found) {
            Ok(_) => Ok(()),
            Err(source) => Err(SpecError::Include { name, at, source: Box::new(source) }),
        }
    }
}
