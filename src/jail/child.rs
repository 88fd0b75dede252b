//! The only code that runs between clone3(2) and execve(2), and the jail's PID 1 afterwards.
//!
//! It executes a [`Plan`] and nothing else: no allocation, no formatting, no locks. It is a copy of the
//! supervisor, and everything it still holds is worth stealing.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, sigprocmask};
use nix::sys::stat::{Mode, stat, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, fchdir, getppid, pivot_root, sethostname, setpgid, setsid, tcsetpgrp};

use crate::jail::control::{Channel, Order, Report};
use crate::jail::mounted::Mounted;
use crate::jail::plan::{Plan, Step};
use crate::layer::{identity, procfs, scratch, seccomp};
use crate::sys::process::{Origin, Side};
use crate::sys::{exec, mount, network, process, signal, terminal};

/// What the steps hand on to each other.
struct Ground<'a> {
    control: &'a Channel,
    root: Option<OwnedFd>,
    proc: Option<OwnedFd>,
    limits: Option<OwnedFd>,
    scratch: Option<OwnedFd>,
    terminal: Option<OwnedFd>,
    cgroup_namespace: u32,
}

/// How long a command that was told to end by SIGTERM may take before everything is killed.
pub(super) const GRACE: Duration = Duration::from_secs(5);

/// Ignored by the command if the caller ignored them: so nohup(1) asks, and a shell without job control for
/// what it starts in the background. Whatever else a caller ignores is its own affair.
const KEPT: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT];

/// Runs the plan, becomes PID 1 of the jail and starts the command below it. `time` is how long the
/// command may take.
pub fn run(plan: &Plan, control: &Channel, time: Option<Duration>) -> ! {
    let mut ground = Ground {
        control,
        root: None,
        proc: None,
        limits: None,
        scratch: None,
        terminal: None,
        cgroup_namespace: 0,
    };
    for (index, step) in plan.steps.iter().enumerate() {
        if let Err(errno) = apply(step, &mut ground) {
            // When the supervisor is gone, nobody is left to be told.
            let _ = control.report(&Report::StepFailed { step: index, errno });
            process::exit_now(1);
        }
    }
    match process::fork() {
        Ok(Side::Child) => become_command(plan, &ground),
        Ok(Side::Parent(command)) => {
            // As the command does itself: whoever is first, a signal to the group finds it. EACCES: it is
            // the command already, and has its group.
            let _ = setpgid(command, command);
            // Forgotten, not dropped: the next line closes them all, with what the plan and the supervisor's
            // copy of memory still hold.
            std::mem::forget(ground);
            // What the command keeps of capabilities is not for PID 1.
            match process::set_capability_sets(0).and_then(|()| process::close_all_but(control.as_fd())) {
                Ok(()) => reap(command, control, time),
                Err(_) => process::exit_now(1),
            }
        }
        Err(errno) => {
            let _ = control.report(&Report::ExecFailed(errno));
            process::exit_now(1);
        }
    }
}

fn apply(step: &Step, ground: &mut Ground<'_>) -> Result<(), Errno> {
    match step {
        Step::Signals => signal::reset_all_but(&KEPT),
        Step::BecomeInside => {
            ground.control.await_order(Order::Mapped)?;
            identity::become_inside()
        }
        Step::DieWithSupervisor => {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // A supervisor that died before the line above sends no signal any more; seen from this
            // new PID namespace its id is 0 while it lives, and so is every foreign one: the channel
            // tells, at the next order.
            debug_assert_eq!(getppid(), Pid::from_raw(0));
            prctl::set_dumpable(false)
        }
        Step::CgroupNamespace => {
            unshare(CloneFlags::CLONE_NEWCGROUP)?;
            // For the status lines: nobody outside may look at an undumpable process.
            ground.cgroup_namespace = stat(c"/proc/self/ns/cgroup").map_or(0, |ns| ns.st_ino as u32);
            Ok(())
        }
        Step::HostName(name) => sethostname(name),
        Step::Loopback => network::loopback_up(),
        Step::SessionKeyring => process::new_session_keyring(),
        Step::PrivateMounts => mount::make_all_private(),
        Step::Root(tree) => {
            let tree = tree.detach()?;
            // Any directory would do that is there on every host; it is left behind by the pivot.
            mount::attach_at(tree.as_fd(), None, c"/")?;
            ground.root = Some(tree);
            Ok(())
        }
        Step::Proc(place) => {
            let proc = procfs::mount_on(held(&ground.root)?.as_fd(), place)?;
            ground.limits = Some(procfs::open_limits(proc.as_fd())?);
            ground.proc = Some(proc);
            Ok(())
        }
        Step::NoNamespaces => procfs::set_user_limits(held(&ground.limits)?.as_fd()),
        Step::Scratch(armed) => {
            ground.scratch = Some(armed.apply(held(&ground.root)?.as_fd())?);
            Ok(())
        }
        Step::CoverProc => procfs::cover(
            held(&ground.proc)?.as_fd(),
            held(&ground.scratch)?.as_fd(),
            scratch::EMPTY_FILE,
            scratch::EMPTY_DIRECTORY,
        ),
        Step::Devices(devices) => devices.apply(held(&ground.root)?.as_fd()),
        Step::Mount(Mounted::Host(mount)) => mount.apply(held(&ground.root)?.as_fd()),
        Step::Mount(Mounted::Overlay(overlay)) => overlay.apply(held(&ground.root)?.as_fd()),
        Step::Mount(Mounted::Hidden(cover)) => {
            cover.apply(held(&ground.root)?.as_fd(), held(&ground.scratch)?.as_fd())
        }
        Step::Mount(Mounted::Tmpfs(tmpfs)) => tmpfs.apply(held(&ground.root)?.as_fd()),
        Step::PivotRoot => {
            fchdir(held(&ground.root)?)?;
            // pivot_root(2), "pivot_root(".", ".")": the old root ends on top of the new one and the
            // working directory, so one lazy unmount of "." lets go of everything.
            pivot_root(c".", c".")?;
            umount2(c".", MntFlags::MNT_DETACH)?;
            chdir(c"/")
        }
        Step::Terminal => {
            let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
            let master = open(c"/dev/pts/ptmx", flags, Mode::empty())?;
            ground.terminal = Some(terminal::open_peer(master.as_fd())?);
            ground.control.report(&Report::Terminal(master))
        }
        Step::Session => {
            setsid()?;
            let Some(terminal) = &ground.terminal else { return Ok(()) };
            terminal::make_controlling(terminal.as_fd())?;
            for (stream, number) in process::standard_streams().into_iter().zip(0..) {
                if nix::unistd::isatty(stream).unwrap_or(false) {
                    process::duplicate_to(terminal.as_fd(), number)?;
                }
            }
            Ok(())
        }
        Step::Resources(resources) => resources.apply(),
        Step::NoNewPrivileges => prctl::set_no_new_privs(),
        Step::Landlock(landlock) => landlock.apply(),
        Step::Capabilities(capabilities) => capabilities.apply(),
        Step::Descriptors => process::close_on_exec_from(3),
        Step::AwaitProceed => ground.control.await_order(Order::Proceed),
        Step::Directory(path) => {
            // Not through /proc/self/fd, where until execve(2) the descriptors are that led here: some of them are
            // of the host (CVE-2024-21626).
            let how = OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_NO_MAGICLINKS);
            fchdir(openat2(AT_FDCWD, path.as_str(), how)?)
        }
        Step::Seccomp(filter) => filter.apply(),
    }
}

fn held(fd: &Option<OwnedFd>) -> Result<&OwnedFd, Errno> {
    // The order of the plan makes this unreachable; a panic would format.
    fd.as_ref().ok_or(Errno::EBADF)
}

fn become_command(plan: &Plan, ground: &Ground<'_>) -> ! {
    // Whatever the caller had: the command's files are not for everybody to write.
    umask(Mode::from_bits_truncate(0o022));
    let errno = start(plan, ground);
    let _ = ground.control.report(&Report::ExecFailed(errno));
    process::exit_now(127);
}

fn start(plan: &Plan, ground: &Ground<'_>) -> Errno {
    // A process group of its own inside PID 1's session: so its group is not orphaned, and Ctrl-Z
    // works as below a shell.
    if let Err(errno) = setpgid(Pid::from_raw(0), Pid::from_raw(0)) {
        return errno;
    }
    if let Some(terminal) = &ground.terminal {
        // SIGTTOU, which this raises in a background group, is still blocked here.
        if let Err(errno) = tcsetpgrp(terminal, nix::unistd::getpid()) {
            return errno;
        }
    }
    if let Err(errno) = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .and_then(|()| ground.control.report(&Report::Ready { cgroup_namespace: ground.cgroup_namespace }))
        // After jailmk's last call but execve(2): the profile is made for the command.
        .and_then(|()| plan.profile().map_or(Ok(()), seccomp::Profile::apply))
    {
        return errno;
    }
    // As execvp(3): go on while the name is not there, remember a file that may not be executed.
    let mut remembered = Errno::ENOENT;
    for candidate in &plan.command.candidates {
        match exec::replace_process(candidate, &plan.command.arguments, &plan.command.environment) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => remembered = Errno::EACCES,
            other => return other,
        }
    }
    remembered
}

/// PID 1: hands signals on to the command, reaps what is orphaned, keeps the time, and
/// ends when the command ends, upon which the kernel kills everything that is left.
///
/// The time is kept here, not by the supervisor, which may be stopped as a job of the caller's shell, or
/// wait for a terminal that takes no more.
fn reap(command: Pid, control: &Channel, time: Option<Duration>) -> ! {
    // All are blocked since before the clone, so none can arrive but here.
    let all = SigSet::all();
    let group = Pid::from_raw(-command.as_raw());
    let mut deadline = time.and_then(|time| Instant::now().checked_add(time));
    let mut is_over = false;
    loop {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        // Looked at first: a jail could keep signals coming.
        if left == Some(Duration::ZERO) {
            if is_over {
                process::exit_now(0);
            }
            is_over = true;
            deadline = Instant::now().checked_add(GRACE);
            let _ = control.report(&Report::TimeOver);
            let _ = kill(group, Signal::SIGTERM);
            // A stopped command could not take the SIGTERM.
            let _ = kill(group, Signal::SIGCONT);
            continue;
        }
        match process::wait_for_signal(&all, left) {
            Ok(Some((Signal::SIGCHLD, _))) => reap_all(command, control),
            Ok(Some((signal, origin))) => {
                // A command that just ended is reaped at the next SIGCHLD.
                let _ = kill(if is_request(signal, origin) { command } else { group }, signal);
            }
            Ok(None) | Err(_) => {}
        }
    }
}

/// Asks a program to do something, such as to read its configuration again: the command alone, for the workers
/// of a server would be ended by it. Everyone is told to end, to stop and to go on, and that the terminal has
/// hung up, which the kernel says with the same signal.
fn is_request(signal: Signal, origin: Origin) -> bool {
    match signal {
        Signal::SIGHUP => origin == Origin::Process,
        signal => matches!(signal, Signal::SIGUSR1 | Signal::SIGUSR2),
    }
}

fn reap_all(command: Pid, control: &Channel) {
    loop {
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        let report = match waitpid(None, Some(flags)) {
            Err(Errno::EINTR) => continue,
            Err(_) | Ok(WaitStatus::StillAlive) => return,
            Ok(WaitStatus::Exited(pid, status)) if pid == command => Report::Exited(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => Report::Killed(signal as i32),
            Ok(WaitStatus::Stopped(pid, signal)) if pid == command => Report::Stopped(signal as i32),
            Ok(_) => continue,
        };
        let _ = control.report(&report);
        if !matches!(report, Report::Stopped(_)) {
            process::exit_now(0);
        }
    }
}
