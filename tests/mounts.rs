//! What of the host a jail sees: its workspace, its `[[mount]]`s, and the writable places beside them.

mod jail;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use jail::{Jail, is_root, need_root, probe};

const WORKSPACE: &str = "[workspace]\nmode = \"direct\"\npath = \"PLACE/work\"\n";

/// A jail whose workspace is `work` in its place.
fn at_work(sections: &str) -> Jail {
    let jail = Jail::tools(format!("{WORKSPACE}{sections}"));
    jail.place.directory("work");
    jail
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = fs::symlink_metadata(path).expect("look at a file");
    (metadata.uid(), metadata.gid())
}

#[test]
fn a_direct_workspace_is_the_working_directory_and_writes_reach_the_host() {
    let jail = at_work("");
    let here = jail.place.file("work/there", "host\n");
    assert_eq!(jail.prints("pwd; cat there; echo jail >made; echo more >>there"), "/workspace\nhost\n");
    let made = jail.place.join("work/made");
    assert_eq!(fs::read_to_string(&made).expect("read a file"), "jail\n");
    assert_eq!(fs::read_to_string(&here).expect("read a file"), "host\nmore\n");
    assert_eq!(owner(&made), owner(&here));
    assert_eq!(jail.prints("stat -c %u:%g there made"), "1000:1000\n1000:1000\n");
}

#[test]
fn what_root_s_jail_writes_belongs_to_the_owner_of_the_directory() {
    if !need_root() {
        return;
    }
    let jail = at_work("");
    chown(jail.place.join("work"), Some(12_345), Some(12_346)).expect("chown");
    let foreign = jail.place.file("work/of-root", "x");
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o600)).expect("chmod");
    let ran =
        jail.sh("echo x >made; mkdir dir; ln -s a link; cat of-root; chmod 666 of-root; stat -c %u of-root");
    for name in ["made", "dir", "link"] {
        assert_eq!(owner(&jail.place.join("work").join(name)), (12_345, 12_346), "{name}");
    }
    // Root's own file among them stays root's, and out of reach.
    assert_eq!(owner(&foreign), (0, 0));
    assert_eq!(ran.stdout, "65534\n", "{ran}");
    assert_eq!(ran.complaints().len(), 2, "{ran}");
}

#[test]
fn as_whom_a_mount_is_read_stands_in_the_plan_and_is_what_the_jail_reads() {
    let jail = Jail::tools("[[mount]]\nfrom = \"PLACE/data\"\nto = \"/tmp/data\"\n");
    let key = jail.place.file("data/key", "secret\n");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    let owners: &[(u32, u32, &str)] = match is_root() {
        true => &[(0, 0, ", as its owner root"), (12_345, 12_346, ", as its owner uid 12345 and gid 12346")],
        // The jail is the caller, whose files they are.
        false => &[(u32::MAX, u32::MAX, "")],
    };
    for (uid, gid, words) in owners {
        for path in ["data", "data/key"] {
            chown(jail.place.join(path), Some(*uid), Some(*gid)).expect("chown");
        }
        let plan = jail.jailmk("enter", &["--plan"]).succeeded().stdout;
        let line = plan.lines().find(|line| line.contains(" on /tmp/data ")).expect("a step");
        assert!(line.ends_with(&format!("(ro,nosuid,nodev){words}")), "{line}");
        assert_eq!(jail.prints("cat /tmp/data/key; stat -c %u /tmp/data/key"), "secret\n1000\n");
    }
}

#[test]
fn a_read_only_workspace_takes_no_writes() {
    let jail = Jail::tools("[workspace]\npath = \"PLACE/work\"\n[process]\ncommand = [\"ls\"]\n");
    jail.place.file("work/there", "host\n");
    assert_eq!(jail.run(&[]).succeeded().stdout, "there\n");
    let ran = jail.sh("cat there; touch made; rm -f there; (echo x >there); chmod 777 there");
    assert_eq!(ran.stdout, "host\n");
    assert_eq!(
        ran.complaints().iter().filter(|line| line.contains("Read-only file system")).count(),
        4,
        "{ran}"
    );
    assert_eq!(fs::read_dir(jail.place.join("work")).expect("list").count(), 1);
}

#[test]
fn a_relative_workspace_is_found_from_where_enter_is_called() {
    let jail = Jail::tools("[workspace]\npath = \".\"\n");
    jail.place.file("here/marker", "");
    assert_eq!(jail.prints("ls"), "marker\n");
}

#[test]
fn the_specs_own_files_in_a_direct_workspace_cannot_be_changed_moved_or_replaced() {
    let jail = Jail::spec(format!(
        "include = [\"../other.toml\"]\n{}[workspace]\nmode = \"direct\"\npath = \"PLACE\"\n",
        jail::tools()
    ));
    let other = jail.place.file("other.toml", "[process]\nenv = { A = \"b\" }\n");
    let before = fs::read(jail.spec_path()).expect("read the spec");
    let ran = jail.sh(
        "echo x >>spec/jail.toml; rm -f spec/jail.toml; mv spec/jail.toml spec/a; echo y >spec/new; mv spec/new spec/jail.toml
         echo x >>other.toml; rm -f other.toml; ln -f spec/new other.toml; chmod 666 other.toml; mv spec moved; ls",
    );
    assert_eq!(fs::read(jail.spec_path()).expect("read the spec"), before, "{ran}");
    assert_eq!(fs::read_to_string(other).expect("read a file"), "[process]\nenv = { A = \"b\" }\n", "{ran}");
    assert_eq!(jail.prints("echo $A"), "b\n");
}

#[test]
fn protected_names_that_are_there_cannot_be_changed_moved_or_replaced_in_a_direct_workspace() {
    let jail = at_work("");
    let names =
        [".git/config", ".git/hooks/there", ".envrc", ".vscode/tasks.json", ".github/workflows/ci.yml"];
    for name in names {
        jail.place.file(format!("work/{name}"), "host\n");
    }
    jail.place.file("work/.git/HEAD", "host\n");
    jail.place.file("work/.github/other", "host\n");
    let ran = jail.sh(
        "for f in .git/config .git/hooks/there .envrc .vscode/tasks.json .github/workflows/ci.yml; do
           (echo evil >$f) 2>/dev/null; (echo evil >x; mv -f x $f) 2>/dev/null; rm -f $f 2>/dev/null; ln -f .git/HEAD $f 2>/dev/null
         done
         echo evil >.git/hooks/new; mkdir .vscode/new; rm -rf .git .github .vscode; mv .git g; mv .github g; mv .vscode g
         mkdir -p g; echo fine >.git/HEAD; echo fine >.github/other; ls -A",
    );
    for name in names {
        let content = fs::read_to_string(jail.place.join("work").join(name));
        assert_eq!(content.ok().as_deref(), Some("host\n"), "{name}: {ran}");
    }
    assert!(!jail.place.join("work/.git/hooks/new").exists(), "{ran}");
    // What is history, or nobody's business, is the jail's to write.
    for name in [".git/HEAD", ".github/other"] {
        assert_eq!(
            fs::read_to_string(jail.place.join("work").join(name)).ok().as_deref(),
            Some("fine\n"),
            "{name}: {ran}"
        );
    }
    assert!(ran.stderr.contains("new and deeper ones can be written"), "{ran}");
    assert!(!ran.stderr.contains("the jail has written it"), "{ran}");
}

#[test]
fn protected_names_that_came_to_a_direct_workspace_are_told_at_the_end() {
    let jail = at_work("");
    symlink("elsewhere", jail.place.join("work/.vscode")).expect("make a link");
    let ran = jail
        .sh("echo x >.envrc; mkdir -p .git/hooks; rm .vscode; ln -s other .vscode; echo x >fine; exit 7")
        .ended(7);
    let told: Vec<&str> =
        ran.complaints().into_iter().filter(|line| line.starts_with("jailmk: look at ")).collect();
    assert_eq!(
        told,
        [
            "jailmk: look at .vscode before you go on, the jail has written it: editor configuration",
            "jailmk: look at .envrc before you go on, the jail has written it: environment of a directory",
            "jailmk: look at .git/hooks before you go on, the jail has written it: git directory",
        ],
        "{ran}"
    );
}

/// Saves a file as editors do: the kernel takes off what is mounted on a file that another one replaces.
fn save(path: &Path, content: impl AsRef<[u8]>) {
    let new = path.with_extension("new");
    fs::write(&new, content).expect("write a file");
    fs::rename(&new, path).expect("rename a file");
}

#[test]
fn a_spec_that_the_jail_can_have_changed_is_used_again_only_after_it_was_read() {
    for (included, place) in [
        (false, "[workspace]\nmode = \"direct\"\npath = \"PLACE\"\n"),
        (true, "[[mount]]\nfrom = \"PLACE\"\nto = \"/workspace\"\nmode = \"read-write\"\n"),
    ] {
        let jail = Jail::spec(format!("include = [\"other.toml\"]\n{}{place}", jail::tools()));
        let other = jail.place.file("spec/other.toml", "[process]\nenv = { A = \"b\" }\n");
        let changed = if included { other } else { jail.spec_path().to_owned() };
        let before = fs::read(&changed).expect("read a spec");
        let name = changed.file_name().and_then(|name| name.to_str()).expect("a name");
        let mut running = jail.start(&format!(
            "cd /workspace/spec; (echo '# evil' >>{name}) 2>/dev/null; echo ready; read go; echo '# evil' >>{name} && echo written"
        )).ready();
        save(&changed, &before);
        running.say(b"go\n");
        let ran = running.end();
        assert_eq!(ran.stdout, "ready\nwritten\n", "{ran}");
        assert!(
            ran.stderr.contains(&format!("/spec/{name} before you go on: it changed while the jail ran")),
            "{ran}"
        );
        for refused in [jail.sh("true"), jail.sh("true"), jail.jailmk("build", &[])] {
            assert!([1, 125].contains(&refused.status), "{refused}");
            assert!(
                refused.stderr.contains("it changed while a jail ran that can write where it is"),
                "{refused}"
            );
            assert!(refused.stderr.contains("--trust-spec"), "{refused}");
        }
        jail.jailmk("enter", &["--trust-spec", "--plan"]).succeeded();
        jail.sh("true").ended(125);
        jail.jailmk("enter", &["--trust-spec", "--", "sh", "-c", ":"]).succeeded();
        jail.prints("true");
        // As it was is as good.
        save(&changed, &before);
        jail.prints("true");
    }
}

#[test]
fn a_spec_may_be_edited_while_no_jail_runs_or_one_that_cannot_write_it() {
    let jail = Jail::tools("[workspace]\nmode = \"direct\"\npath = \"PLACE\"\n");
    let spec = jail.spec_path().to_owned();
    let text = fs::read_to_string(&spec).expect("read the spec");
    jail.prints("true");
    save(&spec, format!("{text}# edited\n"));
    jail.prints("true");
    // A supervisor that was killed says nothing of what its jail wrote.
    let running = jail.start("echo ready; read go").ready();
    running.killed_after(std::time::Duration::ZERO);
    jail.prints("true");
    save(&spec, &text);
    jail.prints("true");
    let running = jail.start("echo ready; read go").ready();
    running.killed_after(std::time::Duration::ZERO);
    save(&spec, format!("{text}# edited\n"));
    jail.sh("true").refused(125, "it changed while a jail ran that can write where it is");

    let jail = Jail::tools("[workspace]\nmode = \"read-only\"\npath = \"PLACE\"\n");
    let mut running = jail.start("echo ready; read go").ready();
    save(
        jail.spec_path(),
        format!("{}# edited\n", fs::read_to_string(jail.spec_path()).expect("read the spec")),
    );
    running.say(b"go\n");
    assert!(!running.end().stderr.contains("before you go on"));
    jail.prints("true");
}

#[test]
fn what_the_tree_is_built_from_cannot_be_changed_moved_or_replaced_by_the_jail() {
    for place in [
        "[workspace]\nmode = \"direct\"\npath = \"PLACE\"\n",
        "[[mount]]\nfrom = \"PLACE\"\nto = \"/home/agent\"\nmode = \"read-write\"\n",
    ] {
        let jail = Jail::tools(format!(
            "files = [{{ from = \"../conf/x\", to = \"/etc/x\" }}, {{ from = \"tree\", to = \"/srv/tree\" }}, {{ from = \"PLACE/glob/*.none\", optional = true }},
                       {{ from = \"../missing\", to = \"/etc/missing\", optional = true }}]
             {place}"
        ));
        let names = ["conf/x", "spec/tree/a", "glob/a.conf"];
        for name in names {
            jail.place.file(name, "host\n");
        }
        jail.place.file("key", "secret\n");
        let inside = if place.contains("workspace") { "/workspace" } else { "/home/agent" };
        let ran = jail.sh(&format!(
            "cd {inside}
             for f in conf/x spec/tree/a glob/a.conf; do
               (echo evil >$f) 2>/dev/null; rm -f $f; ln -s ../key $f; ln -sf ../key $f; echo evil >new; mv -f new $f
             done
             for d in conf spec/tree spec glob; do mv $d moved; ln -s ../key spec/tree/link; ln -s ../key glob/b.conf; done
             ln -s key missing; echo fine >conf/other; cat conf/other /etc/x /srv/tree/a",
        ));
        assert_eq!(ran.stdout, "fine\nhost\nhost\n", "{ran}");
        for name in names {
            let content = fs::read_to_string(jail.place.join(name));
            assert_eq!(content.ok().as_deref(), Some("host\n"), "{name}: {ran}");
        }
        assert_eq!(fs::read_dir(jail.place.join("glob")).expect("list").count(), 1, "{ran}");
        assert_eq!(fs::read_dir(jail.place.join("spec/tree")).expect("list").count(), 1, "{ran}");
        // What was not there could be made, and is not followed.
        assert!(jail.place.join("missing").is_symlink(), "{ran}");
        jail.place.file("conf/x", "host again\n");
        jail.sh("cat /etc/missing").refused(125, "is a symlink where the jail writes");
    }
}

#[test]
fn no_link_that_the_jail_can_have_made_leads_into_its_tree() {
    for (source, link, to) in [
        ("files = [{ from = \"PLACE/work/conf/x\", to = \"/etc/x\" }]", "work/conf/x", "../../key"),
        ("files = [{ from = \"PLACE/work/conf/x\", to = \"/etc/x\" }]", "work/conf", "../other"),
        ("files = [{ from = \"PLACE/work/conf/x\", to = \"/etc/x\" }]", "work/conf/x", "../.env"),
        ("files = [\"PLACE/work/conf/x\"]", "work/conf/x", "../../key"),
        ("files = [\"PLACE/work/conf/*\"]", "work/conf/x", "../../key"),
        ("files = [\"PLACE/work/conf/*\"]", "work/conf", "../other"),
        ("files = [\"PLACE/work/con{f,g}/*\"]", "work/conf/x", "../../key"),
    ] {
        let sections =
            |mode: &str| format!("{source}\n[workspace]\nmode = \"{mode}\"\npath = \"PLACE/work\"\n");
        let mut made = Vec::new();
        for mode in ["direct", "read-only"] {
            let jail = Jail::tools(sections(mode));
            for name in ["key", "other/x", "work/.env"] {
                jail.place.file(name, "secret\n");
            }
            jail.place.directory("work/conf");
            if link == "work/conf" {
                fs::remove_dir(jail.place.join("work/conf")).expect("remove a directory");
            }
            symlink(to, jail.place.join(link)).expect("make a link");
            made.extend([jail.jailmk("build", &[]), jail.sh("true")]);
        }
        for ran in &made[..2] {
            assert!(ran.status == 125 || ran.status == 1, "{source}: {ran}");
            assert!(ran.stderr.contains("is a symlink where the jail writes"), "{source}: {ran}");
        }
        // Nobody but the caller can have made the others.
        for ran in &made[2..] {
            assert!(!ran.stderr.contains("is a symlink where the jail writes"), "{source}: {ran}");
        }
    }
}

#[test]
fn a_root_to_build_from_is_not_chosen_by_the_jail() {
    let jail = Jail::spec(
        "[rootfs]\nfrom = \"PLACE/work/root\"\nprograms = [\"busybox\"]\n[workspace]\nmode = \"direct\"\npath = \"PLACE/work\"\n",
    );
    jail.place.directory("work");
    symlink("/", jail.place.join("work/root")).expect("make a link");
    jail.sh("true").refused(125, "is a symlink where the jail writes");
}

#[test]
fn a_source_beside_the_spec_leads_nowhere_else() {
    let copy = |from: &str| Jail::tools(format!("files = [{{ from = \"{from}\", to = \"/etc/x\" }}]\n"));
    for (from, link, to, led) in [
        ("x", "spec/x", "../key", true),
        ("conf/x", "spec/conf", "../other", true),
        ("x", "spec/x", "y", false),
        ("../link", "link", "key", false),
        ("PLACE/link", "link", "key", false),
    ] {
        let jail = copy(from);
        for name in ["key", "other/x", "spec/y"] {
            jail.place.file(name, "content\n");
        }
        symlink(to, jail.place.join(link)).expect("make a link");
        let ran = jail.sh("cat /etc/x");
        if led {
            ran.refused(125, "it leads out of the spec's directory, to ");
        } else {
            assert_eq!(ran.succeeded().stdout, "content\n", "{from}");
        }
    }
}

#[test]
fn names_that_a_pattern_a_mark_or_git_protects_cannot_be_changed_in_a_direct_workspace_either() {
    let jail = at_work("");
    jail.place.file("work/pyvenv.cfg", "");
    jail.place.file("work/.git/HEAD", "");
    let names = [
        "p.code-workspace",
        "a.desktop",
        "b.pth",
        "c.sublime-project",
        "bin/activate",
        "tools/hooks/pre-commit",
        "tools/team",
    ];
    for name in names {
        jail.place.file(format!("work/{name}"), "host\n");
    }
    jail.place.file("work/tools/team", "[core]\nhooksPath = tools/hooks\n");
    let config = jail.place.file("work/.git/config", "[include]\npath = ../tools/team\n");
    let script = names.map(|name| format!("(echo evil >>{name}; rm -f {name}; mv x {name}) 2>/dev/null"));
    let ran =
        jail.sh(&format!("echo x >x; {}; mv tools t; mv bin b; echo fine >tools/free", script.join("; ")));
    for name in names {
        let content = fs::read_to_string(jail.place.join("work").join(name));
        assert!(content.as_ref().is_ok_and(|content| !content.contains("evil")), "{name}: {content:?} {ran}");
    }
    assert!(config.exists() && jail.place.join("work/tools/free").exists(), "{ran}");
    assert!(!ran.stderr.contains("the jail has written it"), "{ran}");
}

/// The paths that are told at the end of a jail.
fn told(ran: &jail::Ran) -> Vec<String> {
    let path = |line: &str| Some(line.strip_prefix("jailmk: look at ")?.split(' ').next()?.to_owned());
    ran.complaints().into_iter().filter_map(path).collect()
}

#[test]
fn what_makes_a_direct_workspace_another_repository_is_told() {
    let jail = at_work("");
    jail.place.file("work/.git/HEAD", "");
    let ran = jail.sh("mkdir -p .git/refs/replace c; echo ../c >.git/commondir; echo x >.git/index; echo x >.git/HEAD; echo x >new.pth");
    assert_eq!(told(&ran), [".git/commondir", ".git/refs/replace", "new.pth"], "{ran}");

    let jail = at_work("");
    let ran = jail.sh("mkdir c; echo gitdir: c >.git");
    assert_eq!(told(&ran), [".git"], "{ran}");

    let jail = at_work("");
    jail.place.file("work/config/app", "");
    let ran = jail.sh("mkdir refs objects; echo x >HEAD; echo x >commondir");
    assert_eq!(told(&ran), ["HEAD", "config", "commondir"], "{ran}");
    let ran = jail.sh("echo y >HEAD; (echo y >config/app) 2>/dev/null; mkdir hooks");
    assert_eq!(told(&ran), ["hooks"], "{ran}");
    assert_eq!(fs::read_to_string(jail.place.join("work/config/app")).ok().as_deref(), Some(""));
}

#[test]
fn a_direct_workspace_of_too_many_names_says_so() {
    let jail = at_work("");
    for index in 0..200 {
        jail.place.file(format!("work/{index}.pth"), "");
    }
    let ran = jail.sh("true").succeeded();
    assert!(ran.stderr.contains("weaker: the workspace or its git directory has too many names"), "{ran}");
}

#[test]
fn what_is_hidden_is_empty_inside_and_as_it_was_outside() {
    let hide = "hide = [\".env\", \".env.*\", \"keys\", \"*/secret-*\", \"**/*.pem\", \"missing\"]\n";
    for mode in ["direct", "read-only"] {
        let jail = Jail::tools(format!("[workspace]\nmode = \"{mode}\"\npath = \"PLACE/work\"\n{hide}"));
        let secret =
            [".env", ".env.local", "keys/a", "keys/b.pem", "a/secret-1", "x/y/z/cert.pem", "top.pem"];
        let seen = [".environment", "a/b/secret-2", "a/other", "x/y/z/cert.txt"];
        for name in secret.iter().chain(&seen) {
            jail.place.file(format!("work/{name}"), format!("content of {name}\n"));
        }
        let ran = jail.sh(
            "for f in .env .env.local a/secret-1 x/y/z/cert.pem top.pem .environment a/b/secret-2 a/other x/y/z/cert.txt; do cat $f; done
             ls -A keys; (echo evil >.env; rm -f .env; mv .env e; ln .env l; mv keys k; touch keys/new) 2>/dev/null; mv x/y w 2>/dev/null; cat w/z/cert.pem 2>/dev/null",
        );
        let expected: String = seen.iter().map(|name| format!("content of {name}\n")).collect();
        assert_eq!(ran.stdout, expected, "{ran}");
        for name in secret {
            let moved = name.replace("x/y/", "w/");
            let path = [name.to_owned(), moved].map(|name| jail.place.join("work").join(name));
            let content = path.iter().find_map(|path| fs::read_to_string(path).ok());
            assert_eq!(content, Some(format!("content of {name}\n")), "{name}: {ran}");
        }
    }
}

#[test]
fn a_link_cannot_be_hidden() {
    let jail = at_work("hide = [\"*.env\"]\n");
    symlink("real", jail.place.join("work/link.env")).expect("make a link");
    jail.sh("true").refused(125, "is a symlink");
}

#[test]
fn what_is_hidden_is_hidden_though_it_is_protected_or_the_specs_own() {
    let hide =
        "[\".npmrc\", \".ssh/id\", \".aws\", \".cargo\", \".config\", \".git/config\", \"spec/jail.toml\"]";
    let jail = Jail::tools(format!("[workspace]\nmode = \"direct\"\npath = \"PLACE\"\nhide = {hide}\n"));
    let secret =
        [".npmrc", ".ssh/id", ".aws/credentials", ".cargo/config.toml", ".cargo/a", ".config/fish/a"];
    for name in secret.iter().chain(&[".git/config", ".config/b", ".ssh/other"]) {
        jail.place.file(name, "secret\n");
    }
    let spec = fs::read(jail.spec_path()).expect("read the spec");
    let ran = jail.sh(
        "for d in . .ssh .aws .cargo .config .config/fish .git spec; do for f in $d/* $d/.*; do
           if [ -s $f -a -f $f ]; then echo $f; fi
         done; done
         (for f in .npmrc .ssh/id .aws .cargo .git/config spec/jail.toml; do rm -rf $f; mv $f x; echo evil >$f; echo evil >$f/new; done
          mv .ssh s; mv .git g; mv spec s) 2>/dev/null",
    );
    assert_eq!(ran.stdout, ".ssh/other\n", "{ran}");
    for name in secret.iter().chain(&[".git/config"]) {
        assert_eq!(
            fs::read_to_string(jail.place.join(name)).ok().as_deref(),
            Some("secret\n"),
            "{name}: {ran}"
        );
    }
    assert_eq!(fs::read(jail.spec_path()).ok(), Some(spec), "{ran}");
}

#[test]
fn the_directories_on_the_way_to_what_is_hidden_cannot_be_moved() {
    let jail = at_work("hide = [\"conf/deep/key\", \"**/*.pem\"]\n");
    jail.place.file("work/conf/deep/key", "secret\n");
    jail.place.file("work/certs/all/a.pem", "secret\n");
    let ran = jail.sh(
        "for d in conf conf/deep certs certs/all; do mv $d moved; done 2>/dev/null
         echo fine >conf/deep/new && mv conf/deep/new conf/other && rm conf/other && mkdir certs/all/new && echo written",
    );
    assert_eq!(ran.stdout, "written\n", "{ran}");
    for name in ["conf/deep/key", "certs/all/a.pem"] {
        let content = fs::read_to_string(jail.place.join("work").join(name));
        assert_eq!(content.ok().as_deref(), Some("secret\n"), "{name}: {ran}");
    }
    assert_eq!(jail.sh("grep -r secret .").ended(1).stdout, "");
}

#[test]
fn what_lies_too_deep_to_be_hidden_is_refused() {
    for mode in ["direct", "read-only"] {
        let hide = "hide = [\"**/*.pem\"]\n";
        let jail = Jail::tools(format!("[workspace]\nmode = \"{mode}\"\npath = \"PLACE/work\"\n{hide}"));
        jail.place.file("work/secrets/a.pem", "secret\n");
        // One path after another, for none of them all fits into a system call.
        let name = "d".repeat(250);
        let deepen = format!("for i in $(seq 17); do mkdir {name} && cd -P {name} || exit 1; done");
        let mut shell = std::process::Command::new("sh");
        let made = shell.args(["-c", &deepen]).current_dir(jail.place.join("work")).status();
        assert!(made.is_ok_and(|status| status.success()), "make a deep directory");
        jail.sh("true").refused(125, "there is a path of more than 4095 bytes");
        // Nobody sees what is in a directory that is hidden.
        let jail = jail
            .place
            .file(
                "spec/jail.toml",
                fs::read_to_string(jail.spec_path()).expect("read").replace("hide = [", "hide = [\"d*\", "),
            )
            .exists()
            .then_some(jail)
            .expect("a spec");
        assert_eq!(jail.prints("ls d*; cat secrets/a.pem"), "");
    }
}

#[test]
fn what_is_behind_a_link_cannot_be_hidden() {
    for mode in ["direct", "read-only", "review"] {
        if mode == "review" && !jail::workspace::need_overlay() {
            continue;
        }
        for (hide, link) in [
            ("config/key", "real"),
            ("conf*/key", "real"),
            ("config/*", "real"),
            ("config/**", "real"),
            ("config/key", "/workspace/real"),
        ] {
            let jail = Jail::tools(format!(
                "[workspace]\nmode = \"{mode}\"\npath = \"PLACE/work\"\nhide = [\"{hide}\"]\n"
            ));
            jail.place.file("work/real/key", "secret\n");
            symlink(link, jail.place.join("work/config")).expect("make a link");
            let ran = jail.sh("cat config/key");
            assert!(!ran.stdout.contains("secret"), "{mode} {hide}: {ran}");
            ran.ended(125);
        }
        // A link that is no directory has nothing behind it.
        let jail = Jail::tools(format!(
            "[workspace]\nmode = \"{mode}\"\npath = \"PLACE/work\"\nhide = [\"*/key\"]\n"
        ));
        jail.place.file("work/real/key", "secret\n");
        symlink("real/key", jail.place.join("work/file")).expect("make a link");
        symlink("nothing", jail.place.join("work/dangling")).expect("make a link");
        assert_eq!(jail.prints("cat real/key file"), "");
    }
}

#[test]
fn a_missing_workspace_is_refused() {
    Jail::tools(WORKSPACE).sh("true").refused(125, "cannot open the workspace `");
}

#[test]
fn a_workspace_that_is_a_file_is_refused() {
    let jail = Jail::tools(WORKSPACE);
    jail.place.file("work", "x");
    assert_eq!(jail.sh("true").status, 125);
}

#[test]
fn the_state_of_jailmk_can_be_no_part_of_a_jail() {
    for mode in ["direct", "read-only"] {
        let jail = Jail::tools(format!("[workspace]\nmode = \"{mode}\"\npath = \"PLACE\"\n")).fresh_state();
        jail.sh("true").refused(125, "which the jail must not reach");
        let jail = Jail::tools(format!("[workspace]\nmode = \"{mode}\"\npath = \"PLACE/state/rootfs\"\n"))
            .fresh_state();
        jail.sh("true").refused(125, "rootfs");
    }
    let jail = Jail::tools("[[mount]]\nfrom = \"~\"\nto = \"/tmp/home\"\n");
    let state = jail.place.join("home/.local/share/jailmk");
    let jail = jail.variable("JAILMK_STATE", state.to_str().expect("UTF-8"));
    jail.sh("true").refused(125, "which the jail must not reach");
    let link = Jail::tools("[[mount]]\nfrom = \"PLACE/link\"\nto = \"/tmp/home\"\n").fresh_state();
    symlink(".", link.place.join("link")).expect("make a link");
    link.sh("true").refused(125, "which the jail must not reach");
}

#[test]
fn a_second_mount_of_the_host_is_no_way_to_the_state() {
    if !need_root() {
        return;
    }
    for (bound, wanted) in [("", ""), ("", "/state"), ("", "/state/rootfs"), ("/state", "")] {
        let mount = format!(
            "[[mount]]\nfrom = \"PLACE/alias{wanted}\"\nto = \"/home/agent/h\"\nmode = \"read-write\"\n"
        );
        let jail = Jail::tools(mount).fresh_state();
        jail.place.directory("alias/state/rootfs");
        let place = jail.place.join("");
        let place = place.to_str().expect("UTF-8");
        let script = format!(
            "exec unshare --mount --propagation private sh -c '
             mount --bind \"{place}/{bound}\" \"{place}/alias\" || exit 9; exec \"$@\"' sh \"$@\""
        );
        jail.jailmk("build", &[]).succeeded();
        let ran = jail
            .by_shell(&script)
            .sh("touch h/EVIL h/state/EVIL")
            .refused(125, "which the jail must not reach");
        assert_eq!(ran.stdout, "", "{bound} {wanted}");
    }
}

#[test]
fn a_mount_is_read_only_unless_the_spec_says_otherwise() {
    let jail = Jail::tools(
        "[[mount]]\nfrom = \"PLACE/a\"\nto = \"/home/agent/a\"\n[[mount]]\nfrom = \"PLACE/b\"\nto = \"/home/agent/deep/b\"\nmode = \"read-write\"\n",
    );
    jail.place.file("a/file", "a\n");
    jail.place.file("b/file", "b\n");
    let ran = jail.sh("cat a/file deep/b/file; touch deep/b/made; touch a/made");
    assert_eq!(ran.stdout, "a\nb\n");
    assert!(ran.complaints().len() == 1 && ran.stderr.contains("Read-only file system"), "{ran}");
    assert!(jail.place.join("b/made").exists());
}

#[test]
fn a_mount_without_exec_runs_nothing() {
    for (exec, status) in [("true", 0), ("false", 126)] {
        let jail = Jail::tools(format!("[[mount]]\nfrom = \"PLACE/a\"\nto = \"/tmp/a\"\nexec = {exec}\n"));
        jail.place.program("a/script", "#!/bin/sh\necho ran\n");
        jail.run(&["/tmp/a/script"]).ended(status);
    }
}

#[test]
fn a_missing_mount_is_refused_left_out_or_made_as_the_spec_says() {
    let mount = "[[mount]]\nfrom = \"PLACE/a/b\"\nto = \"/tmp/b\"\nmode = \"read-write\"\n";
    Jail::tools(mount).sh("true").refused(125, "cannot open the mount `");
    let jail = Jail::tools(format!("{mount}optional = true\n"));
    assert_eq!(jail.prints("ls /tmp"), "");
    assert!(!jail.place.join("a").exists());
    let jail = Jail::tools(format!("{mount}create = true\n"));
    jail.jailmk("enter", &["--plan"]).succeeded();
    assert!(!jail.place.join("a").exists(), "--plan has made a directory");
    jail.prints("touch /tmp/b/made");
    assert!(jail.place.join("a/b/made").exists());
}

#[test]
fn a_file_can_be_mounted() {
    let jail = Jail::tools("[[mount]]\nfrom = \"PLACE/file\"\nto = \"/home/agent/.config/file\"\n");
    jail.place.file("file", "one\n");
    let ran = jail.sh("cat .config/file; echo x >>.config/file; rm -f .config/file; ls .config");
    assert_eq!(ran.stdout, "one\nfile\n", "{ran}");
    assert_eq!(ran.complaints().len(), 2, "{ran}");
}

#[test]
fn a_mount_point_through_a_symlink_of_the_workspace_is_refused() {
    let jail = at_work("[[mount]]\nfrom = \"PLACE/a\"\nto = \"/workspace/link/a\"\n");
    jail.place.directory("a");
    jail.place.directory("work/real/a");
    for target in ["/etc", "real", "../../../../..", "/tmp"] {
        let link = jail.place.join("work/link");
        let _ = fs::remove_file(&link);
        symlink(target, link).expect("make a link");
        jail.sh("true").refused(125, "symlink");
    }
    assert!(fs::read_dir(jail.place.join("work/real/a")).expect("list").next().is_none());
}

#[test]
fn a_mount_point_is_never_made_on_the_host() {
    let jail = at_work("[[mount]]\nfrom = \"PLACE/a\"\nto = \"/workspace/missing\"\n");
    jail.place.directory("a");
    jail.sh("true").refused(125, "cannot mount");
    assert!(!jail.place.join("work/missing").exists());
}

#[test]
fn a_setuid_program_on_a_mount_has_no_effect() {
    if !need_root() {
        return;
    }
    let jail = Jail::spec("[rootfs]\nprograms = [\"sh\"]\n[[mount]]\nfrom = \"PLACE/a\"\nto = \"/tmp/a\"\n");
    for (name, uid) in [("of-root", 0), ("of-other", 4242)] {
        let path =
            jail.place.program(format!("a/{name}"), fs::read(probe::program()).expect("read the probe"));
        chown(&path, Some(uid), Some(uid)).expect("chown");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6755)).expect("chmod");
        let ran = jail.fed(&[&format!("/tmp/a/{name}")], b"geteuid\n").succeeded();
        assert_eq!(ran.stdout, "1000\n", "{name}");
    }
}

#[test]
fn devices_on_a_mount_cannot_be_opened() {
    if !need_root() {
        return;
    }
    let jail = Jail::tools("[[mount]]\nfrom = \"PLACE/a\"\nto = \"/tmp/a\"\nmode = \"read-write\"\n");
    let device = jail.place.directory("a").join("zero");
    let mut mknod = std::process::Command::new("mknod");
    jail::run({
        mknod.arg("-m").arg("666").arg(&device).args(["c", "1", "5"]);
        mknod
    })
    .succeeded();
    assert_eq!(jail.sh("head -c 1 /tmp/a/zero").stdout, "");
}

#[test]
fn a_tmpfs_is_as_large_as_the_spec_says() {
    let jail = Jail::tools(
        "directories = [\"/srv/data\"]\n[tmpfs]\n\"/srv/data\" = \"1M\"\n\"/home/agent/cache\" = \"2M\"\n",
    );
    let ran = jail.sh("for d in /srv/data /home/agent/cache; do dd if=/dev/zero of=$d/file bs=64K 2>&1; stat -c %s $d/file; done");
    assert_eq!(ran.stdout.matches("No space left on device").count(), 2, "{ran}");
    let sizes: Vec<&str> = ran.stdout.lines().filter(|line| line.parse::<u64>().is_ok()).collect();
    assert_eq!(sizes, ["1048576", "2097152"], "{ran}");
}

#[test]
fn all_writable_places_together_hold_no_more_than_disk() {
    let jail = Jail::tools("[limits]\ndisk = \"4M\"\n");
    let ran = jail.sh(
        "dd if=/dev/zero of=/tmp/a bs=1M count=3 2>&1; dd if=/dev/zero of=/home/agent/b bs=1M count=3 2>&1",
    );
    assert!(ran.stdout.contains("No space left on device"), "{ran}");
}

#[test]
fn a_host_whose_mounts_are_shared_sees_none_of_the_jails() {
    if !need_root() {
        return;
    }
    // As systemd leaves them: what is mounted below a clone of a shared mount shows at the original too.
    let script = "exec unshare --mount --propagation shared sh -c '\"$@\"; grep -c jailmk-tests /proc/self/mountinfo' sh \"$@\"";
    let jail = at_work("").by_shell(script);
    assert_eq!(jail.sh("echo entered").stdout, "entered\n0\n");
}

#[test]
fn nothing_is_mounted_in_the_callers_view_while_a_jail_runs() {
    let jail = at_work("");
    let running = jail.start("echo ready; cat").ready();
    assert!(!jail::mounted_below(jail.place.path()) && !jail::mounted_below(jail.state_path()));
    running.end().succeeded();
}

#[test]
fn a_mount_whose_owner_is_somebody_else_is_only_read() {
    let jail = Jail::tools("[[mount]]\nfrom = \"/etc\"\nto = \"/tmp/etc\"\nmode = \"read-write\"\n");
    if is_root() {
        // Root gives what root may give: the directory's owner is root, and its files show as the jail's.
        return;
    }
    let ran = jail.sh("cat /tmp/etc/passwd >/dev/null; touch /tmp/etc/new; (cat /tmp/etc/shadow)");
    assert_eq!(ran.complaints().len(), 2, "{ran}");
}
