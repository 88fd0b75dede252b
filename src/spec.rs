//! The spec: text → [`Spec`], every key typed, every value that a later stage may have to complain
//! about with its place in the file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::path::JailPath;

pub mod builtin;
mod document;
mod field;
pub mod find;
mod init;
pub mod keys;
mod load;
mod position;
mod read;
pub mod refusal;
mod schema;
pub mod value;

pub(crate) use find::fault_of_holder;
pub use find::{Trust, path_of};
pub use init::init_text;
pub use load::{load, parse};
pub use refusal::{Refusal, SpecError};
pub use schema::json_schema;
pub use value::{ValueError, duration as parse_duration};

/// The file that names the resolvers, as resolv.conf(5).
pub const RESOLVER: &str = "/etc/resolv.conf";

/// Where the jail sees its workspace.
pub const WORKSPACE: &str = "/workspace";

/// Where a value stands: for messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The file as it is named in messages (`spec.toml`, or `base (built in)`).
    pub file: Arc<str>,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// What was written.
    pub value: T,
    /// Where it was written.
    pub at: Position,
}

/// A spec with its includes merged in.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The jail's name: the host name inside, and what messages call it.
    pub name: String,
    /// Every text that went into it, the spec itself last.
    pub sources: Vec<Source>,
    /// `[rootfs]`
    pub rootfs: RootfsSpec,
    /// `[process]`
    pub process: Process,
    /// `[workspace]`, absent unless written.
    pub workspace: Option<Workspace>,
    /// `[[mount]]`
    pub mounts: Vec<Mount>,
    /// `[tmpfs]`: writable places of their own size, in bytes.
    pub tmpfs: BTreeMap<JailPath, u64>,
    /// `[limits]`
    pub limits: Limits,
    /// `[network]`
    pub network: Network,
    /// `[hardening]`
    pub hardening: Hardening,
}

impl Spec {
    /// Whether `files` or a mount of the spec names this path of the jail.
    pub fn brings(&self, path: &str) -> bool {
        let file = |rule: &Placed<FileRule>| match &rule.value {
            FileRule::Glob { pattern, .. } => pattern == path,
            FileRule::Copy { to, .. } | FileRule::Content { to, .. } => to.as_path() == Path::new(path),
        };
        self.rootfs.files.iter().any(file) || self.mounts.iter().any(|m| m.to.as_path() == Path::new(path))
    }
}

/// One spec text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it was found.
    pub origin: SourceOrigin,
    /// Where it was looked for: absolute, links not followed; empty for what is built in.
    pub named: PathBuf,
    /// Its bytes.
    pub text: Arc<str>,
}

/// Where a spec text comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceOrigin {
    /// A file; the path is absolute.
    File(PathBuf),
    /// A spec embedded in the binary, by name.
    BuiltIn(&'static str),
}

/// `[rootfs]`: what is in the jail's tree.
#[derive(Clone, Debug, Default)]
pub struct RootfsSpec {
    /// The root of the tree that everything is taken from: absolute, or relative to the spec's directory
    /// and already joined to it; the host's own when absent.
    pub from: Option<Placed<PathBuf>>,
    /// Names looked up in the fixed search path, or absolute paths.
    pub programs: Vec<Placed<String>>,
    /// Sonames, looked up as the loader would for a dlopen.
    pub libraries: Vec<Placed<String>>,
    /// Features of dlopen notes to follow, or with `!` in front to leave out: globs, the last holds.
    pub dlopen: Vec<Placed<String>>,
    /// Files to copy or to write.
    pub files: Vec<Placed<FileRule>>,
    /// Globs of jail paths that `files` and `packages` leave out.
    pub exclude: Vec<Placed<String>>,
    /// Packages of the distribution, all of whose files are taken.
    pub packages: Vec<Placed<String>>,
    /// Symbolic links to make: path → target as written.
    pub symlinks: BTreeMap<JailPath, Placed<PathBuf>>,
    /// Directories to make.
    pub directories: Vec<Placed<JailPath>>,
}

/// One element of `files`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileRule {
    /// A glob of absolute paths, copied to the same paths.
    Glob {
        /// The pattern.
        pattern: String,
        /// `optional = true`: no match is no error.
        optional: bool,
    },
    /// One file or tree, copied elsewhere.
    Copy {
        /// Where it is: absolute, or relative to the spec's directory and already joined to it.
        from: PathBuf,
        /// Where it goes.
        to: JailPath,
        /// Permission bits; the file's own (without setuid, setgid and write) when absent.
        mode: Option<u32>,
        /// `optional = true`: a missing file is no error.
        optional: bool,
    },
    /// A file written out in the spec.
    Content {
        /// Its bytes.
        content: String,
        /// Where it goes.
        to: JailPath,
        /// Permission bits; 0444 when absent.
        mode: Option<u32>,
    },
}

/// `[process]`: what runs.
#[derive(Clone, Debug)]
pub struct Process {
    /// Program and arguments; default `sh`.
    pub command: Vec<String>,
    /// Working directory; default the workspace, else the home directory.
    pub directory: Option<JailPath>,
    /// The user's name inside; its uid and gid are 1000, its home `/home/NAME`.
    pub user: String,
    /// Variables set.
    pub env: BTreeMap<String, String>,
    /// Variables taken from the caller.
    pub pass_env: Vec<String>,
}

impl Process {
    /// The user's home directory inside.
    pub fn home(&self) -> JailPath {
        JailPath::root().child("home".as_ref()).child(self.user.as_ref())
    }
}

/// `[workspace]`: the host directory that the jail works on, seen at `/workspace`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// On the host; relative to where `enter` is called.
    pub path: Placed<PathBuf>,
    /// How it is given.
    pub mode: WorkspaceMode,
    /// Globs, from the top of the workspace, of what is empty inside.
    pub hide: Vec<Placed<String>>,
    /// Globs of what `apply` holds back beside the built-in list.
    pub protect: Vec<Placed<String>>,
}

/// How the workspace is given to the jail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkspaceMode {
    /// Writes go to a copy beside; `apply` brings them to the host.
    Review,
    /// Writes reach the host at once.
    Direct,
    /// No writes.
    ReadOnly,
}

/// One `[[mount]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// On the host: `~` stands for the caller's home, relative is relative to where `enter` is called.
    pub from: Placed<PathBuf>,
    /// In the jail.
    pub to: JailPath,
    /// Whether the jail may write there.
    pub access: Access,
    /// Whether files there may be executed; default yes.
    pub exec: bool,
    /// Make the host directory when it is missing.
    pub create: bool,
    /// Leave the mount out when `from` is missing.
    pub optional: bool,
}

/// What the jail may do with a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `read-only`
    ReadOnly,
    /// `read-write`
    ReadWrite,
}

/// `[limits]`; `None` is "not written", which gets jailmk's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// Bytes: cgroup v2 memory.max.
    pub memory: Option<u64>,
    /// Bytes: cgroup v2 memory.swap.max; default 0.
    pub swap: Option<u64>,
    /// Processors: cgroup v2 cpu.max.
    pub cpus: Option<f64>,
    /// Processes and threads: cgroup v2 pids.max.
    pub processes: Option<u64>,
    /// Share of processors and disks against other groups: cgroup v2 cpu.weight, io.weight.
    pub weight: Option<u64>,
    /// Descriptors a process may hold: RLIMIT_NOFILE, soft and hard.
    pub open_files: Option<u64>,
    /// Bytes that the jail's own places hold together, and the largest file anywhere: RLIMIT_FSIZE.
    pub disk: Option<u64>,
    /// Wall clock.
    pub time: Option<Duration>,
}

/// `[network] mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// A new network namespace: loopback only, and no TCP even there where the kernel can forbid it.
    None,
    /// A new network namespace in which the jail's processes reach each other over loopback.
    Loopback,
    /// The host's network.
    Host,
}

/// `[hardening]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hardening {
    /// Whether Landlock must be there.
    pub landlock: Demand,
    /// Which system call filter.
    pub seccomp: SeccompProfile,
    /// Capabilities, within the jail's own namespaces, that the command keeps.
    pub keep: Vec<Capability>,
    /// Layers that may be missing.
    pub degrade: Vec<Degradable>,
}

/// How much a layer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// It must be there, or `enter` fails.
    Required,
    /// It is used as far as the kernel has it; one line says what is weaker.
    BestEffort,
    /// It is not used; one line says so.
    Off,
}

/// `[hardening] seccomp`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeccompProfile {
    /// For agents: compilers, interpreters, debuggers of own children.
    Default,
    /// For daemons: no ptrace, no new executable memory tricks, no exotic calls.
    Strict,
    /// The default, tightened by a profile in OCI's format.
    File(SeccompFile),
}

/// A profile in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeccompFile {
    /// Absolute, or relative to the spec's directory and already joined to it.
    pub path: PathBuf,
    /// Where the spec names it.
    pub at: Position,
    /// What is in it; empty in a spec that was only parsed.
    pub text: Arc<str>,
}

/// A capability that `keep` may name: of all there are those that mean something in a jail, where one id is
/// mapped and the kernel asks most of the others of the host's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// To listen on ports below 1024 of the jail's own network.
    NetBindService,
    /// To narrow one's own view of the tree further.
    SysChroot,
}

impl Capability {
    /// As the spec writes it: capabilities(7) without `CAP_`, in small letters.
    pub fn name(self) -> &'static str {
        match self {
            Capability::NetBindService => "net_bind_service",
            Capability::SysChroot => "sys_chroot",
        }
    }
}

/// A layer that `degrade` may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Degradable {
    /// Limits by cgroup v2.
    Cgroup,
    /// Landlock.
    Landlock,
}
