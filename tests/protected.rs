//! What of the directories that it has a jail may not change: the spec's own files, what the tree is built from,
//! protected names. And what it does not see there, by `hide`.

mod jail;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use jail::workspace::at_work;
use jail::{Jail, is_root};

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
    // In a state of its own: whoever enters clears away what killed jails left while nothing had changed.
    let elsewhere = Jail::tools("").fresh_state();
    let jail = Jail::tools("[workspace]\nmode = \"direct\"\npath = \"PLACE\"\n").state_of(&elsewhere);
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
fn a_direct_workspace_that_cannot_be_looked_into_is_refused() {
    if is_root() {
        return;
    }
    let jail = at_work("");
    jail.place.file("work/.git/config", "[core]\n");
    for mode in [0o300, 0o100] {
        fs::set_permissions(jail.place.join("work"), fs::Permissions::from_mode(mode)).expect("chmod");
        let ran = jail.sh("echo evil >.git/config").refused(125, "cannot open the workspace `");
        assert!(ran.stderr.contains("what is protected in it is looked up"), "{ran}");
    }
    fs::set_permissions(jail.place.join("work"), fs::Permissions::from_mode(0o755)).expect("chmod");
    assert_eq!(jail.prints("cat .git/config"), "[core]\n");
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
