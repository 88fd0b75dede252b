//! Brings changes over to the host, each path whole or not at all.
//!
//! A file is written beside its place under a name of jailmk's own and then takes the place by one rename(2),
//! which exchanges the two where there is an old file: so it can be seen, after the fact, that the old one was
//! the one that the change was made to, and taken back if not. What was displaced is removed last. The one
//! path under way is in the session's `pending`, from which a later call finishes what a kill cut short.
//!
//! The jail's side is taken out of the upper layer only after the host's side is on the disk.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use nix::errno::Errno;
use nix::unistd::syncfs;

use super::changes::{Change, Changes, Conflict, Kind, Never};
use super::clash::Clash;
use super::commit::Unfit;
use super::error::ReviewError;
use super::journal::{Journal, Record, Stamp, Time};
use super::merge::{self, Merged, Merging};
use super::patch::Sides;
use super::path::WorkPath;
use super::place::Placing;
use super::policy::{Judgement, Policy};
use super::renames::Renames;
use super::session::Session;
use super::tree::{Node, Tree};
use super::upper::Upper;

/// Changes whose host side is synced to the disk together.
const BATCH: usize = 512;

/// What is taken over.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// At or below these; everything when empty.
    pub paths: Vec<WorkPath>,
    /// Protected paths that are taken over all the same, with what is below them.
    pub protected: Vec<WorkPath>,
    /// Take the jail's side of conflicts.
    pub overwrite: bool,
    /// Merge text files that both sides changed.
    pub merge: bool,
}

/// What somebody who is asked decides about a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is taken over.
    Whole,
    /// The host's file becomes this; the rest stays a change.
    Part(Vec<u8>),
    /// It stays a change.
    Not,
}

/// Asks about one change.
pub type Ask<'a> = &'a mut dyn FnMut(&Change, &Sides<'_>) -> std::io::Result<Decision>;

/// Why a change was not taken over.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Left {
    /// It is protected.
    #[error("held back: {0}")]
    Held(String),
    /// The host's side is another than the jail saw.
    #[error("conflict: {0}")]
    Conflict(Clash),
    /// It never is.
    #[error("never applied: {0}")]
    Never(Never),
    /// A directory in which something stays.
    #[error("not empty: something in it stays")]
    NotEmpty,
    /// A directory that it would be in is not there.
    #[error("its directory is not there: it was left as well")]
    NoDirectory,
    /// The owner of the file could not be kept.
    #[error("it belongs to another user, which you cannot give a new file to")]
    Owner,
    /// A commit has no room for it.
    #[error("{0}")]
    Unfit(Unfit),
    /// A system call failed.
    #[error("cannot {verb} it: {}", .cause.desc())]
    Failed {
        /// What was wanted.
        verb: &'static str,
        /// Why.
        cause: Errno,
    },
}

impl From<Conflict> for Left {
    fn from(conflict: Conflict) -> Left {
        Left::Conflict(conflict.into())
    }
}

impl Left {
    /// The same, told with what is known of the change.
    fn told(self, change: &Change, choice: &Choice, journal: &Journal) -> Left {
        match self {
            Left::Conflict(clash) => {
                let mut clash = clash.of(change);
                clash.can_merge = !choice.merge && merge::can_be_tried(change, journal.get(&change.path));
                Left::Conflict(clash)
            }
            other => other,
        }
    }

    /// Whether it is told of a change: a directory that is not shown says no more by some of these than what
    /// is in it.
    pub(super) fn is_told_of(&self, change: &Change) -> bool {
        change.is_shown() || !matches!(self, Left::Held(_) | Left::NotEmpty)
    }
}

/// What became of the changes.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Taken over, with warnings.
    pub applied: Vec<(Kind, WorkPath, Option<&'static str>)>,
    /// Those of them whose two sides were merged.
    pub merged: BTreeSet<WorkPath>,
    /// Left where they are.
    pub left: Vec<(Kind, WorkPath, Left)>,
}

/// Takes changes over.
///
/// # Errors
/// The session cannot be used, or the disk fails. What fails for one path is in the outcome.
pub fn apply(
    session: &mut Session,
    policy: &Policy,
    choice: &Choice,
    ask: Option<Ask<'_>>,
) -> Result<Outcome, ReviewError> {
    session.lock_to("apply")?;
    session.check_saved()?;
    let (upper, host) = (session.upper()?, session.host()?);
    let mut changes = session.changes()?;
    let judgements = policy.judge(&mut changes, &upper, &host);
    let (mut selected, parts) = choose(&changes, &judgements, choice, (&upper, &host), ask)?;
    drop_ways_to_nothing(&mut selected, choice);
    session.mark_unaccounted()?;
    let work = Work::new(session, &upper, &host, choice.overwrite);
    let merging = Merging::new(session, &upper, &host);
    let mut journal = session.journal()?;
    let mut outcome = Outcome::default();
    let mut partly = Vec::new();
    // ORDER: what must go before what takes its place; of the former, what is inside first.
    let gone = selected.iter().rev().filter(|(change, _)| change.kind == Kind::Deleted);
    let rest = selected.iter().filter(|(change, _)| change.kind != Kind::Deleted);
    let order: Vec<_> = gone.chain(rest).collect();
    for batch in order.chunks(BATCH) {
        let mut done = Vec::new();
        for (change, judgement) in batch {
            let left = match refusal(change, judgement, choice) {
                None => work.placing.take_over(change, parts.get(&change.path)),
                Some(Left::Conflict(clash)) if choice.merge => {
                    work.merge(&merging, change, &journal, clash).map(|()| {
                        outcome.merged.insert(change.path.clone());
                    })
                }
                Some(left) => Err(left),
            };
            match left {
                Ok(()) => {
                    match parts.contains_key(&change.path) {
                        true => partly.push(&change.path),
                        false => done.push(*change),
                    }
                    if change.is_shown() {
                        outcome.applied.push((change.kind, change.path.clone(), judgement.warning));
                    }
                }
                Err(left) if left.is_told_of(change) => {
                    let left = left.told(change, choice, &journal);
                    outcome.left.push((change.kind, change.path.clone(), left));
                }
                Err(_) => {}
            }
        }
        syncfs(host.top()).map_err(|cause| session.failed("sync", "the workspace", cause))?;
        work.drop_entries(&done, &mut journal)?;
    }
    // What is left of them is a change of the file as it is now.
    for path in partly {
        let before = host.status(path).ok().flatten().as_ref().map(Stamp::of);
        journal.put(path, Record::new(Time::now(), before));
    }
    session.save(&journal)?;
    work.prune(selected.iter().map(|(change, _)| &change.path), &mut journal)?;
    session.account()?;
    outcome.applied.sort_by(|a, b| a.1.cmp(&b.1));
    outcome.left.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(outcome)
}

/// Drops changes: the jail then sees what the host has there.
///
/// # Errors
/// The session cannot be used; nothing was changed at or below one of the paths.
pub fn discard(session: &mut Session, chosen: &[WorkPath]) -> Result<Vec<(Kind, WorkPath)>, ReviewError> {
    session.lock_to("discard")?;
    let changes = session.changes()?.choose(chosen)?;
    session.mark_unaccounted()?;
    let (upper, host) = (session.upper()?, session.host()?);
    let work = Work::new(session, &upper, &host, false);
    let mut journal = session.journal()?;
    let mut dropped = Vec::new();
    let mut above: Option<&WorkPath> = None;
    for change in changes.iter() {
        // With an entry goes what is below it.
        if above.is_none_or(|above| !change.path.is_within(above)) {
            work.drop_entry(&change.path, &mut journal)?;
            above = Some(&change.path);
        }
        if change.is_shown() {
            dropped.push((change.kind, change.path.clone()));
        }
    }
    work.prune(changes.iter().map(|change| &change.path), &mut journal)?;
    session.account()?;
    Ok(dropped)
}

/// Takes out of the upper layer what the host has anyway.
///
/// # Errors
/// A tree cannot be read, or the upper layer not be changed.
pub(super) fn drop_idle(session: &Session) -> Result<(), ReviewError> {
    let (upper, host) = (session.upper()?, session.host()?);
    let mut journal = session.journal()?;
    let work = Work::new(session, &upper, &host, false);
    let idle = session.changes()?.idle;
    for path in &idle {
        work.drop_entry(path, &mut journal)?;
    }
    work.prune(idle.iter(), &mut journal)
}

/// Changes with what is said about them, and what becomes of those that come over in part.
pub(super) type Chosen<'a> = (Vec<(&'a Change, &'a Judgement)>, BTreeMap<WorkPath, Vec<u8>>);

/// The changes that were chosen, also by who is asked; of the trees, the jail's goes first.
pub(super) fn choose<'a>(
    changes: &'a Changes,
    judgements: &'a [Judgement],
    choice: &Choice,
    (upper, host): (&Tree, &Tree),
    ask: Option<Ask<'_>>,
) -> Result<Chosen<'a>, ReviewError> {
    let mut selected = select(changes, judgements, choice)?;
    let mut parts = BTreeMap::new();
    if let Some(ask) = ask {
        let renames = Renames::default();
        let sides = Sides { upper, host, renames: &renames };
        decide(&mut selected, &mut parts, choice, &sides, ask)?;
    }
    Ok((selected, parts))
}

/// Asks about each change that can be taken over; a new directory comes along where something in it does.
fn decide<'a>(
    selected: &mut Vec<(&'a Change, &'a Judgement)>,
    parts: &mut BTreeMap<WorkPath, Vec<u8>>,
    choice: &Choice,
    sides: &Sides<'_>,
    ask: Ask<'_>,
) -> Result<(), ReviewError> {
    let mut taken: BTreeSet<WorkPath> = BTreeSet::new();
    for (change, judgement) in selected.iter() {
        if !change.is_shown() || refusal(change, judgement, choice).is_some() {
            continue;
        }
        match ask(change, sides).map_err(ReviewError::Output)? {
            Decision::Not => continue,
            Decision::Whole => {}
            Decision::Part(bytes) => drop(parts.insert(change.path.clone(), bytes)),
        }
        taken.extend(change.path.parents());
        taken.insert(change.path.clone());
    }
    selected.retain(|(change, judgement)| match change.is_shown() {
        true => taken.contains(&change.path) || refusal(change, judgement, choice).is_some(),
        false => taken.contains(&change.path),
    });
    Ok(())
}

/// The chosen changes, and the new directories on the way to them.
fn select<'a>(
    changes: &'a Changes,
    judgements: &'a [Judgement],
    choice: &Choice,
) -> Result<Vec<(&'a Change, &'a Judgement)>, ReviewError> {
    for path in choice.paths.iter().chain(&choice.protected) {
        if !changes.iter().any(|change| change.path.is_within(path)) {
            return Err(ReviewError::Unchanged { path: path.clone() });
        }
    }
    let chosen = |path: &WorkPath| {
        choice.paths.is_empty()
            || choice.paths.iter().any(|chosen| path.is_within(chosen) || chosen.is_within(path))
    };
    let is_way = |change: &Change| {
        // Above a chosen path only what it needs.
        choice.paths.is_empty()
            || choice.paths.iter().any(|chosen| change.path.is_within(chosen))
            || matches!(change.kind, Kind::Added | Kind::Type) && change.node() == Node::Directory
    };
    Ok(changes.iter().zip(judgements).filter(|(change, _)| chosen(&change.path) && is_way(change)).collect())
}

/// A new directory of which all is left is no change of its own: the host is to have no empty one of it.
fn drop_ways_to_nothing(selected: &mut Vec<(&Change, &Judgement)>, choice: &Choice) {
    let comes = |(change, judgement): &&(&Change, &Judgement)| {
        change.is_shown() && refusal(change, judgement, choice).is_none()
    };
    let ways: BTreeSet<WorkPath> =
        selected.iter().filter(comes).flat_map(|(change, _)| change.path.parents()).collect();
    selected
        .retain(|(change, _)| change.is_shown() || change.kind != Kind::Added || ways.contains(&change.path));
}

/// Why a change is not taken over, whatever the host has.
pub(super) fn refusal(change: &Change, judgement: &Judgement, choice: &Choice) -> Option<Left> {
    if let Some(never) = change.never {
        return Some(Left::Never(never));
    }
    if let Some(held) = &judgement.held
        && !choice.protected.iter().any(|path| change.path.is_within(path))
    {
        return Some(Left::Held(held.clone()));
    }
    change.conflict.filter(|_| !choice.overwrite).map(Left::from)
}

struct Work<'a> {
    session: &'a Session,
    placing: Placing<'a>,
    upper: Upper<'a>,
}

impl<'a> Work<'a> {
    fn new(session: &'a Session, upper: &'a Tree, host: &'a Tree, overwrite: bool) -> Work<'a> {
        Work {
            session,
            placing: Placing { session, host, upper, overwrite },
            upper: Upper { upper, host, session: session.fd(), clear: RefCell::default() },
        }
    }

    /// Puts what both sides changed in place of the host's.
    fn merge(
        &self,
        merging: &Merging<'_>,
        change: &Change,
        journal: &Journal,
        clash: Clash,
    ) -> Result<(), Left> {
        if !merge::can_be_tried(change, journal.get(&change.path)) {
            return Err(Left::Conflict(clash));
        }
        match merging.merge(change, journal) {
            Ok(Merged::There) => Ok(()),
            Ok(Merged::Text(merged, text)) => self.placing.take_over(&merged, Some(&text)),
            Err(why) => Err(Left::Conflict(clash.unmerged(why))),
        }
    }

    /// Takes what the host has now out of the upper layer.
    fn drop_entries(&self, done: &[&Change], journal: &mut Journal) -> Result<(), ReviewError> {
        for change in done {
            let is_directory = change.jail.as_deref().is_some_and(|jail| Node::of(jail) == Node::Directory);
            if change.own_entry && !is_directory {
                self.drop_entry(&change.path, journal)?;
            }
        }
        Ok(())
    }

    fn drop_entry(&self, path: &WorkPath, journal: &mut Journal) -> Result<(), ReviewError> {
        let save = |journal: &Journal| self.session.store(journal);
        self.upper
            .remove(path, journal, &save)
            .map_err(|cause| self.session.failed("take a change out of", "layers/upper", cause))
    }

    /// Takes directories out that say nothing any more: those of the paths, and those on the way to them.
    fn prune<'p>(
        &self,
        paths: impl Iterator<Item = &'p WorkPath>,
        journal: &mut Journal,
    ) -> Result<(), ReviewError> {
        let mut directories = BTreeSet::new();
        for path in paths {
            let mut here = Some(path.clone());
            // Where one is known, those above it are.
            while let Some(directory) = here.filter(|directory| !directories.contains(directory)) {
                here = directory.parent();
                if !directory.is_too_long() {
                    directories.insert(directory);
                }
            }
        }
        let save = |journal: &Journal| self.session.store(journal);
        // The deepest first.
        for directory in directories.iter().rev() {
            self.upper
                .prune(directory, journal, &save)
                .map_err(|cause| self.session.failed("tidy", "layers/upper", cause))?;
        }
        Ok(())
    }
}
