//! Real work under review: once it is applied, the host's tree is what the same work outside gives.

mod jail;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use jail::checks::need_program;
use jail::workspace::{Snapshot, apply, changes, need_overlay, reviewed_with, snapshot};
use jail::{Jail, is_root};

/// Whose commits are the same wherever they are made.
const AUTHOR: &str = "export GIT_COMMITTER_DATE=2020-01-01T00:00:00Z GIT_AUTHOR_DATE=2020-01-01T00:00:00Z \
                      GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@b";

/// Work that is done twice, inside and outside.
#[derive(Clone, Copy, Default)]
struct Work<'a> {
    /// The specs of the jail.
    include: &'a str,
    /// What makes the tree that it begins with, on the host.
    setup: &'a str,
    /// The work.
    script: &'a str,
    /// What it takes `--protected` to bring over.
    protected: &'a [&'a str],
    /// Links that lead out of the workspace, which are never applied.
    stays: &'a [&'a str],
    /// Where two runs of it outside would not be the same either, and why: beginnings of paths.
    differs: &'a [(&'a str, &'a str)],
}

/// The host itself, but for the places where a jail has its workspace and home: there is the copy `$1`. Paths
/// that the work writes down are the same then.
const HOST: &str = r#"
mount -t tmpfs host /mnt
for entry in /*; do
    case $entry in
    /home | /mnt | /workspace) ;;
    *) if [ -L "$entry" ]; then cp -P "$entry" /mnt
       elif [ -d "$entry" ]; then mkdir "/mnt$entry"; mount --rbind "$entry" "/mnt$entry"; fi ;;
    esac
done
mkdir -p /mnt/home/agent /mnt/workspace
mount --bind "$1" /mnt/workspace
exec chroot /mnt setpriv --inh-caps=-all --ambient-caps=-all sh -ec "cd /workspace; $2"
"#;

impl Work<'_> {
    /// Does it in a jail and outside, on the same tree, and compares what comes of it; gives the applied tree.
    fn is_as_outside(self) -> Jail {
        let jail = reviewed_with(&format!("include = [{}]", self.include));
        let script = format!("umask 022\n{AUTHOR}\n{}", self.script);
        let work = jail.place.join("work");
        host(&["sh", "-ec", &format!("umask 022\n{AUTHOR}\n{}", self.setup)], &work).succeeded();
        let copy = jail.place.directory("copy");
        host(&["cp", "-a", ".", copy.to_str().expect("UTF-8")], &work).succeeded();
        let before = snapshot(&work);

        jail.sh(&format!("set -e\n{script}")).succeeded();
        assert_eq!(snapshot(&work), before, "the host's tree has changed before `apply`");
        let protected: Vec<&str> = self.protected.iter().flat_map(|path| ["--protected", path]).collect();
        let ran = apply(&jail, &protected).ended(i32::from(!self.stays.is_empty()));
        let stays: Vec<String> = self.stays.iter().map(|path| format!("added    {path}")).collect();
        let left = changes(&jail);
        assert!(left.iter().zip(&stays).all(|(left, stays)| left.starts_with(stays)), "{left:?}");
        assert_eq!(left.len(), stays.len(), "{left:?}: {}", ran.stderr);

        let namespaces: &[&str] =
            if is_root() { &["-m"] } else { &["-m", "-U", "--map-current-user", "--keep-caps"] };
        let command = ["sh", "-ec", HOST, "sh", copy.to_str().expect("UTF-8"), &script];
        host(&[&["unshare"], namespaces, &command].concat(), jail.place.path()).succeeded();
        self.same(&snapshot(&work), &snapshot(&copy));
        jail
    }

    fn same(&self, applied: &Snapshot, outside: &Snapshot) {
        let compared = |path: &[u8]| {
            let stays = self.stays.iter().any(|stays| path == stays.as_bytes());
            !stays && !self.differs.iter().any(|(differs, _)| path.starts_with(differs.as_bytes()))
        };
        let missing = |from: &Snapshot, to: &Snapshot| -> Vec<String> {
            let same = |path: &Vec<u8>, (mode, uid, content): &(u32, u32, Vec<u8>)| {
                // Python's caches hold the time of what they were made from.
                let is_cache = path.ends_with(b".pyc");
                to.get(path).is_some_and(|there| {
                    (there.0, there.1) == (*mode, *uid) && (is_cache || there.2 == *content)
                })
            };
            let missing = from.iter().filter(|(path, file)| compared(path) && !same(path, file));
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(300).collect::<String>();
            missing
                .map(|(path, (mode, uid, content))| {
                    format!("{} {mode:o} {uid} {:?}", text(path), text(content))
                })
                .collect()
        };
        let (here, there) = (missing(applied, outside), missing(outside, applied));
        assert!(here.is_empty() && there.is_empty(), "applied: {here:#?}\noutside: {there:#?}");
    }
}

/// Runs a command on the host, with the environment that a jail has.
fn host(command: &[&str], directory: &Path) -> jail::Ran {
    let mut host = Command::new(command[0]);
    host.args(&command[1..]).current_dir(directory).env_clear().stdin(Stdio::null());
    host.env("PATH", jail::PATH).env("HOME", "/home/agent").env("LANG", "C.UTF-8").env("USER", "agent");
    host.env("GIT_CONFIG_NOSYSTEM", "1");
    jail::run(host)
}

/// A repository with one commit.
const REPOSITORY: &str = "mkdir src; echo one >src/main; echo two >src/other
    git init -q -b main .; git add -A; git commit -q -m first";

/// The repository is whole, and git sees in it what it sees in the other.
fn is_a_repository(jail: &Jail) {
    let git = |tree: &str, arguments: &[&str]| {
        let command = [&["git", "-c", "safe.directory=*"], arguments].concat();
        host(&command, &jail.place.join(tree)).succeeded().stdout
    };
    git("work", &["fsck", "--strict"]);
    for arguments in [["status", "--porcelain"].as_slice(), &["log", "--all", "--format=%H %D"]] {
        assert_eq!(git("work", arguments), git("copy", arguments));
    }
}

#[test]
fn git_that_takes_no_optional_locks_leaves_no_change_of_its_index() {
    if !need_overlay() || !need_program("/usr/bin/git") {
        return;
    }
    let index = |process: &str| {
        let jail = reviewed_with(&format!("include = [\"git\"]\n{process}"));
        let outside =
            format!("cd {} && git init -q && echo a >a && git add a", jail.place.join("work").display());
        let mut shell = Command::new("/bin/sh");
        assert!(shell.args(["-c", &outside]).env("HOME", "/").status().expect("run git").success());
        assert_eq!(jail.prints("git status --short"), "A  a\n");
        changes(&jail)
    };
    assert_eq!(index(""), ["changed  .git/index"]);
    assert_eq!(index("[process]\nenv = { GIT_OPTIONAL_LOCKS = \"0\" }\n"), [""; 0]);
}

#[test]
fn commits_and_branches_come_over() {
    if !need_overlay() {
        return;
    }
    let jail = Work {
        include: r#""shell", "git""#,
        setup: REPOSITORY,
        script: "git config --global safe.directory '*'
            echo three >>src/main; git commit -q -a -m second
            git checkout -q -b topic; git mv src/other src/renamed; git commit -q -m third
            git checkout -q main; echo four >untracked; git gc -q; git tag v1",
        protected: &[".git/info", ".git/objects/info/commit-graph"],
        differs: &[(".git/index", "inode numbers and times")],
        ..Work::default()
    }
    .is_as_outside();
    is_a_repository(&jail);
}

#[test]
fn a_git_worktree_comes_over_where_it_is_allowed_by_name() {
    if !need_overlay() {
        return;
    }
    let jail = Work {
        include: r#""shell", "git""#,
        setup: REPOSITORY,
        script: "git config --global safe.directory '*'
            git worktree add -q -b side tree; cd tree; echo x >new; git add new
            git commit -q -m side",
        protected: &[".git/worktrees", "tree/.git"],
        differs: &[(".git/worktrees/tree/index", "inode numbers and times")],
        ..Work::default()
    }
    .is_as_outside();
    is_a_repository(&jail);
}

#[test]
fn databases_come_over() {
    if !need_overlay() {
        return;
    }
    Work {
        include: r#""shell", "python""#,
        script: r#"python3 -c "
import sqlite3
db = sqlite3.connect('data.db'); db.execute('pragma journal_mode=wal'); db.execute('create table t (a)')
for i in range(100):
    db.execute('insert into t values (?)', (i,)); db.commit()
other = sqlite3.connect('data.db'); assert other.execute('select count(*) from t').fetchone() == (100,)
other.close(); db.execute('pragma wal_checkpoint(truncate)'); db.close()
""#,
        ..Work::default()
    }
    .is_as_outside();
}

#[test]
fn files_and_directories_that_are_renamed_over_and_over_come_over() {
    if !need_overlay() {
        return;
    }
    Work {
        include: r#""shell""#,
        setup: "mkdir src old; echo one >src/main; echo two >src/other; echo three >old/there; ln -s there old/link",
        script: r#"mkdir build
            for i in 1 2 3 4 5 6 7 8 9; do echo $i >build/.tmp.$i; chmod 750 build/.tmp.$i; mv build/.tmp.$i build/$i; done
            mv build stage; mv stage out
            rm -rf src; mkdir src; echo new >src/main; ln src/main src/hard; cp -a out out2; rm -rf out; mv out2 out
            mv old older; mv older/there old; mv old older/there; mkdir -m 700 old; mv older/link old/there"#,
        ..Work::default()
    }
    .is_as_outside();
}

#[test]
fn a_crate_that_cargo_built_comes_over() {
    if !need_overlay() || !need_program("/usr/bin/rustc") || !need_program("/usr/bin/cargo") {
        return;
    }
    let jail = Work {
        include: r#""rust""#,
        setup: r#"mkdir src
            printf '[package]\nname = "made"\nversion = "0.1.0"\nedition = "2021"\n' >Cargo.toml
            echo 'fn main() { println!("cargo:rerun-if-changed=build.rs\ncargo:rustc-env=MADE=by-a-script"); }' >build.rs
            echo 'pub fn sum(of: &[i32]) -> i32 { of.iter().sum() }' >src/lib.rs
            echo 'fn main() { println!("{} {}", env!("MADE"), made::sum(&[1, 2])); }' >src/main.rs"#,
        script: "cargo build --quiet --offline; ./target/debug/made >said",
        differs: &[
            ("target/.rustc_info.json", "the time of the compiler's file"),
            ("target/debug/incremental/", "names by time and chance"),
        ],
        ..Work::default()
    }
    .is_as_outside();
    let made = host(&["target/debug/made"], &jail.place.join("work")).succeeded();
    assert_eq!(made.stdout, "by-a-script 3\n");
}

#[test]
fn a_package_that_npm_installed_comes_over() {
    if !need_overlay() || !need_program("/usr/bin/npm") {
        return;
    }
    let jail = Work {
        include: r#""node""#,
        setup: r#"mkdir spoken speaks
            echo '{"name": "spoken", "version": "1.0.0", "bin": "say.js"}' >spoken/package.json
            printf '#!/usr/bin/env node\nconsole.log("spoken")\n' >spoken/say.js"#,
        script: "cd spoken; npm pack --silent; cd ../speaks
            npm install --silent --offline --no-audit --no-fund ../spoken/spoken-1.0.0.tgz
            npx --offline spoken >said",
        ..Work::default()
    }
    .is_as_outside();
    let spoken = host(&["node_modules/.bin/spoken"], &jail.place.join("work/speaks")).succeeded();
    assert_eq!(spoken.stdout, "spoken\n");
}

#[test]
fn a_python_environment_comes_over_where_it_is_allowed_by_name() {
    if !need_overlay() {
        return;
    }
    Work {
        include: r#""shell", "python""#,
        script: "python3 -m venv env; env/bin/python -c 'import pip, sys; print(sys.prefix)' >said",
        protected: &["env"],
        stays: &["env/bin/python3"],
        differs: &[
            ("env/bin/Activate.ps1", "copied with its mode, and the files of a jail are read-only"),
            ("env/bin/activate", "the same"),
        ],
        ..Work::default()
    }
    .is_as_outside();
}

#[test]
fn a_python_environment_made_inside_is_held_back_where_it_runs() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with("include = [\"shell\", \"python\"]");
    let ran =
        jail.sh("python3 -m venv --without-pip env && env/bin/python -c 'import sys; print(sys.prefix)'");
    assert_eq!(ran.stdout, "/workspace/env\n", "{ran}");
    let ran = apply(&jail, &[]).ended(1);
    assert!(
        !jail.place.join("work/env/bin").exists() && !jail.place.join("work/env/pyvenv.cfg").exists(),
        "{ran}"
    );
    // Its interpreter is a link to the jail's /usr/bin, which leads out of the workspace.
    let ran = apply(&jail, &["--protected", "env"]).ended(1);
    assert!(jail.place.join("work/env/pyvenv.cfg").exists(), "{ran}");
    assert!(ran.stderr.contains("the link leads out of the workspace"), "{ran}");
    let mode = fs::metadata(jail.place.join("work/env/bin/activate")).expect("look").permissions().mode();
    assert_eq!(mode & 0o7000, 0);
}
