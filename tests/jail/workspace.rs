//! Workspaces under review.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use super::{Jail, Ran, binary, need};

/// The section of a workspace that is reviewed: `work` in the jail's place.
pub const REVIEW: &str = "[workspace]\nmode = \"review\"\npath = \"PLACE/work\"\n";

/// The section of one that is written at once: `work` in the jail's place.
pub const DIRECT: &str = "[workspace]\nmode = \"direct\"\npath = \"PLACE/work\"\n";

/// A jail with the small tools and a direct workspace, to which sections and further keys are added.
pub fn at_work(sections: &str) -> Jail {
    let jail = Jail::tools(format!("{DIRECT}{sections}"));
    jail.place.directory("work");
    jail
}

/// An overlay in a user namespace; User Mode Linux has none.
pub fn need_overlay() -> bool {
    need("an overlay in a user namespace", has_overlay(), &["uml"])
}

/// Whether there is one. Tried, for a module that is not loaded yet is in no list.
pub fn has_overlay() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    *THERE.get_or_init(|| {
        let output = Command::new(binary()).args(["check", "--json"]).output().expect("run jailmk check");
        let findings: serde_json::Value = serde_json::from_slice(&output.stdout).expect("read JSON");
        let mut findings = findings.as_array().expect("a list").iter();
        findings.any(|finding| finding["name"] == "overlay" && finding["status"] == "works")
    })
}

/// A jail with the small tools whose workspace is reviewed.
pub fn reviewed() -> Jail {
    let jail = Jail::tools(REVIEW);
    jail.place.directory("work");
    jail
}

/// The same from another `[rootfs]` and further sections.
pub fn reviewed_with(sections: &str) -> Jail {
    let jail = Jail::spec(format!("{sections}\n{REVIEW}"));
    jail.place.directory("work");
    jail
}

/// What a tree holds: path → kind, permission bits, owner, content.
pub type Snapshot = BTreeMap<Vec<u8>, (u32, u32, Vec<u8>)>;

/// Everything below a directory but its git directory's own bookkeeping of inodes.
pub fn snapshot(top: &Path) -> Snapshot {
    let mut all = Snapshot::new();
    let mut todo = vec![top.to_owned()];
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(&directory).expect("read a directory") {
            let path = entry.expect("read a directory").path();
            let metadata = fs::symlink_metadata(&path).expect("look at a file");
            let content = if metadata.is_symlink() {
                fs::read_link(&path).expect("read a link").as_os_str().as_bytes().to_vec()
            } else if metadata.is_file() {
                fs::read(&path).expect("read a file")
            } else {
                Vec::new()
            };
            if metadata.is_dir() {
                todo.push(path.clone());
            }
            let name = path.strip_prefix(top).expect("below the top").as_os_str().as_bytes().to_vec();
            all.insert(name, (metadata.mode(), metadata.uid(), content));
        }
    }
    all
}

/// The lines of `jailmk diff`.
pub fn changes(jail: &Jail) -> Vec<String> {
    let ran = jail.jailmk("diff", &[]).succeeded();
    assert_eq!(ran.stderr, "", "{ran}");
    ran.stdout.lines().map(str::to_owned).collect()
}

/// Runs `jailmk apply` with these arguments.
pub fn apply(jail: &Jail, arguments: &[&str]) -> Ran {
    jail.jailmk("apply", arguments)
}
