//! `.note.dlopen`, through the binary: what an object says that it opens by itself comes into the jail.

mod battery;
mod need;
mod oracle;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use battery::{Battery, runpath};
use serde_json::Value;

fn binary() -> PathBuf {
    std::env::var_os("JAILMK_BIN").map_or_else(|| env!("CARGO_BIN_EXE_jailmk").into(), PathBuf::from)
}

/// A small tree of its own: the loader, and a program or a library with a note.
struct Case(Battery);

impl Case {
    fn new(name: &str) -> Option<Case> {
        let b = Battery::new(&format!("note-{name}"))?;
        std::fs::copy("/lib64/ld-linux-x86-64.so.2", b.path("tree/lib64/ld-linux-x86-64.so.2")).unwrap();
        std::fs::create_dir_all(b.directory.join("tree/o")).unwrap();
        Some(Case(b))
    }

    /// Links with a note that holds `json`; section headers are taken off, for nobody may need them.
    fn link(&self, name: &str, json: &str, arguments: &[&str]) -> PathBuf {
        let source = self.0.path("note.s");
        let escaped = json.replace('"', "\\\"");
        let text = format!(
            ".section .note.dlopen,\"a\",@note\n.balign 4\n.long 4, 2f-1f, 0x407c0c0a\n.asciz \"FDO\"\n\
             1: .asciz \"{escaped}\"\n2: .balign 4\n.section .note.GNU-stack,\"\",@progbits\n"
        );
        std::fs::write(&source, text).unwrap();
        let mut all = vec!["-xassembler", source.to_str().unwrap(), "-xnone"];
        all.extend(arguments);
        let file = self.0.link(&format!("tree/{name}"), &[], &all);
        self.0.patch(&file, 40, &[0; 8]);
        self.0.patch(&file, 58, &[0; 6]);
        file
    }

    fn program(&self, json: &str) {
        self.link("bin/program", json, &[runpath(), rpath_to!("/o")]);
    }

    fn library(&self, name: &str) {
        self.0.library(&format!("tree/o/{name}"), &[], &[]);
    }

    /// What a build of the program would hold, with `rules` as `dlopen`.
    fn build(&self, rules: &str) -> Output {
        let spec = self.0.path("spec.toml");
        let text = format!("[rootfs]\nprograms = [\"/bin/program\"]\ndlopen = [{rules}]\n");
        std::fs::write(&spec, text).unwrap();
        let mut build = Command::new(binary());
        build.args(["build", "--dry-run", "--trust-spec", "--from"]).arg(self.0.directory.join("tree"));
        build.arg("--output").arg(self.0.directory.join("out")).arg(spec);
        build.output().unwrap()
    }

    /// Which of the libraries in /o come in.
    fn comes_in(&self, rules: &str) -> Vec<String> {
        let output = self.build(rules);
        assert!(output.status.success(), "{output:?}");
        let lock = String::from_utf8(output.stdout).unwrap();
        let mut names: Vec<String> =
            lock.split_whitespace().filter_map(|word| word.strip_prefix("/o/")).map(str::to_owned).collect();
        names.sort();
        names.dedup();
        names
    }
}

const THREE: &str = r#"[{"soname":["libq.so","libr.so"],"feature":"must","priority":"required"},
{"soname":["libs.so"],"feature":"should"},{"soname":["libt.so"],"feature":"may","priority":"suggested"}]"#;

fn three(case: &Case, libraries: &[&str]) {
    case.program(&THREE.replace('\n', " "));
    libraries.iter().for_each(|name| case.library(name));
}

#[test]
fn required_and_recommended_libraries_come_in_and_suggested_ones_on_demand() {
    let Some(case) = Case::new("priorities") else { return };
    three(&case, &["libq.so", "libr.so", "libs.so", "libt.so"]);
    assert_eq!(case.comes_in(""), ["libq.so", "libs.so"]);
    assert_eq!(case.comes_in("\"m*\""), ["libq.so", "libs.so", "libt.so"]);
    assert_eq!(case.comes_in("\"*\", \"!should\""), ["libq.so", "libt.so"]);
    assert_eq!(case.comes_in("\"!*\""), [""; 0]);
}

#[test]
fn the_first_alternative_that_is_there_is_taken() {
    let Some(case) = Case::new("alternative") else { return };
    three(&case, &["libr.so"]);
    assert_eq!(case.comes_in(""), ["libr.so"]);
    let output = case.build("");
    let talk = String::from_utf8(output.stderr).unwrap();
    let expected = "/bin/program would use libs.so for its feature should (recommended), which is not found";
    assert!(talk.contains(expected), "{talk}");
}

#[test]
fn a_missing_required_feature_is_an_error_with_its_name_and_every_library() {
    let Some(case) = Case::new("missing") else { return };
    three(&case, &["libs.so"]);
    let output = case.build("");
    let talk = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{talk}");
    assert!(talk.contains("cannot find libq.so or libr.so for its feature must (required)"), "{talk}");
    assert!(talk.contains("/bin/program") && talk.contains("\"!must\""), "{talk}");
    assert!(case.build("\"!must\"").status.success());
}

#[test]
fn a_library_asks_along_its_own_path() {
    let Some(case) = Case::new("requester") else { return };
    let json = r#"[{"soname":["libdeep.so"],"feature":"x"}]"#;
    case.link(
        "o/liba.so",
        json,
        &["-shared", "-fPIC", "-Wl,-soname,liba.so", runpath(), rpath_to!("/o/own")],
    );
    case.0.library("tree/o/own/libdeep.so", &[], &[]);
    case.0.link("tree/bin/program", &["liba.so"], &[runpath(), rpath_to!("/o")]);
    assert!(case.comes_in("").contains(&"own/libdeep.so".to_owned()), "{:?}", case.comes_in(""));
}

#[test]
fn what_a_recommended_library_misses_is_no_error() {
    let Some(case) = Case::new("deep") else { return };
    case.program(r#"[{"soname":["liba.so"],"feature":"x"}]"#);
    case.0.library("tree/o/liba.so", &["libnone.so"], &[]);
    assert_eq!(case.comes_in(""), ["liba.so"]);
    case.program(r#"[{"soname":["liba.so"],"feature":"x","priority":"required"}]"#);
    assert_eq!(case.build("").status.code(), Some(1));
}

#[test]
fn a_note_that_cannot_be_read_is_named_and_changes_nothing_else() {
    let Some(case) = Case::new("damaged") else { return };
    case.program(r#"[{"soname":["../evil.so"]}]"#);
    let output = case.build("");
    let talk = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{talk}");
    assert!(talk.contains("the dlopen note of /bin/program is not followed"), "{talk}");
}

#[test]
fn the_tree_shows_each_feature_with_its_priority() {
    let Some(case) = Case::new("tree") else { return };
    // The host's tree is looked at, so the libraries are where the program's own path leads.
    let json = THREE.replace('\n', " ");
    let program = case.link("bin/program", &json, &[runpath(), rpath_to!("$ORIGIN/../o")]);
    ["libq.so"].iter().for_each(|name| case.library(name));
    let tree = |program: &Path, flags: &[&str]| {
        let output = Command::new(binary()).arg("tree").args(flags).arg(program).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (status, text) = tree(&program, &[]);
    assert_eq!(status, Some(0), "{text}");
    for expected in [
        "o/libq.so (RUNPATH; dlopen note, required must)",
        "libs.so => not found (dlopen note, recommended should)",
        "libt.so => left out (dlopen note, suggested may)",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let (_, json) = tree(&program, &["--json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let libraries = json[0]["libraries"].as_array().unwrap();
    let may = libraries.iter().find(|library| library["name"] == "libt.so").unwrap();
    assert_eq!((&may["left_out"], &may["feature"]["priority"]), (&true.into(), &"suggested".into()));
    let (_, paths) = tree(&program, &["--paths"]);
    assert!(paths.contains("/o/libq.so"), "{paths}");
    std::fs::remove_file(case.0.directory.join("tree/o/libq.so")).unwrap();
    let (status, text) = tree(&program, &[]);
    assert!(status == Some(1) && text.contains("NOT FOUND (dlopen note, required must)"), "{text}");
    assert_eq!(tree(&program, &["--paths"]).0, Some(1));
}
