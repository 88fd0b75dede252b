//! The host's git: plumbing commands in the host's workspace, on which the jail has no hold.
//!
//! Nothing that a repository can name is run: no hook, no filter, no monitor, no signer, no transport, no
//! editor or pager. git sees none of the caller's variables that could lead it elsewhere, and no path of the
//! workspace: it is started in the open directory. Root's git runs as the owner of the workspace, so that what
//! it writes is theirs, and what it reads cannot harm anybody else.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Output, Stdio};

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{AccessFlags, access, geteuid};

use super::error::CommitError;
use crate::path::{HostPath, printable};

/// Where programs are when PATH is not set.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Variables of the caller that git gets, beside those of the author and the committer.
const KEPT: [&str; 2] = ["TZ", "EMAIL"];
const PERSONS: [&str; 2] = ["GIT_AUTHOR_", "GIT_COMMITTER_"];

/// What git is told by its environment.
const TOLD: [(&str, &str); 8] = [
    // Its words are looked at.
    ("LC_ALL", "C"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_NO_REPLACE_OBJECTS", "1"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_EDITOR", "false"),
    ("GIT_PAGER", "cat"),
    // A partial clone fetches nothing: the second is for a git that does not know the first.
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_ALLOW_PROTOCOL", "none"),
];

/// What holds before every configuration file.
const SETTINGS: [(&str, &str); 5] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    // Some hooks are configuration in newer versions: one that answers to this is off with its event.
    ("hook.reference-transaction.enabled", "false"),
];

/// How git is called.
pub(super) struct Git {
    program: HostPath,
    workspace: OwnedFd,
    /// Whom root calls it as.
    user: Option<(u32, u32)>,
    variables: Vec<(OsString, OsString)>,
    settings: Vec<(String, String)>,
}

impl Git {
    /// For a workspace, which is open, has this path, and belongs to this user and group.
    ///
    /// # Errors
    /// There is no git.
    pub fn find(workspace: OwnedFd, path: &HostPath, owner: (u32, u32)) -> Result<Git, CommitError> {
        let search = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
        // A directory in the workspace, or a relative one, may hold what a jail made.
        let outside = |place: &Path| {
            place.is_absolute() && place.canonicalize().is_ok_and(|real| !real.starts_with(path.as_path()))
        };
        let directories: Vec<PathBuf> =
            std::env::split_paths(&search).filter(|directory| outside(directory)).collect();
        let runs = |program: &Path| program.is_file() && access(program, AccessFlags::X_OK).is_ok();
        let program = directories
            .iter()
            .map(|directory| directory.join("git"))
            .find(|program| runs(program) && outside(program))
            .and_then(HostPath::absolute)
            .ok_or(CommitError::NoGit)?;
        let user = (geteuid().is_root() && owner.0 != 0).then_some(owner);
        let kept = std::env::vars_os().filter(|(name, _)| {
            let name = name.to_string_lossy();
            KEPT.contains(&&*name) || PERSONS.iter().any(|person| name.starts_with(person))
        });
        let mut variables: Vec<(OsString, OsString)> = kept.collect();
        variables.extend(TOLD.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))));
        variables.extend(homes(user));
        variables.extend(std::env::join_paths(directories).map(|search| ("PATH".into(), search)));
        let settings = SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Ok(Git { program, workspace, user, variables, settings })
    }

    /// Adds a setting that holds before every configuration file.
    pub fn set(&mut self, key: String, value: &str) {
        self.settings.push((key, value.to_owned()));
    }

    /// Whom git runs as, when it is another user.
    pub fn user(&self) -> Option<(u32, u32)> {
        self.user
    }

    fn command(&self, arguments: &[&OsStr]) -> Command {
        let mut command = Command::new(self.program.as_path());
        command.args(arguments).env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.env("GIT_CONFIG_COUNT", self.settings.len().to_string());
        for (index, (key, value)) in self.settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        command.current_dir(here(self.workspace.as_fd()));
        // The terminal's signals are for jailmk: git sees the end of its input, and tidies up.
        command.process_group(0);
        if let Some((uid, gid)) = self.user {
            // The supplementary groups go with the user: std clears them.
            command.gid(gid).uid(uid);
        }
        command
    }

    /// What git prints; it must succeed.
    ///
    /// # Errors
    /// It does not.
    pub fn tell(&self, verb: &'static str, arguments: &[&OsStr]) -> Result<Vec<u8>, CommitError> {
        self.ask(verb, arguments, b"", &[])?.ok_or(CommitError::Answer { verb })
    }

    /// What git prints when it reads `input`; `None` when it ends with a status of `no`.
    ///
    /// # Errors
    /// It fails with another status.
    pub fn ask(
        &self,
        verb: &'static str,
        arguments: &[&OsStr],
        input: &[u8],
        no: &[i32],
    ) -> Result<Option<Vec<u8>>, CommitError> {
        let write =
            |stdin: &mut BufWriter<ChildStdin>| stdin.write_all(input).map_err(|cause| self.failed(cause));
        let (output, written) = self.talk(self.command(arguments), write)?;
        match output.status.code() {
            Some(0) => written.map(|()| Some(output.stdout)),
            Some(status) if no.contains(&status) => Ok(None),
            _ => Err(said(verb, &output)),
        }
    }

    /// What git prints when it reads what `write` writes, and has further variables; it must succeed.
    ///
    /// # Errors
    /// It does not, or `write` does not.
    pub fn feed(
        &self,
        verb: &'static str,
        arguments: &[&OsStr],
        variables: &[(&str, &OsStr)],
        write: impl FnOnce(&mut BufWriter<ChildStdin>) -> Result<(), CommitError>,
    ) -> Result<Vec<u8>, CommitError> {
        let mut command = self.command(arguments);
        command.envs(variables.iter().copied());
        let (output, written) = self.talk(command, write)?;
        match (written, output.status.success()) {
            (Ok(()), true) => Ok(output.stdout),
            // That it could not be written to is explained by what git says.
            (Ok(()) | Err(CommitError::Run { .. }), false) => Err(said(verb, &output)),
            (Err(error), _) => Err(error),
        }
    }

    /// Writes to git, and reads what it printed when it has ended. It prints to memory and not to pipes: with
    /// nobody behind them any more, the first word of a complaint would be its end, and it could not tidy up.
    fn talk(
        &self,
        mut command: Command,
        write: impl FnOnce(&mut BufWriter<ChildStdin>) -> Result<(), CommitError>,
    ) -> Result<(Output, Result<(), CommitError>), CommitError> {
        let failed = |cause| self.failed(cause);
        let (printed, complained) = (memory().map_err(failed)?, memory().map_err(failed)?);
        command.stdout(printed.try_clone().map_err(failed)?).stderr(complained.try_clone().map_err(failed)?);
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(failed)?;
        let mut stdin = BufWriter::new(child.stdin.take().expect("BUG: stdin is a pipe"));
        let written = write(&mut stdin).and_then(|()| stdin.flush().map_err(failed));
        // After a failure the rest is not written: git must see that something is missing.
        drop(stdin.into_parts());
        let status = child.wait().map_err(failed)?;
        let (stdout, stderr) = (whole(printed).map_err(failed)?, whole(complained).map_err(failed)?);
        Ok((Output { status, stdout, stderr }, written))
    }

    /// An error of the pipe, or of the start.
    pub fn failed(&self, cause: io::Error) -> CommitError {
        CommitError::Run { program: self.program.clone(), cause }
    }
}

/// A file that has no place.
fn memory() -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC;
    let made = match memfd_create(c"git", flags | MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL)) {
        // Before Linux 6.3.
        Err(Errno::EINVAL) => memfd_create(c"git", flags),
        other => other,
    };
    Ok(File::from(made?))
}

fn whole(mut file: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// An open directory, as a child process that has not executed anything yet reaches it.
fn here(directory: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

/// Where git looks for the user's own configuration: the caller's home, or that of whom root runs it as.
fn homes(user: Option<(u32, u32)>) -> Vec<(OsString, OsString)> {
    match user {
        None => {
            let kept = ["HOME", "XDG_CONFIG_HOME"].map(|name| Some((name.into(), std::env::var_os(name)?)));
            kept.into_iter().flatten().collect()
        }
        Some((uid, _)) => {
            let users = std::fs::read("/etc/passwd").unwrap_or_default();
            home_of(&users, uid).map(|home| ("HOME".into(), home)).into_iter().collect()
        }
    }
}

/// The home of a user by passwd(5): what asks further is loaded at run time, which a static program cannot.
fn home_of(users: &[u8], uid: u32) -> Option<OsString> {
    let mut homes = users.split(|byte| *byte == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let [_, _, id, _, _, home, _] = fields.as_slice() else { return None };
        (*id == uid.to_string().as_bytes()).then(|| OsStr::from_bytes(home).to_owned())
    });
    homes.find(|home| home.as_bytes().starts_with(b"/"))
}

/// The lines of git's complaint that say what is wrong; all of it when none claims to.
fn said(verb: &'static str, output: &Output) -> CommitError {
    let lines: Vec<&[u8]> =
        output.stderr.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).collect();
    let marked = |line: &&&[u8]| line.starts_with(b"fatal: ") || line.starts_with(b"error: ");
    let mut told: Vec<&[u8]> = lines.iter().filter(marked).copied().collect();
    if told.is_empty() {
        told = lines;
    }
    let told: Vec<String> = told.iter().map(|line| printable(OsStr::from_bytes(line)).to_string()).collect();
    let said = if told.is_empty() { output.status.to_string() } else { told.join("; ") };
    CommitError::Said { verb, said }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_found_by_the_number_of_the_user() {
        let users =
            b"root:x:0:0:root:/root:/bin/sh\nbroken:x:10\nme:x:1000:1000:,,,:/home/me:\nrel:x:1:1::home:";
        assert_eq!(home_of(users, 1000), Some("/home/me".into()));
        assert_eq!((home_of(users, 100), home_of(users, 1), home_of(users, 10)), (None, None, None));
    }

    #[test]
    fn of_a_complaint_the_lines_are_told_that_say_what_is_wrong() {
        let output = |stderr: &[u8]| Output {
            status: std::os::unix::process::ExitStatusExt::from_raw(1 << 8),
            stdout: Vec::new(),
            stderr: stderr.to_vec(),
        };
        let told = |stderr: &[u8]| said("try", &output(stderr)).to_string();
        assert_eq!(told(b"hint: x\n\nfatal: a\x1b[2J\nusage\n"), "cannot try: git says: fatal: a\\x1b[2J");
        assert_eq!(told(b"a\n\nb\n"), "cannot try: git says: a; b");
        assert_eq!(told(b""), "cannot try: git says: exit status: 1");
    }
}
