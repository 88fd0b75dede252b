//! The life of a command in a jail, through the binary: its exit status, its signals, its streams, and
//! that nothing outlives it.

mod jail;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use jail::{Jail, Running, need_landlock, probe, run, runs, until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn the_exit_status_is_the_commands() {
    let jail = Jail::small();
    for status in [0, 1, 125, 127, 255] {
        jail.sh(&format!("exit {status}")).ended(status);
    }
}

#[test]
fn death_by_a_signal_is_128_and_its_number() {
    let jail = Jail::small();
    for (name, status) in
        [("HUP", 129), ("INT", 130), ("ABRT", 134), ("KILL", 137), ("SEGV", 139), ("TERM", 143)]
    {
        jail.sh(&format!("kill -{name} $$; sleep 9")).ended(status);
    }
}

#[test]
fn a_command_that_is_not_in_the_jail_is_127() {
    let jail = Jail::tools("");
    jail.run(&["frobnicate", "x"]).refused(127, "cannot execute `frobnicate` in the jail");
    jail.run(&["/usr/bin/frobnicate"]).refused(127, "add \"/usr/bin/frobnicate\" to `programs`");
    jail.run(&["./frobnicate"]).refused(127, "frobnicate");
    jail.run(&["sh/frobnicate"]).refused(127, "frobnicate");
    jail.run(&[""]).refused(127, "cannot execute");
}

#[test]
fn a_command_that_cannot_be_executed_is_126() {
    let jail = Jail::tools(
        "files = [{ content = \"x\", to = \"/usr/bin/data\" }, { content = \"x\", to = \"/usr/bin/odd\", mode = \"0755\" }]\n",
    );
    jail.run(&["data"]).refused(126, "cannot execute `data` in the jail");
    jail.run(&["/usr"]).refused(126, "not executable");
    assert_eq!(jail.run(&["/usr/bin/odd"]).status, 126);
}

#[test]
fn a_failure_of_jailmk_is_125_and_a_wrong_option_is_2() {
    Jail::tools("[process]\ndirectory = \"/nowhere\"\n")
        .sh("true")
        .refused(125, "cannot enter the directory /nowhere");
    assert_eq!(Jail::small().jailmk("enter", &["--frobnicate"]).status, 2);
}

#[test]
fn commands_are_found_by_path_by_name_and_relative_to_the_directory() {
    let jail = Jail::spec(
        "[rootfs]
programs = [\"sh\", \"env\", \"id\"]
        files = [{ content = \"#!/usr/bin/env -S sh -u\\necho script $0 $1\\n\", to = \"/srv/script\", mode = \"0755\" }]
        [process]\ndirectory = \"/srv\"\nenv = { PATH = \"/nowhere:/srv:/usr/bin\" }\n");
    assert_eq!(jail.run(&["script", "a b"]).succeeded().stdout, "script /srv/script a b\n");
    assert_eq!(jail.run(&["./script", "1"]).succeeded().stdout, "script ./script 1\n");
    assert_eq!(jail.run(&["../srv/script", "1"]).succeeded().stdout, "script ../srv/script 1\n");
    assert_eq!(jail.run(&["/usr/bin/id", "-u"]).succeeded().stdout, "1000\n");
}

#[test]
fn without_a_command_the_specs_runs() {
    let jail = Jail::tools("[process]\ncommand = [\"sh\", \"-c\", \"echo $0\", \"from the spec\"]\n");
    assert_eq!(jail.run(&[]).succeeded().stdout, "from the spec\n");
}

#[test]
fn a_spec_that_lies_elsewhere_is_entered_from_a_directory_that_is_gone() {
    // Built-in specs ask for it.
    if !need_landlock(1) {
        return;
    }
    let jail = Jail::tools("").by_shell(
        "mkdir gone && cd gone && rmdir ../gone && jailmk=$1 && shift 3
         \"$jailmk\" enter shell --plan >../plan && \"$jailmk\" enter elsewhere \"$@\"",
    );
    let text = fs::read(jail.spec_path()).expect("read a spec");
    jail.place.file("home/.config/jailmk/specs/elsewhere.toml", text);
    assert_eq!(jail.sh("echo here").succeeded().stdout, "here\n");
    let plan = fs::read_to_string(jail.place.join("here/plan")).expect("read a plan");
    assert!(plan.ends_with("execute bash\n"), "{plan}");
    let ran =
        Jail::tools("").by_shell("mkdir gone && cd gone && rmdir ../gone && exec \"$1\" enter").run(&[]);
    assert!(ran.ended(125).stderr.contains("jail.toml"));
}

#[test]
fn signals_are_handed_on_to_the_command() {
    let jail = Jail::small();
    for (signal, name) in [
        (Signal::SIGTERM, "TERM"),
        (Signal::SIGINT, "INT"),
        (Signal::SIGHUP, "HUP"),
        (Signal::SIGUSR1, "USR1"),
        (Signal::SIGUSR2, "USR2"),
        (Signal::SIGQUIT, "QUIT"),
    ] {
        let running = jail
            .start(&format!("trap 'echo got {name}; exit 7' {name}; echo ready; while :; do sleep 0.1; done"))
            .ready();
        running.signal(signal);
        let ran = running.end().ended(7);
        assert_eq!(ran.stdout, format!("ready\ngot {name}\n"));
    }
}

#[test]
fn a_request_reaches_the_command_alone() {
    // The end reaches its worker too, which by then has said what else it had to say.
    let script =
        "trap 'echo hangup' HUP; trap 'echo one' USR1; trap 'echo two' USR2; trap 'wait $!; exit 7' TERM
        sh -c 'trap \"echo worker asked\" HUP USR1 USR2; trap \"echo worker ends; exit\" TERM
               echo ready; while :; do sleep 0.1; done' &
        while :; do sleep 0.1; done";
    let mut running = Jail::small().start(script).ready();
    for (signal, words) in [(Signal::SIGHUP, "hangup"), (Signal::SIGUSR1, "one"), (Signal::SIGUSR2, "two")] {
        running.signal(signal);
        assert_eq!(running.line(), words);
    }
    running.signal(Signal::SIGTERM);
    assert_eq!(running.end().ended(7).stdout, "ready\nhangup\none\ntwo\nworker ends\n");
}

#[test]
fn the_end_reaches_everyone() {
    let script = "trap 'exit 7' INT QUIT TERM
        sh -c 'trap \"echo worker ends; exit\" INT QUIT TERM; echo ready; while :; do sleep 0.1; done'";
    for signal in [Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        let running = Jail::small().start(script).ready();
        running.signal(signal);
        assert_eq!(running.end().ended(7).stdout, "ready\nworker ends\n", "{signal}");
    }
}

#[test]
fn a_signal_that_the_command_does_not_catch_ends_it() {
    let running = Jail::small().start("echo ready; sleep 60; echo no").ready();
    running.signal(Signal::SIGTERM);
    running.end().ended(143);
}

#[test]
fn the_time_limit_ends_the_command_with_124() {
    let ran =
        Jail::small().option("--timeout=3s").sh("trap 'echo told; exit 3' TERM; while :; do sleep 0.1; done");
    let ran = ran.ended(124);
    assert_eq!(ran.stdout, "told\n");
    assert!(ran.stderr.contains("time limit"), "{ran}");
    Jail::tools("[limits]\ntime = \"1s\"\n").sh("sleep 60").ended(124);
}

#[test]
fn a_command_that_ignores_the_time_limit_is_killed() {
    let jail = Jail::small().option("--timeout=3s");
    let ran = jail.sh("trap '' TERM; echo deaf; sleep 77.25 & while :; do sleep 0.1; done").ended(124);
    assert_eq!(ran.stdout, "deaf\n");
    assert!(!runs("sleep\x0077.25"));
}

#[test]
fn a_stopped_command_is_ended_by_the_time_limit_too() {
    Jail::small().option("--timeout=1s").sh("kill -STOP $$; sleep 60").ended(124);
}

#[test]
fn the_time_limit_holds_while_the_supervisor_is_stopped() {
    let running = Jail::small().option("--timeout=2s").start("echo ready; sleep 87.25").ready();
    running.signal(Signal::SIGSTOP);
    until("the time is over", || !runs("sleep\x0087.25"));
    running.signal(Signal::SIGCONT);
    running.end().ended(124);
}

#[test]
fn a_first_process_that_is_stopped_from_outside_is_killed_when_the_time_is_over() {
    let running = Jail::small().option("--timeout=1s").start("echo ready; sleep 88.25").ready();
    kill(first_process(&running), Signal::SIGSTOP).expect("stop the first process");
    running.end().ended(124);
    assert!(!runs("sleep\x0088.25"));
}

#[test]
fn a_signal_during_set_up_is_not_lost() {
    // At moments from before the jail exists until long after the command runs.
    for moment in [1, 2, 3, 4, 5, 6, 8, 10, 15, 30] {
        let running = Jail::small().start("sleep 60");
        thread::sleep(Duration::from_millis(moment));
        running.signal(Signal::SIGTERM);
        let status = running.end().status;
        // Before jailmk hands signals on, it is ended itself.
        assert!([143, -15].contains(&status), "{status} after {moment} ms");
    }
}

/// A jail with processes of every kind that has survived a killing before.
fn stubborn(name: &str) -> Jail {
    let jail =
        Jail::tools("files = [{ from = \"PLACE/vforks\", to = \"/usr/bin/vforks\", mode = \"0755\" }]\n");
    let source = jail
        .place
        .file("vforks.c", "#include <unistd.h>\nint main(void) { if (!vfork()) for (;;) pause(); }\n");
    let mut compiler = std::process::Command::new("gcc");
    compiler.args(["-static", "-w", "-o"]).arg(jail.place.join("vforks")).arg(source);
    run(compiler).succeeded();
    jail.place.file("here/name", name);
    jail
}

/// What its command starts. Each has `name` in its command line.
fn stubborn_script(name: &str) -> String {
    format!(
        "trap '' TERM HUP INT QUIT TSTP
         ( (sleep {name} &) & )
         setsid sh -c 'trap \"\" TERM HUP; (setsid sleep {name} &) & sleep {name}' &
         sleep {name} & kill -STOP $!
         vforks {name} & vforks {name} & kill -STOP $!
         sleep 0.3; echo ready; "
    )
}

#[test]
fn nothing_outlives_a_jail_however_it_ends() {
    let jail = stubborn("89");
    for (name, end) in [("89.1", "exit"), ("89.2", "time"), ("89.3", "supervisor"), ("89.4", "first process")]
    {
        let script = stubborn_script(name);
        let timed = end == "time";
        let mut command = jail.enter(&[
            "sh",
            "-c",
            &format!("{script} {}", if end == "exit" { "exit 0" } else { "sleep 60" }),
        ]);
        if timed {
            command = jail.command(
                "enter",
                &["--timeout=3s", "--", "sh", "-c", &format!("{script} while :; do sleep 1; done")]
                    .map(OsStr::new),
            );
        }
        let running = Running::start(command).ready();
        match end {
            "supervisor" => running.signal(Signal::SIGKILL),
            "first process" => {
                kill(first_process(&running), Signal::SIGKILL).expect("kill the first process")
            }
            _ => {}
        }
        let status = running.end().status;
        let expected = match end {
            "exit" => 0,
            "time" => 124,
            "supervisor" => -9,
            _ => 137,
        };
        assert_eq!(status, expected, "{end}");
        if end == "supervisor" {
            // Nobody is left who could have waited.
            until("all are gone", || !runs(&format!("\0{name}")));
        }
        assert!(!runs(&format!("\0{name}")), "{end}");
    }
}

#[test]
fn orphans_are_reaped() {
    let ran = Jail::small().prints(
        "(sh -c 'true & true & exec true' & wait); sleep 0.3
         for p in /proc/[0-9]*; do
             while read -r k v rest; do [ \"$k\" != State: ] || case $v in Z) echo zombie $p; esac; done <$p/status
         done",
    );
    assert_eq!(ran, "");
}

#[test]
fn what_runs_in_the_background_ends_with_the_command() {
    Jail::small().sh("sleep 78.25 & (setsid sleep 78.25 2>/dev/null || sleep 78.25) & exit 0").succeeded();
    assert!(!runs("sleep\x0078.25"));
}

#[test]
fn a_killed_supervisor_takes_the_jail_along() {
    let running = Jail::small().start("trap '' TERM HUP; sleep 79.25 & echo ready; sleep 79.25").ready();
    until("the jail runs", || runs("sleep\x0079.25"));
    running.signal(Signal::SIGKILL);
    running.end().ended(-9);
    until("the jail is gone", || !runs("sleep\x0079.25"));
}

/// The jail's first process, seen from outside.
fn first_process(running: &Running) -> Pid {
    jail::child_of(running.pid()).expect("a child of the supervisor")
}

#[test]
fn a_first_process_killed_from_outside_ends_the_jail() {
    let running = Jail::small().start("sleep 80.25 & echo ready; sleep 80.25").ready();
    kill(first_process(&running), Signal::SIGKILL).expect("kill the first process");
    running.end().ended(137);
    assert!(!runs("sleep\x0080.25"));
}

#[test]
fn the_jail_cannot_end_its_first_process() {
    let ran = Jail::small().prints("kill -9 1; kill -STOP 1; sleep 0.2; echo alive");
    assert_eq!(ran, "alive\n");
}

#[test]
fn bytes_pass_through_pipes_unchanged() {
    let bytes: Vec<u8> = (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let ran = Jail::small().fed(&["cat"], &bytes).succeeded();
    assert!(ran.bytes == bytes, "{} bytes came back", ran.bytes.len());
}

#[test]
fn standard_error_stays_apart_from_standard_output() {
    let ran = Jail::small().sh("echo out; echo err >&2").succeeded();
    assert_eq!((ran.stdout.as_str(), ran.complaints()), ("out\n", vec!["err"]));
}

#[test]
fn stdin_may_be_closed_or_a_file() {
    let jail = Jail::tools("").by_shell("exec \"$@\" <&-");
    let ran = jail.sh("cat; echo $?; echo out >/dev/null; ls /proc/self/fd");
    assert!(ran.stdout.starts_with("1\n") || ran.stdout.starts_with("0\n"), "{ran}");
    let jail = Jail::tools("");
    let input = jail.place.file("input", "from a file\n");
    let mut command = jail.enter(&["sh", "-c", "head -c 4; cat /dev/stdin"]);
    command.stdin(File::open(input).expect("open a file"));
    let ran = run(command).succeeded();
    assert!(ran.stdout.starts_with("from"), "{ran}");
}

#[test]
fn a_file_given_as_output_can_be_opened_again_and_not_read() {
    let jail = Jail::tools("");
    let path = jail.place.file("output", "before\n");
    // Root's jail is another user, to whom the file must be open too.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("open a file to all");
    let mut command =
        jail.enter(&["sh", "-c", "echo one >&2; echo two >>/dev/stderr; head -c 20 /dev/stderr >&2; true"]);
    let file = File::options().append(true).open(&path).expect("open a file");
    let mut child = command.stdout(Stdio::null()).stderr(file).spawn().expect("start jailmk");
    assert!(child.wait().expect("wait").success());
    let text = fs::read_to_string(&path).expect("read a file");
    assert!(text.contains("one\n") && text.contains("two\n"), "{text}");
    // What the caller opened for writing is no way to read.
    if jail::need_landlock(2) {
        assert!(text.contains("Permission denied") && text.matches("before").count() == 1, "{text}");
    }
}

#[test]
fn a_directory_or_a_disk_as_a_stream_is_refused() {
    let jail = Jail::tools("").by_shell("exec \"$@\" <.");
    jail.sh("true").refused(125, "cannot pass standard input on: it is a directory");
    Jail::tools("").by_shell("exec \"$@\" 3<. >&3").sh("true").ended(125);
}

#[test]
fn a_reader_that_goes_away_ends_a_pipeline() {
    let jail = Jail::tools("").by_shell("\"$@\" | head -n 1");
    assert_eq!(jail.sh("while :; do echo y; done").succeeded().stdout, "y\n");
}

#[test]
fn the_status_descriptor_tells_start_and_end() {
    let jail = Jail::tools("").option("--json-status-fd=3").by_shell("exec \"$@\" 3>status");
    jail.sh("exit 3").ended(3);
    let text = fs::read_to_string(jail.place.join("here/status")).expect("read the status");
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0]["child-pid"].as_i64().is_some_and(|pid| pid > 1), "{text}");
    assert!(lines[0]["start-unix-ms"].as_u64().is_some_and(|time| time > 1_700_000_000_000), "{text}");
    assert!(lines[1]["duration-ms"].as_u64().is_some_and(|time| time < 120_000), "{text}");
    assert!(lines[1]["killed-by"].is_null() && lines[1]["error"].is_null(), "{text}");
    assert_eq!(lines[1]["exit-code"], 3, "{text}");
    assert_eq!(lines[1]["timed-out"], false, "{text}");
    jail.sh("kill -9 $$").ended(137);
    let text = fs::read_to_string(jail.place.join("here/status")).expect("read the status");
    assert!(text.contains("\"signal\":9"), "{text}");
    Jail::tools("").option("--json-status-fd=9").sh("true").ended(125);
}

/// The lines of the file `status` that a jail's `--json-status-fd` wrote.
fn status_lines(jail: &Jail) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(jail.place.join("here/status")).expect("read the status");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

fn with_status(jail: Jail) -> Jail {
    jail.option("--json-status-fd=3").by_shell("exec \"$@\" 3>status")
}

#[test]
fn the_status_names_the_jails_namespaces() {
    let jail = with_status(Jail::tools(""));
    let names = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];
    // In the jail as in the status, and none the host's.
    let inside =
        jail.prints(&format!("cd /proc/self/ns; for ns in {}; do readlink $ns; done", names.join(" ")));
    let told = &status_lines(&jail)[0]["namespaces"];
    for (name, inside) in names.iter().zip(inside.lines()) {
        assert_eq!(inside, format!("{name}:[{}]", told[*name]), "{told}");
        let host = fs::read_link(format!("/proc/self/ns/{name}")).expect("a namespace");
        assert_ne!(host.to_string_lossy(), inside);
    }
}

#[test]
fn the_status_tells_who_ended_the_jail() {
    let jail = with_status(Jail::tools(""));
    let killed_by = |jail: &Jail| status_lines(jail).pop().expect("a line")["killed-by"].clone();
    jail.sh("kill -9 $$").ended(137);
    assert!(killed_by(&jail).is_null());
    let running = jail.start("echo ready; sleep 60").ready();
    running.signal(Signal::SIGTERM);
    running.end().ended(143);
    assert_eq!(killed_by(&jail), "signal");
    let running = jail.start("echo ready; sleep 60").ready();
    kill(first_process(&running), Signal::SIGKILL).expect("kill the first process");
    let ran = running.end().ended(137);
    assert!(ran.stderr.contains("killed: from outside"), "{ran}");
    assert_eq!(killed_by(&jail), "outside");
    let jail = jail.option("--timeout=1s");
    jail.sh("sleep 60").ended(124);
    assert_eq!(killed_by(&jail), "time");
}

#[test]
fn the_status_tells_processor_time_with_and_without_a_cgroup() {
    let jail = with_status(Jail::tools(""));
    jail.sh("i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done").succeeded();
    let end = status_lines(&jail).pop().expect("a line");
    let [all, user, system] = ["cpu-usec", "cpu-user-usec", "cpu-system-usec"].map(|key| end[key].as_u64());
    assert!(all > Some(5_000), "{end}");
    assert_eq!(all, user.zip(system).map(|(user, system)| user + system), "{end}");
}

#[test]
fn the_status_tells_a_failure_with_its_words() {
    let jail = with_status(Jail::tools(""));
    jail.run(&["frobnicate"]).ended(127);
    let end = status_lines(&jail).pop().expect("a line");
    assert_eq!(end["exit-code"], 127);
    assert!(end["error"].as_str().is_some_and(|words| words.contains("frobnicate")), "{end}");
    let jail = with_status(Jail::tools("[process]\ndirectory = \"/nowhere\"\n"));
    jail.sh("true").ended(125);
    let lines = status_lines(&jail);
    assert_eq!(lines.len(), 1, "no start: {lines:?}");
    assert!(
        lines[0]["error"].as_str().is_some_and(|words| words.contains("enter the directory")),
        "{lines:?}"
    );
    let jail = with_status(Jail::spec("[rootfs]\nprogams = [\"sh\"]\n"));
    jail.sh("true").ended(125);
    assert!(status_lines(&jail)[0]["error"].as_str().is_some_and(|words| words.contains("progams")));
}

#[test]
fn a_status_reader_that_goes_away_changes_nothing() {
    let jail = Jail::tools("")
        .option("--json-status-fd=3")
        .by_shell("{ \"$@\" 3>&4 4>&-; echo $?; } 4>&1 >result | true");
    jail.sh("sleep 0.3; exit 5").succeeded();
    until("it ended", || fs::read_to_string(jail.place.join("here/result")).is_ok_and(|text| text == "5\n"));
}

#[test]
fn the_status_descriptor_does_not_come_in() {
    let jail = Jail::tools("").option("--json-status-fd=3").by_shell("exec \"$@\" 3>status");
    assert_eq!(jail.run(&["ls", "/proc/self/fd"]).succeeded().stdout, "0\n1\n2\n3\n", "3 is ls's own");
}

/// What `env` of the host ignores and blocks for jailmk.
fn called_with(signals: &str) -> Jail {
    Jail::small().by_shell(&format!("exec env {signals} \"$@\""))
}

#[test]
fn a_blocked_or_ignored_signal_of_the_caller_does_not_make_the_jail_deaf() {
    let ended = |jail: &Jail| jail.sh("(exit 3); echo $?; exit 4").ended(4).stdout;
    assert_eq!(ended(&called_with("--ignore-signal=CHLD")), "3\n");
    assert_eq!(ended(&called_with("--block-signal")), "3\n");
    for signals in ["--block-signal=TERM", "--ignore-signal=TERM", "--block-signal --ignore-signal"] {
        let running =
            called_with(signals).start("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done").ready();
        running.signal(Signal::SIGTERM);
        running.end().ended(7);
    }
}

#[test]
fn the_command_ignores_what_nohup_and_background_jobs_ignore_and_nothing_else() {
    let signals = |jail: &Jail| {
        let ran = jail.run(&["grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"]).succeeded();
        let sets = ran.stdout.lines().filter_map(|line| line.split_whitespace().last());
        sets.map(|set| u64::from_str_radix(set, 16).expect("a set")).collect::<Vec<_>>()
    };
    let bit = |signal: Signal| 1 << (signal as u64 - 1);
    let kept = bit(Signal::SIGHUP) | bit(Signal::SIGINT) | bit(Signal::SIGQUIT);
    for (inherited, ignored) in [
        ("", 0),
        ("--block-signal", 0),
        ("--ignore-signal", kept),
        ("--ignore-signal --block-signal", kept),
        ("--ignore-signal=HUP,TERM", bit(Signal::SIGHUP)),
        ("--ignore-signal=PIPE,XFSZ,CHLD,TERM,USR1,ALRM,TSTP", 0),
    ] {
        assert_eq!(signals(&called_with(inherited)), [0, ignored], "{inherited}");
    }
}

#[test]
fn a_host_is_checked_alike_whatever_signals_the_caller_ignores() {
    let check = |signals: &[&str]| {
        let mut command = std::process::Command::new("env");
        command.args(signals).arg(jail::binary()).arg("check");
        run(command)
    };
    let (plain, deaf) = (check(&[]), check(&["--ignore-signal", "--block-signal"]));
    assert_eq!((deaf.status, deaf.stdout), (plain.status, plain.stdout));
}

#[test]
fn the_hosts_processes_cannot_be_signalled() {
    let mut victim = std::process::Command::new("sleep").arg("81.25").spawn().expect("start sleep");
    let line = format!("kill {} 0", victim.id());
    probe::expect(&probe::jail(""), &[(&line, "ESRCH"), (&format!("kill {} 9", victim.id()), "ESRCH")]);
    Jail::small().sh("kill -9 -1");
    assert!(victim.try_wait().expect("look at sleep").is_none(), "a process of the host was killed");
    victim.kill().expect("kill sleep");
    victim.wait().expect("wait for sleep");
}

#[test]
fn closed_streams_are_no_trouble() {
    for script in [
        "exec \"$@\" <&-",
        "exec \"$@\" 2>&-",
        "exec \"$@\" <&- 2>&-",
        "exec \"$@\" <&- >&- 2>&-",
        // Without a controlling terminal and with nothing of a terminal, as cron starts it.
        "exec setsid --wait \"$@\" <&-",
        "cd / && exec env -i JAILMK_STATE=\"$JAILMK_STATE\" HOME=\"$HOME\" setsid --wait \"$@\" </dev/null",
    ] {
        let ran =
            Jail::small().by_shell(script).sh("echo out; echo error >&2; cat; ls /proc/self/fd; exit 9");
        assert_eq!(ran.status, 9, "{script}: {ran}");
        if !script.contains(">&- 2") {
            assert_eq!(ran.stdout, "out\n0\n1\n2\n3\n", "{script}: {ran}");
        }
    }
}

#[test]
fn each_byte_comes_through_a_pipe_as_it_is_written() {
    let mut running =
        Jail::small().start("echo one; read line; echo two; read line; printf '\\000\\377\\r\\n'");
    // Each line is there before the next is asked for: nothing is kept back until a buffer is full.
    assert_eq!(running.line(), "one");
    running.say_more(b"a\n");
    assert_eq!(running.line(), "two");
    running.say_more(b"b\n");
    let ran = running.end().succeeded();
    assert!(ran.bytes.ends_with(b"\0\xff\r\n"), "{:?}", ran.bytes);
}

#[test]
fn a_jail_that_stays_costs_little_memory() {
    let mut jail = Jail::tools("").start("echo ready; cat").ready();
    let kilobytes = |of: &str, pid: Pid| -> u64 {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the supervisor's status");
        let line = status.lines().find_map(|line| line.strip_prefix(of)).expect("its memory");
        line.trim_matches([':', '\t', ' ', 'k', 'B']).parse().expect("kilobytes")
    };
    let supervisor = jail.pid();
    // A binary that was not optimized is three times as large.
    jail.until("the supervisor gives back what it does not need", || {
        kilobytes("VmRSS", supervisor) * 2 <= kilobytes("VmHWM", supervisor)
    });
    jail.say(b"still there\n");
    assert_eq!(jail.end().succeeded().stdout, "ready\nstill there\n");
}

/// Root's too, whose pipes are root's and the jail's uid another.
#[test]
fn a_pipe_that_is_a_standard_stream_can_be_opened_by_its_name() {
    let mut running =
        Jail::small().begin(&["sh", "-c", "cat /dev/stdin; echo out >/dev/stdout; echo error >/dev/stderr"]);
    running.say(b"in\n");
    let ran = running.end().succeeded();
    assert_eq!(ran.stdout, "in\nout\n", "{ran}");
    assert!(ran.complaints().contains(&"error"), "{ran}");
}

/// A name in the file system may be others' business.
#[test]
fn a_named_pipe_and_a_file_keep_their_owner() {
    let jail = Jail::small();
    let named = jail.place.join("named");
    nix::unistd::mkfifo(&named, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
        .expect("make a FIFO");
    let both_ends = || File::options().read(true).write(true).open(&named).expect("open the FIFO");
    let file = jail.place.file("file", "");
    let mut command = jail.enter(&["sh", "-c", "true"]);
    command.stdin(both_ends()).stdout(File::options().write(true).open(&file).expect("open"));
    let output = command.output().expect("run jailmk");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let owner = |what: &str, metadata: fs::Metadata| {
        assert_eq!(metadata.uid(), nix::unistd::geteuid().as_raw(), "{what}");
    };
    owner("FIFO", both_ends().metadata().expect("stat"));
    owner("file", fs::metadata(&file).expect("stat"));
}
