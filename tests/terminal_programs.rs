//! Programs that ask much of a terminal, in a jail: shells with job control, editors, pagers, screens in screens.
//!
//! On the host's kernel only: what they ask of the kernel the other terminal tests ask too, and a jail with this
//! many programs takes the emulated machines minutes to build.

mod jail;

use std::sync::OnceLock;

use jail::terminal::Terminal;
use jail::{Jail, kernel, need};

/// The jail that has all of them, built once.
fn programs() -> &'static Jail {
    static JAIL: OnceLock<Jail> = OnceLock::new();
    JAIL.get_or_init(|| {
        let jail = Jail::spec(
            "include = [\"shell\", \"terminal\", \"vim\"]
[rootfs]
programs = [\"zsh\", \"fish\", \"less\", \"top\", \"tmux\"]
packages = [\"zsh-common\", \"zsh\", \"fish-common\"]
exclude = [\"/usr/share/doc/**\", \"/usr/share/man/**\", \"/usr/share/fish/man/**\"]
[process]
env = { LANG = \"C.UTF-8\", PS1 = \"ready$ \" }
",
        );
        jail.jailmk("build", &[]).succeeded();
        jail.variable("TERM", "xterm")
    })
}

/// Starts a program in that jail, on a terminal.
fn start(command: &[&str]) -> Option<Terminal> {
    let there = need("the host's kernel", kernel() == "host", &["uml", "6.1", "6.12"]);
    there.then(|| Terminal::start(&programs().enter(command), None))
}

/// A job is stopped by Ctrl-Z, continued and interrupted by Ctrl-C; the shell goes on, and learns of a new size.
fn controls_jobs(terminal: Terminal, stopped: &str) {
    const PROMPT: &str = "ready$ ";
    // What is waited for never is what was typed, of which there is an echo.
    let seen = terminal.see(PROMPT, 0);
    terminal.press(b"echo st''arted; sed -u s/x/y/\r");
    // A shell drops what is typed before it has left its own line editor.
    let seen = terminal.see("started\r\n", seen);
    terminal.press(b"axb\r");
    let seen = terminal.see("ayb", seen);
    terminal.press(b"\x1a");
    let seen = terminal.see(stopped, seen);
    let seen = terminal.see(PROMPT, seen);
    terminal.press(b"fg\r");
    let seen = terminal.see("sed -u", seen);
    terminal.press(b"cxd\r");
    let seen = terminal.see("cyd", seen);
    terminal.press(b"\x03");
    let seen = terminal.see(PROMPT, seen);
    terminal.press(b"stty si''ze\r");
    let seen = terminal.see("24 80", seen);
    let seen = terminal.see(PROMPT, seen);
    terminal.resize(30, 100);
    terminal.press(b"stty si''ze\r");
    let seen = terminal.see("30 100", seen);
    terminal.see(PROMPT, seen);
    terminal.press(b"exit 7\r");
    let (status, shown) = terminal.end();
    assert_eq!(status, Some(7), "{shown}");
    for complaint in ["no job control", "cannot set terminal process group", "Inappropriate ioctl"] {
        assert!(!shown.contains(complaint), "{shown}");
    }
}

#[test]
fn bash_controls_jobs() {
    if let Some(terminal) = start(&["bash", "--norc", "--noprofile", "-i"]) {
        controls_jobs(terminal, "Stopped");
    }
}

#[test]
fn zsh_controls_jobs() {
    if let Some(terminal) = start(&["zsh", "-f", "-i"]) {
        controls_jobs(terminal, "suspended");
    }
}

#[test]
fn fish_controls_jobs() {
    if let Some(terminal) = start(&[
        "fish",
        "--private",
        "--init-command",
        "function fish_prompt; echo 'ready$ '; end; function fish_greeting; end",
    ]) {
        controls_jobs(terminal, "stopped");
    }
}

#[test]
fn vim_edits_on_the_alternate_screen_and_leaves_it() {
    let Some(terminal) = start(&["sh", "-c", "vim -u NONE -N note; echo; cat note; echo left"]) else {
        return;
    };
    let seen = terminal.see("\x1b[?1049h", 0);
    let seen = terminal.see("note", seen);
    terminal.press(b"ihello from in''side\x1b");
    terminal.press(b":s/''//\r:wq\r");
    let seen = terminal.see("\x1b[?1049l", seen);
    let seen = terminal.see("hello from inside\r\n", seen);
    terminal.see("left\r\n", seen);
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn less_turns_pages() {
    let Some(terminal) = start(&["sh", "-c", "seq 1 500 | less; echo left"]) else { return };
    let seen = terminal.see("23\r\n", 0);
    terminal.press(b"G");
    let seen = terminal.see("500\r\n", seen);
    terminal.press(b"q");
    terminal.see("left\r\n", seen);
    assert_eq!(terminal.end().0, Some(0));
}

#[test]
fn top_shows_the_jails_processes_and_quits() {
    let Some(terminal) = start(&["top", "-d", "60"]) else { return };
    let seen = terminal.see("Tasks:", 0);
    terminal.see("jailmk", seen);
    terminal.press(b"q");
    let (status, shown) = terminal.end();
    assert_eq!(status, Some(0), "{shown}");
    assert!(!shown.contains("failed"), "{shown}");
}

#[test]
fn tmux_is_a_screen_in_the_screen() {
    let inner = "tty; sed -u -e s/x/y/ -e /over/q; tmux detach-client";
    let Some(terminal) = start(&["tmux", "-f", "/dev/null", "new-session", inner]) else { return };
    let seen = terminal.see("/dev/pts/1", 0);
    terminal.press(b"axb\r");
    let seen = terminal.see("ayb", seen);
    terminal.press(b"over\r");
    terminal.see("[detached", seen);
    assert_eq!(terminal.end().0, Some(0));
}
