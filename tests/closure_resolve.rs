//! Spec → Closure, on this machine's own tree and on small ones made here.

mod need;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use jailmk::closure::root::SourceRoot;
use jailmk::closure::{Closure, ClosureError, Node, Note, Reason, resolve};
use jailmk::error::Report;
use jailmk::path::{HostPath, JailPath};
use jailmk::spec::{FileRule, Placed, Position, RootfsSpec, Spec};

fn skip(what: &str) {
    need::need(what, false, &[]);
}

fn placed<T>(value: T) -> Placed<T> {
    Placed { value, at: Position { file: Arc::from("spec.toml"), line: 4, column: 15 } }
}

fn spec(rootfs: RootfsSpec) -> Spec {
    Spec { rootfs, ..jailmk::spec::parse("name = 'test'", "spec.toml").unwrap() }
}

fn programs(names: &[&str]) -> RootfsSpec {
    RootfsSpec {
        programs: names.iter().map(|name| placed((*name).to_owned())).collect(),
        ..RootfsSpec::default()
    }
}

fn files(patterns: &[&str]) -> RootfsSpec {
    let rule = |pattern: &&str| FileRule::Glob { pattern: (*pattern).to_owned(), optional: false };
    RootfsSpec { files: patterns.iter().map(rule).map(placed).collect(), ..RootfsSpec::default() }
}

fn closure(rootfs: RootfsSpec, root: &SourceRoot) -> Result<Closure, ClosureError> {
    let closure = resolve(&spec(rootfs), root)?;
    for path in closure.entries.keys().filter(|path| **path != JailPath::root()) {
        let parent = closure.entries.get(&path.parent().unwrap());
        assert!(parent.is_some_and(|parent| parent.node == Node::Directory), "parent of {path}");
    }
    Ok(closure)
}

fn node<'a>(closure: &'a Closure, path: &str) -> Option<&'a Node> {
    closure.entries.get(&JailPath::new(path).unwrap()).map(|entry| &entry.node)
}

/// A tree of its own, removed at the end.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Tree {
    fn new(name: &str) -> Tree {
        let path = std::env::temp_dir().join(format!("jailmk-resolve-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Tree(std::fs::canonicalize(path).unwrap())
    }

    fn root(&self) -> SourceRoot {
        SourceRoot::open(HostPath::absolute(&self.0).unwrap()).unwrap()
    }

    fn file(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> &Tree {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        self
    }

    fn link(&self, path: &str, target: &str) -> &Tree {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(target, path).unwrap();
        self
    }
}

/// Writes a closure out, plainly: the test's own stand-in for the next stage.
fn write(closure: &Closure, to: &Path) {
    for (path, entry) in &closure.entries {
        let place = to.join(path.relative());
        match &entry.node {
            Node::Directory => std::fs::create_dir_all(place).unwrap(),
            Node::Symlink(target) => symlink(target, place).unwrap(),
            Node::File { origin, mode } => {
                std::fs::copy(origin, &place).unwrap();
                std::fs::set_permissions(place, PermissionsExt::from_mode(*mode)).unwrap();
            }
            Node::Content { bytes, mode } => {
                std::fs::write(&place, bytes).unwrap();
                std::fs::set_permissions(place, PermissionsExt::from_mode(*mode)).unwrap();
            }
        }
    }
}

#[test]
fn what_the_closure_holds_runs_in_a_root_of_its_own() {
    let root = SourceRoot::host().unwrap();
    let names = ["bash", "/usr/bin/env", "ls", "ldconfig"];
    let Ok(closure) = closure(programs(&names), &root) else { return skip("bash, env, ls, ldconfig") };
    let tree = Tree::new("run");
    write(&closure, &tree.0);
    if !need::need_root() {
        return;
    }
    let run = |command: &str| {
        Command::new("/usr/sbin/chroot").arg(&tree.0).args(["/bin/bash", "-c", command]).env_clear().output()
    };
    let output = run("/usr/bin/env && ls / && ldconfig -p").unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("libc.so.6 (libc6") && text.contains("jailmk"), "{text}");
}

#[test]
fn a_program_brings_its_loader_and_every_link_on_the_way() {
    let root = SourceRoot::host().unwrap();
    let Ok(closure) = closure(programs(&["sh"]), &root) else { return skip("sh") };
    if let Ok(target) = std::fs::read_link("/lib64") {
        assert_eq!(node(&closure, "/lib64"), Some(&Node::Symlink(target)));
    }
    let loader = std::fs::canonicalize("/lib64/ld-linux-x86-64.so.2").unwrap();
    assert!(matches!(node(&closure, loader.to_str().unwrap()), Some(Node::File { .. })));
    assert!(matches!(node(&closure, "/etc/ld.so.cache"), Some(Node::Content { .. })));
    let writable = closure.entries.values().any(
        |entry| matches!(&entry.node, Node::File { mode, .. } | Node::Content { mode, .. } if mode & 0o7222 != 0),
    );
    assert!(!writable, "no file is writable or setuid");
}

#[test]
fn a_mistyped_program_is_named_with_its_place_and_the_nearest_name() {
    let tree = Tree::new("mistyped");
    tree.file("usr/bin/python3", "#!/nothing\n", 0o755);
    let error = closure(programs(&["pyhton3"]), &tree.root()).unwrap_err();
    let report = Report(&error).to_string();
    assert!(report.contains("cannot find program `pyhton3` (spec.toml:4:15)"), "{report}");
    assert!(report.contains("`python3`"), "{report}");
}

#[test]
fn a_script_brings_its_interpreter_and_the_program_behind_env() {
    let tree = Tree::new("script");
    // Without a header these are files like any other.
    tree.file("usr/bin/env", "", 0o755).file("usr/bin/tool-1", "", 0o755).link("usr/bin/tool", "tool-1");
    tree.file("usr/bin/run", "#!/bin/env -S tool -x\n", 0o755).link("bin", "usr/bin");
    let closure = closure(programs(&["run"]), &tree.root()).unwrap();
    for path in ["/bin", "/usr/bin/env", "/usr/bin/tool", "/usr/bin/tool-1"] {
        assert!(node(&closure, path).is_some(), "{path} in {:?}", closure.entries.keys());
    }
}

#[test]
fn a_missing_interpreter_is_an_error_for_a_program_and_a_note_for_a_file() {
    let tree = Tree::new("interpreter");
    tree.file("usr/bin/run", "#!/opt/none\n", 0o755);
    let error = closure(programs(&["run"]), &tree.root()).unwrap_err();
    assert!(matches!(error, ClosureError::InterpreterNotFound { .. }), "{error}");
    let closure = closure(files(&["/usr/bin/*"]), &tree.root()).unwrap();
    assert!(matches!(closure.notes.as_slice(), [Note::MissingInterpreter { .. }]), "{:?}", closure.notes);
}

#[test]
fn a_module_whose_interpreter_is_missing_is_no_news() {
    let tree = Tree::new("module");
    tree.file("usr/lib/python3/cgi.py", "#!/usr/local/bin/python\n", 0o755);
    tree.file("usr/share/x/y", "#!/usr/bin/env none\n", 0o755).file("usr/bin/env", "", 0o755);
    let found = closure(files(&["/usr/lib/**", "/usr/share/**"]), &tree.root()).unwrap();
    assert_eq!(found.notes, [], "{:?}", found.notes);
    let error = closure(programs(&["/usr/lib/python3/cgi.py"]), &tree.root()).unwrap_err();
    assert!(matches!(error, ClosureError::InterpreterNotFound { .. }), "{error}");
}

#[test]
fn scripts_that_interpret_each_other_end() {
    let tree = Tree::new("nested");
    tree.file("usr/bin/loop", "#!/usr/bin/loop\n", 0o755);
    let error = closure(programs(&["loop"]), &tree.root()).unwrap_err();
    assert!(matches!(error, ClosureError::Script { .. }), "{error}");
}

#[test]
fn a_glob_takes_what_matches_and_leaves_out_what_is_excluded() {
    let tree = Tree::new("glob");
    for path in ["lib/p3/a.py", "lib/p3/test/b.py", "lib/p3/x/__pycache__/c", "lib/q/d.py"] {
        tree.file(&format!("usr/{path}"), "", 0o644);
    }
    let mut rootfs = files(&["/usr/lib/p*/**"]);
    rootfs.exclude = vec![placed("**/__pycache__/**".into()), placed("/usr/lib/p3/test/**".into())];
    let closure = closure(rootfs, &tree.root()).unwrap();
    assert!(node(&closure, "/usr/lib/p3/a.py").is_some());
    for path in ["/usr/lib/p3/test/b.py", "/usr/lib/p3/x/__pycache__/c", "/usr/lib/q"] {
        assert!(node(&closure, path).is_none(), "{path}");
    }
}

#[test]
fn a_star_does_not_cross_a_slash_and_a_plain_directory_means_all_of_it() {
    let tree = Tree::new("star");
    tree.file("etc/a/b", "", 0o644).file("etc/c", "", 0o644);
    let found = closure(files(&["/etc/*"]), &tree.root()).unwrap();
    assert!(node(&found, "/etc/c").is_some() && node(&found, "/etc/a/b").is_none());
    let found = closure(files(&["/etc/"]), &tree.root()).unwrap();
    assert!(node(&found, "/etc/a/b").is_some());
}

#[test]
fn a_link_that_is_copied_brings_its_target() {
    let tree = Tree::new("target");
    tree.link("etc/ssl/ca.pem", "/usr/share/ca/one").link("usr/share/ca/one", "two");
    tree.file("usr/share/ca/two", "", 0o644).link("etc/ssl/gone", "/nowhere");
    let closure = closure(files(&["/etc/ssl/**"]), &tree.root()).unwrap();
    assert!(matches!(node(&closure, "/usr/share/ca/two"), Some(Node::File { .. })));
    assert!(matches!(closure.notes.as_slice(), [Note::DanglingSymlink { .. }]), "{:?}", closure.notes);
}

#[test]
fn a_link_to_what_is_excluded_is_left_out_too() {
    let tree = Tree::new("excluded-target");
    tree.file("etc/ssl/host.pem", "", 0o644)
        .link("etc/ssl/1234.0", "host.pem")
        .link("etc/ssl/5678.0", "1234.0");
    let mut rootfs = files(&["/etc/ssl/**"]);
    rootfs.exclude = vec![placed("/etc/ssl/host.pem".into())];
    let closure = closure(rootfs, &tree.root()).unwrap();
    assert!(
        ["host.pem", "1234.0", "5678.0"].iter().all(|n| node(&closure, &format!("/etc/ssl/{n}")).is_none())
    );
    assert_eq!(closure.notes, []);
}

#[test]
fn nothing_is_copied_from_proc_through_a_link() {
    let tree = Tree::new("proc");
    tree.link("etc/mtab", "../proc/mounts").file("proc/mounts", "secret", 0o644);
    let closure = closure(files(&["/etc/*"]), &tree.root()).unwrap();
    assert!(node(&closure, "/etc/mtab").is_some() && node(&closure, "/proc").is_none());
}

#[test]
fn two_contents_for_one_place_are_an_error_and_equal_ones_are_not() {
    let tree = Tree::new("conflict");
    let content = |text: &str| {
        placed(FileRule::Content { content: text.into(), to: JailPath::new("/etc/x").unwrap(), mode: None })
    };
    let with = |one: &str, two: &str| RootfsSpec {
        files: vec![content(one), content(two)],
        ..RootfsSpec::default()
    };
    assert!(closure(with("a", "a"), &tree.root()).is_ok());
    let error = closure(with("a", "b"), &tree.root()).unwrap_err();
    assert!(matches!(error, ClosureError::Conflict { .. }), "{error}");
}

#[test]
fn a_place_below_a_merged_directory_is_where_its_link_leads() {
    let tree = Tree::new("merged");
    tree.link("lib", "usr/lib").file("usr/lib/a", "", 0o644);
    let content = FileRule::Content { content: "x".into(), to: JailPath::new("/lib/b").unwrap(), mode: None };
    let rootfs = RootfsSpec { files: vec![placed(content)], ..RootfsSpec::default() };
    let closure = closure(rootfs, &tree.root()).unwrap();
    assert!(node(&closure, "/usr/lib/b").is_some());
    assert_eq!(node(&closure, "/lib"), Some(&Node::Symlink("usr/lib".into())));
}

#[test]
fn a_copied_tree_goes_elsewhere_with_its_links() {
    let tree = Tree::new("copy");
    tree.file("opt/app/bin/x", "", 0o4755).link("opt/app/y", "bin/x");
    let copy = FileRule::Copy {
        from: "/opt/app".into(),
        to: JailPath::new("/app").unwrap(),
        mode: None,
        optional: false,
    };
    let rootfs = RootfsSpec { files: vec![placed(copy)], ..RootfsSpec::default() };
    let closure = closure(rootfs, &tree.root()).unwrap();
    assert!(matches!(node(&closure, "/app/bin/x"), Some(Node::File { mode: 0o555, .. })));
    assert_eq!(node(&closure, "/app/y"), Some(&Node::Symlink("bin/x".into())));
    assert!(node(&closure, "/opt").is_none());
    assert!(matches!(closure.notes.as_slice(), [Note::SpecialBitsDropped { .. }]), "{:?}", closure.notes);
}

#[test]
fn a_package_brings_its_files_by_either_spelling() {
    let tree = Tree::new("package");
    tree.file("var/lib/dpkg/info/tool:amd64.list", "/.\n/bin\n/bin/tool\n/usr/share/doc/tool\n", 0o644);
    tree.file("usr/bin/tool", "", 0o755);
    let rootfs = |name: &str| RootfsSpec { packages: vec![placed(name.into())], ..RootfsSpec::default() };
    let found = closure(rootfs("tool"), &tree.root()).unwrap();
    assert!(node(&found, "/usr/bin/tool").is_some());
    assert!(
        matches!(found.notes.as_slice(), [Note::PackageFilesMissing { count: 1, .. }]),
        "{:?}",
        found.notes
    );
    let error = closure(rootfs("toll"), &tree.root()).unwrap_err();
    assert!(Report(&error).to_string().contains("did you mean `tool`"), "{}", Report(&error));
    let error = closure(rootfs("tool"), &Tree::new("no-packages").root()).unwrap_err();
    assert!(matches!(error, ClosureError::NoPackageDatabase { .. }), "{error}");
}

#[test]
fn a_library_is_looked_up_as_dlopen_would() {
    let root = SourceRoot::host().unwrap();
    let rootfs = |name: &str| RootfsSpec { libraries: vec![placed(name.into())], ..RootfsSpec::default() };
    let Ok(found) = closure(rootfs("libm.so.6"), &root) else { return skip("libm.so.6") };
    let library = found.entries.iter().find(|(path, _)| path.as_path().ends_with("libm.so.6"));
    let expected = Reason::Spec { key: "libraries", value: "libm.so.6".into() };
    assert_eq!(library.map(|(_, entry)| &entry.reason), Some(&expected));
    assert!(found.entries.keys().any(|path| path.as_path().ends_with("libc.so.6")));
    let error = closure(rootfs("libnone.so.1"), &root).unwrap_err();
    assert!(matches!(error, ClosureError::LibraryNotFound { .. }), "{error}");
}

#[test]
fn a_missing_library_of_a_program_is_an_error_that_says_who_and_where() {
    let tree = Tree::new("library");
    let source = "int main(void) { return 0; }";
    tree.file("m.c", source, 0o644);
    let at = |name: &str| tree.0.join(name);
    let compile = |arguments: &[&str]| {
        let mut compile = Command::new("gcc");
        compile.current_dir(&tree.0).args(arguments).status().is_ok_and(|status| status.success())
    };
    if !compile(&["-shared", "-xc", "/dev/null", "-Wl,-soname,libgone.so", "-o", "libgone.so"]) {
        return skip("gcc");
    }
    assert!(compile(&["m.c", "-Wl,--no-as-needed", "libgone.so", "-Wl,-rpath,/opt/none", "-o", "m"]));
    std::fs::remove_file(at("libgone.so")).unwrap();
    let host = SourceRoot::host().unwrap();
    let error = closure(programs(&[at("m").to_str().unwrap()]), &host).unwrap_err();
    let report = Report(&error).to_string();
    assert!(report.contains("libgone.so") && report.contains("/opt/none"), "{report}");
    let found = closure(files(&[at("m").to_str().unwrap()]), &host).unwrap();
    assert!(found.notes.iter().any(|note| matches!(note, Note::MissingLibrary { .. })), "{:?}", found.notes);
}

/// Java's libraries need libjvm.so, which no search finds: the launcher opens it by its path before.
#[test]
fn a_library_that_came_along_below_the_one_that_needs_it_is_not_missing() {
    let tree = Tree::new("below");
    let at = |name: &str| tree.0.join(name).to_str().expect("a UTF-8 path").to_owned();
    let compile = |name: &str, needed: &[&str]| {
        let soname = format!("-Wl,-soname,{}", Path::new(name).file_name().unwrap().to_str().unwrap());
        let needed = needed.iter().map(|name| at(name));
        let arguments =
            ["-nostdlib", "-shared", "-xc", "/dev/null", "-xnone", "-Wl,--no-as-needed", &soname, "-o"];
        let mut compile = Command::new("gcc");
        compile.args(arguments).arg(at(name)).args(needed).status().is_ok_and(|status| status.success())
    };
    tree.file("java/lib/server/x", "", 0o644).file("other/x", "", 0o644);
    if !compile("java/lib/server/libvm.so", &[]) {
        return skip("gcc");
    }
    assert!(compile("java/lib/libzip.so", &["java/lib/server/libvm.so"]));
    assert!(compile("other/libother.so", &["java/lib/server/libvm.so"]));
    let patterns = [at("java/**"), at("other/**")];
    let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
    let found = closure(files(&patterns), &SourceRoot::host().unwrap()).unwrap();
    let by = JailPath::new(at("other/libother.so")).unwrap();
    let missing = Note::MissingLibrary { by, name: "libvm.so".into() };
    assert_eq!(found.notes, [missing], "of another tree it is missing");
}

/// Debian's Java for machines without a screen only recommends what its fonts need.
#[test]
fn a_plug_in_of_the_distribution_may_miss_its_library() {
    let tree = Tree::new("plug-in");
    let loader = match std::env::consts::ARCH {
        "x86_64" => "lib64/ld-linux-x86-64.so.2",
        _ => "lib/ld-linux-aarch64.so.1",
    };
    let Ok(bytes) = std::fs::read(Path::new("/").join(loader)) else { return skip(loader) };
    tree.file("usr/lib/java/x", "", 0o644).file("opt/java/x", "", 0o644).file(loader, bytes, 0o755);
    let library = tree.0.join("libgone.so");
    for path in [&library, &tree.0.join("usr/lib/java/libfont.so"), &tree.0.join("opt/java/libfont.so")] {
        let mut compile = Command::new("gcc");
        compile
            .args(["-nostdlib", "-shared", "-xc", "/dev/null", "-xnone", "-Wl,--no-as-needed", "-o"])
            .arg(path);
        if *path != library {
            compile.arg(&library);
        }
        if !compile.status().is_ok_and(|status| status.success()) {
            return skip("gcc");
        }
    }
    std::fs::remove_file(&library).unwrap();
    let notes = |pattern: &str| closure(files(&[pattern]), &tree.root()).unwrap().notes;
    assert!(
        matches!(notes("/opt/java/*").as_slice(), [Note::MissingLibrary { .. }]),
        "{:?}",
        notes("/opt/java/*")
    );
    assert_eq!(notes("/usr/lib/java/*"), []);
}
