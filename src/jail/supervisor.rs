//! Stays beside a running jail: hands signals on, relays its terminal, keeps its time, hears how it ends.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::jail::child::GRACE;
use crate::jail::control::{Channel, Order, Report};
use crate::jail::error::SpawnError;
use crate::jail::plan::Plan;
use crate::jail::terminal::{CallerTerminal, Relay};
use crate::layer::namespaces::Inodes;
use crate::layer::{cgroup, disk};
use crate::path::printable;
use crate::sys::memory;
use crate::sys::process::{self, Child, Origin};

/// How much later than the jail's first process the supervisor ends the jail itself, should that process
/// have been stopped from outside.
const MARGIN: Duration = Duration::from_secs(1);

/// A jail in which nothing happens for so long is there to stay.
const SETTLED: Duration = Duration::from_millis(500);

/// What fails when an order cannot be sent.
pub(super) const ORDERS: &str = "tell the jail's first process to go on";

/// How a jail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The command exited with this status.
    Exited(i32),
    /// The command was ended by a signal.
    Killed {
        /// Which.
        signal: i32,
        /// Whether somebody sent it to the supervisor, which handed it on.
        handed_on: bool,
    },
    /// The time limit ended the command.
    TimedOut,
    /// What it wrote took more of the host's disk than it may; all was killed.
    DiskFull(disk::Excess),
    /// The jail's first process was killed, and with it everything: by the kernel for want of memory, or
    /// from outside.
    Lost,
}

/// A jail whose layers are all in place.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// Its first process, as seen from outside.
    pub pid: Pid,
    /// Its namespaces.
    pub namespaces: Inodes,
}

/// Who wants to know of it.
pub type OnStart<'a> = &'a dyn Fn(&Started);

/// The first process of the jail; killed and waited for when dropped, and with it everything else.
pub(super) struct Running<'a> {
    child: Child,
    cgroup: Option<&'a cgroup::Armed>,
    reaped: bool,
}

impl Running<'_> {
    /// Takes the child over, which was cloned into this cgroup.
    pub(super) fn new(child: Child, cgroup: Option<&cgroup::Armed>) -> Running<'_> {
        Running { child, cgroup, reaped: false }
    }

    /// Its process id outside.
    pub(super) fn pid(&self) -> Pid {
        self.child.pid
    }

    /// A descriptor of it for somebody else.
    pub(super) fn pidfd(&self) -> io::Result<OwnedFd> {
        self.child.pidfd.try_clone()
    }

    /// Kills it, and all that runs in the jail by that. Where there is a cgroup all at once: thousands that keep the
    /// processors busy could make the first process wait for one to die on.
    fn kill(&self) {
        // ESRCH: it has ended, and only waits to be waited for.
        let _ = process::signal(self.child.pidfd.as_fd(), Signal::SIGKILL);
        if let Some(cgroup) = self.cgroup {
            let _ = cgroup.kill();
        }
    }

    fn wait(&mut self) {
        while let Err(Errno::EINTR) = waitpid(self.child.pid, None) {}
        self.reaped = true;
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            self.wait();
        }
    }
}

/// Signals of the supervisor, blocked and readable; as they were again when dropped.
pub(super) struct Signals {
    fd: SignalFd,
    /// The mask until then.
    found: SigSet,
}

/// Handed on to the command; the rest of what is blocked is the supervisor's own business.
const FORWARDED: [Signal; 8] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGCONT,
];

impl Signals {
    /// Before the clone.
    ///
    /// # Errors
    /// As signalfd(2).
    pub(super) fn block() -> Result<Signals, Errno> {
        let mut found = SigSet::empty();
        // All of them, for PID 1 of the jail must not lose one before it waits for them; the
        // supervisor then lets those through that it has nothing to do with.
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut found))?;
        let mut ours = SigSet::empty();
        for signal in FORWARDED.into_iter().chain([Signal::SIGWINCH]) {
            ours.add(signal);
        }
        let fd = SignalFd::with_flags(&ours, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Signals { fd, found })
    }

    /// In the parent after the clone.
    fn let_others_through(&self) -> Result<(), Errno> {
        let mut ours = self.found;
        for signal in FORWARDED.into_iter().chain([Signal::SIGWINCH]) {
            ours.add(signal);
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&ours), None)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.found), None);
    }
}

/// The supervisor of one jail.
pub(super) struct Supervisor<'a> {
    plan: &'a Plan,
    channel: Channel,
    signals: Signals,
    child: Running<'a>,
    terminal: Option<CallerTerminal>,
    relay: Option<Relay>,
    /// When all is killed at once: while the jail is being made, the end of its time; later, when its first
    /// process, which keeps the time from then on, should have ended it long since.
    deadline: Option<Instant>,
    time: Option<Duration>,
    timed_out: bool,
    /// Whether the jail has run long enough for the memory of its making to be given back.
    settled: bool,
    handed_on: SigSet,
    started: Option<(Started, OnStart<'a>)>,
}

impl<'a> Supervisor<'a> {
    /// `time` begins now.
    pub(super) fn new(
        plan: &'a Plan,
        channel: Channel,
        signals: Signals,
        child: Running<'a>,
        terminal: Option<CallerTerminal>,
        time: Option<Duration>,
        started: Option<(Started, OnStart<'a>)>,
    ) -> Supervisor<'a> {
        let deadline = time.and_then(|time| Instant::now().checked_add(time));
        let handed_on = SigSet::empty();
        Supervisor {
            plan,
            channel,
            signals,
            child,
            terminal,
            relay: None,
            deadline,
            time,
            timed_out: false,
            settled: false,
            handed_on,
            started,
        }
    }

    /// Stays until nothing of the jail runs any more.
    ///
    /// # Errors
    /// A step of the plan, or the execution of the command, failed.
    pub(super) fn supervise(mut self) -> Result<End, SpawnError> {
        let preparing = |what: &'static str| {
            move |cause: Errno| SpawnError::Prepare { what: what.to_owned(), cause: cause.into() }
        };
        self.signals.let_others_through().map_err(preparing("unblock signals"))?;
        if self.terminal.is_none() {
            self.channel.order(Order::Proceed).map_err(preparing(ORDERS))?;
        }
        let mut failure = None;
        let mut end = None;
        let mut ready_to_run = false;
        loop {
            let ready = self.wait().map_err(preparing("poll"))?;
            if ready.signal {
                self.forward_signals();
            }
            if ready.keys
                && let Some(relay) = &mut self.relay
            {
                relay.read_keys();
            }
            if ready.master_writable
                && let Some(relay) = &mut self.relay
            {
                relay.write_to_jail();
            }
            if ready.master_readable
                && let Some(relay) = &mut self.relay
            {
                relay.pass_output();
            }
            if ready.report {
                match self.channel.next_report() {
                    // ECONNRESET: the jail ended with an order unread, which the kernel tells once, before
                    // the reports that are still queued.
                    Err(Errno::EINTR | Errno::EAGAIN | Errno::ECONNRESET) => {}
                    Ok(Some(Report::Terminal(master))) => self.start_relay(master)?,
                    Ok(Some(Report::Ready { cgroup_namespace })) => {
                        ready_to_run = true;
                        let late = self.time.and_then(|time| time.checked_add(GRACE + MARGIN));
                        self.deadline = late.and_then(|late| Instant::now().checked_add(late));
                        if let Some((mut started, tell)) = self.started.take() {
                            started.namespaces.cgroup = cgroup_namespace.into();
                            tell(&started);
                        }
                    }
                    Ok(Some(Report::TimeOver)) => self.timed_out = true,
                    Ok(Some(Report::Stopped(signal))) => self.stop_with_command(signal),
                    Ok(Some(Report::Exited(status))) => end = Some(End::Exited(status)),
                    Ok(Some(Report::Killed(signal))) => end = Some(self.killed(signal)),
                    Ok(Some(Report::ExecFailed(cause))) => failure = Some(self.exec_failed(cause)),
                    Ok(Some(Report::StepFailed { step, errno })) => {
                        failure = Some(step_failed(self.plan, step, errno));
                    }
                    Ok(None) => break,
                    Err(cause) => return Err(preparing("hear from the jail's first process")(cause)),
                }
            }
            self.enforce_deadline();
        }
        // Only now is everything dead that PID 1 leaves behind: the kernel kills it all first.
        self.child.wait();
        if let Some(relay) = &mut self.relay {
            relay.drain();
        }
        self.relay = None;
        match (failure, end) {
            (Some(error), _) => Err(error),
            (None, _) if self.timed_out => Ok(End::TimedOut),
            (None, Some(end)) => Ok(end),
            (None, None) if ready_to_run => Ok(End::Lost),
            (None, None) => Err(SpawnError::Died),
        }
    }

    fn wait(&mut self) -> Result<Ready, Errno> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = match left.into_iter().chain((!self.settled).then_some(SETTLED)).min() {
            None => PollTimeout::NONE,
            Some(left) => {
                // Rounded up, or the loop would spin in the last millisecond.
                let milliseconds = left.as_millis().saturating_add(1).min(i32::MAX as u128);
                PollTimeout::try_from(i32::try_from(milliseconds).unwrap_or(i32::MAX))
                    .unwrap_or(PollTimeout::MAX)
            }
        };
        let interest = self.relay.as_ref().map(Relay::interest);
        let nothing = PollFlags::empty();
        let mut master_flags = PollFlags::POLLIN;
        let (mut keys, mut master) = (None, None);
        if let Some(interest) = interest {
            keys = interest.input;
            if let Some((fd, pending)) = interest.master {
                master_flags.set(PollFlags::POLLOUT, pending);
                master = Some(fd);
            }
        }
        let spare = self.channel.as_fd();
        let mut fds = [
            PollFd::new(self.channel.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.fd.as_fd(), PollFlags::POLLIN),
            PollFd::new(keys.unwrap_or(spare), keys.map_or(nothing, |_| PollFlags::POLLIN)),
            PollFd::new(master.unwrap_or(spare), master.map_or(nothing, |_| master_flags)),
        ];
        match poll(&mut fds, timeout) {
            Err(Errno::EINTR) => return Ok(Ready::default()),
            Err(error) => return Err(error),
            Ok(0) if !self.settled => {
                self.settled = true;
                memory::release_program();
            }
            Ok(_) => {}
        }
        let [channel, signal, input, output] = fds.map(|fd| fd.revents().unwrap_or(nothing));
        let readable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        Ok(Ready {
            report: channel.intersects(readable),
            signal: signal.intersects(readable),
            keys: keys.is_some() && input.intersects(readable),
            master_readable: master.is_some() && output.intersects(readable),
            master_writable: master.is_some() && output.contains(PollFlags::POLLOUT),
        })
    }

    fn signal(&self, signal: Signal) {
        // ESRCH: it has ended, and the channel tells how.
        let _ = process::signal(self.child.child.pidfd.as_fd(), signal);
    }

    fn forward_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.fd.read_signal() {
            match i32::try_from(info.ssi_signo).ok().and_then(|number| Signal::try_from(number).ok()) {
                Some(Signal::SIGWINCH) => {
                    if let Some(relay) = &self.relay {
                        relay.resize();
                    }
                }
                Some(signal) => {
                    self.handed_on.add(signal);
                    // A shell, too, tells its jobs that the terminal is gone.
                    let hung_up = || self.relay.as_ref().is_some_and(Relay::has_hung_up);
                    let origin = match signal {
                        Signal::SIGHUP if info.ssi_code == libc::SI_KERNEL || hung_up() => Origin::Kernel,
                        _ => Origin::Process,
                    };
                    // ESRCH: it has ended, and the channel tells how.
                    let _ = process::hand_on(self.child.child.pidfd.as_fd(), signal, origin);
                }
                None => {}
            }
        }
    }

    fn killed(&self, signal: i32) -> End {
        let handed_on = Signal::try_from(signal).is_ok_and(|signal| self.handed_on.contains(signal));
        End::Killed { signal, handed_on }
    }

    fn start_relay(&mut self, master: OwnedFd) -> Result<(), SpawnError> {
        if let Some(terminal) = self.terminal.take() {
            let relay = terminal.relay(master).map_err(|cause| SpawnError::Prepare {
                what: "relay the terminal".into(),
                cause: cause.into(),
            })?;
            self.relay = Some(relay);
        }
        self.channel
            .order(Order::Proceed)
            .map_err(|cause| SpawnError::Prepare { what: ORDERS.into(), cause: cause.into() })
    }

    /// The command was stopped by this signal: so is the supervisor, as any job of the caller's shell.
    fn stop_with_command(&mut self, signal: i32) {
        let Some(relay) = &self.relay else { return };
        relay.restore();
        // The rest of a pipeline stops too, or the shell would go on waiting for it. We stop by the same signal
        // once it is let through, and not by SIGSTOP: where no shell could continue us (an orphaned process
        // group, as below `ssh -t HOST jailmk` or `xterm -e`), the kernel drops it. Other signals stay queued.
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTSTP);
        let _ = nix::sys::signal::kill(Pid::from_raw(0), Signal::SIGTSTP);
        let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&stop), None);
        // Continued, or never stopped.
        let _ = sigprocmask(SigmaskHow::SIG_BLOCK, Some(&stop), None);
        let _ = relay.make_raw();
        relay.resize();
        // Where we were not stopped, the kernel would not have stopped the command outside: but for SIGSTOP,
        // which nothing escapes. A SIGCONT that continued us is still queued, and is handed on.
        if signal != Signal::SIGSTOP as i32 {
            self.signal(Signal::SIGCONT);
        }
    }

    fn enforce_deadline(&mut self) {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.deadline = None;
            self.timed_out = true;
            self.child.kill();
        }
    }

    fn exec_failed(&self, cause: Errno) -> SpawnError {
        let name =
            self.plan.command.arguments.strings().first().map(|name| name.to_bytes()).unwrap_or_default();
        let name = std::os::unix::ffi::OsStrExt::from_bytes(name);
        SpawnError::Exec { command: printable(name).to_string(), cause, lead: None }
    }
}

/// What the jail's first process reports of a step of its plan.
pub(super) fn step_failed(plan: &Plan, index: usize, cause: Errno) -> SpawnError {
    match plan.steps.get(index) {
        Some(step) => SpawnError::Step { step: step.to_string(), cause, hints: step.hints(cause) },
        None => SpawnError::Died,
    }
}

#[derive(Default)]
struct Ready {
    report: bool,
    signal: bool,
    keys: bool,
    master_readable: bool,
    master_writable: bool,
}
