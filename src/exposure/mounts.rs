//! The host files that a jail sees, each weighed by what it holds.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::Row;
use super::dangers::{self, Kind};
use super::located::{self, Homes, Located, Relation};
use crate::caller::Caller;
use crate::jail::mounted::Mounted;
use crate::jail::plan::{Plan, Step};
use crate::layer::mounts::{self, Tree};
use crate::layer::place::{self, Place};
use crate::path::printable;
use crate::spec::RESOLVER;

/// The most that one mount leaves open.
const MOST: u32 = 90;

/// How a workspace under review is mounted.
const REVIEWED: &str = "overlay: changes wait for review";
/// A socket of which nothing is known: one server, less than the host's whole network.
const SOCKET: u32 = 10;

/// What is kept for root alone in a directory of root's.
const AS_ROOT: u32 = 10;

/// Directories that hold more than any command needs.
const WIDE: &[&str] = &["/", "/home", "/root", "/var", "/run", "/etc", "/mnt", "/media", "/srv", "/tmp"];

/// Directories of installed programs: there to be read, and run by others.
const INSTALLED: &[&str] = &["/usr", "/opt", "/bin", "/sbin", "/lib", "/lib64", "/nix", "/snap"];

/// Names that are told of one kind.
const TOLD: usize = 3;

/// One row for each host file or directory of the plan.
pub(super) fn rows(plan: &Plan, caller: &Caller) -> Vec<Row> {
    let mounted = plan.steps.iter().filter_map(|step| match step {
        Step::Mount(Mounted::Host(mount)) => Some((&mount.tree, &mount.place, None)),
        // What the jail writes reaches the host only when somebody has looked at it.
        Step::Mount(Mounted::Overlay(overlay)) => Some((&overlay.lower, &overlay.place, Some(REVIEWED))),
        _ => None,
    });
    // The file that names the host's resolvers comes with its network, and is weighed there.
    let mounted: Vec<(&Tree, &Place, Option<&str>)> = mounted
        .filter(|(tree, place, _)| !(tree.flags.read_only && place.path().as_path() == Path::new(RESOLVER)))
        .collect();
    // Of a directory that is not made yet, the path is as written.
    let sources: Vec<PathBuf> =
        mounted.iter().map(|(tree, ..)| located::without_links(tree.source.real_path())).collect();
    let homes = Homes::of(caller, &sources);
    let dangers = located::all(caller, &homes);
    let mut rows = Vec::new();
    let mut of_root: Vec<&Path> = Vec::new();
    for ((tree, place, how), source) in mounted.into_iter().zip(&sources) {
        rows.push(row(tree, source, place, how, &dangers, &homes));
        // The parts of a mount that are mounts again give no more than the whole.
        if is_read_as_root(tree) && !of_root.iter().any(|above| source.starts_with(above)) {
            rows.push(read_as_root(tree, place));
            of_root.push(source);
        }
    }
    rows
}

/// A single file is what the spec says; what is in a directory of root's for root alone, nobody has looked up.
fn is_read_as_root(tree: &Tree) -> bool {
    tree.is_read_as_root() && tree.source.kind == place::Kind::Directory
}

fn read_as_root(tree: &Tree, place: &Place) -> Row {
    let found = format!("{}: the jail reads what only they may read in it", mounts::As(tree));
    Row::new(format!("{} as root", place.path()), AS_ROOT, AS_ROOT, found).advice(
        "name the single files that the command reads, or let the directory belong to another user than root",
    )
}

/// `source` is the tree's without links.
fn row(
    tree: &Tree,
    source: &Path,
    place: &Place,
    how: Option<&str>,
    dangers: &[Located],
    homes: &Homes,
) -> Row {
    let flags = tree.flags;
    let writable = !flags.read_only;
    let is_wide = WIDE.iter().any(|wide| Path::new(wide) == source) || homes.are_within(source);
    let is_installed = INSTALLED.iter().any(|directory| source.starts_with(directory));
    let sockets = sockets(source);

    let mut exposure = match (writable, flags.noexec) {
        (false, _) => 1,
        (true, true) => 4,
        (true, false) => 5,
    };
    let how = how.map_or_else(|| mounts::Words(flags).to_string(), str::to_owned);
    let mut found = vec![how, printable(tree.source.real_path().as_os_str()).to_string()];
    let mut advice = writable.then_some("mode = \"read-only\", if the command only reads");
    if is_wide {
        exposure = exposure.max(if writable { 60 } else { 20 });
        found.push("very wide".into());
        advice = Some("name the directories that the command needs");
    } else if writable && is_installed {
        exposure = exposure.max(70);
        found.push("programs of the host".into());
    }
    let mut kinds = Vec::new();
    if !sockets.is_empty() {
        exposure = exposure.max(SOCKET);
        let what = match sockets.iter().find(|socket| **socket != source).and_then(|path| path.file_name()) {
            None => "a socket".to_owned(),
            Some(name) => format!("holds the socket {}", printable(name)),
        };
        found.push(format!("{what}: the jail gets what its server gives"));
        if !is_wide {
            advice = Some("leave it out, if the command does not need that server");
        }
    }
    for kind in sockets.iter().filter_map(|socket| dangers::socket(socket)) {
        if !kinds.iter().any(|met: &Met<'_>| met.kind == kind) {
            kinds.push(Met { kind, relation: Relation::Is, names: Vec::new() });
        }
    }
    for danger in dangers {
        let Some(relation) = danger.relation(source, writable) else { continue };
        match kinds.iter_mut().find(|met: &&mut Met<'_>| met.kind == danger.kind) {
            // A socket that is known by its place, too.
            Some(met) if met.names.is_empty() => {
                *met = Met { kind: danger.kind, relation, names: vec![&danger.name] };
            }
            // The closest is told.
            Some(met) if met.relation < relation => {}
            Some(met) if met.relation == relation => met.names.push(&danger.name),
            Some(met) => *met = Met { kind: danger.kind, relation, names: vec![&danger.name] },
            None => kinds.push(Met { kind: danger.kind, relation, names: vec![&danger.name] }),
        }
    }
    let mut most = 1;
    for met in kinds {
        let weight = if writable { met.kind.write } else { met.kind.read };
        if weight <= 1 {
            continue;
        }
        found.push(met.words(writable));
        exposure = exposure.max(weight);
        if weight > most {
            most = weight;
            advice = Some(met.kind.cure);
        }
    }
    let row = Row::new(place.path().to_string(), exposure, MOST, found.join(", "));
    match advice {
        Some(advice) => row.advice(advice),
        None => row,
    }
}

/// Entries of a directory that are looked at for sockets.
const ENTRIES: usize = 1024;

/// The socket that is mounted, or those at the top of a directory: to connect to one, it need not be writable.
fn sockets(source: &Path) -> Vec<PathBuf> {
    let is_socket =
        |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let below = fs::read_dir(source).into_iter().flatten().flatten().take(ENTRIES).map(|entry| entry.path());
    [source.to_owned()].into_iter().chain(below).filter(is_socket).collect()
}

/// Dangers of one kind that a mount has to do with.
struct Met<'a> {
    kind: &'static Kind,
    relation: Relation,
    names: Vec<&'a str>,
}

impl Met<'_> {
    fn words(&self, writable: bool) -> String {
        let why = if writable { self.kind.writes } else { self.kind.reads };
        let relation = match self.relation {
            Relation::Is => "is",
            Relation::Holds => "holds",
            Relation::Makes => "can make",
        };
        match self.names.as_slice() {
            [] => why.to_owned(),
            names => {
                let told = names.iter().take(TOLD).copied().collect::<Vec<_>>().join(", ");
                match names.len().saturating_sub(TOLD) {
                    0 => format!("{relation} {told}: {why}"),
                    more => format!("{relation} {told} and {more} more: {why}"),
                }
            }
        }
    }
}
