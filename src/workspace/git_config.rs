//! Files and directories of a workspace that the host's git configuration names: git runs or obeys them as it
//! does what lies in `.git`.
//!
//! The files are read here: git is not asked, which would cost a process and could run what they say. Read are
//! the configuration of the repository that the workspace is or lies in, the user's own, and what these include,
//! whatever the condition.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::path::WorkPath;
use crate::rootfs::without_dots;

/// What such a path is.
pub const NAMED: &str = "named by git's configuration";

/// Files that are read, and bytes of each.
const FILES: usize = 32;
const BYTES: u64 = 1 << 20;

/// Paths that are kept of a hostile configuration.
const PATHS: usize = 256;

/// A setting, without the part of its section that is in quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// In small letters.
    pub section: String,
    /// In small letters.
    pub key: String,
    /// Without quotes and escapes.
    pub value: Vec<u8>,
}

/// What a value names.
enum Value {
    /// A file or directory, from the top of the working tree.
    Path,
    /// Another configuration, from the directory of this one.
    Include,
    /// Words of a command, some of which may be files.
    Command,
}

/// The paths in a workspace, which is a real path, that the configuration names.
pub fn named(workspace: &Path) -> BTreeSet<WorkPath> {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let (top, mut files) = of_repository(workspace);
    if let Some(home) = &home {
        let config = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
        files.push(config.unwrap_or_else(|| home.join(".config")).join("git/config"));
        files.push(home.join(".gitconfig"));
    }
    let place = Place { workspace, top: &top, home: home.as_deref() };
    let mut found = BTreeSet::new();
    let mut next = 0;
    while let Some(file) = files.get(next).cloned().filter(|_| next < FILES) {
        next += 1;
        for setting in settings(&read(&file)) {
            if found.len() > PATHS {
                return found;
            }
            match value_of(&setting) {
                Some(Value::Path) => place.add(&place.path(&top, &setting.value), &mut found),
                Some(Value::Include) => {
                    let path = place.path(file.parent().unwrap_or(&top), &setting.value);
                    place.add(&path, &mut found);
                    if !files.contains(&path) {
                        files.push(path);
                    }
                }
                Some(Value::Command) => place.add_words(&setting.value, &mut found),
                None => {}
            }
        }
    }
    found
}

/// The top of the working tree that a directory lies in, and the repository's files.
fn of_repository(workspace: &Path) -> (PathBuf, Vec<PathBuf>) {
    for top in workspace.ancestors() {
        let git = top.join(".git");
        let Ok(metadata) = fs::metadata(&git) else { continue };
        let directory = if metadata.is_dir() { git } else { top.join(link(&git, "gitdir: ")) };
        let common = directory.join("commondir");
        let common = match common.exists() {
            true => directory.join(link(&common, "")),
            false => directory.clone(),
        };
        return (top.to_owned(), vec![common.join("config"), directory.join("config.worktree")]);
    }
    // It may be a repository itself.
    (
        workspace.to_owned(),
        vec![workspace.join("config")].into_iter().filter(|_| workspace.join("HEAD").exists()).collect(),
    )
}

/// Where a file of git's says that something is.
fn link(file: &Path, prefix: &str) -> PathBuf {
    let text = read(file);
    let path = text.strip_prefix(prefix.as_bytes()).unwrap_or(&text).trim_ascii_end();
    PathBuf::from(OsStr::from_bytes(path))
}

/// What a regular file holds; nothing of what is none, or cannot be read.
fn read(path: &Path) -> Vec<u8> {
    let mut text = Vec::new();
    // Looked at before it is opened: opening a device could do something.
    if fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        let file: std::io::Result<File> =
            OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
        if let Ok(file) = file {
            // To look leaves no trace; of somebody else's file it may.
            let _ = fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NOATIME));
            // What was read before an error counts.
            let _ = file.take(BYTES).read_to_end(&mut text);
        }
    }
    text
}

struct Place<'a> {
    workspace: &'a Path,
    top: &'a Path,
    home: Option<&'a Path>,
}

impl Place<'_> {
    fn path(&self, from: &Path, value: &[u8]) -> PathBuf {
        let path = match (value.strip_prefix(b"~/"), self.home) {
            (Some(rest), Some(home)) => home.join(OsStr::from_bytes(rest)),
            _ => from.join(OsStr::from_bytes(value)),
        };
        without_dots(&path)
    }

    /// As it is written, and where that leads now.
    fn add(&self, path: &Path, found: &mut BTreeSet<WorkPath>) {
        for path in [Some(path.to_owned()), path.canonicalize().ok()].into_iter().flatten() {
            let below = path.strip_prefix(self.workspace).ok().and_then(|below| WorkPath::new(below).ok());
            found.extend(below.filter(|below| !below.is_too_long()));
        }
    }

    /// A word with a slash is a path, any other when there is such a file; a directory is none that is run.
    fn add_words(&self, value: &[u8], found: &mut BTreeSet<WorkPath>) {
        let between = |byte: &u8| byte.is_ascii_whitespace() || b"!|&;<>()\"'`$={}".contains(byte);
        for word in value.split(between).filter(|word| !word.is_empty()).take(PATHS) {
            let path = self.path(self.top, word);
            if path.is_file() || word.contains(&b'/') && !path.is_dir() {
                self.add(&path, found);
            }
            // Behind `$(git rev-parse --show-toplevel)`.
            let below = self
                .top
                .join(OsStr::from_bytes(word.trim_ascii_start().strip_prefix(b"/").unwrap_or_default()));
            if word.starts_with(b"/") && below.is_file() {
                self.add(&without_dots(&below), found);
            }
        }
    }
}

/// See git-config(1): what is run, and what says what is run.
fn value_of(setting: &Setting) -> Option<Value> {
    let command = match (setting.section.as_str(), setting.key.as_str()) {
        ("core", "hookspath" | "attributesfile") | ("init", "templatedir") => return Some(Value::Path),
        ("gpg", "allowedsignersfile") => return Some(Value::Path),
        ("include" | "includeif", "path") => return Some(Value::Include),
        ("core", "fsmonitor" | "sshcommand" | "gitproxy" | "editor" | "pager" | "askpass") => true,
        ("core", "alternaterefscommand") | ("sequence", "editor") | ("pager", _) => true,
        ("alias", _) | ("submodule", "update") => setting.value.trim_ascii_start().starts_with(b"!"),
        ("filter", "clean" | "smudge" | "process") => true,
        ("diff", "external" | "textconv" | "command") | ("merge", "driver") => true,
        ("mergetool" | "difftool" | "browser" | "man" | "guitool", "cmd" | "path") => true,
        ("gpg", "program" | "defaultkeycommand") | ("credential", "helper") => true,
        ("interactive", "difffilter") | ("uploadpack", "packobjectshook") | ("hook", "command") => true,
        ("remote", "uploadpack" | "receivepack") | ("trailer", "command" | "cmd") => true,
        ("tar", "command") | ("imap", "tunnel") | ("lfs", "path") | ("sendemail", "smtpserver") => true,
        ("sendemail", key) => key.ends_with("cmd"),
        _ => false,
    };
    command.then_some(Value::Command)
}

/// The settings in a file of git's; a line that git would refuse is passed over.
pub fn settings(text: &[u8]) -> Vec<Setting> {
    let mut text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).iter().copied().peekable();
    let mut settings = Vec::new();
    let mut section = String::new();
    while let Some(byte) = text.next() {
        match byte {
            b'[' => section = header(&mut text),
            byte if byte.is_ascii_alphabetic() => {
                let mut key = String::from(byte.to_ascii_lowercase() as char);
                while let Some(byte) = text.next_if(|byte| byte.is_ascii_alphanumeric() || *byte == b'-') {
                    key.push(byte.to_ascii_lowercase() as char);
                }
                while text.next_if(|byte| matches!(byte, b' ' | b'\t' | b'\r')).is_some() {}
                if text.next_if_eq(&b'=').is_some() {
                    settings.push(Setting { section: section.clone(), key, value: value(&mut text) });
                }
            }
            byte if byte.is_ascii_whitespace() => {}
            // A comment, or what git refuses.
            _ => drop(text.by_ref().find(|byte| *byte == b'\n')),
        }
    }
    settings
}

type Bytes<'a> = std::iter::Peekable<std::iter::Copied<std::slice::Iter<'a, u8>>>;

/// The name of a section, up to a dot or blank; behind the `[`, and up to the `]`.
fn header(text: &mut Bytes<'_>) -> String {
    let mut name = String::new();
    let (mut named, mut quoted) = (false, false);
    while let Some(byte) = text.next_if(|byte| *byte != b'\n') {
        match byte {
            b']' if !quoted => break,
            b'"' => quoted = !quoted,
            b'\\' if quoted => drop(text.next()),
            b'.' | b' ' | b'\t' => named = true,
            byte if !named => name.push(byte.to_ascii_lowercase() as char),
            _ => {}
        }
    }
    name
}

fn value(text: &mut Bytes<'_>) -> Vec<u8> {
    let mut value = Vec::new();
    let mut quoted = false;
    while let Some(byte) = text.next() {
        match byte {
            b'\n' => break,
            b'#' | b';' if !quoted => {
                let _ = text.by_ref().find(|byte| *byte == b'\n');
                break;
            }
            b'"' => quoted = !quoted,
            b'\\' => match text.next() {
                Some(b'\r') => drop(text.next_if_eq(&b'\n')),
                Some(b'\n') | None => {}
                Some(b'n') => value.push(b'\n'),
                Some(b't') => value.push(b'\t'),
                Some(byte) => value.push(byte),
            },
            byte => value.push(byte),
        }
    }
    value.trim_ascii().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_as_git_reads_them() {
        let text = b"\xef\xbb\xbf; x = y\n[Core] HooksPath = a/b ; c\n\tfsmonitor\n pager = \"a # b\" \\\n  c\n[include \"x]\\\"y\"]path=..\\\\z\r\n[filter.old]\nclean=p\n=bad\nsmudge = q";
        let read: Vec<String> = settings(text)
            .into_iter()
            .map(|setting| {
                format!("{}.{}={}", setting.section, setting.key, String::from_utf8_lossy(&setting.value))
            })
            .collect();
        let wanted = [
            "core.hookspath=a/b",
            "core.pager=a # b   c",
            "include.path=..\\z",
            "filter.clean=p",
            "filter.smudge=q",
        ];
        assert_eq!(read, wanted);
    }
}
