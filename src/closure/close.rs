//! What enters is closed over: an ELF file brings its libraries, a script its interpreter.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::sys::stat::FileStat;

use super::collect::{Collector, find_program, is_program};
use super::elf::{self, Defect, ReadAt};
use super::root::{RootError, SourceRoot, jail_path};
use super::script::{self, ScriptDefect};
use super::search::{Dependency, Edge, Outcome, Resolution, SearchError, VersionMismatch};
use super::{ClosureError, Node, Note, Reason};
use crate::path::JailPath;
use crate::spec::Position;

/// How much depends on what an entry needs.
#[derive(Clone, Copy, Debug)]
pub enum Demand<'a> {
    /// The spec names it: what it needs must be there.
    Required(&'a Position),
    /// It came along: what it needs is taken where it is there.
    Optional,
}

/// A tree that goes elsewhere: what it finds inside of itself goes with it.
#[derive(Clone, Copy, Debug)]
pub struct Moved<'a> {
    /// Its directory in the source tree.
    pub from: &'a Path,
}

/// A file that is to enter.
#[derive(Clone, Debug)]
pub struct Incoming<'a> {
    /// Where it is in its tree.
    pub real: &'a Path,
    /// Where it goes.
    pub to: JailPath,
    /// Permission bits; the file's own when absent.
    pub mode: Option<u32>,
    /// Why it enters.
    pub reason: &'a Reason,
    /// How much depends on what it needs.
    pub demand: Demand<'a>,
    /// How many scripts it interprets, one through the other.
    pub depth: usize,
    /// The tree that it goes elsewhere with.
    pub moved: Option<Moved<'a>>,
}

impl Collector<'_> {
    /// Enters an open file, and all that it needs.
    pub fn enter_opened(
        &mut self,
        source: &SourceRoot,
        (file, stat): (File, FileStat),
        incoming: Incoming<'_>,
    ) -> Result<(), ClosureError> {
        let Incoming { real, to, mode, reason, demand, depth, moved } = incoming;
        if mode.is_none() && stat.st_mode & 0o7000 != 0 {
            self.note(Note::SpecialBitsDropped { path: to.clone(), mode: stat.st_mode & 0o7777 });
        }
        let mode = mode.unwrap_or(stat.st_mode) & 0o555;
        let node = Node::File { origin: source.host_path(real), mode };
        self.insert(to.clone(), node, reason.clone())?;
        // Closed over before; but what came along then may be required now.
        let known = to.as_path() == real && !self.closed.insert(real.to_owned());
        if known && matches!(demand, Demand::Optional) {
            return Ok(());
        }
        let mut head = [0; script::HEAD];
        let length = ReadAt::read_at(&file, &mut head, 0)
            .map_err(|errno| RootError { path: real.to_owned(), errno })?;
        let head = &head[..length];
        if elf::is_elf(head) {
            self.close_elf(real, to, &file, &stat, demand, moved)
        } else if head.starts_with(b"#!") && mode & 0o111 != 0 {
            self.close_script(to, head, demand, depth)
        } else {
            Ok(())
        }
    }

    fn close_elf(
        &mut self,
        real: &Path,
        to: JailPath,
        file: &File,
        stat: &FileStat,
        demand: Demand<'_>,
        moved: Option<Moved<'_>>,
    ) -> Result<(), ClosureError> {
        match self.search.resolve_open(real, file, (stat.st_dev, stat.st_ino)) {
            Ok(resolution) => {
                let edges: Vec<&Edge> = resolution.edges.iter().collect();
                let main = Some(to.clone());
                self.enter_edges(&resolution, &edges, &main, demand, moved)?;
                self.check_versions(&resolution, resolution.mismatches.iter(), &main, demand)?;
                for directory in &resolution.relative {
                    self.note(Note::RelativeDirectory { by: to.clone(), directory: directory.clone() });
                }
                for (at, defect) in resolution.note_defects() {
                    let path = self.object_place(&resolution, at, &main);
                    self.note(Note::DlopenNote { path, defect });
                }
                Ok(())
            }
            Err(cause) => match demand {
                Demand::Required(at) => Err(ClosureError::Program { path: to, at: at.clone(), cause }),
                Demand::Optional => {
                    // What a linker reads, `.o` files, no loader ever asks for, nor for what is another
                    // system's; a program that does gets its own note.
                    let for_others = matches!(
                        &cause,
                        SearchError::Malformed(malformed) if matches!(malformed.defect, Defect::Type | Defect::OsAbi)
                    );
                    if !for_others {
                        self.note(Note::Unresolved { path: to, error: cause });
                    }
                    Ok(())
                }
            },
        }
    }

    pub fn enter_edges(
        &mut self,
        resolution: &Resolution,
        edges: &[&Edge],
        main: &Option<JailPath>,
        demand: Demand<'_>,
        moved: Option<Moved<'_>>,
    ) -> Result<(), ClosureError> {
        if let Some(loader) = &resolution.loader
            && !self.loaders.iter().any(|known| Rc::ptr_eq(known, loader))
        {
            self.loaders.push(loader.clone());
        }
        for edge in edges {
            match (&edge.outcome, demand) {
                (Outcome::Found { path: None, object, .. }, _) if main.is_none() => {
                    // The requester's own program is not entered, so this may be the first word of it.
                    let reason = self.reason(resolution, edge, main);
                    self.enter_object(&resolution.objects[*object].path, &reason)?;
                }
                (Outcome::Found { path: None, object, .. }, _) => {
                    self.record_again(&resolution.objects[*object].path, resolution, edge, main);
                }
                (Outcome::LeftOut, _) => {}
                (Outcome::Found { path: Some(path), .. }, _) => {
                    if let Some(moved) = moved
                        && self.root.resolve(path).is_ok_and(|found| found.real.starts_with(moved.from))
                    {
                        continue;
                    }
                    if !self.entered.contains_key(&**path) {
                        let reason = self.reason(resolution, edge, main);
                        self.enter_object(path, &reason)?;
                    } else {
                        self.record_again(path, resolution, edge, main);
                    }
                }
                (Outcome::Missing { searched }, Demand::Required(at)) if !resolution.is_optional(edge) => {
                    let by = self.requester(resolution, edge, main);
                    let (at, searched) = (at.clone(), searched.clone());
                    return Err(match resolution.feature(edge) {
                        Some(feature) => {
                            let feature = Box::new(feature.clone());
                            ClosureError::MissingFeature { feature, by, at, searched }
                        }
                        None => {
                            let name = edge.name.to_string_lossy().into_owned();
                            ClosureError::MissingLibrary { name, by, at, searched }
                        }
                    });
                }
                (Outcome::Missing { .. }, _) => {
                    if let Some(feature) = resolution.feature(edge) {
                        let by = self.requester(resolution, edge, main);
                        self.note(Note::MissingFeature { by, feature: Box::new(feature.clone()) });
                    } else if !main.as_ref().is_some_and(is_of_a_library) {
                        // A plug-in of a package comes whether or not what it needs is there: that is only
                        // recommended, or its program has it open already.
                        let by = self.requester(resolution, edge, main);
                        let name = edge.name.to_string_lossy().into_owned();
                        self.note(Note::MissingLibrary { by, name });
                    }
                }
                (Outcome::Malformed { path, defect }, Demand::Required(at))
                    if !resolution.is_optional(edge) =>
                {
                    return Err(ClosureError::MalformedLibrary {
                        path: path.to_path_buf(),
                        by: self.requester(resolution, edge, main),
                        at: at.clone(),
                        defect: *defect,
                    });
                }
                (Outcome::Malformed { path, defect }, _) => {
                    let by = self.requester(resolution, edge, main);
                    self.note(Note::MalformedLibrary { by, path: path.to_path_buf(), defect: *defect });
                }
            }
        }
        Ok(())
    }

    /// Records one more reason for what has been entered.
    fn record_again(&mut self, path: &Path, resolution: &Resolution, edge: &Edge, main: &Option<JailPath>) {
        // A build keeps no reasons and shall not pay for one.
        if self.reasons.is_none() {
            return;
        }
        let (place, reason) = (self.place(path), self.reason(resolution, edge, main));
        if let Some(reasons) = &mut self.reasons {
            reasons.record(&place, &reason);
        }
    }

    /// A library that lacks a version keeps a program from starting as a missing one does.
    pub fn check_versions<'m>(
        &mut self,
        resolution: &Resolution,
        mismatches: impl Iterator<Item = &'m VersionMismatch>,
        main: &Option<JailPath>,
        demand: Demand<'_>,
    ) -> Result<(), ClosureError> {
        for mismatch in mismatches {
            let version = mismatch.version.to_string_lossy().into_owned();
            let by = self.object_place(resolution, mismatch.by, main);
            let library = self.object_place(resolution, mismatch.of, main);
            match demand {
                Demand::Required(at) if !resolution.objects[mismatch.by].optional => {
                    return Err(ClosureError::MissingVersion { version, library, by, at: at.clone() });
                }
                _ => self.note(Note::MissingVersion { by, library, version }),
            }
        }
        Ok(())
    }

    fn requester(&self, resolution: &Resolution, edge: &Edge, main: &Option<JailPath>) -> JailPath {
        self.object_place(resolution, edge.from, main)
    }

    fn object_place(&self, resolution: &Resolution, object: usize, main: &Option<JailPath>) -> JailPath {
        match (object, main) {
            (0, Some(main)) => main.clone(),
            _ => self.place(&resolution.objects[object].path),
        }
    }

    /// Where the object found at `path` is in the jail.
    pub fn place(&self, path: &Path) -> JailPath {
        match self.entered.get(path) {
            Some(real) => jail_path(real),
            None => self.root.resolve(path).map_or_else(|_| JailPath::root(), |found| jail_path(&found.real)),
        }
    }

    fn reason(&self, resolution: &Resolution, edge: &Edge, main: &Option<JailPath>) -> Reason {
        let Outcome::Found { via, .. } = &edge.outcome else {
            unreachable!("BUG: only what was found is entered")
        };
        let how = match edge.dependency {
            Dependency::Interpreter => "PT_INTERP".to_owned(),
            Dependency::Note(priority) => {
                let feature = resolution.feature(edge).map(|feature| feature.name.as_str());
                let feature = crate::path::printable(feature.unwrap_or_default().as_ref()).to_string();
                let name = crate::path::printable(&edge.name);
                format!("dlopen note, {} {feature} {name}, {via}", priority.name())
            }
            dependency => {
                format!("{} {}, {via}", dependency.name(), crate::path::printable(&edge.name))
            }
        };
        Reason::NeededBy { by: self.requester(resolution, edge, main), how }
    }

    /// Enters a library by the path at which the loader finds it.
    pub fn enter_object(&mut self, path: &Path, reason: &Reason) -> Result<(), ClosureError> {
        if self.entered.contains_key(path) {
            return Ok(());
        }
        let resolved = self.root.resolve(path)?;
        self.enter_crossed(&resolved, reason)?;
        let stat = self.root.stat(&resolved.real)?;
        let to = jail_path(&resolved.real);
        if stat.st_mode & 0o7000 != 0 {
            self.note(Note::SpecialBitsDropped { path: to.clone(), mode: stat.st_mode & 0o7777 });
        }
        let origin = self.root.host_path(&resolved.real);
        self.insert(to, Node::File { origin, mode: stat.st_mode & 0o555 }, reason.clone())?;
        self.entered.insert(path.to_owned(), resolved.real);
        Ok(())
    }

    fn close_script(
        &mut self,
        to: JailPath,
        head: &[u8],
        demand: Demand<'_>,
        depth: usize,
    ) -> Result<(), ClosureError> {
        let script = match script::parse(head) {
            Ok(_) if depth >= script::MAXIMUM_NESTING => Err(ScriptDefect::TooDeep),
            other => other,
        };
        let script = match (script, demand) {
            (Ok(None), _) => return Ok(()),
            (Ok(Some(script)), _) => script,
            (Err(cause), Demand::Required(at)) => {
                return Err(ClosureError::Script { path: to, at: at.clone(), cause });
            }
            (Err(defect), Demand::Optional) => {
                self.note(Note::Script { path: to, defect });
                return Ok(());
            }
        };
        let direct = script.interpreter.is_absolute().then(|| script.interpreter.clone());
        let through = script.through_env.as_ref();
        let wanted = [(script.interpreter.clone(), direct.filter(|path| is_program(self.root, path)))]
            .into_iter()
            .chain(through.map(|name| (PathBuf::from(name), find_program(self.root, name))));
        for (name, found) in wanted.collect::<Vec<_>>() {
            let Some(found) = found else {
                match demand {
                    Demand::Required(at) => {
                        return Err(ClosureError::InterpreterNotFound {
                            script: to,
                            interpreter: name,
                            at: at.clone(),
                        });
                    }
                    // Modules of a language often have a `#!` line that nothing ever uses.
                    Demand::Optional if is_of_a_library(&to) => continue,
                    Demand::Optional => {
                        self.note(Note::MissingInterpreter { script: to.clone(), interpreter: name });
                        continue;
                    }
                }
            };
            let how = if name == script.interpreter {
                "#!".to_owned()
            } else {
                format!("#! env {}", crate::path::printable(name.as_os_str()))
            };
            let reason = Reason::NeededBy { by: to.clone(), how };
            self.enter_followed(&found, &reason, demand, depth + 1)?;
        }
        Ok(())
    }
}

/// Whether a path lies where a distribution keeps what programs read, not what is run by name.
fn is_of_a_library(path: &JailPath) -> bool {
    let tops = ["/usr/lib", "/usr/lib64", "/usr/share", "/usr/local/lib", "/usr/local/share"];
    tops.iter().any(|top| path.as_path().starts_with(top))
}
