//! A conflict as it is told: what the jail did, what became of the host's, and why they were not merged.

use std::fmt;

use super::changes::{Change, Conflict, Kind};
use super::journal::{Stamp, Time};
use super::merge::Unmerged;
use super::tree::Node;
use crate::date::date;

/// A conflict with what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clash {
    /// What became of the host's.
    pub conflict: Conflict,
    /// Why a merge failed that was tried.
    pub unmerged: Option<Unmerged>,
    /// Whether one was not tried that could be.
    pub can_merge: bool,
    sides: Option<Sides>,
}

/// What the jail did, and when the files of both became what they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sides {
    kind: Kind,
    node: Node,
    times: Option<(Time, Time)>,
}

impl From<Conflict> for Clash {
    fn from(conflict: Conflict) -> Clash {
        Clash { conflict, unmerged: None, can_merge: false, sides: None }
    }
}

impl Clash {
    /// The same, when a merge was tried.
    pub(super) fn unmerged(self, why: Unmerged) -> Clash {
        Clash { unmerged: Some(why), ..self }
    }

    /// The same with what is known of the change.
    pub(super) fn of(self, change: &Change) -> Clash {
        let time = |stat| Stamp::of(stat).changed;
        let times = change.jail.as_deref().map(time).zip(change.host.as_deref().map(time));
        // What was found out only when the file was to be replaced is of a later time than was looked up.
        let times = times.filter(|_| change.conflict.is_some());
        Clash { sides: Some(Sides { kind: change.kind, node: change.node(), times }), ..self }
    }
}

impl fmt::Display for Clash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Sides { kind, node, times }) = &self.sides else { return self.conflict.fmt(f) };
        match (kind, self.conflict) {
            (Kind::Deleted, _) => f.write_str("the jail deleted it")?,
            // The kind is by what the host has now: what the jail added is a change of what the host has made.
            (Kind::Added, Conflict::Made | Conflict::Changed) | (_, Conflict::Made) => {
                f.write_str("the jail added it")?;
            }
            (Kind::Added | Kind::Changed, _) => f.write_str("the jail changed it")?,
            (Kind::Mode, _) => f.write_str("the jail changed its mode")?,
            (Kind::Type, _) => write!(f, "the jail made it a {}", node.word())?,
        }
        write!(f, ", and {}", self.conflict)?;
        if let Some((jail, host)) = times.and_then(|(jail, host)| written(jail).zip(written(host))) {
            write!(f, " (the jail's is of {jail}, the host's of {host})")?;
        }
        match &self.unmerged {
            Some(why) => write!(f, "; not merged: {why}"),
            None => Ok(()),
        }
    }
}

fn written(time: Time) -> Option<String> {
    time.seconds.try_into().ok().map(date)
}
