//! The command line: arguments → the stages → an exit status.

mod build;
mod check;
mod ending;
mod enter;
mod gc;
mod inspect;
mod progress;
mod review;
mod sbom;
mod screen;
mod why;

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use nix::unistd::{geteuid, getresgid, getresuid};

use crate::error::{Report, StageError, status};
use crate::exposure::Points;
use crate::inherited;
use crate::spec::{Spec, SpecError, Trust};
use crate::sys::process;

/// Below the options of `jailmk --help`.
const START: &str = "\
Start here:
  jailmk check          what this host can enforce; with a spec, what that leaves open
  jailmk enter shell    a shell that sees nothing of this host
  jailmk init           a spec for this directory, to be edited

The manual: man jailmk, man jailmk-enter, man jailmk-spec";

/// Builds a minimal root filesystem and locks a coding agent or a server into it.
#[derive(Debug, Parser)]
#[command(name = "jailmk", version, disable_help_subcommand = true, max_term_width = 100, after_help = START)]
struct Arguments<Commands: FromArgMatches + Subcommand> {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Resolve a spec and assemble its root filesystem
    Build(Build),
    #[command(flatten)]
    Enter(OnlyEnter),
    /// Show what jails changed in a reviewed workspace
    Diff(Diff),
    /// Bring changes over to the host
    Apply(Apply),
    /// Drop changes
    Discard(Discard),
    /// List the jails that hold changes
    Status(Status),
    /// Print what programs load; nothing is executed
    Tree(Tree),
    /// Say why a path is in the jail, or why not and what would bring it
    Why(Why),
    /// List what a jail is made of, for scanners: every file and the package that owns it
    Sbom(Sbom),
    /// Compare a built root filesystem with its lock, byte for byte
    Verify(Verify),
    /// Remove trees that no spec uses any more, and files that no tree uses
    Gc(Gc),
    /// Try what this host can enforce and name cures, or weigh what a spec leaves open
    Check(Check),
    /// Write a commented spec for this directory
    Init(Init),
    /// Print the JSON Schema of the spec
    Schema,
    /// Print a completion script for a shell
    Completions(Completions),
}

/// The command whose start is not to wait until the others' options are defined.
#[derive(Debug, Subcommand)]
enum OnlyEnter {
    /// Run a command in the jail, building it first when needed
    Enter(Enter),
}

/// What the command line asks for; where it is wrong, a message and the end of the process.
fn parse() -> Command {
    match std::env::args_os().nth(1) {
        Some(first) if first == "enter" => Command::Enter(Arguments::<OnlyEnter>::parse().command),
        _ => Arguments::<Command>::parse().command,
    }
}

/// The spec that a command works on.
#[derive(Debug, Args)]
struct SpecArgument {
    /// A path, or a name in ./, ~/.config/jailmk/specs/, /etc/jailmk/specs/ or built in [default: ./jail.toml]
    #[arg(value_name = "SPEC")]
    spec: Option<String>,
    /// Use a spec that others than you and root could have changed
    #[arg(long)]
    trust_spec: bool,
}

impl SpecArgument {
    fn load(&self) -> Result<Spec, SpecError> {
        let trust = if self.trust_spec { Trust::Any } else { Trust::Owned };
        crate::spec::load(self.spec.as_deref(), trust)
    }

    /// The file that is named, if it is by a path.
    fn path(&self) -> Option<PathBuf> {
        crate::spec::path_of(self.spec.as_deref())
    }

    /// What to type behind another command for the same spec: a blank and the arguments, or nothing.
    fn again(&self) -> String {
        let trust = if self.trust_spec { " --trust-spec" } else { "" };
        let spec = self.spec.as_deref().map(|spec| format!(" {}", quoted(spec))).unwrap_or_default();
        format!("{trust}{spec}")
    }
}

/// A word for a shell, in quotes where it needs them.
fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@%:,=".contains(&byte);
    match word.bytes().all(plain) && !word.is_empty() {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

#[derive(Debug, Args)]
struct Build {
    #[command(flatten)]
    spec: SpecArgument,
    /// Make the tree in DIR, and its lock file DIR.lock, instead of in jailmk's state
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Take files from another root than /
    #[arg(long, value_name = "ROOT", requires = "output")]
    from: Option<PathBuf>,
    /// Fail if the result differs from the lock file beside the spec
    #[arg(long)]
    locked: bool,
    /// Print what the jail would hold, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print the ten largest files too
    #[arg(short, long, conflicts_with = "json")]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Enter {
    #[command(flatten)]
    spec: SpecArgument,
    /// Print the steps and do nothing
    #[arg(long)]
    plan: bool,
    /// End the command after this time, such as 90s, 30m or 1h30m; exit status 124
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    timeout: Option<Duration>,
    /// Write JSON lines about the start and the end of the jail to descriptor N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    json_status_fd: Option<i32>,
    /// What runs instead of the spec's command
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Diff {
    #[command(flatten)]
    spec: SpecArgument,
    /// Print a patch that `git apply` takes
    #[arg(short, long, conflicts_with_all = ["json", "stat"])]
    patch: bool,
    /// Count changed lines
    #[arg(long, conflicts_with = "json")]
    stat: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// In the workspace; only what is at or below it
    #[arg(last = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Apply {
    #[command(flatten)]
    spec: SpecArgument,
    /// Show each change and ask; a file can be taken in parts
    #[arg(short, long)]
    interactive: bool,
    /// Apply protected changes at or below PATH as well
    #[arg(long, value_name = "PATH")]
    protected: Vec<OsString>,
    /// Take the jail's side where the host's file has changed too
    #[arg(long)]
    overwrite: bool,
    /// Merge text files that both sides changed, where no line was changed by both
    #[arg(long, conflicts_with_all = ["overwrite", "interactive"])]
    merge: bool,
    /// Make a commit on a branch of the workspace's git repository, and leave its files as they are
    #[arg(long, value_name = "MESSAGE", conflicts_with = "merge")]
    commit: Option<String>,
    /// The branch of the commit [default: jailmk/NAME, with the jail's name]
    #[arg(long, value_name = "BRANCH", requires = "commit")]
    branch: Option<String>,
    /// In the workspace; only what is at or below it
    #[arg(last = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Discard {
    #[command(flatten)]
    spec: SpecArgument,
    /// In the workspace; only what is at or below it
    #[arg(last = true, value_name = "PATH")]
    paths: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Tree {
    /// Names looked up as `programs` of a spec are, or paths
    #[arg(required = true, value_name = "PROGRAM")]
    programs: Vec<OsString>,
    /// Resolve as with LIST in LD_LIBRARY_PATH; the variable itself is not looked at
    #[arg(long, value_name = "LIST")]
    library_path: Option<OsString>,
    /// Print one host path a line
    #[arg(long, conflicts_with = "json")]
    paths: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Why {
    #[command(flatten)]
    spec: SpecRequired,
    /// A path in the jail, or the name of a program
    path: PathBuf,
    /// Take files from another root than /
    #[arg(long, value_name = "ROOT")]
    from: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Sbom {
    #[command(flatten)]
    spec: SpecArgument,
    /// The document's format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Format::Spdx)]
    format: Format,
    /// Take files from another root than /
    #[arg(long, value_name = "ROOT")]
    from: Option<PathBuf>,
}

/// Formats of an inventory.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    /// SPDX 2.3, JSON
    Spdx,
    /// CycloneDX 1.6, JSON
    Cyclonedx,
}

#[derive(Debug, Args)]
struct SpecRequired {
    /// A path, or a name in ./, ~/.config/jailmk/specs/, /etc/jailmk/specs/ or built in
    #[arg(value_name = "SPEC")]
    spec: String,
    /// Use a spec that others than you and root could have changed
    #[arg(long)]
    trust_spec: bool,
}

impl SpecRequired {
    fn load(&self) -> Result<Spec, SpecError> {
        let trust = if self.trust_spec { Trust::Any } else { Trust::Owned };
        crate::spec::load(Some(&self.spec), trust)
    }
}

#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    spec: SpecArgument,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Gc {
    /// Remove every tree that no jail runs from; the next enter builds it anew
    #[arg(long)]
    all: bool,
    /// Tell what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Check {
    /// Say what this spec leaves open, and whether this host can enforce it
    #[arg(value_name = "SPEC")]
    spec: Option<String>,
    /// Use a spec that others than you and root could have changed
    #[arg(long, requires = "spec")]
    trust_spec: bool,
    /// Fail when the spec's exposure is above N, from 0 to 10
    #[arg(long, value_name = "N", requires = "spec", value_parser = parse_points)]
    threshold: Option<Points>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Init {
    /// The jail's name [default: the directory's]
    name: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

fn parse_time(text: &str) -> Result<Duration, String> {
    crate::spec::parse_duration(text).map_err(|error| error.to_string())
}

fn parse_points(text: &str) -> Result<Points, String> {
    let points = text.parse::<f64>().ok().filter(|points| (0.0..=10.0).contains(points));
    let points = points.ok_or("a number from 0 to 10, such as 2.5")?;
    // Rounded down: a threshold must not let more through than it says.
    Ok(Points((points * 10.0 + 1e-9).floor() as u32))
}

/// The definition that help texts, completions and the manual's test are made from.
pub fn definition() -> clap::Command {
    Arguments::<Command>::command()
}

/// What a command came to: its exit status, or the error that is shown.
type Outcome = Result<u8, Failure>;

/// An error that ends a command.
struct Failure {
    error: Box<dyn StageError>,
    status: u8,
    /// Whether `--json-status-fd` has been told of it.
    told: bool,
}

impl Failure {
    fn new(status: u8, error: impl StageError + 'static) -> Failure {
        Failure { error: Box::new(error), status, told: false }
    }
}

impl Failure {
    /// The same error, as a failure of another command than `enter`.
    fn of_other(self) -> Failure {
        Failure { status: 1, ..self }
    }

    /// The same error, as a failure of `enter`, where every one of jailmk's own has one status.
    fn of_enter(self) -> Failure {
        Failure { status: status::FAILED, ..self }
    }
}

/// Any other command than `enter` fails with 1.
impl<E: StageError + 'static> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::new(1, error)
    }
}

/// Standard output cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output")]
struct OutputError(#[source] io::Error);

impl StageError for OutputError {}

/// Writes to standard output; a reader that has gone away wants no more.
fn print(text: impl std::fmt::Display) -> Result<(), OutputError> {
    let mut out = io::stdout().lock();
    match write!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(OutputError(error)),
        _ => Ok(()),
    }
}

/// One line to the person in front of the terminal.
fn say(text: impl std::fmt::Display) {
    complain(format_args!("jailmk: {text}"));
}

/// Whole lines on standard error, by one call: others write to the same log.
fn complain(text: impl std::fmt::Display) {
    // A closed stderr is the caller's wish.
    let _ = io::stderr().lock().write_all(format!("{text}\n").as_bytes());
}

/// The program has privileges that its caller has not.
#[derive(Debug, thiserror::Error)]
#[error("cannot run with privileges from the file: it is setuid or setgid, or has capabilities")]
struct PrivilegedError;

impl StageError for PrivilegedError {
    fn hints(&self) -> Vec<String> {
        vec!["jailmk needs none: chmod u-s,g-s, or setcap -r, on the program".into()]
    }
}

/// Specs, paths and the environment are the caller's word; with another's rights they would be everybody's.
/// Where only an LSM has changed the domain, nothing was gained.
fn refuse_privilege() -> Result<(), PrivilegedError> {
    if !process::is_privileged_by_file() {
        return Ok(());
    }
    let users = getresuid().map_or(true, |ids| ids.real != ids.effective || ids.real != ids.saved);
    let groups = getresgid().map_or(true, |ids| ids.real != ids.effective || ids.real != ids.saved);
    let gained = !geteuid().is_root()
        && caps::read(None, caps::CapSet::Permitted).map_or(true, |permitted| !permitted.is_empty());
    if users || groups || gained { Err(PrivilegedError) } else { Ok(()) }
}

/// Runs the command line of this process.
pub fn run() -> ExitCode {
    if let Err(error) = inherited::settle() {
        return refused(&error);
    }
    let command = parse();
    if let Err(refusal) = refuse_privilege() {
        return refused(&refusal);
    }
    let outcome = match command {
        Command::Build(build) => build.run(),
        Command::Enter(OnlyEnter::Enter(enter)) => enter.run(),
        Command::Diff(diff) => diff.run(),
        Command::Apply(apply) => apply.run(),
        Command::Discard(discard) => discard.run(),
        Command::Status(status) => status.run(),
        Command::Tree(tree) => tree.run(),
        Command::Why(why) => why.run(),
        Command::Sbom(sbom) => sbom.run(),
        Command::Verify(verify) => verify.run(),
        Command::Gc(gc) => gc.run(),
        Command::Check(check) => check.run(),
        Command::Init(init) => init.run(),
        Command::Schema => inspect::schema(),
        Command::Completions(completions) => completions.run(),
    };
    match outcome {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            complain(Report(&*failure.error));
            ExitCode::from(failure.status)
        }
    }
}

/// Before any command.
fn refused(error: &dyn StageError) -> ExitCode {
    complain(Report(error));
    ExitCode::from(status::FAILED)
}

impl Completions {
    fn run(self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut definition(), "jailmk", &mut script);
        print(String::from_utf8_lossy(&script))?;
        Ok(0)
    }
}

/// As [`From`], for `enter`.
fn failed(error: impl StageError + 'static) -> Failure {
    Failure::from(error).of_enter()
}
