//! Jails from another root than `/`, through the binary: programs of that tree run, its absolute links stay
//! in it, and nothing of the host gets in by mistake.

mod jail;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use jail::{Jail, Place, need};

/// A tree in a place of its own.
struct Tree(Place);

impl Tree {
    fn new() -> Tree {
        Tree(Place::new())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn copy(&self, from: impl AsRef<Path>, to: &str) {
        let to = self.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, to).unwrap();
    }

    fn link(&self, target: &str, to: &str) {
        let to = self.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        symlink(target, to).unwrap();
    }

    /// Compiles this C text with `compiler` to `to`.
    fn compile(&self, compiler: &str, text: &str, options: &[&str], to: &str) {
        let source = self.0.file("source.c", text);
        let to = self.path().join(to);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        let mut command = Command::new(compiler);
        command.arg("-o").arg(&to).arg(&source).args(options).env("PATH", jail::PATH);
        let output = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::remove_file(source).unwrap();
    }
}

fn has(program: &str) -> bool {
    jail::PATH.split(':').any(|directory| Path::new(directory).join(program).exists())
}

/// The first line of a command's output.
fn line(command: &mut Command) -> String {
    let output = command.output().expect("start a command");
    String::from_utf8(output.stdout).unwrap().lines().next().unwrap_or_default().to_owned()
}

const GREET: &str = "const char *greet(void) { return \"library of the tree\"; }\n";

/// Prints what its library says, and a file that is named in the tree's own words.
const PROGRAM: &str = r#"
#include <stdio.h>
const char *greet(void);
int main(void) {
    char text[64] = "";
    FILE *file = fopen("/etc/whose", "r");
    if (file) fgets(text, sizeof text, file);
    printf("%s\n%s", greet(), text);
    return 0;
}
"#;

/// As Alpine has it: musl, links by absolute paths, which on the host lead to the host's files.
fn musl_tree() -> Option<Tree> {
    if !need("musl-gcc", has("musl-gcc"), &["uml", "6.1", "6.12"]) {
        return None;
    }
    let tree = Tree::new();
    let libc = line(Command::new("sh").args(["-c", "readlink -f /lib/ld-musl-*.so.1"]));
    let loader = line(Command::new("sh").args(["-c", "echo /lib/ld-musl-*.so.1"]));
    tree.copy(&libc, &format!("usr/lib/musl{loader}"));
    tree.link(&format!("/usr/lib/musl{loader}"), &loader[1..]);
    // By its soname, for the path on this machine means nothing in the tree.
    let library = tree.path().join("opt/greet/libgreet.so.1");
    let options = ["-shared", "-fPIC", "-Wl,-soname,libgreet.so"];
    tree.compile("musl-gcc", GREET, &options, "opt/greet/libgreet.so.1");
    tree.link("/opt/greet/libgreet.so.1", "usr/lib/libgreet.so");
    tree.compile("musl-gcc", PROGRAM, &[library.to_str().unwrap()], "opt/bin/greeter");
    tree.link("/opt/bin/greeter", "usr/bin/greeter");
    tree.copy("/usr/bin/busybox", "bin/busybox");
    tree.link("/bin/busybox", "bin/sh");
    tree.0.file("etc/whose-real", "the tree's\n");
    tree.link("/etc/whose-real", "etc/whose");
    // The host has both; the tree has only the first.
    tree.0.file("etc/passwd", "root:x:0:0:of the tree:/root:/bin/sh\n");
    tree.link("/etc/passwd", "etc/people");
    tree.link("../../../../../../../../etc/passwd", "etc/climb");
    Some(tree)
}

fn spec_of(tree: &Tree, rest: &str) -> Jail {
    Jail::spec(format!("[rootfs]\nfrom = \"{}\"\n{rest}", tree.path().display()))
}

#[test]
fn programs_of_a_musl_tree_run_with_the_trees_own_files() {
    let Some(tree) = musl_tree() else { return };
    let jail = spec_of(
        &tree,
        "programs = [\"sh\", \"greeter\"]\nfiles = [\"/etc/whose\", \"/etc/people\", \"/etc/climb\"]\n",
    );
    assert_eq!(jail.run(&["greeter"]).succeeded().stdout, "library of the tree\nthe tree's\n");
    for name in ["people", "climb"] {
        assert_eq!(
            jail.prints(&format!("cat /etc/{name}")),
            "root:x:0:0:of the tree:/root:/bin/sh\n",
            "{name}"
        );
    }
    jail.jailmk("build", &[]).succeeded();
    // The lock says where things are in the tree, not where the tree is.
    let lock = fs::read_to_string(jail.spec_path().with_extension("lock")).unwrap();
    assert!(!lock.contains(tree.path().to_str().unwrap()), "{lock}");
    assert!(lock.lines().any(|line| line.contains(" /opt/bin/greeter = ")), "{lock}");
    jail.jailmk("verify", &[]).succeeded();
}

#[test]
fn what_only_the_host_has_is_not_found() {
    let Some(tree) = musl_tree() else { return };
    let jail = spec_of(&tree, "programs = [\"sh\", \"python3\"]\n");
    jail.jailmk("build", &[]).refused(1, "cannot find program `python3`");
    tree.link("/usr/bin/python3", "usr/bin/python3");
    let ran = jail.jailmk("build", &[]);
    assert_eq!(ran.status, 1, "{ran}");
}

#[test]
fn a_tree_moved_elsewhere_gives_the_same_lock() {
    let Some(tree) = musl_tree() else { return };
    let place = Place::new();
    let copy = place.join("moved");
    let copied = Command::new("cp").arg("-a").arg(tree.path()).arg(&copy).status().unwrap();
    assert!(copied.success());
    let rest = "programs = [\"sh\", \"greeter\"]\n";
    let one = spec_of(&tree, rest);
    one.jailmk("build", &[]).succeeded();
    let lock = fs::read_to_string(one.spec_path().with_extension("lock")).unwrap();
    let text = fs::read_to_string(one.spec_path()).unwrap();
    fs::write(one.spec_path(), text.replace(tree.path().to_str().unwrap(), copy.to_str().unwrap())).unwrap();
    one.jailmk("build", &["--locked"]).succeeded();
    assert_eq!(fs::read_to_string(one.spec_path().with_extension("lock")).unwrap(), lock);
}

#[test]
fn a_program_replaced_in_the_tree_is_rebuilt_at_the_next_enter() {
    let Some(tree) = musl_tree() else { return };
    let jail = spec_of(&tree, "programs = [\"sh\", \"greeter\"]\n");
    assert_eq!(jail.run(&["greeter"]).succeeded().stdout, "library of the tree\n");
    tree.compile("musl-gcc", "int main(void) { return 7; }\n", &[], "opt/bin/greeter");
    jail.run(&["greeter"]).ended(7);
}

#[test]
fn files_beside_the_spec_are_the_hosts_and_build_from_overrides_the_spec() {
    let Some(tree) = musl_tree() else { return };
    let jail = spec_of(
        &tree,
        "programs = [\"sh\"]\nfiles = [{ from = \"note\", to = \"/etc/note\" }, \"/etc/people\"]\n",
    );
    jail.place.file("spec/note", "beside the spec\n");
    assert_eq!(jail.prints("cat /etc/note"), "beside the spec\n");
    let other = Tree::new();
    other.copy("/usr/bin/busybox", "bin/sh");
    other.0.file("etc/people", "of the other tree\n");
    let output = jail.place.join("bare");
    let (from, to) = (other.path().to_str().unwrap(), output.to_str().unwrap());
    jail.jailmk("build", &["--from", from, "--output", to]).succeeded();
    assert_eq!(fs::read_to_string(output.join("etc/people")).unwrap(), "of the other tree\n");
    assert_eq!(fs::read_to_string(output.join("etc/note")).unwrap(), "beside the spec\n");
}

#[test]
fn a_root_that_is_not_there_is_named() {
    let jail = Jail::spec("[rootfs]\nfrom = \"no-such-tree\"\nprograms = [\"sh\"]\n");
    let ran = jail.jailmk("build", &[]).ended(1);
    assert!(ran.stderr.contains("no-such-tree"), "{ran}");
}

/// A glibc tree with a library in a directory that only the tree's loader cache knows.
fn cached_tree() -> Option<Tree> {
    if !need("gcc and ldconfig", has("gcc") && has("ldconfig"), &["uml", "6.1", "6.12"]) {
        return None;
    }
    let tree = Tree::new();
    let options = ["-shared", "-fPIC", "-Wl,-soname,libgreet.so.1"];
    tree.compile("gcc", GREET, &options, "odd/place/libgreet.so.1");
    let library = tree.path().join("odd/place/libgreet.so.1");
    tree.compile("gcc", PROGRAM, &[library.to_str().unwrap()], "usr/bin/greeter");
    let libc = line(Command::new("gcc").arg("-print-file-name=libc.so.6"));
    let libc = fs::canonicalize(libc).unwrap();
    let loader = interpreter(&tree.path().join("usr/bin/greeter"));
    let directory = libc.parent().unwrap().strip_prefix("/").unwrap().to_str().unwrap().to_owned();
    tree.copy(&libc, &format!("{directory}/libc.so.6"));
    tree.copy(fs::canonicalize(&loader).unwrap(), &loader.to_str().unwrap()[1..]);
    tree.copy("/usr/bin/busybox", "usr/bin/sh");
    tree.0.file("etc/ld.so.conf", format!("/{directory}\n/odd/place\n"));
    tree.0.file("etc/whose", "the tree's\n");
    let mut ldconfig = Command::new("unshare");
    ldconfig.args(["-r", "ldconfig", "-r"]).arg(tree.path()).env("PATH", jail::PATH);
    let output = ldconfig.output().expect("start unshare");
    if !need("user namespaces for ldconfig -r", output.status.success(), &[]) {
        return None;
    }
    Some(tree)
}

/// PT_INTERP, as readelf(1) shows it.
fn interpreter(program: &Path) -> PathBuf {
    let output = Command::new("readelf").args(["-lW"]).arg(program).output().expect("start readelf");
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.contains("program interpreter: ")).expect("PT_INTERP");
    line.rsplit(' ').next().unwrap().trim_end_matches(']').into()
}

#[test]
fn a_library_that_only_the_cache_knows_is_found_in_the_jail() {
    let Some(tree) = cached_tree() else { return };
    let jail = spec_of(&tree, "programs = [\"sh\", \"greeter\"]\nfiles = [\"/etc/whose\"]\n");
    assert_eq!(jail.run(&["greeter"]).succeeded().stdout, "library of the tree\nthe tree's\n");
    // There is no ldconfig in the jail, and the cache is not the tree's own, but holds what is inside.
    assert_eq!(jail.prints("ls /usr/bin /sbin /usr/sbin 2>/dev/null | grep -c ldconfig || true"), "0\n");
    let cache = jail.tree().join("etc/ld.so.cache");
    let output = Command::new("ldconfig").arg("-p").arg("-C").arg(&cache).env("PATH", jail::PATH).output();
    let text = String::from_utf8(output.expect("start ldconfig").stdout).unwrap();
    assert!(text.contains("libgreet.so.1 (libc6") && text.contains("=> /odd/place/libgreet.so.1"), "{text}");
    assert!(text.contains("libs found in cache"), "{text}");
    // Without it the loader does not find the library: that is what the cache is for.
    let bare = jail.place.join("bare");
    jail.jailmk("build", &["--output", bare.to_str().unwrap()]).succeeded();
    let run = |root: &Path| {
        let mut command = Command::new("unshare");
        command.args(["-r", "chroot"]).arg(root).arg("/usr/bin/greeter").env("PATH", jail::PATH);
        command.output().expect("start unshare")
    };
    assert!(run(&bare).status.success());
    fs::remove_file(bare.join("etc/ld.so.cache")).unwrap();
    assert!(!run(&bare).status.success());
}
