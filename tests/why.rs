//! `jailmk why`: what is in a jail and by whose wish, what is not and what would bring it.

mod tree;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;
use tree::{Tree, error, hostile_name, is_harmless, text};

fn tools() -> Tree {
    let tree = Tree::new("why");
    tree.file("usr/bin/a", "#!/usr/bin/b\n").file("usr/bin/b", "#!/usr/bin/c\n").file("usr/bin/c", "x");
    tree.file("usr/bin/z", "#!/usr/bin/c\n");
    tree
}

#[test]
fn a_database_that_cannot_be_read_is_said_to_be_so() {
    let tree = tools();
    tree.file("var/lib/rpm/rpmdb.sqlite", "x").spec("[rootfs]\nprograms = [\"z\"]");
    let (status, answer) = why(&tree, "/usr/bin/a");
    assert_eq!(status, Some(1));
    assert!(answer.contains("which package owns it is not known: the tree's packages are in"), "{answer}");
    assert!(!answer.contains("no package owns"), "{answer}");
}

/// Exit status and text.
fn why(tree: &Tree, path: impl AsRef<OsStr>) -> (Option<i32>, String) {
    let output = tree.run("why", &[path.as_ref()]);
    (output.status.code(), text(&output))
}

fn json(tree: &Tree, path: impl AsRef<OsStr>) -> Value {
    let output = tree.run("why", &[OsStr::new("--json"), path.as_ref()]);
    assert!(is_harmless(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|cause| panic!("{cause}: {}", error(&output)))
}

#[test]
fn the_chain_is_the_shortest_and_ends_at_a_place_in_the_spec() {
    let tree = tools();
    tree.spec("[rootfs]\nprograms = [\"a\", \"z\"]");
    // Found first, through a and b.
    let (status, answer) = why(&tree, "/usr/bin/c");
    let lines: Vec<&str> = answer.lines().collect();
    assert_eq!(status, Some(0));
    assert_eq!(lines[0], "/usr/bin/c: needed by /usr/bin/z (#!)");
    assert!(
        lines[1].starts_with("/usr/bin/z: programs \"z\" (") && lines[1].ends_with("spec.toml:2:18)"),
        "{answer}"
    );
    assert_eq!(lines.len(), 2);
    let answer = json(&tree, "/usr/bin/c");
    assert_eq!(answer["in_jail"], true);
    assert_eq!(
        (&answer["is"], &answer["chain"][0]["needed_by"]),
        (&"/usr/bin/c".into(), &"/usr/bin/z".into())
    );
    assert_eq!(answer["chain"][1]["reason"], "programs \"z\"");
    assert_eq!(answer["reasons"].as_array().unwrap().len(), 2, "{answer}");
}

#[test]
fn a_program_is_looked_up_by_its_name_inside_and_outside() {
    let tree = tools();
    tree.file("usr/sbin/daemon", "x");
    std::fs::set_permissions(
        tree.root().join("usr/sbin/daemon"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    tree.spec("[rootfs]\nprograms = [\"z\", \"daemon\"]");
    assert!(why(&tree, "z").1.starts_with("/usr/bin/z: programs \"z\""));
    let (status, answer) = why(&tree, "a");
    assert_eq!(status, Some(1));
    assert!(answer.starts_with("/usr/bin/a is not in the jail spec\n"), "{answer}");
    assert!(answer.contains("[rootfs] programs = [\"a\"] would bring it"), "{answer}");
    let (status, answer) = why(&tree, "daemon");
    assert_eq!(status, Some(0));
    assert!(answer.contains("no directory of the jail's PATH leads to it"), "{answer}");
    let (status, answer) = why(&tree, "daemom");
    assert_eq!(status, Some(1));
    assert!(answer.contains("did you mean `daemon`?"), "{answer}");
    tree.spec("[rootfs]\nprograms = [\"daemon\"]\n[process]\nenv = { PATH = \"/usr/sbin\" }");
    assert!(why(&tree, "daemon").1.starts_with("/usr/sbin/daemon: programs"));
}

#[test]
fn what_would_bring_a_file_depends_on_what_it_is() {
    let tree = tools();
    tree.dpkg(&[("tool", "Version: 1.2-3", "/usr/bin/a /usr/share/tool/data /usr/share/doc/tool")]);
    tree.file("usr/share/tool/data", "x").file("usr/share/x[1]", "x");
    tree.spec("[rootfs]\nprograms = [\"z\"]");
    let (_, answer) = why(&tree, "/usr/bin/a");
    assert!(answer.contains("has it: a regular file, of package tool 1.2-3"), "{answer}");
    assert!(answer.contains("programs = [\"a\"]") && answer.contains("packages = [\"tool\"]"), "{answer}");
    let (_, answer) = why(&tree, "/usr/share/tool/data");
    assert!(answer.contains("files = [\"/usr/share/tool/data\"]"), "{answer}");
    assert!(why(&tree, "/usr/share/x[1]").1.contains("which no package owns"));
    let (_, answer) = why(&tree, "/usr/share/doc/tool");
    assert!(
        answer.contains(
            "does not have it, for there is no /usr/share/doc, although it is listed by package tool 1.2-3"
        ),
        "{answer}"
    );
    // Each of them does what is said of it.
    for path in ["/usr/bin/a", "/usr/share/tool/data", "/usr/share/x[1]"] {
        tree.spec("[rootfs]\nprograms = [\"z\"]");
        let answer = json(&tree, path);
        assert_eq!(answer["in_jail"], false);
        let lines = answer["would_bring"].as_array().unwrap();
        assert!(!lines.is_empty(), "{answer}");
        for line in lines {
            let key = line["key"].as_str().unwrap();
            tree.spec(&format!("[rootfs]\n{key} = [{}]", line["value"]));
            assert_eq!(why(&tree, path).0, Some(0), "{line}");
        }
    }
}

#[test]
fn the_pattern_that_leaves_a_path_out_is_named_with_its_place() {
    let tree = tools();
    tree.file("usr/share/tool/data", "x").file("usr/share/tool/kept", "x");
    tree.spec("[rootfs]\nfiles = [\"/usr/share/tool/**\"]\nexclude = [\"**/no\", \"**/data\"]");
    let (status, answer) = why(&tree, "/usr/share/tool/data");
    assert_eq!(status, Some(1));
    assert!(answer.contains("exclude `**/data` (") && answer.contains("spec.toml:3:21"), "{answer}");
    assert!(
        answer.contains("otherwise files \"/usr/share/tool/**\" (") && answer.contains("spec.toml:2:10"),
        "{answer}"
    );
    assert_eq!(json(&tree, "/usr/share/tool/data")["excluded_by"]["pattern"], "**/data");
    assert_eq!(why(&tree, "/usr/share/tool/kept").0, Some(0));
}

#[test]
fn what_cannot_be_there_is_said_to_be_made_at_enter() {
    let tree = tools();
    tree.link("usr/share/broken", "/usr/share/nothing").file("home/x/f", "x");
    tree.spec("[rootfs]\nfiles = [\"/usr/share/broken\"]\n[[mount]]\nfrom = \"/srv\"\nto = \"/data\"\n[tmpfs]\n\"/scratch\" = \"1M\"");
    let says = |path: &str, words: &str| {
        let (status, answer) = why(&tree, path);
        assert_eq!(status, Some(1), "{path}: {answer}");
        assert!(answer.contains(words), "{path}: {answer}");
    };
    says("/proc/self/maps", "every jail makes /proc anew");
    says("/sys/kernel", "no jail has /sys");
    says("/tmp/x", "every jail makes /tmp anew");
    says("/data/x", "[[mount]] of /srv");
    says("/scratch/x", "[tmpfs]");
    says("/usr/share/broken", "links to /usr/share/nothing, which leads to nothing in the jail");
    says("/usr/bin/none/x", "does not have it, for there is no /usr/bin/none");
    let (status, answer) = why(&tree, "relative/path");
    assert_eq!((status, answer.as_str()), (Some(1), ""));
}

#[test]
fn a_file_that_others_may_not_read_is_not_recommended_without_a_word() {
    let tree = tools();
    tree.file("etc/secret", "x").spec("[rootfs]\nprograms = [\"z\"]");
    let path = tree.root().join("etc/secret");
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert!(why(&tree, "/etc/secret").1.contains("its mode 0600 keeps it from other users"));
}

#[test]
fn a_hostile_name_cannot_steer_a_terminal_or_break_json() {
    let tree = tools();
    let name = hostile_name();
    let path = [b"/usr/bin/", name.as_bytes()].concat();
    tree.file(OsStr::from_bytes(&path[1..]), "x");
    for spec in ["[rootfs]\nprograms = [\"z\"]", "[rootfs]\nfiles = [\"/usr/bin/*\"]"] {
        tree.spec(spec);
        for asked in [OsStr::from_bytes(&path), name, OsStr::from_bytes(b"/no\x1b[2J/\xff")] {
            let output = tree.run("why", &[asked]);
            assert!(is_harmless(&output.stdout) && is_harmless(&output.stderr), "{}", text(&output));
            json(&tree, asked);
        }
    }
    let answer = json(&tree, OsStr::from_bytes(&path));
    assert_eq!(answer["path"], "/usr/bin/a\\x1b[2J\\x0aforged \\xc2\\x9b1m\\xff\\x5cx");
}
