//! Every step of the plan fails once, at each of its system calls, and the supervisor, the jail's first
//! process and the command are killed at each: the failure is told by the step's own words, and nothing is
//! left. From outside, by ptrace(2): the binary has no hooks for it.
//!
//! `JAILMK_FAULTS=all` makes every call of the supervisor fail too, not one in some.
#![cfg(target_arch = "x86_64")]

mod jail;
mod trace;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jail::Jail;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use trace::{Act, Fault, Index, Traced};

const SUPERVISOR: Index = 0;

/// A jail, how its traced command line goes when nothing fails, and what the host looks like before.
struct Ground {
    jail: Jail,
    before: Host,
    whole: Traced,
    /// The jail's first process; started by root, there are helpers before it.
    first: Index,
    /// What it starts.
    command: Index,
}

/// Everything that a jail could leave on the host.
#[derive(Debug, PartialEq, Eq)]
struct Host {
    mounts: Vec<String>,
    groups: BTreeSet<PathBuf>,
    state: BTreeSet<PathBuf>,
}

fn below(directory: &Path, found: &mut BTreeSet<PathBuf>, depth: usize) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            below(&entry.path(), found, depth - 1);
        }
        found.insert(entry.path());
    }
}

impl Ground {
    fn new() -> Ground {
        // Workspace and mounts too, so that their steps are among those that fail.
        let jail = Jail::spec(format!(
            "name = \"faults-{}\"\n{}[workspace]\npath = \"PLACE/work\"\nmode = \"direct\"\n[[mount]]\nfrom = \"PLACE/data\"\nto = \"/srv\"\n
             [tmpfs]\n\"/var/cache\" = \"1M\"\n",
            std::process::id(),
            jail::tools()
        ))
        .fresh_state();
        jail.place.directory("work");
        jail.place.directory("data");
        jail.prints("true");
        let before = Ground::host(&jail);
        let whole = trace::run(jail.enter(&["sh", "-c", "echo in"]), jail.place.path(), None);
        assert_eq!((whole.status, whole.stdout.as_str()), (0, "in\n"), "{whole:?}");
        let first = whole.calls.iter().position(|calls| calls.contains(&libc::SYS_pivot_root));
        let first = first.expect("somebody changes the root");
        assert_eq!(whole.calls.len(), first + 2, "{whole:?}");
        Ground { jail, before, whole, first, command: first + 1 }
    }

    /// The calls of the supervisor that are jailmk's own: the Rust runtime's come before the second
    /// sigaltstack(2).
    fn own_calls(&self) -> usize {
        let calls = &self.whole.calls[SUPERVISOR];
        let mut stacks = calls.iter().enumerate().filter(|(_, call)| **call == libc::SYS_sigaltstack);
        stacks.nth(1).expect("the runtime's stacks").0 + 1
    }

    /// Fails each call of `process` from `start` to `end`.
    fn fail(
        &self,
        process: Index,
        calls: std::ops::Range<usize>,
        errno: Errno,
        mut judge: impl FnMut(usize, Traced),
    ) {
        for call in calls {
            judge(call, self.run(Some(Fault { process, call, act: Act::Fail(errno) })));
        }
    }

    fn host(jail: &Jail) -> Host {
        let (mut groups, mut state) = (BTreeSet::new(), BTreeSet::new());
        below(Path::new("/sys/fs/cgroup"), &mut groups, 6);
        let mine = format!("faults-{}-", std::process::id());
        groups.retain(|path| path.to_string_lossy().contains(&mine) && path.is_dir());
        below(jail.state_path(), &mut state, 4);
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("read mountinfo");
        // Others on this machine mount and unmount too.
        let place = jail.place.path().to_string_lossy().into_owned();
        let mounts = mounts.lines().filter(|line| line.contains(&place)).map(str::to_owned).collect();
        Host { mounts, groups, state }
    }

    fn run(&self, fault: Option<Fault>) -> Traced {
        let traced = trace::run(self.jail.enter(&["sh", "-c", "echo in"]), self.jail.place.path(), fault);
        for pid in &traced.pids {
            assert!(is_over(*pid), "{pid} is left after {fault:?}: {traced:?}");
        }
        let mut after = Ground::host(&self.jail);
        if traced.status == -9 {
            // The empty cgroup of a killed supervisor goes with the next start.
            after.groups.clear();
        }
        assert_eq!(after, self.before, "left after {fault:?}: {traced:?}");
        traced
    }
}

/// Calls that always succeed.
const CANNOT_FAIL: [i64; 4] = [libc::SYS_umask, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_sysinfo];

/// Whether a process has ended. Whose parent was killed may still wait for init to reap it.
fn is_over(pid: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    kill(pid, None) == Err(Errno::ESRCH) || status.lines().any(|line| line.starts_with("State:\tZ"))
}

/// A call of the jail's first process that it can do without, with the reason.
fn is_dispensable(number: i64) -> bool {
    match number {
        // Looks at the cgroup namespace, for the status lines.
        libc::SYS_newfstatat | libc::SYS_stat => true,
        // Nothing depends on a descriptor being closed before all of them are. A debug build looks first
        // whether it is open.
        libc::SYS_close | libc::SYS_fcntl => true,
        _ => false,
    }
}

#[test]
fn every_call_of_every_step_that_fails_is_told_by_its_step_and_leaves_nothing() {
    let ground = Ground::new();
    let steps = plan(&ground.jail);
    let mut named = BTreeSet::new();
    let mut furthest = 0;
    let mut failures = Vec::new();
    // Up to the fork of the command: what follows is waiting.
    let calls = &ground.whole.calls[ground.first];
    let fork = calls.iter().position(|call| [libc::SYS_fork, libc::SYS_clone].contains(call));
    let fork = fork.expect("a fork");
    for call in 0..fork {
        // One and the same call many times over (capabilities, descriptors): its first and last do.
        let run = calls[call.saturating_sub(1)..=call + 1].iter().all(|other| *other == calls[call]);
        if (run && call > 0 || calls[call] == libc::SYS_fcntl) && !everything() {
            continue;
        }
        if CANNOT_FAIL.contains(&calls[call]) {
            continue;
        }
        let fault = Fault { process: ground.first, call, act: Act::Fail(Errno::ENOTRECOVERABLE) };
        let ran = ground.run(Some(fault));
        let number = ran.at.expect("the fault happened");
        if ran.status == 0 && is_dispensable(number) {
            continue;
        }
        let told = ran.stderr.lines().find_map(|line| line.strip_prefix("jailmk: cannot "));
        // The longest, for one step's words may begin another's.
        let told = told.unwrap_or_default();
        let step = (0..steps.len()).filter(|step| told.starts_with(&steps[*step]));
        match step.max_by_key(|step| steps[*step].len()) {
            Some(step) if ran.status == 125 && step >= furthest => {
                furthest = step;
                named.insert(step);
            }
            _ => failures.push(format!("call {call} (number {number}): {ran:?}")),
        }
    }
    assert!(failures.is_empty(), "{} of them:\n{}", failures.len(), failures.join("\n"));
    // All steps of the child, from the third line of the plan on; the last one executes the command.
    let silent: Vec<&String> =
        (2..steps.len() - 1).filter(|step| !named.contains(step)).map(|step| &steps[step]).collect();
    assert!(silent.is_empty(), "no failure named these: {silent:#?}");
}

#[test]
fn a_step_that_fails_before_the_supervisor_does_its_part_is_told_too() {
    let ground = Ground::new();
    // The third line of the plan, the first of the jail's own.
    let told = format!("jailmk: cannot {}", plan(&ground.jail)[2]);
    let calls = ground.whole.calls[ground.first].iter().enumerate();
    let resets: Vec<usize> =
        calls.filter(|(_, call)| **call == libc::SYS_rt_sigaction).map(|(index, _)| index).take(3).collect();
    assert_eq!(resets.len(), 3);
    for call in resets {
        let act = Act::FailFirst(Errno::ENOTRECOVERABLE);
        let ran = ground.run(Some(Fault { process: ground.first, call, act }));
        assert_eq!(ran.status, 125, "call {call}: {ran:?}");
        assert!(ran.stderr.contains(&told), "call {call}: {ran:?}");
    }
}

/// The steps as `enter --plan` prints them, without their numbers.
fn plan(jail: &Jail) -> Vec<String> {
    let options = ["--plan", "--", "sh", "-c", "echo in"].map(OsStr::new);
    let lines = jail::run(jail.command("enter", &options)).succeeded().stdout;
    let steps = lines.lines().map(|line| line.trim_start().split_once("  ").expect("a numbered step"));
    steps.filter(|(number, _)| *number != "0").map(|(_, step)| step.to_owned()).collect()
}

#[test]
fn a_failure_between_the_last_step_and_the_command_is_no_start_either() {
    let ground = Ground::new();
    for (call, number) in ground.whole.calls[ground.command].iter().enumerate() {
        if CANNOT_FAIL.contains(number) {
            continue;
        }
        ground.fail(ground.command, call..call + 1, Errno::ENOTRECOVERABLE, |call, ran| {
            assert_eq!((ran.status, ran.stdout.as_str()), (126, ""), "call {call}: {ran:?}");
        });
    }
}

#[test]
fn a_supervisor_whose_calls_fail_leaves_nothing_and_weakens_nothing() {
    let ground = Ground::new();
    // Without memory or random numbers the Rust runtime ends a program, which is as good as being killed:
    // below.
    let fatal = [
        libc::SYS_brk,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_getrandom,
        // One that fails has closed all the same, and here it would not be made at all.
        libc::SYS_close,
        // nix panics at an unlock that fails, as none does.
        libc::SYS_flock,
    ];
    let calls = &ground.whole.calls[SUPERVISOR];
    for call in (ground.own_calls()..calls.len()).step_by(if everything() { 1 } else { 3 }) {
        let number = &calls[call];
        if fatal.contains(number) || CANNOT_FAIL.contains(number) || *number == libc::SYS_exit_group {
            continue;
        }
        ground.fail(SUPERVISOR, call..call + 1, Errno::ENOMEM, |call, ran| {
            assert!([0, 125].contains(&ran.status), "call {call}: {ran:?}");
            assert!(ran.status != 0 || ran.stdout == "in\n", "call {call}: {ran:?}");
            assert!(!ran.stderr.contains("panicked"), "call {call}: {ran:?}");
            assert!(ran.status == 0 || ran.stderr.contains("jailmk: cannot "), "call {call}: {ran:?}");
        });
    }
}

#[test]
fn processes_killed_at_any_call_leave_nothing() {
    let ground = Ground::new();
    for process in 0..ground.whole.calls.len() {
        let start = if process == SUPERVISOR { ground.own_calls() } else { 0 };
        for victim in [SUPERVISOR, ground.first, ground.command] {
            if victim > process && process != SUPERVISOR {
                // It does not exist yet.
                continue;
            }
            let end = ground.whole.calls[process].len();
            // 24 moments, spread over all.
            let stride = if everything() { 1 } else { end.saturating_sub(start).div_ceil(24).max(1) };
            for call in (start..end).step_by(stride) {
                let ran = ground.run(Some(Fault { process, call, act: Act::Kill(victim) }));
                // Whoever is killed late has done its work.
                let expected: &[i32] = if victim == SUPERVISOR { &[-9, 0] } else { &[125, 137, 0] };
                assert!(expected.contains(&ran.status), "{victim} at call {call} of {process}: {ran:?}");
                assert!(!ran.stderr.contains("panicked"), "{ran:?}");
            }
        }
    }
}

#[test]
fn the_time_limit_holds_while_the_jail_is_being_made() {
    let mut ground = Ground::new();
    ground.jail = ground.jail.option("--timeout=1s");
    let calls = ground.whole.calls[ground.first].len();
    for call in [calls / 4, calls / 2] {
        let act = Act::Delay(Duration::from_secs(4));
        let ran = ground.run(Some(Fault { process: ground.first, call, act }));
        assert_eq!((ran.status, ran.stdout.as_str()), (124, ""), "{ran:?}");
    }
}

/// Whether there is time to have every call fail.
fn everything() -> bool {
    std::env::var("JAILMK_FAULTS").is_ok_and(|value| value == "all")
}
