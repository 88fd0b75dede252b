//! Small programs and libraries, built with the C compiler for one case, and the loader's word on them.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use jailmk::closure::root::SourceRoot;
use jailmk::closure::search::{Environment, Outcome, Resolution, Search};

use crate::oracle::{differences, ours, skip, trace_by_exec};

/// A directory of objects made for one case.
pub struct Battery {
    pub directory: PathBuf,
}

impl Drop for Battery {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Battery {
    /// An empty directory for a case; `None` where nothing can be built or asked.
    pub fn new(name: &str) -> Option<Battery> {
        let gcc = Command::new("gcc").arg("--version").output().is_ok_and(|output| output.status.success());
        if !Path::new("/lib64/ld-linux-x86-64.so.2").exists() || !gcc {
            skip("gcc and a glibc loader for x86-64 are wanted");
            return None;
        }
        let directory = std::env::temp_dir().join(format!("jailmk-battery-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(&directory).unwrap();
        Some(Battery { directory: std::fs::canonicalize(directory).unwrap() })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    pub fn link(&self, name: &str, needs: &[&str], arguments: &[&str]) -> PathBuf {
        let output = self.path(name);
        let mut compile = Command::new("gcc");
        compile.args(["-nostdlib", "-x", "c", "-", "-x", "none", "-Wl,--no-as-needed"]);
        compile.args(["-Wl,--allow-shlib-undefined", "-Wl,--unresolved-symbols=ignore-all", "-o"]);
        compile.arg(&output);
        for (index, need) in needs.iter().enumerate() {
            // The linker copies a SONAME into DT_NEEDED, so a stand-in of any SONAME gives any need.
            let stub = format!("stubs/{}-{index}.so", name.replace('/', "_"));
            self.link(&stub, &[], &["-shared", "-fPIC", &format!("-Wl,-soname,{need}")]);
            compile.arg(self.directory.join(&stub));
        }
        compile.args(arguments).stdin(std::process::Stdio::piped());
        let mut child = compile.spawn().unwrap();
        let source = "void _start(void) { for (;;); }";
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), source.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{name} does not link");
        output
    }

    /// A library; its SONAME is its file name unless the arguments set another.
    pub fn library(&self, name: &str, needs: &[&str], arguments: &[&str]) -> PathBuf {
        let soname = format!("-Wl,-soname,{}", name.rsplit('/').next().unwrap());
        let mut all = vec!["-shared", "-fPIC"];
        if !arguments.iter().any(|argument| argument.contains("-soname")) && !arguments.contains(&"nameless")
        {
            all.push(&soname);
        }
        all.extend(arguments.iter().filter(|argument| **argument != "nameless"));
        self.link(name, needs, &all)
    }

    pub fn program(&self, needs: &[&str], arguments: &[&str]) -> PathBuf {
        self.link("bin/program", needs, arguments)
    }

    pub fn patch(&self, file: &Path, at: usize, bytes: &[u8]) {
        let mut content = std::fs::read(file).unwrap();
        content[at..at + bytes.len()].copy_from_slice(bytes);
        std::fs::write(file, content).unwrap();
    }

    /// Where the program header of a type begins, the first of them.
    pub fn program_header(&self, file: &Path, kind: u32) -> usize {
        let bytes = std::fs::read(file).unwrap();
        let headers = u64::from_le_bytes(bytes[32..40].try_into().unwrap()) as usize;
        let count = u16::from_le_bytes(bytes[56..58].try_into().unwrap()) as usize;
        let is_wanted = |at: &usize| bytes[*at..*at + 4] == kind.to_le_bytes();
        (0..count).map(|index| headers + index * 56).find(is_wanted).unwrap()
    }

    pub fn resolve(&self, program: &Path) -> Resolution {
        self.resolve_with(program, Environment::default())
    }

    pub fn resolve_with(&self, program: &Path, environment: Environment) -> Resolution {
        let root = SourceRoot::host().unwrap();
        let real = std::fs::canonicalize(program).unwrap();
        let search = Search::new(&root, Some(self.directory.clone()));
        search.with_environment(environment).resolve(&real, &[]).unwrap()
    }

    pub fn found(&self, program: &Path) -> Vec<String> {
        let resolution = self.resolve(program);
        let found = resolution.edges.iter().filter_map(|edge| match &edge.outcome {
            Outcome::Found { path: Some(path), .. } => {
                let directory = std::fs::canonicalize(path.parent()?).unwrap();
                Some(directory.strip_prefix(&self.directory).ok()?.join(path.file_name()?))
            }
            _ => None,
        });
        found.map(|path| path.display().to_string()).collect()
    }
}

pub const fn rpath() -> &'static str {
    "-Wl,--disable-new-dtags"
}

pub const fn runpath() -> &'static str {
    "-Wl,--enable-new-dtags"
}

/// The loader's variables, made when the case's directory is known.
pub type Variables = fn(&Battery) -> Environment;

/// Builds a case and asserts that the loader and we agree on it, and that it `loads`.
pub fn agree(name: &str, loads: bool, build: impl FnOnce(&Battery) -> PathBuf) {
    agree_with(name, loads, |_| Environment::default(), build);
}

/// The same with variables in the program's environment.
pub fn agree_with(name: &str, loads: bool, variables: Variables, build: impl FnOnce(&Battery) -> PathBuf) {
    let Some(battery) = Battery::new(name) else { return };
    let program = build(&battery);
    let environment = variables(&battery);
    let loader = trace_by_exec(&program, &battery.directory, &environment).answers;
    let ours = ours(&battery.resolve_with(&program, environment));
    assert_eq!(loader.is_some(), loads, "the case is not what it says: {loader:?}");
    match (&loader, &ours) {
        (Some(loader), Some(ours)) => {
            let differences = differences(loader, ours);
            assert!(differences.is_empty(), "{differences:#?}\nloader: {loader:#?}\nours: {ours:#?}");
        }
        (None, None) => {}
        _ => panic!("loader: {loader:#?}\nours: {ours:#?}"),
    }
}

/// The linker's option for a path list.
#[macro_export]
macro_rules! rpath_to {
    ($directory:expr) => {
        concat!("-Wl,-rpath,", $directory)
    };
}
