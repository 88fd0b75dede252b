//! `files` and `packages`: globs, copies and texts of the spec.

use std::path::{Path, PathBuf};

use globset::{Glob, GlobMatcher};
use walkdir::{DirEntry, WalkDir};

use super::close::{Demand, Incoming, Moved};
use super::collect::{Collector, glob, virtual_top};
use super::packages;
use super::root::{FileKind, Opened, RootError, SourceRoot, jail_path};
use super::{ClosureError, Node, Note, Reason};
use crate::path::{HostPath, JailPath};
use crate::rootfs::without_dots;
use crate::spec::{FileRule, Placed, Position, SourceOrigin, Spec};

/// Every program loads what this lists: the host's own libraries have no place in a jail. A spec that
/// wants such a file writes or copies one by name.
const HOST_PRELOAD: &str = "/etc/ld.so.preload";

/// Enters one element of `files`.
pub fn enter_rule(
    collector: &mut Collector<'_>,
    spec: &Spec,
    rule: &Placed<FileRule>,
) -> Result<(), ClosureError> {
    match &rule.value {
        FileRule::Glob { pattern, optional } => enter_glob(collector, pattern, *optional, &rule.at),
        FileRule::Copy { from, to, mode, optional } => {
            // What lies beside the spec is the host's, whatever tree the rest is taken from.
            let beside = spec_directory(spec, from);
            let host = match beside {
                Some(_) if !collector.root.is_host() => Some(SourceRoot::host()?),
                _ => None,
            };
            let source = host.as_ref().unwrap_or(collector.root);
            enter_copy(collector, source, beside, from, to, *mode, *optional, &rule.at)
        }
        FileRule::Content { content, to, mode } => {
            let reason = Reason::Spec { key: "files", value: to.to_string() };
            let to = collector.settle(to)?;
            let bytes = content.clone().into_bytes();
            collector.insert(to, Node::Content { bytes, mode: mode.unwrap_or(0o444) & 0o555 }, reason)
        }
    }
}

/// The directory of a spec in which `path` is, by its name.
fn spec_directory<'a>(spec: &'a Spec, path: &Path) -> Option<&'a Path> {
    spec.sources.iter().find_map(|source| match &source.origin {
        SourceOrigin::File(file) => {
            file.parent().filter(|directory| directory.parent().is_some() && path.starts_with(directory))
        }
        SourceOrigin::BuiltIn(_) => None,
    })
}

/// Enters all files of one package.
pub fn enter_package(collector: &mut Collector<'_>, package: &Placed<String>) -> Result<(), ClosureError> {
    let root = collector.root;
    let (name, at) = (&package.value, &package.at);
    let broken = |cause| ClosureError::PackageDatabase { name: name.clone(), at: at.clone(), cause };
    let database = collector.packages().map_err(broken)?;
    let Some(database) = database.as_ref() else {
        return Err(ClosureError::NoPackageDatabase { name: name.clone(), at: at.clone() });
    };
    let index = database.find(name).map_err(|absent| ClosureError::UnknownPackage {
        name: name.clone(),
        at: at.clone(),
        absent,
    })?;
    let paths = database.files(root, index).map_err(broken)?;
    let reason = Reason::Spec { key: "packages", value: package.value.clone() };
    let mut missing = 0;
    for path in paths {
        let spellings = [Some(path.clone()), packages::other_spelling(&path)];
        let found = spellings.into_iter().flatten().find_map(|path| {
            let resolved = root.resolve_parent(&path).ok()?;
            let stat = root.stat(&resolved.real).ok()?;
            Some((path, resolved, FileKind::of(&stat)))
        });
        let Some((path, resolved, kind)) = found else {
            missing += 1;
            continue;
        };
        if collector.is_excluded(&path) || collector.is_excluded(&resolved.real) {
            continue;
        }
        collector.enter_crossed(&resolved, &reason)?;
        enter_node(collector, &resolved.real, kind, &reason)?;
    }
    if missing > 0 {
        collector.note(Note::PackageFilesMissing { package: package.value.clone(), count: missing });
    }
    Ok(())
}

/// Enters what is at `real`: not more than that of a directory, of a link also what it leads to.
fn enter_node(
    collector: &mut Collector<'_>,
    real: &Path,
    kind: FileKind,
    reason: &Reason,
) -> Result<(), ClosureError> {
    if real == Path::new("/") {
        return Ok(());
    }
    if virtual_top(&jail_path(real)).is_some() {
        if kind != FileKind::Directory {
            collector.note(Note::VirtualSkipped { path: real.to_owned() });
        }
        return Ok(());
    }
    if real == Path::new(HOST_PRELOAD) {
        collector.note(Note::HostPreloadSkipped);
        return Ok(());
    }
    match kind {
        FileKind::Directory => collector.insert(jail_path(real), Node::Directory, reason.clone()),
        FileKind::Regular => collector.enter_file(real, reason, Demand::Optional, 0),
        FileKind::Symlink => enter_link(collector, real, reason),
        FileKind::Fifo | FileKind::Socket | FileKind::Device => {
            collector.note(Note::SpecialFileSkipped { path: real.to_owned(), kind });
            Ok(())
        }
    }
}

fn enter_link(collector: &mut Collector<'_>, real: &Path, reason: &Reason) -> Result<(), ClosureError> {
    let target = collector.root.read_link(real)?;
    let resolved = collector.root.resolve(real);
    // A link to what is left out would dangle, and its name may tell of the target.
    if let Ok(resolved) = &resolved
        && (collector.is_excluded(&resolved.real)
            || resolved.links.iter().any(|(link, _)| link != real && collector.is_excluded(link)))
    {
        return Ok(());
    }
    collector.insert(jail_path(real), Node::Symlink(target), reason.clone())?;
    // A link that leads nowhere on the host leads nowhere in the jail; the end of the build says so.
    let Ok(resolved) = resolved else { return Ok(()) };
    let passes_virtual = |path: &Path| virtual_top(&jail_path(path)).is_some();
    if passes_virtual(&resolved.real)
        || resolved.links.iter().any(|(link, _)| passes_virtual(link))
        || resolved.left.iter().any(|directory| passes_virtual(directory))
    {
        return Ok(());
    }
    let stat = collector.root.stat(&resolved.real)?;
    let reason = Reason::NeededBy { by: jail_path(real), how: "symlink".to_owned() };
    collector.enter_crossed(&resolved, &reason)?;
    match FileKind::of(&stat) {
        FileKind::Directory if resolved.real != Path::new("/") => {
            collector.insert(jail_path(&resolved.real), Node::Directory, reason)
        }
        FileKind::Regular => collector.enter_file(&resolved.real, &reason, Demand::Optional, 0),
        _ => Ok(()),
    }
}

fn enter_glob(
    collector: &mut Collector<'_>,
    pattern: &str,
    optional: bool,
    at: &Position,
) -> Result<(), ClosureError> {
    if !pattern.starts_with('/') {
        return Err(ClosureError::RelativePattern { pattern: pattern.to_owned(), at: at.clone() });
    }
    let reason = Reason::Spec { key: "files", value: pattern.to_owned() };
    let plan = Plan::new(pattern, at)?;
    let root = collector.root;
    let mut matches = 0;
    if plan.is_literal() {
        if let Ok(resolved) = root.resolve_parent(&plan.prefix)
            && let Ok(stat) = root.stat(&resolved.real)
        {
            matches += 1;
            collector.enter_crossed(&resolved, &reason)?;
            let kind = FileKind::of(&stat);
            if kind == FileKind::Directory {
                // A directory that is named as such is meant with all that is in it.
                enter_below(collector, &plan, &resolved.real, &reason, &mut matches)?;
            }
            if !collector.is_excluded(&plan.prefix) {
                enter_node(collector, &resolved.real, kind, &reason)?;
            }
        }
    } else if let Ok(resolved) = root.resolve(&plan.prefix)
        && root.is_directory(&resolved.real)
    {
        let before = matches;
        enter_below(collector, &plan, &resolved.real, &reason, &mut matches)?;
        if matches > before {
            collector.enter_crossed(&resolved, &reason)?;
        }
    }
    if matches == 0 && !optional {
        return Err(ClosureError::NoMatch { pattern: pattern.to_owned(), at: at.clone() });
    }
    Ok(())
}

fn enter_below(
    collector: &mut Collector<'_>,
    plan: &Plan,
    real_prefix: &Path,
    reason: &Reason,
    matches: &mut usize,
) -> Result<(), ClosureError> {
    let mut places = vec![Spot { written: plan.prefix.clone(), real: real_prefix.to_owned() }];
    for (depth, step) in plan.steps.iter().enumerate() {
        let is_last = depth + 1 == plan.steps.len() && !plan.open_ended;
        let mut below = Vec::new();
        for place in &places {
            collector.root.look_at(&place.real);
            let names = collector
                .root
                .list(&place.real)
                .map_err(|cause| ClosureError::List { path: place.real.clone(), cause: cause.into() })?;
            for name in names.iter().filter(|name| step.is_match(Path::new(name))) {
                let spot = Spot { written: place.written.join(name), real: place.real.join(name) };
                // What goes between the look at the directory and this one was not there.
                let Ok(stat) = collector.root.stat(&spot.real) else { continue };
                match FileKind::of(&stat) {
                    kind if is_last => enter_match(collector, plan, &spot, kind, reason, matches)?,
                    FileKind::Directory if !spot.is_barren(collector) => below.push(spot),
                    _ => {}
                }
            }
        }
        places = below;
    }
    if plan.is_literal() || plan.open_ended {
        for place in places {
            enter_all_below(collector, plan, &place, reason, matches)?;
        }
    }
    Ok(())
}

fn enter_all_below(
    collector: &mut Collector<'_>,
    plan: &Plan,
    top: &Spot,
    reason: &Reason,
    matches: &mut usize,
) -> Result<(), ClosureError> {
    let host_top = collector.root.host_path(&top.real);
    collector.root.look_at(&top.real);
    let mut walk = walk(&host_top).into_iter();
    while let Some(entry) = walk.next() {
        let entry = entry.map_err(|error| list_error(&top.real, error))?;
        let Ok(relative) = entry.path().strip_prefix(&host_top) else { continue };
        let spot = Spot { written: top.written.join(relative), real: top.real.join(relative) };
        let kind = kind(entry.file_type());
        if kind == FileKind::Directory {
            collector.root.look_at(&spot.real);
            if spot.is_barren(collector) {
                walk.skip_current_dir();
            }
        }
        enter_match(collector, plan, &spot, kind, reason, matches)?;
    }
    Ok(())
}

fn enter_match(
    collector: &mut Collector<'_>,
    plan: &Plan,
    spot: &Spot,
    kind: FileKind,
    reason: &Reason,
    matches: &mut usize,
) -> Result<(), ClosureError> {
    let Spot { written, real } = spot;
    if !plan.matches(written)
        || virtual_top(&jail_path(real)).is_some()
        || collector.is_excluded(written)
        || collector.is_excluded(real)
    {
        return Ok(());
    }
    *matches += 1;
    enter_node(collector, real, kind, reason)
}

/// A path as a pattern has it, and where that really is.
struct Spot {
    written: PathBuf,
    real: PathBuf,
}

impl Spot {
    /// Whether nothing below the directory can enter.
    fn is_barren(&self, collector: &Collector<'_>) -> bool {
        virtual_top(&jail_path(&self.real)).is_some()
            || collector.is_excluded_below(&self.written)
            || collector.is_excluded_below(&self.real)
    }
}

/// All that is below a directory, each directory's names in order.
fn walk(top: &HostPath) -> WalkDir {
    // Whole paths, of which only the names differ: a name would be looked for in each of them first.
    let by_name = |a: &DirEntry, b: &DirEntry| a.path().as_os_str().cmp(b.path().as_os_str());
    WalkDir::new(top).follow_links(false).sort_by(by_name).min_depth(1)
}

fn kind(kind: std::fs::FileType) -> FileKind {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_file() {
        FileKind::Regular
    } else if kind.is_symlink() {
        FileKind::Symlink
    } else if kind.is_fifo() {
        FileKind::Fifo
    } else if kind.is_socket() {
        FileKind::Socket
    } else {
        FileKind::Device
    }
}

fn list_error(path: &Path, error: walkdir::Error) -> ClosureError {
    let path = error.path().unwrap_or(path).to_owned();
    ClosureError::List { path, cause: error.into() }
}

/// A pattern taken apart: where to begin, and what may be left out on the way.
struct Plan {
    /// The longest part without wildcards.
    prefix: PathBuf,
    whole: GlobMatcher,
    /// Matchers of the components below the prefix, up to `**`; empty where they cannot be told apart.
    steps: Vec<GlobMatcher>,
    /// Whether anything below the last step may match.
    open_ended: bool,
    literal: bool,
}

impl Plan {
    fn new(pattern: &str, at: &Position) -> Result<Plan, ClosureError> {
        let is_wild = |part: &str| part.contains(['*', '?', '[', ']', '{', '}', '\\']);
        let parts: Vec<&str> = pattern.split('/').filter(|part| !part.is_empty()).collect();
        let first_wild = parts.iter().position(|part| is_wild(part)).unwrap_or(parts.len());
        let prefix: PathBuf = std::iter::once("/").chain(parts[..first_wild].iter().copied()).collect();
        // What holds a slash in braces or brackets is cut in two here, and its halves are no patterns.
        let is_whole = |part: &str| {
            !part.contains(['[', '\\']) && part.matches('{').count() == part.matches('}').count()
        };
        let mut steps = Vec::new();
        let mut open_ended = false;
        for part in &parts[first_wild..] {
            if part.contains("**") || !is_whole(part) {
                open_ended = true;
                break;
            }
            steps.push(glob(part, at)?.compile_matcher());
        }
        // `//` and a slash at the end are no part of any path.
        let normal = format!("/{}", parts.join("/"));
        let whole: Glob = glob(&normal, at)?;
        Ok(Plan {
            prefix,
            whole: whole.compile_matcher(),
            steps,
            open_ended,
            literal: first_wild == parts.len(),
        })
    }

    fn is_literal(&self) -> bool {
        self.literal
    }

    fn matches(&self, path: &Path) -> bool {
        self.literal || self.whole.is_match(path)
    }
}

#[allow(clippy::too_many_arguments, reason = "the fields of the rule, and where it is taken from")]
fn enter_copy(
    collector: &mut Collector<'_>,
    source: &SourceRoot,
    beside: Option<&Path>,
    from: &Path,
    to: &JailPath,
    mode: Option<u32>,
    optional: bool,
    at: &Position,
) -> Result<(), ClosureError> {
    let copy_error = |cause| ClosureError::Copy { from: from.to_owned(), at: at.clone(), cause };
    let resolved = match source.resolve(from) {
        Ok(resolved) => resolved,
        Err(_) if optional => return Ok(()),
        Err(cause) => return Err(copy_error(cause)),
    };
    let stat = source.stat(&resolved.real).map_err(copy_error)?;
    let reason = Reason::Spec { key: "files", value: from.to_string_lossy().into_owned() };
    if source.is_host() {
        collector.refuse_written(&resolved, &reason)?;
        // Beside the spec is what came with it, and a link that came along could lead to anything.
        let real = &resolved.real;
        if beside.is_some_and(|top| without_dots(from).starts_with(top) && !real.starts_with(top)) {
            return Err(ClosureError::LedOut { from: from.to_owned(), at: at.clone(), real: real.clone() });
        }
    }
    let copy = Copy { source, reason: &reason, mode, at };
    match FileKind::of(&stat) {
        FileKind::Regular => copy.file(collector, &resolved.real, collector.settle(to)?, None),
        FileKind::Directory => copy.tree(collector, &resolved.real, to),
        kind => Err(ClosureError::CopyKind { from: from.to_owned(), at: at.clone(), kind }),
    }
}

struct Copy<'a> {
    source: &'a SourceRoot,
    reason: &'a Reason,
    mode: Option<u32>,
    at: &'a Position,
}

impl Copy<'_> {
    fn file(
        &self,
        collector: &mut Collector<'_>,
        real: &Path,
        to: JailPath,
        moved: Option<Moved<'_>>,
    ) -> Result<(), ClosureError> {
        let error = |errno| ClosureError::Copy {
            from: real.to_owned(),
            at: self.at.clone(),
            cause: RootError { path: real.to_owned(), errno },
        };
        match self.source.open_file(real).map_err(error)? {
            Opened::Regular(file, stat) => {
                let Copy { source, reason, mode, .. } = *self;
                let demand = Demand::Optional;
                let incoming = Incoming { real, to, mode, reason, demand, depth: 0, moved };
                collector.enter_opened(source, (file, stat), incoming)
            }
            Opened::Other(kind) => {
                collector.note(Note::SpecialFileSkipped { path: real.to_owned(), kind });
                Ok(())
            }
        }
    }

    fn tree(&self, collector: &mut Collector<'_>, real: &Path, to: &JailPath) -> Result<(), ClosureError> {
        let to = collector.settle(to)?;
        if to != JailPath::root() {
            collector.insert(to.clone(), Node::Directory, self.reason.clone())?;
        }
        let host: HostPath = self.source.host_path(real);
        self.source.look_at(real);
        for entry in walk(&host) {
            let entry = entry.map_err(|error| list_error(real, error))?;
            let Ok(relative) = entry.path().strip_prefix(&host) else { continue };
            let target = to.below(relative);
            if collector.is_excluded(target.as_path()) {
                continue;
            }
            let here = real.join(relative);
            match kind(entry.file_type()) {
                FileKind::Directory => {
                    self.source.look_at(&here);
                    collector.insert(target, Node::Directory, self.reason.clone())?;
                }
                FileKind::Regular => {
                    self.file(
                        collector,
                        &here,
                        collector.settle_parent(&target)?,
                        Some(Moved { from: real }),
                    )?;
                }
                FileKind::Symlink => {
                    let link = self.source.read_link(&here)?;
                    collector.insert(target, Node::Symlink(link), self.reason.clone())?;
                }
                kind => collector.note(Note::SpecialFileSkipped { path: here, kind }),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The directories of a tree that the pattern has looked into, and what it found.
    fn looks(name: &str, pattern: &str) -> (Vec<String>, Vec<String>) {
        let top = std::env::temp_dir().join(format!("jailmk-files-{name}-{}", std::process::id()));
        for file in ["a-gnu/x/f", "a-gnu/y/f", "b-gnu/x/f", "c-gnu/x/f", "share/y"] {
            let file = top.join("lib").join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        let root = SourceRoot::open(HostPath::absolute(&top).unwrap()).unwrap();
        let spec = crate::spec::parse(&format!("[rootfs]\nfiles = [\"{pattern}\"]\n"), "x.toml").unwrap();
        let mut collector = Collector::new(&root, &spec).unwrap();
        enter_rule(&mut collector, &spec, &spec.rootfs.files[0]).unwrap();
        let found = collector.closure.entries.iter().filter(|(_, entry)| entry.node != Node::Directory);
        let found = found.map(|(path, _)| path.to_string()).collect();
        let inside = |path: HostPath| {
            let inside = path.as_path().strip_prefix(&top).unwrap().to_str().unwrap().to_owned();
            top.join(&inside).is_dir().then_some(inside)
        };
        let looked_at = root.looked_at().into_iter().filter_map(inside).collect();
        std::fs::remove_dir_all(&top).unwrap();
        (looked_at, found)
    }

    #[test]
    fn only_directories_that_a_pattern_can_match_in_are_looked_into() {
        let (directories, found) = looks("steps", "/lib/{a,b}-gnu/x/*");
        assert_eq!(found, ["/lib/a-gnu/x/f", "/lib/b-gnu/x/f"]);
        let into = |name: &str| directories.iter().any(|directory| directory == name);
        assert!(into("lib/a-gnu/x") && into("lib/b-gnu/x"), "{directories:?}");
        assert!(!into("lib/c-gnu") && !into("lib/a-gnu/y"), "{directories:?}");
    }

    #[test]
    fn two_stars_match_at_any_depth() {
        let (_, found) = looks("stars", "/lib/?-gnu/**/f");
        assert_eq!(found, ["/lib/a-gnu/x/f", "/lib/a-gnu/y/f", "/lib/b-gnu/x/f", "/lib/c-gnu/x/f"]);
    }

    #[test]
    fn a_slash_in_braces_or_brackets_hides_nothing() {
        assert_eq!(looks("braces", "/lib/{a-gnu/x,share}/{f,y}").1, ["/lib/a-gnu/x/f", "/lib/share/y"]);
        assert_eq!(looks("brackets", "/lib/a[!/]gnu/y/f").1, ["/lib/a-gnu/y/f"]);
    }
}
