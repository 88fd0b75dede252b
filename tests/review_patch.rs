//! `jailmk diff -p` is a patch that git takes and that steers no terminal.

mod jail;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use jail::workspace::{Snapshot, apply, changes, need_overlay, reviewed, reviewed_with, snapshot};
use jail::{Place, need};

fn git(directory: &Path, arguments: &[&str]) -> Output {
    Command::new("git")
        .args(["-c", "core.fileMode=true", "-c", "safe.directory=*"])
        .args(arguments)
        .current_dir(directory)
        .env_clear()
        .env("PATH", jail::PATH)
        .env("HOME", directory)
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CEILING_DIRECTORIES", directory.parent().expect("a parent"))
        .stdin(Stdio::null())
        .output()
        .expect("run git")
}

/// A script that makes these files, whatever they hold.
const FILES: &str = r"
import os
os.makedirs('sub', exist_ok=True)
def w(name, data, mode=0o644):
    if isinstance(name, str): name = name.encode()
    open(name, 'wb').write(data); os.chmod(name, mode)
";

#[test]
fn git_applies_the_patch_to_what_apply_would_give() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with("include = [\"python\"]");
    let work = jail.place.join("work");
    for (name, content) in [
        ("plain", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\n".to_owned()),
        ("no-end", "a\nb".to_owned()),
        ("crlf", "a\r\nb\r\nc\rd\n".to_owned()),
        ("gone", "x\ny\n".to_owned()),
        ("empty-gone", String::new()),
        ("moved", "content that is long enough\nto be known again\n".to_owned()),
        ("exec", "#!/bin/sh\n".to_owned()),
        ("becomes-link", "x\n".to_owned()),
        ("long", (0..5000).map(|n| format!("line {n}\n")).collect()),
        ("a b", "x\n".to_owned()),
    ] {
        jail.place.file(format!("work/{name}"), content);
    }
    let script = format!(
        "{FILES}
w('plain', b'a\\nb\\nX\\nd\\ne\\nf\\ng\\nh\\ni\\nj\\nk\\nl\\nm\\n')
w('no-end', b'a\\nb\\nc'); w('crlf', b'a\\r\\nB\\r\\nc\\rD\\n')
os.remove('gone'); os.remove('empty-gone'); open('moved2', 'wb').write(open('moved', 'rb').read()); os.remove('moved')
os.chmod('exec', 0o755); os.remove('becomes-link'); os.symlink('plain', 'becomes-link'); os.symlink('nowhere', 'link')
lines = open('long').read().split('\\n'); lines[10] = 'changed'; del lines[2500]; lines.insert(4000, 'new'); open('long', 'w').write('\\n'.join(lines))
w('empty-new', b''); w('a b', b'y\\n'); w('new file', b'z\\n'); w('sub/deep', b'1\\n2\\n')
w(b'new\\nline', b'x\\n'); w(b'\\xff\\xfe', b'x\\n'); w('t\\tab', b'x\\n'); w('quo\"te\\\\', b'x\\n'); w('\\u00e9', b'\\xff\\xfe not utf-8\\n')
w('control', b'\\x1b[2J\\x1b]0;title\\x07\\r\\n'); w('exec-new', b'#!/bin/sh\\n', 0o755); w('-- odd', b'-- a\\n++ b\\n')
"
    );
    jail.run(&["python3", "-c", &script]).succeeded();
    let patch = jail.jailmk("diff", &["-p"]).succeeded();
    assert!(patch.stdout.contains("rename from moved\nrename to moved2\n"), "{patch}");

    let copy = Place::new();
    let target = copy.directory("copy");
    let cp = Command::new("cp").arg("-a").arg(work.join(".")).arg(&target).status().expect("run cp");
    assert!(cp.success());
    let patch_file = copy.file("patch", &patch.bytes);
    let applied = git(&target, &["apply", patch_file.to_str().expect("UTF-8")]);
    assert!(applied.status.success(), "{}\n{patch}", String::from_utf8_lossy(&applied.stderr));
    apply(&jail, &[]).succeeded();
    same(&contents(&snapshot(&target)), &contents(&snapshot(&work)));
}

/// Asserts that two trees are equal, and names what is not.
#[track_caller]
fn same(a: &[(String, bool, Vec<u8>)], b: &[(String, bool, Vec<u8>)]) {
    let only = |a: &[(String, bool, Vec<u8>)], b: &[(String, bool, Vec<u8>)]| -> Vec<String> {
        let others = a.iter().filter(|entry| !b.contains(entry));
        let text = |content: &[u8]| String::from_utf8_lossy(content).chars().take(200).collect::<String>();
        others.map(|(path, exec, content)| format!("{path} {exec} {:?}", text(content))).collect()
    };
    assert!(a == b, "only in the first: {:#?}\nonly in the second: {:#?}", only(a, b), only(b, a));
}

/// Without what a patch does not say: owners, modes but for the owner's `x`.
fn contents(snapshot: &Snapshot) -> Vec<(String, bool, Vec<u8>)> {
    let plain = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    snapshot
        .iter()
        .map(|(path, (mode, _, content))| (plain(path), mode & 0o100 != 0, content.clone()))
        .collect()
}

#[test]
fn what_a_patch_cannot_say_is_named_in_it() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed_with("include = [\"python\"]");
    jail.place.file("work/there", "x\n");
    jail.place.file("work/bits", "x\n");
    let script = format!(
        "{FILES}w('binary', b'a\\0b'); w('there', b'y\\n'); os.mkfifo('pipe'); os.chmod('bits', 0o600)"
    );
    jail.run(&["python3", "-c", &script]).succeeded();
    let patch = jail.jailmk("diff", &["-p"]).succeeded().stdout;
    assert_eq!(
        patch,
        "# added, binary: binary\n# mode 0644 to 0600: bits\n# added: devices, named pipes and sockets are never applied: pipe\n# added directory: sub\n\
         diff --git a/there b/there\n--- a/there\n+++ b/there\n@@ -1 +1 @@\n-x\n+y\n"
    );
    let copy = Place::new();
    copy.file("copy/there", "x\n");
    let patch_file = copy.file("patch", &patch);
    assert!(git(&copy.join("copy"), &["apply", patch_file.to_str().expect("UTF-8")]).status.success());
    assert_eq!(fs::read_to_string(copy.join("copy/there")).expect("read"), "y\n");
}

#[test]
fn lines_are_counted_and_json_has_what_the_list_has() {
    if !need_overlay() {
        return;
    }
    let jail = reviewed();
    jail.place.file("work/a", "1\n2\n3\n");
    jail.place.file("work/old", "moved\n");
    jail.sh("echo 1 >a; echo 4 >>a; mv old new; mkdir .vscode; echo x >.vscode/t; chmod 755 a").succeeded();
    assert_eq!(
        jail.jailmk("diff", &["--stat"]).succeeded().stdout,
        ".vscode/t | +1 -0\na         | +1 -2\nnew       | +0 -0\nold       | +0 -1\n4 files, 2 lines added, 3 removed\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&jail.jailmk("diff", &["--json"]).succeeded().stdout).expect("JSON");
    assert_eq!(json[0]["path"], ".vscode/t");
    assert_eq!(json[0]["held"], "editor configuration");
    assert_eq!((&json[1]["change"], &json[1]["mode"]), (&"changed".into(), &"0755".into()));
    assert_eq!((&json[2]["change"], &json[2]["renamed_from"]), (&"renamed".into(), &"old".into()));
    assert_eq!(json.as_array().expect("a list").len(), 3);
    assert_eq!(
        changes(&jail),
        ["added    .vscode/t   [held back: editor configuration]", "changed  a", "renamed  old to new"]
    );
    // One side of a rename alone is what it is.
    assert!(jail.jailmk("diff", &["-p", "--", "new"]).succeeded().stdout.contains("new file mode"));
}

#[test]
fn on_a_terminal_contents_are_escaped_and_a_pager_shows_them() {
    if !need_overlay() || !need("script(1)", Path::new("/usr/bin/script").exists(), &["uml"]) {
        return;
    }
    let jail = reviewed();
    jail.sh("printf '\\033]0;evil\\007\\033[2J\\342\\200\\256x\\r\\n' >f").succeeded();
    for pager in ["cat", "", "tr a-z A-Z"] {
        let inner = jail.command("diff", &["-p".as_ref()]);
        let mut command = Command::new("script");
        let line: Vec<String> = std::iter::once(inner.get_program())
            .chain(inner.get_args())
            .map(|word| format!("'{}'", word.to_str().expect("UTF-8")))
            .collect();
        command.args(["-qec", &line.join(" "), "/dev/null"]).stdin(Stdio::null());
        command.current_dir(jail.place.join("here")).env_clear();
        command.env("PATH", jail::PATH).env("HOME", jail.place.join("home"));
        command
            .env("JAILMK_STATE", jail.state_path())
            .env("TERM", "xterm")
            .env("PAGER", pager)
            .env("SHELL", "/bin/sh");
        let ran = jail::run(command).succeeded();
        let (title, clear) =
            if pager.starts_with("tr") { ("]0;EVIL", "\x1b[2J") } else { ("]0;evil", "\x1b[2J") };
        assert!(
            ran.stdout.to_lowercase().contains(&format!("\\x1b{}\\x07\\x1b[2j", title.to_lowercase())),
            "{ran}"
        );
        assert!(
            !ran.stdout.contains(clear) && !ran.stdout.contains('\x07') && !ran.stdout.contains('\u{202e}'),
            "{ran}"
        );
        assert_eq!(pager.starts_with("tr"), ran.stdout.contains("DIFF --GIT"), "{ran}");
    }
}
