//! `jailmk sbom`: what a jail is made of, for scanners.

mod tree;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use serde_json::Value;
use tree::{Tree, error, hostile_name, is_harmless, text};

const SPEC: &str = "name = \"demo\"\n[rootfs]\nprograms = [\"tool\"]\nfiles = [\"/usr/share/**\"]";

fn demo() -> Tree {
    let tree = Tree::new("sbom");
    tree.file("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n");
    tree.file("usr/bin/tool", "abc").file("usr/share/loose", "x").file("usr/share/doc/shared", "x");
    tree.dpkg(&[
        (
            "libtool+",
            "Version: 1:2.0-1+b3\nArchitecture: amd64\nSource: tools (2.0-1)",
            "/bin/tool /usr/share/doc/shared",
        ),
        ("tool-data", "Version: 1\nArchitecture: all", "/usr/share/doc/shared"),
        ("absent", "Version: 1\nArchitecture: all", "/usr/bin/absent"),
    ]);
    tree.spec(SPEC);
    tree
}

fn sbom(tree: &Tree, format: &str) -> Value {
    let output = tree.run("sbom", &["--format", format]);
    assert!(output.status.success(), "{}", error(&output));
    assert!(is_harmless(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn property<'a>(component: &'a Value, name: &str) -> Option<&'a str> {
    let properties = component["properties"].as_array()?;
    properties.iter().find(|property| property["name"] == name)?["value"].as_str()
}

/// Path → SHA-256 of every file of the lock.
fn locked(tree: &Tree) -> BTreeMap<String, String> {
    let output = tree.lock(SPEC);
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[0] == "f").then(|| (words[4].to_owned(), words[2].to_owned()))
    };
    text(&output).lines().filter_map(line).collect()
}

const TOOL_URL: &str = "pkg:deb/debian/libtool%2B@1:2.0-1%2Bb3?arch=amd64&distro=debian-12&upstream=tools";

#[test]
fn spdx_has_every_file_of_the_lock_with_both_digests() {
    let tree = demo();
    let document = sbom(&tree, "spdx");
    let digest = |file: &Value, algorithm: &str| {
        let mut checksums = list(file, "checksums").iter();
        checksums.find(|checksum| checksum["algorithm"] == algorithm).unwrap()["checksumValue"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let files: BTreeMap<String, String> = list(&document, "files")
        .iter()
        .map(|file| (file["fileName"].as_str().unwrap()[1..].to_owned(), digest(file, "SHA256")))
        .collect();
    assert_eq!(files, locked(&tree));
    // FIPS 180: of "abc".
    let tool = list(&document, "files").iter().find(|file| file["fileName"] == "./usr/bin/tool").unwrap();
    assert_eq!(digest(tool, "SHA1"), "a9993e364706816aba3e25717850c26c9cd0d89d");
    assert_eq!(document["spdxVersion"], "SPDX-2.3");
    let comment = |name: &str| {
        let file = list(&document, "files").iter().find(|file| file["fileName"] == name).unwrap();
        file["comment"].as_str().unwrap().to_owned()
    };
    assert!(comment("./usr/share/loose").contains("owned by no package"));
    assert!(comment("./etc/passwd").contains("written by jailmk"));
}

#[test]
fn spdx_relates_the_document_the_jail_its_packages_and_its_files() {
    let document = sbom(&demo(), "spdx");
    let packages = list(&document, "packages");
    let url = |package: &Value| package["externalRefs"][0]["referenceLocator"].as_str().map(str::to_owned);
    let urls: BTreeSet<String> = packages.iter().filter_map(url).collect();
    assert!(urls.contains(TOOL_URL) && urls.len() == 2, "{urls:?}");
    let relationships: BTreeSet<(&str, &str, &str)> = list(&document, "relationships")
        .iter()
        .map(|relationship| {
            let text = |key: &str| relationship[key].as_str().unwrap();
            (text("spdxElementId"), text("relationshipType"), text("relatedSpdxElement"))
        })
        .collect();
    assert!(relationships.contains(&("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Jail")));
    let id = |of: &Value| of["SPDXID"].as_str().unwrap().to_owned();
    let tool = id(list(&document, "files").iter().find(|file| file["fileName"] == "./usr/bin/tool").unwrap());
    let package = id(packages.iter().find(|package| url(package).as_deref() == Some(TOOL_URL)).unwrap());
    assert!(relationships.contains(&(&tool, "EXPANDED_FROM_ARCHIVE", &package)));
    assert!(relationships.contains(&("SPDXRef-Jail", "CONTAINS", &package)));
    assert!(relationships.contains(&("SPDXRef-Jail", "CONTAINS", &tool)));
    // Both packages have it.
    let shared = id(list(&document, "files")
        .iter()
        .find(|file| file["fileName"] == "./usr/share/doc/shared")
        .unwrap());
    assert_eq!(
        relationships
            .iter()
            .filter(|(from, kind, _)| *from == shared && *kind == "EXPANDED_FROM_ARCHIVE")
            .count(),
        2
    );
    // Nothing is related that is not there, and no name stands for two things.
    let mut known: BTreeSet<String> = ["SPDXRef-DOCUMENT".to_owned()].into();
    for element in packages.iter().chain(list(&document, "files")) {
        assert!(known.insert(id(element)), "{element}");
    }
    assert!(relationships.iter().all(|(from, _, to)| known.contains(*from) && known.contains(*to)));
}

#[test]
fn cyclonedx_holds_files_in_their_packages_and_the_others_beside() {
    let tree = demo();
    let document = sbom(&tree, "cyclonedx");
    assert_eq!((&document["bomFormat"], &document["specVersion"]), (&"CycloneDX".into(), &"1.6".into()));
    let mut files = BTreeMap::new();
    let mut references = BTreeSet::new();
    let mut pending: Vec<&Value> = list(&document, "components").iter().collect();
    while let Some(component) = pending.pop() {
        assert!(references.insert(component["bom-ref"].as_str().unwrap()), "{component}");
        if component["type"] == "file" {
            let digest = list(component, "hashes").iter().find(|hash| hash["alg"] == "SHA-256").unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            files.insert(text(&component["name"]), text(&digest["content"]));
        }
        pending.extend(component["components"].as_array().into_iter().flatten());
    }
    assert_eq!(files, locked(&tree));
    let components = list(&document, "components");
    let tool = components.iter().find(|component| component["purl"] == TOOL_URL).unwrap();
    assert_eq!(tool["version"], "1:2.0-1+b3");
    assert!(list(tool, "components").iter().any(|file| file["name"] == "/usr/bin/tool"), "{tool}");
    let loose = components.iter().find(|component| component["name"] == "/usr/share/loose").unwrap();
    assert_eq!(property(loose, "jailmk:origin"), Some("owned by no package"));
    assert!(
        components
            .iter()
            .any(|component| component["type"] == "operating-system" && component["name"] == "debian")
    );
    assert!(!components.iter().any(|component| component["name"] == "absent"));
}

#[test]
fn the_same_tree_gives_the_same_document_and_another_tree_another_name() {
    let tree = demo();
    for (format, name) in [("spdx", "documentNamespace"), ("cyclonedx", "serialNumber")] {
        let first = sbom(&tree, format);
        assert_eq!(first, sbom(&tree, format));
        tree.file("usr/share/loose", "y");
        let second = sbom(&tree, format);
        assert_ne!(first[name], second[name]);
        tree.file("usr/share/loose", "x");
        assert_eq!(first, sbom(&tree, format));
    }
}

#[test]
fn a_file_tells_its_build_id_and_its_package_where_no_database_does() {
    let tree = Tree::new("sbom-notes");
    tree.file("etc/os-release", "ID=fedora\nVERSION_ID=41\n").file("var/lib/rpm/rpmdb.sqlite", "x");
    tree.file("usr/share/object", object());
    tree.spec("name = \"demo\"\n[rootfs]\nfiles = [\"/usr/share/object\"]");
    let output = tree.run("sbom", &["--format", "cyclonedx"]);
    assert!(error(&output).contains("the owners of files are not known"), "{}", error(&output));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let components = list(&document, "components");
    let package = components.iter().find(|component| component["type"] == "library").unwrap();
    assert_eq!(package["purl"], "pkg:rpm/fedora/Tool@1-2.fc41?arch=x86_64&distro=fedora-41");
    let file = &list(package, "components")[0];
    assert_eq!(property(file, "jailmk:build-id"), Some("abcd"));
    // With a database that does not know it, a file's own word counts for nothing.
    tree.dpkg(&[("other", "Version: 1", "/usr/bin/other")]);
    let document = sbom(&tree, "cyclonedx");
    assert!(!list(&document, "components").iter().any(|component| component["type"] == "library"));
}

/// A relocatable object, which no loader would load, with two notes.
fn object() -> Vec<u8> {
    let json = br#"{"type":"rpm","name":"Tool","version":"1-2.fc41","architecture":"x86_64"}"#;
    let mut notes = Vec::new();
    for (owner, kind, descriptor) in [(b"GNU\0", 3u32, &[0xab, 0xcd][..]), (b"FDO\0", 0xcafe_1a7e, &json[..])]
    {
        notes.extend(4u32.to_le_bytes());
        notes.extend((descriptor.len() as u32).to_le_bytes());
        notes.extend(kind.to_le_bytes());
        notes.extend(owner);
        notes.extend(descriptor);
        notes.resize(notes.len().next_multiple_of(4), 0);
    }
    let mut out = vec![0; 120];
    out[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    out[16..24].copy_from_slice(&[1, 0, 62, 0, 1, 0, 0, 0]);
    out[32] = 64;
    out[52..58].copy_from_slice(&[64, 0, 56, 0, 1, 0]);
    out[64] = 4;
    out[72] = 120;
    out[96..104].copy_from_slice(&(notes.len() as u64).to_le_bytes());
    out[112] = 4;
    out.extend(notes);
    out
}

#[test]
fn hostile_names_and_versions_leave_valid_and_harmless_json() {
    let tree = demo();
    let path = [b"usr/share/", hostile_name().as_bytes()].concat();
    tree.file(OsStr::from_bytes(&path), "x");
    tree.dpkg(&[("tool", "Version: \u{1b}[2J\u{9b}1m", "/usr/bin/tool")]);
    for format in ["spdx", "cyclonedx"] {
        let document = sbom(&tree, format).to_string();
        assert!(document.contains("forged") && document.contains("\\\\x1b[2J"), "{document}");
    }
}

/// On request, with the validators that the makers of the formats publish:
/// `pip install 'cyclonedx-python-lib[json-validation]' spdx-tools` into an environment of its own, then
/// `JAILMK_SBOM_PYTHON=ENVIRONMENT/bin/python cargo test --test sbom validators`.
#[test]
fn the_validators_of_both_formats_find_no_fault() {
    const CHECK: &str = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document
fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[2]).read())
faults = validate_full_spdx_document(parse_file(sys.argv[1]))
sys.exit('\\n'.join([str(fault)] * bool(fault) + [fault.validation_message for fault in faults]) or 0)
";
    let Some(python) = std::env::var_os("JAILMK_SBOM_PYTHON") else { return };
    let tree = demo();
    let path = [b"usr/share/", hostile_name().as_bytes()].concat();
    tree.file(OsStr::from_bytes(&path), "x").file("usr/share/object", object());
    let documents = ["spdx", "cyclonedx"].map(|format| {
        // The name tells the reader of SPDX which form it has.
        let place = tree.root().join(format!("document.{format}.json"));
        std::fs::write(&place, sbom(&tree, format).to_string()).unwrap();
        place
    });
    let output = std::process::Command::new(python).args(["-c", CHECK]).args(&documents).output().unwrap();
    assert!(output.status.success(), "{}", error(&output));
}
