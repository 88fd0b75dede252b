use std::path::PathBuf;
use std::sync::Arc;

use super::*;
use crate::closure::Entry as ClosureEntry;
use crate::spec::*;

/// A spec of which only the name is written.
pub(crate) fn spec() -> Spec {
    crate::spec::parse("name = 'test'", "spec.toml").unwrap()
}

fn at<T>(value: T) -> Placed<T> {
    Placed { value, at: Position { file: Arc::from("spec.toml"), line: 1, column: 1 } }
}

fn mount(from: &str, to: &str) -> Mount {
    Mount {
        from: at(PathBuf::from(from)),
        to: JailPath::new(to).unwrap(),
        access: Access::ReadOnly,
        exec: true,
        create: false,
        optional: false,
    }
}

fn closure(entries: &[(&str, closure::Node)]) -> Closure {
    let reason = Reason::Spec { key: "files", value: "x".into() };
    let entry = |node: &closure::Node| ClosureEntry { node: node.clone(), reason: reason.clone() };
    Closure {
        entries: entries.iter().map(|(path, node)| (JailPath::new(path).unwrap(), entry(node))).collect(),
        ..Closure::default()
    }
}

/// A caller without home and working directory.
pub(super) fn nobody() -> Caller {
    Caller { home: None, directory: None, ..Caller::current() }
}

fn file(mode: u32) -> closure::Node {
    closure::Node::Content { bytes: b"x".to_vec(), mode }
}

fn link(target: &str) -> closure::Node {
    closure::Node::Symlink(PathBuf::from(target))
}

fn plan(spec: &Spec, entries: &[(&str, closure::Node)]) -> Result<Manifest, ManifestError> {
    let caller = Caller {
        home: HostPath::absolute("/nonexistent/home"),
        directory: HostPath::absolute("/nonexistent/here"),
        ..nobody()
    };
    Manifest::plan_for(spec, &closure(entries), &caller)
}

fn mode_of(manifest: &Manifest, path: &str) -> Option<u32> {
    manifest.get(&JailPath::new(path).unwrap()).map(|entry| entry.mode)
}

fn text_of(manifest: &Manifest, path: &str) -> String {
    match &manifest.get(&JailPath::new(path).unwrap()).unwrap().node {
        Node::Written(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{path} is {other:?}"),
    }
}

#[test]
fn an_empty_closure_gets_the_skeleton() {
    let manifest = plan(&spec(), &[]).unwrap();
    assert_eq!(mode_of(&manifest, "/tmp"), Some(0o1777));
    assert_eq!(mode_of(&manifest, "/var/tmp"), Some(0o1777));
    assert_eq!(mode_of(&manifest, "/root"), Some(0o755));
    assert_eq!(mode_of(&manifest, "/home/agent"), Some(0o755));
    assert_eq!(mode_of(&manifest, "/dev/null"), Some(0o444));
    assert_eq!(mode_of(&manifest, "/workspace"), None);
    assert_eq!(text_of(&manifest, "/etc/hostname"), "test\n");
    let passwd = text_of(&manifest, "/etc/passwd");
    assert!(passwd.contains("agent:x:1000:1000:agent:/home/agent:/bin/sh\n"), "{passwd}");
    assert!(passwd.contains("root:x:0:0:") && passwd.contains("nobody:x:65534:65534:"));
    assert!(text_of(&manifest, "/etc/group").contains("agent:x:1000:\n"));
}

#[test]
fn a_workspace_gets_its_mount_point() {
    let mut spec = spec();
    spec.workspace = Some(Workspace {
        path: at(".".into()),
        mode: WorkspaceMode::Direct,
        hide: Vec::new(),
        protect: Vec::new(),
    });
    assert_eq!(mode_of(&plan(&spec, &[]).unwrap(), "/workspace"), Some(0o755));
}

#[test]
fn bash_is_the_shell_when_it_is_there_by_whatever_name() {
    let merged = [("/bin", link("usr/bin")), ("/usr/bin/bash", file(0o555))];
    assert!(text_of(&plan(&spec(), &merged).unwrap(), "/etc/passwd").contains(":/bin/bash\n"));
    let dangling = [("/bin/bash", link("dash"))];
    assert!(text_of(&plan(&spec(), &dangling).unwrap(), "/etc/passwd").contains(":/bin/sh\n"));
}

#[test]
fn what_the_closure_has_below_etc_stays() {
    let manifest = plan(&spec(), &[("/etc/passwd", file(0o444)), ("/etc/mtab", link("x"))]).unwrap();
    assert_eq!(text_of(&manifest, "/etc/passwd"), "x");
}

#[test]
fn no_file_is_writable_or_changes_identity() {
    assert_eq!(
        mode_of(&plan(&spec(), &[("/usr/bin/su", file(0o6777))]).unwrap(), "/usr/bin/su"),
        Some(0o555)
    );
}

#[test]
fn parents_come_before_children_and_are_directories() {
    let manifest = plan(&spec(), &[("/a/b/c", file(0o444)), ("/a-b", file(0o444))]).unwrap();
    let paths: Vec<_> = manifest.entries().map(|(path, _)| path.to_string()).collect();
    let a: Vec<_> = paths.iter().filter(|path| path.starts_with("/a")).collect();
    assert_eq!(a, ["/a", "/a/b", "/a/b/c", "/a-b"]);
}

#[test]
fn a_file_where_a_directory_is_needed_names_both_reasons() {
    let error = plan(&spec(), &[("/dev", file(0o444))]).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("/dev") && text.contains("every jail") && text.contains("files \"x\""), "{text}");
    let below = plan(&spec(), &[("/a", file(0o444)), ("/a/b", file(0o444))]).unwrap_err();
    assert!(matches!(below, ManifestError::Conflict { .. }));
}

#[test]
fn a_file_under_a_mount_of_every_jail_is_refused() {
    let error = plan(&spec(), &[("/home/agent/.profile", file(0o444))]).unwrap_err();
    assert!(matches!(error, ManifestError::Covered { .. }), "{error}");
    let directory = plan(&spec(), &[("/run/lock", closure::Node::Directory)]);
    assert!(directory.is_ok());
}

#[test]
fn a_mount_target_gets_a_mount_point_of_the_right_kind() {
    let mut spec = spec();
    spec.mounts = vec![
        mount("/dev/null", "/opt/file"),
        mount("/dev", "/opt/directory"),
        mount("/nonexistent", "/opt/missing"),
        mount("~/.cache", "/home/agent/.cache"),
        mount("/dev", "/opt/directory/below"),
    ];
    let manifest = plan(&spec, &[]).unwrap();
    let node = |path: &str| manifest.get(&JailPath::new(path).unwrap()).map(|entry| entry.node.clone());
    assert_eq!(node("/opt/file"), Some(Node::Written(Vec::new())));
    assert_eq!(node("/opt/directory"), Some(Node::Directory));
    assert_eq!(node("/opt/missing"), Some(Node::Directory));
    assert_eq!(node("/home/agent/.cache"), None);
    assert_eq!(node("/opt/directory/below"), None);
}

#[test]
fn a_mount_target_behind_a_link_is_refused_with_the_path_to_write() {
    let mut spec = spec();
    spec.mounts = vec![mount("/dev", "/lib/modules")];
    let tree = [("/lib", link("usr/lib")), ("/usr/lib", closure::Node::Directory)];
    let error = plan(&spec, &tree).unwrap_err();
    assert_eq!(error.hints(), ["write `/usr/lib/modules` instead"]);
}

#[test]
fn a_mount_on_a_file_of_another_kind_is_a_conflict() {
    let mut spec = spec();
    spec.mounts = vec![mount("/dev", "/etc/passwd")];
    assert!(matches!(plan(&spec, &[]), Err(ManifestError::Conflict { .. })));
    spec.mounts = vec![mount("/dev", "/proc/sys")];
    assert!(matches!(plan(&spec, &[]), Err(ManifestError::Covered { .. })));
    spec.mounts = vec![mount("/dev", "/")];
    assert!(matches!(plan(&spec, &[]), Err(ManifestError::MountOnRoot)));
}

#[test]
fn a_tilde_without_home_is_an_error_with_a_cure() {
    let mut spec = spec();
    spec.mounts = vec![mount("~/x", "/x")];
    let error = Manifest::plan_for(&spec, &Closure::default(), &nobody()).unwrap_err();
    assert!(matches!(error, ManifestError::Locate(LocateError::HomeUnknown { .. })));
    assert!(!error.hints().is_empty());
}

#[test]
fn a_user_name_cannot_forge_a_line_or_climb() {
    for name in ["", "..", "a:b", "a\nroot", "a/b"] {
        let mut spec = spec();
        spec.process.user = name.into();
        assert!(matches!(plan(&spec, &[]), Err(ManifestError::User { .. })), "{name:?}");
    }
}

#[test]
fn links_are_followed_to_their_end_and_loops_are_not() {
    let tree = [
        ("/a/up", link("../b/file")),
        ("/b/file", file(0o444)),
        ("/b/back", link("/a/up")),
        ("/loop", link("loop")),
        ("/out", link("../../../b/file")),
    ];
    let manifest = plan(&spec(), &tree).unwrap();
    let resolve = |path: &str| manifest.resolve(&JailPath::new(path).unwrap()).map(|path| path.to_string());
    assert_eq!(resolve("/b/back").as_deref(), Some("/b/file"));
    assert_eq!(resolve("/out").as_deref(), Some("/b/file"));
    assert_eq!(resolve("/loop"), None);
    assert_eq!(resolve("/b/file/x"), None);
}
