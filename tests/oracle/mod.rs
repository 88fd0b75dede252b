//! The loader of this machine as the judge of what we find.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jailmk::closure::search::{Dependency, Environment, Outcome, Resolution};

/// The name asked for → every file that may answer; none for "not found".
pub type Answers = BTreeMap<OsString, BTreeSet<PathBuf>>;

pub fn skip(what: &str) {
    assert!(std::env::var_os("JAILMK_MUST_RUN").is_none(), "cannot run: {what}");
    println!("skipped: {what}");
}

/// What a loader says of one program.
pub struct Traced {
    /// What it loads; `None` where it stops with an error.
    pub answers: Option<Answers>,
    /// Symbol versions that are needed and not there.
    pub missing_versions: BTreeSet<String>,
    /// Its own words.
    pub complaint: String,
}

impl Traced {
    fn of(output: &Output, directory: &Path) -> Traced {
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        Traced {
            answers: answers(output, directory),
            missing_versions: missing_versions(&complaint),
            complaint,
        }
    }
}

/// What the loader says when it is told to load `program`.
pub fn trace(interpreter: &Path, program: &Path, directory: &Path) -> Traced {
    let mut command = Command::new(interpreter);
    command.arg(program).env_clear().env("LD_TRACE_LOADED_OBJECTS", "1").current_dir(directory);
    Traced::of(&command.output().unwrap(), directory)
}

/// The same by executing the program itself, whose loader then only lists.
pub fn trace_by_exec(program: &Path, directory: &Path, environment: &Environment) -> Traced {
    let mut command = Command::new(program);
    command.env_clear().env("LD_TRACE_LOADED_OBJECTS", "1").current_dir(directory);
    let variables = [("LD_LIBRARY_PATH", &environment.library_path), ("LD_PRELOAD", &environment.preload)];
    for (name, value) in variables {
        command.envs(value.as_ref().map(|value| (name, value)));
    }
    Traced::of(&command.output().unwrap(), directory)
}

/// Lines that say `version X not found (required by Y)`: the versions.
fn missing_versions(complaint: &str) -> BTreeSet<String> {
    let version = |line: &str| {
        Some(line.split_once("version `")?.1.split_once("' not found (required by")?.0.to_owned())
    };
    // One that is needed weakly is told, too, and keeps nothing from running.
    complaint.lines().filter(|line| !line.contains("weak version")).filter_map(version).collect()
}

fn answers(output: &Output, directory: &Path) -> Option<Answers> {
    if !output.status.success() {
        return None;
    }
    let mut answers = Answers::new();
    for line in output.stdout.split(|byte| *byte == b'\n') {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"linux-vdso") || line == b"statically linked" {
            continue;
        }
        let split = |line: &[u8], by: &[u8]| {
            let at = line.windows(by.len()).rposition(|window| window == by)?;
            Some((OsString::from_vec(line[..at].to_vec()), line[at + by.len()..].to_vec()))
        };
        let (name, found) = match split(line, b" => ") {
            Some((name, found)) if found == b"not found" => (name, None),
            Some((name, found)) => (name, Some(split(&found, b" (").unwrap().0)),
            None => {
                let name = split(line, b" (").unwrap().0;
                (name.clone(), Some(name))
            }
        };
        let real = found.map(|found| std::fs::canonicalize(directory.join(found)).unwrap());
        answers.entry(name).or_default().extend(real);
    }
    Some(answers)
}

/// What we say, in the same words; `None` where we say that the loader would stop.
pub fn ours(resolution: &Resolution) -> Option<Answers> {
    let mut answers = Answers::new();
    for edge in &resolution.edges {
        // The loader knows nothing of notes, and lists audit libraries nowhere.
        if matches!(edge.dependency, Dependency::Note(_) | Dependency::Audit) {
            continue;
        }
        match &edge.outcome {
            Outcome::Found { path: Some(path), .. } => {
                let real = std::fs::canonicalize(path).unwrap();
                answers.entry(edge.name.to_os_string()).or_default().insert(real);
            }
            Outcome::Found { path: None, .. } | Outcome::LeftOut => {}
            // The loader goes on with a message and lists no such name.
            Outcome::Missing { .. } if edge.dependency == Dependency::Preload => {}
            Outcome::Missing { .. } => {
                answers.entry(edge.name.to_os_string()).or_default();
            }
            Outcome::Malformed { .. } => return None,
        }
    }
    Some(answers)
}

/// Differences of the files and of the missing names. The loader names a file once, whatever names it
/// was asked for by; we may hold files for other processors.
pub fn differences(loader: &Answers, ours: &Answers) -> Vec<String> {
    let mut out = Vec::new();
    let all = |answers: &Answers| answers.values().flatten().cloned().collect::<BTreeSet<_>>();
    let missing = |answers: &Answers| {
        let missing = answers.iter().filter(|(_, paths)| paths.is_empty());
        missing.map(|(name, _)| name.clone()).collect::<BTreeSet<_>>()
    };
    for path in all(loader).difference(&all(ours)) {
        out.push(format!("only the loader finds {}", path.display()));
    }
    let variants: BTreeSet<&PathBuf> = ours.values().filter(|paths| paths.len() > 1).flatten().collect();
    // The loader names itself only where something asks for it.
    let is_loader = |path: &Path| path.to_string_lossy().contains("/ld-linux");
    for path in all(ours).difference(&all(loader)) {
        if variants.contains(path) || is_loader(path) {
            continue;
        }
        out.push(format!("only we find {}", path.display()));
    }
    for name in missing(loader).symmetric_difference(&missing(ours)) {
        out.push(format!("{} is missing for one of us only", name.display()));
    }
    out
}
