//! Follows a command and what it forks from system call to system call, by ptrace(2), and has one of the
//! calls fail or one of the processes die there. The binary under test knows nothing of it.

#![allow(dead_code, reason = "each test file uses its part of the vocabulary")]

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::jail::watch;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A process, by the order in which they come to be: 0 is the command itself.
pub type Index = usize;

/// What happens at one system call.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// Whose call.
    pub process: Index,
    /// Which of its calls, from 0.
    pub call: usize,
    /// What.
    pub act: Act,
}

/// What happens instead of a call.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// It fails.
    Fail(Errno),
    /// It fails, and the maker of its process goes on only when that has ended.
    FailFirst(Errno),
    /// This process dies; the call itself is made, if its maker lives.
    Kill(Index),
    /// It takes so long.
    Delay(Duration),
}

/// What a traced command came to.
pub struct Traced {
    /// Its exit status, minus a signal's number.
    pub status: i32,
    /// Standard output and error.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The numbers of the calls of each process, from its start, or from execve(2) for the first; to
    /// execve(2) for the others.
    pub calls: Vec<Vec<i64>>,
    /// The processes.
    pub pids: Vec<Pid>,
    /// The number of the call at which the fault happened.
    pub at: Option<i64>,
}

impl fmt::Debug for Traced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traced { status, at, stdout, stderr, .. } = self;
        write!(f, "status {status}, fault at system call {at:?}, stdout {stdout:?}, stderr {stderr:?}")
    }
}

/// One process while it is followed.
struct Followed {
    calls: Vec<i64>,
    /// Its calls are counted.
    counts: bool,
    /// Between the entry and the exit of a call.
    in_call: bool,
    /// The result that the call in progress is to have.
    result: Option<Errno>,
}

/// Runs a command whose first program is jailmk; its output goes to files in `place`.
pub fn run(mut command: Command, place: &Path, fault: Option<Fault>) -> Traced {
    let (out, err) = (place.join("traced.out"), place.join("traced.err"));
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    shell.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(directory) = command.get_current_dir() {
        shell.current_dir(directory);
    }
    command = shell;
    command.stdin(Stdio::null());
    command.stdout(File::create(&out).expect("make a file")).stderr(File::create(&err).expect("make a file"));
    let mut child = command.spawn().expect("start sh");
    let first = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
    waitpid(first, Some(WaitPidFlag::WUNTRACED)).expect("wait for sh");
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(first, options).expect("trace sh");
    kill(first, Signal::SIGCONT).expect("continue sh");
    let mut tracer = Tracer { pids: vec![first], processes: BTreeMap::new(), fault, at: None, held: None };
    tracer.processes.insert(first, Followed::new(false));
    let watch = watch(child.id());
    let status = tracer.follow(first);
    drop(watch);
    // Waited for already, as a tracer does.
    let _ = child.wait();
    let text = |path: &Path| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    let mut processes = tracer.processes;
    let calls = tracer.pids.iter().map(|pid| processes.remove(pid).map_or(Vec::new(), |p| p.calls)).collect();
    Traced { status, stdout: text(&out), stderr: text(&err), calls, pids: tracer.pids, at: tracer.at }
}

impl Followed {
    fn new(counts: bool) -> Followed {
        Followed { calls: Vec::new(), counts, in_call: false, result: None }
    }
}

struct Tracer {
    /// In the order in which they came to be.
    pids: Vec<Pid>,
    processes: BTreeMap<Pid, Followed>,
    fault: Option<Fault>,
    at: Option<i64>,
    /// A maker that goes on when what it made, the second, has ended.
    held: Option<(Pid, Pid)>,
}

impl Tracer {
    /// Until the first process and all that it started have ended.
    fn follow(&mut self, first: Pid) -> i32 {
        let mut status = None;
        let mut ended = 0;
        while ended < self.pids.len() {
            // Of this thread alone: other tests have children of their own.
            let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
            match waitpid(None, Some(flags)) {
                Err(Errno::EINTR) => {}
                Err(error) => panic!("wait: {error}"),
                Ok(WaitStatus::Exited(pid, code)) => {
                    ended += usize::from(self.pids.contains(&pid));
                    self.let_go(pid);
                    status = status.or((pid == first).then_some(code));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    ended += usize::from(self.pids.contains(&pid));
                    self.let_go(pid);
                    status = status.or((pid == first).then_some(-(signal as i32)));
                }
                Ok(event) => self.handle(event),
            }
        }
        status.expect("the first process ended")
    }

    fn know(&mut self, pid: Pid) {
        if !self.processes.contains_key(&pid) {
            self.pids.push(pid);
            self.processes.insert(pid, Followed::new(true));
        }
    }

    /// Whether the calls of a process matter: all of them when nothing fails, until the fault those of its
    /// process.
    fn is_watched(&self, pid: Pid) -> bool {
        let Some(followed) = self.processes.get(&pid) else { return true };
        let Some(fault) = self.fault else { return followed.counts };
        let is_its = self.pids.get(fault.process) == Some(&pid);
        // The call that is failing has yet to get its result.
        followed.result.is_some() || (followed.counts && is_its && self.at.is_none())
    }

    /// A process that is killed meanwhile is gone at the next request: ESRCH.
    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        let _ = if self.is_watched(pid) { ptrace::syscall(pid, signal) } else { ptrace::cont(pid, signal) };
    }

    fn handle(&mut self, event: WaitStatus) {
        let Some(pid) = event.pid() else { return };
        self.know(pid);
        match event {
            WaitStatus::PtraceSyscall(_) => {
                self.at_call(pid);
                self.go_on(pid, None);
            }
            WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_EXEC as i32 => {
                let is_first = self.pids.first() == Some(&pid);
                if let Some(followed) = self.processes.get_mut(&pid) {
                    // The first process is jailmk from here on; another one is the jail's command.
                    followed.counts = is_first;
                    followed.in_call = true;
                }
                self.go_on(pid, None);
            }
            WaitStatus::PtraceEvent(_, _, event) => {
                const FORKS: [Event; 3] =
                    [Event::PTRACE_EVENT_FORK, Event::PTRACE_EVENT_VFORK, Event::PTRACE_EVENT_CLONE];
                // Before its maker goes on, which could kill it before it has stopped once.
                if FORKS.iter().any(|fork| *fork as i32 == event)
                    && let Ok(child) = ptrace::getevent(pid)
                {
                    let child = Pid::from_raw(i32::try_from(child).expect("a process id"));
                    self.know(child);
                    if self.is_first_to_end(child) {
                        self.held = Some((pid, child));
                        return;
                    }
                }
                self.go_on(pid, None);
            }
            WaitStatus::Stopped(_, signal) => self.go_on(pid, Some(signal)),
            _ => {}
        }
    }

    fn is_first_to_end(&self, pid: Pid) -> bool {
        self.fault.is_some_and(|fault| {
            matches!(fault.act, Act::FailFirst(_)) && self.pids.get(fault.process) == Some(&pid)
        })
    }

    fn let_go(&mut self, ended: Pid) {
        if let Some((maker, _)) = self.held.take_if(|(_, made)| *made == ended) {
            self.go_on(maker, None);
        }
    }

    fn at_call(&mut self, pid: Pid) {
        let index = self.pids.iter().position(|known| *known == pid).expect("a known process");
        let Some(followed) = self.processes.get_mut(&pid) else { return };
        let Ok(mut registers) = ptrace::getregs(pid) else { return };
        if followed.in_call {
            followed.in_call = false;
            if let Some(errno) = followed.result.take() {
                registers.rax = (-(errno as i64)).cast_unsigned();
                let _ = ptrace::setregs(pid, registers);
            }
            return;
        }
        followed.in_call = true;
        if !followed.counts {
            return;
        }
        let (number, count) = (registers.orig_rax.cast_signed(), followed.calls.len());
        followed.calls.push(number);
        let Some(fault) = self.fault.filter(|fault| fault.process == index && fault.call == count) else {
            return;
        };
        self.at = Some(number);
        match fault.act {
            Act::Fail(errno) | Act::FailFirst(errno) => {
                followed.result = Some(errno);
                // No call has this number.
                registers.orig_rax = u64::MAX;
                let _ = ptrace::setregs(pid, registers);
            }
            Act::Delay(time) => std::thread::sleep(time),
            Act::Kill(victim) => {
                if let Some(victim) = self.pids.get(victim) {
                    let _ = kill(*victim, Signal::SIGKILL);
                }
            }
        }
    }
}
