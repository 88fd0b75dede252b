//! What a spec leaves open, weighed: `jailmk check SPEC`.
//!
//! The rows are made from the very [`Plan`] that `enter` executes: a step that is not in it leaves its layer wide
//! open here too. The points are tenths, each row has a most, and the total is their sum, at most 10: one
//! wide open door is not made good by nine that are shut.

mod dangers;
mod layers;
mod located;
mod mounts;
mod needs;

use std::fmt;

use serde::{Serialize, Serializer};

pub use needs::lacking;

use crate::caller::Caller;
use crate::jail::plan::Plan;
use crate::spec::Spec;

/// Tenths of a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Points(pub u32);

/// The most that a jail can score.
pub const MOST: Points = Points(100);

impl fmt::Display for Points {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.0 / 10, self.0 % 10))
    }
}

impl Serialize for Points {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 10.0)
    }
}

/// What one layer or one mount leaves open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The layer, or the place of the mount.
    pub name: String,
    /// How much is left open.
    pub exposure: Points,
    /// How much could be.
    pub most: Points,
    /// What was found.
    pub found: String,
    /// What would lower it, where something would.
    pub advice: Option<String>,
}

impl Row {
    fn new(name: impl Into<String>, exposure: u32, most: u32, found: impl Into<String>) -> Row {
        let (exposure, most) = (Points(exposure.min(most)), Points(most));
        Row { name: name.into(), exposure, most, found: found.into(), advice: None }
    }

    fn advice(self, advice: impl Into<String>) -> Row {
        Row { advice: Some(advice.into()), ..self }
    }
}

/// Whether this host limits the jail as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limited {
    /// By a cgroup.
    Together,
    /// By limits of each process alone.
    EachProcess,
}

/// All rows of a spec.
#[derive(Clone, Debug, Serialize)]
pub struct Exposure {
    /// The layers in the order of the plan, then the mounts.
    pub rows: Vec<Row>,
    /// Their sum, at most 10.
    pub total: Points,
    /// In a word.
    pub word: Word,
}

/// The total in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Word {
    /// Below 1: what every jail leaves open.
    Safe,
    /// Below 3: some doors, each narrow.
    Ok,
    /// Below 5: a wide door.
    Medium,
    /// From 5 on: the jail holds little back.
    Exposed,
}

impl Word {
    fn of(total: Points) -> Word {
        match total.0 {
            0..10 => Word::Safe,
            10..30 => Word::Ok,
            30..50 => Word::Medium,
            _ => Word::Exposed,
        }
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Word::Safe => "SAFE",
            Word::Ok => "OK",
            Word::Medium => "MEDIUM",
            Word::Exposed => "EXPOSED",
        })
    }
}

impl Exposure {
    /// Weighs a plan, with what of the spec is no step of it: limits, environment, what may be missing.
    pub fn of(plan: &Plan, spec: &Spec, caller: &Caller, limited: Limited) -> Exposure {
        let mut rows = layers::of_plan(plan);
        rows.extend(layers::of_spec(spec, limited));
        rows.extend(mounts::rows(plan, caller));
        let total = Points(rows.iter().map(|row| row.exposure.0).sum::<u32>()).min(MOST);
        Exposure { rows, total, word: Word::of(total) }
    }
}

impl fmt::Display for Exposure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0);
        for row in &self.rows {
            writeln!(f, "{:width$}  {:>4} of {:>3}  {}", row.name, row.exposure, row.most, row.found)?;
            if let Some(advice) = row.advice.as_ref().filter(|_| row.exposure > Points(0)) {
                writeln!(f, "{:width$}  lower it: {advice}", "")?;
            }
        }
        writeln!(f, "{:width$}  {:>4} of  10  {}", "total", self.total, self.word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_begins_where_the_manual_says() {
        for (total, word) in
            [(0, "SAFE"), (9, "SAFE"), (10, "OK"), (29, "OK"), (30, "MEDIUM"), (49, "MEDIUM")]
        {
            assert_eq!(Word::of(Points(total)).to_string(), word, "{total}");
        }
        assert_eq!(Word::of(Points(50)).to_string(), "EXPOSED");
        assert_eq!(Word::of(MOST).to_string(), "EXPOSED");
    }

    #[test]
    fn a_row_is_never_above_its_most_and_points_are_tenths() {
        let row = Row::new("x", 70, 60, "y");
        assert_eq!((row.exposure.to_string(), row.most.to_string()), ("6.0".into(), "6.0".into()));
        assert_eq!(serde_json::json!(row)["exposure"], 6.0);
    }
}
