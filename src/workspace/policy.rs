//! Which changes `apply` takes over without being asked twice.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::changes::{Change, Changes, Kind, Never};
use super::git_config::{self, NAMED};
use super::path::WorkPath;
use super::protected::{self, Group, Level};
use super::session::{Session, reviewed};
use super::tree::{self, Node, Tree};
use crate::rootfs::taken;
use crate::spec::{SourceOrigin, Spec};

/// What is said about a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// It is held back as this.
    pub held: Option<String>,
    /// It is applied, and should be looked at as this.
    pub warning: Option<&'static str>,
}

/// The built-in list, the spec's, and the spec itself.
pub struct Policy {
    globs: Result<GlobSet, globset::Error>,
    own: Vec<WorkPath>,
    /// What the spec has its tree built from.
    taken: Vec<WorkPath>,
    /// Where protected names of the host lead that are links, and what its git configuration names; with what
    /// they are.
    behind: Vec<(WorkPath, &'static str)>,
}

/// What holds for everything directly in a directory.
#[derive(Clone, Debug)]
enum Standing {
    /// All of it is held back.
    Held(&'static str),
    /// It is in a git directory; its top has so many names.
    Git(usize),
    /// It depends on the names. The last two on the way, folded, what the directory is by what it holds, and
    /// what should be looked at before all in it is used.
    Open { tail: Vec<String>, git: Repository, python: bool, warning: Option<&'static str> },
}

/// Whether git takes a directory for a repository by what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repository {
    /// It does not.
    Not,
    /// It does already.
    There,
    /// It would with the changes. The configuration and hooks may have come over before, as any other file.
    Made,
}

/// Looks at directories as the host's tree would be with the changes in it; at each once.
struct Standings<'a> {
    upper: &'a Tree,
    host: &'a Tree,
    known: HashMap<WorkPath, Standing>,
    /// Lists of refs, and whether they have replacements.
    lists: HashMap<WorkPath, bool>,
}

/// Matches what patterns name at any depth, whatever the case of its ASCII letters.
///
/// # Errors
/// One cannot be matched so, or they are too many to be matched at once.
fn everywhere<'a>(patterns: impl Iterator<Item = &'a str>) -> Result<GlobSet, globset::Error> {
    let mut globs = GlobSetBuilder::new();
    for pattern in patterns {
        let pattern = pattern.trim_end_matches('/');
        for whole in [pattern.to_owned(), format!("{pattern}/**")] {
            for glob in [format!("**/{whole}"), whole] {
                globs.add(GlobBuilder::new(&glob).literal_separator(true).case_insensitive(true).build()?);
            }
        }
    }
    globs.build()
}

impl Policy {
    /// From the spec of the session; when that is gone, what it protected beside the table is not known.
    pub fn new(spec: Option<&Spec>, session: &Session) -> Policy {
        let patterns =
            spec.and_then(reviewed).map(|workspace| workspace.protect.as_slice()).unwrap_or_default();
        let globs = everywhere(patterns.iter().map(|pattern| pattern.value.as_str()));
        let inside = |path: &Path| WorkPath::new(path.strip_prefix(session.workspace.as_path()).ok()?).ok();
        let own = spec.into_iter().flat_map(|spec| &spec.sources).filter_map(|source| match &source.origin {
            SourceOrigin::File(path) => inside(path),
            SourceOrigin::BuiltIn(_) => None,
        });
        let taken = spec.map(taken).unwrap_or_default();
        let taken = taken.iter().filter_map(|path| inside(path)).filter(|path| *path != WorkPath::top());
        Policy {
            globs,
            own: own.collect(),
            taken: taken.collect(),
            behind: protected::at_top()
                .filter_map(|(name, what)| Some((behind(session, name)?, what)))
                .chain(git_config::named(session.workspace.as_path()).into_iter().map(|path| (path, NAMED)))
                .collect(),
        }
    }

    /// Judges each change, in their order; a link that leads out becomes one that is never applied.
    pub fn judge(&self, changes: &mut Changes, upper: &Tree, host: &Tree) -> Vec<Judgement> {
        let mut standings = Standings { upper, host, known: HashMap::new(), lists: HashMap::new() };
        let mut gone: Option<(WorkPath, String)> = None;
        let judge = |change: &mut Change| {
            if change.never.is_none() && leads_out(change, upper, host) {
                change.never = Some(Never::LeadsOut);
            }
            let (mut held, warning) = self.held(change, &mut standings);
            // With a protected directory that the jail deleted or replaced, everything in it is kept.
            match &gone {
                Some((above, what)) if change.path.is_within(above) => held = Some(what.clone()),
                _ if matches!(change.kind, Kind::Deleted | Kind::Type) => {
                    gone = held.clone().map(|what| (change.path.clone(), what));
                }
                _ => {}
            }
            Judgement { held, warning }
        };
        changes.iter_mut().map(judge).collect()
    }

    fn held(&self, change: &Change, standings: &mut Standings<'_>) -> (Option<String>, Option<&'static str>) {
        let path = &change.path;
        if self.own.iter().any(|own| own.is_within(path)) && change.kind != Kind::Mode {
            return (Some("the jail's own spec".into()), None);
        }
        let is_taken =
            |taken: &WorkPath| path.is_within(taken) || taken.is_within(path) && change.kind != Kind::Mode;
        if self.taken.iter().any(is_taken) {
            return (Some("the jail's tree is built from it".into()), None);
        }
        match &self.globs {
            Ok(globs) if !globs.is_match(path.relative()) => {}
            Ok(_) => return (Some("protected by the spec".into()), None),
            Err(error) => return (Some(format!("the spec's `protect` cannot be followed: {error}")), None),
        }
        let turns = matches!(change.kind, Kind::Deleted | Kind::Type) || change.node() == Node::Symlink;
        let leads = |(place, _): &&(WorkPath, _)| path.is_within(place) || turns && place.is_within(path);
        if let Some((_, what)) = self.behind.iter().find(leads) {
            return (Some((*what).into()), None);
        }
        let Some(parent) = path.parent() else { return (None, None) };
        let (tail, git, python, warning) = match standings.of(&parent) {
            Standing::Held(what) => return (Some(what.into()), None),
            Standing::Git(top) if standings.adds_history(change, top) => {
                return (None, is_new_index(change, top).then_some(PACK));
            }
            Standing::Git(_) => return (Some(protected::GIT.into()), None),
            Standing::Open { tail, git, python, warning } => (tail, git, python, warning),
        };
        let names = with(tail, path.name());
        let group = match standings.group(path, &names) {
            Some((group, true)) => return (Some(group.what.into()), None),
            other => other.map(|(group, _)| group.what),
        };
        let link = change.node() == Node::Symlink;
        if let Some(group) = protected::group_through(&names).filter(|_| link) {
            return (Some(group.what.into()), None);
        }
        let free = match git {
            Repository::Not => true,
            Repository::There => standings.adds_history(change, parent.names().count()),
            Repository::Made => false,
        };
        if !free {
            return (Some(protected::GIT.into()), None);
        }
        if python && is_bin(&names) {
            return (Some(protected::PYTHON.into()), None);
        }
        if protected::is_git(path.name()) {
            // Exactly `.git` is what git writes to, and a directory that is new may hold history.
            let fresh = matches!(change.kind, Kind::Added | Kind::Mode) && change.node() == Node::Directory;
            if !fresh || path.name() != OsStr::new(".git") {
                return (Some(protected::GIT.into()), None);
            }
        }
        (None, group.or(warning))
    }
}

/// Where a name at the top of the workspace leads, when it is or goes through a link of the host's: to another
/// path in the workspace, or to one that is not there yet.
fn behind(session: &Session, name: &str) -> Option<WorkPath> {
    let place = session.workspace.as_path().join(name);
    let led = match place.canonicalize() {
        Ok(led) => led,
        Err(_) => place.parent()?.join(place.read_link().ok()?),
    };
    let led = WorkPath::new(led.strip_prefix(session.workspace.as_path()).ok()?).ok()?;
    (led.relative() != Path::new(name)).then_some(led)
}

/// What is said of a pack that comes over.
const PACK: &str = "a pack of git objects; `git fsck` finds those that are not what their names say";

/// No list of refs is longer.
const REFS_LIMIT: u64 = 64 << 20;

fn is_bin(names: &[String]) -> bool {
    names.last().is_some_and(|name| matches!(name.as_str(), "bin" | "scripts"))
}

/// What is below a git directory whose top has so many names.
fn is_history(path: &WorkPath, top: usize) -> bool {
    let below: Vec<&OsStr> = path.names().skip(top).collect();
    protected::is_history(&below)
}

/// Whether it is what git has stored under a digest, loose or packed, and not what it knows about that.
fn is_object(path: &WorkPath, top: usize) -> bool {
    let mut below = path.names().skip(top);
    below.next() == Some(OsStr::new("objects")) && below.next() != Some(OsStr::new("info"))
}

/// Whether it says anew which objects a pack holds, which git takes from it without a look at them.
fn is_new_index(change: &Change, top: usize) -> bool {
    let is_index = change.path.name().as_bytes().ends_with(b".idx") && is_object(&change.path, top);
    is_index && change.kind != Kind::Deleted
}

/// The names that a pattern is compared with: three at most.
fn with(mut tail: Vec<String>, name: &OsStr) -> Vec<String> {
    tail.push(protected::folded(name));
    if tail.len() > protected::LONGEST {
        tail.remove(0);
    }
    tail
}

impl Standings<'_> {
    fn of(&mut self, directory: &WorkPath) -> Standing {
        if let Some(known) = self.known.get(directory) {
            return known.clone();
        }
        // Up to what is known, and down again.
        let mut unknown = vec![directory.clone()];
        let mut here = directory.parent();
        while let Some(above) = here.filter(|above| !self.known.contains_key(above)) {
            here = above.parent();
            unknown.push(above);
        }
        let mut standing = None;
        for directory in unknown.into_iter().rev() {
            let found = self.look(&directory);
            self.known.insert(directory, found.clone());
            standing = Some(found);
        }
        standing.unwrap_or(Standing::Held(protected::GIT))
    }

    /// Whether a change in a git directory whose top has so many names is no more than history, and makes nothing
    /// that git has stored something else.
    fn adds_history(&mut self, change: &Change, top: usize) -> bool {
        let path = &change.path;
        let forged = match change.kind {
            Kind::Changed | Kind::Type => is_object(path, top),
            Kind::Added => self.is_beside_pack(path, top),
            _ => false,
        };
        let plain = matches!(change.node(), Node::File | Node::Directory);
        if !plain || forged || !is_history(path, top) {
            return false;
        }
        let below = path.names().nth(top);
        let listed = match change.kind {
            // What the list, which stays, would have instead.
            Kind::Deleted => below == Some(OsStr::new("refs")),
            _ => below == Some(OsStr::new("packed-refs")),
        };
        !(listed && self.replaces(path, top))
    }

    /// Whether it belongs to a pack that the host has.
    fn is_beside_pack(&self, path: &WorkPath, top: usize) -> bool {
        let pack = Path::new(path.name()).with_extension("pack");
        let other = pack.as_os_str() != path.name() && is_object(path, top);
        other
            && path
                .parent()
                .is_some_and(|parent| self.host.status(&parent.child(pack.as_os_str())) != Ok(None))
    }

    /// Whether the list of refs that a git directory would get has replacements, or cannot be read.
    fn replaces(&mut self, path: &WorkPath, top: usize) -> bool {
        let git = path.names().take(top).fold(WorkPath::top(), |above, name| above.child(name));
        let list = git.child("packed-refs".as_ref());
        if !matches!(self.upper.status(&list), Ok(Some(stat)) if !tree::is_whiteout(&stat)) {
            return false;
        }
        let upper = self.upper;
        *self.lists.entry(list).or_insert_with_key(|list| {
            let mut refs = Vec::new();
            let read = upper.open_file_at(list).map_err(Into::into);
            let read = read.and_then(|file| file.take(REFS_LIMIT + 1).read_to_end(&mut refs));
            let wanted = protected::REPLACEMENT;
            !read.is_ok_and(|length| length as u64 <= REFS_LIMIT)
                || refs.windows(wanted.len()).any(|window| window == wanted)
        })
    }

    /// From the directory above, which is known.
    fn look(&self, directory: &WorkPath) -> Standing {
        let open = |tail, warning| Standing::Open {
            tail,
            git: self.repository(directory),
            python: self.is_python(directory),
            warning,
        };
        let Some(above) = directory.parent().and_then(|above| self.known.get(&above)) else {
            return open(Vec::new(), None);
        };
        let (tail, git, python, warning) = match above {
            Standing::Held(what) => return Standing::Held(what),
            Standing::Git(top) if is_history(directory, *top) => return Standing::Git(*top),
            Standing::Git(_) => return Standing::Held(protected::GIT),
            Standing::Open { tail, git, python, warning } => (tail.clone(), *git, *python, *warning),
        };
        let depth = directory.names().count();
        let names = with(tail, directory.name());
        let warning = match self.group(directory, &names) {
            Some((group, true)) => return Standing::Held(group.what),
            Some((group, false)) if group.level == Level::HeldAtTop => Some(group.what),
            _ => warning,
        };
        match (git, protected::is_git(directory.name())) {
            (Repository::There, _) if protected::is_history(&[directory.name()]) => Standing::Git(depth - 1),
            (Repository::There | Repository::Made, _) => Standing::Held(protected::GIT),
            (Repository::Not, true) if directory.name() == OsStr::new(".git") => Standing::Git(depth),
            (Repository::Not, true) => Standing::Held(protected::GIT),
            (Repository::Not, false) if python && is_bin(&names) => Standing::Held(protected::PYTHON),
            (Repository::Not, false) => open(names, warning),
        }
    }

    /// The group that a path of these last names falls in, and whether it is held back.
    fn group(&self, path: &WorkPath, names: &[String]) -> Option<(&'static Group, bool)> {
        let (group, length) = protected::group_at(names)?;
        let is_held = match group.level {
            Level::Held => true,
            Level::HeldAtTop => {
                let mut above = path.clone();
                (0..length).all(|_| above.parent().map(|parent| above = parent).is_some())
                    && self.is_top(&above)
            }
            Level::Warned => false,
        };
        Some((group, is_held))
    }

    /// Whether a directory is the top of a repository, or would be with the changes.
    fn is_top(&self, directory: &WorkPath) -> bool {
        directory.parent().is_none() || protected::REPOSITORIES.iter().any(|name| self.has(directory, name))
    }

    /// As git's is_git_directory: objects and refs may be where `commondir` says.
    fn repository(&self, directory: &WorkPath) -> Repository {
        let is_one =
            |has: &dyn Fn(&str) -> bool| has("HEAD") && (has("commondir") || has("objects") && has("refs"));
        if is_one(&|name| self.host_has(directory, name)) {
            Repository::There
        } else if is_one(&|name| self.has(directory, name)) {
            Repository::Made
        } else {
            Repository::Not
        }
    }

    fn is_python(&self, directory: &WorkPath) -> bool {
        self.has(directory, "pyvenv.cfg")
    }

    /// Whether the host's tree has this name, or would have it with the changes.
    fn has(&self, directory: &WorkPath, name: &str) -> bool {
        let jail = self.upper.status(&directory.child(name.as_ref())).ok().flatten();
        jail.is_some_and(|stat| !tree::is_whiteout(&stat)) || self.host_has(directory, name)
    }

    fn host_has(&self, directory: &WorkPath, name: &str) -> bool {
        self.host.status(&directory.child(name.as_ref())).ok().flatten().is_some()
    }
}

/// Whether the jail made a link that leads, or could be made to lead, out of the workspace.
fn leads_out(change: &Change, upper: &Tree, host: &Tree) -> bool {
    if change.jail.as_deref().is_none_or(|stat| Node::of(stat) != Node::Symlink) {
        return false;
    }
    let Some(parent) = change.path.parent() else { return true };
    let Ok(target) = upper.link_target(&change.path) else { return true };
    climbs(&target, parent.names().count()) || escapes(host, &parent, &target)
}

/// A target may climb at its beginning, and no higher than the top: behind another name a `..` means what
/// that name makes of it.
fn climbs(target: &OsString, depth: usize) -> bool {
    let mut left = depth;
    let mut named = false;
    for component in Path::new(target).components() {
        match component {
            Component::ParentDir if named || left == 0 => return true,
            Component::ParentDir => left -= 1,
            Component::Normal(_) => named = true,
            Component::CurDir => {}
            Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

/// Through links that the host has already.
fn escapes(host: &Tree, parent: &WorkPath, target: &OsStr) -> bool {
    let path = parent.relative().join(target);
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    matches!(openat2(host.top(), &path, how), Err(Errno::EXDEV | Errno::ELOOP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_hold_at_any_depth_in_any_case_and_are_never_dropped() {
        let globs = everywhere(["Keys/*.{pem,key}", "deploy/"].into_iter()).unwrap();
        for path in ["keys/a.PEM", "x/y/KEYS/a.key", "DEPLOY", "a/deploy/b/c"] {
            assert!(globs.is_match(path), "{path}");
        }
        for path in ["keys/a/b.pem", "deployed", "a.pem"] {
            assert!(!globs.is_match(path), "{path}");
        }
        let many: Vec<String> = (0..800).map(|number| format!("{number}*{}", "[a-z]?".repeat(40))).collect();
        assert!(everywhere(many.iter().map(String::as_str)).is_err());
    }

    #[test]
    fn a_link_may_not_climb_above_the_top_nor_behind_a_name() {
        for (target, depth, out) in [
            ("a", 0, false),
            ("../a", 1, false),
            ("../a", 0, true),
            ("/etc/passwd", 3, true),
            ("a/../../b", 5, true),
            ("a/../b", 5, true),
            ("./../a", 1, false),
            ("../../a", 1, true),
        ] {
            assert_eq!(climbs(&target.into(), depth), out, "{target} at {depth}");
        }
    }
}
