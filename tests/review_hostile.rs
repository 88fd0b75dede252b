//! A hostile agent in a jail under review: the host's tree is as it was until `apply`, and then only what is not
//! protected has come over.

mod jail;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use jail::Jail;
use jail::workspace::{apply, changes, need_overlay, reviewed, reviewed_with, snapshot};

/// Tries everything; what the jail refuses does not count.
const AGENT: &str = r##"
import ctypes, os, shutil, socket, stat

def attempt(what, *arguments, **more):
    try:
        return what(*arguments, **more)
    except (OSError, shutil.Error):
        pass

def write(path, text='evil\n', mode=0o755):
    os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
    with open(path, 'w') as file:
        file.write(text)
    attempt(os.chmod, path, mode)

libc = ctypes.CDLL(None, use_errno=True)
def exchange(a, b):
    libc.syscall(316, -100, a.encode(), -100, b.encode(), 2)  # renameat2, RENAME_EXCHANGE

# Spellings that some file system or git takes for a protected name, as files and as directories.
spellings = ['.git', '.GIT', '.Git', '.git.', '.git ', '.git. .', '.g\u200cit', '.\ufeffgit', 'git~1', 'GIT~1',
             '.git::$INDEX_ALLOCATION', '.BASHRC', '.bashrc.', '.envrc ', '.EnvRC', '.VSCode', '.vscode.',
             '.\u202dclaude', '.hu\u017f\u212ay', '.Mcp.json', 'JenkinsFile', 'X.CODE-WORKSPACE', 'x.PTH']
for number, name in enumerate(spellings):
    attempt(write, 'as-file/%d/%s' % (number, name), 'gitdir: ../../evil\n')
    for below in ('config', 'hooks/pre-commit', 'settings.json'):
        attempt(write, 'as-directory/%d/%s/%s' % (number, name, below))

# Made elsewhere and moved, linked or exchanged into place.
write('a/tasks.json'); os.rename('a', 'moved/.vscode') if attempt(os.mkdir, 'moved') is None else 0
write('b'); os.rename('b', '.envrc')
write('c'); attempt(exchange, 'c', '.bashrc')
write('d'); attempt(os.link, 'd', 'moved/.npmrc'); os.rename('d', 'moved/.zshrc')
attempt(os.link, '.git/config', 'linked-config'); open('linked-config', 'a').write('evil\n')
open('twin', 'a').write('evil\n')
write('real/config.toml'); attempt(os.symlink, 'real', '.cargo'); attempt(os.symlink, '../real', 'moved/.cargo')
attempt(os.symlink, 'real', 'moved/.github'); attempt(os.symlink, 'config.toml', 'real/.profile')
attempt(os.symlink, '.git/hooks', 'to-hooks'); attempt(write, 'to-hooks/post-checkout')

# Git's own.
for path in ('hooks/pre-commit', 'hooks/post-commit', 'config', 'config.worktree', 'commondir', 'info/attributes',
             'objects/info/alternates', 'modules/sub/config', 'modules/sub/hooks/post-checkout',
             'worktrees/w/gitdir', 'worktrees/w/commondir', 'worktrees/w/config.worktree', 'rebase-merge/git-rebase-todo'):
    attempt(write, '.git/' + path)
attempt(os.chmod, '.git/hooks/sleeping', 0o755)
write('sub/.git', 'gitdir: ../.git/modules/sub\n'); write('.gitmodules'); write('sub/.gitattributes')
attempt(os.symlink, '../.git', 'sub/git'); attempt(os.symlink, '../real', 'deep/.git')
write('nested/.git/objects/ab/c', mode=0o444); write('nested/.git/HEAD', 'ref: refs/heads/x\n')
write('nested/.git/refs/heads/x'); write('nested/.git/config'); write('nested/.git/hooks/pre-commit')

# What is protected goes, or what it lies in becomes something else.
attempt(shutil.rmtree, '.claude'); write('.claude')
attempt(shutil.rmtree, 'conf'); attempt(os.symlink, 'real', 'conf')
attempt(shutil.rmtree, 'lib'); write('lib')
attempt(os.remove, '.mcp.json'); attempt(os.mkdir, '.mcp.json'); attempt(write, '.mcp.json/x')

# Out of the tree.
attempt(os.remove, 'out'); write('out/file'); os.remove('src/code'); attempt(os.symlink, '../../outside/file', 'src/code')
for number, target in enumerate(('/etc/passwd', '../outside', 'src/../../outside', '/proc/self/root/etc', '..', './../x')):
    attempt(os.symlink, target, 'link-%d' % number)

# What is no file, and what is more than one.
attempt(os.mkfifo, 'fifo'); attempt(lambda: socket.socket(socket.AF_UNIX).bind('socket'))
for number, (kind, device) in enumerate([(stat.S_IFCHR, (0, 0)), (stat.S_IFCHR, (1, 3)), (stat.S_IFBLK, (8, 0))]):
    attempt(os.mknod, 'device-%d' % number, kind | 0o666, os.makedev(*device))
attempt(os.mknod, 'src/other', stat.S_IFCHR, os.makedev(0, 0))
write('.wh.other'); write('src/.wh..wh..opq')
write('suid')
for mode in (0o4755, 0o2755, 0o6777, 0o1777):
    attempt(os.chmod, 'suid', mode); attempt(os.chmod, 'src', mode)
attempt(os.chmod, 'src', 0o755)
for name in ('user.overlay.opaque', 'user.overlay.whiteout', 'user.overlay.redirect', 'user.overlay.metacopy',
             'trusted.overlay.opaque', 'security.capability', 'system.posix_acl_access', 'user.mine'):
    for path in ('suid', 'src', 'moved'):
        attempt(os.setxattr, path, name, b'y'); attempt(os.setxattr, path, name, b'/moved')

# Names.
for number, name in enumerate((b'new\nline', b'\xff', b'\x1b[2J', b'-rf', b'a' * 255, b'.jailmk-x')):
    open(b'names-%d' % number + name[:247], 'w').write('x')
    os.makedirs(b'in/' + name, exist_ok=True); open(b'in/' + name + b'/.envrc', 'w').write('evil\n')
os.makedirs('/workspace/' + '/'.join(['w' * 200] * 18), exist_ok=True)
attempt(write, '/'.join(['w' * 200] * 18) + '/.envrc')

# Who applies or looks is to find none of it.
attempt(write, '../outside/file'); attempt(write, '/workspace/../outside/file')
"##;

/// What may come over of it: neither protected nor special, nor leading out.
const FREE: &[&str] = &[
    ".wh.other",
    "c",
    "linked-config",
    "names-",
    "nested/.git/HEAD",
    "nested/.git/objects/ab/c",
    "nested/.git/refs/heads/x",
    "out/file",
    "real/config.toml",
    "src/.wh..wh..opq",
    "sub/git",
    "suid",
    "to-hooks",
    "twin",
];

/// With a `-` at its end, whatever begins so.
fn is_free(name: &str, free: &str) -> bool {
    name == free || free.ends_with('-') && name.starts_with(free)
}

#[test]
fn an_agent_that_tries_everything_gets_nothing_protected_over() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with("include = [\"python\"]");
    let work = jail.place.join("work");
    jail.place.file("outside/file", "host\n");
    for name in [
        ".git/HEAD",
        ".git/config",
        ".git/hooks/sleeping",
        ".git/objects/ab/c",
        ".git/refs/heads/main",
        ".envrc",
        ".bashrc",
        ".mcp.json",
        ".claude/settings.json",
        "conf/.envrc",
        "lib/.vscode/tasks.json",
        "src/code",
        "src/other",
        ".zshenv",
    ] {
        jail.place.file(format!("work/{name}"), "host\n");
    }
    // A name for a protected file that is none itself, on the host.
    fs::hard_link(work.join(".zshenv"), work.join("twin")).expect("link a file");
    symlink("../outside", work.join("out")).expect("make a link");
    let before = snapshot(&work);

    let ran = jail.run(&["python3", "-c", AGENT]).succeeded();
    assert_eq!(snapshot(&work), before, "{ran}");
    for subcommand in [["diff"].as_slice(), &["diff", "-p"], &["diff", "--json"], &["diff", "--stat"]] {
        let ran = jail.jailmk(subcommand[0], &subcommand[1..]).succeeded();
        assert!(
            ran.bytes.iter().all(|byte| matches!(byte, b'\n' | b'\t') || !byte.is_ascii_control()),
            "{ran}"
        );
    }
    assert_eq!(snapshot(&work), before);

    let ran = apply(&jail, &[]).ended(1);
    let after = snapshot(&work);
    for (path, (mode, ..)) in &after {
        let name = String::from_utf8_lossy(path);
        assert_eq!(mode & 0o7000, 0, "{name}: {mode:o}");
        let there = before.get(path) == after.get(path) || mode & 0o170_000 == 0o040_000;
        assert!(there || FREE.iter().any(|free| is_free(&name, free)), "{name} came over: {ran}");
        assert!(there || !name.ends_with(".envrc"), "{name} came over: {ran}");
        assert!(matches!(mode & 0o170_000, 0o040_000 | 0o100_000 | 0o120_000), "{name}: {mode:o}");
    }
    for free in FREE.iter().filter(|free| !free.ends_with('-')) {
        assert!(after.contains_key(free.as_bytes()), "{free} has not come over: {ran}");
    }
    // Of what was there, only what is no harm has become another: a link that led out is a directory.
    let changed: Vec<_> = before.iter().filter(|(path, file)| after.get(*path) != Some(file)).collect();
    let changed: Vec<_> = changed.iter().map(|(path, _)| String::from_utf8_lossy(path)).collect();
    assert_eq!(changed, ["out", "twin"], "{ran}");
    assert_eq!(fs::read_to_string(jail.place.join("outside/file")).expect("read a file"), "host\n");
    assert_eq!(fs::read_dir(jail.place.join("outside")).expect("read a directory").count(), 1);
    for name in ["suid", "src", "real"] {
        assert_eq!(attributes(&work.join(name)), "[]\n", "{name}");
    }
    // What was left is as before for a second try, and gone when it is dropped.
    apply(&jail, &[]).ended(1);
    assert_eq!(snapshot(&work), after);
    jail.jailmk("discard", &[]).succeeded();
    assert_eq!(changes(&jail), Vec::<String>::new());
    assert_eq!(snapshot(&work), after);
}

fn attributes(path: &Path) -> String {
    let script = "import os, sys; print(os.listxattr(sys.argv[1]))";
    let ran = Command::new("python3").args(["-c", script]).arg(path).output().expect("run python3");
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

/// Whether git takes a directory for a repository, whose configuration it then obeys.
fn is_repository(directory: &Path) -> bool {
    let mut git = Command::new("git");
    git.args(["-c", "safe.directory=*", "rev-parse", "--git-dir"]).current_dir(directory).env_clear();
    git.env("PATH", jail::PATH).env("GIT_CEILING_DIRECTORIES", directory.parent().expect("a parent"));
    let status = git.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.expect("run git").success()
}

fn permutations<'a>(of: &[&'a str]) -> Vec<Vec<&'a str>> {
    let Some((first, rest)) = of.split_first() else { return vec![Vec::new()] };
    let mut all = Vec::new();
    for permutation in permutations(rest) {
        for at in 0..=permutation.len() {
            let mut longer = permutation.clone();
            longer.insert(at, *first);
            all.push(longer);
        }
    }
    all
}

#[test]
fn no_repository_comes_over_in_parts_whatever_their_order() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let work = jail.place.join("work");
    // A bare one, and one whose objects and refs lie elsewhere. Each part is applied by itself.
    let parts = [
        (
            "bare",
            vec![
                "echo '[core]' >config",
                "echo 'ref: refs/heads/x' >HEAD",
                "mkdir objects; echo >objects/x",
                "mkdir refs; echo >refs/x",
            ],
        ),
        (
            "split",
            vec![
                "mkdir c; echo '[core]' >c/config; mkdir c/objects c/refs; echo >c/objects/x; echo >c/refs/x",
                "echo 'ref: refs/heads/x' >HEAD",
                "echo c >commondir",
            ],
        ),
    ];
    let mut steps: Vec<String> = vec![String::new(); 4];
    let mut made = Vec::new();
    for (kind, parts) in &parts {
        for (number, order) in permutations(parts).iter().enumerate() {
            let name = format!("{kind}-{number}");
            for (step, part) in steps.iter_mut().zip(order) {
                step.push_str(&format!("mkdir -p {name}; cd {name}; {part}; cd ..\n"));
            }
            let outside = jail.place.directory(format!("outside/{name}"));
            let script = order.join("\n");
            assert!(
                Command::new("sh")
                    .args(["-ec", &script])
                    .current_dir(&outside)
                    .status()
                    .expect("run sh")
                    .success()
            );
            assert!(is_repository(&outside), "without a jail it is one: {script}");
            made.push(name);
        }
    }
    for step in &steps {
        jail.sh(&format!("set -e\n{step}")).succeeded();
        apply(&jail, &[]);
        // What was left must not lie in the way of the next part.
        jail.jailmk("discard", &[]).succeeded();
    }
    for name in &made {
        assert!(work.join(name).is_dir(), "{name}");
        assert!(!is_repository(&work.join(name)), "{name} came over");
    }
    // Nor at once.
    let whole: Vec<String> =
        steps.iter().map(|step| step.replace("bare-", "again-").replace("split-", "anew-")).collect();
    jail.sh(&format!("set -e\n{}", whole.concat())).succeeded();
    apply(&jail, &[]).ended(1);
    for entry in fs::read_dir(&work).expect("read a directory") {
        let path = entry.expect("read a directory").path();
        assert!(!is_repository(&path), "{} came over", path.display());
    }
}

/// Where the only session of a jail's state has what the jail wrote.
fn upper(jail: &Jail) -> PathBuf {
    let review = jail.state_path().join("review");
    let mut sessions = fs::read_dir(review).expect("read the state");
    sessions.next().expect("a session").expect("read the state").path().join("layers/upper")
}

#[test]
fn what_no_jail_can_make_is_not_applied_either() {
    if !need_overlay() {
        return;
    }
    // As if it had found a way: by hand, in the layer itself.
    let jail = reviewed().fresh_state();
    jail.place.file("work/d/there", "host\n");
    jail.place.file("work/e/there", "host\n");
    jail.sh("echo x >suid; echo x >meta; echo x >redirected; echo x >d/new; echo x >e/new; echo x >fine")
        .succeeded();
    let upper = upper(&jail);
    fs::set_permissions(upper.join("suid"), fs::Permissions::from_mode(0o6755)).expect("chmod");
    for (path, name) in [
        ("meta", "metacopy"),
        ("redirected", "redirect"),
        ("d", "redirect"),
        ("e", "whiteout"),
        ("fine", "mine"),
    ] {
        let script = "import os, sys; os.setxattr(sys.argv[1], 'user.overlay.' + sys.argv[2], b'/')";
        let mut python = Command::new("python3");
        python.args(["-c", script]).arg(upper.join(path)).arg(name);
        assert!(python.status().expect("run python3").success());
    }
    let before = snapshot(&jail.place.join("work"));
    let ran = apply(&jail, &[]).ended(1);
    let left: BTreeSet<&str> =
        ran.stderr.lines().filter_map(|line| line.strip_prefix("jailmk: left ")).collect();
    let foreign = |name: &str| format!("{name}: never applied: it has an attribute that no jail can set");
    assert_eq!(
        left,
        ["d", "e", "meta", "redirected"].map(foreign).iter().map(String::as_str).collect(),
        "{ran}"
    );
    let after = snapshot(&jail.place.join("work"));
    let fresh: Vec<_> = after.iter().filter(|(path, _)| !before.contains_key(*path)).collect();
    let fresh: Vec<_> =
        fresh.iter().map(|(path, (mode, ..))| (String::from_utf8_lossy(path), mode & 0o7777)).collect();
    assert_eq!(fresh, [("fine".into(), 0o644), ("suid".into(), 0o755)], "{ran}");
    assert_eq!(attributes(&jail.place.join("work/fine")), "[]\n");
}

#[test]
fn what_the_host_writes_while_apply_runs_is_never_lost() {
    if !need_overlay() {
        return;
    }
    const FILES: usize = 300;
    let jail = reviewed();
    let work = jail.place.join("work");
    for index in 0..FILES {
        jail.place.file(format!("work/old/{index}"), "old\n");
    }
    jail.sh(&format!(
        "mkdir new; for i in $(seq 0 {}); do echo jail >old/$i; echo jail >new/$i; done",
        FILES - 1
    ))
    .succeeded();
    fs::create_dir(work.join("new")).expect("make a directory");
    // Each file once, whole, from another end than `apply`: some before it, some after it, some in between.
    let applied = thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for index in (0..FILES).rev() {
                for directory in ["old", "new"] {
                    let beside = work.join("beside");
                    fs::write(&beside, "host\n").expect("write a file");
                    fs::rename(&beside, work.join(directory).join(index.to_string())).expect("rename");
                }
            }
        });
        let ran = apply(&jail, &[]);
        writer.join().expect("the host writes");
        ran
    });
    for directory in ["old", "new"] {
        for index in 0..FILES {
            let path = work.join(directory).join(index.to_string());
            let content = fs::read_to_string(&path).expect("read a file");
            assert_eq!(content, "host\n", "{}: {applied}", path.display());
        }
        let left: Vec<_> = fs::read_dir(work.join(directory)).expect("read a directory").collect();
        assert_eq!(left.len(), FILES, "something was left in {directory}: {applied}");
    }
}

#[test]
fn a_file_of_the_host_that_has_two_names_is_changed_under_one() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let there = jail.place.file("work/.bashrc", "host\n");
    let twin = jail.place.join("work/twin");
    fs::hard_link(&there, &twin).expect("link a file");
    jail.sh("echo evil >twin; chmod 700 twin").succeeded();
    apply(&jail, &[]).succeeded();
    assert_eq!(fs::read_to_string(&there).expect("read a file"), "host\n");
    assert_eq!(fs::read_to_string(&twin).expect("read a file"), "evil\n");
    assert_ne!(fs::metadata(&there).expect("look").ino(), fs::metadata(&twin).expect("look").ino());
}
