//! Where the dangers of the table are on this host, for whoever lives there.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Component, Path, PathBuf};

use super::dangers::{DANGERS, KEY_AGENT, Kind};
use crate::caller::Caller;

/// What the names of the table are relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Base {
    /// Each home directory.
    Home,
    /// Each user's runtime directory.
    Runtime,
    /// The host's root.
    Root,
}

/// Homes of others that are looked at: a mount that holds more is very wide anyway.
const OTHERS: usize = 64;

/// As many symbolic links as the kernel follows.
const LINKS: usize = 40;

/// One danger, where this host has it or could have it.
pub(super) struct Located {
    pub kind: &'static Kind,
    /// As it is told: `~/.ssh`.
    pub name: String,
    trail: Trail,
}

/// How a mount is related to a danger, the closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Relation {
    /// It is the thing, or part of it.
    Is,
    /// The thing is in it, or the link by which it is found.
    Holds,
    /// The thing is not there, and could be made.
    Makes,
}

impl Located {
    /// How a mount of this directory or file is related to it.
    pub fn relation(&self, source: &Path, writable: bool) -> Option<Relation> {
        let Trail { links, end, exists } = &self.trail;
        if source.starts_with(end) {
            return Some(Relation::Is);
        }
        let passes = || links.iter().chain([end]).any(|path| path.starts_with(source));
        match (*exists, writable) {
            (true, false) => end.starts_with(source).then_some(Relation::Holds),
            // A link on the way can be put elsewhere.
            (true, true) => passes().then_some(Relation::Holds),
            (false, false) => None,
            // What is not there can do harm only by being made.
            (false, true) => (self.kind.write > self.kind.read && passes()).then_some(Relation::Makes),
        }
    }
}

/// The way to a path: what is there is followed, what is not is taken as written.
#[derive(Debug, PartialEq, Eq)]
struct Trail {
    /// Symbolic links on the way, each by its path without links.
    links: Vec<PathBuf>,
    /// The path without links.
    end: PathBuf,
    /// Whether something is there; also when it cannot be known.
    exists: bool,
}

impl Trail {
    fn of(path: &Path) -> Trail {
        let mut trail = Trail { links: Vec::new(), end: PathBuf::from("/"), exists: true };
        let mut rest: Vec<OsString> = Vec::new();
        push(&mut rest, path);
        while let Some(name) = rest.pop() {
            if name == ".." {
                trail.end.pop();
                continue;
            }
            let next = trail.end.join(name);
            let looked =
                if trail.exists { fs::symlink_metadata(&next) } else { Err(io::ErrorKind::NotFound.into()) };
            match looked {
                Ok(metadata) if metadata.is_symlink() && trail.links.len() < LINKS => {
                    let target = fs::read_link(&next).unwrap_or_default();
                    if target.is_absolute() {
                        trail.end = PathBuf::from("/");
                    }
                    push(&mut rest, &target);
                    trail.links.push(next);
                    continue;
                }
                Ok(metadata) => trail.exists = !metadata.is_symlink(),
                Err(error) => {
                    let absent = [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory];
                    trail.exists &= !absent.contains(&error.kind());
                }
            }
            trail.end = next;
        }
        trail
    }
}

/// A path without its links, as far as there is something.
pub(super) fn without_links(path: &Path) -> PathBuf {
    Trail::of(path).end
}

/// Puts the names of a path before those that are left, the first at the end.
fn push(rest: &mut Vec<OsString>, path: &Path) {
    let names = path.components().rev().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    rest.extend(names);
}

/// The homes of a host, without links: the caller's first.
pub(super) struct Homes(Vec<PathBuf>);

impl Homes {
    /// The caller's, and those of others that have to do with one of these mounts: root's jails are made of
    /// what belongs to users.
    pub fn of(caller: &Caller, sources: &[PathBuf]) -> Homes {
        let mut homes: Vec<PathBuf> = Vec::new();
        let mut add = |home: PathBuf, is_own: bool| {
            let home = without_links(&home);
            let concerned =
                || sources.iter().any(|source| source.starts_with(&home) || home.starts_with(source));
            if home != Path::new("/")
                && !homes.contains(&home)
                && (is_own || homes.len() <= OTHERS && concerned())
            {
                homes.push(home);
            }
        };
        if let Some(home) = &caller.home {
            add(home.as_path().to_owned(), true);
        }
        let passwd = fs::read("/etc/passwd").unwrap_or_default();
        for (uid, home) in accounts(&passwd) {
            if uid == caller.uid.as_raw() || is_person(uid) {
                add(home, uid == caller.uid.as_raw());
            }
        }
        // Those whom another directory than the file knows.
        for entry in fs::read_dir("/home").into_iter().flatten().flatten() {
            add(entry.path(), false);
        }
        Homes(homes)
    }

    /// Whether a directory holds one of them whole.
    pub fn are_within(&self, source: &Path) -> bool {
        self.0.iter().any(|home| home.starts_with(source))
    }
}

/// Root, and accounts that somebody uses; not the servers', whose homes are where their data is.
fn is_person(uid: u32) -> bool {
    uid == 0 || (1000..65534).contains(&uid)
}

/// User and home of each line of passwd(5).
fn accounts(passwd: &[u8]) -> impl Iterator<Item = (u32, PathBuf)> {
    passwd.split(|byte| *byte == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b':').collect();
        let uid = std::str::from_utf8(fields.get(2)?).ok()?.parse().ok()?;
        let home = PathBuf::from(OsString::from_vec(fields.get(5)?.to_vec()));
        home.is_absolute().then_some((uid, home))
    })
}

/// The dangers that this host has or could have.
pub(super) fn all(caller: &Caller, homes: &Homes) -> Vec<Located> {
    let own = caller.home.as_ref().map(|home| without_links(home.as_path()));
    let runtimes = runtimes(caller);
    let mut located = Vec::new();
    for (kind, base, names) in DANGERS {
        let bases: &[PathBuf] = match base {
            Base::Home => &homes.0,
            Base::Runtime => &runtimes,
            Base::Root => &[PathBuf::from("/")],
        };
        for base in bases {
            let shown = if own.as_ref() == Some(base) { Path::new("~") } else { base };
            located.extend(names.iter().map(|name| Located {
                kind,
                name: crate::path::printable(shown.join(name).as_os_str()).to_string(),
                trail: Trail::of(&base.join(name)),
            }));
        }
    }
    let agent = std::env::var_os("SSH_AUTH_SOCK").map(PathBuf::from).filter(|path| path.is_absolute());
    located.extend(agent.map(|path| Located {
        kind: KEY_AGENT,
        name: "$SSH_AUTH_SOCK".into(),
        trail: Trail::of(&path),
    }));
    located
}

/// The runtime directories of the caller and of everybody else.
fn runtimes(caller: &Caller) -> Vec<PathBuf> {
    let mut all = vec![Path::new("/run/user").join(caller.uid.to_string())];
    let there = fs::read_dir("/run/user").into_iter().flatten().flatten().take(OTHERS);
    all.extend(there.map(|entry| entry.path()));
    all.extend(std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()));
    let mut all: Vec<PathBuf> =
        all.iter().map(|path| without_links(path)).filter(|path| path != Path::new("/")).collect();
    all.sort();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn what_is_not_there_is_looked_for_where_it_would_be_made() {
        let place = fs::canonicalize(std::env::temp_dir()).unwrap();
        let place = place.join(format!("jailmk-trail-{}", crate::rootfs::staging::unique()));
        fs::create_dir_all(place.join("real/a")).unwrap();
        symlink("real", place.join("link")).unwrap();
        symlink(place.join("real/none"), place.join("real/a/broken")).unwrap();
        symlink("loop", place.join("loop")).unwrap();
        let there = Trail::of(&place.join("link/./a/../a"));
        assert_eq!(
            (there.links, there.end, there.exists),
            (vec![place.join("link")], place.join("real/a"), true)
        );
        let gone = Trail::of(&place.join("link/a/broken/x/y"));
        assert_eq!(gone.links, [place.join("link"), place.join("real/a/broken")]);
        assert_eq!((gone.end, gone.exists), (place.join("real/none/x/y"), false));
        assert!(!Trail::of(&place.join("loop/x")).exists);
        fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn homes_are_read_from_the_accounts() {
        let passwd = b"root:x:0:0::/root:/bin/sh\nbroken\nwww:x:33:33::/var/www:\na:x:1000:1::/srv/a\xff:/bin/sh\nb:x:1:1::rel:";
        let all: Vec<_> = accounts(passwd).collect();
        let uids: Vec<u32> = all.iter().map(|(uid, _)| *uid).collect();
        assert_eq!(uids, [0, 33, 1000]);
        assert_eq!(all[2].1.as_os_str().as_encoded_bytes(), b"/srv/a\xff");
        assert!(is_person(1000) && is_person(0) && !is_person(33) && !is_person(65534));
    }
}
