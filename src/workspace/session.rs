//! Where the changes to one workspace by one spec are kept, and who may work on them.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, openat, renameat};
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, fstat, mkdirat};
use nix::unistd::{Gid, Pid, Uid, UnlinkatFlags, fchownat, geteuid, unlinkat};
use sha2::{Digest, Sha256};

use super::changes::{self, Changes};
use super::error::ReviewError;
use super::journal::{Journal, Time};
use super::tree::{Tree, Unreadable};
use super::{apply, base, pending, reserve, upper};
use crate::caller::Caller;
use crate::layer::mounts::Source;
use crate::layer::overlay;
use crate::manifest::lock::Hex;
use crate::path::HostPath;
use crate::rootfs::{State, directory, spec_directory};
use crate::spec::{Spec, Workspace, WorkspaceMode};

pub(super) const REVIEW: &str = "review";
pub(super) const ABOUT: &str = "about";
/// What [`ABOUT`] was, when all was dropped.
pub(super) const EMPTIED: &str = "emptied";
const LOCK: &str = "lock";
const RUNNING: &str = "running";
const JOURNAL: &str = "journal";
const LAYERS: &str = "layers";
/// Before the time in [`RUNNING`], when it was no jail.
const APPLY: &str = "apply ";
/// How often, and how long, is waited for what takes a moment only.
pub(super) const LOOKS: u32 = 250;
pub(super) const MOMENT: Duration = Duration::from_millis(20);
const OWN: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);

/// The changes to one workspace by one spec.
pub struct Session {
    /// The jail's name.
    pub name: String,
    /// The workspace on the host, without symlinks.
    pub workspace: HostPath,
    /// The owner of the workspace.
    pub owner: (u32, u32),
    path: HostPath,
    fd: OwnedFd,
    /// The workspace, unless it is gone and so is the spec.
    host: Option<OwnedFd>,
    held: Option<Flock<File>>,
    unsaved: RefCell<Option<Unsaved>>,
}

/// A journal that the disk has no room for. [`RUNNING`] stays beside it: whoever comes next makes the same records
/// again, or such that take more for a conflict.
struct Unsaved {
    journal: Journal,
    cause: Errno,
}

/// What [`RUNNING`] holds: `SINCE [PID STARTED]` of a jail, `apply SINCE` of who changes the upper layer.
struct Running {
    since: Time,
    process: Option<(i32, u64)>,
    applies: bool,
}

impl Running {
    fn parse(text: &str) -> Option<Running> {
        if let Some(since) = text.strip_prefix(APPLY) {
            return Some(Running { since: Time::parse(since)?, process: None, applies: true });
        }
        let mut words = text.split(' ');
        let since = Time::parse(words.next()?)?;
        let process = words
            .next()
            .zip(words.next())
            .and_then(|(pid, started)| Some((pid.parse().ok()?, started.parse().ok()?)));
        Some(Running { since, process, applies: false })
    }
}

/// When a process began, in ticks since the host did: with its id it is one process and no later one
/// (proc_pid_stat(5), field 22).
fn start_time(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Behind the name, which may hold anything.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// The workspace of a spec, if it is reviewed.
pub fn reviewed(spec: &Spec) -> Option<&Workspace> {
    spec.workspace.as_ref().filter(|workspace| workspace.mode == WorkspaceMode::Review)
}

impl Session {
    /// The session of `spec`, as seen from the caller's directory; `None` if no jail ever made one.
    ///
    /// # Errors
    /// The spec has no reviewed workspace, or the state cannot be used.
    pub fn find(state: &State, spec: &Spec, caller: &Caller) -> Result<Option<Session>, ReviewError> {
        let (workspace, source) = locate(spec, caller)?;
        let name = directory_name(spec, &workspace);
        let path = state.path().join(REVIEW).join(&name);
        let opened = directory::open(state.fd(), REVIEW)
            .and_then(|review| directory::open_to_read(review.as_fd(), name.as_str()));
        match opened {
            // What was discarded leaves the directory alone.
            Ok(fd) if directory::read_file(fd.as_fd(), ABOUT) == Err(Errno::ENOENT) => Ok(None),
            Ok(fd) => Session::at(spec.name.clone(), workspace, &source, path, fd).map(Some),
            Err(Errno::ENOENT) => Ok(None),
            Err(cause) => Err(ReviewError::State { verb: "open", path, cause }),
        }
    }

    /// The same, made if there is none, and locked for a jail: what an earlier one left unaccounted is put
    /// in the journal.
    ///
    /// # Errors
    /// As [`Session::find`]; another jail uses it.
    pub fn begin(state: &State, spec: &Spec, caller: &Caller, since: Time) -> Result<Session, ReviewError> {
        let (workspace, source) = locate(spec, caller)?;
        let name = directory_name(spec, &workspace);
        let path = state.path().join(REVIEW).join(&name);
        let failed = |verb| {
            let path = path.clone();
            move |cause| ReviewError::State { verb, path, cause }
        };
        let fd = make(state.fd(), REVIEW)
            .and_then(|review| make(review.as_fd(), &name))
            .map_err(failed("make"))?;
        let mut session = Session::at(spec.name.clone(), workspace, &source, path.clone(), fd)?;
        session.lock("enter")?;
        session.check_workspace()?;
        session.prepare_layers(spec).map_err(failed("prepare"))?;
        session.catch_up()?;
        session.check_saved()?;
        reserve::take(session.fd()).map_err(failed("reserve room in"))?;
        session.write(RUNNING, since.to_string().as_bytes())?;
        Ok(session)
    }

    fn at(
        name: String,
        workspace: HostPath,
        source: &Source,
        path: HostPath,
        fd: OwnedFd,
    ) -> Result<Session, ReviewError> {
        let host = directory::open_to_read(nix::fcntl::AT_FDCWD, workspace.as_path())
            .map_err(|cause| ReviewError::State { verb: "open", path: workspace.clone(), cause })?;
        Ok(Session {
            name,
            workspace,
            owner: source.owner,
            path,
            fd,
            host: Some(host),
            held: None,
            unsaved: RefCell::default(),
        })
    }

    /// What is left of one, also when its workspace is not there any more.
    pub(super) fn left(name: String, workspace: HostPath, path: HostPath, fd: OwnedFd) -> Session {
        let source = Source::open(&workspace).ok();
        let host = directory::open_to_read(nix::fcntl::AT_FDCWD, workspace.as_path()).ok();
        let owner = source.map_or((0, 0), |source| source.owner);
        Session { name, workspace, owner, path, fd, host, held: None, unsaved: RefCell::default() }
    }

    /// Keeps others from changing anything; what an earlier process left half-done is finished.
    ///
    /// # Errors
    /// Another process uses the changes; the state cannot be used.
    pub fn lock_to(&mut self, verb: &'static str) -> Result<(), ReviewError> {
        self.lock(verb)?;
        self.catch_up()
    }

    fn lock(&mut self, verb: &'static str) -> Result<(), ReviewError> {
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        for attempt in 0.. {
            let file =
                openat(&self.fd, LOCK, flags, OWN).map_err(|cause| self.failed("open", LOCK, cause))?;
            match Flock::lock(File::from(file), FlockArg::LockExclusiveNonblock) {
                Ok(held) => {
                    self.held = Some(held);
                    break;
                }
                Err((_, Errno::EWOULDBLOCK)) => {
                    let running = self.running()?.is_some_and(|running| !running.applies);
                    // A look takes a moment, a jail does not.
                    if running || attempt == LOOKS {
                        let holder = if running { "a jail that runs" } else { "another jailmk" }.to_owned();
                        return Err(ReviewError::Busy { verb, name: self.name.clone(), holder });
                    }
                    std::thread::sleep(MOMENT);
                }
                Err((_, cause)) => return Err(self.failed("lock", LOCK, cause)),
            }
        }
        self.await_end(verb)
    }

    /// A supervisor that was killed lets go of the lock a moment before its jail is dead.
    fn await_end(&self, verb: &'static str) -> Result<(), ReviewError> {
        let Some(Running { process: Some((pid, started)), .. }) = self.running()? else { return Ok(()) };
        for _ in 0..LOOKS {
            if start_time(pid) != Some(started) {
                return Ok(());
            }
            std::thread::sleep(MOMENT);
        }
        Err(ReviewError::Busy { verb, name: self.name.clone(), holder: format!("process {pid}") })
    }

    /// Whether another process has it locked.
    pub fn is_busy(&self) -> bool {
        let flags = OFlag::O_RDWR | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let Ok(file) = openat(&self.fd, LOCK, flags, Mode::empty()) else { return false };
        matches!(Flock::lock(File::from(file), FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
    }

    fn prepare_layers(&self, spec: &Spec) -> Result<(), Errno> {
        let workspace = self.workspace.as_path().as_os_str();
        let inode = fstat(self.host_fd()?)?.st_ino.to_string();
        let about =
            [self.name.as_bytes(), origin(spec).as_bytes(), workspace.as_bytes(), inode.as_bytes()].join(&0);
        if directory::read_file(self.fd.as_fd(), ABOUT).as_ref() != Ok(&about) {
            directory::replace_file(self.fd.as_fd(), ABOUT.as_ref(), OWN, &about)?;
        }
        let layers = make(self.fd.as_fd(), LAYERS)?;
        let mode = Mode::from_bits_truncate(fstat(self.host_fd()?)?.st_mode & 0o777) | Mode::S_IRWXU;
        for (name, mode) in [(overlay::WORK, Mode::S_IRWXU), (overlay::UPPER, mode)] {
            match mkdirat(&layers, name, Mode::S_IRWXU) {
                // The mode of the upper directory is what the jail sees at its top.
                Ok(()) => fchmodat(&layers, name, mode, FchmodatFlags::FollowSymlink)?,
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
            self.give(layers.as_fd(), name)?;
        }
        self.give(self.fd.as_fd(), &std::ffi::CString::new(LAYERS).expect("BUG: a constant has no NUL"))
    }

    /// Root's jail writes as the owner of the workspace.
    fn give(&self, at: BorrowedFd<'_>, name: &std::ffi::CStr) -> Result<(), Errno> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(self.owner.0), Gid::from_raw(self.owner.1));
        fchownat(at, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
    }

    /// Where the layers are, for the overlay.
    pub fn layers(&self) -> HostPath {
        self.path.join(LAYERS)
    }

    /// Where the state of this session is.
    pub fn path(&self) -> &HostPath {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Waits until the clock that stamps files has passed `since`.
    pub fn await_tick(since: Time) {
        while Time::of_last_tick() <= since {
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Puts what the jail changed into the journal; on a full disk into one in memory, with which changes can be
    /// looked at and dropped, and nothing else (see [`Session::check_saved`]).
    ///
    /// # Errors
    /// A tree cannot be read, or the state not be written.
    pub fn account(&self) -> Result<(), ReviewError> {
        pending::finish(self)?;
        let Some(Running { since, applies, .. }) = self.running()? else { return Ok(()) };
        if applies {
            apply::drop_idle(self)?;
        }
        let mut journal = self.journal()?;
        let (upper, host) = (self.upper()?, self.host()?);
        changes::survey(&upper, &host, &mut journal, since)?;
        base::keep(self, &upper, &host, &mut journal);
        match self.store(&journal) {
            Ok(()) => drop(self.unsaved.take()),
            Err(cause) if reserve::is_full(cause) => {
                self.unsaved.replace(Some(Unsaved { journal, cause }));
                return Ok(());
            }
            Err(cause) => return Err(self.failed("write", JOURNAL, cause)),
        }
        base::tidy(self, &journal)?;
        match unlinkat(&self.fd, RUNNING, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(cause) => Err(self.failed("remove", RUNNING, cause)),
        }
    }

    /// Writes down who the jail is.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn started(&self, since: Time, pid: Pid) -> Result<(), ReviewError> {
        let started = start_time(pid.as_raw()).unwrap_or_default();
        self.write(RUNNING, format!("{since} {pid} {started}").as_bytes())
    }

    /// What is applied, and what a jail changes on top, is told from the rest by the journal on the disk.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn check_saved(&self) -> Result<(), ReviewError> {
        match self.unsaved.borrow().as_ref() {
            Some(unsaved) => Err(self.failed("write", JOURNAL, unsaved.cause)),
            None => Ok(()),
        }
    }

    fn running(&self) -> Result<Option<Running>, ReviewError> {
        let Some(bytes) = self.read(RUNNING)? else { return Ok(None) };
        let running = std::str::from_utf8(&bytes).ok().and_then(Running::parse);
        running.map(Some).ok_or_else(|| ReviewError::Damaged { path: self.path.join(RUNNING) })
    }

    fn catch_up(&mut self) -> Result<(), ReviewError> {
        self.check_workspace()?;
        upper::empty_trash(self.fd.as_fd()).map_err(|cause| self.failed("empty", "trash", cause))?;
        self.account()
    }

    /// The directory must be the one that the changes were made to.
    fn check_workspace(&self) -> Result<(), ReviewError> {
        let Some(about) = self.read(ABOUT)? else { return Ok(()) };
        let now =
            self.host_fd().and_then(fstat).map_err(|cause| self.failed("inspect", ABOUT, cause))?.st_ino;
        let then = about.rsplit(|byte| *byte == 0).next().unwrap_or_default();
        let unused = self.journal()?.is_empty() && self.read(RUNNING)?.is_none();
        match then == now.to_string().as_bytes() || unused {
            true => Ok(()),
            false => Err(ReviewError::Replaced { path: self.workspace.clone() }),
        }
    }

    /// Everything that the jail changed.
    ///
    /// # Errors
    /// A tree cannot be read.
    pub fn changes(&self) -> Result<Changes, ReviewError> {
        changes::compare(&self.upper()?, &self.host()?, &self.journal()?)
    }

    /// What the jail wrote.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn upper(&self) -> Result<Tree, ReviewError> {
        let top = directory::open(self.fd.as_fd(), LAYERS)
            .and_then(|layers| directory::open_to_read(layers.as_fd(), overlay::UPPER))
            .map_err(|cause| self.failed("open", "layers/upper", cause))?;
        // While a jail runs, nothing of it is touched.
        let unreadable = if self.held.is_some() { Unreadable::Opened } else { Unreadable::Refused };
        Ok(Tree::new(top, unreadable))
    }

    /// The workspace on the host.
    ///
    /// # Errors
    /// Descriptors run out.
    pub fn host(&self) -> Result<Tree, ReviewError> {
        Ok(Tree::new(self.host_directory()?, Unreadable::Refused))
    }

    /// Its top.
    pub(super) fn host_directory(&self) -> Result<OwnedFd, ReviewError> {
        let failed = |cause| ReviewError::State { verb: "open", path: self.workspace.clone(), cause };
        self.host_fd().map_err(failed)?.try_clone_to_owned().map_err(|_| failed(Errno::EMFILE))
    }

    fn host_fd(&self) -> Result<BorrowedFd<'_>, Errno> {
        self.host.as_ref().map(AsFd::as_fd).ok_or(Errno::ENOENT)
    }

    /// How changed paths were before.
    ///
    /// # Errors
    /// It is damaged.
    pub fn journal(&self) -> Result<Journal, ReviewError> {
        if let Some(unsaved) = self.unsaved.borrow().as_ref() {
            return Ok(unsaved.journal.clone());
        }
        match self.read(JOURNAL)? {
            None => Ok(Journal::default()),
            Some(bytes) => {
                Journal::parse(&bytes).ok_or_else(|| ReviewError::Damaged { path: self.path.join(JOURNAL) })
            }
        }
    }

    /// Writes the journal, whole.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn save(&self, journal: &Journal) -> Result<(), ReviewError> {
        self.store(journal).map_err(|cause| self.failed("write", JOURNAL, cause))
    }

    /// The same with the bare error.
    pub(super) fn store(&self, journal: &Journal) -> Result<(), Errno> {
        self.replace(JOURNAL, &journal.bytes())
    }

    /// Says that changes are being worked on, so that whoever comes next looks at all of them again.
    pub(super) fn mark_unaccounted(&self) -> Result<(), ReviewError> {
        // The jail's own mark says so already, and since when: no later time may take its place before the
        // records of then are on the disk.
        if self.unsaved.borrow().is_some() {
            return Ok(());
        }
        self.write(RUNNING, format!("{APPLY}{}", Time::now()).as_bytes())
    }

    pub(super) fn read(&self, name: &'static str) -> Result<Option<Vec<u8>>, ReviewError> {
        match directory::read_file(self.fd.as_fd(), name) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Errno::ENOENT) => Ok(None),
            Err(cause) => Err(self.failed("read", name, cause)),
        }
    }

    pub(super) fn write(&self, name: &'static str, bytes: &[u8]) -> Result<(), ReviewError> {
        self.replace(name, bytes).map_err(|cause| self.failed("write", name, cause))
    }

    /// Where the disk is full, in the room that was reserved.
    fn replace(&self, name: &'static str, bytes: &[u8]) -> Result<(), Errno> {
        let replace = || directory::replace_file(self.fd(), name.as_ref(), OWN, bytes);
        match replace() {
            Err(cause) if reserve::is_full(cause) && reserve::release(self.fd()) => replace(),
            other => other,
        }
    }

    pub(super) fn failed(&self, verb: &'static str, name: &str, cause: Errno) -> ReviewError {
        ReviewError::State { verb, path: self.path.join(name), cause }
    }

    /// Drops everything.
    ///
    /// # Errors
    /// The state cannot be changed.
    pub fn discard_all(&mut self) -> Result<(), ReviewError> {
        self.lock("discard")?;
        self.empty()
    }

    /// The same when it is locked.
    pub(super) fn empty(&self) -> Result<(), ReviewError> {
        let failed = |cause| self.failed("remove", LAYERS, cause);
        // What is moved away first takes an entry of a directory, or a directory.
        reserve::release(self.fd());
        upper::move_to_trash(self.fd.as_fd(), LAYERS.as_ref()).map_err(failed)?;
        upper::move_to_trash(self.fd.as_fd(), base::BASE.as_ref()).map_err(failed)?;
        for name in [JOURNAL, RUNNING] {
            match unlinkat(&self.fd, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(cause) => return Err(self.failed("remove", name, cause)),
            }
        }
        // Whose it was stays known: `gc` removes the directory when the spec is gone.
        match renameat(&self.fd, ABOUT, &self.fd, EMPTIED) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(cause) => return Err(self.failed("remove", ABOUT, cause)),
        }
        upper::empty_trash(self.fd.as_fd()).map_err(failed)
    }
}

fn locate(spec: &Spec, caller: &Caller) -> Result<(HostPath, Source), ReviewError> {
    let workspace = reviewed(spec).ok_or_else(|| ReviewError::NotReviewed { name: spec.name.clone() })?;
    let path = caller.locate(&workspace.path.value)?;
    let source = Source::open(&path).map_err(|cause| ReviewError::Workspace {
        path: path.clone(),
        at: workspace.path.at.clone(),
        cause,
    })?;
    let real = HostPath::absolute(source.real_path()).unwrap_or(path);
    Ok((real, source))
}

/// Beside the spec's own name for its trees, a digest of the workspace.
fn directory_name(spec: &Spec, workspace: &HostPath) -> String {
    let digest: [u8; 32] = Sha256::digest(workspace.as_path().as_os_str().as_bytes()).into();
    format!("{}-{}", spec_directory(spec), Hex(&digest[..8]))
}

pub(super) fn origin(spec: &Spec) -> String {
    match spec.sources.last().map(|source| &source.origin) {
        Some(crate::spec::SourceOrigin::File(path)) => path.to_string_lossy().into_owned(),
        Some(crate::spec::SourceOrigin::BuiltIn(name)) => (*name).to_owned(),
        None => spec.name.clone(),
    }
}

fn make(parent: BorrowedFd<'_>, name: &str) -> Result<OwnedFd, Errno> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => directory::open_to_read(parent, name),
        Err(errno) => Err(errno),
    }
}
