//! The closure against the loader of this machine: what we find by reading, it must load.

mod oracle;

use std::collections::BTreeSet;
use std::path::Path;

use jailmk::closure::root::SourceRoot;
use jailmk::closure::search::{Search, SearchError};

use oracle::{differences, ours, skip, trace};

/// Compares every ELF file of a directory, down to `depth`; gives how many were compared.
fn compare_directory(directory: &str, depth: usize, wanted: impl Fn(&Path) -> bool) -> usize {
    let root = SourceRoot::host().unwrap();
    let mut search = Search::new(&root, None);
    let mut compared = 0;
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    let interpreter = Path::new("/lib64/ld-linux-x86-64.so.2");
    for entry in walkdir::WalkDir::new(directory).min_depth(1).max_depth(depth).into_iter().flatten() {
        let path = entry.into_path();
        let Ok(real) = std::fs::canonicalize(&path) else { continue };
        if !wanted(&path) || !real.is_file() || !seen.insert(real.clone()) {
            continue;
        }
        let resolution = match search.resolve(&real, &[]) {
            Ok(resolution) if resolution.loader.is_some() => resolution,
            Ok(_) | Err(SearchError::Malformed(_)) => continue,
            // For an architecture without a loader here.
            Err(SearchError::NoLoader) => continue,
            Err(error) => {
                println!("{}: {error}", real.display());
                continue;
            }
        };
        if resolution.loader.as_ref().unwrap().path != interpreter {
            continue;
        }
        compared += 1;
        match (trace(interpreter, &real, Path::new("/")), ours(&resolution)) {
            (Some(loader), Some(ours)) => {
                for difference in differences(&loader, &ours) {
                    wrong.push(format!("{}: {difference}", real.display()));
                }
            }
            (None, None) => {}
            (loader, ours) => wrong.push(format!(
                "{}: loads for the loader: {}, for us: {}",
                real.display(),
                loader.is_some(),
                ours.is_some()
            )),
        }
    }
    assert!(wrong.is_empty(), "{} of {compared}:\n{}", wrong.len(), wrong.join("\n"));
    compared
}

#[test]
fn every_program_of_usr_bin_loads_what_we_find() {
    if !Path::new("/lib64/ld-linux-x86-64.so.2").exists() {
        return skip("no glibc loader for x86-64");
    }
    let compared = compare_directory("/usr/bin", 1, |_| true);
    println!("{compared} programs agree");
    assert!(compared > 0);
}

#[test]
fn every_library_of_the_multiarch_directory_loads_what_we_find() {
    let directory = "/usr/lib/x86_64-linux-gnu";
    if !Path::new("/lib64/ld-linux-x86-64.so.2").exists() || !Path::new(directory).exists() {
        return skip("no Debian glibc for x86-64");
    }
    let is_library = |path: &Path| path.to_string_lossy().contains(".so");
    println!("{} libraries agree", compare_directory(directory, 1, is_library));
}

/// A longer run on request: `JAILMK_CORPUS=/usr:/opt cargo test --test closure corpus -- --nocapture`.
#[test]
fn every_elf_file_of_a_corpus_loads_what_we_find() {
    let Ok(corpus) = std::env::var("JAILMK_CORPUS") else { return };
    for directory in corpus.split(':') {
        println!("{directory}: {} files agree", compare_directory(directory, usize::MAX, |_| true));
    }
}
