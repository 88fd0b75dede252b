//! `packages` of a spec, with the databases of dpkg, apk and pacman, and with what is none.

mod need;
mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use jailmk::closure::packages::Packages;
use jailmk::closure::root::SourceRoot;

use tree::{Tree, error, is_harmless, text};

const TOOL: &str = "[rootfs]\npackages = [\"tool\"]";

fn has(paths: &[String], path: &str) -> bool {
    paths.iter().any(|other| other == path)
}

#[test]
fn an_apk_package_brings_its_files_from_either_database() {
    for place in ["lib", "usr/lib"] {
        let tree = Tree::new("apk");
        let database = "P:other\nV:1\nF:usr/bin\nR:other\n\nP:tool\nV:2-r0\nF:usr\nF:usr/bin\nR:tool\nF:etc\nR:tool.conf\n\n";
        tree.file(format!("{place}/apk/db/installed"), database);
        tree.file("usr/bin/tool", "x").file("usr/bin/other", "x").file("etc/tool.conf", "x");
        let paths = tree.paths(TOOL);
        assert!(has(&paths, "/usr/bin/tool") && has(&paths, "/etc/tool.conf"), "{paths:?}");
        assert!(!has(&paths, "/usr/bin/other"), "{paths:?}");
    }
}

#[test]
fn a_pacman_package_brings_its_files() {
    let tree = Tree::new("pacman");
    let local = "var/lib/pacman/local";
    tree.file(format!("{local}/ALPM_DB_VERSION"), "9\n");
    tree.file(format!("{local}/tool-1:2-1/desc"), "%NAME%\ntool\n\n%VERSION%\n1:2-1\n");
    tree.file(
        format!("{local}/tool-1:2-1/files"),
        "%FILES%\nusr/\nusr/bin/\nusr/bin/tool\n\n%BACKUP%\netc/no\tx\n",
    );
    tree.file("usr/bin/tool", "x").file("etc/no", "x");
    let paths = tree.paths(TOOL);
    assert!(has(&paths, "/usr/bin/tool") && !has(&paths, "/etc/no"), "{paths:?}");
}

#[test]
fn an_rpm_database_is_named_with_the_reason_and_the_cure() {
    for (path, form) in [
        ("var/lib/rpm/rpmdb.sqlite", "SQLite"),
        ("usr/lib/sysimage/rpm/Packages.db", "ndb"),
        ("var/lib/rpm/Packages", "Berkeley"),
    ] {
        let tree = Tree::new("rpm");
        tree.file(path, "x");
        let failure = tree.failure(TOOL);
        for words in
            [&format!("/{path}"), form, "only rpm can read", "hint: `rpm -ql tool`", "spec.toml:2:13"]
        {
            assert!(failure.contains(words), "{words}: {failure}");
        }
    }
}

#[test]
fn a_tree_without_a_database_is_no_tree_with_an_empty_one() {
    let failure = Tree::new("none").failure(TOOL);
    assert!(failure.contains("no database of dpkg, apk or pacman"), "{failure}");
}

#[test]
fn a_package_that_is_not_there_is_told_from_one_that_is_only_a_name() {
    let tree = Tree::new("absent");
    tree.dpkg(&[
        ("mawk", "Version: 1\nArchitecture: amd64\nProvides: awk", "/usr/bin/mawk"),
        ("gawk", "Version: 1\nArchitecture: amd64\nProvides: awk (= 1)", "/usr/bin/gawk"),
        ("gone", "Status: deinstall ok config-files\nVersion: 1", "/etc/gone"),
    ]);
    let failure = |name: &str| tree.failure(&format!("[rootfs]\npackages = [\"{name}\"]"));
    let virtual_one = failure("awk");
    assert!(virtual_one.contains("it is only a name that other packages provide"), "{virtual_one}");
    assert!(virtual_one.contains("`gawk`, `mawk`"), "{virtual_one}");
    assert!(failure("gone").contains("only its configuration files are left"), "{}", failure("gone"));
    assert!(failure("mauk").contains("did you mean `mawk`"), "{}", failure("mauk"));
    assert!(failure("zzzzzz").contains("install zzzzzz first"), "{}", failure("zzzzzz"));
    assert!(failure("mawk:arm64").contains("did you mean `mawk:amd64`"), "{}", failure("mawk:arm64"));
}

#[test]
fn links_of_alternatives_come_with_the_package_that_they_lead_to() {
    let tree = Tree::new("alternatives");
    tree.dpkg(&[("tool", "Version: 1", "/usr/bin/tool.one"), ("rival", "Version: 1", "/usr/bin/tool.two")]);
    let group = "auto\n/usr/bin/tool\ntool.1\n/usr/share/man/tool.1\n\n/usr/bin/tool.one\n5\n\n\n";
    tree.file("var/lib/dpkg/alternatives/tool", group);
    tree.file("usr/bin/tool.one", "x").file("usr/bin/tool.two", "x");
    tree.link("usr/bin/tool", "/etc/alternatives/tool").link("etc/alternatives/tool", "/usr/bin/tool.one");
    let paths = tree.paths(TOOL);
    assert!(has(&paths, "/usr/bin/tool") && has(&paths, "/etc/alternatives/tool"), "{paths:?}");
    let paths = tree.paths("[rootfs]\npackages = [\"rival\"]");
    assert!(!has(&paths, "/usr/bin/tool"), "it leads to another package: {paths:?}");
}

#[test]
fn a_hostile_database_brings_nothing_from_elsewhere_and_no_control_characters() {
    let tree = Tree::new("hostile");
    tree.dpkg(&[("tool", "Version: 1", "/usr/bin/tool")]);
    let list = [
        &b"/.\n/usr/bin/tool\n../../../../etc/passwd\n/../../../../../../etc/hostname\netc/passwd\n/usr/\x1b[2J\xff\n"[..],
        &[b'/'; 8192],
        b"\n\0\n",
    ];
    tree.file("var/lib/dpkg/info/tool.list", list.concat()).file("usr/bin/tool", "x");
    tree.spec(TOOL);
    let paths = tree.paths(TOOL);
    assert!(has(&paths, "/usr/bin/tool"), "{paths:?}");
    let output = tree.lock(TOOL);
    assert!(!text(&output).contains("needed") && is_harmless(&output.stderr), "{}", error(&output));
    // What is listed and cannot be there is counted as missing, or is no path at all.
    assert!(error(&output).contains("lists 1 paths that are not there"), "{}", error(&output));
}

#[test]
fn the_files_of_every_package_are_those_that_dpkg_lists() {
    let Some(names) = dpkg_query(&["-W", "-f", "${binary:Package}\\n"]) else {
        need::need("dpkg-query", false, &[]);
        return;
    };
    let root = SourceRoot::host().unwrap();
    let packages = Packages::read(&root).unwrap().expect("dpkg has a database");
    let names: Vec<String> = names.lines().map(str::to_owned).collect();
    let mut compared = 0;
    // In pieces, for a command line has its limit; what apt installs meanwhile is left out.
    for piece in names.chunks(200) {
        let mut arguments = vec!["--listfiles"];
        arguments.extend(piece.iter().map(String::as_str));
        let Some(listed) = dpkg_query(&arguments) else { continue };
        let sections = format!("{listed}\n");
        for (name, section) in piece.iter().zip(sections.split("\n\n")) {
            let Ok(index) = packages.find(name) else { panic!("{name}") };
            let ours: BTreeSet<PathBuf> = packages.files(&root, index).unwrap().into_iter().collect();
            let mut theirs: BTreeMap<usize, PathBuf> = BTreeMap::new();
            for (number, line) in section.lines().enumerate() {
                if let Some((_, to)) =
                    line.split_once("diverted by ").and_then(|(_, rest)| rest.split_once(" to: "))
                {
                    // It speaks of the path in the line before.
                    theirs.insert(number - 1, to.into());
                } else if line.starts_with('/') && line != "/." {
                    theirs.insert(number, line.into());
                }
            }
            for path in theirs.into_values() {
                assert!(ours.contains(&path), "{name}: {}", path.display());
            }
            // Beyond what is listed there are only links of alternatives.
            compared += 1;
        }
    }
    assert!(compared > 50, "{compared}");
}

#[test]
fn the_owner_of_every_program_is_the_one_that_dpkg_names() {
    let root = SourceRoot::host().unwrap();
    let Some(packages) = Packages::read(&root).unwrap() else {
        need::need("dpkg's database", false, &[]);
        return;
    };
    let entries = std::fs::read_dir("/usr/bin").unwrap().map(|entry| entry.unwrap().path());
    let paths: Vec<PathBuf> =
        entries.filter(|path| path.is_file() && path.as_os_str().as_bytes().is_ascii()).take(800).collect();
    let owners = packages.owners(&root, paths.iter().map(PathBuf::as_path)).unwrap();
    let mut arguments = vec!["-S"];
    arguments.extend(paths.iter().filter_map(|path| path.to_str()));
    // It fails when one path has no owner, and answers for the others.
    let output = Command::new("dpkg-query").args(&arguments).env("LC_ALL", "C").output().unwrap();
    let answer = String::from_utf8(output.stdout).unwrap();
    let mut compared = 0;
    // dpkg names the packages that list a path, also where a diversion gives it to one of them.
    let diverted: BTreeSet<&str> = answer
        .lines()
        .filter(|line| line.starts_with("diversion by "))
        .filter_map(|line| Some(line.rsplit_once(": ")?.1))
        .collect();
    for line in answer.lines().filter(|line| !line.starts_with("diversion by ")) {
        let (names, path) = line.rsplit_once(": ").unwrap();
        if diverted.contains(path) {
            continue;
        }
        let ours: Vec<&str> = owners
            .get(Path::new(path))
            .map(|indexes| indexes.iter().map(|index| packages.installed()[*index].name.as_str()).collect())
            .unwrap_or_default();
        for name in names.split(", ") {
            let name = name.split(':').next().unwrap();
            assert!(ours.contains(&name), "{line}, and not {ours:?}");
        }
        compared += 1;
    }
    assert!(compared > 50, "{compared}");
    // By this path dpkg does not find what it has as /bin/ls.
    let owners = packages.owners(&root, [Path::new("/usr/bin/ls")]).unwrap();
    assert_eq!(
        owners.values().flatten().map(|index| &packages.installed()[*index].name).collect::<Vec<_>>(),
        ["coreutils"]
    );
}

fn dpkg_query(arguments: &[&str]) -> Option<String> {
    let output = Command::new("dpkg-query").args(arguments).env("LC_ALL", "C").output().ok()?;
    output.status.success().then(|| String::from_utf8(output.stdout).ok())?
}
