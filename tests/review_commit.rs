//! `jailmk apply --commit`: a commit on a branch, and nothing else of the host's is another; nothing of the
//! repository's or of the jail's is run for it.

mod jail;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use jail::chance::Chance;
use jail::workspace::{Snapshot, apply, changes, need_overlay, reviewed, snapshot};
use jail::{Jail, Place, Ran, need_root};

/// git as the user of the workspace calls it.
fn git_output(directory: &Path, arguments: &[&str]) -> Output {
    Command::new("git")
        .args(["-c", "safe.directory=*", "-c", "protocol.file.allow=always", "-c", "core.fsmonitor=false"])
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", jail::PATH)
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::null())
        .output()
        .expect("run git")
}

#[track_caller]
fn git_bytes(directory: &Path, arguments: &[&str]) -> Vec<u8> {
    let output = git_output(directory, arguments);
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What git prints, without the end of the last line.
#[track_caller]
fn git(directory: &Path, arguments: &[&str]) -> String {
    String::from_utf8_lossy(&git_bytes(directory, arguments)).trim_end_matches('\n').to_owned()
}

/// An empty repository with an author.
fn init(directory: &Path) {
    fs::create_dir_all(directory).expect("make a directory");
    git(directory, &["init", "-q", "--template=", "-b", "main", "."]);
    git(directory, &["config", "user.name", "A U Thor"]);
    git(directory, &["config", "user.email", "author@example.com"]);
}

fn commit_all(directory: &Path) {
    git(directory, &["add", "-A"]);
    git(directory, &["commit", "-q", "-m", "first"]);
}

/// A jail whose workspace is a repository with these files in its first commit.
fn repository(files: &[&str]) -> (Jail, PathBuf) {
    let jail = reviewed();
    let work = jail.place.join("work");
    for name in files {
        jail.place.file(format!("work/{name}"), "host\n");
    }
    init(&work);
    commit_all(&work);
    (jail, work)
}

type Tree = BTreeMap<Vec<u8>, (String, Vec<u8>)>;

/// What a commit holds: path → mode, content.
fn tree(directory: &Path, commit: &str) -> Tree {
    let listed = git_bytes(directory, &["ls-tree", "-r", "-z", "--full-tree", commit]);
    let entries = listed.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    let entry = |entry: &[u8]| {
        let tab = entry.iter().position(|byte| *byte == b'\t').expect("a tab");
        let fields = String::from_utf8(entry[..tab].to_vec()).expect("ASCII");
        let fields: Vec<&str> = fields.split(' ').collect();
        let content = match fields[1] {
            "blob" => git_bytes(directory, &["cat-file", "blob", fields[2]]),
            _ => fields[2].as_bytes().to_vec(),
        };
        (entry[tab + 1..].to_vec(), (fields[0].to_owned(), content))
    };
    entries.map(entry).collect()
}

/// The names of a tree.
fn names(directory: &Path, commit: &str) -> Vec<String> {
    tree(directory, commit).keys().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

/// All that a commit on a branch of jailmk's must leave as it is: of the git directory too.
fn untouched(work: &Path) -> Snapshot {
    let own = [".git/objects", ".git/refs/heads/jailmk", ".git/logs/refs/heads/jailmk"];
    let above = [".git/logs", ".git/logs/refs", ".git/logs/refs/heads"];
    let mut all = snapshot(work);
    all.retain(|path, _| {
        !own.iter().any(|own| path.starts_with(own.as_bytes()))
            && !above.iter().any(|above| path == above.as_bytes())
    });
    all
}

/// The paths in which two snapshots differ.
fn differences(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let paths: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differing = paths.into_iter().filter(|path| before.get(*path) != after.get(*path));
    differing.map(|path| String::from_utf8_lossy(path).into_owned()).collect()
}

#[track_caller]
fn assert_untouched(before: &Snapshot, work: &Path) {
    assert_eq!(differences(before, &untouched(work)), Vec::<String>::new());
}

/// The commit that was made; jailmk says so on its last line.
#[track_caller]
fn made(ran: &Ran, work: &Path, branch: &str) -> String {
    let last = ran.stdout.lines().last().unwrap_or_default();
    let id = last.strip_prefix("commit ").and_then(|rest| rest.strip_suffix(&format!(" on {branch}")));
    let id = id.unwrap_or_else(|| panic!("no commit on {branch}: {ran}"));
    assert_eq!(git(work, &["rev-parse", &format!("refs/heads/{branch}")]), id);
    let fsck = git_output(work, &["fsck", "--strict", "--no-dangling"]);
    let said = String::from_utf8_lossy(&fsck.stderr).into_owned();
    assert!(fsck.status.success() && said.lines().all(|line| line.starts_with("notice: ")), "{fsck:?}");
    id.to_owned()
}

fn left(ran: &Ran) -> Vec<&str> {
    ran.stderr.lines().filter_map(|line| line.strip_prefix("jailmk: left ")).collect()
}

fn branch(jail: &Jail) -> String {
    let spec = fs::read_to_string(jail.spec_path()).expect("read the spec");
    assert!(!spec.contains("name ="), "the jail is called as its spec's file is");
    "jailmk/jail".to_owned()
}

#[test]
fn every_kind_of_change_is_in_the_commit_and_the_host_is_as_it_was() {
    if !need_overlay() {
        return;
    }
    let (jail, work) =
        repository(&["a", "same", "dirty", "tool", "gone/1", "gone/2", "dir/in", "file", "was", "mode"]);
    fs::write(work.join("dirty"), "not committed\n").expect("write");
    fs::write(work.join("tool"), "not committed either\n").expect("write");
    fs::write(work.join("staged"), "staged\n").expect("write");
    git(&work, &["add", "staged"]);
    symlink("dir", work.join("to-dir")).expect("make a link");
    fs::write(work.join("unknown"), "untracked\n").expect("write");
    jail.sh(
        "echo jail >>a; mkdir -p new/deep empty; echo n >new/deep/n; rm -rf gone; rm unknown; chmod 755 tool; chmod 600 mode
         rm -rf dir; echo now >dir; rm file; mkdir file; echo in >file/in; rm was; ln -s a was; ln -s ../a new/link; rm to-dir; mkdir to-dir; echo x >to-dir/x
         : >none; echo x >run; chmod 755 run
         for n in '-rf' ':(top)x' ' ' 'a\"b\\c' '*' \"$(printf 'new\\nline')\" \"$(printf '\\377\\376')\" \"$(printf 't\\tab\\r\\001')\" 'é'; do echo odd >\"./$n\"; done",
    )
    .succeeded();
    let (before, listed) = (untouched(&work), changes(&jail));
    let head = git(&work, &["rev-parse", "HEAD"]);
    let ran = apply(&jail, &["--commit", "  What the jail did\n\nand why\n\n"]).succeeded();
    let id = made(&ran, &work, &branch(&jail));
    assert_untouched(&before, &work);
    assert_eq!(changes(&jail), listed, "the changes stay");
    assert_eq!(
        git(&work, &["log", "-1", "--format=%P|%an|%ae|%cn", &id]),
        format!("{head}|A U Thor|author@example.com|A U Thor")
    );
    assert_eq!(git_bytes(&work, &["cat-file", "commit", &id]).rsplitn(2, |byte| *byte == b'\t').count(), 1);
    assert!(git_bytes(&work, &["cat-file", "commit", &id]).ends_with(b"\n\nWhat the jail did\n\nand why\n"));

    let mut expected = tree(&work, "HEAD");
    for name in ["gone/1", "gone/2", "dir/in", "file"] {
        expected.remove(name.as_bytes());
    }
    let mut put = |name: &[u8], mode: &str, content: &str| {
        expected.insert(name.to_vec(), (mode.to_owned(), content.as_bytes().to_vec()));
    };
    put(b"a", "100644", "host\njail\n");
    put(b"new/deep/n", "100644", "n\n");
    // The bit alone is the jail's: what the host has not committed is not.
    put(b"tool", "100755", "host\n");
    put(b"dir", "100644", "now\n");
    put(b"file/in", "100644", "in\n");
    put(b"was", "120000", "a");
    put(b"new/link", "120000", "../a");
    put(b"to-dir/x", "100644", "x\n");
    put(b"none", "100644", "");
    put(b"run", "100755", "x\n");
    let odd: [&[u8]; 9] = [
        b"-rf",
        b":(top)x",
        b" ",
        b"a\"b\\c",
        b"*",
        b"new\nline",
        b"\xff\xfe",
        b"t\tab\r\x01",
        "é".as_bytes(),
    ];
    for name in odd {
        put(name, "100644", "odd\n");
    }
    assert_eq!(tree(&work, &id), expected);
    // Nothing but what the list says: an empty directory, a removal and bits that the branch does not have.
    assert_eq!(
        ran.stderr.lines().next(),
        Some("jailmk: not committed: 4 changes without a difference to the branch")
    );
    assert_eq!(ran.stdout.lines().filter(|line| !line.starts_with("commit ")).count(), 23, "{ran}");
    assert!(ran.stdout.contains("\nmode     tool\n") && ran.stdout.contains("\ntype     dir\n"), "{ran}");
    assert!(ran.stderr.contains("hint: look with `git diff HEAD...jailmk/jail`"), "{ran}");

    // A merge brings it to the files, and nothing of it is a change any more.
    git(&work, &["stash", "-q", "-u"]);
    git(&work, &["merge", "-q", "jailmk/jail"]);
    assert_eq!(fs::read_to_string(work.join("new/deep/n")).expect("read"), "n\n");
    // But for what no commit has, and for what the host has put aside.
    let tool = "changed  tool   [conflict: the host's has changed since the jail began]";
    assert_eq!(changes(&jail), ["added    empty/", "mode     mode (0644 to 0600)", tool]);
}

#[test]
fn commits_follow_one_another_and_one_without_a_difference_is_not_made() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["a", "b"]);
    jail.sh("echo one >a; echo b >b").succeeded();
    let first = made(&apply(&jail, &["--commit", "one", "--", "a"]).succeeded(), &work, "jailmk/jail");
    assert_eq!(tree(&work, &first)[b"b".as_slice()].1, b"host\n");
    let before = snapshot(&work);
    let ran = apply(&jail, &["--commit", "one", "--", "a"]).succeeded();
    assert_eq!(ran.stdout, "nothing to commit\n");
    assert_eq!(snapshot(&work).keys().count(), before.keys().count() + dangling(&work), "{ran}");
    assert_eq!(git(&work, &["rev-parse", "jailmk/jail"]), first);
    jail.sh("echo two >a; rm b").succeeded();
    let ran = apply(&jail, &["--commit", "two"]).succeeded();
    let second = made(&ran, &work, "jailmk/jail");
    assert!(ran.stdout.starts_with("changed  a\ndeleted  b\ncommit "), "{ran}");
    assert_eq!(git(&work, &["rev-parse", "jailmk/jail~1"]), first);
    assert_eq!(names(&work, &second), ["a"]);
    // On another branch it begins with HEAD.
    let ran = apply(&jail, &["--commit", "three", "--branch", "my/own"]).succeeded();
    let third = made(&ran, &work, "my/own");
    assert_eq!(git(&work, &["rev-parse", &format!("{third}~1")]), git(&work, &["rev-parse", "main"]));
    jail.jailmk("discard", &[]).succeeded();
    assert_eq!(apply(&jail, &["--commit", "four"]).succeeded().stdout, "nothing to commit\n");
}

/// Objects and their directories that a commit left which was not made.
fn dangling(work: &Path) -> usize {
    let objects = git(work, &["fsck", "--unreachable", "--no-reflogs"]);
    let lines: Vec<&str> = objects.lines().filter(|line| line.starts_with("unreachable ")).collect();
    let directories: BTreeSet<&str> =
        lines.iter().filter_map(|line| line.split(' ').nth(2)).map(|id| &id[..2]).collect();
    let fresh = directories.iter().filter(|two| {
        fs::read_dir(work.join(".git/objects").join(two)).is_ok_and(|entries| entries.count() == 1)
    });
    lines.len() + fresh.count()
}

#[test]
fn what_apply_leaves_is_not_in_the_commit() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["later", "there", ".github/workflows/ci.yml", "d/x"]);
    symlink("/", work.join("out")).expect("make a link");
    jail.sh(
        "echo jail >later; echo jail >there; echo evil >.github/workflows/ci.yml; mkdir .vscode; echo evil >.vscode/tasks.json
         ln -s /etc/passwd absolute; ln -s ../../x d/up; ln -s out/etc through; mkdir -p .git/hooks; echo evil >.git/hooks/post-commit
         git_objects=.git/objects/ab; mkdir -p $git_objects; echo x >$git_objects/c; echo evil >.gitattributes",
    )
    .succeeded();
    fs::write(work.join("later"), "host, later\n").expect("write");
    let before = untouched(&work);
    let ran = apply(&jail, &["--commit", "m"]).ended(1);
    let id = made(&ran, &work, "jailmk/jail");
    assert_untouched(&before, &work);
    assert_eq!(git(&work, &["diff", "--name-only", "main", &id]), "there");
    let left = left(&ran);
    let conflict = "later: conflict: the jail changed it, and the host's has changed since the jail began (";
    assert!(left.iter().any(|left| left.starts_with(conflict)), "{ran}");
    for line in [
        ".github/workflows/ci.yml: held back: CI configuration of a repository",
        ".vscode/tasks.json: held back: editor configuration",
        ".gitattributes: held back: git configuration",
        ".git/hooks/post-commit: held back: git directory",
        "absolute: never applied: the link leads out of the workspace",
        "d/up: never applied: the link leads out of the workspace",
        "through: never applied: the link leads out of the workspace",
    ] {
        assert!(left.contains(&line), "{line}: {ran}");
    }
    assert!(ran.stderr.contains("jailmk: not committed: 1 change in a git directory"), "{ran}");
    // Each comes by name, but for what never does, and nothing of a git directory.
    let ran =
        apply(&jail, &["--commit", "m", "--overwrite", "--protected", ".vscode", "--protected", ".git"])
            .ended(1);
    let id = made(&ran, &work, "jailmk/jail");
    assert_eq!(git(&work, &["diff", "--name-only", "main", &id]), ".vscode/tasks.json\nlater\nthere");
    assert_untouched(&before, &work);
}

#[test]
fn names_that_git_would_refuse_are_not_in_its_way() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["a"]);
    jail.sh(
        "mkdir 'x\\.git' d; echo x >'x\\.git/in'; echo x >'.git\\y'; ln -s a 'GI7EBA~1'; ln -s a 'd\\.gitmodules'
         echo x >'gi7eba~1.txt'; echo x >...; ln -s ../a d/l",
    )
    .succeeded();
    let ran = apply(&jail, &["--commit", "m"]).ended(1);
    let id = made(&ran, &work, "jailmk/jail");
    assert_eq!(names(&work, &id), ["...", "a", "d/l", "gi7eba~1.txt"], "{ran}");
    let name = "git takes nothing of that name";
    assert_eq!(left(&ran), [format!("GI7EBA~1: {name}"), format!("d\\.gitmodules: {name}")]);
    assert!(ran.stderr.contains("jailmk: not committed: 2 changes in a git directory"), "{ran}");
}

#[test]
fn changes_are_chosen_one_by_one_for_a_commit_as_well() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["b"]);
    let long: String = (0..60).map(|n| format!("{n}\n")).collect();
    jail.place.file("work/long", &long);
    commit_all(&work);
    jail.sh("{ seq 0 4; echo five; seq 6 49; echo fifty; seq 51 59; } >new; mv new long; echo jail >b")
        .succeeded();
    let before = untouched(&work);
    let arguments = ["-i", "--commit", "m"].map(OsStr::new);
    let mut running = jail::Running::start(jail.command("apply", &arguments));
    running.say(b"n\ns\nn\ny\n");
    let ran = running.end().succeeded();
    assert!(ran.stderr.contains("commit changed b [y,n,a,q,?] n\n"), "{ran}");
    let id = made(&ran, &work, "jailmk/jail");
    let tree = tree(&work, &id);
    assert_eq!(tree[b"long".as_slice()].1, long.replace("50\n", "fifty\n").into_bytes());
    assert_eq!(tree[b"b".as_slice()].1, b"host\n");
    assert_untouched(&before, &work);
    assert_eq!(changes(&jail).len(), 2);
}

#[test]
fn nothing_of_the_repository_s_or_of_the_jail_s_is_run() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["a", "big.f"]);
    let mark = jail.place.join("ran");
    let script = format!("#!/bin/sh\necho \"$0 $*\" >>'{}'\ncat\n", mark.display());
    let program = jail.place.program("program", &script);
    let program = program.to_str().expect("UTF-8");
    for hook in [
        "pre-commit",
        "commit-msg",
        "post-commit",
        "prepare-commit-msg",
        "reference-transaction",
        "post-index-change",
        "update",
        "post-update",
        "pre-auto-gc",
    ] {
        jail.place.program(format!("work/.git/hooks/{hook}"), &script);
    }
    jail.place.file("work/.git/info/attributes", "*.f filter=evil diff=evil\n");
    let settings = |prefix: &str| {
        format!(
            "[core]\n fsmonitor = {prefix}\n pager = {prefix}\n editor = {prefix}\n sshCommand = {prefix}\n
[filter \"evil\"]\n clean = {prefix}\n process = {prefix}\n smudge = {prefix}\n required = true
[diff \"evil\"]\n command = {prefix}\n textconv = {prefix}
[diff]\n external = {prefix}
[gpg]\n program = {prefix}
[commit]\n gpgSign = true
[gc]\n auto = 1\n
[hook \"evil\"]\n event = reference-transaction\n command = {prefix}\n"
        )
    };
    let mut config = fs::read_to_string(work.join(".git/config")).expect("read");
    config.push_str(&settings(program));
    fs::write(work.join(".git/config"), config).expect("write");
    // They are run by a git that is called as usual.
    let monitor = format!("core.fsmonitor={program}");
    for usual in [
        ["update-ref", "refs/heads/usual", "HEAD"].as_slice(),
        &["hash-object", "--path=big.f", "big.f"],
        &["-c", &monitor, "status"],
    ] {
        git_output(&work, usual);
        assert!(mark.exists(), "{usual:?} runs nothing");
        fs::remove_file(&mark).expect("remove");
    }

    let hostile = settings("/workspace/evil");
    jail.sh(&format!(
        "echo jail >a; echo jail >big.f; printf '#!/bin/sh\\necho jail >>{}' >evil; chmod 755 evil
         cat >>.git/config <<'E'\n{hostile}\n[core]\n hooksPath = hooks2\nE
         mkdir -p .git/hooks hooks2; cp=evil; cat evil >.git/hooks/reference-transaction; chmod 755 .git/hooks/reference-transaction
         cat evil >hooks2/reference-transaction; chmod 755 hooks2/reference-transaction
         echo '* filter=evil ident' >.gitattributes; echo 'ref: refs/heads/evil' >.git/HEAD; rm -f .git/index",
        mark.display()
    ))
    .succeeded();
    let before = untouched(&work);
    let ran = apply(&jail, &["--commit", "m"]).ended(1);
    assert!(!mark.exists(), "{}: {ran}", fs::read_to_string(&mark).unwrap_or_default());
    let id = made(&ran, &work, "jailmk/jail");
    assert_untouched(&before, &work);
    assert!(left(&ran).contains(&"big.f: git would filter it"), "{ran}");
    assert_eq!(
        git(&work, &["-c", "core.fsmonitor=", "diff", "--no-ext-diff", "--name-only", "main", &id]),
        "a\nevil\nhooks2/reference-transaction"
    );
    assert_eq!(git(&work, &["rev-parse", &format!("{id}~1")]), git(&work, &["rev-parse", "main"]));
}

#[test]
fn a_program_called_git_in_the_workspace_is_not_run() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["a"]);
    let mark = jail.place.join("ran");
    jail.place.program("work/bin/git", format!("#!/bin/sh\ntouch '{}'\n", mark.display()));
    fs::copy(work.join("bin/git"), jail.place.join("here/git")).expect("copy");
    let by_link = jail.place.directory("by-link");
    symlink(work.join("bin/git"), by_link.join("git")).expect("make a link");
    symlink(work.join("bin"), jail.place.join("bin")).expect("make a link");
    let directories =
        [work.join("bin"), by_link, jail.place.join("bin")].map(|path| path.display().to_string());
    let path = format!("{}:bin::.:{}", directories.join(":"), jail::PATH);
    let jail = jail.variable("PATH", &path);
    jail.sh("echo jail >a").succeeded();
    made(&apply(&jail, &["--commit", "m"]).succeeded(), &work, "jailmk/jail");
    assert!(!mark.exists());
    let jail = jail.variable("PATH", "bin:.");
    apply(&jail, &["--commit", "m"]).refused(1, "cannot find git");
    // One that does not know how to be told that hooks are off.
    let old = "#!/bin/sh\ncase \"$*\" in *--path-format*) echo --path-format=absolute; exec git rev-parse --git-path objects;; esac\n";
    jail.place.program("old/git", format!("{old}exec /usr/bin/git \"$@\"\n"));
    let path = format!("{}:{}", jail.place.join("old").display(), jail::PATH);
    let jail = jail.variable("PATH", &path);
    apply(&jail, &["--commit", "m"]).refused(1, "it is older than 2.31");
}

#[test]
fn the_caller_s_variables_lead_git_nowhere_else() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["a"]);
    let other = jail.place.directory("other");
    init(&other);
    jail.place.file("other/a", "other\n");
    commit_all(&other);
    let before = snapshot(&other);
    let git_directory = other.join(".git");
    let path = git_directory.to_str().expect("UTF-8").to_owned();
    let jail = jail
        .variable("GIT_DIR", &path)
        .variable("GIT_WORK_TREE", other.to_str().expect("UTF-8"))
        .variable("GIT_INDEX_FILE", &format!("{path}/index"))
        .variable("GIT_OBJECT_DIRECTORY", &format!("{path}/objects"))
        .variable("GIT_COMMON_DIR", &path)
        .variable("GIT_NAMESPACE", "x")
        .variable("GIT_CONFIG_COUNT", "1")
        .variable("GIT_CONFIG_KEY_0", "core.hooksPath")
        .variable("GIT_CONFIG_VALUE_0", &path)
        .variable("GIT_EXEC_PATH", &path)
        .variable("GIT_TRACE", &format!("{path}/trace"))
        .variable("GIT_AUTHOR_NAME", "Agent")
        .variable("GIT_AUTHOR_EMAIL", "agent@example.com")
        .variable("GIT_AUTHOR_DATE", "1700000000 +0130");
    jail.sh("echo jail >a").succeeded();
    let id = made(&apply(&jail, &["--commit", "m"]).succeeded(), &work, "jailmk/jail");
    assert_eq!(differences(&before, &snapshot(&other)), Vec::<String>::new());
    assert_eq!(
        git(&work, &["log", "-1", "--date=raw", "--format=%an|%ae|%ad|%cn", &id]),
        "Agent|agent@example.com|1700000000 +0130|A U Thor"
    );
}

#[test]
fn a_workspace_below_the_top_of_the_repository_commits_there() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let top = jail.place.path().to_owned();
    jail.place.file("beside", "host\n");
    jail.place.file("work/a", "host\n");
    jail.place.file("work/sub/b", "host\n");
    init(&top);
    git(&top, &["add", "beside", "work"]);
    git(&top, &["commit", "-q", "-m", "first"]);
    fs::write(top.join(".gitignore"), "/work/out/\n/a\n").expect("write");
    jail.sh("echo jail >a; rm -rf sub; mkdir -p out new; echo x >out/x; echo x >new/y").succeeded();
    let ran = apply(&jail, &["--commit", "m"]).succeeded();
    let id = made(&ran, &top, "jailmk/jail");
    assert_eq!(names(&top, &id), ["beside", "work/a", "work/new/y"]);
    assert_eq!(ran.stderr.lines().next(), Some("jailmk: not committed: 1 change that git ignores"));
}

#[test]
fn a_linked_working_tree_commits_to_its_repository_after_its_own_head() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let main = jail.place.directory("main");
    init(&main);
    jail.place.file("main/a", "host\n");
    commit_all(&main);
    let work = jail.place.join("work");
    fs::remove_dir(&work).expect("remove");
    git(&main, &["worktree", "add", "-q", "-b", "topic", work.to_str().expect("UTF-8")]);
    jail.place.file("work/b", "host\n");
    commit_all(&work);
    jail.sh("echo jail >a").succeeded();
    let before = (snapshot(&work), untouched(&main));
    let id = made(&apply(&jail, &["--commit", "m"]).succeeded(), &work, "jailmk/jail");
    assert_eq!(differences(&before.0, &snapshot(&work)), Vec::<String>::new());
    assert_untouched(&before.1, &main);
    assert_eq!(git(&main, &["rev-parse", &format!("{id}~1")]), git(&work, &["rev-parse", "topic"]));
    assert_eq!(tree(&main, &id)[b"a".as_slice()].1, b"jail\n");
    for branch in ["main", "topic"] {
        apply(&jail, &["--commit", "m", "--branch", branch]).refused(1, "it is checked out in");
    }
}

#[test]
fn a_repository_without_a_commit_gets_a_first_one_beside_its_head() {
    if !need_overlay() {
        return;
    }
    for format in ["sha1", "sha256"] {
        let jail = reviewed();
        let work = jail.place.join("work");
        git(&work, &["init", "-q", "--template=", "-b", "main", &format!("--object-format={format}"), "."]);
        git(&work, &["config", "user.name", "A"]);
        git(&work, &["config", "user.email", "a@example.com"]);
        jail.place.file("work/a", "host\n");
        jail.sh("echo jail >b").succeeded();
        let before = untouched(&work);
        apply(&jail, &["--commit", "m", "--branch", "main"]).refused(1, "it is checked out in");
        let id = made(&apply(&jail, &["--commit", "m"]).succeeded(), &work, "jailmk/jail");
        assert_eq!(id.len(), if format == "sha1" { 40 } else { 64 });
        assert_untouched(&before, &work);
        assert_eq!(names(&work, &id), ["b"]);
        assert_eq!(git(&work, &["rev-list", "--count", &id]), "1");
    }
}

#[test]
fn what_cannot_be_committed_on_is_refused_with_a_cure() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["a"]);
    let mut running = jail.start("echo jail >a; echo ready; cat").ready();
    apply(&jail, &["--commit", "m"])
        .refused(1, "cannot commit the workspace of jail: a jail that runs uses its changes");
    running.say(b"");
    running.end().succeeded();
    git(&work, &["branch", "blocker"]);
    git(&work, &["symbolic-ref", "refs/heads/other-name", "refs/heads/main"]);
    let before = snapshot(&work);
    let commit = |branch: &str| apply(&jail, &["--commit", "m", &format!("--branch={branch}")]);
    commit("main").refused(1, "cannot commit on `main`: it is checked out in");
    commit("other-name").refused(1, "it stands for another branch");
    for name in ["a..b", "-x", "HEAD", "x.lock", "a b", "", "@{-1}", "a\nb"] {
        commit(name).refused(1, "that is no name of a branch");
    }
    commit("blocker/x").refused(1, "cannot move the branch: git says: ");
    apply(&jail, &["--commit", " \n"]).refused(1, "cannot commit without a message");
    let files: Vec<_> = before.keys().filter(|path| !path.starts_with(b".git/objects")).collect();
    let after = snapshot(&work);
    assert_eq!(files, after.keys().filter(|path| !path.starts_with(b".git/objects")).collect::<Vec<_>>());

    git(&work, &["config", "--unset", "user.name"]);
    git(&work, &["config", "user.useConfigOnly", "true"]);
    git(&work, &["config", "--unset", "user.email"]);
    let ran = commit("fine").refused(1, "cannot name the author: git says: fatal: ");
    assert!(ran.stderr.contains("hint: git config --global user.name NAME"), "{ran}");

    let bare = reviewed();
    bare.sh("echo x >a").succeeded();
    let ran = apply(&bare, &["--commit", "m"]).refused(1, "not a git repository");
    assert!(ran.stderr.contains("hint: `git init` makes one"), "{ran}");
}

#[test]
fn what_git_ignores_is_left_out_unless_it_is_known() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["target/known", "a"]);
    fs::write(work.join(".gitignore"), "target/\n*.o\n!keep.o\n").expect("write");
    jail.place.file("work/.git/info/exclude", "/secret\n");
    // What the jail writes there is no rule of the host's.
    jail.sh("mkdir -p target/deep out; echo x >target/deep/new; echo x >target/known; echo x >x.o; echo x >keep.o; echo x >secret; echo x >out/y; echo 'out/' >out/.gitignore; echo '/a' >.git/info/exclude; echo jail >a")
        .succeeded();
    let ran = apply(&jail, &["--commit", "m"]).ended(1);
    let id = made(&ran, &work, "jailmk/jail");
    assert_eq!(
        git(&work, &["diff", "--name-only", "main", &id]),
        "a\nkeep.o\nout/.gitignore\nout/y\ntarget/known"
    );
    assert!(ran.stderr.contains("jailmk: not committed: 3 changes that git ignores\n"), "{ran}");
    assert_eq!(left(&ran), [".git/info/exclude: held back: git directory"]);
}

#[test]
fn other_repositories_in_the_workspace_are_left_alone() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["a", "link-to-be/x"]);
    let library = jail.place.directory("library");
    init(&library);
    jail.place.file("library/code", "host\n");
    commit_all(&library);
    let url = library.to_str().expect("UTF-8");
    for name in ["module", "absent", "removed"] {
        git(&work, &["submodule", "--quiet", "add", url, name]);
    }
    commit_all(&work);
    git(&work, &["submodule", "deinit", "-q", "-f", "absent"]);
    init(&work.join("nested"));
    jail.place.file("work/nested/n", "host\n");
    jail.sh(
        "echo jail >module/code; echo new >module/new; echo x >absent/x; rm -rf removed; echo jail >nested/n; echo x >nested/sub
         mkdir -p mine/.git/refs mine/.git/objects; echo 'ref: refs/heads/x' >mine/.git/HEAD; echo x >mine/code; echo jail >a",
    )
    .succeeded();
    let before = untouched(&work);
    let ran = apply(&jail, &["--commit", "m"]).ended(1);
    let id = made(&ran, &work, "jailmk/jail");
    assert_eq!(git(&work, &["diff", "--name-only", "main", &id]), "a", "{ran}");
    assert_untouched(&before, &work);
    let why = "it is in another git repository";
    for path in ["module/code", "module/new", "absent/x", "nested/n", "nested/sub", "mine/code"] {
        assert!(left(&ran).contains(&format!("{path}: {why}").as_str()), "{path}: {ran}");
    }
}

#[test]
fn what_the_branch_has_and_the_jail_has_not_seen_is_not_thrown_away() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["dir/seen", "other/file"]);
    git(&work, &["checkout", "-q", "-b", "jailmk/jail"]);
    jail.place.file("work/dir/unseen", "host\n");
    jail.place.file("work/late", "host\n");
    commit_all(&work);
    git(&work, &["checkout", "-q", "main"]);
    jail.sh("rm -rf dir; echo x >dir; mkdir late; echo x >late/in; echo x >fine").succeeded();
    let ran = apply(&jail, &["--commit", "m"]).ended(1);
    let id = made(&ran, &work, "jailmk/jail");
    assert_eq!(names(&work, &id), ["dir/unseen", "fine", "late", "other/file"]);
    assert_eq!(
        left(&ran),
        ["dir: not empty: something in it stays", "late/in: the branch has a file in place of its directory"]
    );
}

#[test]
fn line_ends_are_stored_as_git_would_store_them() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["a"]);
    fs::write(
        work.join(".gitattributes"),
        "* text=auto\n*.bat text eol=crlf\n*.raw -text\n*.id ident\n*.u16 working-tree-encoding=UTF-16LE\n",
    )
    .expect("write");
    commit_all(&work);
    jail.sh(
        "for n in x.bat x.txt x.raw; do printf 'a\\r\\nb\\r\\n' >$n; done; printf 'a\\r\\n\\000' >x.bin; printf '$Id: old $\\n' >x.id; printf 'a\\n' >plain
         printf 'a\\000\\n\\000' >x.u16; printf '\\000\\330\\n' >bad.u16",
    )
    .succeeded();
    let ran = apply(&jail, &["--commit", "m"]).ended(1);
    let id = made(&ran, &work, "jailmk/jail");
    let tree = tree(&work, &id);
    let content = |name: &str| String::from_utf8_lossy(&tree[name.as_bytes()].1).into_owned();
    for (name, expected) in [
        ("x.bat", "a\nb\n"),
        ("x.txt", "a\nb\n"),
        ("x.raw", "a\r\nb\r\n"),
        ("x.bin", "a\r\n\0"),
        ("x.id", "$Id$\n"),
        ("plain", "a\n"),
        ("x.u16", "a\n"),
    ] {
        assert_eq!(content(name), expected, "{name}: {ran}");
    }
    assert_eq!(left(&ran), ["bad.u16: git cannot convert it as its attributes say"]);
}

#[test]
fn permission_bits_that_git_is_told_not_to_trust_do_not_count() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["a", "b"]);
    git(&work, &["config", "core.fileMode", "false"]);
    jail.sh("chmod 755 a; echo jail >b; chmod 755 b; echo x >c; chmod 755 c").succeeded();
    let id = made(&apply(&jail, &["--commit", "m"]).succeeded(), &work, "jailmk/jail");
    let modes: Vec<String> = tree(&work, &id).into_values().map(|(mode, _)| mode).collect();
    assert_eq!(modes, ["100644"; 3]);
}

#[test]
fn thousands_of_files_and_a_huge_one_are_committed() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["a"]);
    jail.sh("mkdir m; for i in $(seq 3000); do echo $i >m/$i; done; dd if=/dev/zero of=huge bs=1 count=1 seek=200000000 2>/dev/null; echo x >>huge")
        .succeeded();
    let ran = apply(&jail, &["--commit", "m"]).succeeded();
    let id = made(&ran, &work, "jailmk/jail");
    assert_eq!(git(&work, &["ls-tree", "-r", "--name-only", &id]).lines().count(), 3002);
    assert_eq!(git(&work, &["cat-file", "-s", &format!("{id}:huge")]), "200000003");
    assert_eq!(git(&work, &["show", &format!("{id}:m/2999")]), "2999");
}

#[test]
fn root_commits_as_the_owner_of_the_workspace() {
    if !need_overlay() || !need_root() {
        return;
    }
    let (jail, work) = repository(&["a"]);
    // The owner must get there.
    for directory in [jail.place.path().parent().expect("a parent"), jail.place.path()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).expect("chmod");
    }
    git(&work, &["config", "core.sharedRepository", "group"]);
    let give = |path: &Path| chown(path, Some(4242), Some(4243)).expect("chown");
    let all = || snapshot(&work).into_keys().map(|path| work.join(OsStr::from_bytes(&path)));
    give(&work);
    all().for_each(|path| give(&path));
    jail.sh("echo jail >a; mkdir d; echo x >d/y").succeeded();
    made(&apply(&jail, &["--commit", "m"]).succeeded(), &work, "jailmk/jail");
    for path in all() {
        let metadata = fs::symlink_metadata(&path).expect("look");
        assert_eq!((metadata.uid(), metadata.gid()), (4242, 4243), "{path:?}");
    }
    // As its configuration shares it.
    let objects = fs::read_dir(work.join(".git/objects")).expect("list");
    let modes: Vec<u32> = objects
        .map(|entry| entry.expect("list").path())
        .filter(|path| {
            path.join("x").parent().is_some_and(|path| path.file_name().is_some_and(|name| name.len() == 2))
        })
        .map(|path| fs::metadata(path).expect("look").mode() & 0o2070)
        .collect();
    assert!(modes.contains(&0o2070), "{modes:?}");
}

/// What commits leave beside the repository.
fn temporary(place: &Place) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.directory("tmp")).expect("list");
    entries.map(|entry| entry.expect("list").path()).collect()
}

/// Kills a commit at many moments: the branch has the old commit or the new one, and all else is as it was.
/// `JAILMK_KILLS` sets how often.
#[test]
fn a_commit_that_is_killed_leaves_a_valid_repository_and_nothing_to_pile_up() {
    if !need_overlay() {
        return;
    }
    let kills: u64 = std::env::var("JAILMK_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(30);
    let (jail, work) = repository(&["a"]);
    let temporary_directory = jail.place.directory("tmp");
    let jail = jail.variable("TMPDIR", temporary_directory.to_str().expect("UTF-8"));
    jail.sh("for i in $(seq 200); do echo $i >f$i; done; dd if=/dev/zero of=large bs=1000000 count=20 2>/dev/null").succeeded();
    let (before, listed) = (untouched(&work), changes(&jail));
    let tip = || git(&work, &["rev-parse", "-q", "--verify", "jailmk/jail"]);
    let mut old = made(&apply(&jail, &["--commit", "m", "--", "f1"]).succeeded(), &work, "jailmk/jail");
    let mut chance = Chance::seeded(0x2545_f491_4f6c_dd1d);
    for round in 0..kills {
        let message = format!("round {round}");
        let path = format!("f{}", round + 2);
        let arguments = ["--commit", &message, "--", &path, "large"].map(OsStr::new);
        jail::Running::start(jail.command("apply", &arguments))
            .killed_after(Duration::from_micros(chance.below(250_000)));
        // One that moves the branch already does so.
        jail::until("git ends", || !jail::runs(&format!("jailmk: {message}")));
        let new = tip();
        if new != old {
            assert_eq!(git(&work, &["log", "-1", "--format=%P %s", &new]), format!("{old} {message}"));
            old = new;
        }
        assert!(temporary(&jail.place).len() <= 1, "{:?}", temporary(&jail.place));
    }
    // git that lost its caller is over in a moment.
    jail::until("git ends", || !jail::runs(temporary_directory.to_str().expect("UTF-8")));
    made(&apply(&jail, &["--commit", "all"]).succeeded(), &work, "jailmk/jail");
    assert_eq!(temporary(&jail.place), Vec::<PathBuf>::new());
    let unfinished = |path: &Vec<u8>| {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        name.starts_with(b"tmp_") || name.ends_with(b".keep") || name.ends_with(b".lock")
    };
    let left: Vec<Vec<u8>> = snapshot(&work).into_keys().filter(unfinished).collect();
    let left: Vec<_> = left.iter().map(|path| String::from_utf8_lossy(path)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_untouched(&before, &work);
    assert_eq!(changes(&jail), listed);
}

#[test]
fn of_two_commits_at_once_none_is_lost() {
    if !need_overlay() {
        return;
    }
    let (jail, work) = repository(&["a"]);
    let spec = fs::read_to_string(jail.spec_path()).expect("read the spec");
    let specs: Vec<PathBuf> = (0..4).map(|n| jail.place.file(format!("spec{n}/jail.toml"), &spec)).collect();
    let call = |spec: &Path, arguments: &[&str]| {
        let mut command = Command::new(jail::binary());
        command.arg(arguments[0]).arg(spec).args(&arguments[1..]).env_clear().env("PATH", jail::PATH);
        command.env("HOME", jail.place.join("home")).env("JAILMK_STATE", jail.state_path());
        command.current_dir(jail.place.join("here")).stdin(Stdio::null());
        jail::run(command)
    };
    for (index, spec) in specs.iter().enumerate() {
        call(spec, &["enter", "--", "sh", "-c", &format!("echo {index} >n{index}")]).succeeded();
    }
    let (mut done, mut files) = (0, BTreeSet::from(["a".to_owned()]));
    for round in 0..5 {
        let ran: Vec<Ran> = thread::scope(|scope| {
            let all: Vec<_> = specs
                .iter()
                .map(|spec| {
                    scope.spawn(|| call(spec, &["apply", "--commit", "m", "--branch", &format!("r{round}")]))
                })
                .collect();
            all.into_iter().map(|one| one.join().expect("a thread")).collect()
        });
        let count: usize =
            git(&work, &["rev-list", "--count", &format!("main..r{round}")]).parse().expect("a number");
        let won = ran.iter().filter(|ran| ran.status == 0).count();
        assert_eq!(count, won, "{ran:?}");
        for (index, ran) in ran.into_iter().enumerate() {
            match ran.status {
                0 => assert!(names(&work, &format!("r{round}")).contains(&format!("n{index}"))),
                _ => drop(ran.refused(1, "cannot move the branch: git says: ")),
            }
        }
        done += won;
        files.extend(names(&work, &format!("r{round}")));
    }
    assert!(done >= 5, "at least one of each round is made: {done}");
    assert!(git_output(&work, &["fsck", "--strict"]).status.success());
}
