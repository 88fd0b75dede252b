//! The vocabulary of the tests that start jails through the binary.
//!
//! One state directory serves all tests of a process, so that a jail is built once; everything lies in
//! one temporary directory, which goes when the process ends, however it ends. The binary sees nothing of
//! the caller's environment but what a test sets.
//!
//! On a kernel without Landlock, [`Jail::small`] and [`Jail::spec`] allow it to be missing, unless the spec
//! speaks of Landlock itself.

#![allow(dead_code, reason = "each test file uses its part of the vocabulary")]

#[path = "../need/mod.rs"]
mod need;

pub use need::*;

pub mod chance;
pub mod checks;
pub mod probe;
pub mod terminal;
pub mod weighed;
pub mod workspace;

use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// No command of a test takes longer, on the slowest kernel.
const PATIENCE: Duration = Duration::from_secs(300);

/// Debian's: what the caller has in front of it (version managers) is no part of a test.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The commands of a small jail.
const TOOLS: &str = "cat chmod dd dirname env grep head id ln ls md5sum mkdir mv readlink rm seq setsid sleep sort \
                     stat stty tail touch tr tty wc";

/// The `[rootfs]` of a small jail: busybox under the names of the usual tools. One static file, for a jail
/// with the host's dynamic programs takes the emulated machines ten times as long to build.
pub fn tools() -> String {
    let links = TOOLS.split(' ').filter(|name| !name.is_empty()).chain(["sh"]);
    let links: Vec<String> = links.map(|name| format!("\"/usr/bin/{name}\" = \"busybox\"")).collect();
    format!("[rootfs]\nprograms = [\"busybox\"]\nsymlinks = {{ {} }}\n", links.join(", "))
}

/// The binary under test.
pub fn binary() -> PathBuf {
    std::env::var_os("JAILMK_BIN").map_or_else(|| env!("CARGO_BIN_EXE_jailmk").into(), PathBuf::from)
}

/// A copy of the checkout that everyone may read.
pub fn repository() -> PathBuf {
    std::env::var_os("JAILMK_REPO").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// The directory of this process's tests.
fn ground() -> &'static Path {
    static GROUND: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (path, _) = GROUND.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("jailmk-tests.{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path).expect("make the directory of the tests");
        // Statics are not dropped: another process sees the end of this one, and tidies up.
        let sweeper = Command::new("sh")
            .args(["-c", "cat; chmod -R u+w \"$0\"; exec rm -rf \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start sh");
        (path, sweeper)
    });
    path
}

/// The state directory that the tests of this process share.
pub fn state() -> PathBuf {
    ground().join("state")
}

/// A directory of one test; removed with this value.
pub struct Place(PathBuf);

impl Place {
    /// An empty one with mode 0700.
    pub fn new() -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let path = ground().join(format!("{}", COUNT.fetch_add(1, Ordering::Relaxed)));
        fs::DirBuilder::new().mode(0o700).create(&path).expect("make a directory");
        Place(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// A directory in it, made with its parents.
    pub fn directory(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(&path).expect("make a directory");
        path
    }

    /// A file in it, made with its parents.
    pub fn file(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().expect("a file has a parent")).expect("make a directory");
        fs::write(&path, content).expect("write a file");
        path
    }

    /// The same, executable.
    pub fn program(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.file(name, content);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make a file executable");
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if fs::remove_dir_all(&self.0).is_err() && !thread::panicking() {
            let _ = Command::new("chmod").arg("-R").arg("u+rwx").arg(&self.0).status();
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

/// A spec, and how `jailmk enter` is called with it.
pub struct Jail {
    /// Where this jail's files are. `here` in it is the working directory of the caller, `home` their home.
    pub place: Arc<Place>,
    spec: PathBuf,
    options: Vec<String>,
    variables: Vec<(String, String)>,
    state: PathBuf,
    shell: Option<String>,
}

impl Jail {
    /// A jail with [`tools`] and every default, called `small`, that all tests of the process share.
    pub fn small() -> Jail {
        static SPEC: OnceLock<PathBuf> = OnceLock::new();
        let spec = SPEC.get_or_init(|| {
            let path = ground().join("small.toml");
            fs::write(&path, format!("{}{}", tools(), Jail::without_landlock(""))).expect("write a spec");
            // Before several tests want to build it at once.
            Jail::named(Place::new(), path.clone()).jailmk("build", &[]).succeeded();
            path
        });
        Jail::named(Place::new(), spec.clone())
    }

    /// The section that a spec needs on a kernel without Landlock, unless it speaks of Landlock itself.
    fn without_landlock(text: &str) -> &'static str {
        if has_landlock() || text.contains("landlock") {
            return "";
        }
        assert!(!text.contains("[hardening]"), "a spec with [hardening] must say `landlock` itself");
        "\n[hardening]\ndegrade = [\"landlock\"]\n"
    }

    /// A spec of this text, in a directory of its own. `PLACE` in it stands for [`Jail::place`].
    pub fn spec(text: impl AsRef<str>) -> Jail {
        let place = Place::new();
        let mut text = text.as_ref().replace("PLACE", place.path().to_str().expect("a UTF-8 path"));
        let hardening = Jail::without_landlock(&text);
        text.push_str(hardening);
        let spec = place.file("spec/jail.toml", text);
        Jail::named(place, spec)
    }

    /// A jail with [`tools`] and these sections, the first of which goes on with `[rootfs]`.
    pub fn tools(sections: impl AsRef<str>) -> Jail {
        Jail::spec(format!("{}{}", tools(), sections.as_ref()))
    }

    fn named(place: Place, spec: PathBuf) -> Jail {
        place.directory("here");
        place.directory("home");
        let place = Arc::new(place);
        Jail { place, spec, options: Vec::new(), variables: Vec::new(), state: state(), shell: None }
    }

    /// The spec as the command line names it.
    pub fn spec_path(&self) -> &Path {
        &self.spec
    }

    /// Passes an option of `enter`.
    pub fn option(mut self, option: impl Into<String>) -> Jail {
        self.options.push(option.into());
        self
    }

    /// Sets a variable of the caller's environment.
    pub fn variable(mut self, name: &str, value: &str) -> Jail {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Uses a state directory of this jail's own, `state` in its place, which does not exist yet.
    pub fn fresh_state(mut self) -> Jail {
        self.state = self.place.join("state");
        self
    }

    /// Uses the state directory of another jail.
    pub fn state_of(mut self, other: &Jail) -> Jail {
        self.state = other.state.clone();
        self
    }

    /// The tree that was built last.
    pub fn tree(&self) -> PathBuf {
        let output = self.jailmk("build", &["--json"]).succeeded().stdout;
        let summary: serde_json::Value = serde_json::from_str(&output).expect("build prints JSON");
        summary["tree"].as_str().expect("a tree").into()
    }

    /// Where its state is.
    pub fn state_path(&self) -> &Path {
        &self.state
    }

    /// Has sh call jailmk by this script, in which `"$@"` is the command line: for redirections, limits.
    pub fn by_shell(mut self, script: &str) -> Jail {
        self.shell = Some(script.into());
        self
    }

    /// A command line of jailmk with this jail's spec; stdin is empty.
    pub fn command(&self, subcommand: &str, rest: &[&OsStr]) -> Command {
        let binary = binary();
        let mut command = match &self.shell {
            None => Command::new(binary),
            Some(script) => {
                let mut shell = Command::new("/bin/sh");
                shell.arg("-c").arg(script).arg("sh").arg(binary);
                shell
            }
        };
        command.arg(subcommand).arg(&self.spec).args(rest);
        command.current_dir(self.place.join("here")).stdin(Stdio::null()).env_clear();
        command.env("PATH", PATH).env("HOME", self.place.join("home")).env("JAILMK_STATE", &self.state);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// The command line of `enter`.
    pub fn enter(&self, command: &[&str]) -> Command {
        let options = self.options.iter().map(OsStr::new);
        let separator = if command.is_empty() { None } else { Some(OsStr::new("--")) };
        let rest: Vec<&OsStr> = options.chain(separator).chain(command.iter().map(OsStr::new)).collect();
        self.command("enter", &rest)
    }

    /// Runs another command of jailmk with this jail's spec.
    pub fn jailmk(&self, subcommand: &str, rest: &[&str]) -> Ran {
        let rest: Vec<&OsStr> = rest.iter().map(OsStr::new).collect();
        run(self.command(subcommand, &rest))
    }

    /// Runs a command in the jail.
    pub fn run(&self, command: &[&str]) -> Ran {
        run(self.enter(command))
    }

    /// Runs a script with the jail's sh.
    pub fn sh(&self, script: &str) -> Ran {
        self.run(&["sh", "-c", script])
    }

    /// What a script that succeeds prints.
    pub fn prints(&self, script: &str) -> String {
        self.sh(script).succeeded().stdout
    }

    /// Runs a command in the jail with these bytes as its standard input, through a pipe.
    pub fn fed(&self, command: &[&str], input: &[u8]) -> Ran {
        let mut running = self.begin(command);
        running.say(input);
        running.end()
    }

    /// Starts a script with the jail's sh and goes on.
    pub fn start(&self, script: &str) -> Running {
        self.begin(&["sh", "-c", script])
    }

    /// Starts a command and goes on.
    pub fn begin(&self, command: &[&str]) -> Running {
        let mut running = Running::start(self.enter(command));
        running.place = Some(Arc::clone(&self.place));
        running
    }
}

/// How a command ended and what it wrote.
#[derive(Debug)]
pub struct Ran {
    /// Its exit status; minus the signal's number when a signal ended it.
    pub status: i32,
    /// Standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Standard output as it came.
    pub bytes: Vec<u8>,
}

impl Ran {
    fn new(status: ExitStatus, stdout: Vec<u8>, stderr: &[u8]) -> Ran {
        Ran {
            status: status.code().unwrap_or_else(|| -status.signal().unwrap_or(0)),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(stderr).into_owned(),
            bytes: stdout,
        }
    }

    /// Asserts exit status 0.
    #[track_caller]
    pub fn succeeded(self) -> Ran {
        self.ended(0)
    }

    /// Asserts an exit status.
    #[track_caller]
    pub fn ended(self, status: i32) -> Ran {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// Asserts that jailmk refused with `status`, in one message that holds `words`, and a hint.
    #[track_caller]
    pub fn refused(self, status: i32, words: &str) -> Ran {
        assert_eq!(self.status, status, "{self}");
        // What was out of date was built before.
        let mut lines = self.complaints();
        lines.retain(|line| !line.starts_with("jailmk: building "));
        let messages = lines.iter().filter(|line| !line.starts_with("hint: ")).count();
        assert!(lines.first().is_some_and(|line| line.starts_with("jailmk: cannot ")), "{self}");
        assert!(messages == 1 && lines.len() > 1, "one message and its hints: {self}");
        assert!(self.stderr.contains(words), "`{words}` is not in: {self}");
        self
    }

    /// Standard error without the lines about what this host cannot enforce.
    pub fn complaints(&self) -> Vec<&str> {
        self.stderr.lines().filter(|line| !line.starts_with("jailmk: weaker: ")).collect()
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}\n-- stdout\n{}\n-- stderr\n{}", self.status, self.stdout, self.stderr)
    }
}

/// Runs a command to its end.
pub fn run(mut command: Command) -> Ran {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start a command");
    let watch = watch(child.id());
    let output = child.wait_with_output().expect("wait for a command");
    drop(watch);
    Ran::new(output.status, output.stdout, &output.stderr)
}

/// Kills the process when it outlives our patience; until this is dropped.
pub fn watch(process: u32) -> mpsc::Sender<()> {
    let (alive, over) = mpsc::channel::<()>();
    thread::spawn(move || {
        if over.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let _ = writeln!(std::io::stderr(), "killed: a command of a test took {PATIENCE:?}");
            let _ = kill(pid(process), Signal::SIGKILL);
        }
    });
    alive
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(i32::try_from(process).expect("a process id"))
}

/// A command that runs, its stdin and stdout in our hands.
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    read: Vec<u8>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    watch: Option<mpsc::Sender<()>>,
    /// Its working directory must stay while it runs.
    place: Option<Arc<Place>>,
}

impl Running {
    /// Starts it.
    pub fn start(mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start a command");
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let mut stderr = child.stderr.take().expect("stderr is a pipe");
        let stderr = thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = stderr.read_to_end(&mut bytes);
            bytes
        });
        let watch = Some(watch(child.id()));
        Running { child, stdout, read: Vec::new(), stderr: Some(stderr), watch, place: None }
    }

    /// Its process id: the supervisor's.
    pub fn pid(&self) -> Pid {
        pid(self.child.id())
    }

    /// Waits until it prints the line `ready`.
    #[track_caller]
    pub fn ready(mut self) -> Running {
        let line = self.line();
        if line != "ready" {
            panic!("not ready: {}", self.end());
        }
        self
    }

    /// The next line that it prints, without its end; empty at the end.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.stdout.read_until(b'\n', &mut line).expect("read stdout");
        self.read.extend_from_slice(&line);
        String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned()
    }

    /// Writes to its standard input.
    pub fn say(&mut self, bytes: &[u8]) {
        let mut stdin = self.child.stdin.take().expect("stdin is a pipe");
        // Beside the reading, or both sides could wait for each other.
        let bytes = bytes.to_owned();
        thread::spawn(move || stdin.write_all(&bytes));
    }

    /// Kills it after a while, and waits for its end.
    pub fn killed_after(mut self, pause: Duration) {
        thread::sleep(pause);
        self.signal(Signal::SIGKILL);
        self.say(b"");
    }

    /// Waits until `done`, or until it has ended before.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut done: impl FnMut() -> bool) {
        until(what, || done() || !matches!(self.child.try_wait(), Ok(None)));
    }

    /// Writes a little to its standard input, which stays open.
    pub fn say_more(&mut self, bytes: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("stdin is a pipe");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).expect("write to a command");
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signal a command");
    }

    /// Waits for its end. Its stdin ends now, unless something was said.
    pub fn end(mut self) -> Ran {
        drop(self.child.stdin.take());
        let mut rest = Vec::new();
        self.stdout.read_to_end(&mut rest).expect("read stdout");
        self.read.append(&mut rest);
        let stderr = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
        let status = self.child.wait().expect("wait for a command");
        self.watch = None;
        Ran::new(status, std::mem::take(&mut self.read), &stderr)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process with this in its command line runs on the host: jails show up there.
pub fn runs(words: &str) -> bool {
    let processes = fs::read_dir("/proc").expect("read /proc").flatten();
    let mut lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.any(|line| line.windows(words.len()).any(|window| window == words.as_bytes()))
}

/// A child of a process: the jail's first process, of a supervisor.
pub fn child_of(parent: Pid) -> Option<Pid> {
    let is_child = |pid: &Pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("PPid:\t{parent}"))
    };
    let processes = fs::read_dir("/proc").expect("read /proc").flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok().map(Pid::from_raw));
    pids.find(is_child)
}

/// Waits until `done`, as long as our patience lasts.
#[track_caller]
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 10 {
        if done() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("never happened: {what}");
}

/// Whether a file system is mounted at or below `path`, in this process's view.
pub fn mounted_below(path: &Path) -> bool {
    let table = fs::read("/proc/self/mountinfo").expect("read mountinfo");
    let mut places = table.split(|byte| *byte == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    places.any(|place| Path::new(OsStr::from_bytes(place)).starts_with(path))
}
