//! A path that is not in a jail: what is known about it, and what would bring it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;

use super::Question;
use crate::closure::packages::{Package, Packages};
use crate::closure::root::{FileKind, jail_path};
use crate::closure::{PROGRAM_DIRECTORIES, find_program, glob, resolve, virtual_top};
use crate::error::Causes;
use crate::manifest::{Node, covers};
use crate::path::{JailPath, printable};
use crate::spec::{FileRule, Placed, Position, RootfsSpec, Spec};

/// A path that is not in a jail.
#[derive(Debug)]
pub struct Absence {
    /// As asked, or the name of a program.
    pub path: PathBuf,
    /// What is known about it.
    pub facts: Vec<Fact>,
    /// What would bring it, the fittest first.
    pub would_bring: Vec<Suggestion>,
}

/// Something known about a path that is not in a jail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// It lies where every jail has something of its own.
    Anew {
        /// The directory.
        top: JailPath,
    },
    /// It lies below a mount of the spec.
    Mounted {
        /// The spec's word: `[[mount]]`, `[tmpfs]`.
        what: String,
        /// Where the jail sees it.
        at: JailPath,
    },
    /// A link of the jail on the way leads to nothing.
    Dangling {
        /// The link.
        link: JailPath,
        /// Its target.
        target: PathBuf,
    },
    /// The source tree has it.
    OnHost {
        /// The tree, as a person calls it.
        tree: String,
        /// What it is.
        kind: FileKind,
        /// Where it really is, if elsewhere.
        real: Option<PathBuf>,
        /// The packages that own it; `None` where there is no database.
        owners: Option<Vec<Package>>,
    },
    /// The source tree does not have it.
    NotOnHost {
        /// The tree, as a person calls it.
        tree: String,
        /// The outermost path that is missing, if it is not the one that was asked for.
        missing: Option<PathBuf>,
        /// Packages that list it all the same.
        listed_by: Vec<Package>,
    },
    /// No program has the name, neither inside nor in the source tree.
    NoProgram {
        /// The tree, as a person calls it.
        tree: String,
        /// The jail's PATH.
        path: String,
        /// A name that is near.
        nearest: Option<String>,
    },
    /// The source tree's is a link that leads to nothing, or in a circle.
    HostDangling {
        /// Why it cannot be followed.
        errno: Errno,
    },
    /// The caller may not read it.
    Unreadable {
        /// Why.
        errno: Errno,
    },
    /// On the host it is kept from other users.
    Private {
        /// Its permission bits there.
        mode: u32,
    },
    /// A pattern of `exclude` matches it.
    Excluded {
        /// The pattern.
        pattern: String,
        /// Where it is written.
        at: Position,
        /// What would have brought it without `exclude`, if anything.
        otherwise: Option<String>,
    },
    /// The database of packages cannot be read.
    OwnersUnknown {
        /// Why.
        why: String,
    },
}

/// A line of `[rootfs]` that brings a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// `programs`, `libraries`, `packages` or `files`.
    pub key: &'static str,
    /// Its element.
    pub value: String,
}

impl fmt::Display for Suggestion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = toml::Value::String(self.value.clone()).to_string();
        write!(f, "{} = [{}]", self.key, printable(value.as_ref()))
    }
}

fn show(path: &Path) -> impl fmt::Display + '_ {
    printable(path.as_os_str())
}

fn joined(names: &[Package]) -> String {
    const NAMED: usize = 4;
    let mut text = names.iter().take(NAMED).map(Package::to_string).collect::<Vec<_>>().join(", ");
    if names.len() > NAMED {
        text += &format!(" and {} more", names.len() - NAMED);
    }
    text
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::Anew { top } if top.as_path() == Path::new("/sys") => f.write_str("no jail has /sys"),
            Fact::Anew { top } => {
                write!(f, "every jail makes {top} anew at each enter; nothing is built there")
            }
            Fact::Mounted { what, at } => {
                write!(f, "{what} is mounted at {at}: what is there is known at enter only")
            }
            Fact::Dangling { link, target } => {
                write!(f, "{link} links to {}, which leads to nothing in the jail", show(target))
            }
            Fact::OnHost { tree, kind, real, owners } => {
                write!(f, "{tree} has it: {}", kind.name())?;
                if let Some(real) = real {
                    write!(f, ", really {}", show(real))?;
                }
                match owners.as_deref() {
                    None => Ok(()),
                    Some([]) => f.write_str(", which no package owns"),
                    Some([owner]) => write!(f, ", of package {owner}"),
                    Some(owners) => write!(f, ", of packages {}", joined(owners)),
                }
            }
            Fact::NotOnHost { tree, missing, listed_by } => {
                write!(f, "{tree} does not have it")?;
                if let Some(missing) = missing {
                    write!(f, ", for there is no {}", show(missing))?;
                }
                match listed_by.is_empty() {
                    true => Ok(()),
                    false => write!(f, ", although it is listed by package {}", joined(listed_by)),
                }
            }
            Fact::NoProgram { tree, path, nearest } => {
                let directories = PROGRAM_DIRECTORIES.join(", ");
                write!(
                    f,
                    "no program of that name is in the jail's PATH ({}), nor has {tree} one in {directories}",
                    printable(path.as_ref())
                )?;
                match nearest {
                    Some(nearest) => write!(f, "; did you mean `{}`?", printable(nearest.as_ref())),
                    None => Ok(()),
                }
            }
            Fact::HostDangling { errno } => {
                write!(f, "it is a link there that leads to nothing ({})", errno.desc())
            }
            Fact::Unreadable { errno } => {
                write!(f, "you cannot read it, so no build of yours can copy it ({})", errno.desc())
            }
            Fact::Private { mode } => {
                write!(f, "its mode {mode:04o} keeps it from other users there: should the jail read it?")
            }
            Fact::Excluded { pattern, at, otherwise } => {
                write!(f, "exclude `{}` ({at}) leaves it out", printable(pattern.as_ref()))?;
                match otherwise {
                    Some(reason) => write!(f, "; otherwise {reason} would bring it"),
                    None => f.write_str(" of `files` and `packages`"),
                }
            }
            Fact::OwnersUnknown { why } => write!(f, "which package owns it is not known: {why}"),
        }
    }
}

impl Question<'_> {
    /// Everything that explains why `path` is not there.
    pub(super) fn absent(&self, path: &JailPath) -> Absence {
        let mut facts = Vec::new();
        facts.extend(self.covered(path));
        facts.extend(self.dangling(path));
        let mut would_bring = Vec::new();
        match self.root.resolve(path.as_path()) {
            Ok(resolved) => self.on_host(path, &resolved.real, &mut facts, &mut would_bring),
            Err(error) => self.not_on_host(path, error.errno, &mut facts),
        }
        Absence { path: path.as_path().to_owned(), facts, would_bring }
    }

    /// As [`Question::absent`], for a name that is no program anywhere.
    pub(super) fn no_program(&self, name: &OsStr, path: &str) -> Absence {
        let names: Vec<String> = PROGRAM_DIRECTORIES
            .iter()
            .flat_map(|directory| self.root.names(Path::new(directory)))
            .filter_map(|name| name.into_string().ok())
            .collect();
        let word = name.to_string_lossy();
        let nearest = crate::error::nearest(&word, names.iter().map(String::as_str)).map(str::to_owned);
        let fact = Fact::NoProgram { tree: self.tree(), path: path.to_owned(), nearest };
        Absence { path: name.into(), facts: vec![fact], would_bring: Vec::new() }
    }

    fn tree(&self) -> String {
        match self.root.is_host() {
            true => "this host".to_owned(),
            false => self.root.path().to_string(),
        }
    }

    /// The innermost mount that covers a path, or the directory that every jail has for itself.
    fn covered(&self, path: &JailPath) -> Option<Fact> {
        let spec = self.spec;
        let mounts = spec.mounts.iter().map(|mount| {
            let from = show(&mount.from.value);
            (format!("[[mount]] of {from} ({})", mount.from.at), mount.to.clone())
        });
        let tmpfs = spec.tmpfs.keys().map(|at| ("an empty [tmpfs]".to_owned(), at.clone()));
        let workspace = spec
            .workspace
            .iter()
            .filter_map(|_| Some(("the workspace".to_owned(), JailPath::new(crate::spec::WORKSPACE).ok()?)));
        let all = mounts.chain(tmpfs).chain(workspace);
        let over = all.filter(|(_, at)| path.as_path().starts_with(at.as_path()));
        if let Some((what, at)) = over.max_by_key(|(_, at)| at.as_path().as_os_str().len()) {
            return Some(Fact::Mounted { what, at });
        }
        let own = virtual_top(path)
            .or_else(|| covers(spec).into_iter().find(|top| path.as_path().starts_with(top.as_path())));
        own.map(|top| Fact::Anew { top })
    }

    fn dangling(&self, path: &JailPath) -> Option<Fact> {
        let mut above: Vec<JailPath> = std::iter::successors(Some(path.clone()), JailPath::parent).collect();
        above.reverse();
        above.into_iter().find_map(|link| match &self.manifest.get(&link)?.node {
            Node::Symlink(target) if self.manifest.resolve(&link).is_none() => {
                Some(Fact::Dangling { link, target: target.clone() })
            }
            _ => None,
        })
    }

    fn not_on_host(&self, path: &JailPath, errno: Errno, facts: &mut Vec<Fact>) {
        // The last component may be a link that leads to nothing.
        let parent = self.root.resolve_parent(path.as_path());
        if let Ok(resolved) = &parent
            && let Ok(stat) = self.root.stat(&resolved.real)
        {
            let kind = FileKind::of(&stat);
            let owners = self.owners(&[path.as_path(), &resolved.real], facts);
            facts.push(Fact::OnHost { tree: self.tree(), kind, real: None, owners });
            facts.push(if kind == FileKind::Symlink {
                Fact::HostDangling { errno }
            } else {
                Fact::Unreadable { errno }
            });
            return;
        }
        if !matches!(errno, Errno::ENOENT | Errno::ENOTDIR) {
            facts.push(Fact::Unreadable { errno });
            return;
        }
        let above = path
            .parent()
            .into_iter()
            .flat_map(|parent| std::iter::successors(Some(parent), JailPath::parent).collect::<Vec<_>>());
        let missing = above.take_while(|path| self.root.resolve(path.as_path()).is_err()).last();
        let missing = missing.map(|path| path.as_path().to_owned());
        let listed_by = self.owners(&[path.as_path()], facts).unwrap_or_default();
        facts.push(Fact::NotOnHost { tree: self.tree(), missing, listed_by });
    }

    fn on_host(
        &self,
        path: &JailPath,
        real: &Path,
        facts: &mut Vec<Fact>,
        would_bring: &mut Vec<Suggestion>,
    ) {
        let Ok(stat) = self.root.stat(real) else { return };
        let kind = FileKind::of(&stat);
        let mut unknown = Vec::new();
        let owners = self.owners(&[path.as_path(), real], &mut unknown);
        let elsewhere = (real != path.as_path()).then(|| real.to_owned());
        facts.push(Fact::OnHost { tree: self.tree(), kind, real: elsewhere, owners: owners.clone() });
        facts.append(&mut unknown);
        if virtual_top(&jail_path(real)).is_some() || !matches!(kind, FileKind::Regular | FileKind::Directory)
        {
            return;
        }
        if kind == FileKind::Regular
            && let Err(errno) = self.root.open_file(real)
        {
            facts.push(Fact::Unreadable { errno });
            return;
        }
        if kind == FileKind::Regular && stat.st_mode & 0o004 == 0 {
            facts.push(Fact::Private { mode: stat.st_mode & 0o7777 });
        }
        let excluded = self.excluded(path, real);
        let is_excluded = excluded.is_some();
        facts.extend(excluded);
        would_bring.extend(self.suggestions(path, real, kind, stat.st_mode));
        if let (false, Some([owner])) = (is_excluded, owners.as_deref())
            && owner.name.bytes().all(|byte| byte.is_ascii_graphic())
        {
            would_bring.push(Suggestion { key: "packages", value: owner.name.clone() });
        }
    }

    /// The packages that own one of `paths`, with versions; `None` where that is not known.
    fn owners(&self, paths: &[&Path], facts: &mut Vec<Fact>) -> Option<Vec<Package>> {
        let owners = Packages::read(self.root).and_then(|packages| {
            let Some(packages) = packages else { return Ok(None) };
            let owners = packages.owners(self.root, paths.iter().copied())?;
            let mut indexes: Vec<usize> = owners.into_values().flatten().collect();
            indexes.sort_unstable();
            indexes.dedup();
            Ok(Some(indexes.iter().map(|index| packages.installed()[*index].clone()).collect()))
        });
        owners.unwrap_or_else(|error| {
            facts.push(Fact::OwnersUnknown { why: Causes(&error).to_string() });
            None
        })
    }

    fn excluded(&self, path: &JailPath, real: &Path) -> Option<Fact> {
        let matches = |pattern: &&Placed<String>| {
            glob(&pattern.value, &pattern.at).is_ok_and(|glob| {
                let glob = glob.compile_matcher();
                glob.is_match(path.as_path()) || glob.is_match(real)
            })
        };
        let pattern = self.spec.rootfs.exclude.iter().find(matches)?;
        let mut without = self.spec.clone();
        without.rootfs.exclude.clear();
        let closure = resolve(&without, self.root).ok();
        let entry = closure.as_ref().and_then(|closure| closure.entries.get(&jail_path(real)));
        let otherwise = entry.map(|entry| match super::position(self.spec, &entry.reason) {
            Some(at) => format!("{} ({at})", entry.reason),
            None => entry.reason.to_string(),
        });
        Some(Fact::Excluded { pattern: pattern.value.clone(), at: pattern.at.clone(), otherwise })
    }

    /// What brings the file at `real`, tried.
    fn suggestions(&self, path: &JailPath, real: &Path, kind: FileKind, mode: u32) -> Vec<Suggestion> {
        let (Some(written), Some(name)) =
            (path.as_path().to_str(), path.as_path().file_name().and_then(OsStr::to_str))
        else {
            return Vec::new();
        };
        // What a person is to paste must be what it looks like.
        if written.chars().any(char::is_control) {
            return Vec::new();
        }
        let leads_here = |found: PathBuf| self.root.resolve(&found).is_ok_and(|found| found.real == real);
        // A name may hold what a pattern takes for a wildcard.
        let pattern = globset::escape(written);
        let mut candidates: Vec<(&'static str, &str)> = Vec::new();
        if kind == FileKind::Regular {
            if name.contains(".so") {
                candidates.push(("libraries", name));
            } else if find_program(self.root, OsStr::new(name)).is_some_and(leads_here) {
                candidates.push(("programs", name));
            } else if mode & 0o111 != 0 {
                candidates.push(("programs", written));
            }
        }
        candidates.push(("files", &pattern));
        let tried = candidates.into_iter().find(|(key, value)| self.brings(key, value, real));
        tried.map(|(key, value)| Suggestion { key, value: value.to_owned() }).into_iter().collect()
    }

    fn brings(&self, key: &str, value: &str, real: &Path) -> bool {
        let at = Position { file: Arc::from(""), line: 0, column: 0 };
        let one = |value: &str| vec![Placed { value: value.to_owned(), at: at.clone() }];
        let exclude = self.spec.rootfs.exclude.clone();
        let rootfs = match key {
            "programs" => RootfsSpec { programs: one(value), exclude, ..RootfsSpec::default() },
            // The loader of the first program finds libraries.
            "libraries" => {
                let programs = self.spec.rootfs.programs.clone();
                RootfsSpec { libraries: one(value), programs, exclude, ..RootfsSpec::default() }
            }
            _ => {
                let rule = FileRule::Glob { pattern: value.to_owned(), optional: false };
                let files = vec![Placed { value: rule, at: at.clone() }];
                RootfsSpec { files, exclude, ..RootfsSpec::default() }
            }
        };
        let spec = Spec { rootfs, ..self.spec.clone() };
        resolve(&spec, self.root).is_ok_and(|closure| closure.entries.contains_key(&jail_path(real)))
    }
}
