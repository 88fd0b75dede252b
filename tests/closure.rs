//! The closure against the loaders of this machine: what we find by reading, they must load. Every ELF
//! program and library under /usr is compared.
//!
//! Left out is what no loader can be asked about, each for a reason that is checked for each file:
//!
//! - Files that are neither ET_EXEC nor ET_DYN (objects, kernel modules): nothing loads them.
//! - Files for another word size or machine than the loader's.
//! - Static programs, with neither `PT_INTERP` nor `DT_NEEDED`: the loader of glibc 2.36 crashes when it is
//!   told to load one (BZ 28648). Another parser (goblin) must say the same of the file.
//! - Files that this user may not read.
//!
//! A file that the loader refuses (debug information split off) must be refused by us, too; where a library
//! is missing, both must miss the same names. Programs of musl are compared with its loader.
//!
//! Both sides are compared as sets of files and of missing names, for the loader prints a file once,
//! whatever names it was asked for by, and itself by another path; see `differences`.

mod oracle;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use jailmk::closure::root::SourceRoot;
use jailmk::closure::search::{Search, SearchError};

use oracle::{differences, ours, skip, trace};

const GLIBC: &str = "/lib64/ld-linux-x86-64.so.2";
const MUSL: &str = "/lib/ld-musl-x86_64.so.1";

/// Every ELF file below a directory, hard links once; names in `directory` may be links elsewhere.
fn elf_files(directory: &str) -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for entry in walkdir::WalkDir::new(directory).into_iter().flatten() {
        let Ok(real) = std::fs::canonicalize(entry.path()) else { continue };
        let Ok(status) = std::fs::metadata(&real) else { continue };
        if !status.is_file() || !seen.insert((status.dev(), status.ino())) {
            continue;
        }
        let mut magic = [0; 4];
        let read = std::fs::File::open(&real).and_then(|mut file| file.read_exact(&mut magic));
        if read.is_ok() && magic == *b"\x7fELF" {
            files.push(real);
        }
    }
    files
}

/// What became of one file.
enum Verdict {
    Agree(&'static str),
    LeftOut(&'static str),
    Disagree(String),
}

fn compare(search: &mut Search<'_>, real: &Path) -> Verdict {
    let mut head = [0; 20];
    if std::fs::File::open(real).and_then(|mut file| file.read_exact(&mut head)).is_err() {
        return Verdict::LeftOut("not readable");
    }
    // EI_CLASS, EI_DATA, e_machine: 64 bit, least significant byte first, x86-64.
    if (head[4], head[5], head[18], head[19]) != (2, 1, 62, 0) {
        return Verdict::LeftOut("for another machine");
    }
    let resolution = search.resolve(real, &[]);
    if !matches!(head[16], 2 | 3) {
        return match resolution {
            Err(SearchError::Malformed(_)) => Verdict::LeftOut("neither program nor library"),
            _ => Verdict::Disagree("we take for a program what is none".to_owned()),
        };
    }
    let resolution = match resolution {
        Ok(resolution) => Some(resolution),
        Err(SearchError::Malformed(_)) => None,
        Err(error) => return Verdict::Disagree(error.to_string()),
    };
    if let Some(resolution) = resolution.as_ref().filter(|resolution| resolution.loader.is_none()) {
        return if resolution.objects[0].object.split_debug {
            refused(real)
        } else if is_static(real) {
            Verdict::LeftOut("static")
        } else {
            Verdict::Disagree("we take it for static".to_owned())
        };
    }
    let Some(resolution) = resolution else { return refused(real) };
    let loader = resolution.loader.as_ref().map(|loader| loader.path.clone()).unwrap_or_default();
    if loader == Path::new(MUSL) {
        return compare_musl(real, &resolution);
    }
    if loader != Path::new(GLIBC) {
        return Verdict::Disagree(format!("nobody knows its loader {}", loader.display()));
    }
    let traced = trace(&loader, real, Path::new("/"));
    let versions = resolution.mismatches.iter().map(|m| m.version.to_string_lossy().into_owned());
    if versions.collect::<BTreeSet<_>>() != traced.missing_versions {
        return Verdict::Disagree(format!("versions: {:?}", traced.missing_versions));
    }
    match (&traced.answers, ours(&resolution)) {
        (Some(loader), Some(ours)) => match differences(loader, &ours) {
            differences if differences.is_empty() => Verdict::Agree("loaded"),
            differences => Verdict::Disagree(differences.join("; ")),
        },
        (None, None) => Verdict::Agree("refused"),
        (None, Some(_)) => Verdict::Disagree(format!("only the loader refuses it: {}", traced.complaint)),
        (Some(_), None) => Verdict::Disagree("only we refuse it".to_owned()),
    }
}

/// What we refuse the loader must refuse.
fn refused(real: &Path) -> Verdict {
    match trace(Path::new(GLIBC), real, Path::new("/")).answers {
        None => Verdict::Agree("refused"),
        Some(_) => Verdict::Disagree("only we refuse it".to_owned()),
    }
}

fn compare_musl(real: &Path, resolution: &jailmk::closure::search::Resolution) -> Verdict {
    let output = Command::new(MUSL).arg("--list").arg(real).env_clear().current_dir("/").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let path = |line: &str| std::fs::canonicalize(line.split_once(" => ")?.1.rsplit_once(" (")?.0).ok();
    let own = std::fs::canonicalize(MUSL).ok();
    let mut loader: BTreeSet<PathBuf> = text.lines().filter_map(path).collect();
    loader.extend(own.clone());
    let ours = ours(resolution)
        .map(|answers| answers.values().flatten().cloned().chain(own).collect::<BTreeSet<_>>());
    if ours.as_ref() == Some(&loader) { Verdict::Agree("loaded by musl") } else { Verdict::Disagree(text) }
}

/// Another parser's word: no interpreter, and no library asked for.
fn is_static(real: &Path) -> bool {
    let bytes = std::fs::read(real).unwrap();
    goblin::elf::Elf::parse(&bytes).is_ok_and(|elf| elf.interpreter.is_none() && elf.libraries.is_empty())
}

/// Compares every file on all processors; gives how many were compared or left out, by kind.
fn compare_all(files: &[PathBuf]) -> BTreeMap<&'static str, usize> {
    let next = Mutex::new(files.iter());
    let counts = Mutex::new(BTreeMap::new());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        // The loader's runs wait for each other's page tables more than for a processor.
        let threads = 2 * std::thread::available_parallelism().map_or(1, |count| count.get());
        for _ in 0..threads {
            scope.spawn(|| {
                let root = SourceRoot::host().unwrap();
                let mut search = Search::new(&root, None);
                loop {
                    let Some(file) = next.lock().unwrap().next() else { break };
                    match compare(&mut search, file) {
                        Verdict::Agree(what) | Verdict::LeftOut(what) => {
                            *counts.lock().unwrap().entry(what).or_default() += 1;
                        }
                        Verdict::Disagree(how) => {
                            wrong.lock().unwrap().push(format!("{}: {how}", file.display()));
                        }
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), files.len(), wrong.join("\n"));
    counts.into_inner().unwrap()
}

#[test]
fn every_elf_file_of_usr_loads_what_we_find() {
    if !Path::new(GLIBC).exists() {
        return skip("no glibc loader for x86-64");
    }
    let files = elf_files("/usr");
    let counts = compare_all(&files);
    println!("{counts:?}");
    // A Debian that can build jailmk has hundreds of programs.
    assert!(counts.get("loaded").is_some_and(|count| *count > 200), "{counts:?}");
}

/// Other trees on request: `JAILMK_CORPUS=/opt:/root cargo test --test closure corpus -- --nocapture`.
#[test]
fn every_elf_file_of_a_corpus_loads_what_we_find() {
    let Ok(corpus) = std::env::var("JAILMK_CORPUS") else { return };
    for directory in corpus.split(':') {
        println!("{directory}: {:?}", compare_all(&elf_files(directory)));
    }
}
