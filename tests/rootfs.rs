//! Trees on disk, through the library: whole or not at all, and known to be what was built.

mod need;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use jailmk::closure::{Closure, Entry, Node, Reason};
use jailmk::error::{Report, StageError};
use jailmk::path::{HostPath, JailPath};
use jailmk::rootfs::{
    BuildOptions, Built, Change, CopyFault, Freshness, Rootfs, RootfsError, Staleness, State, build,
    lock_path, save_lock,
};
use jailmk::spec::*;

/// A directory of one test: host files, state, spec.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("jailmk-rootfs-{}-{count}", std::process::id()));
        fs::create_dir_all(path.join("host")).unwrap();
        Place(path)
    }

    fn host(&self, name: impl AsRef<OsStr>, content: &[u8]) -> HostPath {
        let path = self.0.join("host").join(name.as_ref());
        fs::write(&path, content).unwrap();
        HostPath::absolute(path).unwrap()
    }

    fn state(&self) -> State {
        State::at(HostPath::absolute(self.0.join("state")).unwrap()).unwrap()
    }

    fn spec(&self) -> Spec {
        let text = "name = \"test\"\n";
        jailmk::spec::parse(text, self.0.join("spec.toml").to_str().unwrap()).unwrap()
    }

    /// A closure with a program, a link to it, a written file, a deep directory.
    fn closure(&self) -> Closure {
        let program = self.host("program", &[7; 300_000]);
        let mut closure = Closure::default();
        let program = Node::File { origin: program, mode: 0o755 };
        insert(&mut closure, "/usr/bin/program", program, "programs");
        insert(&mut closure, "/bin", Node::Symlink("usr/bin".into()), "symlinks");
        insert(&mut closure, "/etc/note", Node::Content { bytes: b"note\n".to_vec(), mode: 0o644 }, "files");
        insert(&mut closure, "/srv/a/b/c", Node::Directory, "directories");
        closure
    }

    fn build(&self, closure: &Closure) -> Result<Built, RootfsError> {
        build(&self.spec(), &self.state(), &BuildOptions::default(), closure)
    }

    /// What the state keeps for the one spec of this place.
    fn kept(&self) -> Vec<String> {
        let top = fs::read_dir(self.0.join("state/rootfs")).unwrap().next().unwrap().unwrap().path();
        let mut names: Vec<String> = fs::read_dir(top)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != "spec")
            .collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn insert(closure: &mut Closure, path: impl AsRef<Path>, node: Node, key: &'static str) {
    let reason = Reason::Spec { key, value: path.as_ref().to_string_lossy().into_owned() };
    closure.entries.insert(JailPath::new(path).unwrap(), Entry { node, reason });
}

/// Kind, mode, times, content or target of every path below `top`.
fn listing(top: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_symlink() {
            format!("{:?}", fs::read_link(&path).unwrap())
        } else if metadata.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            String::new()
        } else {
            let bytes = fs::read(&path).unwrap();
            format!(
                "{} {}",
                bytes.len(),
                bytes.iter().fold(0u64, |sum, byte| sum * 31 % 65_521 + u64::from(*byte))
            )
        };
        let name = path.strip_prefix(top).unwrap();
        lines.push(format!(
            "{name:?} {:o} {}.{} {content}",
            metadata.mode(),
            metadata.mtime(),
            metadata.mtime_nsec()
        ));
    }
    lines.sort();
    lines
}

fn skipped(what: &str) {
    need::need(what, false, &[]);
}

#[test]
fn a_tree_is_what_the_closure_says() {
    let place = Place::new();
    let built = place.build(&place.closure()).unwrap();
    let tree = built.tree.as_path();
    assert_eq!(fs::read(tree.join("usr/bin/program")).unwrap(), vec![7; 300_000]);
    assert_eq!(fs::metadata(tree.join("usr/bin/program")).unwrap().mode() & 0o7777, 0o555);
    assert_eq!(fs::read_link(tree.join("bin")).unwrap(), Path::new("usr/bin"));
    assert_eq!(fs::metadata(tree.join("etc/note")).unwrap().mode() & 0o7777, 0o444);
    assert_eq!(fs::metadata(tree.join("tmp")).unwrap().mode() & 0o7777, 0o1777);
    assert_eq!(fs::metadata(tree.join("srv/a/b/c")).unwrap().mtime(), 1);
    assert!(!built.reused && built.bytes > 300_000 && built.files > 2);
    let rootfs = built.rootfs.unwrap();
    rootfs.check_seal().unwrap();
    assert_eq!(rootfs.verify().unwrap(), []);
    assert_eq!(rootfs.lock().unwrap(), built.lock);
}

#[test]
fn the_sources_time_is_kept_and_its_dangerous_bits_are_not() {
    let place = Place::new();
    let origin = place.host("suid", b"x");
    fs::set_permissions(&origin, fs::Permissions::from_mode(0o6755)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 123);
    fs::File::options().write(true).open(&origin).unwrap().set_modified(time).unwrap();
    let mut closure = Closure::default();
    insert(&mut closure, "/suid", Node::File { origin, mode: 0o6755 }, "files");
    let built = place.build(&closure).unwrap();
    let metadata = fs::metadata(built.tree.as_path().join("suid")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o555);
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000_000, 123));
}

#[test]
fn two_builds_of_one_input_are_identical() {
    let place = Place::new();
    let closure = place.closure();
    let other = State::at(HostPath::absolute(place.0.join("other")).unwrap()).unwrap();
    let one = place.build(&closure).unwrap();
    let two = build(&place.spec(), &other, &BuildOptions::default(), &closure).unwrap();
    assert_eq!(one.lock.to_string(), two.lock.to_string());
    assert_eq!(listing(one.tree.as_path()), listing(two.tree.as_path()));
}

#[test]
fn an_unchanged_build_is_reused_and_a_changed_one_is_not() {
    let place = Place::new();
    let closure = place.closure();
    let first = place.build(&closure).unwrap();
    let again = place.build(&closure).unwrap();
    assert!(again.reused);
    assert_eq!(again.tree, first.tree);
    place.host("program", b"other");
    let changed = place.build(&closure).unwrap();
    assert!(!changed.reused);
    assert_eq!(fs::read(changed.tree.as_path().join("usr/bin/program")).unwrap(), b"other");
}

#[test]
fn a_generation_in_use_outlives_a_build_and_is_removed_by_the_next() {
    let place = Place::new();
    let closure = place.closure();
    let old = place.build(&closure).unwrap();
    place.host("program", b"second");
    let new = place.build(&closure).unwrap();
    assert_ne!(old.tree, new.tree);
    old.rootfs.as_ref().unwrap().check_seal().unwrap();
    drop(old);
    place.host("program", b"third");
    drop(place.build(&closure).unwrap());
    // The second is still held by `new`; the first is gone.
    assert_eq!(place.kept().len(), 3, "{:?}", place.kept());
    drop(new);
    place.host("program", b"fourth");
    drop(place.build(&closure).unwrap());
    assert_eq!(place.kept().len(), 2, "{:?}", place.kept());
}

#[test]
fn what_a_killed_build_left_is_removed() {
    let place = Place::new();
    let closure = place.closure();
    drop(place.build(&closure).unwrap());
    let top = fs::read_dir(place.0.join("state/rootfs")).unwrap().next().unwrap().unwrap().path();
    let left = top.join("staging-killed/root/usr/bin");
    fs::create_dir_all(&left).unwrap();
    fs::write(left.join("half"), b"x").unwrap();
    fs::set_permissions(&left, fs::Permissions::from_mode(0o500)).unwrap();
    symlink("/etc", top.join("staging-killed/root/link")).unwrap();
    fs::create_dir_all(top.join("trash-killed/root")).unwrap();
    place.host("program", b"changed");
    drop(place.build(&closure).unwrap());
    let kept = place.kept();
    assert!(kept.len() == 2 && kept[0] == "current" && kept[1].starts_with("gen-"), "{kept:?}");
    assert!(Path::new("/etc/passwd").exists());
}

#[test]
fn a_failed_build_leaves_nothing_and_keeps_the_current_tree() {
    let place = Place::new();
    let mut closure = place.closure();
    let first = place.build(&closure).unwrap();
    let origin = HostPath::absolute(place.0.join("host/gone")).unwrap();
    insert(&mut closure, "/gone", Node::File { origin, mode: 0o444 }, "files");
    let error = place.build(&closure).unwrap_err();
    assert!(matches!(error, RootfsError::Copy { fault: CopyFault::Vanished, .. }), "{error}");
    assert!(Report(&error).to_string().contains("host/gone to /gone: it does not exist any more\nhint: "));
    assert_eq!(place.kept().len(), 2);
    let (current, _) = Rootfs::current(&place.state(), &place.spec()).unwrap().unwrap();
    assert_eq!(current.tree(), first.tree);
}

#[test]
fn builds_at_once_all_succeed_and_one_tree_remains() {
    let place = Place::new();
    let closure = place.closure();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| place.build(&closure).unwrap())).collect();
        for thread in threads {
            let rootfs = thread.join().unwrap().rootfs.unwrap();
            rootfs.check_seal().unwrap();
            assert_eq!(rootfs.verify().unwrap(), []);
        }
    });
    drop(place.build(&closure).unwrap());
    assert_eq!(place.kept().len(), 2, "{:?}", place.kept());
}

#[test]
fn a_reader_beside_builds_always_finds_a_whole_tree() {
    let place = Place::new();
    let note = |text: String| {
        let mut closure = place.closure();
        let node = Node::Content { bytes: text.into_bytes(), mode: 0o444 };
        insert(&mut closure, "/etc/note", node, "files");
        closure
    };
    drop(place.build(&note("0".into())).unwrap());
    std::thread::scope(|scope| {
        let builder = scope.spawn(|| (1..40).for_each(|n| drop(place.build(&note(n.to_string())).unwrap())));
        while !builder.is_finished() {
            let (rootfs, _) = Rootfs::current(&place.state(), &place.spec()).unwrap().unwrap();
            rootfs.check_seal().unwrap();
        }
    });
}

#[test]
fn every_kind_of_tampering_is_found_by_seal_and_verify() {
    type Tamper = fn(&Path);
    let cases: [(&str, Tamper, Change); 8] = [
        (
            "/usr/bin/program",
            |tree| {
                let path = tree.join("usr/bin/program");
                let before = fs::metadata(&path).unwrap().modified().unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
                let mut bytes = fs::read(&path).unwrap();
                bytes[100] ^= 1;
                fs::write(&path, bytes).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o555)).unwrap();
                fs::File::open(&path).unwrap().set_modified(before).unwrap();
            },
            Change::Content,
        ),
        (
            "/etc/note",
            |tree| fs::set_permissions(tree.join("etc/note"), fs::Permissions::from_mode(0o4555)).unwrap(),
            Change::Mode { expected: 0o444, found: 0o4555 },
        ),
        (
            "/srv/a",
            |tree| fs::set_permissions(tree.join("srv/a"), fs::Permissions::from_mode(0o777)).unwrap(),
            Change::Mode { expected: 0o755, found: 0o777 },
        ),
        (
            "/bin",
            |tree| {
                fs::remove_file(tree.join("bin")).unwrap();
                symlink("usr/evil", tree.join("bin")).unwrap();
            },
            Change::Target,
        ),
        ("/srv/a/b/extra", |tree| fs::write(tree.join("srv/a/b/extra"), b"x").unwrap(), Change::Extra),
        ("/etc/note", |tree| fs::remove_file(tree.join("etc/note")).unwrap(), Change::Missing),
        (
            "/srv/a/b",
            |tree| {
                fs::remove_dir_all(tree.join("srv/a/b")).unwrap();
                symlink("/etc", tree.join("srv/a/b")).unwrap();
            },
            Change::Kind,
        ),
        (
            "/etc/note",
            |tree| {
                let path = tree.join("etc/note");
                fs::remove_file(&path).unwrap();
                fs::write(&path, b"longer than it was\n").unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
            },
            Change::Size { expected: 5, found: 19 },
        ),
    ];
    for (path, tamper, change) in cases {
        let place = Place::new();
        let built = place.build(&place.closure()).unwrap();
        tamper(built.tree.as_path());
        let rootfs = built.rootfs.as_ref().unwrap();
        let found = rootfs.verify().unwrap();
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].path.to_string().as_str(), &found[0].what), (path, &change));
        let error = rootfs.check_seal().unwrap_err();
        let RootfsError::Tampered { differences, .. } = &error else { panic!("{error}") };
        let expected = if change == Change::Extra { "/srv/a/b" } else { path };
        assert!(differences.iter().any(|d| d.path.to_string() == expected), "{path} {change:?}: {error}");
        assert_eq!(error.hints().len(), 2);
        drop(built);
        let again = place.build(&place.closure()).unwrap();
        assert!(!again.reused);
        again.rootfs.unwrap().check_seal().unwrap();
    }
}

#[test]
fn a_damaged_seal_or_lock_is_refused_and_a_build_cures_it() {
    let place = Place::new();
    for name in ["seal", "lock", "inputs"] {
        drop(place.build(&place.closure()).unwrap());
        let (rootfs, _) = Rootfs::current(&place.state(), &place.spec()).unwrap().unwrap();
        let path = rootfs.path().as_path().join(name);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        drop(rootfs);
        let (rootfs, freshness) = Rootfs::current(&place.state(), &place.spec()).unwrap().unwrap();
        match name {
            "seal" => assert!(matches!(rootfs.check_seal(), Err(RootfsError::Seal { .. }))),
            "lock" => assert!(matches!(rootfs.verify(), Err(RootfsError::Lock { .. }))),
            _ => assert_eq!(freshness, Freshness::Stale(Staleness::Unknown)),
        }
        drop(rootfs);
        drop(place.build(&place.closure()).unwrap());
        let (rootfs, freshness) = Rootfs::current(&place.state(), &place.spec()).unwrap().unwrap();
        rootfs.check_seal().unwrap();
        assert_eq!(rootfs.verify().unwrap(), []);
        assert_eq!(freshness, Freshness::Fresh);
    }
}

#[test]
fn a_tree_is_stale_when_its_spec_or_a_named_file_changes() {
    let place = Place::new();
    let (state, mut spec) = (place.state(), place.spec());
    let freshness = |spec: &Spec| Rootfs::current(&state, spec).unwrap().map(|(_, freshness)| freshness);
    assert_eq!(freshness(&spec), None);
    drop(place.build(&place.closure()).unwrap());
    assert_eq!(freshness(&spec), Some(Freshness::Fresh));
    let origin = place.host("program", b"upgraded");
    assert_eq!(freshness(&spec), Some(Freshness::Stale(Staleness::File(origin))));
    spec.sources[0].text = Arc::from("name = \"test\" # changed\n");
    assert_eq!(freshness(&spec), Some(Freshness::Stale(Staleness::Spec)));
}

#[test]
fn a_mount_source_that_becomes_a_file_makes_the_tree_stale() {
    let place = Place::new();
    let (state, mut spec) = (place.state(), place.spec());
    let from = place.0.join("host/source");
    spec.mounts.push(Mount {
        from: Placed {
            value: from.clone(),
            at: Position { file: Arc::from("spec.toml"), line: 1, column: 1 },
        },
        to: JailPath::new("/opt/source").unwrap(),
        access: Access::ReadOnly,
        exec: true,
        create: false,
        optional: false,
    });
    drop(build(&spec, &state, &BuildOptions::default(), &place.closure()).unwrap());
    fs::create_dir(&from).unwrap();
    assert_eq!(Rootfs::current(&state, &spec).unwrap().unwrap().1, Freshness::Fresh);
    fs::remove_dir(&from).unwrap();
    fs::write(&from, b"").unwrap();
    assert_eq!(Rootfs::current(&state, &spec).unwrap().unwrap().1, Freshness::Stale(Staleness::Spec));
}

#[test]
fn a_source_that_is_no_regular_file_is_refused_without_waiting() {
    let place = Place::new();
    let pipe = place.0.join("host/pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/etc/passwd", place.0.join("host/link")).unwrap();
    for name in ["host/pipe", "host/link", "host"] {
        let mut closure = Closure::default();
        let origin = HostPath::absolute(place.0.join(name)).unwrap();
        insert(&mut closure, "/x", Node::File { origin, mode: 0o444 }, "files");
        let error = place.build(&closure).unwrap_err();
        assert!(matches!(error, RootfsError::Copy { fault: CopyFault::NotRegular, .. }), "{name}: {error:?}");
    }
}

#[test]
fn a_source_that_grows_while_it_is_copied_is_an_error() {
    let place = Place::new();
    let origin = place.host("log", &vec![1; 16 << 20]);
    let mut closure = Closure::default();
    insert(&mut closure, "/log", Node::File { origin: origin.clone(), mode: 0o444 }, "files");
    let stop = std::sync::atomic::AtomicBool::new(false);
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = fs::File::options().append(true).open(&origin).unwrap();
            while !stop.load(Ordering::Relaxed) {
                std::io::Write::write_all(&mut file, b"x").unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        });
        let error = place.build(&closure).unwrap_err();
        stop.store(true, Ordering::Relaxed);
        error
    });
    assert!(matches!(error, RootfsError::Copy { fault: CopyFault::Changed, .. }), "{error:?}");
    assert_eq!(place.kept().len(), 0);
}

#[test]
fn hostile_names_are_built_locked_and_verified() {
    let place = Place::new();
    let mut closure = Closure::default();
    for name in [b"new\nline".as_slice(), b"\xff\xfe", b"\x1b[2J", b"a b%", &[b'n'; 255]] {
        let path = Path::new("/opt").join(OsStr::from_bytes(name));
        let origin = place.host(OsStr::from_bytes(name), name);
        insert(&mut closure, &path, Node::File { origin, mode: 0o444 }, "files");
        let mut linked = OsStr::from_bytes(&name[..name.len().min(250)]).to_owned();
        linked.push(".l");
        let target = Node::Symlink(PathBuf::from(OsStr::from_bytes(name)));
        insert(&mut closure, Path::new("/opt").join(linked), target, "symlinks");
    }
    let built = place.build(&closure).unwrap();
    let rootfs = built.rootfs.unwrap();
    assert_eq!(rootfs.lock().unwrap(), built.lock);
    assert_eq!(rootfs.verify().unwrap(), []);
    rootfs.check_seal().unwrap();
    assert!(place.build(&closure).unwrap().reused);
}

#[test]
fn a_sparse_file_stays_sparse() {
    let place = Place::new();
    let origin = place.host("sparse", b"");
    fs::File::options().write(true).open(&origin).unwrap().set_len(32 << 20).unwrap();
    let mut closure = Closure::default();
    insert(&mut closure, "/sparse", Node::File { origin, mode: 0o444 }, "files");
    let built = place.build(&closure).unwrap();
    let metadata = fs::metadata(built.tree.as_path().join("sparse")).unwrap();
    assert_eq!(metadata.len(), 32 << 20);
    assert!(metadata.blocks() < 1024);
}

#[test]
fn an_output_directory_is_made_replaced_and_never_stolen() {
    let place = Place::new();
    let target = place.0.join("out");
    let into = || BuildOptions { output: HostPath::absolute(target.clone()), ..BuildOptions::default() };
    let make = || build(&place.spec(), &place.state(), &into(), &place.closure());
    fs::create_dir(&target).unwrap();
    fs::write(target.join("precious"), b"x").unwrap();
    assert!(matches!(make().unwrap_err(), RootfsError::Foreign { .. }));
    assert!(target.join("precious").exists());
    fs::remove_file(target.join("precious")).unwrap();
    let first = make().unwrap();
    assert!(first.rootfs.is_none());
    assert_eq!(fs::read_to_string(place.0.join("out.lock")).unwrap(), first.lock.to_string());
    fs::create_dir_all(place.0.join(".out.jailmk-killed/root")).unwrap();
    place.host("other", b"x");
    let inode = fs::metadata(&target).unwrap().ino();
    make().unwrap();
    assert_ne!(fs::metadata(&target).unwrap().ino(), inode);
    fs::write(target.join("srv/mine"), b"x").unwrap();
    let error = make().unwrap_err();
    assert!(matches!(error, RootfsError::Altered { .. }), "{error}");
    assert!(target.join("srv/mine").exists());
    fs::remove_dir_all(&target).unwrap();
    fs::write(&target, b"a file").unwrap();
    assert!(matches!(make().unwrap_err(), RootfsError::Foreign { .. }));
    fs::remove_file(&target).unwrap();
    symlink("host", &target).unwrap();
    assert!(matches!(make().unwrap_err(), RootfsError::Foreign { .. }));
    let left: Vec<_> = fs::read_dir(&place.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.as_bytes().starts_with(b".out")), "{left:?}");
}

#[test]
fn a_locked_build_refuses_another_result() {
    let place = Place::new();
    let lock = place.build(&place.closure()).unwrap().lock;
    let locked = BuildOptions { locked: Some(&lock), ..BuildOptions::default() };
    build(&place.spec(), &place.state(), &locked, &place.closure()).unwrap();
    let closure = place.closure();
    place.host("program", b"changed");
    let error = build(&place.spec(), &place.state(), &locked, &closure).unwrap_err();
    assert!(error.to_string().contains("1 paths differ: /usr/bin/program"), "{error}");
    assert_eq!(place.kept().len(), 2);
}

#[test]
fn the_lock_file_stands_beside_the_spec() {
    let place = Place::new();
    let path = lock_path(&place.spec()).unwrap();
    assert_eq!(path.as_path(), place.0.join("spec.lock"));
    let lock = place.build(&place.closure()).unwrap().lock;
    save_lock(&path, &lock).unwrap();
    save_lock(&path, &lock).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), lock.to_string());
    let mut spec = place.spec();
    spec.sources[0].origin = SourceOrigin::BuiltIn("base");
    assert_eq!(lock_path(&spec), None);
}

#[test]
fn a_state_that_others_can_write_is_refused() {
    let place = Place::new();
    let path = place.0.join("open");
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    let error = State::at(HostPath::absolute(path).unwrap()).unwrap_err();
    assert!(matches!(error, RootfsError::StateUnsafe { .. }) && !error.hints().is_empty());
    assert_eq!(fs::metadata(place.state().path().as_path()).unwrap().mode() & 0o7777, 0o700);
}

/// Runs the ignored test `name` of this file under `wrapper`; the place it may use is in PLACE.
fn run_wrapped(name: &str, place: &Place, wrapper: &[&str]) -> std::process::Output {
    let mut command = std::process::Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", name, "--ignored", "--nocapture"]).env("PLACE", &place.0);
    command.output().unwrap()
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left_on_it() {
    let place = Place::new();
    fs::create_dir(place.0.join("state")).unwrap();
    let script = "mount -t tmpfs -o size=1m,mode=700 tmpfs \"$PLACE/state\" || exit 77; exec \"$@\"";
    let output = run_wrapped("inner_full_disk", &place, &["unshare", "-Urm", "sh", "-c", script, "sh"]);
    match output.status.code() {
        Some(77) | Some(1) if String::from_utf8_lossy(&output.stderr).contains("unshare failed") => {
            skipped("user namespaces");
        }
        Some(77) => skipped("tmpfs mounts in user namespaces"),
        _ => assert_one_passed(&output),
    }
}

/// The wrapped test ran, and held.
fn assert_one_passed(output: &std::process::Output) {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[ignore = "run by a_full_disk_is_named_and_nothing_is_left_on_it"]
fn inner_full_disk() {
    let place = Place(PathBuf::from(std::env::var_os("PLACE").unwrap()));
    let mut closure = place.closure();
    let origin = place.host("large", &vec![9; 4 << 20]);
    insert(&mut closure, "/large", Node::File { origin, mode: 0o444 }, "files");
    let error = place.build(&closure).unwrap_err();
    let text = Report(&error).to_string();
    assert!(
        text.contains("needs about 5 MiB, 1 MiB were free") && text.contains("hint: make room"),
        "{text}"
    );
    assert_eq!(place.kept(), Vec::<String>::new());
    std::mem::forget(place);
}

#[test]
fn an_unreadable_source_is_named() {
    let place = Place::new();
    let wrapper = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    if !nix::unistd::geteuid().is_root() {
        let error = unreadable(&place);
        return assert!(matches!(error, RootfsError::Copy { fault: CopyFault::Read(_), .. }));
    }
    // Root reads everything, and may not reach this directory as another: a directory of its own.
    let open = std::env::temp_dir().join(format!("jailmk-unreadable-{}", std::process::id()));
    let open = Place(open);
    fs::create_dir_all(open.0.join("host")).unwrap();
    let test = open.0.join("test");
    fs::copy(std::env::current_exe().unwrap(), &test).unwrap();
    for path in [&open.0, &open.0.join("host"), &test] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        nix::unistd::chown(path, Some(65534.into()), Some(65534.into())).unwrap();
    }
    let mut command = std::process::Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(&test).args(["--exact", "inner_unreadable", "--ignored", "--nocapture"]);
    match command.env("PLACE", &open.0).output() {
        Ok(output) => assert_one_passed(&output),
        Err(_) => skipped("setpriv"),
    }
}

#[test]
#[ignore = "run by an_unreadable_source_is_named"]
fn inner_unreadable() {
    let place = Place(PathBuf::from(std::env::var_os("PLACE").unwrap()));
    let error = unreadable(&place);
    assert!(matches!(error, RootfsError::Copy { fault: CopyFault::Read(_), .. }), "{error:?}");
    assert!(
        Report(&error).to_string().contains("host/secret to /secret: Permission denied"),
        "{}",
        Report(&error)
    );
    std::mem::forget(place);
}

fn unreadable(place: &Place) -> RootfsError {
    let origin = place.host("secret", b"x");
    fs::set_permissions(&origin, fs::Permissions::from_mode(0o000)).unwrap();
    let mut closure = Closure::default();
    insert(&mut closure, "/secret", Node::File { origin, mode: 0o444 }, "files");
    place.build(&closure).unwrap_err()
}
