//! What is wrong with a spec, and what to do about it.

use std::ffi::OsStr;
use std::fmt;
use std::path::PathBuf;

use super::value::ValueError;
use super::{Position, builtin, keys};
use crate::error::{StageError, nearest};
use crate::path::printable;

/// Why there is no [`Spec`](super::Spec).
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The text says something that cannot be taken.
    #[error("cannot read the spec {at}")]
    Refused {
        /// Where.
        at: Position,
        /// What.
        source: Refusal,
    },
    /// There is no such spec.
    #[error("cannot find the spec {}", quoted(name))]
    NotFound {
        /// As it was asked for.
        name: String,
        /// Where it would have been.
        source: LookedFor,
    },
    /// A file of this directory has the name of an installed or built-in spec.
    #[error("cannot choose the spec {}: it could be the file in this directory, or {other}", quoted(name))]
    Ambiguous {
        /// As it was asked for.
        name: String,
        /// The other one.
        other: String,
    },
    /// The file cannot be opened or read.
    #[error("cannot open the spec {}", printable(path.as_os_str()))]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not fit to be a spec.
    #[error("cannot use the spec {}", printable(path.as_os_str()))]
    Unfit {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Unfit,
    },
    /// A system call filter that the spec names is not there or not fit.
    #[error("cannot use the seccomp profile {} ({at})", printable(path.as_os_str()))]
    Profile {
        /// The file.
        path: PathBuf,
        /// Where it is named.
        at: Position,
        /// What is wrong with it.
        source: ProfileFault,
    },
    /// An included spec has an error of its own.
    #[error("cannot include {} at {at}", quoted(name))]
    Include {
        /// As it is written.
        name: String,
        /// Where it is written.
        at: Position,
        /// What is wrong with it.
        source: Box<SpecError>,
    },
}

/// The places where a spec was looked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is none as {}", list(.0))]
pub struct LookedFor(pub Vec<String>);

/// Why a named profile cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ProfileFault {
    /// There is none.
    #[error("there is no such file")]
    Missing,
    /// It cannot be opened or read.
    #[error(transparent)]
    Open(std::io::Error),
    /// It is not fit to be used.
    #[error(transparent)]
    Unfit(Unfit),
    /// It is no text.
    #[error("the file is not UTF-8")]
    NotUtf8,
}

/// Why a file is no spec, whatever its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// A directory, a device, a pipe, a socket.
    #[error("it is not a regular file")]
    NotRegular,
    /// More than [`MAX_BYTES`](super::find::MAX_BYTES).
    #[error("it has more than 1 MiB")]
    TooLarge,
    /// Owned by somebody else.
    #[error("it is owned by user {0}, who is neither you nor root")]
    Foreign(u32),
    /// Others can change it.
    #[error("others may write to it")]
    Writable,
    /// Somebody else's directory.
    #[error("its directory is owned by user {0}, who is neither you nor root")]
    ForeignDirectory(u32),
    /// Others can put another file in its place.
    #[error("others may write to its directory")]
    WritableDirectory,
}

/// What is wrong at a place of a spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is no TOML.
    #[error("{0}")]
    Syntax(String),
    /// It is no text.
    #[error("the file is not UTF-8")]
    NotUtf8,
    /// There is no such key or section.
    #[error("unknown key {}{}", quoted(key), within(section))]
    UnknownKey {
        /// The section's name.
        section: &'static str,
        /// As it is written.
        key: String,
    },
    /// A value of another type.
    #[error("`{key}` must be {expected}, not {found}")]
    Type {
        /// The key.
        key: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What it got.
        found: &'static str,
    },
    /// An element of another type.
    #[error("each element of `{key}` must be {expected}, not {found}")]
    ElementType {
        /// The key.
        key: &'static str,
        /// What its elements are.
        expected: &'static str,
        /// What this one is.
        found: &'static str,
    },
    /// A value of the right type with a wrong content.
    #[error("`{key}` cannot be {}", quoted(value))]
    Value {
        /// The key.
        key: &'static str,
        /// As it is written.
        value: String,
        /// What is wrong with it.
        source: ValueError,
    },
    /// Not one of the words.
    #[error("`{key}` cannot be {}: it is one of {}", quoted(value), list(allowed))]
    Choice {
        /// The key.
        key: &'static str,
        /// As it is written.
        value: String,
        /// The words.
        allowed: &'static [&'static str],
    },
    /// An empty `command`.
    #[error("`command` must name a program")]
    EmptyCommand,
    /// A key that must be there.
    #[error("`{key}` is missing{}", within(section))]
    Missing {
        /// The section's name.
        section: &'static str,
        /// The key.
        key: &'static str,
    },
    /// Two keys that exclude each other.
    #[error("`{key}` cannot stand beside `{other}`")]
    Together {
        /// The one.
        key: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A key that means nothing without another.
    #[error("`{key}` needs `{other}`")]
    Needs {
        /// The key.
        key: &'static str,
        /// What it needs.
        other: &'static str,
    },
    /// A capability that is none, or means nothing in a jail.
    #[error("`keep` cannot be {}: {why}", quoted(value))]
    Capability {
        /// As it is written.
        value: String,
        /// Why not.
        why: &'static str,
    },
    /// `net_bind_service` with the host's network.
    #[error(
        "\"net_bind_service\" cannot be kept with the host's network, whose ports are not the jail's to give"
    )]
    PortsOfHost,
    /// Two things at one path.
    #[error("{} is taken already, at {first}", quoted(target))]
    Taken {
        /// The path in the jail.
        target: String,
        /// What took it.
        first: Position,
    },
    /// The workspace's own place.
    #[error("/workspace is taken already, by [workspace]")]
    TakenByWorkspace,
    /// The file's stem is no name.
    #[error("the file's name {} cannot be the jail's name", quoted(stem))]
    Stem {
        /// The stem.
        stem: String,
        /// Why.
        source: ValueError,
    },
    /// Includes that come back to themselves.
    #[error("the includes go round in a circle: {}", .0.join(" → "))]
    Cycle(Vec<String>),
    /// Includes in includes in includes.
    #[error("includes are nested more than {0} deep")]
    Depth(usize),
    /// More specs than anybody writes.
    #[error("more than {0} specs are included")]
    Count(usize),
    /// A path where there are no files.
    #[error("only built-in specs can be included here, and {} is none", quoted(.0))]
    NotBuiltIn(String),
    /// A file beside the spec has the name of a spec known by that name.
    #[error("{} could be the file beside this spec, or {other}", quoted(name))]
    Ambiguous {
        /// As it is written.
        name: String,
        /// The other one.
        other: String,
    },
}

impl StageError for SpecError {
    fn hints(&self) -> Vec<String> {
        match self {
            SpecError::Refused { source, .. } => source.hints(),
            SpecError::NotFound { name, .. } => {
                let mut hints = not_found_hints(name);
                hints.push("`jailmk init` writes a spec for this directory".into());
                hints.push("a path or a command stands behind `--`".into());
                hints
            }
            SpecError::Ambiguous { name, .. } => vec![format!(
                "write ./{}.toml if the file is meant, else rename the file",
                printable(OsStr::new(name))
            )],
            SpecError::Open { .. } => Vec::new(),
            SpecError::Unfit { path, source } => source.hints(path),
            SpecError::Profile { path, source: ProfileFault::Unfit(unfit), .. } => unfit.hints(path),
            SpecError::Profile { source: ProfileFault::Missing, .. } => {
                vec!["a path in a spec is relative to the spec".into()]
            }
            SpecError::Profile { .. } => Vec::new(),
            SpecError::Include { source, .. } => match &**source {
                // `jailmk init` and a command's place are no matter of an include.
                SpecError::NotFound { name, .. } => not_found_hints(name),
                other => other.hints(),
            },
        }
    }
}

/// The names that could have been meant.
fn not_found_hints(name: &str) -> Vec<String> {
    let near = short(name).and_then(|name| nearest(name, builtin::names()));
    let built_in = builtin::names().collect::<Vec<_>>();
    let near = near.map(|near| format!("did you mean `{near}`?"));
    near.into_iter().chain([format!("built in are {}", list(&built_in))]).collect()
}

impl Unfit {
    fn hints(self, path: &std::path::Path) -> Vec<String> {
        let printed = printable(path.as_os_str());
        let directory = path.parent().unwrap_or(path);
        let first = match self {
            Unfit::NotRegular | Unfit::TooLarge => return Vec::new(),
            Unfit::Foreign(_) | Unfit::ForeignDirectory(_) => "copy it to a directory of your own".into(),
            Unfit::Writable => format!("chmod go-w {printed}"),
            Unfit::WritableDirectory => format!("chmod go-w {}", printable(directory.as_os_str())),
        };
        let second = "a spec decides what the jail reaches: read it, then pass --trust-spec to use it anyway";
        vec![first, second.into()]
    }
}

impl Refusal {
    fn hints(&self) -> Vec<String> {
        match self {
            Refusal::UnknownKey { section, key } => unknown_key_hints(section, key),
            Refusal::Choice { value, allowed, .. } => short(value)
                .and_then(|value| nearest(value, allowed.iter().copied()))
                .map(|near| format!("did you mean \"{near}\"?"))
                .into_iter()
                .collect(),
            Refusal::Type { key: "command", .. } => {
                vec!["write the program and each argument as a string: [\"bash\", \"-l\"]".into()]
            }
            Refusal::Type { key: "mode", .. } => {
                vec!["permission bits are written as a string: \"0644\"".into()]
            }
            Refusal::Stem { stem, .. } => {
                vec![format!("write name = \"{}\" at the top", super::value::label_from(stem))]
            }
            Refusal::Ambiguous { name, .. } => vec![format!(
                "write \"./{}.toml\" if the file is meant, else rename the file",
                printable(OsStr::new(name))
            )],
            Refusal::Capability { .. } => {
                vec![format!("a jail can keep {}", list(keys::CAPABILITIES))]
            }
            Refusal::PortsOfHost => vec![
                "let the command listen on a port above 1023, and the host forward to it".into(),
                "or lower the host's `sysctl net.ipv4.ip_unprivileged_port_start`".into(),
            ],
            Refusal::Value { value, source: ValueError::Tilde, .. } => {
                let home = crate::caller::Caller::current().home;
                let path = home.zip(value.strip_prefix("~/")).map(|(home, rest)| home.join(rest));
                path.map(|path| format!("write the path in full: {path}")).into_iter().collect()
            }
            Refusal::NotUtf8 => vec!["save it as UTF-8, which TOML asks for".into()],
            _ => Vec::new(),
        }
    }
}

/// The nearest right key, or where the key belongs, or else all keys of the section.
fn unknown_key_hints(section: &'static str, key: &str) -> Vec<String> {
    let names = keys::names_in(section);
    if let Some(near) = short(key).and_then(|key| nearest(key, names.iter().copied())) {
        return vec![format!("did you mean `{near}`?")];
    }
    let elsewhere = keys::KEYS.iter().find(|other| other.name == key && other.section != keys::FILES);
    if let Some(other) = elsewhere {
        return vec![match other.section {
            "" => format!("`{key}` stands at the top, before the first section"),
            home => format!("`{key}` belongs in [{home}]"),
        }];
    }
    vec![match section {
        "" => format!("at the top there are {}", list(&names)),
        keys::FILES => format!("an element of `files` has {}", list(&names)),
        _ => format!("[{section}] has {}", list(&names)),
    }]
}

/// A word that is worth comparing: the distance to a long one costs its length in time and memory.
fn short(word: &str) -> Option<&str> {
    (word.len() <= 64).then_some(word)
}

fn within(section: &str) -> String {
    match section {
        "" => String::new(),
        keys::FILES => " in an element of `files`".into(),
        _ => format!(" in [{section}]"),
    }
}

fn list<T: AsRef<str>>(words: &[T]) -> String {
    words.iter().map(|word| word.as_ref()).collect::<Vec<_>>().join(", ")
}

/// A text from a file, for a message: quoted, harmless for terminals, of bounded length.
fn quoted(text: &str) -> impl fmt::Display {
    const LONGEST: usize = 80;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("\"{}…\"", printable(OsStr::new(&text[..end]))),
        None => format!("\"{}\"", printable(OsStr::new(text))),
    }
}
