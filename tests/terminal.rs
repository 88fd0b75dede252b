//! A jail on a terminal, through the binary: the terminal inside is its own, and feels like the caller's.

mod jail;

use std::io::Write;
use std::process::Command;

use jail::terminal::Terminal;
use jail::{Jail, PATH, runs};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::{Pid, ttyname};

#[test]
fn the_time_limit_ends_a_jail_on_a_terminal_too() {
    let (status, shown) =
        Terminal::of(Jail::small().option("--timeout=2s"), "trap '' HUP; sleep 93.25").end();
    assert_eq!(status, Some(124), "{shown}");
    assert!(shown.contains("the time limit is over"), "{shown}");
    assert!(!runs("sleep\x0093.25"));
}

#[test]
fn the_terminal_inside_is_the_jails_own() {
    let script = "tty; for n in 0 1 2; do readlink /proc/self/fd/$n; done; echo /dev/pts/*; echo to the terminal >/dev/tty";
    let (status, shown) = Terminal::of(Jail::small(), script).end();
    let own = "/dev/pts/0\n";
    assert_eq!(shown, format!("{}/dev/pts/0 /dev/pts/ptmx\nto the terminal\n", own.repeat(4)));
    assert_eq!(status, Some(0));
}

#[test]
fn only_the_streams_that_were_terminals_become_the_jails_terminal() {
    // Into a file: on the screen it could come in the middle of a line that the relay writes.
    let jail = Jail::small().by_shell("\"$@\" | cat >piped");
    let piped = jail.place.join("here/piped");
    let script = "[ -t 0 ] && echo in >&2; [ -t 1 ] || echo pipe; [ -t 2 ] && echo error >&2";
    let terminal = Terminal::of(jail, script);
    terminal.see("error\r\n", 0);
    jail::until("the pipe is written", || std::fs::read(&piped).is_ok_and(|text| text == b"pipe\n"));
    assert_eq!(terminal.end().1, "in\nerror\n");
}

#[test]
fn each_line_ends_once_whichever_streams_are_terminals() {
    for streams in ["", "</dev/null", "</dev/null 2>error", ">out", "</dev/null >out"] {
        let jail = Jail::small().by_shell(&format!("exec \"$@\" {streams}"));
        let terminal = Terminal::of(jail, "echo one; echo two >&2");
        let found = terminal.modes();
        let word = if streams.contains(">out") { "two" } else { "one" };
        terminal.see(&format!("{word}\r\n"), 0);
        let slave = terminal.slave.try_clone().expect("duplicate a descriptor");
        assert_eq!(terminal.end().0, Some(0), "{streams}");
        let left = tcgetattr(&slave).expect("its modes");
        assert_eq!((left.output_flags, left.local_flags), (found.output_flags, found.local_flags));
    }
}

#[test]
fn the_size_is_the_callers_and_changes_with_it() {
    let script = "stty size; trap 'stty size; exit 3' WINCH; echo ready; while :; do sleep 0.1; done";
    let terminal = Terminal::of(Jail::small(), script);
    terminal.see("ready", 0);
    terminal.resize(40, 123);
    let (status, shown) = terminal.end();
    assert_eq!((status, shown.as_str()), (Some(3), "24 80\nready\n40 123\n"));
}

#[test]
fn ctrl_c_interrupts_the_command_and_not_jailmk() {
    let terminal = Terminal::of(
        Jail::small(),
        "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.1; done",
    );
    terminal.see("ready", 0);
    terminal.press(b"\x03");
    let (status, shown) = terminal.end();
    assert_eq!(status, Some(5), "{shown}");
    assert!(shown.contains("caught"), "{shown}");
}

#[test]
fn ctrl_d_ends_the_input() {
    let terminal = Terminal::of(Jail::small(), "echo ready; cat; echo over");
    // The whole line, or the echo could come before its end.
    terminal.see("ready\r\n", 0);
    terminal.press(b"typed\n\x04");
    let (status, shown) = terminal.end();
    // Once as the echo, once as the output.
    assert_eq!((status, shown.as_str()), (Some(0), "ready\ntyped\ntyped\nover\n"));
}

#[test]
fn ctrl_z_stops_the_job_and_fg_goes_on() {
    let jail = Jail::small();
    let mut shell = Command::new("bash");
    shell.args(["--norc", "--noprofile", "-i"]).envs([("PATH", PATH), ("PS1", "$ "), ("TERM", "dumb")]);
    let enter = jail.enter(&["sh", "-c", "echo ready; read line; echo got $line"]);
    for (name, value) in enter.get_envs() {
        shell.env(name, value.expect("a value"));
    }
    let words = std::iter::once(enter.get_program()).chain(enter.get_args());
    let line: String = words.map(|word| format!("'{}' ", word.to_str().expect("UTF-8"))).collect();
    let terminal = Terminal::start(&shell, Some(jail));
    terminal.press(format!("{line}\n").as_bytes());
    // The echo of the line has the word too, followed by other characters.
    let seen = terminal.see("\nready\r\n", 0);
    assert!(terminal.is_raw());
    terminal.press(b"\x1a");
    let seen = terminal.see("Stopped", seen);
    terminal.press(b"echo out''side; fg\n");
    let seen = terminal.see("outside", seen);
    terminal.see("echo ready", seen); // bash names the job that it continues
    jail::until("the relay goes on", || terminal.is_raw());
    terminal.press(b"the line\n");
    let seen = terminal.see("got the line\r\n", seen);
    // Not ahead of the prompt: what is typed while the jail still runs is for the jail.
    let seen = terminal.see("$ ", seen);
    terminal.press(b"exit 6\n");
    terminal.see("exit", seen);
    assert_eq!(terminal.end().0, Some(6));
}

#[test]
fn ctrl_z_is_without_effect_where_no_shell_could_continue_the_job() {
    // jailmk's session has no job control, as below `ssh -t HOST jailmk`: the kernel stops nothing there.
    let script = "trap 'echo continued' CONT; echo ready; while :; do sleep 0.1; done";
    let terminal = Terminal::of(Jail::small(), script);
    let mut seen = terminal.see("ready\r\n", 0);
    for _ in 0..3 {
        terminal.press(b"\x1a");
        // Stopped by its own terminal, and continued at once.
        seen = terminal.see("continued\r\n", seen);
        jail::until("the relay goes on", || terminal.is_raw());
    }
    terminal.press(b"\x03");
    assert_eq!(terminal.end().0, Some(130));
}

#[test]
fn the_modes_are_restored_however_the_jail_ends() {
    let flags = |modes: Termios| (modes.input_flags, modes.output_flags, modes.local_flags);
    let found = flags(tcgetattr(openpty(None, None).expect("open a terminal").slave).expect("its modes"));
    for (script, signal, status) in [
        ("echo ready; read line; exit 4", None, 4),
        ("echo ready; read line; kill -9 $$", None, 137),
        ("echo ready; sleep 60", Some(Signal::SIGTERM), 143),
        ("echo ready; stty raw -echo; sleep 60", Some(Signal::SIGHUP), 129),
        ("echo ready; stty raw -echo; read line; exit 0", None, 0),
    ] {
        let jail = Jail::small().by_shell("echo $$ >pid; exec \"$@\"");
        let pid = jail.place.join("here/pid");
        let terminal = Terminal::of(jail, script);
        terminal.see("ready", 0);
        assert!(terminal.is_raw());
        match signal {
            None => terminal.press(b"\n"),
            Some(signal) => {
                let pid =
                    std::fs::read_to_string(&pid).expect("read a file").trim().parse().expect("a number");
                kill(Pid::from_raw(pid), signal).expect("signal jailmk");
            }
        }
        let slave = terminal.slave.try_clone().expect("duplicate a descriptor");
        let keys = terminal.keys.as_ref().map(|keys| keys.try_clone().expect("duplicate a descriptor"));
        assert_eq!(terminal.end().0, Some(status), "{script}");
        assert_eq!(flags(tcgetattr(&slave).expect("its modes")), found, "{script}");
        drop(keys);
    }
}

#[test]
fn output_is_complete_when_the_command_ends_at_once() {
    let (status, shown) = Terminal::of(Jail::small(), "seq 1 20000").end();
    let expected: String = (1..=20000).map(|number| format!("{number}\n")).collect();
    assert!(shown == expected, "{} bytes of {}", shown.len(), expected.len());
    assert_eq!(status, Some(0));
}

#[test]
fn a_hundred_kibibytes_pasted_arrive_whole() {
    let terminal = Terminal::of(Jail::small(), "stty raw -echo; echo ready; head -c 102400 | md5sum");
    terminal.see("ready", 0);
    let bytes: Vec<u8> =
        (0..102_400u32).map(|n| b'!' + (n.wrapping_mul(2_654_435_761) >> 26) as u8).collect();
    let mut md5sum = Command::new("md5sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start md5sum");
    md5sum.stdin.take().expect("a pipe").write_all(&bytes).expect("write");
    let expected = String::from_utf8(md5sum.wait_with_output().expect("md5sum").stdout).expect("text");
    terminal.press(&bytes);
    let (_, shown) = terminal.end();
    assert!(shown.contains(expected.trim()), "{expected}: {shown}");
}

#[test]
fn a_hangup_ends_the_jail() {
    let mut terminal = Terminal::of(Jail::small(), "echo ready; sleep 85.25");
    terminal.see("ready", 0);
    jail::until("the command runs", || runs("sleep\x0085.25"));
    // Both descriptors of the master are this file's and the reader's; the reader sees the end only when
    // the last slave is gone, so the hangup is made by the session's end.
    let leader = terminal.child.id();
    kill(Pid::from_raw(i32::try_from(leader).expect("a process id")), Signal::SIGKILL).expect("kill setsid");
    terminal.keys = None;
    jail::until("the jail is gone", || !runs("sleep\x0085.25"));
}

#[test]
fn a_hangup_reaches_everyone_and_a_request_the_command_alone() {
    // The session's leader is another process, as a rule.
    let jail = Jail::small().by_shell("\"$@\"; exit 1");
    let script = "sleep 401.25 & trap 'echo asked' HUP; echo ready; wait; wait; exec sleep 402.25";
    let mut terminal = Terminal::of(jail, script);
    let seen = terminal.see("ready", 0);
    let leader = Pid::from_raw(i32::try_from(terminal.child.id()).expect("a process id"));
    let [jailmk] = children(leader)[..] else { panic!("the leader has one child") };
    jail::until("the group is there", || runs("sleep\x00401.25"));
    kill(jailmk, Signal::SIGHUP).expect("signal jailmk");
    terminal.see("asked", seen);
    assert!(runs("sleep\x00401.25"));
    kill(leader, Signal::SIGKILL).expect("kill the leader");
    terminal.keys = None;
    jail::until("the whole group hears of it", || !runs("sleep\x00401.25"));
    kill(jailmk, Signal::SIGTERM).expect("signal jailmk");
    jail::until("the jail is gone", || !runs("sleep\x00402.25"));
}

#[test]
fn the_callers_terminal_cannot_be_opened_from_inside() {
    let terminal = Terminal::of(Jail::small(), "echo ready; read name; ls $name; echo x >$name; echo over");
    terminal.see("ready", 0);
    // Of two one has a number that is not 0, which is that of the jail's own.
    let spares = [(); 2].map(|()| openpty(None, None).expect("open a terminal"));
    let names = spares.each_ref().map(|spare| ttyname(&spare.slave).expect("the terminal's name"));
    let name = names.iter().find(|name| !name.ends_with("0")).expect("two terminals have two names");
    terminal.press(format!("{}\n", name.display()).as_bytes());
    let (_, shown) = terminal.end();
    assert!(
        shown.contains("over") && (shown.contains("No such file") || shown.contains("nonexistent")),
        "{shown}"
    );
}

/// The children of a process.
fn children(pid: Pid) -> Vec<Pid> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().expect("a number"))).collect()
}

#[test]
fn the_modes_are_restored_when_the_first_process_is_killed_from_outside() {
    let jail = Jail::small().by_shell("echo $$ >pid; exec \"$@\"");
    let pid = jail.place.join("here/pid");
    let terminal = Terminal::of(jail, "stty raw -echo; echo ready; sleep 60");
    terminal.see("ready", 0);
    assert!(terminal.is_raw());
    let pid = std::fs::read_to_string(&pid).expect("read a file").trim().parse().expect("a number");
    let first = children(Pid::from_raw(pid));
    assert_eq!(first.len(), 1, "{first:?}");
    kill(first[0], Signal::SIGKILL).expect("kill PID 1 of the jail");
    let slave = terminal.slave.try_clone().expect("duplicate a descriptor");
    let keys = terminal.keys.as_ref().map(|keys| keys.try_clone().expect("duplicate a descriptor"));
    let (status, shown) = terminal.end();
    assert_eq!(status, Some(137), "{shown}");
    assert!(
        tcgetattr(&slave).expect("its modes").local_flags.contains(nix::sys::termios::LocalFlags::ICANON)
    );
    drop(keys);
}

#[test]
fn a_terminal_whose_session_is_anothers_is_relayed_all_the_same() {
    // As under nohup or from a daemon: the terminal is there, and is not the controlling one.
    let jail = Jail::small().by_shell("exec setsid --wait \"$@\"");
    let terminal = Terminal::of(jail, "[ -t 1 ] && echo here; tty");
    let (status, shown) = terminal.end();
    assert_eq!((status, shown.as_str()), (Some(0), "here\n/dev/pts/0\n"));
}

#[test]
fn under_nohup_a_hangup_does_not_end_the_jail() {
    let jail = Jail::small().by_shell("exec nohup \"$@\" >out 2>&1 </dev/null & echo $! >pid; wait");
    let place = std::sync::Arc::clone(&jail.place);
    let (pid, out) = (place.join("here/pid"), place.join("here/out"));
    let terminal = Terminal::of(jail, "echo ready; sleep 2; echo over");
    jail::until("it runs", || std::fs::read_to_string(&out).is_ok_and(|text| text.contains("ready\n")));
    let pid = std::fs::read_to_string(&pid).expect("read a file").trim().parse().expect("a number");
    kill(Pid::from_raw(pid), Signal::SIGHUP).expect("signal jailmk");
    assert_eq!(terminal.end().0, Some(0));
    assert!(std::fs::read_to_string(&out).expect("read a file").ends_with("over\n"));
}
