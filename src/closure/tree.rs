//! Programs → trees of what they load: for reading by people, and as JSON.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde::Serialize;

use super::collect::find_program;
use super::elf::{self, Defect, Malformed, ReadAt};
use super::root::{Opened, RootError, SourceRoot};
use super::script;
use super::search::{Dependency, Edge, Environment, Outcome, Resolution, Search, SearchError, Via};
use crate::path::{HostPath, printable};

/// Deeper lines are not indented further: a chain of ten thousand libraries would fill the disk.
const MAXIMUM_INDENT: usize = 60;

/// What one program loads.
#[derive(Clone, Debug, Serialize)]
pub struct Tree {
    /// As it was asked for.
    pub program: String,
    /// Where it was found.
    #[serde(serialize_with = "as_text")]
    pub path: Option<PathBuf>,
    /// Where that really is.
    #[serde(serialize_with = "as_text")]
    pub real: Option<PathBuf>,
    /// What it loads, the interpreter first, in the loader's order.
    pub libraries: Vec<Library>,
    /// The programs behind its `#!` line.
    pub interpreters: Vec<Tree>,
    /// What was found that keeps nothing from running.
    pub notes: Vec<String>,
    /// Why it could not be looked into.
    pub error: Option<String>,
}

/// One request of a tree.
#[derive(Clone, Debug, Serialize)]
pub struct Library {
    /// The name that is asked for.
    pub name: String,
    /// Where it was found; absent for a missing one.
    #[serde(serialize_with = "as_text")]
    pub path: Option<PathBuf>,
    /// Where that really is.
    #[serde(serialize_with = "as_text")]
    pub real: Option<PathBuf>,
    /// The rule that found it.
    pub via: Option<String>,
    /// Who asks: an index into `libraries`; absent for the program.
    pub by: Option<usize>,
    /// `DT_NEEDED`, `PT_INTERP` and so on.
    pub dependency: &'static str,
    /// Of a dlopen note: what it is for.
    pub feature: Option<Feature>,
    /// Only some processors load it.
    pub variant: bool,
    /// The program runs without it.
    pub optional: bool,
    /// A feature that is not followed: nothing was looked up.
    pub left_out: bool,
    /// Symbol versions that the requester needs of it and that it lacks.
    pub missing_versions: Vec<String>,
    /// For a missing one, the directories that were looked into.
    pub searched: Vec<String>,
    /// What is wrong with it.
    pub error: Option<String>,
}

/// A feature of a dlopen note.
#[derive(Clone, Debug, Serialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// What it is.
    pub description: String,
    /// `required`, `recommended` or `suggested`.
    pub priority: &'static str,
    /// Libraries of which one is enough.
    pub sonames: Vec<String>,
}

/// JSON has no bytes: names that are no UTF-8 are written as they are shown.
fn as_text<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| text(path.as_os_str())).serialize(serializer)
}

fn text(name: &OsStr) -> String {
    printable(name).to_string()
}

/// Every file of some programs.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Links resolved, sorted.
    pub paths: Vec<HostPath>,
    /// Whether something that is needed is missing or damaged.
    pub broken: bool,
}

/// A look at programs, names or paths, in one tree. Nothing is run or mapped.
#[derive(Debug)]
pub struct Look<'r> {
    search: Search<'r>,
    directory: Option<PathBuf>,
}

/// What one program is.
struct Program {
    name: OsString,
    path: Option<PathBuf>,
    real: Option<PathBuf>,
    content: Result<Content, String>,
}

enum Content {
    Elf(Resolution),
    Script(Vec<Program>),
}

impl<'r> Look<'r> {
    /// Relative paths and relative search directories count from `directory`; `environment` is what
    /// the programs' loader is told.
    pub fn new(root: &'r SourceRoot, directory: Option<&HostPath>, environment: Environment) -> Look<'r> {
        let directory = directory.map(|directory| directory.as_path().to_owned());
        let search = Search::new(root, directory.clone()).with_environment(environment);
        Look { search, directory }
    }

    /// The tree of one program.
    pub fn tree(&mut self, program: &OsStr) -> Tree {
        let program = self.program(program, 0);
        self.tree_of(program)
    }

    /// Every file that some programs load, themselves included.
    pub fn paths(&mut self, programs: &[impl AsRef<OsStr>]) -> Paths {
        let root = self.search.root();
        let mut found: HashSet<OsString> = HashSet::new();
        // Paths that are one allocation need one look; others are merely looked at again.
        let mut seen: HashSet<*const u8> = HashSet::new();
        let mut kept: Vec<Rc<Path>> = Vec::new();
        let mut broken = false;
        for name in programs {
            let mut pending = vec![self.program(name.as_ref(), 0)];
            while let Some(program) = pending.pop() {
                found.extend(program.real.map(PathBuf::into_os_string));
                match program.content {
                    Err(_) => broken = true,
                    Ok(Content::Script(programs)) => pending.extend(programs),
                    Ok(Content::Elf(resolution)) => {
                        broken |= is_broken(&resolution);
                        for edge in &resolution.edges {
                            if let Outcome::Found { path: Some(path), .. } = &edge.outcome
                                && seen.insert(Rc::as_ptr(path).cast())
                            {
                                kept.push(path.clone());
                                found.extend(self.search.real(path).map(PathBuf::into_os_string));
                            }
                        }
                    }
                }
            }
        }
        let mut sorted: Vec<OsString> = found.into_iter().collect();
        sorted.sort_unstable();
        Paths { paths: sorted.iter().map(|real| root.host_path(Path::new(real))).collect(), broken }
    }

    fn program(&mut self, name: &OsStr, depth: usize) -> Program {
        let written = Path::new(name);
        let path = if written.is_absolute() {
            Some(written.to_owned())
        } else if name.as_encoded_bytes().contains(&b'/') {
            self.directory.as_ref().map(|directory| directory.join(written))
        } else {
            find_program(self.search.root(), name)
        };
        let mut program = Program {
            name: name.to_owned(),
            path: None,
            real: None,
            content: Err("it is not found".to_owned()),
        };
        let Some(path) = path else { return program };
        program.content = match self.search.root().open_real(&path) {
            Ok((real, opened)) => {
                program.path = Some(path);
                let content = self.content(&real, opened, depth);
                program.real = Some(real);
                content
            }
            Err(errno) => Err(errno.to_string()),
        };
        program
    }

    fn content(&mut self, real: &Path, opened: Opened, depth: usize) -> Result<Content, String> {
        let (file, stat) = match opened {
            Opened::Regular(file, stat) => (file, stat),
            Opened::Other(kind) => return Err(format!("it is {}", kind.name())),
        };
        let error = match self.search.resolve_open(real, &file, (stat.st_dev, stat.st_ino)) {
            Ok(resolution) => return Ok(Content::Elf(resolution)),
            Err(error) => error,
        };
        // What is no ELF file may be a script, however short.
        let defect = Malformed { architecture: None, defect: Defect::NotElf };
        if error != SearchError::Malformed(defect.clone())
            && error != SearchError::Malformed(Malformed { defect: Defect::TooShort, ..defect })
        {
            return Err(explain(&error));
        }
        let mut head = [0; script::HEAD];
        let length = ReadAt::read_at(&file, &mut head, 0).map_err(|errno| errno.to_string())?;
        if elf::is_elf(&head[..length]) {
            return Err(explain(&error));
        }
        let found = script::parse(&head[..length]).map_err(|defect| defect.to_string())?;
        let Some(script) = found else { return Err("it is neither ELF nor a script".to_owned()) };
        if depth >= script::MAXIMUM_NESTING {
            return Err(script::ScriptDefect::TooDeep.to_string());
        }
        let names = std::iter::once(script.interpreter.into_os_string()).chain(script.through_env);
        Ok(Content::Script(names.map(|name| self.program(&name, depth + 1)).collect()))
    }

    fn tree_of(&mut self, program: Program) -> Tree {
        let mut tree = Tree {
            program: text(&program.name),
            path: program.path,
            real: program.real,
            libraries: Vec::new(),
            interpreters: Vec::new(),
            notes: Vec::new(),
            error: None,
        };
        match program.content {
            Err(error) => tree.error = Some(error),
            Ok(Content::Script(programs)) => {
                tree.interpreters = programs.into_iter().map(|program| self.tree_of(program)).collect();
            }
            Ok(Content::Elf(resolution)) => {
                tree.libraries = self.libraries(&resolution);
                let path = |at: usize| text(resolution.objects[at].path.as_os_str());
                tree.notes.extend(resolution.note_defects().map(|(at, defect)| {
                    format!("the dlopen note of {} is not followed: {defect}", path(at))
                }));
                tree.notes.extend(resolution.relative.iter().map(|directory| {
                    let directory = printable(directory.as_os_str());
                    format!("`{directory}` counts from the working directory, which is not known")
                }));
            }
        }
        tree
    }

    fn libraries(&mut self, resolution: &Resolution) -> Vec<Library> {
        let mut out: Vec<Library> = Vec::new();
        // Object → the line that brought it in.
        let mut lines: Vec<Option<usize>> = vec![None; resolution.objects.len()];
        for edge in &resolution.edges {
            let (path, via, error) = match &edge.outcome {
                Outcome::Found { object, path: Some(path), via, first } => {
                    if *first {
                        lines[*object] = Some(out.len());
                    }
                    (Some(path.to_path_buf()), Some(via), None)
                }
                // Nothing is opened for these; but they may be of the wrong version.
                Outcome::Found { path: None, .. } if missing_versions(resolution, edge).is_empty() => {
                    continue;
                }
                Outcome::Found { path: None, object, via, .. } => {
                    (Some(resolution.objects[*object].path.to_path_buf()), Some(via), None)
                }
                Outcome::Missing { .. } => (None, None, Some("not found".to_owned())),
                Outcome::Malformed { path, defect } => {
                    (Some(path.to_path_buf()), None, Some(defect.to_string()))
                }
                Outcome::LeftOut => (None, None, None),
            };
            let searched = match &edge.outcome {
                Outcome::Missing { searched } => searched.iter().map(|path| text(path.as_os_str())).collect(),
                _ => Vec::new(),
            };
            let variant = match edge.outcome {
                Outcome::Found { object, .. } => resolution.objects[object].variant,
                _ => false,
            };
            out.push(Library {
                name: text(&edge.name),
                real: path.as_ref().and_then(|path| self.search.real(path)),
                path,
                via: via.map(Via::to_string),
                by: lines[edge.from],
                dependency: edge.dependency.name(),
                feature: resolution.feature(edge).map(|feature| Feature {
                    name: text(feature.name.as_ref()),
                    description: text(feature.description.as_ref()),
                    priority: feature.priority.name(),
                    sonames: feature.sonames.iter().map(|soname| text(soname)).collect(),
                }),
                variant,
                optional: resolution.is_optional(edge),
                left_out: edge.outcome == Outcome::LeftOut,
                missing_versions: missing_versions(resolution, edge),
                searched,
                error,
            });
        }
        out
    }
}

fn missing_versions(resolution: &Resolution, edge: &Edge) -> Vec<String> {
    let Outcome::Found { object, .. } = edge.outcome else { return Vec::new() };
    let asked = edge.dependency == Dependency::Needed;
    let mine = resolution.mismatches.iter().filter(|m| asked && m.by == edge.from && m.of == object);
    mine.map(|mismatch| text(&mismatch.version)).collect()
}

fn is_broken(resolution: &Resolution) -> bool {
    let fails = |edge: &&Edge| matches!(edge.outcome, Outcome::Missing { .. } | Outcome::Malformed { .. });
    resolution.edges.iter().filter(fails).any(|edge| !resolution.is_optional(edge))
        || resolution.mismatches.iter().any(|mismatch| !resolution.objects[mismatch.by].optional)
}

fn explain(error: &SearchError) -> String {
    match error {
        SearchError::Interpreter { cause, .. } => format!("{error}: {}", cause.errno),
        SearchError::Root(RootError { errno, .. }) => format!("{error}: {errno}"),
        _ => error.to_string(),
    }
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "")
    }
}

impl fmt::Display for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match (&self.feature, self.dependency) {
            (Some(feature), how) => {
                format!("{how}, {} {}", feature.priority, feature.name).trim_end().to_owned()
            }
            (None, "DT_NEEDED" | "PT_INTERP") => String::new(),
            (None, how) => how.to_owned(),
        };
        write!(f, "{} => ", self.name)?;
        if let Some(path) = &self.path {
            write!(f, "{}", printable(path.as_os_str()))?;
        }
        let rule = match (&self.via, &self.error) {
            (Some(via), _) => via.as_str(),
            (None, Some(error)) if self.path.is_some() => {
                write!(f, ": {error}")?;
                ""
            }
            (None, Some(_)) => {
                f.write_str(if self.optional { "not found" } else { "NOT FOUND" })?;
                ""
            }
            (None, None) => {
                f.write_str("left out")?;
                ""
            }
        };
        match (rule, how.as_str()) {
            ("", "") => {}
            ("", only) | (only, "") => write!(f, " ({only})")?,
            (rule, how) => write!(f, " ({rule}; {how})")?,
        }
        for version in &self.missing_versions {
            write!(f, " LACKS VERSION {version}")?;
        }
        Ok(())
    }
}

impl Tree {
    /// Whether something that the program needs is missing or damaged.
    pub fn is_broken(&self) -> bool {
        let fails = |library: &Library| library.error.is_some() || !library.missing_versions.is_empty();
        self.error.is_some()
            || self.libraries.iter().any(|library| fails(library) && !library.optional)
            || self.interpreters.iter().any(Tree::is_broken)
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, indent: &str) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{}", printable(path.as_os_str()))?,
            None => write!(f, "{}", self.program)?,
        }
        if let (Some(path), Some(real)) = (&self.path, &self.real)
            && path != real
        {
            write!(f, " -> {}", printable(real.as_os_str()))?;
        }
        match &self.error {
            Some(error) => writeln!(f, ": {error}")?,
            None => writeln!(f)?,
        }
        // The lines that each line brought in, the program's own first.
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); self.libraries.len() + 1];
        for (at, library) in self.libraries.iter().enumerate() {
            children[library.by.map_or(0, |by| by + 1)].push(at);
        }
        // Depth first by whom brought what; a stack, for chains may be long.
        let mut stack: Vec<(usize, String, bool)> = Vec::new();
        let push = |stack: &mut Vec<_>, of: &[usize], indent: &str| {
            let last = of.len().saturating_sub(1);
            let lines = of.iter().enumerate().rev().map(|(n, at)| (*at, indent.to_owned(), n == last));
            stack.extend(lines);
        };
        push(&mut stack, &children[0], indent);
        while let Some((at, indent, last)) = stack.pop() {
            writeln!(f, "{indent}{} {}", if last { "└──" } else { "├──" }, self.libraries[at])?;
            let deeper = if indent.chars().count() < MAXIMUM_INDENT {
                format!("{indent}{}   ", if last { " " } else { "│" })
            } else {
                indent
            };
            push(&mut stack, &children[at + 1], &deeper);
        }
        for interpreter in &self.interpreters {
            write!(f, "{indent}└── ")?;
            interpreter.write(f, &format!("{indent}    "))?;
        }
        for note in &self.notes {
            writeln!(f, "{indent}note: {note}")?;
        }
        Ok(())
    }
}
