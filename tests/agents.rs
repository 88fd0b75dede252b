//! What whoever puts a coding agent into a jail meets: the recipes of the documentation, with a stand-in of the
//! agent's name at its path, and the hints on the way there.

mod jail;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use jail::workspace::{need_overlay, reviewed};
use jail::{Jail, Ran, need, repository, run, tools};

/// The block of a text that begins with this line.
fn shown(text: &str, first: &str) -> String {
    let start = text.find(first).unwrap_or_else(|| panic!("no {first}"));
    let end =
        text[start..].find("\n```").or_else(|| text[start..].find("\n.Ed")).expect("the end of a block");
    text[start..start + end + 1].replace("/home/me", "PLACE/home")
}

/// A command of jailmk's in the jail's directory, with its surroundings, and `spec` as it is typed.
fn typed(jail: &Jail, arguments: &[&str], directory: &str) -> Ran {
    let mut command = Command::new(jail::binary());
    command.args(arguments).current_dir(jail.place.join(directory)).env_clear();
    command.env("HOME", jail.place.join("home")).env("JAILMK_STATE", jail.state_path());
    command.env("PATH", format!("{}:/usr/bin:/bin", jail.place.join("home/bin").display()));
    run(command)
}

#[test]
fn the_recipe_for_claude_code_finds_it_keeps_its_state_and_spares_the_hosts() {
    if !need_overlay() {
        return;
    }
    let readme = fs::read_to_string(repository().join("README.md")).expect("README.md");
    let jail = Jail::spec(shown(&readme, "# claude.toml\n")).variable("ANTHROPIC_API_KEY", "key");
    // As its installer leaves it: a link to the file of a version.
    let stand_in = "#!/bin/sh\necho $1 $ANTHROPIC_API_KEY\nls -A ~/.claude\necho seen >$CLAUDE_CONFIG_DIR/history\n\
                    cat .env\necho work >made\n";
    jail.place.program("home/.local/share/claude/versions/1.0", stand_in);
    jail.place.directory("home/.local/bin");
    symlink("../share/claude/versions/1.0", jail.place.join("home/.local/bin/claude")).expect("link");
    jail.place.file("home/.claude/login", "secret");
    jail.place.file("here/.env", "secret");
    let flag = "--dangerously-skip-permissions key\n";
    assert_eq!(jail.run(&[]).succeeded().stdout, flag);
    assert_eq!(jail.run(&[]).succeeded().stdout, format!("{flag}history\n"));
    let names = |path: &str| {
        let entries = fs::read_dir(jail.place.join(path)).expect("a directory");
        entries
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
            .collect::<Vec<_>>()
    };
    assert_eq!(names("home/.claude"), ["login"]);
    assert_eq!(names("home/.local/share/jails/claude"), ["history"]);
    assert_eq!(names("here"), [".env"]);
    assert!(jail.jailmk("diff", &[]).succeeded().stdout.contains("added    made"));
}

#[test]
fn the_recipe_for_an_agent_of_npm_finds_it_by_its_name() {
    let node = std::path::Path::new("/usr/bin/node").exists();
    if !need_overlay() || !need("node", node, &["uml", "6.1", "6.12"]) {
        return;
    }
    let page = fs::read_to_string(repository().join("man/jailmk-spec.5")).expect("the page");
    let spec = shown(&page, "# codex.toml\n").replace("\\(dq", "\"");
    let jail = Jail::spec(&spec);
    let script = "#!/usr/bin/env node\nrequire('fs').appendFileSync(process.env.HOME + '/.codex/state', 'x');\n\
                  console.log(process.argv[2], require('../package.json').name);\n";
    let package = "home/.local/lib/node_modules/@openai/codex";
    jail.place.program(format!("{package}/bin/codex.js"), script);
    jail.place.file(format!("{package}/package.json"), "{\"name\": \"stand-in\"}");
    // The link leads to what the mount brings.
    let built = jail.jailmk("build", &[]).succeeded();
    assert!(!built.stderr.contains("which is not in the jail"), "{built}");
    for times in 1..=2 {
        let ran = jail.run(&[]).succeeded();
        assert_eq!(ran.stdout, "--dangerously-bypass-approvals-and-sandbox stand-in\n");
        let state = fs::read_to_string(jail.place.join("home/.local/share/jails/codex/state"));
        assert_eq!(state.expect("the state"), "x".repeat(times));
    }
}

#[test]
fn the_commands_proposed_after_a_run_work_as_they_are_typed() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let text = fs::read_to_string(jail.spec_path()).expect("the spec");
    jail.place.file("it's.toml", format!("name = \"other\"\n{text}"));
    jail.place.file("jail.toml", &text);
    let proposed = |arguments: &[&str]| {
        let ran = typed(&jail, arguments, "").succeeded();
        let line =
            ran.complaints().into_iter().find(|line| line.contains("to review")).expect("a line").to_owned();
        line.split('`').nth(1).expect("a command").to_owned()
    };
    let quoted = proposed(&["enter", "it's.toml", "--", "sh", "-c", "echo >new"]);
    assert_eq!(quoted, "jailmk diff 'it'\\''s.toml'");
    let default = proposed(&["enter", "--", "sh", "-c", "echo >new"]);
    assert_eq!(default, "jailmk diff");
    for command in [quoted, default] {
        let line = command.replacen("jailmk", "\"$0\"", 1);
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).arg(jail::binary()).current_dir(jail.place.path());
        shell.env("HOME", jail.place.join("home")).env("JAILMK_STATE", jail.state_path());
        assert_eq!(run(shell).succeeded().stdout, "added    new\n", "{command}");
    }
}

#[test]
fn a_diff_without_changes_names_the_other_workspace_of_the_spec() {
    if !need_overlay() {
        return;
    }
    let jail = Jail::tools("[workspace]\nmode = \"review\"\n");
    let spec = jail.spec_path().to_str().expect("UTF-8").to_owned();
    jail.place.directory("here/below");
    jail.sh("echo >new").succeeded();
    let here = jail.place.join("here").display().to_string();
    for command in ["diff", "apply", "discard"] {
        let ran = typed(&jail, &[command, &spec], "here/below").succeeded();
        assert!(ran.stderr.contains(&format!("hint: this spec has changes to {here}:")), "{ran}");
    }
    assert_eq!(jail.jailmk("diff", &[]).succeeded().stderr, "");
}

#[test]
fn a_program_of_the_callers_path_is_told_and_not_taken() {
    let jail = Jail::spec("[rootfs]\nprograms = [\"claude\"]\n");
    let path = jail.place.program("home/bin/claude", "#!/bin/sh\necho it\n");
    let (spec, path) = (jail.spec_path().to_str().expect("UTF-8").to_owned(), path.display().to_string());
    let ran = typed(&jail, &["build", &spec], "here").refused(1, "cannot find program `claude`");
    let cure = format!("{{ from = \"{path}\", to = \"/usr/local/bin/claude\" }}");
    assert!(
        ran.stderr.contains(&format!("your PATH has it at {path}")) && ran.stderr.contains(&cure),
        "{ran}"
    );
    let cured = Jail::spec(format!("include = [\"shell\"]\n[rootfs]\nfiles = [{cure}]\n"));
    assert_eq!(cured.run(&["claude"]).succeeded().stdout, "it\n");
}

#[test]
fn a_command_that_lies_elsewhere_in_the_jail_is_told_with_its_place() {
    let jail = Jail::tools(
        "files = [{ content = \"#!/bin/sh\\n\", to = \"/opt/deep/agent\", mode = \"0755\" }]\n\
         [[mount]]\nfrom = \"PLACE/tools\"\nto = \"/srv/tools\"\n",
    );
    jail.place.program("tools/bin/helper", "#!/bin/sh\n");
    for (name, path) in [("agent", "/opt/deep/agent"), ("helper", "/srv/tools/bin/helper")] {
        let ran = jail.run(&[name]).ended(127);
        assert!(ran.stderr.contains(&format!("hint: it is at {path}, where")), "{ran}");
    }
    let ran = jail.run(&["nowhere"]).ended(127);
    assert!(ran.stderr.contains("add \"nowhere\" to `programs`"), "{ran}");
}

#[test]
fn a_program_of_a_mount_without_its_loader_or_interpreter_is_told_what_it_lacks() {
    // Nothing in the tree but what needs no loader.
    let text = format!("{}[[mount]]\nfrom = \"PLACE/tools\"\nto = \"/srv/tools\"\n", tools());
    let jail = Jail::spec(text);
    let mut elf = fs::read("/bin/true").or_else(|_| fs::read("/usr/bin/true")).expect("true");
    let name = b"/lib64/ld-linux-x86-64.so.2\0";
    if let Some(at) = elf.windows(name.len()).position(|bytes| bytes == name) {
        elf[at + 1..at + 4].copy_from_slice(b"not");
        jail.place.program("tools/agent", elf);
        let ran = jail.run(&["/srv/tools/agent"]).ended(127);
        assert!(ran.stderr.contains("its loader is not") && ran.stderr.contains("\"prebuilt\""), "{ran}");
    }
    jail.place.program("tools/script", "#! /opt/node -x\n");
    let ran = jail.run(&["/srv/tools/script"]).ended(127);
    assert!(ran.stderr.contains("its interpreter is not: add \"/opt/node\" to `programs`"), "{ran}");
    std::os::unix::fs::symlink("/opt/gone", jail.place.join("tools/link")).expect("make a link");
    let ran = jail.run(&["/srv/tools/link"]).ended(127);
    assert!(ran.stderr.contains("/srv/tools/link is a link to /opt/gone, which is not there"), "{ran}");
}

#[test]
fn an_include_that_is_not_there_is_not_answered_with_the_command_line() {
    let jail = Jail::spec("include = [\"shel\"]\n");
    let ran = jail.jailmk("build", &[]).refused(1, "did you mean `shell`?");
    assert!(!ran.stderr.contains("jailmk init") && !ran.stderr.contains("`--`"), "{ran}");
}

#[test]
fn check_says_of_a_reviewed_workspace_that_changes_wait() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    let ran = jail.jailmk("check", &[]);
    let line = format!("overlay: changes wait for review, {}", jail.place.join("work").display());
    assert!(ran.stdout.contains(&line) && !ran.stdout.contains("work/."), "{ran}");
}

#[test]
fn git_commits_with_the_identity_that_the_examples_give() {
    let git = std::path::Path::new("/usr/bin/git").exists();
    if !need_overlay() || !need("git", git, &["uml", "6.1", "6.12"]) {
        return;
    }
    let example = fs::read_to_string(repository().join("README.md")).expect("README.md");
    let line =
        example.lines().find(|line| line.starts_with("files = [{ content = \"[user]")).expect("the example");
    // Another one in /usr/local looks for its configuration there.
    let commit = "git() { /usr/bin/git \"$@\"; }; git init -q . && git commit -qm x --allow-empty && git log --format=%ae";
    let review = "[workspace]\nmode = \"review\"\n";
    let written = Jail::spec(format!(
        "include = [\"shell\", \"git\"]\n[rootfs]\nprograms = [\"/usr/bin/git\"]\n{line}\n{review}"
    ));
    assert_eq!(written.prints(commit), "ada@example.org\n");
    let mount = "[[mount]]\nfrom = \"~/.gitconfig\"\nto = \"/home/agent/.gitconfig\"\noptional = true\n";
    let mounted = Jail::spec(format!(
        "include = [\"shell\", \"git\"]\n[rootfs]\nprograms = [\"/usr/bin/git\"]\n{review}{mount}"
    ));
    assert_ne!(mounted.sh(commit).status, 0);
    mounted.place.file("home/.gitconfig", "[user]\nname = Bob\nemail = bob@example.org\n");
    assert_eq!(mounted.prints(commit), "bob@example.org\n");
}
