//! Programs → trees of what they load: for reading by people, and as JSON.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use nix::sys::stat::FileStat;
use serde::Serialize;

use super::collect::find_program;
use super::elf::{self, ReadAt};
use super::root::{Opened, RootError, SourceRoot};
use super::script;
use super::search::{Outcome, Resolution, Search, SearchError, Via};
use crate::path::{HostPath, printable};

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
    /// What is wrong with it.
    pub error: Option<String>,
}

/// JSON has no bytes: names that are no UTF-8 are written as they are shown.
fn as_text<S: serde::Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| printable(path.as_os_str()).to_string()).serialize(serializer)
}

/// Resolves `programs`, names or paths, in `root`. Nothing is run or mapped. Relative paths and
/// relative search directories count from `working_directory`.
pub fn tree(
    root: &SourceRoot,
    programs: &[impl AsRef<OsStr>],
    working_directory: Option<&HostPath>,
) -> Vec<Tree> {
    let directory = working_directory.map(|directory| directory.as_path().to_owned());
    let mut search = Search::new(root, directory.clone());
    programs.iter().map(|program| one(&mut search, program.as_ref(), directory.as_deref(), 0)).collect()
}

/// Every file that the trees name, links resolved, as paths of the host, sorted.
pub fn paths(root: &SourceRoot, trees: &[Tree]) -> BTreeSet<HostPath> {
    let mut out = BTreeSet::new();
    let mut pending: Vec<&Tree> = trees.iter().collect();
    while let Some(tree) = pending.pop() {
        let reals = tree.real.iter().chain(tree.libraries.iter().filter_map(|library| library.real.as_ref()));
        out.extend(reals.map(|real| root.host_path(real)));
        pending.extend(&tree.interpreters);
    }
    out
}

fn one(search: &mut Search<'_>, program: &OsStr, directory: Option<&Path>, depth: usize) -> Tree {
    let root = search.root();
    let mut tree = Tree {
        program: printable(program).to_string(),
        path: None,
        real: None,
        libraries: Vec::new(),
        interpreters: Vec::new(),
        error: None,
    };
    let written = Path::new(program);
    let path = if written.is_absolute() {
        Some(written.to_owned())
    } else if written.components().count() > 1 || program.as_encoded_bytes().contains(&b'/') {
        directory.map(|directory| directory.join(written))
    } else {
        find_program(root, program)
    };
    let Some(path) = path else {
        tree.error = Some("it is not found".to_owned());
        return tree;
    };
    match open(root, &path) {
        Ok((real, file, stat)) => {
            tree.path = Some(path);
            tree.real = Some(real.clone());
            if let Err(error) = fill(search, &mut tree, &real, &file, &stat, (directory, depth)) {
                tree.error = Some(error);
            }
        }
        Err(error) => tree.error = Some(error),
    }
    tree
}

fn open(root: &SourceRoot, path: &Path) -> Result<(PathBuf, std::fs::File, FileStat), String> {
    let real = root.resolve(path).map_err(|error| error.errno.to_string())?.real;
    match root.open_file(&real) {
        Ok(Opened::Regular(file, stat)) => Ok((real, file, stat)),
        Ok(Opened::Other(kind)) => Err(format!("it is {}", kind.name())),
        Err(errno) => Err(errno.to_string()),
    }
}

fn fill(
    search: &mut Search<'_>,
    tree: &mut Tree,
    real: &Path,
    file: &std::fs::File,
    stat: &FileStat,
    (directory, depth): (Option<&Path>, usize),
) -> Result<(), String> {
    let mut head = [0; script::HEAD];
    let length = ReadAt::read_at(file, &mut head, 0).map_err(|errno| errno.to_string())?;
    let head = &head[..length];
    if !elf::is_elf(head) {
        let found = script::parse(head).map_err(|defect| defect.to_string())?;
        let Some(script) = found else { return Err("it is neither ELF nor a script".to_owned()) };
        if depth >= script::MAXIMUM_NESTING {
            return Err(script::ScriptDefect::TooDeep.to_string());
        }
        let names = std::iter::once(script.interpreter.into_os_string()).chain(script.through_env);
        tree.interpreters = names.map(|name| one(search, &name, directory, depth + 1)).collect();
        return Ok(());
    }
    let resolution =
        search.resolve_open(real, file, (stat.st_dev, stat.st_ino)).map_err(|error| explain(&error))?;
    tree.libraries = libraries(search, &resolution);
    Ok(())
}

fn explain(error: &SearchError) -> String {
    match error {
        SearchError::Interpreter { cause, .. } => format!("{error}: {}", cause.errno),
        SearchError::Root(RootError { errno, .. }) => format!("{error}: {errno}"),
        _ => error.to_string(),
    }
}

fn libraries(search: &mut Search<'_>, resolution: &Resolution) -> Vec<Library> {
    let mut out: Vec<Library> = Vec::new();
    // Object → the line that brought it in.
    let mut lines: Vec<Option<usize>> = vec![None; resolution.objects.len()];
    for edge in &resolution.edges {
        let (path, via, error) = match &edge.outcome {
            Outcome::Found { object, path: Some(path), via, first } => {
                if *first {
                    lines[*object] = Some(out.len());
                }
                (Some(path.clone()), Some(via.clone()), None)
            }
            // Nothing is opened for these.
            Outcome::Found { path: None, .. } => continue,
            Outcome::Missing { .. } => (None, None, Some("not found".to_owned())),
            Outcome::Malformed { path, defect } => (Some(path.clone()), None, Some(defect.to_string())),
        };
        out.push(Library {
            name: printable(&edge.name).to_string(),
            real: path.as_ref().and_then(|path| search.real(path)),
            path,
            via: via.as_ref().map(Via::to_string),
            by: lines[edge.from],
            dependency: edge.dependency.name(),
            error,
        });
    }
    out
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, "")
    }
}

impl Tree {
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
        // Depth first by whom brought what; a stack, for chains may be long.
        let mut stack: Vec<(usize, String, bool)> = self.children(None, indent);
        while let Some((at, indent, last)) = stack.pop() {
            let library = &self.libraries[at];
            write!(f, "{indent}{} {}", if last { "└──" } else { "├──" }, library.name)?;
            match (&library.path, &library.error) {
                (Some(path), Some(error)) => writeln!(f, " => {}: {error}", printable(path.as_os_str()))?,
                (Some(path), None) => {
                    writeln!(
                        f,
                        " => {} ({})",
                        printable(path.as_os_str()),
                        library.via.as_deref().unwrap_or("")
                    )?;
                }
                (None, _) => writeln!(f, " => not found")?,
            }
            stack.extend(self.children(Some(at), &format!("{indent}{}   ", if last { " " } else { "│" })));
        }
        for interpreter in &self.interpreters {
            write!(f, "{indent}└── ")?;
            interpreter.write(f, &format!("{indent}    "))?;
        }
        Ok(())
    }

    /// The lines that `by` brought in, last first.
    fn children(&self, by: Option<usize>, indent: &str) -> Vec<(usize, String, bool)> {
        let lines = self.libraries.iter().enumerate().filter(|(_, library)| library.by == by).rev();
        lines.enumerate().map(|(order, (at, _))| (at, indent.to_owned(), order == 0)).collect()
    }
}
