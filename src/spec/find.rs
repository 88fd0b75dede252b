//! A spec's name → its text, from places that only the caller and root can write to.

use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::refusal::{LookedFor, Refusal, SpecError, Unfit};
use super::{Position, SourceOrigin, builtin};
use crate::path::printable;

/// The largest spec that is read, in bytes.
pub const MAX_BYTES: u64 = 1 << 20;

/// The spec of the current directory.
const DEFAULT: &str = "jail.toml";
/// The administrator's specs.
const SYSTEM_SPECS: &str = "/etc/jailmk/specs";

/// Whose specs are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Only files that nobody but the caller and root can change.
    Owned,
    /// Any regular file: the caller has read it.
    Any,
}

/// A spec's text.
#[derive(Debug)]
pub(super) struct Found {
    pub origin: SourceOrigin,
    /// Where it was looked for, links not followed; empty for what is built in.
    pub named: PathBuf,
    /// What messages call it.
    pub shown: Arc<str>,
    /// The jail's name unless it is written.
    pub stem: String,
    pub text: Arc<str>,
}

impl Found {
    /// What relative paths in it are joined to.
    pub(super) fn directory(&self) -> Option<&Path> {
        match &self.origin {
            SourceOrigin::File(path) => path.parent(),
            SourceOrigin::BuiltIn(_) => None,
        }
    }

    pub(super) fn built_in(name: &str) -> Option<Found> {
        let (name, text) = builtin::find(name)?;
        Some(Found {
            origin: SourceOrigin::BuiltIn(name),
            named: PathBuf::new(),
            shown: format!("{name} (built in)").into(),
            stem: name.into(),
            text: text.into(),
        })
    }
}

/// The spec that the command line names.
pub(super) fn by_argument(argument: Option<&str>, trust: Trust) -> Result<Found, SpecError> {
    let name = argument.unwrap_or(DEFAULT);
    if is_path(name) {
        return by_path(name, Path::new(name), trust);
    }
    let here = PathBuf::from(format!("{name}.toml"));
    // Without this a program in the jail could write a `shell.toml` into the workspace, and the caller
    // who means the built-in spec would enter that one next time.
    match (open(&here, trust)?, installed(name, trust)?) {
        (Some(_), Some(other)) => {
            Err(SpecError::Ambiguous { name: name.into(), other: other.shown.to_string() })
        }
        (Some(found), None) | (None, Some(found)) => Ok(found),
        (None, None) => Err(not_found(name, &here)),
    }
}

/// The spec that `include` names at `at` in the spec of `directory`, or in a built-in one.
pub(super) fn by_include(
    name: &str,
    at: &Position,
    directory: Option<&Path>,
    trust: Trust,
) -> Result<Found, SpecError> {
    let refused = |source| SpecError::Refused { at: at.clone(), source };
    let included =
        |source| SpecError::Include { name: name.into(), at: at.clone(), source: Box::new(source) };
    let Some(directory) = directory else {
        return Found::built_in(name).ok_or_else(|| refused(Refusal::NotBuiltIn(name.into())));
    };
    if is_path(name) {
        // Without `.`, so that a file is always called the same.
        let path: PathBuf = directory.join(name).components().collect();
        return by_path(name, &path, trust).map_err(included);
    }
    let beside = directory.join(format!("{name}.toml"));
    let installed = installed(name, trust).map_err(included)?;
    if directory == Path::new(SYSTEM_SPECS) || Some(directory) == user_specs().as_deref() {
        return installed.ok_or_else(|| included(not_found(name, &beside)));
    }
    // Without this a program in the jail could write a `base.toml` into the workspace and so decide
    // what the spec there includes from then on.
    match (open(&beside, trust).map_err(included)?, installed) {
        (Some(found), Some(other)) if found.origin != other.origin => {
            Err(refused(Refusal::Ambiguous { name: name.into(), other: other.shown.to_string() }))
        }
        (Some(found), _) | (None, Some(found)) => Ok(found),
        (None, None) => Err(included(not_found(name, &beside))),
    }
}

/// The file that the command line names, where it does so by a path; as it is written.
pub fn path_of(argument: Option<&str>) -> Option<PathBuf> {
    Some(argument.unwrap_or(DEFAULT)).filter(|name| is_path(name)).map(PathBuf::from)
}

fn is_path(name: &str) -> bool {
    name.contains('/') || name.ends_with(".toml")
}

fn by_path(name: &str, path: &Path, trust: Trust) -> Result<Found, SpecError> {
    open(path, trust)?.ok_or_else(|| SpecError::NotFound {
        name: name.into(),
        source: LookedFor(vec![printable(path.as_os_str()).to_string()]),
    })
}

/// The caller's, the administrator's or the built-in spec of that name.
fn installed(name: &str, trust: Trust) -> Result<Option<Found>, SpecError> {
    for path in installed_paths(name) {
        if let Some(found) = open(&path, trust)? {
            return Ok(Some(found));
        }
    }
    Ok(Found::built_in(name))
}

fn installed_paths(name: &str) -> impl Iterator<Item = PathBuf> {
    let file = format!("{name}.toml");
    user_specs().into_iter().chain([PathBuf::from(SYSTEM_SPECS)]).map(move |directory| directory.join(&file))
}

/// `$XDG_CONFIG_HOME/jailmk/specs`; the variable counts only when absolute (XDG Base Directory).
fn user_specs() -> Option<PathBuf> {
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let config = variable("XDG_CONFIG_HOME").or_else(|| Some(variable("HOME")?.join(".config")))?;
    Some(config.join("jailmk/specs"))
}

fn not_found(name: &str, first: &Path) -> SpecError {
    let shown = |path: &Path| match path.is_absolute() {
        true => printable(path.as_os_str()).to_string(),
        false => format!("./{}", printable(path.as_os_str())),
    };
    let mut places = vec![shown(first)];
    places.extend(installed_paths(name).map(|path| shown(&path)));
    places.dedup();
    places.push("a built-in spec".into());
    SpecError::NotFound { name: name.into(), source: LookedFor(places) }
}

/// Reads a spec file; `None` when there is none.
pub(super) fn open(path: &Path, trust: Trust) -> Result<Option<Found>, SpecError> {
    let failed = |source| SpecError::Open { path: path.into(), source };
    let unfit = |source| SpecError::Unfit { path: path.into(), source };
    let found = std::path::absolute(path).and_then(|given| Ok((fs::canonicalize(&given)?, given)));
    let (real, given) = match found {
        // Nor is there anything in a working directory that is gone.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        result => result.map_err(failed)?,
    };
    if trust == Trust::Owned {
        // The one holds the link, the other the file; whoever can write to either chooses the spec.
        for directory in [given.parent(), real.parent()].into_iter().flatten() {
            let metadata = fs::metadata(directory).map_err(failed)?;
            directory_is_ours(&metadata, nix::unistd::geteuid().as_raw()).map_err(unfit)?;
        }
    }
    // To open a device can have effects.
    if !fs::symlink_metadata(&real).map_err(failed)?.is_file() {
        return Err(unfit(Unfit::NotRegular));
    }
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let mut file = fs::OpenOptions::new().read(true).custom_flags(flags).open(&real).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(unfit(Unfit::NotRegular));
    }
    if trust == Trust::Owned {
        file_is_ours(&metadata, nix::unistd::geteuid().as_raw()).map_err(unfit)?;
    }
    let bytes = read(&mut file).map_err(failed)?.ok_or_else(|| unfit(Unfit::TooLarge))?;
    let shown: Arc<str> = printable(path.as_os_str()).to_string().into();
    let text = String::from_utf8(bytes).map_err(|error| not_utf8(error.as_bytes(), &shown))?;
    let stem = given.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(Some(Found { origin: SourceOrigin::File(real), named: given, shown, stem, text: text.into() }))
}

fn read(file: &mut File) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= MAX_BYTES).then_some(bytes))
}

fn not_utf8(bytes: &[u8], shown: &Arc<str>) -> SpecError {
    let valid = bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    let at = super::position::Places::new(shown.clone(), valid).at(valid.len());
    SpecError::Refused { at, source: Refusal::NotUtf8 }
}

fn file_is_ours(metadata: &Metadata, caller: u32) -> Result<(), Unfit> {
    if ![0, caller].contains(&metadata.uid()) {
        return Err(Unfit::Foreign(metadata.uid()));
    }
    if writable_by_others(metadata, caller) { Err(Unfit::Writable) } else { Ok(()) }
}

/// Whether others than the caller and root may write. Group write counts unless the group is the caller's
/// private one, which many distributions give to every user, with a umask of 002.
fn writable_by_others(metadata: &Metadata, caller: u32) -> bool {
    let table = |path: &str| fs::read_to_string(path).unwrap_or_default();
    match metadata.mode() & 0o022 {
        0 => false,
        0o020 => !is_private_group(metadata.gid(), caller, &table("/etc/passwd"), &table("/etc/group")),
        _ => true,
    }
}

/// Whether `user` alone is in `group`, by passwd(5) and group(5). Users that only a directory service
/// knows are not in these files, and their groups count as shared.
fn is_private_group(group: u32, user: u32, passwd: &str, groups: &str) -> bool {
    let number = |field: Option<&str>| field.and_then(|text| text.parse::<u32>().ok());
    let mut name = None;
    for line in passwd.lines() {
        let mut fields = line.split(':');
        let (login, uid, gid) = (fields.next(), number(fields.nth(1)), number(fields.next()));
        if uid == Some(user) {
            name = login;
        } else if gid == Some(group) {
            return false;
        }
    }
    let Some(name) = name else { return false };
    let of_group = |line: &&str| number(line.split(':').nth(2)) == Some(group);
    let mut lines = groups.lines().filter(of_group).peekable();
    lines.peek().is_some()
        && lines.all(|line| {
            let members = line.split(':').nth(3).unwrap_or_default();
            members.split(',').all(|member| member.is_empty() || member == name)
        })
}

fn directory_is_ours(metadata: &Metadata, caller: u32) -> Result<(), Unfit> {
    const STICKY: u32 = 0o1000;
    if ![0, caller].contains(&metadata.uid()) {
        return Err(Unfit::ForeignDirectory(metadata.uid()));
    }
    let replaceable = writable_by_others(metadata, caller) && metadata.mode() & STICKY == 0;
    if replaceable { Err(Unfit::WritableDirectory) } else { Ok(()) }
}

/// What is wrong with the directory that holds `path`, and with the one that holds what is behind its links: whoever
/// can write to one of them can put something else there. `None` when both are the caller's or root's alone.
///
/// # Errors
/// As stat(2).
pub(crate) fn fault_of_holder(path: &Path) -> io::Result<Option<Unfit>> {
    let real = fs::canonicalize(path)?;
    for directory in [path.parent(), real.parent()].into_iter().flatten() {
        if let Err(fault) = directory_is_ours(&fs::metadata(directory)?, nix::unistd::geteuid().as_raw()) {
            return Ok(Some(fault));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_private_when_nobody_else_is_in_it() {
        let passwd =
            "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n";
        let groups = "root:x:0:\nann:x:1000:\nbob:x:1001:ann\nstaff:x:50:ann,bob\n";
        assert!(is_private_group(1000, 1000, passwd, groups));
        assert!(!is_private_group(1001, 1000, passwd, groups), "bob's primary group");
        assert!(!is_private_group(1001, 1001, passwd, groups), "ann is in it too");
        assert!(!is_private_group(50, 1000, passwd, groups));
        assert!(!is_private_group(1000, 1002, passwd, groups), "an unknown user");
        assert!(!is_private_group(1002, 1000, passwd, groups), "an unknown group");
    }
}
