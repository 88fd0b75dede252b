//! `jailmk enter`.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::time::{Duration, SystemTime};

use nix::errno::Errno;

use crate::caller::Caller;
use crate::cli::build::resolve;
use crate::cli::ending::{StatusFd, tell, tell_limits};
use crate::cli::progress::shown;
use crate::cli::{Enter, Failure, Outcome, failed, print, say};
use crate::error::Causes;
use crate::inherited;
use crate::jail::error::SpawnError;
use crate::jail::lead::Lead;
use crate::jail::plan::{Plan, TerminalWanted};
use crate::jail::spawn::{self, Supervision};
use crate::jail::supervisor::{OnStart, Started};
use crate::jail::terminal::CallerTerminal;
use crate::jail::{Effect, Jail, Setting};
use crate::layer::{cgroup, disk, seccomp};
use crate::path::{HostPath, printable};
use crate::rootfs::doubt::{self, Doubt};
use crate::rootfs::{BuildOptions, Freshness, Rootfs, State, build};
use crate::sealed;
use crate::spec::{Degradable, Spec};
use crate::workspace::Session;
use crate::workspace::direct::Direct;
use crate::workspace::journal::Time;
use crate::workspace::session::reviewed;
use crate::workspace::tree::Tree;
use crate::written::Written;

impl Enter {
    /// Runs the command in the jail, or tells how it would.
    pub(super) fn run(self) -> Outcome {
        // First of all: later the number could be a file of jailmk's own.
        let status_fd = self.json_status_fd.map(StatusFd::adopt).transpose().map_err(failed)?;
        self.prepared(status_fd.as_ref()).inspect_err(|failure| {
            if let Some(fd) = &status_fd
                && !failure.told
            {
                fd.failed(failure.status, &*failure.error, None);
            }
        })
    }

    fn prepared(self, status_fd: Option<&StatusFd>) -> Outcome {
        inherited::raise_open_files();
        // Before the jail can write anything: see `workspace`.
        let since = Time::now();
        let again = self.spec.again();
        let spec = self.spec.load().map_err(failed)?;
        let start = Start::of(spec, self.command, self.timeout, since)?;
        match (self.spec.trust_spec, self.plan) {
            (false, _) => doubt::refuse_doubtful(&start.state, &start.spec),
            (true, false) => doubt::settle(&start.state, &start.spec),
            (true, true) => Ok(()),
        }
        .map_err(failed)?;
        let current = Rootfs::current(&start.state, &start.spec).map_err(failed)?;
        if self.plan { start.describe(current) } else { start.enter(current, status_fd, &again) }
    }
}

/// Everything that is known before a tree is.
pub(super) struct Start {
    pub spec: Spec,
    state: State,
    pub caller: Caller,
    /// Bytes of the host.
    memory: u64,
    pub limits: cgroup::Policy,
    time: Option<Duration>,
    arguments: Vec<OsString>,
    /// When this began, by the clock of file systems.
    since: Time,
}

type Current = Option<(Rootfs, Freshness)>;

impl Start {
    /// With `arguments` and `time` instead of what the spec says, when there are any.
    pub(super) fn of(
        spec: Spec,
        arguments: Vec<OsString>,
        time: Option<Duration>,
        since: Time,
    ) -> Result<Start, Failure> {
        let memory = cgroup::host_memory().unwrap_or(u64::MAX);
        Ok(Start {
            limits: cgroup::Policy::new(&spec.limits, memory),
            time: time.or(spec.limits.time),
            spec,
            state: State::open().map_err(failed)?,
            caller: Caller::current(),
            memory,
            arguments,
            since,
        })
    }

    /// What `enter` would do, with nothing done.
    pub(super) fn plan(&self) -> Result<Plan, Failure> {
        let current = Rootfs::current(&self.state, &self.spec).map_err(failed)?;
        let tree = current.map_or_else(|| self.not_built(), |(rootfs, _)| rootfs.tree());
        self.arm(self.described(&tree)?, CallerTerminal::find().as_ref())
    }

    /// Whether the jail may be without a cgroup though the spec writes limits.
    pub(super) fn may_lack_cgroup(&self) -> bool {
        self.spec.hardening.degrade.contains(&Degradable::Cgroup)
    }

    fn not_built(&self) -> HostPath {
        self.state.path().join("rootfs").join(&self.spec.name)
    }

    /// The jail as it would be, with nothing made.
    fn described(&self, tree: &HostPath) -> Result<Jail, Failure> {
        let changes = reviewed(&self.spec).map(|_| self.state.path().join("review").join(&self.spec.name));
        self.prepare(tree, changes.as_ref(), Effect::Describe)
    }

    fn prepare(&self, tree: &HostPath, changes: Option<&HostPath>, effect: Effect) -> Result<Jail, Failure> {
        let setting = Setting {
            tree,
            caller: &self.caller,
            private: &[self.state.path().clone()],
            changes,
            arguments: &self.arguments,
            default_disk: self.memory / 2,
            effect,
        };
        Jail::prepare(&self.spec, &setting).map_err(failed)
    }

    fn arm(&self, jail: Jail, terminal: Option<&CallerTerminal>) -> Result<Plan, Failure> {
        let hardening = &self.spec.hardening;
        let policy = seccomp::Policy { profile: hardening.seccomp.clone(), keep: hardening.keep.clone() };
        let filter = policy.arm().map_err(failed)?;
        let wanted = if terminal.is_some() { TerminalWanted::Yes } else { TerminalWanted::No };
        Ok(Plan::arm(jail, self.spec.network, filter, wanted))
    }

    /// Prints the steps.
    fn describe(&self, current: Current) -> Outcome {
        let (tree, first) = match &current {
            Some((rootfs, Freshness::Fresh)) => (rootfs.tree(), None),
            Some((rootfs, Freshness::Stale(why))) => (rootfs.tree(), Some(format!("build it anew: {why}"))),
            None => (self.not_built(), Some("build the tree, which is not there yet".to_owned())),
        };
        let jail = self.described(&tree)?;
        tell_weaker(&jail);
        let plan = self.arm(jail, CallerTerminal::find().as_ref())?;
        tell_unknown(&plan);
        let first = first.map(|step| format!(" 0  {step}\n")).unwrap_or_default();
        let watched = reviewed(&self.spec).and(self.spec.limits.disk);
        let watched = watched.map(|bytes| format!(" 0  {}\n", disk::Words(bytes))).unwrap_or_default();
        print(format_args!("{first} 0  limit the jail by cgroup v2: {}\n{watched}{plan}", self.limits))
            .map_err(failed)?;
        Ok(0)
    }

    /// Builds what has to be built, runs the command, tells how it ended; `again` names the spec in commands
    /// that are proposed.
    fn enter(&self, current: Current, status_fd: Option<&StatusFd>, again: &str) -> Outcome {
        let rootfs = self.rootfs(current)?;
        let session = match reviewed(&self.spec) {
            Some(_) => Some(self.begin_review(status_fd)?),
            None => None,
        };
        let changes = session.as_ref().map(Session::layers);
        let mut jail = self.prepare(&rootfs.tree(), changes.as_ref(), Effect::Enter)?;
        seal(&jail, status_fd)?;
        let cgroup = limit(&self.spec, &self.limits, &mut jail)?;
        let direct = Direct::look(&self.spec, &self.caller);
        let written = Written::of(&self.spec, &self.caller);
        let doubt = Doubt::begin(&self.state, &self.spec, &written).map_err(failed)?;
        jail.weaker.extend(direct.as_ref().and_then(Direct::weaker));
        let terminal = CallerTerminal::find();
        tell_weaker(&jail);
        let plan = self.arm(jail, terminal.as_ref())?;
        tell_unknown(&plan);
        let tell_start = status_fd.map(|fd| move |started: &Started| fd.started(started));
        let supervision = Supervision {
            cgroup: cgroup.as_ref(),
            terminal,
            time: self.time,
            disk: session.as_ref().and_then(|session| self.watched(session)).transpose()?,
            check: &|pid| {
                rootfs.check_seal()?;
                if let Some(session) = &session {
                    if let Err(error) = session.started(self.since, pid) {
                        say(Causes(&error));
                    }
                    Session::await_tick(self.since);
                }
                Ok(())
            },
            started: tell_start.as_ref().map(|tell| tell as OnStart<'_>),
        };
        let end = spawn::run(plan, supervision);
        let usage = cgroup.as_ref().map(cgroup::Armed::usage);
        // Tidied before anything is told: nothing of the jail is left when its end is known.
        if let Some(cgroup) = cgroup
            && let Err(error) = cgroup.remove()
        {
            say(Causes(&error));
        }
        if let Some(session) = &session {
            self.account(session, again);
        }
        if let Some(direct) = direct {
            for (path, what) in direct.changed() {
                say(format_args!("look at {path} before you go on, the jail has written it: {what}"));
            }
        }
        for path in doubt.map(Doubt::end).into_iter().flatten() {
            let path = printable(path.as_os_str());
            say(format_args!(
                "look at {path} before you go on: it changed while the jail ran, which may have done it"
            ));
        }
        let end = end.map_err(|mut error| {
            if let SpawnError::Exec { cause: Errno::ENOENT, command, lead } = &mut error {
                *lead = Lead::find(command, &self.spec, &rootfs.tree(), &self.caller);
            }
            let failure = Failure::new(error.exit_status(), error);
            tell_limits(&self.limits, usage.as_ref());
            status_fd.iter().for_each(|fd| fd.failed(failure.status, &*failure.error, usage.as_ref()));
            Failure { told: true, ..failure }
        })?;
        Ok(tell(end, &self.limits, usage.as_ref(), status_fd))
    }

    /// Where the jail's changes to the workspace go; nobody else's may go there meanwhile.
    fn begin_review(&self, status_fd: Option<&StatusFd>) -> Result<Session, Failure> {
        // The state must be no part of the workspace, and this makes a directory in it.
        seal(&self.prepare(&HostPath::root(), None, Effect::Describe)?, status_fd)?;
        Session::begin(&self.state, &self.spec, &self.caller, self.since).map_err(failed)
    }

    /// The changes, where the spec says how much the jail may write.
    fn watched(&self, session: &Session) -> Option<Result<disk::Armed, Failure>> {
        let bytes = self.spec.limits.disk?;
        let changes = session.upper().map(Tree::into_top).map_err(failed);
        Some(changes.map(|changes| disk::Armed { changes, bytes }))
    }

    /// Tells that there is something to look at.
    fn account(&self, session: &Session, again: &str) {
        let changes = session.account().and_then(|()| session.changes());
        match changes.map(|changes| changes.shown().count()) {
            Ok(0) => {}
            Ok(count) => {
                let paths = if count == 1 { "path" } else { "paths" };
                let review = format_args!("`jailmk diff{again}`, `jailmk apply{again}`");
                say(format_args!("{count} changed {paths} to review: {review}"));
            }
            Err(error) => say(Causes(&error)),
        }
    }

    /// The tree, built anew unless it is there and up to date.
    fn rootfs(&self, current: Current) -> Result<Rootfs, Failure> {
        let name = &self.spec.name;
        match current {
            Some((rootfs, Freshness::Fresh)) => return Ok(rootfs),
            // In every log: what runs from now on is not what ran before.
            Some((_, Freshness::Stale(why))) => say(format_args!("building {name}: {why}")),
            None if io::stderr().is_terminal() => say(format_args!("building {name}")),
            None => {}
        }
        let built = shown(name, |progress| {
            let began = Some(SystemTime::now());
            let closure = resolve(&self.spec, None).map_err(Failure::of_enter)?;
            let options = BuildOptions { began, progress: Some(progress), ..BuildOptions::default() };
            build(&self.spec, &self.state, &options, &closure).map_err(failed)
        })?;
        Ok(built.rootfs.expect("BUG: only `--output` makes a tree outside the state"))
    }
}

/// Without Landlock, goes on in a sealed copy of this program; before anything is made that would have to be
/// tidied up, for this may start over.
fn seal(jail: &Jail, status_fd: Option<&StatusFd>) -> Result<(), Failure> {
    if jail.landlock.is_none() {
        status_fd.map_or(Ok(()), StatusFd::survive_exec).map_err(failed)?;
        sealed::ensure().map_err(failed)?;
    }
    Ok(())
}

fn tell_weaker(jail: &Jail) {
    jail.weaker.iter().for_each(|line| say(format_args!("weaker: {line}")));
}

/// A mistyped name in a profile allows nothing, but its author should know.
fn tell_unknown(plan: &Plan) {
    if let Some(unknown) = plan.profile().map(|profile| profile.unknown()).filter(|names| !names.is_empty()) {
        say(format_args!("note: the seccomp profile names no system call with {}", unknown.join(", ")));
    }
}

/// Makes the jail's cgroup; where only default limits cannot be had, rlimits stand in and a line says so.
fn limit(spec: &Spec, limits: &cgroup::Policy, jail: &mut Jail) -> Result<Option<cgroup::Armed>, Failure> {
    let reason = match limits.arm(&spec.name) {
        Ok(cgroup::Outcome::Armed(armed)) => {
            jail.weaker.extend(armed.weaker());
            return Ok(Some(armed));
        }
        Ok(cgroup::Outcome::Unavailable { reason }) => reason,
        Err(reason) if spec.hardening.degrade.contains(&Degradable::Cgroup) => reason,
        Err(error) => return Err(failed(error)),
    };
    jail.resources.instead_of_cgroup(limits.memory.value, limits.processes.value);
    jail.weaker.push(format!(
        "limits of each process stand in for the jail's, none bounds shared memory: {} (`jailmk check` names the cure)",
        Causes(&reason)
    ));
    Ok(None)
}
