//! What a tree was made from, so far as a few stat(2) can tell whether it is out of date.
//!
//! A digest of jailmk's version, of every spec text and of the kinds of mount points; and the stamps of
//! the files that change when anything is installed, and of those that the spec names one by one.

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use nix::sys::stat::stat;
use sha2::{Digest, Sha256};

use super::RootfsError;
use super::sources::Stamp;
use crate::caller::Caller;
use crate::closure::Reason;
use crate::manifest::lock::{Blank, Hex, escape, parse_hex, unescape};
use crate::manifest::{Manifest, ManifestError, MountPoint, Node};
use crate::path::HostPath;
use crate::spec::{FileRule, SourceOrigin, Spec};

const HEADER: &str = "jailmk-inputs 2\n";
/// Without it a text that was cut off after a line would pass for whole.
const END: &str = "end\n";
/// These change when a package is installed, removed or upgraded: by dpkg, apk, rpm and pacman.
const ALWAYS_WATCHED: &[&str] = &[
    "/etc/ld.so.cache",
    "/var/lib/dpkg/status",
    "/lib/apk/db/installed",
    "/usr/lib/sysimage/rpm",
    "/var/lib/pacman/local",
];
/// A `files` tree may hold any number of files, and each costs a microsecond at every enter.
const WATCHED_BELOW: usize = 256;

/// Whether a tree is what a build would make now, so far as can be told without building.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Nothing that is looked at has changed.
    Fresh,
    /// Something has.
    Stale(Staleness),
}

/// What changed since a build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Staleness {
    /// The spec, one it includes, jailmk itself, or whether a mount's source is a directory.
    Spec,
    /// A file of the host.
    File(HostPath),
    /// Nobody knows: the record is missing or damaged.
    Unknown,
}

impl fmt::Display for Staleness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Staleness::Spec => f.write_str("the spec or jailmk changed since it was built"),
            Staleness::File(path) => write!(f, "{path} changed since it was built"),
            Staleness::Unknown => f.write_str("the record of what it was built from is damaged"),
        }
    }
}

/// The record of one build.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Inputs {
    identity: [u8; 32],
    watched: Vec<(HostPath, Option<Watch>)>,
}

/// Inode, size and modification time of a watched file; times of change would report every new link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Watch {
    inode: u64,
    size: u64,
    modified: i64,
}

impl Watch {
    fn of(path: &HostPath) -> Option<Watch> {
        let stamp = Stamp::of(&stat(path.as_path()).ok()?);
        Some(Watch { inode: stamp.inode, size: stamp.size, modified: stamp.modified })
    }
}

impl Inputs {
    /// The record of a build that begins now.
    pub(super) fn take(spec: &Spec, manifest: &Manifest, caller: &Caller) -> Result<Inputs, RootfsError> {
        let host = HostPath::root();
        let source = manifest.source().unwrap_or(&host);
        let mut paths: BTreeSet<HostPath> = ALWAYS_WATCHED.iter().map(|path| source.join(path)).collect();
        // A link on the way to another root may be turned to another tree.
        let from = spec.rootfs.from.as_ref().and_then(|from| HostPath::absolute(from.value.clone()));
        paths.extend(from);
        for (path, entry) in manifest.entries() {
            if !matches!(&entry.reason, Reason::Spec { key: "programs", .. }) {
                continue;
            }
            let file = manifest.resolve(path).and_then(|path| manifest.get(&path));
            if let Some(Node::Copy(origin)) = file.map(|entry| &entry.node) {
                paths.insert(origin.clone());
            }
        }
        for rule in &spec.rootfs.files {
            let FileRule::Copy { from, .. } = &rule.value else { continue };
            // Beside the spec it is the host's, whatever tree the rest is taken from.
            let copied = manifest.entries().any(|(_, entry)| match &entry.node {
                Node::Copy(origin) => origin.as_path().starts_with(from),
                _ => false,
            });
            let top = if copied { HostPath::new(&host, from) } else { source.join(from) };
            let below = manifest.entries().filter_map(|(_, entry)| match &entry.node {
                Node::Copy(origin) if origin.as_path().starts_with(&top) => Some(origin.clone()),
                _ => None,
            });
            paths.extend(below.take(WATCHED_BELOW));
            paths.insert(top);
        }
        let watched = paths.into_iter().map(|path| (path.clone(), Watch::of(&path))).collect();
        Ok(Inputs { identity: identity(spec, caller)?, watched })
    }

    /// Whether a build would begin with the same.
    pub(super) fn freshness(&self, spec: &Spec, caller: &Caller) -> Result<Freshness, RootfsError> {
        if self.identity != identity(spec, caller)? {
            return Ok(Freshness::Stale(Staleness::Spec));
        }
        let changed = self.watched.iter().find(|(path, watch)| Watch::of(path) != *watch);
        Ok(match changed {
            Some((path, _)) => Freshness::Stale(Staleness::File(path.clone())),
            None => Freshness::Fresh,
        })
    }

    /// One line for the spec, one for each watched file.
    pub(super) fn text(&self) -> String {
        let mut text = format!("{HEADER}spec {}\n", Hex(&self.identity));
        for (path, watch) in &self.watched {
            let columns = match watch {
                Some(Watch { inode, size, modified }) => format!("watch {inode} {size} {modified} "),
                None => "absent ".to_owned(),
            };
            text.push_str(&columns);
            escape(&mut text, path.as_path().as_os_str().as_bytes(), Blank::Escaped)
                .expect("BUG: a string can be written to");
            text.push('\n');
        }
        text.push_str(END);
        text
    }

    /// `None` if the text is none of [`Inputs::text`].
    pub(super) fn parse(text: &[u8]) -> Option<Inputs> {
        let text = std::str::from_utf8(text).ok()?.strip_prefix(HEADER)?;
        let mut lines = text.strip_suffix(END)?.strip_suffix('\n')?.split('\n');
        let identity = parse_hex(lines.next()?.strip_prefix("spec ")?)?;
        let watched = lines.map(|line| {
            let mut columns = line.split(' ');
            let watch = match columns.next()? {
                "watch" => Some(Watch {
                    inode: columns.next()?.parse().ok()?,
                    size: columns.next()?.parse().ok()?,
                    modified: columns.next()?.parse().ok()?,
                }),
                "absent" => None,
                _ => return None,
            };
            let path = std::ffi::OsString::from_vec(unescape(columns.next()?, Blank::Escaped).ok()?);
            Some((HostPath::absolute(path)?, watch))
        });
        Some(Inputs { identity, watched: watched.collect::<Option<_>>()? })
    }
}

fn identity(spec: &Spec, caller: &Caller) -> Result<[u8; 32], RootfsError> {
    let mut digest = Sha256::new();
    let mut add = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_le_bytes());
        digest.update(bytes);
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(spec.name.as_bytes());
    for source in &spec.sources {
        match &source.origin {
            SourceOrigin::File(path) => add(path.as_os_str().as_bytes()),
            SourceOrigin::BuiltIn(name) => add(name.as_bytes()),
        }
        add(source.text.as_bytes());
    }
    for mount in &spec.mounts {
        let kind = match MountPoint::of(&caller.locate(&mount.from.value).map_err(ManifestError::from)?) {
            MountPoint::Directory => b"directory".as_slice(),
            MountPoint::File => b"file",
        };
        add(kind);
    }
    Ok(digest.finalize().into())
}
