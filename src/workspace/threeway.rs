//! Two changed texts and what both were made from, put together by lines.
//!
//! Each side's changes are runs of lines of the base with what stands in their place. Runs of the two that
//! overlap or touch are one place; a place that one side changed is that side's, one that both changed must
//! have become the same. Touching counts, as for git: which of two lines at one place comes first nobody knows.
//!
//! Without a deadline Myers's algorithm takes hours for two texts that have nothing in common, which is why
//! this stands on `similar` and not on diffy's merge.

use std::fmt;
use std::ops::Range;
use std::time::Instant;

use similar::DiffTag;

use super::patch::{differences, lines};

/// Places that are named before the rest is counted.
const NAMED: usize = 3;

/// Lines of each side's text, counted from 0, that stand at one place of the base and are not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Of the host's.
    pub host: Range<usize>,
    /// Of the jail's.
    pub jail: Range<usize>,
}

/// Why two texts cannot be put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Apart {
    /// Both changed the same places.
    Overlaps(Vec<Overlap>),
    /// The time was up.
    Time,
}

impl fmt::Display for Apart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Apart::Overlaps(overlaps) = self else {
            return f.write_str("the lines that they share are not found in reasonable time");
        };
        f.write_str("both changed ")?;
        for (index, Overlap { host, jail }) in overlaps.iter().take(NAMED).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} of the host's and {} of the jail's", Lines(host), Lines(jail))?;
        }
        match overlaps.len().saturating_sub(NAMED) {
            0 => Ok(()),
            1 => f.write_str(", and one more place"),
            more => write!(f, ", and {more} more places"),
        }
    }
}

struct Lines<'a>(&'a Range<usize>);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = *self.0;
        match end - start {
            0 if start == 0 => f.write_str("the beginning"),
            0 => write!(f, "what was after line {start}"),
            1 => write!(f, "line {end}"),
            _ => write!(f, "lines {}-{end}", start + 1),
        }
    }
}

/// Lines of the base, and the lines of a side that took their place.
struct Edit {
    base: Range<usize>,
    side: Range<usize>,
}

/// The edits of one side, in order; two of them never touch.
fn edits(base: &[&[u8]], side: &[&[u8]], until: Instant) -> Vec<Edit> {
    let mut edits: Vec<Edit> = Vec::new();
    for op in differences(base, side, until).iter().filter(|op| op.tag() != DiffTag::Equal) {
        let (base, side) = (op.old_range(), op.new_range());
        match edits.last_mut() {
            Some(last) if last.base.end == base.start && last.side.end == side.start => {
                (last.base.end, last.side.end) = (base.end, side.end);
            }
            _ => edits.push(Edit { base, side }),
        }
    }
    edits
}

/// One side while both are walked along the base.
struct Side<'t> {
    lines: Vec<&'t [u8]>,
    edits: std::iter::Peekable<std::vec::IntoIter<Edit>>,
    /// The line up to which it is walked.
    at: usize,
}

impl<'t> Side<'t> {
    fn new(base: &[&[u8]], text: &'t [u8], until: Instant) -> Side<'t> {
        let lines = lines(text);
        let edits = edits(base, &lines, until).into_iter().peekable();
        Side { lines, edits, at: 0 }
    }

    fn next_start(&mut self) -> Option<usize> {
        self.edits.peek().map(|edit| edit.base.start)
    }
}

/// What the host's text becomes by the changes that make the jail's out of the base.
///
/// # Errors
/// Both changed one place, or the lines are not compared by `until`.
pub fn merge(base: &[u8], host: &[u8], jail: &[u8], until: Instant) -> Result<Vec<u8>, Apart> {
    let base = lines(base);
    let (mut host, mut jail) = (Side::new(&base, host, until), Side::new(&base, jail, until));
    if Instant::now() >= until {
        // What was not compared counts as replaced: more than was changed.
        return Err(Apart::Time);
    }
    let mut merged: Vec<&[u8]> = Vec::with_capacity(base.len());
    let mut overlaps = Vec::new();
    let mut at = 0;
    while let Some(start) = [host.next_start(), jail.next_start()].into_iter().flatten().min() {
        merged.extend(&base[at..start]);
        let mut end = start;
        let mut last = [None, None];
        'place: loop {
            for (side, last) in [&mut host, &mut jail].into_iter().zip(&mut last) {
                if let Some(edit) = side.edits.next_if(|edit| edit.base.start <= end) {
                    end = end.max(edit.base.end);
                    *last = Some(edit);
                    continue 'place;
                }
            }
            break;
        }
        let [of_host, of_jail] = [(&mut host, &last[0]), (&mut jail, &last[1])].map(|(side, last)| {
            let from = side.at + (start - at);
            // Behind its last edit a side has what the base has.
            side.at =
                last.as_ref().map_or(from + (end - start), |edit| edit.side.end + (end - edit.base.end));
            from..side.at
        });
        match &last {
            [_, None] => merged.extend(&host.lines[of_host]),
            [None, _] => merged.extend(&jail.lines[of_jail]),
            _ if host.lines[of_host.clone()] == jail.lines[of_jail.clone()] => {
                merged.extend(&host.lines[of_host]);
            }
            _ => overlaps.push(Overlap { host: of_host, jail: of_jail }),
        }
        at = end;
    }
    merged.extend(&base[at..]);
    if overlaps.is_empty() { Ok(merged.concat()) } else { Err(Apart::Overlaps(overlaps)) }
}

#[cfg(test)]
mod tests;
