//! What comes over to the host, and what does not: conflicts, kills, owners, and everything that a hostile jail
//! may leave behind.

mod jail;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use jail::chance::Chance;
use jail::workspace::{REVIEW, apply, changes, need_overlay, reviewed, reviewed_with, snapshot};
use jail::{Jail, need_ordinary_user, need_root};

fn read(jail: &Jail, name: &str) -> String {
    fs::read_to_string(jail.place.join("work").join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The lines that say what was left, without the program's name and the times of both sides.
fn left(ran: &jail::Ran) -> Vec<&str> {
    let lines = ran.stderr.lines().filter_map(|line| line.strip_prefix("jailmk: left "));
    lines.map(|line| line.split(" (the jail's is of ").next().unwrap_or(line)).collect()
}

#[test]
fn everything_or_what_is_named_comes_over() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["a", "b", "old/1", "old/2", "kept"] {
        jail.place.file(format!("work/{name}"), "host\n");
    }
    jail.sh("echo a >a; echo b >b; rm -rf old; mkdir -p new/deep; echo n >new/deep/n; echo m >new/m; ln -s m new/l; chmod 755 kept; mkdir empty")
        .succeeded();
    assert_eq!(
        apply(&jail, &["--", "a", "new/deep"]).succeeded().stdout,
        "changed  a\nadded    new/deep/n\n"
    );
    assert_eq!(
        (read(&jail, "a"), read(&jail, "b"), read(&jail, "new/deep/n")),
        ("a\n".into(), "host\n".into(), "n\n".into())
    );
    assert!(!jail.place.join("work/new/m").exists());
    assert_eq!(
        changes(&jail),
        [
            "changed  b",
            "added    empty/",
            "mode     kept (0644 to 0755)",
            "added    new/l",
            "added    new/m",
            "deleted  old/1",
            "deleted  old/2"
        ]
    );
    assert_eq!(jail.prints("cat a new/m new/deep/n; ls"), "a\nm\nn\na\nb\nempty\nkept\nnew\n");
    apply(&jail, &[]).succeeded();
    assert_eq!(changes(&jail), Vec::<String>::new());
    assert!(!jail.place.join("work/old").exists());
    assert_eq!(fs::read_link(jail.place.join("work/new/l")).expect("a link"), Path::new("m"));
    let kept = fs::metadata(jail.place.join("work/kept")).expect("look").permissions().mode() & 0o777;
    assert_eq!(kept, 0o755);
    assert!(jail.place.join("work/empty").is_dir());
    assert_eq!(apply(&jail, &[]).succeeded().stdout, "nothing to apply\n");
    assert_eq!(jail.prints("cat a b; ls new"), "a\nb\ndeep\nl\nm\n");
    assert_eq!(changes(&jail), Vec::<String>::new());
}

#[test]
fn changes_can_be_chosen_one_by_one_and_files_in_parts() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let long: String = (0..60).map(|n| format!("{n}\n")).collect();
    jail.place.file("work/long", &long);
    jail.place.file("work/other", "host\n");
    jail.sh("{ seq 0 4; echo five; seq 6 49; echo fifty; seq 51 59; } >new; mv new long
             mkdir d; echo x >d/new; mkdir no; echo x >no/thing; echo jail >other; mkdir .vscode; echo x >.vscode/t")
        .succeeded();
    let interactive = |answers: &str| {
        let mut running = jail::Running::start(jail.command("apply", &["-i".as_ref()]));
        running.say(answers.as_bytes());
        running.end()
    };
    let ran = interactive("?\ny\ns\nn\ny\nn\nn\n").ended(1);
    assert_eq!(left(&ran), [".vscode/t: held back: editor configuration"]);
    assert!(
        ran.stderr.contains("apply changed long [y,n,s,a,q,?] s\napply part 1 of 2 [y,n,q,?] n\n"),
        "{ran}"
    );
    assert!(ran.stdout.contains("@@ -48,7 +48,7 @@\n 47\n 48\n 49\n-50\n+fifty\n"), "{ran}");
    assert!(ran.stdout.ends_with("added    d/new\nchanged  long\n"), "{ran}");
    assert_eq!(read(&jail, "long"), long.replace("50\n", "fifty\n"));
    assert_eq!((read(&jail, "d/new"), read(&jail, "other")), ("x\n".into(), "host\n".into()));
    assert!(!jail.place.join("work/no").exists());
    // The part that was not taken is a change of the file as it is now, and no conflict.
    assert_eq!(changes(&jail)[1..], ["changed  long", "added    no/thing", "changed  other"]);
    let patch = jail.jailmk("diff", &["-p", "--", "long"]).succeeded().stdout;
    assert!(patch.contains("+five") && !patch.contains("fifty"), "{patch}");
    interactive("n\nq\n").ended(1);
    interactive("").ended(1);
    assert_eq!(changes(&jail).len(), 4);
    interactive("a\n").ended(1);
    assert_eq!(read(&jail, "long"), long.replace("50\n", "fifty\n").replace("\n5\n", "\nfive\n"));
    assert_eq!(changes(&jail).len(), 1);
}

#[test]
fn what_becomes_another_kind_of_file_comes_over_as_that() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["dir/1", "dir/sub/2", "file", "link"] {
        jail.place.file(format!("work/{name}"), "host\n");
    }
    jail.sh("rm -rf dir; echo x >dir; rm file; mkdir file; echo y >file/in; rm link; ln -s dir link")
        .succeeded();
    apply(&jail, &[]).succeeded();
    assert_eq!((read(&jail, "dir"), read(&jail, "file/in")), ("x\n".into(), "y\n".into()));
    assert_eq!(fs::read_link(jail.place.join("work/link")).expect("a link"), Path::new("dir"));
    assert_eq!(changes(&jail), Vec::<String>::new());
}

#[test]
fn a_host_file_that_changed_meanwhile_is_a_conflict_and_stays() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["later", "during", "removed", "replaced", "fine", "gone", "tree/a", "tree/b"] {
        jail.place.file(format!("work/{name}"), "host\n");
    }
    let mut running = jail
        .start("for f in later during removed replaced fine; do echo jail >>$f; done; rm gone; echo jail >made; rm -rf tree; echo ready; cat")
        .ready();
    fs::write(jail.place.join("work/during"), "host, during\n").expect("write");
    running.say(b"");
    running.end();
    fs::write(jail.place.join("work/later"), "host, later\n").expect("write");
    fs::write(jail.place.join("work/gone"), "host, gone\n").expect("write");
    fs::write(jail.place.join("work/made"), "host, made\n").expect("write");
    fs::write(jail.place.join("work/tree/b"), "host, b\n").expect("write");
    fs::write(jail.place.join("work/tree/new"), "host, new\n").expect("write");
    fs::remove_file(jail.place.join("work/removed")).expect("remove");
    fs::write(jail.place.join("work/beside"), "host\n").expect("write");
    fs::rename(jail.place.join("work/beside"), jail.place.join("work/replaced")).expect("rename");
    let before = snapshot(&jail.place.join("work"));

    let ran = apply(&jail, &[]).ended(1);
    let since = "since the jail began";
    let changed = format!("conflict: the jail changed it, and the host's has changed {since}");
    let deleted = format!("conflict: the jail deleted it, and the host's has changed {since}");
    assert_eq!(
        left(&ran),
        [
            format!("during: {changed}"),
            format!("gone: {deleted}"),
            format!("later: {changed}"),
            "made: conflict: the jail added it, and the host has made one as well".to_owned(),
            format!("removed: conflict: the jail changed it, and the host's was removed {since}"),
            format!("replaced: {changed}"),
            format!("tree/b: {deleted}"),
            format!("tree/new: {deleted}"),
        ],
        "{ran}"
    );
    assert!(ran.stderr.contains("hint: `jailmk discard"), "{ran}");
    assert_eq!(ran.stdout, "changed  fine\ndeleted  tree/a\n");
    let mut expected = before;
    expected.get_mut(b"fine".as_slice()).expect("a file").2 = b"host\njail\n".to_vec();
    expected.remove(b"tree/a".as_slice());
    assert_eq!(snapshot(&jail.place.join("work")), expected);

    // Each side can be had.
    jail.jailmk("discard", &["--", "during"]).succeeded();
    assert_eq!(jail.prints("cat during"), "host, during\n");
    apply(&jail, &["--overwrite", "--", "later", "removed", "made", "gone", "tree"]).succeeded();
    assert_eq!(
        (read(&jail, "later"), read(&jail, "removed"), read(&jail, "made")),
        ("host\njail\n".into(), "host\njail\n".into(), "jail\n".into())
    );
    assert!(!jail.place.join("work/gone").exists() && !jail.place.join("work/tree").exists());
    assert_eq!(changes(&jail).len(), 1);
}

#[test]
fn a_second_jail_may_go_on_with_what_the_host_changed_between() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let file = jail.place.file("work/file", "one\n");
    jail.sh("echo x >other").succeeded();
    fs::write(&file, "two\n").expect("write");
    jail.sh("echo three >>file").succeeded();
    apply(&jail, &[]).succeeded();
    assert_eq!(read(&jail, "file"), "two\nthree\n");
}

#[test]
fn owners_and_attributes_of_existing_files_are_kept() {
    if !need_overlay() || !need_root() {
        return;
    }
    let jail = reviewed();
    let work = jail.place.join("work");
    chown(&work, Some(4242), Some(4243)).expect("chown");
    let foreign = jail.place.file("work/foreign", "x\n");
    chown(&foreign, Some(4244), Some(4245)).expect("chown");
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o666)).expect("chmod");
    let own = jail.place.file("work/own", "x\n");
    chown(&own, Some(4242), Some(4246)).expect("chown");
    let ran = jail.sh("echo y >>own; cat foreign; echo z >new; mkdir -p d/e; echo w >d/e/f");
    assert_eq!(ran.stdout, "x\n", "{ran}");
    apply(&jail, &[]).succeeded();
    let owner = |name: &str| {
        let metadata = fs::symlink_metadata(work.join(name)).expect("look");
        (metadata.uid(), metadata.gid())
    };
    assert_eq!(owner("own"), (4242, 4246));
    assert_eq!(owner("foreign"), (4244, 4245));
    assert_eq!([owner("new"), owner("d"), owner("d/e"), owner("d/e/f")], [(4242, 4243); 4]);
}

#[test]
fn a_file_of_another_user_is_not_replaced_by_ones_own() {
    // Made by root only.
    if !need_ordinary_user() {
        return;
    }
    let jail = reviewed();
    jail.sh("echo x >mine").succeeded();
    apply(&jail, &[]).succeeded();
    let metadata = fs::metadata(jail.place.join("work/mine")).expect("look");
    assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw());
}

/// Paths that are held back, each as itself and below a directory.
const PROTECTED: &[&str] = &[
    ".bashrc",
    ".zshenv",
    ".profile",
    ".gitconfig",
    ".gitattributes",
    ".gitmodules",
    ".envrc",
    ".mcp.json",
    ".npmrc",
    ".husky/pre-commit",
    ".vscode/tasks.json",
    ".idea/workspace.xml",
    ".claude/settings.json",
    ".codex/config.toml",
    ".gemini/settings.json",
    ".cursor/mcp.json",
    ".devcontainer/devcontainer.json",
    ".github/workflows/ci.yml",
    ".gitlab-ci.yml",
    ".cargo/config.toml",
    ".pre-commit-config.yaml",
    "pyvenv.cfg",
    ".venv/bin/python",
    "jail.toml",
    ".git/hooks/pre-commit",
    ".git/config",
    ".git/info/attributes",
    ".git/modules/x/config",
    ".git/worktrees/x/commondir",
    ".GIT/hooks/pre-commit",
    ".Git/config",
    ".VSCODE/tasks.json",
    ".git /config",
    ".ssh/authorized_keys",
    ".pdbrc",
    ".perldb",
    "rust-toolchain",
    "rust-toolchain.toml",
    ".ghci",
    ".ocamlinit",
    ".iex.exs",
    ".octaverc",
    ".Renviron",
    ".Rprofile",
    ".dir-locals-2.el",
    ".bazelrc",
    "tools/bazel",
    ".jj/repo/config.toml",
    ".sl/config",
    ".hg/hgrc",
    "ansible.cfg",
    ".pylintrc",
    "mise.local.toml",
    ".config/mise.toml",
    ".ycm_extra_conf.py",
    ".lvimrc",
    ".byebugrc",
];

#[test]
fn protected_names_are_held_back_at_any_depth_however_late_they_came() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.place.file("work/.git/config", "host\n");
    jail.place.file("work/.git/hooks/there", "host\n");
    jail.place.file("work/.envrc", "host\n");
    let before = snapshot(&jail.place.join("work"));
    let mut script = String::new();
    for name in PROTECTED {
        for path in [(*name).to_owned(), format!("a/b/c/d/e/f/g/{name}")] {
            script.push_str(&format!("mkdir -p \"$(dirname '{path}')\"; echo evil >'{path}';"));
        }
    }
    script.push_str(
        "rm -f .git/hooks/there; echo fine >fine; ln .envrc hard; mv .bashrc innocent; mv innocent .zshrc",
    );
    jail.sh(&script).succeeded();
    let ran = apply(&jail, &[]).ended(1);
    let after = snapshot(&jail.place.join("work"));
    let mut fresh: Vec<String> = after
        .iter()
        .filter(|(path, content)| before.get(*path) != Some(content))
        .filter(|(_, content)| content.0 & 0o170_000 != 0o040_000)
        .map(|(path, _)| String::from_utf8_lossy(path).into_owned())
        .collect();
    fresh.sort();
    // The hard link is a file of its own, with a name that nothing runs.
    assert_eq!(fresh, ["fine", "hard"], "{ran}");
    assert!(before.keys().all(|path| after.contains_key(path)));
    for name in PROTECTED {
        let line = format!("a/b/c/d/e/f/g/{name}: held back: ");
        assert!(left(&ran).iter().any(|left| left.starts_with(&line)), "{name}: {ran}");
    }
    // By name it comes over, and nothing beside it.
    apply(&jail, &["--protected", ".vscode", "--", ".vscode", ".idea"]).ended(1);
    assert_eq!(read(&jail, ".vscode/tasks.json"), "evil\n");
    assert!(!jail.place.join("work/.idea").exists());
}

#[test]
fn a_new_directory_of_which_all_is_held_back_is_not_made() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.sh("mkdir -p .git/hooks some/.git/hooks; echo x >.git/hooks/p; echo x >some/.git/hooks/p; echo n >some/n")
        .succeeded();
    let ran = apply(&jail, &[]);
    assert_eq!((ran.status, ran.stdout.as_str()), (1, "added    some/n\n"), "{ran}");
    assert!(!jail.place.join("work/.git").exists() && !jail.place.join("work/some/.git").exists());
    assert_eq!(changes(&jail).len(), 2, "what was left stays a change");
    apply(&jail, &["--protected", ".git"]).ended(1);
    assert_eq!(read(&jail, ".git/hooks/p"), "x\n");
}

#[test]
fn the_spec_s_own_globs_protect_and_so_do_its_own_files() {
    if !need_overlay() {
        return;
    }
    let jail = Jail::spec(format!(
        "{}files = [{{ from = \"source/a\", to = \"/etc/a\" }}, {{ from = \"../tree\", to = \"/srv/tree\" }}]
         [workspace]\nmode = \"review\"\npath = \"PLACE\"\nprotect = [\"deploy/**\", \"*.service\"]\n",
        jail::tools()
    ))
    .variable("LANG", "C");
    let spec = fs::read(jail.spec_path()).expect("read");
    for source in ["spec/source/a", "tree/a"] {
        jail.place.file(source, "host\n");
    }
    jail.sh("cd /workspace; echo a >spec/source/a; echo a >tree/b; echo f >spec/source/f; mkdir -p deploy x/deploy; echo a >deploy/a; echo b >x/deploy/b; echo c >x/c.SERVICE; echo d >>spec/jail.toml; echo e >e")
        .succeeded();
    let ran = apply(&jail, &[]).ended(1);
    assert_eq!(ran.stdout, "added    e\nadded    spec/source/f\n", "{ran}");
    for source in ["spec/source/a", "tree/b"] {
        assert!(
            left(&ran).contains(&format!("{source}: held back: the jail's tree is built from it").as_str()),
            "{ran}"
        );
    }
    assert_eq!(fs::read(jail.spec_path()).expect("read"), spec);
    assert!(left(&ran).contains(&"x/deploy/b: held back: protected by the spec"), "{ran}");
    assert!(left(&ran).contains(&"spec/jail.toml: held back: the jail's own spec"), "{ran}");
}

#[test]
fn ci_configuration_is_held_back_where_a_repository_is_and_told_elsewhere() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.place.directory("work/host/.git");
    // A submodule, or a working tree of its own.
    jail.place.file("work/module/.git", "gitdir: ../host/.git/modules/module\n");
    jail.place.file("work/jujutsu/.jj/repo/store/type", "git");
    const NAMES: [&str; 4] =
        [".travis.yml", ".github/workflows/deep/ci.yml", ".Travis.YML", ".forgejo/workflows/a.yml"];
    let mut script =
        String::from("mkdir -p made/.git/objects made/.git/refs; echo ref: refs/heads/x >made/.git/HEAD;");
    let tops = ["", "host/", "module/", "jujutsu/", "made/"];
    let others = ["node_modules/x/", "host/packages/a/", "made/sub/", "elsewhere/host/"];
    for directory in tops.iter().chain(&others) {
        for name in NAMES {
            script.push_str(&format!("mkdir -p $(dirname {directory}{name}); echo x >{directory}{name};"));
        }
        // What services look for anywhere.
        script.push_str(&format!(
            "mkdir -p {directory}; echo x >{directory}.gitlab-ci.yml; echo x >{directory}Jenkinsfile;"
        ));
    }
    jail.sh(&script).succeeded();
    let ran = apply(&jail, &[]).ended(1);
    let is_there = |path: String| jail.place.join("work").join(path).exists();
    for name in NAMES {
        for directory in tops {
            let line = format!("{directory}{name}: held back: CI configuration of a repository");
            assert!(left(&ran).contains(&line.as_str()), "{line}: {ran}");
            assert!(!is_there(format!("{directory}{name}")), "{directory}{name}");
        }
        for directory in others {
            let line = format!("jailmk: look at {directory}{name}: CI configuration of a repository\n");
            assert!(ran.stderr.contains(&line), "{line}: {ran}");
            assert!(is_there(format!("{directory}{name}")), "{directory}{name}");
        }
    }
    for directory in tops.iter().chain(&others) {
        for name in [".gitlab-ci.yml", "Jenkinsfile"] {
            assert!(!is_there(format!("{directory}{name}")), "{directory}{name}");
        }
    }
}

#[test]
fn an_install_of_packages_with_ci_configuration_leaves_nothing() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.place.directory("work/.git");
    jail.sh("for n in 1 2 3; do mkdir -p node_modules/$n; echo x >node_modules/$n/.travis.yml; done")
        .succeeded();
    apply(&jail, &[]).ended(0);
    jail.sh("echo y >node_modules/1/.travis.yml; rm -r node_modules/2").succeeded();
    apply(&jail, &[]).ended(0);
    assert!(!jail.place.join("work/node_modules/2").exists());
}

#[test]
fn no_link_leads_out_and_none_stands_in_for_a_protected_directory() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let outside = jail.place.file("outside/file", "host\n");
    jail.place.file("work/src/code", "host\n");
    jail.place.file("work/.git/HEAD", "ref: refs/heads/main\n");
    jail.place.file("work/.git/objects/ab/c", "x");
    jail.place.file("work/.git/refs/heads/main", "x");
    jail.place.file("work/.git/hooks/there", "host\n");
    symlink("/", jail.place.join("work/host-link")).expect("make a link");
    let script = "
rm -rf src; ln -s ../outside src
ln -s /etc/passwd absolute; ln -s ../outside/file up; mkdir d; ln -s d/../../outside/file sly; ln -s ../../outside d/deep
ln -s host-link/etc through; ln -s a/b/c loop; ln -s d fine; ln -s ../fine d/inside
mkdir fake; mv .git g; ln -s g .git; echo evil >g/hooks/there
mkdir c; echo evil >c/config.toml; ln -s c .cargo; ln -s c .VSCode
ln -s .git/hooks hooks; echo evil >hooks/pre-commit
mkdir -p sub; echo 'gitdir: ../fake' >sub/.git
mkdir -p bare/objects bare/refs; echo 'ref: refs/heads/x' >bare/HEAD; echo '[core]' >bare/config; mkdir bare/hooks; echo evil >bare/hooks/post-checkout";
    jail.sh(script).succeeded();
    let ran = apply(&jail, &[]).ended(1);
    let work = jail.place.join("work");
    assert_eq!(fs::read_to_string(&outside).expect("read"), "host\n");
    assert_eq!(read(&jail, ".git/hooks/there"), "host\n", "{ran}");
    for name in [
        "absolute",
        "up",
        "sly",
        "d/deep",
        "through",
        ".cargo",
        ".VSCode",
        "sub/.git",
        "bare/config",
        "bare/hooks",
    ] {
        assert!(fs::symlink_metadata(work.join(name)).is_err(), "{name} came over: {ran}");
    }
    assert!(work.join("src").symlink_metadata().expect("look").is_dir(), "{ran}");
    for name in ["fine", "d/inside"] {
        assert!(work.join(name).symlink_metadata().expect("look").is_symlink(), "{name}: {ran}");
    }
    for name in ["g/hooks/there", "g/hooks/pre-commit"] {
        assert!(!work.join(name).exists(), "{name} came over: {ran}");
    }
}

#[test]
fn what_a_protected_link_of_the_host_leads_to_is_protected() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.place.file("work/tools/ide/settings.json", "host\n");
    jail.place.file("work/hooks/there", "host\n");
    jail.place.file("work/other", "host\n");
    let work = jail.place.join("work");
    symlink("tools/ide", work.join(".vscode")).expect("make a link");
    // An absolute one, and one that leads to nothing yet.
    symlink(work.join("hooks"), work.join(".husky")).expect("make a link");
    symlink("later/claude", work.join(".claude")).expect("make a link");
    let script = "echo evil >.vscode/settings.json; echo evil >tools/ide/tasks.json; echo x >tools/free
                  rm -r hooks; mkdir hooks; echo evil >hooks/pre-commit
                  mkdir -p later/claude; echo evil >later/claude/settings.json; echo x >later/free; echo jail >other";
    jail.sh(script).succeeded();
    let ran = apply(&jail, &[]).ended(1);
    assert_eq!(read(&jail, "tools/ide/settings.json"), "host\n", "{ran}");
    assert_eq!(read(&jail, "hooks/there"), "host\n", "{ran}");
    for name in ["tools/ide/tasks.json", "hooks/pre-commit", "later/claude/settings.json"] {
        assert!(!work.join(name).exists(), "{name} came over: {ran}");
        assert!(left(&ran).iter().any(|line| line.starts_with(&format!("{name}: held back: "))), "{ran}");
    }
    for (name, content) in [("tools/free", "x\n"), ("later/free", "x\n"), ("other", "jail\n")] {
        assert_eq!(read(&jail, name), content, "{ran}");
    }
}

#[test]
fn a_python_environment_is_known_by_its_mark() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.place.file("work/env/pyvenv.cfg", "home = /usr/bin\n");
    jail.place.file("work/env/bin/python", "host\n");
    jail.place.file("work/tool/bin/run", "host\n");
    jail.sh("echo evil >env/bin/python; echo evil >env/bin/pip; echo fine >tool/bin/run; echo fine >env/lib")
        .succeeded();
    let ran = apply(&jail, &[]).ended(1);
    assert_eq!(ran.stdout, "added    env/lib\nchanged  tool/bin/run\n", "{ran}");
    assert_eq!(read(&jail, "env/bin/python"), "host\n");
}

#[test]
fn an_object_that_git_has_stored_does_not_become_another() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["HEAD", "refs/heads/main", "objects/ab/c", "objects/pack/p.pack", "objects/info/packs"] {
        jail.place.file(format!("work/.git/{name}"), "host\n");
    }
    jail.sh("cd .git/objects; for f in ab/c pack/p.pack info/packs ab/new; do echo jail >$f; done")
        .succeeded();
    let ran = apply(&jail, &[]).ended(1);
    let names = ["ab/c", "pack/p.pack", "info/packs", "ab/new"];
    let found = names.map(|name| read(&jail, &format!(".git/objects/{name}")));
    assert_eq!(found, ["host\n", "host\n", "jail\n", "jail\n"], "{ran}");
}

#[test]
fn nothing_comes_over_that_makes_git_take_one_object_for_another() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for repository in ["work/.git", "work/bare"] {
        for name in ["HEAD", "refs/heads/main", "objects/pack/pack-a.pack", "objects/pack/pack-a.idx"] {
            jail.place.file(format!("{repository}/{name}"), "host\n");
        }
    }
    const HELD: [&str; 12] = [
        "refs/replace/0123",
        "refs/Replace/0123",
        "objects/info/alternates",
        "objects/info/commit-graph",
        "objects/info/commit-graphs/commit-graph-chain",
        "objects/pack/multi-pack-index",
        "objects/pack/pack-a.idx",
        "objects/pack/pack-a.rev",
        "objects/pack/pack-a.bitmap",
        "info/grafts",
        "shallow",
        "packed-refs",
    ];
    const FREE: [&str; 5] = [
        "refs/heads/main",
        "objects/info/packs",
        "objects/pack/pack-b.pack",
        "objects/pack/pack-b.idx",
        "objects/pack/pack-b.rev",
    ];
    for repository in [".git", "bare"] {
        for name in HELD.iter().chain(&FREE) {
            let script = format!(
                "cd {repository}; mkdir -p $(dirname {name}); rm -f {name}; echo 01 refs/replace/0123 >{name}"
            );
            jail.sh(&script).succeeded();
        }
    }
    let ran = apply(&jail, &[]).ended(1);
    for repository in [".git", "bare"] {
        for name in HELD {
            let line = format!("{repository}/{name}: held back: git directory");
            assert!(left(&ran).contains(&line.as_str()), "{line}: {ran}");
            let there = fs::read_to_string(jail.place.join("work").join(repository).join(name));
            assert!(!there.is_ok_and(|text| text != "host\n"), "{repository}/{name} came over: {ran}");
        }
        for name in FREE {
            assert_eq!(read(&jail, &format!("{repository}/{name}")), "01 refs/replace/0123\n", "{ran}");
        }
    }
    assert!(ran.stderr.contains("look at .git/objects/pack/pack-b.idx: a pack of git objects"), "{ran}");
    // What only the list that stays would have is not deleted.
    jail.sh("rm .git/refs/heads/main bare/refs/heads/main").succeeded();
    apply(&jail, &[]).ended(1);
    for repository in [".git", "bare"] {
        assert_eq!(read(&jail, &format!("{repository}/refs/heads/main")), "01 refs/replace/0123\n");
    }
    jail.jailmk("discard", &[]).succeeded();
    jail.sh("echo 01 refs/heads/replace >.git/packed-refs; echo 01 refs/tags/a >bare/packed-refs")
        .succeeded();
    apply(&jail, &[]).succeeded();
    assert_eq!(read(&jail, ".git/packed-refs"), "01 refs/heads/replace\n");
}

#[test]
fn the_workspace_itself_does_not_become_another_repository() {
    if !need_overlay() {
        return;
    }
    for (script, held) in [
        ("mkdir -p .git c; echo ../c >.git/commondir; echo x >.git/HEAD", ".git/commondir"),
        ("mkdir c; echo gitdir: c >.git", ".git"),
        ("mkdir refs objects; echo x >refs/a; echo x >HEAD; echo x >objects/a; echo x >config", "config"),
        (
            "mkdir hooks; echo x >hooks/post-checkout; echo ../c >commondir; echo x >HEAD",
            "hooks/post-checkout",
        ),
    ] {
        let jail = reviewed();
        jail.sh(script).succeeded();
        let ran = apply(&jail, &[]).ended(1);
        assert!(left(&ran).contains(&format!("{held}: held back: git directory").as_str()), "{held}: {ran}");
        assert!(!jail.place.join("work").join(held).exists(), "{held} came over: {ran}");
    }
}

#[test]
fn what_the_host_s_git_configuration_names_is_held_back() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.place.file(
        "work/.git/config",
        "[core]\n hooksPath = tools/hooks\n[include]\n path = ../tools/team\n[filter \"x\"]\n clean = sh clean.sh %f\n[alias]\n t = !make test\n d = diff tools/free\n",
    );
    jail.place
        .file("work/tools/team", "[core]\nfsmonitor = \"$(git rev-parse --show-toplevel)/tools/monitor\"\n");
    jail.place.file("home/.gitconfig", "[gpg]\n program = ./tools/later\n[include]\n path = /dev/zero\n");
    let named = ["tools/hooks/pre-commit", "clean.sh", "tools/monitor"];
    for name in named.iter().chain(&["tools/free", "test/a"]) {
        jail.place.file(format!("work/{name}"), "host\n");
    }
    jail.sh("for f in tools/hooks/pre-commit tools/hooks/new tools/team clean.sh tools/monitor tools/later tools/free test/a; do echo jail >$f; done")
        .succeeded();
    let ran = apply(&jail, &[]).ended(1);
    for name in named.iter().chain(&["tools/team", "tools/hooks/new", "tools/later"]) {
        let line = format!("{name}: held back: named by git's configuration");
        assert!(left(&ran).contains(&line.as_str()), "{line}: {ran}");
    }
    assert_eq!(read(&jail, "tools/hooks/pre-commit"), "host\n");
    for name in ["tools/free", "test/a"] {
        assert_eq!(read(&jail, name), "jail\n", "{ran}");
    }
    // Nor does what they lie in go.
    jail.sh("mv tools t").succeeded();
    let ran = apply(&jail, &[]).ended(1);
    assert_eq!(read(&jail, "tools/hooks/pre-commit"), "host\n", "{ran}");
}

#[test]
fn a_deleted_git_directory_is_kept_whole() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in [".git/HEAD", ".git/objects/ab/c", ".git/config", "sub/.git/HEAD", "sub/file"] {
        jail.place.file(format!("work/{name}"), "host\n");
    }
    let before = snapshot(&jail.place.join("work"));
    jail.sh("rm -rf .git sub").succeeded();
    let ran = apply(&jail, &[]).ended(1);
    let mut expected = before;
    expected.remove(b"sub/file".as_slice());
    assert_eq!(snapshot(&jail.place.join("work")), expected, "{ran}");
}

#[test]
fn devices_pipes_and_sockets_never_come_over_and_setuid_bits_neither() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with("include = [\"python\"]");
    jail.place.file("work/was", "host\n");
    let script = "
import os, socket
os.mkfifo('fifo')
socket.socket(socket.AF_UNIX).bind('socket')
os.remove('was'); os.mkfifo('was')
open('setuid', 'w').write('x')
for mode in (0o4755, 0o2755, 0o6777):
    try:
        os.chmod('setuid', mode)
    except OSError:
        pass
os.chmod('setuid', 0o755)
try:
    os.mknod('null', 0o020666, os.makedev(1, 3))
except OSError:
    pass
try:
    os.mknod('white', 0o020000, 0)
except OSError:
    pass
";
    jail.run(&["python3", "-c", script]).succeeded();
    let ran = apply(&jail, &[]).ended(1);
    assert_eq!(ran.stdout, "added    setuid\n", "{ran}");
    assert_eq!(left(&ran).len(), 3, "{ran}");
    let work = jail.place.join("work");
    assert_eq!(fs::metadata(work.join("setuid")).expect("look").permissions().mode() & 0o7777, 0o755);
    assert_eq!(read(&jail, "was"), "host\n");
    for entry in fs::read_dir(&work).expect("list") {
        let kind = entry.expect("list").file_type().expect("look");
        assert!(!kind.is_fifo() && !kind.is_socket() && !kind.is_char_device(), "{ran}");
    }
}

#[test]
fn names_of_any_bytes_come_over_and_steer_no_terminal() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with("include = [\"python\"]");
    let script = r"
for name in (b'new\nline', b'\xff\xfe', b'\x1b[2J', b'-rf', b' ', b'\xe2\x80\xaegnp', b'a' * 255, b'\x7f', b'tab\t\'quote\x22\\'):
    open(name, 'w').write('x')
";
    jail.run(&["python3", "-c", script]).succeeded();
    let names = ["diff", "apply"].map(|subcommand| jail.jailmk(subcommand, &[]).succeeded());
    for ran in &names {
        assert_eq!(ran.stdout.lines().count(), 9, "{ran}");
        assert!(ran.bytes.iter().all(|byte| *byte == b'\n' || !byte.is_ascii_control()), "{ran}");
        assert!(std::str::from_utf8(&ran.bytes).is_ok(), "{ran}");
    }
    let there: Vec<_> = fs::read_dir(jail.place.join("work"))
        .expect("list")
        .map(|entry| entry.expect("list").file_name())
        .collect();
    assert_eq!(there.len(), 9);
    assert!(there.contains(&OsStr::from_bytes(b"new\nline").to_owned()));
    assert!(there.contains(&OsStr::from_bytes(b"\xff\xfe").to_owned()));
}

#[test]
fn a_tree_of_ten_thousand_levels_is_no_hindrance() {
    if !need_overlay() {
        return;
    }
    // An emulated machine would take minutes to make them; longer than any path they are there too.
    let levels = if jail::kernel() == "host" && !cfg!(debug_assertions) { 10_000 } else { 2_500 };
    let jail = reviewed_with("include = [\"python\"]");
    jail.place.file("work/there", "x");
    let script = format!(
        "import os
open('fine', 'w').write('x')
for _ in range({levels}):
    os.mkdir('d'); os.chdir('d')
open('bottom', 'w').write('x')
"
    );
    jail.run(&["python3", "-c", &script]).succeeded();
    let ran = jail.jailmk("diff", &[]).succeeded();
    assert_eq!(ran.stdout.lines().count(), 2, "{}", ran.stdout.len());
    assert!(ran.stdout.contains("[never applied: its path is longer than 4095 bytes]"));
    let ran = apply(&jail, &["--", "fine"]).succeeded();
    assert_eq!(ran.stdout, "added    fine\n");
    jail.jailmk("discard", &["--", "d"]).succeeded();
    assert_eq!(changes(&jail), Vec::<String>::new());
    let names = jail.run(&["python3", "-c", "import os; print(sorted(os.listdir()))"]).succeeded();
    assert_eq!(names.stdout, "['fine', 'there']\n");
    // And the whole at once.
    jail.run(&["python3", "-c", &script]).succeeded();
    jail.jailmk("discard", &[]).succeeded();
    assert_eq!(changes(&jail), Vec::<String>::new());
}

#[test]
fn ten_thousand_changes_come_over() {
    if !need_overlay() {
        return;
    }
    // An emulated machine would take minutes.
    let scale = if jail::kernel() == "host" { 100 } else { 10 };
    let jail = reviewed_with("include = [\"python\"]");
    for index in 0..20 * scale {
        jail.place.file(format!("work/old/{}/{index}", index % 20), "host\n");
    }
    let script = format!(
        "
import os, shutil
shutil.rmtree('old/0'); shutil.rmtree('old/1')
for i in range(80 * {scale}):
    d = 'new/%d' % (i % 100)
    os.makedirs(d, exist_ok=True)
    open('%s/%d' % (d, i), 'w').write(str(i))
for i in range(20 * {scale}):
    if i % 20 > 1:
        open('old/%d/%d' % (i % 20, i), 'a').write('jail')
"
    );
    jail.run(&["python3", "-c", &script]).succeeded();
    assert_eq!(changes(&jail).len(), 100 * scale);
    let ran = apply(&jail, &[]).succeeded();
    assert_eq!(ran.stdout.lines().count(), 100 * scale);
    assert_eq!(changes(&jail), Vec::<String>::new());
    assert_eq!(snapshot(&jail.place.join("work")).len(), 80 * scale + 100 + 1 + 18 * scale + 18 + 1);
}

#[test]
fn a_huge_file_comes_over_and_is_no_text() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.sh("dd if=/dev/zero of=huge bs=1 count=1 seek=400000000 2>/dev/null; echo x >>huge").succeeded();
    let patch = jail.jailmk("diff", &["-p"]).succeeded().stdout;
    assert_eq!(patch, "# added, more than 16 MiB: huge\n");
    apply(&jail, &[]).succeeded();
    assert_eq!(fs::metadata(jail.place.join("work/huge")).expect("look").len(), 400_000_003);
}

#[test]
fn what_is_a_hole_stays_one() {
    if !need_overlay() {
        return;
    }
    let jail = Jail::tools(format!("[limits]\ndisk = \"16G\"\n{REVIEW}"));
    let (size, middle) = (8 << 30, 4 << 30);
    let there = jail.place.file("work/there", "host\n");
    fs::OpenOptions::new().write(true).open(&there).and_then(|file| file.set_len(size)).expect("lengthen");
    jail.sh(&format!(
        "write() {{ printf $1 | dd of=$2 bs=1 seek=$3 conv=notrunc 2>/dev/null; }}
         write x made {middle}; write y made {last}; write z there {last}",
        last = size - 1
    ))
    .succeeded();
    assert_eq!(changes(&jail), ["added    made", "changed  there"]);
    apply(&jail, &[]).succeeded();
    for (name, at, byte) in [("made", middle, b'x'), ("made", size - 1, b'y'), ("there", size - 1, b'z')] {
        let file = fs::File::open(jail.place.join("work").join(name)).expect("open a file");
        let mut read = [0; 3];
        file.read_exact_at(&mut read[..2], at - 1).expect("read a file");
        assert_eq!(read, [0, byte, 0], "{name}");
        let metadata = file.metadata().expect("look at a file");
        assert_eq!(metadata.len(), size, "{name}");
        // The kernel itself copies a mebibyte at a time to the upper layer.
        assert!(metadata.blocks() * 512 < 4 << 20, "{name} takes {} blocks", metadata.blocks());
    }
}

#[test]
fn a_tree_that_the_host_turns_into_a_link_meanwhile_is_not_followed() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let work = jail.place.join("work");
    jail.place.directory("outside");
    jail.place.file("work/d/there", "host\n");
    let (real, away) = (work.join("d"), work.join("d-away"));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _ = fs::rename(&real, &away);
                let _ = symlink("../outside", &real);
                let _ = fs::remove_file(&real);
                let _ = fs::rename(&away, &real);
            }
        });
        for round in 0..5 {
            jail.sh(&format!(
                "mkdir -p d; for i in $(seq 50); do echo {round} >d/$i 2>/dev/null; done; true"
            ));
            let _ = apply(&jail, &[]);
            let _ = jail.jailmk("discard", &[]);
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(fs::read_dir(jail.place.join("outside")).expect("list").next().is_none());
}

#[test]
fn a_deletion_follows_no_link_whoever_put_it_there() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    for name in ["outside/1", "outside/2", "work/d/1", "work/d/2", "work/e/1"] {
        jail.place.file(name, "host\n");
    }
    let outside = snapshot(&jail.place.join("outside"));
    jail.sh("rm d/1 d/2; rm -rf e; ln -s ../outside e").succeeded();
    let work = jail.place.join("work");
    fs::rename(work.join("d"), jail.place.join("d")).expect("rename");
    symlink("../outside", work.join("d")).expect("make a link");
    let _ = apply(&jail, &["--overwrite"]);
    assert_eq!(snapshot(&jail.place.join("outside")), outside, "apply");
    jail.jailmk("discard", &["--", "e"]).succeeded();
    let _ = jail.jailmk("discard", &["--", "d"]);
    jail.jailmk("discard", &[]).succeeded();
    assert_eq!(snapshot(&jail.place.join("outside")), outside, "discard");
    assert_eq!(fs::read_dir(jail.place.join("d")).expect("list").count(), 2);
}

/// Kills `apply` at many moments, and goes on: at no time is a file anything but old or new, and at the end
/// all is as if nothing had happened. `JAILMK_KILLS` sets how often.
#[test]
fn an_apply_that_is_killed_loses_nothing_and_goes_on() {
    if !need_overlay() {
        return;
    }
    let kills: u64 = std::env::var("JAILMK_KILLS").ok().and_then(|count| count.parse().ok()).unwrap_or(40);
    let jail = reviewed();
    let work = jail.place.join("work");
    let script = "
for i in $(seq 40); do echo new$i >change/$i; echo new$i >add/sub/$i 2>/dev/null || { mkdir -p add/sub; echo new$i >add/sub/$i; }; done
rm -rf gone; rm -rf opaque; mkdir opaque; for i in $(seq 10 30); do echo new$i >opaque/$i; done; ln -s change/1 link; chmod 700 mode";
    let mut chance = Chance::seeded(0x2545_f491_4f6c_dd1d);
    let mut done = 0;
    while done < kills {
        let _ = fs::remove_dir_all(&work);
        jail.place.directory("work");
        // In the new directory, which need not have the inode of the old one.
        jail.jailmk("discard", &[]).succeeded();
        for index in 1..=40 {
            for directory in ["change", "gone", "opaque"] {
                jail.place.file(format!("work/{directory}/{index}"), format!("old{index}\n"));
            }
        }
        jail.place.file("work/mode", "old\n");
        let old = snapshot(&work);
        jail.sh(script).succeeded();
        let expected = expected(&old);
        for _ in 0..8 {
            jail::Running::start(jail.command("apply", &[]))
                .killed_after(Duration::from_micros(chance.below(40_000)));
            done += 1;
            for (path, content) in snapshot(&work) {
                let name = String::from_utf8_lossy(&path).into_owned();
                let known = [old.get(&path), expected.get(&path)]
                    .into_iter()
                    .flatten()
                    .any(|known| known.2 == content.2 && (known.0 & 0o170_000) == (content.0 & 0o170_000));
                assert!(known || name.contains(".jailmk-"), "{name} is neither old nor new: {content:?}");
            }
        }
        apply(&jail, &[]).succeeded();
        assert_eq!(diff_of(&snapshot(&work), &expected), Vec::<String>::new());
        assert_eq!(changes(&jail), Vec::<String>::new());
        assert_eq!(jail.prints("cat opaque/10; ls gone 2>/dev/null; cat link"), "new10\nnew1\n");
    }
}

fn expected(old: &jail::workspace::Snapshot) -> jail::workspace::Snapshot {
    let mut new = old.clone();
    new.retain(|path, _| !path.starts_with(b"gone") && !path.starts_with(b"opaque/"));
    let (uid, file, directory) = (nix::unistd::geteuid().as_raw(), 0o100_644, 0o040_755);
    let mut put = |path: String, mode: u32, content: String| {
        new.insert(path.into_bytes(), (mode, uid, content.into_bytes()));
    };
    for index in 1..=40 {
        put(format!("change/{index}"), file, format!("new{index}\n"));
        put(format!("add/sub/{index}"), file, format!("new{index}\n"));
    }
    for index in 10..=30 {
        put(format!("opaque/{index}"), file, format!("new{index}\n"));
    }
    put("add".into(), directory, String::new());
    put("add/sub".into(), directory, String::new());
    put("link".into(), 0o120_777, "change/1".into());
    put("mode".into(), 0o100_700, "old\n".into());
    new
}

fn diff_of(a: &jail::workspace::Snapshot, b: &jail::workspace::Snapshot) -> Vec<String> {
    let all: BTreeMap<_, _> = a.iter().chain(b).collect();
    all.keys()
        .filter(|path| a.get(**path) != b.get(**path))
        .map(|path| format!("{}: {:?} {:?}", String::from_utf8_lossy(path), a.get(*path), b.get(*path)))
        .collect()
}
