//! The search, in small trees of hand-made objects.

use super::*;
use crate::closure::elf::Defect;
use crate::closure::ldcache::{CacheEntry, write};
use crate::closure::specimen::Specimen;
use crate::path::HostPath;
use goblin::elf::dynamic::{DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME};

struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Tree {
    fn new(name: &str) -> Tree {
        let path = std::env::temp_dir().join(format!("jailmk-search-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Tree(path)
    }

    fn file(&self, path: &str, bytes: &[u8]) -> &Tree {
        let path = self.0.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
        self
    }

    fn library(&self, path: &str, specimen: Specimen) -> &Tree {
        self.file(path, &specimen.bytes())
    }

    fn resolve(&self, path: &str) -> Resolution {
        let root = SourceRoot::open(HostPath::absolute(&self.0).unwrap()).unwrap();
        Search::new(&root, None).resolve(Path::new(path), &[]).unwrap()
    }

    /// Name → path and rule, or what is wrong.
    fn answers(&self, path: &str) -> Vec<String> {
        let resolution = self.resolve(path);
        let edges = resolution.edges.iter().filter(|edge| edge.dependency != Dependency::Interpreter);
        edges
            .map(|edge| match &edge.outcome {
                Outcome::Found { path: Some(path), via, .. } => format!("{} ({via})", path.display()),
                Outcome::Found { path: None, .. } => format!("{} loaded", edge.name.display()),
                Outcome::Missing { .. } => format!("{} missing", edge.name.display()),
                Outcome::Malformed { path, defect } => format!("{}: {defect}", path.display()),
                Outcome::LeftOut => format!("{} left out", edge.name.display()),
            })
            .collect()
    }
}

const MUSL: &str = "/lib/ld-musl-x86_64.so.1";
const GLIBC: &str = "/lib64/ld-linux-x86-64.so.2";

fn program(interpreter: &'static str) -> Specimen {
    Specimen { interpreter: Some(interpreter), ..Specimen::default() }
}

fn library() -> Specimen {
    Specimen::default()
}

#[test]
fn runpath_is_inherited_by_musls_rules_and_not_by_glibcs() {
    let tree = Tree::new("inherit");
    tree.library("lib/ld-musl-x86_64.so.1", library()).library("lib64/ld-linux-x86-64.so.2", library());
    tree.library("o/liba.so", library().with(DT_NEEDED, "libb.so")).library("o/libb.so", library());
    for (name, interpreter) in [("m", MUSL), ("g", GLIBC)] {
        let program = program(interpreter).with(DT_NEEDED, "liba.so").with(DT_RUNPATH, "$ORIGIN/../o");
        tree.library(&format!("bin/{name}"), program);
    }
    assert_eq!(tree.answers("/bin/m")[1], "/bin/../o/libb.so (RUNPATH)");
    assert_eq!(tree.answers("/bin/g")[1], "libb.so missing");
}

#[test]
fn musls_own_library_names_are_its_loader() {
    let tree = Tree::new("reserved");
    tree.library("lib/ld-musl-x86_64.so.1", library());
    tree.library("lib/libpthread.so.0", library());
    tree.library("bin/p", program(MUSL).with(DT_NEEDED, "libc.so").with(DT_NEEDED, "libpthread.so.0"));
    assert_eq!(tree.answers("/bin/p"), ["libc.so loaded", "libpthread.so.0 loaded"]);
}

#[test]
fn musl_does_not_look_at_sonames_and_reads_its_path_file() {
    let tree = Tree::new("musl-path");
    tree.library("lib/ld-musl-x86_64.so.1", library()).file("etc/ld-musl-x86_64.path", b"/none\n/x:/y");
    tree.library("y/liba.so", library().with(DT_SONAME, "libb.so")).library("y/libb.so", library());
    tree.library("bin/p", program(MUSL).with(DT_NEEDED, "liba.so").with(DT_NEEDED, "libb.so"));
    let expected = ["/y/liba.so (default directory)", "/y/libb.so (default directory)"];
    assert_eq!(tree.answers("/bin/p"), expected);
}

#[test]
fn musl_ignores_a_path_with_a_token_that_it_does_not_know() {
    let tree = Tree::new("musl-token");
    tree.library("lib/ld-musl-x86_64.so.1", library()).library("o/liba.so", library());
    tree.library("bin/p", program(MUSL).with(DT_NEEDED, "liba.so").with(DT_RPATH, "/o:/$LIB"));
    assert_eq!(tree.answers("/bin/p"), ["liba.so missing"]);
}

#[test]
fn the_cache_of_the_tree_counts_with_its_hardware_variants() {
    let tree = Tree::new("cache");
    tree.library("lib64/ld-linux-x86-64.so.2", library());
    tree.library("o/liba.so", library()).library("o/v3/liba.so", library());
    let entry = |path: &str, hardware| CacheEntry {
        name: "liba.so".into(),
        path: path.into(),
        flags: 0x0303,
        hardware,
    };
    let v3 = ldcache::Hardware::Named { name: "x86-64-v3".into(), level: 3 };
    let cache = write(&[entry("/o/liba.so", ldcache::Hardware::Baseline), entry("/o/v3/liba.so", v3)]);
    tree.file("etc/ld.so.cache", &cache).library("bin/p", program(GLIBC).with(DT_NEEDED, "liba.so"));
    assert_eq!(tree.answers("/bin/p"), ["/o/liba.so (ld.so.cache)", "/o/v3/liba.so (ld.so.cache)"]);
}

#[test]
fn without_a_cache_the_configured_directories_are_scanned() {
    let tree = Tree::new("scan");
    tree.library("lib64/ld-linux-x86-64.so.2", library());
    tree.file("etc/ld.so.conf", b"include ld.so.conf.d/*.conf\n");
    tree.file("etc/ld.so.conf.d/o.conf", b"/o # here\n");
    tree.library("o/liba.so.1.2", library().with(DT_SONAME, "liba.so.1"));
    tree.library("bin/p", program(GLIBC).with(DT_NEEDED, "liba.so.1"));
    assert_eq!(tree.answers("/bin/p"), ["/o/liba.so.1.2 (ld.so.cache)"]);
}

#[test]
fn a_fifo_on_the_way_is_named_and_not_waited_for() {
    let tree = Tree::new("fifo");
    tree.library("lib64/ld-linux-x86-64.so.2", library());
    tree.library("bin/p", program(GLIBC).with(DT_NEEDED, "liba.so").with(DT_RUNPATH, "/o"));
    std::fs::create_dir_all(tree.0.join("o")).unwrap();
    nix::unistd::mkfifo(&tree.0.join("o/liba.so"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let defect = Defect::NotRegular(crate::closure::root::FileKind::Fifo);
    assert_eq!(tree.answers("/bin/p"), [format!("/o/liba.so: {defect}")]);
}

#[test]
fn a_directory_that_depends_on_the_working_directory_is_left_out_and_named() {
    let tree = Tree::new("relative");
    tree.library("lib64/ld-linux-x86-64.so.2", library()).library("liba.so", library());
    tree.library("bin/p", program(GLIBC).with(DT_NEEDED, "liba.so").with(DT_RUNPATH, ":o"));
    assert_eq!(tree.answers("/bin/p"), ["liba.so missing"]);
    assert_eq!(tree.resolve("/bin/p").relative, [Path::new(""), Path::new("o")]);
}

#[test]
fn an_interpreter_counts_at_its_literal_path_only() {
    let tree = Tree::new("literal");
    tree.library("lib/ld-linux-x86-64.so.2", library()).library("bin/p", program(GLIBC));
    let root = SourceRoot::open(HostPath::absolute(&tree.0).unwrap()).unwrap();
    let error = Search::new(&root, None).resolve(Path::new("/bin/p"), &[]).unwrap_err();
    assert!(matches!(error, SearchError::Interpreter { .. }), "{error}");
}

#[test]
fn a_configuration_that_includes_itself_ends() {
    let tree = Tree::new("include");
    tree.library("lib64/ld-linux-x86-64.so.2", library());
    // Each of eight levels would read it a thousand times.
    let text = format!("/o\n{}", "include ld.so.c*\n".repeat(1000));
    tree.file("etc/ld.so.conf", text.as_bytes());
    tree.library("o/liba.so", library()).library("bin/p", program(GLIBC).with(DT_NEEDED, "liba.so"));
    assert_eq!(tree.answers("/bin/p"), ["/o/liba.so (ld.so.cache)"]);
}

#[test]
fn a_file_of_two_dynamic_tables_one_of_them_empty_is_no_library_for_glibc() {
    let tree = Tree::new("tables");
    tree.library("lib64/ld-linux-x86-64.so.2", library());
    tree.library("bin/p", program(GLIBC).with(DT_NEEDED, "liba.so").with(DT_RUNPATH, "/o"));
    // PT_INTERP, which a library may have, becomes an empty PT_DYNAMIC.
    let mut bytes = program(GLIBC).bytes();
    bytes[64..68].copy_from_slice(&2u32.to_le_bytes());
    bytes[64 + 32..64 + 40].fill(0);
    tree.file("o/liba.so", &bytes);
    assert_eq!(tree.answers("/bin/p"), [format!("/o/liba.so: {}", Defect::NoDynamic)]);
}
