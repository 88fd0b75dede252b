//! A small tree to take files from, a spec, and the binary that is asked about both.

#![allow(dead_code, reason = "each test file uses its part of the vocabulary")]

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("JAILMK_BIN").map_or_else(|| env!("CARGO_BIN_EXE_jailmk").into(), PathBuf::from)
}

/// A tree of its own, with a spec beside it, removed at the end.
pub struct Tree {
    base: PathBuf,
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.base);
    }
}

impl Tree {
    pub fn new(name: &str) -> Tree {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let base = std::env::temp_dir().join(format!("jailmk-tree-{name}-{}-{count}", std::process::id()));
        let _ = fs::remove_dir_all(&base);
        fs::create_dir_all(base.join("root")).unwrap();
        Tree { base: fs::canonicalize(base).unwrap() }
    }

    pub fn root(&self) -> PathBuf {
        self.base.join("root")
    }

    /// A file; executable where it lies in a `bin`.
    pub fn file(&self, path: impl AsRef<OsStr>, content: impl AsRef<[u8]>) -> &Tree {
        let path = self.root().join(Path::new(path.as_ref()));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let mode = if path.parent().unwrap().ends_with("bin") { 0o755 } else { 0o644 };
        fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        self
    }

    pub fn link(&self, path: &str, target: &str) -> &Tree {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }

    /// dpkg's database: name, fields of the status file, paths.
    pub fn dpkg(&self, packages: &[(&str, &str, &str)]) -> &Tree {
        let mut status = String::new();
        for (name, fields, paths) in packages {
            let state = if fields.contains("Status:") { "" } else { "Status: install ok installed\n" };
            status += &format!("Package: {name}\n{state}{fields}\n\n");
            let list: String = paths.split_whitespace().map(|path| format!("{path}\n")).collect();
            self.file(format!("var/lib/dpkg/info/{name}.list"), format!("/.\n{list}"));
        }
        self.file("var/lib/dpkg/status", status)
    }

    /// The spec, written as spec.toml.
    pub fn spec(&self, text: &str) -> PathBuf {
        let path = self.base.join("spec.toml");
        fs::write(&path, text).unwrap();
        path
    }

    /// `jailmk COMMAND --trust-spec spec.toml --from ROOT ARGUMENTS…`
    pub fn run(&self, command: &str, arguments: &[impl AsRef<OsStr>]) -> Output {
        Command::new(binary())
            .args([command, "--trust-spec"])
            .arg(self.base.join("spec.toml"))
            .arg("--from")
            .arg(self.root())
            .args(arguments)
            .env_clear()
            .env("HOME", &self.base)
            .stdin(Stdio::null())
            .output()
            .expect("the binary runs")
    }

    /// The lock that a build would write.
    pub fn lock(&self, spec: &str) -> Output {
        self.spec(spec);
        let output = self.base.join("output");
        self.run("build", &[OsStr::new("--dry-run"), "--output".as_ref(), output.as_ref()])
    }

    /// The paths of that lock, without directories.
    pub fn paths(&self, spec: &str) -> Vec<String> {
        let output = self.lock(spec);
        assert!(output.status.success(), "{}", error(&output));
        let lines = text(&output).lines().map(str::to_owned).collect::<Vec<_>>();
        let wanted = lines.iter().filter(|line| line.starts_with(['f', 'l']));
        wanted.map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect()
    }

    /// The last lines of a failed build.
    pub fn failure(&self, spec: &str) -> String {
        let output = self.lock(spec);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        error(&output)
    }
}

pub fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("the output is UTF-8")
}

pub fn error(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

/// Nothing that a terminal would obey.
pub fn is_harmless(bytes: &[u8]) -> bool {
    let text = String::from_utf8(bytes.to_owned());
    text.is_ok_and(|text| text.chars().all(|c| !c.is_control() || c == '\n'))
}

/// A name that would steer a terminal, forge a line, and is no UTF-8.
pub fn hostile_name() -> &'static OsStr {
    OsStr::from_bytes(b"a\x1b[2J\nforged \xc2\x9b1m\xff\\x")
}
