//! Corners of musl's rules, built with its compiler and compared with its own loader.

mod need;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use jailmk::closure::root::SourceRoot;
use jailmk::closure::search::{Dependency, Environment, Outcome, Search};

const LOADER: &str = "/lib/ld-musl-x86_64.so.1";

/// A directory of objects made for one case.
struct Battery(PathBuf);

impl Drop for Battery {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Battery {
    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn link(&self, name: &str, needs: &[&str], arguments: &[&str]) -> PathBuf {
        let output = self.path(name);
        let mut compile = Command::new("musl-gcc");
        compile.args(["-x", "c", "/dev/stdin", "-x", "none", "-Wl,--no-as-needed", "-o"]).arg(&output);
        compile.args(["-Wl,--allow-shlib-undefined", "-Wl,--unresolved-symbols=ignore-all"]);
        for (index, need) in needs.iter().enumerate() {
            // The linker copies a SONAME into DT_NEEDED, so a stand-in of any SONAME gives any need.
            let stub = format!("stubs/{}-{index}.so", name.replace('/', "_"));
            let soname = format!("-Wl,-soname,{need}");
            self.link(&stub, &[], &["-shared", "-fPIC", "-nostdlib", &soname]);
            compile.arg(self.0.join(&stub));
        }
        compile.args(arguments).stdin(std::process::Stdio::piped());
        let mut child = compile.spawn().unwrap();
        let source = if arguments.contains(&"-shared") { "" } else { "int main(void) { return 0; }" };
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), source.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{name} does not link");
        output
    }

    fn library(&self, name: &str, needs: &[&str], arguments: &[&str]) -> PathBuf {
        self.link(name, needs, &[&["-shared", "-fPIC", "-nostdlib"], arguments].concat())
    }

    fn program(&self, needs: &[&str], arguments: &[&str]) -> PathBuf {
        self.link("bin/program", needs, arguments)
    }
}

/// Name → path, links resolved; none for what is not found.
type Answers = BTreeMap<String, Option<PathBuf>>;

/// What the loader lists; the names that it could not load, from its complaints.
fn trace(program: &Path, directory: &Path, environment: &Environment) -> Answers {
    let mut command = Command::new(LOADER);
    command.arg("--list").arg(program).env_clear().current_dir(directory);
    command.envs(environment.library_path.as_ref().map(|list| ("LD_LIBRARY_PATH", list)));
    command.envs(environment.preload.as_ref().map(|list| ("LD_PRELOAD", list)));
    let output = command.output().unwrap();
    let found = |line: &str| {
        let (name, found) = line.trim().split_once(" => ")?;
        let path = std::fs::canonicalize(directory.join(found.rsplit_once(" (")?.0)).unwrap();
        Some((name.to_owned(), Some(path)))
    };
    let missing = |line: &str| {
        let name = line.split_once("Error loading shared library ")?.1.split_once(": ")?.0;
        Some((name.to_owned(), None))
    };
    let (out, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    out.lines().filter_map(found).chain(error.lines().filter_map(missing)).collect()
}

fn ours(program: &Path, directory: &Path, environment: Environment) -> Answers {
    let root = SourceRoot::host().unwrap();
    let mut search = Search::new(&root, Some(directory.to_owned())).with_environment(environment);
    let resolution = search.resolve(&std::fs::canonicalize(program).unwrap(), &[]).unwrap();
    let answer = |edge: &jailmk::closure::search::Edge| {
        let name = edge.name.to_str().unwrap().to_owned();
        match &edge.outcome {
            Outcome::Found { path: Some(path), .. } => {
                Some((name, Some(std::fs::canonicalize(path).unwrap())))
            }
            // musl goes on without a word.
            Outcome::Missing { .. } if edge.dependency == Dependency::Preload => None,
            // What stops musl's search is one more library that cannot be loaded.
            Outcome::Missing { .. } | Outcome::Malformed { .. } => Some((name, None)),
            Outcome::Found { path: None, .. } | Outcome::LeftOut => None,
        }
    };
    resolution.edges.iter().filter_map(answer).collect()
}

/// Builds a case and asserts that musl's loader and we agree on it, and which names are not found.
fn agree(name: &str, missing: &[&str], variables: Variables, build: impl FnOnce(&Battery) -> PathBuf) {
    let compiler = Command::new("musl-gcc").arg("--version").output().is_ok_and(|o| o.status.success());
    if !need::need("musl-gcc and musl's loader", compiler && Path::new(LOADER).exists(), &[]) {
        return;
    }
    let directory = std::env::temp_dir().join(format!("jailmk-musl-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory);
    std::fs::create_dir_all(&directory).unwrap();
    let b = Battery(std::fs::canonicalize(directory).unwrap());
    let program = build(&b);
    let environment = variables(&b.0);
    let paths = |answers: &Answers| -> BTreeSet<PathBuf> {
        let loader = std::fs::canonicalize(LOADER).unwrap();
        answers.values().flatten().filter(|path| **path != loader).cloned().collect()
    };
    let absent = |answers: &Answers| -> BTreeSet<String> {
        answers.iter().filter(|(_, path)| path.is_none()).map(|(name, _)| name.clone()).collect()
    };
    let (loader, ours) = (trace(&program, &b.0, &environment), ours(&program, &b.0, environment));
    assert_eq!(paths(&loader), paths(&ours), "loader: {loader:#?}\nours: {ours:#?}");
    assert_eq!(absent(&loader), absent(&ours), "loader: {loader:#?}\nours: {ours:#?}");
    assert_eq!(absent(&loader), missing.iter().map(|name| (*name).to_owned()).collect());
}

type Variables = fn(&Path) -> Environment;

fn plain(_: &Path) -> Environment {
    Environment::default()
}

#[test]
fn runpath_is_inherited() {
    agree("01", &[], plain, |b| {
        b.library("l/liba.so", &["libb.so"], &[]);
        b.library("l/libb.so", &[], &[]);
        b.program(&["liba.so"], &["-Wl,--enable-new-dtags", "-Wl,-rpath,$ORIGIN/../l"])
    });
}

#[test]
fn the_nearest_requester_is_asked_first() {
    agree("02", &[], plain, |b| {
        b.library("l/liba.so", &["libb.so"], &["-Wl,-rpath,$ORIGIN/../m"]);
        b.library("l/libb.so", &[], &[]);
        b.library("m/libb.so", &[], &[]);
        b.program(&["liba.so"], &["-Wl,-rpath,$ORIGIN/../l"])
    });
}

#[test]
fn a_soname_is_not_looked_at() {
    agree("03", &["libname.so"], plain, |b| {
        b.library("l/libfile.so", &[], &["-Wl,-soname,libname.so"]);
        b.program(&["libfile.so", "libname.so"], &["-Wl,-rpath,$ORIGIN/../l"])
    });
}

#[test]
fn a_library_is_known_by_its_file_name_until_it_has_another() {
    // By path it has no name: the same file is found a second time and then named by its path.
    agree("04", &[], plain, |b| {
        b.library("l/libreal.so", &[], &[]);
        symlink("libreal.so", b.path("l/libalias.so")).unwrap();
        b.library("m/libreal.so", &[], &[]);
        let real = b.0.join("l/libreal.so");
        b.program(
            &[real.to_str().unwrap(), "libalias.so", "libreal.so"],
            &["-Wl,-rpath,$ORIGIN/../l:$ORIGIN/../m"],
        )
    });
}

#[test]
fn a_token_that_is_not_known_voids_the_whole_list() {
    agree("05", &["liba.so"], plain, |b| {
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &["-Wl,-rpath,$ORIGIN/../l:$LIB"])
    });
}

#[test]
fn a_token_ends_where_its_name_ends() {
    agree("06", &[], plain, |b| {
        b.library("binX/liba.so", &[], &[]);
        b.program(&["liba.so"], &["-Wl,-rpath,$ORIGINX:${ORIGIN}/none"])
    });
}

#[test]
fn a_token_in_a_need_is_no_token() {
    agree("07", &["$ORIGIN/../l/liba.so"], plain, |b| {
        b.library("l/liba.so", &[], &[]);
        b.program(&["$ORIGIN/../l/liba.so"], &[])
    });
}

#[test]
fn an_empty_element_is_nothing() {
    agree("08", &["liba.so"], plain, |b| {
        b.library("liba.so", &[], &[]);
        b.program(&["liba.so"], &["-Wl,-rpath,$ORIGIN/none::$ORIGIN/none"])
    });
}

#[test]
fn the_library_path_comes_first_and_a_newline_parts_it() {
    let variables: Variables = |directory| Environment {
        library_path: Some(format!("/none\n{}/e", directory.display()).into()),
        preload: None,
    };
    agree("09", &[], variables, |b| {
        b.library("l/liba.so", &[], &[]);
        b.library("e/liba.so", &[], &[]);
        b.program(&["liba.so"], &["-Wl,-rpath,$ORIGIN/../l"])
    });
}

#[test]
fn what_is_preloaded_is_not_looked_for_along_the_programs_path() {
    let variables: Variables = |directory| Environment {
        library_path: None,
        preload: Some(format!("libp.so {}/p/libq.so", directory.display()).into()),
    };
    agree("10", &[], variables, |b| {
        b.library("l/libp.so", &[], &[]);
        b.library("p/libq.so", &[], &[]);
        b.program(&[], &["-Wl,-rpath,$ORIGIN/../l"])
    });
}

#[test]
fn a_link_to_itself_ends_the_whole_search() {
    agree("11", &["liba.so"], plain, |b| {
        symlink("liba.so", b.path("x/liba.so")).unwrap();
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &["-Wl,-rpath,$ORIGIN/../x:$ORIGIN/../l"])
    });
}

#[test]
fn a_name_that_is_too_long_is_passed_over() {
    agree("12", &[], plain, |b| {
        b.library("l/liba.so", &[], &[]);
        let long = format!("-Wl,-rpath,$ORIGIN/{}:$ORIGIN/../l", "x".repeat(300));
        b.program(&["liba.so"], &[&long])
    });
}

#[test]
fn a_text_file_ends_the_search() {
    agree("13", &["liba.so"], plain, |b| {
        std::fs::write(b.path("x/liba.so"), "/* GNU ld script */\n".repeat(8)).unwrap();
        b.library("l/liba.so", &[], &[]);
        b.program(&["liba.so"], &["-Wl,-rpath,$ORIGIN/../x:$ORIGIN/../l"])
    });
}

#[test]
fn the_loader_has_the_names_of_its_own_libraries() {
    agree("14", &[], plain, |b| {
        b.library("l/libpthread.so.0", &[], &[]);
        b.library("l/libm.so.6", &[], &[]);
        b.program(&["libpthread.so.0", "libm.so.6", "libc.so"], &["-Wl,-rpath,$ORIGIN/../l"])
    });
}

#[test]
fn a_hardware_variant_and_a_filter_are_nothing_to_it() {
    agree("15", &[], plain, |b| {
        b.library("l/glibc-hwcaps/x86-64-v2/liba.so", &[], &[]);
        b.library("l/libaux.so", &[], &[]);
        b.library("l/liba.so", &[], &["-Wl,-f,libaux.so"]);
        b.program(&["liba.so"], &["-Wl,-rpath,$ORIGIN/../l"])
    });
}

#[test]
fn nodeflib_is_nothing_to_it_and_rpath_gives_way_to_runpath() {
    agree("16", &[], plain, |b| {
        b.library("l/liba.so", &["libb.so"], &["-Wl,-z,nodefaultlib", "-Wl,--disable-new-dtags"]);
        b.library("l/libb.so", &[], &[]);
        b.program(&["liba.so"], &["-Wl,--disable-new-dtags", "-Wl,-rpath,$ORIGIN/../l"])
    });
}

#[test]
fn the_origin_of_a_library_is_the_directory_of_its_link() {
    agree("17", &[], plain, |b| {
        b.library("real/liba.so", &["libb.so"], &["-Wl,-rpath,$ORIGIN"]);
        b.library("real/libb.so", &[], &[]);
        b.library("l/libb.so", &[], &[]);
        symlink("../real/liba.so", b.path("l/liba.so")).unwrap();
        b.program(&["liba.so"], &["-Wl,-rpath,$ORIGIN/../l"])
    });
}
